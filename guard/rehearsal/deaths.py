"""Stories in which somebody dies: node, kernel, guard, arbiter or its memory. Their promise is the docstring."""

from __future__ import annotations

from guard.core.step import Fire
from guard.rehearsal.checkers import expect
from guard.rehearsal.network import BUS_A, DEVICE_OF_A, DEVICE_OF_B, PAIR
from guard.rehearsal.outcomes import nobody_shot, primary_is
from guard.rehearsal.world import Crash, World


def primary_death(world: World) -> None:
    """The primary loses power: it is confirmed off, the peer is promoted; back, it is whole again."""
    world.begin()
    world.fence_action = "reboot" if world.rng.random() < 0.3 else "off"
    world.nodes["A"].power_off("its power supply died")
    ok = world.until(lambda: world.disks.of["B"].writable() and world.nodes["B"].cluster.mounted, 25)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    nobody_shot(world)
    world.run(4)
    world.nodes["A"].switch_on()
    world.again_whole()
    nobody_shot(world)


def secondary_death(world: World) -> None:
    """The secondary dies: the primary goes on alone within 1.5 s of asking (L1)."""
    world.begin()
    world.nodes["B"].power_off("its power supply died")
    expect(world.until(lambda: world.noted("handler-asks", "A") > 0, 10), "DRBD did not ask")
    asked = next(at for at, who, event in world.notes if event == "handler-asks" and who == "A")
    expect(world.until(lambda: bool(world.grants), 10), "the primary was not let go on")
    took = (next(at for at, who, event in world.notes if event == "handler-answered" and who == "A") - asked) / 1e9
    expect(took <= 1.5, f"L1: the right came {took:.2f} s after the question")
    world.run(10)
    primary_is(world, "A")
    nobody_shot(world)
    world.nodes["B"].switch_on()
    world.again_whole()


def hung_kernel(world: World) -> None:
    """The primary's kernel stops making progress: it is shot once, the peer is promoted."""
    world.begin()
    world.nodes["A"].hang(True)
    ok = world.until(lambda: world.disks.of["B"].writable() and world.nodes["B"].cluster.mounted, 30)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    expect([(b, t) for b, t, _ in world.fenced] == [("B", "A")], f"wrong shots: {world.fenced}")
    world.run(2)
    world.nodes["A"].switch_on()
    world.again_whole()
    expect(len(world.fenced) == 1, "shot more than once")


def hung_kernel_returns(world: World) -> None:
    """A kernel that hangs for a while and goes on, with everything that it was about to do."""
    world.begin()
    node = world.nodes[world.rng.choice("AB")]
    node.hang(True)
    world.run(world.rng.uniform(0.5, 9.0))
    node.hang(False)
    world.run(10)
    for dead in world.nodes.values():
        dead.switch_on()
    world.again_whole()
    expect(len(world.fenced) <= 1, "shot more than once")


def one_node_cut(world: World) -> None:
    """A black hole around the primary; its fence device is still in reach of the peer: that node is fenced."""
    world.begin()
    world.network.cut(PAIR, BUS_A, DEVICE_OF_B)
    ok = world.until(lambda: world.disks.of["B"].writable() and world.nodes["B"].cluster.mounted, 30)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    expect([(b, t) for b, t, _ in world.fenced] == [("B", "A")], f"wrong shots: {world.fenced}")
    world.network.heal()
    world.nodes["A"].switch_on()
    world.again_whole()


def in_band_death(world: World) -> None:
    """The primary dies together with its fence device: nobody can prove it, nobody is promoted, a person comes."""
    world.begin()
    world.devices["A"].shares_power = True
    world.nodes["A"].power_off("its power supply died")
    world.run(20)
    expect(not world.grants, "promoted without a confirmed fence")
    world.nodes["A"].switch_on()
    world.again_whole()


