"""`pairguard`: the command line. Finds the command that was named and imports only that one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from types import TracebackType

import click

from guard import __version__
from guard.cli.options import BUG, GO, refuse
from guard.errors import PairguardError

# name -> module, and what the list of commands says of it. Nothing is imported to print that list.
COMMANDS = {
    "init": ("guard.cli.register", "make keys and the register, once per pair, while it is whole"),
    "check": ("guard.cli.check", "look for every trap: settings, cluster, DRBD, timers"),
    "status": ("guard.cli.status", "what is held, armed, whole, barred, attested, and why"),
    "explain": ("guard.cli.status", "the last verdict and what went into it"),
    "metrics": ("guard.cli.metrics", "what status shows, for Prometheus"),
    "verdict": ("guard.cli.orders", "a dry run: would a claim be granted now?"),
    "hold": ("guard.cli.orders", "hold by hand: nothing claims and nothing shoots"),
    "release": ("guard.cli.orders", "end a hold by hand, if resuming is proven safe"),
    "switch": ("guard.cli.switch", "what a switch says of itself"),
    "rehearse": ("guard.cli.rehearse", "play a scenario on the shipped code in a seeded world"),
    "sandbox": ("guard.cli.sandbox", "a small site on this machine to try everything on"),
}


class Lazy(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        found = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="pairguard")
def cli() -> None:
    """Guards pairs of file servers while the network changes.

    Every command takes --json and --config. Exit codes: 0 go, 80 wait, 81 no,
    83 partly held, 84 nothing matches, 85 cannot prove it, 86 still held,
    89 settings or the guard itself.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; 2 for wrong usage, 1 (with a short message) for a bug of ours."""
    sys.excepthook = _bug
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=words, prog_name="pairguard", standalone_mode=False)
    except click.ClickException as error:  # usage: an unknown word, a missing option, a value that is none
        asked = getattr(error, "ctx", None)
        path = asked.command_path if asked is not None else "pairguard"
        told = PairguardError("cannot understand the command line", error.format_message(), f"run: {path} --help")
        refuse(told, as_json="--json" in words, code=error.exit_code)
    except click.Abort:
        click.echo("pairguard: interrupted", err=True)
        return BUG
    except PairguardError as error:
        refuse(error, as_json="--json" in words)
    return code if isinstance(code, int) else GO


def _bug(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """What Python calls for an exception that nothing foresaw; the process then ends with 1."""
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" ({at.tb_frame.f_code.co_filename}:{at.tb_lineno})" if at is not None else ""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    click.echo(f"pairguard: a bug of ours: {kind.__name__}: {error}{where}{notes}", err=True)


if __name__ == "__main__":
    sys.exit(main())
