"""A scenario is data: what is drawn, what goes wrong when, and what must hold in the end.

1. A value is a number, a word or a truth value; a distribution of them; `$name` of a parameter; or a sum of both.
2. What is drawn depends on scenario, seed, round, pair and the name of the parameter, and on nothing else: another
   value for one parameter (`--set`) leaves every other draw as it was.
3. What a file says wrongly stops it with what, why and what to do. Nothing unknown is skipped.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from guard.errors import SettingsError
from guard.rehearsal.faults import FAULTS
from guard.rehearsal.stock import StockSetting
from guard.rehearsal.surroundings import Surroundings
from guard.rehearsal.values import (
    EXAMPLE,
    TERM,
    Choice,
    Drawn,
    InOrder,
    InverseSquare,
    LogUniform,
    Part,
    Scalar,
    Uniform,
    Value,
    When,
    Wrong,
    parsed,
    plain,
    sample,
    shown,
    stream,
)

CATALOGUE = Path(__file__).with_name("catalogue")
_NAME = r"^[a-z][a-z0-9_]*$"


class Parameter(Part):
    """Something that `--set` can change. Numbers have a range, words a list. `each`: how often it is drawn."""

    text: str = Field(min_length=8)
    default: Value
    range: tuple[float, float] | None = None
    allowed: tuple[str, ...] | None = None
    each: Literal["round", "pair"] = "round"

    def fits(self, value: Value) -> str:
        """Why `value` is none for this parameter; "" if it is."""
        match value:
            case (
                Uniform(uniform=(low, high))
                | LogUniform(log_uniform=(low, high))
                | InverseSquare(inverse_square=(low, high))
            ):
                if low > high or (not isinstance(value, Uniform) and low <= 0):
                    return f"{low:g} to {high:g} is no range"
                return self.fits(low) or self.fits(high)
            case Choice(choice=several, weights=weights):
                if weights is not None and (len(weights) != len(several) or min(weights) < 0 or not sum(weights)):
                    return "weights must be one number for each choice, none negative and not all zero"
                return next((why for each in several if (why := self.fits(each))), "")
            case InOrder(in_order=several):
                return next((why for each in several if (why := self.fits(each))), "")
            case bool():
                return (
                    ""
                    if self.range is None and self.allowed is None
                    else f"{shown(value)} is not allowed; {self.may_be()}"
                )
            case int() | float():
                inside = self.range is not None and self.range[0] <= value <= self.range[1]
                return "" if inside else f"{value:g} is not allowed; {self.may_be()}"
            case str():
                known = self.allowed is not None and value in self.allowed
                return "" if known else f"{value!r} is not allowed; {self.may_be()}"

    def may_be(self) -> str:
        if self.range is not None:
            return f"allowed is {self.range[0]:g} to {self.range[1]:g}"
        return f"allowed is {', '.join(self.allowed)}" if self.allowed is not None else "allowed is true, false"


class Phase(Part):
    """One thing that goes wrong, or that a person does, on some pairs of the site.

    `fault`: of guard/rehearsal/faults.py. `at`: seconds since the round began, or since the phase called `after` was
    over (if that one did not apply: since it would have begun). `lasts`: it ends so many seconds later; without it, it
    ends at the heal. `on`: all pairs, one, or a share of them: within a round always the same order of pairs, so a
    larger share holds the smaller ones. `repeat`, `every`: so often, so many seconds from start to start. `when`: only
    if the parameters were drawn so.
    """

    text: str = Field(min_length=8)
    fault: str
    called: str = ""
    after: str = ""
    at: Value = 0
    lasts: Value | None = None
    on: Value = "all"
    args: dict[str, Value] = Field(default_factory=dict)
    when: When = Field(default_factory=dict)
    repeat: Value = 1
    every: Value = 0


class Promise(Part):
    """What must hold after each round; the first whose `when` fits counts.

    `shot`: how many of a pair, at most or exactly. `victim`: the only node that may be: A, B, or what was primary or
    secondary when the round began.

    `survivor_s`: the other node serves so soon after the death, which is `after` s into the round. `stays`: in the end
    the service is where it was. `whole_s`: so soon after the heal every pair is whole again; a person only switches on
    what is off, and with `person` also follows the manual.
    """

    text: str = Field(min_length=8)
    shot: Literal["nobody", "exactly-one", "at-most-one"]
    when: When = Field(default_factory=dict)
    victim: Value | None = None
    stays: bool = False
    survivor_s: Value | None = None
    after: Value = 0
    whole_s: Annotated[float, Field(gt=0)] = 120.0
    person: bool = False


class StockRow(Part):
    """What the stock stack is set to, where `when` fits. `maintained`: maintenance-mode from before until after."""

    when: When = Field(default_factory=dict)
    set: dict[str, Value] = Field(default_factory=dict)
    maintained: bool = False


class StockPart(Part):
    """The same round for the modelled stack without a guard (guard/rehearsal/stock.py); later rows win."""

    kind: Value
    seconds: Value
    victim: Value = "primary"
    rows: tuple[StockRow, ...] = ()


class Scenario(Part):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    text: str = Field(min_length=8)
    story: str = Field(min_length=8)
    unit: str = "pair-round"  # what one round of one pair is called in results
    pairs: Annotated[int, Field(ge=1)] = 1  # of a run, unless --pairs says so
    rounds: Annotated[int, Field(ge=1)] = 1  # chained in one run, so that the start is paid once; --set rounds=N
    limits: Literal["quick", "shipped"] = "quick"  # quick: the long waits shortened; --set limits=shipped
    around: Surroundings | None = None  # a real site's own timers, gates and devices, in the place of `limits`
    mlag: bool = False  # the nodes hang on an MLAG pair of switches, else on one switch
    one_cell: bool = True  # false: no pair helps another by being in trouble at the same time; --set one_cell=false
    show_by: tuple[str, ...] = ()  # parameters whose values get rows of their own
    watch_s: Value = 5  # after the last phase, before the heal
    parameters: dict[Annotated[str, Field(pattern=_NAME)], Parameter] = Field(default_factory=dict)
    phases: tuple[Phase, ...] = Field(min_length=1)
    promises: tuple[Promise, ...] = Field(min_length=1)
    stock: StockPart | None = None

    def with_set(self, given: Sequence[str]) -> Scenario:
        """A copy with `name=value` applied. Raises `Wrong`."""
        parameters, changed = dict(self.parameters), dict[str, Any]()
        known = ", ".join((*parameters, *OF_A_RUN))
        for text in given:
            name, equals, word = text.partition("=")
            name = name.strip()
            if not equals:
                raise Wrong(f"cannot set {text!r}", "it has no value", "write --set name=value")
            if name in OF_A_RUN:
                changed[name] = _of_a_run(name, word.strip())
                continue
            if name not in parameters:
                why = f"{self.name} has no such parameter; it has {known}"
                raise Wrong(f"cannot set {name!r}", why, f"pairguard rehearse --list {self.name}")
            value = _value_of(name, word.strip(), parameters[name])
            parameters[name] = parameters[name].model_copy(update={"default": value})
        return self.model_copy(update={"parameters": parameters, **changed})

    def settings(self) -> dict[str, Any]:
        """Everything that --set may change, as it is drawn."""
        own = {name: plain(each.default) for name, each in self.parameters.items()}
        return {**own, **{name: getattr(self, name) for name in OF_A_RUN}}


OF_A_RUN = ("rounds", "limits", "one_cell")
"""What --set may change besides the parameters: it holds for a whole run."""


# ------------------------------------------------------------------ drawing


def draw(scenario: Scenario, seed: int, turn: int, pair: int | None) -> dict[str, bool | int | float | str]:
    """The parameters of one round: those of the round (`pair` None), or those and the pair's own."""
    drawn = {}
    for name, parameter in scenario.parameters.items():
        if parameter.each == "pair" and pair is None:
            continue
        own = pair if parameter.each == "pair" else "all"
        drawn[name] = sample(parameter.default, stream(scenario.name, seed, turn, own, name), turn)
    return drawn


