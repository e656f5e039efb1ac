"""The arbiter's list of inhibits, rule by rule: who sets one, who ends it, what a late copy does, what time does."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from guard.core.inhibits import (
    ID_MAX,
    LEASE_KEPT_S,
    LIFTED_MAX,
    PERSONS_MAX,
    REASON_CUT,
    count_leases,
    end_inhibits,
    lift,
    shortened,
    shown_inhibits,
    stand,
)
from guard.core.instant import Instant, after
from guard.core.messages import BeatAck, InhibitStored, InhibitView, LiftInhibit, Refused, SetInhibit
from guard.core.pair import PEER_ALIVE, Pair, keep
from guard.core.policy import Policy
from tests.core.desk import QUIET, A, B, Desk, statement

POLICY = Policy()
NOW = Instant(10**15)
WALL = 1_700_000_000.0
KINDS = ("person", "change", "disturbance", "redundancy", "storm", "peer-alive")
PERSONS = ("person", "change")


def view(name: str = "x", kind: str = "person", **changed) -> InhibitView:
    return replace(InhibitView(name, kind, A, "a reason", 5.0), **changed)  # type: ignore[arg-type]


def listing(*views: InhibitView, **kept) -> Pair:
    return keep(Desk().pair, inhibits={v.id: v for v in views}, **kept)


def stood(pair: Pair, new: InhibitView) -> tuple[Pair, object]:
    pair, ((to, said),) = stand(pair, B, SetInhibit("n", new), NOW, WALL)
    assert (to, said.nonce) == (B, "n")
    return pair, said


def refusal(said: object) -> str:
    assert isinstance(said, Refused), said
    return said.reason


# ------------------------------------------------------------------ standing


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_arbiter_sets_what_ends_by_evidence(kind: str) -> None:
    """Neither by its kind nor by its name."""
    empty = listing()
    for name in ("x", PEER_ALIVE):
        pair, said = stood(empty, view(name, kind))
        if kind in ("storm", "peer-alive") or name == PEER_ALIVE:
            assert (refusal(said), pair) == ("not-yours", empty)
        else:
            assert said == InhibitStored("n", name)
            assert dict(pair.kept.inhibits) == {name: view(name, kind)}
            assert dict(pair.lease_at) == {name: NOW}


@pytest.mark.parametrize(("kind", "since", "name"), [*product(KINDS[:4], (5.0, 6.0), ("x", "y"))])
def test_a_late_copy_of_what_a_person_released_is_refused(kind: str, since: float, name: str) -> None:
    """The very one: same name, same moment. A later one of that name stands; so does a guard's own."""
    pair, said = stood(listing(lifted=(("x", 5.0),)), view(name, kind, since_wall=since))
    late = kind in PERSONS and (name, since) == ("x", 5.0)
    assert (isinstance(said, Refused) and said.reason == "lifted") is late
    assert (name in pair.kept.inhibits) is not late


def test_a_name_has_a_length_and_a_known_one_is_not_measured_again() -> None:
    """What stands already can be renewed and ended whatever an older release let in."""
    for length, fits in ((ID_MAX, True), (ID_MAX + 1, False)):
        name = "k" * length
        pair, said = stood(listing(), view(name))
        assert (name in pair.kept.inhibits) is fits
        assert fits or refusal(said) == "too-long"
        assert stood(listing(view(name)), view(name))[1] == InhibitStored("n", name)


@pytest.mark.parametrize("ended", [None, 0, 1])
def test_persons_holds_have_room_as_long_as_an_old_one_has_ended(ended: int | None) -> None:
    """The oldest that has ended makes room, and a late copy of it is known; where none has, the new one is refused."""
    many = [
        view(f"p{n}", PERSONS[n % 2], since_wall=10.0 - n, ended=ended is not None and n <= ended)
        for n in range(PERSONS_MAX)
    ]
    full = listing(*many, view("d", "disturbance", ended=True, since_wall=0.5))
    pair, said = stood(full, view("new"))
    if ended is None:
        assert (refusal(said), pair) == ("too-many-holds", full)
        assert str(PERSONS_MAX) in said.text
    else:
        assert set(pair.kept.inhibits) == set(full.kept.inhibits) - {f"p{ended}"} | {"new"}
        assert pair.kept.lifted == ((f"p{ended}", 10.0 - ended),)
    assert stood(full, view("p3", since_wall=7.0))[1] == InhibitStored("n", "p3"), "a known one needs no room"
    assert stood(full, view("d2", "disturbance"))[1] == InhibitStored("n", "d2"), "nor does a guard's"
    assert stood(listing(*many[1:]), view("new"))[0].kept.lifted == ()


