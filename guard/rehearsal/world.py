"""The deterministic world: one seed, one story. Drives the shipped guards and arbiter through faults.

1. Events run in the order (time, number); every random choice comes from one seeded generator.
2. The shipped code is called as the shells call it: memory durable first, then effects; a crash may come at any point.
3. Checkers look after every event; a broken rule ends the run with `Violation`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from guard.core.instant import NS_PER_S
from guard.core.policy import Policy
from guard.core.step import AskRelease, Fire, Step
from guard.rehearsal.checkers import Checkers, Unmet, Violation, expect
from guard.rehearsal.disks import Disks, Replicated
from guard.rehearsal.mlag import Mlag, Switch
from guard.rehearsal.network import Network
from guard.rehearsal.nodes import DENSE, Cadence, Node
from guard.rehearsal.power import Device
from guard.rehearsal.timeline import Timeline
from guard.rehearsal.witness import Arbiter, SharedCell

QUICK = Policy(settle_s=8.0, unheard_s=10.0, cold_s=15.0, alone_under_hold_s=8.0, shot_s=6.0)
"""The shipped limits, with the long waits shortened so that a run stays cheap; every relation between them holds."""


@dataclass(slots=True)
class Crash:
    """Kill the guard of `node` at `point` of the step that carries an effect of class `effect` (None: any step)."""

    node: str
    point: str  # "before-durable" or "after-durable"
    effect: type | None = Fire


class World:
    """A pair, its arbiter, network, fence devices and people. Pairs of one site share `timeline` and `cell`.

    `telling` False: no story is kept. `counts`: what was injected, and what had its effect.
    `resources`: so many replicated resources, one group for Pacemaker, each with a connection of its own.
    `mlag`: both nodes hang on an MLAG pair of switches instead of one switch.
    `prepare`: sets what is another here (timers, gates, devices) before anything starts.
    """

    def __init__(
        self,
        seed: int,
        policy: Policy = QUICK,
        *,
        horizon_s: float | None = 10.0,
        timeline: Timeline | None = None,
        cell: SharedCell | None = None,
        name: str = "pair-1",
        cadence: Cadence = DENSE,
        mlag: bool = False,
        telling: bool = True,
        resources: int = 1,
        prepare: Callable[[World], None] | None = None,
    ) -> None:
        self.seed, self.policy, self.name, self.cadence = seed, policy, name, cadence
        self.rng = random.Random(seed)  # noqa: S311  # a seeded story, no secret
        self.timeline = timeline if timeline is not None else Timeline()
        self._names = 0
        self.telling = telling
        self.layers: dict[tuple[int, str], list[list[object]]] = {}  # of `faulty.instead`, the base first
        self.standing: list[Callable[[], None]] = []  # ends of the faults that were injected
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        self.notes: list[tuple[int, str, str]] = []  # (when, node, event)
        self.pages: list[tuple[str, str]] = []
        self.crashes: list[Crash] = []
        self.crash_chance = 0.0
        self.fence_action: Literal["off", "reboot"] = "off"
        self.grants: list[tuple[str, int]] = []  # (node, era) of each code 4 or 7 that DRBD took
        self.fenced: list[tuple[str, str, int]] = []  # (by, target, era) of each shot that landed on a running node
        self.landed: list[tuple[str, str]] = []
        self.network = Network(self)
        self.checkers = Checkers(self)
        self._look = self.checkers.always
        self.disks = Disks(self)  # the first resource
        self.volumes = (self.disks, *(Disks(self, f"r{n}") for n in range(1, resources)))
        self.switch = Switch(self, "sw1")
        self.switches: tuple[Switch, ...] = (self.switch, Switch(self, "sw2")) if mlag else (self.switch,)
        self.nodes: dict[str, Node] = {}
        for name in ("A", "B"):
            self.nodes[name] = Node(self, name)
        self.devices = {name: Device(self, name, horizon_s) for name in ("A", "B")}
        for n, device in enumerate(self.devices.values()):
            device.stream, device.impatient = bool(seed >> n & 1), bool(seed >> (n + 2) & 1)
        self.mlag = Mlag(self, *self.switches) if len(self.switches) == 2 else None
        self.arbiter = Arbiter(self, cell)
        if prepare is not None:
            prepare(self)
        self._begin()

    # ---- time

    @property
    def now(self) -> int:
        return self.timeline.now

    def at(self, delay_s: float, then: Callable[[], None]) -> None:
        self.timeline.at(delay_s, then, self._look)

    def soon(self, least_s: float, most_s: float, then: Callable[[], None]) -> None:
        """After a time drawn evenly from `least_s` to `most_s`."""
        self.timeline.at(least_s + (most_s - least_s) * self.rng.random(), then, self._look)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass, for every pair on this timeline. Raises `Violation`."""
        self.timeline.run(seconds)

    def until(self, fact: Callable[[], bool], seconds: float, *, step_s: float = 0.1) -> bool:
        """Let time pass until `fact`, at most `seconds`; was it reached? Looks every `step_s`."""
        end = self.now + round(seconds * NS_PER_S)
        while not fact():
            if self.now >= end:
                return False
            self.run(step_s)
        return True

    def name_of(self, what: str) -> str:
        self._names += 1
        return f"{what}-{self._names}"

    # ---- the story

    def tell(self, who: str, text: str) -> None:
        if self.telling:
            self.story.append(f"{self.now / NS_PER_S:9.3f} {who:8} {text}")

    def note(self, who: str, event: str, text: str, *, page: bool) -> None:
        self.notes.append((self.now, who, event))
        if page:
            self.pages.append((who, event))
        self.tell(who, f"{event}: {text}")

    def noted(self, event: str, who: str | None = None) -> int:
        return sum(1 for _, by, name in self.notes if name == event and who in (None, by))

    # ---- beginning: both nodes up and replicating, the register made

    def _begin(self) -> None:
        for node in self.nodes.values():
            node.shell.start()
            node.cluster.start()
            node.cluster.mounted = False
            for volume in self.volumes:
                volume.of[node.name].fresh_boot = False
        self.arbiter.init()
        if self.cadence.dense:
            self._every(0.2, self._tick)
            for volume in self.volumes:
                self._every(0.25, volume.tick)
            for name in ("A", "B"):
                self._every(0.25, self.nodes[name].cluster.tick)
                self._writing(name)
            self._every(0.1, self.arbiter.tick)
        else:
            self._writing("A", "B")
            self.stir()

    # ---- a slower pulse while nothing happens

    _lively_until = 0
    _next_pulse = -1
    _pulses = 0

    def stir(self, for_s: float = 0.0) -> None:
        """Something changed near this pair: what looks periodically looks often again, for `for_s` at least."""
        if self.cadence.dense:
            return
        cadence, now = self.cadence, self.timeline.now
        self._lively_until = max(self._lively_until, now + round(max(cadence.lively_s, for_s) * NS_PER_S))
        if self._next_pulse < now or self._next_pulse - now > cadence.tick_s * NS_PER_S:
            self._pulse_in(cadence.tick_s * self.rng.random())

    def still(self) -> None:
        """Something is about to change near this pair. Pulses are far apart: who heard the other until now knows it."""
        if self.cadence.dense:
            return
        for volume in self.volumes:
            volume.still_hears()
        for node in self.nodes.values():
            node.cluster.still_hears()

    def _pulse_in(self, delay_s: float) -> None:
        self._pulses += 1
        number = self._pulses
        self._next_pulse = self.timeline.now + round(delay_s * NS_PER_S)
        self.at(delay_s, lambda: self._pulse(number))

    def _pulse(self, number: int) -> None:
        if number != self._pulses:
            return  # an earlier one was put in its place
        cadence = self.cadence
        lively = self.timeline.now < self._lively_until
        self._next_pulse = -1
        for volume in self.volumes:
            volume.tick()
            lively = lively or volume.turning
        for node in self.nodes.values():
            node.cluster.tick()
            lively = lively or node.cluster.turning
        self.arbiter.tick()
        for node in self.nodes.values():
            node.tick_sparse(calm=not lively)
        self.checkers.slow()
        if self._next_pulse < 0:  # else it was stirred just now
            period_s = cadence.tick_s if lively else cadence.calm_s
            self._pulse_in(period_s * self.rng.uniform(0.9, 1.1))

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.at(seconds * self.rng.uniform(0.9, 1.1), again)

        self.at(self.rng.uniform(0.0, seconds), again)

    _ticks = 0

    def _tick(self) -> None:
        self._ticks += 1
        for node in self.nodes.values():
            node.tick(self._ticks)
        self.checkers.slow()

    def _writing(self, *names: str) -> None:
        def again() -> None:
            for volume in self.volumes:
                for name in names:
                    volume.write(self.nodes[name])
            self.at(self.rng.choice((0.15, 0.4, 0.4, 2.0)), again)

        self.at(self.rng.uniform(0, 0.5), again)

    # ---- what the outside tells the checkers

    def shot_lands(self, by: str, target: str, intent: str) -> None:
        node = self.nodes[target]
        self.landed.append((by, target))
        self.checkers.landing(by, target, intent)
        if node.powered:
            node.switched_off = True
            node.power_off(f"shot by {by}")

    def granted(self, name: str) -> None:
        self.grants.append((name, self.arbiter.era))
        self.checkers.granted(name)

    def dies_here(self, node: Node, point: str, step: Step) -> bool:
        """Does the guard of `node` die at this point of this step? It is started again a little later."""
        dies = self.crash_chance > 0 and self.rng.random() < self.crash_chance
        for crash in self.crashes:
            hit = crash.effect is None or any(isinstance(e, crash.effect) for e in step.effects)
            if crash.node == node.name and crash.point == point and hit:
                self.crashes.remove(crash)
                dies = True
                break
        if dies:
            node.later(self.rng.uniform(0.5, 3.0), lambda: None if node.shell.up else node.shell.start())
        return dies

    def heal_everything(self) -> None:
        """Whatever still goes wrong ends now; what is off is switched on. People release what they hold."""
        standing, self.standing = self.standing, []
        for end in reversed(standing):
            end()
        self.crash_chance = 0.0
        self.network.loss = self.network.repeat = self.network.late = 0.0
        self.network.drops.clear()
        self.network.heal()
        self.arbiter.start()
        for node in self.nodes.values():
            node.hang(False)
            node.switch_on()
            if not node.shell.up:
                node.later(1.0, node.start_guard)
            if node.shell.paused:
                node.shell.pause(False)
        self.at(8.0, lambda: self._release(40))

    def _release(self, times: int) -> None:
        for node in self.nodes.values():
            node.shell.take(AskRelease("release"))
        if times and any(n.shell.guard is not None and n.shell.guard.memory.holding for n in self.nodes.values()):
            self.at(3.0, lambda: self._release(times - 1))

    # ---- what every story begins and ends with

    def begin(self) -> None:
        """Start, become whole, run for a moment; A is the primary. Raises `Unmet`."""
        expect(self.until(self.whole, 15), f"not whole after the start: {self.why_not_whole()}")
        self.run(self.rng.uniform(2.0, 4.0))

    def again_whole(self, seconds: float = 90.0) -> None:
        """The liveness phase: all is healed, people switch on what is off, and nothing may be left over."""
        self.network.heal()
        end = self.now + round(seconds * NS_PER_S)
        while not self.whole():
            if self.now >= end:
                raise Unmet(f"not whole again: {self.why_not_whole()}")
            self.run(0.5)
            if self.rng.random() < 0.1:
                for node in self.nodes.values():
                    node.switch_on()
        self.run(2)
        self.checkers.at_the_end()

    def live_again(self, seconds: float = 150.0) -> None:
        """L2: everything is healed, people switch on what is off; nothing may be held or lost, and one node serves."""
        self.heal_everything()
        end = self.now + round(seconds * NS_PER_S)
        self.run(3)
        while not self.whole():
            if self.now >= end:
                raise Violation("L2", f"not whole {seconds:.0f} s after everything was healed: {self.why_not_whole()}")
            self.run(0.5)
            if self.rng.random() < 0.05:
                for node in self.nodes.values():
                    node.switch_on()
        self.run(5)
        self.checkers.at_the_end()

    def whole(self) -> bool:
        """Both nodes up and replicating in one membership; exactly one active; era closed; nothing held or waiting."""
        good = all(
            node.runs() and node.shell.up and node.cluster.peer_member and not node.shell.clients
            for node in self.nodes.values()
        )
        primaries = [n for n in ("A", "B") if self.serves(n)]
        guards = [node.shell.guard for node in self.nodes.values()]
        free = all(g is not None and not g.memory.holding and not g.memory.inhibits for g in guards)
        free = free and not any(n.cluster.properties.ours or n.cluster.properties.barred for n in self.nodes.values())
        kept = self.arbiter.kept
        closed = kept is not None and kept.register.winner is None and not kept.inhibits
        same = all(_level(volume.of["A"], volume.of["B"]) for volume in self.volumes)
        return good and len(primaries) == 1 and free and closed and same

    def serves(self, name: str) -> bool:
        """The service runs here, and everything that it writes on takes writes."""
        return self.nodes[name].cluster.mounted and all(volume.of[name].writable() for volume in self.volumes)

    def why_not_whole(self) -> str:
        """For a failed liveness check."""
        parts = []
        for name, node in self.nodes.items():
            disks, guard = [volume.of[name] for volume in self.volumes], node.shell.guard
            parts.append(
                f"{name}: runs={node.runs()} guard={node.shell.up} member={node.cluster.peer_member} "
                f"disk={' '.join(f'{d.disk.value}/{d.role.value}/{d.link.value}' for d in disks)} "
                f"frozen={','.join(sorted({why for d in disks for why in d.suspended})) or 'no'} "
                f"clients={sorted(node.shell.clients)} "
                f"mounted={node.cluster.mounted} holding={guard.memory.holding if guard else '?'} "
                f"inhibits={sorted(guard.memory.inhibits) if guard else '?'} ours={node.cluster.properties.ours}"
            )
        kept = self.arbiter.kept
        parts.append(f"register={kept.register if kept else None} inhibits={sorted(kept.inhibits) if kept else None}")
        return "; ".join(parts)


def _level(a: Replicated, b: Replicated) -> bool:
    """One generation, both disks good, connected."""
    same = a.current == b.current and a.disk.value == b.disk.value == "U"
    return same and a.link.value == b.link.value == "connected"


__all__ = ["QUICK", "Crash", "Unmet", "Violation", "World"]
