"""The memory as a journal record: nothing is lost without a word, and what earlier builds wrote is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from guard.core import machine
from guard.core.evidence import Disk, Link, Replica, Role, Volumes
from guard.core.evidence import Suspended as Suspension
from guard.core.instant import Instant, after
from guard.core.messages import NonceIs
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.step import Heard, Memory, Promise, ResumeWrites, SawVolumes, Tick
from guard.daemon.memory import SCHEMA, record, remembered
from guard.errors import Unreadable

OLD = sorted((Path(__file__).parents[1] / "captures" / "journal").glob("memory-*.json"))
SHAPE = {
    "Intent": "boot_id drained era horizon_s id spawned start_by target version",
    "Promise": "boot_id era nonce primary session",
    "ColdWin": "boot_id era generations",
    "SessionKept": "era generations name primary",
    "Ledger": "after count resource role sampling_s seen until",
    "InhibitView": "ended id kind lease_s owner reason since_wall",
    "Memory": "boot_id cold_win confirmed_off consented continuous era generations holding inhibits intents "
    "ledger_boot ledgers owes_on promise session since_era store_id suspended used version won",
}


def captured(name: str) -> dict[str, Any]:
    [path] = [each for each in OLD if name in each.name]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rich() -> dict[str, Any]:
    """A record of this version with every field set."""
    memory = remembered([captured("fae6d86")])
    assert memory is not None
    return json.loads(json.dumps(record(memory)))  # type: ignore[no-any-return]


def held(kind: object) -> Iterator[type]:
    """Every dataclass that a value of this type may hold."""
    if isinstance(kind, type) and is_dataclass(kind):
        yield kind
        for inner in get_type_hints(kind).values():
            yield from held(inner)
    for inner in get_args(kind):
        yield from held(inner)


def test_a_change_of_what_is_remembered_is_a_new_schema() -> None:
    """Whoever changes a field here raises `SCHEMA`, adds a step that brings older records up, and a capture of them."""
    assert {kind.__name__: " ".join(sorted(f.name for f in fields(kind))) for kind in held(Memory)} == SHAPE
    assert SCHEMA == 3


def paths(value: object) -> Iterator[tuple[Any, str]]:
    """Every field of a record, as its owner and its name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield value, name
            yield from paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner)


def test_a_field_that_is_missing_or_unknown_stops_the_start() -> None:
    """S6: else a lost inhibit, promise, intent or use would read as none. Every field, and one more beside each."""
    good = rich()
    assert remembered([good]) is not None
    optional = ("continuous", "generations", "ledgers", "inhibits")  # their keys are names of resources and inhibits
    count = len(list(paths(good["memory"])))
    for number in range(count):
        for spoil in ("missing", "unknown"):
            bad = rich()
            owner, name = list(paths(bad["memory"]))[number]
            if spoil == "missing":
                del owner[name]
            else:
                owner["barred_for_ever"] = True
            if any(owner is holder for holder in named(bad["memory"], optional)):
                continue
            with pytest.raises(Unreadable, match="cannot read the guard's memory") as caught:
                remembered([bad])
            assert "Field required" not in str(caught.value)
            assert "nput" not in str(caught.value)
    assert count > 50


def named(value: object, names: tuple[str, ...]) -> list[object]:
    """The values of these fields, wherever they are."""
    found: list[object] = []
    if isinstance(value, dict):
        for name, inner in value.items():
            found += [inner] if name in names else []
            found += named(inner, names)
    elif isinstance(value, list):
        found = [each for inner in value for each in named(inner, names)]
    return found


def test_a_record_of_a_later_schema_is_refused_with_its_version() -> None:
    """A downgrade: what this version does not know may be what bars this node."""
    with pytest.raises(Unreadable, match=r"schema 4, by pairguard 9\.9\.9; .* install that version again") as caught:
        remembered([{**rich(), "schema": 4, "by": "9.9.9"}])
    assert "while the pair is whole" in str(caught.value)


@pytest.mark.parametrize("path", OLD, ids=[each.stem for each in OLD])
def test_what_earlier_builds_wrote_is_brought_up(path: Path) -> None:
    """Nothing that holds back is lost; what they did not know proves nothing; a promise means stopped writes."""
    old = json.loads(path.read_text())
    memory = remembered([old])
    assert memory is not None
    plain = record(memory)["memory"]
    kept = {**old["memory"], "suspended": True}
    kept["promise"] = {"boot_id": "boot-7", **kept["promise"]}
    assert {name: plain[name] for name in kept} == kept
    fresh: Mapping[str, Any] = record(Memory("boot-7"))["memory"]
    assert {n: plain[n] for n in plain.keys() - kept.keys()} == {n: fresh[n] for n in plain.keys() - kept.keys()}
    for name in old["memory"]:
        less = {key: value for key, value in old["memory"].items() if key != name}
        if name in ("won",):
            continue  # that is what the build before it wrote
        with pytest.raises(Unreadable):
            remembered([{"kind": "memory", "memory": less}])


def test_a_promise_of_an_early_build_is_resumed_once_it_is_void() -> None:
    """That build did not note that writes are suspended; without a word they would stay so for ever."""
    old = captured("7309f51")
    old["memory"] |= {"inhibits": {}, "holding": False, "intents": [], "used": [], "promise": plain_promise()}
    now = Instant(10**12)
    guard, _ = machine.start(
        *("fs1a", "fs1b"),
        policy=Policy(),
        sight=Sight(),
        horizon_s=75.0,
        memory=remembered([old]),
        boot_id="boot-7",
        seed="x" * 32,
        now=now,
    )
    replica = Replica("r0", Role.SECONDARY, Role.UNKNOWN, Disk.UP_TO_DATE, Disk.UP_TO_DATE, Link.CONNECTED)
    volumes = Volumes(now, (replace(replica, suspended=frozenset({Suspension.USER})),))
    done: list[object] = []
    for event in (SawVolumes(volumes), Heard("arbiter", NonceIs("q", "n1", "era-closed")), Tick(), Tick()):
        now = after(now, 1.5)
        guard, step = machine.step(guard, event, now)
        done += step.effects
    assert guard.memory.promise is None
    assert any(isinstance(each, ResumeWrites) for each in done)


def plain_promise() -> dict[str, Any]:
    made = Promise("n1", 3, "s1", False)
    return {"nonce": made.nonce, "era": made.era, "session": made.session, "primary": made.primary}
