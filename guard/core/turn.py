"""The state of one guard, and one turn of it: a state that is replaced, and effects that pile up in order.

The modules `claiming`, `shot`, `close`, `hold` and `attesting` each advance their part of a turn; `machine.step` calls
them. Nothing here waits, reads a clock or draws a random number: `now` and the seed are handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from guard.core.altered import with_changed
from guard.core.attest import Halves
from guard.core.evidence import (
    ClusterView,
    Disk,
    Forecast,
    Link,
    Membership,
    Power,
    Role,
    Up,
    Volumes,
)
from guard.core.instant import Instant, elapsed_s
from guard.core.messages import ARBITER, BeatAck, InhibitView, Message, Offer, Purpose
from guard.core.policy import Policy
from guard.core.sight import Network, Sight
from guard.core.step import Effect, Memory, Note, Send, Step
from guard.core.writes import Ledger

# Asked for several times a step; to find a member on its class takes ten times as long (Python 3.11).
_UP, _DOWN, _UNKNOWN = Up.UP, Up.DOWN, Up.UNKNOWN
_CONNECTED, _RESYNC, _UP_TO_DATE = Link.CONNECTED, Link.RESYNC, Disk.UP_TO_DATE


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim under way. At most one a guard."""

    nonce: str
    purpose: Purpose
    job: str | None  # who asked: an agent or handler request; None = the guard itself (cold start, release)
    sent: Instant
    connects: int = 0  # the disconnection it was made in
    gather: bool = False
    want_yield: bool = False
    cold: bool = False
    dry: bool = False
    releasing: bool = False  # only "not whole" keeps the hold: won, the hold is lifted on the winner
    offer: Offer | None = None
    offered: Instant | None = None
    committed: Instant | None = None


@dataclass(frozen=True, slots=True)
class Right:
    """The winner's volatile permission to use its win now."""

    purpose: Purpose
    era: int
    version: int
    committed: Instant
    connects: int  # the disconnection it was given for
    job: str | None = None
    cold: bool = False
    releasing: bool = False
    target_live: bool = False


@dataclass(frozen=True, slots=True)
class AgentJob:
    """One request of the fence agent, from question to answer."""

    id: str
    action: Literal["off", "reboot"]
    target: str
    since: Instant
    until: Instant
    stage: Literal["wait", "armed", "firing", "reading"] = "wait"
    retry: Instant | None = None
    reading: str | None = None  # token of the power reading under way
    reading_since: Instant | None = None
    power: Power | None = None  # last reading
    power_at: Instant | None = None
    offs: int = 0  # readings `off` in a row
    intent: str | None = None
    said: str = ""  # last progress text


@dataclass(frozen=True, slots=True)
class HandlerJob:
    """One call of DRBD's fence-peer handler."""

    id: str
    resource: str
    since: Instant
    connects: int
    retry: Instant | None = None
    tries: int = 0
    said: str = ""


@dataclass(frozen=True, slots=True)
class DryJob:
    id: str
    purpose: Purpose
    since: Instant


@dataclass(frozen=True, slots=True)
class Closing:
    """K1 to K5 under way. `asked`: the loser was asked; `written`: the arbiter was asked to end the era."""

    nonce: str
    version: int
    session: str
    connects: int
    since: Instant
    written: bool = False


