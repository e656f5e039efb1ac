"""Hypothesis strategies of every message body, made from its own type hints, so that a new field is tried at once."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from guard.core import messages
from guard.core.evidence import Disk, Role

BODIES: tuple[type[Any], ...] = get_args(messages.Message)
NODES = ("fs1a", "fs1b")
WORDS = {"disk": [d.value for d in Disk], "peer_disk": [d.value for d in Disk], "role": [r.value for r in Role]}
"""Texts that are words of a list, and are refused by the receiver if they are not."""

_TEXT = st.one_of(
    st.sampled_from(["", "n-1", "session-1", "r0", "fs1", *NODES, "arbiter", "boot-1", "a\nb", "ü€😀", '"\\', "\x00"]),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)
_INT = st.one_of(
    st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**63, 2**64 - 1, 2**64]), st.integers(-(2**70), 2**70), st.integers(0, 9)
)
_FLOAT = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 10.0, 75.0, -1.0, 1e9, 1e300, -1e300, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)


@cache
def of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of this type."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, types.UnionType):
        return st.one_of(*(of(each) for each in inner))
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return st.lists(of(inner[0]), max_size=3).map(tuple)
        return st.tuples(*(of(each) for each in inner))
    return {str: _TEXT, int: _INT, float: _FLOAT, bool: st.booleans(), type(None): st.none()}[kind]


def _dataclass(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    made = {each.name: of(hints[each.name]) for each in fields(kind)}
    if kind is messages.ReplicaStatement:
        made |= {name: st.sampled_from(words) for name, words in WORDS.items()}
        return st.builds(kind, **made).map(_ordered)
    if kind is messages.Evidence:
        made["node"] = st.one_of(st.sampled_from(NODES), _TEXT)
    return st.builds(kind, **made)


def _ordered(one: messages.ReplicaStatement) -> messages.ReplicaStatement:
    """Ages that can be: not negative, not reversed."""
    lo = None if one.age_lo_s is None else abs(one.age_lo_s)
    hi = None if one.age_hi_s is None or lo is None else max(abs(one.age_hi_s), lo)
    return replace(one, age_lo_s=lo, age_hi_s=hi)


ANY = st.one_of(*(of(each) for each in BODIES))
