"""One simulated pair in real time: two machines whose disks, cluster and network obey the rehearsal's own rules.

1. `rehearsal.disks`, `rehearsal.cluster` and `rehearsal.network` are used as they are: one model of DRBD and Pacemaker.
   This class stands where their `World` stands; time is the clock's, and nobody decides here but them.
2. What a machine would start (guard, fence agent, handler) is started by `Programs`: real processes, or the stock ones.
3. Figures are measured at every turn (about 20 ms) from what the machines do, never from what a program says.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from guard.core.evidence import Disk, Membership, PendingShot, Power, Role, Volumes, WriteSample
from guard.core.instant import NS_PER_S, Instant, elapsed_s
from guard.core.step import AgentAsks, ClientGone, HandlerAsks
from guard.ports import Clock
from guard.rehearsal.cluster import Cluster
from guard.rehearsal.disks import Disks
from guard.rehearsal.network import BUS_A, BUS_ARBITER, BUS_B, EVERY, Network
from guard.rehearsal.nodes import DENSE

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node
    from guard.rehearsal.world import World

TURN_S = 0.02
LOOK_S = 0.1  # how often disks and membership look at their links
WRITE_S = 0.05  # the service's client: 20 writes a second, each waits for its acknowledgement
TOKEN_S = 1.5  # corosync's token; its default is 1 s, and 3 s is usual
POWER_OFF_S = 1.0  # a power controller needs this long to act
BOOT_S = 3.0  # from power to the first program; a real server takes minutes
LETTERS = ("A", "B")


class Programs(Protocol):
    """What a machine starts. Each call returns at once; answers come back through the machine."""

    def boot(self, machine: Machine) -> None:
        """Start the guard, if the machine has one, and then `machine.start_cluster`."""
        ...

    def fence(self, machine: Machine, request: str, action: str) -> None:
        """Run the fence agent; answer with `machine.fence_answered`."""
        ...

    def fence_peer(self, machine: Machine, job: str) -> None:
        """Run DRBD's handler; answer with `machine.handler_answered`."""
        ...

    def gone(self, machine: Machine, request: str) -> None:
        """The fencer killed its agent."""
        ...

    def end(self, machine: Machine) -> None:
        """The machine lost power or hangs: every program of it is gone."""
        ...


@dataclass(eq=False, slots=True)
class Machine:
    """One machine: `name` is its letter, as the rehearsal's models call it; `title` its name in the site."""

    pair: SimulatedPair
    name: str
    title: str
    powered: bool = True
    hung: bool = False
    switched_off: bool = False
    boots: int = 1
    confirmed: int = 0  # shots at its peer that its fence agent confirmed
    shot: int = 0  # shots that landed on it while it had power
    listeners: list[Callable[[str], None]] = field(default_factory=list)
    cluster: Cluster = field(init=False)
    shell: Callers = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster(cast("Node", self), token_s=TOKEN_S)
        self.shell = Callers(self)

    @property
    def peer(self) -> Machine:
        return self.pair.nodes["B" if self.name == "A" else "A"]

    @property
    def world(self) -> SimulatedPair:
        return self.pair

    def runs(self) -> bool:
        """Powered, and its kernel makes progress."""
        return self.powered and not self.hung

    def serves(self) -> bool:
        """The service runs here: mounted on a Primary. Its writes may stall all the same."""
        return self.runs() and self.cluster.mounted and self.pair.disks.of[self.name].role is Role.PRIMARY

    def local(self) -> Instant:
        return Instant(self.pair.now)

    def later(self, delay_s: float, then: Callable[[], None]) -> None:
        """After `delay_s`, if this boot still runs."""
        boot = self.boots
        self.pair.at(delay_s, lambda: then() if self.runs() and self.boots == boot else None)

    # ---- what the models tell

    def saw_disk(self) -> None:
        self._tell("volumes")

    def saw_cluster(self) -> None:
        self._tell("cluster")

    def _tell(self, what: str) -> None:
        for listener in tuple(self.listeners):
            listener(what)

    def volumes(self) -> Volumes:
        """DRBD as this machine sees it now."""
        return Volumes(self.local(), (self.pair.disks.replica(self.name),))

    def stored(self) -> Volumes:
        return Volumes(self.local(), (self.pair.disks.stored(self.name),))

    def sample(self) -> WriteSample:
        return self.pair.disks.sample(self.name, self.local())

    def members(self) -> Membership:
        return self.cluster.members()

    # ---- what its programs answer

    def fence_answered(self, request: str, *, confirmed: bool) -> None:
        if confirmed and self.cluster.request == request:
            self.confirmed += 1
        self.cluster.answered(request, confirmed=confirmed)

    def handler_answered(self, job: str, code: int) -> None:
        self.pair.disks.answered(self.name, job, code)

    # ---- life

    def start_cluster(self) -> None:
        if self.runs() and not self.cluster.running:
            self.cluster.start()

    def panic(self) -> None:
        """The kernel stops; the power stays on."""
        if self.runs():
            self.hung = True
            self.pair.tell(self.title, "kernel panic")
            self.pair.programs.end(self)

    def power_off(self, why: str) -> None:
        if not self.powered:
            return
        self.pair.tell(self.title, f"is off: {why}")
        self.powered = self.hung = False
        self.cluster.stop_hard()
        self.pair.disks.power_lost(self.name)
        self.pair.programs.end(self)

    def switch_on(self) -> None:
        if self.powered:
            return
        self.powered, self.switched_off = True, False
        self.boots += 1
        self.pair.tell(self.title, "boots")
        self.later(BOOT_S, lambda: self.pair.programs.boot(self))


