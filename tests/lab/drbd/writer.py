#!/usr/bin/python3
"""The lab's application: writes one record each 50 ms through the stand-in and logs every acknowledged one.

Log lines: `BLOCK HASH CLOCK_BOOTTIME_NS`, written after the acknowledgment; `# open NODE NS` at each start. A
record's number goes on from the last one on the disk, its hash names node and process, so that two histories that
ran apart can be told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path


class App:
    """One open device."""

    def __init__(self, path: Path) -> None:
        self._wire = socket.socket(socket.AF_UNIX)
        self._wire.connect(str(path))
        self._lines = self._wire.makefile()

    def call(self, **order: object) -> dict[str, object]:
        """One order, one answer; waits as long as I/O is frozen. Raises ConnectionError when the device is gone."""
        self._wire.sendall(json.dumps(order).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise ConnectionError("device gone")
        return dict(json.loads(line))


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, which all nodes of the lab share."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main() -> int:
    """Writes until killed or --count; exit 1 if the device refuses (Secondary, down)."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--socket", type=Path, default=Path("/run/drbd-standin/r0.app"))
    options.add_argument("--log", type=Path, default=Path("/var/log/pglab-writer.log"))
    options.add_argument("--interval", type=float, default=0.05, help="seconds between records")
    options.add_argument("--count", type=int, default=0, help="stop after so many records; 0 = never")
    options.add_argument("--opened", action="store_true", help="only print how often the device is open")
    chosen = options.parse_args()
    try:
        app = App(chosen.socket)
        if chosen.opened:
            print(app.call(op="opened")["opened"])
            return 0
        return write(app, chosen)
    except (OSError, ConnectionError) as error:
        print(f"cannot write: {error}", file=sys.stderr)
        return 1


def write(app: App, chosen: argparse.Namespace) -> int:
    """The loop."""
    node = os.environ.get("__DRBD_NODE__") or os.uname().nodename
    answer = app.call(op="open")
    if "last" not in answer:
        raise ConnectionError(str(answer.get("error")))
    block, first = int(str(answer["last"])), int(str(answer["last"]))
    with chosen.log.open("a", buffering=1) as log:
        log.write(f"# open {node} {boottime_ns()}\n")
        due = time.monotonic()
        while not chosen.count or block - first < chosen.count:
            block += 1
            mark = hashlib.sha256(f"{node} {os.getpid()} {block} {time.time_ns()}".encode()).hexdigest()[:16]
            answer = app.call(op="write", b=block, h=mark)
            if answer.get("ack") != block:
                raise ConnectionError(str(answer.get("error")))
            log.write(f"{block} {mark} {boottime_ns()}\n")
            due = max(due + chosen.interval, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
