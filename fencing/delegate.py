"""Starts one delegate agent inside its cgroup, and ends it if the guard cannot: started by `supervisor`, never by hand.

    python -I -S delegate.py CGROUP SECONDS START_BY LIFELINE AGENT

1. The agent's process joins CGROUP before anything else of it can act. If it cannot join, there is no agent.
2. It becomes the agent only while this process lives (else the kernel kills it), while LIFELINE (a socket whose other
   end only the guard holds) stands, and before START_BY (nanoseconds on CLOCK_BOOTTIME; 0 = no limit). That is looked
   at last, after every pause that any of these processes may have suffered.
3. This process stays outside and watches: when LIFELINE closes, when SECONDS have passed or when it is told to stop,
   it kills the agent and everything in CGROUP. So a shot ends at its deadline although the guard was killed or hangs.
4. It ends with the agent's own exit code; 128 + n if signal n ended the agent; 125 if the watch ended it. That there
   was no agent it says on LIFELINE, which executing the agent closes: an agent may end with any code after it has sent.

Nothing of pairguard is imported here: this runs with an empty environment.
"""

import ctypes
import os
import select
import signal
import sys
import time

NOT_STARTED, WATCH_ENDED_IT = 126, 125
NO_AGENT = b"no agent"  # the word on LIFELINE
LOOK_S = 0.01  # a killed process needs a moment to go
PR_SET_PDEATHSIG = 1  # prctl(2): kept when the agent is executed; children that it forks do not have it


def main() -> int:
    cgroup, seconds, start_by = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    lifeline, agent = int(sys.argv[4]), sys.argv[5]
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork
    heard, told = os.pipe()  # close-on-exec, as Python makes them
    for end in (heard, told):
        os.set_blocking(end, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(told)
    watch_pid = os.getpid()
    child = os.fork()
    if child == 0:
        if prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            refuse(lifeline, f"{agent}: it would outlive its watch: {os.strerror(ctypes.get_errno())}")
        become(cgroup, start_by, lifeline, agent, watch_pid)
    with open(os.devnull, "r+b") as nothing:  # only the agent holds the pipes of the guard now
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    return watch(cgroup, seconds, lifeline, heard, child)


def become(cgroup: str, start_by: int, lifeline: int, agent: str, watch_pid: int) -> None:
    """In the child: join, look once more, then turn into the agent. Never returns."""
    try:
        with os.fdopen(os.open(os.path.join(cgroup, "cgroup.procs"), os.O_WRONLY), "wb") as procs:
            procs.write(b"0")
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        environment = {name: os.environ[name] for name in ("PATH", "LANG")}
        last_look = select.poll()
        last_look.register(lifeline, select.POLLIN)
        os.set_inheritable(lifeline, False)
        late_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - start_by
        if start_by and late_ns > 0:
            refuse(lifeline, f"{agent}: it should have started {late_ns / 1e9:.3f} s ago")
        if last_look.poll(0) or os.getppid() != watch_pid:
            refuse(lifeline, f"{agent}: the guard is gone")
        os.execve(agent, [agent], environment)  # noqa: S606
    except (OSError, KeyError) as error:
        refuse(lifeline, f"{agent} in {cgroup}: {error}")


def refuse(lifeline: int, why: str) -> None:
    """In the child: end without the agent. Never returns. If the word cannot be said, the guard takes it for a shot."""
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # the guard may be gone
        os.write(2, f"cannot start {why}\n".encode())
        os.write(lifeline, NO_AGENT)
    finally:
        os._exit(NOT_STARTED)


def watch(cgroup: str, seconds: float, lifeline: int, heard: int, child: int) -> int:
    """Until the agent ends, or must."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(heard, select.POLLIN)
    while True:
        events = dict(poll.poll(seconds * 1000))
        woken_by = os.read(heard, 64) if heard in events else b""
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not events or lifeline in events or woken_by.strip(bytes([signal.SIGCHLD])):
            os.kill(child, signal.SIGKILL)  # by its own number: it may not have joined yet
            kill(cgroup)
            os.waitpid(child, 0)
            return WATCH_ENDED_IT


def kill(cgroup: str) -> None:
    """Everything in the cgroup, at once where the kernel can (cgroup.kill, Linux 5.14), else one by one until empty."""
    try:
        with os.fdopen(os.open(os.path.join(cgroup, "cgroup.kill"), os.O_WRONLY), "wb") as order:  # not O_CREAT
            order.write(b"1")
        return
    except OSError:  # an older kernel has no such file; a group that is gone has nobody in it
        pass
    while True:
        try:
            with open(os.path.join(cgroup, "cgroup.procs"), encoding="ascii") as procs:
                left = [int(line) for line in procs]
        except OSError:
            return
        if not left or left == [0]:  # 0: of another pid namespace; kill(0) would be our own process group
            return
        for pid in set(left) - {0}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        select.select([], [], [], LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
