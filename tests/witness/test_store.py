"""The witness's store where it cannot be opened: why, in words of ours, and nothing of SQLite's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guard.errors import PairguardError, Unavailable, Unreadable
from guard.witness.store import Store, parse_kept


def refusal(path: Path) -> PairguardError:
    with pytest.raises(PairguardError) as caught:
        Store(path, "id")
    return caught.value


def test_a_file_that_is_no_store_is_told_as_that(tmp_path: Path) -> None:
    """89: a person looks at it."""
    path = tmp_path / "witness.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at " * 20)
    error = refusal(path)
    assert isinstance(error, Unreadable)
    assert error.why == "it is no store: damaged, or another file"


def test_a_store_that_another_process_has_is_told_as_that(tmp_path: Path) -> None:
    """75: it passes."""
    path = tmp_path / "witness.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        error = refusal(path)
    assert isinstance(error, Unavailable)
    assert error.why == "another process has it"


def test_a_store_whose_folder_is_a_file_is_told_as_that(tmp_path: Path) -> None:
    """The kernel's word, without its number."""
    (tmp_path / "state").write_text("")
    error = refusal(tmp_path / "state" / "witness.sqlite")
    assert "Errno" not in error.why
    assert error.why


def test_a_damaged_row_names_the_field_and_no_library(tmp_path: Path) -> None:
    """Which pair, which field."""
    with pytest.raises(Unreadable) as caught:
        parse_kept("fs1", '{"pair": "fs1"}', tmp_path)
    assert caught.value.why.endswith("is missing there, or damaged")
    assert "Field required" not in str(caught.value)
