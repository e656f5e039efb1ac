"""A guard's own testimony: what it says of itself in beats, attests, claims and answers, and naming the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guard.core import hold
from guard.core.evidence import Disk, Link, Replica, Role, Volumes
from guard.core.instant import Age, Instant
from guard.core.messages import Attest, Beat, BeatAck, Evidence, RegisterView, ReplicaStatement, SessionHalf
from guard.core.step import AnswerPerson, OutdateOwn, SessionKept
from guard.core.turn import Guard, Turn, cluster_word, connected, peer_silent, primary, session, undrained, unfit, whole
from guard.core.writes import age as write_age

MASK = ~1  # bit 0 of a generation identifier is the role (facts: DRBD)
HALF_S = 0.3  # a session half is repeated this often until it is echoed
BEAT_SPREAD = 0.25  # 200 guards that one breaker switched on do not beat in step for ever


def saw_volumes(turn: Turn, volumes: Volumes) -> None:
    """Follow the replication connection: connect, loss, gap; and whether the own disk ever left UpToDate."""
    before, had = connected(turn.guard), turn.guard.volumes is not None
    changed = turn.guard.volumes is None or turn.guard.volumes.replicas != volumes.replicas
    turn.put(volumes=volumes)
    continuous = dict(turn.guard.memory.continuous)
    _cold_win_stands(turn, volumes)
    for replica in volumes.replicas:
        # A look that failed says nothing: a disk that left UpToDate unseen comes back only by a resync, whole.
        if replica.disk not in (Disk.UP_TO_DATE, Disk.UNKNOWN) and replica.link is not Link.DOWN:
            continuous[replica.resource] = False
    if continuous != turn.guard.memory.continuous:
        turn.remember(continuous=continuous)
    _remember_generations(turn, volumes)
    now = connected(turn.guard)
    if before and (not now or volumes.gap):
        _lost(turn)
    kept = turn.guard.memory.session
    if now and kept is not None and kept.primary and not primary(turn.guard):
        turn.remember(session=replace(kept, primary=False))  # switched over: from here on the peer may be sitting
    if now and (not before or volumes.gap):
        turn.put(halves=turn.guard.halves.connected(turn.nonce()), ever_connected=True)
        turn.soon("half")
    if not had and not now:
        turn.put(lost_at=turn.now)
    if changed:
        turn.soon("attest")


def _cold_win_stands(turn: Turn, volumes: Volumes) -> None:
    """What a cold start was won with counts until that disk is known to have left Consistent and UpToDate."""
    won = turn.guard.memory.cold_win
    if won is None:
        return
    good = (Disk.UP_TO_DATE, Disk.CONSISTENT, Disk.UNKNOWN)
    lost = {r.resource for r in volumes.replicas if r.disk not in good and r.link is not Link.DOWN}
    if lost & set(won.generations):
        kept = {name: generation for name, generation in won.generations.items() if name not in lost}
        turn.remember(cold_win=replace(won, generations=kept))


def _cold_winner(guard: Guard) -> bool:
    won = guard.memory.cold_win
    return won is not None and (won.boot_id, won.era) == (guard.boot_id, guard.memory.era)


def _won_cold(turn: Turn, replica: Replica) -> bool:
    """A cold start was won with this very generation, or with the one that it descends from, on this boot."""
    won, now = turn.guard.memory.cold_win, replica.generations
    if won is None or now is None or not _cold_winner(turn.guard):
        return False
    line = {identifier & MASK for identifier in (now.current, now.bitmap, *now.history)}
    return won.generations.get(replica.resource) in line


def _remember_generations(turn: Turn, volumes: Volumes) -> None:
    """The last generation of every good own disk: after a restart it shows that nobody wrote here meanwhile."""
    seen = dict(turn.guard.memory.generations)
    for replica in volumes.replicas:
        if replica.disk is Disk.UP_TO_DATE and replica.generations is not None:
            seen[replica.resource] = replica.generations.current & MASK
    if seen != turn.guard.memory.generations:
        turn.remember(generations=seen)


def _lost(turn: Turn) -> None:
    named = turn.guard.halves.session(turn.guard.me, turn.guard.peer)
    kept = turn.guard.memory.session
    attested_now = kept is not None and named == kept.name
    # A session that was never attested ties nothing: the attested one before it counts until a new one is.
    lost = named if attested_now or kept is None else kept.name
    turn.put(halves=turn.guard.halves.lost(), lost=lost, lost_at=turn.now)
    turn.note("replication-lost", "the replication connection broke", session=lost or "")
    turn.soon("attest")


def heard_half(turn: Turn, message: SessionHalf) -> None:
    halves = turn.guard.halves.heard(message)
    if halves != turn.guard.halves:
        turn.put(halves=halves)
        turn.soon("half")
        turn.soon("attest")


def heard_ack(turn: Turn, ack: BeatAck) -> None:
    """Re-read everything. Another store or a lower version is believed by nobody (S6)."""
    memory = turn.guard.memory
    register = ack.register
    if _outdated(turn, ack):
        return
    doubt = _doubt(turn, register)
    if doubt is not None:
        turn.put(store_doubted=True, right=None)
        text = f"the arbiter answers from {doubt}: it is not believed; while the pair is whole run `pairguard init`"
        turn.page_once("store-doubted", text, known=memory.version)
        return
    # The answer is as old as the beat that it answers: `seq` is our own clock's moment of that beat.
    turn.put(ack=ack, acked=Instant(ack.seq), store_doubted=False)
    heard = ack.peer_heard_s is not None and ack.peer_heard_s <= turn.guard.policy.heard_s
    if heard != (turn.guard.peer_up_at is not None):
        turn.put(peer_up_at=turn.now if heard else None)
    turn.unpage("store-doubted")
    if register is None:
        turn.page_once("no-register", "this pair has no register: run `pairguard init` once, while it is whole")
        return
    turn.unpage("no-register")
    if register.version == 1 and any(i.era == 0 for i in turn.guard.memory.intents):
        # The register is as it was made: nobody ever won, so no shot was ever fired (drain.forgotten_shots). But one
        # that is seen to live is of an older register.
        kept = tuple(i for i in turn.guard.memory.intents if i.era != 0 or i.id in turn.guard.stuck)
        turn.remember(intents=kept)
    era_changed = register.era != memory.era
    if turn.guard.met is None:
        turn.put(met=register.version)
    if memory.since_era is None:
        turn.remember(since_era=register.era)
    if (memory.store_id, memory.version, memory.era) != (register.store_id, register.version, register.era):
        turn.remember(store_id=register.store_id, version=register.version, era=register.era)
        turn.put(version_at=turn.now)
    if era_changed:
        shots = tuple(i for i in memory.intents if i.spawned and (i.drained is None or i.drained > turn.now))
        turn.remember(used=(), confirmed_off=False, owes_on=False, consented=False, cold_win=None, intents=shots)
        turn.put(right=None, closing=None)
        turn.soon("unbar")
        turn.soon("attest")
    if memory.session is not None and ack.attested == memory.session.name and memory.session.era != register.era:
        # A hand-back: the attested session stays attested in the new era.
        turn.remember(session=replace(memory.session, era=register.era))
    _attested(turn, ack)
    if ack.outdate and not primary(turn.guard) and _may_be_outdated(turn.guard) and turn.every("outdate", 5.0):
        turn.do(OutdateOwn())


def _may_be_outdated(guard: Guard) -> bool:
    """A disk of ours still passes for good. DRBD refuses while connected; one that is down has nothing to outdate."""
    replicas = guard.volumes.replicas if guard.volumes is not None else ()
    worse, not_now = (Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS), (Link.CONNECTED, Link.RESYNC, Link.DOWN)
    return any(r.disk not in worse and r.link not in not_now for r in replicas)


def _outdated(turn: Turn, ack: BeatAck) -> bool:
    """An answer that was overtaken, or that was given before the arbiter wrote what this guard knows by now."""
    guard = turn.guard
    if ack.seq > turn.now or (guard.ack is not None and ack.seq < guard.ack.seq):
        return True
    lower = ack.register is not None and ack.register.version < guard.memory.version
    return lower and guard.version_at is not None and ack.seq <= guard.version_at


def _doubt(turn: Turn, register: RegisterView | None) -> str | None:
    """What is wrong with the arbiter's memory, or None. A guard that never saw a register believes the first."""
    memory = turn.guard.memory
    if memory.store_id is None:
        return None
    if register is None:
        return "a store without this pair's register"
    if register.store_id != memory.store_id:
        return "another store"
    return "an older register" if register.version < memory.version else None


