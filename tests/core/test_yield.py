"""A living node that steps back: who is asked, who yields, and what a yield ends. One promise a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from desk import A, B, Desk, reason
from scene import guard_of, of, run, said_by, whole_pair
from test_claim import bundle

from guard.core import attesting, claiming
from guard.core.claim import Bundle, rule
from guard.core.evidence import ClusterView, Disk, Link, Power, Role, Up, Volumes
from guard.core.instant import after
from guard.core.messages import Answer, Ask, InhibitView, NonceIs, Offer, Refused
from guard.core.policy import Policy
from guard.core.step import (
    ColdWin,
    Heard,
    Promise,
    ReadPower,
    ResumeWrites,
    SawVolumes,
    Send,
    Suspended,
    SuspendWrites,
    Tick,
)
from guard.core.turn import AgentJob, Attempt, Guard, Turn, unfit
from guard.rehearsal.world import World

POLICY = Policy()


# ------------------------------------------------------------------ the judgement


def living(*, yielded: bool, unfit: bool = True, mine: dict[str, Any] | None = None, **theirs: Any) -> Bundle:
    """B, a good secondary, claims over the living primary A; ages of the same moment, both connected."""
    said = {"age_lo_s": 12.0, "age_hi_s": 13.0, **theirs}
    made = bundle("live", mine={"age_lo_s": 12.0, "age_hi_s": 13.0, **(mine or {})}, **said)
    assert made.target is not None
    return replace(made, target=replace(made.target, unfit=unfit), target_yielded=yielded)


def test_a_living_primary_is_asked_only_if_it_is_unfit_and_passed_over_only_once_it_yields() -> None:
    """V17: keep it; CONSENT if its own cluster is unfit; GRANT with its yield."""
    for purpose in ("alone", "fence"):
        assert rule(living(yielded=False, unfit=False), purpose, POLICY, cold=False).next == "no"
        assert rule(living(yielded=False), purpose, POLICY, cold=False).next == "want-yield"
        ruling = rule(living(yielded=True), purpose, POLICY, cold=False)
        assert (ruling.next, ruling.basis) == ("commit", "yield")


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({}, {"gate": False}),
        ({}, {"gate": None}),
        ({}, {"disk": "?"}),
        ({}, {"age_lo_s": None}),
        ({"age_lo_s": None}, {}),
        ({"age_lo_s": 500.0, "age_hi_s": None}, {}),  # it wrote what the candidate never saw
        ({"disk": "C"}, {}),
        ({"role": "?"}, {}),
    ],
    ids=str,
)
def test_what_is_not_proven_of_a_living_primary_is_not_passed_over(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """S2: with its yield or without, and nobody is even asked."""
    for yielded in (False, True):
        ruling = rule(living(yielded=yielded, mine=mine, **theirs), "fence", POLICY, cold=False)
        assert ruling.next == "no", ruling


def test_words_of_a_standing_connection_are_not_ordered_by_who_spoke_last() -> None:
    """Connected, writes go on between the two statements: they contradict nothing."""
    apart = bundle("live", mine={"role": "primary", "age_lo_s": 2.0, "age_hi_s": 3.0}, role="secondary", age_hi_s=0.4)
    assert rule(apart, "alone", POLICY, cold=False).verdict.row == "V16"
    standing = replace(apart, candidate=replace(apart.candidate, connected=True))
    assert rule(standing, "alone", POLICY, cold=False).verdict.row == "V20"


# ------------------------------------------------------------------ the arbiter


def peer_alive() -> Desk:
    """B asked to fence A, which answered: the network."""
    desk = Desk().whole().cut()
    desk.claim(B, "n1")
    desk.answer(A, "n1", role="primary")
    desk.wait(0.5, A, B)
    assert desk.inhibits == {"peer-alive"}
    return desk


def asks(desk: Desk, nonce: str) -> list[Ask]:
    return [m for _, m in desk.said if isinstance(m, Ask) and m.nonce == nonce]


def test_under_peer_alive_a_yield_may_be_asked_for_and_nothing_else() -> None:
    """The question goes out; without the yield no offer follows it."""
    desk = peer_alive()
    assert [reason(m) for to, m in desk.claim(B, "n2") if to == B] == ["peer-alive"]
    desk.claim(B, "n3", "alone", want_yield=True)
    assert [a.want_yield for a in asks(desk, "n3")] == [True]
    desk.answer(A, "n3", role="primary")
    said = [m for m in desk.wait(2.5, A, B) if isinstance(m, (Offer, Refused))]
    assert [reason(m) for m in said] == ["peer-alive"]


def test_the_yield_ends_peer_alive_and_the_offer_follows() -> None:
    """One of the ways out: the target's own word, given for this very claim."""
    desk = peer_alive()
    desk.claim(B, "n3", "alone", want_yield=True)
    desk.answer(A, "n3", yielded=True, role="primary")
    offers = [m for m in desk.wait(0.5, A, B) if isinstance(m, Offer)]
    assert [o.target_yielded for o in offers] == [True]
    assert not desk.inhibits


