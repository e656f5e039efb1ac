"""What a guard follows of its replication, and what it believes of the arbiter; function by function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import done, intent, of, of_a_whole_pair, remembering, with_ack, with_register, with_replicas

from guard.core import attesting
from guard.core.attest import Halves, session_id
from guard.core.evidence import Disk, Generations, Link, Role
from guard.core.instant import Instant, after
from guard.core.messages import SessionHalf
from guard.core.step import AnswerPerson, ColdWin, Note, OutdateOwn, SessionKept
from guard.core.turn import AgentJob, Attempt, Closing, Right

GEN = 0x1234_5678_9ABC_DEF0
NAME = session_id("A", "a1", "B", "b1")
LATER = {"attest": Instant(1 << 62), "half": Instant(1 << 62)}  # due in a far future


def connected(**changed):
    """A's guard in a whole pair: its halves named `NAME`, which is attested; no disk ever left UpToDate."""
    guard, now = of_a_whole_pair("A")
    [name] = [r.resource for r in guard.volumes.replicas]
    guard = with_replicas(guard, resource="r0", generations=Generations(GEN | 1, 0), role=Role.PRIMARY)
    kept = SessionKept(NAME, guard.memory.era, {"r0": GEN}, primary=True)
    guard = remembering(guard, session=kept, generations={"r0": GEN}, continuous={"r0": True}, boot_id=guard.boot_id)
    halves = Halves(guard.boot_id, 3, "a1", "b1", True)
    ledgers = {"r0": replace(guard.ledgers[name], resource="r0")}
    return replace(guard, **{"halves": halves, "due": LATER, "ledgers": ledgers, **changed}), now


def look(guard, now, *, gap: bool = False, **changed):
    """(guard, effects) after a look at DRBD that shows its replica so."""
    seen = with_replicas(guard, **changed).volumes
    return done(guard, now, attesting.saw_volumes, replace(seen, at=now, gap=gap))


# ------------------------------------------------------------------ the connection


def test_a_look_that_shows_the_same_changes_nothing() -> None:
    """No half is drawn, nothing is told before it is due."""
    guard, now = connected()
    again, effects = look(guard, now)
    assert replace(again, volumes=guard.volumes) == guard
    assert effects == ()


def test_a_broken_connection_ends_its_session_and_is_told_at_once() -> None:
    """Rule 3; a half is drawn for the next connection only."""
    for link in (Link.CONNECTING, Link.STANDALONE, Link.DOWN, Link.UNKNOWN):
        guard, now = connected()
        broken, effects = look(guard, now, link=link)
        assert broken.halves == Halves(guard.boot_id, 3, None, None, False)
        assert (broken.lost, broken.lost_at) == (NAME, now)
        assert set(broken.due) == {"half"}
        assert [(n.event, n.data["session"]) for n in of(effects, Note)] == [("replication-lost", NAME)]
        assert look(broken, after(now, 1.0), link=link)[0].lost_at == now, "it broke once"


def test_a_new_connection_draws_a_half_and_says_it_at_once() -> None:
    """Another one each time; what the peer said before may stand."""
    guard, now = connected(halves=Halves("boot", 3, None, "b2", False), ever_connected=False)
    cut = with_replicas(guard, link=Link.CONNECTING)
    back, _ = look(cut, now, link=Link.CONNECTED)
    assert (back.halves.connects, back.halves.peers, back.halves.echoed, back.ever_connected) == (4, "b2", False, True)
    assert len(back.halves.mine) == 32
    assert set(back.due) == set()
    third, _ = look(with_replicas(back, link=Link.DOWN), now, link=Link.RESYNC)
    assert third.halves.mine != back.halves.mine


def test_a_gap_in_the_events_is_a_break_and_a_new_connection() -> None:
    """It may have broken and come back unseen."""
    guard, now = connected()
    over, _ = look(guard, now, gap=True)
    assert (over.lost, over.lost_at, over.halves.connects) == (NAME, now, 4)
    assert over.halves.session("A", "B") is None
    assert over.due == {}, "both the new half and the loss are told at once"
    cut = with_replicas(guard, link=Link.CONNECTING)
    assert look(cut, now, gap=True, link=Link.CONNECTING)[0].lost is None, "nothing was there to break"


