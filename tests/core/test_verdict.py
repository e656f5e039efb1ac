"""The verdict table on every one of its combinations, against a plain second rule and against the laws."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from itertools import combinations_with_replacement, permutations, product

import pytest

from guard.cli.verdict_table import write_table
from guard.core.evidence import Disk
from guard.core.verdict import (
    COLUMNS,
    ROWS,
    TABLE,
    WHY,
    Case,
    Result,
    Verdict,
    _parse,
    after_yield,
    cases,
    cells,
    combine,
    judge,
    rows_markdown,
    settle_tie,
)
from guard.core.writes import AgeOrder, Relation

ALL = {case: judge(case) for case in cases()}
GRANTS = {Result.GRANT, Result.GRANT_COLD}
MAY_YET = GRANTS | {Result.TIE, Result.CONSENT}


def twin(dc: str, dt: str, gen: str, age: str, roles: str, fresh: str, gate: str) -> str:
    """The same decisions, told as a story: is it one data set, is my disk good, is the target's, does it live?"""
    if gen in ("unrelated", "diverged", "?"):
        return "PERSON"
    if dc not in ("U", "C"):
        return "PREFER_T" if dt == "U" and gen != "C_newer" else "PERSON"
    if gen == "T_newer":
        return "PREFER_T" if dt in ("U", "C") else "PERSON"
    if roles == "both":
        return "PERSON"
    if dt in ("O", "I", "D"):
        if fresh == "live":
            return "PERSON" if roles == "T" else "GRANT"
        return "GRANT" if fresh == "silent" and gate == "yes" else "PERSON"
    if fresh == "stale":
        return "PERSON"
    if (roles, age) in (("T", "C_later"), ("C", "T_later")):
        return "PERSON"
    if fresh == "silent":
        if gate == "no" or gen != "same" or age not in ("overlap", "C_later"):
            return "PERSON"
        return "GRANT" if dc == "U" else "GRANT_COLD"
    if roles == "T":
        return "PREFER_T" if dt == "U" and gen == "same" else "PERSON"
    if dc == "C" and dt == "U":
        return "PREFER_T"
    alone = "GRANT" if gate == "yes" else "CONSENT"
    if roles == "C" or gen == "C_newer" or age == "C_later":
        return alone
    if age == "overlap":
        return "TIE" if gate == "yes" else "CONSENT"
    return "PREFER_T" if age == "T_later" else "PERSON"


def test_table_is_the_twin_on_every_combination() -> None:
    """17,280 combinations, all different, each judged as the plain second rule judges it."""
    assert len(ALL) == len(set(cells())) == 17_280
    wrong = [(c.words(), v, twin(*c.words())) for c, v in ALL.items() if v.result != twin(*c.words())]
    assert not wrong


def test_table_is_total() -> None:
    """Some row of the table fits every combination: the last line of `judge` is never reached."""
    names = {row.verdict.row for row in ROWS}
    assert all(v.row in names for v in ALL.values())


def test_every_row_is_reached() -> None:
    """No row is dead."""
    assert {v.row for v in ALL.values()} == {f"V{i}" for i in range(1, 34)}


SHARPER_REASON_ONLY = {"V13", "V24"}  # their combinations have the same result further down (V14, V28; V27)


@pytest.mark.parametrize("row", ROWS, ids=[row.verdict.row for row in ROWS])
def test_every_row_matters(row: object) -> None:
    """Without any one row some result changes or some combination has no row; two rows only sharpen the reason."""
    rest = [r for r in ROWS if r is not row]
    without = {case: judge(case, rest) for case in ALL}
    changed = any(v.result != ALL[c].result or v.reason == "table-not-total" for c, v in without.items())
    name = next(r.verdict.row for r in ROWS if r is row)
    assert changed == (name not in SHARPER_REASON_ONLY)


