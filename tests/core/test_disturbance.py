"""Tests of the signs of change: what is one, what is none, and whose fault a silence is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.core.attribution import Attribution, target_ports_down
from guard.core.disturbance import NO_PARTNER, UPTIME_WRAP_S, accept, step
from guard.core.evidence import LinkSighting, PortState, Sign, SignKind, SwitchSighting, Up
from guard.core.instant import NS_PER_S, Instant
from guard.core.sight import (
    BusSeen,
    Network,
    OwnedPort,
    Owner,
    PeerAliveSeen,
    ReplicationSeen,
    Sight,
    Sighting,
    StormSeen,
    WatcherSeen,
)

UP, DOWN = PortState.UP, PortState.DOWN
SW = "sw1"
POLICY = Sight(
    interfaces=frozenset({"bond0", "eth0", "eth1"}),
    ports=(
        OwnedPort(SW, "ours", Owner.OURS),
        OwnedPort(SW, "peer", Owner.PEER),
        OwnedPort(SW, "up1", Owner.UPLINK),
        OwnedPort(SW, "pl", Owner.PEER_LINK),
        OwnedPort(SW, "other", Owner.OTHER),
    ),
)
PORTS = {"ours": UP, "peer": UP, "up1": UP, "pl": UP, "other": UP}


def at(seconds: float) -> Instant:
    return Instant(round(seconds * NS_PER_S))


def switch(seconds: float, *, ports: dict[str, PortState] | None = None, name: str = SW, **more: Any) -> SwitchSighting:
    """A healthy answer of the switch at that second, changed where the test says so."""
    fields: dict[str, Any] = {
        "engine_id": "8000",
        "engine_boots": 3,
        "engine_time_s": 1000 + int(seconds),
        "uptime_s": 1000.0 + seconds,
        "topology_changes": 7,
        "stp_root": "8000.02",
        "mlag_peer": Up.UP,
        "mlag_peer_link": Up.UP,
        "mlag_role": "primary",
        "stp_ports": tuple((port, "forwarding") for port in PORTS),
    }
    return SwitchSighting(name, at(seconds), True, ports=tuple({**PORTS, **(ports or {})}.items()), **(fields | more))


def silent(seconds: float) -> SwitchSighting:
    return SwitchSighting(SW, at(seconds), False, error="timeout")


def link(seconds: float, name: str = "eth0", carrier: Up = Up.UP, **more: Any) -> LinkSighting:
    return LinkSighting(name, at(seconds), carrier, **more)


def play(
    story: Iterable[tuple[float, Sighting]], policy: Sight = POLICY, network: Network | None = None
) -> tuple[Network, list[Sign]]:
    signs: list[Sign] = []
    network = network or Network.at_start(at(0))
    for seconds, event in story:
        network, new = step(network, event, at(seconds), policy)
        signs.extend(new)
    return network, signs


def kinds(signs: Iterable[Sign]) -> list[str]:
    return [sign.kind.value for sign in signs]


# ---------------------------------------------------------------- baselines


@pytest.mark.parametrize(
    "event",
    [
        link(1, carrier=Up.DOWN, carrier_changes=9),
        link(1, "bond0", Up.DOWN, kind="bond", lacp_partner=NO_PARTNER, lacp_state="expired", stp_state="blocking"),
        silent(1),
        switch(1, ports=dict.fromkeys(PORTS, DOWN), mlag_peer=Up.DOWN, mlag_peer_link=Up.DOWN),
        switch(1, stp_ports=(("ours", "blocking"), ("peer", "listening"))),
        BusSeen(False),
        ReplicationSeen(False, True),
    ],
)
def test_first_sighting_is_a_baseline(event: Sighting) -> None:
    """Whatever is seen first, and as often as it stays so, is no sign."""
    network, signs = play([(1, event), (2, event), (3, event)])
    assert signs == []
    assert not network.disturbed(at(3))


def test_start_is_quiet_but_young() -> None:
    """At the start nothing is disturbed, and quiet is counted from the start only."""
    network = Network.at_start(at(100))
    assert not network.disturbed(at(100))
    assert network.quiet_for_s(at(130)) == 30.0


def test_a_switch_never_heard_is_listed_and_no_sign() -> None:
    """A switch that never answered makes no sign, but is named as not watched."""
    network, signs = play([(t, silent(t)) for t in range(1, 9)])
    assert (signs, network.unheard()) == ([], (SW,))


# ---------------------------------------------------------------- own interfaces


def test_own_carrier_stands_until_it_is_back() -> None:
    """A lost carrier of our own is a standing sign, told once, and quiet starts when it is back."""
    story = [(1, link(1)), (2, link(2, carrier=Up.DOWN)), (3, link(3, carrier=Up.DOWN))]
    network, signs = play(story)
    assert kinds(signs) == ["member-carrier"]
    assert (signs[0].standing, signs[0].port) == (True, "eth0")
    assert network.quiet_since is None
    assert network.disturbed(at(1000))
    network, signs = play([(10, link(10))], network=network)
    assert (signs, network.open, network.quiet_since) == ([], (), at(10))
    assert network.disturbed(at(69))
    assert not network.disturbed(at(70))


def test_a_bond_is_named_as_one() -> None:
    """The carrier of the bond itself is another sign than that of a member."""
    _, signs = play([(1, link(1, "bond0", kind="bond")), (2, link(2, "bond0", Up.DOWN, kind="bond"))])
    assert kinds(signs) == ["bond-carrier"]


def test_flap_between_two_sightings() -> None:
    """A flap that nobody saw is told by the kernel's counter; one edge with its one count is not a flap."""
    _, signs = play([(1, link(1, carrier_changes=4)), (2, link(2, carrier_changes=6))])
    assert kinds(signs) == ["member-carrier"]
    assert not signs[0].standing
    _, signs = play([(1, link(1, carrier=Up.DOWN, carrier_changes=4)), (2, link(2, carrier_changes=5))])
    assert signs == []


