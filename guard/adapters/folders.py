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
