"""The envelope: what was sealed opens once, at the right party, and nothing else does."""

from __future__ import annotations

import base64
import json
import os
import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.adapters.clock import BootClock
from guard.core import messages
from guard.core.instant import Age
from guard.errors import SettingsError
from guard.replays import LIVE_AGAIN, WINDOW, Replays
from guard.wire import (
    BYTES_MAX,
    MESSAGES,
    Envelope,
    Keyring,
    Kinds,
    Opener,
    Rejected,
    Signer,
    checked_name,
    generate,
    load_keyring,
    load_private,
    load_public,
)


@dataclass(frozen=True, slots=True)
class Told:
    nonce: str
    age: Age
    marks: frozenset[str] = frozenset()
    level: float | None = None
    kind: Literal["told"] = "told"


@dataclass(frozen=True, slots=True)
class Other:
    kind: Literal["other"] = "other"


KINDS = Kinds(Told, Other)
CLOCK = BootClock()
A, B = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
RING = Keyring({"fs1a": A.public_key(), "fs1b": B.public_key()})
BODY = Told("n", Age(0, 1), frozenset({"b", "a", "c"}))


def signer(**changed: Any) -> Signer:
    options: dict[str, Any] = {"party": "fs1a", "site": "lab", "private": A, "clock": CLOCK, "kinds": KINDS} | changed
    return Signer(**options)


def opener(**changed: Any) -> Opener:
    options: dict[str, Any] = {"me": "arbiter", "site": "lab", "keyring": RING, "kinds": KINDS} | changed
    return Opener(**options)


def resigned(sealed: bytes, change: dict[str, object], key: Ed25519PrivateKey = A) -> bytes:
    """The same envelope with fields changed and a good signature: what a hostile but known party could send."""
    plain = json.loads(sealed[89:]) | change
    return signed(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode(), key)


def signed(text: bytes, key: Ed25519PrivateKey = A) -> bytes:
    return base64.b64encode(key.sign(b"pairguard-envelope-1\n" + text)) + b" " + text


def reason(opened: Envelope | Rejected) -> str:
    return opened.reason if isinstance(opened, Rejected) else "accepted"


def test_what_was_sealed_opens() -> None:
    """Every field of body and envelope comes through, with its type."""
    opened = opener().open(signer(pair="fs1").seal("arbiter", BODY))
    assert isinstance(opened, Envelope)
    assert opened.body == BODY
    assert isinstance(opened.body, Told)
    assert isinstance(opened.body.marks, frozenset)
    assert (opened.sender, opened.to, opened.site, opened.pair, opened.kind) == (
        "fs1a",
        "arbiter",
        "lab",
        "fs1",
        "told",
    )
    assert opened.boot_id == CLOCK.boot_id()


def test_one_value_has_one_encoding() -> None:
    """Sets are sorted and an int where a float belongs becomes one: equal bodies give equal bytes."""
    first, second = (
        json.loads(signer().seal("arbiter", Told("n", age, marks))[89:])["body"]
        for age, marks in ((Age(0, 1), frozenset("xyz")), (Age(0.0, 1.0), frozenset("zyx")))
    )
    assert json.dumps(first) == json.dumps(second)


def test_every_message_of_the_protocol_is_registered() -> None:
    """Whatever core.messages can say, wire can carry; kinds are distinct."""
    bodies = get_args(messages.Message)
    kinds = {next(f.default for f in fields(body) if f.name == "kind") for body in bodies}
    assert len(kinds) == len(bodies) > 10
    assert all(MESSAGES.model(str(kind)) is not None for kind in kinds)


def test_real_messages_come_through() -> None:
    """A claim with its whole evidence: nested values, tuples, None and 64-bit generations."""
    replica = messages.ReplicaStatement(
        "r0", "U", "?", "primary", 2**64 - 1, 0, (1, 2), True, 0.5, None, continuous=False
    )
    evidence = messages.Evidence("fs1a", "b", 7, None, False, (replica,), "up", None)
    claim = messages.Claim("n", "fence", evidence, "?", lost_for_s=1)
    opened = opener(kinds=MESSAGES).open(signer(kinds=MESSAGES).seal("arbiter", claim))
    assert isinstance(opened, Envelope)
    assert opened.body == claim


