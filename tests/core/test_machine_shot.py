"""Shots, grants and the end of an era in one guard, one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import asked_to_fence, guard_of, of, run, whole_pair

from guard.core import machine
from guard.core.close import _returnable
from guard.core.evidence import Disk, Power
from guard.core.instant import after, elapsed_s
from guard.core.messages import CloseAnswer, CloseAsk, CloseEra
from guard.core.policy import Policy
from guard.core.step import (
    AnswerAgent,
    ClientGone,
    Fire,
    Heard,
    Intent,
    Memory,
    Note,
    PowerRead,
    ReadPower,
    Reconsider,
    Send,
    ShotEnded,
    Tick,
)
from guard.core.turn import Attempt, Closing, Right, Turn, undrained


def armed(world, start_by_s=2.0):
    """B has won and its intent is durable."""
    node = world.nodes["B"]
    now = node.local()
    guard = guard_of(world, "B")
    job = replace(guard.agents[0], stage="armed", intent="i1")
    intent = Intent("i1", 1, 2, "A", node.boot_id, after(now, start_by_s), 10.0)
    memory = replace(guard.memory, intents=(intent,), used=("fence",))
    return replace(guard, agents=(job,), memory=memory, attempt=None), now


def test_a_shot_is_fired_once() -> None:
    """A repeated `Reconsider` fires nothing more."""
    guard, now = armed(asked_to_fence())
    fired, effects = run(guard, Reconsider("i1"), now)
    assert [f.target for f in of(effects, Fire)] == ["A"]
    assert fired.memory.intents[0].spawned
    _, effects = run(fired, Reconsider("i1"), now)
    assert not of(effects, Fire)


def test_nothing_is_fired_after_start_by() -> None:
    """S4: a guard that was paused between its intent and the shot sends nothing."""
    guard, now = armed(asked_to_fence(), start_by_s=-0.1)
    after_it, effects = run(guard, Reconsider("i1"), now)
    assert not of(effects, Fire)
    assert after_it.memory.intents == ()


def test_an_inhibit_in_the_last_moment_stops_the_shot() -> None:
    """S5: inhibits are read once more after the intent is durable."""
    guard, now = armed(asked_to_fence())
    guard = replace(guard, memory=replace(guard.memory, holding=True))
    _, effects = run(guard, Reconsider("i1"), now)
    assert not of(effects, Fire)


@pytest.mark.parametrize("disk", [Disk.INCONSISTENT, Disk.DISKLESS, Disk.UNKNOWN])
def test_a_winner_that_lost_its_disk_in_the_last_moment_does_not_shoot(disk) -> None:
    """S2: what the claim rested on is looked at once more; the target would be the only copy."""
    guard, now = armed(asked_to_fence())
    replicas = tuple(replace(r, disk=disk) for r in guard.volumes.replicas)
    after_it, effects = run(replace(guard, volumes=replace(guard.volumes, replicas=replicas)), Reconsider("i1"), now)
    assert not of(effects, Fire)
    assert after_it.memory.intents == ()


def test_a_client_that_left_is_not_shot_for() -> None:
    """An agent that died between win and shot takes its intent along."""
    guard, now = armed(asked_to_fence())
    gone, _ = run(guard, ClientGone(guard.agents[0].id), now)
    _, effects = run(gone, Reconsider("i1"), now)
    assert not of(effects, Fire)


def read_off(guard, now, power):
    """Answer the reading that is under way."""
    return run(guard, PowerRead(guard.agents[0].reading, power), now)


@pytest.mark.parametrize(("exit_code", "needed"), [(0, 1), (1, 2)])
def test_two_readings_off_confirm_and_less_does_not(exit_code, needed) -> None:
    """A verified exit 0 is one reading; without it two fresh ones are needed."""
    guard, now = armed(asked_to_fence())
    guard, _ = run(guard, Reconsider("i1"), now)
    guard, _ = run(guard, ShotEnded("i1", exit_code, True), now)
    for number in range(1, needed + 1):
        guard, effects = read_off(guard, now, Power.OFF)
        answers = of(effects, AnswerAgent)
        assert [a.confirmed for a in answers] == ([True] if number == needed else [])
    assert guard.memory.confirmed_off


@pytest.mark.parametrize("power", [Power.ON, Power.UNKNOWN])
def test_a_shot_that_cannot_be_read_back_is_unconfirmed(power) -> None:
    """Timed out, unreadable or still on: never a success."""
    guard, now = armed(asked_to_fence())
    guard, _ = run(guard, Reconsider("i1"), now)
    guard, _ = run(guard, ShotEnded("i1", 0, True), now)
    guard, effects = read_off(guard, now, power)
    assert [(a.confirmed, a.reason) for a in of(effects, AnswerAgent)] == [(False, "unconfirmed")]
    assert not guard.memory.confirmed_off


def test_a_reading_off_before_the_shot_sends_nothing_to_the_device() -> None:
    """Already off: the win is needed all the same, the shot is not."""
    world = asked_to_fence()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    job = replace(guard.agents[0], power=Power.OFF, power_at=now, offs=1, reading=None)
    guard = replace(guard, agents=(job,), right=Right("fence", 1, 2, now, 1, job=job.id), attempt=None)
    guard, effects = run(guard, Tick(), now)
    assert of(effects, ReadPower)
    assert not guard.memory.intents
    assert "fence" in guard.memory.used


def restarted(memory: Memory | None, world, **more):
    node = world.nodes["B"]
    return machine.start(
        "B",
        "A",
        policy=Policy(),
        sight=node.sight,
        horizon_s=10.0,
        memory=memory,
        boot_id=node.boot_id,
        seed="s",
        now=node.local(),
        **more,
    )


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_guard_start_gives_old_shots_their_drain(same_boot) -> None:
    """S4: a shot that was spawned and whose end nobody saw may act until now + H; a drain of another boot is void."""
    world = whole_pair()
    node = world.nodes["B"]
    boot = node.boot_id if same_boot else "before"
    shot = Intent("i1", 1, 2, "A", boot, node.local(), 10.0, spawned=True)
    unborn = Intent("i2", 1, 2, "A", boot, node.local(), 10.0)
    drained = replace(shot, id="i3", drained=after(node.local(), 500.0))
    memory = replace(guard_of(world, "B").memory, intents=(shot, unborn, drained))
    guard, step = restarted(memory, world)
    left = {i.id: round(elapsed_s(node.local(), i.drained)) for i in guard.memory.intents}
    assert left == {"i1": 10, "i3": 500 if same_boot else 10}
    assert step.memory == guard.memory
    assert guard.right is None


@pytest.mark.parametrize("known", ["drained", "spawned", "unknown", "no memory"])
def test_a_shot_that_cannot_be_killed_keeps_its_era_open_until_it_ends(known) -> None:
    """S4: it is undrained, also where the journal lost it; a person is paged; its drain begins with its end."""
    world = whole_pair()
    node = world.nodes["B"]
    drained = node.local() if known == "drained" else None
    shot = Intent("i1", 1, 2, "A", node.boot_id, node.local(), 10.0, spawned=True, drained=drained)
    memory = replace(guard_of(world, "B").memory, intents=() if known == "unknown" else (shot,))
    guard, step = restarted(None if known == "no memory" else memory, world, stuck=frozenset({"i1"}))
    now = after(node.local(), 100.0)
    assert undrained(guard, now)
    assert step.memory == guard.memory
    assert [n.page for n in of(step.effects, Note) if n.event == "shot-stuck"] == [True]
    [intent] = [i for i in guard.memory.intents if i.id == "i1"]
    assert (intent.target, intent.spawned, intent.boot_id) == ("A", True, node.boot_id)
    guard, _ = run(guard, ShotEnded("i1", None, False), now)
    assert undrained(guard, after(now, 9.9))
    assert not undrained(guard, after(now, 10.1))
    assert "shot-stuck" not in guard.paged


def test_a_shot_that_lives_outlives_a_register_that_is_as_new() -> None:
    """S4: a register made anew says that nobody won on it; a process that is seen to live says more."""
    world = whole_pair()
    ack = guard_of(world, "B").ack
    fresh = replace(ack, register=replace(ack.register, version=1, era=1, winner=None, used=()))
    left = []
    for stuck in (frozenset(), frozenset({"i1"})):
        guard, _ = restarted(None, world, stuck=stuck)
        for seconds in (0.1, 0.2):
            now = after(world.nodes["B"].local(), seconds)
            guard, _ = run(guard, Heard("arbiter", replace(fresh, seq=int(now))), now)
        left.append([i.id for i in guard.memory.intents])
    assert left == [[], ["i1"]]


@pytest.mark.parametrize("how", ["timed out", "guard restarted", "cannot be killed"])
def test_a_request_beside_an_undrained_shot_is_served_at_the_same_target_only(how) -> None:
    """S1, S4: the winner is fixed, so a second shot hits the same loser; the era stays open until both have drained."""
    world = asked_to_fence()
    guard, now = armed(world)
    guard, _ = run(guard, Reconsider("i1"), now)
    if how == "timed out":
        guard, _ = run(guard, ShotEnded("i1", None, False), now)
    else:
        stuck = frozenset({"i1"} if how == "cannot be killed" else ())
        again, _ = restarted(guard.memory, world, stuck=stuck)
        seen = {"volumes": guard.volumes, "ack": guard.ack, "acked": guard.acked, "members": guard.members}
        guard = replace(again, **seen)
    job = replace(guard_of(world, "B").agents[0], id="j2", power=Power.ON, power_at=now, reading="r")
    right = Right("fence", 1, 3, now, guard.halves.connects, job="j2")
    guard, effects = run(replace(guard, agents=(job,), right=right), Tick(), now)
    [second] = [i for i in guard.memory.intents if i.id != "i1"]
    assert (second.target, second.era) == ("A", 1)
    guard, effects = run(guard, Reconsider(second.id), now)
    assert [f.target for f in of(effects, Fire)] == ["A"]
    guard, _ = run(guard, ShotEnded(second.id, 0, True), now)
    assert undrained(guard, now)
    assert not _returnable(Turn(guard, now))
    answers = [e.message for e in run(guard, Heard("A", CloseAsk("n", 1, "s")), now)[1] if type(e).__name__ == "Send"]
    assert [a.agreed for a in answers if isinstance(a, CloseAnswer)] == [False]


def closing(world):
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    session = guard.halves.session("A", "B")
    return replace(guard, closing=Closing("c1", 2, session, guard.halves.connects, now)), session, now


def test_an_era_is_ended_only_over_an_unbroken_session() -> None:
    """K4: agreed, the same session, no break since K2; else nothing is written."""
    world = whole_pair()
    guard, session, now = closing(world)

    def writes(answer, who=guard) -> bool:
        _, effects = (
            machine.step(who, machine.Heard("B", answer), now)[0],
            machine.step(who, machine.Heard("B", answer), now)[1].effects,
        )
        return any(isinstance(e.message, CloseEra) for e in of(effects, Send))

    assert writes(CloseAnswer("c1", True, session, ""))
    assert not writes(CloseAnswer("c1", False, session, "not-whole"))
    assert not writes(CloseAnswer("c1", True, "another", ""))
    assert not writes(CloseAnswer("other", True, session, ""))
    reconnected = replace(guard, halves=replace(guard.halves, connects=guard.halves.connects + 1))
    assert not writes(CloseAnswer("c1", True, session, ""), reconnected)


def test_the_winner_gives_up_its_right_before_it_asks_to_close() -> None:
    """K2: right none, the claim under way dead, before K3 is sent."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    register = replace(guard.ack.register, winner="A", used=("alone",))
    guard = replace(
        guard,
        ack=replace(guard.ack, register=register),
        right=Right("alone", 1, 2, now, 1, job="h"),
        attempt=Attempt("n", "fence", None, now),
        due={},
    )
    guard, effects = run(guard, Tick(), now)
    assert any(isinstance(e.message, CloseAsk) for e in of(effects, Send))
    assert guard.right is None
    assert guard.attempt is None


def test_an_invitation_to_close_ends_every_right_of_the_loser() -> None:
    """K3: the loser renounces before it answers, and refuses while a shot of its own may still act."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    session = guard.halves.session("B", "A")
    guard = replace(guard, right=Right("alone", 1, 2, now, 1, job="h"), attempt=Attempt("n", "fence", None, now))
    ask = machine.Heard("A", CloseAsk("c", guard.memory.era, session))
    after_it, effects = run(guard, ask, now)
    answers = [e.message for e in of(effects, Send) if isinstance(e.message, CloseAnswer)]
    assert [a.agreed for a in answers] == [True]
    assert after_it.right is None
    assert after_it.attempt is None
    shot = Intent("i", 1, 2, "A", guard.boot_id, now, 10.0, spawned=True, drained=after(now, 5.0))
    _, effects = run(replace(guard, memory=replace(guard.memory, intents=(shot,))), ask, now)
    answers = [e.message for e in of(effects, Send) if isinstance(e.message, CloseAnswer)]
    assert [a.reason for a in answers] == ["shot-undrained"]
