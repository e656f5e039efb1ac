"""How much of the catalogue is played by `make test`, and how much by `make rehearse`. The one place for these numbers.

`python -m tests.rehearsal.budget --out DIR` plays the whole of it: results as JSON, pictures, and a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from guard.rehearsal.scenario import names

QUICK = {"github-2012": 60, "rack-power": 10, "target-2018": 6}
"""Runs that `make test` plays: 600 rounds of freezes, 10, 6 and 30 seeds; about 40 s on one core."""
QUICK_OTHERS = 30
FULL = {"github-2012": 1000}
"""Runs that `make rehearse` plays: github-2012 has ten pair-freezes a run, so 10,000 of them."""
FULL_OTHERS = 200


def quick(name: str) -> int:
    return QUICK.get(name, QUICK_OTHERS)


def full(name: str) -> int:
    return FULL.get(name, FULL_OTHERS)


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a rule or a promise was broken anywhere."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal.budget", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for results, pictures and transcripts")
    parser.add_argument("--only", action="append", choices=names(), help="this scenario, as often as wanted")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    broken = []
    for name in given.only or names():
        words = [name, "--runs", str(full(name)), "--json", "--out", str(given.out / "transcripts")]
        words += ["--svg", str(given.out / f"{name}.svg")]
        command = [sys.executable, "-m", "guard.cli.main", "rehearse", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        (given.out / f"{name}.json").write_text(done.stdout, encoding="utf-8")
        broken += [name] if done.returncode != 0 else []
        print(line(json.loads(done.stdout)) if done.stdout.startswith("{") else f"{name}: no result", flush=True)
    print(f"broken: {', '.join(broken) or 'nothing'}; results in {given.out}")
    return 1 if broken else 0


def line(result: dict[str, object]) -> str:
    """One scenario in one line."""
    if "guarded" not in result:
        return json.dumps(result)
    guarded, took = result["guarded"], result["took"]
    assert isinstance(guarded, dict)
    assert isinstance(took, dict)
    return (
        f"{result['scenario']!s:16} {guarded['units']:6} {result['unit']!s:13} shot 0/1/2: "
        f"{'/'.join(str(n) for n in guarded['nodes_shot'].values())}  broken: "
        f"{json.dumps({**dict(result['violations']), **dict(result['unmet'])})}  {took['units_per_hour']} an hour"  # type: ignore[call-overload]
    )


if __name__ == "__main__":
    raise SystemExit(main())
