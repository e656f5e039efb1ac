"""A plan on a site: every step and every rollback, in order, on every pair, held beforehand and not.

A pair's *course* is one scenario whose rounds are the cases in order: all steps as they go well; all undone, the last
one first; each for its upper bound; each failing at a quarter and at three quarters of that, with its rollback at once.
After each round the pair must be whole again. What breaks ends a round; the course goes on with the next case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from guard.plan import Plan, Step
from guard.rehearsal import transcript
from guard.rehearsal.guesses import Subject, pairs, subjects, switches
from guard.rehearsal.runner import dealt
from guard.rehearsal.scenario import Scenario, made
from guard.rehearsal.site import Failure, Unit, play
from guard.rehearsal.site import Plan as Run
from guard.rehearsal.values import Wrong
from guard.rehearsal.works import ARBITER, Go, Hit, PhaseTable, hit, phases
from guard.survey import Survey, names

CAP_S = 960.0  # outlasts every timer of a pair, also an agent's 880 s and the cluster's 900 s for it
POINTS = (0.25, 0.75)  # of a step's upper bound at which it fails
LEAD_S = 8.0  # from the hold to the work, and from the start of a round without one
BACK_S = 2.0  # from the failure to the rollback
HELD: tuple[bool, bool] = (True, False)
NOT_HELD = f"the pair was not held {LEAD_S:g} s after the engineer asked, so the work must not begin"

Manner = Literal["well", "undone", "longest", "fails"]


@dataclass(frozen=True, slots=True)
class Case:
    """One step in one manner. `number` from 1; `point`: where it fails, a share of its upper bound."""

    number: int
    manner: Manner
    point: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.number}-{self.manner}" + (f"-{self.point:g}" if self.manner == "fails" else "")


@dataclass(frozen=True, slots=True)
class Course:
    """All cases on one pair, in one way in which everything may be. `held`: announced beforehand."""

    subject: Subject
    plan: Plan
    held: bool
    way: int

    @property
    def name(self) -> str:
        words = f"{self.plan.change}-{self.subject.pair}-{'held' if self.held else 'unheld'}-{self.way}"
        return re.sub(r"[^a-z0-9]+", "-", words.lower())


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one case of a course with one seed. `failure` None: every rule and every promise was kept.

    `held`: before the work began, if it was announced; else at any time, because the guards saw it themselves.
    """

    course: int  # its place among the courses
    seed: int
    case: Case
    shot: int
    held: bool
    failure: Failure | None = None
    scenario: Scenario | None = None  # of the run that broke, to be told again


def cases(plan: Plan) -> tuple[Case, ...]:
    """In the order in which they are played."""
    numbers = range(1, len(plan.step) + 1)
    return (
        *(Case(n, "well") for n in numbers),
        *(Case(n, "undone") for n in reversed(numbers)),
        *(Case(n, "longest") for n in numbers),
        *(Case(n, "fails", point) for n in numbers for point in POINTS),
    )


def courses(plan: Plan, survey: Survey) -> tuple[Course, ...]:
    """Every pair, every way in which it may be, held and not. `Wrong`: the plan does not fit the site."""
    strange = sorted(set(_strange(plan, survey)))
    if strange:
        known = ", ".join((*switches(survey), *_nodes(survey), ARBITER))
        raise Unplaced(
            "cannot place this plan on the site", f"it names {', '.join(strange)}", f"the survey has {known}"
        )
    ways = [(way, subject) for pair in pairs(survey) for way, subject in enumerate(subjects(survey, pair), 1)]
    if not any(touched(plan, n, subject) for n in range(1, len(plan.step) + 1) for _, subject in ways):
        why = f"nothing of {', '.join(pairs(survey)) or 'any pair'} crosses what it works on"
        raise Unplaced("cannot place this plan on the site", why, "name the elements that it changes, or survey anew")
    return tuple(Course(subject, plan, held, way) for (way, subject), held in product(ways, HELD))


