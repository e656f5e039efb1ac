"""The control socket: local programs ask the daemon, one request a connection, over a Unix stream socket.

Request: one line `{"schema":"pairguard.control/1","verb":V,"args":{...}}`. Answer: any number of `{"progress":"text"}`
lines, then one `{"done":{...}}` or `{"error":{"code":..,"what":..,"why":..,"next":..}}`.

1. Who asks is read from the kernel (SO_PEERCRED, unix(7)), never from the request.
2. Nobody can hold the daemon up: connections, line lengths and every wait on a client are bounded.
3. A client that goes away ends its request: the handler is cancelled. So a client must not shut down its sending side.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.errors import PairguardError, Refused, SettingsError, Unavailable, Unreadable

SCHEMA = "pairguard.control/1"
LINE_MAX = 64 * 1024
CONNECTIONS_MAX = 64
REQUEST_S_MAX = 5.0  # from connect to the end of the request line
ANSWER_S_MAX = 5.0  # for a client to take its answer
MODE_WRITE, MODE_READ = 0o660, 0o666
PATH_MAX = 107  # bytes of sun_path, unix(7)
_SO_PEERGROUPS = 59  # asm-generic/socket.h, Linux 4.13; not in Python's socket module
_GROUPS_BYTES_MAX = 1024  # what Python's getsockopt takes: 256 groups; with more of them none counts


@dataclass(frozen=True, slots=True)
class PeerCred:
    """Who is at the other end, as the kernel noted when it connected. `groups`: supplementary groups."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()


Progress = Callable[[str], None]
Handler = Callable[[str, Mapping[str, Any], PeerCred, Progress], Awaitable[Mapping[str, Any]]]
"""(verb, args, cred, progress) -> the `done` object. Raises `Refused` or another `PairguardError` for an error line."""


def anybody(cred: PeerCred) -> bool:
    """For the read-only socket."""
    return True


def root_or_group(gid: int | None) -> Callable[[PeerCred], bool]:
    """For the socket that changes things: root, and members of the configured group (None: root alone)."""

    def allowed(cred: PeerCred) -> bool:
        return cred.uid == 0 or (gid is not None and (cred.gid == gid or gid in cred.groups))

    return allowed


class ControlServer:
    """Serves one socket. `run` until cancelled; `ready` is set once it listens. The socket file goes with it.

    `on_bug` gets exceptions of a handler that no rule foresees; the client is told, the daemon goes on. Without it,
    and for anything that is no `Exception` (`InvariantBroken`), `run` ends with that exception.
    `request_s`, `answer_s`: patience with a client, in seconds.
    """

    def __init__(
        self,
        path: Path,
        mode: int,
        handler: Handler,
        allowed: Callable[[PeerCred], bool],
        *,
        gid: int | None = None,
        on_bug: Callable[[Exception], None] | None = None,
        request_s: float = REQUEST_S_MAX,
        answer_s: float = ANSWER_S_MAX,
    ) -> None:
        self._path, self._mode, self._gid = path, mode, gid
        self._handler, self._allowed, self._on_bug = handler, allowed, on_bug
        self._request_s, self._answer_s = request_s, answer_s
        self._connections = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve. `Unavailable` if a living daemon has the socket or it cannot be made; `SettingsError`: bad path."""
        listener = _listener(self._path, self._mode, self._gid)
        try:
            async with asyncio.TaskGroup() as group:

                def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    group.create_task(self._connection(reader, writer), name="control-client")

                server = await asyncio.start_unix_server(accept, sock=listener, limit=LINE_MAX)
                async with server:
                    self.ready.set()
                    await server.serve_forever()
        finally:
            self.ready.clear()
            listener.close()
            self._path.unlink(missing_ok=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        writer.transport.set_write_buffer_limits(0)  # `drain` then means: taken by the kernel
        try:
            if self._connections > CONNECTIONS_MAX * 2:
                return  # not even time for a refusal
            answer = await self._answered(reader, writer, _peer(writer), busy=self._connections > CONNECTIONS_MAX)
            if answer is not None:
                await self._say(writer, answer)
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _answered(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cred: PeerCred, *, busy: bool
    ) -> dict[str, Any] | None:
        """The last line to say; None when nobody is there to hear it."""
        try:
            async with asyncio.timeout(self._request_s):
                line = await reader.readuntil(b"\n")
        except TimeoutError:
            return _error("bad-request", "cannot read the request", "its line did not end in time", "send one line")
        except (asyncio.IncompleteReadError, OSError):
            return None
        except asyncio.LimitOverrunError:
            return _error("bad-request", "cannot read the request", f"over {LINE_MAX} bytes", "send less")
        # Refusals come after the request was read: a client that still writes would not see them.
        if busy:
            return _error("busy", "cannot take the request", "too many at once", "try again")
        if not self._allowed(cred):
            return _error("not-allowed", "cannot take the request", f"uid {cred.uid} may not", "use sudo")
        try:
            verb, args = _request(line)
        except Unreadable as error:
            return _error("bad-request", error.what, error.why, error.next_step)

        def progress(text: str) -> None:
            if writer.transport.get_write_buffer_size() < LINE_MAX:  # a slow reader misses some, nobody waits
                writer.write(_line({"progress": text}))

        return await self._handled(reader, self._handler(verb, args, cred, progress), verb)

    async def _handled(
        self, reader: asyncio.StreamReader, work: Awaitable[Mapping[str, Any]], verb: str
    ) -> dict[str, Any] | None:
        handling = asyncio.ensure_future(work)
        leaving = asyncio.create_task(reader.read(1), name="control-gone")
        try:
            await asyncio.wait({handling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (handling, leaving):
                each.cancel()  # without effect on what is done
            await asyncio.wait({handling, leaving})
            if not leaving.cancelled():
                leaving.exception()  # looked at: a reset is just another way to leave
        if handling.cancelled():
            return None
        match handling.exception():
            case None:
                return {"done": dict(handling.result())}
            case PairguardError() as error:
                return _error(_code(error), error.what, error.why, error.next_step)
            case Exception() as bug if self._on_bug is not None:
                self._on_bug(bug)
                return _error("bug", f"cannot answer {verb}", f"{type(bug).__name__}: {bug}", "report this")
            case other:
                raise other

    async def _say(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._answer_s):
                writer.write(self._encoded(answer))
                await writer.drain()
        except (OSError, TimeoutError):
            return  # the client is gone, or does not read

    def _encoded(self, answer: Mapping[str, Any]) -> bytes:
        """An answer that is no JSON is a bug of ours; it must not end the daemon."""
        try:
            return _line(answer)
        except (TypeError, ValueError) as error:
            if self._on_bug is None:
                raise
            self._on_bug(error)
            return _line(_error("bug", "cannot answer", "the answer is no JSON: a bug of pairguard", "report it"))


def _listener(path: Path, mode: int, gid: int | None) -> socket.socket:
    """Bound, with its mode and group from the first moment anybody can see it; a dead daemon's socket is replaced."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    if len(os.fsencode(fresh)) > PATH_MAX:
        raise SettingsError(f"cannot make the socket {path}", "the path is too long", "use a path under /run")
    nobody_answers(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        listener.bind(str(fresh))
        if gid is not None:
            os.chown(fresh, -1, gid)
        fresh.chmod(mode)
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
        fresh.rename(path)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot make the socket {path}", error.strerror or str(error), "does its folder exist?"
        ) from error
    return listener


