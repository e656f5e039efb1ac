"""Tests of the switch watcher: against net-snmp's agent, against recordings of real switches, and against nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import rfc1902, rfc1905
from pysnmp.proto.api import v2c

from guard.adapters.clock import BootClock
from guard.adapters.snmp import SnmpSwitch
from guard.adapters.snmp_engine import Community, Credentials, User, build_engine, close_engine
from guard.adapters.snmp_profile import MlagObject, parse_oid, parse_profile, read_profile
from guard.adapters.traps import SnmpTraps
from guard.core.disturbance import step
from guard.core.evidence import PortState, SignKind, SwitchSighting, Up
from guard.core.instant import Instant, after
from guard.core.sight import Network, OwnedPort, Owner, Sight
from guard.errors import SettingsError, Unavailable

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests" / "captures" / "snmp"
GENERIC = read_profile(ROOT / "configs" / "profiles" / "generic.toml")
PATIENCE_S = 20.0
QUICK_S = 0.3
PUBLIC = Community("public")
USER = User("pairguard", "authpass-123", "privpass-123")

N5548 = {"server": 436281344, "uplink": 369098752}


# ---------------------------------------------------------------- agents made by the tests


Reply = Callable[[bytes], list[bytes]]


class Agent(asyncio.DatagramProtocol):
    """Answers each datagram with whatever `reply` makes of it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked += 1
        for answer in self.reply(data):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def agent(reply: Reply) -> AsyncIterator[tuple[int, Agent]]:
    """The agent on a free port of loopback."""
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Agent(reply), local_addr=("127.0.0.1", 0)
    )
    try:
        yield transport.get_extra_info("sockname")[1], protocol
    finally:
        transport.close()


Values = dict[tuple[int, ...], Any]


def recording(name: str) -> Values:
    """The values of a .snmprec file, typed."""
    kinds: Mapping[str, Callable[[str], Any]] = {
        "2": lambda v: rfc1902.Integer32(int(v)),
        "4": rfc1902.OctetString,
        "4x": lambda v: rfc1902.OctetString(hexValue=v),
        "65": lambda v: rfc1902.Counter32(int(v)),
        "66": lambda v: rfc1902.Gauge32(int(v)),
        "67": lambda v: rfc1902.TimeTicks(int(v)),
    }
    values: Values = {}
    for line in (CAPTURES / f"{name}.snmprec").read_text().splitlines():
        oid, kind, value = line.split("|", 2)
        values[parse_oid(oid)] = kinds[kind](value)
    return values


def serving(values: Values, *, varbinds_max: int = 10**6, shift: int = 0) -> Reply:
    """A correct v2c agent over these values; it says tooBig over `varbinds_max`, and shifts request ids by `shift`."""

    def reply(data: bytes) -> list[bytes]:
        message, _ = decoder.decode(data, asn1Spec=v2c.Message())
        request = v2c.apiMessage.get_pdu(message)
        asked = [tuple(oid) for oid, _ in v2c.apiPDU.get_varbinds(request)]
        response = v2c.ResponsePDU()
        v2c.apiPDU.set_defaults(response)
        v2c.apiPDU.set_request_id(response, v2c.apiPDU.get_request_id(request) + shift)
        if len(asked) > varbinds_max:
            v2c.apiPDU.set_error_status(response, 1)
        elif isinstance(request, v2c.GetBulkRequestPDU):
            count = int(v2c.apiBulkPDU.get_max_repetitions(request))
            rows = sorted(oid for oid in values if oid > asked[0])[:count]
            bound = [(oid, values[oid]) for oid in rows] or [(asked[0], rfc1905.endOfMibView)]
            v2c.apiPDU.set_varbinds(response, bound)
        else:
            v2c.apiPDU.set_varbinds(response, [(oid, values.get(oid, rfc1905.noSuchObject)) for oid in asked])
        answer = v2c.Message()
        v2c.apiMessage.set_defaults(answer)
        v2c.apiMessage.set_community(answer, v2c.apiMessage.get_community(message))
        v2c.apiMessage.set_pdu(answer, response)
        return [encoder.encode(answer)]

    return reply


@contextmanager
def engine() -> Iterator[Any]:
    made = build_engine()
    try:
        yield made
    finally:
        close_engine(made)


