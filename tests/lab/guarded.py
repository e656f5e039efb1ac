"""How pairguard itself is put into a site: the place to change when its settings or programs change.

`guard_settings` and `witness_settings` give the two configurations (as tables; `toml` writes them), `fence` the fence
resource, `programs` how the programs are started, `initialise` what a person does once a pair is whole, `guard_events`
how the daemon's log is read.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from guard.wire import generate
from tests.lab.cluster import Fence
from tests.lab.fabric import AGGREGATION, access_of, address
from tests.lab.node import Node, Service
from tests.lab.record import Event
from tests.lab.space import SYSTEM_PYTHON, LabFailed, boottime
from tests.lab.switches import COMMUNITY

if TYPE_CHECKING:
    from tests.lab.pairs import Site

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = Path(__file__).resolve().parent / "profiles" / "lab.toml"
BUS_PORT, TRAP_PORT = 1883, 162
SITE, ARBITER = "lab", "arbiter"
LIMITS: dict[str, object] = {
    "settle": "5s",
    "sampling": "1s",  # each sample starts a Python program here, where a real node reads /proc/drbd
    "cold": "20s",
}  # scaled like the freezes (12 s for 90 s); all else is the default
HORIZON = "15s"  # above every freeze that delivers late (12 s): what fence_lab sent before its end has landed by then
ETC = "/etc/pairguard"
AGENT = f"{ETC}/agent"  # not in /usr/sbin: stock agents would find our `fencing` beside themselves there
INITIALISE_S_MAX = 30.0
TRAPS_PAIRS_MAX = 4  # each trap is one process a receiver: many receivers would load the machine more than the pairs do


def guard_settings(site: Site, node: Node) -> dict[str, object]:
    """The settings of one node's daemon, /etc/pairguard/pairguard.toml in the node."""
    network: dict[str, object] = {"interfaces": ["eth0"], "profiles": f"{ETC}/profiles"}
    if site.plan.pairs <= TRAPS_PAIRS_MAX:
        network["traps"] = {"address": _own_address(site, node.name), "port": TRAP_PORT}
    return {
        "site": SITE,
        "pair": {"name": node.pair, "node": node.name, "peer": node.peer, "cell": _cell(site, node)},
        "bus": {"kind": "mqtt", "host": site.arbiter_address(), "port": BUS_PORT},
        "keys": {"private": f"{ETC}/keys/private.pem", "public_dir": f"{ETC}/keys/public"},
        "log": {"to": "stderr"},
        "probe": {"own": address(node.name), "peer": address(node.peer)},
        "cluster": {"promotable": ["ms-r0"]},
        "replication": {"kind": "drbd", "resources": ["r0"]},
        "fence": {name: device(site, name) for name in (node.name, node.peer)},
        "network": network,
        "switch": [switch(site, node, name) for name in _path(node)],
        "limits": LIMITS,
    }


def _cell(site: Site, node: Node) -> str:
    return node.pair if site.plan.own_cells else "site"


def device(site: Site, target: str) -> dict[str, object]:
    """The fence device of one node, with the lab's ordinary agent as delegate."""
    timers = site.plan.timers
    options = {
        "ip": site.power_address(target),
        "retry": str(timers.retry_s),
        "power_timeout": str(timers.power_timeout_s),
    }
    return {"delegate": "fence_lab", "options": options, "timeout": f"{timers.power_timeout_s}s", "horizon": HORIZON}


def switch(site: Site, node: Node, name: str) -> dict[str, object]:
    """One switch on the path of a pair, with the ports that matter to it."""
    indexes = site.fabric.interface_indexes(name)
    ports = []
    for port, index in sorted(indexes.items(), key=lambda item: item[1]):
        if port in ("lo", "br0", "mgmt"):
            continue
        owner = "other"
        if port == node.name:
            owner = "ours"
        elif port == node.peer:
            owner = "peer"
        elif port.startswith(("agg", "acc")):
            owner = "peer-link" if name in AGGREGATION and port in AGGREGATION else "uplink"
        lag = owner == "uplink" and name not in AGGREGATION
        ports.append({"name": port, "ifindex": index, "owner": owner, "lag": lag})
    table: dict[str, object] = {
        "name": name,
        "host": address(name, out_of_band=site.plan.arbiter == "out-of-band"),
        "profile": "lab",
        "community_file": f"{ETC}/keys/community",
        "ports": ports,
    }
    if name in AGGREGATION:
        table["peer_link"] = AGGREGATION[1 - AGGREGATION.index(name)]
    return table


