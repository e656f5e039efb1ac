"""`make demo`: the 2012 freeze and real deaths on real parts, stock pairs beside guarded ones, in under six minutes.

Without root, namespaces or a program that it needs it says so in a sentence and runs the embedded default.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import guarded, story
from tests.lab.pairs import Site
from tests.lab.plan import Plan, nodes_of
from tests.lab.record import Record
from tests.lab.space import LabFailed, boottime, unusable

NEEDED = ("corosync", "pacemakerd", "crm_mon", "cibadmin", "crm_simulate", "mosquitto", "snmpd", "ip", "tc", "socat")
FREEZE_S = 12.0
LATENCY_S = 1.0
PROMOTED_S_MAX = 90.0
CALM_S_MAX = 180.0


@dataclass(frozen=True, slots=True)
class Death:
    """One primary whose kernel died while its power stayed on. None: it did not happen in time."""

    pair: str
    dead: str
    fenced: int
    confirmed: bool
    promoted_after_s: float | None


def main(words: list[str] | None = None) -> int:
    """0 when the guard did its job on this tier; 1 when it did not; the child's code when the sandbox ran."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--json", type=Path, default=Path("build/demo.json"))
    asked = parser.parse_args(words)
    why = missing()
    if why is not None:
        print(f"The lab cannot run here: {why}. Running the embedded default, `pairguard sandbox demo`, instead.")
        return embedded(asked.json)
    begun = boottime()
    try:
        stock, stock_deaths = steadily(asked.pairs, guard=False, out=asked.out / "stock")
        ours, deaths = steadily(asked.pairs, guard=True, out=asked.out / "guarded")
    except LabFailed as error:
        print(f"The lab did not work here: {error}\nRunning the embedded default, `pairguard sandbox demo`, instead.")
        return embedded(asked.json)
    result = summary(stock, stock_deaths, ours, deaths)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(result, indent=1) + "\n")
    show(result, stock, ours, deaths, asked, boottime() - begun)
    return 0 if good(result) else 1


