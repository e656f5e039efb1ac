"""Stories for the rehearsed world, each with what must come of it; run over many seeds.

`python -m guard.rehearsal.scenarios --seed 7 --runs 100` prints the seeds that fail, with the end of their story.
The same seed gives the same story, byte for byte.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable

from guard.rehearsal import colds, deaths, freezes, yields
from guard.rehearsal.checkers import Unmet, Violation
from guard.rehearsal.fuzz import fuzz, fuzz_shots
from guard.rehearsal.world import World

Scenario = Callable[[World], None]

STORIES: tuple[Scenario, ...] = (
    freezes.calm,
    freezes.freeze_out_of_band,
    freezes.freeze_in_band,
    freezes.freeze_late_delivery,
    deaths.primary_death,
    deaths.secondary_death,
    deaths.hung_kernel,
    deaths.hung_kernel_returns,
    deaths.one_node_cut,
    deaths.in_band_death,
    deaths.arbiter_down_then_death,
    deaths.arbiter_restarts,
    deaths.guard_killed_mid_shot,
    freezes.guard_restart_while_cut,
    deaths.shots_wait_in_the_network,
    freezes.write_under_way,
    freezes.guard_stopped_in_the_freeze,
    deaths.fenced_node_boots,
    freezes.person_holds,
    freezes.disturbance_then_freeze,
    freezes.scheduler_would_fence,
    freezes.persons_maintenance,
    deaths.device_lies_once,
    deaths.death_under_disturbance,
    freezes.flapping,
    freezes.storm_in_the_cell,
    deaths.store_lost,
    deaths.cold_start_alone,
    deaths.cold_start_cut,
    freezes.gate_off_yield,
    freezes.answers_lost,
    deaths.freeze_then_death,
    deaths.words_closed,
    deaths.late_words,
    yields.cluster_dies_on_the_primary,
    yields.cluster_dies_on_the_secondary,
    yields.cluster_dies_in_a_cut,
    yields.failed_stop,
    yields.failed_stop_on_a_busy_node,
    yields.failed_stop_in_a_cut,
    yields.healthy_node_asked_for,
    yields.claim_fails_after_the_yield,
    yields.candidate_dies_after_the_yield,
    yields.device_of_another_node,
    yields.dead_device_asks_nothing,
    yields.yield_of_a_node_that_is_down,
    yields.cold_start_cut_yields,
    yields.clusters_come_and_go,
    colds.cold_ex_primary_alone,
    colds.cold_ex_secondary_alone,
    colds.cold_twice,
    colds.cold_arbiter_restarted,
)


def play(scenario: Scenario, seed: int) -> tuple[World, str | None]:
    """One run; the failure in words, or None. Each story has its own stream of seeds."""
    world = World(zlib.crc32(f"{scenario.__name__}/{seed}".encode()))
    try:
        scenario(world)
    except (Violation, Unmet) as failure:
        return world, f"{type(failure).__name__} {failure}"
    return world, None


def tale(world: World, failure: str, lines: int = 20) -> str:
    """The end of a story in at most `lines` lines."""
    return "\n".join((*world.story[-(lines - 1) :], failure))


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a seed failed."""
    everything = (*STORIES, fuzz, fuzz_shots)
    parser = argparse.ArgumentParser(prog="python -m guard.rehearsal.scenarios", description="rehearse pairguard")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds of every story")
    parser.add_argument("--story", choices=[s.__name__ for s in everything], action="append", help="only this one")
    parser.add_argument("--lines", type=int, default=20, help="length of a printed story")
    parser.add_argument("--print", action="store_true", help="print the whole story of every run")
    given = parser.parse_args(argv)
    failed = 0
    for scenario in everything:
        if given.story and scenario.__name__ not in given.story:
            continue
        for seed in range(given.seed, given.seed + given.runs):
            world, failure = play(scenario, seed)
            if given.print:
                print("\n".join(world.story))
            if failure is not None:
                failed += 1
                print(f"--- {scenario.__name__} seed {seed} failed\n{tale(world, failure, given.lines)}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
