"""The loop: what was decided is on the disk before it is done, and a broken disk brakes but never wedges the guard."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from guard.adapters.clock import BootClock
from guard.adapters.journal import FileJournal
from guard.core.evidence import Disk, Forecast, Link, PendingShot, Power, Replica, Role, Volumes
from guard.core.instant import Instant, after
from guard.core.messages import Answer, Beat, Bye, Commit, SetInhibit
from guard.core.step import (
    AgentAsks,
    AnswerAgent,
    AnswerHandler,
    AnswerPerson,
    AskForecast,
    Bar,
    BusState,
    ClearHold,
    Effect,
    Fire,
    Forecasted,
    HandlerAsks,
    Intent,
    JournalState,
    Note,
    OpenHold,
    OutdateOwn,
    Persisted,
    PowerOn,
    PowerRead,
    Progress,
    PurgeShot,
    ReadPower,
    ReadVolumes,
    Reconsider,
    ResumeWrites,
    Send,
    SetHold,
    ShotEnded,
    Suspended,
    SuspendWrites,
    Tick,
    Unblock,
)
from guard.core.turn import AgentJob, HandlerJob, Right
from guard.daemon import loop as loops
from guard.daemon.loop import EVENTS_MAX
from guard.daemon.memory import record, remembered
from guard.errors import Unreadable
from tests.core.desk import QUIET, evidence
from tests.daemon.stage import A, B, HandClock, Stage

HOLD = OpenHold("q1", "k", "a person", "a reason", 600.0, 0.0)


def at(effects: list[object], kind: type[Any], message: type[Any] | None = None) -> int:
    """Where the first effect of that kind stands."""
    return next(
        n
        for n, each in enumerate(effects)
        if isinstance(each, kind) and (message is None or isinstance(each.message, message))
    )


@pytest.mark.asyncio
async def test_memory_is_durable_before_anything_is_said_or_done() -> None:
    """A person's hold: the disk first, then the answer, the arbiter and the cluster's property."""
    stage = Stage()
    await stage.put(Tick())
    stage.order.clear()
    await stage.put(HOLD)
    assert stage.order[0] == "durable"
    assert at(stage.order, AnswerPerson) > 0
    assert at(stage.order, Send, SetInhibit) > 0
    assert at(stage.order, SetHold) > 0
    memory = remembered(list(stage.records))
    assert memory == stage.guard.memory
    assert set(memory.inhibits) == {"person:k"}


def armed(**intent: Any) -> Stage:
    """An intent that is durable, its request armed, the own disk good: the next look fires."""
    clock = HandClock()
    start_by = after(clock.now(), 3.0)
    made = Intent("i1", 1, 2, B, "boot-1", start_by, 75.0, **intent)
    job = AgentJob("j1", "off", B, clock.now(), after(clock.now(), 60.0), stage="armed", intent="i1")
    replica = Replica("r0", Role.SECONDARY, Role.UNKNOWN, Disk.UP_TO_DATE, Disk.UNKNOWN, Link.CONNECTING)
    stage = Stage(clock, agents=(job,), volumes=Volumes(clock.now(), (replica,)))
    stage.loop.guard = replace(stage.guard, memory=replace(stage.guard.memory, intents=(made,)))
    return stage


@pytest.mark.asyncio
async def test_a_shot_is_fired_once_and_only_after_its_spawn_is_durable() -> None:
    """Durable, fire, and nothing on a second look."""
    stage = armed()
    await stage.put(Reconsider("i1"))
    assert stage.order.index("durable") < at(stage.order, Fire)
    await stage.put(Reconsider("i1"), Tick())
    assert len(stage.done(Fire)) == 1


@pytest.mark.asyncio
async def test_a_shot_that_could_not_be_journaled_is_not_fired_and_does_not_wedge_the_guard() -> None:
    """No Fire leaves; its failure comes back, the request is answered, and the intent is drained."""
    stage = armed()
    stage.failing = "No space left on device"
    await stage.put(Reconsider("i1"))
    assert stage.done(Fire) == []
    await stage.put(*(Tick(),) * 5)
    [intent] = stage.guard.memory.intents
    assert intent.drained is not None
    for read in stage.done(ReadPower):
        await stage.put(PowerRead(read.token, Power.ON))
    [answer] = stage.done(AnswerAgent)
    assert (answer.confirmed, answer.reason) == (False, "unconfirmed")
    stage.failing = None
    stage.clock.move(20.0)
    await stage.put(Tick())
    assert remembered(list(stage.records)) == stage.guard.memory


def granted() -> Stage:
    """A frozen primary's handler, with the right to run alone just won."""
    clock = HandClock()
    replica = Replica("r0", Role.PRIMARY, Role.UNKNOWN, Disk.UP_TO_DATE, Disk.UNKNOWN, Link.CONNECTING)
    right = Right("alone", 1, 2, clock.now(), connects=0, job="h1")
    job = HandlerJob("h1", "r0", after(clock.now(), -0.1), connects=0)
    stage = Stage(clock, volumes=Volumes(clock.now(), (replica,)), handlers=(job,), right=right)
    stage.loop.guard = replace(stage.guard, memory=replace(stage.guard.memory, era=1, version=2))
    return stage


