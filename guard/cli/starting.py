"""Would the program start with these settings? Loads what it would load, with the same code, and starts nothing."""

from __future__ import annotations

from collections.abc import Sequence

from guard.cli import identity, named, wiring
from guard.cli.named import Fault
from guard.core.messages import ARBITER
from guard.errors import PairguardError
from guard.settings import GuardSettings, Origin, WitnessSettings


async def of_guard(settings: GuardSettings, origin: Origin) -> tuple[Fault, ...]:
    """Every fault of what a guard's settings name, and what else would stop it."""
    from guard.daemon.wiring import trial

    pair, tls = settings.pair, settings.bus.tls
    found = [*identity.keys(settings.keys, pair.node, (ARBITER, pair.peer)), *named.of_guard(settings)]
    if tls is not None:
        found += identity.certificate(tls, pair.node, wiring.clock().wall())
    found += [*named.clear_passwords(settings, origin), *named.examples(settings)]
    return (*found, *_stopped(await trial(settings, wiring.clock()), found))


async def of_witness(settings: WitnessSettings) -> tuple[Fault, ...]:
    """As `of_guard`. The witness's own key may belong to the user that it runs as."""
    from guard.witness.wiring import trial

    tls = settings.bus.tls
    found = [*identity.keys(settings.keys, ARBITER, (), named.witness_user()), *named.of_witness(settings)]
    found += named.closed_to_witness(settings)
    if tls is not None:
        found += identity.certificate(tls, ARBITER, wiring.clock().wall())
    found += named.examples(settings)
    return (*found, *_stopped(await trial(settings, wiring.clock(), named.witness_user()), found))


def _stopped(trial: Sequence[tuple[str, PairguardError]], known: Sequence[Fault]) -> list[Fault]:
    """The refusals that no fault has told in better words already; the bus needs its keys and its TLS files."""
    stops = [each.key for each in known if not each.starts]
    keys = any(each.code == "keys" and not each.starts for each in known)
    found: list[Fault] = []
    for key, error in trial:
        if any(each.startswith(key) for each in stops) or (key == "bus" and keys):
            continue
        stops.append(key)
        text = str(type(error)(error.what, error.why))
        mend = error.next_step.removeprefix("run: ") or f"correct {key} in the settings"
        fault = Fault("does-not-start", key, text, "pairguard check --settings", mend, starts=False)
        found.append(named.unless_closed(fault, error))
    return found
