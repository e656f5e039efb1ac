"""Pacemaker: its words parsed from captures, its edits on copies, and everything again on a real pair."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from guard.adapters import cib
from guard.adapters.clock import BootClock
from guard.adapters.pacemaker import CAS_TRIES_MAX, Pacemaker
from guard.adapters.process import OUTPUT_BYTES_MAX, Ran, run
from guard.core.evidence import SHOTS_UNREAD, PendingShot, Up
from guard.errors import Unavailable, Unreadable
from tests.adapters.cluster_contract import ClusterContract, eventually, held
from tests.adapters.pacemaker_stage import NODE, PEER, PacemakerStage, inside, member_everywhere
from tests.adapters.real_pair import FORM_S_MAX, NODES, RealPair

CAPTURES = Path(__file__).parents[1] / "captures" / "pacemaker"
NEEDS_SCHEDULER = pytest.mark.skipif(shutil.which("crm_simulate") is None, reason="crm_simulate is not installed")


def capture(name: str) -> str:
    return (CAPTURES / name).read_text()


def configuration(name: str = "cib-whole.xml") -> cib.ET.Element:
    return cib.document(capture(name), name)


class Replay:
    """A runner that answers each program from a capture, or as told: nothing is started."""

    def __init__(self, answers: Mapping[str, Ran | str]) -> None:
        self.answers = answers
        self.asked: list[Sequence[str]] = []

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
    ) -> Ran:
        self.asked.append(argv)
        answer = self.answers.get(argv[0])
        if answer is None:
            raise Unavailable(f"cannot run {argv[0]}", "the program is missing")
        return Ran(0, answer, "") if isinstance(answer, str) else answer


def seen_from(node: str, moment: str, history: str | None = None, **more: Ran | str) -> Pacemaker:
    answers: dict[str, Ran | str] = {
        "crm_mon": capture(f"crm_mon-{moment}.xml"),
        "cibadmin": capture(f"cib-{moment}.xml"),
        **more,
    }
    if history is not None:
        answers["stonith_admin"] = capture(history)
    peer = PEER if node == NODE else NODE
    return Pacemaker(node, peer, clock=BootClock(), run=Replay(answers), promotable=["disk-clone"])


# ---------------------------------------------------------------- words


@pytest.mark.asyncio
async def test_a_cut_pair_without_a_hold_shows_the_unclean_peer_and_the_shot_in_its_delay() -> None:
    """From the capture of the cut: peer down and unclean, its reboot pending, the own controller still up."""
    view = await seen_from(NODE, "cut", "history-pending.xml").view()
    assert (view.controller, view.peer_controller) == (Up.UP, Up.DOWN)
    assert view.unclean == {PEER}
    assert view.pending == (PendingShot(PEER, "reboot", "pacemaker-controld.40", NODE, "pending"),)
    assert (view.maintenance, view.managed, view.active_here) == (False, 5, True)


@pytest.mark.asyncio
async def test_a_held_pair_shows_the_id_and_manages_nothing() -> None:
    """From the capture under our hold: effective maintenance, our id, nothing managed, no person."""
    view = await seen_from(PEER, "held", "history-purged.xml").view()
    assert (view.maintenance, view.ours, view.managed, view.persons_maintenance) == (True, "hold-7", 0, False)
    assert (view.pending, view.active_here) == ((), False)


@pytest.mark.asyncio
async def test_a_failed_stop_that_means_fencing_is_seen_on_its_own_node_only() -> None:
    """The failed stop on fs1a counts there, not on fs1b."""
    assert (await seen_from(NODE, "failed-stop", "history-purged.xml").view()).failed_stop
    assert not (await seen_from(PEER, "failed-stop", "history-purged.xml").view()).failed_stop


@pytest.mark.parametrize(("word", "fenced"), [("fence", True), ("block", False), ("ignore", False)])
def test_a_failed_stop_counts_only_where_on_fail_is_fence(word: str, fenced: bool) -> None:
    """An explicit on-fail of the stop decides; without one, fencing must be enabled."""
    root = configuration()
    assert cib.fenced_stop(root, "fs", fencing=True)
    assert not cib.fenced_stop(root, "fs", fencing=False)
    assert not cib.fenced_stop(root, "fs", fencing=None)
    operations = root.find(".//primitive[@id='fs']/operations")
    assert operations is not None
    cib.ET.SubElement(operations, "op", {"id": "s", "name": "stop", "interval": "0", "on-fail": word})
    assert cib.fenced_stop(root, "fs", fencing=True) is fenced


@pytest.mark.asyncio
async def test_dead_controllers_are_down_though_crm_mon_answers() -> None:
    """Pacemaker's other daemons running is not a controller that answers."""
    view = await seen_from(NODE, "controller-dead", "history-purged.xml").view()
    assert (view.controller, view.peer_controller) == (Up.DOWN, Up.DOWN)


