"""What a guard says of itself, and how often: beats, halves, attests, and its testimony in whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import done, of, remembering, sent, with_ack, with_register, with_replicas
from test_attesting import GEN, NAME, connected

from guard.core import attesting
from guard.core.attest import Halves
from guard.core.attesting import evidence
from guard.core.evidence import Disk, GateFacts, Generations, Link, Role
from guard.core.instant import after
from guard.core.messages import ARBITER, Attest, Beat, SessionHalf
from guard.core.step import ColdWin, Send
from guard.core.turn import Guard, Turn
from guard.core.writes import age as write_age

OPEN_GATE = GateFacts("A", "dont-care", handler_ours=False, on_congestion="pull-ahead")
CLOSED = GateFacts("C", "resource-and-stonith", handler_ours=True, on_congestion="block")


def said(guard: Guard, now) -> list[tuple[str, float, str]]:
    return [(s.to, s.expires_s, s.message.kind) for s in of(done(guard, now, attesting.duties)[1], Send)]


def named(guard: Guard) -> Guard:
    """The peer names the same session."""
    return with_ack(guard, peer_session=NAME)


# ------------------------------------------------------------------ how often


def test_a_beat_comes_before_the_arbiter_calls_this_guard_silent() -> None:
    """Every 0.4 s at most, an eighth earlier on average; one that is late says nothing any more."""
    guard, now = connected()
    guard = replace(named(guard), due={"attest": after(now, 999.0), "half-slow": after(now, 999.0)})
    waits = set()
    for _ in range(20):
        assert said(guard, now) == [(ARBITER, 1.0, "beat")]
        guard, _ = done(guard, now, attesting.duties)
        waits.add(guard.due["beat"] - now)
        assert said(guard, after(now, 0.29)) == []
        now = after(now, 0.4)
    assert len(waits) == 20
    assert all(0.3e9 <= wait <= 0.4e9 for wait in waits)


def test_an_attest_comes_every_5_s_once_drbd_was_read() -> None:
    """And not before there is anything to attest."""
    guard, now = connected()
    guard = replace(named(guard), due={"beat": after(now, 999.0), "half-slow": after(now, 999.0)})
    assert said(guard, now) == [(ARBITER, 3.0, "attest")]
    [attest] = sent(done(guard, now, attesting.duties)[1], Attest)
    assert attest == Attest(now, evidence(Turn(guard, now)))
    later, _ = done(guard, now, attesting.duties)
    assert (said(later, after(now, 4.999)), len(said(later, after(now, 5.0)))) == ([], 1)
    assert said(replace(guard, volumes=None), now) == []


@pytest.mark.parametrize(
    ("halves", "theirs", "every_s"),
    [
        pytest.param(Halves("b", 1, "a1", "b1", True), NAME, 5.0, id="both name it"),
        pytest.param(Halves("b", 1, "a1", "b1", True), "another", 0.3, id="the peer names another"),
        pytest.param(Halves("b", 1, "a1", "b1", True), None, 0.3, id="the peer names none"),
        pytest.param(Halves("b", 1, "a1", "b1", False), None, 0.3, id="not echoed"),
        pytest.param(Halves("b", 1, "a1", None, False), None, 0.3, id="nothing heard"),
        pytest.param(Halves("b", 1, None, None, False), None, None, id="not connected"),
    ],
)
def test_a_half_is_repeated_until_both_ends_name_one_session(halves: Halves, theirs, every_s: float | None) -> None:
    """Then now and then: a peer that was restarted has forgotten it."""
    guard, now = connected(halves=halves)
    guard = replace(guard, due={"beat": after(now, 999.0), "attest": after(now, 999.0)})
    guard = with_ack(guard, peer_session=theirs)
    assert said(guard, now) == ([] if every_s is None else [("B", 1.0, "session-half")])
    if every_s is not None:
        [half] = sent(done(guard, now, attesting.duties)[1], SessionHalf)
        assert half == halves.said()
        later, _ = done(guard, now, attesting.duties)
        assert (said(later, after(now, every_s - 0.001)), len(said(later, after(now, every_s)))) == ([], 1)
    deaf = replace(guard, ack=None)
    assert len(said(deaf, now)) == (every_s is not None)


# ------------------------------------------------------------------ the beat


def test_a_beat_tells_what_this_node_sees_of_the_pair() -> None:
    """Its number is our own clock's moment: the answer is as old as that."""
    guard, now = connected()
    beat = attesting._beat(Turn(guard, now))
    assert (beat.seq, beat.session, beat.connected, beat.peer_member) == (now, NAME, True, True)
    assert (beat.whole, beat.peer_lost, beat.hold.quiet_for_s > 0) == (True, False, True)
    cut = with_replicas(guard, link=Link.CONNECTING)
    beat = attesting._beat(Turn(replace(cut, members=None, halves=Halves("b", 4, None, None, False)), now))
    assert (beat.session, beat.connected, beat.peer_member, beat.whole) == (None, False, None, None)


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({}, True),
        ({"probe": None}, False),
        ({"ever_whole": False}, False),
        ({"session": None}, False),
        ({"winner": "A"}, False),
        ({"winner": "B"}, False),
        ({"register": None}, True),
        ({"ack": None}, True),
    ],
)
def test_a_peer_is_reported_lost_by_a_guard_that_knew_it_in_an_open_era(changed, lost: bool) -> None:
    """A storm is counted from these words: nobody that was never there, and nobody that was already given up."""
    guard, now = connected(probe=False, ever_whole=True)
    guard = with_register(guard, winner=changed.get("winner"))
    if "register" in changed:
        guard = with_ack(guard, register=None)
    if "session" in changed:
        guard = remembering(guard, session=None)
    guard = replace(guard, **{k: v for k, v in changed.items() if k in ("probe", "ever_whole", "ack")})
    beat = attesting._beat(Turn(guard, now))
    assert isinstance(beat, Beat)
    assert beat.peer_lost is lost


