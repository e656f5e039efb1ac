"""Every kind of fault has its effect in a whole pair, and once all is healed the pair is whole again (L2).

`CASES` says for each fault how it is injected and what in the world then is different. A fault without a case fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from guard.core.evidence import Disk, Link, Role
from guard.core.step import AskRelease
from guard.rehearsal.checkers import Violation
from guard.rehearsal.faults import FAULTS, PLANTED
from guard.rehearsal.faulty import Arg
from guard.rehearsal.mixture import play
from guard.rehearsal.network import PAIR
from guard.rehearsal.nodes import Cadence
from guard.rehearsal.timeline import Timeline
from guard.rehearsal.witness import SharedCell
from guard.rehearsal.world import World

Fact = Callable[[World], bool]


class Case(NamedTuple):
    """`first`: what goes wrong before, and for how long; `then`: what goes wrong right after."""

    fact: Fact
    args: dict[str, Arg] = {}  # noqa: RUF012  # never changed
    within_s: float = 12.0
    first: tuple[tuple[str, dict[str, Arg], float], ...] = ()
    then: tuple[tuple[str, dict[str, Arg], float], ...] = ()
    mlag: bool = False
    seed: int = 23


def counted(name: str, least: int = 1) -> Fact:
    return lambda w: w.counts[name] >= least


def noted(event: str, who: str | None = None, times: int = 1) -> Fact:
    return lambda w: w.noted(event, who) >= times


def told(text: str, times: int = 1) -> Fact:
    return lambda w: sum(text in line for line in w.story) >= times


def started(name: str) -> Fact:
    return lambda w: w.nodes[name].shell.starts >= 2 and w.nodes[name].shell.up


def guard(w: World, name: str):
    found = w.nodes[name].shell.guard
    assert found is not None
    return found


def writes_stopped(w: World) -> bool:
    return w.now - w.disks.acked_at > 5e9


def unheard(w: World) -> bool:
    """The guards have not heard from the arbiter for 3 s."""
    return all(g.acked is not None and w.nodes[n].local() - g.acked > 3e9 for n in "AB" for g in [guard(w, n)])


def clock_stands(w: World) -> bool:
    """B's boot clock has not moved for 3 s of the world's."""
    before, _ = w.before
    return w.now - before > 3e9 and w.nodes["B"].local() == w.before[1]


def not_confirmed(w: World) -> bool:
    return w.now - w.before[0] > 12e9 and not w.fenced and bool(w.noted("waiting", "B"))


def asked_late(w: World) -> bool:
    asked = [at for at, _, event in w.notes if event == "agent-asks"]
    return bool(asked) and asked[0] - w.before[0] > 7e9


def shot_slowly(w: World) -> bool:
    """The preflight alone took longer than a healthy controller's answer."""
    asked = [at for at, who, event in w.notes if event == "agent-asks" and who == "B"]
    shot = [at for at, who, event in w.notes if event == "intent" and who == "B"]
    return bool(asked and shot) and shot[0] - asked[0] > 1.4e9


def resync_goes_on(w: World) -> bool:
    """For longer than any other resync takes."""
    began = next((line for line in reversed(w.story) if "resynchronising" in line), None)
    return began is not None and w.now / 1e9 - float(began[:9]) > 6 and w.disks.of["B"].link is Link.RESYNC


HANG = ("kernel-hang", {"node": "A"}, 0.0)
CUT = ("cut", {}, 0.0)
CHANGE = ("topology-change", {}, 0.0)
BRAKED = noted("braked")

