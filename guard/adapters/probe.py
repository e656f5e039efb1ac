"""The guard's own probe of its peer's ring address: a UDP echo every 0.1 s, a hint and never a proof.

It asks for the machine. Where no guard has the port (killed, or being restarted) the peer's kernel says so (ICMP port
unreachable), and that is an answer too: a guard that is gone is no lost peer. One that hangs keeps its port and is
silent. A forged answer of either kind can only make a dead peer look alive, which delays; it can fence nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import cast

from guard.core.instant import Instant, elapsed_s
from guard.errors import Unavailable
from guard.ports import Clock

PERIOD_S = 0.1
SILENT_S = 0.4  # DESIGN.md section 6, Storm: `peer-lost`
REFUSED_S = 1.5  # kernels say "port unreachable" at most once a second to one address (icmp(7), icmp_ratelimit 1000 ms)
_ASK, _ECHO = b"pgq1", b"pge1"
IP_FREEBIND = 15  # linux/in.h; not in Python's socket module
_FORM = struct.Struct("!4sQ")


class Probe:
    """Answers the peer's probes on `own`, and asks `peer`. One consumer of `changes`."""

    def __init__(self, own: str, peer: str, port: int, clock: Clock) -> None:
        self._own, self._peer, self._port, self._clock = own, peer, port, clock

    async def changes(self) -> AsyncIterator[bool]:
        """True while the peer answered within the last 0.4 s, or its kernel said within the last 1.5 s that nobody has
        the port; said at the first echo and at every change.

        A peer that never answered since the start is not said to be silent: it may have no guard. Raises
        `Unavailable` if the address cannot be bound.
        """
        ear = _Ear()
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._own else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            # The guard starts before the network is up: the address may come later (ip(7), IP_FREEBIND).
            sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
            sock.bind((self._own, self._port))
            transport, _ = await loop.create_datagram_endpoint(lambda: ear, sock=sock)
        except OSError as error:
            sock.close()
            raise Unavailable(f"cannot probe from {self._own} port {self._port}", str(error)) from error
        said: bool | None = None
        heard: Instant | None = None
        refused: Instant | None = None
        number, aimed = 0, False
        try:
            while True:
                number += 1
                with contextlib.suppress(OSError):  # unreachable: that is what the silence will say
                    if not aimed:  # a socket hears of refusals only once it has one peer (udp(7)); there may be no way
                        sock.connect((self._peer, self._port))
                        aimed = True
                    transport.sendto(_FORM.pack(_ASK, number), (self._peer, self._port))
                await self._clock.sleep(PERIOD_S)
                now = self._clock.now()
                if ear.echoes:
                    ear.echoes, heard = 0, now
                if ear.refused:
                    ear.refused, refused = False, now
                if heard is None:
                    continue
                gone = refused is not None and elapsed_s(refused, now) <= REFUSED_S
                answered = gone or elapsed_s(heard, now) <= SILENT_S
                if answered is not said:
                    said = answered
                    yield answered
        finally:
            transport.close()


class _Ear(asyncio.DatagramProtocol):
    """Echoes what asks, counts what echoes, and knows if the peer's kernel refused."""

    def __init__(self) -> None:
        self.echoes = 0
        self.refused = False
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is no subclass of it (3.11)

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        if len(data) != _FORM.size:
            return
        word, number = _FORM.unpack(data)
        if word == _ECHO:
            self.echoes += 1
        elif word == _ASK and self._transport is not None:
            self._transport.sendto(_FORM.pack(_ECHO, number), addr)

    def error_received(self, exc: Exception) -> None:
        """ICMP. Of an address or network that cannot be reached silence says it."""
        if isinstance(exc, ConnectionRefusedError):
            self.refused = True
