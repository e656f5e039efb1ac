"""Text as manual pages write it: man(7) macros for groff and mandoc."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

_WIDTH = 78
_OPTION = re.compile(r"^ {1,6}(-\S.*?)(?: {2,}(\S.*))?$")


def escaped(text: str) -> str:
    """Nothing in it is a command; a dash is a minus, so that what is copied from the page works."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def head(name: str, section: int, date: str, version: str, title: str) -> list[str]:
    """`title`: what the list of all pages shows."""
    heading = f'.TH {escaped(name.upper())} {section} "{date}" "pairguard {version}" "pairguard"'
    return [heading, ".SH NAME", f"{escaped(name)} \\- {escaped(title)}"]


def prose(text: str) -> list[str]:
    """One paragraph, wrapped anew; a line that begins like a macro is none."""
    words = " ".join(text.split())
    lines = textwrap.wrap(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [re.sub(r"^(?=[.'])", r"\\&", escaped(line)) for line in lines]


def paragraphs(text: str) -> list[str]:
    """Paragraphs apart by empty lines; one that is indented against the others is kept line by line."""
    result: list[str] = []
    for block in re.split(r"\n[ \t]*\n", textwrap.dedent(text).strip("\n")):
        if not block.strip():
            continue
        result.append(".PP")
        if block.startswith((" ", "\t")):
            kept = (re.sub(r"^(?=[.'])", r"\\&", escaped(line)) for line in textwrap.dedent(block).splitlines())
            result += [".nf", *kept, ".fi"]
        else:
            result += prose(block.replace("\b", ""))
    return result[1:] if result[:1] == [".PP"] else result


def item(tag: str, text: str) -> list[str]:
    """A word and what it means."""
    return [".TP", f".B {escaped(tag)}", *(prose(text) or ["\\&"])]


def items(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [line for tag, text in rows for line in item(tag, text)]


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A section, or none if there is nothing in it."""
    return [f".SH {title}", *lines] if lines else []


def options_in(help_text: str) -> list[tuple[str, str]]:
    """The options of a help text: `  -x, --long VALUE  what it does`, which may go on in deeper lines."""
    found: list[tuple[str, str]] = []
    for line in help_text.splitlines():
        begins = _OPTION.match(line)
        if begins is not None:
            found.append((begins[1], begins[2] or ""))
        elif found and line.startswith(" " * 8):
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}".strip())
        elif found:
            break
    return found
