"""Every message: what is sealed opens as itself, everything else is refused, and nothing that opens kills a party."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from guard.core import arbiter, machine
from guard.core.instant import Instant, after
from guard.core.messages import ARBITER, Attest, Evidence, Init, Offer, RegisterView
from guard.core.pair import Site
from guard.core.policy import Policy
from guard.core.step import Heard
from guard.wire import BYTES_MAX, Envelope, Keyring, Opener, Rejected, Signer
from tests.core.desk import A, B, Desk, replica
from tests.core.scene import asked_to_fence, frozen_primary, guard_of, whole_pair
from tests.fuzz import bodies
from tests.fuzz.profile import PROFILE

KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.ljust(32).encode()) for name in (A, B, ARBITER)}
RING = Keyring({name: key.public_key() for name, key in KEYS.items()})


class Standing:
    """A clock that stands, for seals that are the same at every run."""

    def now(self) -> Instant:
        return Instant(1)

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "boot-1"

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")

    def nonce(self) -> str:
        return "00"

    def jitter(self, low: float, high: float) -> float:
        return low


def sealed(body: object, sender: str = A, to: str = ARBITER) -> bytes:
    return Signer(sender, "lab", KEYS[sender], Standing(), pair="fs1").seal(to, body)


def opened(data: bytes, me: str = ARBITER) -> Envelope | Rejected:
    return Opener(me, "lab", RING).open(data)


def signed(text: bytes) -> bytes:
    """What a known party could send if it wanted to."""
    return base64.b64encode(KEYS[A].sign(b"pairguard-envelope-1\n" + text)) + b" " + text


@pytest.mark.parametrize("kind", bodies.BODIES, ids=lambda kind: kind.__name__)
@PROFILE
@given(data=st.data())
def test_a_body_comes_through_whole(kind: type[Any], data: st.DataObject) -> None:
    """decode(encode(m)) == m for every body; the same bytes again are a replay."""
    body = data.draw(bodies.of(kind))
    try:
        wire = sealed(body)
    except ValueError as error:
        if "the limit is" in str(error):
            return
        raise  # pydantic's own refusal would be a body that we cannot say
    opener = Opener(ARBITER, "lab", RING)
    said = opener.open(wire)
    assert isinstance(said, Envelope), said
    assert said.body == body
    assert type(said.body) is kind
    again = opener.open(wire)
    assert isinstance(again, Rejected)
    assert again.reason == "replayed"


@PROFILE
@given(body=bodies.ANY, data=st.data())
def test_a_changed_envelope_is_refused(body: object, data: st.DataObject) -> None:
    """One bit, a cut, bytes in between, or another reader: never an envelope."""
    wire = sealed(body)
    at = data.draw(st.integers(0, len(wire) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = wire[:at] + bytes([wire[at] ^ (1 << bit)]) + wire[at + 1 :]
    for other in (flipped, wire[:at], wire[:at] + b" " + wire[at:], wire + b"\n", wire + wire, wire[89:]):
        assert isinstance(opened(other), Rejected)
    assert isinstance(opened(wire, B), Rejected)


@PROFILE
@given(st.one_of(st.binary(max_size=400), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Alone, behind a signature's length of characters, and signed by a known party."""
    for form in (data, b"A" * 88 + b" " + data, signed(data)):
        assert isinstance(opened(form), Rejected)


HOSTILE = (
    b"[" * 60_000,
    b'{"v":1,"sender":' + b"[" * 60_000,
    b'{"v":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}",
    b'{"v":1,"sender":"fs1a","site":"lab","to":"arbiter","kind":"beat","body":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"v":' + b"9" * 5000 + b"}",
    b'{"v":1e999,"sender":"fs1a"}',
    b'{"v":1,"sender":"fs1a","site":"lab","to":"arbiter","kind":"bye","seq":1e999,"body":{}}',
    b'{"v":1,"sender":"\\ud800"}',
    b'{"v":1,"sender":["fs1a"]}',
    b'{"v":true,"sender":"fs1a"}',
    b'{"v":2,"sender":"fs1a"}',
    b'{"v":1,"v":2,"sender":"fs1a"}',
    "{}".encode("utf-16"),
    b"\xff\xfe\xfd",
    b" " * BYTES_MAX,
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_json_is_refused(number: int) -> None:
    """Deep, huge, doubled, of another version or encoding: a reason, not an exception; also with a good signature."""
    for form in (b"A" * 88 + b" " + HOSTILE[number], signed(HOSTILE[number])):
        said = opened(form)
        assert isinstance(said, Rejected)
        assert len(said.text) <= 800


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, below in inner for each in _places(below, (*path, key)))]


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], new)
    return copy


