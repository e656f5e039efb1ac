"""`pairguardd` as a real process, in a network of its own without any cluster: its start, and bad input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from fencing import cgroup
from guard.adapters.clock import BootClock
from guard.adapters.control import ask
from guard.adapters.hub import Hub
from guard.adapters.journal import FileJournal
from guard.core.instant import Instant
from guard.core.messages import ARBITER
from guard.core.step import Intent, Memory
from guard.daemon.main import main
from guard.daemon.memory import record
from guard.errors import Refused, Unavailable
from tests.adapters.bus_contract import until
from tests.witness.site import Program, environment, make_keys

NODE, PEER = f"tst{os.getpid()}a", f"tst{os.getpid()}b"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare(1): the daemon's own world"
    ),
]

SETTINGS = """
site = "lab"
[pair]
name = "fs1"
node = "{node}"
peer = "{peer}"
[bus]
kind = "hub"
socket = "{folder}/hub.sock"
[keys]
private = "{folder}/{node}.pem"
public_dir = "{folder}/pub"
[paths]
state = "{folder}/state"
run = "{folder}/run"
[log]
to = "stderr"
[cluster]
kind = "command"
command = "{folder}/cluster"
[replication]
resources = ["r0"]
[fence.{peer}]
delegate = "fence_dummy"
horizon = "75s"
"""


class Node:
    """A folder with everything that one guard needs, and the daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        make_keys(folder, ARBITER, NODE, PEER)
        cluster = folder / "cluster"
        cluster.write_text("#!/bin/sh\nexit 1\n")
        cluster.chmod(0o755)
        self.config = folder / "pairguard.toml"
        self.write(SETTINGS.format(node=NODE, peer=PEER, folder=folder))

    def write(self, settings: str) -> None:
        self.config.write_text(settings)

    def start(self) -> Program:
        # A network namespace of its own: no cluster of this machine, real or another test's, is ever reached.
        return Program(self.folder, "guard.daemon.main", self.config, "unshare", "-n")

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Program]:
        program = self.start()
        try:
            await until(lambda: self.answers() or program.process.poll() is not None, "the daemon answers")
            assert program.process.poll() is None, program.said
            yield program
        finally:
            program.stop(signal.SIGKILL)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.run / "status.sock"))
            return True
        return False

    async def status(self) -> dict[str, Any]:
        [pair] = (await ask(self.run / "status.sock", "status", {}, 20.0))["pairs"]
        assert isinstance(pair, dict)
        return pair

    async def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        return await ask(self.run / "control.sock", verb, args, 20.0)


@pytest.fixture
def node() -> Iterator[Node]:
    """In a folder that other users may enter, unlike tmp_path: the sockets' own modes are what is tested."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Node(Path(folder))
        with contextlib.suppress(Unavailable, OSError):
            home = cgroup.find_mount() / "pairguard-shots" / NODE
            for group in cgroup.tree(home):
                group.rmdir()


@pytest.mark.asyncio
async def test_without_bus_cluster_and_drbd_it_runs_barred_and_disturbs_nobody(node: Node) -> None:
    """Nothing around it answers: it runs, says that the arbiter is silent, is barred, and holds nothing."""
    async with node.daemon() as program:
        await asyncio.sleep(1.0)
        shown = await node.status()
        assert (shown["arbiter"], shown["barred"], shown["whole"], shown["right"]) == ("silent", True, None, None)
        assert (shown["hold"]["state"], shown["network"]["disturbances"]) == ("none", [])
        assert program.stop() == 0
        assert "Traceback" not in program.said
        assert not node.answers()


@pytest.mark.asyncio
async def test_a_bus_that_never_was_is_no_disturbance_and_one_that_is_lost_is(node: Node) -> None:
    """Lost after it was there: a standing sign, this node brakes, and its record survives kill -9."""
    hub = Hub(node.folder / "hub.sock", BootClock())
    async with node.daemon() as program:
        assert (await node.status())["network"]["disturbances"] == []
        task = asyncio.create_task(hub.run())
        await until(lambda: NODE in hub._boxes, "the guard is on the bus")
        await asyncio.sleep(0.5)
        assert (await node.status())["network"]["disturbances"] == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shown: dict[str, Any] = {}
        for _ in range(100):
            shown = await node.status()
            if shown["hold"]["inhibits"]:
                break
            await asyncio.sleep(0.1)
        [inhibit] = shown["hold"]["inhibits"]
        assert (inhibit["kind"], inhibit["owner"], inhibit["ended"]) == ("disturbance", NODE, False)
        assert shown["network"]["disturbances"]
        assert shown["hold"]["state"] == "braked"
        program.stop(signal.SIGKILL)
    async with node.daemon():
        assert [i["id"] for i in (await node.status())["hold"]["inhibits"]] == [inhibit["id"]]


@pytest.mark.asyncio
async def test_a_second_daemon_of_this_node_ends_with_what_why_and_next(node: Node) -> None:
    """Exit 75, so that it is tried again, and one line; the first goes on undisturbed."""
    async with node.daemon() as first:
        second = node.start()
        assert await second.ended() == 75
        [line] = [line for line in second.said.splitlines() if line.startswith("pairguardd:")]
        assert "another daemon of this node has it" in line
        assert "stop that one first" in line
        assert first.process.poll() is None
        await node.status()


@pytest.mark.asyncio
async def test_a_second_daemon_with_another_journal_ends_no_shot_of_the_first(node: Node) -> None:
    """Another paths.state passes the journal's lock; it is refused before it clears the shots of this node."""
    try:
        group = cgroup.find_mount() / "pairguard-shots" / NODE / "shot-now"
    except Unavailable as error:
        pytest.skip(str(error))
    async with node.daemon():
        cgroup.make(group)
        shot = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220
        try:
            (group / "cgroup.procs").write_text(str(shot.pid))
            node.write(node.config.read_text().replace("/state", "/other"))
            second = node.start()
            assert await second.ended() == 75
            assert "a living daemon answers there" in second.said
            assert shot.poll() is None
        finally:
            shot.kill()
            shot.wait()


