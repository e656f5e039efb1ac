"""The journal: what was acknowledged is there afterwards, whatever happened to the process, the tail or the disk."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from guard.adapters.clock import BootClock
from guard.adapters.journal import MAGIC, FileJournal
from guard.errors import Unavailable, Unreadable

CLOCK = BootClock()
ROOT = Path(__file__).parents[2]


def journal(path: Path) -> FileJournal:
    return FileJournal(path, CLOCK)


def numbers(path: Path) -> list[object]:
    with journal(path) as opened:
        return [record["n"] for record in opened.replay()]


async def written(path: Path, *ns: int) -> None:
    with journal(path) as opened:
        for n in ns:
            await opened.append([{"n": n}])


@pytest.mark.asyncio
async def test_records_come_back_in_order(tmp_path: Path) -> None:
    """Whatever JSON can say, over several openings, oldest first."""
    path = tmp_path / "j"
    await written(path, 1, 2)
    with journal(path) as opened:
        await opened.append([{"n": 3, "text": "grüß [dich]\n", "deep": {"a": [None, True, 1.5]}}, {"n": 4}])
    with journal(path) as opened:
        records = list(opened.replay())
        assert [record["n"] for record in records] == [1, 2, 3, 4]
        assert records[2] == {"n": 3, "text": "grüß [dich]\n", "deep": {"a": [None, True, 1.5]}}
        assert opened.torn_bytes == 0
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.asyncio
async def test_a_torn_tail_at_every_byte(tmp_path: Path) -> None:
    """Cut anywhere, or cut and followed by zeros: every whole frame is there, the journal goes on, the rest is kept."""
    whole = tmp_path / "whole"
    ends = []
    with journal(whole) as opened:
        ends.append(opened.bytes_used)
        for n in range(3):
            await opened.append([{"n": n}, {"n": n}])
            ends.append(opened.bytes_used)
    content = whole.read_bytes()[: ends[-1]]
    for cut in range(len(MAGIC), len(content)):
        good = sum(end <= cut for end in ends) - 1
        for zeros in (0, 100):
            path = tmp_path / f"cut-{cut}-{zeros}"
            path.write_bytes(content[:cut] + b"\0" * zeros)
            with journal(path) as opened:
                assert len(list(opened.replay())) == 2 * good, cut
                tail = content[ends[good] : cut].rstrip(b"\0")
                assert opened.torn_bytes == len(tail)
                if tail:
                    assert path.with_name(path.name + ".torn").read_bytes() == tail
            if cut % 7 == 0:
                await written(path, 99)
                assert numbers(path)[2 * good :] == [99]


@pytest.mark.asyncio
async def test_a_changed_byte_in_the_last_frame_loses_only_that_frame(tmp_path: Path) -> None:
    """Half-written sectors look like this after a power cut: every byte position of the last frame."""
    path = tmp_path / "j"
    with journal(path) as opened:
        await opened.append([{"n": 1}])
        before = opened.bytes_used
        await opened.append([{"n": 2}])
        end = opened.bytes_used
    content = path.read_bytes()
    for place in range(before, end):
        changed = bytearray(content)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        assert numbers(path) == [1], place


@pytest.mark.asyncio
async def test_a_damaged_tail_is_said_at_every_opening_until_something_is_written(tmp_path: Path) -> None:
    """S6: a start that fails after it was seen must not make the next one believe that nothing was lost."""
    path = tmp_path / "j"
    await written(path, 1, 2)
    content = bytearray(path.read_bytes().rstrip(b"\0"))
    content[-2] ^= 1
    path.write_bytes(content)
    for _ in range(3):
        with journal(path) as opened:
            assert opened.torn_bytes > 0
    await written(path, 3)
    with journal(path) as opened:
        assert opened.torn_bytes == 0
        assert [record["n"] for record in opened.replay()] == [1, 3]


@pytest.mark.asyncio
async def test_a_long_journal_is_read_frame_by_frame(tmp_path: Path) -> None:
    """Opened and replayed, 16 MB need no more than a few frames of memory: the guard's whole slice has 160 MB."""
    path = tmp_path / "j"
    with FileJournal(path, CLOCK, lambda _: None) as opened:
        for n in range(250):
            await opened.append([{"n": n, "fill": "x" * 64_000}])
    tracemalloc.start()
    try:
        with journal(path) as opened:
            assert sum(1 for _ in opened.replay()) == 250
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.asyncio
async def test_a_compaction_keeps_room_or_the_old_journal(tmp_path: Path) -> None:
    """On a disk that is full afterwards the next records still find their place."""
    path = tmp_path / "j"
    with journal(path) as opened:
        await opened.compact([{"n": 1}])
        before = path.stat().st_blocks * 512, path.stat().st_size
        assert before[0] > opened.bytes_used + 100_000
        await opened.append([{"n": 2, "fill": "x" * 100_000}])
        assert (path.stat().st_blocks * 512, path.stat().st_size) == before
    assert numbers(path) == [1, 2]