@pytest.mark.asyncio
async def test_no_pacemaker_is_down_and_no_program_is_unknown() -> None:
    """Exit code 102 is DOWN; missing programs, other codes and nonsense are UNKNOWN. Nothing else is claimed."""
    not_running = Ran(102, capture("crm_mon-not-running.xml"), "")
    broken: list[tuple[Mapping[str, Ran | str], Up]] = [
        ({"crm_mon": not_running, "cibadmin": Ran(102, "", "no"), "stonith_admin": Ran(102, "", "no")}, Up.DOWN),
        ({}, Up.UNKNOWN),
        ({"crm_mon": "<half", "cibadmin": capture("cib-whole.xml")}, Up.UNKNOWN),
        ({"crm_mon": capture("crm_mon-whole.xml"), "cibadmin": Ran(124, "", "timeout")}, Up.UNKNOWN),
    ]
    for answers, controller in broken:
        cluster = Pacemaker(NODE, PEER, clock=BootClock(), run=Replay(answers), promotable=["disk-clone"])
        view = await cluster.view()
        assert view.controller is controller
        assert (view.maintenance, view.ours, view.managed, view.active_here) == (None, None, None, None)
        assert view.pending == (SHOTS_UNREAD,)
        assert view.persons_maintenance
        assert cluster.trouble


@pytest.mark.asyncio
async def test_a_fencer_that_does_not_answer_is_not_an_empty_list() -> None:
    """With everything else readable, unread shots stand as `SHOTS_UNREAD`, and `pending` raises."""
    cluster = seen_from(NODE, "whole")
    view = await cluster.view()
    assert (view.controller, view.pending) == (Up.UP, (SHOTS_UNREAD,))
    with pytest.raises(Unavailable):
        await cluster.pending()


def test_only_shots_that_are_not_over_are_pending() -> None:
    """Purged shots stay in the history as failed and are not listed."""
    assert cib.shots(capture("history-purged.xml")) == ()
    assert 'status="failed"' in capture("history-purged.xml")


@pytest.mark.parametrize(
    ("name", "good", "bad", "parse"),
    [
        ("crm_mon-whole.xml", 'online="true"', 'online="perhaps"', cib.monitor),
        ("crm_mon-whole.xml", 'maintenance-mode="false"', 'maintenance-mode="partly"', cib.monitor),
        ("crm_mon-whole.xml", 'role="Promoted"', 'role="Leader"', cib.monitor),
        ("crm_mon-whole.xml", 'code="0"', 'code="1"', cib.monitor),
        ("history-pending.xml", 'status="pending"', 'status="soon"', cib.shots),
    ],
)
def test_an_unknown_word_is_unreadable(name: str, good: str, bad: str, parse: Callable[[str], object]) -> None:
    """A word that the parser does not know is never taken for one that it knows."""
    parse(capture(name))
    with pytest.raises(Unreadable):
        parse(capture(name).replace(good, bad))


def test_what_is_not_said_is_none() -> None:
    """Missing options and resources give None, a missing online flag gives UNKNOWN and counts as unclean."""
    bare = cib.monitor(
        '<pacemaker-result><nodes><node name="a"/></nodes><status code="0" message="OK"/></pacemaker-result>'
    )
    assert (bare.maintenance, bare.fencing, bare.managed) == (None, None, None)
    assert bare.online == {"a": Up.UNKNOWN}
    assert bare.unclean == {"a"}


