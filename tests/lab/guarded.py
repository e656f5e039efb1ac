"""How pairguard itself is put into a site: the places to change when its settings change.

`guard_settings` and `witness_settings` render the two configuration files; `fence` names the fence resource; `commands` says how
the programs are started. Everything else (files, boot order, namespaces) is done by `install` and the site.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.cluster import Fence
from tests.lab.fabric import SWITCHES, access_of, address
from tests.lab.node import Node, Service

if TYPE_CHECKING:
    from tests.lab.pairs import Site

REPOSITORY = Path(__file__).resolve().parents[2]
BUS_PORT = 1883
TRAP_PORT = 10162


def guard_settings(site: Site, node: Node) -> str:
    """The TOML of one node's daemon (/etc/pairguard/pairguard.toml in the node)."""
    oob = site.plan.arbiter == "out-of-band"
    switches = "".join(
        f'\n[[switch]]\nname = "{name}"\naddress = "{address(name, out_of_band=oob)}"\nprofile = "lab"\n' for name in SWITCHES
    )
    return (
        f'pair = "{node.pair}"\nnode = "{node.name}"\npeer = "{node.peer}"\n'
        f'\n[bus]\naddress = "{site.arbiter_address()}"\nport = {BUS_PORT}\n'
        f'\n[path]\naccess = "{access_of(node.name)}"\n{switches}'
    )


def witness_settings(site: Site) -> str:
    """The TOML of the witness, for all pairs of the site."""
    pairs = ", ".join(f'"{pair}"' for pair in site.plan.pair_names())
    return f'pairs = [{pairs}]\nstore = "{site.arbiter_dir / "witness.sqlite"}"\n\n[bus]\naddress = "127.0.0.1"\nport = {BUS_PORT}\n'


def extra_files(site: Site, node: Node) -> dict[str, str]:
    """More files of a node: path in the node (under /etc or /var) → text. Keys, switch profiles."""
    del site, node
    return {"/etc/pairguard/profiles/lab.toml": (Path(__file__).parent / "profiles" / "lab.toml").read_text()}


def fence(site: Site, target: str) -> Fence:
    """The fence resource for one target: our agent, with the lab's ordinary agent as its delegate."""
    return Fence(
        "fence_pairguard",
        {
            "delegate": "fence_lab",
            "ip": site.power_address(target),
            "power_timeout": str(site.plan.timers.power_timeout_s),
            "pcmk_off_timeout": f"{site.plan.timers.stonith_timeout_s}s",
        },
    )


def mosquitto_conf(site: Site) -> str:
    """The broker of the lab: on the arbiter's in-band or out-of-band address, and loopback for the witness."""
    return (
        f"listener {BUS_PORT} {site.arbiter_address()}\nlistener {BUS_PORT} 127.0.0.1\nallow_anonymous true\n"
        f"persistence false\nlog_dest file {site.arbiter_dir / 'mosquitto.log'}\nlog_timestamp_format %Y-%m-%dT%H:%M:%S\nuser root\n"
    )


def command(module: str, function: str = "main") -> list[str]:
    """How a program of ours is started inside the lab: this interpreter, our repository on its path and nothing else."""
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-I", "-c", code]


def programs() -> dict[str, list[str]]:
    """What lies in each node's /usr/sbin: name → command."""
    return {
        "fence_pairguard": command("fencing.agent"),
        "pairguardd": command("guard.daemon.main"),
        "pairguard": command("guard.cli.main"),
        "pairguard-fence-peer": command("fencing.fence_peer"),
    }


def install(site: Site, node: Node) -> None:
    """Put files, programs and the daemon into a node; called before its first boot."""
    layer = site.space.work / "guarded-sbin"
    if not layer.is_dir():
        layer.mkdir()
        for name, argv in programs().items():
            write_program(layer / name, argv)
    node.sbin_layers.append(layer)
    node.write("/etc/pairguard/pairguard.toml", guard_settings(site, node))
    for path, text in extra_files(site, node).items():
        node.write(path, text)
    node.services.append(
        Service("pairguardd", ("pairguardd", "--config", "/etc/pairguard/pairguard.toml"), before="corosync")
    )


def start_arbiter(site: Site) -> None:
    """Mosquitto and the witness in their own namespace."""
    site.arbiter_dir.mkdir(parents=True)
    (site.arbiter_dir / "mosquitto.conf").write_text(mosquitto_conf(site))
    (site.arbiter_dir / "witness.toml").write_text(witness_settings(site))
    site.start_in_arbiter("mosquitto", ["mosquitto", "-c", str(site.arbiter_dir / "mosquitto.conf")])
    site.start_in_arbiter(
        "witness", [*command("guard.witness.main"), "--config", str(site.arbiter_dir / "witness.toml")]
    )


def write_program(path: Path, argv: list[str]) -> None:
    """A small shell program that becomes `argv`."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
    path.chmod(0o755)
