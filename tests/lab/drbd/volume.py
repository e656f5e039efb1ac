"""One resource on one node: its state, what each change of state entails, application I/O, roles, the fence-peer
handler.

The rules in `change` and `try_outdate` are the kernel's (8.4.11) as far as the recordings show them:
1. A Primary that loses its peer under resource-and-stonith suspends I/O in the same change; no new generation is
   made then.
2. Codes 3, 4, 5, 7 make the peer Outdated (Inconsistent for 3): new generation, then thaw. Anything else leaves it
   frozen.
3. A connection that comes back thaws with no new generation; what was pending is sent again.
4. An exit code counts only for the disconnection that its handler was called for.
5. The promise of a new generation (`new_uuid_due`), once made while suspended by hand, survives a reconnection: the
   measured trap.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import resconf
import views
from disk import RECORD_KIB, Disk
from handshake import rank
from replication import Peer

# Connection states in the kernel's order; from Connected on there is a peer.
BEFORE = (
    "StandAlone",
    "Disconnecting",
    "Unconnected",
    "Timeout",
    "BrokenPipe",
    "NetworkFailure",
    "ProtocolError",
    "TearDown",
)
BEFORE += ("WFConnection", "WFReportParams")
SYSTEM_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"  # what the kernel gives its helpers
MESSAGES = {
    -1: "Multiple primaries not allowed by config",
    -2: "Need access to UpToDate data",
    -6: "Refusing to be Outdated while Connected",
    -7: "Refusing to be Primary while peer is not outdated",
    -10: "State change was refused by peer node",
    -12: "Device is held open by someone",
    -18: "Disk state is lower than outdated",
}


class Refused(Exception):
    """A state change that DRBD refuses; `code` as in MESSAGES."""

    def __init__(self, code: int) -> None:
        super().__init__(MESSAGES[code])
        self.code = code


@dataclass(eq=False, slots=True)
class Request:
    """One application write on its way: `sent` = waits for the peer's acknowledgment."""

    block: int
    mark: str
    done: asyncio.Future[None]
    sent: bool = False


