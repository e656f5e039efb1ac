"""Storms: how many pairs in trouble are too many to be deaths, and how a storm ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from guard.core import arbiter
from guard.core.instant import Instant, after
from guard.core.messages import Answer, Attest, Beat, Bye, Claim, Init, Message, Offer, Refused
from guard.core.pair import Pair, Sends
from guard.core.policy import Policy
from guard.core.register import Register
from guard.core.storm import (
    REASONS,
    WAITING_S,
    Cell,
    Waiting,
    forbids,
    heard,
    let_out,
    reported,
    said,
    spoke,
    threshold,
    whole_again,
)
from tests.core.desk import evidence, statement

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
    assert forbids(seen, now, POLICY, "p0") is None
    seen = reported(seen, f"p{limit}", now, POLICY)
    assert forbids(seen, after(now, 1.0), POLICY, "p0") == ("storm" if limit else None)


def test_reports_more_than_30_s_apart_are_no_storm() -> None:
    """Only what comes within the window is counted together."""
    seen, now = cell(4), LATER
    for n in range(4):
        seen = reported(seen, f"p{n}", now, POLICY)
        assert forbids(seen, after(now, 1.0), POLICY, "p0") is None
        now = after(now, POLICY.storm_window_s + 1)


def test_no_offer_leaves_before_reports_of_the_same_instant_could_come() -> None:
    """T_corr after the latest report, so that a storm is seen whole before anybody is offered anything."""
    seen = reported(cell(4), "p0", LATER, POLICY)
    assert forbids(seen, after(LATER, POLICY.corr_s / 2), POLICY, "p0") == "correlating"
    assert forbids(seen, after(LATER, POLICY.corr_s), POLICY, "p0") is None


@pytest.mark.parametrize(("pairs", "heard", "waits"), [(1, 0, False), (4, 2, True), (4, 3, False), (200, 189, True)])
def test_an_arbiter_that_just_started_waits_for_the_cell(pairs: int, heard: int, waits: bool) -> None:
    """For 30 s nothing is offered until all but k(n)-1 pairs have spoken; then it is offered all the same."""
    seen = cell(pairs, heard=heard)
    assert forbids(seen, after(START, 29.0), POLICY, "p0") == ("arbiter-just-started" if waits else None)
    assert forbids(spoke(seen, f"p{pairs - 1}"), after(START, 29.0), POLICY, "p0") is None
    assert forbids(seen, after(START, 31.0), POLICY, "p0") is None


def storm() -> Cell:
    seen = cell(4)
    for n in range(3):
        seen = reported(seen, f"p{n}", LATER, POLICY)
    assert forbids(seen, LATER, POLICY, "p0") == "storm"
    return seen


def test_a_storm_ends_when_the_last_pair_is_whole_again() -> None:
    """Each that comes back takes its report with it; the storm stands until none is left."""
    seen, now = storm(), after(LATER, 5.0)
    for n in range(3):
        assert forbids(seen, now, POLICY, "p0") == "storm"
        seen = whole_again(seen, f"p{n}", now)
    assert forbids(seen, now, POLICY, "p0") is None


QUIET = after(LATER, POLICY.settle_s + 1)  # nothing has spoken for `storm()` for long enough


def pair_of(name: str, *, target_heard: Instant | None = None, unfit: bool = False) -> Pair:
    """Pair `name` of the nodes `name`a and `name`b, as the arbiter knows it; b is the candidate of these tests."""
    made = arbiter.made(Init("i", (f"{name}a", f"{name}b"), f"{name}a", "cell", "x"), name, START, "boot")
    if target_heard is None:
        return made
    beat = statement(f"{name}a", 1)
    return replace(
        made,
        heard={f"{name}a": target_heard},
        beats={f"{name}a": replace(beat, hold=replace(beat.hold, unfit=unfit))},
    )


def claim(name: str, **changed: Any) -> Claim:
    return replace(Claim(f"n-{name}", "fence", evidence(f"{name}b"), "?"), **changed)


def asks(cell: Cell, name: str, now: Instant, pair: Pair | None = None, **changed: Any) -> Cell:
    """`name`b claims; what becomes of the cell."""
    return heard(cell, pair or pair_of(name), f"{name}b", claim(name, **changed), now, POLICY)


def turn(cell: Cell, now: Instant, *names: str) -> list[str]:
    """Who of these may go now; everybody else is told that the storm is half-open."""
    told = {name: forbids(cell, now, POLICY, name) for name in names}
    assert set(told.values()) <= {None, "storm-half-open"}, told
    return [name for name, why in told.items() if why is None]


def test_a_quiet_storm_is_half_open_one_claim_a_minute() -> None:
    """After the settle time one offer leaves; its own pair may go on to the win, all others wait for a minute."""
    seen = asks(storm(), "p0", after(QUIET, -2))
    assert forbids(seen, after(LATER, POLICY.settle_s - 1), POLICY, "p0") == "storm"
    assert turn(seen, QUIET, "p0", "p1", "p2") == ["p0"]
    seen = asks(said(seen, "p0", offer("p0"), QUIET), "p1", QUIET)
    assert turn(seen, QUIET, "p0", "p1") == ["p0"]
    assert turn(seen, after(QUIET, POLICY.accept_s), "p0", "p1") == ["p0"]
    assert turn(seen, after(QUIET, POLICY.fire_s + 1), "p0", "p1") == []
    minute_later = after(QUIET, POLICY.storm_retry_s)
    assert turn(asks(seen, "p1", minute_later), minute_later, "p0", "p1") == ["p1"]


def offer(name: str) -> Sends:
    """An offer left for `name`b."""
    register = Register.made(f"{name}a").view("store")
    stated = evidence(f"{name}b")
    return ((f"{name}b", Offer(f"n-{name}", register, stated, None, "silent", 0.0, None, False, False, 2.0)),)


BEST_FIRST: list[dict[str, Any]] = [{"off_twice": True}, {"ports": "down-alone"}, {}]


def test_the_best_evidence_goes_first_whoever_asked_first() -> None:
    """Read off twice before ports down alone before mere silence; then the one that has waited longest."""
    seen, now = storm(), QUIET
    for name, changed in zip(("p0", "p1", "p2"), reversed(BEST_FIRST), strict=True):
        seen, now = asks(seen, name, now, **changed), after(now, 0.1)
    order = []
    for _ in range(3):
        [name] = turn(seen, now, "p0", "p1", "p2", "p3")
        order.append(name)
        seen, now = said(seen, name, offer(name), now), after(now, POLICY.storm_retry_s)
        for waiting, changed in zip(("p0", "p1", "p2"), reversed(BEST_FIRST), strict=True):
            seen = asks(seen, waiting, now, **changed) if waiting not in order else seen
    assert order == ["p2", "p1", "p0"]
    equal = asks(asks(storm(), "p1", QUIET), "p0", after(QUIET, 1.0))
    assert turn(equal, after(QUIET, 1.0), "p0", "p1") == ["p1"]


def test_a_pair_that_had_its_turn_goes_behind_those_that_had_none() -> None:
    """Nobody starves: the best evidence that leads to no win does not take every minute."""
    seen = asks(asks(storm(), "p0", QUIET, off_twice=True), "p1", QUIET)
    assert turn(seen, QUIET, "p0", "p1") == ["p0"]
    later = after(QUIET, POLICY.storm_retry_s)
    seen = asks(asks(said(seen, "p0", offer("p0"), QUIET), "p0", later, off_twice=True), "p1", later)
    assert turn(seen, later, "p0", "p1") == ["p1"]


@pytest.mark.parametrize("contradicted", ["heard", "ports"])
def test_what_contradicts_a_death_is_never_let_through(contradicted: str) -> None:
    """A target that is heard, or whose ports are up amid change: its claim waits, and takes nobody's turn."""
    pair = pair_of("p0", target_heard=after(QUIET, -1.0)) if contradicted == "heard" else pair_of("p0")
    ports = "?" if contradicted == "heard" else "up-with-change"
    seen = asks(storm(), "p0", QUIET, pair, ports=ports, off_twice=True)
    assert turn(seen, QUIET, "p0", "p1") == []
    assert turn(asks(seen, "p1", QUIET), QUIET, "p0", "p1") == ["p1"]
    unfit = pair_of("p0", target_heard=after(QUIET, -1.0), unfit=True)
    assert turn(asks(storm(), "p0", QUIET, unfit), QUIET, "p0") == ["p0"], "its own cluster is gone: it may yield"


