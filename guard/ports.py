"""Everything outside the core, as protocols: watchers see, hands do.

One contract suite (tests/adapters/) runs on the real and on the simulated implementation of each port.
Every method that waits for the world takes or owns a deadline. Failed looks are UNKNOWN values or
`errors.Unavailable` / `errors.Unreadable`, never a believable default.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from guard.core.evidence import (
    ClusterView,
    Forecast,
    LinkSighting,
    Membership,
    PendingShot,
    Power,
    SwitchSighting,
    Volumes,
    WriteSample,
)
from guard.core.instant import Instant
from guard.core.pair import Kept


class Clock(Protocol):
    """CLOCK_BOOTTIME, the wall clock for people, sleep, and randomness for nonces and jitter."""

    def now(self) -> Instant: ...
    def wall(self) -> float:
        """Seconds since 1970, for people and journals only."""
        ...

    def boot_id(self) -> str: ...
    async def sleep(self, seconds: float) -> None: ...
    def nonce(self) -> str:
        """128 random bits, hexadecimal."""
        ...

    def jitter(self, low: float, high: float) -> float:
        """A random number in [low, high)."""
        ...


# ---------------------------------------------------------------- watchers


class Replication(Protocol):
    """The replicated resources of this node (DRBD)."""

    async def read(self) -> Volumes:
        """The whole state now. A resource that cannot be read has UNKNOWN fields."""
        ...

    def changes(self) -> AsyncIterator[Volumes]:
        """The whole state at once, then again after every change. After a gap in the event stream: the whole again."""
        ...

    async def stored(self) -> Volumes:
        """From metadata, read before `drbdadm up`: generations, flags, disk state as they were when power went."""
        ...

    # what a hand may do here
    async def suspend(self) -> bool:
        """Suspend I/O on every volume; True only when it was read back, or the kernel read back to have none."""
        ...

    async def resume(self) -> bool: ...
    async def outdate(self) -> bool: ...


class WriteCounters(Protocol):
    """Block counters that do not lie: see DESIGN.md section 5, Write age."""

    async def sample(self, volumes: Volumes) -> Sequence[WriteSample]: ...


class Links(Protocol):
    """Network interfaces of this node (netlink)."""

    async def read(self) -> Sequence[LinkSighting]: ...
    def changes(self) -> AsyncIterator[LinkSighting]:
        """First every interface, then each change as it happens; after lost events, every interface again."""
        ...


class Switch(Protocol):
    """One switch (SNMP)."""

    name: str

    async def poll(self) -> SwitchSighting:
        """One GET. Silence and nonsense are sightings with `answered` False or None fields, not exceptions."""
        ...


class Traps(Protocol):
    """Traps as wake-up calls: who said something. Never believed without a poll."""

    def heard(self) -> AsyncIterator[str]:
        """Address of each sender, rate-limited."""
        ...


class Members(Protocol):
    """Cluster membership (corosync)."""

    async def read(self) -> Membership: ...
    async def unblock(self) -> bool:
        """Cancel wait-for-all as `pcs quorum unblock` does. Only the winner of a cold start calls this."""
        ...


class Cluster(Protocol):
    """The HA layer (Pacemaker, or a stack behind commands)."""

    async def view(self) -> ClusterView: ...
    async def set_hold(self, hold_id: str) -> bool:
        """Put the HA layer into maintenance with our own property set, by compare-and-swap; True: written."""
        ...

    async def clear_hold(self, hold_id: str) -> bool:
        """Remove only what `set_hold` wrote; a person's own maintenance stays."""
        ...

    async def forecast(self, *, lost: str | None, without_hold: bool) -> Forecast:
        """What the scheduler would do now with node `lost` gone, with or without our own hold in place."""
        ...

    async def pending(self) -> Sequence[PendingShot]: ...
    async def purge(self, shot: PendingShot) -> bool:
        """Try to remove a queued shot. True only if the fencer no longer lists it."""
        ...

    def removed_default(self) -> bool:
        """True if the last `set_hold` took an explicit maintenance-mode=false out of the cluster's defaults."""
        ...

    async def restore_devices(self) -> bool:
        """Undo whatever a purge left on fence devices, also one of an earlier guard. True: nothing is left."""
        ...

    async def bar(self, node: str, *, on: bool) -> bool:
        """Our own constraint: the promoted role never on `node`; compare-and-swap."""
        ...


# ---------------------------------------------------------------- hands and plumbing


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """A fence device of one node: the stock agent and its options, in the agent's own words."""

    agent: str  # program name, for example "fence_ipmilan"
    options: Mapping[str, str]
    horizon_s: float | None  # H(device): how long after an agent's death its packets may still act; None = unbounded
    timeout_s: float = 20.0  # T_shot
    stream: bool = False  # TCP, each command answered before the next: once the effect was seen no copy of one is left


class PowerReader(Protocol):
    """Preflight and read-back of a node's power by a fresh device session."""

    async def status(self, device: DeviceSettings, node: str, deadline_s: float) -> Power: ...


