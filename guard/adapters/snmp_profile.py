"""Reads switch profiles: which objects a family of switches is asked for, and what their values mean.

A profile rejects what it does not know: a misspelt word stops the start, it never switches a protection off.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from guard import documents
from guard.errors import SettingsError

Oid = tuple[int, ...]

_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,127}")  # RFC 2578 section 3.5: at most 128 sub-identifiers


def parse_oid(text: str) -> Oid:
    """`1.3.6.1` as numbers. Raises ValueError on anything else (names, a leading dot, numbers over 32 bits)."""
    if not _OID.fullmatch(text):
        raise ValueError(f"{text!r} is no numeric object identifier such as 1.3.6.1.2.1.1.3.0")
    numbers = tuple(int(part) for part in text.split("."))
    if max(numbers) >= 2**32:
        raise ValueError(f"{text!r} has a number over 32 bits")
    return numbers


def _checked_oid(text: str) -> str:
    parse_oid(text)
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StandardObjects(_Strict):
    """Which standard objects are asked for. ifOperStatus and sysUpTime always are."""

    engine: bool
    topology_changes: bool
    stp_root: bool
    stp_ports: bool
    lag_table: bool


class MlagObject(_Strict):
    """One vendor object. Values are the integers of its MIB, written as TOML keys."""

    shows: Literal["peer", "peer-link", "role"]
    object: str  # its name in the MIB, for people
    oid: Annotated[str, AfterValidator(_checked_oid)]
    row: Literal["scalar", "first"]
    meaning: dict[str, Literal["ok", "disturbance", "unknown"]] = Field(default_factory=dict)
    words: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fitting_table(self) -> Self:
        used, idle = (self.words, self.meaning) if self.shows == "role" else (self.meaning, self.words)
        if not used or idle:
            right = "words" if self.shows == "role" else "meaning"
            raise ValueError(f"{self.object} shows {self.shows}: it needs `{right}` and only that")
        for value in used:
            if not re.fullmatch(r"-?[0-9]+", value):
                raise ValueError(f"{self.object}: the value {value!r} is no integer")
        return self


class Profile(_Strict):
    """A switch family. `verified`: its objects were read from a real agent, not only from a MIB file."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    title: str
    verified: bool
    mlag_state: Literal["observable", "not-observable"]
    standard: StandardObjects
    mlag: tuple[MlagObject, ...] = ()

    @model_validator(mode="after")
    def _mlag_fits(self) -> Self:
        has_peer = any(entry.shows == "peer" for entry in self.mlag)
        if self.mlag_observable and not has_peer:
            raise ValueError('mlag_state is "observable", but no [[mlag]] object shows the peer')
        if not self.mlag_observable and self.mlag:
            raise ValueError('mlag_state is "not-observable", but there are [[mlag]] objects')
        return self

    @property
    def mlag_observable(self) -> bool:
        return self.mlag_state == "observable"


def parse_profile(text: str, source: str) -> Profile:
    """A profile from TOML. Raises `SettingsError` that names every fault at once."""
    try:
        document = tomllib.loads(text)
        # TOML has arrays, the model has tuples; strict mode takes neither for the other.
        if isinstance(document.get("mlag"), list):
            document["mlag"] = tuple(document["mlag"])
        return Profile.model_validate(document)
    except ValidationError as why:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'profile'}: {documents.ordered(e['msg'].removeprefix('Value error, '))}"
            for e in why.errors()
        )
        raise SettingsError(f"cannot use the switch profile {source}", faults, "compare it with generic.toml") from why
    except (ValueError, RecursionError) as why:  # no TOML, also a number too long for an int, and endless nesting
        raise SettingsError(f"cannot read the switch profile {source}", documents.why(why), "mend the TOML") from why


def read_profile(file: Path) -> Profile:
    """The profile in a file. Raises `SettingsError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as why:
        raise SettingsError(f"cannot read the switch profile {file}", documents.why(why), "mend the file") from why
    return parse_profile(text, str(file))


def bundled_profile(name: str) -> Profile:
    """A profile by name: from /etc/pairguard/profiles, from the installation, or from the source tree beside us."""
    places = (
        Path("/etc/pairguard/profiles"),
        Path(sys.prefix) / "share" / "pairguard" / "profiles",
        Path(__file__).resolve().parents[2] / "configs" / "profiles",
    )
    for place in places:
        if (place / f"{name}.toml").is_file():
            return read_profile(place / f"{name}.toml")
    known = sorted({file.stem for place in places for file in place.glob("*.toml")})
    raise SettingsError(f"cannot find the switch profile {name!r}", f"known: {', '.join(known)}", "see switch.profile")