def test_a_guard_that_starts_cut_counts_the_loss_from_its_first_look() -> None:
    """It may go on alone under a hold 30 s after the loss, of which it knows no earlier moment."""
    for link, lost in ((Link.CONNECTING, True), (Link.CONNECTED, False)):
        guard, now = connected()
        seen = with_replicas(guard, link=link).volumes
        first, _ = done(replace(guard, volumes=None, lost_at=None), now, attesting.saw_volumes, seen)
        assert first.lost_at == (now if lost else None)
        assert "attest" not in first.due


@pytest.mark.parametrize(
    ("named", "kept", "lost"),
    [
        pytest.param(NAME, NAME, NAME, id="attested"),
        pytest.param(NAME, "older", "older", id="not attested yet: the one before it counts"),
        pytest.param(None, "older", "older", id="never named"),
        pytest.param(NAME, None, NAME, id="the first one"),
        pytest.param(None, None, None, id="none at all"),
    ],
)
def test_a_session_that_was_never_attested_ties_nothing(named, kept, lost) -> None:
    """The attested one before it is what a claim names as lost."""
    guard, now = connected()
    guard = remembering(guard, session=None if kept is None else replace(guard.memory.session, name=kept))
    guard = replace(guard, halves=replace(guard.halves, echoed=named is not None))
    assert look(guard, now, link=Link.DOWN)[0].lost == lost


def test_who_switches_over_while_connected_was_not_primary_any_more() -> None:
    """From there on the peer may be the sitting one; cut, the attested word stands."""
    for link, role, primary in (
        (Link.CONNECTED, Role.SECONDARY, False),
        (Link.CONNECTED, Role.PRIMARY, True),
        (Link.CONNECTING, Role.SECONDARY, True),
    ):
        guard, now = connected()
        assert look(guard, now, link=link, role=role)[0].memory.session.primary is primary


@pytest.mark.parametrize("disk", Disk)
@pytest.mark.parametrize("link", [Link.CONNECTED, Link.CONNECTING, Link.DOWN])
def test_a_disk_is_continuous_until_it_is_known_to_have_left_up_to_date(disk: Disk, link: Link) -> None:
    """E3. A look that failed, and a resource that is down, say nothing; a return to UpToDate mends nothing."""
    guard, now = connected()
    left = disk not in (Disk.UP_TO_DATE, Disk.UNKNOWN) and link is not Link.DOWN
    seen, _ = look(guard, now, disk=disk, link=link)
    assert seen.memory.continuous == {"r0": not left}
    assert look(seen, now, disk=Disk.UP_TO_DATE, link=link)[0].memory.continuous == {"r0": not left}


@pytest.mark.parametrize("disk", Disk)
def test_only_the_generation_of_a_good_disk_is_remembered(disk: Disk) -> None:
    """After a restart it shows that nobody wrote here meanwhile; bit 0 is the role."""
    guard, now = connected()
    guard = remembering(guard, generations={"r0": 4, "r9": 6})
    seen, _ = look(guard, now, disk=disk, generations=Generations(9, 0))
    assert seen.memory.generations == {"r0": 8 if disk is Disk.UP_TO_DATE else 4, "r9": 6}
    assert look(guard, now, disk=disk, generations=None)[0].memory.generations == {"r0": 4, "r9": 6}


@pytest.mark.parametrize("disk", Disk)
@pytest.mark.parametrize("link", [Link.CONNECTING, Link.DOWN])
def test_a_cold_win_counts_until_its_disk_has_left(disk: Disk, link: Link) -> None:
    """For each resource by itself."""
    guard, now = connected()
    won = ColdWin(guard.boot_id, 1, {"r0": GEN, "r1": 8})
    guard = remembering(with_replicas(guard, link=Link.CONNECTING), cold_win=won)
    gone = disk in (Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS) and link is not Link.DOWN
    seen, _ = look(guard, now, disk=disk, link=link)
    assert seen.memory.cold_win == (replace(won, generations={"r1": 8}) if gone else won)
    assert look(remembering(guard, cold_win=None), now, disk=disk, link=link)[0].memory.cold_win is None
    other = remembering(guard, cold_win=replace(won, generations={"r1": 8}))
    assert look(other, now, disk=disk, link=link)[0].memory.cold_win == other.memory.cold_win


