"""The other borders: switches, the kernel's links, settings, stores, the agents' input and the control socket."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.type import univ
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pysnmp.proto import rfc1902, rfc1905

from guard.adapters.journal import MAGIC, FileJournal
from guard.adapters.netlink import parse_link
from guard.adapters.snmp import (
    ENGINE_BOOTS,
    ENGINE_ID,
    IF_OPER_STATUS,
    LAG_TABLE,
    STP_PORT_STATE,
    STP_ROOT,
    SYS_UPTIME,
    TOPOLOGY_CHANGES,
    SnmpSwitch,
    _Answer,
)
from guard.core.evidence import PortState, Up
from guard.core.instant import Instant
from guard.core.pair import Kept
from guard.errors import PairguardError, Unreadable
from guard.witness.store import Store
from tests.core.desk import A, Desk
from tests.fuzz import targets
from tests.fuzz.profile import PROFILE
from tests.fuzz.test_messages import Standing

# ---------------------------------------------------------------- SNMP

VALUES = st.one_of(
    st.builds(rfc1902.Integer32, st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 9)),
    st.builds(rfc1902.Unsigned32, st.integers(0, 2**32 - 1)),
    st.builds(rfc1902.Gauge32, st.integers(0, 9)),
    st.builds(rfc1902.Counter32, st.integers(0, 2**32 - 1)),
    st.builds(rfc1902.Counter64, st.integers(0, 2**64 - 1)),
    st.builds(rfc1902.TimeTicks, st.integers(0, 2**32 - 1)),
    st.builds(rfc1902.OctetString, st.binary(max_size=9)),
    st.builds(rfc1902.Opaque, st.binary(max_size=9)),
    st.just(rfc1902.IpAddress("127.0.0.1")),
    st.just(rfc1902.ObjectIdentifier((1, 3, 6))),
    st.builds(rfc1902.Bits, st.just(())),
    st.just(univ.Null("")),
    st.sampled_from([rfc1905.noSuchObject, rfc1905.noSuchInstance, rfc1905.endOfMibView, rfc1905.unSpecified]),
)
PORT, BRIDGE_PORT = 7, 3
ASKED = [
    SYS_UPTIME, ENGINE_ID, ENGINE_BOOTS, TOPOLOGY_CHANGES, STP_ROOT, LAG_TABLE, (*IF_OPER_STATUS, PORT),
    (*STP_PORT_STATE, BRIDGE_PORT),
]  # fmt: skip
COUNTS = (
    rfc1902.Integer32, rfc1902.Unsigned32, rfc1902.Gauge32, rfc1902.Counter32, rfc1902.Counter64,
)  # fmt: skip


@pytest.fixture(scope="module")
def switch() -> Iterator[SnmpSwitch]:
    with targets.switch(PORT, BRIDGE_PORT) as made:
        yield made


@PROFILE
@given(said=st.lists(st.tuples(st.sampled_from([*ASKED, (1, 3)]), VALUES), max_size=10), asked=st.permutations(ASKED))
def test_a_switch_is_believed_only_in_its_own_types(switch: SnmpSwitch, said: list[Any], asked: list[Any]) -> None:
    """Any value of any type, doubled, left out, in any order: each fact is the literal value, or unknown."""
    answer = _Answer()
    answer.take(asked, said)
    seen = switch._sighting(Instant(0), answer)
    told = {oid: [value for name, value in said if name == oid] for oid in ASKED}

    def ints(oid: Any, *types: Any) -> list[int]:
        return [int(value) for value in told[oid] if type(value) in types]

    up = dict(seen.ports)["port"]
    assert up is PortState.UNKNOWN or {PortState.UP: {1}, PortState.DOWN: {2, 3, 5, 6, 7}}[up] & set(
        ints((*IF_OPER_STATUS, PORT), *COUNTS)
    )
    for _, word in seen.stp_ports:
        assert word != "forwarding" or 5 in ints((*STP_PORT_STATE, BRIDGE_PORT), *COUNTS)
    assert seen.uptime_s is None or seen.uptime_s * 100 in [
        pytest.approx(n) for n in ints(SYS_UPTIME, rfc1902.TimeTicks)
    ]
    assert seen.lag_changed is None or seen.lag_changed in ints(LAG_TABLE, rfc1902.TimeTicks)
    assert seen.engine_boots is None or seen.engine_boots in ints(ENGINE_BOOTS, *COUNTS)
    assert seen.topology_changes is None or seen.topology_changes in ints(TOPOLOGY_CHANGES, *COUNTS)
    for text, oid in ((seen.engine_id, ENGINE_ID), (seen.stp_root, STP_ROOT)):
        octets = [bytes(value).hex() for value in told[oid] if type(value) is rfc1902.OctetString]
        assert text is None or text in octets
    assert seen.mlag_peer is not Up.UP


# ---------------------------------------------------------------- netlink

STATES = ["UP", "DOWN", "UNKNOWN", "DORMANT", "TESTING", "LOWERLAYERDOWN", "NOTPRESENT"]


@PROFILE
@given(
    operstate=st.sampled_from([None, *STATES]),
    carrier=st.sampled_from([None, 0, 1, 2, 255]),
    flags=st.sampled_from([0, 1, 0x1043]),
    kind=st.sampled_from([None, "bond", "bridge", "veth", ""]),
    member=st.sampled_from([None, "bond", "bridge", "zq7x"]),
    numbers=st.lists(st.integers(0, 255), min_size=2, max_size=2),
    drop=st.integers(0, 400),
)
def test_a_link_is_up_only_where_the_kernel_says_so(
    operstate: Any, carrier: Any, flags: int, kind: Any, member: Any, numbers: list[int], drop: int
) -> None:
    """Messages with attributes left out, of other kinds, and cut off, as pyroute2 decodes them."""
    attributes: list[Any] = [("IFLA_IFNAME", "eth0")]
    attributes += [] if operstate is None else [("IFLA_OPERSTATE", operstate)]
    attributes += [] if carrier is None else [("IFLA_CARRIER", carrier)]
    info: list[Any] = [] if kind is None else [("IFLA_INFO_KIND", kind)]
    if member is not None:
        info.append(("IFLA_INFO_SLAVE_KIND", member))
    if member == "bond":
        octets = ("IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE", "IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE")
        info.append(("IFLA_INFO_SLAVE_DATA", {"attrs": list(zip(octets, numbers, strict=True))}))
    if info:
        attributes.append(("IFLA_LINKINFO", {"attrs": info}))
    whole = ifinfmsg()
    whole["index"], whole["flags"], whole["attrs"] = 2, flags, attributes
    whole.encode()
    said = targets.link(bytes(whole.data))
    assert said is not None
    if said.carrier is Up.UP:
        assert operstate == "UP" or (operstate == "UNKNOWN" and carrier == 1)
        assert carrier != 0
        assert flags & 1
    if said.lacp_state == "in-sync":
        assert member == "bond"
        assert numbers[0] & 0x38 == 0x38
        assert numbers[1] & 8
    cut = targets.link(bytes(whole.data)[: min(drop, len(whole.data))])
    assert cut is None or cut.carrier is not Up.UP or operstate in ("UP", "UNKNOWN")


def test_a_link_without_attributes_is_unknown() -> None:
    """Nothing said is nothing known."""
    empty = ifinfmsg()
    empty["flags"] = 1
    seen = parse_link(empty, Instant(0))
    assert (seen.carrier, seen.lacp_state, seen.stp_state, seen.carrier_changes) == (Up.UNKNOWN, None, None, None)


# ---------------------------------------------------------------- journal


def journal_bytes(folder: Path, frames: int = 4) -> tuple[bytes, list[Any]]:
    path = folder / "whole.journal"
    path.unlink(missing_ok=True)
    said = [{"kind": "memory", "n": n, "text": "x[" * n} for n in range(frames)]

    async def write() -> None:
        with FileJournal(path, Standing()) as journal:
            for record in said:
                await journal.append([record])

    asyncio.run(write())
    return path.read_bytes().rstrip(b"\0") + bytes(64), said


def reopened(folder: Path, content: bytes) -> list[Any] | None:
    """The records, or None where the journal refuses to open."""
    path = folder / "hurt.journal"
    path.write_bytes(content)
    try:
        with FileJournal(path, Standing()) as journal:
            return list(journal.replay())
    except Unreadable:
        return None


def test_a_journal_cut_anywhere_has_a_beginning_of_the_truth(tmp_path: Path) -> None:
    """Cut at every byte: the records before the cut, or a refusal. Never another record."""
    content, said = journal_bytes(tmp_path)
    for end in range(0, len(content), 3):
        got = reopened(tmp_path, content[:end])
        assert got is None if end < len(MAGIC) else got == said[: len(got or [])]


def test_a_journal_with_a_flipped_bit_tells_no_lie(tmp_path: Path) -> None:
    """Each byte, one bit flipped: a beginning of the truth, short of the last frame at most, or a refusal."""
    content, said = journal_bytes(tmp_path)
    end = len(content.rstrip(b"\0"))
    for at in range(0, end, 2):
        hurt = bytearray(content)
        hurt[at] ^= 1 << (at % 8)
        got = reopened(tmp_path, bytes(hurt))
        assert got is None or got in (said, said[:-1]), at


def test_a_torn_journal_opens_in_bounded_time(tmp_path: Path) -> None:
    """Two megabytes that look like the beginnings of frames: looked through once, not once for each of them."""
    content, said = journal_bytes(tmp_path)
    torn = content.rstrip(b"\0") + b"\x7f" * 16 + b"[" * (2 << 20)
    assert reopened(tmp_path, torn) == said


# ---------------------------------------------------------------- the witness' store


def stored(folder: Path, change: dict[str, Any] | None = None, *, name: str = "fs1", text: str | None = None) -> Any:
    """The pairs of a store in which one row was changed behind its back; None: refused."""
    path = folder / "store.db"
    for each in folder.glob("store.db*"):
        each.unlink()
    store = Store(path, "store-1")
    asyncio.run(store.save([kept()]))
    store.close()
    with sqlite3.connect(path) as db:
        row = json.loads(db.execute("SELECT kept FROM pair").fetchone()[0])
        row.update(change or {})
        row = {key: value for key, value in row.items() if value != "gone"}
        db.execute("UPDATE pair SET name = ?, kept = ?", (name, json.dumps(row) if text is None else text))
    db.close()
    again = Store(path, "store-2")
    try:
        return again.load()
    except PairguardError:
        return None
    finally:
        again.close()


def kept() -> Kept:
    desk = Desk().whole().cut()
    desk.inhibit(A, "i-1", "person")
    found: Kept = desk.pair.kept
    return found


def test_the_store_brings_back_what_was_kept(tmp_path: Path) -> None:
    """Unchanged, it is the same."""
    assert stored(tmp_path) == {"fs1": kept()}


@pytest.mark.parametrize(
    "key", ["pair", "nodes", "cell", "register", "testimony", "session", "inhibits", "last_fence", "lifted"]
)
@pytest.mark.parametrize("value", ["gone", "zq7x", 7, [], {"zq7x": 1}, True])
def test_a_mangled_row_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    """A field that is gone or of another kind: the store is not read. An inhibit that is lost must not read as none."""
    if (key, value) == ("cell", "zq7x"):
        return  # as good a name as any other
    found = stored(tmp_path, {key: value})
    assert found is None or found == {"fs1": kept()}


def test_a_row_of_another_pair_is_refused(tmp_path: Path) -> None:
    """A register under the wrong name would let one pair's win fence another pair's node."""
    assert stored(tmp_path, name="fs2") is None
    assert stored(tmp_path, {"zq7x": 1}) is None
    assert stored(tmp_path, text="[" * 100_000) is None
    assert stored(tmp_path, text="") is None


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_the_seeds_of_each_target_pass(name: str) -> None:
    """What the long fuzzer starts from, and what it once found, is fine now."""
    target = targets.TARGETS[name]
    for seed in (*target.seeds(), *targets.found(name)):
        target.check(seed)


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
@PROFILE
@given(data=st.data())
def test_any_bytes_at_each_border(name: str, data: st.DataObject) -> None:
    """Bytes, and seeds with bytes put in, taken out and doubled."""
    target = targets.TARGETS[name]
    seed = data.draw(st.sampled_from(list(target.seeds())))
    at = data.draw(st.integers(0, len(seed)))
    length = data.draw(st.integers(0, 40))
    new = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from(targets.NASTY)))
    target.check(data.draw(st.sampled_from([new, seed[:at] + new + seed[at + length :], seed[:at] + seed[at:] * 2])))
