"""What settings name besides themselves: files (there? whose? open to whom?), and example values left in place.

Nothing is opened and nothing is asked on the network; what the program itself makes of them says `guard.cli.starting`.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from guard.errors import closed_to_us
from guard.settings import Bus, GuardSettings, Origin, WitnessSettings

Kind = Literal["public", "key", "secret", "script"]
FORBIDDEN: Mapping[Kind, int] = {
    "public": 0o022,  # a certificate: anybody may read it
    "key": 0o037,  # 0600, or 0640 for a group
    "secret": 0o077,  # 0600: the guard itself starts with no other (adapters.bus.secret_of)
    "script": 0o027,  # 0700 or 0750, also 0600 and 0640: its text is the password
}
WANTED: Mapping[Kind, str] = {"public": "644", "key": "600", "secret": "600", "script": "700"}
SECRET = re.compile(r"pass|secret|community|token", re.IGNORECASE)  # option names of stock agents
FILES = ("_script", "_file", "-script", "-file")  # ... and those of them that name a file instead
WITNESS_USER = "pairguard"  # packaging/systemd/pairguard.sysusers.conf
EXAMPLES = tuple(  # RFC 5737 and RFC 3849: for documentation only
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)
OPEN_TO_OTHERS = 0o037  # settings with a password in them: 0600, or 0640


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with what the settings name. `code` and `key` name it from one `check` to the next.

    `starts`: does the program start all the same? None: this user may not look, so nothing is known of it.
    """

    code: str
    key: str
    text: str
    show: str
    mend: str
    starts: bool | None


def unless_closed(fault: Fault, error: BaseException) -> Fault:
    """`fault`, which `error` told; or that nothing is known, where a file is closed to this user."""
    if not closed_to_us(error):
        return fault
    return replace(fault, text=f"not looked at: {fault.text}", mend="run it as root", starts=None)


def of_guard(settings: GuardSettings) -> tuple[Fault, ...]:
    """TLS, SNMP secrets and password scripts of fence devices."""
    named: list[tuple[str, Path, Kind]] = [*_tls(settings.bus)]
    for number, switch in enumerate(settings.switch, 1):
        for key, path in (("community_file", switch.community_file), ("auth_file", switch.auth_file)):
            named += [(f"switch (number {number}).{key}", path, "secret")] if path is not None else []
        if switch.priv_file is not None:
            named.append((f"switch (number {number}).priv_file", switch.priv_file, "secret"))
    for node, fence in sorted(settings.fence.items()):
        for option, value in sorted(fence.options.items()):
            if SECRET.search(option) and option.endswith(FILES):
                named.append((f"fence.{node}.options.{option}", Path(value), "script"))
    owners = {0, os.geteuid()}
    return tuple(fault for key, path, kind in named if (fault := _fault(key, path, kind, owners)) is not None)


def of_witness(settings: WitnessSettings) -> tuple[Fault, ...]:
    """TLS, and the password for etcd; the witness runs as a user of its own."""
    owners = {0, os.geteuid(), *witness_user()}
    return tuple(f for key, path, kind in _of_witness(settings) if (f := _fault(key, path, kind, owners)) is not None)


def witness_user() -> frozenset[int]:
    """The user that the witness runs as; empty where there is none."""
    try:
        return frozenset({pwd.getpwnam(WITNESS_USER).pw_uid})
    except KeyError:
        return frozenset()


def clear_passwords(settings: GuardSettings, origin: Origin) -> tuple[Fault, ...]:
    """Passwords by value, in a fragment that others may read. Whoever may read it can switch the node off."""
    found = []
    for node, fence in sorted(settings.fence.items()):
        for option in sorted(fence.options):
            key = f"fence.{node}.options.{option}"
            if SECRET.search(option) and not option.endswith(FILES):
                file = origin.of(key)
                seen = file.stat()
                if seen.st_mode & OPEN_TO_OTHERS or seen.st_uid not in (0, os.geteuid()):
                    text = f"a password by value in {file} (mode {stat.S_IMODE(seen.st_mode):04o}): others may read it"
                    mend = f"chmod 600 {file}; better: {option}_script, a program that prints it"
                    found.append(Fault("cleartext-password", key, text, f"ls -l {file}", mend, starts=True))
    return tuple(found)