@pytest.mark.parametrize("alive", [A, B])
def test_peer_alive_ends_whichever_of_the_two_is_gone(alive: str) -> None:
    """The one whose claim found it out may die as well as the other: 30 s unheard, the other heard throughout."""
    desk = peer_alive()
    desk.wait(desk.policy.unheard_s - 1, alive)
    assert desk.inhibits == {"peer-alive"}
    desk.wait(2.0, alive)
    assert not desk.inhibits


def test_nobody_is_asked_to_yield_under_another_inhibit() -> None:
    """A person's hold: the target would stop writing for nothing."""
    desk = Desk().whole().cut()
    desk.inhibit(A, "person:x", "person")
    assert [reason(m) for to, m in desk.claim(B, "n2", "alone", want_yield=True) if to == B] == ["inhibited"]
    assert not asks(desk, "n2")


def test_a_cold_start_claims_no_death() -> None:
    """Both live, the path cut, nothing runs: that is no reason to hold the pair."""
    desk = Desk().whole().cut()
    desk.claim(A, "n1", "alone", cold=True)
    desk.answer(B, "n1")
    desk.wait(0.5, A, B)
    assert not desk.inhibits


# ------------------------------------------------------------------ the node that is asked


def asked(world: World, name: str, purpose: str, **changed: Any) -> tuple[Guard, list[Any]]:
    guard = replace(guard_of(world, name), **changed)
    peer = "B" if name == "A" else "A"
    after_it, effects = run(guard, Heard("arbiter", Ask("n1", peer, purpose, True)), world.nodes[name].local())  # type: ignore[arg-type]
    return after_it, of(effects, SuspendWrites)


def gone(world: World, name: str) -> dict[str, Any]:
    """Its own cluster has been gone for long."""
    return {"cluster_lost": after(world.nodes[name].local(), -20.0)}


def test_a_node_yields_to_a_fence_only_if_it_is_unfit() -> None:
    """A healthy node does not, primary or not; one whose cluster is gone or whose stop failed does."""
    world = whole_pair()
    for name in "AB":
        view = guard_of(world, name).cluster
        assert view is not None
        assert not asked(world, name, "fence")[1]
        assert asked(world, name, "fence", **gone(world, name))[1]
        assert asked(world, name, "fence", cluster=replace(view, failed_stop=True))[1]


def test_after_a_boot_a_node_yields_to_a_fence_only_if_it_surely_has_no_quorum_and_runs_nothing() -> None:
    """Cold start. Unknown permits nothing: neither an unread quorum nor an unread role."""
    world = whole_pair()
    guard = guard_of(world, "B")
    assert guard.members is not None
    assert guard.volumes is not None
    long_ago = after(world.nodes["B"].local(), -1000.0)
    cold = {"ever_connected": False, "started": long_ago, "memory": replace(guard.memory, boot_id="the boot before")}
    unread = tuple(replace(r, role=Role.UNKNOWN) for r in guard.volumes.replicas)
    for quorate, expected in ((False, True), (None, False), (True, False)):
        members = replace(guard.members, quorate=quorate)
        assert bool(asked(world, "B", "fence", members=members, **cold)[1]) is expected
        none = replace(guard.volumes, replicas=unread)
        assert not asked(world, "B", "fence", members=members, volumes=none, **cold)[1]
    lone = replace(guard.members, quorate=False)
    assert not asked(world, "B", "fence", members=lone)[1], "not after a boot"
    assert not asked(world, "B", "fence", members=lone, **{**cold, "started": guard.started})[1], "it may be joining"


