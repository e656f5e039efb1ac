"""The guard's eyes: one that dies is a sign and comes back, and no other notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from guard.adapters.clock import BootClock
from guard.core.disturbance import WatcherSeen
from guard.core.evidence import LinkSighting, Replica, Up, Volumes, WriteSample
from guard.core.instant import Instant
from guard.core.step import BusState, Event, SawProbe, SawStored, SawVolumes, Seen
from guard.daemon.watching import Watching
from guard.errors import InvariantBroken, PairguardError, Unavailable, Unreadable
from guard.ports import Delivery
from tests.adapters.bus_contract import until
from tests.daemon.stage import Stage


class Eyes:
    """Watchers that die when told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.logged: list[str] = []
        self.looks = 0
        self.failures: list[BaseException] = []
        self.online = False

    # ---- guard.ports.Links
    async def read(self) -> Sequence[LinkSighting]:
        return ()

    async def changes(self) -> AsyncIterator[LinkSighting]:
        self.looks += 1
        yield LinkSighting("bond0", Instant(self.looks), Up.UP)
        if self.failures:
            raise self.failures.pop(0)
        await asyncio.Event().wait()

    # ---- guard.ports.Bus
    async def send(self, to: str, body: object, *, expires_s: float) -> bool:
        return True

    async def deliveries(self) -> AsyncIterator[Delivery]:
        await asyncio.Event().wait()
        yield Delivery("", None, Instant(0))

    def connected(self) -> bool:
        return self.online

    def emit(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        self.logged.append(event)

    def said(self, alive: bool) -> list[WatcherSeen]:
        found = [e.what for e in self.events if isinstance(e, Seen) and isinstance(e.what, WatcherSeen)]
        return [each for each in found if each.alive is alive]

    def watching(self) -> Watching:
        stage = Stage()
        return Watching(BootClock(), self.events.append, lambda: stage.guard, self.emit)


class Probe:
    """Says True for ever, so that one can see that it lives."""

    async def changes(self) -> AsyncIterator[bool]:
        while True:
            yield True
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watched(watching: Watching) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watching.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [Unavailable("cannot look"), Unreadable("a new word"), OSError(5, "I/O error")])
async def test_a_watcher_that_dies_is_a_sign_is_started_again_and_fells_nobody(error: PairguardError) -> None:
    """One loss is said and logged, then that it sees again; the other watchers never stop."""
    eyes = Eyes()
    eyes.failures = [error]
    watching = eyes.watching()
    watching.watch_links(eyes)
    watching.watch_probe(Probe())
    async with watched(watching) as task:
        await until(lambda: bool(eyes.said(alive=False)), "the loss is said")
        heard = sum(isinstance(e, SawProbe) for e in eyes.events)
        await until(lambda: bool(eyes.said(alive=True)), "it is back")
        assert eyes.looks == 2
        assert sum(isinstance(e, SawProbe) for e in eyes.events) > heard
        assert eyes.logged == ["watcher-lost", "watcher-back"]
        assert not task.done()


@pytest.mark.asyncio
async def test_a_watcher_that_keeps_dying_is_said_once() -> None:
    """Three deaths in a row are one loss, and it is tried again with a growing pause."""
    eyes = Eyes()
    eyes.failures = [Unavailable("x"), Unavailable("x"), Unavailable("x")]
    watching = eyes.watching()
    watching.watch_links(eyes)
    async with watched(watching):
        await until(lambda: eyes.looks == 3, "it was tried again")
        assert len(eyes.said(alive=False)) == 1
        assert eyes.said(alive=True) == []


@pytest.mark.asyncio
async def test_what_must_not_go_wrong_is_not_survived() -> None:
    """A broken invariant ends all eyes: nothing swallows it."""
    eyes = Eyes()
    eyes.failures = [InvariantBroken("S1")]
    watching = eyes.watching()
    watching.watch_links(eyes)
    with pytest.raises(BaseExceptionGroup) as caught:
        await asyncio.wait_for(watching.run(), 20)
    assert caught.value.subgroup(InvariantBroken) is not None


@pytest.mark.asyncio
async def test_the_bus_is_said_at_once_and_at_every_change() -> None:
    """False first where it never connected; then each change, once."""
    eyes = Eyes()
    watching = eyes.watching()
    watching.watch_bus(eyes)
    async with watched(watching):
        for state in (False, True, False):
            eyes.online = state
            await until(lambda s=state: eyes.events[-1:] == [BusState(s)], f"bus {state}")  # type: ignore[misc]
        assert eyes.events == [BusState(False), BusState(True), BusState(False)]


class Disks:
    """Replication whose event stream breaks once."""

    def __init__(self) -> None:
        self.starts = 0

    async def stored(self) -> Volumes:
        return Volumes(Instant(0), ())

    async def changes(self) -> AsyncIterator[Volumes]:
        self.starts += 1
        yield Volumes(Instant(self.starts), (Replica("r0"),))
        if self.starts == 1:
            raise Unavailable("events2 ended")
        await asyncio.Event().wait()

    async def sample(self, volumes: Volumes) -> Sequence[WriteSample]:
        return ()


@pytest.mark.asyncio
async def test_a_restarted_replication_watcher_confesses_the_gap() -> None:
    """What happened between two starts was not seen: the first whole after it says so."""
    eyes, disks = Eyes(), Disks()
    watching = eyes.watching()
    watching.watch_replication(disks, disks, 0.5)  # type: ignore[arg-type]
    async with watched(watching):
        await until(lambda: sum(isinstance(e, SawVolumes) for e in eyes.events) == 2, "seen twice")
    gaps = [e.volumes.gap for e in eyes.events if isinstance(e, SawVolumes)]
    assert gaps == [False, True]
    assert isinstance(eyes.events[0], SawStored)
