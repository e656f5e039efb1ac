"""Testimony: when a session is attested, and how both ends come to one name for their connection."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest

from guard.core.attest import Halves, attested, session_id, was_primary
from guard.core.messages import SessionHalf
from tests.core.desk import A, B, evidence, replica


def test_a_good_pair_is_attested_from_both_ends() -> None:
    """The rule is symmetric."""
    a, b = evidence(A, role="primary"), evidence(B)
    assert attested(a, b, 1)
    assert attested(b, a, 1)


BROKEN: list[dict[str, Any]] = [
    {"session": "session-2"},
    {"session": None},
    {"connected": False},
    {"era": 2},
    {"disk": "C"},
    {"disk": "?"},
    {"peer_disk": "O"},
    {"peer_disk": "?"},
    {"current": 0x1234_5678_9ABC_DEF0},
    {"current": None},
    {"current": 4},
    {"resource": "r1"},
]


@pytest.mark.parametrize("wrong", BROKEN, ids=str)
def test_one_wrong_word_of_either_end_and_nothing_is_attested(wrong: dict[str, Any]) -> None:
    """Session, connection, era, both disks as both see them, generation and the set of resources: all must fit."""
    good, bad = evidence(A), evidence(B, **wrong)
    assert not attested(good, bad, 1)
    assert not attested(bad, good, 1)


def test_every_resource_must_be_sound() -> None:
    """Two resources, one of them not: nothing; no resource at all: nothing."""
    two = (replica(), replica(resource="r1"))
    a, b = replace(evidence(A), replicas=two), replace(evidence(B), replicas=two)
    assert attested(a, b, 1)
    assert not attested(a, replace(b, replicas=(two[0], replica(resource="r1", disk="I"))), 1)
    assert not attested(a, replace(b, replicas=two[:1]), 1)
    assert not attested(replace(a, replicas=()), replace(b, replicas=()), 1)


def test_the_role_bit_of_a_generation_does_not_tell_two_apart() -> None:
    """Bit 0 says who was Primary, not which data."""
    assert attested(evidence(A, current=replica().current | 1), evidence(B), 1)  # type: ignore[operator]


def test_both_ends_compute_one_name() -> None:
    """The name depends on both halves and on who said which, not on who computes it."""
    assert session_id(A, "h1", B, "h2") == session_id(B, "h2", A, "h1")
    names = {session_id(A, x, B, y) for x, y in product(("h1", "h2", "h3"), repeat=2)}
    assert len(names) == 9


class End:
    """One guard's halves, and what it says."""

    def __init__(self, node: str, peer: str) -> None:
        self.node, self.peer, self.halves, self.drawn = node, peer, Halves(f"boot-{node}"), 0

    def connect(self) -> None:
        self.drawn += 1
        self.halves = self.halves.connected(f"{self.node}-half-{self.drawn}")

    def hear(self, message: SessionHalf | None) -> None:
        if message is not None:
            self.halves = self.halves.heard(message)

    @property
    def session(self) -> str | None:
        return self.halves.session(self.node, self.peer)


def exchange(a: End, b: End) -> None:
    """Both repeat until both have heard the other's echo."""
    for _ in range(3):
        b.hear(a.halves.said())
        a.hear(b.halves.said())


def test_two_connected_ends_agree_after_three_words() -> None:
    """And before the peer is known to have one's own half there is no name."""
    a, b = End(A, B), End(B, A)
    a.connect()
    b.connect()
    assert a.session is None
    b.hear(a.halves.said())
    assert b.session is None  # B knows A's half, but not that A has B's
    a.hear(b.halves.said())
    assert a.session is not None
    exchange(a, b)
    assert a.session == b.session


def test_a_connection_that_broke_never_lends_its_name_to_the_next() -> None:
    """Each end may notice the break at another time: in every order, both end with one new name."""
    steps = ("a-lost", "b-lost", "a-connect", "b-connect")
    for order in permutations(steps):
        if order.index("a-lost") > order.index("a-connect") or order.index("b-lost") > order.index("b-connect"):
            continue
        a, b = End(A, B), End(B, A)
        a.connect()
        b.connect()
        exchange(a, b)
        old = a.session
        for step in order:
            end = a if step[0] == "a" else b
            if step.endswith("lost"):
                end.halves = end.halves.lost()
                assert end.session is None
            else:
                end.connect()
            exchange(a, b)
        assert a.session is not None
        assert a.session == b.session != old, order


def test_a_half_from_before_the_break_makes_no_common_name() -> None:
    """A delayed word of the old connection may be heard: the two names then differ until the ends repeat themselves."""
    a, b = End(A, B), End(B, A)
    a.connect()
    b.connect()
    exchange(a, b)
    late = b.halves.said()
    for end in (a, b):
        end.halves = end.halves.lost()
        end.connect()
    a.hear(late)
    assert a.session is None  # the late word does not echo A's new half
    exchange(a, b)
    assert a.session == b.session is not None


def test_a_half_names_its_boot_and_its_connection_through_every_change() -> None:
    """One that restarted counts anew, and its peer can tell: (boot id, connect count) stand beside every half."""
    halves = Halves("boot-A")
    assert halves.said() is None
    for count in (1, 2):
        halves = halves.connected(f"h{count}")
        assert halves.said() == SessionHalf("boot-A", count, f"h{count}", "")
        halves = halves.heard(SessionHalf("boot-B", 7, "theirs", f"h{count}"))
        assert halves.said() == SessionHalf("boot-A", count, f"h{count}", "theirs")
        halves = halves.lost()
        assert halves.said() is None
        assert (halves.boot_id, halves.connects, halves.peers) == ("boot-A", count, None)


def test_what_the_peer_said_before_the_own_connect_stands_but_is_no_echo() -> None:
    """The peer noticed the connection first: its half is known, that it has ours is not."""
    halves = Halves("boot-A").heard(SessionHalf("boot-B", 1, "theirs", "")).connected("h1")
    assert halves.session(A, B) is None
    assert halves.said() == SessionHalf("boot-A", 1, "h1", "theirs")
    assert halves.heard(SessionHalf("boot-B", 1, "theirs", "h1")).connected("h2").session(A, B) is None


def test_who_was_primary_by_its_own_words() -> None:
    """Primary of one resource is enough; an unknown role is no word of being Primary."""
    assert was_primary(replace(evidence(A), replicas=(replica(), replica(resource="r1", role="primary"))))
    assert not was_primary(evidence(A, role="?"))
