"""What a shot may still do after its agent has ended, and a peer that waits to be switched on again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import asked_to_fence, of, run
from test_machine_shot import armed, read_off

from guard.core import machine
from guard.core.evidence import Power
from guard.core.instant import after, elapsed_s
from guard.core.messages import InhibitView
from guard.core.step import AnswerAgent, Memory, PowerOn, PowerRead, Reconsider, ShotEnded, Tick
from guard.core.turn import undrained

HOLD = InhibitView("person:k", "person", "anna", "repair", 1.0, lease_s=600.0)


@pytest.mark.parametrize(
    ("stream", "ended", "drained_s"),
    [
        pytest.param(True, (0, True, True), 0.0, id="one connection, closed, effect seen"),
        pytest.param(True, (None, False, True), 10.0, id="killed"),
        pytest.param(True, (0, False, True), 10.0, id="something of it was left"),
        pytest.param(True, (1, True, True), 10.0, id="gave up: the device may yet carry it out"),
        pytest.param(False, (0, True, True), 10.0, id="datagrams: an earlier copy may be in the network"),
        pytest.param(False, (None, True, False), 0.0, id="nothing was sent"),
    ],
)
def test_a_shot_drains_for_h_unless_nothing_can_be_left(stream, ended, drained_s) -> None:
    """S4: what is left in the network, or in the device, may act for H(device)."""
    guard, now = armed(asked_to_fence())
    fired, _ = run(replace(guard, stream=stream), Reconsider("i1"), now)
    exit_code, clean, started = ended
    over, _ = run(fired, ShotEnded("i1", exit_code, clean, started), now)
    assert elapsed_s(now, over.memory.intents[0].drained) == drained_s


@pytest.mark.parametrize(("ended", "drained_s"), [((0, True), 180.0), ((1, True), None), ((None, False), None)])
def test_a_device_without_a_bound(ended, drained_s) -> None:
    """S4, L1: accepted by name, it closes an era after a shot that was seen to succeed; any other a person ends."""
    guard, now = armed(asked_to_fence())
    intent = replace(guard.memory.intents[0], horizon_s=None, spawned=True)
    guard = replace(guard, memory=replace(guard.memory, intents=(intent,)), horizon_s=None, stream=False, agents=())
    over, _ = run(guard, ShotEnded("i1", *ended), now)
    drained = over.memory.intents[0].drained
    assert (None if drained is None else elapsed_s(now, drained)) == drained_s
    assert ("shot-undrained" in over.paged) == (drained_s is None)


def test_a_lost_memory_of_a_device_without_a_bound_waits_too() -> None:
    """S4: it may have shot a moment ago, whatever its device is."""
    guard, now = armed(asked_to_fence())
    for memory, torn in ((None, False), (Memory(guard.boot_id), True)):
        begun, _ = machine.start(
            "B",
            "A",
            policy=guard.policy,
            sight=guard.sight,
            horizon_s=None,
            memory=memory,
            boot_id=guard.boot_id,
            seed="seed",
            now=now,
            torn=torn,
        )
        assert undrained(begun, now)
        assert not undrained(begun, after(now, 180.1))


# ------------------------------------------------------------------ the second half of a reboot


def rebooting(stream: bool = False):
    """B has shot A to reboot it, and read it off twice; H is 10 s."""
    guard, now = armed(asked_to_fence())
    guard = replace(guard, agents=(replace(guard.agents[0], action="reboot"),), stream=stream)
    guard, _ = run(guard, Reconsider("i1"), now)
    guard, _ = run(guard, ShotEnded("i1", 0, True), now)
    guard, effects = read_off(guard, now, Power.OFF)
    assert of(effects, AnswerAgent)[0].confirmed
    assert not of(effects, PowerOn)
    return guard, now


def asked(guard, now, power, wait_s):
    """The next reading of the peer within `wait_s`, and what follows from it."""
    moment = now
    for tenths in range(int(wait_s * 10) + 1):
        if guard.switching is not None:
            break
        moment = after(now, tenths / 10)
        guard, effects = run(guard, Tick(), moment)
        assert not of(effects, PowerOn)
    assert guard.switching is not None
    guard, effects = run(guard, PowerRead(guard.switching, power), moment)
    return guard, moment, len(of(effects, PowerOn))


@pytest.mark.parametrize("stream", [True, False])
def test_a_peer_is_switched_on_once_its_shots_have_drained(stream) -> None:
    """S1: a late copy of the shot would switch it off again, and nobody would switch it on a second time."""
    guard, now = rebooting(stream)
    orders, began = 0, now
    while not orders and elapsed_s(began, now) < 60.0:
        guard, now, orders = asked(guard, after(now, 0.1), Power.OFF, 31.0)
        assert not orders or stream or elapsed_s(began, now) > 10.0
    assert orders == 1
    guard, now, again = asked(guard, after(now, 0.1), Power.ON, 31.0)
    assert not again
    assert not guard.memory.owes_on
    assert "not-switched-on" not in guard.paged


def test_a_peer_that_stays_off_is_switched_on_three_times_and_then_a_person_is_told() -> None:
    """An order may be lost on its way; one without end would meet a machine that somebody works on."""
    guard, now = rebooting(stream=True)
    orders = 0
    for _ in range(4):
        guard, now, more = asked(guard, after(now, 0.1), Power.OFF, 31.0)
        orders += more
    assert orders == 3
    assert "not-switched-on" in guard.paged
    assert not guard.memory.owes_on


def test_a_peer_that_is_switched_off_for_good_is_not_switched_on() -> None:
    """`off` is not `reboot`."""
    guard, now = armed(asked_to_fence())
    guard, _ = run(guard, Reconsider("i1"), now)
    guard, _ = run(guard, ShotEnded("i1", 0, True), now)
    guard, _ = read_off(guard, now, Power.OFF)
    assert not guard.memory.owes_on


@pytest.mark.parametrize("what", ["reads on", "a person holds", "cannot be read"])
def test_a_peer_that_is_somebody_elses_by_now_is_not_switched_on(what) -> None:
    """Somebody switched it on, or is at work on it: an `on` would come out of nowhere."""
    guard, now = rebooting()
    match what:
        case "reads on":
            guard, now, _ = asked(guard, now, Power.ON, 31.0)
        case "a person holds":
            guard = replace(guard, memory=replace(guard.memory, inhibits={HOLD.id: HOLD}))
            guard, _ = run(guard, Tick(), now)
        case _:
            for _ in range(20):
                assert "not-switched-on" not in guard.paged
                guard, now, _ = asked(guard, after(now, 0.1), Power.UNKNOWN, 31.0)
            guard, _ = run(guard, Tick(), after(now, 31.0))
    assert not guard.memory.owes_on
    assert ("not-switched-on" in guard.paged) == (what == "cannot be read")


def test_a_restart_switches_on_what_still_waits() -> None:
    """The guard was upgraded within H of the shot: the node would stay off and nobody would know why."""
    before, now = rebooting()
    guard, _ = machine.start(
        "B",
        "A",
        policy=before.policy,
        sight=before.sight,
        horizon_s=10.0,
        memory=before.memory,
        boot_id=before.boot_id,
        seed="another",
        now=after(now, 5.0),
    )
    guard, moment, orders = asked(guard, after(now, 5.0), Power.OFF, 31.0)
    if not orders:
        _, _, orders = asked(guard, after(moment, 0.1), Power.OFF, 31.0)
    assert orders == 1
