"""What counts as heard at the arbiter, who has left, and what becomes of a claim's nonce; by hand, word by word."""

from __future__ import annotations

import pytest
from desk import A, B, Desk, statement

from guard.core import arbiter
from guard.core.instant import after
from guard.core.messages import AskNonce, Bye, CloseEra, NonceIs, Refused
from guard.core.pair import BYE_STRAGGLERS_S


def test_a_pair_without_a_register_is_told_so() -> None:
    """By the number of the beat that was asked with, and with nothing else to believe."""
    told = arbiter.unknown_ack(statement(A, 17))
    assert (told.seq, told.register, told.attested, told.inhibits) == (17, None, None, ())
    assert (told.peer_heard_s, told.peer_hold, told.peer_session, told.outdate) == (None, None, None, False)


@pytest.mark.parametrize(
    ("later_s", "left"), [(0.0, True), (BYE_STRAGGLERS_S, True), (BYE_STRAGGLERS_S + 0.001, False)]
)
def test_a_word_right_behind_a_bye_is_no_return(later_s: float, left: bool) -> None:
    """Messages of a guard that stopped in order may overtake its last one; after that it is back. The peer is not."""
    desk = Desk().whole()
    for node in (A, B):
        desk.hear(node, Bye("stopped in order"))
    assert desk.pair.left == {A, B}
    desk.now = after(desk.now, later_s)
    desk.beat(A)
    assert desk.pair.left == ({A, B} if left else {B})


def test_a_node_is_steady_from_its_first_word_after_a_silence() -> None:
    """Heard at most 2 s apart; each node by itself."""
    desk = Desk()
    began = desk.now
    for step_s, steady in ((0.0, began), (2.0, began), (2.0, began)):
        desk.now = after(desk.now, step_s)
        desk.beat(A)
        assert desk.pair.steady_since == {A: steady}
        assert desk.pair.heard == {A: desk.now}
    desk.now = after(desk.now, 2.001)
    desk.beat(A)
    desk.beat(B)
    assert desk.pair.steady_since == {A: desk.now, B: desk.now}


def test_a_word_that_nobody_can_read_is_a_sign_of_life_and_no_statement() -> None:
    """What its sender stated before is no news by that; the next word that can be read is one."""
    desk = Desk().whole()
    beats, began = desk.pair.beats, desk.pair.steady_since[A]
    desk.now = after(desk.now, 1.5)
    desk.pair = arbiter.heard_unread(desk.pair, A, desk.now, desk.policy)
    assert (desk.pair.heard[A], desk.pair.steady_since[A], desk.pair.beats) == (desk.now, began, beats)
    assert desk.pair.unread == {A}
    desk.pair = arbiter.heard_unread(desk.pair, B, after(desk.now, 9.0), desk.policy)
    assert desk.pair.unread == {A, B}
    assert desk.pair.steady_since[B] == after(desk.now, 9.0)
    desk.beat(A)
    assert desk.pair.unread == {B}


def test_a_close_that_is_refused_says_why_and_when_to_ask_again() -> None:
    """A hand-back only to a peer that lives, whoever asks; else both must name the same standing session."""
    for how, reason in (("hand-back", "peer-not-heard"), ("close", "not-whole")):
        desk = Desk()
        desk.beat(A)
        [(to, said)] = desk.hear(A, CloseEra("n", 1, how, None))
        assert isinstance(said, Refused)
        assert (to, said.nonce, said.reason, said.retry_s) == (A, "n", reason, 1.0)
        assert " " in said.text
    desk.beat(B)
    [(_, said)] = desk.hear(A, CloseEra("n", 99, "hand-back", None))
    assert isinstance(said, Refused)
    assert said.reason == "stale-version"


def test_the_last_32_nonces_that_read_closed_can_never_be_committed() -> None:
    """Bounded, oldest out first, each once; a claim that old has no window any more."""
    desk = Desk()
    for n in (*range(33), 32):
        [(_, said)] = desk.hear(A, AskNonce(f"q{n}", f"n{n}", desk.register.era))
        assert said == NonceIs(f"q{n}", f"n{n}", "closed-without-winner")
    assert desk.pair.kept.refused_nonces == tuple(f"n{n}" for n in range(1, 33))
