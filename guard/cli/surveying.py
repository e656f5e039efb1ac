"""Makes the survey of this node: what its settings say and what the parsers of `check` read, each with its source.

What could not be read is UNKNOWN with the reason, and what no program can read (where a path runs) as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fencing.stock import horizon_s
from guard.cli import facts, ladder
from guard.cli.facts import Cluster, Facts, Replicas, Unseen
from guard.cli.findings import AGENT
from guard.cli.wiring import Loaded
from guard.core.evidence import GateFacts
from guard.errors import SettingsError
from guard.settings import Fence, GuardSettings, SwitchSettings
from guard.survey import UNBOUNDED, Fact, Survey, Value

UNTOLD = "no program can read where it runs: say it in a file for --said"
ELSEWHERE = "only {} itself can read it: put a survey made there beside this one"
Found = tuple[str, Value | None, str, str]
"""Key, value, source, and why there is none."""


async def survey(loaded: Loaded) -> Survey:
    """This node's own, read now. `SettingsError` on a machine that is no node of a pair."""
    from guard.cli import looking, wiring

    guard = loaded.guard
    if guard is None:
        why = "this machine has no guard's settings: it is no node of a pair"
        raise SettingsError("cannot survey this machine", why, "give surveys of the nodes: --site FILE --site FILE")
    replication = wiring.replication(guard.replication.resources)
    seen = await looking.of_site(guard, wiring.runner(), replication, wiring.show(guard.paths.run, "status"))
    return surveyed(guard, seen, wiring.clock().wall())


def surveyed(guard: GuardSettings, seen: Facts, wall: float) -> Survey:
    """From what was looked at, at `wall` (seconds since 1970). Pure."""
    at = datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")
    found = (*_settings(guard), *_status(guard, seen), *_corosync(guard, seen), *_drbd(guard, seen))
    found = (*found, *_fencing(guard, seen))
    return Survey(guard.site, (guard.pair.node,), {key: Fact(v, source, at, why) for key, v, source, why in found})


# ------------------------------------------------------------------ the settings


def _settings(guard: GuardSettings) -> Iterator[Found]:
    pair = f"pair.{guard.pair.name}"
    source = "settings"
    yield f"{pair}.nodes", tuple(sorted((guard.pair.node, guard.pair.peer))), f"{source} pair", ""
    yield f"{pair}.cell", guard.pair.cell, f"{source} pair.cell", ""
    yield f"{pair}.resources", tuple(sorted(guard.replication.resources)), f"{source} replication.resources", ""
    yield "arbiter.address", guard.bus.host, f"{source} bus.host", ""
    yield "arbiter.path", None, "nobody", UNTOLD
    for name, value in sorted(guard.limits.model_dump().items()):
        yield f"limits.{name}", value if isinstance(value, str) else float(value), f"{source} limits.{name}", ""
    for switch in guard.switch:
        yield from _switch(guard, switch)
    for node in (guard.pair.node, guard.pair.peer):
        yield from _device(node, guard.fence.get(node))


def _switch(guard: GuardSettings, switch: SwitchSettings) -> Iterator[Found]:
    peers = None if switch.peer_link is None else (switch.peer_link,)
    why = "the settings name no peer_link: say [] with --said if it has no MLAG peer" if peers is None else ""
    yield f"switch.{switch.name}.peers", peers, f"settings switch {switch.name}.peer_link", why
    owners = {"ours": guard.pair.node, "peer": guard.pair.peer}
    for port in switch.ports:
        name = port.name.replace(" ", "_")
        yield f"switch.{switch.name}.port.{name}", owners.get(port.owner, port.owner), "settings switch.ports", ""


def _device(node: str, fence: Fence | None) -> Iterator[Found]:
    source, why = f"settings fence.{node}", ""
    if fence is None:
        source, why = "nobody", "the settings of this node have no fence device of it: the peer's have"
    yield f"fence.{node}.delegate", None if fence is None else fence.delegate, source, why
    yield f"fence.{node}.timeout_s", None if fence is None else fence.timeout, source, why
    yield f"fence.{node}.horizon_s", None if fence is None else _horizon(fence), source, why
    yield f"fence.{node}.path", None, "nobody", UNTOLD


def _horizon(fence: Fence) -> Value:
    match fence.horizon:
        case "auto":
            found = horizon_s(fence.delegate, fence.options)
            return UNBOUNDED if found is None else found
        case "unbounded":
            return UNBOUNDED
        case given:
            return float(given)


# ------------------------------------------------------------------ what runs


def _status(guard: GuardSettings, seen: Facts) -> Iterator[Found]:
    key, source = f"pair.{guard.pair.name}.preferred", "pairguardd status"
    if not isinstance(seen.status, Mapping):
        yield key, None, source, _why(seen.status)
        return
    rows = [row for row in seen.status.get("pairs", ()) if row.get("pair") == guard.pair.name]
    register: Mapping[str, Any] = (rows[0].get("register") or {}) if rows else {}
    named = register.get("preferred")
    known = named in (guard.pair.node, guard.pair.peer)
    yield key, named if known else None, source, "" if known else "the guard has not heard the register"


