"""Watches the network interfaces of this node through the kernel's link events (pyroute2).

1. Events have a socket of their own with a large buffer. It is bound before the dump, so nothing falls between.
2. Lost events (ENOBUFS) mean: a new socket, and every interface again.
3. At most one sighting per interface waits for the consumer; a newer one replaces it. No flap is lost by that:
   the kernel's own counter of carrier changes travels in every sighting.
4. What the kernel does not announce (a LACP partner, for one) is found by a whole dump every `refresh_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import AF_BRIDGE
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_LINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from guard.core.evidence import LinkSighting, Up
from guard.core.instant import Instant
from guard.errors import Unavailable
from guard.ports import Clock

RCVBUF_BYTES: Final = 4 << 20  # net.core.rmem_max on the machines we measured; the kernel caps it silently
DUMP_S_MAX: Final = 2.0  # a dump of 4 links took 0.9 ms, loaded machines reached 144 ms (measured)
REFRESH_S: Final = 1.0
IFF_UP: Final = 0x1  # linux/if.h

# linux/if.h IF_OPER_*; pyroute2 names them. UNKNOWN is what drivers without operstate leave: the carrier bit decides.
_OPER_DOWN: Final = frozenset({"DOWN", "NOTPRESENT", "LOWERLAYERDOWN", "TESTING", "DORMANT"})
# linux/if_bridge.h BR_STATE_*
_STP: Final = {0: "disabled", 1: "listening", 2: "learning", 3: "forwarding", 4: "blocking"}

# IEEE 802.1AX, LACP port state octet, least significant bit first; linux/include/net/bond_3ad.h
_LACP_SYNC_COLLECT_DISTRIBUTE: Final = 0x08 | 0x10 | 0x20
_LACP_SYNC: Final = 0x08
_LACP_DEFAULTED: Final = 0x40
_LACP_EXPIRED: Final = 0x80

# pyroute2 0.9.7 stops at AD_AGGREGATOR_ID; linux/if_link.h goes on with these (IFLA_BOND_SLAVE_*).
_BOND_SLAVE_MORE: Final = (
    ("IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE", "uint8"),
    ("IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE", "uint16"),
    ("IFLA_BOND_SLAVE_PRIO", "int32"),
)


def teach_bond_members(message_class: Any = ifinfmsg) -> None:
    """Let pyroute2 decode a bond member's LACP states. Done once at import; a second call changes nothing."""
    member = message_class.ifinfo.bond_slave_data
    known = {entry[0] for entry in member.nla_map}
    member.nla_map = tuple(member.nla_map) + tuple(entry for entry in _BOND_SLAVE_MORE if entry[0] not in known)


teach_bond_members()


