"""Two stand-ins on loopback, without root: a TCP proxy between them that cuts or holds, and a handler that returns
what it is told."""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from disk import Meta, save_meta  # noqa: E402

DEADLINE_S = 20.0  # generous: the machine may be loaded
GI = "94412B91E79C9C14:0:00B27B9F5C26A514:4:1:1"

HANDLER = """#!/bin/sh
cd {folder} || exit 1
n=$(($(cat calls 2>/dev/null || echo 0) + 1))
echo $n >calls
env | grep ^DRBD_ | sort >env.$n
echo "START $n" >>fp.log
while [ -d {folder} ] && [ ! -e rc.$n ] && [ ! -e rc.all ]; do sleep 0.05; done
rc=$(cat rc.$n 2>/dev/null || cat rc.all)
echo "END $n $rc" >>fp.log
exit $rc
"""


def until(what: str, true: Callable[[], object]) -> None:
    """Waits for the world; fails with the name of what did not come."""
    end = time.monotonic() + DEADLINE_S
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"did not come: {what}")
        time.sleep(0.03)


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxy:
    """The network between the two. `cut` swallows, `hold` keeps and delivers later, `heal` ends both."""

    def __init__(self, target: int) -> None:
        self.state, self._target = "open", target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._wires: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing passes, in neither direction; no connection breaks."""
        self.state = "cut"

    def hold(self) -> None:
        """As a cut, but what is sent comes out at `heal`."""
        self.state = "held"

    def heal(self) -> None:
        """Passes again. Streams that lost bytes cannot go on: they break."""
        if self.state == "cut":
            self._break()
        self.state = "open"

    def stray(self, said: bytes) -> None:
        """A connection past the cut that says this once the listener has said hello, and is then reset."""
        with socket.create_connection(("127.0.0.1", self._target), timeout=DEADLINE_S) as wire:
            assert b"hello" in wire.recv(65536)
            wire.sendall(said)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Ends it."""
        self.state = "closed"
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._break()

    def _break(self) -> None:
        wires, self._wires = self._wires, []
        for wire in (end for pair in wires for end in pair):
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _accept(self) -> None:
        while self.state != "closed":
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self.state != "open":
                self._wires.append((near, near))
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._wires.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                while self.state == "held":
                    time.sleep(0.01)
                if self.state == "open":
                    sink.sendall(data)
            while self.state in ("held", "cut"):  # an end of stream does not pass either
                time.sleep(0.01)
        for wire in (source, sink):
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)


class Client:
    """One application that has the device open; `send` does not wait."""

    def __init__(self, path: Path) -> None:
        self._wire = socket.socket(socket.AF_UNIX)
        self._wire.connect(str(path))
        self.last = int(self.call(op="open")["last"])

    def call(self, **order: object) -> dict[str, int]:
        """One order and its answer."""
        self._wire.settimeout(DEADLINE_S)
        self._wire.sendall(json.dumps(order).encode() + b"\n")
        return dict(json.loads(self._read()))

    def send(self, block: int) -> None:
        """Submits one record."""
        self._wire.sendall(json.dumps({"op": "write", "b": block, "h": f"h{block}-{id(self)}"}).encode() + b"\n")

    def acknowledged(self, within_s: float = DEADLINE_S) -> int | None:
        """The next acknowledged record; None if none comes."""
        self._wire.settimeout(within_s)
        try:
            return int(json.loads(self._read())["ack"])
        except TimeoutError:
            return None

    def write(self, count: int) -> None:
        """So many records, each acknowledged."""
        for _ in range(count):
            self.last += 1
            self.send(self.last)
            assert self.acknowledged() == self.last

    def close(self) -> None:
        """Closes the device."""
        self._wire.close()

    def _read(self) -> bytes:
        text = b""
        while not text.endswith(b"\n"):
            got = self._wire.recv(4096)
            if not got:
                raise ConnectionError("device gone")
            text += got
        return text


