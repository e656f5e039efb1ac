"""Compares two nodes' generation identifiers as DRBD 8.4 does at a handshake, and says who syncs to whom.

Pure. `uuid_compare` numbers its rules as the kernel log does ("uuid_compare()=1 by rule 70"), so that a run of the
lab can be
laid beside a recording.
"""

from __future__ import annotations

from dataclasses import dataclass

from disk import JUST_CREATED

UNRELATED = -1000
# The kernel's order of disk states: comparisons like "better than Inconsistent" rely on it.
DISK_ORDER = (
    "Diskless",
    "Attaching",
    "Failed",
    "Negotiating",
    "Inconsistent",
    "Outdated",
    "DUnknown",
    "Consistent",
    "UpToDate",
)


def rank(disk: str) -> int:
    """Where a disk state stands in the kernel's order."""
    return DISK_ORDER.index(disk)


@dataclass(frozen=True, slots=True)
class Side:
    """What one side brings to the handshake. `crashed` = was Primary when it lost power; `discard` =
    --discard-my-data."""

    uuids: tuple[int, int, int, int]
    disk: str
    role: str
    crashed: bool
    discard: bool


def uuid_compare(own: Side, peer: Side, tie_breaker: bool) -> tuple[int, int]:
    """(verdict, rule): 0 same, 1/-1 own/peer is source, 2/-2 the same with a full sync, +-100 split brain, -1000
    unrelated.

    `tie_breaker`: the one of two crashed Primaries that becomes target.
    """
    mine, theirs = [value & ~1 for value in own.uuids], [value & ~1 for value in peer.uuids]
    fresh = (JUST_CREATED, 0)
    if mine[0] == JUST_CREATED and theirs[0] == JUST_CREATED:
        return 0, 10
    if mine[0] in fresh:
        return -2, 20
    if theirs[0] in fresh:
        return 2, 30
    if mine[0] == theirs[0]:
        if mine[1] and not theirs[1]:  # was source; the peer did not hear of it, or missed the end
            return 1, 34 if mine[1] == theirs[2] else 36
        if theirs[1] and not mine[1]:
            return -1, 35 if theirs[1] == mine[2] else 37
        if own.crashed and peer.crashed:
            return (-1 if tie_breaker else 1), 40
        return int(own.crashed) - int(peer.crashed), 40
    if mine[0] == theirs[1]:
        return -1, 50
    if mine[0] == theirs[2]:
        return -1, 51
    if mine[0] in theirs[2:]:
        return -2, 60
    if mine[1] == theirs[0]:
        return 1, 70
    if mine[2] == theirs[0]:
        return 1, 71
    if theirs[0] in mine[2:]:
        return 2, 80
    if mine[1] and mine[1] == theirs[1]:
        return 100, 90
    if any(value and value in theirs[2:] for value in mine[2:]):
        return -100, 100
    return UNRELATED, 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the handshake says: `state` is Connected, WFBitMapS, WFBitMapT, or a refusal (`StandAlone`,
    `NetworkFailure`)."""

    state: str
    verdict: int
    rule: int
    full: bool = False
    split_brain: bool = False
    why: str = ""


def decide(own: Side, peer: Side, tie_breaker: bool) -> Outcome:
    """The whole handshake, from this side; the peer comes to the mirrored outcome by itself."""
    verdict, rule = uuid_compare(own, peer, tie_breaker)
    if verdict == UNRELATED:
        return Outcome("StandAlone", verdict, rule, why="Unrelated data, aborting!")
    good, peer_good = rank(own.disk) > rank("Inconsistent"), rank(peer.disk) > rank("Inconsistent")
    split = abs(verdict) == 100
    if good != peer_good:  # "Becoming sync source due to disk states."
        full = abs(verdict) == 2 or verdict == -100
        verdict, split = (1 if good else -1) * (2 if full else 1), False
    if split:
        if own.discard == peer.discard or (own.discard and own.role == "Primary"):
            why = "Split-Brain detected but unresolved, dropping connection!"
            return Outcome("StandAlone", verdict, rule, split_brain=True, why=why)
        verdict = -1 if own.discard else 1  # "Split-Brain detected, manually solved."
    if verdict > 0 and not good:
        return Outcome("StandAlone", verdict, rule, why="I shall become SyncSource, but I am inconsistent!")
    if own.role == "Primary" and peer.role == "Primary":
        if verdict < 0:  # the side that is ahead refuses; this one keeps waiting (data/drbd-fencing f5-g)
            return Outcome("NetworkFailure", verdict, rule, why="I shall become SyncTarget, but I am primary!")
        return Outcome("StandAlone", verdict, rule, why="Multiple primaries not allowed by config")
    if verdict < 0 and own.role == "Primary" and rank(own.disk) >= rank("Consistent"):
        return Outcome("StandAlone", verdict, rule, why="I shall become SyncTarget, but I am primary!")
    state = "WFBitMapS" if verdict > 0 else "WFBitMapT" if verdict < 0 else "Connected"
    return Outcome(state, verdict, rule, full=abs(verdict) == 2)
