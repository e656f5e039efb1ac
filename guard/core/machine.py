"""One guard of a pair: every event goes through `step`, and everything that it decides comes out of it.

1. Pure: the same state, event and moment give the same step.
2. A step's memory is durable before its effects are carried out; the shell keeps that order (S6).
3. A guard start sets every right to none, gives old intents their drain, and bars until the register was read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from guard.core import attesting, claiming, close, disturbance, drain, hold, shot, yielding
from guard.core.attest import Halves
from guard.core.evidence import Power, Up
from guard.core.instant import Instant, after
from guard.core.messages import (
    Answer,
    Ask,
    AskNonce,
    Attest,
    Beat,
    BeatAck,
    Bye,
    Claim,
    CloseAnswer,
    CloseAsk,
    Closed,
    CloseEra,
    Commit,
    InhibitStored,
    Init,
    LiftInhibit,
    NonceIs,
    Offer,
    Refused,
    SessionHalf,
    SetInhibit,
    Won,
)
from guard.core.policy import Policy
from guard.core.sight import BusSeen, Network, ReplicationSeen, Sight, Sighting
from guard.core.step import (
    AcceptStore,
    AgentAsks,
    AskRelease,
    Bar,
    BusState,
    ClientGone,
    DryRun,
    Event,
    Forecasted,
    HandlerAsks,
    Heard,
    HoldWritten,
    JournalState,
    Leaving,
    Memory,
    OpenHold,
    PowerRead,
    ReadPower,
    Reconsider,
    Resumed,
    Retuned,
    SawCluster,
    SawMembers,
    SawProbe,
    SawStored,
    SawVolumes,
    SawWrites,
    Seen,
    ShotEnded,
    Step,
    Suspended,
    SuspendWrites,
    Tick,
)
from guard.core.turn import (
    AgentJob,
    DryJob,
    Guard,
    HandlerJob,
    Turn,
    arbiter_up,
    connected,
    inhibits,
    peer_silent,
    unfit,
    whole,
)
from guard.core.writes import Ledger, fold
from guard.core.writes import age as write_age

LEDGER_S = 10.0  # how often the write ledger is made durable; its copy at the arbiter is newer (every attest)
SOUNDED_S_MAX = 6.0  # an older power reading says nothing of a fence device now
LEASE_TICK_S = 10.0  # how often the durable rest of a lease is counted down


def start(
    me: str,
    peer: str,
    *,
    policy: Policy,
    sight: Sight,
    horizon_s: float | None,
    memory: Memory | None,
    boot_id: str,
    seed: str,
    now: Instant,
    stream: bool = False,
    stuck: frozenset[str] = frozenset(),
    torn: bool = False,
) -> tuple[Guard, Step]:
    """A guard at its start (law 3). The shell has killed and emptied the shot cgroups before, all but those of `stuck`
    (ids of intents): a process there does not die yet, and `ShotEnded` comes once it has.

    `horizon_s` is H of the peer's fence device, None = unbounded; `stream`: its agent speaks TCP, each
    command answered before the next, so nothing is left of a shot whose effect it has seen. `memory` None: this node
    never had a guard.
    `torn`: a record after this memory may have been lost, so it is taken as one that was put back from a copy.
    `seed` is at least 128 random bits.
    """
    guard = Guard(
        me=me,
        peer=peer,
        policy=policy,
        sight=sight,
        seed=seed,
        boot_id=boot_id,
        started=now,
        memory=memory if memory is not None else Memory(boot_id=boot_id),
        horizon_s=horizon_s,
        stream=stream,
        network=Network.at_start(now),
        halves=Halves(boot_id),
    )
    if guard.memory.ledger_boot == boot_id:  # its instants are of this boot: what was seen before the restart counts
        guard = replace(guard, ledgers=guard.memory.ledgers)
    turn = Turn(guard, now)
    if memory is None or torn:
        drain.forgotten_shots(turn, horizon_s)
    if torn:
        turn.remember(since_era=None)  # the era that the arbiter names next: no win of it is handed back
    drain.drain_at_start(turn, horizon_s, stuck)
    if turn.guard.memory.promise is not None:
        # A yield survives a boot: suspend again before Pacemaker starts.
        turn.do(SuspendWrites(turn.guard.memory.promise.nonce))
    turn.note("guard-started", f"guard of {me} started", boot_id=boot_id, era=turn.guard.memory.era)
    step_out = turn.step()
    return turn.guard, replace(step_out, memory=turn.guard.memory)


def step(guard: Guard, event: Event, now: Instant) -> tuple[Guard, Step]:
    """The guard after one event, and what the shell must do about it."""
    turn = Turn(guard, now)
    _take(turn, event)
    _advance(turn)
    return turn.guard, turn.step()


def _take(turn: Turn, event: Event) -> None:
    guard = turn.guard
    match event:
        case Tick():
            if turn.every("lease", LEASE_TICK_S):
                hold.leases(turn, LEASE_TICK_S)
        case Heard(sender, _):
            _hear(turn, sender, event)
        case SawVolumes(volumes):
            if guard.volumes is not None and volumes.at < guard.volumes.at:
                broke = connected(guard) and not connected(replace(guard, volumes=volumes))
                if not (volumes.gap or broke):
                    return  # overtaken by a later look
                volumes = replace(guard.volumes, gap=True)  # the link that is up now is not the one before
            elif guard.volumes is not None:
                volumes = volumes.over(guard.volumes)
            first, before = guard.volumes is None, guard.memory.generations
            attesting.saw_volumes(turn, volumes)
            if first:
                attesting.kept_after_restart(turn, volumes, before)
            member = guard.members.peer_member if guard.members is not None else None
            _see(turn, ReplicationSeen(connected(turn.guard), member))
        case SawStored(volumes):
            turn.put(stored=volumes)
        case SawWrites(samples):
            ledgers = dict(guard.ledgers)
            for sample in samples:
                ledger = ledgers.get(sample.resource) or Ledger(sample.resource, guard.policy.sampling_s)
                ledgers[sample.resource] = fold(ledger, sample)
                if write_age(ledger, turn.now) is None and write_age(ledgers[sample.resource], turn.now) is not None:
                    turn.soon("attest")  # a death right now would else find no age to compare
            turn.put(ledgers=ledgers)
            if turn.every("ledger", LEDGER_S):
                turn.remember(ledgers=ledgers, ledger_boot=guard.boot_id)
        case SawMembers(members):
            turn.put(members=members)
            if guard.volumes is not None:
                _see(turn, ReplicationSeen(connected(guard), members.peer_member))
            _own_cluster(turn)
        case SawCluster(view):
            turn.put(cluster=view)
            _own_cluster(turn)
        case Seen(what):
            _see(turn, what)
        case SawProbe(answered):
            turn.put(probe=answered)
        case BusState(is_connected):
            turn.put(bus=is_connected)
            _see(turn, BusSeen(is_connected))
            if is_connected:
                for duty in ("beat", "attest", "half", "set-inhibit"):
                    turn.soon(duty)
        case AgentAsks():
            until = after(turn.now, event.wait_s)
            job = AgentJob(event.id, event.action, event.target, turn.now, until)
            turn.put(agents=(*guard.agents, job))
            turn.soon("look")
            turn.note(
                "agent-asks", f"the cluster asks to fence {event.target}", action=event.action, wait_s=event.wait_s
            )
        case HandlerAsks(job_id, resource):
            turn.put(handlers=(*guard.handlers, HandlerJob(job_id, resource, turn.now, guard.halves.connects)))
            turn.soon("look")
            turn.note("handler-asks", f"DRBD asks to fence the peer of {resource}", resource=resource)
        case ClientGone():
            shot.client_gone(turn, event)
        case DryRun(job_id, purpose):
            turn.put(dry=(*guard.dry, DryJob(job_id, purpose, turn.now)))
        case PowerRead():
            shot.power_read(turn, event)
        case Reconsider():
            shot.reconsider(turn, event)
        case ShotEnded():
            shot.shot_ended(turn, event)
        case Suspended():
            yielding.suspended(turn, event)
        case Resumed(done):
            yielding.resumed(turn, done)
        case Forecasted(without_hold, forecast):
            turn.put(forecasts={**guard.forecasts, without_hold: (forecast, turn.now)})
        case HoldWritten():
            hold.written(turn, event)
        case OpenHold():
            hold.open_by_person(turn, event)
        case AskRelease():
            hold.ask_release(turn, event)
        case AcceptStore(job_id):
            attesting.accept_store(turn, job_id)
        case JournalState(ok):
            _journal(turn, ok)
        case Retuned(policy):
            turn.put(policy=policy)
        case Leaving():
            turn.tell_arbiter(Bye("stopped in order"))
        case _:
            assert_never(event)


def _journal(turn: Turn, ok: bool) -> None:
    """Without a durable memory nothing is claimed and nothing fired; brakes hold all the same."""
    if ok:
        turn.put(journal_ok=True)
        turn.unpage("journal-failed")
        return
    waiting = tuple(replace(j, stage="wait") if j.stage == "armed" else j for j in turn.guard.agents)
    turn.put(journal_ok=False, attempt=None, right=None, closing=None, yielding=None, agents=waiting)
    turn.page_once("journal-failed", "the journal cannot be written: this node claims nothing and fires nothing")


def _hear(turn: Turn, sender: str, event: Heard) -> None:
    """Who may say what: the arbiter answers, the peer's guard names sessions and closes. All else is ignored."""
    message = event.message
    if sender == turn.guard.peer:
        match message:
            case SessionHalf():
                attesting.heard_half(turn, message)
            case CloseAsk():
                close.heard_ask(turn, message)
            case CloseAnswer():
                close.heard_answer(turn, message)
            case _:
                turn.note("ignored", f"{sender} may not say {message.kind}", message=message.kind)
        return
    if sender != "arbiter":
        turn.note("ignored", f"{sender} is no party of this pair", message=message.kind)
        return
    match message:
        case BeatAck():
            attesting.heard_ack(turn, message)
            hold.adopt(turn)
        case Ask():
            yielding.heard_ask(turn, message)
        case Offer():
            claiming.heard_offer(turn, message)
        case Refused():
            claiming.heard_refused(turn, message)
            close.heard_refused(turn, message)
            hold.heard_refused(turn, message)
        case Won():
            claiming.heard_won(turn, message)
        case Closed():
            close.heard_closed(turn, message)
        case NonceIs():
            yielding.heard_nonce(turn, message)
        case InhibitStored():
            pass  # the next beat's answer shows the arbiter's whole list
        case Answer() | AskNonce() | Attest() | Beat() | Bye() | Claim() | CloseAnswer() | CloseAsk():
            turn.note("ignored", f"the arbiter may not say {message.kind}", message=message.kind)
        case CloseEra() | Commit() | Init() | LiftInhibit() | SessionHalf() | SetInhibit():
            turn.note("ignored", f"the arbiter may not say {message.kind}", message=message.kind)
        case _:
            assert_never(message)