def arbiter_down_then_death(world: World) -> None:
    """No majority: nobody is shot, nobody is promoted; the arbiter is back and the survivor goes on."""
    world.begin()
    world.arbiter.crash(None)
    world.run(3)
    world.nodes["A"].power_off("its power supply died")
    world.run(15)
    nobody_shot(world)
    expect(not world.grants, "granted without the arbiter")
    world.arbiter.start()
    ok = world.until(lambda: world.disks.of["B"].writable(), 60)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    world.nodes["A"].switch_on()
    world.again_whole()


def arbiter_restarts(world: World) -> None:
    """The arbiter's process dies again and again around a death: the winner stays the winner."""
    world.begin()
    world.nodes["A"].hang(True)
    for _ in range(4):
        world.run(world.rng.uniform(0.3, 4.0))
        world.arbiter.crash(world.rng.uniform(0.2, 1.0))
    ok = world.until(lambda: world.disks.of["B"].writable() and world.nodes["B"].cluster.mounted, 60)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    expect(len(world.fenced) == 1, f"wrong shots: {world.fenced}")
    world.nodes["A"].switch_on()
    world.again_whole()


def guard_killed_mid_shot(world: World) -> None:
    """The guard dies at the moment of its shot, before or after the intent is durable."""
    world.begin()
    world.crashes.append(Crash("B", world.rng.choice(("before-durable", "after-durable")), Fire))
    world.nodes["A"].hang(True)
    ok = world.until(lambda: world.disks.of["B"].writable() and world.nodes["B"].cluster.mounted, 60)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    expect(len(world.fenced) == 1, f"wrong shots: {world.fenced}")
    world.nodes["A"].switch_on()
    world.again_whole()


def shots_wait_in_the_network(world: World) -> None:
    """A shot at a hung primary is caught by a freeze and lands later, when that node may be up again."""
    world.begin()
    world.nodes["A"].hang(True)

    def preflown() -> bool:
        guard = world.nodes["B"].shell.guard
        return guard is not None and bool(guard.agents) and guard.agents[0].power is not None

    expect(world.until(preflown, 20, step_s=0.005), "the agent never looked at the fence device")
    world.network.hold(DEVICE_OF_A)
    expect(world.until(lambda: world.noted("intent", "B") > 0, 10), "no shot")
    world.run(world.rng.uniform(0.2, 3.0))
    world.nodes["A"].hang(False)
    world.run(world.rng.uniform(7.0, 15.0))
    world.network.heal()
    world.run(5)
    world.again_whole()


def fenced_node_boots(world: World) -> None:
    """The fenced node boots, still cut off, and would shoot back: it is barred."""
    world.begin()
    world.nodes["A"].hang(True)
    expect(world.until(lambda: bool(world.fenced), 30), "the hung node was not fenced")
    world.network.cut(PAIR)
    world.nodes["A"].cluster.wait_for_all = False
    world.run(3)
    world.nodes["A"].switch_on()
    world.run(35)
    expect(len(world.fenced) == 1, f"shot back: {world.fenced}")
    primary_is(world, "B")
    world.again_whole()


def device_lies_once(world: World) -> None:
    """The fence device once reads `off` for a node that is on: one reading confirms nothing."""
    world.begin()
    world.nodes["A"].hang(True)
    world.devices["A"].lies_off = 1
    ok = world.until(lambda: world.disks.of["B"].writable() and world.nodes["B"].cluster.mounted, 40)
    expect(ok, f"the survivor was not promoted: {world.why_not_whole()}")
    expect([(b, t) for b, t, _ in world.fenced] == [("B", "A")], f"promoted beside a living node: {world.fenced}")
    world.again_whole()


def death_under_disturbance(world: World) -> None:
    """While the network changes a node dies: nobody is shot under the brake, later the survivor goes on."""
    world.begin()
    world.switch.topology_changes += 1
    world.run(world.rng.uniform(1.0, 6.0))
    world.nodes[world.rng.choice("AB")].power_off("its power supply died")
    survivor = next(n for n, node in world.nodes.items() if node.powered)
    ok = world.until(lambda: world.disks.of[survivor].writable() and world.nodes[survivor].cluster.mounted, 90)
    expect(ok, f"the survivor does not go on: {world.why_not_whole()}")
    nobody_shot(world)
    for node in world.nodes.values():
        node.switch_on()
    world.again_whole()


