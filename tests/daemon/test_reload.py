"""SIGHUP: limits are taken, nothing else is, and whatever the files say the guard lives and is ready again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from guard.core.step import Retuned
from guard.daemon.wiring import _reload
from guard.errors import SettingsError, Unreadable
from guard.settings import GuardSettings, load_guard
from tests.daemon.stage import Stage

SETTINGS = """
site = "lab"
[pair]
name = "fs1"
node = "fs1a"
peer = "fs1b"
[bus]
kind = "hub"
socket = "/nowhere/hub.sock"
[keys]
private = "/nowhere/fs1a.pem"
public_dir = "/nowhere/pub"
[cluster]
kind = "command"
command = "/nowhere/cluster"
[replication]
resources = ["r0"]
[fence.fs1b]
delegate = "fence_dummy"
horizon = "75s"
timeout = "15s"
"""


def settings(folder: Path, text: str = SETTINGS) -> GuardSettings:
    path = folder / "pairguard.toml"
    path.write_text(text)
    return load_guard([path])[0]


def reloaded(folder: Path, read: Callable[[], GuardSettings]) -> tuple[Stage, list[str], list[Mapping[str, object]]]:
    """The stage after a reload, what systemd was told, and what was logged."""
    stage, told, logged = Stage(), list[str](), list[Mapping[str, object]]()

    class Told(Stage):
        def ready(self) -> None:
            told.append("READY=1")

        def reloading(self) -> None:
            told.append("RELOADING=1")

    def emit(event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        logged.append({"event": event, "text": text, "page": page, **data})

    _reload(settings(folder), read, stage.loop, Told(), emit)
    return stage, told, logged


def test_a_renamed_peer_waits_for_a_restart(tmp_path: Path) -> None:
    """The new limits count for the devices of the start; what else has changed is named."""
    changed = SETTINGS.replace("fs1b", "fs1c").replace('"15s"', '"19s"') + '[limits]\nsettle = "90s"\n'
    stage, told, [said] = reloaded(tmp_path, lambda: settings(tmp_path, changed))
    [retuned] = stage.loop._events
    assert isinstance(retuned, Retuned)
    assert (retuned.policy.settle_s, retuned.policy.shot_s) == (90.0, 15.0)
    assert (said["event"], said["restart_for"]) == ("reloaded", ["pair", "fence"])
    assert told == ["RELOADING=1", "READY=1"]


@pytest.mark.parametrize(
    "error", [SettingsError("x"), Unreadable("x"), OSError(24, "Too many open files"), ValueError("x")]
)
def test_whatever_cannot_be_read_changes_nothing_and_the_guard_is_ready_again(tmp_path: Path, error: Exception) -> None:
    """systemd waits for READY=1 after RELOADING=1, and an exception in a signal's callback would be lost."""

    def read() -> GuardSettings:
        raise error

    stage, told, [said] = reloaded(tmp_path, read)
    assert not stage.loop._events
    assert (said["event"], said["page"]) == ("reload-refused", True)
    assert told == ["RELOADING=1", "READY=1"]
