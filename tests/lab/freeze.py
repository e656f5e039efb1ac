"""Ways in which the network freezes: each has `prepare()`, `begin()` and `end()`.

stp         the root loses its links; the access switches wait 2 x forward_delay before they use the other uplink
blackhole   every frame on every access uplink is dropped without a sign: links up, spanning tree steady
late        every frame on every access uplink is queued, and comes out at the thaw
mlag        one aggregation switch's agent stops, its links stay up and carry traffic; 5 s later everything re-forms
            (GitHub, 2012-12-22). This kernel has no MLAG: the agents' keepalive is modelled, what follows is real STP
node-links  one node's own in-band link falls (a fault of one machine, not of the network)
flap        every uplink of one access switch goes down and up, again and again
crash       no freeze: the primary of each pair loses its power (what a failover costs when a node really dies)
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from tests.lab.fabric import (
    ACCESS,
    AGGREGATION,
    FORWARD_DELAY_S_MIN,
    ROOT_PRIORITY,
    SECOND_PRIORITY,
    SWITCHES,
    Fabric,
)
from tests.lab.node import Node
from tests.lab.record import Record
from tests.lab.space import LabFailed
from tests.lab.switches import Switches

KINDS = ("stp", "blackhole", "late", "mlag", "node-links", "flap", "crash")
SETTLE_S = 3.0  # two switches deep, one hello (1 s) each, and one to spare
MLAG_REFORM_S = 5.0  # GitHub's report of 2012-12-22: the other switch waited five seconds
TC_PASS, TC_DROP = 0, 2  # TC_ACT_OK, TC_ACT_SHOT (linux/pkt_cls.h)
# Classic BPF on the Ethernet header: frames to 01:80:c2:00:xx:xx (spanning tree) pass, all others are dropped.
BLACK_HOLE = f"4,32 0 0 0,21 0 1 {0x0180C200},6 0 0 {TC_PASS},6 0 0 {TC_DROP}"
NEAREST_BRIDGE = bytes.fromhex("0180c200000e")  # IEEE 802.1Q table 8-1: never forwarded
LOCAL_EXPERIMENT = bytes.fromhex("88b5")  # IEEE 802 local experimental EtherType 1
LATE_MAX_AGE_S = 40.0  # the longest max_age of 802.1D: held BPDUs must not age out, or STP would act too


class Freeze(Protocol):
    """One way to freeze. `seconds`: how long the outage is asked to last."""

    kind: str
    seconds: float

    def prepare(self) -> None:
        """What must be in place SETTLE_S before `begin`."""
        ...

    def begin(self) -> None: ...
    def end(self) -> None: ...


class StpFreeze:
    """The present root's links fall; the outage is the spanning tree's own 2 x forward_delay (4..60 s)."""

    kind = "stp"

    def __init__(self, fabric: Fabric, seconds: float) -> None:
        self.fabric, self.seconds = fabric, seconds
        self.root, self._other = "", ""  # known from `begin` on

    def prepare(self) -> None:
        """Each bridge uses the timers of the last BPDU from the root, so they are set some hellos earlier."""
        self.fabric.set_timers(self.seconds / 2)

    def begin(self) -> None:
        """Raises LabFailed if the root is no aggregation switch: without it nobody would be cut."""
        root, _ = self.fabric.root()
        if root not in AGGREGATION:
            raise LabFailed(f"the spanning tree's root is {root}: taking it down would not freeze the pairs")
        self.root, self._other = root, AGGREGATION[1 - AGGREGATION.index(root)]
        self.fabric.links(self._ends(), up=False)

    def _ends(self) -> list[tuple[str, str]]:
        return [(self.root, port) for port in (self._other, *ACCESS)]

    def end(self) -> None:
        """It has thawed by itself; later port changes are quick again. The switch stays away: a return freezes too."""
        self.fabric.set_timers(FORWARD_DELAY_S_MIN)
        self.fabric.space.ip(self._other, [f"link set br0 type bridge priority {ROOT_PRIORITY}"])
        self.fabric.space.ip(self.root, [f"link set br0 type bridge priority {SECOND_PRIORITY}"])

    def restore(self) -> None:
        """Bring the lost switch back with full redundancy, but second: nothing freezes, the next freeze is as this."""
        self.fabric.agree(
            self._other, ROOT_PRIORITY, (self._other, *ACCESS)
        )  # else its return looks better for a hello
        self.fabric.links(self._ends(), up=True)
        self.fabric.agree(self._other, ROOT_PRIORITY, SWITCHES)


class BlackHole:
    """Frames vanish; links and spanning tree are steady."""

    kind = "blackhole"

    def __init__(
        self, fabric: Fabric, seconds: float, ends: Sequence[tuple[str, str]] | None = None, kind: str = "blackhole"
    ) -> None:
        self.fabric, self.seconds, self.kind = fabric, seconds, kind
        self.ends = list(ends if ends is not None else fabric.uplinks())

    def prepare(self) -> None:
        return

    def begin(self) -> None:
        for switch, port in self.ends:
            self.fabric.space.tc(
                switch,
                [
                    f"qdisc add dev {port} clsact",
                    f'filter add dev {port} ingress bpf da bytecode "{BLACK_HOLE}"',
                    f'filter add dev {port} egress bpf da bytecode "{BLACK_HOLE}"',
                ],
            )

    def end(self) -> None:
        for switch, port in self.ends:
            self.fabric.space.tc(switch, [f"qdisc del dev {port} clsact"], force=True)


class Late:
    """Frames are held in the uplinks' queues, both ways, and delivered at the thaw in their order."""

    kind = "late"

    def __init__(self, fabric: Fabric, seconds: float) -> None:
        self.fabric, self.seconds = fabric, seconds
        self.ends = [end for acc, agg in fabric.uplinks() for end in ((acc, agg), (agg, acc))]

    def prepare(self) -> None:
        self.fabric.set_timers(FORWARD_DELAY_S_MIN, max_age_s=LATE_MAX_AGE_S)

    def begin(self) -> None:
        for switch, port in self.ends:
            self.fabric.space.tc(switch, [f"qdisc replace dev {port} root tbf rate 8bit burst 1600 limit 50mb"])

    def end(self) -> None:
        for switch, port in self.ends:
            self.fabric.space.tc(switch, [f"qdisc change dev {port} root tbf rate 1gbit burst 200000 limit 50mb"])
            self.fabric.space.inside(switch, partial(_knock, port))

    def clear(self) -> None:
        """Take the queues away (what is still in them is lost): some seconds after `end`."""
        for switch, port in self.ends:
            self.fabric.space.tc(switch, [f"qdisc del dev {port} root"], force=True)