def witness_settings(site: Site) -> dict[str, object]:
    """The settings of the witness, for all pairs of the site."""
    keys = _keys(site)
    return {
        "site": SITE,
        "bus": {"kind": "mqtt", "host": "127.0.0.1", "port": BUS_PORT},
        "keys": {"private": str(keys / f"{ARBITER}.pem"), "public_dir": str(keys / "public")},
        "paths": {"state": str(site.arbiter_dir / "state"), "run": str(site.arbiter_dir / "run")},
        "log": {"to": "stderr"},
        "limits": LIMITS,
    }


def fence(site: Site, target: str) -> Fence:
    """The fence resource for one target: our agent, which waits inside Pacemaker's own timeout."""
    timeout_s = site.plan.timers.stonith_timeout_s
    del target
    return Fence("fence_pairguard", {"wait_s": str(timeout_s - 10), "pcmk_off_timeout": f"{timeout_s}s"})


def programs() -> dict[str, list[str]]:
    """What lies in each node's /usr/sbin: name → command.

    The agent is a copy of its own in the node, run by the system's Python: Pacemaker's controller asks it for its
    metadata as user hacluster, who may read neither our repository nor an interpreter below /root. A controller whose
    agent does not start stood still for 35 s and more, and the node that had booted started nothing.
    """
    return {
        "fence_pairguard": command("fencing.agent", python=SYSTEM_PYTHON, path=Path(AGENT)),
        "pairguardd": command("guard.daemon.main"),
        "pairguard": command("guard.cli.main"),
        "pairguard-fence-peer": command("fencing.fence_peer"),
    }


def initialise(site: Site, pair: str) -> None:
    """What a person does once, while the pair is whole (`pairguard init`), asked of the daemon itself until it agrees.

    A guard refuses until the session is attested, some seconds after the pair is whole.
    """
    node = site.nodes[f"{pair}a"]
    until = boottime() + INITIALISE_S_MAX
    while True:
        answer = ask_guard(node, "init", {})
        if "done" in answer:
            return
        if boottime() > until:
            raise LabFailed(f"{pair}: init: {json.dumps(answer)[:600]}")
        time.sleep(0.5)


def ask_guard(node: Node, verb: str, args: Mapping[str, object], *, deadline_s: float = 20.0) -> dict[str, object]:
    """One question to a node's daemon on its control socket; its last answer (`done` or `error`)."""
    question = json.dumps({"schema": "pairguard.control/1", "verb": verb, "args": args}) + "\n"
    socat = ["socat", "-t", str(deadline_s), "-", "UNIX-CONNECT:/run/pairguard/control.sock"]
    done = node.run_in(socat, stdin=question, deadline_s=deadline_s + 2)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"error": {"what": "no answer", "why": done.stderr[-300:]}}
    answer = json.loads(lines[-1])
    return dict(answer) if isinstance(answer, dict) else {"error": {"what": "no object"}}


def state(site: Site, name: str) -> dict[str, object]:
    """What one node's daemon says of its pair (`pairguard status`); empty if it does not answer."""
    done = ask_guard(site.nodes[name], "status", {}).get("done")
    pairs = done.get("pairs") if isinstance(done, dict) else None
    return dict(pairs[0]) if isinstance(pairs, list) and pairs else {}


def guard_events(site: Site, node: Node) -> list[Event]:
    """The daemon's own log (JSON lines with `ts` in UTC), as events of kind `guard` on CLOCK_BOOTTIME."""
    del site
    return [
        Event(at_s, "guard", node.name, f"{said['event']}: {said.get('message', '')}") for at_s, said in _logged(node)
    ]


def pages(node: Node, since_s: float) -> set[str]:
    """What this node's daemon called a person for since a moment: events of guard/events.py."""
    return {str(said["event"]) for at_s, said in _logged(node) if at_s >= since_s and said.get("page") is True}


def _logged(node: Node) -> Iterator[tuple[float, dict[str, object]]]:
    """Each record of the daemon's log with its moment; a traceback or a foreign line is left out."""
    offset_s = boottime() - time.time()
    for line in node.read("/var/log/pglab/pairguardd.log").splitlines():
        try:
            said = json.loads(line)
            at_s = datetime.fromisoformat(said["ts"]).timestamp() + offset_s
        except (ValueError, KeyError, TypeError):
            continue  # it stays in the kept log
        if "event" in said:
            yield at_s, said


