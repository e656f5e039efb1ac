"""`status` and `explain`: one row a pair, pages first, every reason in words, and JSON that tools rely on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from guard.cli.status import merge, of_witness, screen
from guard.daemon.showing import folded
from tests.cli.desk import INHIBIT, ROW, Desk, Serving, fits, held, one_object, pairguard, row, status

WITNESS = {
    "schema": "pairguard.witness-status/1",
    "site": "lab",
    "store_id": "s1",
    "store_trouble": None,
    "pairs": [
        {
            "pair": "fs2",
            "register": {"era": 3, "winner": None, "used": [], "basis": None, "version": 5, "preferred": "fs2a"},
            "session": {"name": "x"},
            "inhibits": [],
            "testimony": {
                "fs2a": {
                    "node": "fs2a",
                    "replicas": [{"role": "primary", "disk": "U", "age_lo_s": 0.5, "age_hi_s": None, "gate": True}],
                }
            },
        }
    ],
}


def test_a_pair_at_rest_has_its_row_and_0(desk: Desk, config: Path) -> None:
    """Also when all went well there is one row a pair."""
    done = pairguard("status", config=config)
    assert done.exit_code == 0
    fits(done.stdout)
    assert "fs1   armed  yes" in done.stdout
    for node in ("fs1a", "fs1b"):
        assert node in done.stdout


def test_json_has_the_keys_of_the_contract_in_its_order(desk: Desk, config: Path) -> None:
    """schema first; the keys of CONTRACT.md, in that order, in every row; twice the same bytes."""
    first, second = (pairguard("status", "--json", config=config) for _ in range(2))
    assert first.stdout == second.stdout
    found = one_object(first, "pairguard.status/1")
    assert list(found)[:3] == ["schema", "site", "pairs"]
    promised = ["pair", "hold", "network", "whole", "attested", "register", "right", "nodes"]
    assert [key for key in found["pairs"][0] if key in promised] == promised
    assert list(found["pairs"][0]["hold"])[:3] == ["state", "inhibits", "verified"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (held(), "held by root[1] since"),
        (held("in-force", verified=False), "not proven held on: fs1b"),
        (row(hold={"state": "settling", "release_refused": {"reason": "not-quiet", "text": "3 s"}}), "not-quiet"),
        (row(whole=False), "not whole"),
        (row(attested=False), "NOT ATTESTED"),
        (row(register=None), "pairguard init"),
        (row(register={"winner": "fs1b", "used": ["alone"]}, barred=True), "fs1b won era 7 (used for: alone)"),
        (row(store_doubted=True), "memory is not the one"),
        (row(arbiter="silent"), "the arbiter does not answer"),
        (row(yielded=True), "has yielded"),
        (row(shots=[{"target": "fs1b", "era": 7, "drains_in_s": None}]), "no bound is known"),
        (row(waiting=[{"who": "fence-peer", "target": "r0", "stage": "wait", "for": "a hold"}]), "fence-peer waits"),
        (row(network={"disturbances": ["agg1: reload"]}), "network: agg1: reload"),
        (row(network={"unwatched": ["switch agg2"]}), "not watched: switch agg2"),
        (row(nodes={"fs1b": {"role": "Secondary", "disk": "UpToDate", "gate": False}}), "gate off: no automatic fail"),
    ],
)
def test_every_state_is_explained_in_words(desk: Desk, config: Path, seen: dict[str, Any], words: str) -> None:
    """What holds, bars or is missing is said, within 80 columns."""
    desk.answers["status"] = status(seen)
    done = pairguard("status", config=config)
    assert done.exit_code == 0
    fits(done.stdout)
    assert words in " ".join(done.stdout.split())


def test_gate_off_is_said_in_the_words_of_the_design(desk: Desk, config: Path) -> None:
    """DESIGN.md section 5: check and status say so in these words."""
    desk.answers["status"] = status(row(nodes={"fs1a": {**ROW["nodes"]["fs1a"], "gate": False}}))
    assert "no automatic failover over a silent peer, ever" in pairguard("status", config=config).stdout


def test_pages_come_first(desk: Desk, config: Path) -> None:
    """Before any row, with the way out."""
    desk.answers["status"] = status(row(pages=["peer-alive"]))
    lines = pairguard("status", config=config).stdout.splitlines()
    assert lines[1].startswith("PAGE fs1: peer-alive")
    assert next(i for i, line in enumerate(lines) if line.startswith("PAIR")) > 1


def test_an_unknown_pair_is_84_never_an_empty_0(desk: Desk, config: Path) -> None:
    """An empty match is never GO."""
    done = pairguard("status", "fs9", config=config)
    assert done.exit_code == 84
    assert "known here: fs1" in done.stderr
    assert pairguard("status", "fs1", config=config).exit_code == 0


def test_watch_asks_again_one_object_a_line(desk: Desk, config: Path) -> None:
    """Each line is whole, and the last answer's code is the code."""
    done = pairguard("status", "--watch", "--every", "0.1s", "--count", "3", "--json", config=config)
    assert done.exit_code == 0
    assert [json.loads(line)["schema"] for line in done.stdout.splitlines()] == ["pairguard.status/1"] * 3


