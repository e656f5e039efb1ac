"""Child programs: bounded, clean, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from guard.adapters.clock import BootClock
from guard.adapters.process import lines, run
from guard.errors import Unavailable, Unreadable

PATIENCE_S = 30.0


def alive(pid: int) -> bool:
    """Not dead and not a zombie waiting for somebody else."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def gone(pid: int) -> bool:
    """Polls until a process is dead, at most PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while alive(pid):  # noqa: ASYNC110 (another process: there is no event to wait for)
            await asyncio.sleep(0.02)
    return True


def written(path: Path) -> int | None:
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else None


async def pid_in(path: Path) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while (pid := written(path)) is None:  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.02)
    return pid


@pytest.mark.asyncio
async def test_answer() -> None:
    """Exit code, standard output and standard error come back apart, and stdin arrives."""
    ran = await run(["sh", "-c", "cat; echo bad >&2; exit 3"], deadline_s=PATIENCE_S, stdin=b"good\n")
    assert (ran.code, ran.out, ran.err) == (3, "good\n", "bad\n")


@pytest.mark.asyncio
async def test_clean_environment() -> None:
    """The child sees PATH and LANG and what it was given; nothing of ours leaks, above all no PYTHONPATH."""
    os.environ["PYTHONPATH"] = "/nowhere"
    try:
        ran = await run([sys.executable, "-c", "import os; print(sorted(os.environ))"], deadline_s=PATIENCE_S)
        more = await run(["sh", "-c", "echo $X"], deadline_s=PATIENCE_S, env={"X": "1"})
    finally:
        del os.environ["PYTHONPATH"]
    assert set(eval(ran.out)) <= {"LANG", "PATH", "LC_CTYPE"}  # noqa: S307 (our own child; LC_CTYPE is Python's own)
    assert more.out == "1\n"


@pytest.mark.asyncio
async def test_missing_program() -> None:
    """A program that is not there is Unavailable and named."""
    with pytest.raises(Unavailable, match="no-such-program-here"):
        await run(["no-such-program-here"], deadline_s=PATIENCE_S)


@pytest.mark.asyncio
async def test_deadline_kills_the_group(tmp_path: Path) -> None:
    """At the deadline the child and its own children die, also those that ignore SIGTERM."""
    script = f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(Unavailable, match="killed"):
        await run(["sh", "-c", script], deadline_s=1.0)
    if (pid := written(tmp_path / "pid")) is not None:  # None: so loaded that it was killed before it began
        assert await gone(pid)


@pytest.mark.asyncio
async def test_leftovers_die_after_a_good_end(tmp_path: Path) -> None:
    """A child that exits well but leaves a process in its group leaves nothing."""
    ran = await run(["sh", "-c", f"sleep 600 >&- 2>&- & echo $! > {tmp_path}/pid"], deadline_s=PATIENCE_S)
    assert ran.code == 0
    assert await gone(await pid_in(tmp_path / "pid"))


@pytest.mark.asyncio
async def test_cancelled(tmp_path: Path) -> None:
    """Cancelling the caller kills the child, and the cancellation is not swallowed."""
    task = asyncio.create_task(run(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600"], deadline_s=600))
    pid = await pid_in(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(pid)


@pytest.mark.asyncio
async def test_cancelled_while_it_starts(tmp_path: Path) -> None:
    """A deadline that comes while the child is being started ends it too, with the child's own children."""
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    task = asyncio.create_task(run(["sh", "-c", script], deadline_s=600))
    for _ in range(2):  # into `run`, and into the start of the child
        await asyncio.sleep(0)
    until = time.monotonic() + PATIENCE_S
    while (pid := written(tmp_path / "pid")) is None and time.monotonic() < until:
        time.sleep(0.01)  # noqa: ASYNC251 (nothing of the loop may move on: its pipes are not connected yet)
    assert pid is not None
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    assert done
    assert task.cancelled()
    assert await gone(pid)


@pytest.mark.asyncio
async def test_too_much() -> None:
    """A child that says more than allowed is Unavailable: a cut answer is never handed on as a whole one."""
    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        await run(["sh", "-c", "yes"], deadline_s=PATIENCE_S, output_max=1000)
    whole = await run(["sh", "-c", "head -c 1000 /dev/zero"], deadline_s=PATIENCE_S, output_max=1000)
    assert len(whole.out) == 1000


@pytest.mark.asyncio
async def test_unread_stdin() -> None:
    """A child that does not read its input is no error."""
    ran = await run(["true"], deadline_s=PATIENCE_S, stdin=b"x" * 1_000_000)
    assert ran.code == 0


@pytest.mark.asyncio
async def test_lines(tmp_path: Path) -> None:
    """A stream gives whole lines only, and closing it kills the child."""
    got: list[str] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(lines(["sh", "-c", "echo a; echo b; printf c"])) as stream:
        async for batch in stream:
            got += batch
    assert got == ["a", "b"]
    script = f"echo $$ > {tmp_path}/pid; echo x; sleep 600"
    async with asyncio.timeout(PATIENCE_S), aclosing(lines(["sh", "-c", script])) as stream:
        assert await anext(stream) == ("x",)
    assert await gone(await pid_in(tmp_path / "pid"))


@pytest.mark.asyncio
async def test_clock() -> None:
    """The real clock goes forward, sleeps at least as long as asked, and nonces differ."""
    clock = BootClock()
    before = clock.now()
    await clock.sleep(0.01)
    assert clock.now() - before >= 9_000_000
    assert len({clock.nonce() for _ in range(50)}) == 50
    assert all(len(clock.nonce()) == 32 for _ in range(5))
    assert all(1.0 <= clock.jitter(1.0, 2.0) < 2.0 for _ in range(100))
    assert clock.jitter(1.0, 1.0) == 1.0


def test_boot_id() -> None:
    """The boot id is the kernel's."""
    assert BootClock().boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_boot_id_that_is_none(tmp_path: Path) -> None:
    """Without a boot id, or with nonsense for one, nothing is made up."""
    with pytest.raises(Unavailable):
        BootClock(tmp_path / "none").boot_id()
    (tmp_path / "bad").write_text("not-a-uuid\n")
    with pytest.raises(Unreadable):
        BootClock(tmp_path / "bad").boot_id()