@pytest.mark.parametrize("kind", ["person", "change", "disturbance"])
def test_nobody_yields_to_a_fence_under_a_hold(kind: str) -> None:
    """S5: an inhibit that only this node knows is enough."""
    world = whole_pair()
    memory = guard_of(world, "A").memory
    held = replace(memory, inhibits={"x": InhibitView("x", kind, "A", "r", 0.0)})  # type: ignore[arg-type]
    assert not asked(world, "A", "fence", memory=held, **gone(world, "A"))[1]


@pytest.mark.parametrize("winner", [None, "B"])
def test_a_promise_is_said_once_more_only_to_the_winner_of_its_era(winner: str | None) -> None:
    """S3: while no winner is known an older claim's late question may be meant; with one nothing voids the promise."""
    world = whole_pair()
    guard = guard_of(world, "A")
    assert guard.ack is not None
    assert guard.ack.register is not None
    era = guard.memory.era
    first = Promise("y1", era, "s", True, guard.boot_id)
    memory = replace(guard.memory, promise=first, suspended=True)
    ack = replace(guard.ack, register=replace(guard.ack.register, winner=winner))
    after_it, suspends = asked(world, "A", "fence", memory=memory, ack=ack, **gone(world, "A"))
    assert ("n1" in {s.nonce for s in suspends}) is (winner == "B")
    if winner == "B":
        again, effects = run(after_it, Suspended("n1", True), world.nodes["A"].local())
        assert again.memory.promise == replace(first, nonce="n1")
        assert [s.message.yielded for s in of(effects, Send) if isinstance(s.message, Answer)] == [True]


@pytest.mark.parametrize(("boot", "resumed"), [("this", False), ("another", True)])
def test_a_primary_that_yielded_and_was_rebooted_resumes_by_the_arbiters_word(boot: str, resumed: bool) -> None:
    """The measured trap is of one boot: a node that was off carries nothing over. On the same boot a person decides."""
    world = whole_pair()
    guard = guard_of(world, "B")
    promise = Promise("y1", guard.memory.era, "another session", True, guard.boot_id if boot == "this" else "old")
    guard = replace(guard, memory=replace(guard.memory, promise=promise, suspended=True))
    _, effects = run(guard, Heard("arbiter", NonceIs("x", "y1", "era-closed")), world.nodes["B"].local())
    assert bool(of(effects, ResumeWrites)) is resumed


# ------------------------------------------------------------------ the candidate


def offered(world: World, power: Power | None, **due: Any) -> Guard:
    """B's agent waits; its claim got an offer over the living, unfit primary A."""
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    target = said_by(world, "A", unfit=True, cluster="down")
    register = world.arbiter.kept.register.view("store-1")  # type: ignore[union-attr]
    offer = Offer("n1", register, said_by(world, "B"), target, "live", 0.1, 0.1, False, False, 2.0)
    job = AgentJob("j1", "off", "A", now, after(now, 60.0), power=power, power_at=now)
    return replace(guard, agents=(job,), attempt=Attempt("n1", "fence", "j1", now, offer=offer, offered=now), due=due)


@pytest.mark.parametrize(
    ("power", "claimed"), [(Power.ON, True), (Power.UNKNOWN, False), (None, False), (Power.OFF, False)]
)
def test_a_yield_is_asked_for_only_beside_a_device_that_reads_on(power: Power | None, claimed: bool) -> None:
    """Nobody stops writing for a fence that cannot come, or that would hit another node."""
    world = whole_pair()
    turn = Turn(offered(world, power), world.nodes["B"].local())
    claiming.consider(turn, ready=power in (Power.ON, Power.OFF))
    attempt = turn.guard.attempt
    assert (attempt is not None and attempt.want_yield) is claimed


