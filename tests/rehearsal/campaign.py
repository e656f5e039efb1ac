"""The recorded runs: every scenario at its full number of seeds, in chunks, over as many sessions as it takes.

`python -m tests.rehearsal.campaign --out DIR [--minutes N]` goes on where the last one stopped: each chunk is a line of
the record with its seeds, commit and figures. The record is kept with the code. Only lines of the very decisions that
are here (guard/core, comments and docstrings aside) and of the same scenario are counted, so a change of a decision
begins anew. The world around them may have grown since: its commits are named. `--report` only sums up.
Exit code 1 if a rule or a promise was broken.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from guard.rehearsal import mixture, transcript
from guard.rehearsal.scenario import names as scenarios

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_suffix(".jsonl")
MIXTURE = "mixture"
"""No scenario: any faults of all kinds, one after the other (guard/rehearsal/mixture.py)."""
GOAL = {"github-2012": 82_000}
"""Runs. github-2012 has 12.3 pair-freezes a run: a million of them."""
GOAL_OTHERS = 10_000
CHUNK = {"github-2012": 500, "rack-power": 200, "target-2018": 50}
"""Runs between two lines of the record: what is lost if a session ends, a minute or two."""
CHUNK_OTHERS = 1_000


def names() -> tuple[str, ...]:
    return (*scenarios(), MIXTURE)


def goal(name: str) -> int:
    return GOAL.get(name, GOAL_OTHERS)


def code(scenario: str, root: Path = ROOT) -> str:
    """Of everything that decides, and of what is done to it. Words about the code are no code."""
    told = root / "guard/rehearsal/catalogue" / f"{scenario}.toml"
    sums = hashlib.sha256(told.read_bytes() if told.exists() else ",".join(mixture.KINDS).encode())
    for path in sorted((root / "guard/core").rglob("*.py")):
        sums.update(f"{path.relative_to(root)}\0".encode() + bare(path.read_text(encoding="utf-8")).encode())
    return sums.hexdigest()[:12]


def bare(source: str) -> str:
    """Python without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [each for each in node.body if not _text(each)] or [ast.Pass()]
    return ast.unparse(tree)


def _text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def lines(record: Path, now: Mapping[str, str]) -> list[dict[str, Any]]:
    """What was recorded of this code (`now`: scenario -> code); a last line that a crash cut short is played again."""
    found = []
    for text in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found += [line] if line["code"] == now.get(line["scenario"]) else []
    return found


def next_chunk(
    done: Iterable[dict[str, Any]], wanted: Iterable[str], size: int | None = None
) -> tuple[str, int, int] | None:
    """Scenario, first seed and runs of what is furthest behind; None: all is played."""
    played = Counter[str]()
    for line in done:
        played[line["scenario"]] += line["runs"]
    behind = [name for name in wanted if played[name] < goal(name)]
    if not behind:
        return None
    name = min(behind, key=lambda each: played[each] / goal(each))
    return name, played[name] + 1, min(size or CHUNK.get(name, CHUNK_OTHERS), goal(name) - played[name])


def play(name: str, seed: int, runs: int, out: Path, now: str, workers: int | None) -> dict[str, Any]:
    """One chunk. Raises RuntimeError if the program gave no result."""
    if name == MIXTURE:
        return mixed(seed, runs, now, workers or os.cpu_count() or 1)
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


def mixed(
    first: int, runs: int, now: str, workers: int, many: Callable[..., Iterable[mixture.Came]] = mixture.many
) -> dict[str, Any]:
    """The same of a mixture."""
    began, counts, simulated_s = time.monotonic(), Counter[str](), 0.0
    broken = Counter[str]()
    for came in many(first, runs, workers):
        counts.update(came.counts)
        simulated_s += came.simulated_s
        for seed, story in came.failed.items():
            broken[story[-1].removeprefix("Violation ").partition(":")[0]] += 1
            print("\n".join((f"--- mixture, seed {seed}", *story)), file=sys.stderr, flush=True)
    return {
        "code": now,
        "commit": transcript.commit(),
        "scenario": MIXTURE,
        "seed": first,
        "runs": runs,
        "units": runs,
        "unit": "mixture",
        "nodes_shot": {},
        "served_at_the_end": runs - broken.total(),
        "violations": dict(broken),
        "unmet": {},
        "whole_after_s_max": None,
        "simulated_s": round(simulated_s, 3),
        "seconds": round(time.monotonic() - began, 1),
        "counts": {key: n for key, n in counts.items() if n},
    }


def report(done: list[dict[str, Any]]) -> str:
    """Markdown: a row a scenario, then what was done to them."""
    rows = ["| scenario | seeds | units | shot 0 / 1 / 2 | served | rules and promises broken | whole after |"]
    rows.append("|---|---|---|---|---|---|---|")
    counts, hours = Counter[str](), 0.0
    for name in sorted({line["scenario"] for line in done}):
        own = [line for line in done if line["scenario"] == name]
        shot = [sum(line["nodes_shot"].get(k, 0) for line in own) for k in ("0", "1", "2")]
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
        spread = spread if sum(shot) else "-"
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
    parser.add_argument("--out", type=Path, required=True, help="folder for transcripts of what broke")
    parser.add_argument("--record", type=Path, default=RECORD, help="the lines of earlier sessions, and of this one")
    parser.add_argument("--minutes", type=float, help="end after the chunk in which these are over")
    parser.add_argument("--only", action="append", choices=names(), help="this scenario, as often as wanted")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    parser.add_argument("--chunk", type=int, help="runs of a line")
    parser.add_argument("--report", action="store_true", help="play nothing")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    record, now, began = given.record, {name: code(name) for name in names()}, time.monotonic()
    done = lines(record, now)
    while not given.report and (chunk := next_chunk(done, given.only or names(), given.chunk)) is not None:
        line = play(*chunk, given.out, now[chunk[0]], given.workers)
        if code(chunk[0]) != now[chunk[0]]:
            print("the code changed while it was played: begin anew", file=sys.stderr)
            return 1
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
