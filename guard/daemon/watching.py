"""The guard's eyes: each watcher is a task of its own that turns sightings into events.

A watcher that dies, of the world or of a bug of ours, does not fell the others: it is logged, is itself a sign, and is
started again with a jittered pause. What it watched is UNKNOWN meanwhile: its last sight permits nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from guard.core.evidence import Membership, Replica, SwitchSighting, Up, Volumes, unseen_cluster
from guard.core.instant import Instant
from guard.core.sight import WatcherSeen
from guard.core.step import (
    BusState,
    Event,
    Heard,
    SawCluster,
    SawMembers,
    SawProbe,
    SawStored,
    SawVolumes,
    SawWrites,
    Seen,
)
from guard.core.turn import Guard, braked
from guard.errors import PairguardError
from guard.events import Emit
from guard.ports import Bus, Clock, Cluster, Links, Replication, Switch, Traps, WriteCounters

RESTART_S_MIN, RESTART_S_MAX = 0.5, 10.0
BACK_S = 1.0  # a watcher that lives this long is back
CLUSTER_S_CALM, CLUSTER_S_BUSY = 2.0, 0.5  # crm_mon costs 50 ms of CPU: look often only when it matters
MEMBERS_S = 0.5
BUS_S = 0.1
TRAP_S_MIN = 0.05  # polls that traps ask for are at least this far apart


class MembersWatcher(Protocol):
    def watch(self, poll_s: float) -> AsyncIterator[Membership]: ...


class ProbeWatcher(Protocol):
    def changes(self) -> AsyncIterator[bool]: ...


def _nothing(now: Instant) -> tuple[Event, ...]:
    """For what has no state: bus messages and traps; for writes, where a missing sample is unknown by itself."""
    return ()


@dataclass(frozen=True, slots=True)
class Watcher:
    """`blind`: what the core is told when it dies, so that nothing rests on what it saw before."""

    name: str
    run: Callable[[], Coroutine[Any, Any, None]]
    blind: Callable[[Instant], Sequence[Event]] = _nothing


class Watching:
    """All watchers of one guard. `run` ends only by cancellation."""

    def __init__(self, clock: Clock, put: Callable[[Event], None], guard: Callable[[], Guard], emit: Emit) -> None:
        self._clock, self._put, self._guard, self._emit = clock, put, guard, emit
        self._watchers: list[Watcher] = []
        self._poke: dict[str, asyncio.Event] = {}
        self._volumes: Volumes | None = None
        self.fresh_volumes = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for watcher in self._watchers:
                group.create_task(self._kept_alive(watcher), name=f"watch-{watcher.name}")

    async def _kept_alive(self, watcher: Watcher) -> None:
        name, pause_s, dead = watcher.name, RESTART_S_MIN, False
        while True:
            began = self._clock.now()
            work = asyncio.ensure_future(watcher.run())
            try:
                if dead:
                    await asyncio.wait({work}, timeout=BACK_S)
                    if not work.done():
                        dead = False
                        self._put(Seen(WatcherSeen(name, alive=True)))
                        self._emit("watcher-back", f"{name} sees again", {"watcher": name})
                [ended] = await asyncio.gather(work, return_exceptions=True)
            finally:
                work.cancel()  # without effect on what is done
            if isinstance(ended, BaseException) and not isinstance(ended, Exception | asyncio.CancelledError):
                raise ended  # InvariantBroken: nothing survives it
            for event in watcher.blind(self._clock.now()):  # each time: it may have seen something before it died
                self._put(event)
            if not dead:
                dead = True
                bug = ended is not None and not isinstance(ended, PairguardError | OSError | ValueError)
                why = f"a bug of ours: {_where(ended)}" if bug else (str(ended or "") or _name(ended))
                self._put(Seen(WatcherSeen(name, alive=False, text=why)))
                self._emit("watcher-lost", f"{name}: {why}; unknown until it is back", {"watcher": name}, page=bug)
            if (self._clock.now() - began) / 1e9 > RESTART_S_MAX:
                pause_s = RESTART_S_MIN
            await self._clock.sleep(self._clock.jitter(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, RESTART_S_MAX)

    # ------------------------------------------------------------------ what is watched

    def watch_bus(self, bus: Bus) -> None:
        async def listen() -> None:
            async for delivery in bus.deliveries():
                self._put(Heard(delivery.sender, delivery.body))  # type: ignore[arg-type]  # wire opens messages only

        async def state() -> None:
            said: bool | None = None
            while True:
                now = bus.connected()
                if now is not said:
                    said = now
                    self._put(BusState(now))
                await self._clock.sleep(BUS_S)

        self._watchers += [Watcher("bus", listen), Watcher("bus-state", state, lambda _: (BusState(False),))]

    def watch_replication(self, replication: Replication, counters: WriteCounters, sampling_s: float) -> None:
        async def volumes() -> None:
            self._put(SawStored(await replication.stored()))
            first = self._volumes is not None  # a restart of this watcher is a gap
            async for seen in replication.changes():
                if first:
                    seen, first = replace(seen, gap=True), False
                self._volumes = seen
                self._put(SawVolumes(seen))
                self.fresh_volumes.set()

        async def writes() -> None:
            while True:
                if self._volumes is not None:
                    samples = tuple(await counters.sample(self._volumes))
                    if samples:
                        self._put(SawWrites(samples))
                await self._clock.sleep(sampling_s)

        def blind(now: Instant) -> tuple[Event, ...]:
            if self._volumes is None:
                return ()
            self._volumes = Volumes(now, tuple(Replica(each.resource) for each in self._volumes.replicas), gap=True)
            return (SawVolumes(self._volumes),)

        self._watchers += [Watcher("replication", volumes, blind), Watcher("writes", writes)]

    def watch_members(self, members: MembersWatcher) -> None:
        async def changes() -> None:
            async for seen in members.watch(MEMBERS_S):
                self._put(SawMembers(seen))

        def blind(now: Instant) -> tuple[Event, ...]:
            return (SawMembers(Membership(now, Up.UNKNOWN, None, None, votes_three=False, ring=None)),)

        self._watchers.append(Watcher("members", changes, blind))

    def watch_cluster(self, cluster: Cluster) -> None:
        async def poll() -> None:
            while True:
                self._put(SawCluster(await cluster.view()))
                guard = self._guard()
                busy = braked(guard) or bool(guard.agents) or bool(guard.handlers) or guard.whole_since is None
                pause = CLUSTER_S_BUSY if busy else CLUSTER_S_CALM
                await self._clock.sleep(self._clock.jitter(0.8 * pause, 1.2 * pause))

        self._watchers.append(Watcher("cluster", poll, lambda now: (SawCluster(unseen_cluster(now)),)))

    def watch_links(self, links: Links) -> None:
        async def changes() -> None:
            async for sighting in links.changes():
                self._put(Seen(sighting))

        self._watchers.append(Watcher("links", changes))  # the core keeps what it knew; the standing sign brakes

    def watch_switch(self, switch: Switch, poll_s: float) -> None:
        poke = self._poke.setdefault(switch.name, asyncio.Event())

        async def poll() -> None:
            while True:
                self._put(Seen(await switch.poll()))
                try:
                    async with asyncio.timeout(self._clock.jitter(0.85 * poll_s, 1.15 * poll_s)):
                        await poke.wait()
                    await self._clock.sleep(TRAP_S_MIN)
                except TimeoutError:
                    pass
                poke.clear()

        def blind(now: Instant) -> tuple[Event, ...]:
            return (Seen(SwitchSighting(switch.name, now, False, error="its watcher died")),)

        self._watchers.append(Watcher(f"switch-{switch.name}", poll, blind))

    def watch_traps(self, traps: Traps, name_of: dict[str, str]) -> None:
        async def wake() -> None:
            async for address in traps.heard():
                poke = self._poke.get(name_of.get(address, ""))
                if poke is not None:
                    poke.set()

        self._watchers.append(Watcher("traps", wake))

    def watch_probe(self, probe: ProbeWatcher) -> None:
        async def changes() -> None:
            async for answered in probe.changes():
                self._put(SawProbe(answered))

        self._watchers.append(Watcher("probe", changes, lambda _: (SawProbe(None),)))

    def names(self) -> Sequence[str]:
        return [watcher.name for watcher in self._watchers]


def _name(ended: BaseException | None) -> str:
    return "it ended" if ended is None else type(ended).__name__


def _where(error: BaseException | None) -> str:
    """A bug as whoever mends it needs it: kind, text, and the line that raised it."""
    at = error.__traceback__ if error is not None else None
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    line = f" ({at.tb_frame.f_code.co_filename}:{at.tb_lineno})" if at is not None else ""
    return f"{_name(error)}: {error}{line}"
