"""Reads a node's power by a fresh device session: the same delegate, thrown away after one `status`.

1. OFF needs two things: exit code 2 and the word on stdout. 2 is also EC_BAD_ARGS in ClusterLabs' own library, and
   what argparse and a Python without its script end with: a misspelt setting alone would read as a node that is off.
2. Everything else that is not a plain ON is UNKNOWN, and so is an agent that could not be started or ended.
"""

from __future__ import annotations

import re

from fencing.supervisor import Supervisor
from guard.core.evidence import Power
from guard.errors import Refused, Unavailable, Unreadable
from guard.ports import Clock, DeviceSettings

IS_ON, IS_OFF = 0, 2  # FenceAgentAPI: exit codes of `status`
SAYS_OFF = re.compile(r"\boff\b", re.IGNORECASE)
SAYS_ON = re.compile(r"\bon\b", re.IGNORECASE)


class Readback:
    """`guard.ports.PowerReader`."""

    def __init__(self, supervisor: Supervisor, clock: Clock) -> None:
        self._supervisor = supervisor
        self._clock = clock

    async def status(self, device: DeviceSettings, node: str, deadline_s: float) -> Power:
        """ON, OFF or UNKNOWN, at most `deadline_s` (and the time to end a hanging agent) later."""
        run_id = f"status-{self._clock.nonce()}"
        try:
            ran = await self._supervisor.run(device, "status", node, run_id, deadline_s)
        except (Unavailable, Unreadable, Refused):
            return Power.UNKNOWN
        return meaning(ran.exit_code, ran.said)


def meaning(exit_code: int | None, said: str) -> Power:
    """What an exit code and stdout of `status` say together. `exit_code` None: the agent was ended."""
    off, on = bool(SAYS_OFF.search(said)), bool(SAYS_ON.search(said))
    if exit_code == IS_ON and not off:
        return Power.ON
    if exit_code == IS_OFF and off and not on:
        return Power.OFF
    return Power.UNKNOWN
