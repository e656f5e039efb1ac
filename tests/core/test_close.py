"""K1 to K6, rule by rule: when a winner closes its era, what the loser states, and what is forgotten afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import of, of_a_whole_pair, remembering, with_ack, with_register, with_replicas

from guard.core import close
from guard.core.evidence import Disk, Link
from guard.core.instant import after
from guard.core.messages import CloseAnswer, CloseAsk, Closed, CloseEra, InhibitView, Refused, RegisterView
from guard.core.step import AnswerPerson, Intent, Send
from guard.core.turn import AgentJob, Attempt, Closing, HandlerJob, Right, Turn

ARBITER = "arbiter"


def winner():
    """A's guard: it won era 3 and used that win; the pair has been whole for exactly one second."""
    guard, now = of_a_whole_pair("A")
    register = replace(guard.ack.register, era=3, winner="A", basis="verdict", used=("alone",), version=9)
    return replace(
        guard,
        memory=replace(guard.memory, era=3, version=9, since_era=1, used=("alone",)),
        ack=replace(guard.ack, register=register),
        acked=now,
        whole_since=after(now, -1.0),
    ), now


def unused():
    """The same, but that the win was never used, and that the pair is not whole any more."""
    guard, now = winner()
    return replace(guard, memory=replace(guard.memory, used=()), whole_since=now), now


def loser():
    guard, now = of_a_whole_pair("B")
    return replace(guard, memory=replace(guard.memory, era=3)), now


def shot(now, *, spawned: bool = True, drained_s: float | None = None) -> Intent:
    drained = None if drained_s is None else after(now, drained_s)
    return Intent("i", 3, 9, "B", "boot", now, 10.0, spawned, drained)


def agent(now, stage: str) -> AgentJob:
    return AgentJob("a", "off", "B", now, after(now, 60.0), stage)


def change(ended: bool, kind: str = "change") -> InhibitView:
    return InhibitView("x", kind, "A", "planned", 0.0, ended)  # type: ignore[arg-type]


def committed(now) -> Attempt:
    return Attempt("n", "fence", "a", now, committed=now)


def busy(guard, now):
    """With a right, and a claim under way that a person only tries."""
    right, attempt = Right("alone", 3, 9, now, 1), Attempt("n", "alone", "dry-1", now, dry=True)
    return replace(guard, right=guard.right or right, attempt=guard.attempt or attempt)


def advanced(guard, now) -> tuple:
    turn = Turn(guard, now)
    close.advance(turn)
    return turn.guard, [(s.to, s.message) for s in of(turn.step().effects, Send)]


def asks(guard, now) -> bool:
    return [type(m) for _, m in advanced(guard, now)[1]] == [CloseAsk]


# ------------------------------------------------------------------ K1 to K3: the winner begins


def test_a_winner_of_a_whole_pair_renounces_and_asks_the_loser() -> None:
    """K2 and K3: no right, no claim, then the question, with what the answer must name."""
    guard, now = winner()
    turn = Turn(busy(guard, now), now)
    close.advance(turn)
    session = guard.halves.session("A", "B")
    [send] = of(turn.step().effects, Send)
    assert (send.to, send.message) == ("B", CloseAsk(send.message.nonce, 3, session))
    assert turn.guard.closing == Closing(send.message.nonce, 9, session, guard.halves.connects, now)
    assert len(send.message.nonce) == 32
    assert turn.guard.right is None
    assert turn.guard.attempt is None
    assert [(a.id, a.outcome) for a in of(turn.step().effects, AnswerPerson)] == [("dry-1", "closing")]


