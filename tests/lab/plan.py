"""What one lab run is asked to be: pairs, freeze, timers, where things hang."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from tests.lab.cluster import Timers
from tests.lab.freeze import KINDS
from tests.lab.rivals import STOCK, Rival
from tests.lab.space import LabFailed

REPLICATIONS = ("stateful", "drbd")
REACHES = ("in-band", "out-of-band")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Seconds throughout.

    `guarded`: our daemon and agent in every node, witness and Mosquitto in `arb`; else the ordinary agent.
    `replication`: `drbd` (the stand-in at the command-line edge) or `stateful` (no data; not with a guard).
    `latency_s`: from a power-off's acknowledgement to its effect.
    `ports_stay_up`: a node without power keeps its link (a hung kernel).
    `restore`: after an stp freeze the lost switch comes back 2 s after the thaw (redundancy whole again).
    `gate`: DRBD freezes a cut primary's writes and asks the guard (fencing resource-and-stonith); only when guarded.
    `own_cells`: each guarded pair is a cell, so that deaths of several at once are no storm.
    `rival`: how a pair without a guard is set up.
    `snmp`: agents on the switches; None: only when guarded. `watch_s`: how long is watched after the thaw.
    """

    pairs: int = 3
    freeze: str = "stp"
    seconds: float = 12.0
    guarded: bool = False
    latency_s: float = 1.0
    replication: str = "drbd"
    timers: Timers = field(default_factory=Timers)
    snmp: bool | None = None
    arbiter: str = "in-band"
    power: str = "in-band"
    rings: int = 1
    ports_stay_up: bool = False
    settle_s: float = 2.0
    watch_s: float = 14.0
    form_s_max: float = 90.0
    restore: bool = False
    gate: bool = True
    own_cells: bool = False
    rival: Rival = STOCK

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= 40:
            raise LabFailed(f"cannot make {self.pairs} pairs: 1 to 40")
        if self.freeze not in KINDS:
            raise LabFailed(f"cannot freeze by {self.freeze}: one of {', '.join(KINDS)}")
        if self.replication not in REPLICATIONS:
            raise LabFailed(f"cannot replicate by {self.replication}: one of {', '.join(REPLICATIONS)}")
        if self.guarded and self.replication != "drbd":
            raise LabFailed("cannot guard a pair that replicates nothing: use the drbd stand-in")
        if self.guarded and self.rival is not STOCK:
            raise LabFailed(f"cannot guard a pair that is set up as {self.rival.name}")
        for reach in (self.arbiter, self.power):
            if reach not in REACHES:
                raise LabFailed(f"cannot reach {reach}: one of {', '.join(REACHES)}")
        if self.freeze in ("stp", "mlag") and not 4 <= self.seconds <= 60:
            raise LabFailed(f"a spanning tree outage lasts 4 to 60 s here (2 x forward_delay), not {self.seconds}")

    @property
    def with_snmp(self) -> bool:
        return self.guarded if self.snmp is None else self.snmp

    def pair_names(self) -> list[str]:
        """fs1, fs2, …"""
        return [f"fs{n}" for n in range(1, self.pairs + 1)]

    def as_dict(self) -> dict[str, object]:
        """For the record."""
        return asdict(self)


def nodes_of(pair: str) -> tuple[str, str]:
    """The two nodes of a pair."""
    return f"{pair}a", f"{pair}b"


def first_primary(pair: str) -> str:
    """Which node is primary at the start: a and b in turn, so that no result hangs on a node id."""
    return f"{pair}a" if int(pair[2:]) % 2 else f"{pair}b"
