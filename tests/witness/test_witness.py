"""The witness as a real process: what it says survives its death, and what it cannot write it does not say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from guard import wire
from guard.adapters.clock import BootClock
from guard.core import machine
from guard.core.instant import Instant
from guard.core.messages import (
    ARBITER,
    BeatAck,
    Closed,
    Commit,
    InhibitStored,
    InhibitView,
    LiftInhibit,
    Refused,
    SetInhibit,
    Won,
)
from guard.core.policy import Policy
from guard.core.sight import Sight
from guard.core.step import Heard
from guard.witness.store import Store
from tests.adapters.bus_contract import until
from tests.core.desk import Desk
from tests.witness.site import MOSQUITTO, SITE, Scripted, Site

A, B = "fs1a", "fs1b"
BOTH = (A, B)


@pytest_asyncio.fixture(params=["mqtt", "hub"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """A bus on loopback, both kinds; the witness is the test's own."""
    if request.param == "mqtt" and MOSQUITTO is None:
        pytest.skip("Mosquitto is not installed")
    made = Site(tmp_path, request.param, A, B, "fs2a")
    async with made.bus():
        yield made


@pytest_asyncio.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Site]:
    """The hub alone: for what does not depend on the bus."""
    made = Site(tmp_path, "hub", A, B, "fs2a")
    async with made.bus():
        yield made


async def set_up(a: Scripted, b: Scripted) -> None:
    assert isinstance(await a.init(BOTH), Closed)
    await a.attest(role="primary")
    await b.attest()


@pytest.mark.asyncio
async def test_a_story_from_init_to_a_win_over_a_real_bus(site: Site) -> None:
    """Two guards: init, attest, beats, claim, offer, commit, won; and the loser hears who won."""
    async with site.witness(), site.guards(*BOTH) as [a, b]:
        assert (await a.acked()).register is None
        await set_up(a, b)
        ack = await a.acked()
        assert ack.attested == "session-1"
        won = await b.commit(await b.offer())
        assert isinstance(won, Won)
        register = (await a.acked()).register
        assert register is not None
        assert (register.winner, register.used, register.version) == (B, ("fence",), 2)


@pytest.mark.asyncio
async def test_killed_between_any_two_steps_the_witness_keeps_what_it_said(hub: Site) -> None:
    """kill -9 after every step: register, attests and inhibits are as shown before; the story goes on to its win."""
    view = InhibitView("person:k", "person", "a person", "a reason", 0.0)
    async with hub.guards(*BOTH) as [a, b]:

        async def inhibit() -> None:
            await a.answer(lambda: SetInhibit(a.nonce(), view), InhibitStored)

        async def end() -> None:
            ended = InhibitView("person:k", "person", "a person", "a reason", 0.0, ended=True)
            await b.answer(lambda: SetInhibit(b.nonce(), ended), InhibitStored)

        async def lift() -> None:
            await a.answer(lambda: LiftInhibit(a.nonce(), "person:k"), InhibitStored)

        async def win() -> None:
            assert isinstance(await b.commit(await b.offer("alone"), "alone"), Won)

        steps: list[Any] = [
            lambda: a.init(BOTH),
            lambda: a.attest(role="primary"),
            b.attest,
            inhibit,
            end,
            lift,
            win,
        ]
        before: dict[str, Any] | None = None
        for step in steps:
            async with hub.witness() as program:
                if before is not None:
                    assert await hub.shown() == before
                await step()
                before = await hub.shown()
                program.stop(signal.SIGKILL)
        async with hub.witness():
            assert before is not None
            assert await hub.shown() == before
            assert before["register"]["winner"] == B
            assert (await a.acked()).outdate


@pytest.mark.asyncio
async def test_an_offer_does_not_outlive_the_witness(site: Site) -> None:
    """Killed between offer and commit: the commit is stale, nobody won, and the claim made anew wins."""
    async with site.guards(*BOTH) as [a, b]:
        async with site.witness() as program:
            await set_up(a, b)
            offer = await b.offer()
            program.stop(signal.SIGKILL)
        async with site.witness():
            await b.acked()  # it is on the bus again
            await a.acked()  # heard once: else its silence says nothing for 30 s
            order = Commit(offer.nonce, offer.register.version, "fence")
            refused = await b.answer(lambda: order, Refused, lambda m: m.nonce == offer.nonce)
            assert refused.reason == "stale-offer"
            assert (await site.shown())["register"]["winner"] is None
            assert isinstance(await b.commit(await b.offer()), Won)


def fill(path: Path) -> None:
    """Until not a single page is left."""
    for piece in (65536, 64):
        with path.open("ab", buffering=0) as full, contextlib.suppress(OSError):
            while True:
                full.write(b"x" * piece)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare(1) for a small disk"
)


