"""The contract suites of the real adapters, on the sandbox's simulated ports, and what only the simulation promises."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from guard.adapters.clock import BootClock
from guard.adapters.hub import HubBus
from guard.core.evidence import Link, Power, Role, Suspended, Up
from guard.core.instant import Instant
from guard.errors import Unavailable
from guard.ports import DeviceSettings
from guard.rehearsal.simulated.pair import Machine, SimulatedPair
from guard.rehearsal.simulated.ports import (
    SimulatedCluster,
    SimulatedCounters,
    SimulatedDevice,
    SimulatedMembers,
    SimulatedReplication,
    SimulatedSwitch,
    WorldLink,
)
from guard.rehearsal.simulated.relay import Relay
from guard.rehearsal.simulated.site import Site
from guard.rehearsal.simulated.stock import StockPrograms
from guard.wire import Keyring, Signer
from tests.adapters import replication_contract as contract
from tests.adapters.bus_contract import KINDS, BusContract, Make, OnReject, World, until
from tests.adapters.cluster_contract import ClusterContract, eventually
from tests.adapters.test_bus import HubWorld

FASTER = 10  # seconds of the simulated site that pass in one of ours
DEVICE = DeviceSettings("fence_sandbox", {}, horizon_s=5.0, timeout_s=6.0)


class QuickClock(BootClock):
    """The real clock, running faster."""

    def __init__(self) -> None:
        super().__init__()
        self._began = super().now()

    def now(self) -> Instant:
        return Instant(self._began + (super().now() - self._began) * FASTER)

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / FASTER)


class IdlePrograms:
    """Machines without guards: agents and handlers are asked for, and never answer."""

    def __init__(self) -> None:
        self.handlers: list[str] = []

    def boot(self, machine: Machine) -> None:
        machine.start_cluster()

    def fence(self, machine: Machine, request: str, action: str) -> None:
        pass

    def fence_peer(self, machine: Machine, job: str) -> None:
        self.handlers.append(f"{machine.title}:{job}")

    def gone(self, machine: Machine, request: str) -> None:
        pass

    def end(self, machine: Machine) -> None:
        pass


class Ports:
    """The ports of one machine."""

    def __init__(self, link: WorldLink, clock: BootClock) -> None:
        self.link = link
        self.replication = SimulatedReplication(link, ["r0"], clock)
        self.counters = SimulatedCounters(link)
        self.members = SimulatedMembers(link, clock)
        self.cluster = SimulatedCluster(link, clock)
        self.device = SimulatedDevice(link, clock)
        self.switch = SimulatedSwitch("sw", link, clock)


class Lab:
    """One simulated pair, whole, with both machines' ports: also the stage of the cluster contract."""

    node, peer = "fs1a", "fs1b"

    def __init__(self, pair: SimulatedPair, a: Ports, b: Ports) -> None:
        self.pair, self.a, self.b = pair, a, b
        self.here, self.there = a.cluster, b.cluster

    async def person(self, *, on: bool) -> None:
        assert self.pair.nodes["A"].cluster.edit(persons=on)

    async def queue_shot(self) -> None:
        self.pair.nodes["A"].cluster.request = "delayed"

    def shots_fired(self) -> int:
        return sum(machine.shot for machine in self.pair.nodes.values())


@asynccontextmanager
async def a_lab(socket: Path) -> AsyncIterator[Lab]:
    clock = QuickClock()
    pair = SimulatedPair("fs1", ("fs1a", "fs1b"), clock, IdlePrograms(), seed=1)
    site = Site({"fs1": pair}, socket, clock)
    links = [WorldLink(socket, title) for title in ("fs1a", "fs1b")]
    tasks = [asyncio.create_task(site.run())]
    try:
        async with asyncio.timeout(20.0):
            await site.ready.wait()
            pair.begin()
            tasks += [asyncio.create_task(link.run()) for link in links]
            for link in links:
                await link.ready.wait()
            while not pair.whole():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        yield Lab(pair, *(Ports(link, clock) for link in links))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Lab]:
    async with a_lab(tmp_path / "w") as lab:
        yield lab


class TestSimulatedCluster(ClusterContract):
    """The contract of `guard.ports.Cluster`."""