def _see(turn: Turn, what: Sighting) -> None:
    """A sighting of the network; new signs brake at once."""
    network, signs = disturbance.step(turn.guard.network, what, turn.now, turn.guard.sight)
    if network is not turn.guard.network:
        turn.put(network=network)
    if signs:
        hold.brake_for_network(turn, signs)


def _own_cluster(turn: Turn) -> None:
    """Since when our own corosync or controller does not answer (a yield may be offered then)."""
    guard = turn.guard
    members, view = guard.members, guard.cluster
    gone = (members is not None and members.running is not Up.UP) or (view is not None and view.controller is not Up.UP)
    if gone and guard.cluster_lost is None:
        turn.put(cluster_lost=turn.now)
    elif not gone and guard.cluster_lost is not None:
        turn.put(cluster_lost=None)


def _advance(turn: Turn) -> None:
    """Everything that may follow from what is known now, in the order of duty: brake first, fire last."""
    _wholeness(turn)
    hold.calm(turn)
    hold.advance(turn)
    attesting.duties(turn)
    claiming.time_out(turn)
    yielding.ask_promise(turn)
    close.advance(turn)
    claiming.gather(turn)
    claiming.cold_start(turn)
    _releasing_claim(turn)
    _winner_gone(turn)
    shot.advance(turn)
    drain.switch_on(turn)
    drain.tell(turn)
    claiming.dry_runs(turn)
    _constraint(turn)


