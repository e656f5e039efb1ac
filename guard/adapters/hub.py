"""The bus without a broker: a small hub on a Unix or loopback TCP socket, for machines that have no Mosquitto.

It is the same port (`guard.ports.Bus`) with the same weaknesses: it may lose, repeat and reorder, keeps nothing for
absent parties, and is trusted with nothing, since every message is sealed end to end. Who may connect is decided by
the socket's own permissions (Unix) or by the loopback interface (TCP): for a sandbox and tests, not across machines.

Lines: `hello PARTY`, `send TO EXPIRES_MS SEALED`, `ping` from a party; `welcome`, `msg SEALED`, `pong` from the hub.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from guard.adapters.inbox import INBOX_MAX, Inbox, OnReject, backoff
from guard.core.instant import Instant, after
from guard.errors import SettingsError
from guard.ports import Clock, Delivery
from guard.wire import BYTES_MAX, MESSAGES, NAME, Keyring, Kinds, Opener, Signer, checked_name

HubAddress = Path | tuple[str, int]
"""A Unix socket's path, or a loopback IP literal and port (0 = any free one)."""

LINE_MAX = BYTES_MAX + 1024
PING_S = 1.0
SILENCE_S_MAX = 4.0  # as long as the MQTT bus takes to notice a frozen broker
CONNECT_S_MAX = 1.0
SEND_S_MAX = 1.0
CLIENTS_MAX = 1024
EXPIRES_MS_MAX = 86_400_000  # one day


def _checked(address: HubAddress) -> HubAddress:
    if not isinstance(address, Path):
        try:
            good = ipaddress.ip_address(address[0]).is_loopback
        except ValueError:
            good = False
        if not good:
            raise SettingsError(
                f"cannot use {address[0]!r} as the hub's address",
                "it must be a Unix socket's path or a loopback IP literal",
                "across machines use a broker: configs/mosquitto",
            )
    return address


class _Ended(Exception):
    """This connection is over."""


@dataclass(slots=True, eq=False)
class _Mailbox:
    """What the hub still has to write to one party; the oldest goes when it is full."""

    writer: asyncio.StreamWriter
    lines: deque[tuple[Instant | None, bytes]] = field(default_factory=lambda: deque(maxlen=INBOX_MAX))
    filled: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, line: bytes, expires: Instant | None = None) -> None:
        self.lines.append((expires, line))
        self.filled.set()


class Hub:
    """The server. `run` serves until cancelled; `ready` is set once it listens, `port` is then the TCP port."""

    def __init__(self, address: HubAddress, clock: Clock) -> None:
        self._address, self._clock = _checked(address), clock
        self._boxes: dict[str, _Mailbox] = {}
        self._clients = 0
        self.ready = asyncio.Event()
        self.port: int | None = None

    async def run(self) -> None:
        """Serve. OSError if the address cannot be had; a stale Unix socket is replaced."""
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                group.create_task(self._serve(reader, writer), name="hub-client")

            if isinstance(self._address, Path):
                self._address.unlink(missing_ok=True)
                server = await asyncio.start_unix_server(accept, self._address, limit=LINE_MAX)
                self._address.chmod(0o660)
            else:
                server = await asyncio.start_server(accept, *self._address, limit=LINE_MAX, backlog=CLIENTS_MAX)
                self.port = server.sockets[0].getsockname()[1]
            async with server:
                self.ready.set()
                await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        box, party = _Mailbox(writer), ""
        self._clients += 1
        pump = asyncio.create_task(self._pump(box), name="hub-pump")
        try:
            if self._clients > CLIENTS_MAX:
                return
            while True:
                verb, _, rest = (await _line(reader)).partition(b" ")
                if verb == b"hello" and not party:
                    party = self._enter(rest, box)
                elif verb == b"send" and party:
                    self._forward(rest)
                elif verb == b"ping" and party:
                    box.put(b"pong\n")
                else:
                    return
        except _Ended:
            pass
        finally:
            self._clients -= 1
            if self._boxes.get(party) is box:
                del self._boxes[party]
            pump.cancel()
            writer.transport.abort()

    def _enter(self, name: bytes, box: _Mailbox) -> str:
        """The newest connection of a party is the party, as with MQTT's session take-over."""
        party = name.decode("ascii", "replace")
        if not NAME.match(party):
            raise _Ended
        earlier = self._boxes.get(party)
        if earlier is not None:
            earlier.writer.transport.abort()
        self._boxes[party] = box
        box.put(b"welcome\n")
        return party

    def _forward(self, rest: bytes) -> None:
        parts = rest.split(b" ", 2)
        if len(parts) != 3 or not parts[1].isdigit() or len(parts[1]) > 9:
            raise _Ended
        box = self._boxes.get(parts[0].decode("ascii", "replace"))
        if box is not None:
            box.put(b"msg " + parts[2] + b"\n", after(self._clock.now(), int(parts[1]) / 1000))

    async def _pump(self, box: _Mailbox) -> None:
        """Write what is in the box; what expired while it waited is dropped."""
        while True:
            while not box.lines:
                box.filled.clear()
                await box.filled.wait()
            expires, line = box.lines.popleft()
            if expires is not None and self._clock.now() >= expires:
                continue
            try:
                async with asyncio.timeout(SILENCE_S_MAX):
                    box.writer.write(line)
                    await box.writer.drain()
            except (OSError, TimeoutError):
                box.writer.transport.abort()
                return


