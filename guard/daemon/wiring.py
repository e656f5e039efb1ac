"""Names the concrete adapters of the guard, and nothing else does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fencing.readback import Readback
from fencing.stock import horizon_s, one_stream
from fencing.supervisor import Supervisor
from guard.adapters import bus as buses
from guard.adapters import folders, logsink, process, snmp, snmp_engine
from guard.adapters.blockstat import BlockStat
from guard.adapters.clock import BootClock, monotonic_usec
from guard.adapters.command_cluster import CommandCluster
from guard.adapters.control import ControlServer, anybody, nobody_answers, root_or_group
from guard.adapters.corosync import Corosync
from guard.adapters.drbd import Drbd
from guard.adapters.emit import Emitter
from guard.adapters.groups import group_id, user_name
from guard.adapters.inbox import told
from guard.adapters.journal import FileJournal, recorded
from guard.adapters.netlink import NetlinkLinks
from guard.adapters.pacemaker import Pacemaker
from guard.adapters.probe import Probe
from guard.adapters.signals import Hooks
from guard.adapters.snmp_profile import Profile, bundled_profile, read_profile
from guard.adapters.systemd import SystemdNotifier
from guard.adapters.traps import SnmpTraps
from guard.core import machine
from guard.core.instant import after
from guard.core.sight import OwnedPort, Owner, Sight
from guard.core.step import Leaving, Retuned
from guard.core.turn import Guard
from guard.daemon.acting import Acting, Waiting, World
from guard.daemon.acting import PowerSwitch as PowerHand
from guard.daemon.control import Asking
from guard.daemon.loop import Loop
from guard.daemon.memory import remembered
from guard.daemon.watching import Watching
from guard.errors import PairguardError, SettingsError, refusals
from guard.events import Emit
from guard.ports import (
    Bus,
    Clock,
    Cluster,
    DeviceSettings,
    Links,
    Members,
    PowerReader,
    Replication,
    Shooter,
    Switch,
    WriteCounters,
)
from guard.settings import Fence, GuardSettings, SwitchSettings

SOCKETS = ("control.sock", "status.sock")
FAREWELL_S = 0.4  # for the last word to leave


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a guard sees and touches besides its bus; the sandbox hands in simulated ones, settings cannot."""

    replication: Replication
    counters: WriteCounters
    members: Any  # guard.ports.Members with `watch`
    cluster: Cluster
    links: Links | None
    switches: Sequence[tuple[Switch, float]]
    traps: SnmpTraps | None
    shooter: Shooter
    reader: PowerReader
    power: PowerHand


@dataclass(frozen=True, slots=True)
class PowerSwitch:
    """Switches a node on through the supervised delegate: best effort."""

    supervisor: Supervisor
    clock: Clock

    async def on(self, device: DeviceSettings, node: str) -> bool:
        try:
            start_by = after(self.clock.now(), device.timeout_s)
            ran = await self.supervisor.run(device, "on", node, f"on-{self.clock.nonce()}", device.timeout_s, start_by)
        except PairguardError:
            return False
        return ran.exit_code == 0


async def serve(settings: GuardSettings, hooks: Hooks, read: Callable[[], GuardSettings]) -> None:
    """Run the guard of this node until cancelled, on the real world. `read` reads the settings anew at a reload."""
    clock = BootClock()
    logsink.configure(logsink.open_sink("pairguardd", os.environ), clock)
    emit = Emitter(clock, pair=settings.pair.name, node=settings.pair.node)
    await run(settings, real(settings, clock), clock, emit, hooks, read)


