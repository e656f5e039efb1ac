"""The hands: what they refuse to do too late."""

from __future__ import annotations

import asyncio

import pytest

from guard.adapters.clock import BootClock
from guard.core.instant import Instant, after
from guard.core.step import Event, Fire, ShotEnded
from guard.daemon.acting import Acting, Waiting, World
from guard.ports import DeviceSettings, ShotResult


class Recorder:
    """A shooter that only counts: the second implementation of the port that these tests need."""

    def __init__(self, clock: BootClock) -> None:
        self.fired: list[str] = []
        self._clock = clock

    async def fire(self, device: DeviceSettings, action: str, node: str, shot_id: str) -> ShotResult:
        self.fired.append(shot_id)
        return ShotResult(0, True, self._clock.now(), 0, 0, "")


async def outcome(start_by: Instant, clock: BootClock) -> tuple[list[str], Event]:
    shooter = Recorder(clock)
    world = World(
        bus=None,
        replication=None,
        members=None,
        cluster=None,
        shooter=shooter,
        reader=None,
        power=None,
        devices={"b": DeviceSettings("fence_x", {}, 1.0)},
    )
    seen: asyncio.Queue[Event] = asyncio.Queue()
    acting = Acting(world, clock, seen.put_nowait, lambda *_, **__: None, Waiting())
    running = asyncio.create_task(acting.run())
    try:
        acting.carry_out(Fire("shot-1", "off", "b", start_by))
        async with asyncio.timeout(20):
            return shooter.fired, await seen.get()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_shot_in_time_is_fired_once() -> None:
    """Before `start_by` the delegate runs, exactly once."""
    clock = BootClock()
    assert await outcome(after(clock.now(), 60), clock) == (["shot-1"], ShotEnded("shot-1", 0, clean=True))


@pytest.mark.asyncio
async def test_a_process_paused_before_the_spawn_fires_nothing() -> None:
    """S4: a guard that was paused between the last look and the spawn starts nothing after `start_by`."""
    clock = BootClock()
    assert await outcome(after(clock.now(), -0.001), clock) == ([], ShotEnded("shot-1", None, clean=True))