@pytest.mark.asyncio
async def test_drbds_yes_waits_for_the_disk() -> None:
    """With a failing journal no 4 leaves; once its use is on the disk it does, once."""
    plain = granted()
    await plain.put(Tick())
    assert plain.order.index("durable") < at(plain.order, AnswerHandler)
    assert plain.done(AnswerHandler) == [AnswerHandler("h1", 4, "right-to-run-alone")]

    stage = granted()
    stage.failing = "Input/output error"
    await stage.put(*(Tick(),) * 50)
    assert stage.done(AnswerHandler) == []
    stage.failing = None
    stage.clock.move(5.0)
    await stage.put(Tick(), Tick())
    assert stage.done(AnswerHandler) == [AnswerHandler("h1", 4, "right-to-run-alone")]
    assert at(stage.order, AnswerHandler) > max(n for n, each in enumerate(stage.order) if each == "failed")
    assert "alone" in remembered(list(stage.records)).used  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_yes_whose_era_ended_while_the_disk_was_gone_becomes_a_no() -> None:
    """What waited for the disk rests on a win; if that era is over it says 1."""
    stage = granted()
    stage.failing = "Input/output error"
    await stage.put(Tick())
    stage.loop.guard = replace(stage.guard, memory=replace(stage.guard.memory, era=2))
    stage.failing = None
    stage.clock.move(5.0)
    await stage.put(Tick())
    assert stage.done(AnswerHandler) == [AnswerHandler("h1", 1, "journal-failed")]


@pytest.mark.asyncio
async def test_the_brake_leaves_without_a_disk() -> None:
    """A hold on a full disk: the property is set, beats go on and the core claims nothing; no person is told "done"."""
    stage = Stage()
    stage.failing = "No space left on device"
    await stage.put(Tick(), HOLD, *(Tick(),) * 10)
    assert stage.done(SetHold)
    assert [s for s in stage.done(Send) if isinstance(s.message, Beat)]
    assert stage.done(AnswerPerson) == []
    assert not stage.guard.journal_ok
    assert ("journal-failed", True) in stage.logged
    stage.failing = None
    stage.clock.move(5.0)
    await stage.put(Tick(), Tick())
    assert stage.guard.journal_ok
    assert remembered(list(stage.records)) == stage.guard.memory


@pytest.mark.asyncio
async def test_a_yield_that_could_not_be_carried_out_is_answered_as_none() -> None:
    """Suspend was not started: the promise is not given, and the guard does not wait for it for ever."""
    stage = Stage(yielding="n1")
    stage.failing = "No space left on device"
    await stage.put(HOLD)
    stage.loop._leave((SuspendWrites("n1"),))
    await stage.drain()
    assert stage.guard.yielding is None
    assert stage.guard.memory.promise is None


@pytest.mark.asyncio
async def test_a_hanging_disk_leaves_most_of_the_time_for_seeing_and_braking() -> None:
    """Each try takes 5 s: in a minute of events there are a few tries, not one an event."""
    stage = Stage()
    stage.failing, stage.hangs_s = "the disk did not answer", 5.0
    await stage.put(HOLD)
    tries = stage.order.count("failed")
    began = stage.clock.now()
    turns = stage.loop.turns
    while stage.clock.now() < after(began, 60.0):
        await stage.put(Tick())
    assert stage.order.count("failed") - tries <= 6
    assert stage.loop.turns - turns > 250


SENT = {
    "beat": Beat(1, None, False, None, False, None, QUIET),
    "answer": Answer("n", evidence(A), False, 0.0),
    "yield": Answer("n", evidence(A), True, 0.0),
    "commit": Commit("n", 1, "fence"),
    "bye": Bye("x"),
}
SAMPLES: dict[type[Any], list[Any]] = {
    Send: [Send("arbiter", message, 1.0) for message in SENT.values()],
    ReadPower: [ReadPower("t", B, 0.0)],
    ReadVolumes: [ReadVolumes()],
    Persisted: [Persisted("i")],
    Fire: [Fire("i", "off", B, Instant(10**18))],
    PowerOn: [PowerOn(B)],
    AnswerAgent: [AnswerAgent("j", True, "r", "t"), AnswerAgent("j", False, "r", "t")],
    AnswerHandler: [AnswerHandler("h", code, "r") for code in (1, 4, 6, 7)],
    AnswerPerson: [AnswerPerson("q", "o", "t")],
    Progress: [Progress("j", "t")],
    SuspendWrites: [SuspendWrites("n")],
    ResumeWrites: [ResumeWrites()],
    OutdateOwn: [OutdateOwn()],
    SetHold: [SetHold("h")],
    ClearHold: [ClearHold("h")],
    AskForecast: [AskForecast(None, True)],
    PurgeShot: [PurgeShot(PendingShot(B, "off", "c", "o", "pending"))],
    Bar: [Bar(B, True)],
    Unblock: [Unblock()],
    Note: [Note("won", "t")],
}


