"""What a turn draws, says and repeats, and what a guard's state answers: whole tables beside a plain second rule."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from scene import of, of_a_whole_pair, remembering, with_replicas

from guard.core import turn as questions
from guard.core.evidence import Disk, Link, Membership, Role, Up
from guard.core.instant import Instant, after, elapsed_s
from guard.core.messages import Bye
from guard.core.policy import Policy
from guard.core.step import Note, Send
from guard.core.turn import Turn


def gaps(seed: str, seconds: float, spread: float, times: int = 50) -> list[float]:
    """How long a duty rests each time."""
    guard, now = of_a_whole_pair("A")
    found, guard = [], replace(guard, seed=seed, due={})
    for _ in range(times):
        turn = Turn(guard, now)
        assert turn.every("duty", seconds, spread=spread)
        guard, due = turn.guard, turn.guard.due["duty"]
        assert not Turn(guard, Instant(due - 1)).every("duty", seconds, spread=spread)
        found.append(elapsed_s(now, due))
        now = due
    return found


def test_no_nonce_is_drawn_twice_and_no_other_seed_draws_it() -> None:
    """S4: a window answers to its nonce alone. Jitter draws from the same series and gives none of it back."""
    guard, now = of_a_whole_pair("A")
    drawn = []
    for seed in ("a" * 32, "b" * 32):
        turn = Turn(replace(guard, seed=seed, due={}, drawn=0), now)
        for round_ in range(20):
            nonce = turn.nonce()
            assert len(nonce) == 32, "128 bits"
            drawn.append(int(nonce[:8], 16) / 2**32)
            turn.every(f"duty{round_}", 1.0, spread=0.5)
            drawn.append(turn.fraction())
    assert len(set(drawn)) == len(drawn) == 80


def test_a_spread_duty_comes_earlier_by_another_part_each_time_and_never_later() -> None:
    """200 guards that one breaker switched on do not beat in step for ever."""
    one, other = (gaps(seed, 10.0, 0.25) for seed in ("a" * 32, "b" * 32))
    assert all(7.5 <= gap <= 10.0 for gap in one + other)
    assert len(set(one)) == len(one)
    assert not set(one) & set(other)
    assert max(one) - min(one) > 1.5, "the whole part of it is used"
    assert set(gaps("a" * 32, 10.0, 0.0)) == {10.0}


def test_what_never_was_is_longer_ago_than_anything() -> None:
    """A limit is not kept by what was never seen."""
    guard, now = of_a_whole_pair("A")
    turn = Turn(guard, now)
    assert turn.since(None) > 1e300
    assert (turn.since(now), turn.since(after(now, -2.5)), turn.since(after(now, 1.0))) == (0.0, 2.5, -1.0)


def test_a_session_is_the_one_that_stands_else_the_one_lost_last_else_the_one_remembered() -> None:
    """A claim names it; without any there is nothing to claim by."""
    guard, _ = of_a_whole_pair("A")
    stands = guard.halves.session("A", "B")
    assert stands is not None
    assert questions.session(replace(guard, lost="lost")) == stands
    cut = replace(guard, halves=guard.halves.lost())
    assert questions.session(replace(cut, lost="lost")) == "lost"
    assert questions.session(replace(cut, lost=None)) == guard.memory.session.name
    assert questions.session(remembering(replace(cut, lost=None), session=None)) is None


@pytest.mark.parametrize(
    ("changed", "unfit"),
    [
        ({}, True),
        ({"started_s": 119.9}, False),
        ({"members": None}, False),
        ({"quorate": True}, False),
        ({"quorate": None}, False),
        ({"ever_connected": True}, False),
        ({"volumes": None}, False),
        ({"failed_stop": True, "started_s": 0.0}, True),
        ({"cluster_lost_s": 10.0, "started_s": 0.0}, True),
        ({"cluster_lost_s": 9.9, "started_s": 0.0}, False),
    ],
)
def test_a_node_that_cannot_serve_says_so(changed, unfit: bool) -> None:
    """After a boot with nothing running and no quorum for T_cold; or its cluster is gone, or shows a failed stop."""
    guard, now = of_a_whole_pair("B")
    changed = dict(changed)
    guard = remembering(replace(guard, policy=Policy(), ever_connected=False), boot_id="the boot before")
    guard = replace(
        guard,
        started=after(now, -changed.pop("started_s", 120.0)),
        members=replace(guard.members, quorate=changed.pop("quorate", False)),
        cluster=replace(guard.cluster, failed_stop=changed.pop("failed_stop", False)),
        cluster_lost=after(now, -changed.pop("cluster_lost_s")) if "cluster_lost_s" in changed else None,
    )
    assert questions.unfit(Turn(replace(guard, **changed), now)) is unfit


def test_no_word_to_the_arbiter_outlives_the_time_in_which_its_answer_gives_a_right() -> None:
    """S4: what the bus could not deliver within T_fire it drops."""
    guard, now = of_a_whole_pair("A")
    turn = Turn(guard, now)
    turn.tell_arbiter(Bye("one"))
    turn.send("B", Bye("two"))
    assert [(s.to, s.expires_s) for s in of(turn.step().effects, Send)] == [
        ("arbiter", guard.policy.fire_s),
        ("B", guard.policy.fire_s),
    ]


def test_a_person_is_paged_once_for_a_fault_and_anew_after_it_has_gone() -> None:
    """A note pages nobody."""
    guard, now = of_a_whole_pair("A")
    turn = Turn(guard, now)
    for fault in ("one", "one", "two"):
        turn.page_once(fault, "a fault", era=1)
    turn.unpage("one")
    turn.page_once("one", "a fault again")
    turn.note("one", "no page")
    notes = of(turn.step().effects, Note)
    assert [(n.event, n.page) for n in notes] == [("one", True), ("two", True), ("one", True), ("one", False)]
    assert notes[0].data == {"era": 1}


# ------------------------------------------------------------------ what is known of the pair


def test_whole_is_one_membership_both_controllers_and_all_data() -> None:
    """None while anything that counts is not known; no for a peer that is gone, a stopped controller, less data."""
    known, _ = of_a_whole_pair("A")
    for member, ours, peers in product((True, False, None), Up, Up):
        guard = replace(
            known,
            members=replace(known.members, peer_member=member),
            cluster=replace(known.cluster, controller=ours, peer_controller=peers),
        )
        unread = member is None or Up.UNKNOWN in (ours, peers)
        good = bool(member) and ours is peers is Up.UP
        assert questions.whole(guard) is (None if unread else good)
        for nothing in ("members", "cluster", "volumes"):
            assert questions.whole(replace(guard, **{nothing: None})) is None
        assert questions.whole(replace(guard, volumes=replace(guard.volumes, replicas=()))) is None
        for worse in ({"link": Link.RESYNC}, {"disk": Disk.UNKNOWN}, {"peer_disk": Disk.INCONSISTENT}):
            assert questions.whole(with_replicas(guard, **worse)) is (None if unread else False)


def test_a_clusters_own_word_is_up_only_if_both_its_parts_answer() -> None:
    """`down` is said of one that has been gone for the whole time, and is no sign of a network."""
    known, now = of_a_whole_pair("A")
    for running, controller in product((*Up, None), (*Up, None)):
        guard = replace(
            known,
            members=None if running is None else replace(known.members, running=running),
            cluster=None if controller is None else replace(known.cluster, controller=controller),
            cluster_lost=None,
        )
        assert questions.cluster_word(Turn(guard, now)) == ("up" if running is controller is Up.UP else "?")
        for ago_s, down in ((0.0, False), (9.9, False), (10.0, True), (60.0, True)):
            lost = replace(guard, cluster_lost=after(now, -ago_s))
            assert (questions.cluster_word(Turn(lost, now)) == "down") is down


def test_only_a_node_whose_every_role_is_known_is_idle() -> None:
    """A role that cannot be read may be a primary's, and a node that was never looked at may have one."""
    guard, _ = of_a_whole_pair("B")
    assert questions.idle(guard)
    seconds = guard.volumes.replicas
    for role in (Role.PRIMARY, Role.UNKNOWN):
        both = (*seconds, *(replace(r, role=role) for r in seconds))
        assert not questions.idle(replace(guard, volumes=replace(guard.volumes, replicas=both)))
    assert not questions.idle(replace(guard, volumes=replace(guard.volumes, replicas=())))
    assert not questions.idle(replace(guard, volumes=None))


def test_a_peer_is_silent_only_if_this_nodes_own_cluster_says_so() -> None:
    """Out of the membership, or the probe unanswered, or every link known to be down. Without corosync: not known."""
    guard, now = of_a_whole_pair("A")
    three = (True, False, None)
    for running, member, probe, links in product(Up, three, three, ((), *product(Up), *product(Up, Up))):
        rings = tuple((f"10.0.{i}.2", up) for i, up in enumerate(links))
        seen = Membership(now, running, member, quorate=True, votes_three=False, ring=None, links=rings)
        silent = member is False or probe is False or set(links) == {Up.DOWN}
        assert questions.peer_silent(replace(guard, members=seen, probe=probe)) is (running is Up.UP and silent)
        assert questions.peer_silent(replace(guard, members=None, probe=probe)) is False