@dataclass(frozen=True)  # no slots: it is `altered` several times a step
class Guard:
    """Everything one guard knows. Only `memory` survives it."""

    me: str
    peer: str
    policy: Policy
    sight: Sight
    seed: str
    boot_id: str
    started: Instant
    memory: Memory
    horizon_s: float | None = None  # H of the peer's fence device; None = unbounded
    stream: bool = False  # its agent speaks TCP, each command answered before the next
    switching: str | None = None  # token of the power reading before the peer is switched on
    unread_power: int = 0  # how many of these failed in a row
    switched_on: int = 0  # how often it was switched on since
    drawn: int = 0
    # what was seen
    volumes: Volumes | None = None
    stored: Volumes | None = None
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    members: Membership | None = None
    cluster: ClusterView | None = None
    cluster_lost: Instant | None = None  # since when our own cluster does not answer
    network: Network = field(default_factory=lambda: Network.at_start(Instant(0)))
    probe: bool | None = None
    bus: bool = False
    halves: Halves = field(default_factory=lambda: Halves(""))
    lost: str | None = None  # the session that was lost last
    lost_at: Instant | None = None
    ever_connected: bool = False  # since this guard started
    whole_since: Instant | None = None
    ever_whole: bool = False  # since this guard started: only a peer that was there can fall silent
    silent_since: Instant | None = None
    peer_up_at: Instant | None = None  # since when the arbiter hears the peer's guard; None = it does not
    # what the arbiter said last
    ack: BeatAck | None = None
    acked: Instant | None = None  # when the beat that it answers was sent: what it says is no older
    met: int | None = None  # the register's version when this guard first read it
    store_doubted: bool = False
    journal_ok: bool = True  # the last memory became durable
    version_at: Instant | None = None  # when the highest version was learnt: an answer to an older beat may be lower
    # what is under way
    attempt: Attempt | None = None
    right: Right | None = None
    agents: tuple[AgentJob, ...] = ()
    handlers: tuple[HandlerJob, ...] = ()
    dry: tuple[DryJob, ...] = ()
    closing: Closing | None = None
    telling: Mapping[str, str] = field(default_factory=dict)  # nonces of the inhibits said last -> their ids
    lifting: bool = False  # a releasing claim was won: the hold is being lifted on this node
    stuck: frozenset[str] = frozenset()  # an earlier guard's shots with a process that does not die
    yielding: str | None = None  # nonce of the Ask whose yield waits for the suspension
    voided: str | None = None  # our promise, void by the arbiter's word, though writes could not be resumed
    sounding: str | None = None  # token of a power reading of our own, for a release that needs the peer's yield
    sounded: Power | None = None
    sounded_at: Instant | None = None
    forecasts: Mapping[bool, tuple[Forecast, Instant]] = field(default_factory=dict)  # by without_hold
    last_verdict: Mapping[str, object] = field(default_factory=dict)
    last_dry: Mapping[str, object] = field(default_factory=dict)  # of `pairguard verdict`: never shown as a decision
    due: Mapping[str, Instant] = field(default_factory=dict)  # when a repeated duty comes next
    paged: frozenset[str] = frozenset()


NOTHING = Step(None, ())  # what most turns come to


class Turn:
    """One step in the making."""

    def __init__(self, guard: Guard, now: Instant) -> None:
        self.guard = guard
        self.now = now
        self._memory_before = guard.memory
        self._effects: list[Effect] = []

    # ---- state

    def put(self, **changed: Any) -> None:
        self.guard = with_changed(self.guard, changed)

    def remember(self, **changed: Any) -> None:
        self.put(memory=replace(self.guard.memory, **changed))

    def nonce(self) -> str:
        """The next of an unguessable series: the seed is 128 random bits of this guard's start."""
        drawn = self.guard.drawn + 1
        self.put(drawn=drawn)
        return _nonce(self.guard.seed, drawn)

    def fraction(self) -> float:
        """A number in [0, 1) for jitter, from the same series."""
        return _fraction(self.nonce())

    # ---- output

    def do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def send(self, to: str, message: Message, expires_s: float = 3.0) -> None:
        self.do(Send(to, message, expires_s))

    def tell_arbiter(self, message: Message, expires_s: float = 3.0) -> None:
        self.send(ARBITER, message, expires_s)

    def note(
        self, event: str, text: str, *, page: bool = False, data: Mapping[str, object] | None = None, **more: object
    ) -> None:
        self.do(Note(event, text, {**(data or {}), **more}, page))

    def page_once(self, event: str, text: str, **data: object) -> None:
        """Tell a person, once until `unpage`."""
        if event not in self.guard.paged:
            self.put(paged=self.guard.paged | {event})
            self.note(event, text, page=True, data=data)

    def unpage(self, event: str) -> None:
        if event in self.guard.paged:
            self.put(paged=self.guard.paged - {event})

    def step(self) -> Step:
        memory, before = self.guard.memory, self._memory_before
        changed = memory is not before and memory != before
        if not changed and not self._effects:
            return NOTHING
        return Step(memory if changed else None, tuple(self._effects))

    # ---- time

    def since(self, moment: Instant | None) -> float:
        """Seconds since `moment`; infinity if it never was."""
        return float("inf") if moment is None else elapsed_s(moment, self.now)

    def every(self, duty: str, seconds: float, *, spread: float = 0.0) -> bool:
        """True at most once in `seconds` for this duty; `spread`: up to that part of it earlier, drawn each time."""
        next_at = self.guard.due.get(duty)
        if next_at is not None and self.now < next_at:
            return False
        drawn = self.guard.drawn
        if spread:
            drawn += 1
            seconds *= 1 - spread * _fraction(_nonce(self.guard.seed, drawn))
        at = Instant(self.now + round(seconds * 1e9))
        self.put(drawn=drawn, due={**self.guard.due, duty: at})
        return True

    def soon(self, duty: str) -> None:
        """Let `every(duty)` be true at the next look."""
        if duty in self.guard.due:
            self.put(due={k: v for k, v in self.guard.due.items() if k != duty})


def _nonce(seed: str, drawn: int) -> str:
    return hashlib.sha256(f"{seed}|{drawn}".encode()).hexdigest()[:32]


