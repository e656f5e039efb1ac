"""The timer ladder: every timeout of network, cluster, DRBD and guard in one order, and each pair that stands wrong.

The network's own waits stand beside those that must outlast them (or fall within them). An inversion that makes the
guard fail is a *trap*; one that only tells which party notices first, and that the hold is there to survive, a *note*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fencing.manifest import WAIT_S
from guard.adapters.drbd_config import Section
from guard.cli.facts import INFINITY, Cluster, Machine, Replicas, Unseen, seconds
from guard.cli.findings import AGENT, PROPERTY, Finding

if TYPE_CHECKING:
    from guard.core.policy import Policy

MLAG_WAIT_S = 5.0  # a switch whose MLAG agent died waits this long before it goes stand-alone (GitHub, 2012)
LINK_WAIT_S = 2.0  # the normal path: it waits this long for the link to drop (the same report)
LACP_SHORT_S, LACP_LONG_S = 3.0, 90.0  # three periods of 1 s and 30 s (IEEE 802.1AX, 6.4.4)
STP_S = 30.0  # listening and learning, 2 x forward_delay of 15 s (IEEE 802.1D-2004, table 17-1)
MAX_AGE_S = 20.0  # a bridge believes a silent root this long; 40 s at most (IEEE 802.1D-2004, table 17-1)
PROBE_S = 0.4  # silence of all ring addresses that the guard's probe reports (DESIGN.md section 6, Storm)
FENCING_S = 60.0  # Pacemaker's default of stonith-timeout (pacemaker-schedulerd.7)
CONSENSUS_FACTOR = 1.2  # corosync.conf.5: consensus must be at least 1.2 x token


@dataclass(frozen=True, slots=True)
class Rung:
    """One timer. `s` None: not known here; infinity: unbounded."""

    name: str
    s: float | None
    source: str

    def plain(self) -> dict[str, object]:
        shown = "unbounded" if self.s == INFINITY else self.s
        return {"name": self.name, "s": shown, "source": self.source}


def rungs(
    policy: Policy | None,
    horizons: Mapping[str, float | None],
    shots: Mapping[str, float],
    cluster: Cluster | Unseen | None,
    corosync: Mapping[str, str] | Unseen | None,
    replicas: Replicas | Unseen | None,
    machine: Machine | Unseen | None,
) -> tuple[Rung, ...]:
    """All timers, shortest first, those not known last. `horizons` and `shots`: H and T_shot of each node's device."""
    found = [
        Rung("switch: link drop", LINK_WAIT_S, "GitHub 2012"),
        Rung("switch: MLAG peer wait", MLAG_WAIT_S, "GitHub 2012"),
        Rung("LACP short", LACP_SHORT_S, "IEEE 802.1AX"),
        Rung("LACP long", LACP_LONG_S, "IEEE 802.1AX"),
        Rung("STP max_age", MAX_AGE_S, "IEEE 802.1D"),
        Rung("STP 2 x forward_delay", STP_S, "IEEE 802.1D"),
        Rung("probe silence", PROBE_S, "guard"),
    ]
    if policy is not None:
        alone = INFINITY if policy.alone_under_hold_s is None else policy.alone_under_hold_s
        own = (("T_corr", policy.corr_s), ("T_accept", policy.accept_s), ("T_fire", policy.fire_s))
        found += [Rung(name, s, "limits") for name, s in own]
        rest = (("alone_under_hold", alone), ("settle", policy.settle_s), ("T_cold", policy.cold_s))
        found += [Rung(name, s, "limits") for name, s in rest]
    found += [Rung(f"T_shot({node})", s, f"fence.{node}") for node, s in sorted(shots.items())]
    found += [Rung(f"H({node})", INFINITY if h is None else h, f"fence.{node}") for node, h in sorted(horizons.items())]
    if not isinstance(corosync, Unseen) and corosync is not None:
        found += [Rung("corosync token", _ms(corosync, "token"), "corosync")]
        found += [Rung("corosync consensus", _ms(corosync, "consensus"), "corosync")]
    if isinstance(cluster, Cluster):
        timeout = seconds(cluster.property("stonith-timeout") or f"{FENCING_S:g}")
        found.append(Rung("stonith-timeout", timeout, "CIB" if cluster.property("stonith-timeout") else "default"))
        for device in cluster.devices:
            for option in ("pcmk_off_timeout", "pcmk_reboot_timeout"):
                if (value := device.seconds(option)) is not None:
                    found.append(Rung(f"{option}({device.id})", value, "CIB"))
            if device.agent == AGENT:
                found.append(Rung(f"wait_s({device.id})", wait_s(device.options), "CIB"))
    if isinstance(replicas, Replicas):
        for name, kernel in sorted(replicas.kernel.items()):
            found.append(Rung(f"DRBD ping ({name})", None if isinstance(kernel, Unseen) else ping_s(kernel), "kernel"))
    if isinstance(machine, Machine):
        for name in machine.bonds:
            slow = name in machine.slow_bonds
            found.append(Rung(f"LACP of {name}", LACP_LONG_S if slow else LACP_SHORT_S, "bond"))
    return tuple(sorted(found, key=lambda rung: (rung.s is None, rung.s or 0.0, rung.name)))