def test_a_target_that_does_not_yield_is_not_asked_again_at_once() -> None:
    """The second question comes at least ASK_YIELD_S later."""
    world = whole_pair()
    now = world.nodes["B"].local()
    for later_s, again in ((1.0, False), (claiming.ASK_YIELD_S + 0.1, True)):
        turn = Turn(offered(world, Power.ON, **{"ask-yield": after(now, claiming.ASK_YIELD_S)}), after(now, later_s))
        assert turn.guard.attempt is not None
        turn.put(attempt=replace(turn.guard.attempt, offered=turn.now))
        claiming.consider(turn, ready=True)
        assert (turn.guard.attempt is not None) is again


def held_by_peer_alive(world: World, **changed: Any) -> Guard:
    """B holds, its peer is no member any more, nothing stands but `peer-alive`; A says that it is unfit."""
    guard = guard_of(world, "B")
    assert guard.ack is not None
    assert guard.ack.peer_hold is not None
    assert guard.members is not None
    view = InhibitView("peer-alive", "peer-alive", "B", "A answered", 0.0)
    ack = replace(guard.ack, inhibits=(view,), peer_hold=replace(guard.ack.peer_hold, unfit=True))
    members = replace(guard.members, peer_member=False)
    memory = replace(guard.memory, holding=True)
    sounded = {"sounded": Power.ON, "sounded_at": world.nodes["B"].local()}
    return replace(guard, ack=ack, members=members, memory=memory, due={}, **{**sounded, **changed})


def claims(effects: Any) -> list[Any]:
    return [s.message for s in of(effects, Send) if s.message.kind == "claim"]


def test_a_hold_that_only_peer_alive_keeps_is_released_by_the_yield_of_an_unfit_peer() -> None:
    """The guard asks by itself, beside a device that it has read itself; not if it is unfit as well."""
    world = whole_pair()
    world.run(POLICY.settle_s)
    now = world.nodes["B"].local()
    _, effects = run(held_by_peer_alive(world), Tick(), now)
    assert [(c.purpose, c.want_yield) for c in claims(effects) if not c.gather] == [("alone", True)]
    unread, effects = run(held_by_peer_alive(world, sounded=None), Tick(), now)
    assert not [c for c in claims(effects) if not c.gather]
    assert [r.token for r in of(effects, ReadPower)] == [unread.sounding]
    _, effects = run(held_by_peer_alive(world, cluster_lost=after(now, -20.0)), Tick(), now)
    assert not [c for c in claims(effects) if not c.gather]


