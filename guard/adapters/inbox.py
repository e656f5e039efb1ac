"""What both buses share: the bounded inbox of authentic messages, the counters, and when to try again.

A queue here is bounded and drops its oldest entry, counted: what ends something is re-read (every `BeatAck` carries the
whole), never trusted to arrive.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable

from guard.ports import Clock, Delivery
from guard.wire import Opener, Rejected

INBOX_MAX = 256  # messages; a guard hears about 10 a second, so 25 s of them
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0  # an arbiter that is back is heard by every guard well within its 30 s of L1

OnReject = Callable[[Rejected], None]


def backoff(attempt: int, jitter: Callable[[float, float], float]) -> float:
    """Seconds to wait before try number `attempt` (0 = the very first of this process).

    Full jitter: every try draws anew over the whole interval, so 200 guards that lost their bus at one instant, or
    were switched on by one breaker, neither come back together nor stay in step.
    """
    match attempt:
        case 0:
            return jitter(0.0, BACKOFF_MIN_S * 5)
        case 1:
            return jitter(BACKOFF_MIN_S, BACKOFF_MAX_S / 2)
        case _:
            return jitter(BACKOFF_MIN_S, BACKOFF_MAX_S)


class Inbox:
    """Opens what arrives and keeps what is authentic until it is taken. One consumer.

    `rejected` counts by reason, `dropped` what fell out of the full queue.
    """

    def __init__(self, opener: Opener, clock: Clock, on_reject: OnReject | None, limit: int = INBOX_MAX) -> None:
        self._opener, self._clock, self._on_reject, self._limit = opener, clock, on_reject, limit
        self._queue: deque[Delivery] = deque()
        self._filled = asyncio.Event()
        self.rejected: Counter[str] = Counter()
        self.dropped = 0

    def put(self, sealed: bytes) -> None:
        """Judge at arrival, so that junk never pushes a good message out and `received` is true."""
        opened = self._opener.open(sealed)
        if isinstance(opened, Rejected):
            self.rejected[opened.reason] += 1
            if self._on_reject is not None:
                self._on_reject(opened)
            return
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(Delivery(opened.sender, opened.body, self._clock.now(), opened.pair))
        self._filled.set()

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Each authentic message once, oldest first; ends only by cancellation."""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            yield self._queue.popleft()