def wait_s(options: Mapping[str, str]) -> float | None:
    """`wait_s` of the agent; its own default where it is not set; None = not readable."""
    return seconds(options.get("wait_s", str(WAIT_S)))


def ping_s(kernel: Section) -> float | None:
    """ping-int (seconds) plus ping-timeout (tenths) of the running resource: how long a dead peer is not noticed."""
    nets = [net for block in kernel.deep() for net in block.sections("net")]
    interval = next((v for net in nets if (v := net.value("ping-int")) is not None), None)
    timeout = next((v for net in nets if (v := net.value("ping-timeout")) is not None), None)
    if interval is None or timeout is None or not interval.isdecimal() or not timeout.isdecimal():
        return None
    return int(interval) + int(timeout) / 10


def inversions(
    policy: Policy | None,
    shots: Mapping[str, float],
    cluster: Cluster | Unseen | None,
    ladder: tuple[Rung, ...],
) -> Iterator[Finding]:
    """Each pair of timers that stands the wrong way round."""
    by_name = {rung.name: rung.s for rung in ladder}
    yield from _network(by_name)
    if policy is not None and policy.settle_s <= MAX_AGE_S:
        text = (
            f"settle {policy.settle_s:g} s <= {MAX_AGE_S:g} s of spanning tree's max_age: a tree that lost its root is"
            " silent for that long, and the hold is released in the middle of the change"
        )
        yield _timer("settle<max_age", "trap", "limits.settle", text, 'limits.settle = "60s" in pairguard.toml')
    elif policy is not None and policy.settle_s < STP_S:
        text = (
            f"settle {policy.settle_s:g} s < {STP_S:g} s of spanning tree: a hold may be released into the next block"
        )
        yield _timer("settle<stp", "note", "limits.settle", text, 'limits.settle = "60s" in pairguard.toml')
    if isinstance(cluster, Cluster):
        yield from _agent(policy, shots, cluster)


def _network(by_name: Mapping[str, float | None]) -> Iterator[Finding]:
    token, consensus = by_name.get("corosync token"), by_name.get("corosync consensus")
    if token is None:
        return
    widen = "corosync.conf, totem: `token: 10000`; death is then noticed later. Or leave it: the guard holds"
    for name, s in (("MLAG peer wait", MLAG_WAIT_S), ("link-drop wait", LINK_WAIT_S), ("LACP short", LACP_SHORT_S)):
        if token < s:
            text = f"token {token:g} s < the switch's {name} {s:g} s: a failover of the switch looks like a death"
            yield _timer(f"token<{name}", "note", "totem.token", text, widen)
    if consensus is not None and consensus < CONSENSUS_FACTOR * token - 1e-9:
        text = f"consensus {consensus:g} s < 1.2 x token {token:g} s: membership forms and breaks"
        yield _timer("consensus<token", "trap", "totem.consensus", text, "corosync.conf, totem: drop `consensus:`")
    for name, ping in by_name.items():
        if name.startswith("DRBD ping") and ping is not None and ping > token:
            text = f"{name} {ping:g} s > token {token:g} s: membership is lost before replication is known to be"
            yield _timer("ping>token", "note", name, text, "drbd.conf, net: `ping-int 1;` then: drbdadm adjust all")


