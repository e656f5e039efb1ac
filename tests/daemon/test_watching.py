"""The guard's eyes: one that dies is a sign and comes back, and no other notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from guard.adapters.clock import BootClock
from guard.core.evidence import (
    ClusterView,
    Disk,
    Link,
    LinkSighting,
    Membership,
    PortState,
    Replica,
    Role,
    SignKind,
    SwitchSighting,
    Up,
    Volumes,
    WriteSample,
    unseen_cluster,
)
from guard.core.instant import Instant
from guard.core.sight import Sight, WatcherSeen
from guard.core.step import BusState, Event, SawProbe, SawStored, SawVolumes, Seen
from guard.core.turn import braked, whole
from guard.daemon.watching import Watching
from guard.errors import InvariantBroken, PairguardError, Unavailable, Unreadable
from guard.ports import Delivery
from tests.adapters.bus_contract import until
from tests.daemon.stage import HandClock, Stage


class Flowing(HandClock):
    """The stage's clock, flowing by itself."""

    def now(self) -> Instant:
        return BootClock().now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def move(self, seconds: float) -> None: ...


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


class Members:
    """`guard.ports.Members` with a bug: what it saw last would permit things if it were still believed."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error
        self.again, self.mended = asyncio.Event(), asyncio.Event()

    async def watch(self, poll_s: float) -> AsyncIterator[Membership]:
        if self.error is None:
            await self.again.wait()
        yield Membership(Instant(1), Up.UP, peer_member=True, quorate=True, votes_three=True, ring="1.1")
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        await self.mended.wait()
        yield Membership(Instant(2), Up.UP, peer_member=True, quorate=True, votes_three=True, ring="1.2")
        await asyncio.Event().wait()


class Failing(Eyes):
    """Every other port that is watched, each with one bug after one good look."""

    async def stored(self) -> Volumes:
        return Volumes(Instant(0), ())

    async def sample(self, volumes: Volumes) -> Sequence[WriteSample]:
        return ()


class BuggyDisks(Failing):
    async def changes(self) -> AsyncIterator[Volumes]:  # type: ignore[override]
        good = Disk.UP_TO_DATE
        seen = Replica("r0", Role.PRIMARY, Role.SECONDARY, good, good, Link.CONNECTED)
        yield Volumes(Instant(1), (seen,))
        raise KeyError("r1")


class BuggyCluster(Failing):
    async def view(self) -> ClusterView:
        self.looks += 1
        if self.looks > 1:
            raise TypeError("'NoneType' object is not iterable")
        return ClusterView(Instant(1), Up.UP, Up.UP, True, "pairguard:a+b", False, 3, False)


class BuggySwitch(Failing):
    name = "acc1"

    async def poll(self) -> SwitchSighting:
        self.looks += 1
        if self.looks > 1:
            raise ZeroDivisionError
        return SwitchSighting("acc1", Instant(1), True, ports=(("p1", PortState.DOWN),))


class BuggyProbe:
    async def changes(self) -> AsyncIterator[bool]:
        yield False
        raise AttributeError("probe")


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


BUGS = [KeyError("fs1b"), TypeError("NoneType"), IndexError("7"), RuntimeError("event loop")]


@pytest.mark.asyncio
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
async def test_a_bug_in_one_watcher_does_not_fell_the_guard(bug: Exception) -> None:
    """In the guard's real loop: it dies alone, a person is told where, its last sight is void, and it comes back."""
    stage = Stage(Flowing())
    pages: list[tuple[str, str, bool]] = []
    members = Members(bug)
    watching = Watching(
        BootClock(), stage.loop.put, lambda: stage.guard, lambda e, t, d, page=False: pages.append((e, t, page))
    )
    watching.watch_members(members)
    watching.watch_probe(Probe())
    loop = asyncio.create_task(stage.loop.run())
    try:
        async with watched(watching) as eyes:
            await until(lambda: bool(pages), "the death is noted")
            [(event, text, page)] = pages
            assert (event, page) == ("watcher-lost", True)
            assert f"a bug of ours: {type(bug).__name__}" in text
            assert "test_watching.py:" in text
            await until(lambda: getattr(stage.guard.members, "ring", "") is None, "unknown meanwhile")
            assert stage.guard.members.peer_member is None
            assert whole(stage.guard) is None
            assert braked(stage.guard), "its death is a standing sign"
            turns = stage.loop.turns
            members.again.set()
            await until(lambda: len(pages) == 2 and stage.guard.members.peer_member is True, "it is back and sees")
            assert pages[1][0] == "watcher-back"
            members.mended.set()
            await until(lambda: stage.guard.members.ring == "1.2", "it goes on")
            assert stage.loop.turns > turns
            assert not eyes.done()
            assert not loop.done()
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


@pytest.mark.asyncio
async def test_what_a_dead_watcher_saw_is_unknown_until_it_is_back() -> None:
    """Unknown permits nothing: disks, cluster, switch and probe each read UNKNOWN after a bug, whatever they were."""
    stage, eyes = Stage(Flowing(), sight=Sight(silent_polls=1)), Eyes()
    disks, probe = BuggyDisks(), BuggyProbe()
    watching = Watching(BootClock(), stage.loop.put, lambda: stage.guard, eyes.emit)
    watching.watch_replication(disks, disks, 0.05)  # type: ignore[arg-type]
    watching.watch_cluster(BuggyCluster())  # type: ignore[arg-type]
    watching.watch_switch(BuggySwitch(), 0.05)
    watching.watch_probe(probe)
    loop = asyncio.create_task(stage.loop.run())
    try:
        async with watched(watching):
            await until(lambda: eyes.logged.count("watcher-lost") >= 4, "all four died")
            await stage.drain()

            def unknown() -> bool:
                guard = stage.guard
                [replica] = guard.volumes.replicas if guard.volumes is not None else (None,)
                blind = guard.cluster is not None and guard.cluster == unseen_cluster(guard.cluster.at)
                return replica == Replica("r0") and blind and guard.probe is None

            await until(unknown, "nothing of what they saw is left")
            assert stage.guard.network.switches["acc1"].missed >= 1
            assert any(s.kind is SignKind.SWITCH_SILENT for s in stage.guard.network.open)
            assert whole(stage.guard) is None
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


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
