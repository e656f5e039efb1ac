"""Namespaces, processes and files of one lab run, so that all of it is gone at the end, however the run ends.

1. Every process of the lab lives in the run's own cgroup (v2): the end is one write to `cgroup.kill`.
2. Every network namespace carries the prefix `pg<pid>-` (`pg<pid>.<n>-` for a further lab in one process): runs side
   by side do not meet, and what a killed run left behind is known by its dead pid and swept by the next one.
3. Files live in a private directory in memory (/dev/shm): Pacemaker and corosync call fsync often.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h
NETNS_DIR = Path("/run/netns")
SYSTEM_PYTHON = "/usr/bin/python3"
_NAME = re.compile(r"^pg(\d+)(?:\.\d+)?-")
_counter = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class LabFailed(RuntimeError):
    """The lab itself did not work (not the thing under test): a namespace, a program or a deadline."""


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME: the one clock of the lab, shared by every namespace."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted on this machine."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    raise LabFailed("cannot find a cgroup v2 mount: the lab needs one to end its processes")


def unusable() -> str | None:
    """Why namespaces cannot be made here, or None. Tried, not guessed."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    try:
        cgroup_root()
        probe = f"pg{os.getpid()}-probe"
        for words in (["ip", "netns", "add", probe], ["ip", "netns", "del", probe]):
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
            if done.returncode != 0:
                return f"a network namespace cannot be made ({done.stderr.strip()})"
        done = subprocess.run(
            [
                *("unshare", "-n", "-p", "-f", "-m", "-u", "-i", "-C", "--propagation", "private"),
                *("sh", "-c", "ip link add br0 type bridge stp_state 1 && ip link add v0 type veth peer name v1"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        return None if done.returncode == 0 else f"a bridge cannot be made in a namespace ({done.stderr.strip()})"
    except (OSError, LabFailed, subprocess.TimeoutExpired) as error:
        return str(error)


class Space:
    """One run's namespaces, cgroups, processes and directory. Use as a context manager."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise LabFailed("cannot make namespaces: run as root")
        number = next(_counter)
        self.prefix = f"pg{os.getpid()}-" if number == 0 else f"pg{os.getpid()}.{number}-"
        sweep()
        self.cgroup = cgroup_root() / self.prefix.rstrip("-")
        self.cgroup.mkdir()
        self.work = Path(tempfile.mkdtemp(prefix=f"{self.prefix}lab.", dir="/dev/shm"))
        self.work.chmod(0o755)
        self._spaces: list[str] = []
        self._lock = threading.Lock()
        self._closed = False
        atexit.register(self.close)

    def __enter__(self) -> Space:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def netns(self, name: str) -> str:
        """The full name of the namespace that this run calls `name`."""
        return self.prefix + name

    def add_netns(self, name: str) -> None:
        """Make a network namespace with loopback up and IPv6 off (its noise would only blur the pictures)."""
        with self._lock:
            self._spaces.append(name)
        run(["ip", "netns", "add", self.netns(name)])
        self.ip(name, ["link set lo up"])
        self.inside(name, lambda: _write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))
        self.inside(name, lambda: _write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"))

    def ip(self, name: str, lines: Sequence[str]) -> None:
        """Run `ip` commands in a namespace, one process for all of them. Any refusal raises LabFailed."""
        run(["ip", "-n", self.netns(name), "-batch", "-"], stdin="\n".join(lines) + "\n")

    def tc(self, name: str, lines: Sequence[str], *, force: bool = False) -> None:
        """Run `tc` commands in a namespace. `force`: go on after a refused one (taking away what may not be there)."""
        argv = ["tc", "-n", self.netns(name)] + (["-force"] if force else []) + ["-batch", "-"]
        run(argv, stdin="\n".join(lines) + "\n", check=not force)

    def inside(self, name: str, work: Callable[[], T]) -> T:
        """Call `work` in a thread that has entered the network namespace (sockets made there stay there)."""
        result: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                with (NETNS_DIR / self.netns(name)).open() as handle:
                    if _libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"cannot enter {name}")
                result.append(work())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=body, name=f"inside-{name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def listen(self, name: str, address: str, port: int) -> socket.socket:
        """A listening TCP socket inside a namespace."""
        return self.inside(name, lambda: socket.create_server((address, port), backlog=64))

    def group(self, name: str) -> Path:
        """The cgroup for one part of the run (a node, a switch); made if it is not there."""
        path = self.cgroup / name
        path.mkdir(exist_ok=True)
        return path

    def spawn(
        self, argv: Sequence[str], *, group: str, log: Path, netns: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in its cgroup, and in a namespace if named, with output to `log` and a clean environment."""
        enter = ["ip", "netns", "exec", self.netns(netns)] if netns else []
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            return subprocess.Popen(
                ["/bin/sh", "-c", script, str(self.group(group)), *enter, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_environment(env),
                start_new_session=True,
            )

    def kill(self, group: str, *, deadline_s: float = 5.0) -> None:
        """Kill everything in one part's cgroup and wait until it is empty."""
        kill_group(self.cgroup / group, deadline_s=deadline_s)

    def close(self) -> None:
        """Kill every process, remove every namespace, cgroup and file of this run. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        remove_group(self.cgroup)
        for name in self._spaces:
            run(["ip", "netns", "del", self.netns(name)], check=False)
        shutil.rmtree(self.work, ignore_errors=True)


def clean_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """What the lab's programs get: a path and a language, nothing of this shell."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root", **(more or {})}


def run(
    argv: Sequence[str], *, stdin: str | None = None, check: bool = True, deadline_s: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """A command with a deadline; a failure raises LabFailed with what it said."""
    try:
        done = subprocess.run(
            argv,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=deadline_s,
            env=clean_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabFailed(f"{' '.join(argv)}: no answer in {deadline_s} s") from error
    if check and done.returncode != 0:
        raise LabFailed(f"{' '.join(argv)}: {done.returncode}: {done.stderr.strip()} {stdin or ''}")
    return done


def kill_group(path: Path, *, deadline_s: float = 5.0) -> None:
    """SIGKILL a cgroup and all below it, and wait until nothing is left in it."""
    if not path.exists():
        return
    _write(str(path / "cgroup.kill"), "1")
    until = boottime() + deadline_s
    while "populated 1" in (path / "cgroup.events").read_text():
        if boottime() > until:
            raise LabFailed(f"{path}: processes are left {deadline_s} s after cgroup.kill")
        time.sleep(0.01)


def remove_group(path: Path) -> None:
    """Kill and remove a cgroup with everything below it."""
    if not path.exists():
        return
    kill_group(path)
    for below in sorted((p for p in path.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
        _rmdir(below)
    _rmdir(path)


def sweep() -> None:
    """Remove what runs whose process is dead have left behind: cgroups, namespaces, directories."""
    for path in cgroup_root().glob("pg*"):
        if _orphan(path.name + "-"):
            remove_group(path)
    if NETNS_DIR.is_dir():
        for path in NETNS_DIR.glob("pg*-*"):
            if _orphan(path.name):
                run(["ip", "netns", "del", path.name], check=False)
    for path in Path("/dev/shm").glob("pg*-lab.*"):
        if _orphan(path.name):
            shutil.rmtree(path, ignore_errors=True)


def end_on_signals() -> None:
    """SIGTERM ends the run like Ctrl-C does: through the context managers."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def reap(process: subprocess.Popen[bytes], log: IO[str] | None = None) -> None:
    """Wait for a child that was killed, so that no zombie stays."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        print(f"lab: {process.args!r} did not end", file=log or sys.stderr)


def _orphan(name: str) -> bool:
    found = _NAME.match(name)
    return found is not None and not Path(f"/proc/{found.group(1)}").exists()


def _write(path: str, text: str) -> None:
    with open(path, "w") as handle:
        handle.write(text)


def _rmdir(path: Path) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        time.sleep(0.01)