def test_only_looks_brakes_and_words_that_bind_nobody_need_no_disk() -> None:
    """Every kind of effect, enumerated: what may leave while the journal fails is exactly this list."""
    assert set(SAMPLES) == set(get_args(Effect))
    allowed = [
        *(SAMPLES[Note] + SAMPLES[SetHold] + SAMPLES[ReadPower] + SAMPLES[AskForecast] + SAMPLES[Progress]),
        ReadVolumes(),
        AnswerAgent("j", False, "r", "t"),
        AnswerHandler("h", 1, "r"),
        Send("arbiter", SENT["beat"], 1.0),
        Send("arbiter", SENT["answer"], 1.0),
    ]
    for samples in SAMPLES.values():
        for sample in samples:
            assert loops._holds_back(sample) == (sample in allowed), sample


def test_a_full_queue_drops_sightings_and_never_a_request_or_a_result() -> None:
    """Two thousand too many: what clients asked and hands brought back is all there, in order."""
    stage = Stage()
    kept = [
        AgentAsks("j", "off", B, 60.0),
        HandlerAsks("h", "r0"),
        ShotEnded("i", 0, True),
        Suspended("n", True),
        JournalState(True),
        HOLD,
        Forecasted(True, Forecast()),
    ]
    for event in kept:
        stage.loop.put(event)
    for n in range(EVENTS_MAX + 2000):
        stage.loop.put(BusState(True) if n == 5 else Tick())
    assert len(stage.loop._events) == EVENTS_MAX
    assert [e for e in stage.loop._events if not isinstance(e, Tick)] == [*kept, BusState(True)]


def test_a_memory_that_does_not_validate_stops_the_start() -> None:
    """Nothing is guessed: an unknown word, a missing field or a wrong type is `Unreadable`; the last memory counts."""
    stage = Stage()
    good = record(stage.guard.memory)
    assert remembered([]) is None
    assert remembered([{"kind": "other"}]) is None
    assert remembered([{"kind": "memory", "memory": {}}, good]) == stage.guard.memory
    for broken in ({}, {**good["memory"], "era": "many"}, {**good["memory"], "intents": [{"id": 1}]}, None):
        with pytest.raises(Unreadable, match="cannot read the guard's memory"):
            remembered([good, {"kind": "memory", "memory": broken}])


@pytest.mark.asyncio
async def test_every_memory_survives_its_journey_through_the_journal() -> None:
    """A rich one: intents, promise, session, inhibits; what is read back is equal."""
    stage = armed(spawned=True, drained=Instant(5))
    await stage.put(HOLD)
    assert remembered(list(stage.records)) == stage.guard.memory


@pytest.mark.asyncio
async def test_a_slow_compaction_does_not_starve_the_watchdog() -> None:
    """Each wait for the disk may take 5 s, and WatchdogSec is 10 s: two of them are never between two signs of life."""
    stage = Stage()
    await stage.put(Tick())
    stage.loop._records = loops.COMPACT_RECORDS - 1
    stage.hangs_s = 4.9
    await stage.put(HOLD, Tick())
    assert stage.loop._records < 10
    stage.fed.append(stage.clock.now())
    assert max(later - before for before, later in pairwise(stage.fed)) < 6e9


@pytest.mark.asyncio
async def test_restarts_do_not_grow_the_journal(tmp_path: Path) -> None:
    """A guard that is started again and again leaves one record, on a real file; the memory is the last one's."""
    clock = BootClock()
    for count in range(1, 6):
        stage = Stage()
        with FileJournal(tmp_path / "j", clock) as journal:
            old = remembered(journal.replay())
            assert (None if old is None else old.era) == (count - 1 or None)
            memory = replace(stage.guard.memory, era=count)
            loop = loops.Loop(replace(stage.guard, memory=memory), clock, journal, stage._emit, stage)
            await loop.begin(replace(stage.first, memory=memory), anew=old is not None)
        with FileJournal(tmp_path / "j", clock) as journal:
            assert len(list(journal.replay())) == 1
