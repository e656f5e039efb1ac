"""`check`: every trap is found on a configuration that has it and on no sound one; what was not seen is never fine."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guard.adapters import cib
from guard.adapters.drbd_config import Section, configured, gate_facts, parse_config
from guard.adapters.process import Ran, Runner
from guard.cli import facts, findings, identity, ladder, looking, named
from guard.cli.check import code_of, compared, looked, report, text_of
from guard.cli.facts import OWN_AGENT, Cluster, Facts, Machine, Replicas, Sbd, Unseen
from guard.cli.findings import Finding
from guard.cli.looking import Places
from guard.cli.wiring import Loaded
from guard.core.evidence import GateFacts, PendingShot, Replica, Volumes
from guard.core.instant import Instant
from guard.core.policy import Policy
from guard.errors import Unavailable
from guard.settings import GuardSettings, load_guard, load_witness
from guard.settings import seconds as settings_seconds
from tests.cli.desk import Desk, fits, held, one_object, pairguard, row, status, with_files, write_settings

CAPTURES = Path(__file__).parents[1] / "captures"
CHECK, DRBD = CAPTURES / "check", CAPTURES / "drbd"
GATE = GateFacts("C", "resource-and-stonith", True, "block")
SOUND_DRBD = "global { cmd-timeout-long 86400; } resource r0 { net { protocol C; } }"
KERNEL = "resource r0 { net { ping-int 1; ping-timeout 5; } }"


def cluster(name: str) -> Cluster:
    return facts.cluster(cib.document((CHECK / f"{name}.xml").read_text(), name))


def codes(found: Sequence[Finding]) -> set[str]:
    return {each.code for each in found}


def of_cluster(name: str) -> list[Finding]:
    seen = cluster(name)
    policy, shots = Policy(), {"fs1b": 20.0}
    rungs = ladder.rungs(policy, {}, shots, seen, None, None, None)
    timers = ladder.inversions(policy, shots, seen, rungs)
    return [*findings.cluster(seen, "fs1a", "fs1b"), *findings.devices(seen, "fs1a", "fs1b"), *timers]


# ------------------------------------------------------------------ Pacemaker


def test_a_sound_cluster_has_no_finding() -> None:
    """Not even a note."""
    assert of_cluster("sound") == []


OTHER = {"wait-too-long": "wait>=pcmk_off_timeout", "shot-too-long": "stonith-timeout<shot"}
ALSO = {  # what the same configuration shows besides
    "equal-delays": {"bypass", "no-device"},
    "bypass": {"no-device"},
    "other-nodes": set(),
    "purge-mark": {"device-stopped"},
}


@pytest.mark.parametrize("name", sorted(file.stem for file in CHECK.glob("*.xml") if file.stem != "sound"))
def test_every_trap_of_the_configuration_is_found(name: str) -> None:
    """By the file that has it, and nothing else is: each says how to see it and how to mend it."""
    found = of_cluster(name)
    assert codes(found) == {OTHER.get(name, name)} | ALSO.get(name, set())
    for each in found:
        assert each.text
        assert each.show
        assert each.mend
    trap = next(each for each in found if each.code == OTHER.get(name, name))
    assert trap.severity == ("note" if name == "maintenance-default" else "trap")


def test_without_settings_the_cluster_is_still_looked_at() -> None:
    """Whose nodes they should be is then not known; what bypasses the guard is."""
    assert codes([*findings.cluster(cluster("other-nodes"), "", ""), *findings.devices(cluster("bypass"), "", "")]) == {
        "bypass"
    }


def test_no_two_findings_of_one_check_have_the_same_name() -> None:
    """Else `--against` would take one for the other."""
    seen = [*findings.corosync(facts.cmap((CHECK / "cmap.txt").read_text()), None)]
    seen += findings.guard(row(network={"unwatched": ["agg1", "agg2"]}))
    seen += findings.replicas(replicas(gate=GateFacts("A", "dont-care", False, "pull-ahead")))
    assert len({(each.area, each.code, each.subject) for each in seen}) == len(seen) == 8


def test_our_own_hold_is_no_hidden_maintenance() -> None:
    """The guard's own property set is not somebody else's, and a purge under it is no left-over."""
    root = cib.document((CHECK / "purge-mark.xml").read_text(), "x")
    cib.put_hold(root, "pairguard:fs1a+fs1b")
    seen = facts.cluster(root)
    assert seen.on("maintenance-mode") is True
    assert codes([*findings.cluster(seen, "fs1a", "fs1b"), *findings.devices(seen, "fs1a", "fs1b")]) == set()


def test_bootstrap_options_win_over_any_score() -> None:
    """As the scheduler reads them."""
    seen = cluster("maintenance-hidden")
    assert seen.properties["maintenance-mode"] == "false"
    root = cib.document((CHECK / "maintenance-default.xml").read_text().replace("</crm_config>", OVER), "x")
    assert facts.cluster(root).properties["maintenance-mode"] == "false"


OVER = (
    '<cluster_property_set id="x" score="INFINITY"><nvpair id="y" name="maintenance-mode" value="true"/>'
    "</cluster_property_set></crm_config>"
)


def test_new_names_of_pacemaker_3_are_known() -> None:
    """`fencing-...` is `stonith-...`."""
    text = (CHECK / "fencing-off.xml").read_text().replace('name="stonith-', 'name="fencing-')
    seen = facts.cluster(cib.document(text, "x"))
    found = [each for each in findings.cluster(seen, "fs1a", "fs1b") if each.code == "fencing-off"]
    assert [each.subject for each in found] == ["fencing-enabled"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("900s", 900), ("5min", 300), ("250ms", 0.25), ("PT1M30S", 90), ("INFINITY", facts.INFINITY)],
)
def test_durations_as_pacemaker_reads_them(text: str, seconds: float) -> None:
    """Every unit; anything else is not guessed."""
    assert facts.seconds(text) == pytest.approx(seconds)
    assert facts.seconds(f"{text} or so") is None


def test_a_pending_shot_is_a_trap() -> None:
    """Maintenance does not stop it."""
    (found,) = findings.history([PendingShot("fs1b", "reboot", "pacemaker-controld.40", "fs1a", "pending")])
    assert (found.code, found.subject, found.severity) == ("pending-shot", "fs1b", "trap")


# ------------------------------------------------------------------ corosync, sbd


def corosync(**changed: str | None) -> dict[str, str]:
    """What a real corosync says, with a second ring, and with changes; None removes."""
    seen = facts.cmap((CHECK / "cmap.txt").read_text())
    seen |= {"nodelist.node.0.ring1_addr": "10.98.0.1", "nodelist.node.1.ring1_addr": "10.98.0.2"}
    for key, value in changed.items():
        name = key.replace("__", ".")
        seen.pop(name, None)
        if value is not None:
            seen[name] = value
    return seen


def test_a_real_corosync_with_two_rings_has_no_finding() -> None:
    """two_node implies wait_for_all, which corosync then does not print."""
    assert codes(list(findings.corosync(corosync(), None))) == set()
    assert corosync()["quorum.two_node"] == "1"


@pytest.mark.parametrize(
    ("changed", "sbd", "code"),
    [
        ({"quorum__wait_for_all": "0"}, None, "no-wait-for-all"),
        ({"quorum__two_node": None}, None, "no-quorum-alone"),
        ({"quorum__auto_tie_breaker": "1"}, None, "tie-breaker"),
        ({"quorum__device__model": "net"}, Sbd(True), "qdevice-slow"),
        ({"nodelist__node__0__ring1_addr": None}, None, "one-ring"),
    ],
)
def test_traps_of_corosync(changed: dict[str, str | None], sbd: Sbd | None, code: str) -> None:
    """Each by the one key that makes it."""
    assert codes(list(findings.corosync(corosync(**changed), sbd))) == {code}


def test_traps_of_sbd() -> None:
    """Diskless with two_node, and a watchdog shorter than a freeze; none where sbd is only installed."""
    words = facts.shell_words('# a comment\nSBD_WATCHDOG_TIMEOUT="5"\nSBD_DEVICE=""\n')
    assert codes(list(findings.sbd(Sbd(True, words), corosync()))) == {"sbd-diskless", "sbd-short"}
    disk = {"SBD_DEVICE": "/dev/x", "SBD_WATCHDOG_TIMEOUT": "120"}
    assert list(findings.sbd(Sbd(True, disk), corosync())) == []
    assert list(findings.sbd(Sbd(False, words), corosync())) == []
    assert Sbd(True).watchdog_s() == 5.0


# ------------------------------------------------------------------ DRBD


def replicas(files: str = SOUND_DRBD, gate: GateFacts = GATE, name: str = "r0") -> Replicas:
    kernel = next(parse_config(KERNEL).sections("resource"))
    return Replicas(parse_config(files), {name: kernel}, {name: gate})


def test_a_sound_resource_has_no_finding() -> None:
    """A closed gate, a long limit."""
    assert list(findings.replicas(replicas())) == []


@pytest.mark.parametrize(
    "gate",
    [
        replace(GATE, protocol="A"),
        replace(GATE, fencing="dont-care"),
        replace(GATE, handler_ours=False),
        replace(GATE, on_congestion="pull-ahead"),
        GateFacts(),
    ],
)
def test_a_gate_that_is_off_is_said_in_the_words_of_the_design(gate: GateFacts) -> None:
    """Also one that cannot be proven: unknown permits nothing."""
    (found,) = findings.replicas(replicas(gate=gate))
    assert found.severity == "trap"
    assert "no automatic failover over a silent peer, ever" in found.text


def test_the_gate_of_a_real_dump() -> None:
    """drbdadm's own words: r1 of the capture has protocol B and a congestion policy, and no handler of ours."""
    text = "\n".join((DRBD / "config.nodeA.dump.txt").read_text().split("\n")[1:]).split("[rc=")[0]
    words = configured(text, "r1")
    assert words is not None
    gate = gate_facts(words, replace(words, handler=None, fencing="dont-care"))
    seen = Replicas(parse_config(text), {}, {"r1": gate})
    whats = {each.subject for each in findings.replicas(seen) if each.code == "gate-off"}
    assert whats == {
        "r1: protocol B",
        "r1: fencing dont-care",
        "r1: the fence-peer handler is not ours",
        "r1: on-congestion pull-ahead",
    }


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (SOUND_DRBD.replace("resource r0 {", "resource r0 { options { quorum majority; }"), "fencing-and-quorum"),
        (SOUND_DRBD + " common { options { quorum majority; } }", "fencing-and-quorum"),
        (SOUND_DRBD.replace("protocol C;", "protocol C; after-sb-0pri violently-as0p;"), "violent-repair"),
        (SOUND_DRBD.replace("protocol C;", "protocol C; rr-conflict violently;"), "violent-repair"),
        (SOUND_DRBD.replace("86400", "60"), "handler-cut"),
        (SOUND_DRBD.replace("86400", "0"), "handler-limit-unset"),
        ("global { cmd-timeout-long 86400; } resource other { }", "no-resource"),
    ],
)
def test_policies_that_repair_by_destroying(files: str, code: str) -> None:
    """Each by its own words in the files."""
    assert codes(list(findings.replicas(replicas(files)))) == {code}


