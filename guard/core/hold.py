"""The hold: nothing fires while the network changes, and it ends by evidence, never because a timer fired.

1. *braked* is local, durable and immediate; it alone must keep this node from firing (section 6).
2. *held* needs the arbiter, both guards and the cluster's own scheduler on both views.
3. The guard takes back only what it set itself (S7).
4. An inhibit that has ended waits for the release: only whole, quiet, nothing pending and a harmless forecast
   end a hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from guard.core.evidence import Sign, SignKind, Up
from guard.core.instant import Instant, elapsed_s
from guard.core.messages import HOLDS_MAX, HoldStatement, InhibitView, LiftInhibit, Refused, SetInhibit
from guard.core.step import (
    AnswerPerson,
    AskForecast,
    AskRelease,
    ClearHold,
    HoldWritten,
    OpenHold,
    PurgeShot,
    SetHold,
)
from guard.core.turn import Guard, Turn, arbiter_up, braked, connected, inhibits, undrained, unfit, whole

Stage = Literal["none", "braked", "in-force", "held", "settling", "releasing"]
LEASE_SLACK_S = 15.0  # the guard counts a lease down in steps of 10 s, the arbiter all the time
LEFT_OVER_S = 5.0  # our property with nobody holding: looked at this often, and not right after a release
FORECAST_S_MAX = 6.0  # an older forecast proves nothing about now


def disturbance_id(node: str) -> str:
    return f"disturbance:{node}"


def hold_id(guard: Guard) -> str:
    """What stands beside the property in the cluster. The same on both nodes: either may take it back."""
    return "pairguard:" + "+".join(sorted((guard.me, guard.peer)))


def statement(turn: Turn) -> HoldStatement:
    """This guard's own side of the hold, sent with every beat."""
    guard = turn.guard
    no_fence = guard.right is None or guard.right.purpose != "fence"
    busy = bool(guard.agents) and any(job.stage in ("armed", "firing") for job in guard.agents)
    return HoldStatement(
        inhibits=tuple([_name(i) for i in guard.ack.inhibits]) if guard.ack is not None else (),
        maintenance=guard.cluster.maintenance if guard.cluster is not None else None,
        no_fence_right=no_fence and not busy and (guard.attempt is None or guard.attempt.purpose != "fence"),
        drained=not undrained(guard, turn.now),
        harmless=_fresh(turn, without_hold=False),
        release_harmless=_fresh(turn, without_hold=True),
        pending_shots=len(guard.cluster.pending) if guard.cluster is not None else None,
        quiet_for_s=guard.network.quiet_for_s(turn.now),
        whole=whole(guard),
        unfit=unfit(turn),
    )


def _name(listed: InhibitView) -> str:
    """An inhibit as the arbiter lists it: a later one of the same id is another, and what was said of this one says
    nothing of that. The moment is the arbiter's own."""
    return f"{listed.id}@{listed.since_wall!r}"


def _fresh(turn: Turn, *, without_hold: bool) -> bool | None:
    found = turn.guard.forecasts.get(without_hold)
    if found is None or elapsed_s(found[1], turn.now) > FORECAST_S_MAX or found[0].error is not None:
        return None
    forecast = found[0]
    return forecast.harmless() if without_hold else not forecast.fences


def stage(guard: Guard, turn: Turn) -> Stage:
    """Where the hold is, for people and for `change open`."""
    if not braked(guard):
        return "none"
    found = inhibits(guard)
    if found and all(i.ended for i in found):
        return "settling"
    if guard.memory.holding and not found:
        return "releasing"
    if guard.cluster is None or guard.cluster.maintenance is not True:
        return "braked"
    return "held" if held(turn) else "in-force"