# ------------------------------------------------------------------ the testimony


def test_a_testimony_is_of_this_node_this_boot_and_this_era() -> None:
    """With the session that stands, or the one that was lost last."""
    guard, now = connected()
    guard = remembering(guard, era=7)
    told = evidence(Turn(guard, now))
    assert (told.node, told.boot_id, told.era, told.session) == ("A", guard.boot_id, 7, NAME)
    assert (told.connected, told.peer_member, told.cluster, told.cold, told.unfit) == (True, True, "up", False, False)
    gone = replace(with_replicas(guard, link=Link.DOWN), halves=Halves("b", 4, None, None, False), lost="lost")
    told = evidence(Turn(replace(gone, members=None), now))
    assert (told.session, told.connected, told.peer_member, told.cluster) == ("lost", False, None, "?")
    unnamed = replace(guard, halves=replace(guard.halves, echoed=False))
    assert evidence(Turn(unnamed, now)).connected is False, "connected without a session is not yet a testimony of one"
    unread = evidence(Turn(replace(guard, volumes=None, stored=None), now))
    assert (unread.replicas, unread.connected) == ((), False)


def test_a_statement_tells_a_replica_as_it_was_read() -> None:
    """Every word of it; an own generation and gate only from a source that gives a right."""
    guard, now = connected()
    guard = with_replicas(guard, generations=Generations(GEN | 1, 2, (4, 6)), gate=CLOSED, peer_disk=Disk.OUTDATED)
    [told] = evidence(Turn(guard, now)).replicas
    assert (told.resource, told.disk, told.peer_disk, told.role) == ("r0", "U", "O", "primary")
    assert (told.current, told.bitmap, told.history, told.gate) == (GEN | 1, 2, (4, 6), True)
    assert told.continuous is True
    [told] = evidence(Turn(with_replicas(guard, gate=OPEN_GATE), now)).replicas
    assert told.gate is False
    [told] = evidence(Turn(with_replicas(guard, unverified="never tried"), now)).replicas
    assert (told.current, told.bitmap, told.history, told.gate) == (None, 0, (), None)
    [told] = evidence(Turn(with_replicas(guard, generations=None), now)).replicas
    assert (told.current, told.bitmap, told.history) == (None, 0, ())
    for continuous in ({"r0": False}, {}):
        [told] = evidence(Turn(remembering(guard, continuous=continuous), now)).replicas
        assert told.continuous is False


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("link", Link)
def test_a_cut_primary_may_have_a_write_under_way(role: Role, link: Link) -> None:
    """V15, V16: its age then has no lower end. What is down nobody watched, so it has none."""
    guard, now = connected()
    guard = with_replicas(guard, role=role, link=link)
    known = write_age(guard.ledgers["r0"], now)
    assert known is not None
    assert known.lo_s > 0 or known.hi_s is not None
    [told] = evidence(Turn(guard, now)).replicas
    if link is Link.DOWN:
        assert (told.age_lo_s, told.age_hi_s) == (None, None)
        return
    cut = role is Role.PRIMARY and link not in (Link.CONNECTED, Link.RESYNC)
    assert (told.age_lo_s, told.age_hi_s) == (0.0 if cut else known.lo_s, known.hi_s)
    [told] = evidence(Turn(replace(guard, ledgers={}), now)).replicas
    assert (told.age_lo_s, told.age_hi_s) == (None, None)