@pytest.mark.parametrize(
    ("word", "state"),
    [("online", Up.UP), ("offline", Up.DOWN), ("1795304216", Up.UP), ("0", Up.DOWN), (None, Up.UNKNOWN)],
)
def test_the_controllers_word_before_and_after_2_1_7(word: str | None, state: Up) -> None:
    """`crmd` is online/offline, a time stamp since 2.1.7, or not there."""
    attribute = "" if word is None else f' crmd="{word}"'
    root = cib.document(f'<cib><status><node_state uname="n"{attribute}/></status></cib>', "test")
    assert cib.controllers(root) == {"n": state}


# ---------------------------------------------------------------- forecasts


def test_forecasts_of_the_scheduler() -> None:
    """A lost peer is fenced and its services stop; under the hold nothing; a moved fence device is no service."""
    lost = cib.forecast(capture("simulate-lost.xml"), known=NODES, lost=PEER, fence_devices=["dev-fs1a", "dev-fs1b"])
    assert (lost.fences, lost.stops, lost.error) == ({PEER}, ("stop disk:1 on fs1b",), None)
    held_one = cib.forecast(capture("simulate-lost-held.xml"), known=NODES, lost=PEER, fence_devices=[])
    assert held_one.harmless()
    whole = cib.forecast(capture("simulate-whole.xml"), known=NODES, lost=None, fence_devices=[])
    assert whole.harmless()
    failed = cib.forecast(capture("simulate-failed-stop.xml"), known=NODES, lost=None, fence_devices=["dev-fs1a"])
    assert failed.fences == {NODE}
    assert failed.stops == ("recover fs on fs1a", "stop disk:0 on fs1a")


def test_an_empty_answer_or_the_wrong_loss_proves_nothing() -> None:
    """Exit code 0 with no actions is not harmless when the nodes or the injected loss are not in it."""
    cases = [("simulate-empty.xml", None), ("simulate-whole.xml", PEER), ("simulate-lost.xml", None)]
    for name, lost in cases:
        forecast = cib.forecast(capture(name), known=NODES, lost=lost, fence_devices=[])
        assert forecast.error is not None, name
        assert not forecast.harmless()


def test_an_unknown_action_is_unreadable() -> None:
    """An action or node action with a new name is not passed over."""
    for good, bad in (('action="stop"', 'action="vanish"'), ('task="Fence (reboot)"', 'task="Zap"')):
        with pytest.raises(Unreadable):
            cib.forecast(capture("simulate-lost.xml").replace(good, bad), known=NODES, lost=PEER, fence_devices=[])


@NEEDS_SCHEDULER
@pytest.mark.asyncio
async def test_this_machines_scheduler_passes_its_test() -> None:
    """The positive control passes on the installed crm_simulate."""
    assert await Pacemaker(NODE, PEER, clock=BootClock(), run=run).self_test() is None


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", ["simulate-empty.xml", "simulate-whole.xml", "simulate-lost.xml"])
async def test_a_scheduler_that_always_says_the_same_is_not_believed(answer: str) -> None:
    """A tool that answers something plausible whatever it is asked fails the test, and every forecast with it."""
    cluster = seen_from(NODE, "whole", crm_simulate=capture(answer))
    assert await cluster.self_test() is not None
    forecast = await cluster.forecast(lost=None, without_hold=False)
    assert forecast.error is not None


def probed(name: str) -> str:
    """A capture with the nodes of the bundled probe."""
    return capture(name).replace(NODE, "probe-a").replace(PEER, "probe-b")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("lost", "held_lost", "idle", "believed"),
    [
        ("simulate-lost.xml", "simulate-lost-held.xml", "simulate-whole.xml", True),
        ("simulate-lost-held.xml", "simulate-lost-held.xml", "simulate-whole.xml", False),
        ("simulate-lost.xml", "simulate-lost.xml", "simulate-whole.xml", False),
        ("simulate-lost.xml", "simulate-lost-held.xml", "simulate-failed-stop.xml", False),
    ],
)
async def test_each_answer_of_the_schedulers_test_counts(lost: str, held_lost: str, idle: str, believed: bool) -> None:
    """It must fence the lost node, must not under maintenance, and must fence nobody where nothing is lost."""

    async def scheduler(argv: Sequence[str], *, deadline_s: float, stdin: bytes | None = None, **_: object) -> Ran:
        if not any(word.startswith("--node-fail") for word in argv):
            return Ran(0, probed(idle), "")
        return Ran(0, probed(held_lost if b"maintenance-mode" in (stdin or b"") else lost), "")

    cluster = Pacemaker(NODE, PEER, clock=BootClock(), run=scheduler)
    assert (await cluster.self_test() is None) is believed


