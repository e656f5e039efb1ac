"""Makes the folders of a daemon, or says in plain words why it cannot."""

from __future__ import annotations

from pathlib import Path

from guard.errors import Unavailable


def made(path: Path, mode: int) -> Path:
    """`path`, made with `mode` (less the umask) if it was not there. `Unavailable` if it cannot be, or is no folder."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise Unavailable(
            f"cannot make the folder {path}", error.strerror or str(error), "look at the path in the settings"
        ) from error
    return path


def makeable(path: Path) -> None:
    """As `made`, without making it: `Unavailable` if something that is no folder stands in its place, or where that
    cannot be seen."""
    try:
        there = next(each for each in (path, *path.parents) if each.exists())
        folder = there.is_dir()
    except OSError as error:
        why = (error.strerror or "it cannot be looked at").lower()
        raise Unavailable(f"cannot look at {path}", why, "look at the path in the settings") from error
    if not folder:
        raise Unavailable(f"cannot make the folder {path}", f"{there} is no folder", "look at the path in the settings")
