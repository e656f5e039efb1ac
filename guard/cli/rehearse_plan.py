"""`pairguard rehearse --site`, `--plan` and `--verify`: a change on this site, played on its own facts beforehand."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from guard.cli.options import DENY, GO, GUARD, SCOPE, UNVERIFIED, answer, refuse
from guard.errors import PairguardError, SettingsError

if TYPE_CHECKING:
    from guard.cli.wiring import Loaded
    from guard.rehearsal.tally import Played, Tally
    from guard.survey import Difference, Survey

SEEDS = 3
STORIES_MAX = 3  # of what broke that are printed
TRANSCRIPTS_MAX = 20  # that are kept as files
VERIFY = "pairguard.rehearsal-verify/1"


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of all of this. `sites`: files of surveys; "" is this node, read now."""

    sites: Sequence[str]
    said: Path | None
    plan: Path | None
    verify: Path | None
    export: Path | None
    record: Path | None
    unsigned: bool
    seeds: int
    first: int
    workers: int
    out: Path | None
    config: str | None
    as_json: bool

    @property
    def of_a_site(self) -> bool:
        """Anything that no scenario has was asked for."""
        return bool(self.sites or self.said or self.plan or self.verify)


def answered(asked: Asked) -> NoReturn:
    """Verify a record, play a plan, or show the survey: the first that was asked for."""
    from guard.rehearsal.values import Wrong

    if asked.verify is not None:
        verify(asked, asked.verify)
    if not asked.sites:
        raise Wrong("cannot look at no site", "--site is missing", "add --site, or --site SURVEY for an export")
    if asked.plan is None:
        export(asked)
    play(asked, asked.plan)


def survey_of(asked: Asked, loaded: Loaded) -> Survey:
    """Everything that was named, put together."""
    from guard import survey
    from guard.cli import surveying, wiring

    found = []
    for name in asked.sites:
        found.append(survey.read(Path(name)) if name else wiring.do(surveying.survey(loaded)))
    if asked.said is not None:
        found.append(survey.said(asked.said, found[0].site if found else loaded.site))
    return survey.together(found)


def load(asked: Asked, *, keys: bool) -> Loaded:
    """This machine's settings; none where neither its keys nor its own facts are asked for."""
    from guard.cli import wiring

    if keys or "" in asked.sites or asked.config is not None:
        return wiring.load(asked.config)
    return wiring.Loaded(None, None, None, None)


# ------------------------------------------------------------------ the survey alone


def export(asked: Asked) -> NoReturn:
    """Show the survey, and write it."""
    file = asked.export
    if file is not None:
        writable(file, "--export")
    found = survey_of(asked, load(asked, keys=False))
    data = found.json()
    if file is not None:
        write(file, data)
    answer(data, _survey_text(found, file), GO, as_json=asked.as_json)


def _survey_text(found: Survey, file: Path | None) -> str:
    from guard.cli.render import table, when, wrapped
    from guard.survey import shown

    times = found.times()
    head = f"{found.site}: {len(found.facts)} facts read by {', '.join(found.by) or 'nobody'}"
    if times is not None:
        head += f", between {when(times[0])} and {when(times[1])}"
    rows = [(key, shown(fact.value), fact.source) for key, fact in sorted(found.facts.items())]
    lines = [wrapped(head), "", table(("FACT", "VALUE", "SOURCE"), rows), ""]
    lines += [wrapped(f"UNKNOWN {key}: {why}", hang=2) for key, why in found.unknown().items()]
    lines.append(wrapped(f"digest {found.digest()}", hang=2))
    return "\n".join([*lines, *([] if file is None else [f"written: {file}"])])


def writable(file: Path, option: str) -> None:
    """Before anything is played or read: nobody should wait for a file that cannot be written. Nothing is made."""
    folder = file.absolute().parent
    if not folder.is_dir():
        why = f"{folder} is {'no folder' if folder.exists() else 'not there'}"
        raise PairguardError(f"cannot write {file}", why, f"mkdir -p {folder}, or give another {option}")
    if file.is_dir():
        raise PairguardError(f"cannot write {file}", "it is a folder", f"give {option} a file in it")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise PairguardError(f"cannot write {file}", "this user may not write there", f"give another {option}")


