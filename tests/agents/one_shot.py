"""A guard of its own process that fires one shot, so that tests can kill, stop or mislead it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys

from fencing.supervisor import Supervisor
from guard.adapters.clock import BootClock
from guard.core.instant import Instant
from guard.ports import DeviceSettings


def main() -> None:
    parent, agent, timeout_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    start_by = Instant(int(sys.argv[4])) if len(sys.argv) > 4 else None
    supervisor = Supervisor(BootClock(), node="here", parent=parent)
    device = DeviceSettings(agent=agent, options={}, horizon_s=None, timeout_s=timeout_s)
    result = asyncio.run(supervisor.fire(device, "off", "there", "one", start_by))
    print(json.dumps(dataclasses.asdict(result)))


main()
