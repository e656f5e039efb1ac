"""The lab's stock pairs, row by row (facts/labs.md, A.3), each with its own settings, against the modelled pair.

Nothing is fitted to an outcome: a row has the settings that the lab had, the model one set of constants for all.
A share agrees when it lies within the Wilson 95 % interval of what was measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from guard.rehearsal.stock import play
from guard.rehearsal.stock_setting import Edit, Freeze, Side, StockOutcome, StockSetting

LAB = StockSetting(token_s=1.0, latency_s=0.3, retry_s=0.5, power_timeout_s=3.0, stonith_timeout_s=8.0)
"""The lab's scaled timers, about 1 : 7.5."""
DEFAULTS = replace(LAB, power_timeout_s=20.0, stonith_timeout_s=60.0)
UNSCALED = StockSetting(token_s=3.0, latency_s=1.0, retry_s=1.0, power_timeout_s=20.0, stonith_timeout_s=60.0)
STP_12 = Freeze("stp", 12.0)
HOLE_90 = Freeze("blackhole", 90.0)
MID_S = 7.0
"""When people act "mid-freeze": written down for (e2) only; taken for (f) and (h) too."""
PAIRS = 7
"""Pairs in a run of the lab; the primary alternates, so four of seven are node 1."""
Z = 1.959964
"""95 % of a normal distribution lie within Z standard deviations."""


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs of which 0, 1, 2 nodes were shot; whose primary was, alone; that served 12 s later (None: a bound only)."""

    name: str
    setting: StockSetting
    freeze: Freeze
    shot: tuple[int, int, int]
    primary: int
    alone: int
    up: int | None

    @property
    def pairs(self) -> int:
        return sum(self.shot)

    def measured(self) -> dict[str, int]:
        """Pairs by share; `alone` is the wrong node: the primary and only the primary."""
        zero, one, both = self.shot
        found = {"none": zero, "one": one, "both": both, "primary": self.primary, "alone": self.alone}
        return found if self.up is None else {**found, "up": self.up}


BEFORE = Edit(-60.0, "maintain")
SET_MID = Edit(MID_S, "maintain")

ROWS = (
    Row("a stock", LAB, STP_12, (0, 6, 15), 17, 2, 6),
    Row("a default timeouts", DEFAULTS, STP_12, (0, 4, 17), 19, 2, 4),
    Row("a L 0", replace(LAB, latency_s=0.0), STP_12, (0, 20, 1), 10, 9, 20),
    Row("a L 1", replace(LAB, latency_s=1.0), STP_12, (0, 0, 7), 7, 0, 0),
    Row("a R 2", replace(LAB, retry_s=2.0), STP_12, (0, 2, 5), 5, 0, 2),
    Row("a reboot", replace(LAB, action="reboot"), STP_12, (0, 1, 6), 7, 1, 1),
    Row("a black hole", LAB, Freeze("blackhole", 12.0), (0, 1, 6), 7, 1, 1),
    Row("a late", LAB, Freeze("late", 12.0), (0, 0, 7), 7, 0, 0),
    Row("a unscaled", UNSCALED, HOLE_90, (0, 1, 9), 9, 0, 1),
    Row("b delay-max 2", replace(LAB, delay_max_s=2), STP_12, (0, 6, 15), 20, 5, 6),
    Row("b delay-max 15 unscaled", replace(UNSCALED, delay_max_s=15), HOLE_90, (0, 3, 7), 8, 1, 3),
    Row("b delay-max 30", replace(LAB, delay_max_s=30), STP_12, (0, 6, 1), 3, 2, 6),
    Row("c priority 2", replace(LAB, priority_delay_s=2.0), STP_12, (0, 9, 12), 12, 0, 9),
    Row("c priority 15 unscaled", replace(UNSCALED, priority_delay_s=15.0), HOLE_90, (0, 3, 7), 10, 3, 3),
    Row("c priority 20", replace(LAB, priority_delay_s=20.0), STP_12, (0, 21, 0), 0, 0, 21),
    Row("d qdevice in-band", replace(LAB, quorum="qdevice-in-band"), STP_12, (21, 0, 0), 0, 0, 21),
    Row("d qdevice out-of-band", replace(LAB, quorum="qdevice-oob"), STP_12, (0, 21, 0), 9, 9, 21),
    Row("e maintenance before", replace(LAB, edits=(BEFORE,)), STP_12, (21, 0, 0), 0, 0, 21),
    Row("e2 both, default timeouts", replace(DEFAULTS, edits=(SET_MID,)), STP_12, (0, 3, 18), 20, 2, None),
    Row("e2 both, timeout 8", replace(LAB, edits=(SET_MID,)), STP_12, (21, 0, 0), 0, 0, 21),
    Row("e2 primary's side", replace(DEFAULTS, edits=(replace(SET_MID, on="primary"),)), STP_12, (0, 1, 6), 6, 0, 1),
    Row("f cleared on both", replace(LAB, edits=(BEFORE, Edit(MID_S, "manage"))), STP_12, (0, 14, 7), 13, 6, 13),
    Row(
        "f cleared, primary's side",
        replace(LAB, edits=(BEFORE, Edit(MID_S, "manage", "primary"))),
        STP_12, (0, 21, 0), 0, 0, 21,
    ),
    Row(
        "f cleared, secondary's side",
        replace(LAB, edits=(BEFORE, Edit(MID_S, "manage", "secondary"))),
        STP_12, (0, 21, 0), 21, 21, 21,
    ),
    Row(
        "f cleared after the thaw",
        replace(LAB, edits=(BEFORE, Edit(4.0, "manage", after_thaw=True))),
        STP_12, (7, 0, 0), 0, 0, 7,
    ),
    Row("g second ring", replace(LAB, rings=2), STP_12, (7, 0, 0), 0, 0, 7),
    Row("h devices stopped", replace(DEFAULTS, edits=(Edit(MID_S, "stop-devices"),)), STP_12, (0, 0, 7), 7, 0, 0),
    Row(
        "h agents killed 1.2 s",
        replace(DEFAULTS, edits=(SET_MID, Edit(MID_S + 0.2, "kill-agents", for_s=1.2))),
        STP_12, (0, 1, 6), 6, 0, 1,
    ),
    Row(
        "h agents killed 4 s",
        replace(DEFAULTS, edits=(SET_MID, Edit(MID_S + 0.2, "kill-agents", for_s=4.0))),
        STP_12, (7, 0, 0), 0, 0, 7,
    ),
    Row("m written at 0.7 s", replace(DEFAULTS, edits=(Edit(0.7, "maintain"),)), STP_12, (5, 0, 0), 0, 0, 5),
    Row("m written at 2.5 s", replace(DEFAULTS, edits=(Edit(2.5, "maintain"),)), STP_12, (0, 3, 2), 5, 3, 0),
    Row("m at 2.5 s, timeout 8", replace(LAB, edits=(Edit(2.5, "maintain"),)), STP_12, (5, 0, 0), 0, 0, 5),
    Row(
        "m qdevice in-band",
        replace(LAB, quorum="qdevice-in-band", edits=(Edit(MID_S, "maintain"),)),
        STP_12, (5, 0, 0), 0, 0, 0,
    ),
)  # fmt: skip
"""Rows of the table in order; settings that it does not name are the lab's scaled ones."""

