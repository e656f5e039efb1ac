"""The target's side of a claim, rule by rule: who may yield to what, what is said when, and what makes it void."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from scene import done, intent, of, of_a_whole_pair, remembering, with_ack, with_register, with_replicas

from guard.core import yielding
from guard.core.attesting import evidence
from guard.core.evidence import Link, Role
from guard.core.evidence import Suspended as Suspension
from guard.core.instant import after
from guard.core.messages import Answer, Ask, AskNonce, InhibitView, NonceIs
from guard.core.step import Promise, ResumeWrites, Send, Suspended, SuspendWrites
from guard.core.turn import AgentJob, Attempt, Right, Turn, session

UNFIT_S = 11.0


def secondary():
    """B, secondary and fit, in a whole pair."""
    return of_a_whole_pair("B")


def unfit(name: str = "B"):
    """Its own cluster has been gone for 11 s."""
    guard, now = of_a_whole_pair(name)
    return replace(guard, cluster_lost=after(now, -UNFIT_S)), now


def promised(name: str = "B", **changed):
    """It yielded to `n` in this session, as a secondary."""
    guard, now = of_a_whole_pair(name)
    made = replace(Promise("n", 1, session(guard), False, guard.boot_id), **changed)
    return remembering(guard, promise=made, suspended=True), now


def answers(effects) -> list[tuple[str, bool]]:
    return [(s.message.nonce, s.message.yielded) for s in of(effects, Send) if isinstance(s.message, Answer)]


def suspends(effects) -> list[str]:
    return [s.nonce for s in of(effects, SuspendWrites)]


# ------------------------------------------------------------------ being asked


def test_an_answer_is_this_nodes_testimony_and_dies_soon() -> None:
    """For a second: a late one is of another moment. Only what the peer claims is answered."""
    guard, now = secondary()
    _, effects = done(guard, now, yielding.heard_ask, Ask("n", "A", "fence", False))
    [send] = of(effects, Send)
    quiet = guard.network.quiet_for_s(now)
    assert send == Send("arbiter", Answer("n", evidence(Turn(guard, now)), False, quiet), 1.0)
    assert done(guard, now, yielding.heard_ask, Ask("n", "B", "fence", True)) == (guard, ())


@pytest.mark.parametrize(("want", "purpose", "fit"), [*product((True, False), ("alone", "fence"), (True, False))])
def test_a_yield_suspends_writes_before_it_is_said(want: bool, purpose: str, fit: bool) -> None:
    """Law 1: durable that our own suspension may be in force; nothing is answered until it was read back."""
    guard, now = secondary() if fit else unfit()
    after_it, effects = done(guard, now, yielding.heard_ask, Ask("n", "A", purpose, want))
    if want and (purpose == "alone" or not fit):
        assert (suspends(effects), answers(effects)) == (["n"], [])
        assert (after_it.yielding, after_it.memory.suspended, after_it.memory.promise) == ("n", True, None)
    else:
        assert (suspends(effects), answers(effects)) == ([], [("n", False)])
        assert after_it == guard


def agent(now, stage: str) -> AgentJob:
    return AgentJob("a", "off", "A", now, after(now, 60.0), stage)  # type: ignore[arg-type]


AGAINST = {
    "a claim of its own": lambda g, now: replace(g, attempt=Attempt("m", "alone", None, now)),
    "a right of its own": lambda g, now: replace(g, right=Right("alone", 1, 2, now, 1)),
    "it is yielding": lambda g, now: replace(g, yielding="m"),
    "it has read no register": lambda g, now: with_ack(g, register=None),
    "the arbiter never spoke": lambda g, now: replace(g, ack=None),
    "another store": lambda g, now: replace(g, store_doubted=True),
    "it won": lambda g, now: with_register(g, winner="B"),
    "it used a win": lambda g, now: remembering(g, used=("alone",)),
    "its agent shoots": lambda g, now: replace(g, agents=(agent(now, "armed"),)),
    "a shot has not drained": lambda g, now: remembering(g, intents=(intent(now, spawned=True),)),
    "a shot drains later": lambda g, now: remembering(g, intents=(intent(now, spawned=True, drained=after(now, 0.1)),)),
}


@pytest.mark.parametrize("why", AGAINST)
def test_who_may_act_itself_does_not_yield(why: str) -> None:
    """S1, S3: not to run alone, and not to a fence."""
    for guard, now in (secondary(), unfit()):
        spoilt = AGAINST[why](guard, now)
        for purpose in ("alone", "fence"):
            assert not yielding._may_yield(Turn(spoilt, now), purpose)
            assert answers(done(spoilt, now, yielding.heard_ask, Ask("n", "A", purpose, True))[1]) == [("n", False)]


def test_what_does_not_keep_a_node_from_yielding() -> None:
    """An agent that only waits, a shot that has drained, a register that the peer won."""
    guard, now = secondary()
    for harmless in (
        replace(guard, agents=(agent(now, "wait"),)),
        remembering(guard, intents=(intent(now, spawned=True, drained=now),)),
        with_register(guard, winner="A"),
    ):
        assert yielding._may_yield(Turn(harmless, now), "alone")


@pytest.mark.parametrize(("role", "fit"), [*product(Role, (True, False))])
def test_a_fit_node_yields_to_alone_if_it_is_surely_primary_of_nothing(role: Role, fit: bool) -> None:
    """An unfit one whatever it is; to a fence only an unfit one."""
    guard, now = secondary() if fit else unfit()
    turn = Turn(with_replicas(guard, role=role), now)
    assert yielding._may_yield(turn, "alone") is (not fit or role is Role.SECONDARY)
    assert yielding._may_yield(turn, "fence") is not fit


@pytest.mark.parametrize("kind", ["person", "change", "disturbance", "redundancy", "storm", "peer-alive"])
def test_under_a_hold_a_node_yields_to_no_fence(kind: str) -> None:
    """Only `peer-alive` is ended by it; to run alone it may."""
    guard, now = unfit()
    alone = InhibitView("y", "peer-alive", "A", "x", 0.0)
    held = with_ack(guard, inhibits=(alone, InhibitView("x", kind, "A", "x", 0.0)))  # type: ignore[arg-type]
    assert yielding._may_yield(Turn(held, now), "fence") is (kind == "peer-alive")
    assert yielding._may_yield(Turn(held, now), "alone")


# ------------------------------------------------------------------ one promise at a time


@pytest.mark.parametrize(("nonce", "want"), [*product(("n", "m"), (True, False))])
def test_a_promise_answers_for_its_own_nonce_only(nonce: str, want: bool) -> None:
    """And only where a yield is asked for; nothing else is promised beside it."""
    guard, now = promised()
    after_it, effects = done(guard, now, yielding.heard_ask, Ask(nonce, "A", "alone", want))
    assert answers(effects) == [(nonce, want and nonce == "n")]
    assert (suspends(effects), after_it) == ([], guard)


REPEATED = {  # how the promise stands: may another nonce be promised?
    "no winner": (lambda g: g, False),
    "the peer won its era": (lambda g: with_register(g, winner="A"), True),
    "the peer won another era": (lambda g: with_register(g, winner="A", era=2), False),
    "this node won": (lambda g: with_register(g, winner="B"), False),
    "void": (lambda g: replace(g, voided="n"), True),
    "another one was void": (lambda g: replace(g, voided="m"), False),
    "void, another store": (lambda g: replace(g, voided="n", store_doubted=True), False),
    "void, no register": (lambda g: with_ack(replace(g, voided="n"), register=None), False),
    "void, the arbiter never spoke": (lambda g: replace(g, voided="n", ack=None), False),
}


@pytest.mark.parametrize("how", REPEATED)
def test_a_promise_is_given_again_once_nobody_counts_on_it(how: str) -> None:
    """Law 2: to another nonce, as to a fence, and only if that is asked for."""
    state, again = REPEATED[how]
    guard, now = promised()
    broken = state(replace(guard, cluster_lost=after(now, -UNFIT_S)))
    fit = state(guard)
    assert yielding._may_repeat(fit, guard.memory.promise) is again
    _, effects = done(broken, now, yielding.heard_ask, Ask("m", "A", "alone", True))
    assert (suspends(effects), answers(effects)) == ((["m"], []) if again else ([], [("m", False)]))
    assert suspends(done(fit, now, yielding.heard_ask, Ask("m", "A", "alone", True))[1]) == [], "as to a fence"
    assert answers(done(broken, now, yielding.heard_ask, Ask("m", "A", "alone", False))[1]) == [("m", False)]
    assert answers(done(broken, now, yielding.heard_ask, Ask("n", "A", "alone", True))[1]) == [("n", True)]


# ------------------------------------------------------------------ suspended, and let go


@pytest.mark.parametrize(("name", "done_"), [*product("AB", (True, False))])
def test_what_was_suspended_is_promised_and_then_said(name: str, done_: bool) -> None:
    """With the session and the role at that moment; what was not read back is promised to nobody."""
    guard, now = of_a_whole_pair(name)
    guard = remembering(replace(guard, yielding="n"), era=7)
    after_it, effects = done(guard, now, yielding.suspended, Suspended("n", done_))
    made = Promise("n", 7, session(guard), name == "A", guard.boot_id)
    assert after_it.memory.promise == (made if done_ else None)
    assert after_it.yielding is None
    assert answers(effects) == [("n", done_)]
    assert done(guard, now, yielding.suspended, Suspended("m", True)) == (guard, ())


def test_a_promise_that_is_said_once_more_stays_of_its_first_moment() -> None:
    """The break came after that: what was true when writes stopped is what counts."""
    guard, now = promised(session="old", primary=True, boot_id="old")
    guard = replace(guard, yielding="m")
    after_it, _ = done(guard, now, yielding.suspended, Suspended("m", True))
    assert after_it.memory.promise == replace(guard.memory.promise, nonce="m")


def test_a_resume_is_forgotten_once_it_was_read_back() -> None:
    """Not while a promise stands, and not while the next one is on its way."""
    guard, now = promised()
    free = remembering(guard, promise=None)
    for state, read_back, left in (
        (free, True, False),
        (free, False, True),
        (guard, True, True),
        (replace(free, yielding="m"), True, True),
    ):
        assert done(state, now, yielding.resumed, read_back)[0].memory.suspended is left


@pytest.mark.parametrize(
    ("role", "link", "resumes"),
    [
        (Role.PRIMARY, Link.CONNECTED, True),
        (Role.PRIMARY, Link.CONNECTING, False),
        (Role.SECONDARY, Link.CONNECTING, True),
    ],
)
def test_what_is_left_suspended_is_resumed_every_second_but_for_a_cut_primary(role, link, resumes) -> None:
    """S3: `resume-io` would also thaw what fencing froze."""
    guard, now = promised()
    free = with_replicas(remembering(guard, promise=None), role=role, link=link)
    first, effects = done(free, now, yielding.ask_promise)
    assert len(of(effects, ResumeWrites)) == resumes
    assert ("resume" in first.due) is resumes
    assert of(done(first, after(now, 0.999), yielding.ask_promise)[1], ResumeWrites) == []
    assert len(of(done(first, after(now, 1.0), yielding.ask_promise)[1], ResumeWrites)) == resumes
    for idle in (remembering(free, suspended=False), replace(free, yielding="m"), replace(free, volumes=None)):
        assert done(idle, now, yielding.ask_promise)[1] == ()


def test_what_became_of_the_claim_is_asked_every_second() -> None:
    """By the promise's own nonce and era; each question has one of its own."""
    guard, now = promised(era=3)
    guard = with_replicas(guard, suspended=frozenset({Suspension.USER}))
    first, effects = done(guard, now, yielding.ask_promise)
    [send] = of(effects, Send)
    assert (send.to, send.message, send.expires_s) == ("arbiter", AskNonce(send.message.nonce, "n", 3), 1.0)
    assert len(send.message.nonce) == 32
    assert suspends(effects) == []
    assert "ask-nonce" in first.due
    assert of(done(first, after(now, 0.999), yielding.ask_promise)[1], Send) == []
    assert len(of(done(first, after(now, 1.0), yielding.ask_promise)[1], Send)) == 1


