"""Builds the bus that the settings name, with this party's keys."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol

from guard import documents, wire
from guard.adapters.hub import HubBus
from guard.adapters.inbox import Inbox, OnReject
from guard.adapters.mqtt import MqttBus, tls_context
from guard.errors import SettingsError
from guard.ports import Bus, Clock
from guard.settings import Bus as BusSettings
from guard.settings import Keys


class RunningBus(Bus, Protocol):
    """A bus that keeps itself connected while `run` runs."""

    @property
    def inbox(self) -> Inbox: ...
    async def run(self) -> None: ...


def make(
    settings: BusSettings,
    keys: Keys,
    *,
    party: str,
    site: str,
    pair: str,
    clock: Clock,
    on_reject: OnReject | None,
    owners: frozenset[int] = frozenset(),
) -> RunningBus:
    """`SettingsError` if a key is missing, is readable by others, or the broker is named by a name.

    `owners`: who may own the private key besides root and us (`wire.load_private`).
    """
    signer = wire.Signer(party, site, wire.load_private(keys.private, owners), clock, pair=pair)
    keyring = wire.load_keyring(keys.public_dir)
    if party not in keyring.parties():
        raise SettingsError(f"cannot find {party}.pub in {keys.public_dir}", "", "run: pairguard init --keys")
    if settings.kind == "hub":
        address = settings.socket if settings.socket is not None else (settings.host, settings.port)
        return HubBus(signer, keyring, clock, address=address, on_reject=on_reject)
    return MqttBus(
        signer, keyring, clock, host=settings.host, port=settings.port, tls=secured(settings), on_reject=on_reject
    )


def secured(settings: BusSettings) -> ssl.SSLContext | None:
    """TLS as the settings name it, None without. `SettingsError` for a file that is missing or does not fit."""
    tls = settings.tls
    return None if tls is None else tls_context(tls.ca, tls.certificate, tls.key, tls.server_name)


def secret_of(path: Path) -> str:
    """The one line of a secret's file. `SettingsError` if others can read it."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read the secret {path}", documents.why(error), "write it with mode 0600"
        ) from error
    if mode & 0o077:
        raise SettingsError(
            f"cannot trust the secret {path}", f"mode {mode & 0o777:04o}: others can read it", f"run: chmod 600 {path}"
        )
    if not text:
        raise SettingsError(f"cannot use the secret {path}", "it is empty", "write the secret on its first line")
    return text
