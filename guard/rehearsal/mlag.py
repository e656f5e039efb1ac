"""The switches that both nodes hang on: one access switch, or an MLAG pair with the state machine of 22 December 2012.

1. The agent of one switch dies and its ports stay up. If the peer link drops within 5 s, the other switch waits 2 s and
   takes over: no table of layer two changes (the clean path).
2. If the peer link stays up for 5 s, the other one takes its peer for alive and inconsistent, and goes stand-alone: all
   LAGs form anew, spanning tree elects anew, and nothing is forwarded for 90 s (GitHub's report; facts/incidents.md).
3. What SNMP and the nodes' own bonds show follows this model. A switch whose agent is dead answers nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from guard.core.evidence import LinkSighting, PortState, SwitchSighting, Up
from guard.core.instant import NS_PER_S, Instant
from guard.core.sight import OwnedPort, Owner
from guard.core.step import Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from guard.rehearsal.network import Path
    from guard.rehearsal.world import World

AGENT_S = 5.0  # the other switch waits so long for an agent while the peer link is up
LINK_S = 2.0  # and so long for a peer link that dropped
STP_S = 90.0  # election, listening and learning with the timers of 2012
BOND = "bond0"
TOGETHER = "02:00:5e:00:00:01"  # the LACP system that a whole MLAG pair presents


def owned_ports(switches: tuple[Switch, ...], name: str) -> tuple[OwnedPort, ...]:
    """The ports that the guard of `name` is told to watch."""
    own, other = f"port{name}", "portB" if name == "A" else "portA"
    owners = {
        own: Owner.OURS,
        other: Owner.PEER,
        "uplink": Owner.UPLINK,
        "portX": Owner.OTHER,
    }
    if len(switches) > 1:
        owners["peerlink"] = Owner.PEER_LINK
    return tuple(OwnedPort(s.name, port, owner) for s in switches for port, owner in owners.items())


class Switch:
    """One switch as SNMP shows it."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.silent: Counter[str] = Counter()  # why it does not answer, and how often over
        self.late_s = 0.0  # its answers come so much later
        self.topology_changes = 7
        self.boots = 1
        self.up_since = -86_400 * NS_PER_S
        self.root: str | None = None
        self.lag_changed: int | None = None
        self.forced: dict[str, PortState] = {}
        self.stp: dict[str, str] = {}
        self.mlag_peer: Up | None = None
        self.mlag_peer_link: Up | None = None
        self.mlag_role: str | None = None

    @property
    def answers(self) -> bool:
        return not (self.silent and self.silent.total())

    def face(self) -> object:
        """All that a sighting shows but the time, while the switch is well: it answers, every port is up; else None."""
        nodes = self.world.nodes
        if not self.answers or self.forced or self.late_s or not (nodes["A"].powered and nodes["B"].powered):
            return None
        mlag = self.mlag_peer, self.mlag_peer_link, self.mlag_role
        return (
            self.boots,
            self.up_since,
            self.topology_changes,
            self.root,
            self.lag_changed,
            mlag,
            tuple(self.stp.items()),
        )

    def sighting(self, at: Instant) -> SwitchSighting:
        if not self.answers:
            return SwitchSighting(self.name, at, False, error="timeout")
        ports = [
            (f"port{name}", self.forced.get(f"port{name}", PortState.UP if node.powered else PortState.DOWN))
            for name, node in self.world.nodes.items()
        ]
        rest = ("uplink", "portX") if self.mlag_peer_link is None else ("uplink", "portX", "peerlink")
        ports += [(port, self.forced.get(port, PortState.UP)) for port in rest]
        age_s = (self.world.now - self.up_since) / NS_PER_S
        return SwitchSighting(
            self.name,
            at,
            True,
            engine_boots=self.boots,
            engine_time_s=int(age_s),
            uptime_s=age_s,
            topology_changes=self.topology_changes,
            stp_root=self.root,
            ports=tuple(ports),
            stp_ports=tuple(self.stp.items()),
            lag_changed=self.lag_changed,
            mlag_peer=self.mlag_peer,
            mlag_peer_link=self.mlag_peer_link,
            mlag_role=self.mlag_role,
        )

    def reboot(self, silent_s: float) -> Callable[[], None]:
        """It is gone for a while, until the result is called at the latest, and counts everything anew."""
        self.silent["reboot"] += 1
        self.changed("restarts")
        down = [True]

        def back() -> None:
            if not down:
                return
            down.clear()
            self.silent["reboot"] -= 1
            self.boots, self.up_since = self.boots + 1, self.world.now
            self.topology_changes = 0
            self.changed("answers again")

        self.world.at(silent_s, back)
        return back

    def changed(self, text: str) -> None:
        self.world.tell(self.name, text)
        self.world.stir()