class Callers:
    """Where the models' Pacemaker and DRBD ask for a program; `up` and `paused` are always as if it could be asked."""

    up = True
    paused = False

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def ask(self, event: AgentAsks | HandlerAsks) -> None:
        match event:
            case AgentAsks(request, action, _, _):
                self._machine.pair.programs.fence(self._machine, request, action)
            case HandlerAsks(job, _):
                self._machine.pair.programs.fence_peer(self._machine, job)

    def take(self, event: ClientGone) -> None:
        self._machine.pair.programs.gone(self._machine, event.id)


@dataclass(slots=True)
class Shot:
    """One command to a power controller. `done`: it acted."""

    target: Machine
    done: bool = False


@dataclass(slots=True)
class Figures:
    """Measured since `since`. Seconds."""

    since: Instant
    stopped_s: float = 0.0  # no machine ran the service
    acked: Instant | None = None  # the last acknowledged write
    stall_s: float = 0.0  # the longest time between two acknowledged writes
    shots: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Death:
    """A machine that panicked, and when the other one ran the service (None: not yet)."""

    title: str
    at: Instant
    promoted_s: float | None = None


class SimulatedPair:
    """Two machines. `advance` lets the time that has passed happen."""

    fence_action = "reboot"  # Pacemaker's default stonith-action
    cadence = DENSE

    def __init__(self, name: str, titles: tuple[str, str], clock: Clock, programs: Programs, *, seed: int) -> None:
        self.name, self.programs, self._clock = name, programs, clock
        self.rng = random.Random(seed)  # noqa: S311  # jitter of simulated parts, no secret
        self.now: int = clock.now()
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()
        self._began = self.now
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._seq = 0
        self._seen_acked = 0
        self.death: Death | None = None
        world = cast("World", self)
        self.network = Network(world)
        self.disks = Disks(world)
        self.volumes = (self.disks,)
        self.nodes = {letter: Machine(self, letter, title) for letter, title in zip(LETTERS, titles, strict=True)}
        self.figures = Figures(self._clock.now())

    def begin(self) -> None:
        """Boot both machines; the models begin to look at their links, the client to write."""
        for machine in self.nodes.values():
            self.programs.boot(machine)
            self._every(LOOK_S, machine.cluster.tick)
            self._every(WRITE_S, self._writer(machine))
        self._every(LOOK_S, self.disks.tick)

    # ---- what the models need of their world

    def at(self, delay_s: float, then: Callable[[], None]) -> None:
        self._seq += 1
        heapq.heappush(self._queue, (self.now + round(delay_s * NS_PER_S), self._seq, then))

    def tell(self, who: str, text: str) -> None:
        title = self.nodes[who].title if who in LETTERS else who
        self.story.append(f"{(self.now - self._began) / NS_PER_S:8.2f} s {self.name} {title}: {text}")
        del self.story[:-400]

    def soon(self, least_s: float, most_s: float, then: Callable[[], None]) -> None:
        self.at(self.rng.uniform(least_s, most_s), then)

    def stir(self) -> None:
        """Nothing here slows down while it is quiet."""

    def still(self) -> None:
        """Nor is anything looked at so seldom that it would have to be told what was."""

    def name_of(self, what: str) -> str:
        self._seq += 1
        return f"{what}-{self._seq}"

    def granted(self, name: str) -> None:
        self.tell(name, "may run alone")

    # ---- time

    def advance(self) -> None:
        """Everything that was due up to now, in order; then measure."""
        now = self._clock.now()
        while self._queue and self._queue[0][0] <= now:
            when, _, then = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            then()
        passed_s = elapsed_s(Instant(self._measured), now) if self._measured else 0.0
        self.now = self._measured = now
        self._measure(now, passed_s)

    _measured: int = 0

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.at(seconds, again)

        self.at(self.rng.uniform(0.0, seconds), again)

    def _writer(self, machine: Machine) -> Callable[[], None]:
        return lambda: self.disks.write(cast("Node", machine))

    def _measure(self, now: Instant, passed_s: float) -> None:
        figures = self.figures
        if len(self.disks.acked) != self._seen_acked:
            self._seen_acked = len(self.disks.acked)
            if figures.acked is not None:
                figures.stall_s = max(figures.stall_s, elapsed_s(figures.acked, now))
            figures.acked = now
        if not any(machine.serves() for machine in self.nodes.values()):
            figures.stopped_s += passed_s
        death = self.death
        if death is not None and death.promoted_s is None:
            survivor = next(m for m in self.nodes.values() if m.title != death.title)
            if survivor.serves() and self.disks.of[survivor.name].writable():
                death.promoted_s = elapsed_s(death.at, now)

    def mark(self) -> None:
        """Measure anew from now on."""
        now = self._clock.now()
        self.figures = Figures(now, acked=now if self.serving() is not None else None)
        self.death = None

    # ---- the network and the power, as people and programs touch them

    def freeze(self, *, bus: bool = True) -> None:
        """The switch stops forwarding and keeps what it was sent: links, fence devices and, if `bus`, the bus.

        With `bus` False the arbiter is reached another way, and nothing is to be seen on the switch.
        """
        spared = (BUS_ARBITER,) if bus else (BUS_ARBITER, BUS_A, BUS_B)
        self.network.hold(*(p for p in EVERY if p not in spared))

    def heal(self) -> None:
        self.network.heal()

    def frozen(self) -> bool:
        return any(state != "open" for state in self.network.state.values())

    def switch_answers(self, machine: Machine) -> bool:
        return self.network.bus_open(machine.name)

    def kill(self, machine: Machine) -> None:
        self.death = Death(machine.title, self._clock.now())
        machine.panic()

    def shoot(self, by: Machine, *, life_s: float | None, cycle: bool) -> Shot:
        """A command from `by` to its peer's power controller. `cycle`: the controller switches it on again itself.

        `life_s` bounds how long the network may still deliver it (None: for ever).
        """
        shot = Shot(by.peer)
        target = by.peer

        def act() -> None:
            if target.powered:
                target.shot += 1
                self.figures.shots[target.title] += 1
                target.switched_off = True
                target.power_off(f"its power controller was told by {by.title}")
                if cycle:
                    self.at(1.0, target.switch_on)
            shot.done = True

        self.network.carry(by.name, f"device:{target.name}", lambda: self.at(POWER_OFF_S, act), life_s=life_s)
        return shot

    def power(self, machine: Machine) -> Power:
        return Power.ON if machine.powered else Power.OFF

    def reaches_device(self, by: Machine) -> bool:
        return self.network.open(by.name, f"device:{by.peer.name}")

    # ---- for people

    def machine(self, title: str) -> Machine | None:
        return next((m for m in self.nodes.values() if m.title == title), None)

    def serving(self) -> str | None:
        """Where the service runs, None: nowhere. Two at once would be a split brain: both, joined by `+`."""
        return "+".join(m.title for m in self.nodes.values() if m.serves()) or None

    def whole(self) -> bool:
        """One membership, replication connected and UpToDate, the service running."""
        a, b = (self.disks.of[letter] for letter in LETTERS)
        joined = all(m.runs() and m.cluster.peer_member for m in self.nodes.values())
        connected = all(self.disks.replica(letter).link.value == "connected" for letter in LETTERS)
        good = a.disk is Disk.UP_TO_DATE and b.disk is Disk.UP_TO_DATE
        return joined and connected and good and self.serving() is not None

    def lost_writes(self) -> int | None:
        """Acknowledged writes that the serving machine has not; None while none or two serve."""
        serving = [m for m in self.nodes.values() if m.serves()]
        if len(serving) != 1:
            return None
        return len(self.disks.acked.keys() - self.disks.of[serving[0].name].has)

    def shown(self) -> dict[str, object]:
        """Everything a person may want to see of this pair."""
        figures, now = self.figures, self._clock.now()
        stall_s = figures.stall_s
        if figures.acked is not None:
            stall_s = max(stall_s, elapsed_s(figures.acked, now))
        death = self.death
        return {
            "pair": self.name,
            "frozen": self.frozen(),
            "whole": self.whole(),
            "serving": self.serving(),
            "service_stopped_s": round(figures.stopped_s, 2),
            "write_stall_s": round(stall_s, 2),
            "acknowledged": len(self.disks.acked),
            "lost_writes": self.lost_writes(),
            "split_brains": self.disks.split_brains,
            "shots": {m.title: figures.shots[m.title] for m in self.nodes.values()},
            "death": None if death is None else {"node": death.title, "promoted_s": death.promoted_s},
            "nodes": {m.title: self._shown(m) for m in self.nodes.values()},
        }

    def _shown(self, machine: Machine) -> dict[str, object]:
        replica = self.disks.replica(machine.name)
        return {
            "power": self.power(machine).value,
            "runs": machine.runs(),
            "role": replica.role.value,
            "disk": replica.disk.value,
            "link": replica.link.value,
            "suspended": sorted(s.value for s in replica.suspended or ()),
            "member": machine.cluster.peer_member,
            "maintenance": machine.cluster.maintenance,
            "fencing": machine.cluster.request is not None,
            "confirmed": machine.confirmed,
        }

    def titled(self, shot: PendingShot) -> PendingShot:
        """A queued shot with the names of the site instead of the models' letters."""
        return PendingShot(self.title(shot.target), shot.action, shot.client, self.title(shot.origin), shot.state)

    def title(self, letter: str) -> str:
        return self.nodes[letter].title if letter in LETTERS else letter

    def letter(self, title: str) -> str | None:
        found = self.machine(title)
        return None if found is None else found.name
