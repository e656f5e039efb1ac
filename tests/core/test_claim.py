"""Judging a claim: what the rules around the verdict table forbid, and which inhibit stops which claim."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any, get_args

import pytest

from guard.core.claim import Bundle, bundle_of, member, reconfirmed, refusing, rule
from guard.core.messages import Basis, InhibitView, Offer, Purpose, RegisterView
from guard.core.policy import Policy
from guard.core.verdict import Result
from tests.core.desk import A, B, evidence, replica

POLICY = Policy()
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def bundle(fresh: str = "silent", *, mine: dict[str, Any] | None = None, **theirs: Any) -> Bundle:
    """B claims, A is the target and was Primary; both good, B's disk continuous."""
    target = {"role": "primary", "age_lo_s": 0.0, "age_hi_s": 30.0, **theirs}
    return Bundle(
        candidate=evidence(B, **{"connected": False, "age_lo_s": 10.0, "age_hi_s": 20.0, **(mine or {})}),
        candidate_age_s=0.5,
        target=evidence(A, **target),
        fresh=fresh,  # type: ignore[arg-type]
        target_age_s=0.5,
        target_yielded=False,
        preferred_is_candidate=False,
    )


def test_the_normal_failover_is_granted() -> None:
    """V32: silent, same generation, gate on, ages compared."""
    for purpose in PURPOSES:
        ruling = rule(bundle(), purpose, POLICY, cold=False)
        assert (ruling.next, ruling.verdict.row, ruling.basis) == ("commit", "V32", "verdict")


@pytest.mark.parametrize(
    ("mine", "theirs", "reason"),
    [
        ({"continuous": False}, {}, "stale-evidence"),
        ({"role": "?"}, {}, "own-role-unreadable"),
        ({"disk": "C"}, {}, "cold-wait"),
        ({"disk": "?"}, {}, "own-disk-unreadable"),
        ({"current": None}, {}, "generation-unreadable"),
        ({"age_lo_s": None}, {}, "silent-no-write-age"),
        ({"age_lo_s": 500.0, "age_hi_s": None}, {"age_lo_s": 1.0, "age_hi_s": 2.0}, "write-never-arrived"),
        ({}, {"age_lo_s": None}, "silent-no-write-age"),
        ({}, {"current": None}, "generation-unreadable"),
        ({}, {"disk": "?"}, "target-disk-unknown"),
        ({}, {"gate": False}, "silent-gate-off"),
        ({}, {"gate": None}, "silent-gate-off"),
        ({"role": "primary"}, {"role": "?"}, "two-primaries"),
        ({}, {"resource": "r9"}, "no-replicated-resource"),
    ],
    ids=str,
)
def test_what_is_unknown_or_broken_grants_nothing(mine: dict[str, Any], theirs: dict[str, Any], reason: str) -> None:
    """Each missing or doubtful word of either side turns the normal failover into a no, for both purposes."""
    for purpose in PURPOSES:
        ruling = rule(bundle(mine=mine, **theirs), purpose, POLICY, cold=False)
        if mine.get("disk") == "C":
            assert ruling.next == "no"
            assert ruling.reason in (reason, "own-disk-consistent-only")
            continue
        assert (ruling.next, ruling.reason) == ("no", reason)


def test_a_cold_disk_is_granted_to_a_cold_claim_only() -> None:
    """V33: Consistent serves a cold start; the cold word in the evidence and in the claim are both needed."""
    cold = replace(bundle(mine={"disk": "C", "cold": True}))
    assert rule(cold, "alone", POLICY, cold=True).basis == "cold"
    assert rule(cold, "alone", POLICY, cold=False).next == "no"
    assert rule(bundle(mine={"disk": "C"}), "alone", POLICY, cold=True).next == "no"


def test_a_live_target_is_never_fenced_without_its_yield() -> None:
    """Over every disk, role, gate and age of a living target: no fence; with its yield some, and `alone` some."""
    alone = fenced = 0
    for disk, role, gate, age, own_role in product(
        "UCOID?", ("primary", "secondary", "?"), (True, False, None), (None, 0.0, 100.0), ("primary", "secondary")
    ):
        theirs = {
            "disk": disk,
            "role": role,
            "gate": gate,
            "age_lo_s": age,
            "age_hi_s": None if age is None else age + 1,
        }
        live = bundle("live", mine={"role": own_role}, **theirs)
        assert rule(live, "fence", POLICY, cold=False).next != "commit"
        alone += rule(live, "alone", POLICY, cold=False).next == "commit"
        fenced += rule(replace(live, target_yielded=True), "fence", POLICY, cold=False).next == "commit"
    assert alone > 0
    assert fenced > 0


