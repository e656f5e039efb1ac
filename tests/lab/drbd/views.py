"""Prints a resource as the 8.4 tools do: status, events2, sh-status, show. Compared with recordings by
test_standin.py."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import resconf

if TYPE_CHECKING:
    from volume import Resource

SIZE_KIB = 65496
WRAP = 79  # columns; the 80th is never used
KINDS = ("resource", "connection", "device", "peer-device")  # the order within one change
PEER = "peer-node-id:0 conn-name:peer"


@dataclass(slots=True)
class View:
    """What one moment shows, by kind of object: facts (a change of which is an event) and statistics."""

    name: str = ""
    minor: int = 0
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    statistics: dict[str, dict[str, str]] = field(default_factory=dict)


def timestamp() -> str:
    """As `events2 --timestamps` writes it, in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def view(resource: Resource) -> View:
    """The present moment of a resource."""
    both = [word for word, on in (("user", resource.susp_user), ("fencing", resource.susp_fen)) if on]
    facts = {
        "resource": {"role": resource.role, "suspended": ",".join(both) or "no", "write-ordering": "flush"},
        "device": {"disk": resource.dstate},
    }
    pending = len(resource.pending)
    size = SIZE_KIB if resource.dstate not in ("Diskless", "Attaching") else 0
    device = {"size": size, "read": 0, "written": resource.written, "al-writes": resource.al_writes, "bm-writes": 0}
    device |= {"upper-pending": pending, "lower-pending": 0}
    statistics = {"device": {name: str(value) for name, value in device.items()}}
    statistics["device"] |= {"al-suspended": "no", "blocked": "upper" if resource.suspended else "no"}
    if resource.configured:
        state = {"WFConnection": "Connecting", "WFReportParams": "Connected"}.get(resource.cstate, resource.cstate)
        replication = "Off"
        if resource.connected:
            state, replication = "Connected", {"Connected": "Established"}.get(resource.cstate, resource.cstate)
        facts["connection"] = {"connection": state, "role": resource.peer_role, "congested": "no"}
        facts["peer-device"] = {"replication": replication, "peer-disk": resource.pdsk, "resync-suspended": "no"}
        sent = {"received": resource.received, "sent": resource.sent, "out-of-sync": resource.disk.oos()}
        sent |= {"pending": sum(request.sent for request in resource.pending.values()), "unacked": 0}
        statistics["peer-device"] = {name: str(value) for name, value in sent.items()}
    return View(resource.name, resource.minor, facts, statistics)


def _key(shown: View, kind: str) -> str:
    more = {"device": f" volume:0 minor:{shown.minor}", "connection": f" {PEER}", "peer-device": f" {PEER} volume:0"}
    return f"{kind} name:{shown.name}{more.get(kind, '')}"


def _words(*parts: dict[str, str]) -> str:
    return "".join(f" {name}:{value}" for part in parts for name, value in part.items())


def changes(old: View, new: View, again: bool) -> list[str]:
    """The events2 lines (without their time) between two moments. `again`: repeat the unchanged, as the kernel does."""
    lines = []
    for kind in ("peer-device", "connection"):
        if kind in old.facts and kind not in new.facts:
            lines.append(f"destroy {_key(old, kind)}")
    for kind in KINDS:
        if kind not in new.facts:
            continue
        facts, statistics = new.facts[kind], new.statistics.get(kind, {})
        if kind not in old.facts:
            lines.append(f"create {_key(new, kind)}{_words(facts, statistics)}")
            continue
        changed = {name: value for name, value in facts.items() if old.facts[kind].get(name) != value}
        if changed or (again and kind != "device"):
            before = old.statistics.get(kind, {})
            sticky = ("al-suspended", "blocked")  # printed only when they changed
            shown = {
                name: value for name, value in statistics.items() if name not in sticky or before.get(name) != value
            }
            lines.append(f"change {_key(new, kind)}{_words(changed, shown)}")
    return lines


def existing(shown: View) -> list[str]:
    """What a fresh `events2` prints of a resource that is up."""
    return [
        f"exists {_key(shown, kind)}{_words(shown.facts[kind], shown.statistics.get(kind, {}))}"
        for kind in KINDS
        if kind in shown.facts
    ]


def removal(shown: View) -> list[str]:
    """The events2 lines of `down`."""
    kinds = [kind for kind in ("peer-device", "connection", "device", "resource") if kind in shown.facts]
    return [f"destroy {_key(shown, kind)}" for kind in kinds]