class Mlag:
    """The pair of switches. `blocked` is told what is laid over the paths while spanning tree elects."""

    def __init__(self, world: World, first: Switch, second: Switch) -> None:
        self.world, self.switches = world, (first, second)
        self.alive = [True, True]  # the agents
        self.peer_link = True
        self.standalone = False
        self._deaths = 0
        self._lift: Callable[[], None] | None = None
        for switch, role in zip(self.switches, ("primary", "secondary"), strict=True):
            switch.mlag_peer = switch.mlag_peer_link = Up.UP
            switch.mlag_role, switch.lag_changed, switch.root = role, 1, "8000.020000000001"
            switch.stp = dict.fromkeys(("portA", "portB", "uplink", "peerlink"), "forwarding")

    # ---- what goes wrong

    def agent_dies(self, victim: int, paths: tuple[Path, ...], *, link_drops_s: float, stp_s: float, how: str) -> None:
        """The agent of switch `victim` dies; its peer link goes down after `link_drops_s` (later than 5 s: too late).

        `paths` are those that spanning tree blocks, for `stp_s`; `how`: cut (lost) or held (delivered at the thaw).
        """
        self._deaths += 1
        death = self._deaths
        self.alive[victim] = False
        self.switches[victim].silent["agent"] = 1
        self.switches[victim].changed("its agent dies, its ports stay up")
        other = self.switches[1 - victim]

        def drops() -> None:
            if death == self._deaths and not self.standalone and not self.alive[victim]:
                self._link(False)
                self.world.at(LINK_S, take_over)

        def take_over() -> None:
            if death == self._deaths and not self.alive[victim]:
                other.mlag_peer, other.mlag_role = Up.DOWN, "primary"
                other.changed("takes over: nothing changes in layer two")
                self.world.counts["clean takeovers"] += 1

        def alone() -> None:
            if death == self._deaths and self.peer_link and not self.alive[victim]:
                self._go_standalone(other, paths, stp_s, how)

        if link_drops_s < AGENT_S:
            self.world.at(link_drops_s, drops)
        self.world.at(AGENT_S, alone)

    def _go_standalone(self, switch: Switch, paths: tuple[Path, ...], stp_s: float, how: str) -> None:
        self.standalone = True
        self.world.counts["stand-alone falls"] += 1
        switch.mlag_peer, switch.mlag_role = Up.DOWN, "standalone"
        switch.root = f"8000.0200000000{self._deaths:02x}"
        switch.lag_changed = (switch.lag_changed or 0) + 1
        switch.changed("goes stand-alone: LAGs form anew, spanning tree elects")
        self._partner(f"02:00:5e:00:00:{self._deaths + 1:02x}")
        self._elect(paths, stp_s, how)

    def _elect(self, paths: tuple[Path, ...], stp_s: float, how: str) -> None:
        """Nothing is forwarded until the tree stands."""
        self._over()
        self._lift = lift = self.world.network.lay(how, *paths)
        self._stp("listening")
        third = stp_s / 3
        self.world.at(third, lambda: self._stp("learning") if self._lift is lift else None)

        def over() -> None:
            if self._lift is lift:
                self._over()
                self._stp("forwarding")

        self.world.at(stp_s, over)

    def _over(self) -> None:
        lift, self._lift = self._lift, None
        if lift is not None:
            lift()

    def _stp(self, state: str) -> None:
        for switch in self.switches:
            switch.topology_changes += 1
            switch.stp = dict.fromkeys(switch.stp, state)
            switch.changed(f"its ports are {state}")

    def _link(self, up: bool) -> None:
        self.peer_link = up
        for switch in self.switches:
            switch.mlag_peer_link = Up.UP if up else Up.DOWN
            switch.forced["peerlink"] = PortState.UP if up else PortState.DOWN
            switch.changed("peer link is up" if up else "peer link is down")

    def _partner(self, system: str) -> None:
        for node in self.world.nodes.values():
            node.see_link(partner=system)

    # ---- repair

    def mend(self, paths: tuple[Path, ...] = (), *, stp_s: float = 0.0, how: str = "cut") -> None:
        """Both agents run and the pair is one again; forming it anew may block `paths` once more for `stp_s`."""
        stood = self.standalone
        self.alive, self.standalone = [True, True], False
        self._deaths += 1
        self._over()
        if not self.peer_link:
            self._link(True)
        for switch, role in zip(self.switches, ("primary", "secondary"), strict=True):
            switch.silent["agent"] = 0
            switch.mlag_peer, switch.mlag_role = Up.UP, role
            switch.root = "8000.020000000001"
            switch.stp = dict.fromkeys(switch.stp, "forwarding")
            switch.changed("is one of an MLAG pair")
        self._partner(TOGETHER)
        if stood and stp_s:
            self._elect(paths, stp_s, how)

    def link_down(self) -> None:
        """Only the peer link drops: the agents reach each other over their keepalive, nobody takes over."""
        self._link(False)


def link_seen(at: Instant, carrier: Up, partner: str | None, changes: int | None) -> Seen:
    """What netlink says of a node's own bond."""
    return Seen(LinkSighting(BOND, at, carrier, carrier_changes=changes, lacp_partner=partner))
