"""How a guard starts, and what it takes in: what each event leaves behind by itself; one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import armed, done, of, of_a_whole_pair, remembering, run, sent, trying, with_ack, with_replicas

from guard.core import machine
from guard.core.evidence import (
    Forecast,
    Generations,
    Link,
    Power,
    Role,
    SignKind,
    Up,
    WriteSample,
    unseen_cluster,
)
from guard.core.instant import after
from guard.core.messages import ARBITER, Beat, Bye, InhibitView
from guard.core.policy import Policy
from guard.core.step import (
    AcceptStore,
    AnswerPerson,
    Bar,
    BusState,
    DryRun,
    Forecasted,
    HandlerAsks,
    Intent,
    JournalState,
    Leaving,
    Memory,
    Note,
    Promise,
    ReadPower,
    ReadVolumes,
    Reconsider,
    Retuned,
    SawCluster,
    SawMembers,
    SawProbe,
    SawStored,
    SawVolumes,
    SawWrites,
    Send,
    SuspendWrites,
    Tick,
)
from guard.core.turn import Closing, DryJob, HandlerJob, Right, Turn

LEASE = InhibitView("person:k", "person", "anna", "work", 0.0, lease_s=100.0)


def started(memory: Memory | None, **changed):
    """(guard, step, moment) of a guard of B."""
    known, now = of_a_whole_pair("B")
    what = {"policy": known.policy, "sight": known.sight, "horizon_s": 75.0, "boot_id": "boot-B", "seed": "s" * 32}
    guard, step = machine.start("B", "A", memory=memory, now=now, **{**what, **changed})
    return guard, step, now


# ------------------------------------------------------------------ the start


def test_a_guard_starts_with_what_it_was_handed_and_no_right() -> None:
    """Law 3: the fence device's bound and stream are its settings' own, and half a session is of this boot."""
    known, now = of_a_whole_pair("B")
    for horizon_s, stream in ((75.0, True), (None, False)):
        guard, step, _ = started(known.memory, horizon_s=horizon_s, stream=stream)
        assert (guard.me, guard.peer, guard.boot_id) == ("B", "A", "boot-B")
        assert (guard.horizon_s, guard.stream) == (horizon_s, stream)
        assert (guard.right, guard.attempt, guard.ack, guard.bus) == (None, None, None, False)
        assert guard.network.quiet_for_s(after(now, 1.0)) == 1.0, "quiet counts from the start"
        assert step.memory == known.memory, "durable before anything is done"
        assert guard.halves.connected("x").said().boot_id == "boot-B"


def test_a_device_speaks_in_streams_only_if_the_settings_say_so() -> None:
    """S4: taken for a stream, a datagram that still wanders would not be waited for."""
    guard, _, _ = started(None)
    assert guard.stream is False


def test_a_first_guard_remembers_its_boot() -> None:
    """Else the next start would take this boot for another one."""
    guard, step, _ = started(None)
    assert guard.memory.boot_id == "boot-B"
    assert step.memory == guard.memory


def test_two_starts_never_draw_the_same_nonce() -> None:
    """S4: a nonce answers one question of one guard; the seed is this start's own."""
    drawn = {Turn(started(None, seed=seed)[0], after(started(None)[2], 1.0)).nonce() for seed in ("s" * 32, "t" * 32)}
    assert len(drawn) == 2


def test_a_yield_survives_a_boot() -> None:
    """S2: its writes are suspended again, under the very nonce that was promised, before Pacemaker starts."""
    known, _ = of_a_whole_pair("B")
    promise = Promise("promised", 1, None, primary=True)
    assert of(started(replace(known.memory, promise=promise))[1].effects, SuspendWrites) == [SuspendWrites("promised")]
    assert of(started(known.memory)[1].effects, SuspendWrites) == []


# ------------------------------------------------------------------ a journal that fails


def test_without_a_durable_memory_nothing_is_claimed_and_nothing_fired() -> None:
    """S6: whatever was under way is given up, an armed shot waits anew, and a person is told once."""
    guard, now = armed()
    other = replace(guard.agents[0], id="b", stage="reading", intent="i2")
    guard = replace(
        guard,
        attempt=trying()[0].attempt,
        right=Right("fence", 1, 2, now, 1, job="a"),
        closing=Closing("n", 1, "s", 1, now),
        yielding="n",
        agents=(*guard.agents, other),
    )
    failed, effects = done(guard, now, machine._take, JournalState(False))
    assert failed.journal_ok is False
    assert (failed.attempt, failed.right, failed.closing, failed.yielding) == (None, None, None, None)
    assert failed.agents == (replace(guard.agents[0], stage="wait"), other)
    assert [(n.event, n.page) for n in of(effects, Note)] == [("journal-failed", True)]
    again, effects = done(failed, now, machine._take, JournalState(False))
    assert (again, effects) == (failed, ())
    assert of(done(failed, now, machine._take, Reconsider("i1"))[1], Send) == []


