"""The lab cases as tests: every promise of a case is kept on real corosync and Pacemaker, on one site after another.

Those marked `lab_long` are left to `make lab`; the others run with `make test`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.cases import CASES, IN, OUT, run_case, table
from tests.lab.demo import missing
from tests.lab.ground import Ground, form

pytestmark = [pytest.mark.lab, pytest.mark.root]


class Grounds:
    """At most one site at a time: formed when a test first needs it, and anew when one no longer comes to calm."""

    def __init__(self, out: Path) -> None:
        self._out, self._stack, self._arbiter = out, ExitStack(), ""
        self._ground: Ground | None = None

    def of(self, arbiter: str) -> Ground:
        """The site with its arbiter there."""
        if self._ground is None or self._arbiter != arbiter:
            self.end()
            self._ground, self._arbiter = self._stack.enter_context(form(arbiter, self._out)), arbiter
        return self._ground

    def end(self) -> None:
        self._ground = None
        self._stack.close()


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    why = missing()
    if why is not None:
        pytest.skip(f"the lab cannot run here: {why}")
    made = Grounds(tmp_path_factory.mktemp("cases"))
    try:
        yield made
    finally:
        made.end()


def kept(grounds: Grounds, name: str) -> None:
    """Play one case and hold it to its promises. A site that failed under it is not used again."""
    case = next(case for case in CASES if case.name == name)
    try:
        told = run_case(grounds.of(case.arbiter), case)
    except Exception:
        grounds.end()
        raise
    assert told.promises
    assert not told.broken, table([told])


def test_nobody_is_shot_in_an_unannounced_spanning_tree_freeze(grounds: Grounds) -> None:
    """STP freezes every pair for 12 s: nobody is shot, the services never stop, no write is lost, no split brain."""
    kept(grounds, "stp")


def test_nobody_is_shot_in_a_black_hole_that_the_arbiter_sees(grounds: Grounds) -> None:
    """The arbiter hears both nodes that cannot hear each other: nobody is shot, the primaries go on."""
    kept(grounds, "blackhole-oob")


def test_a_hold_protects_and_a_release_mid_freeze_is_refused(grounds: Grounds) -> None:
    """`hold` ends with 0, a release while frozen with 86, one after the thaw with 0; nobody is shot."""
    kept(grounds, "hold")


def test_a_node_whose_own_links_fell_is_fenced_and_its_peer_serves(grounds: Grounds) -> None:
    """Only one node is cut off: it alone is shot, once, and its peer serves with every acknowledged write."""
    kept(grounds, "links-cut")


def test_a_hung_kernel_with_its_ports_up_is_fenced(grounds: Grounds) -> None:
    """A primary says nothing though its switch ports are up and steady: it is shot once and its peer serves."""
    kept(grounds, "hung")


def test_a_fenced_node_that_boots_cannot_shoot_back(grounds: Grounds) -> None:
    """It is barred, its own fence agent fails and sends nothing; then it resyncs, the pair is whole, the era over."""
    kept(grounds, "boots")


def test_without_the_witness_a_death_waits_for_a_person(grounds: Grounds) -> None:
    """Nobody is shot or promoted and a person is told; with the witness back the dead is shot and the peer serves."""
    kept(grounds, "witness")


@pytest.mark.lab_long
def test_a_node_that_the_arbiter_hears_is_not_shot(grounds: Grounds) -> None:
    """One node's in-band links fall, but the arbiter hears it out-of-band: peer-alive, nobody is shot."""
    kept(grounds, "links-heard")


@pytest.mark.lab_long
def test_nobody_is_shot_in_a_black_hole_that_hides_the_arbiter(grounds: Grounds) -> None:
    """Arbiter, peers, switches and fence devices all lie behind the black hole: nobody is shot, nothing stops."""
    kept(grounds, "blackhole")


@pytest.mark.lab_long
def test_nobody_is_shot_when_an_mlag_peer_is_lost(grounds: Grounds) -> None:
    """An aggregation switch's agents die, 5 s later every uplink re-forms: nobody is shot, nothing stops."""
    kept(grounds, "mlag")


@pytest.mark.lab_long
def test_nobody_is_shot_while_uplinks_flap(grounds: Grounds) -> None:
    """The uplinks of one switch fall and rise for 12 s: nobody is shot, nothing stops."""
    kept(grounds, "flap")


@pytest.mark.lab_long
def test_a_property_set_after_shots_were_queued_still_protects(grounds: Grounds) -> None:
    """Pacemaker's orders to fence wait in the agents before maintenance mode is set: none of them lands at the thaw."""
    kept(grounds, "queued")


@pytest.mark.lab_long
def test_a_cut_node_is_fenced_with_the_arbiter_in_band(grounds: Grounds) -> None:
    """The same as with an out-of-band arbiter: the cut node alone is shot, once, and its peer serves."""
    kept(grounds, "links-in-band")


@pytest.mark.lab_long
def test_a_guard_killed_mid_shot_fires_no_second_one(grounds: Grounds) -> None:
    """The delegate ends with its guard, the restarted guard honours the drain: one node off, later whole."""
    kept(grounds, "killed")


@pytest.mark.lab_long
def test_nobody_is_shot_by_what_is_delivered_late(grounds: Grounds) -> None:
    """Every frame of 12 s is held and comes out at the thaw: nobody is shot, nothing stops."""
    kept(grounds, "late")


def test_every_case_is_played_and_marked_as_the_list_says(request: pytest.FixtureRequest) -> None:
    """Each case of the list has its test here, and the quick ones are those that `make test` runs."""
    import inspect

    source = inspect.getsource(request.module)
    for case in CASES:
        before, found, _ = source.partition(f'kept(grounds, "{case.name}")')
        assert found, case.name
        head = before[before.rindex("\n\n\n") :]
        assert ("lab_long" not in head) is case.quick, case.name
        assert case.arbiter in (IN, OUT)