def test_a_handler_that_shoots_by_itself() -> None:
    """In common or in a resource."""
    files = parse_config('common { handlers { fence-peer "/usr/lib/drbd/stonith_admin-fence-peer.sh"; } }')
    assert codes(list(findings.handlers(files))) == {"handler-shoots"}
    assert list(findings.handlers(parse_config(SOUND_DRBD))) == []


# ------------------------------------------------------------------ machine, settings, guard


def test_traps_of_the_machine() -> None:
    """No cgroup, corosync not real-time, DLM, an interface that is missing; a slow bond is a note."""
    bad = Machine("none is mounted", False, ("dlm_controld",), ("eth9",), ("bond0",), ("bond0",))
    found = list(findings.machine(bad))
    assert codes(found) == {"no-cgroup", "not-realtime", "dlm", "no-interface", "lacp-slow"}
    assert {each.code for each in found if each.severity == "note"} == {"lacp-slow"}
    assert list(findings.machine(Machine(None, None, ()))) == []


def settings(folder: Path, more: str = "") -> GuardSettings:
    return load_guard([write_settings(folder, keys=False, more=more)])[0]


WATCHED = '[network]\ninterfaces = ["lo"]\n[probe]\nown = "10.99.0.1"\npeer = "10.99.0.2"\n'


