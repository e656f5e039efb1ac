"""The simulated site as a server: machines ask for their own disks, cluster and power; people freeze and kill.

One Unix socket, lines of JSON. A machine says `{"hello": NODE}` first and is then told of every change of its disk and
cluster (`{"push": "volumes"|"cluster", ...}`); everybody asks `{"id": N, "op": OP, "args": {...}}` and gets
`{"id": N, "ok": VALUE}` or `{"id": N, "error": TEXT}`. A machine that hangs or is off gets no answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from guard.core.evidence import (
    SHOTS_UNREAD,
    ClusterView,
    Forecast,
    Membership,
    PendingShot,
    Power,
    Suspended,
    Volumes,
    WriteSample,
)
from guard.core.instant import Instant, elapsed_s
from guard.ports import Clock, ShotResult
from guard.rehearsal.simulated.pair import TURN_S, Machine, SimulatedPair

VOLUMES: TypeAdapter[Volumes] = TypeAdapter(Volumes)
SAMPLE: TypeAdapter[WriteSample] = TypeAdapter(WriteSample)
MEMBERSHIP: TypeAdapter[Membership] = TypeAdapter(Membership)
VIEW: TypeAdapter[ClusterView] = TypeAdapter(ClusterView)
FORECAST: TypeAdapter[Forecast] = TypeAdapter(Forecast)
SHOT: TypeAdapter[PendingShot] = TypeAdapter(PendingShot)
RESULT: TypeAdapter[ShotResult] = TypeAdapter(ShotResult)

LINE_MAX = 1024 * 1024
READ_S = 0.1  # a device session
CRM_S = 0.05  # what a look at a cluster or an order to it takes


class RefusedError(Exception):
    """The site does not do that; `str()` is what a person reads."""


Op = Callable[[dict[str, Any]], Awaitable[Any]]


class Site:
    """All pairs. `run` lets them live and serves the socket until cancelled."""

    def __init__(self, pairs: Mapping[str, SimulatedPair], socket: Path, clock: Clock) -> None:
        self.pairs, self._socket, self._clock = dict(pairs), socket, clock
        self.ready = asyncio.Event()
        self.streaming: set[str] = set()  # machines whose guard follows its disk, by title
        self.extra: Callable[[], dict[str, object]] = dict

    def machine(self, title: str) -> Machine:
        for pair in self.pairs.values():
            if (found := pair.machine(title)) is not None:
                return found
        raise RefusedError(f"no machine {title!r}; there are {', '.join(self._titles())}")

    def _titles(self) -> list[str]:
        return [m.title for p in self.pairs.values() for m in p.nodes.values()]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                group.create_task(self._serve(reader, writer), name="site-client")

            server = await asyncio.start_unix_server(accept, self._socket, limit=LINE_MAX)
            self._socket.chmod(0o600)
            group.create_task(self._live(), name="site-time")
            try:
                async with server:
                    self.ready.set()
                    await server.serve_forever()
            finally:
                self._socket.unlink(missing_ok=True)

    async def _live(self) -> None:
        while True:
            for pair in self.pairs.values():
                pair.advance()
            await self._clock.sleep(TURN_S)

    # ------------------------------------------------------------------ one client

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine: Machine | None = None
        boot = 0
        tasks: set[asyncio.Task[None]] = set()

        def push(what: str) -> None:
            if machine is not None and machine.runs() and machine.boots == boot:
                said = _dump(VOLUMES, machine.volumes()) if what == "volumes" else None
                _write(writer, {"push": what, "value": said})

        try:
            while line := await reader.readline():
                asked = json.loads(line)
                if "hello" in asked:
                    machine = self.machine(str(asked["hello"]))
                    boot = machine.boots
                    machine.listeners.append(push)
                    _write(writer, {"welcome": machine.title})
                    continue
                task = asyncio.create_task(self._answer(writer, machine, boot, asked), name=f"site-{asked.get('op')}")
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (OSError, ValueError, KeyError, RefusedError):
            return  # not one of ours
        finally:
            if machine is not None:
                machine.listeners.remove(push)
                self.streaming.discard(machine.title)
            for task in tuple(tasks):
                task.cancel()
            writer.transport.abort()

    async def _answer(
        self, writer: asyncio.StreamWriter, machine: Machine | None, boot: int, asked: Mapping[str, Any]
    ) -> None:
        op, args = str(asked.get("op")), dict(asked.get("args") or {})
        try:
            value = await self._orders(op, args) if machine is None else await _Asking(self, machine).do(op, args)
        except (RefusedError, KeyError, ValueError) as error:
            _write(writer, {"id": asked.get("id"), "error": str(error)})
            return
        if machine is None or (machine.runs() and machine.boots == boot):
            _write(writer, {"id": asked.get("id"), "ok": value})

    # ------------------------------------------------------------------ people

    async def _orders(self, op: str, args: dict[str, Any]) -> Any:
        match op:
            case "status":
                return {"pairs": [pair.shown() for pair in self.pairs.values()], **self.extra()}
            case "story":
                return {name: list(pair.story) for name, pair in self.pairs.items()}
            case "freeze" | "heal" | "mark":
                names = args.get("pairs") or list(self.pairs)
                for name in names:
                    pair = self._pair(str(name))
                    match op:
                        case "freeze":
                            pair.freeze(bus=not args.get("links_only"))
                        case "heal":
                            pair.heal()
                        case _:
                            pair.mark()
                return {"pairs": list(names)}
            case "kill":
                title = str(args["node"])
                machine = self.machine(title)
                if not machine.runs():
                    raise RefusedError(f"{title} does not run: it is dead or off already")
                machine.pair.kill(machine)
                return {"node": title}
            case "boot":
                self.machine(str(args["node"])).switch_on()
                return {"node": args["node"]}
            case _:
                raise RefusedError(f"cannot do {op!r}")

    def _pair(self, name: str) -> SimulatedPair:
        if name not in self.pairs:
            raise RefusedError(f"no pair {name!r}; there are {', '.join(self.pairs)}")
        return self.pairs[name]


class _Asking:
    """What the guard of one machine may see and touch."""

    def __init__(self, site: Site, machine: Machine) -> None:
        self._site, self._machine, self._pair = site, machine, machine.pair
        self._clock = site._clock

    async def do(self, op: str, args: dict[str, Any]) -> Any:
        machine, disks = self._machine, self._pair.disks
        match op:
            case "volumes":
                return _dump(VOLUMES, machine.volumes())
            case "follow":
                self._site.streaming.add(machine.title)
                return _dump(VOLUMES, machine.volumes())
            case "stored":
                return _dump(VOLUMES, machine.stored())
            case "sample":
                return _dump(SAMPLE, machine.sample())
            case "suspend":
                return disks.suspend(machine.name)
            case "resume":
                disks.resume(machine.name)
                return Suspended.USER not in disks.of[machine.name].suspended
            case "outdate":
                disks.outdate(machine.name)
                return disks.of[machine.name].disk.value == "O"
            case "members":
                return _dump(MEMBERSHIP, machine.members())
            case "switch":
                return self._pair.switch_answers(machine)
            case "fire" | "power" | "power-on":
                return await self._device(op, args)
            case _:
                await self._clock.sleep(CRM_S)
                return self._cluster(op, args)

    def _cluster(self, op: str, args: dict[str, Any]) -> Any:
        machine, pair, cluster = self._machine, self._pair, self._machine.cluster
        match op:
            case "unblock":
                cluster.unblock()
                return cluster.quorate
            case "view":
                return _dump(VIEW, self._view())
            case "set-hold":
                return cluster.set_hold(str(args["hold_id"]))
            case "clear-hold":
                return cluster.clear_hold(str(args["hold_id"]))
            case "forecast":
                return _dump(FORECAST, self._forecast(args.get("lost"), without_hold=bool(args["without_hold"])))
            case "purge":
                return self._purge(SHOT.validate_python(args["shot"]))
            case "bar":
                letter = pair.letter(str(args["node"]))
                return letter is not None and cluster.bar(letter, on=bool(args["on"]))
            case _:
                raise RefusedError(f"{machine.title} cannot do {op!r}")

    def _view(self) -> ClusterView:
        view, pair = self._machine.cluster.view(), self._pair
        return ClusterView(
            at=view.at,
            controller=view.controller,
            peer_controller=view.peer_controller,
            maintenance=view.maintenance,
            ours=view.ours,
            persons_maintenance=view.persons_maintenance,
            managed=view.managed,
            failed_stop=view.failed_stop,
            unclean=frozenset(pair.title(letter) for letter in view.unclean),
            pending=tuple(pair.titled(shot) for shot in view.pending),
            active_here=view.active_here,
        )

    def _forecast(self, lost: str | None, *, without_hold: bool) -> Forecast:
        letter = None if lost is None else self._pair.letter(lost)
        if lost is not None and letter is None:
            return Forecast(error=f"the cluster does not know a node {lost}")
        found = self._machine.cluster.forecast(letter, without_hold=without_hold)
        fences = frozenset(self._pair.title(each) for each in found.fences)
        return Forecast(fences, (*found.stops, *(f"disk on {each}" for each in sorted(fences))), found.error)

    def _purge(self, shot: PendingShot) -> bool:
        """As the real adapter: only under our own hold, and True only if it is not listed any more."""
        cluster = self._machine.cluster
        if shot == SHOTS_UNREAD or cluster.properties.ours is None:
            return False
        if any(self._pair.titled(each) == shot for each in cluster.view().pending):
            request = cluster.request
            cluster.purge()
            if request is not None:
                self._pair.programs.gone(self._machine, request)
        return True

    async def _device(self, op: str, args: dict[str, Any]) -> Any:
        """One fresh session with the power controller of the peer. In a frozen network it says nothing."""
        machine, pair, target = self._machine, self._pair, self._site.machine(str(args["node"]))
        if target is not machine.peer:
            raise RefusedError(f"{machine.title} has no fence device for {target.title}")
        if op == "fire":
            return _dump(RESULT, await self._fire(float(args["timeout_s"]), args.get("horizon_s")))
        await self._clock.sleep(READ_S)
        if not pair.reaches_device(machine):
            return Power.UNKNOWN.value if op == "power" else False
        if op == "power":
            return pair.power(target).value
        target.switch_on()
        return True

    async def _fire(self, timeout_s: float, horizon_s: float | None) -> ShotResult:
        """The delegate: sends `off` once and waits until the controller says that it acted."""
        machine, pair = self._machine, self._pair
        began = self._clock.now()
        pair.tell(machine.title, f"the guard shoots at {machine.peer.title}")
        life_s = None if horizon_s is None else timeout_s + horizon_s
        shot = pair.shoot(machine, life_s=life_s, cycle=False)
        while elapsed_s(began, self._clock.now()) < timeout_s:
            await self._clock.sleep(TURN_S)
            if shot.done and pair.reaches_device(machine):
                return _result(0, self._clock.now())
        return _result(None, self._clock.now())


def _result(code: int | None, ended: Instant) -> ShotResult:
    text = "" if code == 0 else "ended at its deadline: the controller did not answer"
    return ShotResult(code, code == 0, ended, 0 if code == 0 else 1, 0, text)


def _dump(adapter: TypeAdapter[Any], value: object) -> Any:
    return adapter.dump_python(value, mode="json")


def _write(writer: asyncio.StreamWriter, value: Mapping[str, Any]) -> None:
    """Never waits: a client that does not read is gone soon enough."""
    if not writer.transport.is_closing():
        writer.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
