"""The vocabulary of evidence: what can be seen of a node, its replication, its cluster and the network.

Three-valued things are three-valued: UNKNOWN is a value of its own and never permits anything. These are
sightings (one reading each); whether they are fresh enough to count is decided where a claim is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from guard.core.instant import Instant


class Disk(StrEnum):
    """State of one replica's disk, as in the verdict table (DRBD's words in brackets)."""

    UP_TO_DATE = "U"  # UpToDate
    CONSISTENT = "C"  # Consistent
    OUTDATED = "O"  # Outdated
    INCONSISTENT = "I"  # Inconsistent, Negotiating, Attaching
    DISKLESS = "D"  # Diskless, Failed, Detaching
    UNKNOWN = "?"  # DUnknown, or a look that failed


class Role(StrEnum):
    PRIMARY = "primary"
    SECONDARY = "secondary"
    UNKNOWN = "?"


class Link(StrEnum):
    """State of the replication connection. Only CONNECTED carries a session."""

    CONNECTED = "connected"  # data flows, nothing to resynchronise
    RESYNC = "resync"  # connected, one side is being brought up to date (or verified, or paused in it)
    CONNECTING = "connecting"  # WFConnection, handshakes, NetworkFailure, Timeout, BrokenPipe ...
    STANDALONE = "standalone"  # gave up, or was told to
    DOWN = "down"  # the resource is not configured in the kernel
    UNKNOWN = "?"


class Suspended(StrEnum):
    USER = "user"
    FENCING = "fencing"
    NO_DATA = "no-data"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True)
class Generations:
    """DRBD's generation identifiers, raw. Compare with `core.writes.relation`, which masks bit 0."""

    current: int
    bitmap: int
    history: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What E4 needs: does this node stop acknowledging writes when it is cut off? None = not known."""

    protocol: str | None = None  # "A", "B", "C"
    fencing: str | None = None  # "dont-care", "resource-only", "resource-and-stonith"
    handler_ours: bool | None = None  # fence-peer handler is pairguard-fence-peer
    on_congestion: str | None = None  # "block" is no policy; anything else lets writes run ahead

    def closed(self) -> bool | None:
        """True: proven on. False: proven off. None: some fact is missing, which permits nothing."""
        wrong = (
            (self.protocol is not None and self.protocol != "C")
            or (self.fencing is not None and self.fencing != "resource-and-stonith")
            or self.handler_ours is False
            or (self.on_congestion is not None and self.on_congestion != "block")
        )
        if wrong:
            return False
        if None in (self.protocol, self.fencing, self.handler_ours, self.on_congestion):
            return None
        return True


@dataclass(frozen=True, slots=True)
class Replica:
    """One replicated resource as its own node sees it at one moment.

    A resource with several volumes is as bad as its worst volume: adapters fold before they build this.
    """

    resource: str
    role: Role = Role.UNKNOWN
    peer_role: Role = Role.UNKNOWN
    disk: Disk = Disk.UNKNOWN
    peer_disk: Disk = Disk.UNKNOWN
    link: Link = Link.UNKNOWN
    generations: Generations | None = None  # None = unreadable
    suspended: frozenset[Suspended] | None = frozenset()  # None = not readable
    gate: GateFacts = field(default_factory=GateFacts)
    open_count: int | None = None
    out_of_sync_kib: int | None = None
    was_up_to_date: bool | None = None  # metadata flag, read before `drbdadm up`
    unverified: str | None = None  # why this source gives no right (for example a parser never tried on a real module)


@dataclass(frozen=True, slots=True)
class Volumes:
    """All replicated resources of a node, whole. Readings are ordered by `at`, the moment when this one began.

    `gap`: events were lost before this reading, so a connection may have broken and come back unseen.
    `carried`: what was not read at `at`, with the moment when the reading began that it is from. None: an event has
    made it worse since. Events may be late, so that is no look: whatever broke may be back.
    """

    at: Instant
    replicas: tuple[Replica, ...]
    gap: bool = False
    carried: Mapping[str, Instant | None] = field(default_factory=dict)

    def looked(self, resource: str) -> Instant | None:
        """When the look at this resource began that this rests on; None if there is none."""
        return self.carried.get(resource, self.at)

    def over(self, known: Volumes) -> Volumes:
        """Told after `known`: what this carries of a look from before is no news where `known` has a later one."""
        if not self.carried:
            return self
        carried, later = dict(self.carried), {}
        for replica in known.replicas:
            here, there = self.looked(replica.resource), known.looked(replica.resource)
            if here is not None and here < (known.at if there is None else there):
                carried[replica.resource], later[replica.resource] = there, replica
        return replace(self, replicas=tuple(later.get(r.resource, r) for r in self.replicas), carried=carried)


@dataclass(frozen=True, slots=True)
class WriteSample:
    """Counters of one resource at one moment, already stripped of what lies (resync, metadata, mounts).

    `completed` counts application writes completed on a Primary, `received_kib` what a Secondary was sent.
    `counts` False: a resync runs or the source was reset, so this sample says nothing.
    """

    resource: str
    at: Instant
    role: Role
    completed: int | None
    received_kib: int | None
    counts: bool


class Up(StrEnum):
    UP = "up"
    DOWN = "down"
    UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Membership:
    """corosync as this node sees it. `links` maps a ring address of the peer to its state."""

    at: Instant
    running: Up  # corosync answers here
    peer_member: bool | None  # the peer is in this node's membership
    quorate: bool | None
    votes_three: bool  # qdevice, or three votes: quorum then means a majority (section 4, step 1)
    ring: str | None  # ring id as printed
    links: tuple[tuple[str, Up], ...] = ()


@dataclass(frozen=True, slots=True)
class PendingShot:
    """A fencing operation that the cluster's fencer holds: queued, delayed or running."""

    target: str
    action: str
    client: str
    origin: str
    state: str  # "pending", "success", "failed" as printed


