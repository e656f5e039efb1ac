"""The arbiter's side of a claim: it gathers, offers, and writes the winner (DESIGN.md section 4). Pure.

1. Offers are volatile: after a restart a Commit finds none and gets `stale-offer`.
2. The first test on gathered evidence: does anything contradict a death? Then it is the network (`peer-alive`).
3. Where the register has no winner, the arbiter's own verdict on what it gathered must agree before it writes.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core import claim as judging
from guard.core import register as registers
from guard.core.altered import altered
from guard.core.instant import Instant, elapsed_s
from guard.core.lastwords import with_attested_gate, with_last_words
from guard.core.messages import Answer, Ask, Claim, Commit, Evidence, InhibitView, Offer, Refused, Won
from guard.core.pair import (
    BYE_STRAGGLERS_S,
    PEER_ALIVE,
    FenceCommit,
    Gathering,
    Pair,
    Sends,
    Site,
    drop,
    keep,
    one_membership,
    sitting,
    without,
)
from guard.core.policy import Policy


def claim(
    pair: Pair, sender: str, message: Claim, now: Instant, came: Instant, wall: float, site: Site, policy: Policy
) -> tuple[Pair, Sends]:
    kept, target = pair.kept, pair.kept.other(sender)
    if message.evidence.node != sender:
        return pair, ((sender, Refused(message.nonce, "not-you", "a claim speaks for its own node only")),)
    if kept.register.winner == target:
        return pair, ((sender, Refused(message.nonce, "peer-won", f"{target} won era {kept.register.era}")),)
    if message.nonce in kept.refused_nonces:
        return pair, ((sender, Refused(message.nonce, "nonce-closed", "this claim was closed without a winner")),)
    spared = message.gather or message.off_twice
    early = None if spared else _refusal(pair, sender, message, site, policy, asks=message.want_yield)
    if early is not None:
        return pair, ((sender, early),)
    before = pair.gatherings.get(sender)
    plain = message.gather and not message.want_yield
    if plain and before is not None and not before.claim.gather and elapsed_s(before.asked, now) <= BYE_STRAGGLERS_S:
        return pair, ()  # said before that claim and overtaken by it: the claim's answer must not be lost (L1)
    pair = drop(pair, sender)
    credit = before is not None and before.offered is None and elapsed_s(before.started, now) <= policy.unheard_s
    heard = pair.heard.get(target)
    gathering = Gathering(
        claim=message,
        candidate=sender,
        started=before.started if before is not None and credit else now,
        came=came,
        asked=now,
        waits_for_target=heard is not None and elapsed_s(heard, now) <= policy.heard_s,
    )
    pair = altered(pair, gatherings={**pair.gatherings, sender: gathering})
    ask = Ask(message.nonce, sender, message.purpose, message.want_yield)
    pair, sends = progress(pair, sender, now, wall, site, policy)
    return pair, ((target, ask), *sends)


def answer(
    pair: Pair, sender: str, message: Answer, now: Instant, came: Instant, wall: float, site: Site, policy: Policy
) -> tuple[Pair, Sends]:
    """A target's live answer counts only for the nonce it names, and only before the offer left."""
    candidate = pair.kept.other(sender)
    gathering = pair.gatherings.get(candidate)
    if gathering is None or gathering.claim.nonce != message.nonce or gathering.offered is not None:
        return pair, ()
    if message.evidence.node != sender:
        return pair, ()
    gathering = replace(gathering, answer=message, answered=came)
    pair = altered(pair, gatherings={**pair.gatherings, candidate: gathering})
    if message.yielded and PEER_ALIVE in pair.kept.inhibits:
        pair = without(pair, PEER_ALIVE)
    return progress(pair, candidate, now, wall, site, policy)


