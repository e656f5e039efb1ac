"""The candidate's side of a claim and the judging of it, one promise a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import asked_to_fence, attested_pair, frozen_primary, guard_of, of, run, said_by, whole_pair

from guard.core import claim
from guard.core.claiming import obstacle
from guard.core.evidence import Link, Role
from guard.core.instant import after
from guard.core.messages import Answer, Ask, BeatAck, NonceIs, Offer, RegisterView, Won
from guard.core.policy import Policy
from guard.core.register import Register, commit, end_era
from guard.core.step import (
    AnswerHandler,
    Heard,
    Persisted,
    Promise,
    Resumed,
    ResumeWrites,
    SawVolumes,
    Send,
    SuspendWrites,
    Tick,
)
from guard.core.turn import Attempt, Turn, sitting

POLICY = Policy()


def committed(guard, purpose, job, now, ago_s):
    sent = after(now, -ago_s)
    return replace(guard, attempt=Attempt("n1", purpose, job, sent, guard.halves.connects, committed=sent))


@pytest.mark.parametrize(("ago_s", "codes"), [(0.5, [4]), (2.9, [4]), (3.2, [])])
def test_a_win_gives_a_right_only_within_t_fire(ago_s, codes) -> None:
    """S4: a `Won` more than T_fire after its Commit gives nothing; what was written stays."""
    world = frozen_primary()
    now = world.nodes["A"].local()
    guard = guard_of(world, "A")
    guard = committed(guard, "alone", guard.handlers[0].id, now, ago_s)
    quiet = replace(guard, memory=replace(guard.memory, inhibits={}, holding=False))
    after_it, effects = run(quiet, Heard("arbiter", Won("n1", 1, 2, "alone")), now)
    assert [e.code for e in of(effects, AnswerHandler)] == codes
    assert after_it.memory.version == 2


def test_a_win_nobody_waits_for_gives_nothing() -> None:
    """S4: a `Won` with another nonce, or for a claim that was never committed."""
    world = frozen_primary()
    now = world.nodes["A"].local()
    guard = guard_of(world, "A")
    for won in (Won("other", 1, 2, "alone"), Won("n1", 1, 2, "fence")):
        claimed = committed(guard, "alone", guard.handlers[0].id, now, 0.5)
        _, effects = run(claimed, Heard("arbiter", won), now)
        assert not of(effects, AnswerHandler)
    uncommitted = replace(guard, attempt=Attempt("n1", "alone", guard.handlers[0].id, now))
    _, effects = run(uncommitted, Heard("arbiter", Won("n1", 1, 2, "alone")), now)
    assert not of(effects, AnswerHandler)


@pytest.mark.parametrize("braked", [False, True])
def test_an_inhibit_between_commit_and_win_ends_a_right_to_fence(braked) -> None:
    """S5: whoever is braked when its win arrives writes no intent."""
    world = asked_to_fence()
    now = world.nodes["B"].local()
    guard = guard_of(world, "B")
    guard = committed(guard, "fence", guard.agents[0].id, now, 0.5)
    guard = replace(guard, memory=replace(guard.memory, holding=braked))
    _, effects = run(guard, Heard("arbiter", Won("n1", 1, 2, "fence")), now)
    assert bool(of(effects, Persisted)) is not braked


def test_a_guard_whose_peer_won_claims_nothing() -> None:
    """S1, S3: the loser is barred by the register itself."""
    world = whole_pair()
    now = world.nodes["B"].local()
    guard = guard_of(world, "B")
    register = replace(guard.ack.register, winner="A")
    assert obstacle(Turn(guard, now), "fence")[0] == "target-is-member"
    guard = replace(guard, members=replace(guard.members, peer_member=False))
    assert obstacle(Turn(guard, now), "fence") is None
    guard = replace(guard, ack=replace(guard.ack, register=register))
    assert obstacle(Turn(guard, now), "fence")[0] == "peer-won"


def view_of(version, store="store-1"):
    return RegisterView(store, 1, None, (), None, version, "A")


def test_a_silent_member_is_not_dead() -> None:
    """S2: Pacemaker also asks for a healthy member (a failed monitor); a few lost messages make it look silent."""
    said = offer_from(attested_pair(), "B")
    for member, purpose, further in (
        (False, "fence", "commit"),
        (True, "fence", "no"),
        (None, "fence", "no"),
        (True, "alone", "commit"),
    ):
        offer = replace(said, candidate=replace(said.candidate, peer_member=member))
        assert claim.rule(claim.bundle_of(offer, 0.0), purpose, POLICY, cold=False).next == further
        known = claim.member(claim.bundle_of(offer, 0.0))
        assert (known is None) is (member is False)


@pytest.mark.parametrize(
    ("view", "doubted"),
    [(view_of(9), False), (view_of(8), True), (view_of(10, "store-2"), True), (None, True)],
)
def test_another_store_or_an_older_register_is_believed_by_nobody(view, doubted) -> None:
    """S6: such an answer ends every right and stops every claim until a person comes."""
    world = whole_pair()
    now = world.nodes["B"].local()
    guard = guard_of(world, "B")
    guard = replace(
        guard,
        memory=replace(guard.memory, version=9),
        members=replace(guard.members, peer_member=False),
    )
    ack = BeatAck(now, view, None, (), 0.1, None, None, False)
    after_it, _ = run(guard, Heard("arbiter", ack), now)
    assert after_it.store_doubted is doubted
    assert (obstacle(Turn(after_it, now), "fence") is not None) is doubted
    assert after_it.memory.version == 9


def test_an_answer_that_was_overtaken_is_not_believed() -> None:
    """S4: an older answer of the arbiter never replaces a newer one."""
    world = whole_pair()
    now = world.nodes["B"].local()
    guard = guard_of(world, "B")
    old = replace(guard.ack, seq=guard.ack.seq - 5, register=replace(guard.ack.register, winner="A"))
    after_it, _ = run(guard, Heard("arbiter", old), now)
    assert after_it.ack.register.winner is None


def offer_from(world, offer_for, **changed):
    other = "A" if offer_for == "B" else "B"
    kept = world.arbiter.kept
    return Offer(
        nonce="n1",
        register=changed.pop("register", kept.register.view("store-1")),
        candidate=said_by(world, offer_for),
        target=said_by(world, other),
        fresh=changed.pop("fresh", "silent"),
        candidate_age_s=0.1,
        target_age_s=0.5,
        target_yielded=changed.pop("target_yielded", False),
        sitting=offer_for == "A",
        window_s=2.0,
    )


def test_a_living_target_is_never_fenced_without_its_yield() -> None:
    """Law 2: whatever the row says; `alone` is another matter."""
    world = whole_pair()
    live = offer_from(world, "A", fresh="live")
    assert claim.rule(claim.bundle_of(live, 0.0), "alone", POLICY, cold=False).next == "commit"
    assert claim.rule(claim.bundle_of(live, 0.0), "fence", POLICY, cold=False).reason == "living-target"
    yielded = replace(live, target_yielded=True)
    assert claim.rule(claim.bundle_of(yielded, 0.0), "fence", POLICY, cold=False).next == "commit"


@pytest.mark.parametrize(("continuous", "further"), [(True, "commit"), (False, "no")])
def test_without_continuity_a_silent_targets_words_tie_to_nothing(continuous, further) -> None:
    """S2 (E3): a candidate whose own disk left UpToDate since the session wins nothing over a silent target."""
    offer = offer_from(attested_pair(), "B")
    replicas = tuple(replace(r, continuous=continuous) for r in offer.candidate.replicas)
    offer = replace(offer, candidate=replace(offer.candidate, replicas=replicas))
    assert claim.rule(claim.bundle_of(offer, 0.0), "fence", POLICY, cold=False).next == further


@pytest.mark.parametrize(("gate", "further"), [(True, "commit"), (None, "no"), (False, "no")])
def test_over_a_silent_target_without_gate_nobody_wins(gate, further) -> None:
    """S2 (E4): a target that may go on writing alone is left to a person."""
    offer = offer_from(attested_pair(), "B")
    replicas = tuple(replace(r, gate=gate) for r in offer.target.replicas)
    offer = replace(offer, target=replace(offer.target, replicas=replicas))
    assert claim.rule(claim.bundle_of(offer, 0.0), "fence", POLICY, cold=False).next == further


def test_a_yield_is_void_only_by_the_arbiters_word() -> None:
    """S3: neither an open claim nor a peer that won lets the yielded node write again."""
    world = whole_pair()
    now = world.nodes["B"].local()
    guard = guard_of(world, "B")
    guard = replace(guard, memory=replace(guard.memory, promise=Promise("y1", 1, None, False), suspended=True))
    for state in ("open", "winner-peer"):
        held, effects = run(guard, Heard("arbiter", NonceIs("x", "y1", state)), now)
        assert not of(effects, ResumeWrites)
        assert held.memory.promise is not None
    _, effects = run(guard, Heard("arbiter", NonceIs("x", "y2", "closed-without-winner")), now)
    assert not of(effects, ResumeWrites)
    for state in ("closed-without-winner", "winner-you", "era-closed"):
        free, effects = run(guard, Heard("arbiter", NonceIs("x", "y1", state)), now)
        assert of(effects, ResumeWrites)
        assert free.memory.promise is None
        assert free.memory.suspended, "not forgotten before it was read back"
        assert run(free, Resumed(False), now)[0].memory.suspended
        assert not run(free, Resumed(True), now)[0].memory.suspended


def test_a_late_question_does_not_replace_a_promise_that_is_counted_on() -> None:
    """S3: the Ask of an older claim arrives after the yield to the newer one; the newer promise stands."""
    world = whole_pair()
    now = world.nodes["B"].local()
    guard = guard_of(world, "B")
    guard = replace(guard, memory=replace(guard.memory, promise=Promise("new", 1, None, False), suspended=True))
    after_it, effects = run(guard, Heard("arbiter", Ask("old", "A", "alone", want_yield=True)), now)
    assert after_it.memory.promise == guard.memory.promise
    assert {effect.nonce for effect in of(effects, SuspendWrites)} <= {"new"}
    assert [m.message.yielded for m in of(effects, Send) if isinstance(m.message, Answer)] == [False]


def test_a_cut_primary_is_never_resumed_by_a_void_promise() -> None:
    """S3: `resume-io` would also thaw what fencing froze: it waits for its handler's right."""
    world = frozen_primary()
    now = world.nodes["A"].local()
    guard = guard_of(world, "A")
    guard = replace(guard, memory=replace(guard.memory, promise=Promise("y1", 1, None, False), suspended=True))
    _, effects = run(guard, Heard("arbiter", NonceIs("x", "y1", "closed-without-winner")), now)
    assert not of(effects, ResumeWrites)