def makeable(folder: Path, option: str) -> None:
    """As `writable`, of a folder that is made when something goes into it."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = f"{there} is no folder" if not there.is_dir() else f"this user may not write in {there}"
        raise PairguardError(f"cannot write {folder}", why, f"give another {option}")


def write(file: Path, data: Mapping[str, Any]) -> None:
    try:
        file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise PairguardError(f"cannot write {file}", error.strerror or "it fails", "give another file") from error


# ------------------------------------------------------------------ a plan


def play(asked: Asked, plan: Path) -> NoReturn:
    """Play every step and every rollback on every pair, and write the record."""
    from guard import plan as plans
    from guard.cli.render import wrapped
    from guard.rehearsal import planned, transcript
    from guard.rehearsal import tally as tallies
    from guard.rehearsal.tally import Played, Tally

    written = plans.load(plan)
    file = asked.record or Path(f"{written.plan.change}.record.json")
    stories_in = asked.out or Path(f"pairguard-rehearse-{written.plan.change}")
    writable(file, "--record")
    makeable(stories_in, "--out")
    loaded = load(asked, keys=not asked.unsigned)
    survey = survey_of(asked, loaded)
    seal = _sealer(loaded, survey, asked.unsigned)
    try:
        courses = planned.courses(written.plan, survey)
    except planned.Unplaced as error:
        refuse(error, as_json=asked.as_json, code=SCOPE)
    played = Played(written, survey, asked.first, asked.seeds, transcript.commit())
    tally = Tally(courses)
    try:
        with _bar(written.plan.change, len(courses) * asked.seeds) as step:
            for came in planned.run(courses, asked.first, asked.seeds, asked.workers):
                tally.add(came)
                step()
    except KeyboardInterrupt:
        why = "it was interrupted before all was played, and half a rehearsal proves nothing"
        refuse(PairguardError("cannot write a record", why, "run it again"), as_json=asked.as_json, code=UNVERIFIED)
    content = seal(_content(played, tally))
    write(file, content)
    reasons = [
        f"{wrapped(text, hang=2)}\nreplay: {again(asked, plan)} --seed {seed} --runs 1"
        for text, seed in tallies.reasons(tally)
    ]
    stories = _stories(tally, stories_in, played.commit)
    ended = GO if tally.kept else GUARD
    text = "\n\n".join((_screen(played, tally, file, asked.unsigned), *reasons, *stories))
    answer({**content, "exit": ended, "record": str(file)}, text, ended, as_json=asked.as_json)


def again(asked: Asked, plan: Path) -> str:
    """The command that plays it again; seed and runs are added to it."""
    words = ["pairguard", "rehearse", "--plan", str(plan)]
    for site in asked.sites:
        words += ["--site", site] if site else ["--site"]
    words += ["--said", str(asked.said)] if asked.said is not None else []
    words += ["--config", asked.config] if asked.config is not None else []
    return shlex.join([*words, *(["--unsigned"] if asked.unsigned else [])])


def _content(played: Played, tally: Tally) -> dict[str, Any]:
    from guard.cli.wiring import clock
    from guard.record import moment
    from guard.rehearsal.tally import record

    return record(played, tally, moment(clock().wall()))


def _sealer(loaded: Loaded, survey: Survey, unsigned: bool) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Found before anything is played: nobody should wait for a record that cannot be sealed."""
    from guard import record, wire
    from guard.cli.wiring import clock

    if unsigned:
        return lambda content: {**content, record.SEAL: None}
    guard = loaded.guard
    if guard is None:
        why = "this machine has no guard's settings, so no key of a node"
        raise SettingsError("cannot seal a record here", why, "run it on a node, or add --unsigned to only look")
    if guard.site != survey.site:
        why = f"this node is of the site {guard.site!r}, the survey of {survey.site!r}"
        raise SettingsError("cannot seal a record here", why, "run it on a node of that site")
    key = wire.load_private(guard.keys.private)
    return lambda content: record.sealed(content, guard.pair.node, guard.pair.name, key, clock())


