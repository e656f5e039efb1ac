"""The lab cases: what a guarded site must do when its network freezes, when nodes really die, and when both meet.

`python -m tests.lab.cases [NAME...]` (or `make lab`) plays them and ends with a table; tests/lab/test_cases.py plays
them as tests. Each leaves its record and picture in OUT/NAME.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import guarded, story
from tests.lab.demo import missing
from tests.lab.fabric import FORWARD_DELAY_S_MIN, access_of
from tests.lab.freeze import BlackHole, Flap, Freeze, Late, MlagFreeze, NodeLinks, StpFreeze
from tests.lab.ground import PACEMAKER_LOG, TESTIFIED_S, Ground, Story, form
from tests.lab.inside import asking, daemon_pids, delegates, kill_guard, tell
from tests.lab.node import Node
from tests.lab.plan import nodes_of
from tests.lab.space import LabFailed, boottime, end_on_signals

FREEZE_S = 12.0
PROMOTED_S_MAX = 120.0
PATIENCE_S = 60.0  # for what takes seconds on a quiet machine
BACK_S_MAX = 150.0
WHOLE_AGAIN_FREEZES = 5.0  # a quiet machine needs half of one, a very busy one two
MAX_AGE_S = 6.0  # the fabric's own (fabric.build), after a case that needed a longer one
SLOW_POWER_S = 6.0  # within the delegate's 20 s


@dataclass(frozen=True, slots=True)
class Case:
    """`play` keeps or breaks promises. `arbiter`: the site it needs. `quick`: part of `make test`.

    `pairs` (None: all) are whole and calm before it, unless `as_left`: then it goes on from an earlier case.
    """

    name: str
    title: str
    arbiter: str
    quick: bool
    pairs: tuple[str, ...] | None
    play: Callable[[Ground, Story], None]
    as_left: bool = False


def run_case(ground: Ground, case: Case) -> Story:
    """Play one case from calm to its end; what it found."""
    if not case.as_left:
        ground.ready(case.pairs)
    with ground.playing(case.name, case.title, case.pairs) as told:
        case.play(ground, told)
    return told


# ------------------------------------------------------------------ freezes: nobody is shot, nothing stops


def stp(ground: Ground, told: Story) -> None:
    frozen(ground, told, StpFreeze(ground.site.fabric, FREEZE_S))


def black_hole(ground: Ground, told: Story) -> None:
    frozen(ground, told, BlackHole(ground.site.fabric, FREEZE_S))


def late(ground: Ground, told: Story) -> None:
    frozen(ground, told, Late(ground.site.fabric, FREEZE_S))
    ground.site.fabric.set_timers(FORWARD_DELAY_S_MIN, max_age_s=MAX_AGE_S)


def mlag(ground: Ground, told: Story) -> None:
    frozen(ground, told, MlagFreeze(ground.site.fabric, ground.site.switches, ground.site.record, FREEZE_S - 4.0))


def flap(ground: Ground, told: Story) -> None:
    frozen(ground, told, Flap(ground.site.fabric, FREEZE_S))


def links_heard(ground: Ground, told: Story) -> None:
    """The arbiter hears the node over the out-of-band net: that is no death (`peer-alive`)."""
    primary = story.primary_of(ground.site, "fs1")
    peer = ground.site.nodes[primary].peer
    kinds: set[str] = set()

    def look() -> None:
        until = boottime() + FREEZE_S - 2
        while boottime() < until:
            kinds.update(inhibit_kinds(ground.state(peer)))
            time.sleep(0.5)

    frozen(
        ground,
        told,
        NodeLinks(ground.site.fabric, [(access_of(primary), primary)], FREEZE_S),
        pairs=("fs1",),
        also=look,
    )
    told.promise("the arbiter names what contradicts a death (peer-alive)", "peer-alive" in kinds, sorted(kinds))


def frozen(
    ground: Ground,
    told: Story,
    freeze: Freeze,
    *,
    pairs: Sequence[str] | None = None,
    also: Callable[[], None] | None = None,
) -> None:
    """A freeze of which nobody was told: pairs are cut, nobody is shot, nothing stops, all are whole again."""
    primaries = ground.freeze(freeze, during=also)
    cut(ground, told, pairs or ground.pairs)
    survived(ground, told, {pair: primaries[pair] for pair in pairs or ground.pairs})


def cut(ground: Ground, told: Story, pairs: Sequence[str]) -> None:
    """The freeze really was one. A freeze that cut nobody is the lab's own failure: the case ends there."""
    found = {pair: ground.cut(pair) for pair in pairs}
    if not any(nodes for kinds in found.values() for nodes in kinds.values()):
        raise LabFailed(f"the freeze cut nobody: replication and corosync of {', '.join(pairs)} stood through it")
    for pair, kinds in found.items():
        for kind, nodes in kinds.items():
            told.promise(f"{pair}: the freeze cut {kind} at both nodes", len(nodes) == 2, f"at {nodes or 'neither'}")


