"""Log records: whole in journald's own form or as JSON lines; a sink that blocks costs counted records, not time."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from guard.adapters.clock import BootClock
from guard.adapters.logsink import BUFFER_MAX, LOST, JournalSink, StreamSink, configure, open_sink
from guard.errors import Unavailable


def parsed(datagram: bytes) -> dict[str, str]:
    """journald's own reading of its native protocol."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name = line
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        datagram = rest
    return fields


@contextmanager
def journald(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        yield listener


def everything(listener: socket.socket) -> list[dict[str, str]]:
    listener.setblocking(False)
    got = []
    try:
        while True:
            got.append(parsed(listener.recv(1 << 20)))
    except BlockingIOError:
        return got


def test_fields_become_journal_fields(tmp_path: Path) -> None:
    """Names are upper case, texts with line ends are whole, nested values are JSON, each kind has its MESSAGE_ID."""
    with journald(tmp_path / "j") as listener:
        sink = JournalSink("pairguardd", {"verdict": "0123456789abcdef0123456789abcdef"}, tmp_path / "j")
        sink.write({"event": "verdict", "level": "warning", "row": "V32", "text": "a\nb=ü", "why-not": [1, None]})
        fields = parsed(listener.recv(1 << 20))
        sink.close()
    assert fields == {
        "MESSAGE": "verdict",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "pairguardd",
        "MESSAGE_ID": "0123456789abcdef0123456789abcdef",
        "PG_EVENT": "verdict",
        "PG_LEVEL": "warning",
        "PG_ROW": "V32",
        "PG_TEXT": "a\nb=ü",
        "PG_WHY_NOT": "[1,null]",
    }


def test_no_value_can_forge_a_field(tmp_path: Path) -> None:
    """Line ends and equal signs in keys and values stay where they are; lone surrogates and huge texts are survived."""
    with journald(tmp_path / "j") as listener:
        sink = JournalSink("x", None, tmp_path / "j")
        sink.write({"event": "e\nPRIORITY=0", "a\n=b": "c\nMESSAGE=d", "s": "\ud800", "long": "x" * 500_000})
        fields = parsed(listener.recv(1 << 20))
        sink.close()
    assert (fields["MESSAGE"], fields["PRIORITY"]) == ("e\nPRIORITY=0", "6")
    assert fields["PG_A__B"] == "c\nMESSAGE=d"
    assert len(fields["PG_LONG"]) == 32 * 1024


def test_a_blocked_journald_costs_counted_records(tmp_path: Path) -> None:
    """Nobody reads: every write returns, the buffer is bounded, and the loss is logged once it flows again."""
    with journald(tmp_path / "j") as listener:
        sink = JournalSink("x", None, tmp_path / "j")
        for n in range(BUFFER_MAX + 1000):
            sink.write({"event": "n", "n": n})
        assert sink.dropped > 0
        got = everything(listener)
        while sink._buffer or sink._untold:
            sink.flush()
            got += everything(listener)
        sink.write({"event": "after"})
        got += everything(listener)
        sink.close()
    kept = [int(each["PG_N"]) for each in got if each["MESSAGE"] == "n"]
    assert kept == list(range(len(kept)))  # the first ones, in order
    assert len(kept) + sink.dropped == BUFFER_MAX + 1000
    assert [each["PG_RECORDS"] for each in got if each["MESSAGE"] == LOST] == [str(sink.dropped)]
    assert got[-1]["MESSAGE"] == "after"


def test_a_restarted_journald_gets_what_waited(tmp_path: Path) -> None:
    """journald's restart loses nothing that fits the buffer."""
    with journald(tmp_path / "j"):
        sink = JournalSink("x", None, tmp_path / "j")
    sink.write({"event": "while it was gone"})
    (tmp_path / "j").unlink()
    sink.write({"event": "and its socket too"})
    with journald(tmp_path / "j") as listener:
        sink.write({"event": "back"})
        got = [each["MESSAGE"] for each in everything(listener)]
        sink.close()
    assert got == ["while it was gone", "and its socket too", "back"]
    assert sink.dropped == 0


def test_lines_are_json_and_complete() -> None:
    """One object a line, whatever the values are."""
    reading, writing = os.pipe()
    sink = StreamSink(writing)
    record: dict[Any, Any] = {"event": "a\nb", "path": Path("/x"), "bad": float("nan"), "s": "\ud800", ("t",): 1}
    sink.write(record)
    sink.write({"event": "second"})
    sink.close()
    os.close(writing)
    with os.fdopen(reading) as stream:
        first, second = (json.loads(line) for line in stream)
    assert (first["event"], first["path"], second["event"]) == ("a\nb", "/x", "second")


def test_a_blocked_stderr_costs_counted_records() -> None:
    """A full pipe that nobody reads: every write returns; read again, the first records and the count of the lost."""
    reading, writing = os.pipe()
    sink = StreamSink(writing)
    total = BUFFER_MAX + 3000
    for n in range(total):
        sink.write({"event": "n", "n": n, "fill": "x" * 200})
    assert sink.dropped > 0
    lines: list[dict[str, object]] = []

    def read() -> None:
        with os.fdopen(reading) as stream:
            lines.extend(json.loads(line) for line in stream)

    reader = threading.Thread(target=read)
    reader.start()
    while sink._queue.qsize() > 10:
        time.sleep(0.01)
    sink.write({"event": "after"})
    sink.close()
    os.close(writing)
    reader.join(20)
    kept = [each["n"] for each in lines if each["event"] == "n" and isinstance(each["n"], int)]
    assert kept[:BUFFER_MAX] == list(range(BUFFER_MAX))
    assert kept == sorted(set(kept))
    assert len(kept) + sink.dropped == total
    # The pipe took a little while it filled, so the loss may be told in several parts.
    assert sum(int(str(each["records"])) for each in lines if each["event"] == LOST) == sink.dropped
    assert lines[-1]["event"] == "after"


def test_a_closed_stderr_is_outlived() -> None:
    """Nobody at the other end: counted, and nothing raises."""
    reading, writing = os.pipe()
    os.close(reading)
    sink = StreamSink(writing)
    for _ in range(10):
        sink.write({"event": "x"})
    sink.close()
    os.close(writing)
    assert sink.dropped == 10


def test_the_sink_is_chosen_by_what_systemd_says(tmp_path: Path) -> None:
    """JOURNAL_STREAM means journald; without it, or without journald, stderr."""
    with journald(tmp_path / "j"):
        chosen = open_sink("x", {"JOURNAL_STREAM": "8:1"}, address=tmp_path / "j")
        assert isinstance(chosen, JournalSink)
        chosen.close()
        plain = open_sink("x", {}, address=tmp_path / "j")
        assert isinstance(plain, StreamSink)
        plain.close()
    without = open_sink("x", {"JOURNAL_STREAM": "8:1"}, address=tmp_path / "none")
    assert isinstance(without, StreamSink)
    without.close()
    with pytest.raises(Unavailable, match="journald"):
        JournalSink("x", None, tmp_path / "none")


def test_structlog_goes_through_with_level_and_time() -> None:
    """What the daemons call is structlog; what arrives has event, level, bound fields and a UTC moment."""
    reading, writing = os.pipe()
    sink = StreamSink(writing)
    try:
        configure(sink, BootClock())
        log = structlog.get_logger().bind(pair="fs1")
        log.info("hold-open", inhibits=["x"])
        log.error("bus-lost")
    finally:
        structlog.reset_defaults()
    sink.close()
    os.close(writing)
    with os.fdopen(reading) as stream:
        first, second = (json.loads(line) for line in stream)
    assert {k: first[k] for k in ("event", "level", "pair", "inhibits")} == {
        "event": "hold-open",
        "level": "info",
        "pair": "fs1",
        "inhibits": ["x"],
    }
    assert first["ts"].endswith("+00:00")
    assert second["level"] == "error"
