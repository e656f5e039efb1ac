"""`pairguard sandbox`: a small site on this machine to try everything on."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guard.cli.options import BUG, GO, answer, command
from guard.errors import PairguardError, SettingsError

if TYPE_CHECKING:
    from guard.rehearsal.sandbox import Sandbox
    from guard.rehearsal.sandbox_site import Plan

PAIRS_MAX = 9
T = TypeVar("T")

folder = click.option(
    "--dir",
    "where",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the sandbox; `up` makes it, `down` removes it.",
)
bus_kind = click.option(
    "--bus",
    type=click.Choice(["auto", "mosquitto", "hub"]),
    default="auto",
    help="auto: Mosquitto where it can be had, else the hub.",
)
pair_names = click.argument("pairs", nargs=-1, metavar="[PAIR]...")


@click.group()
def sandbox() -> None:
    """A small site on this machine to try everything on.

    Guards, witness, fence agent, DRBD handler and bus are the real programs, on
    loopback. Cluster, disks, switches and fence devices are simulated.
    """


@command(sandbox, "up")
@folder
@bus_kind
@click.option("--pairs", type=click.IntRange(1, PAIRS_MAX), default=3, metavar="N", help="Guarded pairs (3).")
@click.option("--stock", type=click.IntRange(0, PAIRS_MAX), default=0, metavar="N", help="Pairs without a guard (0).")
def up(where: Path | None, bus: str, pairs: int, stock: int, as_json: bool, config: str | None) -> None:
    """Start it; ends when every pair is whole and attested."""
    from guard.rehearsal.sandbox import embedded

    box, plan = _box(where, config), _plan(pairs, stock, bus)
    _say(embedded(plan), as_json)
    _run(_up(box, plan, lambda text: _say(text, as_json)), where)
    said = {
        "schema": "pairguard.sandbox-up/1",
        "dir": str(box.layout.folder),
        "pairs": list(plan.pairs),
        "stock": list(plan.stock),
        "config": {node: str(box.layout.settings(node)) for pair in plan.pairs for node in plan.nodes(pair)},
    }
    node = plan.nodes(plan.pairs[0])[0]
    text = (
        f"up in {box.layout.folder}\n"
        f"try:  {_words('status', where)}\n"
        f"      pairguard status --config {box.layout.settings(node)}"
    )
    answer(said, text, GO, as_json=as_json)


async def _up(box: Sandbox, plan: Plan, say: Callable[[str], None]) -> None:
    try:
        await box.up(plan, say)
    except SettingsError:
        raise  # nothing was started
    except PairguardError:
        await box.down(keep=True)
        raise


@command(sandbox, "freeze")
@folder
@click.option("--links-only", is_flag=True, help="The arbiter stays reachable, and the switches look well.")
@pair_names
def freeze(where: Path | None, links_only: bool, pairs: Sequence[str], as_json: bool, config: str | None) -> None:
    """The switches of PAIR (all) stop forwarding and keep what they are sent."""
    said = _run(_box(where, config).ask("freeze", pairs=list(pairs), links_only=links_only), where)
    text = f"frozen: {', '.join(said['pairs'])}\nnext: {_words('heal', where)}"
    answer({"schema": "pairguard.sandbox-freeze/1", **said}, text, GO, as_json=as_json)


@command(sandbox, "heal")
@folder
@pair_names
def heal(where: Path | None, pairs: Sequence[str], as_json: bool, config: str | None) -> None:
    """The switches of PAIR (all) forward again, first what was stuck."""
    said = _run(_box(where, config).ask("heal", pairs=list(pairs)), where)
    text = f"healed: {', '.join(said['pairs'])}\nnext: {_words('status', where)}"
    answer({"schema": "pairguard.sandbox-heal/1", **said}, text, GO, as_json=as_json)


@command(sandbox, "kill")
@folder
@click.argument("node")
def kill(where: Path | None, node: str, as_json: bool, config: str | None) -> None:
    """NODE dies: its kernel stops, its power stays on."""
    said = _run(_box(where, config).ask("kill", node=node), where)
    text = f"{node} is dead\nnext: {_words('status', where)}"
    answer({"schema": "pairguard.sandbox-kill/1", **said}, text, GO, as_json=as_json)


@command(sandbox, "status")
@folder
def status(where: Path | None, as_json: bool, config: str | None) -> None:
    """What the machines do, and what their guards say of it."""
    said = _run(_box(where, config).status(), where)
    answer(said, _screen(said), GO, as_json=as_json)


@command(sandbox, "down")
@folder
@click.option("--keep", is_flag=True, help="Keep the folder, with the logs.")
def down(where: Path | None, keep: bool, as_json: bool, config: str | None) -> None:
    """End every process that `up` started, and no other."""
    box = _box(where, config)
    ended = _run(box.down(keep=keep), where)
    said = {"schema": "pairguard.sandbox-down/1", "dir": str(box.layout.folder), "ended": ended, "kept": keep}
    text = f"down: {len(ended)} processes ended" + (f"; logs in {box.layout.folder}/log" if keep else "")
    answer(said, text, GO, as_json=as_json)


@command(sandbox, "demo")
@folder
@bus_kind
@click.option("--pairs", type=click.IntRange(1, PAIRS_MAX), default=3, metavar="N", help="Pairs of each kind (3).")
@click.option("--json-out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result here as well.")
def demo(where: Path | None, bus: str, pairs: int, json_out: Path | None, as_json: bool, config: str | None) -> None:
    """One freeze and real deaths, without the guard and with it; then a table.

    Ends with 1 if the guard did not keep its promise.
    """
    from guard.rehearsal import sandbox_demo
    from guard.rehearsal.sandbox import embedded

    plan = _plan(pairs, pairs, bus)
    _say(embedded(plan), as_json)
    with tempfile.TemporaryDirectory(prefix="pgs-") as fresh:
        box = _box(where or Path(fresh) / "s", config)
        result = _run(_demo(box, plan, lambda text: _say(text, as_json)), where)
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    good = sandbox_demo.kept(result)
    verdict = "the guard kept its promise" if good else "THE GUARD DID NOT KEEP ITS PROMISE"
    answer(result, f"{sandbox_demo.table(result)}\n{verdict}", GO if good else BUG, as_json=as_json)


async def _demo(box: Sandbox, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    from guard.adapters.clock import BootClock
    from guard.rehearsal.sandbox_demo import Demo

    await box.up(plan, say)
    try:
        return await Demo(box, plan, BootClock(), say).run()
    finally:
        await box.down()


# ------------------------------------------------------------------ what every command needs


def _box(where: Path | None, config: str | None) -> Sandbox:
    from guard.adapters.clock import BootClock
    from guard.rehearsal.sandbox import Sandbox
    from guard.rehearsal.sandbox_site import Layout, default_folder

    if config is not None:
        raise SettingsError("cannot use --config here", "a sandbox writes its own settings", "leave it out")
    return Sandbox(Layout((where or default_folder()).absolute()), BootClock())


def _plan(pairs: int, stock: int, bus: str) -> Plan:
    from guard.rehearsal.sandbox_site import Plan
    from guard.rehearsal.sandbox_world import find_mosquitto

    if bus == "auto":
        bus = "mosquitto" if find_mosquitto() is not None else "hub"
    guarded = tuple(f"fs{n}" for n in range(1, pairs + 1))
    return Plan(guarded, tuple(f"stock{n}" for n in range(1, stock + 1)), bus)


def _run(work: Coroutine[Any, Any, T], where: Path | None) -> T:
    """A refusal names the next command; it works on the same sandbox only with the same folder."""
    import asyncio

    try:
        return asyncio.run(work)
    except PairguardError as error:
        following = _OURS.sub(lambda found: _words(found[1], where), error.next_step)
        raise type(error)(error.what, error.why, following) from error


_OURS = re.compile(r"pairguard sandbox (\w+)")


def _say(text: str, as_json: bool) -> None:
    """What goes on meanwhile; beside `--json` not on stdout."""
    from guard.cli.render import wrapped

    click.echo(wrapped(text), err=as_json)


def _words(command: str, where: Path | None) -> str:
    return f"pairguard sandbox {command}" + (f" --dir {shlex.quote(str(where))}" if where is not None else "")


def _screen(said: Mapping[str, Any]) -> str:
    from guard.cli.render import table

    lines = [f"{said['dir']}: bus {said['bus']}, guards restarted {said['guard_restarts']}"]
    for pair in said["pairs"]:
        net = "FROZEN" if pair["frozen"] else "open"
        lines.append(
            f"\n{pair['pair']}: network {net}, served by {pair['serving'] or 'nobody'}, "
            f"writes lost {pair['lost_writes'] if pair['lost_writes'] is not None else '?'}{_won(pair)}"
        )
        rows = [_row(title, node, pair) for title, node in pair["nodes"].items()]
        lines.append(table(("node", "life", "role", "disk", "link", "shot", "guard"), rows, indent="  "))
    return "\n".join(lines)


def _row(title: str, node: Mapping[str, Any], pair: Mapping[str, Any]) -> tuple[object, ...]:
    life = "runs" if node["runs"] else ("dead" if node["power"] == "on" else "off")
    frozen = " frozen" if node["suspended"] else ""
    shot = pair["shots"][title]
    return title, life, node["role"] + frozen, node["disk"], node["link"], shot, _guard(pair, title)


def _guard(pair: Mapping[str, Any], title: str) -> str:
    if not pair["guarded"]:
        return "none (stock)"
    said = pair["guards"][title]
    if said is None:
        return "no answer"
    words = ["whole" if said["whole"] else "not whole"]
    if said["hold"]["state"] != "none":
        words.append(f"hold {said['hold']['state']}")
    return ", ".join(words)


def _won(pair: Mapping[str, Any]) -> str:
    """Who won the era, as the guards of the pair say; they may differ for a moment."""
    registers = [said["register"] for said in pair["guards"].values() if said is not None and said["register"]]
    won = sorted({f"{r['winner']} won era {r['era']}" for r in registers if r["winner"]})
    return f", {'; '.join(won)}" if won else ""