def watch(port: int, made: Any, **more: Any) -> SnmpSwitch:
    fields: dict[str, Any] = {
        "credentials": PUBLIC,
        "profile": GENERIC,
        "ports": {"lo": 1},
        "lags": {},
        "timeout_s": 2.0,
    } | more
    return SnmpSwitch(name="sw1", host="127.0.0.1", port=port, engine=made, clock=BootClock(), **fields)


# ---------------------------------------------------------------- net-snmp's agent


needs_snmpd = pytest.mark.skipif(shutil.which("snmpd") is None, reason="needs net-snmp's snmpd")
needs_snmptrap = pytest.mark.skipif(shutil.which("snmptrap") is None, reason="needs net-snmp's snmptrap")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def snmpd(folder: Path, port: int) -> Iterator[None]:
    """net-snmp's agent with its own configuration and memory; a second run in the same folder is a restart."""
    config = folder / "snmpd.conf"
    config.write_text(
        "rocommunity public 127.0.0.1\n"
        f'createUser {USER.name} SHA-256 "{USER.auth_key}" AES "{USER.priv_key}"\n'
        f"rouser {USER.name} authPriv\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "SNMP_PERSISTENT_DIR": str(folder / "memory"),
        "SNMPCONFPATH": f"{folder}:{folder / 'memory'}",
    }
    with subprocess.Popen(
        ["snmpd", "-f", "-Lf", str(folder / "log"), "-I", "-smux", f"udp:127.0.0.1:{port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as agent_process:
        try:
            yield
        finally:
            agent_process.terminate()
            agent_process.wait(PATIENCE_S)


async def answered(switch: SnmpSwitch) -> SwitchSighting:
    """The first answer; the agent may still be starting."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            sighting = await switch.poll()
            if sighting.answered:
                return sighting


@needs_snmpd
@pytest.mark.asyncio
@pytest.mark.parametrize("credentials", [PUBLIC, USER], ids=["v2c", "v3"])
async def test_real_agent(tmp_path: Path, credentials: Credentials) -> None:
    """A real agent answers by v2c and by v3 authPriv; objects that it does not have are None."""
    port = free_port()
    with snmpd(tmp_path, port), engine() as made:
        sighting = await answered(watch(port, made, credentials=credentials, ports={"lo": 1, "no-such": 99999}))
    assert dict(sighting.ports) == {"lo": PortState.UP, "no-such": PortState.UNKNOWN}
    assert sighting.engine_id is not None
    assert sighting.engine_boots is not None
    assert sighting.uptime_s is not None
    assert (sighting.topology_changes, sighting.stp_root, sighting.lag_changed) == (None, None, None)
    assert (sighting.mlag_peer, sighting.mlag_peer_link, sighting.mlag_role) == (None, None, None)
    assert sighting.error == "no interface with ifIndex 99999"


@needs_snmpd
@pytest.mark.asyncio
async def test_restart_of_a_real_agent(tmp_path: Path) -> None:
    """After the agent's restart v3 goes on without help, and the core sees a restart and nothing else."""
    port = free_port()
    policy = Sight(ports=(OwnedPort("sw1", "lo", Owner.UPLINK),))
    with engine() as made:
        switch = watch(port, made, credentials=USER, timeout_s=1.0)
        with snmpd(tmp_path, port):
            first = await answered(switch)
        gone = await switch.poll()
        assert not gone.answered
        with snmpd(tmp_path, port):
            second = await answered(switch)
    assert (second.engine_id, second.engine_boots) == (first.engine_id, (first.engine_boots or 0) + 1)
    network, signs = Network.at_start(first.at), []
    for sighting in (first, second):
        network, new = step(network, sighting, sighting.at, policy)
        signs += [sign.kind for sign in new]
    assert signs == [SignKind.SWITCH_RESTARTED]


@needs_snmpd
@pytest.mark.asyncio
async def test_another_engine_at_the_same_address(tmp_path: Path) -> None:
    """A switch that was replaced, or lost its memory, is heard again by v3 after one missed poll."""
    port = free_port()
    engines = []
    with engine() as made:
        switch = watch(port, made, credentials=USER, timeout_s=1.0)
        for turn in ("first", "second"):
            (tmp_path / turn).mkdir()
            with snmpd(tmp_path / turn, port):
                engines.append((await answered(switch)).engine_id)
    assert len(set(engines)) == 2


@needs_snmpd
@pytest.mark.asyncio
async def test_wrong_secrets_are_silence(tmp_path: Path) -> None:
    """A wrong community or pass phrase is an unanswered poll with a reason, and no exception."""
    port = free_port()
    with snmpd(tmp_path, port), engine() as made:
        await answered(watch(port, made))
        for wrong in (Community("other"), replace(USER, auth_key="wrong-pass-phrase")):
            sighting = await watch(port, made, credentials=wrong, timeout_s=QUICK_S).poll()
            assert not sighting.answered
            assert sighting.error


# ---------------------------------------------------------------- recordings


@pytest.mark.asyncio
async def test_nexus() -> None:
    """A Nexus' recording reads whole; spanning-tree states come with the second poll, through bridge ports."""
    async with agent(serving(recording("cisco-nxos-n5548-t1"))) as (port, _):
        with engine() as made:
            switch = watch(port, made, ports=N5548, map_s_max=60.0)  # a busy machine walks longer than 3 s
            first, second = await switch.poll(), await switch.poll()
    assert first.stp_ports == ()
    assert dict(second.stp_ports) == {"server": "forwarding", "uplink": "forwarding"}
    assert dict(second.ports) == {"server": PortState.UP, "uplink": PortState.UP}
    assert (second.engine_id, second.engine_boots, second.engine_time_s) == ("80000009038c604f191620", 21, 22274789)
    assert (second.topology_changes, second.stp_root) == (2556, "60018c604f19167c")
    assert (second.uptime_s, second.lag_changed, second.error) == (22274554.43, 1746121227, None)


@pytest.mark.asyncio
async def test_nexus_five_months_later() -> None:
    """The same switch 146.8 days on: topology changes are the only sign, whatever the clocks say in between."""
    sightings = []
    for moment, name in ((0.0, "cisco-nxos-n5548-t1"), ((3496206427 - 2227455443) / 100, "cisco-nxos-n5548-t2")):
        async with agent(serving(recording(name))) as (port, _):
            with engine() as made:
                sightings.append(replace(await watch(port, made, ports=N5548).poll(), at=after(Instant(0), moment)))
    network = Network.at_start(Instant(0))
    policy = Sight(ports=tuple(OwnedPort("sw1", name, Owner.UPLINK) for name in N5548))
    for sighting in sightings:
        network, signs = step(network, sighting, sighting.at, policy)
    assert [sign.text for sign in signs] == ["switch sw1 counted 336 topology changes"]


QUIRKS = {
    "cisco-nxos-n5548-t1": "1.2.840.10006.300.43.1.1.1.1.4",  # text instead of a MAC
    "cisco-ios-big": "1.2.840.10006.300.43.1.2.1.1.21",  # empty BITS
    "hpe-procurve-6120xg": "1.2.840.10006.300.43.1.2.1.1.21",  # "117" instead of BITS
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", sorted(QUIRKS))
async def test_quirks_of_real_agents(name: str) -> None:
    """Text and empty strings where a number belongs are unknown with a reason, and the rest is still read."""
    profile = GENERIC.model_copy(update={"mlag_state": "observable", "mlag": (vlt_object(QUIRKS[name]),)})
    values = recording(name)
    indexes = {str(oid[-1]): oid[-1] for oid in values if oid[:-1] == parse_oid("1.3.6.1.2.1.2.2.1.8")}
    async with agent(serving(values)) as (port, _):
        with engine() as made:
            switch = watch(port, made, ports=indexes, profile=profile)
            await switch.poll()
            sighting = await switch.poll()
    assert sighting.answered
    assert sighting.mlag_peer is Up.UNKNOWN
    assert "OctetString" in (sighting.error or "")
    assert sighting.topology_changes is not None
    assert {state for _, state in sighting.ports} == {PortState.UP, PortState.DOWN}
    assert len(sighting.stp_ports) > 5


# ---------------------------------------------------------------- MLAG by profile


def vlt_object(oid: str = "1.3.6.1.4.1.6027.3.17.1.1.1.6", **more: Any) -> MlagObject:
    """An object of Dell OS9's VLT, changed where the test says so."""
    entry = {
        "shows": "peer",
        "object": "dellNetVLTPeerStatus",
        "oid": oid,
        "row": "first",
        "meaning": {"1": "ok", "2": "disturbance", "3": "disturbance", "9": "unknown"},
    }
    return MlagObject.model_validate(entry | more)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("value", "expected", "complaint"),
    [(1, Up.UP, None), (2, Up.DOWN, None), (9, Up.UNKNOWN, None), (7, Up.UNKNOWN, "unknown value 7")],
)
async def test_mlag_values(value: int, expected: Up, complaint: str | None) -> None:
    """A value means what the profile says; one without a meaning is unknown and complained of."""
    values = recording("cisco-nxos-n5548-t1") | {
        parse_oid("1.3.6.1.4.1.6027.3.17.1.1.1.6.1"): rfc1902.Integer32(value),
        parse_oid("1.3.6.1.4.1.6027.3.17.1.1.1.5.1"): rfc1902.Integer32(2),
    }
    profile = GENERIC.model_copy(
        update={
            "mlag_state": "observable",
            "mlag": (
                vlt_object(),
                vlt_object("1.3.6.1.4.1.6027.3.17.1.1.1.5", shows="role", meaning={}, words={"2": "secondary"}),
            ),
        }
    )
    async with agent(serving(values)) as (port, _):
        with engine() as made:
            switch = watch(port, made, ports=N5548, profile=profile, peer_link="uplink")
            await switch.poll()
            sighting = await switch.poll()
    assert (sighting.mlag_peer, sighting.mlag_role, sighting.mlag_peer_link) == (expected, "secondary", Up.UP)
    assert (complaint is None) == (sighting.error is None)
    assert complaint is None or complaint in (sighting.error or "")


# ---------------------------------------------------------------- nonsense


def garbage(data: bytes) -> list[bytes]:
    return [b"", b"\x00", b"\x30\x82\xff\xff", b"\x30\x03\x02\x01\x01", os.urandom(200), data[: len(data) // 2], data]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "reply",
    [garbage, serving(recording("cisco-nxos-n5548-t1"), shift=1), lambda _: []],
    ids=["garbage", "wrong-request-id", "nothing"],
)
async def test_nonsense_is_silence(reply: Reply) -> None:
    """Garbage, answers to other questions and nothing at all are unanswered polls, one question each."""
    async with agent(reply) as (port, protocol):
        with engine() as made:
            switch = watch(port, made, ports=N5548, timeout_s=QUICK_S)
            for polls in (1, 2):
                sighting = await switch.poll()
                assert not sighting.answered
                assert sighting.error
                assert sighting.ports == ()
                assert protocol.asked == polls


@pytest.mark.asyncio
async def test_after_nonsense_a_good_answer_counts() -> None:
    """The engine survives garbage: the next true answer is read."""
    good = serving(recording("cisco-nxos-n5548-t1"))
    replies = [garbage, good]
    async with agent(lambda data: replies[0](data)) as (port, _):
        with engine() as made:
            switch = watch(port, made, ports=N5548, timeout_s=QUICK_S)
            assert not (await switch.poll()).answered
            replies.pop(0)
            assert (await answered(switch)).topology_changes == 2556


@pytest.mark.asyncio
async def test_closed_port_is_silence() -> None:
    """Nobody there is an unanswered poll."""
    with engine() as made:
        assert not (await watch(free_port(), made, timeout_s=QUICK_S).poll()).answered


@pytest.mark.asyncio
async def test_too_big_is_asked_in_parts() -> None:
    """A switch that says tooBig is asked in smaller parts from then on, and loses nothing."""
    async with agent(serving(recording("cisco-nxos-n5548-t1"), varbinds_max=3)) as (port, _):
        with engine() as made:
            switch = watch(port, made, ports=N5548)
            sighting = await switch.poll()
    assert (sighting.topology_changes, sighting.engine_boots, sighting.error) == (2556, 21, None)
    assert dict(sighting.ports) == {"server": PortState.UP, "uplink": PortState.UP}


@pytest.mark.asyncio
async def test_values_that_cannot_be() -> None:
    """A port state out of its enumeration, a counter as text and an uptime without unit are unknown, with reasons."""
    values = recording("cisco-nxos-n5548-t1") | {
        parse_oid(f"1.3.6.1.2.1.2.2.1.8.{N5548['server']}"): rfc1902.Integer32(42),
        parse_oid("1.3.6.1.2.1.17.2.4.0"): rfc1902.OctetString("many"),
        parse_oid("1.3.6.1.2.1.1.3.0"): rfc1902.Counter32(5),
        parse_oid("1.3.6.1.2.1.17.2.5.0"): rfc1902.OctetString(""),
    }
    async with agent(serving(values)) as (port, _):
        with engine() as made:
            sighting = await watch(port, made, ports=N5548).poll()
    assert dict(sighting.ports) == {"server": PortState.UNKNOWN, "uplink": PortState.UP}
    assert (sighting.topology_changes, sighting.uptime_s, sighting.stp_root) == (None, None, None)
    assert "42" in (sighting.error or "")


@pytest.mark.asyncio
async def test_an_agent_that_goes_in_circles() -> None:
    """An agent that repeats one row for ever ends the walk of bridge ports after one more request."""
    good = serving(recording("cisco-nxos-n5548-t1"))
    row = parse_oid("1.3.6.1.2.1.17.1.4.1.2.147")
    only_one = serving({row: rfc1902.Integer32(N5548["server"])})

    def reply(data: bytes) -> list[bytes]:
        message, _ = decoder.decode(data, asn1Spec=v2c.Message())
        if not isinstance(v2c.apiMessage.get_pdu(message), v2c.GetBulkRequestPDU):
            return good(data)
        request = v2c.apiMessage.get_pdu(message)
        v2c.apiPDU.set_varbinds(request, [(row[:-1], rfc1905.unSpecified)])  # whatever is asked, the same row
        v2c.apiMessage.set_pdu(message, request)
        return only_one(encoder.encode(message))

    async with agent(reply) as (port, protocol):
        with engine() as made:
            switch = watch(port, made, ports=N5548)
            await switch.poll()
            assert protocol.asked == 3
            assert dict((await switch.poll()).stp_ports) == {"server": "forwarding"}


# ---------------------------------------------------------------- settings


def test_settings_that_stop_the_start() -> None:
    """A host name, one name for two ports, an unknown peer link, a short pass phrase and two keys of one user."""
    made = build_engine()
    base: dict[str, Any] = {
        "name": "sw1", "host": "127.0.0.1", "port": 161, "credentials": PUBLIC, "profile": GENERIC,
        "ports": {"a": 1}, "lags": {}, "engine": made, "clock": BootClock(), "timeout_s": 1.0,
    }  # fmt: skip
    for wrong in ({"host": "localhost"}, {"host": ""}, {"lags": {"a": 2}}, {"peer_link": "b"}):
        with pytest.raises(SettingsError):
            SnmpSwitch(**(base | wrong))
    with pytest.raises(SettingsError):
        User("pairguard", "short", "privpass-123")
    SnmpSwitch(**(base | {"credentials": USER}))
    with pytest.raises(SettingsError):
        SnmpSwitch(**(base | {"credentials": replace(USER, priv_key="another-one")}))


def test_secrets_are_not_shown() -> None:
    """No secret is in a repr."""
    assert "public" not in repr(PUBLIC)
    assert "pass-123" not in repr(USER)


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ("schema = 1", "schema = 2"),
        ("stp_root = true", "stp_rooot = true"),
        ("stp_root = true", 'stp_root = "yes"'),
        ("stp_root = true", ""),
        ('mlag_state = "not-observable"', 'mlag_state = "observable"'),
        ("verified = true", "verified = perhaps"),
        ("verified = true", "verified = true\ncolour = 1"),
    ],
)
def test_profile_rejects(before: str, behind: str) -> None:
    """A profile with a misspelt, missing or contradicting word stops the start."""
    text = (ROOT / "configs" / "profiles" / "generic.toml").read_text()
    assert parse_profile(text, "generic").name == "generic"
    assert before in text
    with pytest.raises(SettingsError):
        parse_profile(text.replace(before, behind, 1), "changed")


@pytest.mark.parametrize(
    "wrong",
    [
        {"oid": "dellNetVLTPeerStatus"},
        {"oid": ".1.3.6"},
        {"oid": "1.3.6.4294967296"},
        {"meaning": {}},
        {"meaning": {"up": "ok"}},
        {"meaning": {"1": "fine"}},
        {"words": {"1": "primary"}},
        {"shows": "role"},
        {"row": "last"},
    ],
)
def test_mlag_object_rejects(wrong: dict[str, Any]) -> None:
    """An MLAG object with a symbolic OID, an unknown meaning or the wrong table is rejected."""
    assert vlt_object().oid
    with pytest.raises(ValueError, match="validation error"):
        vlt_object(**wrong)


def test_missing_profile() -> None:
    """A profile file that is not there is a settings error."""
    with pytest.raises(SettingsError):
        read_profile(ROOT / "configs" / "profiles" / "no-such.toml")


def test_every_shipped_profile_reads() -> None:
    """Each profile that we ship is valid and is named as its file."""
    files = sorted((ROOT / "configs" / "profiles").glob("*.toml"))
    assert [read_profile(file).name for file in files] == [file.stem for file in files]


# ---------------------------------------------------------------- traps


def send_trap(port: int, *version: str) -> None:
    subprocess.run(
        ["snmptrap", *version, f"127.0.0.1:{port}", "", "1.3.6.1.6.3.1.1.5.3"],
        check=True,
        timeout=PATIENCE_S,
        env={"PATH": os.environ["PATH"], "SNMPCONFPATH": os.devnull, "SNMP_PERSISTENT_DIR": os.devnull},
        capture_output=True,
    )


V2C = ("-v", "2c", "-c", "public")
V3 = ("-v", "3", "-e", "0x8000000001020304", "-u", "u", "-l", "noAuthNoPriv")


@needs_snmptrap
@pytest.mark.asyncio
@pytest.mark.parametrize("version", [V2C, V3], ids=["v2c", "v3"])
async def test_trap_wakes(version: tuple[str, ...]) -> None:
    """A real trap tells its sender's address, also one sent before anybody listened."""
    traps = SnmpTraps("127.0.0.1", 0, BootClock())
    send_trap(traps.address[1], *version)
    async with aclosing(traps.heard()) as heard, asyncio.timeout(PATIENCE_S):
        assert await anext(heard) == "127.0.0.1"
        await asyncio.to_thread(send_trap, traps.address[1], *version)
        assert await anext(heard) == "127.0.0.1"


TRAP = bytes.fromhex("302602010104067075626c6963a7190201010201000201003000")


@pytest.mark.asyncio
async def test_trap_storm_is_a_trickle() -> None:
    """A burst of two thousand traps wakes at once and once more, not two thousand times; others are still heard."""
    clock = BootClock()
    traps = SnmpTraps("127.0.0.1", 0, clock)
    woken: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        begin = clock.now()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noisy,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as calm,
        ):
            noisy.bind(("127.0.0.2", 0))
            calm.bind(("127.0.0.3", 0))
            for _ in range(2000):
                noisy.sendto(TRAP, traps.address)
            calm.sendto(TRAP, traps.address)
            async with aclosing(traps.heard()) as heard:
                async for sender in heard:
                    woken.append(sender)
                    if sender == "127.0.0.3":
                        break
        spent_s = (clock.now() - begin) / 1e9
    assert 1 <= woken.count("127.0.0.2") <= 2 + spent_s / 0.2


