"""Ending an era: K1 to K6 by the winner, the loser's answer, and the hand-back of a win that was never used.

The order matters: a statement taken before the drain lets a late shot close an era over a dead loser.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core.claiming import drop
from guard.core.messages import CloseAnswer, CloseAsk, Closed, CloseEra, Refused
from guard.core.turn import Closing, Guard, Turn, arbiter_up, connected, inhibits, undrained, whole

CLOSE_S_MAX = 5.0  # a close that got no answer is given up and begun anew
WHOLE_S_MIN = 1.0  # whole for this long before a close is begun


def advance(turn: Turn) -> None:
    guard = turn.guard
    closing = guard.closing
    if closing is not None:
        broken = not connected(guard) or guard.halves.connects != closing.connects
        if broken or turn.since(closing.since) > CLOSE_S_MAX:
            turn.put(closing=None)
            turn.note("close-given-up", "the era stays open: " + ("replication broke" if broken else "no answer"))
        return
    register = guard.ack.register if guard.ack is not None else None
    if register is None or register.winner != guard.me or guard.store_doubted or not arbiter_up(guard, turn.now):
        return
    if _closable(turn) and turn.every("close", 2.0 + turn.fraction()):
        _begin(turn, register.version)
    elif _returnable(turn) and turn.every("hand-back", 2.0 + turn.fraction()):
        drop(turn, "hand-back", "the win was never used and the peer is alive")
        turn.put(right=None)
        turn.note("hand-back", "the win was never used and the peer is alive: handing it back")
        turn.tell_arbiter(CloseEra(turn.nonce(), register.version, "hand-back", None))


def _closable(turn: Turn) -> bool:
    """K1 and the drain of K2: whole on both sides, no change keeps the era, no shot may still act."""
    guard, ack = turn.guard, turn.guard.ack
    if whole(guard) is not True or turn.since(guard.whole_since) < WHOLE_S_MIN or ack is None:
        return False
    if ack.peer_hold is None or ack.peer_hold.whole is not True:
        return False
    if guard.halves.session(guard.me, guard.peer) is None:
        return False
    if any(i.kind == "change" and not i.ended for i in inhibits(guard)):
        return False
    committed = guard.attempt is not None and guard.attempt.committed is not None
    won = guard.right is not None and guard.right.purpose == "fence" and bool(guard.agents)
    if committed or won:
        return False  # over a living peer that yielded: closed now, it would have stopped its writes for nothing
    busy = any(job.stage != "wait" for job in guard.agents)
    return not busy and not undrained(guard, turn.now)


def _returnable(turn: Turn) -> bool:
    """No handler answered 4 or 7 and no delegate spawned in this era; nothing under way; the peer is heard."""
    guard, ack = turn.guard, turn.guard.ack
    if guard.memory.used or guard.attempt is not None or guard.right is not None or ack is None or ack.register is None:
        return False
    if ack.register.era != guard.memory.era or ack.register.basis == "person":
        return False
    if guard.memory.since_era is None or guard.memory.since_era >= ack.register.era:
        return False  # this memory began in this era: it cannot know whether the win was used before
    if ack.register.version != guard.memory.won and (guard.met is None or ack.register.version <= guard.met):
        return False  # won before this start, and not in this memory: it may be of before the win, and of its use
    if guard.memory.consented and ack.peer_hold is not None and ack.peer_hold.unfit:
        return False  # the peer stepped back and cannot serve: the hold is released first, then the agent goes on
    waiting = guard.handlers or any(job.stage != "wait" for job in guard.agents)
    alive = ack.peer_heard_s is not None and ack.peer_heard_s <= guard.policy.heard_s
    return not waiting and alive and not guard.memory.intents


def _begin(turn: Turn, version: int) -> None:
    """K2 and K3: nothing under way, no right, also on disk; then ask the loser."""
    guard = turn.guard
    session = guard.halves.session(guard.me, guard.peer)
    if session is None:
        return
    drop(turn, "closing", "the era is being closed")
    turn.put(right=None)
    nonce = turn.nonce()
    turn.put(closing=Closing(nonce, version, session, guard.halves.connects, turn.now))
    turn.send(guard.peer, CloseAsk(nonce, guard.memory.era, session))


def heard_ask(turn: Turn, ask: CloseAsk) -> None:
    """The winner asks this node, the loser, to state and renounce. An invitation ends every right here."""
    guard = turn.guard
    session = guard.halves.session(guard.me, guard.peer)
    reason = ""
    if ask.era != guard.memory.era:
        reason = "another-era"
    elif session is None or session != ask.session or not connected(guard):
        reason = "another-session"
    elif whole(guard) is not True:
        reason = "not-whole"
    elif undrained(guard, turn.now) or any(job.stage != "wait" for job in guard.agents):
        reason = "shot-undrained"
    drop(turn, "closing", "the winner invited to close the era")
    turn.put(right=None)
    turn.send(guard.peer, CloseAnswer(ask.nonce, reason == "", session, reason))


def heard_answer(turn: Turn, answer: CloseAnswer) -> None:
    """K4 and K5: the session still stands unbroken since K2; write {era+1, none} at the version of K1."""
    guard, closing = turn.guard, turn.guard.closing
    if closing is None or closing.nonce != answer.nonce or closing.written:
        return
    standing = connected(guard) and guard.halves.connects == closing.connects
    if not answer.agreed or answer.session != closing.session or not standing:
        turn.put(closing=None)
        turn.note("close-refused", f"the peer does not close the era: {answer.reason}", reason=answer.reason)
        return
    turn.put(closing=replace(closing, written=True))
    turn.tell_arbiter(CloseEra(closing.nonce, closing.version, "close", closing.session))


def heard_closed(turn: Turn, closed: Closed) -> None:
    """K6: the era is over; take back our own constraint and forget what belonged to it."""
    guard = turn.guard
    register = closed.register
    if register.store_id != guard.memory.store_id or register.version < guard.memory.version:
        return
    turn.put(closing=None, right=None)
    turn.remember(
        era=register.era,
        version=register.version,
        used=(),
        confirmed_off=False,
        owes_on=False,
        consented=False,
        cold_win=None,
        intents=tuple(i for i in guard.memory.intents if i.drained is None or i.drained > turn.now),
    )
    turn.put(version_at=turn.now)
    turn.note("era-closed", f"era {register.era} begins", era=register.era, version=register.version)
    turn.soon("unbar")
    turn.soon("attest")


def heard_refused(turn: Turn, refused: Refused) -> None:
    closing = turn.guard.closing
    if closing is not None and closing.nonce == refused.nonce:
        turn.put(closing=None)
        turn.note("close-refused", f"the arbiter does not close the era: {refused.text}", reason=refused.reason)


def own_constraint(guard: Guard) -> bool:
    """Our constraint against the peer's promotion belongs in the cluster now."""
    return "alone" in guard.memory.used
