"""A run that failed, kept so that anybody can see it again: JSON lines with the scenario, the seed and the whole story.

1. The first line holds everything that made the run; the last one how it ended. Between them one line an event.
2. No clock and no machine is in it: the same commit, scenario, seed and settings give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard import __version__
from guard.errors import PairguardError
from guard.rehearsal.scenario import made
from guard.rehearsal.site import Ended, Plan, play
from guard.rehearsal.values import Wrong, plain

SCHEMA = "pairguard.transcript/1"
LINES_MAX = 20  # of a story that is printed
EVENTS_MAX = 14
_GIT_S_MAX = 5.0
_HOME = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Transcript:
    """`lines`: what the file holds, without line ends. `commit`: of the code that wrote it."""

    plan: Plan
    seed: int
    commit: str
    lines: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.plan.scenario.name}-seed-{self.seed}.jsonl"

    def bytes(self) -> bytes:
        return ("\n".join(self.lines) + "\n").encode()


def commit() -> str:
    """The commit of this code, with `+` if it was changed since; the version where there is no git. Never fails."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return f"v{__version__}"
    found = _git("rev-parse", "--short=12", "HEAD")
    if found is None:
        return f"v{__version__}"
    return found + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", "../fencing") else "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=_HOME, capture_output=True, text=True, timeout=_GIT_S_MAX, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def told(plan: Plan, seed: int, code: str) -> Transcript:
    """The run once more, with its story."""
    ended = play(plan, seed, telling=True)
    first = {
        "schema": SCHEMA,
        "commit": code,
        "seed": seed,
        "pairs": plan.pairs,
        "scenario": plain(plan.scenario),
    }
    events = [{"at_s": at, "pair": pair, "who": who, "text": text} for at, _, pair, who, text in ended.story]
    rows: list[Mapping[str, Any]] = [first, *events, _end(ended)]
    return Transcript(plan, seed, code, tuple(json.dumps(row, ensure_ascii=False) for row in rows))


def _end(ended: Ended) -> dict[str, Any]:
    failure = ended.failure
    if failure is None:
        return {"ended": "well"}
    return {"ended": failure.rule, "pair": failure.pair, "round": failure.turn, "why": failure.why}


def read(path: Path) -> Transcript:
    """Raises `Wrong` for what is no transcript, `SettingsError` if its scenario is none any more."""
    try:
        lines = tuple(path.read_text(encoding="utf-8").splitlines())
        first = json.loads(lines[0])
        if first["schema"] != SCHEMA:
            raise Wrong(f"cannot replay {path}", f"its schema is {first['schema']!r}, not {SCHEMA}", _NEXT)
        plan = Plan(made(first["scenario"], str(path)), int(first["pairs"]))
        return Transcript(plan, int(first["seed"]), str(first["commit"]), lines)
    except OSError as error:
        raise Wrong(f"cannot replay {path}", str(error), _NEXT) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Wrong(f"cannot replay {path}", f"it is no transcript ({error})", _NEXT) from error


_NEXT = "give a file that a failed `pairguard rehearse` has written"


@dataclass(frozen=True, slots=True)
class Replayed:
    """`differs_at`: the first line that is another one, counted from 1; None: byte for byte the same."""

    transcript: Transcript
    differs_at: int | None
    failed: bool


def replay(old: Transcript) -> Replayed:
    """Play it again. The commit in the first line is the old one, so that only the story is compared."""
    new = told(old.plan, old.seed, old.commit)
    pairs = enumerate(zip(old.lines, new.lines, strict=False), start=1)
    differs = next((n for n, (one, other) in pairs if one != other), None)
    if differs is None and len(old.lines) != len(new.lines):
        differs = min(len(old.lines), len(new.lines)) + 1
    return Replayed(new, differs, json.loads(new.lines[-1])["ended"] != "well")


def keep(transcript: Transcript, folder: Path) -> Path:
    """Write it. Raises `PairguardError` where that is impossible."""
    path = folder / transcript.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(transcript.bytes())
    except OSError as error:
        raise PairguardError(f"cannot write {path}", str(error), "give a folder with --out") from error
    return path


def story(transcript: Transcript) -> list[str]:
    """At most 16 lines: which run, the last events of the pair that it is about, how it ended; the last one is long."""
    rows = [json.loads(line) for line in transcript.lines[1:]]
    end, events = rows[-1], rows[:-1]
    own = [row for row in events if end.get("pair") in (None, row["pair"]) or row["pair"] == ""]
    head = f"{transcript.plan.scenario.name} seed {transcript.seed} commit {transcript.commit}"
    if end.get("pair"):
        head += f", {end['pair']} in round {end['round'] + 1}"
    last = [f"{row['at_s']:10.3f} {row['who']:8} {row['text']}" for row in own[-EVENTS_MAX:]]
    return [head, *last, _said(end)]


def _said(end: Mapping[str, Any]) -> str:
    return "it ended well" if end["ended"] == "well" else f"{end['ended']}: {end['why']}"


def shown(lines: Sequence[str], width: int) -> str:
    """As it is printed: events cut to `width` columns, the end wrapped, all of it at most 20 lines."""
    cut = [line if len(line) <= width else line[: width - 1] + "~" for line in lines[:-1]]
    return "\n".join((*cut, *textwrap.wrap(lines[-1], width, subsequent_indent="  ")[: LINES_MAX - len(cut)]))
