"""The candidate's side of a claim, rule by rule: what stops it, what its answers lead to, when it is given up."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from scene import (
    asked,
    done,
    ended,
    of,
    of_a_whole_pair,
    offer,
    offered,
    remembering,
    sent,
    trying,
    with_ack,
    with_register,
    with_replicas,
)

from guard.core import claiming
from guard.core.attesting import evidence
from guard.core.claim import refusing
from guard.core.claiming import _claim, barred, obstacle, peer_unfit
from guard.core.evidence import Disk, Link, Power, Role
from guard.core.instant import after
from guard.core.messages import Claim, Commit, InhibitView
from guard.core.step import Note, Promise, Send
from guard.core.turn import Attempt, Closing, HandlerJob, Turn

INHIBIT = InhibitView("x", "person", "anna", "work", 0.0)


# ------------------------------------------------------------------ what stops a claim

OBSTACLES = {
    "journal": lambda g, now: replace(g, journal_ok=False),
    "store-doubted": lambda g, now: replace(g, store_doubted=True),
    "arbiter-silent": lambda g, now: replace(g, acked=after(now, -2.001)),
    "no-register": lambda g, now: with_ack(g, register=None),
    "peer-won": lambda g, now: with_register(g, winner="A"),
    "yielded": lambda g, now: remembering(g, promise=Promise("y", 1, None, False)),
    "yielding": lambda g, now: replace(g, yielding="y"),
    "closing": lambda g, now: replace(g, closing=Closing("k", 1, "s", 1, now)),
    "no-resource": lambda g, now: replace(g, volumes=replace(g.volumes, replicas=()), stored=None),
    "own-disk": lambda g, now: with_replicas(g, disk=Disk.OUTDATED),
    "no-quorum": lambda g, now: replace(g, members=replace(g.members, votes_three=True, quorate=None)),
    "target-is-member": lambda g, now: replace(g, members=replace(g.members, peer_member=True)),
    "inhibited": lambda g, now: with_ack(g, inhibits=(INHIBIT,)),
    "peer-alive": lambda g, now: with_ack(g, inhibits=(replace(INHIBIT, kind="peer-alive"),)),
    "holding": lambda g, now: remembering(g, holding=True),
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_each_obstacle_stops_a_fence_and_is_named(reason: str) -> None:
    """Step 1 and law 1; the code is what the agent and `status` show."""
    guard, now = asked()
    assert obstacle(Turn(guard, now), "fence") is None
    guard = OBSTACLES[reason](guard, now)
    found = obstacle(Turn(guard, now), "fence")
    assert found is not None
    assert found[0] == reason
    assert obstacle(Turn(replace(guard, ack=None), now), "fence") is not None
    attempting = replace(guard, attempt=Attempt("n", "fence", "a", now))
    if reason not in ("peer-won", "no-register", "no-resource"):
        assert ended(offered(attempting, now)[1]) == reason, "what came since the claim was sent stops its commit"


def test_what_is_no_obstacle() -> None:
    """Two votes without quorum, a member that says itself that it is unfit, `peer-alive` beside a yield, a disk that is
    only Consistent; and for `alone` the membership."""
    guard, now = asked()
    member = replace(guard, members=replace(guard.members, peer_member=True))
    unfit = with_ack(member, peer_hold=replace(guard.ack.peer_hold, unfit=True))
    alive = OBSTACLES["peer-alive"](guard, now)
    for harmless in (
        replace(guard, members=replace(guard.members, quorate=False)),
        replace(guard, members=replace(guard.members, votes_three=True, quorate=True)),
        replace(guard, members=None),
        with_replicas(guard, disk=Disk.CONSISTENT),
        replace(guard, acked=after(now, -2.0)),
        unfit,
    ):
        assert obstacle(Turn(harmless, now), "fence") is None
    assert obstacle(Turn(member, now), "alone") is None
    for kind, yielding in product(("peer-alive", "person"), (True, False)):
        inhibited = with_ack(alive, inhibits=(replace(INHIBIT, kind=kind),))
        found = obstacle(Turn(inhibited, now), "fence", yielding=yielding)
        assert (found is None) is (kind == "peer-alive" and yielding)


def test_an_obstacle_is_asked_for_as_no_cold_start_and_no_release_unless_said() -> None:
    """Both go past what stops an ordinary claim to run alone; a fence is stopped also by what has ended."""
    guard, now = asked()
    guard = with_replicas(guard, role=Role.SECONDARY)
    alive, held = OBSTACLES["peer-alive"](guard, now), OBSTACLES["holding"](guard, now)
    assert (obstacle(Turn(alive, now), "alone") or ("",))[0] == "peer-alive"
    assert obstacle(Turn(alive, now), "alone", cold=True) is None
    assert (obstacle(Turn(held, now), "alone") or ("",))[0] == "holding"
    assert obstacle(Turn(held, now), "alone", releasing=True) is None
    over = with_ack(guard, inhibits=(replace(INHIBIT, ended=True),))
    quiet = replace(over, policy=replace(guard.policy, settle_s=1.0))
    assert obstacle(Turn(quiet, now), "alone") is None
    assert (obstacle(Turn(quiet, now), "fence") or ("",))[0] == "inhibited"


def test_a_cold_start_is_judged_by_metadata_read_before_drbd_is_up() -> None:
    """Down, the kernel says nothing of the disk; any other claim needs what it says."""
    guard, now = asked()
    down = replace(with_replicas(guard, link=Link.DOWN, disk=Disk.UNKNOWN), stored=guard.volumes)
    assert (obstacle(Turn(down, now), "alone") or ("",))[0] == "own-disk"
    assert obstacle(Turn(down, now), "alone", cold=True) is None


def test_a_peer_is_unfit_by_its_own_fresh_word_only() -> None:
    """Heard within 2 s, by an arbiter that answers."""
    guard, now = asked()
    unfit = with_ack(guard, peer_hold=replace(guard.ack.peer_hold, unfit=True), peer_heard_s=2.0)
    assert peer_unfit(Turn(unfit, now))
    for other in (
        guard,
        with_ack(unfit, peer_heard_s=2.001),
        with_ack(unfit, peer_heard_s=None),
        with_ack(unfit, peer_hold=None),
        replace(unfit, ack=None),
        replace(unfit, acked=after(now, -2.001)),
    ):
        assert not peer_unfit(Turn(other, now))


@pytest.mark.parametrize(("primary", "sits", "cold", "releasing"), [*product((True, False), repeat=4)])
def test_while_a_hold_is_released_only_who_goes_on_may_run_alone(primary, sits, cold, releasing) -> None:
    """S5: a primary, or who was it in the attested session, promotes nobody; a cold start and the release may."""
    guard, now = of_a_whole_pair("B")
    guard = with_replicas(guard, role=Role.PRIMARY if primary else Role.SECONDARY)
    guard = remembering(guard, holding=True, session=replace(guard.memory.session, primary=sits))
    found = claiming.inhibited(Turn(guard, now), "alone", cold=cold, releasing=releasing)
    assert found == (None if primary or sits or cold or releasing else ("holding", found[1]))
    assert claiming.inhibited(Turn(guard, now), "fence", cold=cold, releasing=releasing)[0] == "holding"


@pytest.mark.parametrize(("kind", "purpose"), [*product(("person", "disturbance", "peer-alive"), ("fence", "alone"))])
def test_a_candidate_asks_the_arbiters_own_rule_of_its_list(kind: str, purpose: str) -> None:
    """With what it knows of itself: whether it sat, since when the session is lost, how quiet its network is."""
    guard, now = of_a_whole_pair("B")
    guard = with_replicas(guard, link=Link.CONNECTING)
    quiet_s = guard.network.quiet_for_s(now)
    yes_no = (True, False)
    for over, sits, cold, lost_s, settle_s in product(yes_no, yes_no, yes_no, (29.0, 30.0), (1.0, 60.0)):
        view = replace(INHIBIT, kind=kind, ended=over)
        held = with_ack(guard, inhibits=(view,))
        held = replace(held, lost_at=after(now, -lost_s), policy=replace(held.policy, settle_s=settle_s))
        held = remembering(held, session=replace(held.memory.session, primary=sits))
        rule = refusing(
            (view,), purpose, sitting=sits, cold=cold, lost_for_s=lost_s, quiet_for_s=quiet_s, policy=held.policy
        )
        found = claiming.inhibited(Turn(held, now), purpose, cold=cold, releasing=False)
        assert found == (None if rule is None else (found[0], "anna: work"))


def test_a_guard_is_barred_unless_it_knows_that_the_peer_did_not_win() -> None:
    """Not read is not known."""
    guard, _ = asked()
    for changed, stands in (
        (with_register(guard, winner="A"), True),
        (with_ack(guard, register=None), True),
        (replace(guard, ack=None), True),
        (guard, False),
        (with_register(guard, winner="B"), False),
    ):
        assert barred(changed) is stands


@pytest.mark.parametrize(
    ("link", "lost_s", "said_s"),
    [(Link.CONNECTING, 7.0, 7.0), (Link.CONNECTING, None, 0.0), (Link.CONNECTED, 7.0, 0.0)],
)
def test_a_claim_states_how_long_replication_has_been_lost(link: Link, lost_s: float | None, said_s: float) -> None:
    """Nothing while it stands, or where it was never lost; and it states what it was asked with."""
    guard, now = asked()
    guard = with_replicas(replace(guard, lost_at=None if lost_s is None else after(now, -lost_s)), link=link)
    turn = Turn(guard, now)
    assert _claim(turn, "n", "fence") == Claim("n", "fence", evidence(turn), "?", lost_for_s=said_s)
    flags = {"gather": True, "want_yield": True, "cold": True, "off_twice": True}
    told = _claim(turn, "n", "alone", **flags)
    assert told == Claim("n", "alone", evidence(turn, cold=True), "?", lost_for_s=said_s, **flags)


# ------------------------------------------------------------------ the offer


@pytest.mark.parametrize("purpose", ["fence", "alone"])
@pytest.mark.parametrize("horizon_s", [75.0, None])
def test_a_good_offer_is_committed_once_it_is_ready(purpose: str, horizon_s: float | None) -> None:
    """At the register's version, with the device and its H for a fence; for T_fire at most, and once."""
    guard, now = trying(purpose=purpose)
    guard = replace(guard, horizon_s=horizon_s, policy=replace(guard.policy, fire_s=2.5))
    waits, effects = offered(guard, now, ready=False)
    assert (waits.attempt.committed, of(effects, Send)) == (None, [])
    won, effects = offered(guard, now)
    fence = purpose == "fence"
    [send] = of(effects, Send)
    commit = Commit(
        "n", 1, purpose, "A" if fence else None, horizon_s if fence else None, unbounded=fence and horizon_s is None
    )
    assert (send.to, send.message, send.expires_s) == ("arbiter", commit, guard.policy.fire_s)
    assert won.attempt.committed == now
    turn = Turn(won, now)
    claiming.consider(turn, ready=True)
    assert turn.guard is won
    assert won.last_verdict["nonce"] == "n"
    told = {
        "purpose": purpose, "verdict": "GRANT", "row": "V32", "reason": "all-acknowledged-is-here", "next": "commit",
        "fresh": "silent", "yielded": False, "at": now, "era": 1, "version": 1,
    }  # fmt: skip
    assert {key: won.last_verdict[key] for key in told} == told
    said = offer(guard, now)
    assert "all that was acknowledged is here" in won.last_verdict["text"]
    for key in ("candidate", "target", "candidate_age_s", "target_age_s"):
        assert won.last_verdict[key] == getattr(said, key)


