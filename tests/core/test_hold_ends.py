"""How a hold ends, or why it stays: a release, a person who asks for one, and what the arbiter's list says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import done, of, remembering, sent, with_ack
from test_hold import ALIVE, CHANGE, OF_B, PERSON, STORM, ended, holding, quiet, settled
from test_machine_hold import DISTURBANCE

from guard.core import hold
from guard.core.evidence import Disk, Forecast, Link, PendingShot, Sign, SignKind, Up, unseen_cluster
from guard.core.instant import after
from guard.core.messages import LiftInhibit, SetInhibit
from guard.core.step import AnswerPerson, AskForecast, AskRelease, ClearHold, HoldWritten, Note
from guard.core.turn import Turn

REFUSED = {  # why a hold stays, of one that else would be released
    "inhibited": lambda g, now: remembering(g, inhibits={PERSON.id: PERSON}),
    "not-whole": lambda g, now: replace(g, members=replace(g.members, peer_member=False)),
    "not-quiet": lambda g, now: replace(g, network=replace(g.network, quiet_since=after(now, -59.9))),
    "arbiter-silent": lambda g, now: replace(g, acked=after(now, -2.1)),
    "peer-not-whole": lambda g, now: peer(g, whole=None),
    "peer-not-quiet": lambda g, now: peer(g, quiet_for_s=59.9),
    "shot-pending": lambda g, now: peer(g, pending_shots=1),
    "forecast": lambda g, now: replace(g, forecasts={True: (Forecast(stops=("fs",)), now)}),
    "peer-forecast": lambda g, now: peer(g, release_harmless=False),
}
MORE = {
    "arbiter-silent": (
        lambda g, now: replace(g, ack=None),
        lambda g, now: with_ack(g, peer_hold=None),
        lambda g, now: with_ack(g, peer_heard_s=None),
    ),
    "peer-not-whole": (lambda g, now: with_ack(g, peer_heard_s=2.1), lambda g, now: peer(g, whole=False)),
    "shot-pending": (
        lambda g, now: peer(g, pending_shots=None),
        lambda g, now: replace(g, cluster=replace(g.cluster, pending=(PendingShot("B", "off", "c", "A", "pending"),))),
    ),
    "forecast": (lambda g, now: replace(g, forecasts={}),),
    "peer-forecast": (lambda g, now: peer(g, release_harmless=None),),
}


def peer(guard, **changed):
    return with_ack(guard, peer_hold=replace(guard.ack.peer_hold, **changed))


@pytest.mark.parametrize("reason", REFUSED)
def test_a_hold_stays_and_says_why(reason: str) -> None:
    """Law 4: each of these alone; a person reads the reason, and a script its code."""
    guard, now = settled()
    guard = replace(guard, acked=now)
    assert hold.refusal(Turn(guard, now)) is None
    for change in (REFUSED[reason], *MORE.get(reason, ())):
        found = hold.refusal(Turn(change(guard, now), now))
        assert found is not None
        assert found[0] == reason
        assert " " in found[1]


def test_the_reasons_come_in_one_order() -> None:
    """The one that stands longest comes first: what a person asked for, then the pair, the network, the peer."""
    guard, now = settled()
    guard = replace(guard, acked=now)
    for change in reversed(REFUSED.values()):
        guard = change(guard, now)
    told = []
    for mend in (
        lambda g: remembering(g, inhibits={}),
        lambda g: replace(g, members=replace(g.members, peer_member=True)),
        lambda g: replace(g, network=replace(g.network, quiet_since=after(now, -60.0))),
        lambda g: replace(g, acked=now),
        lambda g: peer(g, whole=True),
        lambda g: peer(g, quiet_for_s=60.0),
        lambda g: peer(g, pending_shots=0),
        lambda g: replace(g, forecasts={True: (Forecast(), now)}),
        lambda g: peer(g, release_harmless=True),
    ):
        found = hold.refusal(Turn(guard, now))
        assert found is not None
        told.append(found[0])
        guard = mend(guard)
    assert told == list(REFUSED)
    assert hold.refusal(Turn(guard, now)) is None


def test_a_person_who_asks_is_not_kept_by_persons_holds_alone() -> None:
    """Everything else speaks against it all the same; and the peer's scheduler is not asked while a hold stands."""
    guard, now = settled()
    guard = replace(guard, acked=now)
    for own, why in ((PERSON, None), (CHANGE, "inhibited"), (OF_B, "inhibited")):
        turn = Turn(remembering(guard, inhibits={own.id: own}), now)
        found = hold.refusal(turn, ignore_person=True)
        assert (found and found[0]) == why
        assert hold.refusal(turn) is not None
    unasked = peer(guard, release_harmless=None)
    assert hold.refusal(Turn(unasked, now), ignore_person=True) is None
    assert hold.refusal(Turn(peer(unasked, maintenance=False), now)) is None, "it has nothing to release"
    assert hold.refusal(Turn(peer(guard, release_harmless=False), now), ignore_person=True) is not None


