"""Documents that people write: why one cannot be read is told in a person's words, with the place."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.documents import ordered, why


def failure(read: Callable[[], Any]) -> OSError | ValueError | RecursionError:
    with pytest.raises((OSError, ValueError, RecursionError)) as caught:
        read()
    found = caught.value
    assert isinstance(found, OSError | ValueError | RecursionError)
    return found


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: Path("/no/such/file").read_text(), "no such file or directory"),
        (lambda: b"ab\xff".decode(), "it is no text: byte 3 is no UTF-8"),
        (
            lambda: json.loads('{"a": 1,\n"b"'),
            "it is no JSON from line 2, column 4 on: damaged, or not written whole",
        ),
        (lambda: json.loads("9" * 5000), "it holds a number that is too long to be one"),
        (lambda: tomllib.loads("a = 1\noops\n"), "it is no TOML at line 2, column 5: expected '=' after a key"),
        (lambda: tomllib.loads("a = ["), "it is no TOML at its end: "),
    ],
)
def test_a_file_that_cannot_be_read_says_why_in_plain_words(read: Callable[[], Any], said: str) -> None:
    """No errno, no codec, no name of a library."""
    assert why(failure(read)).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Input should be a valid integer", "write an integer"),
        ("Input should be a valid integer, unable to parse string as an integer", "write an integer"),
        ("Input should be 'mqtt' or 'hub'", "write 'mqtt' or 'hub'"),
        ("Input should be less than or equal to 65535", "write less than or equal to 65535"),
        ("Tuple should have at least 1 item after validation, not 0", "write a list of at least 1"),
        ("accept must not exceed fire", "accept must not exceed fire"),
    ],
)
def test_what_a_value_must_be_is_an_order(text: str, said: str) -> None:
    """pydantic speaks of inputs; who wrote the file is told what to write."""
    assert ordered(text) == said
