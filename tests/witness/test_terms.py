"""The store in etcd: who has the term writes and speaks, and nobody else ever does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guard.adapters.etcd import EtcdGateway
from guard.core.messages import BeatAck, Commit, Offer, Refused, Won
from guard.core.pair import Kept
from guard.core.policy import Policy
from guard.core.register import Register
from guard.errors import TermOver, Unavailable, Unreadable, Unsure, exit_code
from guard.ports import Clock, Etcd, Put, Row
from guard.witness import terms
from guard.witness.loop import Arbiter
from guard.witness.store import plain_kept
from guard.witness.terms import EtcdStore, taken
from tests.adapters.etcd_member import members, needs_etcd
from tests.adapters.etcd_simulated import Keyspace, SimulatedEtcd
from tests.core.desk import statement
from tests.daemon.stage import HandClock
from tests.witness.test_batches import Court

SITE = "/pairguard/lab"
TTL_S = 10


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        self.events.append(event)


class Patience(Exception):
    """A standby has waited for long enough."""


async def term(etcd: Etcd, clock: Clock, log: Log | None = None, name: str = "w1", waits: int = 0) -> EtcdStore:
    """The term, read; `Patience` if it is not free after so many looks."""
    left = [waits]

    async def wait(why: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Patience(why)
        await asyncio.sleep(0.05)

    store = await taken(etcd, clock, log or Log(), SITE, TTL_S, name=name, wait=wait)
    await store.read(f"store-of-{name}")
    return store


class Bench:
    """A keyspace on a clock that the test turns, and witnesses on it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.keyspace = Keyspace(self.clock)

    def etcd(self) -> SimulatedEtcd:
        return SimulatedEtcd(self.keyspace)

    async def term(self, etcd: SimulatedEtcd | None = None, log: Log | None = None, name: str = "w1") -> EtcdStore:
        return await term(etcd or self.etcd(), self.clock, log, name)


def kept(name: str = "fs1", version: int = 1, note: str = "") -> Kept:
    register = replace(Register.made(f"{name}a"), version=version)
    return Kept(name, (f"{name}a", f"{name}b"), "cell", register, refused_nonces=(note,) if note else ())


# ------------------------------------------------------------------ the store


@pytest.mark.asyncio
async def test_what_was_saved_is_found_by_the_next_term() -> None:
    """Pairs, also more than one transaction or one page takes, and the store's first name."""
    bench = Bench()
    store = await bench.term()
    assert store.load() == {}
    many = [kept(f"p{n:04}", note="x" * (n % 7)) for n in range(terms.PAGE * 2 + 5)]
    await store.save(many)
    await store.save([replace(many[3], register=replace(many[3].register, version=2))])
    await store.leave()
    again = await bench.term(name="w2")
    assert again.store_id == store.store_id == "store-of-w1"
    found = again.load()
    assert list(found) == [each.pair for each in many]
    assert found["p0003"].register.version == 2
    assert found["p0006"] == many[6]


@pytest.mark.asyncio
async def test_a_large_batch_is_parcelled() -> None:
    """No transaction has more rows or bytes than etcd takes."""
    rows = [(f"p{n}", "x" * 30_000) for n in range(250)]
    parcels = list(terms._parcels(rows))
    assert [row for parcel in parcels for row in parcel] == rows
    assert max(map(len, parcels)) <= terms.ROWS_MAX
    assert max(sum(len(text) for _, text in parcel) for parcel in parcels) <= terms.BYTES_MAX
    assert [len(p) for p in terms._parcels([("p", "x")] * 250)] == [100, 100, 50]
    assert [list(p) for p in terms._parcels([])] == [[]]


def damaged(row: Row, **changed: Any) -> Row:
    return replace(row, **changed)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("pair/fs1", '{"pair": "fs1"}', "missing there, or damaged"),
        ("pair/fs1", "no json", "damaged"),
        ("pair/fs1", plain_kept(kept("fs2")), "the row of 'fs2'"),
        ("store", "{}", "damaged"),
        ("store", "[1", "damaged"),
        ("store", '{"schema": 2, "id": "", "cluster": "1"}', "damaged"),
        ("store", '{"schema": true, "id": "a", "cluster": "1"}', "damaged"),
        ("store", '{"schema": 2, "id": "a", "cluster": "1", "more": 1}', "damaged"),
        ("store", '{"schema": 3, "id": "a", "cluster": "1"}', "written in version 3"),
        ("store", '{"schema": 2, "id": "a", "cluster": "2"}', "restored from a backup"),
    ],
)
async def test_what_is_damaged_or_not_ours_stops_the_start(key: str, value: str, word: str) -> None:
    """89: nothing is guessed, and no row is taken for another; the row is as it was."""
    bench = Bench()
    store = await bench.term()
    await store.save([kept()])
    await store.leave()
    etcd = bench.etcd()
    await etcd.transact([], [Put(f"{SITE}/{key}", value)], deadline_s=1.0)
    with pytest.raises(Unreadable, match=word) as caught:
        (await bench.term()).load()
    assert exit_code(caught.value) == 89
    assert bench.keyspace.rows[f"{SITE}/{key}"].value == value


