"""TOML documents that people write: read whole, and every fault told with file, key, found and allowed.

What is not known is refused: a misspelt word never switches a protection off, and an empty file is never defaults.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from guard.errors import SettingsError, closed_to_us

Hint = Callable[[Sequence[str | int]], str | None]
"""What to say of an unknown key, by its place; None: the likely spelling."""


def toml(path: Path) -> dict[str, Any]:
    """What the file holds. `SettingsError`: it cannot be read, is empty, or is no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        next_step = "run it as root" if closed_to_us(error) else "mend the file"
        raise SettingsError(f"cannot read {path}", why(error), next_step) from error
    if not text.strip():
        raise SettingsError(f"cannot use {path}", "it is empty: an empty file is never defaults", "restore it")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number too long for an int, and endless nesting
        raise SettingsError(f"cannot read {path}", why(error), "mend the TOML") from error


def faults(
    model: type[BaseModel],
    content: Mapping[str, Any],
    error: ValidationError,
    file_of: Callable[[str], Path],
    *,
    allowed: Mapping[str, str],
    hint: Hint = lambda loc: None,
) -> list[str]:
    """One line a key: `file: key: what is wrong; found ...`. `allowed`: patterns in a person's words.

    `file_of`: the file that wrote a dotted key; "" asks for the file of a fault that no single key has.
    """
    said: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        where = _where(content, fault)
        line = f"{file_of(where)}: {_shown(where)}"
        said.setdefault(line, []).append(_said(model, fault, allowed, hint))
    return [f"{line}: {'; or '.join(dict.fromkeys(texts))}" for line, texts in said.items()]


def keys_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that the table at `loc` may have."""
    current: Any = model
    for part in loc:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        field = current.model_fields.get(part)
        inner = field.annotation if field is not None else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), current)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _where(merged: Mapping[str, Any], fault: Mapping[str, Any]) -> str:
    """The dotted key of a fault. Parts that are no keys (pydantic's names of the branches of a union) are left out."""
    kept: list[str] = []
    current: Any = merged
    for part in fault["loc"]:
        known = part in current if isinstance(current, dict) else isinstance(current, list) and isinstance(part, int)
        if known:
            current = current[part]
        elif fault["type"] != "missing":
            continue
        kept.append(str(part))
    return ".".join(kept)


def _shown(where: str) -> str:
    """`switch.0.port` as people count: `switch (number 1).port`."""
    counted = re.sub(r"\.(\d+)(?=\.|$)", lambda found: f" (number {int(found[1]) + 1})", where)
    return counted or "settings that do not go together"


def _said(model: type[BaseModel], fault: Mapping[str, Any], allowed: Mapping[str, str], hint: Hint) -> str:
    """One fault in a person's words: what was found, what is allowed, and a likely spelling."""
    kind, found = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        known = keys_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        likely = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
        return f"this key is not known; {hint(fault['loc']) or likely}"
    if kind == "missing":
        return "this key is missing"
    text = ordered(str(fault["msg"]).removeprefix("Value error, "))
    if kind == "string_pattern_mismatch":
        text = allowed.get(fault["ctx"]["pattern"], text)
    if kind in ("model_type", "mapping_type", "dict_type"):
        text = "write a table"
    if isinstance(found, dict) or "options" in fault["loc"]:
        return text  # a whole table says nothing, and an option may be a secret
    shown = repr(found)
    return f"{text}; found {shown if len(shown) < 80 else shown[:77] + '...'}"


# ------------------------------------------------------------------ files that cannot be read


def why(error: OSError | ValueError | RecursionError) -> str:
    """Why a file could not be read, in a person's words; a library's own say neither file nor next."""
    match error:
        case OSError():
            return (error.strerror or "it cannot be opened").lower()
        case UnicodeDecodeError():
            return f"it is no text: byte {error.start + 1} is no UTF-8"
        case json.JSONDecodeError():
            return f"it is no JSON from line {error.lineno}, column {error.colno} on: damaged, or not written whole"
        case RecursionError():
            return "its tables are nested too deeply"
        case tomllib.TOMLDecodeError():
            pass
        case _:
            return "it holds a number that is too long to be one"
    found = _PLACE.fullmatch(str(error))
    if found is None:
        return f"it is no TOML: {str(error)[:1].lower()}{str(error)[1:]}"
    where = f"line {found[2]}, column {found[3]}" if found[2] else "its end"
    return f"it is no TOML at {where}: {found[1][:1].lower()}{found[1][1:]}"


_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")  # tomllib.TOMLDecodeError
_WORDS = (  # pydantic's own, as an order to whoever writes the file
    (re.compile(r"^Input should be a valid (\w+)(, .*)?$"), r"write a \1"),
    (re.compile(r"^Input should be (.+)$"), r"write \1"),
    (re.compile(r"^(?:Tuple|List) should have at least (\d+) items? .*$"), r"write a list of at least \1"),
    (re.compile(r"^String should have at least (\d+) characters?$"), r"write at least \1 characters"),
)


def ordered(text: str) -> str:
    """What a value must be, as an order."""
    for pattern, plain in _WORDS:
        text = pattern.sub(plain, text)
    return re.sub(r"\ba (integer|IP)", r"an \1", text)
