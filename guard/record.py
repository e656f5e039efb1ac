"""A rehearsal's record: what was played, on which facts, and what came of it, sealed with the key of a node.

1. The seal is an envelope of `guard.wire` around the digest of everything else: one changed byte voids it.
2. A record is evidence of one moment. Whether it still holds is told by its facts, compared with fresh ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guard import documents
from guard.errors import Refused, SettingsError, Unreadable
from guard.ports import Clock
from guard.survey import Survey, made
from guard.wire import Envelope, Keyring, Kinds, Opener, Signer

SCHEMA = "pairguard.rehearsal-record/1"
TO = "rehearsal-record"  # the inbox that no party has: a seal is no message
SEAL = "seal"
_AGAIN = "rehearse again: pairguard rehearse --plan FILE --site"


@dataclass(frozen=True, slots=True)
class Seal:
    """sha256 of the record's canonical JSON without its seal."""

    digest: str
    kind: Literal["rehearsal-record"] = "rehearsal-record"


_KINDS = Kinds(Seal)


@dataclass(frozen=True, slots=True)
class Opened:
    """A record whose seal is good. `at`: when it was sealed by that node's wall clock."""

    content: Mapping[str, Any]
    by: str
    at: str
    survey: Survey

    @property
    def kept(self) -> bool:
        """Every rule and every promise was kept."""
        return self.content["result"]["kept"] is True

    @property
    def plan_digest(self) -> str:
        return str(self.content["plan"]["sha256"])


def digest(content: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(
        json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    ).hexdigest()


def sealed(content: Mapping[str, Any], node: str, pair: str, key: Ed25519PrivateKey, clock: Clock) -> dict[str, Any]:
    """The record with its seal, the last of its keys."""
    signer = Signer(node, str(content["site"]), key, clock, pair=pair, kinds=_KINDS)
    return {**content, SEAL: signer.seal(TO, Seal(digest(content))).decode("ascii")}


def read(path: Path) -> dict[str, Any]:
    """What the file holds. `Unreadable`: it is no record."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(f"cannot read the record {path}", documents.why(error), _AGAIN) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise Unreadable(f"cannot read the record {path}", f"it is no {SCHEMA}", _AGAIN)
    return content


def opened(content: Mapping[str, Any], site: str, keyring: Keyring) -> Opened:
    """The record, if a node of this site sealed it and nothing of it was changed since. Else `Refused`."""
    seal = content.get(SEAL)
    if not isinstance(seal, str) or not seal.isascii():
        raise Refused("cannot trust this record", "it has no seal", _AGAIN)
    envelope = Opener(TO, site, keyring, kinds=_KINDS).open(seal.encode("ascii"))
    if not isinstance(envelope, Envelope):
        raise Refused(
            "cannot trust this record", f"its seal is void: {envelope.reason} {envelope.text}".strip(), _AGAIN
        )
    if not isinstance(envelope.body, Seal) or envelope.body.digest != digest(content):
        raise Refused("cannot trust this record", f"it was changed after {envelope.sender} sealed it", _AGAIN)
    if content.get("site") != site:
        raise Refused("cannot trust this record", f"it is of the site {content.get('site')!r}, not {site!r}", _AGAIN)
    try:
        survey = made(content["facts"]["survey"], "of the record")
    except (KeyError, TypeError, SettingsError) as error:
        raise Unreadable("cannot read the facts of this record", str(error), _AGAIN) from error
    return Opened(content, envelope.sender, moment(envelope.sent_wall), survey)


def moment(wall: float) -> str:
    """ISO 8601 with its zone, of seconds since 1970."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")