def survived(ground: Ground, told: Story, primaries: Mapping[str, str]) -> None:
    """Nobody is shot, each pair is whole again soon after the thaw, and each served through the freeze."""
    begun_s = ground.site.record.marks["freeze"]
    whole_again(ground, told, list(primaries))
    ground.calm()
    for pair, primary in primaries.items():
        served(ground, told, pair, primary, begun_s)
    told.promise("nobody was shot", ground.shot_nodes(begun_s) == [], ground.shot_nodes(begun_s))


def whole_again(ground: Ground, told: Story, pairs: Sequence[str]) -> None:
    """Replication, membership and disks are back within `WHOLE_AGAIN_FREEZES` times what the freeze lasted."""
    marks = ground.site.record.marks
    until = marks["thaw"] + WHOLE_AGAIN_FREEZES * (marks["thaw"] - marks["freeze"])
    waiting = [name for pair in pairs for name in nodes_of(pair)]
    while waiting:
        waiting = [name for name in waiting if ground.state(name).get("whole") is not True]
        if boottime() > until:
            break
    seen = {name: ground.replica_text(name) for name in waiting}
    told.promise(f"whole again within {WHOLE_AGAIN_FREEZES:g} times the freeze", not waiting, seen)


def served(ground: Ground, told: Story, pair: str, primary: str, begun_s: float) -> None:
    """The service of one pair never stopped, and its data are all there."""
    row = ground.row(pair, primary, begun_s)
    told.promise(f"{pair}: the service never stopped", row.service_stopped_s == 0, f"{row.service_stopped_s} s")
    told.promise(f"{pair}: never both", row.both_s == 0, f"{row.both_s} s")
    told.promise(
        f"{pair}: {primary} still serves", ground.site.service_on(primary), story.primary_of(ground.site, pair)
    )
    clean(told, pair, row)


def clean(told: Story, pair: str, row: story.Row) -> None:
    told.promise(f"{pair}: no acknowledged write was lost", row.lost_writes == 0, row.lost_writes)
    told.promise(f"{pair}: no split brain", row.split_brain is False, row.split_brain)


# ------------------------------------------------------------------ announced


def held(ground: Ground, told: Story) -> None:
    """`pairguard hold` before the work, a release while it is frozen is refused, one after it is taken."""
    first = {pair: nodes_of(pair)[0] for pair in ground.pairs}

    def everywhere(*words: str) -> dict[str, tuple[int, str]]:
        with ThreadPoolExecutor(max_workers=4) as pool:
            asked = {pair: pool.submit(ground.ask, name, *words) for pair, name in first.items()}
            return {pair: each.result() for pair, each in asked.items()}

    for pair, (code, said) in everywhere("hold", "--for", "10m", "--reason", "the lab's work").items():
        told.promise(f"{pair}: hold is held and read back (0)", code == 0, f"{code}: {said}")
    refused: dict[str, tuple[int, str]] = {}

    def look() -> None:
        time.sleep(5.0)
        refused.update(everywhere("release", "--wait", "1s"))

    primaries = ground.freeze(StpFreeze(ground.site.fabric, FREEZE_S), during=look)
    cut(ground, told, ground.pairs)
    for pair, (code, said) in refused.items():
        told.promise(f"{pair}: a release mid-freeze is refused (86)", code == 86, f"{code}: {said}")
    states = {name: (ground.state(name).get("hold") or {}).get("state") for name in first.values()}
    told.promise("held until released", all(s not in ("none", None) for s in states.values()), states)
    until = boottime() + PATIENCE_S
    released = everywhere("release")
    while any(code != 0 for code, _ in released.values()) and boottime() < until:
        time.sleep(1.0)
        released = everywhere("release")
    for pair, (code, said) in released.items():
        told.promise(f"{pair}: released once it was quiet (0)", code == 0, f"{code}: {said}")
    survived(ground, told, primaries)


# ------------------------------------------------------------------ deaths: fenced once, the peer serves


