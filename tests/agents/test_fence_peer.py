"""`pairguard-fence-peer` as DRBD runs it, against a guard of the tests' own on a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_guard import Answer, StubGuard, raw, says

from fencing.fence_peer import connected_in, role_in

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests" / "captures" / "agents"
LONG_S = 60
ENV_84 = {  # as measured on 8.4.11
    "DRBD_RESOURCE": "r0",
    "DRBD_MINOR": "0",
    "DRBD_PEER": "nodeB",
    "DRBD_PEERS": "nodeB",
    "DRBD_PEER_ADDRESS": "192.0.2.2",
    "DRBD_PEER_AF": "ipv4",
    "DRBD_CONF": "/etc/drbd.conf",
}


def capture(name: str) -> Path:
    return CAPTURES / f"{name}.proc-drbd.txt"


def start(
    socket: Path, proc: Path, *words: str, env: dict[str, str] | None = None, path: str = "/nowhere"
) -> subprocess.Popen[str]:
    clean = {"PATH": path, "LANG": "C.UTF-8", **(ENV_84 if env is None else env)}
    program = [sys.executable, "-m", "fencing.fence_peer", "--socket", str(socket), "--proc-drbd", str(proc), *words]
    return subprocess.Popen(program, cwd=ROOT, env=clean, text=True, stderr=subprocess.PIPE)


def code_of(handler: subprocess.Popen[str]) -> int:
    handler.communicate(timeout=LONG_S)
    return handler.returncode


@pytest.mark.parametrize("code", [4, 6, 7, 1])
def test_answers_are_passed_on(tmp_path: Path, code: int) -> None:
    """The four codes of ours reach DRBD, and the guard hears what DRBD said."""
    answer = says({"progress": "asking the arbiter"}, {"done": {"code": code, "reason": "r"}})
    with StubGuard(tmp_path / "s", answer) as guard:
        assert code_of(start(tmp_path / "s", capture("primary-frozen"), env={**ENV_84, "OTHER": "x"})) == code
    assert guard.heard == [
        {
            "schema": "pairguard.control/1",
            "verb": "fence-peer",
            "args": {"resource": "r0", "minors": [0], "peer": "nodeB", "env": ENV_84},
        }
    ]


@pytest.mark.parametrize(
    "answer",
    [
        says({"done": {"code": 3}}),
        says({"done": {"code": 5}}),
        says({"done": {"code": 0}}),
        says({"done": {"code": True}}),
        says({"done": {"code": "4"}}),
        says({"done": {"code": 4.0}}),
        says({"done": {}}),
        says({"done": 4}),
        says(4),
        raw(b"4\n"),
        raw(b"\xff\n"),
        raw(b'{"done":{"code":4}}'),
    ],
    ids=["three", "five", "zero", "true", "word", "float", "empty", "bare", "number", "line", "no-utf8", "cut-off"],
)
def test_anything_odd_is_one(tmp_path: Path, answer: Answer) -> None:
    """Never 3 or 5, never a guess: an odd answer is 1, on a frozen primary too."""
    with StubGuard(tmp_path / "s", answer):
        assert code_of(start(tmp_path / "s", capture("primary-frozen"))) == 1


def test_no_resource_is_one(tmp_path: Path) -> None:
    """Without a resource nobody is asked."""
    with StubGuard(tmp_path / "s", says({"done": {"code": 4}})) as guard:
        assert code_of(start(tmp_path / "s", capture("primary-frozen"), env={})) == 1
        assert code_of(start(tmp_path / "s", capture("primary-frozen"), env={"DRBD_RESOURCE": "a b"})) == 1
    assert guard.heard == []


def test_drbd_9_names(tmp_path: Path) -> None:
    """DRBD 9 names minors by volume; what it says of nodes goes along."""
    env = {"DRBD_RESOURCE": "r0", "DRBD_VOLUME": "0 1", "DRBD_MINOR_0": "10", "DRBD_MINOR_1": "11"}
    env |= {"DRBD_PEER_NODE_ID": "1", "DRBD_PEERS": "nodeB", "UP_TO_DATE_NODES": "0x1"}
    with StubGuard(tmp_path / "s", says({"done": {"code": 4}})) as guard:
        assert code_of(start(tmp_path / "s", tmp_path / "absent", env=env)) == 4
    args = guard.heard[0]["args"]
    assert (args["minors"], args["peer"], args["env"]) == ([10, 11], "nodeB", env)


def test_promotion_gives_up_and_primary_does_not(tmp_path: Path) -> None:
    """Without a guard a promotion ends with 1 after about 15 s; a frozen primary, or one in doubt, asks on."""
    began = time.monotonic()
    promotion = start(tmp_path / "absent", capture("secondary-cut"))
    asking = [start(tmp_path / "absent", capture("primary-frozen")), start(tmp_path / "absent", tmp_path / "absent")]
    late = [start(tmp_path / "s", capture("primary-frozen")), start(tmp_path / "s", tmp_path / "absent")]
    with pytest.raises(subprocess.TimeoutExpired):
        late[0].wait(1.5)
    with StubGuard(tmp_path / "s", says({"done": {"code": 4}})):
        assert [code_of(handler) for handler in late] == [4, 4]
    assert code_of(promotion) == 1
    assert time.monotonic() - began > 10, "a guard that restarts needs some seconds"
    for handler in asking:
        assert handler.poll() is None
        handler.kill()
        handler.communicate()


def test_frozen_primary_asks_again(tmp_path: Path) -> None:
    """A guard that refuses for now, or that goes away while it works, is asked again."""
    turns = iter([says({"error": {"code": "starting", "what": "not ready"}}), raw(b""), says({"done": {"code": 4}})])
    with StubGuard(tmp_path / "s", lambda question, say: next(turns)(question, say)) as guard:
        assert code_of(start(tmp_path / "s", capture("primary-frozen"))) == 4
    assert len(guard.heard) == 3


def test_healed_link_ends_it(tmp_path: Path) -> None:
    """Once DRBD is connected again nobody needs an answer: 1, which DRBD ignores then."""
    proc = tmp_path / "drbd"
    proc.write_bytes(capture("primary-frozen").read_bytes())
    handler = start(tmp_path / "absent", proc)
    with pytest.raises(subprocess.TimeoutExpired):
        handler.wait(1.5)
    proc.write_bytes(capture("primary-connected").read_bytes())
    assert code_of(handler) == 1


def test_drbdadm_is_asked_where_proc_is_silent(tmp_path: Path) -> None:
    """Where /proc/drbd shows no devices (DRBD 9), drbdadm says that the link is back."""
    program = tmp_path / "drbdadm"
    program.write_text('#!/bin/sh\ncase "$1" in role) echo Primary;; cstate) echo Connected;; esac\n')
    program.chmod(0o755)
    assert code_of(start(tmp_path / "absent", tmp_path / "absent", path=f"{tmp_path}:{os.defpath}")) == 1


@pytest.mark.parametrize(("answer", "code"), [({"code": 0}, 0), ({"code": 1}, 1), ({"code": False}, 1), ({}, 1)])
def test_unfence(tmp_path: Path, answer: object, code: int) -> None:
    """As unfence handler it asks the other verb, and only the guard's 0 is 0."""
    with StubGuard(tmp_path / "s", says({"done": answer})) as guard:
        assert code_of(start(tmp_path / "s", capture("primary-connected"), "--unfence")) == code
    assert (guard.heard[0]["verb"], guard.heard[0]["args"]) == ("unfence-peer", {"resource": "r0"})


