"""The part of cgroup v2 that a shot needs: find where it is mounted, make a group, kill and empty it, remove it.

A removed group is the proof that nothing is left: the kernel refuses `rmdir` while a process is in it, and lets
nobody join afterwards. Facts are from Linux' Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from guard.errors import Unavailable, Unreadable

MOUNTINFO = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)


def mount_of(mountinfo: str) -> Path | None:
    """Where the first writable cgroup v2 hierarchy is mounted (also beside v1: hybrid mode); None = nowhere.

    Raises `Unreadable` on a line that is no line of mountinfo.
    """
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if not separator or len(fields) < 6 or len(kinds) < 2:
            raise Unreadable("cannot read mountinfo", f"{line!r} is no line of it")
        if kinds[0] == "cgroup2" and "rw" in fields[5].split(","):
            return Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
    return None


def mounted(mountinfo_file: Path = MOUNTINFO) -> Path | None:
    """As `mount_of`, from the file. Raises `Unavailable` if that cannot be read."""
    try:
        return mount_of(mountinfo_file.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise Unavailable(f"cannot read {mountinfo_file}", str(error), "is /proc mounted?") from error


def find_mount(mountinfo_file: Path = MOUNTINFO) -> Path:
    """As `mounted`. Raises `Unavailable` if there is none."""
    mount = mounted(mountinfo_file)
    if mount is None:
        next_step = "mount it (systemd.unified_cgroup_hierarchy=1); without it a shot cannot be ended for certain"
        raise Unavailable("cannot supervise a shot", "no writable cgroup v2 is mounted", next_step)
    return mount


def make(group: Path) -> int:
    """Make the folder (and its parents); its number, by which sockets remember it. Raises `Unavailable`."""
    try:
        group.parent.mkdir(parents=True, exist_ok=True)
        group.mkdir()
        return group.stat().st_ino
    except OSError as error:
        raise Unavailable(f"cannot make the cgroup {group}", error.strerror or str(error), "are we root?") from error


def tree(group: Path) -> list[Path]:
    """The group and all below it, deepest first; empty if it is gone."""
    return [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]


def numbers(group: Path) -> frozenset[int]:
    found: set[int] = set()
    for folder in tree(group):
        with suppress(FileNotFoundError):
            found.add(folder.stat().st_ino)
    return frozenset(found)


def members(group: Path) -> frozenset[int]:
    """Process ids in the group and below it. Raises `Unavailable` if the kernel will not say."""
    found: set[int] = set()
    for folder in tree(group):
        try:
            found.update(int(pid) for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Unavailable(f"cannot list who is in {folder}", error.strerror or str(error)) from error
    return frozenset(found)


def kill(group: Path) -> None:
    """SIGKILL to all of them: at once by `cgroup.kill` (Linux 5.14), else one by one; then call again until removed."""
    try:
        with os.fdopen(os.open(group / "cgroup.kill", os.O_WRONLY), "wb") as order:  # O_CREAT would hide a missing one
            order.write(b"1")
        return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unavailable(f"cannot kill what is in {group}", error.strerror or str(error)) from error
    for pid in members(group) - {0}:  # 0: of another pid namespace, and kill(0) is our own process group
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove(group: Path) -> bool:
    """True: the group is gone, so no process is in it and none can join. False: something is still in it."""
    for folder in tree(group):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return not group.exists()
