"""Timelines that the lab and the rehearsed world both play (tests/lab/seeds): all that needs no lab."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import guarded
from tests.lab.plan import first_primary
from tests.lab.seeds import modelled, run
from tests.lab.seeds.outcome import MAY_DIFFER, WIDTH, Compared, Outcome, Pace, differences, never, table
from tests.lab.seeds.timeline import (
    DEATHS,
    FAULTS_MAX,
    KINDS,
    PAIRS,
    PRIMARY,
    SECONDARY,
    SECONDS,
    WIDE,
    Fault,
    Timeline,
    timeline,
)

SEEDS = range(1, 51)
DEATH = Timeline(0, "in-band", (Fault("crash", 0.0, 8.0, "fs1", PRIMARY),))
CALM = Timeline(0, "out-of-band", (Fault("guard", 0.0, 4.0, "fs2", SECONDARY),))


# ------------------------------------------------------------------ the generator


def test_a_seed_always_gives_the_same_timeline() -> None:
    """What is played depends on the seed alone, also where a seed was recorded on another machine."""
    assert [timeline(seed) for seed in SEEDS] == [timeline(seed) for seed in SEEDS]
    assert timeline(2).words() == "out-of-band: hold 0-20.3 s; stp 6.3-15 s"


def test_fifty_seeds_cover_every_kind_on_either_role_and_place() -> None:
    """Whoever plays 50 seeds has played every kind of fault, both places of the arbiter, and faults that overlap."""
    lines = [timeline(seed) for seed in SEEDS]
    kinds = Counter(fault.kind for line in lines for fault in line.faults)
    assert set(kinds) == set(KINDS)
    assert {line.arbiter for line in lines} == {"in-band", "out-of-band"}
    assert {fault.role for line in lines for fault in line.faults if fault.kind in DEATHS} == {PRIMARY, SECONDARY}
    assert {len(line.faults) for line in lines} == {1, 2, 3}
    assert any(a.at_s < b.at_s < a.end_s for line in lines for a in line.faults for b in line.faults)


def test_every_timeline_can_be_played() -> None:
    """Few faults of 4 to 20 s each, one of the whole network, one death a pair, a hold around the work it announces."""
    for line in map(timeline, range(1000)):
        assert 1 <= len(line.faults) <= FAULTS_MAX
        assert line.faults[0].at_s == 0.0
        assert sum(fault.kind in WIDE for fault in line.faults) <= 1
        assert all(SECONDS[0] <= fault.seconds <= SECONDS[1] for fault in line.faults if fault.kind != "hold")
        assert max(Counter(fault.pair for fault in line.faults if fault.kind in DEATHS).values(), default=0) <= 1
        for held in (fault for fault in line.faults if fault.kind == "hold"):
            assert line.wide is not None
            assert held.at_s < line.wide.at_s
            assert line.wide.end_s < held.end_s


# ------------------------------------------------------------------ the modelled side


def test_the_world_is_set_as_the_lab_is() -> None:
    """Another limit in the lab's settings must reach the world too."""
    policy = modelled.POLICY
    limits = {"settle": policy.settle_s, "sampling": policy.sampling_s, "cold": policy.cold_s}
    assert {name: f"{seconds:g}s" for name, seconds in limits.items()} == guarded.LIMITS
    assert f"{modelled.HORIZON_S:g}s" == guarded.HORIZON


def test_fifty_seeds_break_no_rule_in_the_world() -> None:
    """S1-S7 after every event, and what is read off the outcomes: nobody wronged, nothing lost, never both."""
    for line in map(timeline, SEEDS):
        assert [text for each in modelled.play(line) for text in never(line, each)] == [], line.words()


def test_the_world_plays_a_seed_the_same_way_twice() -> None:
    """A difference that was seen can be looked at again."""
    assert modelled.play(timeline(11)) == modelled.play(timeline(11))


def test_the_world_plays_at_the_pace_that_the_lab_recorded() -> None:
    """A cut primary whose handler is slow dies before it has won, and its peer serves; else a person decides."""
    line = timeline(10)
    slow = modelled.play(line, paces={"fs3a": Pace(handler_s=3.5, agent_s=4.5)})
    quick = modelled.play(line, paces={"fs3a": Pace(handler_s=0.2)})
    assert [next(each.serves for each in side if each.pair == "fs3") for side in (slow, quick)] == ["fs3b", ""]


def test_a_node_whose_links_all_fell_is_shot_and_its_peer_serves() -> None:
    """Seed 13, as on the lab: nothing that the cut node sees reaches the arbiter, so nothing contradicts its death."""
    fs1 = next(each for each in modelled.play(timeline(13)) if each.pair == "fs1")
    assert (fs1.shot, fs1.serves) == (("fs1a",), "fs1b")


