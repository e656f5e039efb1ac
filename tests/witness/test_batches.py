"""The witness's loop: decided, written, said, in that order, for many pairs in one batch."""

from __future__ import annotations

import asyncio
import collections.abc
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guard.core.instant import after
from guard.core.messages import (
    ARBITER,
    Answer,
    Attest,
    BeatAck,
    Claim,
    Closed,
    CloseEra,
    Commit,
    Evidence,
    InhibitView,
    Init,
    LiftInhibit,
    Message,
    Offer,
    Refused,
    SetInhibit,
    Won,
)
from guard.core.pair import Kept
from guard.core.policy import Policy
from guard.core.register import Register, commit
from guard.errors import SettingsError, Unavailable, Unreadable
from guard.ports import Delivery
from guard.wire import Signer
from guard.witness.loop import Arbiter
from guard.witness.store import SCHEMA, Store, parse_kept, plain_kept
from tests.adapters.bus_contract import until
from tests.core.desk import evidence, statement
from tests.daemon.stage import HandClock


class Order(Store):
    """The real store; it notes when it wrote, and fails when told to."""

    def __init__(self, path: Path, order: list[object]) -> None:
        super().__init__(path, "store-1")
        self.order, self.failing = order, False

    async def save(self, pairs: Iterable[Kept]) -> None:
        kept = list(pairs)
        if self.failing and kept:
            raise Unavailable("cannot write the store", "disk full")
        await super().save(kept)
        self.order.append("durable" if kept else "nothing to write")


