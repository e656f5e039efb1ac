"""What `status` and `explain` show of one guard: read-only, from the state as it is; CONTRACT.md fixes the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from guard.core import hold
from guard.core.evidence import Disk, Role
from guard.core.instant import Instant, elapsed_s
from guard.core.messages import InhibitView
from guard.core.turn import Guard, Turn, arbiter_up, inhibits, primary, whole
from guard.core.writes import age
from guard.events import plain

_ROLE = {Role.PRIMARY: "Primary", Role.SECONDARY: "Secondary", Role.UNKNOWN: "?"}
_DISK = {
    Disk.UP_TO_DATE: "UpToDate",
    Disk.CONSISTENT: "Consistent",
    Disk.OUTDATED: "Outdated",
    Disk.INCONSISTENT: "Inconsistent",
    Disk.DISKLESS: "Diskless",
    Disk.UNKNOWN: "?",
}


EVENTS_SHOWN = 50  # newest records in `explain`
FOLD_WITHIN = 8  # the same record again within so many different ones is the same story


def shown(guard: Guard, site: str, pair: str, now: Instant, wall: float) -> dict[str, Any]:
    """`pairguard.status/1`, as this guard knows it."""
    turn = Turn(guard, now)
    ack = guard.ack
    register = ack.register if ack is not None else None
    attested = guard.memory.session is not None and ack is not None and ack.attested == guard.memory.session.name
    return {
        "schema": "pairguard.status/1",
        "site": site,
        "pairs": [
            {
                "pair": pair,
                "hold": {
                    "state": hold.stage(guard, turn),
                    "inhibits": [_inhibit(_dated(i, guard), hold.lease_left(guard, i, now)) for i in inhibits(guard)],
                    "verified": _verified(guard, turn),
                    "release_refused": _refusal(turn) if guard.memory.holding or inhibits(guard) else None,
                },
                "network": {
                    "quiet_for_s": round(guard.network.quiet_for_s(now), 1),
                    "disturbances": [f"{s.source}: {s.text}" for s in guard.network.open],
                    "unwatched": list(guard.network.unheard()),
                },
                "whole": whole(guard),
                "attested": attested,
                "register": None
                if register is None
                else {
                    "era": register.era,
                    "winner": register.winner,
                    "used": list(register.used),
                    "version": register.version,
                    "basis": register.basis,
                    "preferred": register.preferred,
                },
                "right": None if guard.right is None else guard.right.purpose,
                "arbiter": "up" if arbiter_up(guard, now) else "silent",
                "store_doubted": guard.store_doubted,
                "barred": register is None or register.winner == guard.peer,
                "yielded": guard.memory.promise is not None,
                "pages": sorted(guard.paged),
                "waiting": [
                    *(
                        {"who": "fence_pairguard", "target": j.target, "stage": j.stage, "for": j.said}
                        for j in guard.agents
                    ),
                    *(
                        {"who": "fence-peer", "target": h.resource, "stage": "wait", "for": h.said}
                        for h in guard.handlers
                    ),
                ],
                "shots": [_intent(i, now) for i in guard.memory.intents],
                "nodes": {guard.me: _own(guard, now), guard.peer: _peers(guard, now)},
            }
        ],
    }


def _waiting(guard: Guard) -> list[dict[str, str]]:
    agents = [("fence_pairguard", j.target, j.stage, j.said) for j in guard.agents]
    handlers = [("fence-peer", h.resource, "wait", h.said) for h in guard.handlers]
    return [{"who": w, "target": t, "stage": s, "for": why} for w, t, s, why in (*agents, *handlers)]


def _dated(view: InhibitView, guard: Guard) -> InhibitView:
    """With the arbiter's moment where this guard has none."""
    listed = guard.ack.inhibits if guard.ack is not None else ()
    return view if view.since_wall else next((i for i in listed if i.id == view.id), view)


def _moment(wall: float) -> str | None:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds") if wall else None


def _inhibit(view: InhibitView, lease_s: float | None) -> dict[str, Any]:
    return {
        "owner": view.owner,
        "reason": view.reason,
        "since": datetime.fromtimestamp(view.since_wall, UTC).isoformat(timespec="seconds")
        if view.since_wall
        else None,
        "id": view.id,
        "kind": view.kind,
        "ended": view.ended,
        "lease_s": _tenths(lease_s),
    }


def _verified(guard: Guard, turn: Turn) -> dict[str, bool]:
    ack = guard.ack
    theirs = ack.peer_hold if ack is not None else None

    def proven(side: Any) -> bool:
        return bool(
            side is not None and side.maintenance is True and side.no_fence_right and side.drained and side.harmless
        )

    return {guard.me: proven(hold.statement(turn)), guard.peer: proven(theirs)}


def _refusal(turn: Turn) -> dict[str, str] | None:
    why = hold.refusal(turn)
    return None if why is None else {"reason": why[0], "text": why[1]}