def test_over_a_node_that_booted_only_wholeness_may_be_lacking_on_both_sides() -> None:
    """Law 4, rejoin: the peer says that it is not whole; that it cannot tell is no such word."""
    guard, now = settled()
    guard = replace(guard, acked=now, members=replace(guard.members, peer_member=None))
    for whole, found in ((False, None), (True, None), (None, "peer-not-whole")):
        why = hold.refusal(Turn(peer(guard, whole=whole), now), rejoin=True)
        assert (why and why[0]) == found


@pytest.mark.parametrize(
    ("change", "only"),
    [
        ({}, True),
        ({"members": None}, False),
        ({"cluster": None}, False),
        ({"volumes": None}, False),
    ],
)
def test_only_a_connection_that_the_cluster_would_start_is_missing(change, only: bool) -> None:
    """Connected, it becomes whole by itself, or is damaged."""
    guard, _ = settled()
    down = replace(
        guard,
        volumes=replace(guard.volumes, replicas=tuple(replace(r, link=Link.DOWN) for r in guard.volumes.replicas)),
    )
    assert hold._only_unconnected(replace(down, **change)) is only
    assert not hold._only_unconnected(guard)
    for member in (False, None):
        assert not hold._only_unconnected(replace(down, members=replace(down.members, peer_member=member)))
    for part in ("controller", "peer_controller"):
        for word in (Up.DOWN, Up.UNKNOWN):
            assert not hold._only_unconnected(replace(down, cluster=replace(down.cluster, **{part: word})))


def test_a_release_comes_every_second_at_most() -> None:
    """And never of a guard that holds nothing."""
    guard, now = settled()
    guard = replace(guard, acked=now)
    first, effects = done(guard, now, hold._release)
    assert of(effects, ClearHold) == [ClearHold("pairguard:A+B")]
    for seconds, again in ((0.999, 0), (1.0, 1)):
        later = replace(first, acked=after(now, seconds))
        assert len(of(done(later, after(now, seconds), hold._release)[1], ClearHold)) == again
    assert done(remembering(guard, holding=False), now, hold._release)[1] == ()


@pytest.mark.parametrize(
    ("own", "listed", "everyones", "lifted"),
    [
        pytest.param([ended(DISTURBANCE)], [ended(DISTURBANCE)], False, ["disturbance:A"], id="our own"),
        pytest.param([ended(DISTURBANCE)], [], False, None, id="not listed: the property next"),
        pytest.param([], [ended(OF_B)], False, None, id="the peer's is its own to lift"),
        pytest.param([], [ended(OF_B)], True, ["disturbance:B"], id="a peer's that is gone"),
        pytest.param(
            [], [ended(PERSON), ended(CHANGE)], False, ["person:k", "change:c"], id="a person's, opened there"
        ),
        pytest.param([PERSON], [ended(CHANGE)], False, [], id="one stands"),
        pytest.param([], [PERSON], True, [], id="one stands at the arbiter"),
        pytest.param([], [ALIVE, STORM, ended(PERSON)], True, ["person:k"], id="the arbiter's own it ends itself"),
        pytest.param([], [ALIVE, STORM], True, None, id="nothing but the arbiter's own"),
    ],
)
def test_a_release_lifts_what_this_guard_may_lift_and_then_the_property(own, listed, everyones: bool, lifted) -> None:
    """S7: first the arbiter's list, repeated until it shows; then the property."""
    guard, now = holding(*own, listed=tuple(listed))
    turn = Turn(guard, now)
    hold.lift(turn, everyones=everyones)
    effects = turn.step().effects
    assert [m.id for m in sent(effects, LiftInhibit)] == (lifted or [])
    assert of(effects, ClearHold) == ([ClearHold("pairguard:A+B")] if lifted is None else [])
    assert turn.guard.memory.holding


