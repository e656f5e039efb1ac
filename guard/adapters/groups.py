"""The groups of this machine, by name."""

from __future__ import annotations

import grp

from guard.errors import SettingsError


def group_id(name: str | None) -> int | None:
    """The numeric id of the group that may give orders, None for None; `SettingsError` if it does not exist here."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise SettingsError(f"cannot find the group {name}", "control.group", "create it or drop the key") from error
