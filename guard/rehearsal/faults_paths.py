"""Faults of what lies between machines: links in each direction, the broker, switches and MLAG pairs."""

from __future__ import annotations

from random import Random

from guard.core.evidence import PortState, Up
from guard.rehearsal.broker import Broker
from guard.rehearsal.faulty import Registry, Undo, counted, every, instead, pick
from guard.rehearsal.mlag import AGENT_S, STP_S, Mlag
from guard.rehearsal.network import DIRECTIONS, OF_NODE, Bend, named
from guard.rehearsal.world import World

fault = Registry()

HOW = ("cut", "held")
ENDS = ("A", "B", "bus", "arbiter", "device:A", "device:B")
SWITCHES = ("sw1", "sw2", "all")
PORTS = ("portA", "portB", "uplink", "portX", "peerlink")
KINDS = (
    "answer", "ask", "ask-nonce", "attest", "beat", "beat-ack", "claim", "close-answer", "close-ask", "close-era",
    "closed", "commit", "lift-inhibit", "nonce-is", "offer", "refused", "session-half", "set-inhibit", "won",
)  # fmt: skip


# ------------------------------------------------------------------ links


@fault("link")
def cut(world: World, rng: Random, *, paths: str = "pair") -> Undo:
    """Paths drop everything, both ways."""
    return world.network.lay("cut", *named(paths))


@fault("link")
def hold(world: World, rng: Random, *, paths: str = "pair") -> Undo:
    """Paths let nothing through and deliver everything at their thaw, hours later too, as a frozen switch may."""
    return world.network.lay("held", *named(paths))


@fault("link")
def black_hole(world: World, rng: Random, *, node: str = "either", devices: bool = True) -> Undo:
    """A node is cut off from everything; with `devices` its fence device too, so that nobody can switch it off."""
    gone = [
        p for each in pick(world, rng, node) for p in OF_NODE[each.name] if devices or p[1] != f"device:{each.name}"
    ]
    return world.network.lay("cut", *dict.fromkeys(gone))


@fault("link", sender=ENDS, to=ENDS)
def cut_one_way(world: World, rng: Random, *, sender: str = "A", to: str = "B") -> Undo:
    """One direction of a path drops everything, the other one passes."""
    return counted(_bend(world, sender, to), "cut")


@fault("link")
def delay(world: World, rng: Random, *, paths: str = "bus", least_s: float = 0.1, most_s: float = 1.0) -> Undo:
    """Everything takes so much longer on these paths, each item its own time: that reorders too."""
    hit = _bends(world, paths)
    extra = (least_s, max(least_s, most_s))
    for each in hit:
        each.delays.append(extra)

    def end() -> None:
        for each in hit:
            if extra in each.delays:
                each.delays.remove(extra)

    return end


@fault("link")
def reorder(world: World, rng: Random, *, paths: str = "bus", within_s: float = 0.5) -> Undo:
    """Items overtake each other by up to `within_s`."""
    return delay(world, rng, paths=paths, least_s=0.0, most_s=within_s)


@fault("link")
def duplicate(world: World, rng: Random, *, paths: str = "bus", share: float = 0.3) -> Undo:
    """This share of all items arrives twice."""
    return every([instead(world, each, "repeat", share) for each in _bends(world, paths)])


@fault("link")
def lose(world: World, rng: Random, *, paths: str = "bus", share: float = 0.2) -> Undo:
    """This share of all items is lost."""
    return every([instead(world, each, "loss", share) for each in _bends(world, paths)])


@fault("link", how=HOW)
def flap(
    world: World, rng: Random, *, paths: str = "pair", times: int = 6, most_s: float = 4.0, how: str = "cut"
) -> Undo:
    """Paths come and go, each time for up to `most_s`."""
    over: list[bool] = []
    lifts: list[Undo] = []

    def down(left: int) -> None:
        if over or left <= 0:
            return
        lifts.append(world.network.lay(how, *named(paths)))
        world.counts["flaps"] += 1
        world.at(rng.uniform(0.2, max(0.2, most_s)), lambda: up(left))

    def up(left: int) -> None:
        _lift(lifts)
        world.at(rng.uniform(0.2, max(0.2, most_s)), lambda: down(left - 1))

    def end() -> None:
        over.append(True)
        _lift(lifts)

    down(times)
    return end


@fault("link", kind=KINDS)
def drop_kind(world: World, rng: Random, *, kind: str = "answer") -> Undo:
    """No message of this kind arrives."""
    world.network.drops.add(kind)
    return lambda: world.network.drops.discard(kind)


# ------------------------------------------------------------------ the broker


