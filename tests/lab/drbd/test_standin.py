"""Each fact that was measured on a real DRBD 8.4.11 (fencing resource-and-stonith) is one promise of the stand-in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pair import Node, Pair, until  # noqa: E402

FIRST = "94412B91E79C9C15"  # the generation that every pair starts with, on its Primary
CAPTURES = HERE / "captures"
QUIET_S = 0.4  # how long "nothing happens" is watched


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """Builds a pair, and ends it."""
    made: list[Pair] = []

    def build(**how: str) -> Pair:
        made.append(Pair(tmp_path, **how))
        made[-1].up()
        return made[-1]

    yield build
    for pair in made:
        pair.close()


@pytest.fixture
def pair(make: Callable[..., Pair]) -> Pair:
    """The usual pair: a Primary, resource-and-stonith."""
    return make()


# -- the gate of a Primary ---------------------------------------------------------------------------------------------


def test_cut_freezes_primary(pair: Pair) -> None:
    """At the loss I/O is suspended, the handler called with DRBD's environment, and no generation made; the
    Secondary does nothing."""
    client = pair.a.client()
    client.write(3)
    pair.net.cut()
    client.send(4)
    until("handler", lambda: pair.a.calls() == 1)
    assert client.acknowledged(QUIET_S) is None
    assert pair.a.suspended == "fencing"
    assert pair.a.gi == [FIRST, "0" * 16, "00B27B9F5C26A514", "0000000000000004", *"1110000"]
    assert pair.a.oos == 0
    assert pair.a.show("dstate") == "UpToDate/DUnknown"
    until("b lost", lambda: pair.b.show("cstate") == "WFConnection")
    assert (pair.b.show("dstate"), pair.b.suspended, pair.b.calls()) == ("UpToDate/DUnknown", "no", 0)
    words = dict(line.split("=", 1) for line in (pair.a.folder / "env.1").read_text().splitlines())
    assert (words["DRBD_RESOURCE"], words["DRBD_PEER"], words["DRBD_PEERS"], words["DRBD_MINOR"]) == (
        "r0",
        "b",
        "b",
        "0",
    )
    assert (words["DRBD_PEER_ADDRESS"], words["DRBD_PEER_AF"]) == ("127.0.0.1", "ipv4")
    assert words["DRBD_CONF"] == str(pair.a.folder / "drbd.conf")


@pytest.mark.parametrize(("code", "pending"), [(4, True), (5, True), (7, False)])
def test_leave_thaws_with_new_generation(pair: Pair, code: int, pending: bool) -> None:
    """4, 5 and 7 make a new generation, pending write or not, hold the peer for Outdated and thaw; a heal resyncs."""
    client = pair.a.client()
    client.write(2)
    pair.net.cut()
    if pending:
        client.send(3)
    until("handler", lambda: pair.a.calls() == 1)
    pair.a.answer(code)
    until("thaw", lambda: pair.a.suspended == "no")
    current, bitmap, *_ = pair.a.gi
    assert current != FIRST
    assert bitmap == FIRST
    assert pair.a.show("dstate") == "UpToDate/Outdated"
    assert pair.a.gi[4:] == list("1110010")
    if pending:
        assert client.acknowledged() == 3
    assert pair.a.oos == (4 if pending else 0)
    pair.heal()
    assert pair.b.gi[0] == f"{int(current, 16) & ~1:016X}"
    assert pair.a.gi[1] == "0" * 16


@pytest.mark.parametrize("code", [0, 1, 6, 99])
def test_other_codes_stay_frozen_until_heal(pair: Pair, code: int) -> None:
    """0, 1, 6 and unknown codes leave it frozen, the handler isn't called again, and a heal alone thaws with no new
    generation."""
    client = pair.a.client()
    client.write(1)
    pair.net.cut()
    client.send(2)
    until("handler", lambda: pair.a.calls() == 1)
    pair.a.answer(code)
    until("answered", lambda: pair.a.calls("END") == 1)
    assert client.acknowledged(QUIET_S) is None
    assert (pair.a.suspended, pair.a.calls()) == ("fencing", 1)
    assert pair.a.show("dstate") == "UpToDate/DUnknown"
    pair.heal()
    assert client.acknowledged() == 2
    assert (pair.a.gi[0], pair.a.suspended) == (FIRST, "no")


def test_resume_io_thaws_alone(pair: Pair) -> None:
    """resume-io on a frozen Primary thaws at once with a new generation, the peer stays DUnknown; a heal resyncs
    cleanly."""
    client = pair.a.client()
    pair.net.cut()
    client.send(1)
    until("handler", lambda: pair.a.calls() == 1)
    pair.a.answer(1)
    assert pair.a.tool("drbdadm resume-io r0") == (0, "", "")
    assert client.acknowledged() == 1
    assert pair.a.gi[:2] != [FIRST, "0" * 16]
    assert pair.a.gi[1] == FIRST
    assert pair.a.show("dstate") == "UpToDate/DUnknown"
    pair.heal()
    assert "Split-Brain" not in pair.a.log() + pair.b.log()


def test_heal_while_handler_runs(pair: Pair) -> None:
    """A link that heals under a running handler thaws without a new generation, and the handler's later 4 does
    nothing."""
    client = pair.a.client()
    pair.net.cut()
    client.send(1)
    until("handler", lambda: pair.a.calls() == 1)
    pair.heal()
    assert client.acknowledged() == 1
    assert pair.a.suspended == "no"
    pair.a.answer(4, 1)
    until("answered", lambda: "Ignoring fence-peer exit code" in pair.a.log())
    assert pair.a.gi[:2] == [FIRST, "0" * 16]
    assert pair.a.show("dstate") == "UpToDate/UpToDate"


def test_late_answer_of_an_earlier_disconnection(pair: Pair) -> None:
    """A second cut starts a second handler beside the first; the first one's 4 is ignored, the second one's counts."""
    pair.cut()
    pair.heal()
    pair.cut()
    pair.a.answer(4, 1)
    until("ignored", lambda: "Ignoring fence-peer exit code" in pair.a.log())
    assert (pair.a.suspended, pair.a.gi[0]) == ("fencing", FIRST)
    pair.a.answer(4, 2)
    until("thaw", lambda: pair.a.suspended == "no")
    assert pair.a.gi[1] == FIRST


def test_held_packets_are_not_read_late(pair: Pair) -> None:
    """What was on its way when the connection was given up does nothing when it comes out later."""
    client = pair.a.client()
    client.write(1)
    pair.net.hold()
    client.send(2)
    until("handler", lambda: pair.a.calls() == 1)
    until("b lost", lambda: pair.b.show("cstate") == "WFConnection")
    pair.a.answer(1)
    assert client.acknowledged(QUIET_S) is None
    pair.heal()
    assert client.acknowledged() == 2
    assert pair.a.gi[0] == FIRST


# -- promotion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"no JSON\n", b'{"t": "hello"}\n'], ids=["nothing", "garbage", "half a hello"])
def test_a_connection_that_is_reset_is_not_the_last(pair: Pair, said: bytes) -> None:
    """A dialler that gives up mid-handshake, as at a thaw on a busy machine, leaves the listener able to connect."""
    pair.cut()
    pair.net.stray(said)
    pair.heal()


def test_a_long_time_alone_resyncs(make: Callable[..., Pair]) -> None:
    """However much was written alone, a heal makes the pair whole: its list of blocks may be long."""
    pair = make(rate="100M")
    client = pair.a.client()
    pair.a.answer(4)
    pair.cut()
    until("thaw", lambda: pair.a.suspended == "no")
    for block in range(10**15, 10**15 + 4000):
        client.send(block)
        assert client.acknowledged() == block
    pair.heal()
    assert pair.a.oos == 0


def test_promotion_asks_four_times(pair: Pair) -> None:
    """With code 1 a disconnected Secondary's handler is called four times, then rc 11 with the real words; nothing
    changed."""
    pair.b.answer(1)
    pair.cut()
    code, _, error = pair.b.tool("drbdadm primary r0")
    assert code == 11
    assert error == (
        "0: State change failed: (-7) Refusing to be Primary while peer is not outdated\n"
        "Command 'drbdsetup-84 primary 0' terminated with exit code 11\n"
    )
    assert pair.b.calls() == 4
    assert pair.b.show("role") == "Secondary/Unknown"
    assert pair.b.gi[4:] == list("1100000")


def test_promotion_code_6_outdates(pair: Pair) -> None:
    """Code 6: the Secondary outdates itself (rc 17), a later try calls no handler, and a heal makes it UpToDate by
    itself."""
    pair.b.answer(6)
    pair.cut()
    for _ in range(2):
        code, _, error = pair.b.tool("drbdadm primary r0")
        assert (code, error.splitlines()[0]) == (17, "0: State change failed: (-2) Need access to UpToDate data")
    assert pair.b.calls() == 1
    assert pair.b.show("dstate") == "Outdated/DUnknown"
    assert pair.b.gi[4:] == list("1000000")
    pair.heal()
    assert pair.a.gi[0] == FIRST


@pytest.mark.parametrize("code", [4, 5])
def test_promotion_with_leave_then_both_meet(pair: Pair, code: int) -> None:
    """4 or 5 promotes over a frozen peer. When both meet: no split brain, the promoted one StandAlone, the frozen
    one frozen, asking anew."""
    pair.b.answer(code)
    client = pair.a.client()
    client.write(2)
    pair.cut()
    assert pair.b.do("primary") == 0
    assert pair.b.show("dstate") == "UpToDate/Outdated"
    assert pair.b.gi[1] == f"{int(FIRST, 16) & ~1:016X}"
    pair.b.client().write(1)
    pair.net.heal()
    until("b refuses", lambda: pair.b.show("cstate") == "StandAlone")
    until("a asks anew", lambda: pair.a.calls() == 2)
    assert pair.a.show("cstate") == "WFConnection"
    assert (pair.a.suspended, pair.a.gi[0]) == ("fencing", FIRST)
    assert "Multiple primaries not allowed by config" in pair.b.log()
    assert "Split-Brain" not in pair.a.log() + pair.b.log()


def test_power_loss_of_the_frozen_one(pair: Pair) -> None:
    """The frozen Primary loses power after the peer was promoted and wrote: it comes back as target, no split brain,
    nothing lost."""
    pair.b.answer(4)
    client = pair.a.client()
    client.write(5)
    pair.net.cut()
    client.send(6)
    until("handler", lambda: pair.a.calls() == 1)
    assert pair.b.do("primary") == 0
    other = pair.b.client()
    assert other.last == 5
    other.write(3)
    pair.a.power_loss()
    pair.net.heal()
    code, out, _ = pair.a.tool(f"drbdmeta 0 v08 {pair.a.prefix} internal get-gi")
    assert (code, out.split(":")[0], out.split(":")[6]) == (0, FIRST, "1")
    pair.a.boot()
    assert pair.a.tool("drbdadm up r0")[1].startswith("Marked additional ")
    pair.connected()
    assert pair.a.show("role") == "Secondary/Primary"
    assert "Split-Brain" not in pair.a.log() + pair.b.log()
    assert _blocks(pair.a) == _blocks(pair.b)
    assert pair.a.gi[10] == "1"  # crashed primary stays on the disk until the next change


def test_peer_rebooted_while_frozen(pair: Pair) -> None:
    """The peer lost power and is back: first handshake aborted, new generation, handler once more; the second one
    thaws. Nothing lost."""
    client = pair.a.client()
    client.write(2)
    pair.b.power_loss()
    client.send(3)
    until("handler", lambda: pair.a.calls() == 1)
    pair.a.answer(1)
    assert client.acknowledged(QUIET_S) is None
    pair.b.boot()
    assert pair.b.do("up") == 0
    assert client.acknowledged() == 3
    pair.connected()
    assert "can not thaw IO with an only Consistent peer" in pair.a.log()
    assert pair.a.calls() == 2
    assert pair.a.gi[0] != FIRST
    assert _blocks(pair.a) == _blocks(pair.b)


def test_dead_peer_is_silent(pair: Pair) -> None:
    """A peer whose processes are killed is not noticed by its closing socket but by the ping that stays unanswered."""
    pair.b.power_loss()
    assert pair.a.show("cstate") == "Connected"
    until("loss", lambda: pair.a.show("cstate") == "WFConnection")
    assert "PingAck did not arrive in time." in pair.a.log()


# -- suspended by hand -------------------------------------------------------------------------------------------------


def test_suspended_twice(pair: Pair) -> None:
    """suspend-io and a cut on top: `user,fencing`; code 4 makes the generation and clears only `fencing`."""
    assert pair.a.tool("drbdsetup suspend-io 0") == (0, "", "")
    client = pair.a.client()
    client.send(1)
    assert client.acknowledged(QUIET_S) is None
    pair.cut()
    assert pair.a.suspended == "user,fencing"
    pair.a.answer(4)
    until("user only", lambda: pair.a.suspended == "user")
    assert pair.a.gi[1] == FIRST
    assert client.acknowledged(QUIET_S) is None
    assert pair.a.do("resume-io") == 0
    assert client.acknowledged() == 1


def test_trap_of_resume_after_reconnect(pair: Pair) -> None:
    """Suspend, disconnect, reconnect, resume: a generation that the peer never gets, and a false split brain later
    (f3)."""
    pair.a.do("suspend-io")
    assert pair.a.do("disconnect") == 0
    until("b outdated", lambda: pair.b.show("dstate") == "Outdated/DUnknown")
    assert (pair.a.show("cstate"), pair.a.show("dstate"), pair.a.gi[0]) == ("StandAlone", "UpToDate/Outdated", FIRST)
    assert pair.a.calls() == 0
    assert pair.a.do("connect") == 0
    pair.connected()
    assert (pair.a.suspended, pair.a.gi[0]) == ("user", FIRST)
    assert pair.a.do("resume-io") == 0
    assert pair.a.gi[1] == FIRST
    assert pair.b.gi[0] == f"{int(FIRST, 16) & ~1:016X}"
    assert pair.a.oos == 0
    assert pair.a.do("secondary") == 0
    assert pair.a.do("disconnect") == 0
    pair.b.answer(4)
    until("b alone", lambda: pair.b.show("cstate") == "WFConnection")
    assert pair.b.do("primary") == 0
    assert pair.a.do("connect") == 0
    until("split brain", lambda: "Split-Brain detected but unresolved" in pair.a.log())
    until("both StandAlone", lambda: {pair.a.show("cstate"), pair.b.show("cstate")} == {"StandAlone"})


def test_secondary_leaving_in_order(pair: Pair) -> None:
    """A Secondary that disconnects in order outdates itself; the Primary goes on, unfrozen, with no handler, in a
    new generation."""
    client = pair.a.client()
    client.write(1)
    assert pair.b.do("disconnect") == 0
    until("a alone", lambda: pair.a.show("cstate") == "WFConnection")
    client.write(1)
    assert (pair.b.show("dstate"), pair.a.show("dstate")) == ("Outdated/DUnknown", "UpToDate/Outdated")
    assert (pair.a.suspended, pair.a.calls(), pair.a.gi[1]) == ("no", 0, FIRST)
    assert pair.b.do("connect") == 0
    pair.connected()
    assert _blocks(pair.a) == _blocks(pair.b)


# -- without fencing, and refusals -------------------------------------------------------------------------------------


def test_dont_care_splits(make: Callable[..., Pair]) -> None:
    """Without fencing the Primary goes on in a new generation at the loss; both promoted: split brain, both
    StandAlone; discard mends it."""
    pair = make(fencing="dont-care")
    client = pair.a.client()
    client.write(2)
    pair.net.cut()
    until("new generation", lambda: pair.a.gi[1] == FIRST)
    assert (pair.a.suspended, pair.a.calls()) == ("no", 0)
    client.write(2)
    until("b alone", lambda: pair.b.show("cstate") == "WFConnection")
    assert pair.b.do("primary") == 0
    other = pair.b.client()
    other.write(1)
    pair.net.heal()
    for node in (pair.a, pair.b):
        until("StandAlone", lambda node=node: node.show("cstate") == "StandAlone")
        assert "uuid_compare()=100 by rule 90" in node.log()
    code, _, error = pair.a.tool("drbdadm disconnect r0")
    assert (code, error.splitlines()[0]) == (10, "??: Failure: (162) Invalid configuration request")
    client.close()
    until("closed", lambda: pair.a.do("secondary") == 0)
    assert pair.a.do("connect", discard=True) == 0
    assert pair.b.do("connect") == 0
    pair.connected()
    assert _blocks(pair.a) == _blocks(pair.b)
    assert max(_blocks(pair.a)) == 3


def test_refusals(pair: Pair) -> None:
    """The other refusals say what the real tools say, with their codes."""
    client = pair.a.client()
    said = {
        (pair.b, "drbdadm primary r0"): (11, "0: State change failed: (-1) Multiple primaries not allowed by config"),
        (pair.a, "drbdadm secondary r0"): (11, "0: State change failed: (-12) Device is held open by someone"),
        (pair.a, "drbdadm connect r0"): (10, "r0: Failure: (102) Local address(port) already in use."),
        (pair.a, "drbdsetup status r0 --json"): (20, "status: unrecognized option '--json'"),
        (pair.a, "drbdsetup status r9"): (10, "r9: No such resource"),
    }
    for (node, line), (code, words) in said.items():
        got, _, error = node.tool(line)
        assert (got, error.splitlines()[0]) == (code, words), line
    client.close()
    until("closed", lambda: pair.a.do("secondary") == 0)
    assert pair.b.tool("drbdadm primary r0") == (0, "", "")
    assert pair.a.tool("drbdadm down r0")[0] == 0
    assert pair.a.tool("drbdadm role r0")[0] == 10
    assert pair.a.tool("drbdadm get-gi r0")[1].split(":")[6] == "0"


# -- what it prints ----------------------------------------------------------------------------------------------------


def _blocks(node: Node) -> dict[int, str]:
    blocks: dict[int, str] = {}
    for line in (node.folder / "r0.data").read_text().splitlines():
        block, mark = line.split()
        blocks[int(block)] = mark
    return {block: mark for block, mark in blocks.items() if mark != "-"}


def _shape(text: str) -> str:
    """Numbers, times and line ends within one object do not count."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME", text)
    text = re.sub(r"\n\s{6,}", " ", text)
    text = re.sub(r":\d+(\.\d+)?", ":N", text)
    return re.sub(r" +", " ", text).strip()


