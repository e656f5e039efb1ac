"""A formed, guarded site on which many cases run one after another: calm between them, one record and picture each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.lab import guarded, story
from tests.lab.fabric import access_of
from tests.lab.freeze import Freeze
from tests.lab.node import Node
from tests.lab.pairs import Site
from tests.lab.plan import Plan, nodes_of
from tests.lab.record import Event, Interval, Record
from tests.lab.replicas import DISK
from tests.lab.space import LabFailed, boottime

CALM_S_MAX = 150.0
COROSYNC_LOG = "/var/log/corosync/corosync.log"
PACEMAKER_LOG = "/var/log/pacemaker/pacemaker.log"
TESTIFIED_S = 6.0  # a guard testifies every 5 s (policy.attest_s): without a known write age no death is certain
STORM_APART_S = 31.0  # two pairs of three that lose a peer within 30 s are a storm (guard.core.policy.storm_window_s)


@dataclass
class Story:
    """One case: what was promised and whether it was kept, and when it ran (CLOCK_BOOTTIME)."""

    name: str
    title: str
    begun_s: float
    promises: list[tuple[str, bool, str]] = field(default_factory=list)
    rows: list[story.Row] = field(default_factory=list)
    ended_s: float | None = None
    failed: str | None = None

    def promise(self, text: str, kept: bool, found: object = "") -> None:
        """Note one promise. `found`: what was seen, shown when it was not kept."""
        self.promises.append((text, kept, "" if kept else str(found)))

    @property
    def broken(self) -> list[str]:
        said = [f"{text} (found: {found})" for text, kept, found in self.promises if not kept]
        return said + ([self.failed] if self.failed else [])

    @property
    def took_s(self) -> float:
        return (self.ended_s if self.ended_s is not None else boottime()) - self.begun_s


class Ground:
    """One site and what was played on it. `form` makes it; the cases of tests/lab/cases.py are played on it."""

    def __init__(self, site: Site, out: Path, say: Callable[[str], None]) -> None:
        self.site, self.out, self.say = site, out, say
        self.stories: list[Story] = []
        self.fenced: dict[str, str] = {}  # pair -> the node that a case has left off
        self._left_before: dict[str, int] = {}  # by node: how often its corosync had lost its peer before the freeze
        self._last_loss: tuple[str, float] | None = None  # the pair that lost a node last, and when

    @property
    def pairs(self) -> list[str]:
        return self.site.plan.pair_names()

    def _named(self, pairs: Sequence[str] | None) -> Sequence[str]:
        return self.pairs if pairs is None else pairs

    # ------------------------------------------------------------------ one case

    @contextmanager
    def playing(self, name: str, title: str, pairs: Sequence[str] | None = None) -> Iterator[Story]:
        """One case on `pairs` (None: all). Whatever happens, its record and picture are left behind."""
        told = Story(name, title, boottime())
        self.stories.append(told)
        self.say(f"{name}: {title}")
        self.site.record.marks = {"freeze": told.begun_s}
        primaries = {pair: story.primary_of(self.site, pair) for pair in self._named(pairs)}
        try:
            yield told
        except BaseException as error:
            told.failed = f"{type(error).__name__}: {error}"
            raise
        finally:
            told.ended_s = boottime()
            self._keep(told, primaries)
            word = "kept" if not told.broken else "BROKEN: " + "; ".join(told.broken)[:600]
            self.say(f"{name}: {len(told.promises)} promises {word} ({told.took_s:.0f} s)")

    def _keep(self, told: Story, primaries: dict[str, str]) -> None:
        """record.json and timeline of this case alone."""
        record = self.gathered(told.title)
        end = record.marks["watched"] = told.ended_s if told.ended_s is not None else boottime()
        window = Interval(record.marks["freeze"], end)
        told.rows = [story.row(record, pair, primaries[pair], window, self.site) for pair in primaries]
        record.rows = [asdict(row) for row in told.rows]
        lasting = ("power-on", "service", "panic", "power-off", "role")  # a bar may have begun earlier
        record.events = [e for e in record.events if e.kind in lasting or told.begun_s - 5 <= e.at_s <= end]
        record.plan |= {"case": told.name, "promises": [list(each) for each in told.promises], "failed": told.failed}
        story.save(record, self.out / told.name)

    def gathered(self, title: str = "") -> Record:
        """The site's record until now with the events of the nodes' own logs."""
        record = Record(title, dict(self.site.plan.as_dict()), marks=dict(self.site.record.marks))
        with self.site.record._lock:
            record.events = list(self.site.record.events)
        story.gather(self.site, record)
        record.events = list(dict.fromkeys(record.events))
        return record

    def row(self, pair: str, primary: str, since_s: float) -> story.Row:
        """What became of a pair from `since_s` until now."""
        return story.row(self.gathered(), pair, primary, Interval(since_s, boottime()), self.site)

    # ------------------------------------------------------------------ looking

    def state(self, name: str) -> dict[str, Any]:
        """What a node's guard says of its pair; empty if it is off or does not answer."""
        if not self.site.nodes[name].powered:
            return {}
        try:
            return dict(guarded.state(self.site, name))
        except LabFailed:
            return {}

    def replica_text(self, name: str) -> str:
        """A node's replication as its tools and its own log's last lines have it."""
        node = self.site.nodes[name]
        status = node.run_in(["drbdsetup", "status", "r0", "--verbose"]) if node.powered else None
        shown = "powered off" if status is None else status.stdout + status.stderr
        log = node.read(f"{DISK}.log").splitlines()[-12:]
        return " ".join(shown.split()) + "; log: " + " | ".join(log)

    def said(self, node: Node, event: str, since_s: float) -> list[Event]:
        """What a node's guard logged of one kind since a moment."""
        found = guarded.guard_events(self.site, node)
        return [e for e in found if e.at_s >= since_s and e.detail.split(":")[0] == event]

    def shots(self, name: str, since_s: float) -> list[Event]:
        """The power-off commands that a node's controller took since a moment."""
        return [e for e in self.site.record.of("off-accepted", name) if e.at_s >= since_s]

    def shot_nodes(self, since_s: float) -> list[str]:
        """Every node at which a power-off was accepted since a moment."""
        return sorted(name for name in self.site.nodes if self.shots(name, since_s))

    def ask(self, name: str, *words: str, deadline_s: float = 60.0) -> tuple[int, str]:
        """`pairguard WORDS` in a node: exit code and what it said."""
        done = self.site.nodes[name].run_in(["pairguard", *words], deadline_s=deadline_s)
        return done.returncode, (done.stdout + done.stderr).strip()

    def within(self, seconds: float, look: Callable[[], object]) -> Any:
        """The first true thing that `look` finds within `seconds`; else the last."""
        until = boottime() + seconds
        while not (found := look()) and boottime() < until:
            time.sleep(0.2)
        return found

    # ------------------------------------------------------------------ calm

    def calm(self, pairs: Sequence[str] | None = None, deadline_s: float = CALM_S_MAX) -> None:
        """Wait until both guards of each pair say: whole, attested, nothing held or waiting, era closed."""
        until = boottime() + deadline_s
        waiting = [name for pair in self._named(pairs) for name in nodes_of(pair)]
        seen: dict[str, dict[str, Any]] = {}
        while waiting:
            for name in tuple(waiting):
                seen[name] = self.state(name)
                if is_calm(seen[name]):
                    waiting.remove(name)
            if waiting and boottime() > until:
                text = json.dumps({name: seen[name] for name in waiting})[:2500]
                raise LabFailed(f"{', '.join(waiting)} not calm after {deadline_s:.0f} s: {text}")
            time.sleep(0.3)

    def ready(self, pairs: Sequence[str] | None = None) -> None:
        """Switch on what earlier cases left off in these pairs and wait for calm."""
        for pair in self._named(pairs):
            name = self.fenced.pop(pair, None)
            if name is not None:
                self.site.nodes[name].power_on()
        for node in self.site.nodes.values():
            if node.pair in self._named(pairs) and not node.powered:
                node.power_on()  # a case that failed left it so
        self.calm(pairs)

    # ------------------------------------------------------------------ freezing and dying

    def freeze(
        self, freeze: Freeze, *, during: Callable[[], None] | None = None, watch_s: float = 4.0
    ) -> dict[str, str]:
        """Play one freeze to its thaw, then `watch_s`. The primaries before it, by pair."""
        primaries = {pair: story.primary_of(self.site, pair) for pair in self.pairs}
        self._left_before = {name: self._times_left(name) for name in self.site.nodes}
        story.play(self.site, freeze, during, restore=True, settle_s=0.0, watch_s=watch_s)
        return primaries

    def cut(self, pair: str) -> dict[str, list[str]]:
        """What the last freeze cut: the nodes that lost `replication` and those whose `corosync` lost its peer."""
        begun_s = self.site.record.marks["freeze"]
        return {
            "replication": [
                name for name in nodes_of(pair) if self.said(self.site.nodes[name], "replication-lost", begun_s)
            ],
            "corosync": [name for name in nodes_of(pair) if self._times_left(name) > self._left_before.get(name, 0)],
        }

    def _times_left(self, name: str) -> int:
        """How often this node's corosync saw its peer leave the membership."""
        return self.site.nodes[name].read(COROSYNC_LOG).count("[QUORUM] Sync left[")

    def joined(self, name: str) -> list[float]:
        """When this node's corosync had its peer again (CLOCK_BOOTTIME): its log's local time names no year."""
        offset_s, year = boottime() - time.time(), time.localtime().tm_year
        found = []
        for line in self.site.nodes[name].read(COROSYNC_LOG).splitlines():
            if "[QUORUM] Sync joined[" in line:
                at = datetime.strptime(f"{year} " + line.split(" [")[0], "%Y %b %d %H:%M:%S.%f")  # noqa: DTZ007
                found.append(at.timestamp() + offset_s)
        return found

    def dies(self, pair: str, kill: Callable[[Node], None]) -> tuple[str, str, float]:
        """The primary of a pair is killed, far enough from the last death not to be a storm: (dead, other, when)."""
        last = self._last_loss
        if last is not None and last[0] != pair:
            time.sleep(max(0.0, last[1] + STORM_APART_S - boottime()))
        time.sleep(TESTIFIED_S)
        dead = story.primary_of(self.site, pair)
        other = next(name for name in nodes_of(pair) if name != dead)
        at_s = self.site.record.mark("freeze")
        kill(self.site.nodes[dead])
        self._last_loss = (pair, boottime())
        return dead, other, at_s

    def die_together(self, victims: Sequence[Node], kill: Callable[[Node], None]) -> float:
        """All at one moment, on a site whose pairs are each in a cell of their own: no storm. When it began."""
        if not self.site.plan.own_cells:
            raise LabFailed("cannot let all pairs die at once: they share a cell, which would call it a storm")
        time.sleep(TESTIFIED_S)
        at_s = self.site.record.mark("freeze")
        with ThreadPoolExecutor(max_workers=len(victims)) as pool:
            for done in [pool.submit(kill, node) for node in victims]:
                done.result()
        return at_s

    def cut_off(self, node: Node) -> None:
        """A node's links fall at its own ports. The out-of-band one first: else the node tells the arbiter of the
        other, which is rightly a disturbance."""
        self.site.fabric.links([("oob", node.name), (access_of(node.name), node.name)], up=False)

    def promoted(self, name: str, since_s: float) -> float | None:
        """Seconds from `since_s` to this node's promotion with the service beside it, or None."""
        moments = [e.at_s for e in self.site.replication.events(self.site.nodes[name]) if e.detail == "promoted"]
        after = sorted(moment for moment in moments if moment >= since_s)
        return round(after[0] - since_s, 2) if after and self.site.service_on(name) else None


