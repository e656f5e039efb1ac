"""The claim of a guard whose hold only a lost peer keeps: when it is made, and for what; and who is heard at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import done, of, of_a_whole_pair, remembering, sent, with_ack, with_replicas
from test_hold import ALIVE, OF_B, PERSON, ended, holding
from test_machine_hold import DISTURBANCE

from guard.core import machine
from guard.core.evidence import Link, Power, Up
from guard.core.instant import after
from guard.core.messages import Bye, Claim, Closed
from guard.core.step import Bar, Heard, Note, ReadPower
from guard.core.turn import Attempt, Closing, Right


def held(*listed, **changed):
    """A holds by an ended disturbance; B has left the membership; all else speaks for a release."""
    guard, now = holding(ended(DISTURBANCE), listed=listed)
    guard = with_replicas(guard, link=Link.CONNECTING)
    members = replace(guard.members, peer_member=False)
    made = {"members": members, "acked": now, "whole_since": None, "due": {}, "sounded": None}
    return replace(guard, **{**made, **changed}), now


def claims(guard, now):
    return sent(done(guard, now, machine._releasing_claim)[1], Claim)


def test_only_a_lost_peer_in_the_way_a_release_is_claimed() -> None:
    """Exception a: `alone`, for nobody's request; again after 5 to 6 s."""
    guard, now = held()
    first, effects = done(guard, now, machine._releasing_claim)
    [claim] = sent(effects, Claim)
    assert (claim.purpose, claim.gather, claim.want_yield) == ("alone", False, False)
    assert (first.attempt.job, first.attempt.releasing, first.attempt.want_yield) == (None, True, False)
    tried = replace(first, attempt=None)
    due_s = (tried.due["releasing"] - now) / 1e9
    assert 5.0 <= due_s < 6.0
    assert claims(replace(tried, acked=after(now, 4.9)), after(now, 4.9)) == []
    assert len(claims(replace(tried, acked=after(now, 6.0)), after(now, 6.0))) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda g, now: remembering(g, holding=False), id="nothing is held"),
        pytest.param(lambda g, now: replace(g, attempt=Attempt("n", "alone", None, now)), id="a claim is under way"),
        pytest.param(lambda g, now: replace(g, right=Right("alone", 1, 2, now, 1)), id="it has the right"),
        pytest.param(lambda g, now: replace(g, members=replace(g.members, peer_member=True)), id="the peer is there"),
        pytest.param(lambda g, now: replace(g, cluster=replace(g.cluster, failed_stop=True)), id="this node is unfit"),
        pytest.param(lambda g, now: replace(g, network=replace(g.network, quiet_since=now)), id="not quiet"),
        pytest.param(lambda g, now: with_ack(g, inhibits=(OF_B,)), id="the peer's disturbance stands"),
        pytest.param(lambda g, now: with_ack(g, inhibits=(PERSON,)), id="a person's hold stands"),
        pytest.param(lambda g, now: with_ack(g, inhibits=(ALIVE,)), id="the peer lives, and is fit"),
        pytest.param(lambda g, now: replace(g, acked=after(now, -9.0)), id="the arbiter is silent"),
    ],
)
def test_anything_else_in_the_way_claims_nothing(change) -> None:
    """Won, it would only bar a peer that can serve; or what stands is not this node's to end."""
    guard, now = held()
    assert len(claims(guard, now)) == 1
    assert claims(change(guard, now), now) == []


@pytest.mark.parametrize(("power", "asks"), [(Power.ON, True), (Power.OFF, False), (None, False)])
@pytest.mark.parametrize("standing", [True, False])
def test_an_unfit_peer_is_asked_to_yield_beside_a_device_that_reads_on(power, asks: bool, standing: bool) -> None:
    """Its yield ends `peer-alive`, and nobody stops writing for a fence that cannot come."""
    guard, now = held(*([ALIVE] if standing else []))
    hold = replace(guard.ack.peer_hold, unfit=True)
    guard = with_ack(guard, peer_hold=hold, peer_heard_s=0.1)
    guard = replace(guard, acked=now, sounded=power, sounded_at=now)
    first, effects = done(guard, now, machine._releasing_claim)
    assert [c.want_yield for c in sent(effects, Claim)] == [True] * asks
    assert (first.attempt is not None and first.attempt.want_yield and first.attempt.releasing) is asks
    assert len(of(effects, ReadPower)) == (not asks)
    other = with_ack(guard, inhibits=(ALIVE, OF_B))
    assert claims(other, now) == []


def test_a_new_era_takes_the_constraint_back_at_once() -> None:
    """K6: not when the turn of the last order comes round."""
    guard, now = held(members=None)
    guard = replace(guard, members=of_a_whole_pair("A")[0].members, volumes=of_a_whole_pair("A")[0].volumes)
    guard = remembering(guard, used=(), holding=False)
    register = replace(guard.ack.register, winner=None)
    guard, effects = done(with_ack(guard, register=register), now, machine._constraint)
    assert of(effects, Bar) == [Bar("B", on=False)]
    assert of(done(guard, now, machine._constraint)[1], Bar) == []
    new = replace(register, era=register.era + 1, version=guard.memory.version + 1)
    ack = with_ack(guard, register=new, seq=int(now)).ack
    guard, _ = done(guard, now, machine._take, Heard("arbiter", ack))
    assert of(done(guard, now, machine._constraint)[1], Bar) == [Bar("B", on=False)]


def test_only_the_arbiter_closes_an_era_and_strangers_are_not_heard() -> None:
    """A word of the wrong sender is noted, and nothing follows from it."""
    guard, now = held()
    register = replace(guard.ack.register, era=guard.memory.era + 1, version=guard.memory.version + 1)
    closing = Closing("n", guard.memory.version, "s", guard.halves.connects, now, written=True)
    guard = replace(guard, closing=closing, cluster=replace(guard.cluster, controller=Up.UP))
    word = Closed("n", register)
    closed, _ = done(guard, now, machine._take, Heard("arbiter", word))
    assert closed.closing is None
    for sender, message in (("B", word), ("C", word), ("arbiter", Bye("?"))):
        same, effects = done(guard, now, machine._take, Heard(sender, message))
        assert same == guard
        assert [n.event for n in of(effects, Note)] == ["ignored"]
