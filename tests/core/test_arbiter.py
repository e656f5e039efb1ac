"""The arbiter's side of a pair: who wins on which evidence, what contradicts a death, and what ends what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.core import arbiter
from guard.core.inhibits import PERSONS_MAX
from guard.core.instant import after
from guard.core.messages import (
    Answer,
    Ask,
    AskNonce,
    BeatAck,
    Bye,
    Claim,
    Closed,
    CloseEra,
    Commit,
    InhibitView,
    NonceIs,
    Offer,
    Refused,
    Won,
)
from guard.core.pair import PEER_ALIVE, Site
from tests.core.desk import A, B, Desk, evidence, reason


def kinds(messages: list[object]) -> list[str]:
    return [type(m).__name__ for m in messages if not isinstance(m, BeatAck)]


# ---------------------------------------------------------------- transcripts


def test_a_silent_target_of_the_attested_session_is_lost_to_its_peer() -> None:
    """The normal failover, word by word: claim, ask, offer (silent), commit, won; and the register says so."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    asked = desk.claim(B, "n1")
    assert asked == [(A, Ask("n1", B, "fence", False))]
    assert kinds(desk.wait(0.25)) == []
    assert kinds(desk.wait(0.2)) == ["Offer"]
    offer = desk.last(Offer)
    assert (offer.fresh, offer.target.node, offer.target_yielded, offer.window_s) == ("silent", A, False, 2.0)
    assert offer.target_age_s == pytest.approx(3.3, abs=0.2)
    won = desk.commit(B, "n1")
    assert won == Won("n1", 1, 2, "fence")
    assert (desk.register.winner, desk.register.used, desk.register.basis) == (B, ("fence",), "verdict")
    assert desk.pair.kept.last_fence is not None
    assert desk.pair.kept.last_fence.horizon_s == 75.0


def test_a_target_heard_shortly_before_is_waited_for() -> None:
    """Heard within 2 s: it gets 0.8 s to answer before it counts as silent; else 0.3 s is all."""
    desk = Desk().whole()
    desk.claim(B, "n1")
    assert kinds(desk.wait(0.75)) == []
    assert kinds(desk.wait(0.1)) == ["Offer"]


@pytest.mark.parametrize("what", ["never", "another session", "an era ago", "reattested alone"])
def test_without_the_attested_session_evidence_is_stale_and_nobody_wins(what: str) -> None:
    """V14: what ties the target's last words to the session that was lost must be whole; else a person decides."""
    desk = Desk()
    match what:
        case "another session":
            desk.whole()
        case "an era ago":
            desk.whole()
            desk.win(A, "old")
            desk.beat(B)
            desk.hear(A, CloseEra("h", desk.register.version, "hand-back", None))
            desk.pair = replace(desk.pair, kept=replace(desk.pair.kept, session=replace_era(desk, 1)))
        case "reattested alone":
            desk.whole()
            desk.attest(A, session="session-2", role="primary")  # B never named it
        case _:
            desk.attest(A, role="primary")
    desk.wait(3.0)
    desk.claim(B, "n1", session={"another session": "session-0"}.get(what, "session-1"))
    desk.wait(1.0)
    assert desk.last(Offer).fresh == "stale"
    assert reason(desk.commit(B, "n1")) == "stale-evidence"
    assert desk.register.winner is None


def replace_era(desk: Desk, era: int) -> arbiter.Session:
    session = desk.pair.kept.session
    assert session is not None
    return replace(session, era=era)


def test_a_living_target_means_the_network_and_never_a_fence() -> None:
    """The target answers: `peer-alive` stands at once, the claim is refused, and so is each later one."""
    desk = Desk().whole().cut()
    desk.claim(B, "n1")
    desk.answer(A, "n1", role="primary")
    said = [m for m in desk.wait(0.5) if isinstance(m, Refused)]
    assert [m.reason for m in said] == ["peer-alive"]
    assert PEER_ALIVE in desk.inhibits
    assert reason(desk.claim(B, "n2")[0][1]) == "peer-alive"
    assert reason(desk.commit(B, "n1")) == "stale-offer"
    assert desk.register.winner is None


