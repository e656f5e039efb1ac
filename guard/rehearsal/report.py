"""What a rehearsal says in the end: one object for machines, one screen for people. No number is made up.

`took` is the only part that depends on the machine; everything else follows from commit, scenario, seed and settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from guard import __version__
from guard.rehearsal.runner import Side, Totals, Work

SCHEMA = "pairguard.rehearse/1"
SHOTS = (0, 1, 2)
Z95 = 1.959964  # two-sided 95 %


@dataclass(frozen=True, slots=True)
class Result:
    """`seconds`: of real time; `interrupted`: a person stopped it before all runs were done."""

    work: Work
    commit: str
    totals: Totals
    seconds: float
    workers: int
    interrupted: bool = False
    transcripts: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        return sum(self.totals.failed.values())

    def json(self) -> dict[str, Any]:
        """`pairguard.rehearse/1`."""
        scenario, totals = self.work.plan.scenario, self.totals
        return {
            "schema": SCHEMA,
            "scenario": scenario.name,
            "commit": self.commit,
            "version": __version__,
            "seed": self.work.first,
            "runs": {"asked": self.work.runs, "done": totals.runs, "failed": self.failed},
            "pairs": self.work.plan.pairs,
            "rounds": scenario.rounds,
            "unit": scenario.unit,
            "settings": scenario.settings(),
            "interrupted": self.interrupted,
            "guarded": side(totals.guarded, scenario.show_by),
            "without_guard": None if totals.stock is None else side(totals.stock, scenario.show_by),
            "violations": {rule: n for rule, n in sorted(totals.failed.items()) if rule not in UNMET},
            "unmet": {rule: n for rule, n in sorted(totals.failed.items()) if rule in UNMET},
            "failures": [
                {"seed": seed, "pair": one.pair, "round": one.turn, "at_s": one.at_s, "rule": one.rule, "why": one.why}
                for seed, one in totals.failures
            ],
            "transcripts": list(self.transcripts),
            "whole_after_s_max": round(totals.healed_s_max, 3),
            "simulated_s": round(totals.simulated_s, 3),
            "counts": dict(sorted(totals.counts.items())),
            "took": {
                "seconds": round(self.seconds, 3),
                "workers": self.workers,
                "units_per_hour": round(self.rate()),
            },
        }

    def rate(self) -> float:
        """Units an hour, as measured."""
        return self.totals.guarded.units * 3600 / self.seconds if self.seconds > 0 else 0.0


UNMET = frozenset({"promise", "liveness"})
"""Failures that break no rule of DESIGN.md: the round did not come out as promised, or wholeness did not return."""


def side(one: Side, show_by: Sequence[str]) -> dict[str, Any]:
    return {
        "units": one.units,
        "nodes_shot": {str(n): one.shot[n] for n in SHOTS},
        "share": {str(n): share(one.shot[n], one.units) for n in SHOTS},
        "primary_shot": one.primary_shot,
        "served_at_the_end": one.served,
        "paged": one.paged,
        "by": [
            {**dict(zip(show_by, values, strict=True)), "nodes_shot": {str(n): one.rows[values, n] for n in SHOTS}}
            for values in rows(one)
        ],
    }


def rows(one: Side) -> list[tuple[str, ...]]:
    return sorted({values for values, _ in one.rows if values})


def share(count: int, units: int) -> dict[str, float] | None:
    """With Wilson's 95 % interval; None without a unit."""
    if not units:
        return None
    low, high = wilson(count, units)
    return {"of_all": round(count / units, 6), "low": round(low, 6), "high": round(high, 6)}


def wilson(count: int, units: int) -> tuple[float, float]:
    """Wilson's score interval (J. Am. Stat. Assoc. 22, 1927) at 95 %."""
    p, z2 = count / units, Z95 * Z95
    middle = (p + z2 / (2 * units)) / (1 + z2 / units)
    half = Z95 / (1 + z2 / units) * sqrt(p * (1 - p) / units + z2 / (4 * units * units))
    return (0.0 if count == 0 else middle - half), (1.0 if count == units else middle + half)


# ------------------------------------------------------------------ for people


def columns(result: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The main table: what happened, with the guard and, where it was played, without."""
    totals = result.totals
    sides = [("with the guard", totals.guarded)]
    if totals.stock is not None:
        sides.append(("without", totals.stock))
    words = {0: "nobody shot", 1: "one node shot", 2: "both nodes shot"}
    lines = [(words[n], *(_share(one.shot[n], one.units) for _, one in sides)) for n in SHOTS]
    lines.append(("the primary among them", *(_share(one.primary_shot, one.units) for _, one in sides)))
    lines.append(("served at the end", *(_share(one.served, one.units) for _, one in sides)))
    lines.append(("a person was paged", _share(totals.guarded.paged, totals.guarded.units), *([""] * (len(sides) - 1))))
    return (result.work.plan.scenario.unit + "s", *(name for name, _ in sides)), lines


def breakdown(result: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """A row for each value of the parameters in `show_by`; None where there are none."""
    names, totals = result.work.plan.scenario.show_by, result.totals
    found = rows(totals.guarded)
    if not names or not found:
        return None
    head = (*names, "units", "0", "1", "2 shot")
    if totals.stock is not None:
        head = (*head, "without: 0", "1", "2")
    lines = []
    for values in found:
        own = [totals.guarded.rows[values, n] for n in SHOTS]
        line = (*values, str(sum(own)), *map(str, own))
        if totals.stock is not None:
            line = (*line, *(str(totals.stock.rows[values, n]) for n in SHOTS))
        lines.append(line)
    return head, lines


def verdict(result: Result) -> list[str]:
    """The last lines: was every rule kept, how fast, and what next."""
    totals = result.totals
    broken = {rule: n for rule, n in totals.failed.items() if rule not in UNMET}
    unmet = {rule: n for rule, n in totals.failed.items() if rule in UNMET}
    one, workers = result.work.plan.scenario.unit, "worker" if result.workers == 1 else "workers"
    lines = [
        f"violations of S1-S7, L1, L2: {_many(broken)}",
        f"promises not kept: {_many(unmet)}; whole again at most {totals.healed_s_max:.1f} s after a heal",
        f"{totals.simulated_s / 3600:.1f} h played in {result.seconds:.1f} s on {result.workers} "
        f"{workers}: {result.rate():,.0f} {one}s an hour",
    ]
    if result.interrupted:
        lines.insert(0, f"INTERRUPTED: {totals.runs} of {result.work.runs} runs were done")
    return lines


def _many(failed: Mapping[str, int]) -> str:
    total = sum(failed.values())
    named = ", ".join(f"{rule} {n}" for rule, n in sorted(failed.items()))
    return f"{total:,} ({named})" if total else "0"


def _share(count: int, units: int) -> str:
    if not units:
        return "-"
    low, high = wilson(count, units)
    percent = 100 * count / units
    return f"{count:,} ({percent:.3g} %; {100 * low:.3g}-{100 * high:.3g})"
