"""The story that a person is shown: the same freeze and the same deaths, without the guard and with it.

1. Every number is read from the simulated machines (`SimulatedPair`): what was powered off, what served, what was
   acknowledged. Nothing is taken from what a guard says of itself.
2. `service_stopped_s` and `write_stall_s` are the worst pair's; promotion times are medians, from the death to a
   Primary that takes writes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from guard.errors import Unavailable
from guard.ports import Clock
from guard.rehearsal.sandbox import Sandbox, at_rest
from guard.rehearsal.sandbox_site import Plan

SCHEMA = "pairguard.demo/1"
CALM_S = 2.0  # before the freeze: both ends have testified again, writes flow
FREEZE_S = 6.0
REST_S_MAX = 60.0
DEATH_S_MAX = 40.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What happened to one kind of pair in the freeze."""

    pairs: int
    both_shot: int
    one_shot: int
    none_shot: int
    service_stopped_s: float
    write_stall_s: float
    lost_writes: int | None  # None: cannot be said, the service does not run on exactly one node
    split_brains: int

    @classmethod
    def of(cls, shown: Sequence[Mapping[str, Any]]) -> Pairs:
        shot = [sum(1 for n in pair["shots"].values() if n) for pair in shown]
        return cls(
            pairs=len(shown),
            both_shot=shot.count(2),
            one_shot=shot.count(1),
            none_shot=shot.count(0),
            service_stopped_s=max((pair["service_stopped_s"] for pair in shown), default=0.0),
            write_stall_s=max((pair["write_stall_s"] for pair in shown), default=0.0),
            lost_writes=_lost(shown),
            split_brains=sum(pair["split_brains"] for pair in shown),
        )

    def json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Demo:
    """One run in a sandbox that is up."""

    def __init__(self, sandbox: Sandbox, plan: Plan, clock: Clock, say: Say) -> None:
        self._sandbox, self._plan, self._clock, self._say = sandbox, plan, clock, say

    async def run(self) -> dict[str, Any]:
        """The whole story. `Unavailable`: the sandbox did not come to rest where it must."""
        stock, guarded = await self._frozen()
        death = await self._deaths()
        await self._rest(self._plan.pairs, "every guarded pair to be at rest after the deaths")
        lost = _lost(await self._pairs(self._plan.pairs))
        return {
            "schema": SCHEMA,
            "tier": "embedded",
            "bus": (await self._sandbox.status())["bus"],
            "freeze_s": FREEZE_S,
            "stock": stock.json(),
            "guarded": guarded.json(),
            "death": death | {"lost_writes": lost},
        }

    async def _frozen(self) -> tuple[Pairs, Pairs]:
        sandbox = self._sandbox
        await self._clock.sleep(CALM_S)
        await sandbox.ask("mark")
        self._say(f"the switches freeze for {FREEZE_S:.0f} s, unannounced, and keep what they are sent")
        await sandbox.ask("freeze")
        await self._clock.sleep(FREEZE_S)
        self._say("the switches thaw: whatever was stuck is delivered now")
        await sandbox.ask("heal")
        await self._rest((*self._plan.stock, *self._plan.pairs), "every pair to be at rest after the freeze")
        stock, guarded = await self._pairs(self._plan.stock), await self._pairs(self._plan.pairs)
        return Pairs.of(stock), Pairs.of(guarded)

    async def _deaths(self) -> dict[str, Any]:
        """The serving machine of one stock pair and of one guarded pair at a time; each pair is at rest before."""
        found: dict[str, list[Mapping[str, Any]]] = {"stock": [], "guarded": []}
        rounds = max(len(self._plan.stock), len(self._plan.pairs))
        for number in range(rounds):
            names = [*self._plan.stock[number : number + 1], *self._plan.pairs[number : number + 1]]
            for kind, pair in (await self._one_death(names)).items():
                found[kind].append(pair)
        guarded = [self._outcome(pair) for pair in found["guarded"]]
        stock = [self._outcome(pair) for pair in found["stock"]]
        return {
            "pairs": len(guarded),
            "fenced": sum(1 for fenced, _ in guarded if fenced),
            "promoted": sum(1 for _, seconds in guarded if seconds is not None),
            "promotion_s_median": _median([seconds for _, seconds in guarded]),
            "stock_pairs": len(stock),
            "stock_fenced": sum(1 for fenced, _ in stock if fenced),
            "stock_promoted": sum(1 for _, seconds in stock if seconds is not None),
            "stock_promotion_s_median": _median([seconds for _, seconds in stock]),
        }

    async def _one_death(self, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        sandbox = self._sandbox
        await self._rest(names, f"{', '.join(names)} to be at rest")
        await sandbox.ask("mark", pairs=list(names))
        for pair in await self._pairs(names):
            node = pair["serving"]
            if not isinstance(node, str) or "+" in node:
                raise Unavailable(f"cannot kill the primary of {pair['pair']}", f"it is served by {node}")
            self._say(f"{node}, which serves {pair['pair']}, dies")
            await sandbox.ask("kill", node=node)
        served = await sandbox.until(lambda: self._served(names), DEATH_S_MAX)
        if not served:
            self._say(f"not every one of {', '.join(names)} was taken over in {DEATH_S_MAX:.0f} s")
        return {"guarded" if p["guarded"] else "stock": p for p in await self._pairs(names)}

    async def _served(self, names: Sequence[str]) -> bool:
        return all(pair["death"]["promoted_s"] is not None for pair in await self._pairs(names))

    @staticmethod
    def _outcome(pair: Mapping[str, Any]) -> tuple[bool, float | None]:
        """(the dead machine was shot exactly once, its peer never, and the shot confirmed; seconds to the promotion)"""
        dead = pair["death"]["node"]
        once = all(count == (1 if node == dead else 0) for node, count in pair["shots"].items())
        confirmed = sum(node["confirmed"] for title, node in pair["nodes"].items() if title != dead) >= 1
        return once and confirmed, pair["death"]["promoted_s"]

    async def _pairs(self, names: Sequence[str]) -> list[dict[str, Any]]:
        said = await self._sandbox.status()
        return [pair for pair in said["pairs"] if pair["pair"] in names]

    async def _rest(self, names: Sequence[str], what: str) -> None:
        async def resting() -> bool:
            return all(at_rest(pair) for pair in await self._pairs(names))

        if not await self._sandbox.until(resting, REST_S_MAX):
            raise Unavailable(f"waited {REST_S_MAX:.0f} s for {what}", "", "see: pairguard sandbox status")


def _lost(shown: Sequence[Mapping[str, Any]]) -> int | None:
    """Acknowledged writes that are lost, all pairs together; None: one of them cannot be said."""
    found = [pair["lost_writes"] for pair in shown]
    return None if None in found else sum(found)


def _median(seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return round(median(known), 2) if known else None


def kept(result: Mapping[str, Any]) -> bool:
    """Did the guard keep its promise: nobody shot for the freeze, every dead node fenced once and replaced?"""
    guarded, death = result["guarded"], result["death"]
    frozen = guarded["none_shot"] == guarded["pairs"] and guarded["lost_writes"] == guarded["split_brains"] == 0
    died = death["fenced"] == death["promoted"] == death["pairs"] and death["lost_writes"] == 0
    return bool(frozen and died)


def table(result: Mapping[str, Any]) -> str:
    """For people: 80 columns."""
    stock, guarded, death = result["stock"], result["guarded"], result["death"]
    rows = [
        ("", "stock", "guarded"),
        (f"freeze of {result['freeze_s']:.0f} s, pairs", stock["pairs"], guarded["pairs"]),
        ("  both nodes shot", stock["both_shot"], guarded["both_shot"]),
        ("  one node shot", stock["one_shot"], guarded["one_shot"]),
        ("  nobody shot", stock["none_shot"], guarded["none_shot"]),
        ("  service stopped, worst pair, s", stock["service_stopped_s"], guarded["service_stopped_s"]),
        ("  writes stalled, worst pair, s", stock["write_stall_s"], guarded["write_stall_s"]),
        ("death of the primary, pairs", death["stock_pairs"], death["pairs"]),
        ("  dead node fenced once, confirmed", death["stock_fenced"], death["fenced"]),
        ("  peer promoted", death["stock_promoted"], death["promoted"]),
        ("  until it serves, median, s", death["stock_promotion_s_median"], death["promotion_s_median"]),
    ]
    return "\n".join(f"{a:<40}{_cell(b):>12}{_cell(c):>12}" for a, b, c in rows)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
