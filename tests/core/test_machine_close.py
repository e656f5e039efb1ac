"""Ending an era without wholeness: when a win may be handed back; one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import guard_of, whole_pair

from guard.core import machine
from guard.core.close import _returnable
from guard.core.instant import after
from guard.core.step import Heard, Tick
from guard.core.turn import HandlerJob, Turn, undrained


def winner():
    """A's guard with a win of era 3 that it never used, its peer alive, and a memory that began in era 1."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    register = replace(guard.ack.register, era=3, winner="A", basis="verdict", used=("alone",), version=9)
    memory = replace(guard.memory, era=3, version=9, since_era=1, used=(), intents=())
    ack = replace(guard.ack, register=register, peer_heard_s=0.1)
    return replace(guard, memory=memory, ack=ack, attempt=None, right=None, handlers=(), agents=()), now


def returnable(guard, now) -> bool:
    return _returnable(Turn(guard, now))


def test_an_unused_win_is_handed_back_to_a_living_peer() -> None:
    """Nothing was answered, nothing was spawned, nobody waits, and the peer is heard."""
    assert returnable(*winner())


def test_a_win_that_was_used_is_never_handed_back() -> None:
    """S3: what ran alone, or shot, ends its era by wholeness only."""
    guard, now = winner()
    for used in (("alone",), ("fence",), ("fence", "alone")):
        assert not returnable(replace(guard, memory=replace(guard.memory, used=used)), now)


def test_a_memory_that_began_in_this_era_hands_nothing_back() -> None:
    """S6: a guard that lost its journal cannot know whether the win was used before."""
    guard, now = winner()
    for since in (None, 3):
        assert not returnable(replace(guard, memory=replace(guard.memory, since_era=since)), now)


def test_a_memory_whose_last_record_was_damaged_is_taken_as_a_copy_put_back() -> None:
    """S6, S4: it may lack a use, or a shot: nothing of this era is handed back, and H is counted from the start."""
    guard, now = winner()
    for torn in (False, True):
        again, step = machine.start(
            "A",
            "B",
            policy=guard.policy,
            sight=guard.sight,
            horizon_s=10.0,
            memory=replace(guard.memory, won=9),
            boot_id=guard.boot_id,
            seed="s",
            now=now,
            torn=torn,
        )
        assert step.memory == again.memory
        assert undrained(again, after(now, 9.9)) is torn
        ack = replace(guard.ack, seq=int(after(now, 0.1)))
        again, _ = machine.step(again, Heard("arbiter", ack), after(now, 0.1))
        later = after(now, 10.1)
        assert not undrained(again, later)
        again = replace(again, memory=replace(again.memory, intents=()))
        assert returnable(again, after(now, 0.2)) is not torn
        assert again.memory.since_era == (3 if torn else 1)


def test_a_win_is_not_handed_back_while_anything_speaks_against_it() -> None:
    """A handler that waits, a peer that is not heard, a person's win: each alone keeps it."""
    guard, now = winner()
    job = HandlerJob("h", "r0", now, guard.halves.connects)
    register = replace(guard.ack.register, basis="person")
    against = (
        {"handlers": (job,)},
        {"ack": replace(guard.ack, peer_heard_s=None)},
        {"ack": replace(guard.ack, peer_heard_s=10.0)},
        {"ack": replace(guard.ack, register=register)},
    )
    assert [changed for changed in against if returnable(replace(guard, **changed), now)] == []


def test_a_win_over_a_peer_that_stepped_back_is_kept_while_that_peer_is_unfit() -> None:
    """The hold is released first, then it is fenced; fit again, it gets its writes back by the hand-back."""
    guard, now = winner()
    guard = replace(guard, memory=replace(guard.memory, consented=True))
    for unfit in (True, False):
        hold = replace(guard.ack.peer_hold, unfit=unfit)
        assert returnable(replace(guard, ack=replace(guard.ack, peer_hold=hold)), now) is not unfit


@pytest.mark.parametrize(("heard_s", "paged"), [(0.5, False), (40.0, True), (None, True)])
def test_a_winner_that_the_arbiter_hears_is_not_called_gone(heard_s: float | None, paged: bool) -> None:
    """A page says what is: a winner that is only out of this node's sight lives, and comes back with the path."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    register = replace(guard.ack.register, winner="A", used=("alone",))
    for seconds in (0.0, 5.0, 11.0):
        at = after(now, seconds)
        guard = replace(
            guard,
            members=replace(guard.members, peer_member=False),
            ack=replace(guard.ack, register=register, peer_heard_s=heard_s),
            acked=at,
        )
        guard, _ = machine.step(guard, Tick(), at)
    assert ("winner-gone" in guard.paged) is paged
