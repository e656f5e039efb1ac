"""The broker between all parties, once something is wrong with it: down, forgetful, repeating, late, or split in two.

A message that is delivered again passes what the shipped bus puts before the core: `guard.replays.Replays`, one for
each process that listens. `bare` leaves it out, which is harder than what ships.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from guard.core.messages import ARBITER
from guard.replays import Replays

if TYPE_CHECKING:
    from guard.rehearsal.world import World

KEPT_MAX = 4000  # messages that may be delivered once more


@dataclass(frozen=True, slots=True)
class Sealed:
    """One message as the broker has it. `seq` rises within one boot of the sender."""

    sender: str
    to: str
    boot_id: str
    seq: int
    deliver: Callable[[], None]


class Broker:
    """Made by the first fault of the broker; a world without one pays nothing for it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.downs = 0  # faults that keep it down
        self.away: frozenset[str] = frozenset()  # parties whose broker has lost the bridge to the other one
        self.late_s: tuple[float, float] | None = None
        self.records = False
        self.kept: deque[Sealed] = deque(maxlen=KEPT_MAX)
        self._seq = 0
        self._seen: dict[tuple[str, int], dict[str, Replays]] = {}

    @classmethod
    def of(cls, world: World) -> Broker:
        if world.network.broker is None:
            world.network.broker = cls(world)
        return world.network.broker

    @property
    def up(self) -> bool:
        return self.downs == 0

    def plain(self) -> bool:
        return self.up and not self.away and self.late_s is None

    # ---- on the way of every message

    def take(self, sender: str, to: str, deliver: Callable[[], None]) -> Callable[[], None] | None:
        """What becomes of a message; None: it never leaves."""
        world = self.world
        if not self.up:
            world.counts["lost with the broker"] += 1
            return None
        if (sender in self.away) is not (to in self.away):
            world.counts["lost between two brokers"] += 1
            return None
        if self.records:
            self._seq += 1
            sealed = Sealed(sender, to, self._boot_id(sender), self._seq, deliver)
            self.kept.append(sealed)
            deliver = self._opener(sealed)
        if self.late_s is not None:
            return self._late(deliver, world.rng.uniform(*self.late_s))
        return deliver

    def _late(self, deliver: Callable[[], None], delay_s: float) -> Callable[[], None]:
        self.world.counts["delivered though expired"] += 1
        return lambda: self.world.at(delay_s, deliver)

    def _opener(self, sealed: Sealed) -> Callable[[], None]:
        return lambda: self._open(sealed)

    def _open(self, sealed: Sealed) -> None:
        """As the receiver's bus opens it: what this process saw before is dropped."""
        senders = self._seen.setdefault((sealed.to, self._process(sealed.to)), {})
        if senders.setdefault(sealed.sender, Replays()).fresh(sealed.boot_id, sealed.seq):
            sealed.deliver()
        else:
            self.world.counts["replays refused"] += 1

    def _boot_id(self, party: str) -> str:
        return self.world.arbiter.boot_id if party == ARBITER else self.world.nodes[party].boot_id

    def _process(self, party: str) -> int:
        return self.world.arbiter.shared.starts if party == ARBITER else self.world.nodes[party].shell.starts

    # ---- orders of the faults

    def go_down(self) -> None:
        """Every session is gone, and everything that waited in it."""
        self.downs += 1
        for p, parcels in self.world.network.kept.items():
            if "bus" in p:
                self.world.counts["lost with the broker"] += len(parcels)
                parcels.clear()
        self.world.tell("broker", "is down")
        self.world.stir()

    def come_up(self) -> None:
        self.downs = max(0, self.downs - 1)
        self.world.tell("broker", "is up")
        self.world.stir()

    def redeliver(self, rng: Random, count: int, within_s: float, *, bare: bool) -> None:
        """`count` of the messages it has kept, once more, in any order."""
        kept = tuple(self.kept)
        for sealed in rng.choices(kept, k=count) if kept else ():
            again = sealed.deliver if bare else self._opener(sealed)
            self.world.counts["messages replayed"] += 1
            self.world.at(rng.uniform(0.0, within_s), self._to(sealed.to, again))

    def _to(self, to: str, deliver: Callable[[], None]) -> Callable[[], None]:
        return lambda: self.world.network.carry(to, "bus", deliver, life_s=None)
