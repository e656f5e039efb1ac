"""Reads a resource file in DRBD's own syntax, and prints it as `drbdadm dump` of drbd-utils 9.22 for 8.4 does."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(r'\s*(?:#[^\n]*|"((?:[^"\\]|\\.)*)"|([{};])|([^\s{};"#]+))')
SECTIONS = ("options", "net", "disk", "startup", "handlers")
# drbdsetup-84 xml-help {net,disk}-options: the defaults of what this stand-in heeds.
DEFAULTS = {
    "net": {
        "protocol": "C",
        "timeout": "60",
        "ping-int": "10",
        "ping-timeout": "5",
        "connect-int": "10",
        "on-congestion": "block",
    },
    "disk": {"fencing": "dont-care", "resync-rate": "250k"},
}


class ConfigError(Exception):
    """The file is missing, or is not DRBD syntax; the text says where."""


@dataclass(slots=True)
class Host:
    """One `on NODE { }`."""

    address: str = ""
    family: str = "ipv4"
    port: int = 0
    device: str = ""
    minor: int = 0
    disk: str = ""
    meta_disk: str = "internal"


@dataclass(slots=True)
class Resource:
    """One resource: `own` is what stands in it, `common` what it inherits (which `dump RES` does not print)."""

    name: str
    line: int
    hosts: dict[str, Host] = field(default_factory=dict)
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    common: dict[str, dict[str, str]] = field(default_factory=dict)

    def option(self, section: str, name: str) -> str | None:
        """The value in force: own, else common, else the built-in default; None if there is no such thing."""
        for level in (self.own, self.common, DEFAULTS):
            if name in level.get(section, {}):
                return level[section][name]
        return None

    def fencing(self) -> str:
        """8.4 has `fencing` in the disk section; 9 moved it to net. Both are heeded."""
        for level in (self.own, self.common):
            for section in ("disk", "net"):
                if "fencing" in level.get(section, {}):
                    return level[section]["fencing"]
        return DEFAULTS["disk"]["fencing"]


@dataclass(slots=True)
class _Tokens:
    text: str
    items: list[tuple[str, bool, int]] = field(default_factory=list)  # word, quoted, line
    at: int = 0

    def __post_init__(self) -> None:
        pos = 0
        while pos < len(self.text):
            match = TOKEN.match(self.text, pos)
            if match is None:
                if self.text[pos:].strip():
                    raise ConfigError(f"cannot read line {self.text.count(chr(10), 0, pos) + 1}")
                break
            pos = match.end()
            line = self.text.count("\n", 0, pos) + 1
            for index in (1, 2, 3):
                if match.group(index) is not None:
                    self.items.append((match.group(index), index == 1, line))

    def next(self) -> str:
        if self.at >= len(self.items):
            raise ConfigError("unexpected end of file")
        self.at += 1
        return self.items[self.at - 1][0]

    def line(self) -> int:
        return self.items[self.at - 1][2]

    def done(self) -> bool:
        return self.at >= len(self.items)

    def statement(self) -> tuple[list[str], str]:
        """Words up to the next `;`, `{` or `}`, and which of them ended it."""
        words: list[str] = []
        while True:
            word = self.next()
            if word in "{};" and not self.items[self.at - 1][1]:
                return words, word
            words.append(word)


def node_name() -> str:
    """The node's own name: `__DRBD_NODE__` as for the real tools, else the host name."""
    return os.environ.get("__DRBD_NODE__") or os.uname().nodename


def conf_path() -> Path:
    """Where the configuration is."""
    return Path(os.environ.get("PGLAB_DRBD_CONF", "/etc/drbd.conf"))


