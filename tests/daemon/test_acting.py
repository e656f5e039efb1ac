"""The hands: what they refuse to do too late, what has a deadline, and how they word what did not happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from guard.adapters.clock import BootClock
from guard.core.evidence import PendingShot, Power, Volumes
from guard.core.instant import Instant, after
from guard.core.messages import Bye
from guard.core.step import (
    AnswerAgent,
    AskForecast,
    Bar,
    ClearHold,
    Effect,
    Event,
    Fire,
    Forecasted,
    HoldWritten,
    OutdateOwn,
    PowerOn,
    PowerRead,
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
from guard.daemon import acting as hands
from guard.daemon.acting import Acting, Waiting, World
from guard.daemon.wiring import device
from guard.errors import InvariantBroken, Unavailable
from guard.ports import DeviceSettings, ShotResult
from guard.settings import Fence
from tests.adapters.bus_contract import until

SHOT = PendingShot("b", "reboot", "pacemaker-controld.1", "a", "pending")


@dataclass
class Bench:
    """Every port that these tests need, each the simplest real answer; what was logged and done is kept."""

    clock: BootClock = field(default_factory=BootClock)
    fired: list[str] = field(default_factory=list)
    started: bool = True
    purged: bool = True
    cleared: list[bool] = field(default_factory=list)
    shots_cleared: list[bool] = field(default_factory=list)
    restores: list[bool] = field(default_factory=lambda: [True] * 9)
    hangs: bool = False
    switched: int = 0
    ended: int = 0
    events: list[Event] = field(default_factory=list)
    logged: list[tuple[str, str]] = field(default_factory=list)
    waiting: Waiting = field(default_factory=Waiting)

    # ---- guard.ports.Shooter
    async def fire(
        self, device: DeviceSettings, action: str, node: str, shot_id: str, start_by: Instant | None
    ) -> ShotResult:
        self.fired.append(shot_id)
        code = 0 if self.started else None
        return ShotResult(code, True, self.clock.now(), 0, 0, "too late", started=self.started)

    # ---- guard.daemon.acting.PowerSwitch
    async def on(self, device: DeviceSettings, node: str) -> bool:
        self.switched += 1
        try:
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.ended += 1
        return True

    # ---- guard.ports.Cluster
    async def purge(self, shot: PendingShot) -> bool:
        return self.purged

    async def restore_devices(self) -> bool:
        return self.restores.pop(0)

    async def clear_hold(self, hold_id: str) -> bool:
        return self.cleared.pop(0)

    def emit(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        self.logged.append((event, text))

    @asynccontextmanager
    async def hands(self, timeout_s: float = 20.0, stuck: frozenset[str] = frozenset()) -> AsyncIterator[Acting]:
        port: Any = self
        devices = {"b": DeviceSettings("fence_x", {}, 1.0, timeout_s)}
        world = World(port, port, port, port, port, port, port, devices)
        acting = Acting(world, self.clock, self.events.append, self.emit, self.waiting, stuck)
        running = asyncio.create_task(acting.run())
        try:
            yield acting
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_shot_in_time_is_fired_once() -> None:
    """Before `start_by` the delegate runs, exactly once."""
    bench = Bench()
    async with bench.hands() as acting:
        acting.carry_out(Fire("shot-1", "off", "b", after(bench.clock.now(), 60)))
        await until(lambda: bool(bench.events), "it ended")
    assert (bench.fired, bench.events) == (["shot-1"], [ShotEnded("shot-1", 0, clean=True)])


@pytest.mark.asyncio
async def test_a_process_paused_before_the_spawn_fires_nothing() -> None:
    """S4: a guard that was paused between the last look and the spawn starts nothing after `start_by`."""
    bench = Bench()
    async with bench.hands() as acting:
        acting.carry_out(Fire("shot-1", "off", "b", after(bench.clock.now(), -0.001)))
        await until(lambda: bool(bench.events), "it ended")
    assert (bench.fired, bench.events) == ([], [ShotEnded("shot-1", None, clean=True, started=False)])


@pytest.mark.asyncio
async def test_a_delegate_that_was_not_started_is_said_to_be_none() -> None:
    """What the delegate's own process refused was never sent; people read that, and nothing is left to drain."""
    bench = Bench(started=False)
    async with bench.hands() as acting:
        acting.carry_out(Fire("shot-1", "off", "b", after(bench.clock.now(), 60)))
        await until(lambda: bool(bench.events), "it ended")
    assert bench.events == [ShotEnded("shot-1", None, clean=True, started=False)]
    assert bench.logged == [("shot-abandoned", "nothing was sent to the fence device of b: too late")]


