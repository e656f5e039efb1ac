"""A supervised shot with real programs, real cgroups and real sockets: it ends when it must and nothing is left."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import alive, mount, until

from fencing import cgroup, sockdiag
from fencing.delegate import NOT_STARTED
from fencing.supervisor import Supervisor
from guard.adapters.clock import BootClock
from guard.errors import Refused, Unavailable
from guard.ports import Cleared, DeviceSettings

ROOT = Path(__file__).parents[2]
ONE_SHOT = Path(__file__).with_name("one_shot.py")
Writer = Callable[..., DeviceSettings]
pytestmark = pytest.mark.root

TREE = """
import os, signal, sys, time
pids = open(sys.argv[0] + ".pids", "a")
for kind in ("child", "session", "orphan"):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if kind != "child":
            os.setsid()
        if kind == "orphan" and os.fork() != 0:
            os._exit(0)
        pids.write(f"{os.getpid()}\\n"); pids.flush()
        time.sleep(600)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids.write(f"{os.getpid()}\\n"); pids.flush()
time.sleep(600)
"""
STUCK_SENDER = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(open(sys.argv[0] + ".port").read())))
connection.setblocking(False)
sent = 0
try:
    while True:
        sent += connection.send(b"power off " * 6000)
except BlockingIOError:
    pass
open(sys.argv[0] + ".tmp", "w").write(str(sent))
import os
os.rename(sys.argv[0] + ".tmp", sys.argv[0] + ".sent")
"""


def trace(device: DeviceSettings, ending: str) -> str | None:
    """What the delegate wrote beside itself; None = it did not."""
    file = Path(device.agent + ending)
    return file.read_text() if file.exists() else None


def pids_of(device: DeviceSettings, count: int) -> list[int]:
    file = Path(device.agent + ".pids")
    until(lambda: file.exists() and len(file.read_text().split()) >= count, "the delegate and its children run")
    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.asyncio
async def test_good_run_is_clean(supervisor: Supervisor, delegate: Writer, tmp_path: Path, parent: str) -> None:
    """An agent that ends by itself gives its code, is clean, read our words last, and leaves no group."""
    device = delegate(f"cat > {tmp_path}/stdin; exit 7", options={"ip": "192.0.2.1", "action": "banana"})
    result = await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert (result.exit_code, result.clean, result.killed, result.sockets_destroyed) == (7, True, 0, 0)
    lines = (tmp_path / "stdin").read_text().splitlines()
    assert sorted(lines) == ["action=off", "ip=192.0.2.1", "nodename=fs1b", "port=fs1b"]
    root = mount()
    assert root is not None
    assert list((root / parent / "here").glob("shot-*")) == []