def test_a_claim_that_is_refused_for_its_own_sake_takes_nobodys_turn() -> None:
    """Inhibited, or no longer asking: the next best goes."""
    seen = asks(asks(storm(), "p0", QUIET, off_twice=True), "p1", QUIET)
    refused = said(seen, "p0", (("p0b", Refused("n-p0", "inhibited", "held")),), QUIET)
    assert turn(refused, QUIET, "p0", "p1") == ["p1"]
    told = said(seen, "p0", (("p0b", Refused("n-p0", "storm-half-open", "wait")),), QUIET)
    assert turn(told, QUIET, "p0", "p1") == ["p0"], "the storm's own word does not end its waiting"
    later = after(QUIET, WAITING_S + 1)
    assert turn(asks(seen, "p1", later), later, "p0", "p1") == ["p1"], "who stopped asking waits no more"


LIVING: list[Message] = [
    statement("p0a", 1),
    Answer("n-p0", evidence("p0a"), False, 1.0),
    Attest(1, evidence("p0a")),
    Bye("stopped"),
]
CONSENTING: list[Message] = [
    replace(statement("p0a", 1), hold=replace(statement("p0a", 1).hold, unfit=True)),
    Answer("n-p0", evidence("p0a"), True, 1.0),
    Answer("n-p0", replace(evidence("p0a"), unfit=True), False, 1.0),
    Attest(1, replace(evidence("p0a"), unfit=True)),
]