WINNER = {"winner": "B", "basis": "verdict", "used": ("fence",)}
DROPPED = {
    "peer-won": {"register": {"winner": "A"}},
    "silent-gate-off": {"theirs": {"gate": False}},
    "living-target": {"fresh": "live", "register": WINNER},
    "own-disk-discontinuous": {"mine": {"continuous": False}, "register": WINNER},
    "device-contradicts": {"fresh": "live", "target_yielded": True, "register": WINNER},
}


@pytest.mark.parametrize("reason", DROPPED)
def test_an_offer_that_grants_nothing_ends_the_claim(reason: str) -> None:
    """The same rules as the arbiter's, on the candidate's side; the next try comes after a drawn while."""
    guard, now = trying()
    off = replace(guard.agents[0], power=Power.OFF)
    guard = replace(guard, agents=(off if reason == "device-contradicts" else guard.agents[0],))
    after_it, effects = offered(guard, now, **DROPPED[reason])
    assert (after_it.attempt, ended(effects), sent(effects, Commit)) == (None, reason, [])
    least = guard.policy.handler_retry_s_min
    assert after(now, least) <= after_it.agents[0].retry < after(now, 2 * least)
    assert after_it.agents[0].said


def test_a_win_is_used_again_without_a_verdict() -> None:
    """The decision stands: a silent target, or one that yielded; nothing is recorded as a verdict."""
    guard, now = trying()
    for more in ({}, {"fresh": "live", "target_yielded": True}):
        after_it, effects = offered(guard, now, register=WINNER, **more)
        assert len(sent(effects, Commit)) == 1
        assert after_it.last_verdict == guard.last_verdict
    member = replace(offer(guard, now), candidate=replace(offer(guard, now).candidate, peer_member=True))
    _, effects = offered(guard, now, register=WINNER, candidate=member.candidate)
    assert ended(effects) == "target-is-member"


