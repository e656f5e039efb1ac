"""DRBD as it really spoke: every captured state is read right, and nothing broken ever reads as something good."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import replication_contract as contract
from drbd_replay import CAPTURES, STATES, STATUS, CaptureNode, answers, proc_drbd
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.adapters import process
from guard.adapters.drbd import UNVERIFIED_9, Drbd
from guard.adapters.drbd_config import configured, gate_facts, parse_config, running
from guard.adapters.drbd_meta import fold_generations, parse_get_gi
from guard.adapters.drbd_text import (
    parse_event,
    parse_proc_drbd,
    parse_proc_version,
    parse_status,
    parse_status_json,
    parse_tool_version,
)
from guard.core.evidence import Disk, Generations, Link, Replica, Role, Suspended, Volumes
from guard.errors import Unreadable

DOWN = [state for state in STATES if answers(f"{state}.status.txt")[STATUS].code == 10]
UP = [state for state in STATES if state not in DOWN]

U, C, O, I, D, Q = (  # noqa: E741
    Disk.UP_TO_DATE,
    Disk.CONSISTENT,
    Disk.OUTDATED,
    Disk.INCONSISTENT,
    Disk.DISKLESS,
    Disk.UNKNOWN,
)
P, S, N = Role.PRIMARY, Role.SECONDARY, Role.UNKNOWN

# state: role, peer role, disk, peer disk, link; written by hand from INDEX.md of the recording
EXPECTED = {
    "01-b-connected-both-inconsistent.nodeA": (S, S, I, I, Link.CONNECTED),
    "01-c-initial-resync-running.nodeA": (P, S, U, I, Link.RESYNC),
    "01-c-initial-resync-running.nodeB": (S, P, I, U, Link.RESYNC),
    "01-e-healthy-A-primary-mounted.nodeA": (P, S, U, U, Link.CONNECTED),
    "01-e-healthy-A-primary-mounted.nodeB": (S, P, U, U, Link.CONNECTED),
    "01-i-B-peer-disconnected.nodeB": (S, N, U, Q, Link.CONNECTING),
    "02-a-healthy-A-primary.nodeA": (P, S, U, U, Link.CONNECTED),
    "02-a-healthy-A-primary.nodeB": (S, P, U, U, Link.CONNECTED),
    "02-b-cut-A-primary-no-write-since-cut.nodeA": (P, N, U, Q, Link.CONNECTING),
    "02-b-cut-A-primary-no-write-since-cut.nodeB": (S, N, U, Q, Link.CONNECTING),
    "02-c-cut-A-primary-wrote.nodeA": (P, N, U, Q, Link.CONNECTING),
    "02-c-cut-A-primary-wrote.nodeB": (S, N, U, Q, Link.CONNECTING),
    "02-d-resync-running.nodeA": (P, S, U, I, Link.RESYNC),
    "02-d-resync-running.nodeB": (S, P, I, U, Link.RESYNC),
    "02-e-healthy-again.nodeA": (P, S, U, U, Link.CONNECTED),
    "02-e-healthy-again.nodeB": (S, P, U, U, Link.CONNECTED),
    "03-b-reconnected-split-brain.nodeA": (P, N, U, Q, Link.STANDALONE),
    "03-b-reconnected-split-brain.nodeB": (P, N, U, Q, Link.STANDALONE),
    "06-e-A-back-handshake.nodeA": (S, P, I, U, Link.RESYNC),
    "06-e-A-back-handshake.nodeB": (P, S, U, I, Link.RESYNC),
    "07-b-up-not-connected.nodeA": (S, N, U, Q, Link.CONNECTING),
    "10-b-cut-in-resync-B-inconsistent.nodeA": (P, N, U, I, Link.CONNECTING),
    "10-b-cut-in-resync-B-inconsistent.nodeB": (S, N, I, Q, Link.CONNECTING),
    "f1-b-suspended-handler-running.nodeA": (P, N, U, Q, Link.CONNECTING),
    "f1-c-after-rc4.nodeA": (P, N, U, O, Link.CONNECTING),
    "f5-a-B-promote-handler-6.nodeB": (S, N, O, Q, Link.CONNECTING),
    "f3-b-suspended-by-user.nodeA": (P, S, U, U, Link.CONNECTED),
    "f6-d-user-and-fencing.nodeA": (P, N, U, Q, Link.CONNECTING),
    "f7-c-suspended-as-SyncTarget.nodeA": (S, P, I, U, Link.RESYNC),
    "f7-c-suspended-as-SyncTarget.nodeB": (P, S, U, I, Link.RESYNC),
    "f7-e-promoted-still-suspended.nodeA": (P, S, U, U, Link.CONNECTED),
}


def drbd(node: CaptureNode, tmp: Path, proc: str | None = "", names: Sequence[str] = ("r0",)) -> Drbd:
    """The adapter on a captured node; `proc` is /proc/drbd ("": that of 8.4.11 without devices, None: no file)."""
    (tmp / "module").mkdir(exist_ok=True)
    if proc is not None:
        (tmp / "proc_drbd").write_text(proc or "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: F73C\n")
    clock = contract.SteppedClock()
    return Drbd(names, clock, node.run, node.lines, tmp / "proc_drbd", tmp / "module" / "drbd")


async def look(state: str, tmp: Path) -> Replica:
    (one,) = (await drbd(CaptureNode.of(state), tmp).read()).replicas
    return one


# ---------------------------------------------------------------- captures


def test_captured_states_are_all_expected() -> None:
    """No captured state is left without an expectation, and at least three of them are of a node that is down."""
    assert set(UP) == set(EXPECTED)
    assert len(DOWN) >= 3


@pytest.mark.asyncio
@pytest.mark.parametrize("state", UP)
async def test_captured_state(state: str, tmp_path: Path) -> None:
    """Role, disks and link of every captured state are those that the recording's index names."""
    one = await look(state, tmp_path)
    assert (one.role, one.peer_role, one.disk, one.peer_disk, one.link) == EXPECTED[state]
    assert one.generations is not None
    assert one.unverified is None
    assert one.open_count is None
    if state.startswith("f"):
        assert bool(one.suspended) == (("suspended" in state or "user" in state) and state.endswith("nodeA"))


