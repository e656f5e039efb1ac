"""One node back alone from a power loss: by what its write age is compared, and when it is not. One promise a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from desk import A, B, Desk, evidence, reason
from pydantic import TypeAdapter
from scene import guard_of, run, whole_pair

from guard.core import attesting
from guard.core.evidence import Link, Volumes
from guard.core.messages import Claim, Offer, Refused, Won
from guard.core.pair import Kept, Pair
from guard.core.step import SawVolumes
from guard.core.turn import Turn

DOWN = {"role": "secondary", "disk": "C", "age_lo_s": None, "age_hi_s": None, "cold": True}


def lost_power(**of_a: Any) -> Desk:
    """Whole, A wrote last 3 s ago and attests; then both lose power, and the arbiter hears nobody for T_cold."""
    desk = Desk().whole()
    desk.attest(B, age_lo_s=3.0, age_hi_s=4.0)
    desk.wait(1.0)
    desk.attest(A, **{"role": "primary", "age_lo_s": 4.0, "age_hi_s": 5.0, **of_a})
    desk.wait(desk.policy.cold_s + 1, step_s=5.0)
    return desk


def cold_claim(desk: Desk, node: str, **said: Any) -> None:
    stated = evidence(node, connected=False, era=desk.register.era, **{**said, "gate": None})
    desk.hear(node, Claim("c1", "alone", stated, "?", cold=True))


def comes_back(desk: Desk, node: str, **more: Any) -> Any:
    """The offer, or the refusal, of a cold claim of `node` on a new boot."""
    said = {**DOWN, "boot_id": "another boot", **more}
    desk.attest(node, **{**said, "connected": False, "gate": None})
    cold_claim(desk, node, **said)
    found = [m for m in desk.wait(1.0) if isinstance(m, (Offer, Refused))]
    return found[-1] if found else desk.last(Refused)


def outcome(desk: Desk, node: str, **more: Any) -> str:
    """What the arbiter says to the commit: won, or the reason."""
    offer = comes_back(desk, node, **more)
    if isinstance(offer, Refused):
        return offer.reason
    said = desk.commit(node, "c1", "alone")
    return "won" if isinstance(said, Won) else reason(said)


@pytest.mark.parametrize("node", [A, B])
def test_whoever_comes_back_alone_is_compared_by_the_last_words_of_both(node: str) -> None:
    """V33: the arbiter's copies are of one session, so they lie to each other as they did then."""
    desk = lost_power()
    assert outcome(desk, node) == "won"
    assert desk.register.basis == "cold"


def test_both_sides_judge_the_same_ages() -> None:
    """The offer carries what the arbiter judges by: the candidate's own age as it was attested."""
    offer = comes_back(lost_power(), B)
    (mine,), (theirs,) = offer.candidate.replicas, offer.target.replicas
    assert (mine.age_lo_s, mine.age_hi_s) == (0.0, 5.0), "connected then: only the upper end is known; 1 s older"
    assert (theirs.age_lo_s, theirs.age_hi_s) == (0.0, 5.0)
    assert offer.target_age_s == offer.candidate_age_s


def test_a_write_that_the_candidate_never_got_leaves_it_to_a_person() -> None:
    """V30: its connection was lost when it spoke last, and the primary acknowledged a write after that."""
    desk = Desk().whole()
    desk.attest(B, age_lo_s=3.0, age_hi_s=4.0, connected=False)
    desk.wait(10.0)
    desk.attest(A, role="primary", age_lo_s=0.0, age_hi_s=2.0)
    desk.wait(desk.policy.cold_s + 1, step_s=5.0)
    assert outcome(desk, B) == "write-never-arrived"


def test_the_arbiter_may_have_been_rebooted_since_but_not_between_the_two() -> None:
    """How far the two lie apart is known only within one boot of the arbiter's machine."""
    since = lost_power()
    since.restart(reboot=True)
    assert comes_back(since, B).reason == "arbiter-just-started", "T_cold counts from the arbiter's start too"
    since.wait(since.policy.cold_s, step_s=5.0)
    assert outcome(since, B) == "won"
    between = Desk().whole()
    between.restart(reboot=True)
    between.attest(A, role="primary")
    between.wait(between.policy.cold_s + 1, step_s=5.0)
    assert outcome(between, B) == "silent-no-write-age"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"current": 0x1234_5678_9ABC_DEF0}, "unrelated-data"),  # not the generation that was attested
        ({"session": "another"}, "stale-evidence"),
        ({"continuous": False}, "stale-evidence"),
    ],
    ids=str,
)
def test_what_is_not_of_that_session_is_not_compared(more: dict[str, Any], why: str) -> None:
    """Law 3 of lastwords."""
    assert outcome(lost_power(), B, **more) == why


def test_a_target_that_was_heard_on_another_boot_since_is_left_to_a_person() -> None:
    """It came back, spoke, and fell silent: what it did then nobody knows."""
    desk = lost_power()
    desk.attest(A, **{**DOWN, "boot_id": "third", "connected": False})
    desk.wait(desk.policy.unheard_s + 1, step_s=5.0)
    assert outcome(desk, B) == "silent-no-write-age"


def test_a_target_that_is_heard_but_does_not_answer_is_waited_for() -> None:
    """A cold start has time."""
    desk = lost_power()
    desk.beat(A, member=False)
    desk.wait(5.0)
    assert comes_back(desk, B).reason == "target-heard"


def test_two_that_come_back_are_compared_by_their_last_words_too() -> None:
    """Both live, the path cut: neither has an age of this boot. Equal: the preferred node may, the other may not."""
    for node, other, expected in ((A, B, "won"), (B, A, "not-preferred")):
        desk = lost_power()
        cold_claim(desk, node, **{**DOWN, "boot_id": "second"})
        desk.answer(other, "c1", **{**DOWN, "boot_id": "third"})
        desk.wait(0.5, A, B)
        said = desk.commit(node, "c1", "alone")
        assert ("won" if isinstance(said, Won) else reason(said)) == expected


def test_the_last_words_outlive_the_arbiter() -> None:
    """They are part of its durable record, word by word."""
    desk = lost_power()
    adapter = TypeAdapter(Kept)
    again = adapter.validate_json(adapter.dump_json(desk.pair.kept))
    assert again == desk.pair.kept
    assert set(again.words) == {A, B}
    desk.pair = Pair(again, desk.now, desk.boot)
    desk.wait(desk.policy.cold_s, step_s=5.0)
    assert outcome(desk, B) == "won"


def test_a_resource_that_is_down_has_no_write_age() -> None:
    """Its ledger, if it has one, watched nothing since it is down."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    assert guard.volumes is not None
    (replica,) = guard.volumes.replicas
    for link, known in ((Link.CONNECTED, True), (Link.CONNECTING, True), (Link.DOWN, False)):
        seen, _ = run(guard, SawVolumes(Volumes(now, (replace(replica, link=link),))), now)
        (stated,) = attesting.evidence(Turn(seen, now)).replicas
        assert (stated.age_lo_s is not None) is known
