"""One rehearsed node: power, clock, the guard's shell around the shipped machine, and what it watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from guard.core import disturbance, machine
from guard.core.evidence import LinkSighting, PortState, SwitchSighting, Up, Volumes
from guard.core.instant import NS_PER_S, Instant
from guard.core.messages import ARBITER
from guard.core.step import (
    AgentAsks,
    AnswerAgent,
    AnswerHandler,
    AnswerPerson,
    AskForecast,
    Bar,
    BusState,
    ClearHold,
    Effect,
    Event,
    Fire,
    Forecasted,
    HandlerAsks,
    Heard,
    HoldWritten,
    Memory,
    Note,
    OutdateOwn,
    Persisted,
    PowerOn,
    Progress,
    PurgeShot,
    ReadPower,
    Reconsider,
    Resumed,
    ResumeWrites,
    SawCluster,
    SawMembers,
    SawProbe,
    SawStored,
    SawVolumes,
    SawWrites,
    Seen,
    Send,
    SetHold,
    Step,
    Suspended,
    SuspendWrites,
    Tick,
    Unblock,
)
from guard.core.turn import Guard
from guard.rehearsal.cluster import Cluster

if TYPE_CHECKING:
    from guard.rehearsal.world import World

SWITCH = "sw1"


class Shell:
    """The guard's process: obeys the order of duty of every step, and may die or pause at any point of it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.guard: Guard | None = None
        self.durable: Memory | None = None  # what is on the disk
        self.up = False
        self.paused = False
        self.inbox: list[Event] = []
        self.clients: dict[str, AgentAsks | HandlerAsks] = {}  # who waits for an answer
        self.told: list[AnswerPerson] = []
        self.starts = 0
        self.started_at: list[float] = []  # when each of them was

    def start(self) -> None:
        node, world = self.node, self.node.world
        self.starts += 1
        self.started_at.append(world.now)
        self.up, self.paused, self.inbox = True, False, []
        self.guard, step = machine.start(
            node.name,
            node.peer.name,
            policy=world.policy,
            sight=node.sight,
            horizon_s=world.devices[node.peer.name].horizon_s,
            memory=self.durable,
            boot_id=node.boot_id,
            seed=f"{world.seed}/{node.name}/{self.starts}",
            now=node.local(),
        )
        self._carry_out(step, None)
        if not node.cluster.running:
            self.take(SawStored(Volumes(node.local(), (world.disks.stored(node.name),))))
        node.look_at_everything()
        for client in tuple(self.clients.values()):
            if isinstance(client, HandlerAsks):
                self.take(client)  # the handler asks the new guard again

    def kill(self) -> None:
        """The process is gone; its agents' clients get no answer."""
        if not self.up:
            return
        self.node.world.tell(self.node.name, "the guard's process is gone")
        self.up, self.guard = False, None
        for job, client in tuple(self.clients.items()):
            if isinstance(client, AgentAsks):
                del self.clients[job]
                self.node.cluster.answered(job, confirmed=False)

    def pause(self, on: bool) -> None:
        self.paused = on
        if not on:
            waiting, self.inbox = self.inbox, []
            for event in waiting:
                self.take(event)

    def ask(self, event: AgentAsks | HandlerAsks) -> None:
        """A client of the control socket."""
        self.clients[event.id] = event
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
        before = self.guard
        self.guard, step = machine.step(before, event, self.node.local())
        self.node.world.checkers.stepped(self.node, before, event, self.guard, step)
        self._carry_out(step, event)

    def _carry_out(self, step: Step, event: Event | None) -> None:
        world = self.node.world
        if step.memory is not None:
            if world.dies_here(self.node, "before-durable", step):
                self.kill()
                return
            self.durable = step.memory
            if world.dies_here(self.node, "after-durable", step):
                self.kill()
                return
        for effect in step.effects:
            world.checkers.effect(self.node, effect)
            self._do(effect)
            if not self.up:
                return

    def _do(self, effect: Effect) -> None:
        node, world = self.node, self.node.world
        match effect:
            case Send(to, message, _):
                if to == ARBITER:
                    world.network.message(
                        node.name, ARBITER, message.kind, lambda: world.arbiter.hear(node.name, message)
                    )
                elif to == node.peer.name:
                    heard = Heard(node.name, message)
                    world.network.message(node.name, to, message.kind, lambda: node.peer.shell.take(heard))
            case ReadPower(token, target, delay_s):
                world.devices[target].read(node, token, delay_s)
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
                node.later(0.02, lambda: world.disks.answered(node.name, job, code))
            case AnswerPerson():
                self.told.append(effect)
            case SuspendWrites(nonce):
                world.disks.suspend(node.name)
                node.later(0.05, lambda: self.take(Suspended(nonce, True)))
            case ResumeWrites():
                world.disks.resume(node.name)
                node.later(0.05, lambda: self.take(Resumed(True)))
            case OutdateOwn():
                world.disks.outdate(node.name)
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