AGAINST_A_CLOSE = {
    "not whole": lambda g, now: with_replicas(g, peer_disk=Disk.INCONSISTENT),
    "whole: cannot tell": lambda g, now: replace(g, members=None),
    "whole for less than a second": lambda g, now: replace(g, whole_since=after(now, -0.999)),
    "the peer says nothing of its side": lambda g, now: with_ack(g, peer_hold=None),
    "the peer is not whole": lambda g, now: with_ack(g, peer_hold=replace(g.ack.peer_hold, whole=False)),
    "the peer cannot tell": lambda g, now: with_ack(g, peer_hold=replace(g.ack.peer_hold, whole=None)),
    "no session": lambda g, now: replace(g, halves=replace(g.halves, echoed=False)),
    "a change stands": lambda g, now: remembering(g, inhibits={"x": change(ended=False)}),
    "a change stands at the arbiter": lambda g, now: with_ack(g, inhibits=(change(ended=False),)),
    "an agent shoots": lambda g, now: replace(g, agents=(agent(now, "armed"),)),
    "a shot has not drained": lambda g, now: remembering(g, intents=(shot(now),)),
    "a shot drains later": lambda g, now: remembering(g, intents=(shot(now, drained_s=0.1),)),
    "our commit is not answered yet": lambda g, now: replace(g, attempt=committed(now)),
    "an agent is about to use a win": lambda g, now: replace(
        g, right=Right("fence", 3, 9, now, 1), agents=(agent(now, "wait"),)
    ),
    "the peer won": lambda g, now: with_register(g, winner="B"),
    "nobody won": lambda g, now: with_register(g, winner=None),
    "another store": lambda g, now: replace(g, store_doubted=True),
    "the arbiter is silent": lambda g, now: replace(g, acked=after(now, -2.1)),
    "the arbiter never spoke": lambda g, now: replace(g, ack=None),
}


@pytest.mark.parametrize("why", AGAINST_A_CLOSE)
def test_an_era_is_not_closed_while(why: str) -> None:
    """K1: each of these alone keeps the era open, and the right with it (S3, S4)."""
    guard, now = winner()
    guard = busy(AGAINST_A_CLOSE[why](guard, now), now)
    after_it, sends = advanced(guard, now)
    assert (sends, after_it.closing) == ([], None)
    assert (after_it.right, after_it.attempt) == (guard.right, guard.attempt)


def test_without_a_session_a_win_that_was_never_used_is_handed_back() -> None:
    """A close that cannot be begun does not stand in its way."""
    guard, now = winner()
    guard = remembering(replace(guard, halves=replace(guard.halves, echoed=False)), used=())
    assert [m.how for _, m in advanced(guard, now)[1]] == ["hand-back"]


@pytest.mark.parametrize("used", [(), ("fence",), ("alone",), ("fence", "alone")])
def test_the_peers_promotion_is_constrained_while_this_node_may_run_alone(used: tuple[str, ...]) -> None:
    """A win that only fenced needs no constraint."""
    assert close.own_constraint(remembering(winner()[0], used=used)) is ("alone" in used)


def test_what_does_not_keep_an_era_open() -> None:
    """An ended change, a disturbance, an agent that only waits, a shot that has drained or was never spawned."""
    guard, now = winner()
    for harmless in (
        remembering(guard, inhibits={"x": change(ended=True)}),
        remembering(guard, inhibits={"x": change(ended=False, kind="disturbance")}),
        replace(guard, agents=(agent(now, "wait"),)),
        remembering(guard, intents=(shot(now, drained_s=0.0),)),
        remembering(guard, intents=(shot(now, spawned=False),)),
    ):
        assert asks(harmless, now)


def test_a_close_is_begun_every_two_to_three_seconds() -> None:
    """A refused close is asked again, with jitter, and not with every event."""
    guard, now = winner()
    begun, _ = advanced(guard, now)
    assert "close" in begun.due
    begun = replace(begun, closing=None)
    for seconds, again in ((1.99, False), (3.0, True)):
        at = after(now, seconds)
        assert asks(replace(begun, acked=at), at) is again


def test_a_close_under_way_is_given_up_with_the_connection_or_after_five_seconds() -> None:
    """K4: it stands on one unbroken connection; nothing else is begun meanwhile."""
    guard, now = winner()
    guard, _ = advanced(guard, now)
    for seconds, stands in ((0.1, True), (5.0, True), (5.001, False)):
        at = after(now, seconds)
        later, sends = advanced(replace(guard, acked=at), at)
        assert (later.closing == guard.closing, sends) == (stands, [])
        assert stands or later.closing is None
    cut = with_replicas(guard, link=Link.STANDALONE)
    anew = replace(guard, halves=replace(guard.halves, connects=guard.halves.connects + 1))
    for broken in (cut, anew):
        assert advanced(broken, now)[0].closing is None


# ------------------------------------------------------------------ the hand-back of a win that was never used


def test_an_unused_win_is_handed_back_without_a_right_and_without_a_claim_left() -> None:
    """Said to the arbiter at the version read; again after two to three seconds."""
    guard, now = unused()
    turn = Turn(guard, now)
    close.advance(turn)
    [send] = of(turn.step().effects, Send)
    assert (send.to, send.message) == (ARBITER, CloseEra(send.message.nonce, 9, "hand-back", None))
    assert len(send.message.nonce) == 32
    assert turn.guard.right is None
    for seconds, again in ((1.99, 0), (3.0, 1)):
        at = after(now, seconds)
        later = replace(turn.guard, acked=at, whole_since=at)
        assert len(advanced(later, at)[1]) == again