def switch(folder: Path) -> str:
    """A switch whose secret is in order."""
    secret = folder / "agg1.community"
    secret.write_text("lab\n")
    secret.chmod(0o600)
    return f'[[switch]]\nname = "agg1"\nhost = "10.20.31.1"\ncommunity_file = "{secret}"\n'


def test_settings_that_leave_something_unwatched(folder: Path) -> None:
    """Notes, for it is allowed."""
    assert codes(list(findings.settings(settings(folder), ()))) == {"no-probe", "no-switch", "no-interfaces"}
    assert list(findings.settings(settings(folder, WATCHED + switch(folder)), ())) == []


def test_a_fence_device_beside_the_rings_shares_their_fate(folder: Path) -> None:
    """Seen where both addresses are known; the arbiter likewise."""
    found = list(findings.settings(settings(folder, WATCHED + switch(folder)), ["10.20.30.200"]))
    assert [(each.code, each.subject) for each in found] == [("shared-fate", "fence.fs1b")]
    bus = '[bus]\nhost = "10.99.0.77"\n'
    found = list(findings.settings(settings(folder, WATCHED + switch(folder) + bus), ()))
    assert [(each.code, each.subject) for each in found] == [("shared-fate", "bus.host")]


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (row(arbiter="silent"), "arbiter-silent"),
        (row(register=None), "no-register"),
        (row(store_doubted=True), "store-doubted"),
        (row(whole=False), "not-whole"),
        (row(attested=False), "not-attested"),
        (row(pages=["storm"]), "page-storm"),
        (row(network={"unwatched": ["agg1"]}), "unwatched"),
        (held(), "holding"),
        (row(register={"winner": "fs1a"}), "era-won"),
    ],
)
def test_faults_that_the_guard_shows(seen: Mapping[str, Any], code: str) -> None:
    """Each once, and none for a pair at rest."""
    assert codes(list(findings.guard(seen))) == {code}
    assert list(findings.guard(row())) == []


def test_keys_that_are_missing_or_open_to_others(folder: Path) -> None:
    """Each named."""
    file = write_settings(folder)
    loaded, _ = load_guard([file])
    assert identity.keys(loaded.keys, "fs1a", ("arbiter", "fs1b")) == ()
    loaded.keys.private.chmod(0o644)
    (loaded.keys.public_dir / "fs1b.pub").unlink()
    wrong = identity.keys(loaded.keys, "fs1a", ("arbiter", "fs1b"))
    assert [each.key for each in wrong] == [str(loaded.keys.private), "fs1b.pub"]


