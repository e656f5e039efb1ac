"""`pairguard rehearse` from end to end: results, transcripts, pictures, workers, interruption."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from guard.cli.main import cli
from guard.rehearsal import transcript
from guard.rehearsal.report import wilson
from guard.rehearsal.runner import Totals, Work, play_stock, run
from guard.rehearsal.scenario import load, made
from guard.rehearsal.site import Plan, play

FREEZE = """
name = "small-freeze"
text = "two short cuts in a row"
story = "the path between the nodes is cut and comes back, and once more"
unit = "pair-freeze"
rounds = 2
show_by = ["way"]
[parameters.freeze_s]
text = "how long it lasts"
default = { uniform = [3, 9] }
range = [0.1, 900]
[parameters.way]
text = "what happens to frames"
default = { choice = ["cut", "hold"] }
allowed = ["cut", "hold"]
[[phases]]
text = "the path is cut or held"
fault = "$way"
at = 1
lasts = "$freeze_s"
[[promises]]
text = "nobody is shot"
shot = "nobody"
stays = true
[stock]
kind = "stp"
seconds = "$freeze_s"
"""

PLANTED = """
name = "planted"
text = "a device that acts after its horizon"
story = "nothing can hold against it, so the checkers must find it"
watch_s = 80
[[phases]]
text = "commands act after H too"
fault = "device-beyond-horizon"
args = { most_s = 60 }
[[phases]]
text = "the primary hangs and comes back"
fault = "kernel-hang"
at = 2
lasts = 20
args = { node = "primary" }
[[promises]]
text = "at most one is shot"
shot = "at-most-one"
person = true
whole_s = 300
"""


@pytest.fixture
def freeze(tmp_path: Path) -> str:
    (tmp_path / "freeze.toml").write_text(FREEZE)
    return str(tmp_path / "freeze.toml")


@pytest.fixture
def planted(tmp_path: Path) -> str:
    (tmp_path / "planted.toml").write_text(PLANTED)
    return str(tmp_path / "planted.toml")


def rehearse(*words: object) -> Result:
    return CliRunner().invoke(cli, ["rehearse", *map(str, words)])


def answer(*words: object, code: int = 0) -> Any:
    done = rehearse(*words, "--json", "--workers", 1)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def without_took(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "took"}


def test_the_table_fits_80_columns_and_says_what_was_played(freeze: str) -> None:
    """A person sees how many units, what was shot, which rules were broken, and how fast it went."""
    done = rehearse(freeze, "--runs", 2, "--workers", 1, "--without-guard")
    assert done.exit_code == 0
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "violations of S1-S7, L1, L2: 0" in done.stdout
    for words in ("4 pair-freezes", "nobody shot", "both nodes shot", "without", "an hour"):
        assert words in done.stdout
    assert any(line.startswith(("cut ", "hold ")) for line in done.stdout.splitlines())


def test_the_object_has_its_schema_first_and_adds_up(freeze: str) -> None:
    """Machines may rely on the keys; every unit is counted once, in the sums and in the rows."""
    result = answer(freeze, "--runs", 3, "--pairs", 2, "--without-guard")
    assert next(iter(result)) == "schema"
    assert result["schema"] == "pairguard.rehearse/1"
    assert list(result)[-2:] == ["took", "exit"]
    for side in (result["guarded"], result["without_guard"]):
        assert side["units"] == 12 == sum(side["nodes_shot"].values())
        assert Counter() + Counter({n: sum(row["nodes_shot"][n] for row in side["by"]) for n in "012"}) == Counter(
            {n: count for n, count in side["nodes_shot"].items() if count}
        )
    assert result["settings"]["freeze_s"] == {"uniform": [3, 9]}
    assert result["runs"] == {"asked": 3, "done": 3, "failed": 0}
    assert result["counts"]["pair-freezes"] == 12


def test_the_result_does_not_depend_on_the_workers(freeze: str) -> None:
    """One process or two: the same object but for the time it took."""
    one, two = (json.loads(rehearse(freeze, "--runs", 9, "--json", "--workers", n).stdout) for n in (1, 2))
    assert without_took(one) == without_took(two)
    assert two["took"]["workers"] == 2


def test_the_seed_alone_makes_the_story(freeze: str) -> None:
    """Another PYTHONHASHSEED, another process: the same bytes."""
    code = (
        "import sys; from guard.rehearsal.scenario import load; from guard.rehearsal.site import Plan\n"
        "from guard.rehearsal.transcript import told\n"
        "sys.stdout.buffer.write(told(Plan(load(sys.argv[1]), 3), 5, 'x').bytes())"
    )
    stories = {
        subprocess.run(
            [sys.executable, "-c", code, freeze],
            env={**os.environ, "PYTHONHASHSEED": str(salt)},
            capture_output=True,
            timeout=120,
            check=True,
        ).stdout
        for salt in (1, 2)
    }
    assert len(stories) == 1
    assert stories.pop().count(b"\n") > 100


def test_telling_and_watching_change_nothing(freeze: str) -> None:
    """The run that is told or drawn is the run that was played."""
    plan = Plan(load(freeze), 2)
    quiet, told, seen = play(plan, 4), play(plan, 4, telling=True), play(plan, 4, watch=lambda site: None)
    assert quiet.story == []
    assert len(told.story) > 50
    assert quiet.units == told.units == seen.units
    assert quiet.counts == told.counts == seen.counts
    assert quiet.simulated_s == told.simulated_s == seen.simulated_s


def test_a_planted_violation_is_found_told_kept_and_replayed(planted: str, tmp_path: Path) -> None:
    """A checker fires: exit 89, a story of at most 20 lines with seed and commit, a transcript that replays itself."""
    done = rehearse(planted, "--runs", 2, "--seed", 1, "--workers", 1, "--out", tmp_path / "kept")
    assert done.exit_code == 89
    code = transcript.commit()
    head = f"planted seed 1 commit {code}, pair-1 in round 1"
    assert head in done.stdout
    story = done.stdout[done.stdout.index(head) :].split("\nreplay: ")[0].splitlines()
    assert len(story) <= transcript.LINES_MAX
    assert story[-1].startswith("S4: a shot of era 1 lands on A")
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("replay: ")) <= 80
    file = tmp_path / "kept" / "planted-seed-1.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[0]["schema"] == "pairguard.transcript/1"
    assert (rows[0]["seed"], rows[0]["commit"]) == (1, code)
    assert rows[-1]["ended"] == "S4"
    again = answer("--replay", file, code=89)
    assert (again["same"], again["failed"], again["differs_at"]) == (True, True, None)
    kept = file.read_bytes()
    assert transcript.told(Plan(load(planted), 1), 1, code).bytes() == kept


def test_a_transcript_that_tells_another_story_is_noticed(planted: str, tmp_path: Path) -> None:
    """A changed line is named; a transcript of a run that ends well exits with 0."""
    plan = Plan(load(planted), 1)
    told = transcript.told(plan, 1, "then")
    lines = list(told.lines)
    lines[7] = lines[7].replace('"at_s": ', '"at_s": 1')
    file = tmp_path / "changed.jsonl"
    file.write_text("\n".join(lines) + "\n")
    again = answer("--replay", file, code=89)
    assert (again["same"], again["differs_at"], again["commit"]["then"]) == (False, 8, "then")
    good = transcript.told(Plan(made({**plan.scenario.model_dump(by_alias=True), "phases": [
        {"text": "only a short cut", "fault": "cut", "lasts": 2}
    ], "watch_s": 1}, "x"), 1), 1, "then")  # fmt: skip
    file.write_bytes(good.bytes())
    assert answer("--replay", file)["failed"] is False


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"schema":"x/1"}', '{"schema":"pairguard.transcript/1"}'])
def test_what_is_no_transcript_is_refused(text: str, tmp_path: Path) -> None:
    """Wrong usage, said in words; nothing is played on a guess."""
    file = tmp_path / "x.jsonl"
    file.write_text(text)
    assert answer("--replay", file, code=2)["what"] == f"cannot replay {file}"


def test_a_broken_promise_counts_though_no_rule_was_broken(freeze: str, tmp_path: Path) -> None:
    """The scenario's own promise is a check like the others."""
    file = Path(freeze)
    file.write_text(FREEZE.replace('shot = "nobody"', 'shot = "exactly-one"'))
    result = answer(file, "--runs", 1, "--out", tmp_path, code=89)
    assert result["violations"] == {}
    assert result["unmet"] == {"promise": 1}
    assert result["failures"][0]["why"] == "nobody is shot: shot was nobody"


