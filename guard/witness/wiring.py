"""Names the concrete adapters of the witness, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from guard.adapters import bus as buses
from guard.adapters import folders, logsink
from guard.adapters.clock import BootClock, monotonic_usec
from guard.adapters.control import ControlServer, PeerCred, anybody
from guard.adapters.emit import Emitter
from guard.adapters.inbox import told
from guard.adapters.mqtt import tls_context
from guard.adapters.systemd import SystemdNotifier
from guard.core.inhibits import shown_inhibits
from guard.core.messages import ARBITER
from guard.errors import PairguardError, Refused, SettingsError, refusals
from guard.events import Emit, plain
from guard.ports import Clock, Delivery, Etcd, Notifier, Registers
from guard.settings import StoreSettings, WitnessSettings
from guard.wire import Rejected, Unread
from guard.witness.loop import Arbiter
from guard.witness.store import Store
from guard.witness.terms import TRY_S, taken


async def serve(settings: WitnessSettings) -> None:
    """Run the witness until cancelled. `SettingsError`, `Unavailable` or `Unreadable`: it cannot start. `TermOver`: it
    was the arbiter, and is not any more."""
    clock = BootClock()
    logsink.configure(logsink.open_sink("pairguard-witness", os.environ), clock)
    witness = _Witness(settings, clock, Emitter(clock, site=settings.site), SystemdNotifier(monotonic_usec))
    try:
        await (witness.with_file() if settings.store.kind == "sqlite" else witness.with_etcd())
    finally:
        witness.notifier.stopping()


@dataclass(slots=True)
class _Witness:
    """Its parts, and what the status socket shows: a standby has no pairs, and says why it is one."""

    settings: WitnessSettings
    clock: Clock
    emit: Emit
    notifier: Notifier
    standby: str = ""
    arbiter: Arbiter | None = None
    bus: buses.RunningBus | None = None

    async def with_file(self) -> None:
        path = self.settings.paths.state / "witness.sqlite"
        with contextlib.closing(Store(path, self.clock.nonce())) as store:
            await self._arbitrate(store, self.clock, self._status().run)

    async def with_etcd(self) -> None:
        """The status socket is there for the standby too; the bus only in a term."""
        stored = self.settings.store
        etcd = gateway(stored)
        status = self._status()
        try:
            async with asyncio.TaskGroup() as group:
                showing = group.create_task(status.run(), name="status-socket")
                name = f"{os.uname().nodename}, process {os.getpid()}"
                prefix = stored.prefix or f"/pairguard/{self.settings.site}"
                ttl_s = int(stored.ttl)
                store = await taken(etcd, self.clock, self.emit, prefix, ttl_s, name=name, wait=self._wait)
                try:
                    await store.read(self.clock.nonce())
                    await self._arbitrate(store, TermClock(self.clock), store.hold)
                finally:
                    await store.leave()
                    showing.cancel()
        finally:
            await etcd.close()

    async def _wait(self, why: str) -> None:
        if self.standby != why:
            self.emit("standby", why, {"why": why})
            self.notifier.ready()
        self.standby = why
        self.notifier.alive()
        self.notifier.status(f"standby: {why}")
        await self.clock.sleep(TRY_S)

    async def _arbitrate(self, store: Registers, voice: Clock, beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """The arbiter, with what is in `store`, and `beside` it. `voice` names the boot that its words are of."""
        settings, clock, emit = self.settings, self.clock, self.emit
        tell = told(emit)

        def rejected(what: Rejected) -> None:
            tell(what)
            if isinstance(what, Unread):  # it lives: nobody may win over it as over a dead one
                arbiter.put(Delivery(what.sender, what, clock.now()))

        bus = buses.make(
            settings.bus, settings.keys, party=ARBITER, site=settings.site, pair="", clock=voice, on_reject=rejected
        )
        arbiter = Arbiter(store, bus, clock, settings.limits.policy(), emit, self.notifier)
        self.arbiter, self.bus = arbiter, bus
        pairs = len(arbiter.pairs)
        emit("witness-started", f"{pairs} pairs", {"pairs": pairs, "store_id": store.store_id})
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.run(), name="bus")
            group.create_task(beside(), name="beside")
            group.create_task(arbiter.run(), name="arbiter")
            self.notifier.ready()

    def _status(self) -> ControlServer:
        def bug(error: Exception) -> None:
            self.emit("bug", f"a request could not be answered: {error}", {"error": type(error).__name__}, page=True)

        run = folders.made(self.settings.paths.run, 0o755)
        return ControlServer(run / "status.sock", 0o666, self._answer, anybody, on_bug=bug)

    async def _answer(self, verb: str, args: Mapping[str, Any], cred: PeerCred, progress: Any) -> dict[str, Any]:
        if verb != "status":
            raise Refused(f"cannot do {verb!r} here", "this socket only shows", "use: pairguard status")
        found = {"schema": "pairguard.witness-status/1", "site": self.settings.site}
        arbiter, bus = self.arbiter, self.bus
        if arbiter is None or bus is None:
            return {**found, "standby": self.standby or "it looks whether the term is free", "pairs": []}
        return {
            **found,
            "store_id": arbiter.store_id,
            "store_trouble": arbiter.store_trouble,
            "rejected": dict(bus.inbox.rejected),
            "doubted": {party: sorted(kinds) for party, kinds in bus.inbox.doubted.items() if kinds},
            "pairs": [
                {
                    "pair": name,
                    "register": plain(pair.kept.register),
                    "session": plain(pair.kept.session),
                    "inhibits": plain(shown_inhibits(pair, self.clock.now())),
                    "testimony": {node: plain(t.evidence) for node, t in pair.kept.testimony.items()},
                }
                for name, pair in sorted(arbiter.pairs.items())
            ],
        }


class TermClock:
    """`guard.ports.Clock` for the words of one term: each term speaks as a boot of its own.

    Guards take nothing of an earlier boot of the arbiter once they heard a later one (`guard.replays`), and would else
    be deaf for a while to a witness that has the term again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._boot_id = clock, clock.nonce()
        self.now, self.wall, self.sleep = clock.now, clock.wall, clock.sleep
        self.nonce, self.jitter = clock.nonce, clock.jitter

    def boot_id(self) -> str:
        return self._boot_id


