"""What goes into one step of a guard and what comes out of it.

The output has an order of duty: `memory`, if set, is durable before any effect is carried out (S6). The shell obeys
the order and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from guard.core.evidence import (
    ClusterView,
    Forecast,
    Membership,
    PendingShot,
    Power,
    Volumes,
    WriteSample,
)
from guard.core.instant import Instant
from guard.core.messages import InhibitView, Message, Purpose
from guard.core.policy import Policy
from guard.core.sight import Sighting
from guard.core.writes import Ledger

# ------------------------------------------------------------------ memory: what survives the guard


@dataclass(frozen=True, slots=True)
class Intent:
    """One shot that was decided. Until `drained` something of it may still act; None = not known yet."""

    id: str
    era: int
    version: int
    target: str
    boot_id: str
    start_by: Instant
    horizon_s: float | None  # None = unbounded: never drained by waiting
    spawned: bool = False
    drained: Instant | None = None


@dataclass(frozen=True, slots=True)
class Promise:
    """A yield: no claim and no write in this era. Void only by the arbiter's word on `nonce`."""

    nonce: str
    era: int
    session: str | None  # the session at that time: if it broke, I/O is not resumed without a comparison
    primary: bool
    boot_id: str = ""  # a boot ends the suspension itself, and what it would have done to the generation


@dataclass(frozen=True, slots=True)
class ColdWin:
    """A cold start was won on this boot with these generations (resource -> current, bit 0 masked)."""

    boot_id: str
    era: int
    generations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SessionKept:
    """The attested session as both ends testified, with this node's own part of it."""

    name: str
    era: int
    generations: Mapping[str, int]  # resource -> current generation, bit 0 masked
    primary: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """The durable state of a guard. `boot_id` is of the boot in which it was written."""

    boot_id: str
    store_id: str | None = None
    version: int = 0  # highest register version seen
    era: int = 0
    session: SessionKept | None = None
    continuous: Mapping[str, bool] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)  # last seen of each good own disk, bit 0 masked
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)  # the write ledger, of boot `ledger_boot`
    ledger_boot: str = ""
    suspended: bool = False  # our own suspend-io may be in force: resumed before it is forgotten
    won: int = 0  # version of the last `Won` that was heard
    since_era: int | None = None  # the first era of this memory: an older one's wins are not handed back
    intents: tuple[Intent, ...] = ()
    used: tuple[Purpose, ...] = ()  # uses of a win in `era`, written before the use
    confirmed_off: bool = False  # the peer was confirmed off in `era`
    owes_on: bool = False  # the peer was shot to be rebooted, and waits to be switched on
    consented: bool = False  # the living peer, unfit, yielded to a releasing claim that was won in `era`
    cold_win: ColdWin | None = None  # what was won with nothing running: continuous by metadata, not by testimony
    promise: Promise | None = None
    inhibits: Mapping[str, InhibitView] = field(default_factory=dict)
    holding: bool = False  # our property was set and has not been taken back


# ------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True)
class Heard:
    """An authentic message. `sender` was checked by the bus."""

    sender: str
    message: Message


@dataclass(frozen=True, slots=True)
class SawVolumes:
    volumes: Volumes


@dataclass(frozen=True, slots=True)
class SawStored:
    """Read from metadata before `drbdadm up`."""

    volumes: Volumes


@dataclass(frozen=True, slots=True)
class SawWrites:
    samples: tuple[WriteSample, ...]


@dataclass(frozen=True, slots=True)
class SawMembers:
    members: Membership


@dataclass(frozen=True, slots=True)
class SawCluster:
    view: ClusterView


@dataclass(frozen=True, slots=True)
class Seen:
    """Anything that may be a sign of network change: a link, a switch, a watcher that died or is back."""

    what: Sighting


@dataclass(frozen=True, slots=True)
class SawProbe:
    """Has any ring address of the peer answered the guard's own probe within the last 0.4 s? None: not known."""

    answered: bool | None


@dataclass(frozen=True, slots=True)
class BusState:
    connected: bool