@pytest.mark.asyncio
async def test_a_damaged_last_record_is_paged_and_drained_anew(node: Node) -> None:
    """S6: what the disk may have lost counts as a shot until H has passed, and a person reads of it."""
    (node.folder / "state").mkdir()
    path = node.folder / "state" / f"{NODE}.journal"
    with FileJournal(path, BootClock()) as journal:
        for era in (1, 2):
            await journal.append([record(Memory(BootClock().boot_id(), era=era))])
    content = bytearray(path.read_bytes().rstrip(b"\0"))
    content[-9] ^= 1
    path.write_bytes(content)
    async with node.daemon() as program:
        assert "journal-torn" in program.said
        [shot] = (await node.status())["shots"]
        assert 70 < shot["drains_in_s"] <= 75


@pytest.mark.asyncio
async def test_at_its_start_old_shots_are_killed_and_given_their_drain(node: Node) -> None:
    """A process of an earlier guard's shot is dead before the sockets answer; its intent drains in H, another never."""
    try:
        group = cgroup.find_mount() / "pairguard-shots" / NODE / "shot-old"
        cgroup.make(group)
    except Unavailable as error:
        pytest.skip(str(error))
    left = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220
    (group / "cgroup.procs").write_text(str(left.pid))
    boot = BootClock().boot_id()
    spawned = Intent("i1", 1, 2, PEER, boot, Instant(0), 75.0, spawned=True)
    unbounded = replace(spawned, id="i2", horizon_s=75.0, boot_id="another boot", drained=Instant(5))
    never = replace(spawned, id="i3", spawned=False)
    (node.folder / "state").mkdir()
    with FileJournal(node.folder / "state" / f"{NODE}.journal", BootClock()) as journal:
        await journal.append([record(Memory(boot, intents=(spawned, unbounded, never)))])
    try:
        async with node.daemon() as program:
            assert left.wait(20) == -signal.SIGKILL
            shots = (await node.status())["shots"]
            assert [70 < shot["drains_in_s"] <= 75 for shot in shots] == [True, True]
            assert (await node.status())["barred"] is True
            assert "shots-cleared" in program.said
    finally:
        left.kill()
        left.wait()


AS_NOBODY = """
import json, socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(20)
client.connect(sys.argv[1])
request = {"schema": "pairguard.control/1", "verb": sys.argv[2], "args": json.loads(sys.argv[3])}
client.sendall(json.dumps(request).encode() + b"\\n")
print(client.makefile().readline())
"""


def as_nobody(path: Path, verb: str, **args: Any) -> dict[str, Any]:
    """What a program without rights is answered; `{}` if it cannot even connect."""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", AS_NOBODY]
    ran = subprocess.run(
        [*command, str(path), verb, json.dumps(args)], capture_output=True, text=True, timeout=60, env=environment()
    )
    answer: dict[str, Any] = json.loads(ran.stdout) if ran.returncode == 0 else {}
    return answer


