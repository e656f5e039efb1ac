"""Scenarios as data: what may be written, what is drawn, and what a wrong word is answered with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guard.errors import SettingsError
from guard.rehearsal.faults import FAULTS
from guard.rehearsal.scenario import Scenario, draw, load, made, names
from guard.rehearsal.values import Choice, LogUniform, Uniform, Wrong, plain, resolved, shown, stream

NAMES = {
    "github-2012", "plain-death", "secondary-death", "bond-cut", "witness-down", "both-power-loss", "resync-cut",
    "stop-failure", "paused-vm", "late-shots", "target-2018", "rack-power", "upgrade-guards",
}  # fmt: skip


def minimal(**changed: object) -> dict[str, object]:
    """The smallest scenario, with changes."""
    content: dict[str, object] = {
        "name": "one-cut",
        "text": "one cut of the path",
        "story": "the path between the nodes is cut and comes back",
        "parameters": {
            "freeze_s": {"text": "how long it lasts", "default": {"uniform": [1, 9]}, "range": [0, 900]},
            "way": {"text": "what it does to frames", "default": "cut", "allowed": ["cut", "held"]},
            "loud": {"text": "a truth value of no use", "default": {"choice": [True, False]}},
        },
        "phases": [{"text": "the path is cut", "fault": "cut", "lasts": "$freeze_s"}],
        "promises": [{"text": "nobody is shot", "shot": "nobody"}],
    }
    return {**content, **changed}


def said(content: object) -> str:
    with pytest.raises(SettingsError) as refused:
        made(content, "x.toml")  # type: ignore[arg-type]
    return str(refused.value)


def test_the_catalogue_has_every_scenario_and_each_is_valid() -> None:
    """Every scenario of the plan is there, says what it promises, and names only faults and parameters that exist."""
    assert set(names()) == NAMES
    for name in names():
        scenario = load(name)
        assert scenario.name == name
        assert all(len(promise.text) > 8 for promise in scenario.promises)
        assert {phase.fault for phase in scenario.phases} <= set(FAULTS)


def test_a_scenario_survives_its_own_transcript() -> None:
    """What is written into a transcript reads back as the same scenario."""
    for name in names():
        scenario = load(name)
        assert made(plain(scenario), "again") == scenario


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"surprise": 1}, "surprise"),
        ({"promises": []}, "promises"),
        ({"phases": [{"text": "something odd", "fault": "no-such-fault"}]}, "'no-such-fault' is unknown"),
        ({"phases": [{"text": "something odd", "fault": "cut", "lasts": "$no"}]}, "$no is no parameter"),
        ({"phases": [{"text": "something odd", "fault": "cut", "lasts": "$freeze_s + x"}]}, "no sum"),
        ({"phases": [{"text": "something odd", "fault": "cut", "args": {"no": 1}}]}, "has no 'no'"),
        ({"phases": [{"text": "something odd", "fault": "cut", "when": {"way": "lost"}}]}, "'lost' is not allowed"),
        ({"show_by": ["no"]}, "'no' is no parameter"),
        ({"promises": [{"text": "only sometimes", "shot": "nobody", "when": {"loud": True}}]}, "must have no `when`"),
        ({"parameters": {"x": {"text": "out of range", "default": 5, "range": [1, 2]}}}, "allowed is 1 to 2"),
        ({"parameters": {"x": {"text": "out of range", "default": {"uniform": [1, 3]}, "range": [1, 2]}}}, "1 to 2"),
        ({"stock": {"kind": "stp", "seconds": 1, "rows": [{"set": {"no": 1}}]}}, "'no' is unknown"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_the_reason(changed: dict[str, object], why: str) -> None:
    """Nothing unknown is skipped, and a rehearsal never runs on a guess of what was meant."""
    assert why in said(minimal(**changed))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("1m30s", 90),
        ("1..900", Uniform(uniform=(1, 900))),
        ("1s..15m", Uniform(uniform=(1, 900))),
        ("{log-uniform=[1,900]}", LogUniform(log_uniform=(1, 900))),
        ("{choice=[1,2], weights=[1,0]}", Choice(choice=(1, 2), weights=(1, 0))),
    ],
)
def test_a_number_may_be_set_in_every_form(word: str, value: object) -> None:
    """A value, a duration, a range, a distribution; and what is shown of it can be given back."""
    scenario = made(minimal(), "x").with_set([f"freeze_s={word}"])
    assert scenario.parameters["freeze_s"].default == value
    if not isinstance(value, Choice):
        again = made(minimal(), "x").with_set([f"freeze_s={shown(value)}"])  # type: ignore[arg-type]
        assert again == scenario


@pytest.mark.parametrize(
    "given", ["freeze_s=-1", "freeze_s=901", "freeze_s=1..901", "freeze_s=9..1", "freeze_s=long", "freeze_s=",
              "freeze_s", "no=1", "way=lost", "way=3", "loud=maybe", "loud=1", "rounds=0", "limits=none", "one_cell=2",
              "freeze_s={log-uniform=[0,9]}", "freeze_s={choice=[]}", "freeze_s={no=1}", "freeze_s={"],
)  # fmt: skip
def test_a_wrong_set_says_what_why_and_next(given: str) -> None:
    """`--set` refuses what does not exist and what does not fit, and says what would."""
    with pytest.raises(Wrong) as refused:
        made(minimal(), "x").with_set([given])
    assert refused.value.what.startswith("cannot set")
    assert refused.value.why
    assert refused.value.next_step


def test_one_parameter_set_leaves_every_other_draw_alone() -> None:
    """The same seed stays the same case in all that was not set: runs with other settings can be compared."""
    scenario = made(minimal(), "x")
    changed = scenario.with_set(["way=held"])
    for seed in range(20):
        one, other = draw(scenario, seed, 3, 0), draw(changed, seed, 3, 0)
        assert other == {**one, "way": "held"}


def test_draws_differ_by_seed_and_round_and_pair() -> None:
    """No two cases are the same by accident; what is drawn for the round is the same for all its pairs."""
    content = minimal()
    content["parameters"]["own"] = {  # type: ignore[index]
        "text": "of each pair", "default": {"uniform": [0, 1]}, "range": [0, 1], "each": "pair",
    }  # fmt: skip
    scenario = made(content, "x")
    drawn = [draw(scenario, seed, turn, pair) for seed in (1, 2) for turn in (0, 1) for pair in (0, 1)]
    assert len({each["own"] for each in drawn}) == 8
    assert len({each["freeze_s"] for each in drawn}) == 4
    assert all(1 <= float(each["freeze_s"]) <= 9 for each in drawn)


def test_a_sum_of_parameters_is_their_sum() -> None:
    """`$a + $b + 2`, for phases that follow each other."""
    assert resolved("$a + $b + 2", {"a": 1.5, "b": 3}, stream("x")) == 6.5
    assert resolved("$a", {"a": "word"}, stream("x")) == "word"
    assert resolved("pair+devices", {}, stream("x")) == "pair+devices"


def test_draws_do_not_depend_on_the_hash_seed() -> None:
    """The same seed is the same case in every process."""
    code = (
        "from guard.rehearsal.scenario import draw, load; print([draw(load('github-2012'), s, 0, 0) for s in range(9)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(salt)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for salt in (1, 2)
    }
    assert len(printed) == 1
    assert "freeze_s" in printed.pop()


def test_a_file_is_read_by_its_name_and_a_missing_one_is_said(tmp_path: Path) -> None:
    """FILE.toml works like a name of the catalogue; a name that is none tells the names there are."""
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ntext = "a case of mine"\nstory = "nothing of note happens"\n'
        '[[phases]]\ntext = "the path is cut"\nfault = "cut"\nlasts = 3\n'
        '[[promises]]\ntext = "nobody is shot"\nshot = "nobody"\n'
    )
    assert isinstance(load(str(file)), Scenario)
    for name in ("no-such", str(tmp_path / "none.toml")):
        with pytest.raises(Wrong):
            load(name)
    file.write_text("name = [")
    with pytest.raises(SettingsError):
        load(str(file))
