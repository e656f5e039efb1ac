"""The guard's control socket as short programs see it: one question, some progress, one answer.

Imports only what starts in milliseconds: Pacemaker and DRBD wait for these programs. No clock is read here; the
kernel's own timer (`setitimer`) ends a wait, so one `Budget` bounds everything that happens inside it.
"""

from __future__ import annotations

import json
import select
import signal
import socket
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType

SCHEMA = "pairguard.control/1"
SOCKET = "/run/pairguard/control.sock"  # where pairguardd listens unless settings say otherwise
LINE_BYTES_MAX = 64 * 1024  # one JSON object a line, either way
RING_AGAIN_S = 1.0  # an exception raised inside a destructor is lost, so the timer rings until it is heard


class OutOfTimeError(Exception):
    """The budget of this program is used up."""


class NoGuardError(Exception):
    """Nobody listens on the socket: the guard is not running, or this user may not talk to it."""


class LostGuardError(NoGuardError):
    """The guard heard the question and went away before it answered. What it did is unknown."""


class BrokenAnswerError(Exception):
    """The guard said something that is no answer. What it did is unknown."""


class GuardSaidError(Exception):
    """The guard refused the question. `str()` is what a person reads."""

    def __init__(self, code: str, what: str, why: str, next_step: str) -> None:
        super().__init__(what + (f": {why}" if why else "") + (f"; {next_step}" if next_step else "") + f" [{code}]")
        self.code = code


class Budget:
    """Seconds that everything inside `with Budget(s)` may take together; then `OutOfTimeError` is raised.

    Works in the main thread only (signals), one at a time. Counts CLOCK_MONOTONIC; time asleep in suspend is not
    counted, which for a program that only ever gives up at the end is the safe side.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = max(seconds, 0.001)  # zero would switch the timer off (setitimer(2))
        self._rung = False

    def __enter__(self) -> Budget:
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, RING_AGAIN_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def left_s(self) -> float:
        """Seconds left; 0.0 once the timer has rung."""
        return 0.0 if self._rung else signal.getitimer(signal.ITIMER_REAL)[0]

    def pause(self, seconds: float) -> None:
        """Wait `seconds`, or until the budget ends (raises `OutOfTimeError` then)."""
        select.select([], [], [], max(seconds, 0.0))

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self._rung = True
        raise OutOfTimeError


def ask(
    path: str,
    verb: str,
    args: Mapping[str, object],
    progress: Callable[[str], None] | None = None,
) -> dict[str, object]:
    """The `done` object of the answer. Blocks; the caller's `Budget` is the deadline.

    Raises `NoGuardError` (it was not asked), `LostGuardError` and `BrokenAnswerError` (what it did is unknown) and
    `GuardSaidError` (it refused).
    """
    line = json.dumps({"schema": SCHEMA, "verb": verb, "args": args}).encode() + b"\n"
    if len(line) > LINE_BYTES_MAX:
        raise BrokenAnswerError(f"cannot ask {verb}: the question has {len(line)} bytes, {LINE_BYTES_MAX} are allowed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise NoGuardError(f"cannot reach the guard at {path}: {error.strerror or error}") from error
        try:
            connection.sendall(line)
            with connection.makefile("rb") as answers:
                while True:
                    answer = _parsed(answers.readline(LINE_BYTES_MAX + 1))
                    if "done" in answer:
                        return _object(answer["done"])
                    if "error" in answer:
                        raise _refusal(_object(answer["error"]))
                    if progress is not None and "progress" in answer:
                        progress(str(answer["progress"]))
        except OSError as error:
            raise LostGuardError(f"lost the guard while it worked on {verb}: {error.strerror or error}") from error


def _parsed(line: bytes) -> dict[str, object]:
    if not line:
        raise LostGuardError("the guard closed the connection without an answer")
    if len(line) > LINE_BYTES_MAX or not line.endswith(b"\n"):
        raise BrokenAnswerError("the guard's answer is cut off or too long")
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError both are ValueErrors
        raise BrokenAnswerError(f"the guard's answer is not JSON: {error}") from error


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BrokenAnswerError(f"the guard's answer holds {type(value).__name__} where an object belongs")
    return value


def _refusal(said: dict[str, object]) -> GuardSaidError:
    return GuardSaidError(*(str(said.get(key) or "") for key in ("code", "what", "why", "next")))
