"""Generations and write ages: which of two replicas is newer, and when each was last written.

1. Two generations are compared, never two clocks. What an identifier does not prove is UNKNOWN, DIVERGED or UNRELATED.
2. An age is an interval that holds the truth. A gap in what was watched widens it; it never counts as a write
   and never as quiet.
3. Two ages are ordered only if they lie more than one sampling period apart. Nothing is later than a silent target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from guard.core.evidence import Generations, Role, WriteSample
from guard.core.instant import Age, Instant, elapsed_s

ROLE_BIT = 1
"""Bit 0 of an identifier says "was Primary", not which data (DRBD 8.4.11, captures 01-d, 03-a): masked."""

LINEAGE_MASK = 0x0000_FFFF_FFFF_FFFE
"""Identifier without its top 16 bits and without bit 0. At each start of a resync DRBD adds
0x0001000000000000 to the bitmap identifier, and the target takes the sum as its current one (captures 02-d, 06-e,
10-a; 10-d shows it added twice). The lower 47 bits are random and stay, so they name the line of descent."""

NO_GENERATION = frozenset({0, 4})
"""0 is an empty slot, 4 is DRBD's UUID_JUST_CREATED: written by `create-md` before there is any data (capture 01-a)."""

MISSED_SAMPLES_MAX = 2
"""After so many sampling periods without a sample that counts, nobody is watching: the age is unknown. A sampler of
period p that is asked between two samples has its last one less than 2 p behind, even if one sample came late."""


class Relation(StrEnum):
    """The column `gen` of the verdict table: whose data is newer, seen from the candidate C."""

    SAME = "same"
    C_NEWER = "C_newer"
    T_NEWER = "T_newer"
    DIVERGED = "diverged"  # a common ancestor, and each went on without the other
    UNRELATED = "unrelated"  # no common ancestor: not the same data set
    UNKNOWN = "?"


class AgeOrder(StrEnum):
    """The column `age` of the verdict table: whose last write is the later one."""

    C_LATER = "C_later"
    T_LATER = "T_later"
    OVERLAP = "overlap"  # both known, too close together or too wide to order
    UNKNOWN = "?"


def relation(candidate: Generations | None, target: Generations | None) -> Relation:
    """How the candidate's data descends from the target's, by DRBD's generation identifiers.

    None (unreadable), an empty current identifier or one just created is UNKNOWN: two fresh disks carry the same 4
    and have nothing in common. Equal currents are SAME. A current that lies in the other's past (bitmap or history)
    is its ancestor. A common past without that is DIVERGED, no common past UNRELATED. Contradictions are UNKNOWN:
    each in the other's past, or currents that differ only by the resync offset (one of them stopped in the middle
    of a resync and its source is not among the two).

    The order of these tests is that of `drbd_uuid_compare` in DRBD 8.4: ancestors before common ancestors.
    """
    if candidate is None or target is None:
        return Relation.UNKNOWN
    ours, theirs = candidate.current & ~ROLE_BIT, target.current & ~ROLE_BIT
    if ours in NO_GENERATION or theirs in NO_GENERATION:
        return Relation.UNKNOWN
    if ours == theirs:
        return Relation.SAME
    if ours & LINEAGE_MASK == theirs & LINEAGE_MASK:
        return Relation.UNKNOWN
    our_past, their_past = _past(candidate), _past(target)
    match (theirs & LINEAGE_MASK in our_past, ours & LINEAGE_MASK in their_past):
        case (True, True):
            return Relation.UNKNOWN
        case (True, False):
            return Relation.C_NEWER
        case (False, True):
            return Relation.T_NEWER
        case _:
            return Relation.DIVERGED if our_past & their_past else Relation.UNRELATED


def _past(generations: Generations) -> frozenset[int]:
    """Lines of descent of all earlier generations; empty and just created slots prove nothing and are left out."""
    lines = {identifier & LINEAGE_MASK for identifier in (generations.bitmap, *generations.history)}
    return frozenset(lines - NO_GENERATION)


