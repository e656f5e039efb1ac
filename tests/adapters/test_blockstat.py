"""Write counters that do not lie: what counts as an application's write, and what never does."""

from __future__ import annotations

from pathlib import Path

import pytest
import replication_contract as contract
from drbd_replay import STATUS, CaptureNode, answers

from guard.adapters.blockstat import BlockStat, completed_writes
from guard.adapters.drbd import Drbd
from guard.core.evidence import Replica, Role, Volumes, WriteSample
from guard.core.instant import Instant, after


class Bench:
    """One node whose state and counters can be set, and its sampler."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.node = CaptureNode()
        self.clock = contract.SteppedClock()
        (tmp / "proc_drbd").write_text("version: 8.4.11 (api:1/proto:86-101)\n")
        self.drbd = Drbd(["r0"], self.clock, self.node.run, self.node.lines, tmp / "proc_drbd", tmp / "drbd")
        self.sampler = BlockStat(self.drbd, self.clock, tmp / "block")

    def state(self, state: str, *, received_kib: int | None = None, writes: int | None = None) -> None:
        self.node.known = CaptureNode.of(state).known
        if received_kib is not None:
            old = self.node.known[STATUS].out
            head, found, tail = old.partition("received:")
            assert found
            self.node.put(STATUS, f"{head}received:{received_kib} {tail.split(' ', 1)[1]}")
        if writes is not None:
            self.stat(writes)

    def stat(self, writes: int, minor: int = 0) -> None:
        folder = self.tmp / "block" / f"drbd{minor}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stat").write_text(
            f"      55        0      714      168 {writes:8}        0    26746 3120 0 1092 3288\n"
        )

    async def sample(self, volumes: Volumes | None = None) -> WriteSample:
        self.clock.moment = after(self.clock.moment, 1.0)
        (one,) = await self.sampler.sample(volumes or await self.drbd.read())
        return one


PRIMARY, SECONDARY = "02-a-healthy-A-primary.nodeA", "02-a-healthy-A-primary.nodeB"
CUT_A, CUT_B = "02-b-cut-A-primary-no-write-since-cut.nodeA", "02-b-cut-A-primary-no-write-since-cut.nodeB"
RESYNC_A, RESYNC_B = "02-d-resync-running.nodeA", "02-d-resync-running.nodeB"


@pytest.mark.parametrize(("state", "writes"), [(RESYNC_A, 94), (RESYNC_B, 0)])
def test_captured_stat(state: str, writes: int) -> None:
    """The fifth field of a captured stat line is read as completed writes; a Secondary's stands at 0."""
    assert completed_writes(answers(f"{state}.block-stat.txt")["cat /sys/block/drbd0/stat"].out) == writes


def test_captured_stat_only_grows_with_writes() -> None:
    """In the recording the Primary's count stands still over a cut without writes and grows with the next ones."""
    order = [PRIMARY, CUT_A, "02-c-cut-A-primary-wrote.nodeA", RESYNC_A]
    counts = [completed_writes(answers(f"{one}.block-stat.txt")["cat /sys/block/drbd0/stat"].out) for one in order]
    assert None not in counts
    assert counts == sorted(counts, key=lambda count: count or 0)
    assert counts[2] != counts[1]


@pytest.mark.parametrize(
    "text", ["", "1 2 3\n", "1 2 3 4 5 6 7 8 9 10 x\n", "1 2 3 4 5 6 7 8 9 10 11", "-1 " * 11 + "\n"]
)
def test_broken_stat(text: str) -> None:
    """A stat line that is cut or garbled is None, never a number."""
    assert completed_writes(text) is None


@pytest.mark.asyncio
async def test_primary(tmp_path: Path) -> None:
    """On a Primary completed writes of the DRBD device count, from the second sample on, connected or not."""
    bench = Bench(tmp_path)
    bench.state(PRIMARY, writes=10)
    first = await bench.sample()
    assert (first.role, first.completed, first.received_kib, first.counts) == (Role.PRIMARY, 10, None, False)
    bench.stat(15)
    assert (await bench.sample()).counts is True
    bench.state(CUT_A, writes=15)
    cut = await bench.sample()
    assert (cut.completed, cut.counts) == (15, True)


