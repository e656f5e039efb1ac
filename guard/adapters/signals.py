"""Runs a program's work until it ends or SIGTERM or SIGINT asks it to; SIGHUP reads the settings anew."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

FAREWELL_S_MAX = 1.0


@dataclass(slots=True)
class Hooks:
    """What the work wants done at a signal. It fills these in once it can."""

    farewell: Callable[[], Awaitable[None]] | None = None  # before an orderly stop; bounded
    reload: Callable[[], None] | None = None


async def until_told(work: Coroutine[Any, Any, None], hooks: Hooks | None = None) -> int:
    """0 after an orderly stop. An exception of the work comes through, out of its group if it is alone there."""
    task = asyncio.create_task(work, name="work")
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, hooks)
    waiter = asyncio.create_task(told.wait(), name="signals")
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        if hooks is not None and hooks.farewell is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_S_MAX):
                    await hooks.farewell()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return 0
    waiter.cancel()
    error = task.exception()
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if error is not None:
        raise error
    return 0


def _reload(hooks: Hooks | None) -> None:
    if hooks is not None and hooks.reload is not None:
        hooks.reload()
