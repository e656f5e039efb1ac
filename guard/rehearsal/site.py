"""A site in the rehearsed world, and one run of a scenario on it: pairs that share time, witness and storm cell.

1. A run is rounds in a row. Each draws its parameters anew, plays its phases, heals, waits until every pair is whole.
2. The rules S1-S7 are looked at after every event, the scenario's promise after every round.
3. The first thing that breaks ends the run: what comes after it would be the story of a broken world.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NoReturn

from guard.core.evidence import Role
from guard.core.instant import NS_PER_S
from guard.core.policy import Policy
from guard.errors import InvariantBroken
from guard.rehearsal.checkers import Unmet, Violation
from guard.rehearsal.disks import UP_LINKS
from guard.rehearsal.faults import FAULTS, Fault
from guard.rehearsal.faulty import Arg
from guard.rehearsal.fuzz import by_the_manual
from guard.rehearsal.nodes import Cadence
from guard.rehearsal.scenario import Phase, Promise, Scenario, applies, draw
from guard.rehearsal.timeline import Timeline
from guard.rehearsal.values import Drawn, number, resolved, shown, stream
from guard.rehearsal.witness import SharedCell
from guard.rehearsal.world import QUICK, World

START_S_MAX = 60.0
LOOK_S = 0.5  # how often a wait looks
SERVED_AFTER_S = 12.0  # after the heal: the moment at which the labs counted what was up (facts/labs.md, table A.3)
SWITCH_ON_S = 5.0  # a person switches on what is off, this often
PERSON_S = 60.0  # and goes by the manual when it was not whole for so long, and so long again

Line = tuple[float, int, str, str, str]
"""Seconds, place of the pair, its name, who, what."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be played: a run is this and a seed."""

    scenario: Scenario
    pairs: int


@dataclass(frozen=True, slots=True)
class Failure:
    """`rule`: that of a `Violation` (S1, L1 ...), `invariant`, `promise` or `liveness`. `pair` "": about the site."""

    rule: str
    why: str
    pair: str
    turn: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Unit:
    """What came of one pair in one round. `row`: the values of the scenario's `show_by`.

    `held_s`: seconds into the round at which the pair was first held; None: never.
    """

    row: tuple[str, ...]
    shot: int
    primary_shot: bool
    served: bool
    paged: bool = False
    healed_s: float = 0.0
    held_s: float | None = None