def test_no_default_stands_in_for_a_missing_field() -> None:
    """A field left out, even one that has a default in the class, makes a bad body (three-valued law)."""
    sealed = signer().seal("arbiter", BODY)
    body = json.loads(sealed[89:])["body"]
    for name in body:
        left = {key: value for key, value in body.items() if key != name}
        assert reason(opener().open(resigned(sealed, {"body": left}))) == "bad-body", name


@pytest.mark.parametrize(
    "body",
    [
        {"nonce": "n", "age": {"lo_s": 0.0, "hi_s": 1.0}, "marks": [], "level": None, "kind": "told", "extra": 1},
        {"nonce": "n", "age": {"lo_s": 0.0, "hi_s": 1.0, "x": 1}, "marks": [], "level": None, "kind": "told"},
        {"nonce": 5, "age": {"lo_s": 0.0, "hi_s": 1.0}, "marks": [], "level": None, "kind": "told"},
        {"nonce": "n", "age": {"lo_s": "0", "hi_s": 1.0}, "marks": [], "level": None, "kind": "told"},
        {"nonce": "n", "age": {"lo_s": -1.0, "hi_s": 1.0}, "marks": [], "level": None, "kind": "told"},
        {"nonce": "n", "age": {"lo_s": 0.0, "hi_s": 1.0}, "marks": ["b", "a"], "level": None, "kind": "told"},
        {"nonce": "n", "age": {"lo_s": 0.0, "hi_s": 1.0}, "marks": [], "level": None, "kind": "other"},
        {"nonce": "n", "age": {"lo_s": 0, "hi_s": 1.0}, "marks": [], "level": None, "kind": "told"},
        None,
        [],
        "told",
    ],
)
def test_a_body_of_another_shape_is_bad(body: object) -> None:
    """Extra fields at any depth, wrong types, broken invariants, another kind, another encoding: all bad."""
    assert reason(opener().open(resigned(signer().seal("arbiter", BODY), {"body": body}))) == "bad-body"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "bad-version"),
        ({"v": True}, "bad-version"),
        ({"v": None}, "bad-version"),
        ({"sender": "fs9z"}, "unknown-party"),
        ({"sender": ["fs1a"]}, "unknown-party"),
        ({"sender": "fs1b"}, "bad-signature"),
        ({"site": "elsewhere"}, "wrong-site"),
        ({"to": "fs1b"}, "not-for-me"),
        ({"kind": "shoot"}, "unknown-kind"),
        ({"kind": {}}, "unknown-kind"),
        ({"kind": "other"}, "bad-body"),
        ({"seq": -1}, "bad-body"),
        ({"seq": 1.0}, "bad-body"),
        ({"boot_id": ""}, "bad-body"),
        ({"boot_id": "\ud800"}, "bad-body"),
        ({"more": 1}, "bad-body"),
        ({"sent_wall": "now"}, "bad-body"),
    ],
)
def test_each_refusal_has_its_reason(change: dict[str, object], why: str) -> None:
    """A known party that signs an envelope with one thing wrong is refused for that thing."""
    assert reason(opener().open(resigned(signer().seal("arbiter", BODY), change))) == why


def test_a_pair_mixed_up_is_refused() -> None:
    """A guard takes nothing that was said about another pair; a sender that serves many says none."""
    for pair, expected in (("fs1", "accepted"), ("", "accepted"), ("fs2", "wrong-pair")):
        assert reason(opener(pair="fs1").open(signer(pair=pair).seal("arbiter", BODY))) == expected


