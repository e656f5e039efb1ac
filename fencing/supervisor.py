"""Runs a delegate agent once, in a cgroup of its own, and proves that nothing of it is left.

1. One shot id, one run: a group that exists already is refused.
2. The deadline counts on CLOCK_BOOTTIME from before the spawn. A result noticed at or after it is no result.
   Nothing is started after `start_by`: the delegate's own process looks last, when it is about to become the agent.
3. The end is proven by removing the group. A process that cannot be killed means `Unavailable`: the shot is not over.
4. `clean` only if the agent ended by itself with no process and no socket left. Not knowing is not clean.
5. The agent sees PATH and LANG and reads its options on stdin. It never sees ours.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fencing import cgroup, delegate, sockdiag
from guard.core.instant import Instant, after, elapsed_s
from guard.errors import Refused, Unavailable, Unreadable
from guard.ports import Cleared, Clock, DeviceSettings, ShotResult

PARENT = "pairguard-shots"  # below the root of the hierarchy, outside the guard's own unit: `clear` must find it again
SHOT = "shot-"  # how the groups of shots are named; readings and switching on have names of their own
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LANG = "C.UTF-8"  # agents match untranslated output of the tools they call
LOOK_S = 0.05  # how often the deadline and the emptiness of the group are looked at
EMPTY_S_MAX = 10.0  # a killed process that is not gone by then hangs in the kernel (state D)
LINGER_S = 0.2  # a closed TCP connection needs one round trip to vanish; the read-back waits as long anyway
WATCH_GRACE_S = 1.0  # how much later than our deadline the watch acts on its own
PIPES_S_MAX = 2.0  # the group is empty, so its ends of the pipes are closed; only a passed-on descriptor is not
TAIL_BYTES = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SECRET = re.compile(r"pass|secret|community|key|kg|token", re.IGNORECASE)  # option names whose values are not shown


@dataclass(frozen=True, slots=True)
class Run:
    """How one run ended. `exit_code` None: it was ended. `said`: tail of stdout, `complained`: tail of stderr.

    `started` False: it is certain that the agent never ran.
    """

    exit_code: int | None
    clean: bool
    ended: Instant
    killed: int
    sockets_destroyed: int
    said: str
    complained: str
    started: bool = True


@dataclass(slots=True)
class _Ending:
    """What was found while a group was emptied."""

    killed: int = 0
    sockets: int = 0
    destroyed: int = 0
    trouble: str = ""


class Supervisor:
    """`guard.ports.Shooter`. `node` is ours: it names the group below `parent`, so that `clear` finds only its own."""

    def __init__(self, clock: Clock, *, node: str, parent: str = PARENT, mountinfo: Path = cgroup.MOUNTINFO) -> None:
        if not NAME.fullmatch(node) or not all(NAME.fullmatch(part) for part in parent.split("/")):
            raise Refused(f"cannot name a cgroup {parent}/{node}", "use letters, digits, dot, dash and underscore")
        self._clock = clock
        self._below = Path(parent) / node
        self._mountinfo = mountinfo

    def usable(self) -> str | None:
        """None if a group can be made here (tried), else why not."""
        try:
            trial = self._home() / f"trial-{self._clock.nonce()}"
            cgroup.make(trial)
            return None if cgroup.remove(trial) else f"cannot remove the cgroup {trial} that was just made"
        except (Unavailable, Unreadable) as error:
            return str(error)

    async def fire(
        self, device: DeviceSettings, action: str, node: str, shot_id: str, start_by: Instant | None
    ) -> ShotResult:
        """Run the agent once. Raises `Unavailable` (nothing was started, or it cannot be ended) and `Refused`.

        After `start_by` nothing is started any more.
        """
        ran = await self.run(device, action, node, SHOT + shot_id, device.timeout_s, start_by)
        return ShotResult(
            ran.exit_code,
            ran.clean,
            ran.ended,
            ran.killed,
            ran.sockets_destroyed,
            ran.complained,
            started=ran.started,
        )

    async def clear(self) -> Cleared:
        """End whatever an earlier guard of this node left, each run for itself; what cannot be ended is named."""
        mount = cgroup.mounted(self._mountinfo)
        if mount is None or not (mount / self._below).exists():  # no cgroup v2: no earlier guard had one either
            return Cleared(0)
        left = [group for group in (mount / self._below).iterdir() if group.is_dir()]
        endings = [_Ending() for _ in left]
        ended = await asyncio.gather(*map(self._ended, left, endings))
        stuck = {group.name for group, done in zip(left, ended, strict=True) if not done}
        if not stuck:
            cgroup.remove(mount / self._below)
        shots = frozenset(name.removeprefix(SHOT) for name in stuck if name.startswith(SHOT))
        return Cleared(sum(ending.killed for ending in endings), shots)

    async def end(self, shot_id: str) -> None:
        """End what is left of that one shot. Raises `Unavailable` if it cannot be ended; no other run is touched."""
        mount = cgroup.mounted(self._mountinfo)
        if mount is not None and (group := mount / self._below / (SHOT + shot_id)).exists():
            await self._empty(group, _Ending(), kill=True)

    async def _ended(self, group: Path, ending: _Ending) -> bool:
        try:
            await self._empty(group, ending, kill=True)
        except Unavailable:
            return False
        return True

    async def run(
        self,
        device: DeviceSettings,
        action: str,
        node: str,
        run_id: str,
        timeout_s: float,
        start_by: Instant | None = None,
    ) -> Run:
        """One supervised run of the delegate with any action; `timeout_s` counts from before the spawn."""
        agent = shutil.which(device.agent, path=PATH)
        if agent is None:
            raise Unavailable(f"cannot run {device.agent}", "no such program", "install its package (fence-agents)")
        if not NAME.fullmatch(run_id):
            raise Refused(f"cannot use {run_id!r} as the name of a run", "letters, digits, dot, dash, underscore only")
        order = _order(device.options, action, node)
        group = self._home() / run_id
        cgroup.make(group)
        finished = False
        try:
            ran = await self._supervised(group, agent, order, device.options, timeout_s, start_by)
            finished = True
            return ran
        finally:
            if not finished:  # also when cancelled, where nothing may be waited for
                _end_at_once(group)

    async def _supervised(
        self,
        group: Path,
        agent: str,
        order: bytes,
        options: Mapping[str, str],
        timeout_s: float,
        start_by: Instant | None,
    ) -> Run:
        try:
            lifeline, ours = socket.socketpair()
        except OSError as error:
            raise Unavailable("cannot start the delegate", error.strerror or str(error)) from error
        process: Process | None = None
        pipes: set[asyncio.Task[None]] = set()
        said, complained = bytearray(), bytearray()
        try:
            spawned = self._clock.now()
            process = await _spawn(group, agent, lifeline.fileno(), timeout_s + WATCH_GRACE_S, start_by)
            pipes.add(asyncio.create_task(_feed(process, order), name="delegate-stdin"))
            pipes.add(asyncio.create_task(_keep_tail(process.stdout, said), name="delegate-stdout"))
            pipes.add(asyncio.create_task(_keep_tail(process.stderr, complained), name="delegate-stderr"))
            in_time = await self._wait(process, after(spawned, timeout_s))
            ending = await self._end(group, process, in_time=in_time)
            await asyncio.wait(pipes, timeout=PIPES_S_MAX)
            started = not _said_no_agent(ours)
        finally:
            for task in pipes:
                task.cancel()
            if process is not None and process.returncode is None:
                process.kill()
            lifeline.close()
            ours.close()
        code = process.returncode if in_time else None
        if code is not None and (code < 0 or code == delegate.WATCH_ENDED_IT):
            code = None
        text = ending.trouble + complained.decode(errors="replace")
        return Run(
            exit_code=code,
            clean=code is not None and not (ending.killed or ending.sockets or ending.trouble),
            ended=self._clock.now(),
            killed=ending.killed,
            sockets_destroyed=ending.destroyed,
            said=_hidden(said.decode(errors="replace"), options)[-TAIL_BYTES:],
            complained=_hidden(text, options)[-TAIL_BYTES:],
            started=started,
        )

    async def _wait(self, process: Process, deadline: Instant) -> bool:
        """True: it ended by itself and we saw that before the deadline."""
        ended = asyncio.create_task(process.wait(), name="delegate-exit")
        try:
            while (left_s := elapsed_s(self._clock.now(), deadline)) > 0:
                look = asyncio.create_task(self._clock.sleep(min(left_s, LOOK_S)), name="delegate-deadline")
                try:
                    await asyncio.wait({ended, look}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    look.cancel()
                if process.returncode is not None:  # not `ended`: that may wait for whoever still holds a pipe
                    return self._clock.now() < deadline
            return False
        finally:
            ended.cancel()

    async def _end(self, group: Path, process: Process, *, in_time: bool) -> _Ending:
        """Kill, empty, remove, destroy sockets; then the watch has nothing left to watch and is reaped."""
        ending = _Ending()
        await self._empty(group, ending, kill=not in_time)
        if process.returncode is None:
            process.kill()  # the watch: its group is gone
        return ending

    async def _empty(self, group: Path, ending: _Ending, *, kill: bool) -> None:
        """Remove `group` and all in it. `kill` False: the agent ended by itself; what it left is killed and counted."""
        made_here = cgroup.numbers(group)
        seen: set[int] = set()
        deadline = after(self._clock.now(), EMPTY_S_MAX)
        while True:
            seen |= cgroup.members(group)
            if kill or seen:
                cgroup.kill(group)
            if cgroup.remove(group):
                break
            if self._clock.now() >= deadline:
                left = sorted(cgroup.members(group))
                raise Unavailable(f"cannot end the shot in {group}", f"processes {left} do not die", "call end again")
            await self._clock.sleep(LOOK_S / 5)
        ending.killed = len(seen)
        await self._close_sockets(made_here, ending, linger=not kill and not seen)

    async def _close_sockets(self, cgroups: frozenset[int], ending: _Ending, *, linger: bool) -> None:
        try:
            left = await asyncio.to_thread(sockdiag.made_in, cgroups)
            if left and linger:
                await self._clock.sleep(LINGER_S)
                left = await asyncio.to_thread(sockdiag.made_in, cgroups)
            ending.sockets = len(left)
            if left:
                ending.destroyed, refused = await asyncio.to_thread(sockdiag.destroy, left)
                ending.trouble = f"{refused}\n" if refused else ""
        except (Unavailable, Unreadable) as error:
            ending.trouble = f"{error}\n"

    def _home(self) -> Path:
        return cgroup.find_mount(self._mountinfo) / self._below


async def _spawn(group: Path, agent: str, lifeline: int, seconds: float, start_by: Instant | None) -> Process:
    orders = [str(group), str(seconds), str(start_by or 0), str(lifeline), agent]
    words = [sys.executable, "-I", "-S", str(Path(delegate.__file__)), *orders]
    try:
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={"PATH": PATH, "LANG": LANG},
            cwd="/",
            pass_fds=(lifeline,),
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable("cannot start the delegate", error.strerror or str(error)) from error


def _said_no_agent(lifeline: socket.socket) -> bool:
    """The delegate's own process ended before it became the agent. Silence is no such word: then there was a shot."""
    try:
        return lifeline.recv(len(delegate.NO_AGENT), socket.MSG_DONTWAIT) == delegate.NO_AGENT
    except OSError:
        return False


