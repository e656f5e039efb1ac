"""How long a text is on the wire: an answer that grew over the bus's limit would never arrive."""

from __future__ import annotations

import json

from guard.core.messages import spelled


def test_a_text_is_never_longer_on_the_wire_than_it_was_counted() -> None:
    """ASCII counts exactly, its quotes and backslashes twice; what is escaped by its number counts in full."""
    for first in range(0x20, 0x7F):
        for text in (chr(first), f"a{chr(first)}z"):
            assert spelled(text) == len(json.dumps(text)) - 2, text
    for text in ("\u00e4", "\uffff", "\U00010000", "\U0001f525 \u00e4 a"):
        assert spelled(text) == len(json.dumps(text)) - 2, text
    for first in (*range(0x20), 0x7F):
        assert spelled(chr(first)) == 6 >= len(json.dumps(chr(first))) - 2
