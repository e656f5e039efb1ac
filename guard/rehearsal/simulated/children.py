"""Processes of the sandbox: each is started, written down with its start time, and ended with the sandbox.

A pid alone names nobody for long; pid and start time (field 22 of /proc/PID/stat, proc(5)) name one process for ever.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

END_S_MAX = 5.0  # a program that was asked to end is killed after this
HIDDEN = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM")  # systemd's words are for us alone


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` started; None: there is no such process (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in "ZX" else int(fields[19])


def living(pids: Path) -> dict[str, int]:
    """Processes written down in `pids` that still run, by name."""
    try:
        said = json.loads(pids.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: pid for name, (pid, started) in said.items() if start_time(pid) == started}


@dataclass(slots=True, eq=False)
class Child:
    """One process under way. `restarts` is for programs that are started again when they end."""

    name: str
    task: asyncio.Task[None]
    pid: int | None = None


class Children:
    """Starts processes as tasks of `group`. Names are unique; starting a name again ends the one before."""

    def __init__(self, group: asyncio.TaskGroup, pids: Path) -> None:
        self._group, self._pids = group, pids
        self._children: dict[str, Child] = {}
        self._written: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, int] = {}  # exit code of the last end that nobody asked for, by name
        self.write_down("world", os.getpid())

    def start(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        extra: Mapping[str, str] | None = None,
        stdin: str = "",
        done: Callable[[int], None] | None = None,
    ) -> None:
        """`done` gets the exit code when it ends by itself; negative: a signal."""
        self.kill(name)
        work = self._run(name, tuple(argv), log, dict(extra or {}), stdin.encode(), done)
        self._children[name] = Child(name, self._group.create_task(work, name=f"child-{name}"))

    def kill(self, name: str) -> None:
        """At once, as a power cut does."""
        child = self._children.pop(name, None)
        if child is not None:
            child.task.cancel()

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in self._children if name.startswith(prefix)]

    def shown(self) -> dict[str, int | None]:
        return {name: child.pid for name, child in self._children.items()}

    def write_down(self, name: str, pid: int) -> None:
        started = start_time(pid)
        if started is not None:
            self._written[name] = (pid, started)
        self._save()

    def _save(self) -> None:
        fresh = self._pids.with_suffix(".new")
        fresh.write_text(json.dumps(self._written), encoding="utf-8")
        fresh.rename(self._pids)

    async def _run(
        self,
        name: str,
        argv: tuple[str, ...],
        log: Path,
        extra: dict[str, str],
        stdin: bytes,
        done: Callable[[int], None] | None,
    ) -> None:
        env = {key: value for key, value in os.environ.items() if key not in HIDDEN} | extra
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.PIPE, stdout=sink, stderr=sink, env=env, cwd="/"
            )
        child = self._children.get(name)
        if child is not None and child.task is asyncio.current_task():
            child.pid = process.pid
        self.write_down(name, process.pid)
        asked = True
        try:
            if process.stdin is not None:
                with suppress(BrokenPipeError, ConnectionResetError):
                    process.stdin.write(stdin)
                    await process.stdin.drain()
                process.stdin.close()
            code = await process.wait()
            asked = False
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await asyncio.shield(asyncio.ensure_future(process.wait()))
            if self._written.get(name, (0, 0))[0] == process.pid:
                del self._written[name]
                self._save()
        if self._children.get(name) is child:
            self._children.pop(name, None)
        if not asked:
            self.ended[name] = code
            if done is not None:
                done(code)
