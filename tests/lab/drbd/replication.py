"""The wire between the two stand-ins: connecting, pings, the handshake, mirrored writes, the resync. JSON lines over
TCP.

Two things are as on real machines although a dying process would do otherwise:
1. An end of the stream without a `bye` is a peer that lost power: nothing is noticed before the ping times out.
2. A connection that timed out is torn with a reset, so that what was on its way is never read later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
from typing import TYPE_CHECKING

import resconf
from disk import NEW_BITMAP_OFFSET, RECORD_KIB
from handshake import Outcome, Side, decide, rank

if TYPE_CHECKING:
    from volume import Resource

LINE_BYTES_MAX = 1 << 24  # a bitmap of a long time alone is one line


class Ended(Exception):
    """The session is over; `state` is what the connection shows then (StandAlone = no more tries), `bye` what the
    peer hears."""

    def __init__(self, state: str, why: str, bye: str | None = None, **also: object) -> None:
        super().__init__(why)
        self.state, self.bye, self.also = state, bye, also


class Peer:
    """The connection of one resource."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        conf = resource.conf
        self.ping_int = float(conf.option("net", "ping-int") or 10)
        self.ping_timeout = float(conf.option("net", "ping-timeout") or 5) / 10
        self.connect_int = float(conf.option("net", "connect-int") or 10)
        self.rate_kib = resconf.rate_kib(conf.option("disk", "resync-rate") or "250k")
        self.connector = resource.node == min(conf.hosts)  # one side dials, so there is never a crossed pair
        self.discard = False
        self._server: asyncio.Server | None = None
        self._run: asyncio.Task[None] | None = None
        self._resync: asyncio.Task[None] | None = None
        self._accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._synced: set[int] = set()
        self._leaving: dict[str, object] = {}  # what the peer's announced departure will change here
        self._peer_uuids: list[int] = [0, 0, 0, 0]

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self, discard: bool) -> None:
        """Begins to connect, until `stop` or a refusal."""
        self.discard = discard
        self._run = asyncio.create_task(self._connect_for_ever())
        self._run.add_done_callback(self._died)

    def _died(self, run: asyncio.Task[None]) -> None:
        """An error of the stand-in itself must be seen: without this task it would look like a cut for ever."""
        error = None if run.cancelled() else run.exception()
        if error is not None:
            self.resource.log(f"BUG of the stand-in, no more connection: {error!r}")

    async def stop(self, bye: str) -> None:
        """Ends the connection in order."""
        self.send(t="bye", why=bye)
        if self._writer is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self.ping_timeout):
                    await self._writer.drain()
        await self.close()

    async def close(self) -> None:
        """Ends every task and socket; does not touch the state."""
        for task in (self._run, self._resync):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.wait([task])
        self._hang_up(reset=False)
        if self._server is not None:
            self._server.close()
            self._server = None

    def send(self, **message: object) -> None:
        """Queues one message; silently nothing without a connection."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def request(self, what: str) -> bool:
        """Asks the peer to agree to a change of both; False for a refusal, no connection or no answer."""
        if self._writer is None:
            return False
        number = secrets.randbits(31)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.send(t="ask", n=number, what=what)
        try:
            async with asyncio.timeout(self.ping_int + self.ping_timeout):
                return await answer
        except TimeoutError:
            return False
        finally:
            del self._answers[number]

    def _hang_up(self, reset: bool) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if reset:
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):  # the peer reset it first: it is closed already
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(False)

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _connect_for_ever(self) -> None:
        resource = self.resource
        while True:
            if self.connector:
                reader, self._writer, first = await self._dial()
            else:
                (reader, self._writer), first = await self._listen(), None
            resource.connect_count += 1
            self._leaving, self._synced = {}, set()
            try:
                resource.change(cstate="WFReportParams")
                await self._session(reader, first)
            except Ended as ended:
                end = ended
            except (ValueError, KeyError, TypeError) as error:
                end = Ended("ProtocolError", f"cannot read the peer: {error!r}", bye="refused")
            await self._end(end)
            if end.state == "StandAlone":
                return

    async def _end(self, end: Ended) -> None:
        resource = self.resource
        resource.log(str(end))
        if self._resync is not None:
            self._resync.cancel()
            self._resync = None
        if end.bye is not None:
            self.send(t="bye", why=end.bye)
        self._hang_up(reset=end.bye is None)
        if end.state == "StandAlone":
            resource.change(cstate="Disconnecting", **end.also)
            if self._server is not None:
                self._server.close()
                self._server = None
            resource.stand_alone()
        else:
            resource.change(cstate=end.state, **end.also)
            resource.publish(again=True)
            resource.change(cstate="Unconnected")
            resource.change(cstate="WFConnection")
        resource.lost()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """A connection on which the peer has said hello; one that it closes at once was never a connection."""
        host = self.resource.conf.hosts[self.resource.peer_node]
        while True:
            writer = None
            try:
                async with asyncio.timeout(max(self.connect_int, self.ping_timeout)):
                    own = (self.resource.own.address, 0)
                    reader, writer = await asyncio.open_connection(
                        host.address, host.port, local_addr=own, limit=LINE_BYTES_MAX
                    )
                async with asyncio.timeout(self.ping_int + self.ping_timeout):
                    first = await reader.readline()
                if first:
                    return reader, writer, first
            except (OSError, TimeoutError):
                pass
            if writer is not None:
                writer.close()
            await asyncio.sleep(self.connect_int)

    async def _listen(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        own = self.resource.own
        while self._server is None:
            try:
                self._server = await asyncio.start_server(self._accept, own.address, own.port, limit=LINE_BYTES_MAX)
            except OSError as error:
                self.resource.log(f"cannot listen on {own.address}:{own.port}: {error}")
                await asyncio.sleep(self.connect_int)
        while not self._accepted.empty():
            self._accepted.get_nowait()[1].close()
        return await self._accepted.get()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.resource.cstate != "WFConnection" or not self._accepted.empty():
            writer.close()  # the old connection is not known dead yet: the peer tries again
        else:
            self._accepted.put_nowait((reader, writer))

    # -- a session -----------------------------------------------------------------------------------------------------

    async def _session(self, reader: asyncio.StreamReader, first: bytes | None) -> None:
        self.send(t="hello", **self.side(), discard=self.discard)
        hello = False
        while True:
            message = json.loads(first) if first else await self._receive(reader)
            first = None
            kind = message.get("t")
            if kind == "hello":
                hello = True
                await self._hello(message)
            elif kind == "bye":
                if message["why"] == "disconnect":
                    raise Ended("TearDown", "peer disconnected", bye="ok", **self._leaving)
                raise Ended(
                    "NetworkFailure" if not self.resource.connected else "BrokenPipe", "peer dropped us", bye="ok"
                )
            elif hello or kind in ("ping", "pong"):
                await self._message(message)

    async def _receive(self, reader: asyncio.StreamReader) -> dict[str, object]:
        """The next message, pinging when nothing comes. Raises Ended when a ping goes unanswered."""
        for wait in (self.ping_int, self.ping_timeout):
            try:
                async with asyncio.timeout(wait):
                    line = await reader.readline()
                if line.endswith(b"\n"):
                    return json.loads(line)  # type: ignore[no-any-return]
                await asyncio.sleep(self.ping_int + self.ping_timeout)  # law 1
                break
            except TimeoutError:
                self.send(t="ping")
            except OSError:
                await asyncio.sleep(self.ping_int + self.ping_timeout)
                break
        raise Ended("NetworkFailure", "PingAck did not arrive in time.")

    def side(self) -> dict[str, object]:
        """What this node says of itself."""
        resource = self.resource
        meta = resource.disk.meta
        return {"uuids": meta.uuids(), "role": resource.role, "disk": resource.dstate, "crashed": resource.crashed}

    async def _hello(self, message: dict[str, object]) -> None:
        """The handshake (drbd_sync_handshake): connect, resync, or refuse."""
        resource = self.resource
        own = _side({**self.side(), "discard": self.discard})
        peer = _side(message)
        self._peer_uuids = list(peer.uuids)
        outcome = decide(own, peer, tie_breaker=self.connector)
        resource.log(f"self {':'.join(f'{value:016X}' for value in own.uuids)} bits:{len(resource.disk.dirty)}")
        resource.log(f"peer {':'.join(f'{value:016X}' for value in peer.uuids)}")
        resource.log(f"uuid_compare()={outcome.verdict} by rule {outcome.rule}")
        if abs(outcome.verdict) == 100:
            await resource.helper("initial-split-brain", volume=True)
        if outcome.split_brain:
            await resource.helper("split-brain", volume=True)
        if outcome.state in ("StandAlone", "NetworkFailure"):
            raise Ended(outcome.state, outcome.why, bye="refused")
        thaw = resource.suspended and resource.new_uuid_due
        if outcome.state == "Connected" and peer.disk == "Consistent" and thaw:
            resource.tear_pending()
            resource.disk.meta.new_current()
            resource.new_uuid_due = False
            why = "Aborting Connect, can not thaw IO with an only Consistent peer"
            raise Ended("ProtocolError", why, bye="refused", susp_user=False)
        self.discard = False
        if outcome.state == "Connected":
            self._connected(peer)
        else:
            self._begin(outcome, peer)

    def _connected(self, peer: Side) -> None:
        resource = self.resource
        own_good, peer_good = (rank(disk) > rank("Inconsistent") for disk in (resource.dstate, peer.disk))
        disk = "UpToDate" if own_good and peer_good else resource.dstate
        resource.change(
            cstate="Connected", peer_role=peer.role, dstate=disk, pdsk="UpToDate" if peer_good else peer.disk
        )
        resource.crashed = False  # on the disk it stays until the next change, as recorded (06-f)

    def _begin(self, outcome: Outcome, peer: Side) -> None:
        resource = self.resource
        if outcome.full:
            resource.disk.mark(set(resource.disk.blocks))
        if outcome.verdict > 0:
            resource.change(cstate="WFBitMapS", peer_role=peer.role, pdsk="Consistent")
        else:
            disk = "Outdated" if rank(resource.dstate) > rank("Outdated") else resource.dstate
            resource.change(cstate="WFBitMapT", peer_role=peer.role, dstate=disk, pdsk="UpToDate")
            self.send(t="bitmap", blocks=sorted(resource.disk.dirty))

    def become_source(self, full: bool) -> None:
        """A forced promotion over an Inconsistent peer, while connected."""
        self._begin(Outcome("WFBitMapS", 2 if full else 1, 0, full=full), _side({**self.side(), "role": "Secondary"}))

    async def _message(self, message: dict[str, object]) -> None:
        resource = self.resource
        match message:
            case {"t": "ping"}:
                self.send(t="pong")
            case {"t": "pong"}:
                pass
            case {"t": "write", "n": n, "b": int(block), "h": str(mark)}:
                self._store(block, mark)
                self.send(t="ack", n=n)
            case {"t": "ack", "n": int(number)}:
                resource.acknowledge(number)
            case {"t": "state", "role": str(role), "disk": str(disk)}:
                pdsk = disk if resource.cstate == "Connected" else resource.pdsk
                resource.change(peer_role=role, pdsk=pdsk)
            case {"t": "uuids", **rest}:
                self._peer_uuids = list(_side(rest).uuids)
                self._begin(Outcome("WFBitMapT", -2, 0, full=True), _side(rest))
            case {"t": "ask", "n": n, "what": str(what)}:
                self.send(t="answer", n=n, yes=self._asked(what))
            case {"t": "answer", "n": int(n), "yes": bool(yes)}:
                if n in self._answers and not self._answers[n].done():
                    self._answers[n].set_result(yes)
            case _:
                await self._resync_message(message)

    def _store(self, block: int, mark: str | None) -> None:
        resource = self.resource
        resource.disk.write(block, mark)
        resource.received += RECORD_KIB
        resource.written += RECORD_KIB

    def _asked(self, what: str) -> bool:
        """The peer wants a change of both nodes' state."""
        resource = self.resource
        if what == "primary":
            if resource.role != "Primary":
                resource.change(peer_role="Primary")
            return resource.role != "Primary"
        if what == "outdate":  # a Primary leaves in order
            better = rank(resource.dstate) > rank("Outdated")
            self._leaving = {"dstate": "Outdated"} if better else {}
            return resource.role != "Primary"
        self._leaving = {"pdsk": "Outdated"} if resource.pdsk == "UpToDate" else {}
        return True

    # -- resync --------------------------------------------------------------------------------------------------------

    async def _resync_message(self, message: dict[str, object]) -> None:
        resource = self.resource
        disk = resource.disk
        match message:
            case {"t": "bitmap", "blocks": list(blocks)}:
                disk.mark(set(blocks))
                await resource.helper("before-resync-source", volume=True)
                if disk.meta.bitmap:
                    disk.meta.to_history(disk.meta.bitmap)
                    disk.meta.bitmap = (disk.meta.bitmap + NEW_BITMAP_OFFSET) % (1 << 64)
                else:
                    disk.meta.bitmap = secrets.randbits(64)
                resource.resync_total = len(disk.dirty)
                self.send(t="sync-uuid", uuid=disk.meta.bitmap, blocks=sorted(disk.dirty))
                resource.change(cstate="SyncSource", pdsk="Inconsistent")
                self._resync = asyncio.create_task(self._feed())
            case {"t": "sync-uuid", "uuid": int(uuid), "blocks": list(blocks)}:
                resource.change(cstate="WFSyncUUID")
                await resource.helper("before-resync-target", volume=True)
                disk.mark(set(blocks))
                resource.resync_total = len(disk.dirty)
                disk.meta.current, disk.meta.bitmap = uuid & ~1 | int(resource.role == "Primary"), 0
                resource.change(cstate="SyncTarget", dstate="Inconsistent")
            case {"t": "sync", "b": int(block), "h": mark}:
                self._store(block, mark if isinstance(mark, str) else None)
                disk.clear(block)
                self.send(t="synced", b=block)
            case {"t": "synced", "b": int(block)}:
                self._synced.add(block)
            case {"t": "sync-done", "uuids": list(uuids)}:
                meta = disk.meta
                meta.history1, meta.history2 = meta.current, uuids[2]
                meta.current = uuids[0] & ~1 | int(resource.role == "Primary")
                disk.clear()
                await resource.helper("after-resync-target", volume=True)
                resource.change(cstate="Connected", dstate="UpToDate")
                resource.crashed = False
            case _:
                raise Ended("ProtocolError", f"cannot read {message!r}", bye="refused")

    async def _feed(self) -> None:
        """The source's side: each dirty block at the configured rate, then the new common generation."""
        resource, disk = self.resource, self.resource.disk
        queue = sorted(disk.dirty)
        for block in queue:
            self.send(t="sync", b=block, h=disk.blocks.get(block))
            resource.sent += RECORD_KIB
            await asyncio.sleep(RECORD_KIB / self.rate_kib)
            self._clear_synced()
        while disk.dirty:
            await asyncio.sleep(min(0.02, self.ping_timeout))
            self._clear_synced()
        meta = disk.meta
        self.send(t="sync-done", uuids=meta.uuids())
        meta.to_history(meta.bitmap)
        meta.bitmap = 0
        disk.clear()
        self._resync = None
        resource.change(cstate="Connected", pdsk="UpToDate")
        resource.crashed = False
        await resource.helper("unfence-peer")

    def _clear_synced(self) -> None:
        for block in self._synced:
            self.resource.disk.clear(block)
        self._synced.clear()


def _side(message: dict[str, object]) -> Side:
    uuids = message["uuids"]
    if not isinstance(uuids, list) or len(uuids) != 4:
        raise Ended("ProtocolError", f"cannot read {message!r}", bye="refused")
    first, bitmap, young, old = uuids
    role, disk = str(message["role"]), str(message["disk"])
    return Side((first, bitmap, young, old), disk, role, bool(message.get("crashed")), bool(message.get("discard")))