@dataclass(frozen=True, slots=True)
class AgentAsks:
    id: str
    action: Literal["off", "reboot"]
    target: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class HandlerAsks:
    id: str
    resource: str


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The agent or handler of this request ended; nobody waits for the answer any more."""

    id: str


@dataclass(frozen=True, slots=True)
class DryRun:
    """`pairguard verdict`: what would a claim say? Gathers, commits nothing."""

    id: str
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class PowerRead:
    """The answer to `ReadPower`."""

    token: str
    power: Power


@dataclass(frozen=True, slots=True)
class Reconsider:
    """The intent is durable: look once more, then fire."""

    intent: str


@dataclass(frozen=True, slots=True)
class ShotEnded:
    """`clean`: the agent ended by itself, no process and no socket is left. `started` False: nothing was ever sent."""

    intent: str
    exit_code: int | None
    clean: bool
    started: bool = True


@dataclass(frozen=True, slots=True)
class Suspended:
    nonce: str
    done: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """The answer to `ResumeWrites`; `done` only when it was read back."""

    done: bool


@dataclass(frozen=True, slots=True)
class Forecasted:
    without_hold: bool
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class HoldWritten:
    """`set`: what was asked; `done`: the cluster took it."""

    set: bool
    done: bool


@dataclass(frozen=True, slots=True)
class OpenHold:
    """By a person: `pairguard hold`."""

    id: str
    key: str
    owner: str
    reason: str
    lease_s: float
    since_wall: float


@dataclass(frozen=True, slots=True)
class AskRelease:
    """By a person: `pairguard release`."""

    id: str


@dataclass(frozen=True, slots=True)
class AcceptStore:
    """By a person, `pairguard init` anew: believe whatever store answers from now on. Only while the pair is whole."""

    id: str


@dataclass(frozen=True, slots=True)
class JournalState:
    """Could the last memory be made durable? `ok` False: its step's effects were not carried out."""

    ok: bool


@dataclass(frozen=True, slots=True)
class Retuned:
    """New limits, by a reload of the settings."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class Leaving:
    """The guard is being stopped in order."""


Event = (
    Tick
    | Heard
    | SawVolumes
    | SawStored
    | SawWrites
    | SawMembers
    | SawCluster
    | Seen
    | SawProbe
    | BusState
    | AgentAsks
    | HandlerAsks
    | ClientGone
    | DryRun
    | PowerRead
    | Reconsider
    | ShotEnded
    | Suspended
    | Resumed
    | Forecasted
    | HoldWritten
    | OpenHold
    | AskRelease
    | AcceptStore
    | JournalState
    | Retuned
    | Leaving
)

# ------------------------------------------------------------------ effects


@dataclass(frozen=True, slots=True)
class Send:
    to: str
    message: Message
    expires_s: float


@dataclass(frozen=True, slots=True)
class ReadVolumes:
    """Read DRBD anew; answer with `SawVolumes`. By itself it speaks only when something changes."""


@dataclass(frozen=True, slots=True)
class ReadPower:
    """Fresh device session; answer with `PowerRead(token)`. `delay_s` from now."""

    token: str
    target: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Persisted:
    """Nothing to do but to come back with `Reconsider(intent)` once `memory` is durable."""

    intent: str


@dataclass(frozen=True, slots=True)
class Fire:
    """Run the delegate once, unless `start_by` has passed when it comes to that: nothing is started late."""

    intent: str
    action: Literal["off"]
    target: str
    start_by: Instant


@dataclass(frozen=True, slots=True)
class PowerOn:
    target: str


@dataclass(frozen=True, slots=True)
class AnswerAgent:
    id: str
    confirmed: bool
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerHandler:
    id: str
    code: Literal[1, 4, 6, 7]
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerPerson:
    """The end of `DryRun`, `OpenHold` or `AskRelease`. `outcome` is a kebab-case reason."""

    id: str
    outcome: str
    text: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class SuspendWrites:
    nonce: str


@dataclass(frozen=True, slots=True)
class ResumeWrites:
    pass


@dataclass(frozen=True, slots=True)
class OutdateOwn:
    pass


@dataclass(frozen=True, slots=True)
class SetHold:
    hold_id: str


@dataclass(frozen=True, slots=True)
class ClearHold:
    hold_id: str


@dataclass(frozen=True, slots=True)
class AskForecast:
    lost: str | None
    without_hold: bool


@dataclass(frozen=True, slots=True)
class PurgeShot:
    shot: PendingShot


@dataclass(frozen=True, slots=True)
class Bar:
    node: str
    on: bool


@dataclass(frozen=True, slots=True)
class Unblock:
    """Cancel corosync's wait-for-all: only the winner of a cold start."""


@dataclass(frozen=True, slots=True)
class Note:
    """One record for the events log. `page`: a person must see it."""

    event: str
    text: str
    data: Mapping[str, object] = field(default_factory=dict)
    page: bool = False


Effect = (
    Send
    | ReadVolumes
    | ReadPower
    | Persisted
    | Fire
    | PowerOn
    | AnswerAgent
    | AnswerHandler
    | AnswerPerson
    | Progress
    | SuspendWrites
    | ResumeWrites
    | OutdateOwn
    | SetHold
    | ClearHold
    | AskForecast
    | PurgeShot
    | Bar
    | Unblock
    | Note
)


@dataclass(frozen=True, slots=True)
class Step:
    """`memory` None: nothing durable changed."""

    memory: Memory | None
    effects: tuple[Effect, ...]
