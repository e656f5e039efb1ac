"""Runs one child program to its end: a list of words, a clean environment, a deadline, and nothing left behind.

1. The child gets PATH and LANG and what the caller names, nothing else (HOUSE.md: stock fence agents must never see
   our PYTHONPATH).
2. It leads a session of its own. When the run ends for whatever reason (deadline, too much output, cancellation),
   what is left of its process group is killed before `run` returns.
3. Output is kept up to `output_max` bytes for each stream; a child that says more is killed: a cut answer must not
   be parsed as if it were whole.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from guard.errors import Unavailable

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LANG = "C.UTF-8"  # parsers are written for untranslated output
OUTPUT_BYTES_MAX = 4 << 20
CHUNK_BYTES = 1 << 16
LINE_BYTES_MAX = 1 << 16
REAP_S_MAX = 5.0  # a killed child that is not gone by then hangs in the kernel (state D) and is left to it


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended by itself. `code` < 0: a signal that did not come from us. Undecodable bytes are U+FFFD."""

    code: int
    out: str
    err: str


class Runner(Protocol):
    """The signature of `run`, so that adapters can be handed another one (a replay of captures)."""

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
    ) -> Ran: ...


class Streamer(Protocol):
    """The signature of `lines`."""

    def __call__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> AsyncGenerator[tuple[str, ...], None]: ...


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child sees: PATH (ours, or the standard one), LANG, and `extra` on top."""
    return {"PATH": os.environ.get("PATH") or PATH, "LANG": LANG, **(extra or {})}


async def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    output_max: int = OUTPUT_BYTES_MAX,
) -> Ran:
    """Run `argv` and wait until it ended and closed its output, at most `deadline_s` seconds.

    Without `stdin` the child reads /dev/null. Any exit code is an answer, not an error. Raises `Unavailable` if the
    program is missing or cannot start, if the deadline passed, or if one stream exceeded `output_max` bytes.
    """
    if not argv:
        raise ValueError("cannot run an empty command: name a program")
    name = argv[0]
    child = await spawn(argv, stdin=stdin is not None, env=env)
    try:
        async with asyncio.timeout(deadline_s):
            out, err = await _talk(child, stdin, output_max)
            code = await child.wait()
    except TimeoutError as error:
        raise Unavailable(f"cannot run {name}", f"no end within {deadline_s:g} s, killed") from error
    except _TooMuch as error:
        raise Unavailable(f"cannot run {name}", f"said more than {output_max} bytes, killed") from error
    finally:
        await end(child)
    return Ran(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


async def spawn(
    argv: Sequence[str],
    *,
    stdin: bool = False,
    env: Mapping[str, str] | None = None,
    stderr: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start a child in a session of its own, for callers that read a stream; they must `end` it.

    Raises `Unavailable` if the program is missing or cannot start. Cancelled, it ends what it had started: asyncio
    itself kills the child alone and then waits for its pipes, for as long as a child of the child holds one.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=environment(env),
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError, ValueError):
            await end(await starting)
        raise
    except FileNotFoundError as error:
        raise Unavailable(f"cannot run {argv[0]}", "the program is missing", "install it or set its path") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot run {argv[0]}", str(error)) from error


async def end(child: asyncio.subprocess.Process) -> None:
    """Kill what is left of the child's process group, reap the child and close its pipes. Harmless if all is over.

    A process that left the group and the session on purpose is out of reach here; it may keep a pipe open.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(REAP_S_MAX):
            await asyncio.gather(child.wait(), _drain(child.stdout), _drain(child.stderr))


async def _drain(stream: asyncio.StreamReader | None) -> None:
    """Throw away what a dead child had still said: its pipe closes only once it was read to the end."""
    while stream is not None and await stream.read(CHUNK_BYTES):
        pass


async def lines(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> AsyncGenerator[tuple[str, ...], None]:
    """What a long-running child prints, whole lines, all that can be read at once together; no deadline.

    Ends when the child closes its output; an unfinished last line is dropped. The child is killed when the caller
    closes the generator (`contextlib.aclosing`). Raises `Unavailable` if it cannot start or one line has no end.
    """
    child = await spawn(argv, env=env, stderr=asyncio.subprocess.DEVNULL)
    rest = b""
    try:
        while child.stdout is not None and (chunk := await child.stdout.read(CHUNK_BYTES)):
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise Unavailable(f"cannot read {argv[0]}", f"a line of more than {LINE_BYTES_MAX} bytes")
            if whole:
                yield tuple(line.decode("utf-8", "replace") for line in whole)
    finally:
        await end(child)


class _TooMuch(Exception):
    """One stream exceeded its bound."""


async def _talk(child: asyncio.subprocess.Process, stdin: bytes | None, output_max: int) -> tuple[bytes, bytes]:
    """Feed stdin and read both streams at once, so that neither side waits for the other for ever."""
    out = asyncio.create_task(_read(child.stdout, output_max))
    err = asyncio.create_task(_read(child.stderr, output_max))
    feeder = asyncio.create_task(_feed(child.stdin, stdin))
    try:
        await asyncio.gather(out, err, feeder)
        return out.result(), err.result()
    finally:
        for task in (out, err, feeder):
            task.cancel()
        await asyncio.gather(out, err, feeder, return_exceptions=True)


async def _read(stream: asyncio.StreamReader | None, output_max: int) -> bytes:
    """All of one stream up to its end."""
    if stream is None:
        return b""
    kept = bytearray()
    while chunk := await stream.read(CHUNK_BYTES):
        kept += chunk
        if len(kept) > output_max:
            raise _TooMuch
    return bytes(kept)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes | None) -> None:
    """Write stdin and close it; a child that does not want to read it all is no error."""
    if stream is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data or b"")
        await stream.drain()
    stream.close()
    with suppress(BrokenPipeError, ConnectionResetError):
        await stream.wait_closed()
