"""The hold of one guard: brake, keep, release; one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import guard_of, of, run, whole_pair

from guard.core import hold
from guard.core.claim import refusing
from guard.core.claiming import inhibited
from guard.core.evidence import Disk, Forecast, Up, unseen_cluster
from guard.core.instant import Instant, after
from guard.core.messages import HOLDS_MAX, InhibitView, LiftInhibit, Refused, SetInhibit
from guard.core.policy import Policy
from guard.core.step import AnswerPerson, ClearHold, Heard, HoldWritten, OpenHold, SawVolumes, Send, SetHold, Step, Tick
from guard.core.turn import Turn, braked

POLICY = Policy()
DISTURBANCE = InhibitView("disturbance:A", "disturbance", "A", "change", 0.0)
STANDING = InhibitView("person:k", "person", "anna", "work", 0.0)


def settled(**changed):
    """A's guard with an ended disturbance, quiet for long, whole on both sides, everything proven harmless."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    ended = replace(DISTURBANCE, ended=True)
    peer = replace(
        guard.ack.peer_hold, quiet_for_s=999.0, whole=True, pending_shots=0, release_harmless=True, maintenance=True
    )
    guard = replace(
        guard,
        memory=replace(guard.memory, inhibits={ended.id: ended}, holding=True),
        network=replace(guard.network, quiet_since=Instant(0), open=()),
        ack=replace(guard.ack, peer_hold=peer, peer_heard_s=0.1, inhibits=()),
        cluster=replace(guard.cluster, ours="pairguard:A+B", maintenance=True),
        forecasts={True: (Forecast(), now), False: (Forecast(), now)},
        due={},
    )
    return replace(guard, **changed), now


def releases(guard, now) -> bool:
    _, effects = run(guard, Tick(), now)
    return bool(of(effects, ClearHold))


def test_a_settled_hold_releases_by_itself() -> None:
    """L2: whole, quiet, nothing pending, a harmless forecast."""
    assert releases(*settled())


def test_while_a_hold_is_released_only_a_sitting_primary_may_go_on_alone() -> None:
    """S5: inhibits are lifted before the property is gone; until it is, nobody is promoted and nobody is fenced."""
    world = whole_pair()
    for name, alone in (("A", None), ("B", "holding")):
        guard, now = guard_of(world, name), world.nodes[name].local()
        guard = replace(
            guard, memory=replace(guard.memory, inhibits={}, holding=True), ack=replace(guard.ack, inhibits=())
        )
        why = inhibited(Turn(guard, now), "alone", cold=False, releasing=False)
        assert (why[0] if why else None) == alone
        assert inhibited(Turn(guard, now), "fence", cold=False, releasing=False)[0] == "holding"
        assert inhibited(Turn(guard, now), "alone", cold=False, releasing=True) is None


def test_a_property_of_ours_that_nobody_holds_is_taken_back() -> None:
    """L2: set by one guard after the other had released, it is held again so that it is released in order."""
    guard, now = settled()
    guard = replace(guard, memory=replace(guard.memory, inhibits={}, holding=False))
    adopted, _ = run(guard, Tick(), now)
    assert adopted.memory.holding
    gone = replace(guard, cluster=replace(guard.cluster, ours=None, maintenance=False))
    assert not run(gone, Tick(), now)[0].memory.holding


