"""What a pair-freeze of github-2012 costs in the rehearsed world, and the floors beside it, in CPU time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from guard.core import machine
from guard.core.instant import Instant
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.turn import Turn
from guard.rehearsal.scenario import load
from guard.rehearsal.site import Site, Unit
from guard.rehearsal.timeline import Timeline

FLOOR_TIMES = 100_000
STANDING = 64  # events that wait in the queue of a pair at any time, about


@dataclass(slots=True)
class Played:
    """Sums. `freezes`: intervals in which the path between the nodes was frozen and healed; a round has one or more."""

    cpu_s: float = 0.0
    rounds: int = 0
    freezes: int = 0
    events: int = 0
    steps: int = 0
    simulated_s: float = 0.0


def play(runs: int) -> Played:
    """Seeds 1 to `runs`, after one run that is not counted. Raises what breaks."""
    scenario, played = load("github-2012"), Played()
    for seed in range(runs + 1):
        began = time.process_time()
        site, units = Site(scenario, seed, 1), list[Unit]()
        site.play(units)
        if seed == 0:
            continue
        played.cpu_s += time.process_time() - began
        played.rounds += len(units)
        played.events += site.timeline.events
        played.simulated_s += site.now_s
        for world in site.worlds:
            played.freezes += world.counts["pair-freezes"]
            played.steps += sum(node.shell.steps for node in world.nodes.values())
    return played


def events_floor() -> float:
    """Empty events a second, through the same queue."""
    timeline, left = Timeline(), FLOOR_TIMES

    def again() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            timeline.at(1.0, again)

    for n in range(STANDING):
        timeline.at(n / STANDING, again)
    began = time.process_time()
    timeline.run(2.0 * FLOOR_TIMES / STANDING)
    return timeline.events / (time.process_time() - began)


def steps_floor() -> float:
    """Turns a second that only change one field and end: no event is looked at, nothing follows."""
    sight = Sight()
    now = Instant(0)
    guard, _ = machine.start(
        "A", "B", policy=Policy(), sight=sight, horizon_s=60.0, memory=None, boot_id="boot", seed="seed", now=now
    )
    began = time.process_time()
    for n in range(FLOOR_TIMES):
        turn = Turn(guard, Instant(n))
        turn.put(drawn=n)
        turn.step()
        guard = turn.guard
    return FLOOR_TIMES / (time.process_time() - began)
