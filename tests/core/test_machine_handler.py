"""DRBD's handler on one guard: a 1 is final for its disconnection, so it is not said on a guess; one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import frozen_primary, guard_of, of, run, whole_pair

from guard.core.attesting import evidence
from guard.core.evidence import Disk, Link, Role, Volumes
from guard.core.instant import after
from guard.core.messages import Claim, Commit, Offer
from guard.core.step import AnswerHandler, HandlerAsks, Heard, ReadVolumes, SawVolumes, Send, Tick
from guard.core.turn import HandlerJob, Right, Turn


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


# ------------------------------------------------------------------ the link may be back by the time that it asks


def asks(link: Link = Link.CONNECTING):
    """A whole pair, A last seen with this link; DRBD's handler, a process of its own, asks half a second later."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard, now = seen_as(guard, now, link=link), after(now, 0.5)
    guard, effects = run(guard, HandlerAsks("h", "r0"), now)
    return guard, now, effects


def offered(guard, now):
    """The arbiter's offer for the claim that is under way: over a living secondary the primary goes on (V20)."""
    own = replace(evidence(Turn(guard, now)), connected=False, peer_member=False)
    mine = tuple(replace(r, role="primary", continuous=True) for r in own.replicas)
    theirs = tuple(replace(r, role="secondary") for r in mine)
    target = replace(own, node="B", boot_id="boot-B", replicas=theirs)
    own = replace(own, replicas=mine)
    nonce, register = guard.attempt.nonce, guard.ack.register
    return Heard("arbiter", Offer(nonce, register, own, target, "live", 0.0, 0.0, False, True, 2.0))


def sent(effects, kind) -> list:
    return [s.message for s in of(effects, Send) if isinstance(s.message, kind)]


def read(guard, at, **changed):
    return SawVolumes(seen_as(guard, at, **changed).volumes)


@pytest.mark.parametrize("link", [Link.CONNECTED, Link.CONNECTING])
def test_a_handler_lets_drbd_be_read_anew_at_once(link: Link) -> None:
    """DRBD speaks only when something changes, and what it said last is older than the question."""
    guard, now, effects = asks(link)
    assert of(effects, ReadVolumes) == [ReadVolumes()]
    assert bool(sent(effects, Claim)) is (link is Link.CONNECTING)
    assert not of(run(guard, Tick(), after(now, 0.4))[1], ReadVolumes)
    assert of(run(guard, Tick(), after(now, 0.6))[1], ReadVolumes), "again, until it was read"
    seen, _ = run(guard, read(guard, after(now, 0.1), link=Link.CONNECTING), after(now, 0.1))
    assert not of(run(seen, Tick(), after(now, 0.6))[1], ReadVolumes)


def test_nothing_is_committed_on_a_look_from_before_the_question() -> None:
    """L1: the claim is under way meanwhile, and is committed the moment that DRBD was read."""
    guard, now, _ = asks()
    guard, effects = run(guard, offered(guard, now), after(now, 0.3))
    assert guard.attempt is not None
    assert not sent(effects, Commit)
    old, effects = run(guard, read(guard, after(now, -0.1)), after(now, 0.35))
    assert not sent(effects, Commit), "a look that began before the question is none"
    _, effects = run(old, read(guard, after(now, 0.2)), after(now, 0.4))
    assert sent(effects, Commit)


def test_a_link_that_is_back_is_claimed_by_nobody() -> None:
    """A win would bar the peer of a whole pair. The claim ends, and a second later the handler hears why."""
    guard, now, _ = asks()
    guard, _ = run(guard, offered(guard, now), after(now, 0.3))
    guard, effects = run(guard, read(guard, after(now, 0.2), link=Link.CONNECTED), after(now, 0.4))
    assert guard.attempt is None
    assert not sent(effects, Commit)
    guard, effects = run(guard, Tick(), after(now, 1.1))
    assert [(a.code, a.reason) for a in of(effects, AnswerHandler)] == [(1, "reconnected")]
    assert not sent(effects, Claim)


