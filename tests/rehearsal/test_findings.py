"""What the rehearsed world found in the shipped core, as short stories. What is not mended yet is expected to fail.

`strict`: the mend turns the mark red, and then the mark goes; the story stays.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.core.messages import ARBITER, Ask
from guard.core.pair import Gathering
from guard.core.step import AskRelease, Heard, OpenHold
from guard.core.turn import Turn
from guard.rehearsal.checkers import Violation
from guard.rehearsal.faults import FAULTS
from guard.rehearsal.network import BUS_A, BUS_B, PAIR
from guard.rehearsal.nodes import Cadence
from guard.rehearsal.shell import Shell
from guard.rehearsal.timeline import Timeline
from guard.rehearsal.witness import SharedCell
from guard.rehearsal.world import World

SEEDS = range(1, 6)


def test_w1_a_serving_member_is_not_fenced_for_a_few_lost_messages() -> None:
    """Pacemaker asks for a healthy primary (a failed monitor) while that node's bus session stalls for 3 s. Both nodes
    are in one membership and replicate all the time: it is not dead, and it never yielded."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.run(6)
        bend = world.network.bend("A", "bus")
        bend.loss = 1.0
        world.run(0.5)
        world.nodes["B"].cluster.unclean = True
        world.run(2.5)
        bend.loss = 0.0
        world.run(10)
        assert not world.fenced
        world.nodes["B"].cluster.unclean = False


def test_a_command_that_is_carried_out_twice_ends_with_its_era() -> None:
    """S4: the agent saw the node off and ended well; the second copy acts up to H later, when the node may be back."""
    landed = 0
    for seed in (8, 24, 28, 32):  # agents that speak datagrams; each broke S4 while a clean end counted as drained
        world = World(seed, horizon_s=75.0)
        world.fence_action = "reboot"
        world.begin()
        FAULTS["device-doubles"].inject(world, world.rng)
        FAULTS["kernel-hang"].inject(world, world.rng, node="A")
        world.run(40)
        world.live_again(300)
        landed += world.counts["shots landed"]
    assert landed > 4


def test_w2_a_rolled_back_journal_hands_no_win_back() -> None:
    """A journal is put back from a copy that is older than the win that its node runs on: the era must not end."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.network.cut(PAIR)
        assert world.until(lambda w=world: len(w.grants) == 1, 10)
        world.live_again()  # era 2: the memory is older than its era
        shell = world.nodes["A"].shell
        copy = shell.durable
        world.network.cut(PAIR)
        assert world.until(lambda w=world: len(w.grants) == 2, 10)
        world.run(1)
        shell.kill()
        shell.durable = copy
        world.run(2)
        shell.start()
        world.run(5)
        world.live_again()


def open_claim(world: World) -> Gathering | None:
    """A claim of A for which no offer has left yet."""
    pair = world.arbiter.pair
    found = pair.gatherings.get("A") if pair is not None else None
    return found if found is not None and not found.claim.gather and found.offered is None else None


def test_w3_a_late_gathering_does_not_displace_a_claim() -> None:
    """The peer is silent, so the guard lets the arbiter gather; then it claims. If the gathering, sent before, arrives
    after the claim, the claim must still be answered (L1), and not be waited for in vain for 3 s."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.run(20)
        world.nodes["B"].power_off("its power supply died")
        assert world.until(lambda w=world: open_claim(w) is not None, 10, step_s=0.01)
        claim = open_claim(world).claim
        world.arbiter.hear("A", replace(claim, nonce="0" * 32, purpose="fence", gather=True))
        world.run(5)
        assert world.counts["rights in time"] >= 1


@pytest.mark.xfail(strict=True, raises=Violation, reason="W4: the loser outdates a resource that never was apart")
def test_w4_the_loser_keeps_what_only_it_has() -> None:
    """Two resources. Replication of r1 breaks and A goes on alone; r0 is connected all the time. Then A's disk of r0
    fails, so that B alone has what is written there. After a power cut B's r0, the newest, must not be outdated."""
    for seed in SEEDS:
        world = World(seed, resources=2)
        world.begin()
        world.run(6)
        world.volumes[1].broken = 1
        assert world.until(lambda w=world: bool(w.grants), 15)
        world.disks.fail_disk("A")
        world.run(3)
        for node in world.nodes.values():
            node.power_off("a power cut")
        world.volumes[1].broken = 0
        world.disks.attach("A")
        world.live_again()


def test_w5_a_flap_that_is_over_delays_no_handler() -> None:
    """Replication flapped, the hold ended long ago, and then the primary dies in a quiet network: L1 holds."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        FAULTS["replication-flaps"].inject(world, world.rng, times=4)
        world.run(40)
        assert world.noted("replication-lost") >= 3
        world.heal_everything()
        assert world.until(world.whole, 60)
        world.run(100)
        world.nodes["A"].power_off("its power supply died")
        assert world.until(lambda w=world: w.serves("B"), 30)


def test_w6_the_eras_of_a_new_register_are_others() -> None:
    """The checkers' own mistake: after a lost store eras begin at 1 again; who ran alone in the old 1 is no matter."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.network.cut(PAIR)
        assert world.until(lambda w=world: len(w.grants) == 1, 10)
        world.live_again()
        undo = FAULTS["store-lost"].inject(world, world.rng, init=True)
        undo()
        world.run(10)
        world.live_again()
        world.run(15)
        world.nodes["A"].power_off("its power supply died")
        assert world.until(lambda w=world: w.serves("B"), 60)