def links_cut(ground: Ground, told: Story) -> None:
    """All links of one primary fall, at the node's own ports only: to everybody that is a dead node."""
    succeeded(ground, told, "fs1", ground.cut_off)


def hung(ground: Ground, told: Story) -> None:
    """The kernel of a primary hangs: it says nothing, its switch ports are up."""
    succeeded(ground, told, "fs2", lambda node: node.panic(ports_stay_up=True))


def succeeded(ground: Ground, told: Story, pair: str, kill: Callable[[Node], None]) -> None:
    """A primary is dead or cut off: fenced once, confirmed off, and the peer serves with every acknowledged write."""
    dead, other, at_s = ground.dies(pair, kill)
    ground.fenced[pair] = dead
    took = ground.within(PROMOTED_S_MAX, lambda: ground.promoted(other, at_s))
    told.promise(f"{other} serves", took is not None, ground.state(other))
    told.title += f": {other} {story.promoted_words(took)}"
    fenced(ground, told, dead, other, at_s)


def fenced(ground: Ground, told: Story, dead: str, other: str, at_s: float) -> None:
    """What must hold once a survivor serves."""
    pair = ground.site.nodes[dead].pair
    by = [event.detail for event in ground.shots(dead, at_s)]
    told.promise(f"{dead} was shot exactly once, by {other}", by == [other], by)
    told.promise(f"{dead} is off", not ground.site.nodes[dead].supplied)
    told.promise("nobody else was shot", ground.shot_nodes(at_s) == [dead], ground.shot_nodes(at_s))
    told.promise(
        f"{other} read it off twice before it was promoted",
        bool(ground.said(ground.site.nodes[other], "confirmed-off", at_s)),
    )
    row = ground.row(pair, dead, at_s)
    told.promise(f"{pair}: never both", row.both_s == 0, f"{row.both_s} s")
    clean(told, pair, row)


def boots_again(ground: Ground, told: Story) -> None:
    """A fenced node boots, cut off from its peer at first: it is barred, its agent shoots nobody; then it resyncs."""
    pair = "fs2"
    if pair not in ground.fenced:
        ground.ready((pair,))
        succeeded(ground, told, pair, lambda node: node.panic())
    name = ground.fenced.pop(pair)
    node, other = ground.site.nodes[name], ground.site.nodes[name].peer
    era = (ground.state(other).get("register") or {}).get("era")
    at_s = boottime()
    port = [(access_of(name), name)]
    node.power_on()
    ground.site.fabric.links(port, up=False)
    told.promise("its guard is up", bool(ground.within(PATIENCE_S, lambda: ground.state(name))))
    with ThreadPoolExecutor(max_workers=1) as pool:
        agent = pool.submit(node.run_in, ["fence_pairguard", "-o", "off", "-n", other, "--wait-s", "40"], deadline_s=60)
        time.sleep(5.0)
        seen = ground.state(name)
        told.promise("it is barred", seen.get("barred") is True, seen)
        told.promise("it has no right", seen.get("right") is None, seen.get("right"))
        told.promise("it serves nothing", not ground.site.service_on(name))
        ground.site.fabric.links(port, up=True)
        try:
            ground.calm((pair,), BACK_S_MAX)
        finally:
            done = agent.result()
    told.promise("its own fence agent failed (1)", done.returncode == 1, f"{done.returncode}: {done.stderr}")
    told.promise(f"nothing was sent against {other}", not ground.shots(other, at_s), ground.shots(other, at_s))
    after = (ground.state(other).get("register") or {}).get("era")
    told.promise("a new era began", isinstance(era, int) and after == era + 1, f"{era} -> {after}")
    unasked = [n for n in (name, other) if "Failed to get metadata" in ground.site.nodes[n].read(PACEMAKER_LOG)]
    told.promise("Pacemaker's controllers could ask the agent", not unasked, unasked)
    row = ground.row(pair, other, at_s)
    told.promise(f"{other} served throughout", row.service_stopped_s == 0, f"{row.service_stopped_s} s")
    clean(told, pair, row)


