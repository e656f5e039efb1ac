"""The command line itself: help, exit codes of what goes wrong, and what it costs to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from guard.cli.main import COMMANDS, cli
from tests.cli.desk import Desk, fits, pairguard

HEAVY = ("pydantic", "pysnmp", "pyroute2", "aiomqtt", "structlog", "cryptography", "asyncio")
OURS = ["init", "check", "status", "explain", "metrics", "verdict", "hold", "release", "switch", "rehearse"]


def started(*words: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    line = [sys.executable, "-m", "guard.cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_help_imports_nothing_heavy() -> None:
    """`--help` starts without settings, adapters and their libraries."""
    line = [sys.executable, "-X", "importtime", "-m", "guard.cli.main", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    imported = {row.rsplit("|", 1)[-1].strip().split(".")[0] for row in done.stderr.splitlines()}
    assert "click" in imported
    assert imported.isdisjoint(HEAVY)


def every(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Each command below this one by its words, and whether it is a group of others."""
    group = isinstance(command, click.Group)
    yield words, group
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None, name
            yield from every(found, *words, name)


def test_every_command_has_a_help_of_80_columns() -> None:
    """All of them are walked, also those of groups, at any width: each fits, and names --json and --config."""
    walked = dict(every(cli))
    assert {("switch", "probe"), ("sandbox", "up"), ("init",)} <= set(walked)
    for words, group in walked.items():
        for columns in ("40", "80", "200"):
            done = pairguard(*words, "--help", env={"COLUMNS": columns})
            assert done.exit_code == 0, words
            fits(done.stdout)
        if not group:
            assert "--json" in done.stdout, words
            assert "--config" in done.stdout, words


@pytest.mark.parametrize("program", ["guard.daemon.main", "guard.witness.main"])
def test_the_help_of_a_daemon_has_80_columns_too(program: str) -> None:
    """On a wide screen as well."""
    line = [sys.executable, "-m", program, "--help"]
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True, env=env)
    fits(done.stdout)


def test_the_list_names_every_command_that_is_here_and_no_other() -> None:
    """What is listed can be run; later commands are not listed."""
    listed = pairguard("--help").stdout.split("Commands:")[1]
    assert [line.split()[0] for line in listed.strip().splitlines() if line.strip()][: len(OURS)] == OURS
    assert set(OURS) <= set(COMMANDS)
    for absent in ("change", "recover"):
        assert absent not in listed


@pytest.mark.parametrize(
    "words",
    [["no-such"], ["hold", "--reason", "x"], ["hold", "--for", "30", "--reason", "x"], ["verdict"], ["status", "--x"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    """An unknown word, a missing option, a duration without a unit."""
    assert pairguard(*words).exit_code == 2


USAGE = [
    ["no-such"],
    ["status", "--no-such-option-" + "x" * 90],
    [
        "hold",
        "--for",
        "30 minutes and a bit more than that, in words that nobody can read as a number",
        "--reason",
        "x",
    ],
    ["verdict"],
    ["explain", "--at", "noon"],
]


@pytest.mark.parametrize("words", USAGE, ids=lambda words: words[0])
def test_wrong_usage_says_what_why_and_next_in_80_columns_or_in_one_object(words: list[str]) -> None:
    """As every other refusal: nothing on standard output but the object that --json asks for."""
    done = started(*words)
    assert (done.returncode, done.stdout) == (2, "")
    fits(done.stderr)
    assert done.stderr.startswith("pairguard: cannot understand the command line\n  why:  ")
    assert "  next: run: pairguard" in done.stderr
    assert "--help" in done.stderr
    as_json = started(*words, "--json")
    assert (as_json.returncode, as_json.stderr) == (2, "")
    found = json.loads(as_json.stdout)
    assert list(found) == ["schema", "what", "why", "next", "exit"]
    assert (found["schema"], found["exit"]) == ("pairguard.error/1", 2)
    assert found["why"]


def test_the_entry_point_returns_the_code_of_the_command(tmp_path: Path) -> None:
    """Run as a program: usage 2, settings 89, with one object for --json."""
    assert started("no-such").returncode == 2
    done = started("status", "--json", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 89
    found = json.loads(done.stdout)
    assert next(iter(found)) == "schema"
    assert found["schema"] == "pairguard.error/1"
    assert found["exit"] == 89


def test_a_bug_of_ours_ends_with_1_and_a_short_message(desk: Desk, config: Path) -> None:
    """An exception that nothing foresaw is one line, not a traceback."""
    desk.answers["status"] = {"schema": "pairguard.status/1", "pairs": [5]}
    done = started("status", "--config", str(config))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pairguard: a bug of ours: TypeError")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "explain", "verdict --target fs1b", "release", "init"])
def test_without_a_daemon_every_question_ends_with_85(config: Path, command: str) -> None:
    """What, why and one next command, also as JSON."""
    done = pairguard(*command.split(), config=config)
    assert done.exit_code == 85
    assert "systemctl status pairguardd" in done.stderr
    fits(done.stderr)
    as_json = pairguard(*command.split(), "--json", config=config)
    assert as_json.exit_code == 85
    assert list(json.loads(as_json.stdout)) == ["schema", "what", "why", "next", "exit"]
