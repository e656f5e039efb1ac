"""etcd behind its port: one contract for the real one and the simulated one, and what only the real one does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.adapters.clock import BootClock
from guard.adapters.etcd import EtcdGateway, done_of, transaction, would_show
from guard.adapters.mqtt import tls_context
from guard.errors import Unavailable, Unreadable, Unsure
from guard.ports import Compare, Etcd, Put, Range
from tests.adapters.authority import Authority
from tests.adapters.etcd_member import members, needs_etcd
from tests.adapters.etcd_simulated import Keyspace, SimulatedEtcd

S = 5.0


class EtcdContract:
    """The promises of `guard.ports.Etcd`."""

    def etcd(self, folder: Path) -> AbstractAsyncContextManager[Etcd]:
        raise AssertionError("a contract needs somebody who keeps it")

    @pytest.mark.asyncio
    async def test_a_transaction_is_done_as_a_whole_or_not_at_all(self, tmp_path: Path) -> None:
        """One comparison that does not hold, and nothing of it is written; the revision tells who wrote."""
        async with self.etcd(tmp_path) as etcd:
            first = await etcd.transact([Compare("/a", "created", 0)], [Put("/a", "1"), Put("/b", "2")], deadline_s=S)
            assert first.succeeded
            again = await etcd.transact([Compare("/a", "created", 0)], [Put("/b", "3")], deadline_s=S)
            assert not again.succeeded
            held = [Compare("/a", "created", first.revision), Compare("/b", "modified", first.revision)]
            changed = await etcd.transact(held, [Put("/b", "ü")], deadline_s=S)
            assert (changed.succeeded, changed.revision) == (True, first.revision + 1)
            assert not (await etcd.transact(held, [Put("/b", "5")], deadline_s=S)).succeeded
            [rows] = (await etcd.transact([], (), [Range("/a", "/c")], deadline_s=S)).read
            assert [(r.key, r.value, r.created, r.modified) for r in rows] == [
                ("/a", "1", first.revision, first.revision),
                ("/b", "ü", first.revision, changed.revision),
            ]

    @pytest.mark.asyncio
    async def test_what_is_read_can_be_bounded(self, tmp_path: Path) -> None:
        """A range ends before its end; several are read at one moment; what is not there is an empty range."""
        async with self.etcd(tmp_path) as etcd:
            await etcd.transact([], [Put(f"/p/{n}", "x") for n in range(5)] + [Put("/q", "y")], deadline_s=S)
            asked = [Range("/p/", "/p0", 2), Range("/p/1\0", "/p0"), Range("/q"), Range("/none")]
            read = (await etcd.transact([], (), asked, deadline_s=S)).read
            assert [[row.key for row in rows] for rows in read] == [
                ["/p/0", "/p/1"],
                ["/p/2", "/p/3", "/p/4"],
                ["/q"],
                [],
            ]
            assert (await etcd.transact([Compare("/none", "created", 0)], deadline_s=S)).succeeded
            assert not (await etcd.transact([Compare("/q", "created", 0)], deadline_s=S)).succeeded

    @pytest.mark.asyncio
    async def test_a_key_goes_with_its_lease(self, tmp_path: Path) -> None:
        """A lease that is revoked or runs out takes its key along, and can be renewed no more; a new key has a new
        revision."""
        async with self.etcd(tmp_path) as etcd:
            lease = await etcd.grant(30, deadline_s=S)
            first = await etcd.transact([], [Put("/t", "me", lease)], deadline_s=S)
            assert await etcd.keep(lease, deadline_s=S)
            await etcd.revoke(lease, deadline_s=S)
            await etcd.revoke(lease, deadline_s=S)
            assert not await etcd.keep(lease, deadline_s=S)
            with pytest.raises(Unavailable) as caught:
                await etcd.transact([], [Put("/t", "me", lease)], deadline_s=S)
            assert not isinstance(caught.value, Unsure)
            other = await etcd.grant(30, deadline_s=S)
            second = await etcd.transact([Compare("/t", "created", 0)], [Put("/t", "me", other)], deadline_s=S)
            assert second.succeeded
            assert second.revision > first.revision
            assert not (await etcd.transact([Compare("/t", "created", first.revision)], deadline_s=S)).succeeded


class TestSimulated(EtcdContract):
    @asynccontextmanager
    async def etcd(self, folder: Path) -> AsyncIterator[Etcd]:
        yield SimulatedEtcd(Keyspace(BootClock()))


@needs_etcd
class TestReal(EtcdContract):
    @asynccontextmanager
    async def etcd(self, folder: Path) -> AsyncIterator[Etcd]:
        async with members(folder) as one:
            client = EtcdGateway(one.endpoints)
            yield client
            await client.close()


# ------------------------------------------------------------------ what only the real one does


@needs_etcd
@pytest.mark.asyncio
async def test_a_lease_runs_out_and_not_before_its_time(tmp_path: Path) -> None:
    """Not renewed, a key of 3 s is there after 2.5 s from the asking, and goes by itself."""
    clock = BootClock()
    async with members(tmp_path) as one:
        etcd = EtcdGateway(one.endpoints)
        since = clock.now()
        lease = await etcd.grant(3, deadline_s=S)
        await etcd.transact([], [Put("/t", "me", lease)], deadline_s=S)
        gone_s = None
        for _ in range(200):
            asked = clock.now()
            if not (await etcd.transact([], (), [Range("/t")], deadline_s=S)).read[0]:
                gone_s = (clock.now() - since) / 1e9
                break
            assert (asked - since) / 1e9 < 60
            await asyncio.sleep(0.1)
        assert gone_s is not None
        assert gone_s >= 3.0
        assert not await etcd.keep(lease, deadline_s=S)
        await etcd.close()


@needs_etcd
@pytest.mark.asyncio
async def test_no_answer_is_not_a_no(tmp_path: Path) -> None:
    """etcd stands still in the middle of a write: nobody knows. Nobody there at all: certainly nothing was done."""
    async with members(tmp_path) as one:
        etcd = EtcdGateway(one.endpoints)
        one.signal(0, signal.SIGSTOP)
        with pytest.raises(Unsure):
            await etcd.transact([], [Put("/a", "1")], deadline_s=0.5)
        one.signal(0, signal.SIGCONT)
        assert (await etcd.transact([], (), [Range("/a")], deadline_s=S)).succeeded
        one.signal(0, signal.SIGKILL)
        one.processes[0].wait()
        with pytest.raises(Unavailable) as caught:
            await etcd.transact([], [Put("/a", "2")], deadline_s=S)
        assert not isinstance(caught.value, Unsure)
        assert "cannot reach etcd" in str(caught.value)
        await etcd.close()


@needs_etcd
@pytest.mark.asyncio
async def test_a_member_without_the_others_tells_nothing(tmp_path: Path) -> None:
    """Three members, two stand still: the third has all the rows, and answers neither a write nor a mere comparison.
    With the two back both are answered, and one dead leader only costs a moment."""
    async with members(tmp_path, 3) as three:
        leader = three.leader()
        others = [n for n in range(3) if n != leader]
        etcd = EtcdGateway([three.endpoints[others[0]]])
        done = await etcd.transact([], [Put("/t", "me")], deadline_s=S)
        ours = [Compare("/t", "created", done.revision)]
        assert (await etcd.transact(ours, deadline_s=S)).succeeded
        for n in (leader, others[1]):
            three.signal(n, signal.SIGSTOP)
        for puts in ([], [Put("/a", "1")]):
            with pytest.raises(Unsure):
                await etcd.transact(ours, puts, deadline_s=1.0)
        for n in (leader, others[1]):
            three.signal(n, signal.SIGCONT)
        assert (await _at_last(etcd, ours)).succeeded
        three.signal(three.leader(), signal.SIGKILL)
        every = EtcdGateway(three.endpoints)
        assert (await _at_last(every, ours)).succeeded
        await every.close()
        await etcd.close()


async def _at_last(etcd: Etcd, compares: list[Compare]) -> Any:
    for _ in range(40):
        try:
            return await etcd.transact(compares, deadline_s=S)
        except Unavailable:
            await asyncio.sleep(0.2)
    raise AssertionError("etcd never answered")


@needs_etcd
@pytest.mark.asyncio
async def test_a_full_etcd_says_no(tmp_path: Path) -> None:
    """NOSPACE is said of what was carried out too: a plain failure is only what was certainly not, and what nobody can
    tell is unsure. What is there can still be read, and a term still be looked at."""
    async with members(tmp_path, 1, "--quota-backend-bytes", str(300 * 1024)) as one:
        etcd = EtcdGateway(one.endpoints)
        outcomes: list[tuple[bool, bool]] = []  # unsure, written

        async def write(n: int) -> None:
            try:
                await etcd.transact([Compare(f"/a{n}", "modified", 0)], [Put(f"/a{n}", "x" * 3_000)], deadline_s=S)
            except Unavailable as error:
                [rows] = (await etcd.transact([], (), [Range(f"/a{n}")], deadline_s=S)).read
                outcomes.append((isinstance(error, Unsure), bool(rows)))

        for first in range(0, 120, 8):  # at once: some are taken while there is room, and carried out without
            await asyncio.gather(*(write(n) for n in range(first, first + 8)))
        assert len(outcomes) > 8
        assert all(unsure == written for unsure, written in outcomes)
        assert outcomes[-1] == (False, False)
        with pytest.raises(Unsure):  # no comparison would show it
            await etcd.transact([], [Put("/b", "x" * 20_000)], deadline_s=S)
        assert (await etcd.transact([Compare("/a0", "created", 0)], deadline_s=S)).succeeded is False
        await etcd.close()


def test_what_would_show_that_a_transaction_was_done() -> None:
    """Its comparison with the last writing of a key that it writes, or that there was none. A key's creation stays."""
    put = [Put("/a", "1")]
    for compare, shows in (
        (Compare("/a", "modified", 7), True),
        (Compare("/a", "created", 0), True),
        (Compare("/a", "created", 7), False),
        (Compare("/b", "modified", 7), False),
    ):
        assert would_show([compare], put) is shows
    assert not would_show([], put)


