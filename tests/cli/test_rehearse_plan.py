"""`pairguard rehearse --plan`, `--site`, `--verify` from end to end: the record is sealed, its facts are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from guard.plan import load
from guard.rehearsal.planned import NOT_HELD, Came, cases, courses
from guard.rehearsal.site import Failure
from guard.rehearsal.tally import Tally, reasons
from guard.survey import Fact, Value, read
from guard.wire import generate
from tests.cli.desk import fits, one_object, pairguard, write_settings

EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "change"
PLAN = """
change = "CHG-7"
[[step]]
action = "restart the process of agg2 that speaks LACP"
kind = "process-restart"
elements = ["agg2"]
duration = "2m"
rollback = { action = "restart it once more", duration = "2m" }
"""


class Site:
    """Settings with keys of the site of the example, a plan, and surveys as files."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config = folder, config
        self.plan = folder / "plan.toml"
        self.plan.write_text(PLAN)
        self.record = folder / "record.json"

    def survey(self, name: str = "survey.json", changed: dict[str, Value | None] | None = None) -> Path:
        """The example's survey with other facts; None is UNKNOWN."""
        at = "2026-11-30T09:00:00+00:00"
        facts = {key: Fact(value, "a test", at, "unseen") for key, value in (changed or {}).items()}
        whole = read(EXAMPLE / "survey.json")
        file = self.folder / name
        file.write_text(json.dumps(replace(whole, facts={**whole.facts, **facts}).json()))
        return file

    def play(self, *words: str, survey: Path | None = None) -> Result:
        given = ("--site", str(survey or self.survey()), "--record", str(self.record), "--runs", "1", "--workers", "1")
        out = ("--out", str(self.folder / "out"))
        return pairguard("rehearse", "--plan", str(self.plan), *given, *out, *words, config=self.config)

    def verify(self, *words: str, survey: Path | None = None) -> Result:
        given = ("--verify", str(self.record), "--site", str(survey or self.survey()))
        return pairguard("rehearse", *given, *words, config=self.config)


def settings(folder: Path) -> Path:
    config = write_settings(folder)
    config.write_text(config.read_text().replace('site = "lab"', 'site = "north"'))
    return config


@pytest.fixture
def site(folder: Path) -> Site:
    return Site(folder, settings(folder))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A plan that kept everything, played once."""
    folder = tmp_path_factory.mktemp("played")
    site = Site(folder, settings(folder))
    done = site.play()
    assert done.exit_code == 0, done.output
    (folder / "screen").write_text(done.stdout)
    return site


@pytest.fixture
def sealed(played: Site, tmp_path: Path) -> Site:
    """Its record and its plan, to be touched."""
    site = Site(tmp_path, played.config)
    site.record.write_bytes(played.record.read_bytes())
    return site


def test_the_table_has_a_row_for_each_step_and_pair_and_fits_80_columns(played: Site) -> None:
    """What was known when, what came of each step, held and not, and where the record is."""
    screen = (played.folder / "screen").read_text()
    fits("\n".join(line for line in screen.splitlines() if not line.startswith("record, ")))
    rows = [line.split() for line in screen.splitlines() if line.startswith("fs1 ")]
    assert rows == [
        ["fs1", "1", "held", "5", "5", "5", "kept", "kept"],
        ["fs1", "1", "not", "held", "5", "5", rows[1][6], "kept", "kept"],
    ]
    for words in (
        "facts of 2026-11-30",
        "UTC",
        "every rule and every promise was kept",
        f"record, sealed: {played.record}",
    ):
        assert words in screen


def test_the_record_says_what_was_played_on_what(sealed: Site) -> None:
    """Plan, facts with their times, code, seeds, result; moments are wall times with their zone."""
    record = json.loads(sealed.record.read_text())
    assert next(iter(record)) == "schema"
    assert list(record)[-1] == "seal"
    assert record["schema"] == "pairguard.rehearsal-record/1"
    assert (record["change"], record["site"]) == ("CHG-7", "north")
    assert record["facts"]["sha256"] == read(sealed.survey()).digest()
    assert record["seeds"] == {"first": 1, "count": 1}
    assert len(record["plan"]["sha256"]) == 64
    for moment in (record["at"], record["facts"]["oldest"], record["facts"]["newest"]):
        assert datetime.fromisoformat(moment).tzinfo is not None


def test_the_answer_is_the_record(site: Site) -> None:
    """A machine gets the same object on stdout, with the exit code."""
    found = one_object(site.play("--json"), "pairguard.rehearsal-record/1")
    assert found["exit"] == 0
    assert json.loads(site.record.read_text())["seal"] == found["seal"]


def test_a_record_whose_facts_still_hold_is_good(sealed: Site) -> None:
    """0, who sealed it and when; people's statements need not be said again."""
    found = one_object(sealed.verify("--json"), "pairguard.rehearsal-verify/1")
    assert (found["exit"], found["sealed_by"], found["reasons"]) == (0, "fs1a", [])
    silent = sealed.survey("fresh.json", {"fence.fs1a.path": None})
    assert sealed.verify(survey=silent).exit_code == 0


