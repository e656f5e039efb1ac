"""One timeline on the rehearsed world: the shipped guards and arbiter in three pairs that share witness, cell and time.

The world is set as the lab is built: its limits, its token, where arbiter and power controllers hang, and what its
bridges do to a port that comes up. What a fault is made of stands in `_begin`, one line a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from fencing.fence_peer import PAUSE_S_MAX, PAUSE_S_MIN
from guard.core import hold
from guard.core.evidence import Role
from guard.core.instant import NS_PER_S
from guard.core.policy import Policy
from guard.core.step import AskRelease, OpenHold
from guard.core.turn import Turn
from guard.errors import InvariantBroken
from guard.rehearsal.checkers import Violation
from guard.rehearsal.faults import FAULTS
from guard.rehearsal.nodes import Node
from guard.rehearsal.timeline import Timeline as Queue
from guard.rehearsal.values import stream
from guard.rehearsal.witness import SharedCell
from guard.rehearsal.world import World
from tests.lab.cluster import Timers
from tests.lab.fabric import FORWARD_DELAY_S_MIN
from tests.lab.plan import first_primary, nodes_of
from tests.lab.seeds.outcome import HELD, Outcome, Pace
from tests.lab.seeds.timeline import (
    PAIRS,
    PRIMARY,
    REST_S_MAX,
    RESTED_S,
    SWITCH_ON_S,
    WATCH_S,
    WHOLE_S_MAX,
    Fault,
    Timeline,
)

POLICY = Policy(settle_s=5.0, sampling_s=1.0, cold_s=20.0)  # tests/lab/guarded.py, LIMITS
HORIZON_S = 15.0  # tests/lab/guarded.py, HORIZON
MEMBERSHIP_S = 2.1  # a cut to the membership without the peer, at a token of 1 s (facts/labs.md, reaction window)
REQUEST_S = 0.8  # and from there to the fence request (the same table)
PING_S = 1.5  # the stand-in's ping-int and ping-timeout (tests/lab/replicas.py, drbd_conf)
PORT_S = 2 * FORWARD_DELAY_S_MIN  # a port that comes up passes traffic after this (tests/lab/fabric.py)
BEFORE_S = 40.0  # the witness is up, every session attested, every write age known
HELD_S = 5.0  # a hold is in force, and read back, after this
LOOK_S, RELEASE_S = 0.5, 2.0


def play(
    line: Timeline, primaries: Mapping[str, str] | None = None, paces: Mapping[str, Pace] | None = None
) -> list[Outcome]:
    """What becomes of every pair. `primaries`: who serves at first (None: as the lab forms). `paces`: by node."""
    return Played(line, primaries or {pair: first_primary(pair) for pair in PAIRS}, paces or {}).outcomes()


class Played:
    """The world's A is whoever is primary at first: by its own rule A is promoted first."""

    def __init__(self, line: Timeline, primaries: Mapping[str, str], paces: Mapping[str, Pace]) -> None:
        self.line, self.queue, self.paces = line, Queue(), paces
        self.names = {pair: _names(pair, first) for pair, first in primaries.items()}
        cell = SharedCell()
        self.worlds = {pair: self._world(pair, cell) for pair in primaries}
        self.ledgers = {pair: Ledger(world) for pair, world in self.worlds.items()}
        self.rng = stream("lab-seeds", line.seed, "faults")

    def _world(self, pair: str, cell: SharedCell) -> World:
        seed = stream("lab-seeds", self.line.seed, pair).getrandbits(64)
        world = World(seed, POLICY, horizon_s=HORIZON_S, timeline=self.queue, cell=cell, name=pair)
        world.disks.ping_s = PING_S
        for name, node in world.nodes.items():
            pace = self.paces.get(self.names[pair][name], Pace())
            node.guard_echoes = True
            node.cluster.token_s = MEMBERSHIP_S
            node.cluster.delay_s = REQUEST_S
            if pace.agent_s is not None:
                node.cluster.delay_s = max(0.1, pace.agent_s - (MEMBERSHIP_S - PING_S))
            if pace.join_s is not None:
                node.cluster.join_s = pace.join_s
            if pace.handler_s is not None:
                world.disks.handler_start_s[name] = pace.handler_s
            node.shell.handler_pause_s = (PAUSE_S_MIN, PAUSE_S_MAX)
            node.cluster.wait_s = Timers().stonith_timeout_s - 10.0
        return world

    def outcomes(self) -> list[Outcome]:
        broken: dict[str, str] = {}
        try:
            self._story()
        except Violation as violation:
            broken[self._whose()] = str(violation)
        except InvariantBroken as error:
            broken[self._whose()] = f"invariant: {error}"
        for ledger in self.ledgers.values():
            ledger.close()  # of a story that broke off
        return [self._outcome(pair, broken.get(pair)) for pair in self.worlds]

    def _whose(self) -> str:
        """The pair whose event ran last."""
        found = (pair for pair, world in self.worlds.items() if world.checkers.always == self.queue.look)
        return next(found, next(iter(self.worlds)))

    # ------------------------------------------------------------------ the story

    def _story(self) -> None:
        worlds = self.worlds.values()
        self._until(lambda: all(world.whole() for world in worlds), BEFORE_S)
        self.queue.run(BEFORE_S)
        if any(fault.kind == "hold" for fault in self.line.faults):
            self._hold()
        for ledger in self.ledgers.values():
            ledger.open()
        for fault in self.line.faults:
            self._put(fault)
        self._run(self.line.end_s + WATCH_S)
        self._until(lambda: all(at_rest(world) for world in worlds), REST_S_MAX, for_s=RESTED_S)
        for ledger in self.ledgers.values():
            ledger.close()
        for _ in range(round(WHOLE_S_MAX / SWITCH_ON_S)):
            self._switch_on()
            self._until(lambda: all(world.whole() for world in worlds), SWITCH_ON_S)
        for world in worlds:
            if world.whole():
                world.checkers.nothing_lost()

    def _run(self, seconds: float) -> None:
        def look() -> None:
            for ledger in self.ledgers.values():
                ledger.look()

        self.queue.run(seconds, look)

    def _until(self, fact: Callable[[], bool], seconds: float, *, for_s: float = 0.0) -> None:
        """Until it has been so for `for_s`, but no longer than `seconds`."""
        end, since = self.queue.now + seconds * NS_PER_S, self.queue.now
        while self.queue.now < end:
            if not fact():
                since = self.queue.now + round(LOOK_S * NS_PER_S)
            elif self.queue.now - since >= for_s * NS_PER_S:
                return
            self._run(LOOK_S)

    def _switch_on(self) -> None:
        """People switch on what is off, and power-cycle what hangs."""
        for world in self.worlds.values():
            for node in world.nodes.values():
                if node.hung:
                    node.power_off("a person power-cycles it")
                node.switch_on()

    # ------------------------------------------------------------------ faults

    def _put(self, fault: Fault) -> None:
        first = next(iter(self.worlds.values()))
        first.at(fault.at_s, lambda: self._begin(fault))

    def _begin(self, fault: Fault) -> None:
        """What the world has for a fault of the lab."""
        seconds = fault.seconds
        match fault.kind:
            case "stp":
                self._all("stp-blocks", seconds, port="uplink", paths=self._wide(), stp_s=seconds)
                self._blind(seconds)
            case "blackhole":
                self._all("cut", seconds, paths=self._wide())
                self._blind(seconds)
            case "late":
                self._all("hold", seconds, paths=self._wide())
                self._blind(seconds)
            case "flap":
                self._flap(seconds)
            case "links":
                self._links(fault)
            case "hung":
                self._one(fault, "kernel-hang", None)
            case "crash":
                self._one(fault, "power-loss", None)
            case "witness":
                first = next(iter(self.worlds.values()))
                FAULTS["witness-restarts"].inject(first, self.rng, down_s=seconds)
            case "guard":
                pace = self.paces.get(self.names[fault.pair][_place(fault)], Pace())
                self._one(fault, "guard-crash", None, down_s=seconds + (pace.guard_s or 0.0))
            case "hold":
                for world in self.worlds.values():
                    world.at(seconds, partial(self._release, world))

    def _all(self, name: str, lasts_s: float, **args: str | float | int) -> None:
        for world in self.worlds.values():
            world.at(lasts_s, FAULTS[name].inject(world, self.rng, **args))

    def _one(self, fault: Fault, name: str, lasts_s: float | None, **args: float) -> None:
        world = self.worlds[fault.pair]
        end = FAULTS[name].inject(world, self.rng, node=_place(fault), **args)
        if lasts_s is not None:
            world.at(lasts_s, end)

    @property
    def _in_band(self) -> bool:
        return self.line.arbiter == "in-band"

    def _wide(self) -> str:
        """What hangs behind the access switches' uplinks: the power controllers, and an in-band arbiter."""
        return "pair+devices" + ("+bus-a+bus-b" if self._in_band else "")

    def _blind(self, seconds: float) -> None:
        """Switches are asked where the arbiter is: in-band, those behind the freeze do not answer."""
        if self._in_band:
            self._all("switch-silent", seconds)

    def _flap(self, seconds: float) -> None:
        """acc2's uplinks: the b-nodes and their controllers are cut, the a-nodes hear an in-band arbiter."""
        self._all("port-flap", seconds, port="uplink", times=int(seconds / 1.4) + 1, every_s=1.4)
        for pair, world in self.worlds.items():
            cut = "pair+devices"
            if self._in_band:
                cut += "+bus-a" if self.names[pair]["A"].endswith("b") else "+bus-b"
            world.at(seconds + PORT_S, FAULTS["cut"].inject(world, self.rng, paths=cut))
        self._blind(seconds + PORT_S)
        self._all("topology-change", 0.0)
        self._later(seconds + PORT_S, lambda: self._all("topology-change", 0.0))

    def _links(self, fault: Fault) -> None:
        """In-band its port passes traffic only PORT_S after it is up; that is a topology change to every pair."""
        world, name, seconds = self.worlds[fault.pair], _place(fault), fault.seconds
        bus_s = seconds + (self._port_s(fault) if self._in_band else 0.0)
        ends = [
            (seconds, FAULTS["port-down"].inject(world, self.rng, port=f"port{name}")),
            (bus_s, FAULTS["cut"].inject(world, self.rng, paths=f"bus-{name.lower()}")),
            (seconds + self._port_s(fault), FAULTS["cut"].inject(world, self.rng, paths="pair")),
        ]
        device = "device-b" if name == "A" else "device-a"
        for after_s, end in [*ends, (ends[2][0], FAULTS["cut"].inject(world, self.rng, paths=device))]:
            world.at(after_s, end)
        self._one(fault, "bond-flap", seconds)  # last, as on the lab: it can tell nobody any more

        def passes() -> None:
            if world.nodes[name].powered:  # else it has no link
                self._all("topology-change", 0.0)

        self._later(seconds + self._port_s(fault), passes)

    def _port_s(self, fault: Fault) -> float:
        """Until a node's port passes traffic again; a spanning-tree freeze has set the timers for its own length."""
        wide = self.line.wide
        slow = wide is not None and wide.kind == "stp" and fault.end_s < wide.end_s
        return wide.seconds if slow and wide is not None else PORT_S

    def _hold(self) -> None:
        """A person holds every pair; it is in force when the timeline begins."""
        for world in self.worlds.values():
            node, key = _asked(world), world.name_of("work")
            if node is not None:
                node.shell.take(OpenHold(key, key, "anna", "the lab's work", 600.0, world.now / NS_PER_S))
        self.queue.run(HELD_S)

    def _release(self, world: World) -> None:
        """And asks for the release until it is taken."""
        node = _asked(world)
        if node is not None:
            node.shell.take(AskRelease(world.name_of("release")))
        if node is None or node.shell.guard is None or node.shell.guard.memory.inhibits:
            world.at(RELEASE_S, partial(self._release, world))

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        next(iter(self.worlds.values())).at(seconds, do)

    # ------------------------------------------------------------------ what became of it

    def _outcome(self, pair: str, broken: str | None) -> Outcome:
        world, ledger, names = self.worlds[pair], self.ledgers[pair], self.names[pair]
        last = next((n for n in "AB" if _served(world, n)), "")
        disk = world.disks.of[last or "A"]
        return Outcome(
            pair=pair,
            primary=names["A"],
            shot=tuple(sorted({names[target] for _, target, _ in world.fenced[ledger.fenced :]})),
            offs=len(world.landed) - ledger.landed,
            serves=names[ledger.serves] if ledger.serves else "",
            stopped_s=round(ledger.stopped / NS_PER_S, 1),
            promoted=ledger.promoted,
            both=ledger.both,
            lost=sum(1 for write in world.disks.acked if write not in disk.has),
            split=world.disks.split_brains > 0,
            held=ledger.held,
            pages=ledger.paged,
            whole=world.whole(),
            era=world.arbiter.era > ledger.era,
            broken=(broken,) if broken else (),
        )


