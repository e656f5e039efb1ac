"""Every interleaving of two candidates and one arbiter on the shipped machines, within small bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model.interleave import SMALL, Bounds, search, start


@pytest.mark.parametrize("bounds", SMALL, ids=str)
@pytest.mark.parametrize("gate", [True, False])
def test_in_no_order_do_both_nodes_act(bounds: Bounds, gate: bool) -> None:
    """S1, S3: whatever is late, lost, repeated or restarted, one node acts in an era, and by the register."""
    found = search(start(gate=gate), bounds)
    assert found.broken is None, found.broken
    assert found.states > 100
    if bounds.passes and "handler-A" in bounds.jobs:
        assert found.kinds["alone-A"], "the search reached a win"


def test_a_broken_law_is_told_with_its_story() -> None:
    """The search can fail: a node that acts in an era that it did not win is found, with the shortest way there."""
    planted = replace(start(), used=frozenset({("B", 1, "fired")}))
    found = search(planted, SMALL[0])
    assert found.broken is not None
    assert found.broken.startswith("{'B'} acts in era 1, which None has won")
