#!/usr/bin/python3
"""The kernel's part of the stand-in: one process a node, which holds the resources and answers the tools and the
application.

Control socket: one JSON line in (`{"do": ..., ...}`), one JSON line out (`{"rc", "out", "err"}`); `events2` streams
text instead.
Application socket of a resource: JSON lines `open`, `write`, `opened`; see `_application`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import resconf
import views
from disk import Disk
from volume import Refused, Resource

Answer = tuple[int, str, str]


def run_dir() -> Path:
    """Where the sockets are; private to the node."""
    return Path(os.environ.get("PGLAB_DRBD_RUN", "/run/drbd-standin"))


class Daemon:
    """All resources of one node."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.applications: dict[str, asyncio.Server] = {}
        self.listeners: set[asyncio.Queue[str]] = set()
        self.sysblock = Path(os.environ.get("PGLAB_DRBD_SYSBLOCK", "/sys/block"))
        self.verbs: dict[str, Callable[[Resource, dict[str, object]], Awaitable[Answer]]] = {
            "down": self._down,
            "primary": self._primary,
            "connect": self._connect,
            "disconnect": self._disconnect,
        }

    async def serve(self) -> None:
        """Until SIGTERM. What is up then stays as a power loss would leave it."""
        run_dir().mkdir(parents=True, exist_ok=True)
        path, fresh = run_dir() / "control", run_dir() / "control.new"
        path.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = await asyncio.start_unix_server(self._control, fresh, limit=1 << 24)
        fresh.replace(path)  # who sees it can connect to it
        print("drbd: initialized. Version: 8.4.11 (stand-in)", file=sys.stderr, flush=True)
        await stop.wait()
        server.close()
        path.unlink(missing_ok=True)
        os._exit(0)  # as the power goes: no farewell to peer or application

    def publish(self, lines: list[str]) -> None:
        """Events to every listener, with one time for one change."""
        now = views.timestamp()
        for queue in self.listeners:
            queue.put_nowait("".join(f"{now} {line}\n" for line in lines))

    # -- control -------------------------------------------------------------------------------------------------------

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            order = json.loads(await reader.readline())
            if order["do"] == "events2":
                await self._events(reader, writer, bool(order.get("now")))
            else:
                code, out, err = await self._do(order)
                writer.write(json.dumps({"rc": code, "out": out, "err": err}).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _events(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, now: bool) -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()
        time = views.timestamp()
        lines = [line for resource in self.resources.values() for line in views.existing(views.view(resource))]
        writer.write("".join(f"{time} {line}\n" for line in [*lines, "exists -"]).encode())
        await writer.drain()
        if now:
            return
        self.listeners.add(queue)
        gone = asyncio.create_task(reader.read())
        try:
            while not gone.done():
                text = asyncio.create_task(queue.get())
                await asyncio.wait({gone, text}, return_when=asyncio.FIRST_COMPLETED)
                if not text.done():
                    text.cancel()
                    break
                writer.write(text.result().encode())
                await writer.drain()
        finally:
            self.listeners.discard(queue)
            gone.cancel()

    async def _do(self, order: dict[str, object]) -> Answer:
        verb, name = str(order["do"]), order.get("resource")
        if verb == "list":
            return 0, json.dumps({resource.name: resource.minor for resource in self.resources.values()}), ""
        if verb == "up":
            return await self._up(str(name))
        resource = self.resources.get(str(name))
        if resource is None:
            return 10, "", "unknown"
        try:
            if verb in self.verbs:
                return await self.verbs[verb](resource, order)
            return self._at_once(resource, verb)
        except Refused as refusal:
            text = f"{resource.minor}: State change failed: ({refusal.code}) {refusal}\n"
            return {-2: 17, -18: 5}.get(refusal.code, 11), "", text

    def _at_once(self, resource: Resource, verb: str) -> Answer:
        texts: dict[str, Callable[[], str]] = {
            "status": lambda: views.status_short(resource),
            "status-full": lambda: views.status_full(resource),
            "sh-status": lambda: views.sh_status(resource),
            "role": lambda: f"{resource.role}/{resource.peer_role}\n",
            "cstate": lambda: f"{resource.cstate}\n",
            "dstate": lambda: f"{resource.dstate}/{resource.pdsk}\n",
            "get-gi": lambda: f"{resource.disk.meta.get_gi()}\n",
            "show-gi": lambda: f"{resource.disk.meta.show_gi()}\n",
            "show": lambda: views.show(resource.conf, defaults=False),
            "show-defaults": lambda: views.show(resource.conf, defaults=True),
        }
        if verb in texts:
            return 0, texts[verb](), ""
        hands = {"secondary": resource.demote, "outdate": resource.outdate}
        hands |= {"suspend-io": resource.suspend_io, "resume-io": resource.resume_io}
        if verb not in hands:
            return 20, "", f"invalid command {verb}\n"
        hands[verb]()
        return 0, "", ""

    async def _up(self, name: str) -> Answer:
        if name in self.resources:
            return 0, "", ""
        try:
            conf = resconf.load()[name]
            disk = Disk.open(Path(conf.hosts[resconf.node_name()].disk))
        except (resconf.ConfigError, KeyError, ValueError) as error:
            return 10, "", f"{error}\n"
        except FileNotFoundError:
            text = f"{name}: Failure: (119) No valid meta-data signature found.\n\n"
            return 10, "", text + "\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n\n"
        marked = disk.apply_al() if disk.meta.primary else 0
        resource = self.resources[name] = Resource(conf, disk, self.publish)
        resource.attach(self.sysblock)
        path = run_dir() / f"{name}.app"
        path.unlink(missing_ok=True)
        self.applications[name] = await asyncio.start_unix_server(
            lambda reader, writer: self._application(resource, reader, writer), path
        )
        resource.connect(discard=False)
        return 0, f"Marked additional {marked} KB as out-of-sync based on AL.\n" if marked else "", ""

    async def _down(self, resource: Resource, order: dict[str, object]) -> Answer:
        await resource.down(self.sysblock)
        self.applications.pop(resource.name).close()
        (run_dir() / f"{resource.name}.app").unlink(missing_ok=True)
        del self.resources[resource.name]
        return 0, "", ""

    async def _primary(self, resource: Resource, order: dict[str, object]) -> Answer:
        await resource.promote(bool(order.get("force")))
        return 0, "", ""

    async def _connect(self, resource: Resource, order: dict[str, object]) -> Answer:
        if resource.configured:
            return 10, "", f"{resource.name}: Failure: (102) Local address(port) already in use.\n"
        if order.get("discard") and resource.role == "Primary":
            return 10, "", f"{resource.name}: Failure: (123) --discard-my-data not allowed when primary.\n"
        resource.connect(bool(order.get("discard")))
        return 0, "", ""

    async def _disconnect(self, resource: Resource, order: dict[str, object]) -> Answer:
        if not resource.configured:
            text = (
                "??: Failure: (162) Invalid configuration request\nadditional info from kernel:\nunknown connection\n"
            )
            return 10, "", text
        await resource.disconnect()
        return 0, "", ""

    # -- application ---------------------------------------------------------------------------------------------------

    async def _application(
        self, resource: Resource, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One client. `open` holds the device open until the client has gone *and* its last write is done."""
        held = False
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                order = json.loads(line)
                if order["op"] == "opened":
                    answer: dict[str, object] = {"opened": resource.open_count}
                elif resource.role != "Primary":
                    answer = {"error": "Wrong medium type"}
                elif order["op"] == "open":
                    if not held:
                        resource.open_count, held = resource.open_count + 1, True
                    answer = {"last": max(resource.disk.blocks, default=0)}
                else:
                    await resource.write(int(order["b"]), str(order["h"]))
                    answer = {"ack": order["b"]}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        resource.open_count -= held
        writer.close()


def main() -> None:
    """`python3 drbdd.py`."""
    asyncio.run(Daemon().serve())


if __name__ == "__main__":
    main()