def no_witness(ground: Ground, told: Story) -> None:
    """Without the witness a dead primary is not fenced and nobody is promoted; a person is told; with it, both come."""
    site, pair = ground.site, "fs3"
    time.sleep(TESTIFIED_S)
    site.stop_in_arbiter("witness")
    other = site.nodes[story.primary_of(site, pair)].peer
    gone = ground.within(PATIENCE_S, lambda: ground.state(other).get("arbiter") == "silent")
    told.promise("the guard notices that the arbiter is silent", bool(gone))
    dead, other, at_s = ground.dies(pair, lambda node: node.panic())
    ground.fenced[pair] = dead
    asked = ground.within(PATIENCE_S, lambda: ground.said(site.nodes[other], "agent-asks", at_s))
    told.promise("the cluster asked to fence", bool(asked))
    paged = ground.within(PATIENCE_S, lambda: "arbiter-silent" in ground.state(other).get("pages", ()))
    told.promise("a person is told", bool(paged), ground.state(other))
    seen = ground.state(other)
    told.promise("nobody was shot", ground.shot_nodes(at_s) == [], ground.shot_nodes(at_s))
    told.promise("nobody was promoted", ground.promoted(other, at_s) is None)
    told.promise(
        "and shown what waits for it", any(w["who"] == "fence_pairguard" for w in seen.get("waiting", ())), seen
    )
    code, said = ground.ask(other, "status")
    told.promise("`pairguard status` says so", code == 0 and "arbiter" in said, f"{code}: {said}")
    guarded.start_witness(site)
    took = ground.within(PROMOTED_S_MAX, lambda: ground.promoted(other, at_s))
    told.promise(f"with the witness back {other} serves", took is not None, ground.state(other))
    fenced(ground, told, dead, other, at_s)
    ended = ground.within(PATIENCE_S, lambda: "arbiter-silent" not in ground.state(other).get("pages", ()))
    told.promise("the page has ended", bool(ended))


# ------------------------------------------------------------------ shots on their way


def queued(ground: Ground, told: Story) -> None:
    """The guards are halted while Pacemaker orders shots; the property comes after that. No shot at the thaw."""
    daemons = [pid for node in ground.site.nodes.values() for pid in daemon_pids(node)]

    def send(number: int) -> None:
        for pid in daemons:
            tell(pid, number)

    def look() -> None:
        send(signal.SIGSTOP)
        try:
            ground.within(FREEZE_S - 5, lambda: len(asking(ground)) >= 2)
        finally:
            send(signal.SIGCONT)

    primaries = ground.freeze(BlackHole(ground.site.fabric, FREEZE_S), during=look)
    begun_s = ground.site.record.marks["freeze"]
    cut(ground, told, ground.pairs)
    survived(ground, told, primaries)
    late_ones = []
    for node in ground.site.nodes.values():
        asks = ground.said(node, "agent-asks", begun_s)
        sets = ground.said(node, "property-set", begun_s)
        if asks and (not sets or asks[0].at_s < sets[0].at_s):
            late_ones.append(node.name)
    told.promise("the order to fence came before the property", bool(late_ones))


def killed(ground: Ground, told: Story) -> None:
    """SIGKILL of the guard while its delegate works: the shot ends with it, its drain is honoured, none follows."""
    site, pair = ground.site, "fs1"
    before_s = site.controllers.latency_s
    site.controllers.latency_s = SLOW_POWER_S
    try:
        dead, other, at_s = ground.dies(pair, lambda node: node.panic())
        ground.fenced[pair] = dead
        told.promise("the shot was accepted", bool(ground.within(PATIENCE_S, lambda: ground.shots(dead, at_s))))
        survivor = site.nodes[other]
        told.promise("its delegate works", bool(delegates(ground, other)))
        kill_guard(survivor)
        ended = ground.within(5.0, lambda: not delegates(ground, other))
        told.promise("its delegate ended with it", bool(ended), delegates(ground, other))
        ground.within(SLOW_POWER_S * 3, lambda: not site.nodes[dead].supplied)
    finally:
        site.controllers.latency_s = before_s
    told.promise(f"{dead} is off", not site.nodes[dead].supplied)
    guarded.start_guard(survivor)
    seen = ground.within(PATIENCE_S, lambda: ground.state(other).get("shots"))
    told.promise("the restarted guard knows of a shot that is not drained", bool(seen), ground.state(other))
    drained_s = boottime() + max((shot.get("drains_in_s") or 0.0 for shot in seen or ()), default=0.0)
    took = ground.within(PROMOTED_S_MAX, lambda: ground.promoted(other, at_s))
    told.promise(f"{other} serves", took is not None, ground.state(other))
    fenced(ground, told, dead, other, at_s)
    ground.ready((pair,))
    closed = ground.said(survivor, "era-closed", at_s)
    told.promise(
        "the era was closed only after the drain",
        bool(closed) and closed[0].at_s >= drained_s - 1.0,
        f"drained at {drained_s:.1f}, closed at {[round(e.at_s, 1) for e in closed]}",
    )
    told.promise("still nobody else was shot", ground.shot_nodes(at_s) == [dead], ground.shot_nodes(at_s))


