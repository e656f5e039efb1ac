"""`pairguard rehearse`: play a scenario in the deterministic world, on the code that ships, before it happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from guard.cli import rehearse_plan
from guard.cli.options import GO, GUARD, UNVERIFIED, USAGE, answer, command, refuse
from guard.cli.rehearse_plan import SEEDS, Asked

if TYPE_CHECKING:
    from guard.rehearsal.report import Result
    from guard.rehearsal.runner import Totals, Work
    from guard.rehearsal.scenario import Scenario

FILE = click.Path(path_type=Path, dir_okay=False)
TRANSCRIPTS_MAX = 20  # of failures that are kept as files; all are counted
STORIES_MAX = 3  # of them that are printed
RUNS = 100


@command(name="rehearse")
@click.argument("scenario", metavar="SCENARIO|FILE.toml", required=False)
@click.option("--pairs", type=click.IntRange(1, 10_000), metavar="N", help="Pairs of a run (the scenario's own).")
@click.option("--runs", type=click.IntRange(1), metavar="N", help=f"Runs, a seed each ({RUNS}; with --plan {SEEDS}).")
@click.option("--seed", type=click.IntRange(0), default=1, metavar="S", help="The first seed (1).")
@click.option("--workers", type=click.IntRange(1, 256), metavar="W", help="Processes (one a core). Changes no result.")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A parameter; as often as wanted.")
@click.option("--without-guard", is_flag=True, help="Play the same seeds without the guard as well.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the result here.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="The same as PNG.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder for transcripts.")
@click.option("--list", "listing", is_flag=True, help="Show the scenarios, or what SCENARIO (or `faults`) has.")
@click.option(
    "--replay", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Play this transcript again."
)
@click.option("--plan", type=FILE, metavar="FILE", help="Play this plan.toml on a site, step by step and back.")
@click.option(
    "--site",
    "sites",
    is_flag=False,
    flag_value="",
    multiple=True,
    metavar="[SURVEY]",
    help="The site: this node as it is now, or a file of --export; as often as wanted.",
)
@click.option("--said", type=FILE, metavar="FILE", help="What no program can read, stated by a person.")
@click.option("--export", type=FILE, metavar="FILE", help="Write the survey of --site here.")
@click.option("--record", type=FILE, metavar="FILE", help="Where the record goes (CHANGE.record.json).")
@click.option("--unsigned", is_flag=True, help="Only look: the record gets no seal.")
@click.option("--verify", type=FILE, metavar="RECORD", help="Is it sealed, unchanged, and do its facts still hold?")
def rehearse(
    scenario: str | None,
    pairs: int | None,
    runs: int | None,
    seed: int,
    workers: int | None,
    given: Sequence[str],
    without_guard: bool,
    svg: Path | None,
    png: Path | None,
    out: Path | None,
    listing: bool,
    replay: Path | None,
    plan: Path | None,
    sites: Sequence[str],
    said: Path | None,
    export: Path | None,
    record: Path | None,
    unsigned: bool,
    verify: Path | None,
    as_json: bool,
    config: str | None,
) -> None:
    """Play a scenario, or your change on your site, on the code that ships.

    The rules S1-S7 are checked after every event. A failure prints its story
    and is kept as a transcript; --seed S --runs 1 and --replay FILE play it
    again, byte for byte. VALUE is a number, 90s, a word, true, 1..900, or TOML
    such as '{log-uniform=[1,900]}'.

    --plan FILE --site plays every step and every rollback on every pair, held
    beforehand and not, and seals a record of it; --site --export FILE writes
    the facts that decide, --verify RECORD compares them with today's.

    Exit codes: 0 every promise was kept, 2 wrong usage, 81 a record that is
    void or whose facts changed, 84 the plan names what the site has not, 85
    interrupted before all was played, 89 a rule or a promise was broken (with
    --replay: is broken again), or scenario, plan or survey does not validate.
    """
    from guard.errors import SettingsError
    from guard.rehearsal.values import Wrong

    cores = workers or len(os.sched_getaffinity(0))
    asked = Asked(sites, said, plan, verify, export, record, unsigned, runs or SEEDS, seed, cores, out, config, as_json)
    try:
        if asked.of_a_site:
            if scenario is not None or given:
                why = "a scenario and --set are of another world than a site's"
                raise Wrong("cannot play both", why, "leave out the scenario, or --plan, --site, --said and --verify")
            rehearse_plan.answered(asked)
    except Wrong as error:
        refuse(error, as_json=as_json, code=USAGE)
    if config is not None:
        raise SettingsError("cannot use --config here", "a rehearsed world needs no settings", "leave it out")
    try:
        if replay is not None:
            _replay(replay, as_json)
        if listing:
            _list(scenario, as_json)
        if scenario is None:
            raise Wrong("cannot rehearse nothing", "no scenario was named", "pairguard rehearse --list")
        work = _work(scenario, given, pairs, runs or RUNS, seed, without_guard)
        _play(work, cores, svg, png, out, as_json)
    except Wrong as error:
        refuse(error, as_json=as_json, code=USAGE)


# ------------------------------------------------------------------ playing


def _work(name: str, given: Sequence[str], pairs: int | None, runs: int, seed: int, without_guard: bool) -> Work:
    from guard.rehearsal.runner import Work
    from guard.rehearsal.scenario import load
    from guard.rehearsal.site import Plan
    from guard.rehearsal.values import Wrong

    scenario = load(name).with_set(given)
    if without_guard and scenario.stock is None:
        why = f"{scenario.name} has no freeze that the model of a stock stack could be put through"
        raise Wrong("cannot play it without the guard", why, "leave --without-guard out")
    return Work(Plan(scenario, pairs or scenario.pairs), seed, runs, without_guard)


def _play(work: Work, workers: int, svg: Path | None, png: Path | None, out: Path | None, as_json: bool) -> NoReturn:
    from guard.cli.render import WIDTH
    from guard.cli.wiring import clock as of_machine
    from guard.rehearsal import transcript
    from guard.rehearsal.report import Result
    from guard.rehearsal.runner import Totals, run

    totals, clock = Totals(), of_machine()
    if png is not None:
        from guard.rehearsal.pictures import png as drawn

        drawn("<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>")  # better now than after an hour
    began, interrupted = clock.now(), False

    def seconds() -> float:
        return (clock.now() - began) / 1e9

    try:
        with _bar(work, seconds) as step:
            for some in run(work, workers):
                totals.add(some)
                step(some)
    except KeyboardInterrupt:
        interrupted = totals.runs < work.runs
    took, code = seconds(), transcript.commit()
    stories, kept = [], []
    for seed, _ in totals.failures[:TRANSCRIPTS_MAX]:
        told = transcript.told(work.plan, seed, code)
        kept.append(str(transcript.keep(told, _folder(out, work, code))))
        story = transcript.shown(transcript.story(told), WIDTH)
        stories.append(f"{story}\nreplay: pairguard rehearse --replay {kept[-1]}")
    result = Result(work, code, totals, took, workers, interrupted, tuple(kept))
    pictures = _draw(result, svg, png)
    ended = GUARD if totals.failed else UNVERIFIED if interrupted else GO
    text = "\n\n".join((_screen(result), *stories[:STORIES_MAX], *pictures))
    answer({**result.json(), "exit": ended}, text, ended, as_json=as_json)


def _folder(out: Path | None, work: Work, code: str) -> Path:
    return out if out is not None else Path(f"pairguard-rehearse-{work.plan.scenario.name}-{code.rstrip('+')}")


def _draw(result: Result, svg: Path | None, png: Path | None) -> list[str]:
    if svg is None and png is None:
        return []
    from guard.rehearsal import pictures

    seed = result.totals.failures[0][0] if result.totals.failures else result.work.first
    drawn = pictures.write(result, pictures.track(result.work.plan, seed), svg, png)
    return ["drawn: " + ", ".join(map(str, drawn))]


@contextmanager
def _bar(work: Work, seconds: Callable[[], float]) -> Iterator[Callable[[Totals], None]]:
    """A bar with rate and ETA on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda some: None
        return
    done = 0

    def said(_: object) -> str:
        took = seconds()
        return f"{done / took * 3600:,.0f} {work.plan.scenario.unit}s/h" if took > 0 and done else ""

    with click.progressbar(
        length=work.runs, label=work.plan.scenario.name, show_pos=True, item_show_func=said, file=sys.stderr
    ) as bar:

        def step(some: Totals) -> None:
            nonlocal done
            done += some.guarded.units
            bar.update(some.runs, "")

        yield step


