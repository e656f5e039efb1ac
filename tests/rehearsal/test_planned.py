"""A plan on a site's own facts: every step and every way back, the worst of what is not known, always the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guard.plan import KINDS, Plan, load
from guard.rehearsal import transcript
from guard.rehearsal.guesses import guesses, subjects
from guard.rehearsal.planned import (
    CAP_S,
    LEAD_S,
    Case,
    Course,
    Task,
    Unplaced,
    cases,
    courses,
    follow,
    run,
    scenario,
    told,
    touched,
)
from guard.rehearsal.surroundings import Surroundings
from guard.rehearsal.tally import Tally
from guard.rehearsal.works import Go, Hit, hit
from guard.rehearsal.world import World
from guard.survey import Fact, Survey, Value, read

EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "change"
KNOWN = read(EXAMPLE / "survey.json")
BACK = {"action": "back as it was", "duration": "5m"}


def site(changed: Mapping[str, Value | None]) -> Survey:
    """The example's site with other facts; None is UNKNOWN."""
    facts = {key: Fact(value, "a test", "2026-11-30T09:00:00+00:00", "unseen") for key, value in changed.items()}
    return replace(KNOWN, facts={**KNOWN.facts, **facts})


def plan(*works: str) -> Plan:
    """`kind element` each."""
    steps = [
        {"action": work, "kind": work.split()[0], "elements": work.split()[1:], "duration": "5m", "rollback": BACK}
        for work in works
    ]
    return Plan.model_validate({"change": "CHG-1", "step": steps})


def course(what: Plan, survey: Survey = KNOWN, *, held: bool) -> Course:
    return next(each for each in courses(what, survey) if each.held is held)


def phases(one: Course, case: Case) -> list[Any]:
    return [each for each in scenario(one, [case]).phases if each.when.get("case") == case.name]


# ------------------------------------------------------------------ what is played


def test_every_step_and_every_way_back_is_played_in_order() -> None:
    """All as they go well, all undone from the last, each for its bound, each failing at two points: held and not."""
    two = plan("link-shut agg1", "diagnostic agg2")
    names = [case.name for case in cases(two)]
    assert names[:4] == ["1-well", "2-well", "2-undone", "1-undone"]
    assert names[4:6] == ["1-longest", "2-longest"]
    assert names[6:] == ["1-fails-0.25", "1-fails-0.75", "2-fails-0.25", "2-fails-0.75"]
    assert [each.held for each in courses(two, KNOWN)] == [True, False]


