"""`pairguard-fence-peer`: what DRBD runs before it lets one node go on alone, and after a resync (`--unfence`).

1. It returns 4, 6, 7 or 1. Never 3 or 5: with those DRBD goes on without anybody's leave. Anything odd is 1.
2. On a frozen primary it keeps asking: DRBD does not call it again after a 1, and frozen is safe. A healed link
   thaws DRBD by itself and makes our answer void, so then it stops.
3. On a secondary that is being promoted it gives up with 1 after 15 s.
4. Several may run side by side: it keeps no state and takes no lock.

Facts: measured on DRBD 8.4.11 with fencing resource-and-stonith; drbd.conf(5), section handlers.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fencing.client import SOCKET, BrokenAnswerError, Budget, GuardSaidError, NoGuardError, OutOfTimeError, ask

NOT_DONE = 1
ALLOWED = frozenset({1, 4, 6, 7})  # CONTRACT.md: peer outdated, peer is primary, peer was powered off, or no
PROMOTION_S = 15.0  # DESIGN.md section 5: a promotion gives up after 15 s
GUARD_ENDS_FIRST_S = 5.0  # while the guard answers, it ends the promotion's wait; we only watch over it
UNKNOWN_ROLE_S = 600.0  # not known who we are: like a frozen primary, but not for ever
ASK_S_MAX = 300.0  # one question; a guard that hangs longer is asked anew
UNFENCE_S_MAX = 15.0
PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 15.0  # DESIGN.md section 5: keeps asking, 1 to 15 s, jittered
LOOK_S_MAX = 3.0  # drbdadm answers in 0.1 s; it may hang while the kernel waits for us
PROC_DRBD = Path("/proc/drbd")  # DRBD 8.4 shows roles here without taking a lock; DRBD 9 shows no devices
VALUE_CHARS_MAX, VALUES_MAX = 1024, 64  # of DRBD's environment, so that a question stays far below its 64 KiB
RESOURCE = re.compile(r"[A-Za-z0-9_.:+-]{1,127}")  # drbd.conf(5): a resource name is ASCII without white space
CONNECTED = frozenset(
    [
        "Connected",
        "SyncSource",
        "SyncTarget",
        "PausedSyncS",
        "PausedSyncT",
        "VerifyS",
        "VerifyT",
        "Ahead",
        "Behind",
        "Established",
    ]
)
HELP = """\
pairguard-fence-peer: what DRBD runs before it lets one node go on alone (handler fence-peer), and after a resync
(handler unfence-peer). It asks this node's guard and waits while the answer may still change.

  pairguard-fence-peer [--unfence] [--socket PATH] [--proc-drbd PATH]

  --unfence         after a resync: the peer's data is good again
  --socket PATH     control socket of the guard (/run/pairguard/control.sock)
  --proc-drbd PATH  where DRBD 8.4 shows its devices (/proc/drbd)

DRBD runs it, not a person: what it is about stands in DRBD's environment variables. Exit: 4 the peer is outdated, 6 the
peer is primary, 7 the peer was powered off, 1 no or not known. Never 3 or 5: with those DRBD goes on without leave."""
DEVICE = re.compile(r"^\s*([0-9]{1,7}): cs:(\S+)(?: ro:(\w+)/(\w+))?", re.MULTILINE)


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Entry point; everything is in DRBD's environment variables. The exit code is the answer."""
    name, *words = sys.argv if argv is None else argv
    env = os.environ if environ is None else environ
    if "--help" in words:
        print(HELP)
        return 0
    unfence = "--unfence" in words or "unfence" in Path(name).name
    socket = _value(words, "--socket", SOCKET)
    resource = env.get("DRBD_RESOURCE", "")
    if not RESOURCE.fullmatch(resource):
        _say(f"DRBD_RESOURCE={resource!r} is no resource name; answering 1")
        return NOT_DONE
    if unfence:
        return _unfence(socket, resource)
    return _fence(socket, question(resource, env), Path(_value(words, "--proc-drbd", str(PROC_DRBD))))


def question(resource: str, env: Mapping[str, str]) -> dict[str, object]:
    """What the guard is asked: DRBD 8.4 and 9 name things differently, so what DRBD said goes along unread."""
    said = {
        key: env[key][:VALUE_CHARS_MAX] for key in sorted(env) if key.startswith("DRBD_") or key == "UP_TO_DATE_NODES"
    }
    numbers = " ".join(said[key] for key in said if re.fullmatch(r"DRBD_MINOR(_\d+)?", key))
    peer = said.get("DRBD_PEER") or (said.get("DRBD_PEERS") or "").partition(" ")[0] or None
    return {
        "resource": resource,
        "minors": sorted({int(word) for word in re.findall(r"\b[0-9]{1,7}\b", numbers)}),
        "peer": peer,
        "env": dict(list(said.items())[:VALUES_MAX]),
    }