@pytest.mark.skipif(
    shutil.which("setpriv") is None or not Path("/usr/bin/python3").exists(), reason="needs setpriv(1) and python3"
)
@pytest.mark.asyncio
async def test_who_may_order_is_the_kernels_word_and_everybody_may_look(node: Node) -> None:
    """Another user cannot open the control socket; opened to all, it is refused by its uid; `status` answers it."""
    async with node.daemon():
        order = {"reason": "x", "lease_s": 60}
        control, status = node.run / "control.sock", node.run / "status.sock"
        assert as_nobody(control, "hold", **order) == {}
        control.chmod(0o666)
        refused = as_nobody(control, "hold", **order)
        assert refused["error"]["code"] == "not-allowed"
        assert "65534" in refused["error"]["why"]
        assert as_nobody(status, "status")["done"]["schema"] == "pairguard.status/1"
        assert as_nobody(status, "hold", **order)["error"]["code"] == "refused"
        assert (await node.status())["hold"]["inhibits"] == []


@pytest.mark.asyncio
async def test_a_persons_hold_is_durable_and_bad_orders_change_nothing(node: Node) -> None:
    """Leases and reasons without an end, half a character, no number: refused; a good one outlives kill -9."""
    bad: list[dict[str, Any]] = [
        {"lease_s": float("inf")},
        {"lease_s": float("nan")},
        {"lease_s": 10**400},
        {"lease_s": True},
        {"lease_s": "60"},
        {"lease_s": -1},
        {"reason": "x" * 60_000},
        {"reason": "\ud800"},
        {"reason": ""},
        {"reason": 7},
        {"key": "k" * 5000},
        {"key": ["a"]},
    ]
    async with node.daemon() as program:
        for wrong in bad:
            with pytest.raises(Refused):
                await node.ask("hold", **{"reason": "work", "lease_s": 60.0, **wrong})
        for verb, args in (
            ("fence", {"target": NODE, "action": "off", "wait_s": 5}),
            ("fence", {"target": PEER, "action": "melt", "wait_s": 5}),
            ("fence", {"target": PEER, "action": "off", "wait_s": float("nan")}),
            ("fence", {"target": PEER, "action": "off", "wait_s": 5, "delegate": "fence_other"}),
            ("verdict", {"target": NODE}),
            ("power", {"action": "off", "target": "nobody"}),
            ("melt", {}),
        ):
            with pytest.raises(Refused):
                await node.ask(verb, **args)
        assert (await node.status())["hold"]["inhibits"] == []
        held = await node.ask("hold", reason="work", lease_s=60.0, key="k1")
        assert (held["outcome"], held["key"]) == ("braked", "k1")
        await node.ask("hold", reason="work", lease_s=60.0, key="k1")
        program.stop(signal.SIGKILL)
    async with node.daemon() as program:
        [inhibit] = (await node.status())["hold"]["inhibits"]
        assert (inhibit["id"], inhibit["kind"], inhibit["reason"]) == ("person:k1", "person", "work")
        assert program.process.poll() is None
        assert "Traceback" not in program.said


@pytest.mark.asyncio
async def test_the_same_order_without_a_key_is_the_same_hold(node: Node) -> None:
    """A script that says `hold` again and again holds once; another reason is another hold; an owner's many letters
    count as the bytes that they take."""
    async with node.daemon():
        first = await node.ask("hold", reason="work", lease_s=60.0)
        again = await node.ask("hold", reason="work", lease_s=60.0)
        assert first["key"] == again["key"]
        assert (await node.ask("hold", reason="other work", lease_s=60.0))["key"] != first["key"]
        with pytest.raises(Refused, match="longer"):
            await node.ask("hold", reason="ü" * 400, lease_s=60.0)
        for n in range(14):
            await node.ask("hold", reason=f"work {n}", lease_s=60.0)
        with pytest.raises(Refused, match="release") as refused:
            await node.ask("hold", reason="one more", lease_s=60.0)
        assert "--key" in str(refused.value)
        assert len((await node.status())["hold"]["inhibits"]) == 16