@pytest.mark.asyncio
async def test_switching_on_after_a_reboot_has_a_deadline_and_no_say_in_the_answer() -> None:
    """A fence device that hangs over `on`: the agent is answered all the same, the order is ended and said to fail."""
    bench = Bench(hangs=True)
    timeout_s = 0.2 - hands.ON_GRACE_S  # the deadline is the sum of both: 0.2 s
    answer = asyncio.get_running_loop().create_future()
    bench.waiting.answers["q"] = answer
    async with bench.hands(timeout_s) as acting:
        acting.carry_out(PowerOn("b"))
        acting.carry_out(AnswerAgent("q", True, "confirmed-off", "b is off, read back twice"))
        assert (await asyncio.wait_for(answer, 20))["confirmed"] is True
        await until(lambda: bench.ended == 1, "the hanging order is ended")
        assert [event for event, _ in bench.logged] == ["hand-failed"]
        bench.hangs = False
        acting.carry_out(PowerOn("b"))
        await until(lambda: bench.ended == 2, "the next order is not held up by the last")
    assert len(bench.logged) == 1


@pytest.mark.asyncio
async def test_a_shot_whose_agent_runs_is_said_to_stay_and_not_to_have_failed() -> None:
    """Our own agent blocks with the fencer: that its shot cannot be purged is how it should be, not a failed hand."""
    bench = Bench(purged=False)
    async with bench.hands() as acting:
        acting.carry_out(PurgeShot(SHOT))
        await until(lambda: bool(bench.logged), "it is said")
    [(event, text)] = bench.logged
    assert event == "shot-stays"
    assert "fires nothing while the pair is held" in text
    assert "not carried out" not in text


@pytest.mark.asyncio
async def test_taking_the_hold_back_is_done_only_when_it_was_read_back() -> None:
    """S7: an edit that did not show in the cluster afterwards is reported as not done, so the core asks again."""
    bench = Bench(cleared=[False, True])
    async with bench.hands() as acting:
        for count in (1, 2):
            acting.carry_out(ClearHold("pairguard:a+b"))
            await until(lambda n=count: len(bench.events) == n, "the hand says how it ended")  # type: ignore[misc]
    assert bench.events == [HoldWritten(False, False), HoldWritten(False, True)]


@pytest.mark.asyncio
async def test_devices_that_a_purge_stopped_are_given_back_at_every_start() -> None:
    """S7, L1: a guard killed amid a purge left them stopped, and the cluster could fence nobody; until it answers."""
    bench = Bench(restores=[False, True])
    bench.clock = QuickClock()
    async with bench.hands():
        await until(lambda: not bench.restores, "it was tried until it was done")
        await asyncio.sleep(0.1)
    assert bench.restores == []


