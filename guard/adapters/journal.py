"""Durable records of one node: what was decided is on the disk before it is said (`guard.ports.Journal`, S6).

1. `append` returns only after fdatasync. One append is one frame: after a power cut it is there whole, or not at all.
2. A bad frame with nothing good behind it is cut off, and kept in a side file: mostly it was never acknowledged, but a
   disk that damaged its last block looks the same, so the owner looks at `torn_bytes`. A bad frame with a good one
   behind it is a disk that lost what it had confirmed: the journal is not opened.
3. After a failed sync the frame is written again whole; a sync is never just repeated (Linux forgets the error).

File: 8 bytes magic, then frames `<len u32><crc32 u32><seq u64><payload>`, little-endian, CRC over seq and payload;
the payload is a JSON array of records; `seq` counts frames without a gap. Behind the last frame: zeros, preallocated.
Keep it off the replicated volume. All disk work runs in one thread of its own, so a hanging disk stops nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from guard.core.instant import elapsed_s
from guard.errors import Unavailable, Unreadable
from guard.ports import Clock

MAGIC = b"PGJRNL1\n"
HEADER = struct.Struct("<IIQ")
GROW_BYTES = 256 * 1024
FRAME_BYTES_MAX = 4 * 1024 * 1024
APPEND_S_MAX = 5.0  # a disk that needs longer counts as gone; a flush takes 0.1 ms to 10 ms (facts: measured)
TORN_BYTES_KEPT = 1024 * 1024
COMPACT_RECORDS_A_FRAME = 256

Record = Mapping[str, object]
T = TypeVar("T")


class FileJournal:
    """One file, one writer. Opening it locks, checks and repairs it; a second daemon is refused with `Unavailable`.

    `Unreadable`: the file is no journal, or lost records it had confirmed. Use as a context manager, or `close`.
    `torn_bytes`: what is damaged behind the last good frame. `append_s_max`: the slowest append.
    `sync`: fdatasync(2).
    """

    def __init__(self, path: Path, clock: Clock, sync: Callable[[int], None] = os.fdatasync) -> None:
        self._path, self._clock, self._sync = path, clock, sync
        self._lock = _locked(path)
        self._file = -1
        self._directory_dirty = False
        self.append_s_max = 0.0
        self.torn_bytes = 0
        try:
            if not path.exists():
                self._file = self._made(path, b"")
                self._settle_directory()
            else:
                self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._end, self._seq = self._recovered()
            self._opened = self._end
            self._size = os.fstat(self._file).st_size
            self._uncut = self.torn_bytes > 0  # until a write says what came of it: a start that fails comes again
        except OSError as error:
            self._release()
            raise _unavailable("open", path, error) from error
        except Unreadable:
            self._release()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    # ------------------------------------------------------------ the port

    async def append(self, records: Sequence[Record]) -> None:
        """Returns once all `records` are on the disk, together. `Unavailable`: full, broken or hanging disk.

        After `Unavailable` nothing may be said, and the journal stays usable; the records may yet turn up in `replay`
        if the disk was only slow. Records are JSON values; TypeError or ValueError for anything else (a bug of ours).
        """
        payload = _payload(records)
        began = self._clock.now()
        await self._in_thread(lambda: self._write(payload))
        self.append_s_max = max(self.append_s_max, elapsed_s(began, self._clock.now()))

    def replay(self) -> Iterator[Record]:
        """Every record that was there when the journal was opened, oldest first, until `compact`; nothing is kept.

        `Unreadable`: a whole frame holds no records. Later records are with their writer.
        """
        at = len(MAGIC)
        while at < self._opened and (found := _frame_in(self._file, at)) is not None:
            at += HEADER.size + len(found[1])
            yield from _records(found[1], self._path)

    # ------------------------------------------------------------ more than the port

    @property
    def bytes_used(self) -> int:
        """Length without the preallocated rest; the owner calls `compact` when this is large."""
        return self._end

    async def compact(self, records: Sequence[Record]) -> None:
        """Replace everything by `records`, at once or not at all. `Unavailable`: the old journal stays in use

        (unless the disk was only slow, and the new one comes into use a little later).
        """
        frames = [
            _payload(records[at : at + COMPACT_RECORDS_A_FRAME])
            for at in range(0, len(records), COMPACT_RECORDS_A_FRAME)
        ]
        await self._in_thread(lambda: self._replace(frames))

    def close(self) -> None:
        """Wait for the disk, then let go of file and lock."""
        self._thread.shutdown(wait=True)
        self._release()

    def __enter__(self) -> FileJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ in the thread

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(APPEND_S_MAX):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError as error:
            raise Unavailable(
                f"cannot write {self._path}", f"the disk did not answer in {APPEND_S_MAX:g} s", "look at dmesg"
            ) from error
        except OSError as error:
            raise _unavailable("write", self._path, error) from error

    def _write(self, payload: bytes) -> None:
        self._settle_directory()
        frame = _frame(self._seq + 1, payload)
        try:
            if self._uncut:
                os.ftruncate(self._file, self._end)
                self._size, self._uncut = self._end, False
            self._grow(self._end + len(frame))
            _write_all(self._file, frame, self._end)
            self._sync(self._file)
        except OSError:
            # Best effort, so that what was never confirmed is not replayed; the next frame goes to the same place.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
                self._size = self._end
            raise
        self._seq += 1
        self._end += len(frame)

    def _grow(self, need: int) -> None:
        """Preallocate in steps, so that an append changes no metadata; on a nearly full disk only what is needed."""
        if need <= self._size:
            return
        for size in (max(need, self._size + GROW_BYTES), need):
            try:
                os.posix_fallocate(self._file, self._size, size - self._size)
            except OSError:
                if size == need:
                    raise
                continue
            self._size = size
            return

    def _replace(self, payloads: Sequence[bytes]) -> None:
        frames = b"".join(_frame(self._seq + 1 + n, payload) for n, payload in enumerate(payloads))
        fresh = self._made(self._path, frames, GROW_BYTES)  # a full disk keeps the old one, which has room
        os.close(self._file)
        self._file, self._opened = fresh, 0
        self._end = len(MAGIC) + len(frames)
        self._size, self._uncut = self._end + GROW_BYTES, False
        self._seq += len(payloads)
        self._settle_directory()

    # ------------------------------------------------------------ files

    def _made(self, path: Path, frames: bytes, spare: int = 0) -> int:
        """A new journal in the place of `path`, by write, fsync and rename; its open file. `spare`: preallocated."""
        fresh = path.with_name(path.name + ".new")
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(handle, MAGIC + frames, 0)
            if spare:
                os.posix_fallocate(handle, len(MAGIC) + len(frames), spare)
            os.fsync(handle)
            os.rename(fresh, path)
        except OSError:
            os.close(handle)
            fresh.unlink(missing_ok=True)
            raise
        self._directory_dirty = True
        return handle

    def _settle_directory(self) -> None:
        """Until the rename itself is durable, a power cut may bring the old file back: then nothing is confirmed."""
        if self._directory_dirty:
            _sync_directory(self._path.parent)
            self._directory_dirty = False

    def _recovered(self) -> tuple[int, int]:
        """Where the good frames end, and the last seq. Keeps a torn tail beside; the next write cuts it off."""
        _marked(self._file, self._path)
        end, seq = len(MAGIC), 0
        while (found := _frame_in(self._file, end)) is not None and (seq == 0 or found[0] == seq + 1):
            seq, payload = found
            end += HEADER.size + len(payload)
        content = _read(self._file, end, os.fstat(self._file).st_size - end)
        tail = content.rstrip(b"\0")
        if not tail:
            return end, seq
        if _good_frame_behind(content, 0, seq):
            raise Unreadable(
                f"cannot open {self._path}",
                f"the frame at byte {end} is damaged and whole ones follow: confirmed records were lost",
                "keep the file, check the disk, and let a person restore the state: pairguard recover",
            )
        _keep(self._path.with_name(self._path.name + ".torn"), tail[:TORN_BYTES_KEPT])
        self.torn_bytes = len(tail)
        return end, seq

    def _release(self) -> None:
        for handle in (self._file, self._lock):
            if handle >= 0:
                os.close(handle)
        self._file = self._lock = -1


def recorded(path: Path) -> Iterator[Record]:
    """What a journal holds, only looked at: no lock, no repair. Nothing if there is none; `Unreadable`: no journal."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unavailable("open", path, error) from error
    try:
        _marked(handle, path)
        at = len(MAGIC)
        while (found := _frame_in(handle, at)) is not None:
            at += HEADER.size + len(found[1])
            yield from _records(found[1], path)
    finally:
        os.close(handle)