@pytest.mark.asyncio
async def test_rows_without_a_name_are_no_store() -> None:
    """What was left of another store is not taken for the memory of a new one."""
    bench = Bench()
    await bench.etcd().transact([], [Put(f"{SITE}/pair/fs1", plain_kept(kept()))], deadline_s=1.0)
    with pytest.raises(Unreadable, match="no name"):
        await bench.term()


# ------------------------------------------------------------------ the term


@pytest.mark.asyncio
async def test_one_has_the_term_and_the_other_waits_for_its_end() -> None:
    """The standby says who has it. Not renewed, it is free after its length, and not before."""
    bench = Bench()
    first = await bench.term(name="w1")
    await first.save([kept()])
    with pytest.raises(Patience, match="w1 has the term"):
        await bench.term(name="w2")
    bench.clock.move(TTL_S - 0.1)
    with pytest.raises(Patience):
        await bench.term(name="w2")
    bench.clock.move(0.2)
    second = await bench.term(name="w2")
    assert second.load() == {"fs1": kept()}


@pytest.mark.asyncio
async def test_who_lost_the_term_writes_nothing_and_says_nothing() -> None:
    """Neither a row, nor a word that needs none; not even what was on its way; and that is told once."""
    bench = Bench()
    etcd, log = bench.etcd(), Log()
    first = await bench.term(etcd, log)
    await first.save([kept()])
    etcd.troubles = ["late"]
    late = asyncio.create_task(first.save([kept(version=7)]))
    with pytest.raises(TermOver):
        await late
    bench.clock.move(TTL_S + 1.0)
    other = await bench.term(bench.etcd(), name="w2")
    assert etcd.arrive() == [False]
    for pairs in ([kept(version=8)], []):
        with pytest.raises(TermOver):
            await first.save(pairs)
    assert other.load() == {"fs1": kept()}
    await other.save([kept(version=2)])
    assert log.events.count("term-over") == 1


@pytest.mark.asyncio
async def test_a_word_that_writes_nothing_is_said_in_the_term_too() -> None:
    """The clock of a paused machine stood still: only etcd knows that the term went to another one."""
    bench = Bench()
    first = await bench.term()
    await first.save([])
    lease = max(bench.keyspace.leases)
    bench.keyspace.drop(lease)
    await bench.term(name="w2")
    with pytest.raises(TermOver):
        await first.save([])


@pytest.mark.asyncio
async def test_a_row_that_somebody_else_wrote_ends_the_term() -> None:
    """What we remember is not what is there: we know nothing any more."""
    bench = Bench()
    store = await bench.term()
    await store.save([kept()])
    await bench.etcd().transact([], [Put(f"{SITE}/pair/fs1", plain_kept(kept(version=5)))], deadline_s=1.0)
    with pytest.raises(TermOver, match="another witness"):
        await store.save([kept(version=2)])
    assert '"version":5' in bench.keyspace.rows[f"{SITE}/pair/fs1"].value


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", ["before", "after", "late"])
async def test_a_write_that_nobody_knows_of_ends_the_term(trouble: str) -> None:
    """Written or not: this one says nothing more. A new term begins at once by what is stored, and what was still on
    its way changes nothing any more."""
    bench = Bench()
    etcd = bench.etcd()
    store = await bench.term(etcd)
    await store.save([kept()])
    etcd.troubles = [trouble]
    with pytest.raises(TermOver, match="not known") as caught:
        await store.save([kept(version=2)])
    assert exit_code(caught.value) == 87
    with pytest.raises(TermOver):
        await store.save([])
    await store.leave()
    again = await bench.term(name="w2")
    stands = 2 if trouble == "after" else 1
    assert again.load()["fs1"].register.version == stands
    etcd.arrive()
    await again.save([kept(version=3)])
    assert again._rows["fs1"].modified == bench.keyspace.rows[f"{SITE}/pair/fs1"].modified


