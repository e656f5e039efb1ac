"""Judging a claim: the same rules on both sides of the bus, run by the candidate and again by the arbiter.

1. A verdict is asked only while the register has no winner.
2. A target that answered live is never fenced without its yield, whatever the row says.
3. Without continuity of the candidate's own disk a silent target's words tie to nothing: they are stale.
4. What either side does not know is unknown, and unknown grants nothing.
5. A living primary is asked to step back only if its own cluster is unfit by its own words, and is passed over only
   with its yield, its gate proven on, its disk known, and write ages that were really compared.
6. A member of the candidate's own membership is not dead, however silent its guard: without its yield no fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from guard.core.attest import generations
from guard.core.evidence import Disk, Role
from guard.core.instant import Age
from guard.core.messages import Basis, Evidence, InhibitView, Offer, Purpose, ReplicaStatement
from guard.core.policy import Policy
from guard.core.verdict import Case, Result, Verdict, after_yield, combine, judge, settle_tie
from guard.core.writes import AgeOrder, Relation, compare, relation

Fresh = Literal["live", "silent", "stale"]
LIVING_PRIMARY = ("V17", "V18")  # they read CONSENT once that primary yields


@dataclass(frozen=True, slots=True)
class Bundle:
    """All evidence on one claim, as judged by one party at one moment. Ages are already as of that moment."""

    candidate: Evidence
    candidate_age_s: float  # since the candidate's statement was received
    target: Evidence | None
    fresh: Fresh
    target_age_s: float | None  # since the target's statement was received; None = not known (the arbiter rebooted)
    target_yielded: bool
    preferred_is_candidate: bool


@dataclass(frozen=True, slots=True)
class Ruling:
    """What follows from a verdict for one claim."""

    verdict: Verdict
    next: Literal["commit", "want-yield", "no"]
    basis: Basis
    reason: str


def bundle_of(offer: Offer, waited_s: float) -> Bundle:
    """The candidate's own bundle: the offer's evidence, `waited_s` after it was said."""
    return Bundle(
        candidate=offer.candidate,
        candidate_age_s=offer.candidate_age_s + waited_s,
        target=offer.target,
        fresh=offer.fresh,
        target_age_s=None if offer.target_age_s is None else offer.target_age_s + waited_s,
        target_yielded=offer.target_yielded,
        preferred_is_candidate=offer.register.preferred == offer.candidate.node,
    )


def assess(bundle: Bundle, policy: Policy) -> Verdict:
    """The verdict over all resources, with a given yield and the preferred node taken into account."""
    mine = {r.resource: r for r in bundle.candidate.replicas}
    theirs = {r.resource: r for r in bundle.target.replicas} if bundle.target else {}
    if bundle.target is not None and set(theirs) - set(mine):
        return combine(())  # the target keeps data that the candidate does not even have
    verdicts: Sequence[Verdict] = [_one(bundle, mine[name], theirs.get(name), policy) for name in sorted(mine)]
    return combine(verdicts)


def rule(bundle: Bundle, purpose: Purpose, policy: Policy, *, cold: bool) -> Ruling:
    """What the candidate may do, and what the arbiter will accept, on this evidence."""
    verdict = assess(bundle, policy)
    basis: Basis = "verdict"
    match verdict.result:
        case Result.GRANT:
            basis = "yield" if bundle.target_yielded else "verdict"
        case Result.GRANT_COLD:
            basis = "cold"
            if not cold:
                return Ruling(verdict, "no", basis, "cold-wait")
        case Result.CONSENT:
            return Ruling(verdict, "want-yield", basis, "needs-yield")
        case Result.TIE:
            return Ruling(verdict, "no", "tie", "not-preferred")
        case Result.PREFER_T | Result.PERSON:
            return Ruling(verdict, "no", basis, verdict.reason)
    if purpose == "fence" and bundle.fresh == "live" and not bundle.target_yielded:
        return Ruling(verdict, "want-yield", basis, "living-target")
    if purpose == "fence" and (alive := member(bundle)) is not None:
        return Ruling(replace(verdict, text=alive[1]), "no", basis, alive[0])
    return Ruling(verdict, "commit", basis, verdict.reason)


def member(bundle: Bundle) -> tuple[str, str] | None:
    """Why a target that did not yield is no dead one (reason, text), or None: a few lost messages are no death."""
    if bundle.target_yielded or bundle.candidate.peer_member is False:
        return None
    if bundle.candidate.peer_member is None:
        return "membership-unknown", "the candidate cannot tell whether the target has left its membership"
    return "target-is-member", "the target is in one membership with the candidate: it is not dead"


def reconfirmed(bundle: Bundle, basis: Basis | None) -> tuple[str, str] | None:
    """Why a win may not be used again now (reason, text), or None. `basis`: how the era was won.

    The decision stands, but only while the winner still has what it won with: a winner whose disk left UpToDate
    (connected, the loser may have been primary without it) or whose target is newer would fence the newest data.
    After a cold start that was won a disk may be only Consistent: it met nobody since. And a target that may write
    alone may have done so since the win (V11 grants over an old disk without asking for a gate; it was resynced then).
    """
    mine = {r.resource: r for r in bundle.candidate.replicas}
    theirs = {r.resource: r for r in bundle.target.replicas} if bundle.target else {}
    good = {Disk.UP_TO_DATE.value, Disk.CONSISTENT.value} if bundle.candidate.cold else {Disk.UP_TO_DATE.value}
    for name, replica in mine.items():
        if replica.disk not in good or not replica.continuous:
            return "own-disk-discontinuous", f"own disk of {name} has not been UpToDate without a break since the win"
        other = theirs.get(name)
        bound = bundle.target_yielded or basis in ("yield", "person")
        if not bound and (other is None or other.gate is not True):
            return "target-not-gated", f"the target's gate of {name} is not proven: alone, it may have written"
        if other is not None and relation(generations(replica), generations(other)) in (
            Relation.T_NEWER,
            Relation.DIVERGED,
            Relation.UNRELATED,
        ):
            return "target-newer", f"the target's generation of {name} is not an ancestor of the winner's"
    return None


def _one(bundle: Bundle, mine: ReplicaStatement, theirs: ReplicaStatement | None, policy: Policy) -> Verdict:
    fresh: Fresh = bundle.fresh if theirs is not None else "stale"
    if fresh == "silent" and not mine.continuous:
        fresh = "stale"
    order = compare(
        _age(bundle.candidate, mine, bundle.candidate_age_s),
        _age(bundle.target, theirs, bundle.target_age_s) if theirs else None,
        sampling_s=policy.sampling_s,
        target_silent=fresh != "live",
    )
    verdict = judge(
        Case(
            own_disk=Disk(mine.disk),
            target_disk=Disk(theirs.disk) if theirs else Disk.UNKNOWN,
            gen=relation(generations(mine), generations(theirs) if theirs else None),
            age=order,
            roles=_roles(mine, theirs),
            fresh=fresh,
            gate="yes" if theirs is not None and theirs.gate is True else "no",
        )
    )
    doubt = _doubt(verdict, mine, theirs, order, bundle.candidate.cold)
    if doubt is not None:
        return replace(verdict, result=Result.PERSON, reason=doubt[0], text=doubt[1])
    verdict = _with_yield(bundle, verdict, mine, theirs, order) if fresh == "live" else verdict
    return settle_tie(verdict, bundle.preferred_is_candidate)


def _doubt(
    verdict: Verdict, mine: ReplicaStatement, theirs: ReplicaStatement | None, order: AgeOrder, cold: bool
) -> tuple[str, str] | None:
    """Where the table alone would grant what the rules around it forbid (ARCHITECTURE.md, Where we left DESIGN.md)."""
    if verdict.result in (Result.PERSON, Result.PREFER_T):
        return None
    if mine.role == Role.UNKNOWN.value:
        return "own-role-unreadable", "the candidate cannot say whether it is primary"
    if theirs is None or Disk(theirs.disk) is Disk.UNKNOWN:
        return "target-disk-unknown", "the state of the target's disk is not known: unknown permits nothing"
    if Disk(mine.disk) is Disk.CONSISTENT and not cold:
        return "own-disk-consistent-only", "E1: a disk that is only Consistent serves a cold start, nothing else"
    if order is AgeOrder.T_LATER and verdict.result is not Result.CONSENT:
        return "target-wrote-later", "the target acknowledged a write later than anything the candidate has"
    return None


def _with_yield(
    bundle: Bundle, verdict: Verdict, mine: ReplicaStatement, theirs: ReplicaStatement | None, order: AgeOrder
) -> Verdict:
    """What a yield that was given, or that may be asked for, makes of the verdict on a living target (law 5)."""
    gateless = theirs is not None and theirs.gate is not True
    if verdict.row == "V11" and theirs is not None and theirs.disk == Disk.DISKLESS.value and gateless:
        if bundle.target_yielded:
            return verdict
        text = "a living target without its disk may attach it again and write alone: it must yield first"
        return replace(verdict, result=Result.CONSENT, reason=f"{verdict.reason}-diskless", text=text)
    if verdict.row not in LIVING_PRIMARY:
        return after_yield(verdict, Disk(mine.disk)) if bundle.target_yielded else verdict
    proven = (
        theirs is not None
        and theirs.gate is True
        and Disk(theirs.disk) is not Disk.UNKNOWN
        and mine.role == Role.SECONDARY.value
        and order is AgeOrder.OVERLAP
    )
    if not proven or Disk(mine.disk) is not Disk.UP_TO_DATE:
        return verdict
    if bundle.target_yielded:
        return after_yield(verdict, Disk(mine.disk))
    if bundle.target is not None and bundle.target.unfit:
        text = "the living primary's own cluster is unfit: it is asked to yield"
        return replace(verdict, result=Result.CONSENT, reason=f"{verdict.reason}-unfit", text=text)
    return verdict


def _age(said: Evidence | None, statement: ReplicaStatement, elapsed_s: float | None) -> Age | None:
    """The statement's write age as of now; None = not known, also when the elapsed time is not known.

    Connected, more was written since the last sample, or since it was said: then only the upper end is known.
    """
    if statement.age_lo_s is None or elapsed_s is None:
        return None
    if said is not None and said.connected:
        return Age(0.0, None if statement.age_hi_s is None else statement.age_hi_s + elapsed_s)
    return Age(statement.age_lo_s, statement.age_hi_s).older(elapsed_s)


def _roles(mine: ReplicaStatement, theirs: ReplicaStatement | None) -> Literal["C", "T", "both", "none"]:
    """Who is or was primary. A target whose role is unknown may be one: it counts as one (rule 4)."""
    candidate = mine.role == Role.PRIMARY.value
    target = theirs is not None and theirs.role != Role.SECONDARY.value
    if candidate:
        return "both" if target else "C"
    return "T" if target else "none"


def refusing(
    inhibits: Sequence[InhibitView],
    purpose: Purpose,
    *,
    sitting: bool,
    cold: bool,
    lost_for_s: float,
    quiet_for_s: float,
    policy: Policy,
) -> InhibitView | None:
    """The first inhibit that forbids a claim for `purpose`, or None (section 4, step 2 and the exceptions).

    `sitting`: the candidate was Primary in the attested session. `quiet_for_s`: what the candidate says of its
    network. A fence is forbidden by every inhibit, also by one that has ended and waits for the release.
    """
    for inhibit in inhibits:
        if purpose == "fence":
            return inhibit
        match inhibit.kind:
            case "person" | "change":
                if not inhibit.ended or quiet_for_s < policy.settle_s:
                    return inhibit
            case "peer-alive":
                if not (sitting or cold):
                    return inhibit
            case "disturbance" | "storm" | "redundancy":
                waited = policy.alone_under_hold_s is not None and lost_for_s >= policy.alone_under_hold_s
                released = inhibit.ended and quiet_for_s >= policy.settle_s
                if not (released or (sitting and waited)):
                    return inhibit
    return None
