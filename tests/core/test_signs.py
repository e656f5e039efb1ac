"""Where each sign of change says it was seen, and the edges of the limits by which it is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_disturbance import DOWN, POLICY, PORTS, SW, UP, at, link, play, silent, switch

from guard.core.disturbance import COUNTER32, COUNTER_WRAP_NEAR, NO_PARTNER, UPTIME_WRAP_S
from guard.core.evidence import SignKind, Up
from guard.core.sight import BusSeen, PeerAliveSeen, ReplicationSeen, StormSeen, WatcherSeen

K = SignKind
FLAP = [(t, switch(t, ports={"peer": state})) for t, state in enumerate((UP, DOWN, UP, DOWN, UP, DOWN), 1)]
BROKEN = [(t, ReplicationSeen(up, True)) for t, up in enumerate((True, False, True, False, True, False, True), 1)]
BRIDGE = {"stp_state": "forwarding"}

TOLD = {  # the story; of its last sign: kind, source, port, standing; the sighting that clears it, if one does
    "the bus": ([BusSeen(True), BusSeen(False)], (K.BUS_LOST, "bus", None, True), BusSeen(True)),
    "a watcher": (
        [WatcherSeen("snmp", False)], (K.WATCHER_LOST, "snmp", None, True), WatcherSeen("snmp", True),
    ),
    "a storm": ([StormSeen(True)], (K.STORM, "arbiter", None, True), StormSeen(False)),
    "a living peer": ([PeerAliveSeen(True)], (K.PEER_ALIVE, "peer", None, True), PeerAliveSeen(False)),
    "no carrier": (
        [link(1), link(2, carrier=Up.DOWN)], (K.MEMBER_CARRIER, "links", "eth0", True), link(3),
    ),
    "no carrier of the bond": (
        [link(1, "bond0", kind="bond"), link(2, "bond0", Up.DOWN, kind="bond")],
        (K.BOND_CARRIER, "links", "bond0", True), link(3, "bond0"),
    ),
    "a carrier that moved unseen": (
        [link(1, carrier_changes=4), link(2, carrier_changes=6)], (K.MEMBER_CARRIER, "links", "eth0", False), None,
    ),
    "no LACP partner": (
        [link(1, lacp_partner="02:00"), link(2, lacp_partner=NO_PARTNER)],
        (K.LACP_PARTNER, "links", "eth0", False), None,
    ),
    "out of its LAG": (
        [link(1, lacp_state="in-sync"), link(2, lacp_state="expired")],
        (K.LACP_PARTNER, "links", "eth0", False), None,
    ),
    "our bridge port": (
        [link(1, **BRIDGE), link(2, stp_state="blocking")], (K.PATH_PORT_FLAP, "bridge", "eth0", True),
        link(3, **BRIDGE),
    ),
    "a silent switch": ([switch(1), silent(2), silent(3)], (K.SWITCH_SILENT, SW, None, True), switch(4)),
    "a restarted switch": ([switch(1), switch(2, engine_boots=4)], (K.SWITCH_RESTARTED, SW, None, False), None),
    "another root": ([switch(1), switch(2, stp_root="other")], (K.TOPOLOGY_CHANGE, SW, None, False), None),
    "a topology change": ([switch(1), switch(2, topology_changes=8)], (K.TOPOLOGY_CHANGE, SW, None, False), None),
    "an MLAG peer": ([switch(1), switch(2, mlag_peer=Up.DOWN)], (K.MLAG_PEER_LOST, SW, None, True), switch(3)),
    "an MLAG peer link": (
        [switch(1), switch(2, mlag_peer_link=Up.DOWN)], (K.PEER_LINK_DOWN, SW, None, True), switch(3),
    ),
    "an MLAG role": ([switch(1), switch(2, mlag_role="secondary")], (K.MLAG_ROLE, SW, None, False), None),
    "our port": ([switch(1), switch(2, ports={"ours": DOWN})], (K.PATH_PORT_FLAP, SW, "ours", True), switch(3)),
    "an uplink": ([switch(1), switch(2, ports={"up1": DOWN})], (K.PATH_PORT_FLAP, SW, "up1", True), switch(3)),
    "a peer link's port": ([switch(1), switch(2, ports={"pl": DOWN})], (K.PEER_LINK_DOWN, SW, "pl", True), switch(3)),
    "our port does not forward": (
        [switch(1), switch(2, stp_ports=(("ours", "blocking"),))], (K.TOPOLOGY_CHANGE, SW, "ours", True), switch(3),
    ),
    "an uplink that blocks": (
        [switch(1), switch(2, stp_ports=(("up1", "blocking"),))], (K.TOPOLOGY_CHANGE, SW, "up1", False), None,
    ),
    "an uplink on its way": (
        [switch(1), switch(2, stp_ports=(("up1", "listening"),))], (K.TOPOLOGY_CHANGE, SW, "up1", True), switch(3),
    ),
    "the peer's port again and again": ([e for _, e in FLAP], (K.PATH_PORT_FLAP, SW, "peer", False), None),
    "replication again and again": ([e for _, e in BROKEN], (K.REPLICATION_FLAP, "replication", None, False), None),
}  # fmt: skip


@pytest.mark.parametrize("what", TOLD)
def test_a_sign_says_what_it_is_where_and_since_when(what: str) -> None:
    """Attribution, `accept` and the all-clear go by kind, source and port; a person reads the text."""
    events, expected, clear = TOLD[what]
    network, signs = play([(n, event) for n, event in enumerate(events, 1)])
    told = signs[-1]
    assert (told.kind, told.source, told.port, told.standing) == expected
    assert told.at == at(len(events))
    assert " " in told.text
    assert [s for s in network.open if s.standing] == ([told] if told.standing else [])
    assert (network.quiet_since is None) is told.standing
    if clear is not None:
        seen = play([(9, clear)], network=network)[0]
        assert (seen.open, seen.quiet_since) == ((), at(9))
        assert (seen.recent[-1].at, seen.recent[-1].standing, seen.recent[-1].text) == (
            at(9),
            False,
            f"over: {told.text}",
        )
        assert (seen.recent[-1].kind, seen.recent[-1].source, seen.recent[-1].port) == expected[:3]


def test_formed_lags_are_a_sign_only_where_the_settings_say_so() -> None:
    """The table moves with every server's reboot on most switches."""
    story = [(1, switch(1, lag_changed=5)), (2, switch(2, lag_changed=6))]
    assert play(story)[1] == []
    [sign] = play(story, replace(POLICY, lag_table_is_sign=True))[1]
    assert (sign.kind, sign.source, sign.port) == (K.LACP_PARTNER, SW, None)


