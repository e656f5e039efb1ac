"""The paths of the rehearsed site, and what a network can do to a message: cut, delay, repeat, reorder, deliver late.

A path is unordered. A *cut* path drops; a *held* path keeps everything and lets it go when it thaws, as a switch that
froze does. `life_s` bounds how long a held item may still be delivered (None = for ever).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guard.core.instant import NS_PER_S

if TYPE_CHECKING:
    from guard.rehearsal.world import World

Path = tuple[str, str]

PAIR: Path = ("A", "B")  # replication, cluster rings and the guards' probes
BUS_A: Path = ("A", "bus")
BUS_B: Path = ("B", "bus")
BUS_ARBITER: Path = ("arbiter", "bus")
DEVICE_OF_B: Path = ("A", "device:B")
DEVICE_OF_A: Path = ("B", "device:A")
EVERY = (PAIR, BUS_A, BUS_B, BUS_ARBITER, DEVICE_OF_B, DEVICE_OF_A)
OF_NODE = {"A": (PAIR, BUS_A, DEVICE_OF_B, DEVICE_OF_A), "B": (PAIR, BUS_B, DEVICE_OF_A, DEVICE_OF_B)}


def path(one: str, two: str) -> Path:
    return next(p for p in EVERY if one in p and two in p)


@dataclass(slots=True)
class Parcel:
    """Something on its way over a path that is held."""

    sent: int
    life_s: float | None
    deliver: Callable[[], None]


class Network:
    """State of every path. All randomness comes from the world's own generator."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state: dict[Path, str] = dict.fromkeys(EVERY, "open")
        self.kept: dict[Path, list[Parcel]] = {p: [] for p in EVERY}
        self.loss = 0.0  # probability of loss, repetition and of a long delay of one bus message
        self.repeat = 0.0
        self.late = 0.0
        self.late_s_max = 6.0
        self.drops: set[str] = set()  # kinds of messages that never arrive

    def open(self, one: str, two: str) -> bool:
        return self.state[path(one, two)] == "open"

    def bus_open(self, who: str) -> bool:
        return self.open(who, "bus")

    def cut(self, *paths: Path) -> None:
        for p in paths:
            self._set(p, "cut")

    def hold(self, *paths: Path) -> None:
        """Freeze: nothing gets through now, everything that was sent may land at the thaw."""
        for p in paths:
            self._set(p, "held")

    def heal(self, *paths: Path) -> None:
        for p in paths or EVERY:
            if self.state[p] == "open":
                continue
            self._set(p, "open")
            kept, self.kept[p] = self.kept[p], []
            for parcel in kept:
                age_s = (self.world.now - parcel.sent) / NS_PER_S
                if parcel.life_s is None or age_s <= parcel.life_s:
                    self.world.at(self.world.rng.uniform(0.001, 0.5), parcel.deliver)

    def _set(self, p: Path, state: str) -> None:
        if self.state[p] != state:
            self.state[p] = state
            self.world.tell("network", f"path {p[0]}-{p[1]} is {state}")

    def carry(self, one: str, two: str, deliver: Callable[[], None], *, life_s: float | None) -> None:
        """One item over one path."""
        p = path(one, two)
        state = self.state[p]
        if state == "held":
            self.kept[p].append(Parcel(self.world.now, life_s, deliver))
        elif state == "open":
            self.world.at(self.world.rng.uniform(0.0005, 0.02), deliver)

    def message(self, sender: str, to: str, kind: str, deliver: Callable[[], None]) -> None:
        """One message over the bus: to the broker and on to the receiver, with the bus's own vices."""
        rng = self.world.rng
        if kind in self.drops:
            return
        copies = 2 if rng.random() < self.repeat else 1
        for _ in range(copies):
            if rng.random() < self.loss:
                continue
            extra = rng.uniform(0.1, self.late_s_max) if rng.random() < self.late else 0.0

            def second(extra: float = extra) -> None:
                def third() -> None:
                    self.carry(to, "bus", deliver, life_s=None)

                if extra:
                    self.world.at(extra, third)
                else:
                    third()

            self.carry(sender, "bus", second, life_s=None)