CASES: dict[str, Case] = {
    # ---- machines
    "power-loss": Case(lambda w: w.disks.of["A"].alone and not w.nodes["B"].powered, {"node": "B"}),
    "power-cut": Case(lambda w: not any(n.powered for n in w.nodes.values()), {"between_s": 2.0}),
    "reboot": Case(lambda w: w.nodes["B"].boots == 2 and w.nodes["B"].shell.up, {"node": "B"}, 20),
    "kernel-hang": Case(lambda w: [t for _, t, _ in w.fenced] == ["A"], {"node": "A"}),
    "vm-pause": Case(clock_stands, {"node": "B"}),
    "clock-drift": Case(lambda w: abs(w.nodes["A"].rate - w.rates["A"]) > 1e-6, {"ppm": 200.0}),
    "wall-jump": Case(
        lambda w: any(abs(i.since_wall) > 80_000 for i in w.arbiter.kept.inhibits.values()),
        {"node": "A"},
        then=(("person-holds", {"node": "A"}, 0.0),),
    ),
    "guard-pause": Case(lambda w: w.arbiter.local() - w.arbiter.pair.heard["B"] > 3e9, {"node": "B"}),
    "guard-crash": Case(started("B"), {"node": "B"}),
    "guard-of-another-version": Case(counted("words of another version"), {"node": "B"}),
    "guard-upgrade": Case(lambda w: "B" in w.arbiter.pair.left, {"node": "B"}),
    "guard-crash-at": Case(started("B"), {"node": "B", "step": "fire"}, 20, then=(HANG,)),
    "guard-crashes": Case(told("the guard's process is gone", 2), {"chance": 0.2}, then=(CHANGE,)),
    "disk-full": Case(
        lambda w: w.counts["journal writes failed"] > 0 and not guard(w, "A").journal_ok, {"node": "A"}, then=(CHANGE,)
    ),
    "journal-lost": Case(lambda w: started("B")(w) and w.nodes["B"].shell.durable.since_era is not None, {"node": "B"}),
    "journal-rolled-back": Case(started("B"), {"node": "B", "age_s": 3.0}),
    # ---- power controllers
    "device-slow": Case(shot_slowly, {"by_s": 1.5}, 20, then=(HANG,)),
    "device-late": Case(counted("shots landed late"), {"least_s": 3.0, "most_s": 5.0}, 20, then=(HANG,)),
    "device-mute": Case(not_confirmed, within_s=20, then=(HANG,)),
    "device-refuses": Case(counted("shots refused"), then=(HANG,)),
    "device-doubles": Case(counted("shots doubled"), then=(HANG,), seed=20),  # its agents speak datagrams
    "device-lies": Case(counted("readings that lied"), {"node": "A"}, then=(HANG,)),
    "device-dies-with-node": Case(
        lambda w: w.now - w.before[0] > 15e9 and not w.grants, within_s=20, then=(("power-loss", {"node": "A"}, 0.0),)
    ),
    # ---- links
    "cut": Case(noted("replication-lost")),
    "hold": Case(lambda w: bool(w.network.kept[PAIR]), within_s=5),
    "black-hole": Case(lambda w: not guard(w, "B").bus and not guard(w, "A").probe, {"node": "B"}),
    "cut-one-way": Case(lambda w: w.counts["lost one way"] > 0 and w.noted("replication-lost") > 0, within_s=15),
    "delay": Case(counted("late on a path", 5)),
    "reorder": Case(counted("late on a path", 5), {"within_s": 1.0}),
    "duplicate": Case(counted("doubled on a path", 5)),
    "lose": Case(counted("lost one way", 5)),
    "flap": Case(counted("flaps", 3), within_s=40),
    "drop-kind": Case(unheard, {"kind": "beat-ack"}),
    # ---- broker
    "broker-down": Case(lambda w: w.counts["lost with the broker"] > 0 and not guard(w, "A").bus),
    "broker-restart": Case(lambda w: not guard(w, "A").bus, {"down_s": 4.0}),
    "broker-redelivers": Case(counted("replays refused", 20), {"after_s": 4.0}),
    "broker-late": Case(counted("delivered though expired", 5)),
    "broker-split": Case(lambda w: w.counts["lost between two brokers"] > 5 and guard(w, "A").bus, {"party": "A"}),
    # ---- switches
    "mlag-agent-dies": Case(
        lambda w: w.counts["stand-alone falls"] == 1 and w.network.state[PAIR] == "held" and BRAKED(w),
        {"stp_s": 15.0},
        mlag=True,
    ),
    "mlag-clean-takeover": Case(
        lambda w: w.counts["clean takeovers"] == 1 and w.network.state[PAIR] == "open" and BRAKED(w), mlag=True
    ),
    "mlag-peer-link-down": Case(BRAKED, mlag=True),
    "port-down": Case(BRAKED),
    "port-flap": Case(BRAKED, {"port": "portB"}),
    "topology-change": Case(BRAKED),
    "stp-blocks": Case(lambda w: BRAKED(w) and w.network.state[PAIR] == "cut", {"stp_s": 10.0}),
    "switch-silent": Case(BRAKED),
    "switch-late": Case(
        lambda w: w.nodes["A"].local() - guard(w, "A").network.switches["sw1"].answered.at > 3.5e9, {"by_s": 4.0}
    ),
    "switch-reboots": Case(lambda w: BRAKED(w) and told("answers again")(w), {"silent_s": 6.0}),
    "counters-reset": Case(BRAKED),
    "bond-flap": Case(noted("braked", "A"), {"node": "A"}),
    "lacp-partner-changes": Case(BRAKED),
    # ---- cluster
    "token-loss": Case(lambda w: not any(n.cluster.peer_member for n in w.nodes.values())),
    "one-sided-membership": Case(
        lambda w: w.nodes["A"].cluster.peer_member and not w.nodes["B"].cluster.peer_member, {"node": "B"}
    ),
    "membership-flaps": Case(told("lost its peer from the membership", 2), within_s=40),
    "corosync-dies": Case(noted("yielded", "A"), {"node": "A"}, 40),
    "controller-dies": Case(noted("not-whole", "A"), {"node": "B"}),
    "dc-changes": Case(
        counted("fence requests dropped"),
        within_s=2,
        first=(("device-mute", {}, 0.0), ("kernel-hang", {"node": "A"}, 5.0)),
    ),
    "fencer-queue": Case(asked_late, {"delay_s": 6.0}, 20, then=(HANG,)),
    "fencer-timeout": Case(
        counted("fence requests", 2), {"wait_s": 12.0}, 40, first=(("device-mute", {}, 0.0),), then=(HANG,)
    ),
    "tools-slow": Case(
        lambda w: noted("yielded", "A")(w) and w.now - w.before[0] > 2e9,
        {"node": "primary", "most_s": 30.0},
        within_s=60,
        then=(("stop-fails", {"node": "primary"}, 0.0),),
    ),
    "fence-asked": Case(noted("agent-asks", "A"), {"node": "B"}),
    "scheduler-would-fence": Case(
        lambda w: w.checkers.held and w.now - w.before[0] > 25e9 and not w.noted("released"),
        within_s=30,
        then=(CHANGE,),
    ),
    "stop-fails": Case(noted("yielded", "A"), {"node": "primary"}, 40, first=(("reorder", {}, 6.0),)),
    "no-wait-for-all": Case(
        lambda w: w.nodes["B"].cluster.quorate and not w.nodes["B"].cluster.peer_member,
        {"node": "B"},
        20,
        then=(CUT, ("reboot", {"node": "B"}, 0.0)),
    ),
    "property-lost": Case(noted("property-set", times=3), {"loses": "both"}, first=(("topology-change", {}, 4.0),)),
    "cib-merge": Case(
        lambda w: min(n.cluster.properties.age for n in w.nodes.values()) > 90,
        {"node": "B", "edits": 100},
        first=(("token-loss", {"lasts_s": 4.0}, 3.8),),
    ),
    "maintenance-by-person": Case(lambda w: guard(w, "A").cluster.persons_maintenance is True),
    # ---- disks
    "replication-cut": Case(lambda w: w.disks.of["A"].link is Link.CONNECTING and w.nodes["A"].cluster.peer_member),
    "replication-flaps": Case(told("DRBD lost its peer", 4), within_s=60),
    "handler-killed": Case(counted("handlers killed"), then=(("witness-down", {}, 0.0), CUT)),
    "handler-late": Case(counted("handler answers late"), {"most_s": 3.0}, 20, then=(CUT,)),
    "handler-again": Case(
        counted("handlers called again", 2), {"node": "A"}, first=(("witness-down", {}, 0.0), ("cut", {}, 4.5))
    ),
    "io-suspended": Case(writes_stopped),
    "resync-slow": Case(
        resync_goes_on,
        within_s=30,
        first=(("power-loss", {"node": "B"}, 8.0),),
        then=(("boot", {}, 0.0),),
    ),
    "outdated": Case(
        lambda w: w.disks.of["B"].disk is Disk.OUTDATED, first=(("witness-down", {}, 0.0), ("cut", {}, 4.0))
    ),
    "gate-off": Case(lambda w: guard(w, "B").volumes.replicas[0].gate.closed() is False, {"node": "B"}),
    "disk-fails": Case(
        lambda w: w.disks.of["A"].disk is Disk.DISKLESS and w.disks.of["B"].writable() and w.nodes["B"].cluster.mounted,
        {"node": "A"},
    ),
    "generation-unreadable": Case(lambda w: guard(w, "B").volumes.replicas[0].generations is None, {"node": "B"}),
    "acks-lost": Case(writes_stopped),
    # ---- witness, store, other pairs, people
    "witness-down": Case(unheard),
    "witness-restarts": Case(
        lambda w: w.arbiter.shared.starts == 2 and w.arbiter.boot_id.endswith("2"), {"reboot": True}
    ),
    "witness-pauses": Case(lambda w: unheard(w) and w.arbiter.up),
    "witness-crash-at-write": Case(counted("witness crashes at a write"), then=(CHANGE,)),
    "store-slow": Case(counted("writes late", 2), then=(CHANGE,)),
    "store-leaderless": Case(lambda w: w.counts["writes refused"] > 2 and not w.arbiter.kept.inhibits, then=(CHANGE,)),
    "store-lost": Case(lambda w: ("A", "store-doubted") in w.pages, {"init": True}),
    "store-rolled-back": Case(
        lambda w: ("A", "store-doubted") in w.pages, {"age_s": 8.0}, 20, then=(("power-loss", {"node": "B"}, 0.0),)
    ),
    "etcd-slow": Case(lambda w: w.counts["writes late"] >= 2 and w.counts["looks late"] >= 2, then=(CHANGE,)),
    "etcd-unsure": Case(
        lambda w: w.counts["writes unsure: written"] > 1 and w.arbiter.shared.starts > 2,
        {"becomes": "written"},
        then=(CHANGE,),
    ),
    "etcd-refuses": Case(counted("writes refused", 2), {"share": 0.7}, then=(CHANGE,)),
    "term-moves": Case(lambda w: w.counts["terms moved"] == 1 and w.counts["deposed witnesses silenced"] == 1),
    "others-lost": Case(lambda w: w.arbiter.cell.storm_since is not None and w.arbiter.site().forbids is not None),
    "person-holds": Case(lambda w: w.checkers.held, within_s=15),
    "person-releases": Case(lambda w: len(w.nodes["A"].shell.told) >= 3, within_s=15),
    "wrong-power-cycle": Case(lambda w: w.nodes["A"].boots == 2, {"node": "A"}),
    "init-again": Case(counted("init refused")),
    # ---- members
    "phantom-members": Case(counted("phantoms refused", 50), {"count": 400, "over_s": 5.0}),
}


