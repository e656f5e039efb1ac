"""The candidate's side of a claim, from the question to a right (DESIGN.md section 4, Claim).

1. One claim a guard at a time; none while barred, yielding, closing, or with the store in doubt.
2. A win gives a right only if its answer came within T_fire of sending the Commit and nothing forbade it since.
3. What was committed stays committed: an abandoned claim can only have named this node.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core import claim as judging
from guard.core.attesting import MASK, evidence
from guard.core.attribution import Attribution, target_ports_down
from guard.core.evidence import Disk, Link, Power
from guard.core.instant import after
from guard.core.messages import (
    Claim,
    Commit,
    Offer,
    Ports,
    Purpose,
    Refused,
    Won,
)
from guard.core.step import AnswerPerson, ColdWin
from guard.core.turn import (
    AgentJob,
    Attempt,
    Guard,
    HandlerJob,
    Right,
    Turn,
    arbiter_up,
    cold,
    connected,
    inhibits,
    peer_silent,
    primary,
    sitting,
)

ASKED_S_MAX = 3.0  # T_corr + the wait for the target + a round trip, generously; then a new nonce
ASK_YIELD_S = 5.0  # a living target that does not yield to a fence is not asked more often
COLD_SECOND_S = 10.0  # the preferred node of two that live claims first: a node with a claim of its own cannot yield
GATHER_S = 2.0  # how often a silent peer lets the arbiter gather
UNREAD = "DRBD cannot be read since its handler asked: no right is taken on an older look"
PERSONS = {  # reasons for which a request waits and that only a person may be able to mend, with their price
    "arbiter-silent": "nobody is fenced and nobody runs alone",
    "peer-alive": "nobody is fenced",
    "drbd-unread": "nobody runs alone",
}
PORTS: dict[Attribution, Ports] = {
    Attribution.NODE: "down-alone",
    Attribution.NETWORK: "up-with-change",
    Attribution.UNKNOWN: "?",
}


def obstacle(
    turn: Turn, purpose: Purpose, *, cold: bool = False, releasing: bool = False, yielding: bool = False
) -> tuple[str, str] | None:
    """Why no claim may be started now (reason, text), or None. Step 1 of the claim, and law 1.

    `yielding`: the target is asked to yield, or has: that ends `peer-alive`, so that alone is no obstacle.
    """
    guard = turn.guard
    if not guard.journal_ok:
        return "journal", "the journal cannot be written: nothing is decided"
    if guard.store_doubted:
        return "store-doubted", "the arbiter's memory is not the one this node knows"
    if guard.ack is None or not arbiter_up(guard, turn.now):
        return "arbiter-silent", "no majority: the arbiter does not answer"
    register = guard.ack.register
    if register is None:
        return "no-register", "no register: run `pairguard init`"
    if register.winner == guard.peer:
        return "peer-won", f"{guard.peer} won era {register.era}: this node is barred until the pair is whole"
    if guard.memory.promise is not None:
        return "yielded", "this node promised not to claim in this era"
    if guard.yielding is not None:
        return "yielding", "this node is about to yield"
    if guard.closing is not None:
        return "closing", "the era is being closed"
    testimony = evidence(turn, cold=cold)
    if not testimony.replicas:
        return "no-resource", "no replicated resource can be read on this node"
    for replica in testimony.replicas:
        if replica.disk not in (Disk.UP_TO_DATE.value, Disk.CONSISTENT.value) or replica.current is None:
            return "own-disk", f"own disk of {replica.resource} is not readable and good"
    members = guard.members
    if members is not None and members.votes_three and members.quorate is not True:
        return "no-quorum", "this partition is not quorate"
    if purpose == "fence" and members is not None and members.peer_member is True and not peer_unfit(turn):
        return "target-is-member", f"{guard.peer} is in one membership with this node: it is not dead"
    return inhibited(turn, purpose, cold=cold, releasing=releasing, yielding=yielding)


def inhibited(
    turn: Turn, purpose: Purpose, *, cold: bool, releasing: bool, yielding: bool = False
) -> tuple[str, str] | None:
    """Why an inhibit known here forbids `purpose` now, or None. `yielding`: see `obstacle`."""
    guard = turn.guard
    refusing = judging.refusing(
        tuple(i for i in inhibits(guard) if not (yielding and i.kind == "peer-alive")),
        purpose,
        sitting=sitting(guard),
        cold=cold,
        lost_for_s=lost_for_s(turn),
        quiet_for_s=guard.network.quiet_for_s(turn.now),
        policy=guard.policy,
    )
    if refusing is not None:
        return ("peer-alive" if refusing.kind == "peer-alive" else "inhibited"), f"{refusing.owner}: {refusing.reason}"
    stays = primary(guard) or sitting(guard)  # going on alone is no promotion
    if guard.memory.holding and (purpose == "fence" or not (stays or cold or releasing)):
        return "holding", "the hold is being released"
    return None


def lost_for_s(turn: Turn) -> float:
    """Seconds since replication was lost; 0 while it stands."""
    if connected(turn.guard) or turn.guard.lost_at is None:
        return 0.0
    return turn.since(turn.guard.lost_at)


def begin(
    turn: Turn,
    purpose: Purpose,
    job: str | None,
    *,
    want_yield: bool = False,
    off_twice: bool = False,
    cold: bool = False,
    releasing: bool = False,
) -> None:
    """Send a claim. The caller has asked `obstacle`, and no claim is under way."""
    nonce = turn.nonce()
    connects = turn.guard.halves.connects
    attempt = Attempt(nonce, purpose, job, turn.now, connects, want_yield=want_yield, cold=cold, releasing=releasing)
    turn.put(attempt=attempt)
    turn.tell_arbiter(_claim(turn, nonce, purpose, want_yield=want_yield, off_twice=off_twice, cold=cold))


def _claim(
    turn: Turn,
    nonce: str,
    purpose: Purpose,
    *,
    gather: bool = False,
    want_yield: bool = False,
    off_twice: bool = False,
    cold: bool = False,
) -> Claim:
    guard = turn.guard
    return Claim(
        nonce=nonce,
        purpose=purpose,
        evidence=evidence(turn, cold=cold),
        ports=PORTS[target_ports_down(guard.network, turn.now, guard.sight)],
        gather=gather,
        want_yield=want_yield,
        cold=cold,
        lost_for_s=lost_for_s(turn),
        off_twice=off_twice,
    )


def gather(turn: Turn) -> None:
    """The peer fell silent: let the arbiter collect evidence, so that a claim is quick. Commits nothing."""
    guard = turn.guard
    if not guard.ever_whole or guard.attempt is not None or guard.memory.session is None or not peer_silent(guard):
        return
    if not arbiter_up(guard, turn.now) or guard.store_doubted or not turn.every("gather", GATHER_S):
        return
    if guard.memory.promise is not None or guard.yielding is not None:
        return  # it will not claim
    if guard.ack is not None and guard.ack.register is not None and guard.ack.register.winner is None:
        turn.tell_arbiter(_claim(turn, turn.nonce(), "fence", gather=True))


# ------------------------------------------------------------------ the arbiter's answers


def heard_offer(turn: Turn, offer: Offer) -> None:
    attempt = turn.guard.attempt
    if attempt is None or attempt.nonce != offer.nonce or attempt.offer is not None:
        return
    memory = turn.guard.memory
    if offer.register.store_id != memory.store_id or offer.register.version < memory.version:
        drop(turn, "store-doubted", "the offer comes from another memory than this node knows")
        return
    turn.put(attempt=replace(attempt, offer=offer, offered=turn.now))
    waiting = next((job for job in turn.guard.handlers if job.id == attempt.job), None)
    consider(turn, ready=attempt.purpose == "alone" and (waiting is None or seen_since(turn.guard, waiting)))


def seen_since(guard: Guard, job: HandlerJob) -> bool:
    """DRBD's connection was read after its handler asked. The handler is a process that DRBD started before: what was
    seen until then may be of before the cut, or the link may be back."""
    volumes = guard.volumes
    looked = None if volumes is None else volumes.looked(job.resource)
    if volumes is None or looked is None or looked <= job.since:
        return False
    return any(r.resource == job.resource and r.link is not Link.UNKNOWN for r in volumes.replicas)


def consider(turn: Turn, *, ready: bool) -> None:
    """Judge the open offer; commit once `ready` (a fence also needs its preflight, DRBD's handler a look at DRBD since
    it asked). Step 3 of the claim."""
    guard, attempt = turn.guard, turn.guard.attempt
    if attempt is None or attempt.offer is None or attempt.committed is not None:
        return
    offer, register = attempt.offer, attempt.offer.register
    waited = turn.since(attempt.offered)
    if waited > offer.window_s:
        drop(turn, "offer-passed", "the offer's window passed before everything was ready")
        return
    if register.winner == guard.peer:
        drop(turn, "peer-won", f"{guard.peer} won era {register.era}")
        return
    if register.winner is None:
        ruling = judging.rule(judging.bundle_of(offer, waited), attempt.purpose, guard.policy, cold=attempt.cold)
        seen = turn.guard.last_dry if attempt.dry else turn.guard.last_verdict
        if seen.get("nonce") != offer.nonce:
            _record(turn, attempt, offer, ruling)
        if attempt.dry:
            drop(turn, ruling.reason, ruling.verdict.text)
            return
        if ruling.next == "want-yield" and not attempt.want_yield:
            _ask_yield(turn, attempt, ruling.reason, ruling.verdict.text)
            return
        if ruling.next != "commit":
            drop(turn, ruling.reason, ruling.verdict.text)
            return
    elif (doubt := judging.reconfirmed(judging.bundle_of(offer, waited), register.basis)) is not None:
        drop(turn, *doubt)
        return
    elif attempt.dry:
        drop(turn, "winner-us", "this node has won the era already")
        return
    elif attempt.purpose == "fence" and (alive := judging.member(judging.bundle_of(offer, waited))) is not None:
        drop(turn, *alive)
        return
    elif attempt.purpose == "fence" and offer.fresh == "live" and not offer.target_yielded:
        drop(turn, "living-target", "the target answered: it is never fenced without its yield")
        return
    if offer.fresh == "live" and _power(turn, attempt) is Power.OFF:
        drop(turn, "device-contradicts", "the target answers, yet its fence device reads off: it is another node's")
        return
    yielded = offer.target_yielded  # the arbiter's list, as it was heard last, may be older
    why = obstacle(turn, attempt.purpose, cold=attempt.cold, releasing=attempt.releasing, yielding=yielded)
    if why is not None:
        drop(turn, *why)
        return
    if ready:
        turn.put(attempt=replace(attempt, committed=turn.now))
        fence = attempt.purpose == "fence"
        commit = Commit(
            attempt.nonce,
            register.version,
            attempt.purpose,
            device=guard.peer if fence else None,
            horizon_s=guard.horizon_s if fence else None,
            unbounded=fence and guard.horizon_s is None,
        )
        turn.tell_arbiter(commit, expires_s=guard.policy.fire_s)


def _ask_yield(turn: Turn, attempt: Attempt, reason: str, text: str) -> None:
    """Claim once more, with the question for the target's yield. For a fence only beside a device that reads `on`,
    and not again and again: a target that yields stops writing until the claim is decided."""
    if attempt.purpose == "fence":
        if _power(turn, attempt) is not Power.ON:
            return  # the preflight is under way, or the device does not answer: the offer passes
        if not turn.every("ask-yield", ASK_YIELD_S):
            drop(turn, reason, text)
            return
    turn.put(attempt=None)
    begin(turn, attempt.purpose, attempt.job, want_yield=True, cold=attempt.cold, releasing=attempt.releasing)


def _power(turn: Turn, attempt: Attempt) -> Power | None:
    """What the fence device said last to the request that this claim is for."""
    return next((job.power for job in turn.guard.agents if job.id == attempt.job), None)


def _record(turn: Turn, attempt: Attempt, offer: Offer, ruling: judging.Ruling) -> None:
    """One complete record a verdict: what `explain` shows."""
    data: dict[str, object] = {
        "nonce": offer.nonce,
        "purpose": attempt.purpose,
        "verdict": ruling.verdict.result.value,
        "row": ruling.verdict.row,
        "reason": ruling.reason,
        "text": ruling.verdict.text,
        "fresh": offer.fresh,
        "candidate": offer.candidate,
        "target": offer.target,
        "candidate_age_s": offer.candidate_age_s,
        "target_age_s": offer.target_age_s,
        "yielded": offer.target_yielded,
        "era": offer.register.era,
        "version": offer.register.version,
    }
    record: dict[str, object] = {**data, "at": turn.now, "next": ruling.next}
    if attempt.dry:
        turn.put(last_dry=record)
        return
    turn.put(last_verdict=record)
    turn.note("verdict", f"{ruling.verdict.result.value} ({ruling.verdict.row}): {ruling.verdict.text}", data=data)


def heard_won(turn: Turn, won: Won) -> None:
    """Step 5. A late or uninvited win gives nothing; what is written names only this node."""
    guard, attempt = turn.guard, turn.guard.attempt
    if attempt is None or attempt.nonce != won.nonce or attempt.committed is None or won.purpose != attempt.purpose:
        return
    if won.version > guard.memory.version:
        turn.remember(version=won.version, era=won.era)
        turn.put(version_at=turn.now)
    if turn.since(attempt.committed) > guard.policy.fire_s:
        drop(turn, "win-too-late", "the win came later than T_fire after the commit: no right follows")
        return
    offer = attempt.offer
    yielded = offer is not None and offer.target_yielded
    stopped = inhibited(turn, attempt.purpose, cold=attempt.cold, releasing=attempt.releasing, yielding=yielded)
    if stopped is not None:
        drop(turn, stopped[0], f"an inhibit came between commit and win: {stopped[1]}")
        return
    stepped_back = yielded and offer is not None and offer.target is not None and offer.target.unfit
    if attempt.releasing and stepped_back:
        turn.remember(consented=True)
    if attempt.cold and offer is not None:
        won_with = {r.resource: r.current & MASK for r in offer.candidate.replicas if r.current is not None}
        turn.remember(cold_win=ColdWin(guard.boot_id, won.era, won_with))
    right = Right(
        purpose=attempt.purpose,
        era=won.era,
        version=won.version,
        committed=attempt.committed,
        connects=attempt.connects,
        job=attempt.job,
        cold=attempt.cold,
        releasing=attempt.releasing,
        target_live=offer is not None and offer.fresh == "live" and not stepped_back,
    )
    turn.remember(won=won.version)
    turn.put(right=right, attempt=None)
    turn.note("won", f"won era {won.era} for `{won.purpose}`", era=won.era, version=won.version, purpose=won.purpose)


def heard_refused(turn: Turn, refused: Refused) -> None:
    attempt = turn.guard.attempt
    if attempt is not None and attempt.nonce == refused.nonce:
        drop(turn, refused.reason, refused.text)


def drop(turn: Turn, reason: str, text: str) -> None:
    """End the claim under way. Its nonce is dead: a late `Won` of it gives nothing."""
    attempt = turn.guard.attempt
    if attempt is None:
        return
    turn.put(attempt=None)
    if attempt.dry:
        _answer_dry(turn, attempt, reason, text)
        return
    turn.note("claim-ended", f"the claim for `{attempt.purpose}` ended: {text}", reason=reason, job=attempt.job or "")
    pages = {"PERSON": "person", "PREFER_T": "prefer-peer"}
    verdict = str(turn.guard.last_verdict.get("verdict", ""))
    if turn.guard.last_verdict.get("reason") == reason and verdict in pages and attempt.job is not None:
        turn.page_once(pages[verdict], f"no node is fenced and none is promoted: {text}", reason=reason)
    retry = turn.guard.policy.handler_retry_s_min * (1 + turn.fraction())
    when = after(turn.now, retry)
    turn.put(
        agents=tuple(replace(j, retry=when, said=text) if j.id == attempt.job else j for j in turn.guard.agents),
        handlers=tuple(
            replace(j, retry=when, said=text, tries=j.tries + 1) if j.id == attempt.job else j
            for j in turn.guard.handlers
        ),
    )


def time_out(turn: Turn) -> None:
    """A claim that nobody answered is given up; the next one has a new nonce."""
    attempt = turn.guard.attempt
    if attempt is None:
        return
    if attempt.committed is not None:
        if turn.since(attempt.committed) > turn.guard.policy.fire_s:
            drop(turn, "no-answer", "the arbiter did not answer the commit within T_fire")
    elif attempt.offer is None and turn.since(attempt.sent) > ASKED_S_MAX + (
        turn.guard.policy.yield_s if attempt.want_yield else 0.0
    ):
        drop(turn, "no-answer", "the arbiter did not answer the claim")
    elif attempt.offer is not None and turn.since(attempt.offered) > attempt.offer.window_s:
        drop(turn, "offer-passed", "the offer's window passed before everything was ready")


def dry_runs(turn: Turn) -> None:
    """`pairguard verdict`: claim like a real one up to the offer, and commit nothing."""
    guard = turn.guard
    if not guard.dry or guard.attempt is not None:
        return
    job = guard.dry[0]
    why = obstacle(turn, job.purpose)
    if why is not None and why[0] not in ("inhibited", "peer-alive", "holding"):
        turn.put(dry=guard.dry[1:])
        turn.do(AnswerPerson(job.id, why[0], why[1]))
        return
    begin(turn, job.purpose, job.id)
    if turn.guard.attempt is not None:
        turn.put(attempt=replace(turn.guard.attempt, dry=True))


def _answer_dry(turn: Turn, attempt: Attempt, reason: str, text: str) -> None:
    turn.put(dry=tuple(job for job in turn.guard.dry if job.id != attempt.job))
    data = turn.guard.last_dry if attempt.offer is not None else {}
    turn.do(AnswerPerson(attempt.job or "", reason, text, data))


def tell_person(turn: Turn) -> None:
    """Page for as long as a request waits for what only a person may be able to mend."""
    guard = turn.guard
    if not guard.agents and not guard.handlers and guard.paged.isdisjoint(PERSONS):
        return
    asked: list[tuple[Purpose, AgentJob | HandlerJob]] = [("fence", j) for j in guard.agents if j.stage == "wait"]
    asked += [("alone", j) for j in guard.handlers]
    found: dict[str, str] = {}
    for purpose, job in asked:
        if turn.since(job.since) < guard.policy.cluster_gone_s:
            continue
        unread = isinstance(job, HandlerJob) and guard.volumes is not None and not seen_since(guard, job)
        why = ("drbd-unread", UNREAD) if unread else obstacle(turn, purpose)
        if why is not None and why[0] in PERSONS:
            found[why[0]] = why[1]
    for reason, price in PERSONS.items():
        if reason in found:
            turn.page_once(reason, f"a request of the cluster waits, {price}: {found[reason]}")
        else:
            turn.unpage(reason)


# ------------------------------------------------------------------ of our own accord


def peer_unfit(turn: Turn) -> bool:
    """The peer's guard, heard a moment ago, says that its own cluster is unfit."""
    ack = turn.guard.ack
    if ack is None or ack.peer_hold is None or ack.peer_heard_s is None or not arbiter_up(turn.guard, turn.now):
        return False
    return ack.peer_hold.unfit and ack.peer_heard_s <= turn.guard.policy.heard_s