# ------------------------------------------------------------------ the ladder


def test_the_ladder_is_sorted_and_unbounded_comes_last() -> None:
    """Known times first, then what is not known; every source is named."""
    kernel = {"r0": next(parse_config(KERNEL).sections("resource")), "r1": Unseen("gone")}
    seen = Replicas(Section((), ()), kernel, {})
    slow = Machine(None, None, (), (), ("bond0",), ("bond0", "bond1"))
    found = ladder.rungs(Policy(), {"fs1b": None}, {"fs1b": 20.0}, cluster("sound"), corosync(), seen, slow)
    known = [rung.s for rung in found if rung.s is not None]
    assert known == sorted(known)
    assert found[-1].name == "DRBD ping (r1)"
    by_name = {rung.name: rung.plain() for rung in found}
    assert by_name["H(fs1b)"]["s"] == "unbounded"
    for name, s in (
        ("corosync token", 1.5),
        ("corosync consensus", 1.8),
        ("DRBD ping (r0)", 1.5),
        ("probe silence", 0.4),
        ("switch: MLAG peer wait", 5.0),
        ("switch: link drop", 2.0),
        ("LACP of bond0", 90.0),
        ("LACP of bond1", 3.0),
        ("STP 2 x forward_delay", 30.0),
        ("wait_s(fence-fs1a)", 880.0),
        ("pcmk_off_timeout(fence-fs1b)", 900.0),
        ("stonith-timeout", 900.0),
        ("T_shot(fs1b)", 20.0),
    ):
        assert by_name[name]["s"] == s
        assert by_name[name]["source"]


def inverted(policy: Policy, seen: Cluster | None = None, **said: str | None) -> dict[str, str]:
    rungs = ladder.rungs(policy, {}, {"fs1b": 20.0}, seen, corosync(**said), None, None)
    return {each.code: each.severity for each in ladder.inversions(policy, {"fs1b": 20.0}, seen, rungs)}


def test_inversions_of_the_network_are_notes() -> None:
    """A token of 1.5 s stands below all the switch's waits; one of 10 s below none."""
    names = {"token<MLAG peer wait": "note", "token<link-drop wait": "note", "token<LACP short": "note"}
    assert inverted(Policy()) == names
    wide = {"runtime__config__totem__token": "10000", "runtime__config__totem__consensus": "12000"}
    assert inverted(Policy(), **wide) == {}
    assert inverted(Policy(), **(wide | {"runtime__config__totem__consensus": "11000"})) == {"consensus<token": "trap"}
    assert inverted(Policy(settle_s=25.0), **wide) == {"settle<stp": "note"}


@pytest.mark.parametrize(("settle_s", "severity"), [(5.0, "trap"), (20.0, "trap"), (20.5, None)])
def test_a_hold_that_ends_while_a_spanning_tree_is_silent(settle_s: float, severity: str | None) -> None:
    """An uplink at rest is no standing sign, so `settle` alone must outlast max_age (20 s)."""
    assert inverted(Policy(settle_s=settle_s)).get("settle<max_age") == severity


def test_an_agent_that_has_no_time_for_its_shot() -> None:
    """wait_s below claim, T_shot and read-back is a trap; below a freeze a note."""
    text = (CHECK / "sound.xml").read_text()
    for wait, expected in (("30", {"wait<shot", "wait<freeze"}), ("60", {"wait<freeze"}), ("880", set()), ("x", None)):
        seen = facts.cluster(cib.document(text.replace('value="880"', f'value="{wait}"'), "x"))
        found = ladder.inversions(Policy(), {"fs1b": 20.0}, seen, ())
        assert codes(list(found)) == (expected if expected is not None else {"wait-unreadable"})


def test_a_dead_peer_that_replication_notices_late() -> None:
    """ping-int of 10 s against a token of 1.5 s."""
    kernel = {"r0": next(parse_config(KERNEL.replace("ping-int 1", "ping-int 10")).sections("resource"))}
    rungs = ladder.rungs(None, {}, {}, None, corosync(), Replicas(Section((), ()), kernel, {}), None)
    assert "ping>token" in codes(list(ladder.inversions(None, {}, None, rungs)))


# ------------------------------------------------------------------ looking


class Answers:
    """Programs by their command line; anything else is missing."""

    def __init__(self, **said: str) -> None:
        self.said = said

    async def __call__(self, argv: Sequence[str], *, deadline_s: float, **more: Any) -> Ran:
        found = self.said.get(argv[0].replace("-", "_"))
        if found is None:
            raise Unavailable(f"cannot run {argv[0]}", "the program is missing")
        return Ran(0, found, "")


HISTORY = (
    '<pacemaker-result request="x"><list name="fencing history" count="0"/><status code="0" message="OK"/>'
    "</pacemaker-result>"
)