def test_child_sees_nothing_of_ours(delegate: Writer, tmp_path: Path, parent: str) -> None:
    """The delegate's environment is PATH and LANG, its folder is /, and no descriptor of the guard leaks to it."""
    text = (
        "import json, os\n"
        "seen = {'env': sorted(os.environ), 'folder': os.getcwd(), 'descriptors': os.listdir('/proc/self/fd')}\n"
        f"open('{tmp_path}/seen', 'w').write(json.dumps(seen))"
    )
    device = delegate(text, interpreter="/usr/bin/python3 -I")
    ran = subprocess.run(
        [sys.executable, ONE_SHOT, parent, device.agent, "30"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VIRTUAL_ENV": "/x", "LD_LIBRARY_PATH": "/x", "SECRET": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(ran.stdout)["exit_code"] == 0, ran.stderr
    seen = json.loads((tmp_path / "seen").read_text())
    assert set(seen["env"]) - {"LC_CTYPE"} == {"LANG", "PATH"}, "Python itself may add LC_CTYPE (PEP 538)"
    assert seen["folder"] == "/"
    assert set(seen["descriptors"]) <= {"0", "1", "2", "3"}, "3 is the listing itself"


@pytest.mark.asyncio
async def test_hanging_agent_is_ended_with_its_tree(supervisor: Supervisor, delegate: Writer) -> None:
    """At the deadline the whole tree dies: children, own sessions, orphans, deaf to SIGTERM."""
    device = delegate(TREE, timeout_s=2.0, interpreter="/usr/bin/python3 -I")
    result = await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert (result.exit_code, result.clean) == (None, False)
    pids = pids_of(device, 4)
    assert result.killed >= 4
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.asyncio
async def test_child_left_behind_is_not_clean(supervisor: Supervisor, delegate: Writer) -> None:
    """An agent that exits 0 but leaves a child has its code, but is not clean, and the child is dead."""
    device = delegate('setsid sleep 600 >/dev/null 2>&1 & echo $! > "$0.pids"; exit 0')
    result = await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert (result.exit_code, result.clean, result.killed) == (0, False, 1)
    assert not alive(int(trace(device, ".pids") or 0))


class FrozenPeer:
    """A device on loopback that accepts and does not read until told to."""

    def __init__(self, device: DeviceSettings) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        Path(device.agent + ".port").write_text(str(self._server.getsockname()[1]))
        self._sent = Path(device.agent + ".sent")
        self.connection: socket.socket | None = None

    def accept(self) -> int:
        """Once the sender is stuck: number of bytes it has handed to its kernel."""
        self._server.settimeout(30)
        self.connection, _ = self._server.accept()
        until(self._sent.exists, "the delegate has filled its buffers")
        return int(self._sent.read_text())

    def arrived(self) -> int:
        assert self.connection is not None
        return int(struct.unpack("i", fcntl.ioctl(self.connection, termios.FIONREAD, bytes(4)))[0])

    def read_all(self) -> int:
        """The freeze ends: everything that still comes in."""
        assert self.connection is not None
        self.connection.settimeout(30)
        total = 0
        try:
            while piece := self.connection.recv(1 << 20):
                total += len(piece)
        except ConnectionResetError:
            pass
        self.connection.close()
        self._server.close()
        return total


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["exits by itself", "is killed"])
async def test_dead_agent_sends_nothing_more(supervisor: Supervisor, delegate: Writer, end: str) -> None:
    """Data in the kernel of a dead agent never reaches a device that was frozen: its sockets are destroyed."""
    more = "" if end == "exits by itself" else "time.sleep(600)"
    device = delegate(STUCK_SENDER + more, timeout_s=2.0, interpreter="/usr/bin/python3 -I")
    peer = FrozenPeer(device)
    firing = asyncio.create_task(supervisor.fire(device, "off", "fs1b", "s1", None))
    sent = await asyncio.to_thread(peer.accept)
    result = await firing
    arrived = peer.arrived()
    assert arrived < sent, "nothing was stuck, so this test would show nothing"
    assert (result.clean, result.sockets_destroyed) == (False, 1), result.output
    assert result.exit_code == (0 if end == "exits by itself" else None)
    assert await asyncio.to_thread(peer.read_all) <= arrived


def test_without_destroying_the_data_would_arrive(delegate: Writer) -> None:
    """The counter-test: kill -9 alone, and the kernel delivers the dead agent's data after the freeze."""
    device = delegate(STUCK_SENDER + "time.sleep(600)", interpreter="/usr/bin/python3 -I")
    peer = FrozenPeer(device)
    with subprocess.Popen([device.agent], stdin=subprocess.DEVNULL) as agent:
        sent = peer.accept()
        agent.kill()
    assert peer.arrived() < sent
    assert peer.read_all() == sent


def test_a_connection_that_its_owner_closed_first_hides_nothing() -> None:
    """Half a socket in FIN_WAIT2 names no cgroup: any such one on the machine made every shot count as not clean."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        with peer:
            client.close()
            assert peer.recv(1) == b""
            assert sockdiag.made_in(frozenset({0})) == []


def test_half_a_socket_that_awaits_a_fin_is_passed_over() -> None:
    """The same from the kernel's words alone: the live test above passes too where the kernel kept a whole socket."""

    def said(state: int) -> list[tuple[int, bytes]]:
        message = bytes([socket.AF_INET, state]).ljust(sockdiag.MESSAGE_BYTES, b"\0")
        return [(sockdiag.SOCK_DIAG_BY_FAMILY, message)]

    assert list(sockdiag.parsed(socket.AF_INET, socket.IPPROTO_TCP, said(sockdiag.FIN_WAIT2))) == []
    with pytest.raises(Unavailable, match="does not say their cgroup"):
        list(sockdiag.parsed(socket.AF_INET, socket.IPPROTO_TCP, said(state=1)))  # TCP_ESTABLISHED


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def start_guard(parent: str, device: DeviceSettings, timeout_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ONE_SHOT, parent, device.agent, str(timeout_s)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_shot_dies_with_its_guard(parent: str, delegate: Writer) -> None:
    """kill -9 of the guard ends the shot at once: its watch sees the lifeline break."""
    device = delegate(TREE, interpreter="/usr/bin/python3 -I")
    with start_guard(parent, device, 60) as guard:
        pids = pids_of(device, 4)
        guard.kill()
    until(lambda: not any(alive(pid) for pid in pids), "the tree is dead")


def test_shot_ends_in_time_though_the_guard_hangs(parent: str, delegate: Writer) -> None:
    """A stopped guard cannot act at the deadline; the watch does, and the guard then reports no result."""
    device = delegate(TREE, interpreter="/usr/bin/python3 -I")
    with start_guard(parent, device, 3) as guard:
        pids = pids_of(device, 4)
        guard.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not any(alive(pid) for pid in pids), "the tree is dead")
        finally:
            guard.send_signal(signal.SIGCONT)
        out, _ = guard.communicate(timeout=30)
    result = json.loads(out)
    assert (result["exit_code"], result["clean"]) == (None, False)


@pytest.mark.asyncio
async def test_next_guard_clears_what_is_left(parent: str, delegate: Writer) -> None:
    """Guard and watch both killed: the agent dies with them, and `clear` of the next guard ends its children."""
    device = delegate(TREE, interpreter="/usr/bin/python3 -I")
    with start_guard(parent, device, 60) as guard:
        pids = pids_of(device, 4)
        watch = only_child(guard.pid)
        guard.send_signal(signal.SIGSTOP)
        os.kill(watch, signal.SIGKILL)
        guard.kill()
    until(lambda: sum(alive(pid) for pid in pids) == 3, "the agent is dead, its children outlived it: the case to mend")
    pids = [pid for pid in pids if alive(pid)]
    supervisor = Supervisor(BootClock(), node="here", parent=parent)
    stranger = Supervisor(BootClock(), node="elsewhere", parent=parent)
    assert (await stranger.clear()).killed == 0
    assert all(alive(pid) for pid in pids)
    assert (await supervisor.clear()).killed >= 3
    assert not any(alive(pid) for pid in pids)
    assert await supervisor.clear() == Cleared(0)
    again = await supervisor.fire(delegate("exit 0"), "off", "there", "one", None)
    assert (again.exit_code, again.clean) == (0, True)


@contextmanager
def stuck(group: Path) -> Iterator[None]:
    """A group that cannot be removed, as if a process hung in the kernel: something is mounted there."""
    cgroup.make(group)
    subprocess.run(["mount", "--bind", str(group), str(group)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(group)], check=True)


@pytest.mark.asyncio
async def test_one_shot_that_cannot_be_ended_leaves_every_other_run_alone(
    supervisor: Supervisor, delegate: Writer, parent: str
) -> None:
    """A start names it and ends the rest; while it is tried again, readings and shots run to their own end."""
    root = mount()
    assert root is not None
    left = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220
    with left, stuck(root / parent / "here" / "shot-s1"):
        other = root / parent / "here" / "shot-s2"
        cgroup.make(other)
        (other / "cgroup.procs").write_text(str(left.pid))
        assert await supervisor.clear() == Cleared(1, frozenset({"s1"}))
        assert left.wait(20) == -signal.SIGKILL
        again = asyncio.create_task(supervisor.end("s1"))
        device = delegate("sleep 1; echo done")
        ran = await asyncio.gather(*(supervisor.run(device, "off", "b", f"shot-x{n}", 30.0) for n in range(2)))
        assert [(each.exit_code, each.clean, each.killed) for each in ran] == [(0, True, 0)] * 2
        assert not again.done()
    await again
    assert await supervisor.clear() == Cleared(0)


@pytest.mark.asyncio
async def test_cancelled_shot_is_ended(supervisor: Supervisor, delegate: Writer) -> None:
    """A cancelled task leaves no delegate running."""
    device = delegate(TREE, interpreter="/usr/bin/python3 -I")
    firing = asyncio.create_task(supervisor.fire(device, "off", "fs1b", "s1", None))
    pids = await asyncio.to_thread(pids_of, device, 4)
    firing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await firing
    await asyncio.to_thread(until, lambda: not any(alive(pid) for pid in pids), "the tree is dead")


@pytest.mark.asyncio
async def test_without_file_descriptors_nothing_is_started(supervisor: Supervisor, delegate: Writer) -> None:
    """`Unavailable`, as for anything else that is missing; the guard lives, and the next shot is fired."""
    device = delegate('echo ran >> "$0.ran"')
    assert (await supervisor.fire(device, "status", "there", "warm", None)).exit_code == 0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))  # one is left, and a pipe needs two
    try:
        with pytest.raises(Unavailable, match="cannot start the delegate"):
            await supervisor.fire(device, "off", "there", "one", None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert trace(device, ".ran") == "ran\n"
    assert (await supervisor.fire(device, "off", "there", "two", None)).exit_code == 0


@pytest.mark.asyncio
async def test_one_shot_id_fires_once(supervisor: Supervisor, delegate: Writer) -> None:
    """While a shot runs, the same id cannot run again."""
    device = delegate('echo x >> "$0.pids"; sleep 1')
    results = await asyncio.gather(
        *(supervisor.fire(device, "off", "fs1b", "same", None) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(result, Unavailable) for result in results) == 2
    assert trace(device, ".pids") == "x\n"


HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
)
V2 = "41 31 0:38 / {} {},relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_mount_is_found_in_mountinfo() -> None:
    """cgroup v2 is found alone, beside v1 and under an odd name; read-only or v1 alone is none."""
    assert cgroup.mount_of(V2.format("/sys/fs/cgroup", "rw")) == Path("/sys/fs/cgroup")
    assert cgroup.mount_of(HYBRID + V2.format("/sys/fs/cgroup/unified", "rw")) == Path("/sys/fs/cgroup/unified")
    assert cgroup.mount_of(V2.format(r"/c\040g", "rw")) == Path("/c g")
    assert cgroup.mount_of(V2.format("/sys/fs/cgroup", "ro")) is None
    assert cgroup.mount_of(HYBRID) is None


def test_old_kernel_kills_one_by_one(tmp_path: Path) -> None:
    """Without cgroup.kill (before Linux 5.14) every process that the group lists is killed."""
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        (tmp_path / "cgroup.procs").write_text(f"{sleeper.pid}\n")
        try:
            cgroup.kill(tmp_path)
            assert sleeper.wait(timeout=30) == -signal.SIGKILL
        finally:
            sleeper.kill()


@pytest.mark.asyncio
async def test_no_cgroup_no_fence(tmp_path: Path, delegate: Writer) -> None:
    """Without cgroup v2 the supervisor says so and starts nothing."""
    (tmp_path / "mountinfo").write_text(HYBRID)
    supervisor = Supervisor(BootClock(), node="here", parent="p", mountinfo=tmp_path / "mountinfo")
    device = delegate('touch "$0.ran"')
    assert "no writable cgroup v2" in str(supervisor.usable())
    with pytest.raises(Unavailable):
        await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert trace(device, ".ran") is None


def test_usable_here(supervisor: Supervisor) -> None:
    """Where these tests run, a group can be made and removed."""
    assert supervisor.usable() is None


def test_no_group_no_agent(delegate: Writer, tmp_path: Path) -> None:
    """An agent that cannot join its group is not started."""
    device = delegate('touch "$0.ran"')
    reading, writing = os.pipe()
    script = str(ROOT / "fencing" / "delegate.py")
    ran = subprocess.run(
        [sys.executable, "-I", "-S", script, str(tmp_path / "gone"), "30", "0", str(reading), device.agent],
        pass_fds=(reading,),
        capture_output=True,
        check=False,
    )
    os.close(reading)
    os.close(writing)
    assert ran.returncode == NOT_STARTED
    assert b"cannot start" in ran.stderr
    assert trace(device, ".ran") is None


@pytest.mark.asyncio
async def test_no_smuggled_options(supervisor: Supervisor, delegate: Writer) -> None:
    """A line break in an option would be another option; it is refused, and nothing runs."""
    device = delegate('touch "$0.ran"', options={"ip": "192.0.2.1\naction=on"})
    with pytest.raises(Refused):
        await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert trace(device, ".ran") is None


@pytest.mark.asyncio
async def test_our_order_is_the_last_word(supervisor: Supervisor, delegate: Writer) -> None:
    """S4: an agent takes the last value it reads: an option of that name changes neither action nor node."""
    device = delegate('cat > "$0.read"', options={"action": "on", "nodename": "fs1a", "port": "7"})
    await supervisor.fire(device, "off", "fs1b", "s1", None)
    read = [line.partition("=") for line in (trace(device, ".read") or "").splitlines()]
    assert {name: value for name, _, value in read} == {"action": "off", "nodename": "fs1b", "port": "7"}


@pytest.mark.asyncio
async def test_output_is_short_and_hides_secrets(supervisor: Supervisor, delegate: Writer) -> None:
    """The last 4 KiB of stderr are kept, endless output blocks nobody, and passwords are not in them."""
    device = delegate(
        "yes noise | head -c 300000 >&2; echo using s3cret now >&2; exit 1", options={"password": "s3cret"}
    )
    result = await supervisor.fire(device, "off", "fs1b", "s1", None)
    assert (result.exit_code, len(result.output)) == (1, 4096)
    assert result.output.endswith("using *** now\n")


@pytest.mark.asyncio
async def test_missing_agent(supervisor: Supervisor) -> None:
    """An agent that is not installed is Unavailable, with its name."""
    device = DeviceSettings(agent="fence_of_nowhere", options={}, horizon_s=None)
    with pytest.raises(Unavailable, match="fence_of_nowhere"):
        await supervisor.fire(device, "off", "fs1b", "s1", None)
