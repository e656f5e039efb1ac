"""What travels between parties: a signed, versioned envelope around one body of `core.messages`.

1. A signature covers the very bytes that came in; nothing but the sender's name is believed before it verifies.
2. One envelope has one encoding: sorted keys, no blanks, every field present. A missing field is a bad body, never
   a default.
3. What is not accepted is a value (`Rejected`) with a stable reason; no input from the network raises. Who is authentic
   and cannot be read (`Unread`) was heard all the same: a living party of another version is not a dead one.
4. No time is compared here. The bus drops what expired; nonces in the bodies bind a message to its window (S4).

On the wire: 88 characters base64 of the Ed25519 signature, one blank, the canonical JSON (ASCII, so without line ends).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import pwd
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from guard.core import messages
from guard.core.evidence import Disk, Role
from guard.errors import SettingsError
from guard.ports import Clock
from guard.replays import Replays

VERSION = 1
BYTES_MAX = 64 * 1024  # a claim with 32 resources is about 8 KiB; the broker's limit is set to the same
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")  # no '/', '+', '#', '%': names stand in topics and ACL patterns

_SIGNED_AS = b"pairguard-envelope-1\n"  # keeps these signatures from meaning anything elsewhere
_SIGNATURE_CHARS = 88  # base64 of 64 bytes

Reason = Literal[
    "oversized",
    "not-json",
    "bad-version",
    "unknown-party",
    "bad-signature",
    "wrong-site",
    "wrong-pair",
    "not-for-me",
    "unknown-kind",
    "bad-body",
    "replayed",
]


@dataclass(frozen=True, slots=True)
class Envelope:
    """One authentic message. `sent_wall` (seconds since 1970 by the sender's clock) is for people only.

    `seq` rises within one boot of the sender. `pair` is "" where the sender serves many pairs.
    """

    site: str
    pair: str
    sender: str
    to: str
    boot_id: str
    seq: int
    sent_wall: float
    kind: str
    body: object


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a message was not accepted. `sender` is "" unless the signature was good; `text` is for people.

    `named`: the known party in whose name it came, though nothing shows that it is from there. `page`: people must
    hear of it; the inbox says so, once until a good word of that party comes.
    """

    reason: Reason
    sender: str = ""
    text: str = ""
    named: str = ""
    page: bool = False


@dataclass(frozen=True, slots=True)
class Unread(Rejected):
    """Authentic, for us, not seen before, and its body cannot be read: another version, most likely. Its sender lives,
    and nothing else is known. `kind`: a registered one, or "?"."""

    kind: str = "?"


# ---------------------------------------------------------------- kinds


class _Stamp(BaseModel):
    """What tells a message from a replay, in whatever envelope."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    boot_id: Annotated[str, Field(min_length=1, max_length=64)]
    seq: Annotated[int, Field(ge=0, lt=1 << 64)]


class _Header(_Stamp):
    """Everything of an envelope except its body's own shape."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    v: Literal[1]
    site: str
    pair: str
    sender: str
    to: str
    sent_wall: float
    kind: str
    body: Any


class Kinds:
    """The registry of bodies: kind -> frozen dataclass. pydantic checks every field, strictly, at every depth."""

    def __init__(self, *bodies: type[Any]) -> None:
        self._models: dict[str, type[_Header]] = {}
        self._kind_of: dict[type[Any], str] = {}
        for body in bodies:
            kind = _kind(body)
            if kind in self._models:
                raise ValueError(f"cannot register {body.__name__}: kind {kind!r} is taken")
            # pydantic passes the outer configuration (strict, no extras) on to plain dataclasses within.
            self._models[kind] = create_model(f"Envelope_{kind}", __base__=_Header, body=(body, ...))
            self._kind_of[body] = kind

    def kind_of(self, body: object) -> str:
        """Kind of a body; ValueError for a value that is no registered message (a bug of ours)."""
        kind = self._kind_of.get(type(body))
        if kind is None:
            raise ValueError(f"cannot send a {type(body).__name__}: not a registered message")
        return kind

    def model(self, kind: str) -> type[_Header] | None:
        return self._models.get(kind)


def kinds_of(union: object) -> Kinds:
    """The registry of a union of message classes, for example `core.messages.Message`."""
    return Kinds(*get_args(union))


def _kind(body: type[Any]) -> str:
    """A slotted dataclass has no class attribute for a field's default, so look at the field first."""
    for each in fields(body):
        if each.name == "kind" and isinstance(each.default, str):
            return each.default
    kind = getattr(body, "kind", None)
    if not isinstance(kind, str):
        raise ValueError(f"cannot register {body.__name__}: it has no constant `kind`")
    return kind


MESSAGES = kinds_of(messages.Message)


# ---------------------------------------------------------------- sealing


class Signer:
    """Seals what one party says.

    `seq` begins at CLOCK_BOOTTIME in nanoseconds and then counts: so it also rises over a restart of the daemon
    within one boot, without a file, as long as fewer than 1e9 messages a second are sent.
    """

    def __init__(
        self,
        party: str,
        site: str,
        private: Ed25519PrivateKey,
        clock: Clock,
        *,
        pair: str = "",
        kinds: Kinds = MESSAGES,
    ) -> None:
        checked_name("party", party)
        checked_name("site", site)
        self.party, self.site, self.pair = party, site, pair
        self._private, self._clock, self._kinds = private, clock, kinds
        self._boot_id = clock.boot_id()
        self._seq = int(clock.now())

    def seal(self, to: str, body: object) -> bytes:
        """The bytes to send. ValueError: the receiver would not take this body (a bug of ours, or it is too large)."""
        kind = self._kinds.kind_of(body)
        model = self._kinds.model(kind)
        self._seq += 1
        envelope = {
            "v": VERSION,
            "site": self.site,
            "pair": self.pair,
            "sender": self.party,
            "to": to,
            "boot_id": self._boot_id,
            "seq": self._seq,
            "sent_wall": self._clock.wall(),
            "kind": kind,
            "body": _plain(body),
        }
        if model is None:
            raise ValueError(f"cannot send kind {kind!r}: not registered")
        # Through the receiver's own check: what it would refuse is never sent, and 1 becomes 1.0 where a float belongs.
        checked = model.model_validate_json(_dumps(envelope))
        nonsense = _nonsense(checked.body)
        if nonsense is not None:
            raise ValueError(f"cannot send a {kind}: {nonsense}")
        text = _canonical(checked)
        sealed = base64.b64encode(self._private.sign(_SIGNED_AS + text)) + b" " + text
        if len(sealed) > BYTES_MAX:
            raise ValueError(f"cannot send a {kind} of {len(sealed)} bytes: the limit is {BYTES_MAX}")
        return sealed


def _canonical(model: _Header) -> bytes:
    plain = {name: _plain(getattr(model, name)) for name in type(model).model_fields}
    return _dumps(plain)


def _dumps(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _plain(value: Any) -> Any:
    """Dataclasses, enums, tuples and sets as JSON values; sets sorted, so that one value has one encoding."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (frozenset, set)):
        return sorted(_plain(each) for each in value)
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value


# ---------------------------------------------------------------- opening


class Keyring:
    """Public keys by party. A party that is not in it is a stranger."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        for party in keys:
            checked_name("party", party)
        self._keys = dict(keys)

    def key(self, party: str) -> Ed25519PublicKey | None:
        return self._keys.get(party)

    def parties(self) -> frozenset[str]:
        return frozenset(self._keys)


class Opener:
    """Opens what one party receives, and remembers what it saw, so that nothing is taken twice.

    The memory is this process's own. After a restart a captured message could be replayed once by somebody who may
    write to this inbox; the nonces in the bodies make it say nothing then.
    """

    def __init__(self, me: str, site: str, keyring: Keyring, *, pair: str = "", kinds: Kinds = MESSAGES) -> None:
        self._me, self._site, self._pair = me, site, pair
        self._keyring, self._kinds = keyring, kinds
        self._seen: dict[str, Replays] = {}

    def open(self, sealed: bytes) -> Envelope | Rejected:
        """The envelope, or why not. Never raises on any bytes."""
        if len(sealed) > BYTES_MAX:
            return Rejected("oversized", text=f"{len(sealed)} bytes")
        signature, text = sealed[:_SIGNATURE_CHARS], sealed[_SIGNATURE_CHARS + 1 :]
        plain = _parsed(text)
        if plain is None or sealed[_SIGNATURE_CHARS : _SIGNATURE_CHARS + 1] != b" ":
            return Rejected("not-json")
        version, sender = plain.get("v"), plain.get("sender")
        ours = version == VERSION and not isinstance(version, bool)
        key = self._keyring.key(sender) if isinstance(sender, str) else None
        if key is None or not isinstance(sender, str):
            return Rejected("unknown-party" if ours else "bad-version", "", _shown(sender if ours else version))
        if not _verifies(key, signature, text):
            return Rejected("bad-signature" if ours else "bad-version", "", f"claims to come from {sender}", sender)
        return self._judge(sender, plain, text)

    def _judge(self, sender: str, plain: dict[str, object], text: bytes) -> Envelope | Rejected:
        """Everything after the signature: addressed to us, not seen before; then what it says."""
        if plain.get("site") != self._site:
            return Rejected("wrong-site", sender, _shown(plain.get("site")))
        if plain.get("to") != self._me:
            return Rejected("not-for-me", sender, _shown(plain.get("to")))
        if self._pair and plain.get("pair") not in ("", self._pair):
            return Rejected("wrong-pair", sender, _shown(plain.get("pair")))
        try:
            stamp = _Stamp.model_validate(plain)
        except ValidationError as error:
            return Rejected("bad-body", sender, _first(error))
        if not self._seen.setdefault(sender, Replays()).fresh(stamp.boot_id, stamp.seq):
            return Rejected("replayed", sender, f"boot {stamp.boot_id}, seq {stamp.seq}")
        return self._read(sender, plain, text)

    def _read(self, sender: str, plain: dict[str, object], text: bytes) -> Envelope | Unread:
        """What it says; from here on it was heard, whether or not it can be read."""
        version, kind = plain.get("v"), plain.get("kind")
        if version != VERSION or isinstance(version, bool):
            return Unread("bad-version", sender, _shown(version))
        model = self._kinds.model(kind) if isinstance(kind, str) else None
        if model is None:
            return Unread("unknown-kind", sender, _shown(kind))
        try:
            checked = model.model_validate_json(text)
        except ValidationError as error:
            return Unread("bad-body", sender, _first(error), kind=str(kind))
        fault = _nonsense(checked.body)
        if fault is None and _canonical(checked) != text:
            fault = "a field is missing, or the encoding is not the canonical one"
        if fault is not None:
            return Unread("bad-body", sender, _shown(fault), kind=str(kind))
        return Envelope(
            checked.site,
            checked.pair,
            checked.sender,
            checked.to,
            checked.boot_id,
            checked.seq,
            checked.sent_wall,
            checked.kind,
            checked.body,
        )


_WORDS = {"disk": frozenset(Disk), "peer_disk": frozenset(Disk), "role": frozenset(Role)}


def _nonsense(value: object) -> str | None:
    """What is of the right type in a body and still cannot be: the core builds its values from these."""
    if isinstance(value, messages.ReplicaStatement):
        wrong = [f"{name} is {getattr(value, name)!r}" for name in _WORDS if getattr(value, name) not in _WORDS[name]]
        lo, hi = value.age_lo_s, value.age_hi_s
        if (lo is None and hi is not None) or (lo is not None and (lo < 0 or (hi is not None and hi < lo))):
            wrong.append(f"an age from {lo} to {hi}")
        return wrong[0] if wrong else None
    inner: Iterable[object] = ()
    if is_dataclass(value) and not isinstance(value, type):
        inner = (getattr(value, each.name) for each in fields(value))
    elif isinstance(value, tuple):
        inner = value
    return next((said for each in inner if (said := _nonsense(each)) is not None), None)


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return _shown(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


def _parsed(text: bytes) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _shown(value: object) -> str:
    """What a stranger wrote, made safe for a log line: ASCII, at most 200 characters."""
    return str(value)[:200].encode("ascii", "backslashreplace").decode("ascii").replace("\n", " ")


def _verifies(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        raw = base64.b64decode(signature, validate=True)
        key.verify(raw, _SIGNED_AS + text)
    except (InvalidSignature, binascii.Error):
        return False
    return base64.b64encode(raw) == signature  # base64 has several spellings of one value; we have one


# ---------------------------------------------------------------- keys


def checked_name(what: str, name: str) -> str:
    """A party's or site's name, or `SettingsError`: it stands in topics, so nothing that means something there."""
    if not NAME.match(name):
        raise SettingsError(
            f"cannot use {name!r} as a {what}",
            "a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit",
            f"rename the {what} in pairguard.toml",
        )
    return name


def generate(private_path: Path, public_path: Path) -> None:
    """Make one party's key pair (PEM), the private file with mode 0600.

    Never overwrites; `SettingsError` if it cannot write.
    """
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for path, content, mode in ((private_path, secret, 0o600), (public_path, public, 0o644)):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise SettingsError(
                f"cannot write the key file {path}", str(error.strerror), "move an old key away first"
            ) from error
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def load_private(path: Path, owners: frozenset[int] = frozenset()) -> Ed25519PrivateKey:
    """The private key of this party. `SettingsError` unless root, we ourselves or one of `owners` (user ids) own it
    with mode 0600 or less."""
    anew = f"mv {path} {path}.old && pairguard init --keys, and copy the new .pub to the other parties"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise SettingsError(f"cannot read the key {path}", str(error.strerror), "run: pairguard init --keys") from error
    with os.fdopen(handle, "rb") as stream:
        seen = os.fstat(stream.fileno())
        trusted = {0, os.geteuid(), *owners}
        if not stat.S_ISREG(seen.st_mode) or seen.st_mode & 0o177 or seen.st_uid not in trusted:
            owner = _user(seen.st_uid if seen.st_uid in trusted else min(owners, default=os.geteuid()))
            mend = f"run: chown {owner} {path} && chmod 0600 {path}"
            if seen.st_mode & 0o044:
                mend += f"; whoever read it can speak as this party, so then make a new one: {anew}"
            raise SettingsError(
                f"cannot trust the key {path}",
                f"mode {stat.S_IMODE(seen.st_mode):04o}, owner {_user(seen.st_uid)}: others could read or change it",
                mend,
            )
        content = stream.read(BYTES_MAX)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        why = "it is locked with a pass phrase, and nobody is there to type it"
        raise SettingsError(f"cannot read the key {path}", why, f"new one: {anew}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        why = "it is no private key in PEM: damaged, or not copied whole"
        raise SettingsError(f"cannot read the key {path}", why, f"new one: {anew}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"cannot use the key {path}", "it is no Ed25519 key", f"new one: {anew}")
    return key


def _user(uid: int) -> str:
    """A user's name, or the number where nobody knows one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def load_public(path: Path) -> Ed25519PublicKey:
    """The public key of another party, from PEM. `SettingsError` if it is missing or of another kind."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"cannot read the key {path}", str(error.strerror), "copy the party's .pub file here"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        why = "it is no public key in PEM: damaged, or not copied whole"
        raise SettingsError(f"cannot read the key {path}", why, "copy the party's .pub file here") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"cannot use the key {path}", "it is no Ed25519 key", "copy the party's .pub file here")
    return key


def load_keyring(folder: Path) -> Keyring:
    """Every `PARTY.pub` of a folder. `SettingsError` for an unreadable one: a key is never silently left out."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".pub") if folder.exists() else []
    except OSError as error:
        raise SettingsError(
            f"cannot read the folder of keys {folder}", str(error.strerror), f"ls -ld {folder}"
        ) from error
    return Keyring({path.stem: load_public(path) for path in found})
