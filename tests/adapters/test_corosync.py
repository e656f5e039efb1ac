"""corosync: its words parsed from captures, and its membership followed on a real pair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from guard.adapters import process
from guard.adapters.clock import BootClock
from guard.adapters.corosync import Corosync, links, nodes, quorum
from guard.adapters.process import OUTPUT_BYTES_MAX, Ran, run
from guard.core.evidence import Membership, Up
from guard.errors import Unavailable, Unreadable
from tests.adapters.cluster_contract import eventually
from tests.adapters.pacemaker_stage import NODE, PEER, PacemakerStage, inside
from tests.adapters.real_pair import FORM_S_MAX, RealPair

CAPTURES = Path(__file__).parents[1] / "captures" / "corosync"
PEER_ADDRESS = "10.99.0.2"
PATIENCE_S = 60.0


def capture(name: str) -> str:
    return (CAPTURES / name).read_text()


class Replay:
    """A runner that answers corosync's programs from captures; nothing is started. None: no answer in time."""

    def __init__(self, quorum: Ran | str | None, stats: Ran | str | None, nodelist: Ran | str | None) -> None:
        self.quorum, self.stats, self.nodelist = quorum, stats, nodelist
        self.asked: list[Sequence[str]] = []

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
    ) -> Ran:
        self.asked.append(argv)
        others = self.stats if "stats" in argv else self.nodelist
        answer = self.quorum if argv[0] == "corosync-quorumtool" else others
        if answer is None:
            raise Unavailable(f"cannot run {argv[0]}", "no end within the deadline, killed")
        return Ran(0, answer, "") if isinstance(answer, str) else answer


def reader(replay: Replay, peer: str = PEER) -> Corosync:
    return Corosync(NODE, peer, clock=BootClock(), run=replay)


def whole() -> Replay:
    return Replay(capture("quorumtool-whole.txt"), capture("stats-whole.txt"), capture("nodelist.txt"))


def summary(m: Membership) -> tuple[Up, bool | None, bool | None, bool, str | None]:
    return m.running, m.peer_member, m.quorate, m.votes_three, m.ring


# ---------------------------------------------------------------- words


@pytest.mark.asyncio
async def test_a_whole_pair_has_the_peer_and_its_links() -> None:
    """From the captures: peer a member, quorate by two_node, its one link up under its ring address."""
    corosync = reader(whole())
    seen = await corosync.read()
    assert summary(seen) == (Up.UP, True, True, False, "1.9")
    assert seen.links == ((PEER_ADDRESS, Up.UP),)
    assert corosync.trouble is None


@pytest.mark.asyncio
async def test_a_cut_pair_has_neither() -> None:
    """From the captures of the cut: still quorate (two_node), the peer no member, its link down."""
    replay = Replay(capture("quorumtool-cut.txt"), capture("stats-cut.txt"), capture("nodelist.txt"))
    seen = await reader(replay).read()
    assert summary(seen) == (Up.UP, False, True, False, "1.d")
    assert seen.links == ((PEER_ADDRESS, Up.DOWN),)


@pytest.mark.asyncio
async def test_no_corosync_is_down_and_silence_is_unknown() -> None:
    """Nobody to connect to is DOWN; a program that does not answer or fails otherwise is UNKNOWN. Never quorate."""
    nobody = Ran(1, "", capture("quorumtool-not-running.txt"))
    no_cmap = Ran(1, "", capture("nodelist-not-running.txt"))
    cases = [
        (Replay(nobody, no_cmap, no_cmap), Up.DOWN),
        (Replay(nobody, no_cmap, capture("nodelist.txt")), Up.DOWN),
        (Replay(None, None, None), Up.UNKNOWN),
        (Replay(None, capture("stats-whole.txt"), capture("nodelist.txt")), Up.UNKNOWN),
        (Replay(Ran(1, "", "Unable to get node: CS_ERR_TRY_AGAIN"), "", capture("nodelist.txt")), Up.UNKNOWN),
    ]
    for replay, running in cases:
        assert summary(await reader(replay).read()) == (running, None, None, False, None)


@pytest.mark.asyncio
async def test_links_that_cannot_be_read_are_unknown_and_hide_nothing_else() -> None:
    """Without statistics (no knet, no answer) the membership stands and each ring address is UNKNOWN."""
    for stats in ("", None):
        seen = await reader(Replay(capture("quorumtool-whole.txt"), stats, capture("nodelist.txt"))).read()
        assert seen.peer_member
        assert seen.links == ((PEER_ADDRESS, Up.UNKNOWN),)


