"""How a claim ends: with a right, refused, given up, or as a try; and when a person is told that a request waits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from scene import (
    asked,
    done,
    ended,
    of,
    of_a_whole_pair,
    offer,
    offered,
    remembering,
    sent,
    trying,
    with_ack,
    with_replicas,
)

from guard.core import claiming
from guard.core.claiming import UNREAD
from guard.core.evidence import Role
from guard.core.instant import after
from guard.core.messages import Claim, Commit, InhibitView, Refused, Won
from guard.core.step import AnswerPerson, ColdWin, Note
from guard.core.turn import Attempt, DryJob, HandlerJob, Right

INHIBIT = InhibitView("x", "person", "anna", "work", 0.0)
WINNER = {"winner": "B", "basis": "verdict", "used": ("fence",)}


# ------------------------------------------------------------------ the win


def committed(**changed):
    guard, now = trying(committed=of_a_whole_pair("B")[1], **changed)
    return replace(guard, attempt=replace(guard.attempt, offer=offer(guard, now), offered=now)), now


def test_a_win_becomes_a_right_for_what_was_claimed() -> None:
    """Remembered as heard; the claim is over."""
    for cold, releasing, purpose in product((True, False), (True, False), ("fence", "alone")):
        guard, now = committed(cold=cold, releasing=releasing, purpose=purpose)
        after_it, _ = done(guard, after(now, 0.5), claiming.heard_won, Won("n", 1, 2, purpose))
        assert after_it.right == Right(
            purpose, 1, 2, now, guard.halves.connects, "a", cold, releasing, target_live=False
        )
        assert after_it.attempt is None
        assert (after_it.memory.version, after_it.memory.era, after_it.memory.won) == (2, 1, 2)
        assert after_it.version_at == after(now, 0.5)
        generations = {r.resource: r.current & claiming.MASK for r in guard.attempt.offer.candidate.replicas}
        assert after_it.memory.cold_win == (ColdWin(guard.boot_id, 1, generations) if cold else None)
        assert not after_it.memory.consented
    later, _ = done(committed()[0], now, claiming.heard_won, Won("n", 4, 2, "fence"))
    assert (later.memory.era, later.right.era) == (4, 4)


def test_a_win_that_is_no_news_moves_no_version() -> None:
    """The register's highest version and its moment are those that were learnt first."""
    guard, now = committed()
    guard = remembering(replace(guard, version_at=None), version=2)
    after_it, _ = done(guard, now, claiming.heard_won, Won("n", 1, 2, "fence"))
    assert (after_it.version_at, after_it.memory.version, after_it.right is not None) == (None, 2, True)


def test_an_uninvited_or_late_win_gives_nothing() -> None:
    """Law 2: of another nonce or purpose, before the commit, or later than T_fire after it."""
    guard, now = committed()
    won = Won("n", 1, 2, "fence")
    for spoilt, said in (
        (guard, replace(won, nonce="old")),
        (guard, replace(won, purpose="alone")),
        (replace(guard, attempt=replace(guard.attempt, committed=None)), won),
        (replace(guard, attempt=None), won),
    ):
        assert done(spoilt, now, claiming.heard_won, said) == (spoilt, ())
    for seconds, reason in ((3.0, None), (3.001, "win-too-late")):
        after_it, effects = done(guard, after(now, seconds), claiming.heard_won, won)
        assert (after_it.right is None, ended(effects)) == (reason is not None, reason)
        assert after_it.memory.version == 2


@pytest.mark.parametrize(
    ("kind", "yielded", "stopped"), [("person", True, True), ("peer-alive", True, False), ("peer-alive", False, True)]
)
def test_an_inhibit_between_commit_and_win_ends_it(kind: str, yielded: bool, stopped: bool) -> None:
    """But the target's yield ends `peer-alive`, of which this guard may have heard last."""
    guard, now = committed()
    guard = with_ack(guard, inhibits=(replace(INHIBIT, kind=kind),))
    told = replace(guard.attempt.offer, target_yielded=yielded)
    guard = replace(guard, attempt=replace(guard.attempt, offer=told))
    after_it, effects = done(guard, now, claiming.heard_won, Won("n", 1, 2, "fence"))
    assert (after_it.right is None) is stopped
    assert ended(effects) == (None if not stopped else "peer-alive" if kind == "peer-alive" else "inhibited")