def inhibit_kinds(seen: dict[str, Any]) -> set[str]:
    return {str(each.get("kind")) for each in (seen.get("hold") or {}).get("inhibits", ())}


# ------------------------------------------------------------------ the list, and playing it by hand

OUT, IN = "out-of-band", "in-band"
CASES = (
    Case("stp", "spanning tree freezes all, unannounced", OUT, True, None, stp),
    Case("blackhole-oob", "a black hole; the arbiter is out-of-band", OUT, True, None, black_hole),
    Case("hold", "announced by `pairguard hold`", OUT, True, None, held),
    Case("links-cut", "one node's links only", OUT, True, ("fs1",), links_cut),
    Case("hung", "a kernel hangs with its ports up", OUT, True, ("fs2",), hung),
    Case("boots", "the fenced node boots and cannot shoot back", OUT, True, ("fs2",), boots_again, as_left=True),
    Case("witness", "the witness is down, then a death", OUT, True, ("fs3",), no_witness),
    Case("links-heard", "one node's in-band links; the arbiter still hears it", OUT, False, None, links_heard),
    Case("blackhole", "a black hole; the arbiter is behind it", IN, False, None, black_hole),
    Case("mlag", "an MLAG peer is lost, then everything re-forms", IN, False, None, mlag),
    Case("flap", "the uplinks of one switch flap", IN, False, None, flap),
    Case("queued", "the property is set after shots were queued", IN, False, None, queued),
    Case("links-in-band", "one node's links only; the arbiter is in-band", IN, False, ("fs1",), links_cut),
    Case("killed", "the guard is killed mid-shot", IN, False, ("fs1",), killed),
    Case("late", "frames are held and delivered late", IN, False, None, late),
)


def main(words: list[str] | None = None) -> int:
    """0 if every promise was kept; 1 if one was broken or the lab failed; 77 where the lab cannot run."""
    end_on_signals()
    parser = argparse.ArgumentParser(prog="tests.lab.cases", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(case.name for case in CASES))
    parser.add_argument("--out", type=Path, default=Path("build/lab"))
    asked = parser.parse_args(words)
    unknown = set(asked.names) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    why = missing()
    if why is not None:
        print(f"The lab cannot run here: {why}.")
        return 77
    begun_s = boottime()
    stories: list[Story] = []
    for arbiter in (OUT, IN):
        wanted = [c for c in CASES if c.arbiter == arbiter and (not asked.names or c.name in asked.names)]
        if wanted:
            stories += played(arbiter, wanted, asked.out)
    print(table(stories))
    print(f"{boottime() - begun_s:.0f} s; records and pictures: {asked.out}/NAME/record.json, timeline.svg")
    return 0 if stories and not any(told.broken for told in stories) else 1


def played(arbiter: str, cases: Sequence[Case], out: Path) -> list[Story]:
    """All cases of one site. A site that does not come to calm any more is formed anew for the next case."""
    stories: list[Story] = []
    left = list(cases)
    while left:
        try:
            with form(arbiter, out) as ground:
                while left:
                    case = left.pop(0)
                    try:
                        run_case(ground, case)
                    finally:
                        if not ground.stories or ground.stories[-1].name != case.name:
                            ground.stories.append(Story(case.name, case.title, boottime(), failed="no calm before it"))
                        stories.append(ground.stories[-1])
        except LabFailed as error:
            print(f"{arbiter}: {error}"[:2000], file=sys.stderr)
            if not stories:  # it never formed
                stories.append(Story("form", f"a site with its arbiter {arbiter}", boottime(), failed=str(error)[:300]))
                return stories
    return stories


def table(stories: Sequence[Story]) -> str:
    """One line a case, and one more for each broken promise; 80 columns where titles allow."""
    lines = [f"\n{'case':15}{'kept':>7}{'s':>5}  what"]
    for told in stories:
        kept = sum(1 for _, ok, _ in told.promises if ok)
        lines.append(f"{told.name:15}{kept:>4}/{len(told.promises):<2}{told.took_s:>5.0f}  {told.title}")
        lines += [f"{'':15}  BROKEN {text[:400]}" for text in told.broken]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