def with_users(ctl: Any) -> None:
    """root, and a user that may use /pairguard/ alone."""
    ctl("user", "add", "root:secret")
    ctl("user", "grant-role", "root", "root")
    ctl("role", "add", "keeper")
    ctl("role", "grant-permission", "keeper", "--prefix=true", "readwrite", "/pairguard/")
    ctl("user", "add", "witness:word")
    ctl("user", "grant-role", "witness", "keeper")
    ctl("auth", "enable")


@needs_etcd
@pytest.mark.asyncio
async def test_a_token_that_ended_is_asked_for_anew(tmp_path: Path) -> None:
    """With auth on: our user writes below its prefix and nowhere else; 3 s idle with tokens of 2 s, and it goes on. A
    wrong password and no user at all are told in etcd's words."""
    async with members(tmp_path, 1, "--auth-token-ttl", "2") as one:
        with_users(one.ctl)
        etcd = EtcdGateway(one.endpoints, login=("witness", "word"))
        lease = await etcd.grant(30, deadline_s=S)
        for n in range(2):
            await etcd.transact([], [Put("/pairguard/x", str(n), lease)], deadline_s=S)
            await asyncio.sleep(3.2)
        assert await etcd.keep(lease, deadline_s=S)
        [rows] = (await etcd.transact([], (), [Range("/pairguard/x")], deadline_s=S)).read
        assert rows[0].value == "1"
        for client, word in (
            (etcd, "permission denied"),
            (EtcdGateway(one.endpoints, login=("witness", "wrong")), "invalid user ID or password"),
            (EtcdGateway(one.endpoints), "user name is empty"),
        ):
            with pytest.raises(Unavailable) as caught:
                await client.transact([], [Put("/elsewhere", "1")], deadline_s=S)
            assert not isinstance(caught.value, Unsure)
            assert word in caught.value.why
            await client.close()


