"""The modelled stock pair agrees with the lab's rows, and each of its mechanisms decides something."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from guard.rehearsal.stock import PRESETS, Edit, Freeze, StockOutcome, StockSetting, play
from guard.rehearsal.stock_rows import (
    DEATHS,
    DEFAULTS,
    LAB,
    MISSES,
    ROWS,
    STP_12,
    Row,
    disagreements,
    modelled,
    primary_of,
    promoted_s,
    wilson,
)

SEEDS = range(2_000)
FEW = range(300)


def plays(setting: StockSetting, freeze: Freeze = STP_12, seeds: range = FEW) -> list[StockOutcome]:
    return [play(seed, setting, freeze) for seed in seeds]


def both(setting: StockSetting, freeze: Freeze = STP_12, seeds: range = FEW) -> float:
    """Share of pairs that lost both nodes."""
    return sum(len(one.shots) == 2 for one in plays(setting, freeze, seeds)) / len(seeds)


@pytest.mark.parametrize("row", [r for r in ROWS if r.name not in MISSES], ids=lambda row: row.name)
def test_row_of_the_lab(row: Row) -> None:
    """Every share lies within the Wilson 95 % interval of what the lab measured."""
    assert disagreements(row, modelled(row, SEEDS)) == {}


@pytest.mark.parametrize("row", [r for r in ROWS if r.name in MISSES], ids=lambda row: row.name)
def test_known_misses_are_still_misses(row: Row) -> None:
    """A row that has come to agree leaves the list, so that the list stays true."""
    assert disagreements(row, modelled(row, SEEDS)) != {}


def test_known_misses_name_rows() -> None:
    """The list of misses names rows, and none of the plain stock rows (a)."""
    assert set(MISSES) <= {row.name for row in ROWS}
    assert not any(name.startswith("a ") for name in MISSES), "the plain stock rows must agree"


def test_a_wrong_model_is_seen() -> None:
    """The comparison can fail: with instant power-off the stock row does not agree."""
    stock = ROWS[0]
    wrong = replace(stock, setting=replace(stock.setting, latency_s=0.0))
    assert set(disagreements(stock, modelled(wrong, FEW))) >= {"both", "one"}


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(15, 21, 0.50, 0.86), (17, 21, 0.60, 0.92), (9, 10, 0.60, 0.98), (0, 21, 0.0, 0.15), (0, 7, 0.0, 0.35)],
)
def test_wilson_interval(hits: int, of: int, low: float, high: float) -> None:
    """As given beside the lab's table."""
    assert wilson(hits, of) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


@pytest.mark.parametrize(("name", "setting", "measured_s"), DEATHS, ids=[death[0] for death in DEATHS])
def test_price_of_a_real_death(name: str, setting: StockSetting, measured_s: float) -> None:
    """A dead primary's peer serves about as soon as the lab measured."""
    assert promoted_s(setting, range(501)) == pytest.approx(measured_s, abs=0.6), name


# ------------------------------------------------------------------ mechanisms


def test_held_packets_shoot_both() -> None:
    """Both commands come out of the queue at once; a black hole leaves them to the phase of the next try."""
    slow = replace(DEFAULTS, retry_s=1.0)
    assert both(slow, Freeze("late", 12.0)) == 1.0
    assert both(slow, Freeze("blackhole", 12.0)) < 0.7