def real(settings: GuardSettings, clock: Clock) -> Surroundings:
    """The real world as the settings name it. `SettingsError` for what cannot be built."""
    pair = settings.pair
    drbd = Drbd(settings.replication.resources, clock)
    cluster: Cluster
    if settings.cluster.command is not None:
        cluster = CommandCluster(settings.cluster.command, pair.node, pair.peer, clock=clock, run=process.run)
    else:
        cluster = Pacemaker(
            pair.node,
            pair.peer,
            clock=clock,
            run=process.run,
            promotable=settings.cluster.promotable,
            deadline_s=settings.cluster.deadline,
        )
    engine = snmp_engine.build_engine() if settings.switch or settings.network.traps else None
    switches = [(_switch(s, settings, engine, clock), s.poll) for s in settings.switch]
    traps = settings.network.traps
    senders = frozenset(s.host for s in settings.switch)
    supervisor = Supervisor(clock, node=pair.node)
    return Surroundings(
        replication=drbd,
        counters=BlockStat(drbd, clock, sample_s_max=settings.limits.sampling),
        members=Corosync(pair.node, pair.peer, clock=clock, run=process.run),
        cluster=cluster,
        links=NetlinkLinks(settings.network.interfaces, clock) if settings.network.interfaces else None,
        switches=switches,
        traps=None if traps is None else SnmpTraps(traps.address, traps.port, clock, senders=senders),
        shooter=supervisor,
        reader=Readback(supervisor, clock),
        power=PowerSwitch(supervisor, clock),
    )


async def run(
    settings: GuardSettings,
    around: Surroundings,
    clock: Clock,
    emit: Emitter,
    hooks: Hooks | None = None,
    read: Callable[[], GuardSettings] | None = None,
) -> None:
    """The guard's whole life. `SettingsError`, `Unreadable` or `Unavailable`: it cannot start."""
    gid = group_id(settings.control.group)
    folders.made(settings.paths.state, 0o750)
    folders.made(settings.paths.run, 0o755)
    with FileJournal(settings.paths.state / f"{settings.pair.node}.journal", clock) as journal:
        for name in SOCKETS:
            nobody_answers(settings.paths.run / name)  # before the shots of whoever answers there are cleared
        await _run(settings, around, clock, emit, journal, gid, hooks, read)


async def _run(
    settings: GuardSettings,
    around: Surroundings,
    clock: Clock,
    emit: Emitter,
    journal: FileJournal,
    gid: int | None,
    hooks: Hooks | None,
    read: Callable[[], GuardSettings] | None,
) -> None:
    """In the order of DESIGN.md section 4, Guard start."""
    pair = settings.pair
    notifier = SystemdNotifier(monotonic_usec)
    cleared = await around.shooter.clear()
    if cleared.killed:
        text = f"{cleared.killed} processes of an earlier guard's shots were killed"
        emit("shots-cleared", text, {"killed": cleared.killed})
    if journal.torn_bytes:
        text = (
            "the last record of the journal is damaged, by a power loss or by the disk, and is kept beside as .torn: "
            "this node hands no win of this era back, and waits for late shots anew"
        )
        emit("journal-torn", text, {"bytes": journal.torn_bytes}, page=True)
    memory = remembered(journal.replay())
    devices = {node: device(fence) for node, fence in settings.fence.items()}
    guard, first = machine.start(
        pair.node,
        pair.peer,
        policy=settings.limits.policy(devices[pair.peer].timeout_s),
        sight=sight(settings),
        horizon_s=devices[pair.peer].horizon_s,
        stream=devices[pair.peer].stream,
        memory=memory,
        boot_id=clock.boot_id(),
        seed=clock.nonce() + clock.nonce(),
        now=clock.now(),
        stuck=cleared.stuck,
        torn=journal.torn_bytes > 0,
    )
    bus = _bus(settings, clock, emit)
    loop = Loop(guard, clock, journal, emit, notifier)
    waiting = Waiting()
    world = World(
        bus=bus,
        replication=around.replication,
        members=_members(around.members),
        cluster=around.cluster,
        shooter=around.shooter,
        reader=around.reader,
        power=around.power,
        devices=devices,
    )
    acting = Acting(world, clock, loop.put, emit, waiting, cleared.stuck)
    loop.give_hands(acting)
    await loop.begin(first, anew=memory is not None)
    watching = _watching(settings, around, bus, clock, loop, emit)
    sockets = _sockets(settings, clock, loop, waiting, world, emit, gid)
    if hooks is not None:
        hooks.farewell = partial(_farewell, loop, clock)
        if read is not None:
            hooks.reload = partial(_reload, settings, read, loop, notifier, emit)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.run(), name="bus")
            group.create_task(acting.run(), name="hands")
            group.create_task(watching.run(), name="eyes")
            for server in sockets:
                group.create_task(server.run(), name="control")
            group.create_task(loop.run(), name="loop")
            group.create_task(_say_status(notifier, loop, clock), name="status")
            for server in sockets:
                await server.ready.wait()
            notifier.ready()
    finally:
        emit("guard-stopping", "the guard stops; running services go on", {})
        notifier.stopping()