@needs_root
@pytest.mark.root
@pytest.mark.asyncio
async def test_with_a_full_disk_nothing_is_decided_and_it_recovers(hub: Site) -> None:
    """A full file system: no Won leaves, the register stays, status names the trouble; with room again it goes on."""
    hub.state.mkdir()
    small = f'mount -t tmpfs -o size=1m none "{hub.state}" && exec "$@"'
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c", small, "sh")
    async with hub.witness(*prefix) as program, hub.guards(*BOTH) as [a, b]:
        await set_up(a, b)
        filler = Path(f"/proc/{program.process.pid}/root{hub.state}/filler")
        offer = await b.offer()
        fill(filler)
        for _ in range(30):  # the log of SQLite may still have room for a few pages that it has taken before
            await a.say(a.testimony(role="primary"))
            if (await hub.status())["store_trouble"]:
                break
            await asyncio.sleep(0.1)
        assert "full" in (await hub.status())["store_trouble"]
        before = (await hub.shown())["register"]
        await b.say(Commit(offer.nonce, offer.register.version, "fence"))
        assert await b.silent(1.5, Won)
        assert (await hub.shown())["register"] == before
        assert program.process.poll() is None
        os.unlink(filler)
        assert isinstance(await b.commit(await b.offer()), Won)
        assert (await hub.status())["store_trouble"] is None
        assert (await hub.shown())["register"]["winner"] == B


def guard_that_believed(*acks: BeatAck) -> machine.Guard:
    """The real core of a guard, told these answers one after the other."""
    clock = BootClock()
    guard, _ = machine.start(
        A,
        B,
        policy=Policy(),
        sight=Sight(),
        horizon_s=75.0,
        memory=None,
        boot_id=clock.boot_id(),
        seed=clock.nonce() * 2,
        now=clock.now(),
    )
    for ack in acks:
        guard, _ = machine.step(guard, Heard(ARBITER, ack), Instant(ack.seq + 1_000_000))
    return guard


@pytest.mark.asyncio
async def test_a_lost_store_is_noticed(hub: Site) -> None:
    """Deleted and made anew: another name and no register; a guard that knew the old one believes neither."""
    async with hub.guards(*BOTH) as [a, b]:
        async with hub.witness() as program:
            await set_up(a, b)
            first, name = await a.acked(), (await hub.status())["store_id"]
            program.stop()
        for path in hub.state.iterdir():
            path.unlink()
        async with hub.witness():
            empty = await a.acked()
            assert empty.register is None
            assert isinstance(await a.init(BOTH), Closed)
            anew = await a.acked()
            assert (await hub.status())["store_id"] != name
    assert not guard_that_believed(first).store_doubted
    assert guard_that_believed(first, empty).store_doubted
    assert guard_that_believed(first, anew).store_doubted
    assert not guard_that_believed(empty, anew).store_doubted  # who never knew another believes the first


@pytest.mark.asyncio
async def test_a_store_that_was_rolled_back_is_noticed(hub: Site) -> None:
    """An old copy under its own name forgot a winner: the lower version is believed by nobody who saw the higher."""
    async with hub.guards(*BOTH) as [a, b]:
        async with hub.witness() as program:
            await set_up(a, b)
            early = await a.acked()
            program.stop()
        shutil.copytree(hub.state, hub.folder / "old")
        async with hub.witness() as program:
            await a.acked()  # heard once: else its silence says nothing for 30 s
            assert isinstance(await b.commit(await b.offer()), Won)
            late = await a.acked()
            program.stop()
        shutil.rmtree(hub.state)
        shutil.copytree(hub.folder / "old", hub.state)
        async with hub.witness():
            back = await a.acked()
    assert back.register is not None
    assert late.register is not None
    assert (back.register.store_id, back.register.winner) == (late.register.store_id, None)
    assert not guard_that_believed(early, late).store_doubted
    assert guard_that_believed(early, late, back).store_doubted


def damaged_head(path: Path) -> None:
    path.write_bytes(b"this is no database" * 300)


