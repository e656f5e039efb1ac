"""Faults of machines: power, kernel, clocks, the guard's process and its journal, and the power controllers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from guard.core.step import (
    AnswerAgent,
    AnswerHandler,
    Bar,
    ClearHold,
    Effect,
    Fire,
    Leaving,
    Persisted,
    ResumeWrites,
    Send,
    SetHold,
    SuspendWrites,
)
from guard.rehearsal.faulty import Registry, Undo, counted, every, instead, pick
from guard.rehearsal.nodes import Node
from guard.rehearsal.power import Device
from guard.rehearsal.world import Crash, World

fault = Registry()

STEPS: dict[str, type[Effect] | None] = {
    "any": None,
    "fire": Fire,
    "intent": Persisted,
    "send": Send,
    "answer-handler": AnswerHandler,
    "answer-agent": AnswerAgent,
    "suspend-writes": SuspendWrites,
    "resume-writes": ResumeWrites,
    "set-hold": SetHold,
    "clear-hold": ClearHold,
    "bar": Bar,
}
POINTS = ("before-durable", "after-durable", "either")
PPM = 1e-6


# ------------------------------------------------------------------ power and kernel


@fault("node")
def power_loss(world: World, rng: Random, *, node: str = "either") -> Undo:
    """A node loses power (its fence device keeps its own, unless it shares it). Its end: somebody switches it on."""
    hit = pick(world, rng, node)
    for each in hit:
        each.power_off("its power supply died")
    return every([each.switch_on for each in hit])


@fault("node")
def power_cut(world: World, rng: Random, *, between_s: float = 0.0) -> Undo:
    """Both nodes lose power, one of them up to `between_s` later. Its end: both are switched on."""
    first, second = rng.sample(list(world.nodes.values()), 2)
    over: list[bool] = []
    first.power_off("a power cut")
    world.at(rng.uniform(0.0, between_s), lambda: None if over else second.power_off("a power cut"))
    return every([first.switch_on, second.switch_on, lambda: over.append(True)])


@fault("node")
def reboot(world: World, rng: Random, *, node: str = "either", off_s: float = 5.0) -> None:
    """A node is reset, by a watchdog or by somebody, and boots again."""
    for each in pick(world, rng, node):
        each.power_off("a reset")
        world.at(off_s, each.switch_on)


@fault("node")
def kernel_hang(world: World, rng: Random, *, node: str = "either") -> Undo:
    """A kernel makes no progress, and goes on with everything that it was about to do; its clock goes on."""
    return _each(pick(world, rng, node), lambda each: each.hang(True), lambda each: each.hang(False))


@fault("node")
def vm_pause(world: World, rng: Random, *, node: str = "either") -> Undo:
    """The hypervisor stops a node and its CLOCK_BOOTTIME: it goes on without knowing that time passed."""
    return _each(pick(world, rng, node), lambda each: each.stop_vm(True), lambda each: each.stop_vm(False))


@fault("node")
def clock_drift(world: World, rng: Random, *, node: str = "both", ppm: float = 200.0) -> Undo:
    """The boot clocks run up to `ppm` wrong, each its own way."""

    def begin(each: Node) -> None:
        if each.rate:  # not while its hypervisor keeps it stopped
            each.drift(1.0 + rng.uniform(-ppm, ppm) * PPM)

    def end(each: Node) -> None:
        if each.rate:
            each.drift(1.0)

    return _each(pick(world, rng, node), begin, end)


@fault("node")
def wall_jump(world: World, rng: Random, *, node: str = "both", by_s: float = 86400.0) -> Undo:
    """Wall clocks jump, the witness's too: no decision may change."""
    jump = rng.choice((-1, 1)) * by_s

    def begin(each: Node) -> None:
        each.wall_s += jump

    def end(each: Node) -> None:
        each.wall_s -= jump

    shared = world.arbiter.shared
    shared.wall_s -= jump
    undo = _each(pick(world, rng, node), begin, end)

    def back() -> None:
        undo()
        shared.wall_s += jump

    return back


# ------------------------------------------------------------------ the guard's process and its journal


@fault("guard")
def guard_pause(world: World, rng: Random, *, node: str = "either") -> Undo:
    """The guard's process stands still (SIGSTOP, swap), its node does not; then it takes all that waited."""

    def begin(each: Node) -> None:
        if each.shell.up:
            each.shell.pause(True)
            world.tell(each.name, "the guard's process stands still")

    def end(each: Node) -> None:
        if each.shell.paused:
            each.shell.pause(False)

    return _each(pick(world, rng, node), begin, end)


@fault("guard")
def guard_crash(world: World, rng: Random, *, node: str = "either", down_s: float = 2.0) -> None:
    """The guard's process dies and is started again."""
    for each in pick(world, rng, node):
        each.restart_guard(down_s)


@fault("guard")
def guard_upgrade(world: World, rng: Random, *, node: str = "either", down_s: float = 3.0) -> None:
    """A guard is stopped in order, replaced, and started again."""
    for each in pick(world, rng, node):
        each.shell.take(Leaving())
        each.restart_guard(down_s)