@pytest.mark.parametrize(
    ("seconds", "text", "more"),
    [(2, "a text", {"text": "a text"}), (3, "", {})],
)
def test_a_text_that_was_told_is_kept(seconds: int, text: str, more: dict[str, str]) -> None:
    """And where none was told, one is made."""
    for event in (WatcherSeen("snmp", False, **more), StormSeen(True, **more), PeerAliveSeen(True, **more)):
        [sign] = play([(seconds, event)])[1]
        assert sign.text == text if text else len(sign.text) > 10


def test_what_a_look_did_not_say_keeps_what_was_known_of_our_interface() -> None:
    """Unknown is not worse, and the next word is held against the last one that was said."""
    known = {"lacp_partner": "02:00", "lacp_state": "in-sync", "stp_state": "forwarding", "carrier_changes": 4}
    network, signs = play([(1, link(1, **known)), (2, link(2, carrier=Up.UNKNOWN))])
    assert signs == []
    assert play([(3, link(3, **known))], network=network)[1] == []
    worse = link(4, carrier_changes=4, lacp_partner="02:01", lacp_state="defaulted", stp_state="listening")
    assert sorted(s.kind for s in play([(4, worse)], network=network)[1]) == [
        K.LACP_PARTNER, K.LACP_PARTNER, K.PATH_PORT_FLAP
    ]  # fmt: skip
    down = link(4, carrier=Up.DOWN, carrier_changes=5, stp_state="disabled")
    assert [s.kind for s in play([(4, down)], network=network)[1]] == [K.MEMBER_CARRIER], "its bridge port went with it"


@pytest.mark.parametrize(
    ("partner", "said"), [(NO_PARTNER, "lost its LACP partner"), ("02:01", "another LACP partner")]
)
def test_a_lost_lacp_partner_is_told_from_another_one(partner: str, said: str) -> None:
    """One is a switch that went away, the other a cable in the wrong port."""
    [sign] = play([(1, link(1, lacp_partner="02:00")), (2, link(2, lacp_partner=partner))])[1]
    assert said in sign.text