class QuickClock(BootClock):
    """Its seconds are milliseconds."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)


class StuckShooter(Bench):
    """A shot that cannot be ended at first."""

    async def fire(self, *_: Any) -> ShotResult:
        raise Unavailable("cannot end the shot", "processes do not die")

    async def end(self, shot_id: str) -> None:
        if not self.shots_cleared.pop(0):
            raise Unavailable("cannot end the shot", "processes do not die")


@pytest.mark.asyncio
async def test_a_shot_that_cannot_be_ended_is_tried_again_and_again_until_it_is() -> None:
    """S4: its drain begins only once nothing of it is left; until then the hand repeats `end` and says nothing."""
    bench = StuckShooter(shots_cleared=[False, False, True])
    async with bench.hands() as acting:
        acting.carry_out(Fire("shot-1", "off", "b", after(bench.clock.now(), 60)))
        await until(lambda: len(bench.shots_cleared) == 2, "it was tried once")
        assert bench.events == []
        await until(lambda: bool(bench.events), "it ended")
    assert bench.shots_cleared == []
    assert bench.events == [ShotEnded("shot-1", None, clean=False)]


@pytest.mark.asyncio
async def test_an_earlier_guards_shot_that_does_not_die_is_ended_as_soon_as_it_does() -> None:
    """S4: the drain of what was stuck at the start begins with its end, and nothing else waits for it."""
    bench = StuckShooter(shots_cleared=[False, True])
    async with bench.hands(stuck=frozenset({"old"})) as acting:
        acting.carry_out(PurgeShot(SHOT))
        await until(lambda: bool(bench.events), "it ended")
    assert bench.events == [ShotEnded("old", None, clean=False)]


@pytest.mark.asyncio
async def test_drbd_is_read_anew_when_the_core_wants_to_know() -> None:
    """What was read comes back as any look does. Looks never overlap: whatever is asked for while one runs is one more,
    for that one may have read its resource before the question."""

    class Disks(Bench):
        reads = 0

        async def read(self) -> Volumes:
            self.reads += 1
            now = self.reads
            await asyncio.sleep(0.01)
            assert now == self.reads, "they never overlap"
            return Volumes(Instant(now), ())

    bench = Disks()
    async with bench.hands() as acting:
        acting.carry_out(ReadVolumes())
        await until(lambda: bench.reads == 1, "it is being read")
        acting.carry_out(ReadVolumes())
        acting.carry_out(ReadVolumes())
        await until(lambda: len(bench.events) == 2, "it was read, and once more")
        await asyncio.sleep(0.05)
        acting.carry_out(ReadVolumes())
        await until(lambda: len(bench.events) == 3, "asked for anew")
        await asyncio.sleep(0.05)
    assert bench.events == [SawVolumes(Volumes(Instant(number), ())) for number in (1, 2, 3)]


FAR = Instant(2**62)
FAILED: list[tuple[Effect, Event | None]] = [
    (Send("arbiter", Bye("x"), 1.0), None),
    (ReadVolumes(), None),
    (ReadPower("t", "b", 0.0), PowerRead("t", Power.UNKNOWN)),
    (Fire("i", "off", "b", FAR), ShotEnded("i", None, clean=False)),
    (PowerOn("b"), None),
    (SuspendWrites("n"), Suspended("n", False)),
    (ResumeWrites(), Resumed(False)),
    (OutdateOwn(), None),
    (SetHold("h"), HoldWritten(True, False)),
    (ClearHold("h"), HoldWritten(False, False)),
    (AskForecast("b", True), None),
    (PurgeShot(SHOT), None),
    (Bar("b", True), None),
    (Unblock(), None),
]


class Buggy(Bench):
    """Every order raises what nobody foresaw, but that what a shot left can be cleared."""

    kind: type[BaseException] = OSError

    async def end(self, shot_id: str) -> None:
        self.shots_cleared.append(True)

    async def order(self, *_: object, **__: object) -> bool:
        raise self.kind(28, "No space left on device")

    fire = on = purge = clear_hold = order  # type: ignore[assignment]
    send = status = set_hold = forecast = bar = suspend = resume = outdate = unblock = order


@pytest.mark.parametrize(("effect", "failed"), FAILED, ids=[type(each).__name__ for each, _ in FAILED])
@pytest.mark.asyncio
async def test_a_hand_that_meets_a_bug_fails_alone(effect: Effect, failed: Event | None) -> None:
    """A full /tmp, no file descriptors left: it is paged, the core hears of a failure, the other hands go on."""
    bench = Buggy()
    async with bench.hands() as acting:
        for count in (1, 2):
            acting.carry_out(effect)
            await until(lambda n=count: len(bench.logged) == n, "it is said")  # type: ignore[misc]
            heard = count if failed is not None or isinstance(effect, AskForecast) else 0
            await until(lambda n=heard: len(bench.events) == n, "the core hears it")  # type: ignore[misc]
            await until(lambda: not acting._busy, "the hand is free again")
    assert {event for event, _ in bench.logged} == {"bug"}
    if isinstance(effect, AskForecast):
        assert all(isinstance(e, Forecasted) and not e.forecast.harmless() for e in bench.events)
    elif failed is not None:
        assert bench.events == [failed, failed]
    assert bool(bench.shots_cleared) == isinstance(effect, Fire)


@pytest.mark.asyncio
async def test_a_broken_invariant_in_a_hand_ends_the_guard() -> None:
    """Nothing swallows it, so that nothing is done after it."""
    bench = Buggy()
    bench.kind = InvariantBroken
    port: Any = bench
    world = World(port, port, port, port, port, port, port, {})
    acting = Acting(world, bench.clock, bench.events.append, bench.emit, bench.waiting)
    running = asyncio.create_task(acting.run())
    await asyncio.sleep(0)
    acting.carry_out(SetHold("h"))
    with pytest.raises(BaseExceptionGroup) as caught:
        await asyncio.wait_for(running, 20)
    assert caught.value.subgroup(InvariantBroken) is not None
    assert bench.logged == []


@pytest.mark.parametrize(
    ("delegate", "horizon", "stream", "horizon_s"),
    [
        ("fence_redfish", "auto", True, 120.0),
        ("fence_redfish", "300s", False, 300.0),
        ("fence_ipmilan", "auto", False, 75.0),
    ],
)
def test_a_shot_drains_at_once_only_by_an_agent_that_is_known_for_it(
    delegate: str, horizon: str, stream: bool, horizon_s: float
) -> None:
    """S4: who names a horizon knows of something that may wait longer, in a manager's queue for example."""
    fence = Fence.model_validate({"delegate": delegate, "options": {"lanplus": "1"}, "horizon": horizon})
    made = device(fence)
    assert (made.stream, made.horizon_s) == (stream, horizon_s)
