"""Who is newest: the verdict on one claim, as one table that is pure, total and read from the top.

It has laws (tests/core/test_verdict.py proves each on every one of the 17,280 combinations):

1. The first row that fits decides. Some row always fits.
2. UNKNOWN permits nothing: no grant on unreadable, diverged or unrelated generations, none on stale evidence,
   none where two primaries were seen.
3. A silent target is fenced only if its gate was on, and, unless its own disk was known not to be current, only on
   equal generations with a write-age comparison that was really made.
4. A living primary is never passed over without its yield, nor a target with the newer generation at all.
5. Of two nodes that look at one true situation, never both are granted.

The words of the cells are those of DESIGN.md section 5. `*` is any value, `/` separates alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Literal, cast, get_args

from guard.core.evidence import Disk
from guard.core.writes import AgeOrder, Relation


class Result(StrEnum):
    GRANT = "GRANT"
    GRANT_COLD = "GRANT_COLD"  # a grant after T_cold
    TIE = "TIE"  # a grant for the register's preferred node only
    CONSENT = "CONSENT"  # a grant once the target has yielded
    PREFER_T = "PREFER_T"  # the target should claim
    PERSON = "PERSON"  # a person decides


Roles = Literal["C", "T", "both", "none"]
"""Who is or was primary, as far as anything says."""

Fresh = Literal["live", "silent", "stale"]
"""Where the evidence on the target comes from. live: it answered a nonce in this claim. silent: it did not, but is
known from the session that was lost, and that was attested. stale: neither."""

Gate = Literal["yes", "no"]
"""yes: the target's gate is proven on (E4). Off and not known are both no."""

TABLE = """
row dC    dT    gen          age     roles fresh  gate result     reason
V1  *     *     unrelated    *       *     *      *    PERSON     unrelated-data
V2  *     *     diverged     *       *     *      *    PERSON     diverged
V3  *     *     ?            *       *     *      *    PERSON     generation-unreadable
V4  O/I/D *     C_newer      *       *     *      *    PERSON     newest-on-damaged-disk
V5  O/I/D U     *            *       *     *      *    PREFER_T   own-disk-not-current
V6  O/I/D *     *            *       *     *      *    PERSON     no-good-disk
V7  U/C   U/C   T_newer      *       *     *      *    PREFER_T   target-newer
V8  U/C   *     T_newer      *       *     *      *    PERSON     target-newer-on-bad-disk
V9  *     *     *            *       both  *      *    PERSON     two-primaries
V10 U/C   O/I/D *            *       T     live   *    PERSON     living-primary-on-bad-disk
V11 U/C   O/I/D *            *       *     live   *    GRANT      target-says-not-current
V12 U/C   O/I/D *            *       *     silent yes  GRANT      target-was-not-current
V13 U/C   O/I/D *            *       *     *      *    PERSON     target-may-have-become-current
V14 *     *     *            *       *     stale  *    PERSON     stale-evidence
V15 *     *     *            C_later T     *      *    PERSON     secondary-wrote-after-primary
V16 *     *     *            T_later C     *      *    PERSON     target-secondary-wrote-after-primary
V17 *     U     same         *       T     live   *    PREFER_T   living-primary
V18 *     *     *            *       T     live   *    PERSON     living-primary-doubtful
V19 C     U     *            *       *     live   *    PREFER_T   target-surer
V20 *     *     same/C_newer *       C     live   yes  GRANT      candidate-is-primary
V21 *     *     same/C_newer *       C     live   no   CONSENT    candidate-is-primary-gate-off
V22 *     *     same         T_later none  live   *    PREFER_T   target-wrote-last
V23 *     *     same         overlap none  live   yes  TIE        equal
V24 *     *     same         overlap none  live   no   CONSENT    equal-gate-off
V25 *     *     same         ?       none  live   *    PERSON     no-write-age
V26 *     *     *            *       none  live   yes  GRANT      candidate-newer
V27 *     *     *            *       none  live   no   CONSENT    candidate-newer-gate-off
V28 *     *     *            *       *     silent no   PERSON     silent-gate-off
V29 *     *     C_newer      *       *     silent yes  PERSON     candidate-ran-alone
V30 *     *     same         T_later *     silent yes  PERSON     write-never-arrived
V31 *     *     same         ?       *     silent yes  PERSON     silent-no-write-age
V32 U     *     same         *       *     silent yes  GRANT      all-acknowledged-is-here
V33 C     *     same         *       *     silent yes  GRANT_COLD cold-all-acknowledged-is-here
"""

