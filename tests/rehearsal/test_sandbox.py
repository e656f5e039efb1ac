"""`pairguard sandbox` from end to end: real processes on loopback, asked through the real command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.adapters.clock import BootClock
from guard.errors import SettingsError
from guard.rehearsal import sandbox_demo
from guard.rehearsal.sandbox import Sandbox, at_rest
from guard.rehearsal.sandbox_demo import Pairs
from guard.rehearsal.sandbox_site import Layout
from guard.rehearsal.simulated.children import start_time
from guard.settings import load_guard

WAIT_S_MAX = 90.0


def pairguard(folder: Path, command: str, *words: str, code: int = 0) -> Any:
    """The answer of one `pairguard sandbox` command with `--json`."""
    argv = [sys.executable, "-m", "guard.cli.main", "sandbox", command, "--dir", str(folder), "--json", *words]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False)
    assert ran.returncode == code, f"{command}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return json.loads(ran.stdout)


def pair_of(folder: Path) -> dict[str, Any]:
    """As `pairguard sandbox status` shows it, without a process for each look."""
    said = asyncio.run(Sandbox(Layout(folder), BootClock()).status())
    pair: dict[str, Any] = said["pairs"][0]
    return pair


def wait(folder: Path, check: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    """The pair as soon as `check` holds."""
    end = time.monotonic() + WAIT_S_MAX
    while not check(pair := pair_of(folder)):
        if time.monotonic() > end:
            pytest.fail(f"waited {WAIT_S_MAX:.0f} s for {what}: {json.dumps(pair)}")
        time.sleep(0.2)
    return pair


def written_down(folder: Path) -> dict[str, tuple[int, int]]:
    said = json.loads((folder / "pids.json").read_text())
    return {name: (pid, started) for name, (pid, started) in said.items()}


def shots(pair: dict[str, Any]) -> int:
    return sum(pair["shots"].values())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One guarded pair, up. Each test begins when it is at rest."""
    folder = tmp_path_factory.mktemp("s") / "s"
    pairguard(folder, "up", "--pairs", "1")
    try:
        yield folder
    finally:
        if folder.exists():
            pairguard(folder, "down")


def test_up_ends_with_a_whole_attested_pair_of_real_programs(site: Path) -> None:
    """Witness and guards are processes of their own, the register is made, both ends have testified."""
    wait(site, at_rest, "the pair to be at rest")
    running = {name: pid for name, (pid, _) in written_down(site).items()}
    assert {"world", "witness", "guard:fs1a", "guard:fs1b"} <= set(running)
    for name, word in (("witness", "guard.witness.main"), ("guard:fs1a", "sandbox_node")):
        assert word in Path(f"/proc/{running[name]}/cmdline").read_text()
    argv = [sys.executable, "-m", "guard.cli.main", "status", "--json", "--config", f"{site}/fs1a/pairguard.toml"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)["pairs"][0]
    assert (said["pair"], said["whole"], said["attested"]) == ("fs1", True, True)


def test_an_unannounced_freeze_shoots_nobody_and_stops_no_service(site: Path) -> None:
    """Both ends ask to fence, nobody may; after the thaw the pair returns to rest in the same era."""
    before = wait(site, at_rest, "the pair to be at rest")
    era = before["guards"]["fs1a"]["register"]["era"]
    pairguard(site, "freeze")
    wait(site, lambda p: all(node["fencing"] for node in p["nodes"].values()), "both to ask for a shot")
    pairguard(site, "heal")
    after = wait(site, at_rest, "the pair to be at rest again")
    assert shots(after) == shots(before)
    assert after["serving"] == before["serving"]
    assert after["guards"]["fs1a"]["register"]["era"] == era
    assert (after["lost_writes"], after["split_brains"]) == (0, 0)


def test_when_only_the_links_freeze_the_primary_goes_on_alone(site: Path) -> None:
    """The arbiter hears both: the sitting primary wins and writes on; the other one is neither shot nor promoted."""
    before = wait(site, at_rest, "the pair to be at rest")
    primary = before["serving"]
    pairguard(site, "freeze", "--links-only")

    def alone(pair: dict[str, Any]) -> bool:
        node = pair["nodes"][primary]
        return node["link"] == "connecting" and not node["suspended"]

    cut = wait(site, alone, "the primary to be allowed to run alone")
    wait(site, lambda p: p["acknowledged"] > cut["acknowledged"] + 10, "writes to go on")
    pairguard(site, "heal")
    after = wait(site, at_rest, "the pair to be at rest again")
    assert shots(after) == shots(before)
    assert after["serving"] == primary
    assert (after["lost_writes"], after["split_brains"]) == (0, 0)


