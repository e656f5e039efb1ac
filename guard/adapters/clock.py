"""The one place that reads clocks and randomness: CLOCK_BOOTTIME for decisions, wall time for people.

CLOCK_BOOTTIME runs through suspend and is not stepped by NTP or by a person (clock_gettime(2), DESIGN.md section 3).
Instants compare only within one boot of one node; `boot_id` says which boot.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
import uuid
from pathlib import Path

from guard.core.instant import Instant
from guard.errors import Unavailable, Unreadable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4): a UUID, made once each boot
NONCE_BYTES = 16  # 128 bits, as guard.ports.Clock promises


class BootClock:
    """`guard.ports.Clock` of the machine we run on.

    `boot_id` is read once, at the first call: it cannot change while we run.
    """

    def __init__(self, boot_id_file: Path = BOOT_ID) -> None:
        self._boot_id_file = boot_id_file
        self._boot_id: str | None = None
        self._random = random.SystemRandom()

    def now(self) -> Instant:
        """Nanoseconds on CLOCK_BOOTTIME."""
        return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def wall(self) -> float:
        """Seconds since 1970, for people and journals only."""
        return time.time()

    def boot_id(self) -> str:
        """The kernel's boot id. Raises `Unavailable` without /proc, `Unreadable` if it is no UUID."""
        if self._boot_id is None:
            self._boot_id = self._read_boot_id()
        return self._boot_id

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds`; zero or less only gives others a turn.

        asyncio measures it on CLOCK_MONOTONIC, which stands still in suspend: whoever wakes up must look at `now`.
        """
        await asyncio.sleep(max(seconds, 0.0))

    def nonce(self) -> str:
        """128 random bits, hexadecimal, from the kernel."""
        return secrets.token_hex(NONCE_BYTES)

    def jitter(self, low: float, high: float) -> float:
        """A random number in [low, high); `low` itself if the interval is empty."""
        return low + (high - low) * self._random.random() if high > low else low

    def _read_boot_id(self) -> str:
        try:
            text = self._boot_id_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise Unavailable(f"cannot read {self._boot_id_file}", str(error), "is /proc mounted?") from error
        except UnicodeDecodeError as error:
            raise Unreadable(f"cannot read {self._boot_id_file}", str(error)) from error
        try:
            return str(uuid.UUID(text))
        except ValueError as error:
            raise Unreadable(f"cannot read {self._boot_id_file}", f"{text!r} is no UUID") from error


def monotonic_usec() -> int:
    """CLOCK_MONOTONIC in microseconds, which systemd wants beside RELOADING=1 (sd_notify(3)); decides nothing."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