@pytest.mark.asyncio
async def test_damage_before_confirmed_records_is_not_repaired(tmp_path: Path) -> None:
    """A bad frame with a good one behind it: confirmed records are gone, so nothing is opened and nothing changed."""
    path = tmp_path / "j"
    with journal(path) as opened:
        starts = []
        for n in range(4):
            starts.append(opened.bytes_used)
            await opened.append([{"n": n}])
    content = path.read_bytes()
    for place in range(starts[1], starts[2]):
        changed = bytearray(content)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        with pytest.raises(Unreadable, match="confirmed records were lost"):
            journal(path)
        assert path.read_bytes() == changed
    path.write_bytes(content[: starts[1]] + content[starts[2] :])  # a frame that vanished
    with pytest.raises(Unreadable, match="confirmed records were lost"):
        journal(path)
    path.write_bytes(content)
    assert numbers(path) == [0, 1, 2, 3]  # the refusals gave their lock back


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"SQLite format 3\0", MAGIC[:4]])
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file that is no journal is neither truncated nor written."""
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match="no pairguard journal"):
        journal(path)
    assert path.read_bytes() == content


@pytest.mark.asyncio
async def test_a_tail_of_zeros_is_no_record(tmp_path: Path) -> None:
    """Preallocated space, also much of it, is the end and nothing else."""
    path = tmp_path / "j"
    await written(path, 1)
    with path.open("ab") as stream:
        stream.write(b"\0" * 100_000)
    assert numbers(path) == [1]
    assert not (tmp_path / "j.torn").exists()


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """One journal, one writer; the message names the process that has it."""
    path = tmp_path / "j"
    with journal(path), pytest.raises(Unavailable, match=f"another daemon .*process {os.getpid()}"):
        journal(path)
    assert numbers(path) == []


def test_a_missing_folder_is_said_plainly(tmp_path: Path) -> None:
    """What, why and what next, not a traceback."""
    with pytest.raises(Unavailable, match="No such file"):
        journal(tmp_path / "nowhere" / "j")


@pytest.mark.asyncio
async def test_compaction_replaces_everything_and_goes_on(tmp_path: Path) -> None:
    """After compact: exactly the given records, then what is appended; the file is small again."""
    path = tmp_path / "j"
    with journal(path) as opened:
        for n in range(50):
            await opened.append([{"n": n, "fill": "x" * 1000}])
        before = opened.bytes_used
        await opened.compact([{"n": n} for n in range(1000)])
        assert opened.bytes_used < before
        await opened.append([{"n": 1000}])
    assert numbers(path) == list(range(1001))
    with journal(path) as opened:
        await opened.compact([])
        await opened.append([{"n": 7}])
    assert numbers(path) == [7]
    assert set(os.listdir(tmp_path)) == {"j", "j.lock"}


@pytest.mark.asyncio
async def test_appends_at_once_are_all_kept(tmp_path: Path) -> None:
    """Many tasks append together: every record once, none mixed."""
    path = tmp_path / "j"
    with journal(path) as opened:
        await asyncio.gather(*(opened.append([{"n": n}]) for n in range(100)))
    assert sorted(map(int, map(str, numbers(path)))) == list(range(100))


@pytest.mark.asyncio
async def test_what_is_no_json_is_our_bug(tmp_path: Path) -> None:
    """Refused before a byte is written; the journal goes on."""
    with journal(tmp_path / "j") as opened:
        with pytest.raises(TypeError):
            await opened.append([{"n": object()}])
        with pytest.raises(ValueError, match="JSON"):
            await opened.append([{"n": float("nan")}])
        await opened.append([{"n": 1}])
    assert numbers(tmp_path / "j") == [1]


@pytest.mark.asyncio
async def test_an_append_that_was_cancelled_leaves_the_journal_whole(tmp_path: Path) -> None:
    """Cancelled callers may or may not have their record; the others have theirs and the file is good."""
    path, rng = tmp_path / "j", random.Random(5)  # noqa: S311
    with journal(path) as opened:
        for n in range(60):
            task = asyncio.create_task(opened.append([{"n": -n - 1}]))
            await asyncio.sleep(rng.uniform(0, 0.0005))
            task.cancel()
            await opened.append([{"n": n}])
            await asyncio.gather(task, return_exceptions=True)
    assert [n for n in numbers(path) if isinstance(n, int) and n >= 0] == list(range(60))


class Disk:
    """A sync that can be held up, and that can fail."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.broken = False
        self.syncs = 0

    def sync(self, handle: int) -> None:
        assert self.go.wait(30)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(handle)
        self.syncs += 1


