"""What the stories ask of a world again and again. Each raises `Unmet`."""

from __future__ import annotations

from guard.rehearsal.checkers import expect
from guard.rehearsal.world import World


def nobody_shot(world: World) -> None:
    expect(not world.fenced, f"somebody was fenced: {world.fenced}")


def primary_is(world: World, name: str) -> None:
    expect(world.disks.of[name].writable() and world.nodes[name].cluster.mounted, f"{name} is not the active primary")


def short_or_long(world: World) -> float:
    return world.rng.choice((12.0, 12.0, 40.0))
