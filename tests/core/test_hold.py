"""The hold, function by function: who opens, what is told and repeated, why it stays and how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import done, of, remembering, sent, with_ack
from test_machine_hold import DISTURBANCE
from test_machine_hold import settled as settled_soon

from guard.core import hold
from guard.core.evidence import Forecast, PendingShot, Sign, SignKind
from guard.core.instant import Instant, after
from guard.core.messages import InhibitView, LiftInhibit, Refused, SetInhibit
from guard.core.policy import Policy
from guard.core.step import (
    AnswerPerson,
    AskForecast,
    Note,
    OpenHold,
    PurgeShot,
    SetHold,
)
from guard.core.turn import AgentJob, Attempt, Right, Turn

PERSON = InhibitView("person:k", "person", "anna", "work", 10.0)
CHANGE = InhibitView("change:c", "change", "anna", "upgrade", 10.0)
STORM = InhibitView("storm:cell", "storm", "arbiter", "many pairs", 10.0)
ALIVE = InhibitView("peer-alive", "peer-alive", "arbiter", "it answers", 10.0)
OF_B = InhibitView("disturbance:B", "disturbance", "B", "change", 10.0)
SIGNS = [Sign(SignKind.TOPOLOGY_CHANGE, f"acc{n}", Instant(0), f"sign {n}") for n in range(4)]


def settled(**changed):
    """`settled` of the rehearsed pair, with the limits of a real one."""
    guard, now = settled_soon()
    return replace(guard, **{"policy": Policy(), **changed}), now


def quiet(**changed):
    """A's guard that nothing holds, ready to repeat any duty; and its moment."""
    guard, now = settled()
    guard = remembering(guard, inhibits={}, holding=False)
    cluster = replace(guard.cluster, ours=None, maintenance=False)
    return replace(guard, **{"cluster": cluster, **changed}), now


def holding(*own: InhibitView, listed: tuple[InhibitView, ...] = (), **changed):
    """A's guard with these inhibits of its own, and these in the arbiter's list; else as `settled`."""
    guard, now = settled()
    guard = remembering(guard, inhibits={i.id: i for i in own}, holding=True)
    return replace(with_ack(guard, inhibits=listed), **changed), now


def ended(view: InhibitView) -> InhibitView:
    return replace(view, ended=True)


# ------------------------------------------------------------------ opening


def test_a_sign_brakes_at_once_and_is_told_without_delay() -> None:
    """Law 1: durable, no fence right is left; the property and the arbiter come right behind, though due later."""
    guard, now = quiet(right=Right("fence", 1, 2, Instant(0), 1))
    guard = replace(guard, due={"set-inhibit": after(now, 9.0), "set-hold": after(now, 9.0)})
    braked, effects = done(guard, now, hold.brake_for_network, SIGNS)
    [own] = braked.memory.inhibits.values()
    assert (own.id, own.kind, own.owner, own.since_wall, own.ended) == ("disturbance:A", "disturbance", "A", 0.0, False)
    assert own.reason == "acc0: sign 0; acc1: sign 1; acc2: sign 2"
    assert braked.memory.holding
    assert braked.right is None
    assert [m.inhibit for m in sent(effects, SetInhibit)] == [own]
    assert "set-hold" not in braked.due
    assert of(effects, Note)[-1].data["signs"] == ["topology-change"] * 4


def test_a_right_to_run_alone_outlives_a_sign() -> None:
    """An inhibit ends a right to fence."""
    guard, now = quiet(right=Right("alone", 1, 2, Instant(0), 1))
    assert done(guard, now, hold.brake_for_network, SIGNS)[0].right == guard.right


@pytest.mark.parametrize("ended", [False, True])
def test_more_signs_of_one_disturbance_are_noted_and_after_its_end_brake_anew(ended: bool) -> None:
    """What stands keeps its first reason."""
    own = replace(DISTURBANCE, ended=ended)
    guard, now = holding(own)
    braked, effects = done(guard, now, hold.brake_for_network, SIGNS[:1])
    assert [n.event for n in of(effects, Note)] == ["braked" if ended else "disturbance"]
    assert of(effects, Note)[0].data["signs"] == ["topology-change"]
    [now_own] = braked.memory.inhibits.values()
    assert (now_own.ended, now_own.reason) == ((False, "acc0: sign 0") if ended else (False, own.reason))