def held(turn: Turn) -> bool:
    """Law 2, with everything read back now: as old as the arbiter's last answer, so the other guard may have released
    since. What a person asked for here is therefore held only once both guards name that very inhibit: until the other
    one knows it, it may be about to release what stood before."""
    guard, ack = turn.guard, turn.guard.ack
    if ack is None or not arbiter_up(guard, turn.now) or ack.peer_hold is None or ack.peer_heard_s is None:
        return False
    if ack.peer_heard_s > guard.policy.heard_s or not ack.inhibits:
        return False
    stored = {_name(i) for i in ack.inhibits}
    listed = {i.id: _name(i) for i in ack.inhibits}
    standing = [i.id for i in guard.memory.inhibits.values() if i.kind in ("person", "change") and not i.ended]
    asked = {listed.get(inhibit, "") for inhibit in standing}
    return all(
        bool(stored & set(side.inhibits))
        and asked <= set(side.inhibits)
        and side.maintenance is True
        and side.no_fence_right
        and side.drained
        and side.harmless is True
        for side in (statement(turn), ack.peer_hold)
    )


# ------------------------------------------------------------------ opening


def brake_for_network(turn: Turn, signs: Sequence[Sign]) -> None:
    """A new sign of network change brakes at once: durable here, the property and the arbiter right behind it."""
    guard = turn.guard
    own = guard.memory.inhibits.get(disturbance_id(guard.me))
    reason = "; ".join(f"{s.source}: {s.text}" for s in signs[:3])
    kinds = [s.kind.value for s in signs]
    if own is not None and not own.ended:
        turn.note("disturbance", f"the network is still changing: {reason}", signs=kinds)
        return
    _set(turn, InhibitView(disturbance_id(guard.me), "disturbance", guard.me, reason, 0.0))
    turn.note("braked", f"the network is changing: {reason}", signs=kinds)
    turn.soon("set-hold")


def calm(turn: Turn) -> None:
    """The own disturbance has ended by its own evidence: nothing stands and all was quiet for the settle time."""
    guard = turn.guard
    if not guard.memory.inhibits:
        return
    own = guard.memory.inhibits.get(disturbance_id(guard.me))
    if own is not None and not own.ended and guard.network.quiet_for_s(turn.now) >= guard.policy.settle_s:
        _set(turn, replace(own, ended=True))
        turn.note("disturbance-over", "the network has been quiet for the settle time")


def open_by_person(turn: Turn, event: OpenHold) -> None:
    """`pairguard hold`. The same key again is the same hold, at whichever node it was opened; for another reason it is
    none. Its lease is not extended: what is left is said."""
    name = f"person:{event.key}"
    known = next((i for i in inhibits(turn.guard) if i.id == name and not i.ended), None)
    if known is not None:
        left_s = lease_left(turn.guard, known, turn.now)
        rest = "" if left_s is None else f", {left_s:.0f} s of its lease are left"
        same = known.reason == event.reason
        text = "this very hold stands already" if same else f"this key holds for another reason: {known.reason}"
        data = {"lease_s": left_s, "reason": known.reason}
        turn.do(AnswerPerson(event.id, "braked" if same else "conflict", text + rest, data))
        return
    if sum(i.kind == "person" and not i.ended for i in inhibits(turn.guard)) >= HOLDS_MAX:
        turn.do(AnswerPerson(event.id, "too-many-holds", f"{HOLDS_MAX} holds of persons stand on this pair already"))
        return
    view = InhibitView(name, "person", event.owner, event.reason, event.since_wall, lease_s=event.lease_s)
    _set(turn, view)
    turn.note("hold-opened", f"{event.owner} holds the pair: {event.reason}", key=event.key)
    turn.soon("set-hold")
    turn.do(AnswerPerson(event.id, "braked", "this node neither claims nor shoots from now on"))


def _set(turn: Turn, view: InhibitView) -> None:
    turn.remember(inhibits={**turn.guard.memory.inhibits, view.id: view}, holding=True)
    if turn.guard.right is not None and turn.guard.right.purpose == "fence":
        turn.put(right=None)
    turn.soon("set-inhibit")
    _tell(turn)


