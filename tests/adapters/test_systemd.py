"""Notifications to systemd: exactly the right words, never a wait, never an exception."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guard.adapters.systemd import SystemdNotifier, watchdog_s
from guard.errors import Unreadable


@contextmanager
def supervisor(address: str | None) -> Iterator[socket.socket | None]:
    """What systemd is for a service: NOTIFY_SOCKET in the environment, and a socket behind it."""
    before = os.environ.get("NOTIFY_SOCKET")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
    try:
        if address and listener:
            listener.bind("\0" + address[1:] if address.startswith("@") else address)
            listener.settimeout(10)
            os.environ["NOTIFY_SOCKET"] = address
        else:
            os.environ.pop("NOTIFY_SOCKET", None)
        yield listener
    finally:
        if listener:
            listener.close()
        os.environ.pop("NOTIFY_SOCKET", None)
        if before is not None:
            os.environ["NOTIFY_SOCKET"] = before


def notifier() -> SystemdNotifier:
    return SystemdNotifier(lambda: 123456)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_every_state(tmp_path: Path, kind: str) -> None:
    """One datagram each, in order; RELOADING and its moment travel together."""
    address = str(tmp_path / "n") if kind == "path" else f"@pairguard-test-{os.getpid()}"
    with supervisor(address) as listener:
        assert listener
        told = notifier()
        told.ready()
        told.status("held, both sides proven")
        told.alive()
        told.reloading()
        told.stopping()
        assert [listener.recv(4096).decode() for _ in range(5)] == [
            "READY=1",
            "STATUS=held, both sides proven",
            "WATCHDOG=1",
            "RELOADING=1\nMONOTONIC_USEC=123456",
            "STOPPING=1",
        ]
        assert told.dropped == 0


def test_a_status_is_one_ascii_line(tmp_path: Path) -> None:
    """No text can smuggle in another assignment or get lost for an arrow."""
    with supervisor(str(tmp_path / "n")) as listener:
        assert listener
        notifier().status("a → b\nREADY=1\tü" + "x" * 1000)
        seen = listener.recv(4096)
    assert seen.startswith(b"STATUS=a ? b READY=1 ?xxx")
    assert b"\n" not in seen
    assert len(seen) < 300


def test_a_full_socket_costs_words_not_time(tmp_path: Path) -> None:
    """Nobody reads: all calls return, drops are counted, and `ready` is still said once there is room."""
    with supervisor(str(tmp_path / "n")) as listener:
        assert listener
        told = notifier()
        for _ in range(2000):
            told.status("busy")
        assert told.dropped > 0
        told.ready()
        listener.setblocking(False)
        read = []
        try:
            while True:
                read.append(listener.recv(4096))
        except BlockingIOError:
            pass
        assert b"READY=1" not in read
        told.alive()
        assert [listener.recv(4096), listener.recv(4096)] == [b"READY=1", b"WATCHDOG=1"]


def test_a_supervisor_that_vanished_is_outlived(tmp_path: Path) -> None:
    """The socket's other end is closed: nothing raises."""
    with supervisor(str(tmp_path / "n")) as listener:
        assert listener
        told = notifier()
        listener.close()
        told.ready()
        told.alive()
        told.stopping()
    assert told.dropped >= 3


def test_started_by_hand_it_says_nothing(tmp_path: Path) -> None:
    """Without NOTIFY_SOCKET, or with one that leads nowhere, every call is harmless."""
    with supervisor(None):
        told = notifier()
        told.ready()
        told.alive()
        assert told.dropped == 0
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "nowhere")
        lost = notifier()
        lost.status("x")
        lost.reloading()
        assert lost.dropped == 1


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "500"}, 0.0005),
    ],
)
def test_the_watchdog_interval_is_read(environment: dict[str, str], seconds: float | None) -> None:
    """Microseconds become seconds, and only if it is this process that is watched."""
    assert watchdog_s(environment, 42) == seconds


@pytest.mark.parametrize("usec", ["", "soon", "0", "-5", "1.5"])
def test_a_senseless_watchdog_interval_is_said(usec: str) -> None:
    """A guess would get the daemon killed."""
    with pytest.raises(Unreadable, match="WATCHDOG_USEC"):
        watchdog_s({"WATCHDOG_USEC": usec}, 42)