def _recorded(name: str, command: str) -> str:
    text = (CAPTURES / name).read_text()
    return text.partition(f"$ {command}\n")[2].partition("\n[rc=0]")[0]


STATUS = "drbdsetup status r0 --verbose --statistics"


def test_status_looks_recorded(make: Callable[..., Pair]) -> None:
    """`status` in five states has the shape of the recordings: whole, frozen, thawed alone, frozen twice, resyncing."""
    pair = make(rate="40k")
    pair.a.client().write(1)
    assert _shape(pair.a.tool(STATUS)[1]) == _shape(_recorded("f1-a-before-cut.nodeA.status.txt", STATUS))
    pair.cut()
    assert _shape(pair.a.show("status-full")) == _shape(
        _recorded("f1-b-suspended-handler-running.nodeA.status.txt", STATUS)
    )
    pair.a.do("suspend-io")
    assert _shape(pair.a.show("status-full")) == _shape(_recorded("f6-d-user-and-fencing.nodeA.status.txt", STATUS))
    pair.a.do("resume-io")
    pair.a.answer(4)
    until("outdated", lambda: pair.a.show("dstate") == "UpToDate/Outdated")
    pair.a.client().write(20)
    assert _shape(pair.a.show("status-full")) == _shape(_recorded("f1-c-after-rc4.nodeA.status.txt", STATUS))
    pair.net.heal()
    until("resync", lambda: pair.a.show("cstate") == "SyncSource")
    resyncing = "02-d-resync-running.nodeA.status.txt"
    assert _shape(pair.a.show("status-full")) == _shape(_recorded(resyncing, STATUS))
    assert _shape(pair.a.show("status")) == _shape(_recorded(resyncing, "drbdadm status r0"))
    assert pair.b.show("cstate") == "SyncTarget"
    assert pair.b.show("dstate") == "Inconsistent/UpToDate"