def test_a_target_that_is_heard_but_does_not_answer_is_no_silent_one() -> None:
    """Its answer is late or lost while its beats come: that contradicts a death just as well."""
    desk = Desk().whole().cut()
    desk.claim(B, "n1")
    said = desk.wait(1.0, A)
    assert [m.reason for m in said if isinstance(m, Refused)] == ["peer-alive"]
    assert PEER_ALIVE in desk.inhibits


def test_a_living_target_is_not_fenced_even_where_its_row_would_grant() -> None:
    """One membership, so no `peer-alive`; V26 grants; but a fence over a live answer needs its yield."""
    desk = Desk().whole(role="secondary")
    desk.claim(B, "n1", age_lo_s=0.0, age_hi_s=1.0)
    desk.answer(A, "n1", age_lo_s=50.0, age_hi_s=60.0)
    desk.wait(0.5)
    assert desk.last(Offer).fresh == "live"
    assert reason(desk.commit(B, "n1")) == "living-target"
    assert desk.register.winner is None


def test_the_sitting_primary_goes_on_alone_over_a_living_secondary() -> None:
    """V20: `alone` at once in spite of `peer-alive`; the secondary that claims the same reads V17 and gets nothing."""
    desk = Desk().whole().cut()
    desk.claim(B, "g", gather=True)
    desk.answer(A, "g", role="primary")
    desk.wait(0.5)
    assert PEER_ALIVE in desk.inhibits
    desk.claim(A, "n1", "alone", role="primary")
    desk.answer(B, "n1")
    desk.wait(0.5)
    assert desk.last(Offer).sitting
    assert isinstance(desk.commit(A, "n1", "alone"), Won)
    assert reason(desk.claim(B, "n2", "alone")[0][1]) == "peer-won"


def gateless(desk: Desk) -> None:
    desk.attest(A, role="primary")
    desk.attest(B, gate=False)


def test_over_a_gateless_living_peer_the_primary_needs_its_yield() -> None:
    """V21: the first commit is refused (needs-yield); with the peer's yield to that very nonce it wins, basis yield."""
    desk = Desk()
    gateless(desk)
    desk.claim(A, "n1", "alone", role="primary")
    desk.answer(B, "n1", gate=False)
    desk.wait(0.5)
    assert reason(desk.commit(A, "n1", "alone")) == "needs-yield"
    asked = desk.claim(A, "n2", "alone", role="primary", want_yield=True)
    assert (B, Ask("n2", A, "alone", True)) in asked
    desk.answer(B, "n2", gate=False, yielded=True)
    desk.wait(0.5)
    assert desk.last(Offer).target_yielded
    assert isinstance(desk.commit(A, "n2", "alone"), Won)
    assert desk.register.basis == "yield"


def test_a_yield_without_a_winner_is_closed_for_ever() -> None:
    """`closed-without-winner` once said: no commit, no late yield and no late copy of the claim wakes that nonce."""
    desk = Desk()
    gateless(desk)
    desk.claim(A, "n1", "alone", role="primary", want_yield=True)
    desk.answer(B, "n1", gate=False, yielded=True)
    desk.wait(0.5)
    assert desk.last(Offer).target_yielded
    [(_, still)] = desk.hear(B, AskNonce("q1", "n1", 1))
    assert still == NonceIs("q1", "n1", "open")
    desk.wait(2.5)
    [(_, over)] = desk.hear(B, AskNonce("q2", "n1", 1))
    assert over == NonceIs("q2", "n1", "closed-without-winner")
    desk.restart()
    assert reason(desk.commit(A, "n1", "alone")) == "stale-offer"
    assert reason(desk.claim(A, "n1", "alone", role="primary", want_yield=True)[0][1]) == "nonce-closed"
    assert desk.answer(B, "n1", gate=False, yielded=True) == []
    assert reason(desk.commit(A, "n1", "alone")) == "stale-offer"
    assert desk.register.winner is None


def test_a_yield_that_comes_after_the_offer_left_is_ignored() -> None:
    """The offer said that nobody had yielded; a later answer changes neither it nor what the arbiter judges."""
    desk = Desk()
    gateless(desk)
    desk.claim(A, "n1", "alone", role="primary", want_yield=True)
    desk.wait(8.2)
    assert not desk.last(Offer).target_yielded
    desk.answer(B, "n1", gate=False, yielded=True)
    assert reason(desk.commit(A, "n1", "alone")) != "needs-yield"
    assert desk.register.winner is None