def test_elapsed_time_that_is_not_known_makes_the_age_unknown() -> None:
    """The arbiter rebooted since the target's word: V31."""
    ruling = rule(replace(bundle(), target_age_s=None), "fence", POLICY, cold=False)
    assert ruling.reason == "silent-no-write-age"


def test_a_tie_is_granted_to_the_preferred_node_only() -> None:
    """V23, both secondary and alive, ages overlapping."""
    tie = bundle("live", role="secondary", age_lo_s=10.0, age_hi_s=20.0)
    assert rule(tie, "alone", POLICY, cold=False).reason == "not-preferred"
    assert rule(replace(tie, preferred_is_candidate=True), "alone", POLICY, cold=False).next == "commit"


def test_several_resources_are_as_bad_as_their_worst() -> None:
    """One that needs a person stops the claim; one that the target alone has, too."""
    good = bundle()
    worse = replace(good.candidate, replicas=(*good.candidate.replicas, replica(resource="r1")))
    assert good.target is not None
    both = replace(good.target, replicas=(*good.target.replicas, replica(resource="r1", gate=False)))
    assert rule(replace(good, candidate=worse, target=both), "fence", POLICY, cold=False).reason == "silent-gate-off"
    assert rule(replace(good, target=both), "fence", POLICY, cold=False).next == "no"
    assert rule(replace(good, candidate=worse), "fence", POLICY, cold=False).next == "no"
    nothing = replace(good.candidate, replicas=())
    assert rule(replace(good, candidate=nothing), "fence", POLICY, cold=False).next == "no"


KINDS = ("person", "change", "disturbance", "storm", "redundancy", "peer-alive")


def plain_rule(kind: str, ended: bool, sitting: bool, cold: bool, lost: float, quiet: float) -> bool:
    """May `alone` be claimed under this one inhibit? Section 4, step 2 and the exceptions, in other words."""
    settled = quiet >= 60.0
    if kind == "peer-alive":
        return sitting or cold
    if kind in ("person", "change"):
        return ended and settled
    return (ended and settled) or (sitting and lost >= 30.0)


@pytest.mark.parametrize("kind", KINDS)
def test_which_inhibit_stops_which_claim(kind: str) -> None:
    """Every combination against the plain rule; a fence is stopped by each, also by one that has ended."""
    for ended, sitting, cold, lost, quiet in product(
        (True, False), (True, False), (True, False), (0.0, 29.9, 30.0), (0.0, 59.9, 60.0)
    ):
        view = InhibitView("x", kind, A, "r", 0.0, ended)  # type: ignore[arg-type]

        def asked(
            purpose: Purpose,
            view: InhibitView = view,
            sitting: bool = sitting,
            cold: bool = cold,
            lost: float = lost,
            quiet: float = quiet,
        ) -> InhibitView | None:
            return refusing(
                (view,), purpose, sitting=sitting, cold=cold, lost_for_s=lost, quiet_for_s=quiet, policy=POLICY
            )

        assert asked("fence") is view
        assert (asked("alone") is None) == plain_rule(kind, ended, sitting, cold, lost, quiet)


def test_results_that_never_commit() -> None:
    """No ruling whose verdict is PERSON, PREFER_T, TIE or CONSENT says commit."""
    for fresh, disk, gate, yielded in product(("live", "silent", "stale"), "UCOID?", (True, False), (True, False)):
        for purpose, role in product(PURPOSES, ("primary", "secondary")):
            one = replace(bundle(fresh, disk=disk, gate=gate, role=role), target_yielded=yielded)
            ruling = rule(one, purpose, POLICY, cold=False)
            if ruling.verdict.result not in (Result.GRANT, Result.GRANT_COLD):
                assert ruling.next != "commit"


@pytest.mark.parametrize("gate", [False, None])
def test_a_win_is_used_again_only_over_a_target_that_cannot_have_written_since(gate: bool | None) -> None:
    """S2: V11 grants over a living gateless target; resynced, it may be primary and write alone once it is cut.

    A target that is bound, by its yield or by a person's certificate, cannot; nor one whose gate is proven.
    """
    bound: tuple[Basis, ...] = ("yield", "person")
    for basis in get_args(Basis):
        assert reconfirmed(bundle(), basis) is None
        doubt = reconfirmed(bundle(gate=gate), basis)
        assert (doubt is None) is (basis in bound), basis
        assert reconfirmed(replace(bundle(gate=gate), target_yielded=True), basis) is None
        assert (reconfirmed(replace(bundle(), target=None), basis) is None) is (basis in bound)