class Ledger:
    """What is counted of one pair from the timeline's begin until all is at rest."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.counting = False
        self.last = self.stopped = self.fenced = self.landed = self.notes = self.pages = self.era = self.began = 0
        self.promoted = self.both = self.held = False
        self.paged: tuple[str, ...] = ()
        self.serves = ""

    def open(self) -> None:
        world = self.world
        self.counting, self.last, self.began = True, world.now, world.now
        self.fenced, self.landed = len(world.fenced), len(world.landed)
        self.notes, self.pages, self.era = len(world.notes), len(world.pages), world.arbiter.era

    def look(self) -> None:
        """After each event: what was so until now is so until the next one."""
        if not self.counting:
            return
        world = self.world
        served = [name for name in "AB" if _served(world, name)]
        if not served:
            self.stopped += world.now - self.last if self.serves == "" else 0
        self.last = world.now
        self.both = self.both or len(served) > 1
        self.promoted = self.promoted or world.disks.of["B"].role is Role.PRIMARY
        self.serves = served[0] if served else ""

    def close(self) -> None:
        if not self.counting:
            return
        self.look()
        self.counting = False
        self.held = any(event in HELD for _, _, event in self.world.notes[self.notes :])
        self.paged = tuple(sorted({event for _, event in self.world.pages[self.pages :]}))


def at_rest(world: World) -> bool:
    """Both nodes run and are whole; or one is gone and the other has won, serves, and has nothing left to do."""
    up = [node for node in world.nodes.values() if node.runs()]
    if len(up) == 2:
        return world.whole()
    if not up:
        return True
    node, kept = up[0], world.arbiter.kept
    won = kept is not None and kept.register.winner == node.name
    guard = node.shell.guard
    free = guard is not None and not node.shell.clients and hold.stage(guard, Turn(guard, node.local())) == "none"
    return won and free and world.serves(node.name)


def _served(world: World, name: str) -> bool:
    """The service runs there, whether or not its writes wait."""
    return world.nodes[name].runs() and world.nodes[name].cluster.mounted


def _asked(world: World) -> Node | None:
    """Where a person types: on the first primary, else on its peer."""
    return next((node for node in world.nodes.values() if node.runs() and node.shell.up), None)


def _names(pair: str, first: str) -> dict[str, str]:
    """The lab's names of the world's nodes."""
    one, two = nodes_of(pair)
    return {"A": first, "B": two if first == one else one}


def _place(fault: Fault) -> str:
    return "A" if fault.role == PRIMARY else "B"
