"""Names the concrete adapters of the command line, and nothing else here does: settings, sockets, clock, programs."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from guard.adapters import control, process
from guard.adapters.clock import BootClock
from guard.adapters.drbd import Drbd
from guard.adapters.process import Runner
from guard.errors import PairguardError, SettingsError, Unavailable
from guard.events import plain
from guard.ports import Clock, Replication
from guard.settings import GuardSettings, Origin, SwitchSettings, WitnessSettings, fragments, load_guard, load_witness

T = TypeVar("T")
READ_S_MAX = 3.0  # a status socket answers in milliseconds
ORDER_S_MAX = 15.0  # the daemon gives a person at most 8 s, or three tries of a release


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings of this machine: of a node, of a witness, or of both. `files` in the order they were read."""

    guard: GuardSettings | None
    guard_origin: Origin | None
    witness: WitnessSettings | None
    witness_origin: Origin | None

    @property
    def site(self) -> str:
        either = self.guard or self.witness
        return either.site if either is not None else "?"


def load(config: str | None) -> Loaded:
    """The settings named by `--config`, or this machine's own. `SettingsError` names every fault."""
    if config is not None:
        files: Sequence[Path] = [Path(config)]
        if _of_witness(Path(config)):
            return Loaded(None, None, *load_witness(files))
        return Loaded(*load_guard(files), None, None)
    own, theirs = fragments("pairguard"), fragments("witness")
    has_guard = any(file.name == "pairguard.toml" for file in own)
    has_witness = any(file.name == "witness.toml" for file in theirs)
    guard = load_guard(own) if has_guard or not has_witness else (None, None)
    witness = load_witness(theirs) if has_witness else (None, None)
    return Loaded(*guard, *witness)


def _of_witness(path: Path) -> bool:
    """A witness has no pair. What cannot be read here is read, and refused in full words, by `load_guard`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(content) and not {"pair", "fence", "replication"} & content.keys()


def clock() -> Clock:
    return BootClock()


def runner() -> Runner:
    return process.run


def replication(names: Sequence[str]) -> Replication:
    return Drbd(names, BootClock())


def do(work: Coroutine[Any, Any, T]) -> T:
    """Run one command's asynchronous part."""
    return asyncio.run(work)


async def show(run_dir: Path, verb: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Ask a daemon's read-only socket. `Unavailable`: nobody answers there."""
    return await control.ask(run_dir / "status.sock", verb, args or {}, READ_S_MAX)


async def order(
    run_dir: Path,
    verb: str,
    args: Mapping[str, Any],
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Ask the socket that changes things. `Refused`: it will not; `Unavailable`: nobody answers, or not in time."""
    return await control.ask(run_dir / "control.sock", verb, args, ORDER_S_MAX, on_progress)


async def bounded(work: Coroutine[Any, Any, T], deadline_s: float, what: str) -> T | PairguardError:
    """The result, or why there is none, within `deadline_s` seconds."""
    try:
        async with asyncio.timeout(deadline_s):
            return await work
    except TimeoutError:
        return Unavailable(f"cannot look at {what}", f"no answer in {deadline_s:g} s")
    except PairguardError as error:
        return error


async def identify(switch: SwitchSettings, profiles: Path | None, deadline_s: float) -> dict[str, Any]:
    """What the switch says, JSON-ready. `Unavailable`: no answer, or not all of it in `deadline_s` seconds."""
    from guard.adapters import snmp_engine
    from guard.adapters.bus import secret_of
    from guard.adapters.snmp_identity import IdentifiedSwitch
    from guard.adapters.snmp_profile import bundled_profile, read_profile

    own = None if profiles is None else profiles / f"{switch.profile}.toml"
    profile = read_profile(own) if own is not None and own.is_file() else bundled_profile(switch.profile)
    credentials: snmp_engine.Credentials
    if switch.community_file is not None:
        credentials = snmp_engine.Community(secret_of(switch.community_file))
    elif switch.user is not None and switch.auth_file is not None and switch.priv_file is not None:
        auth, priv = secret_of(switch.auth_file), secret_of(switch.priv_file)
        credentials = snmp_engine.User(switch.user, auth, priv, switch.auth, switch.priv)
    else:
        raise SettingsError(f"cannot probe {switch.name}", "its credentials are incomplete", "see [[switch]]")
    ports = {each.name: each.ifindex for each in switch.ports if not each.lag}
    lags = {each.name: each.ifindex for each in switch.ports if each.lag}
    engine = snmp_engine.build_engine()
    try:
        asked = IdentifiedSwitch(
            switch.name,
            switch.host,
            switch.port,
            credentials,
            profile,
            ports,
            lags,
            engine,
            BootClock(),
            switch.timeout,
            peer_link=switch.peer_link,
        )
        async with asyncio.timeout(deadline_s):
            found = await asked.identify()
    except TimeoutError as error:
        why = f"it did not say everything within {deadline_s:g} s"
        raise Unavailable(f"cannot identify the switch {switch.name}", why, "give a longer --deadline") from error
    finally:
        snmp_engine.close_engine(engine)
    seen = found.sighting
    return {
        "description": found.description,
        "object_id": found.object_id,
        "name": found.name,
        "engine_id": found.engine_id,
        "engine_boots": found.engine_boots,
        "uptime_s": found.uptime_s,
        "stp": {"root": seen.stp_root, "topology_changes": seen.topology_changes},
        "mlag": {
            "observable": profile.mlag_observable,
            "peer": None if seen.mlag_peer is None else seen.mlag_peer.value,
            "peer_link": None if seen.mlag_peer_link is None else seen.mlag_peer_link.value,
            "role": seen.mlag_role,
        },
        "lags": [plain(port) for port in found.ports if port.lag],
        "ports": [plain(port) for port in found.ports],
        "error": seen.error,
    }
