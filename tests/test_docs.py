"""What is written for people is true: the settings explained, the table printed, the commands named."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from pydantic import BaseModel

from guard.core.verdict import rows_markdown
from guard.settings import GuardSettings, Section, WitnessSettings, load_guard, load_witness, seconds

ROOT = Path(__file__).resolve().parents[1]
CONFIGS: list[tuple[str, type[Section]]] = [
    ("configs/pairguard.toml", GuardSettings),
    ("configs/witness.toml", WitnessSettings),
]
KEY = re.compile(r"^(?P<mark>#? ?)(?P<key>[a-z_]+) = (?P<value>\S.*)$")
TABLE = re.compile(r"^\[+(?P<name>[a-z0-9_.]+)\]+$")


class Line:
    """One key of a settings file. `mark`: "" active, "#" a default, "# " an example."""

    def __init__(self, table: str, mark: str, key: str, value: str, prose: str) -> None:
        self.table, self.mark, self.key, self.value, self.prose = table, mark, key, value, prose

    def __repr__(self) -> str:
        return f"[{self.table}] {self.mark}{self.key} = {self.value}"


def lines_of(text: str) -> Iterator[Line]:
    """Every key with the comment that stands directly above it."""
    table, prose = "", ""
    for line in text.splitlines():
        found = KEY.match(line)
        if found and (not found["mark"] or is_toml(found["value"])):
            yield Line(table, found["mark"], found["key"], found["value"], prose)
            prose = ""
        elif head := TABLE.match(line):
            table, prose = head["name"], ""
        else:
            prose = f"{prose} {line[1:].strip()}".strip() if line.startswith("#") else ""


def is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def everything(text: str) -> str:
    """The file with all examples in force, and with all defaults written out where no example replaces them."""
    result, table = [], ""
    all_lines = list(lines_of(text))
    spoken = {(line.table, line.key) for line in all_lines if line.mark == "# "}
    for line in text.splitlines():
        head = TABLE.match(line)
        table = head["name"] if head else table
        found = KEY.match(line)
        if found and found["mark"] and is_toml(found["value"]):
            replaced = found["mark"] == "#" and (table, found["key"]) in spoken
            line = "" if replaced else f"{found['key']} = {found['value']}"
        result.append(line)
    return "\n".join(result)


def load(model: type[Section], path: Path) -> Section:
    settings = load_guard([path])[0] if model is GuardSettings else load_witness([path])[0]
    assert isinstance(settings, model)
    return settings


def sections(annotation: Any) -> list[type[Section]]:
    """The tables that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if issubclass(annotation, Section) else []
    return [found for part in get_args(annotation) for found in sections(part)]


def missing(model: type[Section], tables: list[Mapping[str, Any]], where: str) -> Iterator[str]:
    """Fields of a model that none of these tables has, at any depth."""
    for name, field in model.model_fields.items():
        values = [table[name] for table in tables if name in table]
        if not values:
            yield f"{where}{name}"
            continue
        for inner in sections(field.annotation):
            found: list[Mapping[str, Any]] = []
            for value in values:
                many = value if isinstance(value, list) else [value]
                keyed = not (set(many[0]) & set(inner.model_fields)) if many else False
                found += [deep for table in many for deep in (table.values() if keyed else [table])]
            yield from missing(inner, found, f"{where}{name}.")


@pytest.mark.parametrize(("name", "model"), CONFIGS)
def test_the_shipped_settings_load(name: str, model: type[Section]) -> None:
    """What a person copies works as it is."""
    load(model, ROOT / name)


@pytest.mark.parametrize(("name", "model"), CONFIGS)
def test_every_default_that_is_written_is_the_default(name: str, model: type[Section], tmp_path: Path) -> None:
    """Taking the mark off a `#key = value` line changes nothing at all."""
    text = (ROOT / name).read_text()
    written = tmp_path / "all.toml"
    written.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text))
    assert load(model, written) == load(model, ROOT / name)


@pytest.mark.parametrize(("name", "model"), CONFIGS)
def test_every_key_is_there(name: str, model: type[Section]) -> None:
    """Nobody has to read the code to find a setting."""
    table = tomllib.loads(everything((ROOT / name).read_text()))
    assert list(missing(model, [table], "")) == []


@pytest.mark.parametrize(("name", "model"), CONFIGS)
def test_every_key_is_explained(name: str, model: type[Section]) -> None:
    """Above each key stands what it is for; with an active key also its default, if it has one that is a value."""
    unexplained = [line for line in lines_of((ROOT / name).read_text()) if len(line.prose) < 8]
    assert unexplained == []
    assert len(list(lines_of((ROOT / name).read_text()))) > 20


@pytest.mark.parametrize(("name", "model"), CONFIGS)
def test_active_keys_name_their_default(name: str, model: type[Section]) -> None:
    """A key that the file sets to something else than its default says what the default is."""
    silent = []
    for line in lines_of((ROOT / name).read_text()):
        section = section_at(model, line.table)
        default = section.model_fields[line.key].default if line.mark == "" else None
        scalar = isinstance(default, str | int | float) and not isinstance(default, bool)
        if scalar and f"default {tomllike(default)}" not in line.prose:
            silent.append(line)
    assert silent == []


def section_at(model: type[Section], table: str) -> type[Section]:
    """The model of a table of the file; the names of nodes are no fields."""
    current = model
    for part in table.split(".") if table else []:
        if part in current.model_fields:
            current = sections(current.model_fields[part].annotation)[0]
    return current


def tomllike(value: str | int | float) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value}"


@pytest.mark.parametrize(("name", "model"), CONFIGS)
def test_durations_are_written_with_their_unit(name: str, model: type[Section]) -> None:
    """No limit stands there as a bare number."""
    limits = [line for line in lines_of((ROOT / name).read_text()) if line.table == "limits"]
    assert len(limits) > 10
    for line in limits:
        assert seconds(tomllib.loads(f"x = {line.value}")["x"]) > 0, line