def test_an_offer_stands_for_its_window() -> None:
    """And not a moment longer."""
    guard, now = trying()
    for seconds, good in ((2.0, True), (2.001, False)):
        turn = Turn(
            replace(guard, attempt=replace(guard.attempt, offer=offer(guard, now), offered=after(now, -seconds))), now
        )
        claiming.consider(turn, ready=True)
        assert len(sent(turn.step().effects, Commit)) == good
        assert ended(turn.step().effects) == (None if good else "offer-passed")


def test_an_offer_is_for_the_claim_that_it_names_and_from_the_memory_that_is_known() -> None:
    """S6: another store, or an older version, is believed by nobody; a second offer changes nothing."""
    guard, now = trying(purpose="alone", job=None)
    good = offer(guard, now)
    turn = Turn(guard, now)
    claiming.heard_offer(turn, good)
    assert (turn.guard.attempt.offer, turn.guard.attempt.offered) == (good, now)
    assert len(sent(turn.step().effects, Commit)) == 1
    kept = turn.guard
    claiming.heard_offer(turn, replace(good, window_s=9.0))
    assert turn.guard is kept
    for spoilt, reason in (
        (replace(good, nonce="old"), None),
        (replace(good, register=replace(good.register, store_id="s2")), "store-doubted"),
        (replace(good, register=replace(good.register, version=0)), "store-doubted"),
    ):
        after_it, effects = done(guard, now, claiming.heard_offer, spoilt)
        assert (ended(effects), sent(effects, Commit)) == (reason, [])
        assert (after_it.attempt is None) is (reason is not None)
    assert done(replace(guard, attempt=None), now, claiming.heard_offer, good)[1] == ()