def test_interfaces_that_do_not_matter_are_ignored() -> None:
    """An interface outside the path may do what it likes."""
    assert play([(1, link(1, "veth9")), (2, link(2, "veth9", Up.DOWN))])[1] == []


def test_lacp_partner() -> None:
    """Another partner, and no partner any more, are signs; a partner that could not be read is not."""
    bond = {"name": "bond0", "kind": "bond"}
    story = [
        (1, link(1, lacp_partner="02:aa", **bond)),
        (2, link(2, lacp_partner=None, **bond)),
        (3, link(3, lacp_partner="02:aa", **bond)),
        (4, link(4, lacp_partner="02:bb", **bond)),
        (5, link(5, lacp_partner=NO_PARTNER, **bond)),
    ]
    _, signs = play(story)
    assert [(s.kind, s.at) for s in signs] == [(SignKind.LACP_PARTNER, at(4)), (SignKind.LACP_PARTNER, at(5))]


def test_member_out_of_sync() -> None:
    """A bond member whose LACP falls out of sync is a sign although its carrier is up."""
    _, signs = play([(1, link(1, lacp_state="in-sync")), (2, link(2, lacp_state="expired"))])
    assert kinds(signs) == ["lacp-partner"]


# ---------------------------------------------------------------- switches


def test_silence_of_a_switch_takes_two_polls() -> None:
    """One missed poll is no sign, the second is; an answer clears it."""
    network, signs = play([(1, switch(1)), (2, silent(2))])
    assert signs == []
    network, signs = play([(3, silent(3)), (4, silent(4))], network=network)
    assert kinds(signs) == ["switch-silent"]
    network, signs = play([(5, switch(5))], network=network)
    assert (signs, network.open) == ([], ())


@pytest.mark.parametrize(
    "again",
    [
        {"uptime_s": 2.0, "engine_boots": 4, "engine_time_s": 2},
        {"uptime_s": 2.0, "engine_boots": None, "engine_time_s": None},
        {"engine_boots": 4},
        {"engine_time_s": 3},
        {"engine_id": "9000"},
    ],
)
def test_restart(again: dict[str, Any]) -> None:
    """Another boot count, a younger agent or another engine is a restart; its counter set back is not one more."""
    _, signs = play([(1, switch(1)), (2, switch(2, topology_changes=0, **again))])
    assert kinds(signs) == ["switch-restarted"]