@pytest.mark.parametrize("word", LIVING, ids=lambda word: word.kind)
def test_a_target_that_is_heard_after_its_claim_was_let_through_is_a_storm_again(word: Message) -> None:
    """Stop at the first surprise: closed for the settle time, and the claim that was let through gets no win."""
    seen = said(asks(storm(), "p0", QUIET), "p0", offer("p0"), QUIET)
    seen = heard(seen, pair_of("p0"), "p0a", word, after(QUIET, 1.0), POLICY)
    for name in ("p0", "p1"):
        assert forbids(asks(seen, "p1", QUIET), after(QUIET, 1.5), POLICY, name) == "storm"
        assert forbids(seen, after(QUIET, POLICY.settle_s + 0.9), POLICY, name) == "storm"
    again = after(QUIET, POLICY.settle_s + 1.1)
    assert turn(asks(seen, "p1", again), again, "p0", "p1") == ["p1"]


@pytest.mark.parametrize("word", CONSENTING, ids=lambda word: f"{word.kind}")
def test_a_word_of_consent_is_no_surprise(word: Message) -> None:
    """A node whose own cluster is gone speaks, and may yield: that is no sign of a network."""
    seen = said(asks(storm(), "p0", QUIET), "p0", offer("p0"), QUIET)
    assert heard(seen, pair_of("p0"), "p0a", word, after(QUIET, 1.0), POLICY) == seen


def test_only_the_target_of_that_claim_surprises_and_only_within_the_minute() -> None:
    """The candidate's own words, other pairs' words, and a fenced node that boots after the win say nothing."""
    seen = said(asks(storm(), "p0", QUIET), "p0", offer("p0"), QUIET)
    beat: Beat = statement("p0a", 1)
    soon, late = after(QUIET, 1.0), after(QUIET, POLICY.storm_retry_s + 1)
    assert heard(seen, pair_of("p0"), "p0b", beat, soon, POLICY) == seen
    assert heard(seen, pair_of("p1"), "p1a", beat, soon, POLICY) == seen
    assert heard(seen, pair_of("p0"), "p0a", beat, late, POLICY) == seen
    won = pair_of("p0")
    won = replace(won, kept=replace(won.kept, register=replace(won.kept.register, winner="p0b")))
    assert heard(seen, won, "p0a", beat, soon, POLICY) == seen


def test_one_more_pair_that_loses_its_peer_is_a_storm_again() -> None:
    """One is enough: settle time and half-open begin anew, whatever the threshold was."""
    seen = said(asks(storm(), "p0", QUIET), "p0", offer("p0"), QUIET)
    seen = reported(seen, "p3", after(QUIET, 1.0), POLICY)
    assert forbids(seen, after(QUIET, POLICY.settle_s), POLICY, "p0") == "storm"