def test_who_yielded_learns_what_became_of_it() -> None:
    """`winner-you`, `winner-peer` and `era-closed`, each by that very nonce."""
    desk = Desk().whole()
    desk.win(B, "n1")
    assert desk.hear(A, AskNonce("q", "n1", 1))[0][1] == NonceIs("q", "n1", "winner-peer")
    assert desk.hear(B, AskNonce("q", "n1", 1))[0][1] == NonceIs("q", "n1", "winner-you")
    assert desk.hear(A, AskNonce("q", "n1", 0))[0][1] == NonceIs("q", "n1", "era-closed")


def test_a_yield_lets_a_fence_follow_and_ends_peer_alive() -> None:
    """A target whose own cluster failed yields: V17 reads CONSENT, `peer-alive` ends, the fence is won."""
    desk = Desk().whole().cut()
    desk.claim(B, "n0")
    desk.answer(A, "n0", role="primary")
    desk.wait(0.5)
    assert PEER_ALIVE in desk.inhibits
    desk.claim(B, "n1", want_yield=True, gather=False, off_twice=False)  # refused early: peer-alive
    desk.claim(B, "g", want_yield=True, gather=True)
    desk.answer(A, "g", role="primary", yielded=True, cluster="down")
    assert PEER_ALIVE not in desk.inhibits
    desk.claim(B, "n2", want_yield=True)
    desk.answer(A, "n2", role="primary", yielded=True, cluster="down")
    desk.wait(0.5)
    assert isinstance(desk.commit(B, "n2"), Won)


# ---------------------------------------------------------------- the window


def offered(desk: Desk) -> Desk:
    desk.wait(3.0)
    desk.claim(B, "n1")
    desk.wait(0.5)
    assert desk.last(Offer).nonce == "n1"
    return desk


def test_a_commit_outside_its_window_is_stale() -> None:
    """Two seconds after the offer it is gone, whether or not a tick has looked meanwhile."""
    desk = offered(Desk().whole())
    desk.now = after(desk.now, 2.1)
    assert reason(desk.commit(B, "n1")) == "stale-offer"
    other = offered(Desk().whole())
    other.wait(2.1)
    assert reason(other.commit(B, "n1")) == "stale-offer"
    assert not other.pair.gatherings


@pytest.mark.parametrize(
    ("nonce", "version", "purpose", "sender", "why"),
    [
        ("n0", 1, "fence", B, "stale-offer"),
        ("n1", 2, "fence", B, "stale-version"),
        ("n1", 0, "fence", B, "stale-version"),
        ("n1", 1, "alone", B, "stale-offer"),
        ("n1", 1, "fence", A, "stale-offer"),
    ],
)
def test_a_commit_fits_its_offer_or_is_nothing(nonce: str, version: int, purpose: str, sender: str, why: str) -> None:
    """Another nonce, version, purpose or sender than the offer's writes nothing."""
    desk = offered(Desk().whole())
    assert reason(desk.commit(sender, nonce, purpose, version)) == why
    assert desk.register.winner is None


def test_a_restart_forgets_offers_and_keeps_the_rest() -> None:
    """After it: the commit is stale, register, testimony and inhibits are as before, and the next claim wins."""
    desk = offered(Desk().whole())
    desk.inhibit(A, "disturbance:fs1a")
    kept = desk.pair.kept
    desk.restart()
    assert desk.pair.kept == kept
    assert reason(desk.commit(B, "n1")) == "stale-offer"
    desk.inhibit(A, "disturbance:fs1a", ended=True)
    desk.lift(A, "disturbance:fs1a")
    desk.wait(3.0, B)
    desk.win(B, "n2")


def test_ages_are_unknown_after_a_reboot_of_the_arbiters_machine() -> None:
    """Its clock began anew: the stored write age has no known elapsed time, and V31 asks a person."""
    desk = Desk().whole()
    desk.restart(reboot=True)
    desk.wait(31.0, B)
    desk.claim(B, "n1")
    desk.wait(1.0)
    assert desk.last(Offer).target_age_s is None
    assert reason(desk.commit(B, "n1")) == "silent-no-write-age"