@pytest.mark.parametrize(("purpose", "seen", "commits"), [("alone", True, 1), ("alone", False, 0), ("fence", True, 0)])
def test_a_fence_waits_for_its_preflight_and_a_handler_for_a_look(purpose: str, seen: bool, commits: int) -> None:
    """An offer alone commits only what has nothing left to wait for."""
    guard, now = trying(purpose=purpose, job="h")
    job = HandlerJob("h", "r0", after(now, -1.0), 1)
    volumes = replace(guard.volumes, at=after(now, -0.5 if seen else -1.0))
    guard = replace(guard, handlers=(job,), volumes=volumes)
    assert len(sent(done(guard, now, claiming.heard_offer, offer(guard, now))[1], Commit)) == commits


@pytest.mark.parametrize(
    ("at_s", "resource", "link", "seen"),
    [
        (0.001, "r0", Link.DOWN, True),
        (0.0, "r0", Link.DOWN, False),
        (0.001, "r1", Link.DOWN, False),
        (0.001, "r0", Link.UNKNOWN, False),
    ],
)
def test_a_look_is_one_at_its_own_resource_after_the_question(
    at_s: float, resource: str, link: Link, seen: bool
) -> None:
    """And one that could read the link."""
    guard, now = asked()
    guard = with_replicas(replace(guard, volumes=replace(guard.volumes, at=after(now, at_s))), link=link)
    assert claiming.seen_since(guard, HandlerJob("h", resource, now, 1)) is seen
    assert not claiming.seen_since(replace(guard, volumes=None), HandlerJob("h", resource, now, 1))


def test_a_verdict_is_recorded_once_an_offer() -> None:
    """As of its first moment, however often the offer is looked at until all is ready."""
    guard, now = trying()
    first, effects = offered(guard, now, ready=False)
    assert [n.event for n in of(effects, Note)] == ["verdict"]
    later, effects = done(first, after(now, 0.5), lambda turn: claiming.consider(turn, ready=False))
    assert (later.last_verdict["at"], of(effects, Note)) == (now, [])


