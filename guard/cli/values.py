"""Settings as one would write them: every value with its unit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from guard.settings import Section, seconds


def written(section: Section) -> dict[str, Any]:
    """Every value as one would write it: a duration with its unit."""

    def word(value: object, timed: bool) -> Any:
        match value:
            case Section():
                return written(value)
            case float() | int() if timed and not isinstance(value, bool):
                return duration(value)
            case Mapping():
                return {str(key): word(each, timed) for key, each in value.items()}
            case tuple() | list():
                return [word(each, timed) for each in value]
            case Path():
                return str(value)
            case _:
                return value

    def timed(field: FieldInfo) -> bool:
        parts = (*field.metadata, *(m for a in get_args(field.annotation) for m in getattr(a, "__metadata__", ())))
        return any(isinstance(part, BeforeValidator) and part.func is seconds for part in parts)

    return {name: word(getattr(section, name), timed(field)) for name, field in type(section).model_fields.items()}


def duration(value: float) -> str:
    """Seconds as `seconds` reads them: `0.3s`, `880s`."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"