def _attested(turn: Turn, ack: BeatAck) -> None:
    """Both ends named the same session: remember it with this node's own part."""
    named = turn.guard.halves.session(turn.guard.me, turn.guard.peer)
    if ack.attested is None or ack.register is None or named != ack.attested or turn.guard.volumes is None:
        return
    replicas = turn.guard.volumes.replicas
    name, era, is_primary = ack.attested, ack.register.era, primary(turn.guard)
    generations = {r.resource: r.generations.current & MASK for r in replicas if r.generations is not None}
    continuous = {r.resource: r.disk is Disk.UP_TO_DATE for r in replicas}
    known = turn.guard.memory.session
    same = known is not None and (known.name, known.era, known.primary) == (name, era, is_primary)
    if known is None or not same or known.generations != generations or continuous != turn.guard.memory.continuous:
        kept = SessionKept(name, era, generations, is_primary)
        turn.remember(session=kept, continuous=continuous, boot_id=turn.guard.boot_id)
        turn.note("attested", "both ends testified the same session", session=name)


def duties(turn: Turn) -> None:
    """Beats, attests and session halves when they are due."""
    guard = turn.guard
    if turn.every("beat", guard.policy.beat_s, spread=BEAT_SPREAD):
        turn.tell_arbiter(_beat(turn), expires_s=1.0)
    if guard.halves.mine is not None and (not guard.halves.echoed or _peer_names_another(turn)):
        if turn.every("half", HALF_S):
            _say_half(turn)
    elif guard.halves.mine is not None and turn.every("half-slow", 5.0):
        _say_half(turn)
    if guard.volumes is not None and turn.every("attest", guard.policy.attest_s):
        turn.tell_arbiter(Attest(turn.now, evidence(turn)))


