"""The traps that can silently defeat the guard, each a pure function of what was seen.

Every finding says what, why, how to see it and how to mend it. A *trap* makes `check` end with 81; a *note* is to be
known. Sources: DESIGN.md, sections 4 to 8; a number names where it comes from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from guard.adapters.cib import BOOTSTRAP_SET, HOLD_SET, our_hold, purge_marks
from guard.adapters.drbd_config import CONGESTION, FENCING, HANDLER, PROTOCOL, Section
from guard.cli.facts import INFINITY, OWN_AGENT, Cluster, Machine, Replicas, Sbd, seconds
from guard.cli.named import is_example
from guard.cli.status import GATE_OFF
from guard.core.evidence import GateFacts, PendingShot

if TYPE_CHECKING:
    from guard.settings import GuardSettings

AGENT = "fence_pairguard"
FREEZE_S = 90.0  # the network freeze that this product is for: 1.5 minutes of blocked traffic (GitHub, 2012)
HANDLER_S_MIN = 3600.0  # a handler may have to block for as long as a change lasts
IGNORED = "on-fail=ignore: a stop that failed counts as done, and the service may run twice"
PROPERTY = "crm_attribute -t crm_config -n {0} -v {1}"
SHOW = "crm_attribute -t crm_config -n {0} -G"


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` and `subject` together name it from one run to the next."""

    code: str
    severity: Literal["trap", "note"]
    area: str
    subject: str
    text: str
    show: str
    mend: str

    def plain(self) -> dict[str, str]:
        """As in `pairguard.check/1`."""
        names = ("code", "severity", "area", "subject", "text", "show", "mend")
        return {name: getattr(self, name) for name in names}


# ------------------------------------------------------------------ Pacemaker


def cluster(seen: Cluster, node: str, peer: str) -> Iterator[Finding]:
    """Properties, nodes, maintenance that does not brake, and what others left behind. Names are "" if not known."""

    def trap(code: str, subject: str, text: str, show: str, mend: str) -> Finding:
        return Finding(code, "trap", "cluster", subject, text, show, mend)

    def note(code: str, subject: str, text: str, show: str, mend: str) -> Finding:
        return Finding(code, "note", "cluster", subject, text, show, mend)

    fencing = "fencing" if "fencing-enabled" in seen.properties else "stonith"
    if seen.on("stonith-enabled") is False:
        text = "fencing is off: the cluster takes over without switching the peer off, and both may run"
        name = f"{fencing}-enabled"
        yield trap("fencing-off", name, text, SHOW.format(name), PROPERTY.format(name, "true"))
    if node and seen.nodes != {node, peer}:
        text = f"the cluster's nodes are {_list(seen.nodes)}; the settings name {_list((node, peer))}"
        yield trap("other-nodes", "nodes", text, "crm_node -l", "correct [pair] in pairguard.toml, or the cluster")
    policy = seen.property("no-quorum-policy")
    if policy == "ignore":
        text = "no-quorum-policy=ignore: a node cut off from everybody goes on and may fence"
        name = "no-quorum-policy"
        yield trap("quorum-ignored", name, text, SHOW.format(name), PROPERTY.format(name, "stop"))
    if seen.on("startup-fencing") is False:
        text = "startup-fencing=false: a node that was never seen counts as off, and both may start alone"
        name = "startup-fencing"
        yield trap("no-startup-fencing", name, text, SHOW.format(name), PROPERTY.format(name, "true"))
    watchdog = seconds(seen.property("stonith-watchdog-timeout") or "0")
    if watchdog is None or watchdog != 0:
        text = "Pacemaker takes an unseen node for dead after this time, without any evidence and without the guard"
        name = f"{fencing}-watchdog-timeout"
        yield trap("watchdog-believed", name, text, SHOW.format(name), PROPERTY.format(name, "0"))
    attempts = seconds(seen.property("stonith-max-attempts") or "10")
    if any(d.agent == AGENT for d in seen.devices) and attempts != INFINITY:
        shown = "10, the default" if seen.property("stonith-max-attempts") is None else f"{attempts:g}"
        text = (
            f"after {shown} refusals Pacemaker gives a dead peer up; refusals during a freeze are still counted later"
        )
        name = f"{fencing}-max-attempts"
        yield trap("attempts-capped", name, text, SHOW.format(name), PROPERTY.format(name, "INFINITY"))
    yield from _maintenance(seen, trap, note)
    yield from _left_over(seen, trap, note)
    for pair in seen.root.iterfind("configuration//nvpair"):
        if pair.get("name") == "on-fail" and pair.get("value") == "ignore":
            yield trap("stop-ignored", pair.get("id", "?"), IGNORED, "cibadmin -Q", _drop(pair.get("id", "?")))
    for operation in seen.root.iterfind("configuration/resources//op"):
        if operation.get("name") == "stop" and operation.get("on-fail") == "ignore":
            name = operation.get("id", "?")
            yield trap("stop-ignored", name, IGNORED, "cibadmin -Q", f"set on-fail=fence at the operation {name}")
    users = [e.get("id", "?") for e in seen.root.iterfind("configuration/resources//primitive") if _is_dlm(e)]
    for user in users:
        text = "DLM asks the fencer by itself, past every hold and every right"
        yield trap("dlm", user, text, f"crm_resource -r {user} -q", "keep DLM (GFS2, OCFS2, clvmd) off this pair")
    features = {
        state.get("uname", "?"): pair.get("value")
        for state in seen.root.iterfind("status/node_state")
        for pair in state.iterfind("transient_attributes//nvpair")
        if pair.get("name") == "#feature-set"
    }
    if len(set(features.values())) > 1:
        text = f"the nodes run different feature sets: {', '.join(f'{n} {v}' for n, v in sorted(features.items()))}"
        yield trap("mixed-versions", "feature-set", text, "crm_mon -1 -n", "bring both nodes to one Pacemaker version")


