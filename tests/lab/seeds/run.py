"""`make lab SEEDS=1-6`: seeded timelines on the real lab and in the rehearsed world, and where the two differ.

OUT/seed-N holds one seed: outcome.json, and the lab's record and picture. A seed that was recorded for this very state
of the repository is not played again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from tests.lab.cases import Case, played
from tests.lab.demo import missing
from tests.lab.ground import Ground, Story
from tests.lab.guarded import REPOSITORY
from tests.lab.plan import REACHES
from tests.lab.seeds import modelled, real
from tests.lab.seeds.outcome import Compared, Outcome, Pace, table
from tests.lab.seeds.timeline import Timeline, timeline
from tests.lab.space import boottime, end_on_signals

SCHEMA = "pairguard.lab.seed/1"


def main(words: list[str] | None = None) -> int:
    """0 if both sides agree; 1 if they differ, a rule was broken or the lab failed; 77 where the lab cannot run."""
    end_on_signals()
    asked = arguments(words)
    lines = [timeline(seed) for seed in asked.seeds]
    state, begun_s = None if asked.recorded else state_of(REPOSITORY), boottime()
    left = [line for line in lines if read(asked.out, line, state) is None]
    failed: dict[int, str] = {}
    if left and not asked.recorded:
        why = missing()
        if why is not None:
            print(f"The lab cannot run here: {why}.")
            return 77
        failed = played_for_real(left, asked.out, str(state))
    compared = [both_sides(asked.out, line, state, failed.get(line.seed, "")) for line in lines]
    (asked.out / "result.json").write_text(json.dumps(result(compared, state), indent=1) + "\n")
    print(table(compared))
    print(f"{boottime() - begun_s:.0f} s; {asked.out}/result.json, seed-N/record.json, seed-N/timeline.svg")
    return 1 if any(one.red for one in compared) else 0


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.lab.seeds.run", description=__doc__)
    parser.add_argument("--seeds", type=seeds, required=True, help="1-6 or 1,4,9 or both")
    parser.add_argument("--out", type=Path, default=Path("build/lab/seeds"))
    parser.add_argument(
        "--recorded", action="store_true", help="play nothing for real: compare what was recorded of any state"
    )
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    return asked


def seeds(text: str) -> list[int]:
    """`1-3,7` → 1, 2, 3, 7. Each once, in order."""
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise argparse.ArgumentTypeError(f"cannot read {text!r} as seeds: write 1-6 or 1,4,9")
        found.update(range(int(low), int(high or low) + 1))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no seed")
    return sorted(found)


def state_of(repository: Path) -> str:
    """The commit, with a digest of what was changed since. A machine without git: "unknown", and nothing is reused."""

    def git(*words: str) -> str:
        argv = ["git", "-C", str(repository), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    commit = git("rev-parse", "--short=12", "HEAD").strip() or "unknown"
    changed = git("diff", "HEAD") + git("ls-files", "--others", "--exclude-standard")
    return commit + (f"+{sha256(changed.encode()).hexdigest()[:12]}" if changed else "")


# ------------------------------------------------------------------ the lab's side


def played_for_real(lines: Sequence[Timeline], out: Path, state: str) -> dict[int, str]:
    """Play these on one site for each place of the arbiter; the seeds that failed, and why."""
    failed = {}
    for arbiter in REACHES:
        cases = [case(line, out, state) for line in lines if line.arbiter == arbiter]
        for told in played(arbiter, cases, out) if cases else ():
            if told.failed and told.name.startswith("seed-"):
                failed[int(told.name.removeprefix("seed-"))] = told.failed
            elif told.failed:  # the site never formed
                failed |= {line.seed: told.failed for line in lines if line.arbiter == arbiter}
    return failed


def case(line: Timeline, out: Path, state: str) -> Case:
    """A seed as a case of the lab."""
    return Case(folder(line), line.words(), line.arbiter, False, None, partial(_play, line, out, state))


def _play(line: Timeline, out: Path, state: str, ground: Ground, told: Story) -> None:
    outcomes, paces = real.play(line, ground, told)
    write(out, line, state, outcomes, paces)
    ground.calm(deadline_s=1.0)  # else a site of its own for the next seed


def folder(line: Timeline) -> str:
    return f"seed-{line.seed}"


# ------------------------------------------------------------------ what was recorded


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the lab made of one timeline."""

    outcomes: tuple[Outcome, ...]
    paces: Mapping[str, Pace]


def write(
    out: Path, line: Timeline, state: str, outcomes: Sequence[Outcome], paces: Mapping[str, Pace] | None = None
) -> None:
    body = {
        "schema": SCHEMA,
        "state": state,
        "timeline": line.as_dict(),
        "real": [each.as_dict() for each in outcomes],
        "paces": {name: asdict(pace) for name, pace in (paces or {}).items()},
    }
    path = out / folder(line) / "outcome.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n")


def read(out: Path, line: Timeline, state: str | None) -> Recorded | None:
    """What the lab recorded of this timeline for this state (None: for any); None if nothing that fits is there."""
    try:
        body = json.loads((out / folder(line) / "outcome.json").read_text())
        fits = body["schema"] == SCHEMA and body["timeline"] == json.loads(json.dumps(line.as_dict()))
        paces = {name: Pace(**each) for name, each in body["paces"].items()}
        found = Recorded(tuple(map(Outcome.made, body["real"])), paces)
        return found if fits and state in (None, body["state"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def both_sides(out: Path, line: Timeline, state: str | None, failed: str) -> Compared:
    """The lab's record beside the rehearsed world's run from the same primaries at the same pace."""
    found = read(out, line, state)
    if found is None:
        return Compared(line, (), tuple(modelled.play(line)), failed or "the lab left no record")
    primaries = {each.pair: each.primary for each in found.outcomes}
    return Compared(line, found.outcomes, tuple(modelled.play(line, primaries, found.paces)))


def result(compared: Sequence[Compared], state: str | None) -> Mapping[str, object]:
    """Everything, for machines."""
    return {
        "schema": "pairguard.lab.seeds/1",
        "state": state,
        "seeds": [
            {
                "timeline": one.line.as_dict(),
                "result": one.word(),
                "failed": one.failed,
                "broken": one.broken,
                "differences": [asdict(each) for each in one.differences],
                "real": [each.as_dict() for each in one.real],
                "modelled": [each.as_dict() for each in one.modelled],
            }
            for one in compared
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
