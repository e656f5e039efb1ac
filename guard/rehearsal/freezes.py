"""Stories in which only the network changes, or people hold it: nobody is fenced. Their promise is the docstring."""

from __future__ import annotations

from guard.core.evidence import GateFacts, LinkSighting, Up
from guard.core.step import AskRelease, Leaving, OpenHold, Seen
from guard.rehearsal.checkers import expect
from guard.rehearsal.network import BUS_A, BUS_B, DEVICE_OF_A, DEVICE_OF_B, EVERY, PAIR
from guard.rehearsal.outcomes import nobody_shot, primary_is, short_or_long
from guard.rehearsal.world import World

DEVICES = (DEVICE_OF_A, DEVICE_OF_B)


def calm(world: World) -> None:
    """Nothing happens: nobody is fenced, nobody is paged, nothing is ever held."""
    world.begin()
    world.run(15)
    nobody_shot(world)
    expect(not world.pages, f"paged: {world.pages}")
    expect(not world.noted("braked"), "held without a reason")
    expect(world.whole(), world.why_not_whole())


def freeze_out_of_band(world: World) -> None:
    """Both nodes lose each other, both reach the arbiter and both fence devices: the worst case for a double shot."""
    world.begin()
    world.network.cut(PAIR)
    world.run(short_or_long(world))
    nobody_shot(world)
    primary_is(world, "A")
    world.again_whole()
    nobody_shot(world)
    primary_is(world, "A")


def freeze_in_band(world: World) -> None:
    """Everything is a black hole, the arbiter too: nobody is granted anything, all is well after the heal."""
    world.begin()
    world.network.cut(*EVERY)
    world.run(short_or_long(world))
    nobody_shot(world)
    expect(not world.grants, "granted without the arbiter")
    world.again_whole()
    nobody_shot(world)
    primary_is(world, "A")


def freeze_late_delivery(world: World) -> None:
    """The network keeps everything and delivers it at the thaw, the shots too."""
    world.begin()
    world.network.hold(*(EVERY if world.rng.random() < 0.5 else (PAIR, *DEVICES)))
    world.run(short_or_long(world))
    world.again_whole()
    nobody_shot(world)


def guard_restart_while_cut(world: World) -> None:
    """Guards are upgraded (stopped in order, started again) in the middle of a freeze."""
    world.begin()
    world.network.cut(PAIR)
    for name in world.rng.choice(("A", "B", "AB")):
        world.run(world.rng.uniform(0.5, 6.0))
        world.nodes[name].shell.take(Leaving())
        world.nodes[name].restart_guard()
    world.run(10)
    nobody_shot(world)
    world.again_whole()
    nobody_shot(world)


def write_under_way(world: World) -> None:
    """The cut falls between a write's arrival at the secondary and its acknowledgement: the primary goes on."""
    world.begin()
    disks = world.disks
    idle = world.until(lambda: world.now - disks.acked_at > 1.7e9 and disks.of["A"].pending is None, 60)
    expect(idle, "the application never paused")
    disks.acks_lost = True
    expect(world.until(lambda: disks.of["A"].pending in disks.of["B"].has, 10), "no write")
    world.network.cut(PAIR)
    disks.acks_lost = False
    expect(world.until(lambda: bool(world.grants), 15), "the primary was not let go on")
    world.again_whole()


def guard_stopped_in_the_freeze(world: World) -> None:
    """An upgrade stops a guard in order, just before the cluster gives its node up for dead: it is not fenced."""
    world.begin()
    world.network.cut(PAIR)
    world.run(world.rng.uniform(2.2, 2.7))
    world.nodes["A"].shell.take(Leaving())
    world.nodes["A"].restart_guard(world.rng.uniform(3.0, 5.0))
    world.run(9)
    nobody_shot(world)
    world.again_whole()
    nobody_shot(world)