def programs(xml: str = "sound", **changed: str) -> Runner:
    said = {
        "cibadmin": (CHECK / f"{xml}.xml").read_text(),
        "stonith_admin": HISTORY,
        "corosync_cmapctl": "".join(f"{k} (str) = {v}\n" for k, v in corosync(**LONG).items()),
        "drbdadm": SOUND_DRBD,
        "drbdsetup": KERNEL,
    }
    return Answers(**{**said, **changed})


LONG = {"runtime__config__totem__token": "10000", "runtime__config__totem__consensus": "12000"}


class Gated:
    """`guard.ports.Replication` with one resource and this gate."""

    def __init__(self, gate: GateFacts = GATE) -> None:
        self.volumes = Volumes(Instant(0), (Replica("r0", gate=gate),))

    async def read(self) -> Volumes:
        return self.volumes

    async def changes(self) -> AsyncIterator[Volumes]:
        yield self.volumes

    async def stored(self) -> Volumes:
        return self.volumes

    async def suspend(self) -> bool:
        return False

    async def resume(self) -> bool:
        return False

    async def outdate(self) -> bool:
        return False


def places(folder: Path) -> Places:
    """A machine without corosync, sbd or DLM, with cgroup v2."""
    group = folder / "cgroup"
    group.mkdir(exist_ok=True)
    (folder / "mountinfo").write_text(f"31 30 0:27 / {group} rw,nosuid - cgroup2 cgroup2 rw\n")
    return Places(folder / "proc", Path("/sys/class/net"), folder / "dlm", (folder / "sbd",), folder / "mountinfo")


async def checked(folder: Path, run: Runner, gate: GateFacts = GATE) -> tuple[dict[str, Any], int, Facts]:
    loaded, origin = load_guard([write_settings(folder, more=WATCHED + switch(folder))])
    seen = await looking.look(loaded, run, Gated(gate), None, places(folder))
    seen = replace(
        seen, agents={"fence_ipmilan": None}, status=status(row()), named=()
    )  # whether it starts depends on the machine
    data, code = report(Loaded(loaded, origin, None, None), seen, 1.8e9)
    return data, code, seen


@pytest.mark.asyncio
async def test_a_sound_pair_is_0(folder: Path) -> None:
    """No finding, one row an area, all of them ok, within 80 columns."""
    data, code, _ = await checked(folder, programs())
    assert data["findings"] == []
    assert code == 0
    assert {look["state"] for look in data["looks"]} == {"ok"}
    fits(text_of(data))
    assert list(data) == ["schema", "site", "pair", "node", "at", "looks", "findings", "ladder", "against"]


@pytest.mark.asyncio
async def test_a_trap_is_81(folder: Path) -> None:
    """With the area it was found in; the text names both commands, within 80 columns."""
    data, code, _ = await checked(folder, programs("watchdog-believed"))
    assert code == 81
    assert {look["area"] for look in data["looks"] if look["state"] == "found"} == {"cluster"}
    text = text_of(data)
    fits(text)
    assert "show: crm_attribute -t crm_config -n stonith-watchdog-timeout -G" in " ".join(text.split())
    assert "mend: crm_attribute -t crm_config -n stonith-watchdog-timeout -v 0" in " ".join(text.split())


def test_an_agent_that_is_not_there_is_not_taken_for_a_clash() -> None:
    """A misspelt delegate: what mends it is its name or a package, not a virtual environment."""
    [found] = findings.agents({"fence_ipmlian": "fence_ipmlian is not installed"})
    assert "delegate" in found.mend


def test_an_agent_that_the_controller_may_not_run_is_a_trap() -> None:
    """It is shown as the controller would see it; a stock agent that fails is another matter."""
    both = {OWN_AGENT: "fence_pairguard does not start: Permission denied", "fence_ipmilan": "no", "fence_apc": None}
    shown = {each.subject: (each.severity, each.show) for each in findings.agents(both)}
    assert shown == {
        "fence_ipmilan": ("trap", "fence_ipmilan -o metadata"),
        OWN_AGENT: ("trap", "runuser -u hacluster -- fence_pairguard -o metadata"),
    }


@pytest.mark.asyncio
async def test_a_note_alone_is_0(folder: Path) -> None:
    """To be known, not to be mended before a change."""
    data, code, _ = await checked(folder, programs("maintenance-default"))
    assert [each["code"] for each in data["findings"]] == ["maintenance-default"]
    assert code == 0


@pytest.mark.parametrize("program", ["cibadmin", "stonith_admin", "corosync_cmapctl", "drbdadm"])
@pytest.mark.asyncio
async def test_what_could_not_be_looked_at_is_never_fine(folder: Path, program: str) -> None:
    """Its own row with the reason, and 85 instead of 0, whichever it is."""
    answers = programs()
    assert isinstance(answers, Answers)
    del answers.said[program]
    data, code, _ = await checked(folder, answers)
    assert code == 85
    assert "could not look" in text_of(data)
    assert [look for look in data["looks"] if look["state"] == "unseen"]


