"""Two candidates and one arbiter, the shipped machines themselves, through every interleaving of bounded faults.

Breadth first from one moment after a cut: DRBD's handler asks on A, the fence agent on B (and on A), each once. From
every state every message in flight may arrive, be lost, or arrive and stay for a second time; either guard and the
arbiter may die and start anew with what is durable; time may pass in steps that let a gathering, an offer or a right
run out, and meanwhile the arbiter hears both guards, or one. Devices, journals and DRBD obey at once.

1. In one era at most one node has a right, runs alone by an answer of ours, or was fenced by its peer.
2. Who does has won that era by the register; an era that was used by anybody is not over (the pair is never whole).
3. The winner of an era never changes, and a shot is fired once.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from scene import guard_of, whole_pair  # tests/core: pairs in a known state

from guard.core import arbiter, machine
from guard.core.evidence import Link, Power
from guard.core.instant import Instant, after
from guard.core.messages import ARBITER, Answer, AskNonce, Attest, Beat, BeatAck, Claim, CloseEra, Commit, Message
from guard.core.pair import Pair, Sends, Site
from guard.core.policy import Policy
from guard.core.step import (
    AgentAsks,
    AnswerHandler,
    Effect,
    Event,
    Fire,
    HandlerAsks,
    Heard,
    Memory,
    Persisted,
    PowerRead,
    ReadPower,
    ReadVolumes,
    Reconsider,
    Resumed,
    ResumeWrites,
    SawCluster,
    SawMembers,
    SawVolumes,
    Send,
    Step,
    Suspended,
    SuspendWrites,
    Tick,
    Unblock,
)
from guard.core.turn import Guard
from guard.rehearsal.network import PAIR

NODES = ("A", "B")
SITE = Site("store-1")
PASSES_S = (
    0.9,
    3.1,
)  # gatherings are over (T_corr 0.3, a target 0.8); offers (2) and rights (3) too
HEARD = (frozenset(NODES), frozenset("A"), frozenset("B"))  # of whom the arbiter hears while time passes
JOBS: dict[str, tuple[str, Event]] = {
    "handler-A": ("A", HandlerAsks("handler-A", "r0")),
    "agent-B": ("B", AgentAsks("agent-B", "off", "A", 60.0)),
    "agent-A": ("A", AgentAsks("agent-A", "off", "B", 60.0)),
}
NONCE = re.compile(r"\b[0-9a-f]{32}\b")
SHOWN = ("drawn", "seed", "last_verdict", "last_dry", "paged", "policy", "sight", "network", "forecasts")  # or constant
TO_ARBITER = (Claim, Commit, CloseEra, Answer, AskNonce)  # what travels; beats and attests are heard as time passes


class Broken(Exception):
    """A law does not hold."""


@dataclass(frozen=True)
class State:
    """Everything that a further step may depend on. `moves` is how it came about, for people."""

    guards: tuple[Guard, Guard]
    durable: tuple[Memory, Memory]
    court: Pair
    flying: tuple[tuple[str, Message, str], ...] = ()  # to, message, from
    asked: frozenset[str] = frozenset()
    passed: int = 0
    faults: int = 0
    starts: int = 0
    now: tuple[Instant, Instant, Instant] = (Instant(0), Instant(0), Instant(0))  # A's, B's, the arbiter's clock
    used: frozenset[tuple[str, int, str]] = frozenset()  # node, era, how: fired, or ran alone
    moves: tuple[str, ...] = field(default=(), compare=False)

    def digest(self) -> bytes:
        """Equal for states with the same future: nonces are named in order, what only people read is left out.

        A duty or a retry is only known to be due or not: they are drawn between 1 and 3 s, apart from `PASSES_S`.
        """
        guards = [_future(guard, now) for guard, now in zip(self.guards, self.now, strict=False)]
        told = repr(
            (guards, self.durable, self.court, self.flying, sorted(self.asked), self.passed, self.faults, self.used)
        )
        names: dict[str, str] = {}
        told = NONCE.sub(lambda found: names.setdefault(found[0], f"n{len(names)}"), told)
        return hashlib.blake2b(told.encode(), digest_size=16).digest()


def _future(guard: Guard, now: Instant) -> dict[str, object]:
    """What of a guard its next steps may depend on."""
    known = {name: value for name, value in vars(guard).items() if name not in SHOWN}
    known["due"] = sorted(name for name, at in guard.due.items() if at > now)
    for kind in ("agents", "handlers"):
        jobs: tuple[Any, ...] = getattr(guard, kind)
        known[kind] = [(replace(j, retry=None, said=""), j.retry is not None and j.retry > now) for j in jobs]
    return known


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far it goes: jobs that ask, faults (lost, repeated, died), steps of time."""

    jobs: tuple[str, ...]
    faults: int
    passes: int