class NetlinkLinks:
    """`guard.ports.Links` of the network namespace this process lives in.

    `names`: only these interfaces (None: all). A named interface that does not exist reads DOWN, without a
    counter: the kernel's dump is whole, so what is not in it carries nothing.
    Raises `Unavailable` when the kernel does not answer within `DUMP_S_MAX`, or refuses.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        clock: Clock,
        *,
        rcvbuf_bytes: int = RCVBUF_BYTES,
        refresh_s: float = REFRESH_S,
        sysfs: Path = Path("/sys/class/net"),
    ) -> None:
        self._names = None if names is None else tuple(dict.fromkeys(names))
        self._clock = clock
        self._rcvbuf_bytes = rcvbuf_bytes
        self._refresh_s = refresh_s
        self._sysfs = sysfs
        self._index_name: dict[int, str] = {}

    async def read(self) -> Sequence[LinkSighting]:
        """Every interface now, from one dump."""
        try:
            async with AsyncIPRoute() as netlink:
                return tuple((await self._dump(netlink)).values())
        except (OSError, NetlinkError) as why:
            raise Unavailable("cannot read the network interfaces", str(why)) from why

    async def changes(self) -> AsyncIterator[LinkSighting]:
        """First every interface, then each change; after lost events every interface again, changed or not.

        A slow consumer gets the newest state of each interface.
        """
        told: dict[str, LinkSighting] = {}
        while True:
            try:
                async with (
                    AsyncIPRoute(rcvbuf=self._rcvbuf_bytes) as events,
                    AsyncIPRoute() as dumps,
                    contextlib.aclosing(self._one_socket(events, dumps, told)) as stream,
                ):
                    async for sighting in stream:
                        yield sighting
            except (OSError, NetlinkError) as why:
                raise Unavailable("cannot follow the network interfaces", str(why)) from why

    async def _one_socket(
        self, events: Any, dumps: Any, told: dict[str, LinkSighting]
    ) -> AsyncGenerator[LinkSighting, None]:
        """Sightings until events are lost; then it ends and the caller opens the next socket."""
        inbox = _Inbox()
        await events.bind(groups=RTMGRP_LINK)
        reader = asyncio.create_task(self._fill(events, inbox), name="netlink-events")
        try:
            whole = await self._dump(dumps)
            for sighting in self._and_gone(whole, told):
                told[sighting.name] = sighting
                yield sighting
            refreshed = self._clock.now()
            while not inbox.lost:
                for sighting in inbox.take(told, self._clock.now()):
                    told[sighting.name] = sighting
                    yield sighting
                if (self._clock.now() - refreshed) / 1e9 >= self._refresh_s:
                    refreshed = self._clock.now()
                    # Events read before this dump are older than it: `take` drops them by their counters.
                    for sighting in self._and_gone(await self._dump(dumps), told):
                        if _differs(told.get(sighting.name), sighting):
                            told[sighting.name] = sighting
                            yield sighting
                await inbox.wait(self._refresh_s)
                if reader.done():
                    reader.result()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, NetlinkError):
                await reader

    async def _fill(self, events: Any, inbox: _Inbox) -> None:
        """Move messages from pyroute2's unbounded queue into the bounded inbox, as fast as they come."""
        try:
            while not inbox.lost:
                async for message in events.get():  # ends after every batch: ask again
                    self._sort(message, inbox)
        except (OSError, NetlinkError) as why:
            if getattr(why, "errno", None) != errno.ENOBUFS and getattr(why, "code", None) != errno.ENOBUFS:
                raise
            inbox.lose()
        finally:
            inbox.wake()

    def _sort(self, message: Any, inbox: _Inbox) -> None:
        name = message.get_attr("IFLA_IFNAME")
        if name is not None and message.get("family") != AF_BRIDGE:
            self._index_name[message["index"]] = str(name)
        if name is None or (self._names is not None and name not in self._names):
            return
        event = message.get("event")
        if message.get("family") == AF_BRIDGE:  # the bridge speaks of a port: only its STP state is said here
            state = None if event == "RTM_DELLINK" else _stp_of(message.get_attr("IFLA_PROTINFO"))
            inbox.put_stp(name, state)
        elif event == "RTM_DELLINK":
            inbox.put(LinkSighting(name, self._clock.now(), Up.DOWN))
        elif event == "RTM_NEWLINK":
            inbox.put(parse_link(message, self._clock.now(), self._sysfs, self._index_name))

    async def _dump(self, netlink: Any) -> dict[str, LinkSighting]:
        try:
            async with asyncio.timeout(DUMP_S_MAX):
                messages = [message async for message in await netlink.get_links()]
        except TimeoutError as why:
            raise Unavailable("cannot read the network interfaces", f"no answer within {DUMP_S_MAX} s") from why
        now = self._clock.now()
        self._index_name = {m["index"]: str(m.get_attr("IFLA_IFNAME")) for m in messages}
        seen = {s.name: s for s in (parse_link(m, now, self._sysfs, self._index_name) for m in messages)}
        if self._names is None:
            return seen
        return {name: seen.get(name, LinkSighting(name, now, Up.DOWN)) for name in self._names}

    def _and_gone(self, whole: Mapping[str, LinkSighting], told: Mapping[str, LinkSighting]) -> list[LinkSighting]:
        """The dump, and DOWN for every interface told of before that is no longer there."""
        now = self._clock.now()
        gone = [
            LinkSighting(name, now, Up.DOWN)
            for name, last in told.items()
            if name not in whole and last.carrier is not Up.DOWN
        ]
        return [*whole.values(), *gone]