@pytest.mark.asyncio
async def test_secondary(tmp_path: Path) -> None:
    """On a Secondary what was received counts while the link stands; the device's own stat is not looked at."""
    bench = Bench(tmp_path)
    bench.state(SECONDARY, received_kib=100)
    assert (await bench.sample()).counts is False
    bench.state(SECONDARY, received_kib=104)
    second = await bench.sample()
    assert (second.role, second.completed, second.received_kib, second.counts) == (Role.SECONDARY, None, 104, True)
    bench.state(CUT_B, received_kib=104)
    assert (await bench.sample()).counts is True


@pytest.mark.asyncio
@pytest.mark.parametrize(("calm", "resync"), [(PRIMARY, RESYNC_A), (SECONDARY, RESYNC_B)])
async def test_resync(calm: str, resync: str, tmp_path: Path) -> None:
    """Neither a sample in a resync nor the first one after it counts; the one after that does."""
    bench = Bench(tmp_path)
    said = []
    for turn, state in enumerate([calm, calm, resync, resync, calm, calm]):
        bench.state(state, received_kib=100 + turn, writes=10 + turn)
        said.append((await bench.sample()).counts)
    assert said == [False, True, False, False, False, True]


@pytest.mark.asyncio
async def test_resync_between_two_samples(tmp_path: Path) -> None:
    """What arrived over a new connection may be resync: grown since the cut, it does not count."""
    bench = Bench(tmp_path)
    said = []
    for state, received in [(CUT_B, 100), (CUT_B, 100), (SECONDARY, 3100), (SECONDARY, 3100)]:
        bench.state(state, received_kib=received)
        said.append((await bench.sample()).counts)
    assert said == [False, True, False, True]


@pytest.mark.asyncio
@pytest.mark.parametrize(("state", "low"), [(PRIMARY, "writes"), (SECONDARY, "received_kib")])
async def test_reset(state: str, low: str, tmp_path: Path) -> None:
    """Counters that went backwards say nothing."""
    bench = Bench(tmp_path)
    bench.state(state, received_kib=100, writes=100)
    await bench.sample()
    bench.state(state, **{"received_kib": 100, "writes": 100, low: 3})
    assert (await bench.sample()).counts is False


@pytest.mark.asyncio
async def test_change_of_role(tmp_path: Path) -> None:
    """The first sample in a new role does not count."""
    bench = Bench(tmp_path)
    bench.state(SECONDARY, received_kib=100, writes=0)
    await bench.sample()
    bench.state(PRIMARY, writes=5)
    assert (await bench.sample()).counts is False
    assert (await bench.sample()).counts is True


@pytest.mark.asyncio
async def test_volumes_of_another_moment(tmp_path: Path) -> None:
    """A sample whose role or link differs from the volumes it was asked for does not count."""
    bench = Bench(tmp_path)
    bench.state(PRIMARY, writes=10)
    await bench.sample()
    other = Volumes(Instant(0), (Replica("r0", role=Role.SECONDARY),))
    assert (await bench.sample(other)).counts is False


@pytest.mark.asyncio
async def test_blind(tmp_path: Path) -> None:
    """Without a stat file, or without an answer of the tools, there is no number and nothing counts."""
    bench = Bench(tmp_path)
    bench.state(PRIMARY)
    for _ in range(2):
        one = await bench.sample()
        assert (one.completed, one.counts) == (None, False)
    bench.node.known = {}
    silent = await bench.sample()
    assert (silent.role, silent.completed, silent.received_kib, silent.counts) == (Role.UNKNOWN, None, None, False)


@pytest.mark.asyncio
async def test_standalone_has_no_number(tmp_path: Path) -> None:
    """Standalone the tools print no received bytes: None, and nothing counts."""
    bench = Bench(tmp_path)
    bench.state("01-i-B-peer-disconnected.nodeB", received_kib=100)
    await bench.sample()
    status = bench.node.known[STATUS].out
    bench.node.put(STATUS, status[: status.index("  peer ")] + "\n")
    one = await bench.sample()
    assert (one.received_kib, one.counts) == (None, False)