async def _farewell(loop: Loop, clock: Clock) -> None:
    """Tell the arbiter that this guard leaves in order: its silence is then no death."""
    loop.put(Leaving())
    await clock.sleep(FAREWELL_S)


def _reload(
    settings: GuardSettings, read: Callable[[], GuardSettings], loop: Loop, notifier: SystemdNotifier, emit: Emit
) -> None:
    """SIGHUP: new limits are taken at once; settings that do not validate change nothing; the rest needs a restart."""
    notifier.reloading()
    try:
        _take_limits(settings, read(), loop, emit)
    except (PairguardError, OSError, ValueError) as error:
        emit("reload-refused", str(error), {}, page=True)
    finally:
        notifier.ready()


def _take_limits(settings: GuardSettings, fresh: GuardSettings, loop: Loop, emit: Emit) -> None:
    """The pair, its names and its devices stay as they were at the start."""
    loop.put(Retuned(fresh.limits.policy(settings.fence[settings.pair.peer].timeout)))
    later = [
        name
        for name in GuardSettings.model_fields
        if name != "limits" and getattr(fresh, name) != getattr(settings, name)
    ]
    text = f"limits are taken; restart pairguardd to take: {', '.join(later)}" if later else "limits are taken"
    emit("reloaded", text, {"restart_for": later})


def sight(settings: GuardSettings) -> Sight:
    """What is watched of the network, from the settings."""
    return Sight(
        interfaces=frozenset(settings.network.interfaces),
        ports=tuple(OwnedPort(s.name, p.name, Owner(p.owner)) for s in settings.switch for p in s.ports),
        silent_polls=settings.network.silent_polls,
    )


def device(fence: Fence) -> DeviceSettings:
    """`SettingsError` for a device whose packets may act for ever and that was not accepted by name."""
    match fence.horizon:
        case "auto":
            horizon = horizon_s(fence.delegate, fence.options)
        case "unbounded":
            horizon = None
        case seconds:
            horizon = float(seconds)
    if horizon is None and not fence.accept_unbounded:
        raise SettingsError(
            f"cannot use {fence.delegate} as it is configured",
            "what it sends may act at any time later, so an era that used it can never be closed",
            "use a device with sessions (RMCP+, TCP, SNMPv3), or set accept_unbounded = true knowing that",
        )
    stream = fence.horizon == "auto" and one_stream(fence.delegate)  # who names a horizon knows of something that waits
    return DeviceSettings(fence.delegate, dict(fence.options), horizon, fence.timeout, stream)


async def trial(settings: GuardSettings, clock: Clock) -> list[tuple[str, PairguardError]]:
    """What would stop `run` before it serves, each by the key it hangs on. Nothing is made, bound, sent or locked, so
    it may be asked beside a running guard."""
    parts: list[tuple[str, Callable[[], object]]] = [
        ("control.group", lambda: group_id(settings.control.group)),
        ("limits", lambda: settings.limits.policy(settings.fence[settings.pair.peer].timeout)),
        *((f"paths.{name}", partial(folders.makeable, path)) for name, path in settings.paths),
        ("paths.state", lambda: remembered(recorded(settings.paths.state / f"{settings.pair.node}.journal"))),
        ("bus.tls", lambda: buses.secured(settings.bus)),
        ("bus", lambda: _bus(settings, clock, None)),
    ]
    parts += [(f"fence.{node}", partial(device, fence)) for node, fence in settings.fence.items()]
    engine = snmp_engine.build_engine() if settings.switch else None
    for number, switch in enumerate(settings.switch, 1):
        parts.append((f"switch (number {number})", partial(_switch, switch, settings, engine, clock)))
    found = refusals(parts)
    if engine is not None:
        snmp_engine.close_engine(engine)
    return found


def _members(members: Any) -> Members:
    found: Members = members
    return found


