"""What is known of stock agents: how long their packets may act, and how one is asked whether it starts."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fencing import manifest
from fencing.stock import (
    CONTROLLER,
    LANPLUS_DEFAULT,
    RMCP_PLUS_S,
    SNMP,
    SNMPV3_S,
    TCP,
    TCP_S,
    clash,
    horizon_s,
    one_stream,
)

ROOT = Path(__file__).parents[2]
HACLUSTER = CONTROLLER in {user.pw_name for user in pwd.getpwall()} and Path("/usr/bin/python3").exists()
V3 = {"snmp_version": "3", "snmp_sec_level": "authPriv"}
Script = Callable[[str], str]


@pytest.mark.parametrize(
    ("agent", "options", "horizon"),
    [
        ("fence_ipmilan", {"lanplus": "1"}, RMCP_PLUS_S),
        ("fence_ipmilan", {"lanplus": "true"}, RMCP_PLUS_S),
        ("fence_ipmilan", {"lanplus": " YES "}, RMCP_PLUS_S),
        ("fence_ipmilan", {}, None),
        ("fence_idrac", {"lanplus": "0"}, None),
        ("fence_ilo4", {}, RMCP_PLUS_S),
        ("fence_ilo4", {"lanplus": "off"}, None),
        ("fence_ilo4", {"lanplus": ""}, None),
        ("fence_redfish", {}, TCP_S),
        ("fence_redfish", V3, TCP_S),
        ("fence_apc", {"ssh": "1"}, TCP_S),
        ("fence_apc_snmp", V3, SNMPV3_S),
        ("fence_apc_snmp", {"snmp-version": "3", "snmp-sec-level": "authNoPriv"}, SNMPV3_S),
        ("fence_apc_snmp", {"snmp_version": " 3 ", "snmp_sec_level": " AUTHPRIV "}, SNMPV3_S),
        ("fence_apc_snmp", {"snmp_version": "3", "snmp_sec_level": "noAuthNoPriv"}, None),
        ("fence_apc_snmp", {"snmp_version": "3"}, None),
        ("fence_apc_snmp", {"snmp_version": "2c", "snmp_sec_level": "authPriv"}, None),
        ("fence_apc_snmp", {"snmp_sec_level": "authPriv"}, None),
        ("fence_apc_snmp", {}, None),
        ("fence_sbd", {}, None),
        ("fence_of_mine", {"lanplus": "1", **V3}, None),
    ],
)
def test_horizon(agent: str, options: dict[str, str], horizon: float | None) -> None:
    """H follows agent and transport; what is not known has no bound."""
    assert horizon_s(agent, options) == horizon


def test_only_what_speaks_tcp_leaves_nothing_after_a_clean_end() -> None:
    """S4: a datagram's first copy may lie in the frozen network when a later one was answered."""
    assert all(one_stream(agent) for agent in TCP)
    assert not any(one_stream(agent) for agent in (*SNMP, *LANPLUS_DEFAULT, "fence_of_mine"))


# ------------------------------------------------------------------ whether an agent starts


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def written(body: str) -> str:
        agent = tmp_path / "fence_of_mine"
        agent.write_text(f"#!/bin/sh\n{body}\n")
        agent.chmod(0o755)
        return str(agent)

    return written


def test_an_agent_that_says_its_metadata_starts(script: Script) -> None:
    """Asked as Pacemaker asks, from the root folder, with nothing to read and nothing of our own environment."""
    agent = script(
        'test "$1 $2 $#" = "-o metadata 2" && test "$(pwd)" = / && test -z "$(cat)" && test -z "$PYTHONPATH$HOME$VENV" '
        "&& env | grep -qx LANG=C.UTF-8 && env | grep -q ^PATH=/ && echo '<resource-agent name=\"x\">'"
    )
    assert clash(agent) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param("echo first >&2; echo 'the last word' >&2; exit 1", "the last word", id="its own last word"),
        pytest.param("exit 3", "exit code 3", id="no word"),
        pytest.param("echo something else", "exit code 0", id="no metadata"),
        pytest.param("echo '<resource-agent>'; exit 1", "exit code 1", id="metadata, and then it failed"),
        pytest.param("printf 'not \\377 text' >&2; exit 1", "not \ufffd text", id="no text"),
    ],
)
def test_an_agent_that_does_not_start_is_told_by_what_it_said(script: Script, body: str, said: str) -> None:
    """A person reads this in `check`: the last line of a traceback names the error."""
    agent = script(body)
    assert clash(agent) == f"{agent} does not start: {said}"


def test_an_agent_that_cannot_be_run_is_told_so(tmp_path: Path) -> None:
    """Not installed, or made for an interpreter that is not there."""
    assert clash("fence_of_nowhere") == "fence_of_nowhere is not installed"
    agent = tmp_path / "fence_of_mine"
    agent.write_text("#!/no/such/interpreter\n")
    agent.chmod(0o755)
    said = clash(str(agent))
    assert said is not None
    assert said.startswith(f"{agent} does not start: ")


def test_a_user_that_this_machine_does_not_have_asks_nothing(script: Script) -> None:
    """Without Pacemaker nobody asks as its controller."""
    assert clash(script("exit 1"), user="no-such-user-here") is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not HACLUSTER, reason="needs root, Pacemaker's user and the system's Python")
def test_an_agent_is_asked_with_the_rights_of_that_user_alone(open_folder: Path) -> None:
    """Its own group, and none that root had."""
    user = pwd.getpwnam(CONTROLLER)
    agent = open_folder / "fence_of_mine"
    agent.write_text(
        f'#!/bin/sh\ntest "$(id -u) $(id -G)" = "{user.pw_uid} {user.pw_gid}" && echo "<resource-agent>"\n'
    )
    agent.chmod(0o755)
    assert clash(str(agent), user=CONTROLLER) is None


# ------------------------------------------------------------------ what our own agent says of itself


def test_our_metadata_offers_what_the_agent_takes() -> None:
    """Pacemaker passes only what is offered, fills in what has a default, and must not unfence with this device."""
    told = ElementTree.fromstring(manifest.metadata())  # noqa: S314 - our own text
    parameters = {p.attrib["name"]: p for p in told.iter("parameter")}
    assert list(parameters) == ["action", "delegate", "nodename", "plug", "port", "socket", "wait_s"]
    assert [name for name, p in parameters.items() if p.attrib["required"] == "1"] == ["action"]
    assert parameters["plug"].attrib["obsoletes"] == "port"
    assert {p.attrib["unique"] for p in parameters.values()} == {"0"}
    content = {name: p.find("content") for name, p in parameters.items()}
    assert {name: c.attrib.get("default") for name, c in content.items() if c is not None} == {
        **dict.fromkeys(parameters),
        "socket": manifest.SOCKET,
        "wait_s": str(manifest.WAIT_S),
    }
    assert {name for name, c in content.items() if c is not None and c.attrib["type"] == "second"} == {"wait_s"}
    for parameter in parameters.values():
        text, getopt = parameter.find("shortdesc"), parameter.find("getopt")
        assert text is not None
        assert text.text
        assert getopt is not None
        assert getopt.attrib["mixed"].startswith("-")
    actions = {a.attrib["name"]: a.attrib.get("automatic") for a in told.iter("action")}
    assert actions == {**dict.fromkeys(manifest.ACTIONS), "on": "0"}