def test_the_world_names_nodes_as_the_lab_does() -> None:
    """Whoever is primary on the lab is the one that a timeline's `primary` means in the world."""
    primaries = {"fs1": "fs1b", "fs2": "fs2b", "fs3": "fs3a"}
    dead = next(each for each in modelled.play(DEATH, primaries) if each.pair == "fs1")
    assert (dead.primary, dead.serves, dead.promoted, dead.stopped_s > 0) == ("fs1b", "fs1a", True, True)


# ------------------------------------------------------------------ the comparison


def outcomes(line: Timeline) -> tuple[Outcome, ...]:
    """What nobody would wonder at: a crashed primary's peer serves."""
    found = []
    for pair in PAIRS:
        first = first_primary(pair)
        dead = bool(line.of(pair, *DEATHS))
        other = pair + ("b" if first.endswith("a") else "a")
        found.append(Outcome(pair, first, serves=other if dead else first, stopped_s=6.0 * dead, promoted=dead))
    return tuple(found)


def test_the_same_outcomes_do_not_differ() -> None:
    """No difference is made up."""
    assert differences(DEATH, outcomes(DEATH), outcomes(DEATH)) == []


UNCOMPARED = ("pair", "broken", "slow")
PLANTED: dict[str, object] = {
    "primary": "fs1b", "shot": ("fs1a",), "offs": 2, "serves": "", "stopped_s": 100.0, "promoted": False, "both": True,
    "lost": 3, "split": True, "held": True, "pages": ("person",), "whole": False, "era": True,
}  # fmt: skip


@pytest.mark.parametrize("field", [f for f in Outcome.__dataclass_fields__ if f not in UNCOMPARED])
def test_a_difference_in_any_field_is_found(field: str) -> None:
    """Each field of the record is compared, and a planted difference of it is red."""
    first, *rest = outcomes(DEATH)
    other = replace(first, **{field: PLANTED[field]})  # type: ignore[arg-type]
    assert [(each.pair, each.field) for each in differences(DEATH, (first, *rest), (other, *rest))] == [("fs1", field)]
    assert Compared(DEATH, (first, *rest), (other, *rest)).red


def test_a_pair_that_one_side_lacks_is_a_difference() -> None:
    """A side that says nothing of a pair does not agree with the other."""
    assert [each.pair for each in differences(DEATH, outcomes(DEATH), outcomes(DEATH)[1:])] == ["fs1"]
    assert [each.pair for each in differences(DEATH, outcomes(DEATH)[1:], outcomes(DEATH))] == ["fs1"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"both": True}, "both"),
        ({"lost": 1}, "lost"),
        ({"split": True}, "split brain"),
        ({"shot": ("fs2a",)}, "nothing befell it"),
        ({"broken": ("S5: fires while held",)}, "S5"),
    ],
)
def test_a_broken_rule_is_red_though_both_sides_agree(changed: dict[str, object], word: str) -> None:
    """What must never be is looked at on each side alone."""
    wrong = tuple(replace(each, **changed) if each.pair == "fs2" else each for each in outcomes(CALM))  # type: ignore[arg-type]
    one = Compared(CALM, wrong, wrong)
    assert one.differences == []
    assert one.red
    assert any(word in said for said in one.broken)
    assert Compared(CALM, outcomes(CALM), wrong).red


def test_a_lab_that_failed_is_no_agreement() -> None:
    """A seed that could not be played is red."""
    assert Compared(CALM, (), outcomes(CALM), "the site did not form").red


def test_few_differences_are_excused_and_each_has_its_reason() -> None:
    """The list of races is short, and none excuses a shot, a lost write, a split brain or both at once."""
    assert len(MAY_DIFFER) <= 6
    assert len({each.name for each in MAY_DIFFER}) == len(MAY_DIFFER)
    for each in MAY_DIFFER:
        assert len(each.text) > 40
        assert not each.fields & {"primary", "shot", "offs", "both", "lost", "split", "whole"}


def test_a_real_start_that_takes_longer_is_excused_one_bucket_far() -> None:
    """6 s and 20 s of a stop are neighbours; 6 s and 60 s are not, and no stop at all has no neighbour."""
    first, *rest = outcomes(DEATH)

    def red(seconds: float) -> bool:
        return Compared(DEATH, (replace(first, stopped_s=seconds), *rest), outcomes(DEATH)).red

    assert [red(seconds) for seconds in (10.0, 20.0, 60.0, 0.0)] == [False, False, True, True]


