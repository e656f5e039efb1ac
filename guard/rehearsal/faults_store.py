"""Faults of an arbiter whose store is etcd: slow and lost answers, refused writes, and a term that moves."""

from __future__ import annotations

from random import Random

from guard.rehearsal.faulty import Registry, Undo, every, instead
from guard.rehearsal.terms import OUTCOMES, Etcd
from guard.rehearsal.witness import Trouble
from guard.rehearsal.world import World

fault = Registry()

BECOMES = (*OUTCOMES, "any")


@fault("store")
def etcd_slow(world: World, rng: Random, *, least_s: float = 0.5, most_s: float = 4.0) -> Undo:
    """Every transaction of the witness takes seconds, also one that only asks whether it has the term."""
    return instead(world, _etcd(world), "slow_s", (least_s, max(least_s, most_s)))


@fault("store", becomes=BECOMES)
def etcd_unsure(world: World, rng: Random, *, becomes: str = "any", times: int = 2) -> Undo:
    """The answers of the next writes are lost: done, never done, or done later; each ends the term of its witness."""
    etcd = _etcd(world)
    etcd.unsure += [rng.choice(OUTCOMES) if becomes == "any" else becomes for _ in range(times)]
    return etcd.unsure.clear


@fault("store")
def etcd_refuses(world: World, rng: Random, *, share: float = 0.5) -> Undo:
    """This share of the writes is refused, and certainly not done (full, too many requests)."""
    return instead(world, _etcd(world), "refuses", share)


@fault("store")
def term_moves(world: World, rng: Random, *, lag_s: float = 3.0, knows_s: float = 8.0) -> Undo:
    """Words of the witness leave up to `lag_s` late; meanwhile its term goes to a witness on another machine.

    For `knows_s` the two push each other off the bus, and the old one does not know.
    """
    return _moves(world, rng, lag_s, knows_s, outlives=False)


@fault("store")
def term_outlived(world: World, rng: Random, *, lag_s: float = 3.0, knows_s: float = 8.0) -> Undo:
    """Planted: as term-moves, but the old witness asks nobody and goes on deciding; the checkers must find it."""
    return _moves(world, rng, lag_s, knows_s, outlives=True)


@fault("store", becomes=BECOMES)
def etcd_unsure_ignored(world: World, rng: Random, *, becomes: str = "any", times: int = 2) -> Undo:
    """Planted: as etcd-unsure, but the witness goes on as if nothing had been written; the checkers must find it."""
    etcd = _etcd(world)
    etcd.goes_on = True
    etcd.unsure += [rng.choice(OUTCOMES) if becomes == "any" else becomes for _ in range(times)]
    return etcd.unsure.clear


def _moves(world: World, rng: Random, lag_s: float, knows_s: float, *, outlives: bool) -> Undo:
    shared = world.arbiter.shared
    over: list[bool] = []
    lag = instead(world, _etcd(world), "lag_s", lag_s)

    def move() -> None:
        if over:
            return
        shared.hand_over(outlives=outlives)
        lag()
        world.at(knows_s, forget)

    def forget() -> None:
        shared.former = None

    world.at(rng.uniform(0.0, lag_s), move)
    return every([forget, lag, lambda: over.append(True)])


def _etcd(world: World) -> Etcd:
    shared = world.arbiter.shared
    if shared.trouble is None:
        shared.trouble = Trouble()
    return shared.trouble.etcd