def test_a_cold_claim_is_judged_and_let_through_as_one() -> None:
    """V33 for a disk that is only Consistent; and while a hold is released it promotes nobody else."""
    for cold in (True, False):
        guard, now = trying(purpose="alone", job=None, cold=cold)
        guard = remembering(with_replicas(guard, role=Role.SECONDARY), holding=True)
        made = offer(guard, now, mine={"disk": "C"})
        _, effects = offered(guard, now, mine={"disk": "C"}, candidate=replace(made.candidate, cold=True))
        assert len(sent(effects, Commit)) == cold
        assert ended(effects) == (None if cold else "cold-wait")


@pytest.mark.parametrize(("releasing", "commits"), [(True, 1), (False, 0)])
def test_the_release_is_not_stopped_by_its_own_hold(releasing: bool, commits: int) -> None:
    """Any other claim to run alone is."""
    guard, now = trying(purpose="alone", job=None, releasing=releasing)
    guard = remembering(with_replicas(guard, role=Role.SECONDARY), holding=True)
    assert len(sent(offered(guard, now)[1], Commit)) == commits


@pytest.mark.parametrize(("yielded", "commits"), [(True, 1), (False, 0)])
def test_a_yield_in_the_offer_ends_peer_alive_before_the_list_says_so(yielded: bool, commits: int) -> None:
    """What this guard heard last of the list may be older."""
    guard, now = trying()
    guard = with_ack(guard, inhibits=(replace(INHIBIT, kind="peer-alive"),))
    assert len(sent(offered(guard, now, target_yielded=yielded)[1], Commit)) == commits


@pytest.mark.parametrize(("basis", "commits"), [("person", 1), ("yield", 1), ("verdict", 0)])
def test_a_win_over_a_bound_target_asks_for_no_gate(basis: str, commits: int) -> None:
    """By a person's word or by its own it cannot have written since."""
    guard, now = trying()
    _, effects = offered(guard, now, theirs={"gate": None}, register={**WINNER, "basis": basis})
    assert len(sent(effects, Commit)) == commits


# ------------------------------------------------------------------ asking for a yield

LIVING = {"fresh": "live", "theirs": {"role": "secondary"}, "mine": {"age_lo_s": 0.0, "age_hi_s": 1.0}}


@pytest.mark.parametrize("power", [*Power, None])
def test_a_yield_to_a_fence_is_asked_for_beside_a_device_that_reads_on(power: Power | None) -> None:
    """And every 5 s at most; until then the offer is left to pass."""
    guard, now = trying(cold=True, releasing=True)
    guard = replace(guard, agents=(replace(guard.agents[0], power=power),))
    after_it, effects = offered(guard, now, **LIVING)
    claims = sent(effects, Claim)
    if power is Power.OFF:
        assert (claims, after_it.attempt is not None) == ([], True)
        return
    assert [(c.purpose, c.want_yield, c.cold, c.off_twice) for c in claims] == [("fence", True, True, False)] * (
        power is Power.ON
    )
    if power is not Power.ON:
        assert after_it.attempt.offer is not None
        return
    asked_again = after_it.attempt
    assert asked_again == Attempt(
        claims[0].nonce, "fence", "a", now, guard.halves.connects, want_yield=True, cold=True, releasing=True
    )
    for seconds, again in ((4.999, 0), (5.0, 1)):
        at = after(now, seconds)
        later, effects = offered(replace(after_it, attempt=guard.attempt, acked=at), at, **LIVING)
        assert len(sent(effects, Claim)) == again
        assert ended(effects) == (None if again else "living-target")
        assert bool(later.agents[0].said) is (not again)
        assert (later.attempt is not None) is bool(again)


def test_a_yield_to_run_alone_is_asked_for_at_once_and_only_once_a_claim() -> None:
    """A claim that asked for it already and got none ends."""
    gateless = {"fresh": "live", "theirs": {"role": "secondary", "gate": False}}
    for cold, releasing in product((True, False), repeat=2):
        guard, now = trying(purpose="alone", job="h", cold=cold, releasing=releasing)
        after_it, effects = offered(guard, now, **gateless)
        [claim] = sent(effects, Claim)
        assert (claim.purpose, claim.want_yield, claim.cold) == ("alone", True, cold)
        assert after_it.attempt == Attempt(
            claim.nonce, "alone", "h", now, guard.halves.connects, want_yield=True, cold=cold, releasing=releasing
        )
    guard, now = trying(purpose="alone", job="h", want_yield=True)
    assert ended(offered(guard, now, **gateless)[1]) == "needs-yield"
