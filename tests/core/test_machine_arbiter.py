"""The arbiter's side of one pair, one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import attested_pair, said_by

from guard.core import arbiter
from guard.core.instant import Instant, after
from guard.core.messages import (
    Answer,
    AskNonce,
    Bye,
    Claim,
    CloseEra,
    Commit,
    InhibitView,
    LiftInhibit,
    Offer,
    Refused,
    SetInhibit,
    Won,
)
from guard.core.pair import PEER_ALIVE, Pair, Site
from guard.core.policy import Policy

POLICY = Policy()
SITE = Site("store-1")
PERSON = InhibitView("person:x", "person", "anna", "work", 0.0)


class Scene:
    """One arbiter of a whole pair, spoken to by hand. `cut`: nobody says any more that the two are one membership."""

    def __init__(self, *, cut: bool = True, silent: str = "") -> None:
        self.world = attested_pair()
        pair = self.world.arbiter.pair
        assert pair is not None
        self.now = self.world.arbiter.local()
        if silent:
            self.now = after(self.now, 3.0)
        self.pair = replace(pair, beats={}, beat_at={}) if cut else pair

    def say(self, sender, message, later_s=0.01, site=SITE):
        self.now = after(self.now, later_s)
        self.pair, sends = arbiter.hear(self.pair, sender, message, self.now, 0.0, site, POLICY)
        return [m for to, m in sends if to == sender]

    def wait(self, seconds, site=SITE):
        self.now = after(self.now, seconds)
        self.pair, sends = arbiter.tick(self.pair, self.now, 0.0, site, POLICY)
        return [m for _, m in sends]

    def claim(self, purpose="fence", nonce="n1", who="B", **more):
        return Claim(nonce, purpose, said_by(self.world, who), "?", **more)

    def offered(self, who="B", purpose="fence"):
        self.say(who, self.claim(purpose, who=who))
        offers = [m for m in self.wait(1.0) if isinstance(m, Offer)]
        assert len(offers) == 1
        return offers[0]


def test_a_silent_target_of_the_attested_session_is_won_over() -> None:
    """The normal failover: Offer, Commit, Won; the winner and its use are written."""
    scene = Scene(silent="A")
    offer = scene.offered()
    assert offer.fresh == "silent"
    (won,) = scene.say("B", Commit("n1", offer.register.version, "fence"))
    assert isinstance(won, Won)
    assert scene.pair.kept.register.winner == "B"


def test_no_offer_leaves_before_t_corr() -> None:
    """Claims of the same instant are seen together."""
    scene = Scene(silent="A")
    assert scene.say("B", scene.claim()) == []
    assert scene.wait(0.2) == []


def test_a_target_that_answers_is_a_network_not_a_death() -> None:
    """Law 3: it forbids every fence from then on, and `alone` to all but the sitting primary."""
    scene = Scene()
    scene.say("B", scene.claim())
    scene.say("A", Answer("n1", said_by(scene.world, "A"), False, 60.0))
    (refused,) = [m for m in scene.wait(1.0) if isinstance(m, Refused)]
    assert refused.reason == "peer-alive"
    assert PEER_ALIVE in scene.pair.kept.inhibits
    assert scene.say("B", scene.claim("alone", "n2"))[0].reason == "peer-alive"
    scene.say("A", scene.claim("alone", "n3", who="A"))
    assert [m for m in scene.wait(1.0) if isinstance(m, Offer)]


def test_a_target_heard_after_the_question_is_alive() -> None:
    """Law 3: its answer may be lost on the way; any word of it that is younger than the question counts."""
    scene = Scene(silent="A")
    scene.say("B", scene.claim())
    scene.say("A", AskNonce("x", "y", 1))
    assert [m.reason for m in scene.wait(1.0) if isinstance(m, Refused)] == ["peer-alive"]


def test_a_guard_that_said_bye_is_not_dead() -> None:
    """An announced stop of a guard is not taken for the death of its node."""
    scene = Scene()
    scene.say("A", Bye("stopped in order"))
    scene.say("B", scene.claim(), later_s=4.0)
    assert [m.reason for m in scene.wait(1.0) if isinstance(m, Refused)] == ["peer-alive"]


@pytest.mark.parametrize(("ports", "offered"), [("?", True), ("down-alone", True), ("up-with-change", False)])
def test_ports_that_are_up_on_a_changing_switch_contradict_a_death(ports, offered) -> None:
    """Law 3."""
    scene = Scene(silent="A")
    scene.say("B", replace(scene.claim(), ports=ports))
    assert bool([m for m in scene.wait(1.0) if isinstance(m, Offer)]) is offered


def test_a_commit_outside_the_window_is_stale() -> None:
    """S4: T_accept after the offer it is closed, also if no tick came in between."""
    scene = Scene(silent="A")
    offer = scene.offered()
    (refused,) = scene.say("B", Commit("n1", offer.register.version, "fence"), later_s=POLICY.accept_s + 0.1)
    assert refused.reason == "stale-offer"


def test_a_commit_after_a_restart_is_stale() -> None:
    """Offers are volatile (law 2)."""
    scene = Scene(silent="A")
    offer = scene.offered()
    scene.pair = Pair(scene.pair.kept, scene.now, "boot-2")
    (refused,) = scene.say("B", Commit("n1", offer.register.version, "fence"))
    assert refused.reason == "stale-offer"


def test_an_inhibit_that_came_after_the_offer_stops_the_commit() -> None:
    """S5: inhibits are looked at in steps 2 and 4."""
    scene = Scene(silent="A")
    offer = scene.offered()
    scene.say("A", SetInhibit("x", PERSON))
    (refused,) = scene.say("B", Commit("n1", offer.register.version, "fence"))
    assert refused.reason == "inhibited"
    assert scene.pair.kept.register.winner is None


def test_a_commit_at_another_version_is_refused() -> None:
    """The register is linearizable."""
    scene = Scene(silent="A")
    offer = scene.offered()
    (refused,) = scene.say("B", Commit("n1", offer.register.version + 1, "fence"))
    assert refused.reason == "stale-version"


def test_the_arbiters_own_verdict_must_agree() -> None:
    """Law 4: a candidate that commits on evidence that grants nothing wins nothing."""
    scene = Scene(silent="A")
    evidence = said_by(scene.world, "B")
    lost = tuple(replace(r, continuous=False) for r in evidence.replicas)
    scene.say("B", replace(scene.claim(), evidence=replace(evidence, replicas=lost)))
    (offer,) = [m for m in scene.wait(1.0) if isinstance(m, Offer)]
    (refused,) = scene.say("B", Commit("n1", offer.register.version, "fence"))
    assert isinstance(refused, Refused)
    assert scene.pair.kept.register.winner is None


def test_words_of_another_session_are_stale() -> None:
    """S2: only the session that was lost ties a silent target's last words."""
    scene = Scene(silent="A")
    kept = scene.pair.kept
    scene.pair = replace(scene.pair, kept=replace(kept, session=replace(kept.session, name="an older one")))
    assert scene.offered().fresh == "stale"


