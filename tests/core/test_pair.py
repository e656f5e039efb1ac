"""What the arbiter concludes from what it heard of one pair, at the edge of every span of time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.core.instant import Instant, after
from guard.core.messages import Claim
from guard.core.pair import Gathering, Pair, drop, gone, one_membership, recently, stated, without
from guard.core.policy import Policy
from tests.core.desk import A, B, Desk, evidence, statement

POLICY = Policy()
NOW = Instant(10**15)


def heard(
    *, of_a: float | None = 0.0, of_b: float | None = 30.0, steady_a: float | None = 30.0, up: float = 31.0
) -> Pair:
    """A beats; B was heard last `of_b` seconds ago; the arbiter has been up for `up`."""
    beats = {node: s for node, s in ((A, of_a), (B, of_b)) if s is not None}
    at = {node: after(NOW, -s) for node, s in beats.items()}
    return replace(
        Desk().pair,
        started=after(NOW, -up),
        heard=at,
        beat_at=at,
        beats={node: statement(node, 1) for node in beats},
        steady_since={} if steady_a is None else {A: after(NOW, -steady_a)},
    )


def test_a_node_is_gone_after_30_s_of_silence_that_nothing_explains() -> None:
    """L2: the target's silence, the arbiter's own time up, and a candidate heard throughout: 30 s of each."""
    assert gone(heard(), B, NOW, POLICY)
    assert gone(heard(of_a=2.0), B, NOW, POLICY)
    assert gone(heard(of_b=None, up=30.0), B, NOW, POLICY)
    for short in (
        heard(of_b=29.999),
        heard(of_b=None, up=29.999),
        heard(of_b=100.0, up=29.999),
        heard(steady_a=29.999),
        heard(steady_a=None),
        heard(of_a=2.001),
        heard(of_a=None),
    ):
        assert not gone(short, B, NOW, POLICY)


@pytest.mark.parametrize(("ports", "dead"), [("down-alone", True), ("?", True), ("up-with-change", False)])
def test_ports_that_are_up_amid_change_contradict_a_death(ports: str, dead: bool) -> None:
    """Told by the other node's own claim; a claim of the silent node itself says nothing of it."""
    claim = Claim("n", "fence", evidence(A), ports)  # type: ignore[arg-type]
    gathering = Gathering(claim, A, NOW, NOW, NOW, waits_for_target=False)
    assert gone(replace(heard(), gatherings={A: gathering}), B, NOW, POLICY) is dead
    assert gone(replace(heard(), gatherings={B: gathering}), B, NOW, POLICY)


def test_a_beat_is_recent_for_two_seconds() -> None:
    """And what was never said is not."""
    assert recently(heard(of_a=2.0), A, NOW, POLICY)
    assert not recently(heard(of_a=2.001), A, NOW, POLICY)
    assert not recently(heard(of_a=None), A, NOW, POLICY)


def test_what_a_node_states_is_void_once_it_was_heard_without_it() -> None:
    """Heard for more than 2 s since its last beat: what it says now cannot be read."""
    pair = heard()
    for seconds, read in ((0.0, True), (2.0, True), (2.001, False)):
        later = replace(pair, heard={**pair.heard, A: after(NOW, seconds)})
        assert stated(later, A, POLICY) == (pair.beats[A] if read else None)
    assert stated(replace(pair, heard={}), A, POLICY) is None
    assert stated(replace(pair, beat_at={}), A, POLICY) is None
    assert stated(replace(pair, beats={}), A, POLICY) is None


def test_one_membership_is_what_both_say_now() -> None:
    """Each within 2 s, neither stopped since, each naming the other a member: a missing word is no yes."""
    both = heard(of_a=2.0, of_b=2.0)
    assert one_membership(both, NOW)
    for spoilt in (
        heard(of_a=2.001, of_b=0.0),
        heard(of_a=0.0, of_b=2.001),
        heard(of_b=None),
        replace(both, left=frozenset({B})),
        replace(both, beats={A: both.beats[A]}),
        *(replace(both, beats={**both.beats, B: statement(B, 1, member=said)}) for said in (None, False)),
    ):
        assert not one_membership(spoilt, NOW)


def test_dropping_and_lifting_touch_what_they_name() -> None:
    """And what is not there is not missed."""
    desk = Desk().whole()
    desk.inhibit(A, "x")
    desk.inhibit(A, "y")
    claim = Claim("n", "fence", evidence(A), "?")
    gatherings = {node: Gathering(claim, node, NOW, NOW, NOW, waits_for_target=False) for node in (A, B)}
    pair = replace(desk.pair, gatherings=gatherings)
    assert set(without(pair, "x").kept.inhibits) == {"y"}
    assert without(pair, "z") is pair
    assert set(drop(pair, A).gatherings) == {B}
    assert drop(drop(pair, A), A) == drop(pair, A)