@pytest.mark.parametrize(
    ("known", "since"),
    [
        (None, WALL),
        (view(kind="disturbance"), 5.0),
        (view(kind="disturbance", ended=True), WALL),
        (view(kind="disturbance", since_wall=0.0), WALL),
        (view(kind="disturbance", since_wall=0.5), 0.5),
    ],
    ids=str,
)
def test_an_inhibit_without_a_time_gets_the_arbiters(known: InhibitView | None, since: float) -> None:
    """A guard's core reads no wall clock; one that stands keeps its beginning, one that had ended begins anew."""
    before = listing() if known is None else listing(known)
    pair, _ = stood(before, view(kind="disturbance", since_wall=0.0))
    assert pair.kept.inhibits["x"] == view(kind="disturbance", since_wall=since)
    assert stood(before, view(kind="disturbance", since_wall=7.0))[0].kept.inhibits["x"].since_wall == 7.0


@pytest.mark.parametrize(("kind", "ended", "since"), [*product(KINDS[:4], (True, False), (5.0, 6.0))])
def test_a_persons_end_is_never_taken_back(kind: str, ended: bool, since: float) -> None:
    """By a late copy of the same; a new hold of that name is another, and a guard's own may begin again."""
    pair, _ = stood(listing(view(kind=kind, ended=ended)), view(kind=kind, since_wall=since))
    assert pair.kept.inhibits["x"].ended is (kind in PERSONS and ended and since == 5.0)


# ------------------------------------------------------------------ lifting


@pytest.mark.parametrize(("kind", "ended"), [*product(KINDS, (True, False))])
def test_what_has_ended_is_lifted_and_a_persons_is_remembered(kind: str, ended: bool) -> None:
    """Not what ends by evidence, and not what has not ended; what is not there is gone already."""
    before = listing(view(kind=kind, ended=ended), view("y"))
    pair, ((to, said),) = lift(before, B, LiftInhibit("n", "x"))
    assert (to, said.nonce) == (B, "n")
    if kind in ("storm", "peer-alive") or not ended:
        assert refusal(said) == ("not-yours" if kind in ("storm", "peer-alive") else "not-ended")
        assert pair == before
        return
    assert said == InhibitStored("n", "x")
    assert set(pair.kept.inhibits) == {"y"}
    assert pair.kept.lifted == ((("x", 5.0),) if kind in PERSONS else ())
    assert lift(pair, B, LiftInhibit("n", "x")) == (pair, ((B, InhibitStored("n", "x")),))


def test_the_last_64_that_were_lifted_are_known() -> None:
    """The oldest is forgotten first."""
    known = tuple((f"p{n}", 1.0) for n in range(LIFTED_MAX))
    pair, _ = lift(listing(view(ended=True), lifted=known), A, LiftInhibit("n", "x"))
    assert pair.kept.lifted == (*known[1:], ("x", 5.0))


# ------------------------------------------------------------------ leases


def leased(rest_s: float | None, ago_s: float | None = 20.0, **changed) -> Pair:
    """One hold with `rest_s` of its lease kept `ago_s` ago; None: by an arbiter that has started since, 50 s ago."""
    pair = listing(view(lease_s=rest_s, **changed), view("y"))
    at = {} if ago_s is None else {"x": after(NOW, -ago_s)}
    return replace(pair, started=after(NOW, -50.0), lease_at=at)


@pytest.mark.parametrize(
    ("pair", "left_s"),
    [
        (leased(600.0), 580.0),
        (leased(600.0, None), 550.0),
        (leased(15.0), 0.0),
        (leased(None), None),
        (leased(600.0, ended=True), 600.0),
    ],
)
def test_the_rest_of_a_lease_is_shown_as_it_is_now(pair: Pair, left_s: float | None) -> None:
    """Never below nothing; what has ended, or has none, is shown as it stands."""
    shown = shown_inhibits(pair, NOW)
    assert shown == (replace(pair.kept.inhibits["x"], lease_s=left_s), view("y"))


