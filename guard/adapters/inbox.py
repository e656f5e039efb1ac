"""What both buses share: the bounded inbox of authentic messages, the counters, and when to try again.

A queue here is bounded and drops its oldest entry, counted: what ends something is re-read (every `BeatAck` carries the
whole), never trusted to arrive.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from guard.events import Emit
from guard.ports import Clock, Delivery
from guard.wire import Opener, Rejected, Unread

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


def told(emit: Emit) -> OnReject:
    """Logs what was not taken. What makes a known party look dead is a page, once until it is understood again."""

    def reject(what: Rejected) -> None:
        data = {"reason": what.reason, "sender": what.sender or what.named}
        if not what.page:
            emit("message-rejected", f"{what.reason} {what.text}", data)
        elif isinstance(what, Unread):
            text = (
                f"{what.sender} lives, but its words cannot be read ({what.reason}: {what.text}): of another version?"
            )
            emit("unreadable", text, data, page=True)
        else:
            text = (
                f"what comes in the name of {what.named} is not signed with the key that we have of it: "
                f"its key was made anew and {what.named}.pub not copied here, or it is forged"
            )
            emit("unverified", text, data, page=True)

    return reject


class Inbox:
    """Opens what arrives and keeps what is authentic until it is taken. One consumer.

    `rejected` counts by reason, `dropped` what fell out of the full queue. `doubted`: known parties with the kinds of
    their words that could not be read, until one of that kind can; "" = words in their name that they did not sign.
    """

    def __init__(self, opener: Opener, clock: Clock, on_reject: OnReject | None, limit: int = INBOX_MAX) -> None:
        self._opener, self._clock, self._on_reject, self._limit = opener, clock, on_reject, limit
        self._queue: deque[Delivery] = deque()
        self._filled = asyncio.Event()
        self.rejected: Counter[str] = Counter()
        self.dropped = 0
        self.doubted: dict[str, set[str]] = {}

    def put(self, sealed: bytes) -> None:
        """Judge at arrival, so that junk never pushes a good message out and `received` is true."""
        opened = self._opener.open(sealed)
        if isinstance(opened, Rejected):
            self._reject(opened)
            return
        if opened.sender in self.doubted:
            self.doubted[opened.sender] -= {"", opened.kind}
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(Delivery(opened.sender, opened.body, self._clock.now(), opened.pair))
        self._filled.set()

    def _reject(self, what: Rejected) -> None:
        self.rejected[what.reason] += 1
        party, kind = (what.sender, what.kind) if isinstance(what, Unread) else (what.named, "")
        if party:
            before = self.doubted.setdefault(party, set())
            news = not before - {""} if kind else "" not in before
            before.add(kind)
            what = replace(what, page=news)
        if self._on_reject is not None:
            self._on_reject(what)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Each authentic message once, oldest first; ends only by cancellation."""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            yield self._queue.popleft()
