"""`pairguard check`: before the first start and ever after. Looks at everything that can silently defeat the guard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from guard.cli.options import DENY, GO, GUARD, UNVERIFIED, answer, command
from guard.errors import SettingsError, Unavailable, Unreadable, closed_to_us

if TYPE_CHECKING:
    from guard.cli.facts import Facts
    from guard.cli.findings import Finding
    from guard.cli.ladder import Rung
    from guard.cli.named import Fault
    from guard.cli.wiring import Loaded
    from guard.settings import GuardSettings, Origin, WitnessSettings

SCHEMA = "pairguard.check/1"
HIDDEN = ("passw", "secret", "community", "login_pass", "privkey", "auth_key", "priv_key", "token")


@command(name="check")
@click.option("--settings", "only_settings", is_flag=True, help="Only validate the settings; show where each is from.")
@click.option(
    "--against", type=click.Path(exists=True, dir_okay=False), metavar="LAST", help="Compare with a saved --json."
)
def check(only_settings: bool, against: str | None, as_json: bool, config: str | None) -> None:
    """Look for every trap: settings, cluster, DRBD, timers. Changes nothing.

    Needs no running daemon. Each finding ends with the command that shows it
    and the one that mends it. Exit codes: 0, 81 with findings, 85 could not
    look at the cluster, corosync or DRBD, 89 settings that do not validate;
    with --settings 0, 89 if the program would not start with them, or 85 if
    that is not known, for files are closed to whoever asks: run it as root.
    """
    from guard.cli import wiring

    if only_settings:
        data = wiring.do(settings_data(_looked_into(config)))
        starts = [fault["starts"] for part in data["programs"] for fault in part["faults"]]
        code = GUARD if False in starts else UNVERIFIED if None in starts else GO
        answer(data, _settings_text(data), code, as_json=as_json)
    last = None if against is None else _last(Path(against))
    try:
        loaded = wiring.load(config)
        trouble = None
    except SettingsError as error:
        loaded, trouble = wiring.Loaded(None, None, None, None), error
    data, code = wiring.do(examine(loaded, trouble, last))
    answer(data, text_of(data), code, as_json=as_json)


def _looked_into(config: str | None) -> Loaded:
    """The settings. `Unavailable`: they are closed to this user, which says nothing against them."""
    from guard.cli import wiring

    try:
        return wiring.load(config)
    except SettingsError as error:
        if closed_to_us(error):
            raise Unavailable(error.what, error.why, error.next_step) from error
        raise


async def examine(
    loaded: Loaded, trouble: SettingsError | None, last: Mapping[str, Any] | None
) -> tuple[dict[str, Any], int]:
    """Look at this machine, and report."""
    from dataclasses import replace

    from guard.cli import looking, starting, wiring

    guard = loaded.guard
    if guard is None and loaded.witness is not None:
        seen = await _of_witness(loaded)
    else:
        replication = None if guard is None else wiring.replication(guard.replication.resources)
        status = None if guard is None else wiring.show(guard.paths.run, "status")
        seen = await looking.look(guard, wiring.runner(), replication, status, looking.Places())
        if guard is not None and loaded.guard_origin is not None:
            seen = replace(seen, named=await starting.of_guard(guard, loaded.guard_origin))
    return report(loaded, seen, wiring.clock().wall(), trouble, last)


def report(
    loaded: Loaded,
    seen: Facts,
    wall: float,
    trouble: SettingsError | None = None,
    last: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], int]:
    """`pairguard.check/1` of what was seen, and the exit code. Pure."""
    guard = loaded.guard
    found = [*_settings_findings(trouble), *judge(loaded, seen)]
    ladder, inverted = _timers(loaded, seen)
    found += inverted
    looks = looked(seen, found, trouble)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "site": loaded.site,
        "pair": None if guard is None else guard.pair.name,
        "node": guard.pair.node if guard is not None else ("witness" if loaded.witness is not None else "?"),
        "at": _iso(wall),
        "looks": looks,
        "findings": [each.plain() for each in found],
        "ladder": [rung.plain() for rung in ladder],
        "against": None if last is None else compared(last, [each.plain() for each in found]),
    }
    return data, code_of(looks, found) if trouble is None else GUARD


async def _of_witness(loaded: Loaded) -> Facts:
    """On the arbiter's machine there is no cluster and no DRBD: keys and the witness itself are looked at."""
    from guard.cli import starting, wiring
    from guard.cli.facts import Facts, Unseen
    from guard.errors import PairguardError

    witness = loaded.witness
    if witness is None:
        raise SettingsError("cannot check here", "no settings were read", "write /etc/pairguard/witness.toml")
    said = await wiring.bounded(wiring.show(witness.paths.run, "status"), wiring.READ_S_MAX + 1.0, "the witness")
    status = Unseen(str(said)) if isinstance(said, PairguardError) else said
    return Facts(None, None, None, None, None, None, None, status, await starting.of_witness(witness))


