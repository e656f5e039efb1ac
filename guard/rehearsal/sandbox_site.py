"""Where a sandbox keeps its things, what it was asked for, and the settings of its real programs.

Everything lies under one folder that `up` made itself (its marker is `sandbox.json`); `down` removes exactly that.
"""

from __future__ import annotations

import grp
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guard import wire
from guard.adapters.control import PATH_MAX
from guard.core.messages import ARBITER
from guard.errors import SettingsError, Unavailable

SCHEMA = "pairguard.sandbox/1"
SITE = "sandbox"
RESOURCE = "r0"
SOCKET_NAME_BYTES = 32  # "/control.sock" and the name it is made under first
LIMITS = """
[limits]
settle = "2s"
unheard = "6s"
cold = "15s"
alone_under_hold = "8s"
storm_window = "10s"
storm_retry = "5s"
"""
"""DESIGN.md's waits made short, so that a person sees each story to its end; every relation between them holds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` was asked for. `bus`: "mosquitto" or "hub". Stock pairs have no guard."""

    pairs: tuple[str, ...]
    stock: tuple[str, ...]
    bus: str

    def nodes(self, pair: str) -> tuple[str, str]:
        return f"{pair}a", f"{pair}b"


def default_folder() -> Path:
    """$XDG_RUNTIME_DIR/pairguard-sandbox, else a folder of this user in the temporary folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "pairguard-sandbox"
    return Path(tempfile.gettempdir()) / f"pairguard-sandbox-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one sandbox."""

    folder: Path

    @property
    def marker(self) -> Path:
        return self.folder / "sandbox.json"

    @property
    def world(self) -> Path:
        return self.folder / "world.sock"

    @property
    def pids(self) -> Path:
        return self.folder / "pids.json"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def mosquitto(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def witness(self) -> Path:
        return self.folder / "witness.toml"

    @property
    def witness_run(self) -> Path:
        return self.folder / "w"

    def node(self, title: str) -> Path:
        return self.folder / title

    def settings(self, title: str) -> Path:
        return self.node(title) / "pairguard.toml"

    def boot_id(self, title: str) -> Path:
        return self.node(title) / "boot_id"

    def proc_drbd(self, title: str) -> Path:
        return self.node(title) / "proc-drbd"

    def run(self, title: str) -> Path:
        return self.node(title) / "run"

    def control(self, title: str) -> Path:
        return self.run(title) / "control.sock"

    def status(self, title: str) -> Path:
        return self.run(title) / "status.sock"

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    # ------------------------------------------------------------------ making and reading

    def make(self, plan: Plan) -> None:
        """Make the folder. `SettingsError`: it has something else in it, is another user's, or its name is too long."""
        longest = max((len(os.fsencode(self.run(n))) for p in plan.pairs for n in plan.nodes(p)), default=0)
        if longest + SOCKET_NAME_BYTES > PATH_MAX:
            raise SettingsError(f"cannot use {self.folder}", "its name is too long for sockets", "give a shorter --dir")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            seen = self.folder.lstat()
            if seen.st_uid != os.geteuid() or not self.folder.is_dir() or self.folder.is_symlink():
                raise SettingsError(f"cannot use {self.folder}", "it is not a folder of yours", "give another --dir")
            if any(self.folder.iterdir()):
                raise SettingsError(
                    f"cannot use {self.folder}",
                    "a sandbox or something else is in it",
                    "run: pairguard sandbox down, or give another --dir",
                )
            self.folder.chmod(0o700)
            (self.folder / "log").mkdir()
            self.marker.write_text(json.dumps({"schema": SCHEMA, **asdict(plan)}) + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"cannot make {self.folder}", error.strerror or str(error), "give --dir") from error

    def plan(self) -> Plan:
        """What this sandbox was made for. `Unavailable`: there is none."""
        try:
            said = json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Unavailable(f"cannot find a sandbox in {self.folder}", "", "run: pairguard sandbox up") from error
        if not isinstance(said, dict) or said.get("schema") != SCHEMA:
            raise Unavailable(f"cannot use {self.folder}", "it is no sandbox of this version", "give another --dir")
        return Plan(tuple(said["pairs"]), tuple(said["stock"]), str(said["bus"]))

    def write_settings(self, plan: Plan, *, bus: str, port_of: Mapping[str, int], witness_port: int) -> None:
        """Keys and settings files of witness and guards, as an administrator would write them."""
        titles = [title for pair in plan.pairs for title in plan.nodes(pair)]
        self._make_keys([ARBITER, *titles])
        self.witness.write_text(self._witness(bus, witness_port), encoding="utf-8")
        for pair in plan.pairs:
            a, b = plan.nodes(pair)
            for node, peer in ((a, b), (b, a)):
                self.run(node).mkdir(parents=True)
                self.settings(node).write_text(self._guard(pair, node, peer, bus, port_of[node]), encoding="utf-8")

    def _make_keys(self, parties: Sequence[str]) -> None:
        public = self.keys / "public"
        public.mkdir(parents=True)
        for party in parties:
            wire.generate(self.keys / f"{party}.pem", public / f"{party}.pub")

    def _witness(self, bus: str, port: int) -> str:
        return f"""site = "{SITE}"
{self._bus(ARBITER, bus, port)}
[paths]
state = "{self.witness_run}/state"
run = "{self.witness_run}"
{LIMITS}"""

    def _guard(self, pair: str, node: str, peer: str, bus: str, port: int) -> str:
        """The fence device is the simulated controller: a real guard finds no program `fence_sandbox`."""
        return f"""site = "{SITE}"
{self._bus(node, bus, port)}
[pair]
name = "{pair}"
node = "{node}"
peer = "{peer}"
[paths]
state = "{self.node(node)}/state"
run = "{self.run(node)}"
[replication]
resources = ["{RESOURCE}"]
[fence.{peer}]
delegate = "fence_sandbox"
timeout = "6s"
horizon = "5s"
{_control()}{LIMITS}"""

    def _bus(self, party: str, bus: str, port: int) -> str:
        return f"""[bus]
kind = "{"mqtt" if bus == "mosquitto" else "hub"}"
host = "127.0.0.1"
port = {port}
[keys]
private = "{self.keys}/{party}.pem"
public_dir = "{self.keys}/public"
"""


def _control() -> str:
    """Who may give orders besides root: our own group, so that fence agent and handler may ask as we do."""
    if os.geteuid() == 0:
        return ""
    try:
        group = grp.getgrgid(os.getegid()).gr_name
    except KeyError as error:
        raise SettingsError(
            f"cannot name your group {os.getegid()}", "the system does not know it", "add it to /etc/group"
        ) from error
    return f'[control]\ngroup = "{group}"\n'