async def _line(reader: asyncio.StreamReader) -> bytes:
    """One line without its end; `_Ended` when there will be none."""
    try:
        async with asyncio.timeout(SILENCE_S_MAX):
            line = await reader.readuntil(b"\n")
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise _Ended(str(error) or "the other end is silent") from error
    return line[:-1]


class HubBus:
    """`guard.ports.Bus` of one party through a `Hub`. `run` keeps it connected and is started once, as a task."""

    def __init__(
        self,
        signer: Signer,
        keyring: Keyring,
        clock: Clock,
        *,
        address: HubAddress,
        on_reject: OnReject | None = None,
        kinds: Kinds = MESSAGES,
    ) -> None:
        self._signer, self._clock, self._address = signer, clock, _checked(address)
        self._inbox = Inbox(Opener(signer.party, signer.site, keyring, pair=signer.pair, kinds=kinds), clock, on_reject)
        self._writer: asyncio.StreamWriter | None = None
        self.connected_since: Instant | None = None
        self.failure: str | None = None
        self.refused = 0
        self.unacked = 0

    @property
    def inbox(self) -> Inbox:
        """Counters of what was dropped and rejected."""
        return self._inbox

    def connected(self) -> bool:
        """True: the hub welcomed us and was heard within the last 4 s."""
        return self._writer is not None

    def deliveries(self) -> AsyncIterator[Delivery]:
        return self._inbox.deliveries()

    async def run(self) -> None:
        """Connect, and again whenever that ends. Ends only by cancellation."""
        attempt = 0
        while True:
            await self._clock.sleep(backoff(attempt, self._clock.jitter))
            attempt += 1
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    reader, writer = await self._connect()
            except (OSError, TimeoutError) as error:
                self.failure = str(error) or "no answer from the hub in time"
                continue
            ping = asyncio.create_task(self._ping(writer), name="hub-ping")
            try:
                writer.write(f"hello {self._signer.party}\n".encode())
                while True:
                    verb, _, rest = (await _line(reader)).partition(b" ")
                    if verb == b"welcome":
                        attempt = 1
                        self._writer, self.connected_since = writer, self._clock.now()
                    elif verb == b"msg":
                        self._inbox.put(rest)
            except _Ended as ended:
                self.failure = str(ended)
            finally:
                self._writer, self.connected_since = None, None
                ping.cancel()
                writer.transport.abort()

    async def send(self, to: str, body: object, *, expires_s: float) -> bool:
        """Hand one message to the hub within 1 s. False: it was certainly not taken (down, or its buffer is full)."""
        checked_name("party", to)
        sealed = self._signer.seal(to, body)
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > INBOX_MAX * 1024:
            self.refused += 1
            return False
        writer.write(f"send {to} {min(max(1, round(expires_s * 1000)), EXPIRES_MS_MAX)} ".encode() + sealed + b"\n")
        try:
            async with asyncio.timeout(SEND_S_MAX):
                await writer.drain()
        except (OSError, TimeoutError):
            self.unacked += 1
        return True

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._address, Path):
            return await asyncio.open_unix_connection(self._address, limit=LINE_MAX)
        return await asyncio.open_connection(*self._address, limit=LINE_MAX)

    async def _ping(self, writer: asyncio.StreamWriter) -> None:
        while not writer.transport.is_closing():
            writer.write(b"ping\n")
            await self._clock.sleep(PING_S)
