"""Storms: how many pairs in trouble are too many to be deaths, and how a storm ends."""

from __future__ import annotations

import pytest

from guard.core.instant import Instant, after
from guard.core.policy import Policy
from guard.core.storm import Cell, forbids, let_out, reported, spoke, threshold, whole_again

START = Instant(10**15)
LATER = after(START, 1000.0)
POLICY = Policy()


def cell(pairs: int, *, heard: int | None = None) -> Cell:
    names = [f"p{n}" for n in range(pairs)]
    return Cell(START, frozenset(names), frozenset(names[: pairs if heard is None else heard]))


@pytest.mark.parametrize(
    ("pairs", "limit"),
    [(0, None), (1, None), (2, 2), (3, 2), (4, 2), (5, 3), (20, 3), (40, 3), (59, 3), (60, 4), (100, 6), (200, 11)],
)
def test_how_many_are_a_storm(pairs: int, limit: int | None) -> None:
    """Never for one pair; 2 up to four; from five floor(max(2, n/20)) + 1."""
    assert threshold(pairs) == limit


@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 5, 20, 60, 200])
def test_the_threshold_is_exact(pairs: int) -> None:
    """One report less is no storm, that many are; the reports of one pair count once."""
    limit = threshold(pairs)
    now, seen = LATER, cell(pairs)
    for n in range((limit or 2) - 1):
        for _ in range(5):
            seen = reported(seen, f"p{n}", now, POLICY)
    now = after(now, POLICY.corr_s)
    assert forbids(seen, now, POLICY) is None
    seen = reported(seen, f"p{limit}", now, POLICY)
    assert forbids(seen, after(now, 1.0), POLICY) == ("storm" if limit else None)


def test_reports_more_than_30_s_apart_are_no_storm() -> None:
    """Only what comes within the window is counted together."""
    seen, now = cell(4), LATER
    for n in range(4):
        seen = reported(seen, f"p{n}", now, POLICY)
        assert forbids(seen, after(now, 1.0), POLICY) is None
        now = after(now, POLICY.storm_window_s + 1)


def test_no_offer_leaves_before_reports_of_the_same_instant_could_come() -> None:
    """T_corr after the latest report, so that a storm is seen whole before anybody is offered anything."""
    seen = reported(cell(4), "p0", LATER, POLICY)
    assert forbids(seen, after(LATER, POLICY.corr_s / 2), POLICY) == "correlating"
    assert forbids(seen, after(LATER, POLICY.corr_s), POLICY) is None


@pytest.mark.parametrize(("pairs", "heard", "waits"), [(1, 0, False), (4, 2, True), (4, 3, False), (200, 189, True)])
def test_an_arbiter_that_just_started_waits_for_the_cell(pairs: int, heard: int, waits: bool) -> None:
    """For 30 s nothing is offered until all but k(n)-1 pairs have spoken; then it is offered all the same."""
    seen = cell(pairs, heard=heard)
    assert forbids(seen, after(START, 29.0), POLICY) == ("arbiter-just-started" if waits else None)
    assert forbids(spoke(seen, f"p{pairs - 1}"), after(START, 29.0), POLICY) is None
    assert forbids(seen, after(START, 31.0), POLICY) is None


def storm() -> Cell:
    seen = cell(4)
    for n in range(3):
        seen = reported(seen, f"p{n}", LATER, POLICY)
    assert forbids(seen, LATER, POLICY) == "storm"
    return seen


def test_a_storm_ends_when_the_last_pair_is_whole_again() -> None:
    """Each that comes back takes its report with it; the storm stands until none is left."""
    seen, now = storm(), after(LATER, 5.0)
    for n in range(3):
        assert forbids(seen, now, POLICY) == "storm"
        seen = whole_again(seen, f"p{n}", now)
    assert forbids(seen, now, POLICY) is None


def test_a_quiet_storm_is_half_open_one_claim_a_minute() -> None:
    """After the settle time one offer leaves; its own pair may go on to the win, all others wait for a minute."""
    seen, now = storm(), after(LATER, POLICY.settle_s + 1)
    assert forbids(storm(), after(LATER, POLICY.settle_s - 1), POLICY, "p0") == "storm"
    assert forbids(seen, now, POLICY, "p0") is None
    seen = let_out(seen, now, "p0")
    assert forbids(seen, now, POLICY, "p1") == "storm-half-open"
    assert forbids(seen, after(now, POLICY.accept_s), POLICY, "p0") is None
    assert forbids(seen, after(now, POLICY.fire_s + 1), POLICY, "p0") == "storm-half-open"
    assert forbids(seen, after(now, POLICY.storm_retry_s), POLICY, "p1") is None


def test_a_surprise_while_half_open_is_a_storm_again() -> None:
    """One more pair that loses its peer: settle time and half-open begin anew."""
    now = after(LATER, POLICY.settle_s + 1)
    seen = let_out(storm(), now, "p0")
    # The reports of the storm still stand, so the window is what counts: two new ones within it.
    seen = reported(whole_again(seen, "p1", now), "p1", now, POLICY)
    seen = reported(seen, "p3", now, POLICY)
    assert forbids(seen, after(now, POLICY.settle_s - 1), POLICY, "p0") == "storm"


def test_letting_out_without_a_storm_means_nothing() -> None:
    """The ordinary claims of a calm cell do not wait for each other."""
    calm = let_out(cell(4), LATER, "p0")
    assert forbids(calm, LATER, POLICY, "p1") is None