def test_restart_during_a_long_silence_though_uptime_rose() -> None:
    """An uptime that rose less than the time that passed is another run."""
    young = {"engine_boots": None, "engine_time_s": None, "engine_id": None}
    _, signs = play([(1, switch(1, uptime_s=5.0, **young)), (101, switch(101, uptime_s=50.0, **young))])
    assert kinds(signs) == ["switch-restarted"]


@pytest.mark.parametrize("engine", [{}, {"engine_boots": None, "engine_time_s": None}])
def test_uptime_wrap_is_no_restart(engine: dict[str, Any]) -> None:
    """After 497 days sysUpTime starts at zero: no sign, with and without the engine's own clock."""
    story = [
        (1, switch(1, uptime_s=UPTIME_WRAP_S - 0.5, **engine)),
        (2, switch(2, uptime_s=0.5, **engine)),
        (3, switch(3, uptime_s=1.5, **engine)),
    ]
    assert play(story)[1] == []


def test_uptime_a_little_ahead_is_no_restart() -> None:
    """An agent's clock that runs ahead of ours by a few seconds, without engine objects, is no restart."""
    bare = {"engine_boots": None, "engine_time_s": None}
    assert play([(1, switch(1, uptime_s=100.0, **bare)), (2, switch(2, uptime_s=104.0, **bare))])[1] == []


def test_restart_at_the_very_wrap_is_told_by_the_engine() -> None:
    """A restart in the second of the wrap is seen by the engine's boots."""
    _, signs = play([(1, switch(1, uptime_s=UPTIME_WRAP_S - 0.5)), (2, switch(2, uptime_s=0.5, engine_boots=4))])
    assert kinds(signs) == ["switch-restarted"]


def test_topology_counter() -> None:
    """A moving counter is a sign, also over its 32 bits; one that starts anew without a restart is one too."""
    _, signs = play([(1, switch(1)), (2, switch(2, topology_changes=9))])
    assert [s.text for s in signs] == ["switch sw1 counted 2 topology changes"]
    _, signs = play([(1, switch(1, topology_changes=2**32 - 1)), (2, switch(2, topology_changes=1))])
    assert [s.text for s in signs] == ["switch sw1 counted 2 topology changes"]
    assert kinds(play([(1, switch(1)), (2, switch(2, topology_changes=0))])[1]) == ["topology-change"]


def test_root_and_role() -> None:
    """Another spanning-tree root and another MLAG role are signs."""
    _, signs = play([(1, switch(1)), (2, switch(2, stp_root="1000.01", mlag_role="secondary"))])
    assert sorted(kinds(signs)) == ["mlag-role-changed", "topology-change"]


def test_what_cannot_be_read_is_no_change() -> None:
    """An answer with nothing in it neither makes nor clears a sign."""
    empty = SwitchSighting(SW, at(3), True)
    network, signs = play([(1, switch(1)), (2, switch(2, mlag_peer=Up.DOWN)), (3, empty)])
    assert kinds(signs) == kinds(network.open) == ["mlag-peer-lost"]
    assert play([(4, switch(4))], network=network)[0].open == ()


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("ours", ["path-port-flap"]),
        ("up1", ["path-port-flap"]),
        ("pl", ["peer-link-down"]),
        ("peer", []),
        ("other", []),
    ],
)
def test_whose_port_goes_down(port: str, expected: list[str]) -> None:
    """Our port, an uplink and the peer link are the path; the peer's port alone, or a stranger's, is no disturbance."""
    network, signs = play([(1, switch(1)), (2, switch(2, ports={port: DOWN}))])
    assert kinds(signs) == expected
    assert play([(3, switch(3))], network=network)[0].open == ()


def test_unknown_in_between_hides_nothing() -> None:
    """Up, unknown, down is a loss: what was known before counts."""
    story = [(t, switch(t, mlag_peer=state)) for t, state in ((1, Up.UP), (2, Up.UNKNOWN), (3, Up.DOWN))]
    assert kinds(play(story)[1]) == ["mlag-peer-lost"]
    ports = [(t, switch(t, ports={"up1": state})) for t, state in ((1, UP), (2, PortState.UNKNOWN), (3, DOWN))]
    assert kinds(play(ports)[1]) == ["path-port-flap"]
    links = [(t, link(t, carrier=state)) for t, state in ((1, Up.UP), (2, Up.UNKNOWN), (3, Up.DOWN))]
    assert kinds(play(links)[1]) == ["member-carrier"]