def test_a_hold_is_not_released_while_anything_speaks_against_it() -> None:
    """L2: each condition alone keeps the hold."""
    guard, now = settled()
    volumes = replace(
        guard.volumes, replicas=tuple(replace(r, peer_disk=Disk.INCONSISTENT) for r in guard.volumes.replicas)
    )
    peer = guard.ack.peer_hold
    against = {
        "not whole": {"volumes": volumes, "members": replace(guard.members, peer_member=False)},
        "not whole, controller down": {"volumes": volumes, "cluster": replace(guard.cluster, peer_controller=Up.DOWN)},
        "not quiet": {"network": replace(guard.network, quiet_since=after(now, -1.0))},
        "no forecast": {"forecasts": {}},
        "forecast old": {"forecasts": {True: (Forecast(), after(now, -30.0))}},
        "forecast failed": {"forecasts": {True: (Forecast(error="no scheduler"), now)}},
        "forecast fences": {"forecasts": {True: (Forecast(fences=frozenset({"B"})), now)}},
        "forecast stops": {"forecasts": {True: (Forecast(stops=("stop fs",)), now)}},
        "peer not whole": {"ack": replace(guard.ack, peer_hold=replace(peer, whole=None))},
        "peer not quiet": {"ack": replace(guard.ack, peer_hold=replace(peer, quiet_for_s=1.0))},
        "peer would fence": {"ack": replace(guard.ack, peer_hold=replace(peer, release_harmless=False))},
        "shot pending": {"ack": replace(guard.ack, peer_hold=replace(peer, pending_shots=1))},
        "peer silent": {"ack": replace(guard.ack, peer_heard_s=10.0)},
        "arbiter silent": {"acked": after(now, -10.0)},
        "standing": {"memory": replace(guard.memory, inhibits={STANDING.id: STANDING})},
    }
    wrong = [why for why, changed in against.items() if releases(replace(guard, **changed), now)]
    assert wrong == []


def test_nothing_is_taken_back_that_is_not_there() -> None:
    """S7: where our property set is absent, whatever holds the cluster is somebody else's."""
    guard, now = settled()
    guard = replace(guard, cluster=replace(guard.cluster, ours=None, persons_maintenance=True))
    after_it, effects = run(guard, Tick(), now)
    assert not of(effects, ClearHold)
    assert not after_it.memory.holding


def test_the_property_is_cleared_again_and_again_until_that_was_read_back() -> None:
    """S7: an order that failed, or a view that shows nothing, ends no hold; only what was seen gone does."""
    guard, now = settled()
    unseen = {"no answer": unseen_cluster(now), "still there": guard.cluster}
    for why, view in unseen.items():
        moment, asked = now, 0
        for _ in range(4):
            standing, effects = run(replace(guard, cluster=view, lifting=True, due={}), Tick(), moment)
            asked += len(of(effects, ClearHold))
            standing, _ = run(standing, HoldWritten(False, False), moment)
            assert standing.memory.holding, why
            moment = after(moment, 2.0)
        assert asked == 4, why
    released, _ = run(guard, HoldWritten(False, True), now)
    assert not released.memory.holding


def test_the_arbiters_list_is_cleared_before_the_property() -> None:
    """L2: a lost word leaves no inhibit that nobody lifts."""
    guard, now = settled()
    listed = replace(guard, ack=replace(guard.ack, inhibits=tuple(guard.memory.inhibits.values())))
    _, effects = run(listed, Tick(), now)
    assert [e.message.id for e in of(effects, Send) if isinstance(e.message, LiftInhibit)] == ["disturbance:A"]
    assert not of(effects, ClearHold)


def test_a_release_lifts_no_disturbance_of_the_peer() -> None:
    """S7: the peer's guard lifts what it set itself; a person's hold that has ended either of them may lift."""
    guard, now = settled()
    others = (
        replace(DISTURBANCE, id="disturbance:B", owner="B", ended=True),
        replace(STANDING, ended=True),
        *guard.memory.inhibits.values(),
    )
    _, effects = run(replace(guard, ack=replace(guard.ack, inhibits=others)), Tick(), now)
    lifted = [e.message.id for e in of(effects, Send) if isinstance(e.message, LiftInhibit)]
    assert sorted(lifted) == ["disturbance:A", "person:k"]


def test_a_releasing_claim_that_was_won_lifts_nothing_while_an_inhibit_stands() -> None:
    """S5: the network changed again between the commit and the win; its inhibit would be forgotten with the old one."""
    guard, now = settled()
    for standing in (DISTURBANCE, STANDING):
        both = {**guard.memory.inhibits, standing.id: standing}
        turn = Turn(replace(guard, memory=replace(guard.memory, inhibits=both)), now)
        hold.lift(turn, everyones=True)
        assert turn.step() == Step(None, ())
    turn = Turn(guard, now)
    hold.lift(turn, everyones=True)
    assert of(turn.step().effects, ClearHold)


def test_an_inhibit_that_comes_during_the_release_is_kept() -> None:
    """S5: the answer to an older order does not take a new brake off."""
    guard, now = settled()
    guard = replace(guard, memory=replace(guard.memory, inhibits={STANDING.id: STANDING}))
    after_it, _ = run(guard, HoldWritten(False, True), now)
    assert braked(after_it)
    assert after_it.memory.inhibits[STANDING.id] == STANDING


