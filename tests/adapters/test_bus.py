"""Both buses keep the contract: MQTT through a real Mosquitto, and the hub; 200 guards do not come back in step."""

from __future__ import annotations

import asyncio
import cmath
import contextlib
import ipaddress
import random
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from guard.adapters.clock import BootClock
from guard.adapters.hub import Hub, HubAddress, HubBus
from guard.adapters.inbox import BACKOFF_MAX_S, BACKOFF_MIN_S, backoff
from guard.adapters.mqtt import MqttBus, resolve_once, tls_context, topic_of
from guard.errors import SettingsError
from guard.wire import Keyring, Signer
from tests.adapters.authority import Authority
from tests.adapters.bus_contract import (
    KINDS,
    SITE,
    BusContract,
    Identities,
    Make,
    OnReject,
    Ping,
    heard,
    running,
    until,
)

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
CONFIGS = Path(__file__).parents[2] / "configs" / "mosquitto"
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """A Mosquitto of our own, on loopback, from a configuration text."""

    def __init__(self, folder: Path, config: str, port: int, tls: dict[str, ssl.SSLContext] | None = None) -> None:
        self.port, self._tls, self._log = port, tls, folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(config)
        self.process: subprocess.Popen[bytes] | None = None

    def bus(self, signer: Signer, keyring: Keyring, on_reject: OnReject | None = None) -> MqttBus:
        tls = self._tls[signer.party] if self._tls else None
        return MqttBus(
            signer, keyring, BootClock(), host="127.0.0.1", port=self.port, tls=tls, on_reject=on_reject, kinds=KINDS
        )

    async def start(self) -> None:
        assert MOSQUITTO
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)  # noqa: ASYNC220
        await until(self._listens, f"the broker listens ({self._log.read_text()[-500:]})")

    async def stop(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        self.process = None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
            return True
        return False


@asynccontextmanager
async def started(broker: Broker) -> AsyncIterator[Broker]:
    await broker.start()
    try:
        yield broker
    finally:
        if broker.process:
            await broker.stop()


def plain_broker(folder: Path) -> Broker:
    port = free_port()
    return Broker(folder, f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n", port)


@needs_mosquitto
class TestMqtt(BusContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Make:
        return lambda: started(plain_broker(tmp_path))


class HubWorld:
    def __init__(self, address: HubAddress) -> None:
        self._address = address
        self._hub: Hub | None = None
        self._task: asyncio.Task[None] | None = None

    def bus(self, signer: Signer, keyring: Keyring, on_reject: OnReject | None = None) -> HubBus:
        return HubBus(signer, keyring, BootClock(), address=self._address, on_reject=on_reject, kinds=KINDS)

    async def start(self) -> None:
        self._hub = Hub(self._address, BootClock())
        self._task = asyncio.create_task(self._hub.run())
        await until(self._hub.ready.is_set, "the hub listens")
        if isinstance(self._address, tuple) and self._hub.port:
            self._address = (self._address[0], self._hub.port)

    async def stop(self) -> None:
        assert self._task
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None


@asynccontextmanager
async def hub_at(address: HubAddress) -> AsyncIterator[HubWorld]:
    world = HubWorld(address)
    await world.start()
    try:
        yield world
    finally:
        if world._task:
            await world.stop()


class TestHub(BusContract):
    @pytest.fixture(params=["unix", "tcp"])
    def world(self, request: pytest.FixtureRequest, tmp_path: Path) -> Make:
        address: HubAddress = tmp_path / "hub.sock" if request.param == "unix" else ("127.0.0.1", 0)
        return lambda: hub_at(address)


# ---------------------------------------------------------------- only MQTT


@needs_mosquitto
@pytest.mark.asyncio
async def test_retained_messages_are_ignored(tmp_path: Path) -> None:
    """A perfectly signed message that somebody made the broker keep is never delivered."""
    ids = Identities("fs1a", "arbiter")
    async with started(plain_broker(tmp_path)) as broker:
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as keeper:
            sealed = ids.signer("fs1a").seal("arbiter", Ping("kept", "fire"))
            await keeper.publish(topic_of(SITE, "arbiter"), sealed, qos=1, retain=True)
        a, arbiter = broker.bus(ids.signer("fs1a"), ids.keyring), broker.bus(ids.signer("arbiter"), ids.keyring)
        async with running(a, arbiter):
            await a.send("arbiter", Ping("live", ""), expires_s=5)
            [got] = await heard(arbiter, 1)
            assert got.body == Ping("live", "")


@needs_mosquitto
@pytest.mark.asyncio
async def test_requests_carry_what_mqtt5_has_for_them(tmp_path: Path) -> None:
    """Response topic is the sender's inbox, correlation data the nonce, and the broker counts the expiry down."""
    ids = Identities("fs1a", "arbiter")
    async with started(plain_broker(tmp_path)) as broker:
        a = broker.bus(ids.signer("fs1a"), ids.keyring)
        async with (
            running(a),
            aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as listener,
        ):
            await listener.subscribe(topic_of(SITE, "arbiter"), qos=1)
            assert await a.send("arbiter", Ping("n17", ""), expires_s=2.2)
            async with asyncio.timeout(10):
                message = await anext(aiter(listener.messages))
        assert message.properties is not None
        seen = message.properties.json()  # type: ignore[no-untyped-call]
        assert seen["ResponseTopic"] == "pairguard/lab/fs1a/in"
        assert bytes.fromhex(seen["CorrelationData"]) == b"n17"
        assert 1 <= seen["MessageExpiryInterval"] <= 3
        assert (message.qos, message.retain) == (1, False)


@needs_mosquitto
@pytest.mark.asyncio
async def test_a_frozen_broker_is_noticed_and_nothing_waits_for_it(tmp_path: Path) -> None:
    """Stopped, not dead: every send ends by its deadline, the loss is noticed, the bus comes back after the thaw."""
    ids = Identities("fs1a", "arbiter")
    async with started(plain_broker(tmp_path)) as broker:
        a = broker.bus(ids.signer("fs1a"), ids.keyring)
        async with running(a):
            assert broker.process
            broker.process.send_signal(signal.SIGSTOP)
            try:
                # True: bytes were handed over, nobody knows more. The point is that it returns at all.
                async with asyncio.timeout(15):
                    await asyncio.gather(*(a.send("arbiter", Ping(str(n), ""), expires_s=1) for n in range(40)))
                assert a.unacked > 0
                assert a.connected()  # they ended by their own deadline, not by the loss, which takes 4 s
                await until(lambda: not a.connected(), "the frozen broker is noticed")
            finally:
                broker.process.send_signal(signal.SIGCONT)
            await until(a.connected, "back after the thaw")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["mqtt", "hub"])
async def test_a_black_hole_is_given_up(kind: str) -> None:
    """A listener that never answers (a full backlog, a silent firewall) costs one try, not the bus."""
    ids = Identities("fs1a")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        port, signer, clock = silent.getsockname()[1], ids.signer("fs1a"), BootClock()
        a: MqttBus | HubBus = (
            MqttBus(signer, ids.keyring, clock, host="127.0.0.1", port=port, kinds=KINDS)
            if kind == "mqtt"
            else HubBus(signer, ids.keyring, clock, address=("127.0.0.1", port), kinds=KINDS)
        )
        task = asyncio.create_task(a.run())
        await until(lambda: a.failure is not None, "the try is given up")
        assert not a.connected()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_name_is_refused_as_broker_address() -> None:
    """No name is resolved on the way to a decision: the constructor takes IP literals only."""
    ids = Identities("fs1a")
    with pytest.raises(SettingsError, match="IP address"):
        MqttBus(ids.signer("fs1a"), ids.keyring, BootClock(), host="broker.example", port=1883, kinds=KINDS)
    with pytest.raises(SettingsError, match="loopback"):
        HubBus(ids.signer("fs1a"), ids.keyring, BootClock(), address=("192.0.2.1", 1), kinds=KINDS)


@pytest.mark.asyncio
async def test_names_are_resolved_once_at_start() -> None:
    """`resolve_once` leaves literals alone, resolves localhost, and stops the start for what does not resolve."""
    assert await resolve_once("192.0.2.7") == "192.0.2.7"
    assert await resolve_once("2001:DB8::1") == "2001:db8::1"
    assert ipaddress.ip_address(await resolve_once("localhost")).is_loopback
    with pytest.raises(SettingsError, match="cannot resolve"):
        await resolve_once("no such name")


# ---------------------------------------------------------------- the shipped broker configuration


def shipped_broker(folder: Path, authority: Authority) -> Broker:
    """The shipped configuration, with nothing but paths, address, site and party names filled in."""
    port = free_port()
    authority.issue("broker")
    acl = folder / "acl"
    acl.write_text((CONFIGS / "acl").read_text().replace("SITE", SITE))
    acl.chmod(0o600)
    config = (CONFIGS / "pairguard.conf").read_text()
    for before, after in (
        ("listener 8883 192.0.2.10", f"listener {port} 127.0.0.1"),
        ("/etc/mosquitto/pairguard/acl", str(acl)),
        ("/etc/mosquitto/pairguard", str(folder)),
    ):
        assert before in config
        config = config.replace(before, after)
    tls = {
        party: tls_context(authority.ca, *authority.issue(party), server_name="broker.example")
        for party in ("arbiter", "fs1a", "fs1b")
    }
    return Broker(folder, config + "\nuser root\n", port, tls)


@needs_mosquitto
@pytest.mark.asyncio
async def test_the_shipped_broker_configuration_lets_parties_say_what_they_may(tmp_path: Path) -> None:
    """Client certificates name the parties; what the ACL forbids is refused by PUBACK, and `send` says False."""
    ids = Identities("arbiter", "fs1a", "fs1b", "fs2a")
    async with started(shipped_broker(tmp_path, Authority(tmp_path))) as broker:
        a, b, arbiter = (broker.bus(ids.signer(party), ids.keyring) for party in ("fs1a", "fs1b", "arbiter"))
        async with running(a, b, arbiter):
            for sender, to in ((a, "arbiter"), (a, "fs1b"), (b, "fs1a"), (arbiter, "fs1a"), (arbiter, "fs2a")):
                assert await sender.send(to, Ping("n", ""), expires_s=5), to
            assert not await a.send("fs2a", Ping("n", "not my pair"), expires_s=5)
            assert a.refused == 1
            assert a.connected()
            assert [d.sender for d in await heard(arbiter, 1)] == ["fs1a"]


@needs_mosquitto
@pytest.mark.asyncio
async def test_the_shipped_broker_configuration_keeps_strangers_out(tmp_path: Path) -> None:
    """No certificate, or one of another CA: no connection. The broker's own name is checked as well."""
    ids = Identities("arbiter", "fs1a")
    good = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    bare = ssl.create_default_context(cafile=str(good.ca))
    bare.check_hostname = False
    foreign = tls_context(good.ca, *other.issue("fs1a"), server_name="broker.example")
    wrong_name = tls_context(good.ca, *good.issue("fs1a"), server_name="elsewhere.example")
    async with started(shipped_broker(tmp_path, good)) as broker:
        for tls in (bare, foreign, wrong_name, None):
            bus = MqttBus(
                ids.signer("fs1a"), ids.keyring, BootClock(), host="127.0.0.1", port=broker.port, tls=tls, kinds=KINDS
            )
            task = asyncio.create_task(bus.run())
            await until(lambda bus=bus: bus.failure is not None, "the connection is refused")  # type: ignore[misc]
            assert not bus.connected()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- 200 guards


def in_step(instants: list[float], period_s: float) -> float:
    """Rayleigh's statistic: 1 if all instants have one phase of the period, about 0.07 for 200 at random."""
    return abs(sum(cmath.exp(2j * cmath.pi * at / period_s) for at in instants)) / len(instants)


def test_the_statistic_finds_a_phase_lock() -> None:
    """The measure itself: 200 in step are seen, also with 50 ms of noise on a period of one second."""
    noise = random.Random(1)  # noqa: S311
    assert in_step([n + noise.uniform(0, 0.05) for n in range(200)], 1.0) > 0.9


@pytest.mark.parametrize("tries", [0, 1, 2, 5, 20])
def test_200_guards_started_at_once_find_no_common_phase(tries: int) -> None:
    """However often 200 guards tried in vain since one common instant, their next tries are spread."""
    draw = random.Random(tries)  # noqa: S311
    instants = [sum(backoff(attempt, draw.uniform) for attempt in range(tries + 1)) for _ in range(200)]
    width = max(instants) - min(instants)
    assert width > 0.4
    # No tenth of the span has more than 30% of them: without jitter it would be all.
    for tenth in range(10):
        low = min(instants) + width * tenth / 10
        assert sum(low <= at <= low + width / 10 for at in instants) < 60
    for period_s in (0.1, 0.25) if tries == 0 else (0.1, 0.25, 0.5):
        assert in_step(instants, period_s) < 0.35


def test_waits_stay_within_their_bounds() -> None:
    """Never hammering, never longer than 2 s: both ends of the interval, for every attempt."""
    for attempt in range(50):
        low, high = backoff(attempt, lambda low, high: low), backoff(attempt, lambda low, high: high)
        assert high <= BACKOFF_MAX_S
        assert attempt == 0 or low == BACKOFF_MIN_S


@pytest.mark.asyncio
async def test_200_guards_come_back_to_a_restarted_hub_without_phase_lock(tmp_path: Path) -> None:
    """200 real clients lose their hub at one instant; all come back, each after a wait of its own."""

    class Noting(BootClock):
        """Notes what is drawn: when a client really returns is up to the machine's load."""

        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[float] = []

        def jitter(self, low: float, high: float) -> float:
            self.drawn.append(super().jitter(low, high))
            return self.drawn[-1]

    parties = [f"fs{n}a" for n in range(200)]
    ids = Identities(*parties)
    clocks = [Noting() for _ in parties]
    path = tmp_path / "hub.sock"
    async with hub_at(path) as world:
        buses = [
            HubBus(ids.signer(party), ids.keyring, clock, address=path, kinds=KINDS)
            for party, clock in zip(parties, clocks, strict=True)
        ]
        async with running(*buses):
            before = [len(clock.drawn) for clock in clocks]
            await world.stop()
            await until(lambda: not any(bus.connected() for bus in buses), "all lost it")
            await world.start()
            await until(lambda: all(bus.connected() for bus in buses), "all are back")
    waits = [clock.drawn[known] for clock, known in zip(clocks, before, strict=True)]
    assert backoff(1, lambda low, high: low) <= min(waits) < max(waits) <= backoff(1, lambda low, high: high)
    width = max(waits) - min(waits)
    assert width > 0.4
    for tenth in range(10):
        low = min(waits) + width * tenth / 10
        assert sum(low <= wait <= low + width / 10 for wait in waits) < 60  # at random: 20