def test_a_disturbance_ends_once_all_was_quiet_for_the_settle_time() -> None:
    """L2: by its own evidence; a person's hold does not, and an end is told once."""
    for quiet_s, ended in ((59.9, False), (60.0, True)):
        guard, now = holding(DISTURBANCE, PERSON)
        guard = replace(guard, network=replace(guard.network, quiet_since=after(now, -quiet_s)))
        calm, effects = done(guard, now, hold.calm)
        assert {i.id: i.ended for i in calm.memory.inhibits.values()} == {DISTURBANCE.id: ended, PERSON.id: False}
        assert [n.event for n in of(effects, Note)] == ["disturbance-over"] * ended
        assert done(calm, now, hold.calm)[1] == ()


def test_a_person_holds_a_pair_at_once() -> None:
    """It brakes here before anything else is asked; what was due later is done now."""
    event = OpenHold("p", "k", "anna", "work", 60.0, 10.0)
    guard, now = quiet()
    guard = replace(guard, due={"set-inhibit": after(now, 9.0), "set-hold": after(now, 9.0)})
    opened, effects = done(guard, now, hold.open_by_person, event)
    view = replace(PERSON, lease_s=60.0)
    assert opened.memory.inhibits == {view.id: view}
    assert opened.memory.holding
    assert [m.inhibit for m in sent(effects, SetInhibit)] == [view]
    assert "set-hold" not in opened.due
    [answer] = of(effects, AnswerPerson)
    assert (answer.id, answer.outcome, answer.data) == ("p", "braked", {})


@pytest.mark.parametrize(("reason", "said"), [("work", "braked"), ("other work", "conflict")])
@pytest.mark.parametrize("lease_s", [None, 45.0])
@pytest.mark.parametrize("here", [True, False])
def test_the_same_key_again_is_the_same_hold(reason: str, said: str, lease_s: float | None, here: bool) -> None:
    """Wherever it was opened; its lease is told and not extended; for another reason it is none."""
    known = replace(PERSON, lease_s=lease_s)
    guard, now = holding(*([known] if here else []), listed=() if here else (known,))
    guard = replace(guard, acked=now)
    again, effects = done(guard, now, hold.open_by_person, OpenHold("p", "k", "bob", reason, 600.0, 99.0))
    assert again == guard
    [answer] = of(effects, AnswerPerson)
    assert (answer.id, answer.outcome, answer.data) == ("p", said, {"lease_s": lease_s, "reason": "work"})
    assert ("45 s of its lease" in answer.text) is (lease_s is not None)


# ------------------------------------------------------------------ telling the arbiter


@pytest.mark.parametrize(
    ("own", "listed", "told"),
    [
        pytest.param(PERSON, None, True, id="not listed"),
        pytest.param(PERSON, PERSON, False, id="listed as it is"),
        pytest.param(PERSON, replace(PERSON, since_wall=77.0), False, id="the moment is the arbiter's"),
        pytest.param(PERSON, replace(PERSON, reason="wo"), False, id="a reason that it cut"),
        pytest.param(PERSON, replace(PERSON, reason="other"), True, id="another reason"),
        pytest.param(PERSON, replace(PERSON, owner="bob"), True, id="another owner"),
        pytest.param(PERSON, replace(PERSON, kind="change"), True, id="another kind"),
        pytest.param(replace(PERSON, ended=True), PERSON, True, id="an end"),
        pytest.param(replace(PERSON, ended=True), None, False, id="lifted: it would come back from the dead"),
        pytest.param(replace(PERSON, lease_s=60.0), PERSON, True, id="a lease that is not there"),
        pytest.param(PERSON, replace(PERSON, lease_s=60.0), True, id="a lease that is not ours"),
        pytest.param(replace(PERSON, lease_s=60.0), replace(PERSON, lease_s=75.0), False, id="15 s more"),
        pytest.param(replace(PERSON, lease_s=60.0), replace(PERSON, lease_s=75.1), True, id="more than 15 s more"),
        pytest.param(replace(PERSON, lease_s=60.0), replace(PERSON, lease_s=1.0), False, id="less is left there"),
    ],
)
def test_an_inhibit_is_told_until_the_arbiters_list_shows_it(own, listed, told: bool) -> None:
    """Every 0.5 s; each word has a nonce of its own that a refusal names."""
    guard, now = holding(own, listed=() if listed is None else (listed,))
    first, effects = done(guard, now, hold._tell)
    assert [m.inhibit for m in sent(effects, SetInhibit)] == [own] * told
    assert first.telling == {m.nonce: own.id for m in sent(effects, SetInhibit)}
    for seconds, again in ((0.499, 0), (0.5, int(told))):
        assert len(sent(done(first, after(now, seconds), hold._tell)[1], SetInhibit)) == again


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, True),
        ({"ever_whole": False}, False),
        ({"ack": None}, False),
    ],
)
@pytest.mark.parametrize("kind", ["own", "ended", "person", "peer's"])
def test_a_node_that_was_never_whole_brakes_only_itself_for_its_own_disturbance(change, told: bool, kind: str) -> None:
    """L2: else every boot would put the cluster into maintenance mode. An end is told all the same."""
    own = {"own": DISTURBANCE, "ended": DISTURBANCE, "person": PERSON, "peer's": OF_B}[kind]
    guard, now = holding(own, listed=(replace(own, owner="?"),) if kind == "ended" else ())
    guard = remembering(guard, inhibits={own.id: replace(own, ended=kind == "ended")})
    guard = replace(guard, ever_whole=True)
    guard = replace(guard, **change)
    told = told or kind in ("person", "peer's") or (kind == "ended" and guard.ack is not None)
    _, effects = done(guard, now, hold._tell)
    assert bool(sent(effects, SetInhibit)) is told