LAWS: dict[str, Callable[[Case, Verdict], bool]] = {
    "S2: a silent target needs its gate": lambda c, v: (
        c.fresh != "silent" or v.result not in MAY_YET or c.gate == "yes"
    ),
    "S2: a silent target needs equal generations and a known age, or its own bad disk (V12)": lambda c, v: (
        c.fresh != "silent"
        or v.result not in MAY_YET
        or v.row == "V12"
        or (c.gen is Relation.SAME and c.age in (AgeOrder.OVERLAP, AgeOrder.C_LATER))
    ),
    "V12 speaks only of a target that was not current": lambda c, v: (
        v.row != "V12" or c.target_disk in (Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS)
    ),
    "stale evidence grants nothing": lambda c, v: c.fresh != "stale" or v.result not in MAY_YET,
    "diverged, unrelated, unreadable grant nothing": lambda c, v: (
        c.gen not in (Relation.DIVERGED, Relation.UNRELATED, Relation.UNKNOWN) or v.result is Result.PERSON
    ),
    "two primaries grant nothing": lambda c, v: c.roles != "both" or v.result not in MAY_YET,
    "a living primary is not passed over": lambda c, v: (
        not (c.roles == "T" and c.fresh == "live") or v.result not in MAY_YET
    ),
    "a newer target is not passed over": lambda c, v: c.gen is not Relation.T_NEWER or v.result not in MAY_YET,
    "a bad own disk grants nothing": lambda c, v: (
        c.own_disk in (Disk.UP_TO_DATE, Disk.CONSISTENT) or v.result not in MAY_YET
    ),
    "a Consistent own disk is never granted at once over a silent target that was good": lambda c, v: (
        not (c.own_disk is Disk.CONSISTENT and c.fresh == "silent" and v.result is Result.GRANT) or v.row == "V12"
    ),
    "on equal generations a later write of a good target grants nothing": lambda c, v: (
        not (c.gen is Relation.SAME and c.age is AgeOrder.T_LATER)
        or v.result not in MAY_YET
        or c.target_disk in (Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS)
    ),
    "gate off: a living target with a disk that may be good is only passed by its consent": lambda c, v: (
        not (c.fresh == "live" and c.gate == "no")
        or v.result not in {Result.GRANT, Result.GRANT_COLD, Result.TIE}
        or c.target_disk in (Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS)
    ),
    "ties are between living equals": lambda c, v: (
        v.result is not Result.TIE
        or (c.fresh, c.gate, c.roles, c.gen, c.age) == ("live", "yes", "none", Relation.SAME, AgeOrder.OVERLAP)
    ),
    "cold grants are for a Consistent disk": lambda c, v: (
        v.result is not Result.GRANT_COLD or (c.own_disk is Disk.CONSISTENT and c.fresh == "silent")
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_law_holds_on_every_combination(law: str) -> None:
    """Each law holds on all 17,280 combinations."""
    broken = [(c.words(), v.row) for c, v in ALL.items() if not LAWS[law](c, v)]
    assert not broken


SPOILT = {  # law: (row, word, wrong word)
    "S2: a silent target needs its gate": ("V12", "yes", "*"),
    "S2: a silent target needs equal generations and a known age, or its own bad disk (V12)": (
        "V31",
        "PERSON",
        "GRANT",
    ),
    "V12 speaks only of a target that was not current": ("V12", "O/I/D", "*"),
    "stale evidence grants nothing": ("V14", "PERSON", "GRANT"),
    "diverged, unrelated, unreadable grant nothing": ("V3", "PERSON", "GRANT"),
    "two primaries grant nothing": ("V9", "PERSON", "CONSENT"),
    "a living primary is not passed over": ("V10", "PERSON", "GRANT"),
    "a newer target is not passed over": ("V7", "PREFER_T", "GRANT"),
    "a bad own disk grants nothing": ("V6", "PERSON", "GRANT"),
    "a Consistent own disk is never granted at once over a silent target that was good": ("V33", "GRANT_COLD", "GRANT"),
    "on equal generations a later write of a good target grants nothing": ("V22", "PREFER_T", "CONSENT"),
    "gate off: a living target with a disk that may be good is only passed by its consent": ("V24", "CONSENT", "GRANT"),
    "ties are between living equals": ("V25", "PERSON", "TIE"),
    "cold grants are for a Consistent disk": ("V32", "GRANT", "GRANT_COLD"),
}


@pytest.mark.parametrize("law", LAWS)
def test_law_can_fail(law: str) -> None:
    """A table with one wrong word breaks each law: the laws say something."""
    name, word, wrong = SPOILT[law]
    (line,) = (line for line in TABLE.splitlines() if line.split()[:1] == [name])
    rows = _parse(TABLE.replace(line, line.replace(word, wrong, 1)))
    assert not all(LAWS[law](case, judge(case, rows)) for case in ALL)


def test_unreadable_own_disk_is_a_persons_business() -> None:
    """E1: whatever else is known, an own disk that cannot be read never claims."""
    for case in ALL:
        if case.own_disk is Disk.UP_TO_DATE:
            blind = Case(Disk.UNKNOWN, case.target_disk, case.gen, case.age, case.roles, case.fresh, case.gate)
            assert (judge(blind).result, judge(blind).row) == (Result.PERSON, "E1")


def test_a_word_that_no_column_knows_grants_nothing() -> None:
    """A bug of the caller (True for `yes`, a misspelt role) fits no row at all and ends with a person."""
    good = ("U", "U", "same", "overlap", "T", "silent", "yes")
    assert judge(Case(*good)).result is Result.GRANT  # type: ignore[arg-type]
    for i in range(1, len(good)):
        for bad in (True, "primary", "", None):
            spoilt = Case(*good[:i], bad, *good[i + 1 :])  # type: ignore[arg-type]
            assert judge(spoilt).reason == "table-not-total"


def test_a_misspelt_table_stops_the_import() -> None:
    """A word in the table that its column does not know, or a cell too few or too many, is a ValueError."""
    assert _parse(TABLE) == ROWS
    for before, after in (
        ("O/I/D", "O/I/X"),
        ("C_newer", "C_newr"),
        ("V9  *     *", "V9  *"),
        ("*    PERSON     unrelated-data", "     PERSON     unrelated-data"),
        ("*    PERSON     unrelated-data", "* *  PERSON     unrelated-data"),
    ):
        with pytest.raises(ValueError):
            _parse(TABLE.replace(before, after, 1))


def test_reasons_are_stable_codes_of_their_own() -> None:
    """Each row has its own kebab-case reason and its own text in the documentation."""
    reasons = [row.verdict.reason for row in ROWS]
    assert len(set(reasons)) == len(reasons) == len(WHY) == 33
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason) for reason in reasons)