def test_no_changed_bit_passes() -> None:
    """Any single bit flipped anywhere in the bytes makes it refused."""
    sealed = signer().seal("arbiter", BODY)
    rng = random.Random(7)  # noqa: S311
    places = {*range(100), *(rng.randrange(len(sealed)) for _ in range(300))}
    for place in places:
        changed = bytearray(sealed)
        changed[place] ^= 1 << rng.randrange(8)
        assert isinstance(opener().open(bytes(changed)), Rejected), place


def test_a_signature_has_one_spelling() -> None:
    """base64's spare bits are no place to change a message unseen."""
    sealed = signer().seal("arbiter", BODY)
    spellings = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    opened = [reason(opener().open(sealed[:85] + bytes([each]) + sealed[86:])) for each in spellings]
    assert sorted(opened) == ["accepted"] + ["bad-signature"] * 63


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise(junk: bytes) -> None:
    """Whatever comes from the network is answered with a value."""
    assert isinstance(opener().open(junk), Rejected)


@pytest.mark.parametrize(
    "text", [b"[" * 60000, b'{"v":1,"x":' + b"[" * 60000, b"9" * 60000, b'{"v":NaN}', b'{"sender":"\\ud800","v":1}']
)
def test_hostile_json_is_only_refused(text: bytes) -> None:
    """Deep nesting, endless numbers, NaN, lone surrogates, correctly signed: refused, and the text is printable."""
    opened = opener().open(signed(text))
    assert isinstance(opened, Rejected)
    assert opened.text.isascii()


@given(st.text(max_size=50))
def test_what_a_text_takes_on_the_wire_is_known(text: str) -> None:
    """The border's bound on reasons and keys holds for the bytes that are sent."""
    assert len(json.dumps(text)) - 2 <= messages.spelled(text) <= 12 * len(text)


def test_size_is_bounded_both_ways() -> None:
    """Over 64 KiB is neither read nor sent."""
    assert reason(opener().open(b"x" * (BYTES_MAX + 1))) == "oversized"
    with pytest.raises(ValueError, match="limit"):
        signer().seal("arbiter", Told("x" * BYTES_MAX, Age(0, 1)))


@pytest.mark.parametrize("body", [object(), "text", Told("n", Age(0, 1), level=float("nan"))])
def test_what_the_receiver_would_refuse_is_not_sent(body: object) -> None:
    """An unregistered value and a NaN are bugs of ours and show at the sender."""
    with pytest.raises(ValueError, match=r"."):
        signer().seal("arbiter", body)


# ---------------------------------------------------------------- replay


def test_the_same_bytes_are_taken_once() -> None:
    """A repeated message is refused, at once and later."""
    receiver, sender = opener(), signer()
    sealed = [sender.seal("arbiter", BODY) for _ in range(5)]
    assert [reason(receiver.open(each)) for each in sealed] == ["accepted"] * 5
    assert [reason(receiver.open(each)) for each in sealed] == ["replayed"] * 5


def test_a_refused_message_uses_nothing_up() -> None:
    """Only what was accepted counts as seen: a message refused at one party opens at the right one."""
    receiver, sealed = opener(), signer().seal("arbiter", BODY)
    assert reason(receiver.open(resigned(sealed, {"to": "fs1b"}))) == "not-for-me"
    assert reason(receiver.open(sealed)) == "accepted"


def test_a_restart_of_the_sender_within_a_boot_goes_on() -> None:
    """A new daemon in the same boot is not taken for a replay of the old one."""
    receiver = opener()
    for _ in range(5):
        sender = signer()
        assert [reason(receiver.open(sender.seal("arbiter", BODY))) for _ in range(3)] == ["accepted"] * 3


def test_window_against_the_plain_rule() -> None:
    """Random reordering: accepted exactly if not seen before and less than 64 behind the highest."""
    rng = random.Random(3)  # noqa: S311
    for _ in range(30):
        window, seen, highest = Replays(), set[int](), -1
        for _ in range(400):
            seq = max(0, highest + rng.choice([1, 1, 2, 5, 70, 200, 0, -1, -3, -63, -64, -65, -200]))
            expected = seq not in seen and seq > highest - WINDOW
            assert window.fresh("boot", seq) is expected, (seq, highest)
            if expected:
                seen.add(seq)
                highest = max(highest, seq)


