"""Faults of the stack on the nodes: corosync's membership, Pacemaker, DRBD."""

from __future__ import annotations

from random import Random

from guard.core.evidence import GateFacts, Suspended
from guard.rehearsal.cluster import Properties
from guard.rehearsal.disks import Disks
from guard.rehearsal.faulty import Registry, Undo, counted, every, instead, pick
from guard.rehearsal.world import World

fault = Registry()

GATES = {
    "no-handler": GateFacts("C", "resource-and-stonith", False, "block"),
    "protocol-a": GateFacts("A", "resource-and-stonith", True, "block"),
    "pull-ahead": GateFacts("C", "resource-and-stonith", True, "pull-ahead"),
    "unknown": GateFacts(),
}


# ------------------------------------------------------------------ corosync


@fault("cluster")
def token_loss(world: World, rng: Random, *, lasts_s: float = 4.0) -> Undo:
    """corosync's ring loses its token for a while, on both sides; replication goes on."""
    undo = every([counted(node.cluster, "deaf") for node in world.nodes.values()])
    left = [undo]

    def end() -> None:
        if left:
            left.pop()()

    world.at(lasts_s, end)
    return end


@fault("cluster")
def one_sided_membership(world: World, rng: Random, *, node: str = "either") -> Undo:
    """One node hears nothing of the ring and gives its peer up, while the peer still counts it as a member."""
    return every([counted(each.cluster, "deaf") for each in pick(world, rng, node)])


@fault("cluster")
def membership_flaps(world: World, rng: Random, *, times: int = 4, every_s: float = 5.0) -> Undo:
    """The membership breaks and forms again and again, on one side after the other."""
    now: list[Undo] = []
    over: list[bool] = []

    def down(left: int) -> None:
        if left and not over:
            now.append(counted(world.nodes[rng.choice("AB")].cluster, "deaf"))
            world.at(every_s, lambda: up(left))

    def up(left: int) -> None:
        end_now()
        world.at(rng.uniform(0.5, every_s), lambda: down(left - 1))

    def end_now() -> None:
        while now:
            now.pop()()

    def end() -> None:
        over.append(True)
        end_now()

    down(times)
    return end


@fault("cluster")
def corosync_dies(world: World, rng: Random, *, node: str = "either") -> Undo:
    """corosync and Pacemaker of a node are killed, its kernel and services go on; its end: they are started again."""
    hit = pick(world, rng, node)
    for each in hit:
        if each.powered and each.cluster.running:
            each.cluster.die()
    return every([each.cluster.restart for each in hit])


# ------------------------------------------------------------------ Pacemaker


@fault("cluster")
def controller_dies(world: World, rng: Random, *, node: str = "either") -> Undo:
    """Pacemaker's controller dies while corosync lives."""
    hit = [each for each in pick(world, rng, node) if each.cluster.running]
    for each in hit:
        each.cluster.controller_dies(True)

    def end() -> None:
        for each in hit:
            if each.cluster.running and not each.cluster.controller:
                each.cluster.controller_dies(False)

    return end


@fault("cluster")
def dc_changes(world: World, rng: Random, *, node: str = "both") -> None:
    """The DC changes: requests for a fence that were under way have lost who asked, and are asked anew."""
    for each in pick(world, rng, node):
        each.cluster.drop_request()


@fault("cluster")
def fencer_queue(world: World, rng: Random, *, node: str = "both", delay_s: float = 8.0) -> Undo:
    """Shots wait in the fencer's queue (pcmk_delay) and are carried out whatever was set meanwhile."""
    return every([instead(world, each.cluster, "delay_s", delay_s) for each in pick(world, rng, node)])


@fault("cluster")
def fencer_timeout(world: World, rng: Random, *, node: str = "both", wait_s: float = 15.0) -> Undo:
    """The cluster gives its fence agent this long, then kills it and asks again."""
    return every([instead(world, each.cluster, "wait_s", wait_s) for each in pick(world, rng, node)])


