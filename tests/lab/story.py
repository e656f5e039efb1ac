"""One run from start to end: form the pairs, freeze, watch, thaw, watch, and say for each pair what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.lab import guarded
from tests.lab.fabric import access_of
from tests.lab.freeze import SETTLE_S, BlackHole, Crash, Flap, Freeze, Late, MlagFreeze, NodeLinks, StpFreeze
from tests.lab.pairs import Site
from tests.lab.picture import draw
from tests.lab.plan import Plan, first_primary, nodes_of
from tests.lab.record import Event, Interval, Record, spans, uncovered_s
from tests.lab.space import boottime

LATE_DRAIN_S = 3.0
RESTORE_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one pair. Seconds; None: could not be measured, or did not happen.

    `shot`: nodes whose power a fence command took. `wrong_node`: the primary was shot and its peer was not.
    `service_stopped_s`: from the freeze to the end of the watch, how long the service ran on neither node.
    `write_stall_s`: the longest time between two acknowledged writes in that window (None without a writer).
    `promoted_after_s`: from the freeze to the first promotion of the other node.
    `both_s`: how long both nodes ran the service at once.
    `lost_writes`, `split_brain`: by the stand-in's checker, when the run is over (None without data).
    """

    pair: str
    primary: str
    shot: tuple[str, ...]
    primary_shot: bool
    wrong_node: bool
    service_stopped_s: float
    service_up: bool
    write_stall_s: float | None
    promoted_after_s: float | None
    both_s: float
    off_commands: int
    lost_writes: int | None = None
    split_brain: bool | None = None


def run(plan: Plan, out: Path, *, during: Callable[[Site], None] | None = None, quiet: bool = False) -> Record:
    """The whole run; leaves `record.json`, `timeline.svg`, .png and logs in `out`. `during` is called while frozen."""
    record = Record(title(plan), plan.as_dict())
    begun = boottime()
    if not quiet:
        record.on_event = lambda event: print(
            f"{event.at_s - begun:7.2f} {event.kind:15} {event.who:8} {event.detail}", flush=True
        )
    with Site(plan, record) as site:
        try:
            site.build()
            site.start()
            site.wait_formed()
            record.mark("formed")
            if plan.guarded:
                for pair in plan.pair_names():
                    guarded.initialise(site, pair)
                record.mark("initialised")
            primaries = {pair: primary_of(site, pair) for pair in plan.pair_names()}
            freeze_and_watch(site, primaries, during)
            gather(site, record)
            record.rows = [asdict(row) for row in rows(site, primaries)]
            record.mark("end")
        finally:
            site.keep_logs(out)
    save(record, out)
    return record


def freeze_and_watch(site: Site, primaries: dict[str, str], during: Callable[[Site], None] | None) -> None:
    """The plan's own freeze: begin, wait it out, end, watch. Marks `freeze` and `thaw`."""
    plan = site.plan
    told = None if during is None else partial(during, site)
    play(site, make_freeze(site, primaries), told, restore=plan.restore, settle_s=plan.settle_s, watch_s=plan.watch_s)


def play(
    site: Site,
    freeze: Freeze,
    during: Callable[[], None] | None,
    *,
    restore: bool,
    settle_s: float,
    watch_s: float,
) -> None:
    """Any freeze from `prepare` to `watch_s` after its thaw. Marks `freeze`, `thaw` and `watched`."""
    freeze.prepare()
    time.sleep(max(settle_s, SETTLE_S))
    site.record.mark("freeze")
    outage(site, freeze, during, restore=restore, watch_s=watch_s)
    site.record.mark("watched")


def outage(site: Site, freeze: Freeze, during: Callable[[], None] | None, *, restore: bool, watch_s: float) -> None:
    """A prepared freeze from its begin to `watch_s` after its thaw. Marks `thaw`."""
    record = site.record
    freeze.begin()
    began = boottime()
    if during is not None:
        during()
    time.sleep(max(0.0, began + freeze.seconds - 1.0 - boottime()))
    if freeze.kind in ("stp", "mlag"):
        site.fabric.wait_forwarding(20)  # the spanning tree decides
        freeze.end()
    else:
        time.sleep(max(0.0, began + freeze.seconds - boottime()))
        freeze.end()
        site.fabric.wait_forwarding(90)
    record.mark("thaw")
    thawed = boottime()
    if restore and isinstance(freeze, StpFreeze):
        time.sleep(RESTORE_AFTER_S)
        freeze.restore()
        record.add("restored", "lab", freeze.root)
    if isinstance(freeze, Late):
        time.sleep(min(LATE_DRAIN_S, watch_s))
        freeze.clear()
    time.sleep(max(0.0, thawed + watch_s - boottime()))


