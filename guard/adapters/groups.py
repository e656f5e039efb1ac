"""The groups and users of this machine, by name."""

from __future__ import annotations

import asyncio
import grp
import pwd
import threading
from collections.abc import Callable
from contextlib import suppress

from guard.errors import Unavailable

NAME_S_MAX = 1.0  # a directory service behind a frozen network takes 30 s and more to give up (nss_ldap bind_timelimit)


def group_id(name: str | None) -> int | None:
    """The numeric id of the group that may give orders, None for None; `Unavailable` if nobody here knows it (now)."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        # Also what a directory service says that is not up yet at boot: tried again, not final.
        raise Unavailable(f"cannot find the group {name}", "control.group", "create it or drop the key") from error


async def user_name(uid: int, name_of: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name) -> str | None:
    """The user's name; None if nobody says it within `NAME_S_MAX`.

    In a thread of its own: one that hangs must hold up neither the loop, nor the threads by which shots are ended, nor
    the end of this program.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str | None] = loop.create_future()

    def settle(name: str | None) -> None:
        if not answer.done():
            answer.set_result(name)

    def look() -> None:
        name = None
        with suppress(KeyError, OSError):
            name = name_of(uid)
        with suppress(RuntimeError):  # the loop ended meanwhile
            loop.call_soon_threadsafe(settle, name)

    threading.Thread(target=look, name=f"name-of-{uid}", daemon=True).start()
    try:
        async with asyncio.timeout(NAME_S_MAX):
            return await answer
    except TimeoutError:
        return None
