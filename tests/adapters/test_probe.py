"""The guard's own probe, on real sockets of this machine; one promise a test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from guard.adapters.clock import BootClock
from guard.adapters.probe import SILENT_S, Probe

OWN, PEER = "127.0.0.1", "127.0.0.2"

pytestmark = pytest.mark.asyncio


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((OWN, 0))
        return int(sock.getsockname()[1])


class Told:
    """What a probe says, as it says it."""

    def __init__(self, probe: Probe) -> None:
        self.words: list[bool] = []
        self._more = asyncio.Event()
        self._probe = probe
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for word in self._probe.changes():
            self.words.append(word)
            self._more.set()

    async def until(self, *words: bool, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while self.words != list(words):
                await self._more.wait()
                self._more.clear()

    async def end(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[Told, Told, int]]:
    port = free_port()
    one = Told(Probe(OWN, PEER, port, BootClock()))
    other = Told(Probe(PEER, OWN, port, BootClock()))
    try:
        await one.until(True)
        await other.until(True)
        yield one, other, port
    finally:
        await one.end()
        await other.end()


async def test_a_guard_that_is_killed_is_no_lost_peer() -> None:
    """The machine's kernel answers for it, however long it is gone, and so does the guard when it is back."""
    async with two() as (one, other, port):
        await other.end()
        await asyncio.sleep(5 * SILENT_S)
        back = Told(Probe(PEER, OWN, port, BootClock()))
        await back.until(True)
        await back.end()
        assert one.words == [True]


async def test_a_peer_that_is_silent_is_told_soon() -> None:
    """A dead machine, or a guard that hangs with its port open: nobody answers and nobody refuses."""
    async with two() as (one, other, port):
        await other.end()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hung:
            hung.bind((PEER, port))
            await one.until(True, False, seconds=3.0)


async def test_a_machine_that_never_had_a_guard_says_nothing() -> None:
    """A refusal alone is no first answer: who never echoed may be anybody, and cannot fall silent."""
    one = Told(Probe(OWN, PEER, free_port(), BootClock()))
    await asyncio.sleep(3 * SILENT_S)
    await one.end()
    assert one.words == []