WHY = {
    "V1": "not the same data set",
    "V2": "both ran apart; a later write does not make the earlier ones worthless",
    "V3": "generation unreadable",
    "V4": "newest generation on a damaged disk",
    "V5": "own disk cannot be the newest",
    "V6": "no disk known good",
    "V7": "target holds the newer generation",
    "V8": "newer generation on a disk that is not good",
    "V9": "two primaries seen: the gate has failed",
    "V10": "a living primary on a bad disk",
    "V11": "target says itself that its disk is not current: comparison void",
    "V12": "was not current; what it wrote since went through the candidate",
    "V13": "may have become current and been promoted since",
    "V14": "nothing ties its last evidence to the last session",
    "V15": "contradiction: a secondary wrote after the only primary",
    "V16": "contradiction: the target, a secondary, wrote after the only primary",
    "V17": "a living primary with good data: keep it (CONSENT if it yields)",
    "V18": "living primary, data doubtful (CONSENT if it yields)",
    "V19": "target is surer of its data",
    "V20": "candidate is the primary; target cannot write alone",
    "V21": "candidate is the primary; the target must yield first",
    "V22": "no primary; the target wrote last",
    "V23": "equal: the preferred node may",
    "V24": "equal; target must yield first",
    "V25": "equal generations and no write age to compare",
    "V26": "no primary; candidate newer",
    "V27": "no primary; candidate newer; target must yield first",
    "V28": "a silent target that does not stop when alone may have written more",
    "V29": "contradiction: register open, yet the candidate ran alone",
    "V30": "contradiction: an acknowledged write never reached the candidate",
    "V31": "equal generations and no write age to compare",
    "V32": "the normal failover: the comparison shows that all that was acknowledged is here",
    "V33": "cold start: all that was acknowledged is here, but wait first",
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "dC": ("U", "C", "O", "I", "D"),  # an own disk that cannot be read never claims (E1): see `judge`
    "dT": tuple(Disk),
    "gen": tuple(Relation),
    "age": tuple(AgeOrder),
    "roles": get_args(Roles),
    "fresh": get_args(Fresh),
    "gate": get_args(Gate),
}
"""Every word that a cell may have: 5 x 6 x 6 x 4 x 4 x 3 x 2 = 17,280 combinations."""


