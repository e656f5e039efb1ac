"""The control socket: who may ask is the kernel's word, and no client can hold the daemon up."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from guard.adapters.control import (
    CONNECTIONS_MAX,
    LINE_MAX,
    MODE_READ,
    MODE_WRITE,
    ControlServer,
    PeerCred,
    Progress,
    anybody,
    ask,
    root_or_group,
)
from guard.errors import InvariantBroken, PairguardError, Refused, SettingsError, Unavailable, Unreadable
from tests.adapters.bus_contract import until


class Desk:
    """A handler with one verb for every way a request can go."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any], PeerCred]] = []
        self.cancelled = 0
        self.waiting = 0

    async def handle(self, verb: str, args: Mapping[str, Any], cred: PeerCred, progress: Progress) -> dict[str, Any]:
        self.asked.append((verb, args, cred))
        match verb:
            case "echo":
                return dict(args)
            case "steps":
                for n in range(args["n"]):
                    progress(f"step {n}")
                return {"n": args["n"]}
            case "flood":
                for _ in range(2000):
                    progress("x" * 1000)
                return {"ok": True}
            case "wait":
                self.waiting += 1
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
                finally:
                    self.waiting -= 1
            case "refuse":
                raise Refused("cannot release fs1", "the network changes", "run: pairguard status")
            case "fail":
                raise [Unavailable, Unreadable, SettingsError, PairguardError][args["n"]]("w", "y", "n")
            case "broken":
                raise InvariantBroken("S1")
        raise ZeroDivisionError("a bug")


@asynccontextmanager
async def serving(server: ControlServer) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(server.run())
    try:
        await until(lambda: server.ready.is_set() or task.done(), "the server listens")
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def raw(path: Path, content: bytes) -> list[dict[str, Any]]:
    """Lines that come back for these bytes, until the daemon ends the connection."""
    reader, writer = await asyncio.open_unix_connection(path, limit=LINE_MAX * 64)
    try:
        writer.write(content)
        async with asyncio.timeout(20):
            return [json.loads(line) for line in (await reader.read()).splitlines()]
    finally:
        writer.transport.abort()


def request(verb: str, **args: Any) -> bytes:
    return json.dumps({"schema": "pairguard.control/1", "verb": verb, "args": args}).encode() + b"\n"