@pytest.mark.asyncio
async def test_a_peer_that_is_not_in_the_node_list_is_not_a_member_and_not_absent() -> None:
    """A wrong name gives None and says so; no other node is taken for the peer."""
    corosync = reader(whole(), peer="fs9z")
    seen = await corosync.read()
    assert (seen.running, seen.peer_member, seen.links) == (Up.UP, None, ())
    assert corosync.trouble is not None
    assert "fs9z" in corosync.trouble


@pytest.mark.asyncio
async def test_the_node_list_is_read_again_only_when_the_ring_changed() -> None:
    """A reading of a known ring asks two programs; a new ring asks for the node list once more."""
    replay = whole()
    corosync = reader(replay)
    await corosync.read()
    replay.asked.clear()
    await corosync.read()
    assert len(replay.asked) == 2
    replay.quorum = capture("quorumtool-cut.txt")
    replay.asked.clear()
    await corosync.read()
    assert len(replay.asked) == 3


@pytest.mark.parametrize(
    ("before", "later", "three"),
    [("", "", False), ("Flags:            ", "Flags:            Qdevice ", True), ("votes:   2", "votes:   3", True)],
)
def test_a_qdevice_or_three_votes_make_quorum_a_majority(before: str, later: str, three: bool) -> None:
    """two_node's quorum is no majority; a qdevice's, or that of three votes, is."""
    assert quorum(capture("quorumtool-whole.txt").replace(before, later)).votes_three() is three


def test_a_partition_that_is_not_quorate_is_read() -> None:
    """`Quorate: No` is False, a missing line is None, another word is unreadable."""
    text = capture("quorumtool-whole.txt")
    assert quorum(text.replace("Quorate:          Yes", "Quorate:          No")).quorate is False
    bare = quorum("Quorum information\n")
    assert (bare.quorate, bare.ring, bare.members, bare.expected, bare.flags) == (None, None, None, None, None)
    with pytest.raises(Unreadable):
        quorum(text.replace("Quorate:          Yes", "Quorate:          Nearly"))


@pytest.mark.asyncio
async def test_not_quorate_is_an_answer_though_the_exit_code_is_2() -> None:
    """corosync-quorumtool exits with 2 where the partition is not quorate (its manual page)."""
    text = capture("quorumtool-cut.txt").replace("Quorate:          Yes", "Quorate:          No")
    seen = await reader(Replay(Ran(2, text, ""), capture("stats-cut.txt"), capture("nodelist.txt"))).read()
    assert (seen.running, seen.quorate) == (Up.UP, False)


def test_links_are_those_of_the_asked_node() -> None:
    """Another node's statistics say nothing; a disabled link is not up; another number is unreadable."""
    text = capture("stats-whole.txt")
    assert links(text, 2) == {0: Up.UP}
    assert links(text, 1) == {}
    assert links(text.replace("enabled (u8) = 1", "enabled (u8) = 0"), 2) == {0: Up.DOWN}
    with pytest.raises(Unreadable):
        links(text.replace("connected (u8) = 1", "connected (u8) = 7"), 2)


def test_the_node_list_gives_names_ids_and_every_ring() -> None:
    """Both nodes with their addresses; a second ring is kept under its own number."""
    text = capture("nodelist.txt") + "nodelist.node.1.ring1_addr (str) = 192.0.2.2\n"
    assert [(n.nodeid, n.name, n.addresses) for n in nodes(text)] == [
        (1, NODE, ((0, "10.99.0.1"),)),
        (2, PEER, ((0, PEER_ADDRESS), (1, "192.0.2.2"))),
    ]


@pytest.mark.asyncio
async def test_watching_goes_on_by_polling_where_nothing_can_track() -> None:
    """With a tracking child that cannot start, readings come all the same."""

    async def refuse(argv: Sequence[str]) -> asyncio.subprocess.Process:
        raise Unavailable("cannot run stdbuf", "the program is missing")

    corosync = Corosync(NODE, PEER, clock=BootClock(), run=whole(), spawn=refuse)
    seen = 0
    async with asyncio.timeout(PATIENCE_S), aclosing(corosync.watch(0.01)) as readings:
        async for reading in readings:
            assert reading.peer_member
            seen += 1
            if seen == 3:
                break
    assert seen == 3


