"""The lab itself: pairs form, a freeze is one, switches tell the truth, our settings are accepted, nothing is left."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guard.adapters.snmp_profile import read_profile
from tests.lab import cases, guarded
from tests.lab.fabric import AGGREGATION, FORWARD_DELAY_S_MIN, ROOT_PRIORITY, SWITCHES
from tests.lab.freeze import BlackHole, Late, StpFreeze
from tests.lab.ground import Ground, Story
from tests.lab.pairs import Site
from tests.lab.plan import Plan, nodes_of
from tests.lab.record import Interval, Record, spans, uncovered_s, union
from tests.lab.space import NETNS_DIR, LabFailed, Space, boottime, cgroup_root, run
from tests.lab.story import run as run_story
from tests.lab.story import table

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
ASK = ["snmpget", "-v2c", "-c", "pglab", "-Oqv", "-t", "2", "-r", "2"]


@pytest.fixture
def site() -> Iterator[Site]:
    """Two switches' worth of hosts without clusters: fabric and power controllers of one guarded pair, SNMP on."""
    with Site(Plan(pairs=1, guarded=True), Record("test", {})) as made:
        made.fabric.build()
        made.controllers.start()
        made.switches.start()
        made.prepare("fs1")
        yield made


def left_behind(prefix: str) -> list[str]:
    """Namespaces, cgroups and directories of a run."""
    places = [NETNS_DIR, cgroup_root(), Path("/dev/shm")]
    return [str(p) for place in places if place.is_dir() for p in place.glob(f"{prefix.rstrip('-')}*")]


def reachable(site: Site, name: str, goal: str) -> bool:
    """Whether a host can open a connection to the power controller at `goal` within half a second."""
    test = f"timeout 0.5 bash -c 'exec 3<>/dev/tcp/{goal}/6230'"
    return run(["ip", "netns", "exec", site.space.netns(name), "sh", "-c", test], check=False).returncode == 0


def soon(test: Callable[[], bool], deadline_s: float = 15.0) -> bool:
    """Whether the test holds before the deadline."""
    until = boottime() + deadline_s
    while not test():
        if boottime() > until:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_a_stock_pair_forms_freezes_and_leaves_its_records(tmp_path: Path) -> None:
    """One stock pair forms, is frozen by STP and thawed, nodes are shot, and record and picture say so."""
    plan = Plan(pairs=1, seconds=8, watch_s=6)
    record = run_story(plan, tmp_path, quiet=True)
    saved = json.loads((tmp_path / "record.json").read_text())
    assert saved["marks"]["thaw"] - saved["marks"]["freeze"] > 7
    assert [row["pair"] for row in saved["rows"]] == ["fs1"]
    assert saved["rows"][0]["shot"], "nobody was shot: the stock pair did not fence"
    assert saved["rows"][0]["service_stopped_s"] is not None
    assert "<svg" in (tmp_path / "timeline.svg").read_text()
    assert "fs1a" in table(record)
    assert (tmp_path / "logs" / "fs1a" / "pacemaker" / "pacemaker.log").exists()


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_a_black_hole_drops_and_heals_with_links_up(site: Site) -> None:
    """A black hole cuts acc1 from acc2 while every link and spanning tree port stays as it is, and its end heals it."""
    site.fabric.wait_forwarding()
    assert soon(lambda: reachable(site, "fs1a", "10.77.100.2"))
    across, before = "10.77.100.2", site.fabric.port_states("acc1")
    hole = BlackHole(site.fabric, 1)
    hole.begin()
    assert not reachable(site, "fs1a", across)
    assert site.fabric.port_states("acc1") == before
    hole.end()
    assert soon(lambda: reachable(site, "fs1a", across))


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_a_spanning_tree_freeze_takes_down_whichever_switch_is_root(site: Site) -> None:
    """Twice in a row acc1 and acc2 are cut apart, by another root each time, and the lost one is back as second."""
    fabric, across = site.fabric, "10.77.100.2"
    fabric.agree("agg1", ROOT_PRIORITY, SWITCHES)
    fabric.wait_forwarding()
    for root, other in (AGGREGATION, AGGREGATION[::-1]):
        assert soon(lambda: reachable(site, "fs1a", across))
        freeze = StpFreeze(fabric, 2 * FORWARD_DELAY_S_MIN)
        freeze.begin()
        assert freeze.root == root
        assert not reachable(site, "fs1a", across)
        fabric.wait_forwarding()
        freeze.end()
        freeze.restore()
        assert fabric.root() == (other, ROOT_PRIORITY)
        assert not set(fabric.port_states("acc1").values()) <= {"disabled", "blocking"}
        assert reachable(site, "fs1a", across), "the return of the lost switch was another freeze"


@pytest.mark.root
@needs_root
def test_a_freeze_that_cut_nobody_fails_its_case(tmp_path: Path) -> None:
    """The nodes' own logs since the freeze say what was cut: nobody ends the case, one node breaks a promise."""
    with Site(Plan(pairs=1, guarded=True), Record("test", {})) as made:
        ground, told = Ground(made, tmp_path, print), Story("test", "", boottime())
        for node in made.nodes.values():
            node.write("/var/log/pglab/pairguardd.log", said_now("replication-lost"))
        made.record.mark("freeze")
        with pytest.raises(LabFailed, match="the freeze cut nobody"):
            cases.cut(ground, told, ["fs1"])
        assert told.promises == []
        made.nodes["fs1a"].write("/var/log/pglab/pairguardd.log", said_now("replication-lost"))
        for node in made.nodes.values():
            node.write("/var/log/corosync/corosync.log", "... [QUORUM] Sync left[1]: 2\n")
        cases.cut(ground, told, ["fs1"])
        assert [kept for _, kept, _ in told.promises] == [False, True]
        assert told.broken == ["fs1: the freeze cut replication at both nodes (found: at ['fs1a'])"]


