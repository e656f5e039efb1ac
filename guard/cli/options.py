"""What every command of `pairguard` shares: its options, its exit codes, and how an answer or a refusal is said.

Only click is imported at the top: `--help` must start in under 150 ms, so settings, adapters and pydantic are
imported inside the commands.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import click

from guard.errors import PairguardError, Refused, SettingsError

# Exit codes: CONTRACT.md, Exit codes of `pairguard`.
GO, BUG, USAGE = 0, 1, 2
WAIT, DENY, CONFLICT, PARTIAL, SCOPE, UNVERIFIED, HOLDING, GUARD = 80, 81, 82, 83, 84, 85, 86, 89

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


if TYPE_CHECKING:
    _Float = click.ParamType[float]  # generic since click 8.4 only
else:
    _Float = click.ParamType


class Duration(_Float):
    """`90s`, `10m`, `1h30m` as seconds; a bare number has no unit and is refused. The grammar of settings.seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = _DURATION.fullmatch(value)
        if found is None or not any(found.groups()):
            self.fail(f"{value!r} is no duration; write for example 90s, 10m or 1h30m", param, ctx)
        hours, minutes, rest = found.groups()
        return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest or 0)


DURATION = Duration()


class Conflict(PairguardError):
    """The same key with another intent."""


class WrongScope(PairguardError):
    """What was named matches nothing here. An empty match is never GO."""


def command(group: click.Group | None = None, name: str | None = None, *, key: bool = False) -> Callable[..., Any]:
    """A click command with `--json` and `--config` (and `--key`, for what changes something).

    A `PairguardError` ends it with what, why and one next command, as text or as `pairguard.error/1`.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except PairguardError as error:
                refuse(error, as_json=bool(kwargs.get("as_json")))

        wrapped: Any = guarded
        if key:
            wrapped = click.option("--key", metavar="KEY", help="Idempotency: the same key is the same order.")(wrapped)
        wrapped = click.option(
            "--config", type=click.Path(dir_okay=False), metavar="FILE", help="Use this settings file alone."
        )(wrapped)
        wrapped = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")(wrapped)
        make = click.command if group is None else group.command
        made: click.Command = make(name)(wrapped)
        return made

    return decorate


def code_of(error: PairguardError) -> int:
    """85 where something could not be asked, 89 for settings, 84 for a scope, 82 for a key, 81 for a refusal."""
    match error:
        case Conflict():
            return CONFLICT
        case WrongScope():
            return SCOPE
        case SettingsError():
            return GUARD
        case Refused():
            return DENY
        case _:
            return UNVERIFIED


def refuse(error: PairguardError, *, as_json: bool, code: int | None = None) -> NoReturn:
    """Say what, why and one next command, and end."""
    code = code_of(error) if code is None else code
    if as_json:
        said = {"schema": "pairguard.error/1", "what": error.what, "why": error.why, "next": error.next_step}
        click.echo(json.dumps({**said, "exit": code}, indent=2))
    else:
        from guard.cli.render import wrapped

        lines = [f"pairguard: {error.what}"]
        if error.why:
            lines.append(f"  why:  {error.why.strip()}")
        if error.next_step:
            lines.append(f"  next: {error.next_step.strip()}")
        click.echo("\n".join(wrapped(line, hang=8) for line in lines), err=True)
    sys.exit(code)


def answer(data: Mapping[str, Any], text: str, code: int, *, as_json: bool) -> NoReturn:
    """Print the one object, or the text for people, and end with `code`."""
    click.echo(json.dumps(data, indent=2) if as_json else text)
    sys.exit(code)
