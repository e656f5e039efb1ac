"""Every parser of a tool's answer: damage takes knowledge away, and never makes any."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import damage
from tests.fuzz.claims import FORMATS, Format, cib_edits
from tests.fuzz.profile import DAMAGES_MAX, PROFILE

BY_NAME = {each.name: each for each in FORMATS}


def spread(damages: Iterator[damage.Damage], tries_max: int) -> list[damage.Damage]:
    """At most so many, evenly out of all."""
    every = list(damages)
    step = max(1, -(-len(every) // tries_max))
    return every[::step]


def added(form: Format, seed: str, hurt: damage.Damage) -> set[str]:
    return set(form.sentences(hurt.text) - form.sentences(seed))


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_capture_says_something(name: str) -> None:
    """Without that, the rest of this file would prove nothing."""
    form = BY_NAME[name]
    said = {seed: form.sentences(text) for seed, text in form.seeds.items()}
    if name == "drbd-events":
        assert all(said.values())
    assert any(said.values()), said
    assert not [form.unfounded(text) for text in form.seeds.values() if form.unfounded(text)]


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_garbled_or_lost_word_makes_nothing_known(name: str) -> None:
    """Each word of each capture, replaced by what no tool says or left out: nothing new is believed."""
    form = BY_NAME[name]
    budget = max(20, DAMAGES_MAX // len(form.seeds))
    wrong = []
    for seed in form.seeds.values():
        for hurt in chain(spread(damage.garbled(seed), budget), spread(damage.lost(seed), budget)):
            new = added(form, seed, hurt)
            wrong += [f"{hurt}: {sorted(new)}"] if new else []
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_cut_answer_makes_nothing_known(name: str) -> None:
    """Each capture, ended early: nothing new is believed."""
    form = BY_NAME[name]
    budget = max(20, DAMAGES_MAX // len(form.seeds))
    wrong = []
    for seed in form.seeds.values():
        for hurt in spread(damage.cut(seed), budget):
            new = added(form, seed, hurt)
            wrong += [f"{hurt}: {sorted(new)} after {hurt.text[-30:]!r}"] if new else []
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_lost_line_makes_nothing_known(name: str) -> None:
    """Each line left out whole: nothing new is believed, but for what no text can show (`Format.inherent`)."""
    form = BY_NAME[name]
    wrong = []
    for seed in form.seeds.values():
        for hurt in spread(damage.lines_lost(seed), DAMAGES_MAX):
            new = {said for said in added(form, seed, hurt) if not said.startswith(form.inherent or ("\0",))}
            wrong += [f"{hurt}: {sorted(new)}"] if new else []
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_swollen_number_is_refused_as_any_other_nonsense(name: str) -> None:
    """Numbers longer than Python converts: the documented error, or a number that is not believed."""
    form = BY_NAME[name]
    for seed in list(form.seeds.values())[:3]:
        for hurt in spread(damage.swollen(seed), 60):
            form.sentences(hurt.text)


@pytest.mark.parametrize("name", sorted(BY_NAME))
@PROFILE
@given(data=st.data())
def test_any_text_is_refused_or_founded(name: str, data: st.DataObject) -> None:
    """Pieces of captures in any order, with any text between: no crash, and no sentence without its words."""
    form = BY_NAME[name]
    seeds = sorted(form.seeds.values(), key=len)[:3]
    text = "".join(
        data.draw(st.one_of(st.text(max_size=20), st.sampled_from(seed.splitlines(keepends=True) or [""])))
        for seed in data.draw(st.lists(st.sampled_from(seeds), max_size=12))
    )
    assert not form.unfounded(text)


def test_edits_of_a_damaged_configuration_end_well() -> None:
    """The hold, the bar and the purge marks on a damaged copy: an edit, a refusal, or `Unreadable`."""
    form = BY_NAME["cib"]
    for seed in form.seeds.values():
        cib_edits(seed)
        for hurt in chain(spread(damage.lost(seed), 20), spread(damage.garbled(seed), 20)):
            cib_edits(hurt.text)