class Unplaced(Wrong):
    """An element of the plan is not on the site: an empty match is never good."""


def _strange(plan: Plan, survey: Survey) -> Iterator[str]:
    for step in plan.step:
        for element in step.elements:
            name, colon, port = element.partition(":")
            known = name in (*switches(survey), *_nodes(survey), ARBITER)
            if not known or (colon and f"switch.{name}.port.{port}" not in survey.facts):
                yield element


def _nodes(survey: Survey) -> tuple[str, ...]:
    found = (survey.value(f"pair.{pair}.nodes") for pair in names(survey, r"pair\.(.+)\.nodes"))
    return tuple(node for each in found if isinstance(each, tuple) for node in each)


def touched(plan: Plan, number: int, subject: Subject) -> bool:
    """Does anything of the pair cross what this step works on, as far as anybody knows?"""
    hits = [hit(subject, element) for element in plan.step[number - 1].elements]
    return any(not each.misses for each in hits)


# ------------------------------------------------------------------ one course as a scenario


def scenario(course: Course, some: Sequence[Case]) -> Scenario:
    """These cases, a round each."""
    steps = course.plan.step
    case_names = [case.name for case in some]
    content: dict[str, Any] = {
        "name": course.name,
        "text": f"change {course.plan.change} on {course.subject.pair}",
        "story": f"A is {course.subject.a}, B is {course.subject.b}, {'' if course.held else 'not '}held beforehand.",
        "unit": "pair-step",
        "rounds": len(some),
        "around": course.subject.around.model_dump(),
        "mlag": any(each.mlag for step in steps for each in _hits(course, step)),
        "show_by": ["case"],
        "parameters": _parameters(steps, case_names),
        "phases": [*_hold(course.held), *(phase for case in some for phase in _phases(course, case))],
        "promises": [*(_promise(course, case, {"case": case.name}) for case in some), _promise(course, some[-1], {})],
    }
    return made(content, course.name)


def _hits(course: Course, step: Step) -> list[Hit]:
    return [hit(course.subject, element) for element in step.elements]


def _hold(held: bool) -> list[PhaseTable]:
    if held:
        return [{"text": "an engineer holds the pair first", "fault": "person-holds", "args": {"node": "either"}}]
    return [{"text": "nobody announces anything", "fault": "topology-change", "args": {"switch": "sw1", "times": 0}}]


def _parameters(steps: Sequence[Step], case_names: Sequence[str]) -> dict[str, Any]:
    def drawn(text: str, most: float) -> dict[str, Any]:
        return {"text": text, "default": {"log-uniform": [0.5, most]}, "range": [0.1, CAP_S]}

    def chosen(text: str, *words: str) -> dict[str, Any]:
        return {"text": text, "default": {"choice": list(words)}, "allowed": list(words)}

    late = {"text": "late shots land so long after", "default": {"inverse-square": [0.5, 600]}, "range": [0, 36000]}
    return {
        "case": {"text": "step and manner", "default": {"in-order": list(case_names)}, "allowed": list(case_names)},
        "frames": chosen("what happens to frames in a freeze", "cut", "held"),
        "process": chosen("which process of a node restarts", "corosync-dies", "controller-dies", "guard-crash"),
        "stall": chosen("what a diagnostic stops on a node", "guard-pause", "vm-pause", "kernel-hang"),
        "late_s": late,
        **{f"well_{n}": drawn("how long it takes if all is well", upper(s.frozen_s())) for n, s in enumerate(steps, 1)},
        **{f"back_{n}": drawn("how long going back takes", upper(s.back_s())) for n, s in enumerate(steps, 1)},
    }


def upper(seconds: float) -> float:
    """An upper bound as it is played."""
    return min(seconds, CAP_S)