def _maintenance(seen: Cluster, trap: Any, note: Any) -> Iterator[Finding]:
    """Only cluster-wide maintenance stops fencing; one hides ours, the other looks like it and does not."""
    show = "cibadmin -Q -o crm_config"
    for properties in seen.root.iterfind("configuration/crm_config/cluster_property_set"):
        name = properties.get("id", "?")
        for pair in properties.iterfind("nvpair"):
            if pair.get("name") != "maintenance-mode" or name == HOLD_SET:
                continue
            value = pair.get("value", "")
            mend = _drop(pair.get("id", "?"))
            if name == BOOTSTRAP_SET and value.lower() == "false":
                text = "an explicit maintenance-mode=false hides our hold; the guard removes it when it first holds"
                yield note("maintenance-default", name, text, show, mend)
            elif name == BOOTSTRAP_SET:
                text = f"a person set maintenance-mode={value}; the guard will not take it back"
                yield note("maintenance-by-person", name, text, show, "crm_attribute -n maintenance-mode -D")
            else:
                text = f"a second property set says maintenance-mode={value} and may hide ours"
                yield trap("maintenance-hidden", name, text, show, mend)
    places = [
        *((n.get("uname", "?"), n) for n in seen.root.iterfind("configuration/nodes/node")),
        *((r.get("id", "?"), r) for r in seen.root.iterfind("configuration/resources//*[@id]")),
    ]
    for name, element in places:
        direct = [*element.iterfind("instance_attributes/nvpair"), *element.iterfind("meta_attributes/nvpair")]
        if any(p.get("name") == "maintenance" and p.get("value", "").lower() in ("true", "on", "1") for p in direct):
            text = (
                "maintenance of one node or resource does not stop fencing: the peer is shot while anything is managed"
            )
            mend = f"pairguard hold --for 30m --reason TEXT; then: crm_attribute -N {name} -n maintenance -D"
            yield trap("maintenance-partial", name, text, "crm_mon -1 -n", mend)