def test_a_half_is_answered_and_attested_at_once() -> None:
    """What was known before is not said again."""
    guard, now = connected(halves=Halves("boot", 3, "a1", None, False))
    heard, _ = done(guard, now, attesting.heard_half, SessionHalf("boot-B", 1, "b1", "a1"))
    assert heard.halves.session("A", "B") == NAME
    assert heard.due == {}
    again = replace(heard, due=LATER)
    assert done(again, now, attesting.heard_half, SessionHalf("boot-B", 1, "b1", "a1")) == (again, ())


# ------------------------------------------------------------------ a restart, a new store


@pytest.mark.parametrize(
    ("changed", "stored", "counts"),
    [
        pytest.param({}, {}, True, id="as stored"),
        pytest.param({"generations": Generations(GEN, 0)}, {}, True, id="another role, the same data"),
        pytest.param({"generations": Generations(8, 0)}, {}, False, id="another generation"),
        pytest.param({"generations": None}, {}, False, id="a generation that cannot be read"),
        pytest.param({"disk": Disk.CONSISTENT}, {}, False, id="another disk"),
        pytest.param({"disk": Disk.UNKNOWN}, {}, False, id="a disk that cannot be read"),
        pytest.param({}, {"boot_id": "another boot"}, False, id="another boot"),
    ],
)
@pytest.mark.parametrize("other", ["none", "good", "bad"])
def test_the_stored_session_counts_after_a_restart_only_if_all_is_as_stored(changed, stored, counts, other) -> None:
    """E3, S2: boot, generation and disk of every resource. Else it keeps its name, and proves nothing."""
    guard, now = connected()
    guard = remembering(with_replicas(guard, **changed), **stored)
    [r0] = guard.volumes.replicas
    before = {"r0": GEN}
    if other != "none":
        r1 = replace(r0, resource="r1", disk=Disk.UP_TO_DATE, generations=Generations(16, 0))
        guard = replace(guard, volumes=replace(guard.volumes, replicas=(r0, r1)))
        before["r1"] = 16 if other == "good" else 24
    counts = counts and other != "bad"
    kept, effects = done(guard, now, attesting.kept_after_restart, guard.volumes, before)
    assert kept.memory.session == replace(guard.memory.session, primary=counts)
    assert kept.memory.continuous == ({"r0": True} if counts else {})
    assert [n.event for n in of(effects, Note)] == ["session-forgotten"] * (not counts)
    bare = remembering(guard, session=None)
    assert done(bare, now, attesting.kept_after_restart, guard.volumes, before) == (bare, ())


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({}, True),
        ({"members": None}, False),
        ({"attempt": Attempt("n", "alone", None, Instant(0))}, False),
        ({"right": Right("alone", 1, 2, Instant(0), 3)}, False),
        ({"agents": ("wait",)}, True),
        ({"agents": ("wait", "armed")}, False),
        ({"agents": ("reading",)}, False),
        ({"memory": "undrained"}, False),
        ({"memory": "drained"}, True),
    ],
)
def test_a_new_store_is_believed_by_a_persons_word_while_nothing_is_under_way(changed, accepted: bool) -> None:
    """S6: all that is of the old store is forgotten, but what may still act of a shot; else nothing is."""
    guard, now = connected(store_doubted=True)
    guard = remembering(guard, used=("alone",), confirmed_off=True, consented=True, cold_win=ColdWin("b", 1, {}))
    if "agents" in changed:
        job = AgentJob("a", "off", "B", now, after(now, 60.0))
        changed = {"agents": tuple(replace(job, id=stage, stage=stage) for stage in changed["agents"])}
    if "memory" in changed:
        over = after(now, 1.0 if changed["memory"] == "undrained" else -1.0)
        changed = {"memory": replace(guard.memory, intents=(intent(now, spawned=True, drained=over),))}
    guard = replace(guard, **changed)
    after_it, effects = done(guard, now, attesting.accept_store, "p")
    [answer] = of(effects, AnswerPerson)
    assert (answer.id, answer.outcome) == ("p", "accepted" if accepted else "not-whole")
    assert answer.text
    if not accepted:
        assert after_it == guard
        return
    forgotten = {"store_id": None, "version": 0, "era": 0, "session": None, "continuous": {}, "used": ()}
    forgotten |= {"confirmed_off": False, "consented": False, "cold_win": None}
    assert after_it.memory == replace(guard.memory, **forgotten)
    assert (after_it.store_doubted, after_it.ack, after_it.acked) == (False, None, None)


