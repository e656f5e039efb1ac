"""One call of DRBD's fence-peer handler, step by step: which code it gets, when, and what is waited for until then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import done, ended, of, of_a_whole_pair, remembering, with_ack, with_register, with_replicas

from guard.core import shot
from guard.core.evidence import Link, Role, Sign, SignKind
from guard.core.instant import after
from guard.core.messages import Claim, InhibitView, LiftInhibit
from guard.core.step import AnswerHandler, Bar, Progress, ReadVolumes, Send, Unblock
from guard.core.turn import Attempt, HandlerJob, Right

PERSON = InhibitView("x", "person", "A", "a rebuild", 0.0)


def asked(
    ago_s: float = 2.0, *, seen_s: float = 1.0, link: Link = Link.CONNECTING, role: Role = Role.PRIMARY, **changed
):
    """A, cut from B; its handler asked `ago_s` ago, and DRBD was read `seen_s` ago."""
    guard, now = of_a_whole_pair("A")
    guard = with_replicas(guard, link=link, role=role)
    job = HandlerJob("h", "r0", after(now, -ago_s), guard.halves.connects, **changed)
    return replace(
        guard,
        volumes=replace(guard.volumes, at=after(now, -seen_s)),
        members=replace(guard.members, peer_member=False),
        acked=now,
        whole_since=None,
        handlers=(job,),
    ), now


def unseen(ago_s: float = 1.0, **changed):
    """DRBD was read last when its handler asked, not since."""
    return asked(ago_s, seen_s=ago_s, **changed)


def answers(guard, now) -> list[tuple[int, str]]:
    said = of(done(guard, now, shot.advance)[1], AnswerHandler)
    assert all(a.id == "h" for a in said)
    return [(a.code, a.reason) for a in said]


def claims(effects) -> list[Claim]:
    return [s.message for s in of(effects, Send) if isinstance(s.message, Claim)]


def with_right(guard, now, **changed):
    return replace(guard, right=replace(Right("alone", 1, 2, now, guard.halves.connects, job="h"), **changed))


# ------------------------------------------------------------------ what it is answered without a right


def test_a_resource_that_drbd_does_not_know_is_answered_at_once() -> None:
    """One that was never read at all is waited for."""
    guard, now = asked()
    assert answers(replace(guard, handlers=(replace(guard.handlers[0], resource="r9"),)), now) == [
        (1, "unknown-resource")
    ]
    assert answers(replace(guard, volumes=None), now) == []


@pytest.mark.parametrize("link", Link)
def test_a_link_that_stands_since_the_question_is_answered_after_a_second(link: Link) -> None:
    """DRBD is given that long to say what became of it; on an older look, or a broken link, nothing is concluded."""
    stands = [(1, "reconnected")] * (link in (Link.CONNECTED, Link.RESYNC))
    assert answers(*asked(1.001, seen_s=0.5, link=link)) == stands
    assert answers(*asked(1.0, seen_s=0.5, link=link)) == []
    assert answers(*unseen(5.0, link=link)) == []


@pytest.mark.parametrize("role", Role)
def test_a_node_that_is_being_promoted_learns_that_the_peer_runs_alone(role: Role) -> None:
    """6 only where the peer won and used it to run alone; a primary, or a role that cannot be read, waits on."""
    for winner, used in (
        ("B", ("alone",)),
        ("B", ("alone", "fence")),
        ("B", ("fence",)),
        (None, ()),
        ("A", ("alone",)),
    ):
        guard, now = asked(role=role)
        told = role is Role.SECONDARY and winner == "B" and "alone" in used
        assert answers(with_register(guard, winner=winner, used=used), now) == [(6, "peer-won")] * told
    assert answers(replace(guard, ack=None), now) == []


@pytest.mark.parametrize("role", Role)
def test_a_promotion_gives_up_after_15_s(role: Role) -> None:
    """Before Pacemaker's own time; a frozen primary is never given up."""
    for ago_s, over in ((15.0, True), (14.999, False)):
        said = [(1, "no-right-in-time")] * (over and role is Role.SECONDARY)
        assert answers(*asked(ago_s, role=role)) == said


# ------------------------------------------------------------------ what it waits for


def test_a_handler_claims_to_run_alone() -> None:
    """Once its retry has come, beside no other claim, while the link is down."""
    guard, now = asked()
    after_it, effects = done(guard, now, shot.advance)
    [claim] = claims(effects)
    assert (claim.purpose, claim.want_yield, claim.off_twice, claim.cold) == ("alone", False, False, False)
    assert (after_it.attempt.nonce, after_it.attempt.job) == (claim.nonce, "h")
    for changed, goes in (
        ({"handlers": (replace(guard.handlers[0], retry=now),)}, 1),
        ({"handlers": (replace(guard.handlers[0], retry=after(now, 0.001)),)}, 0),
        ({"attempt": Attempt("n", "fence", "a", now)}, 0),
    ):
        assert len(claims(done(replace(guard, **changed), now, shot.advance)[1])) == goes
    assert claims(done(*asked(link=Link.CONNECTED, ago_s=0.5, seen_s=0.1), shot.advance)[1]) == []


