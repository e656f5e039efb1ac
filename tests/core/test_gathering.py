"""The arbiter's side of a claim, rule by rule: how long it gathers, what contradicts a death, when it offers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from guard.core import gathering
from guard.core.attest import Session
from guard.core.gathering import _complete, _contradicted, _no_death_claimed, _refusal, _too_early
from guard.core.instant import after
from guard.core.messages import Answer, Ask, Claim, Commit, InhibitView, Offer, Refused
from guard.core.pair import PEER_ALIVE, Gathering, Pair, Site, keep
from guard.core.policy import Policy
from tests.core.desk import NOW, QUIET, S1, A, B, answer, claim, evidence, known, open_claim, statement, with_claim

POLICY = Policy()
WALL = 1_700_000_000.0
SITE = Site("store-1")
PURPOSES = ("fence", "alone")


def codes(sends: tuple) -> list[tuple[str, str]]:
    return [(to, m.reason) for to, m in sends if isinstance(m, Refused)]


# ------------------------------------------------------------------ a claim comes


def came(pair: Pair, message: Claim, sender: str = B, site: Site = SITE) -> tuple[Pair, tuple]:
    return gathering.claim(pair, sender, message, NOW, NOW, WALL, site, POLICY)


def test_a_claim_is_gathered_for_and_its_target_asked() -> None:
    """With its own nonce, purpose and wish; nothing else is said yet."""
    for purpose, want in product(("fence", "alone"), (True, False)):
        pair, sends = came(known(), claim(purpose=purpose, want_yield=want))
        assert sends == ((A, Ask("n", B, purpose, want)),)
        assert pair.gatherings == {B: Gathering(claim(purpose=purpose, want_yield=want), B, NOW, NOW, NOW, False)}


@pytest.mark.parametrize(("heard_s", "waits"), [(None, False), (2.0, True), (2.001, False)])
def test_a_target_that_was_heard_lately_is_waited_for(heard_s: float | None, waits: bool) -> None:
    """Within 2 s."""
    heard = {} if heard_s is None else {A: after(NOW, -heard_s)}
    pair, _ = came(replace(known(), heard=heard), claim())
    assert pair.gatherings[B].waits_for_target is waits


CREDITS = [  # the gathering before it: how long ago it began, offered or not; what counts from then
    (30.0, False, True),
    (30.001, False, False),
    (5.0, True, False),
]


@pytest.mark.parametrize(("ago_s", "offered", "credit"), CREDITS)
def test_an_earlier_gathering_of_the_same_candidate_counts_as_t_corr(ago_s: float, offered: bool, credit: bool) -> None:
    """For 30 s, and not one that was answered with an offer."""
    before = open_claim(ago_s, gather=True, offered=NOW if offered else None)
    pair, _ = came(replace(known(), gatherings={B: before}), claim(gather=True))
    made = pair.gatherings[B]
    assert made.started == (before.started if credit else NOW)
    assert (made.came, made.asked, made.offered, made.claim.nonce) == (NOW, NOW, None, "n")


@pytest.mark.parametrize(
    ("ago_s", "was_gather", "is_gather", "wants", "lost"),
    [
        (1.0, False, True, False, True),
        (1.001, False, True, False, False),
        (0.5, True, True, False, False),
        (0.5, False, False, False, False),
        (0.5, False, True, True, False),
    ],
)
def test_a_gathering_that_was_overtaken_by_its_claim_changes_nothing(ago_s, was_gather, is_gather, wants, lost) -> None:
    """L1: said before that claim, come after it; the claim's answer must not be lost."""
    before = replace(known(), gatherings={B: open_claim(ago_s, gather=was_gather)})
    pair, sends = came(before, claim(nonce="m", gather=is_gather, want_yield=wants))
    assert (pair is before, sends == ()) == (lost, lost)