def test_a_claim_that_was_called_closed_never_comes_back() -> None:
    """S3: after "closed without a winner" neither a late yield nor a Commit of that nonce is taken."""
    scene = Scene(silent="A")
    (state,) = scene.say("A", AskNonce("x", "n1", scene.pair.kept.register.era))
    assert state.state == "closed-without-winner"
    (refused,) = scene.say("B", scene.claim(nonce="n1"), later_s=3.0)
    assert refused.reason == "nonce-closed"
    assert scene.say("B", Commit("n1", 1, "fence"))[0].reason == "stale-offer"


def test_the_loser_gets_no_offer() -> None:
    """S1, S3: once an era has a winner the other node is told so."""
    scene = Scene(silent="A")
    offer = scene.offered()
    scene.say("B", Commit("n1", offer.register.version, "fence"))
    (refused,) = scene.say("A", scene.claim("alone", "n2", who="A"))
    assert refused.reason == "peer-won"


def test_an_era_ends_only_while_both_name_the_same_standing_session() -> None:
    """K4 as the arbiter sees it; a hand-back needs a living peer."""
    scene = Scene(cut=False)
    kept = scene.pair.kept
    won = replace(kept.register, winner="A", used=("alone",), basis="verdict", version=5)
    scene.pair = replace(scene.pair, kept=replace(kept, register=won))
    assert scene.say("A", CloseEra("c", 5, "close", "another session"))[0].reason == "not-whole"
    assert scene.say("B", CloseEra("c", 5, "close", kept.session.name))[0].reason == "stale-version"
    late = Scene(cut=False, silent="B")
    late.pair = replace(late.pair, kept=replace(kept, register=won))
    assert late.say("A", CloseEra("c", 5, "hand-back", None))[0].reason == "peer-not-heard"
    assert scene.say("A", CloseEra("c", 5, "close", kept.session.name))[0].register.era == won.era + 1


def test_an_overtaken_beat_says_nothing() -> None:
    """A word from before the freeze, delivered after it, lifts no `peer-alive`."""
    scene = Scene(cut=False)
    new = scene.pair.beats["A"]
    scene.say("A", replace(new, seq=new.seq + 10, peer_member=False))
    scene.say("A", replace(new, seq=new.seq + 5, peer_member=True))
    assert scene.pair.beats["A"].peer_member is False


def test_a_guard_may_not_touch_what_the_arbiter_found() -> None:
    """S7: `peer-alive` is neither set nor lifted by a guard."""
    scene = Scene()
    alive = InhibitView(PEER_ALIVE, "peer-alive", "B", "A answered", 0.0)
    assert scene.say("A", SetInhibit("x", alive))[0].reason == "not-yours"
    scene.pair = replace(scene.pair, kept=replace(scene.pair.kept, inhibits={alive.id: alive}))
    assert scene.say("A", LiftInhibit("x", alive.id))[0].reason == "not-yours"
    assert PEER_ALIVE in scene.pair.kept.inhibits


def test_a_persons_end_is_never_taken_back() -> None:
    """L2: a repeated word does not hold again what a person let go."""
    scene = Scene()
    scene.say("A", SetInhibit("x", replace(PERSON, ended=True)))
    scene.say("A", SetInhibit("x", PERSON))
    assert scene.pair.kept.inhibits[PERSON.id].ended


def test_ages_of_testimony_from_before_a_reboot_are_not_known() -> None:
    """Instants of another boot of the arbiter's machine are never compared."""
    scene = Scene(silent="A")
    scene.pair = Pair(scene.pair.kept, Instant(0), "boot-2")
    scene.now = Instant(40_000_000_000)
    assert scene.offered().target_age_s is None