@pytest.mark.parametrize(("ago_s", "waits"), [(1.999, False), (2.0, True), (10.0, True)])
def test_drbd_that_cannot_be_read_for_2_s_is_what_it_waits_for(ago_s: float, waits: bool) -> None:
    """Said once; nothing is claimed on an older look meanwhile."""
    guard, now = unseen(ago_s)
    after_it, effects = done(guard, now, shot.advance)
    assert [p.id for p in of(effects, Progress)] == ["h"] * waits
    assert len(claims(effects)) == (not waits)
    assert bool(after_it.handlers[0].said) is waits
    assert of(done(after_it, now, shot.advance)[1], Progress) == []


def test_drbd_is_read_anew_while_any_handler_waits_for_a_look() -> None:
    """At once, then every half second."""
    guard, now = asked()
    assert of(done(guard, now, shot.advance)[1], ReadVolumes) == []
    late = replace(guard.handlers[0], id="h2", since=now)
    after_it, effects = done(replace(guard, handlers=(*guard.handlers, late)), now, shot.advance)
    assert of(effects, ReadVolumes) == [ReadVolumes()]
    assert "look" in after_it.due
    assert of(done(after_it, after(now, 0.499), shot.advance)[1], ReadVolumes) == []
    assert of(done(after_it, after(now, 0.5), shot.advance)[1], ReadVolumes) == [ReadVolumes()]


@pytest.mark.parametrize(("ago_s", "flapping", "goes"), [(4.999, True, False), (5.0, True, True), (4.999, False, True)])
def test_flapping_replication_is_given_5_s_to_come_back(ago_s: float, flapping: bool, goes: bool) -> None:
    """Each claim of a link that is about to return costs the peer its session."""
    guard, now = asked(ago_s)
    if flapping:
        sign = Sign(SignKind.REPLICATION_FLAP, "drbd", now, "r0 broke three times")
        guard = replace(guard, network=replace(guard.network, recent=(sign,)))
    _, effects = done(guard, now, shot.advance)
    assert len(claims(effects)) == goes
    assert len(of(effects, Progress)) == (not goes)


RETRIES = [(0, 1.0), (1, 2.0), (3, 8.0), (4, 15.0), (9, 15.0)]


@pytest.mark.parametrize(("tries", "most_s"), RETRIES)
def test_an_obstacle_is_said_and_asked_again_later_each_time(tries: int, most_s: float) -> None:
    """Drawn between 0.2 s and a bound that doubles up to 15 s; a silent arbiter is asked again in half a second."""
    guard, now = asked(tries=tries)
    other = replace(guard.handlers[0], id="h2", retry=after(now, 60.0))
    guard = replace(guard, handlers=(*guard.handlers, other))
    drawn = set()
    for seed in map(str, range(40)):
        held = with_ack(replace(guard, seed=seed), inhibits=(PERSON,))
        after_it, effects = done(held, now, shot.advance)
        assert of(effects, Progress) == [Progress("h", "A: a rebuild")]
        job, kept = after_it.handlers
        assert kept == other
        assert job.said == "A: a rebuild"
        drawn.add((job.retry - now) / 1e9)
    assert 0.2 <= min(drawn) < max(drawn) <= most_s
    assert max(drawn) > 0.7 * most_s
    assert min(drawn) < 0.2 + 0.3 * most_s
    patient = replace(guard.policy, handler_retry_s_max=100.0)
    for seed in map(str, range(40)):
        held = with_ack(replace(guard, policy=patient, seed=seed), inhibits=(PERSON,))
        retry = done(held, now, shot.advance)[0].handlers[0].retry
        assert retry <= after(now, 16.0), "doubled four times at most"
    silent, _ = done(replace(guard, acked=None), now, shot.advance)
    assert silent.handlers[0].retry == after(now, 0.5)


# ------------------------------------------------------------------ a claim of its own, and its right


@pytest.mark.parametrize(
    ("seen", "link", "stands"),
    [(True, Link.CONNECTED, False), (True, Link.CONNECTING, True), (False, Link.CONNECTED, True)],
)
def test_its_claim_is_dropped_once_the_link_is_seen_to_be_back(seen: bool, link: Link, stands: bool) -> None:
    """What was judged is over; on an older look it goes on."""
    guard, now = asked(0.9, seen_s=0.1, link=link) if seen else unseen(0.9, link=link)
    guard = replace(guard, attempt=Attempt("n", "alone", "h", now, guard.halves.connects))
    after_it, effects = done(guard, now, shot.advance)
    assert (after_it.attempt is not None) is stands
    assert ended(effects) == (None if stands else "reconnected")
    assert (after_it.handlers[0].tries, after_it.handlers[0].retry is None) == (0 if stands else 1, stands)