def _tell(turn: Turn) -> None:
    """Repeat own inhibits until the arbiter's own list shows them as they are."""
    guard = turn.guard
    if not guard.memory.inhibits:
        return
    theirs = {i.id: i for i in guard.ack.inhibits} if guard.ack is not None else {}
    # One that has ended and is not listed was lifted: said again it would only come back from the dead.
    own = guard.memory.inhibits.values()
    missing = [
        i
        for i in own
        if not _same(theirs.get(i.id), i)
        and (_protects(guard, i) or i.ended)  # its end is told also after a boot: the arbiter may list it from before
        and not (i.ended and i.id not in theirs)
    ]
    if missing and turn.every("set-inhibit", 0.5):
        said = {turn.nonce(): view for view in missing}
        turn.put(telling={nonce: view.id for nonce, view in said.items()})
        for nonce, view in said.items():
            turn.tell_arbiter(SetInhibit(nonce, view))


def heard_refused(turn: Turn, refused: Refused) -> None:
    """A person's hold that was released through the other node while this guard was down: this very one is over.

    Only the arbiter's durable word ends it, and the release asks for its proof all the same."""
    own = turn.guard.memory.inhibits.get(turn.guard.telling.get(refused.nonce, ""))
    if refused.reason != "lifted" or own is None or own.ended or own.kind not in ("person", "change"):
        return
    turn.remember(inhibits={**turn.guard.memory.inhibits, own.id: replace(own, ended=True)})
    text = f"the hold of {own.owner} was released through the other node while this guard was down"
    turn.note("hold-ended", text, inhibit=own.id)


def _same(theirs: InhibitView | None, own: InhibitView) -> bool:
    """The arbiter's list shows it as it is. The moment is the arbiter's to keep; and of a lease that less is left
    there is what this guard takes over (`adopt`)."""
    if theirs is None:
        return False
    if own.lease_s is None or theirs.lease_s is None:
        lease = own.lease_s == theirs.lease_s
    else:
        lease = theirs.lease_s - own.lease_s <= LEASE_SLACK_S
    whole = own.reason.startswith(theirs.reason)  # the arbiter cuts reasons where they do not fit into one answer
    return (
        lease
        and whole
        and (theirs.id, theirs.kind, theirs.owner, theirs.ended)
        == (
            own.id,
            own.kind,
            own.owner,
            own.ended,
        )
    )


def _protects(guard: Guard, view: InhibitView) -> bool:
    """A node that has not been whole since its guard started has nothing running: its own disturbance brakes itself
    only. Else every boot would put the cluster into maintenance mode, and its replication would never be started.
    The same without a register: nothing is fenced there, and without it no release could be agreed on."""
    registered = guard.ack is not None and guard.ack.register is not None
    return (guard.ever_whole and registered) or view.kind != "disturbance" or view.owner != guard.me


# ------------------------------------------------------------------ keeping and ending


def advance(turn: Turn) -> None:
    guard = turn.guard
    _tell(turn)
    if not braked(guard):
        left_over = guard.cluster is not None and guard.cluster.ours is not None
        if left_over and turn.every("left-over", LEFT_OVER_S):
            # Set by one of the two guards after the other had released, or brought back by a merge of two copies.
            turn.remember(holding=True)
            turn.note("braked", "our property stands though nobody holds the pair: it is released in order")
        return
    found = inhibits(guard)
    standing = [i for i in found if not i.ended]
    view = guard.cluster
    if found and not guard.memory.holding:
        turn.remember(holding=True)
        turn.note("braked", f"the arbiter holds this pair: {found[0].reason}", owner=found[0].owner)
    wanted = (view is None or view.maintenance is not True) and any(_protects(guard, i) for i in standing)
    if wanted and turn.every("set-hold", 1.0):
        turn.do(SetHold(hold_id(guard)))
    if view is not None and view.maintenance is True and turn.every("forecast", 2.0):
        turn.do(AskForecast(guard.peer, without_hold=False))
    if not standing and turn.every("forecast-release", 2.0):
        turn.do(AskForecast(None, without_hold=True))
    if view is not None and view.maintenance is True and view.pending and not guard.agents:
        for shot in view.pending:
            if shot.state == "pending" and turn.every(f"purge:{shot.target}", 5.0):
                turn.do(PurgeShot(shot))
    if standing:
        if guard.lifting:
            turn.put(lifting=False)
    elif guard.lifting and turn.every("lift", 0.3):
        lift(turn, everyones=True)
    else:
        _release(turn)