def test_each_changed_fact_is_named(sealed: Site) -> None:
    """Another token, a lost reading: both with what they were, and no go."""
    changed = sealed.survey("fresh.json", {"pair.fs1.token_s": 10.0, "node.fs1b.gate.r0.fencing": None})
    done = sealed.verify(survey=changed)
    fits(done.stdout)
    assert done.exit_code == 81
    assert "pair.fs1.token_s: was 1.5, is 10" in done.stdout
    assert "node.fs1b.gate.r0.fencing: was resource-and-stonith, is UNKNOWN" in done.stdout
    found = one_object(sealed.verify("--json", survey=changed), "pairguard.rehearsal-verify/1")
    assert found["reasons"] == ["facts-changed"]
    assert [each["fact"] for each in found["differences"]] == ["node.fs1b.gate.r0.fencing", "pair.fs1.token_s"]


def edited(record: dict[str, Any]) -> None:
    record["result"]["rows"][0]["nobody_shot"] = 4


def better(record: dict[str, Any]) -> None:
    record["result"]["kept"] = True
    record["at"] = "2026-12-01T00:00:00+00:00"


def unsealed(record: dict[str, Any]) -> None:
    record["seal"] = None


def garbled(record: dict[str, Any]) -> None:
    record["seal"] = "A" + record["seal"][1:] if record["seal"][0] != "A" else "B" + record["seal"][1:]


def other_site(record: dict[str, Any]) -> None:
    record["site"] = "south"


@pytest.mark.parametrize("forge", [edited, better, unsealed, garbled, other_site])
def test_a_record_that_was_touched_is_refused(sealed: Site, forge: Callable[[dict[str, Any]], None]) -> None:
    """One number, a date, the seal itself: nothing of it is believed then."""
    record = json.loads(sealed.record.read_text())
    forge(record)
    sealed.record.write_text(json.dumps(record))
    done = sealed.verify("--json")
    assert done.exit_code == 81
    assert json.loads(done.stdout)["what"] == "cannot trust this record"


def test_a_seal_of_a_stranger_is_refused(sealed: Site) -> None:
    """Who has a key of his own, and no .pub in this site's folder, seals nothing here."""
    public = sealed.folder / "public"
    public.mkdir()
    generate(sealed.folder / "other.pem", public / "fs1a.pub")
    text = sealed.config.read_text().replace(str(sealed.config.parent / "keys" / "public"), str(public))
    sealed.config = sealed.folder / "other.toml"
    sealed.config.write_text(text)
    done = sealed.verify()
    assert done.exit_code == 81
    assert "bad-signature" in done.stderr


def test_the_seal_of_another_record_is_refused(sealed: Site) -> None:
    """A good seal is good for its own record alone."""
    first = json.loads(sealed.record.read_text())
    sealed.plan.write_text(PLAN.replace("CHG-7", "CHG-8"))
    assert sealed.play().exit_code == 0
    second = json.loads(sealed.record.read_text())
    sealed.record.write_text(json.dumps({**first, "seal": second["seal"]}))
    done = sealed.verify()
    assert done.exit_code == 81
    assert "was changed after fs1a sealed it" in " ".join(done.stderr.split())


def test_a_plan_that_was_edited_since_is_another_plan(sealed: Site) -> None:
    """A record is for the plan that was played, byte for byte."""
    assert sealed.verify("--plan", str(sealed.plan)).exit_code == 0
    sealed.plan.write_text(PLAN.replace("2m", "3m"))
    found = one_object(sealed.verify("--plan", str(sealed.plan), "--json"), "pairguard.rehearsal-verify/1")
    assert (found["exit"], found["reasons"]) == (81, ["another-plan"])


def test_a_broken_rule_ends_with_89_and_is_never_verified(site: Site) -> None:
    """The record is kept and sealed all the same: it says what broke, and where its story is."""
    slow = site.survey("slow.json", {"limits.corr": 5.0, "limits.answer": 5.1})
    site.plan.write_text(PLAN.replace("agg2", "fs1a").replace("process-restart", "reboot"))
    done = site.play(survey=slow)
    fits("\n".join(line for line in done.stdout.splitlines() if not line.startswith("replay: ")))
    assert done.exit_code == 89
    assert "BROKEN" in done.stdout
    reason, replay = done.stdout.split("BROKEN in ")[1].split("\n\n")[1].rsplit("\n", 1)
    assert reason.startswith("rule L1 is broken, ")
    assert "step 1 (" in " ".join(reason.split())
    assert replay.startswith(f"replay: pairguard rehearse --plan {site.plan} --site {slow}")
    assert replay.endswith(" --seed 1 --runs 1")
    assert list((site.folder / "out").rglob("*.jsonl"))
    found = one_object(site.verify("--json", survey=slow), "pairguard.rehearsal-verify/1")
    assert (found["exit"], found["reasons"]) == (81, ["promises-broken"])


