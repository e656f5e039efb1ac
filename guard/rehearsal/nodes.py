"""One rehearsed node: power, clock, the guard's shell around the shipped machine, and what it watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from guard.core.evidence import Up, Volumes
from guard.core.instant import NS_PER_S, Instant
from guard.core.messages import ARBITER
from guard.core.sight import Sight
from guard.core.step import (
    BusState,
    SawCluster,
    SawMembers,
    SawProbe,
    SawVolumes,
    SawWrites,
    Seen,
    Tick,
)
from guard.rehearsal.cluster import Cluster
from guard.rehearsal.mlag import BOND, TOGETHER, link_seen, owned_ports
from guard.rehearsal.shell import Shell

if TYPE_CHECKING:
    from guard.rehearsal.world import World

DISK_EVERY, CLUSTER_EVERY, SWITCH_EVERY = 25, 5, 5  # ticks between two looks
SAME_WRITES_S = 3.0  # a ledger without a new write is told this often while nobody asks for its age
SAMPLE_S = 0.4  # and no older than this when somebody does
# In a sparse world, where only news are told: at least this often everything is looked at and told, and a switch that
# is well; a switch is looked at, and writes are counted.
WHOLE_S, SWITCH_S, LOOK_S, WRITES_S = 9.0, 9.0, 1.4, 0.8
TICK_S_MAX = 4.0  # at least this often a guard is told that time passes, whatever else it is told


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often a shell looks and ticks: every `tick_s` for `lively_s` after anything changed near it, and while a loss
    or a join is on its way (the token runs, two ends of a connection look for each other); else every `calm_s`. Both
    10 % more or less. A slow shell is a legal execution of the shipped code. `calm_s` up to `tick_s`: always lively.

    1.5 s is well within `heard_s`: nobody seems silent who is only calm. Fast ticks are not slower than 0.3 s: what a
    guard knows of the other side would get older than in a daemon. 1 s of `lively_s` is enough: whatever follows later
    than that stirs anew (a loss on its way, a claim, a hold), and with 3 s no more holds are seen to begin."""

    tick_s: float = 0.3
    calm_s: float = 1.5
    lively_s: float = 1.0

    @property
    def dense(self) -> bool:
        return self.calm_s <= self.tick_s


DENSE = Cadence(tick_s=0.2, calm_s=0.2)


