"""The guard's own answers to people are JSON, whatever the core put into them: one that is not would end the guard."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from guard.adapters.clock import BootClock
from guard.adapters.control import ControlServer, anybody, ask
from guard.core import machine
from guard.core.instant import Instant
from guard.core.messages import BeatAck, Evidence, ReplicaStatement
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.step import DryRun, Event
from guard.core.turn import Guard
from guard.daemon.acting import Waiting
from guard.daemon.control import Asking
from guard.daemon.showing import explained, shown
from guard.errors import Unavailable

STATEMENT = ReplicaStatement("r0", "U", "U", "primary", 0xABC, 0, (1, 2), True, 0.0, None, True)
TESTIMONY = Evidence("fs1a", "boot", 7, "s", False, (STATEMENT,), "up", False)


def guard() -> Guard:
    sight = Sight(interfaces=frozenset(), ports=())
    started, _ = machine.start(
        "fs1a",
        "fs1b",
        policy=Policy(),
        sight=sight,
        horizon_s=75.0,
        memory=None,
        boot_id="boot",
        seed="0" * 32,
        now=Instant(0),
    )
    return started


def asking(waiting: Waiting, answer: dict[str, object] | None) -> Asking:
    """The handlers over a core that answers a dry run with `answer`, or never."""

    def put(event: Event) -> None:
        if isinstance(event, DryRun) and answer is not None:
            waiting.settle(event.id, answer)

    nothing: Any = None  # a dry run touches no hand
    return Asking(
        site="lab",
        pair="fs1",
        cell="site",
        clock=BootClock(),
        put=put,
        guard=guard,
        waiting=waiting,
        world=nothing,
        recent=list,
        counts=lambda: {"won": 2},
        user_name=nobody,
    )


async def nobody(uid: int) -> None:
    return None


@pytest.mark.asyncio
async def test_a_dry_run_brings_whole_testimonies_over_the_socket(folder: Path) -> None:
    """The verdict's evidence arrives as plain values, and the server lives on."""
    said: dict[str, object] = {"outcome": "x", "text": "y", "data": {"candidate": TESTIMONY, "used": frozenset({"a"})}}
    server = ControlServer(folder / "c.sock", 0o660, asking(Waiting(), said).write, anybody)
    serving = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(20):
            await server.ready.wait()
            for _ in range(2):
                found = await ask(folder / "c.sock", "verdict", {"target": "fs1b"}, 10.0)
        assert found["data"]["candidate"]["replicas"][0]["history"] == [1, 2]
        assert not serving.done()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def test_what_explain_shows_is_json() -> None:
    """Also when the last verdict carries testimonies, and before anything was seen."""
    from dataclasses import replace

    last = {"at": Instant(0), "verdict": "GRANT", "candidate": TESTIMONY, "target": None}
    for seen in (guard(), replace(guard(), last_verdict=last)):
        found = explained(seen, "fs1", Instant(10**9), [])
        assert list(json.loads(json.dumps(found))) == ["schema", "pair", "node", "verdict", "events", "readings"]


@pytest.mark.asyncio
async def test_a_core_that_does_not_answer_is_no_refusal() -> None:
    """Nobody decided anything: `Unavailable`, which is 85 for people, not 81."""
    desk = asking(Waiting(), None)
    with pytest.raises(Unavailable):
        await desk._asked("r", DryRun("r", "fence"), 0.05, None)


def test_a_silent_arbiter_tells_nothing_of_the_peers_guard() -> None:
    """Its last word is old: the peer's guard is `?`, never `up`."""
    from dataclasses import replace

    ack = BeatAck(1, None, None, (), 0.1, None, None, False)
    heard = replace(guard(), ack=ack, acked=Instant(0))
    for seconds, expected in ((0, "up"), (60, "?")):
        found = shown(heard, "lab", "fs1", Instant(seconds * 10**9), 0.0)
        assert found["pairs"][0]["nodes"]["fs1b"]["guard"] == expected