def test_a_repeated_commit_does_not_win_twice() -> None:
    """The copy finds no offer; the register keeps version and winner."""
    desk = offered(Desk().whole())
    assert isinstance(desk.commit(B, "n1"), Won)
    register = desk.register
    assert reason(desk.commit(B, "n1")) == "stale-offer"
    assert desk.register == register


def test_two_claims_of_one_instant_have_one_winner() -> None:
    """Both asked, both offered; the second commit comes to another version."""
    desk = Desk().whole(role="secondary")
    desk.pair = replace(desk.pair, heard={}, beats={})
    desk.claim(A, "na")
    desk.claim(B, "nb")
    desk.wait(1.0)
    assert isinstance(desk.commit(A, "na", version=1), Won)
    assert reason(desk.commit(B, "nb", version=1)) == "stale-version"


# ---------------------------------------------------------------- ends of eras


def test_a_close_needs_both_guards_whole_in_one_session() -> None:
    """Each way in which a beat may fall short refuses; then the same close is taken and the era rises."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    desk.win(B, "n1")
    order = CloseEra("k", desk.register.version, "close", "session-1")
    for wrong in ({"session": "session-2"}, {"connected": False}, {"whole": None}, {"whole": False}):
        for node, other in ((A, B), (B, A)):
            desk.wait(0.1)
            desk.beat(node, **wrong)  # type: ignore[arg-type]
            desk.beat(other)
            assert reason(desk.hear(B, order)[0][1]) == "not-whole"
    desk.wait(0.1)
    desk.beat(A)
    desk.beat(B)
    assert reason(desk.hear(A, order)[0][1]) == "stale-version"  # the loser closes nothing
    desk.wait(2.2)
    assert reason(desk.hear(B, order)[0][1]) == "not-whole"  # A's beat is too old
    desk.beat(A)
    desk.beat(B)
    closed = desk.hear(B, order)[0][1]
    assert isinstance(closed, Closed)
    assert (closed.register.era, closed.register.winner, closed.register.used) == (2, None, ())
    assert reason(desk.hear(B, order)[0][1]) == "stale-version"


def test_a_late_hand_back_does_not_undo_a_reconfirmation() -> None:
    """The win was confirmed again after the hand-back was written: it comes to a version that has passed."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    first = desk.win(B, "n1", "alone")
    late = CloseEra("h", first.version, "hand-back", None)
    again = desk.win(B, "n2", "fence")
    assert again.version > first.version
    desk.beat(A)
    assert reason(desk.hear(B, late)[0][1]) == "stale-version"
    assert (desk.register.winner, desk.register.used) == (B, ("alone", "fence"))


def test_a_hand_back_needs_a_living_peer_and_keeps_the_session_attested() -> None:
    """Over a dead peer it is refused; else the session counts in the new era, so that a death right after is judged."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    won = desk.win(B, "n1")
    order = CloseEra("h", won.version, "hand-back", None)
    assert reason(desk.hear(B, order)[0][1]) == "peer-not-heard"
    desk.beat(A)
    assert isinstance(desk.hear(B, order)[0][1], Closed)
    desk.wait(3.0, B)
    assert desk.win(B, "n2").era == 2


def test_a_reconfirmation_asks_no_verdict_but_never_fences_a_living_target() -> None:
    """Winner C: the decision stands without a session; a live answer without a yield still stops the fence."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    desk.win(B, "n1", "alone")
    assert desk.win(B, "n2", "fence", session=None).version == 3
    desk.wait(3.0, B)
    desk.claim(B, "n3", "fence")
    desk.answer(A, "n3", cluster="down")
    desk.wait(0.5)
    assert reason(desk.commit(B, "n3")) == "living-target"


@pytest.mark.parametrize("worse", [{"disk": "C"}, {"disk": "I"}, {"continuous": False}, {"current": 0x1111}])
def test_a_winner_that_lost_its_data_may_not_use_its_win_again(worse: dict[str, object]) -> None:
    """S2: connected, the loser may have been primary without the winner's disk: its writes are then nowhere else."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    desk.win(B, "n1", "alone")
    desk.wait(3.0, B)
    desk.claim(B, "n2", "fence", **worse)
    desk.wait(1.0)
    assert reason(desk.commit(B, "n2")) in ("own-disk-discontinuous", "target-newer")


def test_an_arbiter_that_just_started_takes_no_silence_for_a_death() -> None:
    """A target that was not heard since the arbiter's start is not fenced for 30 s, however silent it seems."""
    desk = Desk().whole()
    desk.restart()
    desk.wait(3.0, B)
    desk.claim(B, "n1")
    desk.wait(1.0)
    assert desk.last(Refused).reason == "arbiter-just-started"