def test_a_promise_that_is_broken_without_a_story_is_told_with_its_seed() -> None:
    """A hold that came too late breaks no rule and leaves no transcript: which step, on which pair, why, which seed."""
    survey, plan = read(EXAMPLE / "survey.json"), load(EXAMPLE / "plan.toml").plan
    tally = Tally(courses(plan, survey))
    case = cases(plan)[0]
    late = Failure("promise", NOT_HELD, "pair-1", 0, 60.0)
    tally.add([Came(0, 7, case, 0, held=False, failure=late), Came(0, 8, case, 0, held=False, failure=late)])
    [(text, seed)] = reasons(tally)
    assert seed == 7
    assert text.startswith(f"a promise is broken, 2 times: {NOT_HELD}; first: step 1 (well) on ")
    assert text.endswith("seed 7")


@pytest.mark.parametrize("words", [("--record", "DIR/no/record.json"), ("--out", "FILE/out")])
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_played(
    site: Site, words: tuple[str, str]
) -> None:
    """Neither the survey nor the plan's world is looked at: both are missing here. Nothing is made."""
    option, target = words[0], words[1].replace("DIR", str(site.folder)).replace("FILE", str(site.plan))
    given = ("--plan", str(site.plan), "--site", str(site.folder / "none.json"), option, target)
    done = pairguard("rehearse", *given, config=site.config)
    assert done.exit_code == 85
    fits(done.stderr)
    said = "".join(done.stderr.split())
    assert f"cannotwrite{target}" in said
    assert option in said
    assert not site.record.exists()
    assert not (site.folder / "no").exists()


def test_a_survey_that_cannot_be_written_is_refused_first(site: Site) -> None:
    """--export: 85, with the folder that is missing."""
    done = pairguard("rehearse", "--site", str(site.folder / "none.json"), "--export", str(site.folder / "no" / "x"))
    assert done.exit_code == 85
    assert "mkdir -p" in done.stderr


def test_what_was_not_known_stands_on_the_screen(site: Site) -> None:
    """A kept promise on guessed facts is told as one."""
    done = site.play(survey=site.survey("blind.json", {"pair.fs1.token_s": None}))
    assert "UNKNOWN pair.fs1.token_s: unseen; tried: 1 s" in " ".join(done.stdout.split())
    guessed = json.loads(site.record.read_text())["facts"]["guessed"]["fs1"]
    assert [each["fact"] for each in guessed] == ["pair.fs1.token_s"]


def test_a_plan_for_another_site_ends_with_84(site: Site) -> None:
    """An element that the survey does not have is never good."""
    site.plan.write_text(PLAN.replace("agg2", "core7"))
    done = site.play()
    assert done.exit_code == 84
    assert "core7" in done.stderr
    assert not site.record.exists()


def test_no_key_is_found_out_before_anything_is_played(site: Site) -> None:
    """Nobody waits for a record that cannot be sealed; without a seal it is only a look, and never verified."""
    (site.folder / "keys" / "private.pem").unlink()
    assert site.play().exit_code == 89
    assert not site.record.exists()
    done = site.play("--unsigned")
    assert done.exit_code == 0
    assert "not sealed" in done.stdout
    assert site.verify().exit_code == 81


@pytest.mark.parametrize("words", [("--plan", "plan.toml"), ("--said", "said.toml")])
def test_a_plan_needs_a_site(words: tuple[str, str]) -> None:
    """Wrong usage is told as such."""
    done = pairguard("rehearse", *words)
    assert done.exit_code == 2
    assert "--site" in done.stderr


def test_the_statements_of_the_example_fit_its_survey(site: Site) -> None:
    """A person's file and the surveys are put together, and the export holds all of it."""
    export = site.folder / "whole.json"
    bare = site.survey("bare.json", {"fence.fs1a.path": None, "arbiter.path": None})
    words = ("--site", str(bare), "--said", str(EXAMPLE / "said.toml"), "--export", str(export))
    assert pairguard("rehearse", *words).exit_code == 0
    assert read(export).digest() == read(EXAMPLE / "survey.json").digest()
    assert read(export).facts["arbiter.path"].source == "said by anna@netops"