def _constraint(turn: Turn) -> None:
    """Our constraint against the peer's promotion: there while we run alone, taken back (K6) once nobody does.

    Repeated: an edit of the cluster may fail and a `Closed` be lost; neither order changes anything the second time.
    """
    guard = turn.guard
    register = guard.ack.register if guard.ack is not None else None
    if close.own_constraint(guard):
        if turn.every("bar", 30.0):
            turn.do(Bar(guard.peer, on=True))
    elif register is not None and register.winner is None and whole(guard) is True and turn.every("unbar", 30.0):
        turn.do(Bar(guard.peer, on=False))


def _wholeness(turn: Turn) -> None:
    is_whole = whole(turn.guard)
    if is_whole is True and turn.guard.whole_since is None:
        turn.put(whole_since=turn.now, ever_whole=True)
        turn.note("whole", "one membership, controllers up, replication connected, every disk UpToDate")
        for page in ("person", "prefer-peer"):
            turn.unpage(page)
    elif is_whole is not True and turn.guard.whole_since is not None:
        turn.put(whole_since=None)
        turn.note("not-whole", "the pair is not whole any more")


def _winner_gone(turn: Turn) -> None:
    """The peer won the era and is gone: its data are the newest, so this node waits for ever. A person must know."""
    guard = turn.guard
    register = guard.ack.register if guard.ack is not None else None
    silent = peer_silent(guard) and whole(guard) is not True and not _arbiter_hears_it(turn)
    if silent != (guard.silent_since is not None):
        turn.put(silent_since=turn.now if silent else None)
    if register is None or register.winner != guard.peer or not silent:
        turn.unpage("winner-gone")
        return
    if turn.since(turn.guard.silent_since) >= guard.policy.cluster_gone_s:
        text = (
            f"{guard.peer} won era {register.era} and is silent: the newest data are there; this node stays barred. "
            f"Bring {guard.peer} back, or decide as a person"
        )
        turn.page_once("winner-gone", text, era=register.era, used=list(register.used))