def excused(line: Timeline, **changed: object) -> set[str]:
    """The reasons for which a change of the first pair on the lab's side may be."""
    first, *rest = outcomes(line)
    found = differences(line, (replace(first, **changed), *rest), outcomes(line))  # type: ignore[arg-type]
    return {each.reason for each in found}


def test_a_race_is_excused_only_where_it_can_have_been_run() -> None:
    """A page of a wait may come or not, any other page not; a hold only with a slow agent; an era only with a guard."""
    cut = Fault("blackhole", 0.0, 9.0)
    guard = Timeline(0, "in-band", (cut, Fault("guard", 1.0, 4.0, "fs1", PRIMARY)))
    assert excused(CALM, pages=("arbiter-silent",)) == {"page-after-10-s"}
    assert excused(CALM, pages=("arbiter-silent", "person")) == {""}
    assert excused(CALM, held=True, slow=True) == {"slow-agent"}
    assert excused(CALM, held=True) == {""}
    assert excused(guard, era=True) == {"handler-pause"}
    assert excused(CALM, era=True) == {""}


def test_a_winner_that_died_is_excused_only_in_the_first_seconds() -> None:
    """Where a cut primary won before it died a person decides: the sides may differ, but not for a later death."""
    for at_s, reasons in ((3.0, {"won-before-it-died", "page-after-10-s"}), (8.5, {"", "page-after-10-s"})):
        line = Timeline(0, "out-of-band", (Fault("blackhole", 0.0, 9.0), Fault("crash", at_s, 8.0, "fs1", PRIMARY)))
        changed = {"serves": "", "stopped_s": 100.0, "promoted": False, "pages": ("winner-gone",)}
        assert excused(line, **changed) == reasons


# ------------------------------------------------------------------ what people see, and what is kept


def test_the_table_fits_80_columns_and_names_every_difference() -> None:
    """Any seed's table reads on a terminal; differences, broken rules and failures stand in it in words."""
    first, *rest = outcomes(DEATH)
    wrong = (replace(first, shot=("fs1a", "fs1b"), offs=2, lost=4), *rest)
    many = [Compared(line, outcomes(line), outcomes(line)) for line in map(timeline, SEEDS)]
    lame = Compared(CALM, tuple(replace(each, whole=False) for each in outcomes(CALM)), outcomes(CALM))
    text = table([*many, lame, Compared(DEATH, wrong, (first, *rest)), Compared(CALM, (), outcomes(CALM), "why " * 60)])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "DIFFERS fs1 shot: lab fs1a, fs1b, world none" in text
    assert "BROKEN lab: fs1: 4 acknowledged writes were lost" in text
    assert "DIFFERS, not whole" in text
    assert text.splitlines()[-2].startswith("53 seeds: 50 agrees, 1 DIFFERS, 1 BROKEN, 1 FAILED")


def test_what_was_recorded_is_read_again_for_the_same_state_only(tmp_path: Path) -> None:
    """A seed is not played twice for one state of the repository; another state or timeline plays it again."""
    run.write(tmp_path, DEATH, "c0ffee", outcomes(DEATH), {"fs1b": Pace(2.5, None)})
    kept = run.Recorded(outcomes(DEATH), {"fs1b": Pace(2.5, None)})
    assert run.read(tmp_path, DEATH, "c0ffee") == kept
    assert run.read(tmp_path, DEATH, None) == kept
    assert run.read(tmp_path, DEATH, "decaf") is None
    assert run.read(tmp_path, CALM, "c0ffee") is None
    (tmp_path / "seed-0" / "outcome.json").write_text("{")
    assert run.read(tmp_path, DEATH, "c0ffee") is None


def test_recorded_seeds_are_compared_without_a_lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--recorded` plays nothing for real; a difference makes the exit code 1, agreement 0, and JSON holds both."""
    line = timeline(7)
    found = modelled.play(line)
    run.write(tmp_path, line, "any", found)
    assert run.main(["--seeds", "7", "--recorded", "--out", str(tmp_path)]) == 0
    run.write(tmp_path, line, "any", [replace(found[0], serves=""), *found[1:]])
    assert run.main(["--seeds", "7", "--recorded", "--out", str(tmp_path)]) == 1
    assert "DIFFERS fs1 serves" in capsys.readouterr().out
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept["seeds"][0]["differences"][0]["field"] == "serves"


def test_seeds_are_read_as_lists_and_ranges() -> None:
    """What `make lab SEEDS=` takes; anything else is refused with an example."""
    assert run.seeds("1-3,7,2") == [1, 2, 3, 7]
    for wrong in ("", "a", "3-1", "1-", "-4"):
        with pytest.raises(argparse.ArgumentTypeError):
            run.seeds(wrong)
