"""The register of a pair: every way in which it may change, enumerated against a second, plainer rule."""

from __future__ import annotations

from itertools import product

import pytest

from guard.core.messages import Basis, Purpose
from guard.core.register import Register, commit, end_era

NODES = ("fs1a", "fs1b")
PURPOSES: tuple[Purpose, ...] = ("fence", "alone")
USED: tuple[tuple[Purpose, ...], ...] = ((), ("fence",), ("alone",), ("alone", "fence"))
WON: tuple[tuple[str | None, tuple[Purpose, ...], Basis | None], ...] = (
    (None, (), None),
    *product(NODES, USED, ("verdict", "person", "announced")),
)


def named(register: Register) -> str:
    return f"{register.winner}-{'+'.join(register.used) or 'unused'}-{register.basis}"


ALL = [Register(3, winner, used, basis, 7, "fs1a") for winner, used, basis in WON]


@pytest.mark.parametrize("before", ALL, ids=named)
def test_a_commit_names_the_first_winner_and_nobody_after_it(before: Register) -> None:
    """At its own version only; the winner may win again for more, the other never; every commit raises the version."""
    for version, winner, purpose in product((6, 7, 8), NODES, PURPOSES):
        after = commit(before, version=version, winner=winner, purpose=purpose, basis="verdict")
        if version != 7 or before.winner not in (None, winner):
            assert after is None
            continue
        assert after is not None
        assert (after.era, after.version, after.winner, after.preferred) == (3, 8, winner, "fs1a")
        assert after.used == tuple(sorted({*before.used, purpose}))
        assert after.basis == (before.basis or "verdict")


@pytest.mark.parametrize("before", ALL, ids=named)
def test_only_the_winner_ends_an_era_and_a_persons_win_is_not_handed_back(before: Register) -> None:
    """{era+1, none} at the version read, by the winner; never by the loser, nor from no winner."""
    for version, by, hand_back in product((6, 7, 8), NODES, (True, False)):
        after = end_era(before, version=version, by=by, hand_back=hand_back)
        if version != 7 or before.winner != by or (hand_back and before.basis == "person"):
            assert after is None
        else:
            assert after == Register(4, None, (), None, 8, "fs1a")


def test_init_makes_era_one_without_a_winner() -> None:
    """And what travels of it carries the store's name and a stable order of uses."""
    made = Register.made("fs1b")
    assert made == Register(1, None, (), None, 1, "fs1b")
    won = Register(2, "fs1b", ("alone", "fence"), "tie", 9, "fs1b").view("store-1")
    assert (won.store_id, won.used, won.winner, won.version) == ("store-1", ("alone", "fence"), "fs1b", 9)