AGAINST_A_HAND_BACK = {
    "used": lambda g, now: remembering(g, used=("fence",)),
    "a claim is under way": lambda g, now: replace(g, attempt=Attempt("n", "alone", None, now)),
    "it holds a right": lambda g, now: replace(g, right=Right("alone", 3, 9, now, 1)),
    "the arbiter never spoke": lambda g, now: replace(g, ack=None),
    "the register was not read": lambda g, now: with_ack(g, register=None),
    "another era": lambda g, now: remembering(g, era=2),
    "a person's win": lambda g, now: with_register(g, basis="person"),
    "a memory of this era": lambda g, now: remembering(g, since_era=3),
    "a memory of no era": lambda g, now: remembering(g, since_era=None),
    "won before this start": lambda g, now: replace(remembering(g, won=8), met=9),
    "met nothing at this start": lambda g, now: replace(remembering(g, won=8), met=None),
    "a handler waits": lambda g, now: replace(g, handlers=(HandlerJob("h", "r0", now, 1),)),
    "an agent shoots": lambda g, now: replace(g, agents=(agent(now, "firing"),)),
    "the peer is not heard": lambda g, now: with_ack(g, peer_heard_s=None),
    "the peer was heard long ago": lambda g, now: with_ack(g, peer_heard_s=2.001),
    "a shot was decided": lambda g, now: remembering(g, intents=(shot(now, drained_s=-1.0),)),
    "the peer stepped back and is unfit": lambda g, now: with_ack(
        remembering(g, consented=True), peer_hold=replace(g.ack.peer_hold, unfit=True)
    ),
}


@pytest.mark.parametrize("why", AGAINST_A_HAND_BACK)
def test_a_win_is_not_handed_back_while(why: str) -> None:
    """S3, S6: each of these alone keeps the win."""
    guard, now = unused()
    assert not close._returnable(Turn(AGAINST_A_HAND_BACK[why](guard, now), now))


def test_what_does_not_keep_an_unused_win() -> None:
    """Won in this memory, or met after it; an agent that waits; a peer heard 2 s ago, or back and fit."""
    guard, now = unused()
    for harmless in (
        remembering(guard, won=9),
        replace(remembering(guard, won=9), met=None),
        replace(remembering(guard, won=8), met=8),
        replace(guard, agents=(agent(now, "wait"),)),
        with_ack(guard, peer_heard_s=2.0),
        remembering(guard, consented=True),
        with_ack(remembering(guard, consented=True), peer_hold=None),
        with_ack(guard, peer_hold=replace(guard.ack.peer_hold, unfit=True)),
    ):
        assert close._returnable(Turn(harmless, now))


# ------------------------------------------------------------------ the loser's statement

THE_LOSER = {
    "": lambda g, now: g,
    "another-era": lambda g, now: remembering(g, era=2),
    "another-session": lambda g, now: with_replicas(g, link=Link.STANDALONE),
    "not-whole": lambda g, now: with_replicas(g, disk=Disk.INCONSISTENT),
    "shot-undrained": lambda g, now: remembering(g, intents=(shot(now),)),
}


@pytest.mark.parametrize("reason", THE_LOSER)
def test_the_loser_agrees_only_to_what_it_can_state(reason: str) -> None:
    """And it renounces either way: an invitation ends every right and every claim."""
    guard, now = loser()
    session = guard.halves.session("B", "A")
    turn = Turn(busy(THE_LOSER[reason](guard, now), now), now)
    close.heard_ask(turn, CloseAsk("k", 3, session))
    [send] = of(turn.step().effects, Send)
    assert (send.to, send.message) == ("A", CloseAnswer("k", reason == "", session, reason))
    assert (turn.guard.right, turn.guard.attempt) == (None, None)
    assert [(a.id, a.outcome) for a in of(turn.step().effects, AnswerPerson)] == [("dry-1", "closing")]