@pytest.mark.parametrize("element", ["agg1", "agg1:Eth1/1", "fs1b", "arbiter"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_work_has_faults_for_every_element(kind: str, element: str) -> None:
    """What a plan may say can be played, in every manner; an upgrade of a switch is none of a node or the arbiter."""
    if kind == "switch-upgrade" and element in ("fs1b", "arbiter"):
        kind = "reboot"
    one = course(plan(f"{kind} {element}"), held=False)
    for case in cases(one.plan):
        assert phases(one, case), case


def test_a_failed_step_is_rolled_back_at_once() -> None:
    """At a quarter of its upper bound the work stops, and going back begins before anybody is whole again."""
    one = course(plan("diagnostic agg1"), site({"switch.agg1.peers": (), "switch.agg2.peers": ()}), held=False)
    found = phases(one, Case(1, "fails", 0.25))
    began = sorted({float(str(each.at)) for each in found})
    assert began == [LEAD_S, LEAD_S + 0.25 * 90 + 2.0]


def test_a_bound_beyond_every_timer_is_capped() -> None:
    """Three hours of silence teach no more than sixteen minutes: the longest timer is 15 minutes."""
    one = course(plan("reinstall agg1"), held=False)
    reboots = [each for each in phases(one, Case(1, "longest")) if each.fault == "switch-reboots"]
    assert [each.args["silent_s"] for each in reboots] == [CAP_S]
    assert CAP_S > 900


def test_shots_that_cross_the_changed_element_come_late() -> None:
    """A fence path over the switch, or over its MLAG peer, is held and lets go after the thaw; one past it is not."""
    across, past = site({"fence.fs1a.path": ("agg2",)}), site({"fence.fs1a.path": (), "fence.fs1b.path": ()})
    found = phases(course(plan("reboot agg1"), across, held=False), Case(1, "longest"))
    (held,) = [each for each in found if each.fault == "hold"]
    assert held.args["paths"] == "device-a+device-b"
    assert "$late_s" in str(held.lasts)
    found = phases(course(plan("reboot agg1"), past, held=False), Case(1, "longest"))
    assert not any("device" in str(each.args) for each in found)


def test_an_mlag_pair_shares_its_fate() -> None:
    """A diagnostic on one switch is the day of 2012 for whoever hangs on either."""
    faults = {each.fault for each in phases(course(plan("diagnostic agg2"), held=False), Case(1, "longest"))}
    assert "mlag-agent-dies" in faults
    alone = site({"switch.agg1.peers": (), "switch.agg2.peers": ()})
    faults = {each.fault for each in phases(course(plan("diagnostic agg2"), alone, held=False), Case(1, "longest"))}
    assert "mlag-agent-dies" not in faults


def test_what_the_site_has_not_is_refused() -> None:
    """A switch that nobody surveyed, a port that does not exist, a plan that touches no pair: never good."""
    for work in ("reboot agg9", "link-shut agg1:Eth9/9"):
        with pytest.raises(Unplaced, match="cannot place"):
            courses(plan(work), KNOWN)
    elsewhere = site({"switch.edge9.peers": (), "switch.edge9.port.Eth1": "uplink"})
    with pytest.raises(Unplaced, match="cannot place"):
        courses(plan("reboot edge9"), elsewhere)


def test_every_pair_of_the_survey_has_its_own_rows() -> None:
    """Two pairs on one site: each with its own worlds; the one that hangs elsewhere is not touched."""
    second = {key.replace("fs1", "fs2"): fact.value for key, fact in KNOWN.facts.items() if "fs1" in key}
    second = {key: value for key, value in second.items() if not key.startswith("switch.")}
    second |= {"pair.fs2.nodes": ("fs2a", "fs2b"), "pair.fs2.preferred": "fs2b", "fence.fs2a.path": ()}
    second |= {"fence.fs2b.path": (), "switch.edge1.peers": (), "switch.edge1.port.E1": "fs2a"}
    some = courses(plan("reboot agg1"), site(second))
    assert [(each.subject.pair, each.held) for each in some] == [
        ("fs1", True), ("fs1", False), ("fs2", True), ("fs2", False),
    ]  # fmt: skip
    assert some[2].subject.a == "fs2b"
    assert [touched(each.plan, 1, each.subject) for each in some] == [True, True, False, False]
    assert [(row.pair, row.held) for row in Tally(some).ordered()] == [(e.subject.pair, e.held) for e in some]


# ------------------------------------------------------------------ what is not known


DECIDE = [key for key in KNOWN.facts if key.rpartition(".")[2] not in ("cell", "address", "resources", "nodes")]


@pytest.mark.parametrize("key", [key for key in DECIDE if not key.startswith(("limits.", "switch.")) or "peers" in key])
def test_every_unknown_fact_is_told(key: str) -> None:
    """Whatever is missing, the record says what was done about it, and why it is missing."""
    told_of = {each.fact: each for each in guesses(site({key: None}), "fs1")}
    assert told_of[key].why == "unseen"
    assert told_of[key].because


def test_an_unknown_number_becomes_the_worst() -> None:
    """The shortest token, the latest ping, the least patient cluster, shots that wait and never expire."""
    blind = site({key: None for key in DECIDE if key.endswith("_s")})
    around = subjects(blind, "fs1")[0].around
    known = subjects(KNOWN, "fs1")[0].around
    assert around.token_s < known.token_s
    assert around.consensus_s < known.consensus_s
    assert around.ping_s > known.ping_s
    assert max(around.wait_s) < min(known.wait_s)
    assert min(around.delay_s) > max(known.delay_s)
    assert around.horizon_s == ("unbounded", "unbounded")


def test_an_unproven_gate_stays_unproven() -> None:
    """One word that nobody could read, and nothing is permitted on it."""
    around = subjects(site({"node.fs1b.gate.r0.fencing": None}), "fs1")[0].around
    assert [gate.facts().closed() for gate in around.gates] == [True, None]


def test_where_it_is_not_clear_what_is_worse_every_way_is_played() -> None:
    """An unknown path may cross the element or not, an unknown preferred node be either: the product of them."""
    unknown = site({"arbiter.path": None, "fence.fs1b.path": None, "pair.fs1.preferred": None})
    found = subjects(unknown, "fs1")
    assert len(found) == 8
    hits = {(each.a, hit(each, "agg1").paths, hit(each, "agg1").devices) for each in found}
    assert len(hits) == 8
    assert len(subjects(KNOWN, "fs1")) == 1


def test_unknown_peers_may_be_any_and_help_nobody() -> None:
    """A switch that perhaps belongs to an MLAG pair freezes with all others, and nothing takes over from it."""
    found = hit(subjects(site({"switch.agg1.peers": None}), "fs1")[0], "agg1")
    assert found == Hit("switch", "", "pair", "device-a+device-b", mlag=False)


def test_a_pair_without_a_known_port_crosses_every_switch() -> None:
    """Nobody wrote down where it hangs: then it hangs on whatever is changed."""
    lost = {key: "other" for key in KNOWN.facts if ".port." in key}
    assert lost
    assert hit(subjects(site(lost), "fs1")[0], "agg2").paths == "pair"
    assert "pair.fs1.ports" in {each.fact for each in guesses(site(lost), "fs1")}


# ------------------------------------------------------------------ what comes of it


def test_an_unheld_pair_whose_shots_cross_the_switch_loses_nobody() -> None:
    """2012 on this site's own timers: the guards hold by themselves, and shots that come late hit nobody."""
    one = course(plan("diagnostic agg1"), held=False)
    came = follow(Task(0, one, 1))
    assert [each.case.name for each in came] == [case.name for case in cases(one.plan)]
    assert not any(each.failure or each.shot for each in came)


def test_a_pair_that_is_held_is_held_before_the_work_begins() -> None:
    """And nobody is shot although the very node that is worked on stands still."""
    came = follow(Task(0, course(plan("diagnostic fs1b"), held=True), 1))
    assert all(each.held and not each.shot and each.failure is None for each in came)


SLOW = {"limits.corr": 4.6, "limits.answer": 4.7}
"""Limits with which a survivor cannot have its right 1.5 s after asking (L1): its guard gathers from the moment of the
silence on, and DRBD and corosync ask some 3 s later."""


def test_a_broken_rule_is_told_and_hides_no_later_case() -> None:
    """Limits too slow for L1: the case is named, its transcript plays again, and what comes after it is played."""
    one = course(plan("reboot fs1b"), site(SLOW), held=False)
    came = follow(Task(0, one, 4))
    assert [each.case for each in came] == list(cases(one.plan))
    broke = [each for each in came if each.failure is not None]
    assert broke[0].case != came[-1].case
    assert {each.failure.rule for each in broke if each.failure} == {"L1"}
    tally = Tally([one])
    tally.add(came)
    assert not tally.kept
    assert sum(row.rules["L1"] for row in tally.ordered()) == len(broke)
    kept = told(broke[0], "x")
    assert kept is not None
    assert transcript.replay(kept).differs_at is None


def test_a_step_that_touches_nothing_of_a_pair_is_not_played() -> None:
    """Its row says so: no case, and no promise kept by accident."""
    far = site({"switch.edge9.peers": (), "switch.edge9.port.Eth1": "uplink"})
    one = course(plan("reboot edge9", "configuration agg1"), far, held=True)
    came = follow(Task(0, one, 1))
    assert {each.case.number for each in came} == {2}
    tally = Tally([one])
    tally.add(came)
    assert [row.json()["touched"] for row in tally.ordered()] == [False, True]
    assert tally.kept


def test_the_result_does_not_depend_on_the_workers() -> None:
    """One process or two: the same cases with the same ends, in the same order."""
    some = courses(plan("link-shut agg1"), KNOWN)
    one, two = (list(run(some, 1, 2, workers)) for workers in (1, 2))
    assert one == two
    assert len(one) == len(some) * 2


def test_the_example_is_a_plan_for_the_example() -> None:
    """What a person copies can be played, knows all that it needs, and keeps every rule and promise."""
    some = courses(load(EXAMPLE / "plan.toml").plan, KNOWN)
    tally = Tally(some)
    for came in run(some, 1, 1, 1):
        tally.add(came)
    assert tally.kept
    assert KNOWN.unknown() == {}


def test_a_sum_of_times_stays_one() -> None:
    """A drawn time and some seconds more is what a phase can read."""
    assert Go(1.0, 2.0, gentle=True).plus(6) == 8.0
    assert Go(1.0, "$well_1", gentle=True).plus(6) == "$well_1 + 6"


def test_the_membership_is_lost_a_token_and_a_consensus_after_the_last_word() -> None:
    """corosync first misses the token, then waits for a consensus: 2.14 s at a token of 1 s, 6.34 s at 3 s (labs)."""
    lost: dict[float, float] = {}
    for consensus_s in (0.0, 3.6):
        world = World(5, prepare=Surroundings(consensus_s=consensus_s).put)
        world.begin()
        world.run(20)
        world.nodes["B"].power_off("its power supply died")
        died, cluster = world.now, world.nodes["A"].cluster
        assert world.until(lambda cluster=cluster: not cluster.peer_member, 30.0)  # type: ignore[misc]
        lost[consensus_s] = (world.now - died) / 1e9
    assert 3.0 < lost[3.6] - lost[0.0] < 4.2
