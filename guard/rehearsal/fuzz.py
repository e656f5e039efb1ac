"""The story that mixes all faults at random, then heals everything and asks for wholeness."""

from __future__ import annotations

from guard.core.evidence import Link, LinkSighting, Role, Suspended, Up
from guard.core.step import AskRelease, OpenHold, Seen
from guard.rehearsal.checkers import Unmet
from guard.rehearsal.network import DEVICE_OF_A, DEVICE_OF_B, EVERY, OF_NODE, PAIR
from guard.rehearsal.world import World


def fuzz(world: World) -> None:
    """40 to 80 s of faults, then a person brings back what is off and everything must be whole."""
    world.begin()
    rng = world.rng
    if rng.random() < 0.4:
        world.network.loss, world.network.repeat = 0.05, 0.1
        world.network.late = rng.choice((0.0, 0.05, 0.2))
    world.crash_chance = rng.choice((0.0, 0.0, 0.002, 0.01))
    world.fence_action = rng.choice(("off", "reboot"))
    for name in ("A", "B"):
        world.nodes[name].cluster.wait_for_all = rng.random() < 0.7
    quiet = rng.random() < 0.6  # no holds by hand and no signs of a changing network
    for _ in range(rng.randint(4, 12)):
        _fault(world, 11 if quiet else 15)
        world.run(rng.uniform(0.2, 8.0))
    _end(world)


def fuzz_shots(world: World) -> None:
    """A kernel hangs, and around its shot anything may happen to devices, guards, arbiter and the kernel itself."""
    world.begin()
    rng = world.rng
    world.fence_action = rng.choice(("off", "reboot"))
    world.network.late, world.network.late_s_max = rng.choice((0.0, 0.1)), 3.0
    victim = world.nodes[rng.choice("AB")]
    victim.hang(True)
    world.run(rng.uniform(2.5, 4.5))
    for _ in range(rng.randint(4, 10)):
        match rng.randint(0, 8):
            case 0 | 1:
                world.network.hold(*rng.sample((DEVICE_OF_A, DEVICE_OF_B, PAIR), rng.randint(1, 2)))
            case 2:
                world.network.heal()
            case 3 | 4:
                victim.hang(False)
            case 5:
                victim.peer.restart_guard(rng.uniform(0.2, 2.0))
            case 6:
                world.arbiter.crash(rng.uniform(0.2, 2.0), reboot=rng.random() < 0.3)
            case 7:
                victim.switch_on()
            case _:
                victim.hang(True)
        world.run(rng.choice((rng.uniform(0.01, 0.5), rng.uniform(0.5, 4.0))))
    victim.hang(False)
    world.run(rng.uniform(0.0, 12.0))
    _end(world)


def _end(world: World) -> None:
    """The liveness phase. Raises `Unmet`."""
    _heal(world)
    if not world.until(world.whole, 60):
        # A person does what the manual says: nodes that cannot go on are power-cycled one after the other.
        for name in ("A", "B"):
            by_the_manual(world, name)
            if world.until(world.whole, 45):
                break
        else:
            raise Unmet(f"not whole again: {world.why_not_whole()}")
    world.run(2)
    world.checkers.nothing_lost()


def _fault(world: World, last: int) -> None:
    rng = world.rng
    node = world.nodes[rng.choice("AB")]
    match rng.randint(0, last):
        case 0 | 1:
            world.network.cut(PAIR)
        case 2:
            world.network.hold(*rng.sample(EVERY, rng.randint(1, len(EVERY))))
        case 3:
            world.network.cut(*OF_NODE[node.name][: rng.randint(1, 4)])
        case 4 | 5:
            world.network.heal()
        case 6:
            node.power_off("its power supply died")
        case 7:
            node.switch_on()
        case 8:
            node.hang(True)
        case 9:
            node.hang(False)
        case 10:
            world.arbiter.crash(rng.uniform(0.2, 8.0), reboot=rng.random() < 0.3)
        case 11:
            node.restart_guard(rng.uniform(0.2, 3.0))
        case 12:
            world.switch.topology_changes += 1
        case 13:
            node.shell.take(OpenHold("h", f"hold-{node.name}", "anna", "work", rng.choice((5.0, 3600.0)), 0.0))
        case 14:
            node.shell.take(AskRelease("r"))
        case _:
            carrier = rng.choice((Up.UP, Up.DOWN))
            node.shell.take(Seen(LinkSighting("bond0", node.local(), carrier)))


def _heal(world: World) -> None:
    world.crash_chance = 0.0
    world.network.loss = world.network.repeat = world.network.late = 0.0
    world.network.heal()
    world.arbiter.start()
    for node in world.nodes.values():
        node.hang(False)
        node.switch_on()
        if not node.shell.up:
            node.later(1.0, lambda n=node: None if n.shell.up else n.shell.start())  # type: ignore[misc]
        node.later(5.0, lambda n=node: n.shell.take(Seen(LinkSighting("bond0", n.local(), Up.UP))))  # type: ignore[misc]

    def release() -> None:
        for node in world.nodes.values():
            node.shell.take(AskRelease("final"))
        world.at(3.0, release)

    world.at(8.0, release)


def by_the_manual(world: World, name: str) -> None:
    """Power-cycle a node that stands alone or is frozen for good; reconnect the other one by hand."""
    disk, node = world.disks.of[name], world.nodes[name]
    frozen = disk.role is Role.PRIMARY and bool(disk.suspended & {Suspended.FENCING, Suspended.USER})
    if disk.link is Link.STANDALONE and disk.role is Role.SECONDARY:
        disk.link = Link.CONNECTING
    if frozen or not node.cluster.running:
        node.power_off("a person power-cycles it")
        world.run(1)
        node.switch_on()
        return
    if disk.link is Link.STANDALONE:
        disk.link = Link.CONNECTING
