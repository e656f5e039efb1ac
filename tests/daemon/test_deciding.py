"""What the shell hands in may lie or jump: wall clocks, two primaries, two hundred guards switched on at once."""

from __future__ import annotations

import ast
import asyncio
import cmath
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog

from guard.adapters import logsink
from guard.adapters.clock import BootClock
from guard.adapters.emit import KEPT_MAX, Emitter
from guard.adapters.probe import Probe
from guard.core import arbiter, machine
from guard.core.instant import Instant, after
from guard.core.messages import ARBITER, Beat, Claim, Commit, Offer, RegisterView, Won
from guard.core.pair import Site
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.step import BusState, Heard, Memory, Note, OpenHold, Send, Tick
from guard.core.turn import Attempt
from guard.errors import Unavailable
from guard.events import CATALOGUE
from tests.adapters.bus_contract import until
from tests.core.desk import A, B, Desk, evidence
from tests.daemon.stage import HandClock, Stage


@pytest.mark.asyncio
async def test_a_wall_clock_that_jumps_changes_no_decision() -> None:
    """Two guards in one story, the one's wall clock jumping by hours both ways: the same state, the same deeds."""

    async def story(jump_s: float) -> Stage:
        stage = Stage(HandClock())
        for n in range(40):
            stage.clock.walls += jump_s * (-1) ** n
            await stage.put(BusState(n % 7 != 0), Tick(), step_s=0.4)
            if n == 20:
                await stage.put(OpenHold("q", "k", "p", "r", 30.0, 0.0))
        return stage

    steady, jumping = await story(0.0), await story(7200.0)
    assert steady.guard == jumping.guard
    assert steady.order == jumping.order
    assert len(steady.order) > 20


def test_a_wall_clock_that_jumps_changes_nothing_at_the_arbiter() -> None:
    """Claim to win under any wall time: the same words, the same register."""
    outcomes = []
    for wall in (0.0, 4e9, -1e6):
        desk = Desk().whole()
        desk.wait(3.0, B)
        pair, sends = desk.pair, []
        claim = Claim("n1", "fence", evidence(B, connected=False), "?")
        for message, wait_s in ((claim, 0.0), (None, 0.5), (Commit("n1", 1, "fence"), 0.0)):
            desk.now = after(desk.now, wait_s)
            site = Site("store-1")
            if message is None:
                pair, more = arbiter.tick(pair, desk.now, wall, site, desk.policy)
            else:
                pair, more = arbiter.hear(pair, B, message, desk.now, wall, site, desk.policy)
            sends += more
        assert isinstance(sends[-1][1], Won)
        outcomes.append((sends, pair.kept))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize(
    ("theirs", "row", "why"),
    [
        ({"role": "primary"}, "V9", "two-primaries"),
        ({"role": "?"}, "V9", "two-primaries"),
        ({"current": None}, "V3", "generation-unreadable"),
        ({"current": 4}, "V3", "generation-unreadable"),
    ],
    ids=str,
)
def test_what_only_a_person_can_judge_is_paged_and_nothing_is_committed(
    theirs: dict[str, Any], row: str, why: str
) -> None:
    """Two primaries, or a generation that cannot be read: a page with the row, no Commit, no crash."""
    stage = Stage()
    now = stage.clock.now()
    register = RegisterView("store-1", 1, None, (), None, 3, A)
    offer = Offer(
        "n1", register, evidence(A, role="primary"), evidence(B, **theirs), "live", 0.1, 0.1, False, True, 2.0
    )
    attempt = Attempt("n1", "alone", "h1", now)
    memory = Memory("boot-1", store_id="store-1", version=3, era=1)
    guard = replace(stage.guard, memory=memory, attempt=attempt)
    guard, step = machine.step(guard, Heard(ARBITER, offer), now)
    notes = [e for e in step.effects if isinstance(e, Note)]
    [verdict] = [n for n in notes if n.event == "verdict"]
    assert (verdict.data["row"], verdict.data["reason"]) == (row, why)
    assert [n.event for n in notes if n.page] == ["person"]
    assert not [e for e in step.effects if isinstance(e, Send) and isinstance(e.message, Commit)]
    assert guard.attempt is None


