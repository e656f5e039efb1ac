"""Names of groups and users: what a directory service does not say in time is not known."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
import time

import pytest

from guard.adapters.groups import NAME_S_MAX, group_id, user_name
from guard.errors import Unavailable


@pytest.mark.asyncio
async def test_a_name_service_that_hangs_holds_up_nothing() -> None:
    """L1: the loop goes on ticking, the threads that end shots stay free, and the name is unknown after a second."""
    hang, beats = threading.Event(), list[float]()

    def hanging(uid: int) -> str:
        hang.wait(60)
        raise KeyError(uid)

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.05)

    beating = asyncio.create_task(beat())
    try:
        asked = [asyncio.create_task(user_name(5000, hanging)) for _ in range(40)]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), NAME_S_MAX / 2) == 7
        assert await asyncio.gather(*asked) == [None] * 40
    finally:
        hang.set()
        beating.cancel()
    assert len(beats) > 5


@pytest.mark.asyncio
async def test_a_user_is_named_and_one_that_is_not_there_is_not() -> None:
    """By the machine's own files."""
    assert await user_name(os.getuid()) == pwd.getpwuid(os.getuid()).pw_name
    assert await user_name(2**31 - 77) is None


def test_a_group_that_nobody_knows_now_is_unavailable() -> None:
    """Not final: at boot the directory service may not be up yet."""
    assert group_id(None) is None
    with pytest.raises(Unavailable, match="cannot find the group"):
        group_id("no-such-group-here")