NONSENSE = [None, "zq7x", "", -1, 2**70, 1.5, -0.0, 1e308, True, [], {}, [[]], ["zq7x"], {"zq7x": 1}, "\x00", "1"]


@PROFILE
@given(body=bodies.ANY, data=st.data())
def test_a_known_party_with_nonsense_harms_nobody(body: object, data: st.DataObject) -> None:
    """One value of a good body becomes another, under a good signature: refused, or heard without a crash."""
    plain = json.loads(sealed(body)[89:])
    path = data.draw(st.sampled_from(_places(plain["body"])))
    new = data.draw(st.sampled_from(NONSENSE))
    text = json.dumps(_put(plain, ("body", *path), new), sort_keys=True, separators=(",", ":")).encode()
    said = opened(signed(text))
    if isinstance(said, Envelope):
        hear_everywhere([said.body])


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "1e999"])
def test_no_number_is_not_a_number(literal: str) -> None:
    """Every number of an offer, which carries nearly everything there is, replaced by one that is none: refused."""
    stated = Evidence(A, "boot", 1, "session-1", False, (replica(history=(1, 2), age_hi_s=11.0),), "up", False)
    view = RegisterView("store", 1, None, (), None, 3, A)
    plain = json.loads(sealed(Offer("n", view, stated, stated, "silent", 0.1, 0.2, False, True, 2.0))[89:])
    for path in _places(plain):
        value = plain
        for key in path:
            value = value[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = json.dumps(_put(plain, path, "@@"), sort_keys=True, separators=(",", ":")).replace('"@@"', literal)
            assert isinstance(opened(signed(text.encode())), Rejected), path


def hear_everywhere(heard: list[Any]) -> None:
    """The arbiter and both guards hear these bodies in several situations, and time goes on."""
    desk = Desk().whole().cut()
    desk.claim(A, "n-1")
    pair, now = desk.pair, desk.now
    for number, body in enumerate(heard):
        now = after(now, 0.1)
        if not isinstance(body, Init):
            pair, _ = arbiter.hear(pair, (A, B)[number % 2], body, now, 0.0, Site("store-1"), Policy())
        pair, _ = arbiter.tick(pair, now, 0.0, Site("store-1"), Policy())
    for _ in range(3):
        now = after(now, 1.0)
        pair, _ = arbiter.tick(pair, now, 0.0, Site("store-1"), Policy())
    for guard, since in STANDING:
        moment = since
        for body in heard:
            for sender in (ARBITER, guard.peer):
                moment = after(moment, 0.1)
                guard, _ = machine.step(guard, Heard(sender, body), moment)


def _standing() -> list[tuple[Any, Instant]]:
    found = []
    for world, name in ((whole_pair(), "A"), (frozen_primary(), "A"), (asked_to_fence(), "B")):
        guard = guard_of(world, name)
        found.append((guard, after(guard.started, 3600.0)))
    return found


STANDING = _standing()


@PROFILE
@given(st.lists(bodies.ANY, min_size=1, max_size=5))
def test_any_well_formed_words_harm_nobody(heard: list[Any]) -> None:
    """Arbiter and guards survive whatever a known party may say, in any order."""
    hear_everywhere(heard)


@pytest.mark.parametrize(
    "change",
    [
        {"disk": "zq7x"}, {"peer_disk": ""}, {"role": "Primary"}, {"disk": "UpToDate"}, {"age_lo_s": -1.0},
        {"age_lo_s": 5.0, "age_hi_s": 4.0}, {"age_hi_s": -0.5}, {"age_lo_s": None, "age_hi_s": 3.0},
    ],
)  # fmt: skip
def test_a_statement_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    """Found by this fuzzer: a word that is no disk state came through, and raised inside the arbiter's verdict."""
    good = Evidence(A, "boot", 1, "session-1", False, (replica(),), "up", False)
    plain = json.loads(sealed(Attest(1, good))[89:])
    plain["body"]["evidence"]["replicas"][0] |= change
    text = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    said = opened(signed(text))
    assert isinstance(said, Rejected)
    assert said.reason == "bad-body"
    with pytest.raises(ValueError):
        sealed(Attest(1, replace(good, replicas=(replace(replica(), **change),))))
