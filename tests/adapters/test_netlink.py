"""Tests of the link watcher against the real kernel, each in a network namespace that dies with its thread."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from guard.adapters.clock import BootClock
from guard.adapters.netlink import NetlinkLinks, lacp_word, parse_link, teach_bond_members
from guard.core.evidence import LinkSighting, Up
from guard.core.instant import Instant

CLONE_NEWNET = 0x40000000
PATIENCE_S = 20.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=PATIENCE_S)


def in_own_network(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the story in a thread with a network namespace of its own; the namespace ends with the thread."""
    failures: list[BaseException] = []

    def thread() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot unshare the network")
            ip("link", "add", "left", "type", "veth", "peer", "name", "right")
            ip("link", "set", "right", "up")
            ip("link", "set", "left", "up")
            asyncio.run(story())
        except BaseException as why:
            failures.append(why)

    runner = threading.Thread(target=thread)
    runner.start()
    runner.join()
    if failures:
        raise failures[0]


async def until(stream: AsyncIterator[LinkSighting], wanted: Callable[[LinkSighting], bool]) -> list[LinkSighting]:
    """Sightings up to and with the wanted one."""
    seen: list[LinkSighting] = []
    async with asyncio.timeout(PATIENCE_S):
        async for sighting in stream:
            seen.append(sighting)
            if wanted(sighting):
                return seen
    raise AssertionError("the stream ended")


def is_(name: str, carrier: Up) -> Callable[[LinkSighting], bool]:
    return lambda sighting: sighting.name == name and sighting.carrier is carrier


@pytest.mark.root
@needs_root
def test_reads_the_whole_once() -> None:
    """A read gives every interface that was named, and DOWN for one that does not exist."""

    async def story() -> None:
        links = NetlinkLinks(["left", "no-such"], BootClock())
        async with aclosing(links.changes()) as stream:
            await until(stream, is_("left", Up.UP))
        left, missing = await links.read()
        assert (left.name, left.carrier) == ("left", Up.UP)
        assert left.carrier_changes is not None
        assert (missing.name, missing.carrier, missing.carrier_changes) == ("no-such", Up.DOWN, None)
        everything = {s.name for s in await NetlinkLinks(None, BootClock()).read()}
        assert everything == {"lo", "left", "right"}

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_sees_carrier_go_and_come() -> None:
    """The peer's end going down and up again is seen, in order, by event and not by the refresh."""

    async def story() -> None:
        links = NetlinkLinks(["left", "right"], BootClock(), refresh_s=3600.0)
        async with aclosing(links.changes()) as stream:
            state: dict[str, Up] = {}

            def both_up(sighting: LinkSighting) -> bool:
                state[sighting.name] = sighting.carrier
                return set(state) == {"left", "right"} and set(state.values()) == {Up.UP}

            await until(stream, both_up)
            ip("link", "set", "right", "down")
            down = await until(stream, is_("left", Up.DOWN))
            ip("link", "set", "right", "up")
            up = await until(stream, is_("left", Up.UP))
            assert (up[-1].carrier_changes or 0) > (down[-1].carrier_changes or 0)

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_first_every_interface_then_changes() -> None:
    """The stream opens with each interface exactly once before anything else."""

    async def story() -> None:
        async with aclosing(NetlinkLinks(None, BootClock()).changes()) as stream:
            async with asyncio.timeout(PATIENCE_S):
                first = [(await anext(stream)).name for _ in range(3)]
            assert sorted(first) == ["left", "lo", "right"]

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_a_slow_consumer_gets_the_newest_state_and_the_count() -> None:
    """Flaps that nobody read are one sighting, and the kernel's counter still tells of them."""

    async def story() -> None:
        links = NetlinkLinks(["left"], BootClock(), refresh_s=3600.0)
        async with aclosing(links.changes()) as stream:
            before = (await until(stream, is_("left", Up.UP)))[-1]
            for _ in range(5):
                for state in ("down", "up"):
                    ip("link", "set", "left", state)
                    await asyncio.sleep(0.02)  # the reader works, the consumer does not
            after = await until(
                stream, lambda s: s.carrier is Up.UP and (s.carrier_changes or 0) >= (before.carrier_changes or 0) + 10
            )
            assert len(after) <= 3

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_lost_events_bring_every_interface_again() -> None:
    """When the kernel's queue overflows, the whole is told again, also what did not change."""

    async def story() -> None:
        ip("link", "add", "calm", "type", "veth", "peer", "name", "calm2")
        links = NetlinkLinks(None, BootClock(), rcvbuf_bytes=4096, refresh_s=3600.0)
        async with aclosing(links.changes()) as stream:
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(5):
                    await anext(stream)
            for _ in range(40):  # the loop stands still meanwhile: nobody reads the socket
                ip("link", "set", "left", "down")
                ip("link", "set", "left", "up")
            again = await until(stream, lambda s: s.name == "calm")
            assert again[-1].carrier is Up.DOWN
            ip("link", "set", "right", "down")  # the new socket hears
            await until(stream, is_("left", Up.DOWN))

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_an_interface_that_vanishes_is_down() -> None:
    """A deleted interface is told as DOWN."""

    async def story() -> None:
        async with aclosing(NetlinkLinks(None, BootClock(), refresh_s=3600.0).changes()) as stream:
            await until(stream, is_("left", Up.UP))
            ip("link", "del", "left")
            gone = await until(stream, lambda s: s.name == "left" and s.carrier_changes is None)
            assert gone[-1].carrier is Up.DOWN

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_bridge_port_state_and_master() -> None:
    """A port of a bridge tells its master and its STP state, first by dump and then by event."""

    async def story() -> None:
        ip("link", "add", "br0", "type", "bridge", "stp_state", "1", "forward_delay", "200")
        ip("link", "set", "br0", "up")
        ip("link", "set", "left", "master", "br0")
        async with aclosing(NetlinkLinks(["left"], BootClock()).changes()) as stream:
            seen = await until(stream, lambda s: s.stp_state == "forwarding")
            assert seen[-1].master == "br0"
            ip("link", "set", "left", "nomaster")
            seen = await until(stream, lambda s: s.master is None)
            assert seen[-1].stp_state is None

    in_own_network(story)


