"""A request of the fence agent, step by step: what is asked, written and sent, and at which moment not any more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import (
    armed,
    asked,
    done,
    fired,
    intent,
    of,
    of_a_whole_pair,
    offer,
    remembering,
    sent,
    trying,
    with_ack,
    with_register,
    with_replicas,
)

from guard.core import shot
from guard.core.evidence import Disk, Link, Power
from guard.core.instant import after
from guard.core.messages import Claim, Commit, InhibitView
from guard.core.step import (
    AnswerAgent,
    Fire,
    Intent,
    Persisted,
    PowerRead,
    Progress,
    ReadPower,
    ReadVolumes,
    Reconsider,
    Send,
    ShotEnded,
)
from guard.core.turn import AgentJob, Attempt, Closing, Right, Turn

GAP_S, GAP_ALONE_S = 0.2, 1.0


def whole_again(ago_s: float):
    guard, now = of_a_whole_pair("B")
    job = AgentJob("a", "off", "A", now, after(now, 60.0), power=Power.ON, power_at=now)
    return replace(guard, acked=now, whole_since=after(now, -ago_s), agents=(job,)), now


def claims(effects) -> list[Claim]:
    return [s.message for s in of(effects, Send) if isinstance(s.message, Claim)]


# ------------------------------------------------------------------ while it waits


@pytest.mark.parametrize(("ago_s", "back"), [(0.0, True), (4.999, True), (5.0, False), (60.0, False)])
def test_an_order_from_before_the_pair_was_whole_fences_nobody(ago_s: float, back: bool) -> None:
    """Whole after the request, or within the 5 s in which Pacemaker runs a failed agent a second time."""
    guard, now = whole_again(ago_s)
    _, effects = done(guard, now, shot.advance)
    assert [(a.id, a.confirmed, a.reason) for a in of(effects, AnswerAgent)] == [("a", False, "peer-back")] * back


@pytest.mark.parametrize("said", ["", "why it waits"])
def test_it_gives_up_10_s_before_its_client_would(said: str) -> None:
    """The answer still arrives; it says what it waited for last."""
    for left_s, over in ((10.0, True), (10.001, False)):
        guard, now = asked(said=said)
        guard = replace(guard, agents=(replace(guard.agents[0], until=after(now, left_s)),))
        after_it, effects = done(guard, now, shot.advance)
        answers = of(effects, AnswerAgent)
        assert [(a.id, a.confirmed, a.reason) for a in answers] == [("a", False, "time-up")] * over
        assert after_it.agents == () if over else after_it.agents
        assert all((said or "no right could be had") in a.text for a in answers)


@pytest.mark.parametrize("stage", ["armed", "firing", "reading"])
def test_what_was_decided_is_not_asked_again(stage: str) -> None:
    """Only a request that waits is moved on; neither time nor a pair that is back answers for a shot."""
    guard, now = asked(stage=stage, power=None, until=None)
    assert done(guard, now, shot.advance) == (guard, ())


READINGS = [  # power, its age, readings off, age of a reading under way, the new reading's delay
    (None, None, 0, None, 0.0),
    (None, None, 0, 29.999, None),
    (None, None, 0, 30.0, 0.0),
    (Power.ON, 2.999, 0, None, None),
    (Power.ON, 3.0, 0, None, GAP_ALONE_S),
    (Power.ON, 3.0, 0, 0.0, None),
    (Power.UNKNOWN, 0.0, 0, None, None),
    (Power.OFF, 0.0, 1, None, GAP_ALONE_S),
    (Power.OFF, 0.0, 2, None, None),
    (Power.OFF, 3.0, 2, None, GAP_ALONE_S),
]


@pytest.mark.parametrize(("power", "age_s", "offs", "reading_s", "delay_s"), READINGS, ids=str)
def test_one_recent_power_reading_is_kept_at_hand(power, age_s, offs, reading_s, delay_s) -> None:
    """The first at once, the next after 3 s; `off` is read again 1 s later; one that never came back after 30 s."""
    guard, now = asked(
        power=power,
        power_at=None if age_s is None else after(now_of_b(), -age_s),
        offs=offs,
        reading=None if reading_s is None else "old",
        reading_since=None if reading_s is None else after(now_of_b(), -reading_s),
        retry=after(now_of_b(), 60.0),
    )
    after_it, effects = done(guard, now, shot.advance)
    reads = of(effects, ReadPower)
    assert [(r.target, r.delay_s) for r in reads] == ([] if delay_s is None else [("A", delay_s)])
    [job] = after_it.agents
    assert (job.reading, job.reading_since) == (
        (reads[0].token, now) if reads else (guard.agents[0].reading, job.reading_since)
    )
    assert all(len(r.token) == 32 for r in reads)


def now_of_b():
    return of_a_whole_pair("B")[1]


@pytest.mark.parametrize(
    ("power", "known"), [(Power.ON, True), (Power.OFF, True), (Power.UNKNOWN, False), (None, False)]
)
def test_a_preflight_is_an_answer_of_the_last_6_s(power, known) -> None:
    """A device that does not answer now will not be asked to shoot."""
    for age_s, recent in ((5.999, True), (6.0, False)):
        guard, now = asked(power=power, power_at=after(now_of_b(), -age_s))
        assert shot._preflown(Turn(guard, now), guard.agents[0]) is (known and recent)


def test_a_request_is_claimed_for_once_it_may_be() -> None:
    """Not before its retry, not beside another claim; then for a fence, by this request."""
    guard, now = asked()
    [job] = guard.agents
    after_it, effects = done(guard, now, shot.advance)
    [claim] = claims(effects)
    assert (claim.purpose, claim.want_yield, claim.off_twice, claim.nonce) == (
        "fence",
        False,
        False,
        after_it.attempt.nonce,
    )
    assert len(claim.nonce) == 32
    assert after_it.attempt == Attempt(claim.nonce, "fence", "a", now, guard.halves.connects)
    for retry_s, again in ((0.001, 0), (0.0, 1)):
        later = replace(guard, agents=(replace(job, retry=after(now, retry_s)),))
        assert len(claims(done(later, now, shot.advance)[1])) == again
    other = replace(guard, attempt=Attempt("n", "alone", "h", now))
    assert claims(done(other, now, shot.advance)[1]) == []


@pytest.mark.parametrize(("age_s", "commits"), [(1.0, 1), (6.0, 0)])
def test_an_offer_is_committed_beside_a_fresh_preflight(age_s: float, commits: int) -> None:
    """Of its own request; a device that was not read lately may not answer the shot."""
    guard, now = trying(offered=now_of_b())
    guard = replace(guard, attempt=replace(guard.attempt, offer=offer(guard, now)))
    guard = replace(guard, agents=(replace(guard.agents[0], power_at=after(now, -age_s)),))
    assert len(sent(done(guard, now, shot.advance)[1], Commit)) == commits
    other = replace(guard, attempt=replace(guard.attempt, job="b"))
    assert sent(done(other, now, shot.advance)[1], Commit) == []
    assert shot._job(guard, "b") is None


def test_a_member_is_not_fenced_however_long_it_is_asked_for() -> None:
    """What the node's own membership says is said to whoever waits."""
    guard, now = asked()
    member = replace(guard, members=replace(guard.members, peer_member=True))
    after_it, effects = done(member, now, shot.advance)
    assert claims(effects) == []
    assert "membership" in after_it.agents[0].said