def said_now(event: str) -> str:
    """A line of the guard's log."""
    return json.dumps({"event": event, "message": "", "ts": datetime.now(UTC).isoformat()}) + "\n"


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_what_is_held_comes_out_late(site: Site) -> None:
    """A datagram sent while frames are held arrives after the release, not never."""
    site.fabric.wait_forwarding()
    late = Late(site.fabric, 1)
    late.prepare()
    sender = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for n in range(200): s.sendto(b'%d' % n + b'.' * 64, ('10.77.100.2', 9))"
    )
    reader = site.space.inside("bmc2", _udp_reader)
    try:
        _python(
            site,
            "fs1a",
            "import socket; socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'first',('10.77.100.2',9))",
        )
        assert reader.recv(100) == b"first"  # and both ends know each other's address now
        late.begin()
        _python(site, "fs1a", sender)
        early = _drain(reader, 0.5)
        late.end()
        assert len(early) < 200
        assert len(early) + len(_drain(reader, 2.0)) == 200
    finally:
        reader.close()


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_the_switches_tell_the_truth(site: Site) -> None:
    """snmpd serves live state: a port taken down reads down, a change is counted, the profile's objects answer."""
    site.fabric.wait_forwarding()
    index = site.fabric.interface_indexes("acc1")["fs1a"]
    inside = ["ip", "netns", "exec", site.space.netns("bmc1"), *ASK, "10.77.200.11"]
    assert run([*inside, f"1.3.6.1.2.1.2.2.1.8.{index}"]).stdout.strip() == "1"
    profile = read_profile(guarded.PROFILE)
    for entry in profile.mlag:
        answer = run([*inside[:-1], "10.77.200.2", entry.oid]).stdout.strip()
        assert answer in {**entry.meaning, **entry.words}
    site.fabric.port("fs1a", up=False)
    assert run([*inside, f"1.3.6.1.2.1.2.2.1.8.{index}"]).stdout.strip() == "2"
    changes = int(run([*inside, "1.3.6.1.2.1.17.2.4.0"]).stdout)
    site.fabric.links([("acc1", "agg1")], up=False)
    assert soon(lambda: int(run([*inside, "1.3.6.1.2.1.17.2.4.0"]).stdout) > changes)


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_our_settings_are_accepted(site: Site, tmp_path: Path) -> None:
    """The product's own loader takes what the lab renders for a node and for the witness."""
    from guard.settings import load_guard, load_witness

    for name in nodes_of("fs1"):
        path = tmp_path / f"{name}.toml"
        path.write_text(site.nodes[name].read("/etc/pairguard/pairguard.toml"))
        settings, _ = load_guard([path])
        assert settings.pair.node == name
        assert {port.owner for switch in settings.switch for port in switch.ports} >= {
            "ours",
            "peer",
            "uplink",
            "peer-link",
        }
    (tmp_path / "witness.toml").write_text(guarded.toml(guarded.witness_settings(site)))
    load_witness([tmp_path / "witness.toml"])


@pytest.mark.lab
@pytest.mark.root
@needs_root
def test_nothing_is_left_behind() -> None:
    """After a failure in the middle no namespace, cgroup, process or directory of the run is left."""
    prefixes: list[str] = []

    def fail_in_the_middle() -> None:
        with Site(Plan(pairs=1, replication="stateful"), Record("test", {})) as made:
            prefixes.append(made.space.prefix)
            made.fabric.build()
            assert left_behind(made.space.prefix)
            raise LabFailed("on purpose")

    with pytest.raises(LabFailed):
        fail_in_the_middle()
    assert left_behind(prefixes[0]) == []


@pytest.mark.root
@needs_root
def test_two_labs_in_one_process_do_not_meet() -> None:
    """Two runs have different prefixes, so neither can touch the other's namespaces."""
    with Space() as one, Space() as other:
        one.add_netns("x")
        other.add_netns("x")
        assert one.netns("x") != other.netns("x")


def test_time_that_no_interval_covers() -> None:
    """Overlapping and open intervals are counted once, and only inside the window."""
    found = spans([1.0, 5.0], [2.0], until_s=9.0)
    assert found == [Interval(1.0, 2.0), Interval(5.0, 9.0)]
    assert union([Interval(0, 2), Interval(1, 3), Interval(5, 6)]) == [Interval(0, 3), Interval(5, 6)]
    assert uncovered_s([*found, Interval(1.5, 3.0)], Interval(0.0, 6.0)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "words", [{"pairs": 0}, {"freeze": "stop"}, {"seconds": 3}, {"guarded": True, "replication": "stateful"}]
)
def test_a_plan_that_cannot_be_is_refused(words: dict[str, object]) -> None:
    """A plan says what is wrong with it before anything is made."""
    with pytest.raises(LabFailed, match=r"cannot|lasts"):
        Plan(**words)  # type: ignore[arg-type]


def _udp_reader():  # type: ignore[no-untyped-def]
    import socket

    reader = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reader.bind(("0.0.0.0", 9))  # noqa: S104 - inside the lab's own namespace
    reader.settimeout(5)
    return reader


def _python(site: Site, name: str, code: str) -> None:
    run(["ip", "netns", "exec", site.space.netns(name), "/usr/bin/python3", "-c", code])


def _drain(reader, quiet_s: float) -> list[bytes]:  # type: ignore[no-untyped-def]
    """What comes until nothing has come for `quiet_s`."""
    reader.settimeout(quiet_s)
    found: list[bytes] = []
    while True:
        try:
            found.append(reader.recv(200))
        except TimeoutError:
            return found