class Node:
    """A machine. Its clock starts anew at each boot and runs up to 200 ppm wrong."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self._timeline = world.timeline
        self.powered = True
        self.hung = False
        self.switched_off = False  # by its fence device, not by its death
        self.boots = 1
        self.offs: list[float] = []  # when it lost power
        self._since = -int(world.rng.uniform(100, 1000) * NS_PER_S)  # the clock read `_base` then
        self._base = 0
        self.vm_stopped = False
        self.rate = 1.0 + world.rng.uniform(-2e-4, 2e-4)
        self.frozen: list[Callable[[], None]] = []
        self.cluster = Cluster(self)
        self.shell = Shell(self)
        self.bus_seen: bool | None = None
        self.probe_ok = 0
        self.guard_echoes = False  # its guard answers the peer's probe, as guard/adapters/probe.py does; else its card
        self.foreign = 0  # faults by which its guard is of another version: neither side can read the other's words
        self.unwell_at = 0  # world time at which kernel, power or guard last failed or came back
        self.wall_s = 0.0  # its wall clock is so wrong
        self.bond = Up.UP
        self.bond_partner = TOGETHER if len(world.switches) > 1 else None
        self._next_whole = self._next_switch = self._next_writes = self._next_tick = 0  # in a sparse world
        self._switches_told: dict[str, tuple[int, object]] = {}
        self.sight = Sight(interfaces=frozenset({BOND}), ports=owned_ports(world.switches, name))

    @cached_property
    def peer(self) -> Node:
        return self.world.nodes["B" if self.name == "A" else "A"]

    @property
    def boot_id(self) -> str:
        return f"boot-{self.name}-{self.boots}"

    def runs(self) -> bool:
        """Powered, and its kernel makes progress."""
        return self.powered and not self.hung

    def echoes(self) -> bool:
        """Does it answer a probe? A hung kernel's card may; its guard does not. Of a guard that is gone its kernel says
        so, which is an answer too (guard/adapters/probe.py)."""
        return self.runs() and not self.shell.paused if self.guard_echoes else self.powered

    def local(self) -> Instant:
        """CLOCK_BOOTTIME here."""
        return Instant(self._base + int((self._timeline.now - self._since) * self.rate))

    def drift(self, rate: float) -> None:
        """From now on the clock runs at `rate`; 0: it stands."""
        self._base, self._since, self.rate = self.local(), self.world.now, rate

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
        self.world.still()
        self.world.tell(self.name, f"is off: {why}")
        self.world.checkers.fell(self)
        self.unwell_at = self.world.now
        self.powered = self.hung = False
        self.world.stir()
        self.offs.append(self.world.now)
        self.frozen = []
        self.shell.up, self.shell.guard, self.shell.clients, self.shell.paused = False, None, {}, False
        self.cluster.stop_hard()
        for volume in self.world.volumes:
            volume.power_lost(self.name)

    def switch_on(self) -> None:
        """Boot: the guard first, then the cluster with DRBD."""
        if self.powered:
            return
        self.powered, self.switched_off = True, False
        if self.vm_stopped:
            self.vm_stopped, self.rate = False, self._rate_before
        self.boots += 1
        self._base, self._since = 0, self.world.now
        self.bus_seen = None
        self.world.tell(self.name, "boots")
        self.later(3.0, self.start_guard)
        self.later(5.0, self.cluster.start)

    def hang(self, on: bool) -> None:
        if not self.powered or self.hung is on:
            return
        self.world.still()
        self.hung = on
        self.unwell_at = self.world.now
        if on:
            self.world.checkers.fell(self)
        self.world.stir()
        self.world.tell(self.name, "kernel hangs" if on else "kernel goes on")
        if not on:
            waiting, self.frozen = self.frozen, []
            for run in waiting:
                self.world.at(0.0, run)
            self.shell.pause(False)

    def stop_vm(self, on: bool) -> None:
        """The hypervisor stops the machine, and with it CLOCK_BOOTTIME: it knows nothing of the time that passed."""
        if self.vm_stopped is on or (on and not self.powered):
            return
        self.vm_stopped = on
        if on:
            self._rate_before = self.rate
            self.drift(0.0)
        elif self.rate == 0.0:
            self.drift(self._rate_before)
        self.hang(on)

    _rate_before = 1.0

    def restart_guard(self, after_s: float = 2.0) -> None:
        self.shell.kill()
        self.later(after_s, self.start_guard)

    def start_guard(self) -> None:
        if not self.shell.up:
            self.shell.start()

    # ---- what the guard sees

    def saw_disk(self) -> None:
        self.world.stir()
        self.later(self.world.rng.uniform(0.001, 0.1), self.see_disk)

    def see_disk(self) -> None:
        replicas = tuple(volume.replica(self.name) for volume in self.world.volumes)
        self.shell.take(SawVolumes(Volumes(self.local(), replicas)))

    def _see_writes(self) -> None:
        at, told = self.local(), self.shell.writes_told
        if not self.world.cadence.dense:
            ends = [volume.of[self.name] for volume in self.world.volumes]
            seen = tuple((end.role, end.completed, end.received, end.link) for end in ends)
            if told is not None and told[1] == seen and self.world.now - told[0] < SAME_WRITES_S * NS_PER_S:
                return
            self.shell.writes_told = self.world.now, seen
        self.shell.take(SawWrites(tuple(volume.sample(self.name, at) for volume in self.world.volumes)))

    def sample_writes(self) -> None:
        """A guard that testifies has just looked: its own samples are 0.5 s apart, a sparse world's are not."""
        told = self.shell.writes_told
        if not self.world.cadence.dense and (told is None or self.world.now - told[0] > SAMPLE_S * NS_PER_S):
            self.shell.writes_told = None
            self._see_writes()

    def saw_cluster(self) -> None:
        self.world.stir()
        self.later(self.world.rng.uniform(0.01, 0.4), self._see_cluster)

    def _see_cluster(self) -> None:
        if not self.world.cadence.dense:
            told, now, face = self.shell.cluster_told, self._timeline.now, self.cluster.face()
            if told is not None and told[1] == face and now - told[0] < 0.9 * WHOLE_S * NS_PER_S:
                return
            self.shell.cluster_told = now, face
        self.shell.take(SawMembers(self.cluster.members()))
        self.shell.take(SawCluster(self.cluster.view()))

    def look_at_everything(self) -> None:
        self._switches_told = {}
        self.see_disk()
        self._see_cluster()
        self.bus_seen = None
        self._look_quick()
        self._look_switch()
        self.see_link()

    def _look_quick(self) -> None:
        world = self.world
        bus = world.network.bus_open(self.name) and world.network.bus_open(ARBITER)
        if bus is not self.bus_seen:
            self.bus_seen = bus
            self.shell.take(BusState(bus))
        if world.network.open("A", "B") and self.peer.echoes():
            self.probe_ok = world.now
        answered = world.now - self.probe_ok <= 0.4e9
        if self.world.cadence.dense or self.shell.probe_told is not answered:
            self.shell.probe_told = answered
            self.shell.take(SawProbe(answered))

    def see_link(self, carrier: Up | None = None, partner: str | None = None, changes: int | None = None) -> None:
        """netlink says what the own bond is like, perhaps anew."""
        self.bond = carrier if carrier is not None else self.bond
        self.bond_partner = partner if partner is not None else self.bond_partner
        self.shell.take(link_seen(self.local(), self.bond, self.bond_partner, changes))

    def _look_switch(self) -> None:
        now, dense = self._timeline.now, self.world.cadence.dense
        for switch in self.world.switches:
            if not dense:
                told, face = self._switches_told.get(switch.name), switch.face()
                if face is not None and told is not None and told[1] == face and now - told[0] < SWITCH_S * NS_PER_S:
                    continue
                self._switches_told[switch.name] = now, face
            seen = Seen(switch.sighting(self.local()))
            if switch.late_s:
                self.later(switch.late_s, lambda seen=seen: self.shell.take(seen))  # type: ignore[misc]
            else:
                self.shell.take(seen)

    def tick_sparse(self, *, calm: bool) -> None:
        """`calm`: nothing changed near here. What changes is seen when it does; all is looked at now and then."""
        if not self.runs() or not self.shell.up:
            return
        now = self._timeline.now
        whole = now >= self._next_whole
        if whole or not calm:
            self._look_quick()
        if whole or now >= self._next_switch:
            self._next_switch = now + round(LOOK_S * NS_PER_S)
            self._look_switch()
        if whole:
            self._next_whole = now + round(WHOLE_S * NS_PER_S)
            self._see_cluster()
            self.see_disk()
        if now >= self._next_writes:
            self._next_writes = now + round(WRITES_S * NS_PER_S)
            self._see_writes()
        # Whatever the guard is told also lets it look at what is due; only its leases wait for a tick.
        if self.shell.stepped_at != now or now >= self._next_tick:
            self._next_tick = now + round(TICK_S_MAX * NS_PER_S)
            self.shell.take(Tick())

    def tick(self, count: int) -> None:
        if not self.runs() or not self.shell.up:
            return
        self._look_quick()
        if count % SWITCH_EVERY == 0:
            self._look_switch()
        if count % CLUSTER_EVERY == 2:
            self._see_cluster()
        if count % DISK_EVERY == 3:
            self.see_disk()
        if count % 2 == 0:
            self._see_writes()
        self.shell.take(Tick())