@pytest.mark.parametrize(
    ("own", "reason", "nonce", "ends"),
    [
        (PERSON, "lifted", "n", True),
        (CHANGE, "lifted", "n", True),
        (PERSON, "lifted", "another", False),
        (PERSON, "inhibited", "n", False),
        (replace(PERSON, ended=True), "lifted", "n", False),
        (DISTURBANCE, "lifted", "n", False),
    ],
)
def test_only_the_arbiters_word_on_this_very_hold_says_that_it_was_lifted(
    own, reason: str, nonce: str, ends: bool
) -> None:
    """It was released through the other node while this guard was down."""
    guard, now = holding(own, telling={"n": own.id})
    after_it, effects = done(guard, now, hold.heard_refused, Refused(nonce, reason, "it is over", retry_s=1.0))
    expected = {own.id: replace(own, ended=True)} if ends else {own.id: own}
    assert after_it.memory.inhibits == expected
    assert [n.event for n in of(effects, Note)] == ["hold-ended"] * ends


# ------------------------------------------------------------------ where it is, and what is proven of it


def test_the_stages_of_a_hold() -> None:
    """For people and for `change open`; in force only by the effective property, held only by law 2."""
    standing = DISTURBANCE
    for found, maintenance, stage in (
        (quiet(), False, "none"),
        (holding(ended(DISTURBANCE)), True, "settling"),
        (holding(ended(DISTURBANCE), PERSON), None, "braked"),
        (holding(), True, "releasing"),
        (holding(standing), False, "braked"),
        (holding(standing), None, "braked"),
        (holding(standing), True, "in-force"),
    ):
        guard, now = found
        guard = replace(guard, cluster=replace(guard.cluster, maintenance=maintenance))
        assert hold.stage(guard, Turn(guard, now)) == stage
    guard, now = holding(standing, cluster=None)
    assert hold.stage(guard, Turn(guard, now)) == "braked"


def test_a_guard_states_its_own_side_of_the_hold() -> None:
    """Sent with every beat. A right to fence, a shot in any stage and a claim for one each speak against `held`."""
    guard, now = holding(PERSON, listed=(PERSON, STORM))
    said = hold.statement(Turn(guard, now))
    assert said.inhibits == ("person:k@10.0", "storm:cell@10.0")
    assert (said.maintenance, said.whole, said.drained, said.no_fence_right) == (True, True, True, True)
    assert (said.harmless, said.release_harmless, said.pending_shots, said.unfit) == (True, True, 0, False)
    unfit = replace(guard, cluster=replace(guard.cluster, failed_stop=True))
    assert hold.statement(Turn(unfit, now)).unfit is True
    blind = hold.statement(Turn(replace(guard, ack=None, cluster=None), now))
    assert (blind.inhibits, blind.maintenance, blind.pending_shots, blind.whole) == ((), None, None, None)
    job = AgentJob("a", "off", "B", now, after(now, 60.0))
    for changed, free in (
        ({"right": Right("fence", 1, 2, now, 1)}, False),
        ({"right": Right("alone", 1, 2, now, 1)}, True),
        ({"attempt": Attempt("n", "fence", "a", now)}, False),
        ({"attempt": Attempt("n", "alone", None, now)}, True),
        ({"agents": (job,)}, True),
        ({"agents": (job, replace(job, stage="armed"))}, False),
        ({"agents": (replace(job, stage="firing"),)}, False),
        ({"agents": (replace(job, stage="reading"),)}, True),
    ):
        assert hold.statement(Turn(replace(guard, **changed), now)).no_fence_right is free


