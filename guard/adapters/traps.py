"""Hears the traps of switches, as wake-up calls for their polls.

A trap is believed to have come from an address, no more: it is neither authenticated nor decoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

from guard.core.instant import Instant, elapsed_s
from guard.errors import SettingsError, Unavailable
from guard.ports import Clock

RECEIVE_BYTES: Final = 8 << 20  # 2,000 of 2,000 traps of a burst arrive; with the default, 256 (measured)
GAP_S: Final = 0.2  # 5 a second from each sender
SENDERS_MAX: Final = 256
_SO_RCVBUFFORCE: Final = 33  # socket(7); CAP_NET_ADMIN. Python 3.11 has no name for it


class SnmpTraps:
    """`guard.ports.Traps`: addresses that sent something that looks like SNMP. Open from construction on.

    Each sender is told at most five times a second; one that speaks meanwhile is told when its time comes, so no
    wake-up is lost. `senders`: only these addresses (None: all). Informs are not acknowledged: their sender
    repeats them. Port 0 takes a free one; see `address`.
    Raises `SettingsError` for a host name, `Unavailable` if the socket cannot be bound.
    `heard` serves one consumer, once.
    """

    def __init__(self, ip: str, port: int, clock: Clock, *, senders: frozenset[str] | None = None) -> None:
        try:
            literal = ipaddress.ip_address(ip)
        except ValueError as why:
            what, next_step = f"{ip!r} is no IP address", "write the address: names are not resolved"
            raise SettingsError("cannot hear traps", what, next_step) from why
        self._clock = clock
        self._senders = senders
        family = socket.AF_INET6 if literal.version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            _enlarge(self._socket)
            self._socket.bind((str(literal), port))
        except OSError as why:
            self._socket.close()
            raise Unavailable(f"cannot hear traps on {ip} port {port}", str(why)) from why

    @property
    def address(self) -> tuple[str, int]:
        ip, port = self._socket.getsockname()[:2]
        return str(ip), int(port)

    def close(self) -> None:
        """For an owner that never calls `heard`. A second call does nothing."""
        self._socket.close()

    async def heard(self) -> AsyncIterator[str]:
        """Address of each sender, rate-limited, until the consumer closes the iterator."""
        loop = asyncio.get_running_loop()
        ear = _Ear(self._senders)
        transport, _ = await loop.create_datagram_endpoint(lambda: ear, sock=self._socket)
        told: dict[str, Instant] = {}
        try:
            while True:
                now = self._clock.now()
                told = {sender: at for sender, at in told.items() if elapsed_s(at, now) < GAP_S}
                due = [sender for sender in ear.waiting if sender not in told]
                for sender in due:
                    ear.waiting.pop(sender, None)
                    told[sender] = now
                    yield sender
                if due:
                    continue
                ear.bell.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GAP_S if ear.waiting else None):
                        await ear.bell.wait()
        finally:
            transport.close()


class _Ear(asyncio.DatagramProtocol):
    """Remembers who spoke: each sender once, a bounded number of them."""

    def __init__(self, senders: frozenset[str] | None) -> None:
        self.senders = senders
        self.waiting: dict[str, None] = {}
        self.bell = asyncio.Event()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        sender = str(addr[0])
        if sender in self.waiting or (self.senders is not None and sender not in self.senders):
            return  # a burst costs one decoding, not two thousand
        if len(self.waiting) >= SENDERS_MAX or not is_snmp(data):
            return
        self.waiting[sender] = None
        self.bell.set()


def is_snmp(data: bytes) -> bool:
    """A SEQUENCE that begins with the INTEGER 0, 1 or 3: v1, v2c, v3 (RFC 1157, RFC 1901, RFC 3412).

    By hand: what pysnmp's decoder raises for bytes of anybody's making has no end.
    """
    if len(data) < 2 or data[0] != 0x30:
        return False
    start = 2 + (data[1] & 0x7F if data[1] > 0x80 else 0)  # a length over 127 says first how many octets it takes
    return data[start : start + 2] == b"\x02\x01" and data[start + 2 : start + 3] in (b"\0", b"\1", b"\3")


def _enlarge(sock: socket.socket) -> None:
    """8 MiB of receive buffer; without CAP_NET_ADMIN as much as net.core.rmem_max gives."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
