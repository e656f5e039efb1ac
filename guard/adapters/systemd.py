"""systemd's notify protocol and watchdog, through sdnotify made harmless (`guard.ports.Notifier`, sd_notify(3)).

sdnotify 0.3.2 blocks on a full socket, drops what is not Latin-1 and swallows every exception. Here its socket does not
block, only ASCII is sent, and it is asked to tell: a state that must not be lost (ready, reloading, stopping) is sent
again before the next one, a lost status or watchdog line is counted in `dropped`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import sdnotify

from guard.errors import Unreadable

STATUS_MAX = 256  # characters; `systemctl status` shows one line


class SystemdNotifier:
    """`guard.ports.Notifier`. Without NOTIFY_SOCKET (started by hand) everything is a no-op.

    `monotonic_usec` gives CLOCK_MONOTONIC in microseconds, which systemd wants beside RELOADING=1 since 253. sdnotify
    reads NOTIFY_SOCKET from the process's own environment.
    """

    def __init__(self, monotonic_usec: Callable[[], int]) -> None:
        self._monotonic_usec = monotonic_usec
        self._notifier: sdnotify.SystemdNotifier | None = None
        self._owed: list[str] = []
        self.dropped = 0
        if os.environ.get("NOTIFY_SOCKET"):
            try:
                self._notifier = sdnotify.SystemdNotifier(debug=True)  # debug: raise instead of hiding
                self._notifier.socket.setblocking(False)
            except OSError:
                self.dropped += 1

    def ready(self) -> None:
        """READY=1: started, or reloaded."""
        self._owe("READY=1")

    def status(self, text: str) -> None:
        """The one line of `systemctl status`; what is not ASCII becomes a question mark."""
        self._send("STATUS=" + " ".join(text.split()).encode("ascii", "replace").decode("ascii")[:STATUS_MAX])

    def alive(self) -> None:
        """WATCHDOG=1: to be called only from the loop that proved that the machine advanced."""
        self._settle()
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """RELOADING=1 with its moment, in one datagram as systemd demands; `ready` ends it."""
        self._owe(f"RELOADING=1\nMONOTONIC_USEC={self._monotonic_usec()}")

    def stopping(self) -> None:
        self._owe("STOPPING=1")

    def _owe(self, state: str) -> None:
        self._owed.append(state)
        self._settle()

    def _settle(self) -> None:
        while self._owed and self._send(self._owed[0]):
            del self._owed[0]

    def _send(self, state: str) -> bool:
        if self._notifier is None:
            return True
        try:
            self._notifier.notify(state)
        except OSError:
            self.dropped += 1
            return False
        return True


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which `alive` must come (send at half of it, sd_watchdog_enabled(3)); None: nobody watches us.

    `Unreadable` if the variables are there and make no sense: the unit is wrong, and guessing would get us killed.
    """
    usec, whose = environment.get("WATCHDOG_USEC"), environment.get("WATCHDOG_PID")
    if usec is None or (whose is not None and whose != str(pid)):
        return None
    if not usec.isdecimal() or int(usec) == 0:
        raise Unreadable(
            f"cannot read WATCHDOG_USEC={usec!r}", "not a number above zero", "look at the unit's WatchdogSec"
        )
    return int(usec) / 1e6