def judge(loaded: Loaded, seen: Facts) -> list[Finding]:
    """Every finding of everything that was seen."""
    from guard.cli import facts, findings

    guard = loaded.guard
    found: list[Finding] = []
    node, peer = (guard.pair.node, guard.pair.peer) if guard is not None else ("", "")
    corosync = seen.corosync if isinstance(seen.corosync, Mapping) else None
    sbd = seen.sbd if isinstance(seen.sbd, facts.Sbd) else None
    if isinstance(seen.cluster, facts.Cluster):
        found += findings.cluster(
            seen.cluster, *((node, peer) if guard is not None else sorted(seen.cluster.nodes)[:2])
        )
        found += findings.devices(seen.cluster, node, peer) if guard is not None else ()
    found += findings.history(seen.history) if isinstance(seen.history, tuple) else ()
    found += findings.corosync(corosync, sbd) if corosync is not None else ()
    found += findings.sbd(sbd, corosync) if sbd is not None else ()
    if isinstance(seen.replicas, facts.Replicas):
        found += [*findings.replicas(seen.replicas), *findings.handlers(seen.replicas.files)]
    found += findings.machine(seen.machine) if isinstance(seen.machine, facts.Machine) else ()
    found += findings.agents(seen.agents) if isinstance(seen.agents, Mapping) else ()
    found += _of_named(seen.named or ())
    if guard is not None:
        found += findings.settings(guard, findings.rings(corosync) if corosync is not None else ())
    if isinstance(seen.status, Mapping):
        for row in seen.status.get("pairs", ()):
            found += findings.guard(row)
    return found


def _of_named(faults: Sequence[Fault]) -> list[Finding]:
    """Files that are missing or open to others, passwords by value, example values."""
    from guard.cli.findings import Finding

    def finding(each: Fault) -> Finding:
        severity: Literal["trap", "note"] = "note" if each.code == "cleartext-password" else "trap"
        return Finding(each.code, severity, "settings", each.key, each.text, each.show, each.mend)

    return [finding(each) for each in faults if each.starts is not None]


def _settings_findings(trouble: SettingsError | None) -> list[Finding]:
    from guard.cli.findings import Finding

    if trouble is None:
        return []
    text = f"{trouble.what}: {'; '.join(line.strip() for line in trouble.why.strip().splitlines())}"
    mend = trouble.next_step or "correct the file that is named"
    return [Finding("settings", "trap", "settings", "settings", text, "pairguard check --settings", mend)]


def _timers(loaded: Loaded, seen: Facts) -> tuple[tuple[Rung, ...], list[Finding]]:
    from fencing.stock import horizon_s
    from guard.cli import ladder

    guard = loaded.guard
    either = guard or loaded.witness
    shots = {} if guard is None else {node: fence.timeout for node, fence in guard.fence.items()}
    policy = None if either is None else either.limits.policy(shots.get(guard.pair.peer) if guard is not None else None)
    horizons: dict[str, float | None] = {}
    for node, fence in guard.fence.items() if guard is not None else ():
        match fence.horizon:
            case "auto":
                horizons[node] = horizon_s(fence.delegate, fence.options)
            case "unbounded":
                horizons[node] = None
            case given:
                horizons[node] = float(given)
    found = ladder.rungs(policy, horizons, shots, seen.cluster, seen.corosync, seen.replicas, seen.machine)
    return found, list(ladder.inversions(policy, shots, seen.cluster, found))