def test_a_brake_is_durable_before_anything_is_said() -> None:
    """S6: the step that opens a hold carries its memory; the property is asked for in the same step or later."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    after_it, effects = run(guard, OpenHold("o", "k", "anna", "work", 60.0, 0.0), now)
    assert after_it.memory.holding
    assert of(effects, SetHold)


def test_a_lease_that_runs_out_releases_nothing_by_itself() -> None:
    """L2: it only ends the inhibit; the release asks for proof as ever."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard, _ = run(guard, OpenHold("o", "k", "anna", "work", 5.0, 0.0), now)
    guard, _ = run(replace(guard, due={}), Tick(), now)
    assert guard.memory.inhibits["person:k"].ended
    assert guard.memory.holding


@pytest.mark.parametrize(
    ("kind", "ended", "sitting", "lost_for_s", "quiet_s", "free"),
    [
        ("person", False, True, 999.0, 999.0, False),
        ("person", True, True, 999.0, 999.0, True),
        ("person", True, True, 999.0, 1.0, False),
        ("change", False, True, 999.0, 999.0, False),
        ("disturbance", False, True, 10.0, 0.0, False),
        ("disturbance", False, True, 31.0, 0.0, True),
        ("disturbance", False, False, 999.0, 0.0, False),
        ("disturbance", True, False, 999.0, 61.0, True),
        ("peer-alive", False, True, 0.0, 0.0, True),
        ("peer-alive", False, False, 999.0, 999.0, False),
    ],
)
def test_who_may_go_on_alone_under_a_hold(kind, ended, sitting, lost_for_s, quiet_s, free) -> None:
    """Exceptions (a) and (b): the sitting primary after 30 s, never under a person's hold; a fence never."""
    inhibit = InhibitView("x", kind, "A", "why", 0.0, ended=ended)
    asked = {"sitting": sitting, "cold": False, "lost_for_s": lost_for_s, "quiet_for_s": quiet_s, "policy": POLICY}
    assert (refusing([inhibit], "alone", **asked) is None) is free
    assert refusing([inhibit], "fence", **asked) is not None


def test_held_needs_both_sides_and_the_arbiter() -> None:
    """Law 2: without the peer's own word that it is drained and sees the property nothing is called held."""
    guard, now = settled()
    found = tuple(guard.memory.inhibits.values())
    peer = replace(
        guard.ack.peer_hold,
        inhibits=tuple(f"{i.id}@{i.since_wall!r}" for i in found),
        no_fence_right=True,
        drained=True,
        harmless=True,
    )
    guard = replace(guard, ack=replace(guard.ack, inhibits=found, peer_hold=peer))
    assert hold.held(Turn(guard, now))
    later = tuple(replace(i, since_wall=i.since_wall + 1.0) for i in found)  # the same id, another hold
    assert not hold.held(Turn(replace(guard, ack=replace(guard.ack, inhibits=later)), now))
    for changed in ({"maintenance": None}, {"drained": False}, {"no_fence_right": False}, {"harmless": None}):
        ack = replace(guard.ack, peer_hold=replace(peer, **changed))
        assert not hold.held(Turn(replace(guard, ack=ack), now))
    assert not hold.held(Turn(replace(guard, acked=after(now, -10.0)), now))
    assert not hold.held(Turn(replace(guard, ack=replace(guard.ack, inhibits=())), now))


def test_what_a_person_asked_for_is_held_once_both_guards_name_it() -> None:
    """S5: whatever holds the pair already, the other guard may be releasing that at this very moment. Work that begins
    on our word would then have nobody held but this node."""
    guard, now = settled()
    found = tuple(guard.memory.inhibits.values())
    named = tuple(f"{i.id}@{i.since_wall!r}" for i in found)
    peer = replace(guard.ack.peer_hold, inhibits=named, no_fence_right=True, drained=True, harmless=True)
    guard = replace(guard, ack=replace(guard.ack, inhibits=found, peer_hold=peer))
    guard, _ = run(guard, OpenHold("o", "k", "anna", "work", 600.0, 5.0), now)
    assert hold.stage(guard, Turn(guard, now)) == "in-force"
    stored = (*found, guard.memory.inhibits["person:k"])
    heard = replace(guard, ack=replace(guard.ack, inhibits=stored))
    assert hold.stage(heard, Turn(heard, now)) == "in-force"
    both = replace(heard, ack=replace(heard.ack, peer_hold=replace(peer, inhibits=(*named, "person:k@5.0"))))
    assert hold.stage(both, Turn(both, now)) == "held"
    over = replace(guard, memory=replace(guard.memory, inhibits={i.id: i for i in found}))
    assert hold.held(Turn(over, now))


