"""The lease of a person's hold: both nodes and the arbiter know its rest, and its end ends nothing but silence."""

from __future__ import annotations

from dataclasses import replace

from scene import guard_of, of, run, whole_pair

from guard.core import hold
from guard.core.inhibits import shown_inhibits
from guard.core.instant import Instant, after
from guard.core.messages import BeatAck, InhibitView, SetInhibit
from guard.core.step import Heard, HoldWritten, Note, OpenHold, Send, Tick
from guard.core.turn import Guard
from guard.daemon.showing import shown
from tests.core.desk import A, B, Desk

PERSONS = InhibitView("person:k", "person", "anna", "work", 5.0, lease_s=600.0)


def lease_at(desk: Desk) -> float | None:
    """The rest of the lease as the arbiter shows it now."""
    [view] = shown_inhibits(desk.pair, desk.now)
    return None if view.lease_s is None else round(view.lease_s, 1)


def test_the_arbiter_counts_a_lease_down_by_itself_and_tells_both() -> None:
    """The opener's guard may be gone: the peer still reads how long the hold was meant to last."""
    desk = Desk().whole()
    desk.hear(A, SetInhibit("s", PERSONS))
    desk.wait(100.0, B)
    assert lease_at(desk) == 500.0
    desk.beat(B)
    ack = desk.last(BeatAck)
    assert [(i.id, round(i.lease_s)) for i in ack.inhibits] == [("person:k", 500)]
    desk.wait(600.0, B)
    assert lease_at(desk) == 0.0
    [kept] = desk.pair.kept.inhibits.values()
    assert (kept.id, kept.ended) == ("person:k", False), "a lease that ran out ends nothing"


def test_what_is_left_of_a_lease_survives_the_arbiter() -> None:
    """Kept once a minute, not with every tick; only the time of the restart itself is not counted."""
    desk = Desk().whole()
    desk.hear(A, SetInhibit("s", PERSONS))
    versions = set()
    for _ in range(300):
        desk.wait(0.5, B)
        versions.add(desk.pair.kept.inhibits["person:k"].lease_s)
    assert len(versions) == 3
    desk.restart()
    assert 450.0 <= (lease_at(desk) or 0.0) <= 510.0
    desk.wait(1000.0, B)
    desk.restart(reboot=True)
    assert lease_at(desk) == 0.0, "over stays over"


def others(view: InhibitView) -> tuple[Guard, Instant]:
    """B's guard, whose peer opened a hold; the arbiter has just shown it."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    return replace(guard, ack=replace(guard.ack, inhibits=(view,)), acked=now, due={}), now


def pages(effects: tuple) -> list[str]:
    return [note.event for note in of(effects, Note) if note.page]


def test_the_other_node_shows_the_rest_also_while_the_arbiter_is_silent() -> None:
    """`status` on either node: what the arbiter said last, less the time since."""
    guard, now = others(PERSONS)
    for passed_s in (0.0, 100.0, 700.0):
        moment = after(now, passed_s)
        [row] = shown(guard, "lab", "fs1", moment, 0.0)["pairs"]
        [inhibit] = row["hold"]["inhibits"]
        assert inhibit["lease_s"] == max(600.0 - passed_s, 0.0)
        assert inhibit["ended"] is False


def test_a_lease_that_ran_out_is_paged_on_both_nodes_once() -> None:
    """The opener's guard ends its inhibit (the release still asks for proof); the other only tells."""
    guard, now = others(replace(PERSONS, lease_s=3.0))
    told: list[str] = []
    for passed_s in (0.0, 2.0, 15.0, 26.0, 37.0):
        guard, effects = run(guard, Tick(), after(now, passed_s))
        told += pages(effects)
        assert ("lease-over" in guard.paged) is (passed_s > 3)
    assert told.count("lease-over") == 1
    assert guard.memory.holding
    assert not any(i.ended for i in guard.ack.inhibits)

    world = whole_pair()
    opener, now = guard_of(world, "A"), world.nodes["A"].local()
    opener, _ = run(opener, OpenHold("o", "k", "anna", "work", 5.0, 0.0), now)
    opener, effects = run(replace(opener, due={}), Tick(), now)
    assert pages(effects) == ["lease-over"]
    assert opener.memory.inhibits["person:k"].ended
    assert opener.memory.holding
    opener, _ = run(opener, HoldWritten(False, True), now)
    assert "lease-over" not in opener.paged, "released: nobody has to come any more"


def test_a_hold_that_was_released_in_time_pages_nobody() -> None:
    """An end by a person is no lease that ran out, however short its rest is when it is heard of."""
    guard, now = others(replace(PERSONS, lease_s=1.0, ended=True))
    guard, effects = run(guard, Tick(), after(now, 1000.0))
    assert "lease-over" not in guard.paged
    assert "lease-over" not in pages(effects)


def told(effects: tuple) -> list[float | None]:
    return [e.message.inhibit.lease_s for e in of(effects, Send) if isinstance(e.message, SetInhibit)]


def test_the_opener_does_not_repeat_what_the_arbiter_counts_and_the_shorter_rest_counts() -> None:
    """No word for every second; an arbiter that forgot is told again; a guard that was down takes the time over."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard = replace(guard, memory=replace(guard.memory, inhibits={PERSONS.id: PERSONS}, holding=True))
    for theirs_s, repeated, left_s in (
        (592.0, [], 600.0),
        (610.0, [], 600.0),
        (900.0, [600.0], 600.0),
        (60.0, [], 60.0),
    ):
        shown_now = replace(guard.ack, seq=int(now), inhibits=(replace(PERSONS, lease_s=theirs_s),))
        heard, effects = run(replace(guard, due={}), Heard("arbiter", shown_now), now)
        assert told(effects) == repeated, theirs_s
        assert heard.memory.inhibits["person:k"].lease_s == left_s
    assert hold.LEASE_SLACK_S > 10.0, "the guard's own steps"
