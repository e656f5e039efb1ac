"""The site's network: switches that are Linux bridges with real STP, trunks, ports, and an out-of-band management net.

agg1 (the STP root; agg2 takes over) and agg2 are joined to each other and to each of acc1, acc2, acc3. acc1 carries the
a-nodes and their power controllers, acc2 the b-nodes and theirs, acc3 the arbiter (when it is in-band).

In-band addresses are 10.77.0.0/16, out-of-band ones 10.78.0.0/16 (a plain bridge without STP). Pair n: .n.1 and .n.2.
STP in this kernel has no portfast: a port that comes up passes traffic after 2 x forward_delay (forward_delay 2..30 s).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from tests.lab.space import LabFailed, Space, boottime, run

AGGREGATION = ("agg1", "agg2")
ACCESS = ("acc1", "acc2", "acc3")
SWITCHES = AGGREGATION + ACCESS
ROOT_PRIORITY, SECOND_PRIORITY = 4096, 8192  # IEEE 802.1D: the lowest is root
PRIORITY = {"agg1": ROOT_PRIORITY, "agg2": SECOND_PRIORITY, "acc1": 32768, "acc2": 36864, "acc3": 40960}
FORWARD_DELAY_S_MIN = 2.0
FORWARD_DELAY_S_MAX = 30.0
IN_BAND, OUT_OF_BAND = "10.77", "10.78"
HOST_PART = {
    "agg1": "200.1",
    "agg2": "200.2",
    "acc1": "200.11",
    "acc2": "200.12",
    "acc3": "200.13",
    "bmc1": "100.1",
    "bmc2": "100.2",
    "arb": "250.1",
}


def address(name: str, *, out_of_band: bool = False) -> str:
    """The IPv4 address of a switch, power controller, the arbiter (`arb`) or a node (`fs3a`)."""
    net = OUT_OF_BAND if out_of_band else IN_BAND
    if name in HOST_PART:
        return f"{net}.{HOST_PART[name]}"
    if name.startswith("fs") and name[-1] in "ab" and name[2:-1].isdigit():
        return f"{net}.{int(name[2:-1])}.{1 if name[-1] == 'a' else 2}"
    raise LabFailed(f"cannot name an address for {name}: not a switch, controller or node of this lab")


def access_of(name: str) -> str:
    """The access switch a node, power controller or the arbiter hangs on."""
    return {"bmc1": "acc1", "bmc2": "acc2", "arb": "acc3"}.get(name) or ("acc1" if name.endswith("a") else "acc2")


class Fabric:
    """The switches of a run. `attach` adds a host; `port` takes a host's ports up and down."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.out_of_band_ports: set[str] = set()

    def build(self) -> None:
        """Make switches, trunks and the out-of-band bridge, all up."""
        self.space.add_netns("oob")
        self.space.ip("oob", ["link add br0 type bridge stp_state 0", "link set br0 up"])
        for name in SWITCHES:
            self.space.add_netns(name)
            self.space.ip(
                name,
                [
                    "link add br0 type bridge stp_state 1 "
                    f"priority {PRIORITY[name]} forward_delay 200 hello_time 100 max_age 600 mcast_snooping 0",
                    "link set br0 up",
                    f"addr add {address(name)}/16 dev br0",
                ],
            )
            self._cable(name, "mgmt", "oob", name)
            self.space.ip(name, [f"addr add {address(name, out_of_band=True)}/16 dev mgmt"])
        trunks = [("agg1", "agg2")] + [(agg, acc) for agg in AGGREGATION for acc in ACCESS]
        for one, other in trunks:
            self._cable(one, other, other, one)
            self.space.ip(one, [f"link set {other} master br0"])

    def _cable(self, near: str, near_port: str, far: str, far_port: str) -> None:
        """A veth cable: port `near_port` in namespace `near`, port `far_port` in the bridge of `far`; both up."""
        self.space.ip(
            near,
            [
                f"link add {near_port} type veth peer name {far_port} netns {self.space.netns(far)}",
                f"link set {near_port} up",
            ],
        )
        self.space.ip(far, [f"link set {far_port} master br0", f"link set {far_port} up"])

    def attach(self, name: str, *, in_band: bool = True, out_of_band: bool = True) -> None:
        """A host namespace with `eth0` on its access switch and `mgmt` on the out-of-band bridge, addresses set."""
        self.space.add_netns(name)
        if in_band:
            self._cable(name, "eth0", access_of(name), name)
            self.space.ip(name, [f"addr add {address(name)}/16 dev eth0"])
        if out_of_band:
            self._cable(name, "mgmt", "oob", name)
            self.space.ip(name, [f"addr add {address(name, out_of_band=True)}/16 dev mgmt"])
            self.out_of_band_ports.add(name)

    def port(self, name: str, *, up: bool) -> None:
        """Take the switch ports of a host up or down (a machine without power has no link)."""
        state = "up" if up else "down"
        self.space.ip(access_of(name), [f"link set {name} {state}"])
        if name in self.out_of_band_ports:
            self.space.ip("oob", [f"link set {name} {state}"])

    def uplinks(self) -> list[tuple[str, str]]:
        """(access switch, port) of every uplink."""
        return [(acc, agg) for acc in ACCESS for agg in AGGREGATION]

    def set_timers(self, forward_delay_s: float, *, max_age_s: float | None = None) -> None:
        """Set STP timers on every switch. Each port that begins to forward waits 2 x forward_delay_s."""
        delay = min(max(forward_delay_s, FORWARD_DELAY_S_MIN), FORWARD_DELAY_S_MAX)
        words = f"forward_delay {round(delay * 100)}"
        if max_age_s is not None:
            words += f" max_age {round(max_age_s * 100)}"
        for name in SWITCHES:
            self.space.ip(name, [f"link set br0 type bridge {words}"])

    def links(self, ends: Iterable[tuple[str, str]], *, up: bool) -> None:
        """Take ports (namespace, port) up or down, one `ip` a switch."""
        by_switch: dict[str, list[str]] = {}
        for switch, port in ends:
            by_switch.setdefault(switch, []).append(f"link set {port} {'up' if up else 'down'}")
        for switch, lines in by_switch.items():
            self.space.ip(switch, lines)

    def root(self, among: Iterable[str] = SWITCHES) -> tuple[str, int]:
        """The spanning tree's root and its priority, by the word of every switch of `among`.

        Raises LabFailed while they do not agree, or if the root is none of them.
        """
        own: dict[str, str] = {}
        follows: dict[str, str] = {}
        for name in among:
            bridge = self._links(name, "br0")[0]["linkinfo"]["info_data"]
            own[bridge["bridge_id"]] = name
            follows[name] = bridge["bridge_id"]
            for port in self._links(name, "master", "br0"):  # the bridge's own `root_id` is its own id (kernel 6.18)
                data = port["linkinfo"]["info_slave_data"]
                if bridge["root_port"] and int(data["no"], 16) == bridge["root_port"]:
                    follows[name] = data["root_id"]
        roots = set(follows.values())
        if len(roots) != 1 or not roots <= own.keys():
            said = {switch: own.get(root, root) for switch, root in follows.items()}
            raise LabFailed(f"the switches do not agree on the spanning tree's root: {said}")
        root = roots.pop()
        return own[root], int(root.split(".")[0], 16)

    def _links(self, switch: str, *which: str) -> list[dict[str, Any]]:
        answer = run(["ip", "-n", self.space.netns(switch), "-d", "-j", "link", "show", *which]).stdout
        return list(json.loads(answer or "[]"))

    def agree(self, root: str, priority: int, among: Iterable[str], deadline_s: float = 20.0) -> None:
        """Wait until every switch of `among` follows this root at this priority."""
        until, names = boottime() + deadline_s, tuple(among)
        while True:
            try:
                found: object = self.root(names)
            except LabFailed as error:
                found = error
            if found == (root, priority):
                return
            if boottime() > until:
                raise LabFailed(f"{root} ({priority}) is not the root after {deadline_s} s: {found}")
            time.sleep(0.1)

    def port_states(self, switch: str) -> dict[str, str]:
        """STP state by port: disabled, blocking, listening, learning or forwarding."""
        answer = run(["bridge", "-n", self.space.netns(switch), "-j", "link"]).stdout
        return {
            str(port["ifname"]): str(port["state"])
            for port in json.loads(answer or "[]")
            if port.get("master") == "br0"
        }

    def interface_indexes(self, switch: str) -> dict[str, int]:
        """ifIndex by interface name in a switch's namespace."""
        answer = run(["ip", "-n", self.space.netns(switch), "-j", "link"]).stdout
        return {str(link["ifname"]): int(link["ifindex"]) for link in json.loads(answer)}

    def forwarding(self) -> bool:
        """True while every access switch has an uplink that forwards (the in-band net is whole)."""
        return all(any(self.port_states(acc).get(agg) == "forwarding" for agg in AGGREGATION) for acc in ACCESS)

    def wait_forwarding(self, deadline_s: float = 30.0) -> None:
        """Wait until the in-band net is whole."""
        until = boottime() + deadline_s
        while not self.forwarding():
            if boottime() > until:
                raise LabFailed(f"the fabric did not converge in {deadline_s} s")
            time.sleep(0.1)