def test_a_living_target_without_its_disk_and_gate_must_yield_first() -> None:
    """S2: V11 grants over a disk that is not current by its own words; a detached one may be attached again."""
    for gate, role in product((False, None), ("secondary", "?")):
        detached = bundle("live", role=role, disk="D", gate=gate)
        if role == "secondary":
            assert rule(detached, "alone", POLICY, cold=False).next == "want-yield"
            assert rule(replace(detached, target_yielded=True), "alone", POLICY, cold=False).next == "commit"
        else:
            assert rule(detached, "alone", POLICY, cold=False).next != "commit"
    for disk in ("O", "I"):
        worse = bundle("live", role="secondary", disk=disk, gate=False)
        assert rule(worse, "alone", POLICY, cold=False).next == "commit"
    assert rule(bundle("live", role="secondary", disk="D"), "alone", POLICY, cold=False).next == "commit"


def test_the_offers_words_are_as_old_as_the_offer_and_the_wait_after_it() -> None:
    """The candidate judges what the arbiter judged, later: ages grow by the wait, and one not known stays so."""
    said = bundle()
    for preferred, target_age_s in product((A, B), (None, 2.0)):
        register = RegisterView("s", 1, None, (), None, 1, preferred)
        offer = Offer("n", register, said.candidate, said.target, "silent", 1.0, target_age_s, True, False, 2.0)
        older = None if target_age_s is None else 2.25
        assert bundle_of(offer, 0.25) == Bundle(
            said.candidate,
            1.25,
            said.target,
            "silent",
            older,
            target_yielded=True,
            preferred_is_candidate=preferred == B,
        )


MEMBERS = {None: "membership-unknown", True: "target-is-member", False: None}


@pytest.mark.parametrize(("seen", "yielded"), [*product(MEMBERS, (True, False))])
def test_a_member_is_not_dead_unless_it_yielded(seen: bool | None, yielded: bool) -> None:
    """Law 6: the candidate's own membership must say that the target is gone; `alone` asks for no death."""
    good = replace(bundle(), target_yielded=yielded)
    good = replace(good, candidate=replace(good.candidate, peer_member=seen))
    reason = None if yielded else MEMBERS[seen]
    assert (member(good) or (None,))[0] == reason
    ruling = rule(good, "fence", POLICY, cold=False)
    assert (ruling.next, ruling.reason if reason else None) == ("no" if reason else "commit", reason)
    assert ("member" in ruling.verdict.text) is bool(reason)
    assert rule(good, "alone", POLICY, cold=False).next == "commit"


@pytest.mark.parametrize(("disk", "cold", "continuous"), [*product("UCOID?", (True, False), (True, False))])
def test_a_win_is_used_again_only_with_the_disk_that_it_was_won_with(disk: str, cold: bool, continuous: bool) -> None:
    """S2: UpToDate without a break; only Consistent where the win was a cold start's."""
    again = reconfirmed(bundle(mine={"disk": disk, "cold": cold, "continuous": continuous}), "verdict")
    good = continuous and (disk == "U" or (disk == "C" and cold))
    assert (again or (None,))[0] == (None if good else "own-disk-discontinuous")


def test_a_silent_target_may_have_written_until_now() -> None:
    """Its lower end is 0: that its last known write is old does not make the candidate's later."""
    told = bundle(connected=False, age_lo_s=100.0, age_hi_s=200.0)
    assert rule(told, "fence", POLICY, cold=False).verdict.row == "V32"
    live = rule(replace(told, fresh="live"), "fence", POLICY, cold=False)
    assert live.reason == "secondary-wrote-after-primary"


@pytest.mark.parametrize(("connected", "row"), [(True, "V23"), (False, "V26")])
def test_a_word_said_while_connected_has_no_lower_end(connected: bool, row: str) -> None:
    """More was written since the sample: what it said of its last write bounds only how old that is."""
    live = bundle("live", role="secondary", connected=connected, age_lo_s=100.0, age_hi_s=200.0)
    assert rule(live, "alone", POLICY, cold=False).verdict.row == row


