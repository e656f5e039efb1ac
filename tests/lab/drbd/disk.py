"""What survives a power loss on one node: generation identifiers with their flags, the records, the bitmap.

Files beside each other, PREFIX being the configuration's `disk`: PREFIX.md (identifiers, rewritten whole), PREFIX.data
(appended `block hash` lines; the last line of a block counts, `-` = gone), PREFIX.bm (appended block numbers out of
sync),
PREFIX.log (appended kernel-like lines). Nothing is fsynced: kill -9 of the processes, which is the lab's power loss,
leaves the page cache alone.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

JUST_CREATED = 4
NEW_BITMAP_OFFSET = 0x0001000000000000  # added to the bitmap identifier at the start of a resync (data/drbd 02-d)
ACTIVITY_LOG = 64  # blocks a crashed Primary marks at `up`; the real one marks 4 MiB extents
RECORD_KIB = 4

GI_HEAD = """
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
"""
GI_TAIL = """
                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+

"""


@dataclass(slots=True)
class Meta:
    """The generation identifiers (current, bitmap, two of history; bit 0 of current = Primary) and the seven flags."""

    current: int = JUST_CREATED
    bitmap: int = 0
    history1: int = 0
    history2: int = 0
    consistent: bool = False
    was_uptodate: bool = False
    primary: bool = False
    connected: bool = False
    full_sync: bool = False
    peer_outdated: bool = False
    crashed_primary: bool = False

    def uuids(self) -> list[int]:
        """[current, bitmap, history 1, history 2]."""
        return [self.current, self.bitmap, self.history1, self.history2]

    def get_gi(self) -> str:
        """The one line of `get-gi`."""
        flags = (self.consistent, self.was_uptodate, self.primary, self.connected)
        flags += (self.full_sync, self.peer_outdated, self.crashed_primary)
        return ":".join([*(f"{value:016X}" for value in self.uuids()), *(str(int(flag)) for flag in flags)])

    def show_gi(self) -> str:
        """The picture of `show-gi`."""
        words = ["Primary" if self.primary else "Secondary", "Connected" if self.connected else "StandAlone"]
        words.append("UpToDate" if self.was_uptodate else "Outdated" if self.consistent else "Inconsistent")
        words += ["peer Outdated"] if self.peer_outdated else []
        state = "clean" if self.current == JUST_CREATED else "need apply-al"
        never = "\nzero size device -- never seen peer yet?" if self.current == JUST_CREATED else ""
        return f"{GI_HEAD}{self.get_gi()}{GI_TAIL}flags: {', '.join(words)}\nmeta-data: {state}{never}"

    def set_gi(self, text: str) -> None:
        """Reads `CURRENT:BITMAP:HIST1:HIST2:consistent:was-uptodate[:...]`; later flags default to 0. Raises
        ValueError."""
        parts = text.split(":")
        numbers = [int(part or "0", 16) for part in parts[:4]] + [0] * 4
        self.current, self.bitmap, self.history1, self.history2 = numbers[:4]
        names = ("consistent", "was_uptodate", "primary", "connected", "full_sync", "peer_outdated", "crashed_primary")
        for index, name in enumerate(names):
            setattr(self, name, len(parts) > 4 + index and parts[4 + index] == "1")

    def new_current(self) -> None:
        """A new data generation: the old current one becomes the bitmap's base, which must be 0 (or goes to
        history)."""
        if self.bitmap:
            self.to_history(self.bitmap)
        self.bitmap = self.current
        self.current = secrets.randbits(64) & ~1 | (self.current & 1)

    def to_history(self, value: int) -> None:
        """Pushes one identifier on the history."""
        self.history1, self.history2 = value, self.history1


@dataclass(slots=True)
class Disk:
    """One backing disk. `blocks` maps a record's number to its hash; `dirty` is the bitmap."""

    prefix: Path
    meta: Meta = field(default_factory=Meta)
    blocks: dict[int, str] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)
    recent: list[int] = field(default_factory=list)
    _data: int = -1

    @classmethod
    def open(cls, prefix: Path) -> Disk:
        """Reads everything. Raises FileNotFoundError without metadata (no create-md yet)."""
        disk = cls(prefix)
        disk.meta = load_meta(prefix)
        data = part(prefix, "data")
        for line in data.read_text().splitlines() if data.exists() else []:
            block, _, mark = line.partition(" ")
            if not mark:
                continue  # the line that a power loss cut
            disk.recent.append(int(block))
            if mark == "-":
                disk.blocks.pop(int(block), None)
            else:
                disk.blocks[int(block)] = mark
        disk.recent = disk.recent[-ACTIVITY_LOG:]
        bitmap = part(prefix, "bm")
        disk.dirty = {int(line) for line in bitmap.read_text().splitlines()} if bitmap.exists() else set()
        disk._data = os.open(data, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return disk

    def close(self) -> None:
        """Detach."""
        os.close(self._data)

    def save(self) -> None:
        """Writes the identifiers, whole and at once."""
        save_meta(self.prefix, self.meta)

    def write(self, block: int, mark: str | None) -> None:
        """One record to the disk; None removes it (a resync from a peer that has no such record)."""
        os.write(self._data, f"{block} {mark or '-'}\n".encode())
        self.recent = [*self.recent[1 - ACTIVITY_LOG :], block]
        if mark is None:
            self.blocks.pop(block, None)
        else:
            self.blocks[block] = mark

    def mark(self, blocks: set[int]) -> None:
        """Sets bits in the bitmap, durably."""
        fresh = blocks - self.dirty
        if fresh:
            self.dirty |= fresh
            with part(self.prefix, "bm").open("a") as out:
                out.write("".join(f"{block}\n" for block in sorted(fresh)))

    def clear(self, block: int | None = None) -> None:
        """Clears one bit (kept on disk until all are clear: an upper bound, as in DRBD), or all."""
        if block is None:
            self.dirty.clear()
        else:
            self.dirty.discard(block)
        if not self.dirty:
            part(self.prefix, "bm").write_text("")

    def oos(self) -> int:
        """Out of sync, KiB."""
        return RECORD_KIB * len(self.dirty)

    def apply_al(self) -> int:
        """What `drbdadm up` does for a Primary that lost power: the last blocks count as out of sync; KiB marked."""
        before = len(self.dirty)
        self.mark(set(self.recent))
        return RECORD_KIB * (len(self.dirty) - before)


def part(prefix: Path, kind: str) -> Path:
    """One of the files of a disk."""
    return prefix.with_name(f"{prefix.name}.{kind}")


def load_meta(prefix: Path) -> Meta:
    """The stored identifiers. Raises FileNotFoundError where create-md never ran."""
    return Meta(**json.loads(part(prefix, "md").read_text()))


def save_meta(prefix: Path, meta: Meta) -> None:
    """Stores the identifiers so that a reader sees the old or the new ones."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    fresh = part(prefix, "md.new")
    fresh.write_text(json.dumps(asdict(meta)))
    fresh.replace(part(prefix, "md"))