@pytest.mark.parametrize(
    ("ours", "maintenance", "over"),
    [(None, False, True), (None, True, True), (None, None, False), ("pairguard:A+B", False, False)],
)
def test_the_hold_is_over_once_the_property_is_read_as_gone(ours, maintenance, over: bool) -> None:
    """A view that shows nothing proves nothing: `holding` ends last."""
    guard, now = holding(ended(DISTURBANCE), paged=frozenset({"held-peer-alive", "lease-over", "person"}), lifting=True)
    guard = replace(guard, cluster=replace(guard.cluster, ours=ours, maintenance=maintenance))
    guard = replace(guard, due={"left-over": after(now, 1.0)})
    released, effects = done(guard, now, hold.lift)
    assert released.memory.holding is not over
    assert of(effects, ClearHold) == ([] if over else [ClearHold("pairguard:A+B")])
    if over:
        assert (released.memory.inhibits, released.forecasts, released.lifting) == ({}, {}, False)
        assert released.paged == {"person"}
        assert released.due["left-over"] == after(now, hold.LEFT_OVER_S)
        assert [n.event for n in of(effects, Note)] == ["released"]
    unread = replace(guard, cluster=unseen_cluster(now))
    assert done(unread, now, hold.lift)[0].memory.holding
    assert done(replace(guard, cluster=None), now, hold.lift)[0].memory.holding


@pytest.mark.parametrize(
    ("event", "own", "told"),
    [
        (HoldWritten(set=True, done=True), PERSON, "property-set"),
        (HoldWritten(set=True, done=False), PERSON, "property-not-set"),
        (HoldWritten(set=False, done=True), ended(PERSON), "released"),
        (HoldWritten(set=False, done=True), PERSON, "braked"),
        (HoldWritten(set=False, done=False), ended(PERSON), None),
    ],
)
def test_only_a_property_that_was_taken_back_with_nothing_standing_ends_the_hold(event, own, told) -> None:
    """What the cluster did not take is tried again by who asked for it."""
    guard, now = holding(own)
    after_it, effects = done(guard, now, hold.written, event)
    assert [n.event for n in of(effects, Note)] == ([] if told is None else [told])
    assert after_it.memory.holding is (told != "released")


def test_a_property_of_ours_that_stands_while_nobody_holds_is_released_in_order() -> None:
    """Looked at every 5 s: one of two guards may set it after the other had released."""
    for ours, left in (("pairguard:A+B", True), (None, False)):
        guard, now = quiet()
        guard = replace(guard, cluster=replace(guard.cluster, ours=ours))
        for at_s, again in ((0.0, True), (4.999, False), (5.0, True)):
            held, effects = done(guard, after(now, at_s), hold.advance)
            assert held.memory.holding is (left and again)
            assert [n.event for n in of(effects, Note)] == ["braked"] * (left and again)
            guard = remembering(held, holding=False)
    guard, now = quiet(cluster=None)
    assert done(guard, now, hold.advance)[1] == ()


# ------------------------------------------------------------------ a person asks for the release


def asks(guard, now):
    after_it, effects = done(guard, now, hold.ask_release, AskRelease("r"))
    [answer] = of(effects, AnswerPerson)
    assert answer.id == "r"
    assert answer.text
    return after_it, answer, effects


def test_a_person_ends_every_persons_hold_once_resuming_is_proven_safe() -> None:
    """Ours by our own word; one that was opened at the other node by the arbiter's, and the other node adopts that."""
    other = replace(PERSON, id="person:other")
    over = replace(PERSON, id="person:over", ended=True)
    guard, now = holding(PERSON, ended(DISTURBANCE), listed=(PERSON, other, over))
    guard = replace(guard, acked=now)
    after_it, answer, effects = asks(guard, now)
    assert answer.outcome == "releasing"
    assert after_it.memory.inhibits == {PERSON.id: ended(PERSON), DISTURBANCE.id: ended(DISTURBANCE)}
    said = {m.inhibit.id: m.inhibit for m in sent(effects, SetInhibit)}
    assert said == {PERSON.id: ended(PERSON), other.id: ended(other)}
    assert len({m.nonce for m in sent(effects, SetInhibit)}) == 2
    assert all(len(m.nonce) == 32 for m in sent(effects, SetInhibit))


def test_a_release_of_what_nobody_holds_is_done_already() -> None:
    """`pairguard release` twice is no error."""
    guard, now = quiet(acked=None)
    guard = replace(guard, acked=now)
    assert asks(guard, now)[1].outcome == "released"


