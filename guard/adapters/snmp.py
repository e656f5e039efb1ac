"""Asks switches how they are (pysnmp).

1. A poll is one GET. Silence, refusal and nonsense are sightings; only settings raise.
2. What the switch has no object for is None; what it says in a type or with a value we do not know is None or
   UNKNOWN too, and `error` says so. Nothing is guessed.
3. No name is resolved on the way to a decision: a switch is configured by its IP address.
4. One engine (`snmp_engine`) serves all switches.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pysnmp.error import PySnmpError
from pysnmp.hlapi.v3arch.asyncio import (
    ContextData,
    ObjectIdentity,
    ObjectType,
    SnmpEngine,
    Udp6TransportTarget,
    UdpTransportTarget,
    UsmUserData,
    bulk_cmd,
    get_cmd,
)
from pysnmp.proto import rfc1902, rfc1905
from pysnmp.proto.error import PyAsn1Error

from guard.adapters.snmp_engine import Credentials, authentication, forget_peer
from guard.adapters.snmp_profile import MlagObject, Oid, Profile, parse_oid
from guard.core.evidence import PortState, SwitchSighting, Up
from guard.core.instant import Instant, after
from guard.errors import SettingsError
from guard.ports import Clock

T = TypeVar("T")

# Each: the MIB that defines it. All were read from real agents (facts: snmp-mlag.md section 1).
SYS_UPTIME: Final = parse_oid("1.3.6.1.2.1.1.3.0")  # SNMPv2-MIB, TimeTicks
ENGINE_ID: Final = parse_oid("1.3.6.1.6.3.10.2.1.1.0")  # SNMP-FRAMEWORK-MIB, octets
ENGINE_BOOTS: Final = parse_oid("1.3.6.1.6.3.10.2.1.2.0")
ENGINE_TIME: Final = parse_oid("1.3.6.1.6.3.10.2.1.3.0")  # seconds
TOPOLOGY_CHANGES: Final = parse_oid("1.3.6.1.2.1.17.2.4.0")  # BRIDGE-MIB dot1dStpTopChanges, Counter32
STP_ROOT: Final = parse_oid("1.3.6.1.2.1.17.2.5.0")  # BRIDGE-MIB dot1dStpDesignatedRoot, 8 octets
LAG_TABLE: Final = parse_oid("1.2.840.10006.300.43.1.3.0")  # IEEE8023-LAG-MIB dot3adTablesLastChanged, TimeTicks
IF_OPER_STATUS: Final = parse_oid("1.3.6.1.2.1.2.2.1.8")  # IF-MIB, indexed by ifIndex
STP_PORT_STATE: Final = parse_oid("1.3.6.1.2.1.17.2.15.1.3")  # BRIDGE-MIB, indexed by *bridge port*
BASE_PORT_IF_INDEX: Final = parse_oid("1.3.6.1.2.1.17.1.4.1.2")  # BRIDGE-MIB, bridge port -> ifIndex

# IF-MIB ifOperStatus: only up(1) carries traffic; notPresent(6), lowerLayerDown(7) are the everyday empty port.
_OPER: Final = {
    1: PortState.UP,
    2: PortState.DOWN,
    3: PortState.DOWN,
    4: PortState.UNKNOWN,
    5: PortState.DOWN,
    6: PortState.DOWN,
    7: PortState.DOWN,
}
# BRIDGE-MIB dot1dStpPortState
_STP: Final = {1: "disabled", 2: "blocking", 3: "listening", 4: "learning", 5: "forwarding", 6: "broken"}

ROWS_MAX: Final = 4096  # bridge ports; the largest recording has 459 interfaces
REPETITIONS: Final = 25
MAP_S_MAX: Final = 3.0
MAP_RETRY_S: Final = 30.0
VARBINDS_MAX: Final = 64  # snmpsim's own limit; a reply of this size stays under 1500 octets
ENGINE_GRACE_S: Final = 0.25  # pysnmp's timer runs in steps of 0.1 s and up to 0.1 s late (measured)
ERROR_CHARS_MAX: Final = 300


class SnmpSwitch:
    """`guard.ports.Switch` of one switch.

    `ports` and `lags`: configured name -> ifIndex of each port (or LAG) that matters; both end up in
    `SwitchSighting.ports`. `peer_link` names the one among them that joins the two switches of an MLAG: its
    ifOperStatus is `mlag_peer_link` where the profile has no object for it.
    Spanning-tree states need dot1dBasePortIfIndex, which is walked after the first answer and after a restart of
    the switch: the sighting before that has none. ifIndex numbers are not checked here: a switch that numbers
    its ports anew at a reload must be told to keep them.
    Raises `SettingsError` for a host name, an empty list of ports, or two users of one name with other keys.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        credentials: Credentials,
        profile: Profile,
        ports: Mapping[str, int],
        lags: Mapping[str, int],
        engine: SnmpEngine,
        clock: Clock,
        timeout_s: float,
        *,
        peer_link: str | None = None,
        map_s_max: float = MAP_S_MAX,
    ) -> None:
        self.name = name
        self.profile = profile
        self._address = _literal(name, host)
        self._port = port
        self._engine = engine
        self._clock = clock
        self._timeout_s, self._map_s_max = timeout_s, map_s_max
        self._if_index = {**ports, **lags}
        if len(self._if_index) != len(ports) + len(lags):
            raise SettingsError(f"cannot watch switch {name}", "a port and a LAG have the same name")
        if peer_link is not None and peer_link not in self._if_index:
            raise SettingsError(f"cannot watch switch {name}", f"its peer link {peer_link!r} is none of its ports")
        self._peer_link = peer_link
        self._auth = authentication(name, credentials, engine)
        self._target: Any = None
        self._fixed = self._fixed_objects()
        self._bridge: dict[int, int] | None = None  # ifIndex -> bridge port; None = to be walked
        self._rows: dict[str, Oid] = {}  # profile oid of a column -> its first row
        self._map_after: Instant | None = None
        self._chunk = VARBINDS_MAX
        self._made: dict[Oid, ObjectType] = {}
        self._last: tuple[str | None, int | None, float | None] = (None, None, None)

    async def poll(self) -> SwitchSighting:
        """One GET, no retry. `at` is the moment of asking: what is said is not older than that, caches apart.

        Takes at most `timeout_s` + 0.25 s for each GET (one, unless the switch once said `tooBig`), and
        `map_s_max` more when ports must be mapped.
        """
        asked = self._clock.now()
        try:
            answer = await self._get(self._wanted())
        except _Silent as why:
            if self._target is not None and isinstance(self._auth, UsmUserData):
                forget_peer(self._engine, self._target)
            return SwitchSighting(self.name, asked, False, error=str(why)[:ERROR_CHARS_MAX])
        sighting = self._sighting(asked, answer)
        this = (sighting.engine_id, sighting.engine_boots, sighting.uptime_s)
        if _another_run(self._last, this):
            self._bridge, self._map_after = None, None
        self._last = this
        if self._bridge is None and (self._map_after is None or self._clock.now() >= self._map_after):
            await self._map()
        return sighting

    # ------------------------------------------------------------ what is asked

    def _fixed_objects(self) -> list[Oid]:
        standard = self.profile.standard
        fixed = [SYS_UPTIME]
        if standard.engine:
            fixed += [ENGINE_ID, ENGINE_BOOTS, ENGINE_TIME]
        if standard.topology_changes:
            fixed.append(TOPOLOGY_CHANGES)
        if standard.stp_root:
            fixed.append(STP_ROOT)
        if standard.lag_table:
            fixed.append(LAG_TABLE)
        fixed += [(*IF_OPER_STATUS, index) for index in self._if_index.values()]
        fixed += [parse_oid(entry.oid) for entry in self.profile.mlag if entry.row == "scalar"]
        return list(dict.fromkeys(fixed))

    def _wanted(self) -> list[Oid]:
        bridge = self._bridge or {}
        stp = [(*STP_PORT_STATE, bridge[i]) for i in self._if_index.values() if i in bridge]
        return list(dict.fromkeys([*self._fixed, *stp, *self._rows.values()]))

    # ------------------------------------------------------------ asking

    async def _get(self, oids: Sequence[Oid]) -> _Answer:
        """All objects; one GET unless the switch said `tooBig` once. Raises `_Silent`."""
        answer = _Answer()
        start = 0
        while start < len(oids):
            part = oids[start : start + self._chunk]
            status, at_index, varbinds = await self._exchange(get_cmd, *(self._object(oid) for oid in part))
            if status == 1 and len(part) > 1:  # tooBig (RFC 3416)
                self._chunk = max(1, len(part) // 2)
                continue
            if status:
                answer.complain(f"error status {status} at object {at_index}")
            else:
                answer.take(part, varbinds)
            start += len(part)
        return answer

    async def _exchange(self, command: Any, *arguments: Any) -> tuple[int, int, Any]:
        """One request and its answer, within the deadline. Raises `_Silent` with the reason."""
        try:
            async with asyncio.timeout(self._timeout_s + ENGINE_GRACE_S):
                if self._target is None:
                    kind = Udp6TransportTarget if self._address.version == 6 else UdpTransportTarget
                    where = (str(self._address), self._port)
                    self._target = await kind.create(where, timeout=self._timeout_s, retries=0)
                trouble, status, index, varbinds = await command(
                    self._engine, self._auth, self._target, ContextData(), *arguments, lookupMib=False
                )
        except TimeoutError as why:
            raise _Silent("no answer in time") from why
        except (PySnmpError, PyAsn1Error, OSError) as why:
            raise _Silent(f"cannot ask: {why}") from why
        if trouble:
            raise _Silent(str(trouble))
        return int(status), int(index), varbinds

    def _object(self, oid: Oid) -> ObjectType:
        made = self._made.get(oid)
        if made is None:
            made = self._made[oid] = ObjectType(ObjectIdentity(oid))
        return made

    # ------------------------------------------------------------ mapping

    async def _map(self) -> None:
        """Bridge ports of the ports that matter, and first rows of the profile's columns. Kept until a restart."""
        self._map_after = after(self._clock.now(), MAP_RETRY_S)
        try:
            async with asyncio.timeout(self._map_s_max):
                pairs = await self._walk(BASE_PORT_IF_INDEX) if self.profile.standard.stp_ports else {}
                rows = {}
                for entry in self.profile.mlag:
                    if entry.row == "first":
                        column = parse_oid(entry.oid)
                        found = await self._walk(column, rows_max=1)
                        for row in found:
                            rows[entry.oid] = (*column, *row)
        except (TimeoutError, _Silent):
            return  # the next poll after `MAP_RETRY_S` tries again; until then these objects read None
        wanted = set(self._if_index.values())
        self._bridge = {}
        for row, value in pairs.items():
            index = _integer(value)
            if len(row) == 1 and index in wanted:
                self._bridge.setdefault(index, row[0])
        self._rows = rows
        self._made.clear()

    async def _walk(self, column: Oid, rows_max: int = ROWS_MAX) -> dict[Oid, Any]:
        """Rows of one column by index. Ends at the column's end, at `rows_max`, and where an agent goes in circles."""
        rows: dict[Oid, Any] = {}
        last = column
        while len(rows) < rows_max:
            count = min(REPETITIONS, rows_max - len(rows))
            status, _, varbinds = await self._exchange(bulk_cmd, 0, count, ObjectType(ObjectIdentity(last)))
            if status or not varbinds:
                return rows
            for name, value in varbinds:
                oid = tuple(name)
                outside = oid[: len(column)] != column or isinstance(value, rfc1905.EndOfMibView)
                if outside or oid <= last:  # RFC 3416 4.2.2: must increase; some agents repeat one row for ever
                    return rows
                rows[oid[len(column) :]] = value
                last = oid
        return rows

    # ------------------------------------------------------------ what was said

    def _sighting(self, asked: Instant, answer: _Answer) -> SwitchSighting:
        ports = tuple((name, answer.port((*IF_OPER_STATUS, i))) for name, i in self._if_index.items())
        bridge = self._bridge or {}
        stp = [(name, answer.stp((*STP_PORT_STATE, bridge[i]))) for name, i in self._if_index.items() if i in bridge]
        uptime = answer.ticks(SYS_UPTIME)
        standard = self.profile.standard
        return SwitchSighting(
            switch=self.name,
            at=asked,
            answered=True,
            engine_id=answer.octets(ENGINE_ID) if standard.engine else None,
            engine_boots=answer.integer(ENGINE_BOOTS) if standard.engine else None,
            engine_time_s=answer.integer(ENGINE_TIME) if standard.engine else None,
            uptime_s=None if uptime is None else uptime / 100,
            topology_changes=answer.integer(TOPOLOGY_CHANGES) if standard.topology_changes else None,
            stp_root=answer.octets(STP_ROOT) if standard.stp_root else None,
            ports=ports,
            stp_ports=tuple((name, word) for name, word in stp if word is not None),
            lag_changed=answer.ticks(LAG_TABLE) if standard.lag_table else None,
            mlag_peer=self._folded("peer", answer),
            mlag_peer_link=self._peer_link_state(answer, dict(ports)),
            mlag_role=self._role(answer),
            error="; ".join(answer.complaints)[:ERROR_CHARS_MAX] or None,
        )

    def _of(self, shows: str) -> list[MlagObject]:
        return [entry for entry in self.profile.mlag if entry.shows == shows]

    def _value(self, entry: MlagObject, answer: _Answer) -> str | None:
        oid = parse_oid(entry.oid) if entry.row == "scalar" else self._rows.get(entry.oid)
        value = None if oid is None else answer.integer(oid)
        if value is None:
            return None
        said = (entry.words if entry.shows == "role" else entry.meaning).get(str(value))
        if said is None:
            answer.complain(f"{entry.object} has the unknown value {value}")
        return said

    def _folded(self, shows: str, answer: _Answer) -> Up | None:
        """One bad object is DOWN; all good is UP; anything unread is UNKNOWN. None: the profile has no such object."""
        entries = self._of(shows)
        if not entries:
            return None
        said = [self._value(entry, answer) for entry in entries]
        if "disturbance" in said:
            return Up.DOWN
        return Up.UP if set(said) == {"ok"} else Up.UNKNOWN

    def _peer_link_state(self, answer: _Answer, ports: Mapping[str, PortState]) -> Up | None:
        folded = self._folded("peer-link", answer)
        if folded is not None or self._peer_link is None:
            return folded
        return {PortState.UP: Up.UP, PortState.DOWN: Up.DOWN}.get(ports[self._peer_link], Up.UNKNOWN)

    def _role(self, answer: _Answer) -> str | None:
        entries = self._of("role")
        return self._value(entries[0], answer) if entries else None


class _Silent(Exception):
    """No usable answer; `str()` says why."""


@dataclass(slots=True)
class _Answer:
    """Values of one poll by object, and what was wrong with them."""

    values: dict[Oid, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def take(self, asked: Sequence[Oid], varbinds: Any) -> None:
        told = {tuple(name): value for name, value in varbinds}
        for oid in asked:
            if oid not in told:
                self.complain(f"{_dotted(oid)} was left out")
            elif not isinstance(told[oid], rfc1905.NoSuchObject | rfc1905.NoSuchInstance | rfc1905.EndOfMibView):
                self.values[oid] = told[oid]  # absent = the switch has no such object

    def integer(self, oid: Oid) -> int | None:
        return self._typed(oid, _integer(self.values.get(oid)))

    def ticks(self, oid: Oid) -> int | None:
        """Hundredths of a second; any other integer type has no unit that we know."""
        value = self.values.get(oid)
        return self._typed(oid, int(value) if isinstance(value, rfc1902.TimeTicks) else None)

    def octets(self, oid: Oid) -> str | None:
        """Hexadecimal; an empty string is no value."""
        value = self.values.get(oid)
        if not isinstance(value, rfc1902.OctetString) or isinstance(value, _OTHER_OCTETS):
            return self._typed(oid, None)
        return self._typed(oid, bytes(value).hex() or None)

    def port(self, oid: Oid) -> PortState:
        value = self.integer(oid)
        if value is None:
            if oid not in self.values:
                self.complain(f"no interface with ifIndex {oid[-1]}")
            return PortState.UNKNOWN
        if value not in _OPER:
            self.complain(f"ifOperStatus.{oid[-1]} is {value}")
        return _OPER.get(value, PortState.UNKNOWN)

    def stp(self, oid: Oid) -> str | None:
        value = self.integer(oid)
        if value is not None and value not in _STP:
            self.complain(f"dot1dStpPortState.{oid[-1]} is {value}")
        return None if value is None else _STP.get(value)

    def _typed(self, oid: Oid, value: T | None) -> T | None:
        if value is None and oid in self.values:
            self.complain(f"{_dotted(oid)} has the type {type(self.values[oid]).__name__}, or no content")
        return value


# Everything that counts without a unit; TimeTicks are hundredths of a second and are asked for by `ticks`.
_INTEGERS: Final = (
    rfc1902.Integer,
    rfc1902.Integer32,
    rfc1902.Unsigned32,
    rfc1902.Gauge32,
    rfc1902.Counter32,
    rfc1902.Counter64,
)


_OTHER_OCTETS: Final = (rfc1902.IpAddress, rfc1902.Opaque, rfc1902.Bits)  # subclasses of it in pysnmp


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, _INTEGERS) else None


def _dotted(oid: Oid) -> str:
    return ".".join(map(str, oid))


def _another_run(
    last: tuple[str | None, int | None, float | None], this: tuple[str | None, int | None, float | None]
) -> bool:
    """Good enough to map the ports anew; whether it is a restart is decided in `core.disturbance`."""
    (engine, boots, uptime), (engine2, boots2, uptime2) = last, this
    fell = uptime is not None and uptime2 is not None and uptime2 < uptime
    return fell or (engine, boots) != (engine2, boots2)


def _literal(name: str, host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError as why:
        raise SettingsError(
            f"cannot watch switch {name}", f"{host!r} is no IP address", "write the address: names are not resolved"
        ) from why