@pytest.mark.parametrize(("releasing", "cold"), [(True, False), (False, True), (False, False)])
def test_while_a_hold_is_released_a_win_to_run_alone_is_for_the_release_or_a_cold_start(releasing, cold) -> None:
    """As before the commit."""
    guard, now = committed(purpose="alone", releasing=releasing, cold=cold)
    guard = remembering(with_replicas(guard, role=Role.SECONDARY), holding=True)
    after_it, _ = done(guard, now, claiming.heard_won, Won("n", 1, 2, "alone"))
    assert (after_it.right is not None) is (releasing or cold)


@pytest.mark.parametrize(
    ("fresh", "yielded", "unfit", "releasing"),
    [*product(("live", "silent"), (True, False), (True, False), (True, False))],
)
def test_a_target_that_stepped_back_is_not_one_that_lives_on(fresh, yielded, unfit, releasing) -> None:
    """Yielded and unfit: the release lifts the hold over it, and remembers the consent."""
    guard, now = committed(purpose="alone", releasing=releasing)
    told = replace(guard.attempt.offer, fresh=fresh, target_yielded=yielded)
    told = replace(told, target=replace(told.target, unfit=unfit))
    guard = replace(guard, attempt=replace(guard.attempt, offer=told))
    after_it, _ = done(guard, now, claiming.heard_won, Won("n", 1, 2, "alone"))
    assert after_it.right.target_live is (fresh == "live" and not (yielded and unfit))
    assert after_it.memory.consented is (releasing and yielded and unfit)


def test_a_primary_that_is_being_released_does_not_fence() -> None:
    """S5: going on alone is no promotion; a fence is a fence."""
    for purpose, right in (("fence", False), ("alone", True)):
        guard, now = committed(purpose=purpose)
        guard = remembering(with_replicas(guard, role=Role.PRIMARY), holding=True)
        after_it, _ = done(guard, now, claiming.heard_won, Won("n", 1, 2, purpose))
        assert (after_it.right is not None) is right


# ------------------------------------------------------------------ the end of a claim


@pytest.mark.parametrize("nonce", ["n", "old"])
def test_a_refusal_ends_the_claim_that_it_names(nonce: str) -> None:
    """Its words go to whoever waits."""
    guard, now = trying()
    other = replace(guard.agents[0], id="b")
    handlers = (HandlerJob("h", "r0", now, 1, tries=2), HandlerJob("a", "r0", now, 1, tries=2))
    guard = replace(guard, agents=(*guard.agents, other), handlers=handlers)
    after_it, effects = done(guard, now, claiming.heard_refused, Refused(nonce, "inhibited", "anna works"))
    assert ended(effects) == ("inhibited" if nonce == "n" else None)
    assert [j.said for j in after_it.agents] == (["anna works", ""] if nonce == "n" else ["", ""])
    assert [(h.said, h.tries, h.retry is None) for h in after_it.handlers] == [
        ("", 2, True),
        ("anna works", 3, False) if nonce == "n" else ("", 2, True),
    ]
    assert after_it.agents[1] == other
    assert done(replace(guard, attempt=None), now, claiming.heard_refused, Refused("n", "x", "y"))[1] == ()