def _bus(settings: GuardSettings, clock: Clock, emit: Emit | None) -> buses.RunningBus:
    pair = settings.pair
    return buses.make(
        settings.bus,
        settings.keys,
        party=pair.node,
        site=settings.site,
        pair=pair.name,
        clock=clock,
        on_reject=None if emit is None else told(emit),
    )


def _watching(
    settings: GuardSettings, around: Surroundings, bus: Bus, clock: Clock, loop: Loop, emit: Emit
) -> Watching:
    def guard() -> Guard:
        return loop.guard

    watching = Watching(clock, loop.put, guard, emit)
    watching.watch_bus(bus)
    watching.watch_replication(around.replication, around.counters, settings.limits.sampling)
    watching.watch_members(around.members)
    watching.watch_cluster(around.cluster)
    if around.links is not None:
        watching.watch_links(around.links)
    for switch, poll_s in around.switches:
        watching.watch_switch(switch, poll_s)
    if around.traps is not None:
        watching.watch_traps(around.traps, {s.host: s.name for s in settings.switch})
    if settings.probe is not None:
        watching.watch_probe(Probe(settings.probe.own, settings.probe.peer, settings.probe.port, clock))
    return watching


def _sockets(
    settings: GuardSettings, clock: Clock, loop: Loop, waiting: Waiting, world: World, emit: Emitter, gid: int | None
) -> tuple[ControlServer, ...]:
    asking = Asking(
        site=settings.site,
        pair=settings.pair.name,
        cell=settings.pair.cell,
        clock=clock,
        put=loop.put,
        guard=lambda: loop.guard,
        waiting=waiting,
        world=world,
        recent=lambda: list(emit.kept),
        counts=lambda: emit.counts,
        user_name=user_name,
    )

    def bug(error: Exception) -> None:
        emit("bug", f"a request could not be answered: {error}", {"error": type(error).__name__}, page=True)

    control, status = (settings.paths.run / name for name in SOCKETS)
    return (
        ControlServer(control, 0o660, asking.write, root_or_group(gid), gid=gid, on_bug=bug),
        ControlServer(status, 0o666, asking.read, anybody, on_bug=bug),
    )


async def _say_status(notifier: SystemdNotifier, loop: Loop, clock: Clock) -> None:
    """The one line of `systemctl status`: what is held, and the last verdict."""
    while True:
        guard = loop.guard
        verdict = guard.last_verdict
        said = f"{verdict.get('verdict')} ({verdict.get('row')})" if verdict else "none yet"
        state = "whole" if guard.whole_since is not None else "not whole"
        held = "HELD" if guard.memory.holding else "armed"
        pages = f"; PAGES: {', '.join(sorted(guard.paged))}" if guard.paged else ""
        notifier.status(f"{state}, {held}, era {guard.memory.era}, verdict {said}{pages}")
        await clock.sleep(1.0)


def _switch(switch: SwitchSettings, settings: GuardSettings, engine: Any, clock: Clock) -> snmp.SnmpSwitch:
    profile = _profile(switch.profile, settings.network.profiles)
    ports = {p.name: p.ifindex for p in switch.ports if not p.lag}
    lags = {p.name: p.ifindex for p in switch.ports if p.lag}
    return snmp.SnmpSwitch(
        switch.name,
        switch.host,
        switch.port,
        _credentials(switch),
        profile,
        ports,
        lags,
        engine,
        clock,
        switch.timeout,
        peer_link=switch.peer_link,
    )


def _profile(name: str, folder: Path | None) -> Profile:
    if folder is not None and (folder / f"{name}.toml").is_file():
        return read_profile(folder / f"{name}.toml")
    return bundled_profile(name)


def _credentials(switch: SwitchSettings) -> snmp_engine.Credentials:
    if switch.community_file is not None:
        return snmp_engine.Community(buses.secret_of(switch.community_file))
    if switch.user is None or switch.auth_file is None or switch.priv_file is None:
        raise SettingsError(f"cannot watch switch {switch.name}", "its credentials are incomplete", "see [[switch]]")
    auth, priv = buses.secret_of(switch.auth_file), buses.secret_of(switch.priv_file)
    return snmp_engine.User(switch.user, auth, priv, switch.auth, switch.priv)