PEER_ALIVE = InhibitView("peer-alive", "peer-alive", "arbiter", "A was heard", 0.0)


@pytest.mark.parametrize(
    ("kind", "offs", "goes"), [("peer-alive", 2, True), ("peer-alive", 1, False), ("person", 2, False)]
)
def test_two_readings_off_go_past_peer_alive_and_past_nothing_else(kind: str, offs: int, goes: bool) -> None:
    """The arbiter ends it on them; every other obstacle is said to whoever waits, once."""
    guard, now = asked(power=Power.OFF, offs=offs)
    guard = with_ack(guard, inhibits=(replace(PEER_ALIVE, kind=kind),))
    after_it, effects = done(guard, now, shot.advance)
    assert [c.off_twice for c in claims(effects)] == [True] * goes
    said = "arbiter: A was heard"
    assert of(effects, Progress) == ([] if goes else [Progress("a", said)])
    assert after_it.agents[0].said == ("" if goes else said)
    assert of(done(after_it, now, shot.advance)[1], Progress) == []


@pytest.mark.parametrize("how", ["register", "memory", "not"])
def test_a_winner_asks_for_the_yield_at_once_of_what_reads_on(how: str) -> None:
    """No verdict is asked again; while the first reading is under way it is waited for."""
    guard, now = asked()
    guard = with_register(guard, winner="B" if how == "register" else None)
    guard = remembering(guard, used=("alone",) if how == "memory" else ())
    [job] = guard.agents
    won = how != "not"
    for power, reading, yields in (
        (Power.ON, None, [won]),
        (Power.UNKNOWN, None, [False]),
        (None, "r", [] if won else [False]),
        (Power.ON, "r", [won]),
    ):
        changed = replace(job, power=power, reading=reading, reading_since=now)
        assert [c.want_yield for c in claims(done(replace(guard, agents=(changed,)), now, shot.advance)[1])] == yields


