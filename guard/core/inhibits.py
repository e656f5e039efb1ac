"""The inhibits of a pair at the arbiter: who may set and end one, what they cost, when evidence ends them (L2). Pure.

A person's end is never taken back, and a late copy of what was released is known and refused.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core.altered import altered
from guard.core.instant import Instant, elapsed_s
from guard.core.messages import (
    HOLDS_MAX,
    TEXT_MAX,
    BeatAck,
    InhibitStored,
    InhibitView,
    LiftInhibit,
    Message,
    Refused,
    SetInhibit,
    spelled,
)
from guard.core.pair import PEER_ALIVE, Pair, Sends, gone, keep, one_membership, without
from guard.core.policy import Policy

PERSONS_MAX = 2 * HOLDS_MAX  # persons' inhibits that are kept, standing or ended
ID_MAX = TEXT_MAX + 16  # "person:" and the key
REASON_CUT = 40  # characters of a reason that is shortened
LIFTED_MAX = 64  # released inhibits of which a late copy is known
LEASE_KEPT_S = 60.0  # how often the rest of a lease is made durable


def stand(pair: Pair, sender: str, message: SetInhibit, now: Instant, wall: float) -> tuple[Pair, Sends]:
    """Make an inhibit stand, or say why not. One without a time of its own gets the arbiter's, `wall`."""
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
    if known is not None and persons and known.since_wall == new.since_wall:
        new = replace(new, ended=known.ended or new.ended)  # a person's end is never taken back
    elif known is not None and persons and not known.ended:
        new = (
            known  # one key at both nodes at once is one hold, the first; and the end of an earlier one is not its end
        )
    inhibits = {**pair.kept.inhibits, new.id: new}
    stored = InhibitStored(message.nonce, message.inhibit.id)
    pair = altered(pair, lease_at={**pair.lease_at, new.id: now})
    return keep(pair, inhibits=inhibits), ((sender, stored),)


def lift(pair: Pair, sender: str, message: LiftInhibit) -> tuple[Pair, Sends]:
    """Take an inhibit away that its owner has ended. Those that end by evidence stay."""
    found = pair.kept.inhibits.get(message.id)
    if found is not None and found.kind in ("peer-alive", "storm"):
        return pair, ((sender, Refused(message.nonce, "not-yours", "this inhibit ends by evidence only")),)
    if found is not None and not found.ended:  # a lift that was overtaken by the next disturbance
        return pair, ((sender, Refused(message.nonce, "not-ended", "this inhibit has not ended yet")),)
    if found is not None and found.kind in ("person", "change"):
        pair = _lifted(pair, found)
    return without(pair, message.id), ((sender, InhibitStored(message.nonce, message.id)),)


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
    return None if oldest is None else without(_lifted(pair, oldest), oldest.id)


def _lifted(pair: Pair, persons: InhibitView) -> Pair:
    """A late copy of it will be known."""
    return keep(pair, lifted=(*pair.kept.lifted, (persons.id, persons.since_wall))[-LIFTED_MAX:])


def count_leases(pair: Pair, now: Instant) -> Pair:
    """Keep the rest of a lease once a minute, and when it has run out: it ends nothing here, people are told."""
    if not any(view.lease_s for view in pair.kept.inhibits.values()):
        return pair
    counted = {view.id: view for view in shown_inhibits(pair, now)}
    due = {
        name: counted[name]
        for name, kept in pair.kept.inhibits.items()
        if (kept.lease_s or 0.0) - (counted[name].lease_s or 0.0) >= min(LEASE_KEPT_S, kept.lease_s or LEASE_KEPT_S)
    }
    if not due:
        return pair
    pair = altered(pair, lease_at={**pair.lease_at, **dict.fromkeys(due, now)})
    return keep(pair, inhibits={**pair.kept.inhibits, **due})


def end_inhibits(pair: Pair, now: Instant, policy: Policy) -> Pair:
    """Holds end by evidence (L2): a peer-alive, and what a dead guard can no longer lift itself."""
    for inhibit in tuple(pair.kept.inhibits.values()):
        if inhibit.kind == "peer-alive":
            if one_membership(pair, now) or any(gone(pair, node, now, policy) for node in pair.kept.nodes):
                pair = without(pair, inhibit.id)
        elif inhibit.kind in ("disturbance", "redundancy") and inhibit.owner in pair.kept.nodes:
            survivor = pair.kept.other(inhibit.owner)
            beat = pair.beats.get(survivor)
            quiet = beat is not None and beat.hold.quiet_for_s >= policy.settle_s
            if not inhibit.ended and quiet and gone(pair, inhibit.owner, now, policy):
                inhibits = {**pair.kept.inhibits, inhibit.id: replace(inhibit, ended=True)}
                pair = keep(pair, inhibits=inhibits)
    return pair