def _screen(result: Result) -> str:
    from guard.cli.render import table, wrapped
    from guard.rehearsal.report import breakdown, columns, verdict

    plan, totals = result.work.plan, result.totals
    head = (
        f"{plan.scenario.name}: {plan.scenario.text}\n"
        f"{totals.guarded.units:,} {plan.scenario.unit}s: {totals.runs:,} runs from seed {result.work.first}, "
        f"{plan.pairs} {'pair' if plan.pairs == 1 else 'pairs'} a run, commit {result.commit}"
    )
    blocks = [wrapped(head), table(*columns(result))]
    found = breakdown(result)
    if found is not None:
        blocks.append(table(*found))
    blocks.append("\n".join(wrapped(line, hang=2) for line in verdict(result)))
    return "\n\n".join(blocks)


# ------------------------------------------------------------------ looking


def _replay(path: Path, as_json: bool) -> NoReturn:
    from guard.cli.render import WIDTH
    from guard.rehearsal import transcript

    old = transcript.read(path)
    again = transcript.replay(old)
    same = again.differs_at is None
    here = transcript.commit()
    said = "the same story, byte for byte" if same else f"another story from line {again.differs_at} on"
    if not same and here != old.commit:
        said += f"; it was written by commit {old.commit}, this is {here}"
    lines = transcript.story(again.transcript)
    data = {
        "schema": "pairguard.rehearse-replay/1",
        "transcript": str(path),
        "scenario": old.plan.scenario.name,
        "seed": old.seed,
        "commit": {"then": old.commit, "now": here},
        "same": same,
        "differs_at": again.differs_at,
        "failed": again.failed,
        "story": lines,
    }
    text = f"{transcript.shown(lines, WIDTH)}\n\n{said}"
    answer(data, text, GUARD if again.failed else GO, as_json=as_json)