def _left_over(seen: Cluster, trap: Any, note: Any) -> Iterator[Finding]:
    for rule in seen.root.iterfind("configuration/constraints/*"):
        name = rule.get("id", "")
        if name.startswith("drbd-fence-by-handler-"):
            text = "left over from DRBD's own fence-peer handler: it forbids promotion for ever"
            mend = f"cibadmin --delete --xpath \"//rsc_location[@id='{name}']\"  # once the disks are UpToDate"
            yield trap("left-over-constraint", name, text, "cibadmin -Q -o constraints", mend)
    if our_hold(seen.root) is None:
        for name in purge_marks(seen.root):
            text = "stopped by a purge of ours, and no hold stands: this device cannot fence"
            mend = "systemctl restart pairguardd  # it gives the device back"
            yield trap("purge-mark", name, text, f"crm_resource -r {name} -q", mend)


def _drop(nvpair: str) -> str:
    return f"cibadmin --delete --xpath \"//nvpair[@id='{nvpair}']\""


def _is_dlm(element: Any) -> bool:
    return element.get("type") in ("controld", "dlm", "dlm_controld") and element.get("class") != "stonith"


def devices(seen: Cluster, node: str, peer: str) -> Iterator[Finding]:
    """Fence devices that fire without a right, that are missing, or that race."""
    ours = [d for d in seen.devices if d.agent == AGENT]
    others = [d for d in seen.devices if d.agent != AGENT]
    levels = {
        name: level.get("index", "?")
        for level in seen.root.iterfind("configuration/fencing-topology/fencing-level")
        for name in level.get("devices", "").split(",")
    }
    for device in others:
        where = f" (topology level {levels[device.id]})" if device.id in levels else ""
        text = f"{device.agent}{where} fires without a right: neither a hold nor the register stops it"
        mend = (
            f"let {AGENT} run it: name it in [fence.NODE], then: cibadmin --delete --xpath \"//*[@id='{device.id}']\""
        )
        yield _device("bypass", "trap", device.id, text, mend)
    for name in sorted({node, peer} - {""}):
        if not any(name in (d.targets() or {name}) for d in ours):
            text = f"no {AGENT} device is configured for {name}: the guard is never asked to fence it"
            words = f"pcmk_host_list={name} wait_s=880 pcmk_off_timeout=900s pcmk_reboot_timeout=900s"
            yield _device("no-device", "trap", name, text, f"pcs stonith create fence-{name} {AGENT} {words}")
    for device in seen.devices:
        if device.stopped and our_hold(seen.root) is None:
            mend = f"crm_resource -r {device.id} --meta -d target-role"
            yield _device("device-stopped", "trap", device.id, "the device is stopped and cannot fence", mend)
    delays = {d.id: d.seconds("pcmk_delay_base") or 0.0 for d in others}
    if len(delays) > 1 and len(set(delays.values())) == 1:
        text = f"all delays are {next(iter(delays.values())):g} s: both nodes shoot at the same moment"
        name = others[0].id
        yield _device("equal-delays", "trap", _list(delays), text, f"crm_resource -r {name} -p pcmk_delay_base -v 10s")
    priority = seconds(seen.property("priority-fencing-delay") or "0") or 0.0
    longest = max(
        [max(d.seconds("pcmk_delay_base") or 0, d.seconds("pcmk_delay_max") or 0) for d in seen.devices] or [0]
    )
    if 0 < priority < 2 * longest:
        name = "priority-fencing-delay"
        text = f"{priority:g} s is less than twice the longest pcmk_delay ({longest:g} s): the delays cancel each other"
        mend = PROPERTY.format(name, f"{2 * longest:g}s")
        yield Finding("priority-delay", "trap", "fencing", name, text, SHOW.format(name), mend)


def _device(code: str, severity: Literal["trap", "note"], subject: str, text: str, mend: str) -> Finding:
    return Finding(code, severity, "fencing", subject, text, "cibadmin -Q -o resources", mend)