def test_letting_out_without_a_storm_means_nothing() -> None:
    """The ordinary claims of a calm cell do not wait for each other."""
    calm = let_out(asks(cell(4), "p0", LATER), LATER, "p0", "p0b")
    assert calm == cell(4)
    assert forbids(calm, LATER, POLICY, "p1") is None


# ------------------------------------------------------------------ at the edge of each span, and what is kept


def test_a_storm_keeps_its_beginning_and_renews_its_trouble() -> None:
    """Two reports exactly a window apart are one storm; each further one closes it anew, and begins it no later."""
    one = reported(cell(4), "p0", LATER, POLICY)
    assert one == replace(cell(4), reports={"p0": LATER})
    assert reported(one, "p0", after(LATER, 1.0), POLICY) is one
    edge = after(LATER, POLICY.storm_window_s)
    two = reported(one, "p1", edge, POLICY)
    assert (two.storm_since, two.troubled_at, dict(two.reports)) == (edge, edge, {"p0": LATER, "p1": edge})
    assert reported(one, "p1", after(edge, 0.001), POLICY).storm_since is None
    out = replace(two, let_out_at=edge, let_out_pair="p0", let_out_node="p0b")
    later = after(edge, 500.0)
    three = reported(out, "p2", later, POLICY)
    assert (three.storm_since, three.troubled_at) == (edge, later)
    assert (three.let_out_at, three.let_out_pair, three.let_out_node) == (None, "", "")


def test_what_the_last_pair_takes_along_when_it_is_whole_again() -> None:
    """All of the storm; an earlier one only its own report and its own place in the queue."""
    waits = {name: Waiting(2, LATER, LATER) for name in ("p0", "p1")}
    seen = replace(storm(), waiting=waits, turns={"p0": 1}, let_out_at=LATER, let_out_pair="p0", let_out_node="p0b")
    assert whole_again(seen, "p3", LATER) is seen
    less = whole_again(seen, "p0", LATER)
    assert less == replace(seen, reports={"p1": LATER, "p2": LATER}, waiting={"p1": waits["p1"]})
    left = replace(whole_again(less, "p1", LATER), waiting=waits)
    over = whole_again(left, "p2", LATER)
    assert (over.reports, over.storm_since, over.waiting, over.turns) == ({}, None, {}, {})
    assert (over.let_out_at, over.let_out_pair) == (None, "")
    assert over.troubled_at == seen.troubled_at


def test_each_wait_is_over_at_its_last_instant() -> None:
    """30 s after the start, T_corr after the last report, the settle time, T_fire for a win, a minute for the next."""
    just_started = cell(4, heard=0)
    assert forbids(just_started, after(START, POLICY.unheard_s - 0.001), POLICY, "p0") == "arbiter-just-started"
    assert forbids(just_started, after(START, POLICY.unheard_s), POLICY, "p0") is None
    one = reported(reported(cell(20), "p0", LATER, POLICY), "p1", after(LATER, 5.0), POLICY)
    assert forbids(one, after(LATER, 5.0 + POLICY.corr_s - 0.001), POLICY, "p0") == "correlating"
    assert forbids(one, after(LATER, 5.0 + POLICY.corr_s), POLICY, "p0") is None
    settled = after(LATER, POLICY.settle_s)
    seen = asks(storm(), "p0", settled)
    assert forbids(seen, after(settled, -0.001), POLICY, "p0") == "storm"
    assert turn(seen, settled, "p0") == ["p0"]
    seen = asks(asks(let_out(seen, settled, "p0", "p0b"), "p0", settled), "p1", settled)
    assert turn(seen, after(settled, POLICY.fire_s), "p0", "p1") == ["p0"]
    assert turn(seen, after(settled, POLICY.fire_s + 0.001), "p0", "p1") == []
    minute = after(settled, POLICY.storm_retry_s)
    seen = asks(seen, "p1", minute)
    assert turn(seen, after(minute, -0.001), "p0", "p1") == []
    assert turn(seen, minute, "p0", "p1") == ["p1"]


