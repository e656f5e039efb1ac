"""The guard's eyes: each watcher is a task of its own that turns sightings into events.

A watcher that dies does not fell the others: it is logged, is itself a sign, and is started again with a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Protocol

from guard.core.disturbance import WatcherSeen
from guard.core.evidence import Membership, Volumes
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


class Watching:
    """All watchers of one guard. `run` ends only by cancellation."""

    def __init__(self, clock: Clock, put: Callable[[Event], None], guard: Callable[[], Guard], emit: Emit) -> None:
        self._clock, self._put, self._guard, self._emit = clock, put, guard, emit
        self._watchers: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._poke: dict[str, asyncio.Event] = {}
        self._volumes: Volumes | None = None
        self.fresh_volumes = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, watcher in self._watchers:
                group.create_task(self._kept_alive(name, watcher), name=f"watch-{name}")

    async def _kept_alive(self, name: str, watcher: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause_s, dead = RESTART_S_MIN, False
        while True:
            began = self._clock.now()
            work = asyncio.ensure_future(watcher())
            try:
                if dead:
                    await asyncio.wait({work}, timeout=BACK_S)
                    if not work.done():
                        dead = False
                        self._put(Seen(WatcherSeen(name, alive=True)))
                        self._emit("watcher-back", f"{name} sees again", {"watcher": name})
                await work
                why = "it ended"
            except (PairguardError, OSError, ValueError) as error:
                why = str(error) or type(error).__name__
            finally:
                work.cancel()  # without effect on what is done
            if not dead:
                dead = True
                self._put(Seen(WatcherSeen(name, alive=False, text=why)))
                self._emit("watcher-lost", f"{name}: {why}", {"watcher": name})
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

        self._watchers += [("bus", listen), ("bus-state", state)]

    def watch_replication(self, replication: Replication, counters: WriteCounters, sampling_s: float) -> None:
        async def volumes() -> None:
            self._put(SawStored(await replication.stored()))
            first = self._volumes is not None  # a restart of this watcher is a gap
            async for seen in replication.changes():
                if first:
                    seen, first = Volumes(seen.at, seen.replicas, gap=True), False
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

        self._watchers += [("replication", volumes), ("writes", writes)]

    def watch_members(self, members: MembersWatcher) -> None:
        async def changes() -> None:
            async for seen in members.watch(MEMBERS_S):
                self._put(SawMembers(seen))

        self._watchers.append(("members", changes))

    def watch_cluster(self, cluster: Cluster) -> None:
        async def poll() -> None:
            while True:
                self._put(SawCluster(await cluster.view()))
                guard = self._guard()
                busy = braked(guard) or bool(guard.agents) or bool(guard.handlers) or guard.whole_since is None
                pause = CLUSTER_S_BUSY if busy else CLUSTER_S_CALM
                await self._clock.sleep(self._clock.jitter(0.8 * pause, 1.2 * pause))

        self._watchers.append(("cluster", poll))

    def watch_links(self, links: Links) -> None:
        async def changes() -> None:
            async for sighting in links.changes():
                self._put(Seen(sighting))

        self._watchers.append(("links", changes))

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

        self._watchers.append((f"switch-{switch.name}", poll))

    def watch_traps(self, traps: Traps, name_of: dict[str, str]) -> None:
        async def wake() -> None:
            async for address in traps.heard():
                poke = self._poke.get(name_of.get(address, ""))
                if poke is not None:
                    poke.set()

        self._watchers.append(("traps", wake))

    def watch_probe(self, probe: ProbeWatcher) -> None:
        async def changes() -> None:
            async for answered in probe.changes():
                self._put(SawProbe(answered))

        self._watchers.append(("probe", changes))

    def names(self) -> Sequence[str]:
        return [name for name, _ in self._watchers]