def compare(candidate: Age | None, target: Age | None, *, sampling_s: float, target_silent: bool) -> AgeOrder:
    """Whose last write is later. Both ages must be taken at the same moment, already widened by their journey.

    Ages count backwards: a *small* age is a *late* write. An age from `lo` to `hi` says that the last write is at
    least `lo` and at most `hi` seconds old; `hi` None says that it may be as old as you like ("nothing written since
    the ledger began" is Age(length of the ledger, None), and that is knowledge: no write is younger than that).

    C is later only if even its oldest possible write is younger than T's youngest possible one; T is later only if
    its oldest possible write is younger than everything C can have. Both by more than `sampling_s` (seconds):
    the two ledgers tick apart, and a write completes on one node a moment before or after the other counts it.

    A silent target may have written until now: its lower end is 0, so nothing can be proven later than it. Its upper
    end stays, for what it is known to have written it did write. So T_later against a silent target is proof from
    stored evidence that it had a write which never reached the candidate.
    """
    if sampling_s < 0:
        raise ValueError(f"cannot compare ages with a sampling period of {sampling_s} s: need 0 or more")
    if candidate is None or target is None:
        return AgeOrder.UNKNOWN
    target_lo_s = 0.0 if target_silent else target.lo_s
    if candidate.hi_s is not None and target_lo_s - candidate.hi_s > sampling_s:
        return AgeOrder.C_LATER
    if target.hi_s is not None and candidate.lo_s - target.hi_s > sampling_s:
        return AgeOrder.T_LATER
    return AgeOrder.OVERLAP


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the samples of one resource say about its last write: it lies in (`after`, `until`].

    Instants are of one boot; after a boot a new ledger begins. `after` None: no bound, no write was ever seen.
    `until` None: never sampled. `count` None: no baseline, so the next sample that counts only makes one.
    """

    resource: str
    sampling_s: float  # period at which samples are meant to come, seconds
    after: Instant | None = None
    until: Instant | None = None
    seen: Instant | None = None  # the last sample that counted
    role: Role = Role.UNKNOWN  # whose counter `count` is
    count: int | None = None


def fold(ledger: Ledger, sample: WriteSample) -> Ledger:
    """The ledger after one more sample.

    A changed counter is a write in (sample before, this sample]. A sample that says nothing (`counts` False, role or
    counter unknown) drops the baseline. Where there is no baseline, or the role changed (then another counter is
    read), or the counter went backwards (it was reset), this sample makes a new one: no write was seen, but the gap
    may hide one, so the last write may now be as late as this sample, and as early as before. A reset after which the
    counter climbs back to the old value or past it between two samples cannot be seen here: the source says `counts`
    False for it, and so it does for a resync that came and went between two samples.
    A counting sample that is not later than the last one is ignored. Raises ValueError on another resource's sample.
    """
    if sample.resource != ledger.resource:
        raise ValueError(f"cannot fold a sample of {sample.resource} into the ledger of {ledger.resource}")
    count = _counter(sample)
    if count is None:
        return replace(ledger, role=Role.UNKNOWN, count=None)
    if ledger.seen is not None and sample.at <= ledger.seen:
        return ledger
    if ledger.count is None or sample.role != ledger.role or count < ledger.count:
        return replace(ledger, until=sample.at, seen=sample.at, role=sample.role, count=count)
    # What follows comes at every sample; to name the fields is several times as fast as `replace`.
    resource, period_s, role = ledger.resource, ledger.sampling_s, ledger.role
    if count == ledger.count:
        return Ledger(resource, period_s, ledger.after, ledger.until, sample.at, role, count)
    return Ledger(resource, period_s, ledger.seen, sample.at, sample.at, role, count)


def _counter(sample: WriteSample) -> int | None:
    """The counter that does not lie in this role: completed on a Primary, received on a Secondary. None: neither."""
    if not sample.counts:
        return None
    match sample.role:
        case Role.PRIMARY:
            return sample.completed
        case Role.SECONDARY:
            return sample.received_kib
        case _:
            return None


def age(ledger: Ledger, now: Instant) -> Age | None:
    """Time since the last write at `now`, seconds. Fold a fresh sample before you ask for a claim.

    None, unknown: never sampled, `now` before the last sample (another boot), or no end known at all. While the last
    sample said nothing, or none that counts came within MISSED_SAMPLES_MAX periods (nobody is watching), the last
    write may be happening now: the lower end is 0. The upper end stays true whatever was missed: a write once seen
    can only have been followed by later ones.
    """
    if ledger.seen is None or ledger.until is None or ledger.seen > now:
        return None
    hi_s = None if ledger.after is None else elapsed_s(ledger.after, now)
    unwatched = elapsed_s(ledger.seen, now) > MISSED_SAMPLES_MAX * ledger.sampling_s
    if ledger.count is None or unwatched:
        return None if hi_s is None else Age(0.0, hi_s)
    return Age(elapsed_s(ledger.until, now), hi_s)