@needs_etcd
@pytest.mark.asyncio
async def test_tls_and_its_names(tmp_path: Path) -> None:
    """By our CA and the server's name: it is used. Another name or CA: nothing is sent. A client certificate with a
    CN under auth: the gateway's own refusal, in words that say what to do."""
    authority = Authority(tmp_path)
    authority.issue("broker")
    crt, key = authority.issue("witness")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    more = ("--trusted-ca-file", str(authority.ca), "--client-cert-auth")
    async with members(tmp_path, 1, *more, tls=tmp_path) as one:
        trusts = tls_context(authority.ca, crt, key)
        etcd = EtcdGateway(one.endpoints, tls=trusts, server_name="broker.example")
        assert (await _at_last(etcd, [Compare("/none", "created", 0)])).succeeded
        for tls, name in ((trusts, "else.example"), (tls_context(stranger.ca, crt, key), "broker.example")):
            with pytest.raises(Unavailable) as caught:
                await EtcdGateway(one.endpoints, tls=tls, server_name=name).transact([], [Put("/a", "1")], deadline_s=S)
            assert not isinstance(caught.value, Unsure)
        with_users(
            lambda *words: one.ctl(*words, "--cacert", str(authority.ca), "--cert", str(crt), "--key", str(key),
                                   "--insecure-skip-tls-verify")
        )  # fmt: skip
        with pytest.raises(Unavailable, match="SAN"):
            await etcd.transact([], [Put("/pairguard/a", "1")], deadline_s=S)
        await etcd.close()