def test_a_moved_service_stops_but_a_moved_fence_device_does_not() -> None:
    """Moving a service interrupts it; moving a fence device does not."""
    moved = [
        cib.forecast(capture("simulate-lost.xml"), known=NODES, lost=PEER, fence_devices=devices).stops
        for devices in (["dev-fs1b"], [])
    ]
    assert moved == [("stop disk:1 on fs1b",), ("move dev-fs1b on fs1b", "stop disk:1 on fs1b")]


# ---------------------------------------------------------------- edits on copies


def test_the_hold_takes_only_the_explicit_default_away() -> None:
    """An explicit false of the bootstrap options goes and is reported; a person's true stays, wherever it is."""
    for value, removed in (("false", True), ("no", True), ("true", False), ("1", False)):
        root = configuration()
        options = root.find(".//cluster_property_set[@id='cib-bootstrap-options']")
        assert options is not None
        cib.ET.SubElement(options, "nvpair", {"id": "mm", "name": "maintenance-mode", "value": value})
        assert cib.put_hold(root, "h") == cib.Edit(True, removed_default=removed)
        assert (options.find("nvpair[@id='mm']") is None) is removed
        assert cib.persons_maintenance(root, effective=True) is not removed
        assert cib.our_hold(root) == "h"


def test_setting_and_taking_the_hold_leaves_the_configuration_as_it_was() -> None:
    """Put, then take: the same text. Repeating either changes nothing."""
    root = configuration()
    before = cib.dump(root)
    assert cib.put_hold(root, "h").changed
    assert not cib.put_hold(root, "h").changed
    assert not cib.take_hold(root, "other").allowed
    assert cib.take_hold(root, "h").changed
    assert not cib.take_hold(root, "h").changed
    assert cib.dump(root) == before


def test_a_purge_needs_our_hold_in_the_same_version() -> None:
    """Without our set, or with one that does not say maintenance, no fence device may be stopped."""
    root = configuration()
    assert not cib.mark_purge(root, {"dev-fs1b"}).allowed
    cib.put_hold(root, "h")
    assert not cib.mark_purge(root, set()).allowed
    assert cib.mark_purge(root, {"dev-fs1b", "fs"}) == cib.Edit(True)
    assert cib.purge_marks(root) == ("dev-fs1b",), "only fence devices are ever marked"
    assert cib.unmark_purge(root) == cib.Edit(True)
    assert cib.take_hold(root, "h").changed
    assert cib.dump(root) == cib.dump(configuration())


def test_a_bar_names_the_role_in_the_schemas_own_word() -> None:
    """Promoted from schema 3.7 on, Master before; one constraint a clone; a clone that is not there is refused."""
    for schema, word in (("pacemaker-3.9", "Promoted"), ("pacemaker-3.7", "Promoted"), ("pacemaker-3.6", "Master")):
        root = configuration()
        root.set("validate-with", schema)
        assert cib.put_bar(root, PEER, ["disk-clone"]).changed
        assert not cib.put_bar(root, PEER, ["disk-clone"]).changed
        bars = [bar for bar in root.iter("rsc_location") if bar.get("id") == "pairguard-bar-fs1b"]
        assert [(bar.get("role"), bar.get("score"), bar.get("node")) for bar in bars] == [(word, "-INFINITY", PEER)]
        assert cib.take_bar(root, PEER).changed
        assert not cib.take_bar(root, PEER).changed
    assert not cib.put_bar(configuration(), PEER, ["other-clone"]).allowed
    assert not cib.put_bar(configuration(), PEER, []).allowed


