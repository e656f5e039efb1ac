"""The table: pairguard and its rivals on the same freezes and deaths, row by row, over as many sessions as it takes.

`python -m tests.lab.rows [ROW...]` (or `make table`) goes on where the last one stopped: each run of a row is a line of
the record with its commit, moment and load, one entry a pair. A run that failed is kept with its reason and counts for
nothing. `--report` only writes the table: Markdown and JSON beside the record, and a picture.

A row of ours plays a lab case on one guarded site again and again; a row of a rival forms ordinary pairs anew for each
run, because the last one left nodes off. All pairs of a run share its freeze: they are not independent of one another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from guard.rehearsal.report import wilson
from tests.lab import cases, chart, story
from tests.lab.cluster import Timers
from tests.lab.demo import missing
from tests.lab.freeze import BlackHole, Crash, Freeze, Late, StpFreeze
from tests.lab.ground import form
from tests.lab.more import MORE
from tests.lab.pairs import Site
from tests.lab.plan import Plan, nodes_of
from tests.lab.record import Record
from tests.lab.rivals import RIVALS, Rival
from tests.lab.space import LabFailed, boottime, end_on_signals

RECORD = Path(__file__).with_suffix(".jsonl")
FREEZE_S = 12.0
GOAL = 21  # pairs of a row; 0 of 21 still allows up to 15 % (Wilson, 95 %)
RIVAL_PAIRS = 7  # of one run: 14 nodes with 150 to 174 MB each (facts/labs.md)
OUR_PAIRS = 3
AFTER_S = {"stp": 14.0, "blackhole": 14.0, "late": 14.0, "death": 60.0}  # watched: a death waits out every delay
WHOLE_S_MAX = 60.0
FAILED_MAX = 3  # runs of one row in one session

Kind = Literal["stp", "blackhole", "late", "death"]


@dataclass(frozen=True, slots=True)
class Line:
    """One row. `case` of ours, or `rival` and `kind`. `dies`: a node really dies, one a pair and run.

    `site`: what the guarded site differs in, fields of `Plan`.
    """

    name: str
    title: str
    group: str
    case: str = ""
    rival: Rival | None = None
    kind: Kind = "stp"
    dies: bool = False
    goal: int = GOAL
    pairs: int = OUR_PAIRS
    site: tuple[tuple[str, Any], ...] = ()


def _ours(name: str, title: str, case: str, *, group: str = "freeze", **site: Any) -> Line:
    goal = 10 if "timers" in site else GOAL
    site |= {"own_cells": True} if group == "death" and case != "witness" else {}
    return Line(
        f"ours/{name}",
        f"pairguard: {title}",
        group,
        case,
        dies=group == "death",
        goal=goal,
        site=tuple(sorted(site.items())),
    )


OURS = (
    _ours("stp", "spanning tree 12 s; witness out-of-band", "stp"),
    _ours("stp-in", "spanning tree 12 s; witness in-band", "stp", arbiter="in-band"),
    _ours("stp-ungated", "spanning tree 12 s; DRBD's gate off", "stp", gate=False),
    _ours("blackhole", "black hole 12 s; witness in-band", "blackhole"),
    _ours("blackhole-out", "black hole 12 s; witness out-of-band", "blackhole-oob"),
    _ours("blackhole-90", "black hole 90 s at token 3 s", "blackhole-90", timers=Timers(token_ms=3000)),
    _ours("late", "12 s of frames queued and delivered late", "late"),
    _ours("mlag", "MLAG agent dies, 5 s later all LAGs re-form", "mlag"),
    _ours("flap", "the uplinks of one switch flap for 12 s", "flap"),
    _ours("announced", "`pairguard hold` before; a release mid-freeze is refused", "hold"),
    _ours("queued", "the hold comes after shots were queued", "queued"),
    _ours("primary", "the primary's kernel dies", "primaries-die", group="death"),
    _ours("secondary", "the secondary's kernel dies", "secondaries-die", group="death"),
    _ours("hung", "the primary's kernel hangs, its ports stay up", "primaries-hang", group="death"),
    _ours("cut-off", "one node's links only", "primaries-cut-off", group="death"),
    _ours("stop-failure", "a stop fails on the primary: it yields", "stops-fail", group="death"),
    _ours("witness", "the witness is down, then the primary dies", "witness", group="death"),
)
KINDS: tuple[tuple[Kind, str], ...] = (
    ("stp", "spanning tree 12 s"),
    ("blackhole", "black hole 12 s"),
    ("late", "queued and delivered late"),
    ("death", "the primary's kernel dies"),
)
THEIRS = tuple(
    Line(
        f"{rival.name}/{kind}",
        f"{rival.title}: {title}",
        "death" if kind == "death" else "freeze",
        rival=rival,
        kind=kind,
        dies=kind == "death",
        pairs=RIVAL_PAIRS,
    )
    for kind, title in KINDS
    for rival in RIVALS
)
LINES = (*OURS, *THEIRS)


# ------------------------------------------------------------------ playing


def play_ours(line: Line, out: Path, runs: int) -> Iterator[dict[str, Any]]:
    """A case again and again on one guarded site, each time from calm: one entry a run."""
    case = next(each for each in (*cases.CASES, *MORE) if each.name == line.case)
    changes = dict(line.site)
    arbiter = changes.pop("arbiter", case.arbiter)
    with form(arbiter, out, pairs=line.pairs, **changes) as ground:
        for _ in range(runs):
            begun_s = boottime()
            told = cases.run_case(ground, case)
            rows = [asdict(row) for row in told.rows if case.pairs is None or row.pair in case.pairs]
            broken = told.broken
            yield {"rows": rows, "broken": broken, "seconds": round(boottime() - begun_s, 1)}
            if broken:
                return  # a site that broke a promise is not a calm one


def play_theirs(line: Line, out: Path, pairs: int) -> dict[str, Any]:
    """Ordinary pairs, formed for this run alone."""
    assert line.rival is not None
    plan = Plan(pairs=pairs, rival=line.rival, form_s_max=240.0, watch_s=AFTER_S[line.kind], restore=True)
    record, begun_s = Record(f"{line.title}, {pairs} pairs", plan.as_dict()), boottime()
    with Site(plan, record) as site:
        try:
            site.build()
            site.start()
            site.wait_formed()
            record.mark("formed")
            primaries = {pair: story.primary_of(site, pair) for pair in plan.pair_names()}
            if line.rival.maintained:
                maintain(site, on=True)
            story.play(
                site, frozen(site, line, primaries), None, restore=True, settle_s=plan.settle_s, watch_s=plan.watch_s
            )
            if line.rival.maintained and not line.dies:
                joined_again(site)
                maintain(site, on=False)
                time.sleep(AFTER_S["stp"])
                record.mark("watched")
            story.gather(site, record)
            rows = [asdict(row) for row in story.rows(site, primaries)]
            record.rows = rows
        finally:
            site.keep_logs(out)
    story.save(record, out)
    return {"rows": rows, "broken": [], "seconds": round(boottime() - begun_s, 1)}


def frozen(site: Site, line: Line, primaries: dict[str, str]) -> Freeze:
    match line.kind:
        case "stp":
            return StpFreeze(site.fabric, FREEZE_S)
        case "blackhole":
            return BlackHole(site.fabric, FREEZE_S)
        case "late":
            return Late(site.fabric, FREEZE_S)
        case "death":
            return Crash(lambda: [site.nodes[name] for name in primaries.values()], 1.0, kernel=True)


def maintain(site: Site, *, on: bool) -> None:
    """What a person types on one node of each pair that is up."""
    for pair in site.plan.pair_names():
        up = [site.nodes[name] for name in nodes_of(pair) if site.nodes[name].powered]
        words = ["crm_attribute", "--name", "maintenance-mode", "--update", "true" if on else "false"]
        done = up[0].run_in(words) if up else None
        if done is None or done.returncode != 0:
            raise LabFailed(f"{pair}: cannot set maintenance-mode: {done.stderr if done else 'both nodes are off'}")


def joined_again(site: Site) -> None:
    """The person waits until each cluster shows both nodes online."""
    until = boottime() + WHOLE_S_MAX
    for pair in site.plan.pair_names():
        while (view := site.view(nodes_of(pair)[0])) is None or len(view.online) < 2:
            if boottime() > until:
                raise LabFailed(f"{pair}: not whole {WHOLE_S_MAX:g} s after the thaw")
            time.sleep(0.5)


# ------------------------------------------------------------------ the record


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def lines(record: Path) -> list[dict[str, Any]]:
    """Every run; a last line that a crash cut short is left out."""
    found = []
    for text in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def played(done: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The pairs of one row that count."""
    return [row for run in done if run["row"] == name and not run.get("failed") for row in run["rows"]]


