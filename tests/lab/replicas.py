"""What a pair replicates, and what its logs say afterwards: nothing (`stateful`), or the DRBD stand-in (`drbd`)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from tests.lab.cluster import Resource
from tests.lab.fabric import address
from tests.lab.node import HERE, Node, Service
from tests.lab.record import Event, Interval
from tests.lab.space import SYSTEM_PYTHON, run

STANDIN = HERE / "drbd"
DISK = "/var/lib/drbd/r0"
WRITER_LOG = "/var/log/pglab-writer.log"
AGENT_LOG = "/var/log/pglab-ra.log"
STOCK_POLICY, GUARDED_POLICY = "dont-care", "resource-and-stonith"  # drbd.conf(5): dont-care is the default


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a pair's acknowledged writes. None: this replication holds no data.

    `lost`: acknowledged writes that the last writer's disk does not hold. `why`: each sign of a split brain.
    """

    acknowledged: int
    lost: int
    split_brain: bool
    why: tuple[str, ...]


class Replication(Protocol):
    """How a pair replicates in this run."""

    def resource(self, primary: str) -> Resource: ...
    def prefer(self, primary: str) -> str | None:
        """The node for a weak location rule that is taken away once the pair is formed."""
        ...

    def install(self, node: Node) -> None: ...
    def events(self, node: Node) -> list[Event]: ...
    def stall_s(self, nodes: tuple[Node, Node], window: Interval) -> float | None: ...
    def judge(self, nodes: tuple[Node, Node]) -> Judgement | None: ...


class Stateful:
    """A promotable resource without data."""

    def resource(self, primary: str) -> Resource:
        return Resource("pglab:stateful", {"prefer": primary})

    def prefer(self, primary: str) -> str | None:
        del primary
        return None

    def install(self, node: Node) -> None:
        del node

    def events(self, node: Node) -> list[Event]:
        result = []
        for log, kind in (("role", "role"), ("srv", "service")):
            result += [Event(at, kind, node.name, words) for at, words in node.log_times(f"/var/log/pglab/{log}.log")]
        return result

    def stall_s(self, nodes: tuple[Node, Node], window: Interval) -> float | None:
        del nodes, window
        return None

    def judge(self, nodes: tuple[Node, Node]) -> Judgement | None:
        del nodes
        return None


