"""`pairguard status` and `pairguard explain`: read-only, need no right; ask this machine's guard and its witness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from guard.cli.options import DURATION, GO, SCOPE, UNVERIFIED, WrongScope, answer, command
from guard.errors import PairguardError, Unavailable

if TYPE_CHECKING:
    from guard.cli.wiring import Loaded

GATE_OFF = "no automatic failover over a silent peer, ever"  # DESIGN.md section 5, E4, in these words


@command(name="status")
@click.argument("pairs", nargs=-1, metavar="[PAIR]...")
@click.option("--watch", is_flag=True, help="Ask again and again until interrupted; with --json one object a line.")
@click.option("--every", type=DURATION, default=2.0, metavar="DURATION", help="How often with --watch (2s).")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End --watch after N answers.")
def status(
    pairs: tuple[str, ...], watch: bool, every: float, count: int | None, as_json: bool, config: str | None
) -> None:
    """What is held, armed, whole, barred, attested, and why. Pages come first.

    On a node its guard answers, on the arbiter's machine the witness, for all
    pairs. Exit codes: 0, 84 no such pair, 85 nobody answers.
    """
    from guard.cli import wiring

    loaded = wiring.load(config)
    if not watch:
        data, code = wiring.do(current(loaded, pairs))
        answer(data, screen(data, wiring.clock().wall()), code, as_json=as_json)
    clock, shown = wiring.clock(), 0

    async def follow() -> int:
        nonlocal shown
        code = UNVERIFIED
        while True:
            try:
                data, code = await current(loaded, pairs)
                click.echo(json.dumps(data) if as_json else screen(data, clock.wall()) + "\n")
            except PairguardError as error:
                if isinstance(error, WrongScope):
                    raise
                code = UNVERIFIED
                said = {"schema": "pairguard.error/1", "what": error.what, "why": error.why, "next": error.next_step}
                click.echo(json.dumps({**said, "exit": code}) if as_json else f"pairguard: {error}\n")
            shown += 1
            if count is not None and shown >= count:
                return code
            await clock.sleep(every)

    raise SystemExit(wiring.do(follow()))


async def current(loaded: Loaded, wanted: Sequence[str] = ()) -> tuple[dict[str, Any], int]:
    """`pairguard.status/1` of this machine, guard and witness merged, and the exit code. `Unavailable`: nobody."""
    from guard.cli import wiring

    heard: list[dict[str, Any]] = []
    silent: list[PairguardError] = []
    sources = []
    if loaded.guard is not None:
        sources.append(("guard", loaded.guard.paths.run))
    if loaded.witness is not None:
        sources.append(("witness", loaded.witness.paths.run))
    asked: dict[str, str] = {}
    for name, run_dir in sources:
        found = await wiring.bounded(wiring.show(run_dir, "status"), wiring.READ_S_MAX + 1.0, f"the {name}")
        asked[name] = str(found) if isinstance(found, PairguardError) else "answered"
        if isinstance(found, PairguardError):
            silent.append(found)
        else:
            heard.append(found if name == "guard" else of_witness(found))
    if not heard:
        if len(silent) == 1 and "witness" in asked:
            raise Unavailable(silent[0].what, silent[0].why, "run: systemctl status pairguard-witness")
        raise silent[0]
    merged = merge(heard, loaded.site)
    if wanted:
        known = [pair["pair"] for pair in merged["pairs"]]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise WrongScope(
                f"cannot show {', '.join(missing)}",
                f"known here: {', '.join(known) or 'none'}",
                "run: pairguard status",
            )
        merged["pairs"] = [pair for pair in merged["pairs"] if pair["pair"] in wanted]
    return {**merged, "asked": asked}, GO if len(heard) == len(sources) else UNVERIFIED


def merge(answers: Sequence[Mapping[str, Any]], site: str) -> dict[str, Any]:
    """One object; where guard and witness both know a pair, the guard's row stands: it sees more of it."""
    rows: dict[str, dict[str, Any]] = {}
    for each in answers:
        for pair in each.get("pairs", ()):
            rows.setdefault(str(pair["pair"]), dict(pair))
    troubles = [each["store_trouble"] for each in answers if each.get("store_trouble")]
    found: dict[str, Any] = {
        "schema": "pairguard.status/1",
        "site": site,
        "pairs": [rows[name] for name in sorted(rows)],
    }
    waits = [each["standby"] for each in answers if each.get("standby")]
    more = {"store_trouble": troubles[:1], "standby": waits[:1]}
    return {**found, **{key: value[0] for key, value in more.items() if value}}


