"""Every body that travels on the bus: what the guards and the arbiter say to each other.

Plain frozen values; `guard/wire.py` signs, checks and carries them. Ages only, never moments: the receiver has
another clock. A body that acts carries the nonce of the window opened for it (S4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ARBITER = "arbiter"

HOLDS_MAX = 16  # standing holds of persons on one pair; the arbiter keeps twice as many, ended ones among them
TEXT_MAX = 500  # bytes of a key or a reason on the wire: a beat's answer carries those of every inhibit in 64 KiB

Purpose = Literal["fence", "alone"]
Basis = Literal["verdict", "tie", "yield", "cold", "announced", "person"]
Ports = Literal["down-alone", "up-with-change", "?"]
"""What the switches say of the target's own ports: see `core.disturbance`."""


def spelled(text: str) -> int:
    """Bytes that a text may take on the wire, which is ASCII: what is not takes six, or twelve beyond U+FFFF."""
    plain = sum(" " <= each <= "~" for each in text)
    pairs = sum(each > "\uffff" for each in text)
    return plain + text.count('"') + text.count("\\") + 6 * (len(text) - plain + pairs)


@dataclass(frozen=True, slots=True)
class RegisterView:
    """The linearizable register of a pair as the arbiter read it."""

    store_id: str
    era: int
    winner: str | None
    used: tuple[Purpose, ...]
    basis: Basis | None
    version: int
    preferred: str


@dataclass(frozen=True, slots=True)
class ReplicaStatement:
    """One resource, as its node testifies. `age` is time since the last write that counts; None = not known."""

    resource: str
    disk: str  # evidence.Disk
    peer_disk: str
    role: str  # evidence.Role
    current: int | None  # raw; None = unreadable
    bitmap: int
    history: tuple[int, ...]
    gate: bool | None
    age_lo_s: float | None
    age_hi_s: float | None  # None with age_lo_s set: no upper end
    continuous: bool  # own disk never left UpToDate since the session was attested (cold: metadata says the same)


@dataclass(frozen=True, slots=True)
class InhibitView:
    """One reason why nothing may fire. `ended`: its own evidence says it is over; it stays until the release."""

    id: str
    kind: Literal["person", "change", "disturbance", "peer-alive", "storm", "redundancy"]
    owner: str
    reason: str
    since_wall: float
    ended: bool = False
    lease_s: float | None = None  # seconds left, None = no lease; a lease that ran out ends nothing by itself


@dataclass(frozen=True, slots=True)
class HoldStatement:
    """What one guard can prove of its own side of a hold."""

    inhibits: tuple[str, ...]  # id@since of each in the arbiter's list, as this guard read it last
    maintenance: bool | None  # effective cluster-wide property in this node's own view
    no_fence_right: bool
    drained: bool
    harmless: bool | None  # the scheduler, peer lost, hold in place, fences nobody
    release_harmless: bool | None  # the scheduler without the hold fences and stops nothing
    pending_shots: int | None
    quiet_for_s: float
    whole: bool | None
    unfit: bool = False  # as in `Evidence`


@dataclass(frozen=True, slots=True)
class Evidence:
    """A node's own testimony at one moment: the body of a live answer, of a claim and of an attest."""

    node: str
    boot_id: str
    era: int
    session: str | None  # the unbroken replication connection it has, or the one it lost last
    connected: bool  # that session stands now
    replicas: tuple[ReplicaStatement, ...]
    cluster: Literal["up", "down", "?"]
    peer_member: bool | None
    cold: bool = False  # statements rest on metadata read before `drbdadm up`; or a cold start was won with them
    unfit: bool = False  # it cannot serve, by its own words (turn.unfit): asked to yield to a fence, it may


# ------------------------------------------------------------------ guard -> arbiter


@dataclass(frozen=True, slots=True)
class Beat:
    """At least every 0.5 s: the arbiter hears this guard. Carries what must be re-read, never trusted to arrive."""

    seq: int
    session: str | None
    connected: bool
    peer_member: bool | None
    peer_lost: bool
    whole: bool | None
    hold: HoldStatement
    kind: Literal["beat"] = "beat"


@dataclass(frozen=True, slots=True)
class Attest:
    """Running testimony about replication: at each connect, each change, each loss and every 5 s."""

    seq: int
    evidence: Evidence
    kind: Literal["attest"] = "attest"


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks to win. `gather` True: only let the arbiter collect evidence; nothing can be committed on it."""

    nonce: str
    purpose: Purpose
    evidence: Evidence
    ports: Ports
    gather: bool = False
    want_yield: bool = False
    cold: bool = False
    lost_for_s: float = 0.0  # since the candidate lost its session
    off_twice: bool = False  # the target's fence device read `off` twice, 1 s apart, in fresh device sessions
    kind: Literal["claim"] = "claim"


@dataclass(frozen=True, slots=True)
class Answer:
    """A live answer to the arbiter's `Ask`. `yielded`: the promise for that very nonce is durable here."""

    nonce: str
    evidence: Evidence
    yielded: bool
    quiet_for_s: float
    kind: Literal["answer"] = "answer"


