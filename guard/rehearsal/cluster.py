"""corosync and Pacemaker of one rehearsed node: membership with a token, a fencer that asks, one active node.

Each partition has its own copy of the cluster's properties; at a merge one copy wins whole. The fencer asks the agent
to fence a lost peer unless maintenance is set in its own copy, and again after every failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guard.core.evidence import ClusterView, Disk, Forecast, Link, Membership, PendingShot, Role, Up
from guard.core.step import AgentAsks, ClientGone

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node

FRESH_S = 1.2  # a link is up that carried something so lately
WAIT_S = 60.0  # pcmk_off_timeout of the rehearsed cluster


@dataclass(slots=True)
class Properties:
    """One partition's copy."""

    ours: str | None = None
    persons: bool = False
    barred: frozenset[str] = frozenset()
    age: int = 0  # edits so far


@dataclass(slots=True)
class Cluster:
    """The HA layer of one node."""

    node: Node
    token_s: float = 3.0
    consensus_s: float = 0.0  # from the lost token to the new membership
    join_s: float = 1.5  # of contact until both are one membership
    running: bool = False
    peer_member: bool = False
    quorate: bool = False
    wait_for_all: bool = True
    heard: int = 0
    joined_since: int | None = None
    lost_at: int = 0
    joined_at: int = 0
    unclean: bool = False
    fenced_peer: bool = False
    request: str | None = None
    retry_at: int = 0
    mounted: bool = False
    failed_stop: bool = False
    would_fence: bool = False  # the scheduler has a reason of its own to fence the peer
    deaf: int = 0  # faults by which it hears nothing of the ring, while the other node may hear it
    controller: bool = True  # Pacemaker's controller runs
    delay_s: float = 0.0  # pcmk_delay: a shot waits so long in the fencer's queue
    wait_s: float = WAIT_S
    turning: bool = False  # the token is being lost, or a membership formed
    fit_at: int | None = None  # world time since when corosync and controller run here and no stop failed
    properties: Properties = field(default_factory=Properties)

    # ---- what the guard reads

    @property
    def maintenance(self) -> bool:
        return self.properties.ours is not None or self.properties.persons

    def members(self) -> Membership:
        node, now = self.node, self.node.local()
        if not self.running:
            return Membership(now, Up.DOWN, None, None, False, None)
        if not node.world.cadence.dense:
            self.still_hears()
        fresh = node.world.now - self.heard <= FRESH_S * 1e9
        links = (("ring0", Up.UP if fresh else Up.DOWN),)
        return Membership(now, Up.UP, self.peer_member, self.quorate, False, f"{self.heard}", links)

    def face(self) -> object:
        """All that `members` and `view` show but the time and the ring's number."""
        self.still_hears()
        fresh = self.node.world.now - self.heard <= FRESH_S * 1e9
        ring = self.running, self.peer_member, self.quorate, fresh
        own = self.controller, self.properties.ours, self.properties.persons, self.failed_stop, self.mounted
        return ring, own, self.node.peer.cluster.controller, self.unclean, self.request is None

    def view(self) -> ClusterView:
        node = self.node
        if not self.running:
            return ClusterView(node.local(), Up.DOWN, Up.UNKNOWN, None, None, False, None, False)
        pending: tuple[PendingShot, ...] = ()
        if self.request is not None:
            pending = (PendingShot(node.peer.name, "reboot", "pacemaker-controld", node.name, "pending"),)
        return ClusterView(
            at=node.local(),
            controller=Up.UP if self.controller else Up.DOWN,
            peer_controller=Up.UP if self.peer_member and node.peer.cluster.controller else Up.DOWN,
            maintenance=self.maintenance,
            ours=self.properties.ours,
            persons_maintenance=self.properties.persons,
            managed=0 if self.maintenance else 3,
            failed_stop=self.failed_stop,
            unclean=frozenset((node.peer.name,)) if self.unclean else frozenset(),
            pending=pending,
            active_here=self.mounted,
        )

    def forecast(self, lost: str | None, *, without_hold: bool) -> Forecast:
        """What the scheduler would do."""
        if not self.running:
            return Forecast(error="the cluster does not run here")
        maintained = self.properties.persons if without_hold else self.maintenance
        if maintained or not self.quorate:
            return Forecast()
        fenced = self.node.peer.name
        if self.would_fence or lost is not None or self.unclean:
            return Forecast(fences=frozenset((fenced,)))
        return Forecast()

    # ---- orders of the guard

    def edit(self, **changed: object) -> bool:
        """An edit of the properties: replicated while both are members; refused while the token is being lost."""
        cut = not self.node.world.network.open("A", "B")
        if not self.running or (self.peer_member and (cut or self.node.world.now - self.heard > 1.0e9)):
            return False
        copies = [self.properties]
        if self.peer_member and self.node.peer.cluster.running:
            copies.append(self.node.peer.cluster.properties)
        news = any(getattr(copy, name) != value for copy in copies for name, value in changed.items())
        for copy in copies:
            for name, value in changed.items():
                setattr(copy, name, value)
            copy.age += 1
        if news:
            self.node.saw_cluster()
            self.node.peer.saw_cluster()
        return True

    def set_hold(self, hold_id: str) -> bool:
        return self.edit(ours=hold_id)

    def clear_hold(self, hold_id: str) -> bool:
        if self.properties.ours != hold_id:
            return self.properties.ours is None and self.running
        return self.edit(ours=None)

    def bar(self, name: str, *, on: bool) -> bool:
        barred = self.properties.barred
        return self.edit(barred=barred | {name} if on else barred - {name})

    def unblock(self) -> None:
        if self.running and not self.quorate:
            self.quorate = True
            self.unclean = not self.peer_member
            self.node.saw_cluster()

    def purge(self) -> None:
        self.request = None

    # ---- life

    def start(self) -> None:
        self.running, self.peer_member, self.quorate = True, False, not self.wait_for_all
        self.unclean = self.quorate
        self.fenced_peer, self.request, self.mounted, self.controller = False, None, False, True
        self.joined_since = None
        self.fit_at = self.lost_at = self.node.world.now
        self.node.saw_cluster()

    def stop_hard(self) -> None:
        self.running = self.peer_member = self.quorate = self.mounted = self.unclean = self.failed_stop = False
        self.request, self.fenced_peer, self.fit_at = None, False, None

    def die(self) -> None:
        """corosync and Pacemaker are killed; what they started runs on."""
        self.node.world.tell(self.node.name, "its cluster dies, its kernel and its services go on")
        self.running = self.peer_member = self.quorate = self.unclean = False
        self.fit_at = None
        self.drop_request()
        self.node.saw_cluster()

    def restart(self) -> None:
        """A person starts the cluster again on a node that stayed up, or the boot did already."""
        if self.node.powered and not self.running:
            self.start()

    def controller_dies(self, on: bool) -> None:
        """Pacemaker's controller, with the fencer's request if it had one; corosync lives."""
        self.controller = not on
        self.fit_at = None if on else self.node.world.now
        self.node.world.tell(self.node.name, "Pacemaker's controller " + ("is gone" if on else "is back"))
        if on:
            self.drop_request()
        self.node.saw_cluster()
        self.node.peer.saw_cluster()

    def drop_request(self) -> None:
        """The one who asked is gone (its process, or the DC changed): nobody waits for the agent any more."""
        request, self.request = self.request, None
        if request is not None:
            self.node.world.counts["fence requests dropped"] += 1
            self.node.shell.clients.pop(request, None)
            self.node.shell.take(ClientGone(request))

    def stop_fails(self) -> None:
        """A stop with on-fail=fence failed here: the peer's Pacemaker wants this node fenced."""
        self.node.world.tell(self.node.name, "a stop failed")
        self.failed_stop, self.fit_at = True, None
        self.node.peer.cluster.unclean = True
        self.node.saw_cluster()

    def tick(self) -> None:
        node, world = self.node, self.node.world
        if not node.runs() or not self.running:
            return
        other = node.peer.cluster
        contact = self._contact()
        if contact:
            self.heard = world.now
            self.joined_since = self.joined_since if self.joined_since is not None else world.now
        else:
            self.joined_since = None
        if self.peer_member and not contact and world.now - self.heard > (self.token_s + self.consensus_s) * 1e9:
            self._lost()
        self.turning = self.peer_member is not contact
        ready = self.joined_since is not None and world.now - self.joined_since > self.join_s * 1e9
        if not self.peer_member and ready and contact and not other.deaf:
            self._join(other)
        if self.quorate and self.controller:
            # Without quorum nothing is started; under a hold a person or a unit does it.
            for volume in world.volumes:
                if volume.of[node.name].link is Link.DOWN:
                    volume.bring_up(node.name)
        if not self.maintenance and self.controller:
            self._fence()
            self._place()

    def _contact(self) -> bool:
        peer = self.node.peer
        return self.node.world.network.open("A", "B") and peer.runs() and peer.cluster.running and not self.deaf

    def still_hears(self) -> None:
        """Until this moment it heard its peer, if nothing is wrong yet."""
        if self.running and self.node.runs() and self._contact():
            self.heard = self.node.world.now

    def _lost(self) -> None:
        self.peer_member = False
        self.lost_at = self.node.world.now
        self.unclean, self.fenced_peer = True, False
        self.node.world.tell(self.node.name, "lost its peer from the membership")
        self.node.saw_cluster()

    def _join(self, other: Cluster) -> None:
        winner = max((self, other), key=lambda c: (c.properties.age, c.node.name)).properties
        for cluster in (self, other):
            cluster.peer_member = cluster.quorate = True
            cluster.joined_at = self.node.world.now
            cluster.unclean = cluster.fenced_peer = False
            cluster.properties = Properties(winner.ours, winner.persons, winner.barred, winner.age)
            cluster.node.saw_cluster()
        self.node.world.tell("cluster", "one membership")

    def _fence(self) -> None:
        node, world = self.node, self.node.world
        if not self.unclean or not self.quorate or self.request is not None or world.now < self.retry_at:
            return
        self.request = request = world.name_of(f"agent-{node.name}")
        if not node.shell.up or node.shell.paused:
            self.answered(request, confirmed=False)
            return
        world.counts["fence requests"] += 1
        node.later(0.05 + self.delay_s, lambda: self._executes(request))
        # The fencer kills an agent that outlives its timeout.
        node.later(self.delay_s + self.wait_s + 5.0, lambda: self._timeout(request))

    def _executes(self, request: str) -> None:
        """Out of the queue: the agent starts. Neither maintenance nor a new membership took the shot back meanwhile."""
        node = self.node
        if self.request == request or not self.delay_s:
            node.shell.ask(AgentAsks(request, node.world.fence_action, node.peer.name, self.wait_s))

    def _timeout(self, request: str) -> None:
        if self.request == request:
            self.node.shell.take(ClientGone(request))
            self.node.shell.clients.pop(
                request, None
            )  # killed: nobody waits for an answer, also if the guard stood still
            self.answered(request, confirmed=False)

    def answered(self, request: str, *, confirmed: bool) -> None:
        if self.request != request:
            return
        self.request = None
        self.retry_at = self.node.world.now + int(2e9)
        if confirmed:
            self.node.world.tell(self.node.name, "Pacemaker takes its peer for fenced")
            if not self.peer_member:
                self.unclean, self.fenced_peer = False, True
        self.node.saw_cluster()

    def _place(self) -> None:
        """Keep exactly one node active, as far as this partition may decide. All resources are one group."""
        node, world = self.node, self.node.world
        if not self.quorate or self.unclean:
            return
        mine = [volume.of[node.name] for volume in world.volumes]
        theirs = [volume.of[node.peer.name] for volume in world.volumes]
        theirs_runs = any(each.role is Role.PRIMARY for each in theirs)
        theirs_good = all(each.disk is Disk.UP_TO_DATE for each in theirs)
        if any(each.role is Role.PRIMARY for each in mine):
            moves = self.peer_member and theirs_good and all(each.link is Link.CONNECTED for each in mine)
            if moves and any(each.disk is Disk.DISKLESS for each in mine):
                self._demote()  # its monitor failed: the service moves to the node that has a disk
            elif node.name in self.properties.barred and self.peer_member and theirs_runs:
                self._demote()
            else:
                for volume in world.volumes:
                    volume.promote(node.name)  # nothing, where it is primary
                self.mounted = all(each.role is Role.PRIMARY for each in mine)
            return
        self.mounted = False
        if node.name in self.properties.barred or (self.peer_member and theirs_runs):
            return
        if self.peer_member:
            barred = node.peer.name in self.properties.barred
            good = all(each.disk is Disk.UP_TO_DATE for each in mine)
            first = barred or (node.name == "A" and good) or not theirs_good
            meeting = any(each.link is Link.CONNECTING for each in mine)
            if not first or (meeting and world.now - self.joined_at < 6e9):
                return  # replication is given a moment to connect first
        elif not self.fenced_peer:
            return
        for volume in world.volumes:
            volume.promote(node.name)

    def _demote(self) -> None:
        """The whole group, or nothing of it."""
        name, volumes = self.node.name, self.node.world.volumes
        self.mounted = False
        if all(volume.idle(name) for volume in volumes):
            for volume in volumes:
                volume.demote(name)