def test_the_slower_the_power_off_the_more_both() -> None:
    """The loser of the race still shoots while its own power-off is under way."""
    shares = [both(replace(DEFAULTS, latency_s=latency)) for latency in (0.0, 0.1, 0.3, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[-1] > 0.95


def test_seldom_tries_are_further_apart() -> None:
    """TCP repeats its first packet after 1 s: a try of 2 s is as good as two of 1 s."""
    shares = {retry: both(replace(DEFAULTS, retry_s=retry), seeds=SEEDS) for retry in (0.5, 1.0, 2.0)}
    assert shares[0.5] - shares[1.0] > 0.2
    assert shares[2.0] == pytest.approx(shares[1.0], abs=0.05)


def test_maintenance_before_the_freeze_shoots_nobody() -> None:
    """Set on both sides in time, it keeps the scheduler from asking at all."""
    setting = replace(LAB, edits=(Edit(-60.0, "maintain"),))
    assert {one.shots for one in plays(setting)} == {()}
    assert not any(one.requests for one in plays(setting))


def test_maintenance_does_not_stop_a_shot_that_the_fencer_holds() -> None:
    """Set after the requests, it changes no shot (labs.md, A.5, 3)."""
    late = replace(DEFAULTS, edits=(Edit(7.0, "maintain"),))
    assert both(late, seeds=SEEDS) == pytest.approx(both(DEFAULTS, seeds=SEEDS), abs=0.05)
    assert all(one.shots for one in plays(late))


def test_maintenance_on_the_survivor_keeps_the_service_down() -> None:
    """The primary shot alone: under maintenance its peer does not take over."""
    moved = [one for one in plays(DEFAULTS, seeds=SEEDS) if one.wrong_node]
    stuck = [one for one in plays(replace(DEFAULTS, edits=(Edit(7.0, "maintain"),)), seeds=SEEDS) if one.wrong_node]
    assert moved
    assert all(one.service_up_after for one in moved)
    assert stuck
    assert not any(one.service_up_after for one in stuck)


def test_a_device_that_is_removed_takes_only_the_waiting_shot_along() -> None:
    """A shot in its delay is purged, a running agent is not."""
    stop = (Edit(6.0, "stop-devices"),)
    waiting = replace(DEFAULTS, delay_base_s=20, delay_max_s=20, edits=stop)
    assert not any(one.shots for one in plays(waiting))
    assert all(one.shots for one in plays(replace(DEFAULTS, edits=stop)))


def test_agents_killed_through_attempt_2_shoot_nobody() -> None:
    """Killing the first run only leaves the fencer its second (labs.md, A.5, 4)."""
    short = (Edit(7.0, "maintain"), Edit(7.2, "kill-agents", for_s=1.1))
    long = (Edit(7.0, "maintain"), Edit(7.2, "kill-agents", for_s=4.0))
    assert all(one.shots for one in plays(replace(DEFAULTS, edits=short)))
    assert not any(one.shots for one in plays(replace(DEFAULTS, edits=long)))


def test_an_edit_in_a_freeze_reaches_one_side_only() -> None:
    """Cleared on the secondary's side, only the primary is shot; on the primary's side, only the secondary."""
    for on, primary_shot in (("primary", False), ("secondary", True)):
        setting = replace(LAB, edits=(Edit(-60.0, "maintain"), Edit(7.0, "manage", on)))
        assert {(len(one.shots), one.primary_shot) for one in plays(setting)} == {(1, primary_shot)}


def test_a_delay_is_spent_at_the_start() -> None:
    """A freeze longer than the delay cancels its use; the delay protects the primary only beyond the freeze."""
    assert both(replace(DEFAULTS, priority_delay_s=5.0)) > 0.7
    beyond = plays(replace(DEFAULTS, priority_delay_s=20.0))
    assert {(len(one.shots), one.primary_shot) for one in beyond} == {(1, False)}


def test_a_delay_is_charged_at_each_request() -> None:
    """Each request of the delayed side begins its delay anew: its tries begin later after every failure."""
    hole = Freeze("blackhole", 60.0)
    for one in plays(replace(LAB, priority_delay_s=5.0), hole, range(20)):
        delayed = "B" if one.primary == "A" else "A"
        at = [at_s for by, at_s in one.requests if by == delayed]
        free = [at_s for by, at_s in one.requests if by == one.primary]
        gaps = [after - before for before, after in pairwise(at)]
        others = [after - before for before, after in pairwise(free)]
        assert min(gaps) > max(others) + 4.5


def test_random_delays_part_the_two() -> None:
    """On a fence path of its own, where nothing waits for a thaw, a random delay does what it is for."""
    own = replace(DEFAULTS, own_fence_path=True, delay_max_s=15)
    assert both(own) < both(replace(own, delay_max_s=0))


def test_nobody_loses_the_token_in_a_short_freeze() -> None:
    """A token timeout longer than the freeze: no membership changes, nobody asks for a shot."""
    assert not any(one.requests for one in plays(replace(DEFAULTS, token_s=40.0), Freeze("stp", 22.0)))


def test_a_second_ring_sees_no_freeze() -> None:
    """With a ring that does not freeze nobody asks for a shot."""
    assert not any(one.requests for one in plays(replace(DEFAULTS, rings=2)))


def test_quorum_device() -> None:
    """In-band both sides stop; out-of-band node 1's side shoots, whoever is primary there."""
    in_band = plays(replace(LAB, quorum="qdevice-in-band"))
    assert not any(one.shots for one in in_band)
    assert all(one.service_up_after for one in in_band)
    for one in plays(replace(LAB, quorum="qdevice-oob")):
        assert one.shot == {"B"}
        assert one.wrong_node == (one.primary == "B")


def test_an_own_fence_path_does_not_wait_for_the_thaw() -> None:
    """The shots land seconds after the cut, long before the thaw."""
    for one in plays(replace(DEFAULTS, own_fence_path=True), Freeze("blackhole", 60.0)):
        assert one.shots
        assert all(shot.accepted_s < 10.0 for shot in one.shots)


def test_the_fencer_gives_up_after_its_requests() -> None:
    """Ten failed requests of two attempts each: a freeze far beyond that ends without a shot."""
    assert both(StockSetting(), Freeze("blackhole", 300.0), range(50)) > 0.9
    spent = plays(StockSetting(), Freeze("blackhole", 800.0), range(50))
    assert not any(one.shots for one in spent)
    assert all(len(one.requests) == 20 for one in spent)


def test_a_late_power_off_still_lands() -> None:
    """Accepted at the thaw, executed minutes later: both go, and the outcome is looked at after that."""
    late = plays(replace(DEFAULTS, latency_s=300.0))
    assert {len(one.shots) for one in late} == {2}
    assert not any(one.service_up_after for one in late)
    assert all(shot.off_s > 300.0 for one in late for shot in one.shots)


def test_a_dead_node_shoots_nobody() -> None:
    """No shot was accepted after its shooter's own power was off."""
    for one in plays(replace(DEFAULTS, latency_s=0.1), seeds=SEEDS):
        off = {shot.target: shot.off_s for shot in one.shots}
        assert all(shot.accepted_s < off.get(shot.by, float("inf")) for shot in one.shots)


def test_reboot_brings_back_who_was_shot_alone() -> None:
    """Only a shooter that lives switches its target on again."""
    for one in plays(replace(DEFAULTS, action="reboot"), seeds=SEEDS):
        assert one.back == (one.shot if len(one.shots) == 1 else frozenset())


# ------------------------------------------------------------------ the same again


def test_presets_play() -> None:
    """Every preset is a setting that can be played."""
    for name, setting in PRESETS.items():
        outcomes = plays(setting, Freeze("stp", 90.0), range(20))
        assert {len(one.shots) for one in outcomes} <= {0, 1, 2}, name


def test_what_a_seed_draws_first_does_not_depend_on_the_setting() -> None:
    """Stock variants are compared on the same primaries and freezes."""
    for seed in FEW:
        drawn = {(o.primary, o.thaw_s) for o in (play(seed, s, STP_12) for s in PRESETS.values())}
        assert len(drawn) == 1


def test_the_same_seed_is_the_same_outcome_in_any_process() -> None:
    """No hash seed leaks into an outcome."""
    program = (
        "from guard.rehearsal.stock import *\n"
        "for seed in range(40):\n"
        "    one = play(seed, PRESETS['pcmk-delay-max-15'], Freeze('stp', 30.0))\n"
        "    print(one.primary, one.shots, one.requests, one.service_up_after)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(salt)},
            capture_output=True,
            timeout=120,
            check=True,
        ).stdout
        for salt in (1, 2)
    }
    assert len(told) == 1
    assert told.pop().count(b"\n") == 40


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_s": 0},
        {"retry_s": -1.0},
        {"latency_s": -0.1},
        {"delay_base_s": 3, "delay_max_s": 2},
        {"max_requests": 0},
    ],
)
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    """The error names the setting."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(LAB, **wrong)


def test_rows_are_printed() -> None:
    """`--rows` prints every row and how many agree."""
    done = subprocess.run(
        [sys.executable, "-m", "guard.rehearsal.stock", "--rows", "--seeds", "100"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert all(row.name in done.stdout for row in ROWS)
    assert f"of {len(ROWS)} rows agree in every share" in done.stdout


def test_the_lab_alternates_its_primaries() -> None:
    """Seven pairs a run, every other one with node 2 as primary."""
    assert "".join(primary_of(seed) for seed in range(14)) == "ABABABAABABABA"