def test_guards_switched_on_at_one_instant_do_not_beat_in_step() -> None:
    """Sixty guards that one breaker started: after ten seconds no common phase; no two beats more than 0.5 s apart."""
    phases = []
    for number in range(60):
        now = Instant(10**15)
        guard, _ = machine.start(
            A,
            B,
            policy=Policy(),
            sight=Sight(),
            horizon_s=75.0,
            memory=None,
            boot_id="b",
            seed=f"{number:032x}",
            now=now,
        )
        beats: list[Instant] = []
        while len(beats) < 28:
            now = after(now, 0.02)
            guard, step = machine.step(guard, Tick(), now)
            if any(isinstance(e, Send) and isinstance(e.message, Beat) for e in step.effects):
                beats.append(now)
        gaps = [(late - early) / 1e9 for early, late in pairwise(beats)]
        assert max(gaps) <= 0.5
        phases.append(beats[-1] / 1e9)
    in_step = abs(sum(cmath.exp(2j * cmath.pi * at / 0.35) for at in phases)) / len(phases)
    assert in_step < 0.5


def test_a_blocked_log_costs_records_and_never_time_or_memory() -> None:
    """Nobody reads the pipe: ten thousand events return, a bounded number is kept, the rest is counted as dropped."""
    reading, writing = os.pipe()
    sink = logsink.StreamSink(writing)
    clock = HandClock()
    try:
        logsink.configure(sink, clock)
        emit = Emitter(clock, pair="fs1")
        for n in range(10_000):
            emit("whole", "x" * 200, {"n": n})
        assert len(emit.kept) == KEPT_MAX
        assert sink.dropped > 10_000 - logsink.BUFFER_MAX - 1000
        assert emit.kept[-1]["n"] == 9_999
    finally:
        structlog.reset_defaults()
        os.close(reading)  # the blocked thread gets EPIPE and ends
        sink.close()
        os.close(writing)


def test_data_never_collides_with_the_names_of_a_record() -> None:
    """A datum named like a field of the record is kept under another name; an unknown event is not lost."""

    class Kept:
        dropped = 0

        def __init__(self) -> None:
            self.records: list[Mapping[str, Any]] = []

        def write(self, record: Mapping[str, Any]) -> None:
            self.records.append(dict(record))

        def close(self) -> None: ...

    sink = Kept()
    try:
        logsink.configure(sink, HandClock())
        emit = Emitter(HandClock(), pair="fs1")
        emit("ignored", "t", {"message": "beat", "page": 1, "event": "e", "level": 2, "ts": 3, "text": 4, "at_wall": 5})
        emit("never-heard-of", "t", {}, page=True)
    finally:
        structlog.reset_defaults()
    first, second = sink.records
    assert (first["event"], first["message"], first["message_"], first["page"]) == ("ignored", "t", "beat", False)
    assert (second["event"], second["kind"], second["level"]) == ("uncatalogued", "never-heard-of", "error")
    assert "uncatalogued" not in CATALOGUE


def test_every_event_that_the_code_names_is_in_the_catalogue() -> None:
    """`note`, `page_once`, `emit` with a literal name: each is known, so nothing is ever logged as uncatalogued."""
    missing = set()
    root = Path(machine.__file__).parents[1]
    for path in (p for part in ("core", "daemon", "witness", "adapters") for p in (root / part).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            value = node.args[0].value
            if name in ("note", "page_once", "emit", "_emit") and isinstance(value, str) and value not in CATALOGUE:
                missing.add(f"{path.name}: {value}")
    assert missing == set()


@pytest.mark.asyncio
async def test_the_probe_says_who_answers_and_who_fell_silent() -> None:
    """Two ends on loopback hear each other; one goes away, and the other says so; who never answered is not silent."""
    port = _free_port()
    here, there = (Probe(f"127.0.0.{n}", f"127.0.0.{m}", port, BootClock()) for n, m in ((1, 2), (2, 1)))
    heard: list[bool] = []

    async def listen(probe: Probe, said: list[bool]) -> None:
        async for answered in probe.changes():
            said.append(answered)

    tasks = [asyncio.create_task(listen(here, heard))]
    try:
        await asyncio.sleep(1.0)
        assert heard == []
        tasks.append(asyncio.create_task(listen(there, [])))
        await until(lambda: heard[-1:] == [True], "the other end answers")
        with pytest.raises(Unavailable, match="cannot probe"):
            await listen(Probe("127.0.0.1", "127.0.0.2", port, BootClock()), [])
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hung:  # else that machine's kernel answers for it
            hung.bind(("127.0.0.2", port))
            await until(lambda: heard[-1:] == [False], "its silence is said")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
