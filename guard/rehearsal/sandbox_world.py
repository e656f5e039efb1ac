"""The sandbox's world process: the simulated site, the bus, the wires, and every program that runs in it.

`pairguard sandbox up` starts it; it ends by SIGTERM and takes its children with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from guard.adapters.clock import BootClock
from guard.adapters.hub import Hub
from guard.adapters.signals import until_told
from guard.core.instant import elapsed_s
from guard.errors import PairguardError
from guard.ports import Clock
from guard.rehearsal.sandbox_site import Layout
from guard.rehearsal.simulated.children import Children
from guard.rehearsal.simulated.pair import Programs, SimulatedPair
from guard.rehearsal.simulated.programs import RealPrograms
from guard.rehearsal.simulated.relay import Relay
from guard.rehearsal.simulated.site import Site
from guard.rehearsal.simulated.stock import StockPrograms

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian's mosquitto lies outside a user's PATH
BROKER_S_MAX = 10.0
BROKER_TRIES = 3


def find_mosquitto() -> str | None:
    """Mosquitto's program, None: not on this machine."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":" + SBIN)


class World:
    """One sandbox from start to end."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._layout, self._clock, self._plan = layout, clock, layout.plan()
        self._bus = "hub"

    async def run(self) -> None:
        """Until cancelled; the children end with it."""
        layout, plan, clock = self._layout, self._plan, self._clock
        async with asyncio.TaskGroup() as group:
            children = Children(group, layout.pids)
            site = Site({}, layout.world, clock)
            programs = RealPrograms(layout, children, site, clock)
            site.pairs = {**self._pairs(plan.pairs, programs), **self._pairs(plan.stock, StockPrograms())}
            site.extra = lambda: {
                "bus": self._bus,
                "processes": children.shown(),
                "guard_restarts": sum(programs.restarts.values()),
                "ended": children.ended,
            }
            port = await self._broker(group, children) if plan.pairs else 0
            relays = await self._wires(group, site, port)
            if plan.pairs:
                layout.write_settings(plan, bus=self._bus, port_of=relays, witness_port=port)
                self._start_witness(children)
            group.create_task(site.run(), name="site")
            await site.ready.wait()
            for pair in site.pairs.values():
                pair.begin()

    def _pairs(self, names: Sequence[str], programs: Programs) -> dict[str, SimulatedPair]:
        return {
            name: SimulatedPair(name, self._plan.nodes(name), self._clock, programs, seed=number)
            for number, name in enumerate(names)
        }

    async def _wires(self, group: asyncio.TaskGroup, site: Site, port: int) -> dict[str, int]:
        """One relay between each guarded machine and the bus; its own port by machine."""
        ports = {}
        for name in self._plan.pairs:
            for machine in site.pairs[name].nodes.values():
                network, letter = site.pairs[name].network, machine.name
                relay = Relay(
                    ("127.0.0.1", port),
                    self._clock,
                    is_open=lambda network=network, letter=letter: network.bus_open(letter),  # type: ignore[misc]
                    alive=machine.runs,
                )
                group.create_task(relay.run(), name=f"wire-{machine.title}")
                await relay.ready.wait()
                ports[machine.title] = relay.port
        return ports

    # ------------------------------------------------------------------ the bus

    async def _broker(self, group: asyncio.TaskGroup, children: Children) -> int:
        """Mosquitto where it was asked for and starts, else the hub. Its port on loopback."""
        program = find_mosquitto() if self._plan.bus == "mosquitto" else None
        for _ in range(BROKER_TRIES if program is not None else 0):
            port = _free_port()
            self._layout.mosquitto.write_text(_mosquitto_conf(port), encoding="utf-8")
            argv = [str(program), "-c", str(self._layout.mosquitto)]
            children.start("mosquitto", argv, self._layout.log("mosquitto"))
            if await self._answers(port, children):
                self._bus = "mosquitto"
                return port
            children.kill("mosquitto")
        hub = Hub(("127.0.0.1", 0), self._clock)
        group.create_task(hub.run(), name="hub")
        await hub.ready.wait()
        return hub.port or 0

    async def _answers(self, port: int, children: Children) -> bool:
        began = self._clock.now()
        while elapsed_s(began, self._clock.now()) < BROKER_S_MAX and children.names("mosquitto"):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
                return True
            await self._clock.sleep(0.05)
        return False

    def _start_witness(self, children: Children) -> None:
        argv = [sys.executable, "-m", "guard.witness.main", "--config", str(self._layout.witness)]
        children.start("witness", argv, self._layout.log("witness"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _mosquitto_conf(port: int) -> str:
    """Loopback only. Anonymous: the messages themselves are signed, and the broker is trusted with nothing."""
    user = "user root\n" if os.geteuid() == 0 else ""  # else it would change to a user who cannot read this folder
    return (
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n"
        f"retain_available false\nmax_queued_messages 256\n{user}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0 after an orderly stop, 89 if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m guard.rehearsal.sandbox_world", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    asked = parser.parse_args(argv)
    try:
        return asyncio.run(until_told(World(Layout(asked.site), BootClock()).run()))
    except PairguardError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 89


if __name__ == "__main__":
    sys.exit(main())