def person_holds(world: World) -> None:
    """Held by a person before a freeze: nobody is fenced or promoted; a release is refused until it is safe."""
    world.begin()
    shell = world.nodes["A"].shell
    shell.take(OpenHold("o1", "work", "anna", "switch work", 3600.0, 0.0))
    expect(world.until(lambda: world.checkers.held, 15), "never held")
    world.network.cut(PAIR, *((BUS_A, BUS_B) if world.rng.random() < 0.5 else ()))
    world.run(8)
    shell.take(AskRelease("r1"))
    world.run(1)
    expect(shell.told[-1].outcome not in ("releasing", "released"), f"released: {shell.told[-1]}")
    world.run(short_or_long(world) - 9)
    nobody_shot(world)
    expect(not any(node == "B" for node, _ in world.grants), "promoted while held")
    world.network.heal()
    world.run(25)
    expect(world.checkers.held, "released without the person")

    def asked() -> bool:
        shell.take(AskRelease("r2"))
        world.run(2)
        return any(said.id == "r2" and said.outcome in ("releasing", "released") for said in shell.told)

    expect(world.until(asked, 60), f"not released: {shell.told[-1]}; {world.why_not_whole()}")
    world.again_whole()
    nobody_shot(world)


def disturbance_then_freeze(world: World) -> None:
    """A topology change, then a freeze: held before it, released by itself after it."""
    world.begin()
    world.switch.topology_changes += 1
    expect(world.until(lambda: world.checkers.held, 15), f"never held: {world.why_not_whole()}")
    world.network.cut(PAIR)
    world.run(short_or_long(world))
    nobody_shot(world)
    expect(not world.noted("released"), "released in the middle of the freeze")
    world.again_whole()
    nobody_shot(world)
    primary_is(world, "A")


def scheduler_would_fence(world: World) -> None:
    """The network is quiet again, but the scheduler, run without the hold, would fence: held until it would not."""
    world.begin()
    world.nodes["A"].cluster.would_fence = world.nodes["B"].cluster.would_fence = True
    world.switch.topology_changes += 1
    world.run(30)
    expect(not world.noted("released"), "released though the scheduler would fence")
    for node in world.nodes.values():
        node.cluster.would_fence = False
    world.again_whole()


def persons_maintenance(world: World) -> None:
    """A person's own maintenance mode stands before, during and after a hold: it is never touched."""
    world.begin()
    for node in world.nodes.values():
        node.cluster.properties.persons = True
        node.saw_cluster()
    world.run(1)
    world.switch.topology_changes += 1
    world.run(25)
    expect(world.noted("released") > 0, "never released")
    expect(all(n.cluster.properties.persons for n in world.nodes.values()), "a person's maintenance was taken away")
    for node in world.nodes.values():
        node.cluster.properties.persons = False
    world.again_whole()


def flapping(world: World) -> None:
    """The path between the nodes comes and goes, with carrier changes on one bond."""
    world.begin()
    for _ in range(8):
        world.network.cut(PAIR)
        if world.rng.random() < 0.4:
            node = world.nodes[world.rng.choice("AB")]
            node.shell.take(Seen(LinkSighting("bond0", node.local(), Up.DOWN)))
            node.later(1.0, lambda n=node: n.shell.take(Seen(LinkSighting("bond0", n.local(), Up.UP))))  # type: ignore[misc]
        world.run(world.rng.uniform(0.5, 5.0))
        world.network.heal(PAIR)
        world.run(world.rng.uniform(0.5, 5.0))
    nobody_shot(world)
    world.again_whole()


def storm_in_the_cell(world: World) -> None:
    """Three other pairs lose their peers in the same second: the network, not the nodes."""
    world.arbiter.join_cell(5)
    world.begin()
    silent = world.rng.random() < 0.5
    world.network.cut(*((PAIR, BUS_A) if silent else (PAIR,)))
    world.arbiter.others_lost(3)
    world.run(7 if silent else 20)  # silent for longer than the settle time, the half-open storm would let one claim go
    nobody_shot(world)
    world.arbiter.others_back()
    world.again_whole()
    nobody_shot(world)


def gate_off_yield(world: World) -> None:
    """The gate is not proven: the secondary must yield before the primary goes on; after the heal all is as before."""
    world.disks.gate = GateFacts("C", "resource-and-stonith", True, "pull-ahead")
    world.begin()
    world.network.cut(PAIR)
    expect(world.until(lambda: bool(world.grants), 20), f"the primary was not let go on: {world.why_not_whole()}")
    expect(world.noted("yielded", "B") == 1, "the secondary did not yield")
    world.run(5)
    nobody_shot(world)
    world.again_whole()
    primary_is(world, "A")


def answers_lost(world: World) -> None:
    """A freeze in which no live answer reaches the arbiter: it still hears the nodes, so nobody is fenced."""
    world.begin()
    world.network.drops.add("answer")
    world.network.cut(PAIR)
    world.run(20)
    nobody_shot(world)
    world.network.drops.clear()
    world.again_whole()
    nobody_shot(world)