def damaged_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def damaged_record(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE pair SET kept = replace(kept, '\"version\"', '\"verzion\"')")
    database.close()


def other_schema(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE store SET schema = 99")
    database.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", [damaged_head, damaged_page, damaged_record, other_schema])
async def test_a_damaged_store_stops_the_start_in_plain_words(hub: Site, damage: Any) -> None:
    """Exit 89, one line with the file and what to do, no traceback, and the file is as it was."""
    path = hub.state / "witness.sqlite"
    store = Store(path, "store-1")
    await store.save([Desk().whole().pair.kept])
    store.close()
    damage(path)
    before = path.read_bytes()
    program = hub.start()
    assert await program.ended() == 89
    [line] = [line for line in program.said.splitlines() if line.startswith("pairguard-witness: cannot")]
    assert str(path) in line
    assert "Traceback" not in program.said
    assert path.read_bytes() == before


@pytest.mark.asyncio
async def test_two_witnesses_never_share_a_store(hub: Site) -> None:
    """The second ends with 75 and says so; the first goes on."""
    async with hub.witness() as first, hub.guards(A) as [a]:
        second = hub.start()
        assert await second.ended() == 75
        assert "cannot open the store" in second.said
        assert first.process.poll() is None
        await a.acked()


@pytest.mark.asyncio
async def test_init_makes_one_register_and_no_second(hub: Site) -> None:
    """Again, from the other node, for another pair name, over bad names: refused each time, nothing changes."""
    async with hub.witness(), hub.guards(*BOTH) as [a, b]:
        for nodes in ((A, "no/name"), (A, A), (B, "fs2a"), (A, "arbiter"), (A, "")):
            assert isinstance(await a.init(nodes), Refused)
        assert isinstance(await a.init(BOTH), Closed)
        before = await hub.shown()
        for guard in (a, b):
            refused = await guard.init(BOTH)
            assert isinstance(refused, Refused)
            assert refused.reason == "exists"
        async with hub.guards("fs2a", pair="fs2") as [c]:
            assert isinstance(await c.init(("fs2a", B)), Refused)
        after = await hub.shown()
        assert before["register"] == after["register"]


@pytest.mark.asyncio
async def test_words_of_strangers_and_broken_words_are_rejected_and_counted(hub: Site) -> None:
    """Unknown party, forged, replayed, oversized, other version, not for the arbiter, junk: each by its reason."""
    wire.generate(hub.folder / "evil.pem", hub.folder / "evil.pub")
    evil = wire.load_private(hub.folder / "evil.pem")
    true = wire.load_private(hub.folder / f"{A}.pem")
    async with hub.witness(), hub.guards(B) as [b]:
        await b.acked()  # the witness is on the bus
        sealed = wire.Signer(A, SITE, true, hub.clock, pair="fs1").seal(ARBITER, b.beat())
        words = {
            "unknown-party": wire.Signer("evil", SITE, evil, hub.clock, pair="fs1").seal(ARBITER, b.beat()),
            "bad-signature": wire.Signer(A, SITE, evil, hub.clock, pair="fs1").seal(ARBITER, b.beat()),
            "wrong-site": wire.Signer(A, "other", true, hub.clock, pair="fs1").seal(ARBITER, b.beat()),
            "not-for-me": wire.Signer(A, SITE, true, hub.clock, pair="fs1").seal(B, b.beat()),
            "bad-version": sealed.replace(b'"v":1', b'"v":2'),
            "oversized": sealed + b" " * wire.BYTES_MAX,
            "not-json": b"\x00\xff junk",
        }
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(hub.folder / "hub.sock"))
            raw.sendall(b"hello fs2a\n")
            await until(lambda: raw.recv(100) == b"welcome\n" if _readable(raw) else False, "the hub welcomes")
            for line in (*words.values(), sealed, sealed):
                raw.sendall(b"send arbiter 5000 " + line + b"\n")
            expected = {**dict.fromkeys(words, 1), "replayed": 1}
            for _ in range(100):
                counted = (await hub.status())["rejected"]
                if counted == expected:
                    break
                await asyncio.sleep(0.1)
            assert counted == expected


def _readable(raw: socket.socket) -> bool:
    return bool(select.select([raw], [], [], 0)[0])


@pytest.mark.asyncio
async def test_an_authentic_stranger_is_told_that_it_has_no_register_and_nothing_else(hub: Site) -> None:
    """A party with a key but without a pair: its beats are answered without a register, its claims not at all."""
    async with hub.witness(), hub.guards(*BOTH) as [a, b], hub.guards("fs2a", pair="fs1") as [c]:
        await set_up(a, b)
        before = await hub.shown()
        assert (await c.acked()).register is None
        await c.say(Commit("x", 1, "fence"))
        await c.say(SetInhibit("y", InhibitView("person:z", "person", "c", "r", 0.0)))
        await c.say(c.testimony())
        assert await c.silent(1.0, Refused)
        assert (await hub.shown()) == before


@pytest.mark.asyncio
async def test_200_guards_at_once_are_all_answered(tmp_path: Path) -> None:
    """A hundred pairs connect, make their registers and beat in the same moment: every guard gets its answer."""
    nodes = [f"fs{n}{end}" for n in range(100) for end in "ab"]
    site = Site(tmp_path, "hub", *nodes)
    async with site.bus(), site.witness():
        keyring = wire.load_keyring(tmp_path / "pub")
        assert len(keyring.parties()) == 201
        async with site.crowd(nodes) as guards:
            await asyncio.gather(*(g.init((g.node, g.node[:-1] + "b")) for g in guards if g.node.endswith("a")))
            for _ in range(2):
                acks = await asyncio.gather(*(g.acked(lambda ack: ack.register is not None) for g in guards))
                assert len(acks) == 200
        assert len((await site.status())["pairs"]) == 100
