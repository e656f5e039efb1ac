"""The replicated resources of this node (`guard.ports.Replication`): asks the DRBD tools, joins their answers.

1. The module's version is looked up before any parser is chosen: the 8.4 tools have no JSON.
2. One resource that cannot be read is UNKNOWN in all that could not be read; it never spoils the others.
3. Nothing here loads the kernel module, and nothing but `suspend`, `resume` and `outdate` changes anything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from guard.adapters import process
from guard.adapters.drbd_config import configured, gate_facts, running
from guard.adapters.drbd_meta import MetaData, fold_generations, parse_get_gi, stale
from guard.adapters.drbd_text import (
    Event,
    Resource,
    connection_link,
    disk_of,
    parse_event,
    parse_proc_version,
    parse_status,
    parse_status_json,
    parse_tool_version,
    worst_disk,
    worst_link,
)
from guard.core.evidence import Disk, GateFacts, Link, Replica, Role, Suspended, Volumes
from guard.errors import Unavailable, Unreadable
from guard.ports import Clock

UNVERIFIED_9 = "DRBD 9 JSON never tried on a real module"
NO_SUCH = 10  # exit code of drbdsetup beside "No such resource" (captured)
READ_S_MAX = 5.0  # one tool answers in milliseconds; drbdadm waits for a lock of another drbdadm at most this long
HAND_S_MAX = 10.0  # suspend-io, resume-io, outdate: metadata is written
EVENTS = ("drbdsetup", "events2", "all", "--timestamps", "--statistics")
RESTART_S_MIN, RESTART_S_MAX = 0.5, 10.0  # between two starts of a dying event stream


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel says now. A name that is missing could not be asked or read; None: it is not configured."""

    version: tuple[int, int] | None  # None: unknown, or the module is not loaded
    resources: Mapping[str, Resource | None] = field(default_factory=dict)

    def nine(self) -> bool:
        return self.version is not None and self.version[0] >= 9