@pytest.mark.asyncio
class TestSimulatedReplication:
    """The contract of `guard.ports.Replication`."""

    async def test_it_names_all_in_order(self, stage: Lab) -> None:
        """Both looks name every configured resource once."""
        await contract.names_all_in_order(stage.a.replication, ["r0"])

    async def test_the_whole_comes_first(self, stage: Lab) -> None:
        """`changes` begins with what `read` says."""
        await contract.whole_comes_first(stage.b.replication, ["r0"])

    async def test_metadata_proves_no_session(self, stage: Lab) -> None:
        """What is stored never says that the link stands."""
        await contract.metadata_proves_no_session(stage.a.replication)

    async def test_suspended_means_read_back(self, stage: Lab) -> None:
        """`suspend` and `resume` say True exactly if the disk shows it."""
        await contract.suspended_means_read_back(stage.a.replication)

    async def test_without_the_site_all_is_unknown(self, tmp_path: Path) -> None:
        """A machine that cannot be asked has no value that could permit anything, and no order succeeds."""
        ports = Ports(WorldLink(tmp_path / "nobody", "fs1a"), BootClock())
        await contract.all_unknown(ports.replication)
        view = await ports.cluster.view()
        assert (view.controller, view.maintenance, view.managed) == (Up.UNKNOWN, None, None)
        assert view.pending != ()
        assert not await ports.cluster.set_hold("h")
        assert not (await ports.cluster.forecast(lost=None, without_hold=True)).harmless()
        assert (await ports.members.read()).peer_member is None
        assert await ports.device.status(DEVICE, "fs1b", 1.0) is Power.UNKNOWN
        assert not (await ports.switch.poll()).answered
        with pytest.raises(Unavailable):
            await ports.device.fire(DEVICE, "off", "fs1b", "s1", None)


@pytest.mark.asyncio
async def test_a_cut_primary_freezes_keeps_its_generation_and_thaws_with_the_link(stage: Lab) -> None:
    """Measured on DRBD 8.4: frozen at the cut, handler called once, same generation; the healed link thaws it."""
    primary = stage.a.replication
    before = (await primary.read()).replicas[0]
    assert before.role is Role.PRIMARY
    stage.pair.freeze()

    async def frozen() -> bool:
        return (await primary.read()).replicas[0].suspended == {Suspended.FENCING}

    await eventually(frozen, "the primary to freeze")
    acked = len(stage.pair.disks.acked)
    await asyncio.sleep(0.3)
    assert len(stage.pair.disks.acked) == acked, "a frozen primary acknowledged a write"
    programs = stage.pair.programs
    assert isinstance(programs, IdlePrograms)
    assert [name.split(":")[0] for name in programs.handlers] == ["fs1a"]
    assert (await primary.read()).replicas[0].generations == before.generations
    stage.pair.heal()

    async def thawed() -> bool:
        now = (await primary.read()).replicas[0]
        return now.link is Link.CONNECTED and not now.suspended

    await eventually(thawed, "the primary to thaw")
    assert (await primary.read()).replicas[0].generations == before.generations
    await eventually(lambda: _grew(stage, acked), "writes to be acknowledged again")


async def _grew(stage: Lab, acked: int) -> bool:
    return len(stage.pair.disks.acked) > acked


@pytest.mark.asyncio
async def test_a_frozen_network_keeps_a_shot_and_delivers_it_at_the_thaw(stage: Lab) -> None:
    """The device is silent, the delegate ends unconfirmed at its deadline, and its command lands when it thaws."""
    stage.pair.freeze()
    assert await stage.a.device.status(DEVICE, "fs1b", 0.5) is Power.UNKNOWN
    result = await stage.a.device.fire(DEVICE, "off", "fs1b", "s1", None)
    assert (result.exit_code, result.clean) == (None, False)
    assert stage.shots_fired() == 0
    stage.pair.heal()

    async def off() -> bool:
        return await stage.a.device.status(DEVICE, "fs1b", 5.0) is Power.OFF

    await eventually(off, "the late shot to land")
    assert stage.pair.nodes["B"].shot == 1