@pytest.mark.parametrize(
    ("suspended", "link", "again"),
    [
        (frozenset({Suspension.USER}), Link.CONNECTED, False),
        (frozenset(), Link.CONNECTED, True),
        (None, Link.CONNECTED, True),
        (frozenset(), Link.DOWN, False),
        (None, Link.DOWN, False),
    ],
)
def test_while_a_promise_stands_what_may_write_is_suspended(suspended, link, again) -> None:
    """After a boot, or once it comes up; every second until it was read back."""
    guard, now = promised()
    first, effects = done(with_replicas(guard, suspended=suspended, link=link), now, yielding.ask_promise)
    assert suspends(effects) == ["n"] * again
    assert ("suspend" in first.due) is again
    assert suspends(done(first, after(now, 0.999), yielding.ask_promise)[1]) == []
    assert suspends(done(first, after(now, 1.0), yielding.ask_promise)[1]) == ["n"] * again
    assert suspends(done(replace(guard, volumes=None), now, yielding.ask_promise)[1]) == []


# ------------------------------------------------------------------ void

VOID = ("closed-without-winner", "winner-you", "era-closed")


@pytest.mark.parametrize("state", [*VOID, "open", "winner-peer"])
def test_a_promise_is_void_by_the_arbiters_word_of_its_own_nonce(state: str) -> None:
    """Then writes are let go at once, and the page about it ends."""
    guard, now = promised()
    guard = replace(guard, due={"resume": after(now, 60.0)}, paged=frozenset({"resume-needs-person", "other"}))
    after_it, effects = done(guard, now, yielding.heard_nonce, NonceIs("q", "n", state))
    if state in VOID:
        assert (after_it.memory.promise, after_it.memory.suspended) == (None, True)
        assert of(effects, ResumeWrites) == [ResumeWrites()]
        assert after_it.paged == {"other"}
    else:
        assert (after_it, effects) == (guard, ())
    assert done(guard, now, yielding.heard_nonce, NonceIs("n", "m", state)) == (guard, ())
    free = remembering(guard, promise=None)
    assert done(free, now, yielding.heard_nonce, NonceIs("q", "n", state)) == (free, ())