def _list(name: str | None, as_json: bool) -> NoReturn:
    from guard.cli.render import table, wrapped
    from guard.rehearsal.scenario import load, names
    from guard.rehearsal.values import plain

    if name is None:
        all_of_them = [load(each) for each in names()]
        rows = [{"name": each.name, "text": each.text} for each in all_of_them]
        text = table(("SCENARIO", ""), [(row["name"], row["text"]) for row in rows])
        next_ = "next: pairguard rehearse --list SCENARIO shows what it does and what --set can change"
        answer({"schema": "pairguard.rehearse-list/1", "scenarios": rows}, f"{text}\n{next_}", GO, as_json=as_json)
    if name == "faults":
        from guard.rehearsal.faults import FAULTS

        faults = [
            {"name": key, "group": each.group, "text": each.text, "args": dict(each.args)}
            for key, each in FAULTS.items()
        ]
        lines = "\n".join(wrapped(f"{key}: {each.text}", hang=4) for key, each in FAULTS.items())
        answer({"schema": "pairguard.rehearse-faults/1", "faults": faults}, lines, GO, as_json=as_json)
    scenario = load(name)
    answer({"schema": "pairguard.rehearse-scenario/1", **plain(scenario)}, _described(scenario), GO, as_json=as_json)


def _described(scenario: Scenario) -> str:
    from guard.cli.render import table, wrapped
    from guard.rehearsal.values import shown

    blocks = [wrapped(f"{scenario.name}: {scenario.text}\n\n{scenario.story}")]
    blocks.append("\n".join(wrapped(f"- {phase.text}", hang=2) for phase in scenario.phases))
    if scenario.parameters:
        rows = [(name, shown(each.default), each.text) for name, each in scenario.parameters.items()]
        blocks.append(table(("--set", "DEFAULT", ""), rows))
    blocks.append("\n".join(wrapped(f"promise: {promise.text}", hang=2) for promise in scenario.promises))
    return "\n\n".join(blocks)
