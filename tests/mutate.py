"""Runs mutmut over what decides and holds its survivors against tests/survivors.toml: `make mutate`.

Left out, because no decision reads it: prose (a string with a blank in it, given as an argument or a value) and what
`Turn.note` writes into the journal. Reason codes, keys and numbers stay in. mutmut itself leaves out what is decorated
and what stands outside of functions: tables, constants, defaults (tests/mutants.toml has some of them).

Every mutant's result is kept in mutants/; a run goes on where the last one stopped, tries unexplained survivors again
(a new test may kill them) and nothing else. A survivor that no line of tests/survivors.toml explains is a gap in the
tests, or code that nobody needs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import ClassVar

import libcst as cst
import pytest
from _pytest.config import _prepareconfig
from _pytest.runner import runtestprotocol
from mutmut import __main__ as tool
from mutmut.configuration import config
from mutmut.mutation import file_mutation
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import change_cwd, walk_mutatable_files
from mutmut.workers import isolation

SURVIVORS = Path(__file__).with_name("survivors.toml")
KILLED = ("killed", "timeout", "segfault", "caught by type check")
KILLERS = Path("killers.txt")  # in mutants/
HANGS = 36  # what mutmut calls a timeout
OPEN = ("not checked", "check was interrupted by user")


def prose(node: cst.CSTNode | None) -> bool:
    """A text for people: no reason code and no key has a blank."""
    match node:
        case cst.SimpleString():
            return isinstance(node.evaluated_value, str) and " " in node.evaluated_value
        case cst.FormattedString(parts=parts):
            return any(isinstance(part, cst.FormattedStringText) and " " in part.value for part in parts)
        case cst.IfExp(body=body, orelse=orelse):
            return prose(body) or prose(orelse)
        case cst.ConcatenatedString(left=left, right=right) | cst.BinaryOperation(left=left, right=right):
            return prose(left) or prose(right)
        case _:
            return False


class Deciding(file_mutation.MutationVisitor):
    """mutmut's own visitor, blind to prose and to the journal."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.Call(func=cst.Attribute(attr=cst.Name("note"))):
                return True
        return prose(node) or super()._skip_node_and_children(node)

    def _removes_ignored_code(self, node: cst.CSTNode, mutated_node: cst.CSTNode) -> bool:
        match node, mutated_node:
            case cst.Call(), cst.Call():
                kept = {id(arg.value) for arg in mutated_node.args}
                return any(prose(arg.value) and id(arg.value) not in kept for arg in node.args)
            case ((cst.Assign() | cst.AnnAssign()), _) if prose(node.value):
                return True
        return super()._removes_ignored_code(node, mutated_node)


class Nearest(PytestRunner):
    """mutmut's own runner, but the tests are collected once, before the forks. First come those that killed a mutant of
    the same function or file, then those named after the file, then the quick ones; one that computes a hundred times
    as long as without the mutant hangs."""

    items: ClassVar[dict[str, pytest.Item]] = {}

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        if mutant_name is None:  # the tests without a mutant, then with all of them at once
            ended = super().run_tests(mutant_name=None, tests=tests)
            self.items.update(self.items or collected(config().pytest_add_cli_args_test_selection))
            return ended
        module, _, function = mutant_name.partition("__mutmut_")[0].rpartition(".")
        signal.signal(signal.SIGVTALRM, lambda *_: os._exit(HANGS))
        os.chdir("mutants")
        straighten(module, function)
        killed = killers(module, function)
        seconds, file = state().duration_by_test, module.rpartition(".")[2]
        for test in sorted(tests, key=lambda t: (-killed[t], f"test_{file}" not in t, seconds[t], t)):
            signal.setitimer(signal.ITIMER_VIRTUAL, 10 + 100 * seconds[test])
            if any(report.failed for report in runtestprotocol(self.items[test], log=False)):
                with KILLERS.open("a", encoding="utf-8") as log:
                    log.write(f"{module}\t{function}\t{test}\n")
                return 1
        return 0


def killers(module: str, function: str) -> Counter[str]:
    """The tests that killed mutants of this file; this very function counts more than all others."""
    found: Counter[str] = Counter()
    for line in KILLERS.read_text(encoding="utf-8").splitlines() if KILLERS.exists() else ():
        there, of, test = line.split("\t")
        if there == module:
            found[test] += 10_000 if of == function else 1
    return found


def straighten(module: str, function: str) -> None:
    """Every call but those of the mutated function goes straight to the code, not over mutmut's look for a mutant."""
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] in ("guard", "fencing", "tests")]
    straight: dict[int, object] = {}
    for m in modules:
        for name, of in list(vars(m).items()):
            if isinstance(of, type) and of.__module__ == m.__name__:
                for key, method in list(vars(of).items()):
                    _, _, called = key.removesuffix("__mutmut_orig").rpartition("ǁ")
                    mine = key.endswith("__mutmut_orig") and key != f"{function}__mutmut_orig"
                    if mine and isinstance(vars(of)[called], FunctionType):
                        setattr(of, called, method)
            elif name.endswith("__mutmut_orig") and (m.__name__, name) != (module, f"{function}__mutmut_orig"):
                straight[id(vars(m)[name.removeprefix("x_").removesuffix("__mutmut_orig")])] = of
    for m in modules:
        vars(m).update({name: straight[id(of)] for name, of in vars(m).items() if id(of) in straight})


