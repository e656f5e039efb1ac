"""Two witnesses of one site, as processes, on a real etcd and a real broker: one speaks, and the other takes over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from guard.adapters.control import ask
from guard.core.messages import BeatAck, Closed, Commit, NonceIs, Offer, Refused, Won
from guard.errors import PairguardError
from tests.adapters.etcd_member import Members, members, needs_etcd
from tests.witness.site import MOSQUITTO, PATIENCE_S, Program, Scripted, Site

A, B = "fs1a", "fs1b"
BOTH = (A, B)
TTL_S = 5

pytestmark = [needs_etcd, pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed")]


class Two:
    """One site, two witnesses with one key; `of` starts one, `shows` what it says of itself."""

    def __init__(self, site: Site, etcd: Members, more: str = "") -> None:
        self.site, self.etcd = site, etcd
        for name in ("w1", "w2"):
            folder = site.folder / name
            folder.mkdir()
            text = site.config.read_text().replace(str(site.run), str(folder / "run"))
            endpoints = ", ".join(f'"{each}"' for each in etcd.endpoints)
            store = f'[store]\nkind = "etcd"\nendpoints = [{endpoints}]\nttl = "{TTL_S}s"\n{more}'
            (folder / "witness.toml").write_text(text + store)

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[Program]:
        """Started, and killed at the end."""
        folder = self.site.folder / name
        program = Program(folder, "guard.witness.main", folder / "witness.toml")
        try:
            yield program
        finally:
            program.stop(signal.SIGKILL)

    async def shows(self, name: str) -> dict[str, Any] | None:
        try:
            return await ask(self.site.folder / name / "run" / "status.sock", "status", {}, 2.0)
        except PairguardError:
            return None

    async def speaks(self, name: str) -> dict[str, Any]:
        return await self._until(name, lambda shown: "store_id" in shown)

    async def waits(self, name: str, word: str = "has the term") -> str:
        return str((await self._until(name, lambda shown: word in shown.get("standby", "")))["standby"])

    async def _until(self, name: str, fits: Any) -> dict[str, Any]:
        async with asyncio.timeout(2 * PATIENCE_S):
            while True:
                shown = await self.shows(name)
                if shown is not None and fits(shown):
                    return shown
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    site = Site(tmp_path, "mqtt", A, B)
    async with site.bus(), members(tmp_path) as etcd:
        yield Two(site, etcd)


async def set_up(two: Two, name: str, a: Scripted, b: Scripted) -> None:
    assert isinstance(await a.init(BOTH), Closed)
    for guard, role in ((a, "primary"), (b, "secondary")):
        async with asyncio.timeout(PATIENCE_S):
            while guard.node not in (await two.speaks(name))["pairs"][0]["testimony"]:
                await guard.say(guard.testimony(role=role))
                await asyncio.sleep(0.1)


@pytest.mark.asyncio
async def test_a_killed_witness_is_followed_by_the_other_one(two: Two) -> None:
    """kill -9 after a win: the standby, silent and off the bus until then, takes the term once it has ended, knows the
    win, and is heard by guards that heard the first. Started again, the first one waits; asked to stop, the second
    gives the term back at once, and the first is heard again."""
    async with two.site.guards(*BOTH) as [a, b], two.of("w1") as first:
        known = await two.speaks("w1")
        async with two.of("w2") as second:
            assert await two.waits("w2")
            await set_up(two, "w1", a, b)
            assert isinstance(await b.commit(await b.offer()), Won)
            first.stop(signal.SIGKILL)
            after = await two.speaks("w2")
            assert after["store_id"] == known["store_id"]
            assert after["pairs"][0]["register"]["winner"] == B
            ack = await a.acked()
            assert ack.register is not None
            assert (ack.register.winner, ack.register.store_id) == (B, known["store_id"])
            assert not ack.outdate
            async with two.of("w1"):
                assert "process" in await two.waits("w1")
                assert second.stop() == 0
                await two.speaks("w1")
                again = await a.acked()
                assert again.register is not None
                assert again.register.winner == B


@pytest.mark.asyncio
async def test_a_witness_that_was_stopped_wakes_up_and_says_nothing(two: Two) -> None:
    """SIGSTOP for longer than the term: the other one takes it. Woken up, the first one ends with 87 and one plain
    sentence, and no guard hears a word of its old memory."""
    async with two.site.guards(*BOTH) as [a, b], two.of("w1") as first:
        await two.speaks("w1")
        async with two.of("w2"):
            await two.waits("w2")
            await set_up(two, "w1", a, b)
            offer = await b.offer()
            first.process.send_signal(signal.SIGSTOP)
            await two.speaks("w2")
            await a.acked()
            await b.acked()
            assert isinstance(await b.commit(await b.offer()), Won)
            heard = len(a.heard), len(b.heard)
            first.process.send_signal(signal.SIGCONT)
            assert await first.ended() == 87
            [line] = [line for line in first.said.splitlines() if line.startswith("pairguard-witness: cannot")]
            assert "the term is over" in line
            assert "Traceback" not in first.said
            refused = await b.answer(
                lambda: Commit(offer.nonce, offer.register.version, "fence"), Refused, lambda m: m.nonce == offer.nonce
            )
            assert refused.reason == "stale-offer"
            assert (await a.acked()).register is not None
            for guard, since in zip((a, b), heard, strict=True):
                acks = [m for m in guard.heard[since:] if isinstance(m, BeatAck)]
                assert all(ack.register is not None and ack.register.winner == B for ack in acks)
                assert not any(isinstance(m, Offer | NonceIs) for m in guard.heard[since:])


@pytest.mark.asyncio
async def test_etcd_stands_still_in_the_middle_of_a_save(two: Two) -> None:
    """SIGSTOP of etcd under a Commit: no Won, no other word; the witness ends with 87. etcd is back: the next term
    knows what was written, if it was, and the guard's next claim wins."""
    async with two.site.guards(*BOTH) as [a, b]:
        async with two.of("w1") as first:
            await two.speaks("w1")
            await set_up(two, "w1", a, b)
            offer = await b.offer()
            two.etcd.signal(0, signal.SIGSTOP)
            since = len(b.heard)
            await b.say(Commit(offer.nonce, offer.register.version, "fence"))
            assert await first.ended() == 87
            assert not any(isinstance(m, Won) for m in b.heard[since:])
            two.etcd.signal(0, signal.SIGCONT)
        async with two.of("w2"):
            shown = await two.speaks("w2")
            assert shown["pairs"][0]["register"]["winner"] in (None, B)
            await a.acked()
            await b.acked()
            assert isinstance(await b.commit(await b.offer()), Won)


@pytest.mark.asyncio
async def test_without_etcd_a_witness_is_a_standby(two: Two) -> None:
    """It says why, stays off the bus, and begins once etcd is there; a store of another schema stops it with 89."""
    two.etcd.signal(0, signal.SIGKILL)
    two.etcd.processes[0].wait()
    async with two.site.guards(*BOTH) as [a, b]:
        async with two.of("w1"):
            assert "cannot reach etcd" in await two.waits("w1", "etcd")
            await a.say(a.beat())
            assert await a.silent(1.0, BeatAck)
            two.etcd.processes[0] = two.etcd.start(0)
            await two.speaks("w1")
            await set_up(two, "w1", a, b)
        await asyncio.to_thread(two.etcd.ctl, "put", "/pairguard/lab/store", '{"schema": 9, "id": "x", "cluster": "1"}')
        async with two.of("w2") as second:
            assert await second.ended() == 89
            assert "written in version 9" in second.said
