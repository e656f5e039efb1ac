"""What the arbiter judges an offer by, and what it writes: the evidence of both sides, and the commit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from guard.core import gathering
from guard.core.attest import Session
from guard.core.gathering import _bundle
from guard.core.instant import after
from guard.core.messages import Commit, Won
from guard.core.pair import FenceCommit, Pair, Site, keep
from guard.core.policy import Policy
from tests.core.desk import NOW, S1, A, B, answer, claim, evidence, known, open_claim, with_claim

POLICY = Policy()
SITE = Site("store-1")

# ------------------------------------------------------------------ the evidence of both


def test_a_live_answer_comes_before_what_was_stored() -> None:
    """As old as it came; yielded or not."""
    for yielded in (True, False):
        said = answer(yielded=yielded)
        one = open_claim(1.0, answer=said, answered=after(NOW, -0.25), came=after(NOW, -0.75))
        made = _bundle(replace(known(), gatherings={B: one}), one, NOW)
        assert (made.candidate, made.candidate_age_s) == (claim().evidence, 0.75)
        assert (made.target, made.target_age_s, made.fresh, made.target_yielded) == (
            said.evidence,
            0.25,
            "live",
            yielded,
        )


TIES = {
    "tied": ({}, {}, "silent"),
    "no session": ({"session": None}, {}, "stale"),
    "another era": ({"session": Session(S1, 2, (A,))}, {}, "stale"),
    "the candidate lost another": ({}, {"evidence": evidence(B, connected=False, session="s2")}, "stale"),
    "the target's was another": ({"session": Session("s2", 1, (A,))}, {"evidence": evidence(B, session="s2")}, "stale"),
}


@pytest.mark.parametrize("how", TIES)
def test_a_silent_targets_words_count_only_in_the_session_that_was_lost(how: str) -> None:
    """E3: claim, store and session name the same, in this era."""
    kept, of_claim, fresh = TIES[how]
    one = open_claim(**of_claim)
    made = _bundle(keep(known(), **kept), one, NOW)
    assert (made.fresh, made.target_age_s, made.target_yielded) == (fresh, 10.0, False)


def test_what_the_arbiter_cannot_know_is_unknown() -> None:
    """No testimony: no target. Its machine rebooted: no age. And the preferred node is the register's."""
    one = open_claim()
    none = _bundle(keep(known(), testimony={}), one, NOW)
    assert (none.target, none.target_age_s, none.fresh) == (None, None, "stale")
    assert _bundle(replace(known(), boot_id="another"), one, NOW).target_age_s is None
    for preferred in (A, B):
        pair = keep(known(), register=replace(known().kept.register, preferred=preferred))
        assert _bundle(pair, one, NOW).preferred_is_candidate is (preferred == B)


# ------------------------------------------------------------------ the commit


def offered(**changed: Any) -> Pair:
    """B's claim, with an offer half a second old."""
    return with_claim(known(), **{"offered": after(NOW, -0.5), "version": 1, **changed})


def committed(pair: Pair, site: Site = SITE, **changed: Any) -> tuple[Pair, Any]:
    pair, ((to, said),) = gathering.commit(
        pair, B, replace(Commit("n", 1, "fence", A, 75.0), **changed), NOW, site, POLICY
    )
    assert (to, said.nonce) == (B, "n")
    return pair, said


@pytest.mark.parametrize(("purpose", "unbounded"), [*product(("fence", "alone"), (True, False))])
def test_a_win_is_written_and_a_fence_remembered_with_its_horizon(purpose: str, unbounded: bool) -> None:
    """A person who decides otherwise waits for what may be under way; the offer is used up."""
    pair, said = committed(offered(purpose=purpose), purpose=purpose, unbounded=unbounded)
    assert said == Won("n", 1, 2, purpose)
    register = pair.kept.register
    assert (register.winner, register.used, register.basis, register.version) == (B, (purpose,), "verdict", 2)
    horizon = None if unbounded else 75.0
    assert pair.kept.last_fence == (FenceCommit(B, NOW, "boot-arbiter", horizon) if purpose == "fence" else None)
    assert pair.gatherings == {}


def won(basis: str = "verdict") -> dict[str, Any]:
    return {"winner": B, "used": ("fence",), "basis": basis, "version": 5}


NOT_WRITTEN: dict[str, tuple[Pair, dict[str, Any], Site]] = {
    "no offer": (with_claim(known()), {}, SITE),
    "no claim": (known(), {}, SITE),
    "another nonce": (offered(nonce="m"), {}, SITE),
    "too late": (offered(offered=after(NOW, -POLICY.accept_s - 0.001)), {}, SITE),
    "another purpose": (offered(purpose="alone"), {}, SITE),
    "another version": (offered(), {"version": 2}, SITE),
    "a storm": (offered(), {}, Site("s", "storm")),
    "no verdict": (keep(offered(), session=None), {}, SITE),
    "a member": (
        keep(
            offered(evidence=evidence(B, connected=False, peer_member=True)),
            register=replace(known().kept.register, **won()),
        ),
        {"version": 5}, SITE,
    ),
    "alive": (
        keep(offered(answer=answer(), answered=NOW), register=replace(known().kept.register, **won())),
        {"version": 5}, SITE,
    ),
    "its disk was not continuous": (
        keep(
            offered(evidence=evidence(B, connected=False, peer_member=False, continuous=False)),
            register=replace(known().kept.register, **won()),
        ), {"version": 5}, SITE,
    ),
}  # fmt: skip
REASONS = {
    "a storm": "storm",
    "no verdict": "stale-evidence",
    "another version": "stale-version",
    "a member": "target-is-member",
    "alive": "living-target",
    "its disk was not continuous": "own-disk-discontinuous",
}


@pytest.mark.parametrize("why", NOT_WRITTEN)
def test_a_commit_that_does_not_hold_writes_nothing(why: str) -> None:
    """S1, S2: window, nonce, purpose, version, inhibits, the arbiter's own verdict, and a living loser."""
    before, changed, site = NOT_WRITTEN[why]
    pair, said = committed(before, site, **changed)
    assert (said.reason, said.retry_s) == (REASONS.get(why, "stale-offer"), 1.0)
    assert pair == (replace(before, gatherings={}) if why == "a storm" else before)


def test_a_win_is_used_again_at_its_own_basis() -> None:
    """Over a silent target, or one that yielded; to run alone also beside a member, or a living one."""
    register = replace(known().kept.register, **won("person"))
    for changed, purpose in (
        ({}, "fence"),
        ({"answer": answer(yielded=True), "answered": NOW}, "fence"),
        ({"answer": answer(), "answered": NOW}, "alone"),
        ({"evidence": evidence(B, connected=False, peer_member=True)}, "alone"),
        ({"offered": after(NOW, -POLICY.accept_s)}, "fence"),
    ):
        pair, said = committed(keep(offered(purpose=purpose, **changed), register=register), purpose=purpose, version=5)
        assert (said, pair.kept.register.basis) == (Won("n", 1, 6, purpose), "person")