def test_status_when_standalone(pair: Pair) -> None:
    """A StandAlone resource has no peer lines at all."""
    pair.a.do("disconnect")
    recorded = _recorded("03-b-reconnected-split-brain.nodeA.status.txt", STATUS)
    assert _shape(pair.a.show("status-full")) == _shape(recorded)


def test_gi_and_sh_status_look_recorded(pair: Pair) -> None:
    """get-gi, show-gi and sh-status have the recorded shape; from the disk a Primary's bit 0 is not there yet, its
    flag is."""
    code, shown, _ = pair.a.tool("drbdadm show-gi r0")
    assert code == 0
    recorded = _recorded("01-f-healthy-A-after-write.nodeA.show-gi.txt", "drbdadm show-gi r0")
    assert shown.strip() == recorded.strip()
    assert (
        pair.a.tool("drbdadm get-gi r0")[1] == f"{FIRST}:{'0' * 16}:00B27B9F5C26A514:0000000000000004:1:1:1:1:0:0:0\n"
    )
    stored = pair.a.tool(f"drbdmeta --force 0 v08 {pair.a.prefix} internal get-gi")[1]
    assert stored == f"94412B91E79C9C14:{'0' * 16}:00B27B9F5C26A514:0000000000000004:1:1:1:1:0:0:0\n"
    keys = [line.partition("=")[0] for line in pair.a.show("sh-status").splitlines()]
    recorded = _recorded("02-d-resync-running.nodeA.role-cstate-dstate.txt", "drbdsetup sh-status 0")
    assert keys == [line.partition("=")[0] for line in recorded.strip().splitlines()]


