"""Stories for the rehearsed world, each with what must come of it; run over many seeds.

`python -m guard.rehearsal.scenarios --seed 7 --runs 100` prints the seeds that fail, with the end of their story.
The same seed gives the same story, byte for byte.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable

from guard.core.evidence import GateFacts, LinkSighting, Up
from guard.core.step import AskRelease, Fire, Leaving, OpenHold, Seen
from guard.rehearsal.checkers import Unmet, Violation, expect
from guard.rehearsal.fuzz import fuzz
from guard.rehearsal.network import BUS_A, BUS_B, DEVICE_OF_A, DEVICE_OF_B, EVERY, PAIR
from guard.rehearsal.world import Crash, World

Scenario = Callable[[World], None]
DEVICES = (DEVICE_OF_A, DEVICE_OF_B)


def nobody_shot(world: World) -> None:
    expect(not world.fenced, f"somebody was fenced: {world.fenced}")


def primary_is(world: World, name: str) -> None:
    expect(world.disks.of[name].writable() and world.nodes[name].cluster.mounted, f"{name} is not the active primary")


def short_or_long(world: World) -> float:
    return world.rng.choice((12.0, 12.0, 40.0))


# ------------------------------------------------------------------ the stories


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


STORIES: tuple[Scenario, ...] = (
    calm,
    freeze_out_of_band,
    freeze_in_band,
    freeze_late_delivery,
    primary_death,
    secondary_death,
    hung_kernel,
    hung_kernel_returns,
    one_node_cut,
    in_band_death,
    arbiter_down_then_death,
    arbiter_restarts,
    guard_killed_mid_shot,
    guard_restart_while_cut,
    shots_wait_in_the_network,
    write_under_way,
    guard_stopped_in_the_freeze,
    fenced_node_boots,
    person_holds,
    disturbance_then_freeze,
    scheduler_would_fence,
    persons_maintenance,
    device_lies_once,
    death_under_disturbance,
    flapping,
    storm_in_the_cell,
    store_lost,
    cold_start_alone,
    cold_start_cut,
    gate_off_yield,
    answers_lost,
    freeze_then_death,
    words_closed,
    late_words,
)


def play(scenario: Scenario, seed: int) -> tuple[World, str | None]:
    """One run; the failure in words, or None. Each story has its own stream of seeds."""
    world = World(zlib.crc32(f"{scenario.__name__}/{seed}".encode()))
    try:
        scenario(world)
    except (Violation, Unmet) as failure:
        return world, f"{type(failure).__name__} {failure}"
    return world, None


def tale(world: World, failure: str, lines: int = 20) -> str:
    """The end of a story in at most `lines` lines."""
    return "\n".join((*world.story[-(lines - 1) :], failure))


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a seed failed."""
    everything = (*STORIES, fuzz)
    parser = argparse.ArgumentParser(prog="python -m guard.rehearsal.scenarios", description="rehearse pairguard")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds of every story")
    parser.add_argument("--story", choices=[s.__name__ for s in everything], action="append", help="only this one")
    parser.add_argument("--lines", type=int, default=20, help="length of a printed story")
    parser.add_argument("--print", action="store_true", help="print the whole story of every run")
    given = parser.parse_args(argv)
    failed = 0
    for scenario in everything:
        if given.story and scenario.__name__ not in given.story:
            continue
        for seed in range(given.seed, given.seed + given.runs):
            world, failure = play(scenario, seed)
            if given.print:
                print("\n".join(world.story))
            if failure is not None:
                failed += 1
                print(f"--- {scenario.__name__} seed {seed} failed\n{tale(world, failure, given.lines)}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
