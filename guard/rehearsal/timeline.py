"""The queue of everything that is going to happen. One pair has its own; the pairs of a site share one."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from guard.core.instant import NS_PER_S

Then = Callable[[], None]


class Timeline:
    """Events run in the order (time, number): the same calls give the same story. `now` in ns since the start."""

    def __init__(self) -> None:
        self.now = 0
        self._queue: list[tuple[int, int, Then, Then | None]] = []
        self._seq = 0
        self.look: Then | None = None  # of the event that runs, or ran last: tells whose it is

    @property
    def events(self) -> int:
        """How many events were ever put here."""
        return self._seq

    def at(self, delay_s: float, then: Then, look: Then | None = None) -> None:
        """After `delay_s` do `then`, and right after it `look`: what the owner of the event wants checked."""
        self._seq += 1
        heapq.heappush(self._queue, (self.now + round(delay_s * NS_PER_S), self._seq, then, look))

    def run(self, seconds: float, after_each: Then | None = None) -> None:
        """Let `seconds` pass. What an event or its look raises comes out here; the rest stays in the queue."""
        queue = self._queue
        end = self.now + round(seconds * NS_PER_S)
        while queue and queue[0][0] <= end:
            self.now, _, then, look = heapq.heappop(queue)
            self.look = look
            then()
            if look is not None:
                look()
            if after_each is not None:
                after_each()
        self.now = end