@fault("broker")
def broker_down(world: World, rng: Random) -> Undo:
    """The broker is down: every session is lost, and what waited in it."""
    broker = Broker.of(world)
    broker.go_down()
    return broker.come_up


@fault("broker")
def broker_restart(world: World, rng: Random, *, down_s: float = 2.0) -> None:
    """The broker restarts and has forgotten everything."""
    broker = Broker.of(world)
    broker.go_down()
    world.at(down_s, broker.come_up)


@fault("broker")
def broker_redelivers(
    world: World,
    rng: Random,
    *,
    after_s: float = 10.0,
    count: int = 200,
    within_s: float = 5.0,
    restart: bool = False,
    bare: bool = False,
) -> Undo:
    """It keeps what it carries for `after_s` and then delivers `count` of it once more, past the bus's own filter.

    `restart`: the guards, and with them their filters, are restarted just before. `bare`: without the filter.
    """
    broker = Broker.of(world)
    undo = instead(world, broker, "records", True)
    over: list[bool] = []

    def again() -> None:
        if over:
            return
        if restart:
            for node in world.nodes.values():
                node.restart_guard(1.0)
        broker.redeliver(rng, count, within_s, bare=bare)

    def end() -> None:
        over.append(True)
        undo()
        broker.kept.clear()

    world.at(after_s, again)
    return end


@fault("broker")
def broker_late(world: World, rng: Random, *, least_s: float = 2.0, most_s: float = 30.0) -> Undo:
    """It delivers what has long expired, past the bus's own filter."""
    broker = Broker.of(world)
    return every(
        [instead(world, broker, "records", True), instead(world, broker, "late_s", (least_s, max(least_s, most_s)))]
    )


@fault("broker", party=("A", "B", "arbiter", "both"))
def broker_split(world: World, rng: Random, *, party: str = "A") -> Undo:
    """Two bridged brokers lose each other: all are connected, yet these parties hear only those on their own side."""
    return instead(world, Broker.of(world), "away", frozenset("AB" if party == "both" else (party,)))


# ------------------------------------------------------------------ switches


@fault("switch", how=HOW)
def mlag_agent_dies(
    world: World,
    rng: Random,
    *,
    victim: int = 0,
    paths: str = "all-but-devices",
    stp_s: float = STP_S,
    how: str = "held",
    again_stp_s: float = 0.0,
) -> Undo:
    """22 December 2012: an agent dies, the peer link stays up, 5 s later the other switch goes stand-alone.

    On a world with one switch only the paths show it. Its end: both agents run, the pair forms anew.
    """
    return _agent_dies(world, victim, paths, 2 * AGENT_S, stp_s, how, again_stp_s)


@fault("switch")
def mlag_clean_takeover(
    world: World, rng: Random, *, victim: int = 0, paths: str = "all-but-devices", after_s: float = 1.0
) -> Undo:
    """The same, but the peer link drops within 5 s: after 2 s the other switch takes over and nothing else changes."""
    return _agent_dies(world, victim, paths, min(after_s, AGENT_S - 0.1), 0.0, "cut", 0.0)


@fault("switch")
def mlag_peer_link_down(world: World, rng: Random) -> Undo:
    """The link between the two switches drops, both agents live."""
    mlag = _mlag(world)
    mlag.link_down()
    return mlag.mend


@fault("switch", port=PORTS, switch=SWITCHES)
def port_down(world: World, rng: Random, *, switch: str = "sw1", port: str = "uplink") -> Undo:
    """A switch shows one of its ports down."""
    hit = [s for s in world.switches if switch in (s.name, "all")]
    for each in hit:
        each.forced[port] = PortState.DOWN
        each.changed(f"port {port} is down")

    def end() -> None:
        for each in hit:
            each.forced.pop(port, None)
            each.changed(f"port {port} is up")

    return end


@fault("switch", port=PORTS)
def port_flap(world: World, rng: Random, *, port: str = "portB", times: int = 4, every_s: float = 3.0) -> Undo:
    """A port of a switch goes down and comes back, again and again."""
    now: list[Undo] = []
    over: list[bool] = []

    def down(left: int) -> None:
        if left and not over:
            now.append(port_down(world, rng, port=port))
            world.at(every_s / 2, lambda: up(left))

    def up(left: int) -> None:
        _lift(now)
        world.at(every_s / 2, lambda: down(left - 1))

    def end() -> None:
        over.append(True)
        _lift(now)

    down(times)
    return end


@fault("switch", switch=SWITCHES)
def topology_change(world: World, rng: Random, *, switch: str = "sw1", times: int = 1) -> None:
    """A switch counts topology changes: it flushes its tables."""
    for each in world.switches:
        if switch in (each.name, "all"):
            each.topology_changes += times
            each.changed(f"counts {times} topology changes")


