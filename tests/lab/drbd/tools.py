"""drbdadm, drbdsetup and drbdmeta of the stand-in: arguments, messages and exit codes as the 8.4 tools have them.

Messages and codes come from the recordings (rc 10, 11, 17, 5, 20); `drbdadm` adds its own line about `drbdsetup-84`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import disk
import resconf

VERSION = """DRBDADM_BUILDTAG=GIT-hash:\\ pairguard-lab-stand-in
DRBDADM_API_VERSION=1
DRBD_KERNEL_VERSION_CODE=0x08040b
DRBD_KERNEL_VERSION=8.4.11
DRBDADM_VERSION_CODE=0x091600
DRBDADM_VERSION=9.22.0
"""
NO_MODULE = "Could not connect to 'drbd' generic netlink family\n"
UNKNOWN_MINOR = "{}: Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown minor\n"
ASKS = ("role", "cstate", "dstate")
HANDS = ("primary", "secondary", "connect", "disconnect", "down", "outdate", "suspend-io", "resume-io")
CONNECTION = ("connect", "disconnect")


class Exit(Exception):
    """Ends the tool."""

    def __init__(self, code: int, out: str = "", err: str = "") -> None:
        super().__init__(err)
        self.code, self.out, self.err = code, out, err


def run(tool: str, arguments: list[str]) -> int:
    """One call of `tool`; its exit code."""
    table = {"drbdadm": drbdadm, "drbdsetup": drbdsetup, "drbdmeta": drbdmeta}
    try:
        out, code = table[tool](arguments), 0
        err = ""
    except Exit as end:
        out, err, code = end.out, end.err, end.code
    except resconf.ConfigError as error:
        out, err, code = "", f"{error}\n", 20
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    sys.stdout.write(out)
    sys.stderr.write(err)
    return code


def ask(**order: object) -> str:
    """One order to the daemon; what it printed. Raises Exit with its code otherwise."""
    with _dial() as wire:
        wire.sendall(json.dumps(order).encode() + b"\n")
        reply = wire.makefile().readline()
    if not reply:
        raise Exit(20, err="drbd: the stand-in died\n")
    answer = json.loads(reply)
    if answer["rc"]:
        raise Exit(answer["rc"], answer["out"], answer["err"])
    return str(answer["out"])


def _dial() -> socket.socket:
    path = Path(os.environ.get("PGLAB_DRBD_RUN", "/run/drbd-standin")) / "control"
    wire = socket.socket(socket.AF_UNIX)
    try:
        wire.connect(str(path))
    except OSError as error:
        raise Exit(20, err=NO_MODULE) from error
    return wire


def _up() -> dict[str, int]:
    """Name -> minor of what is up."""
    return dict(json.loads(ask(do="list")))


# -- drbdsetup ---------------------------------------------------------------------------------------------------------


def drbdsetup(arguments: list[str]) -> str:
    """`drbdsetup VERB [RESOURCE|MINOR] [OPTIONS]`."""
    if "--version" in arguments:
        return VERSION
    if not arguments:
        raise Exit(20, err="USAGE: drbdsetup-84 command device arguments options\n")
    verb, *rest = arguments
    options = {word for word in rest if word.startswith("-")}
    names = [word for word in rest if not word.startswith("-")]
    if unknown := options & {"--json", "-j"}:
        raise Exit(20, err=f"{verb}: unrecognized option '{unknown.pop()}'\n")
    if verb == "events2":
        return _events2(names, options)
    if verb in ("status", "show"):
        return _whole(verb, names, options)
    name, shown = _resolve(verb, names)
    if verb == "sh-status" and name is None:
        return _sh_unconfigured(shown)
    if name is None:
        if verb == "down":
            raise Exit(10, err=f"{shown}: Failure: (158) Unknown resource\n")
        raise Exit(10, err=UNKNOWN_MINOR.format(shown))
    force, discard = bool(options & {"--force", "-f"}), "--discard-my-data" in options
    return ask(do=verb, resource=name, force=force, discard=discard)


def _resolve(verb: str, names: list[str]) -> tuple[str | None, str]:
    """The resource that a name, a minor, a device or an address pair means (None = not up), and how to call it."""
    up = _up()
    if not names:
        if verb == "sh-status" and up:
            return next(iter(up)), "0"
        raise Exit(20, err=f"{verb}: missing argument\n")
    target = names[0].removeprefix("/dev/drbd")
    if target in up:
        return target, target
    for name, minor in up.items():
        if target == str(minor):
            return name, target
    if names[0].startswith("ipv"):
        for name, conf in resconf.load().items():
            own = conf.hosts.get(resconf.node_name())
            if own is not None and names[0] == f"{own.family}:{own.address}:{own.port}":
                return (name if name in up else None), "??"
    return None, target


def _whole(verb: str, names: list[str], options: set[str]) -> str:
    """`status` and `show`, of one resource or of all."""
    up = _up()
    name = names[0] if names and names[0] != "all" else None
    if name is not None and name not in up:
        raise Exit(10, err=f"{name}: No such resource\n")
    if not up and verb == "status":
        return "# No currently configured DRBD found.\n"
    if verb == "show":
        order = "show-defaults" if options & {"--show-defaults", "-D"} else "show"
    else:
        order = "status-full" if options & {"--verbose", "-v", "--statistics", "-s"} else "status"
    return "".join(ask(do=order, resource=one) for one in ([name] if name else up))


def _events2(names: list[str], options: set[str]) -> str:
    stamped = bool(options & {"--timestamps", "-T"})
    counted = bool(options & {"--statistics", "-s"})
    only = names[0] if names and names[0] != "all" else None
    with _dial() as wire:
        wire.sendall(json.dumps({"do": "events2", "now": "--now" in options}).encode() + b"\n")
        for line in wire.makefile():
            time, _, event = line.partition(" ")
            if only is not None and f" name:{only}" not in event and event != "exists -\n":
                continue
            if not counted:
                event = _without_statistics(event)
            sys.stdout.write(f"{time} {event}" if stamped else event)
            sys.stdout.flush()
    return ""


def _without_statistics(event: str) -> str:
    """Without --statistics the counters are left out."""
    counters = (
        "size",
        "read",
        "written",
        "al-writes",
        "bm-writes",
        "upper-pending",
        "lower-pending",
        "al-suspended",
        "blocked",
    )
    counters += ("received", "sent", "out-of-sync", "pending", "unacked", "congested", "write-ordering")
    return " ".join(word for word in event.rstrip("\n").split(" ") if word.partition(":")[0] not in counters) + "\n"


def _sh_unconfigured(minor: str) -> str:
    words = [
        "_role=",
        "_peer=",
        "_disk=",
        "_pdsk=",
        "_flags_susp=",
        "_flags_aftr_isp=",
        "_flags_peer_isp=",
        "_flags_user_isp=",
    ]
    head = [
        f"_minor={minor}",
        "_res_name=",
        "_volume=-1",
        "_known=NA # not available or not yet created",
        "",
        "_cstate=Unconfigured",
    ]
    return "\n".join([*head, *words, "_resynced_percent=", "", "_sh_status_process", "", "", ""])


# -- drbdadm -----------------------------------------------------------------------------------------------------------


def drbdadm(arguments: list[str]) -> str:
    """`drbdadm VERB RESOURCE|all [OPTIONS]`."""
    if "--version" in arguments or "-V" in arguments:
        return VERSION
    words = _plain(arguments)
    if not words:
        raise Exit(1, err="USAGE: drbdadm COMMAND [OPTION...] {all|RESOURCE...}\n")
    verb, names = words[0], words[1:]
    if "--json" in arguments:
        raise Exit(1, err="drbdadm: unrecognized option '--json'\n")
    known = resconf.load()
    if verb == "sh-resources":
        return " ".join(known) + "\n"
    if verb == "sh-nop":
        return ""
    chosen = list(known) if names[:1] == ["all"] or (not names and verb in ("status", "dump")) else names
    if not chosen:
        raise Exit(1, err=f"drbdadm: command '{verb}' requires a resource\n")
    out = ""
    for name in chosen:
        name = name.partition("/")[0]
        if name not in known:
            raise Exit(10, out, f"'{name}' not defined in your config (for this host).\n")
        out += _adm(verb, known[name], set(arguments))
    return out


def _plain(arguments: list[str]) -> list[str]:
    """Verb and names; drops options (and the file that -c names)."""
    words, skip = [], False
    for word in arguments:
        if not skip and not word.startswith("-"):
            words.append(word)
        if skip and not word.startswith("-"):
            os.environ["PGLAB_DRBD_CONF"] = word
        skip = word in ("-c", "--config-file")
    return words


def _adm(verb: str, conf: resconf.Resource, options: set[str]) -> str:
    own = conf.hosts.get(resconf.node_name())
    if own is None:
        raise Exit(10, err=f"'{conf.name}' not defined in your config (for this host).\n")
    name, minor = conf.name, own.minor
    simple = {"sh-dev": own.device, "sh-minor": str(minor), "sh-ll-dev": own.disk, "sh-md-dev": own.disk}
    if verb in simple:
        return simple[verb] + "\n"
    if verb == "dump":
        return resconf.dump(conf, resconf.conf_path())
    if verb in ("create-md", "dump-md"):
        return drbdmeta(["--force", str(minor), "v08", own.disk, "internal", verb])
    if verb in ("up", "attach"):
        return ask(do="up", resource=name)
    if verb == "adjust":
        return _adjust(name)
    if verb in ("get-gi", "show-gi"):
        if name in _loaded():
            return ask(do=verb, resource=name)
        return drbdmeta([str(minor), "v08", own.disk, "internal", verb])
    if verb == "dstate" and name not in _loaded():
        stored = _stored(Path(own.disk))
        return ("Inconsistent" if not stored.consistent else "Consistent" if stored.was_uptodate else "Outdated") + "\n"
    if verb == "sh-status":
        return drbdsetup([verb, str(minor)])
    if verb == "status":
        return _told(["status", name], [verb, name])
    if verb not in ASKS + HANDS:
        raise Exit(1, err=f"Unknown command '{verb}'.\n")
    peer = next(host for host in conf.hosts.values() if host is not own)
    pair = [f"{own.family}:{own.address}:{own.port}", f"{peer.family}:{peer.address}:{peer.port}"]
    target = (
        [name]
        if verb == "down"
        else [name, *pair]
        if verb == "connect"
        else pair
        if verb == "disconnect"
        else [str(minor)]
    )
    if verb == "down" and name not in _loaded():
        return ""
    extra = sorted(options & {"--force", "--discard-my-data"})
    return _told(
        [verb, *target, *extra], [verb, *(target if verb in CONNECTION else [name if verb == "down" else str(minor)])]
    )


def _told(arguments: list[str], shown: list[str]) -> str:
    """drbdsetup through drbdadm, which adds a line to a failure."""
    try:
        return drbdsetup(arguments)
    except Exit as end:
        line = f"Command 'drbdsetup-84 {' '.join(shown)}' terminated with exit code {end.code}\n"
        raise Exit(end.code, end.out, end.err + line) from end


def _loaded() -> dict[str, int]:
    try:
        return _up()
    except Exit:
        return {}


def _adjust(name: str) -> str:
    if name not in _loaded():
        return ask(do="up", resource=name)
    if "StandAlone" in ask(do="cstate", resource=name):
        return ask(do="connect", resource=name)
    return ""


# -- drbdmeta ----------------------------------------------------------------------------------------------------------


def _stored(prefix: Path) -> disk.Meta:
    try:
        return disk.load_meta(prefix)
    except FileNotFoundError as error:
        raise Exit(255, err="No valid meta data found\n") from error


def drbdmeta(arguments: list[str]) -> str:
    """`drbdmeta [--force] MINOR v08 PREFIX internal VERB [GI]`, on the stored files, whether the resource is up or
    not."""
    words = [word for word in arguments if not word.startswith("-")]
    if len(words) < 5:
        raise Exit(20, err="USAGE: drbdmeta [--force] DEVICE FORMAT [FORMAT ARGS...] COMMAND [CMD ARGS...]\n")
    _, _, prefix_text, _, verb, *rest = words
    prefix = Path(prefix_text)
    if verb == "get-gi":
        return _stored(prefix).get_gi() + "\n"
    if verb == "show-gi":
        return _stored(prefix).show_gi() + "\n"
    if verb == "dump-md":
        meta = _stored(prefix)
        uuids = " ".join(f"0x{value:016X};" for value in meta.uuids())
        return f'version "v08";\n\nuuid {{\n    {uuids}\n    flags 0x00000000;\n}}\n'
    if verb == "create-md":
        disk.save_meta(prefix, disk.Meta())
        return "initializing activity log\nNOT initializing bitmap\nNew drbd meta data block successfully created.\n"
    if verb == "set-gi" and rest:
        meta = disk.Meta()
        try:
            meta.set_gi(rest[0])
        except ValueError as error:
            raise Exit(20, err=f"cannot read '{rest[0]}'\n") from error
        disk.save_meta(prefix, meta)
        return f"{json.dumps(asdict(meta)) if '--verbose' in arguments else meta.get_gi()}\n"
    if verb == "apply-al":
        return ""
    raise Exit(20, err=f"invalid command {verb}\n")
