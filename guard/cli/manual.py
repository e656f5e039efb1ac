"""Writes the manual pages and shell completions that packages install: `python -m guard.cli.manual --out FOLDER`.

All of it comes from what the programs say of themselves: click's commands, the daemons' and the handler's `--help`, the
agent's metadata, the settings with their comments. So a page has every option, and no option that is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import inspect
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from fencing import fence_peer, manifest
from guard import __version__
from guard.cli import manual_settings
from guard.cli.main import cli
from guard.cli.roff import escaped, head, items, options_in, paragraphs, prose, section
from guard.daemon.main import main as run_guard
from guard.witness.main import main as run_witness

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

DAEMON_EXITS = (
    ("0", "An orderly stop."),
    ("75", "Trouble that may pass, such as a full disk or an earlier process that hangs: systemd starts it again."),
    ("89", "A person must mend settings, keys or its own file: systemd leaves it."),
)
PAGES = {  # name -> section and what the list of all pages shows
    "pairguard": (8, "asks and orders the guard of a pair of file servers"),
    "pairguardd": (8, "guards a pair of file servers on one of its nodes"),
    "pairguard-witness": (8, "the arbiter of every pair of a site"),
    "fence_pairguard": (8, "fence agent that asks a majority before the real agent fires"),
    "pairguard-fence-peer": (8, "DRBD's fence-peer handler that asks a majority"),
    "pairguard.toml": (5, "settings of the guard"),
    "pairguard-witness.toml": (5, "settings of the arbiter, /etc/pairguard/witness.toml"),
}

GUARD_FILES = (
    ("/etc/pairguard/pairguard.toml, /etc/pairguard/conf.d/", "Settings, see pairguard.toml(5)."),
    ("/etc/pairguard/keys/", "This party's private key and secrets; the others' public keys in keys/public."),
    ("/run/pairguard/", "Sockets: control.sock for orders, status.sock to be read."),
    ("/var/lib/pairguard/", "The journal. A purge of the package leaves it."),
)
WITNESS_FILES = (
    ("/etc/pairguard/witness.toml, /etc/pairguard/conf.d/", "Settings, see pairguard-witness.toml(5)."),
    ("/etc/pairguard/keys/", "The arbiter's private key; the nodes' public keys in keys/public."),
    ("/run/pairguard-witness/", "Sockets: control.sock for orders, status.sock to be read."),
    ("/var/lib/pairguard-witness/",
     "The registers, one SQLite file. A purge of the package leaves it. Never restore it from a backup: the guards "
     "would see that and believe nobody."),
)  # fmt: skip
SIGNALS = {
    "pairguardd": (
        ("SIGHUP", "New limits are read from the settings; everything else waits for a restart."),
        ("SIGTERM, SIGINT", "An orderly stop. Running services go on; without a guard nothing is fenced."),
    ),
    "pairguard-witness": (("SIGTERM, SIGINT", "An orderly stop."),),
}


def pages(configs: Path, date: str) -> dict[str, str]:
    """File name -> text of each page. `configs`: the folder with the explained settings; `date`: YYYY-MM-DD."""
    bodies = {
        "pairguard": _commands(),
        "pairguardd": _daemon("pairguardd", run_guard, GUARD_FILES),
        "pairguard-witness": _daemon("pairguard-witness", run_witness, WITNESS_FILES),
        "fence_pairguard": _agent(),
        "pairguard-fence-peer": _handler(),
        "pairguard.toml": manual_settings.guard((configs / "pairguard.toml").read_text(encoding="utf-8")),
        "pairguard-witness.toml": manual_settings.witness((configs / "witness.toml").read_text(encoding="utf-8")),
    }
    result = {}
    for name, (number, title) in PAGES.items():
        others = [f".BR {escaped(other)} ({at})" for other, (at, _) in sorted(PAGES.items()) if other != name]
        also = section("SEE ALSO", [f"{other} ," for other in others[:-1]] + others[-1:])
        lines = [*head(name, number, date, __version__, title), *bodies[name], *also]
        result[f"{name}.{number}"] = "\n".join(lines) + "\n"
    return result


def completions() -> dict[str, str]:
    """File name -> text of each shell's completion. They ask the program at each TAB: no list in them goes stale."""
    made = {shell: kind(cli, {}, "pairguard", "_PAIRGUARD_COMPLETE") for shell, kind in SHELLS.items()}
    return {f"pairguard.{shell}": each.source_template % each.source_vars() for shell, each in made.items()}


