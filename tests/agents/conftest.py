"""What the tests of shots share: a parent cgroup of the test's own, and small real programs as delegates."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fencing import cgroup
from fencing.supervisor import Supervisor
from guard.adapters.clock import BootClock
from guard.errors import PairguardError
from guard.ports import DeviceSettings

PATIENCE_S = 30.0  # this machine may be loaded; nothing here should need it


def mount() -> Path | None:
    try:
        return cgroup.find_mount()
    except PairguardError:
        return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and mount():
        return
    for item in items:
        if item.get_closest_marker("root") and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="needs root and cgroup v2"))


def until(true: Callable[[], object], what: str) -> None:
    """Poll until it is so; a deadline only for a promise that is broken."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not in {PATIENCE_S} s: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def parent() -> Iterator[str]:
    """Name of a parent cgroup that only this test uses; everything in it is ended afterwards."""
    name = f"pairguard-test-{uuid.uuid4().hex[:12]}"
    yield name
    root = mount()
    if root is None:
        return
    group = root / name
    for _ in range(500):
        for pid in cgroup.members(group):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if cgroup.remove(group):
            return
        time.sleep(0.01)
    raise AssertionError(f"the test left processes in {group}")


@pytest.fixture
def supervisor(parent: str) -> Supervisor:
    return Supervisor(BootClock(), node="here", parent=parent)


@pytest.fixture
def delegate(tmp_path: Path) -> Callable[..., DeviceSettings]:
    """Writes a program and returns the settings of a device that runs it."""

    def write(
        text: str, *, timeout_s: float = PATIENCE_S, options: dict[str, str] | None = None, interpreter: str = "/bin/sh"
    ) -> DeviceSettings:
        program = tmp_path / "fence_test"
        program.write_text(f"#!{interpreter}\n{text}")
        program.chmod(0o755)
        return DeviceSettings(agent=str(program), options=options or {}, horizon_s=None, timeout_s=timeout_s)

    return write


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own are for root alone."""
    folder = Path(tempfile.mkdtemp(prefix="pairguard-agent."))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
