"""Fence devices: power readings and shots, with shots that wait in a frozen network and land when it thaws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.core.evidence import Power
from guard.core.step import PowerRead, ShotEnded

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node
    from guard.rehearsal.world import World

READ_S_MAX = 3.0  # a reader gives up after this
IMPATIENT_SHARE = 0.5  # of T_shot: stock agents wait power_timeout, 20 s by default, and then end with 1


class Device:
    """The fence device of one node, and what may be wrong with it.

    `stream`: its agent uses one TCP connection, so no copy of a command exists. `impatient`: its agent gives up by
    itself, with exit 1, before its deadline. `shares_power`: it dies with its node, so it reads unknown then.
    `beyond_horizon`: it acts after H, which no setting of ours allows (a planted violation).
    """

    def __init__(self, world: World, owner: str, horizon_s: float | None) -> None:
        self.world, self.owner, self.horizon_s = world, owner, horizon_s
        self.stream, self.impatient = False, False
        self.shares_power = False
        self.lies_off: int = 0  # so many readings say `off` though it is not (a device that is wrong)
        self.latency_s = 0.0  # added to every answer
        self.late_s: tuple[float, float] | None = None  # a shot acts so much later, least and most
        self.mute = 0  # faults that lose every answer on its way back
        self.refuses = 0  # faults by which it takes no command
        self.doubles = 0  # faults by which it takes each command twice, the second one up to H later
        self.beyond_horizon = False

    @property
    def name(self) -> str:
        return f"device:{self.owner}"

    def plain(self) -> bool:
        """Nothing is wrong with it."""
        odd = self.shares_power or self.lies_off or self.latency_s or self.late_s or self.mute or self.refuses
        return not odd and not self.doubles

    def _power(self) -> Power:
        node = self.world.nodes[self.owner]
        if self.shares_power and not node.powered and not node.switched_off:
            return Power.UNKNOWN
        if self.lies_off and node.powered:
            self.lies_off -= 1
            self.world.counts["readings that lied"] += 1
            return Power.OFF
        return Power.ON if node.powered else Power.OFF

    def read(self, by: Node, token: str, delay_s: float) -> None:
        """One reading in a fresh device session."""

        def ask() -> None:
            if self.mute or self.latency_s > READ_S_MAX or not self.world.network.open(by.name, self.name):
                by.later(READ_S_MAX, lambda: by.shell.take(PowerRead(token, Power.UNKNOWN)))
                return
            power = self._power()
            answer_s = self.latency_s + self.world.rng.uniform(0.05, 0.3)
            by.later(answer_s, lambda: by.shell.take(PowerRead(token, power)))

        by.later(delay_s, ask)

    def shoot(self, by: Node, intent: str, shot_s: float) -> None:
        """The delegate agent: sends, waits, ends by itself or is killed after `shot_s`."""
        landed = False
        ends: list[float] = []  # when its agent ended by itself
        world = self.world
        started, guard = world.now, by.shell.starts

        def land() -> None:
            nonlocal landed
            offs = [at for at in by.offs if at >= started]
            died = min([started + shot_s * 1e9, *by.shell.started_at[guard:], *offs, *ends])
            late = self.horizon_s is not None and world.now - died > self.horizon_s * 1e9
            if late and not self.beyond_horizon:
                world.counts["shots too late to act"] += 1
                return  # H(device) after its agent's death nothing of it can act any more
            if self.refuses:
                world.counts["shots refused"] += 1
                return
            landed = True
            world.counts["shots landed"] += 1
            world.counts["shots landed late"] += world.now - started > 1e9
            world.shot_lands(by.name, self.owner, intent)

        def arrive() -> None:
            for delay_s in self._delays():
                if delay_s:
                    world.at(delay_s, land)
                else:
                    land()

        world.network.carry(by.name, self.name, arrive, life_s=None)

        def look() -> None:
            if by.shell.starts != guard:
                return  # a guard's start kills and empties the shot's cgroup
            heard = not self.mute and world.network.open(by.name, self.name)
            if self.refuses and heard:
                ends.append(world.now)
                by.shell.take(ShotEnded(intent, 1, True))
            elif landed and heard:
                ends.append(world.now)
                by.shell.take(ShotEnded(intent, 0, True))
            elif self.impatient and world.now - started >= shot_s * IMPATIENT_SHARE * 1e9:
                world.counts["agents that gave up"] += 1
                ends.append(world.now)
                by.shell.take(ShotEnded(intent, 1, True))
            elif world.now - started >= shot_s * 1e9:
                by.shell.take(ShotEnded(intent, None, False))
            else:
                by.later(0.5, look)

        by.later(world.rng.uniform(0.3, 0.8) + self.latency_s, look)

    def _delays(self) -> list[float]:
        """Until each copy of a command that arrived acts, seconds."""
        rng = self.world.rng
        first_s = self.latency_s + (rng.uniform(*self.late_s) if self.late_s is not None else 0.0)
        if not self.doubles or self.stream:
            return [first_s]
        self.world.counts["shots doubled"] += 1
        return [first_s, first_s + rng.uniform(0.0, self.horizon_s if self.horizon_s is not None else 600.0)]
