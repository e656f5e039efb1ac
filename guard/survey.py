"""The survey of a site: facts that decide what a change may do to its pairs, each with its source and moment.

1. What could not be read is UNKNOWN (null) with the reason. Nothing here has a believable default.
2. The digest covers keys and values alone: the same site read an hour later, or by another node, has the same digest.
3. Two sources that say different things of one fact are refused; a fact that is known is never lost to an UNKNOWN,
   nor a port's owner to `other`, which only says that it is none of ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from guard import documents
from guard.errors import SettingsError

SCHEMA = "pairguard.survey/1"
UNBOUNDED, NEVER = "unbounded", "never"
OTHER = "other"  # the owner of a switch port that is none of this pair's, nor an uplink
Value = bool | int | float | str | tuple[str, ...]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SORTS: tuple[tuple[str, str], ...] = (
    (rf"pair\.{_NAME}\.(nodes|resources)", "names"),
    (rf"pair\.{_NAME}\.(cell|preferred)", "word"),
    (rf"pair\.{_NAME}\.(token_s|consensus_s|stonith_timeout_s)", "seconds"),
    (rf"pair\.{_NAME}\.drbd\.{_NAME}\.(ping_s|timeout_s|connect_s)", "seconds"),
    (rf"node\.{_NAME}\.gate\.{_NAME}\.(protocol|fencing|on_congestion)", "word"),
    (rf"node\.{_NAME}\.gate\.{_NAME}\.handler_ours", "truth"),
    (rf"fence\.{_NAME}\.delegate", "word"),
    (rf"fence\.{_NAME}\.(timeout_s|horizon_s|wait_s|off_timeout_s|delay_s)", "seconds"),
    (rf"fence\.{_NAME}\.path", "names"),
    (rf"switch\.{_NAME}\.peers", "names"),
    (rf"switch\.{_NAME}\.port\.\S+", "word"),
    (r"arbiter\.address", "word"),
    (r"arbiter\.path", "names"),
    (r"limits\.[a-z_]+", "seconds"),
)
"""Every key that a survey may have, and what its value is. A `path` names the switches that it crosses; none: own."""
_ALLOWED = {
    "names": "a list of names",
    "word": "a word",
    "truth": "true or false",
    "seconds": f'seconds as a number, "{UNBOUNDED}" or "{NEVER}"',
}


@dataclass(frozen=True, slots=True)
class Fact:
    """`value` None: UNKNOWN, and `why`. `at`: wall time with its zone, for people."""

    value: Value | None
    source: str
    at: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """`by`: the node that read it, or those whose surveys were put together."""

    site: str
    by: tuple[str, ...]
    facts: Mapping[str, Fact]

    def value(self, key: str) -> Value | None:
        """None: UNKNOWN, or nobody looked, which is the same."""
        found = self.facts.get(key)
        return None if found is None else found.value

    def digest(self) -> str:
        """sha256 of the canonical JSON of every key and value; UNKNOWN is null."""
        plain = {key: _plain(fact.value) for key, fact in self.facts.items()}
        text = json.dumps({"schema": SCHEMA, "site": self.site, "facts": plain}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def unknown(self) -> dict[str, str]:
        """Key -> why it could not be read."""
        return {key: fact.why for key, fact in sorted(self.facts.items()) if fact.value is None}

    def times(self) -> tuple[str, str] | None:
        """The oldest and the newest moment at which a fact was read; None without a fact."""
        moments = sorted((fact.at for fact in self.facts.values()), key=datetime.fromisoformat)
        return (moments[0], moments[-1]) if moments else None

    def json(self) -> dict[str, Any]:
        """`pairguard.survey/1`."""
        facts = {
            key: {"value": _plain(fact.value), "source": fact.source, "at": fact.at}
            | ({"why": fact.why} if fact.value is None else {})
            for key, fact in sorted(self.facts.items())
        }
        return {
            "schema": SCHEMA,
            "site": self.site,
            "by": list(self.by),
            "digest": self.digest(),
            "unknown": list(self.unknown()),
            "facts": facts,
        }


def sort_of(key: str) -> str | None:
    """What the value of this key is: names, word, truth or seconds; None for a key that no survey has."""
    return next((sort for pattern, sort in _SORTS if re.fullmatch(pattern, key)), None)


def misfit(key: str, value: object) -> str:
    """Why this is no fact; "" if it is one, or UNKNOWN."""
    sort = sort_of(key)
    if sort is None:
        return "no survey has this key"
    fits = {
        "names": isinstance(value, list | tuple) and all(isinstance(each, str) for each in value),
        "word": isinstance(value, str),
        "truth": isinstance(value, bool),
        "seconds": value in (UNBOUNDED, NEVER)
        or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")),
    }[sort]
    return "" if value is None or fits else f"write {_ALLOWED[sort]}; found {value!r}"


# ------------------------------------------------------------------ reading


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    value: StrictBool | StrictInt | StrictFloat | StrictStr | tuple[StrictStr, ...] | None
    source: StrictStr
    at: AwareDatetime
    why: StrictStr = ""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_: Literal["pairguard.survey/1"] = Field(alias="schema")
    site: StrictStr
    by: tuple[StrictStr, ...]
    digest: StrictStr
    unknown: tuple[StrictStr, ...]
    facts: dict[str, _Fact]


def read(path: Path) -> Survey:
    """A survey from its file. `SettingsError` with every fault; also if its digest is not that of its facts."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"cannot read the survey {path}", documents.why(error), _MAKE) from error
    return made(content, str(path))