def _phases(course: Course, case: Case) -> Iterator[PhaseTable]:
    step = course.plan.step[case.number - 1]
    for kind, go in _works(step, case):
        for what in _hits(course, step):
            for phase in phases(kind, what, go):
                yield phase | {"when": {**phase["when"], "case": case.name}}


def _works(step: Step, case: Case) -> Iterator[tuple[Any, Go]]:
    """What is done in this case, and when."""
    n, back = case.number, step.rollback.kind or step.kind
    match case.manner:
        case "well":
            yield step.kind, Go(LEAD_S, f"$well_{n}", gentle=True)
        case "undone":
            yield back, Go(LEAD_S, f"$back_{n}", gentle=True)
        case "longest":
            yield step.kind, Go(LEAD_S, upper(step.frozen_s()), gentle=False)
        case "fails":
            failed_s = round(case.point * upper(step.frozen_s()), 3)
            yield step.kind, Go(LEAD_S, failed_s, gentle=False)
            yield back, Go(LEAD_S + failed_s + BACK_S, f"$back_{n}", gentle=False)


def _promise(course: Course, case: Case, when: Mapping[str, str]) -> dict[str, Any]:
    """Work on the network or the arbiter: nobody is shot, the service stays. Work on a node: at most that one is."""
    hits = _hits(course, course.plan.step[case.number - 1])
    worked = sorted({each.node for each in hits if each.sort == "node"})
    limits = course.subject.around.policy()
    whole_s = 300.0 + 3 * limits.settle_s + limits.cold_s + limits.unheard_s
    if worked and not course.held:
        victim = {"victim": worked[0]} if len(worked) == 1 else {}
        text = "at most the node that is worked on is shot"
        return {"text": text, "shot": "at-most-one", "person": True, "whole_s": whole_s, "when": when, **victim}
    quiet = {"text": "nobody is shot", "shot": "nobody", "whole_s": whole_s, "when": when}
    return quiet | ({"person": True} if worked else {"stays": True, "text": "nobody is shot, the service stays"})


# ------------------------------------------------------------------ playing


@dataclass(frozen=True, slots=True)
class Task:
    """One course with one seed."""

    place: int
    course: Course
    seed: int


def follow(task: Task) -> tuple[Came, ...]:
    """Every case once. What breaks ends a world: the next case begins in a new one."""
    left = [case for case in cases(task.course.plan) if touched(task.course.plan, case.number, task.course.subject)]
    found: list[Came] = []
    while left:
        played = scenario(task.course, left)
        ended = play(Run(played, 1), task.seed)
        for case, unit in zip(left, ended.units, strict=False):
            held = _held(task.course, unit)
            late = Failure("promise", NOT_HELD, "pair-1", len(found), LEAD_S) if task.course.held and not held else None
            found.append(Came(task.place, task.seed, case, unit.shot, held, late))
        if ended.failure is None:
            return tuple(found)
        broke = ended.failure.turn
        unit = ended.broken[0] if ended.broken else Unit((), 0, primary_shot=False, served=False)
        held = _held(task.course, unit)
        found.append(Came(task.place, task.seed, left[broke], unit.shot, held, ended.failure, played))
        left = left[broke + 1 :]
    return tuple(found)


def _held(course: Course, unit: Unit) -> bool:
    """Announced: before the work began. Else: at any time, by the guards' own eyes."""
    return unit.held_s is not None and (unit.held_s <= LEAD_S or not course.held)


def run(some: Sequence[Course], first: int, seeds: int, workers: int) -> Iterator[tuple[Came, ...]]:
    """All courses with all seeds, in that order, on as many processes as wanted."""
    tasks = [Task(n, course, seed) for n, course in enumerate(some) for seed in range(first, first + seeds)]
    return dealt(follow, tasks, workers)


def told(came: Came, code: str) -> transcript.Transcript | None:
    """The story of what broke; `pairguard rehearse --replay` plays it again. None: nothing did."""
    return None if came.scenario is None else transcript.told(Run(came.scenario, 1), came.seed, code)