@pytest.mark.asyncio
async def test_what_is_no_trap_is_not_heard() -> None:
    """Bytes that are no SNMP, and senders that are not configured, wake nobody."""
    traps = SnmpTraps("127.0.0.1", 0, BootClock(), senders=frozenset({"127.0.0.2", "127.0.0.4"}))
    with contextlib.ExitStack() as stack:
        senders = []
        for last in (2, 3, 4):
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.bind((f"127.0.0.{last}", 0))
            senders.append(sender)
        for junk in (b"", b"hello", b"\x30\x80", b"\x30\x03\x02\x01\x07"):
            senders[0].sendto(junk, traps.address)
        senders[1].sendto(TRAP, traps.address)
        senders[2].sendto(TRAP, traps.address)
        async with aclosing(traps.heard()) as heard, asyncio.timeout(PATIENCE_S):
            assert await anext(heard) == "127.0.0.4"


def test_trap_socket_that_cannot_be() -> None:
    """A port that is taken is unavailable, a host name is a settings error."""
    traps = SnmpTraps("127.0.0.1", 0, BootClock())
    with pytest.raises(Unavailable):
        SnmpTraps("127.0.0.1", traps.address[1], BootClock())
    traps.close()
    with pytest.raises(SettingsError):
        SnmpTraps("localhost", 0, BootClock())