def of_witness(found: Mapping[str, Any]) -> dict[str, Any]:
    """`pairguard.witness-status/1` in the words of `pairguard.status/1`; what only a guard sees is null."""
    rows = []
    for pair in found.get("pairs", ()):
        register = pair.get("register")
        inhibits = [_inhibit(each) for each in pair.get("inhibits") or ()]
        rows.append(
            {
                "pair": pair["pair"],
                "hold": {"state": None, "inhibits": inhibits, "verified": {}},
                "network": None,
                "whole": None,
                "attested": pair.get("session") is not None,
                "register": register
                and {k: register.get(k) for k in ("era", "winner", "used", "version", "basis", "preferred")},
                "right": None,
                "pages": sorted({each["kind"] for each in inhibits if each["kind"] in ("peer-alive", "storm")}),
                "nodes": {node: _testified(said) for node, said in sorted((pair.get("testimony") or {}).items())},
            }
        )
    own = {key: found.get(key) for key in ("store_trouble", "standby")}
    return {"schema": "pairguard.status/1", "pairs": rows, **own}


def _inhibit(view: Mapping[str, Any]) -> dict[str, Any]:
    from datetime import UTC

    wall = view.get("since_wall")
    since = datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds") if wall else None
    said = {key: view.get(key) for key in ("owner", "reason")}
    return {**said, "since": since, **{key: view.get(key) for key in ("id", "kind", "ended", "lease_s")}}