def _agent(policy: Policy | None, shots: Mapping[str, float], cluster: Cluster) -> Iterator[Finding]:
    """Pacemaker's patience, the agent's, and what a shot takes. An agent that is killed has proven nothing."""
    overall = seconds(cluster.property("stonith-timeout") or f"{FENCING_S:g}")
    shot_s = max(shots.values(), default=None)
    if overall is not None and shot_s is not None and overall < shot_s:
        text = f"stonith-timeout {overall:g} s < T_shot {shot_s:g} s: Pacemaker gives up before the shot ends"
        mend = PROPERTY.format("stonith-timeout", "900s")
        yield _timer("stonith-timeout<shot", "trap", "stonith-timeout", text, mend)
    for device in cluster.devices:
        if device.agent != AGENT:
            continue
        waits = wait_s(device.options)
        if waits is None:
            text = f"wait_s {device.options.get('wait_s')!r} is no duration"
            yield _timer("wait-unreadable", "trap", device.id, text, _set(device.id, "wait_s", "880"))
            continue
        for option in ("pcmk_off_timeout", "pcmk_reboot_timeout"):
            patience = device.seconds(option)
            limit, name = (overall, "stonith-timeout") if patience is None else (patience, option)
            if limit is not None and waits >= limit:
                text = f"wait_s {waits:g} s >= {name} {limit:g} s: Pacemaker kills the agent before it answers"
                yield _timer(f"wait>={option}", "trap", device.id, text, _set(device.id, option, f"{waits + 20:g}s"))
        if policy is not None and shot_s is not None:
            needs = policy.accept_s + policy.fire_s + shot_s + policy.readback_gap_alone_s + policy.wait_margin_s
            if waits < needs:
                text = (
                    f"wait_s {waits:g} s < {needs:g} s that a claim, T_shot and its read-back take: it ends too early"
                )
                yield _timer("wait<shot", "trap", device.id, text, _set(device.id, "wait_s", "880"))
        if waits < LACP_LONG_S:
            text = (
                f"wait_s {waits:g} s is shorter than a freeze of {LACP_LONG_S:g} s: it ends with 1 in the middle of it"
            )
            yield _timer("wait<freeze", "note", device.id, text, _set(device.id, "wait_s", "880"))


def _set(device: str, option: str, value: str) -> str:
    return f"crm_resource -r {device} -p {option} -v {value}"


def _timer(code: str, severity: Literal["trap", "note"], subject: str, text: str, mend: str) -> Finding:
    if subject.startswith("totem."):
        show = f"corosync-cmapctl runtime.config.{subject}"
    elif subject.startswith("limits."):
        show = "pairguard check --settings"
    elif subject.startswith("DRBD"):
        show = "drbdsetup show --show-defaults"
    else:
        show = "cibadmin -Q -o resources" if subject != "stonith-timeout" else "cibadmin -Q -o crm_config"
    return Finding(code, severity, "timers", subject, text, show, mend)


def _ms(corosync: Mapping[str, str], name: str) -> float | None:
    """A totem timer as it runs, else as configured; in seconds."""
    value = corosync.get(f"runtime.config.totem.{name}", corosync.get(f"totem.{name}"))
    return int(value) / 1000 if value is not None and value.isdecimal() else None