def missing() -> str | None:
    """What keeps the lab from running here, or None."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} could not be installed"
    return unusable()


def embedded(out: Path) -> int:
    """The same story with simulated cluster, disks and switches, on loopback."""
    program = Path(sys.executable).parent / "pairguard"
    return subprocess.run([program, "sandbox", "demo", "--json-out", str(out)], check=False).returncode


def steadily(pairs: int, *, guard: bool, out: Path) -> tuple[Record, list[Death]]:
    """One tier; a site that does not come up on a busy machine is built once more. `LabFailed`: not then either."""
    try:
        return run(pairs, guard=guard, out=out)
    except LabFailed as error:
        print(f"The site did not come up ({str(error)[:300]}); building it once more.", flush=True)
        return run(pairs, guard=guard, out=out)


def run(pairs: int, *, guard: bool, out: Path) -> tuple[Record, list[Death]]:
    """One site: stock pairs die one at a time, are repaired, and freeze; guarded ones freeze first, then die."""
    plan = Plan(
        pairs=pairs,
        freeze="stp",
        seconds=FREEZE_S,
        guarded=guard,
        restore=True,
        latency_s=LATENCY_S,
        watch_s=16.0,
        form_s_max=180.0,
    )
    record = Record(story.title(plan), plan.as_dict())
    say = Saying("guarded" if guard else "stock")
    with Site(plan, record) as site:
        try:
            say(f"building 5 switches with real spanning tree, {2 * pairs} nodes, power controllers")
            site.build()
            site.start()
            say("waiting until every pair serves (real corosync and Pacemaker)")
            site.wait_formed()
            record.mark("formed")
            if guard:
                for pair in plan.pair_names():
                    guarded.initialise(site, pair)
                calm(site, say)
                frozen(site, record, say)
                calm(site, say)
                record.mark("watched")  # the picture shows the release too; the rows are made already
                found = [dies(site, pair, say) for pair in plan.pair_names()]
            else:
                found = [dies(site, pair, say) for pair in plan.pair_names()]
                say("switching the dead nodes on again")
                site.each(lambda node: node.power_on())
                site.wait_formed()
                frozen(site, record, say)
            story.gather(site, record)
            record.events = list(dict.fromkeys(record.events))
            record.mark("end")
        finally:
            site.keep_logs(out)
    story.save(record, out)
    return record, found


class Saying:
    """Progress for people, with seconds since the start of the tier."""

    def __init__(self, who: str) -> None:
        self._who, self._begun = who, boottime()

    def __call__(self, text: str) -> None:
        print(f"[{self._who:7} {boottime() - self._begun:6.1f} s] {text}", flush=True)


def frozen(site: Site, record: Record, say: Saying) -> None:
    """Freeze all pairs at once, unannounced; commands that could not be delivered land at the thaw."""
    primaries = {pair: story.primary_of(site, pair) for pair in site.plan.pair_names()}
    say(f"FREEZE: the root switch loses its links; spanning tree re-elects for {FREEZE_S:.0f} s; nobody was told")
    story.freeze_and_watch(site, primaries, None)
    story.gather(site, record)
    record.rows = [asdict(row) for row in story.rows(site, primaries)]
    shot = sum(len(r["shot"]) for r in record.rows if isinstance(r["shot"], tuple))
    say(f"thawed; {shot} of {2 * len(primaries)} nodes were shot")


def calm(site: Site, say: Saying) -> None:
    """Wait until every guard says: whole, attested, not held, register without a winner."""
    say("waiting until every guard says whole, attested, nothing held, era closed")
    until = boottime() + CALM_S_MAX
    waiting = [node for pair in site.plan.pair_names() for node in nodes_of(pair)]
    seen: dict[str, object] = {}
    while waiting:
        for name in tuple(waiting):
            seen = guarded.state(site, name)
            register = seen.get("register")
            hold = seen.get("hold")
            ready = (
                seen.get("whole") is True
                and seen.get("attested") is True
                and isinstance(register, dict)
                and register.get("winner") is None
                and isinstance(hold, dict)
                and hold.get("state") == "none"
            )
            if ready:
                waiting.remove(name)
        if waiting and boottime() > until:
            raise LabFailed(f"{', '.join(waiting)} not calm after {CALM_S_MAX:.0f} s: {json.dumps(seen)[:1500]}")
        time.sleep(0.5)


def dies(site: Site, pair: str, say: Saying) -> Death:
    """The primary's kernel dies; its power stays on, so a fence command must switch it off."""
    dead = story.primary_of(site, pair)
    other = next(name for name in nodes_of(pair) if name != dead)
    at_s = boottime()
    before = len(site.record.of("off-accepted", dead))
    site.nodes[dead].panic()
    found = within(PROMOTED_S_MAX, lambda: promoted(site, other, at_s))
    within(10.0, lambda: 0.0 if site.service_on(other) else None)
    fenced = len(site.record.of("off-accepted", dead)) - before
    off = not site.nodes[dead].supplied
    took = None if found is None else round(found - at_s, 2)
    say(f"DEATH of {dead}: fenced {fenced}x, {'off' if off else 'still on'}, {other} {story.promoted_words(took)}")
    return Death(pair, dead, fenced, off, took)


def promoted(site: Site, name: str, since_s: float) -> float | None:
    """When the node was promoted after `since_s`, by its own agent's log."""
    moments = [e.at_s for e in site.replication.events(site.nodes[name]) if e.detail == "promoted"]
    return next((at for at in sorted(moments) if at >= since_s), None)


def within(seconds: float, look: Callable[[], float | None]) -> float | None:
    """What `look` finds, tried for `seconds`."""
    until = boottime() + seconds
    while (found := look()) is None and boottime() < until:
        time.sleep(0.1)
    return found


# ------------------------------------------------------------------ the result


