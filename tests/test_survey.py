"""The survey of a site: every fact with source and moment, UNKNOWN where nobody could look, one digest for one site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guard.errors import SettingsError
from guard.survey import Fact, Survey, Value, carried, differences, misfit, read, said, together

AT, LATER = "2026-11-30T09:00:00+00:00", "2026-11-30T11:30:00+01:00"
TOKEN, PATH = "pair.fs1.token_s", "fence.fs1a.path"


def survey(at: str = AT, **facts: Value | None) -> Survey:
    """Keys with `__` for a dot; None is UNKNOWN."""
    named = {key.replace("__", "."): value for key, value in facts.items()}
    return Survey(
        "north", ("fs1a",), {key: Fact(value, "a test", at, "" if value else "unseen") for key, value in named.items()}
    )


def written(folder: Path, content: Any) -> Path:
    file = folder / "survey.json"
    file.write_text(json.dumps(content))
    return file


def test_a_survey_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    """Values, sources, moments and reasons; UNKNOWN stays UNKNOWN."""
    one = survey(pair__fs1__token_s=3.0, fence__fs1a__path=None, pair__fs1__nodes=("fs1a", "fs1b"))
    again = read(written(tmp_path, one.json()))
    assert again == one
    assert again.unknown() == {PATH: "unseen"}


def test_the_digest_is_of_the_values_alone() -> None:
    """An hour later and by another source the same site is the same; a value that is another is not, nor is UNKNOWN."""
    one = survey(pair__fs1__token_s=3.0)
    assert survey(LATER, pair__fs1__token_s=3).digest() == one.digest()
    assert survey(pair__fs1__token_s=3.5).digest() != one.digest()
    assert survey(pair__fs1__token_s=None).digest() != one.digest()


def test_a_survey_that_was_edited_is_refused(tmp_path: Path) -> None:
    """What no program can read is said in a file of its own, under a name; not written into what a program read."""
    content = survey(pair__fs1__token_s=3.0).json()
    content["facts"][TOKEN]["value"] = 30.0
    with pytest.raises(SettingsError, match="changed by hand"):
        read(written(tmp_path, content))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (TOKEN, "3s", "seconds as a number"),
        (TOKEN, -1.0, "seconds as a number"),
        (TOKEN, True, "seconds as a number"),
        (PATH, "agg1", "a list of names"),
        ("node.fs1a.gate.r0.handler_ours", "yes", "true or false"),
        ("pair.fs1.tokens", 3.0, "no survey has this key"),
    ],
)
def test_a_value_of_another_kind_is_no_fact(tmp_path: Path, key: str, value: Value, text: str) -> None:
    """A misspelt key or a number without its sense never passes for knowledge."""
    assert text in misfit(key, value)
    content = Survey("north", (), {key: Fact(value, "x", AT)}).json()
    with pytest.raises(SettingsError, match=text):
        read(written(tmp_path, content))


def test_surveys_of_two_nodes_complete_each_other() -> None:
    """What one could not read the other may have read; of two readings the newer stands."""
    one = survey(pair__fs1__token_s=3.0, fence__fs1a__path=None)
    other = survey(LATER, pair__fs1__token_s=3.0, fence__fs1a__path=("agg1",))
    for order in ((one, other), (other, one)):
        both = together(order)
        assert both.value(PATH) == ("agg1",)
        assert both.facts[TOKEN].at == LATER


def test_nodes_that_contradict_each_other_are_refused() -> None:
    """Both sayings are named, with who said it and when: one of them is wrong."""
    with pytest.raises(SettingsError, match=r"token_s: 3 by a test at .*, but 5 by a test"):
        together([survey(pair__fs1__token_s=3.0), survey(LATER, pair__fs1__token_s=5.0)])


def test_a_port_of_another_pair_is_no_contradiction() -> None:
    """`other` says only that it is none of ours: whoever knows whose it is, is right."""
    mine, theirs = {"switch__agg1__port__Eth3": "other"}, {"switch__agg1__port__Eth3": "fs2a"}
    for order in ((survey(LATER, **mine), survey(**theirs)), (survey(**theirs), survey(LATER, **mine))):
        assert together(order).value("switch.agg1.port.Eth3") == "fs2a"
    with pytest.raises(SettingsError, match="contradict"):
        together([survey(**theirs), survey(switch__agg1__port__Eth3="fs3a")])


def test_a_statement_has_a_name_a_zone_and_a_known_key(tmp_path: Path) -> None:
    """People fill what no program can read; a moment without a zone or an unknown key is refused."""
    file = tmp_path / "said.toml"
    file.write_text('by = "anna"\nat = 2026-11-30T10:00:00+01:00\n[facts]\n"arbiter.path" = []\n')
    found = said(file, "north")
    assert found.facts["arbiter.path"] == Fact((), "said by anna", "2026-11-30T10:00:00+01:00")
    for wrong in (
        'by = "anna"\nat = 2026-11-30T10:00:00\n[facts]\n',
        'by = "anna"\nat = 2026-11-30T10:00:00Z\n[facts]\n"arbiter.way" = []\n',
        "at = 2026-11-30T10:00:00Z\n[facts]\n",
    ):
        file.write_text(wrong)
        with pytest.raises(SettingsError, match=str(file)):
            said(file, "north")


def test_every_fact_that_changed_is_named_with_both_values() -> None:
    """Changed, lost and new: field by field."""
    then = survey(pair__fs1__token_s=3.0, fence__fs1a__path=("agg1",))
    now = survey(LATER, pair__fs1__token_s=10.0, limits__settle=60.0)
    assert [each.text() for each in differences(then, now)] == [
        "fence.fs1a.path: was agg1, is UNKNOWN",
        "limits.settle: was UNKNOWN, is 60",
        "pair.fs1.token_s: was 3, is 10",
    ]
    assert differences(then, then) == ()


def test_what_people_said_is_carried_over_and_nothing_else() -> None:
    """A fresh survey cannot read where a cable runs; what a program read must be read again."""
    stated = Survey("north", (), {PATH: Fact(("agg1",), "said by anna", AT)})
    then = together([survey(pair__fs1__token_s=3.0), stated])
    fresh = carried(then, survey(LATER, fence__fs1a__path=None))
    assert fresh.value(PATH) == ("agg1",)
    assert fresh.value(TOKEN) is None