def _filled(indent: int, words: list[str]) -> str:
    """Words on as many lines as the tools need, all with one indent."""
    lines = textwrap.wrap(" ".join(words), WRAP - indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(" " * indent + line for line in lines)


def done(resource: Resource) -> str:
    """Percent of a running resync, "" without one."""
    if resource.cstate not in ("SyncSource", "SyncTarget"):
        return ""
    total = max(resource.resync_total, 1)
    return f"{100 * (total - len(resource.disk.dirty)) / total:.2f}"


def status_full(resource: Resource) -> str:
    """`drbdsetup status --verbose --statistics`."""
    shown = view(resource)
    facts, statistics = shown.facts, shown.statistics
    own = facts["resource"]
    out = [f"{shown.name} role:{own['role']} suspended:{own['suspended']}", "    write-ordering:flush"]
    out.append(f"  volume:0 minor:{shown.minor} disk:{facts['device']['disk']}")
    out.append(_filled(6, _words(statistics["device"]).split()))
    if "connection" in facts:
        out.append(f"  peer{_words(facts['connection'])}")
        device = dict(facts["peer-device"])
        percent = done(resource)
        words = [f"{name}:{device[name]}" for name in ("replication", "peer-disk")]
        words += [f"done:{percent}"] if percent else []
        first, *rest = _filled(4, ["volume:0", *words, f"resync-suspended:{device['resync-suspended']}"]).split("\n")
        out += [first, *("    " + line for line in rest)]
        out.append(_filled(8, _words(statistics["peer-device"]).split()))
    return "\n".join([*out, "", ""])


def status_short(resource: Resource) -> str:
    """`drbdadm status`: without numbers, and without what is as it should be."""
    shown = view(resource)
    own, facts = shown.facts["resource"], shown.facts
    suspended = f" suspended:{own['suspended']}" if own["suspended"] != "no" else ""
    blocked = " blocked:upper" if suspended else ""
    out = [f"{shown.name} role:{own['role']}{suspended}", f"  disk:{facts['device']['disk']}{blocked}"]
    if "connection" in facts:
        if facts["connection"]["connection"] != "Connected":
            out.append(f"  peer connection:{facts['connection']['connection']}")
        else:
            device, percent = facts["peer-device"], done(resource)
            out.append(f"  peer role:{facts['connection']['role']}")
            more = f" done:{percent}" if percent else ""
            out.append(f"    replication:{device['replication']} peer-disk:{device['peer-disk']}{more}")
    return "\n".join([*out, "", ""])


def sh_status(resource: Resource) -> str:
    """`drbdsetup sh-status MINOR`."""
    flags = "u" if resource.susp_user else ""
    lines = [f"_minor={resource.minor}", f"_res_name={resource.name}", "_volume=0", "_known=Configured", ""]
    lines += [f"_cstate={resource.cstate}", f"_role={resource.role}", f"_peer={resource.peer_role}"]
    lines += [f"_disk={resource.dstate}", f"_pdsk={resource.pdsk}", "", f"_flags_susp={flags}", "_flags_aftr_isp="]
    lines += [
        "_flags_peer_isp=",
        "_flags_user_isp=",
        "",
        f"_resynced_percent={done(resource)}",
        "",
        "_sh_status_process",
        "",
        "",
    ]
    return "\n".join(lines) + "\n"


def show(conf: resconf.Resource, defaults: bool) -> str:
    """`drbdsetup show`, in the layout of drbdsetup-84's own strings (no recording of it exists)."""
    own = conf.hosts[resconf.node_name()]
    peer = next(host for name, host in conf.hosts.items() if name != resconf.node_name())

    def options(indent: int, section: str) -> list[str]:
        known = dict(conf.common.get(section, {})) | conf.own.get(section, {})
        rows = [(name, value, "") for name, value in known.items()]
        missing = resconf.DEFAULTS.get(section, {}).items() if defaults else ()
        rows += [(name, value, " # default") for name, value in missing if name not in known]
        return [f"{' ' * indent}{name:<16}\t{value};{note}" for name, value, note in rows]

    out = [f"resource {conf.name} {{", "    options {", *options(8, "options"), "    }"]
    out += ["    net {", *options(8, "net"), "    }"]
    out += ["    _remote_host {", f"        address\t\t\t{peer.family} {peer.address}:{peer.port};", "    }"]
    out += ["    _this_host {", f"        address\t\t\t{own.family} {own.address}:{own.port};", "        volume 0 {"]
    out += [f"            device\t\t\tminor {own.minor};", f'            disk\t\t\t"{own.disk}";']
    out += ["            meta-disk\t\t\tinternal;", "            disk {", *options(16, "disk"), "            }"]
    return "\n".join([*out, "        }", "    }", "}", "", ""])
