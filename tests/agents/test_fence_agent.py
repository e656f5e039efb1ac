"""`fence_pairguard` as Pacemaker runs it, against a guard of the tests' own on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from stub_guard import Answer, StubGuard, raw, says, silent

from guard.adapters.control import ControlServer, PeerCred, anybody
from guard.errors import Refused

ROOT = Path(__file__).parents[2]
AGENT = [sys.executable, "-m", "fencing.agent"]
SCHEMA = Path("/usr/share/cluster/relaxng/metadata.rng")  # fence-agents' own
LONG_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def start(*lines: str, words: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    agent = subprocess.Popen(
        [*AGENT, *words], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert agent.stdin is not None
    agent.stdin.write("".join(f"{line}\n" for line in lines))
    agent.stdin.close()
    agent.stdin = None
    return agent


def run(*lines: str, words: tuple[str, ...] = ()) -> tuple[int, str, str]:
    agent = start(*lines, words=words)
    out, err = agent.communicate(timeout=LONG_S)
    return agent.returncode, out, err


CONFIRMED = {"done": {"confirmed": True, "reason": "off", "text": "read back twice"}}


@pytest.mark.parametrize("action", ["off", "reboot"])
def test_confirmed_is_success(path: Path, action: str) -> None:
    """Only a shot that the guard confirmed is exit 0, and the guard hears target, delegate and budget."""
    with StubGuard(path, says({"progress": "asking the arbiter"}, CONFIRMED)) as guard:
        code, _, err = run(f"action={action}", "port=fs1b", "delegate=ipmi-b", "wait_s=20", f"socket={path}")
    assert (code, len(guard.heard)) == (0, 1)
    assert "asking the arbiter" in err
    question = guard.heard[0]
    assert (question["schema"], question["verb"]) == ("pairguard.control/1", "fence")
    assert question["args"] | {"wait_s": None} == {
        "action": action,
        "target": "fs1b",
        "delegate": "ipmi-b",
        "wait_s": None,
    }
    assert 10 <= question["args"]["wait_s"] <= 20


@pytest.mark.parametrize(
    "answer",
    [
        says({"done": {"confirmed": False, "reason": "peer-alive", "text": "fs1b answers"}}),
        says({"done": {"confirmed": "true"}}),
        says({"done": {"confirmed": 1}}),
        says({"done": {}}),
        says({"done": True}),
        says([1]),
        raw(b"not json\n"),
        raw(b"\xff\xfe\n"),
        raw(b'{"done":{"confirmed":true}}'),
        raw(b'{"progress":"' + b"x" * 70_000 + b'"}\n{"done":{"confirmed":true}}\n'),
    ],
    ids=["not", "word", "number", "empty", "no-object", "list", "no-json", "no-utf8", "cut-off", "too-long"],
)
def test_anything_but_confirmed_is_failure(path: Path, answer: Answer) -> None:
    """Whatever the guard says or fails to say, only a whole answer with confirmed true is success."""
    with StubGuard(path, answer):
        code, _, err = run("action=off", "port=fs1b", f"socket={path}")
    assert code == 1
    assert err.strip()


def test_waiting_ends_in_failure(tmp_path: Path) -> None:
    """No guard, a guard that refuses and a guard that hangs: all are asked until near the end of wait_s, then 1."""
    refusing, hanging = tmp_path / "r", tmp_path / "h"
    refusal = {"error": {"code": "no-cgroup", "what": "cannot fire", "why": "no cgroup v2", "next": "mount it"}}
    with StubGuard(refusing, says(refusal)) as refuser, StubGuard(hanging, silent):
        agents = [
            start("action=off", "port=fs1b", "wait_s=15", f"socket={socket}")
            for socket in (tmp_path / "absent", refusing, hanging)
        ]
        ends = [agent.communicate(timeout=LONG_S)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [1, 1, 1]
    assert "cannot reach the guard" in ends[0]
    assert "cannot fire: no cgroup v2; mount it [no-cgroup]" in ends[1]
    assert len(refuser.heard) > 1, "one refusal and out would count as a quick failure"
    assert "unknown after 15 s" in ends[2]


@pytest.mark.parametrize("action", ["off", "reboot"])
def test_a_guard_that_restarts_under_it_is_asked_again(path: Path, action: str) -> None:
    """L1: an upgrade or a watchdog is no refusal: a quick 1 would count towards Pacemaker's stonith-max-attempts."""
    agent = start(f"action={action}", "port=fs1b", "wait_s=60", f"socket={path}")
    with StubGuard(path, raw(b"")) as dying:
        until(lambda: len(dying.heard) >= 2, "it asks again though it was left without an answer")
    with StubGuard(path, says(CONFIRMED)) as guard:
        agent.communicate(timeout=LONG_S)
    assert agent.returncode == 0
    assert guard.heard[0]["args"]["action"] == action
    assert guard.heard[0]["args"]["wait_s"] < dying.heard[0]["args"]["wait_s"]