def collected(tests: list[str]) -> dict[str, pytest.Item]:
    """Every test by its name; the session stays open for the forks."""
    with change_cwd("mutants"), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        settings = _prepareconfig(["--rootdir=.", "--tb=no", "-p", "no:cacheprovider", "-s", *tests])
        settings._do_configure()
        session = pytest.Session.from_config(settings)
        settings.hook.pytest_sessionstart(session=session)
        settings.hook.pytest_collection(session=session)
    return {item.nodeid: item for item in session.items}


@dataclass(frozen=True)
class Mutant:
    """`before` and `after`: the lines that differ, without indentation."""

    name: str
    file: str
    status: str

    def change(self) -> tuple[str, str, str]:
        lines = get_diff_for_mutant(self.name, path=self.file).splitlines()[2:]
        before, after = ("\n".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        return self.file, before, after


def chosen_files(parts: list[str]) -> list[Path]:
    """Those whose name has one of these parts, all if none is given."""
    return sorted(p for p in walk_mutatable_files() if not parts or any(part in p.as_posix() for part in parts))


def mutants(files: list[str]) -> Iterator[Mutant]:
    """Every mutant of these files."""
    for path in chosen_files(files):
        data = SourceFileMutationData(path=path)
        data.load()
        for name, code in data.exit_code_by_key.items():
            yield Mutant(name, path.as_posix(), status_by_exit_code[code])


def explained() -> dict[tuple[str, str, str], str]:
    """(file, before, after): why this change may live."""
    listed = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivor"]
    return {(s["file"], s["before"].strip(), after.strip()): s["why"] for s in listed for after in s["after"]}


def generated() -> None:
    """mutants/ holds a mutated copy of what stands there now; results of functions that did not change are kept."""
    file_mutation.MutationVisitor = Deciding  # type: ignore[misc]
    isolation.PytestRunner = Nearest  # type: ignore[misc]
    Path("mutants").mkdir(exist_ok=True)
    with tool.CatchOutput(spinner_title="Generating mutants"):
        tool.copy_src_dir()
        tool.create_mutants(1)


def tried(files: list[str], workers: int) -> None:
    known = explained()
    again = [m.name for m in mutants(files) if m.status not in KILLED and (m.status in OPEN or m.change() not in known)]
    if again:
        chosen = chosen_files(files)
        tool.walk_mutatable_files = lambda: iter(chosen)  # it compares every name with every mutant
        tool._run(again, workers)
    print()


HEAD = ("mutants", "killed", "timed out", "survived", "not covered", "explained", "killed %")


def reported(files: list[str]) -> int:
    """The table, then whatever is not in order; how many those are."""
    known, living, lacking = explained(), set(), []
    counts: dict[str, Counter[str]] = {path.as_posix(): Counter() for path in chosen_files(files)}
    for mutant in mutants(files):
        counts[mutant.file].update(["mutants", mutant.status])
        if mutant.status in OPEN:
            counts[mutant.file]["open"] += 1
            lacking.append(f"{mutant.name}: {mutant.status}")
        elif mutant.status not in KILLED:
            change = mutant.change()
            living.add(change)
            counts[mutant.file]["explained"] += change in known
            if change not in known:
                lacking.append(f"{mutant.name}: {mutant.status}\n" + get_diff_for_mutant(mutant.name, path=mutant.file))
    for change in known:  # its code has changed, or a test kills it by now
        if change[0] in counts and not counts[change[0]]["open"] and change not in living:
            lacking.append("tests/survivors.toml explains what does not live: {} {!r} -> {!r}".format(*change))
    print(f"{'file':32}" + "".join(f"{word:>12}" for word in HEAD))
    for file, c in (*counts.items(), ("all", sum(counts.values(), Counter()))):
        killed = sum(c[status] for status in KILLED)
        tried = c["mutants"] - c["open"]
        row = (c["mutants"], killed - c["timeout"], c["timeout"], tried - killed - c["no tests"], c["no tests"])
        share = f"{100 * killed / tried:12.1f}" if tried else f"{'-':>12}"
        print(f"{file:32}" + "".join(f"{number:12}" for number in (*row, c["explained"])) + share)
    print("\n".join(["", *lacking]))
    return len(lacking)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="*", help="parts of file names; all files if none is given")
    parser.add_argument("--report", action="store_true", help="only say what is known by now")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if not args.report:
        generated()
        tried(args.files, args.workers)
    lacking = reported(args.files)
    if lacking:
        sys.exit(
            f"{lacking} mutants live unexplained or were not tried: a test that kills them, or tests/survivors.toml"
        )


if __name__ == "__main__":
    main()