@pytest.mark.root
@needs_root
def test_closing_the_stream_leaves_no_task() -> None:
    """A consumer that goes away leaves neither a task nor a socket."""

    async def story() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            async with aclosing(NetlinkLinks(None, BootClock()).changes()) as stream:
                await until(stream, is_("left", Up.UP))
        await asyncio.sleep(0)
        assert [t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []
        assert len(os.listdir("/proc/self/fd")) <= before + 1

    in_own_network(story)


def bond_message(**attributes: object) -> ifinfmsg:
    """A link message as the kernel would send it, encoded and decoded again."""
    message = ifinfmsg()
    message["index"] = 7
    message["flags"] = 1
    message["attrs"] = [
        ["IFLA_IFNAME", "bond0"],
        ["IFLA_CARRIER", 1],
        ["IFLA_OPERSTATE", "UP"],
        ["IFLA_LINKINFO", {"attrs": [[k, v] for k, v in attributes.items()]}],
    ]
    message.encode()
    decoded = ifinfmsg(message.data)
    decoded.decode()
    return decoded


def test_lacp_partner_of_a_bond() -> None:
    """The partner's MAC is read from a bond; all zero is a partner that is not there, not an unknown one."""
    for mac in ("02:00:00:00:00:aa", "00:00:00:00:00:00"):
        message = bond_message(
            IFLA_INFO_KIND="bond",
            IFLA_INFO_DATA={
                "attrs": [
                    ["IFLA_BOND_MODE", 4],
                    ["IFLA_BOND_AD_INFO", {"attrs": [["IFLA_BOND_AD_INFO_PARTNER_MAC", mac]]}],
                ]
            },
        )
        sighting = parse_link(message, Instant(1))
        assert (sighting.kind, sighting.lacp_partner, sighting.carrier) == ("bond", mac, Up.UP)
    assert parse_link(bond_message(IFLA_INFO_KIND="bond"), Instant(1)).lacp_partner is None


@pytest.mark.parametrize(
    ("actor", "partner", "word"),
    [
        (0x3D, 0x3D, "in-sync"),  # healthy, slow
        (0x3F, 0x3F, "in-sync"),  # healthy, fast
        (0x3D, 0x05, "out-of-sync"),
        (0x05, 0x3D, "out-of-sync"),
        (0x45, 0x00, "defaulted"),
        (0x87, 0x3D, "expired"),
    ],
)
def test_lacp_state_of_a_member(actor: int, partner: int, word: str) -> None:
    """A bond member's two LACP octets, which pyroute2 does not know by itself, become one word."""
    message = bond_message(
        IFLA_INFO_SLAVE_KIND="bond",
        IFLA_INFO_SLAVE_DATA={
            "attrs": [
                ["IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE", actor],
                ["IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE", partner],
            ]
        },
    )
    assert lacp_word(actor, partner) == word
    assert parse_link(message, Instant(1)).lacp_state == word


def test_lacp_state_from_sysfs_where_netlink_is_silent(tmp_path: Path) -> None:
    """An old kernel's member gets its state from sysfs; without both it is unknown."""
    message = bond_message(IFLA_INFO_SLAVE_KIND="bond")
    folder = tmp_path / "bond0" / "bonding_slave"
    folder.mkdir(parents=True)
    (folder / "ad_actor_oper_port_state").write_text("61\n")
    assert parse_link(message, Instant(1), tmp_path).lacp_state is None
    (folder / "ad_partner_oper_port_state").write_text("61\n")
    assert parse_link(message, Instant(1), tmp_path).lacp_state == "in-sync"


def test_missing_attributes_are_unknown() -> None:
    """A message without carrier and operstate is UNKNOWN, never up; an interface that is set down is DOWN."""
    message = ifinfmsg()
    message["attrs"] = [["IFLA_IFNAME", "x"]]
    message["flags"] = 1
    assert parse_link(message, Instant(1)).carrier is Up.UNKNOWN
    message["flags"] = 0
    assert parse_link(message, Instant(1)).carrier is Up.DOWN


def test_teaching_twice_changes_nothing() -> None:
    """The attributes are added to pyroute2's table once, however often it is asked for."""
    before = ifinfmsg.ifinfo.bond_slave_data.nla_map
    teach_bond_members()
    assert ifinfmsg.ifinfo.bond_slave_data.nla_map == before