def test_a_place_in_the_queue_is_kept_by_asking() -> None:
    """From the first question on, at the evidence stated last; lost 20 s after the last question."""
    first, again = QUIET, after(QUIET, 15.0)
    seen = asks(asks(storm(), "p0", first), "p0", again, off_twice=True)
    assert dict(seen.waiting) == {"p0": Waiting(0, first, again)}
    assert turn(seen, after(again, WAITING_S), "p0") == ["p0"]
    assert turn(seen, after(again, WAITING_S + 0.001), "p0") == []
    assert asks(storm(), "p0", first, gather=True) == storm()
    assert heard(storm(), pair_of("p0"), "p0b", statement("p0b", 1), first, POLICY) == storm()
    assert asks(cell(4), "p0", first) == cell(4), "without a storm nobody queues"
    for ports, rank in (("down-alone", 1), ("?", 2)):
        assert asks(storm(), "p0", first, ports=ports).waiting["p0"].rank == rank
    gone = asks(seen, "p0", again, ports="up-with-change")
    assert dict(gone.waiting) == {}


def test_the_queue_is_by_turns_then_evidence_then_time_then_name() -> None:
    """Each decides only where all before it are equal."""
    at = {n: after(QUIET, n) for n in range(4)}
    now = at[3]
    for first, second, turns in (
        (Waiting(2, at[1], now), Waiting(0, at[0], now), {"p1": 1}),
        (Waiting(0, at[1], now), Waiting(1, at[0], now), {}),
        (Waiting(1, at[0], now), Waiting(1, at[1], now), {}),
        (Waiting(1, at[0], now), Waiting(1, at[0], now), {"p0": 2, "p1": 2}),
    ):
        for waiting in ({"p0": first, "p1": second}, {"p1": second, "p0": first}):
            assert turn(replace(storm(), waiting=waiting, turns=turns), now, "p0", "p1") == ["p0"]


def test_a_target_speaks_for_two_seconds() -> None:
    """Heard within them, its claim takes no place; without a beat of its own it is heard all the same."""
    for heard_s, queued in ((2.0, False), (2.001, True)):
        pair = pair_of("p0", target_heard=after(QUIET, -heard_s))
        for known in (pair, replace(pair, beats={})):
            assert ("p0" in asks(storm(), "p0", QUIET, known).waiting) is queued


@pytest.mark.parametrize("reason", sorted({*REASONS, "inhibited", "peer-alive"}))
def test_only_a_refusal_for_its_own_sake_ends_a_pairs_waiting(reason: str) -> None:
    """What the storm itself answers does not."""
    seen = asks(asks(storm(), "p0", QUIET), "p1", QUIET)
    told = said(seen, "p0", (("p0b", Refused("n", reason, "")), ("p0b", statement("p0a", 1))), QUIET)
    assert set(told.waiting) == ({"p0", "p1"} if reason in REASONS else {"p1"})


def test_an_offer_counts_as_its_pairs_turn() -> None:
    """It is remembered whose and when, and that pair waits anew."""
    seen = asks(asks(storm(), "p0", QUIET), "p1", QUIET)
    for count in (1, 2):
        seen = said(asks(seen, "p0", QUIET), "p0", offer("p0"), QUIET)
        assert (dict(seen.turns), set(seen.waiting)) == ({"p0": count}, {"p1"})
        assert (seen.let_out_at, seen.let_out_pair, seen.let_out_node) == (QUIET, "p0", "p0b")


def test_a_surprise_is_one_within_the_minute_of_its_claim() -> None:
    """To the very end of it; where nobody was let out there is none."""
    seen = let_out(storm(), QUIET, "p0", "p0b")
    beat = statement("p0a", 1)
    edge = after(QUIET, POLICY.storm_retry_s)
    closed = heard(seen, pair_of("p0"), "p0a", beat, edge, POLICY)
    assert (closed.troubled_at, closed.let_out_at, closed.let_out_pair, closed.let_out_node) == (edge, None, "", "")
    never = replace(seen, let_out_at=None)
    assert heard(never, pair_of("p0"), "p0a", beat, edge, POLICY) == never


def test_who_has_spoken_is_known_once() -> None:
    """The second word changes nothing."""
    seen = spoke(cell(4, heard=1), "p2")
    assert seen.heard == {"p0", "p2"}
    assert spoke(seen, "p2") is seen