class Seen(World):
    """A world that remembers what it was like when the fault came."""

    before: tuple[int, int] = (0, 0)
    rates: dict[str, float] = {}  # noqa: RUF012  # set anew for each

    def look(self) -> None:
        self.before = (self.now, self.nodes["B"].local())
        self.rates = {name: node.rate for name, node in self.nodes.items()}


def inject(world: World, name: str, args: dict[str, Arg], wait_s: float = 0.0) -> None:
    if name == "boot":
        for node in world.nodes.values():
            node.switch_on()
    else:
        FAULTS[name].inject(world, random.Random(5), **args)  # noqa: S311  # a seeded story
    world.run(wait_s)


def test_every_fault_has_a_case() -> None:
    """No kind of fault is in the world without a test that it does something; there are at least 40."""
    assert set(FAULTS) == set(CASES) | PLANTED
    assert len(FAULTS) >= 40


@pytest.mark.parametrize("name", list(CASES))
def test_fault_has_its_effect(name: str) -> None:
    """What it says happens within its time, and not before; then all is healed and the pair lives again."""
    case = CASES[name]
    world = Seen(case.seed, mlag=case.mlag)
    world.begin()
    for each in case.first:
        inject(world, *each)
    world.look()
    assert not case.fact(world), "the effect was there before its fault"
    inject(world, name, case.args)
    for each in case.then:
        inject(world, *each)
    assert world.until(lambda: case.fact(world), case.within_s), f"no effect: {world.story[-8:]}; {world.counts}"
    assert world.counts[f"fault {name}"] == 1
    world.live_again()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_fault_tells_people_what_it_is(fault) -> None:
    """One line for people, defaults that are its own words, and a clear refusal of anything else."""
    assert len(fault.text) >= 20
    assert fault.text.endswith(".")
    assert all(fault.unfit(name, value) == "" or value == "" for name, value in fault.args.items())
    with pytest.raises(ValueError, match=r"no-such-argument.*it has"):
        fault.inject(World(1), random.Random(1), **{"no-such-argument": 1})  # noqa: S311
    for name in fault.words:
        assert "none of" in fault.unfit(name, "nonsense") or "no paths" in fault.unfit(name, "nonsense")


