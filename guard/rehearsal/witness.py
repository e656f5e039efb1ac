"""The rehearsed arbiter: the shipped pair logic, a store that may be lost or rolled back, a process that dies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from guard.core import arbiter, storm
from guard.core.instant import NS_PER_S, Instant
from guard.core.messages import ARBITER, Beat, BeatAck, Init, Message, Won
from guard.core.pair import Kept, Pair, Sends, Site
from guard.core.step import Heard
from guard.rehearsal.terms import Etcd, Former

if TYPE_CHECKING:
    from guard.rehearsal.world import World


@dataclass(slots=True)
class Trouble:
    """What is wrong with the store. `crashes`: at so many coming writes the process dies, `before` or `after` each."""

    crashes: list[str] = field(default_factory=list)
    slow_s: tuple[float, float] | None = None  # until a write is durable, least and most
    refuses: int = 0  # faults by which no write is taken (etcd elects a leader)
    etcd: Etcd = field(default_factory=Etcd)


@dataclass(slots=True)
class SharedCell:
    """The one witness of a site: its process, boot, clock and store, and the storm cell of all its pairs.

    Made by the first pair unless it is handed in; whatever befalls it befalls every pair.
    """

    cell: storm.Cell | None = None
    arbiters: list[Arbiter] = field(default_factory=list)
    up: bool = True
    store_id: str = "store-1"
    boots: int = 1
    boot_at: int = 0
    starts: int = 1  # of the process
    trouble: Trouble | None = None
    up_at: int = 0  # world time of the last start
    stopped_at: int | None = None  # its machine stands since then, and with it its clock
    wall_s: float = 0.0  # its wall clock is so wrong
    former: Former | None = None  # the witness that had the term before, and does not know it yet

    def join(self, arbiter: Arbiter, boot_at: int) -> None:
        """One more pair. The first one's draw decides how long the witness has been up."""
        if self.cell is None:
            self.boot_at = boot_at
            self.cell = storm.Cell(arbiter.local(), frozenset())
        self.arbiters.append(arbiter)
        self.cell = replace(self.cell, pairs=self.cell.pairs | {arbiter.world.name})

    def cell_reports(self) -> Mapping[str, Instant]:
        """Which pairs miss a peer, as the cell counts them."""
        return self.cell.reports if self.cell is not None else {}

    def stop_vm(self, on: bool) -> None:
        """The hypervisor stops the witness: it neither hears nor knows of the time that passes."""
        now = self.arbiters[0].world.now
        if on and self.stopped_at is None:
            self.stopped_at = now
        elif not on and self.stopped_at is not None:
            self.boot_at += now - self.stopped_at
            self.up_at = now
            self.stopped_at = None
        for each in self.arbiters:
            each.world.tell(ARBITER, "stands still" if on else "goes on")
            each.world.stir()

    def crash(self, after_s: float | None, *, reboot: bool) -> None:
        self.up = False
        for each in self.arbiters:
            each.forget()
        if reboot:
            self.boots += 1
            self.boot_at = self.arbiters[0].world.now
        if after_s is not None:
            self.arbiters[0].world.at(after_s, self.start)

    def start(self) -> None:
        if self.up:
            return
        self.up = True
        self.starts += 1
        self.up_at = self.arbiters[0].world.now
        first = self.arbiters[0]
        for each in self.arbiters:
            each.world.tell(ARBITER, "starts")
        self.cell = storm.Cell(first.local(), self.cell.pairs if self.cell is not None else frozenset())
        for each in self.arbiters:
            each.remember()

    def hand_over(self, *, outlives: bool = False) -> None:
        """The term goes to a witness on another machine, which begins at once; the old one has not heard of it."""
        if not self.up or self.stopped_at is not None:
            return
        first = self.arbiters[0]
        pairs = {each.world.name: each.pair for each in self.arbiters if each.pair is not None}
        self.former = Former(pairs, first.cell, self.boot_at, outlives)
        for each in self.arbiters:
            each.world.counts["terms moved"] += 1
            each.forget()
        self.boots += 1
        self.boot_at = first.world.now - int(first.world.rng.uniform(100, 1000) * NS_PER_S)
        self.up = False
        self.start()