# ------------------------------------------------------------------ two viewpoints of one truth

MIRROR = {"C_newer": "T_newer", "T_newer": "C_newer", "C_later": "T_later", "T_later": "C_later", "C": "T", "T": "C"}


def living_situations() -> list[tuple[Verdict, Verdict]]:
    """What both nodes read when both live and tell the truth; each has its own gate."""
    both = []
    for case, verdict in ALL.items():
        dc, dt, gen, age, roles, fresh, _ = case.words()
        if fresh != "live" or dt == "?":
            continue
        for gate in COLUMNS["gate"]:
            seen = (dt, dc, MIRROR.get(gen, gen), MIRROR.get(age, age), MIRROR.get(roles, roles), "live", gate)
            both.append((verdict, BY_WORDS[seen]))
    return both


BY_WORDS = {case.words(): verdict for case, verdict in ALL.items()}


def test_never_both_nodes_are_granted() -> None:
    """Of one true situation at most one node reads GRANT, also after the tie is settled by one preferred node."""
    for ours, theirs in living_situations():
        for we_are_preferred in (True, False):
            pair = (settle_tie(ours, we_are_preferred), settle_tie(theirs, not we_are_preferred))
            assert not all(v.result in GRANTS for v in pair), pair


def test_never_both_nodes_are_granted_with_several_resources() -> None:
    """The same for every mix of up to three resources, each in any true situation."""
    seen = {(a.result, b.result) for a, b in living_situations()}
    one = {r: Verdict(r, "V", "x", "x") for r in Result}
    for mix in combinations_with_replacement(sorted(seen), 3):
        for we_are_preferred in (True, False):
            ours = combine([settle_tie(one[a], we_are_preferred) for a, _ in mix])
            theirs = combine([settle_tie(one[b], not we_are_preferred) for _, b in mix])
            assert not (ours.result in GRANTS and theirs.result in GRANTS), mix


def test_consent_is_never_asked_of_a_node_that_may_go_on_at_once() -> None:
    """Where one node reads CONSENT the other never reads GRANT: a yield takes nothing from who has the better data."""
    for ours, theirs in living_situations():
        assert not (ours.result is Result.CONSENT and theirs.result in GRANTS)


# ------------------------------------------------------------------ yield, tie, several resources


def test_a_yield_turns_consent_into_grant_and_lets_a_living_primary_step_back() -> None:
    """After T's yield: CONSENT is GRANT; V17 and V18 are GRANT on a good own disk; nothing else moves."""
    for case, verdict in ALL.items():
        given = after_yield(verdict, case.own_disk)
        if verdict.result is Result.CONSENT or (verdict.row in ("V17", "V18") and case.own_disk is Disk.UP_TO_DATE):
            assert (given.result, given.row) == (Result.GRANT, verdict.row)
            assert given.reason == f"{verdict.reason}-yielded"
        else:
            assert given == verdict