def test_what_a_cold_start_was_won_with_counts_until_the_disk_leaves() -> None:
    """A Consistent disk is continuous by its cold win, on that boot and in that era, while it is no worse."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    assert guard.volumes is not None
    (replica,) = guard.volumes.replicas
    assert replica.generations is not None
    cut = replace(replica, disk=Disk.CONSISTENT, link=Link.CONNECTING)
    won = ColdWin(guard.boot_id, guard.memory.era, {replica.resource: replica.generations.current & attesting.MASK})

    def continuous(won: ColdWin, *disks: Disk) -> bool:
        seen = replace(guard, memory=replace(guard.memory, cold_win=won, continuous={}))
        for disk in disks:
            seen, _ = run(seen, SawVolumes(Volumes(now, (replace(cut, disk=disk),))), now)
        (stated,) = attesting.evidence(Turn(seen, now)).replicas
        return stated.continuous

    assert continuous(won, Disk.CONSISTENT)
    assert not continuous(replace(won, boot_id="old"), Disk.CONSISTENT)
    assert not continuous(replace(won, era=won.era - 1), Disk.CONSISTENT)
    assert not continuous(replace(won, generations={replica.resource: 2}), Disk.CONSISTENT)
    assert not continuous(won, Disk.INCONSISTENT, Disk.CONSISTENT)


def test_unfit_is_said_in_every_testimony_and_beat() -> None:
    """What the peer and the arbiter judge by."""
    world = whole_pair()
    now = world.nodes["A"].local()
    view = guard_of(world, "A").cluster
    assert isinstance(view, ClusterView)
    assert view.controller is Up.UP
    for failed in (False, True):
        turn = Turn(replace(guard_of(world, "A"), cluster=replace(view, failed_stop=failed)), now)
        assert (unfit(turn), attesting.evidence(turn).unfit) == (failed, failed)


def test_a_suspension_that_was_not_read_back_is_no_yield() -> None:
    """S3: no promise is stored, and the answer says so; writes are let go again."""
    world = whole_pair()
    guard = replace(guard_of(world, "B"), yielding="n1")
    guard = replace(guard, memory=replace(guard.memory, suspended=True))
    for done in (True, False):
        after_it, effects = run(guard, Suspended("n1", done), world.nodes["B"].local())
        assert (after_it.memory.promise is not None) is done
        assert [s.message.yielded for s in of(effects, Send) if isinstance(s.message, Answer)] == [done]
        assert bool(of(effects, ResumeWrites)) is not done


def test_a_promise_suspends_what_comes_up_and_nothing_that_is_down() -> None:
    """Down, nothing can be suspended and nothing written; once configured it is suspended at once."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    assert guard.volumes is not None
    (replica,) = guard.volumes.replicas
    promise = Promise("y1", guard.memory.era, None, False, guard.boot_id)
    guard = replace(guard, memory=replace(guard.memory, promise=promise, suspended=True))
    for link, suspends in ((Link.DOWN, False), (Link.CONNECTING, True), (Link.UNKNOWN, True)):
        seen = SawVolumes(Volumes(now, (replace(replica, link=link, suspended=frozenset()),)))
        assert bool(of(run(guard, seen, now)[1], SuspendWrites)) is suspends


def test_the_end_of_a_disturbance_is_told_also_after_a_boot() -> None:
    """L2: a node that is not whole since its start opens no hold, but the arbiter may list one from before."""
    world = whole_pair()
    guard, now = guard_of(world, "B"), world.nodes["B"].local()
    assert guard.ack is not None
    listed = InhibitView("disturbance:B", "disturbance", "B", "r", 1.0)
    ended = replace(listed, ended=True, since_wall=0.0)
    memory = replace(guard.memory, inhibits={listed.id: ended}, holding=True)
    booted = replace(guard, ever_whole=False, memory=memory, due={}, ack=replace(guard.ack, inhibits=(listed,)))
    _, effects = run(booted, Tick(), now)
    assert [s.message.inhibit for s in of(effects, Send) if s.message.kind == "set-inhibit"] == [ended]


def test_a_promise_that_is_void_but_cannot_be_taken_back_may_be_given_again() -> None:
    """A cut primary stays suspended until a person comes: until then its peer may still be let go on."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    assert guard.volumes is not None
    cut = tuple(replace(r, link=Link.CONNECTING) for r in guard.volumes.replicas)
    promise = Promise("y1", guard.memory.era, "s", True, guard.boot_id)
    memory = replace(guard.memory, promise=promise, suspended=True)
    guard = replace(guard, memory=memory, volumes=replace(guard.volumes, replicas=cut), **gone(world, "A"))
    for state, again in (("open", False), ("closed-without-winner", True)):
        told, effects = run(guard, Heard("arbiter", NonceIs("x", "y1", state)), now)  # type: ignore[arg-type]
        assert told.memory.promise == promise
        assert not of(effects, ResumeWrites)
        _, effects = run(told, Heard("arbiter", Ask("n2", "B", "alone", True)), now)
        assert ("n2" in {s.nonce for s in of(effects, SuspendWrites)}) is again


def test_a_node_that_promised_gathers_nothing() -> None:
    """Its question would only make the arbiter hear the candidate alive, and take that for a network."""
    world = whole_pair()
    guard = replace(guard_of(world, "B"), probe=False, due={})
    assert [c.gather for c in claims(run(guard, Tick(), world.nodes["B"].local())[1])] == [True]
    promised = replace(guard.memory, promise=Promise("y1", guard.memory.era, None, False, guard.boot_id))
    assert not claims(run(replace(guard, memory=promised), Tick(), world.nodes["B"].local())[1])
