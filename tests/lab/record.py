"""What happened in a run and when: events on CLOCK_BOOTTIME, and intervals drawn from them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.lab.space import boottime


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `at_s`: CLOCK_BOOTTIME in seconds. `who`: a node, a pair, a switch or `lab`."""

    at_s: float
    kind: str
    who: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """[start_s, end_s) on CLOCK_BOOTTIME."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return max(0.0, self.end_s - self.start_s)


@dataclass
class Record:
    """The events and result rows of one run; safe to add to from any thread."""

    title: str
    plan: dict[str, object]
    events: list[Event] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    on_event: Callable[[Event], None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, who: str, detail: str = "", *, at_s: float | None = None) -> Event:
        """Note an event; now, unless its moment is given."""
        event = Event(boottime() if at_s is None else at_s, kind, who, detail)
        with self._lock:
            self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)
        return event

    def mark(self, name: str) -> float:
        """Name this moment (`formed`, `freeze`, `thaw`, `end`)."""
        moment = self.add("mark", "lab", name).at_s
        self.marks[name] = moment
        return moment

    def of(self, kind: str, who: str | None = None) -> list[Event]:
        """The events of one kind (and one subject), in order of time."""
        with self._lock:
            found = [e for e in self.events if e.kind == kind and (who is None or e.who == who)]
        return sorted(found, key=lambda e: e.at_s)

    def save(self, path: Path) -> None:
        """Write it as JSON. Times are seconds of CLOCK_BOOTTIME; `marks.freeze` is the picture's zero."""
        with self._lock:
            events = sorted(self.events, key=lambda e: e.at_s)
        body = {
            "schema": "pairguard.lab.record/1",
            "title": self.title,
            "plan": self.plan,
            "marks": self.marks,
            "rows": self.rows,
            "events": [asdict(e) for e in events],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body, indent=1) + "\n")


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time covered, as intervals that neither meet nor overlap."""
    result: list[Interval] = []
    for one in sorted((i for i in intervals if i.length_s > 0), key=lambda i: i.start_s):
        if result and one.start_s <= result[-1].end_s:
            result[-1] = Interval(result[-1].start_s, max(result[-1].end_s, one.end_s))
        else:
            result.append(one)
    return result


def uncovered_s(intervals: Iterable[Interval], window: Interval) -> float:
    """How many seconds of the window no interval covers."""
    covered = 0.0
    for one in union(intervals):
        covered += Interval(max(one.start_s, window.start_s), min(one.end_s, window.end_s)).length_s
    return window.length_s - covered


def spans(starts: Iterable[float], ends: Iterable[float], until_s: float) -> list[Interval]:
    """Intervals from each start to the first end after it (an open one lasts to `until_s`)."""
    edges = sorted([(t, 1) for t in starts] + [(t, 0) for t in ends])
    result: list[Interval] = []
    begun: float | None = None
    for moment, is_start in edges:
        if is_start and begun is None:
            begun = moment
        elif not is_start and begun is not None:
            result.append(Interval(begun, moment))
            begun = None
    if begun is not None:
        result.append(Interval(begun, until_s))
    return result
