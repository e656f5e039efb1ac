"""A node's own survey: read by the parsers of `check`, and where nobody could look UNKNOWN with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guard.adapters import cib
from guard.adapters.drbd_config import parse_config
from guard.cli import facts
from guard.cli.facts import Facts, Replicas, Unseen
from guard.cli.surveying import surveyed
from guard.core.evidence import GateFacts
from guard.settings import GuardSettings, load_guard
from guard.survey import Survey, misfit, together
from tests.cli.desk import Desk, one_object, pairguard

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests" / "captures"
GATE = GateFacts("C", "resource-and-stonith", True, "block")
WALL = 1796029200.0  # 30 November 2026, 9 h UTC


def settings(node: str = "fs1a") -> GuardSettings:
    return load_guard([ROOT / "configs" / "examples" / "one-pair" / f"{node}.toml"])[0]


def seen(**changed: Any) -> Facts:
    """What was captured of real programs, and a guard that knows the register."""
    show = (CAPTURES / "drbd" / "config.nodeA.show.txt").read_text().partition("\n")[2].replace("[rc=0]", "")
    values: dict[str, Any] = {
        "cluster": facts.cluster(cib.document((CAPTURES / "check" / "sound.xml").read_text(), "sound")),
        "corosync": facts.cmap((CAPTURES / "check" / "cmap.txt").read_text()),
        "replicas": Replicas(parse_config(""), {"r0": parse_config(show)}, {"r0": GATE}),
        "status": {"pairs": [{"pair": "fs1", "register": {"preferred": "fs1a"}}]},
    }
    return Facts(**{"history": None, "sbd": None, "machine": None, "agents": None, **values, **changed})


def blind(why: str = "it does not answer") -> Facts:
    unseen = Unseen(why)
    return seen(cluster=unseen, corosync=unseen, replicas=unseen, status=unseen)


def test_what_runs_is_read_with_its_source() -> None:
    """The timers of corosync, Pacemaker and DRBD, the gate, the preferred node: as the captures have them."""
    found = surveyed(settings(), seen(), WALL)
    expected = {
        "pair.fs1.token_s": 1.5,
        "pair.fs1.consensus_s": 1.8,
        "pair.fs1.stonith_timeout_s": 900,
        "pair.fs1.drbd.r0.ping_s": 3,
        "pair.fs1.drbd.r0.timeout_s": 2,
        "pair.fs1.preferred": "fs1a",
        "fence.fs1b.wait_s": 880,
        "fence.fs1b.off_timeout_s": 900,
        "fence.fs1b.delay_s": 0,
        "fence.fs1b.horizon_s": 75,
        "node.fs1a.gate.r0.protocol": "C",
        "switch.agg1.port.Eth1/1": "fs1a",
        "switch.agg1.port.Eth1/2": "fs1b",
        "limits.agent_wait": 880,
    }
    assert {key: found.value(key) for key in expected} == expected
    assert all(fact.at == "2026-11-30T09:00:00+00:00" and fact.source for fact in found.facts.values())


def test_what_could_not_be_read_is_unknown_and_says_why() -> None:
    """Where no program answers only the settings are known: nothing falls back to what is usual."""
    found = surveyed(settings(), blind("it does not answer"), WALL)
    known = {key for key, fact in found.facts.items() if fact.value is not None}
    assert all(found.facts[key].source.startswith("settings") for key in known)
    assert found.unknown()["pair.fs1.token_s"] == "it does not answer"
    assert all(found.unknown().values())
    assert set(found.facts) == set(surveyed(settings(), seen(), WALL).facts)


def test_a_timer_that_is_no_number_is_unknown() -> None:
    """A word that we do not know is never taken for a value."""
    corosync = {**facts.cmap((CAPTURES / "check" / "cmap.txt").read_text()), "runtime.config.totem.token": "soon"}
    assert "soon" in surveyed(settings(), seen(corosync=corosync), WALL).unknown()["pair.fs1.token_s"]


def test_only_a_person_knows_where_a_path_runs() -> None:
    """However well everything answers: the paths to fence devices and arbiter are UNKNOWN until somebody says."""
    unknown = surveyed(settings(), seen(), WALL).unknown()
    assert {"arbiter.path", "fence.fs1a.path", "fence.fs1b.path"} <= set(unknown)


def test_no_secret_is_in_it() -> None:
    """Options of fence devices and credentials of switches stay where they are."""
    text = str(surveyed(settings(), seen(), WALL).json())
    for word in ("password", "community", "ipmi-fs1b", "192.0.2.22"):
        assert word not in text


def test_both_nodes_of_a_pair_say_the_same_of_what_they_share() -> None:
    """Ours and peer become names: two surveys of one pair fit together, and each adds its own gate."""
    both = together([surveyed(settings(node), seen(), WALL) for node in ("fs1a", "fs1b")])
    gates = [both.value(f"node.{node}.gate.r0.fencing") for node in ("fs1a", "fs1b")]
    assert gates == ["resource-and-stonith", "resource-and-stonith"]
    assert both.value("fence.fs1a.delegate") == both.value("fence.fs1b.delegate") == "fence_ipmilan"


def test_every_fact_is_of_its_kind() -> None:
    """What is gathered is what a survey may hold: it can be read again."""
    for each in (seen(), blind()):
        found: Survey = surveyed(settings(), each, WALL)
        assert [why for key, fact in found.facts.items() if (why := misfit(key, fact.value))] == []


def test_a_live_survey_says_what_it_could_not_reach(config: Path, desk: Desk) -> None:
    """On a machine without a cluster the command still answers, with the register's word from the guard."""
    found = one_object(pairguard("rehearse", "--site", "--json", config=config), "pairguard.survey/1")
    assert found["facts"]["pair.fs1.preferred"]["value"] == "fs1a"
    assert found["facts"]["node.fs1b.gate.r0.fencing"]["value"] is None
    assert "fs1b" in found["facts"]["node.fs1b.gate.r0.fencing"]["why"]