@fault("cluster")
def fence_asked(world: World, rng: Random, *, node: str = "either", action: bool = True) -> Undo:
    """Pacemaker wants this healthy node fenced (a failed monitor, a person's `stonith_admin`)."""
    hit = [each.peer.cluster for each in pick(world, rng, node)]
    for each in hit:
        each.unclean = action

    def end() -> None:
        for each in hit:
            if each.peer_member:
                each.unclean = False
                each.drop_request()

    return end


@fault("cluster")
def scheduler_would_fence(world: World, rng: Random, *, node: str = "both") -> Undo:
    """The scheduler has a reason of its own to fence, which only the hold keeps back."""
    return every([instead(world, each.cluster, "would_fence", True) for each in pick(world, rng, node)])


@fault("cluster")
def stop_fails(world: World, rng: Random, *, node: str = "primary") -> Undo:
    """A stop with on-fail=fence fails on a node; its end: a person cleans it up."""
    hit = pick(world, rng, node)
    for each in hit:
        if each.cluster.running:
            each.cluster.stop_fails()

    def end() -> None:
        for each in hit:
            if each.cluster.failed_stop:
                each.cluster.failed_stop, each.cluster.fit_at = False, world.now
                if each.peer.cluster.peer_member:
                    each.peer.cluster.unclean = False
                each.saw_cluster()

    return end


@fault("cluster")
def no_wait_for_all(world: World, rng: Random, *, node: str = "both") -> Undo:
    """corosync has no wait_for_all: a node that boots alone is quorate and wants its peer fenced."""
    return every([instead(world, each.cluster, "wait_for_all", False) for each in pick(world, rng, node)])


@fault("cluster", loses=("A", "B", "both", "either"))
def property_lost(world: World, rng: Random, *, loses: str = "both") -> None:
    """The guard's property vanishes from the cluster's state (a restored CIB, somebody's hand)."""
    for each in pick(world, rng, loses):
        each.cluster.properties.ours = None
        each.saw_cluster()


@fault("cluster")
def cib_merge(world: World, rng: Random, *, node: str = "either", edits: int = 50) -> None:
    """A node's copy of the CIB is the newest: at the next merge it wins whole, and what the other one set is lost."""
    for each in pick(world, rng, node):
        held = each.cluster.properties
        each.cluster.properties = Properties(held.ours, held.persons, held.barred, held.age + edits)


@fault("people")
def maintenance_by_person(world: World, rng: Random) -> Undo:
    """A person sets maintenance-mode; its end: takes it back."""

    def put(on: bool) -> None:
        for node in world.nodes.values():
            node.cluster.properties.persons = on
            node.cluster.properties.age += 1
            node.saw_cluster()

    put(True)
    return lambda: put(False)


# ------------------------------------------------------------------ DRBD


@fault("disk")
def replication_cut(world: World, rng: Random, *, resource: int = 0) -> Undo:
    """Only replication of one resource breaks; corosync and everything else goes on."""
    return counted(_volume(world, resource), "broken")


@fault("disk")
def replication_flaps(world: World, rng: Random, *, times: int = 4, every_s: float = 6.0, resource: int = 0) -> Undo:
    """Replication of one resource breaks and comes back while the membership stands."""
    volume = _volume(world, resource)
    now: list[Undo] = []
    over: list[bool] = []

    def down(left: int) -> None:
        if left and not over:
            now.append(counted(volume, "broken"))
            world.at(every_s, lambda: up(left))

    def up(left: int) -> None:
        end_now()
        world.at(every_s, lambda: down(left - 1))

    def end_now() -> None:
        while now:
            now.pop()()

    def end() -> None:
        over.append(True)
        end_now()

    down(times)
    return end


@fault("disk")
def handler_killed(world: World, rng: Random, *, node: str = "both", every_s: float = 1.0) -> Undo:
    """DRBD's handlers are killed as long as this lasts (OOM, a person): DRBD asks once a disconnection and no more."""
    left = [True]

    def again() -> None:
        if left:
            for each in pick(world, rng, node):
                for volume in world.volumes:
                    volume.kill_handlers(each.name)
            world.at(every_s, again)

    again()
    return left.clear


@fault("disk")
def handler_late(world: World, rng: Random, *, least_s: float = 1.0, most_s: float = 20.0) -> Undo:
    """DRBD takes the handler's answer so much later, perhaps after a reconnection."""
    return instead(world, world.disks, "handler_late_s", (least_s, max(least_s, most_s)))