def test_the_loser_names_the_session_that_it_sees() -> None:
    """Another one, or none, is no agreement; nor while its agent shoots. One that only waits is no shot."""
    guard, now = loser()
    session = guard.halves.session("B", "A")
    for changed, asked, reason in (
        (guard, "another", "another-session"),
        (replace(guard, halves=replace(guard.halves, echoed=False)), session, "another-session"),
        (replace(guard, agents=(agent(now, "reading"),)), session, "shot-undrained"),
        (replace(guard, agents=(agent(now, "wait"),)), session, ""),
    ):
        turn = Turn(changed, now)
        close.heard_ask(turn, CloseAsk("k", 3, asked))
        [send] = of(turn.step().effects, Send)
        assert (send.message.agreed, send.message.reason) == (reason == "", reason)
        assert send.message.session == changed.halves.session("B", "A")


# ------------------------------------------------------------------ K4 to K6


def test_an_agreed_close_is_written_once_at_the_version_of_k1() -> None:
    """K5: what was asked with goes to the arbiter, once; a second answer changes nothing."""
    guard, now = winner()
    closing = Closing("k", 9, guard.halves.session("A", "B"), guard.halves.connects, now)
    turn = Turn(replace(guard, closing=closing), now)
    for _ in range(2):
        close.heard_answer(turn, CloseAnswer("k", True, closing.session, ""))
    assert [(s.to, s.message) for s in of(turn.step().effects, Send)] == [
        (ARBITER, CloseEra("k", 9, "close", closing.session))
    ]
    assert turn.guard.closing == replace(closing, written=True)


def test_a_close_that_is_not_agreed_in_its_own_connection_is_dropped() -> None:
    """K4: refused, of another session, or the connection broke since K2: nothing is written."""
    guard, now = winner()
    closing = Closing("k", 9, guard.halves.session("A", "B"), guard.halves.connects, now)
    guard = replace(guard, closing=closing)
    good = CloseAnswer("k", True, closing.session, "")
    anew = replace(guard, halves=replace(guard.halves, connects=guard.halves.connects + 1))
    for changed, said, left in (
        (guard, replace(good, agreed=False), None),
        (guard, replace(good, session="another"), None),
        (with_replicas(guard, link=Link.STANDALONE), good, None),
        (anew, good, None),
        (guard, replace(good, nonce="old"), closing),
        (replace(guard, closing=None), good, None),
    ):
        turn = Turn(changed, now)
        close.heard_answer(turn, said)
        assert turn.guard.closing == left
        assert of(turn.step().effects, Send) == []


def test_a_closed_era_takes_with_it_what_belonged_to_it() -> None:
    """K6: right, uses, consent and the cold win go; a shot that may still act is remembered across the era."""
    guard, now = busy(*winner()), winner()[1]
    kept = [shot(now), shot(now, drained_s=0.1)]
    guard = remembering(
        guard, confirmed_off=True, consented=True, cold_win="a cold win", intents=(*kept, shot(now, drained_s=0.0))
    )
    guard = replace(
        guard,
        closing=Closing("k", 9, "s", 1, now),
        due={"unbar": after(now, 9.0), "attest": after(now, 9.0), "beat": now},
        version_at=None,
    )
    for version in (9, 10):
        turn = Turn(guard, now)
        close.heard_closed(turn, Closed("k", RegisterView("store-1", 4, None, (), None, version, "A")))
        assert turn.guard.memory == replace(
            guard.memory, era=4, version=version, used=(), confirmed_off=False, consented=False, cold_win=None,
            intents=tuple(kept),
        )  # fmt: skip
        assert (turn.guard.closing, turn.guard.right, turn.guard.version_at) == (None, None, now)
        assert turn.guard.due == {"beat": now}, "the constraint is taken back and the era attested at once"


@pytest.mark.parametrize(("store", "version"), [("store-2", 10), ("store-1", 8)])
def test_another_store_or_an_older_version_closes_nothing(store: str, version: int) -> None:
    """S6: a register that lost its memory is believed by nobody."""
    guard, now = winner()
    turn = Turn(guard, now)
    close.heard_closed(turn, Closed("k", RegisterView(store, 4, None, (), None, version, "A")))
    assert turn.guard == guard


@pytest.mark.parametrize(("nonce", "left"), [("k", False), ("another", True)])
def test_a_refusal_ends_the_close_that_it_names(nonce: str, left: bool) -> None:
    """The era stays open, and is tried again; a refusal of something else is none of its business."""
    guard, now = winner()
    for closing in (Closing("k", 9, "s", 1, now), None):
        turn = Turn(replace(guard, closing=closing), now)
        close.heard_refused(turn, Refused(nonce, "stale-version", "the register has changed"))
        assert turn.guard.closing == (closing if left else None)
