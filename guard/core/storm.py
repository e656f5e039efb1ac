"""Many pairs of a cell in trouble at once: the network failed, not the nodes (DESIGN.md section 6, Storm).

Counting cannot tell a storm from many real deaths; a storm therefore only ever forbids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from guard.core.instant import Instant, elapsed_s
from guard.core.policy import Policy


def threshold(pairs: int) -> int | None:
    """k(n): this many of `pairs` reporting within the window are a storm; None = never (a single pair)."""
    if pairs <= 1:
        return None
    if pairs <= 4:
        return 2
    return int(max(2.0, 0.05 * pairs)) + 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the site. `reports`: when each pair last began to miss its peer, until it is whole again."""

    started: Instant
    pairs: frozenset[str] = frozenset()
    heard: frozenset[str] = frozenset()  # pairs that any guard has spoken for since the arbiter started
    reports: Mapping[str, Instant] = field(default_factory=dict)
    storm_since: Instant | None = None
    troubled_at: Instant | None = None  # the last moment at which something spoke for the storm
    let_out_at: Instant | None = None  # half-open: when the last claim was let through
    let_out_pair: str = ""  # and whose it was


def reported(cell: Cell, pair: str, now: Instant, policy: Policy) -> Cell:
    """A guard of `pair` lost its peer. Counted once until the pair is whole again."""
    if pair in cell.reports:
        return cell
    reports = {**cell.reports, pair: now}
    recent = sum(1 for at in reports.values() if elapsed_s(at, now) <= policy.storm_window_s)
    limit = threshold(len(cell.pairs))
    cell = replace(cell, reports=reports)
    if limit is not None and recent >= limit:
        cell = replace(cell, storm_since=cell.storm_since or now, troubled_at=now, let_out_at=None)
    return cell


def whole_again(cell: Cell, pair: str, now: Instant) -> Cell:
    """`pair` is whole: its report is over; the storm, if any, is over with the last one."""
    if pair not in cell.reports:
        return cell
    reports = {name: at for name, at in cell.reports.items() if name != pair}
    return replace(cell, reports=reports, storm_since=cell.storm_since if reports else None)


def spoke(cell: Cell, pair: str) -> Cell:
    """A guard of `pair` was heard."""
    return cell if pair in cell.heard else replace(cell, heard=cell.heard | {pair})


def forbids(cell: Cell, now: Instant, policy: Policy, pair: str = "") -> str | None:
    """Why no offer for `pair` may leave this cell now, or None.

    Half-open: once the storm was quiet for the settle time one claim a minute is let through (`let_out`), and the pair
    whose claim it was may go on to its win for as long as a win may take (T_fire).
    """
    limit = threshold(len(cell.pairs))
    if limit is None:
        return None
    if elapsed_s(cell.started, now) < policy.unheard_s and len(cell.pairs - cell.heard) > limit - 1:
        return "arbiter-just-started"
    if cell.storm_since is None:
        last = max(cell.reports.values(), default=None)
        return "correlating" if last is not None and elapsed_s(last, now) < policy.corr_s else None
    if cell.troubled_at is not None and elapsed_s(cell.troubled_at, now) < policy.settle_s:
        return "storm"
    if cell.let_out_at is not None and elapsed_s(cell.let_out_at, now) < policy.storm_retry_s:
        its_own = pair == cell.let_out_pair and elapsed_s(cell.let_out_at, now) <= policy.fire_s
        return None if its_own else "storm-half-open"
    return None


def let_out(cell: Cell, now: Instant, pair: str = "") -> Cell:
    """An offer left for `pair`: in a storm that is the one claim of this minute."""
    return replace(cell, let_out_at=now, let_out_pair=pair) if cell.storm_since is not None else cell