def history(shots: Sequence[PendingShot]) -> Iterator[Finding]:
    """A shot that is queued will fire, whatever is held later."""
    for shot in shots:
        text = f"{shot.action} by {shot.client} is {shot.state}: maintenance does not stop a shot that is queued"
        mend = f"pairguard hold --for 30m --reason 'pending shot at {shot.target}'  # the guard purges it"
        yield Finding(
            "pending-shot", "trap", "fencing", shot.target, text, "stonith_admin --history '*' --verbose", mend
        )


# ------------------------------------------------------------------ corosync and sbd


def corosync(seen: Mapping[str, str], sbd: Sbd | None) -> Iterator[Finding]:
    """Quorum of two nodes, the qdevice, and the rings."""

    def found(code: str, severity: Literal["trap", "note"], subject: str, text: str, mend: str) -> Finding:
        return Finding(code, severity, "corosync", subject, text, f"corosync-cmapctl {subject}", mend)

    two, wait_for_all = seen.get("quorum.two_node"), seen.get("quorum.wait_for_all")
    qdevice = "quorum.device.model" in seen
    if two == "1" and wait_for_all == "0":
        text = "two_node without wait_for_all: after a power failure each node starts alone"
        yield found("no-wait-for-all", "trap", "quorum.wait_for_all", text, _conf("quorum", "wait_for_all: 1"))
    if two != "1" and not qdevice and len(_rings(seen)) == 2:
        text = "two nodes, neither two_node nor a qdevice: the survivor has no quorum and stops its services"
        yield found("no-quorum-alone", "trap", "quorum.two_node", text, _conf("quorum", "two_node: 1"))
    if seen.get("quorum.auto_tie_breaker") == "1":
        text = "auto_tie_breaker lets the node with the lowest id go on, wherever the data is newer"
        yield found("tie-breaker", "trap", "quorum.auto_tie_breaker", text, _conf("quorum", "auto_tie_breaker: 0"))
    sync = seen.get("quorum.device.sync_timeout")
    if qdevice and sbd is not None and sbd.active:
        sync_s = int(sync) / 1000 if sync is not None and sync.isdecimal() else 30.0  # corosync-qdevice.8
        if sync_s > sbd.watchdog_s():
            text = (
                f"sync_timeout {sync_s:g} s is longer than sbd's watchdog ({sbd.watchdog_s():g} s): sbd resets the node"
            )
            mend = _conf("quorum.device", f"sync_timeout: {int(sbd.watchdog_s() * 800)}")
            yield found("qdevice-slow", "trap", "quorum.device.sync_timeout", text, mend)
    for name, rings in sorted(_rings(seen).items()):
        if len(rings) == 1:
            text = f"{name} has one ring: one failing path looks like a death of the node"
            mend = _conf("nodelist", "ring1_addr: ADDRESS")
            yield Finding("one-ring", "note", "corosync", name, text, "corosync-cmapctl nodelist.", mend)


def rings(seen: Mapping[str, str]) -> frozenset[str]:
    """Every ring address in corosync's node list."""
    return frozenset(address for found in _rings(seen).values() for address in found)