def refusal(turn: Turn, *, ignore_person: bool = False, rejoin: bool = False) -> tuple[str, str] | None:
    """Why the hold cannot be released now (reason, text), or None. Law 4. `rejoin`: apart from wholeness."""
    guard, ack = turn.guard, turn.guard.ack
    for inhibit in inhibits(guard):
        if not inhibit.ended and not (ignore_person and inhibit.kind == "person"):
            return "inhibited", f"{inhibit.owner}: {inhibit.reason}"
    if whole(guard) is not True and not rejoin:
        return "not-whole", "the two nodes are not in one membership with replication connected and UpToDate"
    if guard.network.quiet_for_s(turn.now) < guard.policy.settle_s:
        quiet = guard.network.quiet_for_s(turn.now)
        return "not-quiet", f"the network has been quiet for {quiet:.0f} s of {guard.policy.settle_s:.0f} s"
    if ack is None or not arbiter_up(guard, turn.now) or ack.peer_hold is None or ack.peer_heard_s is None:
        return "arbiter-silent", "the arbiter or the peer's guard does not answer"
    mine, theirs = statement(turn), ack.peer_hold
    if ack.peer_heard_s > guard.policy.heard_s or (theirs.whole is not True and not (rejoin and theirs.whole is False)):
        return "peer-not-whole", "the peer's guard does not say that the pair is whole"
    if theirs.quiet_for_s < guard.policy.settle_s:
        return "peer-not-quiet", f"the peer's network has been quiet for {theirs.quiet_for_s:.0f} s only"
    if (mine.pending_shots, theirs.pending_shots) != (0, 0):
        return "shot-pending", "a fencing operation is queued in the cluster"
    if mine.release_harmless is not True:
        return "forecast", "the scheduler, run without the hold, would fence or stop something, or could not be run"
    # The peer asks its scheduler once no inhibit stands, and while the property does.
    unasked = theirs.release_harmless is None and (ignore_person or theirs.maintenance is not True)
    if theirs.release_harmless is None and not unasked:
        return "peer-forecast", "the peer has not yet asked its scheduler what it would do without the hold"
    if theirs.release_harmless is False:
        return "peer-forecast", "on the peer the scheduler, run without the hold, would fence or stop something"
    return None


def rejoining(turn: Turn) -> bool:
    """A node booted meanwhile, all is quiet, nothing pending, a release harmless: nobody is fenced by such a release,
    and who may be promoted is for the register to say, as at any start."""
    return _only_unconnected(turn.guard) and refusal(turn, rejoin=True) is None


def _only_unconnected(guard: Guard) -> bool:
    """One membership with both controllers up: only the connection is missing, which the cluster would start and the
    hold keeps it from starting. Connected, it becomes whole by itself, or is damaged."""
    members, view = guard.members, guard.cluster
    if members is None or view is None or members.peer_member is not True:
        return False
    if guard.volumes is None or connected(guard):
        return False
    return (view.controller, view.peer_controller) == (Up.UP, Up.UP)


def _release(turn: Turn) -> None:
    if not turn.guard.memory.holding or (refusal(turn) is not None and not rejoining(turn)):
        return
    if turn.every("release", 1.0):
        lift(turn)


