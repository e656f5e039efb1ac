"""The arbiter's side of one pair: what it keeps, what it hears, what it answers. Pure; the witness obeys.

1. What is durable (`Kept`) is on disk before any message that depends on it leaves (S6).
2. Offers are volatile: after a restart a Commit finds none and gets `stale-offer`.
3. The first test on gathered evidence: does anything contradict a death? Then it is the network (`peer-alive`).
4. Where the register has no winner, the arbiter's own verdict on what it gathered must agree before it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from guard.core import claim as judging
from guard.core.altered import altered
from guard.core.attest import Session, Testimony, attested, was_primary
from guard.core.instant import Instant, elapsed_s
from guard.core.lastwords import with_attested_gate, with_last_words
from guard.core.messages import (
    HOLDS_MAX,
    TEXT_MAX,
    Answer,
    Ask,
    AskNonce,
    Attest,
    Beat,
    BeatAck,
    Bye,
    Claim,
    Closed,
    CloseEra,
    Commit,
    Evidence,
    InhibitStored,
    InhibitView,
    Init,
    LiftInhibit,
    Message,
    NonceIs,
    Offer,
    Refused,
    SetInhibit,
    Won,
    spelled,
)
from guard.core.policy import Policy
from guard.core.register import Register, commit, end_era

PEER_ALIVE = "peer-alive"
PERSONS_MAX = 2 * HOLDS_MAX  # persons' inhibits that are kept, standing or ended
ID_MAX = TEXT_MAX + 16  # "person:" and the key
REASON_CUT = 40  # characters of a reason that is shortened
LIFTED_MAX = 64  # released inhibits of which a late copy is known
LEASE_KEPT_S = 60.0  # how often the rest of a lease is made durable
BYE_STRAGGLERS_S = 1.0  # what was sent before a bye may come this much after it
OVERTAKEN_S_MAX = 5.0  # no node boots and has its guard up within this


@dataclass(frozen=True, slots=True)
class FenceCommit:
    """The last Commit for `fence`: a person who decides otherwise waits T_fire + T_shot + H from it."""

    by: str
    at: Instant
    boot_id: str
    horizon_s: float | None  # None = unbounded


@dataclass(frozen=True, slots=True)
class Kept:
    """The durable part of a pair."""

    pair: str
    nodes: tuple[str, str]
    cell: str
    register: Register
    testimony: Mapping[str, Testimony] = field(default_factory=dict)
    session: Session | None = None
    inhibits: Mapping[str, InhibitView] = field(default_factory=dict)
    last_fence: FenceCommit | None = None
    lifted: tuple[tuple[str, float], ...] = ()  # persons' inhibits that were released: (id, since), newest last
    words: Mapping[str, Testimony] = field(default_factory=dict)  # each node's last in `session`, of the boot it was in
    refused_nonces: tuple[str, ...] = ()  # yielded-to claims that were closed without a winner, newest last

    def other(self, node: str) -> str:
        return self.nodes[1] if node == self.nodes[0] else self.nodes[0]


@dataclass(frozen=True, slots=True)
class Gathering:
    """One open claim. `offered` None: still gathering."""

    claim: Claim
    candidate: str
    started: Instant  # T_corr counts from here: an earlier gathering of the same candidate counts
    came: Instant  # the claim: what it states is as old as that
    asked: Instant
    waits_for_target: bool  # it was heard shortly before, so it gets `answer_s`
    answer: Answer | None = None
    answered: Instant | None = None
    offered: Instant | None = None
    version: int = 0
    refused: bool = False


@dataclass(frozen=True)  # no slots: it is `altered` with every message
class Pair:
    """Everything the arbiter knows of a pair; only `kept` survives it."""

    kept: Kept
    started: Instant
    boot_id: str
    heard: Mapping[str, Instant] = field(default_factory=dict)
    steady_since: Mapping[str, Instant] = field(default_factory=dict)  # heard without a gap since
    beats: Mapping[str, Beat] = field(default_factory=dict)
    beat_at: Mapping[str, Instant] = field(default_factory=dict)  # when that beat came
    gatherings: Mapping[str, Gathering] = field(default_factory=dict)  # by candidate
    unread: frozenset[str] = frozenset()  # nodes whose last word could not be read
    left: frozenset[str] = frozenset()  # guards that said bye
    left_at: Mapping[str, Instant] = field(default_factory=dict)  # and when
    lease_at: Mapping[str, Instant] = field(default_factory=dict)  # when an inhibit's `lease_s` was what `kept` says


@dataclass(frozen=True, slots=True)
class Site:
    """What the pair must know of its site at this moment. `store_id` names the memory that answers."""

    store_id: str
    forbids: str | None = None  # storm.forbids of the pair's cell


Sends = tuple[tuple[str, Message], ...]


def made(message: Init, pair: str, now: Instant, boot_id: str) -> Pair:
    """The pair as `pairguard init` makes it. The caller has checked that it has no register yet."""
    register = Register.made(message.preferred)
    return Pair(Kept(pair, message.nodes, message.cell, register), now, boot_id)


def unknown_ack(beat: Beat) -> BeatAck:
    """What a node without a register is told: `pairguard init` was never run for it."""
    return BeatAck(beat.seq, None, None, (), None, None, None, outdate=False)


def hear(
    pair: Pair,
    sender: str,
    message: Message,
    now: Instant,
    wall: float,
    site: Site,
    policy: Policy,
    came: Instant | None = None,
) -> tuple[Pair, Sends]:
    """One authentic message from one of the pair's two guards. `came`: when, if it had to wait until now.

    What is stated is as old as that. That its sender lives counts as of now, and so does a window that opens: behind a
    queue the words of the living are late too, and only now anybody is asked.
    """
    came = now if came is None else came
    if isinstance(message, Beat) and _overtaken(pair, sender, message, came):
        return pair, ()
    pair = _heard(pair, sender, now, policy)
    match message:
        case Beat():
            return _beat(pair, sender, message, now, came, site, policy)
        case Attest():
            return _attest(pair, sender, message, came), ()
        case Claim():
            return _claim(pair, sender, message, now, came, wall, site, policy)
        case Answer():
            return _answer(pair, sender, message, now, came, wall, site, policy)
        case Commit():
            return _commit(pair, sender, message, now, site, policy)
        case CloseEra():
            return _close(pair, sender, message, now, site, policy)
        case AskNonce():
            return _ask_nonce(pair, sender, message)
        case SetInhibit():
            if message.inhibit.kind in ("peer-alive", "storm") or message.inhibit.id == PEER_ALIVE:
                return pair, ((sender, Refused(message.nonce, "not-yours", "only the arbiter sets this inhibit")),)
            known, new = pair.kept.inhibits.get(message.inhibit.id), message.inhibit
            persons = new.kind in ("person", "change")
            if persons and (new.id, new.since_wall) in pair.kept.lifted:  # a late copy of what was released
                return pair, ((sender, Refused(message.nonce, "lifted", "this very inhibit was released")),)
            if known is None and spelled(new.id) > ID_MAX:
                return pair, ((sender, Refused(message.nonce, "too-long", "the name of this inhibit is too long")),)
            if persons and known is None:
                room = _with_room(pair)
                if room is None:
                    text = f"{PERSONS_MAX} holds stand on this pair already: release them"
                    return pair, ((sender, Refused(message.nonce, "too-many-holds", text)),)
                pair = room
            if new.since_wall == 0.0:  # a guard's core reads no wall clock: people get the arbiter's
                standing = known is not None and not known.ended and known.since_wall > 0.0
                new = replace(new, since_wall=known.since_wall if known is not None and standing else wall)
            if known is not None and known.ended and persons and known.since_wall == new.since_wall:
                new = replace(new, ended=True)  # a person's end is never taken back
            inhibits = {**pair.kept.inhibits, new.id: new}
            stored = InhibitStored(message.nonce, message.inhibit.id)
            pair = altered(pair, lease_at={**pair.lease_at, new.id: now})
            return _keep(pair, inhibits=inhibits), ((sender, stored),)
        case LiftInhibit():
            found = pair.kept.inhibits.get(message.id)
            if found is not None and found.kind in ("peer-alive", "storm"):
                return pair, ((sender, Refused(message.nonce, "not-yours", "this inhibit ends by evidence only")),)
            if found is not None and not found.ended:  # a lift that was overtaken by the next disturbance
                return pair, ((sender, Refused(message.nonce, "not-ended", "this inhibit has not ended yet")),)
            if found is not None and found.kind in ("person", "change"):
                pair = _lifted(pair, found)
            return _without(pair, message.id), ((sender, InhibitStored(message.nonce, message.id)),)
        case Bye():
            return altered(pair, left=pair.left | {sender}, left_at={**pair.left_at, sender: now}), ()
        case _:
            return pair, ()


def heard_unread(pair: Pair, sender: str, now: Instant, policy: Policy) -> Pair:
    """An authentic word that nobody here can read: its sender lives. What it stated before is no news by that."""
    return altered(_heard(pair, sender, now, policy), unread=pair.unread | {sender})


def tick(pair: Pair, now: Instant, wall: float, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    """Let time pass: answer gatherings that have waited long enough, close old offers, end what has ended."""
    pair = _end_inhibits(_count_leases(pair, now), now, policy)
    sends: Sends = ()
    for candidate in tuple(pair.gatherings):
        pair, more = _progress(pair, candidate, now, wall, site, policy)
        sends += more
    return pair, sends


# ------------------------------------------------------------------ hearing


def _heard(pair: Pair, sender: str, now: Instant, policy: Policy) -> Pair:
    last = pair.heard.get(sender)
    steady = pair.steady_since
    if last is None or elapsed_s(last, now) > policy.heard_s:
        steady = {**steady, sender: now}
    left_at = pair.left_at.get(sender)
    straggler = left_at is not None and elapsed_s(left_at, now) <= BYE_STRAGGLERS_S
    left = pair.left if straggler else pair.left - {sender}
    heard, unread = {**pair.heard, sender: now}, pair.unread - {sender}
    return altered(pair, heard=heard, steady_since=steady, left=left, unread=unread)


def _overtaken(pair: Pair, sender: str, beat: Beat, now: Instant) -> bool:
    """A beat from before the last one says nothing about now. After a while it is another boot that counts anew."""
    known, last = pair.beats.get(sender), pair.beat_at.get(sender)
    recent = last is not None and elapsed_s(last, now) <= OVERTAKEN_S_MAX
    return known is not None and recent and beat.seq <= known.seq


def _beat(
    pair: Pair, sender: str, beat: Beat, now: Instant, came: Instant, site: Site, policy: Policy
) -> tuple[Pair, Sends]:
    pair = altered(pair, beats={**pair.beats, sender: beat}, beat_at={**pair.beat_at, sender: came})
    kept, peer = pair.kept, pair.kept.other(sender)
    if PEER_ALIVE in kept.inhibits and _one_membership(pair, now):
        pair = _without(pair, PEER_ALIVE)
    peer_beat, peer_heard = stated(pair, peer, policy), pair.heard.get(peer)
    register = pair.kept.register
    ack = BeatAck(
        seq=beat.seq,
        register=register.view(site.store_id),
        attested=kept.session.name if kept.session and kept.session.era == register.era else None,
        inhibits=shown_inhibits(pair, now),
        peer_heard_s=None if peer_heard is None else elapsed_s(peer_heard, now),
        peer_hold=peer_beat.hold if peer_beat else None,
        peer_session=peer_beat.session if peer_beat and peer_beat.connected else None,
        outdate=register.winner == peer and "alone" in register.used,
    )
    return pair, ((sender, ack),)


def _attest(pair: Pair, sender: str, message: Attest, now: Instant) -> Pair:
    kept = pair.kept
    old = kept.testimony.get(sender)
    stale = old is not None and old.evidence.boot_id == message.evidence.boot_id and message.seq <= old.seq
    if stale or message.evidence.node != sender:
        return pair
    said = Testimony(message.evidence, message.seq, now, pair.boot_id)
    testimony = {**kept.testimony, sender: said}
    session, words = kept.session, kept.words
    other = testimony.get(kept.other(sender))
    if other is not None and attested(message.evidence, other.evidence, kept.register.era):
        primaries = tuple(n for n in kept.nodes if was_primary(testimony[n].evidence))
        boots = {name: testimony[name].evidence.boot_id for name in kept.nodes}
        session, words = Session(message.evidence.session or "", kept.register.era, primaries, boots), testimony
    elif session is not None and (said.evidence.session, said.evidence.boot_id) == (
        session.name,
        session.boots.get(sender),
    ):
        words = {**words, sender: said}
    return _keep(pair, testimony=testimony, session=session, words=words)


def _claim(
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
    pair = _drop(pair, sender)
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
    pair, sends = _progress(pair, sender, now, wall, site, policy)
    return pair, ((target, ask), *sends)


def _answer(
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
        pair = _without(pair, PEER_ALIVE)
    return _progress(pair, candidate, now, wall, site, policy)


# ------------------------------------------------------------------ gathering and offering


def _progress(pair: Pair, candidate: str, now: Instant, wall: float, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    gathering = pair.gatherings[candidate]
    if gathering.offered is not None:
        if elapsed_s(gathering.offered, now) > policy.accept_s:
            return _drop(pair, candidate), ()
        return pair, ()
    if not _complete(gathering, now, policy):
        return pair, ()
    if not gathering.claim.gather or elapsed_s(gathering.asked, now) <= policy.heard_s:  # old words are no news
        pair = _contradicted(pair, gathering, now, wall, site, policy)
    if gathering.claim.gather:
        # Kept for its start time only: the claim that follows gets the credit, and asks the target once more.
        return (_drop(pair, candidate) if elapsed_s(gathering.started, now) > policy.unheard_s else pair), ()
    if (refusal := _refusal(pair, candidate, gathering.claim, site, policy)) is not None:
        return _drop(pair, candidate), ((candidate, refusal),)
    if (early := _too_early(pair, gathering, now, policy)) is not None:
        return _drop(pair, candidate), ((candidate, early),)
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
        return _without(pair, PEER_ALIVE)
    if PEER_ALIVE in pair.kept.inhibits or _one_membership(pair, now) or _no_death_claimed(pair, gathering):
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
    return _keep(pair, inhibits={**pair.kept.inhibits, PEER_ALIVE: view})


def _no_death_claimed(pair: Pair, gathering: Gathering) -> bool:
    """The target yielded; or this one yielded to the target, and does not claim; or nothing runs anywhere yet (a cold
    start, where the live rows decide and each later claim for a fence makes the test anew); or the era has its winner,
    and this only gathers what nobody will ask for."""
    claim = gathering.claim
    yielded = any(g.answer is not None and g.answer.yielded for g in pair.gatherings.values())
    return (
        yielded or (claim.cold and claim.purpose == "alone") or (claim.gather and pair.kept.register.winner is not None)
    )


def _refusal(
    pair: Pair, candidate: str, message: Claim | Commit, site: Site, policy: Policy, *, asks: bool = False
) -> Refused | None:
    """Inhibits and storm, at every step of a claim. A storm spares the node that was Primary when the link broke.

    `asks`: only to ask for a yield, which ends `peer-alive`. What leads to an Offer or a win is never asked so.
    """
    kept = pair.kept
    sitting = _sitting(kept, candidate)
    origin = message if isinstance(message, Claim) else pair.gatherings[candidate].claim
    beat = pair.beats.get(candidate)
    spared = site.forbids in ("storm", "storm-half-open") and origin.purpose == "alone" and sitting
    if site.forbids is not None and not spared:
        text = f"cannot offer now: {site.forbids}"
        return Refused(message.nonce, site.forbids, text, retry_s=1.0)
    inhibit = judging.refusing(
        tuple(i for i in kept.inhibits.values() if not (asks and i.kind == "peer-alive")),
        origin.purpose,
        sitting=sitting,
        cold=origin.cold,
        lost_for_s=origin.lost_for_s,
        quiet_for_s=beat.hold.quiet_for_s if beat else 0.0,
        policy=policy,
    )
    if inhibit is None:
        return None
    reason = "peer-alive" if inhibit.kind == "peer-alive" else "inhibited"
    return Refused(message.nonce, reason, f"{inhibit.owner}: {inhibit.reason}", retry_s=1.0)


def _sitting(kept: Kept, node: str) -> bool:
    session = kept.session
    return session is not None and session.era == kept.register.era and session.primaries == (node,)


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
        sitting=_sitting(pair.kept, gathering.candidate),
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


# ------------------------------------------------------------------ committing and closing


def _commit(pair: Pair, sender: str, message: Commit, now: Instant, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    kept = pair.kept

    def no(reason: str, text: str) -> tuple[Pair, Sends]:
        return pair, ((sender, Refused(message.nonce, reason, text, retry_s=1.0)),)

    gathering = pair.gatherings.get(sender)
    if gathering is None or gathering.claim.nonce != message.nonce or gathering.offered is None:
        return no("stale-offer", "no offer is open for this commit")
    if elapsed_s(gathering.offered, now) > policy.accept_s or gathering.claim.purpose != message.purpose:
        return no("stale-offer", "the window of the offer has passed")
    if (refusal := _refusal(pair, sender, message, site, policy)) is not None:
        return _drop(pair, sender), ((sender, refusal),)
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
    written = commit(kept.register, version=message.version, winner=sender, purpose=message.purpose, basis=basis)
    if written is None:
        return no("stale-version", "the register has changed since it was read")
    last_fence = kept.last_fence
    if message.purpose == "fence":
        last_fence = FenceCommit(sender, now, pair.boot_id, None if message.unbounded else message.horizon_s)
    pair = _keep(pair, register=written, last_fence=last_fence)
    pair = altered(pair, gatherings={k: g for k, g in pair.gatherings.items() if k != sender})
    return pair, ((sender, Won(message.nonce, written.era, written.version, message.purpose)),)


def _close(pair: Pair, sender: str, message: CloseEra, now: Instant, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    kept = pair.kept
    hand_back = message.how == "hand-back"

    def no(reason: str, text: str) -> tuple[Pair, Sends]:
        return pair, ((sender, Refused(message.nonce, reason, text, retry_s=1.0)),)

    if hand_back:
        if not _recently(pair, kept.other(sender), now, policy):
            return no("peer-not-heard", "a win is handed back only to a living peer")
    elif not _stands(pair, message.session, now, policy):
        return no("not-whole", "both guards must name the same standing session")
    written = end_era(kept.register, version=message.version, by=sender, hand_back=hand_back)
    if written is None:
        return no("stale-version", "the register has changed since it was read, or is not yours")
    session = kept.session
    if hand_back and session is not None and session.era == kept.register.era:
        session = replace(session, era=written.era)  # the attested session stays attested
    pair = altered(_keep(pair, register=written, session=session), gatherings={})  # gathered in the era that ended
    return pair, ((sender, Closed(message.nonce, written.view(site.store_id))),)


def _stands(pair: Pair, session: str | None, now: Instant, policy: Policy) -> bool:
    """K4 as the arbiter sees it: both guards are heard and name `session`, connected and whole."""
    return session is not None and all(
        _recently(pair, node, now, policy)
        and (beat := pair.beats.get(node)) is not None
        and beat.session == session
        and beat.connected
        and beat.whole is True
        for node in pair.kept.nodes
    )


def _ask_nonce(pair: Pair, sender: str, message: AskNonce) -> tuple[Pair, Sends]:
    """What became of a claim that was yielded to. Once it reads closed, no Commit of it can ever be taken."""
    kept = pair.kept
    open_now = any(g.claim.nonce == message.about for g in pair.gatherings.values())
    register = kept.register
    if register.era != message.era:
        state = NonceIs(message.nonce, message.about, "era-closed")
    elif register.winner is not None:
        state = NonceIs(message.nonce, message.about, "winner-you" if register.winner == sender else "winner-peer")
    elif open_now:
        state = NonceIs(message.nonce, message.about, "open")
    else:
        state = NonceIs(message.nonce, message.about, "closed-without-winner")
        if message.about not in kept.refused_nonces:
            pair = _keep(pair, refused_nonces=(*kept.refused_nonces, message.about)[-32:])
    return pair, ((sender, state),)


# ------------------------------------------------------------------ inhibits


def shown_inhibits(pair: Pair, now: Instant) -> tuple[InhibitView, ...]:
    """Every inhibit, with the rest of its lease as it is now: so each guard knows it, also if the opener's is gone."""

    def left(view: InhibitView) -> InhibitView:
        if view.lease_s is None or view.ended:
            return view
        since = pair.lease_at.get(view.id, pair.started)  # what a restart took is not counted
        return replace(view, lease_s=max(view.lease_s - elapsed_s(since, now), 0.0))

    return tuple([left(view) for view in pair.kept.inhibits.values()])


