"""Whose fault a silence is: what the switches say about a peer that is not heard. Pure.

NODE only on fresh sightings of every port of the peer and a steady rest; NETWORK wins over NODE; else UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from guard.core.evidence import PortState
from guard.core.instant import Instant, elapsed_s
from guard.core.sight import Network, Owner, Sight


class Attribution(StrEnum):
    NODE = "node"  # the peer's ports are down and nothing else moved: a dead or cut node, evidence for a claim
    NETWORK = "network"  # a port of the peer is up while its switch shows change: contradicts a death
    UNKNOWN = "?"  # permits nothing


def target_ports_down(network: Network, now: Instant, policy: Sight) -> Attribution:
    """What the switches say about a silent peer: see `Attribution`. NETWORK wins over NODE."""
    switches = policy.switches_of(Owner.PEER)
    views = [_peer_on(network, switch, now, policy) for switch in switches]
    if Attribution.NETWORK in views:
        return Attribution.NETWORK
    return Attribution.NODE if views and set(views) == {Attribution.NODE} else Attribution.UNKNOWN


def _peer_on(network: Network, switch: str, now: Instant, policy: Sight) -> Attribution:
    memory = network.switches.get(switch)
    if memory is None or memory.answered is None or memory.missed:
        return Attribution.UNKNOWN
    if elapsed_s(memory.answered.at, now) > policy.sighting_s_max:
        return Attribution.UNKNOWN
    told = dict(memory.answered.ports)  # this answer, not what was known before: UNKNOWN stays UNKNOWN
    peer = {told.get(port, PortState.UNKNOWN) for port in policy.owned(switch, Owner.PEER)}
    changing = _changing(network, switch, now, policy)
    if PortState.UP in peer:
        return Attribution.NETWORK if changing else Attribution.UNKNOWN
    if peer != {PortState.DOWN} or changing:
        return Attribution.UNKNOWN
    return Attribution.NODE if _rest_steady(network, switch, told, now, policy) else Attribution.UNKNOWN


def _changing(network: Network, switch: str, now: Instant, policy: Sight) -> bool:
    """The switch shows change: a sign of its own is open, or was there within `steady_s`."""
    fresh = [s for s in network.recent if elapsed_s(s.at, now) <= policy.steady_s]
    return any(sign.source == switch for sign in (*network.open, *fresh))


def _rest_steady(network: Network, switch: str, told: Mapping[str, PortState], now: Instant, policy: Sight) -> bool:
    """Another pair's port is up and none moved; where there is none: an uplink and one more port are up, unmoved."""

    def up(owner: Owner) -> list[str]:
        return [p for p in policy.owned(switch, owner) if told.get(p) is PortState.UP]

    def moved(port: str) -> bool:
        at = network.port_changes.get((switch, port))
        return at is not None and elapsed_s(at, now) <= policy.steady_s

    rest = [p.port for p in policy.ports if p.switch == switch and p.owner is not Owner.PEER]
    if any(moved(port) for port in rest):
        return False
    if policy.owned(switch, Owner.OTHER):
        return bool(up(Owner.OTHER))
    return bool(up(Owner.UPLINK)) and len(up(Owner.UPLINK) + up(Owner.OURS) + up(Owner.PEER_LINK)) > 1