def cold_start(turn: Turn) -> None:
    """After T_cold alone, nothing running, no winner: the guard itself claims `alone` (section 4, Cold start)."""
    guard = turn.guard
    if not cold(guard) or guard.attempt is not None:
        return
    members, won = guard.members, guard.memory.cold_win
    if won is not None and won.boot_id == guard.boot_id and members is not None and members.quorate is not False:
        return  # won on this boot and unblocked: Pacemaker and DRBD ask from here on
    if members is None or members.peer_member is not False or guard.ack is None or guard.ack.register is None:
        return
    register = guard.ack.register
    waited = min(turn.since(guard.started), guard.network.quiet_for_s(turn.now))
    wait_s = guard.policy.cold_s
    if guard.peer_up_at is not None:  # it may be about to join; and of two that live the preferred one claims first
        waited = min(waited, turn.since(guard.peer_up_at))
        wait_s += COLD_SECOND_S if register.preferred == guard.peer else 0.0
    due = register.winner == guard.me or waited >= wait_s
    if due and register.winner != guard.peer and turn.every("cold", 5.0) and obstacle(turn, "alone", cold=True) is None:
        begin(turn, "alone", None, cold=True)


def barred(guard: Guard) -> bool:
    """The peer won this era, or it cannot be known whether it did."""
    register = guard.ack.register if guard.ack is not None else None
    return register is None or register.winner == guard.peer
