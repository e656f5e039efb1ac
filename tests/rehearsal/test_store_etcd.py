"""An arbiter whose store is etcd: what its rules hold in the world, and that a checker fires where one is dropped."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from guard.rehearsal.checkers import Violation
from guard.rehearsal.faults import FAULTS
from guard.rehearsal.mixture import KINDS, play
from guard.rehearsal.world import World

OWN = ("etcd-slow", "etcd-unsure", "etcd-refuses", "term-moves")


def story(seed: int, fault: str, **args: object) -> World:
    """Something befalls a node around the fault of the store; then all is healed. Raises `Violation`."""
    world = World(seed)
    world.begin()
    world.run(6)
    rng = random.Random(seed)  # noqa: S311  # a seeded story
    FAULTS[fault].inject(world, rng, **args)  # type: ignore[arg-type]
    world.run(rng.uniform(0.0, 3.0))
    end = FAULTS[rng.choice(("cut", "black-hole", "kernel-hang", "power-loss"))].inject(world, rng)
    world.run(25)
    end()
    world.live_again()
    return world


def broken(seeds: range, fault: str, **args: object) -> Counter[str]:
    """How often each rule was broken."""
    rules: Counter[str] = Counter()
    for seed in seeds:
        try:
            story(seed, fault, **args)
        except Violation as found:
            rules[found.rule] += 1
    return rules


@pytest.mark.parametrize("part", range(2))
def test_any_mixture_with_a_store_in_etcd(part: int) -> None:
    """Lost answers, refused and slow transactions and a moving term, among all other faults, keep every rule; once
    healed the pair is whole. Each of the four is really there."""
    kinds, counts = OWN * 12 + KINDS, Counter[str]()
    for seed in range(1 + 1000 * part, 41 + 1000 * part):
        world, failure = play(seed, kinds)
        assert failure is None, "\n".join((f"mixture seed {seed}", *world.story[-18:], str(failure)))
        counts.update(world.counts)
    assert all(counts[name] for name in ("terms ended", "terms moved", "writes refused", "looks late"))


@pytest.mark.parametrize("becomes", ["written", "lost", "late"])
def test_a_write_that_nobody_knows_of_breaks_nothing(becomes: str) -> None:
    """S1, S6: around a death or a cut, whatever became of six writes whose answers were lost."""
    assert broken(range(1, 13), "etcd-unsure", becomes=becomes, times=6) == {}


def test_a_witness_that_goes_on_after_such_a_write_is_found() -> None:
    """Planted: it goes on with the state before, as after a failed write to a file. A register is then written over."""
    assert broken(range(1, 13), "etcd-unsure-ignored", becomes="written", times=6)["S6"] >= 2


def test_a_term_that_moves_breaks_nothing() -> None:
    """S1 to S6: the old witness hears half of all words for 30 s, and what it said before comes seconds late."""
    assert broken(range(1, 13), "term-moves", knows_s=30.0) == {}
    assert story(3, "term-moves", knows_s=30.0).counts["deposed witnesses silenced"] == 1


def test_a_witness_that_outlives_its_term_is_found() -> None:
    """Planted: it decides and speaks on without asking etcd. Both nodes may then believe that they won."""
    found = broken(range(1, 21), "term-outlived", knows_s=30.0)
    assert found["S4"] >= 2
    assert found["L2"] >= 2
