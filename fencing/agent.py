"""`fence_pairguard`: the fence agent that Pacemaker runs, a thin client of the guard of this node.

1. Exit 0 means that the guard saw the node off twice. Whatever else happened, also "nobody knows", is 1.
2. It never refuses quickly: Pacemaker counts failures to `stonith-max-attempts` and then gives up on a node that may
   really be dead. It blocks while the answer may change, and ends by itself before Pacemaker's timeout kills it.
3. Without an action it does nothing: a shot is never a default.

The words on stdin and the exit codes are ClusterLabs' FenceAgentAPI.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fencing.client import (
    SOCKET,
    BrokenAnswerError,
    Budget,
    GuardSaidError,
    LostGuardError,
    NoGuardError,
    OutOfTimeError,
    ask,
)
from fencing.manifest import ACTIONS, HELP, WAIT_S, metadata

DONE, FAILED, IS_OFF = 0, 1, 2  # FenceAgentAPI; 2 only for `status`
WAIT_S_MIN, WAIT_S_MAX = 15.0, 86_400.0  # shorter leaves nothing before `GIVE_UP_S`; longer is a misprint
GIVE_UP_S = 10.0  # DESIGN.md section 4: answers 1 ten seconds before `wait_s`
READ_S_MAX = 15.0  # status, monitor and list end before the usual 20 s of a monitor operation
RETRY_S = 1.0  # how often an absent guard is looked for; a fence waits for it, so seconds are enough
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")  # a host name: RFC 1123, and corosync's own node names
SHOTS = ("off", "reboot")  # what needs a right


class BadOrderError(Exception):
    """What Pacemaker (or a person) asked for makes no sense; says what and what is allowed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. `target` None: no node was named. `wait_s`: our whole budget in seconds."""

    action: str
    target: str | None
    delegate: str | None
    wait_s: float
    socket: str


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; options on the command line, or key=value lines on stdin if there are none."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print(HELP)
        return DONE
    if "--version" in words or "-V" in words:
        print(_version())
        return DONE
    try:
        options = from_words(words) if words else from_lines(sys.stdin)
        if options.get("action") == "metadata":
            print(metadata())
            return DONE
        order = read_order(options)
    except (BadOrderError, UnicodeDecodeError) as error:
        _say(str(error))
        return FAILED
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a reader that went away must not change our exit code
    return carry_out(order)


def from_lines(lines: Iterable[str]) -> dict[str, str]:
    """`key=value` lines; blank lines, `#` lines and lines without `=` are ignored; the last value wins."""
    found: dict[str, str] = {}
    for raw in lines:
        line = raw.strip()
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found[name.strip()] = value.strip()
    return found


def from_words(words: Sequence[str]) -> dict[str, str]:
    """`-o off`, `--action off` and `--action=off` alike. Raises `BadOrderError` on what it does not know."""
    names = {"-o": "action", "--action": "action", "-n": "port", "--plug": "port", "--delegate": "delegate"}
    names |= {"--wait-s": "wait_s", "--socket": "socket", "--nodename": "nodename"}
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if word not in names or (not equals and not rest):
            raise BadOrderError(f"cannot read option {word!r}; known are {', '.join(names)}, each with a value")
        found[names[word]] = value if equals else rest.pop(0)
    return found


def read_order(options: Mapping[str, str]) -> Order:
    """A checked order. Raises `BadOrderError` naming the key, the value and what is allowed."""
    action = options.get("action", "")
    if action not in ACTIONS:
        raise BadOrderError(f"cannot do action {action!r}; known are {', '.join(ACTIONS)}")
    target = options.get("port") or options.get("plug") or options.get("nodename") or None
    for name, value in (("port", target), ("delegate", options.get("delegate") or None)):
        if value is not None and not NODE.fullmatch(value):
            raise BadOrderError(f"cannot use {name}={value!r}: it must be letters, digits, dot, dash, underscore")
    if target is None and action in (*SHOTS, "on", "status"):
        raise BadOrderError(f"cannot do {action}: no node is named (port=)")
    try:
        wait_s = float(options.get("wait_s") or WAIT_S)
    except ValueError:
        wait_s = -1.0
    if not WAIT_S_MIN <= wait_s <= WAIT_S_MAX:
        said = options.get("wait_s")
        raise BadOrderError(f"cannot use wait_s={said!r}: it must be {WAIT_S_MIN:.0f} to {WAIT_S_MAX:.0f} seconds")
    return Order(action, target, options.get("delegate") or None, wait_s, options.get("socket") or SOCKET)


def carry_out(order: Order) -> int:
    """Ask the guard until it answers or the budget ends; the exit code."""
    if order.action == "validate-all":
        return DONE
    shot = order.action in SHOTS
    seconds = order.wait_s if shot or order.action == "on" else min(order.wait_s, READ_S_MAX)
    stop_asking_s = GIVE_UP_S if shot else RETRY_S
    last = "the guard did not answer in time"
    try:
        with Budget(seconds) as budget:
            while True:
                try:
                    return _shoot(order, budget.left_s()) if shot else _look(order)
                except LostGuardError as error:
                    if not shot:
                        raise
                    # Restarted under us. Asking again is safe: whatever it sent can only hit this same loser, the era
                    # stays open until that has drained (guard/core/shot.py, law 5), and off is read back anew.
                    last = str(error)
                except (NoGuardError, GuardSaidError) as error:
                    last = str(error)
                if budget.left_s() <= stop_asking_s + RETRY_S:
                    break
                budget.pause(RETRY_S)
    except OutOfTimeError:
        _say(f"{order.action} of {order.target}: unknown after {seconds:.0f} s")
    except (LostGuardError, BrokenAnswerError) as error:
        last = str(error)
    _say(last)
    return FAILED


def _shoot(order: Order, left_s: float) -> int:
    args = {"action": order.action, "target": order.target, "wait_s": int(left_s), "delegate": order.delegate}
    done = ask(order.socket, "fence", args, _say)
    if done.get("confirmed") is True:
        return DONE
    _say(f"{order.target} is not confirmed off: {done.get('text') or ''} [{done.get('reason') or 'no-reason'}]")
    return FAILED


def _look(order: Order) -> int:
    if order.action == "list":
        targets = ask(order.socket, "list", {}).get("targets")
        if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
            raise BrokenAnswerError("cannot list targets: the guard's answer holds no list of names")
        print("".join(f"{name},\n" for name in targets), end="")
        return DONE
    done = ask(order.socket, "power", {"action": order.action, "target": order.target})
    match order.action, done.get("power"), done.get("ok"):
        case "status", ("on" | "off") as power, _:
            print(f"Status: {power.upper()}")
            return DONE if power == "on" else IS_OFF
        case ("on", "on", _) | ("on" | "monitor", _, True):
            return DONE
        case _:
            _say(f"{order.action} failed: the guard answered {done}")
            return FAILED


def _say(text: str) -> None:
    """To stderr, which Pacemaker logs; a log that cannot be written changes nothing."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        return


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and only needed here

    try:
        return f"fence_pairguard {version('pairguard')}"
    except PackageNotFoundError:
        return "fence_pairguard (not installed as a package)"


if __name__ == "__main__":
    sys.exit(main())
