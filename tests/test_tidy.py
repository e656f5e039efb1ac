"""The rules of the house that no linter has, on every file that git would commit (CONTRIBUTING.md, The rules)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guard.events import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]

LINES_MAX = 500

CORE_STDLIB = {
    "__future__", "collections", "collections.abc", "dataclasses", "enum", "functools", "hashlib", "itertools", "math",
    "re", "types", "typing",
}  # fmt: skip
"""What the core may import besides itself: values in, values out. hashlib: session names and evidence digests."""

NAMED = ("aiomqtt", "pyroute2", "pysnmp", "pydantic", "sdnotify")
"""The libraries that this project is built on; each must really be at work."""


def files(*suffixes: str) -> list[Path]:
    """Every file that is tracked or would be: what git ignores is no business of ours."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:  # an unpacked archive: everything but what is built
        found = [p for p in ROOT.rglob("*") if not {"build", ".git"} & set(p.relative_to(ROOT).parts)]
    return sorted(p for p in found if p.is_file() and (not suffixes or p.suffix in suffixes))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shipped() -> list[Path]:
    """The Python that is installed on a node."""
    return [p for p in files(".py") if name_of(p).split("/")[0] in ("guard", "fencing")]


def own_tests() -> list[Path]:
    return [p for p in files(".py") if name_of(p).startswith("tests/")]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression, "" for anything else."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, attr):
            head = dotted(value)
            return f"{head}.{attr}" if head else ""
        case _:
            return ""


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever in it, with the line."""
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Import(names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module, node.lineno


def clean(found: Iterator[str] | list[str]) -> None:
    """No finding; else all of them at once."""
    found = list(found)
    assert not found, "\n" + "\n".join(found)


def test_the_first_line_of_every_file_says_what_it_is_for() -> None:
    """A reader who opens any Python file learns in its first line why it exists."""
    clean(
        name_of(path)
        for path in files(".py")
        if path.read_text(encoding="utf-8").strip() and not (ast.get_docstring(parsed(path)) or "").strip()
    )


def test_no_shipped_file_is_too_long() -> None:
    """500 lines are what one sitting reads."""
    long = {name_of(p) for p in shipped() if len(p.read_text(encoding="utf-8").splitlines()) > LINES_MAX}
    clean(f"{name}: over {LINES_MAX} lines" for name in sorted(long))


CLOCKS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "time.clock_gettime", "time.clock_gettime_ns", "time.localtime", "time.gmtime", "time.sleep", "time.process_time",
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now",
    "datetime.datetime.utcnow", "datetime.date.today", "asyncio.sleep", "loop.time",
}  # fmt: skip
CLOCK_READERS = {
    "guard/adapters/clock.py": "the clock",
    "fencing/delegate.py": "a process of its own, looks at start_by just before it becomes the agent: nobody is left "
    "to hand it a moment",
}
TIME_NAMES = {name.removeprefix("time.") for name in CLOCKS if name.startswith("time.")}


def test_no_shipped_code_reads_a_clock_but_the_clock() -> None:
    """Time is handed in: what a test cannot turn, a test cannot try."""
    found = []
    for path in shipped():
        if name_of(path) in CLOCK_READERS:
            continue
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(func=ast.Attribute(attr="sleep"), args=[ast.Constant(value=0)]):
                    continue  # gives way to other tasks; waits for nothing
                case ast.Call(func) if dotted(func) in CLOCKS or re.search(r"_loop\(\)\.time$", ast.unparse(func)):
                    found.append(f"{name_of(path)}:{node.lineno}: {ast.unparse(func)}")
                case ast.ImportFrom(module="time", names=names) if {n.name for n in names} & TIME_NAMES:
                    found.append(f"{name_of(path)}:{node.lineno}: imports a clock by name")
                case ast.ImportFrom(module="asyncio", names=names) if "sleep" in {n.name for n in names}:
                    found.append(f"{name_of(path)}:{node.lineno}: imports sleep by name")
    clean(found)


def test_no_shipped_code_asserts() -> None:
    """`python -O` must not change what is refused."""
    clean(f"{name_of(p)}:{n.lineno}" for p in shipped() for n in ast.walk(parsed(p)) if isinstance(n, ast.Assert))


def test_no_handler_catches_everything() -> None:
    """A handler names what it expects; InvariantBroken passes through all of them."""
    broad = {"Exception", "BaseException"}
    found = []
    for path in shipped():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
                if not caught or any(dotted(kind) in broad for kind in caught):
                    found.append(f"{name_of(path)}:{node.lineno}: broad except")
            suppressed = node.args if isinstance(node, ast.Call) and dotted(node.func).endswith("suppress") else []
            if any(dotted(kind) in broad for kind in suppressed):
                found.append(f"{name_of(path)}:{node.lineno}: broad suppress")
    clean(found)


def test_nothing_is_left_to_do() -> None:
    """What is not done is not begun, or is an issue: not a note in a file."""
    word = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK|NotImplemented" r"Error)\b")
    kinds = (".py", ".toml", ".sh", ".service", ".md", ".conf", "")
    found = []
    for path in files(*kinds):
        if name_of(path).startswith("tests/captures/"):
            continue
        for number, line in enumerate(readable(path).splitlines(), 1):
            if word.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()}")
    clean(found)


def test_every_file_name_is_a_noun_of_its_own() -> None:
    """A file that is called after nothing becomes a heap."""
    heaps = {"utils", "util", "common", "helpers", "helper", "base", "types", "misc"}
    clean(name_of(p) for p in files(".py") if p.stem in heaps or p.parent.name in heaps)


def test_packaging_is_no_package() -> None:
    """packaging/__init__.py would shadow the library of that name for everything run from here."""
    clean(name_of(p) for p in files(".py") if name_of(p).startswith("packaging/"))


def test_the_core_imports_only_what_is_pure() -> None:
    """An allow-list: a module that nobody thought of is refused, not let through."""
    allowed = CORE_STDLIB
    clean(
        f"{name_of(path)}:{line}: {module}"
        for path in shipped()
        if name_of(path).startswith("guard/core/")
        for module, line in imported(path)
        if module not in allowed and module != "guard.core" and not module.startswith("guard.core.")
    )
    assert {name.partition(".")[0] for name in CORE_STDLIB} <= sys.stdlib_module_names


def readable(path: Path) -> str:
    """The text of a file, "" if it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


