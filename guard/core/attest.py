"""Testimony: what ties a silent node's last words to the replication connection that was just lost.

1. A session is one unbroken replication connection, named by both ends: the hash of two random halves.
2. It is *attested* once the latest attests of both ends name it, in this era, connected, with the same
   generation and UpToDate on both ends.
3. A lost connection ends it. The old session counts until a new one is attested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from guard.core.evidence import Disk, Generations, Role
from guard.core.instant import Instant
from guard.core.messages import Evidence, ReplicaStatement, SessionHalf
from guard.core.writes import Relation, relation


@dataclass(frozen=True, slots=True)
class Testimony:
    """The latest attest of one node. `at` counts only while the arbiter's machine has not rebooted (`boot_id`)."""

    evidence: Evidence
    seq: int
    at: Instant
    boot_id: str


@dataclass(frozen=True, slots=True)
class Session:
    """The session that both ends attested last, and who was Primary in it."""

    name: str
    era: int
    primaries: tuple[str, ...]
    boots: Mapping[str, str] = field(default_factory=dict)  # node -> the boot in which it attested it


@lru_cache(maxsize=256)  # asked for at every beat, and changes only with a connection
def session_id(node: str, half: str, peer: str, peer_half: str) -> str:
    """The name that both ends compute for the same connection."""
    ends = sorted(((node, half), (peer, peer_half)))
    return hashlib.sha256("|".join(f"{name}={value}" for name, value in ends).encode()).hexdigest()[:32]


def generations(statement: ReplicaStatement) -> Generations | None:
    """The identifiers of a statement, None if its node could not read them."""
    if statement.current is None:
        return None
    return Generations(statement.current, statement.bitmap, statement.history)


@dataclass(frozen=True, slots=True)
class Halves:
    """One guard's side of naming the present connection."""

    boot_id: str
    connects: int = 0
    mine: str | None = None  # None = not connected
    peers: str | None = None  # the peer's half as heard since `mine` was drawn, or before it
    echoed: bool = False  # the peer has said that it heard `mine`

    def connected(self, half: str) -> Halves:
        """A new connection (or a guard start while connected): draw a half. What the peer said before may stand."""
        return Halves(self.boot_id, self.connects + 1, half, self.peers, False)

    def lost(self) -> Halves:
        """The connection broke. The peer's half dies with it: it will draw another."""
        return Halves(self.boot_id, self.connects, None, None, False)

    def heard(self, message: SessionHalf) -> Halves:
        return Halves(self.boot_id, self.connects, self.mine, message.half, message.seen == self.mine)

    def said(self) -> SessionHalf | None:
        if self.mine is None:
            return None
        return SessionHalf(self.boot_id, self.connects, self.mine, self.peers or "")

    def session(self, node: str, peer: str) -> str | None:
        """The session's name once both halves are known here, and the peer is known to have ours."""
        if self.mine is None or self.peers is None or not self.echoed:
            return None
        return session_id(node, self.mine, peer, self.peers)


def attested(mine: Evidence, theirs: Evidence, era: int) -> bool:
    """Rule 2. Symmetric in the two ends."""
    if mine.session is None or mine.session != theirs.session:
        return False
    if not (mine.connected and theirs.connected) or mine.era != era or theirs.era != era:
        return False
    if not mine.replicas or {r.resource for r in mine.replicas} != {r.resource for r in theirs.replicas}:
        return False
    other = {r.resource: r for r in theirs.replicas}
    return all(_sound(r, other[r.resource]) for r in mine.replicas)


def _sound(one: ReplicaStatement, two: ReplicaStatement) -> bool:
    good = Disk.UP_TO_DATE.value
    if (one.disk, one.peer_disk, two.disk, two.peer_disk) != (good, good, good, good):
        return False
    return relation(generations(one), generations(two)) is Relation.SAME


def was_primary(evidence: Evidence) -> bool:
    """Primary of at least one resource, by its own words."""
    return any(r.role == Role.PRIMARY.value for r in evidence.replicas)