@pytest.mark.asyncio
async def test_a_client_that_goes_away_takes_its_request_with_it(node: Node) -> None:
    """The fence agent is killed while it waits: the guard has no such request any more."""
    async with node.daemon():
        reader, writer = await asyncio.open_unix_connection(node.run / "control.sock")
        asked = {"target": PEER, "action": "off", "wait_s": 50}
        request = {"schema": "pairguard.control/1", "verb": "fence", "args": asked}
        writer.write(json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(20):
            assert "progress" in json.loads(await reader.readline())
        assert [w["who"] for w in (await node.status())["waiting"]] == ["fence_pairguard"]
        writer.transport.abort()
        for _ in range(100):
            if not (await node.status())["waiting"]:
                break
            await asyncio.sleep(0.1)
        assert (await node.status())["waiting"] == []


@pytest.fixture
def refused(node: Node, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """What the daemon says when it does not start, and that it ends with 89; in this process, for it starts nothing."""

    def start(code: int = 89) -> str:
        assert main(["--config", str(node.config)]) == code
        return capsys.readouterr().err

    yield start
    structlog.reset_defaults()


def test_every_fault_of_the_settings_is_named_at_once(node: Node, refused: Callable[..., str]) -> None:
    """A misspelt key, a value without a unit, an unknown word, a missing table: four lines with file and key."""
    text = (
        node.config.read_text().replace('horizon = "75s"', 'horizont = "75s"\ntimeout = 20').replace('"hub"', '"hubb"')
    )
    node.write(text.replace("[replication]\nresources", "[replicas]\nresources"))
    said = refused()
    for word in (str(node.config), f"fence.{PEER}.horizont", f"fence.{PEER}.timeout", "bus.kind", "replication"):
        assert word in said


@pytest.mark.parametrize("what", ["missing", "empty", "no toml", "no device", "unbounded"])
def test_settings_that_cannot_be_used_stop_the_start(node: Node, refused: Callable[..., str], what: str) -> None:
    """In plain words, for each way in which they may be wrong."""
    text = node.config.read_text()
    match what:
        case "missing":
            node.config.unlink()
        case "empty":
            node.write("")
        case "no toml":
            node.write(text + "\n[bus")
        case "no device":
            node.write(text.replace(f"[fence.{PEER}]", f"[fence.{NODE}]"))
        case _:
            node.write(text.replace('"75s"', '"unbounded"'))
    said = refused()
    assert "pairguardd: cannot" in said


@pytest.mark.parametrize("what", ["readable by others", "missing", "not a key", "no public key", "broken public key"])
def test_keys_that_cannot_be_trusted_stop_the_start(node: Node, refused: Callable[..., str], what: str) -> None:
    """Also one of another party that does not read: a key is never silently left out."""
    private = node.folder / f"{NODE}.pem"
    match what:
        case "readable by others":
            private.chmod(0o644)
        case "missing":
            private.unlink()
        case "not a key":
            private.write_text("x")
        case "no public key":
            (node.folder / "pub" / f"{NODE}.pub").unlink()
        case _:
            (node.folder / "pub" / f"{PEER}.pub").write_text("x")
    said = refused()
    assert "pairguardd: cannot" in said
    if what == "readable by others":
        assert "chmod 0600" in said


def test_a_journal_that_cannot_be_believed_stops_the_start(node: Node, refused: Callable[..., str]) -> None:
    """A memory that does not validate, a file that is none: 89 each, with the path."""
    state = node.folder / "state"
    state.mkdir()
    path = state / f"{NODE}.journal"
    with FileJournal(path, BootClock()) as journal:
        asyncio.run(journal.append([{"kind": "memory", "memory": {"boot_id": 7}}]))
    assert "cannot read the guard's memory" in refused()
    path.write_text("no journal at all")
    assert str(path) in refused()


@pytest.mark.parametrize("what", ["no folder", "no group"])
def test_trouble_that_may_pass_is_tried_again(node: Node, refused: Callable[..., str], what: str) -> None:
    """L1: 75, which no unit names as final: a disk, a directory service that is not up yet at boot."""
    match what:
        case "no folder":
            (node.folder / "state").write_text("a file")
        case _:
            node.write(node.config.read_text() + '\n[control]\ngroup = "no-such-group-here"\n')
    assert "pairguardd: cannot" in refused(75)


@pytest.mark.asyncio
async def test_a_reload_with_another_peer_is_survived(node: Node) -> None:
    """The real signal: it runs on with the names of its start, and says what waits for a restart."""
    async with node.daemon() as program:
        node.write(node.config.read_text().replace(PEER, f"{PEER}x"))
        program.process.send_signal(signal.SIGHUP)
        await until(lambda: "restart pairguardd to take: pair, fence" in program.said, "it says what it took")
        assert "Traceback" not in program.said
        await node.status()


def test_the_programs_say_their_version() -> None:
    """`--version` needs no settings."""
    for module in ("guard.daemon.main", "guard.witness.main"):
        ran = subprocess.run(
            [sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=60, env=environment()
        )
        assert ran.stdout.startswith("pairguard ")
