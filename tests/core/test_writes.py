"""Generations against the real thing, ages against a brute-force second rule, the ledger against a known truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from guard.core.evidence import Generations, Role, WriteSample
from guard.core.instant import NS_PER_S, Age, Instant, after
from guard.core.writes import AgeOrder, Ledger, Relation, age, compare, fold, relation

CAPTURES = Path(__file__).parent.parent / "captures"
OFFSET = 0x0001_0000_0000_0000  # what DRBD adds to the bitmap identifier at the start of a resync

MIRROR = {Relation.C_NEWER: Relation.T_NEWER, Relation.T_NEWER: Relation.C_NEWER}


def recorded(state: str, node: str) -> Generations:
    """What get-gi said of the running device of that node in that state."""
    (file,) = (CAPTURES / "generations").glob(f"{state}-*.node{node}.get-gi.txt")
    (current, bitmap, *history), *_ = re.findall(r"^(\w{16}):(\w{16}):(\w{16}):(\w{16}):", file.read_text(), re.M)
    return Generations(int(current, 16), int(bitmap, 16), tuple(int(h, 16) for h in history))


# (state and node of the candidate, state and node of the target, what was true)
TRUTH = [
    ("01-a", "A", "01-a", "B", Relation.UNKNOWN),  # create-md on both, no data yet: equal 4s mean nothing
    ("01-a", "A", "01-e", "B", Relation.UNKNOWN),
    ("01-c", "A", "01-c", "B", Relation.C_NEWER),  # initial full sync running
    ("01-e", "A", "01-e", "B", Relation.SAME),  # healthy, A Primary: the identifiers differ in bit 0
    ("02-b", "A", "02-b", "B", Relation.C_NEWER),  # dont-care: new generation at the cut
    ("02-d", "A", "02-d", "B", Relation.C_NEWER),  # in the resync B has the bitmap identifier plus offset
    ("02-d", "A", "02-b", "B", Relation.C_NEWER),  # had B never heard of the resync
    ("02-b", "A", "02-d", "B", Relation.C_NEWER),  # had A forgotten that it started one
    ("02-a", "A", "02-d", "B", Relation.UNKNOWN),  # B stopped in a resync whose source is neither of them
    ("02-e", "A", "02-e", "B", Relation.SAME),
    ("02-e", "A", "02-b", "B", Relation.C_NEWER),  # an old copy of B
    ("03-a", "A", "03-a", "B", Relation.DIVERGED),  # both wrote apart
    ("03-e", "A", "03-e", "B", Relation.SAME),  # A's writes were discarded
    ("03-e", "A", "03-a", "A", Relation.DIVERGED),  # what was discarded is still another branch
    ("05-c", "A", "05-c", "B", Relation.DIVERGED),  # B promoted, wrote nothing: DRBD calls it split brain too
    ("06-c", "B", "06-d", "A", Relation.C_NEWER),  # A lost power writing, B was promoted and wrote
    ("07-a", "A", "07-a", "B", Relation.SAME),  # both lost power connected
    ("07-c", "A", "07-c", "B", Relation.C_NEWER),  # then the crashed primary is source: bitmap identifier is random
    ("07-d", "A", "07-d", "B", Relation.SAME),
    ("10-b", "A", "10-b", "B", Relation.C_NEWER),  # cut in the resync
    ("10-d", "A", "10-b", "B", Relation.C_NEWER),
    ("10-d", "A", "02-a", "B", Relation.C_NEWER),  # two resyncs later: the ancestor is 2 offsets away
    ("f1-b", "A", "f1-b", "B", Relation.SAME),  # frozen: the gate holds the generation
    ("f1-c", "A", "f1-c", "B", Relation.C_NEWER),  # the handler returned 4
    ("f1-d", "A", "f1-d", "B", Relation.SAME),
    ("f2-e", "A", "f2-e", "B", Relation.T_NEWER),  # A frozen, B promoted by code 5
    ("f3-e", "A", "f3-e", "B", Relation.C_NEWER),  # resume-io after a reconnect: the measured trap
    ("f3-h", "A", "f3-h", "B", Relation.DIVERGED),  # and the false split brain that it leads to
    ("f5-f", "A", "f5-f", "B", Relation.T_NEWER),  # A frozen, B promoted by code 4
    ("f7-c", "A", "f7-c", "B", Relation.T_NEWER),  # A is target of a resync
    ("02-a", "A", "f7-c", "B", Relation.T_NEWER),  # its past holds 9442..: the ancestor 9441.. plus the offset
    ("02-a", "A", "f1-r", "B", Relation.UNRELATED),  # history is only two deep: 02-a has fallen out of it
]


@pytest.mark.parametrize(("c_state", "c_node", "t_state", "t_node", "truth"), TRUTH)
def test_relation_says_what_was_true_on_real_drbd(
    c_state: str, c_node: str, t_state: str, t_node: str, truth: Relation
) -> None:
    """On recorded identifiers the relation is what the INDEX of the recording says, from both viewpoints."""
    candidate, target = recorded(c_state, c_node), recorded(t_state, t_node)
    assert relation(candidate, target) is truth
    assert relation(target, candidate) is MIRROR.get(truth, truth)


def test_no_two_recorded_states_break_the_mirror() -> None:
    """Both nodes read the same relation of every pair of recorded states."""
    files = sorted((CAPTURES / "generations").glob("*.get-gi.txt"))
    states = [recorded(f.name.split("-")[0] + "-" + f.name.split("-")[1], f.name.split(".node")[1][0]) for f in files]
    assert len(states) == 50
    for one, other in product(states, repeat=2):
        seen = relation(one, other)
        assert relation(other, one) is MIRROR.get(seen, seen)


@pytest.mark.parametrize("empty", [None, Generations(0, 0), Generations(4, 0), Generations(5, 0), Generations(1, 0)])
def test_empty_identifier_is_never_anything_but_unknown(empty: Generations | None) -> None:
    """Unreadable, empty and just created generations are UNKNOWN, also beside their own like."""
    for other in (empty, Generations(0, 0), Generations(4, 0), recorded("01-e", "A"), None):
        assert relation(empty, other) is Relation.UNKNOWN
        assert relation(other, empty) is Relation.UNKNOWN


def test_just_created_slot_in_the_past_is_no_common_ancestor() -> None:
    """Two data sets that were both once created have nothing in common but the 4 in their history."""
    one, other = Generations(0xA0, 0xB0, (4, 0)), Generations(0xC0, 0xD0, (4, 0))
    assert relation(one, other) is Relation.UNRELATED


def test_each_in_the_others_past_is_unknown() -> None:
    """Two generations that each claim the other as ancestor are a contradiction, not an order."""
    assert relation(Generations(0xA0, 0xB0), Generations(0xB0, 0xA0)) is Relation.UNKNOWN


def test_offset_reaches_ancestors_and_common_ancestors() -> None:
    """The resync offset is allowed on either side of an ancestor test and of a common past."""
    for times in (1, 2, 3):
        moved = 0xB0 + times * OFFSET
        assert relation(Generations(0xA0, moved), Generations(0xB0, 0)) is Relation.C_NEWER
        assert relation(Generations(0xA0, 0xB0), Generations(moved, 0)) is Relation.C_NEWER
        assert relation(Generations(0xA0, moved), Generations(0xC0, 0xB0)) is Relation.DIVERGED


# ------------------------------------------------------------------ ages

FOR_EVER = 99


def ages() -> Iterator[Age | None]:
    yield None
    for lo in range(5):
        yield Age(lo, None)
        yield from (Age(lo, hi) for hi in range(lo, 5))


def moments(a: Age, *, until_now: bool) -> range:
    """Every whole age that the interval allows."""
    return range(0 if until_now else int(a.lo_s), (FOR_EVER if a.hi_s is None else int(a.hi_s)) + 1)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("sampling_s", [0, 1, 2])
def test_compare_orders_only_what_every_possible_truth_orders(sampling_s: int, silent: bool) -> None:
    """C or T is later exactly if it is so, by more than a sampling period, in every truth that both ages allow."""
    for c, t in product(ages(), repeat=2):
        got = compare(c, t, sampling_s=sampling_s, target_silent=silent)
        if c is None or t is None:
            assert got is AgeOrder.UNKNOWN
            continue
        # T_later: what a silent target is known to have written lies within its interval as it stands
        c_first = all(y - x > sampling_s for x in moments(c, until_now=False) for y in moments(t, until_now=silent))
        t_first = all(x - y > sampling_s for x in moments(c, until_now=False) for y in moments(t, until_now=False))
        want = AgeOrder.C_LATER if c_first else AgeOrder.T_LATER if t_first else AgeOrder.OVERLAP
        assert got is want, (c, t)
        if silent:
            assert got is not AgeOrder.C_LATER


def test_compare_is_mirrored_between_the_living() -> None:
    """Two living nodes read the same order, whichever of them is the candidate."""
    mirror = {AgeOrder.C_LATER: AgeOrder.T_LATER, AgeOrder.T_LATER: AgeOrder.C_LATER}
    for c, t in product(ages(), repeat=2):
        seen = compare(c, t, sampling_s=1, target_silent=False)
        assert compare(t, c, sampling_s=1, target_silent=False) is mirror.get(seen, seen)


def test_acknowledged_write_that_never_arrived_is_seen_on_a_silent_target() -> None:
    """The target acknowledged a write 3 to 4 s ago, the candidate received nothing for 10 s: T_later."""
    assert compare(Age(10, 11), Age(3, 4), sampling_s=0.5, target_silent=True) is AgeOrder.T_LATER
    assert compare(Age(600, None), Age(3, 4), sampling_s=0.5, target_silent=True) is AgeOrder.T_LATER
    assert compare(Age(4.5, 5), Age(3, 4), sampling_s=0.5, target_silent=True) is AgeOrder.OVERLAP


def test_nothing_written_since_the_ledger_began_is_known() -> None:
    """Two quiet ledgers can be compared: overlap, not unknown."""
    assert compare(Age(600, None), Age(30, None), sampling_s=0.5, target_silent=True) is AgeOrder.OVERLAP
    assert compare(Age(1, 2), Age(600, None), sampling_s=0.5, target_silent=False) is AgeOrder.C_LATER


def test_negative_sampling_period_is_refused() -> None:
    """A sampling period below 0 would order what overlaps."""
    with pytest.raises(ValueError, match="sampling period"):
        compare(Age(0, 1), Age(0, 1), sampling_s=-0.1, target_silent=False)


# ------------------------------------------------------------------ the ledger


def sample(at_s: float, count: int | None, *, role: Role = Role.SECONDARY, counts: bool = True) -> WriteSample:
    return WriteSample(
        resource="r0",
        at=after(Instant(0), at_s),
        role=role,
        completed=count if role is Role.PRIMARY else None,
        received_kib=count if role is Role.SECONDARY else None,
        counts=counts,
    )


def folded(*samples: WriteSample, sampling_s: float = 1.0) -> Ledger:
    ledger = Ledger("r0", sampling_s)
    for s in samples:
        ledger = fold(ledger, s)
    return ledger


def at(seconds: float) -> Instant:
    return after(Instant(0), seconds)


def test_write_lies_between_the_last_sample_without_and_the_first_with() -> None:
    """Interval = (last sample without the change, first sample with it], and it grows older with time."""
    ledger = folded(sample(0, 100), sample(1, 100), sample(2, 104), sample(3, 104))
    assert age(ledger, at(3)) == Age(1, 2)
    assert age(ledger, at(4.5)) == Age(2.5, 3.5)


def test_nothing_written_since_the_ledger_began_has_no_upper_end() -> None:
    """Without a change the age is at least the ledger's length and has no upper end."""
    assert age(folded(*(sample(t, 7) for t in range(6))), at(5)) == Age(5, None)