def tree(**states: str) -> tuple[tuple[str, str], ...]:
    return tuple((port, states.get(port, "forwarding")) for port in PORTS)


@pytest.mark.parametrize("state", ["blocking", "listening", "learning"])
@pytest.mark.parametrize("port", ["ours", "up1", "pl", "peer"])
def test_path_port_leaves_forwarding(port: str, state: str) -> None:
    """A path port that is up and stops forwarding is a sign, whosever it is; it stands until it forwards again.

    Only an uplink that is blocking has arrived: spanning tree keeps a second path so.
    """
    rests = state == "blocking" and port in ("up1", "pl")
    network, signs = play([(1, switch(1)), (2, switch(2, stp_ports=tree(**{port: state})))])
    assert [(s.kind, s.port, s.standing) for s in signs] == [(SignKind.TOPOLOGY_CHANGE, port, not rests)]
    assert play([(3, switch(3))], network=network)[0].open == ()


def test_a_tree_that_came_to_rest_is_quiet() -> None:
    """L2: a redundant uplink goes on blocking for as long as the other switch is away; no hold lasts for that alone."""
    story = [
        (1, switch(1)),
        (2, switch(2, stp_ports=tree(up1="learning"))),
        (3, switch(3, stp_ports=tree(up1="blocking"))),
    ]
    network, _ = play(story)
    assert network.open == ()
    assert network.quiet_for_s(at(63)) >= 60
    moving = play([(9, switch(9, stp_ports=tree(up1="listening")))], network=network)
    assert [(s.kind, s.standing) for s in moving[1]] == [(SignKind.TOPOLOGY_CHANGE, True)]
    assert play([(10, switch(10, stp_ports=tree()))], network=moving[0])[0].open == ()


def test_peer_port_with_stale_oper_status() -> None:
    """The peer's port that spanning tree calls disabled while ifOperStatus still says up is a death in the making."""
    stp = tuple((p, "disabled" if p == "peer" else "forwarding") for p in PORTS)
    assert play([(1, switch(1)), (2, switch(2, stp_ports=stp)), (3, switch(3, ports={"peer": DOWN}))])[1] == []


def test_peer_port_flapping() -> None:
    """The peer's port down three times within a minute is a flapping path; three times in an hour is not."""
    fast = [(t, switch(t, ports={"peer": DOWN if t % 2 == 0 else UP})) for t in range(1, 7)]
    assert kinds(play(fast)[1]) == ["path-port-flap"]
    slow = [(t, switch(t, ports={"peer": DOWN if t % 40 else UP})) for t in range(0, 400, 20)]
    assert play(slow)[1] == []


def test_lag_table_only_where_asked() -> None:
    """The LAG table's time moves with every server's reboot: a sign only by settings."""
    story = [(1, switch(1, lag_changed=5)), (2, switch(2, lag_changed=6))]
    assert play(story)[1] == []
    assert kinds(play(story, replace(POLICY, lag_table_is_sign=True))[1]) == ["lacp-partner"]


def test_an_old_answer_changes_nothing() -> None:
    """An answer that is older than the last one is not believed."""
    network, _ = play([(5, switch(5))])
    assert step(network, switch(4, topology_changes=99), at(6), POLICY) == (network, ())


# ---------------------------------------------------------------- the rest


def test_bus() -> None:
    """Our own bus lost stands until it is back; losing it again is a new sign."""
    network, signs = play([(1, BusSeen(True)), (2, BusSeen(False)), (3, BusSeen(False))])
    assert kinds(signs) == kinds(network.open) == ["bus-lost"]
    network, signs = play([(4, BusSeen(True)), (5, BusSeen(False))], network=network)
    assert kinds(signs) == ["bus-lost"]