def test_wall_time_changes_no_decision() -> None:
    """The same seed with wall clocks that jump by a day, there and back, is the same story word for word."""
    stories = []
    for jump in (False, True):
        world = World(31)
        world.begin()
        if jump:
            undo = FAULTS["wall-jump"].inject(world, random.Random(2))  # noqa: S311
        world.nodes["A"].hang(True)
        world.run(15)
        if jump:
            undo()
        world.live_again()
        stories.append(world.story)
    assert stories[0] == stories[1]
    assert any("fires at A" in line for line in stories[0])


def test_a_fault_that_ended_is_not_undone_twice() -> None:
    """Two cuts of one path: the first end leaves the path cut, ending it again changes nothing, a heal ends both."""
    world = World(3)
    world.begin()
    rng = random.Random(1)  # noqa: S311
    first, second = (FAULTS["cut"].inject(world, rng) for _ in range(2))
    first()
    first()
    assert world.network.state[PAIR] == "cut"
    second()
    assert world.network.state[PAIR] == "open"
    FAULTS["hold"].inject(world, rng, paths="pair+bus")
    world.heal_everything()
    assert set(world.network.state.values()) == {"open"}
    second()
    assert world.network.calm()


def test_faults_of_one_thing_end_in_any_order() -> None:
    """Two splits of the broker and two slow controllers: whatever ends first, in the end nothing is left."""
    for order in ((0, 1), (1, 0)):
        world = World(3)
        world.begin()
        rng = random.Random(1)  # noqa: S311
        splits = [FAULTS["broker-split"].inject(world, rng, party=party) for party in ("both", "A")]
        slow = [FAULTS["device-slow"].inject(world, rng, by_s=by_s) for by_s in (1.0, 2.0)]
        splits[order[0]]()
        slow[order[0]]()
        assert world.network.broker.away == frozenset("A" if order[0] == 0 else "AB")
        assert world.devices["A"].latency_s == (2.0 if order[0] == 0 else 1.0)
        splits[order[1]]()
        slow[order[1]]()
        assert not world.network.broker.away
        assert world.devices["A"].plain()
        assert not world.layers