# ------------------------------------------------------------------ from a right to a shot


def with_right(**changed):
    """A right for this request; `job` fields by name."""
    right = {k: changed.pop(k) for k in ("purpose", "job") if k in changed}
    guard, now = asked(**changed)
    return replace(guard, right=replace(Right("fence", 1, 2, after(now, -0.5), 1, job="a"), **right)), now


def test_a_right_becomes_a_durable_intent_before_anything_is_sent() -> None:
    """S6: use and intent are remembered, the right is gone, and `start_by` counts from the Commit."""
    guard, now = with_right()
    after_it, effects = done(guard, now, shot.advance)
    [written] = after_it.memory.intents
    assert written == Intent(written.id, 1, 2, "A", guard.boot_id, after(now, 2.5), guard.horizon_s)
    assert len(written.id) == 32
    assert (after_it.memory.used, after_it.right) == (("fence",), None)
    assert (after_it.agents[0].stage, after_it.agents[0].intent) == ("armed", written.id)
    assert of(effects, Persisted) == [Persisted(written.id)]
    assert of(effects, Fire) == []
    more = remembering(guard, intents=(intent(now, id="old"),), used=("alone",))
    after_it, _ = done(more, now, shot.advance)
    assert [i.id == "old" for i in after_it.memory.intents] == [True, False]
    assert after_it.memory.used == ("alone", "fence")


@pytest.mark.parametrize(("offs", "reading", "reads"), [(1, None, 1), (1, "r", 0), (2, None, 0)])
def test_a_target_that_is_off_already_is_read_and_not_shot(offs: int, reading: str | None, reads: int) -> None:
    """Step 2: the win is needed and used, nothing is sent; two readings off answer."""
    guard, now = with_right(power=Power.OFF, offs=offs, reading=reading, reading_since=now_of_b())
    turn = Turn(guard, now)
    shot._armed(turn, guard.agents[0])
    effects = turn.step().effects
    assert (turn.guard.memory.used, turn.guard.right, turn.guard.memory.intents) == (("fence",), None, ())
    assert [(r.target, r.delay_s) for r in of(effects, ReadPower)] == [("A", GAP_ALONE_S)] * reads
    assert [a.confirmed for a in of(effects, AnswerAgent)] == [True] * (offs == 2)
    assert [j.stage for j in turn.guard.agents] == ["reading"] * (offs == 1)


@pytest.mark.parametrize("right", [{"purpose": "alone"}, {"job": "another"}, {"job": None}], ids=str)
def test_a_right_of_something_else_arms_nothing(right: dict) -> None:
    """S3: a right is for one purpose of one request."""
    guard, now = with_right(**right)
    turn = Turn(guard, now)
    shot._armed(turn, guard.agents[0])
    assert turn.guard == guard


LAST_LOOK = {
    "start_by has passed": lambda g, now: remembering(g, intents=(intent(now, start_by=after(now, -0.001)),)),
    "an inhibit here": lambda g, now: remembering(g, inhibits={"x": replace(PEER_ALIVE, kind="disturbance")}),
    "an inhibit at the arbiter": lambda g, now: with_ack(g, inhibits=(PEER_ALIVE,)),
    "a hold": lambda g, now: remembering(g, holding=True),
    "a close": lambda g, now: replace(g, closing=Closing("k", 9, "s", 1, now)),
    "DRBD was never read": lambda g, now: replace(g, volumes=None),
    "no resource": lambda g, now: replace(g, volumes=replace(g.volumes, replicas=())),
    "a bad disk": lambda g, now: with_replicas(g, disk=Disk.OUTDATED),
    "one bad disk of two": lambda g, now: replace(
        g, volumes=replace(g.volumes, replicas=(*g.volumes.replicas, replace(g.volumes.replicas[0], disk=Disk.UNKNOWN)))
    ),
}


