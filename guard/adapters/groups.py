"""The groups of this machine, by name."""

from __future__ import annotations

import grp

from guard.errors import Unavailable


def group_id(name: str | None) -> int | None:
    """The numeric id of the group that may give orders, None for None; `Unavailable` if nobody here knows it (now)."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        # Also what a directory service says that is not up yet at boot: tried again, not final.
        raise Unavailable(f"cannot find the group {name}", "control.group", "create it or drop the key") from error
