"""What the arbiter knows of one pair, and what follows from that alone. Pure.

`Kept` is durable: it is on disk before any message that depends on it leaves (S6). All else of a `Pair` is volatile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from guard.core.altered import altered
from guard.core.attest import Session, Testimony
from guard.core.instant import Instant, elapsed_s
from guard.core.messages import Answer, Beat, Claim, InhibitView, Message
from guard.core.policy import Policy
from guard.core.register import Register

PEER_ALIVE = "peer-alive"
BYE_STRAGGLERS_S = 1.0  # what was sent before a bye may come this much after it


@dataclass(frozen=True, slots=True)
class FenceCommit:
    """The last Commit for `fence`: a person who decides otherwise waits T_fire + T_shot + H from it."""

    by: str
    at: Instant
    boot_id: str
    horizon_s: float | None  # None = unbounded


@dataclass(frozen=True, slots=True)
class Kept:
    """The durable part of a pair."""

    pair: str
    nodes: tuple[str, str]
    cell: str
    register: Register
    testimony: Mapping[str, Testimony] = field(default_factory=dict)
    session: Session | None = None
    inhibits: Mapping[str, InhibitView] = field(default_factory=dict)
    last_fence: FenceCommit | None = None
    lifted: tuple[tuple[str, float], ...] = ()  # persons' inhibits that were released: (id, since), newest last
    words: Mapping[str, Testimony] = field(default_factory=dict)  # each node's last in `session`, of the boot it was in
    refused_nonces: tuple[str, ...] = ()  # yielded-to claims that were closed without a winner, newest last

    def other(self, node: str) -> str:
        return self.nodes[1] if node == self.nodes[0] else self.nodes[0]


@dataclass(frozen=True, slots=True)
class Gathering:
    """One open claim. `offered` None: still gathering."""

    claim: Claim
    candidate: str
    started: Instant  # T_corr counts from here: an earlier gathering of the same candidate counts
    came: Instant  # the claim: what it states is as old as that
    asked: Instant
    waits_for_target: bool  # it was heard shortly before, so it gets `answer_s`
    answer: Answer | None = None
    answered: Instant | None = None
    offered: Instant | None = None
    version: int = 0
    refused: bool = False


@dataclass(frozen=True)  # no slots: it is `altered` with every message
class Pair:
    """Everything the arbiter knows of a pair; only `kept` survives it."""

    kept: Kept
    started: Instant
    boot_id: str
    heard: Mapping[str, Instant] = field(default_factory=dict)
    steady_since: Mapping[str, Instant] = field(default_factory=dict)  # heard without a gap since
    beats: Mapping[str, Beat] = field(default_factory=dict)
    beat_at: Mapping[str, Instant] = field(default_factory=dict)  # when that beat came
    gatherings: Mapping[str, Gathering] = field(default_factory=dict)  # by candidate
    unread: frozenset[str] = frozenset()  # nodes whose last word could not be read
    left: frozenset[str] = frozenset()  # guards that said bye
    left_at: Mapping[str, Instant] = field(default_factory=dict)  # and when
    lease_at: Mapping[str, Instant] = field(default_factory=dict)  # when an inhibit's `lease_s` was what `kept` says


@dataclass(frozen=True, slots=True)
class Site:
    """What the pair must know of its site at this moment. `store_id` names the memory that answers."""

    store_id: str
    forbids: str | None = None  # storm.forbids of the pair's cell


Sends = tuple[tuple[str, Message], ...]


def stated(pair: Pair, node: str, policy: Policy) -> Beat | None:
    """A node's last beat; None if it was heard for 2 s since without one: what it states now cannot be read."""
    at, heard = pair.beat_at.get(node), pair.heard.get(node)
    if at is None or heard is None or elapsed_s(at, heard) > policy.heard_s:
        return None
    return pair.beats.get(node)


def recently(pair: Pair, node: str, now: Instant, policy: Policy) -> bool:
    """Its guard beats, and can be read."""
    last = pair.beat_at.get(node)
    return last is not None and elapsed_s(last, now) <= policy.heard_s


def one_membership(pair: Pair, now: Instant) -> bool:
    """Both guards, by beats of the last 2 s and not stopped since, say that the other is a member of their cluster."""
    return all(
        node not in pair.left
        and (last := pair.beat_at.get(node)) is not None
        and elapsed_s(last, now) <= 2.0
        and (beat := pair.beats.get(node)) is not None
        and beat.peer_member is True
        for node in pair.kept.nodes
    )


def gone(pair: Pair, node: str, now: Instant, policy: Policy) -> bool:
    """`node` was unheard for 30 s while the arbiter was up and heard the other throughout, and nothing contradicts."""
    other = pair.kept.other(node)
    steady, last = pair.steady_since.get(other), pair.heard.get(node)
    since = max(pair.started, last if last is not None else pair.started)
    if steady is None or elapsed_s(since, now) < policy.unheard_s or elapsed_s(steady, now) < policy.unheard_s:
        return False
    gathering = pair.gatherings.get(other)
    return recently(pair, other, now, policy) and (gathering is None or gathering.claim.ports != "up-with-change")


def sitting(kept: Kept, node: str) -> bool:
    session = kept.session
    return session is not None and session.era == kept.register.era and session.primaries == (node,)


def without(pair: Pair, inhibit_id: str) -> Pair:
    if inhibit_id not in pair.kept.inhibits:
        return pair
    return keep(pair, inhibits={k: v for k, v in pair.kept.inhibits.items() if k != inhibit_id})


def drop(pair: Pair, candidate: str) -> Pair:
    """End a gathering or an offer. A Commit of its nonce finds nothing from now on."""
    if candidate not in pair.gatherings:
        return pair
    return altered(pair, gatherings={k: g for k, g in pair.gatherings.items() if k != candidate})


def keep(pair: Pair, **changed: object) -> Pair:
    return altered(pair, kept=replace(pair.kept, **changed))  # type: ignore[arg-type]  # names are Kept's own fields
