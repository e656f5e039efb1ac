"""The replicated disk of the rehearsed pair: DRBD 8.4, protocol C, `resource-and-stonith`, as it was measured.

1. At a lost connection a Primary freezes and calls its handler once; it keeps its generation, acknowledges nothing.
2. Codes 4, 5 and 7 make a new generation and thaw; 0, 1 and 6 leave it frozen; a reconnection thaws by itself.
3. A late answer to an earlier disconnection does nothing. Divergence begins with an answer, never with the cut.
4. A peer that rebooted meanwhile: the first handshake is aborted, new generation, the handler once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from guard.core.evidence import Disk, GateFacts, Generations, Link, Replica, Role, Suspended, WriteSample
from guard.core.instant import Instant
from guard.core.step import ClientGone, HandlerAsks

if TYPE_CHECKING:
    from guard.rehearsal.nodes import Node
    from guard.rehearsal.world import World

RESOURCE = "r0"
PING_S = 2.5  # a silent peer is noticed after this (ping-int 2 s and timeout, measured 2.9-3.1 s)
GOOD = (Disk.UP_TO_DATE, Disk.CONSISTENT)
UP_LINKS = (Link.CONNECTED, Link.RESYNC)


@dataclass(slots=True)
class Replicated:
    """One node's side. `has`: numbers of the writes on this disk; `alone`: a code 4 or 7 let it go on alone."""

    current: int
    bitmap: int = 0
    history: tuple[int, ...] = ()
    role: Role = Role.SECONDARY
    disk: Disk = Disk.UP_TO_DATE
    link: Link = Link.DOWN
    suspended: set[Suspended] = field(default_factory=set)
    has: set[int] = field(default_factory=set)
    pending: int | None = None
    alone: bool = False
    crashed_primary: bool = False
    fresh_boot: bool = False
    epoch: int = 0  # disconnections so far
    heard: int = 0  # when the other end was last heard
    conn: int = 0
    completed: int = 0
    received: int = 0
    calls: dict[str, tuple[int, bool]] = field(default_factory=dict)  # handler -> (epoch, promoting)
    promoting: bool = False
    suspended_epoch: int = 0
    exposed: int = 0  # generation of the data that a Primary without a disk has shown to its application

    def writable(self) -> bool:
        return self.role is Role.PRIMARY and not self.suspended and self.disk is Disk.UP_TO_DATE


