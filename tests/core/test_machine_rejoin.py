"""What the lab found between a freeze and wholeness: a booted node under a hold, second orders, requests that wait."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import asked_to_fence, guard_of, of, run, whole_pair
from test_machine_hold import settled

from guard.core.evidence import Disk, Link, Role, Sign, SignKind, Up
from guard.core.hold import brake_for_network
from guard.core.instant import Instant, after
from guard.core.messages import InhibitView
from guard.core.step import (
    AgentAsks,
    AnswerAgent,
    AnswerPerson,
    AskRelease,
    ClearHold,
    Heard,
    Note,
    OutdateOwn,
    SetHold,
    Tick,
)
from guard.core.turn import Turn

BRAKE = Sign(SignKind.TOPOLOGY_CHANGE, "acc1", Instant(0), "switch acc1 counted 1 topology changes")


def rejoined(**changed):
    """A settled hold of the node that serves; its peer has booted and its replication was not started yet."""
    guard, now = settled()
    down = tuple(
        replace(r, link=Link.CONNECTING, peer_disk=Disk.OUTDATED, disk=Disk.UP_TO_DATE) for r in guard.volumes.replicas
    )
    peer = replace(guard.ack.peer_hold, whole=False)
    guard = replace(
        guard,
        volumes=replace(guard.volumes, replicas=down),
        ack=replace(guard.ack, peer_hold=peer),
        whole_since=None,
    )
    return replace(guard, **changed), now


def releases(guard, now) -> bool:
    return bool(of(run(guard, Tick(), now)[1], ClearHold))


def test_a_hold_ends_over_a_node_that_booted_meanwhile() -> None:
    """L2: only the cluster can start the peer's replication, and the hold keeps it from that: else it never ends."""
    assert releases(*rejoined())


def test_a_person_ends_a_hold_over_a_node_that_booted_meanwhile() -> None:
    """L2: replication is down because the hold keeps it so; a release is refused for what else speaks against it."""
    for connecting, forecasts, outcome in (
        (True, None, "releasing"),
        (True, {}, "forecast-asked"),
        (False, None, "not-whole"),
    ):
        guard, now = rejoined()
        mine = InhibitView("person:k", "person", "anna", "work", 1.0, lease_s=60.0)
        guard = replace(guard, memory=replace(guard.memory, inhibits={mine.id: mine}))
        if forecasts is not None:
            guard = replace(guard, forecasts=forecasts)
        if not connecting:  # connected and yet not whole: damaged, not booted
            replicas = tuple(replace(r, link=Link.CONNECTED) for r in guard.volumes.replicas)
            guard = replace(guard, volumes=replace(guard.volumes, replicas=replicas))
        _, effects = run(guard, AskRelease("r"), now)
        assert [a.outcome for a in of(effects, AnswerPerson)] == [outcome]


@pytest.mark.parametrize("what", ["other membership", "controller down", "pending shot", "forecast", "arbiter"])
def test_such_a_hold_stays_while_anything_speaks_against_it(what: str) -> None:
    """S5: two living nodes that do not see each other stay held, and so does what a release would fence."""
    guard, now = rejoined()
    peer = guard.ack.peer_hold
    changed = {
        "other membership": {"members": replace(guard.members, peer_member=False)},
        "controller down": {"cluster": replace(guard.cluster, peer_controller=Up.UNKNOWN)},
        "pending shot": {"ack": replace(guard.ack, peer_hold=replace(peer, pending_shots=1))},
        "forecast": {"forecasts": {}},
        "arbiter": {"acked": after(now, -10.0)},
    }[what]
    assert not releases(replace(guard, **changed), now)


def test_a_pair_without_a_register_is_not_put_into_maintenance() -> None:
    """L2: nothing is fenced before `init`, and without a register nobody could agree on a release."""
    for registered in (True, False):
        guard, now = guard_of(whole_pair(), "A"), whole_pair().nodes["A"].local()
        ack = guard.ack if registered else replace(guard.ack, register=None)
        turn = Turn(replace(guard, ack=ack, due={}), now)
        brake_for_network(turn, [BRAKE])
        assert bool(of(run(turn.guard, Tick(), now)[1], SetHold)) is registered


@pytest.mark.parametrize(("after_s", "answered"), [(1.7, True), (60.0, False)])
def test_the_second_run_of_an_old_order_ends_at_once(after_s: float, answered: bool) -> None:
    """Pacemaker runs a failed agent once more; the pair is whole by then, and a shot that waits would keep the hold."""
    guard, now = settled()
    guard = replace(guard, whole_since=after(now, -after_s))
    _, effects = run(guard, AgentAsks("r", "off", guard.peer, 50.0), now)
    assert [a.reason for a in of(effects, AnswerAgent)] == (["peer-back"] if answered else [])


def test_a_person_is_told_when_a_request_waits_for_the_arbiter() -> None:
    """The page comes once, after the arbiter was silent for longer than a blip, and ends with the silence."""
    world = asked_to_fence()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    job = replace(guard.agents[0], since=after(now, -11.0), until=after(now, 100.0), stage="wait")
    guard = replace(guard, agents=(job,), attempt=None, acked=Instant(0))
    told, effects = run(guard, Tick(), now)
    assert [n.event for n in of(effects, Note) if n.page] == ["arbiter-silent"]
    again, effects = run(told, Tick(), now)
    assert not [n for n in of(effects, Note) if n.page]
    back, _ = run(replace(again, acked=now), Tick(), now)
    assert "arbiter-silent" not in back.paged


@pytest.mark.parametrize(
    ("disk", "link", "ordered"),
    [
        (Disk.UP_TO_DATE, Link.CONNECTING, True),
        (Disk.CONSISTENT, Link.STANDALONE, True),
        (Disk.UNKNOWN, Link.UNKNOWN, True),
        (Disk.OUTDATED, Link.CONNECTING, False),
        (Disk.INCONSISTENT, Link.CONNECTING, False),
        (Disk.DISKLESS, Link.CONNECTING, False),
        (Disk.UP_TO_DATE, Link.CONNECTED, False),
        (Disk.UP_TO_DATE, Link.RESYNC, False),
        (Disk.CONSISTENT, Link.DOWN, False),
    ],
)
def test_a_loser_outdates_its_disk_once_where_that_can_be_done(disk: Disk, link: Link, ordered: bool) -> None:
    """S2: a good disk that the peer left behind is outdated; what is so already, connected or down is left alone."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    replicas = tuple(replace(r, disk=disk, link=link) for r in guard.volumes.replicas)
    guard = replace(guard, volumes=replace(guard.volumes, replicas=replicas))
    ack = replace(guard.ack, register=replace(guard.ack.register, winner="A", used=("alone",)), outdate=True)
    guard, effects = run(guard, Heard("arbiter", ack), now)
    assert bool(of(effects, OutdateOwn)) is ordered
    assert not of(run(guard, Heard("arbiter", ack), now)[1], OutdateOwn)
    primary = tuple(replace(r, role=Role.PRIMARY) for r in replicas)
    guard = replace(guard, volumes=replace(guard.volumes, replicas=primary), due={})
    assert not of(run(guard, Heard("arbiter", ack), now)[1], OutdateOwn)