@pytest.mark.parametrize(
    ("membership", "gap_s", "expected"),
    [(True, 10, ["replication-flap"]), (None, 10, ["replication-flap"]), (False, 10, []), (True, 31, [])],
)
def test_replication_breaks(membership: bool | None, gap_s: int, expected: list[str]) -> None:
    """Three breaks in 60 s that healed are a sign while the membership stood; with the membership gone, silence."""
    story: list[tuple[float, Sighting]] = []
    for turn in range(3):
        story += [
            (turn * gap_s + 1, ReplicationSeen(True, True)),
            (turn * gap_s + 2, ReplicationSeen(False, membership)),
        ]
    assert kinds(play(story)[1]) == [], "the third break may be a death: replication notices it before the token does"
    story.append((3 * gap_s + 1, ReplicationSeen(True, True)))
    assert kinds(play(story)[1]) == expected


def test_a_death_after_two_breaks_is_no_disturbance() -> None:
    """Replication that broke twice and healed, and then the node dies: its silence must not brake the survivor."""
    story: list[tuple[float, Sighting]] = [(0, ReplicationSeen(True, True))]
    for turn in range(2):
        story += [(turn * 10 + 1, ReplicationSeen(False, True)), (turn * 10 + 3, ReplicationSeen(True, True))]
    story += [(25, ReplicationSeen(False, True)), (27, ReplicationSeen(False, False))]
    assert kinds(play(story)[1]) == []


def test_asserted_signs_stand() -> None:
    """A lost watcher, a storm and a living peer stand from the first word until taken back."""
    pairs: list[tuple[Sighting, Sighting, str]] = [
        (WatcherSeen("snmp:sw1", False), WatcherSeen("snmp:sw1", True), "watcher-lost"),
        (StormSeen(True), StormSeen(False), "storm"),
        (PeerAliveSeen(True), PeerAliveSeen(False), "peer-alive"),
    ]
    for on, off, kind in pairs:
        network, signs = play([(1, on), (2, on)])
        assert kinds(signs) == kinds(network.open) == [kind]
        assert play([(3, off)], network=network)[0].open == ()


def test_a_person_accepts_a_lost_uplink() -> None:
    """An uplink taken away for good is accepted by name; quiet starts then."""
    network, signs = play([(1, switch(1)), (2, switch(2, ports={"up1": DOWN}))])
    network = accept(network, signs[0], at(9))
    assert (network.open, network.quiet_since) == ((), at(9))


# ---------------------------------------------------------------- 2012


