"""Every mutant dies by the test that names its rule; the unchanged package passes all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *("guard", "fencing", "configs/examples"),
    *(
        f"tests/{part}"
        for part in ("core", "rehearsal", "agents", "witness", "captures", "model", "daemon", "adapters")
    ),
)


class Mutant(NamedTuple):
    drops: str  # the rule, in words
    file: str
    before: str
    after: str
    red: str  # test node that must fail


MUTANTS = [Mutant(**each) for each in tomllib.loads((ROOT / "tests/mutants.toml").read_text())["mutant"]]
AT_ONCE = 2
SECONDS_MAX = 300.0


def copy_of(tmp_path: Path, name: str) -> Path:
    """The package and the tests that mutants name, never the working tree itself."""
    there = tmp_path / name
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, there / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", there)
    return there


def run(there: Path, *nodes: str) -> subprocess.CompletedProcess[str]:
    """The tests against the copy, which comes first on the path. The stories pass unchanged in test_stories.py."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--assert=plain",  # quicker; and Python 3.11.7 breaks off where garbage is collected while pytest parses a file
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(there),
        *nodes,
    ]
    env = {**os.environ, "PYTHONPATH": str(there), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=there, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def survives(mutant: Mutant, there: Path) -> str | None:
    """Why the mutant is not dead, or None."""
    file = there / mutant.file
    text = file.read_text()
    if text.count(mutant.before) != 1:
        return f"{mutant.drops}: its place is found {text.count(mutant.before)} times in {mutant.file}"
    file.write_text(text.replace(mutant.before, mutant.after))
    ended = run(there, mutant.red)
    if ended.returncode == 1 and "failed" in ended.stdout and "Error collecting" not in ended.stdout:
        return None
    return f"{mutant.drops}: {mutant.red} ended with {ended.returncode}\n{ended.stdout[-600:]}{ended.stderr[-300:]}"


def test_the_unchanged_package_passes_what_kills_the_mutants(tmp_path: Path) -> None:
    """Red must mean the mutant, not the copy."""
    ended = run(copy_of(tmp_path, "clean"), *sorted({m.red for m in MUTANTS if "test_story" not in m.red}))
    assert ended.returncode == 0, ended.stdout[-2000:]


def test_every_mutant_dies(tmp_path: Path) -> None:
    """Each rule of the list is held by the test that it names."""

    def outcome(number: int) -> str | None:
        there = copy_of(tmp_path, str(number))
        try:
            return survives(MUTANTS[number], there)
        finally:
            shutil.rmtree(there)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        alive = [why for why in pool.map(outcome, range(len(MUTANTS))) if why is not None]
    assert alive == [], "\n\n".join(alive)


@pytest.mark.parametrize("rule", ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "L1", "L2"])
def test_every_rule_has_a_mutant(rule: str) -> None:
    """No rule of DESIGN.md section 2 is without a mutant that drops it."""
    assert any(m.drops.startswith(rule) for m in MUTANTS)
