"""plan.toml: a step has a way back and the time both take; what is wrong is told with file, key, found and allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.errors import SettingsError
from guard.plan import FREEZE_S, KINDS, Step, load

STEP = """
[[step]]
action = "restart agg1"
kind = "reboot"
elements = ["agg1"]
duration = "20m"
rollback = { action = "boot the old image", duration = "10m" }
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "plan.toml"
    file.write_text(f'change = "CHG-1"\n{text}')
    return file


def refused(file: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load(file)
    return str(caught.value)


def test_a_plan_keeps_its_order_and_has_the_digest_of_its_file(tmp_path: Path) -> None:
    """Steps are done in the order in which they stand, and one other byte is another plan."""
    file = written(tmp_path, STEP + STEP.replace("agg1", "agg2"))
    first = load(file)
    assert [step.elements for step in first.plan.step] == [("agg1",), ("agg2",)]
    file.write_text(file.read_text() + "\n")
    assert load(file).digest != first.digest


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('rollback = { action = "boot the old image", duration = "10m" }', "", "rollback: this key is missing"),
        (', duration = "10m" }', " }", "rollback.duration: this key is missing"),
        ('duration = "20m"', "", "step (number 1).duration: this key is missing"),
        ('duration = "20m"', 'duration = "20"', "write a duration such as 0.3s, 90s, 10m or 1h30m; found '20'"),
        ('duration = "20m"', 'duration = "0s"', "duration is 0s: give the upper bound of experience"),
        ('"reboot"', '"rebot"', "found 'rebot'"),
        ("elements =", "element =", "did you mean 'elements'?"),
        ('["agg1"]', "[]", "elements is empty: name what the step touches"),
        ('["agg1"]', '["Agg 1"]', "found 'Agg 1'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, before: str, after: str, said: str) -> None:
    """File, key, found, allowed: a step without its way back or its time is no step."""
    assert before in STEP
    text = refused(written(tmp_path, STEP.replace(before, after)))
    assert f"{tmp_path}/plan.toml: " in text
    assert said in text


def test_a_plan_without_a_step_is_none(tmp_path: Path) -> None:
    """Nothing to do is a mistake, not a success."""
    assert "step: this key is missing" in refused(written(tmp_path, ""))
    assert "there is no [[step]]" in refused(written(tmp_path, "step = []"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_brief_plan_is_not_believed(tmp_path: Path, kind: str) -> None:
    """A freeze shorter than what its kind has done to others changes nothing; a longer one counts."""

    def bound(freeze: str) -> float:
        more = STEP.replace('"reboot"', f'"{kind}"').replace("rollback", f'freeze = "{freeze}"\nrollback')
        step: Step = load(written(tmp_path, more)).plan.step[0]
        return step.frozen_s()

    assert bound("1s") == FREEZE_S[load(written(tmp_path, STEP.replace('"reboot"', f'"{kind}"'))).plan.step[0].kind]
    assert bound("9h") == 9 * 3600
