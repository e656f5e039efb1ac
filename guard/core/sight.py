"""What is watched of the network, what is seen of it besides sightings, and what is remembered. Pure data.

Unknown is not worse: a value that could not be read keeps what was known before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from guard.core.evidence import LinkSighting, PortState, Sign, SwitchSighting, Up
from guard.core.instant import Instant, elapsed_s

SETTLE_S: Final = 60.0  # DESIGN.md section 6, release


class Owner(StrEnum):
    """Whose switch port it is. Ports that nobody configured are not looked at."""

    OURS = "ours"
    PEER = "peer"
    UPLINK = "uplink"
    PEER_LINK = "peer-link"  # between the two switches of an MLAG
    OTHER = "other"  # another pair's, or any other server's: a witness that the switch is well


@dataclass(frozen=True, slots=True)
class OwnedPort:
    switch: str
    port: str  # the configured name, as in `SwitchSighting.ports`
    owner: Owner


@dataclass(frozen=True, slots=True)
class Sight:
    """What is watched, and the limits. All times in seconds."""

    interfaces: frozenset[str] = frozenset()  # own interfaces on the path; others are ignored
    ports: tuple[OwnedPort, ...] = ()
    silent_polls: int = 2  # polls missed in a row before a switch counts as silent
    replication_breaks: int = 3  # DESIGN.md section 6
    replication_window_s: float = 60.0
    peer_flaps: int = 3  # the peer's port down so often within `flap_window_s`: a flapping path, not a death
    flap_window_s: float = 60.0
    steady_s: float = 10.0  # a switch without any sign this long is steady, for attribution
    sighting_s_max: float = 3.0  # an older answer of a switch says nothing about a death
    lag_table_is_sign: bool = False  # dot3adTablesLastChanged moves with every server's reboot: noise on most switches

    def owners(self, switch: str) -> dict[str, Owner]:
        """Whose each configured port of `switch` is."""
        return {p.port: p.owner for p in self.ports if p.switch == switch}

    def owned(self, switch: str, owner: Owner) -> tuple[str, ...]:
        return tuple(p.port for p in self.ports if p.switch == switch and p.owner is owner)

    def switches_of(self, owner: Owner) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.switch for p in self.ports if p.owner is owner))


@dataclass(frozen=True, slots=True)
class BusSeen:
    connected: bool


@dataclass(frozen=True, slots=True)
class ReplicationSeen:
    """`membership` False: the peer is gone from the cluster too, so the break is part of its silence."""

    connected: bool
    membership: bool | None


@dataclass(frozen=True, slots=True)
class WatcherSeen:
    """A watcher of ours died or came back. A loss is a fact of its own, not a sighting: law 1 does not hide it."""

    watcher: str
    alive: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class StormSeen:
    on: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class PeerAliveSeen:
    """The arbiter, or we, found something that contradicts the peer's death; `on` False: one of its ends was met."""

    on: bool
    text: str = ""


Sighting = LinkSighting | SwitchSighting | BusSeen | ReplicationSeen | WatcherSeen | StormSeen | PeerAliveSeen


@dataclass(frozen=True, slots=True)
class SwitchMemory:
    """The last answer of a switch, and per object the last value that was known."""

    answered: SwitchSighting | None = None  # None = never heard; its silence is then no sign
    missed: int = 0
    ports: Mapping[str, PortState] = field(default_factory=dict)
    stp: Mapping[str, str] = field(default_factory=dict)
    topology_changes: int | None = None
    stp_root: str | None = None
    lag_changed: int | None = None
    mlag_peer: Up | None = None
    mlag_peer_link: Up | None = None
    mlag_role: str | None = None
    engine_id: str | None = None


@dataclass(frozen=True, slots=True)
class LinkMemory:
    carrier: Up = Up.UNKNOWN
    changes: int | None = None
    partner: str | None = None
    lacp_state: str | None = None
    stp_state: str | None = None


@dataclass(frozen=True)  # no slots: it is `altered` with every sighting
class Network:
    """What is known of the network's quiet. Build the first one with `at_start`.

    `open`: standing signs, oldest first. `quiet_since` None: something is open now.
    `recent`: events, newest last, for attribution and for people; bounded.
    """

    started: Instant
    quiet_since: Instant | None
    open: tuple[Sign, ...] = ()
    recent: tuple[Sign, ...] = ()
    links: Mapping[str, LinkMemory] = field(default_factory=dict)
    switches: Mapping[str, SwitchMemory] = field(default_factory=dict)
    bus: bool | None = None
    replication: bool | None = None
    breaks: tuple[Instant, ...] = ()
    break_stands: bool = False  # replication is broken, and the membership has stood since
    peer_downs: Mapping[tuple[str, str], tuple[Instant, ...]] = field(default_factory=dict)
    port_changes: Mapping[tuple[str, str], Instant] = field(default_factory=dict)

    @classmethod
    def at_start(cls, now: Instant) -> Network:
        """Nothing seen yet. Quiet is counted from here, never from before we looked."""
        return cls(started=now, quiet_since=now)

    def quiet_for_s(self, now: Instant) -> float:
        """Seconds without any sign; 0 while one is open."""
        return 0.0 if self.quiet_since is None else max(elapsed_s(self.quiet_since, now), 0.0)

    def disturbed(self, now: Instant, settle_s: float = SETTLE_S) -> bool:
        """A sign is open, or the last one (or its all-clear) is younger than `settle_s`. A start alone disturbs not."""
        if self.open:
            return True
        return bool(self.recent) and self.quiet_for_s(now) < settle_s

    def unheard(self) -> tuple[str, ...]:
        """Switches that never answered since the start: no sign, but `status` must say that they are not watched."""
        return tuple(name for name, memory in self.switches.items() if memory.answered is None)