def test_an_answer_of_the_same_moment_is_one_and_an_older_one_is_none() -> None:
    """Two polls may share a moment; what was overtaken says nothing about now."""
    story = [(5, switch(5))]
    assert len(play([*story, (6, switch(5, stp_root="other"))])[1]) == 1
    assert play([*story, (6, switch(4.9, stp_root="other"))])[1] == []


@pytest.mark.parametrize(
    ("uptime_s", "passed_s", "now_s", "restarted"),
    [
        pytest.param(1000.0, 5.0, 1005.0, False, id="as it should be"),
        pytest.param(1000.0, 12.0, 1002.0, False, id="10 s behind"),
        pytest.param(1000.0, 12.0, 1001.9, True, id="more than 10 s behind"),
        pytest.param(UPTIME_WRAP_S - 15.0, 5.0, 0.0, False, id="it may have wrapped just now"),
        pytest.param(1000.0, 5.0, 900.0, True, id="it fell"),
        pytest.param(1000.0, 5.0, 3.0, True, id="it began anew"),
        pytest.param(UPTIME_WRAP_S - 2.0, 5.0, 3.0, False, id="it wrapped"),
        pytest.param(UPTIME_WRAP_S - 2.0, 5.0, 500.0, True, id="it wrapped and is too far"),
        pytest.param(UPTIME_WRAP_S - 400.0, 5.0, 3.0, True, id="it could not have wrapped yet"),
    ],
)
def test_an_uptime_that_is_not_where_it_should_be_is_a_restart(uptime_s, passed_s, now_s, restarted: bool) -> None:
    """sysUpTime wraps after 497 days, and that is none."""
    none = {"engine_boots": None, "engine_time_s": None}
    first, then = switch(1, uptime_s=uptime_s, **none), switch(1 + passed_s, uptime_s=now_s, **none)
    signs = play([(1, first), (1 + passed_s, then)])[1]
    assert [s.kind for s in signs] == [K.SWITCH_RESTARTED] * restarted


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (7, 9, "counted 2 topology changes"),
        (COUNTER32 - 1, 1, "counted 2 topology changes"),
        (COUNTER32 - COUNTER_WRAP_NEAR + 1, 0, f"counted {COUNTER_WRAP_NEAR - 1} topology changes"),
        (COUNTER32 - COUNTER_WRAP_NEAR, 0, "started its count anew"),
        (9, 7, "started its count anew"),
    ],
)
def test_a_count_of_topology_changes_that_moved_is_told(old: int, new: int, told: str) -> None:
    """It wraps at 32 bits; one that fell otherwise was started anew, by a restart or by a person."""
    [sign] = play([(1, switch(1, topology_changes=old)), (2, switch(2, topology_changes=new))])[1]
    assert told in sign.text


@pytest.mark.parametrize(
    ("peer_link", "where"),
    [
        (Up.UP, "while the peer link is up"),
        (Up.DOWN, "and so is the peer link"),
        (Up.UNKNOWN, "while"),
        (None, "while"),
    ],
)
def test_a_lost_mlag_peer_is_told_with_its_peer_link(peer_link: Up | None, where: str) -> None:
    """2012: 5 s later the peer went stand-alone. A link that was not read is as it was known."""
    signs = play([(1, switch(1)), (2, switch(2, mlag_peer=Up.DOWN, mlag_peer_link=peer_link))])[1]
    assert where in signs[0].text
    unknown = {"mlag_peer_link": None}
    [sign] = play([(1, switch(1, **unknown)), (2, switch(2, mlag_peer=Up.DOWN, **unknown))])[1]
    assert "the peer link is unknown" in sign.text


def test_other_peoples_ports_are_no_sign() -> None:
    """They witness that the switch is well; ports that nobody configured are not looked at."""
    quiet = {"other": DOWN, "nobody's": DOWN}
    stp = tuple((port, "blocking") for port in ("other", "nobody's"))
    story = [(1, switch(1, ports={"nobody's": UP})), (2, switch(2, ports=quiet, stp_ports=stp))]
    network, signs = play(story)
    assert signs == []
    assert set(network.port_changes) == {(SW, "other")}
    assert len(PORTS) == 5