def test_a_yielded_node_claims_nothing() -> None:
    """S1: while the promise stands there is no claim."""
    world = whole_pair()
    guard = guard_of(world, "B")
    guard = replace(guard, memory=replace(guard.memory, promise=Promise("y1", 1, None, False)))
    assert obstacle(Turn(guard, world.nodes["B"].local()), "alone")[0] == "yielded"


def test_a_fresh_guard_is_barred_until_it_has_read_the_register() -> None:
    """Guard start: no claim before the arbiter has answered."""
    world = whole_pair()
    guard = replace(guard_of(world, "B"), ack=None, acked=None)
    assert obstacle(Turn(guard, world.nodes["B"].local()), "alone") is not None
    after_it, _ = run(guard, Tick(), world.nodes["B"].local())
    assert after_it.attempt is None


class TestRegister:
    """The register's own rules."""

    none = Register(4, None, (), None, 7, "A")
    ours = Register(4, "A", ("alone",), "verdict", 8, "A")

    def test_a_stale_version_writes_nothing(self) -> None:
        """Law 2."""
        for version in (6, 8):
            assert commit(self.none, version=version, winner="A", purpose="fence", basis="verdict") is None
            assert end_era(replace(self.ours, version=7), version=version, by="A", hand_back=False) is None

    def test_the_winner_of_an_era_never_changes(self) -> None:
        """S1, S3 (law 1)."""
        assert commit(self.ours, version=8, winner="B", purpose="fence", basis="verdict") is None

    def test_a_reconfirmation_adds_its_use_and_raises_the_version(self) -> None:
        """A hand-back sent before it comes too late."""
        again = commit(self.ours, version=8, winner="A", purpose="alone", basis="verdict")
        more = commit(self.ours, version=8, winner="A", purpose="fence", basis="verdict")
        assert (again.version, more.version) == (9, 9)
        assert more.used == ("alone", "fence")

    def test_only_the_winner_ends_an_era_and_a_persons_win_is_never_handed_back(self) -> None:
        """Law 3."""
        assert end_era(self.ours, version=8, by="B", hand_back=False) is None
        assert end_era(self.none, version=7, by="A", hand_back=False) is None
        person = replace(self.ours, basis="person")
        assert end_era(person, version=8, by="A", hand_back=True) is None
        assert end_era(person, version=8, by="A", hand_back=False).era == 5