@pytest.mark.asyncio
async def test_nothing_seen_at_all_is_85_also_with_a_trap(folder: Path) -> None:
    """Nothing could be proven; nonsense instead of an answer counts as not seen."""
    _, code, seen = await checked(folder, Answers(cibadmin="<cib", corosync_cmapctl="?"))
    assert isinstance(seen.cluster, Unseen)
    assert isinstance(seen.corosync, Unseen)
    trap = Finding("x", "trap", "machine", "x", "x", "x", "x")
    assert code == code_of(looked(seen, [trap], None), [trap]) == 85


@pytest.mark.asyncio
async def test_a_program_that_hangs_is_not_waited_for(folder: Path) -> None:
    """Every look has its deadline; the others are still seen."""

    class Hanging(Answers):
        async def __call__(self, argv: Sequence[str], *, deadline_s: float, **more: Any) -> Ran:
            if argv[0] == "cibadmin":
                raise Unavailable("cannot run cibadmin", f"no end within {deadline_s:g} s")
            return await super().__call__(argv, deadline_s=deadline_s, **more)

    answers = programs()
    assert isinstance(answers, Answers)
    _, code, seen = await checked(folder, Hanging(**answers.said))
    assert isinstance(seen.cluster, Unseen)
    assert isinstance(seen.corosync, Mapping)
    assert code == 85


def test_this_machine_is_read_without_a_change(folder: Path) -> None:
    """Processes, sbd's file and the bond's rate, from the places named."""
    where = places(folder)
    for pid, name in ((1, "sbd"), (2, "dlm_controld")):
        (where.proc / str(pid)).mkdir(parents=True)
        (where.proc / str(pid) / "comm").write_text(f"{name}\n")
    (folder / "sbd").write_text("SBD_DEVICE=/dev/sdb\nSBD_WATCHDOG_TIMEOUT=30\n")
    bond = folder / "net" / "bond0" / "bonding"
    bond.mkdir(parents=True)
    (bond / "lacp_rate").write_text("slow 0\n")
    more = '[network]\ninterfaces = ["bond0", "eth9"]\n'
    found = looking.machine_of(replace(where, net=folder / "net"), settings(folder, more))
    assert found == Machine(None, None, ("dlm_controld",), ("eth9",), ("bond0",), ("bond0",))
    sbd = looking.sbd_of(where, None)
    assert sbd == Sbd(True, {"SBD_DEVICE": "/dev/sdb", "SBD_WATCHDOG_TIMEOUT": "30"}, str(folder / "sbd"))
    (folder / "mountinfo").write_text("31 30 0:27 / /none rw - tmpfs tmpfs rw\n")
    found = looking.machine_of(where, None)
    assert isinstance(found, Machine)
    assert isinstance(found.cgroup, str)


# ------------------------------------------------------------------ the command