def _peer_names_another(turn: Turn) -> bool:
    ack = turn.guard.ack
    return ack is not None and ack.peer_session != turn.guard.halves.session(turn.guard.me, turn.guard.peer)


def _say_half(turn: Turn) -> None:
    message = turn.guard.halves.said()
    if message is not None:
        turn.send(turn.guard.peer, message, expires_s=1.0)


def _beat(turn: Turn) -> Beat:
    guard = turn.guard
    register = guard.ack.register if guard.ack is not None else None
    known = guard.ever_whole and guard.memory.session is not None
    lost = peer_silent(guard) and known and (register is None or register.winner is None)
    return Beat(
        seq=turn.now,
        session=guard.halves.session(guard.me, guard.peer),
        connected=connected(guard),
        peer_member=guard.members.peer_member if guard.members is not None else None,
        peer_lost=lost,
        whole=whole(guard),
        hold=hold.statement(turn),
    )


def evidence(turn: Turn, *, cold: bool = False) -> Evidence:
    """This node's testimony now. `cold`: from metadata read before `drbdadm up`, where nothing is up."""
    guard = turn.guard
    live = {r.resource: r for r in guard.volumes.replicas} if guard.volumes is not None else {}
    stored = {r.resource: r for r in guard.stored.replicas} if guard.stored is not None else {}
    names = sorted(set(live) | set(stored))
    statements = []
    for name in names:
        replica = live.get(name)
        from_metadata = cold and name in stored and (replica is None or replica.link is Link.DOWN)
        source = stored[name] if from_metadata else replica if replica is not None else stored[name]
        statements.append(_statement(turn, source, from_metadata))
    return Evidence(
        node=guard.me,
        boot_id=guard.boot_id,
        era=guard.memory.era,
        session=session(guard),
        connected=connected(guard) and guard.halves.session(guard.me, guard.peer) is not None,
        replicas=tuple(statements),
        cluster=cluster_word(turn),
        peer_member=guard.members.peer_member if guard.members is not None else None,
        cold=cold or _cold_winner(guard),
        unfit=unfit(turn),
    )


