"""The catalogue of everything ever logged: one kind an event, with the fields that it carries.

An event that is not here cannot be logged: `Emit` implementations refuse it, and a test compares the core's notes with
this list. `page` marks what a person must see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

CATALOGUE: Mapping[str, str] = {
    # the guard's life
    "guard-started": "the guard started; fields: boot_id, era",
    "reloaded": "SIGHUP: the limits were read anew; fields: restart_for",
    "reload-refused": "SIGHUP: the settings do not validate, nothing changed",
    "guard-stopping": "the guard stops in order",
    "watcher-lost": "a watcher died and is started again; fields: watcher",
    "watcher-back": "a watcher sees again; fields: watcher",
    "journal-failed": "the journal cannot be written: nothing is decided",
    "journal-torn": "the last record of the journal was damaged and is cut off; fields: bytes",
    "shots-cleared": "processes of an earlier guard's shots were killed; fields: killed",
    "message-rejected": "a message was not authentic, not ours or malformed; fields: reason, sender",
    "unreadable": "an authentic party's words cannot be read: it lives, no more is known; fields: reason, sender",
    "unverified": "words in the name of a known party are not signed with its key; fields: reason, sender",
    "ignored": "an authentic party said what it may not say; fields: message",
    "hand-failed": "an order to the cluster, DRBD or a device was not carried out; fields: hand",
    # testimony
    "attested": "both ends testified the same session; fields: session",
    "replication-lost": "the replication connection broke; fields: session",
    "session-forgotten": "after a start the stored session proves nothing",
    "whole": "the pair is whole",
    "not-whole": "the pair is not whole any more",
    "store-doubted": "the arbiter's memory is not the one known; fields: known",
    "no-register": "no register was ever made for this pair",
    # claims
    "verdict": "one complete record a verdict",
    "won": "a win gave a right; fields: era, version, purpose",
    "claim-ended": "a claim ended without a right; fields: reason, job",
    "waiting": "a request waits; fields: job",
    "person": "no node may be chosen by the evidence: a person decides; fields: reason",
    "prefer-peer": "the evidence prefers the peer; fields: reason",
    "arbiter-silent": "a request waits for an arbiter that does not answer: nobody is fenced, nobody runs alone",
    "peer-alive": "a request waits because something contradicts a death: a person decides, or the network heals",
    "drbd-unread": "DRBD's handler waits, and DRBD cannot be read since it asked: nobody runs alone on an older look",
    "winner-gone": "the peer won the era and is silent: a person decides; fields: era, used",
    "yielded": "this node yielded",
    "yield-void": "the yield is void; fields: state",
    "resume-needs-person": "writes stay suspended: resuming would make a generation that the peer does not have",
    "cold-win": "a cold start was won alone",
    # shots
    "agent-asks": "the cluster asks to fence; fields: action, wait_s",
    "agent-answered": "the fence agent was answered; fields: reason, confirmed, target",
    "intent": "a shot was decided; fields: era, version",
    "shot-abandoned": "nothing was sent to the fence device",
    "shot-ended": "the delegate ended; fields: exit_code, clean",
    "shot-stays": "a shot that the cluster's fencer holds could not be purged; fields: target",
    "shot-undrained": "a shot by a device without a bound did not end well: its era stays open; fields: shots",
    "switched-on": "the peer was shot to be rebooted and is on again",
    "not-switched-on": "the peer is not switched on again after a reboot: somebody did, or it cannot be done",
    "shot-stuck": "a process of an earlier guard's shot cannot be killed: its era stays open; fields: shots",
    "confirmed-off": "the target reads off twice; fields: target",
    "handler-asks": "DRBD's fence-peer handler asks; fields: resource",
    "handler-answered": "DRBD's handler was answered; fields: code, reason",
    # eras
    "close-given-up": "a close got no answer",
    "close-refused": "a close was refused; fields: reason",
    "era-closed": "a new era begins; fields: era, version",
    "hand-back": "an unused win is handed back",
    # holds
    "braked": "this node neither claims nor shoots; fields: signs or owner",
    "disturbance": "the network is still changing; fields: signs",
    "disturbance-over": "the own disturbance has ended by its own evidence",
    "hold-opened": "a person holds the pair; fields: key",
    "hold-merged": "one --key was used at both nodes at once: the first of the two stands for both; fields: inhibit",
    "hold-ended": "a person's hold was released through the other node while this guard was down; fields: inhibit",
    "property-set": "the cluster is in maintenance mode by our own property set",
    "property-not-set": "the cluster did not take the property",
    "lease-over": "a lease ran out; still held",
    "held-peer-alive": "the releasing claim found the peer alive: the hold stays",
    "released": "the hold is over",
    "default-removed": "an explicit maintenance-mode=false was removed from the cluster's defaults",
    # the arbiter
    "witness-started": "the witness started; fields: pairs, store_id",
    "standby": "another witness is the arbiter, or etcd does not answer: this one waits; fields: why",
    "term-taken": "this witness is the arbiter from now on; fields: name, revision",
    "term-over": "this witness is the arbiter no more: it ends and starts again as a standby; fields: why",
    "register": "a register changed; fields: pair, era, winner, used, basis, version",
    "inhibit-set": "the arbiter stored an inhibit; fields: pair, inhibit, owner",
    "inhibit-ended": "an inhibit ended; fields: pair, inhibit",
    "store-failed": "the store cannot be written: nothing is decided",
    "inbox-full": "the witness is behind: the oldest message was dropped",
    "not-sent": "a message of ours cannot be sent at all: too large, or to no name; fields: kind",
    "bug": "a request or an order met a bug of ours; fields: error",
}


class Emit(Protocol):
    """Takes one record. Never blocks and never raises: a lost record costs a counter, not a decision."""

    def __call__(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None: ...


def plain(value: object) -> object:
    """JSON-ready: dataclasses become objects, sets and tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)