_MAKE = "make one on each node: pairguard rehearse --site --export FILE"


def made(content: object, where: str) -> Survey:
    """From what a file or a record holds."""
    if not isinstance(content, dict):
        raise SettingsError(f"cannot use the survey {where}", "it is no JSON object", _MAKE)
    try:
        found = _Document.model_validate(content)
    except ValidationError as error:
        text = "\n  " + "\n  ".join(documents.faults(_Document, content, error, lambda _: Path(where), allowed={}))
        raise SettingsError(f"cannot use the survey {where}", text, _MAKE) from error
    wrong = [f"{key}: {why}" for key, fact in found.facts.items() if (why := misfit(key, fact.value))]
    if wrong:
        raise SettingsError(f"cannot use the survey {where}", "\n  " + "\n  ".join(wrong), _MAKE)
    facts = {key: Fact(each.value, each.source, each.at.isoformat(), each.why) for key, each in found.facts.items()}
    survey = Survey(found.site, found.by, facts)
    if survey.digest() != found.digest:
        why = "its digest is not that of its facts: it was changed by hand"
        raise SettingsError(f"cannot use the survey {where}", why, "say what cannot be read with --said, in a file")
    return survey


# ------------------------------------------------------------------ putting together


def together(surveys: Sequence[Survey]) -> Survey:
    """One survey of several nodes. `SettingsError` names each fact of which two say different things."""
    sites = sorted({each.site for each in surveys})
    if len(sites) != 1:
        raise SettingsError("cannot put these surveys together", f"they are of {', '.join(sites) or 'no site'}", _MAKE)
    facts: dict[str, Fact] = {}
    wrong = []
    for survey in surveys:
        for key, fact in survey.facts.items():
            old = facts.get(key)
            if old is not None and old.value != fact.value and not (_vague(old) or _vague(fact)):
                wrong.append(f"{key}: {_said(old)}, but {_said(fact)}")
            facts[key] = fact if old is None else _better(old, fact)
    if wrong:
        why = "\n  " + "\n  ".join(wrong)
        raise SettingsError("cannot use facts that contradict each other", why, "look again on each node")
    return Survey(sites[0], tuple(dict.fromkeys(by for each in surveys for by in each.by)), facts)


def _better(one: Fact, other: Fact) -> Fact:
    """What is known before what is not; then the newer."""
    return max(one, other, key=lambda fact: (fact.value is not None, not _vague(fact), datetime.fromisoformat(fact.at)))


def _vague(fact: Fact) -> bool:
    """UNKNOWN, or a port that is somebody else's: another node may say more."""
    return fact.value is None or fact.value == OTHER


def _said(fact: Fact) -> str:
    return f"{_plain(fact.value)!r} by {fact.source} at {fact.at}"


class _Said(BaseModel):
    """What a person states where no program can look."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    by: StrictStr
    at: AwareDatetime
    facts: dict[str, StrictBool | StrictInt | StrictFloat | StrictStr | tuple[StrictStr, ...]]


def said(path: Path, site: str) -> Survey:
    """A person's statements (TOML), as a survey to put together with others."""
    content = documents.toml(path)
    try:
        found = _Said.model_validate(content)
    except ValidationError as error:
        lines = documents.faults(_Said, content, error, lambda _: path, allowed={})
    else:
        lines = [f"{path}: facts.{key}: {why}" for key, value in found.facts.items() if (why := misfit(key, value))]
    if lines:
        raise SettingsError("cannot use these statements", "\n  " + "\n  ".join(lines), "mend them and try again")
    facts = {key: Fact(value, f"said by {found.by}", found.at.isoformat()) for key, value in found.facts.items()}
    return Survey(site, (), facts)


def carried(old: Survey, fresh: Survey) -> Survey:
    """`fresh`, with what people said in `old` of what no program can read."""
    by = tuple(dict.fromkeys((*fresh.by, *old.by)))
    kept = {
        key: fact
        for key, fact in old.facts.items()
        if fact.source.startswith("said by ") and fresh.value(key) is None
    }  # fmt: skip
    return Survey(fresh.site, by, {**fresh.facts, **kept})


# ------------------------------------------------------------------ comparing


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that is another now. None: UNKNOWN, or not looked at."""

    key: str
    then: Value | None
    now: Value | None

    def json(self) -> dict[str, Any]:
        return {"fact": self.key, "then": _plain(self.then), "now": _plain(self.now)}

    def text(self) -> str:
        return f"{self.key}: was {shown(self.then)}, is {shown(self.now)}"


def differences(then: Survey, now: Survey) -> tuple[Difference, ...]:
    """Field by field, in the order of the keys."""
    keys = sorted({*then.facts, *now.facts})
    return tuple(Difference(k, then.value(k), now.value(k)) for k in keys if then.value(k) != now.value(k))


def shown(value: Value | None) -> str:
    """A value for people."""
    match value:
        case None:
            return "UNKNOWN"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(value) or "none"
        case float() | int():
            return f"{value:g}"
        case _:
            return str(value)


def _plain(value: Value | None) -> Any:
    match value:
        case tuple():
            return list(value)
        case float() if value.is_integer():
            return int(value)  # 3 and 3.0 are one fact, and JSON would tell them apart
        case _:
            return value


def names(survey: Survey, pattern: str) -> tuple[str, ...]:
    """What stands in the group of `pattern` in the survey's keys, each once, in order."""
    found: Iterable[re.Match[str] | None] = (re.fullmatch(pattern, key) for key in sorted(survey.facts))
    return tuple(dict.fromkeys(each[1] for each in found if each is not None))
