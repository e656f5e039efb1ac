"""Fence devices: power readings and shots, with shots that wait in a frozen network and land when it thaws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.core.evidence import Power
from guard.core.step import PowerRead, ShotEnded

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node
    from guard.rehearsal.world import World

READ_S_MAX = 3.0  # a reader gives up after this


class Device:
    """The fence device of one node. `shares_power`: it dies with its node, so it reads unknown then."""

    def __init__(self, world: World, owner: str, horizon_s: float | None) -> None:
        self.world, self.owner, self.horizon_s = world, owner, horizon_s
        self.shares_power = False
        self.lies_off: int = 0  # so many readings say `off` though it is not (a device that is wrong)

    @property
    def name(self) -> str:
        return f"device:{self.owner}"

    def _power(self) -> Power:
        node = self.world.nodes[self.owner]
        if self.shares_power and not node.powered and not node.switched_off:
            return Power.UNKNOWN
        if self.lies_off and node.powered:
            self.lies_off -= 1
            return Power.OFF
        return Power.ON if node.powered else Power.OFF

    def read(self, by: Node, token: str, delay_s: float) -> None:
        """One reading in a fresh device session."""

        def ask() -> None:
            if not self.world.network.open(by.name, self.name):
                by.later(READ_S_MAX, lambda: by.shell.take(PowerRead(token, Power.UNKNOWN)))
                return
            power = self._power()
            by.later(self.world.rng.uniform(0.05, 0.3), lambda: by.shell.take(PowerRead(token, power)))

        by.later(delay_s, ask)

    def shoot(self, by: Node, intent: str, shot_s: float) -> None:
        """The delegate agent: sends, waits, ends by itself or is killed after `shot_s`."""
        landed = False
        started, guard = self.world.now, by.shell.starts

        def land() -> None:
            nonlocal landed
            offs = [at for at in by.offs if at >= started]
            died = min([started + shot_s * 1e9, *by.shell.started_at[guard:], *offs])
            if self.horizon_s is not None and self.world.now - died > self.horizon_s * 1e9:
                return  # H(device) after its agent's death nothing of it can act any more
            landed = True
            self.world.shot_lands(by.name, self.owner, intent)

        self.world.network.carry(by.name, self.name, land, life_s=None)

        def look() -> None:
            if by.shell.starts != guard:
                return  # a guard's start kills and empties the shot's cgroup
            if landed and self.world.network.open(by.name, self.name):
                by.shell.take(ShotEnded(intent, 0, True))
            elif self.world.now - started >= shot_s * 1e9:
                by.shell.take(ShotEnded(intent, None, False))
            else:
                by.later(0.5, look)

        by.later(self.world.rng.uniform(0.3, 0.8), look)
