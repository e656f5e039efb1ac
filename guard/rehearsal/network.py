"""The paths of the rehearsed site, and what a network can do to a message: cut, delay, repeat, reorder, deliver late.

A path is unordered. A *cut* path drops; a *held* path keeps everything and lets it go when it thaws, as a switch that
froze does. `life_s` bounds how long a held item may still be delivered (None = for ever).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guard.core.instant import NS_PER_S

if TYPE_CHECKING:
    from guard.rehearsal.broker import Broker
    from guard.rehearsal.world import World

Path = tuple[str, str]

PAIR: Path = ("A", "B")  # replication, cluster rings and the guards' probes
BUS_A: Path = ("A", "bus")
BUS_B: Path = ("B", "bus")
BUS_ARBITER: Path = ("arbiter", "bus")
DEVICE_OF_B: Path = ("A", "device:B")
DEVICE_OF_A: Path = ("B", "device:A")
CALM_KINDS = frozenset({"beat", "beat-ack", "attest", "session-half"})  # said all the time
RARE_KINDS = frozenset({"offer", "commit", "won", "close-era", "closed"})  # each of them is news
REPEATS_S = 10.0
HOP_S = (0.0005, 0.02)  # over one open path, least and most
TWO_HOPS_S = (2 * HOP_S[0], 2 * HOP_S[1])
EVERY = (PAIR, BUS_A, BUS_B, BUS_ARBITER, DEVICE_OF_B, DEVICE_OF_A)
OF_NODE = {"A": (PAIR, BUS_A, DEVICE_OF_B, DEVICE_OF_A), "B": (PAIR, BUS_B, DEVICE_OF_A, DEVICE_OF_B)}


DIRECTIONS = {ends: p for p in EVERY for ends in (p, p[::-1])}
TO_BUS = {one: p for (one, two), p in DIRECTIONS.items() if two == "bus"}
NAMED: dict[str, tuple[Path, ...]] = {
    "pair": (PAIR,),
    "bus": (BUS_A, BUS_B, BUS_ARBITER),
    "bus-a": (BUS_A,),
    "bus-b": (BUS_B,),
    "bus-arbiter": (BUS_ARBITER,),
    "devices": (DEVICE_OF_A, DEVICE_OF_B),
    "device-a": (DEVICE_OF_A,),
    "device-b": (DEVICE_OF_B,),
    "node-a": OF_NODE["A"],
    "node-b": OF_NODE["B"],
    "all": EVERY,
    "all-but-devices": (PAIR, BUS_A, BUS_B, BUS_ARBITER),
}


def path(one: str, two: str) -> Path:
    return DIRECTIONS[one, two]


def named(words: str) -> tuple[Path, ...]:
    """`pair`, `bus+devices` ...: the paths of these names, each once. ValueError for another word."""
    unknown = [word for word in words.split("+") if word not in NAMED]
    if unknown:
        raise ValueError(f"no paths are called {unknown[0]!r}; there are {', '.join(NAMED)}, joined by +")
    return tuple(dict.fromkeys(p for word in words.split("+") for p in NAMED[word]))


@dataclass(slots=True)
class Parcel:
    """Something on its way over a path that is held."""

    sent: int
    life_s: float | None
    deliver: Callable[[], None]


@dataclass(slots=True)
class Bend:
    """What goes wrong in one direction of a path, apart from its state."""

    cut: int = 0  # faults that drop everything in this direction
    delays: list[tuple[float, float]] = field(default_factory=list)  # each adds so many seconds, least and most
    repeat: float = 0.0  # probability of a second copy, and of loss
    loss: float = 0.0


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
        self._said: dict[tuple[str, str], int] = {}  # when each sender said a kind last
        self.bent: dict[tuple[str, str], Bend] = {}  # directions with a fault of their own
        self.broker: Broker | None = None  # from the first fault of the broker on
        self.turns = 0  # changes of any path, ever
        self._laid: dict[Path, dict[int, str]] = {}  # what faults laid over a path and still stands
        self._lays = 0

    def open(self, one: str, two: str) -> bool:
        """Do both directions pass?"""
        if self.bent and any(end in self.bent and self.bent[end].cut for end in ((one, two), (two, one))):
            return False
        return self.state[DIRECTIONS[one, two]] == "open"

    def bus_open(self, who: str) -> bool:
        return self.open(who, "bus") and (self.broker is None or self.broker.up)

    def calm(self) -> bool:
        """Nothing is wrong with any path, nor with the bus."""
        plain = not self.bent and not self.drops and not (self.loss or self.repeat or self.late)
        return plain and (self.broker is None or self.broker.plain()) and set(self.state.values()) == {"open"}

    def cut(self, *paths: Path) -> None:
        for p in paths:
            self._set(p, "cut")

    def hold(self, *paths: Path) -> None:
        """Freeze: nothing gets through now, everything that was sent may land at the thaw."""
        for p in paths:
            self._set(p, "held")

    def heal(self, *paths: Path) -> None:
        if not paths:
            self.bent.clear()
        for p in paths or EVERY:
            self._laid.pop(p, None)
            if self.state[p] == "open":
                continue
            self._set(p, "open")
            kept, self.kept[p] = self.kept[p], []
            for parcel in kept:
                age_s = (self.world.now - parcel.sent) / NS_PER_S
                if parcel.life_s is None or age_s <= parcel.life_s:
                    self.world.counts["delivered at a thaw"] += 1
                    self.world.at(self.world.rng.uniform(0.001, 0.5), parcel.deliver)

    def lay(self, state: str, *paths: Path) -> Callable[[], None]:
        """`cut` or `held` until the result is called; what else was laid over a path stands on."""
        self._lays += 1
        number = self._lays
        for p in paths:
            self._laid.setdefault(p, {})[number] = state
            self._set(p, state)

        def lift() -> None:
            for p in paths:
                laid = self._laid.get(p, {})
                if laid.pop(number, None) is None:
                    continue  # a heal took it away
                if laid:
                    self._set(p, list(laid.values())[-1])
                else:
                    self.heal(p)

        return lift

    def bend(self, one: str, two: str) -> Bend:
        """The direction from `one` to `two`, to be changed by a fault."""
        self.world.still()
        self.world.stir()
        self.turns += 1
        return self.bent.setdefault((one, two), Bend())

    def _set(self, p: Path, state: str) -> None:
        if self.state[p] != state:
            if p == PAIR and state == "open":
                self.world.counts["pair-freezes"] += 1
            self.world.still()
            self.state[p] = state
            self.turns += 1
            self.world.stir()
            self.world.tell("network", f"path {p[0]}-{p[1]} is {state}")

    def carry(self, one: str, two: str, deliver: Callable[[], None], *, life_s: float | None) -> None:
        """One item over one path."""
        p = DIRECTIONS[one, two]
        state = self.state[p]
        bend = self.bent.get((one, two)) if self.bent else None
        if bend is not None and state != "cut":
            self._bend(bend, deliver, life_s)
        elif state == "held":
            self.kept[p].append(Parcel(self.world.now, life_s, deliver))
        elif state == "open":
            self.world.soon(*HOP_S, deliver)
        else:
            self.world.counts["lost on a cut path"] += 1

    def _bend(self, bend: Bend, deliver: Callable[[], None], life_s: float | None) -> None:
        """A direction with a fault. `life_s` holds: what TCP gave up is not delivered hours later."""
        rng, counts = self.world.rng, self.world.counts
        if bend.cut or rng.random() < bend.loss:
            counts["lost one way"] += 1
            return
        copies = 1
        if rng.random() < bend.repeat:
            counts["doubled on a path"] += 1
            copies = 2
        for _ in range(copies):
            extra_s = sum(rng.uniform(least, most) for least, most in bend.delays)
            counts["late on a path"] += extra_s > 0
            if life_s is None or extra_s <= life_s:
                self.world.at(extra_s + rng.uniform(0.0005, 0.02), deliver)

    def _is_news(self, sender: str, kind: str) -> bool:
        """A kind that this sender has not said lately. Guards repeat much while they wait: that changes nothing."""
        last = self._said.get((sender, kind))
        self._said[sender, kind] = self.world.now
        return last is None or kind in RARE_KINDS or self.world.now - last > REPEATS_S * NS_PER_S

    def message(self, sender: str, to: str, kind: str, deliver: Callable[[], None]) -> None:
        """One message over the bus: to the broker and on to the receiver, with the bus's own vices."""
        rng = self.world.rng
        if self.broker is not None:
            passed = self.broker.take(sender, to, deliver)
            if passed is None:
                return
            deliver = passed
        if kind in self.drops:
            self.world.counts["messages lost"] += 1
            return
        if kind not in CALM_KINDS and self._is_news(sender, kind):
            self.world.stir()
        if not (self.world.cadence.dense or self.repeat or self.loss or self.late):
            self._at_once(sender, to, deliver)
            return
        copies = 2 if rng.random() < self.repeat else 1
        self.world.counts["messages doubled"] += copies - 1
        for _ in range(copies):
            if rng.random() < self.loss:
                self.world.counts["messages lost"] += 1
                continue
            extra = rng.uniform(0.1, self.late_s_max) if rng.random() < self.late else 0.0
            self.world.counts["messages late"] += extra > 0

            def second(extra: float = extra) -> None:
                def third() -> None:
                    self.carry(to, "bus", deliver, life_s=None)

                if extra:
                    self.world.at(extra, third)
                else:
                    third()

            self.carry(sender, "bus", second, life_s=None)

    def _at_once(self, sender: str, to: str, deliver: Callable[[], None]) -> None:
        """Both hops in one event where both paths are open, as they nearly always are; should the receiver's have
        closed meanwhile, it becomes of the message what becomes of one that the broker hands over then."""
        state, back = self.state, TO_BUS[to]

        def arrives() -> None:
            if state[back] == "open" and not self.bent:
                deliver()
            else:
                self.carry(to, "bus", deliver, life_s=None)

        if state[TO_BUS[sender]] == "open" == state[back] and not self.bent:
            self.world.soon(*TWO_HOPS_S, arrives)
        else:
            self.carry(sender, "bus", lambda: self.carry(to, "bus", deliver, life_s=None), life_s=None)