DEATHS = (
    ("stock", LAB, 2.9),
    ("priority 20", replace(LAB, priority_delay_s=20.0), 23.7),
    ("qdevice out-of-band", replace(LAB, quorum="qdevice-oob"), 4.3),
)
"""What a real death costs: setting and the measured median (7 pairs) from the power loss to the promotion, seconds."""


MISSES: Mapping[str, str] = MappingProxyType(
    {
        "b delay-max 15 unscaled": "cause not known: the lab's nodes were more often not trying at the thaw than the"
        " model's; all unscaled rows share one phase of attempts and freeze (labs.md, A.5, 1)",
        "c priority 15 unscaled": "as above: the lab saw the undelayed side idle for 2.5 s about the thaw, the model's"
        " fencer asks again after 0.1 s",
        "c priority 2": "attempt 2 of the delayed side ends at about the thaw: 0.5 s more or less of it decide",
        "f cleared on both": 'the table says only "mid-freeze", 7 s is taken; cleared at 8 s the model agrees',
        "m written at 2.5 s": 'the table says "about 2.5 s", when half the requests are out; at 2.8 s the model agrees',
    }
)
"""Rows that do not agree, and what is known of why. Their settings and the constants are left as they are."""


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The interval that holds the true share with 95 %, `hits` of `of` having been seen."""
    share, square = hits / of, Z * Z
    middle = share + square / (2 * of)
    reach = Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return (middle - reach) / (1 + square / of), (middle + reach) / (1 + square / of)


def primary_of(seed: int) -> Side:
    """As in the lab: pair by pair the other node."""
    return "A" if seed % PAIRS % 2 == 0 else "B"


def modelled(row: Row, seeds: range) -> dict[str, float]:
    """The share of plays, by the names of `Row.measured`."""
    counted = dict.fromkeys(("none", "one", "both", "primary", "alone", "up"), 0)
    for seed in seeds:
        found = play(seed, row.setting, row.freeze, primary_of(seed))
        counted[("none", "one", "both")[len(found.shots)]] += 1
        counted["primary"] += found.primary_shot
        counted["alone"] += found.wrong_node
        counted["up"] += found.service_up_after
    return {name: count / len(seeds) for name, count in counted.items()}


def disagreements(row: Row, shares: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """Shares outside the interval of the lab's: (modelled, low, high) by name."""
    out = {}
    for name, hits in row.measured().items():
        low, high = wilson(hits, row.pairs)
        if not low - 1e-9 <= shares[name] <= high + 1e-9:
            out[name] = (shares[name], low, high)
    return out