@dataclass(frozen=True, slots=True)
class ShotResult:
    """How a supervised run of a delegate ended. `clean`: it exited by itself, no process and no socket was left."""

    exit_code: int | None  # None = killed at the deadline
    clean: bool
    ended: Instant
    killed: int  # processes that had to be killed
    sockets_destroyed: int
    output: str  # last 4 KiB of stderr, for people
    started: bool = True  # False: the agent never ran, so nothing was sent to the device


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was found of an earlier guard's runs. `stuck`: shots with a process that does not die (state D)."""

    killed: int
    stuck: frozenset[str] = frozenset()


class Shooter(Protocol):
    """Runs a delegate agent once in a cgroup of its own (section 4, Shot, steps 5 and 6)."""

    async def fire(
        self, device: DeviceSettings, action: str, node: str, shot_id: str, start_by: Instant | None
    ) -> ShotResult:
        """After `start_by` nothing is started any more; None: no limit."""
        ...

    async def clear(self) -> Cleared:
        """Kill and empty whatever an earlier guard left behind. Only at the start: it ends every run of this node."""
        ...

    async def end(self, shot_id: str) -> None:
        """Kill and empty what is left of that one shot. `Unavailable`: a process of it does not die; call again."""
        ...

    def usable(self) -> str | None:
        """None if a cgroup v2 can be made, else why not (no fence then)."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One authentic message of the bus: signature, version, site and age were checked by the adapter."""

    sender: str
    body: object  # one of core.messages.Message
    received: Instant
    pair: str = ""  # as the sender signed it; "" where the sender serves many pairs


class Bus(Protocol):
    """Signed messages between the two guards of a pair and the arbiter. May lose, repeat and reorder."""

    async def send(self, to: str, body: object, *, expires_s: float) -> bool:
        """False: it was certainly not handed to the bus. True says nothing about arrival."""
        ...

    def deliveries(self) -> AsyncIterator[Delivery]: ...
    def connected(self) -> bool: ...


class Journal(Protocol):
    """Durable, append-only records of one node: what was decided is here before it is said."""

    async def append(self, records: Sequence[Mapping[str, object]]) -> None:
        """Returns once the records are on the disk. Raises `Unavailable` (full disk, I/O error): then say nothing."""
        ...

    def replay(self) -> Iterable[Mapping[str, object]]: ...
    async def compact(self, records: Sequence[Mapping[str, object]]) -> None:
        """Replace everything by `records`, durably; a crash leaves the old or the new whole."""
        ...


class Registers(Protocol):
    """The arbiter's memory of every pair. What `save` did not write was never said.

    `store_id` names this memory for ever: guards that know another one believe nothing.
    """

    @property
    def store_id(self) -> str: ...
    def load(self) -> Mapping[str, Kept]:
        """Every pair, as at the start. `Unreadable` names the first record that is damaged: nothing is guessed."""
        ...

    async def save(self, pairs: Iterable[Kept]) -> None:
        """Write these pairs, durably. After it returns, what was decided before the call may be said, also if there
        was nothing to write. `Unavailable`: nothing was written, say nothing; the state before stands. `TermOver`:
        nobody knows, or another one writes here; say nothing ever after."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds if `key` was created, or last written, at this revision; 0: there is no such key."""

    key: str
    what: Literal["created", "modified"]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """`lease` 0: it stays until it is deleted."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """The keys from `key` up to but not including `end`, by name; `end` "": that one key. `limit` 0: all of them."""

    key: str
    end: str = ""
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    value: str
    created: int
    modified: int


@dataclass(frozen=True, slots=True)
class Done:
    """A transaction that was answered: did every comparison hold, and what was read if so, one tuple a range (a put
    has an empty one). `revision`: of the store after it."""

    succeeded: bool
    revision: int
    cluster: str
    read: tuple[tuple[Row, ...], ...] = ()


class Etcd(Protocol):
    """etcd, or what behaves like it. Every method raises `Unavailable` if nothing was done, `Unsure` if that is not
    known."""

    async def transact(
        self, compares: Sequence[Compare], puts: Sequence[Put] = (), ranges: Sequence[Range] = (), *, deadline_s: float
    ) -> Done:
        """Linearizable, also if it only compares."""
        ...

    async def grant(self, ttl_s: int, *, deadline_s: float) -> int:
        """A lease that lives for at least so long after this call began."""
        ...

    async def keep(self, lease: int, *, deadline_s: float) -> bool:
        """False: there is no such lease any more, and no key that hung on it."""
        ...

    async def revoke(self, lease: int, *, deadline_s: float) -> None: ...
    async def close(self) -> None: ...


class Notifier(Protocol):
    """systemd: readiness, status line, watchdog, reloading. Never blocks, never raises."""

    def ready(self) -> None: ...
    def status(self, text: str) -> None: ...
    def alive(self) -> None: ...
    def reloading(self) -> None: ...
    def stopping(self) -> None: ...
