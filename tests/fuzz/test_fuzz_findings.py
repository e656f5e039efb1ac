"""What the fuzzer found, each once: the input, and what it must be now (tests/captures/fuzz/README.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fencing import fence_peer, sockdiag
from fencing.client import BrokenAnswerError, _parsed
from guard.adapters import blockstat, cib, command_cluster, control, corosync, drbd_config, drbd_text
from guard.adapters.snmp_profile import parse_profile
from guard.adapters.traps import is_snmp
from guard.core.evidence import Up
from guard.core.instant import Instant
from guard.errors import SettingsError, Unavailable, Unreadable
from guard.settings import load_guard
from tests.fuzz.targets import CAPTURES

NODES, DEVICES = ("fs1a", "fs1b"), ("dev-fs1a", "dev-fs1b")


def text(name: str) -> str:
    return (CAPTURES / name).read_text()


def forecast(said: str) -> object:
    return cib.forecast(said, known=NODES, lost=None, fence_devices=DEVICES)


REFUSED: dict[str, Callable[[str], object]] = {
    "quorum/member-row-garbled.txt": corosync.quorum,  # read: the peer is no member
    "quorum/member-row-cut.txt": corosync.quorum,  # the same
    "quorum/two-answers.txt": corosync.quorum,  # read: quorate, by the last of two answers
    "history/unknown-element.xml": cib.shots,  # read: nothing is pending
    "history/event-lost.xml": cib.shots,  # the same
    "crm-mon/promoted-nowhere.xml": cib.monitor,  # read: promoted on no node
    "cib/nested-too-deeply.xml": lambda said: cib.dump(cib.document(said, "it")),  # RecursionError
    "drbd-status/second-volume-lost.txt": drbd_text.parse_status,  # read: UpToDate, beside an Inconsistent volume
    "drbd-status/number-of-5000-digits.txt": drbd_text.parse_status,  # ValueError
    "proc-drbd/minor-of-5000-digits.txt": drbd_text.parse_proc_drbd,  # ValueError
    "drbd-config-files/nested-too-deeply.txt": lambda said: drbd_config.configured(said, "r0"),  # RecursionError
    "drbd-status-json/nested-too-deeply.json": drbd_text.parse_status_json,  # RecursionError
    "drbd-status-json/infinite-volume.json": drbd_text.parse_status_json,  # OverflowError
    "command-view/nested-too-deeply.json": lambda said: command_cluster.view(said, Instant(0)),  # RecursionError
    "control-answer/nested-too-deeply.json": lambda said: control._taken(said.encode(), None),  # RecursionError
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_is_refused(name: str) -> None:
    """Where nothing can be known for certain, nothing is."""
    with pytest.raises(Unreadable):
        REFUSED[name](text(name))


@pytest.mark.parametrize("path", sorted((CAPTURES / "settings").glob("*")), ids=lambda path: path.stem)
def test_settings_stop_the_start_with_their_reason(path: Path) -> None:
    """Ended before in RecursionError, OverflowError, ValueError, an infinite limit and a path no kernel takes."""
    with pytest.raises(SettingsError) as refused:
        load_guard([path])
    assert str(path) in str(refused.value)


def test_a_profile_stops_the_start_with_its_reason() -> None:
    """Ended in a RecursionError before."""
    with pytest.raises(SettingsError):
        parse_profile(text("profile/nested-too-deeply.toml"), "x")


def test_votes_that_are_not_told_are_no_two_votes() -> None:
    """Read before: two votes, so that a claim needed no quorum."""
    seen = corosync.quorum(text("quorum/expected-votes-garbled.txt"))
    assert (seen.expected, seen.votes_three(), seen.quorate) == (None, True, False)
    assert corosync.quorum(text("quorum/number-of-5000-digits.txt")).expected is None


def test_a_link_that_may_be_disabled_is_unknown() -> None:
    """Read before: enabled, hence up."""
    assert set(corosync.links(text("knet/enabled-not-told.txt"), 2).values()) == {Up.UNKNOWN}


def test_a_node_that_may_be_joining_is_unknown() -> None:
    """Read before: up."""
    assert set(cib.monitor(text("crm-mon/pending-not-told.xml")).online.values()) == {Up.UNKNOWN}


def test_a_forecast_with_another_injection_proves_nothing() -> None:
    """Read before: with nothing injected, the cluster fences nobody."""
    said = forecast(text("forecast/injection-garbled.xml"))
    assert getattr(said, "error", None) is not None


def test_a_forecast_with_unknown_actions_proves_nothing() -> None:
    """Read before: harmless."""
    with pytest.raises(Unreadable):
        cib.forecast(text("forecast/unknown-actions.xml"), known=NODES, lost="fs1b", fence_devices=DEVICES)
    with pytest.raises(Unreadable):
        forecast(text("forecast/unknown-injection.xml"))


def test_endless_numbers_are_no_numbers() -> None:
    """Each ended in a ValueError before: Python turns at most 4300 digits into an int."""
    assert blockstat.completed_writes(text("block-stat/number-of-5000-digits.txt")) is None
    assert fence_peer.role_in(text("proc-drbd-handler/minor-of-5000-digits.txt"), [0]) is None
    said = text("handler-environment/minor-of-5000-digits.txt").partition("=")[2]
    assert fence_peer.question("r0", {"DRBD_MINOR": said})["minors"] == []


def test_the_agents_take_a_nested_answer_for_none() -> None:
    """Ended in a RecursionError before."""
    with pytest.raises(BrokenAnswerError):
        _parsed(text("control-answer/nested-too-deeply.json").encode())


@pytest.mark.parametrize("name", ["trap/private-tag.bin", "trap/application-tag.bin"])
def test_a_datagram_of_anybody_is_no_trap(name: str) -> None:
    """Each ended in a TypeError of pyasn1's decoder before, inside asyncio's own loop; found by `make fuzz`."""
    assert is_snmp((CAPTURES / name).read_bytes()) is False


@pytest.mark.parametrize("name", ["short-message.bin", "short-cgroup.bin"])
def test_half_a_socket_is_no_socket(name: str) -> None:
    """Ended in IndexError and struct.error before."""
    with pytest.raises(Unreadable):
        list(sockdiag.parsed(2, 6, [(20, (CAPTURES / "kernel-sockets" / name).read_bytes())]))


def test_an_error_that_the_kernel_does_not_have_is_an_error() -> None:
    """Ended in an OverflowError before, inside the words for people; found by `make fuzz`."""
    said = (CAPTURES / "kernel-sockets" / "error-without-a-name.bin").read_bytes()
    with pytest.raises(Unavailable):
        list(sockdiag.parsed(2, 6, [(sockdiag.NLMSG_ERROR, said)]))


def test_every_finding_is_named_here() -> None:
    """A file without a test would say nothing."""
    here = Path(__file__).read_text()
    known = [p for p in CAPTURES.glob("*/*") if f"{p.parent.name}/{p.name}" in here or p.parent.name == "settings"]
    assert {p for p in CAPTURES.glob("*/*") if p.parent.name != "kernel-sockets"} <= set(known)