def gateway(settings: StoreSettings) -> Etcd:
    """`SettingsError` if a file is missing or open to others, or the library is not installed."""
    try:
        from guard.adapters.etcd import EtcdGateway
    except ImportError as error:
        raise SettingsError(
            'cannot use store.kind = "etcd"', f"{error.name} is not installed", "install pairguard[etcd]"
        ) from error
    login = None
    if settings.user is not None and settings.password_file is not None:
        login = (settings.user, buses.secret_of(settings.password_file))
    tls = secured(settings)
    name = settings.tls.server_name if settings.tls is not None else None
    return EtcdGateway(settings.endpoints, tls=tls, server_name=name, login=login)


def secured(settings: StoreSettings) -> ssl.SSLContext | None:
    """TLS as the settings name it, None without. `SettingsError` for a file that is missing or does not fit."""
    tls = settings.tls
    return None if tls is None else tls_context(tls.ca, tls.certificate, tls.key)


async def trial(
    settings: WitnessSettings, clock: Clock, owners: frozenset[int] = frozenset()
) -> list[tuple[str, PairguardError]]:
    """As `guard.daemon.wiring.trial`, for the witness, whose key may belong to `owners`, the user that it runs as.

    Its store is not looked at: SQLite would touch it, and etcd is on the network.
    """
    keys, site = settings.keys, settings.site

    def bus() -> object:
        return buses.make(
            settings.bus, keys, party=ARBITER, site=site, pair="", clock=clock, on_reject=None, owners=owners
        )

    parts: list[tuple[str, Callable[[], object]]] = [("bus.tls", partial(buses.secured, settings.bus)), ("bus", bus)]
    if settings.store.kind == "etcd":
        parts += [("store.tls", partial(secured, settings.store)), ("store", partial(gateway, settings.store))]
    parts += [(f"paths.{name}", partial(folders.makeable, path)) for name, path in settings.paths]
    return refusals(parts)