def test_a_late_copy_does_not_bring_back_a_released_hold() -> None:
    """S4: what a person released stays released, whatever the network still delivers; a new hold is a new one."""
    desk = Desk().whole()
    desk.inhibit(A, "person:k", "person", since_wall=5.0)
    desk.inhibit(A, "person:k", "person", since_wall=5.0, ended=True)
    desk.lift(A, "person:k")
    desk.inhibit(A, "person:k", "person", since_wall=5.0)
    assert desk.inhibits == set()
    desk.inhibit(A, "person:k", "person", since_wall=9.0)
    assert desk.inhibits == {"person:k"}
    assert not desk.pair.kept.inhibits["person:k"].ended


# ---------------------------------------------------------------- inhibits and storms


@pytest.mark.parametrize("kind", ["person", "change", "disturbance", "redundancy"])
@pytest.mark.parametrize("when", ["before the claim", "before the offer", "before the commit"])
def test_an_inhibit_stops_a_fence_at_every_step(kind: str, when: str) -> None:
    """Claim, offer and commit each look again; nothing is written."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    if when == "before the claim":
        desk.inhibit(A, "x", kind)
        assert reason(desk.claim(B, "n1")[0][1]) == "inhibited"
    desk.claim(B, "n1")
    if when == "before the offer":
        desk.inhibit(A, "x", kind)
    said = desk.wait(0.5)
    if when != "before the commit":
        assert "Offer" not in kinds(said)  # type: ignore[arg-type]
    else:
        desk.inhibit(A, "x", kind)
        assert reason(desk.commit(B, "n1")) == "inhibited"
    assert reason(desk.commit(B, "n1")) == "stale-offer"
    assert desk.register.winner is None


@pytest.mark.parametrize("when", ["claim", "offer", "commit"])
def test_a_storm_stops_a_fence_at_every_step(when: str) -> None:
    """The same for the cell's storm."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    calm, storm = desk.site, Site("store-1", "storm")
    desk.site = storm if when == "claim" else calm
    desk.claim(B, "n1")
    desk.site = storm if when == "offer" else calm
    desk.wait(0.5)
    desk.site = storm
    assert isinstance(desk.commit(B, "n1"), Refused)
    assert desk.register.winner is None


@pytest.mark.parametrize("lost_for_s", [0.0, 29.0, 31.0])
@pytest.mark.parametrize("allowed", [30.0, None])
@pytest.mark.parametrize("kind", ["disturbance", "redundancy", "person", "change"])
def test_the_sitting_primary_may_go_on_alone_under_a_hold_after_30_s(
    lost_for_s: float, allowed: float | None, kind: str
) -> None:
    """Only the node that was Primary in the attested session, only for `alone`, never under a person's inhibit."""
    desk = Desk()
    desk.policy = replace(desk.policy, alone_under_hold_s=allowed)
    desk.whole()
    desk.wait(3.0, A)
    desk.inhibit(A, "x", kind)
    may = kind in ("disturbance", "redundancy") and allowed is not None and lost_for_s >= allowed
    said = desk.claim(A, "n1", "alone", role="primary", lost_for_s=lost_for_s)
    assert isinstance(said[0][1], Ask if may else Refused)
    assert isinstance(desk.claim(A, "n2", "fence", role="primary", lost_for_s=lost_for_s)[0][1], Refused)
    assert isinstance(desk.claim(B, "n3", "alone", lost_for_s=lost_for_s)[0][1], Refused)


def test_a_session_with_two_primaries_has_no_sitting_one() -> None:
    """V9's case gives nobody the exception of the sitting primary."""
    desk = Desk()
    desk.attest(A, role="primary")
    desk.attest(B, role="primary")
    desk.inhibit(A, "x")
    for node in (A, B):
        assert reason(desk.claim(node, "n", "alone", role="primary", lost_for_s=99.0)[0][1]) == "inhibited"