CLAIM, FENCES = ("handler-A", "agent-B"), ("agent-A", "agent-B")
SMALL = (Bounds(CLAIM, faults=1, passes=0), Bounds(CLAIM, faults=0, passes=1), Bounds(FENCES, faults=0, passes=1))
LARGE = (Bounds(CLAIM, faults=1, passes=1), Bounds(FENCES, faults=1, passes=1), Bounds(tuple(JOBS), faults=0, passes=1))


def start(*, gate: bool = True) -> State:
    """A pair that was whole, 2 s after its path was cut: the cluster and DRBD know, and have not asked yet.

    `gate` False: A would go on writing alone.
    """
    world = whole_pair()
    world.network.cut(PAIR)

    def cut(name: str) -> bool:
        guard = guard_of(world, name)
        assert guard.volumes is not None
        assert guard.members is not None
        return guard.members.peer_member is False and all(r.link is not Link.CONNECTED for r in guard.volumes.replicas)

    assert world.until(lambda: all(map(cut, NODES)), 15, step_s=0.01)
    guards = []
    for name in NODES:
        guard = replace(guard_of(world, name), agents=(), handlers=(), attempt=None, right=None)
        if not gate and name == "A":
            assert guard.volumes is not None
            off = tuple(replace(r, gate=replace(r.gate, protocol="A")) for r in guard.volumes.replicas)
            guard = replace(guard, volumes=replace(guard.volumes, replicas=off))
        guards.append(guard)
    kept = world.arbiter.pair
    assert kept is not None
    court = replace(kept, gatherings={}, kept=replace(kept.kept, inhibits={}))
    now = (world.nodes["A"].local(), world.nodes["B"].local(), world.arbiter.local())
    return State((guards[0], guards[1]), (guards[0].memory, guards[1].memory), court, now=now)


# ------------------------------------------------------------------ one step


def following(state: State, bounds: Bounds) -> Iterator[State]:
    """Every state that one step leads to."""
    for name in bounds.jobs:
        if name not in state.asked:
            node, event = JOBS[name]
            asked = replace(state, asked=state.asked | {name}, moves=(*state.moves, f"{name} asks"))
            yield _guard(asked, NODES.index(node), event)
    for at, (to, message, sender) in enumerate(state.flying):
        if (to, message, sender) in state.flying[:at]:
            continue  # a copy: the same step
        less = state.flying[:at] + state.flying[at + 1 :]
        words = f"{message.kind} of {sender} to {to}"
        yield _arrives(replace(state, flying=less, moves=(*state.moves, words)), to, message, sender)
        if state.faults < bounds.faults:
            worse = replace(state, faults=state.faults + 1)
            yield replace(worse, flying=less, moves=(*state.moves, f"{words} is lost"))
            yield _arrives(replace(worse, moves=(*state.moves, f"{words}, and stays")), to, message, sender)
    if state.faults < bounds.faults:
        yield from (_restart(state, i) for i in (0, 1))
        anew = Pair(state.court.kept, state.now[2], state.court.boot_id)
        yield replace(state, court=anew, faults=state.faults + 1, moves=(*state.moves, "the arbiter starts anew"))
    if state.passed < bounds.passes:
        for seconds in PASSES_S:
            for heard in HEARD:
                yield _passes(state, seconds, heard)