def test_never_sampled_or_no_longer_watched_says_less() -> None:
    """No sample, or a moment before the last one: no age. A sampler that stopped: only that it was not earlier."""
    assert age(Ledger("r0", 1.0), at(5)) is None
    ledger = folded(sample(0, 7), sample(1, 8))
    assert age(ledger, at(3)) == Age(2, 3)
    assert age(ledger, at(3.1)) == Age(0, 3.1)  # it may be writing now; a write once seen stays its oldest bound
    idle = folded(sample(0, 7), sample(1, 7))
    assert age(idle, at(2)) is not None
    assert age(idle, at(3.1)) is None
    assert age(ledger, at(0.5)) is None


def test_a_sample_that_says_nothing_opens_a_gap_and_counts_no_write() -> None:
    """During the gap the last write may be now; after it, it may be as late as the first sample that counts again."""
    ledger = folded(sample(0, 100), sample(1, 104), sample(2, 600, counts=False))
    assert age(ledger, at(2)) == Age(0, 2)
    ledger = fold(ledger, sample(3, 1000))
    assert age(ledger, at(4)) == Age(1, 4)
    assert age(fold(ledger, sample(5, 1004)), at(5)) == Age(0, 2)


def test_a_gap_with_nothing_known_before_it_begins_the_ledger_anew() -> None:
    """No write seen, then a gap: unknown in the gap, and after it quiet since the gap ended."""
    ledger = folded(sample(0, 100), sample(1, None))
    assert age(ledger, at(1)) is None
    assert age(fold(ledger, sample(2, 900)), at(3)) == Age(1, None)


