"""DRBD's handler on one guard: a 1 is final for its disconnection, so it is not said on a guess; one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import frozen_primary, guard_of, of, run, whole_pair

from guard.core.evidence import Disk, Link, Role
from guard.core.instant import after
from guard.core.step import AnswerHandler, SawVolumes, Tick
from guard.core.turn import HandlerJob


def waiting():
    """A, cut and frozen, its handler asking for longer than a promotion may take."""
    world = frozen_primary()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    return guard, after(now, guard.policy.handler_promote_s + 1)


def seen_as(guard, at, **changed):
    replicas = tuple(replace(r, **changed) for r in guard.volumes.replicas)
    return replace(guard, volumes=replace(guard.volumes, at=at, replicas=replicas))


def answers(guard, now) -> list[int]:
    return [effect.code for effect in of(run(guard, Tick(), now)[1], AnswerHandler)]


def test_a_frozen_primary_keeps_asking() -> None:
    """L3: it is not given up after the time that a promotion has."""
    assert answers(*waiting()) == []


def test_a_role_that_cannot_be_read_is_not_given_up() -> None:
    """L3: a tool that timed out once must not freeze a primary for good."""
    guard, now = waiting()
    assert answers(seen_as(guard, now, role=Role.UNKNOWN), now) == []


def test_a_secondary_being_promoted_is_refused_in_time() -> None:
    """It gets its 1 before Pacemaker's promote times out."""
    guard, now = waiting()
    assert answers(seen_as(guard, now, role=Role.SECONDARY), now) == [1]


def test_before_the_first_look_at_replication_nothing_is_answered() -> None:
    """L3: a guard that was restarted while frozen looks before it speaks."""
    guard, now = waiting()
    assert answers(replace(guard, volumes=None), now) == []


@pytest.mark.parametrize("link", [Link.CONNECTED, Link.RESYNC])
def test_only_a_look_after_the_question_says_reconnected(link: Link) -> None:
    """L3: a view from before the cut still shows the connection."""
    guard, now = waiting()
    [job] = guard.handlers
    assert answers(seen_as(guard, after(job.since, -0.5), link=link), now) == []
    assert answers(seen_as(guard, after(job.since, 2.0), link=link), now) == [1]


def test_a_look_that_failed_breaks_no_continuity() -> None:
    """L1: the tools time out just when a node dies; only a disk that is known to have left UpToDate counts."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    for disk, kept in ((Disk.UNKNOWN, True), (Disk.INCONSISTENT, False), (Disk.DISKLESS, False)):
        volumes = replace(guard.volumes, replicas=tuple(replace(r, disk=disk) for r in guard.volumes.replicas))
        after_it, _ = run(guard, SawVolumes(volumes), now)
        assert all(after_it.memory.continuous.values()) is kept, disk


def test_a_right_ends_with_the_request_it_was_won_for() -> None:
    """Else nothing could be handed back or yielded until the pair is whole again."""
    guard, now = waiting()
    [job] = guard.handlers
    assert isinstance(job, HandlerJob)
    ended, _ = run(seen_as(guard, now, role=Role.SECONDARY), Tick(), now)
    assert ended.right is None
    assert ended.handlers == ()