@pytest.mark.parametrize(("later", "codes"), [(0, [4]), (1, [])])
def test_a_right_is_for_the_disconnection_that_its_claim_was_made_in(later, codes) -> None:
    """S3: replication came back and broke again under the claim: what it was judged on is over."""
    world = frozen_primary()
    now = world.nodes["A"].local()
    guard = guard_of(world, "A")
    guard = committed(guard, "alone", guard.handlers[0].id, now, 0.5)
    guard = replace(
        guard,
        memory=replace(guard.memory, inhibits={}, holding=False),
        halves=replace(guard.halves, connects=guard.halves.connects + later),
    )
    _, effects = run(guard, Heard("arbiter", Won("n1", 1, 2, "alone")), now)
    assert [e.code for e in of(effects, AnswerHandler)] == codes


def test_who_switched_over_does_not_sit_any_more() -> None:
    """S5: under a hold the sitting primary may go on alone; a node that is secondary by now would be promoted."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    assert guard.memory.session.primary
    roles = tuple(replace(r, role=Role.SECONDARY) for r in guard.volumes.replicas)
    after_it, _ = run(guard, SawVolumes(replace(guard.volumes, replicas=roles)), now)
    assert not sitting(after_it)
    cut = tuple(replace(r, role=Role.SECONDARY, link=Link.STANDALONE) for r in guard.volumes.replicas)
    after_it, _ = run(guard, SawVolumes(replace(guard.volumes, replicas=cut)), now)
    assert sitting(after_it), "cut, it was Primary in the attested session all the same"