@pytest.mark.asyncio
async def test_what_was_certainly_not_done_is_taken_back() -> None:
    """A full etcd, or none in reach: the term stands, and the same write is done later. In the middle of a batch it is
    written in part: that ends the term."""
    bench = Bench()
    etcd = bench.etcd()
    store = await bench.term(etcd)
    etcd.troubles = ["refused"]
    for cut in (False, True):
        etcd.cut = cut
        for pairs in ([kept()], []) if cut else ([kept()],):
            with pytest.raises(Unavailable):
                await store.save(pairs)
    etcd.cut = False
    await store.save([kept()])
    etcd.troubles = ["", "refused"]
    with pytest.raises(TermOver, match="in part"):
        await store.save([kept(f"p{n}") for n in range(terms.ROWS_MAX + 1)])


class Deaf(SimulatedEtcd):
    """Looks are not answered."""

    deaf = False

    async def transact(self, compares: Any, puts: Any = (), ranges: Any = (), *, deadline_s: float) -> Any:
        if self.deaf and not puts:
            raise Unsure("cannot tell what etcd did", "no answer")
        return await super().transact(compares, puts, ranges, deadline_s=deadline_s)


@pytest.mark.asyncio
async def test_a_look_without_an_answer_costs_only_the_words() -> None:
    """Nothing was written by it: the term stands."""
    bench = Bench()
    etcd = Deaf(bench.keyspace)
    store = await bench.term(etcd)
    etcd.deaf = True
    with pytest.raises(Unavailable):
        await store.save([])
    etcd.deaf = False
    await store.save([])