def _arrives(state: State, to: str, message: Message, sender: str) -> State:
    if to == ARBITER:
        return _court(state, sender, message)
    return _guard(state, NODES.index(to), Heard(sender, message))


def _court(state: State, sender: str, message: Message) -> State:
    before = state.court
    court, sends = arbiter.hear(before, sender, message, state.now[2], 0.0, SITE, _policy(state))
    return _judged(before, _flown(replace(state, court=court), sends))


def _flown(state: State, sends: Sends) -> State:
    flying = (*state.flying, *((to, message, ARBITER) for to, message in sends))
    return replace(state, flying=tuple(sorted(flying, key=repr)))


def _policy(state: State) -> Policy:
    return state.guards[0].policy


def _passes(state: State, seconds: float, heard: frozenset[str]) -> State:
    """Time passes for everybody; at its end the arbiter ticks, hears some, and both guards tick."""
    text = f"{seconds:g} s pass, {'+'.join(sorted(heard))} heard"
    now = tuple(after(moment, seconds) for moment in state.now)
    state = replace(state, now=now, passed=state.passed + 1, moves=(*state.moves, text))  # type: ignore[arg-type]
    before = state.court
    court, sends = arbiter.tick(before, state.now[2], 0.0, SITE, _policy(state))
    state = _judged(before, _flown(replace(state, court=court), sends))
    for _ in (0, 1):  # twice: each then reads of the other what the arbiter heard of it in this step
        for i, name in enumerate(NODES):
            if name in heard:
                due = {k: v for k, v in state.guards[i].due.items() if k not in ("beat", "attest")}
                state = _with(state, i, guard=replace(state.guards[i], due=due))
            state = _guard(state, i, Tick(), heard=name in heard)
    return state


def _restart(state: State, i: int) -> State:
    """The guard dies; its successor knows what is durable and sees what its predecessor saw. DRBD asks again."""
    old, name = state.guards[i], NODES[i]
    number = state.starts + 1
    guard, step = machine.start(
        name, old.peer, policy=old.policy, sight=old.sight, horizon_s=old.horizon_s, memory=state.durable[i],
        boot_id=old.boot_id, seed=f"again-{number}", now=state.now[i],
    )  # fmt: skip
    state = replace(state, faults=state.faults + 1, starts=number, moves=(*state.moves, f"the guard of {name} dies"))
    state = _obeyed(_with(state, i, guard=guard), i, step, heard=False)
    waiting = [HandlerAsks(job.id, job.resource) for job in old.handlers]
    assert old.members is not None
    assert old.cluster is not None
    assert old.volumes is not None
    sights: tuple[Event, ...] = (SawMembers(old.members), SawCluster(old.cluster), SawVolumes(old.volumes))
    for event in (*sights, *waiting):
        state = _guard(state, i, event)
    return state


# ------------------------------------------------------------------ a guard and its hands


def _with(state: State, i: int, *, guard: Guard | None = None, memory: Memory | None = None) -> State:
    guards = list(state.guards)
    durable = list(state.durable)
    if guard is not None:
        guards[i] = guard
    if memory is not None:
        durable[i] = memory
    return replace(state, guards=(guards[0], guards[1]), durable=(durable[0], durable[1]))


def _guard(state: State, i: int, event: Event, *, heard: bool = False) -> State:
    """One event through the shipped guard, and what follows of it at once."""
    guard, step = machine.step(state.guards[i], event, state.now[i])
    return _obeyed(_with(state, i, guard=guard), i, step, heard)


def _obeyed(state: State, i: int, step: Step, heard: bool) -> State:
    if step.memory is not None:
        state = _with(state, i, memory=step.memory)
    for effect in step.effects:
        state = _hand(state, i, effect, heard)
    return _lawful(state)