def mosquitto_conf(site: Site) -> str:
    """The broker, on the arbiter's address and (for the witness) loopback. What the guards believe is signatures."""
    return (
        f"listener {BUS_PORT} {site.arbiter_address()}\nlistener {BUS_PORT} 127.0.0.1\n"
        f"allow_anonymous true\nset_tcp_nodelay true\npersistence false\n"
        f"log_dest file {site.arbiter_dir / 'mosquitto.log'}\nuser root\n"
    )


# ---------------------------------------------------------------- mechanics, the same whatever the settings are


def install(site: Site, node: Node) -> None:
    """Put keys, settings, programs and the daemon into a node whose pair is attached; called before its first boot."""
    layer = site.space.work / "guarded-sbin"
    if not layer.is_dir():
        layer.mkdir()
        for name, argv in programs().items():
            write_program(layer / name, argv)
    node.sbin_layers.append(layer)
    keys = _keys(site)
    node.write(f"{ETC}/pairguard.toml", toml(guard_settings(site, node)))
    node.write(f"{ETC}/profiles/lab.toml", PROFILE.read_text())
    for source in (REPOSITORY / "fencing").glob("*.py"):
        node.write(f"{AGENT}/fencing/{source.name}", source.read_text())
    node.write(f"{ETC}/keys/private.pem", (keys / f"{node.name}.pem").read_text(), mode=0o600)
    node.write(f"{ETC}/keys/community", COMMUNITY + "\n", mode=0o600)
    for party in (node.name, node.peer, ARBITER):
        node.write(f"{ETC}/keys/public/{party}.pub", (keys / "public" / f"{party}.pub").read_text())
    node.services.append(
        Service(
            "pairguardd",
            ("pairguardd", "--config", f"{ETC}/pairguard.toml"),
            wait_for="test -S /run/pairguard/control.sock",
        )
    )


def start_arbiter(site: Site) -> None:
    """Mosquitto and the witness in their own namespace, once its address is set."""
    for place in ("state", "run"):
        (site.arbiter_dir / place).mkdir(parents=True)
    (site.arbiter_dir / "mosquitto.conf").write_text(mosquitto_conf(site))
    (site.arbiter_dir / "witness.toml").write_text(toml(witness_settings(site)))
    site.start_in_arbiter("mosquitto", ["mosquitto", "-c", str(site.arbiter_dir / "mosquitto.conf")])
    start_witness(site)


def start_guard(node: Node) -> None:
    """Start a node's daemon again after it was killed; its log goes on."""
    words = f"exec pairguardd --config {ETC}/pairguard.toml >> /var/log/pglab/pairguardd.log 2>&1"
    node.spawn_in(["sh", "-c", words], log=node.root / "console.log")
    node.record.add("guard-started", node.name)


def start_witness(site: Site) -> None:
    """Start the witness (again)."""
    argv = [*command("guard.witness.main"), "--config", str(site.arbiter_dir / "witness.toml")]
    site.start_in_arbiter("witness", argv)


def trap_receivers(site: Site) -> list[str]:
    """Where the switches send their traps."""
    if site.plan.pairs > TRAPS_PAIRS_MAX:
        return []
    return [f"{_own_address(site, name)}:{TRAP_PORT}" for name in site.nodes]


def command(module: str, function: str = "main", *, python: str = sys.executable, path: Path = REPOSITORY) -> list[str]:
    """How a program of ours is started: this interpreter, with our repository on its path."""
    code = f"import sys; sys.path.insert(0, {str(path)!r}); from {module} import {function}; sys.exit({function}())"
    return [python, "-I", "-c", code]


def write_program(path: Path, argv: list[str]) -> None:
    """A small shell program that becomes `argv`."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
    path.chmod(0o755)


def toml(table: Mapping[str, object]) -> str:
    """A table as TOML. Takes str, bool, int, float, lists and tables; JSON's strings are TOML's basic strings."""
    return "".join(f"{json.dumps(key)} = {_value(value)}\n" for key, value in table.items())


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return json.dumps(value)


def _path(node: Node) -> list[str]:
    """The switches between a node and its peer."""
    return [access_of(node.name), access_of(node.peer), *AGGREGATION]


def _own_address(site: Site, name: str) -> str:
    return address(name, out_of_band=site.plan.arbiter == "out-of-band")


def _keys(site: Site) -> Path:
    """The directory of every party's key pair; made at the first call."""
    keys = site.space.work / "keys"
    if not keys.is_dir():
        (keys / "public").mkdir(parents=True)
        for party in (*site.nodes, ARBITER):
            generate(keys / f"{party}.pem", keys / "public" / f"{party}.pub")
    return keys
