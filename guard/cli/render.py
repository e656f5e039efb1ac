"""Text for people: tables and paragraphs that fit 80 columns, need no colour, and times with their zone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

WIDTH = 80  # columns; CONTRACT.md, Commands


def wrapped(text: str, *, indent: str = "", hang: int = 0) -> str:
    """`text` with no line over 80 columns; later lines of a paragraph hang `hang` columns further in.

    A word that is longer than a line (a path) is broken: better than a screen that scrolls sideways.
    """
    lines = []
    for line in text.split("\n"):
        own = indent + line[: len(line) - len(line.lstrip(" "))]
        lines += textwrap.wrap(
            line.strip(),
            WIDTH,
            initial_indent=own,
            subsequent_indent=own + " " * hang if hang else own,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, indent: str = "") -> str:
    """Columns as wide as their content; the widest ones are cut with an ellipsis until a line fits 80 columns."""
    cells = [[word(value) for value in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(head)]
    room = WIDTH - len(indent) - 2 * (len(head) - 1)
    while sum(widths) > room and max(widths) > 3:
        widest = widths.index(max(widths))
        widths[widest] -= min(sum(widths) - room, max(1, widths[widest] - 3))
    lines = [list(head), *cells] if any(head) else cells
    return "\n".join(
        (indent + "  ".join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in lines
    )


def word(value: object) -> str:
    """One value as a person reads it; None is `?`: nobody knows."""
    match value:
        case None:
            return "?"
        case True:
            return "yes"
        case False:
            return "no"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(word(each) for each in value) or "none"
        case _:
            return str(value)


def when(wall: float | str | None) -> str:
    """An absolute local time with its zone, from seconds since 1970 or from ISO text; `?` if there is none."""
    if wall is None:
        return "?"
    try:
        moment = datetime.fromisoformat(wall) if isinstance(wall, str) else datetime.fromtimestamp(wall, UTC)
    except ValueError:
        return str(wall)
    if moment.tzinfo is None:
        return str(wall)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def span(seconds: object) -> str:
    """Seconds as people say them: `0.4 s`, `7 min`, `2 h 5 min`; `?` for anything that is no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return "?"
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def write_age(age: object) -> str:
    """The interval since the last write, as `status` carries it: [at least, at most] or null."""
    match age:
        case [int() | float() as low, None]:
            return f"over {span(low)}"
        case [int() | float() as low, int() | float() as high]:
            return f"{round(low, 1):g}-{round(high, 1):g} s"
        case _:
            return "?"


DISKS = {  # guard.core.evidence.Disk
    "U": "UpToDate",
    "C": "Consistent",
    "O": "Outdated",
    "I": "Inconsistent",
    "D": "Diskless",
}


def disk(letter: object) -> str:
    """A disk's state in DRBD's own word; what is no letter of ours stays as it is."""
    return DISKS.get(str(letter), word(letter))


def facts(pairs: Mapping[str, object], *, indent: str = "  ") -> str:
    """`name: value` lines, wrapped."""
    width = max((len(name) for name in pairs), default=0) + 1
    return "\n".join(
        wrapped(f"{(name + ':').ljust(width)} {word(value)}", indent=indent, hang=width + 1)
        for name, value in pairs.items()
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "~"