def _marked(handle: int, path: Path) -> None:
    if _read(handle, 0, len(MAGIC)) != MAGIC:
        raise Unreadable(f"cannot open {path}", "it is no pairguard journal", "move it away, then start again")


def _locked(path: Path) -> int:
    """A lock beside the journal (its own file is replaced by compaction). `Unavailable` if another process has it."""
    try:
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unavailable("open", path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise Unavailable(
            f"cannot open {path}", f"another daemon of this node has it (process {owner})", "stop that one first"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _unavailable(verb: str, path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"cannot {verb} {path}", error.strerror or str(error), f"make room or mend the disk: df {path.parent}"
    )


def _payload(records: Sequence[Record]) -> bytes:
    plain = [dict(record) for record in records]
    payload = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(payload) > FRAME_BYTES_MAX:
        raise ValueError(f"cannot append {len(payload)} bytes at once: the limit is {FRAME_BYTES_MAX}")
    return payload


def _records(payload: bytes, path: Path) -> list[Record]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"cannot read {path}", "a whole frame holds no JSON, although its sum is right") from error
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Unreadable(f"cannot read {path}", "a whole frame holds no list of records")
    return value


def _crc(seq: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(seq.to_bytes(8, "little")))


def _frame(seq: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), _crc(seq, payload), seq) + payload


