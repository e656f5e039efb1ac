"""The real programs of a guarded machine: the guard's daemon, `fence_pairguard` and `pairguard-fence-peer`."""

from __future__ import annotations

import sys
import uuid
from collections import Counter

from guard.ports import Clock
from guard.rehearsal.cluster import WAIT_S
from guard.rehearsal.sandbox_site import RESOURCE, Layout
from guard.rehearsal.simulated.children import Children
from guard.rehearsal.simulated.pair import Machine
from guard.rehearsal.simulated.site import Site

POLL_S = 0.1
GUARD_S_MAX = 30.0  # the cluster starts after the guard; a guard that does not come holds nothing up (L3)
RESTART_S = 1.0  # as the unit file says: Restart=always, RestartSec=1
CONNECTED = {"connected": "Connected", "resync": "SyncSource", "standalone": "StandAlone"}
DISKS = {"U": "UpToDate", "C": "Consistent", "O": "Outdated", "I": "Inconsistent", "D": "Diskless", "?": "DUnknown"}
ROLES = {"primary": "Primary", "secondary": "Secondary", "?": "Unknown"}


class RealPrograms:
    """`simulated.pair.Programs`."""

    def __init__(self, layout: Layout, children: Children, site: Site, clock: Clock) -> None:
        self._layout, self._children, self._site, self._clock = layout, children, site, clock
        self.restarts: Counter[str] = Counter()

    def boot(self, machine: Machine) -> None:
        """The guard first, then the cluster with DRBD: `stored` must be read before `drbdadm up`."""
        title = machine.title
        boot_id = uuid.UUID(hex=self._clock.nonce())
        self._layout.boot_id(title).write_text(f"{boot_id}\n", encoding="ascii")
        if machine.boots == 1:
            machine.listeners.append(lambda _: self._show_drbd(machine))
        self._start_guard(machine)
        self._show_drbd(machine)
        began = machine.pair.now

        def look() -> None:
            late = machine.pair.now - began > GUARD_S_MAX * 1e9
            if (title in self._site.streaming and self._layout.control(title).is_socket()) or late:
                machine.start_cluster()
            else:
                machine.later(POLL_S, look)

        machine.later(POLL_S, look)

    def _start_guard(self, machine: Machine) -> None:
        title, boots = machine.title, machine.boots

        def again(_: int) -> None:
            if machine.boots == boots and machine.runs():
                self.restarts[title] += 1
                machine.later(RESTART_S, lambda: self._start_guard(machine))

        argv = [sys.executable, "-m", "guard.rehearsal.sandbox_node", "--site", str(self._layout.folder), title]
        self._children.start(f"guard:{title}", argv, self._layout.log(title), done=again)

    def fence(self, machine: Machine, request: str, action: str) -> None:
        title, peer = machine.title, machine.peer.title
        machine.pair.tell(title, f"Pacemaker runs fence_pairguard: {action} {peer}")
        self._children.start(
            f"agent:{title}:{request}",
            [sys.executable, "-m", "fencing.agent"],
            self._layout.log(f"{title}.agent"),
            stdin=f"action={action}\nport={peer}\nwait_s={WAIT_S:.0f}\nsocket={self._layout.control(title)}\n",
            done=lambda code: machine.fence_answered(request, confirmed=code == 0),
        )

    def fence_peer(self, machine: Machine, job: str) -> None:
        title = machine.title
        self._show_drbd(machine)
        words = ["--socket", str(self._layout.control(title)), "--proc-drbd", str(self._layout.proc_drbd(title))]
        self._children.start(
            f"handler:{title}:{job}",
            [sys.executable, "-m", "fencing.fence_peer", *words],
            self._layout.log(f"{title}.handler"),
            extra={"DRBD_RESOURCE": RESOURCE, "DRBD_MINOR": "0", "DRBD_PEER": machine.peer.title},
            done=lambda code: machine.handler_answered(job, code),
        )

    def gone(self, machine: Machine, request: str) -> None:
        self._children.kill(f"agent:{machine.title}:{request}")

    def end(self, machine: Machine) -> None:
        title = machine.title
        for name in self._children.names():
            if name == f"guard:{title}" or name.startswith((f"agent:{title}:", f"handler:{title}:")):
                self._children.kill(name)

    def _show_drbd(self, machine: Machine) -> None:
        """What /proc/drbd of DRBD 8.4 shows, for the handler."""
        replica = machine.pair.disks.replica(machine.name)
        link = CONNECTED.get(replica.link.value, "WFConnection")
        text = (
            "version: 8.4.11 (api:1/proto:86-101)\n"
            f" 0: cs:{link} ro:{ROLES[replica.role.value]}/{ROLES[replica.peer_role.value]} "
            f"ds:{DISKS[replica.disk.value]}/{DISKS[replica.peer_disk.value]} C "
            f"{'s' if replica.suspended else 'r'}-----\n"
        )
        path = self._layout.proc_drbd(machine.title)
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="ascii")
        fresh.rename(path)