def test_a_scheduler_that_was_not_asked_yet_is_asked_first() -> None:
    """It is not asked while a person's hold stands; the client repeats. One that said no is not asked again."""
    guard, now = holding(PERSON, acked=None)
    guard = replace(guard, acked=now)
    for forecasts, outcome in (({}, "forecast-asked"), ({True: (Forecast(stops=("fs",)), now)}, "forecast")):
        after_it, answer, effects = asks(replace(guard, forecasts=forecasts), now)
        assert answer.outcome == outcome
        assert of(effects, AskForecast) == [AskForecast(None, without_hold=True)] * (outcome == "forecast-asked")
        assert after_it.memory.inhibits == {PERSON.id: PERSON}, "nothing has ended"


@pytest.mark.parametrize(("heard_s", "gone"), [(0.1, False), (29.9, False), (30.0, True), (None, True)])
def test_with_the_peer_gone_an_end_is_taken_and_the_claim_decides(heard_s: float | None, gone: bool) -> None:
    """Its opener died with the pair; what else speaks against it keeps the hold as it is."""
    guard, now = holding(PERSON)
    guard = with_ack(guard, peer_heard_s=heard_s)
    guard = replace(guard, acked=now, members=replace(guard.members, peer_member=False))
    after_it, answer, _ = asks(guard, now)
    assert answer.outcome == "not-whole"
    assert ("once a claim is won" in answer.text) is gone
    assert after_it.memory.inhibits[PERSON.id].ended is gone
    unquiet = replace(guard, members=replace(guard.members, peer_member=True))
    unquiet = replace(unquiet, network=replace(unquiet.network, quiet_since=now))
    after_it, answer, _ = asks(unquiet, now)
    assert answer.outcome == "not-quiet"
    assert not after_it.memory.inhibits[PERSON.id].ended
    lone = replace(guard, ack=None)
    assert not asks(lone, now)[0].memory.inhibits[PERSON.id].ended


# ------------------------------------------------------------------ what the arbiter's list says


@pytest.mark.parametrize(
    ("own", "listed", "kept"),
    [
        pytest.param(PERSON, ended(PERSON), ended(PERSON), id="ended at the other node"),
        pytest.param(CHANGE, ended(CHANGE), ended(CHANGE), id="a change, too"),
        pytest.param(PERSON, replace(ended(PERSON), since_wall=9.0), PERSON, id="the end of an earlier one"),
        pytest.param(CHANGE, replace(CHANGE, since_wall=9.0), replace(CHANGE, since_wall=9.0), id="a change there"),
        pytest.param(ended(PERSON), PERSON, ended(PERSON), id="an end is never taken back"),
        pytest.param(
            PERSON, replace(PERSON, since_wall=9.0, owner="bob"), replace(PERSON, since_wall=9.0, owner="bob"),
            id="opened there before ours arrived",
        ),
        pytest.param(
            ended(PERSON), replace(PERSON, since_wall=12.0), replace(PERSON, since_wall=12.0), id="opened after it"
        ),
        pytest.param(DISTURBANCE, replace(DISTURBANCE, ended=True, since_wall=0.0), DISTURBANCE, id="a disturbance"),
        pytest.param(
            replace(PERSON, lease_s=60.0), replace(PERSON, lease_s=44.0), replace(PERSON, lease_s=44.0), id="less left"
        ),
        pytest.param(
            replace(PERSON, lease_s=60.0), replace(PERSON, lease_s=45.0), replace(PERSON, lease_s=60.0), id="15 s less"
        ),
        pytest.param(replace(PERSON, lease_s=60.0), PERSON, replace(PERSON, lease_s=60.0), id="no lease there"),
        pytest.param(PERSON, replace(PERSON, lease_s=5.0), PERSON, id="no lease here"),
        pytest.param(
            replace(ended(PERSON), lease_s=60.0), replace(ended(PERSON), lease_s=5.0),
            replace(ended(PERSON), lease_s=60.0),
            id="ended: its lease is nobody's",
        ),
    ],
)  # fmt: skip
def test_what_stands_under_one_key_is_one_hold(own, listed, kept) -> None:
    """Both guards then name the same one, and one end ends it."""
    guard, now = holding(own, listed=(listed,), acked=None)
    guard = remembering(guard, inhibits={own.id: own}, holding=False)
    after_it, effects = done(guard, now, hold.adopt)
    assert after_it.memory.inhibits == {own.id: kept}
    merged = kept.since_wall != own.since_wall
    assert after_it.memory.holding is merged
    assert [n.event for n in of(effects, Note)] == ["hold-merged"] * merged


