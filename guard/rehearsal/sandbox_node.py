"""One guard of the sandbox: `pairguardd`'s own code, settings and sockets, around a simulated machine."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from guard.adapters import logsink
from guard.adapters.clock import BootClock
from guard.adapters.emit import Emitter
from guard.adapters.signals import until_told
from guard.daemon import wiring
from guard.errors import PairguardError
from guard.ports import Clock
from guard.rehearsal.sandbox_site import Layout
from guard.rehearsal.simulated.ports import (
    SimulatedCluster,
    SimulatedCounters,
    SimulatedDevice,
    SimulatedMembers,
    SimulatedReplication,
    SimulatedSwitch,
    WorldLink,
)
from guard.settings import GuardSettings, load_guard

SWITCH_S = 1.0


def around(settings: GuardSettings, link: WorldLink, clock: Clock) -> wiring.Surroundings:
    """Everything a guard sees and touches besides its bus, simulated."""
    device = SimulatedDevice(link, clock)
    return wiring.Surroundings(
        replication=SimulatedReplication(link, settings.replication.resources, clock),
        counters=SimulatedCounters(link),
        members=SimulatedMembers(link, clock),
        cluster=SimulatedCluster(link, clock),
        links=None,
        switches=[(SimulatedSwitch(f"switch-{settings.pair.name}", link, clock), SWITCH_S)],
        traps=None,
        shooter=device,
        reader=device,
        power=device,
    )


async def live(layout: Layout, title: str) -> None:
    """Until cancelled, or until the machine is gone (`Unavailable`)."""
    settings, _ = load_guard([layout.settings(title)])
    clock = BootClock(layout.boot_id(title))
    logsink.configure(logsink.open_sink("pairguardd", {}), clock)
    emit = Emitter(clock, pair=settings.pair.name, node=settings.pair.node)
    link = WorldLink(layout.world, title)
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run(), name="machine")
        async with asyncio.timeout(10.0):
            await link.ready.wait()
        group.create_task(wiring.run(settings, around(settings, link, clock), clock, emit), name="guard")


def main(argv: Sequence[str] | None = None) -> int:
    """0 after an orderly stop, 89 if it cannot start or its machine is gone."""
    parser = argparse.ArgumentParser(prog="python -m guard.rehearsal.sandbox_node", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("node")
    asked = parser.parse_args(argv)
    try:
        return asyncio.run(until_told(live(Layout(asked.site), asked.node)))
    except PairguardError as error:
        print(f"sandbox node {asked.node}: {error}", file=sys.stderr)
        return 89


if __name__ == "__main__":
    sys.exit(main())