@pytest.mark.parametrize("had_offer", [True, False])
def test_a_dry_claim_answers_the_person_who_tried(had_offer: bool) -> None:
    """With the record of its own verdict, if there was one; nothing is retried, and other tries wait on."""
    guard, now = trying(dry=True, job="d")
    if had_offer:
        guard = replace(guard, attempt=replace(guard.attempt, offer=offer(guard, now), offered=now))
    jobs = (DryJob("d", "fence", now), DryJob("d2", "fence", now))
    guard = replace(guard, dry=jobs, last_dry={"row": "V32"})
    after_it, effects = done(guard, now, claiming.drop, "a-reason", "a text")
    assert of(effects, AnswerPerson) == [AnswerPerson("d", "a-reason", "a text", {"row": "V32"} if had_offer else {})]
    assert (after_it.attempt, after_it.dry) == (None, jobs[1:])
    assert after_it.agents == guard.agents
    judged, effects = offered(trying(dry=True, job="d")[0], now)
    assert (judged.last_dry["row"], judged.last_verdict, sent(effects, Commit)) == ("V32", guard.last_verdict, [])
    [told] = of(effects, AnswerPerson)
    assert told.outcome == "all-acknowledged-is-here"
    assert told.text == judged.last_dry["text"]
    _, effects = offered(trying(dry=True, job="d")[0], now, register=WINNER)
    assert [a.outcome for a in of(effects, AnswerPerson)] == ["winner-us"]


@pytest.mark.parametrize(
    ("verdict", "page"), [("PERSON", {"person"}), ("PREFER_T", {"prefer-peer"}), ("CONSENT", set())]
)
def test_a_verdict_that_only_a_person_can_answer_is_paged(verdict: str, page: set[str]) -> None:
    """For a request of the cluster, and where the verdict itself ended the claim."""
    for job, reason in product(("a", None), ("r", "another")):
        guard, now = trying(job=job)
        guard = replace(guard, last_verdict={"verdict": verdict, "reason": "r"})
        after_it, _ = done(guard, now, claiming.drop, reason, "why")
        assert after_it.paged == (page if job == "a" and reason == "r" else set())


TIMES = [  # what is under way, how long it may take, why it ends
    ({}, 3.0, "no-answer"),
    ({"want_yield": True}, 11.0, "no-answer"),
    ({"offer": True}, 2.0, "offer-passed"),
    ({"offer": True, "committed": True}, 3.0, "no-answer"),
]


@pytest.mark.parametrize(("state", "most_s", "reason"), TIMES)
def test_a_claim_that_nobody_answers_is_given_up(state: dict, most_s: float, reason: str) -> None:
    """Each step in its own time; a yield takes longer, since writes are suspended first."""
    for seconds, stands in ((most_s, True), (most_s + 0.001, False)):
        guard, now = trying(want_yield="want_yield" in state)
        then = after(now, -seconds)
        made = offer(guard, now) if "offer" in state else None
        attempt = replace(guard.attempt, sent=then, offer=made, offered=then if made else None)
        guard = replace(guard, attempt=replace(attempt, committed=then if "committed" in state else None))
        after_it, effects = done(guard, now, claiming.time_out)
        assert (after_it.attempt is not None, ended(effects)) == (stands, None if stands else reason)
    assert done(replace(guard, attempt=None), now, claiming.time_out)[1] == ()


# ------------------------------------------------------------------ pages


@pytest.mark.parametrize(("since_s", "paged"), [(10.0, True), (9.999, False)])
def test_a_request_that_waits_10_s_for_what_a_person_may_mend_is_paged(since_s: float, paged: bool) -> None:
    """Once; the page ends with the request, and with what it waited for."""
    guard, now = asked(since=after(of_a_whole_pair("B")[1], -since_s))
    silent = replace(guard, acked=None)
    after_it, effects = done(silent, now, claiming.tell_person)
    assert after_it.paged == ({"arbiter-silent"} if paged else set())
    assert [(n.event, n.page) for n in of(effects, Note)] == [("arbiter-silent", True)] * paged
    told = replace(silent, paged=frozenset({"arbiter-silent", "drbd-unread", "other"}))
    assert done(told, now, claiming.tell_person)[0].paged == ({"arbiter-silent", "other"} if paged else {"other"})
    assert done(replace(told, agents=()), now, claiming.tell_person)[0].paged == {"other"}
    assert done(with_ack(guard, inhibits=(replace(INHIBIT, kind="peer-alive"),)), now, claiming.tell_person)[
        0
    ].paged == ({"peer-alive"} if paged else set())
    assert done(with_ack(guard, inhibits=(INHIBIT,)), now, claiming.tell_person)[0].paged == set()
    shooting = replace(silent, agents=(replace(silent.agents[0], stage="firing"),))
    assert done(shooting, now, claiming.tell_person)[0].paged == set()