@pytest.mark.parametrize(
    ("stored", "remembered", "continuous"),
    [
        pytest.param({}, {}, True, id="as attested"),
        pytest.param({"generations": Generations(GEN | 1, 0)}, {}, True, id="another role, the same data"),
        pytest.param({"generations": Generations(8, 0)}, {}, False, id="another generation"),
        pytest.param({"generations": None}, {}, False, id="no generation"),
        pytest.param({"was_up_to_date": False}, {}, False, id="it was not UpToDate"),
        pytest.param({"was_up_to_date": None}, {}, False, id="not known whether it was"),
        pytest.param({"unverified": "never tried"}, {}, False, id="a source that gives no right"),
        pytest.param({}, {"generations": {}}, False, id="nothing remembered"),
        pytest.param({}, {"session": None}, False, id="no session was attested"),
    ],
)
def test_a_cold_disk_is_continuous_by_its_metadata_alone(stored, remembered, continuous: bool) -> None:
    """E3: read before DRBD is up. Consistent and no primary; anything else is told as it was read."""
    guard, now = connected()
    [live] = guard.volumes.replicas
    read = {"generations": Generations(GEN, 0), "was_up_to_date": True, "disk": Disk.UNKNOWN, "link": Link.DOWN}
    cold = replace(live, **{**read, **stored})
    guard = remembering(replace(guard, stored=replace(guard.volumes, replicas=(cold,))), **remembered)
    for volumes in (None, replace(guard.volumes, replicas=(replace(live, link=Link.DOWN),))):
        [told] = evidence(Turn(replace(guard, volumes=volumes), now), cold=True).replicas
        assert (told.continuous, told.disk, told.role) == (continuous, "C" if continuous else "?", "secondary")
        assert (told.age_lo_s, told.age_hi_s) == (None, None)
    [told] = evidence(Turn(guard, now), cold=True).replicas
    assert told.disk == "U", "what is up is told as it is"
    [told] = evidence(Turn(with_replicas(guard, link=Link.DOWN, disk=Disk.INCONSISTENT), now)).replicas
    assert told.disk == "I", "and so is everything outside of a cold start"
    [told] = evidence(Turn(replace(guard, volumes=None), now)).replicas
    assert (told.disk, told.role) == ("?", "primary"), "or metadata, where there is nothing else"


def test_every_resource_is_told_in_order_whichever_source_knows_it() -> None:
    """One may be up while another one is not configured yet."""
    guard, now = connected()
    [r0] = guard.volumes.replicas
    volumes = replace(guard.volumes, replicas=(replace(r0, resource="r2"), r0))
    stored = replace(guard.volumes, replicas=(replace(r0, resource="r1"), replace(r0, disk=Disk.UNKNOWN)))
    told = evidence(Turn(replace(guard, volumes=volumes, stored=stored), now), cold=True)
    assert [(r.resource, r.disk) for r in told.replicas] == [("r0", "U"), ("r1", "U"), ("r2", "U")]
    assert told.cold is True


@pytest.mark.parametrize(
    ("won", "now_at", "cold", "line"),
    [
        pytest.param({}, Generations(GEN | 1, 0), True, True, id="the very generation"),
        pytest.param({}, Generations(8, GEN), True, True, id="one that descends from it"),
        pytest.param({}, Generations(8, 10, (12, GEN | 1)), True, True, id="in its history"),
        pytest.param({}, Generations(8, 10, (12,)), True, False, id="another line"),
        pytest.param({}, None, True, False, id="no generation"),
        pytest.param({"boot_id": "older"}, Generations(GEN, 0), False, False, id="won on another boot"),
        pytest.param({"era": 0}, Generations(GEN, 0), False, False, id="won in another era"),
        pytest.param({"generations": {}}, Generations(GEN, 0), True, False, id="won for another resource"),
    ],
)
def test_what_a_cold_start_was_won_with_is_continuous(won, now_at, cold: bool, line: bool) -> None:
    """On this boot, in this era, by the line of its generations."""
    guard, now = connected()
    win = replace(ColdWin(guard.boot_id, guard.memory.era, {"r0": GEN}), **won)
    guard = remembering(with_replicas(guard, generations=now_at), cold_win=win, continuous={})
    told = evidence(Turn(guard, now))
    assert (told.cold, told.replicas[0].continuous) == (cold, line)