def shortened(message: Message) -> Message:
    """The same with its reasons cut, for a message that is too large: an answer that does not arrive is no answer."""
    if not isinstance(message, BeatAck):
        return message
    return replace(message, inhibits=tuple(replace(i, reason=i.reason[:REASON_CUT]) for i in message.inhibits))


def _with_room(pair: Pair) -> Pair | None:
    """Room for one more inhibit of a person: of too many the oldest that has ended counts as lifted. None: none has."""
    persons = [i for i in pair.kept.inhibits.values() if i.kind in ("person", "change")]
    if len(persons) < PERSONS_MAX:
        return pair
    oldest = min((i for i in persons if i.ended), key=lambda i: i.since_wall, default=None)
    return None if oldest is None else _without(_lifted(pair, oldest), oldest.id)


def _lifted(pair: Pair, persons: InhibitView) -> Pair:
    """A late copy of it will be known."""
    return _keep(pair, lifted=(*pair.kept.lifted, (persons.id, persons.since_wall))[-LIFTED_MAX:])


def _count_leases(pair: Pair, now: Instant) -> Pair:
    """Keep the rest of a lease once a minute, and when it has run out: it ends nothing here, people are told."""
    counted = {view.id: view for view in shown_inhibits(pair, now)}
    due = {
        name: counted[name]
        for name, kept in pair.kept.inhibits.items()
        if (kept.lease_s or 0.0) - (counted[name].lease_s or 0.0) >= min(LEASE_KEPT_S, kept.lease_s or LEASE_KEPT_S)
    }
    if not due:
        return pair
    pair = altered(pair, lease_at={**pair.lease_at, **dict.fromkeys(due, now)})
    return _keep(pair, inhibits={**pair.kept.inhibits, **due})


