"""Stories in which a node steps back while its kernel lives: it is asked, and switched off only then."""

from __future__ import annotations

from guard.core.evidence import Link, Suspended
from guard.rehearsal.checkers import expect
from guard.rehearsal.network import DEVICE_OF_A, PAIR
from guard.rehearsal.outcomes import nobody_shot, primary_is
from guard.rehearsal.world import World


def cluster_dies_on_the_primary(world: World) -> None:
    """corosync is killed on the primary, replication stands: it yields, is fenced once, and the peer is promoted."""
    world.begin()
    world.nodes["A"].cluster.die()
    _steps_back(world, "A")
    world.nodes["A"].switch_on()
    world.again_whole()


def cluster_dies_on_the_secondary(world: World) -> None:
    """corosync is killed on the secondary, replication stands: it yields and is fenced once, the primary goes on."""
    world.begin()
    world.nodes["B"].cluster.die()
    _steps_back(world, "B")
    world.nodes["B"].switch_on()
    world.again_whole()


def cluster_dies_in_a_cut(world: World) -> None:
    """corosync is killed on the primary and the path is cut before or after it: one serves, one shot at most."""
    world.begin()
    first, later = world.rng.choice(((True, False), (False, True)))
    if first:
        world.network.cut(PAIR)
        world.run(world.rng.uniform(0.1, 6.0))
    world.nodes["A"].cluster.die()
    if later:
        world.run(world.rng.uniform(0.1, 12.0))
        world.network.cut(PAIR)

    def serves() -> bool:
        return any(world.disks.of[n].writable() and world.nodes[n].cluster.mounted for n in "AB")

    world.run(10)
    expect(world.until(serves, 60), f"nobody serves: {world.why_not_whole()}")
    expect(len(world.fenced) <= 1, f"wrong shots: {world.fenced}")
    expect(("A" in {target for _, target, _ in world.fenced}) is not world.nodes["A"].powered, "A was not fenced")
    world.network.heal()
    world.nodes["A"].switch_on()
    if not world.nodes["A"].cluster.running:
        world.nodes["A"].later(5.5, world.nodes["A"].cluster.restart)
    world.again_whole(120)


def failed_stop(world: World) -> None:
    """A stop fails on the primary and Pacemaker wants it fenced, the pair whole: it yields, is fenced once."""
    world.begin()
    world.run(6)
    world.nodes["A"].cluster.stop_fails()
    _steps_back(world, "A")
    world.nodes["A"].switch_on()
    world.again_whole()


def failed_stop_on_a_busy_node(world: World) -> None:
    """The same where suspending I/O takes seconds: its yield is waited for, else it stalled its writes for nothing."""
    world.begin()
    world.run(6)
    world.nodes["A"].shell.tools_s = world.rng.uniform(2.0, 6.0)
    world.nodes["A"].cluster.stop_fails()
    _steps_back(world, "A")
    expect(world.noted("yielded", "A") == 1, "it yielded again and again")
    world.nodes["A"].switch_on()
    world.again_whole()


def failed_stop_in_a_cut(world: World) -> None:
    """A stop fails on a primary that is cut off and that has not won: nobody is fenced against a standing hold."""
    world.begin()
    world.run(6)
    world.network.cut(PAIR)
    world.run(world.rng.uniform(0.0, 2.0))
    world.nodes["A"].cluster.stop_fails()
    world.run(30)
    expect(len(world.fenced) <= 1, f"wrong shots: {world.fenced}")
    world.network.heal()
    world.run(15)
    if ("A", "resume-needs-person") in world.pages and world.disks.of["A"].suspended:
        world.nodes["A"].power_off("a person does what the page says")
        world.run(1)
    world.again_whole(120)


def healthy_node_asked_for(world: World) -> None:
    """Somebody asks to fence a healthy node of a whole pair: it does not yield, and is not asked again and again."""
    world.begin()
    world.run(6)
    target = world.rng.choice("AB")
    world.nodes[target].peer.cluster.unclean = True
    world.run(20)
    nobody_shot(world)
    expect(not world.noted("yielded"), "a healthy node yielded")
    world.nodes[target].peer.cluster.unclean = False
    primary_is(world, "A")
    world.run(45)  # the agent's own wait
    world.again_whole()


def claim_fails_after_the_yield(world: World) -> None:
    """The arbiter dies as the primary yields: by its word, once it is back, A writes again or is fenced. Never lost."""
    world.begin()
    world.nodes["A"].cluster.die()
    expect(world.until(lambda: world.noted("yielded", "A") > 0, 40, step_s=0.02), "the primary did not yield")
    world.arbiter.crash(world.rng.uniform(0.5, 4.0), reboot=world.rng.random() < 0.3)
    _steps_back(world, "A", 120)
    world.nodes["A"].switch_on()
    world.again_whole()


def candidate_dies_after_the_yield(world: World) -> None:
    """The candidate dies as the primary yields, before it won: by the arbiter's word the primary writes again."""
    world.begin()
    world.nodes["A"].cluster.die()
    expect(world.until(lambda: world.noted("yielded", "A") > 0, 40, step_s=0.002), "the primary did not yield")
    world.nodes["B"].power_off("its power supply died")
    won = world.arbiter.kept is not None and world.arbiter.kept.register.winner == "B"
    world.run(20)
    nobody_shot(world)
    if not won:
        expect(not world.disks.of["A"].suspended or bool(world.pages), f"frozen, unsaid: {world.why_not_whole()}")
    world.nodes["A"].power_off("a person power-cycles it")
    world.run(1)
    for node in world.nodes.values():
        node.switch_on()
    world.again_whole(150)