@pytest.mark.parametrize(
    "reset",
    [sample(2, 4), sample(2, 500, role=Role.PRIMARY)],
    ids=["counter went backwards", "role changed"],
)
def test_reset_is_no_write_but_may_hide_one(reset: WriteSample) -> None:
    """A counter that went backwards, or another role's counter, makes a new baseline and widens towards now."""
    ledger = folded(sample(0, 100), sample(1, 104), reset)
    assert age(ledger, at(2)) == Age(0, 2)
    assert age(ledger, at(3)) == Age(1, 3)


def test_unknown_role_says_nothing() -> None:
    """With the role unknown no counter can be believed."""
    unknown = WriteSample("r0", at(2), Role.UNKNOWN, completed=500, received_kib=500, counts=True)
    assert age(folded(sample(0, 100), sample(1, 104), unknown), at(2)) == Age(0, 2)


def test_late_sample_is_ignored_and_foreign_one_refused() -> None:
    """A sample from the past changes nothing; one of another resource is a bug of the caller."""
    ledger = folded(sample(0, 100), sample(1, 104))
    assert fold(ledger, sample(0.5, 200)) == ledger
    with pytest.raises(ValueError, match="r1"):
        fold(ledger, WriteSample("r1", at(2), Role.PRIMARY, 1, None, counts=True))