def test_events_look_recorded(pair: Pair, tmp_path: Path) -> None:
    """From `up` to the thaw by code 4, a Primary's events2 stream is the recorded one, line by line, numbers aside."""
    assert pair.a.do("down") == 0
    until("b knows that a left", lambda: pair.b.show("cstate") != "Connected")  # else b's goodbye outdates b itself
    assert pair.b.do("down") == 0
    pair.a.power_loss()
    assert pair.a.tool(f"drbdmeta --force 0 v08 {pair.a.prefix} internal set-gi {pair.b.gi_stored()}")[0] == 0
    pair.a.boot()
    stream = tmp_path / "events"
    with stream.open("wb") as out:
        command = [sys.executable, str(HERE / "bin" / "drbdsetup"), "events2", "all", "--timestamps", "--statistics"]
        events = subprocess.Popen(command, env=pair.a.env, stdout=out)
    try:
        until("stream", lambda: "exists -" in stream.read_text())
        for node in (pair.a, pair.b):
            assert node.do("up") == 0
        pair.connected()
        assert pair.a.do("primary") == 0
        client = pair.a.client()
        pair.net.cut()
        client.send(1)
        until("handler", lambda: pair.a.calls() == 1)
        pair.a.answer(4)
        until("thaw", lambda: "suspended:no" in stream.read_text().partition("status:1024")[2])
    finally:
        events.terminate()
        events.wait()
    recorded = (CAPTURES / "f1-start.nodeA.events2.txt").read_text()
    assert _events(stream.read_text()) == _events(recorded)


