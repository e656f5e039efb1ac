"""The ports of one simulated machine: `guard.ports` over a connection to the simulated site.

A machine that is gone answers nothing: reads become UNKNOWN, orders False. Nothing here can be named in settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from guard.core.evidence import (
    SHOTS_UNREAD,
    ClusterView,
    Forecast,
    Membership,
    PendingShot,
    Power,
    Replica,
    SwitchSighting,
    Up,
    Volumes,
    WriteSample,
)
from guard.core.instant import Instant
from guard.errors import Unavailable
from guard.ports import Cleared, Clock, DeviceSettings, ShotResult
from guard.rehearsal.simulated.site import (
    FORECAST,
    LINE_MAX,
    MEMBERSHIP,
    RESULT,
    SAMPLE,
    SHOT,
    VIEW,
    VOLUMES,
)

ANSWER_S_MAX = 5.0


class WorldLink:
    """One connection to the site. `node` None: a person's. `run` ends with `Unavailable` when the site is gone."""

    def __init__(self, socket: Path, node: str | None) -> None:
        self._socket, self._node = socket, node
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self.ready = asyncio.Event()
        self.followers: list[asyncio.Queue[Volumes]] = []
        self.cluster_changed = asyncio.Event()

    async def run(self) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket, limit=LINE_MAX)
        except OSError as error:
            raise Unavailable(
                f"cannot reach the sandbox at {self._socket}", error.strerror or str(error), "run: pairguard sandbox up"
            ) from error
        self._writer = writer
        try:
            if self._node is not None:
                writer.write(json.dumps({"hello": self._node}).encode() + b"\n")
            else:
                self.ready.set()
            with contextlib.suppress(OSError):
                while line := await reader.readline():
                    self._take(json.loads(line))
        finally:
            self._writer = None
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(Unavailable("cannot ask the sandbox", "it is gone"))
            writer.transport.abort()
        raise Unavailable("lost the sandbox", "its world process ended", "run: pairguard sandbox up")

    def _take(self, said: dict[str, Any]) -> None:
        match said:
            case {"welcome": _}:
                self.ready.set()
            case {"push": "volumes", "value": value}:
                seen = VOLUMES.validate_python(value)
                for follower in self.followers:
                    follower.put_nowait(seen)
            case {"push": _}:
                self.cluster_changed.set()
            case {"id": int(number), "ok": value}:
                future = self._asked.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(value)
            case {"id": int(number), "error": str(text)}:
                future = self._asked.pop(number, None)
                if future is not None and not future.done():
                    future.set_exception(Unavailable("the sandbox refused", text))

    async def ask(self, op: str, deadline_s: float = ANSWER_S_MAX, **args: Any) -> Any:
        """The answer. `Unavailable`: not connected, refused, or silent for `deadline_s`."""
        if self._writer is None:
            raise Unavailable("cannot ask the sandbox", "not connected", "run: pairguard sandbox up")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._writer.write(json.dumps({"id": number, "op": op, "args": args}).encode() + b"\n")
        try:
            async with asyncio.timeout(deadline_s):
                return await future
        except TimeoutError as error:
            raise Unavailable("cannot ask the sandbox", f"no answer to {op} in {deadline_s:g} s") from error
        finally:
            self._asked.pop(number, None)

    async def order(self, op: str, **args: Any) -> bool:
        """True only if the site says that it was done."""
        try:
            return await self.ask(op, **args) is True
        except Unavailable:
            return False


class SimulatedReplication:
    """`guard.ports.Replication`."""

    def __init__(self, link: WorldLink, resources: Sequence[str], clock: Clock) -> None:
        self._link, self._resources, self._clock = link, tuple(resources), clock

    def _unknown(self) -> Volumes:
        replicas = tuple(Replica(name, suspended=None) for name in self._resources)
        return Volumes(self._clock.now(), replicas)

    def _named(self, seen: Volumes) -> Volumes:
        """One replica for each configured resource, in order; what the site does not have is UNKNOWN."""
        known = {r.resource: r for r in seen.replicas}
        replicas = tuple(known.get(name) or Replica(name, suspended=None) for name in self._resources)
        return replace(seen, replicas=replicas)

    async def _ask(self, op: str) -> Volumes:
        try:
            return self._named(VOLUMES.validate_python(await self._link.ask(op)))
        except Unavailable:
            return self._unknown()

    async def read(self) -> Volumes:
        return await self._ask("volumes")

    async def stored(self) -> Volumes:
        return await self._ask("stored")

    async def changes(self) -> AsyncIterator[Volumes]:
        queue: asyncio.Queue[Volumes] = asyncio.Queue()
        self._link.followers.append(queue)
        try:
            yield await self._ask("follow")
            while True:
                yield self._named(await queue.get())
        finally:
            self._link.followers.remove(queue)

    async def suspend(self) -> bool:
        return await self._link.order("suspend")

    async def resume(self) -> bool:
        return await self._link.order("resume")

    async def outdate(self) -> bool:
        return await self._link.order("outdate")


