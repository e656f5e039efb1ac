"""Text for people fits 80 columns whatever is put in, and says the zone of every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.cli.render import span, table, when, word, wrapped, write_age
from tests.cli.desk import fits

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=120)


@given(st.lists(st.lists(WORDS, min_size=5, max_size=5), max_size=5))
def test_a_table_never_exceeds_80_columns(rows: list[list[str]]) -> None:
    """However long the cells are."""
    fits(table(("A", "B", "C", "D", "E"), rows, indent="  "))


@given(st.lists(WORDS).map(" ".join))
def test_a_paragraph_never_exceeds_80_columns_and_loses_no_word(text: str) -> None:
    """Words are moved to the next line, not dropped."""
    found = wrapped(text, indent="  ", hang=4)
    fits(found)
    assert "".join(found.split()) == "".join(text.split())


def test_a_time_carries_its_zone() -> None:
    """Absolute, from both ways to write one; nonsense stays as it is."""
    assert when("2026-11-22T03:04:05+00:00").split()[-1].isalnum()
    assert when(0.0)[:2] in ("19", "20")
    assert when(None) == "?"
    assert when("yesterday") == "yesterday"


@pytest.mark.parametrize(
    ("age", "shown"),
    [([0.0, 0.4], "0-0.4 s"), ([30.0, None], "over 30 s"), (None, "?"), (["a", 1], "?"), (5, "?")],
)
def test_a_write_age_is_an_interval(age: object, shown: str) -> None:
    """Open at the end where no bound is known, `?` where nothing is."""
    assert write_age(age) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0.4 s"), (90, "90 s"), (600, "10 min"), (7500, "2 h 5 min"), (None, "?"), (True, "?")]
)
def test_a_span_has_a_unit(seconds: object, shown: str) -> None:
    """And what is no number is not guessed."""
    assert span(seconds) == shown


def test_what_is_not_known_is_a_question_mark() -> None:
    """Never an empty cell, never `no`."""
    assert [word(value) for value in (None, False, True, [], 0)] == ["?", "no", "yes", "none", "0"]
