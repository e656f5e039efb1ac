"""The arbiter's loop: hear, decide in the core, make it durable, then say it; any number of pairs.

A write that fails takes the decision back: the state before it stays, nothing is sent, the guards ask again. What is
said without a write asks the store too: with several witnesses only that tells who speaks (`terms`).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from guard.core import arbiter, inhibits, storm
from guard.core.instant import Instant
from guard.core.messages import ARBITER, Beat, Bye, Closed, Init, Message, Refused
from guard.core.pair import Kept, Pair, Sends, Site
from guard.core.policy import Policy
from guard.core.storm import Cell
from guard.errors import PairguardError, Unavailable
from guard.events import Emit
from guard.ports import Bus, Clock, Delivery, Notifier, Registers
from guard.wire import NAME, Unread

TICK_S = 0.05  # a gathering waits 0.3 s: a sixth of it
BATCH_MAX = 256  # deliveries decided and written in one transaction
SENDERS = 8  # a send waits for its acknowledgment; one that waits must not hold up the others
PAGED = frozenset({"peer-alive", "storm"})


class Arbiter:
    """Every pair of a site. `run` ends only by cancellation, or by `TermOver` of its store."""

    def __init__(
        self, store: Registers, bus: Bus, clock: Clock, policy: Policy, emit: Emit, notifier: Notifier | None = None
    ) -> None:
        self._store, self._bus, self._clock, self._policy = store, bus, clock, policy
        self._emit, self._notifier = emit, notifier
        self._started = clock.now()
        self._boot_id = clock.boot_id()
        self.pairs: dict[str, Pair] = {
            name: Pair(kept, self._started, self._boot_id) for name, kept in store.load().items()
        }
        self.cells: dict[str, Cell] = {}
        for name, pair in self.pairs.items():
            self._enter(name, pair.kept.cell)
        self._pair_of = {node: name for name, pair in self.pairs.items() for node in pair.kept.nodes}
        self._inbox: asyncio.Queue[Delivery] = asyncio.Queue(maxsize=4 * BATCH_MAX)
        self._outbox: asyncio.Queue[tuple[str, Message]] = asyncio.Queue(maxsize=16 * BATCH_MAX)
        self.store_trouble: str | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="witness-listen")
            group.create_task(self._work(), name="witness-work")
            for number in range(SENDERS):
                group.create_task(self._say(), name=f"witness-say-{number}")

    async def _listen(self) -> None:
        async for delivery in self._bus.deliveries():
            self.put(delivery)

    def put(self, delivery: Delivery) -> None:
        """One word to be decided on. `wire.Unread` as its body: it was said, and cannot be read."""
        if self._inbox.full():
            self._inbox.get_nowait()
            self._emit("inbox-full", "the oldest message was dropped: the witness is behind", {})
        self._inbox.put_nowait(delivery)

    async def _work(self) -> None:
        while True:
            batch = await self._batch()
            await self.turn(batch)
            if self._notifier is not None:
                self._notifier.alive()
                doubt = f"STORE: {self.store_trouble}" if self.store_trouble else "ready"
                self._notifier.status(f"{len(self.pairs)} pairs, {doubt}")

    async def _batch(self) -> list[Delivery]:
        """What has arrived, or nothing after one tick."""
        batch: list[Delivery] = []
        try:
            async with asyncio.timeout(TICK_S):
                batch.append(await self._inbox.get())
        except TimeoutError:
            return batch
        while len(batch) < BATCH_MAX and not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
        return batch

    async def turn(self, batch: list[Delivery]) -> None:
        """Decide one batch and a tick of every open gathering; write; then say."""
        before = dict(self.pairs)
        work = _Work(self, self._clock.now(), self._clock.wall())
        for delivery in batch:
            work.hear(delivery)
        work.tick()
        changed = [p.kept for n, p in work.pairs.items() if before.get(n) is None or before[n].kept != p.kept]
        try:
            if changed or work.sends:
                await self._store.save(changed)
        except Unavailable as error:
            if self.store_trouble is None:
                self._emit("store-failed", f"{error}: nothing is decided until it can be written", {}, page=True)
            self.store_trouble = str(error)
            return
        if changed:  # what was not written proves nothing about the disk
            self.store_trouble = None
        self.pairs, self.cells = work.pairs, work.cells
        for kept in changed:
            self._tell_changes(before.get(kept.pair), kept)
            for node in kept.nodes:
                self._pair_of[node] = kept.pair
        for send in work.sends:
            if self._outbox.full():
                self._outbox.get_nowait()
                self._emit("inbox-full", "the oldest answer was dropped: the bus is behind", {})
            self._outbox.put_nowait(send)

    async def _say(self) -> None:
        while True:
            to, message = await self._outbox.get()
            error = await self._sent(to, message)
            if error is not None:
                short = inhibits.shortened(message)
                error = error if short == message else await self._sent(to, short)
            if error is not None:
                self._emit("not-sent", f"{message.kind} to {to}: {error}", {"kind": message.kind}, page=True)

    async def _sent(self, to: str, message: Message) -> str | None:
        """Why it cannot be sent: too large, or to no name. That ends this one message, not the witness."""
        try:
            await self._bus.send(to, message, expires_s=3.0)
        except (PairguardError, ValueError) as error:
            return str(error)
        return None

    def _tell_changes(self, before: Pair | None, kept: Kept) -> None:
        """One record for every change of a register or an inhibit."""
        old = before.kept if before is not None else None
        if old is None or old.register != kept.register:
            r = kept.register
            data = {"era": r.era, "winner": r.winner, "used": list(r.used), "basis": r.basis, "version": r.version}
            self._emit(
                "register", f"{kept.pair}: era {r.era}, winner {r.winner or 'none'}", {"pair": kept.pair, **data}
            )
        known = dict(old.inhibits) if old is not None else {}
        for name in kept.inhibits.keys() - known.keys():
            view = kept.inhibits[name]
            data = {"pair": kept.pair, "inhibit": name, "owner": view.owner}
            self._emit("inhibit-set", f"{kept.pair}: {view.reason}", data, page=view.kind in PAGED)
        for name in known.keys() - kept.inhibits.keys():
            self._emit("inhibit-ended", f"{kept.pair}: {name}", {"pair": kept.pair, "inhibit": name})

    def _enter(self, pair: str, cell: str) -> None:
        known = self.cells.get(cell) or Cell(self._started)
        self.cells[cell] = replace(known, pairs=known.pairs | {pair})

    def pair_of(self, node: str) -> str | None:
        return self._pair_of.get(node)

    @property
    def store_id(self) -> str:
        return self._store.store_id


class _Work:
    """One batch in the making; thrown away if it cannot be written."""

    def __init__(self, owner: Arbiter, now: Instant, wall: float) -> None:
        self._owner, self.now, self.wall = owner, now, wall
        self.pairs = dict(owner.pairs)
        self.cells = dict(owner.cells)
        self.sends: list[tuple[str, Message]] = []
        self._new: dict[str, str] = {}  # node -> pair that was made in this very batch

    def hear(self, delivery: Delivery) -> None:
        message, sender = delivery.body, delivery.sender
        if isinstance(message, Init):
            self._init(delivery, message)
            return
        name = self._pair_of(sender)
        pair = self.pairs.get(name) if name is not None else None
        if pair is None:
            self._stranger(sender, message)
            return
        policy, came = self._owner._policy, min(delivery.received, self.now)
        if isinstance(message, Beat):
            self._report(pair, sender, message)
        cell = pair.kept.cell
        self.cells[cell] = storm.heard(self.cells[cell], pair, sender, message, self.now, policy)  # type: ignore[arg-type]
        if isinstance(message, Unread):
            self.pairs[pair.kept.pair] = arbiter.heard_unread(pair, sender, self.now, policy)
            return
        site = self._site(pair.kept)
        pair, sends = arbiter.hear(pair, sender, message, self.now, self.wall, site, policy, came)  # type: ignore[arg-type]
        if isinstance(message, Bye):
            self.cells[pair.kept.cell] = storm.whole_again(self.cells[pair.kept.cell], pair.kept.pair, self.now)
        self._put(pair, sends)

    def tick(self) -> None:
        """Gatherings, offers and inhibits that end by evidence."""
        for pair in tuple(self.pairs.values()):
            if not pair.gatherings and not pair.kept.inhibits:
                continue
            after, sends = arbiter.tick(pair, self.now, self.wall, self._site(pair.kept), self._owner._policy)
            if after is not pair or sends:
                self._put(after, sends)

    def _pair_of(self, node: str) -> str | None:
        return self._new.get(node) or self._owner.pair_of(node)

    def _put(self, pair: Pair, sends: Sends) -> None:
        self.pairs[pair.kept.pair] = pair
        self.sends.extend(sends)
        self.cells[pair.kept.cell] = storm.said(self.cells[pair.kept.cell], pair.kept.pair, sends, self.now)

    def _site(self, kept: Kept) -> Site:
        forbids = storm.forbids(self.cells[kept.cell], self.now, self._owner._policy, kept.pair)
        return Site(self._owner.store_id, forbids)

    def _report(self, pair: Pair, sender: str, beat: Beat) -> None:
        """A guard that lost its peer counts towards a storm, unless the other one said that it leaves."""
        cell = storm.spoke(self.cells[pair.kept.cell], pair.kept.pair)
        other_left = pair.kept.other(sender) in pair.left
        if beat.peer_lost and not other_left and pair.kept.register.winner is None:
            cell = storm.reported(cell, pair.kept.pair, self.now, self._owner._policy)
        elif beat.whole is True or pair.kept.register.winner is not None:
            cell = storm.whole_again(cell, pair.kept.pair, self.now)
        self.cells[pair.kept.cell] = cell

    def _init(self, delivery: Delivery, message: Init) -> None:
        """`pairguard init`: both nodes must be free, and the sender one of them."""
        sender = delivery.sender
        taken = [n for n in message.nodes if self._pair_of(n) is not None]
        names = (*message.nodes, delivery.pair, message.cell)
        named = all(NAME.match(n) for n in names) and len({*message.nodes, ARBITER}) == 3
        wrong = sender not in message.nodes or message.preferred not in message.nodes or not named
        if taken or wrong or delivery.pair in self.pairs:
            text = f"{', '.join(taken) or delivery.pair} has a register already" if not wrong else "not of this pair"
            self.sends.append((sender, Refused(message.nonce, "exists" if not wrong else "not-yours", text)))
            return
        pair = arbiter.made(message, delivery.pair, self.now, self._owner._boot_id)
        self._new.update(dict.fromkeys(message.nodes, delivery.pair))
        cell = self.cells.get(message.cell) or Cell(self._owner._started)
        self.cells[message.cell] = replace(cell, pairs=cell.pairs | {delivery.pair})
        view = pair.kept.register.view(self._owner.store_id)
        self._put(pair, ((sender, Closed(message.nonce, view)),))

    def _stranger(self, sender: str, message: object) -> None:
        """A node without a register: told so with every beat, and nothing else."""
        if isinstance(message, Beat):
            self.sends.append((sender, arbiter.unknown_ack(message)))