def applies(when: When, drawn: Drawn) -> bool:
    """Were all these parameters drawn so?"""
    return all(
        drawn[name] in wanted if isinstance(wanted, tuple) else drawn[name] == wanted for name, wanted in when.items()
    )


# ------------------------------------------------------------------ reading


def names() -> list[str]:
    """The scenarios that come with pairguard, in the order of the alphabet."""
    return sorted(path.stem for path in CATALOGUE.glob("*.toml"))


def load(name: str) -> Scenario:
    """One of the catalogue by name, or a file. `Wrong`: there is none; `SettingsError`: it says something wrong."""
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise Wrong(f"cannot read {name}", "there is no such file", "pairguard rehearse --list")
    else:
        if name not in names():
            raise Wrong(f"cannot rehearse {name!r}", f"the catalogue has {', '.join(names())}", "or give FILE.toml")
        path = CATALOGUE / f"{name}.toml"
    try:
        return made(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the scenario {path}", str(error), "mend the file") from error


def made(content: Mapping[str, Any], where: str) -> Scenario:
    """From what a file or a transcript holds. Raises `SettingsError` with every fault."""
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        faults = list(dict.fromkeys(_fault(each) for each in error.errors(include_url=False)))
    else:
        faults = list(_faults(scenario))
    if faults:
        raise SettingsError(f"cannot use the scenario {where}", "\n  " + "\n  ".join(faults), "mend it and try again")
    return scenario


def _fault(error: Mapping[str, Any]) -> str:
    branches = {"Uniform", "LogUniform", "InverseSquare", "Choice", "bool", "int", "float", "str"}
    place = ".".join(str(part) for part in error["loc"] if part not in branches)
    return f"{place}: {error['msg']}"


def _faults(scenario: Scenario) -> Iterator[str]:
    """What pydantic cannot see: ranges, names of faults, arguments and parameters."""
    known = set(scenario.parameters)
    for name, parameter in scenario.parameters.items():
        if why := parameter.fits(parameter.default):
            yield f"parameters.{name}.default: {why}"
    for name in scenario.show_by:
        if name not in known:
            yield f"show_by: {name!r} is no parameter"
    for place, when in (
        *((f"phases.{n}.when", phase.when) for n, phase in enumerate(scenario.phases)),
        *((f"promises.{n}.when", promise.when) for n, promise in enumerate(scenario.promises)),
        *((f"stock.rows.{n}.when", row.when) for n, row in enumerate(scenario.stock.rows if scenario.stock else ())),
    ):
        for name, wanted in when.items():
            if name not in known:
                yield f"{place}: {name!r} is no parameter"
                continue
            for each in wanted if isinstance(wanted, tuple) else (wanted,):
                if why := scenario.parameters[name].fits(each):
                    yield f"{place}.{name}: {why}"
    if not any(not promise.when for promise in scenario.promises):
        yield "promises: the last one must have no `when`, so that every round has a promise"
    for number_, phase in enumerate(scenario.phases):
        place = f"phases.{number_}"
        yield from _faults_of_phase(phase, scenario, place)
        if phase.after and phase.after not in {each.called for each in scenario.phases[:number_]}:
            yield f"{place}.after: no earlier phase is called {phase.after!r}"
        values = {
            "fault": phase.fault,
            "at": phase.at,
            "lasts": phase.lasts,
            "on": phase.on,
            "repeat": phase.repeat,
            "every": phase.every,
        }
        for key, value in {**values, **{f"args.{k}": v for k, v in phase.args.items()}}.items():
            yield from _unknown_names(value, known, f"{place}.{key}")
    for number_, promise in enumerate(scenario.promises):
        yield from _unknown_names(promise.victim, known, f"promises.{number_}.victim")
        yield from _unknown_names(promise.survivor_s, known, f"promises.{number_}.survivor_s")
        yield from _unknown_names(promise.after, known, f"promises.{number_}.after")
    yield from _unknown_names(scenario.watch_s, known, "watch_s")
    if scenario.stock is not None:
        yield from _faults_of_stock(scenario.stock, known)


def _faults_of_phase(phase: Phase, scenario: Scenario, place: str) -> Iterator[str]:
    """Is every fault that it may become known, and does it take every argument that it may get?"""
    for fault_name in _all_of(phase.fault, scenario):
        fault = FAULTS.get(str(fault_name))
        if fault is None:
            yield f"{place}.fault: {fault_name!r} is unknown; pairguard rehearse --list faults shows them"
            continue
        for name, value in phase.args.items():
            if name not in fault.args:
                yield f"{place}.args: {fault_name} has no {name!r}; it has {', '.join(fault.args) or 'none'}"
                continue
            wrong = (why for each in _all_of(value, scenario) if (why := fault.unfit(name, each)))
            yield from (f"{place}.args: {fault_name}: {why}" for why in wrong)


def _all_of(value: Value, scenario: Scenario) -> Sequence[Scalar]:
    """Every word or end of a range that a value may come to; nothing for a sum."""
    match value:
        case Uniform(uniform=ends) | LogUniform(log_uniform=ends) | InverseSquare(inverse_square=ends):
            return ends
        case Choice(choice=several) | InOrder(in_order=several):
            return several
        case str() if "$" in value:
            parameter = scenario.parameters.get(value[1:])
            if parameter is None:
                return ()
            return parameter.allowed or _all_of(parameter.default, scenario)
        case _:
            return (value,)


def _faults_of_stock(part: StockPart, known: set[str]) -> Iterator[str]:
    settable = {each.name for each in fields(StockSetting)} - {"edits"}
    for key in ("kind", "seconds", "victim"):
        yield from _unknown_names(getattr(part, key), known, f"stock.{key}")
    for number_, row in enumerate(part.rows):
        for name, value in row.set.items():
            if name not in settable:
                yield f"stock.rows.{number_}.set: {name!r} is unknown; it has {', '.join(sorted(settable))}"
            yield from _unknown_names(value, known, f"stock.rows.{number_}.set.{name}")


def _unknown_names(value: Value | None, known: set[str], place: str) -> Iterator[str]:
    if not isinstance(value, str) or "$" not in value:
        return
    for term in TERM.split(value):
        if term.startswith("$"):
            if term[1:] not in known:
                yield f"{place}: {term} is no parameter"
        elif not re.fullmatch(r"\d+(\.\d+)?", term):
            yield f"{place}: {value!r} is no sum of numbers and $names"


def _value_of(name: str, word: str, parameter: Parameter) -> Value:
    value = parsed(word)
    if value is None:
        raise Wrong(f"cannot set {name}", f"{word!r} is no value; {parameter.may_be()}", EXAMPLE)
    if why := parameter.fits(value):
        raise Wrong(f"cannot set {name}", why, EXAMPLE)
    return value


def _of_a_run(name: str, word: str) -> int | str | bool:
    value = parsed(word)
    match name, value:
        case "rounds", int() if value is not True and value is not False and 1 <= value <= ROUNDS_MAX:
            return value
        case "limits", "quick" | "shipped":
            return str(value)
        case "one_cell", bool():
            return value
    may_be = {"rounds": f"1 to {ROUNDS_MAX}", "limits": "quick, shipped", "one_cell": "true, false"}[name]
    raise Wrong(f"cannot set {name}", f"{word!r} is not allowed; allowed is {may_be}", "write one of these")


ROUNDS_MAX = 100_000