@pytest.mark.parametrize(
    "words",
    [(), ("no-such",), ("x.toml",), ("plain-death", "--set", "how=slow"), ("plain-death", "--set", "no=1"),
     ("plain-death", "--runs", "0"), ("rack-power", "--without-guard")],
)  # fmt: skip
def test_wrong_usage_ends_with_2(words: tuple[str, ...]) -> None:
    """What cannot be played as asked is refused before anything is played."""
    done = rehearse(*words)
    assert done.exit_code == 2
    assert done.stdout == ""


def test_a_wrong_set_says_what_why_and_next() -> None:
    """As text and as an object."""
    done = rehearse("plain-death", "--set", "calm_s=-1")
    assert done.stderr.splitlines()[0] == "pairguard: cannot set calm_s"
    assert "why:  -1 is not allowed; allowed is 0 to 3600" in done.stderr
    assert "next: write a value" in done.stderr
    said = json.loads(rehearse("plain-death", "--set", "calm_s=-1", "--json").stdout)
    assert (said["schema"], said["exit"]) == ("pairguard.error/1", 2)


def test_a_scenario_that_does_not_validate_ends_with_89(freeze: str) -> None:
    """As settings that do not validate."""
    Path(freeze).write_text(FREEZE.replace('"$way"', '"no-such-fault"'))
    done = rehearse(freeze)
    assert done.exit_code == 89
    assert "'no-such-fault' is unknown" in done.stderr