STEPS = ("quiet", "write", "hidden", "resync", "reset", "reset+write", "switch", "switch+write")


def test_interval_holds_the_truth_in_every_history() -> None:
    """In all 8^5 histories of writes, gaps, resyncs, resets and role changes the true last write lies in the age."""
    for history in product(STEPS, repeat=5):
        ledger, role, counter, last_write = folded(sample(0, 5000)), Role.SECONDARY, 5000, -100.0
        for i, step in enumerate(history, start=1):
            wrote = step in ("write", "hidden", "reset+write", "switch+write")
            last_write = i - 0.5 if wrote else last_write
            counter += 4 if wrote or step == "resync" else 0
            counter = counter // 2 if step.startswith("reset") else counter
            if step.startswith("switch"):
                role = Role.PRIMARY if role is Role.SECONDARY else Role.SECONDARY
                counter += 1000
            ledger = fold(ledger, sample(i, counter, role=role, counts=step not in ("hidden", "resync")))
            known = age(ledger, at(i))
            if known is not None:
                assert known.lo_s <= i - last_write, history
                assert known.hi_s is None or i - last_write <= known.hi_s, history


PROC = re.compile(r"cs:(\w+) ro:(\w+)/\w+ ds:(\w+)/.*?ns:\d+ nr:(\d+)", re.S)


def sample_02(state: str, node: str) -> WriteSample:
    """A look at the recorded pair as the adapter takes it: nothing counts while a resync runs."""
    (proc,) = (CAPTURES / "writes").glob(f"02-{state}-*.node{node}.proc-drbd.txt")
    (stat,) = (CAPTURES / "writes").glob(f"02-{state}-*.node{node}.block-stat.txt")
    found = PROC.search(proc.read_text())
    lines = stat.read_text().splitlines()
    assert found is not None
    return WriteSample(
        resource="r0",
        at=Instant(round(float(lines[1]) * NS_PER_S)),
        role=Role(found[2].lower()),
        completed=int(lines[lines.index("$ cat /sys/block/drbd0/stat") + 1].split()[4]),
        received_kib=int(found[4]),
        counts=found[1] in ("Connected", "WFConnection"),
    )