# ------------------------------------------------------------------ the arbiter's answer


def heard(guard, now, ago_s: float = 0.1, **changed):
    """(guard, effects) after an answer to the beat of a moment ago."""
    ack = with_ack(guard, **changed).ack
    return done(guard, now, attesting.heard_ack, replace(ack, seq=int(after(now, -ago_s))))


def asks(guard):
    """It remembers what the register says, and met it."""
    register = guard.ack.register
    memory = {"store_id": register.store_id, "version": register.version, "era": register.era}
    return replace(remembering(guard, **memory, since_era=register.era), met=register.version)


def test_an_answer_is_as_old_as_its_beat() -> None:
    """One that was overtaken, or that comes from the future, is none."""
    guard, now = connected()
    guard = asks(replace(guard, ack=replace(guard.ack, seq=int(after(now, -1.0)))))
    for ago_s, taken in ((0.0, True), (0.5, True), (1.0, True), (1.001, False), (-0.001, False)):
        got, _ = heard(guard, now, ago_s)
        assert (got.ack.seq, got.acked) == (
            (int(after(now, -ago_s)), after(now, -ago_s)) if taken else (guard.ack.seq, guard.acked)
        )


@pytest.mark.parametrize(
    ("register", "doubt"),
    [
        ({}, None),
        ({"version": 9}, None),
        ({"store_id": "another"}, "another store"),
        ({"version": 6}, "an older register"),
        (None, "a store without this pair's register"),
    ],
)
def test_another_memory_of_the_arbiter_is_believed_by_nobody(register, doubt: str | None) -> None:
    """S6: the right ends, a person is told once and until it is over; nothing of that answer is taken."""
    guard, now = connected(right=Right("alone", 1, 2, Instant(0), 3), version_at=None)
    guard = asks(with_register(guard, version=7))
    told = None if register is None else replace(guard.ack.register, **register)
    got, effects = heard(guard, now, register=told, peer_heard_s=1.5)
    assert got.store_doubted is (doubt is not None)
    if doubt is None:
        assert (got.right, got.ack.peer_heard_s) == (guard.right, 1.5)
        doubted = replace(guard, store_doubted=True, paged=frozenset({"store-doubted", "no-register", "person"}))
        got, _ = heard(doubted, now, register=told)
        assert (got.store_doubted, got.paged) == (False, {"person"})
        return
    assert (got.right, got.ack, got.memory) == (None, guard.ack, guard.memory)
    [note] = of(effects, Note)
    assert (note.event, note.page, note.data["known"]) == ("store-doubted", True, 7)
    assert f"answers from {doubt}:" in note.text


def test_an_older_register_in_an_answer_that_was_under_way_is_no_doubt() -> None:
    """It was given before the arbiter wrote what this guard knows by now."""
    guard, now = connected()
    guard = asks(with_register(guard, version=7))
    for known_ago_s, doubted in ((0.1, False), (0.05, False), (0.101, True), (None, True)):
        known = replace(guard, version_at=None if known_ago_s is None else after(now, -known_ago_s))
        got, _ = heard(known, now, register=replace(guard.ack.register, version=6))
        assert got.store_doubted is doubted
        assert got.memory == known.memory