async def _feed(process: Process, order: bytes) -> None:
    """Hand over the options; an agent that does not read them is no error of ours."""
    if process.stdin is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(order)
        await process.stdin.drain()
    process.stdin.close()


async def _keep_tail(stream: asyncio.StreamReader | None, tail: bytearray) -> None:
    """Read until all writers are gone, so that nobody blocks on us; keep the last bytes."""
    while stream is not None and (piece := await stream.read(TAIL_BYTES)):
        tail += piece
        del tail[: -2 * TAIL_BYTES]  # twice what is shown, so that a secret at the cut is still recognised


def _end_at_once(group: Path) -> None:
    """Without waiting: kill, cut the sockets, remove if empty already (else `clear` does at the next start)."""
    with suppress(Unavailable, Unreadable):
        made_here = cgroup.numbers(group)
        cgroup.kill(group)
        sockdiag.destroy(sockdiag.made_in(made_here))
        cgroup.remove(group)


def _order(options: Mapping[str, str], action: str, node: str) -> bytes:
    """The lines for stdin; ours come last, since the last value wins. Raises `Refused` on a smuggled line."""
    words = {**options, "nodename": node, "action": action}
    if not {"port", "plug"} & set(options):
        words["port"] = node  # as Pacemaker does without a host map
    for name, value in words.items():
        if re.search(r"[\n\r\0]", name + value) or "=" in name or not name:
            raise Refused(f"cannot hand option {name!r} to the agent", "a line break in it would start another option")
    return "".join(f"{name}={value}\n" for name, value in words.items()).encode()


def _hidden(text: str, options: Mapping[str, str]) -> str:
    """Agents may print what they were given: secrets are not for journals."""
    for name, value in options.items():
        if value and SECRET.search(name):
            text = text.replace(value, "***")
    return text