def store_lost(world: World) -> None:
    """The arbiter forgets: nobody believes it, nobody is shot; a person makes a new register while whole."""
    world.begin()
    if world.rng.random() < 0.5:
        old = world.arbiter.kept
        world.network.cut(PAIR)
        expect(world.until(lambda: bool(world.grants), 20), "the primary was not let go on")
        world.network.heal()
        expect(world.until(world.whole, 60), world.why_not_whole())
        if old is not None:
            world.arbiter.roll_back(old)
    else:
        world.arbiter.lose_store()
        world.arbiter.init()
    world.run(5)
    world.nodes["A"].hang(True)
    world.run(20)
    nobody_shot(world)
    expect(("B", "store-doubted") in world.pages, f"nobody was told: {world.pages}")
    grants = len(world.grants)
    expect(not any(n == "B" for n, _ in world.grants), "promoted on a forgotten register")
    world.nodes["A"].hang(False)
    world.run(10)
    expect(len(world.grants) == grants, "granted by a forgotten register")


def cold_start_alone(world: World) -> None:
    """Both lost power, only one comes back: after T_cold it goes on alone if its metadata proves enough."""
    world.begin()
    both = list(world.nodes.values())
    world.rng.shuffle(both)
    for node in both:
        node.power_off("a power cut")
    world.run(world.rng.uniform(2.0, 6.0))
    first, second = both
    first.switch_on()
    world.run(60)
    nobody_shot(world)
    second.switch_on()
    world.again_whole(120)
    nobody_shot(world)


def cold_start_cut(world: World) -> None:
    """Both come back from a power cut, the path between them is gone: at most one goes on."""
    world.begin()
    for node in world.nodes.values():
        node.power_off("a power cut")
    world.network.cut(PAIR)
    world.run(3)
    for node in world.nodes.values():
        world.run(world.rng.uniform(0.0, 4.0))
        node.switch_on()
    world.run(50)
    expect(len(world.fenced) <= 1, f"both shot: {world.fenced}")
    for node in world.nodes.values():
        node.switch_on()
    world.again_whole(120)


def freeze_then_death(world: World) -> None:
    """Both live through a freeze that is found out as one; then one of them hangs for good: the other goes on."""
    world.begin()
    world.network.cut(PAIR)
    world.run(world.rng.uniform(4.0, 9.0))
    nobody_shot(world)
    dead = world.rng.choice("AB")
    survivor = "B" if dead == "A" else "A"
    world.nodes[dead].hang(True)
    winner = world.arbiter.kept.register.winner if world.arbiter.kept is not None else None
    if winner in (None, survivor):
        ok = world.until(lambda: any(t == dead for _, t, _ in world.fenced), 90)
        expect(ok, f"{survivor} does not go on: {world.why_not_whole()}")
    else:
        world.run(40)  # the winner died before the close: a person decides
        nobody_shot(world)
        world.nodes[dead].power_off("a person switches it off and on")
    world.again_whole(120)


def words_closed(world: World) -> None:
    """`Closed` never arrives: the era ends all the same, and the constraint is taken back."""
    world.begin()
    world.network.drops.add("closed")
    world.nodes["B"].power_off("its power supply died")
    expect(world.until(lambda: bool(world.grants), 15), "the primary was not let go on")
    world.run(2)
    world.again_whole()


def late_words(world: World) -> None:
    """A bus that loses, repeats, reorders and delays by seconds, around a death: late words open nothing."""
    world.begin()
    world.network.loss, world.network.repeat, world.network.late = 0.1, 0.2, 0.2
    if world.rng.random() < 0.6:
        world.nodes["A"].hang(True)
    else:
        world.network.cut(PAIR)
    world.run(25)
    world.network.loss = world.network.repeat = world.network.late = 0.0
    world.network.heal()
    world.nodes["A"].hang(False)
    world.run(10)
    expect(len(world.fenced) <= 1, f"wrong shots: {world.fenced}")
    for node in world.nodes.values():
        node.switch_on()
    world.again_whole()