def test_a_dead_primary_is_fenced_once_and_its_peer_promoted(site: Path) -> None:
    """The survivor's agent is confirmed, it serves, and after the dead one's return the era is closed."""
    before = wait(site, at_rest, "the pair to be at rest")
    dead = before["serving"]
    peer = next(title for title in before["nodes"] if title != dead)
    era = before["guards"][peer]["register"]["era"]
    pairguard(site, "kill", dead)
    taken = wait(site, lambda p: p["death"]["promoted_s"] is not None, "the peer to serve")
    assert taken["serving"] == peer
    assert taken["shots"][dead] - before["shots"][dead] == 1
    assert taken["shots"][peer] == before["shots"][peer]
    assert taken["nodes"][peer]["confirmed"] - before["nodes"][peer]["confirmed"] == 1
    after = wait(site, at_rest, "the era to be closed")
    assert after["guards"][peer]["register"]["era"] == era + 1
    assert (after["serving"], after["lost_writes"], after["split_brains"]) == (peer, 0, 0)


def test_down_leaves_no_process_even_if_its_world_was_killed(tmp_path: Path) -> None:
    """Over the hub, with a stock pair: every process that was written down is gone, and so is the folder."""
    folder = tmp_path / "s"
    said = pairguard(folder, "up", "--pairs", "1", "--stock", "1", "--bus", "hub")
    assert (said["pairs"], said["stock"]) == (["fs1"], ["stock1"])
    assert pairguard(folder, "status")["bus"] == "hub"
    before = written_down(folder)
    assert all(start_time(pid) == started for pid, started in before.values())
    os.kill(before["world"][0], signal.SIGKILL)
    pairguard(folder, "down")
    assert [name for name, (pid, started) in before.items() if start_time(pid) == started] == []
    assert not folder.exists()


def test_a_folder_that_is_no_sandbox_is_left_alone(tmp_path: Path) -> None:
    """`up` refuses a folder with something in it, `down` one without a sandbox's marker; nothing is removed."""
    (tmp_path / "letters").write_text("mine")
    assert pairguard(tmp_path, "up", code=89)["schema"] == "pairguard.error/1"
    assert pairguard(tmp_path, "down", code=85)["exit"] == 85
    assert (tmp_path / "letters").read_text() == "mine"


@pytest.mark.parametrize(
    ("table", "words"),
    [("cluster", 'kind = "simulated"'), ("replication", 'kind = "simulated"'), ("sandbox", "on = true")],
)
def test_the_simulated_world_cannot_be_named_in_settings(tmp_path: Path, table: str, words: str) -> None:
    """No settings file can put a simulated cluster or disk where a real one belongs."""
    file = tmp_path / "pairguard.toml"
    file.write_text(f'site = "lab"\n[{table}]\n{words}\n')
    with pytest.raises(SettingsError) as caught:
        load_guard([file])
    assert f"{file}: {table}" in str(caught.value)


# ---------------------------------------------------------------- the demo's numbers


def shown(first: int, second: int, *, stopped_s: float = 0.0, lost: int | None = 0) -> dict[str, Any]:
    return {
        "shots": {"a": first, "b": second},
        "service_stopped_s": stopped_s,
        "write_stall_s": 1.0,
        "lost_writes": lost,
        "split_brains": 0,
    }


def test_the_demo_counts_pairs_by_how_many_of_their_nodes_were_shot() -> None:
    """Both, one or none; the worst pair's times; lost writes that cannot be said are not zero."""
    counted = Pairs.of([shown(1, 1, stopped_s=3.0), shown(0, 2), shown(0, 0)])
    assert (counted.pairs, counted.both_shot, counted.one_shot, counted.none_shot) == (3, 1, 1, 1)
    assert (counted.service_stopped_s, counted.lost_writes) == (3.0, 0)
    assert Pairs.of([shown(0, 0), shown(0, 0, lost=None)]).lost_writes is None


def test_the_demo_calls_any_shot_in_the_freeze_and_any_missing_promotion_a_failure() -> None:
    """`kept` is true for the clean run alone."""
    clean = {"pairs": 1, "fenced": 1, "promoted": 1, "lost_writes": 0}
    good = Pairs.of([shown(0, 0)]).json()
    assert sandbox_demo.kept({"guarded": good, "death": clean})
    assert not sandbox_demo.kept({"guarded": Pairs.of([shown(1, 0)]).json(), "death": clean})
    assert not sandbox_demo.kept({"guarded": Pairs.of([shown(0, 0, lost=None)]).json(), "death": clean})
    for missing in ("fenced", "promoted"):
        assert not sandbox_demo.kept({"guarded": good, "death": clean | {missing: 0}})