@pytest.mark.parametrize("why", LAST_LOOK)
def test_a_shot_is_looked_at_once_more_when_it_is_durable(why: str) -> None:
    """S4, S5: what came since the intent sends nothing; the request waits on, and says why."""
    guard, now = armed()
    other = intent(now, id="other")
    guard = LAST_LOOK[why](guard, now)
    guard = remembering(guard, intents=(*guard.memory.intents, other))
    after_it, effects = done(guard, now, shot.reconsider, Reconsider("i1"))
    assert of(effects, Fire) == []
    assert after_it.memory.intents == (other,)
    [job] = after_it.agents
    assert (job.stage, job.intent, bool(job.said)) == ("wait", None, True)


@pytest.mark.parametrize("disk", [Disk.UP_TO_DATE, Disk.CONSISTENT])
def test_a_shot_is_fired_until_start_by_and_marked_before(disk) -> None:
    """Exactly once; what is `spawned` is never forgotten as not sent. A cold start's disk serves too."""
    guard, now = armed(start_by=now_of_b())
    after_it, effects = done(with_replicas(guard, disk=disk), now, shot.reconsider, Reconsider("i1"))
    assert of(effects, Fire) == [Fire("i1", "off", "A", now)]
    assert after_it.memory.intents == (intent(now, start_by=now, spawned=True),)
    assert after_it.agents == (replace(guard.agents[0], stage="firing"),)
    for event, state in (
        (Reconsider("i1"), after_it),
        (Reconsider("i2"), guard),
        (Reconsider("i1"), replace(guard, agents=())),
    ):
        assert done(state, now, shot.reconsider, event) == (state, ())


# ------------------------------------------------------------------ after the shot


@pytest.mark.parametrize(("exit_code", "offs", "gap_s"), [(0, 1, GAP_S), (1, 0, GAP_ALONE_S), (None, 0, GAP_ALONE_S)])
def test_a_shot_that_ended_is_read_back(exit_code: int | None, offs: int, gap_s: float) -> None:
    """A verified exit 0 is the first of two readings `off`; what was read before the shot counts for nothing."""
    guard, now = fired()
    guard = replace(guard, agents=(replace(guard.agents[0], reading="old", offs=1, power=Power.OFF),))
    after_it, effects = done(guard, now, shot.shot_ended, ShotEnded("i1", exit_code, True))
    [read] = of(effects, ReadPower)
    assert (read.target, read.delay_s) == ("A", gap_s)
    [job] = after_it.agents
    assert (job.stage, job.offs, job.power, job.reading) == ("reading", offs, None, read.token)


@pytest.mark.parametrize(("horizon_s", "drained_s"), [(10.0, 10.0), (75.0, 75.0), (None, None)])
def test_the_drain_of_an_ended_shot_is_its_own_devices(horizon_s: float | None, drained_s: float | None) -> None:
    """S4: H is of the device that it was sent to; other shots keep theirs. One nobody knows changes nothing."""
    guard, now = fired(horizon_s=horizon_s)
    other = intent(now, id="other", spawned=True)
    guard = remembering(guard, intents=(*guard.memory.intents, other))
    for agents in (guard.agents, ()):
        after_it, effects = done(replace(guard, agents=agents), now, shot.shot_ended, ShotEnded("i1", None, False))
        drained = None if drained_s is None else after(now, drained_s)
        assert after_it.memory.intents == (replace(guard.memory.intents[0], drained=drained), other)
        assert len(of(effects, ReadPower)) == len(agents)
    assert done(guard, now, shot.shot_ended, ShotEnded("nobody's", 0, True)) == (guard, ())


@pytest.mark.parametrize("stuck", [{"i1"}, {"i1", "i2"}])
def test_the_page_for_stuck_shots_ends_with_the_last(stuck: set[str]) -> None:
    """A process that could not be killed has ended."""
    guard, now = fired()
    guard = replace(guard, stuck=frozenset(stuck), paged=frozenset({"shot-stuck", "person"}))
    after_it, _ = done(guard, now, shot.shot_ended, ShotEnded("i1", 0, True))
    assert after_it.stuck == stuck - {"i1"}
    assert after_it.paged == {"person"} | ({"shot-stuck"} if after_it.stuck else set())


def reading(**changed):
    guard, now = fired()
    job = replace(guard.agents[0], stage="reading", reading="t", power=None, power_at=None, **changed)
    return replace(guard, agents=(job,)), now


