"""Pacemaker as seen and handled from this node: `guard.ports.Cluster` by way of Pacemaker's own programs.

1. Everything is read from this node's own copy (`cibadmin --local`, crm_mon): after a partition the copies differ.
2. The configuration is written only as a patch against the very version that was read; if anything changed in
   between, Pacemaker answers 103 and the edit is made again on the new version, a bounded number of times.
3. A write that met its deadline may still happen: Pacemaker blocks writes while the token is lost and carries them
   out after (measured with 2.1.5: the asker was killed at its deadline, the hold was there 1.5 s later). False means
   "not proven", never "not written"; what counts is the next `view`.
4. A forecast is believed only after `self_test`: the same scheduler must fence where fencing is certain.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from guard.adapters import cib
from guard.adapters.process import Ran, Runner
from guard.core.evidence import SHOTS_UNREAD, ClusterView, Forecast, PendingShot, Up, unseen_cluster
from guard.core.instant import Instant, after
from guard.errors import PairguardError, Unavailable
from guard.ports import Clock

CRM_EX_OK = 0
CRM_EX_DISCONNECT = 102  # results.h: no connection to the cluster, that is Pacemaker does not run here
CRM_EX_OLD = 103  # results.h: the configuration changed since it was read
PCMK_ERR_OLD_DATA = 205  # the same from Pacemaker 1.1; LINBIT's crm-fence-peer.9.sh retries on both
CONFLICT_CODES = frozenset({CRM_EX_OLD, PCMK_ERR_OLD_DATA})
CAS_TRIES_MAX = 8  # a busy cluster bumps num_updates with every status change
CAS_PAUSE_S = (0.02, 0.15)  # jitter between tries, so that two guards do not collide for ever
PURGE_POLL_S = 0.2


class Pacemaker:
    """`guard.ports.Cluster`. `promotable`: ids of the clones whose promoted role is the pair's service.

    `deadline_s` bounds every public call as a whole; a purge (do, undo) and a forecast (test, ask) may take it twice.
    `trouble` says for people why the last view has UNKNOWN in it, or why the last hand said False; None = all well.
    """

    def __init__(
        self,
        node: str,
        peer: str,
        *,
        clock: Clock,
        run: Runner,
        promotable: Sequence[str] = (),
        deadline_s: float = 5.0,
    ) -> None:
        self._node, self._peer = node, peer
        self._clock, self._run = clock, run
        self._promotable = tuple(promotable)
        self._deadline_s = deadline_s
        self._removed_default = False
        self._proven: bool = False
        self.trouble: str | None = None

    # ------------------------------------------------------------ seeing

    async def view(self) -> ClusterView:
        """One sighting; never raises for the world. What could not be read is UNKNOWN, None, or `SHOTS_UNREAD`."""
        at, until = self._clock.now(), self._until()
        mon, config, history = await asyncio.gather(
            self._ask(MONITOR, until),
            self._ask(["cibadmin", "--query", "--local"], until),
            self._ask(HISTORY, until),
        )
        troubles = [answer for answer in (mon, config, history) if isinstance(answer, PairguardError)]
        self.trouble = str(troubles[0]) if troubles else None
        if isinstance(mon, PairguardError) or isinstance(config, PairguardError):
            return unseen_cluster(at)
        if CRM_EX_DISCONNECT in (mon.code, config.code):
            self.trouble = "Pacemaker does not answer on this node"
            return unseen_cluster(at, Up.DOWN)
        try:
            return self._seen(at, mon, config, history)
        except PairguardError as error:
            self.trouble = str(error)
            return unseen_cluster(at)

    async def pending(self) -> Sequence[PendingShot]:
        """Shots that the fencer holds, delayed or running. Raises `Unavailable` or `Unreadable`: then nobody knows."""
        return await self._pending(self._until())

    async def forecast(self, *, lost: str | None, without_hold: bool) -> Forecast:
        """What Pacemaker's own scheduler would do with a copy of this node's configuration and state.

        `without_hold` takes our property set and our purge marks out of the copy, as a release would.
        """
        until = self._until()
        try:
            untrusted = await self.self_test()
            if untrusted is not None:
                return Forecast(error=f"the scheduler failed its test: {untrusted}")
            root = cib.document(await self._query(until), "cibadmin --query")
            if lost is not None and lost not in cib.node_names(root):  # crm_simulate would abort
                return Forecast(error=f"the cluster knows no node {lost}")
            if without_hold:
                cib.take_hold(root, cib.ANY_HOLD)
                cib.unmark_purge(root)
            return await self._simulate(root, lost, (self._node, self._peer), until)
        except PairguardError as error:
            return Forecast(error=str(error))

    async def self_test(self) -> str | None:
        """None if the scheduler fences a lost node of a bundled cluster, and does not under maintenance; else why.

        A good result is kept for the lifetime of this object; a bad one is tried again at the next call.
        """
        if self._proven:
            return None
        until = self._until()
        bare, held = cib.document(PROBE, "the bundled probe"), cib.document(PROBE, "the bundled probe")
        cib.put_hold(held, "probe")
        try:
            fences, holds, idle = await asyncio.gather(
                self._simulate(bare, PROBE_LOST, PROBE_NODES, until),
                self._simulate(held, PROBE_LOST, PROBE_NODES, until),
                self._simulate(bare, None, PROBE_NODES, until),
            )
        except PairguardError as error:
            return str(error)
        broken = next((forecast.error for forecast in (fences, holds, idle) if forecast.error is not None), None)
        if broken is not None:
            return broken
        if fences.fences != {PROBE_LOST} or not fences.stops:
            return "a lost node with services on it was not fenced, or not it alone"
        if not holds.harmless():
            return "maintenance did not stop the fencing"
        if idle.fences:  # stops are allowed: the probe's history carries no parameter digests
            return "a node of a healthy cluster was fenced"
        self._proven = True
        return None

    # ------------------------------------------------------------ the hold

    async def set_hold(self, hold_id: str) -> bool:
        """Our property set with the mode and `hold_id`. An id of ours that is already there is replaced.

        True: written (or there already). Whether it is in force only `view` can say.
        """
        self._removed_default, self.trouble = False, None
        if not hold_id or hold_id == cib.ANY_HOLD:
            return False
        done = await self._edit(lambda root: cib.put_hold(root, hold_id))
        self._removed_default = done is not None and done.removed_default
        return done is not None

    def removed_default(self) -> bool:
        """True if the last `set_hold` took an explicit `maintenance-mode=false` out of the bootstrap options.

        To be journaled; it is Pacemaker's default, so nothing has to be put back.
        """
        return self._removed_default

    async def clear_hold(self, hold_id: str) -> bool:
        """Remove our property set if it carries `hold_id` ("*": whichever). True: it is not there any more."""
        self.trouble = None
        return await self._edit(lambda root: cib.take_hold(root, hold_id)) is not None

    async def bar(self, node: str, *, on: bool) -> bool:
        """The promoted role never on `node`. False without promotable clones, or if one is not configured."""
        self.trouble = None
        if on:
            return await self._edit(lambda root: cib.put_bar(root, node, self._promotable)) is not None
        return await self._edit(lambda root: cib.take_bar(root, node)) is not None

    # ------------------------------------------------------------ queued shots

    async def purge(self, shot: PendingShot) -> bool:
        """Take a delayed shot out of the fencer by stopping the devices that could carry it out, then give them back.

        Only under our own hold: refused unless maintenance is in force here and our property set is in the very
        version that is patched, because without them the scheduler would ask for the shot again. A shot whose
        agent already runs cannot be taken back (False). The marks are in the configuration itself: `restore_devices`
        undoes them after a crash; call it at every start and before every release.
        """
        if shot == SHOTS_UNREAD:
            return False
        self.trouble, until = None, self._until()
        try:
            if not _listed(shot, await self._pending(until)):
                return True
            mon = await self._run(MONITOR, deadline_s=self._left(until))
            if cib.monitor(mon.out).maintenance is not True:
                self.trouble = "a shot is purged only while maintenance is in force"
                return False
            listed = await self._run(
                ["stonith_admin", "--list", shot.target, "--output-as=xml"], deadline_s=self._left(until)
            )
            wanted = cib.devices(listed.out)
            if await self._edit(lambda root: cib.mark_purge(root, wanted), until) is None:
                return False
            while _listed(shot, await self._pending(until)):
                await self._clock.sleep(PURGE_POLL_S)
            return True
        except PairguardError as error:
            self.trouble = str(error)
            return False
        finally:
            await self.restore_devices()

    async def restore_devices(self) -> bool:
        """Give back every fence device that a purge stopped. True: no mark of ours is left."""
        return await self._edit(cib.unmark_purge) is not None

    # ------------------------------------------------------------ private

    def _seen(self, at: Instant, mon: Ran, config: Ran, history: Ran | PairguardError) -> ClusterView:
        monitor, root = cib.monitor(mon.out), cib.document(config.out, "cibadmin --query")
        controllers = cib.controllers(root)
        try:
            pending: tuple[PendingShot, ...] = (SHOTS_UNREAD,)
            if not isinstance(history, PairguardError):
                pending = cib.shots(history.out)
        except PairguardError as error:
            self.trouble = str(error)
        known = [monitor.promoted.get(clone) for clone in self._promotable]
        return ClusterView(
            at=at,
            controller=_both(monitor.online.get(self._node), controllers.get(self._node)),
            peer_controller=_both(monitor.online.get(self._peer), controllers.get(self._peer)),
            maintenance=monitor.maintenance,
            ours=cib.our_hold(root),
            persons_maintenance=cib.persons_maintenance(root, effective=monitor.maintenance),
            managed=monitor.managed,
            failed_stop=any(
                node == self._node and cib.fenced_stop(root, resource, fencing=monitor.fencing)
                for resource, node in monitor.failed_stops
            ),
            unclean=monitor.unclean,
            pending=pending,
            active_here=_active(known, self._node),
        )

    async def _pending(self, until: Instant) -> tuple[PendingShot, ...]:
        ran = await self._run(HISTORY, deadline_s=self._left(until))
        return cib.shots(ran.out)

    async def _query(self, until: Instant) -> str:
        ran = await self._run(["cibadmin", "--query", "--local"], deadline_s=self._left(until))
        if ran.code != CRM_EX_OK:
            raise Unavailable("cannot read the cluster's configuration", _said(ran))
        return ran.out

    async def _edit(self, change: Callable[[Element], cib.Edit], until: Instant | None = None) -> cib.Edit | None:
        """Compare and swap. None: not allowed, or not proven to be written."""
        until = until or self._until()
        try:
            for _ in range(CAS_TRIES_MAX):
                old = cib.document(await self._query(until), "cibadmin --query")
                before = cib.dump(old)
                edit = change(old)
                if not edit.allowed:
                    self.trouble = "this edit is not allowed on the cluster's present configuration"
                    return None
                if not edit.changed:
                    return edit
                cib.next_epoch(old)
                patch = await self._difference(before, cib.dump(old), until)
                code = await self._patch(patch, until)
                if code == CRM_EX_OK:
                    return edit
                if code not in CONFLICT_CODES:
                    return None
                await self._clock.sleep(self._clock.jitter(*CAS_PAUSE_S))
        except PairguardError as error:
            self.trouble = str(error)
        return None

    async def _difference(self, before: str, later: str, until: Instant) -> str:
        try:
            with tempfile.TemporaryDirectory(prefix="pairguard-") as folder:  # mode 0700: it may hold passwords
                argv = ["crm_diff", "--original", _stored(folder, "old.xml", before)]
                argv += ["--new", _stored(folder, "new.xml", later)]
                ran = await self._run(argv, deadline_s=self._left(until))
        except OSError as error:
            raise Unavailable("cannot make a patch", str(error), f"make room: df {tempfile.gettempdir()}") from error
        if "<diff" not in ran.out:  # crm_diff answers 1 where the two differ
            raise Unavailable("cannot make a patch", _said(ran))
        return ran.out

    async def _patch(self, patch: str, until: Instant) -> int:
        ran = await self._run(["cibadmin", "--patch", "--xml-pipe"], deadline_s=self._left(until), stdin=patch.encode())
        if ran.code not in CONFLICT_CODES and ran.code != CRM_EX_OK:
            self.trouble = f"the cluster refused our patch: {_said(ran)}"
        return ran.code

    async def _simulate(self, root: Element, lost: str | None, known: Sequence[str], until: Instant) -> Forecast:
        argv = ["crm_simulate", "--xml-pipe", "--simulate", "--output-as=xml"]
        argv += [] if lost is None else [f"--node-fail={lost}"]
        ran = await self._run(argv, deadline_s=self._left(until), stdin=cib.dump(root).encode())
        if ran.code != CRM_EX_OK:
            return Forecast(error=f"crm_simulate failed: {_said(ran)}")
        return cib.forecast(ran.out, known=known, lost=lost, fence_devices=cib.fence_devices(root))

    async def _ask(self, argv: Sequence[str], until: Instant) -> Ran | PairguardError:
        try:
            return await self._run(argv, deadline_s=self._left(until))
        except PairguardError as error:
            return error

    def _until(self) -> Instant:
        return after(self._clock.now(), self._deadline_s)

    def _left(self, until: Instant) -> float:
        """Seconds left. Raises `Unavailable` when they are over."""
        seconds = (until - self._clock.now()) / 1e9
        if seconds <= 0:
            raise Unavailable("cannot ask the cluster", f"no answer within {self._deadline_s:g} s")
        return seconds


def _both(one: Up | None, other: Up | None) -> Up:
    """UP only if both sources say so, DOWN if either does."""
    if Up.DOWN in (one, other):
        return Up.DOWN
    return Up.UP if one is Up.UP and other is Up.UP else Up.UNKNOWN


def _active(where: Sequence[frozenset[str] | None], node: str) -> bool | None:
    """None if no clone was named or one is not configured and none of the others is promoted here."""
    if any(nodes is not None and node in nodes for nodes in where):
        return True
    return None if not where or None in where else False


def _listed(shot: PendingShot, shots: Sequence[PendingShot]) -> bool:
    """The same shot: a client's later request for the same action on the same target counts as the same."""
    return any(s.target == shot.target and s.action == shot.action and s.client == shot.client for s in shots)