def test_a_journal_that_works_again_ends_the_alarm() -> None:
    """A second failure is told anew; what stands is left alone."""
    guard, now = of_a_whole_pair("B")
    right = Right("alone", 1, 2, now, 1)
    failed = replace(guard, journal_ok=False, paged=frozenset({"journal-failed", "person"}), right=right)
    mended, effects = done(failed, now, machine._take, JournalState(True))
    assert mended == replace(failed, journal_ok=True, paged=frozenset({"person"}))
    assert effects == ()


# ------------------------------------------------------------------ what an event leaves behind


def test_a_request_is_kept_as_it_was_asked() -> None:
    """Several may stand; a handler's is of this disconnection, and DRBD is looked at anew."""
    guard, now = of_a_whole_pair("B")
    old = HandlerJob("h0", "r0", after(now, -1.0), 1)
    asked, _ = done(replace(guard, handlers=(old,)), now, machine._take, HandlerAsks("h1", "r1"))
    assert asked.handlers == (old, HandlerJob("h1", "r1", now, guard.halves.connects))
    first = DryJob("d0", "fence", after(now, -1.0))
    tried, _ = done(replace(guard, dry=(first,)), now, machine._take, DryRun("d1", "alone"))
    assert tried.dry == (first, DryJob("d1", "alone", now))


def test_a_forecast_is_kept_with_its_moment_beside_the_other_one() -> None:
    """With and without the hold are two questions; an answer to one says nothing of the other."""
    guard, now = of_a_whole_pair("B")
    with_hold, without = Forecast(), Forecast(fences=frozenset({"A"}))
    guard, _ = done(replace(guard, forecasts={}), now, machine._take, Forecasted(False, with_hold))
    guard, _ = done(guard, after(now, 1.0), machine._take, Forecasted(True, without))
    assert guard.forecasts == {False: (with_hold, now), True: (without, after(now, 1.0))}


def test_new_limits_count_from_the_moment_they_are_told() -> None:
    """A reload needs no restart."""
    guard, now = of_a_whole_pair("B")
    policy = Policy(settle_s=7.0)
    assert done(guard, now, machine._take, Retuned(policy)) == (replace(guard, policy=policy), ())


def test_a_guard_that_leaves_in_order_says_so() -> None:
    """The arbiter then counts no storm from it."""
    guard, now = of_a_whole_pair("B")
    _, effects = done(guard, now, machine._take, Leaving())
    assert [(s.to, type(s.message)) for s in of(effects, Send)] == [(ARBITER, Bye)]


def test_a_person_may_accept_a_new_store() -> None:
    """Only while whole; then the next register heard is believed."""
    guard, now = of_a_whole_pair("B")
    accepted, effects = done(guard, now, machine._take, AcceptStore("p"))
    assert [(a.id, a.outcome) for a in of(effects, AnswerPerson)] == [("p", "accepted")]
    assert (accepted.memory.store_id, accepted.ack) == (None, None)


def test_a_probe_and_the_bus_are_taken_as_they_are_told() -> None:
    """A bus that is back is used at once: what was said while it was away is said again."""
    guard, now = of_a_whole_pair("B")
    for answered in (True, False, None):
        assert done(guard, now, machine._take, SawProbe(answered))[0].probe is answered
    assert done(guard, now, machine._take, BusState(False))[0].bus is False
    later = {duty: after(now, 9.0) for duty in ("beat", "attest", "half", "set-inhibit", "other")}
    back, _ = done(replace(guard, bus=False, due=later), now, machine._take, BusState(True))
    assert back.bus is True
    assert set(back.due) == {"other"}
    assert sent(run(replace(guard, bus=False, due=later), BusState(True), now)[1], Beat)


def test_a_lease_is_counted_down_every_10_s() -> None:
    """And by nothing else: what a Tick is late by is not lost, what comes early counts no time twice."""
    guard, now = of_a_whole_pair("B")
    guard = remembering(replace(guard, due={}), inhibits={LEASE.id: LEASE})
    left = []
    for at_s in (0.0, 0.1, 9.9, 10.0, 10.1, 20.0):
        guard, _ = done(guard, after(now, at_s), machine._take, Tick())
        left.append(guard.memory.inhibits[LEASE.id].lease_s)
    assert left == [90.0, 90.0, 90.0, 80.0, 80.0, 70.0]
    assert set(guard.due) == {"lease"}


def test_what_was_read_before_drbd_came_up_is_kept_apart() -> None:
    """Metadata is for a cold claim; it is no look at what is up."""
    guard, now = of_a_whole_pair("B")
    stored = replace(guard.volumes, at=after(now, -1.0), replicas=())
    assert done(guard, now, machine._take, SawStored(stored)) == (replace(guard, stored=stored), ())


