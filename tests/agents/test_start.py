"""The moment of a shot: between fork and exec a delegate dies with its guard, and nothing is started too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import alive, mount, until

from fencing import cgroup
from fencing.delegate import NOT_STARTED, WATCH_ENDED_IT
from fencing.supervisor import Supervisor
from guard.adapters.clock import BootClock
from guard.core.instant import after
from guard.ports import DeviceSettings

ROOT = Path(__file__).parents[2]
ONE_SHOT = Path(__file__).with_name("one_shot.py")
Writer = Callable[..., DeviceSettings]
pytestmark = pytest.mark.root

GUARD = """
import os, socket, subprocess, sys
lifeline, ours = (end.detach() for end in socket.socketpair())
words = [sys.executable, "-I", "-S", sys.argv[1], sys.argv[2], "600", sys.argv[3], str(lifeline), sys.argv[4]]
watch = subprocess.Popen(words, pass_fds=(lifeline,), stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin", "LANG": "C"})
print(watch.pid, flush=True)
sys.exit(watch.wait())
"""


def ran(device: DeviceSettings) -> bool:
    return Path(device.agent + ".ran").exists()


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@dataclass
class Held:
    """A delegate whose process was forked and cannot join yet: its group's door is a pipe that nobody reads."""

    guard: subprocess.Popen[str]
    watch: int
    child: int
    door: Path
    reader: int = -1

    def let_in(self) -> None:
        self.reader = os.open(self.door, os.O_RDONLY | os.O_NONBLOCK)


@contextmanager
def held(device: DeviceSettings, folder: Path, start_by: int = 0) -> Iterator[Held]:
    """Real processes, stopped at the point that matters: after the fork, before the group is joined."""
    group = folder / "group"
    group.mkdir()
    os.mkfifo(group / "cgroup.procs")
    (group / "cgroup.kill").touch()
    words = [sys.executable, "-c", GUARD, ROOT / "fencing" / "delegate.py", group, str(start_by), device.agent]
    guard = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert guard.stdout is not None
    watch = int(guard.stdout.readline())
    pids = [guard.pid, watch]
    try:
        until(lambda: children(watch), "the watch forks")
        child = children(watch)[0]
        pids.append(child)
        until(lambda: asleep(child), "it waits at the door")
        at_the_door = Held(guard, watch, child, group / "cgroup.procs")
        yield at_the_door
        os.close(at_the_door.reader)
    finally:
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        guard.communicate(timeout=30)


@pytest.mark.parametrize("killed", ["guard", "watch", "watch, then guard", "guard, then watch"])
def test_a_delegate_that_was_forked_dies_with_its_guard(delegate: Writer, tmp_path: Path, killed: str) -> None:
    """S4: SIGKILL between fork and joining the group: nothing is executed, also once the group could be joined."""
    device = delegate('touch "$0.ran"')
    with held(device, tmp_path) as at_the_door:
        for who in killed.split(", then "):
            pid = at_the_door.guard.pid if who == "guard" else at_the_door.watch
            with suppress(ProcessLookupError):  # a guard whose watch died has ended by itself
                os.kill(pid, signal.SIGKILL)
            until(lambda: not alive(pid), f"the {who} is dead")  # noqa: B023 used at once
        at_the_door.let_in()
        until(lambda: not alive(at_the_door.child), "the forked process is gone")
        until(lambda: not alive(at_the_door.watch), "its watch is gone")
    assert not ran(device)


@pytest.mark.parametrize("late", [False, True])
def test_start_by_is_looked_at_last(delegate: Writer, tmp_path: Path, late: bool) -> None:
    """S4: a pause after the fork counts: past `start_by` the process does not become the agent; before it, it does."""
    device, clock = delegate('touch "$0.ran"'), BootClock()
    start_by = after(clock.now(), 0.5 if late else 3600.0)
    with held(device, tmp_path, start_by) as at_the_door:
        if late:
            until(lambda: clock.now() > start_by, "start_by passes while it waits")
        at_the_door.let_in()
        _, complaint = at_the_door.guard.communicate(timeout=30)
    assert at_the_door.guard.returncode == (NOT_STARTED if late else 0)
    assert ran(device) is not late
    assert ("should have started" in complaint) is late


@pytest.mark.asyncio
async def test_a_shot_that_comes_too_late_says_that_it_never_started(supervisor: Supervisor, delegate: Writer) -> None:
    """The guard learns that nothing was sent, and that nothing of it is left to drain."""
    device, clock = delegate('touch "$0.ran"'), BootClock()
    result = await supervisor.fire(device, "off", "fs1b", "s1", after(clock.now(), -0.001))
    assert (result.started, result.clean) == (False, True), result.output
    assert not ran(device)
    result = await supervisor.fire(device, "off", "fs1b", "s2", after(clock.now(), 3600.0))
    assert (result.started, result.exit_code) == (True, 0)
    assert ran(device)


@pytest.mark.asyncio
async def test_no_exit_code_says_that_an_agent_never_started(supervisor: Supervisor, delegate: Writer) -> None:
    """S4: 126 is what a shell ends with whose last command is not executable, after everything before was sent."""
    for code in (NOT_STARTED, WATCH_ENDED_IT, 127):
        device = delegate(f'touch "$0.ran"; exit {code}')
        result = await supervisor.fire(device, "off", "fs1b", f"s{code}", None)
        assert ran(device)
        assert result.started, code


@pytest.mark.asyncio
async def test_an_agent_that_cannot_be_executed_never_started(supervisor: Supervisor, delegate: Writer) -> None:
    """Its interpreter is gone, say after an upgrade: nothing was sent."""
    device = delegate('touch "$0.ran"', interpreter="/nowhere/python3")
    result = await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert (result.started, result.clean) == (False, True), result.output


def named(word: str) -> list[int]:
    """Processes whose command line has `word` in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes() and alive(int(folder.name)):
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("with_watch", [False, True])
def test_no_moment_of_the_guards_death_leaves_a_shot(parent: str, delegate: Writer, with_watch: bool) -> None:
    """S4: whenever the guard (and its watch) is killed after the spawn, a delegate that has not acted never will."""
    root = mount()
    assert root is not None
    for delay_s in (0.0, 0.004, 0.008, 0.012, 0.016, 0.024, 0.04):
        device = delegate('sleep 10; touch "$0.ran"')
        guard = subprocess.Popen(
            [sys.executable, ONE_SHOT, parent, device.agent, "60"], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        with guard:
            until(lambda: children(guard.pid), "the guard spawns")  # noqa: B023 used at once
            if delay_s:
                time.sleep(delay_s)
            if with_watch:
                guard.send_signal(signal.SIGSTOP)
                for watch in children(guard.pid):
                    os.kill(watch, signal.SIGKILL)
            guard.kill()
        until(lambda: not named(device.agent), "delegate and watch are gone")  # noqa: B023 used at once
        assert not ran(device), f"fired though its guard was killed {delay_s} s after"
        for pid in cgroup.members(root / parent):  # a child of the agent, in its group, for the next `clear`
            os.kill(pid, signal.SIGKILL)
        until(lambda: cgroup.remove(root / parent), "the group is empty")
