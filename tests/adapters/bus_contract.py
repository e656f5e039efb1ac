"""The promises of `guard.ports.Bus`, for every bus there is: subclass `BusContract` and give it a world."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guard.adapters.clock import BootClock
from guard.adapters.hub import HubBus
from guard.adapters.inbox import INBOX_MAX
from guard.adapters.mqtt import MqttBus
from guard.ports import Bus, Delivery
from guard.wire import Keyring, Kinds, Rejected, Signer

SITE = "lab"
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Ping:
    nonce: str
    text: str
    kind: Literal["ping"] = "ping"


KINDS = Kinds(Ping)


class Identities:
    """Keys and signers of a few parties."""

    def __init__(self, *parties: str) -> None:
        self.private = {party: Ed25519PrivateKey.generate() for party in parties}
        self.keyring = Keyring({party: key.public_key() for party, key in self.private.items()})
        self.clock = BootClock()

    def signer(self, party: str, private: Ed25519PrivateKey | None = None) -> Signer:
        return Signer(party, SITE, private or self.private[party], self.clock, kinds=KINDS)


AnyBus = MqttBus | HubBus
OnReject = Callable[[Rejected], None]


class World(Protocol):
    """A broker (or hub) that can be stopped and started, and buses through it."""

    def bus(self, signer: Signer, keyring: Keyring, on_reject: OnReject | None = None) -> AnyBus: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...


async def until(what: Callable[[], bool], why: str) -> None:
    """Poll with a generous deadline: the machine may be busy."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not what():  # noqa: ASYNC110 - nothing signals what is waited for
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"never happened: {why}")