def test_a_replay_into_a_restarted_guard_is_harmless() -> None:
    """Old words reach guards whose filters are new, and even guards without any filter: nobody is shot, all is well."""
    for bare in (False, True):
        world = World(41)
        world.begin()
        FAULTS["broker-redelivers"].inject(world, random.Random(9), restart=True, count=800, bare=bare)  # noqa: S311
        world.network.cut(PAIR)
        world.run(5)
        world.network.heal(PAIR)
        world.run(25)
        assert world.counts["messages replayed"] == 800
        assert not world.fenced
        world.live_again()


def test_pairs_of_a_site_share_time_and_witness() -> None:
    """Three pairs on one timeline: what befalls one pair's path is its own, what befalls the witness is everybody's."""
    timeline, cell = Timeline(), SharedCell()
    worlds = [World(n, timeline=timeline, cell=cell, name=f"pair-{n}", cadence=Cadence()) for n in range(1, 4)]
    timeline.run(20)
    assert all(world.whole() for world in worlds)
    assert cell.cell is not None
    assert cell.cell.pairs == {"pair-1", "pair-2", "pair-3"}
    undo = FAULTS["cut"].inject(worlds[0], random.Random(1))  # noqa: S311
    timeline.run(8)
    assert [bool(world.noted("replication-lost")) for world in worlds] == [True, False, False]
    undo()
    timeline.run(20)
    FAULTS["witness-restarts"].inject(worlds[1], random.Random(1), down_s=4.0)  # noqa: S311
    timeline.run(3)
    assert not any(world.arbiter.up for world in worlds)
    timeline.run(20)
    assert all(world.whole() and world.arbiter.pair is not None for world in worlds)