def alive() -> Desk:
    """Both rings cut, the target answered: `peer-alive` stands."""
    desk = Desk().whole()
    desk.wait(0.5, A, B)
    desk.claim(B, "n1")
    desk.answer(A, "n1", role="primary")
    desk.wait(0.5, A, B)
    assert PEER_ALIVE in desk.inhibits
    return desk


def test_peer_alive_ends_when_both_are_in_one_membership() -> None:
    """Both guards must say so, both heard within 2 s; one alone ends nothing."""
    desk = alive()
    desk.beat(A, member=True)
    assert PEER_ALIVE in desk.inhibits
    desk.wait(0.1)
    desk.beat(B, member=True)
    assert PEER_ALIVE not in desk.inhibits


def test_peer_alive_ends_when_the_device_reads_off_twice() -> None:
    """A claim that says so is not refused early, ends it, and the fence is won; a live answer contradicts it."""
    desk = alive()
    desk.wait(3.0, B)
    desk.claim(B, "n2", off_twice=True)
    said = desk.wait(0.5, B)
    assert "Offer" in kinds(said)  # type: ignore[arg-type]
    assert PEER_ALIVE not in desk.inhibits
    other = alive()
    other.claim(B, "n2", off_twice=True)
    other.answer(A, "n2", role="primary")
    other.wait(0.5, A, B)
    assert PEER_ALIVE in other.inhibits


def test_peer_alive_ends_30_s_after_the_target_was_heard_last() -> None:
    """The arbiter up and hearing the candidate throughout; not a moment earlier, and not after its own restart."""
    desk = alive()
    desk.wait(29.0, B)
    assert PEER_ALIVE in desk.inhibits
    desk.wait(2.0, B)
    assert PEER_ALIVE not in desk.inhibits

    gap = alive()
    gap.wait(20.0, B)
    gap.wait(3.0)  # the candidate itself was not heard
    gap.wait(20.0, B)
    assert PEER_ALIVE in gap.inhibits

    restarted = alive()
    restarted.wait(20.0, B)
    restarted.restart()
    restarted.wait(25.0, B)
    assert PEER_ALIVE in restarted.inhibits
    restarted.wait(6.0, B)
    assert PEER_ALIVE not in restarted.inhibits


def test_peer_alive_stays_while_the_switch_contradicts_the_death() -> None:
    """Unheard for 30 s, but the target's ports are up while the switch shows change: it stays."""
    desk = alive()
    for n in range(30):
        desk.claim(B, f"g{n}", gather=True, ports="up-with-change")
        desk.wait(1.2, B)
    assert PEER_ALIVE in desk.inhibits


def test_nothing_else_ends_peer_alive() -> None:
    """No lift, no inhibit set in its place, no `bye`, no attest and no restart."""
    desk = alive()
    assert reason(desk.lift(B, PEER_ALIVE)[0][1]) == "not-yours"
    for kind in ("disturbance", "person", "peer-alive", "storm"):
        assert reason(desk.inhibit(B, PEER_ALIVE, kind, ended=True)[0][1]) == "not-yours"
        assert reason(desk.lift(B, PEER_ALIVE)[0][1]) == "not-yours"
    desk.hear(A, Bye("stopping"))
    desk.attest(A, session="session-2")
    desk.attest(B, session="session-2")
    desk.restart()
    desk.wait(5.0, A, B)
    assert PEER_ALIVE in desk.inhibits


def test_words_of_an_earlier_blip_do_not_delay_a_death_that_follows() -> None:
    """A gathering whose target answered, the membership back, and 20 s later a real death: no `peer-alive`."""
    desk = Desk().whole()
    desk.claim(B, "g1", gather=True)
    desk.answer(A, "g1", role="primary")
    desk.wait(18.0, A, B, member=True)
    desk.wait(3.0, B)  # A is dead now
    assert PEER_ALIVE not in desk.inhibits
    desk.win(B, "n1")


