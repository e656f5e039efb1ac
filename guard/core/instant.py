"""Moments of one boot clock, and intervals that say how well a moment is known.

1. No decision compares wall clocks. An `Instant` is nanoseconds of CLOCK_BOOTTIME of *this* boot of *this* node.
2. Between nodes only ages travel. The asker widens an age by the exchange's own round trip and 200 ppm.
3. Two ages are ordered only if their intervals do not meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

Instant = NewType("Instant", int)
"""Nanoseconds of CLOCK_BOOTTIME. Comparable only within one boot of one node."""

NS_PER_S = 1_000_000_000
DRIFT_PPM_MAX = 200  # DESIGN.md section 3: a quartz clock under NTP slew stays within 200 ppm


def after(moment: Instant, seconds: float) -> Instant:
    """The instant `seconds` after `moment` (negative: before)."""
    return Instant(moment + round(seconds * NS_PER_S))


def elapsed_s(since: Instant, now: Instant) -> float:
    """Seconds from `since` to `now`; negative if `since` lies in the future."""
    return (now - since) / NS_PER_S


@dataclass(frozen=True, slots=True)
class Age:
    """How long ago something happened, in seconds: between `lo_s` and `hi_s`; `hi_s` None means no upper end."""

    lo_s: float
    hi_s: float | None

    def __post_init__(self) -> None:
        if self.lo_s < 0 or (self.hi_s is not None and self.hi_s < self.lo_s):
            raise ValueError(f"cannot build an age from {self.lo_s} to {self.hi_s}: need 0 <= lo <= hi")

    def widened(self, round_trip_s: float) -> Age:
        """The same age as the asker may believe it: the statement is at most one round trip old, clocks drift."""
        drift = DRIFT_PPM_MAX / 1e6
        lo = self.lo_s * (1 - drift)
        hi = None if self.hi_s is None else (self.hi_s + max(round_trip_s, 0.0)) * (1 + drift)
        return Age(lo, hi)

    def older(self, seconds: float) -> Age:
        """The same event seen `seconds` later."""
        return Age(self.lo_s + seconds, None if self.hi_s is None else self.hi_s + seconds)