@fault("switch", port=PORTS)
def stp_blocks(world: World, rng: Random, *, port: str = "portA", paths: str = "pair", stp_s: float = STP_S) -> Undo:
    """Spanning tree takes a port out of forwarding, and with it the paths over it, for `stp_s`."""
    switch = world.switch
    lift = world.network.lay("cut", *named(paths))
    left = [True]

    def end() -> None:
        if left:
            left.pop()
            lift()
            switch.stp[port] = "forwarding"
            switch.topology_changes += 1
            switch.changed(f"port {port} forwards")

    switch.stp[port] = "blocking"
    switch.topology_changes += 1
    switch.changed(f"port {port} is blocking")
    world.at(stp_s, end)
    return end


@fault("switch", switch=SWITCHES)
def switch_silent(world: World, rng: Random, *, switch: str = "all") -> Undo:
    """A switch answers no poll."""
    hit = [each for each in world.switches if switch in (each.name, "all")]
    for each in hit:
        each.silent["dumb"] += 1

    def end() -> None:
        for each in hit:
            each.silent["dumb"] -= 1

    return end


@fault("switch", switch=SWITCHES)
def switch_late(world: World, rng: Random, *, switch: str = "all", by_s: float = 4.0) -> Undo:
    """What a switch says is so old when it arrives."""
    return every([instead(world, s, "late_s", by_s) for s in world.switches if switch in (s.name, "all")])


@fault("switch", switch=SWITCHES)
def switch_reboots(world: World, rng: Random, *, switch: str = "sw1", silent_s: float = 20.0, paths: str = "") -> Undo:
    """A switch restarts: silent, then other engine boots, a young sysUpTime, counters from 0; `paths` are cut."""
    backs = [each.reboot(silent_s) for each in world.switches if switch in (each.name, "all")]
    lift = world.network.lay("cut", *(named(paths) if paths else ()))
    world.at(silent_s, lift)
    return every([*backs, lift])


@fault("switch", switch=SWITCHES)
def counters_reset(world: World, rng: Random, *, switch: str = "sw1") -> None:
    """Somebody clears the counters of a switch that runs on."""
    for each in world.switches:
        if switch in (each.name, "all"):
            each.topology_changes = 0
            each.changed("its counters were cleared")


@fault("switch")
def bond_flap(world: World, rng: Random, *, node: str = "either") -> Undo:
    """A node's own bond loses its carrier; its end: the carrier is back."""
    hit = pick(world, rng, node)
    for each in hit:
        each.see_link(Up.DOWN)
    return every([lambda each=each: each.see_link(Up.UP) for each in hit])  # type: ignore[misc]


@fault("switch")
def lacp_partner_changes(world: World, rng: Random, *, node: str = "both") -> Undo:
    """A node's bond finds another LACP partner behind the same cable."""
    hit = pick(world, rng, node)
    for each in hit:
        each.see_link(partner="02:00:5e:00:00:00")
        each.see_link(partner="02:00:5e:00:00:ff")
    return every([lambda each=each: each.see_link(partner="02:00:5e:00:00:00") for each in hit])  # type: ignore[misc]


# ------------------------------------------------------------------ what several need


def _agent_dies(
    world: World, victim: int, words: str, link_drops_s: float, stp_s: float, how: str, again_s: float
) -> Undo:
    paths = named(words)
    mlag = world.mlag
    if mlag is not None:
        mlag.agent_dies(victim, paths, link_drops_s=link_drops_s, stp_s=stp_s, how=how)
        return lambda: mlag.mend(paths, stp_s=again_s, how=how)
    lifts: list[Undo] = []

    def blocked() -> None:
        lifts.append(world.network.lay(how, *paths))
        world.switch.topology_changes += 1
        world.switch.changed("spanning tree elects anew")
        world.at(stp_s, lambda: _lift(lifts))

    if stp_s:
        world.at(AGENT_S, blocked)
    return lambda: _lift(lifts)


def _mlag(world: World) -> Mlag:
    if world.mlag is None:
        raise ValueError("this world has one switch: make it with mlag=True")
    return world.mlag


def _lift(lifts: list[Undo]) -> None:
    while lifts:
        lifts.pop()()


def _bend(world: World, sender: str, to: str) -> Bend:
    if (sender, to) not in DIRECTIONS:
        raise ValueError(f"there is no path from {sender} to {to}")
    return world.network.bend(sender, to)


def _bends(world: World, words: str) -> list[Bend]:
    """Both directions of every path of these words."""
    return [world.network.bend(*ends) for p in named(words) for ends in (p, p[::-1])]