@fault("guard")
def guard_of_another_version(world: World, rng: Random, *, node: str = "either") -> Undo:
    """Between two upgrades a guard speaks a version that the arbiter, or its peer, cannot read, nor it theirs."""
    return every([counted(each, "foreign") for each in pick(world, rng, node)])


@fault("guard", step=tuple(STEPS), point=POINTS)
def guard_crash_at(
    world: World, rng: Random, *, node: str = "either", step: str = "fire", point: str = "either"
) -> Undo:
    """The guard dies in its next step that carries this effect, before or after its memory is durable."""
    crashes = [
        Crash(each.name, rng.choice(POINTS[:2]) if point == "either" else point, STEPS[step])
        for each in pick(world, rng, node)
    ]
    world.crashes += crashes

    def end() -> None:
        for crash in crashes:
            if crash in world.crashes:
                world.crashes.remove(crash)

    return end


@fault("guard")
def guard_crashes(world: World, rng: Random, *, chance: float = 0.01) -> Undo:
    """Guards die at any step, each with this probability, before or after their memory is durable."""
    return instead(world, world, "crash_chance", chance)


@fault("guard")
def disk_full(world: World, rng: Random, *, node: str = "either") -> Undo:
    """The journal of a guard takes no write; a guard that starts meanwhile does not come up."""
    return every([counted(each.shell, "disk_full") for each in pick(world, rng, node)])


@fault("guard")
def journal_lost(world: World, rng: Random, *, node: str = "either", down_s: float = 2.0) -> None:
    """The guard dies, its journal is gone, and it starts as on a new node."""
    for each in pick(world, rng, node):
        each.shell.kill()
        each.shell.durable = None
        world.tell(each.name, "the guard's journal is gone")
        each.later(down_s, each.start_guard)


@fault("guard")
def journal_rolled_back(world: World, rng: Random, *, node: str = "either", age_s: float = 10.0) -> Undo:
    """A copy of a guard's journal is taken now; `age_s` later the guard dies and starts with that copy."""
    over: list[bool] = []
    for each in pick(world, rng, node):
        copy = each.shell.durable

        def put_back(each: Node = each, copy: object = copy) -> None:
            if each.powered and copy is not None and not over:
                each.shell.kill()
                each.shell.durable = copy  # type: ignore[assignment]
                world.tell(each.name, "the guard's journal was rolled back")
                each.later(2.0, each.start_guard)

        each.later(age_s, put_back)
    return lambda: over.append(True)


# ------------------------------------------------------------------ power controllers


@fault("power")
def device_slow(world: World, rng: Random, *, node: str = "both", by_s: float = 1.5) -> Undo:
    """A power controller takes its time for every command and every reading."""
    return every([instead(world, each, "latency_s", by_s) for each in _devices(world, rng, node)])


@fault("power")
def device_late(world: World, rng: Random, *, node: str = "both", least_s: float = 0.5, most_s: float = 600.0) -> Undo:
    """A command acts only after so long, however its agent fared; what is over its horizon H acts no more."""
    return every(
        [instead(world, each, "late_s", (least_s, max(least_s, most_s))) for each in _devices(world, rng, node)]
    )


@fault("power")
def device_beyond_horizon(world: World, rng: Random, *, node: str = "both", most_s: float = 600.0) -> Undo:
    """Planted: a command acts after H too. Nothing can hold against that; the checkers must find it."""
    hit = _devices(world, rng, node)
    late = [instead(world, each, "late_s", (0.9 * most_s, most_s)) for each in hit]
    return every([*late, *(instead(world, each, "beyond_horizon", True) for each in hit)])


@fault("power")
def device_mute(world: World, rng: Random, *, node: str = "both") -> Undo:
    """A power controller takes commands, and every answer is lost."""
    return every([counted(each, "mute") for each in _devices(world, rng, node)])


@fault("power")
def device_refuses(world: World, rng: Random, *, node: str = "both") -> Undo:
    """A power controller answers readings and refuses every command."""
    return every([counted(each, "refuses") for each in _devices(world, rng, node)])


@fault("power")
def device_doubles(world: World, rng: Random, *, node: str = "both") -> Undo:
    """A power controller carries every command out twice, the second time up to H later."""
    return every([counted(each, "doubles") for each in _devices(world, rng, node)])


@fault("power")
def device_lies(world: World, rng: Random, *, node: str = "both", readings: int = 1) -> Undo:
    """The next readings say `off` of a node that is on."""
    hit = _devices(world, rng, node)
    for each in hit:
        each.lies_off += readings

    def end() -> None:
        for each in hit:
            each.lies_off = 0

    return end


@fault("power")
def device_dies_with_node(world: World, rng: Random, *, node: str = "both") -> Undo:
    """A power controller has no power of its own: it dies with its node and proves nothing."""
    return every([instead(world, each, "shares_power", True) for each in _devices(world, rng, node)])


def _devices(world: World, rng: Random, node: str) -> tuple[Device, ...]:
    """The power controllers *of* these nodes: what their peers would shoot with."""
    return tuple(world.devices[each.name] for each in pick(world, rng, node))


def _each(nodes: tuple[Node, ...], begin: Callable[[Node], None], end: Callable[[Node], None]) -> Undo:
    for each in nodes:
        begin(each)

    def undo() -> None:
        for each in nodes:
            end(each)

    return undo