def test_without_the_guard_the_same_seeds_are_played(freeze: str) -> None:
    """The freezes of a seed are the same for both stacks; long ones kill pairs that nobody guards."""
    scenario = load(freeze).with_set(["freeze_s=60..90"])
    plan = Plan(scenario, 2)
    both = Totals()
    for some in run(Work(plan, 1, 4, stock=True), 1):
        both.add(some)
    assert both.stock is not None
    assert both.guarded.units == both.stock.units == 16
    assert both.guarded.shot[0] == 16
    assert both.stock.shot[2] > 8
    ways = [
        {values: sum(side.rows[values, n] for n in range(3)) for values, _ in side.rows}
        for side in (both.guarded, both.stock)
    ]
    assert ways[0] == ways[1]  # as many units of each way on both sides
    assert play_stock(plan, 1) == play_stock(plan, 1)


def test_every_scenario_with_a_freeze_runs_without_the_guard() -> None:
    """What the catalogue says of the stock stack is understood by its model."""
    for name in ("github-2012", "plain-death", "secondary-death", "witness-down", "upgrade-guards"):
        assert len(play_stock(Plan(load(name), 2), 7)) == 2 * load(name).rounds


def test_pictures_are_drawn(freeze: str, tmp_path: Path) -> None:
    """SVG and PNG; both sides, and the timeline of one pair with what was frozen and who served."""
    svg, png = tmp_path / "a" / "x.svg", tmp_path / "a" / "x.png"
    words = ("--runs", 1, "--workers", 1, "--without-guard", "--svg", svg)
    done = rehearse(freeze, *words)
    assert done.exit_code == 0
    text = svg.read_text()
    for said in ("with the guard", "without the guard", "nobody shot", "node A", "serves", "A - B"):
        assert said in text
    assert rehearse(freeze, *words).exit_code == 0
    assert svg.read_text() == text
    pytest.importorskip("cairosvg")
    assert rehearse(freeze, "--runs", 1, "--workers", 1, "--png", png).exit_code == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_lists_name_scenarios_parameters_and_faults() -> None:
    """Nobody has to read the files to find a name."""
    assert "github-2012" in rehearse("--list").stdout
    shown = rehearse("github-2012", "--list").stdout
    for words in ("freeze_s", "12:15", "promise: announced"):
        assert words in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert len(json.loads(rehearse("faults", "--list", "--json").stdout)["faults"]) >= 40


