"""A real control server of a guard (or a witness) with answers that a test writes down."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from guard.adapters.control import ControlServer, PeerCred, Progress, anybody
from guard.cli.main import cli
from guard.errors import Refused
from guard.wire import generate
from tests.adapters.authority import Authority

Answer = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]

ROW: dict[str, Any] = {
    "pair": "fs1",
    "hold": {"state": "none", "inhibits": [], "verified": {"fs1a": False, "fs1b": False}, "release_refused": None},
    "network": {"quiet_for_s": 412.0, "disturbances": [], "unwatched": []},
    "whole": True,
    "attested": True,
    "register": {"era": 7, "winner": None, "used": [], "version": 12, "basis": None, "preferred": "fs1a"},
    "right": None,
    "arbiter": "up",
    "store_doubted": False,
    "barred": False,
    "yielded": False,
    "pages": [],
    "waiting": [],
    "shots": [],
    "nodes": {
        "fs1a": {"role": "Primary", "disk": "UpToDate", "write_age_s": [0.0, 0.4], "gate": True, "guard": "up"},
        "fs1b": {"role": "Secondary", "disk": "UpToDate", "write_age_s": None, "gate": None, "guard": "up"},
    },
}
INHIBIT = {"owner": "root[1]", "reason": "switch agg1 gets a new image", "since": "2026-11-22T03:04:05+00:00"}
INHIBIT |= {"id": "person:k", "kind": "person", "ended": False, "lease_s": 1800.0}


def row(**changed: Any) -> dict[str, Any]:
    """A pair at rest, with changes; a table among them is merged into the one there."""
    made = copy.deepcopy(ROW)
    for key, value in changed.items():
        made[key] = {**made[key], **value} if isinstance(value, dict) and isinstance(made[key], dict) else value
    return made


def held(state: str = "held", *, verified: bool = True, **more: Any) -> dict[str, Any]:
    """A pair with one person's hold."""
    hold = {"state": state, "inhibits": [INHIBIT], "verified": {"fs1a": True, "fs1b": verified}}
    return row(hold={**hold, "release_refused": None}, **more)


class Desk:
    """Answers by verb; a callable is given the arguments. `asked`: what came in on the socket that gives orders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, Answer] = {"status": status(ROW)}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def write(self, verb: str, args: Mapping[str, Any], cred: PeerCred, say: Progress) -> Mapping[str, Any]:
        self.asked.append((verb, args))
        return await self.read(verb, args, cred, say)

    async def read(self, verb: str, args: Mapping[str, Any], cred: PeerCred, say: Progress) -> Mapping[str, Any]:
        found = self.answers.get(verb)
        if found is None:
            raise Refused(f"cannot do {verb!r}", "not written down", "write it down")
        return found(args) if callable(found) else found


class Serving:
    """Both sockets of a desk in a thread of their own, until closed."""

    def __init__(self, desk: Desk) -> None:
        self._loop = asyncio.new_event_loop()
        run = desk.folder / "run"
        run.mkdir(exist_ok=True)
        self._servers = (
            ControlServer(run / "status.sock", 0o666, desk.read, anybody),
            ControlServer(run / "control.sock", 0o660, desk.write, anybody),
        )
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="desk")
        self._thread.start()
        if not self._ready.wait(20):
            raise TimeoutError("the desk does not listen")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)

    def _run(self) -> None:
        self._task = self._loop.create_task(self._serve())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.run())
            for server in self._servers:
                await server.ready.wait()
            self._ready.set()


def status(*rows: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": "pairguard.status/1", "site": "lab", "pairs": list(rows)}


def pairguard(*words: str, config: Path | None = None, env: Mapping[str, str] | None = None) -> Result:
    """The command line in this process. Anything but an orderly end is raised."""
    args = [*words, *(("--config", str(config)) if config is not None else ())]
    done = CliRunner().invoke(cli, args, env=env, prog_name="pairguard")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def one_object(done: Result, schema: str) -> dict[str, Any]:
    """The one JSON object of the answer, `schema` first."""
    found = json.loads(done.stdout)
    assert next(iter(found.items())) == ("schema", schema)
    assert isinstance(found, dict)
    return found


def fits(text: str) -> None:
    """No line over 80 columns, none with a control character."""
    for line in text.splitlines():
        assert len(line) <= 80, line
        assert line.isprintable(), line


def write_settings(folder: Path, *, keys: bool = True, more: str = "", fence: str = "fence_ipmilan") -> Path:
    """Settings of fs1a; with its own keys and its partners' public ones."""
    public = folder / "keys" / "public"
    public.mkdir(parents=True, exist_ok=True)
    if keys:
        generate(folder / "keys" / "private.pem", public / "fs1a.pub")
        for party in ("arbiter", "fs1b"):
            generate(folder / f"{party}.pem", public / f"{party}.pub")
    file = folder / "pairguard.toml"
    file.write_text(
        f"""\
site = "lab"
[pair]
name = "fs1"
node = "fs1a"
peer = "fs1b"
[keys]
private = "{folder}/keys/private.pem"
public_dir = "{public}"
[paths]
state = "{folder}/state"
run = "{folder}/run"
[replication]
resources = ["r0"]
[fence.fs1b]
delegate = "{fence}"
options = {{ ip = "10.20.30.7", lanplus = "1", password = "swordfish" }}
{more}"""
    )
    file.chmod(0o600)
    return file


def with_files(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Settings that name one file of every kind, all of them in order."""
    files = {name: folder / name for name in ("ca", "certificate", "key", "auth", "priv", "script")}
    authority = Authority(folder)
    authority.ca.rename(files["ca"])
    for path, made in zip((files["certificate"], files["key"]), authority.issue("fs1a"), strict=True):
        made.rename(path)
    for name, path in files.items():
        if not path.exists():
            path.write_text("#!/bin/sh\n")
        path.chmod({"ca": 0o644, "certificate": 0o644, "script": 0o700, "key": 0o640}.get(name, 0o600))
    more = f"""\
[fence.fs1a]
delegate = "fence_ipmilan"
options = {{ ip = "10.20.30.8", lanplus = "1", password_script = "{files["script"]}" }}
[bus]
host = "10.20.40.1"
tls = {{ ca = "{files["ca"]}", certificate = "{files["certificate"]}", key = "{files["key"]}" }}
[[switch]]
name = "agg2"
host = "10.20.31.2"
user = "pg"
auth_file = "{files["auth"]}"
priv_file = "{files["priv"]}"
"""
    return write_settings(folder, more=more), files