# ------------------------------------------------------------------ pairguard


def every(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Each command below this one that does something, in the order of the help."""
    if not isinstance(command, click.Group):
        yield command, ctx
        return
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        if found is not None and not found.hidden:
            yield from every(found, click.Context(found, info_name=name, parent=ctx))


def _commands() -> list[str]:
    top = click.Context(cli, info_name="pairguard", **cli.context_settings)
    lines: list[str] = []
    for command, ctx in every(cli, top):
        words = ctx.command_path
        lines += [f".SS {escaped(words)}", *_usage(words, *command.collect_usage_pieces(ctx))]
        lines += [".PP", *paragraphs(inspect.cleandoc(command.help or "")), *_options(command, ctx)]
    return [
        *section("SYNOPSIS", _usage("pairguard", *cli.collect_usage_pieces(top))),
        *section("DESCRIPTION", paragraphs(inspect.cleandoc(cli.help or ""))),
        *section("OPTIONS", _options(cli, top)),
        *section("COMMANDS", lines),
        *section("FILES", items((*GUARD_FILES, *(row for row in WITNESS_FILES if row not in GUARD_FILES)))),
    ]


def _usage(words: str, *pieces: str) -> list[str]:
    return [f".B {escaped(words)}", *(escaped(piece) for piece in pieces)]


def _options(command: click.Command, ctx: click.Context) -> list[str]:
    rows = (param.get_help_record(ctx) for param in command.get_params(ctx))
    return items(row for row in rows if row is not None)


# ------------------------------------------------------------------ the other programs


def _daemon(name: str, run: Callable[[Sequence[str]], int], files: Sequence[tuple[str, str]]) -> list[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        run(["--help"])
    usage, about, _ = said.getvalue().split("\n\n", 2)
    return [
        *section("SYNOPSIS", _usage(name, " ".join(usage.split()[2:]))),
        *section(
            "DESCRIPTION", [*paragraphs(about.replace("`", "")), ".PP", *prose(f"systemd runs it: {name}.service.")]
        ),
        *section("OPTIONS", items(options_in(said.getvalue()))),
        *section("EXIT STATUS", items(DAEMON_EXITS)),
        *section("SIGNALS", items(SIGNALS[name])),
        *section("FILES", items(files)),
    ]


def _agent() -> list[str]:
    said = ElementTree.fromstring(manifest.metadata())  # noqa: S314 - our own text
    rows = []
    for each in said.iter("parameter"):
        getopt, content, short = each.find("getopt"), each.find("content"), each.findtext("shortdesc", "")
        default = content.get("default") if content is not None else None
        tag = f"{getopt.get('mixed') if getopt is not None else ''}; {each.get('name')}="
        rows.append((tag, f"{short}.{f' Default: {default}.' if default else ''}"))
    _, usage, more, *about = manifest.HELP.split("\n\n")
    first, _, rest = usage.strip().partition("\n")
    program, _, words = first.partition(" ")
    return [
        *section("SYNOPSIS", _usage(program, words)),
        *section("DESCRIPTION", paragraphs("\n\n".join([" ".join(rest.split()), *about]))),
        *section("OPTIONS", items(rows)),
        *section("ACTIONS AND EXIT STATUS", prose(more)),
    ]


def _handler() -> list[str]:
    about, usage, rest = fence_peer.HELP.split("\n\n", 2)
    options, _, exits = rest.partition("\n\n")
    return [
        *section("SYNOPSIS", _usage(*usage.strip().split(" ", 1))),
        *section("DESCRIPTION", prose(about)),
        *section("OPTIONS", items(options_in(options))),
        *section("EXIT STATUS", paragraphs(exits)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The date is SOURCE_DATE_EPOCH's, so that two builds of one commit are the same."""
    parser = argparse.ArgumentParser(prog="guard.cli.manual", description=__doc__)
    parser.add_argument(
        "--configs", type=Path, default=Path("configs"), help="folder with pairguard.toml, witness.toml"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the files go")
    asked = parser.parse_args(argv)
    moment = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.UTC)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, text in {**pages(asked.configs, f"{moment:%Y-%m-%d}"), **completions()}.items():
        (asked.out / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