def _testified(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """A node by its last testimony, however old that is: so nothing on its guard, and no age of its last write."""
    from guard.cli.render import disk

    replicas = evidence.get("replicas") or ()
    first = replicas[0] if replicas else {}
    return {
        "role": str(first.get("role", "?")).capitalize() if first.get("role") not in (None, "unknown") else "?",
        "disk": disk(first.get("disk", "?")),
        "write_age_s": None,
        "gate": first.get("gate"),
        "guard": "?",
    }


# ------------------------------------------------------------------ the screen


def screen(data: Mapping[str, Any], wall: float) -> str:
    """Pages, then one row a pair, then what there is to say of each. At most 80 columns."""
    from guard.cli.render import table, when, wrapped

    pairs: Sequence[Mapping[str, Any]] = data["pairs"]
    lines = [f"site {data.get('site', '?')}, {when(wall)}"]
    if data.get("store_trouble"):
        lines.append(wrapped(f"PAGE the witness cannot write: {data['store_trouble']}", hang=5))
    if data.get("standby"):
        lines.append(wrapped(f"the witness here is a standby: {data['standby']}", hang=5))
    for pair in pairs:
        lines += [wrapped(f"PAGE {pair['pair']}: {PAGES.get(page, page)}", hang=5) for page in pair.get("pages") or ()]
    rows = [
        (
            pair["pair"],
            _hold_word(pair),
            pair.get("whole"),
            pair.get("attested"),
            (pair.get("register") or {}).get("era"),
            (pair.get("register") or {}).get("winner") or ("none" if pair.get("register") else None),
            pair.get("right") or "none",
            pair.get("arbiter", "-"),
        )
        for pair in pairs
    ]
    lines += ["", table(("PAIR", "STATE", "WHOLE", "ATTESTED", "ERA", "WINNER", "RIGHT", "ARBITER"), rows)]
    if not pairs:
        lines.append("no pair has a register yet; run on a node of a whole pair: pairguard init")
    for pair in pairs:
        lines += _details(pair, wall)
    for name, said in (data.get("asked") or {}).items():
        if said != "answered":
            lines += ["", wrapped(f"the {name} on this machine does not answer: {said}", hang=2)]
    return "\n".join(lines)


PAGES = {
    "peer-alive": "peer-alive: the peer lives, so this is the network; nothing is fenced. Mend one ring; or let "
    "its fence device read the peer off",
    "storm": "storm: many pairs are in trouble at once: the network failed, not the nodes; nothing is fenced",
    "person": "person: the evidence names no node; a person decides. Run: pairguard explain",
    "winner-gone": "winner-gone: the peer won this era and is silent: the newest data are there, this node stays "
    "barred. Bring the peer back, or decide as a person",
    "arbiter-silent": "arbiter-silent: a request of the cluster waits for the arbiter: nobody is fenced, nobody runs "
    "alone. On the arbiter's machine: systemctl status pairguard-witness",
    "shot-undrained": "shot-undrained: a shot did not end well and its fence device has no bound: this era stays open. "
    "Cut that device's power, make the pair whole, and move the journal aside while pairguardd is stopped",
    "not-switched-on": "not-switched-on: the peer was shot to be rebooted and stays off, or its fence device cannot "
    "be read: switch it on by hand",
    "drbd-unread": "drbd-unread: DRBD's handler waits, and DRBD's state cannot be read since it asked: nobody runs "
    "alone. Run: drbdsetup status --verbose",
    "journal-failed": "journal-failed: the journal cannot be written: this node claims and fires nothing. Run: df -h",
    "no-register": "no-register: this pair has no register. Once, while it is whole: pairguard init",
    "store-doubted": "store-doubted: the arbiter answers from another memory than this node knows; it is not "
    "believed. While the pair is whole: pairguard init",
    "lease-over": "lease-over: the lease of a hold ran out; the pair stays held. When the work is done: pairguard "
    "release; else: pairguard hold",
    "prefer-peer": "prefer-peer: the evidence prefers the peer; run there: pairguard verdict --target THIS-NODE",
}


def _hold_word(pair: Mapping[str, Any]) -> str:
    state = (pair.get("hold") or {}).get("state")
    inhibited = (pair.get("hold") or {}).get("inhibits")
    if state == "none":
        return "barred" if pair.get("barred") else "armed"
    return str(state) if state else ("inhibited" if inhibited else "no inhibit")


def _details(pair: Mapping[str, Any], wall: float) -> list[str]:
    from guard.cli.render import table, when, wrapped, write_age

    nodes = [
        (name, n.get("role"), n.get("disk"), write_age(n.get("write_age_s")), _gate(n.get("gate")), n.get("guard"))
        for name, n in (pair.get("nodes") or {}).items()
    ]
    lines = ["", f"{pair['pair']}, everything as of {when(wall)}:"]
    if nodes:
        lines.append(table(("NODE", "ROLE", "DISK", "LAST WRITE", "GATE", "GUARD"), nodes, indent="  "))
    lines += [wrapped(line, indent="  ", hang=2) for line in _why(pair)]
    return lines


def _gate(closed: object) -> str:
    return "?" if closed is None else ("on" if closed else "off")


def _why(pair: Mapping[str, Any]) -> list[str]:
    """Every reason for what the row says, a sentence each."""
    from guard.cli.render import span, when

    hold, register, said = pair.get("hold") or {}, pair.get("register"), []
    for each in hold.get("inhibits") or ():
        lease = each.get("lease_s")
        tail = "; ended by its own evidence" if each.get("ended") else ""
        tail += f"; lease ends in {span(lease)}" if lease is not None and not each.get("ended") else ""
        said.append(f"held by {each.get('owner')} since {when(each.get('since'))}: {each.get('reason')}{tail}")
    unproven = [node for node, ok in (hold.get("verified") or {}).items() if not ok]
    if hold.get("state") not in (None, "none", "held") and unproven:
        said.append(f"not proven held on: {', '.join(unproven)}")
    refused = hold.get("release_refused")
    if refused and hold.get("state") not in (None, "none") and refused.get("reason") != "inhibited":
        said.append(f"cannot be released yet ({refused.get('reason')}): {refused.get('text')}")
    if register is None:
        said.append("no register is known: nobody may run alone; while whole run: pairguard init")
    elif register.get("winner"):
        used = ", ".join(register.get("used") or ()) or "nothing"
        said.append(f"{register['winner']} won era {register.get('era')} (used for: {used}); the other node is barred")
    if pair.get("store_doubted"):
        said.append("the arbiter's memory is not the one this node knows: nothing is believed; see pairguard init")
    if pair.get("arbiter") == "silent":
        said.append(
            "the arbiter does not answer: nobody may run alone; on its machine: systemctl status pairguard-witness"
        )
    if pair.get("attested") is False:
        said.append("NOT ATTESTED: no session is testified by both ends, so no node could take over; a fault")
    if pair.get("whole") is False:
        said.append("not whole: membership, controllers, replication or a disk is missing")
    if any(node.get("gate") is False for node in (pair.get("nodes") or {}).values()):
        said.append(f"gate off: {GATE_OFF}")
    if pair.get("yielded"):
        said.append("this node has yielded: its writes are suspended until the era is settled")
    for each in pair.get("waiting") or ():
        said.append(f"{each.get('who')} waits ({each.get('target')}, {each.get('stage')}): {each.get('for') or '-'}")
    for each in pair.get("shots") or ():
        left = each.get("drains_in_s")
        drained = "no bound is known" if left is None else ("drained" if left == 0 else f"drained in {span(left)}")
        said.append(f"shot at {each.get('target')} in era {each.get('era')}: {drained}")
    network = pair.get("network") or {}
    if network:
        open_now = "; ".join(network.get("disturbances") or ())
        said.append(f"network: {open_now}" if open_now else f"network quiet for {span(network.get('quiet_for_s'))}")
        if network.get("unwatched"):
            said.append(f"not watched: {', '.join(network['unwatched'])}")
    return said


# ------------------------------------------------------------------ explain


@command(name="explain")
@click.argument("pair", required=False)
@click.option("--at", metavar="TIME", help="The verdict that stood at this time (2026-11-22T03:04:05+01:00).")
@click.option("--evidence", is_flag=True, help="Also every reading that went into it, and the latest events.")
def explain(pair: str | None, at: str | None, evidence: bool, as_json: bool, config: str | None) -> None:
    """The last verdict, what went into it, and the write-age comparison.

    Exit codes: 0, 84 no such pair or no verdict at that time, 85 nobody answers.
    """
    from guard.cli import wiring

    moment = _moment(at)
    loaded = wiring.load(config)
    if loaded.guard is None:
        raise WrongScope("cannot explain here", "this machine has no guard", "on a node of the pair: pairguard explain")
    if pair not in (None, loaded.guard.pair.name):
        own = loaded.guard.pair
        why = f"this node ({own.node}) belongs to the pair {own.name}"
        raise WrongScope(f"cannot explain {pair}", why, f"on a node of {pair}: pairguard explain {pair}")
    data = wiring.do(wiring.show(loaded.guard.paths.run, "explain"))
    if moment is not None:
        data = _then(data, moment)
    code = GO if data.get("verdict") is not None or moment is None else SCOPE
    answer(data, _explained(data, evidence=evidence), code, as_json=as_json)


def _moment(at: str | None) -> float | None:
    if at is None:
        return None
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        _bad_time(at, "it is no ISO 8601 time")
    if found.tzinfo is None:
        _bad_time(at, "it has no zone")
    return found.timestamp()


def _bad_time(at: str, why: str) -> NoReturn:
    raise click.BadParameter(f"{at!r}: {why}; write for example 2026-11-22T03:04:05+01:00", param_hint="--at")


def _then(data: Mapping[str, Any], moment: float) -> dict[str, Any]:
    """The last verdict at or before `moment` among the events that the guard keeps; None if it keeps none so old."""
    found = [e for e in data.get("events", ()) if e.get("event") == "verdict" and e.get("at_wall", 0) <= moment]
    verdict = found[-1].get("data", found[-1]) if found else None
    until = [event for event in data.get("events", ()) if event.get("at_wall", 0) <= moment]
    return {**data, "verdict": verdict, "events": until}


def _explained(data: Mapping[str, Any], *, evidence: bool) -> str:
    from guard.cli.render import facts, span, table, when, word, wrapped

    verdict, lines = data.get("verdict"), [f"{data.get('pair')}, as {data.get('node')} judged"]
    if verdict is None:
        lines.append("no verdict since this guard started; for one now: pairguard verdict")
    else:
        age = f", {span(verdict['age_s'])} ago" if verdict.get("age_s") is not None else ""
        lines.append(wrapped(f"{verdict.get('verdict')} ({verdict.get('row')}) for `{verdict.get('purpose')}`{age}"))
        shown = {
            "why": f"{verdict.get('reason')}: {verdict.get('text')}",
            "target was": verdict.get("fresh"),
            "target yielded": verdict.get("yielded"),
            "register": f"era {verdict.get('era')}, version {verdict.get('version')}",
        }
        lines.append(facts(shown))
        lines += ["", wrapped(f"time since the last write that counts, both as of this verdict{_silent(verdict)}:")]
        lines.append(
            table(("NODE", "WHO", "RESOURCE", "LAST WRITE", "ROLE", "DISK", "GATE"), _ages(verdict), indent="  ")
        )
        if evidence:
            lines += ["", "readings that went into it:", *_readings(verdict)]
    now = data.get("readings") or ()
    if evidence and now:
        lines += ["", "what this guard sees now:"]
        for each in now:
            text = f"{each.get('what')}: {word(each.get('value'))}; {span(each.get('age_s'))} ago, {each.get('source')}"
            lines.append(wrapped(text, indent="  ", hang=4))
    if evidence:
        lines += ["", "latest events:"]
        for event in (data.get("events") or ())[-20:]:
            text = f"{when(event.get('at_wall'))} {event.get('event')}: {event.get('text')}"
            if event.get("count", 1) > 1:
                text += f" ({event['count']} times, last {when(event.get('last_wall'))})"
            lines.append(wrapped(text, indent="  ", hang=4))
    return "\n".join(lines)


def _sides(verdict: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    sides = [(who, verdict.get(who)) for who in ("candidate", "target")]
    return [(who, said) for who, said in sides if isinstance(said, Mapping)]


def _silent(verdict: Mapping[str, Any]) -> str:
    """A node that did not answer testified some time before; since then it may have written."""
    from guard.cli.render import span

    if verdict.get("fresh") not in ("silent", "stale"):
        return ""
    before = verdict.get("target_age_s")
    when_said = "at a moment that is not known" if before is None else f"{span(before)} before"
    return f" (the target testified {when_said}; it may have written since)"


def _as_of(said: Mapping[str, Any], stated_s: object) -> list[float | None] | None:
    """A write age as testified, moved to the moment of the verdict; None: unknown, or nobody knows when it was said."""
    low, high = said.get("age_lo_s"), said.get("age_hi_s")
    if low is None or not isinstance(stated_s, int | float):
        return None
    return [low + stated_s, None if high is None else high + stated_s]


def _ages(verdict: Mapping[str, Any]) -> list[tuple[object, ...]]:
    from guard.cli.render import disk, write_age

    return [
        (
            said.get("node"),
            who,
            each.get("resource"),
            write_age(_as_of(each, verdict.get(f"{who}_age_s"))),
            each.get("role"),
            disk(each.get("disk")),
            _gate(each.get("gate")),
        )
        for who, said in _sides(verdict)
        for each in said.get("replicas") or ()
    ]


def _readings(verdict: Mapping[str, Any]) -> list[str]:
    from guard.cli.render import facts

    lines = []
    for who, said in _sides(verdict):
        lines.append(f"  {who} {said.get('node')}, by its own testimony:")
        plain = {key: value for key, value in said.items() if key not in ("node", "replicas")}
        lines.append(facts(plain, indent="    "))
        for each in said.get("replicas") or ():
            lines.append(f"    resource {each.get('resource')}:")
            kept = {key: _in_words(key, value) for key, value in each.items() if key != "resource"}
            lines.append(facts(kept, indent="      "))
    return lines


def _in_words(key: str, value: object) -> object:
    """Generation identifiers and disks as DRBD's own tools print them."""
    from guard.cli.render import disk

    if key in ("disk", "peer_disk"):
        return disk(value)
    if key in ("current", "bitmap") and isinstance(value, int):
        return f"{value:016X}"
    if key == "history" and isinstance(value, list | tuple):
        return " ".join(f"{each:016X}" for each in value if isinstance(each, int)) or "none"
    return value