def test_guard_that_goes_away_again_and_again_ends_in_failure(path: Path) -> None:
    """Near the end of wait_s it is 1, and it says why."""
    with StubGuard(path, raw(b"")) as guard:
        code, _, err = run("action=off", "port=fs1b", "wait_s=15", f"socket={path}")
    assert code == 1
    assert len(guard.heard) > 1
    assert "closed the connection" in err


@pytest.mark.parametrize("action", ["on", "status", "monitor"])
def test_what_is_no_shot_is_asked_once_of_a_guard_that_goes_away(path: Path, action: str) -> None:
    """Nobody waits 15 minutes for a status."""
    with StubGuard(path, raw(b"")) as guard:
        code, _, _ = run(f"action={action}", "port=fs1b", f"socket={path}")
    assert (code, len(guard.heard)) == (1, 1)


def test_guard_that_comes_late_is_found(path: Path) -> None:
    """While the socket is absent the agent keeps looking, and what is left of the budget is what it names."""
    agent = start("action=off", "port=fs1b", "wait_s=60", f"socket={path}")
    found = threading.Event()
    assert not found.wait(1.5)
    with StubGuard(path, says(CONFIRMED)) as guard:
        agent.communicate(timeout=LONG_S)
    assert agent.returncode == 0
    assert guard.heard[0]["args"]["wait_s"] <= 59


@pytest.mark.parametrize(
    ("action", "answer", "code"),
    [
        ("status", {"done": {"power": "on"}}, 0),
        ("status", {"done": {"power": "off"}}, 2),
        ("status", {"done": {"power": "?"}}, 1),
        ("status", {"done": {"ok": True}}, 1),
        ("monitor", {"done": {"ok": True}}, 0),
        ("monitor", {"done": {"ok": False}}, 1),
        ("monitor", {"done": {"power": "on"}}, 1),
        ("on", {"done": {"power": "on"}}, 0),
        ("on", {"done": {"ok": True}}, 0),
        ("on", {"done": {"power": "off"}}, 1),
        ("list", {"done": {"targets": ["fs1a", "fs1b"]}}, 0),
        ("list", {"done": {"targets": "fs1a"}}, 1),
        ("list", {"done": {}}, 1),
    ],
)
def test_questions_without_right(path: Path, action: str, answer: object, code: int) -> None:
    """status, monitor, on and list follow the agent contract; 2 is only ever status off."""
    with StubGuard(path, says(answer)) as guard:
        got, out, _ = run(f"action={action}", "port=fs1b", f"socket={path}")
    assert got == code
    assert guard.heard[0]["verb"] == ("list" if action == "list" else "power")
    if action == "list" and code == 0:
        assert out == "fs1a,\nfs1b,\n"


def test_input_rules(path: Path) -> None:
    """Unknown keys, comments and noise are ignored, the last value wins, `plug` and `nodename` name a node too."""
    with StubGuard(path, says(CONFIRMED)) as guard:
        lines = ["# action=monitor", "", "noise", "pcmk_host_list=x", "action=reboot", "nodename=fs1a", "plug=fs1a"]
        assert run(*lines, "port=fs1b", "action=off", f"socket={path}")[0] == 0
        assert run("action=off", "nodename=fs1a", f"socket={path}")[0] == 0
        assert run(words=("-o", "off", "--plug=fs1a", "--socket", str(path)))[0] == 0
    assert [(q["args"]["action"], q["args"]["target"]) for q in guard.heard] == [
        ("off", "fs1b"),
        ("off", "fs1a"),
        ("off", "fs1a"),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["port=fs1b"],
        ["action=", "port=fs1b"],
        ["action=explode", "port=fs1b"],
        ["action=off"],
        ["action=off", "port=a b"],
        ["action=off", "port=fs1b", "wait_s=5"],
        ["action=off", "port=fs1b", "wait_s=nan"],
        ["action=off", "port=fs1b", "wait_s=soon"],
        ["action=validate-all", "delegate=../x"],
    ],
)
def test_orders_that_make_no_sense(path: Path, lines: list[str]) -> None:
    """A wrong order is 1, names what is allowed and never reaches the guard; no action is no shot."""
    with StubGuard(path, says(CONFIRMED)) as guard:
        code, _, err = run(*lines, f"socket={path}")
    assert (code, guard.heard) == (1, [])
    assert err.startswith("cannot ")