MACHINE = re.compile(r"/(?:work/|home/\w|root/\w|tmp/\w)[\w.-]*")
REGISTRY = re.compile(
    r"(?:pypi|pythonhosted|npmjs|crates)\.(?:org|io|com)|deb\.debian\.org|registry\.\w+\.\w+", re.IGNORECASE
)


def test_no_file_names_a_place_of_one_machine() -> None:
    """A path that exists only where it was written works only there. Captures of logs show what was on theirs."""
    found = []
    for path in files():
        if name_of(path).startswith(("tests/captures/", "LICENSE")) or path == Path(__file__) or is_capture(path):
            continue
        for number, line in enumerate(readable(path).splitlines(), 1):
            match = MACHINE.search(line)
            if match and not re.search(r"[\w.}$>)]$", line[: match.start()]):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    clean(found)


def is_capture(path: Path) -> bool:
    return "captures" in path.relative_to(ROOT).parts


def test_no_file_names_a_host_of_a_registry() -> None:
    """Where packages come from is a setting of each site."""
    clean(
        f"{name_of(path)}: {REGISTRY.search(readable(path))}"
        for path in files()
        if path != Path(__file__) and not is_capture(path) and REGISTRY.search(readable(path))
    )


def test_no_test_replaces_what_it_tests() -> None:
    """A need for a mock or a patch means that a port is missing."""
    found = []
    for path in own_tests():
        for module, line in imported(path):
            if module.startswith(("unittest.mock", "mock", "pytest_mock")):
                found.append(f"{name_of(path)}:{line}: imports {module}")
        for node in ast.walk(parsed(path)):
            match node:
                case ast.arg(arg="monkeypatch" | "mocker"):
                    found.append(f"{name_of(path)}:{node.lineno}: {node.arg}")
                case ast.Name(id="Mock" | "MagicMock" | "AsyncMock" | "MonkeyPatch"):
                    found.append(f"{name_of(path)}:{node.lineno}: {node.id}")
                case ast.Attribute(attr="MonkeyPatch" | "MagicMock" | "AsyncMock"):
                    found.append(f"{name_of(path)}:{node.lineno}: {node.attr}")
    clean(found)


