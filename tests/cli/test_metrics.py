"""`pairguard metrics`: what Prometheus reads is what `status` shows; what is not known has no sample."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from guard.cli.metrics import STATES, exposition
from guard.cli.status import of_witness
from guard.core.hold import Stage
from tests.cli.desk import Desk, held, one_object, pairguard, row, status
from tests.cli.test_status import WITNESS

RULES = Path(__file__).resolve().parents[2] / "configs/prometheus/pairguard.rules.yml"
WALL = 1795316700.0  # 2026-11-22T03:05:00Z, 55 s after the hold of tests/cli/desk.py began
ORDER = ("pair", "node", "state", "kind", "page", "who", "purpose", "bound", "event")
Samples = dict[tuple[str, ...], float]


def read(text: str) -> dict[str, Samples]:
    """Metric name -> label values -> value, as Prometheus' own parser reads it."""
    found: dict[str, Samples] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(family.name, {})
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels[key] for key in ORDER if key in sample.labels)] = (
                sample.value
            )
    return found


def shown(*rows: dict[str, Any], counts: dict[str, int] | None = None) -> dict[str, Samples]:
    return read(exposition(status(*rows), counts or {}, WALL, up=True))


def test_a_pair_at_rest() -> None:
    """Whole, attested, nothing held; each node's role and the bounds of its last write."""
    found = shown(row())
    assert found["pairguard_up"] == {(): 1.0}
    assert found["pairguard_whole"] == found["pairguard_attested"] == {("fs1",): 1.0}
    assert found["pairguard_hold_state"][("fs1", "none")] == 1.0
    assert sum(found["pairguard_hold_state"].values()) == 1.0
    assert found["pairguard_era"] == {("fs1",): 7.0}
    assert found["pairguard_winner"] == found["pairguard_page"] == found["pairguard_right"] == {}
    assert found["pairguard_primary"] == {("fs1", "fs1a"): 1.0, ("fs1", "fs1b"): 0.0}
    assert found["pairguard_write_age_seconds"] == {("fs1", "fs1a", "lower"): 0.0, ("fs1", "fs1a", "upper"): 0.4}
    assert found["pairguard_gate"] == {("fs1", "fs1a"): 1.0}
    assert found["pairguard_network_quiet_seconds"] == {("fs1",): 412.0}


def test_a_held_pair_tells_who_proved_it_for_how_long_and_what_is_left() -> None:
    """Seconds, as the names say."""
    found = shown(held(verified=False))
    assert found["pairguard_hold_state"][("fs1", "held")] == 1.0
    assert found["pairguard_hold_verified"] == {("fs1", "fs1a"): 1.0, ("fs1", "fs1b"): 0.0}
    assert found["pairguard_inhibits"] == {("fs1", "person"): 1.0}
    assert found["pairguard_hold_age_seconds"] == {("fs1",): 55.0}
    assert found["pairguard_hold_lease_seconds"] == {("fs1",): 1800.0}


def test_a_page_a_win_and_what_waits() -> None:
    """Two requests of one kind are two."""
    waits = [{"who": "fence-peer", "target": name, "stage": "wait", "for": "x"} for name in ("r0", "r1")]
    found = shown(row(pages=["arbiter-silent"], register={"winner": "fs1b"}, waiting=waits, right="alone"))
    assert found["pairguard_page"] == {("fs1", "arbiter-silent"): 1.0}
    assert found["pairguard_winner"] == {("fs1", "fs1b"): 1.0}
    assert found["pairguard_requests_waiting"] == {("fs1", "fence-peer"): 2.0}
    assert found["pairguard_right"] == {("fs1", "alone"): 1.0}


def test_what_is_not_known_has_no_sample() -> None:
    """0 would be an answer. The metric itself stays, with its help."""
    nobody = {"role": "?", "disk": "?", "write_age_s": None, "gate": None, "guard": "?"}
    found = shown(
        row(whole=None, register=None, network=None, nodes={"fs1a": nobody, "fs1b": nobody}) | {"network": None}
    )
    for name in ("whole", "era", "primary", "gate", "disk_up_to_date", "write_age_seconds", "network_quiet_seconds"):
        assert found[f"pairguard_{name}"] == {}, name
    seen_by_the_witness = shown(*of_witness(WITNESS)["pairs"])
    assert seen_by_the_witness["pairguard_hold_state"] == seen_by_the_witness["pairguard_whole"] == {}
    assert seen_by_the_witness["pairguard_era"] == {("fs2",): 3.0}