def lift(turn: Turn, *, everyones: bool = False) -> None:
    """Take back our own property and our own inhibits; `everyones`: also those of a peer that is gone (a release
    won by a claim). First the arbiter's list, repeated until it shows; then the property; `holding` ends last: a lost
    word then never leaves an inhibit that nobody lifts, nor brakes anew by an old list."""
    guard = turn.guard
    if any(not i.ended and i.kind not in ("peer-alive", "storm") for i in inhibits(guard)):
        return  # it came after the last look: between the commit of a releasing claim and its win, for example
    theirs = {i.id for i in guard.ack.inhibits} if guard.ack is not None else set()
    listed = False
    for inhibit in inhibits(guard):
        if inhibit.kind in ("peer-alive", "storm"):
            continue
        persons = inhibit.ended and inhibit.kind in ("person", "change")  # whichever guard it was opened at
        if (everyones or persons or inhibit.id in guard.memory.inhibits) and inhibit.id in theirs:
            turn.tell_arbiter(LiftInhibit(turn.nonce(), inhibit.id))
            listed = True
    if listed:
        return
    view = guard.cluster
    if view is not None and view.ours is None and view.maintenance is not None:
        _released(turn)
        return
    turn.do(ClearHold(hold_id(guard)))  # again until it was read back: a view that shows nothing proves nothing


def written(turn: Turn, event: HoldWritten) -> None:
    if event.set:
        if event.done:
            turn.note("property-set", "the cluster is in maintenance mode by our own property set")
        else:
            turn.note("property-not-set", "the cluster did not take the property; the brake holds alone")
    elif event.done and all(i.ended for i in inhibits(turn.guard)):
        _released(turn)
    elif event.done:
        turn.note("braked", "a new inhibit came while the property was being taken back: it is set again")


def _released(turn: Turn) -> None:
    turn.remember(inhibits={}, holding=False)
    turn.put(forecasts={}, lifting=False)
    turn.unpage("held-peer-alive")
    turn.unpage("lease-over")
    turn.soon("left-over")
    turn.every("left-over", LEFT_OVER_S)  # what the cluster showed until now may still name it
    turn.note("released", "the hold is over: our property is taken back, this node may claim again")


def ask_release(turn: Turn, event: AskRelease) -> None:
    """`pairguard release`: ends persons' inhibits only if resuming now would fence nobody (86 otherwise)."""
    why = refusal(turn, ignore_person=True)
    if why is not None and why[0] == "not-whole" and _only_unconnected(turn.guard):
        why = refusal(turn, ignore_person=True, rejoin=True)
    if why is not None and why[0] == "forecast" and _fresh(turn, without_hold=True) is None:
        # Not yet asked while a person's inhibit stood: ask now, the client repeats.
        turn.do(AskForecast(None, without_hold=True))
        turn.do(AnswerPerson(event.id, "forecast-asked", "asking the scheduler what a release would do"))
        return
    if why is not None and why[0] == "not-whole" and _peer_gone(turn.guard):
        # Its opener died with the pair: an end alone releases nothing, the releasing claim decides.
        why = ("not-whole", f"{why[1]}; the peer is gone: this node takes over once a claim is won")
        _end_persons(turn)
    if why is not None:
        turn.do(AnswerPerson(event.id, why[0], why[1]))
        return
    _end_persons(turn)
    turn.do(AnswerPerson(event.id, "releasing" if braked(turn.guard) else "released", "resuming is proven safe"))


def _peer_gone(guard: Guard) -> bool:
    """The arbiter has not heard the peer's guard for 30 s."""
    heard = guard.ack.peer_heard_s if guard.ack is not None else 0.0
    return heard is None or heard >= guard.policy.unheard_s


def _end_persons(turn: Turn) -> None:
    for inhibit in inhibits(turn.guard):
        if inhibit.kind != "person" or inhibit.ended:
            continue
        if inhibit.id in turn.guard.memory.inhibits:
            _set(turn, replace(inhibit, ended=True))
        else:  # opened on the other node: it adopts what the arbiter shows
            turn.tell_arbiter(SetInhibit(turn.nonce(), replace(inhibit, ended=True)))