class Drbd:
    """The stand-in of tests/lab/drbd. `policy` and `handlers` go into drbd.conf as they are."""

    def __init__(self, layers: Path, *, policy: str, handlers: Mapping[str, str]) -> None:
        self.layers, self.policy, self.handlers = layers, policy, handlers
        self._generations: dict[str, str] = {}
        (layers / "sbin").mkdir(parents=True)
        (layers / "ocf" / "pglab").mkdir(parents=True)
        for name in ("drbdadm", "drbdsetup", "drbdmeta"):
            (layers / "sbin" / name).symlink_to(STANDIN / "bin" / name)
        for name in ("drbd", "srv"):
            (layers / "ocf" / "pglab" / name).symlink_to(STANDIN / "ocf" / name)

    def resource(self, primary: str) -> Resource:
        del primary
        return Resource("pglab:drbd", {"drbd_resource": "r0"}, {"interleave": "true"})

    def prefer(self, primary: str) -> str | None:
        return primary

    def install(self, node: Node) -> None:
        node.sbin_layers.append(self.layers / "sbin")
        node.ocf_layers.append(self.layers / "ocf")
        node.write("/etc/drbd.conf", self.drbd_conf(node))
        (node.root / "var/lib/drbd").mkdir(parents=True, exist_ok=True)
        generation = self._generations.setdefault(
            node.pair, secrets.token_hex(8).upper()[:-1] + "4"
        )  # an even one: bit 0 is the role
        prefix = str(node.root / DISK.lstrip("/"))
        run(
            [
                *(
                    SYSTEM_PYTHON,
                    str(STANDIN / "bin" / "drbdmeta"),
                    "--force",
                    "0",
                    "v08",
                    prefix,
                    "internal",
                    "set-gi",
                ),
                f"{generation}:0:0:0:1:1",
            ]
        )
        node.boot_lines.append("mount -t tmpfs tmpfs /sys/block")
        node.boot_lines.append("mount -t tmpfs tmpfs /sys/module && mkdir /sys/module/drbd")  # "the module is loaded"
        node.services.insert(
            0,
            Service("drbdd", (SYSTEM_PYTHON, str(STANDIN / "drbdd.py")), wait_for="test -S /run/drbd-standin/control"),
        )

    def drbd_conf(self, node: Node) -> str:
        """The configuration, the same on both nodes. Loss is noticed ping-int + ping-timeout (1.5 s) after a cut."""
        handlers = " ".join(f'{name} "{program}";' for name, program in self.handlers.items())
        ends = "".join(
            f"    on {name} {{ address {address(name)}:7788; }}\n" for name in (f"{node.pair}a", f"{node.pair}b")
        )
        return (
            f"resource r0 {{\n    device /dev/drbd0 minor 0;\n    disk {DISK};\n    meta-disk internal;\n"
            "    net { protocol C; ping-int 1; ping-timeout 5; timeout 10; connect-int 1; }\n"
            f"    disk {{ fencing {self.policy}; resync-rate 4M; }}\n    handlers {{ {handlers} }}\n{ends}}}\n"
        )

    def events(self, node: Node) -> list[Event]:
        """Lines `REALTIME BOOTTIME_NS NODE AGENT ACTION RC` of both agents; only what succeeded."""
        result = []
        for line in node.read(AGENT_LOG).splitlines():
            words = line.split()
            if len(words) != 6 or words[5] != "0" or not words[1].isdigit():
                continue
            at_s, agent, action = int(words[1]) / 1e9, words[3], words[4]
            if agent == "srv" and action in ("start", "stop"):
                result.append(Event(at_s, "service", node.name, action))
            elif agent == "drbd" and action in ("start", "promote", "demote", "stop"):
                state = {"promote": "promoted", "stop": "stopped"}.get(action, "unpromoted")
                result.append(Event(at_s, "role", node.name, state))
        return result

    def stall_s(self, nodes: tuple[Node, Node], window: Interval) -> float | None:
        """The longest time in the window in which nobody had a write acknowledged; the window's edges count as ends."""
        moments = [window.start_s, window.end_s]
        for node in nodes:
            for line in node.read(WRITER_LOG).splitlines():
                words = line.split()
                if len(words) == 3 and words[2].isdigit() and window.start_s <= int(words[2]) / 1e9 <= window.end_s:
                    moments.append(int(words[2]) / 1e9)
        moments.sort()
        return max(later - earlier for earlier, later in pairwise(moments))

    def judge(self, nodes: tuple[Node, Node]) -> Judgement | None:
        """What `check_history.py` finds on the disks, which are read after the logs: a writer may go on meanwhile."""
        words = [SYSTEM_PYTHON, str(STANDIN / "check_history.py")]
        for node in nodes:
            log = self.layers / f"{node.name}.acknowledged"
            log.write_text("".join(line for line in node.read(WRITER_LOG).splitlines(True) if line.endswith("\n")))
            words += ["--node", f"{node.name}:{node.root / DISK.lstrip('/')}:{log}"]
        done = run(words, check=False)
        if done.returncode not in (0, 1):
            return None
        found = json.loads(done.stdout)
        return Judgement(
            int(found["acknowledged"]),
            int(found["lost"]),
            bool(found["split_brain"]),
            tuple(str(w) for w in found["why"]),
        )


def replication(kind: str, work: Path, *, guarded: bool, gate: bool = True) -> Replication:
    """The replication that a plan names."""
    if kind == "stateful":
        return Stateful()
    if guarded:
        program = "/usr/sbin/pairguard-fence-peer"
        handlers = {"fence-peer": program, "unfence-peer": f"{program} --unfence"}
        return Drbd(work / "drbd", policy=GUARDED_POLICY if gate else STOCK_POLICY, handlers=handlers)
    return Drbd(work / "drbd", policy=STOCK_POLICY, handlers={})