@dataclass(frozen=True, slots=True)
class Commit:
    nonce: str
    version: int
    purpose: Purpose
    device: str | None = None
    horizon_s: float | None = None
    unbounded: bool = False  # the device's horizon has no bound; accepted by name
    kind: Literal["commit"] = "commit"


@dataclass(frozen=True, slots=True)
class CloseEra:
    """K5, or a hand-back: write {era+1, none} at `version`."""

    nonce: str
    version: int
    how: Literal["close", "hand-back"]
    session: str | None
    kind: Literal["close-era"] = "close-era"


@dataclass(frozen=True, slots=True)
class AskNonce:
    """What became of the claim that I yielded to?"""

    nonce: str
    about: str
    era: int
    kind: Literal["ask-nonce"] = "ask-nonce"


@dataclass(frozen=True, slots=True)
class SetInhibit:
    nonce: str
    inhibit: InhibitView
    kind: Literal["set-inhibit"] = "set-inhibit"


@dataclass(frozen=True, slots=True)
class LiftInhibit:
    nonce: str
    id: str
    kind: Literal["lift-inhibit"] = "lift-inhibit"


@dataclass(frozen=True, slots=True)
class Bye:
    """An announced stop of this guard: its silence is no death."""

    reason: str
    kind: Literal["bye"] = "bye"


@dataclass(frozen=True, slots=True)
class Init:
    """`pairguard init`, by a person, once: makes the register. Refused if one exists."""

    nonce: str
    nodes: tuple[str, str]
    preferred: str
    cell: str
    by: str
    kind: Literal["init"] = "init"


# ------------------------------------------------------------------ arbiter -> guard


@dataclass(frozen=True, slots=True)
class BeatAck:
    """Answer to a `Beat`: everything a guard must re-read."""

    seq: int
    register: RegisterView | None  # None: no register was ever made for this pair (`pairguard init`)
    attested: str | None  # session that both ends attested in this era
    inhibits: tuple[InhibitView, ...]
    peer_heard_s: float | None  # None = not since the arbiter started
    peer_hold: HoldStatement | None
    peer_session: str | None
    outdate: bool  # the peer won and used `alone`: run `drbdadm outdate`
    kind: Literal["beat-ack"] = "beat-ack"


@dataclass(frozen=True, slots=True)
class Ask:
    nonce: str
    candidate: str
    purpose: Purpose
    want_yield: bool
    kind: Literal["ask"] = "ask"


@dataclass(frozen=True, slots=True)
class Offer:
    """All evidence on one claim. May be answered by a Commit for `window_s`."""

    nonce: str
    register: RegisterView
    candidate: Evidence
    target: Evidence | None
    fresh: Literal["live", "silent", "stale"]
    candidate_age_s: float  # how old the candidate's statement is at the arbiter
    target_age_s: float | None  # the same of the target's; None = not known (the arbiter's machine rebooted since)
    target_yielded: bool
    sitting: bool  # the candidate was Primary in the attested session
    window_s: float
    kind: Literal["offer"] = "offer"


@dataclass(frozen=True, slots=True)
class Refused:
    """`nonce` names what was refused. `retry_s` None: do not repeat before something changes."""

    nonce: str
    reason: str
    text: str
    retry_s: float | None = None
    kind: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class Won:
    nonce: str
    era: int
    version: int
    purpose: Purpose
    kind: Literal["won"] = "won"


@dataclass(frozen=True, slots=True)
class Closed:
    nonce: str
    register: RegisterView
    kind: Literal["closed"] = "closed"


@dataclass(frozen=True, slots=True)
class NonceIs:
    nonce: str
    about: str
    state: Literal["open", "closed-without-winner", "winner-you", "winner-peer", "era-closed"]
    kind: Literal["nonce-is"] = "nonce-is"


@dataclass(frozen=True, slots=True)
class InhibitStored:
    nonce: str
    id: str
    kind: Literal["inhibit-stored"] = "inhibit-stored"


# ------------------------------------------------------------------ guard <-> guard


@dataclass(frozen=True, slots=True)
class SessionHalf:
    """One end's random half of a session; repeated until the other end echoes it in `seen`."""

    boot_id: str
    connects: int
    half: str
    seen: str  # the other end's half as heard here, "" = none yet
    kind: Literal["session-half"] = "session-half"


@dataclass(frozen=True, slots=True)
class CloseAsk:
    """K3: the winner asks the loser to state and renounce."""

    nonce: str
    era: int
    session: str
    kind: Literal["close-ask"] = "close-ask"


@dataclass(frozen=True, slots=True)
class CloseAnswer:
    nonce: str
    agreed: bool
    session: str | None
    reason: str
    kind: Literal["close-answer"] = "close-answer"


Message = (
    Beat
    | Attest
    | Claim
    | Answer
    | Commit
    | CloseEra
    | AskNonce
    | SetInhibit
    | LiftInhibit
    | Bye
    | Init
    | BeatAck
    | Ask
    | Offer
    | Refused
    | Won
    | Closed
    | NonceIs
    | InhibitStored
    | SessionHalf
    | CloseAsk
    | CloseAnswer
)
