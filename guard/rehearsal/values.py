"""Values of a scenario: numbers, words, truth values, distributions of them, and how a person writes one."""

from __future__ import annotations

import hashlib
import math
import random
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)

from guard.errors import PairguardError

PLACES = 3  # drawn numbers are rounded to milliseconds: what a story prints can be given back with --set
TERM = re.compile(r"\s*\+\s*")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr


class Wrong(PairguardError):
    """A scenario, a parameter or a value that is not there or does not fit: wrong usage."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Uniform(Part):
    uniform: tuple[float, float]


class LogUniform(Part):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    log_uniform: tuple[float, float] = Field(alias="log-uniform")


class InverseSquare(Part):
    """Twice as long is four times as rare in its density: many short, each decade a tenth as often as the one below."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    inverse_square: tuple[float, float] = Field(alias="inverse-square")


class Choice(Part):
    choice: tuple[Scalar, ...] = Field(min_length=1)
    weights: tuple[float, ...] | None = None


class InOrder(Part):
    """The first in the first round, the second in the second, and from the start again."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    in_order: tuple[Scalar, ...] = Field(alias="in-order", min_length=1)


Value = Scalar | Uniform | LogUniform | InverseSquare | Choice | InOrder
When = dict[str, Scalar | tuple[Scalar, ...]]


# ------------------------------------------------------------------ drawing


Drawn = Mapping[str, bool | int | float | str]


def stream(*names: object) -> random.Random:
    """A generator of its own for each name: neither the order of draws nor PYTHONHASHSEED reach it."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311  # a seeded story, no secret


def sample(value: Value, rng: random.Random, turn: int = 0) -> bool | int | float | str:
    """One value, in round `turn`."""
    match value:
        case InOrder(in_order=several):
            return several[turn % len(several)]
        case Uniform(uniform=(low, high)):
            return round(rng.uniform(low, high), PLACES)
        case LogUniform(log_uniform=(low, high)):
            return round(math.exp(rng.uniform(math.log(low), math.log(high))), PLACES)
        case InverseSquare(inverse_square=(low, high)):
            return round(1 / (1 / low - rng.random() * (1 / low - 1 / high)), PLACES)
        case Choice(choice=several, weights=weights):
            return rng.choices(several, weights)[0]
        case _:
            return value


def resolved(value: Value, drawn: Drawn, rng: random.Random) -> bool | int | float | str:
    """`$name` and sums of them by what was drawn; a distribution by `rng`; anything else is itself."""
    if not isinstance(value, str) or "$" not in value:
        return sample(value, rng)
    terms = [drawn[term[1:]] if term.startswith("$") else float(term) for term in TERM.split(value)]
    if len(terms) == 1:
        return terms[0]
    return round(math.fsum(float(term) for term in terms), PLACES)


def number(value: Value, drawn: Drawn, rng: random.Random) -> float:
    """`resolved`, for what can only be a number."""
    return float(resolved(value, drawn, rng))


# ------------------------------------------------------------------ as a person writes it


EXAMPLE = "write a value, 90s, 1..900, or a distribution such as '{log-uniform=[1,900]}'"


_VALUE: TypeAdapter[Value] = TypeAdapter(Value)


def parsed(word: str) -> Value | None:
    """`90`, `90s`, `10m`, `true`, a word, `1..900` (evenly drawn), or TOML such as `{log-uniform=[1,900]}`."""
    if word.startswith("{"):
        try:
            return _VALUE.validate_python(tomllib.loads(f"v={word}")["v"])
        except (tomllib.TOMLDecodeError, ValidationError):
            return None
    low, dots, high = word.partition("..")
    if dots:
        ends = [_number(low), _number(high)]
        return Uniform(uniform=(ends[0], ends[1])) if ends[0] is not None and ends[1] is not None else None
    if word in ("true", "yes", "false", "no"):
        return word in ("true", "yes")
    found = _number(word)
    return found if found is not None else word or None


def _number(word: str) -> float | int | None:
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if re.fullmatch(r"-?\d+\.\d+", word):
        return float(word)
    found = _DURATION.fullmatch(word)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, rest = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest or 0)


def shown(value: Value) -> str:
    """As a person writes it after `--set name=`."""
    match value:
        case bool():
            return str(value).lower()
        case Uniform(uniform=(low, high)):
            return f"{low:g}..{high:g}"
        case LogUniform(log_uniform=(low, high)):
            return f"{{log-uniform=[{low:g},{high:g}]}}"
        case InverseSquare(inverse_square=(low, high)):
            return f"{{inverse-square=[{low:g},{high:g}]}}"
        case Choice(choice=several):
            return " | ".join(shown(each) for each in several)
        case InOrder(in_order=several):
            return ", then ".join(shown(each) for each in several)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def plain(value: Any) -> Any:
    """As TOML and JSON write it."""
    return value.model_dump(by_alias=True, exclude_none=True) if isinstance(value, Part) else value