@dataclass(slots=True)
class Ended:
    """A run. `story` is empty unless it was to be told. `broken`: the round in which it broke, as far as it went."""

    units: list[Unit] = field(default_factory=list)
    broken: list[Unit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failure: Failure | None = None
    story: list[Line] = field(default_factory=list)
    simulated_s: float = 0.0


class Broken(Exception):
    """The run ends here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.why)
        self.failure = failure


@dataclass(slots=True)
class Turn:
    """One pair in one round. `overs`: when each phase that has a name was over, in seconds of the round."""

    world: World
    drawn: Drawn
    primary: str
    fenced_from: int
    pages_from: int
    began: int
    overs: dict[str, float] = field(default_factory=dict)
    served_s: float | None = None
    whole_s: float | None = None
    up_after: bool | None = None


class Site:
    """Some pairs that share time, witness and storm cell."""

    def __init__(self, scenario: Scenario, seed: int, pairs: int, *, telling: bool = False) -> None:
        self.scenario, self.seed = scenario, seed
        self.timeline = Timeline()
        self.watch: Callable[[], None] | None = None
        self.turn, self.in_round = 0, False
        self.turns: Sequence[Turn] = ()
        around = scenario.around
        policy = around.policy() if around is not None else Policy() if scenario.limits == "shipped" else QUICK
        cell = SharedCell()
        self.worlds: list[World] = []
        for n in range(pairs):
            own = stream(scenario.name, seed, "world", n).getrandbits(64)
            shared = cell if scenario.one_cell else SharedCell()
            world = World(
                own,
                policy,
                timeline=self.timeline,
                cell=shared,
                name=f"pair-{n + 1}",
                cadence=Cadence(),
                mlag=scenario.mlag,
                prepare=None if around is None else around.put,
            )
            world.telling = telling
            self.worlds.append(world)

    # ---- time

    @property
    def now_s(self) -> float:
        return self.timeline.now / NS_PER_S

    def run(self, seconds: float) -> None:
        """Let `seconds` pass for every pair. Raises `Violation`."""
        self.timeline.run(seconds, self.watch)

    def until(self, fact: Callable[[], bool], seconds: float) -> bool:
        end = self.now_s + seconds
        while not fact():
            if self.now_s >= end:
                return False
            self.run(LOOK_S)
        return True

    # ---- one run

    def play(self, units: list[Unit]) -> None:
        """All rounds; each adds its units. Raises what breaks."""
        self.begin()
        for turn in range(self.scenario.rounds):
            self.turn, self.in_round = turn, True
            units += self.round()
            self.in_round = False

    def whose(self) -> str:
        """The pair whose event ran last."""
        return next((world.name for world in self.worlds if world.checkers.always == self.timeline.look), "")

    def begin(self) -> None:
        if not self.until(lambda: all(world.whole() for world in self.worlds), START_S_MAX):
            world = next(world for world in self.worlds if not world.whole())
            self._unmet("liveness", world, f"not whole after the start: {world.why_not_whole()}")
        self.run(2.0)

    def round(self) -> list[Unit]:
        drawn = draw(self.scenario, self.seed, self.turn, None)
        turns = [
            Turn(
                world,
                draw(self.scenario, self.seed, self.turn, n),
                next((name for name in "AB" if world.disks.of[name].role is Role.PRIMARY), "A"),
                len(world.fenced),
                len(world.pages),
                world.now,
            )
            for n, world in enumerate(self.worlds)
        ]
        self.turns = turns
        order = list(range(len(turns)))
        self._stream("order").shuffle(order)
        began, end = self.now_s, self.now_s
        for n, phase in enumerate(self.scenario.phases):
            for place in chosen(order, resolved(phase.on, drawn, self._stream("on", n))):
                end = max(end, began + self._schedule(turns[place], place, n, phase))
        self._survivors(turns, began)
        watch = number(self.scenario.watch_s, drawn, self._stream("watch"))
        self.run(max(0.0, end + watch - self.now_s))
        self._heal(turns)
        self._whole(turns)
        return [self._unit(turn) for turn in turns]

    def _schedule(self, turn: Turn, place: int, n: int, phase: Phase) -> float:
        """Put one phase on the timeline; when it is over, in seconds of this round."""
        since = turn.overs.get(phase.after, 0.0)
        if phase.called:
            turn.overs[phase.called] = since
        if not applies(phase.when, turn.drawn):
            return 0.0
        rng = self._stream("phase", n)
        at, every = since + number(phase.at, turn.drawn, rng), number(phase.every, turn.drawn, rng)
        repeat = int(number(phase.repeat, turn.drawn, rng))
        over = at
        for again in range(repeat):
            start_s = at + again * every
            lasts = None if phase.lasts is None else number(phase.lasts, turn.drawn, self._stream("lasts", n, again))
            own = self._stream("args", n, again, place)
            args = {name: resolved(value, turn.drawn, own) for name, value in phase.args.items()}
            fault = FAULTS[str(resolved(phase.fault, turn.drawn, rng))]
            self._put(turn.world, fault, start_s, lasts, args, own)
            over = max(over, start_s + (lasts or 0.0))
        if phase.called:
            turn.overs[phase.called] = over
        return over

    @staticmethod
    def _put(
        world: World, fault: Fault, at: float, lasts: float | None, args: Mapping[str, Arg], rng: random.Random
    ) -> None:
        def start() -> None:
            end = fault.inject(world, rng, **args)
            if lasts is not None:
                world.at(lasts, end)

        world.at(at, start)

    def _stream(self, *names: object) -> random.Random:
        return stream(self.scenario.name, self.seed, self.turn, *names)

    # ---- the end of a round

    def _survivors(self, turns: Sequence[Turn], began: float) -> None:
        """Where one node must serve alone after the other died: it does so in time."""
        due: list[tuple[Turn, str, float]] = []
        for place, turn in enumerate(turns):
            promise = self.promise(turn)
            if promise.survivor_s is not None and promise.victim is not None:
                rng = self._stream("promise", place)
                victim = self._victim(promise, turn)
                died_s = number(promise.after, turn.drawn, rng)
                due.append((turn, other(victim), began + died_s + number(promise.survivor_s, turn.drawn, rng)))
        while due:
            self.run(LOOK_S)
            due = [each for each in due if not self._serves_alone(each[0].world, each[1])]
            late = [turn for turn, _, at_s in due if self.now_s > at_s]
            if late:
                self._unmet("promise", late[0].world, f"the survivor does not serve: {late[0].world.why_not_whole()}")

    def _heal(self, turns: Sequence[Turn]) -> None:
        """Everything that is still wrong ends; what is off is switched on; people ask for their releases."""
        for turn in turns:
            turn.world.heal_everything()

    def _whole(self, turns: Sequence[Turn]) -> None:
        """The liveness phase: every pair is whole again in time, on its own or with a person who follows the manual."""
        healed = self.now_s
        while any(turn.whole_s is None for turn in turns):
            self.run(LOOK_S)
            since = self.now_s - healed
            for turn in turns:
                if turn.whole_s is None and turn.world.whole():
                    turn.whole_s = since
                if turn.up_after is None and since >= SERVED_AFTER_S:
                    turn.up_after = any(self._serves(turn.world, name) for name in "AB")
            self._people(turns, since)
        self.run(2.0)
        for turn in turns:
            turn.world.checkers.nothing_lost()
            self._promised(turn)

    def _people(self, turns: Sequence[Turn], since: float) -> None:
        """Nobody may need longer than promised. A person switches on what is off; by the manual only where promised."""
        for turn in turns:
            promise, world = self.promise(turn), turn.world
            if turn.whole_s is not None:
                continue
            if since > promise.whole_s:
                self._unmet("liveness", world, f"not whole {since:.0f} s after the heal: {world.why_not_whole()}")
            if since % SWITCH_ON_S < LOOK_S:
                for node in world.nodes.values():
                    node.switch_on()
            if promise.person and since > PERSON_S and since % PERSON_S < LOOK_S:
                by_the_manual(world, "AB"[int(since / PERSON_S) % 2])

    def _promised(self, turn: Turn) -> None:
        promise, world = self.promise(turn), turn.world
        shot = self._shot(turn)
        most = 0 if promise.shot == "nobody" else 1
        if len(shot) > most or (promise.shot == "exactly-one" and len(shot) != 1):
            self._unmet("promise", world, f"{promise.text}: shot was {', '.join(shot) or 'nobody'}")
        if promise.victim is not None:
            victim = self._victim(promise, turn)
            if set(shot) - {victim}:
                self._unmet("promise", world, f"{promise.text}: shot was {', '.join(shot)}, not {victim}")
        if promise.stays and not self._serves(world, turn.primary):
            self._unmet("promise", world, f"{promise.text}: the service has left {turn.primary}")

    def promise(self, turn: Turn) -> Promise:
        """The first that applies."""
        return next(each for each in self.scenario.promises if applies(each.when, turn.drawn))

    def _unit(self, turn: Turn) -> Unit:
        shot = self._shot(turn)
        return Unit(
            row=tuple(shown(turn.drawn[name]) for name in self.scenario.show_by),
            shot=len(shot),
            primary_shot=turn.primary in shot,
            served=True if turn.up_after is None else turn.up_after,
            paged=len(turn.world.pages) > turn.pages_from,
            healed_s=turn.whole_s or 0.0,
            held_s=(turn.world.checkers.held_at - turn.began) / NS_PER_S
            if turn.world.checkers.held_at >= turn.began
            else None,
        )

    def broken(self) -> list[Unit]:
        """The round that broke, as far as it went; none if it broke before the first."""
        return [self._unit(turn) for turn in self.turns] if self.in_round else []

    def _shot(self, turn: Turn) -> list[str]:
        """Nodes of the pair that a guard's shot switched off in this round."""
        return sorted({target for _, target, _ in turn.world.fenced[turn.fenced_from :]})

    @staticmethod
    def _serves(world: World, name: str) -> bool:
        return world.disks.of[name].writable() and world.nodes[name].cluster.mounted

    @staticmethod
    def _serves_alone(world: World, name: str) -> bool:
        return Site._serves(world, name) and world.disks.of[name].link not in UP_LINKS

    def _victim(self, promise: Promise, turn: Turn) -> str:
        """The node that the promise means, "" if none."""
        if promise.victim is None:
            return ""
        word = str(resolved(promise.victim, turn.drawn, self._stream("promise")))
        return {"primary": turn.primary, "secondary": other(turn.primary)}.get(word, word)

    def failure(self, rule: str, why: str) -> Failure:
        return Failure(rule, why, self.whose(), self.turn, round(self.now_s, 3))

    def _unmet(self, rule: str, world: World, why: str) -> NoReturn:
        raise Broken(Failure(rule, why, world.name, self.turn, round(self.now_s, 3)))


def chosen(order: Sequence[int], on: object) -> Sequence[int]:
    """Pairs of a phase: all, the first of this round's order, or a share of it (at least one)."""
    if on == "all":
        return order
    return order[:1] if on == "one" else order[: max(1, ceil(float(str(on)) * len(order)))]


def other(name: str) -> str:
    return "B" if name == "A" else "A"


def play(plan: Plan, seed: int, *, telling: bool = False, watch: Callable[[Site], None] | None = None) -> Ended:
    """One run. `watch` is called after every event; it may look and must not touch."""
    ended = Ended()
    site = Site(plan.scenario, seed, plan.pairs, telling=telling)
    if watch is not None:
        site.watch = lambda: watch(site)
    try:
        site.play(ended.units)
    except Broken as broken:
        ended.failure = broken.failure
    except Violation as violation:
        ended.failure = site.failure(violation.rule, violation.text)
    except Unmet as unmet:
        ended.failure = site.failure("promise", str(unmet))
    except InvariantBroken as broken_rule:  # what a rehearsal is for: it is told with its seed, and the run has ended
        ended.failure = site.failure("invariant", str(broken_rule))
    if ended.failure is not None:
        ended.broken = site.broken()
    ended.simulated_s = site.now_s * len(site.worlds)
    for world in site.worlds:
        ended.counts.update(world.counts)
    if telling:
        ended.story = sorted(
            (line for n, world in enumerate(site.worlds) for line in _lines(world, n)), key=lambda line: line[:2]
        )
    return ended


def _lines(world: World, place: int) -> Iterator[Line]:
    for line in world.story:
        at, who, text = line.split(None, 2)
        yield float(at), place, world.name, who, text