@pytest.mark.parametrize("after_s", [0.0, 0.5, 4.0])
def test_an_interruption_says_what_was_done(freeze: str, after_s: float) -> None:
    """Ctrl-C at any moment: exit 85, the runs that were done, no traceback; the workers are gone."""
    line = [sys.executable, "-m", "guard.cli.main", "rehearse", freeze, "--runs", "100000", "--workers", "2", "--json"]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's child would ignore it
    ours = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heeds
    )
    try:
        children = Path(f"/proc/{ours.pid}/task/{ours.pid}/children")
        while len(children.read_text().split()) < 3:  # both workers and multiprocessing's own tracker
            time.sleep(0.01)
        time.sleep(after_s)
        os.killpg(ours.pid, signal.SIGINT)
        out, err = ours.communicate(timeout=60)
    finally:
        ours.kill()
    assert err == b""
    assert ours.returncode == 85
    result = json.loads(out)
    assert result["interrupted"] is True
    assert result["runs"]["done"] < 100000
    assert result["guarded"]["units"] == 2 * result["runs"]["done"]


def test_an_ignored_interruption_stops_nobody(freeze: str) -> None:
    """A background job of a shell ignores Ctrl-C: parent and workers alike go on."""
    line = [sys.executable, "-m", "guard.cli.main", "rehearse", freeze, "--runs", "40", "--workers", "2", "--json"]
    deaf = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    ours = subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=deaf)
    try:
        children = Path(f"/proc/{ours.pid}/task/{ours.pid}/children")
        while len(children.read_text().split()) < 3:
            time.sleep(0.01)
        os.killpg(ours.pid, signal.SIGINT)
        out, _ = ours.communicate(timeout=120)
    finally:
        ours.kill()
    assert (ours.returncode, json.loads(out)["runs"]["done"]) == (0, 40)


def test_a_bar_with_rate_and_eta_on_a_terminal_only(freeze: str) -> None:
    """On a terminal's stderr a bar moves; elsewhere stderr stays empty."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "guard.cli.main", "rehearse", freeze, "--runs", "6", "--workers", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs) as started:
        os.close(theirs)
        said = b""
        while True:
            try:
                some = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not some:
                break
            said += some
        started.wait(60)
    os.close(ours)
    assert b"6/6" in said
    assert b"pair-freezes/h" in said
    done = subprocess.run(line, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_interval_is_wilsons() -> None:
    """As facts/labs.md has it: 15 of 21 are 50 to 86 %, none of 21 up to 15 %."""
    assert [round(100 * end) for end in wilson(15, 21)] == [50, 86]
    assert [round(100 * end) for end in wilson(0, 21)] == [0, 15]
    assert wilson(7, 7)[1] == 1.0


def test_the_commit_never_fails(tmp_path: Path) -> None:
    """Without git it is the version."""
    code = "from guard.rehearsal.transcript import commit; print(commit())"
    bare = {**os.environ, "PATH": str(tmp_path)}
    line = [sys.executable, "-c", code]
    said = subprocess.run(line, env=bare, capture_output=True, text=True, check=True).stdout
    assert said.startswith("v")
