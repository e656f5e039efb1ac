"""What systemd will make of our units: valid, shut as far as their duties allow, in the right order."""

from __future__ import annotations

import configparser
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from guard.errors import Refused, SettingsError, Unavailable, Unreadable, exit_code

SYSTEMD = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
UNITS = ("pairguardd.service", "pairguard-witness.service", "pairguard.slice")
EXPOSURE_MAX = {"pairguardd.service": 50, "pairguard-witness.service": 15}
"""Tenths, as `systemd-analyze security` counts: 0 is shut, 100 is open. A plain service is at 96."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


class Unit(configparser.RawConfigParser):
    """A unit file; the last value of a repeated key counts, keys keep their case."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",), interpolation=None)
        self.read(SYSTEMD / name)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as installed, with programs that exist."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text))
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_every_line(installed: Path, name: str) -> None:
    """No unknown key, no misspelt value: systemd would only warn about them and go on without the protection."""
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(installed / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert name not in ran.stderr


@needs_systemd
@pytest.mark.parametrize("name", sorted(EXPOSURE_MAX))
def test_the_units_are_shut(installed: Path, name: str) -> None:
    """A fault in the guard must not be a way to the whole node; the witness may do almost nothing."""
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX[name]}", str(installed / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout[-300:] + ran.stderr


def test_the_guard_is_ready_before_pacemaker_but_not_its_condition() -> None:
    """Pacemaker waits for the guard's start, and runs without it: services never depend on the guard (L3)."""
    unit = Unit("pairguardd.service")
    assert "pacemaker.service" in unit["Unit"]["Before"].split()
    assert unit["Service"]["Type"] == "notify"
    assert not {"Requires", "BindsTo", "PartOf", "RequiredBy", "Conflicts"} & {*unit["Unit"], *unit["Install"]}


def test_a_guard_that_hangs_or_dies_is_started_again_and_one_with_bad_settings_is_not() -> None:
    """89 means that a person must mend the settings: trying for ever would only hide that. All else is tried again."""
    for name in EXPOSURE_MAX:
        service = Unit(name)["Service"]
        assert service["Restart"] == "always"
        assert service["RestartPreventExitStatus"] == "89"
        assert [exit_code(kind("x")) for kind in (SettingsError, Unreadable, Refused)] == [89] * 3
        assert exit_code(Unavailable("x")) == 75
        assert int(service["WatchdogSec"]) >= 5


def test_settings_for_this_boot_outlive_a_stop() -> None:
    """configs/conf.d/README.md promises it of /run/pairguard/conf.d, which is inside the guard's runtime folder."""
    service = Unit("pairguardd.service")["Service"]
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryPreserve"]) == ("pairguard", "yes")


def test_no_unit_makes_our_package_importable_by_stock_agents() -> None:
    """`fencing` is also the name of the stock agents' own library: found in its place, no agent works any more."""
    for name in EXPOSURE_MAX:
        service = Unit(name)["Service"]
        assert "PYTHONPATH" in service["UnsetEnvironment"].split()
        assert "PYTHON" not in service["Environment"]
        assert service["ExecStart"].startswith("/usr/lib/pairguard/venv/bin/")


def test_children_of_the_guard_have_no_real_time_priority() -> None:
    """A fence agent that spins must not starve the node."""
    service = Unit("pairguardd.service")["Service"]
    assert (service["CPUSchedulingPolicy"], service["CPUSchedulingResetOnFork"]) == ("rr", "yes")


def test_both_services_live_in_a_slice_with_limits() -> None:
    """A leak of ours ends us, not the file server."""
    for name in EXPOSURE_MAX:
        assert Unit(name)["Service"]["Slice"] == "pairguard.slice"
    slice_ = Unit("pairguard.slice")["Slice"]
    assert {"MemoryMax", "CPUWeight", "TasksMax"} <= set(slice_)


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None, reason="needs systemd's tools"
)
def test_user_and_folders_are_made_as_written(tmp_path: Path) -> None:
    """Keys are for root and the witness alone."""
    (tmp_path / "etc").mkdir()
    for tool, kind in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        file = str(SYSTEMD / f"pairguard.{kind}.conf")
        words = [tool, f"--root={tmp_path}", *(["--create"] if kind == "tmpfiles" else []), file]
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 0, ran.stderr
    assert "pairguard:" in (tmp_path / "etc" / "passwd").read_text()
    assert stat.S_IMODE((tmp_path / "etc" / "pairguard" / "keys").stat().st_mode) == 0o750
    assert (tmp_path / "run" / "pairguard" / "conf.d").is_dir()
