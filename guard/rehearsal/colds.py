"""Stories of a power loss after which one node alone comes back first."""

from __future__ import annotations

from guard.rehearsal.checkers import expect
from guard.rehearsal.outcomes import nobody_shot
from guard.rehearsal.world import World


def cold_ex_primary_alone(world: World) -> None:
    """Both lost power, the one that was primary comes back alone: after T_cold it serves; later all is whole."""
    world.begin()
    _both_lose_power(world)
    _goes_on_alone(world, "A")


def cold_ex_secondary_alone(world: World) -> None:
    """Both lost power, the one that was secondary comes back alone: it has all that was acknowledged, and serves."""
    world.begin()
    _both_lose_power(world)
    _goes_on_alone(world, "B")


def cold_twice(world: World) -> None:
    """The winner of a cold start loses power too and comes back alone once more: it goes on, the other is barred."""
    world.begin()
    _both_lose_power(world)
    name = world.rng.choice("AB")
    node = world.nodes[name]
    node.switch_on()
    expect(world.until(lambda: _serves(world, name), 90), f"{name} does not serve: {world.why_not_whole()}")
    world.run(world.rng.uniform(0.5, 5.0))
    node.power_off("a power cut")
    world.run(2)
    if world.rng.random() < 0.5:
        node.peer.switch_on()
        world.run(40)
        expect(not _serves(world, node.peer.name), "the loser of this era serves")
        node.peer.power_off("a power cut")
        world.run(2)
    _goes_on_alone(world, name)


def cold_arbiter_restarted(world: World) -> None:
    """As before, the arbiter restarted or its machine rebooted meanwhile: what it kept of both still compares."""
    world.begin()
    _both_lose_power(world)
    world.arbiter.crash(world.rng.uniform(0.5, 5.0), reboot=world.rng.random() < 0.5)
    name = world.rng.choice("AB")
    if world.rng.random() < 0.5:
        world.run(6)
        _goes_on_alone(world, name)
        return
    world.nodes[name].switch_on()
    world.run(world.rng.uniform(0.0, 12.0))
    world.arbiter.start()
    world.arbiter.crash(world.rng.uniform(0.5, 2.0), reboot=True)
    _goes_on_alone(world, name)


def _both_lose_power(world: World) -> None:
    both = list(world.nodes.values())
    world.rng.shuffle(both)
    for node in both:
        node.power_off("a power cut")
    world.run(world.rng.uniform(2.0, 30.0))


def _serves(world: World, name: str) -> bool:
    return world.disks.of[name].writable() and world.nodes[name].cluster.mounted


def _goes_on_alone(world: World, name: str) -> None:
    world.nodes[name].switch_on()
    expect(world.until(lambda: _serves(world, name), 90), f"{name} does not serve: {world.why_not_whole()}")
    nobody_shot(world)
    world.run(world.rng.uniform(1.0, 10.0))
    world.nodes[name].peer.switch_on()
    world.again_whole(120)
    nobody_shot(world)
    kept = world.arbiter.kept
    expect(kept is not None and kept.register.winner is None and kept.register.era > 1, "the era was not closed")