def load(path: Path | None = None) -> dict[str, Resource]:
    """Every resource of the file, in order. Raises ConfigError."""
    path = path or conf_path()
    try:
        tokens = _Tokens(path.read_text())
    except OSError as error:
        raise ConfigError(f"Can not open '{path}'.") from error
    found: dict[str, Resource] = {}
    common: dict[str, dict[str, str]] = {}
    while not tokens.done():
        words, end = tokens.statement()
        if words[:1] == ["resource"] and end == "{":
            resource = Resource(words[1], tokens.line())
            _read_resource(tokens, resource)
            found[resource.name] = resource
        elif words == ["common"] and end == "{":
            shell = Resource("common", 0)
            _read_resource(tokens, shell)
            common = shell.own
        elif end == "{":
            _read_options(tokens)
        elif words and words[0] != "include":
            raise ConfigError(f"{path}:{tokens.line()}: cannot read '{' '.join(words)}'")
    for resource in found.values():
        resource.common = common
    return found


def dump(resource: Resource, path: Path) -> str:
    """What `drbdadm dump RES` prints: the resource's own words, without what it inherits from `common`."""
    out = [f"# resource {resource.name} on {node_name()}: not ignored, not stacked"]
    out.append(f"# defined at {path}:{resource.line}")
    out.append(f"resource {resource.name} {{")
    for name, host in resource.hosts.items():
        out.append(f"    on {name} {{")
        out.append(f"        device           {host.device} minor {host.minor};")
        out.append(f"        disk             {host.disk};")
        out.append(f"        meta-disk        {host.meta_disk};")
        out.append(f"        address          {host.family} {host.address}:{host.port};")
        out.append("    }")
    for section in SECTIONS:
        if options := resource.own.get(section):
            out.append(f"    {section} {{")
            for name, value in options.items():
                shown = f'"{value}"' if section == "handlers" else value
                out.append(f"        {name:<16} {shown:>3};")
            out.append("    }")
    return "\n".join([*out, "}", "", ""])


def _read_options(tokens: _Tokens) -> dict[str, str]:
    options: dict[str, str] = {}
    while True:
        words, end = tokens.statement()
        if end == "}":
            return options
        if end == "{":
            _read_options(tokens)
        elif words:
            options[words[0]] = " ".join(words[1:]) or "yes"


def _read_resource(tokens: _Tokens, resource: Resource) -> None:
    shared = Host()
    while True:
        words, end = tokens.statement()
        if end == "}":
            break
        if end == "{" and words[:1] == ["on"]:
            resource.hosts[words[1]] = _read_host(tokens)
        elif end == "{" and words[0] in SECTIONS:
            resource.own.setdefault(words[0], {}).update(_read_options(tokens))
        elif words[:1] == ["protocol"]:
            resource.own.setdefault("net", {})["protocol"] = words[1]
        elif end == ";" and words:
            _host_word(shared, words)
        else:
            raise ConfigError(f"line {tokens.line()}: cannot read '{' '.join(words)}'")
    for host in resource.hosts.values():
        host.device, host.disk = host.device or shared.device, host.disk or shared.disk
        host.minor = host.minor or shared.minor


def _read_host(tokens: _Tokens) -> Host:
    host = Host()
    while True:
        words, end = tokens.statement()
        if end == "}":
            return host
        if words:
            _host_word(host, words)


def _host_word(host: Host, words: list[str]) -> None:
    match words:
        case ["address", where] | ["address", _, where]:
            if len(words) == 3:
                host.family = words[1]
            address, _, port = where.rpartition(":")
            host.address, host.port = address, int(port)
        case ["device", device, *rest]:
            host.device = device
            host.minor = int(rest[1]) if rest[:1] == ["minor"] else int(re.sub(r"\D", "", device) or 0)
        case ["disk", disk]:
            host.disk = disk
        case ["meta-disk", where]:
            host.meta_disk = where
        case _:
            raise ConfigError(f"cannot read '{' '.join(words)}'")


def rate_kib(text: str) -> float:
    """`4M`, `250k`, bare number = KiB a second (as resync-rate counts) -> KiB a second."""
    factor = {"k": 1.0, "m": 1024.0, "g": 1048576.0}.get(text[-1:].lower())
    return float(text) if factor is None else float(text[:-1]) * factor
