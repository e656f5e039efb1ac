"""The target's side of a claim: being asked for evidence, and stepping back (DESIGN.md section 4, Yield).

1. A yield is durable, and writes are suspended, before it is said; it is void only by the arbiter's word.
2. One promise at a time; while it stands this node neither claims nor writes.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core.attesting import evidence
from guard.core.evidence import Link
from guard.core.evidence import Suspended as Suspension
from guard.core.messages import Answer, Ask, AskNonce, NonceIs, Purpose
from guard.core.step import Promise, ResumeWrites, Suspended, SuspendWrites
from guard.core.turn import Guard, Turn, connected, idle, inhibits, primary, session, undrained, unfit


def heard_ask(turn: Turn, ask: Ask) -> None:
    """The arbiter asks for evidence on the peer's claim; perhaps for a yield."""
    guard = turn.guard
    if ask.candidate != guard.peer:
        return
    promise = guard.memory.promise
    if promise is not None and not (ask.want_yield and promise.nonce != ask.nonce and _may_repeat(guard, promise)):
        # One promise at a time: a late question of an older claim must not replace one that is being counted on.
        _answer(turn, ask.nonce, yielded=ask.want_yield and promise.nonce == ask.nonce)
        return
    if ask.want_yield and _may_yield(turn, ask.purpose if promise is None else "fence"):
        turn.put(yielding=ask.nonce)
        turn.remember(suspended=True)
        turn.do(SuspendWrites(ask.nonce))
        return
    _answer(turn, ask.nonce, yielded=False)


def _may_repeat(guard: Guard, promise: Promise) -> bool:
    """Nobody counts on this very nonce any more: the peer won the era, so nothing but its end voids the promise; or
    the arbiter has voided it, and only writes could not be resumed."""
    register = guard.ack.register if guard.ack is not None else None
    if register is None or guard.store_doubted:
        return False
    if promise.nonce == guard.voided:
        return True
    return register.winner == guard.peer and register.era == promise.era


def _may_yield(turn: Turn, purpose: Purpose) -> bool:
    """No claim, right or shot of its own; and it is primary of nothing, or unfit.

    To a fence a node yields only if it is unfit, and never under a hold of people or of a network that changes.
    """
    guard = turn.guard
    busy = guard.attempt is not None or guard.right is not None or guard.yielding is not None
    register = guard.ack.register if guard.ack is not None else None
    mine = register is None or guard.store_doubted or register.winner == guard.me or bool(guard.memory.used)
    armed = any(job.stage != "wait" for job in guard.agents)
    if busy or mine or armed or undrained(guard, turn.now):
        return False
    if purpose == "fence":
        return unfit(turn) and all(i.kind == "peer-alive" for i in inhibits(guard))
    return unfit(turn) or idle(guard)


def suspended(turn: Turn, event: Suspended) -> None:
    """Writes are suspended, read back: store the promise, then say it (law 4)."""
    guard = turn.guard
    if guard.yielding != event.nonce:
        return
    turn.put(yielding=None)
    if event.done:
        made = Promise(event.nonce, guard.memory.era, session(guard), primary(guard), guard.boot_id)
        first = guard.memory.promise  # said once more: what was true when writes were first suspended stays
        promise = made if first is None else replace(first, nonce=event.nonce)
        turn.remember(promise=promise)
        turn.note("yielded", "this node yielded: it neither claims nor writes until the arbiter voids it")
    _answer(turn, event.nonce, yielded=event.done)


def resumed(turn: Turn, done: bool) -> None:
    """Only a resume that was read back is forgotten; else it is asked for again."""
    if done and turn.guard.memory.promise is None and turn.guard.yielding is None:
        turn.remember(suspended=False)


def _resumable(turn: Turn) -> bool:
    """`resume-io` also thaws what fencing froze, and after a break it makes a generation that the peer does not have
    (measured): a primary is resumed only while replication stands; one that is cut waits for its handler."""
    guard = turn.guard
    return guard.volumes is not None and (not primary(guard) or connected(guard))


def _answer(turn: Turn, nonce: str, *, yielded: bool) -> None:
    quiet = turn.guard.network.quiet_for_s(turn.now)
    turn.tell_arbiter(Answer(nonce, evidence(turn), yielded, quiet), expires_s=1.0)


def ask_promise(turn: Turn) -> None:
    """While a promise stands, ask what became of the claim; and after a boot suspend again."""
    guard = turn.guard
    promise = guard.memory.promise
    if promise is None:
        if guard.memory.suspended and guard.yielding is None and _resumable(turn) and turn.every("resume", 1.0):
            turn.do(ResumeWrites())
        return
    if turn.every("ask-nonce", 1.0):
        turn.tell_arbiter(AskNonce(turn.nonce(), promise.nonce, promise.era), expires_s=1.0)
    replicas = guard.volumes.replicas if guard.volumes is not None else ()
    writable = any(
        r.link is not Link.DOWN and (r.suspended is None or Suspension.USER not in r.suspended) for r in replicas
    )
    if writable and turn.every("suspend", 1.0):
        turn.do(SuspendWrites(promise.nonce))


def heard_nonce(turn: Turn, answer: NonceIs) -> None:
    guard = turn.guard
    promise = guard.memory.promise
    if promise is None or answer.about != promise.nonce or answer.state in ("open", "winner-peer"):
        return
    broke = not connected(guard) or session(guard) != promise.session
    broke = broke and promise.boot_id == guard.boot_id  # after a boot it is no primary: nothing was carried over
    if (promise.primary and broke) or not _resumable(turn):
        turn.put(voided=promise.nonce)
        # Measured trap: suspend, disconnect, reconnect, resume makes a generation that the peer does not have.
        turn.page_once(
            "resume-needs-person",
            "the yield is void, but replication broke while writes were suspended: resuming would make a generation "
            "that the peer does not have; demote this node and connect it again as target",
        )
        return
    turn.remember(promise=None)
    turn.unpage("resume-needs-person")
    turn.note("yield-void", f"the arbiter says of the claim yielded to: {answer.state}", state=answer.state)
    turn.soon("resume")
    ask_promise(turn)
