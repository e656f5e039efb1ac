"""What people are shown of a guard's memory, also of what an earlier guard left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from guard.core import hold, machine
from guard.core.instant import Instant, after
from guard.core.messages import ARBITER, BeatAck, RegisterView
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.step import Heard, Intent, Memory, Tick
from guard.core.turn import Guard, Turn
from guard.daemon.showing import shown

A, B = "fs1a", "fs1b"
NOW = Instant(10**15)


def restarted(*intents: Intent, boot: str = "boot-1") -> Guard:
    """A guard at its start, with the shots that its memory of era 4 names."""
    memory = Memory("boot-1", store_id="s", version=9, era=4, intents=intents)
    limits: dict[str, Any] = {"policy": Policy(), "sight": Sight(), "horizon_s": 75.0}
    guard, _ = machine.start(A, B, **limits, memory=memory, boot_id=boot, seed="0" * 32, now=NOW)
    return guard


def shots(guard: Guard, now: Instant) -> list[dict[str, Any]]:
    [pair] = shown(guard, "lab", "fs1", now, 0.0)["pairs"]
    found: list[dict[str, Any]] = pair["shots"]
    return found


def answered(guard: Guard, now: Instant, era: int) -> Guard:
    """The arbiter answers a beat of now: the register of `era`, nobody has won."""
    register = RegisterView("s", era, None, (), None, 20, A)
    ack = BeatAck(int(now), register, None, (), 0.1, None, None, outdate=False)
    return machine.step(guard, Heard(ARBITER, ack), now)[0]


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_a_shot_of_an_older_era_is_drained_and_shown_after_a_restart(boot: str) -> None:
    """S4: the guard was killed, or the node rebooted, and eras went by: what may still act is waited for, and shown."""
    shot = Intent("i1", 3, 7, B, "boot-1", NOW, 75.0, spawned=True)
    guard = restarted(shot, boot=boot)
    for era in (4, 5, 6):
        guard = answered(guard, after(NOW, era - 3.0), era)
        [row] = shots(guard, after(NOW, 10.0))
        assert (row["target"], row["era"], row["spawned"], row["drains_in_s"]) == (B, 3, True, 65.0)
        assert not hold.statement(Turn(guard, after(NOW, 10.0))).drained, "neither held nor closed meanwhile"
    guard, _ = machine.step(guard, Tick(), after(NOW, 76.0))
    assert hold.statement(Turn(guard, after(NOW, 76.0))).drained
    assert [row["drains_in_s"] for row in shots(guard, after(NOW, 76.0))] in ([], [0.0])


def test_a_shot_that_was_never_spawned_is_not_waited_for() -> None:
    """Its fork comes after `spawned` is durable: nothing of it can act."""
    guard = restarted(Intent("i1", 3, 7, B, "boot-1", NOW, 75.0))
    assert shots(guard, NOW) == []
    assert hold.statement(Turn(guard, NOW)).drained


def test_a_shot_without_a_bound_stays_shown_for_ever() -> None:
    """An unbounded device: no time ends it, and `status` says that no bound is known."""
    unbounded = Intent("i1", 3, 7, B, "boot-1", NOW, None, spawned=True)
    guard = replace(restarted(unbounded), horizon_s=None)
    guard = replace(guard, memory=replace(guard.memory, intents=(unbounded,)))
    guard = answered(guard, after(NOW, 1.0), 5)
    [row] = shots(guard, after(NOW, 10**6))
    assert row["drains_in_s"] is None
    assert not hold.statement(Turn(guard, after(NOW, 10**6))).drained