def test_a_transaction_that_only_compares_reads_linearizably() -> None:
    """etcd answers one without any range from what that very member has: ours always has one, and never asks for a
    serializable read."""
    body = transaction([Compare("/t", "created", 7)], (), ())
    assert body["success"] == [{"request_range": {"key": "L3Q=", "limit": "0"}}]
    assert body["compare"] == [{"key": "L3Q=", "result": "EQUAL", "target": "CREATE", "create_revision": "7"}]
    for asked in (transaction([], (), [Range("/a", "/b", 3)]), transaction([], [Put("/a", "1")], [])):
        assert "serializable" not in str(asked)


HEAD = {"revision": "4", "cluster_id": "9"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"header": "x"},
        {"header": {}},
        {"header": {"revision": "4"}},
        {"header": {**HEAD, "revision": "four"}},
        {"header": {**HEAD, "revision": True}},
        {"header": HEAD, "succeeded": "yes"},
        {"header": HEAD, "responses": {}},
        {"header": HEAD, "responses": ["x"]},
        {"header": HEAD, "responses": [{"response_range": []}]},
        {"header": HEAD, "responses": [{"response_range": {"kvs": ["x"]}}]},
        {"header": HEAD, "responses": [{"response_range": {"kvs": [{}]}}]},
        {"header": HEAD, "responses": [{"response_range": {"kvs": [{"key": "?", "create_revision": "1"}]}}]},
        {"header": HEAD, "responses": [{"response_range": {"kvs": [{"key": 1, "create_revision": "1"}]}}]},
    ],
)
def test_an_answer_that_is_none_is_unreadable(answer: dict[str, Any]) -> None:
    """No field of an answer has a believable default but what the gateway leaves out: false, zero, an empty list."""
    with pytest.raises(Unreadable):
        done_of(answer)
    assert done_of({"header": HEAD}).succeeded is False


WORDS = st.sampled_from(
    [
        "header",
        "revision",
        "cluster_id",
        "succeeded",
        "responses",
        "response_range",
        "kvs",
        "key",
        "value",
        "mod_revision",
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["", "7", "L3Q=", "?", "ü"]))
ANSWERS = st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner), st.dictionaries(WORDS, inner)), max_leaves=20)


@given(head=st.one_of(st.just(HEAD), ANSWERS), succeeded=ANSWERS, responses=st.one_of(st.lists(ANSWERS), ANSWERS))
def test_any_answer_is_read_or_unreadable(head: Any, succeeded: Any, responses: Any) -> None:
    """Nothing else comes out of it, whatever comes in; and yes is only a plain yes."""
    with contextlib.suppress(Unreadable):
        done = done_of({"header": head, "succeeded": succeeded, "responses": responses})
        assert done.succeeded is succeeded