def _stored(folder: str, name: str, text: str) -> str:
    path = Path(folder, name)
    path.write_text(text, encoding="utf-8")
    return str(path)


def _said(ran: Ran) -> str:
    """The last line that a program said, with its exit code."""
    lines = [line.strip() for line in (ran.err or ran.out).splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'no words'} (exit code {ran.code})"


MONITOR = ("crm_mon", "--output-as=xml", "--one-shot")
HISTORY = ("stonith_admin", "--history", "*", "--verbose", "--output-as=xml")  # without --verbose: no pending ones

PROBE_NODES = ("probe-a", "probe-b")
PROBE_LOST = "probe-b"


def _probe_state(number: int, node: str, running: str) -> str:
    magic = f"0:0;{number}:0:0:00000000-0000-0000-0000-000000000000"
    return (
        f'<node_state id="{number}" uname="{node}" in_ccm="true" crmd="online" join="member" expected="member">'
        f'<lrm id="{number}"><lrm_resources><lrm_resource id="{running}" type="Dummy" class="ocf" provider="pacemaker">'
        f'<lrm_rsc_op id="{running}_last_0" operation_key="{running}_start_0" operation="start" '
        f'crm_feature_set="3.0.14" transition-key="{magic[4:]}" transition-magic="{magic}" on_node="{node}" '
        f'call-id="1" rc-code="0" op-status="0" interval="0"/>'
        "</lrm_resource></lrm_resources></lrm></node_state>"
    )


PROBE = (
    '<cib crm_feature_set="3.0.14" validate-with="pacemaker-3.0" admin_epoch="0" epoch="1" num_updates="0" '
    'have-quorum="1" dc-uuid="1"><configuration><crm_config><cluster_property_set id="cib-bootstrap-options">'
    '<nvpair id="probe-fencing" name="stonith-enabled" value="true"/>'
    '<nvpair id="probe-probes" name="enable-startup-probes" value="false"/></cluster_property_set></crm_config>'
    '<nodes><node id="1" uname="probe-a"/><node id="2" uname="probe-b"/></nodes><resources>'
    '<primitive id="probe-device" class="stonith" type="fence_dummy"/>'  # without one the scheduler starts nothing
    '<primitive id="probe-fs-a" class="ocf" provider="pacemaker" type="Dummy"/>'
    '<primitive id="probe-fs-b" class="ocf" provider="pacemaker" type="Dummy"/></resources>'
    "<constraints/></configuration><status>"
    + _probe_state(1, "probe-a", "probe-fs-a")
    + _probe_state(2, "probe-b", "probe-fs-b")
    + "</status></cib>"
)
"""A cluster of two nodes with a service on each: losing one must fence it (positive control of `self_test`)."""