@pytest.mark.parametrize("state", UP)
def test_two_vocabularies_agree(state: str) -> None:
    """/proc/drbd and `drbdsetup status` say the same of every captured state, in their different words."""
    (one,) = parse_status(answers(f"{state}.status.txt")[STATUS].out)
    (device,) = parse_proc_drbd(proc_drbd(state))
    assert (device.link, device.role, device.disk) == (one.link(), one.role, one.disk())
    assert device.suspended == bool(one.suspended)
    assert device.minor == 0
    if one.connections:
        assert (device.peer_role, device.peer_disk) == (one.peer_role(), one.peer_disk())


@pytest.mark.asyncio
@pytest.mark.parametrize("state", DOWN)
async def test_down(state: str, tmp_path: Path) -> None:
    """A resource that the kernel does not have reads DOWN and Secondary; its data is as its metadata says."""
    one = await look(state, tmp_path)
    assert (one.link, one.role, one.peer_role) == (Link.DOWN, Role.SECONDARY, Role.UNKNOWN)
    assert one.disk is (Disk.INCONSISTENT if "md-created" in state else Disk.CONSISTENT)
    assert one.generations is not None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "out"), [(20, "r0: No such resource\n"), (10, "r0: Device busy\n"), (10, ""), (0, ""), (1, "\n")]
)
async def test_refusal_is_not_down(code: int, out: str, tmp_path: Path) -> None:
    """Only "No such resource" with its own exit code means down; any other refusal is not known."""
    node = CaptureNode.of("06-d-A-booted-drbd-down.nodeA")
    node.put(STATUS, out, code)
    (one,) = (await drbd(node, tmp_path).read()).replicas
    assert (one.link, one.role, one.disk) == (Link.UNKNOWN, Role.UNKNOWN, Disk.UNKNOWN)


@pytest.mark.asyncio
async def test_reasons_of_suspension(tmp_path: Path) -> None:
    """All reasons of a suspension are told apart."""
    both = await look("f6-d-user-and-fencing.nodeA", tmp_path)
    assert both.suspended == {Suspended.USER, Suspended.FENCING}
    fencing = await look("f1-b-suspended-handler-running.nodeA", tmp_path)
    assert fencing.suspended == {Suspended.FENCING}


@pytest.mark.asyncio
async def test_numbers(tmp_path: Path) -> None:
    """Generations, flags and out-of-sync data are those of the capture."""
    one = await look("02-d-resync-running.nodeA", tmp_path)
    assert one.generations == Generations(
        0xE2ED1FAB42222C79, 0x94422B91E79C9C15, (0x94412B91E79C9C15, 0x00B27B9F5C26A514)
    )
    assert one.was_up_to_date is True
    assert one.out_of_sync_kib == 11404
    assert (await look("02-d-resync-running.nodeB", tmp_path)).was_up_to_date is False


def test_metadata_flags() -> None:
    """`show-gi` and `get-gi` of a node that lost power as Primary: consistent, up to date, was Primary, connected."""
    for name, command in (
        ("06-d-A-booted-drbd-down.nodeA.show-gi.txt", "drbdadm show-gi r0"),
        ("06-d-A-booted-drbd-down.nodeA.get-gi.txt", "drbdadm get-gi r0"),
        ("06-d-A-booted-drbd-down.nodeA.dump-md.txt", "drbdmeta --force 0 v08 /dev/vda internal show-gi"),
    ):
        (data,) = parse_get_gi(answers(name)[command].out)
        assert (data.consistent, data.was_up_to_date, data.primary, data.connected) == (True, True, True, True)
        assert (data.full_sync, data.peer_outdated, data.crashed_primary) == (False, False, False)
        assert data.disk() is Disk.CONSISTENT