@pytest.mark.parametrize(("generation", "counts"), [(None, True), (64, False)])
def test_the_first_look_after_a_start_decides_what_the_stored_session_proves(generation, counts: bool) -> None:
    """By the generations that were remembered before that look, and only by that look."""
    guard, now = of_a_whole_pair("A")
    seen = guard.volumes
    if generation is not None:
        seen = with_replicas(guard, generations=Generations(generation, 0)).volumes
    first, _ = done(replace(guard, volumes=None), now, machine._take, SawVolumes(seen))
    assert first.memory.session.primary is counts
    assert bool(first.memory.continuous) is counts
    if counts:
        changed = with_replicas(first, generations=Generations(64, 0)).volumes
        later, _ = done(first, after(now, 1.0), machine._take, SawVolumes(replace(changed, at=after(now, 1.0))))
        assert later.memory.continuous == first.memory.continuous


@pytest.mark.parametrize(("member", "flaps"), [(True, True), (None, True), (False, False)])
def test_replication_that_breaks_while_the_membership_stands_is_a_sign(member: bool | None, flaps: bool) -> None:
    """Three times in 60 s; one that goes with the membership is what a death looks like."""
    guard, now = of_a_whole_pair("A")
    guard = replace(guard, network=replace(guard.network, breaks=(), recent=(), replication=True))
    for n in range(1, 7):
        now = after(now, 1.0)
        if n % 2:
            guard, _ = done(guard, now, machine._take, SawMembers(replace(guard.members, peer_member=member)))
        link = Link.CONNECTING if n % 2 else Link.CONNECTED
        seen = replace(with_replicas(guard, link=link).volumes, at=now)
        guard, _ = done(guard, now, machine._take, SawVolumes(seen))
    assert [s.kind for s in guard.network.recent if s.kind is SignKind.REPLICATION_FLAP] == (
        [SignKind.REPLICATION_FLAP] * flaps
    )


def test_the_first_age_that_can_be_compared_is_attested_at_once() -> None:
    """A death right now would else find none; and every 10 s the ledger is made durable."""
    guard, now = of_a_whole_pair("A")
    [r0] = guard.volumes.replicas
    guard = remembering(replace(guard, ledgers={}, due={"attest": after(now, 99.0)}), ledgers={}, ledger_boot="")
    told = []
    for n in range(1, 30):
        at = after(now, n * 0.5)
        sample = WriteSample(r0.resource, at, Role.PRIMARY, 100, None, counts=True)
        guard, _ = done(guard, at, machine._take, SawWrites((sample,)))
        told.append("attest" not in guard.due)
        guard = replace(guard, due={**guard.due, "attest": after(now, 99.0)})
        durable = {1: 1, 20: 1, 21: 21, 29: 21}.get(n)
        if durable is not None:
            at_s = (guard.memory.ledgers[r0.resource].seen - now) / 1e9
            assert at_s == durable * 0.5
            assert guard.memory.ledger_boot == guard.boot_id
    assert told.count(True) == 1


def test_the_moment_the_winner_fell_silent_is_kept_and_after_10_s_a_person_is_told() -> None:
    """The newest data are there; not while the arbiter hears it, and not of one that never won."""
    guard, now = of_a_whole_pair("A")
    gone = replace(guard, members=replace(guard.members, peer_member=False), acked=now, silent_since=None)
    gone = with_ack(gone, peer_heard_s=99.0, register=replace(gone.ack.register, winner="B", used=("alone",)))
    first, effects = done(gone, now, machine._winner_gone)
    assert (first.silent_since, effects) == (now, ())
    wait_s = guard.policy.cluster_gone_s
    for seconds, paged in ((wait_s - 0.001, False), (wait_s, True)):
        at = after(now, seconds)
        later, effects = done(replace(first, acked=at), at, machine._winner_gone)
        assert later.silent_since == now
        told = [(n.event, n.page, n.data["era"], n.data["used"]) for n in of(effects, Note)]
        assert told == [("winner-gone", True, gone.ack.register.era, ["alone"])] * paged
    heard = with_ack(replace(later, acked=at), peer_heard_s=guard.policy.heard_s)
    back, _ = done(heard, at, machine._winner_gone)
    assert (back.silent_since, back.paged) == (None, frozenset())
    for other in (None, "A"):
        open_era = with_ack(replace(first, acked=at), register=replace(gone.ack.register, winner=other))
        assert done(open_era, at, machine._winner_gone)[1] == ()


# ------------------------------------------------------------------ what follows by itself


