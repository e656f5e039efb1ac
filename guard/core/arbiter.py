"""The arbiter's side of one pair: what it hears and answers, and how an era ends. Pure; the witness obeys.

What it knows is in `pair`, its side of a claim in `gathering`, what forbids a claim in `inhibits`.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core import gathering, inhibits
from guard.core.altered import altered
from guard.core.attest import Session, Testimony, attested, was_primary
from guard.core.instant import Instant, elapsed_s
from guard.core.messages import (
    Answer,
    AskNonce,
    Attest,
    Beat,
    BeatAck,
    Bye,
    Claim,
    Closed,
    CloseEra,
    Commit,
    Init,
    LiftInhibit,
    Message,
    NonceIs,
    Refused,
    SetInhibit,
)
from guard.core.pair import (
    BYE_STRAGGLERS_S,
    PEER_ALIVE,
    Kept,
    Pair,
    Sends,
    Site,
    keep,
    one_membership,
    recently,
    stated,
    without,
)
from guard.core.policy import Policy
from guard.core.register import Register, end_era

OVERTAKEN_S_MAX = 5.0  # no node boots and has its guard up within this


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
            return gathering.claim(pair, sender, message, now, came, wall, site, policy)
        case Answer():
            return gathering.answer(pair, sender, message, now, came, wall, site, policy)
        case Commit():
            return gathering.commit(pair, sender, message, now, site, policy)
        case CloseEra():
            return _close(pair, sender, message, now, site, policy)
        case AskNonce():
            return _ask_nonce(pair, sender, message)
        case SetInhibit():
            return inhibits.stand(pair, sender, message, now, wall)
        case LiftInhibit():
            return inhibits.lift(pair, sender, message)
        case Bye():
            return altered(pair, left=pair.left | {sender}, left_at={**pair.left_at, sender: now}), ()
        case _:
            return pair, ()


def heard_unread(pair: Pair, sender: str, now: Instant, policy: Policy) -> Pair:
    """An authentic word that nobody here can read: its sender lives. What it stated before is no news by that."""
    return altered(_heard(pair, sender, now, policy), unread=pair.unread | {sender})


def tick(pair: Pair, now: Instant, wall: float, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    """Let time pass: answer gatherings that have waited long enough, close old offers, end what has ended."""
    pair = inhibits.end_inhibits(inhibits.count_leases(pair, now), now, policy)
    sends: Sends = ()
    for candidate in tuple(pair.gatherings):
        pair, more = gathering.progress(pair, candidate, now, wall, site, policy)
        sends += more
    return pair, sends


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
    if PEER_ALIVE in kept.inhibits and one_membership(pair, now):
        pair = without(pair, PEER_ALIVE)
    peer_beat, peer_heard = stated(pair, peer, policy), pair.heard.get(peer)
    register = pair.kept.register
    ack = BeatAck(
        seq=beat.seq,
        register=register.view(site.store_id),
        attested=kept.session.name if kept.session and kept.session.era == register.era else None,
        inhibits=inhibits.shown_inhibits(pair, now),
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
    return keep(pair, testimony=testimony, session=session, words=words)


def _close(pair: Pair, sender: str, message: CloseEra, now: Instant, site: Site, policy: Policy) -> tuple[Pair, Sends]:
    kept = pair.kept
    hand_back = message.how == "hand-back"

    def no(reason: str, text: str) -> tuple[Pair, Sends]:
        return pair, ((sender, Refused(message.nonce, reason, text, retry_s=1.0)),)

    if hand_back:
        if not recently(pair, kept.other(sender), now, policy):
            return no("peer-not-heard", "a win is handed back only to a living peer")
    elif not _stands(pair, message.session, now, policy):
        return no("not-whole", "both guards must name the same standing session")
    written = end_era(kept.register, version=message.version, by=sender, hand_back=hand_back)
    if written is None:
        return no("stale-version", "the register has changed since it was read, or is not yours")
    session = kept.session
    if hand_back and session is not None and session.era == kept.register.era:
        session = replace(session, era=written.era)  # the attested session stays attested
    pair = altered(keep(pair, register=written, session=session), gatherings={})  # gathered in the era that ended
    return pair, ((sender, Closed(message.nonce, written.view(site.store_id))),)


def _stands(pair: Pair, session: str | None, now: Instant, policy: Policy) -> bool:
    """K4 as the arbiter sees it: both guards are heard and name `session`, connected and whole."""
    return session is not None and all(
        recently(pair, node, now, policy)
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
            pair = keep(pair, refused_nonces=(*kept.refused_nonces, message.about)[-32:])
    return pair, ((sender, state),)
