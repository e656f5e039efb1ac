"""Asks one switch who it is and what its ports are, for people: `pairguard switch probe`.

It walks tables, so it never stands on the way to a decision. A table that the switch does not have is empty; a value
that it does not give, or in a type we do not know, is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from guard.adapters.snmp import (
    BASE_PORT_IF_INDEX,
    ENGINE_BOOTS,
    ENGINE_ID,
    IF_OPER_STATUS,
    STP_PORT_STATE,
    SYS_UPTIME,
    SnmpSwitch,
    _integer,
    _Silent,
)
from guard.adapters.snmp_profile import Oid, parse_oid
from guard.core.evidence import SwitchSighting
from guard.errors import Unavailable

SYS_DESCR: Final = parse_oid("1.3.6.1.2.1.1.1.0")  # SNMPv2-MIB
SYS_OBJECT_ID: Final = parse_oid("1.3.6.1.2.1.1.2.0")
SYS_NAME: Final = parse_oid("1.3.6.1.2.1.1.5.0")
IF_DESCR: Final = parse_oid("1.3.6.1.2.1.2.2.1.2")  # IF-MIB
IF_TYPE: Final = parse_oid("1.3.6.1.2.1.2.2.1.3")
IF_NAME: Final = parse_oid("1.3.6.1.2.1.31.1.1.1.1")
ATTACHED_AGG: Final = parse_oid("1.2.840.10006.300.43.1.2.1.1.13")  # IEEE8023-LAG-MIB dot3adAggPortAttachedAggID

LAG_TYPE: Final = 161  # IANAifType-MIB ieee8023adLag
OPER: Final = {
    1: "up",
    2: "down",
    3: "testing",
    4: "unknown",
    5: "dormant",
    6: "notPresent",
    7: "lowerLayerDown",
}  # IF-MIB ifOperStatus
STP: Final = {1: "disabled", 2: "blocking", 3: "listening", 4: "learning", 5: "forwarding", 6: "broken"}  # BRIDGE-MIB


@dataclass(frozen=True, slots=True)
class Port:
    """One interface of a switch. `member_of`: ifIndex of its LAG. `stp` None: no bridge port, or not told."""

    ifindex: int
    name: str | None
    oper: str | None
    lag: bool
    member_of: int | None
    stp: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a switch says of itself. `sighting` is one ordinary poll with the profile's objects."""

    description: str | None
    object_id: str | None
    name: str | None
    engine_id: str | None
    engine_boots: int | None
    uptime_s: float | None
    ports: tuple[Port, ...]
    sighting: SwitchSighting


class IdentifiedSwitch(SnmpSwitch):
    """A switch that is also walked. Bound the whole by a deadline: a large one has thousands of rows."""

    async def identify(self) -> Identity:
        """`Unavailable` if it does not answer."""
        wanted = (SYS_DESCR, SYS_OBJECT_ID, SYS_NAME, ENGINE_ID, ENGINE_BOOTS, SYS_UPTIME)
        try:
            answer = await self._get(wanted)
            descr, names = await self._walk(IF_DESCR), await self._walk(IF_NAME)
            oper, kinds = await self._walk(IF_OPER_STATUS), await self._walk(IF_TYPE)
            members, bridge = await self._walk(ATTACHED_AGG), await self._walk(BASE_PORT_IF_INDEX)
            stp = await self._walk(STP_PORT_STATE)
            await self.poll()  # the first maps the profile's columns, the second reads them
            sighting = await self.poll()
        except _Silent as why:
            raise Unavailable(
                f"cannot identify the switch {self.name}", str(why), "are address, port and credentials right?"
            ) from why
        words = {_integer(index): STP.get(_integer(stp.get(port)) or 0) for port, index in bridge.items()}
        attached = {row: index for row, value in members.items() if (index := _integer(value))}
        lags = set(attached.values())
        indexes = sorted({row[0] for row in (*oper, *descr, *names) if len(row) == 1})
        uptime = answer.ticks(SYS_UPTIME)
        return Identity(
            description=_text(answer.values.get(SYS_DESCR)),
            object_id=_dotted(answer.values.get(SYS_OBJECT_ID)),
            name=_text(answer.values.get(SYS_NAME)),
            engine_id=answer.octets(ENGINE_ID),
            engine_boots=answer.integer(ENGINE_BOOTS),
            uptime_s=None if uptime is None else uptime / 100,
            ports=tuple(
                Port(
                    ifindex=index,
                    name=_text(names.get((index,))) or _text(descr.get((index,))),
                    oper=_word(OPER, oper, index),
                    lag=index in lags or _integer(kinds.get((index,))) == LAG_TYPE,
                    member_of=None if attached.get((index,)) == index else attached.get((index,)),
                    stp=words.get(index),
                )
                for index in indexes
            ),
            sighting=sighting,
        )


def _word(words: Mapping[int, str], rows: Mapping[Oid, Any], index: int) -> str | None:
    value = _integer(rows.get((index,)))
    return None if value is None else words.get(value)


def _text(value: Any) -> str | None:
    """Octets as one printable line; None if there are none."""
    try:
        raw = bytes(value)
    except (TypeError, ValueError):
        return None
    text = " ".join(raw.decode("utf-8", "replace").split())
    return "".join(each if each.isprintable() else "?" for each in text) or None


def _dotted(value: Any) -> str | None:
    try:
        return ".".join(str(int(part)) for part in tuple(value)) or None
    except (TypeError, ValueError):
        return None