def _events(text: str) -> list[str]:
    """Lines up to the thaw without numbers, and without what an attach or a second look at the counters adds."""
    lines = [re.sub(r" blocked:\w+", "", _shape(line)) for line in text.splitlines()]
    end = next(number for number, line in enumerate(lines) if number > 10 and line.endswith("suspended:no"))
    return [line for line in lines[:end] if not re.search(r"volume:N received:N", line)]


def test_dump_is_the_real_one(tmp_path: Path) -> None:
    """`drbdadm dump RES` prints what drbdadm-84 prints, byte by byte (and so leaves out what stands in `common`)."""
    node = Node("nodeA", tmp_path / "n")
    (node.folder / "drbd.conf").write_text((CAPTURES / "dump.res").read_text())
    code, out, _ = node.tool("drbdadm dump r0")
    assert code == 0
    assert [line for line in out.splitlines() if "defined at" not in line] == (
        CAPTURES / "dump.txt"
    ).read_text().splitlines()


def test_version_names_the_module(tmp_path: Path) -> None:
    """--version names an 8.4.11 module."""
    node = Node("nodeA", tmp_path / "n")
    assert "DRBD_KERNEL_VERSION_CODE=0x08040b" in node.tool("drbdadm --version")[1]


def test_stat_counts_acknowledged_writes(pair: Pair) -> None:
    """/sys/block/drbd0/stat moves by one write and 8 sectors an acknowledged record, not while frozen, and not on
    the Secondary."""

    def stat(node: Node) -> list[int]:
        return [int(word) for word in (node.folder / "block" / "drbd0" / "stat").read_text().split()]

    client = pair.a.client()
    client.write(3)
    assert (stat(pair.a)[4], stat(pair.a)[6], len(stat(pair.a))) == (3, 24, 17)
    pair.net.cut()
    client.send(4)
    until("frozen", lambda: pair.a.suspended == "fencing")
    assert (stat(pair.a)[4], stat(pair.a)[8]) == (3, 1)
    assert stat(pair.b)[4] == 0