REQUIRED = ("cluster", "fencing", "corosync", "drbd")  # what `check` must have looked at to say 0


def looked(seen: Facts, found: Sequence[Finding], trouble: SettingsError | None) -> list[dict[str, Any]]:
    """One row an area, also where all is well."""
    from guard.cli.facts import Machine, Unseen

    values = {
        "settings": seen.named,
        "cluster": seen.cluster,
        "fencing": seen.history if not isinstance(seen.agents, Unseen) else seen.agents,
        "corosync": seen.corosync,
        "sbd": seen.sbd,
        "drbd": seen.replicas,
        "machine": seen.machine,
        "guard": seen.status,
    }
    rows = []
    for area, value in values.items():
        own = [each for each in found if each.area == area]
        why = value.why if isinstance(value, Unseen) else None
        if area == "machine" and isinstance(value, Machine) and isinstance(value.cgroup, Unseen):
            why = value.cgroup.why
        if area == "settings" and (closed := [each.key for each in seen.named or () if each.starts is None]):
            why = f"closed to this user, run it as root: {', '.join(closed)}"
        if value is None and area == "settings" and trouble is not None:
            state = "found"
        elif value is None:
            state = "not here"
        else:
            bad = any(each.severity == "trap" for each in own)
            state = "found" if bad else ("unseen" if why is not None else "ok")
        counts = {s: sum(each.severity == s for each in own) for s in ("trap", "note")}
        rows.append({"area": area, "state": state, "traps": counts["trap"], "notes": counts["note"], "why": why})
    own = [each for each in found if each.area == "timers"]
    traps = sum(each.severity == "trap" for each in own)
    row = {
        "area": "timers",
        "state": "found" if traps else "ok",
        "traps": traps,
        "notes": len(own) - traps,
        "why": None,
    }
    return [*rows, row]


def code_of(looks: Sequence[Mapping[str, Any]], found: Sequence[Finding]) -> int:
    """81 with a trap; 85 where nothing at all, or not all that must be, could be looked at: unseen is never fine."""
    required = [row for row in looks if row["area"] in REQUIRED and row["state"] != "not here"]
    blind = [row for row in required if row["why"] is not None]
    if required and len(blind) == len(required):
        return UNVERIFIED
    if any(each.severity == "trap" for each in found):
        return DENY
    return UNVERIFIED if blind else GO


def _last(path: Path) -> Mapping[str, Any]:
    from guard import documents

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unreadable(
            f"cannot read {path}", documents.why(error), "save one: pairguard check --json > FILE"
        ) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise Unreadable(f"cannot compare with {path}", f"it is no {SCHEMA}", "save one: pairguard check --json > FILE")
    return found


