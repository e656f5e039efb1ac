"""The table without the lab: what counts, what is summed, what is shown, and what a rival's pair is told to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.lab import rows
from tests.lab.cases import CASES
from tests.lab.cluster import Fence, Resource, Timers, cib, corosync_conf
from tests.lab.more import MORE
from tests.lab.plan import Plan
from tests.lab.rivals import RIVALS, STOCK
from tests.lab.space import LabFailed

STP = next(line for line in rows.LINES if line.name == "stock/stp")
OURS = next(line for line in rows.LINES if line.name == "ours/primary")


def row(pair: str, shot: tuple[str, ...] = (), **changed: Any) -> dict[str, Any]:
    return {
        "pair": pair,
        "primary": "fs1a",
        "shot": shot,
        "primary_shot": "fs1a" in shot,
        "wrong_node": shot == ("fs1a",),
        "service_stopped_s": 0.0,
        "service_up": True,
        "write_stall_s": 1.0,
        "promoted_after_s": None,
        "lost_writes": 0,
        "split_brain": False,
    } | changed


def test_every_row_of_ours_names_a_case_and_no_row_is_there_twice() -> None:
    """Each rival is played on the same freezes and on the same death."""
    cases = {case.name for case in (*CASES, *MORE)}
    assert {line.case for line in rows.OURS} <= cases
    names = [line.name for line in rows.LINES]
    assert len(set(names)) == len(names)
    assert {f"{rival.name}/{kind}" for rival in RIVALS for kind, _ in rows.KINDS} <= set(names)
    titles = [line.title for line in rows.LINES]
    assert len(set(titles)) == len(titles)


def test_a_row_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Only the missing pairs are played; a run that failed and a torn line count for nothing."""
    record, asked = tmp_path / "rows.jsonl", list[int]()

    def played(line: rows.Line, out: Path, pairs: int) -> dict[str, Any]:
        asked.append(pairs)
        if len(asked) == 2:
            raise LabFailed("no calm")
        return {"rows": [row(f"fs{n}") for n in range(pairs)], "broken": [], "seconds": 1.0}

    rows.keep(record, STP, {"rows": [row(f"fs{n}") for n in range(10)], "broken": [], "seconds": 1.0})
    with record.open("a") as torn:
        torn.write('{"row":"stock/s')
    rows.play(STP, record, tmp_path, float("inf"), played)
    assert asked == [7, 4, 4]
    assert len(rows.played(rows.lines(record), "stock/stp")) == rows.GOAL
    assert [run.get("failed") for run in rows.lines(record)] == [None, None, "no calm", None]


def test_a_row_that_always_fails_is_given_up(tmp_path: Path) -> None:
    """It must not keep the others from their turn."""

    def failed(*_: object) -> dict[str, Any]:
        raise LabFailed("never")

    rows.play(STP, tmp_path / "rows.jsonl", tmp_path, float("inf"), failed)
    assert len(rows.lines(tmp_path / "rows.jsonl")) == rows.FAILED_MAX


def test_what_a_row_says_is_the_sum_of_its_pairs() -> None:
    """Medians and worst, shares with Wilson's interval; a promise of ours that broke is told."""
    run = {
        "row": "stock/stp",
        "rows": [
            row("fs1", ("fs1a", "fs1b"), service_stopped_s=14.0, service_up=False, lost_writes=3),
            row("fs2", ("fs1a",), service_stopped_s=6.0, promoted_after_s=5.5),
            row("fs3", write_stall_s=12.5),
        ],
        "broken": ["fs1: never both (found: 2 s)"],
    }
    found = rows.summed(STP, [run, {"row": "stock/stp", "rows": [row("fs9")], "failed": "x"}])
    assert found is not None
    assert (found["pairs"], found["shot"], found["primary_shot"], found["wrong_node"]) == (3, [1, 1, 1], 2, 1)
    assert (found["service_stopped_s"], found["write_stall_s"]) == ([6.0, 14.0], [1.0, 12.5])
    assert (found["lost_writes"], found["promoted"], found["promoted_after_s"]) == (3, 1, 5.5)
    assert (found["up_at_the_end"], found["broken"]) == (2, ["fs1: never both (found: 2 s)"])
    assert found["both_shot_share"] == [0.333, 0.061, 0.792]
    assert rows.summed(STP, []) is None


