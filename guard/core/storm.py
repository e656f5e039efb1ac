"""Many pairs of a cell in trouble at once: the network failed, not the nodes (DESIGN.md section 6, Storm).

1. Counting cannot tell a storm from many real deaths; a storm therefore only ever forbids.
2. It is closed until nothing has spoken for it for the settle time. Then it is half-open: one claim a minute.
3. Best evidence first: the fence device reads the target off twice, before the switches show the target's own ports
   down and all else steady, before mere silence. A target that is heard, or whose ports are up amid change, is no
   death at all: its claim waits until the storm is over. A pair that had its turn goes behind those that had none.
4. The first surprise closes it again for the settle time: the target of the claim that was let through is heard, or
   one more pair loses its peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from guard.core.instant import Instant, elapsed_s
from guard.core.messages import Answer, Attest, Beat, Claim, Message, Offer, Refused
from guard.core.pair import Pair, Sends
from guard.core.policy import Policy

REASONS = frozenset({"storm", "storm-half-open", "correlating", "arbiter-just-started"})  # of `forbids`
WAITING_S = 20.0  # who has not asked again by then waits no more: DRBD's handler repeats at least every 15 s


def threshold(pairs: int) -> int | None:
    """k(n): this many of `pairs` reporting within the window are a storm; None = never (a single pair)."""
    if pairs <= 1:
        return None
    if pairs <= 4:
        return 2
    return int(max(2.0, 0.05 * pairs)) + 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pair whose claim waits for its turn. `rank`: how good its evidence is, 0 best."""

    rank: int
    since: Instant
    asked: Instant


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the site. `reports`: when each pair last began to miss its peer, until it is whole again."""

    started: Instant
    pairs: frozenset[str] = frozenset()
    heard: frozenset[str] = frozenset()  # pairs that any guard has spoken for since the arbiter started
    reports: Mapping[str, Instant] = field(default_factory=dict)
    storm_since: Instant | None = None
    troubled_at: Instant | None = None  # the last moment at which something spoke for the storm
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)  # how often each pair was let through in this storm
    let_out_at: Instant | None = None  # half-open: when the last claim was let through
    let_out_pair: str = ""  # whose it was
    let_out_node: str = ""  # and which node's


def reported(cell: Cell, pair: str, now: Instant, policy: Policy) -> Cell:
    """A guard of `pair` lost its peer. Counted once until the pair is whole again."""
    if pair in cell.reports:
        return cell
    reports = {**cell.reports, pair: now}
    recent = sum(1 for at in reports.values() if elapsed_s(at, now) <= policy.storm_window_s)
    limit = threshold(len(cell.pairs))
    cell = replace(cell, reports=reports)
    if limit is not None and (recent >= limit or cell.storm_since is not None):
        cell = _closed(replace(cell, storm_since=cell.storm_since or now), now)
    return cell


def whole_again(cell: Cell, pair: str, now: Instant) -> Cell:
    """`pair` is whole: its report is over; the storm, if any, is over with the last one."""
    if pair not in cell.reports:
        return cell
    reports = {name: at for name, at in cell.reports.items() if name != pair}
    if not reports:
        return replace(cell, reports={}, storm_since=None, waiting={}, turns={}, let_out_at=None, let_out_pair="")
    return replace(cell, reports=reports, waiting={n: w for n, w in cell.waiting.items() if n != pair})


def spoke(cell: Cell, pair: str) -> Cell:
    """A guard of `pair` was heard."""
    return cell if pair in cell.heard else replace(cell, heard=cell.heard | {pair})


def heard(cell: Cell, pair: Pair, sender: str, message: Message, now: Instant, policy: Policy) -> Cell:
    """What one authentic message means for a storm; to be asked before the arbiter decides on that message."""
    name = pair.kept.pair
    if cell.storm_since is None:
        return cell
    if name == cell.let_out_pair and sender != cell.let_out_node and _surprising(cell, pair, message, now, policy):
        return _closed(cell, now)
    if not isinstance(message, Claim) or message.gather:
        return cell
    rank = _rank(message, speaks=_speaks(pair, pair.kept.other(sender), now, policy))
    if rank is None:
        return _without(cell, name)
    before = cell.waiting.get(name)
    waits = Waiting(rank, before.since if before is not None else now, now)
    return replace(cell, waiting={**cell.waiting, name: waits})


def said(cell: Cell, pair: str, sends: Sends, now: Instant) -> Cell:
    """What the arbiter's answers for `pair` mean: an offer is its turn; one refused for its own sake waits no more."""
    for to, message in sends:
        if isinstance(message, Offer):
            cell = let_out(cell, now, pair, to)
        elif isinstance(message, Refused) and message.reason not in REASONS:
            cell = _without(cell, pair)
    return cell


def forbids(cell: Cell, now: Instant, policy: Policy, pair: str) -> str | None:
    """Why no offer for `pair` may leave this cell now, or None. One that was let through may go on to its win for as
    long as that may take (T_fire)."""
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
    return None if pair == _next(cell, now) else "storm-half-open"


def let_out(cell: Cell, now: Instant, pair: str, node: str) -> Cell:
    """An offer left for `node` of `pair`: in a storm that is the one claim of this minute."""
    if cell.storm_since is None:
        return cell
    turns = {**cell.turns, pair: cell.turns.get(pair, 0) + 1}
    return replace(_without(cell, pair), turns=turns, let_out_at=now, let_out_pair=pair, let_out_node=node)


def _next(cell: Cell, now: Instant) -> str | None:
    """Whose turn it is: law 3; of equals the one that has waited longest."""
    waiting = {name: w for name, w in cell.waiting.items() if elapsed_s(w.asked, now) <= WAITING_S}
    return min(waiting, key=lambda n: (cell.turns.get(n, 0), waiting[n].rank, waiting[n].since, n), default=None)


def _rank(claim: Claim, *, speaks: bool) -> int | None:
    """How good the evidence of a death is, 0 best; None: there is none, something contradicts it."""
    if speaks or claim.ports == "up-with-change":
        return None
    if claim.off_twice:
        return 0
    return 1 if claim.ports == "down-alone" else 2


def _speaks(pair: Pair, node: str, now: Instant, policy: Policy) -> bool:
    """The node's guard was heard within 2 s, and does not say itself that its own cluster is gone."""
    last, beat = pair.heard.get(node), pair.beats.get(node)
    unfit = beat is not None and beat.hold.unfit
    return last is not None and elapsed_s(last, now) <= policy.heard_s and not unfit


def _surprising(cell: Cell, pair: Pair, message: Message, now: Instant, policy: Policy) -> bool:
    """A word of the target, unless it is one of consent, or of a node whose own cluster is gone, or the era is won."""
    if cell.let_out_at is None or elapsed_s(cell.let_out_at, now) > policy.storm_retry_s:
        return False
    if pair.kept.register.winner is not None:
        return False
    match message:
        case Beat(hold=hold):
            return not hold.unfit
        case Answer(evidence=evidence, yielded=yielded):
            return not (yielded or evidence.unfit)
        case Attest(evidence=evidence):
            return not evidence.unfit
        case _:
            return True


def _closed(cell: Cell, now: Instant) -> Cell:
    return replace(cell, troubled_at=now, let_out_at=None, let_out_pair="", let_out_node="")


def _without(cell: Cell, pair: str) -> Cell:
    return replace(cell, waiting={n: w for n, w in cell.waiting.items() if n != pair})