SHOTS_UNREAD = PendingShot("?", "?", "?", "?", "?")
"""Stands in `ClusterView.pending` where the fencer could not be asked: not asked is not "nothing pending"."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The HA layer as *this* node's own copy of the cluster state shows it. None = could not be read."""

    at: Instant
    controller: Up  # Pacemaker's controller answers on this node
    peer_controller: Up  # this node's view of the controller on the peer
    maintenance: bool | None  # effective value, cluster-wide
    ours: str | None  # hold id beside our own property, None = our property set is absent
    persons_maintenance: bool  # set by somebody else: never touched
    managed: int | None  # resources the cluster manages now
    failed_stop: bool  # a failed stop with on-fail=fence on this node
    unclean: frozenset[str] = frozenset()
    pending: tuple[PendingShot, ...] = ()
    active_here: bool | None = None  # the pair's promoted resource runs on this node


def unseen_cluster(at: Instant, controller: Up = Up.UNKNOWN) -> ClusterView:
    """Nothing could be read: what is not known is not ours to touch, and may have a shot queued."""
    return ClusterView(
        at=at,
        controller=controller,
        peer_controller=Up.UNKNOWN,
        maintenance=None,
        ours=None,
        persons_maintenance=True,
        managed=None,
        failed_stop=False,
        pending=(SHOTS_UNREAD,),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the cluster's own scheduler says would happen (crm_simulate). `error` set: nothing was proven."""

    fences: frozenset[str] = frozenset()
    stops: tuple[str, ...] = ()
    error: str | None = None

    def harmless(self) -> bool:
        """True only if the forecast was made and fences and stops nothing."""
        return self.error is None and not self.fences and not self.stops


class Power(StrEnum):
    ON = "on"
    OFF = "off"
    UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class LinkSighting:
    """One network interface of this node, from netlink. `flaps` counts carrier changes as the kernel does."""

    name: str
    at: Instant
    carrier: Up
    carrier_changes: int | None = None
    kind: str | None = None  # "bond", "bridge", None = plain
    master: str | None = None
    lacp_partner: str | None = None  # MAC of the LACP partner system, None = no LACP or unknown
    stp_state: str | None = None  # bridge port state as the kernel names it
    lacp_state: str | None = None  # bond member: in-sync, out-of-sync, defaulted, expired; None = no LACP or unknown


class PortState(StrEnum):
    UP = "up"
    DOWN = "down"
    UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class SwitchSighting:
    """One answer (or silence) of one switch. Every field None = the switch has no such object or did not say."""

    switch: str
    at: Instant
    answered: bool
    engine_id: str | None = None
    engine_boots: int | None = None
    engine_time_s: int | None = None
    uptime_s: float | None = None
    topology_changes: int | None = None  # dot1dStpTopChanges
    stp_root: str | None = None
    ports: tuple[tuple[str, PortState], ...] = ()  # configured port name -> ifOperStatus == up(1)
    stp_ports: tuple[tuple[str, str], ...] = ()  # configured port name -> forwarding, blocking ...
    lag_changed: int | None = None  # dot3adTablesLastChanged
    mlag_peer: Up | None = None  # None = not observable on this profile
    mlag_peer_link: Up | None = None
    mlag_role: str | None = None
    error: str | None = None


class SignKind(StrEnum):
    """A sign of network change (section 6, Disturbances)."""

    BOND_CARRIER = "bond-carrier"
    MEMBER_CARRIER = "member-carrier"
    LACP_PARTNER = "lacp-partner"
    BUS_LOST = "bus-lost"
    SWITCH_SILENT = "switch-silent"
    SWITCH_RESTARTED = "switch-restarted"
    MLAG_PEER_LOST = "mlag-peer-lost"
    MLAG_ROLE = "mlag-role-changed"
    PEER_LINK_DOWN = "peer-link-down"
    TOPOLOGY_CHANGE = "topology-change"
    PATH_PORT_FLAP = "path-port-flap"
    REPLICATION_FLAP = "replication-flap"
    STORM = "storm"
    PEER_ALIVE = "peer-alive"
    WATCHER_LOST = "watcher-lost"


@dataclass(frozen=True, slots=True)
class Sign:
    """One sign of network change, with where it was seen. `port` names a switch port or an interface."""

    kind: SignKind
    source: str
    at: Instant
    text: str
    port: str | None = None
    standing: bool = False  # True: lasts until a matching all-clear; False: an event, over at once
