"""Any mixture of all kinds of faults, on one or two resources, with a dense or a slow cadence; then everything heals.

`python -m guard.rehearsal.mixture --seed 1 --runs 1000` prints each seed that fails with the end of its story, and how
often each thing happened.
"""

from __future__ import annotations

import argparse
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from guard.rehearsal.checkers import Unmet, Violation
from guard.rehearsal.faults import FAULTS, PLANTED
from guard.rehearsal.faulty import Arg, Fault
from guard.rehearsal.fuzz import by_the_manual
from guard.rehearsal.nodes import DENSE, Cadence
from guard.rehearsal.runner import dealt
from guard.rehearsal.world import World

KINDS = tuple(name for name in FAULTS if name not in PLANTED)
STRAGGLERS_S = 34.0  # what the broker delivers late still comes for so long after the heal
LINES = 20
PARCEL = 10


@dataclass(frozen=True, slots=True)
class Came:
    """What came of some seeds. `failed`: seed -> the end of its story."""

    seeds: range
    kinds: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    failed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    simulated_s: float = 0.0


def many(first: int, runs: int, workers: int, kinds: Sequence[str] = KINDS) -> Iterator[Came]:
    """These seeds in parcels, in their order."""
    starts = range(first, first + runs, PARCEL)
    parcels = [Came(range(start, min(start + PARCEL, first + runs)), tuple(kinds)) for start in starts]
    return dealt(_played, parcels, workers)


def _played(given: Came) -> Came:
    counts, failed, simulated_s = Counter[str](), dict[int, tuple[str, ...]](), 0.0
    for seed in given.seeds:
        world, failure = play(seed, given.kinds)
        counts.update(world.counts)
        simulated_s += world.now / 1e9
        if failure is not None:
            failed[seed] = (*world.story[-(LINES - 2) :], failure)
    return Came(given.seeds, given.kinds, counts, failed, simulated_s)


def play(seed: int, kinds: Sequence[str] = KINDS) -> tuple[World, str | None]:
    """One run; the failure in words, or None."""
    rng = Random(zlib.crc32(f"mixture/{seed}".encode()))  # noqa: S311  # a seeded story, no secret
    cadence = rng.choice((DENSE, Cadence()))
    world = World(rng.getrandbits(32), mlag=True, resources=rng.choice((1, 2)), cadence=cadence)
    try:
        world.begin()
        _mix(world, rng, kinds)
        _heal(world)
    except (Violation, Unmet) as failure:
        return world, f"{type(failure).__name__} {failure}"
    return world, None


def _mix(world: World, rng: Random, kinds: Sequence[str]) -> None:
    for _ in range(rng.randint(2, 5)):
        fault = FAULTS[rng.choice(kinds)]
        given = _args(fault, rng)
        world.tell("FAULT", f"{fault.name} {given or ''}")
        end = fault.inject(world, rng, **given)
        world.run(rng.choice((rng.uniform(0, 1), rng.uniform(1, 8), rng.uniform(5, 30))))
        if rng.random() < 0.4:
            end()
            world.run(rng.uniform(0, 3))
    world.run(rng.uniform(0, 10))


def _args(fault: Fault, rng: Random) -> dict[str, Arg]:
    """Words are drawn, numbers stay as they are; a phantom crowd would only cost time."""
    if fault.name == "cut-one-way":
        return {"sender": rng.choice("AB"), "to": "bus"} if rng.random() < 0.5 else {}
    given: dict[str, Arg] = {n: rng.choice(words) for n, words in fault.words.items() if rng.random() < 0.6}
    if "resource" in fault.args:
        given["resource"] = rng.choice((0, 1))
    if fault.name == "phantom-members":
        given["count"] = 500
    return given


def _heal(world: World) -> None:
    """All is healed, people switch on what is off and follow the manual. Raises `Violation` or `Unmet`."""
    world.heal_everything()
    world.run(STRAGGLERS_S if world.counts["fault broker-late"] else 3.0)
    for round_ in range(18):
        if world.until(world.whole, 20):
            break
        for node in world.nodes.values():
            node.switch_on()
        if round_ >= 5 and round_ % 2:
            world.counts["by the manual"] += 1
            by_the_manual(world, "AB"[round_ // 2 % 2])
    else:
        raise Unmet(f"not whole again: {world.why_not_whole()}")
    world.run(5)
    if not world.until(world.whole, 90):  # a request for a fence that waited in a queue may still be refused
        raise Unmet(f"whole, and then not: {world.why_not_whole()}")
    world.checkers.at_the_end()


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m guard.rehearsal.mixture", description="rehearse any mixture")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--runs", type=int, default=100, help="how many seeds")
    parser.add_argument("--without", action="append", default=[], help="leave this fault out")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--print", action="store_true", help="print the whole story of every run")
    given = parser.parse_args(argv)
    kinds = tuple(name for name in KINDS if name not in given.without)
    failed, counts = 0, Counter[str]()
    if given.print:
        for seed in range(given.seed, given.seed + given.runs):
            print("\n".join(play(seed, kinds)[0].story))
    for came in many(given.seed, given.runs, given.workers, kinds):
        counts.update(came.counts)
        failed += len(came.failed)
        for seed, story in came.failed.items():
            print("\n".join((f"--- seed {seed}", *story)), flush=True)
    for name, count in sorted(counts.items()):
        if count:
            print(f"{count:10} {name}")
    print(f"{failed} of {given.runs} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
