"""corosync's membership as seen from this node: `guard.ports.Members` on corosync-quorumtool and corosync-cmapctl.

1. DOWN is only what corosync's own programs say when there is nobody to connect to; silence is UNKNOWN.
2. Which node is the peer is read from corosync's node list by name, never guessed from an order.
3. Membership changes are told by corosync at once (`watch`); a knet link that falls is not (corosync 3.1 does not
   notify on its statistics), so links are seen only as often as somebody reads.

Cost of one `read`, measured with corosync 3.1.7 on a 2-core machine: two processes side by side, about 10 ms of CPU
time in all (2 % of a core when polled each 0.5 s). The node list is read again only when the ring changed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from guard.adapters import process
from guard.adapters.process import Ran, Runner
from guard.core.evidence import Membership, Up
from guard.errors import PairguardError, Unavailable, Unreadable
from guard.ports import Clock

QUORUM = ("corosync-quorumtool", "-s")
NODES = ("corosync-cmapctl", "nodelist.")
TRACK = ("stdbuf", "-oL", "corosync-cmapctl", "-T", "runtime.members.", "-T", "runtime.votequorum.")
UNBLOCK = ("corosync-cmapctl", "-s", "quorum.cancel_wait_for_all", "u8", "1")  # as `pcs quorum unblock`
NOBODY = (  # the words of corosync's programs when no corosync runs (3.1.7)
    "Cannot initialize CMAP service",
    "Cannot initialize QUORUM service",
    "Failed to initialize the cmap API",
)
LINKS_MAX = 8  # knet: at most 8 links between two nodes (corosync.conf.5)
RESTART_S = 5.0  # pause before the tracker is started again after it ended
_NUMBER = re.compile(r"[0-9]{1,10}")  # 32 bits; `str.isdecimal` also takes other scripts, and any length


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of corosync's node list. `addresses`: ring number -> address as configured."""

    nodeid: int
    name: str
    addresses: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """What `corosync-quorumtool -s` says. None = not said."""

    quorate: bool | None
    ring: str | None
    expected: int | None
    flags: frozenset[str] | None
    members: frozenset[int] | None

    def votes_three(self) -> bool:
        """True if quorum means a majority: a qdevice has a vote, or at least three votes are expected.

        True as well where that was not said: who does not know takes a lack of quorum for what it may be.
        """
        if self.flags is None or self.expected is None:
            return True
        return "Qdevice" in self.flags or self.expected >= 3