# -- the service and the judge -----------------------------------------------------------------------------------------


def test_judge(pair: Pair, tmp_path: Path) -> None:
    """check_history finds nothing lost in a good run, and finds the acknowledged record that a disk has lost."""
    log = tmp_path / "writer.log"
    command = [sys.executable, str(HERE / "writer.py"), "--socket", str(pair.a.run / "r0.app"), "--log", str(log)]
    subprocess.run([*command, "--count", "10", "--interval", "0.01"], env=pair.a.env, check=True, timeout=30)
    sides = [f"a:{pair.a.prefix}:{log}", f"b:{pair.b.prefix}:{tmp_path / 'none'}"]
    judge = [sys.executable, str(HERE / "check_history.py"), "--node", sides[0], "--node", sides[1], "--survivor"]

    def verdict() -> dict[str, object]:
        done = subprocess.run([*judge, "b"], capture_output=True, text=True, timeout=30, check=False)
        return {"rc": done.returncode, **json.loads(done.stdout)}

    good = verdict()
    assert (good["rc"], good["acknowledged"], good["lost"], good["split_brain"]) == (0, 10, 0, False)
    with (pair.b.folder / "r0.data").open("a") as data:
        data.write("7 -\n")
    bad = verdict()
    assert (bad["rc"], bad["lost"], bad["lost_blocks"]) == (1, 1, [7])