def device_of_another_node(world: World) -> None:
    """The fence device of the primary reads off while that node answers: nobody is asked to yield, nobody promoted."""
    world.begin()
    world.devices["A"].lies_off = 10_000
    world.nodes["A"].cluster.die()
    world.run(40)
    expect(not world.noted("yielded") and not world.grants, "believed a device that reads another node")
    primary_is(world, "A")
    world.devices["A"].lies_off = 0
    world.nodes["A"].cluster.restart()
    world.again_whole(120)


def dead_device_asks_nothing(world: World) -> None:
    """The fence device does not answer: the primary, whose cluster is gone, is not asked to stop writing for it."""
    world.begin()
    world.network.cut(DEVICE_OF_A)
    world.nodes["A"].cluster.die()
    world.run(30)
    nobody_shot(world)
    expect(not world.noted("yielded"), "writes were suspended for a fence that cannot come")
    primary_is(world, "A")
    world.network.heal()
    world.nodes["A"].cluster.restart()
    world.again_whole(120)


def yield_of_a_node_that_is_down(world: World) -> None:
    """A node booted into a cut, its resource is down: it yields all the same, and once it is brought up, suspended."""
    world.begin()
    world.arbiter.crash(None)
    world.network.cut(PAIR)
    world.nodes["B"].power_off("its power supply died")
    world.run(1)
    world.nodes["B"].switch_on()
    world.run(8)
    expect(world.disks.of["B"].link is Link.DOWN, "started without quorum")
    world.arbiter.start()
    expect(world.until(lambda: bool(world.grants), 30), f"the primary was not let go on: {world.why_not_whole()}")
    expect(world.noted("yielded", "B") == 1, "the other one did not yield")
    world.disks.bring_up("B")  # by hand
    suspended = world.until(lambda: Suspended.USER in world.disks.of["B"].suspended, 3)
    expect(suspended, "the promise was forgotten when the resource came up")
    nobody_shot(world)
    world.again_whole()
    primary_is(world, "A")


def cold_start_cut_yields(world: World) -> None:
    """Both come back from a power cut, the path cut, the arbiter in reach: one wins, the other yields and is off."""
    world.begin()
    for node in world.nodes.values():
        node.power_off("a power cut")
    world.network.cut(PAIR)
    world.run(3)
    for node in world.nodes.values():
        world.run(world.rng.uniform(0.0, 4.0))
        node.switch_on()

    def serves() -> bool:
        return any(world.disks.of[n].writable() and world.nodes[n].cluster.mounted for n in "AB")

    expect(world.until(serves, 90), f"nobody serves: {world.why_not_whole()}")
    expect(len(world.fenced) == 1, f"the loser was not switched off once: {world.fenced}")
    for node in world.nodes.values():
        node.switch_on()
    world.run(30)
    expect(len(world.fenced) == 1, f"wrong shots: {world.fenced}")
    world.again_whole(120)


def _steps_back(world: World, name: str, seconds: float = 60.0) -> None:
    """`name` yields and is fenced exactly once; then the other one serves, with everything acknowledged."""
    other = "B" if name == "A" else "A"
    ok = world.until(lambda: bool(world.fenced) and world.disks.of[other].writable(), seconds)
    expect(ok, f"{other} does not go on: {world.why_not_whole()}")
    ok = world.until(lambda: world.nodes[other].cluster.mounted, 30)
    expect(ok, f"{other} does not serve: {world.why_not_whole()}")
    expect([(b, t) for b, t, _ in world.fenced] == [(other, name)], f"wrong shots: {world.fenced}")
    expect(world.noted("yielded", name) >= 1, "fenced without its yield")
    lost = [w for w in world.disks.acked if w not in world.disks.of[other].has]
    expect(not lost, f"acknowledged writes {lost[:5]} are not on the survivor")


def clusters_come_and_go(world: World) -> None:
    """Clusters die, stops fail, paths and processes come and go, in any order: healed, a person makes it whole."""
    world.begin()
    rng = world.rng
    for name in "AB":
        world.nodes[name].cluster.wait_for_all = rng.random() < 0.7
    for _ in range(rng.randint(3, 9)):
        node = world.nodes[rng.choice("AAB")]
        match rng.randint(0, 9):
            case 0 | 1 | 2:
                if node.powered and node.cluster.running:
                    node.cluster.die()
            case 3:
                if node.powered and node.cluster.running and node.cluster.mounted:
                    node.cluster.stop_fails()
            case 4:
                world.network.cut(PAIR)
            case 5:
                world.network.heal()
            case 6:
                world.arbiter.crash(rng.uniform(0.2, 8.0), reboot=rng.random() < 0.3)
            case 7:
                node.restart_guard(rng.uniform(0.2, 3.0))
            case 8:
                node.power_off("its power supply died")
            case _:
                node.switch_on()
                node.cluster.restart()
        world.run(rng.choice((rng.uniform(0.1, 3.0), rng.uniform(3.0, 20.0))))
    world.network.heal()
    world.arbiter.start()
    for node in world.nodes.values():
        node.cluster.failed_stop = False
        node.switch_on()
        node.later(6.0, node.cluster.restart)
    if not world.until(world.whole, 90):
        for name in ("A", "B"):  # what the manual says of a pair that does not become whole: one after the other
            world.nodes[name].power_off("a person power-cycles it")
            world.run(1)
            world.nodes[name].switch_on()
            if world.until(world.whole, 60):
                break
    world.again_whole()
