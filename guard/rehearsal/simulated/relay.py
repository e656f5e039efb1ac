"""The wire between one machine and the bus: a TCP relay that keeps bytes while the network is frozen.

1. Frozen: nothing passes, everything sent is kept by the relay and the kernel, and passes at the thaw.
2. A machine that died says nothing: its end is not passed on until the bus ends the connection itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from guard.ports import Clock

CHUNK = 64 * 1024
LOOK_S = 0.02  # how often a frozen wire is looked at
CONNECT_S_MAX = 2.0


class Relay:
    """`run` serves until cancelled; `ready` is set once `port` is known. `open`: does the network forward?

    `alive`: does the machine at our end run?
    """

    def __init__(
        self, target: tuple[str, int], clock: Clock, *, is_open: Callable[[], bool], alive: Callable[[], bool]
    ) -> None:
        self._target, self._clock = target, clock
        self._open, self._alive = is_open, alive
        self.ready = asyncio.Event()
        self.port = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                group.create_task(self._connection(reader, writer), name="relay-client")

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            async with server:
                self.ready.set()
                await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            await self._thawed()
            async with asyncio.timeout(CONNECT_S_MAX):
                far_reader, far = await asyncio.open_connection(*self._target)
            up = asyncio.create_task(self._pass(reader, far, ours=True), name="relay-up")
            down = asyncio.create_task(self._pass(far_reader, writer, ours=False), name="relay-down")
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                if up.done() and not self._alive():
                    await asyncio.wait({down})
            finally:
                up.cancel()
                down.cancel()
                await asyncio.wait({up, down})
        except (OSError, TimeoutError):
            return
        finally:
            writer.transport.abort()
            if far is not None:
                far.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, ours: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(CHUNK):
                await self._thawed()
                if not ours and not self._alive():
                    continue  # nobody is there to take it
                sink.write(piece)
                await sink.drain()

    async def _thawed(self) -> None:
        while not self._open():
            await self._clock.sleep(LOOK_S)
