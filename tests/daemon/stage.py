"""A guard's shell in a test: a clock by hand, a journal that can fail, hands that only note; all in one order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from guard.core import machine
from guard.core.instant import Instant, after
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.step import Effect, Event, Memory
from guard.core.turn import Guard
from guard.daemon.loop import Loop
from guard.errors import Unavailable

A, B = "fs1a", "fs1b"


class HandClock:
    """`guard.ports.Clock` that stands still until it is moved; its wall clock says what it likes."""

    def __init__(self, wall: float = 1.7e9) -> None:
        self.at = Instant(10**15)
        self.walls = wall
        self.drawn = 0

    def now(self) -> Instant:
        return self.at

    def wall(self) -> float:
        return self.walls

    def boot_id(self) -> str:
        return "boot-1"

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def nonce(self) -> str:
        self.drawn += 1
        return f"{self.drawn:032x}"

    def jitter(self, low: float, high: float) -> float:
        return low

    def move(self, seconds: float) -> None:
        self.at = after(self.at, seconds)


class Stage:
    """Journal, hands, log and notifier of one loop at once; `order` is what happened, in order."""

    def __init__(self, clock: HandClock | None = None, **guard: Any) -> None:
        self.clock = clock or HandClock()
        self.order: list[object] = []
        self.failing: str | None = None
        self.hangs_s = 0.0
        self.records: list[Mapping[str, object]] = []
        self.logged: list[tuple[str, bool]] = []
        self.fed: list[Instant] = []
        made, self.first = machine.start(
            A,
            B,
            policy=Policy(),
            sight=Sight(),
            horizon_s=75.0,
            memory=Memory("boot-1"),
            boot_id="boot-1",
            seed="0" * 32,
            now=self.clock.now(),
        )
        self.loop = Loop(replace(made, **guard), self.clock, self, self._emit, self)
        self.loop.give_hands(self)

    # ---- guard.ports.Journal

    async def append(self, records: Sequence[Mapping[str, object]]) -> None:
        self.clock.move(self.hangs_s)
        if self.failing is not None:
            self.order.append("failed")
            raise Unavailable("cannot write the journal", self.failing)
        self.records.extend(records)
        self.order.append("durable")

    def replay(self) -> Sequence[Mapping[str, object]]:
        return self.records

    async def compact(self, records: Sequence[Mapping[str, object]]) -> None:
        self.clock.move(self.hangs_s)
        self.records = list(records)

    # ---- hands, log, notifier

    def carry_out(self, effect: Effect) -> None:
        self.order.append(effect)

    def _emit(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        self.logged.append((event, page))

    def ready(self) -> None: ...
    def status(self, text: str) -> None: ...
    def alive(self) -> None:
        self.fed.append(self.clock.now())

    def reloading(self) -> None: ...
    def stopping(self) -> None: ...

    # ---- the test's own

    async def put(self, *events: Event, step_s: float = 0.1) -> None:
        """These events, and everything that they bring about."""
        for event in events:
            self.clock.move(step_s)
            self.loop.put(event)
            await self.drain()

    async def drain(self) -> None:
        while self.loop._events:
            await self.loop.turn(self.loop._events.popleft())

    def done(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.order if isinstance(each, kind)]

    @property
    def guard(self) -> Guard:
        return self.loop.guard
