"""Names the concrete adapters of the witness, and nothing else does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from guard.adapters import bus as buses
from guard.adapters import folders, logsink
from guard.adapters.clock import BootClock, monotonic_usec
from guard.adapters.control import ControlServer, PeerCred, anybody
from guard.adapters.emit import Emitter
from guard.adapters.inbox import told
from guard.adapters.systemd import SystemdNotifier
from guard.core.inhibits import shown_inhibits
from guard.core.messages import ARBITER
from guard.errors import PairguardError, Refused, refusals
from guard.events import plain
from guard.ports import Clock, Delivery
from guard.settings import WitnessSettings
from guard.wire import Rejected, Unread
from guard.witness.loop import Arbiter
from guard.witness.store import Store


async def serve(settings: WitnessSettings) -> None:
    """Run the witness until cancelled. `SettingsError`, `Unavailable` or `Unreadable`: it cannot start."""
    clock = BootClock()
    logsink.configure(logsink.open_sink("pairguard-witness", os.environ), clock)
    emit = Emitter(clock, site=settings.site)
    notifier = SystemdNotifier(monotonic_usec)
    store = Store(settings.paths.state / "witness.sqlite", clock.nonce())

    tell = told(emit)

    def rejected(what: Rejected) -> None:
        tell(what)
        if isinstance(what, Unread):  # it lives: nobody may win over it as over a dead one
            arbiter.put(Delivery(what.sender, what, clock.now()))

    bus = buses.make(
        settings.bus, settings.keys, party=ARBITER, site=settings.site, pair="", clock=clock, on_reject=rejected
    )
    arbiter = Arbiter(store, bus, clock, settings.limits.policy(), emit, notifier)

    def bug(error: Exception) -> None:
        emit("bug", f"a request could not be answered: {error}", {"error": type(error).__name__}, page=True)

    run = folders.made(settings.paths.run, 0o755)
    reader = _reader(arbiter, bus, settings.site, clock)
    reading = ControlServer(run / "status.sock", 0o666, reader, anybody, on_bug=bug)
    emit("witness-started", f"{len(arbiter.pairs)} pairs", {"pairs": len(arbiter.pairs), "store_id": store.store_id})
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.run(), name="bus")
            group.create_task(reading.run(), name="status-socket")
            group.create_task(arbiter.run(), name="arbiter")
            notifier.ready()
    finally:
        notifier.stopping()
        store.close()


async def trial(
    settings: WitnessSettings, clock: Clock, owners: frozenset[int] = frozenset()
) -> list[tuple[str, PairguardError]]:
    """As `guard.daemon.wiring.trial`, for the witness, whose key may belong to `owners`, the user that it runs as.

    Its store is not looked at: SQLite would touch it.
    """
    keys, site = settings.keys, settings.site

    def bus() -> object:
        return buses.make(
            settings.bus, keys, party=ARBITER, site=site, pair="", clock=clock, on_reject=None, owners=owners
        )

    parts: list[tuple[str, Callable[[], object]]] = [("bus.tls", partial(buses.secured, settings.bus)), ("bus", bus)]
    parts += [(f"paths.{name}", partial(folders.makeable, path)) for name, path in settings.paths]
    return refusals(parts)


def _reader(arbiter: Arbiter, bus: buses.RunningBus, site: str, clock: Clock) -> Any:
    async def answer(verb: str, args: Mapping[str, Any], cred: PeerCred, progress: Any) -> dict[str, Any]:
        if verb != "status":
            raise Refused(f"cannot do {verb!r} here", "this socket only shows", "use: pairguard status")
        return {
            "schema": "pairguard.witness-status/1",
            "site": site,
            "store_id": arbiter.store_id,
            "store_trouble": arbiter.store_trouble,
            "rejected": dict(bus.inbox.rejected),
            "doubted": {party: sorted(kinds) for party, kinds in bus.inbox.doubted.items() if kinds},
            "pairs": [
                {
                    "pair": name,
                    "register": plain(pair.kept.register),
                    "session": plain(pair.kept.session),
                    "inhibits": plain(shown_inhibits(pair, clock.now())),
                    "testimony": {node: plain(t.evidence) for node, t in pair.kept.testimony.items()},
                }
                for name, pair in sorted(arbiter.pairs.items())
            ],
        }

    return answer