def _fraction(nonce: str) -> float:
    return int(nonce[:8], 16) / 2**32


# ------------------------------------------------------------------ questions about a guard's state


def connected(guard: Guard) -> bool:
    """Every resource has its replication connection now."""
    volumes = guard.volumes
    if volumes is None or not volumes.replicas:
        return False
    for r in volumes.replicas:
        if r.link is _CONNECTED or r.link is _RESYNC:
            continue
        return False
    return True


def whole(guard: Guard) -> bool | None:
    """One membership with controllers up on both, replication connected, every disk UpToDate. None = cannot tell."""
    members, cluster, volumes = guard.members, guard.cluster, guard.volumes
    if members is None or cluster is None or volumes is None or members.peer_member is None:
        return None
    ours, peers = cluster.controller, cluster.peer_controller
    if ours is _UNKNOWN or peers is _UNKNOWN or not volumes.replicas:
        return None
    if not members.peer_member or ours is not _UP or peers is not _UP:
        return False
    for r in volumes.replicas:
        if r.link is not _CONNECTED or r.disk is not _UP_TO_DATE or r.peer_disk is not _UP_TO_DATE:
            return False
    return True


def primary(guard: Guard) -> bool:
    """Primary of any resource now, as far as is known."""
    return guard.volumes is not None and any(r.role is Role.PRIMARY for r in guard.volumes.replicas)


def session(guard: Guard) -> str | None:
    """The session that stands now, or the one lost last."""
    now = guard.halves.session(guard.me, guard.peer)
    if now is not None:
        return now
    if guard.lost is not None:
        return guard.lost
    return guard.memory.session.name if guard.memory.session is not None else None


def cluster_word(turn: Turn) -> Literal["up", "down", "?"]:
    """`down` only when our own corosync or controller has been gone, or silent, for `cluster_gone_s`."""
    guard = turn.guard
    if guard.cluster_lost is not None and turn.since(guard.cluster_lost) >= guard.policy.cluster_gone_s:
        return "down"
    members, cluster = guard.members, guard.cluster
    if members is None or cluster is None or members.running is not _UP or cluster.controller is not _UP:
        return "?"
    return "up"


def unfit(turn: Turn) -> bool:
    """This node cannot serve: its own cluster is gone, or shows a failed stop with on-fail=fence (then even a primary
    may yield); or after a boot nothing runs here for T_cold, and there is no quorum."""
    guard = turn.guard
    if cluster_word(turn) == "down" or (guard.cluster is not None and guard.cluster.failed_stop):
        return True
    if turn.since(guard.started) < guard.policy.cold_s or guard.members is None:
        return False  # it may be on its way to join
    return cold(guard) and idle(guard) and guard.members.quorate is False


def idle(guard: Guard) -> bool:
    """Primary of nothing, surely: a role that is not known may be one."""
    replicas = guard.volumes.replicas if guard.volumes is not None else ()
    return bool(replicas) and all(r.role is Role.SECONDARY for r in replicas)


def cold(guard: Guard) -> bool:
    """After a boot, and not connected since: no session was attested on this boot."""
    return guard.memory.boot_id != guard.boot_id and not guard.ever_connected


def sitting(guard: Guard) -> bool:
    """This node was Primary in the attested session of this era."""
    kept = guard.memory.session
    return kept is not None and kept.primary and kept.era == guard.memory.era


def inhibits(guard: Guard) -> tuple[InhibitView, ...]:
    """Every reason that this guard knows why nothing may fire: its own and those the arbiter keeps."""
    own = guard.memory.inhibits
    theirs = guard.ack.inhibits if guard.ack is not None else ()
    if not own:
        return theirs
    return (*own.values(), *[i for i in theirs if i.id not in own])


def braked(guard: Guard) -> bool:
    """This node neither claims for a fence nor shoots."""
    return guard.memory.holding or bool(inhibits(guard))


def arbiter_up(guard: Guard, now: Instant) -> bool:
    """It answered a beat within the last 2 s."""
    return guard.acked is not None and elapsed_s(guard.acked, now) <= guard.policy.heard_s


def peer_silent(guard: Guard) -> bool:
    """The peer looks dead from here: no knet link up, or out of the membership, or the probe unanswered."""
    members = guard.members
    if members is None or members.running is not _UP:
        return False
    if members.peer_member is False or guard.probe is False:
        return True
    for _, state in members.links:
        if state is not _DOWN:
            return False
    return bool(members.links)


def undrained(guard: Guard, now: Instant) -> bool:
    """Something of a shot may still act."""
    intents = guard.memory.intents
    return bool(intents) and any(i.spawned and (i.drained is None or i.drained > now) for i in intents)