class Court:
    """A witness whose bus and clock are the test's."""

    def __init__(self, folder: Path) -> None:
        self.order: list[object] = []
        self.logged: list[str] = []
        self.clock = HandClock()
        self.store = Order(folder / "witness.sqlite", self.order)
        self.refuses: type[Exception] | None = None
        self.arbiter = Arbiter(self.store, self, self.clock, Policy(), self._emit)
        self.seq = 0

    # ---- guard.ports.Bus
    async def send(self, to: str, body: object, *, expires_s: float) -> bool:
        if self.refuses is not None:
            raise self.refuses("cannot send that")
        self.order.append((to, body))
        return True

    async def deliveries(self) -> AsyncIterator[Delivery]:
        await asyncio.Event().wait()
        yield Delivery("", None, self.clock.now())

    def connected(self) -> bool:
        return True

    def _emit(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        self.logged.append(event)

    # ---- the test's own
    async def hear(self, *words: tuple[str, Message], pair: str = "") -> list[tuple[str, Any]]:
        """One batch; what is said on it. The pair that signs is the sender's name without its last letter."""
        batch = [self.delivery(sender, body, pair) for sender, body in words]
        since = len(self.order)
        await self.arbiter.turn(batch)
        while not self.arbiter._outbox.empty():
            await self.send(*self.arbiter._outbox.get_nowait(), expires_s=1.0)
        return [each for each in self.order[since:] if isinstance(each, tuple)]

    def delivery(self, sender: str, body: Message, pair: str = "") -> Delivery:
        return Delivery(sender, body, self.clock.now(), pair or sender[:-1])

    async def wait(self, seconds: float) -> list[tuple[str, Any]]:
        said = []
        until_ = after(self.clock.now(), seconds)
        while self.clock.now() < until_:
            self.clock.move(min(0.2, seconds))
            said += await self.hear()
        return said

    async def pairs(self, count: int) -> None:
        """So many whole, attested pairs in one cell, of an arbiter that is up for long."""
        for n in range(count):
            a, b = f"p{n}a", f"p{n}b"
            await self.hear((a, Init(f"i{n}", (a, b), a, "cell", "person")))
            self.seq += 1
            await self.hear(
                (a, Attest(self.seq, evidence(a, role="primary"))),
                (b, Attest(self.seq, evidence(b))),
                *((node, statement(node, int(self.clock.now()))) for node in (a, b)),
            )

    async def lost(self, *pairs: int) -> None:
        for n in pairs:
            node = f"p{n}b"
            await self.hear((node, statement(node, int(self.clock.now()), member=False)))

    async def claim(self, n: int, nonce: str) -> list[Any]:
        return await self.claim_of(f"p{n}b", nonce)

    async def claim_of(self, node: str, nonce: str) -> list[Any]:
        said = await self.hear((node, Claim(nonce, "fence", evidence(node, connected=False), "?")))
        return [body for to, body in said + await self.wait(1.0) if to == node]


@pytest.mark.asyncio
async def test_what_was_decided_is_written_before_it_is_said(tmp_path: Path) -> None:
    """Init, attest and win: in each batch the store comes first."""
    court = Court(tmp_path)
    said = await court.hear(("p0a", Init("i", ("p0a", "p0b"), "p0a", "cell", "person")))
    assert isinstance(said[0][1], Closed)
    assert court.order.index("durable") < court.order.index(said[0])
    court.store.close()


@pytest.mark.asyncio
async def test_a_write_that_fails_takes_the_decision_back(tmp_path: Path) -> None:
    """Nothing is said, nothing is believed; the same words are decided anew once the store can be written."""
    court = Court(tmp_path)
    await court.pairs(1)
    court.clock.move(40.0)
    offers = await court.claim(0, "n1")
    assert isinstance(offers[-1], Offer)
    court.store.failing = True
    before = dict(court.arbiter.pairs)
    for _ in range(3):
        assert await court.hear(("p0b", Commit("n1", 1, "fence"))) == []
    assert court.arbiter.pairs == before
    assert court.logged.count("store-failed") == 1
    assert court.arbiter.store_trouble
    await court.hear(("p0b", statement("p0b", int(court.clock.now()), member=False)))
    assert court.arbiter.store_trouble  # a batch that writes nothing proves nothing
    court.store.failing = False
    [(_, won)] = [
        (to, m) for to, m in await court.hear(("p0b", Commit("n1", 1, "fence"))) if not isinstance(m, BeatAck)
    ]
    assert isinstance(won, Won)
    assert court.arbiter.store_trouble is None
    court.store.close()


@pytest.mark.asyncio
async def test_what_waited_for_the_store_is_as_old_as_it_is(tmp_path: Path) -> None:
    """S2, S3: a write took 8 s. An attest, a claim and beats that came before it are not taken for said just now: their
    age is in the offer, and no era ends on them; but who was heard behind that queue is no dead one."""
    court = Court(tmp_path)
    await court.pairs(1)
    court.clock.move(40.0)
    came = court.clock.now()
    queued: list[tuple[str, Any]] = [
        ("p0a", Attest(7, evidence("p0a", role="primary"))),
        *((node, statement(node, int(came))) for node in ("p0a", "p0b")),
    ]
    court.clock.move(8.0)
    await court.arbiter.turn([Delivery(node, word, came, "p0") for node, word in queued])
    pair = court.arbiter.pairs["p0"]
    assert (pair.kept.testimony["p0a"].at, pair.beat_at["p0b"]) == (came, came)
    assert pair.heard["p0b"] == court.clock.now()
    _, said = (await court.hear(("p0b", CloseEra("c", 1, "close", "session-1"))))[-1]
    assert said.reason == "not-whole"
    claim = Claim(
        "n1", "alone", evidence("p0a", role="primary", connected=False), "?"
    )  # it sits: a living peer is no bar
    await court.arbiter.turn([Delivery("p0a", claim, came, "p0")])
    answer = Answer("n1", evidence("p0b", connected=False), yielded=False, quiet_for_s=0.0)
    await court.arbiter.turn([Delivery("p0b", answer, came, "p0")])
    [offer] = [word for _, word in await court.wait(1.0) if isinstance(word, Offer)]
    assert offer.fresh == "live"
    assert 8.0 < offer.candidate_age_s < 10.0
    assert offer.target_age_s is not None
    assert 8.0 < offer.target_age_s < 10.0
    court.store.close()


@pytest.mark.asyncio
async def test_two_inits_of_one_batch_make_one_register(tmp_path: Path) -> None:
    """Both nodes ask at once, even under two pair names: the second is refused."""
    court = Court(tmp_path)
    said = await court.hear(
        ("p0a", Init("i1", ("p0a", "p0b"), "p0a", "cell", "x")), ("p0b", Init("i2", ("p0a", "p0b"), "p0b", "cell", "x"))
    )
    assert [type(m) for _, m in said] == [Closed, Refused]
    other = Court(tmp_path / "other")
    batch = [
        Delivery("p1a", Init("i1", ("p1a", "p1b"), "p1a", "cell", "x"), other.clock.now(), "one"),
        Delivery("p1b", Init("i2", ("p1a", "p1b"), "p1b", "cell", "x"), other.clock.now(), "two"),
    ]
    await other.arbiter.turn(batch)
    assert set(other.arbiter.pairs) == {"one"}
    court.store.close()
    other.store.close()


@pytest.mark.asyncio
async def test_a_message_that_cannot_be_sent_does_not_end_the_witness(tmp_path: Path) -> None:
    """Too large, or to a name that is none: it is logged, the next one leaves."""
    court = Court(tmp_path)
    task = asyncio.create_task(court.arbiter.run())
    try:
        for error in (ValueError, SettingsError):
            court.refuses = error
            court.arbiter._outbox.put_nowait(("p0a", Refused("n", "r", "t")))
            count = court.logged.count("not-sent")
            await until(lambda c=count: court.logged.count("not-sent") > c, "it is logged")  # type: ignore[misc]
        court.refuses = None
        court.arbiter._outbox.put_nowait(("p0a", Refused("n2", "r", "t")))
        await until(lambda: ("p0a", Refused("n2", "r", "t")) in court.order, "the next one leaves")
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        court.store.close()


@pytest.mark.asyncio
async def test_a_storm_stops_all_claims_and_then_lets_one_a_minute_win(tmp_path: Path) -> None:
    """Three of four pairs: nothing is offered; a minute of quiet later one claim wins, the next a minute after it."""
    court = Court(tmp_path)
    await court.pairs(4)
    court.clock.move(40.0)
    await court.lost(0, 1, 2)
    for n in (0, 1, 2):
        [refused] = [m for m in await court.claim(n, f"s{n}") if not isinstance(m, BeatAck)]
        assert (type(refused), refused.reason) == (Refused, "storm")
    court.clock.move(61.0)
    assert isinstance((await court.claim(0, "h0"))[-1], Offer)
    refused = (await court.claim(1, "h1"))[-1]
    assert refused.reason == "storm-half-open"
    said = await court.hear(("p0b", Commit("h0", 1, "fence")))
    assert [type(m) for _, m in said] == [Won]
    assert (await court.claim(1, "h2"))[-1].reason == "storm-half-open"
    court.clock.move(61.0)
    assert isinstance((await court.claim(1, "h3"))[-1], Offer)
    court.store.close()


@pytest.mark.asyncio
async def test_what_is_kept_is_read_back_equal(tmp_path: Path) -> None:
    """Register, testimony, session, inhibits, last fence: a second process of the same store knows them all."""
    court = Court(tmp_path)
    await court.pairs(3)
    court.clock.move(40.0)
    await court.claim(0, "n1")
    await court.hear(("p0b", Commit("n1", 1, "fence", "device", 75.0)))
    before = {name: pair.kept for name, pair in court.arbiter.pairs.items()}
    assert before["p0"].register.winner == "p0b"
    assert before["p0"].last_fence is not None
    court.store.close()
    again = Court(tmp_path)
    assert {name: pair.kept for name, pair in again.arbiter.pairs.items()} == before
    assert again.arbiter.cells["cell"].pairs == {"p0", "p1", "p2"}
    assert replace(before["p0"], inhibits={}) == before["p0"]
    again.store.close()


@pytest.mark.asyncio
async def test_a_row_that_lacks_a_field_is_no_row(tmp_path: Path) -> None:
    """S6: a field that is gone would read as its default, and an inhibit that is lost as none."""
    court = Court(tmp_path)
    await court.pairs(1)
    text = plain_kept(court.arbiter.pairs["p0"].kept)
    court.store.close()
    assert parse_kept("p0", text, tmp_path).pair == "p0"
    for field in json.loads(text):
        rest = {name: value for name, value in json.loads(text).items() if name != field}
        with pytest.raises(Unreadable):
            parse_kept("p0", json.dumps(rest), tmp_path)


def _stored_types(kind: object) -> Iterator[object]:
    """Every type that a stored row is made of."""
    yield kind
    inner = get_type_hints(kind).values() if isinstance(kind, type) and is_dataclass(kind) else get_args(kind)
    for each in inner:
        yield from _stored_types(each)


def test_nothing_that_is_stored_has_an_order_of_its_process() -> None:
    """S6: a set is written in the order of the process's own hashes. A register that was won for `alone` and `fence`
    read as damaged to every second process, and the witness did not start again."""
    found = [get_origin(kind) or kind for kind in _stored_types(Kept)]
    assert Register in found
    assert Evidence in found
    assert not {set, frozenset, collections.abc.Set} & {kind for kind in found if isinstance(kind, type)}


def test_a_register_won_for_both_purposes_is_read_by_every_process(tmp_path: Path) -> None:
    """S6: what one process wrote, any other reads, whatever it is hashed with; also a row of the other order."""
    register = commit(Register.made("a"), version=1, winner="a", purpose="fence", basis="verdict")
    assert register is not None
    register = commit(register, version=2, winner="a", purpose="alone", basis="verdict")
    assert register is not None
    text = plain_kept(Kept("p0", ("a", "b"), "cell", register))
    rows = [text, text.replace('["alone","fence"]', '["fence","alone"]')]
    assert rows[0] != rows[1]
    code = (
        "import sys; from pathlib import Path; from guard.witness.store import parse_kept\n"
        "for row in sys.argv[1:]: print(sorted(parse_kept('p0', row, Path('store')).register.used))"
    )
    for seed in range(4):
        done = subprocess.run(
            [sys.executable, "-c", code, *rows],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == ["['alone', 'fence']"] * 2


class Slow(Store):
    """The real store; a write has begun and is not done when the store is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "store-1")
        self.began, self.closing = threading.Event(), threading.Event()

    def _save(self, rows: list[tuple[str, str]]) -> None:
        self.began.set()
        self.closing.wait(20.0)
        time.sleep(0.2)  # a close that did not wait would be over by now
        super()._save(rows)


@pytest.mark.asyncio
async def test_a_stop_waits_for_the_write_that_is_under_way(tmp_path: Path) -> None:
    """S6: SIGTERM while a batch is written: it is written whole, and only then the file is closed."""
    store, kept = Slow(tmp_path / "w.sqlite"), Kept("p0", ("p0a", "p0b"), "cell", Register.made("p0a"))
    task = asyncio.create_task(store.save([kept]))
    await until(store.began.is_set, "the write has begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.closing.set()
    store.close()
    again = Store(tmp_path / "w.sqlite", "store-2")
    assert again.load() == {"p0": kept}
    again.close()


def store_of(folder: Path, schema: int, *rows: Mapping[str, Any]) -> Path:
    """A store as a build of that schema left it."""
    path = folder / "w.sqlite"
    Store(path, "store-1").close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE store SET schema = ?", (schema,))
        database.executemany("INSERT INTO pair VALUES (?, ?)", [(row["pair"], json.dumps(row)) for row in rows])
    database.close()
    return path


def of_build(row: Mapping[str, Any], *lacks: str) -> dict[str, Any]:
    """The row as it was before these fields came; before `words` there were no boots and nobody was unfit either."""
    old: dict[str, Any] = json.loads(json.dumps({name: value for name, value in row.items() if name not in lacks}))
    if "words" in lacks:
        del old["session"]["boots"]
        for testimony in old["testimony"].values():
            del testimony["evidence"]["unfit"]
    return old


@pytest.mark.asyncio
@pytest.mark.parametrize("lacks", [(), ("words",), ("lifted", "words"), ("last_fence", "lifted", "words")])
async def test_rows_of_every_earlier_build_are_read_and_written_anew(tmp_path: Path, lacks: tuple[str, ...]) -> None:
    """S6: an upgraded witness knows every register, testimony and inhibit that any earlier build wrote."""
    court = Court(tmp_path / "now")
    await court.pairs(1)
    kept = court.arbiter.pairs["p0"].kept
    court.store.close()
    kept = replace(kept, register=replace(kept.register, winner="p0a", used=("alone", "fence"), basis="verdict"))
    old = of_build(json.loads(plain_kept(kept)), *lacks)
    old["register"]["used"] = ["fence", "alone"]
    path = store_of(tmp_path, 1, old)
    expected = kept if "words" not in lacks else replace(kept, words={}, session=replace(kept.session, boots={}))  # type: ignore[type-var]
    for _ in range(2):  # the second start finds a store of the present schema
        store = Store(path, "store-2")
        assert (store.store_id, store.load()) == ("store-1", {"p0": expected})
        store.close()


@pytest.mark.asyncio
async def test_a_row_that_no_earlier_build_wrote_is_damage_too(tmp_path: Path) -> None:
    """S6: of an old row only what its build did not have may be gone, and then no row of the store is changed."""
    court = Court(tmp_path / "now")
    await court.pairs(2)
    good, row = (json.loads(plain_kept(court.arbiter.pairs[name].kept)) for name in ("p0", "p1"))
    court.store.close()
    for number, lost in enumerate(name for name in row if name != "words"):
        (tmp_path / str(number)).mkdir()
        damaged = {**{name: value for name, value in row.items() if name != lost}, "pair": "p1"}
        if lost == "pair":
            damaged["pair"] = "p2"
        path = store_of(tmp_path / str(number), 1, of_build(good, "words"), damaged)
        with sqlite3.connect(path) as database:
            database.execute("UPDATE pair SET name = 'p1' WHERE name = 'p2'")
        before = list(database.execute("SELECT * FROM pair"))
        database.close()
        with pytest.raises(Unreadable, match="cannot read pair p1"):
            Store(path, "store-2")
        database = sqlite3.connect(path)
        assert list(database.execute("SELECT * FROM pair")) == before
        assert database.execute("SELECT schema FROM store").fetchone() == (1,)
        database.close()


def test_a_store_of_a_newer_witness_says_so(tmp_path: Path) -> None:
    """Whoever went back one version reads which version was found and which is known, not that his store is damaged."""
    path = store_of(tmp_path, SCHEMA + 1)
    with pytest.raises(Unreadable, match=f"version {SCHEMA + 1} of its rows, this witness knows version {SCHEMA}"):
        Store(path, "store-2")


class Sealing(Court):
    """What it says goes through the real signer, with its limit of 64 KiB."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._signer = Signer(ARBITER, "lab", Ed25519PrivateKey.generate(), self.clock)

    async def send(self, to: str, body: object, *, expires_s: float) -> bool:
        self._signer.seal(to, body)
        return await super().send(to, body, expires_s=expires_s)


def acks(court: Court) -> list[BeatAck]:
    """The answers to beats that left and name an inhibit."""
    said = [word[1] for word in court.order if isinstance(word, tuple)]
    return [body for body in said if isinstance(body, BeatAck) and body.inhibits]


@pytest.mark.asyncio
async def test_an_answer_that_is_too_large_is_shortened(tmp_path: Path) -> None:
    """L1: a pair that earlier builds let be held 200 times is not deaf: the answer comes, with every inhibit in it and
    its reason cut, and each of them can be ended and lifted."""
    court = Sealing(tmp_path)
    await court.pairs(1)
    held = {
        f"person:{n:032x}": InhibitView(f"person:{n:032x}", "person", "root[1]", "x" * 500, 1.0) for n in range(200)
    }
    pair = court.arbiter.pairs["p0"]
    court.arbiter.pairs["p0"] = replace(pair, kept=replace(pair.kept, inhibits=held))
    task = asyncio.create_task(court.arbiter.run())
    try:
        await court.arbiter.turn(
            [Delivery("p0a", statement("p0a", int(court.clock.now()) + 1), court.clock.now(), "p0")]
        )
        await until(lambda: bool(acks(court)), "the answer leaves")
        [ack] = acks(court)
        assert {i.id for i in ack.inhibits} == set(held)
        assert "not-sent" not in court.logged
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for view in held.values():
        ended = SetInhibit("s", replace(view, ended=True))
        await court.arbiter.turn(
            [Delivery("p0a", w, court.clock.now(), "p0") for w in (ended, LiftInhibit("l", view.id))]
        )
    assert court.arbiter.pairs["p0"].kept.inhibits == {}
    court.store.close()
