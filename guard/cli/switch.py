"""`pairguard switch`: what a switch says of itself, before it is written into the settings and whenever in doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guard.cli.options import DURATION, GO, WrongScope, answer, command
from guard.errors import SettingsError

if TYPE_CHECKING:
    from guard.settings import SwitchSettings


@click.group(name="switch")
def switch() -> None:
    """What a switch says of MLAG, LAGs, spanning tree and its ports."""


@command(switch, "probe")
@click.argument("host", metavar="HOST")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="UDP port (161).")
@click.option("--community-file", type=click.Path(dir_okay=False), metavar="FILE", help="SNMPv2c, from this file.")
@click.option("--user", metavar="NAME", help="SNMPv3 user; needs --auth-file and --priv-file.")
@click.option("--auth-file", type=click.Path(dir_okay=False), metavar="FILE", help="Its authentication pass phrase.")
@click.option("--priv-file", type=click.Path(dir_okay=False), metavar="FILE", help="Its privacy pass phrase.")
@click.option("--profile", metavar="NAME", help="Switch family, for MLAG (generic).")
@click.option("--deadline", type=DURATION, default=20.0, metavar="DURATION", help="For everything (20s).")
def probe(
    host: str,
    port: int | None,
    community_file: str | None,
    user: str | None,
    auth_file: str | None,
    priv_file: str | None,
    profile: str | None,
    deadline: float,
    as_json: bool,
    config: str | None,
) -> None:
    """Identify the switch HOST: an address, or a switch named in the settings.

    Shows description, engine id, uptime, ports, LAGs, spanning tree, and MLAG
    as the profile reads it; the ifIndex column is what [[switch.ports]] needs.
    Exit codes: 0, 84 unknown name, 85 no answer, 89 wrong credentials file.
    """
    from guard.cli import wiring

    files = {"community_file": community_file, "auth_file": auth_file, "priv_file": priv_file}
    wanted = {name: str(Path(value).absolute()) for name, value in files.items() if value is not None}
    wanted |= {"user": user} if user is not None else {}
    asked = _settings(host, config, wanted, port, profile)
    folder = None
    if not wanted:
        guard = wiring.load(config).guard
        folder = None if guard is None else guard.network.profiles
    found = wiring.do(wiring.identify(asked, folder, deadline))
    data = {
        "schema": "pairguard.switch-probe/1",
        "host": asked.host,
        "port": asked.port,
        "profile": asked.profile,
        **found,
    }
    answer(data, _text(data), GO, as_json=as_json)


def _settings(
    host: str, config: str | None, wanted: Mapping[str, str], port: int | None, profile: str | None
) -> SwitchSettings:
    """As the settings know the switch, or as the options say."""
    from pydantic import ValidationError

    from guard import documents
    from guard.cli import wiring
    from guard.settings import SwitchSettings

    more: dict[str, Any] = ({"port": port} if port else {}) | ({"profile": profile} if profile else {})
    if not wanted:
        guard = wiring.load(config).guard
        known = guard.switch if guard is not None else ()
        for each in known:
            if host in (each.name, each.host):
                return each.model_copy(update=more)
        names = ", ".join(each.name for each in known) or "none"
        raise WrongScope(
            f"cannot probe {host}", f"switches in the settings: {names}", "or give --community-file, or --user"
        )
    name = re.sub(r"[^a-z0-9._-]", "-", host.lower()).strip("-.") or "switch"
    try:
        return SwitchSettings.model_validate({"name": name, "host": host, "timeout": "0.9s", **wanted, **more})
    except ValidationError as error:
        told = [str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors(include_url=False)]
        said = "; ".join(documents.ordered(text) for text in told)
        raise SettingsError(f"cannot probe {host}", said, "see: pairguard switch probe --help") from error


def _text(data: Mapping[str, Any]) -> str:
    from guard.cli.render import facts, span, table

    shown = {
        "description": data["description"],
        "name": data["name"],
        "engine id": data["engine_id"],
        "engine boots": data["engine_boots"],
        "up for": span(data["uptime_s"]),
        "STP root": data["stp"]["root"],
        "topology changes": data["stp"]["topology_changes"],
        "MLAG": _mlag(data),
    }
    if data["error"]:
        shown["trouble"] = data["error"]
    rows = [
        (p["ifindex"], p["name"], p["oper"], "LAG" if p["lag"] else (p["member_of"] or "-"), p["stp"] or "-")
        for p in data["ports"]
    ]
    ports = table(("IFINDEX", "NAME", "OPER", "LAG", "STP"), rows) if rows else "it shows no ports"
    head = f"{data['host']} port {data['port']}, profile {data['profile']}"
    return "\n".join((head, facts(shown), "", ports))


def _mlag(data: Mapping[str, Any]) -> str:
    mlag = data["mlag"]
    if not mlag["observable"]:
        return f"the profile {data['profile']} has no objects for it: not observable, which is not the same as fine"
    return f"peer {mlag['peer'] or '?'}, peer link {mlag['peer_link'] or '?'}, role {mlag['role'] or '?'}"
