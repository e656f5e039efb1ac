"""What a tool's answer makes pairguard believe, as a set of short sentences: one function a parser.

A sentence stands only for what is *known*; UNKNOWN, None, an error of `guard.errors` and silence are no sentence.
Absences that would permit something ("no shot is pending") are sentences, too. Two laws hold for every text:

1. Damage (tests/fuzz/damage.py) takes sentences away and never adds one.
2. Each sentence stands on words that are literally in the text (`words`), whatever the text is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from fencing import fence_peer
from fencing.cgroup import mount_of
from guard.adapters import blockstat, cib, command_cluster, corosync, drbd_config, drbd_meta, drbd_text
from guard.adapters.drbd import _places, _worse
from guard.core.evidence import SHOTS_UNREAD, Disk, Link, Replica, Role, Up
from guard.core.instant import Instant
from guard.errors import PairguardError

CAPTURES = Path(__file__).parents[1] / "captures"
NODES = ("fs1a", "fs1b")
Sentences = Iterator[str]


@dataclass(frozen=True, slots=True)
class Format:
    """One parser. `seeds`: captures by name. `words`: beginning of a sentence -> words of which one must be there.

    `inherent`: sentences that a lost line may add: no text can tell that from the truth.
    """

    name: str
    seeds: Mapping[str, str]
    believe: Callable[[str], Sentences]
    words: Mapping[str, tuple[str, ...]]
    inherent: tuple[str, ...] = ()

    def sentences(self, text: str) -> frozenset[str]:
        """Empty where the parser refuses the text in the way its port documents."""
        try:
            return frozenset(self.believe(text))
        except PairguardError:
            return frozenset()

    def unfounded(self, text: str) -> list[str]:
        """Law 2: sentences without any word in the text that could carry them."""
        return [
            said
            for said in sorted(self.sentences(text))
            for start, needed in self.words.items()
            if said.startswith(start) and not any(word in text for word in needed)
        ]


def captured(pattern: str, command: str = "") -> dict[str, str]:
    """Captures by file name; with `command`, its answer inside a recorded session."""
    found = {}
    for path in sorted(CAPTURES.glob(pattern)):
        text = path.read_text()
        if command:
            start = text.find(f"$ {command}\n")
            if start < 0:
                continue
            start += len(command) + 3
            text = text[start : text.index("[rc=", start)]
        found[path.name] = text
    if not found:
        raise LookupError(f"no capture {pattern} {command}")
    return found


# ---------------------------------------------------------------- DRBD


def _resource(one: drbd_text.Resource) -> Sentences:
    for key, value in (
        ("role", one.role),
        ("peer-role", one.peer_role()),
        ("disk", one.disk()),
        ("peer-disk", one.peer_disk()),
        ("link", one.link()),
    ):
        if value.value != "?":
            yield f"{key} {value.value}"
    if one.suspended is not None:
        yield f"suspended {sorted(one.suspended)}"
    for key, number in (
        ("open", one.open_count()),
        ("out-of-sync", one.out_of_sync_kib()),
        ("received", one.received_kib()),
        ("minors", one.minors()),
    ):
        if number is not None:
            yield f"{key} {number}"


def _status(text: str) -> Sentences:
    for one in drbd_text.parse_status(text):
        if one.name == "r0":
            yield from _resource(one)


def _status_json(text: str) -> Sentences:
    for one in drbd_text.parse_status_json(text):
        if one.name == "r0":
            yield from _resource(one)


def _proc(text: str) -> Sentences:
    for one in drbd_text.parse_proc_drbd(text):
        if one.minor != 0:
            continue
        for key, value in (
            ("link", one.link),
            ("role", one.role),
            ("peer-role", one.peer_role),
            ("disk", one.disk),
            ("peer-disk", one.peer_disk),
        ):
            if value.value != "?":
                yield f"{key} {value.value}"
        if one.protocol is not None:
            yield f"protocol {one.protocol}"
        yield f"suspended {one.suspended}"
        yield f"counters {one.sent_kib} {one.received_kib} {one.out_of_sync_kib}"


def _peer_proc(text: str) -> Sentences:
    role = fence_peer.role_in(text, [0])
    if role is not None:
        yield f"role {role.lower()}"
    if fence_peer.connected_in(text, [0]) is True:
        yield "link connected"


def _meta(text: str) -> Sentences:
    one = drbd_meta.parse_get_gi(text)[0]
    yield f"generations {one.generations}"
    for each in fields(one):
        if each.name != "generations":
            yield f"{each.name} {getattr(one, each.name)}"
    yield f"disk {one.disk().value}"


def _dump_md(text: str) -> Sentences:
    if not drbd_meta.stale(text):
        yield from _meta(text)


_DUMP = captured("drbd/config.nodeA.dump.txt", "drbdadm dump")["config.nodeA.dump.txt"]
_SHOW = captured("drbd/config.nodeA.show.txt", "drbdsetup show r0 --show-defaults")["config.nodeA.show.txt"]


def _gate(dump: str, show: str) -> Sentences:
    gate = drbd_config.gate_facts(drbd_config.configured(dump, "r0"), drbd_config.running(show, "r0"), "/sbin/drbdadm")
    if gate.protocol == "C":
        yield "protocol C"
    if gate.fencing == "resource-and-stonith":
        yield "fencing resource-and-stonith"
    if gate.handler_ours:
        yield "handler ours"
    if gate.on_congestion == "block":
        yield "on-congestion block"
    if gate.closed():
        yield "gate closed"


def _event(text: str) -> Sentences:
    """An event may only make worse; that is checked here, for every replica that it could touch."""
    for line in text.splitlines():
        try:
            event = drbd_text.parse_event(line)
        except PairguardError:
            continue
        for link, disk in _WORSE:
            now = Replica("r0", Role.PRIMARY, Role.SECONDARY, disk, Disk.UP_TO_DATE, link)
            try:
                after = _worse({"r0": now}, event)
            except PairguardError:
                continue
            if after is None:
                continue
            yield "something got worse"
            if drbd_text.worst_link([link, after.link]) is not after.link:
                yield f"better link {link} {after.link}"
            if drbd_text.worst_disk([disk, after.disk]) is not after.disk:
                yield f"better disk {disk} {after.disk}"


def _plan(text: str) -> Sentences:
    for minor, version, _, _ in _places(text):
        if version == "v08":
            yield f"place of {minor}"


def _versions(text: str) -> Sentences:
    yield f"version {drbd_text.parse_proc_version(text)}"


def _tool_version(text: str) -> Sentences:
    yield f"version {drbd_text.parse_tool_version(text)}"


def _block_stat(text: str) -> Sentences:
    count = blockstat.completed_writes(text)
    if count is not None:
        yield f"completed {count}"


# ---------------------------------------------------------------- corosync


def _quorum(text: str) -> Sentences:
    seen = corosync.quorum(text)
    if seen.quorate is not None:
        yield f"quorate {seen.quorate}"
    if seen.ring == "":
        yield "a ring without a name"
    if seen.members is not None:
        for node in (1, 2):
            yield f"{'member' if node in seen.members else 'gone'} {node}"
    if not seen.votes_three():
        yield "two votes"


def _nodes(text: str) -> Sentences:
    for node in corosync.nodes(text):
        if node.name in NODES:
            yield f"{node.name} is {node.nodeid}"


def _links(text: str) -> Sentences:
    for link, state in corosync.links(text, 2).items():
        if state is not Up.UNKNOWN:
            yield f"link{link} {state.value}"


# ---------------------------------------------------------------- Pacemaker


def _monitor(text: str) -> Sentences:
    seen = cib.monitor(text)
    if seen.maintenance is not None:
        yield f"maintenance {seen.maintenance}"
    if seen.fencing is not None:
        yield f"fencing {seen.fencing}"
    for node in NODES:
        if seen.online.get(node, Up.UNKNOWN) is not Up.UNKNOWN:
            yield f"{node} {seen.online[node].value}"
            if node not in seen.unclean:
                yield f"{node} clean"
    if seen.managed is not None:
        yield f"managed {seen.managed}"
    where = seen.promoted.get("disk-clone")
    if where is not None:
        for node in NODES:
            yield f"{'promoted' if node in where else 'not promoted'} on {node}"
    for resource, node in seen.failed_stops:
        if resource in ("fs", "disk") and node in NODES:
            yield f"failed stop of {resource} on {node}"


def _cib(text: str) -> Sentences:
    root = cib.document(text, "cibadmin --query")
    for node, state in cib.controllers(root).items():
        if node in NODES and state is not Up.UNKNOWN:
            yield f"controller {node} {state.value}"
    hold = cib.our_hold(root)
    if hold is not None and "zq7x" not in hold and hold:
        yield f"hold {hold}"
    if not cib.persons_maintenance(root, effective=None):
        yield "no person's maintenance"
    if cib.fenced_stop(root, "fs", fencing=None):
        yield "failed stop fences"
    for node in cib.node_names(root) & set(NODES):
        yield f"node {node}"
    for device in cib.fence_devices(root):
        if device in ("dev-fs1a", "dev-fs1b"):
            yield f"device {device}"


def cib_edits(text: str) -> None:
    """Every edit of a copy ends in an edit, a refusal or `Unreadable`; what is written back is read again alike."""
    for change in (
        lambda root: cib.put_hold(root, "hold-1"),
        lambda root: cib.take_hold(root, cib.ANY_HOLD),
        lambda root: cib.mark_purge(root, {"dev-fs1b"}),
        cib.unmark_purge,
        lambda root: cib.put_bar(root, "fs1a", ["disk-clone"]),
        lambda root: cib.take_bar(root, "fs1a"),
        cib.next_epoch,
    ):
        try:
            root = cib.document(text, "cibadmin --query")
            change(root)
            written = cib.dump(root)
            again = cib.document(written, "cibadmin --query")
        except PairguardError:
            continue
        if cib.dump(again) != written:
            raise AssertionError("what was written back is read as something else")


def _history(text: str) -> Sentences:
    shots = cib.shots(text)
    if not shots:
        yield "no shot is pending"


def _devices(text: str) -> Sentences:
    for device in cib.devices(text):
        if device in ("dev-fs1a", "dev-fs1b"):
            yield f"device {device}"


def _forecast(text: str) -> Sentences:
    for lost in ("fs1b", None):
        seen = cib.forecast(text, known=NODES, lost=lost, fence_devices={"dev-fs1a", "dev-fs1b"})
        if seen.error is not None:
            continue
        if seen.harmless():
            yield f"harmless, {lost} lost"
        for node in NODES:
            if node not in seen.fences:
                yield f"no fence of {node}, {lost} lost"
        if not seen.stops:
            yield f"no stop, {lost} lost"


# ---------------------------------------------------------------- an operator's own stack

VIEW = json.dumps(
    {"schema": command_cluster.SCHEMA, "controller": "up", "peer_controller": "down", "maintenance": True}
    | {"ours": "hold-1", "persons_maintenance": False, "managed": 0, "failed_stop": True, "unclean": ["fs1b"]}
    | {
        "active_here": True,
        "pending": [{"target": "fs1b", "action": "off", "client": "c", "origin": "o", "state": "pending"}],
    },
    indent=1,
)
QUIET_VIEW = json.dumps(json.loads(VIEW) | {"pending": [], "unclean": []}, indent=1)
HARMLESS = json.dumps({"schema": command_cluster.SCHEMA, "fences": [], "stops": []}, indent=1)
HARMFUL = json.dumps({"schema": command_cluster.SCHEMA, "fences": ["fs1b"], "stops": ["stop fs"]}, indent=1)


def _command_view(text: str) -> Sentences:
    seen = command_cluster.view(text, Instant(0))
    for key, state in (("controller", seen.controller), ("peer_controller", seen.peer_controller)):
        if state is not Up.UNKNOWN:
            yield f"{key} {state.value}"
    for key in ("maintenance", "managed", "active_here"):
        if getattr(seen, key) is not None:
            yield f"{key} {getattr(seen, key)}"
    if not seen.persons_maintenance:
        yield "no person's maintenance"
    if seen.failed_stop:
        yield "failed stop fences"
    if not seen.pending or SHOTS_UNREAD in seen.pending[1:]:
        yield "no shot is pending"


def _command_forecast(text: str) -> Sentences:
    if command_cluster.forecast(text).harmless():
        yield "harmless"


def _mount(text: str) -> Sentences:
    where = mount_of(text)
    if where is not None:
        yield "a cgroup2"


_MOUNTINFO = (
    "24 30 0:22 / /proc rw,nosuid shared:14 - proc proc rw\n"
    "31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw\n"
)
_NINE = json.dumps(
    [
        {"name": "r0", "node-id": 0, "role": "Secondary", "suspended": False}
        | {f"suspended-{why}": False for why in ("user", "no-data", "fencing", "quorum")}
        | {"devices": [{"volume": 0, "minor": 1, "disk-state": "UpToDate", "open": False}]}
        | {
            "connections": [
                {"peer-node-id": 1, "name": "fs2", "connection-state": "Connected", "peer-role": "Primary"}
                | {
                    "peer_devices": [
                        {"volume": 0, "replication-state": "Established", "peer-disk-state": "UpToDate"}
                        | {"received": 7, "sent": 0, "out-of-sync": 0}
                    ]
                }
            ]
        }
    ],
    indent=1,
)

_GOOD_DISK = {"disk U": ("UpToDate",), "peer-disk U": ("UpToDate",), "disk C": ("Consistent",)}
_ROLES = {"role primary": ("Primary",), "role secondary": ("Secondary",), "peer-role secondary": ("Secondary",)}
_WORSE = ((Link.CONNECTED, Disk.UP_TO_DATE), (Link.CONNECTING, Disk.OUTDATED), (Link.STANDALONE, Disk.DISKLESS))
_STATUS = captured("drbd/*.status.txt", "drbdsetup status r0 --verbose --statistics")
_PROC = captured("drbd/*.proc-drbd.txt", "cat /proc/drbd")
_GI = captured("drbd/*.get-gi.txt", "drbdadm get-gi r0") | captured("drbd/*.show-gi.txt", "drbdadm show-gi r0")

# Made from captures, for what none of them happens to show.
_QUORUM = captured("corosync/quorumtool-[cw]*.txt")
_QUORUM["three votes"] = (
    _QUORUM["quorumtool-cut.txt"]
    .replace("Expected votes:   2", "Expected votes:   3")
    .replace("Yes", "No")
    .replace("2Node Quorate", "Qdevice")
)
_STATS = captured("corosync/stats-*.txt")
_STATS["disabled"] = _STATS["stats-whole.txt"].replace("enabled (u8) = 1", "enabled (u8) = 0")
_MON = captured("pacemaker/crm_mon-[!n]*.xml")
_MON["joining"] = _MON["crm_mon-whole.xml"].replace('pending="false"', 'pending="true"')
_HEALTHY = _STATUS["02-a-healthy-A-primary.nodeA.status.txt"]
_STATUS["two volumes"] = (
    _HEALTHY.replace(
        "  peer connection", "  volume:1 minor:1 disk:Inconsistent\n      size:1 read:0\n  peer connection"
    ).rstrip("\n")
    + "\n    volume:1 replication:Established peer-disk:Inconsistent\n        received:0 sent:5 out-of-sync:0\n\n"
)

FORMATS: tuple[Format, ...] = (
    Format("drbd-status", _STATUS, _status, _GOOD_DISK | _ROLES | {"link connected": ("Connected",)}),
    Format("drbd-status-json", {"nine": _NINE}, _status_json, _GOOD_DISK | _ROLES | {"link conn": ("Connected",)}),
    Format("proc-drbd", _PROC, _proc, _GOOD_DISK | _ROLES | {"link connected": ("Connected",)}),
    Format("proc-drbd-handler", _PROC, _peer_proc, {"role primary": ("Primary",), "role second": ("Secondary",)}),
    Format("get-gi", _GI, _dump_md, {"generations": (":",)}),
    Format(
        "drbd-config-files",
        {"dump": _DUMP},
        lambda text: _gate(text, _SHOW),
        {"gate closed": ("pairguard-fence-peer",), "handler ours": ("pairguard-fence-peer",)},
    ),
    Format(
        "drbd-config-kernel",
        {"show": _SHOW},
        lambda text: _gate(_DUMP, text),
        {"gate closed": ("resource-and-stonith",), "fencing": ("resource-and-stonith",)},
    ),
    Format(
        "drbd-events",
        captured("drbd/*.events2.txt"),
        _event,
        {"better": ("there is no word that may do this",)},
    ),
    Format("drbd-plan", captured("drbd/config.nodeA.plan.txt"), _plan, {"place": ("drbdmeta",)}),
    Format("drbd-version", _PROC, _versions, {"version": ("version: ",)}),
    Format(
        "drbd-tool-version",
        {"8.4": "DRBDADM_BUILDTAG=x\nDRBDADM_API_VERSION=1\nDRBD_KERNEL_VERSION_CODE=0x08040b\n"
         "DRBD_KERNEL_VERSION=8.4.11\nDRBDADM_VERSION_CODE=0x091600\nDRBDADM_VERSION=9.22.0\n"},
        _tool_version,
        {"version": ("DRBD_KERNEL_VERSION=",)},
    ),
    Format(
        "block-stat",
        {"drbd0": "     350        0    12345       10     1067        0    65432       20        0      30     40\n"},
        _block_stat,
        {},
    ),
    Format("quorum", _QUORUM, _quorum, {"quorate True": ("Yes",), "quorate F": ("No",)}),
    Format("nodelist", captured("corosync/nodelist.txt"), _nodes, {"fs1a": ("fs1a",), "fs1b": ("fs1b",)}),
    Format("knet", _STATS, _links, {"link0 up": ("connected",), "link0 down": ("0",)}),
    Format(
        "crm-mon",
        _MON,
        _monitor,
        {"maintenance": ("maintenance-mode",), "fs1a": ("fs1a",), "promoted on": ("Promoted", "Master")},
        inherent=("managed", "not promoted"),
    ),
    Format(
        "cib",
        captured("pacemaker/cib-*.xml"),
        _cib,
        {"controller": ("crmd",), "hold": ("pairguard-hold",), "failed stop": ("fence", "on-fail")},
        inherent=("no person's maintenance",),
    ),
    Format("history", captured("pacemaker/history-*.xml"), _history, {"no shot": ("pacemaker-result", "crm_mon")}),
    Format("devices", captured("pacemaker/devices.xml"), _devices, {"device": ("dev-fs1",)}),
    Format(
        "forecast",
        captured("pacemaker/simulate-[!e]*.xml"),
        _forecast,
        {"harmless": ("fs1a",), "no fence": ("transition",), "no stop": ("actions",)},
        inherent=("no stop", "no fence", "harmless"),
    ),
    Format(
        "command-view",
        {"shot": VIEW, "quiet": QUIET_VIEW},
        _command_view,
        {"maintenance True": ("true",), "no shot": ("pending",), "no person": ("false",)},
    ),
    Format("command-forecast", {"harmless": HARMLESS, "harmful": HARMFUL}, _command_forecast, {"harmless": ("[",)}),
    Format("mountinfo", {"hybrid": _MOUNTINFO}, _mount, {"cgroup2": ("cgroup2",)}),
)  # fmt: skip
