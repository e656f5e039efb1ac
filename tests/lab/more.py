"""Cases that only the table plays (tests/lab/rows.py): all pairs of a site die at one moment, each in its own cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.lab import story
from tests.lab.cases import IN, OUT, PROMOTED_S_MAX, Case, clean, frozen
from tests.lab.freeze import BlackHole
from tests.lab.ground import Ground, Story
from tests.lab.node import Node
from tests.lab.plan import nodes_of

LONG_S = 90.0
STOP_FAILS = "/run/pglab-stop-fails"  # tests/lab/drbd/ocf/srv looks for it


def long_black_hole(ground: Ground, told: Story) -> None:
    frozen(ground, told, BlackHole(ground.site.fabric, LONG_S))


def primaries_die(ground: Ground, told: Story) -> None:
    died(ground, told, story_primaries(ground), lambda node: node.panic())


def primaries_hang(ground: Ground, told: Story) -> None:
    died(ground, told, story_primaries(ground), lambda node: node.panic(ports_stay_up=True))


def primaries_cut_off(ground: Ground, told: Story) -> None:
    """All links of each primary fall, at the node's own ports only."""
    died(ground, told, story_primaries(ground), ground.cut_off)


def secondaries_die(ground: Ground, told: Story) -> None:
    """The service stays where it is; its writes stall until the dead node is known to be off."""
    primaries = story_primaries(ground)
    victims = {pair: other(pair, name) for pair, name in primaries.items()}
    begun_s = died(ground, told, victims, lambda node: node.panic())
    for pair, name in primaries.items():
        row = ground.row(pair, name, begun_s)
        told.promise(f"{pair}: the service never stopped", row.service_stopped_s == 0, f"{row.service_stopped_s} s")


def stops_fail(ground: Ground, told: Story) -> None:
    """A stop fails on each primary, so that its own cluster wants it fenced: it yields, is fenced, its peer serves."""
    primaries = story_primaries(ground)

    def fail(node: Node) -> None:
        node.run_in(["touch", STOP_FAILS])
        node.run_in(["crm_resource", "--ban", "--resource", "srv", "--node", node.name])

    try:
        died(ground, told, primaries, fail)
    finally:
        for pair, name in primaries.items():
            ground.site.nodes[other(pair, name)].run_in(["crm_resource", "--clear", "--resource", "srv"])


def died(ground: Ground, told: Story, victims: Mapping[str, str], kill: Callable[[Node], None]) -> float:
    """The victim of each pair is fenced once, by its peer, which then serves. When it began."""
    begun_s = ground.die_together([ground.site.nodes[name] for name in victims.values()], kill)
    for pair, dead in victims.items():
        survivor = other(pair, dead)

        def serves(dead: str = dead, survivor: str = survivor) -> bool:
            return not ground.site.nodes[dead].supplied and ground.site.service_on(survivor)

        told.promise(f"{survivor} serves", bool(ground.within(PROMOTED_S_MAX, serves)), ground.state(survivor))
        ground.fenced[pair] = dead
    for pair, dead in victims.items():
        by = [event.detail for event in ground.shots(dead, begun_s)]
        told.promise(f"{dead} was shot exactly once, by {other(pair, dead)}", by == [other(pair, dead)], by)
        row = ground.row(pair, dead, begun_s)
        told.promise(f"{pair}: never both", row.both_s == 0, f"{row.both_s} s")
        clean(told, pair, row)
    shot = ground.shot_nodes(begun_s)
    told.promise("nobody else was shot", shot == sorted(victims.values()), shot)
    return begun_s


def story_primaries(ground: Ground) -> dict[str, str]:
    return {pair: story.primary_of(ground.site, pair) for pair in ground.pairs}


def other(pair: str, name: str) -> str:
    return next(each for each in nodes_of(pair) if each != name)


MORE = (
    Case("blackhole-90", "a black hole of 90 s at token 3 s", IN, False, None, long_black_hole),
    Case("primaries-die", "every primary's kernel dies", OUT, False, None, primaries_die),
    Case("secondaries-die", "every secondary's kernel dies", OUT, False, None, secondaries_die),
    Case("primaries-hang", "every primary's kernel hangs, its ports up", OUT, False, None, primaries_hang),
    Case("primaries-cut-off", "the links of every primary fall", OUT, False, None, primaries_cut_off),
    Case("stops-fail", "a stop fails on every primary", OUT, False, None, stops_fail),
)