@fault("disk")
def handler_again(world: World, rng: Random, *, node: str = "both", times: int = 2) -> None:
    """DRBD calls its handler once more for the same disconnection: several run side by side."""
    for each in pick(world, rng, node):
        calls = list(world.disks.of[each.name].calls.values())
        for _, promoting in calls[:1] * times:
            world.counts["handlers called again"] += 1
            world.disks.call_handler(each.name, promoting=promoting)


@fault("disk")
def io_suspended(world: World, rng: Random, *, node: str = "primary") -> Undo:
    """A person suspends I/O (`drbdsetup suspend-io`); its end: resumes it, or resets the node if replication broke
    meanwhile (resuming would make a generation that the peer does not have)."""
    hit = pick(world, rng, node)
    for each in hit:
        world.disks.suspend(each.name)

    def end() -> None:
        for each in hit:
            disk = world.disks.of[each.name]
            if Suspended.USER not in disk.suspended:
                continue
            if disk.epoch == disk.suspended_epoch:
                world.disks.resume(each.name)
            else:
                each.power_off("a person resets it: its I/O was suspended over a break")
                world.at(2.0, each.switch_on)

    return end


@fault("disk")
def tools_slow(world: World, rng: Random, *, node: str = "both", most_s: float = 6.0) -> Undo:
    """A busy machine: to suspend or resume I/O, and to read it back, takes up to so long."""
    return every([instead(world, each.shell, "tools_s", rng.uniform(0.05, most_s)) for each in pick(world, rng, node)])


@fault("disk")
def resync_slow(world: World, rng: Random, *, least_s: float = 20.0, most_s: float = 60.0) -> Undo:
    """Every resync takes so long."""
    return instead(world, world.disks, "resync_s", (least_s, max(least_s, most_s)))


@fault("disk")
def outdated(world: World, rng: Random, *, node: str = "secondary") -> None:
    """Somebody outdates a disk (`drbdadm outdate`); works only on a secondary that is cut off."""
    for each in pick(world, rng, node):
        world.disks.outdate(each.name)


@fault("disk", kind=tuple(GATES))
def gate_off(world: World, rng: Random, *, node: str = "both", kind: str = "pull-ahead") -> Undo:
    """DRBD's settings no longer prove that a cut node stops writing."""
    hit, before = pick(world, rng, node), dict(world.disks.gate_of)
    for each in hit:
        world.disks.gate_of[each.name] = GATES[kind]
        each.saw_disk()

    def end() -> None:
        for each in hit:
            world.disks.gate_of.pop(each.name, None)
            if each.name in before:
                world.disks.gate_of[each.name] = before[each.name]
            each.saw_disk()

    return end


@fault("disk")
def disk_fails(world: World, rng: Random, *, node: str = "either", resource: int = 0) -> Undo:
    """The local disk gives errors and DRBD detaches it; its end: it is attached again."""
    hit, volume = pick(world, rng, node), _volume(world, resource)
    for each in hit:
        if each.powered:
            volume.fail_disk(each.name)
    return every([lambda each=each: volume.attach(each.name) for each in hit])  # type: ignore[misc]


@fault("disk")
def generation_unreadable(world: World, rng: Random, *, node: str = "either", resource: int = 0) -> Undo:
    """The generation identifiers of a node cannot be read."""
    hit, volume = pick(world, rng, node), _volume(world, resource)
    for each in hit:
        volume.unreadable.add(each.name)
        each.saw_disk()

    def end() -> None:
        for each in hit:
            volume.unreadable.discard(each.name)
            each.saw_disk()

    return end


@fault("disk")
def acks_lost(world: World, rng: Random, *, resource: int = 0) -> Undo:
    """What the secondary acknowledges does not arrive, so a write may be on both disks and acknowledged nowhere."""
    return instead(world, _volume(world, resource), "acks_lost", True)


def _volume(world: World, resource: int) -> Disks:
    """By its number; a world with fewer resources takes its last one."""
    return world.volumes[min(resource, len(world.volumes) - 1)]