class Corosync:
    """`guard.ports.Members`. `node` and `peer` are names as in corosync's node list.

    `spawn` starts the tracking child of `watch`. `trouble` says why the last reading has UNKNOWN in it.
    """

    def __init__(
        self,
        node: str,
        peer: str,
        *,
        clock: Clock,
        run: Runner,
        spawn: Callable[[Sequence[str]], Awaitable[asyncio.subprocess.Process]] | None = None,
        deadline_s: float = 3.0,
    ) -> None:
        self._node, self._peer = node, peer
        self._clock, self._run = clock, run
        self._spawn = spawn or _tracker
        self._deadline_s = deadline_s
        self._nodes: tuple[Node, ...] = ()
        self._ring: str | None = None
        self.trouble: str | None = None

    async def read(self) -> Membership:
        """One sighting; never raises for the world."""
        at, self.trouble = self._clock.now(), None
        try:
            if self._entry() is None:
                await self._read_nodes()
            status, stats = await asyncio.gather(self._ask(QUORUM), self._ask(self._stats()))
            if isinstance(status, PairguardError):
                raise status
            seen = quorum(status)
            if seen.ring != self._ring:
                await self._read_nodes()
                self._ring = seen.ring
            peer = self._entry()
            if peer is None:
                self.trouble = f"{self._peer} is not in corosync's node list"
            member = None if peer is None or seen.members is None else peer.nodeid in seen.members
            found = () if peer is None else self._links(stats, peer)
            return Membership(at, Up.UP, member, seen.quorate, seen.votes_three(), seen.ring, found)
        except _NobodyThere:
            self._nodes, self._ring = (), None
            return Membership(at, Up.DOWN, None, None, False, None)
        except PairguardError as error:
            self.trouble = str(error)
            return Membership(at, Up.UNKNOWN, None, None, False, None)

    async def unblock(self) -> bool:
        """Cancel wait-for-all. True: corosync took it; whether this node is quorate now, `read` says."""
        try:
            ran = await self._run(UNBLOCK, deadline_s=self._deadline_s)
        except Unavailable as error:
            self.trouble = str(error)
            return False
        if ran.code != 0:
            self.trouble = f"corosync refused to cancel wait-for-all: {(ran.err or ran.out).strip()}"
        return ran.code == 0

    async def watch(self, poll_s: float) -> AsyncIterator[Membership]:
        """A reading at once, then after every change that corosync tells of, and at least each `poll_s` seconds.

        If the tracking child cannot run or ends (corosync stopped), polling alone goes on and the child is tried
        again every `RESTART_S` seconds.
        """
        wake = asyncio.Event()
        tracking = asyncio.create_task(self._track(wake), name="corosync-track")
        try:
            while True:
                wake.clear()
                yield await self.read()
                waiting = asyncio.create_task(wake.wait())
                pause = asyncio.create_task(self._clock.sleep(poll_s))
                try:
                    await asyncio.wait((waiting, pause), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                    pause.cancel()
                    await asyncio.gather(waiting, pause, return_exceptions=True)
        finally:
            tracking.cancel()
            await asyncio.gather(tracking, return_exceptions=True)

    async def _track(self, wake: asyncio.Event) -> None:
        while True:
            try:
                child = await self._spawn(TRACK)
            except Unavailable as error:
                self.trouble = str(error)
            else:
                try:
                    while child.stdout is not None and await child.stdout.readline():
                        wake.set()
                except ValueError:  # a line beyond the reader's bound; what it says does not matter
                    wake.set()
                finally:
                    await process.end(child)
            wake.set()
            await self._clock.sleep(RESTART_S)

    async def _read_nodes(self) -> None:
        self._nodes = nodes(_answer(await self._run(NODES, deadline_s=self._deadline_s)))

    def _entry(self) -> Node | None:
        return next((node for node in self._nodes if node.name == self._peer), None)

    def _stats(self) -> Sequence[str]:
        peer = self._entry()
        prefix = "stats.knet." if peer is None else f"stats.knet.node{peer.nodeid}."
        return ("corosync-cmapctl", "-m", "stats", prefix)

    def _links(self, stats: str | PairguardError, peer: Node) -> tuple[tuple[str, Up], ...]:
        """State of each ring address of the peer; a ring whose state is not told is UNKNOWN."""
        connected: Mapping[int, Up] = {}
        if isinstance(stats, PairguardError):
            self.trouble = str(stats)
        else:
            connected = links(stats, peer.nodeid)
        return tuple((address, connected.get(ring, Up.UNKNOWN)) for ring, address in peer.addresses)

    async def _ask(self, argv: Sequence[str]) -> str | PairguardError:
        try:
            return _answer(await self._run(argv, deadline_s=self._deadline_s))
        except PairguardError as error:
            return error


# ---------------------------------------------------------------- parsing


def quorum(text: str) -> Quorum:
    """Parse `corosync-quorumtool -s`."""
    found = re.findall(r"^([A-Z][A-Za-z ]+):[ \t]+(.*?)[ \t]*$", text, re.MULTILINE)
    said: dict[str, str] = {key: value for key, value in found if value}
    if any(value and said[key] != value for key, value in found):
        raise Unreadable("cannot read corosync-quorumtool", "it says two things of one")
    quorate = said.get("Quorate")
    if quorate not in (None, "Yes", "No"):
        raise Unreadable("cannot read corosync-quorumtool", f"quorate is {quorate!r}")
    members = None
    _, table, rows = text.partition("Membership information\n")
    if table and "Nodes" in said:
        members = frozenset(int(row) for row in re.findall(r"^\s+([0-9]{1,10})\s+[0-9]+\s", rows, re.MULTILINE))
        if said["Nodes"] != str(len(members - {0})):  # 0 is the qdevice; a row that was lost must not read as a death
            raise Unreadable("cannot read corosync-quorumtool", f"{said['Nodes']} nodes, but {len(members)} rows")
    expected, flags = said.get("Expected votes"), said.get("Flags")
    return Quorum(
        quorate=None if quorate is None else quorate == "Yes",
        ring=said.get("Ring ID"),
        expected=int(expected) if expected is not None and _NUMBER.fullmatch(expected) else None,
        flags=None if flags is None else frozenset(flags.split()),
        members=members,
    )


def nodes(text: str) -> tuple[Node, ...]:
    """Parse `corosync-cmapctl nodelist.`; entries without an id or a name are left out."""
    entries: dict[str, dict[str, str]] = {}
    for position, key, value in re.findall(r"^nodelist\.node\.(\d+)\.(\w+) \(\w+\) = (.*)$", text, re.MULTILINE):
        entries.setdefault(position, {})[key] = value.strip()
    found = []
    for entry in entries.values():
        if _NUMBER.fullmatch(entry.get("nodeid", "")) and entry.get("name"):
            rings = ((ring, entry.get(f"ring{ring}_addr")) for ring in range(LINKS_MAX))
            addresses = tuple((ring, address) for ring, address in rings if address)
            found.append(Node(int(entry["nodeid"]), entry["name"], addresses))
    return tuple(found)


def links(text: str, nodeid: int) -> dict[int, Up]:
    """Parse `corosync-cmapctl -m stats stats.knet.nodeN.`: link number -> state. Empty without knet."""
    pattern = rf"^stats\.knet\.node{nodeid}\.link([0-9]{{1,2}})\.(enabled|connected) \(u8\) = (.*)$"
    enabled: dict[int, bool] = {}
    connected: dict[int, bool] = {}
    for link, key, value in re.findall(pattern, text, re.MULTILINE):
        if value not in ("0", "1"):
            raise Unreadable("cannot read corosync's link statistics", f"{key} is {value}")
        (enabled if key == "enabled" else connected)[int(link)] = value == "1"
    return {link: _link(up, enabled.get(link)) for link, up in connected.items()}


def _link(connected: bool, enabled: bool | None) -> Up:
    if not connected or enabled is False:
        return Up.DOWN
    return Up.UNKNOWN if enabled is None else Up.UP


class _NobodyThere(PairguardError):
    """No corosync runs on this node."""


def _answer(ran: Ran) -> str:
    """The output. quorumtool exits with 2 where the partition is not quorate: that is an answer too."""
    if any(words in ran.err + ran.out for words in NOBODY):
        raise _NobodyThere("corosync does not run on this node")
    if ran.code not in (0, 2):
        raise Unavailable("corosync does not answer", (ran.err or ran.out).strip() or f"exit code {ran.code}")
    return ran.out


async def _tracker(argv: Sequence[str]) -> asyncio.subprocess.Process:
    """corosync-cmapctl goes on tracking only while its standard input is open."""
    return await process.spawn(argv, stdin=True)