def examples(settings: GuardSettings | WitnessSettings) -> tuple[Fault, ...]:
    """Addresses that stand in configs/ as examples and that no network has."""
    named = {"bus.host": settings.bus.host}
    if isinstance(settings, GuardSettings):
        named |= {f"switch (number {n}).host": switch.host for n, switch in enumerate(settings.switch, 1)}
        if settings.probe is not None:
            named |= {"probe.own": settings.probe.own, "probe.peer": settings.probe.peer}
        if settings.network.traps is not None:
            named["network.traps.address"] = settings.network.traps.address
        for node, fence in sorted(settings.fence.items()):
            named |= {f"fence.{node}.options.{o}": v for o, v in fence.options.items() if o in ("ip", "ipaddr")}
    else:
        hosts = [urlsplit(endpoint).hostname or "" for endpoint in settings.store.endpoints]
        named |= {f"store.endpoints (number {n})": host for n, host in enumerate(hosts, 1)}
    found = []
    for key, value in named.items():
        if is_example(value):
            text = f"example value still in place: {value} is an address of no network (RFC 5737, RFC 3849)"
            mend = f"write your own address at {key}"
            found.append(Fault("example-value", key, text, "pairguard check --settings", mend, starts=True))
    return tuple(found)


def is_example(address: str) -> bool:
    try:
        own = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(own.version == net.version and own in net for net in EXAMPLES)


def closed_to_witness(settings: WitnessSettings) -> Iterator[Fault]:
    """What root can read and the witness cannot, which does not run as root. Nothing where its user is not known."""
    uids = witness_user()
    if os.geteuid() != 0 or not uids:
        return
    uid = min(uids)
    groups = frozenset(os.getgrouplist(WITNESS_USER, pwd.getpwuid(uid).pw_gid))
    files = [("keys.private", settings.keys.private), ("keys.public_dir", settings.keys.public_dir)]
    files += [("keys.public_dir", path) for path in sorted(settings.keys.public_dir.glob("*.pub"))]
    for key, path in (*files, *((key, path) for key, path, _ in _of_witness(settings))):
        closed = closed_to(path, uid, groups)
        if closed is not None:
            text = (
                f"{path} cannot be read by the user {WITNESS_USER}, as whom the witness runs: {closed} is closed to it"
            )
            mend = f"chown {WITNESS_USER}: {closed}"
            yield Fault("file-closed", key, text, f"ls -ld {closed}", mend, starts=False)


def closed_to(path: Path, uid: int, groups: frozenset[int]) -> Path | None:
    """The first part of `path` that this user may not pass or, at its end, read; None: it may, or nothing is there."""
    for part in (*reversed(path.parents), path):
        try:
            seen = part.stat()
        except OSError:
            return None
        wanted = 0o1 if part != path else 0o5 if stat.S_ISDIR(seen.st_mode) else 0o4
        shift = 6 if seen.st_uid == uid else 3 if seen.st_gid in groups else 0
        if uid != 0 and (seen.st_mode >> shift) & wanted != wanted:
            return part
    return None


def _tls(bus: Bus) -> Iterator[tuple[str, Path, Kind]]:
    if bus.tls is not None:
        yield "bus.tls.ca", bus.tls.ca, "public"
        yield "bus.tls.certificate", bus.tls.certificate, "public"
        yield "bus.tls.key", bus.tls.key, "key"


def _of_witness(settings: WitnessSettings) -> Iterator[tuple[str, Path, Kind]]:
    yield from _tls(settings.bus)
    store = settings.store
    if store.tls is not None:
        yield "store.tls.ca", store.tls.ca, "public"
        if store.tls.certificate is not None and store.tls.key is not None:
            yield "store.tls.certificate", store.tls.certificate, "public"
            yield "store.tls.key", store.tls.key, "key"
    if store.password_file is not None:
        yield "store.password_file", store.password_file, "secret"


def _fault(key: str, path: Path, kind: Kind, owners: set[int]) -> Fault | None:
    """None: it is there, a file, ours, and no wider open than it may be."""
    show = f"ls -l {path}"
    starts = kind == "script"
    try:
        seen = path.stat()
    except OSError as error:
        mend = f"put it there, or correct {key}"
        missing = Fault("file-missing", key, f"cannot look at {path}: {error.strerror}", show, mend, starts)
        return unless_closed(missing, error)
    if not stat.S_ISREG(seen.st_mode):
        return Fault("file-missing", key, f"{path} is no file", show, f"correct {key}", starts)
    mode = stat.S_IMODE(seen.st_mode)
    if not seen.st_size:
        return Fault("file-empty", key, f"{path} is empty", show, f"write it anew, or correct {key}", starts)
    if mode & FORBIDDEN[kind]:
        what = "change" if kind == "public" else "read or change"
        text = f"{path} has mode {mode:04o}: others may {what} it"
        mend = f"chmod {WANTED[kind]} {path}"
        if kind != "public" and mode & 0o044:
            mend += "; whoever read it knows the secret, so then renew it"
        return Fault("file-open", key, text, show, mend, starts or kind != "secret")
    if seen.st_uid not in owners:
        text = f"{path} belongs to user {seen.st_uid}, who may change it"
        return Fault("file-owner", key, text, show, f"chown root {path}", starts=True)
    if kind == "script" and not mode & 0o100:
        return Fault("file-not-run", key, f"{path} is no program", show, f"chmod 700 {path}", starts)
    return None
