"""What a guard claims of its own accord: it lets the arbiter gather over a silent peer, and begins a cold start."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import asked, done, remembering, sent, with_ack, with_register, with_replicas

from guard.core import claiming
from guard.core.claiming import COLD_SECOND_S
from guard.core.evidence import Link
from guard.core.instant import after
from guard.core.messages import Claim
from guard.core.step import ColdWin
from guard.core.turn import Attempt

GATHERS = {  # of a guard whose peer fell silent: does it let the arbiter gather?
    "silent": (lambda g, now: g, True),
    "never whole since its start": (lambda g, now: replace(g, ever_whole=False), False),
    "a claim is under way": (lambda g, now: replace(g, attempt=Attempt("n", "fence", "a", now)), False),
    "no session": (lambda g, now: remembering(g, session=None), False),
    "a member": (lambda g, now: replace(g, members=replace(g.members, peer_member=True)), False),
    "the arbiter is silent": (lambda g, now: replace(g, acked=after(now, -2.001)), False),
    "another store": (lambda g, now: replace(g, store_doubted=True), False),
    "it promised": (lambda g, now: remembering(g, promise="a promise"), False),
    "it is yielding": (lambda g, now: replace(g, yielding="y"), False),
    "the era is won": (lambda g, now: with_register(g, winner="B"), False),
    "no register": (lambda g, now: with_ack(g, register=None), False),
    "the arbiter never spoke": (lambda g, now: replace(g, ack=None), False),
}


@pytest.mark.parametrize("what", GATHERS)
def test_a_silent_peer_lets_the_arbiter_gather(what: str) -> None:
    """Every 2 s; as for a fence, and nothing is committed by it."""
    changed, gathers = GATHERS[what]
    guard, now = asked()
    first, effects = done(changed(replace(guard, ever_whole=True), now), now, claiming.gather)
    assert [(c.purpose, c.gather, len(c.nonce)) for c in sent(effects, Claim)] == [("fence", True, 32)] * gathers
    assert gathers <= ("gather" in first.due)
    for seconds, again in ((1.999, 0), (2.0, int(gathers))):
        at = after(now, seconds)
        later = replace(first, acked=at if what != "the arbiter is silent" else first.acked)
        assert len(sent(done(later, at, claiming.gather)[1], Claim)) == again


T_COLD_S = asked()[0].policy.cold_s


def booted(alone_s: float | None = None):
    """B after a boot: not connected since, A no member, quiet for `alone_s` or T_cold; the register prefers A."""
    guard, now = asked()
    then = after(now, -(guard.policy.cold_s if alone_s is None else alone_s))
    return replace(
        remembering(guard, boot_id="the boot before"),
        agents=(),
        started=then,
        ever_connected=False,
        network=replace(guard.network, quiet_since=then),
        peer_up_at=None,
    ), now


def won_cold(guard, boot: str):
    return remembering(guard, cold_win=ColdWin(boot, 1, {}))


def quorate(guard, word: bool | None):
    return replace(guard, members=replace(guard.members, quorate=word))


COLD = {  # does it claim?
    "after T_cold": (lambda g, now: g, True),
    "connected since": (lambda g, now: replace(g, ever_connected=True), False),
    "on the same boot": (lambda g, now: remembering(g, boot_id=g.boot_id), False),
    "a claim is under way": (lambda g, now: replace(g, attempt=Attempt("n", "alone", None, now)), False),
    "the membership was not read": (lambda g, now: replace(g, members=None), False),
    "a member": (lambda g, now: replace(g, members=replace(g.members, peer_member=True)), False),
    "the membership cannot be told": (lambda g, now: replace(g, members=replace(g.members, peer_member=None)), False),
    "the arbiter never spoke": (lambda g, now: replace(g, ack=None), False),
    "no register": (lambda g, now: with_ack(g, register=None), False),
    "the peer won": (lambda g, now: with_register(g, winner="A"), False),
    "it has just started": (lambda g, now: replace(g, started=after(now, -T_COLD_S + 0.001)), False),
    "the network was quiet for less": (
        lambda g, now: replace(g, network=replace(g.network, quiet_since=after(now, -T_COLD_S + 0.001))), False,
    ),
    "it has just started, and won": (lambda g, now: with_register(replace(g, started=now), winner="B"), True),
    "an obstacle": (lambda g, now: replace(g, store_doubted=True), False),
    "won on this boot, and quorate": (lambda g, now: won_cold(quorate(g, True), g.boot_id), False),
    "won on this boot, quorum unknown": (lambda g, now: won_cold(quorate(g, None), g.boot_id), False),
    "won on this boot, no quorum": (lambda g, now: won_cold(quorate(g, False), g.boot_id), True),
    "won on another boot": (lambda g, now: won_cold(quorate(g, True), "old"), True),
    "the preferred peer lives": (lambda g, now: replace(g, peer_up_at=after(now, -T_COLD_S)), False),
    "the preferred peer lives, and T_cold and more": (
        lambda g, now: replace(
            booted(T_COLD_S + COLD_SECOND_S)[0], peer_up_at=after(now, -T_COLD_S - COLD_SECOND_S)
        ), True,
    ),
    "a peer that is not preferred lives": (
        lambda g, now: with_register(replace(g, peer_up_at=after(now, -T_COLD_S)), preferred="B"), True,
    ),
    "a peer that is not preferred has just come up": (
        lambda g, now: with_register(replace(g, peer_up_at=after(now, -T_COLD_S + 0.001)), preferred="B"), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COLD)
def test_a_cold_start_is_claimed_after_t_cold_alone(what: str) -> None:
    """Nothing runs anywhere: `alone`, for no request; again every 5 s; of two that live the preferred first."""
    changed, claims = COLD[what]
    guard, now = booted()
    first, effects = done(changed(guard, now), now, claiming.cold_start)
    told = [(c.purpose, c.cold, c.gather, c.want_yield, c.off_twice) for c in sent(effects, Claim)]
    assert told == [("alone", True, False, False, False)] * claims
    if claims:
        assert (first.attempt.job, first.attempt.cold, first.attempt.releasing) == (None, True, False)
        assert "cold" in first.due
        for seconds, again in ((4.999, 0), (5.0, 1)):
            at = after(now, seconds)
            later = replace(first, attempt=None, acked=at)
            assert len(sent(done(later, at, claiming.cold_start)[1], Claim)) == again


def test_a_cold_start_is_judged_by_what_is_down() -> None:
    """Metadata that was read before DRBD is up counts."""
    guard, now = booted()
    down = replace(with_replicas(guard, link=Link.DOWN), stored=guard.volumes)
    assert len(sent(done(down, now, claiming.cold_start)[1], Claim)) == 1