@pytest.mark.parametrize(
    ("rest_s", "ago_s", "kept_s"),
    [
        (600.0, LEASE_KEPT_S, 540.0),
        (600.0, LEASE_KEPT_S - 0.001, None),
        (20.0, 20.0, 0.0),
        (20.0, 19.9, None),
        (20.0, 500.0, 0.0),
        (None, 100.0, None),
        (0.0, 100.0, None),
    ],
)
def test_the_rest_of_a_lease_is_kept_once_a_minute_and_at_its_end(rest_s, ago_s, kept_s) -> None:
    """Durable then, and counted on from there; nothing is written in between, and nothing ends by it."""
    pair = leased(rest_s, ago_s)
    counted = count_leases(pair, NOW)
    if kept_s is None:
        assert counted is pair
    else:
        assert counted.kept.inhibits == {"x": view(lease_s=kept_s), "y": view("y")}
        assert dict(counted.lease_at) == {"x": NOW}


# ------------------------------------------------------------------ the end by evidence


def silent(node: str, *, quiet_s: float = POLICY.settle_s) -> Pair:
    """`node` was unheard for 30 s while the other spoke, and the network has been quiet there for `quiet_s`."""
    other = B if node == A else A
    beat = statement(other, 1, member=False)
    return replace(
        listing(),
        started=after(NOW, -100.0),
        heard={other: NOW, node: after(NOW, -30.0)},
        beat_at={other: NOW},
        beats={other: replace(beat, hold=replace(QUIET, quiet_for_s=quiet_s))},
        steady_since={other: after(NOW, -30.0)},
    )


@pytest.mark.parametrize(("kind", "owner", "ended"), [*product(KINDS, (A, B, "a person"), (True, False))])
def test_what_a_dead_guard_can_no_longer_lift_ends_by_evidence(kind: str, owner: str, ended: bool) -> None:
    """Its disturbance or lost redundancy, once it is gone and the survivor's network quiet; a `peer-alive` goes with
    either node. A person's, or one of a guard that lives, stands."""
    given, other = view(kind=kind, owner=owner, ended=ended), view("y", owner=A)
    pair = keep(silent(A), inhibits={"x": given, "y": other})
    left = dict(end_inhibits(pair, NOW, POLICY).kept.inhibits)
    ends = kind in ("disturbance", "redundancy") and owner == A
    assert left == ({"y": other} if kind == "peer-alive" else {"x": replace(given, ended=ended or ends), "y": other})


def test_a_dead_guards_inhibit_waits_for_quiet_and_for_its_death() -> None:
    """The survivor says how long its network has been quiet; one that says nothing proves nothing."""
    own = {"x": view(kind="disturbance", owner=A)}
    for pair, ends in (
        (silent(A), True),
        (silent(A, quiet_s=POLICY.settle_s - 0.001), False),
        (replace(silent(A), beats={}), False),
        (silent(B), False),
        (replace(silent(A), steady_since={}), False),
    ):
        assert end_inhibits(keep(pair, inhibits=own), NOW, POLICY).kept.inhibits["x"].ended is ends


@pytest.mark.parametrize(("member", "gone", "ends"), [(True, False, True), (False, True, True), (False, False, False)])
def test_peer_alive_ends_with_one_membership_or_with_a_death(member: bool, gone: bool, ends: bool) -> None:
    """Nothing else of the list goes with it."""
    pair = replace(
        silent(A),
        heard={A: NOW if not gone else after(NOW, -30.0), B: NOW},
        beat_at={A: NOW, B: NOW},
        beats={node: statement(node, 1, member=member) for node in (A, B)},
    )
    pair = keep(pair, inhibits={PEER_ALIVE: view(PEER_ALIVE, "peer-alive"), "y": view("y")})
    assert set(end_inhibits(pair, NOW, POLICY).kept.inhibits) == ({"y"} if ends else {PEER_ALIVE, "y"})


def test_what_is_too_large_is_said_with_its_reasons_cut() -> None:
    """An answer that does not arrive is no answer; every other message is left as it is."""
    desk = Desk().whole()
    long, short = view(reason="r" * 500), view("y", reason="short")
    ack = replace(desk.last(BeatAck), inhibits=(long, short))
    assert shortened(ack) == replace(ack, inhibits=(replace(long, reason="r" * REASON_CUT), short))
    other = Refused("n", "r" * 500, "t" * 500)
    assert shortened(other) is other
