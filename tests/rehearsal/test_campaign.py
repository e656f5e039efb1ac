"""The record of the long runs: it goes on where it stopped, and counts nothing of another code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guard.rehearsal import mixture
from tests.rehearsal import campaign


def test_it_goes_on_where_it_stopped_and_tells_what_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sessions of one chunk each: the seeds follow one another, and the sum is over both."""
    size, record = 3, tmp_path / "record.jsonl"
    words = ["--out", str(tmp_path), "--record", str(record), "--only", "secondary-death", "--minutes", "0"]
    words += ["--workers", "1", "--chunk", str(size)]
    assert campaign.main(words) == 0
    with record.open("a") as out:
        out.write('{"code":"')  # the machine died in the middle of a line
    assert campaign.main(words) == 0
    played = campaign.lines(record, {"secondary-death": campaign.code("secondary-death")})
    assert [(each["seed"], each["runs"]) for each in played] == [(1, size), (1 + size, size)]
    said = capsys.readouterr().out
    assert f"| `secondary-death` | {2 * size} | {sum(each['units'] for each in played)} pair-deaths" in said


def test_only_what_is_furthest_behind_is_played_and_only_what_is_missing() -> None:
    """The share of the goal decides, not the number."""
    done = [{"scenario": "github-2012", "runs": 41_000}, {"scenario": "late-shots", "runs": 4_000}]
    names = ["github-2012", "late-shots"]
    assert campaign.next_chunk(done, names) == ("late-shots", 4_001, campaign.CHUNK_OTHERS)
    done[1]["runs"] = 9_990
    assert campaign.next_chunk(done, names) == ("github-2012", 41_001, campaign.CHUNK["github-2012"])
    done[0]["runs"] = 82_000
    assert campaign.next_chunk(done, names) == ("late-shots", 9_991, 10)
    done[1]["runs"] = 10_000
    assert campaign.next_chunk(done, names) is None


def test_lines_of_another_code_and_torn_ones_are_not_counted(tmp_path: Path) -> None:
    """A decision that changed was not rehearsed."""
    record = tmp_path / "campaign.jsonl"
    record.write_text(
        '{"code":"now","scenario":"a","runs":1}\n{"code":"then","scenario":"a","runs":1}\n'
        '{"code":"now","scenario":"another","runs":1}\n{"code":"now","ru'
    )
    assert campaign.lines(record, {"a": "now"}) == [{"code": "now", "scenario": "a", "runs": 1}]


def test_a_decision_and_the_scenario_are_the_code_and_words_are_not(tmp_path: Path) -> None:
    """A docstring put right is no reason to play a million freezes again; an operator put wrong is."""
    core, scenario = tmp_path / "guard/core/verdict.py", tmp_path / "guard/rehearsal/catalogue/late.toml"
    for path, text in ((core, 'def f(a):\n    """Says."""\n    return a < 1\n'), (scenario, "pairs = 1")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    before = campaign.code("late", tmp_path)
    core.write_text('def f(a):\n    """Says more."""\n    return a < 1  # less\n')
    assert campaign.code("late", tmp_path) == before
    core.write_text('def f(a):\n    """Says."""\n    return a <= 1\n')
    assert campaign.code("late", tmp_path) != before
    core.write_text('def f(a):\n    """Says."""\n    return a < 1\n')
    scenario.write_text("pairs = 2")
    assert campaign.code("late", tmp_path) != before


def test_nothing_broke_in_what_is_recorded() -> None:
    """The record that is kept with the code: what README says of it is its sum."""
    kept = [json.loads(line) for line in campaign.RECORD.read_text(encoding="utf-8").splitlines()]
    assert kept
    assert [line for line in kept if line["violations"] or line["unmet"]] == []


def test_a_mixture_is_played_like_a_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its faults are counted by kind; two processes bring the same sums as one."""
    for workers in ("1", "2"):
        words = ["--out", str(tmp_path), "--record", str(tmp_path / workers), "--only", campaign.MIXTURE]
        assert campaign.main([*words, "--minutes", "0", "--workers", workers, "--chunk", "12"]) == 0
        assert "| `mixture` | 12 | 12 mixtures" in capsys.readouterr().out
    sums = [json.loads((tmp_path / workers).read_text()) | {"seconds": 0} for workers in ("1", "2")]
    assert sums[0] == sums[1]
    assert sum(key.startswith("fault ") for key in sums[0]["counts"]) > 10


def test_a_mixture_that_breaks_a_rule_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The seed and the end of its story are printed, and the rule stands in the record."""
    came = mixture.Came(range(7, 8), (), failed={7: ("   1.000 A  does it", "Violation S4: twice")})
    line = campaign.mixed(7, 1, "now", 1, lambda *_: (came,))
    told = capsys.readouterr()
    assert "seed 7" in told.err
    assert "does it" in told.err
    assert line["violations"] == {"S4": 1}
    assert "| S4: 1 |" in campaign.report([line])