def progress(pair: Pair, candidate: str, now: Instant, wall: float, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    gathering = pair.gatherings[candidate]
    if gathering.offered is not None:
        if elapsed_s(gathering.offered, now) > policy.accept_s:
            return drop(pair, candidate), ()
        return pair, ()
    if not _complete(gathering, now, policy):
        return pair, ()
    if not gathering.claim.gather or elapsed_s(gathering.asked, now) <= policy.heard_s:  # old words are no news
        pair = _contradicted(pair, gathering, now, wall, site, policy)
    if gathering.claim.gather:
        # Kept for its start time only: the claim that follows gets the credit, and asks the target once more.
        return (drop(pair, candidate) if elapsed_s(gathering.started, now) > policy.unheard_s else pair), ()
    if (refusal := _refusal(pair, candidate, gathering.claim, site, policy)) is not None:
        return drop(pair, candidate), ((candidate, refusal),)
    if (early := _too_early(pair, gathering, now, policy)) is not None:
        return drop(pair, candidate), ((candidate, early),)
    gathering = replace(gathering, offered=now, version=pair.kept.register.version)
    pair = altered(pair, gatherings={**pair.gatherings, candidate: gathering})
    return pair, ((candidate, _offer(pair, gathering, now, site, policy)),)


def _too_early(pair: Pair, gathering: Gathering, now: Instant, policy: Policy) -> Refused | None:
    """An arbiter that just started has not heard anybody: for 30 s that silence says nothing of a target (L1).

    A cold start has time: it waits T_cold from the arbiter's start, and for the answer of whoever is heard at all.
    """
    target = pair.kept.other(gathering.candidate)
    heard = target in pair.heard
    if gathering.claim.cold and pair.kept.register.winner is None and gathering.answer is None:
        if elapsed_s(pair.started, now) < policy.cold_s:
            return Refused(gathering.claim.nonce, "arbiter-just-started", "a cold start waits T_cold", retry_s=5.0)
        if heard and elapsed_s(pair.heard[target], now) < policy.unheard_s:
            return Refused(gathering.claim.nonce, "target-heard", f"{target} is heard but did not answer", retry_s=5.0)
    if gathering.claim.purpose != "fence" or heard or elapsed_s(pair.started, now) >= policy.unheard_s:
        return None
    text = "the arbiter started a moment ago and has not heard the target since"
    return Refused(gathering.claim.nonce, "arbiter-just-started", text, retry_s=1.0)


def _complete(gathering: Gathering, now: Instant, policy: Policy) -> bool:
    """Has the claim waited for the other claim of the same instant, and for a target that may yet answer?"""
    if elapsed_s(gathering.started, now) < policy.corr_s:
        return False
    if gathering.answer is not None:
        return True
    patience = policy.answer_s if gathering.waits_for_target else policy.ask_s_min
    if gathering.claim.want_yield and gathering.waits_for_target:
        patience = policy.yield_s  # a yield is said only once writes are suspended and read back
    return elapsed_s(gathering.asked, now) >= patience


def _contradicted(pair: Pair, gathering: Gathering, now: Instant, wall: float, site: Site, policy: Policy) -> Pair:
    """Law 3. Nothing contradicts a death while both nodes are in one membership: nobody was given up."""
    answer, target = gathering.answer, pair.kept.other(gathering.candidate)
    heard = pair.heard.get(target)
    unheard = answer is None and (heard is None or heard <= gathering.asked)
    if gathering.claim.off_twice and unheard:  # a device that reads another node's power says nothing of a living one
        return without(pair, PEER_ALIVE)
    if PEER_ALIVE in pair.kept.inhibits or one_membership(pair, now) or _no_death_claimed(pair, gathering):
        return pair
    why = None
    if answer is not None and answer.evidence.cluster != "down":
        why = f"{target} itself answered the arbiter"
    elif answer is None and not unheard:
        why = f"{target} was heard after the question, though its answer is missing"
    elif target in pair.left and elapsed_s(pair.heard.get(target, pair.started), now) < policy.unheard_s:
        why = f"the guard of {target} was stopped in order a moment ago: its silence is no death"
    elif target in pair.unread and elapsed_s(pair.heard.get(target, pair.started), now) < policy.unheard_s:
        why = f"the last word of {target} could not be read: it may have said that it leaves"
    elif gathering.claim.ports == "up-with-change":
        why = f"the switch ports of {target} are up while the switch shows change"
    elif site.forbids in ("storm", "storm-half-open"):
        why = "many pairs of the cell lost their peers at once"
    if why is None:
        return pair
    view = InhibitView(PEER_ALIVE, "peer-alive", gathering.candidate, why, wall)
    return keep(pair, inhibits={**pair.kept.inhibits, PEER_ALIVE: view})


def _no_death_claimed(pair: Pair, gathering: Gathering) -> bool:
    """The target yielded; or this one yielded to the target, and does not claim; or nothing runs anywhere yet (a cold
    start, where the live rows decide and each later claim for a fence makes the test anew); or the era has its winner,
    and this only gathers what nobody will ask for."""
    claim = gathering.claim
    yielded = any(g.answer is not None and g.answer.yielded for g in pair.gatherings.values())
    idle = claim.gather and (pair.kept.register.winner is not None or claim.evidence.peer_member is True)
    return yielded or (claim.cold and claim.purpose == "alone") or idle


def _refusal(
    pair: Pair, candidate: str, message: Claim | Commit, site: Site, policy: Policy, *, asks: bool = False
) -> Refused | None:
    """Inhibits and storm, at every step of a claim. A storm spares the node that was Primary when the link broke.

    `asks`: only to ask for a yield, which ends `peer-alive`. What leads to an Offer or a win is never asked so.
    """
    kept = pair.kept
    sits = sitting(kept, candidate)
    origin = message if isinstance(message, Claim) else pair.gatherings[candidate].claim
    beat = pair.beats.get(candidate)
    spared = site.forbids in ("storm", "storm-half-open") and origin.purpose == "alone" and sits
    if site.forbids is not None and not spared:
        text = f"cannot offer now: {site.forbids}"
        return Refused(message.nonce, site.forbids, text, retry_s=1.0)
    inhibit = judging.refusing(
        tuple(i for i in kept.inhibits.values() if not (asks and i.kind == "peer-alive")),
        origin.purpose,
        sitting=sits,
        cold=origin.cold,
        lost_for_s=origin.lost_for_s,
        quiet_for_s=beat.hold.quiet_for_s if beat else 0.0,
        policy=policy,
    )
    if inhibit is None:
        return None
    reason = "peer-alive" if inhibit.kind == "peer-alive" else "inhibited"
    return Refused(message.nonce, reason, f"{inhibit.owner}: {inhibit.reason}", retry_s=1.0)


def _offer(pair: Pair, gathering: Gathering, now: Instant, site: Site, policy: Policy) -> Offer:
    bundle = _bundle(pair, gathering, now)
    return Offer(
        nonce=gathering.claim.nonce,
        register=pair.kept.register.view(site.store_id),
        candidate=bundle.candidate,
        target=bundle.target,
        fresh=bundle.fresh,
        candidate_age_s=bundle.candidate_age_s,
        target_age_s=bundle.target_age_s,
        target_yielded=bundle.target_yielded,
        sitting=sitting(pair.kept, gathering.candidate),
        window_s=policy.accept_s,
    )


def _bundle(pair: Pair, gathering: Gathering, now: Instant) -> judging.Bundle:
    """Everything known about this claim: a live answer, else the stored attest if it is of the session lost."""
    kept, claim = pair.kept, gathering.claim
    stored = kept.testimony.get(kept.other(gathering.candidate))
    fresh: judging.Fresh = "stale"
    target: Evidence | None = stored.evidence if stored else None
    age: float | None = None
    if gathering.answer is not None and gathering.answered is not None:
        fresh, target, age = "live", gathering.answer.evidence, elapsed_s(gathering.answered, now)
    elif stored is not None:
        tied = (
            kept.session is not None
            and kept.session.era == kept.register.era
            and claim.evidence.session == kept.session.name
            and stored.evidence.session == kept.session.name
        )
        fresh = "silent" if tied else "stale"
        age = elapsed_s(stored.at, now) if stored.boot_id == pair.boot_id else None
    bundle = judging.Bundle(
        candidate=claim.evidence,
        candidate_age_s=elapsed_s(gathering.came, now),
        target=target,
        fresh=fresh,
        target_age_s=age,
        target_yielded=gathering.answer is not None and gathering.answer.yielded,
        preferred_is_candidate=kept.register.preferred == gathering.candidate,
    )
    if kept.register.winner is not None:
        bundle = with_attested_gate(bundle, kept.register.era, kept.session, kept.words)
    return with_last_words(bundle, kept.register.era, kept.session, kept.words) if claim.cold else bundle


def commit(pair: Pair, sender: str, message: Commit, now: Instant, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    kept = pair.kept

    def no(reason: str, text: str) -> tuple[Pair, Sends]:
        return pair, ((sender, Refused(message.nonce, reason, text, retry_s=1.0)),)

    gathering = pair.gatherings.get(sender)
    if gathering is None or gathering.claim.nonce != message.nonce or gathering.offered is None:
        return no("stale-offer", "no offer is open for this commit")
    if elapsed_s(gathering.offered, now) > policy.accept_s or gathering.claim.purpose != message.purpose:
        return no("stale-offer", "the window of the offer has passed")
    if (refusal := _refusal(pair, sender, message, site, policy)) is not None:
        return drop(pair, sender), ((sender, refusal),)
    basis = kept.register.basis or "verdict"
    bundle = _bundle(pair, gathering, now)
    if kept.register.winner is None:
        ruling = judging.rule(bundle, message.purpose, policy, cold=gathering.claim.cold)
        if ruling.next != "commit":
            return no(ruling.reason, ruling.verdict.text)
        basis = ruling.basis
    elif (doubt := judging.reconfirmed(bundle, kept.register.basis)) is not None:
        return no(*doubt)
    elif message.purpose == "fence" and (alive := judging.member(bundle)) is not None:
        return no(*alive)
    elif message.purpose == "fence" and bundle.fresh == "live" and not bundle.target_yielded:
        return no("living-target", "the target answered: it is never fenced without its yield")
    written = registers.commit(
        kept.register, version=message.version, winner=sender, purpose=message.purpose, basis=basis
    )
    if written is None:
        return no("stale-version", "the register has changed since it was read")
    last_fence = kept.last_fence
    if message.purpose == "fence":
        last_fence = FenceCommit(sender, now, pair.boot_id, None if message.unbounded else message.horizon_s)
    pair = keep(pair, register=written, last_fence=last_fence)
    pair = altered(pair, gatherings={k: g for k, g in pair.gatherings.items() if k != sender})
    return pair, ((sender, Won(message.nonce, written.era, written.version, message.purpose)),)