def _frame_at(content: bytes, at: int) -> tuple[int, bytes] | None:
    """(seq, payload) of the good frame at `at`, else None. An all-zero header is no frame: its CRC does not fit."""
    if at + HEADER.size > len(content):
        return None
    length, crc, seq = HEADER.unpack_from(content, at)
    if not 2 <= length <= FRAME_BYTES_MAX:
        return None  # before anything is copied: a torn tail has thousands of places that look like a frame
    payload = content[at + HEADER.size : at + HEADER.size + length]
    if len(payload) < length or _crc(seq, payload) != crc:
        return None
    return seq, payload


def _frame_in(handle: int, at: int) -> tuple[int, bytes] | None:
    """As `_frame_at`, from the file: no more of it is in memory than this frame."""
    header = _read(handle, at, HEADER.size)
    if len(header) < HEADER.size or not 2 <= HEADER.unpack(header)[0] <= FRAME_BYTES_MAX:
        return None
    return _frame_at(header + _read(handle, at + HEADER.size, HEADER.unpack(header)[0]), 0)


def _good_frame_behind(content: bytes, at: int, seq: int) -> bool:
    """A later frame of this journal at or behind `at`: every payload begins with '[', so look only there."""
    place = content.find(b"[", at + HEADER.size)
    while place >= 0:
        found = _frame_at(content, place - HEADER.size)
        if found is not None and found[0] > seq:
            return True
        place = content.find(b"[", place + 1)
    return False


def _read(handle: int, at: int, length: int) -> bytes:
    """`length` bytes from `at` on, fewer only at the end of the file."""
    found = bytearray()
    while len(found) < length and (part := os.pread(handle, length - len(found), at + len(found))):
        found += part
    return bytes(found)


def _write_all(handle: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written


def _keep(path: Path, content: bytes) -> None:
    """A torn tail, for people; the one before it is replaced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(handle, content, 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