def test_unfence_by_name(tmp_path: Path) -> None:
    """A link whose name says unfence is the unfence handler."""
    name = "pairguard-unfence-peer"
    program = f"import sys; sys.argv[0] = {name!r}; from fencing.fence_peer import main; sys.exit(main())"
    with StubGuard(tmp_path / "s", says({"done": {"code": 0}})) as guard:
        words = [sys.executable, "-c", program, "--socket", str(tmp_path / "s")]
        assert subprocess.run(words, cwd=ROOT, env=ENV_84, check=False).returncode == 0
    assert guard.heard[0]["verb"] == "unfence-peer"


def test_proc_drbd_of_a_real_module() -> None:
    """Roles and connections as the real module shows them; a device that is not shown makes all unknown."""
    read = {name: capture(name).read_text() for name in ("primary-frozen", "primary-cut", "secondary-cut")}
    assert [role_in(text, [0]) for text in read.values()] == ["Primary", "Primary", "Secondary"]
    assert not any(connected_in(text, [0]) for text in read.values())
    connected = capture("primary-connected").read_text()
    assert (role_in(connected, [0]), connected_in(connected, [0])) == ("Primary", True)
    assert (role_in(connected, [0, 1]), connected_in(connected, [0, 1])) == (None, None)
    assert (role_in(connected, []), connected_in(connected, [])) == (None, None)
    unconfigured = " 0: cs:Unconfigured\n"
    assert role_in(unconfigured, [0]) is None
    both = connected + " 1: cs:WFConnection ro:Secondary/Unknown ds:UpToDate/DUnknown C r-----\n"
    assert (role_in(both, [0, 1]), connected_in(both, [0, 1])) == ("Primary", False)