def test_killed_writer_holds_the_device_while_frozen(pair: Pair) -> None:
    """A writer killed during a freeze still holds the device: demotion is refused until the write is done."""
    client = pair.a.client()
    pair.net.cut()
    client.send(1)
    until("frozen", lambda: pair.a.suspended == "fencing")
    client.close()
    time.sleep(QUIET_S)
    assert pair.a.do("secondary") == 11
    pair.heal()
    until("demoted", lambda: pair.a.do("secondary") == 0)


def test_agents_run_the_service(pair: Pair, tmp_path: Path) -> None:
    """The two OCF agents start, promote, serve, demote and stop with the codes of the standard, and log each action
    with two clocks."""
    env = {**pair.a.env, "PATH": f"{HERE / 'bin'}:{pair.a.env['PATH']}", "PGLAB_RA_LOG": str(tmp_path / "ra.log")}
    env |= {"OCF_RESKEY_writer_log": str(tmp_path / "writes"), "OCF_RESKEY_pidfile": str(tmp_path / "pid")}

    def agent(name: str, action: str) -> int:
        done = subprocess.run([HERE / "ocf" / name, action], env=env, capture_output=True, timeout=60, check=False)
        return done.returncode

    assert agent("drbd", "monitor") == 8
    assert agent("srv", "monitor") == 7
    assert agent("srv", "start") == 0
    assert agent("srv", "monitor") == 0
    until("writes", lambda: (tmp_path / "writes").read_text().count("\n") > 3)
    assert agent("srv", "stop") == 0
    assert agent("srv", "monitor") == 7
    assert agent("drbd", "demote") == 0
    assert agent("drbd", "monitor") == 0
    assert agent("drbd", "stop") == 0
    assert agent("drbd", "monitor") == 7
    assert agent("drbd", "start") == 0
    assert agent("drbd", "promote") == 0
    lines = [line.split() for line in (tmp_path / "ra.log").read_text().splitlines()]
    done = [(line[3], line[4], line[5]) for line in lines if not line[4].endswith("-begin")]
    assert done[:4] == [("srv", "start", "0"), ("srv", "stop", "0"), ("drbd", "demote", "0"), ("drbd", "stop", "0")]
    assert [line[4] for line in lines[-4:]] == ["start-begin", "start", "promote-begin", "promote"]
    assert abs(int(lines[0][1]) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 600 * 10**9