def test_a_first_guard_believes_the_first_register_and_misses_one_that_is_not_there() -> None:
    """A person is told until `init` was run."""
    guard, now = connected(met=None)
    guard = remembering(guard, store_id=None, version=0, era=0, since_era=None)
    missing, effects = heard(guard, now, register=None)
    assert [(n.event, n.page) for n in of(effects, Note)] == [("no-register", True)]
    assert (missing.acked, missing.memory) == (after(now, -0.1), guard.memory)
    found, _ = heard(replace(missing, paged=frozenset({"no-register"})), after(now, 1.0), register=guard.ack.register)
    register = guard.ack.register
    memory = found.memory
    assert (memory.store_id, memory.version, memory.era) == (register.store_id, register.version, register.era)
    assert (memory.since_era, found.met, found.version_at) == (register.era, register.version, after(now, 1.0))
    assert "no-register" not in found.paged


def test_the_moment_since_when_the_peer_is_heard_is_kept() -> None:
    """Heard within 2 s, by the arbiter's own clock; None once it is not."""
    guard, now = connected(peer_up_at=None)
    guard = asks(guard)
    up, _ = heard(guard, now, peer_heard_s=guard.policy.heard_s)
    assert up.peer_up_at == now
    still, _ = heard(up, after(now, 1.0), peer_heard_s=0.0)
    assert still.peer_up_at == now
    for silent in (guard.policy.heard_s + 0.001, None):
        assert heard(still, after(now, 2.0), peer_heard_s=silent)[0].peer_up_at is None


def test_a_new_era_begins_with_nothing_used_and_no_right() -> None:
    """What may still act of a shot goes along; what was done in the old era is of no use in the new one."""
    guard, now = connected(right=Right("alone", 1, 2, Instant(0), 3), closing=Closing("n", 1, NAME, 3, Instant(0)))
    guard = replace(asks(guard), due={**LATER, "unbar": Instant(1 << 62)})
    shots = (
        intent(now, id="over", spawned=True, drained=now),
        intent(now, id="not sent"),
        intent(now, id="acts", spawned=True, drained=after(now, 0.001)),
        intent(now, id="no end", spawned=True, drained=None),
    )
    done_in_it = {"used": ("alone",), "confirmed_off": True, "owes_on": True, "consented": True}
    guard = remembering(guard, intents=shots, cold_win=ColdWin("b", 1, {}), **done_in_it)
    register = replace(guard.ack.register, version=guard.memory.version + 1)
    same, _ = heard(guard, now, register=register)
    assert (same.right, same.closing, same.memory.intents, same.memory.used) == (
        guard.right, guard.closing, shots, ("alone",)
    )  # fmt: skip
    register = replace(register, era=guard.memory.era + 1)
    new, _ = heard(guard, now, register=register, attested=None)
    memory = new.memory
    assert [i.id for i in memory.intents] == ["acts", "no end"]
    assert (memory.used, memory.confirmed_off, memory.owes_on, memory.consented) == ((), False, False, False)
    assert (memory.cold_win, memory.era, memory.version) == (None, register.era, register.version)
    assert (new.right, new.closing) == (None, None)
    assert set(new.due) == {"half"}, "the constraint is taken back, and the new era attested, at once"


@pytest.mark.parametrize(("named", "moves"), [(NAME, True), ("another", False), (None, False)])
def test_a_hand_back_takes_the_attested_session_along(named: str | None, moves: bool) -> None:
    """The arbiter names it in the new era; a session that it does not name is of the old one."""
    guard, now = connected(halves=Halves("boot", 4, None, None, False))
    guard = asks(guard)
    era = guard.memory.era
    register = replace(guard.ack.register, era=era + 1, version=guard.memory.version + 1)
    got, _ = heard(guard, now, register=register, attested=named)
    assert got.memory.session.era == (era + 1 if moves else era)