def role_in(proc_drbd: str, minors: Sequence[int]) -> str | None:
    """ "Primary" if any of these devices is, "Secondary" if all are, None if that cannot be said."""
    roles = [ro for minor, _, ro, _ in DEVICE.findall(proc_drbd) if int(minor) in minors]
    return _one_role(roles) if len(roles) == len(minors) else None


def connected_in(proc_drbd: str, minors: Sequence[int]) -> bool | None:
    """True if all of these devices are connected to their peer, None if they are not all shown."""
    states = [cs for minor, cs, _, _ in DEVICE.findall(proc_drbd) if int(minor) in minors]
    return all(state in CONNECTED for state in states) if minors and len(states) == len(minors) else None


def _fence(socket: str, asked: dict[str, object], proc_drbd: Path) -> int:
    look = _Look(str(asked["resource"]), _numbers(asked["minors"]), proc_drbd)
    role = look.role()
    if role == "Secondary":
        code = _ask_for(PROMOTION_S + GUARD_ENDS_FIRST_S, socket, asked, None)
    elif role == "Primary":
        code = None
        while code is None:
            code = _ask_for(ASK_S_MAX, socket, asked, look)
    else:
        code = _ask_for(UNKNOWN_ROLE_S, socket, asked, look)
    if code is None:
        _say(f"no answer of the guard for {look.resource} in time; answering 1")
    return NOT_DONE if code is None else code


def _ask_for(seconds: float, socket: str, asked: dict[str, object], look: _Look | None) -> int | None:
    """Ask until there is an answer; None: `seconds` are over. `look` None: being promoted, stop early and often ask."""
    pause_s_max = PAUSE_S_MIN
    try:
        with Budget(seconds) as budget:
            while True:
                try:
                    return _code(ask(socket, "fence-peer", asked, _say))
                except (NoGuardError, GuardSaidError) as error:
                    _say(str(error))
                except BrokenAnswerError as error:
                    _say(f"{error}; answering 1")
                    return NOT_DONE
                if look is None and budget.left_s() <= GUARD_ENDS_FIRST_S + PAUSE_S_MIN:
                    return None
                if look is not None:
                    if look.connected():
                        _say(f"{look.resource} is connected again; answering 1")
                        return NOT_DONE
                    pause_s_max = min(2 * pause_s_max, PAUSE_S_MAX)
                budget.pause(PAUSE_S_MIN + _random() * (pause_s_max - PAUSE_S_MIN))
    except OutOfTimeError:
        return None


def _unfence(socket: str, resource: str) -> int:
    try:
        with Budget(UNFENCE_S_MAX):
            done = ask(socket, "unfence-peer", {"resource": resource})
            return 0 if done.get("code") == 0 and done.get("code") is not False else NOT_DONE
    except (NoGuardError, GuardSaidError, BrokenAnswerError) as error:
        _say(str(error))
    except OutOfTimeError:
        _say(f"no answer of the guard for {resource} in {UNFENCE_S_MAX:.0f} s")
    return NOT_DONE


def _code(done: Mapping[str, object]) -> int:
    code = done.get("code")
    if type(code) is int and code in ALLOWED:
        _say(f"answering {code}: {done.get('reason') or 'no reason given'}")
        return code
    _say(f"the guard answered {done}, which is no code of ours; answering 1")
    return NOT_DONE


@dataclass(frozen=True, slots=True)
class _Look:
    """What this node says of the resource without the guard: first where no lock is taken, then by drbdadm."""

    resource: str
    minors: tuple[int, ...]
    proc_drbd: Path

    def role(self) -> str | None:
        """ "Primary", "Secondary", or None = not known."""
        shown = role_in(self._proc(), self.minors)
        return shown or _one_role([word.partition("/")[0] for word in self._drbdadm("role")])

    def connected(self) -> bool:
        """True only if every connection is seen to stand."""
        shown = connected_in(self._proc(), self.minors)
        if shown is not None:
            return shown
        states = self._drbdadm("cstate")
        return bool(states) and CONNECTED.issuperset(states)

    def _proc(self) -> str:
        try:
            return self.proc_drbd.read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def _drbdadm(self, what: str) -> list[str]:
        import subprocess  # slow to import; on DRBD 8.4 nobody gets here

        words = ["drbdadm", what, self.resource]
        try:
            ran = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOOK_S_MAX, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        return ran.stdout.split() if ran.returncode == 0 else []


def _one_role(roles: Sequence[str]) -> str | None:
    if "Primary" in roles:
        return "Primary"
    return "Secondary" if roles and all(role == "Secondary" for role in roles) else None


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(number for number in value if isinstance(number, int)) if isinstance(value, list) else ()


def _random() -> float:
    """In [0, 1), from the kernel: two handlers that start together must not ask in step."""
    return int.from_bytes(os.urandom(4)) / 2**32


def _value(words: Sequence[str], name: str, otherwise: str) -> str:
    return words[words.index(name) + 1] if name in words[:-1] else otherwise


def _say(text: str) -> None:
    """To stderr; DRBD has none open, so this is for people who run it by hand and for tests."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
