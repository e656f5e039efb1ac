"""A node of a pair: its namespaces, its own files, its boot, its power, and commands run inside it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.fabric import Fabric
from tests.lab.record import Record
from tests.lab.space import LabFailed, Space, boottime, clean_environment, reap

HERE = Path(__file__).resolve().parent
OWN_DIRECTORIES = (
    "etc/corosync",
    "etc/pacemaker",
    "var/lib/corosync",
    "var/lib/pacemaker",
    "var/lib/pairguard",
    "var/log",
)
PACEMAKER_OWNED = ("cib", "pengine", "cores", "blackbox")


@dataclass(frozen=True, slots=True)
class Service:
    """A program started in a node at every boot; its log is /var/log/pglab/NAME.log in the node.

    `before`: `corosync` or `pacemaker`. `wait_for`: a shell test that must hold before the boot
    goes on (at most `wait_s`).
    """

    name: str
    argv: tuple[str, ...]
    before: str = "corosync"
    env: Mapping[str, str] = field(default_factory=dict)
    wait_for: str | None = None
    wait_s: float = 10.0


class Node:
    """One node. Files under `root` are its /etc and /var as seen from outside; they survive a power cycle."""

    def __init__(self, space: Space, fabric: Fabric, record: Record, name: str) -> None:
        self.space, self.fabric, self.record, self.name = space, fabric, record, name
        self.root = space.work / "nodes" / name
        self.services: list[Service] = []
        self.boot_lines: list[str] = []  # shell, before any service
        self.sbin_layers: list[Path] = [HERE / "programs"]
        self.ocf_layers: list[Path] = [HERE / "ocf"]
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init: int | None = None
        self._lock = threading.RLock()
        self.supplied = False  # what the power controller says: a kernel that panicked has power still

    @property
    def pair(self) -> str:
        return self.name[:-1]

    @property
    def peer(self) -> str:
        return self.pair + ("b" if self.name.endswith("a") else "a")

    @property
    def powered(self) -> bool:
        """True while PID 1 of the node lives."""
        return self._init is not None

    def prepare(self, *, corosync_conf: str, cib: str) -> None:
        """Attach the node to the fabric and write its files. Call once, before the first boot."""
        self.fabric.attach(self.name)
        for layer in ("etc", "var", ".work-etc", ".work-var"):
            (self.root / layer).mkdir(parents=True)
        for directory in OWN_DIRECTORIES:
            path = self.root / directory
            path.mkdir(parents=True, exist_ok=True)
            os.setxattr(path, "trusted.overlay.opaque", b"y")  # what the host has there is not the node's
        for directory in ("corosync", "pacemaker", "pglab", "pacemaker/bundles"):
            (self.root / "var/log" / directory).mkdir(parents=True)
        self.write("/etc/corosync/corosync.conf", corosync_conf)
        self.write("/etc/machine-id", f"{abs(hash((self.space.prefix, self.name))):032x}\n")
        self.write("/etc/hostname", self.name + "\n")
        self.write("/var/lib/pacemaker/cib/cib.xml", cib, mode=0o600)
        for directory in PACEMAKER_OWNED:
            (self.root / "var/lib/pacemaker" / directory).mkdir(exist_ok=True)
        for path in [
            self.root / "var/lib/pacemaker",
            *(self.root / "var/lib/pacemaker").rglob("*"),
            self.root / "var/log/pacemaker",
        ]:
            shutil.chown(path, "hacluster", "haclient")

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the node (under /etc or /var) from outside, while it is off."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def read(self, path: str) -> str:
        """A file of the node under /etc or /var; empty if it is not there."""
        target = self.root / path.lstrip("/")
        return target.read_text(errors="replace") if target.exists() else ""

    def power_on(self) -> None:
        """Ports up, boot. Returns when PID 1 runs; the cluster needs seconds more."""
        with self._lock:
            if self.powered:
                return
            (self.root / "boot.sh").write_text(self._boot_script())
            self.fabric.port(self.name, up=True)
            argv = [
                "nsenter",
                f"--net=/run/netns/{self.space.netns(self.name)}",
                *("unshare", "-p", "-f", "-m", "-u", "-i", "-C", "--propagation", "private"),
                str(HERE / "programs" / "nodeinit"),
                self.name,
                str(self.root),
                ":".join(str(p) for p in reversed(self.sbin_layers)),
                ":".join(str(p) for p in reversed(self.ocf_layers)),
            ]
            self._unshare = self.space.spawn(argv, group=self.name, log=self.root / "console.log")
            self._init = self._find_init()
            self.supplied = True
            self.record.add("power-on", self.name)

    def power_off(self, by: str, *, ports_stay_up: bool = False) -> None:
        """SIGKILL of everything in the node; its switch ports go down unless `ports_stay_up` (a hung kernel)."""
        with self._lock:
            if not self.supplied:
                return
            self.supplied = False
            self._end()
            self.record.add("power-off", self.name, by)
            if not ports_stay_up:
                self.fabric.port(self.name, up=False)

    def panic(self, *, ports_stay_up: bool = False) -> None:
        """The kernel is dead, the power is not: everything stops at once, the controller still says `on`."""
        with self._lock:
            if not self.powered:
                return
            self._end()
            self.record.add("panic", self.name, "ports up" if ports_stay_up else "ports down")
            if not ports_stay_up:
                self.fabric.port(self.name, up=False)

    def _end(self) -> None:
        if not self.powered:
            return
        self._init = None
        self.space.kill(self.name)
        if self._unshare is not None:
            reap(self._unshare)

    def run_in(
        self, argv: Sequence[str], *, deadline_s: float = 20.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node. A node without power raises LabFailed."""
        enter = self._enter()
        try:
            return subprocess.run(
                [*enter, *argv],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=deadline_s,
                env=clean_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabFailed(f"{self.name}: {' '.join(argv)}: no answer in {deadline_s} s") from error

    def spawn_in(self, argv: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
        """Start a program in the node that outlives this call (it dies with the node's power)."""
        return self.space.spawn([*self._enter(), *argv], group=self.name, log=log)

    def log_times(self, path: str) -> list[tuple[float, str]]:
        """A log of lines `BOOTTIME words`, parsed; what is not of that form is left out."""
        result = []
        for line in self.read(path).splitlines():
            moment, _, words = line.partition(" ")
            if moment.replace(".", "", 1).isdigit() and words:
                result.append((float(moment), words))
        return result

    def _enter(self) -> list[str]:
        pid = self._init
        if pid is None:
            raise LabFailed(f"{self.name} is off")
        return ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "-C"]

    def _find_init(self) -> int:
        assert self._unshare is not None
        until = boottime() + 10
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        while boottime() < until:
            found = children.read_text().split() if children.exists() else []
            if found:
                return int(found[0])
            if self._unshare.poll() is not None:
                break
            time.sleep(0.01)
        raise LabFailed(f"{self.name} did not boot: {(self.root / 'console.log').read_text()[-500:]}")

    def _boot_script(self) -> str:
        lines = ["export PCMK_logfile=/var/log/pacemaker/pacemaker.log PCMK_logfacility=none PCMK_stderr=0"]
        lines += self.boot_lines + self._starts("corosync")
        lines.append("corosync -f > /var/log/corosync/stderr.log 2>&1 &")
        lines.append(_wait("corosync-cmapctl -g runtime.votequorum.this_node_id", 30))
        lines += self._starts("pacemaker")
        lines.append("pacemakerd > /var/log/pacemaker/stderr.log 2>&1 &")
        return "\n".join(lines) + "\n"

    def _starts(self, before: str) -> list[str]:
        lines = []
        for service in self.services:
            if service.before != before:
                continue
            env = " ".join(f"{name}={shlex.quote(value)}" for name, value in service.env.items())
            lines.append(f"{env} {shlex.join(service.argv)} >> /var/log/pglab/{service.name}.log 2>&1 < /dev/null &")
            if service.wait_for is not None:
                lines.append(_wait(service.wait_for, service.wait_s))
        return lines


def _wait(test: str, seconds: float) -> str:
    return f"for i in $(seq {round(seconds * 5)}); do {test} > /dev/null 2>&1 && break; sleep 0.2; done"
