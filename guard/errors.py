"""What may go wrong, as exceptions that say what, why and what to do next.

What may go wrong in the world is a value wherever a decision depends on it; these are for borders
(settings, parsers, programs that are missing). `InvariantBroken` must never be caught.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable


class PairguardError(Exception):
    """A refusal or failure with a plain cause. `str()` is what a person reads: what, why, next."""

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        tail = f": {self.why}" if self.why else ""
        return f"{self.what}{tail}" + (f"; {self.next_step}" if self.next_step else "")


class Unreadable(PairguardError):
    """An answer of the world that does not parse, or has a word we do not know. Counts as UNKNOWN."""


class Unavailable(PairguardError):
    """A program, device or service that is missing, refuses or does not answer in time. Counts as UNKNOWN."""


class Unsure(Unavailable):
    """An order whose outcome nobody knows: it may have been carried out, or may still be."""


class TermOver(PairguardError):
    """This witness is not the arbiter any more, or cannot tell: it says nothing more, ends, and starts as a standby."""


class SettingsError(PairguardError):
    """Settings that do not validate; the start stops here. A `why` of several lines is followed by a new line."""

    def __str__(self) -> str:
        return f"{self.what}:{self.why}\n{self.next_step}" if "\n" in self.why else super().__str__()


class Refused(PairguardError):
    """An order that pairguard will not carry out now."""


def exit_code(error: PairguardError) -> int:
    """What a daemon that cannot start ends with: 75 (EX_TEMPFAIL, sysexits.h) for what may mend itself, so systemd
    tries again for ever; 89 for settings and damaged files, which only a person mends, so it does not. 87: a witness
    whose term is over; it is started again."""
    if isinstance(error, TermOver):
        return 87
    return 75 if isinstance(error, Unavailable) else 89


def refusals(parts: Iterable[tuple[str, Callable[[], object]]]) -> list[tuple[str, PairguardError]]:
    """What each part, tried by itself, ends with; nothing for those that end well."""
    found = []
    for name, build in parts:
        try:
            build()
        except PairguardError as error:
            found.append((name, error))
    return found


def closed_to_us(error: BaseException) -> bool:
    """It was about a file that this user may not look at: nothing is known of it, and root would see. Of root's own
    failures (a network file system) it is not said."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return os.geteuid() != 0
        cause = cause.__cause__
    return False


class InvariantBroken(BaseException):
    """A rule of DESIGN.md (S1-S7) was about to be broken by our own code. Nothing may swallow this."""