class Node:
    """A machine. Its clock starts anew at each boot and runs up to 200 ppm wrong."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.powered = True
        self.hung = False
        self.switched_off = False  # by its fence device, not by its death
        self.boots = 1
        self.offs: list[float] = []  # when it lost power
        self.boot_at = -int(world.rng.uniform(100, 1000) * NS_PER_S)
        self.rate = 1.0 + world.rng.uniform(-2e-4, 2e-4)
        self.frozen: list[Callable[[], None]] = []
        self.cluster = Cluster(self)
        self.shell = Shell(self)
        self.bus_seen: bool | None = None
        self.probe_ok = 0
        other = "B" if name == "A" else "A"
        owned = (
            disturbance.OwnedPort(SWITCH, f"port{name}", disturbance.Owner.OURS),
            disturbance.OwnedPort(SWITCH, f"port{other}", disturbance.Owner.PEER),
            disturbance.OwnedPort(SWITCH, "uplink", disturbance.Owner.UPLINK),
            disturbance.OwnedPort(SWITCH, "portX", disturbance.Owner.OTHER),
        )
        self.sight = disturbance.Policy(interfaces=frozenset({"bond0"}), ports=owned)

    @property
    def peer(self) -> Node:
        return self.world.nodes["B" if self.name == "A" else "A"]

    @property
    def boot_id(self) -> str:
        return f"boot-{self.name}-{self.boots}"

    def runs(self) -> bool:
        """Powered, and its kernel makes progress."""
        return self.powered and not self.hung

    def local(self) -> Instant:
        """CLOCK_BOOTTIME here."""
        return Instant(int((self.world.now - self.boot_at) * self.rate))

    def later(self, delay_s: float, then: Callable[[], None]) -> None:
        """After `delay_s`, in this boot only; while the kernel hangs, when it goes on."""
        boot = self.boots

        def run() -> None:
            if not self.powered or self.boots != boot:
                return
            if self.hung:
                self.frozen.append(run)
            else:
                then()

        self.world.at(delay_s, run)

    # ---- power

    def power_off(self, why: str) -> None:
        if not self.powered:
            return
        self.world.tell(self.name, f"is off: {why}")
        self.powered = self.hung = False
        self.offs.append(self.world.now)
        self.frozen = []
        self.shell.up, self.shell.guard, self.shell.clients, self.shell.paused = False, None, {}, False
        self.cluster.stop_hard()
        self.world.disks.power_lost(self.name)

    def switch_on(self) -> None:
        """Boot: the guard first, then the cluster with DRBD."""
        if self.powered:
            return
        self.powered, self.switched_off = True, False
        self.boots += 1
        self.boot_at = self.world.now
        self.bus_seen = None
        self.world.tell(self.name, "boots")
        self.later(3.0, self.shell.start)
        self.later(5.0, self.cluster.start)

    def hang(self, on: bool) -> None:
        if not self.powered or self.hung is on:
            return
        self.hung = on
        self.world.tell(self.name, "kernel hangs" if on else "kernel goes on")
        if not on:
            waiting, self.frozen = self.frozen, []
            for run in waiting:
                self.world.at(0.0, run)
            self.shell.pause(False)

    def restart_guard(self, after_s: float = 2.0) -> None:
        self.shell.kill()
        self.later(after_s, lambda: None if self.shell.up else self.shell.start())

    # ---- what the guard sees

    def saw_disk(self) -> None:
        self.later(self.world.rng.uniform(0.001, 0.1), self._see_disk)

    def _see_disk(self) -> None:
        self.shell.take(SawVolumes(Volumes(self.local(), (self.world.disks.replica(self.name),))))

    def saw_cluster(self) -> None:
        self.later(self.world.rng.uniform(0.01, 0.4), self._see_cluster)

    def _see_cluster(self) -> None:
        self.shell.take(SawMembers(self.cluster.members()))
        self.shell.take(SawCluster(self.cluster.view()))

    def look_at_everything(self) -> None:
        self._see_disk()
        self._see_cluster()
        self.bus_seen = None
        self._look_quick()
        self._look_switch()
        self.shell.take(Seen(LinkSighting("bond0", self.local(), Up.UP)))

    def _look_quick(self) -> None:
        world = self.world
        bus = world.network.bus_open(self.name) and world.network.bus_open(ARBITER)
        if bus is not self.bus_seen:
            self.bus_seen = bus
            self.shell.take(BusState(bus))
        if world.network.open("A", "B") and self.peer.powered:
            self.probe_ok = world.now  # a hung kernel's card may answer; its guard does not
        self.shell.take(SawProbe(world.now - self.probe_ok <= 0.4e9))

    def _look_switch(self) -> None:
        self.shell.take(Seen(self.world.switch.sighting(self.local())))

    def tick(self, count: int) -> None:
        """Every 0.2 s."""
        if not self.runs() or not self.shell.up:
            return
        self._look_quick()
        if count % 5 == 0:
            self._look_switch()
        if count % 5 == 2:
            self._see_cluster()
        if count % 25 == 3:
            self._see_disk()
        if count % 2 == 0:
            self.shell.take(SawWrites((self.world.disks.sample(self.name, self.local()),)))
        self.shell.take(Tick())


class Switch:
    """The access switch both nodes hang on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers = True
        self.topology_changes = 7
        self.forced: dict[str, PortState] = {}

    def sighting(self, at: Instant) -> SwitchSighting:
        if not self.answers:
            return SwitchSighting(SWITCH, at, False, error="timeout")
        ports = tuple(
            (f"port{name}", self.forced.get(name, PortState.UP if node.powered else PortState.DOWN))
            for name, node in self.world.nodes.items()
        )
        rest = (("uplink", PortState.UP), ("portX", PortState.UP))
        return SwitchSighting(
            SWITCH, at, True, engine_boots=1, topology_changes=self.topology_changes, ports=(*ports, *rest)
        )