def promoted_s(setting: StockSetting, seeds: range) -> float:
    """Median time from the primary's death to its peer serving."""
    found: list[StockOutcome] = [play(seed, setting, Freeze("death", 12.0), primary_of(seed)) for seed in seeds]
    return statistics.median(one.served_s for one in found if one.served_s is not None)


def report(seeds: int) -> str:
    """The comparison as a table."""
    lines = [
        f"{seeds} plays a row; measured in % with the Wilson 95 % interval, then modelled; ! is outside",
        f"{'row':28}{'n':>3}  {'both shot':22}{'one':>5}{'none':>6}{'primary':>9}{'alone':>7}{'up':>5}",
    ]
    outside = 0
    for row in ROWS:
        shares = modelled(row, range(seeds))
        wrong = disagreements(row, shares)
        outside += bool(wrong)
        low, high = wilson(row.shot[2], row.pairs)
        both = f"{_cent(row.shot[2] / row.pairs)} ({_cent(low)}-{_cent(high)})"
        cells = {name: f"{100 * share:.1f}" + ("!" if name in wrong else " ") for name, share in shares.items()}
        lines.append(
            f"{row.name:28}{row.pairs:>3}  {both:13}{cells['both']:>9}{cells['one']:>7}{cells['none']:>6}"
            f"{cells['primary']:>8}{cells['alone']:>7}{cells['up']:>7}"
        )
        for name, (share, low, high) in wrong.items():
            lines.append(f"    {name}: {100 * share:.1f} is not in {100 * low:.1f}-{100 * high:.1f}")
        if wrong and row.name in MISSES:
            lines.append(f"    {MISSES[row.name]}")
    lines.append(f"{len(ROWS) - outside} of {len(ROWS)} rows agree in every share")
    for name, setting, measured in DEATHS:
        found = promoted_s(setting, range(min(seeds, 2001)))
        lines.append(f"death, {name}: promoted after {found:.1f} s (median; measured {measured} s)")
    return "\n".join(lines)


def _cent(share: float) -> str:
    return f"{100 * share:.0f}"
