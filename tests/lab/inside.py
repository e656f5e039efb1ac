"""What runs in a site's nodes, as this machine sees it: guards, fence agents and delegates, by their cgroups."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.lab.ground import Ground
from tests.lab.node import Node


def asking(ground: Ground) -> list[str]:
    """Nodes in which the cluster's fence agent waits for its guard."""
    found = []
    for name, node in ground.site.nodes.items():
        procs = ground.site.space.group(name).rglob("cgroup.procs")
        words = [cmdline(pid) for path in procs for pid in path.read_text().split()]
        if any("fencing.agent" in text for text in words):
            found.append(node.name)
    return found


def daemon_pids(node: Node) -> list[int]:
    """The guard's own process in a node, as this machine numbers it."""
    found = []
    for path in node.space.group(node.name).rglob("cgroup.procs"):
        for pid in path.read_text().split():
            if "guard.daemon.main" in cmdline(pid) and not cmdline(pid).startswith("/bin/sh"):
                found.append(int(pid))
    return found


def kill_guard(node: Node) -> None:
    """SIGKILL of a node's guard; nothing starts it again by itself."""
    for pid in daemon_pids(node):
        tell(pid, signal.SIGKILL)
    node.record.add("guard-killed", node.name)


def tell(pid: int, number: int) -> None:
    """Send a signal; a child that was just being started is gone by now."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def delegates(ground: Ground, name: str) -> list[str]:
    """What runs in a shot's own cgroup of this node."""
    places = [p for p in ground.site.space.group(name).rglob("cgroup.procs") if "pairguard-shots" in str(p)]
    found = []
    for place in places:
        try:
            found += [cmdline(pid) for pid in place.read_text().split()]
        except OSError:
            continue  # the group is gone
    return found


def cmdline(pid: str) -> str:
    """A process's words; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""
