"""The protocol's model: no error within the small bounds, every wrong model found, and model and code tied together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guard.rehearsal.fuzz import fuzz, fuzz_shots
from guard.rehearsal.scenarios import STORIES
from tests.model.models import HERE, MODELS, NUMBERS, WRONG, build, missing, search, trace
from tests.model.record import Recorder, record, taken
from tests.model.replay import Arbiter, Differs

WALKS = 24
STORY_SEEDS = range(1, 5)


def test_the_programs_are_there() -> None:
    """The model is never skipped: without Spin nothing here says anything."""
    assert not missing(), f"{missing()} missing: run `sh packaging/install-needs.sh` as root"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_no_law_is_broken_and_each_dropped_rule_is_noticed(model, tmp_path) -> None:
    """All states within the small bounds keep S1 to S6; without any one of its rules a law is broken."""
    pan = build(model, tmp_path)
    right = search(pan, model.small, seconds=120)
    assert right.law is None, f"{right.law} at depth {right.depth}"
    assert right.states > 100
    ends = {wrong: search(pan, wrong.bounds, wrong, seconds=120) for wrong in WRONG if wrong.model == model.name}
    unnoticed = {
        f"{wrong.name}: {end.law or 'nothing'} is broken in {end.states} states, not {wrong.law}"
        for wrong, end in ends.items()
        if end.law is None or not end.law.startswith(wrong.law)
    }
    assert unnoticed == set()


def test_every_wrong_model_is_tried() -> None:
    """Each number of mutants.pml drops a rule somewhere, and each is searched."""
    text = "".join((HERE / name).read_text(encoding="utf-8") for name in ("arbiter.pml", "guard.pml", "pairguard.pml"))
    dropped = {name.lower() for name in re.findall(r"M\(MUT_(\w+)\)", text)}
    assert dropped == set(NUMBERS) == {w.name for w in WRONG}
    assert len(WRONG) == len(NUMBERS) >= 28


# ------------------------------------------------------------------ model and code


def walk(there: Path, seed: int, *flags: str) -> list[list[str]]:
    return trace(there, seed, *(["-DCALM=1"] if seed % 2 else []), *flags)


def test_the_code_takes_every_walk_of_the_model(tmp_path) -> None:
    """Claims, answers, offers, commits, closes, hand-backs, restarts, promises: the same answers and registers."""
    counts, probed = dict[str, int](), 0
    for seed in range(1, WALKS + 1):
        arbiter = Arbiter()
        arbiter.play(walk(tmp_path, seed))
        probed += arbiter.probed
        for kind, count in arbiter.counts.items():
            counts[kind] = counts.get(kind, 0) + count
    least = {"claim": 500, "answer": 50, "offer": 200, "commit": 100, "won": 5, "close": 3, "restart": 20}
    assert {kind: counts.get(kind, 0) for kind, least_ in least.items() if counts.get(kind, 0) < least_} == {}
    assert probed > 10_000


@pytest.mark.parametrize("name", ["nogate", "expire", "rewin"])
def test_a_walk_of_a_wrong_model_is_not_taken(name, tmp_path) -> None:
    """The comparison can fail: a model that is not the code's differs within a few walks."""

    def differs(seed: int) -> bool:
        try:
            Arbiter().play(walk(tmp_path, seed, f"-DMUTANT={NUMBERS[name]}"))
        except Differs:
            return True
        return False

    assert any(differs(seed) for seed in range(1, 30))


@pytest.fixture(scope="module")
def told() -> Recorder:
    recorder = Recorder()
    for story in (fuzz, fuzz_shots):
        record(story, STORY_SEEDS, recorder)
    for story in STORIES:
        record(story, range(1, 2), recorder)
    return recorder


def test_the_model_takes_every_rehearsed_run(told, tmp_path) -> None:
    """What the shipped arbiter wrote in the rehearsed world, a write at a time, the model may write too."""
    assert taken(told, tmp_path) is None
    least = {"claims": 100, "wins": 30, "reconfirmed": 20, "closes": 20}
    assert {kind: told.counts[kind] for kind, count in least.items() if told.counts[kind] < count} == {}


@pytest.mark.parametrize(("part", "instead"), [("attv = 1;", "attv = 0;"), ("assert(rw == 2);", "assert(rw == 0);")])
def test_a_run_that_the_model_cannot_take_is_noticed(told, part, instead, tmp_path) -> None:
    """The other comparison can fail too."""
    planted = Recorder()
    planted.lines = [line.replace(part, instead) for line in told.lines]
    assert planted.lines != told.lines
    said = taken(planted, tmp_path)
    assert said is not None
    assert "assert" in said
