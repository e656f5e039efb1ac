"""Reads DRBD's configuration language (`drbdadm dump`, `drbdsetup show`) for the gate: evidence E4.

The gate counts as closed only if the files, which the next `drbdadm adjust` makes true, and the running kernel both
say so. What one of them does not say is not assumed, with one exception that is written at `gate_facts`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from guard.core.evidence import GateFacts
from guard.errors import Unreadable

HANDLER = "pairguard-fence-peer"
DEPTH_MAX = 32  # real ones have 4
PROTOCOL, FENCING, CONGESTION = "C", "resource-and-stonith", "block"  # what a closed gate needs


@dataclass(frozen=True, slots=True)
class Section:
    """`words { statements }` or, without a block, `words;`."""

    words: tuple[str, ...]
    body: tuple[Section, ...] | None = None

    def sections(self, *words: str) -> Iterator[Section]:
        """Blocks directly inside whose first words are these."""
        return (each for each in self.body or () if each.body is not None and each.words[: len(words)] == words)

    def value(self, name: str) -> str | None:
        """The last word of `name value;` directly inside; None = not said."""
        found = [each.words for each in self.body or () if each.body is None and each.words[0] == name]
        return found[-1][-1] if found and len(found[-1]) > 1 else None

    def deep(self) -> Iterator[Section]:
        """This block and every block below it."""
        yield self
        for each in self.body or ():
            if each.body is not None:
                yield from each.deep()


@dataclass(frozen=True, slots=True)
class GateWords:
    """What one source (files or kernel) says of the gate, raw. None = it does not say."""

    protocol: str | None = None
    fencing: str | None = None
    on_congestion: str | None = None
    handler: str | None = None  # the fence-peer command line; always None for the kernel


_TOKEN = re.compile(r'\s+|#[^\n]*|"((?:[^"\\\n]|\\.)*)"|([^\s"{};#]+)|([{};])')


def parse_config(text: str) -> Section:
    """A whole `drbd.conf`-like text as one nameless block. Raises `Unreadable` if it is cut short or garbled."""
    stack: list[tuple[tuple[str, ...], list[Section]]] = [((), [])]
    words: list[str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable("cannot read DRBD's configuration", f"unexpected {text[at : at + 20]!r}")
        at = found.end()
        if found[1] is not None:
            words.append(re.sub(r"\\(.)", r"\1", found[1]))
        elif found[2] is not None:
            words.append(found[2])
        elif found[3] == "{":
            if len(stack) > DEPTH_MAX:
                raise Unreadable("cannot read DRBD's configuration", f"nested over {DEPTH_MAX} deep")
            stack.append((tuple(words), []))
            words = []
        elif found[3] == ";":
            if words:
                stack[-1][1].append(Section(tuple(words)))
            words = []
        elif found[3] == "}":
            if words or len(stack) == 1:
                raise Unreadable("cannot read DRBD's configuration", "a closing brace too many, or after half a line")
            head, body = stack.pop()
            stack[-1][1].append(Section(head, tuple(body)))
    if words or len(stack) != 1:
        raise Unreadable("cannot read DRBD's configuration", "the answer was cut short")
    return Section((), tuple(stack[0][1]))


def configured(text: str, resource: str) -> GateWords | None:
    """`drbdadm dump` (all of it: handlers often stand in `common`). None: the resource is not in it."""
    whole = parse_config(text)
    own = next(whole.sections("resource", resource), None)
    if own is None:
        return None
    common = next(whole.sections("common"), Section((), ()))
    return GateWords(
        protocol=_protocol(common, own),
        fencing=_worst(_inherited(common, own, "disk", "net", option="fencing"), FENCING),
        on_congestion=_worst(_inherited(common, own, "net", option="on-congestion"), CONGESTION),
        handler=_handler(common, own),
    )


def running(text: str, resource: str) -> GateWords | None:
    """`drbdsetup show RES --show-defaults`. None: the kernel does not have the resource."""
    own = next(parse_config(text).sections("resource", resource), None)
    if own is None:
        return None
    fencing = [
        value
        for each in own.deep()
        if each.words[:1] in (("disk",), ("net",))
        if (value := each.value("fencing")) is not None
    ]
    disks = [volume for each in own.deep() for volume in each.sections("volume")]
    if not any(each.value("fencing") for net in own.deep() for each in net.sections("net")):
        # 8.4 keeps the policy with each disk: a volume that does not say leaves the whole unknown
        fencing_all: list[str | None] = [*fencing]
        fencing_all += [None for volume in disks if not any(disk.value("fencing") for disk in volume.sections("disk"))]
    else:
        fencing_all = [*fencing]
    nets = [each for block in own.deep() for each in block.sections("net")]
    return GateWords(
        protocol=_worst([each.value("protocol") for each in nets], PROTOCOL),
        fencing=_worst(fencing_all, FENCING),
        on_congestion=_worst([each.value("on-congestion") for each in nets], CONGESTION),
    )


def gate_facts(files: GateWords | None, kernel: GateWords | None, helper: str | None = None) -> GateFacts:
    """Both sources as one. A wrong word of either decides; a missing one leaves the fact unknown.

    The exception: where the files are silent about `protocol` and `on-congestion` their documented defaults (C and
    block, drbd.conf(5)) are what `adjust` would set, so the kernel's explicit word suffices. `helper` is the module's
    `usermode_helper`: anything but drbdadm means that our handler is never called; None = the module has no such file.
    """
    if files is None or kernel is None:
        return GateFacts()
    ours = files.handler is not None and _program(files.handler) == HANDLER
    if helper is not None and PurePosixPath(helper).name != "drbdadm":
        ours = False
    return GateFacts(
        protocol=_worst([files.protocol or PROTOCOL, kernel.protocol], PROTOCOL),
        fencing=_worst([files.fencing, kernel.fencing], FENCING),
        handler_ours=ours,
        on_congestion=_worst([files.on_congestion or CONGESTION, kernel.on_congestion], CONGESTION),
    )


def _worst(values: list[str | None], good: str) -> str | None:
    """The first word that is not the good one; else None if there is none or one is missing; else the good one."""
    for value in values:
        if value is not None and value != good:
            return value
    return good if values and None not in values else None


def _protocol(common: Section, own: Section) -> str | None:
    """`protocol` stands in `net`, or, as of old, directly in the resource."""
    said = [value for value in _inherited(common, own, "net", option="protocol") if value is not None]
    said += [value for each in (own, common) if (value := each.value("protocol")) is not None]
    return _worst([*said], PROTOCOL)


def _inherited(common: Section, own: Section, *kinds: str, option: str) -> list[str | None]:
    """The value the resource starts from (its own, else the common one), then every override further down."""

    def direct(block: Section) -> str | None:
        values = [each.value(option) for kind in kinds for each in block.sections(kind)]
        return next((value for value in values if value is not None), None)

    blocks = [each for each in own.deep() if each is not own]
    overrides = [value for block in blocks if (value := direct(block)) is not None]
    start = direct(own)
    return [start if start is not None else direct(common), *overrides]


def _handler(common: Section, own: Section) -> str | None:
    for block in (own, common):
        for each in block.sections("handlers"):
            command = each.value("fence-peer")
            if command is not None:
                return command
    return None


def _program(command: str) -> str:
    """The name of the program that a handler's command line starts; empty if it cannot be split."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return PurePosixPath(words[0]).name if words else ""
