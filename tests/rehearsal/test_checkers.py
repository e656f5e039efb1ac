"""Every checker fires on a planted violation: a checker that cannot fire proves nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from guard.core.evidence import Disk, Link, Role
from guard.core.instant import Instant, after
from guard.core.messages import ARBITER, Answer, Commit, InhibitView, LiftInhibit
from guard.core.register import Register
from guard.core.step import AnswerHandler, Bar, ClearHold, Fire, Intent, Send, SetHold, Step, SuspendWrites
from guard.core.turn import Right
from guard.rehearsal.checkers import Violation
from guard.rehearsal.faults import FAULTS
from guard.rehearsal.world import World


@pytest.fixture
def world() -> World:
    made = World(1)
    made.begin()
    return made


def breaks(rule: str, do) -> None:
    with pytest.raises(Violation) as broken:
        do()
    assert broken.value.rule == rule


def won(world: World, winner: str | None, *used: str) -> None:
    """Write the register behind everybody's back."""
    kept = world.arbiter.kept
    assert kept is not None
    register = replace(kept.register, winner=winner, used=tuple(used), version=kept.register.version + 1)
    world.arbiter.kept = replace(kept, register=register)


def intent(world: World, name: str, *, spawned: bool = True, late: bool = False) -> None:
    """Put a durable intent on the disk of the guard of `name`."""
    node = world.nodes[name]
    made = Intent("i1", 1, 2, node.peer.name, node.boot_id, after(node.local(), -1.0 if late else 1.0), 10.0, spawned)
    node.shell.durable = replace(node.shell.durable, intents=(made,))


FIRE = Fire("i1", "off", "A", Instant(10**18))


def test_s1_two_nodes_fenced_in_one_era(world) -> None:
    """S1: the second node of a pair that falls to a guard's shot in one era."""
    world.checkers.intent_era = {"i1": 1, "i2": 1}
    won(world, "B", "fence")
    world.shot_lands("B", "A", "i1")
    won(world, "A", "fence")
    breaks("S1", lambda: world.shot_lands("A", "B", "i2"))


def test_s1_the_winner_of_an_era_changes(world) -> None:
    """S1: a register whose winner changes within an era."""
    one = Register(3, "A", frozenset({"fence"}), "verdict", 7, "A")
    breaks("S1", lambda: world.checkers.register_changed(one, replace(one, winner="B", version=8)))


def test_s2_the_only_holder_of_a_write_is_fenced(world) -> None:
    """S2: an acknowledged write that only the fenced node has."""
    world.disks.of["A"].has.add(10_000)
    world.disks.acked[10_000] = "A"
    world.checkers.intent_era = {"i1": 1}
    won(world, "B", "fence")
    breaks("S2", lambda: world.shot_lands("B", "A", "i1"))


def test_s2_a_write_is_gone_in_the_end(world) -> None:
    """S2: an acknowledged write that is missing once the pair is whole."""
    world.disks.acked[10_000] = "A"
    breaks("S2", world.checkers.nothing_lost)


def test_s3_both_run_alone(world) -> None:
    """S3: two unfrozen primaries without a connection."""
    for disk in world.disks.of.values():
        disk.role, disk.link, disk.disk = Role.PRIMARY, Link.STANDALONE, Disk.UP_TO_DATE
        disk.suspended = set()
    breaks("S3", world.checkers.always)


def test_s3_both_are_let_go_on_in_one_era(world) -> None:
    """S3: a code 4 to both nodes in one era, however far apart."""
    won(world, None)
    world.checkers.granted("A")
    breaks("S3", lambda: world.checkers.granted("B"))


def test_s3_the_loser_is_let_go_on(world) -> None:
    """S3: a code 4 to the node that did not win."""
    won(world, "B", "alone")
    breaks("S3", lambda: world.checkers.granted("A"))


def test_s4_fire_after_start_by(world) -> None:
    """S4: a shot after the last moment of its window."""
    won(world, "B", "fence")
    intent(world, "B", late=True)
    breaks("S4", lambda: world.checkers.effect(world.nodes["B"], FIRE))