class Node:
    """One node: configuration, daemon, tools, handler."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True)
        self.run, self.prefix = folder / "run", folder / "r0"
        self.env = {"PATH": os.environ["PATH"], "__DRBD_NODE__": name, "PGLAB_DRBD_CONF": str(folder / "drbd.conf")}
        self.env |= {"PGLAB_DRBD_RUN": str(self.run), "PGLAB_DRBD_SYSBLOCK": str(folder / "block")}
        self.daemon: subprocess.Popen[bytes] | None = None
        handler = folder / "fp.sh"
        handler.write_text(HANDLER.format(folder=shlex.quote(str(folder))))
        handler.chmod(0o755)

    def boot(self) -> None:
        """Starts the daemon and waits for it."""
        self.start()
        until("daemon", (self.run / "control").exists)

    def start(self) -> None:
        """Starts the daemon ("the module")."""
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen([sys.executable, str(HERE / "drbdd.py")], env=self.env, stderr=log)

    def power_loss(self) -> None:
        """kill -9."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None
        (self.run / "control").unlink(missing_ok=True)

    def tool(self, line: str) -> tuple[int, str, str]:
        """`drbdadm ...` and the like: exit code, stdout, stderr."""
        tool, *arguments = line.split()
        command = [sys.executable, str(HERE / "bin" / tool), *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    def do(self, verb: str, **more: object) -> int:
        """A verb for r0, straight to the daemon; its exit code."""
        return int(self._order(verb, more)["rc"])

    def show(self, verb: str) -> str:
        """What a verb prints for r0."""
        return str(self._order(verb, {})["out"]).strip()

    def _order(self, verb: str, more: dict[str, object]) -> dict[str, int | str]:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(60)
            wire.connect(str(self.run / "control"))
            wire.sendall(json.dumps({"do": verb, "resource": "r0", **more}).encode() + b"\n")
            return dict(json.loads(wire.makefile().readline()))

    def client(self) -> Client:
        """Opens the device."""
        return Client(self.run / "r0.app")

    @property
    def gi(self) -> list[str]:
        """Identifiers and flags of the running resource."""
        return self.show("get-gi").split(":")

    @property
    def suspended(self) -> str:
        """The `suspended:` word of status."""
        return self.show("status-full").partition("suspended:")[2].split()[0]

    @property
    def oos(self) -> int:
        """Out of sync, KiB."""
        return int(self.show("status-full").partition("out-of-sync:")[2].split()[0])

    def gi_stored(self) -> str:
        """Identifiers and flags on the disk."""
        return self.tool(f"drbdmeta 0 v08 {self.prefix} internal get-gi")[1].strip()

    def answer(self, code: int, call: int | str = "all") -> None:
        """Lets handler call `call` return `code`."""
        fresh = self.folder / "rc.new"
        fresh.write_text(str(code))
        fresh.replace(self.folder / f"rc.{call}")

    def calls(self, word: str = "START") -> int:
        """How often the handler was started (or ended)."""
        log = self.folder / "fp.log"
        return log.read_text().count(word) if log.exists() else 0

    def log(self) -> str:
        """The kernel-like log."""
        return (self.folder / "r0.log").read_text()


class Pair:
    """Nodes a (dials, through the proxy) and b; `up` makes them Connected and a Primary."""

    def __init__(self, folder: Path, fencing: str = "resource-and-stonith", rate: str = "10M") -> None:
        self.a, self.b = Node("a", folder / "a"), Node("b", folder / "b")
        port_a, port_b = free_port(), free_port()
        self.net = Proxy(port_b)
        for node, peer_port in ((self.a, self.net.port), (self.b, port_b)):
            (node.folder / "drbd.conf").write_text(
                f"""resource r0 {{
    device /dev/drbd0 minor 0;
    disk {node.prefix};
    meta-disk internal;
    net {{ protocol C; ping-int 0.2; ping-timeout 4; connect-int 0.1; }}
    disk {{ fencing {fencing}; resync-rate {rate}; }}
    handlers {{ fence-peer "{node.folder}/fp.sh"; }}
    on a {{ address 127.0.0.1:{port_a}; }}
    on b {{ address 127.0.0.1:{peer_port}; }}
}}
"""
            )
            meta = Meta()
            meta.set_gi(GI)
            save_meta(node.prefix, meta)
            node.start()

    def up(self) -> None:
        """Until both are whole and a is Primary."""
        for node in (self.a, self.b):
            until("daemon", (node.run / "control").exists)
            assert node.do("up") == 0
        self.connected()
        assert self.a.do("primary") == 0

    def connected(self) -> None:
        """Waits until both are whole."""
        for node in (self.a, self.b):
            until(f"{node.name} whole", lambda node=node: node.show("dstate") == "UpToDate/UpToDate")

    def cut(self, calls: int | None = None) -> None:
        """Cuts, and waits until both noticed (and a's handler was called)."""
        wanted = self.a.calls() + 1 if calls is None else calls
        self.net.cut()
        for node in (self.a, self.b):
            until(f"{node.name} lost", lambda node=node: node.show("cstate") == "WFConnection")
        until("handler", lambda: self.a.calls() >= wanted)

    def heal(self) -> None:
        """Heals, and waits until both are whole."""
        self.net.heal()
        self.connected()

    def close(self) -> None:
        """Ends all that was started."""
        for node in (self.a, self.b):
            node.answer(1)
        for node in (self.a, self.b):
            until("handlers gone", lambda node=node: node.calls("START") == node.calls("END"))
            node.power_loss()
        self.net.close()