def test_every_state_of_a_hold_has_its_sample() -> None:
    """The list is the core's."""
    assert set(STATES) == set(get_args(Stage))


def test_over_the_socket_with_the_events_counted(desk: Desk, config: Path) -> None:
    """What the guard logged since its start, by name; an older guard that does not count leaves them out."""
    desk.answers["counts"] = {"schema": "pairguard.counts/1", "pair": "fs1", "events": {"won": 2, "braked": 5}}
    done = pairguard("metrics", config=config)
    assert done.exit_code == 0
    assert read(done.stdout)["pairguard_events_total"] == {("won",): 2.0, ("braked",): 5.0}
    del desk.answers["counts"]
    done = pairguard("metrics", "--json", config=config)
    assert read(one_object(done, "pairguard.metrics/1")["text"])["pairguard_events"] == {}


def test_silence_is_a_sample_too(config: Path) -> None:
    """No guard, no witness: `pairguard_up` 0 and 85, so that the textfile tells it and the timer's unit fails."""
    done = pairguard("metrics", config=config)
    assert done.exit_code == 85
    assert read(done.stdout)["pairguard_up"] == {(): 0.0}
    assert one_object(pairguard("metrics", "--json", config=config), "pairguard.metrics/1")["up"] is False


def test_a_textfile_is_replaced_whole(desk: Desk, config: Path, folder: Path) -> None:
    """For another user to read, and nothing of the way there is left."""
    target = folder / "pairguard.prom"
    target.write_text("old")
    done = pairguard("metrics", "--textfile", str(target), config=config)
    assert (done.exit_code, target.stat().st_mode & 0o777) == (0, 0o644)
    assert read(target.read_text())["pairguard_up"] == {(): 1.0}
    assert [each.name for each in folder.iterdir() if "prom" in each.name] == ["pairguard.prom"]


def test_a_textfile_that_cannot_be_written_stays_as_it_was(desk: Desk, config: Path, folder: Path) -> None:
    """What, why and next; the half that was written is gone."""
    done = pairguard("metrics", "--textfile", str(folder / "no" / "p.prom"), config=config)
    assert done.exit_code == 85
    assert "No such file" in done.stderr
    target = folder / "p.prom"
    target.mkdir()
    assert pairguard("metrics", "--textfile", str(target), config=config).exit_code == 85
    assert [each.name for each in folder.iterdir() if "prom" in each.name] == ["p.prom"]


def test_the_alerts_speak_of_metrics_that_exist_and_each_says_what_to_do() -> None:
    """Each expression names metrics of ours (or node_exporter's age of a textfile), each alert its runbook line."""
    text = RULES.read_text(encoding="utf-8")
    known = set(read(exposition(status(), {}, WALL, up=True))) | {"node_textfile_mtime_seconds"}
    expressions = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    used = {name for each in expressions for name in re.findall(r"\b(?:pairguard|node)_[a-z_]+", each)}
    assert used
    assert used <= known
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) == len(set(alerts)) == len(expressions)
    for part in text.split("- alert: ")[1:]:
        assert re.search(r"severity: (page|ticket)", part)
        assert re.search(r'summary: ".{20,}"', part)
        assert re.search(r'runbook: ".{40,}"', part)


@pytest.mark.parametrize("name", sorted(read(exposition(status(), {}, WALL, up=True))))
def test_names_and_units_follow_the_convention(name: str) -> None:
    """One prefix, base units, `_total` for counters only."""
    assert re.fullmatch(r"pairguard_[a-z_]+", name)
    assert not re.search(r"_(ms|milliseconds|minutes|hours|s)$", name) or name.endswith(
        ("_seconds", "_inhibits", "_shots")
    )
