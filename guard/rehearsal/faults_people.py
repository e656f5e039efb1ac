"""Faults of the witness and its store, of other pairs of the cell, and what people do at a wrong time."""

from __future__ import annotations

from random import Random

from guard.core.instant import elapsed_s
from guard.core.step import AcceptStore, AskRelease, OpenHold
from guard.rehearsal.faulty import Registry, Undo, instead, pick
from guard.rehearsal.network import BUS_ARBITER
from guard.rehearsal.nodes import Node
from guard.rehearsal.witness import Trouble
from guard.rehearsal.world import World

fault = Registry()

HEARD_S = 2.0
WHEN = ("before", "after", "either")


# ------------------------------------------------------------------ the witness and its store


@fault("store")
def witness_down(world: World, rng: Random) -> Undo:
    """The witness is down, for every pair of the site; its end: it starts with what its disk holds."""
    world.arbiter.crash(None)
    return world.arbiter.start


@fault("store")
def witness_restarts(world: World, rng: Random, *, down_s: float = 1.0, reboot: bool = False) -> None:
    """The witness's process dies and is back; with `reboot` its clock starts anew."""
    if world.arbiter.up:
        world.arbiter.crash(down_s, reboot=reboot)


@fault("store")
def witness_pauses(world: World, rng: Random) -> Undo:
    """The hypervisor stops the witness and its clock; what is sent to it arrives when it goes on."""
    shared = world.arbiter.shared
    shared.stop_vm(True)
    lifts = [each.world.network.lay("held", BUS_ARBITER) for each in shared.arbiters]

    def end() -> None:
        shared.stop_vm(False)
        for lift in lifts:
            lift()

    return end


@fault("store", when=WHEN)
def witness_crash_at_write(world: World, rng: Random, *, when: str = "either", times: int = 1) -> Undo:
    """The witness dies at its next writes, before or after each is durable, and before anything is said."""
    trouble = _trouble(world)
    trouble.crashes += [rng.choice(WHEN[:2]) if when == "either" else when for _ in range(times)]
    return trouble.crashes.clear


@fault("store")
def store_slow(world: World, rng: Random, *, least_s: float = 0.05, most_s: float = 1.5) -> Undo:
    """Every write of the witness takes so long to be durable, as etcd on slow disks does."""
    return instead(world, _trouble(world), "slow_s", (least_s, max(least_s, most_s)))


@fault("store")
def store_leaderless(world: World, rng: Random) -> Undo:
    """The store has no leader and takes no write: what was decided is taken back."""
    trouble = _trouble(world)
    trouble.refuses += 1

    def end() -> None:
        trouble.refuses = max(0, trouble.refuses - 1)

    return end


@fault("store")
def store_lost(world: World, rng: Random, *, init: bool = False) -> Undo:
    """The witness's disk is lost and a new store begins; with `init` a person makes the register at once.

    Its end: a person runs `pairguard init` until both guards, whole, take the new store.
    """
    world.arbiter.lose_store()
    if init:
        _init_all(world)
    return lambda: _accept(world)


@fault("store")
def store_rolled_back(world: World, rng: Random, *, age_s: float = 20.0) -> Undo:
    """The witness's store is copied now; `age_s` later that copy is put back under the same store id.

    Its end: a person runs `pairguard init` until both guards, whole, take it.
    """
    arbiter = world.arbiter
    arbiter.back_up()
    over: list[bool] = []

    def back() -> None:
        if not over:
            arbiter.roll_back()

    def end() -> None:
        over.append(True)
        _accept(world)

    world.at(age_s, back)
    return end


@fault("store")
def others_lost(world: World, rng: Random, *, of: int = 5, lost: int = 3) -> Undo:
    """`lost` of `of` other pairs of the cell, known by name only, lose their peers at the same moment."""
    if len(world.arbiter.others) != of:
        world.arbiter.join_cell(of)
    world.arbiter.others_lost(lost)
    return world.arbiter.others_back


# ------------------------------------------------------------------ people


@fault("people")
def person_holds(world: World, rng: Random, *, node: str = "either", lease_s: float = 3600.0) -> Undo:
    """A person holds the pair; its end: asks for the release."""
    hit = pick(world, rng, node)
    for each in hit:
        key = world.name_of("work")
        wall_s = world.now / 1e9 + each.wall_s
        each.shell.take(OpenHold(key, key, "anna", "switch work", lease_s, wall_s))

    def end() -> None:
        for each in hit:
            each.shell.take(AskRelease(world.name_of("release")))

    return end


@fault("people")
def person_releases(world: World, rng: Random, *, node: str = "both", times: int = 3, every_s: float = 4.0) -> None:
    """A person asks for a release, again and again, whatever the moment."""

    def again(left: int) -> None:
        if left:
            for each in pick(world, rng, node):
                each.shell.take(AskRelease(world.name_of("release")))
            world.at(every_s, lambda: again(left - 1))

    again(times)


@fault("people")
def wrong_power_cycle(world: World, rng: Random, *, node: str = "primary", off_s: float = 4.0) -> None:
    """A person power-cycles a node, and it is the wrong one."""
    for each in pick(world, rng, node):
        each.power_off("a person power-cycles it")
        world.at(off_s, each.switch_on)


@fault("people")
def init_again(world: World, rng: Random) -> None:
    """A person runs `pairguard init` again at a wrong time: a register that exists is not made anew."""
    world.arbiter.init_again()


def _init_all(world: World) -> None:
    for each in world.arbiter.shared.arbiters:
        each.init()


def _accept(world: World, times: int = 60) -> None:
    """`pairguard init` by a person, until every guard of the site believes. A pair that is not whole refuses."""
    if world.arbiter.up and any(each.kept is None for each in world.arbiter.shared.arbiters):
        _init_all(world)
    doubting = False
    for each in world.arbiter.shared.arbiters:
        if all(_believes(node) for node in each.world.nodes.values()):
            continue
        doubting = True
        for node in each.world.nodes.values():
            if node.shell.guard is not None and node.shell.guard.store_doubted:
                node.shell.take(AcceptStore(world.name_of("init")))
        each.world.checkers.register_made()
    if times and (doubting or not world.arbiter.up):
        world.at(3.0, lambda: _accept(world, times - 1))


def _believes(node: Node) -> bool:
    """It heard this very store a moment ago, and takes it for the one it knows."""
    guard = node.shell.guard
    if guard is None or guard.acked is None or guard.store_doubted:
        return False
    return elapsed_s(guard.acked, node.local()) < HEARD_S and guard.memory.store_id == node.world.arbiter.store_id


def _trouble(world: World) -> Trouble:
    shared = world.arbiter.shared
    if shared.trouble is None:
        shared.trouble = Trouble()
    return shared.trouble
