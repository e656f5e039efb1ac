"""Counts writes where the counters do not lie (`guard.ports.WriteCounters`, DESIGN.md section 5, Write age).

1. On the Primary: writes completed on the DRBD device itself, which are those acknowledged to the application. The
   backing disk and DRBD's `written` also count resync and metadata.
2. On the Secondary: what was `received`. That counts resynced blocks too and starts again after StandAlone
   (measured, facts/drbd-fencing.md), so a sample beside a resync, a new connection or a reset does not count.
3. Counters are raw. A sample with `counts` False breaks the row: a later one must not be compared with an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.adapters.drbd import Drbd
from guard.adapters.drbd_text import Resource
from guard.core.evidence import Link, Replica, Role, Volumes, WriteSample
from guard.core.instant import elapsed_s
from guard.ports import Clock

WRITES_COMPLETED = 4  # index in /sys/block/*/stat: fifth field, "write I/Os processed" (Documentation/block/stat.rst)
SAMPLE_S_MAX = 0.5  # one sampling period: two ages are ordered only if they lie more than that apart


@dataclass(frozen=True, slots=True)
class _Reading:
    role: Role
    link: Link
    completed: int | None
    received_kib: int | None


class BlockStat:
    """Samples all replicated resources. Minor numbers come from the kernel's own answer, anew each time."""

    def __init__(
        self, drbd: Drbd, clock: Clock, sys_block: Path = Path("/sys/block"), *, sample_s_max: float = SAMPLE_S_MAX
    ) -> None:
        self._drbd = drbd
        self._clock = clock
        self._sample_s_max = sample_s_max
        self._sys_block = sys_block
        self._last: dict[str, _Reading] = {}

    async def sample(self, volumes: Volumes) -> Sequence[WriteSample]:
        """One sample for each resource of `volumes`, whose role and link must agree with what is read now.

        The first sample of a resource after a start, a change of role, a resync or a reset never counts. A reading
        that took longer than `sample_s_max` (at most one sampling period) is left out.
        """
        began = self._clock.now()
        kernel = await self._drbd.kernel()
        samples = []
        for replica in volumes.replicas:
            one = kernel.resources.get(replica.resource)
            reading = _Reading(Role.UNKNOWN, Link.UNKNOWN, None, None) if one is None else self._read(one)
            at = self._clock.now()
            if elapsed_s(began, at) > self._sample_s_max:
                continue  # it cannot be placed in time well enough, yet it resets nothing: the row goes on behind it
            counts = _counts(self._last.get(replica.resource), reading, replica)
            self._last[replica.resource] = reading
            samples.append(
                WriteSample(replica.resource, at, reading.role, reading.completed, reading.received_kib, counts)
            )
        return samples

    def _read(self, one: Resource) -> _Reading:
        completed = self._completed(one) if one.role is Role.PRIMARY else None
        received = one.received_kib() if one.role is Role.SECONDARY else None
        return _Reading(one.role, one.link(), completed, received)

    def _completed(self, one: Resource) -> int | None:
        """Sum over all volumes; None if one cannot be read."""
        minors = one.minors()
        if minors is None:
            return None
        found = [completed_writes(self._stat(minor)) for minor in minors]
        return None if None in found else sum(each for each in found if each is not None)

    def _stat(self, minor: int) -> str:
        try:
            return (self._sys_block / f"drbd{minor}" / "stat").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""


def completed_writes(stat: str) -> int | None:
    """Completed writes out of a `/sys/block/*/stat` line; None if it is not one whole line of numbers."""
    words = stat.split()
    if len(words) < 11 or not stat.endswith("\n") or not all(re.fullmatch("[0-9]{1,20}", word) for word in words):
        return None
    return int(words[WRITES_COMPLETED])


def _counts(last: _Reading | None, now: _Reading, replica: Replica) -> bool:
    """Whether the step from `last` to `now` is made of application writes only."""
    if last is None or last.role is not now.role or (replica.role, replica.link) != (now.role, now.link):
        return False
    links = {last.link, now.link}
    if links & {Link.RESYNC, Link.UNKNOWN, Link.DOWN}:
        return False
    if now.role is Role.PRIMARY:
        return last.completed is not None and now.completed is not None and now.completed >= last.completed
    if now.role is not Role.SECONDARY or last.received_kib is None or now.received_kib is None:
        return False
    if links == {Link.CONNECTED}:
        return now.received_kib >= last.received_kib
    return now.received_kib == last.received_kib
