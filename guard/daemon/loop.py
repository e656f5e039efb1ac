"""The guard's loop: one event at a time through the core, its memory made durable, then its effects, in that order.

It decides nothing. If the memory cannot be made durable the step's effects are not carried out, except looks and those
that can only hold back (setting the hold, being heard, telling people). The core is told, and told of every hand that
did not move as of one that failed; answers to waiting clients are kept until what they rest on is on the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from guard.core import machine
from guard.core.instant import Instant, after, elapsed_s
from guard.core.messages import Answer, Beat, SetInhibit
from guard.core.step import (
    AnswerAgent,
    AnswerHandler,
    AskForecast,
    ClearHold,
    Effect,
    Event,
    Fire,
    Heard,
    HoldWritten,
    JournalState,
    Memory,
    Note,
    Persisted,
    Progress,
    ReadPower,
    ReadVolumes,
    Reconsider,
    SawCluster,
    SawMembers,
    SawProbe,
    SawVolumes,
    SawWrites,
    Seen,
    Send,
    SetHold,
    ShotEnded,
    Step,
    Suspended,
    SuspendWrites,
    Tick,
)
from guard.core.turn import Guard
from guard.daemon.memory import record
from guard.errors import Unavailable
from guard.events import Emit
from guard.ports import Clock, Journal, Notifier

TICK_S = 0.1
ALIVE_S = 1.0
EVENTS_MAX = 4096  # sightings waiting for their turn; a full queue means that the loop hangs
COMPACT_RECORDS = 2000  # memories in the journal before it is rewritten with the last one
RETRY_S_MIN = 1.0  # a journal that failed is tried again no sooner; longer if the try itself was long
REPEATED = (Tick, Heard, SawVolumes, SawWrites, SawMembers, SawCluster, SawProbe, Seen)  # said again by who said it


class Hands(Protocol):
    """Carries out one effect, at once or as a task of its own; results come back as events."""

    def carry_out(self, effect: Effect) -> None: ...


class Loop:
    """One guard. `put` takes events from any task of this loop; `run` ends only by cancellation."""

    def __init__(self, guard: Guard, clock: Clock, journal: Journal, emit: Emit, notifier: Notifier) -> None:
        self.guard = guard
        self._clock, self._journal, self._emit, self._notifier = clock, journal, emit, notifier
        self._events: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._hands: Hands | None = None
        self._owed: Memory | None = None
        self._retry: Instant | None = None
        self._unsaid: list[tuple[int, AnswerAgent | AnswerHandler]] = []  # with the era they were decided in
        self._ticked: Instant = clock.now()
        self._records = 0
        self.turns = 0
        self._alive_at: Instant | None = None

    def give_hands(self, hands: Hands) -> None:
        self._hands = hands

    def put(self, event: Event) -> None:
        """Queue one event. The oldest sighting falls out of a full queue, since watchers say the whole again; what a
        client asked or a hand brought back never does."""
        if len(self._events) >= EVENTS_MAX:
            for at, old in enumerate(self._events):
                if isinstance(old, REPEATED):
                    del self._events[at]
                    break
        self._events.append(event)
        self._woken.set()

    async def begin(self, step: Step, *, anew: bool = False) -> None:
        """The first step, of the guard's start. `Unavailable`: the journal cannot be written, do not start.

        `anew`: the journal held records before. Many restarts, each with a few, must not grow it for ever.
        """
        if step.memory is not None:
            await self._journal.append([record(step.memory)])
        if anew:
            await self._compact()
        self._do(step.effects)

    async def run(self) -> None:
        while True:
            if not self._events:
                try:
                    async with asyncio.timeout(TICK_S):
                        await self._woken.wait()
                except TimeoutError:
                    self.put(Tick())
            self._woken.clear()
            while self._events:
                await self.turn(self._events.popleft())
                if elapsed_s(self._ticked, self._clock.now()) > TICK_S:
                    await self._clock.sleep(0)  # a storm of events must not starve the watchers, nor the leases
                    await self.turn(Tick())

    async def turn(self, event: Event) -> None:
        """One event: decide, make durable, carry out."""
        now = self._clock.now()
        if isinstance(event, Tick):
            self._ticked = now
        guard, step = machine.step(self.guard, event, now)
        self.guard = guard
        durable = await self._make_durable(step.memory)
        if durable:
            self._do((*self._said_at_last(), *step.effects))
        else:
            self._do(tuple(e for e in step.effects if _holds_back(e)))
            self._leave(tuple(e for e in step.effects if not _holds_back(e)))
        self.turns += 1
        self._say_alive()
        if not durable and guard.journal_ok:
            self._events.appendleft(JournalState(ok=False))
        elif durable and not guard.journal_ok:
            self._events.appendleft(JournalState(ok=True))

    def _leave(self, effects: tuple[Effect, ...]) -> None:
        """What was not carried out: its failure comes back as an event, an answer waits."""
        for effect in effects:
            match effect:
                case AnswerAgent() | AnswerHandler():
                    self._unsaid.append((self.guard.memory.era, effect))
                case Fire(intent):
                    self.put(ShotEnded(intent, None, clean=True, started=False))
                case SuspendWrites(nonce):
                    self.put(Suspended(nonce, False))
                case ClearHold():
                    self.put(HoldWritten(False, False))
                case _:
                    pass  # the core repeats it

    def _said_at_last(self) -> tuple[Effect, ...]:
        """The answers that waited. One of an era that is over gives nothing any more."""
        era, waited = self.guard.memory.era, self._unsaid
        self._unsaid = []
        return tuple(answer if at == era else _nothing(answer) for at, answer in waited)

    def _say_alive(self) -> None:
        """Only a completed turn, or a record on the disk, feeds the watchdog; once a second is enough for it."""
        if self._alive_at is None or elapsed_s(self._alive_at, self._clock.now()) >= ALIVE_S:
            self._feed()

    def _feed(self) -> None:
        self._alive_at = self._clock.now()
        self._notifier.alive()

    async def _make_durable(self, memory: Memory | None) -> bool:
        owed = memory if memory is not None else self._owed
        if owed is None:
            return True
        began = self._clock.now()
        if self._retry is not None and began < self._retry:
            self._owed = owed
            return False
        try:
            await self._journal.append([record(owed)])
        except Unavailable as error:
            if self._owed is None:
                self._emit("journal-failed", str(error), {}, page=True)
            self._owed = owed
            ended = self._clock.now()
            # A hanging disk takes seconds a try: most of the time must stay for seeing and braking.
            self._retry = after(ended, max(RETRY_S_MIN, 2 * elapsed_s(began, ended)))
            return False
        self._owed = self._retry = None
        self._records += 1
        if self._records >= COMPACT_RECORDS:
            await self._compact()
        return True

    async def _compact(self) -> None:
        self._records = 0
        self._feed()  # the record before is on the disk: a slow disk must not add two of its waits to one
        try:
            await self._journal.compact([record(self.guard.memory)])
        except Unavailable as error:
            self._emit("journal-failed", f"{error}: the journal grows until it can be rewritten", {})

    def _do(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Note):
                self._emit(effect.event, effect.text, effect.data, page=effect.page)
            elif isinstance(effect, Persisted):
                # Durable by now: look once more before anything else is looked at.
                self._events.appendleft(Reconsider(effect.intent))
            elif self._hands is not None:
                self._hands.carry_out(effect)


def _nothing(answer: AnswerAgent | AnswerHandler) -> AnswerAgent | AnswerHandler:
    """The answer that permits nothing, in the place of one that came too late."""
    if isinstance(answer, AnswerAgent):
        return AnswerAgent(answer.id, False, "journal-failed", "the journal could not be written while the era stood")
    return AnswerHandler(answer.id, 1, "journal-failed")


def _holds_back(effect: Effect) -> bool:
    """Effects that need no durable memory because they only look, hold back or tell."""
    match effect:
        case Note() | Progress() | SetHold() | ReadPower() | ReadVolumes() | AskForecast():
            return True
        case AnswerAgent(confirmed=False) | AnswerHandler(code=1):
            return True
        case Send(message=Beat() | SetInhibit() | Answer(yielded=False)):
            return True  # being heard is what keeps the peer from taking this node for dead
        case _:
            return False
