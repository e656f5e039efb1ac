"""What the rehearsed world found in the shipped core, as short stories. Each is expected to fail until it is mended.

`strict`: the mend turns the mark red, and then the mark goes.
"""

from __future__ import annotations

import pytest

from guard.rehearsal.checkers import Violation
from guard.rehearsal.network import PAIR
from guard.rehearsal.world import World

SEEDS = range(1, 6)


@pytest.mark.xfail(strict=True, raises=Violation, reason="W1: a member of the candidate's own membership is fenced")
def test_w1_a_serving_member_is_not_fenced_for_a_few_lost_messages() -> None:
    """Pacemaker asks for a healthy primary (a failed monitor) while that node's bus session stalls for 3 s. Both nodes
    are in one membership and replicate all the time: it is not dead, and it never yielded."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.run(6)
        bend = world.network.bend("A", "bus")
        bend.loss = 1.0
        world.run(0.5)
        world.nodes["B"].cluster.unclean = True
        world.run(2.5)
        bend.loss = 0.0
        world.run(10)
        assert not world.fenced
        world.nodes["B"].cluster.unclean = False


@pytest.mark.xfail(strict=True, raises=Violation, reason="W2: a win is handed back by a journal that forgot its use")
def test_w2_a_rolled_back_journal_hands_no_win_back() -> None:
    """A journal is put back from a copy that is older than the win that its node runs on: the era must not end."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.network.cut(PAIR)
        assert world.until(lambda w=world: len(w.grants) == 1, 10)
        world.live_again()  # era 2: the memory is older than its era
        shell = world.nodes["A"].shell
        copy = shell.durable
        world.network.cut(PAIR)
        assert world.until(lambda w=world: len(w.grants) == 2, 10)
        world.run(1)
        shell.kill()
        shell.durable = copy
        world.run(2)
        shell.start()
        world.run(5)
        world.live_again()