def _stories(tally: Tally, folder: Path, code: str) -> list[str]:
    """What broke, told and kept."""
    from guard.cli.render import WIDTH
    from guard.rehearsal import planned, transcript

    stories = []
    for came in tally.failures[:TRANSCRIPTS_MAX]:
        told = planned.told(came, code)
        if told is None:
            continue
        kept = transcript.keep(told, folder / came.case.name)
        story = transcript.shown(transcript.story(told), WIDTH)
        stories.append(f"{story}\nreplay: pairguard rehearse --replay {kept}")
    return stories[:STORIES_MAX]


def _screen(played: Played, tally: Tally, file: Path, unsigned: bool) -> str:
    from guard.cli.render import table, when, wrapped
    from guard.rehearsal import tally as tallies

    plan, times = played.written.plan, played.survey.times()
    head = f"{plan.change} on {played.survey.site}: {plan.text or played.written.file.name}"
    ways = len(tally.courses) // 2
    facts = "no facts" if times is None else f"facts of {when(times[0])} to {when(times[1])}"
    lines = [
        wrapped(head),
        wrapped(f"{facts}; {ways} {'world' if ways == 1 else 'worlds'}, seeds {played.first} to "
                f"{played.first + played.seeds - 1}, commit {played.commit}", hang=2),
        "",
        *(wrapped(f"step {n}: {each.kind} of {', '.join(each.elements)}: {each.action}; back: {each.rollback.action}",
                  hang=2) for n, each in enumerate(plan.step, 1)),
        "",
        table(*tallies.table(tally)),
        "",
        *(wrapped(line, hang=2) for line in (*tallies.said(played.guessed()), *tallies.capped(plan.step))),
    ]  # fmt: skip
    verdict = "every rule and every promise was kept" if tally.kept else f"BROKEN in {tally.broken} cases"
    seal = "not sealed: nobody may rely on it" if unsigned else "sealed"
    return "\n".join([*lines, verdict, f"record, {seal}: {file}"])


@contextmanager
def _bar(label: str, length: int) -> Iterator[Callable[[], None]]:
    """A bar with ETA on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=length, label=label, show_pos=True, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


# ------------------------------------------------------------------ a record


def verify(asked: Asked, file: Path) -> NoReturn:
    """Is the seal good, did it keep everything, is the plan the same, and are the facts what they were?"""
    from guard import plan as plans
    from guard import record, survey, wire

    content = record.read(file)
    loaded = load(asked, keys=True)
    either = loaded.guard or loaded.witness
    if either is None:
        raise SettingsError("cannot verify here", "this machine has no settings, so no keys", "run it on a node")
    opened = record.opened(content, either.site, wire.load_keyring(either.keys.public_dir))
    again = asked if asked.sites else replace(asked, sites=("",))
    fresh = survey.carried(opened.survey, survey_of(again, loaded))
    found = survey.differences(opened.survey, fresh)
    other_plan = asked.plan is not None and plans.load(asked.plan).digest != opened.plan_digest
    reasons = [
        *(["promises-broken"] if not opened.kept else []),
        *(["another-plan"] if other_plan else []),
        *(["facts-changed"] if found else []),
    ]
    ended = DENY if reasons else GO
    data = {
        "schema": VERIFY,
        "record": str(file),
        "change": content["change"],
        "sealed_by": opened.by,
        "sealed_at": opened.at,
        "kept": opened.kept,
        "facts": {"then": opened.survey.digest(), "now": fresh.digest()},
        "differences": [each.json() for each in found],
        "reasons": reasons,
        "exit": ended,
    }
    answer(data, _verified_text(data, found), ended, as_json=asked.as_json)


def _verified_text(data: Mapping[str, Any], found: Sequence[Difference]) -> str:
    from guard.cli.render import when, wrapped

    lines = [
        wrapped(f"{data['change']}: sealed by {data['sealed_by']} at {when(data['sealed_at'])}, not changed since")
    ]
    said = {
        "promises-broken": "NOT KEPT: the rehearsal broke a rule or a promise",
        "another-plan": "ANOTHER PLAN: the file is not the one that was rehearsed",
        "facts-changed": f"FACTS CHANGED: {len(found)} since then",
    }
    lines += [said[reason] for reason in data["reasons"]]
    lines += [wrapped(each.text(), indent="  ", hang=2) for each in found]
    last = "next: rehearse again: pairguard rehearse --plan FILE --site" if data["reasons"] else "it still holds"
    return "\n".join([*lines, last])
