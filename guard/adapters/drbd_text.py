"""Reads what the DRBD tools print: pure functions from text to values, tried on captures of a real 8.4.11.

1. All or nothing: an answer that was cut short is `Unreadable`, never a shorter truth.
2. A word we do not know is `Unreadable`; a missing field is None or UNKNOWN. There are no defaults.
3. DRBD has two vocabularies (`WFConnection` in /proc/drbd is `Connecting` in `drbdsetup status`); both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from guard.core.evidence import Disk, Link, Role, Suspended
from guard.errors import Unreadable

T = TypeVar("T")

_DISKS: Mapping[str, Disk] = {  # drbd_strings.c, drbd_disk_str
    "UpToDate": Disk.UP_TO_DATE,
    "Consistent": Disk.CONSISTENT,
    "Outdated": Disk.OUTDATED,
    "Inconsistent": Disk.INCONSISTENT,
    "Negotiating": Disk.INCONSISTENT,
    "Attaching": Disk.INCONSISTENT,
    "Diskless": Disk.DISKLESS,
    "Failed": Disk.DISKLESS,
    "Detaching": Disk.DISKLESS,
    "DUnknown": Disk.UNKNOWN,
}
_ROLES: Mapping[str, Role] = {"Primary": Role.PRIMARY, "Secondary": Role.SECONDARY, "Unknown": Role.UNKNOWN}
_CONNECTING = frozenset(
    {"Unconnected", "Connecting", "WFConnection", "WFReportParams", "Timeout", "BrokenPipe"}
    | {"NetworkFailure", "ProtocolError", "TearDown", "Disconnecting"}
)
_RESYNC = frozenset(  # everything above L_ESTABLISHED, drbd_strings.c
    {"StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID", "SyncSource", "SyncTarget"}
    | {"PausedSyncS", "PausedSyncT", "VerifyS", "VerifyT", "Ahead", "Behind"}
)
_NUMBER = re.compile(r"[0-9]{1,20}")  # 64 bits; `str.isdecimal` also takes other scripts, and any length
_LINK_ORDER = (Link.CONNECTED, Link.RESYNC, Link.CONNECTING, Link.STANDALONE, Link.DOWN, Link.UNKNOWN)
_DISK_ORDER = (Disk.UP_TO_DATE, Disk.CONSISTENT, Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS, Disk.UNKNOWN)


# ---------------------------------------------------------------- status


@dataclass(frozen=True, slots=True)
class PeerVolume:
    """One volume as seen over one connection; counters in KiB, None = not printed."""

    number: int
    link: Link  # of this volume alone, from the replication word; UNKNOWN = the word was missing
    peer_disk: Disk
    received_kib: int | None = None
    sent_kib: int | None = None
    out_of_sync_kib: int | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection. `link` is that of the connection word alone (CONNECTED says nothing of a resync yet)."""

    name: str
    link: Link
    peer_role: Role
    volumes: tuple[PeerVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class Volume:
    """One local volume. `open_count` None: this DRBD does not print it (8.4 never does)."""

    number: int
    minor: int | None
    disk: Disk
    open_count: int | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """One configured resource, as `drbdsetup status --verbose --statistics` prints it."""

    name: str
    role: Role
    suspended: frozenset[Suspended] | None
    volumes: tuple[Volume, ...] = ()
    connections: tuple[Connection, ...] = ()

    def link(self) -> Link:
        """The worst link of all volumes on all connections; no connection at all is STANDALONE."""
        if not self.connections:
            return Link.STANDALONE
        return worst_link(self._link_of(connection) for connection in self.connections)

    def disk(self) -> Disk:
        return worst_disk(volume.disk for volume in self.volumes)

    def peer_disk(self) -> Disk:
        """The worst disk of the peer; UNKNOWN without a connection, though the kernel may remember one."""
        return worst_disk(volume.peer_disk for connection in self.connections for volume in connection.volumes)

    def peer_role(self) -> Role:
        roles = {connection.peer_role for connection in self.connections}
        if Role.PRIMARY in roles:
            return Role.PRIMARY
        return roles.pop() if len(roles) == 1 else Role.UNKNOWN

    def out_of_sync_kib(self) -> int | None:
        return _sum(volume.out_of_sync_kib for volume in self._peer_volumes())

    def received_kib(self) -> int | None:
        return _sum(volume.received_kib for volume in self._peer_volumes())

    def open_count(self) -> int | None:
        return _sum(volume.open_count for volume in self.volumes)

    def minors(self) -> tuple[int, ...] | None:
        """Minor numbers of all volumes; None if one of them was not printed."""
        minors = [volume.minor for volume in self.volumes if volume.minor is not None]
        return tuple(minors) if minors and len(minors) == len(self.volumes) else None

    def _link_of(self, connection: Connection) -> Link:
        if connection.link is not Link.CONNECTED:
            return connection.link
        if {volume.number for volume in connection.volumes} != {volume.number for volume in self.volumes}:
            return Link.UNKNOWN
        return worst_link(volume.link for volume in connection.volumes)

    def _peer_volumes(self) -> list[PeerVolume]:
        return [volume for connection in self.connections for volume in connection.volumes]


def worst_link(links: Iterable[Link]) -> Link:
    """The link that allows least; UNKNOWN if there is none."""
    return max(links, key=_LINK_ORDER.index, default=Link.UNKNOWN)


def worst_disk(disks: Iterable[Disk]) -> Disk:
    """The disk that allows least; UNKNOWN if there is none."""
    return max(disks, key=_DISK_ORDER.index, default=Disk.UNKNOWN)


def parse_status(text: str) -> tuple[Resource, ...]:
    """`drbdsetup status [RES] --verbose --statistics` of the 8.4 tools. Raises `Unreadable`.

    Each resource ends with an empty line: one that does not was cut short.
    """
    blocks = text.split("\n\n")
    if blocks[-1].strip():
        raise Unreadable("cannot read drbdsetup status", "the answer was cut short")
    return tuple(_resource(block.splitlines()) for block in blocks if block.strip())


def _resource(lines: list[str]) -> Resource:
    """Lines of one resource; a deeper line without a head of its own continues the object before it."""
    heads: list[tuple[str, str, dict[str, str]]] = []  # kind, name, fields
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        words = line.split()
        if not words:
            continue
        if indent == 0:
            heads.append(("resource", words.pop(0), {}))
        elif indent == 2 and words[0].startswith("volume:"):
            heads.append(("volume", "", {}))
        elif indent == 2 and ":" not in words[0]:
            heads.append(("connection", words.pop(0), {}))
        elif indent == 4 and words[0].startswith("volume:"):
            heads.append(("peer-volume", "", {}))
        if not heads:
            raise Unreadable("cannot read drbdsetup status", f"no resource before {line.strip()!r}")
        heads[-1][2].update(_fields(words))
    if [kind for kind, _, _ in heads].count("resource") != 1 or heads[0][0] != "resource":
        raise Unreadable("cannot read drbdsetup status", "a block that is not one resource")
    return _assembled(heads)


def _assembled(heads: list[tuple[str, str, dict[str, str]]]) -> Resource:
    volumes: list[Volume] = []
    connections: list[Connection] = []
    for kind, name, got in heads[1:]:
        if kind == "volume":
            volumes.append(Volume(_number(got, "volume"), _count(got, "minor"), disk_of(got.get("disk"))))
        elif kind == "connection":
            connections.append(Connection(name, connection_link(got.get("connection")), role_of(got.get("role"))))
        else:
            if not connections:
                raise Unreadable("cannot read drbdsetup status", "a peer's volume without a connection")
            last = connections[-1]
            peer = PeerVolume(
                _number(got, "volume"),
                replication_link(got.get("replication")),
                disk_of(got.get("peer-disk")),
                _count(got, "received"),
                _count(got, "sent"),
                _count(got, "out-of-sync"),
            )
            connections[-1] = Connection(last.name, last.link, last.peer_role, (*last.volumes, peer))
    ours = sorted(volume.number for volume in volumes)
    if any(sorted(volume.number for volume in connection.volumes) != ours for connection in connections):
        raise Unreadable("cannot read drbdsetup status", "a volume is told of on one side only")
    _, name, got = heads[0]
    return Resource(
        name, role_of(got.get("role")), suspended_of(got.get("suspended")), tuple(volumes), tuple(connections)
    )


def parse_status_json(text: str) -> tuple[Resource, ...]:
    """`drbdsetup status [RES] --json --statistics` of DRBD 9, from its documentation; never tried on a real module."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("cannot read drbdsetup status --json", str(error)) from error
    try:
        return tuple(_json_resource(one) for one in whole)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise Unreadable("cannot read drbdsetup status --json", f"unexpected shape: {error}") from error


def _json_resource(one: Mapping[str, Any]) -> Resource:
    volumes = tuple(
        Volume(
            _json_number(device, "volume"),
            _json_int(device, "minor"),
            disk_of(device.get("disk-state")),
            int(device["open"]) if isinstance(device.get("open"), bool | int) else None,
        )
        for device in _json_list(one, "devices")
    )
    connections = tuple(
        Connection(
            str(each["name"]),
            connection_link(each.get("connection-state")),
            role_of(each.get("peer-role")),
            tuple(
                PeerVolume(
                    _json_number(peer, "volume"),
                    replication_link(peer.get("replication-state")),
                    disk_of(peer.get("peer-disk-state")),
                    _json_int(peer, "received"),
                    _json_int(peer, "sent"),
                    _json_int(peer, "out-of-sync"),
                )
                for peer in _json_list(each, "peer_devices")
            ),
        )
        for each in _json_list(one, "connections")
    )
    return Resource(str(one["name"]), role_of(one.get("role")), _json_suspended(one), volumes, connections)


def _json_list(one: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = one[key]
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{key} is no list of objects")
    return found


def _json_int(one: Mapping[str, Any], key: str) -> int | None:
    value = one.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _json_number(one: Mapping[str, Any], key: str) -> int:
    found = _json_int(one, key)
    if found is None:
        raise ValueError(f"{key} is {one.get(key)!r}")
    return found


def _json_suspended(one: Mapping[str, Any]) -> frozenset[Suspended] | None:
    flags = {reason: one.get(f"suspended-{reason.value}") for reason in Suspended}
    if all(isinstance(flag, bool) for flag in flags.values()):
        return frozenset(reason for reason, flag in flags.items() if flag)
    return frozenset() if one.get("suspended") is False else None


# ---------------------------------------------------------------- words


def disk_of(word: object) -> Disk:
    """A disk word; None (not printed) is UNKNOWN. Raises `Unreadable` for a word DRBD does not have."""
    return Disk.UNKNOWN if word is None else _known(_DISKS, word, "disk state")


def role_of(word: object) -> Role:
    """A role word; None is UNKNOWN."""
    return Role.UNKNOWN if word is None else _known(_ROLES, word, "role")


def connection_link(word: object) -> Link:
    """A connection word of either vocabulary, without the volumes; None is UNKNOWN."""
    if word is None:
        return Link.UNKNOWN
    if word == "Connected":
        return Link.CONNECTED
    if word == "StandAlone":
        return Link.STANDALONE
    if word in _CONNECTING:
        return Link.CONNECTING
    raise Unreadable("cannot read DRBD's answer", f"unknown connection state {word!r}")


def replication_link(word: object) -> Link:
    """A replication word; None is UNKNOWN. `Off` on a connected link is a handshake: not connected yet."""
    if word is None:
        return Link.UNKNOWN
    if word == "Established":
        return Link.CONNECTED
    if word == "Off":
        return Link.CONNECTING
    if word in _RESYNC:
        return Link.RESYNC
    raise Unreadable("cannot read DRBD's answer", f"unknown replication state {word!r}")


def suspended_of(word: str | None) -> frozenset[Suspended] | None:
    """`no`, or reasons joined by commas; None = not printed."""
    if word is None:
        return None
    if word == "no":
        return frozenset()
    try:
        return frozenset(Suspended(reason) for reason in word.split(","))
    except ValueError as error:
        raise Unreadable("cannot read DRBD's answer", f"unknown reason of suspension {word!r}") from error


def _known(table: Mapping[str, T], word: object, what: str) -> T:
    if isinstance(word, str) and word in table:
        return table[word]
    raise Unreadable("cannot read DRBD's answer", f"unknown {what} {word!r}")


# ---------------------------------------------------------------- /proc/drbd, versions, events


@dataclass(frozen=True, slots=True)
class ProcDevice:
    """One minor in /proc/drbd of 8.4; counters in KiB. `protocol` None: not connected, or not printed."""

    minor: int
    link: Link
    role: Role
    peer_role: Role
    disk: Disk
    peer_disk: Disk
    protocol: str | None
    suspended: bool
    sent_kib: int  # ns: application and resync
    received_kib: int  # nr: application and resync
    out_of_sync_kib: int


_PROC_VERSION = re.compile(r"version: ([0-9]{1,4})\.([0-9]{1,4})\.\S+ \(api:")
_PROC_HEAD = re.compile(r" *([0-9]{1,7}): cs:(\w+) ro:(\w+)/(\w+) ds:(\w+)/(\w+) ([ABC ]) ([rs])[-adpu]{5}")
_PROC_COUNT = re.compile(r"\b(ns|nr|oos):([0-9]{1,20})(?=\s)")


def parse_proc_version(text: str) -> tuple[int, int]:
    """(8, 4) or (9, n), from the first line of /proc/drbd."""
    found = _PROC_VERSION.match(text)
    if found is None:
        raise Unreadable("cannot read /proc/drbd", f"no version in {text[:60]!r}")
    return int(found[1]), int(found[2])


def parse_tool_version(text: str) -> tuple[int, int] | None:
    """`drbdadm --version`: the kernel module's version as the tools see it; None: they see no module."""
    found = re.search(r"^DRBD_KERNEL_VERSION=(?:([0-9]{1,4})\.([0-9]{1,4})\.\S+|0)$", text, re.MULTILINE)
    if found is None:
        raise Unreadable("cannot read drbdadm --version", "no DRBD_KERNEL_VERSION")
    return (int(found[1]), int(found[2])) if found[1] else None


def parse_proc_drbd(text: str) -> tuple[ProcDevice, ...]:
    """All configured minors of /proc/drbd (8.4 only; DRBD 9 prints no devices there)."""
    parse_proc_version(text)
    devices: list[ProcDevice] = []
    lines = text.splitlines(keepends=True)
    for head, tail in zip(lines, [*lines[1:], ""], strict=True):
        if not re.match(r" *\d+: ", head) or "cs:Unconfigured" in head:
            continue
        found = _PROC_HEAD.match(head)
        counts = {name: int(value) for name, value in _PROC_COUNT.findall(tail)}
        if found is None or counts.keys() != {"ns", "nr", "oos"}:
            raise Unreadable("cannot read /proc/drbd", f"unknown or unfinished line {head.strip()!r}")
        minor, state, role, peer_role, disk, peer_disk, protocol, flag = found.groups()
        devices.append(
            ProcDevice(
                int(minor),
                connection_link(state) if state not in _RESYNC else Link.RESYNC,
                role_of(role),
                role_of(peer_role),
                disk_of(disk),
                disk_of(peer_disk),
                protocol.strip() or None,
                flag == "s",
                counts["ns"],
                counts["nr"],
                counts["oos"],
            )
        )
    return tuple(devices)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of `drbdsetup events2 all`. `fields` are raw words; `exists -` (end of the dump) has kind ""."""

    action: str  # exists, create, change, destroy, call, response, rename
    kind: str  # resource, device, connection, peer-device, helper, path
    fields: Mapping[str, str]


def parse_event(line: str) -> Event:
    """One whole line of events2, with or without its time stamp. Raises `Unreadable`."""
    words = line.split()
    if words and re.match(r"\d{4}-\d\d-\d\dT", words[0]):
        words = words[1:]
    if len(words) < 2 or words[0] not in {"exists", "create", "change", "destroy", "call", "response", "rename"}:
        raise Unreadable("cannot read drbdsetup events2", f"unknown line {line[:80]!r}")
    return Event(words[0], "" if words[1] == "-" else words[1], _fields(words[2:]))


# ---------------------------------------------------------------- private


def _fields(words: Iterable[str]) -> dict[str, str]:
    """`key:value` words; a word without a colon or a value is Unreadable."""
    fields: dict[str, str] = {}
    for word in words:
        key, colon, value = word.partition(":")
        if not (key and colon and value):
            raise Unreadable("cannot read DRBD's answer", f"{word!r} is no key:value")
        fields[key] = value
    return fields


def _count(fields: Mapping[str, str], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise Unreadable("cannot read DRBD's answer", f"{key}:{value} is no number")
    return int(value)


def _number(fields: Mapping[str, str], key: str) -> int:
    found = _count(fields, key)
    if found is None:
        raise Unreadable("cannot read DRBD's answer", f"no {key}")
    return found


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum, or None if there is nothing or one part is not known."""
    total: int | None = None
    for value in values:
        if value is None:
            return None
        total = (total or 0) + value
    return total
