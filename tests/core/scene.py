"""Pairs in a known state, taken out of the rehearsed world, for tests of one step."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from guard.core import claiming, machine
from guard.core.attesting import evidence
from guard.core.claiming import seen_since
from guard.core.evidence import Link, Power
from guard.core.instant import Instant, after
from guard.core.messages import Evidence, Offer, RegisterView
from guard.core.step import Effect, Event, Intent, Note, Send
from guard.core.turn import AgentJob, Attempt, Guard, Turn
from guard.rehearsal.network import BUS_A, PAIR
from guard.rehearsal.world import World


def whole_pair(seed: int = 1) -> World:
    """Both nodes up, attested, A the primary."""
    world = World(seed)
    world.begin()
    return world


def attested_pair(seed: int = 1) -> World:
    """The same, once the arbiter's copies of both testimonies say that no disk ever left UpToDate."""
    world = whole_pair(seed)

    def testified() -> bool:
        kept = world.arbiter.kept
        return kept is not None and all(
            r.continuous for said in kept.testimony.values() for r in said.evidence.replicas
        )

    assert world.until(testified, 10)
    return world


def frozen_primary(seed: int = 1) -> World:
    """A is cut from its peer and from the arbiter; its handler waits for a right, and DRBD was read since it asked."""
    world = whole_pair(seed)
    world.network.cut(PAIR, BUS_A)

    def seen() -> bool:
        guard = guard_of(world, "A")
        return bool(guard.handlers) and seen_since(guard, guard.handlers[0])

    assert world.until(seen, 15, step_s=0.01)  # it may be shot soon after
    return world


def asked_to_fence(seed: int = 1) -> World:
    """A hangs; the agent on B waits for an arbiter that is down."""
    world = whole_pair(seed)
    world.arbiter.crash(None)
    world.nodes["A"].hang(True)
    assert world.until(lambda: bool(guard_of(world, "B").agents), 15)
    assert world.until(lambda: guard_of(world, "B").agents[0].power is not None, 5)
    return world


def guard_of(world: World, name: str) -> Guard:
    guard = world.nodes[name].shell.guard
    assert guard is not None
    return guard


def run(guard: Guard, event: Event, now: Instant) -> tuple[Guard, tuple[Effect, ...]]:
    guard, step = machine.step(guard, event, now)
    return guard, step.effects


def of(effects: tuple[Effect, ...], kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def said_by(world: World, name: str, **changed: object) -> Evidence:
    """The latest testimony of a node as the arbiter keeps it, but that its peer has left the membership."""
    assert world.arbiter.kept is not None
    return replace(world.arbiter.kept.testimony[name].evidence, **{"peer_member": False, **changed})  # type: ignore[arg-type]


# ------------------------------------------------------------------ one guard, with this or that changed


@cache
def of_a_whole_pair(name: str) -> tuple[Guard, Instant]:
    """A node's guard in a whole pair, and its moment."""
    world = whole_pair()
    return guard_of(world, name), world.nodes[name].local()


def remembering(guard: Guard, **changed: object) -> Guard:
    return replace(guard, memory=replace(guard.memory, **changed))  # type: ignore[arg-type]


def with_ack(guard: Guard, **changed: object) -> Guard:
    assert guard.ack is not None
    return replace(guard, ack=replace(guard.ack, **changed))  # type: ignore[arg-type]


def with_register(guard: Guard, **changed: object) -> Guard:
    assert guard.ack is not None
    assert guard.ack.register is not None
    return with_ack(guard, register=replace(guard.ack.register, **changed))  # type: ignore[arg-type]


def with_replicas(guard: Guard, **changed: object) -> Guard:
    assert guard.volumes is not None
    replicas = tuple(replace(r, **changed) for r in guard.volumes.replicas)  # type: ignore[arg-type]
    return replace(guard, volumes=replace(guard.volumes, replicas=replicas))


# ------------------------------------------------------------------ a fence agent's request on B


def asked(**changed):
    """B, cut from A, whose agent asked 6 s ago; the device read `on` a second ago."""
    guard, now = of_a_whole_pair("B")
    job = AgentJob("a", "off", "A", after(now, -6.0), after(now, 60.0), power=Power.ON, power_at=after(now, -1.0))
    guard = with_replicas(guard, link=Link.CONNECTING)
    members = replace(guard.members, peer_member=False)
    guard = replace(guard, members=members, whole_since=None, acked=now, agents=(replace(job, **changed),))
    return guard, now


def intent(now, **changed) -> Intent:
    return replace(Intent("i1", 1, 2, "A", "boot-B-1", after(now, 2.0), 10.0), **changed)


def armed(**changed):
    """It has won, and its intent is durable."""
    guard, now = asked(stage="armed", intent="i1")
    return remembering(guard, intents=(intent(now, **changed),), used=("fence",)), now


def fired(**changed):
    guard, now = armed(spawned=True, **changed)
    return replace(guard, agents=(replace(guard.agents[0], stage="firing"),)), now


def done(guard, now, what, *event):
    """(guard, effects) after one function of the core, called by itself."""
    turn = Turn(guard, now)
    what(turn, *event)
    return turn.guard, turn.step().effects


# ------------------------------------------------------------------ that request's claim


def sent(effects, kind) -> list:
    return [s.message for s in of(effects, Send) if isinstance(s.message, kind)]


def trying(**changed):
    """B, cut from A, with its claim for `fence` under way, sent a moment ago."""
    guard, now = asked()
    attempt = Attempt("n", "fence", "a", after(now, -0.5), guard.halves.connects)
    return replace(guard, attempt=replace(attempt, **changed)), now


def offer(guard, now, *, mine=None, theirs=None, register=None, **changed) -> Offer:
    """The normal failover: A was Primary and is silent, both good; B was heard a moment ago."""
    said = replace(evidence(Turn(guard, now)), connected=False, peer_member=False)
    ages = {"age_lo_s": 10.0, "age_hi_s": 20.0, "continuous": True, "gate": True, "disk": "U"}
    own = tuple(replace(r, **{"role": "secondary", **ages, **(mine or {})}) for r in said.replicas)
    other = tuple(replace(r, **{"role": "primary", **ages, **(theirs or {})}) for r in said.replicas)
    target = replace(said, node="A", boot_id="boot-A", replicas=other)
    view = replace(RegisterView("store-1", 1, None, (), None, 1, "A"), **(register or {}))
    made = Offer("n", view, replace(said, replicas=own), target, "silent", 0.1, 0.1, False, False, 2.0)
    return replace(made, **changed)


def offered(guard, now, ready: bool = True, **changed):
    """(guard, effects) once the offer is judged."""
    turn = Turn(replace(guard, attempt=replace(guard.attempt, offer=offer(guard, now, **changed), offered=now)), now)
    claiming.consider(turn, ready=ready)
    return turn.guard, turn.step().effects


def ended(effects) -> str | None:
    """Why the claim under way ended, as the journal has it; None = it did not."""
    return next((n.data["reason"] for n in of(effects, Note) if n.event == "claim-ended"), None)