def test_s4_fire_without_a_win(world) -> None:
    """S4: a shot of a node that did not win the era."""
    intent(world, "B")
    breaks("S4", lambda: world.checkers.effect(world.nodes["B"], FIRE))


def test_s4_a_shot_lands_in_another_era(world) -> None:
    """S4: a late command that hits anybody but the loser of the open era."""
    world.checkers.intent_era = {"i1": 0}
    breaks("S4", lambda: world.shot_lands("B", "A", "i1"))


def test_s4_a_late_win_gives_a_right(world) -> None:
    """S4: a right from a win that came later than T_fire."""
    node = world.nodes["A"]
    guard = node.shell.guard
    late = Right("fence", 1, 2, Instant(node.local() - 4_000_000_000), 1)
    breaks(
        "S4",
        lambda: world.checkers.stepped(node, guard, None, replace(guard, right=late), Step(None, ())),
    )


def test_s4_a_commit_outside_its_window(world) -> None:
    """S4: a Commit whose offer was heard too long ago, or never."""
    breaks("S4", lambda: world.checkers.effect(world.nodes["A"], Send(ARBITER, Commit("n", 1, "fence"), 3.0)))


def test_s5_fire_or_landing_or_promotion_while_held(world) -> None:
    """S5: from *held* on nobody is fenced and nobody is promoted; only the sitting primary may go on alone."""
    world.checkers.held, world.checkers.sitting = True, frozenset({"A"})
    won(world, "B", "fence")
    intent(world, "B")
    breaks("S5", lambda: world.checkers.effect(world.nodes["B"], FIRE))
    world.checkers.intent_era = {"i1": 1}
    breaks("S5", lambda: world.shot_lands("B", "A", "i1"))
    breaks("S5", lambda: world.checkers.granted("B"))


def test_s5_a_view_from_before_the_release_begins_no_hold(world) -> None:
    """S5: what a guard heard before the other one released speaks of that hold; what it hears since of a new one."""
    FAULTS["topology-change"].inject(world, world.rng)
    assert world.until(lambda: world.checkers.held, 10)
    world.checkers.held, world.checkers.released_at = False, world.now
    world.checkers.slow()
    assert not world.checkers.held
    assert world.until(lambda: world.checkers.held, 2)
    won(world, "A", "alone")
    world.checkers.alone.clear()
    world.checkers.granted("A")


def test_s6_effects_that_depend_on_what_is_not_durable(world) -> None:
    """S6: a shot without intent, a grant without its use, a yield without its promise, a property without the brake."""
    node = world.nodes["B"]
    won(world, "B", "fence")
    breaks("S6", lambda: world.checkers.effect(node, FIRE))
    intent(world, "B", spawned=False)
    breaks("S6", lambda: world.checkers.effect(node, FIRE))
    breaks("S6", lambda: world.checkers.effect(node, AnswerHandler("h", 4, "right")))
    answer = Answer("n", None, True, 0.0)  # type: ignore[arg-type]
    breaks("S6", lambda: world.checkers.effect(node, Send(ARBITER, answer, 1.0)))
    breaks("S6", lambda: world.checkers.effect(node, SetHold("x")))


def test_s6_a_win_from_a_store_that_forgot(world) -> None:
    """S6: a node wins from another store, or from a register older than it has heard of."""
    one = Register(1, None, frozenset(), None, 1, "A")
    two = replace(one, winner="A", used=("alone",), version=2)
    world.checkers.known["A"] = (world.arbiter.store_id, 5)
    breaks("S6", lambda: world.checkers.register_changed(one, two))
    world.checkers.known["A"] = ("another store", 1)
    breaks("S6", lambda: world.checkers.register_changed(one, two))


def test_s7_what_is_not_ours(world) -> None:
    """S7: taking back a property that is not ours, or an inhibit of somebody else."""
    node = world.nodes["A"]
    world.checkers.before = node.shell.guard
    breaks("S7", lambda: world.checkers.effect(node, ClearHold("x")))
    breaks("S7", lambda: world.checkers.effect(node, Send(ARBITER, LiftInhibit("n", "disturbance:B"), 3.0)))
    world.checkers.effect(node, Bar("B", on=True))
    breaks("S7", lambda: world.checkers.effect(node, Bar("A", on=False)))


