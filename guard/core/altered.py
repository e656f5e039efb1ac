"""A frozen value with some fields changed: `dataclasses.replace` for states that change with every event.

It copies the fields as they stand, in a tenth of the time. Only for dataclasses without slots and without
`__post_init__`: nothing is computed or checked anew, but a name that is no field.
"""

from __future__ import annotations

from typing import Any, TypeVar

State = TypeVar("State")


def altered(state: State, **changed: Any) -> State:
    """A copy of `state` with `changed`. Raises TypeError for a name that is no field of it."""
    return with_changed(state, changed)


def with_changed(state: State, changed: dict[str, Any]) -> State:
    """The same, of names and values."""
    known = vars(state)
    fields = known | changed
    if len(fields) != len(known):
        raise TypeError(f"a {type(state).__name__} has no {sorted(changed.keys() - known.keys())}")
    copy = object.__new__(type(state))
    object.__setattr__(copy, "__dict__", fields)
    return copy