@pytest.mark.parametrize(("offs", "power"), [(o, p) for o in (0, 1) for p in Power])
def test_two_readings_off_in_a_row_confirm(offs: int, power: Power) -> None:
    """Law 2: one more is asked for after the first; anything else ends unconfirmed at once."""
    guard, now = reading(offs=offs)
    after_it, effects = done(guard, now, shot.power_read, PowerRead("t", power))
    answers = [(a.id, a.confirmed, a.reason) for a in of(effects, AnswerAgent)]
    off = power is Power.OFF
    if off and offs == 0:
        assert answers == []
        assert [(r.target, r.delay_s) for r in of(effects, ReadPower)] == [("A", GAP_ALONE_S)]
        [job] = after_it.agents
        assert (job.power, job.power_at, job.offs) == (Power.OFF, now, 1)
    else:
        assert answers == [("a", off, "confirmed-off" if off else "unconfirmed")]
        assert all(off or power.value in a.text for a in of(effects, AnswerAgent))
        assert after_it.agents == ()
    assert after_it.memory.confirmed_off is (off and offs == 1)


def test_a_reading_is_for_whoever_asked() -> None:
    """The guard's own sounding, or the request with that token; another's, or an old one, changes nothing."""
    guard, now = reading()
    assert done(guard, now, shot.power_read, PowerRead("old", Power.OFF)) == (guard, ())
    own = replace(guard, sounding="s")
    after_it, effects = done(own, now, shot.power_read, PowerRead("s", Power.OFF))
    assert after_it == replace(own, sounding=None, sounded=Power.OFF, sounded_at=now)
    assert effects == ()


@pytest.mark.parametrize("power", Power)
def test_a_reading_before_the_claim_moves_the_request_on(power: Power) -> None:
    """A device that does not answer is said to whoever waits: no claim is made without it."""
    guard, now = asked(reading="t", power=None, offs=1)
    after_it, effects = done(guard, now, shot.power_read, PowerRead("t", power))
    [job] = after_it.agents
    assert (job.power, job.power_at, job.offs) == (power, now, 2 if power is Power.OFF else 0)
    assert job.reading is None
    assert len(of(effects, Progress)) == (power is Power.UNKNOWN)
    assert len(claims(effects)) == 1
    for stage in ("armed", "firing"):
        other, now = asked(reading="t", power=None, stage=stage, offs=1)
        after_it, effects = done(other, now, shot.power_read, PowerRead("t", power))
        assert (after_it.agents[0].stage, effects) == (stage, ())


@pytest.mark.parametrize("action", ["off", "reboot"])
def test_a_confirmed_reboot_owes_the_peer_its_power(action: str) -> None:
    """What becomes of that is in test_drain.py."""
    guard, now = reading(offs=1, action=action)
    guard, _ = done(guard, now, shot.power_read, PowerRead("t", Power.OFF))
    assert (guard.memory.owes_on, guard.agents) == (action == "reboot", ())


def test_an_answered_request_takes_its_own_claim_and_right_along() -> None:
    """And nobody else's."""
    for job, left in (("a", False), ("b", True)):
        guard, now = asked(until=now_of_b())
        guard = replace(guard, attempt=Attempt("n", "alone", job, now), right=Right("alone", 1, 2, now, 1, job=job))
        after_it, _ = done(guard, now, shot.advance)
        assert (after_it.attempt is not None, after_it.right is not None) == (left, left)


UNREAD = [
    ({}, False),
    ({"link": Link.UNKNOWN}, True),
    ({"disk": Disk.UNKNOWN}, True),
    ({"generations": None}, True),
    ({"link": Link.DOWN, "disk": Disk.UNKNOWN}, False),
    ({"link": Link.DOWN, "generations": None}, False),
]


@pytest.mark.parametrize(("changed", "unread"), UNREAD, ids=str)
def test_what_cannot_be_read_is_read_again_every_half_second(changed: dict, unread: bool) -> None:
    """DRBD says nothing more by itself; a resource that is down has nothing more to say."""
    guard, now = asked(retry=after(now_of_b(), 60.0))
    guard = with_replicas(guard, **changed)
    after_it, effects = done(guard, now, shot.advance)
    assert len(of(effects, ReadVolumes)) == unread
    assert of(done(after_it, after(now, 0.499), shot.advance)[1], ReadVolumes) == []
    assert len(of(done(after_it, after(now, 0.5), shot.advance)[1], ReadVolumes)) == unread
    for idle in (replace(guard, agents=()), replace(guard, volumes=None)):
        assert of(done(idle, now, shot.advance)[1], ReadVolumes) == []
