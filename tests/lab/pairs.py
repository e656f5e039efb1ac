"""A site of N pairs: fabric, power controllers, arbiter and nodes, started together and taken down together."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from tests.lab import guarded
from tests.lab.bmc import PowerControllers
from tests.lab.cluster import Fence, cib, corosync_conf
from tests.lab.fabric import Fabric, address
from tests.lab.freeze import SETTLE_S
from tests.lab.node import Node
from tests.lab.plan import Plan, first_primary, nodes_of
from tests.lab.record import Record
from tests.lab.replicas import replication
from tests.lab.space import LabFailed, Space, boottime
from tests.lab.switches import Switches

POLL_S = 0.25


class Site:
    """Everything of one run: `build` makes it, `start` boots it, `wait_formed` waits for services, `close` ends it."""

    def __init__(self, plan: Plan, record: Record) -> None:
        self.plan, self.record = plan, record
        self.space = Space()
        self.fabric = Fabric(self.space)
        self.switches = Switches(self.space, record)
        self.nodes: dict[str, Node] = {}
        for pair in plan.pair_names():
            for name in nodes_of(pair):
                self.nodes[name] = Node(self.space, self.fabric, record, name)
        self.controllers = PowerControllers(
            self.space, self.fabric, record, self.nodes, latency_s=plan.latency_s, ports_stay_up=plan.ports_stay_up
        )
        self.replication = replication(plan.replication, self.space.work, guarded=plan.guarded, gate=plan.gate)
        self.arbiter_dir = self.space.work / "arbiter"
        self.arbiter_processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def build(self) -> None:
        """Network, controllers, arbiter and every node's files; no node runs yet."""
        self.fabric.build()
        self.controllers.start()
        if self.plan.guarded:
            self.switches.trap_receivers = guarded.trap_receivers(self)
        if self.plan.with_snmp:
            self.switches.start()
        if self.plan.guarded:
            out_of_band = self.plan.arbiter == "out-of-band"
            self.fabric.attach("arb", in_band=not out_of_band, out_of_band=out_of_band)
            guarded.start_arbiter(self)
        self.plan.rival.start(self)
        for pair in self.plan.pair_names():
            self.prepare(pair)

    def prepare(self, pair: str) -> None:
        """Attach both nodes of a pair and write their files; they do not run yet."""
        names = nodes_of(pair)
        rival = self.plan.rival
        rings = max(self.plan.rings, rival.rings)
        conf = corosync_conf(pair, names, self.plan.timers, rings=rings, quorum=rival.quorum())
        primary = first_primary(pair)
        resource, prefer = self.replication.resource(primary), self.replication.prefer(primary)
        fences = {name: guarded.fence(self, name) if self.plan.guarded else self._stock_fence(name) for name in names}
        text = cib(
            names,
            self.plan.timers,
            resource,
            fences,
            properties=rival.properties(),
            prefer=prefer,
            priority=10 if rival.priority_s else 0,
        )
        for name in names:
            node = self.nodes[name]
            node.prepare(corosync_conf=conf, cib=text)
            node.services += rival.services()
            self.replication.install(node)
        if self.plan.guarded:
            for name in names:  # after both are attached: the settings name both switch ports
                guarded.install(self, self.nodes[name])

    def _stock_fence(self, target: str) -> Fence:
        timers = self.plan.timers
        return Fence(
            "fence_lab",
            {
                "ip": self.power_address(target),
                "power_timeout": str(timers.power_timeout_s),
                "retry": str(timers.retry_s),
                **self.plan.rival.fence(),
            },
        )

    def power_address(self, target: str) -> str:
        """Where the power controller of a node is reached in this plan."""
        return self.controllers.address_for(target, out_of_band=self.plan.power == "out-of-band")

    def arbiter_address(self) -> str:
        """Where the arbiter is reached in this plan."""
        return address("arb", out_of_band=self.plan.arbiter == "out-of-band")

    def start_in_arbiter(self, name: str, argv: Sequence[str]) -> None:
        """Start (or start again) a program in the arbiter's namespace; its log is arbiter/NAME.out."""
        self.arbiter_processes[name] = self.space.spawn(
            argv, group=f"arb-{name}", netns="arb", log=self.arbiter_dir / f"{name}.out"
        )

    def stop_in_arbiter(self, name: str) -> None:
        """SIGKILL a program of the arbiter."""
        self.space.kill(f"arb-{name}")

    def start(self) -> None:
        """Boot every node once the in-band net is whole."""
        self.fabric.wait_forwarding()
        if self.plan.guarded:
            time.sleep(SETTLE_S)  # the word of the last topology change goes round: a guard would rightly brake on it
        with ThreadPoolExecutor(max_workers=4) as pool:
            for done in [pool.submit(node.power_on) for node in self.nodes.values()]:
                done.result()

    def wait_formed(self) -> None:
        """Wait until in each pair the service runs on one node and the other is online with its replica started."""
        waiting = set(self.plan.pair_names())
        until = boottime() + self.plan.form_s_max
        while waiting:
            for pair in sorted(waiting):
                if self.formed(pair):
                    self._forget_preference(pair)
                    self.record.add("formed", pair)
                    waiting.discard(pair)
            if waiting and boottime() > until:
                raise LabFailed(
                    f"not formed after {self.plan.form_s_max} s: {', '.join(sorted(waiting))}; {self._why(waiting)}"
                )
            if waiting:
                time.sleep(POLL_S)

    def _forget_preference(self, pair: str) -> None:
        """Take the first primary's location rule away: later the cluster alone decides."""
        if self.replication.prefer(first_primary(pair)) is None:
            return
        rule = '<rsc_location id="l-prefer"/>'
        done = self.nodes[nodes_of(pair)[0]].run_in(
            ["cibadmin", "--delete", "--scope", "constraints", "--xml-text", rule]
        )
        if done.returncode != 0:
            raise LabFailed(f"{pair}: cannot take the location rule away: {done.stderr.strip()}")

    def formed(self, pair: str) -> bool:
        """The cheap test first (the service's own log), then one look through Pacemaker's eyes."""
        if not any(self.service_on(name) for name in nodes_of(pair)):
            return False
        view = self.view(nodes_of(pair)[0])
        return view is not None and view.whole

    def service_on(self, name: str) -> bool:
        """True if the service was started on this node since its last boot and not stopped, by the agent's own log."""
        node, boots = self.nodes[name], self.record.of("power-on", name)
        services = [e for e in self.replication.events(node) if e.kind == "service"]
        if not node.powered or not boots or not services:
            return False
        return services[-1].detail == "start" and services[-1].at_s >= boots[-1].at_s

    def view(self, name: str) -> PairView | None:
        """What Pacemaker on this node says of its pair; None if it does not say."""
        try:
            answer = self.nodes[name].run_in(["crm_mon", "-1", "--output-as=xml"], deadline_s=15)
        except LabFailed:
            return None
        if answer.returncode != 0:
            return None
        return PairView.parse(answer.stdout)

    def each(self, work: Callable[[Node], object]) -> None:
        """Do something to every node at once; the first failure is raised."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            for done in [pool.submit(work, node) for node in self.nodes.values()]:
                done.result()

    def keep_logs(self, out: Path) -> None:
        """Copy what the programs wrote to `out/logs`."""
        for name, node in self.nodes.items():
            _copy_logs(node.root / "var/log", out / "logs" / name)
        for part in ("arbiter", "switches"):
            source = self.space.work / part
            if source.is_dir():
                _copy_logs(source, out / "logs" / part)

    def close(self) -> None:
        """End everything; safe to call twice."""
        self.controllers.close()
        self.space.close()

    def _why(self, pairs: set[str]) -> str:
        name = nodes_of(min(pairs))[0]
        try:
            said = self.nodes[name].run_in(["crm_mon", "-1"], deadline_s=10)
        except LabFailed as error:
            return str(error)
        return f"{name}: {said.stdout[-800:]}{said.stderr[-300:]}"


class PairView:
    """One node's view of its cluster, from `crm_mon --output-as=xml`."""

    def __init__(
        self, online: set[str], promoted: set[str], unpromoted: set[str], service: set[str], maintenance: bool
    ) -> None:
        self.online, self.promoted, self.unpromoted, self.service, self.maintenance = (
            online,
            promoted,
            unpromoted,
            service,
            maintenance,
        )

    @property
    def whole(self) -> bool:
        """Both nodes online, one promoted and one not, the service beside the promoted one."""
        return (
            len(self.online) == 2
            and len(self.promoted) == 1
            and len(self.unpromoted) == 1
            and self.service == self.promoted
        )

    @staticmethod
    def parse(text: str) -> PairView:
        """Raises LabFailed on anything that is not crm_mon's XML."""
        try:
            root = ElementTree.fromstring(text)  # noqa: S314 - our own crm_mon
        except ElementTree.ParseError as error:
            raise LabFailed(f"cannot read crm_mon: {error}") from error
        online = {
            n.get("name", "")
            for n in root.findall("nodes/node")
            if n.get("online") == "true" and n.get("pending") == "false"
        }
        roles: dict[str, set[str]] = {"Promoted": set(), "Unpromoted": set(), "Master": set(), "Slave": set()}
        service: set[str] = set()
        for found in root.iter("resource"):
            places = {n.get("name", "") for n in found.findall("node")}
            if found.get("id") == "srv" and found.get("role") == "Started":
                service |= places
            elif found.get("id") == "r0":
                roles.setdefault(found.get("role", ""), set()).update(places)
        options = root.find("summary/cluster_options")
        held = options is not None and options.get("maintenance-mode") == "true"
        return PairView(
            online, roles["Promoted"] | roles["Master"], roles["Unpromoted"] | roles["Slave"], service, held
        )


def _copy_logs(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if (
            path.is_file()
            and path.suffix in (".log", ".out", ".conf", ".toml", ".json")
            and os.path.getsize(path) < 50_000_000
        ):
            goal = target / path.relative_to(source)
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(path.read_bytes())