def _intent(intent: Any, now: Instant) -> dict[str, Any]:
    drained = intent.drained
    left = None if drained is None else max(0.0, -elapsed_s(drained, now))
    return {"target": intent.target, "era": intent.era, "spawned": intent.spawned, "drains_in_s": left}


def _own(guard: Guard, now: Instant) -> dict[str, Any]:
    replica = guard.volumes.replicas[0] if guard.volumes is not None and guard.volumes.replicas else None
    ledger = guard.ledgers.get(replica.resource) if replica is not None else None
    known = age(ledger, now) if ledger is not None else None
    return {
        "role": "?" if replica is None else ("Primary" if primary(guard) else _ROLE[replica.role]),
        "disk": "?" if replica is None else _DISK[replica.disk],
        "write_age_s": None
        if known is None
        else [round(known.lo_s, 1), None if known.hi_s is None else round(known.hi_s, 1)],
        "gate": None if replica is None else replica.gate.closed(),
        "guard": "up",
    }


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _peers(guard: Guard, now: Instant) -> dict[str, Any]:
    """The peer as this node sees it through replication and the arbiter; an arbiter that is silent tells nothing."""
    replica = guard.volumes.replicas[0] if guard.volumes is not None and guard.volumes.replicas else None
    heard = guard.ack.peer_heard_s if guard.ack is not None and arbiter_up(guard, now) else None
    return {
        "role": "?" if replica is None else _ROLE[replica.peer_role],
        "disk": "?" if replica is None else _DISK[replica.peer_disk],
        "write_age_s": None,
        "gate": None,
        "guard": "?" if heard is None else ("up" if heard <= guard.policy.heard_s else "silent"),
    }


def explained(guard: Guard, pair: str, now: Instant, recent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last verdict with every reading that went into it, and what was logged since."""
    last = dict(guard.last_verdict)
    at = last.pop("at", None)
    return {
        "schema": "pairguard.explain/1",
        "pair": pair,
        "node": guard.me,
        "verdict": {**plain_map(last), "age_s": round(elapsed_s(Instant(at), now), 1)} if isinstance(at, int) else None,
        "events": folded(recent)[-EVENTS_SHOWN:],
        "readings": _readings(guard, now),
    }


def folded(recent: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with what repeats within a few of them said once: `count` times, `at_wall` first, `last_wall` last.

    Two requests that wait take turns in saying why. Verdicts are never folded: each has evidence of its own.
    """
    found: list[dict[str, Any]] = []
    for record in recent:
        near = found[-FOLD_WITHIN:] if record.get("event") != "verdict" else []
        same = next((r for r in reversed(near) if (r["event"], r["text"]) == (record["event"], record["text"])), None)
        if same is None:
            found.append(dict(record))
        else:
            same["count"] = same.get("count", 1) + 1
            same["last_wall"] = record.get("at_wall")
    return found


def _readings(guard: Guard, now: Instant) -> list[dict[str, Any]]:
    """What this guard sees now, one row a reading: what, value, age in seconds (None: never read) and source."""

    def row(what: str, value: object, at: Instant | None, source: str) -> dict[str, Any]:
        age_s = None if at is None else round(elapsed_s(at, now), 1)
        return {"what": what, "value": plain(value), "age_s": age_s, "source": source}

    rows = []
    volumes, members, cluster, ack = guard.volumes, guard.members, guard.cluster, guard.ack
    for replica in volumes.replicas if volumes is not None else ():
        text = (
            f"{_ROLE[replica.role]}/{_DISK[replica.disk]}, peer {_ROLE[replica.peer_role]}/{_DISK[replica.peer_disk]}"
        )
        at = None if volumes is None else volumes.at
        rows.append(row(replica.resource, f"{text}, link {replica.link.value}", at, "DRBD"))
        ledger = guard.ledgers.get(replica.resource)
        known = None if ledger is None else age(ledger, now)
        ages = None if known is None else [_tenths(known.lo_s), _tenths(known.hi_s)]
        rows.append(row(f"{replica.resource} last write", ages, at, "block counters"))
    if members is not None:
        text = f"peer member {members.peer_member}, quorate {members.quorate}"
        rows.append(row("membership", text, members.at, "corosync"))
    if cluster is not None:
        text = f"controller {cluster.controller.value}, maintenance {cluster.maintenance}"
        rows.append(row("cluster", text, cluster.at, "Pacemaker"))
    if ack is not None:
        heard = "never" if ack.peer_heard_s is None else f"{ack.peer_heard_s:.1f} s ago"
        rows.append(row("arbiter", f"answers; it heard the peer {heard}", guard.acked, "the bus"))
    return rows


def plain_map(data: Mapping[str, object]) -> dict[str, object]:
    return {key: plain(value) for key, value in data.items()}