@pytest.mark.parametrize(("fresh", "disk"), [*product(("live", "silent"), "OID")])
def test_a_target_that_wrote_later_is_not_passed_over_for_its_bad_disk(fresh: str, disk: str) -> None:
    """S2: V11 and V12 grant over a disk that was not current; not over a write that the candidate never got."""
    mine = {"age_lo_s": 500.0, "age_hi_s": None}
    theirs = {"disk": disk, "role": "secondary", "age_lo_s": 1.0, "age_hi_s": 2.0}
    for purpose in PURPOSES:
        ruling = rule(bundle(fresh, mine=mine, **theirs), purpose, POLICY, cold=False)
        assert (ruling.next, ruling.reason) == ("no", "target-wrote-later")
        assert "later" in ruling.verdict.text


@pytest.mark.parametrize("fresh", ["live", "silent", "stale"])
def test_a_resource_that_the_target_says_nothing_of_has_no_generation(fresh: str) -> None:
    """Law 4: however fresh the rest is, V3."""
    good = bundle(fresh)
    more = replace(good.candidate, replicas=(replica(resource="r1"),))
    assert good.target is not None
    less = replace(good.target, replicas=())
    ruling = rule(replace(good, candidate=more, target=less), "alone", POLICY, cold=False)
    assert (ruling.next, ruling.reason) == ("no", "generation-unreadable")


def test_why_a_living_target_is_asked_to_yield_is_said() -> None:
    """The reason names the rule that asks, beside the row; people are told what is asked of the target."""
    detached = rule(bundle("live", role="secondary", disk="D", gate=False), "alone", POLICY, cold=False).verdict
    broken = bundle("live", age_lo_s=10.0, age_hi_s=20.0)
    assert broken.target is not None
    unfit = rule(replace(broken, target=replace(broken.target, unfit=True)), "alone", POLICY, cold=False).verdict
    assert (detached.row, detached.reason) == ("V11", "target-says-not-current-diskless")
    assert (unfit.row, unfit.reason) == ("V17", "living-primary-unfit")
    for verdict in (detached, unfit):
        assert verdict.result is Result.CONSENT
        assert "must yield" in verdict.text or "asked to yield" in verdict.text


SECONDARY = {"role": "secondary", "age_lo_s": 10.0, "age_hi_s": 20.0}
RULINGS = {  # row, purpose: what the claim says, and how the era would be won
    ("V32", "fence"): (bundle(), "commit", "verdict", "all-acknowledged-is-here"),
    ("V33", "alone"): (bundle(mine={"disk": "C", "cold": True}), "no", "cold", "cold-wait"),
    ("V24", "alone"): (bundle("live", **SECONDARY, gate=False), "want-yield", "verdict", "needs-yield"),
    ("V23", "alone"): (bundle("live", **SECONDARY), "no", "tie", "not-preferred"),
    ("V5", "alone"): (bundle("live", mine={"disk": "O"}), "no", "verdict", "own-disk-not-current"),
    ("V28", "fence"): (bundle(gate=False), "no", "verdict", "silent-gate-off"),
    ("V11", "fence"): (bundle("live", role="secondary", disk="O"), "want-yield", "verdict", "living-target"),
    ("V11", "alone"): (bundle("live", role="secondary", disk="O"), "commit", "verdict", "target-says-not-current"),
}


@pytest.mark.parametrize(("row", "purpose"), RULINGS)
def test_a_ruling_says_what_follows_and_on_what_basis(row: str, purpose: Purpose) -> None:
    """The basis is written into the register with the win; the reason is what `explain` and the agent show."""
    judged, further, basis, reason = RULINGS[row, purpose]
    ruling = rule(judged, purpose, POLICY, cold=False)
    assert (ruling.verdict.row, ruling.next, ruling.basis, ruling.reason) == (row, further, basis, reason)


def test_a_member_is_no_basis_of_its_own() -> None:
    """The verdict stands in the record, with the words of what stopped it."""
    good = bundle()
    ruling = rule(replace(good, candidate=replace(good.candidate, peer_member=True)), "fence", POLICY, cold=False)
    assert (ruling.verdict.row, ruling.basis) == ("V32", "verdict")


def test_a_target_of_which_nothing_is_known_is_a_persons_business() -> None:
    """No testimony at all: V3."""
    ruling = rule(replace(bundle("stale"), target=None, target_age_s=None), "fence", POLICY, cold=False)
    assert (ruling.next, ruling.reason) == ("no", "generation-unreadable")