TRAPS = {  # role now, link, what the promise was made as: is a person needed?
    "a primary that stayed connected": (Role.PRIMARY, Link.CONNECTED, {"primary": True}, False),
    "a primary whose replication broke and is back": (
        Role.PRIMARY,
        Link.CONNECTED,
        {"primary": True, "session": "old"},
        True,
    ),
    "a primary that is cut": (Role.PRIMARY, Link.CONNECTING, {"primary": True}, True),
    "cut since it was demoted": (Role.SECONDARY, Link.CONNECTING, {"primary": True}, True),
    "a secondary that is cut": (Role.SECONDARY, Link.CONNECTING, {}, False),
    "a secondary of another session": (Role.SECONDARY, Link.CONNECTED, {"session": "old"}, False),
    "a primary before a boot": (Role.SECONDARY, Link.CONNECTING, {"primary": True, "boot_id": "old"}, False),
    "promoted since, and cut": (Role.PRIMARY, Link.CONNECTING, {}, True),
}


@pytest.mark.parametrize("what", TRAPS)
def test_what_broke_while_suspended_is_not_resumed_by_a_void_promise(what: str) -> None:
    """Measured trap: it would make a generation that the peer does not have; the promise stays, a person is told."""
    role, link, made, person = TRAPS[what]
    guard, now = promised(**made)
    guard = with_replicas(guard, role=role, link=link)
    after_it, effects = done(guard, now, yielding.heard_nonce, NonceIs("q", "n", "era-closed"))
    assert after_it.memory.promise == (guard.memory.promise if person else None)
    assert after_it.voided == ("n" if person else None)
    assert ("resume-needs-person" in after_it.paged) is person
    assert len(of(effects, ResumeWrites)) == (not person)
    unread = replace(guard, volumes=None)
    assert done(unread, now, yielding.heard_nonce, NonceIs("q", "n", "era-closed"))[0].voided == "n"
