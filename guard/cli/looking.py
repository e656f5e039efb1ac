"""Collects the facts for `pairguard check`: every look has a deadline, and a failed one says why. Changes nothing."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fencing import cgroup, stock
from guard.adapters import cib
from guard.adapters.drbd_config import Section, parse_config
from guard.adapters.process import Runner
from guard.cli import facts
from guard.cli.facts import Facts, Machine, Replicas, Sbd, Unseen
from guard.core.evidence import PendingShot
from guard.errors import PairguardError, Unavailable
from guard.ports import Replication
from guard.settings import GuardSettings

T = TypeVar("T")
LOOK_S_MAX = 5.0  # each program answers in milliseconds
AGENT_S_MAX = 25.0  # an agent prints its metadata in 0.3 s; fencing.stock itself gives up after 20 s
SBD_FILES = (Path("/etc/sysconfig/sbd"), Path("/etc/default/sbd"))
REALTIME = (os.SCHED_RR, os.SCHED_FIFO)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel and sbd say things; tests hand in their own."""

    proc: Path = Path("/proc")
    net: Path = Path("/sys/class/net")
    dlm: Path = Path("/sys/kernel/dlm")
    sbd: Sequence[Path] = SBD_FILES
    mountinfo: Path = cgroup.MOUNTINFO


async def look(
    settings: GuardSettings | None,
    run: Runner,
    replication: Replication | None,
    status: Awaitable[Mapping[str, Any]] | None,
    places: Places,
) -> Facts:
    """Everything but what the settings name (`guard.cli.starting`), side by side. Without settings what needs none."""
    commanded = settings is not None and settings.cluster.kind != "pacemaker"
    cluster, history, corosync, replicas, agents, said = await asyncio.gather(
        _nothing() if commanded else _seen(_cluster(run)),
        _nothing() if commanded else _seen(_history(run)),
        _nothing() if commanded else _seen(_corosync(run)),
        _nothing() if settings is None or replication is None else _seen(_replicas(run, replication, settings)),
        _nothing() if settings is None else _seen(_agents(settings), AGENT_S_MAX),
        _nothing() if status is None else _seen(status),
    )
    return Facts(
        cluster=cluster,
        history=history,
        corosync=corosync,
        replicas=replicas,
        sbd=sbd_of(places, cluster),
        machine=machine_of(places, settings),
        agents=agents,
        status=said,
    )


async def of_site(
    settings: GuardSettings, run: Runner, replication: Replication, status: Awaitable[Mapping[str, Any]]
) -> Facts:
    """What a survey is made of: cluster, corosync, DRBD and the guard's own word. Nothing else is looked at."""
    commanded = settings.cluster.kind != "pacemaker"
    cluster, corosync, replicas, said = await asyncio.gather(
        _nothing() if commanded else _seen(_cluster(run)),
        _nothing() if commanded else _seen(_corosync(run)),
        _seen(_replicas(run, replication, settings)),
        _seen(status),
    )
    return Facts(cluster, None, corosync, replicas, None, None, None, said)


async def _nothing() -> None:
    return None


async def _seen(work: Awaitable[T], deadline_s: float = LOOK_S_MAX + 1.0) -> T | Unseen:
    try:
        async with asyncio.timeout(deadline_s):
            return await work
    except TimeoutError:
        return Unseen(f"no answer in {deadline_s:g} s")
    except PairguardError as error:
        return Unseen(str(error))


async def _said(run: Runner, *argv: str) -> str:
    """What a program says, or `Unavailable` with its own complaint."""
    ran = await run(argv, deadline_s=LOOK_S_MAX)
    if ran.code != 0:
        errors = re.findall(r"<error>(.*?)</error>|<status [^>]*message=\"(.*?)\"", ran.out)
        told = "; ".join(text for pair in errors for text in pair if text)
        complaint = (told or ran.err or ran.out).strip().splitlines()
        raise Unavailable(f"{argv[0]} failed", complaint[0] if complaint else f"exit code {ran.code}")
    return ran.out


async def _cluster(run: Runner) -> facts.Cluster:
    return facts.cluster(cib.document(await _said(run, "cibadmin", "-Q"), "cibadmin -Q"))


