"""What goes wrong when, drawn from a seed alone: timed faults that the lab and the rehearsed world both play.

1. The same seed gives the same timeline on every machine; nothing else is drawn.
2. Every kind is one that both sides know. A node is named by what it was when the timeline began: its history on one
   side must not decide what happens on it.
3. At most one fault takes the whole network (two would share the spanning tree's timers), and at most one node of a
   pair dies. All else may overlap.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from guard.rehearsal.values import stream
from tests.lab.plan import REACHES

PAIRS = ("fs1", "fs2", "fs3")
PRIMARY, SECONDARY = "primary", "secondary"
WIDE = ("stp", "blackhole", "late", "flap")
DEATHS = ("links", "hung", "crash")
KINDS = (*WIDE, *DEATHS, "witness", "guard", "hold")
SECONDS = (4.0, 20.0)
LAST_AT_S = 18.0
HELD_BEFORE_S = (2.0, 8.0)  # from a hold that is in force to the work that it announces
HELD_AFTER_S = (3.0, 8.0)
FAULTS_MAX = 3

# The end of a timeline, the same on both sides.
WATCH_S = 8.0  # after the last fault: what follows from it is seen
REST_S_MAX = 100.0  # and then until all is at rest, at most: a storm lets one claim through a minute
RESTED_S = 5.0  # it has been at rest for so long: Pacemaker asks to fence a second after a release
SWITCH_ON_S = 30.0  # from then on people switch on what is off, this often
WHOLE_S_MAX = 150.0  # until all is whole again, at most


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong from `at_s` on for `seconds`. Without a `pair` it is about the whole site.

    stp, blackhole, late, flap   the network, as in tests/lab/freeze.py
    links     every link of one node falls, in-band and out-of-band, and comes back
    hung      a kernel makes no progress, its ports are up; it stays so (`seconds` only says how long that is watched)
    crash     a node loses its power; it stays off until a person switches it on
    witness   the witness is killed and started again
    guard     one node's guard is killed and started again
    hold      every pair is held by a person when the timeline begins, and released when the work is over
    """

    kind: str
    at_s: float
    seconds: float
    pair: str = ""
    role: str = ""

    @property
    def end_s(self) -> float:
        return round(self.at_s + self.seconds, 1)

    def words(self) -> str:
        """`crash fs2 primary 3.5-9.0 s`."""
        whom = f" {self.pair} {self.role}" if self.pair else ""
        return f"{self.kind}{whom} {self.at_s:g}-{self.end_s:g} s"


@dataclass(frozen=True, slots=True)
class Timeline:
    """`arbiter`: where it is reached. `faults`: in the order in which they begin."""

    seed: int
    arbiter: str
    faults: tuple[Fault, ...]

    @property
    def end_s(self) -> float:
        return max(fault.end_s for fault in self.faults)

    @property
    def wide(self) -> Fault | None:
        """What takes the whole network, if anything."""
        return next((fault for fault in self.faults if fault.kind in WIDE), None)

    def of(self, pair: str, *kinds: str) -> list[Fault]:
        """The faults of these kinds on one pair."""
        return [fault for fault in self.faults if fault.pair == pair and fault.kind in kinds]

    def words(self) -> str:
        return f"{self.arbiter}: " + "; ".join(fault.words() for fault in self.faults)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def timeline(seed: int) -> Timeline:
    """The timeline of a seed."""
    rng = stream("lab-seeds", seed)
    arbiter = rng.choice(REACHES)
    count = rng.choice((1, 2, 2, 3))
    kinds = [rng.choice(KINDS)]
    while len(kinds) < count:
        kind = rng.choice(KINDS)
        if kind not in kinds and not (kind in WIDE and set(kinds) & set(WIDE)):
            kinds.append(kind)
    if "hold" in kinds and not set(kinds) & set(WIDE):  # it announces work, so there is some
        kinds = [rng.choice(WIDE), *[kind for kind in kinds if kind != "hold"][: FAULTS_MAX - 2], "hold"]
    return Timeline(seed, arbiter, tuple(sorted(_faults(kinds, rng), key=lambda fault: (fault.at_s, fault.kind))))


def _faults(kinds: list[str], rng: Random) -> list[Fault]:
    pairs = list(PAIRS)
    rng.shuffle(pairs)
    held = "hold" in kinds
    before_s = _between(rng, HELD_BEFORE_S) if held else 0.0
    faults = []
    for kind in sorted(kinds, key=KINDS.index):
        seconds = _between(rng, SECONDS)
        at_s = _between(rng, (0.0, LAST_AT_S))
        if kind in WIDE:
            faults.append(Fault(kind, before_s or at_s, seconds))
        elif kind in (*DEATHS, "guard"):
            role = rng.choice((PRIMARY, PRIMARY, SECONDARY))
            faults.append(Fault(kind, at_s, seconds, rng.choice(PAIRS) if kind == "guard" else pairs.pop(), role))
        elif kind == "witness":
            faults.append(Fault(kind, at_s, seconds))
    if held:
        over_s = max(fault.end_s for fault in faults if fault.kind in WIDE) + _between(rng, HELD_AFTER_S)
        faults.append(Fault("hold", 0.0, round(over_s, 1)))
    first_s = min(fault.at_s for fault in faults)
    return [Fault(f.kind, round(f.at_s - first_s, 1), f.seconds, f.pair, f.role) for f in faults]


def _between(rng: Random, ends: tuple[float, float]) -> float:
    return round(rng.uniform(*ends), 1)
