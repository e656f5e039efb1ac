"""The guard's hands: each effect of the core carried out on the world, its result brought back as an event.

1. Orders of one kind to one place never overlap; what is asked again meanwhile is dropped, for the core repeats it.
   Only a look is then taken once more: the one under way may have read its resource before the question.
2. A hand that meets a bug of ours fails alone: it is paged, and the core hears the failure of what it ordered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from guard.core.evidence import Forecast, PendingShot, Power
from guard.core.instant import Instant
from guard.core.step import (
    AnswerAgent,
    AnswerHandler,
    AnswerPerson,
    AskForecast,
    Bar,
    ClearHold,
    Effect,
    Event,
    Fire,
    Forecasted,
    HoldWritten,
    Note,
    OutdateOwn,
    Persisted,
    PowerOn,
    PowerRead,
    Progress,
    PurgeShot,
    ReadPower,
    ReadVolumes,
    Resumed,
    ResumeWrites,
    SawVolumes,
    Send,
    SetHold,
    ShotEnded,
    Suspended,
    SuspendWrites,
    Unblock,
)
from guard.errors import PairguardError
from guard.events import Emit
from guard.ports import Bus, Clock, Cluster, DeviceSettings, Members, PowerReader, Replication, Shooter

OUTBOX_MAX = 512
END_AGAIN_S = 1.0  # how often a shot that cannot be ended is tried again
RESTORE_AGAIN_S = 5.0
SENDERS = 4
POWER_S_MAX = 10.0  # a fresh device session that takes longer than this says nothing
ON_GRACE_S = 12.0  # besides the device's own timeout, for switching on: the supervisor ends what hangs within 10 s


class PowerSwitch(Protocol):
    """Switches a node on by its fence device: best effort, needs no right."""

    async def on(self, device: DeviceSettings, node: str) -> bool: ...


@dataclass(slots=True)
class Waiting:
    """Clients that wait for an answer, by request id."""

    answers: dict[str, asyncio.Future[Mapping[str, object]]] = field(default_factory=dict)
    progress: dict[str, Callable[[str], None]] = field(default_factory=dict)

    def settle(self, request: str, answer: Mapping[str, object]) -> None:
        future = self.answers.get(request)
        if future is not None and not future.done():
            future.set_result(answer)

    def tell(self, request: str, text: str) -> None:
        say = self.progress.get(request)
        if say is not None:
            say(text)


@dataclass(frozen=True, slots=True)
class World:
    """What the hands act on."""

    bus: Bus
    replication: Replication
    members: Members
    cluster: Cluster
    shooter: Shooter
    reader: PowerReader
    power: PowerSwitch
    devices: Mapping[str, DeviceSettings]


async def switched_on(world: World, target: str) -> str | None:
    """Switch `target` on by its fence device. None: done; else why not, after `timeout` + 12 s at the latest."""
    device = world.devices[target]
    try:
        async with asyncio.timeout(device.timeout_s + ON_GRACE_S):
            return None if await world.power.on(device, target) else "the fence device did not say so"
    except TimeoutError:
        return f"the fence device was not done in {device.timeout_s + ON_GRACE_S:g} s"
    except PairguardError as error:
        return str(error)


class Acting:
    """`daemon.loop.Hands`. `run` owns every task that an effect needs."""

    def __init__(
        self,
        world: World,
        clock: Clock,
        put: Callable[[Event], None],
        emit: Emit,
        waiting: Waiting,
        stuck: frozenset[str] = frozenset(),
    ) -> None:
        """`stuck`: an earlier guard's shots with a process that does not die; they are ended as soon as it does."""
        self._world, self._clock, self._put, self._emit = world, clock, put, emit
        self._waiting, self._stuck = waiting, stuck
        self._outbox: asyncio.Queue[Send] = asyncio.Queue(maxsize=OUTBOX_MAX)
        self._group: asyncio.TaskGroup | None = None
        self._busy: set[str] = set()
        self._look_again = False  # asked for while one ran, which may have read its resource already
        self._early: list[Effect] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for number in range(SENDERS):
                group.create_task(self._sender(), name=f"sender-{number}")
            self._start("restore", self._restore())
            for intent in sorted(self._stuck):
                self._start(f"fire:{intent}", self._finish(intent))
            early, self._early = self._early, []
            for effect in early:
                self.carry_out(effect)

    def carry_out(self, effect: Effect) -> None:
        if self._group is None:
            self._early.append(effect)
            return
        cluster = self._world.cluster
        match effect:
            case Send():
                if self._outbox.full():
                    self._outbox.get_nowait()
                self._outbox.put_nowait(effect)
            case AnswerAgent(request, confirmed, reason, text):
                self._waiting.settle(request, {"confirmed": confirmed, "reason": reason, "text": text})
            case AnswerHandler(request, code, reason):
                self._waiting.settle(request, {"code": code, "reason": reason})
            case AnswerPerson(request, outcome, text, data):
                self._waiting.settle(request, {"outcome": outcome, "text": text, "data": data})
            case Progress(request, text):
                self._waiting.tell(request, text)
            case ReadPower(token, target, delay_s):
                self._start(f"power:{token}", self._read_power(token, target, delay_s), PowerRead(token, Power.UNKNOWN))
            case ReadVolumes():
                self._look_again = "look" in self._busy
                self._start("look", self._look())
            case Fire(intent, action, target, start_by):
                self._start(f"fire:{intent}", self._shot(intent, self._fire(intent, action, target, start_by)))
            case PowerOn(target):
                self._start(f"on:{target}", self._power_on(target))
            case SuspendWrites(nonce):
                self._start(f"suspend:{nonce}", self._suspend(nonce), Suspended(nonce, False))
            case ResumeWrites():
                self._start("resume", self._resume(), Resumed(False))
            case OutdateOwn():
                self._start("outdate", self._hand("outdate", self._world.replication.outdate))
            case SetHold(hold_id):
                self._start("hold", self._hold(hold_id, on=True), HoldWritten(True, False))
            case ClearHold(hold_id):
                self._start("hold", self._hold(hold_id, on=False), HoldWritten(False, False))
            case AskForecast(lost, without_hold):
                unknown = Forecasted(without_hold, Forecast(error="the question met a bug"))
                self._start(f"forecast:{without_hold}", self._forecast(lost, without_hold), unknown)
            case PurgeShot(shot):
                self._start(f"purge:{shot.target}", self._purge(shot))
            case Bar(node, on):
                self._start(f"bar:{node}", self._hand(f"bar {node} {on}", lambda: cluster.bar(node, on=on)))
            case Unblock():
                self._start("unblock", self._hand("unblock", self._world.members.unblock))
            case Note() | Persisted():
                pass  # the loop's own

    def _start(self, key: str, work: Coroutine[Any, Any, None], failed: Event | None = None) -> None:
        """`failed`: what the core hears if a bug of ours ends the work."""
        if key in self._busy or self._group is None:
            work.close()
            return
        self._busy.add(key)
        self._group.create_task(self._once(key, work, failed), name=key)

    async def _once(self, key: str, work: Coroutine[Any, Any, None], failed: Event | None) -> None:
        if await self._met_a_bug(key.partition(":")[0], self._busily(key, work)) and failed is not None:
            self._put(failed)

    async def _busily(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._busy.discard(key)

    async def _met_a_bug(self, hand: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work`; True if it ended by an exception that nobody foresaw, which is paged."""
        ended: BaseException | None = (await asyncio.gather(work, return_exceptions=True))[0]
        if ended is None:
            return False
        if not isinstance(ended, Exception):
            raise ended  # InvariantBroken: nothing survives it
        name = type(ended).__name__
        self._emit("bug", f"the hand {hand} met a bug: {name}: {ended}", {"error": name}, page=True)
        return True

    async def _sender(self) -> None:
        while True:
            await self._met_a_bug("send", self._sent(await self._outbox.get()))

    async def _sent(self, send: Send) -> None:
        try:
            await self._world.bus.send(send.to, send.message, expires_s=send.expires_s)
        except (PairguardError, ValueError) as error:  # too large: this one message, not the guard
            kind = send.message.kind
            self._emit("not-sent", f"{kind} to {send.to}: {error}", {"kind": kind}, page=True)

    async def _read_power(self, token: str, target: str, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        device = self._world.devices.get(target)
        power = Power.UNKNOWN
        if device is not None:
            power = await self._world.reader.status(device, target, POWER_S_MAX)
        self._put(PowerRead(token, power))

    async def _look(self) -> None:
        while True:
            self._put(SawVolumes(await self._world.replication.read()))
            if not self._look_again:
                return
            self._look_again = False

    async def _shot(self, intent: str, work: Coroutine[Any, Any, None]) -> None:
        if await self._met_a_bug("fire", work):
            await self._finish(intent)

    async def _fire(self, intent: str, action: str, target: str, start_by: Instant) -> None:
        device = self._world.devices[target]
        if self._clock.now() > start_by:
            # This process was paused between the last look and here: the moment for this shot has passed.
            self._emit("shot-abandoned", f"nothing was sent to the fence device of {target}: start_by has passed", {})
            self._put(ShotEnded(intent, None, clean=True, started=False))
            return
        try:
            result = await self._world.shooter.fire(device, action, target, intent, start_by)
        except PairguardError as error:
            # Nothing was started, or it cannot be ended: its drain begins only once nothing of it is left.
            self._emit("hand-failed", f"the shot at {target}: {error}", {"hand": "fire"}, page=True)
            await self._finish(intent)
            return
        if not result.started:
            text = f"nothing was sent to the fence device of {target}: {result.output.strip() or 'it did not start'}"
            self._emit("shot-abandoned", text, {})
        self._put(ShotEnded(intent, result.exit_code, result.clean, result.started))

    async def _finish(self, intent: str) -> None:
        """End what is left of that one shot, however long it takes; readings and other shots go on beside it."""
        while True:
            try:
                await self._world.shooter.end(intent)
                break
            except (PairguardError, OSError):
                await self._clock.sleep(END_AGAIN_S)
        self._put(ShotEnded(intent, None, clean=False))

    async def _restore(self) -> None:
        """Give back what a purge of an earlier guard left on fence devices: stopped ones let the cluster fence nobody.

        The cluster starts after the guard, so this is tried until it has answered once."""
        while True:
            try:
                if await self._world.cluster.restore_devices():
                    return
            except PairguardError as error:
                self._emit("hand-failed", f"fence devices after a purge: {error}", {"hand": "restore"})
            await self._clock.sleep(RESTORE_AGAIN_S)

    async def _resume(self) -> None:
        try:
            done = await self._world.replication.resume()
        except PairguardError as error:
            self._emit("hand-failed", f"resume-io: {error}", {"hand": "resume"})
            done = False
        self._put(Resumed(done))

    async def _power_on(self, target: str) -> None:
        """The `on` of a reboot, once and best effort: the agent was answered before, and nothing waits for it."""
        why = await switched_on(self._world, target)
        if why is not None:
            self._emit("hand-failed", f"could not switch {target} on again: {why}", {"hand": "power-on"})

    async def _suspend(self, nonce: str) -> None:
        try:
            done = await self._world.replication.suspend()
        except PairguardError as error:
            self._emit("hand-failed", f"suspend-io: {error}", {"hand": "suspend"})
            done = False
        self._put(Suspended(nonce, done))

    async def _hold(self, hold_id: str, *, on: bool) -> None:
        cluster = self._world.cluster
        try:
            if on:
                done = await cluster.set_hold(hold_id)
                if done and cluster.removed_default():
                    text = "an explicit maintenance-mode=false in the cluster's defaults hid our hold: removed"
                    self._emit("default-removed", text, {})
            else:  # devices first: without them the cluster could fence nobody once the hold is gone
                done = await cluster.restore_devices() and await cluster.clear_hold(hold_id)
        except PairguardError as error:
            self._emit("hand-failed", f"maintenance-mode {on}: {error}", {"hand": "hold"})
            done = False
        self._put(HoldWritten(on, done))

    async def _purge(self, shot: PendingShot) -> None:
        try:
            done = await self._world.cluster.purge(shot)
        except PairguardError as error:
            self._emit("hand-failed", f"purge of the shot at {shot.target}: {error}", {"hand": "purge"})
            return
        if not done:
            text = (
                f"the shot at {shot.target} stays with the cluster's fencer: its agent runs already, or the cluster "
                "did not take the edit. Our own agent (fence_pairguard) fires nothing while the pair is held"
            )
            self._emit("shot-stays", text, {"target": shot.target})

    async def _forecast(self, lost: str | None, without_hold: bool) -> None:
        try:
            found = await self._world.cluster.forecast(lost=lost, without_hold=without_hold)
        except PairguardError as error:
            found = Forecast(error=str(error))
        self._put(Forecasted(without_hold, found))

    async def _hand(self, name: str, order: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        try:
            done = await order()
        except PairguardError as error:
            self._emit("hand-failed", f"{name}: {error}", {"hand": name})
            return
        if not done:
            self._emit("hand-failed", f"{name}: was not carried out", {"hand": name})