def _end_inhibits(pair: Pair, now: Instant, policy: Policy) -> Pair:
    """Holds end by evidence (L2): a peer-alive, and what a dead guard can no longer lift itself."""
    for inhibit in tuple(pair.kept.inhibits.values()):
        if inhibit.kind == "peer-alive":
            if _one_membership(pair, now) or any(_gone(pair, node, now, policy) for node in pair.kept.nodes):
                pair = _without(pair, inhibit.id)
        elif inhibit.kind in ("disturbance", "redundancy") and inhibit.owner in pair.kept.nodes:
            survivor = pair.kept.other(inhibit.owner)
            beat = pair.beats.get(survivor)
            quiet = beat is not None and beat.hold.quiet_for_s >= policy.settle_s
            if not inhibit.ended and quiet and _gone(pair, inhibit.owner, now, policy):
                inhibits = {**pair.kept.inhibits, inhibit.id: replace(inhibit, ended=True)}
                pair = _keep(pair, inhibits=inhibits)
    return pair


def _gone(pair: Pair, node: str, now: Instant, policy: Policy) -> bool:
    """`node` was unheard for 30 s while the arbiter was up and heard the other throughout, and nothing contradicts."""
    other = pair.kept.other(node)
    steady, last = pair.steady_since.get(other), pair.heard.get(node)
    since = max(pair.started, last if last is not None else pair.started)
    if steady is None or elapsed_s(since, now) < policy.unheard_s or elapsed_s(steady, now) < policy.unheard_s:
        return False
    gathering = pair.gatherings.get(other)
    return _recently(pair, other, now, policy) and (gathering is None or gathering.claim.ports != "up-with-change")