def test_watch_goes_on_while_nobody_answers(config: Path) -> None:
    """A daemon that restarts is waited for; the last word is 85."""
    done = pairguard("status", "--watch", "--every", "0.1s", "--count", "2", config=config)
    assert done.exit_code == 85
    assert done.stdout.count("cannot ask the daemon") == 2


def test_on_the_arbiters_machine_the_witness_answers_for_all_pairs(folder: Path) -> None:
    """Its rows have the same keys; what only a guard sees is null, not a guess."""
    file = folder / "witness.toml"
    keys = f'[keys]\nprivate = "{folder}/p.pem"\npublic_dir = "{folder}"\n'
    file.write_text(f'site = "lab"\n{keys}[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')
    desk = Desk(folder)
    desk.answers["status"] = WITNESS
    serving = Serving(desk)
    try:
        text, done = pairguard("status", config=file), pairguard("status", "--json", config=file)
    finally:
        serving.close()
    assert (text.exit_code, done.exit_code) == (0, 0)
    fits(text.stdout)
    pair = one_object(done, "pairguard.status/1")["pairs"][0]
    assert (pair["pair"], pair["whole"], pair["right"], pair["attested"]) == ("fs2", None, None, True)
    assert pair["nodes"]["fs2a"] == {
        "role": "Primary",
        "disk": "UpToDate",
        "write_age_s": None,
        "gate": True,
        "guard": "?",
    }
    alone = pairguard("status", config=file)
    assert alone.exit_code == 85
    assert "pairguard-witness" in alone.stderr


def test_a_standby_says_who_has_the_term(folder: Path) -> None:
    """It knows no pair, and that is no trouble."""
    file = folder / "witness.toml"
    keys = f'[keys]\nprivate = "{folder}/p.pem"\npublic_dir = "{folder}"\n'
    file.write_text(f'site = "lab"\n{keys}[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')
    desk = Desk(folder)
    why = "w1, process 7 has the term"
    desk.answers["status"] = {"schema": "pairguard.witness-status/1", "site": "lab", "standby": why, "pairs": []}
    serving = Serving(desk)
    try:
        text, done = pairguard("status", config=file), pairguard("status", "--json", config=file)
    finally:
        serving.close()
    assert (text.exit_code, done.exit_code) == (0, 0)
    assert f"the witness here is a standby: {why}" in text.stdout
    fits(text.stdout)
    assert one_object(done, "pairguard.status/1")["standby"] == why


def test_an_inhibit_at_the_witness_is_no_armed_pair() -> None:
    """The witness does not know whether the hold is in force: `inhibited`, never `armed`."""
    told = json.loads(json.dumps(WITNESS))
    told["pairs"][0]["inhibits"] = [{**INHIBIT, "kind": "peer-alive", "since_wall": 1.0}]
    found = of_witness(told)
    assert found["pairs"][0]["hold"]["state"] is None
    assert "armed" not in screen({"site": "lab", **of_witness(WITNESS)}, 0.0)
    assert found["pairs"][0]["pages"] == ["peer-alive"]
    shown = screen({"site": "lab", **found}, 0.0)
    assert "inhibited" in shown
    assert "armed" not in shown


def test_where_both_answer_the_guards_row_stands() -> None:
    """It sees more of its pair; the others come from the witness, in order of name."""
    both = of_witness({**WITNESS, "pairs": [{**WITNESS["pairs"][0], "pair": name} for name in ("fs3", "fs1")]})  # type: ignore[index]
    merged = merge([status(ROW), both], "lab")
    assert [pair["pair"] for pair in merged["pairs"]] == ["fs1", "fs3"]
    assert merged["pairs"][0] == ROW


# ------------------------------------------------------------------ explain


def side(node: str, low: float | None, high: float | None) -> dict[str, Any]:
    replica = {"resource": "r0", "disk": "U", "role": "primary", "gate": True, "current": 0xABC, "bitmap": 0}
    replica |= {"history": [1, 2], "age_lo_s": low, "age_hi_s": high}
    return {"node": node, "session": "s", "connected": False, "cluster": "up", "replicas": [replica]}


VERDICT: Mapping[str, Any] = {
    "purpose": "fence",
    "verdict": "GRANT",
    "row": "V25",
    "reason": "same-and-gated",
    "text": "everything it acknowledged is here",
    "fresh": "silent",
    "candidate": side("fs1a", 0.0, 0.4),
    "target": side("fs1b", 30.0, None),
    "candidate_age_s": 0.1,
    "target_age_s": 4.0,
    "yielded": False,
    "era": 7,
    "version": 12,
    "age_s": 3.0,
}
EXPLAIN = {
    "schema": "pairguard.explain/1",
    "pair": "fs1",
    "node": "fs1a",
    "verdict": VERDICT,
    "events": [
        {"event": "verdict", "text": "old", "at_wall": 1000.0, "page": False, "data": {**VERDICT, "row": "V31"}},
        {"event": "whole", "text": "the pair is whole", "at_wall": 2000.0, "page": False},
    ],
    "readings": [{"what": "r0", "value": "Primary/UpToDate", "age_s": 0.2, "source": "DRBD"}],
}


