"""The record of the long runs: it goes on where it stopped, and counts nothing of another code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rehearsal import campaign


def test_it_goes_on_where_it_stopped_and_tells_what_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sessions of one chunk each: the seeds follow one another, and the sum is over both."""
    words = ["--out", str(tmp_path), "--only", "secondary-death", "--minutes", "0", "--workers", "1"]
    size = campaign.CHUNK["secondary-death"] = 3
    try:
        assert campaign.main(words) == 0
        with (tmp_path / "campaign.jsonl").open("a") as record:
            record.write('{"code":"')  # the machine died in the middle of a line
        assert campaign.main(words) == 0
    finally:
        del campaign.CHUNK["secondary-death"]
    played = campaign.lines(tmp_path / "campaign.jsonl", campaign.code())
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
    record.write_text('{"code":"now","runs":1}\n{"code":"then","runs":1}\n{"code":"now","ru')
    assert campaign.lines(record, "now") == [{"code": "now", "runs": 1}]
    for folder in ("guard/core", "guard/rehearsal"):
        (tmp_path / folder).mkdir(parents=True)
    before = campaign.code(tmp_path)
    (tmp_path / "guard/core/verdict.py").write_text("another")
    assert campaign.code(tmp_path) != before
