"""What `pairguard check` looked at, as values: each is what was read, or `Unseen` with the reason. Parsers are pure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guard.adapters.cib import BOOTSTRAP_SET, FALSE_WORDS, TRUE_WORDS
from guard.adapters.drbd_config import Section
from guard.cli.named import Fault
from guard.core.evidence import GateFacts, PendingShot

INFINITY = float("inf")
OWN_AGENT = "fence_pairguard"
_UNITS = {  # Pacemaker Explained, Time Duration / interval specifications
    "": 1.0, "s": 1.0, "sec": 1.0, "ms": 0.001, "msec": 0.001, "us": 1e-6, "usec": 1e-6,
    "m": 60.0, "min": 60.0, "h": 3600.0, "hr": 3600.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unseen:
    """Could not be looked at, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Device:
    """One fence device of the cluster."""

    id: str
    agent: str
    options: Mapping[str, str]
    stopped: bool = False

    def targets(self) -> frozenset[str] | None:
        """Nodes by its static lists; None: it is asked for them, or they come from the agent."""
        named = re.split(r"[,;\s]+", self.options.get("pcmk_host_list", ""))
        mapped = [pair.split(":")[0] for pair in re.split(r"[;\s]+", self.options.get("pcmk_host_map", ""))]
        found = frozenset(name for name in (*named, *mapped) if name)
        return found or None

    def seconds(self, option: str) -> float | None:
        """A duration among its options; None: not set or not readable."""
        value = self.options.get(option)
        return None if value is None else seconds(value.split(":")[-1].split(";")[0])


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pacemaker's configuration, as far as traps can hide in it."""

    root: ET.Element
    properties: Mapping[str, str]
    devices: tuple[Device, ...]
    nodes: frozenset[str]

    def property(self, name: str) -> str | None:
        """By either name: Pacemaker 3.0.2 renamed `stonith-...` to `fencing-...`. None: not set."""
        return self.properties.get(name, self.properties.get(name.replace("stonith", "fencing", 1)))

    def on(self, name: str) -> bool | None:
        """A boolean property; None: not set, or no word that we know."""
        value = (self.property(name) or "").strip().lower()
        return True if value in TRUE_WORDS else (False if value in FALSE_WORDS else None)


@dataclass(frozen=True, slots=True)
class Sbd:
    """sbd on this machine. `active`: it runs, or Pacemaker counts on its watchdog."""

    active: bool
    settings: Mapping[str, str] = field(default_factory=dict)
    file: str = "/etc/sysconfig/sbd"

    def diskless(self) -> bool:
        return not self.settings.get("SBD_DEVICE", "").strip("\"' ")

    def watchdog_s(self) -> float:
        """SBD_WATCHDOG_TIMEOUT; 5 s is sbd's own default (sbd.8)."""
        found = seconds(self.settings.get("SBD_WATCHDOG_TIMEOUT", "").strip("\"' "))
        return 5.0 if found is None else found


@dataclass(frozen=True, slots=True)
class Replicas:
    """DRBD: the files (`drbdadm dump`), the kernel (`drbdsetup show`) by resource, and the gate of each."""

    files: Section
    kernel: Mapping[str, Section | Unseen]
    gates: Mapping[str, GateFacts]


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine. `cgroup` None: a cgroup v2 can be made. `realtime` None: corosync does not run here."""

    cgroup: str | Unseen | None
    realtime: bool | None
    dlm: tuple[str, ...]
    missing_interfaces: tuple[str, ...] = ()
    slow_bonds: tuple[str, ...] = ()
    bonds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that one `check` saw. None: this does not belong here (no such part on this machine)."""

    cluster: Cluster | Unseen | None
    history: tuple[PendingShot, ...] | Unseen | None
    corosync: Mapping[str, str] | Unseen | None
    replicas: Replicas | Unseen | None
    sbd: Sbd | Unseen | None
    machine: Machine | Unseen | None
    agents: Mapping[str, str | None] | Unseen | None  # agent -> why it does not start
    status: Mapping[str, Any] | Unseen | None
    named: tuple[Fault, ...] | None = None  # what is wrong with what the settings name; None: there are none


def seconds(text: str) -> float | None:
    """A duration as Pacemaker reads it: `60`, `60s`, `5min`, `PT1M30S`, `INFINITY`. None: not readable."""
    value = text.strip()
    if value.upper() in ("INFINITY", "+INFINITY"):
        return INFINITY
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.lower())
    if found is not None:
        unit = _UNITS.get(found[2])
        return None if unit is None else float(found[1]) * unit
    iso = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?", value.upper())
    if iso is None or not any(iso.groups()):
        return None
    return sum(int(part or 0) * unit for part, unit in zip(iso.groups(), (3600, 60, 1), strict=True))


def cluster(root: ET.Element) -> Cluster:
    """From `cibadmin -Q`. Bootstrap options win over every set, then the higher score; rules do not count."""
    sets = list(root.iterfind("configuration/crm_config/cluster_property_set"))
    sets.sort(key=lambda each: (each.get("id") == BOOTSTRAP_SET, _score(each)))
    properties = {str(pair.get("name")): pair.get("value", "") for each in sets for pair in each.iterfind("nvpair")}
    devices = []
    for element in root.iterfind("configuration/resources//primitive"):
        if element.get("class") == "stonith":
            options = {str(p.get("name")): p.get("value", "") for p in element.iterfind("instance_attributes/nvpair")}
            meta = {str(p.get("name")): p.get("value", "") for p in element.iterfind("meta_attributes/nvpair")}
            stopped = meta.get("target-role", "").lower() == "stopped"
            devices.append(Device(element.get("id", "?"), element.get("type", "?"), options, stopped))
    nodes = frozenset(node.get("uname", "?") for node in root.iterfind("configuration/nodes/node"))
    return Cluster(root, properties, tuple(devices), nodes)


def cmap(text: str) -> dict[str, str]:
    """`corosync-cmapctl`: key -> value, without types. Lines without a value are left out."""
    return dict(re.findall(r"^(\S+) \(\w+\) = (.*?)\s*$", text, re.MULTILINE))


def shell_words(text: str) -> dict[str, str]:
    """KEY=VALUE lines of a sysconfig file; comments and everything else are left out."""
    return dict(re.findall(r"""^\s*([A-Z_]+)=["']?(.*?)["']?\s*$""", text, re.MULTILINE))


def _score(properties: ET.Element) -> float:
    text = properties.get("score", "0")
    try:
        return float(text.replace("INFINITY", "inf"))
    except ValueError:
        return 0.0