@pytest.mark.asyncio
async def test_a_request_is_answered(tmp_path: Path) -> None:
    """Verb and arguments arrive, progress comes in order before the answer, and the kernel says who asked."""
    desk, heard = Desk(), list[str]()
    server = ControlServer(tmp_path / "s", MODE_WRITE, desk.handle, root_or_group(os.getegid()))
    async with serving(server):
        assert await ask(tmp_path / "s", "echo", {"a": ["ü", None, 1.5]}, 20) == {"a": ["ü", None, 1.5]}
        assert await ask(tmp_path / "s", "steps", {"n": 3}, 20, heard.append) == {"n": 3}
        assert heard == ["step 0", "step 1", "step 2"]
    cred = desk.asked[0][2]
    assert (cred.pid, cred.uid, cred.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert cred.groups == set(os.getgroups())


@pytest.mark.asyncio
async def test_errors_keep_what_why_and_next(tmp_path: Path) -> None:
    """A refusal is `Refused` at the asker, everything else `Unavailable`, with the three parts whole."""
    desk = Desk()
    async with serving(ControlServer(tmp_path / "s", MODE_WRITE, desk.handle, anybody)):
        with pytest.raises(Refused) as refused:
            await ask(tmp_path / "s", "refuse", {}, 20)
        assert str(refused.value) == "cannot release fs1: the network changes; run: pairguard status"
        codes = []
        for n in range(4):
            [line] = await raw(tmp_path / "s", request("fail", n=n))
            assert {k: line["error"][k] for k in ("what", "why", "next")} == {"what": "w", "why": "y", "next": "n"}
            codes.append(line["error"]["code"])
            with pytest.raises(Unavailable):
                await ask(tmp_path / "s", "fail", {"n": n}, 20)
        assert codes == ["unavailable", "unreadable", "settings", "failed"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b"[" * 60000 + b"\n",
        b'{"schema":"pairguard.control/2","verb":"echo","args":{}}\n',
        b'{"schema":"pairguard.control/1","verb":"echo"}\n',
        b'{"schema":"pairguard.control/1","verb":7,"args":{}}\n',
        b'{"schema":"pairguard.control/1","verb":"echo","args":[]}\n',
        b'{"schema":"pairguard.control/1","verb":"echo","args":{},"more":1}\n',
        b"x" * (LINE_MAX + 10) + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_what_is_no_request_is_told_so(tmp_path: Path, content: bytes) -> None:
    """Every malformed line gets a bad-request answer and reaches no handler."""
    desk = Desk()
    async with serving(ControlServer(tmp_path / "s", MODE_WRITE, desk.handle, anybody)):
        [line] = await raw(tmp_path / "s", content)
        assert line["error"]["code"] == "bad-request"
        assert await ask(tmp_path / "s", "echo", {}, 20) == {}
    assert len(desk.asked) == 1


@pytest.mark.asyncio
async def test_a_partial_line_times_out(tmp_path: Path) -> None:
    """A client that never ends its line is told and let go; one that leaves in the middle is forgotten."""
    desk = Desk()
    async with serving(ControlServer(tmp_path / "s", MODE_WRITE, desk.handle, anybody, request_s=0.2)):
        [line] = await raw(tmp_path / "s", b'{"schema"')
        assert line["error"]["code"] == "bad-request"
        _, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b'{"sch')
        writer.close()
        assert await ask(tmp_path / "s", "echo", {}, 20) == {}


@pytest.mark.asyncio
async def test_a_client_that_goes_away_cancels_its_handler(tmp_path: Path) -> None:
    """Nobody waits for an answer any more, so nobody works on it."""
    desk = Desk()
    async with serving(ControlServer(tmp_path / "s", MODE_WRITE, desk.handle, anybody)):
        with pytest.raises(Unavailable, match="no answer in"):
            await ask(tmp_path / "s", "wait", {}, 0.2)
        await until(lambda: desk.cancelled == 1, "the handler is cancelled")


@pytest.mark.asyncio
async def test_a_stop_cancels_handlers_and_removes_the_socket(tmp_path: Path) -> None:
    """The daemon's end is the end of every request; the asker learns it at once."""
    desk, path = Desk(), tmp_path / "s"
    async with serving(ControlServer(path, MODE_WRITE, desk.handle, anybody)):
        asking = asyncio.create_task(ask(path, "wait", {}, 60))
        await until(lambda: desk.waiting == 1, "the handler runs")
    with pytest.raises(Unavailable, match="ended the connection"):
        await asking
    assert desk.cancelled == 1
    assert not path.exists()
    with pytest.raises(Unavailable, match="No such file"):
        await ask(path, "echo", {}, 5)


@pytest.mark.asyncio
async def test_too_many_at_once_are_told_busy(tmp_path: Path) -> None:
    """The 65th gets an answer and no handler; when one leaves there is room again."""
    desk, path = Desk(), tmp_path / "s"
    async with serving(ControlServer(path, MODE_WRITE, desk.handle, anybody)):
        asking = [asyncio.create_task(ask(path, "wait", {}, 60)) for _ in range(CONNECTIONS_MAX)]
        await until(lambda: desk.waiting == CONNECTIONS_MAX, "all wait")
        with pytest.raises(Unavailable, match="too many at once"):
            await ask(path, "echo", {}, 20)
        asking[0].cancel()
        await until(lambda: desk.waiting == CONNECTIONS_MAX - 1, "one left")
        assert await ask(path, "echo", {}, 20) == {}
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_let_go(tmp_path: Path) -> None:
    """Two megabytes of progress for a client that reads nothing: bounded memory, and its place is free again."""
    desk, path = Desk(), tmp_path / "s"
    server = ControlServer(path, MODE_WRITE, desk.handle, anybody, answer_s=0.3)
    async with serving(server):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect(str(path))
            client.sendall(request("flood"))
            await until(lambda: bool(desk.asked), "the request arrived")
            await until(lambda: server._connections == 0, "the client was let go")
        heard: list[str] = []
        assert await ask(path, "flood", {}, 20, heard.append) == {"ok": True}
        assert 0 < len(heard) < 2000  # what did not fit was left out


@pytest.mark.asyncio
async def test_modes_are_those_asked_for_and_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """0660 for the one that changes things, 0666 for the one that only tells; a dead daemon's file is no obstacle."""
    for mode in (MODE_WRITE, MODE_READ):
        path = tmp_path / f"s{mode}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(path))
        async with serving(ControlServer(path, mode, Desk().handle, anybody, gid=os.getegid())):
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert await ask(path, "echo", {}, 20) == {}


@pytest.mark.asyncio
async def test_a_living_daemons_socket_is_not_taken(tmp_path: Path) -> None:
    """The second daemon is refused and the first goes on; a path too long for a socket stops the start."""
    path = tmp_path / "s"
    async with serving(ControlServer(path, MODE_WRITE, Desk().handle, anybody)):
        with pytest.raises(Unavailable, match="living daemon"):
            await ControlServer(path, MODE_WRITE, Desk().handle, anybody).run()
        assert await ask(path, "echo", {}, 20) == {}
    with pytest.raises(SettingsError, match="too long"):
        await ControlServer(tmp_path / ("x" * 120), MODE_WRITE, Desk().handle, anybody).run()
    with pytest.raises(Unavailable, match="cannot make"):
        await ControlServer(tmp_path / "no" / "s", MODE_WRITE, Desk().handle, anybody).run()


@pytest.mark.asyncio
async def test_a_bug_in_a_handler_is_reported_and_outlived(tmp_path: Path) -> None:
    """With `on_bug` the asker is told and the server goes on; without it, the server ends with the exception."""
    bugs, path = list[Exception](), tmp_path / "s"
    async with serving(ControlServer(path, MODE_READ, Desk().handle, anybody, on_bug=bugs.append)):
        [line] = await raw(path, request("no such verb"))
        assert line["error"]["code"] == "bug"
        assert isinstance(bugs[0], ZeroDivisionError)
        assert await ask(path, "echo", {}, 20) == {}
    async with serving(ControlServer(path, MODE_READ, Desk().handle, anybody)) as task:
        assert await raw(path, request("no such verb")) == []
        with pytest.raises(BaseExceptionGroup) as ended:
            await task
        assert ended.group_contains(ZeroDivisionError)


@pytest.mark.asyncio
async def test_a_broken_invariant_is_never_swallowed(tmp_path: Path) -> None:
    """InvariantBroken in a handler ends the server even where bugs are outlived."""
    path, bugs = tmp_path / "s", list[Exception]()
    async with serving(ControlServer(path, MODE_READ, Desk().handle, anybody, on_bug=bugs.append)) as task:
        assert await raw(path, request("broken")) == []
        with pytest.raises(BaseExceptionGroup) as ended:
            await task
        assert ended.group_contains(InvariantBroken)
    assert bugs == []


def test_who_may_change_things() -> None:
    """root and the group's members, by primary or supplementary group; nobody else, and no group means root alone."""
    root, member = PeerCred(1, 0, 0), PeerCred(1, 1000, 7)
    extra, other = PeerCred(1, 1000, 100, frozenset({7})), PeerCred(1, 1000, 100, frozenset({8}))
    assert [root_or_group(7)(each) for each in (root, member, extra, other)] == [True, True, True, False]
    assert [root_or_group(None)(each) for each in (root, member, extra, other)] == [True, False, False, False]
    assert not root_or_group(None)(PeerCred(1, 1000, 0))  # group root is not root


CLIENT = """
import os, socket, sys
os.setgroups([int(g) for g in sys.argv[2].split(",") if g]); os.setgid(54321); os.setuid(54321)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b'{"schema":"pairguard.control/1","verb":"echo","args":{}}\\n')
print(s.makefile().read())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.asyncio
async def test_another_user_is_refused_by_the_kernels_word(tmp_path: Path) -> None:
    """Even where the file's mode lets it connect: a stranger is refused, a supplementary member of the group is not."""
    path, desk = tmp_path / "s", Desk()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o011)
    async with serving(ControlServer(path, MODE_READ, desk.handle, root_or_group(7777))):
        answers = []
        for groups in ("", "7777", "1,2"):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, str(path), groups, stdout=subprocess.PIPE
            )
            output, _ = await asyncio.wait_for(process.communicate(), 30)
            answers.append(json.loads(output))
    assert [each.get("error", {}).get("code") for each in answers] == ["not-allowed", None, "not-allowed"]
    assert len(desk.asked) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [b"hello\n", b"{}\n", b'{"done":7}\n', b"x" * (5 << 20)])
async def test_something_else_at_the_socket_is_unreadable(tmp_path: Path, answer: bytes) -> None:
    """`ask` believes nothing that is no answer of ours."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()
        writer.transport.abort()

    async with await asyncio.start_unix_server(speak, tmp_path / "s"):
        with pytest.raises(Unreadable):
            await ask(tmp_path / "s", "echo", {}, 20)