def test_l1_and_wholeness_can_fail(world) -> None:
    """A pair that is not whole is called that, with the reason in words."""
    world.disks.of["B"].disk = Disk.INCONSISTENT
    assert not world.whole()
    assert "disk=I" in world.why_not_whole()


# ------------------------------------------------------------------ service, liveness, the end


def test_service_a_serving_node_is_fenced(world) -> None:
    """SERVICE: a shot at a node that serves, is heard all along and did not yield; not at one that was silent."""
    world.run(6)
    one = Register(1, None, frozenset(), None, 1, "A")
    two = replace(one, winner="B", used=("fence",), version=2)
    won(world, "B", "fence")
    world.checkers.intent_era = {"i1": 1}
    world.checkers.register_changed(one, two)
    world.nodes["A"].unwell_at = world.now  # it hung until now: whoever fenced it was right
    assert not world.checkers._serving("A")
    world.nodes["A"].unwell_at = 0
    breaks("SERVICE", lambda: world.shot_lands("B", "A", "i1"))


def test_service_a_healthy_primary_steps_back(world) -> None:
    """SERVICE: a primary that serves stops writing for its peer; if its own cluster failed it may."""
    node = world.nodes["A"]
    breaks("SERVICE", lambda: world.checkers.effect(node, SuspendWrites("n")))
    node.cluster.stop_fails()
    world.checkers.effect(node, SuspendWrites("n"))


def test_l1_no_right_though_all_is_clear() -> None:
    """L1: a guard that never claims is found out 1.5 s after the handler asked; in doubt nothing is demanded."""
    for doubt in (False, True):
        world = World(4)
        world.begin()
        world.run(20)
        world.nodes["B"].power_off("its power supply died")
        shell = world.nodes["A"].shell
        shell.guard = replace(shell.guard, journal_ok=False)  # planted: it believes that it cannot write
        if doubt:
            world.switch.topology_changes += 1
            world.run(20)
        else:
            breaks("L1", lambda w=world: w.run(20))
            assert world.now / 1e9 < 40


def test_l1_is_really_looked_at() -> None:
    """L1: a clear death on the shipped code is counted as one that was answered in time."""
    world = World(4)
    world.begin()
    world.run(20)
    world.nodes["A"].power_off("its power supply died")
    world.run(10)
    assert world.counts["rights in time"] >= 2  # to fence, and to go on alone


def test_l2_a_hold_that_never_ends() -> None:
    """L2: a release that never comes is found out in the healing phase, and so is what the arbiter still holds."""
    world = World(5)
    world.begin()
    world.nodes["A"].cluster.would_fence = True  # planted: no heal takes it away
    world.switch.topology_changes += 1
    world.run(4)
    breaks("L2", lambda: world.live_again(40))
    whole = World(6)
    whole.begin()
    kept = whole.arbiter.kept
    view = InhibitView("peer-alive", "peer-alive", "A", "planted", 0.0)
    whole.arbiter.kept = replace(kept, inhibits={"peer-alive": view})
    breaks("L2", whole.checkers.at_the_end)


def test_end_exactly_one_node_serves(world) -> None:
    """END: no node, or both, serving after the heal."""
    world.checkers.at_the_end()
    world.nodes["A"].cluster.mounted = False
    breaks("END", world.checkers.at_the_end)
    for node in world.nodes.values():
        node.cluster.mounted = True
        world.disks.of[node.name].role = Role.PRIMARY
    breaks("END", world.checkers.at_the_end)


def test_a_shot_that_acts_beyond_its_horizon(world) -> None:
    """S4, in a whole run: a device that acts after H hits a pair whose era was closed meanwhile."""
    rng = random.Random(1)  # noqa: S311  # a seeded story
    FAULTS["device-beyond-horizon"].inject(world, rng, node="A", most_s=60.0)
    world.nodes["A"].hang(True)
    assert world.until(lambda: world.noted("intent", "B") > 0, 10)
    world.nodes["A"].hang(False)
    breaks("S4", lambda: world.run(90))
    assert world.noted("era-closed") > 0
