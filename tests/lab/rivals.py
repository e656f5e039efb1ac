"""What people use today against fence races, as settings of an ordinary pair: the rivals of tests/lab/rows.py."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.lab.cluster import TWO_NODE
from tests.lab.fabric import address
from tests.lab.node import Service

if TYPE_CHECKING:
    from tests.lab.pairs import Site

Reach = Literal["in-band", "out-of-band"]
QNETD_DIR = "/run/corosync-qnetd"


@dataclass(frozen=True, slots=True)
class Rival:
    """One ordinary pair. Seconds. `qdevice`: where its qnetd hangs (ffsplit, one vote), None: `two_node`.

    `priority_s`: priority-fencing-delay, with a priority on the service, so that the node that runs it wins.
    `maintained`: a person sets maintenance-mode before the freeze and takes it back once the network is whole.
    """

    name: str
    title: str
    delay_max_s: int = 0
    priority_s: int = 0
    qdevice: Reach | None = None
    no_quorum: Literal["stop", "freeze"] = "stop"
    rings: int = 1
    maintained: bool = False

    def fence(self) -> Mapping[str, str]:
        """Parameters of each fence device."""
        return {"pcmk_delay_max": f"{self.delay_max_s}s"} if self.delay_max_s else {}

    def properties(self) -> Mapping[str, str]:
        """Properties of the cluster."""
        delay = {"priority-fencing-delay": f"{self.priority_s}s"} if self.priority_s else {}
        return {"no-quorum-policy": self.no_quorum, **delay}

    def quorum(self) -> str:
        """The body of corosync.conf's `quorum` section."""
        if self.qdevice is None:
            return TWO_NODE
        host = address("arb", out_of_band=self.qdevice == "out-of-band")
        return (
            "    provider: corosync_votequorum\n    device {\n        model: net\n        votes: 1\n"
            f"        net {{\n            host: {host}\n            algorithm: ffsplit\n            tls: off\n"
            "        }\n    }\n"
        )

    def services(self) -> tuple[Service, ...]:
        """What runs in each node beside corosync and Pacemaker."""
        if self.qdevice is None:
            return ()
        return (
            Service(
                "qdevice",
                ("corosync-qdevice", "-f"),
                before="pacemaker",
                wait_for="corosync-quorumtool | grep -q 'Quorate:  *Yes'",
            ),
        )

    def start(self, site: Site) -> None:
        """What runs outside of the nodes: qnetd, without TLS, in the arbiter's namespace, with a /run of its own."""
        if self.qdevice is None:
            return
        out_of_band = self.qdevice == "out-of-band"
        site.fabric.attach("arb", in_band=not out_of_band, out_of_band=out_of_band)
        site.arbiter_dir.mkdir(parents=True, exist_ok=True)
        words = f"mount -t tmpfs tmpfs /run && mkdir {shlex.quote(QNETD_DIR)} && exec corosync-qnetd -f -s off -4"
        site.start_in_arbiter("qnetd", ["unshare", "-m", "--propagation", "private", "sh", "-c", words])


STOCK = Rival("stock", "Pacemaker as it comes, two_node")
RIVALS = (
    STOCK,
    Rival("delay-max", "pcmk_delay_max 20 s", delay_max_s=20),
    Rival("priority", "priority-fencing-delay 20 s", priority_s=20),
    Rival("qdevice-in", "qdevice, qnetd in-band", qdevice="in-band"),
    Rival(
        "qdevice-in-freeze", "qdevice, qnetd in-band, no-quorum-policy=freeze", qdevice="in-band", no_quorum="freeze"
    ),
    Rival("qdevice-out", "qdevice, qnetd out-of-band", qdevice="out-of-band"),
    Rival(
        "qdevice-out-freeze",
        "qdevice, qnetd out-of-band, no-quorum-policy=freeze",
        qdevice="out-of-band",
        no_quorum="freeze",
    ),
    Rival("second-ring", "a second corosync ring out-of-band", rings=2),
    Rival("maintained", "maintenance-mode set by hand before", maintained=True),
)
