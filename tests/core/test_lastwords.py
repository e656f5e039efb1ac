"""What a cold start is judged by, law by law: whose last words count, how old they are, and what is left unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from guard.core import attest
from guard.core.attest import Session
from guard.core.claim import Bundle
from guard.core.instant import Instant, after
from guard.core.lastwords import with_attested_gate, with_last_words
from guard.core.messages import Evidence
from tests.core.desk import S1, A, B, evidence, replica

NOW = Instant(10**15)
SESSION = Session(S1, 1, (A,))


def words(node: str, ago_s: float = 0.0, **changed: Any) -> attest.Testimony:
    """The last word of a node in the session, cut, written 10 to 20 s before."""
    said = evidence(node, **{"connected": False, "age_lo_s": 10.0, "age_hi_s": 20.0, **changed})
    return attest.Testimony(said, 1, after(NOW, -ago_s), "boot-arbiter")


def cold(fresh: str = "live", target: Evidence | None = None, **mine: Any) -> Bundle:
    """B came back and claims; A answers, and nothing runs there either."""
    ageless = {"connected": False, "age_lo_s": None, "age_hi_s": None}
    answer = evidence(A, **ageless) if target is None else target
    return Bundle(evidence(B, **{**ageless, **mine}), 0.25, answer, fresh, None, False, False)  # type: ignore[arg-type]


def ages(said: Evidence | None) -> list[tuple[float | None, float | None]]:
    assert said is not None
    return [(r.age_lo_s, r.age_hi_s) for r in said.replicas]


def test_both_ages_are_taken_as_of_the_later_word() -> None:
    """Law 2: B spoke 5 s before A; by then its last write was 15 to 25 s old. How old the words are does not matter."""
    aged = with_last_words(cold(), 1, SESSION, {A: words(A, 100.0), B: words(B, 105.0)})
    assert (ages(aged.candidate), ages(aged.target)) == ([(15.0, 25.0)], [(10.0, 20.0)])
    assert aged.target_age_s == aged.candidate_age_s == 0.25
    aged = with_last_words(cold(), 1, SESSION, {A: words(A, 105.0), B: words(B, 100.0)})
    assert (ages(aged.candidate), ages(aged.target)) == ([(10.0, 20.0)], [(15.0, 25.0)])


@pytest.mark.parametrize("node", [A, B])
def test_what_each_word_leaves_open_stays_open(node: str) -> None:
    """Connected, only the upper end is known; no upper end, or no age at all, stays so."""
    for changed, left in (
        ({"connected": True}, (0.0, 25.0)),
        ({"age_hi_s": None}, (15.0, None)),
        ({"age_lo_s": None}, (None, None)),
        ({"age_lo_s": None, "current": 0x1111_2222_3333_4444}, (None, None)),
        ({"current": 0x1111_2222_3333_4444}, (None, None)),
        ({"resource": "r9"}, (None, None)),
    ):
        other = B if node == A else A
        known = {other: words(other), node: words(node, 5.0, **changed)}
        aged = with_last_words(cold(), 1, SESSION, known)
        assert ages(aged.target if node == A else aged.candidate) == [left]


def test_what_is_stated_now_does_not_stand_where_the_last_word_says_nothing() -> None:
    """An age of this boot is of another ledger; each resource is judged for itself."""
    now = cold(age_lo_s=1.0, age_hi_s=2.0)
    both = (replica(resource="r9", age_lo_s=1.0, age_hi_s=2.0), *now.candidate.replicas)
    now = replace(now, candidate=replace(now.candidate, replicas=both))
    aged = with_last_words(now, 1, SESSION, {A: words(A), B: words(B)})
    assert ages(aged.candidate) == [(None, None), (10.0, 20.0)]


LAW_3: dict[str, tuple[Bundle, int, Session | None, dict[str, attest.Testimony]]] = {
    "no target": (replace(cold(), target=None), 1, SESSION, {A: words(A), B: words(B)}),
    "no session": (cold(), 1, None, {A: words(A), B: words(B)}),
    "another era": (cold(), 2, SESSION, {A: words(A), B: words(B)}),
    "the candidate said nothing": (cold(), 1, SESSION, {A: words(A)}),
    "the target said nothing": (cold(), 1, SESSION, {B: words(B)}),
    "the arbiter's boot lies between": (
        cold(), 1, SESSION, {A: words(A), B: replace(words(B), boot_id="boot-arbiter-2")},
    ),
    "the candidate names another session": (cold(session="s2"), 1, SESSION, {A: words(A), B: words(B)}),
    "the target names another session": (
        cold(target=evidence(A, session="s2", connected=False)), 1, SESSION, {A: words(A), B: words(B)},
    ),
    "both name another session": (
        cold(target=evidence(A, session="s2", connected=False, age_lo_s=None), session="s2"),
        1, SESSION, {A: words(A), B: words(B)},
    ),
    "the target has an age of its own": (
        cold(target=evidence(A, connected=False)), 1, SESSION, {A: words(A), B: words(B)},
    ),
    "the target is connected": (
        cold(target=evidence(A, age_lo_s=None)), 1, SESSION, {A: words(A), B: words(B)},
    ),
    "silent, and heard otherwise since": (cold("silent"), 1, SESSION, {A: words(A), B: words(B)}),
    "stale": (cold("stale", target=words(A).evidence), 1, SESSION, {A: words(A), B: words(B)}),
}  # fmt: skip


@pytest.mark.parametrize("why", LAW_3)
def test_words_that_do_not_fit_together_are_not_compared(why: str) -> None:
    """Law 3: each of these alone leaves the bundle as it is."""
    bundle, era, session, known = LAW_3[why]
    assert with_last_words(bundle, era, session, known) is bundle


def test_a_silent_target_counts_if_its_last_word_was_its_last() -> None:
    """It just lost power: nothing was heard of it since."""
    silent = cold("silent", target=words(A).evidence)
    aged = with_last_words(silent, 1, SESSION, {A: words(A), B: words(B)})
    assert ages(aged.candidate) == ages(aged.target) == [(10.0, 20.0)]


@pytest.mark.parametrize(
    ("role", "gate", "attested", "resource", "counts"),
    [
        ("secondary", None, True, "r0", True),
        ("secondary", None, False, "r0", False),
        ("secondary", False, True, "r0", False),
        ("primary", None, True, "r0", None),
        ("?", None, True, "r0", None),
        ("secondary", None, True, "r1", None),
    ],
)
def test_a_gate_that_is_not_shown_counts_as_attested_of_a_secondary_only(
    role, gate, attested, resource, counts
) -> None:
    """E4: down, it shows none; a word to the contrary stands, and so does nothing of a primary."""
    target = evidence(A, role=role, gate=gate, connected=False)
    bundle = cold(target=target)
    known = {A: words(A, gate=attested, resource=resource)}
    after_it = with_attested_gate(bundle, 1, SESSION, known)
    assert after_it.target is not None
    assert [r.gate for r in after_it.target.replicas] == [counts]
    assert replace(after_it, target=target) == bundle
    for era, session, other in (
        (2, SESSION, known),
        (1, None, known),
        (1, replace(SESSION, name="s2"), known),
        (1, SESSION, {}),
    ):
        assert with_attested_gate(bundle, era, session, other) is bundle
    nobody = replace(bundle, target=None)
    assert with_attested_gate(nobody, 1, SESSION, known) is nobody