def nobody_answers(path: Path) -> None:
    """`Unavailable` if a living daemon has that socket."""
    if _alive(path):
        raise Unavailable(f"cannot make the socket {path}", "a living daemon answers there", "stop that one first")


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full: somebody listens
        except OSError:
            return False
    return True


def _peer(writer: asyncio.StreamWriter) -> PeerCred:
    peer: socket.socket = writer.get_extra_info("socket")
    pid, uid, gid = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except OSError:
        raw = b""  # not told: no supplementary group counts
    return PeerCred(pid, uid, gid, frozenset(each for (each,) in struct.iter_unpack("I", raw)))


def _request(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable("cannot read the request", "it is no JSON", "send one JSON object on one line") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise Unreadable("cannot read the request", f"its schema is not {SCHEMA}", "use the pairguard of this version")
    verb, args = value.get("verb"), value.get("args")
    if not isinstance(verb, str) or not isinstance(args, dict) or set(value) != {"schema", "verb", "args"}:
        raise Unreadable("cannot read the request", "it needs exactly schema, verb and args", "see man pairguardd")
    return verb, args


def _code(error: PairguardError) -> str:
    match error:
        case Refused():
            return "refused"
        case Unavailable():
            return "unavailable"
        case Unreadable():
            return "unreadable"
        case SettingsError():
            return "settings"
        case _:
            return "failed"


def _error(code: str, what: str, why: str, next_step: str) -> dict[str, Any]:
    return {"error": {"code": code, "what": what, "why": why, "next": next_step}}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


# ---------------------------------------------------------------- the client's side


async def ask(
    path: Path,
    verb: str,
    args: Mapping[str, Any],
    deadline_s: float,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The daemon's `done` object. `Refused`: it will not (codes `refused`, `not-allowed`). `Unavailable`: no daemon,

    no answer in time, it could not, or it is busy. `Unreadable`: something else answers there.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_MAX * 64)
            writer.write(_line({"schema": SCHEMA, "verb": verb, "args": dict(args)}))
            while line := await reader.readline():
                done = _taken(line, on_progress)
                if done is not None:
                    return done
    except TimeoutError as error:
        raise Unavailable(
            "cannot ask the daemon", f"no answer in {deadline_s:g} s", "run: systemctl status pairguardd"
        ) from error
    except ValueError as error:
        raise Unreadable("cannot read the daemon's answer", "its line is too long") from error
    except OSError as error:
        raise Unavailable(
            "cannot ask the daemon", f"{path}: {error.strerror or error}", "run: systemctl status pairguardd"
        ) from error
    finally:
        if writer is not None:
            writer.transport.abort()
    raise Unavailable("cannot ask the daemon", "it ended the connection", "run: systemctl status pairguardd")


def _taken(line: bytes, on_progress: Callable[[str], None] | None) -> dict[str, Any] | None:
    """The `done` object, or None after a progress line; raises what an error line says."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable("cannot read the daemon's answer", "it is no JSON") from error
    match value:
        case {"progress": str(text)}:
            if on_progress is not None:
                on_progress(text)
            return None
        case {"done": dict(done)}:
            return done
        case {"error": {"code": str(code), "what": str(what), "why": str(why), "next": str(following)}}:
            kind = Refused if code in ("refused", "not-allowed") else Unavailable
            raise kind(what, why, following)
        case _:
            raise Unreadable("cannot read the daemon's answer", "it is no progress, done or error")