def stage(folder: Path, xml: str, drbd: str = SOUND_DRBD) -> dict[str, str]:
    """Programs that print, in front of PATH."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    said = {"cibadmin": (CHECK / f"{xml}.xml").read_text(), "stonith_admin": HISTORY, "drbdadm": drbd}
    said |= {"corosync-cmapctl": (CHECK / "cmap.txt").read_text(), "drbdsetup": KERNEL}
    for name, text in said.items():
        (folder / f"{name}.said").write_text(text)
        program = tools / name
        program.write_text(f'#!/bin/sh\ncat "{folder}/{name}.said"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{tools}:{os.environ['PATH']}"}


def test_check_runs_without_a_daemon(folder: Path, config: Path) -> None:
    """It finds what is wrong, says that the guard could not be asked, and fits the screen."""
    done = pairguard("check", config=config, env=stage(folder, "quorum-ignored"))
    assert done.exit_code == 81
    fits(done.stdout)
    assert "no-quorum-policy" in done.stdout
    assert "guard: could not look: cannot ask the daemon" in done.stdout
    assert "timer ladder" in done.stdout


def test_check_reads_the_running_guard(folder: Path, config: Path, desk: Desk) -> None:
    """What status shows as a fault is a finding."""
    desk.answers["status"] = status(row(attested=False))
    done = pairguard("check", "--json", config=config, env=stage(folder, "sound"))
    found = one_object(done, "pairguard.check/1")
    assert "not-attested" in {each["code"] for each in found["findings"]}
    assert list(found["findings"][0]) == ["code", "severity", "area", "subject", "text", "show", "mend"]


def test_check_where_nothing_can_be_seen_is_85(config: Path, folder: Path) -> None:
    """No cluster, no DRBD, no corosync."""
    nothing = folder / "nothing"
    nothing.mkdir()
    assert pairguard("check", config=config, env={"PATH": str(nothing)}).exit_code == 85


def test_against_shows_what_is_new_and_what_is_gone(folder: Path, config: Path) -> None:
    """By code and subject; a file that is no earlier check is 85."""
    env = stage(folder, "quorum-ignored")
    last = folder / "last.json"
    last.write_text(pairguard("check", "--json", config=config, env=env).stdout)
    same = pairguard("check", "--against", str(last), config=config, env=env)
    assert "0 new, 0 gone" in same.stdout
    after = pairguard("check", "--against", str(last), "--json", config=config, env=stage(folder, "fencing-off"))
    found = one_object(after, "pairguard.check/1")["against"]
    assert [each["code"] for each in found["new"]] == ["fencing-off"]
    assert [each["code"] for each in found["gone"]] == ["quorum-ignored"]
    text = pairguard("check", "--against", str(last), config=config, env=env).stdout
    fits(text)
    last.write_text("{}")
    assert pairguard("check", "--against", str(last), config=config, env=env).exit_code == 85
    assert compared({"findings": []}, [])["new"] == []


def test_settings_shows_every_value_with_its_file_and_no_secret(config: Path) -> None:
    """A value is from its file or a default; passwords are not shown."""
    done = pairguard("check", "--settings", config=config)
    assert done.exit_code == 0
    fits(done.stdout)
    data = one_object(pairguard("check", "--settings", "--json", config=config), "pairguard.settings/1")
    values = {each["key"]: each for each in data["programs"][0]["values"]}
    assert values["pair.node"] == {"key": "pair.node", "value": "fs1a", "from": str(config)}
    assert values["limits.corr"]["from"] == "default"
    assert values["fence.fs1b.options.password"]["value"] == "(hidden)"
    assert "swordfish" not in json.dumps(data) + done.stdout


def test_settings_shows_durations_with_their_unit(folder: Path) -> None:
    """As one would write them, in tables and in lists of tables; a truth value is none."""
    file = write_settings(folder, more='timeout = "15s"\n' + WATCHED + switch(folder) + "[limits]\nsettle = '1m30s'\n")
    data = one_object(pairguard("check", "--settings", "--json", config=file), "pairguard.settings/1")
    values = {each["key"]: each["value"] for each in data["programs"][0]["values"]}
    assert (values["limits.corr"], values["limits.settle"], values["limits.alone_under_hold"]) == ("0.3s", "90s", "30s")
    assert (values["fence.fs1b.timeout"], values["fence.fs1b.horizon"]) == ("15s", "auto")
    assert (values["switch"][0]["poll"], values["switch"][0]["port"]) == ("1s", 161)
    assert values["fence.fs1b.accept_unbounded"] is False
    text = pairguard("check", "--settings", config=file).stdout
    assert re.search(r"limits\.corr +0\.3s +default", text)
    for key, found in values.items():
        if key.startswith("limits."):
            assert settings_seconds(found) > 0, key


def fault_codes(folder: Path, file: Path) -> set[tuple[str, str]]:
    """What a whole `check` finds about what the settings name."""
    done = pairguard("check", "--json", config=file, env=stage(folder, "sound"))
    found = one_object(done, "pairguard.check/1")["findings"]
    return {(f["code"], f["subject"]) for f in found if f["code"] in NAMED}


NAMED = {"file-missing", "file-open", "file-owner", "file-not-run", "cleartext-password", "example-value", "keys"}
NAMED |= {"keys-mixed", "certificate-name", "certificate-expired", "does-not-start", "file-empty"}


@pytest.mark.parametrize("missing", ["private.pem", "public/fs1a.pub"])
def test_settings_are_not_called_valid_without_the_own_key(folder: Path, config: Path, missing: str) -> None:
    """The guard would end at once: 89, and what to do; another party's missing key is told, and it starts."""
    (folder / "keys" / "public" / "fs1b.pub").unlink()
    starts = pairguard("check", "--settings", config=config)
    assert starts.exit_code == 0
    assert "valid" not in starts.stdout
    assert "fs1b.pub" in starts.stdout
    (folder / "keys" / missing).unlink()
    done = pairguard("check", "--settings", config=config)
    assert done.exit_code == 89
    fits(done.stdout)
    assert "valid" not in done.stdout
    assert "pairguard init --keys" in done.stdout
    data = one_object(pairguard("check", "--settings", "--json", config=config), "pairguard.settings/1")
    assert {f["code"] for f in data["programs"][0]["faults"]} == {"keys"}


KEY_OF = {
    "ca": "bus.tls.ca",
    "certificate": "bus.tls.certificate",
    "key": "bus.tls.key",
    "auth": "switch (number 1).auth_file",
    "priv": "switch (number 1).priv_file",
    "script": "fence.fs1a.options.password_script",
}


