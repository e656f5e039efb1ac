"""Requests of the fence agent and of DRBD's handler, from question to answer (DESIGN.md sections 4 and 5).

1. Nothing is sent to a fence device without a right, a durable intent, and a last look at inhibits and `start_by`.
2. A shot is confirmed by two readings `off` from fresh device sessions; anything else is unconfirmed.
3. What a shot may still do after its agent has ended is in `drain`.
4. The agent blocks while the answer may still change; the handler never returns 3 or 5. For a handler nothing is
   committed and no win is used before DRBD was read anew: the link may be back by the time that it asks.
5. A shot that is undrained, even one whose process cannot be killed, does not keep the next request from being served:
   both can only hit the loser of the same open era (S1 counts nodes, not shots; S4), and until the last has drained
   that era is not closed, not handed back, and nothing is yielded. Waiting would only leave a dead node unfenced.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core import drain, hold
from guard.core.claiming import UNREAD, begin, consider, drop, obstacle, seen_since, tell_person
from guard.core.evidence import Disk, Link, Power, Role
from guard.core.instant import after
from guard.core.step import (
    AnswerAgent,
    AnswerHandler,
    Bar,
    ClientGone,
    Fire,
    Intent,
    Persisted,
    PowerRead,
    Progress,
    ReadPower,
    ReadVolumes,
    Reconsider,
    ShotEnded,
    Unblock,
)
from guard.core.turn import AgentJob, Guard, HandlerJob, Turn, inhibits, whole

PREFLIGHT_S_MAX = 6.0  # an older reading is no preflight
READING_S_MAX = 30.0  # a reading that never came back is asked for again
LOOK_S, LOOK_S_LATE = 0.5, 5.0  # DRBD is asked this often while a request waits for what it says
LATE_S = 30.0  # what could not be read for so long is not read a moment later: a look costs a process per resource
UNREAD_S = 2.0  # its tools answer in 0.1 s: after this a handler is told what it waits for
RETRIED_S = 5.0  # Pacemaker runs a failed agent a second time (pcmk_off_retries 2), 1.7 s later by measurement


def advance(turn: Turn) -> None:
    """Move every request on as far as it goes now."""
    guard = turn.guard
    if not (guard.agents or guard.handlers or guard.right is not None or guard.paged):
        return
    _look(turn)
    for agent in turn.guard.agents:
        _agent(turn, agent)
    for handler in turn.guard.handlers:
        _handler(turn, handler)
    _own_win(turn)
    tell_person(turn)


def _look(turn: Turn) -> None:
    """Have DRBD read anew while a handler waits for a look since it asked, or a request for one that can be read: if
    nothing more changes, nothing more is said, and what could not be read in the moment of a death would stay so."""
    guard = turn.guard
    if guard.volumes is None or not (guard.agents or guard.handlers):
        return  # the first look is on its way
    unread = any(
        Link.UNKNOWN is r.link or (r.link is not Link.DOWN and (Disk.UNKNOWN is r.disk or r.generations is None))
        for r in guard.volumes.replicas
    )
    if not unread and all(seen_since(guard, job) for job in guard.handlers):
        return
    latest = max([job.since for job in guard.agents] + [job.since for job in guard.handlers])
    if turn.every("look", LOOK_S if turn.since(latest) < LATE_S else LOOK_S_LATE):
        turn.do(ReadVolumes())


# ------------------------------------------------------------------ the fence agent


def _agent(turn: Turn, job: AgentJob) -> None:
    guard = turn.guard
    if job.stage != "wait":
        return
    # Whole after the request; or just before it: then this is the second run of an order from before.
    if whole(guard) is True and guard.whole_since is not None and after(guard.whole_since, RETRIED_S) > job.since:
        _end_agent(turn, job, False, "peer-back", f"{job.target} is back: the pair is whole again, nobody was fenced")
        return
    if turn.now >= after(job.until, -guard.policy.wait_margin_s):
        _end_agent(turn, job, False, "time-up", f"not fenced: {job.said or 'no right could be had in time'}")
        return
    _preflight(turn, job)
    job = _job(turn.guard, job.id) or job
    attempt = turn.guard.attempt
    if attempt is not None and attempt.job == job.id:
        consider(turn, ready=_preflown(turn, job))
        _armed(turn, job)
        return
    right = turn.guard.right
    if right is not None and right.job == job.id:
        _armed(turn, job)
        return
    if attempt is not None or (job.retry is not None and turn.now < job.retry):
        return
    why = obstacle(turn, "fence")
    if why is not None and not (why[0] == "peer-alive" and job.offs >= 2):
        _say(turn, job, why[1])
        return
    register = guard.ack.register if guard.ack is not None else None
    won = (register is not None and register.winner == guard.me) or bool(guard.memory.used)
    if won and job.power is None and job.reading is not None:
        return  # no verdict is asked again, so the yield is asked for at once, if the device reads on
    begin(turn, "fence", job.id, want_yield=won and job.power is Power.ON, off_twice=job.offs >= 2)


def _preflight(turn: Turn, job: AgentJob) -> None:
    """Keep one recent power reading at hand. Readings `off` in a row, 1 s apart, count towards law 2."""
    waiting = job.reading is not None and turn.since(job.reading_since) < READING_S_MAX
    fresh = job.power is not None and turn.since(job.power_at) < PREFLIGHT_S_MAX / 2
    again = job.power is Power.OFF and job.offs < 2
    if waiting or (fresh and not again):
        return
    read(turn, job, turn.guard.policy.readback_gap_alone_s if job.power is not None else 0.0)


def read(turn: Turn, job: AgentJob, delay_s: float) -> None:
    token = turn.nonce()
    _update(turn, replace(job, reading=token, reading_since=turn.now))
    turn.do(ReadPower(token, job.target, delay_s))


def _preflown(turn: Turn, job: AgentJob) -> bool:
    known = job.power in (Power.ON, Power.OFF)
    return known and turn.since(job.power_at) < PREFLIGHT_S_MAX


def _armed(turn: Turn, job: AgentJob) -> None:
    """A right for this request: write the intent. If the target is off already nothing is sent (step 2)."""
    guard = turn.guard
    right = guard.right
    if right is None or right.job != job.id or right.purpose != "fence":
        return
    if job.power is Power.OFF:
        _use(turn, "fence")
        turn.put(right=None)
        job = replace(job, stage="reading")
        _update(turn, job)
        if job.offs >= 2:
            _confirm(turn, job)
        elif job.reading is None:
            read(turn, job, guard.policy.readback_gap_alone_s)
        return
    intent = Intent(
        id=turn.nonce(),
        era=right.era,
        version=right.version,
        target=job.target,
        boot_id=guard.boot_id,
        start_by=after(right.committed, guard.policy.fire_s),
        horizon_s=guard.horizon_s,
    )
    _use(turn, "fence")
    turn.remember(intents=(*turn.guard.memory.intents, intent))
    turn.put(right=None)
    _update(turn, replace(job, stage="armed", intent=intent.id))
    turn.note("intent", f"about to fence {job.target} in era {right.era}", era=right.era, version=right.version)
    turn.do(Persisted(intent.id))


def reconsider(turn: Turn, event: Reconsider) -> None:
    """Step 5: the intent is on disk; look once more, then fire exactly once."""
    intent, job = _intent(turn.guard, event.intent), _job_of(turn.guard, event.intent)
    if intent is None or intent.spawned or job is None:
        return
    why = _too_late(turn, intent)
    if why is not None:
        turn.remember(intents=tuple(i for i in turn.guard.memory.intents if i.id != intent.id))
        _update(turn, replace(job, stage="wait", intent=None, said=why))
        turn.note("shot-abandoned", f"nothing was sent to the fence device of {intent.target}: {why}")
        return
    _set_intent(turn, replace(intent, spawned=True))
    _update(turn, replace(job, stage="firing"))
    turn.do(Fire(intent.id, "off", intent.target, intent.start_by))


def _too_late(turn: Turn, intent: Intent) -> str | None:
    """Why nothing may be sent any more, or None: what the claim rested on is looked at once more."""
    guard = turn.guard
    if turn.now > intent.start_by:
        return "start_by has passed"
    if inhibits(guard) or guard.memory.holding or guard.closing is not None:
        return "an inhibit came before the shot"
    good = (Disk.UP_TO_DATE, Disk.CONSISTENT)
    replicas = guard.volumes.replicas if guard.volumes is not None else ()
    if not replicas or any(r.disk not in good for r in replicas):
        return "the own disk is not readable and good any more"
    return None


def shot_ended(turn: Turn, event: ShotEnded) -> None:
    intent = _intent(turn.guard, event.intent)
    if intent is None:
        return
    drain.ended(turn, intent, event)
    turn.note("shot-ended", f"the shot at {intent.target} ended", exit_code=event.exit_code, clean=event.clean)
    job = _job_of(turn.guard, event.intent)
    if job is None:
        return
    verified = event.exit_code == 0
    job = replace(job, stage="reading", offs=1 if verified else 0, power=None)
    _update(turn, job)
    policy = turn.guard.policy
    read(turn, job, policy.readback_gap_s if verified else policy.readback_gap_alone_s)


def power_read(turn: Turn, event: PowerRead) -> None:
    if event.token == turn.guard.switching:
        drain.read(turn, event.power)
    if event.token == turn.guard.sounding:
        turn.put(sounding=None, sounded=event.power, sounded_at=turn.now)
    job = next((j for j in turn.guard.agents if j.reading == event.token), None)
    if job is None:
        return
    offs = job.offs + 1 if event.power is Power.OFF else 0
    job = replace(job, reading=None, power=event.power, power_at=turn.now, offs=offs)
    _update(turn, job)
    if event.power is Power.UNKNOWN and job.stage == "wait":
        _say(turn, job, f"the fence device of {job.target} does not answer: no claim is made")
    if job.stage == "wait":
        advance(turn)
        return
    if job.stage != "reading":
        return
    if job.offs >= 2:
        _confirm(turn, job)
    elif event.power is Power.OFF:
        read(turn, job, turn.guard.policy.readback_gap_alone_s)
    else:
        text = f"{job.target} was shot but does not read off ({event.power.value}): unconfirmed"
        _end_agent(turn, job, False, "unconfirmed", text)


def _confirm(turn: Turn, job: AgentJob) -> None:
    turn.remember(confirmed_off=True)
    turn.note("confirmed-off", f"{job.target} reads off twice from fresh device sessions", target=job.target)
    turn.remember(owes_on=job.action == "reboot")
    _end_agent(turn, job, True, "confirmed-off", f"{job.target} is off, read back twice")


def _end_agent(turn: Turn, job: AgentJob, confirmed: bool, reason: str, text: str) -> None:
    if turn.guard.attempt is not None and turn.guard.attempt.job == job.id:
        drop(turn, reason, text)
    turn.put(agents=tuple(j for j in turn.guard.agents if j.id != job.id))
    _forget_right(turn, job.id)
    turn.do(AnswerAgent(job.id, confirmed, reason, text))
    turn.note("agent-answered", text, reason=reason, confirmed=confirmed, target=job.target)


def _say(turn: Turn, job: AgentJob | HandlerJob, text: str) -> None:
    """Tell the waiting client why it waits, when that changes."""
    if text == job.said:
        return
    if isinstance(job, AgentJob):
        _update(turn, replace(job, said=text))
    else:
        turn.put(handlers=tuple(replace(j, said=text) if j.id == job.id else j for j in turn.guard.handlers))
    turn.do(Progress(job.id, text))
    turn.note("waiting", text, job=job.id)


# ------------------------------------------------------------------ DRBD's handler


def _handler(turn: Turn, job: HandlerJob) -> None:
    """DRBD does not call again after a 1, so a frozen primary gets one only for what was seen after it asked."""
    guard = turn.guard
    if guard.volumes is None:
        return
    replica = next((r for r in guard.volumes.replicas if r.resource == job.resource), None)
    if replica is None:
        _end_handler(turn, job, 1, "unknown-resource")
        return
    stands, seen = replica.link in (Link.CONNECTED, Link.RESYNC), seen_since(guard, job)
    if stands and seen and turn.since(job.since) > 1.0:
        _end_handler(turn, job, 1, "reconnected")
        return
    promoting = replica.role is Role.SECONDARY  # a role that cannot be read may be a frozen primary's
    register = guard.ack.register if guard.ack is not None else None
    lost = register is not None and register.winner == guard.peer
    if lost and promoting and register is not None and "alone" in register.used:
        _end_handler(turn, job, 6, "peer-won")
        return
    if promoting and turn.since(job.since) >= guard.policy.handler_promote_s:
        _end_handler(turn, job, 1, "no-right-in-time")
        return
    right, attempt = guard.right, guard.attempt
    if right is not None and right.job == job.id and right.purpose == "alone":
        if seen:
            _granted(turn, job, stands=stands)
        return
    if attempt is not None and attempt.job == job.id:
        if stands and seen:
            drop(turn, "reconnected", f"{job.resource} is connected again")
        else:
            consider(turn, ready=seen)
        return
    if attempt is not None or (job.retry is not None and turn.now < job.retry):
        return
    if not seen and turn.since(job.since) >= UNREAD_S:
        _say(turn, job, UNREAD)
        return
    if stands:
        return  # DRBD will say what became of the connection
    if hold.flapping_replication(guard, turn.now) and turn.since(job.since) < guard.policy.replication_settle_s:
        _say(turn, job, "replication is flapping: waiting for the reconnect first")
        return
    why = obstacle(turn, "alone")
    if why is not None:
        _say(turn, job, why[1])
        policy = guard.policy
        spread = min(policy.handler_retry_s_max, policy.handler_retry_s_min * 2 ** min(job.tries, 4))
        retry = after(turn.now, 0.2 + (spread - 0.2) * turn.fraction() if why[0] != "arbiter-silent" else 0.5)
        turn.put(handlers=tuple(replace(j, retry=retry) if j.id == job.id else j for j in turn.guard.handlers))
        return
    begin(turn, "alone", job.id)


def _granted(turn: Turn, job: HandlerJob, *, stands: bool) -> None:
    """A right to run alone, for this very disconnection only, and not if it is over (`stands`)."""
    guard, right = turn.guard, turn.guard.right
    if right is None or stands or right.connects != guard.halves.connects:
        turn.put(right=None)
        return
    _use(turn, "alone")
    turn.do(Bar(guard.peer, on=True))
    _end_handler(turn, job, 7 if guard.memory.confirmed_off else 4, "right-to-run-alone")
    waiting = [h for h in turn.guard.handlers if h.connects == right.connects]
    turn.put(right=replace(right, job=waiting[0].id) if waiting else None)


def _end_handler(turn: Turn, job: HandlerJob, code: int, reason: str) -> None:
    if turn.guard.attempt is not None and turn.guard.attempt.job == job.id:
        drop(turn, reason, f"the handler of {job.resource} was answered")
    turn.put(handlers=tuple(h for h in turn.guard.handlers if h.id != job.id))
    _forget_right(turn, job.id)
    turn.note("handler-answered", f"fence-peer of {job.resource}: {code}", code=code, reason=reason)
    match code:
        case 4 | 6 | 7:
            turn.do(AnswerHandler(job.id, code, reason))
        case _:
            turn.do(AnswerHandler(job.id, 1, reason))


# ------------------------------------------------------------------ the guard's own wins


def _forget_right(turn: Turn, job_id: str) -> None:
    """A right ends with the request that it was won for."""
    if turn.guard.right is not None and turn.guard.right.job == job_id:
        turn.put(right=None)


def _own_win(turn: Turn) -> None:
    """A cold start or a releasing claim that was won: no client waits for it."""
    right = turn.guard.right
    if right is None or right.job is not None:
        return
    turn.put(right=None)
    if right.cold:
        _use(turn, "alone")
        turn.note("cold-win", "nothing of the peer can be had: this node goes on alone")
        turn.do(Unblock())
    if right.releasing:
        if right.target_live:
            turn.page_once("held-peer-alive", "this node may run alone, but the hold stays: the peer answers")
        else:
            turn.put(lifting=True)
            hold.lift(turn, everyones=True)


def _use(turn: Turn, purpose: str) -> None:
    """Journal the use of a win before it happens: it can then never be handed back."""
    used = turn.guard.memory.used
    if purpose not in used:
        turn.remember(used=(*used, purpose))


# ------------------------------------------------------------------ start, and requests that go away


def client_gone(turn: Turn, event: ClientGone) -> None:
    """Nobody waits any more. A shot that was fired goes on to its end and its drain; a claim is abandoned."""
    attempt = turn.guard.attempt
    if attempt is not None and attempt.job == event.id:
        drop(turn, "client-gone", "the client went away")
    if turn.guard.right is not None and turn.guard.right.job == event.id:
        turn.put(right=None)
    kept = tuple(j for j in turn.guard.agents if j.id != event.id or j.stage in ("firing", "reading"))
    armed = next((j for j in turn.guard.agents if j.id == event.id and j.stage == "armed"), None)
    if armed is not None:
        turn.remember(intents=tuple(i for i in turn.guard.memory.intents if i.id != armed.intent))
    turn.put(
        agents=kept,
        handlers=tuple(h for h in turn.guard.handlers if h.id != event.id),
        dry=tuple(d for d in turn.guard.dry if d.id != event.id),
    )


def _intent(guard: Guard, intent_id: str) -> Intent | None:
    return next((i for i in guard.memory.intents if i.id == intent_id), None)


def _job(guard: Guard, job_id: str) -> AgentJob | None:
    return next((j for j in guard.agents if j.id == job_id), None)


def _job_of(guard: Guard, intent_id: str) -> AgentJob | None:
    return next((j for j in guard.agents if j.intent == intent_id), None)


def _update(turn: Turn, job: AgentJob) -> None:
    turn.put(agents=tuple(job if j.id == job.id else j for j in turn.guard.agents))


def _set_intent(turn: Turn, intent: Intent) -> None:
    turn.remember(intents=tuple(intent if i.id == intent.id else i for i in turn.guard.memory.intents))