def test_a_yield_never_helps_a_candidate_with_older_or_doubtful_generations() -> None:
    """No yield makes T_newer, diverged, unrelated or unreadable data good, nor a silent target, nor two primaries."""
    for case, verdict in ALL.items():
        if case.gen not in (Relation.SAME, Relation.C_NEWER) or case.fresh != "live" or case.roles == "both":
            assert after_yield(verdict, case.own_disk) == verdict


def test_a_tie_is_for_the_preferred_node_only() -> None:
    """TIE is GRANT for the preferred node; for the other it stays a TIE; other results do not move."""
    for verdict in set(ALL.values()):
        assert settle_tie(verdict, preferred_is_candidate=False) == verdict
        settled = settle_tie(verdict, preferred_is_candidate=True)
        assert settled.result is (Result.GRANT if verdict.result is Result.TIE else verdict.result)


def plainly_combined(results: set[Result]) -> Result:
    """Section 5 in other words: first what stops, then what waits, then what goes."""
    r = Result
    if not results or r.PERSON in results:
        return r.PERSON
    if r.PREFER_T in results:
        return r.PREFER_T if results <= {r.PREFER_T, r.TIE} else r.PERSON
    if r.CONSENT in results:
        return r.CONSENT
    if r.GRANT_COLD in results:
        return r.GRANT_COLD
    return r.GRANT if r.GRANT in results else r.TIE


def test_combine_is_the_plain_rule_on_every_mix_of_three() -> None:
    """All multisets of up to three results, in every order; the verdict that prevails is one that was there."""
    for size in range(4):
        for mix in combinations_with_replacement(Result, size):
            for order in set(permutations(mix)):
                verdicts = [Verdict(r, f"V{i}", r.lower(), "") for i, r in enumerate(order)]
                got = combine(verdicts)
                assert got.result is plainly_combined(set(mix))
                assert got in verdicts or (got.row, got.reason) in (
                    ("-", "no-replicated-resource"),
                    ("-", "resources-disagree"),
                )


def test_a_settled_tie_says_by_what() -> None:
    """The reason names the row and what settled it."""
    tie = Verdict(Result.TIE, "V23", "equal", "x")
    assert settle_tie(tie, True) == Verdict(Result.GRANT, "V23", "equal-preferred", "x")
    assert settle_tie(tie, False) is tie


def test_may_says_yes_only_to_a_plain_grant() -> None:
    """`may` of the outer contract: yes, wait or no."""
    said = {r: Verdict(r, "V", "x", "x").may() for r in Result}
    assert [r for r, m in said.items() if m == "yes"] == [Result.GRANT]
    assert [r for r, m in said.items() if m == "no"] == [Result.PREFER_T, Result.PERSON]
    assert set(said.values()) == {"yes", "wait", "no"}


# ------------------------------------------------------------------ what is printed


def test_csv_is_the_whole_table_in_its_own_words() -> None:
    """`make verdict-table`: the header, then 17,280 lines that judge agrees with."""
    out = io.StringIO()
    write_table(out)
    assert out.getvalue().startswith(
        "dC,dT,gen,age,roles,fresh,gate,row,result\nU,U,same,C_later,C,live,yes,V20,GRANT\n"
    )
    _, *lines = csv.reader(io.StringIO(out.getvalue()))
    assert len(lines) == 17_280
    assert all(
        (BY_WORDS[tuple(words)].row, BY_WORDS[tuple(words)].result) == (row, result) for *words, row, result in lines
    )


def test_markdown_has_every_row_once() -> None:
    """The documentation's table has a header, a rule and 33 rows of 11 cells."""
    head, under, *lines = rows_markdown().splitlines()
    assert under == "| " + " | ".join(["---"] * 11) + " |"
    assert head == "| row | dC | dT | gen | age | roles | fresh | gate | result | reason | why |"
    assert [line.split(" | ")[0] for line in lines] == [f"| V{i}" for i in range(1, 34)]
    assert all(line.count("|") == 12 for line in lines)


def test_columns_are_the_words_of_the_design() -> None:
    """The CSV speaks exactly the words of DESIGN.md section 5."""
    assert list(product(*COLUMNS.values())) == list(cells())
    assert COLUMNS == {
        "dC": ("U", "C", "O", "I", "D"),
        "dT": ("U", "C", "O", "I", "D", "?"),
        "gen": ("same", "C_newer", "T_newer", "diverged", "unrelated", "?"),
        "age": ("C_later", "T_later", "overlap", "?"),
        "roles": ("C", "T", "both", "none"),
        "fresh": ("live", "silent", "stale"),
        "gate": ("yes", "no"),
    }