async def _history(run: Runner) -> tuple[PendingShot, ...]:
    argv = ("stonith_admin", "--history", "*", "--verbose", "--output-as=xml")  # without -V pending ones are not listed
    return cib.shots(await _said(run, *argv))


async def _corosync(run: Runner) -> dict[str, str]:
    found = facts.cmap(await _said(run, "corosync-cmapctl"))
    if not found:
        raise Unavailable("corosync-cmapctl said nothing that can be read")
    return found


async def _replicas(run: Runner, replication: Replication, settings: GuardSettings) -> Replicas:
    files = parse_config(await _said(run, "drbdadm", "dump"))
    names = settings.replication.resources
    shown = await asyncio.gather(*(_seen(_kernel(run, name)) for name in names))
    volumes = await replication.read()
    gates = {replica.resource: replica.gate for replica in volumes.replicas}
    return Replicas(files, dict(zip(names, shown, strict=True)), gates)


async def _kernel(run: Runner, name: str) -> Section:
    return parse_config(await _said(run, "drbdsetup", "show", name, "--show-defaults"))


async def _agents(settings: GuardSettings) -> dict[str, str | None]:
    names = sorted({fence.delegate for fence in settings.fence.values()})
    found = await asyncio.gather(*(asyncio.to_thread(stock.clash, name) for name in names))
    seen = dict(zip(names, found, strict=True))
    if os.geteuid() == 0:  # nobody else may start a program as another user
        seen[facts.OWN_AGENT] = await asyncio.to_thread(stock.clash, facts.OWN_AGENT, user=stock.CONTROLLER)
    return seen


def sbd_of(places: Places, cluster: facts.Cluster | Unseen | None) -> Sbd | Unseen:
    """sbd counts as active if it runs, or if Pacemaker says that it has its watchdog."""
    running = "sbd" in processes(places.proc)
    counted = isinstance(cluster, facts.Cluster) and cluster.on("have-watchdog") is True
    for file in places.sbd:
        if file.is_file():
            try:
                return Sbd(running or counted, facts.shell_words(file.read_text(encoding="utf-8")), str(file))
            except (OSError, UnicodeDecodeError) as error:
                return Unseen(f"{file}: {error}")
    return Sbd(running or counted)


def machine_of(places: Places, settings: GuardSettings | None) -> Machine | Unseen:
    """cgroup v2, corosync's scheduling class, DLM, interfaces and bonds."""
    running = processes(places.proc)
    dlm = sorted(path.name for path in places.dlm.iterdir()) if places.dlm.is_dir() else []
    if "dlm_controld" in running:
        dlm.append("dlm_controld")
    interfaces = settings.network.interfaces if settings is not None else ()
    bonds = {name: places.net / name / "bonding" / "lacp_rate" for name in interfaces}
    found = {name: _text(file) for name, file in bonds.items() if file.is_file()}
    return Machine(
        cgroup=_cgroup(places.mountinfo),
        realtime=_realtime(running.get("corosync")),
        dlm=tuple(dlm),
        missing_interfaces=tuple(name for name in interfaces if not (places.net / name).exists()),
        slow_bonds=tuple(name for name, rate in found.items() if rate.startswith("slow")),
        bonds=tuple(found),
    )


def processes(proc: Path) -> dict[str, int]:
    """Name (as the kernel cuts it, 15 characters) -> one process id."""
    found: dict[str, int] = {}
    for folder in proc.glob("[0-9]*"):
        name = _text(folder / "comm")
        if name:
            found.setdefault(name, int(folder.name))
    return found


def _text(file: Path) -> str:
    """The file's content; empty if it went away or may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _realtime(pid: int | None) -> bool | None:
    """Whether the process runs in a real-time class; None: there is none, or it cannot be asked."""
    if pid is None:
        return None
    try:
        return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK in REALTIME
    except OSError:
        return None


def _cgroup(mountinfo: Path) -> str | Unseen | None:
    """None: a group can be made below the mount. Only looked at, nothing is made."""
    try:
        mount = cgroup.find_mount(mountinfo)
    except PairguardError as error:
        return str(error)
    if os.access(mount, os.W_OK):
        return None
    return Unseen(f"{mount} may not be written by this user") if os.geteuid() != 0 else f"{mount} is read-only"