@pytest.mark.parametrize(
    ("forecast", "with_hold", "without"),
    [
        (Forecast(), True, True),
        (Forecast(fences=frozenset({"B"})), False, False),
        (Forecast(stops=("fs",)), True, False),
        (Forecast(error="no scheduler"), None, None),
    ],
)
def test_a_forecast_proves_something_for_6_s(forecast: Forecast, with_hold, without) -> None:
    """With the hold in place it must fence nobody; without it, stop nothing either. One that failed proves nothing."""
    for ago_s, fresh in ((0.0, True), (6.0, True), (6.001, False)):
        guard, now = settled()
        made = (forecast, after(now, -ago_s))
        turn = Turn(replace(guard, forecasts={False: made, True: made}), now)
        assert hold._fresh(turn, without_hold=False) is (with_hold if fresh else None)
        assert hold._fresh(turn, without_hold=True) is (without if fresh else None)
    assert hold._fresh(Turn(replace(guard, forecasts={}), now), without_hold=True) is None


@pytest.mark.parametrize("kind", ["person", "change"])
@pytest.mark.parametrize("side", ["both", "ours", "peer"])
def test_what_a_person_or_a_change_asked_for_is_held_once_both_sides_name_it(kind: str, side: str) -> None:
    """Law 2: until the other guard knows this very inhibit, it may be about to release what stood before."""
    asked_for = replace(PERSON, id=f"{kind}:k", kind=kind)
    guard, now = holding(asked_for, listed=(OF_B, asked_for) if side != "peer" else (OF_B,))
    names = ("disturbance:B@10.0", f"{kind}:k@10.0") if side != "ours" else ("disturbance:B@10.0",)
    proven = {"inhibits": names, "maintenance": True, "no_fence_right": True, "drained": True, "harmless": True}
    guard = replace(with_ack(guard, peer_hold=replace(guard.ack.peer_hold, **proven), peer_heard_s=0.1), acked=now)
    assert hold.held(Turn(guard, now)) is (side == "both")
    assert hold.stage(guard, Turn(guard, now)) == ("held" if side == "both" else "in-force")
    alone = with_ack(guard, inhibits=(asked_for,), peer_hold=replace(guard.ack.peer_hold, inhibits=names[1:]))
    assert hold.held(Turn(alone, now)) is (side != "ours"), "nothing else need stand"
    for field, worse in (("maintenance", None), ("no_fence_right", False), ("drained", False), ("harmless", None)):
        doubtful = with_ack(guard, peer_hold=replace(guard.ack.peer_hold, **{field: worse}))
        assert not hold.held(Turn(doubtful, now))


# ------------------------------------------------------------------ keeping


def test_a_hold_that_only_the_arbiter_knows_brakes_here_too() -> None:
    """Durable, and told with its owner."""
    guard, now = quiet()
    guard = with_ack(guard, inhibits=(PERSON,))
    braked, effects = done(guard, now, hold.advance)
    assert braked.memory.holding
    assert [(n.event, n.data["owner"]) for n in of(effects, Note)] == [("braked", "anna")]
    assert of(effects, SetHold) == [SetHold("pairguard:A+B")]