def _hand(state: State, i: int, effect: Effect, heard: bool) -> State:
    name, era = NODES[i], state.guards[i].memory.era
    match effect:
        case Send(to, message, _) if to == ARBITER and isinstance(message, TO_ARBITER):
            if isinstance(message, Claim) and message.gather:
                return state
            return replace(state, flying=tuple(sorted((*state.flying, (to, message, name)), key=repr)))
        case Send(to, message, _) if to == ARBITER and isinstance(message, Beat | Attest) and heard:
            court, sends = arbiter.hear(state.court, name, message, state.now[2], 0.0, SITE, _policy(state))
            state = replace(state, court=court)
            for _, answer in sends:
                if isinstance(answer, BeatAck):
                    state = _guard(state, i, Heard(ARBITER, answer), heard=False)
            return state
        case ReadPower(token):
            return _guard(state, i, PowerRead(token, Power.ON))
        case ReadVolumes():
            seen = state.guards[i].volumes
            assert seen is not None
            return _guard(state, i, SawVolumes(replace(seen, at=after(state.now[i], 1e-9))))
        case Persisted(intent):
            return _guard(state, i, Reconsider(intent))
        case SuspendWrites(nonce):
            return _guard(state, i, Suspended(nonce, True))
        case ResumeWrites():
            return _guard(state, i, Resumed(True))
        case Fire(_, _, target):
            if any(how == "fired" and (node, used) == (name, era) for node, used, how in state.used):
                raise Broken(f"{name} fires at {target} twice in era {era}")
            return replace(state, used=state.used | {(name, era, "fired")})
        case AnswerHandler(_, code) if code in (4, 7):
            return replace(state, used=state.used | {(name, era, "alone")})
        case Unblock():
            return replace(state, used=state.used | {(name, era, "alone")})
        case _:
            return state


# ------------------------------------------------------------------ the laws


def _judged(before: Pair, state: State) -> State:
    old, new = before.kept.register, state.court.kept.register
    if old.era == new.era and old.winner not in (None, new.winner):
        raise Broken(f"the winner of era {old.era} changed from {old.winner} to {new.winner}")
    return _lawful(state)


def _lawful(state: State) -> State:
    register = state.court.kept.register
    holders = {(node, era) for node, era, _ in state.used}
    rights = {(NODES[i], g.right.era) for i, g in enumerate(state.guards) if g.right is not None}
    for era in {era for _, era in holders | rights}:
        nodes = {node for node, of in holders | rights if of == era}
        if len(nodes) > 1:
            raise Broken(f"both nodes have era {era}: {sorted(holders)} {sorted(rights)}")
        if era == register.era and nodes != {register.winner}:
            raise Broken(f"{nodes} acts in era {era}, which {register.winner} has won")
    if any(era < register.era for _, era in holders):
        raise Broken(f"an era that was used is over: {sorted(holders)}, now {register.era}")
    return state


@dataclass
class Found:
    """What a search came to. `broken`: the law and the shortest story."""

    states: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    broken: str | None = None


def search(begin: State, bounds: Bounds, *, states_max: int = 5_000_000) -> Found:
    """Every state within the bounds, or the first that breaks a law."""
    found = Found()
    seen = {begin.digest()}
    waiting = deque([begin])
    while waiting:
        state = waiting.popleft()
        found.states += 1
        for node, _, how in state.used:
            found.kinds[f"{how}-{node}"] += 1
        found.kinds["handed-back"] += state.court.kept.register.era > begin.court.kept.register.era
        found.kinds["yielded"] += any(g.memory.promise is not None for g in state.guards)
        try:
            for after_it in following(state, bounds):
                mark = after_it.digest()
                if mark not in seen:
                    seen.add(mark)
                    waiting.append(after_it)
        except Broken as law:
            found.broken = f"{law}\n" + "\n".join(state.moves)
            return found
        if len(seen) > states_max:
            raise RuntimeError(f"more than {states_max} states")
    return found