def _statement(turn: Turn, replica: Replica, from_metadata: bool) -> ReplicaStatement:
    guard = turn.guard
    generations = None if replica.unverified else replica.generations
    ledger = guard.ledgers.get(replica.resource)
    # What is down nobody watched; after a boot the arbiter knows what was attested before it (lastwords).
    age = write_age(ledger, turn.now) if ledger is not None and replica.link is not Link.DOWN else None
    if age is not None and replica.role is Role.PRIMARY and replica.link not in (Link.CONNECTED, Link.RESYNC):
        # Cut, one write may be under way: on this disk and perhaps on the peer's, acknowledged nowhere. Without this
        # a secondary that took it in the last moment would seem to have written after its primary (V15, V16).
        age = Age(0.0, age.hi_s)
    continuous = guard.memory.continuous.get(replica.resource, False) or _won_cold(turn, replica)
    disk = replica.disk
    if from_metadata:
        # Cold continuity (E3): the attested generation, consistent and was-up-to-date, as metadata tells it.
        kept = guard.memory.session
        known = guard.memory.generations.get(replica.resource) if kept is not None else None
        same = generations is not None and known is not None and generations.current & MASK == known
        continuous = same and replica.was_up_to_date is True
        disk = Disk.CONSISTENT if continuous else disk
    return ReplicaStatement(
        resource=replica.resource,
        disk=disk.value,
        peer_disk=replica.peer_disk.value,
        role=(Role.SECONDARY if from_metadata else replica.role).value,
        current=generations.current if generations is not None else None,
        bitmap=generations.bitmap if generations is not None else 0,
        history=generations.history if generations is not None else (),
        gate=None if replica.unverified else replica.gate.closed(),
        age_lo_s=age.lo_s if age is not None else None,
        age_hi_s=age.hi_s if age is not None else None,
        continuous=continuous,
    )


def kept_after_restart(turn: Turn, volumes: Volumes, before: Mapping[str, int]) -> None:
    """A guard start while connected or cut: the stored session counts if boot, generation and disk are as stored.

    `before`: the generations as they were remembered at the start. On another boot the session keeps its name, for
    a cold claim that metadata must support, but nobody was Primary and no disk is continuous by it.
    """
    kept = turn.guard.memory.session
    if kept is None:
        return
    same = turn.guard.memory.boot_id == turn.guard.boot_id and all(
        r.generations is not None
        and r.disk is Disk.UP_TO_DATE
        and before.get(r.resource) == r.generations.current & MASK
        for r in volumes.replicas
    )
    if not same:
        turn.remember(session=replace(kept, primary=False), continuous={})
        turn.note("session-forgotten", "after this start the stored session proves nothing: attest anew")


def accept_store(turn: Turn, job: str) -> None:
    """A person made new registers: forget the old store. Only while whole, with nothing of ours under way."""
    guard = turn.guard
    busy = guard.attempt is not None or guard.right is not None or any(j.stage != "wait" for j in guard.agents)
    if whole(guard) is not True or busy or undrained(guard, turn.now):
        text = "the pair is not whole, or a claim or shot of this node is under way"
        turn.do(AnswerPerson(job, "not-whole", text))
        return
    turn.remember(store_id=None, version=0, era=0, session=None, continuous={}, used=(), confirmed_off=False)
    turn.remember(consented=False, cold_win=None)
    turn.put(store_doubted=False, ack=None, acked=None)
    turn.note("session-forgotten", "a person accepted the arbiter's new store")
    turn.do(AnswerPerson(job, "accepted", "the next register heard is believed"))
