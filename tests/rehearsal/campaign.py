"""The recorded runs: every scenario at its full number of seeds, in chunks, over as many sessions as it takes.

`python -m tests.rehearsal.campaign --out DIR [--minutes N]` goes on where the last one stopped: each chunk is a line of
DIR/campaign.jsonl with its seeds, commit and figures. Only lines of the very code that is here are counted, so a change
of a decision, or of the world, begins anew. `--report` only sums up. Exit code 1 if a rule or a promise was broken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from guard.rehearsal.scenario import names

ROOT = Path(__file__).resolve().parents[2]
GOAL = {"github-2012": 82_000}
"""Runs. github-2012 has 12.3 pair-freezes a run: a million of them."""
GOAL_OTHERS = 10_000
CHUNK = {"github-2012": 250, "rack-power": 20, "target-2018": 10}
"""Runs between two lines of the record: what is lost if a session ends, a minute or two."""
CHUNK_OTHERS = 250


def goal(name: str) -> int:
    return GOAL.get(name, GOAL_OTHERS)


def code(root: Path = ROOT) -> str:
    """Of everything that decides and of the world that it is driven in."""
    sums = hashlib.sha256()
    for folder in ("guard/core", "guard/rehearsal"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".toml"):
                sums.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return sums.hexdigest()[:12]


def lines(record: Path, now: str) -> list[dict[str, Any]]:
    """What was recorded of this code; a last line that a crash cut short is played again."""
    found = []
    for text in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found += [line] if line["code"] == now else []
    return found


def next_chunk(done: Iterable[dict[str, Any]], wanted: Iterable[str]) -> tuple[str, int, int] | None:
    """Scenario, first seed and runs of what is furthest behind; None: all is played."""
    played = Counter[str]()
    for line in done:
        played[line["scenario"]] += line["runs"]
    behind = [name for name in wanted if played[name] < goal(name)]
    if not behind:
        return None
    name = min(behind, key=lambda each: played[each] / goal(each))
    return name, played[name] + 1, min(CHUNK.get(name, CHUNK_OTHERS), goal(name) - played[name])


def play(name: str, seed: int, runs: int, out: Path, now: str, workers: int | None) -> dict[str, Any]:
    """One chunk. Raises RuntimeError if the program gave no result."""
    words = [name, "--seed", str(seed), "--runs", str(runs), "--json", "--out", str(out / "transcripts")]
    words += [] if workers is None else ["--workers", str(workers)]
    began = time.monotonic()
    command = [sys.executable, "-m", "guard.cli.main", "rehearse", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not ran.stdout.startswith("{") or "guarded" not in (result := json.loads(ran.stdout)):
        raise RuntimeError(f"{name} from seed {seed}: exit {ran.returncode}\n{ran.stdout[-500:]}{ran.stderr[-500:]}")
    guarded = result["guarded"]
    return {
        "code": now,
        "commit": result["commit"],
        "scenario": name,
        "seed": seed,
        "runs": runs,
        "units": guarded["units"],
        "unit": result["unit"],
        "nodes_shot": guarded["nodes_shot"],
        "served_at_the_end": guarded["served_at_the_end"],
        "violations": result["violations"],
        "unmet": result["unmet"],
        "whole_after_s_max": result["whole_after_s_max"],
        "simulated_s": result["simulated_s"],
        "seconds": round(time.monotonic() - began, 1),
        "counts": result["counts"],
    }


def report(done: list[dict[str, Any]]) -> str:
    """Markdown: a row a scenario, then what was done to them."""
    rows = ["| scenario | seeds | units | shot 0 / 1 / 2 | served | rules and promises broken | whole after |"]
    rows.append("|---|---|---|---|---|---|---|")
    counts, hours = Counter[str](), 0.0
    for name in sorted({line["scenario"] for line in done}):
        own = [line for line in done if line["scenario"] == name]
        shot = [sum(line["nodes_shot"][k] for line in own) for k in ("0", "1", "2")]
        broken = Counter[str]()
        for line in own:
            broken.update({**line["violations"], **line["unmet"]})
            counts.update(line["counts"])
            hours += line["simulated_s"] / 3600
        seeds, units = sum(line["runs"] for line in own), sum(line["units"] for line in own)
        served = sum(line["served_at_the_end"] for line in own)
        worst = max(line["whole_after_s_max"] or 0.0 for line in own)
        freezes = sum(line["counts"].get("pair-freezes", 0) for line in own)
        what = f"{units:,} {own[0]['unit']}s" + (f", {freezes:,} times frozen" if freezes else "")
        told = ", ".join(f"{rule}: {n}" for rule, n in sorted(broken.items())) or "none"
        spread = " / ".join(f"{n:,}" for n in shot)
        rows.append(f"| `{name}` | {seeds:,} | {what} | {spread} | {served:,} | {told} | {worst:.0f} s |")
    faults = {key: n for key, n in counts.items() if key.startswith("fault ")}
    commits = ", ".join(sorted({line["commit"] for line in done}))
    spent = sum(line["seconds"] for line in done)
    rows += ["", f"{hours:,.0f} hours played in {spent / 3600:.1f} h, commit {commits}; {len(faults)} kinds of fault,"]
    rows.append(f"{sum(faults.values()):,} times. What became of messages, shots and words:")
    rest = sorted((key, n) for key, n in counts.items() if not key.startswith("fault "))
    rows.append("; ".join(f"{key} {n:,}" for key, n in rest) + ".")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal.campaign", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the record and of transcripts")
    parser.add_argument("--minutes", type=float, help="end after the chunk in which these are over")
    parser.add_argument("--only", action="append", choices=names(), help="this scenario, as often as wanted")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    parser.add_argument("--report", action="store_true", help="play nothing")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    record, now, began = given.out / "campaign.jsonl", code(), time.monotonic()
    done = lines(record, now)
    while not given.report and (chunk := next_chunk(done, given.only or names())) is not None:
        if code() != now:
            print("the code changed while it was played: begin anew", file=sys.stderr)
            return 1
        line = play(*chunk, given.out, now, given.workers)
        torn = record.exists() and not record.read_bytes().endswith(b"\n")
        with record.open("a", encoding="utf-8") as out:
            out.write("\n" * torn + json.dumps(line, separators=(",", ":")) + "\n")
        done.append(line)
        told = {**line["violations"], **line["unmet"]} or "nothing broken"
        print(f"{chunk[0]:16} seeds {chunk[1]}-{chunk[1] + chunk[2] - 1}: {told}, {line['seconds']} s", flush=True)
        if given.minutes is not None and time.monotonic() - began > 60 * given.minutes:
            break
    print(report(done))
    return 1 if any(line["violations"] or line["unmet"] for line in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