@pytest.mark.parametrize("name", ["01-end.nodeB.events2.txt", "f3-end.nodeA.events2.txt"])
def test_events(name: str) -> None:
    """Every line of two recorded event streams is read."""
    lines = [line for line in (CAPTURES / name).read_text().splitlines() if line]
    events = [parse_event(line) for line in lines]
    assert len(events) > 30
    assert {event.action for event in events} >= {"exists", "create", "change", "destroy", "call", "response"}
    assert any(event.fields.get("connection") == "StandAlone" for event in events)


def test_no_json_with_8_4() -> None:
    """What 8.4 answers to a request for JSON is Unreadable, not an empty list."""
    for ran in answers("01-e-healthy-A-primary-mounted.nodeA.status-json.txt").values():
        with pytest.raises(Unreadable):
            parse_status_json(ran.out)


def test_versions() -> None:
    """The version comes from the first line of /proc/drbd, or from the tools; nonsense is Unreadable."""
    assert parse_proc_version(proc_drbd("02-a-healthy-A-primary.nodeA")) == (8, 4)
    assert parse_proc_version("version: 9.1.23 (api:2/proto:110-121)\n") == (9, 1)
    assert parse_tool_version("DRBDADM_API_VERSION=2\nDRBD_KERNEL_VERSION=9.2.8\nDRBDADM_VERSION=9.22.0\n") == (9, 2)
    assert parse_tool_version("DRBD_KERNEL_VERSION_CODE=0x000000\nDRBD_KERNEL_VERSION=0\n") is None
    for text in ("", "version: ", "srcversion: F73C\n", "version: 8.4.11"):
        with pytest.raises(Unreadable):
            parse_proc_version(text)


# ---------------------------------------------------------------- unknown words, cut answers


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("role:Primary", "role:Ruler"),
        ("disk:UpToDate", "disk:UpToDateish"),
        ("connection:Connected", "connection:Concerned"),
        ("replication:Established", "replication:Establishing"),
        ("suspended:no", "suspended:maybe"),
        ("minor:0", "minor:x"),
    ],
)
def test_unknown_word(old: str, new: str) -> None:
    """A word that DRBD does not have is Unreadable."""
    text = answers("02-a-healthy-A-primary.nodeA.status.txt")[STATUS].out
    with pytest.raises(Unreadable):
        parse_status(text.replace(old, new, 1))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("word", "check"),
    [
        (" role:Primary", lambda one: one.role is Role.UNKNOWN),
        (" disk:UpToDate", lambda one: one.disk is Disk.UNKNOWN),
        (" peer-disk:UpToDate", lambda one: one.peer_disk is Disk.UNKNOWN),
        (" connection:Connected", lambda one: one.link is Link.UNKNOWN),
        (" replication:Established", lambda one: one.link is Link.UNKNOWN),
        (" suspended:no", lambda one: one.suspended is None),
        (" out-of-sync:0", lambda one: one.out_of_sync_kib is None),
        (" minor:0", lambda one: one.generations is None),
    ],
)
async def test_missing_field(word: str, check: Callable[[Replica], bool], tmp_path: Path) -> None:
    """A field that was not printed is UNKNOWN or None."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    text = node.known[STATUS].out
    assert word in text
    node.put(STATUS, text.replace(word, "", 1))
    (one,) = (await drbd(node, tmp_path).read()).replicas
    assert check(one)


@pytest.mark.asyncio
async def test_handshake(tmp_path: Path) -> None:
    """A connection whose replication is still off is a handshake: it does not count as connected."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    node.put(STATUS, node.known[STATUS].out.replace("replication:Established", "replication:Off"))
    assert (await drbd(node, tmp_path).read()).replicas[0].link is Link.CONNECTING


def no_better(cut: Replica, whole: Replica) -> bool:
    """Nothing in `cut` permits more than `whole` did."""
    return (
        (cut.disk is not U or whole.disk is U)
        and (cut.peer_disk is not U or whole.peer_disk is U)
        and (cut.link not in {Link.CONNECTED, Link.DOWN} or cut.link is whole.link)
        and (cut.role is not S or whole.role is S)
        and (cut.generations is None or cut.generations == whole.generations)
        and (cut.suspended is None or cut.suspended == whole.suspended)
        and (cut.out_of_sync_kib is None or cut.out_of_sync_kib == whole.out_of_sync_kib)
        and (cut.was_up_to_date is not True or whole.was_up_to_date is True)
        and (cut.gate.closed() is not True or whole.gate.closed() is True)
    )