@pytest.mark.parametrize("name", KEY_OF)
def test_every_file_that_the_settings_name_is_looked_at(folder: Path, name: str) -> None:
    """There, a file, ours, and no wider open than it may be; each fault named with its key and one command."""
    file, files = with_files(folder)
    assert fault_codes(folder, file) == set()
    path, key = files[name], KEY_OF[name]
    public = name in ("ca", "certificate")
    for mode, code in (
        (0o666, "file-open"),
        (0o604, None if public else "file-open"),
        (0o700 if public else 0o600, None),
    ):
        path.chmod(mode)
        wanted = "file-not-run" if name == "script" and code is None else code
        assert fault_codes(folder, file) == ({(wanted, key)} if wanted else set()), oct(mode)
    path.chmod(0o700 if name == "script" else 0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, 0)
        assert fault_codes(folder, file) == {("file-owner", key)}
    path.unlink()
    assert fault_codes(folder, file) == {("file-missing", key)}
    done = pairguard("check", "--settings", config=file)
    assert done.exit_code == (0 if name == "script" else 89)
    assert str(path) in done.stdout.replace("\n", "").replace("     ", "")
    path.mkdir()
    assert fault_codes(folder, file) == {("file-missing", key)}


def test_a_password_by_value_is_for_root_alone(folder: Path, config: Path) -> None:
    """Told where others may read the file that has it, a note with the better way; 0600 and 0640 are quiet."""
    for mode, told in ((0o644, True), (0o660, True), (0o600, False), (0o640, False)):
        config.chmod(mode)
        wanted = {("cleartext-password", "fence.fs1b.options.password")} if told else set()
        assert fault_codes(folder, config) == wanted, oct(mode)
    config.chmod(0o644)
    done = pairguard("check", "--settings", config=config)
    assert done.exit_code == 0
    assert "password_script" in done.stdout
    assert "swordfish" not in done.stdout


def test_example_values_are_named_as_such_and_as_nothing_else() -> None:
    """The shipped examples: every address of RFC 5737 by its key, none of them as shared fate with another."""
    examples = Path(__file__).parents[2] / "configs"
    guard = load_guard([examples / "pairguard.toml"])[0]
    found = [f for f in named.examples(guard) if f.code == "example-value"]
    keys = {"bus.host", "probe.own", "probe.peer", "fence.fs1b.options.ip", "network.traps.address"}
    assert {f.key for f in found} >= keys
    assert all(f.text.startswith("example value still in place: 192.0.2.") for f in found)
    assert [f.code for f in findings.settings(guard, ["192.0.2.11"])] == []
    witness = load_witness([examples / "witness.toml"])[0]
    assert [f.key for f in named.examples(witness)] == ["bus.host"]
    assert named.is_example("2001:db8::7")
    assert not named.is_example("192.0.3.1")
    assert not named.is_example("bmc-fs1b")


def test_settings_that_do_not_validate_are_89(config: Path) -> None:
    """With file, key and what is near; a plain check names it among its findings."""
    config.write_text(config.read_text().replace("[replication]", "[replicaton]"))
    done = pairguard("check", "--settings", config=config)
    assert done.exit_code == 89
    assert "replicaton" in done.stderr
    full = pairguard("check", "--json", config=config)
    assert full.exit_code == 89
    assert "settings" in {each["code"] for each in json.loads(full.stdout)["findings"]}


def test_check_on_the_arbiters_machine_looks_at_keys_and_witness(folder: Path) -> None:
    """There is no cluster there, which is no fault."""
    write_settings(folder)
    file = folder / "witness.toml"
    keys = f'[keys]\nprivate = "{folder}/arbiter.pem"\npublic_dir = "{folder}/keys/public"\n'
    file.write_text(f'site = "lab"\n{keys}[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')
    done = pairguard("check", config=file)
    assert done.exit_code == 0
    assert "guard: could not look" in done.stdout
    (folder / "arbiter.pem").chmod(0o644)
    assert pairguard("check", config=file).exit_code == 81
    (folder / "arbiter.pem").chmod(0o600)
    file.write_text(file.read_text() + '[bus]\nhost = "192.0.2.10"\n')
    told = pairguard("check", config=file)
    assert told.exit_code == 81
    assert "example value still in place" in told.stdout


def test_check_looks_at_what_the_store_in_etcd_names(folder: Path) -> None:
    """Its password and TLS files: there, and closed to others; example addresses; else it would not start."""
    write_settings(folder)
    file, word = folder / "witness.toml", folder / "word"
    keys = f'[keys]\nprivate = "{folder}/arbiter.pem"\npublic_dir = "{folder}/keys/public"\n'
    paths = f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n'
    store = f'[store]\nkind = "etcd"\nendpoints = ["https://192.0.2.21:2379"]\nuser = "w"\npassword_file = "{word}"\n'
    file.write_text(f'site = "lab"\n{keys}{paths}{store}[store.tls]\nca = "{folder}/etcd-ca.crt"\n')

    def faults() -> set[tuple[str, str]]:
        done = pairguard("check", "--settings", "--json", config=file)
        return {(each["code"], each["key"]) for each in json.loads(done.stdout)["programs"][0]["faults"]}

    assert {("file-missing", "store.password_file"), ("file-missing", "store.tls.ca")} <= faults()
    word.write_text("secret\n")
    word.chmod(0o644)
    (folder / "etcd-ca.crt").write_text("no certificate")
    found = faults()
    assert ("file-open", "store.password_file") in found
    assert ("does-not-start", "store.tls") in found
    assert ("example-value", "store.endpoints (number 1)") in found