def test_validate_all_needs_no_guard(tmp_path: Path) -> None:
    """validate-all judges the settings only."""
    assert run("action=validate-all", "port=fs1b", "wait_s=880", f"socket={tmp_path / 'absent'}")[0] == 0


@pytest.mark.skipif(not SCHEMA.exists() or not shutil.which("xmllint"), reason="needs fence-agents and xmllint")
def test_metadata_is_valid(tmp_path: Path) -> None:
    """The metadata is valid by fence-agents' schema and says what a person must know."""
    code, out, _ = run("action=metadata")
    assert code == 0
    (tmp_path / "m.xml").write_text(out)
    checked = subprocess.run(
        ["xmllint", "--noout", "--relaxng", SCHEMA, tmp_path / "m.xml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "until the change is closed no switchover" in " ".join(out.split())
    assert 'name="delegate"' in out
    assert 'name="port"' in out, "else Pacemaker hands over no port"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("stonith_admin"), reason="needs root and Pacemaker")
def test_pacemaker_accepts_the_agent(tmp_path: Path) -> None:
    """stonith_admin lists the agent and reads its metadata, in a mount namespace where it is installed."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    launcher = tmp_path / "upper" / "fence_pairguard"
    launcher.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m fencing.agent "$@"\n')
    launcher.chmod(0o755)
    script = (
        f"mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={tmp_path}/upper,workdir={tmp_path}/work /usr/sbin"
        " && stonith_admin --list-installed && stonith_admin --metadata -a fence_pairguard"
    )
    seen = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=LONG_S
    )
    assert seen.returncode == 0, seen.stderr
    assert "fence_pairguard\n" in seen.stdout.replace(" ", "")
    assert '<parameter name="wait_s"' in seen.stdout


def test_help_and_version() -> None:
    """--help names actions, exit codes and the waiting rule; both end with 0."""
    code, out, _ = run(words=("--help",))
    assert code == 0
    assert all(word in out for word in ("off, reboot", "Exit: 0", "pcmk_off_timeout"))
    assert run(words=("--version",))[1].startswith("fence_pairguard")


def test_starts_light() -> None:
    """The agent imports nothing heavy: Pacemaker waits for it."""
    program = "import sys, json, fencing.agent, fencing.fence_peer; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(shown.stdout))
    assert not loaded & {"asyncio", "pydantic", "structlog", "subprocess", "guard.errors", "guard.settings"}


@pytest.mark.asyncio
async def test_speaks_with_the_real_server(tmp_path: Path) -> None:
    """The daemon's own control server understands the agent, and its refusal is read as one."""

    async def answer(
        verb: str, args: Mapping[str, Any], cred: PeerCred, progress: Callable[[str], None]
    ) -> Mapping[str, Any]:
        progress(f"{verb} {args['target']}")
        if args["target"] == "fs1a":
            raise Refused("cannot switch fs1a", "it won", "look at pairguard status")
        return {"confirmed": True, "reason": "off", "text": ""}

    server = ControlServer(tmp_path / "s", 0o600, answer, anybody)
    serving = asyncio.create_task(server.run())
    await server.ready.wait()
    good = await asyncio.to_thread(run, "action=off", "port=fs1b", f"socket={tmp_path}/s")
    bad = await asyncio.to_thread(run, "action=off", "port=fs1a", "wait_s=15", f"socket={tmp_path}/s")
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert (good[0], bad[0]) == (0, 1)
    assert "fence fs1b" in good[2]
    assert "cannot switch fs1a: it won; look at pairguard status" in bad[2]