def summary(stock: Record, stock_deaths: list[Death], ours: Record, deaths: list[Death]) -> dict[str, object]:
    """`pairguard.demo/1`, from what the runs recorded."""
    return {
        "schema": "pairguard.demo/1",
        "tier": "lab",
        "stock": frozen_summary(stock),
        "guarded": frozen_summary(ours),
        "death": {
            "pairs": len(deaths),
            "fenced": sum(1 for d in deaths if d.fenced == 1 and d.confirmed),
            "promoted": sum(1 for d in deaths if d.promoted_after_s is not None),
            "promotion_s_median": middle(deaths),
            "stock_promotion_s_median": middle(stock_deaths),
        },
    }


def frozen_summary(record: Record) -> dict[str, object]:
    shots = [len(row["shot"]) for row in record.rows if isinstance(row["shot"], tuple | list)]
    stalls = [row["write_stall_s"] for row in record.rows if isinstance(row["write_stall_s"], float | int)]
    stopped = [row["service_stopped_s"] for row in record.rows if isinstance(row["service_stopped_s"], float | int)]
    return {
        "pairs": len(record.rows),
        "both_shot": shots.count(2),
        "one_shot": shots.count(1),
        "none_shot": shots.count(0),
        "service_stopped_s": max(stopped, default=None),
        "write_stall_s": max(stalls, default=None),
    }


def middle(deaths: list[Death]) -> float | None:
    known = [d.promoted_after_s for d in deaths if d.promoted_after_s is not None]
    return round(statistics.median(known), 2) if known else None


def seconds(value: object) -> str:
    """For people: nobody promoted is no number of seconds."""
    return "never" if value is None else f"{value} s"


def good(result: dict[str, object]) -> bool:
    """Did the guard do its job, and did the stock pairs show what it is needed for?"""
    stock, ours, death = result["stock"], result["guarded"], result["death"]
    if not (isinstance(stock, dict) and isinstance(ours, dict) and isinstance(death, dict)):
        return False
    return (
        stock["both_shot"] >= 1
        and ours["none_shot"] == ours["pairs"]
        and ours["service_stopped_s"] == 0
        and death["fenced"] == death["promoted"] == death["pairs"]
    )


def show(
    result: dict[str, object],
    stock: Record,
    ours: Record,
    deaths: list[Death],
    asked: argparse.Namespace,
    took_s: float,
) -> None:
    """The table, for 80 columns."""
    print(f"\nOne unannounced freeze of {FREEZE_S:.0f} s; a power-off takes {LATENCY_S:.0f} s to bite.\n")
    head = ("", "pairs", "both shot", "one shot", "none shot", "stopped s", "write stall s")
    print(f"{head[0]:9}" + "".join(f"{h:>11}" for h in head[1:-1]) + f"{head[-1]:>15}")
    for name in ("stock", "guarded"):
        row = result[name]
        if isinstance(row, dict):
            keys = ("pairs", "both_shot", "one_shot", "none_shot", "service_stopped_s")
            print(f"{name:9}" + "".join(f"{row[k]!s:>11}" for k in keys) + f"{row['write_stall_s']!s:>15}")
    lost = [row.get("lost_writes") for row in (*stock.rows, *ours.rows)]
    print(f"\nacknowledged writes lost, pair by pair (stock, then guarded): {lost}")
    death = result["death"]
    if isinstance(death, dict):
        print(
            f"deaths of primaries, one pair at a time: {death['pairs']}; fenced once and confirmed {death['fenced']}; "
            f"promoted {death['promoted']};\n  median {seconds(death['promotion_s_median'])} guarded, "
            f"{seconds(death['stock_promotion_s_median'])} stock"
        )
    print("\nWhile frozen a guarded primary acknowledges nothing until it may go on alone: that is its write stall.")
    print(f"pictures: {asked.out}/stock/timeline.svg, {asked.out}/guarded/timeline.svg (and .png)")
    print(f"result: {asked.json}; took {took_s:.0f} s")
    print("GOOD" if good(result) else f"NOT GOOD: {[asdict(d) for d in deaths]}")


if __name__ == "__main__":
    sys.exit(main())