def test_explain_shows_verdict_and_write_age_comparison(desk: Desk, config: Path) -> None:
    """Both nodes' intervals side by side; with --evidence every reading, its age and source."""
    desk.answers["explain"] = EXPLAIN
    done = pairguard("explain", config=config)
    assert done.exit_code == 0
    fits(done.stdout)
    for words in ("GRANT (V25)", "0.1-0.5 s", "over 34 s", "same-and-gated", "as of this verdict", "4 s before"):
        assert words in done.stdout
    more = pairguard("explain", "fs1", "--evidence", config=config)
    fits(more.stdout)
    for words in ("0000000000000ABC", "DRBD", "0.2 s", "the pair is whole"):
        assert words in more.stdout
    assert one_object(pairguard("explain", "--json", config=config), "pairguard.explain/1")["pair"] == "fs1"


def test_write_ages_are_moved_to_one_moment_or_not_shown(desk: Desk, config: Path) -> None:
    """A testimony of which nobody knows how old it is (the arbiter's machine rebooted) gives no age."""
    told = {**VERDICT, "target": side("fs1b", 3.0, 9.0), "target_age_s": None}
    desk.answers["explain"] = {**EXPLAIN, "verdict": told}
    text = pairguard("explain", config=config).stdout
    assert re.search(r"fs1b +target +r0 +\? ", text)
    assert "a moment that is not known" in " ".join(text.split())
    desk.answers["explain"] = {**EXPLAIN, "verdict": {**told, "target_age_s": 60.0, "fresh": "live"}}
    text = pairguard("explain", config=config).stdout
    assert "63-69 s" in text
    assert "may have written since" not in text


def test_status_says_as_of_when(desk: Desk, config: Path) -> None:
    """Ages mean nothing without their moment."""
    shown = screen({"site": "lab", "pairs": [ROW]}, 1.7e9)
    assert re.search(r"^fs1, everything as of 2023-11-1\d \d\d:\d\d:\d\d \S+:$", shown, re.MULTILINE)
    fits(shown)


def test_what_repeats_is_said_once_with_its_count(desk: Desk, config: Path) -> None:
    """Two requests that wait take turns for an hour; what happened before is still seen."""
    events: list[dict[str, Any]] = [{"event": "whole", "text": "the pair is whole", "at_wall": 900.0, "page": False}]
    for n in range(200):
        text = ("no answer from the fence device", "the arbiter does not answer")[n % 2]
        events.append({"event": "waiting", "text": text, "at_wall": 1000.0 + n, "page": False})
        if n % 2:
            events.append({"event": "claim-ended", "text": "no offer", "at_wall": 1000.5 + n, "page": False})
    verdicts = [{"event": "verdict", "text": "PERSON", "at_wall": 2000.0 + n, "page": False} for n in range(3)]
    found = folded([*events, *verdicts])
    kinds = ["whole", "waiting", "waiting", "claim-ended", "verdict", "verdict", "verdict"]
    assert [each["event"] for each in found] == kinds
    assert [each.get("count", 1) for each in found] == [1, 100, 100, 100, 1, 1, 1]
    assert (found[1]["at_wall"], found[1]["last_wall"]) == (1000.0, 1198.0)
    far = [dict(events[1], at_wall=1.0), *(dict(events[0], text=str(n)) for n in range(20)), dict(events[1])]
    assert len(folded(far)) == len(far), "the same a long time later is news"
    desk.answers["explain"] = {**EXPLAIN, "events": found}
    shown = pairguard("explain", "--evidence", config=config).stdout
    fits(shown)
    assert "(100 times, last 1970-01-01" in " ".join(shown.split())
    assert "the pair is whole" in shown


def test_explain_goes_back_to_the_verdict_of_a_time(desk: Desk, config: Path) -> None:
    """The last one at or before it; before the first there is none: 84. A time without zone is refused."""
    desk.answers["explain"] = EXPLAIN
    assert "V31" in pairguard("explain", "--at", "1970-01-01T00:20:00+00:00", config=config).stdout
    assert pairguard("explain", "--at", "1970-01-01T00:10:00+00:00", config=config).exit_code == 84
    for bad in ("1970-01-01T00:20:00", "noon"):
        assert pairguard("explain", "--at", bad, config=config).exit_code == 2


def test_explain_without_a_verdict_says_how_to_get_one(desk: Desk, config: Path) -> None:
    """Nothing to explain is no failure."""
    desk.answers["explain"] = {**EXPLAIN, "verdict": None}
    done = pairguard("explain", config=config)
    assert done.exit_code == 0
    assert "pairguard verdict" in done.stdout
    assert pairguard("explain", "fs9", config=config).exit_code == 84