def make_freeze(site: Site, primaries: dict[str, str]) -> Freeze:
    """The freeze that the plan names."""
    plan, fabric = site.plan, site.fabric
    match plan.freeze:
        case "stp":
            return StpFreeze(fabric, plan.seconds)
        case "blackhole":
            return BlackHole(fabric, plan.seconds)
        case "late":
            return Late(fabric, plan.seconds)
        case "mlag":
            return MlagFreeze(fabric, site.switches, site.record, plan.seconds)
        case "node-links":
            return NodeLinks(fabric, [(access_of(name), name) for name in primaries.values()], plan.seconds)
        case "flap":
            return Flap(fabric, plan.seconds)
        case _:
            return Crash(
                lambda: [site.nodes[name] for name in primaries.values()],
                plan.seconds,
                ports_stay_up=plan.ports_stay_up,
            )


def primary_of(site: Site, pair: str) -> str:
    """The node that runs the service now."""
    for name in nodes_of(pair):
        if site.service_on(name):
            return name
    return first_primary(pair)


def gather(site: Site, record: Record) -> None:
    """Turn the nodes' own logs into events."""
    for name, node in site.nodes.items():
        record.events += site.replication.events(node)
        if site.plan.guarded:
            record.events += guarded.guard_events(site, node)
        record.events += [Event(at, "agent", name, words) for at, words in node.log_times("/var/log/pglab/fence.log")]


def service_spans(record: Record, name: str, until_s: float) -> list[Interval]:
    """When the service ran on a node: from its agent's `start` to `stop`, or to the node's power-off or panic."""
    services = record.of("service", name)
    starts = [e.at_s for e in services if e.detail == "start"]
    ends = [e.at_s for e in services if e.detail == "stop"]
    ends += [e.at_s for kind in ("power-off", "panic") for e in record.of(kind, name)]
    return spans(starts, ends, until_s)


def rows(site: Site, primaries: dict[str, str]) -> list[Row]:
    """One row a pair, also where all went well."""
    record = site.record
    window = Interval(record.marks["freeze"], record.marks["watched"])
    return [row(record, pair, primaries[pair], window, site) for pair in site.plan.pair_names()]


def row(record: Record, pair: str, primary: str, window: Interval, site: Site) -> Row:
    """The row of one pair, from the record alone."""
    names = nodes_of(pair)
    other = next(name for name in names if name != primary)
    running = {name: service_spans(record, name, window.end_s) for name in names}
    shot = tuple(
        n for n in names if any(e.detail != "crash" and e.at_s >= window.start_s for e in record.of("power-off", n))
    )
    promotions = [e.at_s for e in record.of("role", other) if e.detail == "promoted" and e.at_s >= window.start_s]
    both = (site.nodes[names[0]], site.nodes[names[1]])
    stall = site.replication.stall_s(both, window)
    judged = site.replication.judge(both)
    alone = sum(uncovered_s(running[n], window) for n in names)
    neither = uncovered_s(running[names[0]] + running[names[1]], window)
    return Row(
        pair=pair,
        primary=primary,
        shot=shot,
        primary_shot=primary in shot,
        wrong_node=primary in shot and other not in shot,
        service_stopped_s=round(neither, 2),
        service_up=any(site.service_on(n) for n in names),
        write_stall_s=None if stall is None else round(stall, 2),
        promoted_after_s=round(promotions[0] - window.start_s, 2) if promotions else None,
        both_s=round(window.length_s + neither - alone, 2),
        off_commands=sum(e.at_s >= window.start_s for n in names for e in record.of("off-accepted", n)),
        lost_writes=None if judged is None else judged.lost,
        split_brain=None if judged is None else judged.split_brain,
    )


def title(plan: Plan) -> str:
    """One line for pictures and tables."""
    who = "guarded" if plan.guarded else "stock"
    many = "pair" if plan.pairs == 1 else "pairs"
    return f"{plan.pairs} {many}, {who}: {plan.freeze} {plan.seconds:g} s, power-off takes {plan.latency_s:g} s"


def save(record: Record, out: Path) -> None:
    """record.json, timeline.svg and, where cairosvg is there, timeline.png."""
    out.mkdir(parents=True, exist_ok=True)
    record.save(out / "record.json")
    draw(record, out)


def table(record: Record) -> str:
    """The rows as text, 80 columns."""
    lines = [
        f"{'pair':6}{'primary':9}{'shot':14}{'stopped':>9}{'stall':>8}"
        f"{'promoted':>10}{'both':>7}{'lost':>6}{'split':>7}  now"
    ]
    for found in record.rows:
        shot = found["shot"]
        names = ",".join(str(n) for n in shot) if isinstance(shot, list | tuple) else ""
        lines.append(
            f"{found['pair']!s:6}{found['primary']!s:9}{names or '-':14}{_number(found['service_stopped_s']):>9}"
            f"{_number(found['write_stall_s']):>8}{_number(found['promoted_after_s']):>10}{_number(found['both_s']):>7}"
            f"{_word(found['lost_writes']):>6}{_word(found['split_brain']):>7}"
            f"  {'up' if found['service_up'] else 'DOWN'}"
        )
    return "\n".join(lines)


def promoted_words(after_s: float | None) -> str:
    """What to say of a node that should take over. None: it was not promoted while it was watched."""
    return "was not promoted" if after_s is None else f"promoted after {after_s:g} s"


def _word(value: object) -> str:
    return "-" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float | int) else "-"