def test_a_reading_that_is_the_same_changes_nothing_durable() -> None:
    """Repeated sightings write nothing to the disk."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    after_it, _ = run(guard, SawVolumes(guard.volumes), now)
    assert after_it.memory == guard.memory


def test_persons_hold_a_pair_a_bounded_number_of_times() -> None:
    """L1: every beat's answer carries every hold; past what fits into one message the pair would be deaf for good. The
    seventeenth is refused in words, one that stands already is not, and after a release there is room again."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()

    def hold_of(key: str) -> str:
        nonlocal guard
        guard, effects = run(guard, OpenHold("o", key, "anna", "work", 600.0, 1.0), now)
        [answer] = of(effects, AnswerPerson)
        return answer.outcome

    assert [hold_of(f"k{n}") for n in range(HOLDS_MAX)] == ["braked"] * HOLDS_MAX
    assert hold_of("one-more") == "too-many-holds"
    assert hold_of("k3") == "braked"
    assert len(guard.memory.inhibits) == HOLDS_MAX
    ended = {name: replace(view, ended=True) for name, view in guard.memory.inhibits.items()}
    guard = replace(guard, memory=replace(guard.memory, inhibits=ended))
    assert hold_of("one-more") == "braked"


def test_a_reason_that_the_arbiter_cut_is_not_said_again() -> None:
    """An answer with cut reasons still shows the hold as it is: repeating it would be a word every half second."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard, _ = run(guard, OpenHold("o", "k", "anna", "work on switch one", 600.0, 1.0), now)
    for reason, again in (("work on", 0), ("another", 1)):
        view = replace(guard.memory.inhibits["person:k"], reason=reason)
        told = replace(guard, ack=replace(guard.ack, inhibits=(view,)), due={})
        _, effects = run(told, Tick(), now)
        assert len([e for e in of(effects, Send) if isinstance(e.message, SetInhibit)]) == again


@pytest.mark.parametrize("reason", ["lifted", "too-many-holds"])
def test_a_hold_that_was_released_while_its_opener_was_down_is_over(reason: str) -> None:
    """L2: the opener boots and says it again; the arbiter remembers that this very hold was released, and it ends."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard = replace(guard, memory=replace(guard.memory, inhibits={STANDING.id: STANDING}, holding=True), due={})
    guard, effects = run(guard, Tick(), now)
    [said] = [e.message for e in of(effects, Send) if isinstance(e.message, SetInhibit)]
    for nonce, ended in (("another", False), (said.nonce, reason == "lifted")):
        guard, _ = run(guard, Heard("arbiter", Refused(nonce, reason, "")), now)
        assert guard.memory.inhibits[STANDING.id].ended is ended
    assert guard.memory.holding, "what it set is taken back by the release, which asks for its proof"


@pytest.mark.parametrize("opened_at", ["A", "B"])
def test_one_key_is_one_hold_wherever_it_was_opened(opened_at: str) -> None:
    """The same key and reason is the hold that stands, with what is left of its lease; another reason is a conflict."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    view = replace(STANDING, lease_s=40.0)
    if opened_at == "A":
        guard = replace(guard, memory=replace(guard.memory, inhibits={view.id: view}, holding=True))
    else:
        guard = replace(guard, ack=replace(guard.ack, inhibits=(view,)), acked=now)
    for reason, outcome in (("work", "braked"), ("other work", "conflict")):
        after_it, effects = run(guard, OpenHold("o", "k", "bert", reason, 7200.0, 9.0), now)
        [answer] = of(effects, AnswerPerson)
        assert (answer.outcome, answer.data) == (outcome, {"lease_s": 40.0, "reason": "work"})
        assert after_it.memory.inhibits.get(view.id) in (None, view)