def _arbiter_hears_it(turn: Turn) -> bool:
    """The winner is only out of our sight: it lives, and is silent to nobody but this node."""
    ack = turn.guard.ack
    if ack is None or ack.peer_heard_s is None or not arbiter_up(turn.guard, turn.now):
        return False
    return ack.peer_heard_s <= turn.guard.policy.heard_s


def _releasing_claim(turn: Turn) -> None:
    """Every inhibit has ended by its own evidence and all is quiet; only "not whole" keeps the hold (exception a).

    A peer that lives but whose cluster is unfit is asked to yield: that ends `peer-alive`, and with it this stands as
    over a silent one. Only beside a fence device that reads `on`: nobody stops writing for a fence that cannot come.
    """
    guard = turn.guard
    if not guard.memory.holding or guard.attempt is not None or guard.right is not None:
        return
    if guard.members is not None and guard.members.peer_member is True:
        return  # it is there: only Pacemaker's join or the resync is missing, and that comes by itself
    if unfit(turn):
        return  # won, it would only bar a peer that can serve
    asks = claiming.peer_unfit(turn) or guard.memory.consented
    why = hold.refusal(turn)
    standing = [i for i in inhibits(guard) if not i.ended]
    if standing and asks and all(i.kind == "peer-alive" for i in standing):
        why = ("not-whole", "the peer may yet yield")
    if why is None or why[0] != "not-whole" or guard.network.quiet_for_s(turn.now) < guard.policy.settle_s:
        return
    if asks and not _peer_on(turn):
        return
    if not turn.every("releasing", 5.0 + turn.fraction()):
        return
    if claiming.obstacle(turn, "alone", releasing=True, yielding=asks) is None:
        claiming.begin(turn, "alone", None, releasing=True, want_yield=asks)


def _peer_on(turn: Turn) -> bool:
    """The peer's fence device answered our own reading a moment ago: on."""
    guard = turn.guard
    if guard.sounded is Power.ON and turn.since(guard.sounded_at) <= SOUNDED_S_MAX:
        return True
    if turn.every("sound", SOUNDED_S_MAX):
        token = turn.nonce()
        turn.put(sounding=token)
        turn.do(ReadPower(token, guard.peer, 0.0))
    return False