def test_a_dead_node_that_is_shot_is_not_the_wrong_one() -> None:
    """In a death the primary alone is shot: that is the promise."""
    found = rows.summed(OURS, [{"row": "ours/primary", "rows": [row("fs1", ("fs1a",))]}])
    assert found is not None
    assert (found["shot"], found["primary_shot"], found["wrong_node"]) == ([0, 1, 0], 1, 0)


def test_the_table_shows_rows_in_which_a_rival_is_as_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever was played is shown, in Markdown, JSON and a picture; what is missing is named, and the exit says so."""
    record = tmp_path / "rows.jsonl"
    for name in ("ours/stp", "second-ring/stp", "stock/death"):
        line = next(each for each in rows.LINES if each.name == name)
        rows.keep(record, line, {"rows": [row("fs1")], "broken": [], "seconds": 1.0})
    words = ["--report", "--record", str(record), "--out", str(tmp_path)]
    assert rows.main(words) == 1
    assert "not played to the end: ours/stp" in capsys.readouterr().out
    text = (tmp_path / "table.md").read_text()
    assert "| a second corosync ring out-of-band: spanning tree 12 s | 1 | 1 / 0 / 0 | 0 | 0 | 0.0 (0.0) s |" in text
    body = json.loads((tmp_path / "table.json").read_text())
    assert [each["row"] for each in body["rows"]] == ["ours/stp", "second-ring/stp", "stock/death"]
    picture = ElementTree.fromstring((tmp_path / "table.svg").read_text())  # noqa: S314  # our own
    assert len([each for each in picture.iter() if each.tag.endswith("title")]) == 2


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_rival_is_set_up_as_its_manual_says(rival) -> None:
    """corosync.conf(5), corosync-qdevice(8), Pacemaker Explained: one vote of qnetd instead of two_node, delays with
    their units, a priority where priority-fencing-delay needs one."""
    conf = corosync_conf("fs1", ("fs1a", "fs1b"), Timers(), rings=rival.rings, quorum=rival.quorum())
    assert ("two_node: 1" in conf) is (rival.qdevice is None)
    assert ("algorithm: ffsplit" in conf) is (rival.qdevice is not None)
    assert ("ring1_addr" in conf) is (rival.rings == 2)
    assert conf.count("{") == conf.count("}")
    fences = {"fs1a": Fence("fence_lab", {"ip": "10.77.100.1", **rival.fence()})}
    text = cib(
        ("fs1a", "fs1b"),
        Timers(),
        Resource("pglab:drbd", {}),
        fences,
        properties=rival.properties(),
        priority=10 if rival.priority_s else 0,
    )
    root = ElementTree.fromstring(text)  # noqa: S314  # our own
    values = {pair.get("name"): pair.get("value") for pair in root.iter("nvpair")}
    assert values["no-quorum-policy"] == rival.no_quorum
    assert values.get("pcmk_delay_max") == (f"{rival.delay_max_s}s" if rival.delay_max_s else None)
    assert (values.get("priority-fencing-delay"), values.get("priority")) == (
        (f"{rival.priority_s}s", "10") if rival.priority_s else (None, None)
    )


def test_a_guarded_pair_is_set_up_as_no_rival() -> None:
    """A plan that mixes both would compare nothing."""
    assert Plan(guarded=True).rival is STOCK
    with pytest.raises(LabFailed, match="set up as second-ring"):
        Plan(guarded=True, rival=next(rival for rival in RIVALS if rival.name == "second-ring"))
