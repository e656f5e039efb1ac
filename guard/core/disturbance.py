"""Tells a network in change from a quiet one: sightings in, signs of change out.

1. The first sighting of anything is a baseline and never a sign. Only what was seen well and then worse is one.
2. Unknown is not worse: a value that could not be read keeps what was known before, and makes no sign.
3. A standing sign stays open until its own all-clear. An event is over at once, but quiet starts anew from it.
4. The peer's own switch port going down is no sign: it is what a death looks like. Ours, an uplink or the peer
   link going down is one. So is a port that is up and does not forward, whosever it is.
5. A counter of topology changes that moves is always a sign, also when only the peer's port dropped: a Linux
   bridge raises none then and neither does an edge port elsewhere (IEEE 802.1D-2004, topology change machine), so
   a switch that counts one is flushing its tables. Being wrong here costs a delay, never a fence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from guard.core.altered import altered
from guard.core.evidence import LinkSighting, PortState, Sign, SignKind, SwitchSighting, Up
from guard.core.instant import Instant, elapsed_s
from guard.core.sight import (
    BusSeen,
    LinkMemory,
    Network,
    Owner,
    PeerAliveSeen,
    ReplicationSeen,
    Sight,
    Sighting,
    StormSeen,
    SwitchMemory,
    WatcherSeen,
)

UPTIME_WRAP_S: Final = 2**32 / 100  # sysUpTime is 32 bits of 1/100 s (SNMPv2-MIB): 497.1 days
UPTIME_SLACK_S: Final = 10.0  # agents answer from caches up to ~3 s old (facts: net-snmp); clocks drift 200 ppm
COUNTER32: Final = 2**32
COUNTER_WRAP_NEAR: Final = 2**16  # a Counter32 this close to its end has wrapped rather than been reset
EVENTS_KEPT_MAX: Final = 256
NO_PARTNER: Final = "00:00:00:00:00:00"


def step(network: Network, event: Sighting, now: Instant, policy: Sight) -> tuple[Network, tuple[Sign, ...]]:
    """The network after one event, and the signs that are new with it (a sign that is open already is not new)."""
    match event:
        case LinkSighting():
            after, found = _link(network, event, now, policy)
        case SwitchSighting():
            after, found = _switch(network, event, now, policy)
        case BusSeen(connected):
            after, found = altered(network, bus=connected), _Found()
            if connected or network.bus:
                found.standing(not connected, SignKind.BUS_LOST, "bus", now, "our own bus session is lost")
        case ReplicationSeen():
            after, found = _replication(network, event, now, policy)
        case WatcherSeen(watcher, alive, text):
            after, found = network, _Found()
            found.standing(not alive, SignKind.WATCHER_LOST, watcher, now, text or f"{watcher} stopped")
        case StormSeen(on, text):
            after, found = network, _Found()
            found.standing(on, SignKind.STORM, "arbiter", now, text or "many pairs are in trouble at once")
        case PeerAliveSeen(on, text):
            after, found = network, _Found()
            found.standing(on, SignKind.PEER_ALIVE, "peer", now, text or "the peer lives")
        case _:
            assert_never(event)
    return _settle(after, found, now)


def accept(network: Network, sign: Sign, now: Instant) -> Network:
    """A person accepts by name that a standing sign will not end (an uplink taken away for good); quiet from now."""
    found = _Found(off=[_key(sign)])
    return _settle(network, found, now)[0]


# ---------------------------------------------------------------- signs


Key = tuple[SignKind, str, str | None]


@dataclass(slots=True)
class _Found:
    """What one event brought: events, standing signs that are on, and keys whose all-clear came."""

    events: list[Sign] = field(default_factory=list)
    on: list[Sign] = field(default_factory=list)
    off: list[Key] = field(default_factory=list)

    def event(self, sign: Sign) -> None:
        self.events.append(sign)

    def standing(
        self, bad: bool, kind: SignKind, source: str, now: Instant, text: str, port: str | None = None
    ) -> None:
        if bad:
            self.on.append(Sign(kind, source, now, text, port, standing=True))
        else:
            self.over(kind, source, port)

    def over(self, kind: SignKind, source: str, port: str | None = None) -> None:
        """Its all-clear. Most sightings bring some, and hardly ever does one of them stand."""
        self.off.append((kind, source, port))


def _key(sign: Sign) -> Key:
    return (sign.kind, sign.source, sign.port)


def _sign(kind: SignKind, source: str, now: Instant, text: str, port: str | None = None) -> Sign:
    return Sign(kind=kind, source=source, at=now, text=text, port=port)


def _settle(network: Network, found: _Found, now: Instant) -> tuple[Network, tuple[Sign, ...]]:
    if not (found.on or found.events or network.open):
        return network, ()  # nothing is new, and nothing stands that could end
    still = tuple(sign for sign in network.open if _key(sign) not in found.off)
    known = {_key(sign) for sign in still}
    opened: list[Sign] = []
    for sign in found.on:
        if _key(sign) not in known:
            known.add(_key(sign))
            opened.append(sign)
    now_open = (*still, *opened)
    signs = (*found.events, *opened)
    quiet = network.quiet_since
    if now_open:
        quiet = None
    elif signs or network.open:
        quiet = now
    # What stood and ended is remembered as an event of now: the switch was changing until this moment.
    ended = tuple(
        replace(sign, at=now, standing=False, text=f"over: {sign.text}") for sign in network.open if sign not in still
    )
    recent = (*network.recent, *found.events, *ended)[-EVENTS_KEPT_MAX:]
    return altered(network, open=now_open, quiet_since=quiet, recent=recent), signs


# ---------------------------------------------------------------- own interfaces


def _link(network: Network, seen: LinkSighting, now: Instant, policy: Sight) -> tuple[Network, _Found]:
    found = _Found()
    if seen.name not in policy.interfaces:
        return network, found
    before = network.links.get(seen.name, LinkMemory())
    kind = SignKind.BOND_CARRIER if seen.kind == "bond" else SignKind.MEMBER_CARRIER
    _link_carrier(found, seen, before, kind, now)
    _link_lacp(found, seen, before, now)
    if before.stp_state == "forwarding" and seen.stp_state not in (None, "forwarding") and seen.carrier is Up.UP:
        text = f"our own bridge port {seen.name} is {seen.stp_state}"
        found.standing(True, SignKind.PATH_PORT_FLAP, "bridge", now, text, seen.name)
    elif seen.stp_state == "forwarding":
        found.over(SignKind.PATH_PORT_FLAP, "bridge", seen.name)
    memory = LinkMemory(
        carrier=before.carrier if seen.carrier is Up.UNKNOWN else seen.carrier,
        changes=before.changes if seen.carrier_changes is None else seen.carrier_changes,
        partner=before.partner if seen.lacp_partner is None else seen.lacp_partner,
        lacp_state=before.lacp_state if seen.lacp_state is None else seen.lacp_state,
        stp_state=before.stp_state if seen.stp_state is None else seen.stp_state,
    )
    return altered(network, links={**network.links, seen.name: memory}), found


def _link_carrier(found: _Found, seen: LinkSighting, before: LinkMemory, kind: SignKind, now: Instant) -> None:
    name = seen.name
    if seen.carrier is Up.DOWN and before.carrier is Up.UP:
        found.standing(True, kind, "links", now, f"{name} has no carrier", name)
    elif seen.carrier is Up.UP:
        # A vanished interface is told without its kind: clear under both names.
        for either in (SignKind.BOND_CARRIER, SignKind.MEMBER_CARRIER):
            found.over(either, "links", name)
    if before.changes is None or seen.carrier_changes is None:
        return
    moved = seen.carrier_changes - before.changes
    # One change explains one edge; what is left over happened between two sightings.
    explained = 1 if seen.carrier is not before.carrier else 0
    if moved < 0 or moved > explained:
        found.event(_sign(kind, "links", now, f"{name} changed carrier {abs(moved)} times unseen", name))


def _link_lacp(found: _Found, seen: LinkSighting, before: LinkMemory, now: Instant) -> None:
    name = seen.name
    if before.partner is not None and seen.lacp_partner is not None and seen.lacp_partner != before.partner:
        gone = seen.lacp_partner == NO_PARTNER
        text = f"{name} lost its LACP partner" if gone else f"{name} has another LACP partner"
        found.event(_sign(SignKind.LACP_PARTNER, "links", now, text, name))
    if before.lacp_state == "in-sync" and seen.lacp_state not in (None, "in-sync"):
        found.event(_sign(SignKind.LACP_PARTNER, "links", now, f"{name} is {seen.lacp_state} in its LAG", name))


# ---------------------------------------------------------------- switches


def _switch(network: Network, seen: SwitchSighting, now: Instant, policy: Sight) -> tuple[Network, _Found]:
    found = _Found()
    name = seen.switch
    before = network.switches.get(name, SwitchMemory())
    if not seen.answered:
        after = replace(before, missed=before.missed + 1)
        if before.answered is not None and after.missed >= policy.silent_polls:
            text = f"switch {name} does not answer: {seen.error or 'silence'}"
            found.standing(True, SignKind.SWITCH_SILENT, name, now, text)
        return altered(network, switches={**network.switches, name: after}), found
    if before.answered is not None and seen.at < before.answered.at:
        return network, found  # an answer from before the last one says nothing about now
    found.over(SignKind.SWITCH_SILENT, name)
    restarted = _restarted(seen, before)
    if restarted is not None:
        found.event(_sign(SignKind.SWITCH_RESTARTED, name, now, f"switch {name} {restarted}"))
    _spanning_tree(found, seen, before, now, restarted is not None)
    _mlag(found, seen, before, now)
    if policy.lag_table_is_sign and _both_differ(before.lag_changed, seen.lag_changed):
        found.event(_sign(SignKind.LACP_PARTNER, name, now, f"switch {name} formed its LAGs anew"))
    network = _ports(network, found, seen, before, now, policy)
    memory = _remember(before, seen)
    return altered(network, switches={**network.switches, name: memory}), found


def _remember(before: SwitchMemory, seen: SwitchSighting) -> SwitchMemory:
    known_ports = {port: state for port, state in seen.ports if state is not PortState.UNKNOWN}
    return SwitchMemory(
        answered=seen,
        missed=0,
        ports={**before.ports, **known_ports},
        stp={**before.stp, **dict(seen.stp_ports)},
        topology_changes=before.topology_changes if seen.topology_changes is None else seen.topology_changes,
        stp_root=seen.stp_root or before.stp_root,
        lag_changed=before.lag_changed if seen.lag_changed is None else seen.lag_changed,
        mlag_peer=before.mlag_peer if seen.mlag_peer in (None, Up.UNKNOWN) else seen.mlag_peer,
        mlag_peer_link=before.mlag_peer_link if seen.mlag_peer_link in (None, Up.UNKNOWN) else seen.mlag_peer_link,
        mlag_role=seen.mlag_role or before.mlag_role,
        engine_id=seen.engine_id or before.engine_id,
    )


def _both_differ(before: object, after: object) -> bool:
    return before is not None and after is not None and before != after


def _restarted(seen: SwitchSighting, memory: SwitchMemory) -> str | None:
    """Why this answer comes from another run of the agent than the last one; None if it does not.

    sysUpTime wraps after 497 days: that is told from a restart by where it should be by now, and by
    snmpEngineBoots and snmpEngineTime (SNMP-FRAMEWORK-MIB), which do not wrap with it.
    """
    last = memory.answered
    if last is None:
        return None
    if _both_differ(memory.engine_id, seen.engine_id):
        return "is another SNMP engine than before"
    if _both_differ(last.engine_boots, seen.engine_boots):
        return "was started anew (engine boots)"
    if last.engine_time_s is not None and seen.engine_time_s is not None and seen.engine_time_s < last.engine_time_s:
        return "was started anew (engine time fell)"
    if last.uptime_s is None or seen.uptime_s is None:
        return None
    passed_s = max(elapsed_s(last.at, seen.at), 0.0)
    missing_s = (last.uptime_s + passed_s - seen.uptime_s) % UPTIME_WRAP_S
    slack_s = max(UPTIME_SLACK_S, 0.01 * passed_s)
    if slack_s < missing_s < UPTIME_WRAP_S - slack_s:
        return f"was started anew (uptime {seen.uptime_s:.0f} s)"
    fell = seen.uptime_s < last.uptime_s
    near_wrap = last.uptime_s + passed_s + slack_s >= UPTIME_WRAP_S
    return f"was started anew (uptime {seen.uptime_s:.0f} s)" if fell and not near_wrap else None


def _spanning_tree(found: _Found, seen: SwitchSighting, before: SwitchMemory, now: Instant, restarted: bool) -> None:
    name = seen.switch
    if _both_differ(before.stp_root, seen.stp_root):
        found.event(_sign(SignKind.TOPOLOGY_CHANGE, name, now, f"switch {name} sees another spanning-tree root"))
    old, new = before.topology_changes, seen.topology_changes
    if old is None or new is None or old == new or (restarted and new < old):
        return
    wrapped = new < old and old > COUNTER32 - COUNTER_WRAP_NEAR
    count = (new - old) % COUNTER32 if new > old or wrapped else None
    text = f"switch {name} counted {count} topology changes" if count else f"switch {name} started its count anew"
    found.event(_sign(SignKind.TOPOLOGY_CHANGE, name, now, text))


def _mlag(found: _Found, seen: SwitchSighting, before: SwitchMemory, now: Instant) -> None:
    name = seen.switch
    link = seen.mlag_peer_link if seen.mlag_peer_link in (Up.UP, Up.DOWN) else before.mlag_peer_link
    if before.mlag_peer is Up.UP and seen.mlag_peer is Up.DOWN:
        where = {Up.UP: "while the peer link is up", Up.DOWN: "and so is the peer link"}.get(
            link or Up.UNKNOWN, "the peer link is unknown"
        )
        found.standing(True, SignKind.MLAG_PEER_LOST, name, now, f"switch {name} lost its MLAG peer, {where}")
    elif seen.mlag_peer is Up.UP:
        found.over(SignKind.MLAG_PEER_LOST, name)
    if before.mlag_peer_link is Up.UP and seen.mlag_peer_link is Up.DOWN:
        found.standing(True, SignKind.PEER_LINK_DOWN, name, now, f"the peer link of switch {name} is down")
    elif seen.mlag_peer_link is Up.UP:
        found.over(SignKind.PEER_LINK_DOWN, name)
    if _both_differ(before.mlag_role, seen.mlag_role):
        text = f"switch {name} went from MLAG role {before.mlag_role} to {seen.mlag_role}"
        found.event(_sign(SignKind.MLAG_ROLE, name, now, text))


def _ports(
    network: Network, found: _Found, seen: SwitchSighting, before: SwitchMemory, now: Instant, policy: Sight
) -> Network:
    stp = dict(seen.stp_ports)
    owners = policy.owners(seen.switch)
    for port, state in seen.ports:
        owner = owners.get(port)
        was = before.ports.get(port, PortState.UNKNOWN)
        if owner is None:
            continue
        edge = PortState.UNKNOWN not in (was, state) and was is not state
        if edge:
            network = altered(network, port_changes={**network.port_changes, (seen.switch, port): now})
        _forwarding(found, seen, port, (state, stp.get(port)), (was, before.stp.get(port)), owner, now)
        match owner:
            case Owner.OTHER:
                pass
            case Owner.PEER:
                if edge and state is PortState.DOWN:
                    network = _peer_down(network, found, seen.switch, port, now, policy)
            case Owner.OURS | Owner.UPLINK | Owner.PEER_LINK:
                kind = SignKind.PEER_LINK_DOWN if owner is Owner.PEER_LINK else SignKind.PATH_PORT_FLAP
                if state is PortState.UP:
                    found.over(kind, seen.switch, port)
                elif edge:
                    text = f"{owner} port {port} of switch {seen.switch} is down"
                    found.standing(True, kind, seen.switch, now, text, port)
            case _:
                assert_never(owner)
    return network


def _forwarding(
    found: _Found,
    seen: SwitchSighting,
    port: str,
    new: tuple[PortState, str | None],
    old: tuple[PortState, str | None],
    owner: Owner,
    now: Instant,
) -> None:
    """A path port that is up and forwarded before, and now does not. Its key differs from that of `down`.

    An uplink that comes to rest blocking is how spanning tree keeps a second path: that it stopped forwarding is a
    sign, that it stays so is none (one would hold the pair for as long as the tree is another). On its way
    (listening, learning), also back from there, it is one until it has arrived.
    """
    if owner is Owner.OTHER:
        return
    state, stp = new
    if owner in (Owner.UPLINK, Owner.PEER_LINK) and stp in ("blocking", "listening", "learning"):
        text = f"port {port} of {seen.switch} is {stp}"
        if stp == "blocking":
            found.over(SignKind.TOPOLOGY_CHANGE, seen.switch, port)
            if (state, old) == (PortState.UP, (PortState.UP, "forwarding")):
                found.event(_sign(SignKind.TOPOLOGY_CHANGE, seen.switch, now, text, port))
        elif state is PortState.UP and old in ((PortState.UP, "forwarding"), (PortState.UP, "blocking")):
            found.standing(True, SignKind.TOPOLOGY_CHANGE, seen.switch, now, text, port)
        return
    # The peer's port reads disabled or broken when it is down and ifOperStatus is stale (facts: up to 3 s).
    held = {"blocking", "listening", "learning"} if owner is Owner.PEER else None
    if stp == "forwarding" or (owner is Owner.PEER and state is PortState.DOWN):
        found.over(SignKind.TOPOLOGY_CHANGE, seen.switch, port)
    elif (state, old) == (PortState.UP, (PortState.UP, "forwarding")) and stp is not None and stp in (held or {stp}):
        text = f"port {port} of {seen.switch} is {stp}"
        found.standing(True, SignKind.TOPOLOGY_CHANGE, seen.switch, now, text, port)


def _peer_down(network: Network, found: _Found, switch: str, port: str, now: Instant, policy: Sight) -> Network:
    """The peer's port went down: no sign, unless it does so again and again."""
    key = (switch, port)
    downs = _within((*network.peer_downs.get(key, ()), now), now, policy.flap_window_s)
    if len(downs) >= policy.peer_flaps:
        text = f"the peer's port {port} of switch {switch} went down {len(downs)} times"
        found.event(_sign(SignKind.PATH_PORT_FLAP, switch, now, text, port))
    return altered(network, peer_downs={**network.peer_downs, key: downs})


# ---------------------------------------------------------------- replication


def _replication(network: Network, seen: ReplicationSeen, now: Instant, policy: Sight) -> tuple[Network, _Found]:
    """A break counts once it has healed and the membership stood all the while: replication notices a death before
    corosync's token does, so a break alone is what a death looks like."""
    found = _Found()
    broke = network.replication is True and not seen.connected
    stood = (broke or network.break_stands) and seen.membership is not False
    stands = stood and not seen.connected
    after = network
    if (network.replication, network.break_stands) != (seen.connected, stands):
        after = altered(network, replication=seen.connected, break_stands=stands)
    if not (seen.connected and network.break_stands and stood):
        return after, found
    breaks = _within((*network.breaks, now), now, policy.replication_window_s)
    if len(breaks) >= policy.replication_breaks:
        text = f"replication broke {len(breaks)} times in {policy.replication_window_s:.0f} s, the membership stands"
        found.event(_sign(SignKind.REPLICATION_FLAP, "replication", now, text))
    return altered(after, breaks=breaks), found


def _within(moments: tuple[Instant, ...], now: Instant, window_s: float) -> tuple[Instant, ...]:
    return tuple(at for at in moments if elapsed_s(at, now) <= window_s)[-EVENTS_KEPT_MAX:]