def test_a_hold_without_a_moment_takes_the_arbiters_without_a_word() -> None:
    """It is the same one; only a person's tool did not say when."""
    guard, now = holding(replace(PERSON, since_wall=0.0), listed=(PERSON,))
    after_it, effects = done(guard, now, hold.adopt)
    assert after_it.memory.inhibits == {PERSON.id: PERSON}
    assert effects == ()


def test_a_disturbance_of_ours_that_we_do_not_know_is_ours_to_end() -> None:
    """A word that came late, a memory that was lost. The peer's is not."""
    listed = (DISTURBANCE, OF_B)
    guard, now = holding(listed=listed)
    after_it, _ = done(remembering(guard, holding=False), now, hold.adopt)
    assert after_it.memory.inhibits == {DISTURBANCE.id: listed[0]}
    assert after_it.memory.holding
    assert done(replace(guard, ack=None), now, hold.adopt) == (replace(guard, ack=None), ())


def test_a_lease_that_the_arbiter_shows_goes_on_while_the_arbiter_is_silent() -> None:
    """Ours is counted here; an ended one, and one without a lease, stand as they are."""
    view = replace(PERSON, lease_s=60.0)
    guard, now = holding()
    guard = replace(guard, acked=after(now, -20.0))
    assert hold.lease_left(guard, view, now) == 40.0
    assert hold.lease_left(guard, view, after(now, 100.0)) == 0.0
    assert hold.lease_left(guard, ended(view), now) == 60.0
    assert hold.lease_left(guard, PERSON, now) is None
    assert hold.lease_left(remembering(guard, inhibits={view.id: view}), view, now) == 60.0
    assert hold.lease_left(replace(guard, acked=None), view, now) == 60.0


def test_a_lease_is_counted_down_and_its_end_is_told_once() -> None:
    """L2: it ends itself, which releases nothing. One that has ended, or has none, is not touched."""
    own = {"c": None, "a": 10.5, "b": 10.0}
    views = [replace(PERSON, id=f"person:{key}", lease_s=lease_s) for key, lease_s in own.items()]
    over = replace(ended(PERSON), id="person:d", lease_s=5.0)
    guard, now = holding(*views, over, paged=frozenset())
    turn = Turn(guard, now)
    hold.leases(turn, 10.0)
    assert {i.id: (i.lease_s, i.ended) for i in turn.guard.memory.inhibits.values()} == {
        "person:a": (0.5, False),
        "person:b": (0.0, True),
        "person:c": (None, False),
        "person:d": (5.0, True),
    }
    assert [(n.event, n.page) for n in of(turn.step().effects, Note)] == [("lease-over", True)]


@pytest.mark.parametrize(("left_s", "told"), [(10.1, False), (10.0, True)])
def test_a_lease_of_the_other_node_that_ran_out_is_told_here_too(left_s: float, told: bool) -> None:
    """Its guard may be gone; what is ours is told where it is counted."""
    view = replace(PERSON, lease_s=left_s)
    guard, now = holding(listed=(PERSON, view), acked=None, paged=frozenset())
    guard = replace(guard, acked=after(now, -10.0))
    assert [n.event for n in of(done(guard, now, hold._others_leases)[1], Note)] == ["lease-over"] * told
    mine = remembering(guard, inhibits={view.id: replace(view, lease_s=0.0)})
    assert done(mine, now, hold._others_leases)[1] == ()
    assert done(replace(guard, ack=None), now, hold._others_leases)[1] == ()


def test_a_flap_of_replication_counts_for_one_window() -> None:
    """The handler waits for the reconnect only as long as the last break is of this minute."""
    guard, now = settled()
    for kind, ago_s, flaps in (
        (SignKind.REPLICATION_FLAP, 60.0, True),
        (SignKind.REPLICATION_FLAP, 60.1, False),
        (SignKind.TOPOLOGY_CHANGE, 0.0, False),
    ):
        sign = Sign(kind, "acc1", after(now, -ago_s), "a sign")
        assert hold.flapping_replication(replace(guard, network=replace(guard.network, recent=(sign,))), now) is flaps


def test_a_damaged_pair_is_not_whole() -> None:
    """A disk that is not UpToDate keeps the hold as a lost peer does."""
    guard, now = settled()
    worse = tuple(replace(r, disk=Disk.INCONSISTENT) for r in guard.volumes.replicas)
    guard = replace(guard, acked=now, volumes=replace(guard.volumes, replicas=worse))
    found = hold.refusal(Turn(guard, now))
    assert found is not None
    assert found[0] == "not-whole"