@asynccontextmanager
async def running(*buses: AnyBus) -> AsyncIterator[None]:
    """The buses, connected."""
    tasks = [asyncio.create_task(bus.run()) for bus in buses]
    try:
        for bus in buses:
            await until(bus.connected, f"connected ({bus.failure})")
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def heard(bus: Bus, count: int) -> list[Delivery]:
    """The next `count` deliveries."""
    got: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_S):
        async for delivery in bus.deliveries():
            got.append(delivery)
            if len(got) == count:
                break
    return got


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class BusContract:
    """Each test gets `world`, a fixture of the subclass: a context manager that makes a running `World`."""

    Make = Callable[[], AbstractAsyncContextManager[World]]

    @pytest.mark.asyncio
    async def test_a_message_arrives_whole_and_names_its_true_sender(self, world: Make) -> None:
        """What was sent is what arrives, at the party it was sent to, with sender and a moment of our own clock."""
        ids = Identities("fs1a", "arbiter")
        async with world() as site:
            a, arbiter = site.bus(ids.signer("fs1a"), ids.keyring), site.bus(ids.signer("arbiter"), ids.keyring)
            async with running(a, arbiter):
                before = ids.clock.now()
                assert await a.send("arbiter", Ping("n1", "grüß dich\n"), expires_s=5)
                [got] = await heard(arbiter, 1)
                assert (got.sender, got.body) == ("fs1a", Ping("n1", "grüß dich\n"))
                assert before <= got.received <= ids.clock.now()

    @pytest.mark.asyncio
    async def test_replies_cross(self, world: Make) -> None:
        """Both directions at once: every request gets its answer by nonce."""
        ids = Identities("fs1a", "arbiter")
        async with world() as site:
            a, arbiter = site.bus(ids.signer("fs1a"), ids.keyring), site.bus(ids.signer("arbiter"), ids.keyring)

            async def answer() -> None:
                async for delivery in arbiter.deliveries():
                    assert isinstance(delivery.body, Ping)
                    await arbiter.send(delivery.sender, Ping(delivery.body.nonce, "answer"), expires_s=5)

            async with running(a, arbiter):
                answering = asyncio.create_task(answer())
                nonces = {f"n{n}" for n in range(50)}
                sent = await asyncio.gather(*(a.send("arbiter", Ping(n, "ask"), expires_s=5) for n in nonces))
                assert all(sent)
                got = await heard(a, 50)
                answering.cancel()
                assert {d.body.nonce for d in got if isinstance(d.body, Ping)} == nonces

    @pytest.mark.asyncio
    async def test_a_forged_sender_is_rejected_and_reported(self, world: Make) -> None:
        """A party that signs with another key under a known name is not delivered; it is counted and reported."""
        ids = Identities("fs1a", "arbiter", "fs1b")
        seen: list[Rejected] = []
        async with world() as site:
            forged = ids.signer("fs1a", Ed25519PrivateKey.generate())
            good = site.bus(ids.signer("fs1b"), ids.keyring)
            evil, arbiter = site.bus(forged, ids.keyring), site.bus(ids.signer("arbiter"), ids.keyring, seen.append)
            async with running(evil, arbiter, good):
                await evil.send("arbiter", Ping("n", "fire"), expires_s=5)
                await until(lambda: bool(seen), "a rejection")
                await good.send("arbiter", Ping("m", "hello"), expires_s=5)
                [got] = await heard(arbiter, 1)
                assert got.sender == "fs1b"
                assert [each.reason for each in seen] == ["bad-signature"]
                assert arbiter.inbox.rejected == {"bad-signature": 1}

    @pytest.mark.asyncio
    async def test_without_the_broker_a_send_is_refused_at_once(self, world: Make) -> None:
        """Not connected means False, and `connected` says so; nothing is kept to be said later."""
        ids = Identities("fs1a", "arbiter")
        async with world() as site:
            a, arbiter = site.bus(ids.signer("fs1a"), ids.keyring), site.bus(ids.signer("arbiter"), ids.keyring)
            assert not await a.send("arbiter", Ping("n0", "before"), expires_s=60)
            async with running(a, arbiter):
                await site.stop()
                await until(lambda: not a.connected() and not arbiter.connected(), "loss is noticed")
                assert not await a.send("arbiter", Ping("n1", "meanwhile"), expires_s=60)
                await site.start()
                await until(lambda: a.connected() and arbiter.connected(), "both are back")
                assert await a.send("arbiter", Ping("n2", "after"), expires_s=60)
                [got] = await heard(arbiter, 1)
                assert got.body == Ping("n2", "after")

    @pytest.mark.asyncio
    async def test_the_absent_get_nothing_later(self, world: Make) -> None:
        """What was sent while a party was away is not there when it comes back: no old message acts."""
        ids = Identities("fs1a", "arbiter")
        async with world() as site:
            a = site.bus(ids.signer("fs1a"), ids.keyring)
            async with running(a):
                async with running(site.bus(ids.signer("arbiter"), ids.keyring)):
                    pass
                assert await a.send("arbiter", Ping("old", "fire"), expires_s=3600)
                arbiter = site.bus(ids.signer("arbiter"), ids.keyring)
                async with running(arbiter):
                    assert await a.send("arbiter", Ping("new", "hello"), expires_s=5)
                    [got] = await heard(arbiter, 1)
                    assert got.body == Ping("new", "hello")

    @pytest.mark.asyncio
    async def test_a_full_inbox_drops_the_oldest_and_counts(self, world: Make) -> None:
        """Nobody takes: memory stays bounded, the newest stay, and the loss is counted."""
        ids = Identities("fs1a", "arbiter")
        async with world() as site:
            a, arbiter = site.bus(ids.signer("fs1a"), ids.keyring), site.bus(ids.signer("arbiter"), ids.keyring)
            async with running(a, arbiter):
                for n in range(INBOX_MAX + 44):
                    assert await a.send("arbiter", Ping(str(n), ""), expires_s=60)
                    if n % 50 == 0:
                        await asyncio.sleep(0.01)  # let a hub write: its own box is bounded too
                await until(lambda: arbiter.inbox.dropped == 44, "44 dropped")
                got = await heard(arbiter, INBOX_MAX)
                assert [d.body.nonce for d in got if isinstance(d.body, Ping)] == [
                    str(n) for n in range(44, INBOX_MAX + 44)
                ]

    @pytest.mark.asyncio
    async def test_an_end_leaves_nothing_behind(self, world: Make) -> None:
        """Many connections, made and cancelled at any moment, leave no descriptor and no task."""
        ids = Identities("fs1a")
        async with world() as site:
            descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
            for n in range(8):
                task = asyncio.create_task(site.bus(ids.signer("fs1a"), ids.keyring).run())
                await asyncio.sleep(0.06 * n)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await until(lambda: open_descriptors() <= descriptors, f"back to {descriptors} descriptors")
            await until(lambda: len(asyncio.all_tasks()) <= tasks, f"back to {tasks} tasks")


Make = Callable[[], AbstractAsyncContextManager[World]]
Stop = Callable[[], Awaitable[None]]