def test_a_late_message_of_an_earlier_boot_is_refused() -> None:
    """Once the sender rebooted, what was stuck from before says nothing more."""
    window = Replays()
    assert window.fresh("one", 5)
    assert window.fresh("two", 1)
    assert not window.fresh("one", 6)
    assert window.fresh("two", 2)


def test_two_boots_heard_in_the_wrong_order_heal() -> None:
    """After our own restart a stuck message of the earlier boot came last: the living one is not locked out."""
    window = Replays()
    assert window.fresh("living", 100)
    assert window.fresh("stuck", 7)
    verdicts = [window.fresh("living", 101 + n) for n in range(LIVE_AGAIN + 5)]
    assert verdicts == [False] * (LIVE_AGAIN - 1) + [True] * 6
    assert not window.fresh("stuck", 8)
    assert not window.fresh("living", 103)  # what was refused then stays seen


def test_an_earlier_boot_does_not_come_back_while_the_present_one_speaks() -> None:
    """Stuck messages trickling in between living ones never reach the count."""
    window = Replays()
    window.fresh("old", 0)
    for n in range(100):
        assert window.fresh("new", n)
        assert not window.fresh("old", n + 1)


def test_memory_is_bounded() -> None:
    """A sender that reboots for ever costs eight boots."""
    window = Replays()
    for n in range(1000):
        assert window.fresh(f"boot {n}", 0)
    assert len(window.boots) == 8


# ---------------------------------------------------------------- keys and names


def test_keys_go_through_files(tmp_path: Path) -> None:
    """generate, load_private, load_keyring fit together; the private file is 0600 from its first moment."""
    generate(tmp_path / "fs1a.key", tmp_path / "fs1a.pub")
    assert (tmp_path / "fs1a.key").stat().st_mode & 0o777 == 0o600
    private, ring = load_private(tmp_path / "fs1a.key"), load_keyring(tmp_path)
    assert ring.parties() == {"fs1a"}
    sealed = signer(private=private).seal("arbiter", BODY)
    assert reason(opener(keyring=ring).open(sealed)) == "accepted"
    with pytest.raises(SettingsError, match="cannot write"):
        generate(tmp_path / "fs1a.key", tmp_path / "new.pub")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700, 0o620])
def test_a_private_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    """The message says which command mends it."""
    generate(tmp_path / "k", tmp_path / "k.pub")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(SettingsError, match="chmod 0600"):
        load_private(tmp_path / "k")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_private_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Root does not use a key that another user owns."""
    generate(tmp_path / "k", tmp_path / "k.pub")
    os.chown(tmp_path / "k", 12345, 12345)
    with pytest.raises(SettingsError, match="owner 12345"):
        load_private(tmp_path / "k")


def test_files_that_are_no_keys_are_refused(tmp_path: Path) -> None:
    """Missing, empty, links and public keys in the private's place stop the start with a plain cause."""
    generate(tmp_path / "k", tmp_path / "k.pub")
    (tmp_path / "link").symlink_to(tmp_path / "k")
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "public").write_bytes((tmp_path / "k.pub").read_bytes())
    (tmp_path / "public").chmod(0o600)
    for name in ("missing", "link", "empty", "public"):
        with pytest.raises(SettingsError):
            load_private(tmp_path / name)
    for name in ("missing", "empty", "k"):
        with pytest.raises(SettingsError):
            load_public(tmp_path / name)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "A", "a b", "%u", ".hidden", "a" * 64, "a\n", "ä"])
def test_names_that_mean_something_in_a_topic_are_refused(name: str) -> None:
    """Party and site stand in topics and in ACL patterns."""
    with pytest.raises(SettingsError, match="cannot use"):
        checked_name("party", name)
