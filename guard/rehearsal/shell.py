"""The process of one rehearsed guard: obeys the order of duty of every step, and may die, pause or fail to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.core import machine
from guard.core.evidence import Volumes
from guard.core.messages import ARBITER, Answer, Ask, Beat, Offer, SetInhibit
from guard.core.step import (
    AgentAsks,
    AnswerAgent,
    AnswerHandler,
    AnswerPerson,
    AskForecast,
    Bar,
    ClearHold,
    Effect,
    Event,
    Fire,
    Forecasted,
    HandlerAsks,
    Heard,
    HoldWritten,
    JournalState,
    Memory,
    Note,
    OpenHold,
    OutdateOwn,
    Persisted,
    PowerOn,
    Progress,
    PurgeShot,
    ReadPower,
    ReadVolumes,
    Reconsider,
    Resumed,
    ResumeWrites,
    SawStored,
    SawWrites,
    Send,
    SetHold,
    ShotEnded,
    Step,
    Suspended,
    SuspendWrites,
    Unblock,
)
from guard.core.turn import Guard

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node

HOLD_S = (
    10.0  # a hold takes several looks and words of both guards until it reads *held*; a calm pulse would count them
)
LOOK_S = 0.05  # DRBD's tools, asked anew


class Shell:
    """The guard's process: obeys the order of duty of every step, and may die or pause at any point of it."""

    def __init__(self, node: Node) -> None:
        self.node, self.world = node, node.world
        self.guard: Guard | None = None
        self.durable: Memory | None = None  # what is on the disk
        self.up = False
        self.paused = False
        self.stepped_at = -1  # world time of its last step
        self.steps = 0  # so many, of all its guards
        self.inbox: list[Event] = []
        self.clients: dict[str, AgentAsks | HandlerAsks] = {}  # who waits for an answer
        self.told: list[AnswerPerson] = []
        self.starts = 0
        self.started_at: list[float] = []  # when each of them was
        self.probe_told: bool | None = None  # what this guard was told last, where only news is told
        self.writes_told: tuple[int, tuple[object, ...]] | None = None
        self.cluster_told: tuple[int, object] | None = None
        self.disk_full = 0  # faults by which the journal takes nothing
        self.owed: Memory | None = None  # decided, and not durable yet
        self.tools_s = 0.05  # DRBD's tools, from their start to the state that was read back
        self.handler_pause_s: tuple[float, float] | None = None  # between two tries of a handler that finds no guard
        self.unsaid: list[tuple[int, AnswerAgent | AnswerHandler]] = []  # answers that wait for it, with their era

    def start(self) -> None:
        node, world = self.node, self.world
        if self.disk_full:
            node.later(3.0, node.start_guard)  # a guard that cannot write does not start
            return
        self.starts += 1
        node.unwell_at = world.now
        self.owed, self.unsaid = None, []
        world.stir()
        self.started_at.append(world.now)
        self.up, self.paused, self.inbox = True, False, []
        self.probe_told, self.writes_told, self.cluster_told = None, None, None
        self.guard, step = machine.start(
            node.name,
            node.peer.name,
            policy=world.policy,
            sight=node.sight,
            horizon_s=world.devices[node.peer.name].horizon_s,
            stream=world.devices[node.peer.name].stream,
            memory=self.durable,
            boot_id=node.boot_id,
            seed=f"{world.seed}/{node.name}/{self.starts}",
            now=node.local(),
        )
        self._carry_out(step, None)
        if not node.cluster.running:
            self.take(SawStored(Volumes(node.local(), tuple(v.stored(node.name) for v in world.volumes))))
        node.look_at_everything()
        for client in tuple(self.clients.values()):
            if isinstance(client, HandlerAsks):
                self._asked_again(client)

    def _asked_again(self, client: HandlerAsks) -> None:
        """The handler asks the new guard: at once, or after a pause of its own (fencing/fence_peer.py)."""
        node, pause_s, starts = self.node, self.handler_pause_s, self.starts
        if pause_s is None:
            self.take(client)
        else:

            def ask() -> None:
                if self.starts == starts and client.id in self.clients:
                    self.take(client)

            node.later(node.world.rng.uniform(*pause_s), ask)

    def kill(self) -> None:
        """The process is gone; its agents' clients get no answer."""
        if not self.up:
            return
        self.world.tell(self.node.name, "the guard's process is gone")
        self.node.unwell_at = self.world.now
        self.up, self.guard = False, None
        for job, client in tuple(self.clients.items()):
            if isinstance(client, AgentAsks):
                del self.clients[job]
                self.node.cluster.answered(job, confirmed=False)

    def pause(self, on: bool) -> None:
        self.paused = on
        self.node.unwell_at = self.world.now
        if not on:
            waiting, self.inbox = self.inbox, []
            for event in waiting:
                self.take(event)

    def ask(self, event: AgentAsks | HandlerAsks) -> None:
        """A client of the control socket."""
        self.clients[event.id] = event
        purpose = "alone" if isinstance(event, HandlerAsks) else "fence"
        self.world.checkers.asked(self.node, event.id, purpose)
        if self.up:
            self.take(event)
        elif isinstance(event, AgentAsks):
            del self.clients[event.id]
            self.node.cluster.answered(event.id, confirmed=False)

    def take(self, event: Event) -> None:
        if not self.up or self.guard is None:
            return
        if self.paused or not self.node.runs():
            if len(self.inbox) < 5000:
                self.inbox.append(event)
            return
        asked = isinstance(event, Heard) and isinstance(event.message, Ask | Offer)
        waits = bool(self.clients) or self.guard.attempt is not None
        if asked or (waits and not isinstance(event, SawWrites)):
            self.node.sample_writes()
            if self.guard is None:
                return  # it died at the write of what it had just seen
        before, world = self.guard, self.world
        if isinstance(event, OpenHold):
            world.stir(HOLD_S)
        self.stepped_at = world.timeline.now
        self.steps += 1
        self.guard, step = machine.step(before, event, self.node.local())
        world.checkers.stepped(self.node, before, event, self.guard, step)
        if step.effects or step.memory is not None or self.owed is not None:
            self._carry_out(step, event)

    def _carry_out(self, step: Step, event: Event | None) -> None:
        node, world = self.node, self.world
        memory = step.memory if step.memory is not None else self.owed
        if memory is not None:
            if self.disk_full:
                self._not_durable(step, memory)
                return
            if world.dies_here(node, "before-durable", step):
                self.kill()
                return
            self.durable = memory
            if self.owed is not None:
                self._durable_again()
            if world.dies_here(node, "after-durable", step):
                self.kill()
                return
        for effect in step.effects:
            if isinstance(effect, Note):
                world.note(node.name, effect.event, effect.text, page=effect.page)
            else:
                world.checkers.effect(node, effect)
                self._do(effect)
            if not self.up:
                return

    # ---- a journal that cannot be written, as guard/daemon/loop.py treats it

    def _not_durable(self, step: Step, memory: Memory) -> None:
        """Nothing that depends on it is done; what was asked for fails, answers wait."""
        world = self.world
        world.counts["journal writes failed"] += 1
        self.owed = memory
        for effect in step.effects:
            if _harmless(effect):
                world.checkers.effect(self.node, effect)
                self._do(effect)
                continue
            failed: Event | None = None
            match effect:
                case AnswerAgent() | AnswerHandler():
                    self.unsaid.append((memory.era, effect))
                case Fire(intent):
                    failed = ShotEnded(intent, None, clean=True, started=False)
                case SuspendWrites(nonce):
                    failed = Suspended(nonce, False)
                case ClearHold():
                    failed = HoldWritten(False, False)
                case _:
                    pass  # the core repeats it
            if failed is not None:
                self._soon(failed)
        if self.guard is not None and self.guard.journal_ok:
            self.take(JournalState(False))

    def _durable_again(self) -> None:
        self.owed = None
        unsaid, self.unsaid = self.unsaid, []
        for era, answer in unsaid:
            if self.durable is None or era != self.durable.era:
                answer = _nothing(answer)
            self.world.checkers.effect(self.node, answer)
            self._do(answer)
        if self.guard is not None and not self.guard.journal_ok:
            self._soon(JournalState(True))

    def _soon(self, event: Event) -> None:
        self.node.later(0.0, lambda: self.take(event))

    def _do(self, effect: Effect) -> None:
        node, world = self.node, self.world
        match effect:
            case Send(to, message, _):
                if to == ARBITER and node.foreign:
                    world.network.message(
                        node.name, ARBITER, message.kind, lambda: world.arbiter.hear_unread(node.name)
                    )
                elif to == ARBITER:
                    world.network.message(
                        node.name, ARBITER, message.kind, lambda: world.arbiter.hear(node.name, message)
                    )
                elif to == node.peer.name and bool(node.foreign) == bool(node.peer.foreign):
                    heard = Heard(node.name, message)
                    world.network.message(node.name, to, message.kind, lambda: node.peer.shell.take(heard))
            case ReadPower(token, target, delay_s):
                world.devices[target].read(node, token, delay_s)
            case ReadVolumes():
                node.later(LOOK_S, node.see_disk)
            case Persisted(intent):
                node.later(0.005, lambda: self.take(Reconsider(intent)))
            case Fire(intent, _, target, _):
                world.tell(node.name, f"fires at {target}")
                world.devices[target].shoot(node, intent, world.policy.shot_s)
            case PowerOn(target):
                world.at(2.0, world.nodes[target].switch_on)
            case AnswerAgent(job, confirmed, reason, _):
                self.clients.pop(job, None)
                world.tell(node.name, f"agent answered: {reason}")
                node.cluster.answered(job, confirmed=confirmed)
            case AnswerHandler(job, code, _):
                self.clients.pop(job, None)
                volume = next((v for v in world.volumes if job in v.of[node.name].calls), world.disks)
                node.later(0.02, lambda: volume.answered(node.name, job, code))
            case AnswerPerson():
                self.told.append(effect)
            case SuspendWrites(nonce):
                done = [volume.suspend(node.name) for volume in world.volumes]
                node.later(self.tools_s, lambda: self.take(Suspended(nonce, all(done))))
            case ResumeWrites():
                for volume in world.volumes:
                    volume.resume(node.name)
                node.later(self.tools_s, lambda: self.take(Resumed(True)))
            case OutdateOwn():
                for volume in world.volumes:
                    volume.outdate(node.name)
            case SetHold(hold_id):
                node.later(0.2, lambda: self.take(HoldWritten(True, node.cluster.set_hold(hold_id))))
            case ClearHold(hold_id):
                node.later(0.2, lambda: self.take(HoldWritten(False, node.cluster.clear_hold(hold_id))))
            case AskForecast(lost, without_hold):
                node.later(
                    0.3,
                    lambda: self.take(Forecasted(without_hold, node.cluster.forecast(lost, without_hold=without_hold))),
                )
            case PurgeShot():
                node.cluster.purge()
            case Bar(name, on):
                node.later(0.1, lambda: void(node.cluster.bar(name, on=on)))
            case Unblock():
                node.cluster.unblock()
            case Note(event_name, text, _, page):
                world.note(node.name, event_name, text, page=page)
            case Progress():
                pass


def void(_: object) -> None:
    """Drop a result that nobody waits for."""


def _harmless(effect: Effect) -> bool:
    """Needs no durable memory: it only looks, holds back or tells."""
    match effect:
        case Note() | Progress() | SetHold() | ReadPower() | ReadVolumes() | AskForecast():
            return True
        case AnswerAgent(confirmed=False) | AnswerHandler(code=1):
            return True
        case Send(message=Beat() | SetInhibit() | Answer(yielded=False)):
            return True
        case _:
            return False


def _nothing(answer: AnswerAgent | AnswerHandler) -> AnswerAgent | AnswerHandler:
    if isinstance(answer, AnswerAgent):
        return AnswerAgent(answer.id, False, "journal-failed", "the journal could not be written while the era stood")
    return AnswerHandler(answer.id, 1, "journal-failed")
