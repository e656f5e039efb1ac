"""The cluster behind a command: the shipped example keeps the whole contract, and a bad answer is never believed."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from guard.adapters.clock import BootClock
from guard.adapters.command_cluster import SCHEMA, CommandCluster, forecast, view
from guard.adapters.process import run
from guard.core.evidence import SHOTS_UNREAD, PendingShot, Up
from guard.core.instant import Instant
from guard.errors import Unavailable, Unreadable
from tests.adapters.cluster_contract import ClusterContract

EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "cluster-command"
NODE, PEER = "fs1a", "fs1b"


def command(folder: Path, body: str, deadline_s: float = 30.0) -> CommandCluster:
    """A cluster behind a shell script of these lines."""
    path = folder / "command"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return CommandCluster(path, NODE, PEER, clock=BootClock(), run=run, deadline_s=deadline_s)


def answer(**words: Any) -> str:
    return json.dumps({"schema": SCHEMA, **words})


class FileStage:
    """The stage of the contract on the example command and its state file."""

    node, peer = NODE, PEER

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state.json"
        program = folder / "cluster-from-file"
        self.here = CommandCluster(program, NODE, PEER, clock=BootClock(), run=run, deadline_s=30.0)
        self.there = CommandCluster(program, PEER, NODE, clock=BootClock(), run=run, deadline_s=30.0)

    def change(self, **words: Any) -> None:
        self.state.write_text(json.dumps(json.loads(self.state.read_text()) | words))

    async def person(self, *, on: bool) -> None:
        self.change(person=on)

    async def queue_shot(self) -> None:
        shot = {"target": PEER, "action": "reboot", "client": "somebody.1", "origin": NODE, "state": "pending"}
        self.change(fencing=[shot])

    def shots_fired(self) -> int:
        return sum(shot["state"] == "success" for shot in json.loads(self.state.read_text())["fencing"])


@pytest.fixture
def stage(tmp_path: Path) -> FileStage:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    return FileStage(tmp_path / "example")


class TestTheExampleKeepsTheContract(ClusterContract):
    """The contract on configs/examples/cluster-command."""


# ---------------------------------------------------------------- answers


def test_what_an_answer_leaves_out_is_not_known() -> None:
    """An empty view is UNKNOWN and None throughout, and what must not be touched or offered stays that way."""
    bare = view(answer(), Instant(5))
    assert (bare.at, bare.controller, bare.peer_controller) == (5, Up.UNKNOWN, Up.UNKNOWN)
    assert (bare.maintenance, bare.ours, bare.managed, bare.active_here) == (None, None, None, None)
    assert (bare.persons_maintenance, bare.failed_stop, bare.pending) == (True, False, (SHOTS_UNREAD,))


def test_a_full_answer_is_taken_word_for_word() -> None:
    """Every field of the contract arrives in its own place."""
    shot = {"target": PEER, "action": "off", "client": "c", "origin": NODE, "state": "pending"}
    over = shot | {"state": "failed"}
    seen = view(
        answer(
            controller="up",
            peer_controller="down",
            maintenance=True,
            ours="h",
            persons_maintenance=False,
            managed=0,
            failed_stop=True,
            unclean=[PEER],
            pending=[shot, over],
            active_here=False,
        ),
        Instant(0),
    )
    assert (seen.controller, seen.peer_controller, seen.maintenance, seen.ours) == (Up.UP, Up.DOWN, True, "h")
    assert (seen.persons_maintenance, seen.managed, seen.failed_stop, seen.unclean) == (False, 0, True, {PEER})
    assert (seen.pending, seen.active_here) == ((PendingShot(PEER, "off", "c", NODE, "pending"),), False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": "pairguard.cluster-command/2"}',
        answer(maintainance=True),
        answer(maintenance="true"),
        answer(maintenance=1),
        answer(managed=True),
        answer(managed=-1),
        answer(managed="5"),
        answer(controller="online"),
        answer(unclean="fs1b"),
        answer(unclean=[1]),
        answer(pending={}),
        answer(pending=[{"state": "pending", "colour": "red"}]),
        answer(pending=[{"target": "fs1b"}]),
        answer(pending=[{"state": "soon"}]),
    ],
)
def test_a_word_that_is_not_in_the_contract_voids_the_view(text: str) -> None:
    """Unknown keys, other kinds, other words, another schema and no JSON are all unreadable."""
    with pytest.raises(Unreadable):
        view(text, Instant(0))


def test_a_forecast_needs_both_lists() -> None:
    """Leaving out a list, or saying an error, proves nothing; empty lists are harmless."""
    assert forecast(answer(fences=[], stops=[])).harmless()
    assert forecast(answer(fences=[PEER], stops=["stop x on y"])).fences == {PEER}
    for text in (answer(), answer(fences=[]), answer(stops=[]), answer(fences=[], stops=[], error="no scheduler")):
        assert forecast(text).error is not None
        assert not forecast(text).harmless()


# ---------------------------------------------------------------- commands that go wrong


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body", ["exit 1", "echo nonsense", "echo '{\"schema\": 1}'", "kill -9 $$", "echo why >&2; exit 3"]
)
async def test_a_command_that_fails_knows_nothing_and_did_nothing(tmp_path: Path, body: str) -> None:
    """Whatever the failure: UNKNOWN view, error forecast, False from every hand, `pending` raises, trouble is told."""
    cluster = command(tmp_path, body)
    assert (await cluster.view()).controller is Up.UNKNOWN
    assert cluster.trouble
    assert (await cluster.forecast(lost=PEER, without_hold=False)).error is not None
    assert not await cluster.set_hold("h")
    assert not await cluster.clear_hold("h")
    assert not await cluster.bar(PEER, on=True)
    assert not await cluster.purge(PendingShot(PEER, "off", "c", NODE, "pending"))
    with pytest.raises((Unavailable, Unreadable)):
        await cluster.pending()


@pytest.mark.asyncio
async def test_a_missing_command_and_one_that_hangs_are_the_same(tmp_path: Path) -> None:
    """No program, or no answer within the deadline: UNKNOWN and False."""
    missing = CommandCluster(tmp_path / "none", NODE, PEER, clock=BootClock(), run=run)
    hanging = command(tmp_path, "sleep 1000", deadline_s=0.3)
    for cluster in (missing, hanging):
        assert (await cluster.view()).controller is Up.UNKNOWN
        assert not await cluster.set_hold("h")


@pytest.mark.asyncio
async def test_done_must_be_said(tmp_path: Path) -> None:
    """An answer without `done`, with `done` false or a number is False; the reason is kept for people."""
    for text in (answer(), answer(done=False, why="not today"), answer(done=1), answer(done="yes")):
        cluster = command(tmp_path, f"echo '{text}'")
        assert not await cluster.set_hold("h")
        assert cluster.trouble
    assert await command(tmp_path, f"echo '{answer(done=True)}'").set_hold("h")


@pytest.mark.asyncio
async def test_an_exit_code_voids_a_good_answer(tmp_path: Path) -> None:
    """A command that prints done and exits with 1 did nothing."""
    assert not await command(tmp_path, f"echo '{answer(done=True)}'; exit 1").set_hold("h")


@pytest.mark.asyncio
async def test_a_purge_is_believed_only_when_the_list_agrees(tmp_path: Path) -> None:
    """A command that says done while its list still has the shot did not purge it."""
    shot = {"target": PEER, "action": "off", "client": "c", "origin": NODE, "state": "pending"}
    body = f"case $1 in purge) echo '{answer(done=True)}';; *) echo '{answer(pending=[shot])}';; esac"
    assert not await command(tmp_path, body).purge(PendingShot(PEER, "off", "c", NODE, "pending"))


@pytest.mark.asyncio
async def test_the_command_is_told_everything_on_standard_input(tmp_path: Path) -> None:
    """The verb is the only argument; schema, node, peer and the verb's own words arrive as one JSON object."""
    cluster = command(tmp_path, f"cat > {tmp_path}/asked.$1.$#; echo '{answer(done=True)}'")
    assert await cluster.bar(PEER, on=True)
    asked = json.loads((tmp_path / "asked.bar.1").read_text())
    assert asked == {"schema": SCHEMA, "node": NODE, "peer": PEER, "target": PEER, "on": True}