def test_real_resync_is_not_counted_as_a_write() -> None:
    """Recorded: `nr` of the Secondary grew from 1067 to 13407 by a resync alone; its ledger saw no write."""
    samples = [sample_02(state, "B") for state in "abcde"]
    assert [s.received_kib for s in samples] == [1067, 1067, 1067, 1587, 13407]
    ledger = folded(*samples)
    assert ledger.after is None
    assert age(ledger, samples[-1].at) == Age(0, None)


def test_real_writes_of_the_lone_primary_are_seen() -> None:
    """Recorded: A's completed writes rose from 49 to 93 between 02-b and 02-c; that is where its ledger puts them."""
    b, c = sample_02("b", "A"), sample_02("c", "A")
    assert (b.completed, c.completed) == (49, 93)
    ledger = folded(sample_02("a", "A"), b, c)
    assert (ledger.after, ledger.until) == (b.at, c.at)


def sampler_f7(node: str) -> Iterator[WriteSample]:
    """The recorded sampler of scenario f7, five looks a second, a line on every change."""
    for line in (CAPTURES / "writes" / f"f7-end.node{node}.sampler.txt").read_text().splitlines():
        found, stat = PROC.search(line), re.search(r"drbd0:w=(\d+)", line)
        if found is not None and stat is not None:
            yield WriteSample(
                resource="r0",
                at=Instant(round(float(line.split()[0]) * NS_PER_S)),
                role=Role(found[2].lower()),
                completed=int(stat[1]),
                received_kib=int(found[4]),
                counts=found[1] in ("Connected", "WFConnection") and found[3] == "UpToDate",
            )


RAW_WRITES = ((1795302527.069, 1795302529.682), (1795302539.738, 1795302540.122))  # acknowledged on A, f7.TIMELINE
SLACK_S = 0.6  # guests' clocks agree within 0.25 s, and a look takes up to 0.2 s


def test_ledger_of_the_real_secondary_finds_the_raw_writes_and_not_the_resync() -> None:
    """Scenario f7 on B, while Secondary: each write that the ledger dates is one of the raw writes acked on A."""
    ledger, dated = Ledger("r0", 0.2), []
    for s in sampler_f7("B"):
        if s.role is not Role.SECONDARY or s.at > after(Instant(1795302546 * NS_PER_S), 0):
            break
        before, ledger = ledger, fold(ledger, s)
        if ledger.after != before.after:
            dated.append(s.at / NS_PER_S)
    assert len(dated) > 10
    assert all(any(lo - SLACK_S <= t <= hi + SLACK_S for lo, hi in RAW_WRITES) for t in dated)
    assert ledger.until is not None
    assert abs(ledger.until / NS_PER_S - RAW_WRITES[-1][1]) <= SLACK_S


def test_counter_that_starts_again_at_zero_is_a_reset_in_the_recording() -> None:
    """Scenario f7 on B: 800 KiB, StandAlone, then 0 and 4: no write, but the gap may hide one."""
    early = [s for s in sampler_f7("B") if s.at < Instant(1795302538 * NS_PER_S)]
    assert [s.received_kib for s in early][-1] == 4
    ledger = folded(*early, sampling_s=0.2)
    assert ledger.after is not None
    assert ledger.until is not None
    assert ledger.after / NS_PER_S <= RAW_WRITES[0][1] + SLACK_S  # as early as the last write that was seen
    assert ledger.until / NS_PER_S > 1795302537  # as late as the end of the resync


def test_resync_of_the_former_primary_is_no_write_in_the_recording() -> None:
    """Scenario f7 on A: made Secondary, target of a 3 MB resync from :56 to :64: nothing in it is dated as a write."""
    ledger = Ledger("r0", 0.2)
    for s in sampler_f7("A"):
        before, ledger = ledger, fold(ledger, s)
        if ledger.after != before.after:
            assert not 1795302541 < s.at / NS_PER_S < 1795302570
