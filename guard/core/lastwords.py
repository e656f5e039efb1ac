"""What a cold start judges write ages by: both nodes' last words in the session that they attested.

1. A write ledger ends with its boot, so a node that lost power cannot say when it was last written; the arbiter can.
2. Only how the two ages lie to each other counts. They are taken as of the later of the two, so the arbiter's machine
   may have been rebooted since; but not between them, for then nobody knows how far they lie apart.
3. Both are of the same session and of the boots that attested it, and the data are the same still. Else: unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guard.core.attest import Session, Testimony, generations
from guard.core.claim import Bundle
from guard.core.evidence import Role
from guard.core.instant import elapsed_s
from guard.core.messages import Evidence
from guard.core.writes import Relation, relation


def with_last_words(bundle: Bundle, era: int, session: Session | None, words: Mapping[str, Testimony]) -> Bundle:
    """The bundle of a cold claim with the ages of `words`, or as it is if any law above is not kept.

    A target that answers counts too if nothing runs there either: it names the session, is not connected, and has no
    age of its own. One that was heard on another boot since, and is silent now, did not just lose power.
    """
    target = bundle.target
    if target is None or session is None or session.era != era:
        return bundle
    mine, theirs = words.get(bundle.candidate.node), words.get(target.node)
    if mine is None or theirs is None or mine.boot_id != theirs.boot_id:
        return bundle
    if not bundle.candidate.session == target.session == session.name:
        return bundle
    ageless = not target.connected and all(r.age_lo_s is None for r in target.replicas)
    if not (bundle.fresh == "live" and ageless) and not (bundle.fresh == "silent" and target == theirs.evidence):
        return bundle
    latest = max(mine.at, theirs.at)
    return replace(
        bundle,
        candidate=_aged(bundle.candidate, mine, elapsed_s(mine.at, latest)),
        target=_aged(target, theirs, elapsed_s(theirs.at, latest)),
        target_age_s=bundle.candidate_age_s,
    )


def with_attested_gate(bundle: Bundle, era: int, session: Session | None, words: Mapping[str, Testimony]) -> Bundle:
    """E4, "no later sign to the contrary": a target whose resource is down shows no gate (None), so the one that it
    attested counts. Only for a win that is used again, of a target that is primary of nothing by its own words."""
    target = bundle.target
    last = words.get(target.node) if target is not None else None
    if target is None or last is None or session is None or (session.era, session.name) != (era, last.evidence.session):
        return bundle
    attested = {r.resource: r.gate for r in last.evidence.replicas}
    replicas = tuple(
        replace(r, gate=attested.get(r.resource)) if r.gate is None and r.role == Role.SECONDARY.value else r
        for r in target.replicas
    )
    return replace(bundle, target=replace(target, replicas=replicas))


def _aged(said: Evidence, words: Testimony, older_s: float) -> Evidence:
    """`said` with the write ages of `words`, `older_s` later, for every resource that is of the same generation."""
    known = {r.resource: r for r in words.evidence.replicas}
    replicas = []
    for replica in said.replicas:
        old = known.get(replica.resource)
        if old is None or old.age_lo_s is None or relation(generations(replica), generations(old)) is not Relation.SAME:
            replicas.append(replace(replica, age_lo_s=None, age_hi_s=None))
            continue
        # Connected, it may have been written until the end: only the upper end is known.
        lo_s = 0.0 if words.evidence.connected else old.age_lo_s + older_s
        hi_s = None if old.age_hi_s is None else old.age_hi_s + older_s
        replicas.append(replace(replica, age_lo_s=lo_s, age_hi_s=hi_s))
    return replace(said, replicas=tuple(replicas))