def is_calm(seen: dict[str, Any]) -> bool:
    """Whether one guard's status shows a pair at rest."""
    register, hold = seen.get("register") or {}, seen.get("hold") or {}
    return (
        seen.get("whole") is True
        and seen.get("attested") is True
        and "winner" in register
        and register["winner"] is None
        and hold.get("state") == "none"
        and seen.get("waiting") == []
    )


class Saying:
    """Progress for people, with seconds since it was made."""

    def __init__(self, who: str) -> None:
        self._who, self._begun = who, boottime()

    def __call__(self, text: str) -> None:
        print(f"[{self._who:12} {boottime() - self._begun:6.1f} s] {text}", flush=True)


@contextmanager
def form(arbiter: str, out: Path, *, pairs: int = 3, **changes: Any) -> Iterator[Ground]:
    """A guarded site with its arbiter `in-band` or `out-of-band`, calm. Logs are kept in `out`/logs.

    `changes`: other fields of its `Plan`.
    """
    plan = Plan(pairs=pairs, guarded=True, restore=True, arbiter=arbiter, **changes)
    say = Saying(arbiter)
    record = Record(f"site with its arbiter {arbiter}", plan.as_dict())
    with Site(plan, record) as site:
        ground = Ground(site, out, say)
        try:
            say("forming")
            site.build()
            site.start()
            site.wait_formed()
            for pair in plan.pair_names():
                guarded.initialise(site, pair)
            ground.calm()
            say("formed")
            yield ground
        finally:
            site.keep_logs(out / f"site-{arbiter}")