@pytest.mark.parametrize(("version", "left"), [(1, ["lives", "known"]), (2, ["before", "lives", "known"])])
def test_a_register_as_it_was_made_shows_that_no_shot_was_fired(version: int, left: list[str]) -> None:
    """What a lost memory assumed is over then; but one that is seen to live is of an older register."""
    guard, now = connected(stuck=frozenset({"lives"}))
    guard = asks(with_register(guard, version=version))
    shots = tuple(intent(now, id=i, era=e, spawned=True) for i, e in (("before", 0), ("lives", 0), ("known", 1)))
    got, _ = heard(remembering(guard, intents=shots), now)
    assert [i.id for i in got.memory.intents] == left


def test_a_loser_outdates_a_disk_that_passes_for_good_every_5_s() -> None:
    """Not a primary's, and only where the arbiter says so."""
    guard, now = connected()
    cut = asks(with_replicas(guard, role=Role.SECONDARY, link=Link.CONNECTING))
    first, effects = heard(cut, now, outdate=True)
    assert of(effects, OutdateOwn) == [OutdateOwn()]
    for seconds, again in ((4.999, 0), (5.0, 1)):
        assert len(of(heard(first, after(now, seconds), outdate=True)[1], OutdateOwn)) == again
    assert of(heard(cut, now, outdate=False)[1], OutdateOwn) == []
    assert of(heard(with_replicas(cut, role=Role.PRIMARY), now, outdate=True)[1], OutdateOwn) == []
    assert of(heard(replace(cut, volumes=None), now, outdate=True)[1], OutdateOwn) == []


# ------------------------------------------------------------------ both ends named it


@pytest.mark.parametrize(
    "changed",
    [
        {"attested": None},
        {"attested": "another"},
        {"register": None},
        {"volumes": None},
        {"halves": Halves("boot", 4, "a1", "b1", False)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_session_is_kept_only_as_both_ends_and_the_arbiter_name_it(changed) -> None:
    """S2: with this node's own part; anything less leaves what was attested before."""
    guard, now = connected(boot_id="boot")
    guard = remembering(guard, session=None, continuous={}, boot_id="older")
    good, effects = done(guard, now, attesting._attested, with_ack(guard, attested=NAME).ack)
    assert good.memory.session == SessionKept(NAME, guard.ack.register.era, {"r0": GEN}, primary=True)
    assert (good.memory.continuous, good.memory.boot_id) == ({"r0": True}, "boot")
    assert [(n.event, n.data["session"]) for n in of(effects, Note)] == [("attested", NAME)]
    assert done(good, now, attesting._attested, with_ack(guard, attested=NAME).ack) == (good, ()), "once"
    ours = {k: v for k, v in changed.items() if k in ("volumes", "halves")}
    ack = with_ack(guard, **{"attested": NAME, **{k: v for k, v in changed.items() if k not in ours}}).ack
    worse = replace(guard, **ours)
    assert done(worse, now, attesting._attested, ack) == (worse, ())


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ({}, False),
        ({"name": "older"}, True),
        ({"era": 0}, True),
        ({"primary": False}, True),
        ({"generations": {"r0": 8}}, True),
    ],
)
def test_what_is_attested_anew_is_written_anew(stored, written: bool) -> None:
    """And what is as it was, not: durable writes are not for every beat."""
    guard, now = connected()
    good = guard.memory.session
    guard = remembering(guard, session=replace(good, **stored))
    got, _ = done(guard, now, attesting._attested, with_ack(guard, attested=NAME).ack)
    assert got.memory.session == good
    assert (got != guard) is written
    doubtful = remembering(guard, session=good, continuous={"r0": False})
    got, _ = done(doubtful, now, attesting._attested, with_ack(guard, attested=NAME).ack)
    assert got.memory.continuous == {"r0": True}
    worse = with_replicas(doubtful, disk=Disk.INCONSISTENT, generations=None)
    got, _ = done(worse, now, attesting._attested, with_ack(guard, attested=NAME).ack)
    assert (got.memory.continuous, got.memory.session.generations) == ({"r0": False}, {})