class Drbd:
    """`guard.ports.Replication` for DRBD 8.4, and, giving no right, for DRBD 9.

    `resources` are DRBD's names, in the order in which they are reported.
    """

    def __init__(
        self,
        resources: Sequence[str],
        clock: Clock,
        run: process.Runner = process.run,
        lines: process.Streamer = process.lines,
        proc_drbd: Path = Path("/proc/drbd"),
        sys_module: Path = Path("/sys/module/drbd"),
    ) -> None:
        self._names = tuple(resources)
        self._clock = clock
        self._run = run
        self._lines = lines
        self._proc_drbd = proc_drbd
        self._sys_module = sys_module

    # ------------------------------------------------------------ watching

    async def read(self) -> Volumes:
        """The whole state now; never raises. `at` is the moment before the first question.

        A resource that the kernel does not have reads DOWN and SECONDARY (it cannot write), with generations, flags
        and disk from its metadata.
        """
        at = self._clock.now()
        kernel, dump = await asyncio.gather(self.kernel(), self._text("drbdadm", "dump"))
        replicas = await asyncio.gather(*(self._replica(name, kernel, dump) for name in self._names))
        return Volumes(at, tuple(replicas))

    async def changes(self) -> AsyncIterator[Volumes]:
        """The whole at once, then after every change; after a gap in the event stream the whole again, for ever.

        What an event says of a lost connection or disk is passed on before the tools are asked again.
        """
        pause_s = RESTART_S_MIN
        while True:
            last = await self.read()
            yield last
            try:
                # starts when it is first asked, so what changed since `read` is in its initial dump
                async with aclosing(self._lines(EVENTS)) as batches:
                    async for batch in batches if self._loaded() else _none():
                        pause_s = RESTART_S_MIN
                        if (lost := self._lost(last, batch)) is not None:
                            yield lost
                        last = await self.read()
                        yield last
            except Unavailable:
                pass  # the next turn starts with the whole, which says what cannot be read
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S_MAX)

    async def stored(self) -> Volumes:
        """From metadata, without the kernel: to be read before `drbdadm up`, which rewrites flags.

        `role` is who was Primary when power went. A resource whose device is attached already reads UNKNOWN.
        """
        at = self._clock.now()
        replicas = await asyncio.gather(*(self._stored(name) for name in self._names))
        return Volumes(at, tuple(replicas))

    async def kernel(self) -> Kernel:
        """What the kernel itself says; also the source of minors and received bytes for the write counters."""
        try:
            version, loaded = await self._version()
        except (Unavailable, Unreadable):
            return Kernel(None)
        if not loaded:
            return Kernel(version, dict.fromkeys(self._names))
        if version is None:
            return Kernel(None)
        asked = await asyncio.gather(*(self._status(name, nine=version[0] >= 9) for name in self._names))
        return Kernel(version, {name: one for name, (known, one) in zip(self._names, asked, strict=True) if known})

    async def _status(self, name: str, *, nine: bool) -> tuple[bool, Resource | None]:
        """(True, the resource or None if the kernel does not have it), or (False, None): not to be read."""
        ran = await self._ran("drbdsetup", "status", name, "--json" if nine else "--verbose", "--statistics")
        if ran is None:
            return False, None
        if ran.code == NO_SUCH and f"{name}: No such resource" in ran.out + ran.err:
            return True, None
        try:
            found = (parse_status_json if nine else parse_status)(ran.out)
        except Unreadable:
            return False, None
        ours = ran.code == 0 and len(found) == 1 and found[0].name == name
        return ours, found[0] if ours else None

    # ------------------------------------------------------------ hands

    async def suspend(self) -> bool:
        """`suspend-io` on every volume of every resource. True only if the kernel, asked anew, then shows each one
        `suspended:user`, or says that it does not have it: what is down writes nothing. See `read`.
        """
        await self._each_minor("suspend-io")
        found = (await self.kernel()).resources
        return bool(self._names) and all(
            name in found and (one is None or (one.suspended is not None and Suspended.USER in one.suspended))
            for name, one in ((name, found.get(name)) for name in self._names)
        )

    async def resume(self) -> bool:
        """`resume-io` on every volume. True only if no resource is suspended by a person or by us any more.

        After a break of the connection compare both ends' generations first (DESIGN.md section 4, Yield). False, and
        nothing is done, while fencing has suspended one too: `resume-io` would thaw that as well (measured).
        """
        if not await self._none_suspended(Suspended.FENCING):
            return False
        await self._each_minor("resume-io")
        return await self._none_suspended(Suspended.USER)

    async def outdate(self) -> bool:
        """`drbdadm outdate`. True if then every disk reads Outdated or worse, or its resource is connected or down.

        DRBD refuses while connected: the peer's data decide then. One that is down stays as it is until it is up.
        """
        for name in self._names:
            await self._text("drbdadm", "outdate", name, deadline_s=HAND_S_MAX)
        replicas = (await self.read()).replicas
        worse, not_now = {Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS}, {Link.CONNECTED, Link.RESYNC, Link.DOWN}
        return bool(replicas) and all(one.disk in worse or one.link in not_now for one in replicas)

    async def _each_minor(self, command: str) -> None:
        for one in (await self.kernel()).resources.values():
            for minor in (one.minors() or ()) if one is not None else ():
                await self._text("drbdsetup", command, str(minor), deadline_s=HAND_S_MAX)

    async def _none_suspended(self, by: Suspended) -> bool:
        """Every resource could be read, and none is suspended `by` this; one that is down is not suspended."""
        found = (await self.kernel()).resources
        return all(
            name in found and (one is None or (one.suspended is not None and by not in one.suspended))
            for name, one in ((name, found.get(name)) for name in self._names)
        )

    # ------------------------------------------------------------ one resource

    async def _replica(self, name: str, kernel: Kernel, dump: str | None) -> Replica:
        unverified = UNVERIFIED_9 if kernel.nine() else None
        if name not in kernel.resources:
            return Replica(name, suspended=None, unverified=unverified)
        one = kernel.resources[name]
        if one is None:
            down = Replica(name, role=Role.SECONDARY, link=Link.DOWN, unverified=unverified)
            stored = await self._stored(name)
            return replace(
                down,
                disk=stored.disk,
                generations=stored.generations,
                was_up_to_date=stored.was_up_to_date,
                unverified=unverified or stored.unverified,
            )
        data, show = await asyncio.gather(
            self._meta_data(one), self._text("drbdsetup", "show", name, "--show-defaults")
        )
        return Replica(
            name,
            role=one.role,
            peer_role=one.peer_role(),
            disk=one.disk(),
            peer_disk=one.peer_disk(),
            link=one.link(),
            generations=fold_generations([each.generations for each in data]),
            suspended=one.suspended,
            gate=self._gate(name, dump, show),
            open_count=one.open_count(),
            out_of_sync_kib=one.out_of_sync_kib(),
            was_up_to_date=all(each.was_up_to_date for each in data) if data else None,
            unverified=unverified,
        )

    async def _meta_data(self, one: Resource) -> tuple[MetaData, ...]:
        """Of every volume in order, as the running kernel knows them; empty if one of them cannot be read.

        The flags are of the same moment as the identifiers: if they contradict the link and role read just before,
        the state changed between the two questions and the identifiers belong to another moment.
        """
        connected, primary = one.link() in {Link.CONNECTED, Link.RESYNC}, one.role is Role.PRIMARY
        found: list[MetaData] = []
        for minor in one.minors() or ():
            text = await self._text("drbdsetup", "get-gi", str(minor))
            try:
                found += parse_get_gi(text or "")
            except Unreadable:
                return ()
        whole = len(found) == len(one.volumes)
        same = all(each.connected == connected and each.primary == primary for each in found)
        return tuple(found) if whole and same else ()

    async def _stored(self, name: str) -> Replica:
        """From metadata only; UNKNOWN if it cannot be found or read, or if the device is attached."""
        unknown = Replica(name, suspended=None)
        plan = await self._text("drbdadm", "--dry-run", "get-gi", name)
        places = _places(plan or "")
        data: list[MetaData] = []
        for minor, version, device, index in places:
            if version != "v08":
                return replace(unknown, unverified=UNVERIFIED_9)
            ran = await self._ran("drbdmeta", "--force", minor, version, device, index, "get-gi")
            if ran is None or ran.code != 0 or stale(ran.out + ran.err):
                return unknown
            try:
                data += parse_get_gi(ran.out)
            except Unreadable:
                return unknown
        if not data or len(data) != len(places):
            return unknown
        return replace(
            unknown,
            role=Role.PRIMARY if any(each.primary or each.crashed_primary for each in data) else Role.SECONDARY,
            disk=worst_disk(each.disk() for each in data),
            link=Link.DOWN,
            generations=fold_generations([each.generations for each in data]),
            was_up_to_date=all(each.was_up_to_date for each in data),
        )

    def _gate(self, name: str, dump: str | None, show: str | None) -> GateFacts:
        if dump is None or show is None:
            return GateFacts()
        try:
            helper = (self._sys_module / "parameters" / "usermode_helper").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            helper = None
        except (OSError, UnicodeDecodeError):
            return GateFacts()
        try:
            return gate_facts(configured(dump, name), running(show, name), helper)
        except Unreadable:
            return GateFacts()

    def _lost(self, last: Volumes, batch: Sequence[str]) -> Volumes | None:
        """`last` made worse by events, None if none of them says so. Nothing of it is a look of now: what no event
        touched is as it was read before, and an event may have waited while the link came back.

        Under a closed gate a lost connection leaves the generations as they are (facts/drbd-fencing.md: a new one is
        made milliseconds after the handler's answer, not at the cut), so they are kept; otherwise they are not known.
        """
        replicas = {one.resource: one for one in last.replicas}
        for line in batch:
            try:
                worse = _worse(replicas, parse_event(line))
            except Unreadable:
                continue  # the whole, read right after this, says what can be known
            if worse is not None:
                replicas[worse.resource] = worse
        changed = tuple(replicas[one.resource] for one in last.replicas)
        if changed == last.replicas:
            return None
        carried = {one.resource: last.at if one == replicas[one.resource] else None for one in last.replicas}
        return Volumes(self._clock.now(), changed, carried=carried)

    # ------------------------------------------------------------ asking

    def _loaded(self) -> bool:
        """The module is there. Asking the tools without it would load it."""
        return self._proc_drbd.exists() or self._sys_module.exists()

    async def _version(self) -> tuple[tuple[int, int] | None, bool]:
        """The module's version (None: not to be found out) and whether it is loaded. Raises if neither is known."""
        try:
            return parse_proc_version(self._proc_drbd.read_text(encoding="ascii", errors="replace")), True
        except FileNotFoundError:
            if not self._sys_module.parent.is_dir():
                raise Unavailable(f"cannot read {self._proc_drbd}", f"no {self._sys_module.parent} either") from None
            if not self._sys_module.exists():
                return None, False
        except OSError as error:
            raise Unavailable(f"cannot read {self._proc_drbd}", str(error)) from error
        text = await self._text("drbdadm", "--version")
        return (None if text is None else parse_tool_version(text)), True

    async def _ran(self, *argv: str, deadline_s: float = READ_S_MAX) -> process.Ran | None:
        try:
            return await self._run(argv, deadline_s=deadline_s)
        except Unavailable:
            return None

    async def _text(self, *argv: str, deadline_s: float = READ_S_MAX) -> str | None:
        """Standard output of a tool that ended well, else None."""
        ran = await self._ran(*argv, deadline_s=deadline_s)
        return ran.out if ran is not None and ran.code == 0 else None