def adopt(turn: Turn) -> None:
    """A person's inhibit that was ended through the other node is ended here too: an end is never taken back.

    One that stands at the arbiter under the same key with another moment was opened at the other node before ours
    arrived, or after ours ended: it is the one that stands, and ours was, or is, the same hold. Both guards then name
    the same one, and one end ends it. A disturbance of ours that we do not know (a word that came late, a memory that
    was lost) is ours to end.
    """
    ack = turn.guard.ack
    for theirs in ack.inhibits if ack is not None else ():
        own = turn.guard.memory.inhibits.get(theirs.id)
        if own is None and theirs.id == disturbance_id(turn.guard.me):
            turn.remember(inhibits={**turn.guard.memory.inhibits, theirs.id: theirs}, holding=True)
        same = own is not None and theirs.since_wall == own.since_wall
        if own is not None and same and theirs.kind in ("person", "change") and theirs.ended and not own.ended:
            turn.remember(inhibits={**turn.guard.memory.inhibits, own.id: replace(own, ended=True)})
        elif own is not None and not same and theirs.kind in ("person", "change") and not theirs.ended:
            turn.remember(inhibits={**turn.guard.memory.inhibits, own.id: theirs}, holding=True)
            if own.since_wall != 0.0:  # one without a moment got the arbiter's
                text = f"this key is a hold of {theirs.owner} already: {theirs.reason}. Both are one hold now"
                turn.note("hold-merged", text, inhibit=own.id)
        elif own is not None and same and not own.ended and _shorter(theirs, own):
            turn.remember(inhibits={**turn.guard.memory.inhibits, own.id: replace(own, lease_s=theirs.lease_s)})
    _others_leases(turn)


def _shorter(theirs: InhibitView, own: InhibitView) -> bool:
    """The arbiter went on counting the lease while this guard was down."""
    return theirs.lease_s is not None and own.lease_s is not None and own.lease_s - theirs.lease_s > LEASE_SLACK_S


def lease_left(guard: Guard, view: InhibitView, now: Instant) -> float | None:
    """Seconds left of a lease; None: it has none. One that the arbiter shows goes on while the arbiter is silent."""
    if view.lease_s is None or view.ended or view.id in guard.memory.inhibits or guard.acked is None:
        return view.lease_s
    return max(view.lease_s - elapsed_s(guard.acked, now), 0.0)


def _others_leases(turn: Turn) -> None:
    """A lease that was opened on the other node ran out: its guard may be gone, so this one tells people too."""
    guard = turn.guard
    for view in guard.ack.inhibits if guard.ack is not None else ():
        left = lease_left(guard, view, turn.now)
        if view.id not in guard.memory.inhibits and left is not None and left <= 0:
            _lease_over(turn, view)


def _lease_over(turn: Turn, view: InhibitView) -> None:
    turn.page_once("lease-over", f"the lease of {view.owner} ran out; still held until a release is proven safe")


def leases(turn: Turn, elapsed: float) -> None:
    """`elapsed` seconds went by. A lease that ran out releases nothing by itself: the release still asks for proof."""
    _others_leases(turn)
    for inhibit in tuple(turn.guard.memory.inhibits.values()):
        if inhibit.lease_s is None or inhibit.ended:
            continue
        left = inhibit.lease_s - elapsed
        if left > 0:
            turn.remember(inhibits={**turn.guard.memory.inhibits, inhibit.id: replace(inhibit, lease_s=left)})
        else:
            _set(turn, replace(inhibit, ended=True, lease_s=0.0))
            _lease_over(turn, inhibit)


def flapping_replication(guard: Guard, now: Instant) -> bool:
    """Replication broke three times in 60 s while the membership stood, and the last time was within such a window."""
    window_s = guard.sight.replication_window_s
    flaps = (sign for sign in guard.network.recent if sign.kind is SignKind.REPLICATION_FLAP)
    return any(elapsed_s(sign.at, now) <= window_s for sign in flaps)