def _one_membership(pair: Pair, now: Instant) -> bool:
    """Both guards, by beats of the last 2 s and not stopped since, say that the other is a member of their cluster."""
    return all(
        node not in pair.left
        and (last := pair.beat_at.get(node)) is not None
        and elapsed_s(last, now) <= 2.0
        and (beat := pair.beats.get(node)) is not None
        and beat.peer_member is True
        for node in pair.kept.nodes
    )


def stated(pair: Pair, node: str, policy: Policy) -> Beat | None:
    """A node's last beat; None if it was heard for 2 s since without one: what it states now cannot be read."""
    at, heard = pair.beat_at.get(node), pair.heard.get(node)
    if at is None or heard is None or elapsed_s(at, heard) > policy.heard_s:
        return None
    return pair.beats.get(node)


def _recently(pair: Pair, node: str, now: Instant, policy: Policy) -> bool:
    """Its guard beats, and can be read."""
    last = pair.beat_at.get(node)
    return last is not None and elapsed_s(last, now) <= policy.heard_s


def _without(pair: Pair, inhibit_id: str) -> Pair:
    if inhibit_id not in pair.kept.inhibits:
        return pair
    return _keep(pair, inhibits={k: v for k, v in pair.kept.inhibits.items() if k != inhibit_id})


def _drop(pair: Pair, candidate: str) -> Pair:
    """End a gathering or an offer. A Commit of its nonce finds nothing from now on."""
    if candidate not in pair.gatherings:
        return pair
    return altered(pair, gatherings={k: g for k, g in pair.gatherings.items() if k != candidate})


def _keep(pair: Pair, **changed: object) -> Pair:
    return altered(pair, kept=replace(pair.kept, **changed))  # type: ignore[arg-type]  # names are Kept's own fields