def test_the_example_of_one_pair_is_whole() -> None:
    """Two nodes that name each other, one site, one set of limits on all three."""
    folder = ROOT / "configs" / "examples" / "one-pair"
    (one, _), (two, _) = load_guard([folder / "fs1a.toml"]), load_guard([folder / "fs1b.toml"])
    witness, _ = load_witness([folder / "witness.toml"])
    assert (one.pair.node, one.pair.peer) == (two.pair.peer, two.pair.node)
    assert one.probe is not None
    assert two.probe is not None
    assert (one.probe.own, one.probe.peer) == (two.probe.peer, two.probe.own)
    ports = [{p.owner: p.ifindex for p in s.switch[0].ports} for s in (one, two)]
    assert (ports[0]["ours"], ports[0]["peer"]) == (ports[1]["peer"], ports[1]["ours"])
    assert one.site == two.site == witness.site
    assert one.limits == two.limits == witness.limits


def test_the_words_for_pacemaker_and_drbd_agree_with_the_settings() -> None:
    """The agent's wait stands in three places that people copy: all three say the same."""
    settings, _ = load_guard([ROOT / "configs" / "examples" / "one-pair" / "fs1a.toml"])
    wait = f"{settings.limits.agent_wait:.0f}"
    fencing = (ROOT / "packaging" / "pacemaker" / "fencing.xml").read_text()
    assert set(re.findall(r'name="wait_s" value="(\d+)"', fencing)) == {wait}
    assert set(re.findall(r"wait_s=(\d+)", (ROOT / "packaging" / "pacemaker" / "README.md").read_text())) == {wait}
    drbd = (ROOT / "packaging" / "drbd" / "pairguard.res.example").read_text()
    for word in ("protocol C;", "fencing resource-and-stonith;", "/usr/sbin/pairguard-fence-peer --unfence"):
        assert word in drbd


@pytest.mark.skipif(shutil.which("crm_verify") is None, reason="needs Pacemaker's crm_verify")
def test_pacemaker_accepts_the_fencing_that_we_ship(tmp_path: Path) -> None:
    """The example is a configuration that Pacemaker itself finds valid, without a warning."""
    part = (ROOT / "packaging" / "pacemaker" / "fencing.xml").read_text()
    part = re.sub(r"(?s)<!--.*?-->", "", part)
    head = 'validate-with="pacemaker-3.0" admin_epoch="0" epoch="1" num_updates="0" have-quorum="1"'
    up = 'in_ccm="true" crmd="online" join="member" expected="member"'
    states = "".join(f'<node_state id="{n}" uname="fs1{name}" {up}/>' for n, name in ((1, "a"), (2, "b")))
    whole = f"<cib {head}>{part}<status>{states}</status></cib>"
    (tmp_path / "cib.xml").write_text(whole)
    ran = subprocess.run(
        ["crm_verify", "--xml-file", str(tmp_path / "cib.xml"), "-VV"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def between(text: str, marker: str) -> str:
    parts = text.split(f"<!-- {marker} -->\n")
    assert len(parts) == 3, f"two markers <!-- {marker} --> are needed"
    return parts[1]


def test_the_architecture_prints_the_verdict_table_that_runs() -> None:
    """The table that people review is the table that decides."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert between(text, "verdict-table").strip() == rows_markdown().strip()


def commands(text: str) -> list[list[str]]:
    """The command lines in the fenced blocks of a document, as words; `#` ends a line."""
    found = []
    for block in re.findall(r"(?ms)^```(?:sh|console)?\n(.*?)^```", text):
        for line in block.splitlines():
            words = line.removeprefix("$ ").partition(" #")[0].split()
            if words and not words[0].startswith("#"):
                found.append(words)
    return found


def targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_exists(name: str) -> None:
    """What people are told to type works."""
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / name).read_text()))
    named |= {words[1] for words in commands((ROOT / name).read_text()) if words[0] == "make" and len(words) > 1}
    assert named
    assert named <= targets()


def subcommands(words: list[str]) -> list[str]:
    """The words after `pairguard` that are commands: up to the first option, value or name in capitals."""
    taken = []
    for word in words[1:]:
        if not re.fullmatch(r"[a-z-]+", word) or word.startswith("-"):
            break
        taken.append(word)
    return taken


def test_every_command_that_the_readme_names_exists() -> None:
    """The README shows only commands that the program has."""
    from guard.cli.main import cli

    text = (ROOT / "README.md").read_text()
    named = [words for words in commands(text) if words[0] == "pairguard"]
    named += [match.split() for match in re.findall(r"`(pairguard [a-z][^`]*)`", text)]
    assert named
    for words in named:
        command: click.Command = cli
        for word in subcommands(words):
            if not isinstance(command, click.Group):
                break
            inner = command.get_command(click.Context(command), word)
            assert inner is not None, " ".join(words)
            command = inner


def test_every_file_that_the_documents_link_exists() -> None:
    """A link that leads nowhere is worse than none."""
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
            assert (ROOT / link).exists(), f"{name}: {link}"


def test_the_folders_that_the_architecture_names_exist() -> None:
    """The picture of the house is true."""
    text = between((ROOT / "ARCHITECTURE.md").read_text(), "house")
    for path in re.findall(r"(?m)^\| `([\w./-]+)` \|", text):
        assert (ROOT / path).exists(), path


def test_ci_runs_what_people_run() -> None:
    """A green CI says the same as a green `make test`."""
    script = ROOT / ".ci" / "run"
    assert "exec make test" in script.read_text()
    assert script.stat().st_mode & 0o111
