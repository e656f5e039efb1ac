"""Many runs of one scenario, on as many processes as wanted. The result does not depend on how many.

1. A run depends on its seed alone. Seeds are dealt in parcels and folded in their own order, whoever was first.
2. Only sums and failures are kept: memory does not grow with the number of runs.
3. An interruption loses what was under way, and nothing that was done.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar, cast

from guard.errors import Unavailable
from guard.rehearsal import stock
from guard.rehearsal.scenario import StockPart, applies, draw
from guard.rehearsal.site import SERVED_AFTER_S, Ended, Failure, Plan, Unit, play
from guard.rehearsal.stock import Edit, Freeze, StockSetting
from guard.rehearsal.values import Drawn, Wrong, number, resolved, shown, stream

PARCEL_MAX = 16  # runs of one parcel: few enough for a steady bar, enough to make the sending cheap
AHEAD = 3  # parcels waiting for each worker


@dataclass(slots=True)
class Side:
    """What came of all units of one kind of stack. `shot[n]`: units in which n nodes were shot."""

    units: int = 0
    shot: Counter[int] = field(default_factory=Counter)
    rows: Counter[tuple[tuple[str, ...], int]] = field(default_factory=Counter)  # ((values of show_by), n) -> units
    primary_shot: int = 0
    served: int = 0  # units in which the service ran at the end
    paged: int = 0  # units in which a person was called

    def add(self, other: Side) -> None:
        self.units += other.units
        self.shot.update(other.shot)
        self.rows.update(other.rows)
        self.primary_shot += other.primary_shot
        self.served += other.served
        self.paged += other.paged


@dataclass(slots=True)
class Totals:
    """Sums over all runs so far. `healed_s`: how long wholeness took after a heal, worst and summed."""

    runs: int = 0
    guarded: Side = field(default_factory=Side)
    stock: Side | None = None
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, Failure]] = field(default_factory=list)  # (seed, what broke), the first FAILURES_MAX
    failed: Counter[str] = field(default_factory=Counter)  # rule -> runs
    healed_s_max: float = 0.0
    frozen_s: float = 0.0
    simulated_s: float = 0.0

    def add(self, one: Totals) -> None:
        self.runs += one.runs
        self.guarded.add(one.guarded)
        if one.stock is not None:
            self.stock = self.stock or Side()
            self.stock.add(one.stock)
        self.counts.update(one.counts)
        self.failures += one.failures[: FAILURES_MAX - len(self.failures)]
        self.failed.update(one.failed)
        self.healed_s_max = max(self.healed_s_max, one.healed_s_max)
        self.frozen_s += one.frozen_s
        self.simulated_s += one.simulated_s


FAILURES_MAX = 1000  # that many are named; all are counted


@dataclass(frozen=True, slots=True)
class Work:
    """`stock`: also play the same seeds without the guard."""

    plan: Plan
    first: int
    runs: int
    stock: bool = False


class _Named:
    """An exception that nothing foresaw is told together with the seed that shows it."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._said = f"seen in {plan.scenario.name}, seed {seed}, {plan.pairs} pairs"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Exception):
            error.add_note(self._said)


def once(work: Work, seed: int) -> Totals:
    """One run, as a sum of one."""
    with _Named(work.plan, seed):
        ended = play(work.plan, seed)
        totals = _summed(ended, seed)
        if work.stock:
            totals.stock = _side(play_stock(work.plan, seed))
    return totals


def _summed(ended: Ended, seed: int) -> Totals:
    totals = Totals(runs=1, guarded=_side(ended.units), counts=ended.counts, simulated_s=ended.simulated_s)
    totals.healed_s_max = max((unit.healed_s for unit in ended.units), default=0.0)
    if ended.failure is not None:
        totals.failures.append((seed, ended.failure))
        totals.failed[ended.failure.rule] += 1
    return totals


def _side(units: Sequence[Unit]) -> Side:
    side = Side(units=len(units))
    for unit in units:
        side.shot[unit.shot] += 1
        side.rows[unit.row, unit.shot] += 1
        side.primary_shot += unit.primary_shot
        side.served += unit.served
        side.paged += unit.paged
    return side


def play_stock(plan: Plan, seed: int) -> list[Unit]:
    """The same rounds without the guard. Raises `Wrong` for settings that no stock stack can have."""
    part, scenario = plan.scenario.stock, plan.scenario
    if part is None:
        return []
    units = []
    for turn in range(scenario.rounds):
        for pair in range(plan.pairs):
            drawn = draw(scenario, seed, turn, pair)
            rng = stream(scenario.name, seed, turn, pair, "stock")
            try:
                setting, freeze = _stock(part, drawn, rng)
            except (ValueError, TypeError) as error:
                raise Wrong("cannot play it without the guard", str(error), "mend the [stock] part") from error
            came = stock.play(rng.getrandbits(32), setting, freeze, "A")
            row = tuple(shown(drawn[name]) for name in scenario.show_by)
            units.append(Unit(row, len(came.shot), came.primary_shot, came.service_up_after))
    return units


def _stock(part: StockPart, drawn: Drawn, rng: random.Random) -> tuple[StockSetting, Freeze]:
    changed: dict[str, Any] = {}
    for row in part.rows:
        if applies(row.when, drawn):
            changed |= {name: resolved(value, drawn, rng) for name, value in row.set.items()}
            changed |= {"edits": MAINTAINED} if row.maintained else {}
    kind, victim = cast(stock.Kind, resolved(part.kind, drawn, rng)), resolved(part.victim, drawn, rng)
    freeze = Freeze(kind, number(part.seconds, drawn, rng), "secondary" if victim in ("B", "secondary") else "primary")
    return StockSetting(**changed), freeze


MAINTAINED = (Edit(-60.0, "maintain"), Edit(SERVED_AFTER_S * 2, "manage", after_thaw=True))
"""A person sets maintenance-mode a minute before, and takes it back once the pair is one again."""


def parcel(work: Work, first: int, count: int) -> Totals:
    """Some runs in a row, as one sum."""
    totals = Totals()
    for seed in range(first, first + count):
        totals.add(once(work, seed))
    return totals


def run(work: Work, workers: int) -> Iterator[Totals]:
    """Sums of a few runs each, in the order of their seeds. Stops the workers when it is closed or interrupted."""
    end = work.first + work.runs
    size = 1 if workers <= 1 else max(1, min(PARCEL_MAX, work.runs // (workers * 4)))
    parcels = [(work, start, min(size, end - start)) for start in range(work.first, end, size)]
    return dealt(_parcel, parcels, workers)


def _parcel(one: tuple[Work, int, int]) -> Totals:
    return parcel(*one)


T = TypeVar("T")
R = TypeVar("R")


def dealt(do: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """What `do` makes of each task, in the order of the tasks, whoever was first. In this process if one will do."""
    if workers <= 1:
        yield from map(do, tasks)
        return
    context = multiprocessing.get_context("spawn")
    left = deque(tasks)
    waiting: deque[Future[R]] = deque()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet)
    try:
        while left or waiting:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a worker is born with it, until it is ready
            while left and len(waiting) < workers * AHEAD:
                waiting.append(pool.submit(do, left.popleft()))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise Unavailable(
            "cannot go on", "a worker process ended by itself", "try fewer --workers or --pairs"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if left or waiting:  # the pool then sees that its workers are gone, and ends what waits
            for child in multiprocessing.active_children():
                child.terminate()
        pool.shutdown()


def _quiet() -> None:
    """Ctrl-C reaches the whole process group: a worker then goes without a word, its parent says what was done.

    Unless it is ignored, as in a shell's background job: then the parent goes on, and needs its workers.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