@pytest.mark.parametrize(
    ("own", "view", "orders"),
    [
        pytest.param(PERSON, {"maintenance": True}, 0, id="it is set"),
        pytest.param(PERSON, {"maintenance": False}, 1, id="it is not set"),
        pytest.param(PERSON, {"maintenance": None}, 1, id="it cannot be read"),
        pytest.param(PERSON, None, 1, id="the cluster was never read"),
        pytest.param(replace(PERSON, ended=True), {"maintenance": False}, 0, id="nothing stands"),
    ],
)
def test_the_property_is_set_every_second_until_it_is_in_force(own, view, orders: int) -> None:
    """What counts is the effective value: a merge of two copies may take it away."""
    guard, now = holding(own, listed=(own,))
    guard = replace(guard, cluster=None if view is None else replace(guard.cluster, **view))
    first, effects = done(guard, now, hold.advance)
    assert len(of(effects, SetHold)) == orders
    for seconds, again in ((0.999, 0), (1.0, orders)):
        assert len(of(done(first, after(now, seconds), hold.advance)[1], SetHold)) == again


def test_a_new_brake_does_not_wait_for_the_turn_of_the_last_order() -> None:
    """Milliseconds count: the property and the arbiter come right behind it."""
    guard, now = quiet()
    guard = replace(guard, ever_whole=True, due={})
    first, _ = done(guard, now, hold.brake_for_network, SIGNS[:1])
    first, effects = done(first, now, hold.advance)
    assert of(effects, SetHold) == [SetHold("pairguard:A+B")]
    again, _ = done(first, now, hold.open_by_person, OpenHold("p", "k", "anna", "work", 60.0, 10.0))
    assert of(done(again, now, hold.advance)[1], SetHold) == [SetHold("pairguard:A+B")]


def test_the_scheduler_is_asked_every_2_s_what_would_happen() -> None:
    """With the peer lost while the property is set; without the hold once nothing stands."""
    for own, maintenance, asked in (
        (PERSON, True, [AskForecast("B", without_hold=False)]),
        (PERSON, False, []),
        (DISTURBANCE, True, [AskForecast("B", without_hold=False), AskForecast(None, without_hold=True)]),
        (DISTURBANCE, False, [AskForecast(None, without_hold=True)]),
    ):
        guard, now = holding(own)
        own = replace(own, ended=own is DISTURBANCE)
        guard = remembering(guard, inhibits={own.id: own})
        guard = replace(guard, cluster=replace(guard.cluster, maintenance=maintenance))
        first, effects = done(guard, now, hold.advance)
        assert of(effects, AskForecast) == asked
        for seconds, again in ((1.999, []), (2.0, asked)):
            assert of(done(first, after(now, seconds), hold.advance)[1], AskForecast) == again


def test_a_shot_that_is_queued_in_the_cluster_is_purged() -> None:
    """Maintenance does not stop it. One that has ended is none; and our own agent's request is no stranger's."""
    queued, over = PendingShot("B", "off", "c", "A", "pending"), PendingShot("B", "off", "c", "A", "success")
    guard, now = holding(PERSON)
    ours = replace(queued, target="A")
    for cluster, agents, purges in (
        ({"pending": (over, queued, queued, ours)}, (), [PurgeShot(queued), PurgeShot(ours)]),
        ({"pending": (queued,), "maintenance": False}, (), []),
        ({"pending": (queued,)}, (AgentJob("a", "off", "B", now, after(now, 60.0)),), []),
    ):
        held = replace(guard, cluster=replace(guard.cluster, **cluster), agents=agents)
        first, effects = done(held, now, hold.advance)
        assert of(effects, PurgeShot) == purges
        for seconds, again in ((4.999, []), (5.0, purges)):
            assert of(done(first, after(now, seconds), hold.advance)[1], PurgeShot) == again


def test_a_lift_that_was_won_goes_on_until_something_stands_again() -> None:
    """Every 0.3 s; an inhibit that comes meanwhile ends it."""
    guard, now = holding(DISTURBANCE, lifting=True)
    guard = remembering(guard, inhibits={DISTURBANCE.id: replace(DISTURBANCE, ended=True)})
    guard = with_ack(guard, inhibits=(replace(OF_B, ended=True),))
    first, effects = done(guard, now, hold.advance)
    assert [m.id for m in sent(effects, LiftInhibit)] == [OF_B.id]
    for seconds, again in ((0.299, 0), (0.3, 1)):
        assert len(sent(done(first, after(now, seconds), hold.advance)[1], LiftInhibit)) == again
    stopped, effects = done(with_ack(first, inhibits=(PERSON,)), now, hold.advance)
    assert stopped.lifting is False
    assert sent(effects, LiftInhibit) == []