def _knock(port: str) -> None:
    """Send a frame that no bridge forwards: a tbf whose rate was changed looks at its queue only when one comes."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((port, 0))
        link.send(NEAREST_BRIDGE + bytes(6) + LOCAL_EXPERIMENT + bytes(46))


class MlagFreeze:
    """agg1's agents stop (links up, traffic flows); after MLAG_REFORM_S every uplink re-forms and waits for STP."""

    kind = "mlag"

    def __init__(self, fabric: Fabric, switches: Switches, record: Record, seconds: float) -> None:
        self.fabric, self.switches, self.record = fabric, switches, record
        self.seconds = MLAG_REFORM_S + seconds
        self._outage_s = seconds
        self._reform = threading.Timer(MLAG_REFORM_S, self._re_form)
        self._reform.daemon = True

    def prepare(self) -> None:
        self.fabric.set_timers(self._outage_s / 2)

    def begin(self) -> None:
        self.switches.stop_agent("agg1")
        self._reform.start()

    def _re_form(self) -> None:
        with contextlib.suppress(LabFailed):  # the run may have ended
            ends = self.fabric.uplinks()
            self.fabric.links(ends, up=False)
            self.fabric.links(ends, up=True)
            self.record.add("re-form", "lab", "every uplink")

    def end(self) -> None:
        self._reform.cancel()
        self.switches.resume_agent("agg1")
        self.fabric.set_timers(FORWARD_DELAY_S_MIN)


class NodeLinks:
    """The switch ports of some nodes fall and come back (in-band only)."""

    kind = "node-links"

    def __init__(self, fabric: Fabric, ports: Sequence[tuple[str, str]], seconds: float) -> None:
        self.fabric, self.ports, self.seconds = fabric, list(ports), seconds

    def prepare(self) -> None:
        return

    def begin(self) -> None:
        self.fabric.links(self.ports, up=False)

    def end(self) -> None:
        self.fabric.links(self.ports, up=True)


class Flap:
    """Uplinks of acc2 fall and rise every `period_s`; each rise begins the spanning tree's wait again."""

    kind = "flap"

    def __init__(self, fabric: Fabric, seconds: float, period_s: float = 1.4) -> None:
        self.fabric, self.seconds, self.period_s = fabric, seconds, period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flap", daemon=True)
        self._ends = [end for end in fabric.uplinks() if end[0] == "acc2"]

    def prepare(self) -> None:
        return

    def begin(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(LabFailed):  # the run may have ended
            while not self._stop.is_set():
                self.fabric.links(self._ends, up=False)
                self._stop.wait(self.period_s / 2)
                self.fabric.links(self._ends, up=True)
                self._stop.wait(self.period_s / 2)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        self.fabric.links(self._ends, up=True)


class Crash:
    """The nodes given lose their power, or (`kernel`) their kernels die with the power on; nothing freezes."""

    kind = "crash"

    def __init__(
        self,
        victims: Callable[[], Sequence[Node]],
        seconds: float,
        *,
        ports_stay_up: bool = False,
        kernel: bool = False,
    ) -> None:
        self.victims, self.seconds, self.ports_stay_up, self.kernel = victims, seconds, ports_stay_up, kernel

    def prepare(self) -> None:
        return

    def begin(self) -> None:
        for node in self.victims():
            if self.kernel:
                node.panic(ports_stay_up=self.ports_stay_up)
            else:
                node.power_off("crash", ports_stay_up=self.ports_stay_up)

    def end(self) -> None:
        return