def _rings(seen: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for key in sorted(seen):
        parts = key.split(".")
        if len(parts) == 4 and parts[:2] == ["nodelist", "node"] and parts[3].startswith("ring"):
            name = seen.get(f"nodelist.node.{parts[2]}.name", parts[2])
            found.setdefault(name, []).append(seen[key])
    return {name: tuple(addresses) for name, addresses in found.items()}


def _conf(section: str, line: str) -> str:
    return f"/etc/corosync/corosync.conf, {section}: `{line}`; then: corosync-cfgtool -R"


def sbd(seen: Sbd, corosync_says: Mapping[str, str] | None) -> Iterator[Finding]:
    """sbd resets the machine by itself, past every hold."""
    if not seen.active:
        return
    two_node = corosync_says is not None and corosync_says.get("quorum.two_node") == "1"
    mend = "systemctl disable sbd  # or see the manual: sbd is outside of what the guard can hold"
    if seen.diskless() and two_node:
        text = "diskless sbd with two_node: a freeze longer than the watchdog resets both nodes, whatever is held"
        yield Finding("sbd-diskless", "trap", "sbd", seen.file, text, f"grep SBD_ {seen.file}", mend)
    if seen.watchdog_s() < FREEZE_S:
        text = f"sbd resets this node after {seen.watchdog_s():g} s; a network freeze lasted {FREEZE_S:g} s"
        mend = f"{seen.file}: SBD_WATCHDOG_TIMEOUT={FREEZE_S * 4 / 3:.0f}"
        yield Finding("sbd-short", "trap", "sbd", seen.file, text, "grep SBD_WATCHDOG_TIMEOUT " + seen.file, mend)


# ------------------------------------------------------------------ DRBD


def replicas(seen: Replicas) -> Iterator[Finding]:
    """The gate of each resource, and policies that repair by destroying."""
    common = next(seen.files.sections("common"), Section((), ()))
    for name, gate in sorted(seen.gates.items()):
        own = next(seen.files.sections("resource", name), None)
        if own is None:
            text = "the settings name it, DRBD's files do not"
            mend = "correct [replication] resources in pairguard.toml, or DRBD's files"
            yield Finding("no-resource", "trap", "drbd", name, text, f"drbdadm dump {name}", mend)
            continue
        yield from _gate(name, gate)
        if _option(own, common, "options", "quorum") not in (None, "off") and gate.fencing not in (None, "dont-care"):
            text = "fencing and quorum are both on: they work against each other (LINBIT: one or the other)"
            yield _resource("fencing-and-quorum", "trap", name, text, "options { quorum off; }")
        for option in ("after-sb-0pri", "after-sb-1pri", "after-sb-2pri", "rr-conflict"):
            word = _option(own, common, "net", option) or ""
            if word.startswith("violently"):
                text = f"{option} {word}: after a split brain the good copy may be overwritten without asking"
                yield _resource("violent-repair", "trap", f"{name} {option}", text, f"net {{ {option} disconnect; }}")
    limit = next((each.value("cmd-timeout-long") for each in seen.files.sections("global")), None)
    limit_s = seconds(limit or "0")
    show = "drbdadm dump | grep cmd-timeout-long"
    if limit_s is None or 0 < limit_s < HANDLER_S_MIN:
        text = f"drbdadm ends our handler after {limit} s; writes then stay frozen for ever"
        yield Finding("handler-cut", "trap", "drbd", "cmd-timeout-long", text, show, _global(86400))
    elif limit_s == 0:
        text = "not set: no limit with drbd-utils of today (a defect since 2015), 600 s once that is mended"
        yield Finding("handler-limit-unset", "note", "drbd", "cmd-timeout-long", text, show, _global(86400))


def _global(limit: int) -> str:
    return f"/etc/drbd.d/global_common.conf: global {{ cmd-timeout-long {limit}; }}"


def _gate(name: str, gate: GateFacts) -> Iterator[Finding]:
    """E4, in DESIGN.md's own words."""
    closed, wrong = gate.closed(), []
    if gate.protocol not in (None, PROTOCOL):
        wrong.append((f"protocol {gate.protocol}", f"net {{ protocol {PROTOCOL}; }}"))
    if gate.fencing not in (None, FENCING):
        wrong.append((f"fencing {gate.fencing}", f"disk {{ fencing {FENCING}; }} (DRBD 9: net)"))
    if gate.handler_ours is False:
        wrong.append(("the fence-peer handler is not ours", f"handlers {{ fence-peer {HANDLER}; }}"))
    if gate.on_congestion not in (None, CONGESTION):
        wrong.append((f"on-congestion {gate.on_congestion}", f"net {{ on-congestion {CONGESTION}; }}"))
    for what, mend in wrong:
        yield _resource("gate-off", "trap", f"{name}: {what}", f"gate off: {GATE_OFF}", mend)
    if closed is not True and not wrong:
        text = f"the gate is not proven (files or kernel do not say); until then {GATE_OFF}"
        yield Finding("gate-unknown", "trap", "drbd", name, text, f"drbdsetup show {name}", f"drbdadm up {name}")


def handlers(files: Section) -> Iterator[Finding]:
    """Handlers that shoot by themselves."""
    blocks = [files, *files.sections("common"), *files.sections("resource")]
    for block in blocks:
        for each in block.sections("handlers"):
            command = each.value("fence-peer") or ""
            if "stonith_admin-fence-peer" in command:
                where = " ".join(block.words) or "drbd.conf"
                text = "stonith_admin-fence-peer.sh shoots past maintenance, hold and register"
                yield _resource("handler-shoots", "trap", where, text, f"handlers {{ fence-peer {HANDLER}; }}")


def _resource(code: str, severity: Literal["trap", "note"], subject: str, text: str, mend: str) -> Finding:
    mend = f"/etc/drbd.d: `{mend}`; then: drbdadm adjust all"
    return Finding(code, severity, "drbd", subject, text, "drbdadm dump", mend)


def _option(own: Section, common: Section, block: str, name: str) -> str | None:
    blocks = [each for where in (own, common) for each in where.sections(block)]
    return next((value for each in blocks if (value := each.value(name)) is not None), None)


# ------------------------------------------------------------------ this machine, the settings


def machine(seen: Machine) -> Iterator[Finding]:
    def found(code: str, severity: Literal["trap", "note"], subject: str, text: str, show: str, mend: str) -> Finding:
        return Finding(code, severity, "machine", subject, text, show, mend)

    if isinstance(seen.cgroup, str):
        mend = "boot with systemd.unified_cgroup_hierarchy=1"
        text = f"no shot is fired here: {seen.cgroup}"
        yield found("no-cgroup", "trap", "cgroup v2", text, "grep cgroup2 /proc/self/mountinfo", mend)
    if seen.realtime is False:
        text = "corosync does not run real-time: on a loaded machine it loses its token without any network fault"
        mend = "corosync.conf, system: `sched_rr: yes`; with RT group scheduling also `move_to_root_cgroup: yes`"
        yield found("not-realtime", "trap", "corosync", text, "chrt -p $(pidof corosync)", mend)
    for name in seen.dlm:
        text = "DLM asks the fencer by itself, past every hold and every right"
        yield found("dlm", "trap", name, text, "dlm_tool ls", "keep DLM (GFS2, OCFS2, clvmd) off this pair")
    for name in seen.missing_interfaces:
        mend = "correct [network] interfaces in pairguard.toml"
        yield found("no-interface", "trap", name, "the settings watch it, it does not exist", "ip link", mend)
    for name in seen.slow_bonds:
        text = "lacp_rate slow: a partner that died silently is noticed after 90 s (IEEE 802.1AX, long timeout)"
        mend = f"ip link set {name} type bond lacp_rate fast"
        yield found("lacp-slow", "note", name, text, f"cat /sys/class/net/{name}/bonding/lacp_rate", mend)


def agents(seen: Mapping[str, str | None]) -> Iterator[Finding]:
    """Agents that do not start: our package shadows the library of stock ones, or the controller may not read ours."""
    for name, why in sorted((name, why) for name, why in seen.items() if why is not None):
        show, mend = f"{name} -o metadata", "pairguard in a virtual environment of its own: no PYTHONPATH, no .pth"
        if name == OWN_AGENT:  # Pacemaker's controller asks it for its metadata at each start, and hangs on a failure
            show, mend = f"runuser -u hacluster -- {show}", "install it and its Python where everybody may read"
        mend = f"install {name}, or correct `delegate` in [fence]" if str(why).endswith("not installed") else mend
        yield Finding("agent-broken", "trap", "fencing", name, why, show, mend)


def settings(found: GuardSettings, ring_addresses: Iterable[str]) -> Iterator[Finding]:
    """What the settings leave unwatched, and paths that share their fate."""

    def note(code: str, subject: str, text: str, mend: str) -> Finding:
        return Finding(code, "note", "settings", subject, text, "pairguard check --settings", mend)

    if found.probe is None:
        text = "no probe: a lost peer is reported only after corosync's token, so a storm is seen later"
        yield note("no-probe", "probe", text, "add [probe] own and peer to pairguard.toml")
    if not found.switch:
        text = "no switch is watched: a network change is seen only by its effects"
        yield note("no-switch", "switch", text, "pairguard switch probe HOST, then add [[switch]]")
    if not found.network.interfaces:
        text = "no interface of this node is watched"
        yield note("no-interfaces", "network.interfaces", text, "add [network] interfaces = [...]")
    ours = {*ring_addresses, *((found.probe.own, found.probe.peer) if found.probe is not None else ())}
    for node, device in sorted(found.fence.items()):
        address = device.options.get("ip") or device.options.get("ipaddr")
        if address is not None and _together(address, ours):
            text = f"the fence device of {node} ({address}) seems to be in the pair's own network: it shares its fate"
            yield note("shared-fate", f"fence.{node}", text, "put fence devices on a network and switch of their own")
    if found.bus.socket is None and _together(found.bus.host, ours):
        text = f"the arbiter ({found.bus.host}) seems to be in the pair's own network: it shares its fate"
        yield note("shared-fate", "bus.host", text, "put the arbiter in a third failure domain")


def _together(address: str, others: Iterable[str]) -> bool:
    """In one /24 (or /64) with one of the others; a name, or loopback, is not known to be."""
    try:
        own = ipaddress.ip_address(address)
    except ValueError:
        return False
    if own.is_loopback or is_example(address):  # an example is told as such, once
        return False
    network = ipaddress.ip_network(f"{own}/{24 if own.version == 4 else 64}", strict=False)
    for other in others:
        try:
            if ipaddress.ip_address(other) in network:
                return True
        except ValueError:
            continue
    return False


# ------------------------------------------------------------------ the running guard


def guard(row: Mapping[str, Any], unit: str = "pairguardd") -> Iterator[Finding]:
    """What `pairguard status` shows as a fault."""
    pair = str(row.get("pair", "?"))

    def trap(code: str, text: str, mend: str) -> Finding:
        return Finding(code, "trap", "guard", pair, text, f"pairguard status {pair}", mend)

    if row.get("arbiter") == "silent":
        mend = "on the arbiter's machine: systemctl start pairguard-witness"
        yield trap("arbiter-silent", "the arbiter does not answer: nobody may run alone", mend)
    elif row.get("register") is None:
        yield trap("no-register", "no register was made: nobody may run alone", "pairguard init, while whole")
    if row.get("store_doubted"):
        yield trap(
            "store-doubted", "the arbiter's memory is not the one this node knows", "pairguard init, while whole"
        )
    if row.get("whole") is False:
        yield trap("not-whole", "the pair is not whole", "crm_mon -1; drbdadm status")
    if row.get("attested") is False:
        text = "not attested: no session is testified by both ends, so no node could take over"
        yield trap("not-attested", text, f"start {unit} on both nodes while replication is connected")
    for page in row.get("pages") or ():
        yield trap(f"page-{page}", f"the guard pages: {page}", "pairguard explain --evidence")
    for name in (row.get("network") or {}).get("unwatched") or ():
        text = f"{name} is configured and not heard: its signs would be missed"
        show, mend = f"pairguard status {pair}", "pairguard switch probe, or: ip link"
        yield Finding("unwatched", "trap", "guard", f"{pair} {name}", text, show, mend)
    state = (row.get("hold") or {}).get("state")
    if state not in (None, "none"):
        text = f"the pair is {state}: nothing is fenced meanwhile"
        yield Finding("holding", "note", "guard", pair, text, f"pairguard status {pair}", "pairguard release")
    winner = (row.get("register") or {}).get("winner")
    if winner is not None:
        text = f"{winner} won the era: the other node is barred, no switchover until it is closed"
        mend = "make the pair whole; the winner closes the era by itself"
        yield Finding("era-won", "note", "guard", pair, text, f"pairguard status {pair}", mend)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
