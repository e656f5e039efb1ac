"""The rehearsed arbiter: the shipped pair logic, a store that may be lost or rolled back, a process that dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.core import arbiter, storm
from guard.core.instant import NS_PER_S, Instant
from guard.core.messages import ARBITER, Beat, BeatAck, Init, Message, Offer, Won
from guard.core.step import Heard

if TYPE_CHECKING:
    from guard.rehearsal.world import World

PAIR = "pair-1"


class Arbiter:
    """`kept` is the disk, `pair` the memory of the process. Other pairs of the cell exist by name only."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.up = True
        self.store_id = "store-1"
        self.kept: arbiter.Kept | None = None
        self.pair: arbiter.Pair | None = None
        self.boots = 1
        self.boot_at = -int(world.rng.uniform(100, 1000) * NS_PER_S)
        self.others: tuple[str, ...] = ()
        self.cell = storm.Cell(self.local(), frozenset({PAIR}))

    @property
    def era(self) -> int:
        return self.kept.register.era if self.kept is not None else 0

    def local(self) -> Instant:
        return Instant(self.world.now - self.boot_at)

    @property
    def boot_id(self) -> str:
        return f"boot-arbiter-{self.boots}"

    def site(self) -> arbiter.Site:
        return arbiter.Site(self.store_id, storm.forbids(self.cell, self.local(), self.world.policy, PAIR))

    # ---- orders of the scenario

    def init(self) -> None:
        """`pairguard init` by a person."""
        made = arbiter.made(Init("init", ("A", "B"), "A", "cell-1", "person"), PAIR, self.local(), self.boot_id)
        self._keep(made)
        self.world.checkers.register_made()

    def join_cell(self, others: int) -> None:
        """So many other pairs share the cell, all of them well and heard."""
        self.others = tuple(f"other-{n}" for n in range(others))
        names = frozenset({PAIR, *self.others})
        self.cell = storm.Cell(Instant(self.local() - 10**12), names, heard=names)

    def others_lost(self, count: int) -> None:
        for name in self.others[:count]:
            self.cell = storm.reported(self.cell, name, self.local(), self.world.policy)

    def others_back(self) -> None:
        for name in self.others:
            self.cell = storm.whole_again(self.cell, name, self.local())

    def crash(self, after_s: float | None = 1.0, *, reboot: bool = False) -> None:
        """The process dies; `after_s` None: it stays down until `start`. Only what was kept survives."""
        self.up, self.pair = False, None
        self.world.tell(ARBITER, "is down")
        if reboot:
            self.boots += 1
            self.boot_at = self.world.now
        if after_s is not None:
            self.world.at(after_s, self.start)

    def start(self) -> None:
        if self.up:
            return
        self.up = True
        self.world.tell(ARBITER, "starts")
        self.cell = storm.Cell(self.local(), self.cell.pairs)
        if self.kept is not None:
            self.pair = arbiter.Pair(self.kept, self.local(), self.boot_id)

    def lose_store(self) -> None:
        """The disk is gone; the process finds an empty one and makes a new store."""
        self.crash(None)
        self.kept = None
        self.store_id += "-new"
        self.world.tell(ARBITER, "lost its store")
        self.start()

    def roll_back(self, to: arbiter.Kept) -> None:
        """An old backup was put back under the same store id."""
        self.crash(None)
        self.kept = to
        self.world.tell(ARBITER, f"was rolled back to version {to.register.version}")
        self.start()

    # ---- running

    def hear(self, sender: str, message: Message) -> None:
        if not self.up:
            return
        if isinstance(message, Beat):
            self._storm(message)
        if self.pair is None:
            if isinstance(message, Beat):
                self._send(sender, BeatAck(message.seq, None, None, (), None, None, None, False))
            return
        pair, sends = arbiter.hear(
            self.pair, sender, message, self.local(), self.world.now / NS_PER_S, self.site(), self.world.policy
        )
        self._carry_out(pair, sends)

    def tick(self) -> None:
        if not self.up or self.pair is None:
            return
        pair, sends = arbiter.tick(self.pair, self.local(), self.world.now / NS_PER_S, self.site(), self.world.policy)
        self._carry_out(pair, sends)

    def _storm(self, beat: Beat) -> None:
        self.cell = storm.spoke(self.cell, PAIR)
        if beat.peer_lost:
            self.cell = storm.reported(self.cell, PAIR, self.local(), self.world.policy)
        elif beat.whole:
            self.cell = storm.whole_again(self.cell, PAIR, self.local())

    def _carry_out(self, pair: arbiter.Pair, sends: arbiter.Sends) -> None:
        self._keep(pair)
        for to, message in sends:
            if isinstance(message, Offer):
                self.cell = storm.let_out(self.cell, self.local(), PAIR)
            if isinstance(message, Won):
                self.world.tell(ARBITER, f"{to} wins era {message.era} for `{message.purpose}`")
            self._send(to, message)

    def _keep(self, pair: arbiter.Pair) -> None:
        """Durable before anything is said (S6)."""
        before = self.kept
        self.pair, self.kept = pair, pair.kept
        self.world.checkers.register_changed(before.register if before is not None else None, pair.kept.register)

    def _send(self, to: str, message: Message) -> None:
        node = self.world.nodes[to]

        def deliver() -> None:
            self.world.checkers.delivered(node, message)
            node.shell.take(Heard(ARBITER, message))

        self.world.network.message(ARBITER, to, message.kind, deliver)