def test_a_guard_that_comes_back_is_no_sign_of_a_network() -> None:
    """It was killed, its peer gathers beside a membership that stands, and it is heard before it knows of its own."""
    desk = Desk().whole()
    desk.wait(6.0, B, member=True)
    desk.claim(B, "g1", gather=True, peer_member=True)
    desk.beat(A, member=None)
    desk.wait(1.5, B, member=True)
    assert PEER_ALIVE not in desk.inhibits
    desk.claim(B, "g2", gather=True, peer_member=True)
    desk.answer(A, "g2", role="primary", peer_member=None)
    desk.wait(0.5, B, member=True)
    assert PEER_ALIVE not in desk.inhibits
    desk.claim(B, "g3", gather=True, peer_member=False)  # given up by now: whoever lives contradicts that
    desk.beat(A, member=None)
    desk.answer(A, "g3", role="primary", peer_member=None)
    desk.wait(1.0, A, B, member=False)
    assert PEER_ALIVE in desk.inhibits


def test_a_disturbance_of_a_dead_guard_ends_only_after_30_s_unheard() -> None:
    """Nobody else can lift it: the survivor must have been quiet and heard throughout, the owner unheard."""
    desk = Desk().whole()
    desk.inhibit(A, "disturbance:fs1a")
    view = desk.pair.kept.inhibits
    desk.wait(29.0, B)
    assert desk.pair.kept.inhibits == view
    desk.wait(3.0, B)
    assert desk.pair.kept.inhibits["disturbance:fs1a"].ended
    living = Desk().whole()
    living.inhibit(A, "disturbance:fs1a")
    living.wait(60.0, A, B)
    assert not living.pair.kept.inhibits["disturbance:fs1a"].ended


def test_a_late_lift_does_not_take_a_new_disturbance_away() -> None:
    """Only what has ended by its own evidence can be lifted: a lift that was overtaken is refused."""
    desk = Desk().whole()
    desk.inhibit(A, "disturbance:fs1a", ended=True)
    desk.inhibit(A, "disturbance:fs1a")  # it flaps again
    assert reason(desk.lift(A, "disturbance:fs1a")[0][1]) == "not-ended"
    assert desk.inhibits == {"disturbance:fs1a"}
    desk.inhibit(A, "disturbance:fs1a", ended=True)
    desk.lift(A, "disturbance:fs1a")
    assert desk.inhibits == set()


def test_a_persons_end_is_never_taken_back() -> None:
    """The other node still repeats the inhibit as standing: the arbiter keeps it ended."""
    desk = Desk().whole()
    desk.inhibit(A, "person:k", "person")
    desk.inhibit(B, "person:k", "person", ended=True)
    desk.inhibit(A, "person:k", "person")
    assert desk.pair.kept.inhibits["person:k"].ended


# ---------------------------------------------------------------- words that do not count


def test_who_speaks_for_another_is_not_believed() -> None:
    """A claim, answer or attest whose evidence names another node than its sender changes nothing."""
    desk = Desk().whole()
    kept = desk.pair.kept
    assert reason(desk.hear(B, Claim("n1", "fence", evidence(A, connected=False), "?"))[0][1]) == "not-you"
    desk.claim(B, "n2")
    desk.hear(A, Answer("n2", evidence(B), True, 0.0))
    assert desk.pair.gatherings[B].answer is None
    assert desk.pair.kept == kept


def test_attests_and_beats_that_were_overtaken_do_not_count() -> None:
    """An older attest of the same boot changes nothing; an older beat is not even answered."""
    desk = Desk().whole()
    desk.attest(A, session="session-2", role="primary")
    desk.seq = 0
    before = desk.pair.kept
    desk.attest(A, role="primary")
    assert desk.pair.kept == before
    desk.wait(0.1)
    desk.beat(A, whole=False)
    late = replace(desk.pair.beats[A], seq=desk.pair.beats[A].seq - 1, whole=True)
    assert desk.hear(A, late) == []
    assert desk.pair.beats[A].whole is False