def keep(record: Path, line: Line, run: dict[str, Any]) -> dict[str, Any]:
    entry = {
        "row": line.name,
        "commit": commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": round(os.getloadavg()[0], 1),
        **run,
    }
    torn = record.exists() and not record.read_bytes().endswith(b"\n")
    with record.open("a", encoding="utf-8") as out:
        out.write("\n" * torn + json.dumps(entry, separators=(",", ":")) + "\n")
    return entry


# ------------------------------------------------------------------ the table


def summed(line: Line, done: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """One row of the table; None: nothing was played. Seconds; medians over the pairs."""
    rows = played(done, line.name)
    if not rows:
        return None
    shot = [sum(len(row["shot"]) == n for row in rows) for n in range(3)]
    promoted = [row["promoted_after_s"] for row in rows if row["promoted_after_s"] is not None]
    stalls = [row["write_stall_s"] for row in rows if row["write_stall_s"] is not None]
    stopped = [row["service_stopped_s"] for row in rows]
    lost = [row["lost_writes"] for row in rows if row["lost_writes"] is not None]
    return {
        "row": line.name,
        "title": line.title,
        "group": line.group,
        "pairs": len(rows),
        "shot": shot,
        "both_shot_share": [round(x, 3) for x in (shot[2] / len(rows), *wilson(shot[2], len(rows)))],
        "primary_shot": sum(row["primary_shot"] for row in rows),
        "wrong_node": 0 if line.dies else sum(row["wrong_node"] for row in rows),
        "service_stopped_s": [_median(stopped), max(stopped)],
        "write_stall_s": [_median(stalls), max(stalls, default=None)],
        "lost_writes": sum(lost),
        "split_brain": sum(row["split_brain"] is True for row in rows),
        "promoted": len(promoted),
        "promoted_after_s": _median(promoted),
        "up_at_the_end": sum(row["service_up"] for row in rows),
        "broken": sorted({text[:200] for run in done if run["row"] == line.name for text in run.get("broken", ())}),
    }


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def markdown(sums: Sequence[dict[str, Any]]) -> str:
    """Two tables: freezes, in which the best is that nothing happens, and real deaths."""
    text = []
    for group, head in (
        ("freeze", "a freeze: nobody should be shot"),
        ("death", "a death: the dead node, and it alone"),
    ):
        text += [
            f"| {head} | pairs | shot 0 / 1 / 2 | primary shot | wrong node | service stopped | write stall | lost "
        ]
        text[-1] += "writes | split brain | promoted after | up |"
        text += ["|" + "---|" * 11]
        for each in sums:
            if each["group"] != group:
                continue
            stopped, stall = (_span(each[key]) for key in ("service_stopped_s", "write_stall_s"))
            after = (
                "-" if each["promoted_after_s"] is None else f"{each['promoted_after_s']:.1f} s ({each['promoted']})"
            )
            shot = " / ".join(map(str, each["shot"]))
            text.append(
                f"| {each['title']} | {each['pairs']} | {shot} | {each['primary_shot']} | "
                f"{each['wrong_node']} | {stopped} | {stall} | {each['lost_writes']} | {each['split_brain']} | "
                f"{after} | {each['up_at_the_end']} |"
            )
        text.append("")
    return "\n".join(text)


def _span(found: Sequence[float | None]) -> str:
    """Median and worst."""
    middle, worst = found
    return "-" if middle is None or worst is None else f"{middle:.1f} ({worst:.1f}) s"


def report(record: Path, out: Path) -> list[dict[str, Any]]:
    """table.md, table.json and table.svg (and .png) of everything that was played."""
    done = lines(record)
    sums = [each for line in LINES if (each := summed(line, done)) is not None]
    out.mkdir(parents=True, exist_ok=True)
    commits = sorted({run["commit"] for run in done})
    body = {"schema": "pairguard.lab.table/1", "commits": commits, "rows": sums}
    (out / "table.json").write_text(json.dumps(body, indent=1) + "\n")
    (out / "table.md").write_text(markdown(sums) + "\n")
    chart.draw([(each["title"], each["shot"]) for each in sums if each["group"] == "freeze"], out)
    return sums


# ------------------------------------------------------------------ the command


def play(
    line: Line,
    record: Path,
    out: Path,
    until_s: float,
    theirs: Callable[[Line, Path, int], dict[str, Any]] = play_theirs,
) -> None:
    """Runs of one row until its goal is reached or the time is over. A run that fails is kept as failed."""
    failed = 0
    while (left := line.goal - len(played(lines(record), line.name))) > 0 and boottime() < until_s:
        place = out / line.name.replace("/", "-")
        try:
            if line.rival is not None:
                said(line, keep(record, line, theirs(line, place, min(line.pairs, left))))
                continue
            for run in play_ours(line, place, -(-left // line.pairs)):
                said(line, keep(record, line, run))
                if boottime() > until_s:
                    break
        except (LabFailed, subprocess.SubprocessError) as error:
            keep(record, line, {"rows": [], "failed": str(error)[:500]})
            print(f"{line.name}: failed: {str(error)[:300]}", file=sys.stderr, flush=True)
            failed += 1
            if failed == FAILED_MAX:
                return


def said(line: Line, run: dict[str, Any]) -> None:
    shot = [len(row["shot"]) for row in run["rows"]]
    broken = f"; BROKEN: {'; '.join(run['broken'])[:300]}" if run["broken"] else ""
    print(f"{line.name}: {len(shot)} pairs, nodes shot {shot}, {run['seconds']:.0f} s{broken}", flush=True)


def main(words: list[str] | None = None) -> int:
    """0: all that was asked for is played and no promise of ours broken; 1: not; 77: the lab cannot run here."""
    end_on_signals()
    parser = argparse.ArgumentParser(prog="python -m tests.lab.rows", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ROW", help="names, or their beginning: ours, stock/stp")
    parser.add_argument("--out", type=Path, default=Path("build/lab/rows"))
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after these")
    parser.add_argument("--report", action="store_true", help="play nothing")
    parser.add_argument("--list", action="store_true", help="the rows, and how many pairs of each are played")
    asked = parser.parse_args(words)
    wanted = [line for line in LINES if not asked.names or any(line.name.startswith(each) for each in asked.names)]
    if not wanted:
        parser.error(f"no such row: {', '.join(asked.names)}")
    done = lines(asked.record)
    if asked.list:
        for line in wanted:
            print(f"{len(played(done, line.name)):3}/{line.goal:<3} {line.name:26} {line.title}")
        return 0
    if not asked.report:
        why = missing()
        if why is not None:
            print(f"The lab cannot run here: {why}.")
            return 77
        until_s = boottime() + 60 * asked.minutes
        for line in wanted:
            play(line, asked.record, asked.out, until_s)
    sums = {each["row"]: each for each in report(asked.record, asked.out)}
    print((asked.out / "table.md").read_text())
    short = [line.name for line in wanted if sums.get(line.name, {}).get("pairs", 0) < line.goal]
    broken = [line.name for line in wanted if sums.get(line.name, {}).get("broken")]
    for head, names in (("not played to the end", short), ("a promise of ours was broken", broken)):
        if names:
            print(f"{head}: {', '.join(names)}")
    return 1 if short or broken else 0


if __name__ == "__main__":
    sys.exit(main())
