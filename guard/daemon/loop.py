"""The guard's loop: one event at a time through the core, its memory made durable, then its effects, in that order.

It decides nothing. If the memory cannot be made durable the step's effects are not carried out, except those that can
only hold back (setting the hold, telling people); the core is told, and claims nothing until the journal works again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from guard.core import machine
from guard.core.step import (
    AnswerAgent,
    AnswerHandler,
    Effect,
    Event,
    JournalState,
    Memory,
    Note,
    Persisted,
    Progress,
    Reconsider,
    SetHold,
    Step,
    Tick,
)
from guard.core.turn import Guard
from guard.errors import Unavailable, Unreadable
from guard.events import Emit
from guard.ports import Clock, Journal, Notifier

TICK_S = 0.1
EVENTS_MAX = 4096  # sightings waiting for their turn; a full queue means that the loop hangs
COMPACT_RECORDS = 2000  # memories in the journal before it is rewritten with the last one
_MEMORY: TypeAdapter[Memory] = TypeAdapter(Memory)


class Hands(Protocol):
    """Carries out one effect, at once or as a task of its own; results come back as events."""

    def carry_out(self, effect: Effect) -> None: ...


def remembered(records: list[Mapping[str, object]]) -> Memory | None:
    """The last memory of a journal, or None if it has none. `Unreadable`: it does not validate; nothing is guessed."""
    for record in reversed(records):
        if record.get("kind") == "memory":
            try:
                return _MEMORY.validate_python(record["memory"])
            except (ValidationError, KeyError) as error:
                raise Unreadable(
                    "cannot read the guard's memory",
                    str(error),
                    "move the journal aside only while the pair is whole: the guard then begins as if new",
                ) from error
    return None


class Loop:
    """One guard. `put` takes events from any task of this loop; `run` ends only by cancellation."""

    def __init__(self, guard: Guard, clock: Clock, journal: Journal, emit: Emit, notifier: Notifier) -> None:
        self.guard = guard
        self._clock, self._journal, self._emit, self._notifier = clock, journal, emit, notifier
        self._events: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._hands: Hands | None = None
        self._owed: Memory | None = None
        self._records = 0
        self.turns = 0

    def give_hands(self, hands: Hands) -> None:
        self._hands = hands

    def put(self, event: Event) -> None:
        """Queue one event. The oldest sighting falls out of a full queue: watchers say the whole again."""
        if len(self._events) >= EVENTS_MAX:
            self._events.popleft()
        self._events.append(event)
        self._woken.set()

    async def begin(self, step: Step) -> None:
        """The first step, of the guard's start. `Unavailable`: the journal cannot be written, do not start."""
        if step.memory is not None:
            await self._journal.append([_record(step.memory)])
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
            await asyncio.sleep(0)  # a storm of events must not starve the watchers

    async def turn(self, event: Event) -> None:
        """One event: decide, make durable, carry out."""
        guard, step = machine.step(self.guard, event, self._clock.now())
        self.guard = guard
        durable = await self._make_durable(step.memory)
        self._do(step.effects if durable else tuple(e for e in step.effects if _holds_back(e)))
        self.turns += 1
        self._notifier.alive()
        if not durable and guard.journal_ok:
            self._events.appendleft(JournalState(ok=False))
        elif durable and not guard.journal_ok:
            self._events.appendleft(JournalState(ok=True))

    async def _make_durable(self, memory: Memory | None) -> bool:
        owed = memory if memory is not None else self._owed
        if owed is None:
            return True
        try:
            await self._journal.append([_record(owed)])
        except Unavailable as error:
            if self._owed is None:
                self._emit("journal-failed", str(error), {}, page=True)
            self._owed = self.guard.memory
            return False
        self._owed = None
        self._records += 1
        if self._records >= COMPACT_RECORDS:
            await self._compact()
        return True

    async def _compact(self) -> None:
        self._records = 0
        try:
            await self._journal.compact([_record(self.guard.memory)])
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


def _holds_back(effect: Effect) -> bool:
    """Effects that need no durable memory because they can only hold back or tell."""
    match effect:
        case Note() | Progress() | SetHold():
            return True
        case AnswerAgent(confirmed=False) | AnswerHandler(code=1):
            return True
        case _:
            return False


def _record(memory: Memory) -> dict[str, Any]:
    return {"kind": "memory", "memory": _MEMORY.dump_python(memory, mode="json")}
