"""What must always be true, checked after every event of the rehearsed world by a second, plain rule each.

The checkers believe nobody: they look at the arbiter's disk, at the guards' disks and at what really happened to nodes
and writes, never at what a guard says of itself (except `S5`, which begins when a guard calls the pair held).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guard.core import hold
from guard.core.evidence import Role
from guard.core.instant import elapsed_s
from guard.core.messages import ARBITER, Answer, BeatAck, Commit, LiftInhibit, Message, Offer, Won
from guard.core.register import Register
from guard.core.step import (
    AnswerHandler,
    Bar,
    ClearHold,
    Effect,
    Event,
    Fire,
    Heard,
    Note,
    Send,
    SetHold,
    Step,
    SuspendWrites,
)
from guard.core.turn import Guard, Turn
from guard.rehearsal.disks import UP_LINKS

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node
    from guard.rehearsal.world import World


class Violation(Exception):
    """A rule of DESIGN.md section 2 was broken. `rule` names it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule, self.text = rule, text


_PRIMARY = Role.PRIMARY  # asked for after every event
_NODES = ("A", "B")
L1_S = 1.5  # a right after asking, where the network is quiet and the evidence clear
CLEAR_S = 15.0  # whole for so long before a death: attested, and writes were sampled on both sides


_SHOWS_REGISTER = (BeatAck, Offer)

Era = tuple[str, int]
"""Store and number: the eras of a new register begin anew."""


@dataclass(frozen=True, slots=True)
class Died:
    """A death that left nothing in doubt. `turns`: how often any path had changed by then; `starts`: of the witness."""

    at: int
    turns: int
    starts: int


class Unmet(Exception):
    """A story did not come out as it must."""


def expect(ok: bool, text: str) -> None:
    """Raises `Unmet`."""
    if not ok:
        raise Unmet(text)


