"""Power controllers: one a node, on the node's own rack, reachable over the fabric (or out-of-band by option).

A command is acknowledged at once and takes effect `latency_s` later, as real controllers do (0.5 to 4 s).
Line protocol on TCP 6230: `off|on|status NODE CALLER` → `ok`, `on`, `off` or `error`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping

from tests.lab.fabric import Fabric, address
from tests.lab.node import Node
from tests.lab.record import Record
from tests.lab.space import Space

PORT = 6230


class PowerControllers:
    """The controllers of all nodes: namespace `bmc1` for the a-nodes, `bmc2` for the b-nodes."""

    def __init__(
        self,
        space: Space,
        fabric: Fabric,
        record: Record,
        nodes: Mapping[str, Node],
        *,
        latency_s: float,
        ports_stay_up: bool = False,
    ) -> None:
        self.space, self.fabric, self.record, self.nodes = space, fabric, record, nodes
        self.latency_s = latency_s
        self.ports_stay_up = ports_stay_up
        self._sockets: list[socket.socket] = []
        self._pending: list[threading.Timer] = []
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Attach the controllers to both nets and listen."""
        for name in ("bmc1", "bmc2"):
            self.fabric.attach(name)
            listening = self.space.listen(name, "0.0.0.0", PORT)  # noqa: S104 - inside the lab's own namespace
            self._sockets.append(listening)
            threading.Thread(target=self._serve, args=(listening,), name=name, daemon=True).start()

    def close(self) -> None:
        """Stop listening and forget commands that have not taken effect."""
        with self._lock:
            self._closed = True
            for timer in self._pending:
                timer.cancel()
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    @staticmethod
    def address_for(node: str, *, out_of_band: bool = False) -> str:
        """Where the controller of a node answers."""
        return address("bmc1" if node.endswith("a") else "bmc2", out_of_band=out_of_band)

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                link, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._session, args=(link,), daemon=True).start()

    def _session(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            link.settimeout(10)
            for line in link.makefile("r"):
                words = line.split()
                if len(words) < 2:
                    link.sendall(b"error\n")
                    continue
                caller = words[2] if len(words) > 2 else "?"
                link.sendall((self.command(words[0], words[1], caller) + "\n").encode())

    def command(self, word: str, target: str, caller: str) -> str:
        """Take one command; what a session answers. `status -` asks whether the controller itself is there."""
        if word == "status" and target == "-":
            return "on"
        node = self.nodes.get(target)
        if node is None or word not in ("off", "on", "status"):
            return "error"
        if word == "status":
            return "on" if node.supplied else "off"
        self.record.add(f"{word}-accepted", target, caller)
        timer = threading.Timer(self.latency_s, self._take_effect, args=(word, node, caller))
        timer.daemon = True
        with self._lock:
            if self._closed:
                return "error"
            self._pending.append(timer)
        timer.start()
        return "ok"

    def _take_effect(self, word: str, node: Node, caller: str) -> None:
        if self._closed:
            return
        if word == "off":
            node.power_off(caller, ports_stay_up=self.ports_stay_up)
        else:
            node.power_on()