@pytest.mark.asyncio
async def test_the_lease_is_renewed_as_long_as_it_can_be() -> None:
    """A minute of renewals keeps the term. Cut off, it is over after its length, in which it was renewed no more; and
    a lease that is gone ends it at once. Its clock counts a suspend."""
    bench = Bench()
    etcd, log = bench.etcd(), Log()
    store = await bench.term(etcd, log)
    task = asyncio.create_task(store.hold())
    for _ in range(60):
        bench.clock.move(1.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await store.save([kept()])
    assert not task.done()
    etcd.cut = True
    bench.clock.move(TTL_S - 1.0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    bench.clock.move(1.1)
    with pytest.raises(TermOver, match="could not be renewed"):
        await task
    assert log.events == ["term-taken", "term-over"]
    etcd.cut = False
    second = await bench.term(name="w2")
    bench.keyspace.drop(max(bench.keyspace.leases))
    with pytest.raises(TermOver, match="run out"):
        await second.hold()


# ------------------------------------------------------------------ with the arbiter


class TermCourt(Court):
    """A witness on a term, whose bus and clock are the test's."""

    def __init__(self, store: EtcdStore, clock: HandClock) -> None:
        self.order, self.logged, self.clock = [], [], clock
        self.refuses, self.seq = None, 0
        self.store = store  # type: ignore[assignment]
        self.arbiter = Arbiter(store, self, clock, Policy(), self._emit)


async def offered(bench: Bench, etcd: SimulatedEtcd) -> TermCourt:
    """A witness that has offered B a claim to fence A."""
    court = TermCourt(await bench.term(etcd), bench.clock)
    await court.pairs(1)
    for _ in range(40):  # the shell renews it; here nobody does
        await etcd.keep(max(bench.keyspace.leases), deadline_s=1.0)
        bench.clock.move(1.0)
    assert isinstance((await court.claim(0, "n1"))[-1], Offer)
    return court


@pytest.mark.asyncio
@pytest.mark.parametrize("written", [True, False])
async def test_a_win_that_was_written_and_not_told_is_found_again(written: bool) -> None:
    """S1: B's win is stored, its answer lost; the witness ends without a word. The next one finds the win: A gets no
    offer, B's claim is a re-confirmation. Had it not been written, nobody has won."""
    bench = Bench()
    etcd = bench.etcd()
    court = await offered(bench, etcd)
    etcd.troubles = ["after" if written else "before"]
    said = len(court.order)
    with pytest.raises(TermOver):
        await court.arbiter.turn([court.delivery("p0b", Commit("n1", 1, "fence"))])
    with pytest.raises(TermOver):
        await court.hear(("p0a", statement("p0a", int(bench.clock.now()))))
    assert court.order[said:] == []
    await court.arbiter._store.leave()  # type: ignore[attr-defined]
    next_ = TermCourt(await bench.term(name="w2"), bench.clock)
    winner = next_.arbiter.pairs["p0"].kept.register.winner
    assert winner == ("p0b" if written else None)
    [(_, ack)] = await next_.hear(("p0a", statement("p0a", int(bench.clock.now()), member=False)))
    assert isinstance(ack, BeatAck)
    assert ack.register is not None
    assert ack.register.winner == winner
    if written:
        for _ in range(40):
            await next_.arbiter._store._etcd.keep(max(bench.keyspace.leases), deadline_s=1.0)  # type: ignore[attr-defined]
            bench.clock.move(1.0)
        answers = await next_.claim_of("p0a", "n2")
        assert [type(m) for m in answers if not isinstance(m, BeatAck)] == [Refused]
        assert isinstance((await next_.claim(0, "n3"))[-1], Offer)
        [won] = [m for _, m in await next_.hear(("p0b", Commit("n3", 2, "fence"))) if not isinstance(m, BeatAck)]
        assert isinstance(won, Won)


@pytest.mark.asyncio
async def test_a_deposed_witness_answers_nothing() -> None:
    """S6: its machine was stopped while another one became the arbiter. It wakes up, hears beats and claims, and says
    nothing to any of them, although its own clock thinks that no time has passed."""
    bench = Bench()
    etcd = bench.etcd()
    court = await offered(bench, etcd)
    bench.keyspace.drop(max(bench.keyspace.leases))
    other = TermCourt(await bench.term(name="w2"), bench.clock)
    assert other.arbiter.pairs.keys() == {"p0"}
    before = bench.keyspace.revision
    for word in (statement("p0a", int(bench.clock.now())), Commit("n1", 1, "fence")):
        said = len(court.order)
        with pytest.raises(TermOver):
            await court.hear(("p0b", word))
        assert court.order[said:] == []
        assert court.arbiter._outbox.empty()
    assert bench.keyspace.revision == before


# ------------------------------------------------------------------ a real etcd


@needs_etcd
@pytest.mark.asyncio
async def test_the_same_on_a_real_etcd(tmp_path: Path) -> None:
    """Saved and found; two race for the term, one gets it; deposed, it writes nothing; one full parcel fits."""
    from guard.adapters.clock import BootClock

    clock = BootClock()
    async with members(tmp_path) as one:
        first, second = EtcdGateway(one.endpoints), EtcdGateway(one.endpoints)
        race = await asyncio.gather(
            term(first, clock, name="w1"), term(second, clock, name="w2"), return_exceptions=True
        )
        [store] = [each for each in race if isinstance(each, EtcdStore)]
        [waits] = [each for each in race if not isinstance(each, EtcdStore)]
        assert isinstance(waits, Patience)
        big = [kept(f"p{n:03}", note="x" * 15_000) for n in range(230)]
        await store.save(big)
        await store.save([])
        await store.save([kept("p000", version=2)])
        loser = second if store._etcd is first else first
        await loser.revoke(store._lease, deadline_s=5.0)
        other = await term(loser, clock, name="w3", waits=20)
        found = other.load()
        assert (found["p000"].register.version, found["p229"]) == (2, big[229])
        assert other.store_id == store.store_id
        for pairs in ([kept("p000", version=3)], []):
            with pytest.raises(TermOver):
                await store.save(pairs)
        assert (await term_rows(other))["p000"] == 2
        await first.close()
        await second.close()


@needs_etcd
@pytest.mark.asyncio
async def test_a_term_outlives_a_member(tmp_path: Path) -> None:
    """Of three members the one that is asked stands still, as a machine does that lost its power: the term goes on by
    the other two, for longer than the lease, and what is saved then is found by the next term."""
    from guard.adapters.clock import BootClock

    clock, log = BootClock(), Log()
    async with members(tmp_path, 3) as three:
        etcd = EtcdGateway(three.endpoints)
        store = await term(etcd, clock, log)
        await store.save([kept()])
        task = asyncio.create_task(store.hold())
        three.signal(0, signal.SIGSTOP)
        since = clock.now()
        while clock.now() - since < 1.5 * TTL_S * 1e9:
            with contextlib.suppress(Unavailable):
                await store.save([])
            await asyncio.sleep(0.2)
        await store.save([kept(version=2)])
        assert not task.done()
        task.cancel()
        await store.leave()
        again = await term(etcd, clock, waits=20)
        assert again.load() == {"fs1": kept(version=2)}
        assert "term-over" not in log.events
        await etcd.close()


async def term_rows(store: EtcdStore) -> dict[str, int]:
    await store.read("none")
    return {name: each.register.version for name, each in store.load().items()}