@pytest.mark.asyncio
async def test_a_line_of_the_tracker_wakes_the_watcher_and_closing_ends_the_child() -> None:
    """With a poll interval longer than any test, each line is a reading; after aclose the child is gone."""
    started: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()

    async def tracker(argv: Sequence[str]) -> asyncio.subprocess.Process:
        child = await process.spawn(["sh", "-c", "while read x; do echo changed; done"], stdin=True)
        started.put_nowait(child)
        return child

    corosync = Corosync(NODE, PEER, clock=BootClock(), run=whole(), spawn=tracker)
    async with asyncio.timeout(PATIENCE_S), aclosing(corosync.watch(3600.0)) as readings:
        assert (await anext(readings)).peer_member
        waiting = asyncio.create_task(anext(readings))  # type: ignore[arg-type]
        child = await started.get()
        assert child.stdin is not None
        child.stdin.write(b"x\n")
        await child.stdin.drain()
        assert (await waiting).peer_member
    assert child.returncode is not None


# ---------------------------------------------------------------- on the real pair


@pytest_asyncio.fixture
async def stage(pair: RealPair) -> AsyncIterator[PacemakerStage]:
    """The pair under a hold, so that a cut shoots nobody."""
    made = PacemakerStage(pair)
    try:
        assert await made.here.set_hold("corosync"), made.here.trouble
        yield made
    finally:
        await made.restore()


def real(pair: RealPair, node: str, peer: str) -> Corosync:
    async def spawn(argv: Sequence[str]) -> asyncio.subprocess.Process:
        return await process.spawn([*pair.prefix(node), *argv], stdin=True)

    return Corosync(node, peer, clock=BootClock(), run=inside(pair, node), spawn=spawn, deadline_s=20.0)


async def until(corosync: Corosync, check: Callable[[Membership], bool], what: str) -> Membership:
    """The first reading that `check` likes."""
    last: list[Membership] = []

    async def liked() -> bool:
        last[:] = [await corosync.read()]
        return check(last[0])

    await eventually(liked, what)
    return last[0]


@pytest.mark.lab
@pytest.mark.asyncio
async def test_a_real_cut_is_seen_on_the_link_and_then_in_the_membership(stage: PacemakerStage) -> None:
    """On both nodes: link down, peer gone, another ring; after the heal member again with its link up."""
    both = {NODE: real(stage.pair, NODE, PEER), PEER: real(stage.pair, PEER, NODE)}
    before = {node: await corosync.read() for node, corosync in both.items()}
    assert all(m.peer_member and m.running is Up.UP and m.quorate and not m.votes_three for m in before.values())
    assert before[NODE].links == ((PEER_ADDRESS, Up.UP),)
    assert before[PEER].links == (("10.99.0.1", Up.UP),)
    stage.pair.cut()
    for node, corosync in both.items():
        await until(corosync, lambda m: m.links[0][1] is Up.DOWN, "the link to be down")
        gone = await until(corosync, lambda m: m.peer_member is False, "the peer to be gone")
        assert gone.ring != before[node].ring
        assert gone.quorate, "two_node: each half stays quorate, which is no majority"
    stage.pair.heal()
    for corosync in both.values():
        back = await until(corosync, lambda m: m.peer_member is True, "the peer to be back")
        assert back.quorate
        await until(corosync, lambda m: m.links[0][1] is Up.UP, "the link to be up")


@pytest.mark.lab
@pytest.mark.asyncio
async def test_corosync_itself_wakes_the_watcher(stage: PacemakerStage) -> None:
    """With a poll interval longer than any test, a lost and a returned peer are told all the same."""
    async with asyncio.timeout(FORM_S_MAX), aclosing(real(stage.pair, NODE, PEER).watch(3600.0)) as readings:
        for _ in range(2):  # at once, and when the tracker says its first word
            assert (await anext(readings)).peer_member
        stage.pair.cut()
        async for reading in readings:
            if reading.peer_member is False:
                break
        stage.pair.heal()
        async for reading in readings:
            if reading.peer_member is True:
                break


@pytest.mark.lab
@pytest.mark.asyncio
async def test_unblock_is_taken_by_corosync(stage: PacemakerStage) -> None:
    """`unblock` says True and corosync's own flag reads 0; where corosync does not run it says False."""
    assert await real(stage.pair, NODE, PEER).unblock()
    flag = stage.pair.on(NODE, ["corosync-cmapctl", "-g", "runtime.votequorum.wait_for_all_status"])
    assert flag.strip().endswith("= 0")

    async def elsewhere(argv: Sequence[str], *, deadline_s: float, **_: object) -> Ran:
        return await run(["unshare", "-n", *argv], deadline_s=deadline_s)

    assert not await Corosync(NODE, PEER, clock=BootClock(), run=elsewhere).unblock()
    assert (await Corosync(NODE, PEER, clock=BootClock(), run=elsewhere).read()).running is Up.DOWN