@pytest.mark.parametrize("off", [False, True])
def test_a_right_answers_4_and_7_once_the_peer_is_known_to_be_off(off: bool) -> None:
    """The use is remembered and the peer constrained before DRBD hears of it."""
    guard, now = asked()
    guard = with_right(remembering(guard, confirmed_off=off), now)
    after_it, effects = done(guard, now, shot.advance)
    assert [(a.id, a.code, a.reason) for a in of(effects, AnswerHandler)] == [
        ("h", 7 if off else 4, "right-to-run-alone")
    ]
    assert of(effects, Bar) == [Bar("B", on=True)]
    assert after_it.memory.used == ("alone",)
    assert (after_it.handlers, after_it.right) == ((), None)


def test_a_right_goes_on_to_the_next_handler_of_the_same_disconnection() -> None:
    """Each resource calls its own; one of another disconnection asks anew."""
    guard, now = asked()
    [job] = guard.handlers
    for connects, codes in ((job.connects, [4, 4]), (job.connects + 1, [4])):
        more = replace(guard, handlers=(job, replace(job, id="h2", connects=connects)))
        _, effects = done(with_right(more, now), now, shot.advance)
        assert [a.code for a in of(effects, AnswerHandler)] == codes


def test_a_right_that_does_not_fit_is_not_used() -> None:
    """Of another disconnection, or the link is back: it ends. Not seen since: it waits. Of another purpose or request:
    it is none of its business."""
    for (guard, now), changed, kept in (
        (asked(), {"connects": 99}, False),
        (asked(0.9, seen_s=0.1, link=Link.CONNECTED), {}, False),
        (unseen(), {}, True),
        (asked(retry=after(of_a_whole_pair("A")[1], 9.0)), {"purpose": "fence"}, True),
        (asked(retry=after(of_a_whole_pair("A")[1], 9.0)), {"job": "another"}, True),
    ):
        after_it, effects = done(with_right(guard, now, **changed), now, shot.advance)
        assert (of(effects, AnswerHandler), after_it.memory.used) == ([], ())
        assert (after_it.right is not None) is kept


def test_an_answered_handler_takes_its_own_claim_and_right_along() -> None:
    """And leaves those of others, and the other handlers."""
    for job, left in (("h", False), ("another", True)):
        guard, now = asked(15.0, role=Role.SECONDARY)
        other = replace(guard.handlers[0], id="h2", since=now, retry=after(now, 9.0))
        guard = replace(guard, attempt=Attempt("n", "alone", job, now), handlers=(*guard.handlers, other))
        guard = with_right(guard, now, purpose="fence", job=job)
        after_it, _ = done(guard, now, shot.advance)
        assert (after_it.attempt is not None, after_it.right is not None) == (left, left)
        assert [h.id for h in after_it.handlers] == ["h2"]


# ------------------------------------------------------------------ wins that no client waits for


@pytest.mark.parametrize(
    ("cold", "releasing", "live"),
    [(True, False, False), (False, True, False), (False, True, True), (False, False, False)],
)
def test_a_win_of_the_guards_own_is_used_at_once(cold: bool, releasing: bool, live: bool) -> None:
    """A cold start goes on alone; a releasing claim lifts the hold, but not over a target that answers."""
    guard, now = asked()
    of_peer = InhibitView("disturbance:B", "disturbance", "B", "ports flapped", 0.0, ended=True)
    guard = with_ack(replace(guard, handlers=()), inhibits=(of_peer,))
    guard = with_right(guard, now, job=None, cold=cold, releasing=releasing, target_live=live)
    after_it, effects = done(guard, now, shot.advance)
    assert after_it.right is None
    assert len(of(effects, Unblock)) == cold
    assert after_it.memory.used == (("alone",) if cold else ())
    assert after_it.lifting is (releasing and not live)
    lifts = [s.message.id for s in of(effects, Send) if isinstance(s.message, LiftInhibit)]
    assert lifts == ["disturbance:B"] * after_it.lifting, "also what a peer that is gone cannot lift itself"
    assert ("held-peer-alive" in after_it.paged) is (releasing and live)


def test_a_guard_with_nothing_to_do_does_nothing() -> None:
    """No request, no right, nobody paged."""
    guard, now = of_a_whole_pair("A")
    assert done(guard, now, shot.advance) == (guard, ())