def test_a_slow_cadence_costs_less_and_still_decides() -> None:
    """While nothing happens a sparse world takes far fewer events; a death is still answered in time (L1)."""
    events = []
    for cadence in (Cadence(calm_s=0.2), Cadence()):
        world = World(8, cadence=cadence)
        world.begin()
        before = world.timeline.events
        world.run(60)
        events.append(world.timeline.events - before)
        world.nodes["B"].power_off("its power supply died")
        assert world.until(lambda w=world: bool(w.grants), 10)
        world.run(3)
        assert world.counts["rights in time"] >= 1
        world.live_again()
    assert events[1] < 0.6 * events[0]


def test_nothing_is_told_when_nobody_listens() -> None:
    """Without `telling` a world keeps no story and decides the same."""
    ends = []
    for telling in (True, False):
        world = World(12, telling=telling)
        world.begin()
        world.nodes["A"].hang(True)
        world.run(20)
        ends.append((world.now, world.fenced, world.grants, dict(world.counts), len(world.story) > 0))
    assert ends[0][:4] == ends[1][:4]
    assert [end[4] for end in ends] == [True, False]


def test_a_person_cannot_release_too_early() -> None:
    """A release in the middle of a cut is refused with its reason, and the hold stands."""
    world = World(14)
    world.begin()
    FAULTS["person-holds"].inject(world, random.Random(1), node="A")  # noqa: S311
    assert world.until(lambda: world.checkers.held, 15)
    world.network.cut(PAIR)
    world.run(6)
    world.nodes["A"].shell.take(AskRelease("too early"))
    world.run(1)
    assert world.nodes["A"].shell.told[-1].outcome not in ("releasing", "released")
    assert world.checkers.held
    world.live_again()


def test_two_resources_stand_and_fall_together() -> None:
    """A pair with two resources: cut, death, one resource alone losing its peer, and a hang: one node serves."""
    world = World(5, resources=2)
    world.begin()
    world.network.cut(PAIR)
    assert world.until(lambda: len(world.grants) == 2, 10), world.why_not_whole()
    assert world.serves("A")
    world.live_again()
    FAULTS["replication-cut"].inject(world, random.Random(1), resource=1)  # noqa: S311
    assert world.until(lambda: len(world.grants) == 3, 15), world.why_not_whole()
    assert world.volumes[1].of["A"].alone
    assert world.disks.of["A"].link is Link.CONNECTED
    assert world.serves("A")
    world.live_again()
    world.nodes["A"].hang(True)
    assert world.until(lambda: world.serves("B"), 30), world.why_not_whole()
    assert [target for _, target, _ in world.fenced] == ["A"]
    world.nodes["A"].hang(False)
    world.live_again()


def test_the_second_resource_is_looked_at_too() -> None:
    """S2 and S3 see what happens on a second resource: a lost write there, and two nodes alone on different ones."""
    world = World(5, resources=2)
    world.begin()
    world.volumes[1].acked[10_000] = "A"
    with pytest.raises(Violation, match="S2"):
        world.checkers.nothing_lost()
    for name, volume in zip("AB", world.volumes, strict=True):
        disk = volume.of[name]
        disk.role, disk.link, disk.suspended = Role.PRIMARY, Link.STANDALONE, set()
    with pytest.raises(Violation, match="S3"):
        world.checkers.always()


@pytest.mark.parametrize("part", range(4))
def test_any_mixture_of_faults(part: int) -> None:
    """Several faults at once or one after the other keep every rule, and once healed the pair is whole."""
    for seed in range(1 + 1000 * part, 16 + 1000 * part):
        world, failure = play(seed)
        assert failure is None, "\n".join((f"mixture seed {seed}", *world.story[-18:], str(failure)))


@pytest.mark.parametrize("seed", [9384, 9887])
def test_mixtures_that_were_red_once(seed: int) -> None:
    """9384: an agent killed while its guard stood still waited for ever; 9887: asked before the membership lost it.

    Both were mistakes of the world. A new kind of fault makes other stories of these seeds.
    """
    assert play(seed)[1] is None


def test_the_same_mixture_is_the_same_story() -> None:
    """A seed of the mixture is the same story each time, word for word; another seed is another one."""
    first, again, other = play(7)[0].story, play(7)[0].story, play(8)[0].story
    assert first == again
    assert first != other