class Disks:
    """Both sides of one resource, and the connection between them."""

    def __init__(self, world: World, resource: str = RESOURCE) -> None:
        self.world, self.resource = world, resource
        first = self._generation()
        self.of: dict[str, Replicated] = {n: Replicated(first, history=(0x1000,)) for n in ("A", "B")}
        self.acked: dict[int, str] = {}  # write -> node that acknowledged it
        self.acked_at = 0  # when the last write was acknowledged
        self.acks_lost = False  # what the peer says back does not arrive
        self.written = 0
        self.conns = 0
        self.turning = False  # a silence is about to be noticed, or two ends to meet
        self.split_brains = 0
        self.gate = GateFacts("C", "resource-and-stonith", True, "block")
        self.ping_s = PING_S
        self.gate_of: dict[str, GateFacts] = {}  # where one node's settings differ from `gate`
        self.unreadable: set[str] = set()  # nodes whose generations cannot be read
        self.broken = 0  # faults that break replication alone
        self.ping_s = PING_S
        self.handler_start_s: dict[str, float] = {}  # until a node's handler asks, where that was measured
        self.resync_s = (1.0, 3.0)
        self.handler_late_s: tuple[float, float] | None = None  # between the handler's exit and DRBD's taking it

    def _generation(self) -> int:
        return self.world.rng.getrandbits(46) << 1 | (0xABCD << 48)

    def peer(self, node: str) -> str:
        return "B" if node == "A" else "A"

    def changed(self, *nodes: str) -> None:
        for name in nodes:
            self.world.nodes[name].saw_disk()

    # ---- what the guard reads

    def replica(self, name: str) -> Replica:
        mine, theirs = self.of[name], self.of[self.peer(name)]
        if mine.link is Link.DOWN:  # not in the kernel: what the metadata says, and nothing of the gate
            return replace(self.stored(name), role=Role.SECONDARY, gate=GateFacts())
        up = mine.link in UP_LINKS
        peer_disk = theirs.disk if up else Disk.OUTDATED if mine.alone else Disk.UNKNOWN
        return Replica(
            resource=self.resource,
            role=mine.role,
            peer_role=theirs.role if up else Role.UNKNOWN,
            disk=mine.disk,
            peer_disk=peer_disk,
            link=mine.link,
            generations=None
            if name in self.unreadable
            else Generations(mine.current | (mine.role is Role.PRIMARY), mine.bitmap, mine.history),
            suspended=frozenset(mine.suspended),
            gate=self.gate_of.get(name, self.gate),
            open_count=int(mine.role is Role.PRIMARY),
            out_of_sync_kib=0,
        )

    def stored(self, name: str) -> Replica:
        """Metadata before `drbdadm up`."""
        mine = self.of[name]
        good = mine.disk is not Disk.INCONSISTENT
        return Replica(
            resource=self.resource,
            role=Role.UNKNOWN,
            disk=Disk.CONSISTENT if mine.disk in GOOD else mine.disk,
            link=Link.DOWN,
            generations=Generations(mine.current | mine.crashed_primary, mine.bitmap, mine.history),
            gate=self.gate_of.get(name, self.gate),
            was_up_to_date=good and mine.disk is not Disk.OUTDATED,
        )

    def sample(self, name: str, at: Instant) -> WriteSample:
        mine = self.of[name]
        counts = mine.link not in (Link.RESYNC, Link.DOWN)
        return WriteSample(self.resource, at, mine.role, mine.completed, mine.received, counts)

    # ---- writing

    def write(self, node: Node) -> None:
        """The application of an active Primary writes once; it waits for each acknowledgement."""
        mine, other = self.of[node.name], self.of[self.peer(node.name)]
        if not node.runs() or not node.cluster.mounted or not mine.writable() or mine.pending is not None:
            return
        if mine.link not in UP_LINKS and not mine.alone:
            return
        self.written += 1
        number = mine.pending = self.written
        mine.has.add(number)
        if mine.link not in UP_LINKS:
            self._acknowledge(node.name, number)
            return
        conn, peer = mine.conn, self.world.nodes[self.peer(node.name)]

        def arrive() -> None:
            if not peer.runs() or other.conn != conn or other.link not in UP_LINKS:
                return
            other.has.add(number)
            other.received += 4
            if self.acks_lost:
                return
            self.world.network.carry(peer.name, node.name, back, life_s=1.0)

        def back() -> None:
            if node.runs() and mine.conn == conn and mine.link in UP_LINKS and mine.pending == number:
                self._acknowledge(node.name, number)

        self.world.network.carry(node.name, peer.name, arrive, life_s=1.0)

    def _acknowledge(self, name: str, number: int) -> None:
        mine = self.of[name]
        mine.pending = None
        mine.completed += 1
        self.acked[number] = name
        self.acked_at = self.world.now

    # ---- the connection

    def tick(self) -> None:
        self.turning = False
        if self.still_hears():
            return
        for name in ("A", "B"):
            node, mine = self.world.nodes[name], self.of[name]
            if not node.runs() or mine.link not in UP_LINKS:
                continue
            peer, other = self.world.nodes[self.peer(name)], self.of[self.peer(name)]
            reachable = self._path() and peer.runs()
            if reachable and other.link in UP_LINKS and other.conn == mine.conn:
                mine.heard = self.world.now
            elif reachable or self.world.now - mine.heard > (self.ping_s + self.world.rng.uniform(0, 0.6)) * 1e9:
                self.lose(name)
            else:
                self.turning = True
        both = [self.of[n] for n in ("A", "B")]
        running = all(self.world.nodes[n].runs() for n in ("A", "B"))
        meet = running and self._path() and all(r.link is Link.CONNECTING for r in both)
        self.turning = self.turning or meet
        if meet and self.world.rng.random() < 0.25:
            self._handshake()

    def still_hears(self) -> bool:
        """Until this moment both ends heard each other, if nothing is wrong yet."""
        a, b = self.of["A"], self.of["B"]
        if a.conn != b.conn or a.link not in UP_LINKS or b.link not in UP_LINKS or not self._path():
            return False
        nodes = self.world.nodes
        if not (nodes["A"].runs() and nodes["B"].runs()):
            return False
        a.heard = b.heard = self.world.now
        return True

    def plain(self) -> bool:
        """Nothing is wrong with what the guards can read of it, nor with its settings."""
        odd = self.unreadable or self.broken or self.acks_lost or self.handler_late_s is not None
        return not odd and not self.gate_of and self.gate.closed() is True

    def _path(self) -> bool:
        return not self.broken and self.world.network.open("A", "B")

    def lose(self, name: str) -> None:
        """The connection is gone, as this end notices."""
        mine = self.of[name]
        mine.link = Link.CONNECTING
        mine.epoch += 1
        mine.alone = False
        self.world.tell(name, "DRBD lost its peer" + (" and froze" if mine.role is Role.PRIMARY else ""))
        if mine.role is Role.PRIMARY:
            mine.suspended.add(Suspended.FENCING)
            self.call_handler(name, promoting=False)
        self.changed(name)

    def call_handler(self, name: str, *, promoting: bool) -> None:
        mine, node = self.of[name], self.world.nodes[name]
        job = self.world.name_of("handler")
        mine.calls[job] = (mine.epoch, promoting)
        start_s = self.handler_start_s.get(name, self.world.rng.uniform(0.05, 0.4))
        node.later(start_s, lambda: node.shell.ask(HandlerAsks(job, self.resource)))

    def answered(self, name: str, job: str, code: int) -> None:
        """The handler returned `code`."""
        if self.handler_late_s is not None:
            self.world.counts["handler answers late"] += 1
            late_s = self.world.rng.uniform(*self.handler_late_s)
            self.world.nodes[name].later(late_s, lambda: self._take(name, job, code))
        else:
            self._take(name, job, code)

    def kill_handlers(self, name: str) -> None:
        """The handler's processes are killed: DRBD takes that for no answer, and does not ask again by itself."""
        shell = self.world.nodes[name].shell
        for job in tuple(self.of[name].calls):
            self.world.counts["handlers killed"] += 1
            shell.clients.pop(job, None)
            shell.take(ClientGone(job))
            self._take(name, job, 1)

    def _take(self, name: str, job: str, code: int) -> None:
        mine = self.of[name]
        epoch, promoting = mine.calls.pop(job, (-1, False))
        self.world.tell(name, f"fence-peer handler returned {code}")
        if epoch != mine.epoch or mine.link in UP_LINKS or mine.link is Link.DOWN:
            self.world.counts["handler answers of an earlier disconnection"] += 1
            return
        if promoting:
            mine.promoting = False
            if code == 6:
                mine.disk = Disk.OUTDATED
        if code in (4, 5, 7) and (promoting or mine.role is Role.PRIMARY) and mine.disk in GOOD:
            if promoting:
                mine.role = Role.PRIMARY
                mine.disk = Disk.UP_TO_DATE
                self.world.tell(name, "promoted")
            self._new_generation(mine)
            mine.alone = True
            mine.suspended.discard(Suspended.FENCING)
            if mine.pending is not None and not mine.suspended:
                self._acknowledge(name, mine.pending)
            self.world.granted(name)
        self.changed(name)

    def _new_generation(self, mine: Replicated) -> None:
        if mine.bitmap:
            mine.history = (mine.bitmap, *mine.history)
        mine.bitmap, mine.current = mine.current, self._generation()

    def _handshake(self) -> None:
        a, b = self.of["A"], self.of["B"]
        if Disk.DISKLESS in (a.disk, b.disk):
            self._without_disk(a, b)
            return
        if a.role is b.role is Role.PRIMARY:
            for mine, name in ((a, "A"), (b, "B")):
                if Suspended.FENCING in mine.suspended:
                    mine.epoch += 1
                    self.call_handler(name, promoting=False)
                else:
                    mine.link = Link.STANDALONE
            self.world.tell("DRBD", "refused to connect two primaries")
            self.changed("A", "B")
            return
        if a.current == b.current:
            self._same(a, b)
            return
        older, newer = (a, b) if a.current in (b.bitmap, *b.history) else (b, a)
        if older.current not in (newer.bitmap, *newer.history):
            self.split_brains += 1
            self.world.tell("DRBD", "split brain detected")
            a.link = b.link = Link.STANDALONE
        elif older.role is Role.PRIMARY or newer.disk not in GOOD:
            older.link = Link.STANDALONE
            self.world.tell("DRBD", "refused: the older side is primary or the newer disk is not good")
        else:
            self._connect(source=newer)
        self.changed("A", "B")

    def _without_disk(self, a: Replicated, b: Replicated) -> None:
        """A Primary without a disk refuses other data than it had ("Can only connect to data with current UUID")."""
        for mine, other in ((a, b), (b, a)):
            if mine.disk is Disk.DISKLESS and mine.role is Role.PRIMARY and mine.exposed != other.current:
                return
        self._connect(None)
        self.changed("A", "B")

    def _same(self, a: Replicated, b: Replicated) -> None:
        for name, mine, other in (("A", a, b), ("B", b, a)):
            if Suspended.FENCING in mine.suspended and other.fresh_boot:
                # Law 4: "cannot thaw IO with an only Consistent peer"
                other.fresh_boot = False
                mine.epoch += 1
                self._new_generation(mine)
                self.world.tell("DRBD", "first handshake aborted: the peer is only Consistent")
                self.call_handler(name, promoting=False)
                self.changed("A", "B")
                return
        source = None
        if a.crashed_primary is not b.crashed_primary:
            source = a if a.crashed_primary else b
        elif Disk.INCONSISTENT in (a.disk, b.disk) and a.disk is not b.disk:
            source = a if b.disk is Disk.INCONSISTENT else b
        self._connect(source)
        self.changed("A", "B")

    def _connect(self, source: Replicated | None) -> None:
        self.conns += 1
        conn = self.conns
        self.world.tell("DRBD", "connected" + (", resynchronising" if source is not None else ""))
        for name, mine in self.of.items():
            other = self.of[self.peer(name)]
            mine.link = Link.CONNECTED if source is None else Link.RESYNC
            mine.conn, mine.heard, mine.alone, mine.fresh_boot = conn, self.world.now, False, False
            mine.suspended.discard(Suspended.FENCING)
            if mine.promoting:
                mine.promoting = False
            if mine.pending is not None:
                other.has.add(mine.pending)
                self._acknowledge(name, mine.pending)
            if mine.disk is Disk.DISKLESS:
                continue
            if source is None or mine is source:
                mine.disk = Disk.UP_TO_DATE
            else:
                mine.disk = Disk.INCONSISTENT
        if source is not None:
            self.world.at(self.world.rng.uniform(*self.resync_s), lambda: self._resynced(source, conn))

    def _resynced(self, source: Replicated, conn: int) -> None:
        target = self.of["B"] if source is self.of["A"] else self.of["A"]
        if source.conn != conn or target.conn != conn or Link.RESYNC not in (source.link, target.link):
            return
        if source.link is not Link.RESYNC or target.link is not Link.RESYNC:
            return
        if source.bitmap:
            source.history = (source.bitmap, *source.history)
            source.bitmap = 0
        target.has = set(source.has)
        target.received += 100
        target.current, target.bitmap, target.history = source.current, 0, source.history
        target.disk = Disk.UP_TO_DATE
        source.crashed_primary = target.crashed_primary = False
        source.link = target.link = Link.CONNECTED
        self.world.tell("DRBD", "resynchronised")
        self.changed("A", "B")

    # ---- orders

    def promote(self, name: str) -> None:
        """`drbdadm primary`: at once while connected, by the handler's leave while not."""
        mine, other = self.of[name], self.of[self.peer(name)]
        if mine.role is Role.PRIMARY or mine.promoting or mine.link is Link.DOWN or mine.disk not in GOOD:
            return
        if mine.link in UP_LINKS:
            if not self._path() or not self.world.nodes[self.peer(name)].runs():
                return  # the peer has to agree, and it does not answer
            if other.role is not Role.PRIMARY and mine.disk is Disk.UP_TO_DATE:
                mine.role = Role.PRIMARY
                self.world.tell(name, "promoted while connected")
                self.changed("A", "B")
            return
        mine.promoting = True
        self.call_handler(name, promoting=True)

    def idle(self, name: str) -> bool:
        """Could be demoted now."""
        mine = self.of[name]
        return not mine.suspended and mine.pending is None

    def demote(self, name: str) -> None:
        mine = self.of[name]
        if mine.role is Role.PRIMARY and self.idle(name):
            mine.role = Role.SECONDARY
            mine.alone = False
            self.changed("A", "B")

    def outdate(self, name: str) -> None:
        mine = self.of[name]
        if mine.role is Role.SECONDARY and mine.link not in UP_LINKS and mine.disk in GOOD:
            mine.disk = Disk.OUTDATED
            self.changed(name)

    def fail_disk(self, name: str) -> None:
        """The local disk gives I/O errors: DRBD detaches it (on-io-error detach). A connected peer goes on from there
        with a generation of its own, and a Primary without a disk serves that peer's data and no other's."""
        mine, other = self.of[name], self.of[self.peer(name)]
        if mine.disk not in GOOD:
            return
        mine.disk, mine.exposed = Disk.DISKLESS, mine.current
        if mine.link in UP_LINKS and other.disk in GOOD:
            self._new_generation(other)
            mine.exposed = other.current
        self.world.tell(name, "DRBD detached its disk after an I/O error")
        self.changed("A", "B")

    def attach(self, name: str) -> None:
        """The disk is back. Connected, the older side is brought up to date; alone, the next handshake decides."""
        mine, other = self.of[name], self.of[self.peer(name)]
        if mine.disk is not Disk.DISKLESS:
            return
        older = mine.current in (other.bitmap, *other.history)
        if mine.link in UP_LINKS and other.disk is Disk.DISKLESS and older:
            self.world.at(2.0, lambda: self.attach(name))  # nobody has the newer data: wait for the peer's disk
            return
        mine.disk = Disk.UP_TO_DATE if mine.role is Role.PRIMARY or mine.link in UP_LINKS else Disk.CONSISTENT
        self.world.tell(name, "DRBD attached its disk")
        if mine.link in UP_LINKS and mine.current != other.current:
            self._connect(source=other if older else mine)
        self.changed("A", "B")

    def suspend(self, name: str) -> bool:
        """`suspend-io`, read back: suspended, or the kernel has nothing that could write."""
        mine = self.of[name]
        if mine.link is not Link.DOWN:
            mine.suspended.add(Suspended.USER)
            mine.suspended_epoch = mine.epoch
            self.changed(name)
        return True

    def resume(self, name: str) -> None:
        mine = self.of[name]
        if Suspended.USER not in mine.suspended:
            return
        mine.suspended.discard(Suspended.USER)
        if mine.role is Role.PRIMARY and mine.epoch != mine.suspended_epoch:
            self._new_generation(mine)  # measured trap: a generation that the connected peer does not get
        self.changed(name)

    def power_lost(self, name: str) -> None:
        mine = self.of[name]
        mine.crashed_primary = mine.crashed_primary or mine.role is Role.PRIMARY
        mine.role, mine.link, mine.pending = Role.SECONDARY, Link.DOWN, None
        mine.suspended, mine.alone, mine.promoting = set(), False, False
        mine.calls = {}
        mine.epoch += 1

    def bring_up(self, name: str) -> None:
        """`drbdadm up` after a boot: a good disk is only Consistent until the peer is met."""
        mine = self.of[name]
        mine.link, mine.fresh_boot = Link.CONNECTING, True
        mine.completed = mine.received = 0
        if mine.disk is Disk.UP_TO_DATE:
            mine.disk = Disk.CONSISTENT
        self.changed(name)
