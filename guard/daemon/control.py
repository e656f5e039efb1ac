"""The guard's control sockets: the agent, DRBD's handler and people ask here; the core decides, this only carries."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from guard.core.evidence import Power
from guard.core.messages import ARBITER, TEXT_MAX, Init, spelled
from guard.core.step import (
    AcceptStore,
    AgentAsks,
    AskRelease,
    ClientGone,
    DryRun,
    Event,
    HandlerAsks,
    OpenHold,
)
from guard.core.turn import Guard, whole
from guard.daemon.acting import POWER_S_MAX, Waiting, World, switched_on
from guard.daemon.showing import explained, plain_map, shown
from guard.errors import Refused, Unavailable
from guard.ports import Clock

PERSON_S_MAX = 8.0  # a person's question is answered within this, or refused
RELEASE_TRIES = 3  # a release may first have to ask the cluster's scheduler
INIT_S_MAX = 8.0
LEASE_S_MAX = 31 * 86400.0
OWNER_MAX = 64  # characters of a user's name
Say = Callable[[str], None]


class Peer(Protocol):
    """Who asks, as the kernel noted it."""

    @property
    def uid(self) -> int: ...
    @property
    def pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Cred:
    """A person who gives an order. `name` None: nobody could say it in time."""

    uid: int
    pid: int
    name: str | None


class Asking:
    """The handlers of both sockets. `write` gives orders, `read` only shows."""

    def __init__(
        self,
        *,
        site: str,
        pair: str,
        cell: str,
        clock: Clock,
        put: Callable[[Event], None],
        guard: Callable[[], Guard],
        waiting: Waiting,
        world: World,
        recent: Callable[[], Sequence[Mapping[str, Any]]],
        counts: Callable[[], Mapping[str, int]],
        user_name: Callable[[int], Awaitable[str | None]],
    ) -> None:
        self._site, self._pair, self._cell = site, pair, cell
        self._clock, self._put, self._guard = clock, put, guard
        self._waiting, self._world, self._recent = waiting, world, recent
        self._counts, self._user_name = counts, user_name

    async def read(self, verb: str, args: Mapping[str, Any], cred: Peer, say: Say) -> dict[str, Any]:
        match verb:
            case "status":
                return shown(self._guard(), self._site, self._pair, self._clock.now(), self._clock.wall())
            case "explain":
                return explained(self._guard(), self._pair, self._clock.now(), self._recent())
            case "counts":
                return {"schema": "pairguard.counts/1", "pair": self._pair, "events": dict(self._counts())}
            case _:
                raise Refused(f"cannot do {verb!r} here", "this socket only shows", "use the control socket, as root")

    async def write(self, verb: str, args: Mapping[str, Any], cred: Peer, say: Say) -> dict[str, Any]:
        match verb:
            case "status" | "explain" | "counts":
                return await self.read(verb, args, cred, say)
            case "fence":
                return await self._fence(args, say)
            case "power":
                return await self._power(args)
            case "list":
                return {"targets": sorted(self._world.devices)}
            case "fence-peer":
                return await self._fence_peer(args, say)
            case "unfence-peer":
                return {"code": 0}
            case "verdict":
                return await self._verdict(args)
            case "hold":
                return await self._hold(args, await self._named(cred))
            case "release":
                return await self._release()
            case "init":
                return await self._init(args, await self._named(cred))
            case _:
                raise Refused(f"cannot do {verb!r}", "no such order", "see: pairguard --help")

    # ------------------------------------------------------------------ agent and handler

    async def _fence(self, args: Mapping[str, Any], say: Say) -> dict[str, Any]:
        target, action = _text(args, "target"), _text(args, "action")
        guard = self._guard()
        if target != guard.peer:
            only = f"the guard of {guard.me} fences {guard.peer} only"
            raise Refused(f"cannot fence {target!r}", only, f"on {guard.peer}: pairguard verdict --target {guard.me}")
        delegate = args.get("delegate")
        device = self._world.devices[target]
        if delegate not in (None, "", device.agent):
            raise Refused(
                f"cannot use the delegate {delegate!r}", f"the settings name {device.agent}", "make the two agree"
            )
        why = self._world.shooter.usable()
        if why is not None:
            raise Refused(
                f"cannot fence {target}", why, "mount cgroup v2: no shot is fired outside a cgroup of its own"
            )
        wait_s = args.get("wait_s")
        if not isinstance(wait_s, (int, float)) or isinstance(wait_s, bool) or not 0 < wait_s < 86400:
            raise Refused("cannot read wait_s", f"found {wait_s!r}", "give seconds between 0 and 86400")
        wanted: Literal["off", "reboot"] = "reboot" if action == "reboot" else "off"
        if action not in ("off", "reboot"):
            raise Refused(f"cannot do {action!r}", "fence takes off or reboot", "see: fence_pairguard -o metadata")
        request = self._clock.nonce()
        return await self._asked(request, AgentAsks(request, wanted, target, float(wait_s)), wait_s + 5.0, say)

    async def _power(self, args: Mapping[str, Any]) -> dict[str, Any]:
        action, target = _text(args, "action"), args.get("target")
        name = target if isinstance(target, str) and target else self._guard().peer
        device = self._world.devices.get(name)
        if device is None:
            raise Refused(f"cannot reach {name!r}", "no fence device is configured for it", "see [fence.NODE]")
        if action == "on":
            return {"ok": await switched_on(self._world, name) is None}
        power = await self._world.reader.status(device, name, POWER_S_MAX)
        return {"ok": power is not Power.UNKNOWN} if action == "monitor" else {"power": power.value}

    async def _fence_peer(self, args: Mapping[str, Any], say: Say) -> dict[str, Any]:
        request = self._clock.nonce()
        return await self._asked(request, HandlerAsks(request, _text(args, "resource")), None, say)

    # ------------------------------------------------------------------ people

    async def _verdict(self, args: Mapping[str, Any]) -> dict[str, Any]:
        target, guard = _text(args, "target"), self._guard()
        if target != guard.peer:
            why = f"from {guard.me} only {guard.peer} can be the target"
            raise Refused(f"cannot judge {target!r}", why, f"pairguard verdict --target {guard.peer}")
        purpose: Literal["fence", "alone"] = "alone" if args.get("purpose") == "alone" else "fence"
        request = self._clock.nonce()
        answer = await self._asked(request, DryRun(request, purpose), PERSON_S_MAX, None)
        return {"candidate": guard.me, "target": guard.peer, "pair": self._pair, **answer}

    async def _hold(self, args: Mapping[str, Any], cred: Cred) -> dict[str, Any]:
        lease = args.get("lease_s")
        if not isinstance(lease, (int, float)) or isinstance(lease, bool) or not 0 < lease <= LEASE_S_MAX:
            raise Refused("cannot hold", f"the lease is {lease!r:.80}", "give --for, for example --for 30m")
        request = self._clock.nonce()
        owner, reason = _owner(cred), _text(args, "reason")
        key = _text(args, "key") if args.get("key") else _key_of(self._guard().me, owner, reason)
        event = OpenHold(request, key, owner, reason, float(lease), self._clock.wall())
        answer = await self._asked(request, event, PERSON_S_MAX, None)
        if answer.get("outcome") == "too-many-holds":
            raise Refused(
                "cannot hold once more",
                str(answer.get("text")),
                "end them: pairguard release; or let one program hold with one --key",
            )
        return {**answer, "key": key, "pair": self._pair}

    async def _release(self) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for _ in range(RELEASE_TRIES):
            request = self._clock.nonce()
            answer = await self._asked(request, AskRelease(request), PERSON_S_MAX, None)
            if answer.get("outcome") != "forecast-asked":
                break
            await self._clock.sleep(1.5)
        return {**answer, "pair": self._pair}

    async def _init(self, args: Mapping[str, Any], cred: Cred) -> dict[str, Any]:
        """Make the register; or, if the arbiter's store is another one, believe it from now on."""
        guard = self._guard()
        preferred = args.get("preferred") or guard.me
        if preferred not in (guard.me, guard.peer):
            raise Refused(f"cannot prefer {preferred!r}", "it is no node of this pair", f"{guard.me} or {guard.peer}")
        if whole(guard) is not True:
            raise Refused("cannot make a register", "the pair is not whole", "run: pairguard status")
        if guard.store_doubted:
            request = self._clock.nonce()
            answer = await self._asked(request, AcceptStore(request), PERSON_S_MAX, None)
            if answer.get("outcome") != "accepted":
                raise Refused("cannot accept the arbiter's store", str(answer.get("text")), "run: pairguard status")
        elif guard.ack is not None and guard.ack.register is not None:
            return {"outcome": "exists", "pair": self._pair, "era": guard.ack.register.era}
        order = Init(self._clock.nonce(), (guard.me, guard.peer), str(preferred), self._cell, _owner(cred))
        for _ in range(int(INIT_S_MAX / 0.25)):
            seen = self._guard().ack
            if seen is not None and seen.register is not None:
                return {"outcome": "made", "pair": self._pair, "era": seen.register.era}
            await self._world.bus.send(ARBITER, order, expires_s=2.0)
            await self._clock.sleep(0.25)
        raise Unavailable(
            "cannot make a register",
            "the arbiter does not answer",
            "on the arbiter's machine: systemctl status pairguard-witness",
        )

    async def _named(self, cred: Peer) -> Cred:
        return Cred(cred.uid, cred.pid, await self._user_name(cred.uid))

    # ------------------------------------------------------------------ carrying

    async def _asked(self, request: str, event: Event, deadline_s: float | None, say: Say | None) -> dict[str, Any]:
        """Put the question to the core and wait. A client that goes away takes its request with it."""
        future: asyncio.Future[Mapping[str, object]] = asyncio.get_running_loop().create_future()
        self._waiting.answers[request] = future
        if say is not None:
            self._waiting.progress[request] = say
        self._put(event)
        try:
            async with asyncio.timeout(deadline_s):
                return plain_map(await future)  # JSON-ready: a verdict carries whole testimonies
        except TimeoutError:
            raise Unavailable(
                "cannot answer in time", f"no answer of the guard in {deadline_s:g} s", "run: pairguard status"
            ) from None
        finally:
            self._waiting.answers.pop(request, None)
            self._waiting.progress.pop(request, None)
            if not future.done() or future.cancelled():
                self._put(ClientGone(request))


def _text(args: Mapping[str, Any], key: str) -> str:
    """A short text that fits into the journal and into one message; half a surrogate pair would fit into neither."""
    value = args.get(key)
    if not isinstance(value, str) or not value:
        raise Refused(f"cannot read the request: {key} is missing", "", "see: man pairguardd")
    if spelled(value) > TEXT_MAX or any("\ud800" <= char <= "\udfff" for char in value):
        raise Refused(
            f"cannot read the request: {key}",
            f"longer than {TEXT_MAX} characters (six each beyond ASCII), or no text",
            "shorten it",
        )
    return value


def _owner(cred: Cred) -> str:
    """The person or program that asks, by the kernel's word."""
    name = (cred.name or f"uid {cred.uid}").encode("ascii", "backslashreplace").decode("ascii")
    return f"{name[:OWNER_MAX]}[{cred.pid}]"


def _key_of(node: str, owner: str, reason: str) -> str:
    """Without a key the same reason of the same user on the same node is the same hold, however often it is given."""
    user = owner.partition("[")[0]
    return hashlib.sha256("\0".join((node, user, reason)).encode()).hexdigest()[:32]