class Arbiter:
    """`kept` is the disk, `pair` the memory of the process. Other pairs of the cell may exist by name only."""

    def __init__(self, world: World, shared: SharedCell | None = None) -> None:
        self.world = world
        self.kept: Kept | None = None
        self.copy: Kept | None = None  # a backup of `kept`
        self.pair: Pair | None = None
        self.others: tuple[str, ...] = ()
        self.writing = False  # a write is on its way to the disk
        self.waiting: list[tuple[str, Message, Instant]] = []  # what came meanwhile, and when
        self._ticking = False  # a tick of its own is on its way
        self.shared = shared if shared is not None else SharedCell()
        self.shared.join(self, -int(world.rng.uniform(100, 1000) * NS_PER_S))

    @property
    def up(self) -> bool:
        return self.shared.up

    @property
    def store_id(self) -> str:
        return self.shared.store_id

    @property
    def cell(self) -> storm.Cell:
        cell = self.shared.cell
        if cell is None:
            raise RuntimeError("no pair has joined this witness yet")
        return cell

    @cell.setter
    def cell(self, cell: storm.Cell) -> None:
        self.shared.cell = cell

    @property
    def era(self) -> int:
        return self.kept.register.era if self.kept is not None else 0

    def local(self) -> Instant:
        shared = self.shared
        return Instant((self.world.timeline.now if shared.stopped_at is None else shared.stopped_at) - shared.boot_at)

    def wall(self) -> float:
        return self.world.now / NS_PER_S + self.shared.wall_s

    @property
    def boot_id(self) -> str:
        return f"boot-arbiter-{self.shared.boots}"

    def site(self) -> Site:
        return Site(self.store_id, storm.forbids(self.cell, self.local(), self.world.policy, self.world.name))

    # ---- orders of the scenario

    def init(self) -> None:
        """`pairguard init` by a person."""
        made = arbiter.made(
            Init("init", ("A", "B"), "A", "cell-1", "person"), self.world.name, self.local(), self.boot_id
        )
        self._keep(made)
        self.world.checkers.register_made()

    def init_again(self) -> None:
        """By a person who thinks that it was never run: the witness makes a register only where there is none."""
        if self.shared.up and self.kept is None:
            self.init()
        else:
            self.world.tell("anna", "runs `pairguard init`: refused, the register exists or nobody answers")
            self.world.counts["init refused"] += 1

    def join_cell(self, others: int) -> None:
        """So many other pairs share the cell, all of them well and heard."""
        self.others = tuple(f"other-{n}" for n in range(others))
        names = frozenset({self.world.name, *self.others})
        self.cell = storm.Cell(Instant(self.local() - 10**12), names, heard=names)

    def others_lost(self, count: int) -> None:
        for name in self.others[:count]:
            self.cell = storm.reported(self.cell, name, self.local(), self.world.policy)

    def others_back(self) -> None:
        for name in self.others:
            self.cell = storm.whole_again(self.cell, name, self.local())

    def crash(self, after_s: float | None = 1.0, *, reboot: bool = False) -> None:
        """The process dies; `after_s` None: it stays down until `start`. Only what was kept survives."""
        self.shared.crash(after_s, reboot=reboot)

    def start(self) -> None:
        self.shared.start()

    def forget(self) -> None:
        """What the process knew of this pair is gone with it."""
        self.pair = None
        self.writing, self.waiting = False, []
        self.world.tell(ARBITER, "is down")
        self.world.stir()

    def remember(self) -> None:
        """What the disk holds of this pair."""
        if self.kept is not None:
            self.pair = Pair(self.kept, self.local(), self.boot_id)
        self.world.stir()

    def lose_store(self) -> None:
        """The disk is gone; the process finds an empty one and makes a new store."""
        self.crash(None)
        self.shared.store_id += "-new"
        for each in self.shared.arbiters:
            each.kept = None
            each.world.tell(ARBITER, "lost its store")
        self.start()

    def back_up(self) -> None:
        """Copy the store, of every pair."""
        for each in self.shared.arbiters:
            each.copy = each.kept

    def roll_back(self, to: Kept | None = None) -> None:
        """An old backup was put back under the same store id: `to`, or what `back_up` copied."""
        self.crash(None)
        self.copy = to if to is not None else self.copy
        for each in self.shared.arbiters:
            if each.copy is None:
                continue
            each.kept = each.copy
            each.world.tell(ARBITER, f"was rolled back to version {each.kept.register.version}")
        self.start()

    # ---- running

    def hear(self, sender: str, message: Message, came: Instant | None = None) -> None:
        """`came`: when, if it had to wait for the store until now, as `bus.Delivery.received` says."""
        if not self.shared.up or self.shared.stopped_at is not None:
            return
        if self.shared.former is not None and came is None and self.shared.former.takes(self, sender, message):
            return
        if self.writing:
            self.waiting.append((sender, message, self.local() if came is None else came))
            return
        now = self.local()
        if isinstance(message, Beat):
            self._storm(sender, message, now)
        if self.pair is None:
            if isinstance(message, Beat):
                self.say(sender, BeatAck(message.seq, None, None, (), None, None, None, False))
            return
        policy = self.world.policy
        self.cell = storm.heard(self.cell, self.pair, sender, message, now, policy)
        pair, sends = arbiter.hear(self.pair, sender, message, now, self.wall(), self.site(), policy, came)
        self._carry_out(pair, sends)

    def hear_unread(self, sender: str) -> None:
        """A word of another version: `wire.Unread`, as witness/loop.py takes it. Nothing is made durable by it."""
        if not self.shared.up or self.shared.stopped_at is not None or self.pair is None:
            return
        self.world.counts["words of another version"] += 1
        self.pair = arbiter.heard_unread(self.pair, sender, self.local(), self.world.policy)

    def tick(self) -> None:
        if self.shared.former is not None:
            self.shared.former.tick(self)
        pair = self.pair
        if pair is None or not (pair.gatherings or pair.kept.inhibits):
            return  # a tick advances claims and ends inhibits, nothing else
        if self.writing or not self.shared.up or self.shared.stopped_at is not None:
            return
        pair, sends = arbiter.tick(pair, self.local(), self.wall(), self.site(), self.world.policy)
        self._carry_out(pair, sends)

    def _tick_soon(self, pair: Pair) -> None:
        """In a sparse world the witness ticks by itself only while a claim waits for it: every 0.1 s."""
        waits = any(each.offered is None and not each.claim.gather for each in pair.gatherings.values())
        if waits and not self._ticking:
            self._ticking = True
            self.world.stir()
            self.world.at(0.1, self._tick_of_its_own)

    def _tick_of_its_own(self) -> None:
        self._ticking = False
        self.tick()

    def _storm(self, sender: str, beat: Beat, now: Instant) -> None:
        """As guard/witness/loop.py counts: no announced restart, and no trouble of an era that has its winner."""
        self.cell = storm.spoke(self.cell, self.world.name)
        pair = self.pair
        if pair is None:
            return
        won = pair.kept.register.winner is not None
        if beat.peer_lost and pair.kept.other(sender) not in pair.left and not won:
            self.cell = storm.reported(self.cell, self.world.name, now, self.world.policy)
        elif beat.whole is True or won:
            self.cell = storm.whole_again(self.cell, self.world.name, now)

    def _carry_out(self, pair: Pair, sends: Sends) -> None:
        trouble = self.shared.trouble
        if trouble is not None and (pair.kept is not self.kept or (sends and trouble.etcd.slow_s is not None)):
            self._write(trouble, pair, sends)
        else:
            self._commit(pair, sends)

    def _write(self, trouble: Trouble, pair: Pair, sends: Sends) -> None:
        """A write that fails takes the decision back: the state before it stays, nothing is said."""
        world, rng = self.world, self.world.rng
        if trouble.crashes:
            world.counts["witness crashes at a write"] += 1
            if trouble.crashes.pop(0) == "after":
                self._keep(pair)
            self.crash(rng.uniform(0.2, 3.0))
            return
        if trouble.refuses:
            world.counts["writes refused"] += 1
            return
        if pair.kept is not self.kept and trouble.etcd.spoils(self, pair):
            return
        slow_s = trouble.slow_s or trouble.etcd.slow_s
        if slow_s is None:
            self._commit(pair, sends)
            return
        world.counts["writes late" if pair.kept is not self.kept else "looks late"] += 1
        self.writing, starts = True, self.shared.starts

        def durable() -> None:
            if not self.shared.up or self.shared.starts != starts:
                if not self.shared.up and rng.random() < 0.5:
                    self._keep(pair)  # the store took it, though nobody was left to hear so
                    self.pair = None
                return
            self.writing = False
            self._commit(pair, sends)
            waiting, self.waiting = self.waiting, []
            for sender, message, came in waiting:
                self.hear(sender, message, came)

        world.at(rng.uniform(*slow_s), durable)

    def _commit(self, pair: Pair, sends: Sends) -> None:
        self._keep(pair)
        if pair.gatherings and not self.world.cadence.dense:
            self._tick_soon(pair)
        if not sends:
            return
        self.cell = storm.said(self.cell, self.world.name, sends, self.local())
        for to, message in sends:
            if isinstance(message, Won):
                self.world.tell(ARBITER, f"{to} wins era {message.era} for `{message.purpose}`")
            self.say(to, message)

    def _keep(self, pair: Pair) -> None:
        """Durable before anything is said (S6)."""
        self.pair = pair
        self.store(pair.kept)

    def store(self, kept: Kept) -> None:
        """On the disk, whoever knows of it."""
        before, self.kept = self.kept, kept
        if before is not None and before.register is not kept.register:
            self.world.checkers.register_changed(before.register, kept.register)

    def say(self, to: str, message: Message) -> None:
        node, trouble = self.world.nodes[to], self.shared.trouble
        lag_s = self.world.rng.uniform(0.0, trouble.etcd.lag_s) if trouble is not None and trouble.etcd.lag_s else 0.0

        def deliver() -> None:
            if node.foreign:
                return
            self.world.checkers.delivered(node, message)
            node.shell.take(Heard(ARBITER, message))

        arrive = (lambda: self.world.at(lag_s, deliver)) if lag_s else deliver
        self.world.network.message(ARBITER, to, message.kind, arrive)