def test_each_request_is_paged_for_what_stops_it() -> None:
    """A fence of the node that sat waits under `peer-alive`, to run alone not; a young request hides no old one."""
    guard, now = asked(since=after(of_a_whole_pair("B")[1], -10.0))
    alive = with_ack(guard, inhibits=(replace(INHIBIT, kind="peer-alive"),))
    alive = remembering(alive, session=replace(guard.memory.session, primary=True))
    assert done(alive, now, claiming.tell_person)[0].paged == {"peer-alive"}
    handler = HandlerJob("h", "r0", after(now, -11.0), 1)
    seen = replace(alive.volumes, at=after(now, -5.0))
    alone = replace(alive, agents=(), handlers=(handler,), volumes=seen)
    assert done(alone, now, claiming.tell_person)[0].paged == set()
    young = replace(guard.agents[0], id="b", since=now)
    both = replace(alive, agents=(young, *guard.agents))
    assert done(both, now, claiming.tell_person)[0].paged == {"peer-alive"}


def test_a_handler_that_waits_for_drbd_to_be_read_is_paged() -> None:
    """What it waits for is named; seen since, it is not."""
    guard, now = asked()
    for seen, page in ((False, {"drbd-unread"}), (True, set())):
        job = HandlerJob("h", "r0", after(now, -11.0), 1)
        volumes = replace(guard.volumes, at=after(now, -5.0 if seen else -12.0))
        after_it, effects = done(replace(guard, agents=(), handlers=(job,), volumes=volumes), now, claiming.tell_person)
        assert after_it.paged == page
        assert all(UNREAD in n.text for n in of(effects, Note))


TRIED_UNDER = {
    None: lambda g: g,
    "inhibited": lambda g: with_ack(g, inhibits=(INHIBIT,)),
    "peer-alive": lambda g: with_ack(g, inhibits=(replace(INHIBIT, kind="peer-alive"),)),
    "holding": lambda g: remembering(g, holding=True),
    "journal": lambda g: replace(g, journal_ok=False),
    "no-register": lambda g: with_ack(g, register=None),
    "target-is-member": lambda g: replace(g, members=replace(g.members, peer_member=True)),
}


@pytest.mark.parametrize("reason", TRIED_UNDER)
def test_a_try_claims_like_a_real_one_also_under_a_hold(reason: str | None) -> None:
    """`pairguard verdict`: the first of those that wait, unless there is nothing to try; then its person is told."""
    guard, now = asked()
    guard = TRIED_UNDER[reason](guard)
    jobs = (DryJob("d", "fence", now), DryJob("d2", "alone", now))
    after_it, effects = done(replace(guard, dry=jobs), now, claiming.dry_runs)
    if reason in ("journal", "no-register", "target-is-member"):
        [answer] = of(effects, AnswerPerson)
        assert (answer.id, answer.outcome) == ("d", reason)
        assert answer.text
        assert (after_it.dry, after_it.attempt) == (jobs[1:], None)
    else:
        [claim] = sent(effects, Claim)
        assert (claim.purpose, after_it.attempt.job, after_it.attempt.dry) == ("fence", "d", True)
        assert after_it.dry == jobs
    for idle in (guard, replace(guard, dry=jobs, attempt=Attempt("n", "fence", "a", now))):
        assert done(idle, now, claiming.dry_runs) == (idle, ())