@pytest.mark.parametrize("state", STATES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_truncation_never_reads_better(
    state: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any answer of any captured state, cut at any byte, never gives a better reading than the whole."""
    tmp = tmp_path_factory.mktemp("cut")
    node = CaptureNode.of(state)

    async def both() -> tuple[Replica, Replica]:
        adapter = drbd(node, tmp)
        (whole,) = (await adapter.read()).replicas
        command = data.draw(st.sampled_from(sorted(set(node.asked))))
        ran = node.known[command]
        cut_at = data.draw(st.integers(0, max(len(ran.out) - 1, 0)))
        node.put(command, ran.out[:cut_at], ran.code)
        (cut,) = (await adapter.read()).replicas
        return cut, whole

    cut, whole = asyncio.run(both())
    assert no_better(cut, whole), (cut, whole)


@pytest.mark.parametrize("state", [state for state in UP if not state.startswith("03")])
def test_every_cut_of_status_is_unreadable(state: str) -> None:
    """A status answer that is cut anywhere before its last byte is Unreadable: all or nothing."""
    text = answers(f"{state}.status.txt")[STATUS].out
    for at in range(1, len(text)):
        with pytest.raises(Unreadable):
            parse_status(text[:at])


@pytest.mark.parametrize("state", UP)
def test_every_cut_of_proc_drbd(state: str) -> None:
    """/proc/drbd cut anywhere either says exactly the same of a device, or nothing of it."""
    text = proc_drbd(state)
    whole = parse_proc_drbd(text)
    for at in range(len(text)):
        try:
            assert parse_proc_drbd(text[:at]) in (whole, ())
        except Unreadable:
            continue


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='r0 :\n\trole:PrimaySecondvlumdik{};"#', max_size=200))
def test_garbage(text: str) -> None:
    """Garbage is Unreadable or says nothing, in every parser; no other exception comes out."""
    parsers: list[Callable[[str], object]] = [
        parse_status,
        parse_status_json,
        parse_get_gi,
        parse_proc_drbd,
        parse_event,
        parse_config,
        parse_tool_version,
    ]
    for parse in parsers:
        try:
            parse(text)
        except Unreadable:
            continue


# ---------------------------------------------------------------- the gate

DUMP = answers("config.nodeA.dump.txt")["drbdadm dump"].out
SHOW = answers("config.nodeA.show.txt")["drbdsetup show r0 --show-defaults"].out


def gate(dump: str = DUMP, show: str = SHOW, helper: str | None = "/sbin/drbdadm") -> bool | None:
    return gate_facts(configured(dump, "r0"), running(show, "r0"), helper).closed()


def test_gate_closed() -> None:
    """Files and kernel agree on protocol C, resource-and-stonith, our handler and no congestion policy: closed."""
    assert gate() is True
    assert gate(helper=None) is True


@pytest.mark.parametrize(
    ("source", "old", "new", "result"),
    [
        ("dump", "protocol           C", "protocol A", False),
        ("dump", "fencing          resource-and-stonith", "fencing resource-only", False),
        ("dump", "fencing          resource-and-stonith;", "", None),
        ("dump", "/usr/lib/pairguard/pairguard-fence-peer", "/usr/lib/drbd/crm-fence-peer.sh", False),
        ("dump", "/usr/lib/pairguard/pairguard-fence-peer", '"/bin/sh -c pairguard-fence-peer"', False),
        ("dump", "fence-peer ", "unfence-peer ", False),
        ("dump", "cram-hmac-alg ", "on-congestion pull-ahead; cram-hmac-alg ", False),
        ("dump", "resource r0", "resource r9", None),
        ("show", "protocol        \tC; # default", "protocol B;", False),
        ("show", "protocol        \tC; # default", "", None),
        ("show", "fencing         \tresource-and-stonith", "fencing dont-care", False),
        ("show", "fencing         \tresource-and-stonith;", "", None),
        ("show", "on-congestion   \tblock; # default", "on-congestion disconnect;", False),
        ("show", "on-congestion   \tblock; # default", "", None),
        ("show", "resource r0", "resource r9", None),
    ],
)
def test_gate_not_closed(source: str, old: str, new: str, result: bool | None) -> None:
    """Each single fact, wrong or missing, on either side, opens the gate or makes it unknown."""
    texts = {"dump": DUMP, "show": SHOW}
    assert old in texts[source]
    texts[source] = texts[source].replace(old, new)
    assert gate(texts["dump"], texts["show"]) is result


def test_gate_other_helper() -> None:
    """A module whose usermode_helper is not drbdadm never calls our handler: the gate is open."""
    assert gate(helper="/bin/true") is False
    assert gate(helper="disabled") is False


def test_gate_of_a_second_volume() -> None:
    """One volume without the policy opens the gate of the whole resource; one that does not say makes it unknown."""
    second = SHOW.replace("_this_host {", "_this_host { volume 1 { device minor 1; disk { fencing dont-care; } }")
    assert gate(show=second) is False
    silent = SHOW.replace("_this_host {", "_this_host { volume 1 { device minor 1; disk { on-io-error detach; } }")
    assert gate(show=silent) is None


def test_gate_as_in_drbd_9() -> None:
    """Where fencing is a net option (DRBD 9) it is read there."""
    policy = "fencing resource-and-stonith;"
    dump = DUMP.replace("fencing          resource-and-stonith;", "on-io-error detach;")
    show = SHOW.replace("fencing         \tresource-and-stonith;", "on-io-error detach;")
    nine = gate(dump.replace("cram-hmac", policy + " cram-hmac"), show.replace("cram-hmac", policy + " cram-hmac"))
    assert nine is True


def test_other_resource() -> None:
    """A resource with another protocol, a congestion policy and a foreign handler reads as it is configured."""
    words = configured(DUMP, "r1")
    assert words is not None
    assert (words.protocol, words.on_congestion, words.handler) == ("B", "pull-ahead", "/bin/sh -c 'exit 4'")
    assert words.fencing is None  # drbdadm dump leaves out options of single volumes


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, max(len(DUMP), len(SHOW))), which=st.booleans())
def test_cut_configuration_never_closes_the_gate(at: int, which: bool) -> None:
    """A configuration cut anywhere within the resource never reads as a closed gate."""
    dump, show = (DUMP[:at], SHOW) if which else (DUMP, SHOW[:at])
    try:
        closed = gate(dump, show)
    except Unreadable:
        return
    whole = at >= len(SHOW.rstrip()) if not which else configured(dump, "r0") == configured(DUMP, "r0")
    assert closed is not True or whole


# ---------------------------------------------------------------- the adapter


@pytest.mark.asyncio
async def test_gate_through_the_adapter(tmp_path: Path) -> None:
    """The adapter joins both answers; either of them missing leaves the gate unknown."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    adapter = drbd(node, tmp_path)
    assert (await adapter.read()).replicas[0].gate.closed() is True
    parameters = tmp_path / "module" / "drbd" / "parameters"
    parameters.mkdir(parents=True)
    (parameters / "usermode_helper").write_text("/bin/true\n")
    assert (await adapter.read()).replicas[0].gate.handler_ours is False
    del node.known["drbdadm dump"]
    assert (await adapter.read()).replicas[0].gate.closed() is None


@pytest.mark.asyncio
@pytest.mark.parametrize("state", STATES)
async def test_contract(state: str, tmp_path: Path) -> None:
    """The real adapter keeps the port's contract in every captured state."""
    node = CaptureNode.of(state)
    adapter = drbd(node, tmp_path)
    await contract.names_all_in_order(adapter, ["r0"])
    await contract.whole_comes_first(adapter, ["r0"])
    await contract.metadata_proves_no_session(adapter)
    await contract.suspended_means_read_back(adapter)
    node.obeys = False
    await contract.suspended_means_read_back(adapter)


@pytest.mark.asyncio
@pytest.mark.parametrize("proc", ["", "version: ", "nonsense\n", "version: 9.1.23 (api:2/proto:110-121)\n"])
async def test_contract_blind(proc: str, tmp_path: Path) -> None:
    """With no tool that answers, or an unreadable version, everything is unknown and no hand claims success."""
    await contract.all_unknown(drbd(CaptureNode(), tmp_path, proc))


@pytest.mark.asyncio
async def test_no_proc_at_all(tmp_path: Path) -> None:
    """Where neither /proc/drbd nor /sys/module can be looked at, "not loaded" is not concluded."""
    adapter = Drbd(
        ["r0"], contract.SteppedClock(), CaptureNode().run, proc_drbd=tmp_path / "a", sys_module=tmp_path / "b" / "c"
    )
    assert (await adapter.read()).replicas[0].link is Link.UNKNOWN


@pytest.mark.asyncio
async def test_module_not_loaded(tmp_path: Path) -> None:
    """Without the module the resource is down, metadata is still read, and no tool that would load it is started."""
    node = CaptureNode.of("06-d-A-booted-drbd-down.nodeA")
    adapter = drbd(node, tmp_path, None)
    (one,) = (await adapter.read()).replicas
    assert (one.link, one.disk, one.was_up_to_date) == (Link.DOWN, Disk.CONSISTENT, True)
    assert not [command for command in node.asked if command.startswith("drbdsetup")]
    async with watching(adapter) as heard:
        for _ in range(3):
            assert (await heard.get()).replicas[0].link is Link.DOWN
    assert node.streams == 0


@pytest.mark.asyncio
async def test_stored_tells_who_was_primary(tmp_path: Path) -> None:
    """Metadata of a Primary that lost power says so; that of one that went down in order does not."""
    (crashed,) = (await drbd(CaptureNode.of("06-d-A-booted-drbd-down.nodeA"), tmp_path).stored()).replicas
    assert (crashed.role, crashed.disk, crashed.link) == (Role.PRIMARY, Disk.CONSISTENT, Link.DOWN)
    (clean,) = (await drbd(CaptureNode.of("01-i-A-down-clean.nodeA"), tmp_path).stored()).replicas
    assert (clean.role, clean.disk, clean.was_up_to_date) == (Role.SECONDARY, Disk.CONSISTENT, True)


@pytest.mark.asyncio
async def test_stored_refuses_an_attached_device(tmp_path: Path) -> None:
    """Metadata under an attached device may lag behind: it is not taken for what was stored."""
    node = CaptureNode.of("f6-d-user-and-fencing.nodeA")
    command = "drbdmeta --force 0 v08 /dev/vda internal get-gi"
    node.known[command] = answers("f6-d-user-and-fencing.nodeA.get-gi.txt")[command]
    (one,) = (await drbd(node, tmp_path).stored()).replicas
    assert (one.generations, one.disk, one.was_up_to_date) == (None, Disk.UNKNOWN, None)


@pytest.mark.asyncio
async def test_generations_of_another_moment(tmp_path: Path) -> None:
    """Identifiers whose flags contradict the link or the role read before them are not taken."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    node.known["drbdsetup get-gi 0"] = answers("02-b-cut-A-primary-no-write-since-cut.nodeA.get-gi.txt")[
        "drbdadm get-gi r0"
    ]
    assert (await drbd(node, tmp_path).read()).replicas[0].generations is None


TWO_VOLUMES = """r0 role:Primary suspended:no
    write-ordering:flush
  volume:0 minor:0 disk:UpToDate
      size:65496 read:0 written:0
  volume:1 minor:5 disk:{disk}
      size:65496 read:0 written:0
  peer connection:Connected role:Secondary congested:no
    volume:0 replication:Established peer-disk:UpToDate resync-suspended:no
        received:1 sent:0 out-of-sync:4 pending:0 unacked:0
    volume:1 replication:{replication} peer-disk:UpToDate resync-suspended:no
        received:2 sent:0 out-of-sync:8 pending:0 unacked:0

"""


@pytest.mark.asyncio
async def test_two_volumes(tmp_path: Path) -> None:
    """A resource is as bad as its worst volume; counts add up; one unreadable volume leaves no generations."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    node.put(STATUS, TWO_VOLUMES.format(disk="Outdated", replication="SyncSource"))
    gi = node.known["drbdsetup get-gi 0"].out
    node.put("drbdsetup get-gi 5", gi.replace("94412B91E79C9C15", "A4412B91E79C9C15"))
    adapter = drbd(node, tmp_path)
    (one,) = (await adapter.read()).replicas
    assert (one.disk, one.link, one.out_of_sync_kib) == (Disk.OUTDATED, Link.RESYNC, 12)
    assert one.generations is not None
    del node.known["drbdsetup get-gi 5"]
    assert (await adapter.read()).replicas[0].generations is None
    await adapter.suspend()
    assert [command for command in node.asked if "suspend" in command] == [
        "drbdsetup suspend-io 0",
        "drbdsetup suspend-io 5",
    ]
    lacking = TWO_VOLUMES.format(disk="UpToDate", replication="Established").split("    volume:1")[0] + "\n"
    node.put(STATUS, lacking)
    assert (await adapter.read()).replicas[0].link is Link.UNKNOWN


@given(st.lists(st.tuples(st.integers(8, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=2, max_size=4))
def test_folded_generations(pairs: list[tuple[int, int]]) -> None:
    """Folded identifiers are equal exactly if those of all volumes are, but for bit 0, which only tells the role."""
    ours = [Generations(current, bitmap, ()) for current, bitmap in pairs]
    fold = fold_generations(ours)
    assert fold is not None
    assert fold == fold_generations([Generations(one.current ^ 1, one.bitmap, ()) for one in ours])
    other = [*ours[:-1], Generations(ours[-1].current ^ 4, ours[-1].bitmap, ())]
    moved = fold_generations(other)
    assert moved is not None
    assert moved.current != fold.current
    ancestor = fold_generations([Generations(one.bitmap or one.current, 0, ()) for one in ours])
    assert ancestor is not None
    assert fold.bitmap in (0, ancestor.current)


def test_fold_of_one() -> None:
    """One volume's identifiers stay as they are; none at all is None."""
    one = Generations(9, 8, (7, 6))
    assert fold_generations([one]) == one
    assert fold_generations([]) is None


@pytest.mark.asyncio
async def test_one_does_not_spoil_the_other(tmp_path: Path) -> None:
    """A resource that cannot be read is unknown; the one beside it is read as ever."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    good, bad = (await drbd(node, tmp_path, names=("r0", "r1")).read()).replicas
    assert (good.link, good.disk) == (Link.CONNECTED, Disk.UP_TO_DATE)
    assert (bad.link, bad.disk, bad.role, bad.suspended) == (Link.UNKNOWN, Disk.UNKNOWN, Role.UNKNOWN, None)


@pytest.mark.asyncio
async def test_outdate_is_read_back(tmp_path: Path) -> None:
    """Outdating counts only if the disk reads Outdated afterwards, whatever the tool's exit code."""
    node = CaptureNode.of("02-b-cut-A-primary-no-write-since-cut.nodeB")
    node.put("drbdadm outdate r0", "")
    adapter = drbd(node, tmp_path)
    assert not await adapter.outdate()
    outdated = node.known[STATUS].out.replace(" disk:UpToDate", " disk:Outdated")
    node.put(STATUS, outdated)
    assert await adapter.outdate()


@pytest.mark.asyncio
async def test_what_cannot_be_outdated_now_is_no_failure(tmp_path: Path) -> None:
    """Connected, DRBD refuses and the peer's data decide; what cannot be read is never taken for done."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeB")
    adapter = drbd(node, tmp_path)
    assert (await adapter.read()).replicas[0].disk is Disk.UP_TO_DATE
    assert await adapter.outdate()
    node.put(STATUS, "no status at all")
    assert not await adapter.outdate()


# ---------------------------------------------------------------- DRBD 9

NINE = json.dumps(
    [
        {
            "name": "r0",
            "node-id": 0,
            "role": "Secondary",
            "suspended": False,
            "suspended-user": False,
            "suspended-no-data": False,
            "suspended-fencing": False,
            "suspended-quorum": False,
            "devices": [{"volume": 0, "minor": 1, "disk-state": "UpToDate", "open": False}],
            "connections": [
                {
                    "peer-node-id": 1,
                    "name": "fs2",
                    "connection-state": "Connected",
                    "peer-role": "Primary",
                    "peer_devices": [
                        {
                            "volume": 0,
                            "replication-state": "Established",
                            "peer-disk-state": "UpToDate",
                            "received": 7,
                            "sent": 0,
                            "out-of-sync": 0,
                        }
                    ],
                }
            ],
        }
    ]
)


@pytest.mark.asyncio
async def test_drbd_9_gives_no_right(tmp_path: Path) -> None:
    """DRBD 9 is read from JSON, and every replica is marked as never tried."""
    node = CaptureNode()
    node.put("drbdsetup status r0 --json --statistics", NINE)
    adapter = drbd(node, tmp_path, "version: 9.1.23 (api:2/proto:110-121)\n")
    (one,) = (await adapter.read()).replicas
    assert (one.role, one.peer_role, one.disk, one.link) == (S, P, U, Link.CONNECTED)
    assert (one.open_count, one.suspended, one.unverified) == (0, frozenset(), UNVERIFIED_9)
    node.put("drbdsetup status r0 --json --statistics", NINE[:-1])
    (cut,) = (await adapter.read()).replicas
    assert (cut.link, cut.unverified) == (Link.UNKNOWN, UNVERIFIED_9)


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"name": "r0"}]', '[{"name": "r0", "devices": 1, "connections": []}]'])
def test_json_of_another_shape(text: str) -> None:
    """JSON of a shape that is not documented is Unreadable or empty, never half a resource."""
    try:
        assert parse_status_json(text) == ()
    except Unreadable:
        return


# ---------------------------------------------------------------- changes


@asynccontextmanager
async def watching(adapter: Drbd) -> AsyncIterator[asyncio.Queue[Volumes]]:
    """The adapter's stream, drained into a queue."""
    heard: asyncio.Queue[Volumes] = asyncio.Queue()

    async def drain() -> None:
        async for volumes in adapter.changes():
            await heard.put(volumes)

    async with asyncio.timeout(contract.PATIENCE_S):
        task = asyncio.create_task(drain())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


CUT = "2026-11-21T23:05:36+00:00 change connection name:r0 peer-node-id:0 conn-name:peer connection:{word} role:Unknown"


@pytest.mark.asyncio
async def test_change(tmp_path: Path) -> None:
    """A lost connection is told at once from the event, generations kept under a closed gate, then the whole again."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    async with watching(drbd(node, tmp_path)) as heard:
        first = await heard.get()
        assert first.replicas[0].link is Link.CONNECTED
        node.known |= CaptureNode.of("f1-b-suspended-handler-running.nodeA").known
        node.batches.put_nowait((CUT.format(word="NetworkFailure"), "garbage"))
        quick = (await heard.get()).replicas[0]
        assert (quick.link, quick.role, quick.generations) == (Link.CONNECTING, P, first.replicas[0].generations)
        whole = (await heard.get()).replicas[0]
        assert (whole.link, whole.suspended) == (Link.CONNECTING, {Suspended.FENCING})


def doubled(state: str) -> CaptureNode:
    """The node with two resources, r1 as r0 was captured."""
    node = CaptureNode.of(state)
    for command, ran in [each for each in node.known.items() if " r0" in each[0]]:
        node.put(command.replace(" r0", " r1"), ran.out.replace("r0", "r1").replace("minor:0", "minor:1"), ran.code)
    node.put("drbdsetup get-gi 1", node.known["drbdsetup get-gi 0"].out)
    text = node.known["drbdadm dump"].out
    node.put("drbdadm dump", text + text[text.index("resource r0") :].replace("resource r0", "resource r1"))
    return node


@pytest.mark.asyncio
async def test_an_event_is_no_look(tmp_path: Path) -> None:
    """What it did not touch is as old as the look before; what it touched may be back, for events may be late."""
    node = doubled("02-a-healthy-A-primary.nodeA")
    async with watching(drbd(node, tmp_path, names=("r0", "r1"))) as heard:
        first = await heard.get()
        assert [first.looked("r0"), first.looked("r1")] == [first.at, first.at]
        node.batches.put_nowait((CUT.format(word="NetworkFailure"),))
        quick = await heard.get()
        assert [one.link for one in quick.replicas] == [Link.CONNECTING, Link.CONNECTED]
        assert [quick.looked("r0"), quick.looked("r1")] == [None, first.at]
        read = await heard.get()
        assert [read.looked("r0"), read.looked("r1")] == [read.at, read.at]


@pytest.mark.asyncio
async def test_change_without_a_gate(tmp_path: Path) -> None:
    """With the gate off the generation may have moved with the cut: the quick word does not name one."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    node.put("drbdadm dump", DUMP.replace("resource-and-stonith", "dont-care"))
    async with watching(drbd(node, tmp_path)) as heard:
        await heard.get()
        node.batches.put_nowait((CUT.format(word="NetworkFailure"),))
        quick = (await heard.get()).replicas[0]
        assert (quick.link, quick.generations) == (Link.CONNECTING, None)


@pytest.mark.asyncio
async def test_events_never_make_it_better(tmp_path: Path) -> None:
    """A connect is believed only after the tools were asked: the event alone does not connect."""
    node = CaptureNode.of("02-b-cut-A-primary-no-write-since-cut.nodeA")
    async with watching(drbd(node, tmp_path)) as heard:
        await heard.get()
        node.batches.put_nowait((CUT.format(word="Connected"),))
        assert (await heard.get()).replicas[0].link is Link.CONNECTING


@pytest.mark.asyncio
async def test_stream_dies(tmp_path: Path) -> None:
    """When the event stream dies it is started again, and the whole is told anew each time."""
    node = CaptureNode.of("02-a-healthy-A-primary.nodeA")
    async with watching(drbd(node, tmp_path)) as heard:
        for _ in range(3):
            assert (await heard.get()).replicas[0].link is Link.CONNECTED
            node.batches.put_nowait(None)
        await heard.get()
    assert node.streams >= 3


# ---------------------------------------------------------------- real metadata


@dataclass
class RealMetadata:
    """Runs the real drbdmeta on an image file; `drbdadm` only names it."""

    image: Path
    asked: list[str] = field(default_factory=list)

    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = process.OUTPUT_BYTES_MAX,
    ) -> process.Ran:
        if argv[0] == "drbdadm":
            return process.Ran(0, f"drbdsetup-84 get-gi 0\ndrbdmeta 0 v08 {self.image} internal get-gi\n", "")
        return await process.run(argv, deadline_s=deadline_s * 10)


@pytest.mark.asyncio
@pytest.mark.skipif(shutil.which("drbdmeta") is None, reason="drbd-utils is not installed")
@pytest.mark.parametrize(
    ("flags", "disk", "role"),
    [("1:1:1:1:0:0:0", C, P), ("1:0:0:0:0:0:0", O, S), ("0:0:0:1:0:0:0", I, S), ("1:1:0:0:0:0:1", C, P)],
)
async def test_real_metadata(flags: str, disk: Disk, role: Role, tmp_path: Path) -> None:
    """Metadata that the real drbdmeta wrote is read back through the real drbdmeta, identifiers and flags."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8 << 20))
    meta = ["drbdmeta", "--force", "0", "v08", str(image), "internal"]
    uuids = "94412B91E79C9C14:0000000000000000:00B27B9F5C26A514:0000000000000004"
    for action in (["create-md"], ["set-gi", f"{uuids}:{flags}"]):
        ran = await process.run([*meta, *action], deadline_s=60)
        assert ran.code == 0, ran.err
    module = tmp_path / "module"
    module.mkdir()
    adapter = Drbd(
        ["r0"],
        contract.SteppedClock(),
        RealMetadata(image).run,
        proc_drbd=tmp_path / "none",
        sys_module=module / "drbd",
    )
    (one,) = (await adapter.stored()).replicas
    assert one.generations == Generations(0x94412B91E79C9C14, 0, (0x00B27B9F5C26A514, 4))
    assert (one.disk, one.role) == (disk, role)
    await contract.metadata_proves_no_session(adapter)


@pytest.mark.asyncio
@pytest.mark.skipif(shutil.which("drbdmeta") is None, reason="drbd-utils is not installed")
async def test_no_metadata(tmp_path: Path) -> None:
    """A disk without metadata says nothing at all."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8 << 20))
    adapter = Drbd(["r0"], contract.SteppedClock(), RealMetadata(image).run, proc_drbd=tmp_path / "none")
    (one,) = (await adapter.stored()).replicas
    assert one == Replica("r0", suspended=None)