def test_w7_a_guard_that_is_restarted_is_no_lost_peer() -> None:
    """A guard is killed and started again while, in another pair of the cell, a primary really dies. Only one pair
    lost its peer: there is no storm, nobody is held, and the survivor serves at once."""
    for seed in SEEDS:
        queue, cell = Timeline(), SharedCell()
        ours, theirs = (World(seed * 10 + n, timeline=queue, cell=cell, name=f"pair-{n}") for n in range(2))
        for node in (*ours.nodes.values(), *theirs.nodes.values()):
            node.guard_echoes = True
        queue.run(30)
        for down_s in (0.7, 2.0, 6.0):
            ours.nodes["B"].restart_guard(down_s)
            queue.run(12)
        ours.nodes["B"].restart_guard(6.0)
        queue.run(1)
        theirs.nodes["A"].power_off("its power supply died")
        assert theirs.until(lambda w=theirs: w.serves("B"), 8)
        queue.run(10)
        assert ours.noted("braked") == ours.noted("property-set") == 0


def test_w8_a_guard_that_stood_still_is_no_sign_of_a_network() -> None:
    """A guard stands still for 4 s (seed 3: at the moment at which its peer asks the arbiter for it), in one
    membership with its peer all the while: nobody gave it up, and nobody is held when it is heard again."""
    for seed in SEEDS:
        world = World(seed)
        for node in world.nodes.values():
            node.guard_echoes = True
        world.run(30)
        for seconds in (1.0, 2.5, 4.0):
            world.nodes["B"].shell.pause(True)
            world.run(seconds)
            world.nodes["B"].shell.pause(False)
            world.run(40)
        assert world.noted("braked") == world.noted("property-set") == 0


def test_w9_a_handler_that_asks_when_the_link_is_back_wins_nothing() -> None:
    """Replication breaks for a moment; DRBD's handler is a slow process and asks once it is connected again. The pair
    is whole: nobody may win an era by that, since a win bars the peer."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.run(20)
        for name in world.nodes:
            world.disks.handler_start_s[name] = 6.0
        world.disks.broken = 1
        assert world.until(lambda w=world: w.noted("replication-lost") > 0, 10)
        world.disks.broken = 0
        assert world.until(lambda w=world: w.noted("handler-asks") > 0, 20)
        world.run(10)
        assert world.noted("won") == 0
        assert world.arbiter.kept.register.version == 1
        assert not any(node.shell.clients for node in world.nodes.values())
        assert world.whole()


@pytest.mark.parametrize("gap_s", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("cut", [False, True], ids=["heard", "arbiter away"])
def test_w10_one_key_at_both_nodes_is_one_hold(gap_s: float, cut: bool) -> None:
    """A playbook holds with one --key on both nodes at once, also while the arbiter is away; a release on one node ends
    it. Each guard kept its own moment: one said ended, the other stands, and both overwrote the arbiter for ever."""
    for seed in SEEDS:
        world = World(seed)
        world.begin()
        world.run(20)
        wall = 1_700_000_000.25
        if cut:
            world.network.cut(BUS_A, BUS_B)
        for name in ("A", "B"):
            shell = world.nodes[name].shell
            shell.take(OpenHold(f"open-{name}", "change-4711", "anna", "switch upgrade", 3600.0, wall))
            wall += 0.4
            world.run(gap_s)
        world.run(3)
        world.network.heal()
        assert world.until(lambda w=world: w.checkers.held, 60)
        world.run(5)
        own = [n.shell.guard.memory.inhibits.get("person:change-4711") for n in world.nodes.values()]
        assert {each.since_wall for each in own if each} == {
            world.arbiter.kept.inhibits["person:change-4711"].since_wall
        }
        shell = world.nodes["A"].shell

        def released(shell: Shell = shell, w: World = world) -> bool:
            shell.take(AskRelease("release"))
            w.run(2)
            return any(said.id == "release" and said.outcome in ("releasing", "released") for said in shell.told)

        assert world.until(released, 90)
        assert world.until(lambda w=world: not any(n.shell.guard.memory.holding for n in w.nodes.values()), 90)
        assert world.arbiter.kept.inhibits == {}


def test_a_guard_may_die_at_the_write_of_what_it_looks_at_before_it_answers() -> None:
    """The world's own mistake: it went on with a guard that had died while it looked at its writes."""
    for seed in SEEDS:
        world = World(seed, cadence=Cadence())
        world.begin()
        world.run(6)
        node = world.nodes["A"]
        turn = Turn(node.shell.guard, node.local())
        turn.soon("ledger")
        node.shell.guard, node.shell.writes_told = turn.guard, None
        world.crash_chance = 1.0
        node.shell.take(Heard(ARBITER, Ask("0" * 32, "B", "fence", want_yield=False)))
        assert not node.shell.up
        world.crash_chance = 0.0
        world.live_again()