def test_the_2012_sequence() -> None:
    """The MLAG agent dies with the peer link up, 5 s later the LAGs form anew and spanning tree moves: all told."""
    bond = {"name": "bond0", "kind": "bond"}
    story: list[tuple[float, Sighting]] = [
        (0, switch(0)),
        (0, link(0, lacp_partner="02:00:00:00:00:aa", carrier_changes=1, **bond)),
        (0, BusSeen(True)),
        (0, ReplicationSeen(True, True)),
        (1, switch(1, mlag_peer=Up.DOWN)),
        (2, switch(2, mlag_peer=Up.DOWN)),
        (6, link(6, lacp_partner="02:00:00:00:00:bb", carrier_changes=1, **bond)),
        (6, switch(6, mlag_peer=Up.DOWN, mlag_role="secondaryPrimary", topology_changes=19)),
        (7, switch(7, mlag_peer=Up.DOWN, mlag_role="secondaryPrimary", topology_changes=31, ports={"ours": DOWN})),
        (7, ReplicationSeen(False, False)),
        (96, switch(96, mlag_role="secondaryPrimary", topology_changes=31)),
        (97, ReplicationSeen(True, True)),
    ]
    network, signs = play(story)
    assert [(s.at // NS_PER_S, s.kind.value) for s in signs] == [
        (1, "mlag-peer-lost"),
        (6, "lacp-partner"),
        (6, "topology-change"),
        (6, "mlag-role-changed"),
        (7, "topology-change"),
        (7, "path-port-flap"),
    ]
    assert signs[0].text == "switch sw1 lost its MLAG peer, while the peer link is up"
    assert (network.open, network.quiet_since) == ((), at(96))
    assert network.disturbed(at(155))
    assert not network.disturbed(at(156))


def test_2012_contradicts_a_death() -> None:
    """While the switch changes and the peer's port is up, silence of the peer is the network's."""
    network, _ = play([(0, switch(0)), (1, switch(1, mlag_peer=Up.DOWN))])
    assert target_ports_down(network, at(1.5), POLICY) is Attribution.NETWORK


# ---------------------------------------------------------------- attribution


def attributed(*story: SwitchSighting, policy: Sight = POLICY, now: float | None = None) -> Attribution:
    network, _ = play([(s.at / NS_PER_S, s) for s in story], policy)
    return target_ports_down(network, Instant(story[-1].at) if now is None else at(now), policy)


def test_dead_node() -> None:
    """The peer's port down, another pair's port up and nothing else moved: a node."""
    assert attributed(switch(1), switch(2, ports={"peer": DOWN})) is Attribution.NODE


@pytest.mark.parametrize(
    "changed",
    [
        {"ports": {"peer": DOWN, "other": DOWN}},
        {"ports": {"peer": DOWN, "up1": DOWN}},
        {"ports": {"peer": DOWN, "ours": DOWN}},
        {"ports": {"peer": PortState.UNKNOWN}},
        {"ports": {"peer": DOWN}, "topology_changes": 8},
        {"ports": {"peer": DOWN}, "mlag_peer": Up.DOWN},
        {"ports": {"peer": DOWN}, "uptime_s": 1.0},
        {"ports": {"peer": UP}},
    ],
)
def test_not_a_dead_node_for_sure(changed: dict[str, Any]) -> None:
    """Anything else moving, or the port unread or up, is no evidence of a dead node."""
    assert attributed(switch(1), switch(2, **changed)) is Attribution.UNKNOWN


def test_stale_or_silent_switch_says_nothing() -> None:
    """An answer older than its limit, or one missed poll since, is no evidence."""
    story = (switch(1), switch(2, ports={"peer": DOWN}))
    assert attributed(*story, now=5.0) is Attribution.NODE
    assert attributed(*story, now=5.1) is Attribution.UNKNOWN
    assert attributed(*story, silent(3)) is Attribution.UNKNOWN


def test_never_looked() -> None:
    """No sighting, or no port of the peer configured, is no evidence."""
    assert target_ports_down(Network.at_start(at(0)), at(1), POLICY) is Attribution.UNKNOWN
    assert attributed(switch(1, ports={"peer": DOWN}), policy=Sight()) is Attribution.UNKNOWN


@pytest.mark.parametrize(
    ("kept", "up", "expected"),
    [
        ({Owner.UPLINK, Owner.OURS}, {"up1": UP, "ours": UP}, Attribution.NODE),
        ({Owner.UPLINK, Owner.OURS}, {"up1": UP, "ours": DOWN}, Attribution.UNKNOWN),
        ({Owner.UPLINK, Owner.OURS}, {"up1": DOWN, "ours": UP}, Attribution.UNKNOWN),
        ({Owner.OURS}, {"ours": UP}, Attribution.UNKNOWN),
        ({Owner.OURS, Owner.PEER_LINK}, {"ours": UP, "pl": UP}, Attribution.UNKNOWN),
        ({Owner.OTHER}, {"other": UP}, Attribution.NODE),
        ({Owner.OTHER}, {"other": DOWN}, Attribution.UNKNOWN),
    ],
)
def test_which_ports_witness(kept: set[Owner], up: dict[str, PortState], expected: Attribution) -> None:
    """Another pair's port is witness enough; without one it takes an uplink and one more port."""
    policy = replace(POLICY, ports=tuple(p for p in POLICY.ports if p.owner in kept | {Owner.PEER}))
    assert attributed(switch(1, ports=up), switch(2, ports={**up, "peer": DOWN}), policy=policy) is expected


def test_two_servers_at_once_are_no_dead_node() -> None:
    """Another pair's port that dropped just now spoils the evidence though one more is up; long ago it does not."""
    policy = replace(POLICY, ports=(*POLICY.ports, OwnedPort(SW, "other2", Owner.OTHER)))
    both = {"peer": DOWN, "other": DOWN, "other2": UP}
    assert attributed(switch(1), switch(2, ports=both), policy=policy) is Attribution.UNKNOWN
    later = [switch(t, ports=both) for t in (2, 13)]
    assert attributed(switch(1), *later, policy=policy) is Attribution.NODE


def test_every_port_of_the_peer_counts() -> None:
    """A peer with ports on two switches is a dead node only if both say so."""
    twin = replace(
        POLICY,
        ports=(*POLICY.ports, OwnedPort("sw2", "peer", Owner.PEER), OwnedPort("sw2", "other", Owner.OTHER)),
    )
    cut = {"peer": DOWN}
    one = (switch(1), switch(1, name="sw2"), switch(2, ports=cut))
    assert attributed(*one, switch(2, name="sw2"), policy=twin) is Attribution.UNKNOWN
    assert attributed(*one, switch(2, name="sw2", ports=cut), policy=twin) is Attribution.NODE
    assert attributed(*one, switch(2, name="sw2", topology_changes=8), policy=twin) is Attribution.NETWORK


def test_steady_again_after_a_while() -> None:
    """A change long over no longer contradicts: the death that follows is a node's."""
    story = [switch(1), switch(2, topology_changes=8)]
    story += [switch(t, topology_changes=8) for t in range(3, 12)]
    assert attributed(*story, switch(13, topology_changes=8, ports={"peer": DOWN})) is Attribution.NODE


# ---------------------------------------------------------------- any order

_up = st.sampled_from(list(Up))
_int = st.none() | st.integers(0, 2**32 - 1)
_word = st.none() | st.sampled_from(["a", "b", NO_PARTNER])
_stp = st.sampled_from(["forwarding", "blocking", "learning", "disabled", "broken"])
_names = st.sampled_from(sorted(PORTS))
_links = st.builds(
    LinkSighting,
    name=st.sampled_from(["bond0", "eth0", "veth9"]),
    at=st.just(Instant(0)),
    carrier=_up,
    carrier_changes=_int,
    kind=st.sampled_from([None, "bond"]),
    lacp_partner=_word,
    stp_state=st.none() | _stp,
    lacp_state=st.sampled_from([None, "in-sync", "expired"]),
)
_switches = st.builds(
    SwitchSighting,
    switch=st.sampled_from([SW, "sw2"]),
    at=st.integers(0, 10**11).map(Instant),
    answered=st.booleans(),
    engine_id=_word,
    engine_boots=_int,
    engine_time_s=_int,
    uptime_s=st.none() | st.floats(0, UPTIME_WRAP_S),
    topology_changes=_int,
    stp_root=_word,
    ports=st.dictionaries(_names, st.sampled_from(list(PortState))).map(lambda d: tuple(d.items())),
    stp_ports=st.dictionaries(_names, _stp).map(lambda d: tuple(d.items())),
    lag_changed=_int,
    mlag_peer=st.none() | _up,
    mlag_peer_link=st.none() | _up,
    mlag_role=_word,
)
_events = st.one_of(
    _links,
    _switches,
    st.builds(BusSeen, st.booleans()),
    st.builds(ReplicationSeen, st.booleans(), st.sampled_from([True, False, None])),
    st.builds(WatcherSeen, st.sampled_from(["a", "b"]), st.booleans()),
    st.builds(StormSeen, st.booleans()),
    st.builds(PeerAliveSeen, st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), _events), max_size=30))
def test_any_order(story: list[tuple[float, Sighting]]) -> None:
    """Any story keeps the books: no crash, no sign open twice, quiet exactly when nothing is open, told = opened."""
    network, now = Network.at_start(at(0)), 0.0
    for pause, event in story:
        now += pause
        before = network
        network, signs = step(network, event, at(now), POLICY)
        keys = [(s.kind, s.source, s.port) for s in network.open]
        assert len(keys) == len(set(keys))
        assert (network.quiet_since is None) == bool(network.open)
        assert [s for s in signs if s.standing] == [s for s in network.open if s not in before.open]
        assert all(s.at == at(now) for s in signs)
        if signs:
            assert network.disturbed(at(now))
        assert target_ports_down(network, at(now), POLICY) in Attribution


@settings(max_examples=150, deadline=None)
@given(_links | _switches)
def test_no_first_sighting_is_a_sign(event: LinkSighting | SwitchSighting) -> None:
    """The first sighting of anything makes no sign, whatever it says."""
    assert step(Network.at_start(at(0)), event, at(1), POLICY)[1] == ()
