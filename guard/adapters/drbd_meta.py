"""Reads DRBD's generation identifiers and flags (`get-gi`, `show-gi`), of the kernel or of metadata on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from guard.core.evidence import Disk, Generations
from guard.errors import Unreadable


@dataclass(frozen=True, slots=True)
class MetaData:
    """One volume's generation identifiers and flags (`get-gi`, `show-gi`); the flags as the tools name them.

    In metadata of a node that lost power `primary` says "was Primary"; `drbdadm up` turns it into `crashed_primary`.
    """

    generations: Generations
    consistent: bool
    was_up_to_date: bool
    primary: bool
    connected: bool
    full_sync: bool
    peer_outdated: bool
    crashed_primary: bool

    def disk(self) -> Disk:
        """What the disk would attach as without its peer. Never UP_TO_DATE: only a peer can confirm that."""
        if not self.consistent:
            return Disk.INCONSISTENT
        return Disk.CONSISTENT if self.was_up_to_date else Disk.OUTDATED


_GI = re.compile(r"[0-9A-F]{16}:[0-9A-F]{16}:[0-9A-F]{16}:[0-9A-F]{16}(:[01]){7}")
_GI_START = re.compile(r"[0-9A-Fa-f]{6,16}:")
_JUST_CREATED = 4  # UUID_JUST_CREATED, drbd.h: metadata that never held data


def parse_get_gi(text: str) -> tuple[MetaData, ...]:
    """`get-gi` or `show-gi` of `drbdadm`, `drbdsetup` or `drbdmeta` (8.4, v08): one entry a volume, in order.

    Warnings and the drawing of `show-gi` around the lines are skipped. No such line, or one that is not whole
    (DRBD 9 prints 12 flags), is `Unreadable`.
    """
    lines = [line.strip() for line in text.splitlines() if _GI_START.match(line)]
    if not lines or any(not _GI.fullmatch(line) for line in lines):
        raise Unreadable("cannot read generation identifiers", f"no whole line of DRBD 8.4 in {text[-120:]!r}")
    return tuple(_meta_data(line.split(":")) for line in lines)


def stale(text: str) -> bool:
    """`drbdmeta` says itself that the device is attached and its metadata may lag behind the kernel."""
    return "Output might be stale" in text


def _meta_data(parts: list[str]) -> MetaData:
    current, bitmap, *history = (int(part, 16) for part in parts[:4])
    flags = [part == "1" for part in parts[4:]]
    return MetaData(Generations(current, bitmap, tuple(history)), *flags)


def fold_generations(volumes: Iterable[Generations]) -> Generations | None:
    """One set of identifiers for a resource with several volumes, None if there is none.

    Volumes have identifiers of their own. Folded sets are equal exactly if all volumes are, and one is the other's
    ancestor if all volumes moved in step; anything else compares as unrelated, which permits nothing.
    """
    all_of = list(volumes)
    if len(all_of) <= 1:
        return all_of[0] if all_of else None
    bitmap = 0 if not any(one.bitmap for one in all_of) else _mixed([one.bitmap or one.current for one in all_of])
    history = tuple(_mixed(list(column)) for column in zip(*(one.history for one in all_of), strict=False))
    return Generations(_mixed([one.current for one in all_of]), bitmap, history)


def _mixed(values: list[int]) -> int:
    """64 bits out of several identifiers, bit 0 (which only tells the role) left out; the two special ones stay."""
    if set(values) in ({0}, {_JUST_CREATED}):
        return values[0]
    data = b"".join((value & ~1).to_bytes(8, "big") for value in values)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") & ~1
