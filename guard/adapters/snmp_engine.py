"""The one SNMP engine of a process (pysnmp), and who it says it is.

`build_engine` blocks for about 140 ms: call it before the safety loop starts.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pysnmp.hlapi.v3arch.asyncio import (
    USM_AUTH_HMAC96_SHA,
    USM_AUTH_HMAC192_SHA256,
    USM_AUTH_HMAC384_SHA512,
    USM_PRIV_CFB128_AES,
    USM_PRIV_CFB256_AES,
    CommunityData,
    SnmpEngine,
    UsmUserData,
)

from guard.errors import SettingsError, Unavailable


@dataclass(frozen=True, slots=True)
class Community:
    """SNMPv2c. Anybody on the path may read and forge it."""

    community: str = field(repr=False)


_AUTH: Final[Mapping[str, Any]] = {
    "SHA": USM_AUTH_HMAC96_SHA,
    "SHA-256": USM_AUTH_HMAC192_SHA256,
    "SHA-512": USM_AUTH_HMAC384_SHA512,
}
_PRIV: Final[Mapping[str, Any]] = {"AES": USM_PRIV_CFB128_AES, "AES-256": USM_PRIV_CFB256_AES}


@dataclass(frozen=True, slots=True)
class User:
    """SNMPv3 with authentication and privacy. Pass phrases have at least 8 characters (RFC 3414, 11.2)."""

    name: str
    auth_key: str = field(repr=False)
    priv_key: str = field(repr=False)
    auth: Literal["SHA", "SHA-256", "SHA-512"] = "SHA-256"
    priv: Literal["AES", "AES-256"] = "AES"

    def __post_init__(self) -> None:
        if min(len(self.auth_key), len(self.priv_key)) < 8:
            why = "a pass phrase is shorter than 8 characters"
            raise SettingsError(f"cannot use the SNMPv3 user {self.name}", why, "give the switch and us a longer one")


Credentials = Community | User


def build_engine() -> SnmpEngine:
    """The one SNMP engine of this process. Blocks for about 140 ms (imports, MIB tables): before the safety loop.

    Raises `Unavailable` if `cryptography` cannot be imported: pysnmp would fail only at the first v3 message.
    Close it with `close_engine` when the loop that polled ends.
    """
    try:
        importlib.import_module("cryptography.hazmat.primitives.ciphers.algorithms")
    except ImportError as why:
        raise Unavailable("cannot use SNMPv3", f"cryptography: {why}", "install python3-cryptography") from why
    engine = SnmpEngine()
    engine.get_mib_builder().load_modules("SNMPv2-MIB", "SNMP-FRAMEWORK-MIB", "SNMP-COMMUNITY-MIB", "SNMP-TARGET-MIB")
    return engine


def close_engine(engine: SnmpEngine) -> None:
    """Close the engine's sockets and timer. A second call does nothing."""
    if engine.transport_dispatcher is not None:
        engine.close_dispatcher()


def forget_peer(engine: SnmpEngine, target: Any) -> None:
    """Let the next v3 request ask again who answers there.

    pysnmp 7.1.30 keeps an address' engine id for five minutes and rejects the reports of another engine meanwhile: a
    replaced switch, or one with a new id after its reload, would be silent that long. There is no public way to it.
    """
    model = engine.message_processing_subsystems.get(3)
    known = getattr(model, "_SnmpV3MessageProcessingModel__engineIdCache", None)
    expiring = getattr(model, "_SnmpV3MessageProcessingModel__engineIdCacheExpQueue", None)
    if not isinstance(known, dict) or not isinstance(expiring, dict):
        return  # another pysnmp: the five minutes then stand
    key = target.get_transport_info()
    known.pop(key, None)
    for keys in expiring.values():
        if key in keys:
            keys.remove(key)


def authentication(name: str, credentials: Credentials, engine: SnmpEngine) -> CommunityData | UsmUserData:
    """What pysnmp is told of the asker. Raises `SettingsError` for two users of one name with other keys."""
    if isinstance(credentials, Community):
        return CommunityData(credentials.community, mpModel=1)  # noqa: S508 - many switches have nothing better
    # pysnmp keeps one key per user name in an engine: a second one would evict the first at every poll.
    users = engine.get_user_context("pairguard-users") or {}
    if users.setdefault(credentials.name, credentials) != credentials:
        raise SettingsError(
            f"cannot watch switch {name}",
            f"the SNMPv3 user {credentials.name} has other pass phrases on another switch",
            "give it another name there",
        )
    engine.set_user_context(**{"pairguard-users": users})
    return UsmUserData(
        credentials.name,
        credentials.auth_key,
        credentials.priv_key,
        authProtocol=_AUTH[credentials.auth],
        privProtocol=_PRIV[credentials.priv],
    )
