"""One timeline on the real lab: three guarded pairs of real corosync and Pacemaker, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from tests.lab import guarded, story
from tests.lab.cases import MAX_AGE_S
from tests.lab.fabric import FORWARD_DELAY_S_MIN, access_of
from tests.lab.freeze import SETTLE_S, BlackHole, Flap, Freeze, Late, StpFreeze
from tests.lab.ground import TESTIFIED_S, Ground, Story, is_calm
from tests.lab.inside import kill_guard
from tests.lab.plan import nodes_of
from tests.lab.record import Event, Interval
from tests.lab.seeds.outcome import HELD, Outcome, Pace, never
from tests.lab.seeds.timeline import (
    PRIMARY,
    REST_S_MAX,
    RESTED_S,
    SWITCH_ON_S,
    WATCH_S,
    WHOLE_S_MAX,
    WIDE,
    Fault,
    Timeline,
)
from tests.lab.space import LabFailed, boottime

WORKERS = 8
RELEASE_S = 2.0
ASKED_S_MAX = 6.0  # later ones waited for something else: a hold, or another try
STARTED_S_MAX = 30.0
SILENT, HIDDEN_S = "does not answer", 8.0  # how a guard says it; two polls and what a port needs to pass traffic


def play(line: Timeline, ground: Ground, told: Story) -> tuple[list[Outcome], dict[str, Pace]]:
    """Play it on a calm site: every pair's outcome, every node's pace. A pair may be left that is not whole again."""
    played = Played(line, ground, told)
    return played.outcomes(), {name: played.pace(name) for name in ground.site.nodes}


class Played:
    """One timeline on one site. `primaries`: who served when it began."""

    def __init__(self, line: Timeline, ground: Ground, told: Story) -> None:
        self.line, self.ground, self.site, self.told = line, ground, ground.site, told
        self.primaries = {pair: story.primary_of(self.site, pair) for pair in ground.pairs}
        self.began_s = 0.0
        self.over = False
        self.held: Interval | None = None  # by a person, until the first release was asked

    def outcomes(self) -> list[Outcome]:
        eras = {pair: self._era(pair) for pair in self.primaries}
        freeze = self._freeze()
        if freeze is not None:
            freeze.prepare()
        time.sleep(max(SETTLE_S, TESTIFIED_S))
        if any(fault.kind == "hold" for fault in self.line.faults):
            self._hold()
        self.began_s = self.site.record.mark("freeze")
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            try:
                waiting = [pool.submit(self._at, fault, freeze) for fault in self.line.faults]
                self._sleep_to(self.line.end_s + WATCH_S)
                self._until(self._all_at_rest, REST_S_MAX, for_s=RESTED_S)
                at_rest = self._seen()
                self._switched_on()
            finally:
                self.over = True
        _raise(waiting)
        found = [self._outcome(one, last, eras[one.pair]) for one, last in zip(at_rest, self._seen(), strict=True)]
        for each in found:
            broken = never(self.line, each)
            self.told.promise(f"{each.pair}: no rule was broken", not broken, broken)
        return found

    # ------------------------------------------------------------------ time

    def _sleep_to(self, at_s: float) -> None:
        time.sleep(max(0.0, self.began_s + at_s - boottime()))

    def _until(self, fact: Callable[[], bool], seconds: float, *, for_s: float = 0.0) -> bool:
        """Until it has been so for `for_s`, but no longer than `seconds`; was it?"""
        until, since = boottime() + seconds, boottime()
        while boottime() < until:
            if not fact():
                since = boottime()
            elif boottime() - since >= for_s:
                return True
            time.sleep(0.5)
        return False

    # ------------------------------------------------------------------ faults

    def _freeze(self) -> Freeze | None:
        wide, fabric = self.line.wide, self.site.fabric
        if wide is None:
            return None
        kinds: dict[str, Callable[..., Freeze]] = {"stp": StpFreeze, "blackhole": BlackHole, "late": Late, "flap": Flap}
        return kinds[wide.kind](fabric, wide.seconds)

    def _at(self, fault: Fault, freeze: Freeze | None) -> None:
        """One fault, from its begin to its end, in a thread of its own."""
        self._sleep_to(fault.at_s)
        self.site.record.add("fault", fault.pair or "lab", fault.words())
        name = self._name(fault) if fault.pair else ""
        match fault.kind:
            case kind if kind in WIDE and freeze is not None:
                story.outage(self.site, freeze, None, restore=True, watch_s=story.LATE_DRAIN_S)
                if kind == "late":
                    self.site.fabric.set_timers(FORWARD_DELAY_S_MIN, max_age_s=MAX_AGE_S)
            case "links":
                self._links(fault, name)
            case "hung":
                self.site.nodes[name].panic(ports_stay_up=True)
            case "crash":
                self.site.nodes[name].power_off("crash")
            case "witness":
                self.site.stop_in_arbiter("witness")
                self._sleep_to(fault.end_s)
                guarded.start_witness(self.site)
            case "guard":
                self._guard(fault, name)
            case "hold":
                self._release(fault)

    def _name(self, fault: Fault) -> str:
        primary = self.primaries[fault.pair]
        return primary if fault.role == PRIMARY else self.site.nodes[primary].peer

    def _links(self, fault: Fault, name: str) -> None:
        """The out-of-band link first, as in cases.links_cut; a node without power gets no link back."""
        ends = [("oob", name), (access_of(name), name)]
        self.site.fabric.links(ends, up=False)
        self._sleep_to(fault.end_s)
        if self.site.nodes[name].powered:
            self.site.fabric.links(ends, up=True)

    def _guard(self, fault: Fault, name: str) -> None:
        node, boots = self.site.nodes[name], len(self.site.record.of("power-on", name))
        if not node.powered:
            return
        kill_guard(node)
        self._sleep_to(fault.end_s)
        if node.powered and len(self.site.record.of("power-on", name)) == boots:
            guarded.start_guard(node)

    def _hold(self) -> None:
        """A person holds every pair before the timeline begins: in force and read back (0)."""
        words = ("hold", "--for", "10m", "--reason", "the lab's work")
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            codes = dict(
                zip(self.primaries, pool.map(lambda pair: self._ask(pair, *words), self.primaries), strict=True)
            )
        if any(codes.values()):
            raise LabFailed(f"not held before the timeline began: {codes}")

    def _release(self, fault: Fault) -> None:
        """And asks each for its release until it is taken."""
        self._sleep_to(fault.end_s)
        self.held = Interval(self.began_s, boottime())
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            list(pool.map(self._released, self.primaries))

    def _released(self, pair: str) -> None:
        while not self.over and self._ask(pair, "release") != 0:
            time.sleep(RELEASE_S)

    def _ask(self, pair: str, *words: str) -> int:
        """`pairguard WORDS` on the first primary, else on its peer: the exit code, or -1 if nobody answered."""
        primary = self.primaries[pair]
        for name in (primary, self.site.nodes[primary].peer):
            if self.ground.state(name):
                try:
                    return self.ground.ask(name, *words)[0]
                except LabFailed:
                    continue
        return -1

    # ------------------------------------------------------------------ the end

    def _all_at_rest(self) -> bool:
        return all(self._at_rest(pair) for pair in self.primaries)

    def _at_rest(self, pair: str) -> bool:
        """As `modelled.at_rest`: both calm; or one is gone, the other has won, serves, and has nothing left to do."""
        up = [name for name in nodes_of(pair) if self.site.nodes[name].powered]
        if len(up) == 2:
            return all(is_calm(self.ground.state(name)) for name in up)
        if not up:
            return True
        seen = self.ground.state(up[0])
        register, held = seen.get("register") or {}, seen.get("hold") or {}
        won = register.get("winner") == up[0] and seen.get("waiting") == []
        return won and held.get("state") == "none" and self.site.service_on(up[0])

    def _switched_on(self) -> None:
        """People switch on what is off and power-cycle what hangs, until all is calm."""
        until = boottime() + WHOLE_S_MAX
        while boottime() < until:
            for node in self.site.nodes.values():
                node.power_on()
            try:
                self.ground.calm(deadline_s=min(SWITCH_ON_S, max(0.0, until - boottime())))
            except LabFailed:
                continue
            return

    def _seen(self) -> list[Outcome]:
        """What became of every pair until now, by the site's record and the nodes' own logs."""
        until_s, record = boottime(), self.ground.gathered()
        found = []
        for pair, primary in self.primaries.items():
            row = story.row(record, pair, primary, Interval(self.began_s, until_s), self.site)
            if row.lost_writes is None or row.split_brain is None:
                raise LabFailed(f"{pair}: its disks cannot be judged")
            nodes = [self.site.nodes[name] for name in nodes_of(pair)]
            found.append(
                Outcome(
                    pair=pair,
                    primary=primary,
                    shot=row.shot,
                    offs=row.off_commands,
                    serves=next((node.name for node in nodes if self.site.service_on(node.name)), ""),
                    stopped_s=round(row.service_stopped_s, 1),
                    promoted=row.promoted_after_s is not None,
                    both=row.both_s > 0,
                    lost=row.lost_writes,
                    split=row.split_brain,
                    held=any(self.ground.said(node, event, self.began_s) for node in nodes for event in HELD),
                    pages=tuple(sorted(set().union(*(guarded.pages(node, self.began_s) for node in nodes)))),
                )
            )
        return found

    def _outcome(self, at_rest: Outcome, last: Outcome, era: object) -> Outcome:
        """With what only the end shows: shots and writes are counted to the very end."""
        after = self._era(at_rest.pair)
        return replace(
            at_rest,
            shot=last.shot,
            offs=last.offs,
            both=last.both,
            lost=last.lost,
            split=last.split,
            whole=all(is_calm(self.ground.state(name)) for name in nodes_of(at_rest.pair)),
            era=isinstance(era, int) and isinstance(after, int) and after > era,
            broken=tuple(self._broken(at_rest.pair)),
            slow=self._slow(at_rest.pair),
        )

    def pace(self, name: str) -> Pace:
        """How soon after the loss of replication, its guard's start and the thaw a node's programs did their part."""
        node = self.site.nodes[name]
        started = [event for event in self.site.record.of("guard-started", name) if event.at_s >= self.began_s]

        def after_s(events: Sequence[Event], kind: str, most_s: float) -> float | None:
            found = self.ground.said(node, kind, events[0].at_s) if events else []
            seconds = round(found[0].at_s - events[0].at_s, 2) if found else most_s
            return seconds if seconds < most_s else None

        lost = self.ground.said(node, "replication-lost", self.began_s)
        return Pace(
            handler_s=after_s(lost, "handler-asks", ASKED_S_MAX),
            agent_s=after_s(lost, "agent-asks", ASKED_S_MAX),
            guard_s=after_s(started, "guard-started", STARTED_S_MAX),
            join_s=self._joined_s(name),
        )

    def _joined_s(self, name: str) -> float | None:
        """From the thaw until its corosync had its peer again."""
        thaw_s = self.site.record.marks.get("thaw", 0.0)
        moments = [at_s for at_s in self.ground.joined(name) if at_s >= thaw_s >= self.began_s]
        return round(moments[0] - thaw_s, 2) if moments and moments[0] - thaw_s < STARTED_S_MAX else None

    def _broken(self, pair: str) -> list[str]:
        """Nobody is shot while a person's hold stands, read back on every pair."""
        shots = [e for name in nodes_of(pair) for e in self.ground.shots(name, self.began_s)]
        return [
            f"{e.who} was shot by {e.detail} under a person's hold"
            for e in shots
            if self.held is not None and self.held.start_s <= e.at_s < self.held.end_s
        ]

    def _slow(self, pair: str) -> bool:
        """A guard of this pair missed a switch that was within its reach."""
        wide, lost = self.line.wide, bool(self.line.of(pair, "links"))
        behind = wide if wide is not None and self.line.arbiter == "in-band" else None
        hidden = Interval(self.began_s + behind.at_s, self.began_s + behind.end_s + HIDDEN_S) if behind else None
        nodes = [self.site.nodes[name] for name in nodes_of(pair)]
        missed = [e for node in nodes for e in self.ground.said(node, "braked", self.began_s) if SILENT in e.detail]
        within = [e for e in missed if hidden is None or not hidden.start_s <= e.at_s < hidden.end_s]
        return bool(within) and not lost

    def _era(self, pair: str) -> object:
        for name in nodes_of(pair):
            era = (self.ground.state(name).get("register") or {}).get("era")
            if era is not None:
                return era
        return None


def _raise(waiting: list[Future[None]]) -> None:
    for each in waiting:
        each.result()
