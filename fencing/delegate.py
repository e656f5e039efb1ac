"""Starts one delegate agent inside its cgroup, and ends it if the guard cannot: started by `supervisor`, never by hand.

    python -I -S delegate.py CGROUP SECONDS LIFELINE AGENT

1. The agent's process joins CGROUP before it becomes the agent. If it cannot join, there is no agent.
2. This process stays outside and watches: when LIFELINE (a pipe whose other end only the guard holds) closes, when
   SECONDS have passed or when it is told to stop, it kills everything in CGROUP. So a shot ends at its deadline
   although the guard was killed or hangs.
3. It ends with the agent's own exit code; 128 + n if signal n ended the agent; 125 if the watch ended it; 126 if the
   agent could not be started.

Nothing of pairguard is imported here: this runs with an empty environment.
"""

import os
import select
import signal
import sys

NOT_STARTED, WATCH_ENDED_IT = 126, 125
LOOK_S = 0.01  # a killed process needs a moment to go


def main() -> int:
    cgroup, seconds, lifeline, agent = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    heard, told = os.pipe()  # close-on-exec, as Python makes them
    for end in (heard, told):
        os.set_blocking(end, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(told)
    child = os.fork()
    if child == 0:
        become(cgroup, lifeline, agent)
    with open(os.devnull, "r+b") as nothing:  # only the agent holds the pipes of the guard now
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    return watch(cgroup, seconds, lifeline, heard, child)


def become(cgroup: str, lifeline: int, agent: str) -> None:
    """In the child: join, then turn into the agent. Never returns."""
    try:
        os.close(lifeline)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
            signal.signal(number, signal.SIG_DFL)
        with os.fdopen(os.open(os.path.join(cgroup, "cgroup.procs"), os.O_WRONLY), "wb") as procs:
            procs.write(b"0")
        os.chdir("/")
        os.execve(agent, [agent], {name: os.environ[name] for name in ("PATH", "LANG")})  # noqa: S606
    except (OSError, KeyError) as error:
        os.write(2, f"cannot start {agent} in {cgroup}: {error}\n".encode())
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
            kill(cgroup)
            os.waitpid(child, 0)
            return WATCH_ENDED_IT


def kill(cgroup: str) -> None:
    """Everything in the cgroup, at once where the kernel can (cgroup.kill, Linux 5.14), else one by one until empty."""
    try:
        with os.fdopen(os.open(os.path.join(cgroup, "cgroup.kill"), os.O_WRONLY), "wb") as order:  # not O_CREAT
            order.write(b"1")
        return
    except FileNotFoundError:
        pass
    while True:
        with open(os.path.join(cgroup, "cgroup.procs"), encoding="ascii") as procs:
            left = [int(line) for line in procs]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        select.select([], [], [], LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
