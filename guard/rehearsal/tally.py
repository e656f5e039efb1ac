"""What came of a rehearsed plan: one row for each step, pair and manner of holding, and the record of it all.

Everything but the moments follows from plan, survey, seeds and commit; how many processes played it changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guard import __version__
from guard.plan import Step, Written
from guard.record import SCHEMA
from guard.rehearsal.guesses import Guess, guesses, pairs
from guard.rehearsal.planned import CAP_S, HELD, Came, Course, upper
from guard.rehearsal.report import UNMET
from guard.survey import Survey

REASONS_MAX = 4  # kinds of failures that are told on the screen
FAILURES_MAX = 100  # that many are named; all are counted


@dataclass(slots=True)
class Row:
    """One step on one pair, `held` beforehand or not. `played` 0: nothing of the pair crosses what it works on.

    `shot[n]`: cases in which n nodes were shot.
    """

    pair: str
    step: int
    held: bool
    played: int = 0
    in_hold: int = 0
    shot: Counter[int] = field(default_factory=Counter)
    promises: int = 0
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, came: Came) -> None:
        self.played += 1
        self.in_hold += came.held
        self.shot[came.shot] += 1
        if came.failure is not None and came.failure.rule in UNMET:
            self.promises += 1
        elif came.failure is not None:
            self.rules[came.failure.rule] += 1

    def json(self) -> dict[str, Any]:
        return {
            "pair": self.pair,
            "step": self.step,
            "held_beforehand": self.held,
            "touched": self.played > 0,
            "played": self.played,
            "nobody_shot": self.shot[0],
            "one_shot": self.shot[1],
            "both_shot": self.shot[2],
            "held": self.in_hold,
            "promises_broken": self.promises,
            "rules_broken": dict(sorted(self.rules.items())),
        }


@dataclass(slots=True)
class Tally:
    """All rows so far, and what broke."""

    courses: Sequence[Course]
    rows: dict[tuple[str, int, bool], Row] = field(default_factory=dict)
    failures: list[Came] = field(default_factory=list)
    broken: int = 0

    def __post_init__(self) -> None:
        for course in self.courses:
            for n in range(1, len(course.plan.step) + 1):
                key = (course.subject.pair, n, course.held)
                self.rows.setdefault(key, Row(*key))

    def add(self, came: Iterable[Came]) -> None:
        for one in came:
            course = self.courses[one.course]
            self.rows[course.subject.pair, one.case.number, course.held].add(one)
            if one.failure is not None:
                self.broken += 1
                self.failures += [one] if len(self.failures) < FAILURES_MAX else []

    @property
    def kept(self) -> bool:
        """Every rule and every promise, in at least one case."""
        return not self.broken and any(row.played for row in self.rows.values())

    def ordered(self) -> list[Row]:
        """By pair, step, and held first."""
        return sorted(self.rows.values(), key=lambda row: (row.pair, row.step, HELD.index(row.held)))


@dataclass(frozen=True, slots=True)
class Played:
    """What was played, for the record."""

    written: Written
    survey: Survey
    first: int
    seeds: int
    commit: str

    def guessed(self) -> dict[str, tuple[Guess, ...]]:
        """By pair."""
        return {pair: guesses(self.survey, pair) for pair in pairs(self.survey)}


def record(played: Played, tally: Tally, at: str) -> dict[str, Any]:
    """`pairguard.rehearsal-record/1`, not sealed yet. `at`: the moment at which it was made."""
    times = played.survey.times()
    plan = played.written.plan
    return {
        "schema": SCHEMA,
        "site": played.survey.site,
        "change": plan.change,
        "at": at,
        "plan": {
            "file": played.written.file.name,
            "sha256": played.written.digest,
            "steps": [_step(n, step) for n, step in enumerate(plan.step, 1)],
        },
        "facts": {
            "sha256": played.survey.digest(),
            "oldest": None if times is None else times[0],
            "newest": None if times is None else times[1],
            "guessed": {pair: [each.json() for each in found] for pair, found in played.guessed().items()},
            "survey": played.survey.json(),
        },
        "code": {"commit": played.commit, "version": __version__},
        "seeds": {"first": played.first, "count": played.seeds},
        "result": {
            "kept": tally.kept,
            "broken": tally.broken,
            "ways": [_way(course) for course in tally.courses if course.held],
            "rows": [row.json() for row in tally.ordered()],
            "failures": [_failure(tally.courses[each.course], each) for each in tally.failures],
        },
    }


def _step(number: int, step: Step) -> dict[str, Any]:
    return {
        "step": number,
        "action": step.action,
        "kind": step.kind,
        "elements": list(step.elements),
        "rollback": step.rollback.action,
        "upper_bound_s": step.frozen_s(),
        "played_s": upper(step.frozen_s()),
    }


def _way(course: Course) -> dict[str, Any]:
    """How everything that is not known was taken for."""
    subject = course.subject
    fences = {node: way if isinstance(way, str) else list(way) for node, way in sorted(subject.fences.items())}
    arbiter = subject.arbiter if isinstance(subject.arbiter, str) else list(subject.arbiter)
    return {"pair": subject.pair, "way": course.way, "preferred": subject.a, "arbiter": arbiter, "fences": fences}


def _failure(course: Course, came: Came) -> dict[str, Any]:
    failure = came.failure
    return {
        "pair": course.subject.pair,
        "step": came.case.number,
        "manner": came.case.name.partition("-")[2],
        "held_beforehand": course.held,
        "way": course.way,
        "seed": came.seed,
        "rule": None if failure is None else failure.rule,
        "why": None if failure is None else failure.why,
        "nodes": {"A": course.subject.a, "B": course.subject.b},
    }


# ------------------------------------------------------------------ for people


def table(tally: Tally) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """One line a row."""
    head = ("PAIR", "STEP", "BEFOREHAND", "CASES", "NOBODY SHOT", "HELD", "PROMISES", "RULES")
    return head, [_line(row) for row in tally.ordered()]


def _line(row: Row) -> tuple[object, ...]:
    start = (row.pair, row.step, "held" if row.held else "not held")
    if not row.played:
        return (*start, 0, "not touched", "-", "-", "-")
    promises = f"{row.promises} broken" if row.promises else "kept"
    rules = ", ".join(f"{rule} {n}" for rule, n in sorted(row.rules.items())) or "kept"
    return (*start, row.played, row.shot[0], row.in_hold, promises, rules)


def said(guessed: Mapping[str, Sequence[Guess]]) -> list[str]:
    """What was not known, and what was done about it; a fact that several pairs share stands once."""
    found = {each.fact: each for several in guessed.values() for each in several}
    return [
        f"UNKNOWN {each.fact}: {each.why}; tried: {' and '.join(each.tried)} ({each.because})"
        if each.tried
        else f"UNKNOWN {each.fact}: {each.why}; {each.because}"
        for each in found.values()
    ]


def reasons(tally: Tally) -> list[tuple[str, int]]:
    """What broke, each kind of it once with its first case; and the seed that plays that case again.

    A promise that is broken without a story (a hold that came too late) is told here alone."""
    kinds: dict[tuple[str, str, int], list[Came]] = {}
    for came in tally.failures:
        if came.failure is not None:
            kind = (came.failure.rule, tally.courses[came.course].subject.pair, came.case.number)
            kinds.setdefault(kind, []).append(came)
    told = []
    for (rule, pair, step), cases in list(kinds.items())[:REASONS_MAX]:
        first = cases[0]
        course, manner = tally.courses[first.course], first.case.name.partition("-")[2]
        why = "" if first.failure is None else first.failure.why
        how = "held beforehand" if course.held else "not held beforehand"
        case = f"step {step} ({manner}) on {pair}, {how}, world {course.way}, seed {first.seed}"
        told.append(
            (f"{WHAT.get(rule, f'rule {rule} is broken')}, {len(cases)} times: {why}; first: {case}", first.seed)
        )
    return told


WHAT: Mapping[str, str] = {
    "promise": "a promise is broken",
    "liveness": "the pair did not become whole again",
    "invariant": "an invariant of the code is broken",
}


def capped(steps: Sequence[Step]) -> list[str]:
    """Where the world did not play a bound in full."""
    return [
        f"step {n} may last {step.frozen_s():g} s; played as {CAP_S:g} s, which outlasts every timer of a pair"
        for n, step in enumerate(steps, 1)
        if step.frozen_s() > CAP_S
    ]