REFUSED = {
    "not-you": (known(), claim(evidence=evidence(A))),
    "peer-won": (keep(known(), register=replace(known().kept.register, winner=A)), claim()),
    "nonce-closed": (keep(known(), refused_nonces=("m", "n")), claim()),
    "inhibited": (keep(known(), inhibits={"x": InhibitView("x", "person", "anna", "work", 0.0)}), claim()),
    "storm": (known(), claim()),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_come_to_an_offer_is_refused_at_once(reason: str) -> None:
    """And nothing is gathered. The target is not asked."""
    pair, message = REFUSED[reason]
    site = Site("store-1", "storm") if reason == "storm" else SITE
    after_it, sends = came(pair, message, site=site)
    assert (after_it, codes(sends)) == (pair, [(B, reason)])
    assert sends[0][1].nonce == "n"
    if reason in ("inhibited", "storm"):
        assert sends[0][1].retry_s == 1.0
        for spared in ({"gather": True}, {"off_twice": True}):
            assert codes(came(pair, replace(message, **spared), site=site)[1]) == []


def test_only_a_question_for_a_yield_goes_past_peer_alive() -> None:
    """It may end it; any other claim is refused with that very reason."""
    alive = keep(known(), inhibits={PEER_ALIVE: InhibitView(PEER_ALIVE, "peer-alive", B, "heard", 0.0)})
    assert codes(came(alive, claim())[1]) == [(B, "peer-alive")]
    assert codes(came(alive, claim(want_yield=True))[1]) == []


# ------------------------------------------------------------------ how long it gathers


@pytest.mark.parametrize(
    ("changed", "least_s"),
    [
        ({"waits_for_target": False}, 0.15),
        ({"waits_for_target": True}, 0.8),
        ({"waits_for_target": True, "want_yield": True}, 8.0),
        ({"waits_for_target": False, "want_yield": True}, 0.15),
        ({"waits_for_target": True, "answer": answer()}, 0.0),
    ],
    ids=str,
)
def test_each_claim_waits_as_long_as_its_target_may_take(changed: dict[str, Any], least_s: float) -> None:
    """To answer, or to suspend its writes; and T_corr from the start of gathering in any case."""
    early = after(NOW, -10.0)
    for seconds, done in ((least_s, True), (least_s - 0.001, False)):
        if least_s:
            assert _complete(open_claim(seconds, **{**changed, "started": early}), NOW, POLICY) is done
    for seconds, done in ((POLICY.corr_s, True), (POLICY.corr_s - 0.001, False)):
        waited = open_claim(10.0, **{**changed, "started": after(NOW, -seconds)})
        assert _complete(waited, NOW, POLICY) is done


# ------------------------------------------------------------------ what contradicts a death

LIVE_AFTER = {A: after(NOW, -0.5), B: NOW}
RECENT = {A: after(NOW, -29.999), B: NOW}
LONG_AGO = {A: after(NOW, -30.0), B: NOW}
CONTRADICTS: dict[str, tuple[dict[str, Any], dict[str, Any], Site, bool]] = {
    "nothing": ({}, {}, SITE, False),
    "it answered": ({}, {"answer": answer()}, SITE, True),
    "it answered: cluster unknown": ({}, {"answer": answer(cluster="?")}, SITE, True),
    "it answered: its cluster is down": ({}, {"answer": answer(cluster="down")}, SITE, False),
    "heard after the question": ({"heard": LIVE_AFTER}, {}, SITE, True),
    "heard at the question": ({"heard": {A: after(NOW, -1.0), B: NOW}}, {}, SITE, False),
    "never heard": ({"heard": {B: NOW}}, {}, SITE, False),
    "stopped in order": ({"left": frozenset({A}), "heard": RECENT}, {}, SITE, True),
    "stopped in order long ago": ({"left": frozenset({A}), "heard": LONG_AGO}, {}, SITE, False),
    "the candidate's guard stopped once": ({"left": frozenset({B}), "heard": RECENT}, {}, SITE, False),
    "unreadable": ({"unread": frozenset({A}), "heard": RECENT}, {}, SITE, True),
    "unreadable long ago": ({"unread": frozenset({A}), "heard": LONG_AGO}, {}, SITE, False),
    "stopped, and never heard since the start": (
        {"left": frozenset({A}), "heard": {B: NOW}, "started": after(NOW, -29.0)}, {}, SITE, True,
    ),
    "unreadable, and never heard since the start": (
        {"unread": frozenset({A}), "heard": {B: NOW}, "started": after(NOW, -29.0)}, {}, SITE, True,
    ),
    "ports up amid change": ({}, {"ports": "up-with-change"}, SITE, True),
    "ports down": ({}, {"ports": "down-alone"}, SITE, False),
    "a storm": ({}, {}, Site("s", "storm"), True),
    "a storm that is half-open": ({}, {}, Site("s", "storm-half-open"), True),
    "correlating": ({}, {}, Site("s", "correlating"), False),
    "off twice": ({}, {"off_twice": True, "ports": "up-with-change"}, SITE, False),
    "off twice, yet it answered": ({}, {"off_twice": True, "answer": answer()}, SITE, True),
    "off twice, yet heard": ({"heard": LIVE_AFTER}, {"off_twice": True}, SITE, True),
    "it yielded": ({}, {"answer": answer(yielded=True)}, SITE, False),
    "a cold start": ({}, {"answer": answer(), "cold": True, "purpose": "alone"}, SITE, False),
    "a cold start that fences": ({}, {"answer": answer(), "cold": True}, SITE, True),
    "one membership": (
        {"beats": {n: statement(n, 1) for n in (A, B)}, "beat_at": {A: NOW, B: NOW}}, {"answer": answer()}, SITE, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTS)
def test_the_first_test_is_whether_anything_contradicts_a_death(what: str) -> None:
    """Law 2: then it is the network, and nothing fires anywhere until that has ended by evidence."""
    of_pair, of_claim, site, alive = CONTRADICTS[what]
    one = open_claim(**of_claim)
    pair = replace(known(), **{"gatherings": {B: one}, **of_pair})
    after_it = _contradicted(pair, one, NOW, WALL, site, POLICY)
    if alive:
        [view] = after_it.kept.inhibits.values()
        said = (view.id, view.kind, view.owner, view.since_wall, view.ended)
        assert said == (PEER_ALIVE, "peer-alive", B, WALL, False)
        assert view.reason
        assert after_it.kept.inhibits.keys() == {PEER_ALIVE}
    else:
        assert after_it == pair


@pytest.mark.parametrize("heard", [True, False])
def test_two_readings_off_end_peer_alive_unless_the_target_is_heard(heard: bool) -> None:
    """A device that reads another node's power says nothing of a living one. Others of the list stay."""
    view, other = (
        InhibitView(PEER_ALIVE, "peer-alive", B, "heard", 5.0),
        InhibitView("x", "person", "anna", "work", 0.0),
    )
    one = open_claim(off_twice=True)
    pair = keep(replace(known(), gatherings={B: one}), inhibits={PEER_ALIVE: view, "x": other})
    pair = replace(pair, heard=LIVE_AFTER) if heard else pair
    left = _contradicted(pair, one, NOW, WALL, SITE, POLICY).kept.inhibits
    assert left == ({PEER_ALIVE: view, "x": other} if heard else {"x": other})


@pytest.mark.parametrize(
    ("gather", "winner", "member", "idle"),
    [
        (True, None, False, False),
        (True, B, False, True),
        (True, None, True, True),
        (False, B, True, False),
        (True, None, None, False),
    ],
)
def test_a_gathering_that_nobody_will_ask_for_claims_no_death(gather, winner, member, idle) -> None:
    """The era has its winner, or the candidate itself sees the target as a member."""
    one = open_claim(gather=gather, evidence=evidence(B, connected=False, peer_member=member))
    pair = keep(replace(known(), gatherings={B: one}), register=replace(known().kept.register, winner=winner))
    assert _no_death_claimed(pair, one) is idle
    other = replace(open_claim(), candidate=A, answer=answer(yielded=True))
    assert _no_death_claimed(replace(pair, gatherings={A: other, B: one}), one), "it stepped back for the other"


# ------------------------------------------------------------------ an arbiter that just started

EARLY = [  # up for, target heard ago, claim: why it is too early
    (29.999, None, {}, "arbiter-just-started", 1.0),
    (30.0, None, {}, None, None),
    (1.0, 0.5, {}, None, None),
    (1.0, None, {"purpose": "alone"}, None, None),
    (14.999, None, {"cold": True, "purpose": "alone"}, "arbiter-just-started", 5.0),
    (15.0, None, {"cold": True, "purpose": "alone"}, None, None),
    (1000.0, 29.999, {"cold": True, "purpose": "alone"}, "target-heard", 5.0),
    (1000.0, 30.0, {"cold": True, "purpose": "alone"}, None, None),
    (1.0, 0.5, {"cold": True, "purpose": "alone", "answer": answer()}, None, None),
]


@pytest.mark.parametrize(("up_s", "heard_s", "changed", "reason", "retry_s"), EARLY, ids=str)
def test_silence_says_nothing_to_an_arbiter_that_just_started(up_s, heard_s, changed, reason, retry_s) -> None:
    """A fence waits until the target had 30 s to be heard, a cold start T_cold, and for whoever is heard at all."""
    if changed.get("cold"):
        up_s = up_s if up_s == 1000.0 or "answer" in changed else up_s - 15.0 + POLICY.cold_s
    one = open_claim(**changed)
    heard = {B: NOW} if heard_s is None else {A: after(NOW, -heard_s), B: NOW}
    pair = replace(known(), started=after(NOW, -up_s), heard=heard, gatherings={B: one})
    found = _too_early(pair, one, NOW, POLICY)
    assert (found.reason, found.retry_s, found.nonce) == (reason, retry_s, "n") if reason else found is None
    if changed.get("cold") and reason == "arbiter-just-started":
        won = keep(pair, register=replace(pair.kept.register, winner=B))
        assert _too_early(won, one, NOW, POLICY) is None, "no verdict is asked again"


# ------------------------------------------------------------------ inhibits and storms, at every step


@pytest.mark.parametrize(
    ("why", "purpose", "sits", "refused"),
    [
        *(
            (why, purpose, sits, not (purpose == "alone" and sits))
            for why, purpose, sits in product(("storm", "storm-half-open"), PURPOSES, (True, False))
        ),
        *(("correlating", p, s, True) for p, s in product(PURPOSES, (True, False))),
        *((None, p, s, False) for p, s in product(PURPOSES, (True, False))),
    ],
)  # fmt: skip
def test_a_storm_spares_the_primary_that_goes_on_alone(
    why: str | None, purpose: str, sits: bool, refused: bool
) -> None:
    """Its claim, and the commit of that claim."""
    pair = keep(with_claim(known(), purpose=purpose), session=Session(S1, 1, (B,) if sits else (A,)))
    for message in (claim(purpose=purpose), Commit("n", 1, purpose)):
        found = _refusal(pair, B, message, Site("s", why), POLICY)
        assert (found.reason, found.nonce, found.retry_s) == (why, "n", 1.0) if refused else found is None


@pytest.mark.parametrize(
    ("quiet_s", "beats", "refused"), [(60.0, True, False), (59.999, True, True), (60.0, False, True)]
)
def test_an_inhibit_that_has_ended_waits_for_the_candidates_quiet(quiet_s: float, beats: bool, refused: bool) -> None:
    """As its guard states it; one that states nothing is not quiet."""
    beat = replace(statement(B, 1), hold=replace(QUIET, quiet_for_s=quiet_s))
    pair = replace(with_claim(known(), purpose="alone"), beats={B: beat} if beats else {})
    pair = keep(pair, inhibits={"x": InhibitView("x", "disturbance", A, "flap", 0.0, ended=True)})
    found = _refusal(pair, B, claim(purpose="alone"), SITE, POLICY)
    assert (found.reason, found.retry_s, found.text) == ("inhibited", 1.0, f"{A}: flap") if refused else found is None


@pytest.mark.parametrize(("field", "value"), [("cold", True), ("lost_for_s", 30.0)])
def test_an_inhibit_is_judged_by_the_claim_also_at_its_commit(field: str, value: object) -> None:
    """A cold start under `peer-alive`; the sitting primary 30 s after it lost the session under a disturbance."""
    kind = "peer-alive" if field == "cold" else "disturbance"
    for sits, spared in ((True, True), (False, field == "cold")):
        pair = keep(
            with_claim(known(), purpose="alone", **{field: value}),
            inhibits={"x": InhibitView("x", kind, A, "r", 0.0)},  # type: ignore[arg-type]
            session=Session(S1, 1, (B,) if sits else (A,)),
        )
        found = _refusal(pair, B, Commit("n", 1, "alone"), SITE, POLICY)
        assert (found is None) is spared
        assert found is None or found.reason == ("peer-alive" if field == "cold" else "inhibited")


# ------------------------------------------------------------------ the offer


def moved_on(pair: Pair, site: Site = SITE) -> tuple[Pair, tuple]:
    return gathering.progress(pair, B, NOW, WALL, site, POLICY)


def test_a_complete_claim_gets_an_offer_with_all_that_is_known() -> None:
    """Open for T_accept at the register's version; who sat is said."""
    pair, ((to, made),) = moved_on(with_claim(known(), asked_s=1.0))
    stored = known().kept.testimony[A].evidence
    register = known().kept.register.view("store-1")
    assert to == B
    assert made == Offer("n", register, claim().evidence, stored, "silent", 1.0, 10.0, False, False, POLICY.accept_s)
    assert (pair.gatherings[B].offered, pair.gatherings[B].version) == (NOW, 1)
    assert moved_on(pair) == (pair, ())
    sits = keep(with_claim(known()), session=Session(S1, 1, (B,)))
    assert moved_on(sits)[1][0][1].sitting is True


def test_what_is_not_complete_waits_and_what_is_over_is_dropped() -> None:
    """An offer for T_accept; a gathering for 30 s, and without an offer."""
    for seconds, stands in ((POLICY.accept_s, True), (POLICY.accept_s + 0.001, False)):
        pair = with_claim(known(), offered=after(NOW, -seconds))
        assert moved_on(pair) == (pair if stands else replace(pair, gatherings={}), ())
    waits = with_claim(known(), asked_s=0.1)
    assert moved_on(waits) == (waits, ())
    for seconds, stands in ((30.0, True), (30.001, False)):
        pair = with_claim(known(), asked_s=seconds, gather=True)
        assert moved_on(pair) == (pair if stands else replace(pair, gatherings={}), ())


@pytest.mark.parametrize(("gather", "ago_s", "judged"), [(True, 2.0, True), (True, 2.001, False), (False, 2.001, True)])
def test_old_words_of_a_gathering_are_no_news(gather: bool, ago_s: float, judged: bool) -> None:
    """For 2 s it finds out whether it is the network; a claim always."""
    pair, sends = moved_on(with_claim(known(), asked_s=ago_s, gather=gather, ports="up-with-change"))
    assert (PEER_ALIVE in pair.kept.inhibits) is judged
    assert codes(sends) == ([] if gather else [(B, "peer-alive")])
    assert (B in pair.gatherings) is gather


def test_a_claim_that_is_refused_in_the_end_is_dropped() -> None:
    """A storm that came meanwhile; an arbiter that just started."""
    pair, sends = moved_on(with_claim(known()), Site("store-1", "correlating"))
    assert (pair.gatherings, codes(sends)) == ({}, [(B, "correlating")])
    early = replace(with_claim(known()), started=after(NOW, -5.0), heard={B: NOW})
    pair, sends = moved_on(early)
    assert (pair.gatherings, codes(sends)) == ({}, [(B, "arbiter-just-started")])


def test_an_answer_counts_for_its_nonce_before_the_offer_and_from_the_target() -> None:
    """Else nothing changes; a yield ends `peer-alive`."""
    view = InhibitView(PEER_ALIVE, "peer-alive", B, "heard", 5.0)
    waits = with_claim(known(), asked_s=0.1, waits_for_target=True)
    came = after(NOW, -0.05)

    def told(pair: Pair, said: Answer, sender: str = A) -> Pair:
        return gathering.answer(pair, sender, said, NOW, came, WALL, SITE, POLICY)[0]

    heard = told(waits, answer())
    assert (heard.gatherings[B].answer, heard.gatherings[B].answered) == (answer(), came)
    [view_of_network] = told(with_claim(known()), answer()).kept.inhibits.values()
    assert (view_of_network.id, view_of_network.since_wall) == (PEER_ALIVE, WALL)
    offered = with_claim(known(), offered=NOW)
    for pair, said, sender in (
        (waits, replace(answer(), nonce="old"), A),
        (waits, replace(answer(), evidence=evidence(B)), A),
        (waits, answer(), B),
        (offered, answer(), A),
        (known(), answer(), A),
    ):
        assert told(pair, said, sender) is pair
    for yielded in (True, False):
        held = keep(waits, inhibits={PEER_ALIVE: view, "x": replace(view, id="x")})
        assert set(told(held, answer(yielded=yielded)).kept.inhibits) == ({"x"} if yielded else {PEER_ALIVE, "x"})
