"""Starts, asks and ends a sandbox: what `pairguard sandbox` does, without a word of printing.

Root, namespaces and packages are not needed. What is missing for more than that is said by `embedded`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from guard.adapters import control
from guard.core.instant import elapsed_s
from guard.errors import PairguardError, Refused, Unavailable
from guard.ports import Clock
from guard.rehearsal.sandbox_site import Layout, Plan
from guard.rehearsal.sandbox_world import find_mosquitto
from guard.rehearsal.simulated.children import HIDDEN, living
from guard.rehearsal.simulated.ports import WorldLink

START_S_MAX = 90.0  # six guards on two busy cores
ASK_S_MAX = 5.0
INIT_S_MAX = 15.0
DOWN_S_MAX = 10.0
KILL_S = 3.0
POLL_S = 0.2


def embedded(plan: Plan) -> str:
    """One sentence: what this sandbox is made of, and why not of more."""
    missing = "" if find_mosquitto() is not None else " (Mosquitto is not on this machine)"
    bus = "Mosquitto" if plan.bus == "mosquitto" and not missing else f"a small hub{missing}"
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [p for p in ("corosync", "pacemakerd", "ip") if shutil.which(p, path=_path()) is None]
    why = f" (missing for real ones: {', '.join(lacks)})" if lacks else ""
    return (
        f"embedded sandbox: real guard, witness, agent, handler and command line on loopback over {bus}; "
        f"cluster, disks, switches and fence devices are simulated{why}"
    )


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


class Sandbox:
    """One sandbox in one folder."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self.layout, self._clock = layout, clock

    # ------------------------------------------------------------------ up and down

    async def up(self, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        """Make it, start it, make the registers. `SettingsError` or `Unavailable`; then nothing of it is left."""
        self.layout.make(plan)
        env = {key: value for key, value in os.environ.items() if key not in HIDDEN}
        with self.layout.log("world").open("ab") as log:
            world = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "guard.rehearsal.sandbox_world",
                "--site",
                str(self.layout.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd="/",
                start_new_session=True,
            )
        try:
            await self._until(self._answers, lambda: world.returncode is None, "the sandbox's world to answer")
            say("the world is up; waiting for every pair to be whole")
            await self._until(lambda: self.every(plan, _whole), lambda: world.returncode is None, "every pair whole")
            for pair in plan.pairs:
                await self._init(plan, pair)
            say("registers made; waiting for both ends to testify")
            await self._until(
                lambda: self.every(plan, _attested), lambda: world.returncode is None, "every session attested"
            )
        except (PairguardError, asyncio.CancelledError):
            if world.returncode is None:
                world.terminate()
            raise

    async def _init(self, plan: Plan, pair: str) -> None:
        """`pairguard init`, until the arbiter answers."""
        node = plan.nodes(pair)[0]
        last: PairguardError | None = None
        began = self._clock.now()
        while elapsed_s(began, self._clock.now()) < START_S_MAX:
            try:
                await control.ask(self.layout.control(node), "init", {"preferred": node}, INIT_S_MAX)
                return
            except (Refused, Unavailable) as error:
                last = error
            await self._clock.sleep(POLL_S)
        raise Unavailable(f"cannot make the register of {pair}", str(last), f"see {self.layout.log(node)}")

    async def down(self, *, keep: bool = False) -> list[str]:
        """End every process of this sandbox and no other; then remove its folder unless `keep`. Names that ran.

        `Unavailable`: there is no sandbox here, or something does not end.
        """
        self.layout.plan()
        began_with = living(self.layout.pids)
        if "world" in began_with:
            with suppress(ProcessLookupError):
                os.kill(began_with["world"], signal.SIGTERM)
        began = self._clock.now()
        while (left := living(self.layout.pids)) and "world" in left:
            if elapsed_s(began, self._clock.now()) > DOWN_S_MAX:
                break
            await self._clock.sleep(POLL_S / 2)
        for number, patience_s in ((signal.SIGTERM, KILL_S), (signal.SIGKILL, KILL_S)):
            await self._signal_rest(number, patience_s)
        if left := living(self.layout.pids):
            raise Unavailable("cannot end the sandbox", f"processes {left} do not end", "look at them with ps")
        if not keep:
            shutil.rmtree(self.layout.folder, ignore_errors=True)
        return sorted(began_with)

    async def _signal_rest(self, number: signal.Signals, patience_s: float) -> None:
        left = living(self.layout.pids)
        for pid in left.values():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        began = self._clock.now()
        while living(self.layout.pids) and elapsed_s(began, self._clock.now()) < patience_s:
            await self._clock.sleep(POLL_S / 2)

    # ------------------------------------------------------------------ asking

    async def ask(self, op: str, **args: Any) -> Any:
        """One question to the world. `Unavailable`: no sandbox, or it refuses."""
        self.layout.plan()
        link = WorldLink(self.layout.world, None)
        running = asyncio.create_task(link.run(), name="world-link")
        ready = asyncio.create_task(link.ready.wait(), name="world-ready")
        try:
            await asyncio.wait({running, ready}, timeout=ASK_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            return await link.ask(op, ASK_S_MAX, **args)
        finally:
            running.cancel()
            ready.cancel()
            await asyncio.gather(running, ready, return_exceptions=True)

    async def guard_status(self, node: str) -> Mapping[str, Any] | None:
        """`pairguard.status/1` of one guard's only pair; None: it does not answer."""
        try:
            said = await control.ask(self.layout.status(node), "status", {}, ASK_S_MAX)
        except PairguardError:
            return None
        pair: Mapping[str, Any] = said["pairs"][0]
        return pair

    async def status(self) -> dict[str, Any]:
        """What the world does and what every guard says of it, by pair."""
        plan = self.layout.plan()
        world = await self.ask("status")
        for shown in world["pairs"]:
            nodes = plan.nodes(shown["pair"])
            shown["guarded"] = shown["pair"] in plan.pairs
            said = await asyncio.gather(*(self.guard_status(n) for n in nodes)) if shown["guarded"] else (None, None)
            shown["guards"] = dict(zip(nodes, said, strict=True))
        return {"schema": "pairguard.sandbox-status/1", "dir": str(self.layout.folder), **world}

    async def every(self, plan: Plan, test: Callable[[Mapping[str, Any]], bool]) -> bool:
        """Does every pair pass `test` now? Stock pairs are asked for being whole only."""
        try:
            said = await self.status()
        except Unavailable:
            return False
        return all(test(pair) if pair["guarded"] else pair["whole"] for pair in said["pairs"])

    async def _answers(self) -> bool:
        try:
            await self.ask("status")
        except Unavailable:
            return False
        return True

    async def until(self, check: Callable[[], Awaitable[bool]], seconds: float) -> bool:
        """Poll until true, at most `seconds`; did it become true?"""
        began = self._clock.now()
        while not await check():
            if elapsed_s(began, self._clock.now()) > seconds:
                return False
            await self._clock.sleep(POLL_S)
        return True

    async def _until(self, check: Callable[[], Awaitable[bool]], alive: Callable[[], bool], what: str) -> None:
        async def either() -> bool:
            return not alive() or await check()

        if not await self.until(either, START_S_MAX) or not alive():
            tail = self.layout.log("world").read_text(encoding="utf-8", errors="replace")[-400:]
            why = f"waited {START_S_MAX:.0f} s" if alive() else f"its world process ended: {tail}"
            raise Unavailable(f"cannot start the sandbox: waited for {what}", why, f"see {self.layout.folder}/log")


def _guards(pair: Mapping[str, Any]) -> Sequence[Mapping[str, Any] | None]:
    return list(pair["guards"].values())


def _whole(pair: Mapping[str, Any]) -> bool:
    return bool(pair["whole"]) and all(said is not None and said["whole"] is True for said in _guards(pair))


def _attested(pair: Mapping[str, Any]) -> bool:
    return _whole(pair) and all(said is not None and said["attested"] for said in _guards(pair))


def at_rest(pair: Mapping[str, Any]) -> bool:
    """Whole, attested, nothing held, no winner: as before anything happened. A stock pair: whole."""
    if not pair["guarded"]:
        return bool(pair["whole"])
    calm = all(
        said is not None
        and said["hold"]["state"] == "none"
        and said["register"] is not None
        and said["register"]["winner"] is None
        for said in _guards(pair)
    )
    return calm and _attested(pair)