@pytest.mark.parametrize(
    ("at_s", "link", "codes"),
    [(-0.1, Link.CONNECTING, []), (0.2, Link.CONNECTING, [4]), (0.2, Link.UNKNOWN, []), (0.2, Link.CONNECTED, [])],
)
def test_a_win_is_used_only_beside_a_look_since_the_question(at_s: float, link: Link, codes: list[int]) -> None:
    """The last look before the answer: not one from before the question, none that failed, none that shows the link."""
    guard, now, _ = asks()
    guard = seen_as(guard, after(now, at_s), link=link)
    right = Right("alone", 1, 2, now, guard.halves.connects, job="h")
    guard = replace(guard, right=right, attempt=None)
    assert answers(guard, after(now, 0.4)) == codes


@pytest.mark.parametrize("looked_s", [None, -0.1, 0.1])
@pytest.mark.parametrize("link", [Link.CONNECTED, Link.CONNECTING])
def test_what_an_event_carries_is_as_old_as_its_look(looked_s: float | None, link: Link) -> None:
    """L3: an event of r0 told r1, unread since before its cut, as connected and of now; or as cut, though it was up."""
    guard, now, _ = asks(link)
    right = Right("alone", 1, 2, now, guard.halves.connects, job="h")
    told = seen_as(guard, after(now, 1.2), link=link).volumes
    looked = None if looked_s is None else after(now, looked_s)
    told = replace(told, carried=dict.fromkeys((r.resource for r in told.replicas), looked))
    fresh = looked_s is not None and looked_s > 0
    guard = replace(guard, right=right, attempt=None)
    codes = [a.code for a in of(run(guard, SawVolumes(told), after(now, 1.2))[1], AnswerHandler)]
    assert codes == ([1] if link is Link.CONNECTED else [4]) * fresh


def test_what_an_event_carries_is_no_news_beside_a_later_look() -> None:
    """A look of 1.0 saw r1 cut; an event of r0 at 1.5 carries r1, connected, from a look of 0.5: r1 stays cut."""
    guard = guard_of(whole_pair(), "A")
    now, [r0] = guard.volumes.at, guard.volumes.replicas
    r1 = replace(r0, resource="r1")
    both = (r0, replace(r1, link=Link.CONNECTING))
    guard, _ = run(guard, SawVolumes(Volumes(after(now, 1.0), both)), after(now, 1.1))
    worse = replace(r0, disk=Disk.INCONSISTENT)
    for looked_s, link in ((0.5, Link.CONNECTING), (1.2, Link.CONNECTED)):
        carried = {"r0": None, "r1": after(now, looked_s)}
        told = SawVolumes(Volumes(after(now, 1.5), (worse, r1), carried=carried))
        seen = run(guard, told, after(now, 1.6))[0].volumes
        assert [(r.disk, r.link) for r in seen.replicas] == [(Disk.INCONSISTENT, r0.link), (Disk.UP_TO_DATE, link)]
        assert [seen.looked("r0"), seen.looked("r1")] == [None, after(now, max(looked_s, 1.0))]


def test_while_drbd_cannot_be_read_nobody_runs_alone_and_a_person_is_told() -> None:
    """L1: a look that failed is no right, but it is repeated, and a true death is served once DRBD can be read."""
    guard, now, _ = asks()
    guard, _ = run(guard, read(guard, after(now, 0.1), link=Link.UNKNOWN, disk=Disk.UNKNOWN), after(now, 5.0))
    for seconds in (6.0, 7.0, 12.0):
        fresh = replace(guard, acked=after(now, seconds))
        guard, effects = run(fresh, Tick(), after(now, seconds))
        assert of(effects, ReadVolumes)
        assert not sent(effects, Commit)
    assert "drbd-unread" in guard.paged
    assert guard.handlers[0].said.startswith("DRBD cannot be read")
    guard, _ = run(guard, read(guard, after(now, 12.5), link=Link.CONNECTING, disk=Disk.UP_TO_DATE), after(now, 12.6))
    assert guard.attempt is not None
    assert "drbd-unread" not in guard.paged
    assert answers(replace(guard, right=Right("alone", 1, 2, now, guard.halves.connects, job="h")), after(now, 13)) == [
        4
    ]