class SimulatedCounters:
    """`guard.ports.WriteCounters`."""

    def __init__(self, link: WorldLink) -> None:
        self._link = link

    async def sample(self, volumes: Volumes) -> Sequence[WriteSample]:
        try:
            return (SAMPLE.validate_python(await self._link.ask("sample")),)
        except Unavailable:
            return ()


class SimulatedMembers:
    """`guard.ports.Members` with `watch`."""

    def __init__(self, link: WorldLink, clock: Clock) -> None:
        self._link, self._clock = link, clock

    async def read(self) -> Membership:
        try:
            return MEMBERSHIP.validate_python(await self._link.ask("members"))
        except Unavailable:
            return Membership(self._clock.now(), Up.UNKNOWN, None, None, False, None)

    async def unblock(self) -> bool:
        return await self._link.order("unblock")

    async def watch(self, poll_s: float) -> AsyncIterator[Membership]:
        """At once, then at least every `poll_s`, and as soon as the membership changed."""
        while True:
            self._link.cluster_changed.clear()
            yield await self.read()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await self._link.cluster_changed.wait()


class SimulatedCluster:
    """`guard.ports.Cluster`."""

    def __init__(self, link: WorldLink, clock: Clock) -> None:
        self._link, self._clock = link, clock

    async def view(self) -> ClusterView:
        try:
            return VIEW.validate_python(await self._link.ask("view"))
        except Unavailable:
            return ClusterView(
                self._clock.now(), Up.UNKNOWN, Up.UNKNOWN, None, None, False, None, False, pending=(SHOTS_UNREAD,)
            )

    async def set_hold(self, hold_id: str) -> bool:
        return await self._link.order("set-hold", hold_id=hold_id)

    async def clear_hold(self, hold_id: str) -> bool:
        return await self._link.order("clear-hold", hold_id=hold_id)

    async def forecast(self, *, lost: str | None, without_hold: bool) -> Forecast:
        try:
            return FORECAST.validate_python(await self._link.ask("forecast", lost=lost, without_hold=without_hold))
        except Unavailable as error:
            return Forecast(error=str(error))

    async def pending(self) -> Sequence[PendingShot]:
        return (await self.view()).pending

    async def purge(self, shot: PendingShot) -> bool:
        return await self._link.order("purge", shot=SHOT.dump_python(shot, mode="json"))

    def removed_default(self) -> bool:
        """True if the last `set_hold` took an explicit maintenance-mode=false out of the cluster's defaults."""
        return False

    async def restore_devices(self) -> bool:
        return True  # a simulated purge leaves no mark on a device

    async def bar(self, node: str, *, on: bool) -> bool:
        return await self._link.order("bar", node=node, on=on)


class SimulatedDevice:
    """`guard.ports.Shooter` and `PowerReader`, and the hand that switches on: a power controller, no agent is run."""

    def __init__(self, link: WorldLink, clock: Clock) -> None:
        self._link, self._clock = link, clock

    def usable(self) -> str | None:
        return None

    async def clear(self) -> Cleared:
        return Cleared(0)  # the controller's session ends with the connection of the guard that had it

    async def end(self, shot_id: str) -> None:
        return None

    async def fire(
        self, device: DeviceSettings, action: str, node: str, shot_id: str, start_by: Instant | None
    ) -> ShotResult:
        if start_by is not None and self._clock.now() > start_by:
            return ShotResult(None, True, self._clock.now(), 0, 0, "start_by has passed", started=False)
        said = await self._link.ask(
            "fire",
            deadline_s=device.timeout_s + ANSWER_S_MAX,
            node=node,
            timeout_s=device.timeout_s,
            horizon_s=device.horizon_s,
        )
        return RESULT.validate_python(said)

    async def status(self, device: DeviceSettings, node: str, deadline_s: float) -> Power:
        try:
            return Power(await self._link.ask("power", deadline_s=deadline_s, node=node))
        except (Unavailable, ValueError):
            return Power.UNKNOWN

    async def on(self, device: DeviceSettings, node: str) -> bool:
        return await self._link.order("power-on", node=node)


class SimulatedSwitch:
    """`guard.ports.Switch`: the switch of the pair. It answers whoever reaches it; frozen, it is silent."""

    def __init__(self, name: str, link: WorldLink, clock: Clock) -> None:
        self.name, self._link, self._clock = name, link, clock

    async def poll(self) -> SwitchSighting:
        answered = await self._link.order("switch")
        return SwitchSighting(
            self.name,
            self._clock.now(),
            answered,
            engine_boots=1 if answered else None,
            topology_changes=1 if answered else None,
            error=None if answered else "timeout",
        )