@pytest.mark.parametrize("part", ["corosync", "controller"])
def test_the_moment_the_own_cluster_was_lost_is_kept_until_it_is_back(part: str) -> None:
    """A yield may be offered 10 s after the first look that missed it, however often it was missed since."""
    guard, now = of_a_whole_pair("B")
    for word in (Up.DOWN, Up.UNKNOWN):
        if part == "corosync":
            gone, back = SawMembers(replace(guard.members, running=word)), SawMembers(guard.members)
        else:
            gone, back = SawCluster(unseen_cluster(now, word)), SawCluster(guard.cluster)
        lost, _ = done(guard, now, machine._take, gone)
        assert lost.cluster_lost == now
        still, _ = done(lost, after(now, 5.0), machine._take, gone)
        assert still.cluster_lost == now
        assert done(still, after(now, 6.0), machine._take, back)[0].cluster_lost is None


def test_a_device_that_read_on_is_believed_for_6_s() -> None:
    """A yield is asked for only beside a fence that can come; else it is read anew, once in that time."""
    guard, now = of_a_whole_pair("B")
    for power, ago_s, fresh in (
        (Power.ON, 0.0, True),
        (Power.ON, 6.0, True),
        (Power.ON, 6.1, False),
        (Power.OFF, 0.0, False),
        (None, 0.0, False),
    ):
        sounded = replace(guard, sounded=power, sounded_at=after(now, -ago_s), due={})
        turn = Turn(sounded, now)
        assert machine._peer_on(turn) is fresh
        reads = of(turn.step().effects, ReadPower)
        assert reads == ([] if fresh else [ReadPower(turn.guard.sounding or "", "A", 0.0)])
        assert turn.guard.sounding is None or len(turn.guard.sounding) == 32
        for later_s, asks in ((5.9, 0), (6.0, not fresh)):
            again = Turn(replace(turn.guard, sounded=None), after(now, later_s))
            assert machine._peer_on(again) is False
            assert len(of(again.step().effects, ReadPower)) == (1 if fresh else asks)


def test_the_pages_of_a_pair_that_was_not_whole_end_once_it_is() -> None:
    """And the moment stands until it is not whole any more."""
    guard, now = of_a_whole_pair("B")
    cut = replace(guard, whole_since=None, ever_whole=False, paged=frozenset({"person", "prefer-peer", "lease-over"}))
    whole, effects = done(cut, now, machine._wholeness)
    assert (whole.whole_since, whole.ever_whole, whole.paged) == (now, True, {"lease-over"})
    assert [n.event for n in of(effects, Note)] == ["whole"]
    assert done(whole, after(now, 1.0), machine._wholeness) == (whole, ())
    broken = replace(whole, members=replace(whole.members, peer_member=False))
    again, effects = done(broken, after(now, 2.0), machine._wholeness)
    assert (again.whole_since, again.ever_whole) == (None, True)
    assert [n.event for n in of(effects, Note)] == ["not-whole"]


@pytest.mark.parametrize(("used", "winner", "bars"), [(("alone",), "B", True), ((), "B", None), ((), None, False)])
def test_the_peer_is_barred_while_we_run_alone_and_only_then(used, winner, bars: bool | None) -> None:
    """K6: repeated, for an edit of the cluster may fail; taken back once the era is open and the pair whole."""
    guard, now = of_a_whole_pair("B")
    guard = remembering(with_ack(guard, register=replace(guard.ack.register, winner=winner)), used=used)
    guard, orders = replace(guard, due={}), []
    for at_s in (0.0, 29.9, 30.0):
        guard, effects = done(guard, after(now, at_s), machine._constraint)
        orders += [(at_s, bar.node, bar.on) for bar in of(effects, Bar)]
    assert orders == ([] if bars is None else [(0.0, "A", bars), (30.0, "A", bars)])


def test_an_open_era_takes_no_constraint_back_before_the_pair_is_whole() -> None:
    """S3: what an earlier winner set stands until the close has been seen."""
    guard, now = of_a_whole_pair("B")
    guard = replace(guard, due={})
    for unready in (replace(guard, members=replace(guard.members, peer_member=None)), replace(guard, ack=None)):
        assert of(done(unready, now, machine._constraint)[1], Bar) == []


def test_nothing_that_is_known_of_an_earlier_boot_is_of_this_one() -> None:
    """An intent of a boot before is drained anew (law 3); a look at DRBD is asked for by who needs it."""
    known, _ = of_a_whole_pair("B")
    left = Intent("i1", 1, 2, "A", "older", after(started(None)[2], 0.0), 10.0, spawned=True)
    guard, step, now = started(replace(known.memory, intents=(left,)), boot_id="boot-new")
    assert [i.drained for i in guard.memory.intents] == [after(now, 10.0)]
    assert of(step.effects, ReadVolumes) == []