@dataclass(slots=True)
class Checkers:
    """One memory for all rules. Called by the world; raises `Violation`."""

    world: World
    fenced: dict[Era, set[str]] = field(default_factory=dict)  # S1: nodes powered off by a guard's shot
    intent_era: dict[str, int] = field(default_factory=dict)
    alone: dict[Era, set[str]] = field(default_factory=dict)  # S3: nodes that were given 4 or 7
    known: dict[str, tuple[str, int]] = field(default_factory=dict)  # S6: node -> (store, highest version) heard
    offers: dict[str, int] = field(default_factory=dict)  # S4: nonce -> world time of the delivery
    held: bool = False  # S5
    held_at: int = -1  # world time since when, or of the last time it was
    released_at: int = -1  # world time of the last release by any guard: what was heard before speaks of that hold
    sitting: frozenset[str] = frozenset()
    barred_by: set[tuple[str, str]] = field(default_factory=set)  # S7: (guard, node) constraints it set
    before: Guard | None = None
    seen: Guard | None = None  # the guard whose effects are looked at, after its step
    releasing: dict[str, int] = field(default_factory=dict)  # S7: guard -> world time of a releasing win's use
    won_at: int = 0  # SERVICE: world time at which the winner of this era was written
    died: dict[str, Died] = field(default_factory=dict)  # L1: node -> its death, if everything was clear then

    # ---- S3, after every event

    def always(self) -> None:
        alone = 0
        for name in _NODES:
            for volume in self.world.volumes:
                disk = volume.of[name]
                if disk.role is _PRIMARY and disk.link not in UP_LINKS and not disk.suspended:
                    alone += self.world.nodes[name].powered
                    break
        if alone > 1:
            raise Violation("S3", "both nodes run alone at the same time")

    def granted(self, name: str) -> None:
        """DRBD took a 4 or 7."""
        world, era = self.world, self.world.arbiter.era
        register = world.arbiter.kept.register if world.arbiter.kept is not None else None
        nodes = self.alone.setdefault((world.arbiter.store_id, era), set())
        nodes.add(name)
        if len(nodes) > 1:
            raise Violation("S3", f"both nodes were let go on alone in era {era}")
        if register is not None and register.winner not in (name, None):
            raise Violation("S3", f"{name} goes on alone though {register.winner} won era {era}")
        inhibits = world.arbiter.kept.inhibits.values() if world.arbiter.kept is not None else ()
        if self.held and any(i.kind == "person" and not i.ended for i in inhibits):
            raise Violation("S5", f"{name} goes on alone under a person's hold")
        if self.held and name not in self.sitting:
            raise Violation("S5", f"{name} was promoted while the pair was held")

    # ---- steps and effects

    def stepped(self, node: Node, before: Guard, event: Event, guard: Guard, step: Step) -> None:
        self.before, self.seen = before, guard
        if guard.memory.holding and not self.held:
            self._called_held(node, guard)
        attempt, right = before.attempt, guard.right
        if attempt is None and right is None and not step.effects:
            return
        if right is not None and right != before.right:
            late_s = (node.local() - right.committed) / 1e9
            if late_s > self.world.policy.fire_s + 0.01:
                raise Violation("S4", f"{node.name} took a right {late_s:.1f} s after its commit")
        wins = attempt is not None and attempt.releasing and isinstance(event, Heard) and isinstance(event.message, Won)
        if wins or (right is not None and right.releasing):
            self.releasing[node.name] = self.world.now
        for effect in step.effects:
            if isinstance(effect, Note) and effect.event == "released":
                self.held, self.released_at = False, self.world.now

    def effect(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(to, message, _):
                if to == ARBITER:
                    self._said(node, message)
            case Fire(intent, _, target, _):
                self._fire(node, intent, target)
            case AnswerHandler(_, code, _):
                used = node.shell.durable.used if node.shell.durable is not None else ()
                if code in (4, 7) and "alone" not in used:
                    raise Violation("S6", f"{node.name} lets DRBD go on alone before the use is durable")
            case SuspendWrites():
                self._suspends(node)
            case SetHold():
                memory = node.shell.durable
                holding = memory is not None and memory.holding
                # A brake that cannot be written down is set all the same: what it leaves behind is taken back later.
                if not holding and not node.shell.disk_full:
                    raise Violation("S6", f"{node.name} sets the property before the brake is durable")
            case ClearHold():
                view = self.seen.cluster if self.seen is not None else None
                if view is not None and view.ours is None and view.maintenance is not None:
                    raise Violation("S7", f"{node.name} would take back a property that is not ours")
            case Bar(name, on):
                key = (node.name, name)
                if on:
                    self.barred_by.add(key)
                elif name != node.peer.name:
                    raise Violation("S7", f"{node.name} takes back a constraint on {name}, which it never sets")
                else:
                    self.barred_by.discard(key)
            case _:
                pass

    def _fire(self, node: Node, intent_id: str, target: str) -> None:
        memory, kept = node.shell.durable, self.world.arbiter.kept
        intent = next((i for i in memory.intents if i.id == intent_id), None) if memory is not None else None
        if intent is None or not intent.spawned:
            raise Violation("S6", f"{node.name} fires without a durable intent")
        if node.local() > intent.start_by:
            raise Violation("S4", f"{node.name} fires after start_by")
        if target == node.name:
            raise Violation("S4", f"{node.name} fires at itself")
        if kept is not None and (kept.register.winner, kept.register.era) != (node.name, intent.era):
            raise Violation("S4", f"{node.name} fires for era {intent.era} without having won it")
        if kept is not None and "fence" not in kept.register.used:
            raise Violation("S4", f"{node.name} fires on a win that is not for a fence")
        if self.held:
            raise Violation("S5", f"{node.name} fires while the pair is held")
        self.intent_era[intent_id] = intent.era

    def _said(self, node: Node, message: Message) -> None:
        memory = node.shell.durable
        match message:
            case Answer(nonce, _, True, _):
                promise = memory.promise if memory is not None else None
                if promise is None or promise.nonce != nonce:
                    raise Violation("S6", f"{node.name} yields before its promise is durable")
            case Commit(nonce):
                heard = self.offers.get(nonce)
                age_s = (self.world.now - heard) / 1e9 if heard is not None else None
                if age_s is None or age_s > self.world.policy.accept_s + 0.01:
                    raise Violation("S4", f"{node.name} commits outside the window of its offer")
            case LiftInhibit(_, inhibit):
                own = memory.inhibits if memory is not None else {}
                before = self.before.memory.inhibits if self.before is not None else {}
                released = self.releasing.get(node.name)
                ended = inhibit.startswith("person:") and self._ended(inhibit)
                if inhibit not in own and inhibit not in before and released is None and not ended:
                    raise Violation("S7", f"{node.name} lifts {inhibit}, which is not its own")
            case _:
                pass

    def _ended(self, inhibit: str) -> bool:
        kept = self.world.arbiter.kept
        found = kept.inhibits.get(inhibit) if kept is not None else None
        return found is None or found.ended

    # ---- SERVICE: no service stop that only the guard caused

    def _suspends(self, node: Node) -> None:
        """A primary steps back only if its own cluster is unfit (or it promised so before)."""
        memory, cluster, world = node.shell.durable, node.cluster, self.world
        fit_s = (world.now - cluster.fit_at) / 1e9 if cluster.fit_at is not None else 0.0
        serves = node.runs() and world.serves(node.name)
        if serves and fit_s > 3.0 and (memory is None or memory.promise is None):
            raise Violation("SERVICE", f"{node.name} stops writing though it serves and its cluster is well")

    def _serving(self, target: str) -> bool:
        """Served, and was heard by the arbiter without a gap since before the winner was written, never unwell."""
        world, node, pair = self.world, self.world.nodes[target], self.world.arbiter.pair
        steady = pair.steady_since.get(target) if pair is not None else None
        if pair is None or steady is None or not (node.runs() and node.shell.up and world.serves(target)):
            return False
        memory = node.shell.durable
        promised = memory is None or memory.promise is not None
        if promised or node.cluster.fit_at is None:
            return False
        last = pair.heard.get(target)
        before = self.won_at - 2_000_000_000
        heard = last is not None and elapsed_s(last, world.arbiter.local()) <= world.policy.heard_s
        since = steady + world.arbiter.shared.boot_at
        return heard and max(since, node.unwell_at, node.cluster.fit_at) <= before

    # ---- L1: a clear death gives a right within 1.5 s of asking

    def fell(self, node: Node) -> None:
        """A node died or hangs. Was everything as clear as it can be?"""
        world = self.world
        if world.arbiter.pair is None or not world.network.calm() or not self._all_well():
            self.died.pop(node.name, None)
        else:
            self.died[node.name] = Died(world.now, world.network.turns, world.arbiter.shared.starts)

    def _all_well(self) -> bool:
        """Both guards found the pair whole for a while; no winner, nothing held, one pair or no storm."""
        world = self.world
        for node in world.nodes.values():
            guard = node.shell.guard
            if guard is None or guard.whole_since is None or guard.memory.holding or guard.memory.inhibits:
                return False
            if elapsed_s(guard.whole_since, node.local()) < CLEAR_S or guard.attempt is not None or guard.paged:
                return False
        kept, shared = world.arbiter.kept, world.arbiter.shared
        up_s = (world.now - max(shared.up_at, 0)) / 1e9
        well = shared.trouble is None and not shared.cell_reports() and up_s > world.policy.unheard_s
        well = well and all(volume.plain() for volume in world.volumes)
        return kept is not None and kept.register.winner is None and not kept.inhibits and well

    def asked(self, node: Node, job: str, purpose: str) -> None:
        """A request reached the guard of `node`: from a clear death on its right must come in time."""
        died = self.died.get(node.peer.name)
        if died is None or self.world.now - died.at > 10e9 or not self._still_clear(node, died):
            return
        if node.cluster.peer_member:
            return  # asked for another reason, before its membership has lost the dead node: that comes first
        starts = node.shell.starts
        turns = len(node.shell.clients)  # one claim at a time: who asks beside others waits for them

        def due() -> None:
            memory = node.shell.durable
            used = memory is not None and purpose in memory.used
            waits = job in node.shell.clients
            if used:
                self.world.counts["rights in time"] += 1
            if used or not waits or node.shell.starts != starts or not self._still_clear(node, died):
                return
            raise Violation(
                "L1", f"{node.name} has no right to {purpose} {L1_S * turns:.1f} s after asking, and all is clear"
            )

        self.world.at(L1_S * turns, due)

    def _still_clear(self, node: Node, died: Died) -> bool:
        world, peer = self.world, node.peer
        down = not peer.runs() and (peer.name in self.died)
        clear = down and world.network.turns == died.turns and world.network.calm() and world.crash_chance == 0.0
        device, guard = world.devices[peer.name], node.shell.guard
        shared = world.arbiter.shared
        well = (
            world.arbiter.pair is not None
            and shared.starts == died.starts
            and shared.trouble is None
            and len(shared.cell_reports()) <= 1
        )
        well = well and all(volume.plain() for volume in world.volumes)
        well = well and node.runs() and guard is not None and not node.shell.paused and not node.shell.disk_full
        well = well and not node.foreign  # else the arbiter cannot read what it asks for, nor it the answer
        quiet = guard is not None and not guard.memory.inhibits and not guard.memory.holding and not world.crashes
        kept = world.arbiter.kept
        return clear and well and quiet and device.plain() and kept is not None and not kept.inhibits

    # ---- what really happened

    def landing(self, by: str, target: str, intent: str) -> None:
        """A shot reaches its device, however late."""
        world, kept = self.world, self.world.arbiter.kept
        era = self.intent_era.get(intent, -1)
        register = kept.register if kept is not None else None
        if register is not None and (register.era, register.winner) != (era, by):
            raise Violation("S4", f"a shot of era {era} lands on {target} in era {register.era}")
        if self.held:
            raise Violation("S5", f"a shot lands on {target} while the pair is held")
        if not world.nodes[target].powered:
            return
        if self._serving(target):
            raise Violation("SERVICE", f"{target} was fenced though it served, was heard all along, never yielded")
        nodes = self.fenced.setdefault((world.arbiter.store_id, era), set())
        nodes.add(target)
        world.fenced.append((by, target, era))
        if len(nodes) > 1:
            raise Violation("S1", f"both nodes were fenced in era {era}")
        lost = [w for v in world.volumes for w in v.acked if w in v.of[target].has and w not in v.of[by].has]
        if lost:
            raise Violation("S2", f"{target} was fenced, which alone holds acknowledged writes {lost[:5]}")

    # ---- the register

    def register_made(self) -> None:
        """By a person: what was known before counts no more."""
        self.known.clear()

    def delivered(self, node: Node, message: Message) -> None:
        if isinstance(message, Offer):
            self.offers.setdefault(message.nonce, self.world.now)
        register = message.register if isinstance(message, _SHOWS_REGISTER) else None
        if register is None or not node.shell.up:
            return
        store, version = self.known.get(node.name, (register.store_id, 0))
        if store == register.store_id:
            self.known[node.name] = (store, max(version, register.version))

    def register_changed(self, before: Register, after: Register) -> None:
        if before == after:
            return
        if after.version <= before.version:
            raise Violation("S6", "the register changed without a new version")
        if before.winner is not None and before.era == after.era and after.winner != before.winner:
            raise Violation("S1", f"the winner of era {after.era} changed from {before.winner} to {after.winner}")
        if after.era != before.era and any(
            d.alone and not d.suspended and self.world.nodes[n].powered
            for v in self.world.volumes
            for n, d in v.of.items()
        ):
            raise Violation("S3", f"era {before.era} was ended while its winner runs alone")
        if after.winner is None or (before.winner == after.winner and before.used == after.used):
            return
        if before.winner is None:
            self.won_at = self.world.now
        store, version = self.known.get(after.winner, (self.world.arbiter.store_id, 0))
        if store != self.world.arbiter.store_id or version > before.version:
            raise Violation("S6", f"{after.winner} won from a store that has forgotten what it knew")

    # ---- S5

    def slow(self) -> None:
        """Does any guard call the pair held? Each is asked after its own steps too: no pulse decides what is seen."""
        for node in self.world.nodes.values():
            if node.shell.guard is not None and node.runs():
                self._called_held(node, node.shell.guard)

    def _called_held(self, node: Node, guard: Guard) -> None:
        """A guard calls the pair held: from now on it is.

        Not by an answer of the arbiter from before the last release: the other guard took that very hold back since,
        and this one has not heard it yet. A hold that a person asked for since is not called held by such an answer.
        """
        if self.held or guard.acked is None or not guard.memory.holding:
            return
        since_s = elapsed_s(guard.acked, node.local())
        if self.world.now - since_s * 1e9 <= self.released_at and not self._asked_since(guard):
            return
        if hold.stage(guard, Turn(guard, node.local())) == "held":
            self.held, self.held_at = True, self.world.now
            self.sitting = frozenset(n for v in self.world.volumes for n, d in v.of.items() if d.role is Role.PRIMARY)
            self.world.tell(node.name, "calls the pair held")

    def _asked_since(self, guard: Guard) -> bool:
        """A person waits for this guard's word."""
        return any(i.kind == "person" and not i.ended for i in guard.memory.inhibits.values())

    # ---- at the end

    def at_the_end(self) -> None:
        """All is healed and whole: nothing is lost, one node serves, nothing is held any more."""
        self.nothing_lost()
        self.one_primary()
        for node in self.world.nodes.values():
            guard = node.shell.guard
            if guard is not None and (guard.memory.holding or guard.memory.inhibits):
                raise Violation("L2", f"{node.name} still holds: {sorted(guard.memory.inhibits) or 'the property'}")
        kept = self.world.arbiter.kept
        if kept is not None and kept.inhibits:
            raise Violation("L2", f"the arbiter still holds: {sorted(kept.inhibits)}")

    def one_primary(self) -> None:
        serves = [n for n in self.world.nodes if self.world.serves(n)]
        if len(serves) != 1:
            raise Violation("END", f"{len(serves)} nodes serve in the end: {serves}")

    def nothing_lost(self) -> None:
        """Once the pair is whole again every acknowledged write is on both disks."""
        for volume in self.world.volumes:
            for name, disk in volume.of.items():
                lost = [w for w in volume.acked if w not in disk.has]
                if lost:
                    raise Violation("S2", f"acknowledged writes {lost[:5]} are gone from {name}")
        if any(volume.split_brains for volume in self.world.volumes):
            raise Violation("S3", "the disks ran apart")