def test_every_test_states_its_promise() -> None:
    """A red test tells what was promised, without anybody reading its code."""
    clean(
        f"{name_of(path)}:{node.lineno}: {node.name}"
        for path in own_tests()
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    )


SAYS = {"Note", "_emit", "emit", "note"}
"""What takes an event as its first argument."""


def events_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every word that may be the first argument of something that logs, whichever way it was chosen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in SAYS and node.args:
            for part in words_in(node.args[0]):
                yield part, node.lineno


def words_in(node: ast.expr) -> Iterator[str]:
    """The words that an expression may have; a test inside a conditional is none of them."""
    match node:
        case ast.Constant(value=str(word)):
            yield word
        case ast.IfExp(_, body, orelse):
            yield from words_in(body)
            yield from words_in(orelse)
        case _:
            return


def test_every_event_is_in_the_catalogue() -> None:
    """Nothing is logged that the catalogue does not explain."""
    clean(
        f"{name_of(path)}:{line}: {word}"
        for path in shipped()
        if not name_of(path).startswith("guard/cli/")  # shows findings to people; logs nothing
        for word, line in events_of(parsed(path))
        if word not in CATALOGUE
    )


def test_every_entry_of_the_catalogue_is_used() -> None:
    """An event that nothing logs is a promise to whoever reads the catalogue."""
    used = set()
    for path in shipped():
        if name_of(path) == "guard/events.py":
            continue
        used |= {n.value for n in ast.walk(parsed(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    clean(sorted(set(CATALOGUE) - used))


def module_file(module: str) -> Path | None:
    """The file of one of our modules."""
    stem = ROOT.joinpath(*module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def reached_from(module: str) -> set[str]:
    """All modules that come along when one of ours is imported, also those imported late, and foreign ones by name."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = module_file(name)
        if path is None:
            continue
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Import(names):
                    todo += [alias.name for alias in names]
                case ast.ImportFrom(module=str(source), names=names, level=0):
                    todo += [source, *(f"{source}.{a.name}" for a in names if module_file(f"{source}.{a.name}"))]
    return seen


@pytest.mark.parametrize("library", NAMED)
def test_each_named_library_is_at_work_in_the_daemon(library: str) -> None:
    """aiomqtt, pyroute2, pysnmp, pydantic and sdnotify carry the guard that runs on a node and in the demo."""
    reached = {module.partition(".")[0] for module in reached_from("guard.daemon.wiring")}
    assert library in reached
    assert any(m.partition(".")[0] == library for p in shipped() for m, _ in imported(p))


def test_the_rules_find_what_they_forbid() -> None:
    """The rules above are not blind: each kind of search finds a planted example."""
    tree = ast.parse("self._emit('a' if x == 'no' else 'b', 1)\nNote('c', 'text')\nturn.note('d')\n")
    assert {word for word, _ in events_of(tree)} == {"a", "b", "c", "d"}
    for place in ("see /" + "work/main", "in /home/joe/x", "at /tmp/x", '"/root/key"'):
        assert MACHINE.search(place), place
    assert not MACHINE.search("${prefix}/workers".replace("/workers", "/etc"))
    assert REGISTRY.search("https://pypi.org/simple")
    assert dotted(ast.parse("datetime.datetime.now", mode="eval").body) in CLOCKS


def test_no_two_test_files_share_a_name() -> None:
    """The folders are no packages: pytest takes the second one for the first and stops before any test."""
    seen: dict[str, list[str]] = {}
    for path in files(".py"):
        if path.name.startswith("test_"):
            seen.setdefault(path.name, []).append(name_of(path))
    clean(f"{' and '.join(sorted(names))} share a name" for names in seen.values() if len(names) > 1)
