"""What a shot may still do after its agent has ended, and a peer that waits to be switched on again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import asked_to_fence, done, of, of_a_whole_pair, remembering, run
from test_machine_shot import armed, read_off

from guard.core import drain, machine
from guard.core.evidence import Power
from guard.core.instant import Instant, after, elapsed_s
from guard.core.messages import InhibitView
from guard.core.step import (
    AnswerAgent,
    Intent,
    Memory,
    Note,
    PowerOn,
    PowerRead,
    ReadPower,
    Reconsider,
    ShotEnded,
    Tick,
)
from guard.core.turn import AgentJob, undrained

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


# ------------------------------------------------------------------ one step of it by itself


def owing(**changed):
    """B's guard that owes its peer an `on`, every shot drained; and its moment."""
    guard, now = of_a_whole_pair("B")
    guard = remembering(guard, owes_on=True, intents=(), inhibits={})
    return replace(guard, **{"agents": (), "due": {}, **changed}), now


def test_a_peer_that_waits_is_read_every_30_s_by_our_own_token() -> None:
    """At once, with no delay. Not while a request of the agent stands: that one reads it."""
    guard, now = owing()
    for at_s, reads in ((0.0, 1), (29.999, 0), (30.0, 1)):
        after_it, effects = done(guard, after(now, at_s), drain.switch_on)
        asked_for = of(effects, ReadPower)
        assert asked_for == [ReadPower(after_it.switching, "A", 0.0)] * reads
        assert not reads or len(after_it.switching) == 32
        guard = after_it
    job = AgentJob("a", "off", "A", now, after(now, 60.0))
    for quiet in (replace(guard, agents=(job,), due={}), remembering(replace(guard, due={}), owes_on=False)):
        assert done(quiet, now, drain.switch_on) == (quiet, ())


@pytest.mark.parametrize(
    ("changed", "page"), [({"hold": False}, False), ({"hold": True}, False), ({"unread_power": 20}, True)]
)
def test_what_is_given_up_leaves_nothing_of_it(changed, page: bool) -> None:
    """A later reboot begins with no reading, no failure and no order of this one."""
    guard, now = owing(switching="t", unread_power=changed.get("unread_power", 3), switched_on=2)
    if "hold" in changed:
        guard = remembering(guard, inhibits={HOLD.id: replace(HOLD, ended=not changed["hold"])})
    after_it, effects = done(guard, now, drain.switch_on)
    given_up = changed.get("hold", True)
    assert after_it.memory.owes_on is not given_up
    if given_up:
        assert (after_it.switching, after_it.unread_power, after_it.switched_on) == (None, 0, 0)
        assert of(effects, ReadPower) == []
    assert any(n.page for n in of(effects, Note)) is page


@pytest.mark.parametrize(
    ("power", "ordered", "owes", "left"),
    [
        pytest.param(Power.OFF, 0, True, (1, 0), id="off: it is switched on"),
        pytest.param(Power.OFF, 2, True, (3, 0), id="and on again"),
        pytest.param(Power.OFF, 3, False, (0, 0), id="three times, then a person"),
        pytest.param(Power.ON, 1, False, (0, 0), id="on by our order"),
        pytest.param(Power.ON, 0, False, (0, 0), id="on by somebody else's"),
        pytest.param(Power.UNKNOWN, 1, True, (1, 6), id="not read: one failure more"),
    ],
)
def test_a_reading_of_a_peer_that_waits(power: Power, ordered: int, owes: bool, left: tuple[int, int]) -> None:
    """Any reading that is one ends the row of failures; one that nobody waits for changes nothing."""
    guard, now = owing(switching="t", unread_power=5, switched_on=ordered)
    after_it, effects = done(guard, now, drain.read, power)
    assert (after_it.memory.owes_on, after_it.switching) == (owes, None)
    assert (after_it.switched_on, after_it.unread_power) == left
    assert of(effects, PowerOn) == [PowerOn("A")] * (left[0] > ordered)
    job = AgentJob("a", "off", "A", now, after(now, 60.0))
    for other in (replace(guard, agents=(job,)), remembering(guard, owes_on=False)):
        same, effects = done(other, now, drain.read, power)
        assert (same.memory, same.switched_on, effects) == (other.memory, ordered, ())
    acts = Intent("i1", 1, 2, "A", guard.boot_id, now, 10.0, spawned=True, drained=after(now, 1.0))
    assert of(done(remembering(guard, intents=(acts,)), now, drain.read, power)[1], PowerOn) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, True),
        ({"spawned": False}, False),
        ({"drained": Instant(1)}, False),
        ({"horizon_s": 10.0}, False),
        ({"stuck": True}, False),
        ({"under way": True}, False),
    ],
)
def test_only_a_shot_that_ended_and_never_drains_is_a_persons(changed, told: bool) -> None:
    """One under way may still end well, and one that does not die is told by another page."""
    guard, now = owing(paged=frozenset() if told else frozenset({"shot-undrained"}))
    own = {k: v for k, v in changed.items() if k in ("spawned", "drained", "horizon_s")}
    shot = replace(Intent("i1", 1, 2, "A", guard.boot_id, now, None, spawned=True), **own)
    guard = remembering(guard, intents=(shot,))
    if "stuck" in changed:
        guard = replace(guard, stuck=frozenset({"i1"}))
    other = AgentJob("b", "off", "A", now, after(now, 60.0), intent="i2")
    guard = replace(guard, agents=(other, replace(other, id="a", intent="i1" if "under way" in changed else None)))
    after_it, effects = done(guard, now, drain.tell)
    assert ("shot-undrained" in after_it.paged) is told
    assert [(n.event, n.data["shots"]) for n in of(effects, Note)] == [("shot-undrained", ["i1"])] * told