async def _none() -> AsyncIterator[tuple[str, ...]]:
    """No events at all."""
    return
    yield ()


def _places(plan: str) -> list[tuple[str, str, str, str]]:
    """(minor, version, device, index) of each `drbdmeta` line of `drbdadm --dry-run get-gi`."""
    found = []
    for line in plan.splitlines():
        words = line.split()
        if len(words) >= 6 and PurePosixPath(words[0]).name == "drbdmeta" and re.fullmatch("[0-9]{1,7}", words[1]):
            found.append((words[1], words[2], words[3], words[4]))
    return found


def _worse(replicas: dict[str, Replica], event: Event) -> Replica | None:
    """The replica that this event makes worse, as it is then."""
    one = replicas.get(event.fields.get("name", ""))
    if one is None or event.action not in {"change", "destroy"}:
        return None
    worse = one
    if event.kind == "connection":
        word = event.fields.get("connection")
        link = Link.STANDALONE if event.action == "destroy" else one.link if word is None else connection_link(word)
        worse = replace(worse, link=worst_link([one.link, link]))
    elif event.kind == "device" and "disk" in event.fields:
        worse = replace(worse, disk=worst_disk([one.disk, disk_of(event.fields["disk"])]))
    if worse is not one and worse != one and one.gate.closed() is not True:
        worse = replace(worse, generations=None)
    return None if worse == one else worse
