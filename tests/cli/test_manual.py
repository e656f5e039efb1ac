"""The manual pages and completions that packages install: whole, true, and readable by man and mandoc."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fencing import fence_peer, manifest
from guard.cli.main import cli
from guard.cli.manual import PAGES, completions, every, main, pages
from guard.cli.roff import escaped, options_in, paragraphs
from guard.settings import GuardSettings, Section, WitnessSettings
from tests.test_docs import sections

ROOT = Path(__file__).resolve().parents[2]
MADE = pages(ROOT / "configs", "2026-01-02")


def shown(page: str) -> str:
    """What a reader finds in a page: its source without the escapes."""
    return MADE[page].replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


def part(text: str, kind: str, title: str) -> str:
    """What stands under a heading, up to the next one of its kind."""
    return text.split(f".{kind} {title}\n")[1].split(f"\n.{kind} ")[0].split("\n.SH ")[0]


def test_every_program_has_a_page_and_so_have_both_files_of_settings() -> None:
    """Whatever the package puts on the PATH is explained by man."""
    programs = re.findall(r"(?m)^([a-z_-]+) = \"(?:guard|fencing)\.", (ROOT / "pyproject.toml").read_text())
    assert len(programs) == 5
    assert {*programs, "pairguard.toml", "pairguard-witness.toml"} == set(PAGES)
    assert set(MADE) == {f"{name}.{section}" for name, (section, _) in PAGES.items()}


def test_the_page_has_every_command_with_every_option() -> None:
    """Walked through click, not through the page's own code: nothing that can be typed is missing."""
    text = shown("pairguard.8")
    ctx = click.Context(cli, info_name="pairguard")
    found = list(every(cli, ctx))
    assert {each.command_path for _, each in found} >= {
        "pairguard check",
        "pairguard switch probe",
        "pairguard sandbox up",
    }
    for command, at in found:
        under = part(text, "SS", at.command_path)
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert all(re.search(rf"(?m)^\.B .*{re.escape(word)}\b", under) for word in param.opts), param.opts
        words = " ".join(under.split())
        assert (command.help or "").split(".")[0].split("\n\n")[0].split()[0] in words, at.command_path


@pytest.mark.parametrize("program", ["pairguardd", "pairguard-witness"])
def test_the_page_of_a_daemon_has_the_options_of_its_help(program: str) -> None:
    """--help in a process of its own, and the page, name the same options."""
    module = {"pairguardd": "guard.daemon.main", "pairguard-witness": "guard.witness.main"}[program]
    said = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True).stdout
    options = [tag for tag, _ in options_in(said)]
    assert [tag.split()[0] for tag in options] == ["-h,", "--config", "--version"]
    under = part(shown(f"{program}.8"), "SH", "OPTIONS")
    assert re.findall(r"(?m)^\.B (.*)$", under) == options
    assert all(f"\n.B {code}\n" in shown(f"{program}.8") for code in (0, 75, 89))


def test_the_pages_of_the_agents_have_their_options_and_exit_codes() -> None:
    """What Pacemaker reads in the metadata, and what DRBD's handler takes."""
    agent = shown("fence_pairguard.8")
    names = re.findall(r'<parameter name="(\w+)"', manifest.metadata())
    assert len(names) >= 7
    assert all(f"{name}=\n" in agent for name in names)
    assert all(action in agent for action in manifest.ACTIONS)
    handler = shown("pairguard-fence-peer.8")
    taken = re.findall(r"--[a-z-]+", (ROOT / "fencing" / "fence_peer.py").read_text())
    assert {"--unfence", "--socket", "--proc-drbd"} <= set(taken)
    assert all(option in handler for option in {*taken} - {"--help"})
    assert all(f"{code} " in part(handler, "SH", "EXIT STATUS") for code in fence_peer.ALLOWED)


def names(model: type[Section], above: str = "") -> list[str]:
    """Every setting of a model as a page writes it; the name of a node stands for those of [fence.NODE]."""
    result: list[str] = []
    for name, field in model.model_fields.items():
        inner = sections(field.annotation)
        where = f"{above}{name}." + ("fs1b." if name == "fence" else "")
        result += names(inner[0], where) if inner else [f"{above}{name}"]
    return result


@pytest.mark.parametrize(
    ("page", "model"), [("pairguard.toml.5", GuardSettings), ("pairguard-witness.toml.5", WitnessSettings)]
)
def test_the_page_has_every_setting_of_the_model(page: str, model: type[Section]) -> None:
    """With its default, or whether it is required."""
    text = shown(page)
    all_names = names(model)
    assert len(all_names) > 25
    absent = [name for name in all_names if f"\n.B {name}\n" not in text]
    assert absent == []
    for entry in part(text, "SH", "SETTINGS").split(".TP\n")[1:]:
        assert re.search(r"Default:|Required,|Not required,", " ".join(entry.split("\n.SS")[0].split())), entry


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_finds_nothing_to_warn_of(tmp_path: Path) -> None:
    """No macro that is none, no text that gets lost."""
    assert main(["--configs", str(ROOT / "configs"), "--out", str(tmp_path)]) == 0
    files = [str(tmp_path / name) for name in MADE]
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    read = subprocess.run(["mandoc", "-T", "utf8", files[0]], capture_output=True, text=True, check=True).stdout
    assert len(read.splitlines()) > 100


def test_the_pages_know_no_moment_but_the_one_that_is_given(tmp_path: Path) -> None:
    """Built twice they are the same: SOURCE_DATE_EPOCH is all that a page knows of time."""
    line = [sys.executable, "-m", "guard.cli.manual", "--configs", str(ROOT / "configs"), "--out"]
    for name, zone in (("one", "UTC"), ("two", "Asia/Tokyo")):
        env = {"SOURCE_DATE_EPOCH": "1767312000", "TZ": zone, "COLUMNS": "60" if name == "one" else "200"}
        subprocess.run([*line, str(tmp_path / name)], check=True, cwd=ROOT, env=env)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_text() == (tmp_path / "two" / file.name).read_text(), file.name
    assert '"2026-01-02"' in (tmp_path / "one" / "pairguard.8").read_text().splitlines()[0]


def test_what_is_no_macro_does_not_become_one() -> None:
    """A line of text that begins with a dot, a quote or a backslash is text."""
    assert paragraphs(".profile is read\n\n'quoted' words\n\n  kept --so") == [
        "\\&.profile is read",
        ".PP",
        "\\&'quoted' words",
        ".PP",
        ".nf",
        "kept \\-\\-so",
        ".fi",
    ]
    assert escaped("a\\b") == "a\\eb"


def test_each_shell_gets_a_completion_of_its_own() -> None:
    """Each asks the program itself, in click's words for that shell."""
    made = completions()
    assert set(made) == {"pairguard.bash", "pairguard.zsh", "pairguard.fish"}
    for name, text in made.items():
        assert f"_PAIRGUARD_COMPLETE={name.rpartition('.')[2]}_complete" in text
