"""Damages a capture in one place: what a cut answer, a new version or a broken tool could make of it.

Every damage takes something away or puts a word there that no tool has. So a parser may know less afterwards, never
something else. (What turns one good word into another good word is a lie, not damage; no parser can tell.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

JUNK = "zq7x"  # no tool prints it
_TOKEN = re.compile(r"[^\s\"'<>=:;,/(){}\[\]|]+")
_PAIR = re.compile(r" [\w-]+=\"[^\"]*\"|(?<=\s)[\w-]+:\S+|\"[\w-]+\": ?(?:\"[^\"]*\"|[\w.]+|\[\]|\{\}),? ?")


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done, where (offset into the original), and the text after it."""

    how: str
    at: int
    text: str

    def __str__(self) -> str:
        return f"{self.how} at {self.at}"


def garbled(text: str) -> Iterator[Damage]:
    """Each word replaced, lengthened at either end, written in the other case, or with a digit of another script."""
    for found in _TOKEN.finditer(text):
        at, end, word = found.start(), found.end(), found[0]
        for new in dict.fromkeys((JUNK, word + JUNK, JUNK + word, word.swapcase(), _foreign(word))):
            if new != word:
                yield Damage(f"{word!r} became {new!r}", at, text[:at] + new + text[end:])


def lost(text: str) -> Iterator[Damage]:
    """Each word, and each `name="value"` or `name:value`, left out."""
    for found in _TOKEN.finditer(text):
        yield Damage(f"{found[0]!r} is gone", found.start(), text[: found.start()] + text[found.end() :])
    for found in _PAIR.finditer(text):
        yield Damage(f"{found[0].strip()!r} is gone", found.start(), text[: found.start()] + text[found.end() :])


def cut(text: str) -> Iterator[Damage]:
    """The text ends too early, at every character."""
    for end in range(len(text.rstrip())):
        yield Damage("cut off", end, text[:end])


def swollen(text: str) -> Iterator[Damage]:
    """Each number becomes one of five thousand digits: more than Python turns into an int."""
    for found in re.finditer(r"(?<![\w.])\d+(?![\w.])", text):
        yield Damage("a number of 5000 digits", found.start(), text[: found.start()] + "9" * 5000 + text[found.end() :])


def lines_lost(text: str) -> Iterator[Damage]:
    """Each line left out whole."""
    at = 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            yield Damage(f"the line {line.strip()[:40]!r} is gone", at, text[:at] + text[at + len(line) :])
        at += len(line)


def _foreign(word: str) -> str:
    """Decimal digits of another script are digits to `str.isdecimal` and to `int`."""
    return word.translate({ord("0") + n: 0x0660 + n for n in range(10)})