@pytest.mark.asyncio
async def test_nothing_is_confirmed_before_it_is_synced(tmp_path: Path) -> None:
    """While the disk works, `append` waits and the loop goes on; one sync an append."""
    disk = Disk()
    with FileJournal(tmp_path / "j", CLOCK, disk.sync) as opened:
        disk.go.clear()
        task = asyncio.create_task(opened.append([{"n": 1}]))
        await asyncio.sleep(0.1)
        assert not task.done()
        disk.go.set()
        await task
        assert disk.syncs == 1
        assert opened.append_s_max >= 0.1


@pytest.mark.asyncio
async def test_a_failed_sync_confirms_nothing_and_is_followed_by_a_whole_write(tmp_path: Path) -> None:
    """An I/O error: `Unavailable`; those records are not replayed, and the next ones take their place."""
    path, disk = tmp_path / "j", Disk()
    with FileJournal(path, CLOCK, disk.sync) as opened:
        await opened.append([{"n": 1}])
        disk.broken = True
        for _ in range(2):
            with pytest.raises(Unavailable, match="Input/output error"):
                await opened.append([{"n": "never confirmed", "fill": "x" * 9000}])
    assert numbers(path) == [1]
    with FileJournal(path, CLOCK, disk.sync) as opened:
        with pytest.raises(Unavailable, match="Input/output error"):
            await opened.append([{"n": "never confirmed", "fill": "x" * 9000}])
        disk.broken = False
        await opened.append([{"n": 2}])
    assert numbers(path) == [1, 2]


# ---------------------------------------------------------------- in a child process

WRITER = """
import asyncio, sys
from pathlib import Path
from guard.adapters.clock import BootClock
from guard.adapters.journal import FileJournal

async def main() -> None:
    with FileJournal(Path(sys.argv[1]), BootClock()) as journal:
        n = len(list(journal.replay()))
        while True:
            if n % 37 == 36:
                await journal.compact([{"n": m} for m in range(n)])
            await journal.append([{"n": n, "fill": "x" * (n * 97 % 3000)}])
            n += 1
            sys.stdout.write(f"{n}\\n")
            sys.stdout.flush()

asyncio.run(main())
"""


def child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Killed at random moments, also inside compactions: every acknowledged record is there, in order, none twice."""
    path, rng = tmp_path / "j", random.Random(11)  # noqa: S311
    acknowledged = 0
    for _ in range(8):
        process = child(WRITER, str(path))
        assert process.stdout
        line = process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        process.wait()
        process.stdout.close()
        complete = [int(each) for each in [line.strip(), *rest[:-1]]]
        acknowledged = max(acknowledged, complete[-1])
        with journal(path) as opened:
            found = [record["n"] for record in opened.replay()]
        assert found == list(range(len(found)))
        assert len(found) >= acknowledged
    assert acknowledged > 40  # compactions were among it


FULL = """
import asyncio, json, os, resource, sys
from pathlib import Path
from guard.adapters.clock import BootClock
from guard.adapters.journal import FileJournal
from guard.errors import Unavailable

async def main() -> None:
    path, limit = Path(sys.argv[1]), int(sys.argv[2])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    acknowledged, why = 0, ""
    journal = FileJournal(path, BootClock())
    while not why:
        try:
            await journal.append([{"n": acknowledged, "fill": "x" * 5000}])
            acknowledged += 1
        except Unavailable as error:
            why = str(error)
    try:
        await journal.append([{"n": -1, "fill": "x" * 5000}])
    except Unavailable:
        again = True
    else:
        again = False
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        (path.parent / "ballast").unlink()
    await journal.append([{"n": acknowledged}])
    journal.close()
    with FileJournal(path, BootClock()) as journal:
        found = [record["n"] for record in journal.replay()]
        print(json.dumps({"why": why, "again": again, "n": acknowledged, "found": found, "torn": journal.torn_bytes}))

asyncio.run(main())
"""


def check_full(output: str) -> None:
    result = json.loads(output)
    assert result["n"] > 10
    assert result["again"]
    assert "cannot write" in result["why"]
    assert "df " in result["why"]
    assert result["found"] == list(range(result["n"] + 1))
    assert result["torn"] == 0


def test_a_file_that_may_not_grow_is_unavailable_and_recovers(tmp_path: Path) -> None:
    """At the limit every append says so, nothing acknowledged is lost, and once there is room it goes on."""
    process = child(FULL, str(tmp_path / "j"), "300000")
    output, _ = process.communicate(timeout=60)
    check_full(output)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace of its own")
def test_a_full_disk_is_unavailable_and_recovers(tmp_path: Path) -> None:
    """The same on a real file system with no block left, in a private mount namespace."""
    script = (
        'mount -t tmpfs -o size=600k none "$1" && head -c 100k /dev/zero > "$1/ballast" && exec "$2" -c "$3" "$1/j" 0'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    check_full(done.stdout)
    assert not list(tmp_path.iterdir())