@pytest.mark.asyncio
async def test_a_machine_without_power_answers_nothing(stage: Lab) -> None:
    """Its ports go silent; its peer reads it off."""
    assert (await stage.a.device.fire(DEVICE, "off", "fs1b", "s1", None)).exit_code == 0
    with pytest.raises(Unavailable):
        await stage.b.link.ask("volumes", 0.3)
    assert await stage.a.device.status(DEVICE, "fs1b", 5.0) is Power.OFF


@pytest.mark.asyncio
async def test_counters_move_with_the_writes(stage: Lab) -> None:
    """The primary counts what it acknowledged, the secondary what it received."""
    first = [(await ports.counters.sample(await ports.replication.read()))[0] for ports in (stage.a, stage.b)]

    async def moved() -> bool:
        now = [(await ports.counters.sample(await ports.replication.read()))[0] for ports in (stage.a, stage.b)]
        return (now[0].completed or 0) > (first[0].completed or 0) and (now[1].received_kib or 0) > (
            first[1].received_kib or 0
        )

    await eventually(moved, "both counters to move")


@pytest.mark.asyncio
async def test_an_unguarded_pair_shoots_itself_when_the_frozen_network_thaws() -> None:
    """Without a guard both shots wait in the network, both land, and nobody serves."""
    clock = QuickClock()
    pair = SimulatedPair("st", ("sta", "stb"), clock, StockPrograms(), seed=2)
    pair.begin()

    async def turn(check: bool) -> bool:
        pair.advance()
        return check

    await eventually(lambda: turn(pair.whole()), "the pair to be whole")
    pair.freeze()
    await eventually(lambda: turn(all(m.cluster.request for m in pair.nodes.values())), "both to shoot")
    assert not any(m.shot for m in pair.nodes.values())
    pair.heal()
    await eventually(lambda: turn(all(m.shot == 1 for m in pair.nodes.values())), "both to be shot")
    assert pair.serving() is None


# ---------------------------------------------------------------- the bus behind the wire


class WiredWorld:
    """A hub behind the sandbox's relay."""

    def __init__(self) -> None:
        self._hub = HubWorld(("127.0.0.1", 0))
        self._relay: asyncio.Task[None] | None = None
        self._port = 0
        self.open = True

    async def begin(self) -> None:
        await self._hub.start()
        target = self._hub._address
        assert isinstance(target, tuple)
        relay = Relay(target, BootClock(), is_open=lambda: self.open, alive=lambda: True)
        self._relay = asyncio.create_task(relay.run())
        await relay.ready.wait()
        self._port = relay.port

    async def end(self) -> None:
        if self._relay is not None:
            self._relay.cancel()
            await asyncio.gather(self._relay, return_exceptions=True)
        if self._hub._task:
            await self._hub.stop()

    def bus(self, signer: Signer, keyring: Keyring, on_reject: OnReject | None = None) -> HubBus:
        address = ("127.0.0.1", self._port)
        return HubBus(signer, keyring, BootClock(), address=address, on_reject=on_reject, kinds=KINDS)

    async def stop(self) -> None:
        await self._hub.stop()

    async def start(self) -> None:
        await self._hub.start()


@asynccontextmanager
async def wired() -> AsyncIterator[World]:
    world = WiredWorld()
    await world.begin()
    try:
        yield world
    finally:
        await world.end()


class TestWiredBus(BusContract):
    """The contract of `guard.ports.Bus`, through the wire that the sandbox freezes."""

    @pytest.fixture
    def world(self) -> Make:
        return wired


@pytest.mark.asyncio
async def test_a_frozen_wire_keeps_bytes_and_passes_them_at_the_thaw() -> None:
    """Nothing passes while frozen; afterwards everything does, in order."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    open_now = True
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = ("127.0.0.1", server.sockets[0].getsockname()[1])
    relay = Relay(target, BootClock(), is_open=lambda: open_now, alive=lambda: True)
    running = asyncio.create_task(relay.run())
    await relay.ready.wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        words = [uuid.uuid4().hex.encode() + b"\n" for _ in range(3)]
        writer.write(words[0])
        async with asyncio.timeout(10.0):
            assert await reader.readline() == words[0]
        open_now = False
        writer.write(words[1])
        writer.write(words[2])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readline()
        open_now = True
        async with asyncio.timeout(10.0):
            assert [await reader.readline() for _ in range(2)] == words[1:]
    finally:
        writer.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.close()
        await until(lambda: running.done(), "the relay to end")
