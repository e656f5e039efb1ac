"""The arbiter's store in etcd, as the rehearsed world has it: what its transactions may do, and a witness of before.

The shipped rules (`guard/witness/terms.py`): a write whose outcome is not known ends the term; who lost the term can
neither write nor say a word that needs no write. `goes_on` and `outlives` break them, to show that a checker fires.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guard.core import arbiter, storm
from guard.core.instant import Instant
from guard.core.messages import Message, Won
from guard.core.pair import Pair, Site

if TYPE_CHECKING:
    from guard.rehearsal.witness import Arbiter

OUTCOMES = ("written", "lost", "late")
LATE_S = 2.5  # what was under way may be carried out for so long after its sender gave it up
DOWN_S = (0.5, 3.0)  # until the next term begins


@dataclass(slots=True)
class Etcd:
    """What goes wrong with transactions. `unsure`: the answers of so many coming writes are lost, and what became of
    each; `lag_s`: what was said leaves up to so much later."""

    slow_s: tuple[float, float] | None = None  # until any transaction is answered, also one that writes nothing
    unsure: list[str] = field(default_factory=list)
    refuses: float = 0.0  # share of writes that are certainly not done
    lag_s: float = 0.0
    goes_on: bool = False  # planted: the state before stands, as if the write had failed

    def spoils(self, court: Arbiter, pair: Pair) -> bool:
        """True: nothing may be said of this write."""
        world = court.world
        if self.refuses and world.rng.random() < self.refuses:
            world.counts["writes refused"] += 1
            return True
        if not self.unsure:
            return False
        outcome, shared, kept = self.unsure.pop(0), court.shared, pair.kept
        world.counts[f"writes unsure: {outcome}"] += 1
        world.tell("arbiter", f"does not know whether a write was done ({outcome})")
        if outcome == "written":
            court.store(kept)
        elif outcome == "late":
            starts, before = shared.starts, court.kept

            def arrives() -> None:
                if shared.starts == starts and court.kept is before:
                    court.store(kept)
                else:
                    world.counts["late writes refused"] += 1

            world.at(world.rng.uniform(0.0, LATE_S), arrives)
        if not self.goes_on:
            world.counts["terms ended"] += 1
            shared.crash(world.rng.uniform(*DOWN_S), reboot=world.rng.random() < 0.5)
        return True


@dataclass(slots=True)
class Former:
    """A witness that lost its term and has not noticed. On the bus the two push each other out: a word reaches one of
    them. `outlives`: planted, it asks nobody, and believes that it wrote."""

    pairs: dict[str, Pair]
    cell: storm.Cell
    boot_at: int
    outlives: bool = False

    def takes(self, court: Arbiter, sender: str, message: Message) -> bool:
        """Did this word reach it, and not the arbiter?"""
        world = court.world
        pair = self.pairs.get(world.name)
        if pair is None or world.rng.random() < 0.5:
            return False
        now = Instant(world.now - self.boot_at)
        site = Site(court.store_id, storm.forbids(self.cell, now, world.policy, world.name))
        after, sends = arbiter.hear(pair, sender, message, now, court.wall(), site, world.policy)
        self.pairs[world.name] = after
        if not sends and after.kept is pair.kept:
            return True
        if not self.outlives:  # its transaction fails: it ends before it has said anything
            world.counts["deposed witnesses silenced"] += 1
            world.tell("arbiter", "the witness of before finds its term over")
            court.shared.former = None
            return True
        for to, word in sends:
            world.counts["words of a deposed witness"] += 1
            if isinstance(word, Won):
                world.tell("arbiter", f"deposed, tells {to} that it won era {word.era}")
            court.say(to, word)
        return True

    def tick(self, court: Arbiter) -> None:
        """It gathers and offers too."""
        world, pair = court.world, self.pairs.get(court.world.name)
        if pair is None or not self.outlives:
            return
        now = Instant(world.now - self.boot_at)
        site = Site(court.store_id, storm.forbids(self.cell, now, world.policy, world.name))
        self.pairs[world.name], sends = arbiter.tick(pair, now, court.wall(), site, world.policy)
        for to, word in sends:
            court.say(to, word)