def test_a_look_that_was_overtaken_says_nothing() -> None:
    """Two looks may end in another order than they began; what a gap says is kept all the same."""
    world = frozen_primary()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    late = read(guard, after(guard.volumes.at, -0.01), link=Link.CONNECTED)
    after_it, _ = run(guard, late, now)
    assert after_it.volumes == guard.volumes
    assert after_it.halves.connects == guard.halves.connects
    whole = guard_of(whole_pair(), "A")
    gap = SawVolumes(replace(whole.volumes, at=after(whole.volumes.at, -0.01), gap=True))
    assert run(whole, gap, now)[0].halves.connects == whole.halves.connects + 1


@pytest.mark.parametrize("link", [Link.CONNECTING, Link.DOWN, Link.UNKNOWN])
def test_a_loss_that_only_an_overtaken_look_saw_ends_the_session(link: Link) -> None:
    """S3: the link broke and came back between two looks; nothing else tells of it, for the watcher knows it now."""
    whole = guard_of(whole_pair(), "A")
    now, before = whole.volumes.at, whole.halves
    guard, _ = run(whole, read(whole, after(now, 1.5)), after(now, 1.8))
    assert guard.halves == before
    guard, _ = run(guard, read(whole, after(now, 1.0), link=link), after(now, 2.5))
    assert guard.halves.connects == before.connects + 1
    assert guard.halves.session("A", "B") is None
    assert [r.link for r in guard.volumes.replicas] == [Link.CONNECTED], "it is up all the same"
    again, _ = run(guard, read(whole, after(now, 1.2)), after(now, 2.6))
    assert again.halves.connects == guard.halves.connects


@pytest.mark.parametrize("unread", [{"disk": Disk.UNKNOWN}, {"generations": None}, {"link": Link.UNKNOWN}])
def test_what_could_not_be_read_is_read_again(unread) -> None:
    """L1: the tools time out just when the peer dies, and nothing changes afterwards, so DRBD says nothing more."""
    guard, now, _ = asks()
    known = guard.volumes.replicas[0]
    guard, _ = run(guard, read(guard, after(now, 0.1), **unread), after(now, 0.2))
    assert of(run(guard, Tick(), after(now, 0.8))[1], ReadVolumes)
    whole = {name: getattr(known, name) for name in unread}
    good, _ = run(guard, read(guard, after(now, 0.3), **whole), after(now, 0.4))
    assert not of(run(good, Tick(), after(now, 1.0))[1], ReadVolumes)


def test_what_stays_unreadable_is_looked_at_less_often() -> None:
    """Each look is some processes a resource; a node of which DRBD hangs for hours must not be kept busy by us."""
    guard, now, _ = asks()
    guard, _ = run(guard, read(guard, after(now, 0.1), disk=Disk.UNKNOWN), after(now, 0.2))
    looks = []
    for tick in range(1, 601):
        at = after(now, tick / 10)
        guard, effects = run(replace(guard, acked=at), Tick(), at)
        looks += [tick / 10] * len(of(effects, ReadVolumes))
    early, late = [at for at in looks if at <= 30], [at for at in looks if at > 30]
    assert len(early) >= 55
    assert len(late) in (5, 6, 7)
    at = after(now, 61)
    _, effects = run(replace(guard, acked=at), HandlerAsks("h2", "r0"), at)
    assert of(effects, ReadVolumes), "who asks now waits for no such pause"
