"""Authentic words that nobody here can read: their sender lives, and nothing else follows from them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guard import wire
from guard.adapters.inbox import Inbox, told
from guard.core.arbiter import heard_unread
from guard.core.instant import after
from guard.core.messages import ARBITER, Attest, BeatAck, Bye, Claim, CloseEra, Init, Offer, Refused
from guard.core.pair import PEER_ALIVE
from guard.ports import Delivery
from tests.core.desk import S1, Desk, evidence, reason, statement
from tests.core.desk import A as OURS
from tests.core.desk import B as PEER
from tests.witness.test_batches import Court

A, B = "p0a", "p0b"
KEYS = {party: Ed25519PrivateKey.generate() for party in (A, B)}
RING = wire.Keyring({party: key.public_key() for party, key in KEYS.items()})


def sealed(signer: wire.Signer, message: object, key: Ed25519PrivateKey = KEYS[B], **header: object) -> bytes:
    """As the program before `unfit` said it: authentic, and one field short."""

    def older(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: older(each) for name, each in value.items() if name != "unfit"}
        return [older(each) for each in value] if isinstance(value, list) else value

    plain = {**older(json.loads(signer.seal(ARBITER, message)[89:])), **header}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    return base64.b64encode(key.sign(b"pairguard-envelope-1\n" + text)) + b" " + text


class Post:
    """The witness's own way from bytes to the arbiter: inbox, log, and what its wiring hands on."""

    def __init__(self, court: Court) -> None:
        self.court, self.pages, self.batch = court, list[tuple[str, str]](), list[Delivery]()
        self.inbox = Inbox(wire.Opener(ARBITER, "lab", RING), court.clock, self._rejected)
        self._told = told(self._emit)
        self.signer = wire.Signer(B, "lab", KEYS[B], court.clock, pair="p0")

    def _emit(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        if page:
            self.pages.append((event, str(data["sender"])))

    def _rejected(self, what: wire.Rejected) -> None:
        self._told(what)
        if isinstance(what, wire.Unread):
            self.batch.append(Delivery(what.sender, what, self.court.clock.now()))

    async def hear(self, *letters: bytes) -> None:
        for letter in letters:
            self.inbox.put(letter)
        batch, self.batch = self.batch, []
        await self.court.arbiter.turn(batch)


async def site(folder: Path) -> tuple[Court, Post]:
    """A pair whose node B was Primary and well, as all three were of one version."""
    court = Court(folder)
    await court.hear((A, Init("i", (A, B), A, "cell", "person")))
    await court.hear((A, Attest(1, evidence(A))), (B, Attest(1, evidence(B, role="primary"))))
    for _ in range(100):
        court.clock.move(0.4)
        await court.hear(*((node, statement(node, int(court.clock.now()))) for node in (A, B)))
    return court, Post(court)


@pytest.mark.asyncio
async def test_a_living_guard_whose_words_cannot_be_read_is_not_dead(tmp_path: Path) -> None:
    """S2: in a rolling upgrade a primary of the other version beats on: its peer reads `peer-alive` and wins nothing,
    however long that lasts; and what it stated before does not count as stated now."""
    court, post = await site(tmp_path)
    said: list[Any] = []
    for number in range(100):
        court.clock.move(0.4)
        await post.hear(sealed(post.signer, statement(B, int(court.clock.now()), member=False)))
        words: list[Any] = [(A, statement(A, int(court.clock.now()), member=False))]
        if number in (10, 95):
            words.append((A, Claim(f"n{number}", "fence", evidence(A, connected=False), "?")))
        said += [message for to, message in await court.hear(*words) if to == A]
    assert post.inbox.rejected == {"bad-body": 100}
    assert not any(isinstance(m, Offer) for m in said)
    assert [m.reason for m in said if isinstance(m, Refused)] == ["peer-alive"] * 2
    ack = next(m for m in reversed(said) if isinstance(m, BeatAck))
    assert ack.peer_heard_s is not None
    assert ack.peer_heard_s <= 0.4
    assert (ack.peer_hold, ack.peer_session) == (None, None)
    assert post.pages == [("unreadable", B)]
    court.store.close()


@pytest.mark.asyncio
async def test_only_what_was_said_now_to_us_by_a_known_party_is_heard(tmp_path: Path) -> None:
    """S4: replayed, of an earlier boot, of another site, to another party, forged, or without a number: nobody is kept
    alive by it."""
    court, post = await site(tmp_path)
    beat = statement(B, 1)
    first, boot = sealed(post.signer, beat), sealed(post.signer, beat, boot_id="the next boot")
    await post.hear(first, boot)
    heard = court.arbiter.pairs["p0"].heard[B]
    assert heard == court.clock.now()
    court.clock.move(5.0)
    stranger = Ed25519PrivateKey.generate()
    await post.hear(
        first,
        boot,
        sealed(post.signer, beat),
        sealed(post.signer, beat, boot_id="the next boot", site="elsewhere"),
        sealed(post.signer, beat, boot_id="the next boot", to=A),
        sealed(post.signer, beat, boot_id="the next boot", seq=-1),
        sealed(post.signer, beat, stranger, boot_id="the next boot"),
        sealed(post.signer, beat, stranger, boot_id="the next boot", v=2),
        sealed(post.signer, beat, boot_id="the next boot", sender="p9x"),
    )
    assert court.arbiter.pairs["p0"].heard[B] == heard
    unread: list[dict[str, object]] = [{"kind": "what-is-new"}, {"v": 2}, {"more": 1}, {"body": None}]
    for header in unread:
        court.clock.move(1.0)
        await post.hear(sealed(post.signer, beat, **{"boot_id": "the next boot", **header}))
        assert court.arbiter.pairs["p0"].heard[B] == court.clock.now(), header
    court.store.close()


@pytest.mark.asyncio
async def test_a_party_that_is_not_understood_is_a_page_until_it_is(tmp_path: Path) -> None:
    """A key that was made anew, or another version, looks like a death: one page when it begins, not one a word, also
    where only some kinds of words are of another shape. A stranger is no party of ours."""
    court, post = await site(tmp_path)
    beat, bye = statement(B, 1), Bye("stopped in order")
    forged = wire.Signer(B, "lab", Ed25519PrivateKey.generate(), court.clock, pair="p0")
    for again in (1, 2):
        for _ in range(3):
            post.inbox.put(forged.seal(ARBITER, beat))
        assert post.pages == [("unverified", B)] * again
        post.inbox.put(post.signer.seal(ARBITER, bye))
    for again in (1, 2):
        for _ in range(3):
            post.inbox.put(sealed(post.signer, beat))
            post.inbox.put(post.signer.seal(ARBITER, bye))
        assert post.pages[2:] == [("unreadable", B)] * again
        post.inbox.put(post.signer.seal(ARBITER, beat))
    post.inbox.put(wire.Signer("p9x", "lab", KEYS[A], court.clock).seal(ARBITER, beat))
    assert len(post.pages) == 4
    court.store.close()


def well() -> Desk:
    """Both guards were heard and read until now."""
    desk = Desk().whole()
    desk.wait(40.0, OURS, PEER, member=True)
    return desk


def unread(desk: Desk) -> None:
    desk.pair = heard_unread(desk.pair, PEER, desk.now, desk.policy)


def test_a_word_that_cannot_be_read_may_have_been_a_goodbye() -> None:
    """S2: a guard of another version that is stopped in order says so, and nobody can read it: for 30 s its silence is
    no death. What it said before a readable goodbye, and comes late, takes nothing back."""
    desk = well()
    unread(desk)
    desk.wait(5.0, OURS)
    desk.claim(OURS, "n1")
    desk.wait(1.0, OURS)
    assert reason(desk.last(Refused)) == "peer-alive"
    desk = well()
    desk.hear(PEER, Bye("stopped in order"))
    unread(desk)
    assert desk.pair.left == {PEER}


def half_read(desk: Desk, *, member: bool) -> None:
    """For 3.2 s both are heard, and one is read."""
    for _ in range(8):
        desk.now = after(desk.now, 0.4)
        desk.beat(OURS, member=member)
        unread(desk)


def test_old_words_do_not_become_new_by_unreadable_ones() -> None:
    """S3: an era is neither closed nor handed back on what a guard stated before its words could not be read."""
    desk = well()
    desk.win(OURS, "n1", "alone", role="primary")
    desk.beat(OURS)
    desk.beat(PEER)
    half_read(desk, member=True)
    for how, why in (("close", "not-whole"), ("hand-back", "peer-not-heard")):
        [(_, said)] = desk.hear(OURS, CloseEra("c", desk.register.version, how, S1))  # type: ignore[arg-type]
        assert reason(said) == why


def test_one_membership_is_what_both_say_now() -> None:
    """S2: `peer-alive` does not end because a guard that cannot be read was a member when it last could."""
    desk = well()
    half_read(desk, member=False)
    desk.claim(OURS, "n1")
    half_read(desk, member=False)
    desk.wait(0.1)
    assert desk.inhibits == {PEER_ALIVE}
    half_read(desk, member=True)
    desk.wait(0.1)
    assert desk.inhibits == {PEER_ALIVE}