@dataclass(frozen=True, slots=True)
class Case:
    """The evidence on one resource, seen from the candidate. A word that no column knows fits no row."""

    own_disk: Disk
    target_disk: Disk
    gen: Relation
    age: AgeOrder
    roles: Roles
    fresh: Fresh
    gate: Gate

    def words(self) -> tuple[str, ...]:
        """The case in the words of the table, in the order of its columns."""
        columns = (self.own_disk, self.target_disk, self.gen, self.age, self.roles, self.fresh, self.gate)
        return tuple(str(word) for word in columns)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`row` names the row of the table (`E1` and `-`: a rule outside of it), `reason` is the stable code."""

    result: Result
    row: str
    reason: str
    text: str  # for people

    def may(self) -> Literal["yes", "wait", "no"]:
        """May the candidate go on? wait: not yet (T_cold, the target's yield, the preferred node first)."""
        match self.result:
            case Result.GRANT:
                return "yes"
            case Result.GRANT_COLD | Result.TIE | Result.CONSENT:
                return "wait"
            case _:
                return "no"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its cells as printed, the words that each cell accepts, and what it says."""

    cells: tuple[str, ...]
    accepts: tuple[frozenset[str], ...]
    verdict: Verdict

    def fits(self, words: tuple[str, ...]) -> bool:
        return all(word in accepted for word, accepted in zip(words, self.accepts, strict=True))


def _parse(table: str) -> tuple[Row, ...]:
    """The rows of the table. A word that its column does not know raises ValueError at import: nothing starts then."""
    _, *lines = table.strip().splitlines()
    return tuple(map(_parse_row, lines))


def _parse_row(line: str) -> Row:
    name, *cells, result, reason = line.split()
    accepts = []
    for (column, known), cell in zip(COLUMNS.items(), cells, strict=True):
        words = frozenset(known) if cell == "*" else frozenset(cell.split("/"))
        if not words <= frozenset(known):
            raise ValueError(f"cannot read row {name} of the verdict table: {cell} is no word of column {column}")
        accepts.append(words)
    return Row(tuple(cells), tuple(accepts), Verdict(Result(result), name, reason, WHY[name]))


ROWS = _parse(TABLE)


def judge(case: Case, rows: Sequence[Row] = ROWS) -> Verdict:
    """The verdict of the first row that fits. An own disk that cannot be read is a person's business (E1).

    The table is total, so the last line is never reached (a test proves it); if it ever were, a person decides.
    """
    if case.own_disk is Disk.UNKNOWN:
        return Verdict(Result.PERSON, "E1", "own-disk-unreadable", "own disk cannot be read")
    words = case.words()
    for row in rows:
        if row.fits(words):
            return row.verdict
    return Verdict(Result.PERSON, "-", "table-not-total", "no row of the verdict table fits: a bug of pairguard")


def after_yield(verdict: Verdict, own_disk: Disk) -> Verdict:
    """The verdict on one resource once the target's yield to this very claim is durable. Before `combine`.

    CONSENT becomes GRANT. V17 and V18 (a living primary) read CONSENT then, but only for a candidate whose own disk
    is good (U), so they too become GRANT. Everything else stays: a yield does not make data newer.
    """
    consents = verdict.result is Result.CONSENT
    primary_steps_back = verdict.row in ("V17", "V18") and own_disk is Disk.UP_TO_DATE
    if not (consents or primary_steps_back):
        return verdict
    return replace(verdict, result=Result.GRANT, reason=f"{verdict.reason}-yielded")


def settle_tie(verdict: Verdict, preferred_is_candidate: bool) -> Verdict:
    """A TIE is a GRANT for the register's preferred node, and stays a TIE (which grants nothing) for the other."""
    if verdict.result is Result.TIE and preferred_is_candidate:
        return replace(verdict, result=Result.GRANT, reason=f"{verdict.reason}-preferred")
    return verdict


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on the pair out of those on its resources: the first verdict of the result that prevails.

    A node is fenced whole, so one resource that needs a person stops it all, and so do resources of which some
    favour the target and others the candidate. No replicated resource at all: a person.
    """
    first = {verdict.result: verdict for verdict in reversed(verdicts)}
    if not first:
        return Verdict(Result.PERSON, "-", "no-replicated-resource", "no replicated resource says who is newest")
    if Result.PERSON in first:
        return first[Result.PERSON]
    if Result.PREFER_T in first:
        if first.keys() & {Result.GRANT, Result.GRANT_COLD, Result.CONSENT}:
            return Verdict(Result.PERSON, "-", "resources-disagree", "some resources favour the target, some us")
        return first[Result.PREFER_T]
    order = (Result.CONSENT, Result.GRANT_COLD, Result.GRANT, Result.TIE)
    return next(first[result] for result in order if result in first)


def cases() -> Iterator[Case]:
    """Every combination that the table must answer, in the order of its columns."""
    for own, target, gen, age, roles, fresh, gate in cells():
        words = (cast(Roles, roles), cast(Fresh, fresh), cast(Gate, gate))
        yield Case(Disk(own), Disk(target), Relation(gen), AgeOrder(age), *words)


def cells() -> Iterator[tuple[str, ...]]:
    """The same in words."""
    return product(*COLUMNS.values())


def rows_markdown() -> str:
    """The table for the documentation, between the markers `<!-- verdict-table -->` of ARCHITECTURE.md."""
    head = ("row", *COLUMNS, "result", "reason", "why")
    lines = [head, ("---",) * len(head)]
    lines += [(r.verdict.row, *r.cells, r.verdict.result, r.verdict.reason, r.verdict.text) for r in ROWS]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