def compared(last: Mapping[str, Any], now: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What is new and what is gone since `last`. A finding of an area that cannot be seen now is not gone."""

    def name(finding: Mapping[str, Any]) -> tuple[str, str, str]:
        return str(finding.get("area")), str(finding.get("code")), str(finding.get("subject"))

    before = {name(each): each for each in last.get("findings", ())}
    present = {name(each): each for each in now}
    new = [dict(each) for key, each in present.items() if key not in before]
    gone = [dict(each) for key, each in before.items() if key not in present]
    return {"at": last.get("at"), "new": new, "gone": gone}


def _iso(wall: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")


# ------------------------------------------------------------------ for people


def text_of(data: Mapping[str, Any]) -> str:
    """Findings first, then one row an area, then the ladder. At most 80 columns."""
    from guard.cli.render import table, when, wrapped

    name = data["pair"] or data["site"]
    lines = [f"{name} on {data['node']}, {when(data['at'])}"]
    for severity in ("trap", "note"):
        for each in data["findings"]:
            if each["severity"] == severity:
                lines += _finding(each)
    rows = [
        (row["area"], row["state"].upper() if row["state"] == "found" else row["state"], row["traps"], row["notes"])
        for row in data["looks"]
    ]
    lines += ["", table(("AREA", "STATE", "TRAPS", "NOTES"), rows)]
    for row in data["looks"]:
        if row["why"] is not None:
            lines.append(wrapped(f"{row['area']}: could not look: {row['why']}", hang=2))
    rungs = [(_seconds(r["s"]), r["name"], r["source"]) for r in data["ladder"]]
    lines += ["", "timer ladder, shortest first:", table(("TIME", "TIMER", "SOURCE"), rungs, indent="  ")]
    if data["against"] is not None:
        against = data["against"]
        lines += ["", f"since {when(against['at'])}: {len(against['new'])} new, {len(against['gone'])} gone"]
        for word, found in (("new", against["new"]), ("gone", against["gone"])):
            lines += [wrapped(f"{word}: {f['area']} {f['subject']}: {f['text']}", indent="  ", hang=4) for f in found]
    return "\n".join(lines)


def _seconds(value: object) -> str:
    """A rung in plain seconds: rounded, 880 s and 900 s would look alike."""
    return f"{value:g} s" if isinstance(value, int | float) else str(value or "?")


def _finding(each: Mapping[str, str]) -> list[str]:
    from guard.cli.render import wrapped

    return [
        "",
        wrapped(f"{each['severity'].upper()} {each['area']} {each['subject']}: {each['text']}", hang=5),
        wrapped(f"show: {each['show']}", indent="     ", hang=6),
        wrapped(f"mend: {each['mend']}", indent="     ", hang=6),
    ]


# ------------------------------------------------------------------ --settings


async def settings_data(loaded: Loaded) -> dict[str, Any]:
    """`pairguard.settings/1`: every value as it is written, with the file it came from; no secret.

    `faults`: what is wrong with what they name; `starts` false: the program ends at once with these settings.
    """
    from dataclasses import asdict

    from guard.cli.values import written

    parts = []
    for program, found, origin in (
        ("pairguardd", loaded.guard, loaded.guard_origin),
        ("pairguard-witness", loaded.witness, loaded.witness_origin),
    ):
        if found is not None and origin is not None:
            values = [
                {"key": key, "value": value, "from": _from(key, origin.key_of)}
                for key, value in _leaves(written(found))
            ]
            files = [str(file) for file in origin.files]
            faults = [asdict(fault) for fault in await _faults(found, origin)]
            parts.append({"program": program, "files": files, "values": values, "faults": faults})
    return {"schema": "pairguard.settings/1", "programs": parts}


async def _faults(found: GuardSettings | WitnessSettings, origin: Origin) -> tuple[Fault, ...]:
    from guard.cli import starting
    from guard.settings import GuardSettings

    if isinstance(found, GuardSettings):
        return await starting.of_guard(found, origin)
    return await starting.of_witness(found)


def _leaves(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            found += _leaves(value, f"{name}.")
        elif any(word in key.lower() for word in HIDDEN) and not key.endswith(("_file", "_script")):
            found.append((name, "(hidden)"))
        else:
            found.append((name, value))
    return found


def _from(key: str, key_of: Mapping[str, Path]) -> str:
    """The file that wrote this very value; `default` if none did. A list of tables is from one file as a whole."""
    return str(key_of[key]) if key in key_of else "default"


def _settings_text(data: Mapping[str, Any]) -> str:
    from guard.cli.render import table, wrapped

    lines = []
    for part in data["programs"]:
        lines += [f"{part['program']}: {_said(part['faults'])}", *(wrapped(f"  {file}") for file in part["files"])]
        for fault in part["faults"]:
            lines += ["", wrapped(f"{fault['key']}: {fault['text']}", hang=5)]
            lines += [wrapped(f"{word}: {fault[word]}", indent="     ", hang=6) for word in ("show", "mend")]
        rows = [(v["key"], _shown(v["value"]), _short(v["from"], part["files"])) for v in part["values"]]
        lines += ["", table(("KEY", "VALUE", "FROM"), rows), ""]
    return "\n".join(lines).rstrip()


def _said(faults: Sequence[Mapping[str, Any]]) -> str:
    starts = [fault["starts"] for fault in faults]
    if False in starts:
        return "DOES NOT START with these settings:"
    if None in starts:
        return "not known whether it starts, for not all could be seen:"
    return "it starts, but what the settings name is not in order:" if faults else "the settings are valid"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(source: str, files: Sequence[str]) -> str:
    """The file's name where that is enough to know it."""
    names = [Path(file).name for file in files]
    return Path(source).name if names.count(Path(source).name) == 1 else source