def _corosync(guard: GuardSettings, seen: Facts) -> Iterator[Found]:
    for name in ("token", "consensus"):
        key, source = f"pair.{guard.pair.name}.{name}_s", f"corosync-cmapctl totem.{name}"
        if not isinstance(seen.corosync, Mapping):
            yield key, None, source, _why(seen.corosync)
            continue
        found = seen.corosync.get(f"runtime.config.totem.{name}", seen.corosync.get(f"totem.{name}", ""))
        known = found.isdecimal()
        yield key, int(found) / 1000 if known else None, source, "" if known else f"corosync says {found!r}"


def _drbd(guard: GuardSettings, seen: Facts) -> Iterator[Found]:
    for name in sorted(guard.replication.resources):
        yield from _timers(f"pair.{guard.pair.name}.drbd.{name}", name, seen.replicas)
        gates = seen.replicas.gates if isinstance(seen.replicas, Replicas) else {}
        yield from _gate(f"node.{guard.pair.node}.gate.{name}", gates.get(name), _why(seen.replicas))
        yield from _gate(f"node.{guard.pair.peer}.gate.{name}", None, ELSEWHERE.format(guard.pair.peer))


def _timers(above: str, name: str, replicas: Replicas | Unseen | None) -> Iterator[Found]:
    kernel = replicas.kernel.get(name) if isinstance(replicas, Replicas) else replicas
    source = f"drbdsetup show {name}"
    if kernel is None or isinstance(kernel, Unseen):
        for word in ("ping_s", "timeout_s", "connect_s"):
            yield f"{above}.{word}", None, source, _why(kernel)
        return
    nets = [net for block in kernel.deep() for net in block.sections("net")]

    def said(option: str, unit: float) -> float | None:
        found = next((value for net in nets if (value := net.value(option)) is not None), None)
        return int(found) * unit if found is not None and found.isdecimal() else None

    rows = (
        ("ping_s", ladder.ping_s(kernel)),
        ("timeout_s", said("timeout", 0.1)),
        ("connect_s", said("connect-int", 1)),
    )
    for word, value in rows:
        rounded = None if value is None else round(value, 3)
        yield f"{above}.{word}", rounded, source, "" if value is not None else "the kernel does not say it"


def _gate(above: str, gate: GateFacts | None, why: str) -> Iterator[Found]:
    for name in ("protocol", "fencing", "handler_ours", "on_congestion"):
        value: str | bool | None = None if gate is None else getattr(gate, name)
        missing = why if gate is None else "neither the files nor the kernel prove it"
        yield f"{above}.{name}", value, "drbdadm dump, drbdsetup show", "" if value is not None else missing


def _fencing(guard: GuardSettings, seen: Facts) -> Iterator[Found]:
    overall, source = None, "cibadmin -Q"
    if isinstance(seen.cluster, Cluster):
        text = seen.cluster.property("stonith-timeout")
        source = "cibadmin -Q" if text else "Pacemaker's default (pacemaker-schedulerd.7)"
        overall = _bounded(facts.seconds(text or f"{ladder.FENCING_S:g}"))
    why = "" if overall is not None else _why(seen.cluster)
    yield f"pair.{guard.pair.name}.stonith_timeout_s", overall, source, why
    for node in (guard.pair.node, guard.pair.peer):
        yield from _agent(node, seen.cluster, overall)


def _agent(node: str, cluster: Cluster | Unseen | None, overall: Value | None) -> Iterator[Found]:
    """How patient Pacemaker is with the agent that would shoot `node`, and how long it waits before."""
    above = f"fence.{node}"
    devices = cluster.devices if isinstance(cluster, Cluster) else ()
    own = [d for d in devices if d.agent == AGENT and node in (d.targets() or ())]
    if not own:
        why = "no fence_pairguard device names this node" if isinstance(cluster, Cluster) else _why(cluster)
        for word in ("wait_s", "off_timeout_s", "delay_s"):
            yield f"{above}.{word}", None, "cibadmin -Q", why
        return
    device = own[0]
    source = f"cibadmin -Q, {device.id}"
    off = device.seconds("pcmk_off_timeout")
    delays = [device.seconds(option) for option in ("pcmk_delay_base", "pcmk_delay_max") if option in device.options]
    delay = None if None in delays else sum(each for each in delays if each is not None)
    for word, value in (
        ("wait_s", _bounded(ladder.wait_s(device.options))),
        ("off_timeout_s", overall if "pcmk_off_timeout" not in device.options else _bounded(off)),
        ("delay_s", _bounded(delay)),
    ):
        yield f"{above}.{word}", value, source, "" if value is not None else "the cluster's value is no duration"


def _bounded(value: float | None) -> Value | None:
    return UNBOUNDED if value == facts.INFINITY else value


def _why(seen: object) -> str:
    return seen.why if isinstance(seen, Unseen) else "it is not on this machine"
