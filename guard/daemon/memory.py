"""The guard's memory as a record of its journal: what is read is exactly what was written, or the guard does not start.

1. A record names its schema and the version that wrote it. What was read is written again and compared: a field that is
   missing or not known would read as its default, and an inhibit, a promise, an intent or a use that is lost as none.
2. Records of earlier schemas are brought up by named steps. One of a later schema is refused, and its writer is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from guard import __version__
from guard.core.step import Memory
from guard.errors import Unreadable

SCHEMA = 3  # raise it with every change to a field of `Memory`, or of what it holds, and add a step to `_brought_up`
_MEMORY: TypeAdapter[Memory] = TypeAdapter(Memory)

# Schema 1 was not named, and grew: what its first build wrote, and what later ones added, each with what holds where it
# is missing. All of that only holds back: no generation, no win and no era of this memory proves anything.
_FIRST = frozenset(
    (
        *("boot_id", "store_id", "version", "era", "session", "continuous"),
        *("intents", "used", "confirmed_off", "promise", "inhibits", "holding"),
    )
)
_ADDED: tuple[Mapping[str, object], ...] = (
    {"generations": {}, "suspended": False, "since_era": None},  # c039e88
    {"ledgers": {}, "ledger_boot": ""},  # 3e0898f
    {"consented": False, "cold_win": None},  # eb92d3b, and a promise's boot_id
    {"won": 0},  # c08c72f
)


def record(memory: Memory) -> dict[str, Any]:
    return {"kind": "memory", "schema": SCHEMA, "by": __version__, "memory": _plain(memory)}


def remembered(records: Iterable[Mapping[str, object]]) -> Memory | None:
    """The last memory of a journal, or None if it has none. `Unreadable`: not what was written; nothing is guessed."""
    last: Mapping[str, object] | None = None
    for each in records:
        if each.get("kind") == "memory":
            last = each
    return None if last is None else _read(last)


def _read(last: Mapping[str, object]) -> Memory:
    schema, fields = last.get("schema", 1), last.get("memory")
    if schema not in (1, 2, SCHEMA):
        text = f"it has schema {schema}, by pairguard {last.get('by', '?')}; {__version__} knows schemas up to {SCHEMA}"
        raise _unreadable(text, "install that version again")
    if not isinstance(fields, dict):
        raise _unreadable("it holds no fields")
    if schema == 1:
        fields = _brought_up(fields)
    if schema in (1, 2) and "owes_on" not in fields:
        fields = {**fields, "owes_on": False}  # schema 3: a node that waits to be switched on waits for a person
    try:
        memory = _MEMORY.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _unreadable(f"{'.'.join(map(str, first['loc']))} is missing there, or damaged") from error
    plain = _plain(memory)
    if plain != fields:
        differ = sorted(name for name in {*plain, *fields} if plain.get(name, ...) != fields.get(name, ...))
        raise _unreadable(f"it is not what schema {schema} writes: {', '.join(differ)}")
    return memory


def _brought_up(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A record of schema 1, of any of its builds, as schema 2 writes it."""
    names, made = _FIRST, dict(fields)
    builds = [names, *(names := names | added.keys() for added in _ADDED)]
    if fields.keys() not in builds:
        odd = ", ".join(sorted(fields.keys() ^ names))
        raise _unreadable(f"its fields are not those of any build that named no schema: {odd}")
    for added in _ADDED:
        made = {**added, **made}
    promise = made["promise"]
    if isinstance(promise, dict):
        # Where no boot is named it is the one of the last testimony: then a primary that was cut is not resumed unseen.
        made["promise"] = {"boot_id": made["boot_id"], **promise}
        made["suspended"] = True  # the yield stopped our writes, and only its end resumes them
    return made


def _plain(memory: Memory) -> dict[str, Any]:
    plain: dict[str, Any] = _MEMORY.dump_python(memory, mode="json")
    return plain


def _unreadable(why: str, next_step: str = "") -> Unreadable:
    aside = "move the journal aside only while the pair is whole: the guard then begins as if new"
    return Unreadable("cannot read the guard's memory", why, f"{next_step}, or {aside}" if next_step else aside)