class Resource:
    """See the file's docstring. All of it runs in one event loop; a change of state never awaits."""

    def __init__(self, conf: resconf.Resource, disk: Disk, publish: Callable[[list[str]], None]) -> None:
        self.conf, self.disk, self.name = conf, disk, conf.name
        self.node = resconf.node_name()
        self.own = conf.hosts[self.node]
        self.peer_node = next(name for name in conf.hosts if name != self.node)
        self.minor = self.own.minor
        self.role, self.peer_role = "Secondary", "Unknown"
        self.dstate, self.pdsk = "Diskless", "DUnknown"
        self.cstate = "StandAlone"
        self.susp_user = self.susp_fen = self.new_uuid_due = self.crashed = False
        self.configured = False  # a connection exists (StandAlone has none)
        self.connect_count = 0
        self.sent = self.received = self.written = self.al_writes = 0
        self.resync_total = 0
        self.open_count = self.completed = 0
        self.pending: dict[int, Request] = {}
        self._serial = 0
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.peer = Peer(self)
        self.tasks: set[asyncio.Task[object]] = set()
        self._publish, self._shown = publish, views.View()
        self._stat: int | None = None
        self._log = Path(f"{disk.prefix}.log").open("a", buffering=1)  # noqa: SIM115 - open as long as the resource

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """There is a peer (Connected, or a resync of any stage)."""
        return self.cstate not in BEFORE

    @property
    def suspended(self) -> bool:
        """Application writes wait."""
        return self.susp_user or self.susp_fen

    def change(self, *, again: bool = False, **new: object) -> None:
        """One state change with all that follows from it in the same step. `again`: print unchanged lines as well."""
        was_connected, old_pdsk, old_alone = self.connected, self.pdsk, self._alone()
        old_role, old_disk, old_state = self.role, self.dstate, self.cstate
        for name, value in new.items():
            setattr(self, name, value)
        if not self.connected:
            self.peer_role = "Unknown"
            if rank(self.pdsk) > rank("DUnknown") or rank(self.pdsk) < rank("Inconsistent"):
                self.pdsk = "DUnknown"
        alone = self._alone()
        if alone and not old_alone and self.conf.fencing() == "resource-and-stonith":
            self.susp_fen = True
        lost = old_pdsk not in ("DUnknown", "Outdated") and self.pdsk in ("DUnknown", "Outdated")
        if lost and self.role == "Primary" and not self.disk.meta.bitmap and self.dstate == "UpToDate":
            if self.suspended:
                self.new_uuid_due = True
            else:
                self._new_uuid()
        self._flags()
        self.publish(again)
        if self.susp_fen:
            if self.connected and not was_connected:  # law 3
                self.new_uuid_due = False
                self._thaw_fencing()
            elif rank(old_pdsk) > rank("Outdated") >= rank(self.pdsk):  # law 2
                if self.new_uuid_due:
                    self._new_uuid()
                self._thaw_fencing()
        elif was_connected and not self.connected:
            self._give_up_pending()
        moved = self.role != old_role or (self.dstate != old_disk and self.cstate == old_state == "Connected")
        if self.connected and was_connected and moved:
            self.peer.send(t="state", role=self.role, disk=self.dstate)

    def publish(self, again: bool = False) -> None:
        """Tells `events2` what changed."""
        view = views.view(self)
        if lines := views.changes(self._shown, view, again):
            self._publish(lines)
        self._shown = view

    def log(self, text: str) -> None:
        """One line in the words of the kernel log."""
        self._log.write(f"{views.timestamp()} {self.node} {self.name}: {text}\n")
        print(f"drbd {self.name}: {text}", file=sys.stderr, flush=True)

    def _alone(self) -> bool:
        """A Primary without a peer that is known to be no better than Outdated."""
        return self.role == "Primary" and not self.connected and rank(self.pdsk) > rank("Outdated")

    def _new_uuid(self) -> None:
        self.disk.meta.new_current()
        self.new_uuid_due = False
        self.log(f"new current UUID {self.disk.meta.current:016X}:{self.disk.meta.bitmap:016X}")

    def _thaw_fencing(self) -> None:
        """Fencing no longer suspends: resend to a peer, or complete alone."""
        self.susp_fen = False
        self._flags()
        self.publish()
        self.publish(again=True)
        if self.connected:
            for number, request in self.pending.items():
                self._send(number, request)
        else:
            self._give_up_pending()
        self._wake()

    def _wake(self) -> None:
        if self.suspended:
            self.thawed.clear()
        else:
            self.thawed.set()

    def _flags(self) -> None:
        """Metadata follows the state."""
        meta = self.disk.meta
        if rank(self.dstate) >= rank("Inconsistent"):
            meta.consistent = rank(self.dstate) > rank("Inconsistent")
            meta.was_uptodate = rank(self.dstate) > rank("Outdated")
        meta.primary, meta.connected = self.role == "Primary", self.connected
        meta.peer_outdated = self.pdsk in ("Inconsistent", "Outdated")
        meta.crashed_primary = self.crashed
        self.disk.save()
        self._wake()

    # -- application I/O -----------------------------------------------------------------------------------------------

    async def write(self, block: int, mark: str) -> None:
        """One application write; returns when it is acknowledged, however long I/O is suspended."""
        while self.suspended:
            await self.thawed.wait()
        self._serial = number = self._serial + 1
        request = Request(block, mark, asyncio.get_running_loop().create_future())
        self.disk.write(block, mark)
        self.written += RECORD_KIB
        self.pending[number] = request
        if self.connected:
            self._send(number, request)
        else:
            self.disk.mark({block})
            self.acknowledge(number)
        self.stat()
        await request.done

    def acknowledge(self, number: int) -> None:
        """The write is safe where it must be: the application hears of it."""
        request = self.pending.pop(number, None)
        if request is not None:
            self.completed += 1
            request.done.set_result(None)
            self.stat()

    def _send(self, number: int, request: Request) -> None:
        if not request.sent:
            self.sent += RECORD_KIB
        request.sent = True
        self.peer.send(t="write", n=number, b=request.block, h=request.mark)

    def tear_pending(self) -> None:
        """The peer that had these requests is gone for good: they count as out of sync."""
        self.disk.mark({request.block for request in self.pending.values()})

    def _give_up_pending(self) -> None:
        self.tear_pending()
        for number in list(self.pending):
            self.acknowledge(number)

    def stat(self) -> None:
        """Writes /sys/block/drbdN/stat: completed application writes only, as a Primary's moves (facts, row 7)."""
        if self._stat is None:
            return
        fields = [0] * 17
        fields[4], fields[6], fields[8] = self.completed, self.completed * RECORD_KIB * 2, len(self.pending)
        line = " ".join(f"{value:>8}" for value in fields) + "\n"
        os.pwrite(self._stat, line.encode(), 0)

    # -- life ----------------------------------------------------------------------------------------------------------

    def attach(self, sysblock: Path) -> None:
        """`drbdadm up`, first half: the disk. A Primary that lost power becomes a crashed one."""
        stat = sysblock / f"drbd{self.minor}" / "stat"
        stat.parent.mkdir(parents=True, exist_ok=True)
        self._stat = os.open(stat, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.stat()
        self.publish()
        meta = self.disk.meta
        self.crashed = meta.primary or meta.crashed_primary
        self.change(dstate="Attaching")
        if meta.peer_outdated:
            self.pdsk = "Outdated"
        state = "Inconsistent" if not meta.consistent else "Consistent" if meta.was_uptodate else "Outdated"
        if state == "Consistent" and (self.pdsk == "Outdated" or self.conf.fencing() == "dont-care"):
            state = "UpToDate"
        self.change(dstate=state)

    async def down(self, sysblock: Path) -> None:
        """`drbdadm down`. Raises Refused."""
        self.demote()
        if self.cstate != "StandAlone":
            await self.disconnect()
        self.change(dstate="Diskless")
        for task in self.tasks:
            task.cancel()
        await self.peer.close()
        if self._stat is not None:
            os.close(self._stat)
            (sysblock / f"drbd{self.minor}" / "stat").unlink()
            (sysblock / f"drbd{self.minor}").rmdir()
        self._publish(views.removal(self._shown))
        self.disk.close()
        self._log.close()

    def connect(self, discard: bool) -> None:
        """StandAlone -> waiting for the peer; counters start again."""
        self.sent = self.received = 0
        self.configured = True
        self.publish()
        self.change(cstate="Unconnected")
        self.change(cstate="WFConnection")
        self.peer.start(discard)

    async def disconnect(self) -> None:
        """`drbdadm disconnect`: in order, so that under fencing the side that is no Primary becomes Outdated."""
        changes: dict[str, object] = {"cstate": "Disconnecting"}
        if self.connected and self.conf.fencing() != "dont-care" and "Primary" in (self.role, self.peer_role):
            if self.role == "Primary" and await self.peer.request("outdate"):
                changes["pdsk"] = "Outdated"
            elif self.peer_role == "Primary":
                await self.peer.request("leaving")
                changes["dstate"] = "Outdated" if rank(self.dstate) > rank("Outdated") else self.dstate
        await self.peer.stop("disconnect")
        if self.cstate != "StandAlone":
            self.change(**changes)
            self.stand_alone()

    def stand_alone(self) -> None:
        """The connection and its objects go away."""
        self.change(cstate="StandAlone")
        self.configured = False
        self.publish()

    # -- roles ---------------------------------------------------------------------------------------------------------

    async def promote(self, force: bool) -> None:
        """`drbdadm primary`: at most four tries, each of which may call the handler. Raises Refused."""
        wanted, forced, tries, code = "", False, 0, 0  # wanted: the disk state to take on with the role
        while tries < 4:
            tries += 1
            code = await self._may_promote(wanted or self.dstate)
            if code == 0:
                break
            if code == -2 and force and not forced and self.dstate in ("Inconsistent", "Outdated", "Consistent"):
                wanted, forced = "UpToDate", True
            elif code == -2 and self.dstate == "Consistent" and not wanted:
                if await self.try_outdate():
                    wanted = "UpToDate"
            elif code == -7:
                if not await self.try_outdate() and force:
                    self.log("Forced into split brain situation!")
                    self.change(pdsk="Outdated")
            elif code == -1:  # perhaps the peer is just dying
                await asyncio.sleep(self.peer.ping_timeout)
                tries = max(tries, 3)
            else:
                break
        if code:
            raise Refused(code)
        if self.role == "Primary":
            return
        self.role, self.crashed = "Primary", False
        meta = self.disk.meta
        if forced or ((not self.connected or rank(self.pdsk) <= rank("Failed")) and not meta.bitmap):
            self._new_uuid()
        self.change(dstate=wanted or self.dstate)  # bit 0 of current is not on the disk yet, as recorded (01-e)
        meta.current |= 1
        if not self.connected:
            self.disk.save()
        self.peer.send(t="state", role=self.role, disk=self.dstate)
        if forced and self.connected and self.pdsk == "Inconsistent":
            self.peer.send(t="uuids", **self.peer.side())
            self.peer.become_source(full=True)

    async def _may_promote(self, disk: str) -> int:
        """0, or why not."""
        if self.role == "Primary":
            return 0
        if self.peer_role == "Primary":
            return -1
        if not self.connected and disk != "UpToDate":
            return -2
        if not self.connected and self.conf.fencing() != "dont-care" and rank(self.pdsk) >= rank("DUnknown"):
            return -7
        if rank(disk) <= rank("Inconsistent") and rank(self.pdsk) <= rank("Inconsistent"):
            return -2
        if self.connected and not await self.peer.request("primary"):
            return -1 if self.peer_role == "Primary" else -10
        return 0

    def demote(self) -> None:
        """`drbdadm secondary`. Raises Refused while someone has the device open."""
        if self.role == "Secondary":
            return
        if self.open_count:
            raise Refused(-12)
        self.disk.meta.current &= ~1
        self.change(role="Secondary")

    def outdate(self) -> None:
        """`drbdadm outdate`. Raises Refused."""
        if self.dstate == "Outdated":
            return
        if rank(self.dstate) < rank("Outdated"):
            raise Refused(-18)
        if self.role == "Primary":
            raise Refused(-2)
        if self.connected:
            raise Refused(-6)
        self.change(dstate="Outdated")

    def suspend_io(self) -> None:
        """`drbdsetup suspend-io`."""
        self.change(susp_user=True)

    def resume_io(self) -> None:
        """`drbdsetup resume-io`: ends both suspensions, and pays a generation that is due (law 5)."""
        if self.new_uuid_due:
            self._new_uuid()
        self.change(susp_user=False, susp_fen=False)
        if not self.connected:
            self._give_up_pending()

    # -- the handler ---------------------------------------------------------------------------------------------------

    async def try_outdate(self) -> bool:
        """Calls `fence-peer` and obeys its code; True if the peer is now known to be no better than Outdated."""
        if self.conf.fencing() == "dont-care":
            return False
        count = self.connect_count
        code = await self.helper("fence-peer")
        new: dict[str, object] = {}
        if code in (4, 7):
            new = {"pdsk": "Outdated"}
        elif code == 3:  # not measured: from drbd.conf(5)
            new = {"pdsk": "Inconsistent"}
        elif code == 5 and self.dstate == "UpToDate":
            new = {"pdsk": "Outdated"}
        elif code == 6:
            self.log("Peer is primary, outdating myself")
            if self.role == "Secondary" and rank(self.dstate) > rank("Outdated"):
                new = {"dstate": "Outdated"}
        else:
            self.log(f"fence-peer helper broken, returned {code}")
        if new and (self.connect_count != count or self.connected or self.cstate == "WFReportParams"):
            self.log("Ignoring fence-peer exit code")
        elif new:
            self.change(**new)
        return rank(self.pdsk) <= rank("Outdated")

    def lost(self) -> None:
        """After every end of a connection: a Primary that does not know its peer as Outdated asks the handler."""
        if self.role == "Primary" and rank(self.pdsk) >= rank("DUnknown") and self.conf.fencing() != "dont-care":
            self.spawn(self.try_outdate())

    async def helper(self, name: str, volume: bool = False) -> int:
        """Runs one configured handler as the kernel does (through a shell); its exit code, 0 if none is configured."""
        where = f"name:{self.name} peer-node-id:0" + (" conn-name:peer" if self.configured else "")
        where += f" volume:0 minor:{self.minor}" if volume else ""
        self._publish([f"call helper {where} helper:{name}"])
        self.log(f"helper command: /sbin/drbdadm {name} {self.name}")
        command, code = self.conf.option("handlers", name), 0
        if command is not None:
            peer = self.conf.hosts[self.peer_node]
            env = {"HOME": "/", "TERM": "linux", "PATH": SYSTEM_PATH}
            env |= {"DRBD_CONF": str(resconf.conf_path()), "DRBD_RESOURCE": self.name, "DRBD_MINOR": str(self.minor)}
            env |= {"DRBD_PEER": self.peer_node, "DRBD_PEERS": self.peer_node, "DRBD_PEER_AF": peer.family}
            env |= {"DRBD_PEER_ADDRESS": peer.address, "DRBD_DONT_WARN_ON_VERSION_MISMATCH": "1"}
            shell = ["/bin/sh", "-c", command]
            child = await asyncio.create_subprocess_exec(
                *shell, env=env, stdin=subprocess.DEVNULL, start_new_session=True
            )
            code = await child.wait()
            code = 20 if code < 0 else code  # killed by a signal: drbdadm's own failure code
        self.log(f"helper command: /sbin/drbdadm {name} {self.name} exit code {code} (0x{code << 8:x})")
        self._publish([f"response helper {where} helper:{name} status:{code << 8}"])
        return code

    def spawn(self, work: object) -> None:
        """Runs a coroutine beside the rest."""
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
