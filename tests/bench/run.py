"""`make bench`: what things cost, each beside a floor that was measured in the same run on the same machine.

    python -m tests.bench.run [--only NAME] [--runs N]

It asserts nothing: machines differ, and busy ones from themselves. The ratio to the floor says more than the figure.
Another bench is one function that yields rows, and its name in `BENCHES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.bench import rehearsed


@dataclass(frozen=True, slots=True)
class Row:
    """`floor`: the least that could do something like it, in the same unit; None: there is no such thing."""

    what: str
    value: float
    floor: float | None = None
    floor_is: str = ""

    def line(self) -> str:
        text = f"  {self.what:42} {self.value:>14,.1f}"
        return text if self.floor is None else f"{text}   1 to {self.floor / self.value:6.1f} of {self.floor_is}"


def rehearsed_world(runs: int) -> Iterator[Row]:
    """The deterministic world on github-2012: shipped `step`, shipped arbiter, every checker, one core."""
    played = rehearsed.play(runs)
    queue, turn = "a queue of empty events", "a turn that changes one field"
    yield Row("events a second", played.events / played.cpu_s, rehearsed.events_floor(), queue)
    yield Row("guard steps a second", played.steps / played.cpu_s, rehearsed.steps_floor(), turn)
    yield Row("rounds an hour and core", 3600 * played.rounds / played.cpu_s)
    yield Row("pair-freezes an hour and core", 3600 * played.freezes / played.cpu_s)
    yield Row("simulated seconds in a second", played.simulated_s / played.cpu_s)
    yield Row("events a pair-freeze", played.events / played.freezes)
    yield Row("guard steps a pair-freeze", played.steps / played.freezes)
    yield Row("simulated seconds a pair-freeze", played.simulated_s / played.freezes)


BENCHES: dict[str, Callable[[int], Iterable[Row]]] = {"rehearsed-world": rehearsed_world}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=__doc__)
    parser.add_argument("--only", choices=BENCHES, help="this one")
    parser.add_argument("--runs", type=int, default=30, help="how often a bench repeats its work")
    given = parser.parse_args(argv)
    for name, bench in BENCHES.items():
        if given.only in (None, name):
            print(f"{name}: {bench.__doc__}")
            for row in bench(given.runs):
                print(row.line(), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