@pytest.mark.asyncio
async def test_a_program_that_hangs_costs_no_more_than_the_deadline() -> None:
    """With programs that never answer: an UNKNOWN view, False, and a forecast with an error."""

    async def hang(argv: Sequence[str], *, deadline_s: float, stdin: bytes | None = None, **_: object) -> Ran:
        return await run(["sleep", "1000"], deadline_s=deadline_s)

    cluster = Pacemaker(NODE, PEER, clock=BootClock(), run=hang, deadline_s=0.2)
    assert (await cluster.view()).controller is Up.UNKNOWN
    assert not await cluster.set_hold("h")
    assert not await cluster.clear_hold("h")
    assert (await cluster.forecast(lost=PEER, without_hold=False)).error is not None
    assert not await cluster.purge(PendingShot(PEER, "reboot", "c", NODE, "pending"))


@pytest.mark.asyncio
async def test_a_full_tmp_fails_the_edit_and_nothing_else() -> None:
    """The two versions cannot be stored for crm_diff: not written, and it says where to make room."""
    folders: list[str] = []

    async def full(argv: Sequence[str], *, deadline_s: float, stdin: bytes | None = None, **_: object) -> Ran:
        if argv[0] != "crm_diff":
            return Ran(0, capture("cib-whole.xml"), "")
        folders.append(str(argv[2]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cluster = Pacemaker(NODE, PEER, clock=BootClock(), run=full)
    assert not await cluster.set_hold("h")
    assert len(folders) == 1
    assert "No space left on device" in str(cluster.trouble)
    assert "make room" in str(cluster.trouble)


# ---------------------------------------------------------------- on the real pair


@pytest_asyncio.fixture
async def stage(pair: RealPair) -> AsyncIterator[PacemakerStage]:
    made = PacemakerStage(pair)
    try:
        yield made
    finally:
        await made.restore()


@pytest.mark.lab
class TestPacemakerKeepsTheContract(ClusterContract):
    """The contract on real Pacemaker."""


class Meddler:
    """Runs everything on a node; before each of the first `times` patches somebody else changes the configuration."""

    def __init__(self, pair: RealPair, node: str, times: int) -> None:
        self._run, self.times = inside(pair, node), times
        self.codes: list[int] = []

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
    ) -> Ran:
        patching = "--patch" in argv
        if patching and self.times > 0:
            self.times -= 1
            await self._run(["cibadmin", "--bump"], deadline_s=deadline_s)
        ran = await self._run(argv, deadline_s=deadline_s, stdin=stdin, env=env, output_max=output_max)
        if patching:
            self.codes.append(ran.code)
        return ran


@pytest.mark.lab
@pytest.mark.asyncio
async def test_a_change_in_between_is_noticed_and_the_edit_made_again(stage: PacemakerStage) -> None:
    """A patch against a version that is gone is refused with 103; the next try is written."""
    meddler = Meddler(stage.pair, NODE, times=2)
    assert await stage.cluster(NODE, PEER, meddler).set_hold("cas")
    assert meddler.codes[:2] == [103, 103]
    assert meddler.codes[-1] == 0
    await eventually(lambda: held(stage.there, "cas", maintenance=True), "the hold on the peer")


@pytest.mark.lab
@pytest.mark.asyncio
async def test_a_conflict_without_end_ends_in_false(stage: PacemakerStage) -> None:
    """If somebody changes the configuration before every patch, `set_hold` gives up after a bounded number of tries."""
    meddler = Meddler(stage.pair, NODE, times=1000)
    assert not await stage.cluster(NODE, PEER, meddler).set_hold("cas")
    assert meddler.codes == [103] * CAS_TRIES_MAX
    assert (await stage.here.view()).ours is None


@pytest.mark.lab
@pytest.mark.asyncio
async def test_an_explicit_default_does_not_win_over_the_hold(stage: PacemakerStage) -> None:
    """`maintenance-mode=false` among the bootstrap options is removed in the same patch and reported; then it holds."""
    argv = ["crm_attribute", "--type", "crm_config", "--name", "maintenance-mode", "--update", "false"]
    stage.pair.on(NODE, argv)
    assert await stage.here.set_hold("default")
    assert stage.here.removed_default()
    for cluster in (stage.here, stage.there):
        await eventually(lambda c=cluster: held(c, "default", maintenance=True), "the hold")  # type: ignore[misc]
    assert await stage.here.set_hold("default")
    assert not stage.here.removed_default()


@pytest.mark.lab
@pytest.mark.asyncio
async def test_a_bar_is_a_valid_constraint_that_keeps_the_role_away(stage: PacemakerStage) -> None:
    """The scheduler, run on the barred configuration with the active node lost, promotes nothing on the barred one."""
    clear = stage.pair.on(PEER, ["crm_simulate", "-L", "-S", f"--node-fail={NODE}"])
    assert await stage.here.bar(PEER, on=True), stage.here.trouble
    assert stage.pair.tries(NODE, ["crm_verify", "-L"])[0] == 0
    assert 'id="pairguard-bar-fs1b"' in stage.pair.on(PEER, ["cibadmin", "-Q", "-o", "constraints"])
    barred = stage.pair.on(PEER, ["crm_simulate", "-L", "-S", f"--node-fail={NODE}"])
    assert "Promote    disk" in clear
    assert "Promote    disk" not in barred
    assert await stage.here.bar(PEER, on=False)
    assert "pairguard-bar" not in stage.pair.on(PEER, ["cibadmin", "-Q", "-o", "constraints"])


@pytest.mark.lab
@pytest.mark.asyncio
async def test_a_purge_gives_the_fence_devices_back_even_after_a_crash(stage: PacemakerStage) -> None:
    """After a purge the devices can fence again; marks that a dead guard left are found and undone."""
    assert await stage.here.set_hold("crash")
    await stage.queue_shot()

    async def queued() -> bool:
        return bool(await stage.here.pending())

    await eventually(queued, "the shot")
    for shot in await stage.here.pending():
        assert await stage.here.purge(shot)

    async def usable() -> bool:
        return "dev-fs1b" in stage.pair.tries(NODE, ["stonith_admin", "--list", PEER])[1]

    await eventually(usable, "the device to be registered again")
    left = '<meta_attributes id="pairguard-purge-dev-fs1b"><nvpair id="x" name="target-role" value="Stopped"/>'
    xpath = "//primitive[@id='dev-fs1b']"
    stage.pair.on(
        NODE,
        [
            "cibadmin",
            "-M",
            "-c",
            "--xpath",
            xpath,
            "-X",
            f'<primitive id="dev-fs1b">{left}</meta_attributes></primitive>',
        ],
    )
    assert "pairguard-purge" in stage.pair.on(NODE, ["cibadmin", "-Q", "-o", "resources"])
    assert await stage.there.restore_devices()
    assert "pairguard-purge" not in stage.pair.on(NODE, ["cibadmin", "-Q", "-o", "resources"])
    await eventually(usable, "the device to be registered again")


@pytest.mark.lab
@pytest.mark.asyncio
async def test_a_cut_without_a_hold_is_survived_by_hold_and_purge_on_both_sides(stage: PacemakerStage) -> None:
    """The failure that pairguard is for: cut, both sides queue a shot, both hold and purge, heal: nobody was shot."""
    stage.pair.cut()
    for cluster, victim in ((stage.here, PEER), (stage.there, NODE)):

        async def doomed(c: Pacemaker = cluster, v: str = victim) -> bool:
            view = await c.view()
            return v in view.unclean and any(shot.target == v for shot in view.pending)

        await eventually(doomed, f"the shot at {victim}")
        view = await cluster.view()
        assert (view.controller, view.peer_controller) == (Up.UP, Up.DOWN)
        assert (await cluster.forecast(lost=None, without_hold=False)).fences == {victim}
        assert await cluster.set_hold("cut"), cluster.trouble
        await eventually(lambda c=cluster: held(c, "cut", maintenance=True), "the hold")  # type: ignore[misc]
        assert (await cluster.forecast(lost=None, without_hold=False)).harmless()
        assert (await cluster.forecast(lost=None, without_hold=True)).fences == {victim}
        for shot in await cluster.pending():
            assert await cluster.purge(shot), cluster.trouble
    stage.pair.heal()
    stage.pair.wait(lambda: member_everywhere(stage.pair), FORM_S_MAX, "both nodes to be members again")
    await eventually(lambda: held(stage.here, "cut", maintenance=True), "the hold to have outlived the heal")
    assert (await stage.here.forecast(lost=None, without_hold=True)).error is None
    assert stage.shots_fired() == 0