@dataclass(slots=True)
class _Inbox:
    """What waits for the consumer: the newest sighting of each interface, and whether events were lost."""

    waiting: dict[str, LinkSighting] = field(default_factory=dict)
    stp: dict[str, str | None] = field(default_factory=dict)
    lost: bool = False
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, sighting: LinkSighting) -> None:
        self.waiting[sighting.name] = sighting
        self.bell.set()

    def put_stp(self, name: str, state: str | None) -> None:
        self.stp[name] = state
        self.bell.set()

    def lose(self) -> None:
        self.lost = True
        self.waiting.clear()
        self.stp.clear()

    def wake(self) -> None:
        self.bell.set()

    async def wait(self, seconds_max: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                await self.bell.wait()
        self.bell.clear()

    def take(self, told: Mapping[str, LinkSighting], now: Instant) -> list[LinkSighting]:
        """Everything that waits, emptied; without what is old or says nothing new."""
        sightings, self.waiting = self.waiting, {}
        states, self.stp = self.stp, {}
        for name, state in states.items():
            base = sightings.get(name) or told.get(name)
            if base is not None:
                sightings[name] = replace(base, at=now, stp_state=state)
        return [s for s in sightings.values() if _differs(told.get(s.name), s) and not _older(s, told.get(s.name))]


def parse_link(
    message: Any, now: Instant, sysfs: Path | None = None, index_name: Mapping[int, str] | None = None
) -> LinkSighting:
    """One RTM_NEWLINK message (not of AF_BRIDGE) as a sighting. A missing attribute is UNKNOWN or None.

    `index_name` turns the index of the master into its name; without it the master reads as `#index`.
    `sysfs`, where given, fills in LACP states that an old kernel does not put into netlink.
    """
    name = str(message.get_attr("IFLA_IFNAME"))
    info = message.get_attr("IFLA_LINKINFO")
    kind, member_kind = _attr(info, "IFLA_INFO_KIND"), _attr(info, "IFLA_INFO_SLAVE_KIND")
    data, member = _attr(info, "IFLA_INFO_DATA"), _attr(info, "IFLA_INFO_SLAVE_DATA")
    master = message.get_attr("IFLA_MASTER")
    return LinkSighting(
        name=name,
        at=now,
        carrier=_carrier(message),
        carrier_changes=message.get_attr("IFLA_CARRIER_CHANGES"),
        kind=kind if kind in ("bond", "bridge", "team") else None,
        master=None if master is None else (index_name or {}).get(master, f"#{master}"),
        lacp_partner=_partner(data) if kind == "bond" else None,
        stp_state=_stp_of(member) if member_kind == "bridge" else None,
        lacp_state=_lacp_state(name, member, sysfs) if member_kind == "bond" else None,
    )


def lacp_word(actor: int, partner: int) -> str:
    """What two LACP port state octets mean for traffic: in-sync, out-of-sync, defaulted or expired."""
    if actor & _LACP_EXPIRED:
        return "expired"
    if actor & _LACP_DEFAULTED:
        return "defaulted"
    whole = actor & _LACP_SYNC_COLLECT_DISTRIBUTE == _LACP_SYNC_COLLECT_DISTRIBUTE
    return "in-sync" if whole and partner & _LACP_SYNC else "out-of-sync"


def _attr(nest: Any, key: str) -> Any:
    """One attribute of a nest; None also where pyroute2 could not decode the nest and left its bytes."""
    return nest.get_attr(key) if hasattr(nest, "get_attr") else None


def _carrier(message: Any) -> Up:
    operstate, carrier = message.get_attr("IFLA_OPERSTATE"), message.get_attr("IFLA_CARRIER")
    flags = message.get("flags")
    if carrier == 0 or operstate in _OPER_DOWN or (flags is not None and not flags & IFF_UP):
        return Up.DOWN
    if operstate == "UP" or (operstate == "UNKNOWN" and carrier == 1):
        return Up.UP
    return Up.UNKNOWN


def _partner(data: Any) -> str | None:
    """MAC of the LACP partner system; all zero is a fact (nobody answers), not a failed look."""
    partner = _attr(_attr(data, "IFLA_BOND_AD_INFO"), "IFLA_BOND_AD_INFO_PARTNER_MAC")
    return None if partner is None else str(partner)


def _stp_of(port: Any) -> str | None:
    state = _attr(port, "IFLA_BRPORT_STATE")
    return _STP.get(state) if isinstance(state, int) else None


def _lacp_state(name: str, member: Any, sysfs: Path | None) -> str | None:
    actor = _attr(member, "IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE")
    partner = _attr(member, "IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE")
    if sysfs is not None and (actor is None or partner is None):
        folder = sysfs / name / "bonding_slave"
        actor = _number(folder / "ad_actor_oper_port_state")
        partner = _number(folder / "ad_partner_oper_port_state")
    return None if actor is None or partner is None else lacp_word(actor, partner)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _differs(before: LinkSighting | None, after: LinkSighting) -> bool:
    return before is None or replace(before, at=after.at) != after


def _older(event: LinkSighting, told: LinkSighting | None) -> bool:
    """An event from before the dump that was read after it: its counter is behind what was told already."""
    if told is None or event.carrier_changes is None or told.carrier_changes is None:
        return False
    return event.carrier_changes < told.carrier_changes and event.carrier_changes != 0