def test_the_loser_of_a_lone_winner_is_told_to_outdate() -> None:
    """`outdate` to the loser once `alone` was won, never for a fence, never to the winner."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    desk.win(B, "n1", "fence")
    desk.beat(A)
    assert desk.last(BeatAck).outdate is False
    desk.wait(3.0, B)
    desk.win(B, "n2", "alone")
    desk.wait(0.1)
    desk.beat(A)
    assert desk.last(BeatAck).outdate is True
    desk.beat(B)
    assert desk.last(BeatAck).outdate is False


def test_commit_without_any_offer_is_stale() -> None:
    """Out of the blue, and while still gathering."""
    desk = Desk().whole()
    assert reason(desk.commit(A, "x")) == "stale-offer"
    desk.claim(A, "x")
    assert reason(desk.hear(A, Commit("x", 1, "fence"))[0][1]) == "stale-offer"
    desk.claim(A, "g", gather=True)
    desk.wait(1.5)
    assert reason(desk.commit(A, "g")) == "stale-offer"


def test_what_was_gathered_ends_with_its_era() -> None:
    """S2: a yield given in one era binds nobody in the next; an offer on it would fence who may write again."""
    desk = Desk().whole()
    desk.wait(3.0, B)
    won = desk.win(B, "n1", "alone")
    desk.wait(3.0, B)
    desk.claim(B, "n2", "fence", want_yield=True)
    desk.beat(A)
    assert isinstance(desk.hear(B, CloseEra("h", won.version, "hand-back", None))[0][1], Closed)
    desk.answer(A, "n2", yielded=True, cluster="down")
    assert [m for m in desk.wait(1.0) if isinstance(m, Offer)] == []
    assert reason(desk.commit(B, "n2")) == "stale-offer"
    assert desk.register.winner is None


@pytest.mark.parametrize(
    ("answered", "refused"),
    [({"gate": None}, None), ({"gate": False}, "target-not-gated"), ({"gate": None, "role": "?"}, "target-not-gated")],
)
def test_a_loser_whose_resource_is_down_has_the_gate_that_it_attested(
    answered: dict[str, object], refused: str | None
) -> None:
    """L1: booted, its DRBD is down and shows no gate; the attested one counts (E4: no later sign to the contrary)."""
    desk = Desk().whole().cut()
    desk.wait(3.0, A)
    desk.win(A, "n1", "alone", role="primary")
    desk.wait(3.0, A)
    desk.claim(A, "n2", "alone", role="primary")
    desk.answer(B, "n2", **answered)
    desk.wait(1.0)
    said = desk.commit(A, "n2", "alone")
    assert isinstance(said, Won) if refused is None else reason(said) == refused


def test_the_arbiter_keeps_a_bounded_number_of_persons_holds() -> None:
    """L1: past it a new one is refused, unless one has ended: the oldest such then counts as lifted. What is known can
    still be ended and lifted, and the network's own inhibits always have room."""
    desk = Desk().whole()
    for n in range(PERSONS_MAX):
        desk.inhibit(A, f"person:{n}", "person", since_wall=float(n + 1))
    [(_, said)] = desk.inhibit(A, "person:more", "person", since_wall=99.0)
    assert reason(said) == "too-many-holds"
    desk.inhibit(B, f"disturbance:{B}")
    assert len(desk.inhibits) == PERSONS_MAX + 1
    for n in (7, 5):
        desk.inhibit(A, f"person:{n}", "person", since_wall=float(n + 1), ended=True)
    desk.inhibit(A, "person:more", "person", since_wall=99.0)
    assert "person:more" in desk.inhibits
    assert "person:5" not in desk.inhibits
    [(_, said)] = desk.inhibit(A, "person:5", "person", since_wall=6.0)
    assert reason(said) == "lifted"
    desk.lift(A, "person:7")
    assert "person:7" not in desk.inhibits
    [(_, said)] = desk.inhibit(A, "person:" + "ü" * 100, "person")
    assert reason(said) == "too-long"


@pytest.mark.parametrize("ended", [False, True])
def test_of_one_key_the_first_hold_stands(ended: bool) -> None:
    """L2: the same key from the other node is the same hold; a late end of an earlier one is not its end."""

    def kept(desk: Desk) -> InhibitView:
        return desk.pair.kept.inhibits["person:k"]

    desk = Desk().whole()
    desk.inhibit(A, "person:k", "person", since_wall=10.0)
    first = kept(desk)
    desk.inhibit(B, "person:k", "person", since_wall=9.0 if ended else 10.4, ended=ended)
    assert kept(desk) == first
    desk.inhibit(B, "person:k", "person", since_wall=10.0, ended=True)
    assert kept(desk).ended
    desk.inhibit(A, "person:k", "person", since_wall=10.0)
    assert kept(desk).ended, "a person's end is never taken back"
    desk.inhibit(A, "person:k", "person", since_wall=20.0)
    assert not kept(desk).ended, "opened anew"
