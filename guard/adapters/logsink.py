"""Where events go: structlog records to journald's own socket, or as JSON lines to stderr; never at the guard's cost.

1. Logging never waits. A sink that blocks costs records; they are counted, and the count is logged once it flows again.
2. Buffers are bounded: 1024 records, the newest are dropped (the oldest tell how the trouble began).

journald's protocol is the one of systemd.io/JOURNAL_NATIVE_PROTOCOL: `KEY=value` lines, and for values with a line end
the key, a 64-bit little-endian length and the bytes. Fields other than MESSAGE and PRIORITY are named PG_*.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import structlog

from guard.errors import Unavailable
from guard.ports import Clock

BUFFER_MAX = 1024
FIELD_MAX = 32 * 1024  # bytes; a datagram over about 200 KB would need a memfd (measured), so fields are cut
JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
LOST = "log-records-lost"
CLOSE_S_MAX = 1.0


class Sink(Protocol):
    """Takes records. Never blocks, never raises; `dropped` counts what it could not take."""

    dropped: int

    def write(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class JournalSink:
    """To journald, one datagram a record. What does not fit now waits in the buffer until the next record or `flush`.

    `message_ids`: event -> 128-bit id in hexadecimal, fixed for each kind of decision (MESSAGE_ID).
    `Unavailable` if there is no journald.
    """

    def __init__(
        self, identifier: str, message_ids: Mapping[str, str] | None = None, address: Path = JOURNAL_SOCKET
    ) -> None:
        self._identifier, self._message_ids, self._address = identifier, dict(message_ids or {}), address
        self._buffer: deque[bytes] = deque()
        self._untold = 0
        self.dropped = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if not address.is_socket():
            self._socket.close()
            raise Unavailable("cannot log to journald", f"no socket at {address}", "log to stderr instead")

    def write(self, record: Mapping[str, Any]) -> None:
        self.flush()
        datagram = journal_datagram(record, self._identifier, self._message_ids)
        if self._buffer or not self._send(datagram):
            if len(self._buffer) >= BUFFER_MAX:
                self._drop()
            else:
                self._buffer.append(datagram)

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        while self._buffer and self._send(self._buffer[0]):
            self._buffer.popleft()
        if self._untold and not self._buffer:
            lost = {"event": LOST, "level": "warning", "records": self._untold}
            if self._send(journal_datagram(lost, self._identifier, self._message_ids)):
                self._untold = 0

    def close(self) -> None:
        self.flush()
        self._socket.close()

    def _send(self, datagram: bytes) -> bool:
        """True: gone (or hopeless, and counted). False: try again later. Unconnected, so a new journald is found."""
        try:
            self._socket.sendto(datagram, str(self._address))
        except (BlockingIOError, ConnectionRefusedError, FileNotFoundError, InterruptedError):
            return False
        except OSError:
            self._drop()  # too long (EMSGSIZE), no memory: no later try would do better
        return True

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1


class StreamSink:
    """JSON lines to a file descriptor (stderr), written by a thread of its own, which alone may block.

    The descriptor is left in blocking mode, since others share it.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._queue: queue.Queue[bytes | None] = queue.Queue(BUFFER_MAX)
        self._untold = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._drain, name="log-stream", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        if self._untold and self._put(_json_line({"event": LOST, "level": "warning", "records": self._untold})):
            self._untold = 0
        if not self._put(_json_line(record)):
            self.dropped += 1
            self._untold += 1

    def close(self) -> None:
        """Wait up to 1 s until everything is out; what still blocks then is left to the end of the process."""
        try:
            self._queue.put(None, timeout=CLOSE_S_MAX)
        except queue.Full:
            return
        self._thread.join(CLOSE_S_MAX)

    def _put(self, line: bytes) -> bool:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            return False
        return True

    def _drain(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self.dropped += 1  # nobody reads any more


def open_sink(
    identifier: str,
    environment: Mapping[str, str],
    message_ids: Mapping[str, str] | None = None,
    address: Path = JOURNAL_SOCKET,
) -> Sink:
    """journald where systemd connected our output to it (JOURNAL_STREAM, systemd.exec(5)), else JSON on stderr."""
    if environment.get("JOURNAL_STREAM"):
        try:
            return JournalSink(identifier, message_ids, address)
        except Unavailable:
            return StreamSink()
    return StreamSink()


def configure(sink: Sink, clock: Clock) -> None:
    """Send everything logged through structlog to `sink`: one record an event, with `ts` (UTC) from the clock."""

    def stamped(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["ts"] = datetime.fromtimestamp(clock.wall(), UTC).isoformat(timespec="microseconds")
        event["level"] = method
        return event

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, stamped, structlog.processors.format_exc_info],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=lambda *_: _ToSink(sink),
        cache_logger_on_first_use=False,
    )


class _ToSink:
    """What structlog calls at the end of its chain, by level."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def _take(self, **record: Any) -> None:
        self._sink.write(record)

    debug = info = warning = error = critical = msg = _take


# ---------------------------------------------------------------- forms


def journal_datagram(record: Mapping[str, Any], identifier: str, message_ids: Mapping[str, str]) -> bytes:
    """One record in journald's native form."""
    event = str(record.get("event", ""))
    fields = {
        "MESSAGE": str(record.get("message", event)),
        "PRIORITY": str(PRIORITY.get(str(record.get("level", "info")), 6)),
        "SYSLOG_IDENTIFIER": identifier,
    }
    if event in message_ids:
        fields["MESSAGE_ID"] = message_ids[event]
    for key, value in record.items():
        fields[_field_name(key)] = value if isinstance(value, str) else _json(value)
    return b"".join(
        _field(name, value.encode("utf-8", "backslashreplace")[:FIELD_MAX]) for name, value in fields.items()
    )


def _field_name(key: str) -> str:
    """journald allows A-Z 0-9 _, at most 64, and drops the whole field otherwise."""
    return "PG_" + "".join(each if each.isascii() and each.isalnum() else "_" for each in key).upper()[:61]


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode("ascii") + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode("ascii") + b"=" + value + b"\n"


def _json_line(record: Mapping[str, Any]) -> bytes:
    return _json(dict(record)).encode("ascii") + b"\n"


def _json(value: Any) -> str:
    """Anything as JSON; what JSON does not know is shown as text: a log line is never lost for its content."""
    return json.dumps(value, separators=(",", ":"), default=str, skipkeys=True)
