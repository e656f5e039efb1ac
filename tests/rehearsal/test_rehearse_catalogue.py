"""Every scenario of the catalogue keeps S1-S7 and its promise, on as many seeds as fit (tests/rehearsal/budget.py)."""

from __future__ import annotations

from functools import cache

import pytest

from guard.rehearsal.runner import Totals, Work, once, run
from guard.rehearsal.scenario import load, names
from guard.rehearsal.site import Plan
from tests.rehearsal.budget import quick

ONCE_RED: dict[str, tuple[int, ...]] = {"upgrade-guards": (26, 1008), "secondary-death": (35, 20265)}
"""Seeds that broke something once; they stay for ever."""


@cache
def totals(name: str) -> Totals:
    """Of the runs that `make test` plays; each is played once."""
    scenario = load(name)
    result = Totals()
    for some in run(Work(Plan(scenario, scenario.pairs), 1, quick(name)), 1):
        result.add(some)
    return result


@pytest.mark.parametrize("name", names())
def test_scenario(name: str) -> None:
    """No rule is broken, every promise is kept, and every round of every pair was played to its end."""
    played = totals(name)
    assert played.failures == []
    assert played.guarded.units == quick(name) * load(name).pairs * load(name).rounds
    assert played.guarded.shot[2] == 0


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in ONCE_RED.items() for seed in seeds])
def test_a_seed_that_was_red_once(name: str, seed: int) -> None:
    """What was found and mended stays mended."""
    scenario = load(name)
    assert once(Work(Plan(scenario, scenario.pairs), seed, 1), seed).failures == []


def test_the_scenarios_do_what_they_are_for() -> None:
    """A promise that nothing strains proves nothing: shots land late, hung nodes fall, phantoms are turned away."""
    late = totals("late-shots")
    assert late.counts["shots landed late"] > 0
    assert late.counts["replays refused"] > 0
    assert late.guarded.shot[1] > 0
    for name in ("plain-death", "secondary-death", "stop-failure", "paused-vm", "bond-cut"):
        assert totals(name).guarded.shot[1] > 0, name
    assert totals("target-2018").counts["phantoms refused"] > 0
    freezes = totals("github-2012")
    assert freezes.counts["pair-freezes"] >= freezes.guarded.units
    assert freezes.counts["stand-alone falls"] > 0
    assert {values[0] for values, _ in freezes.guarded.rows} == {"true", "false"}
