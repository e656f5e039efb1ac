"""The manual pages of the settings: from the files that explain them (configs) and the models that check them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from guard.cli.roff import item, prose, section
from guard.errors import Unreadable
from guard.settings import GuardSettings, Section, WitnessSettings

_TABLE = re.compile(r"^\[+([a-z0-9_.]+)\]+$")
_KEY = re.compile(r"^(#? ?)([a-z_]+) = (\S.*)$")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file, or a table if `key` is empty. `mark`: "" set, "#" a default, "# " an example."""

    table: str
    key: str
    mark: str
    value: str
    prose: str


def guard(text: str) -> list[str]:
    """The body of pairguard.toml(5), from the text of configs/pairguard.toml."""
    files = (
        ("/usr/lib/pairguard/conf.d/", "Fragments of a site's own packages."),
        ("/etc/pairguard/pairguard.toml", "The settings of this node."),
        ("/etc/pairguard/conf.d/, /etc/pairguard/conf.d/guard/", "Fragments, the second ones for the guard alone."),
        ("/run/pairguard/conf.d/", "Fragments until the next boot."),
        ("/usr/share/doc/pairguard/examples/", "These settings as a file, and a small whole."),
    )
    return _page(GuardSettings, text, files)


def witness(text: str) -> list[str]:
    """The body of pairguard-witness.toml(5), from the text of configs/witness.toml."""
    files = (
        ("/etc/pairguard/witness.toml", "The settings of the arbiter."),
        ("/etc/pairguard/conf.d/, /etc/pairguard/conf.d/witness/", "Fragments, the second ones for the arbiter alone."),
        ("/usr/share/doc/pairguard/examples/", "These settings as a file, and a small whole."),
    )
    return _page(WitnessSettings, text, files)


def keys(text: str) -> Iterator[Key]:
    """Every table and key with the comment that stands directly above it."""
    table, above = "", ""
    for line in text.splitlines():
        found = _KEY.match(line)
        if found is not None and (not found[1] or _is_toml(found[3])):
            yield Key(table, found[2], found[1], found[3], above)
            above = ""
        elif (named := _TABLE.match(line)) is not None:
            table = named[1]
            yield Key(table, "", "", line, above)
            above = ""
        else:
            above = f"{above} {line[1:].strip()}".strip() if line.startswith("#") else ""


def _page(model: type[Section], text: str, files: Sequence[tuple[str, str]]) -> list[str]:
    about, _, rest = text.partition("\n\n")
    blocks = [_without_marks(block) for block in re.split(r"(?m)^#$\n?", about)]
    intro = [line for block in blocks if block for line in (".PP", *prose(block))]
    lines: list[str] = []
    for each in keys(rest):
        if not each.key:
            lines += [f".SS {each.value}", *prose(each.prose)]
            continue
        said = each.prose if each.prose.endswith((".", ":")) else f"{each.prose}."
        name = f"{each.table}.{each.key}" if each.table else each.key
        lines += item(name, f"{said} {_value(model, each)}")
        for inner in _inside(model, each, name):
            lines += item(f"{name}.{inner.key}", _value(model, inner))
    where = [line for tag, what in files for line in item(tag, what)]
    return [*section("DESCRIPTION", intro[1:]), *section("SETTINGS", lines), *section("FILES", where)]


def _inside(model: type[Section], each: Key, name: str) -> Iterator[Key]:
    """The settings of a table that stands in one line, an example as a whole. A table of free words has none."""
    value = tomllib.loads(f"x = {each.value}")["x"]
    field = _section_of(model, each.table).model_fields[each.key]
    for key, inner in value.items() if isinstance(value, dict) and _sections(field.annotation) else ():
        yield Key(name, key, "# ", json.dumps(inner), "")


def _without_marks(block: str) -> str:
    """A paragraph of the file's head without what it says of the marks in the file: the page has none."""
    sentences = re.split(r"(?<=[.:]) (?=[A-Z`])", " ".join(re.sub(r"(?m)^# ?", "", block).split()))
    return " ".join(each for each in sentences if not re.search(r"(?i)\bmarks?\b|^`#", each))


def _value(model: type[Section], each: Key) -> str:
    if each.mark == "#":
        return f"Default: {each.value}"
    needed = _section_of(model, each.table).model_fields[each.key].is_required()
    return f"{'Required' if needed else 'Not required'}, for example: {each.value}"


def _section_of(model: type[Section], table: str) -> type[Section]:
    """The model of a table; a part of its name that is no field is the name of a node."""
    current = model
    for part in table.split(".") if table else []:
        field = current.model_fields.get(part)
        if field is None:
            continue
        inner = _sections(field.annotation)
        if not inner:
            raise Unreadable(f"cannot find the model of [{table}]", f"{part} holds no table", "mend configs/*.toml")
        current = inner[0]
    return current


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if issubclass(annotation, Section) else []
    return [found for part in get_args(annotation) for found in _sections(part)]


def _is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        return False
    return True
