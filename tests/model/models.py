"""Builds and runs the Promela model: which features go together, which bounds, which wrong models must be found."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "pairguard.pml"
MEMORY_MIB = 4000
DEPTH_MAX = 1_000_000
NEEDED = ("spin", "gcc", "cpp")


class CannotRun(Exception):
    """A program is missing, or the model could not be built or searched to its end."""


@dataclass(frozen=True)
class Model:
    """One set of features. `quick`: a claim and its answer are heard at once or never, and both ends see a cut."""

    name: str
    features: tuple[str, ...]
    small: tuple[int, int]  # faults and claims on one path: what `make test` searches whole
    large: tuple[tuple[int, int], ...]  # the same for `make model`
    calm: tuple[tuple[int, int], ...] = ()  # and more, where no guard restarts and no node dies
    deep: tuple[tuple[int, int], ...] = ()  # does not fit into the memory: states known by their hash
    deep_calm: tuple[tuple[int, int], ...] = ()
    quick: bool = True


@dataclass(frozen=True)
class Wrong:
    """A model without one rule, where it is found, and a law that must be broken there."""

    name: str
    model: str
    bounds: tuple[int, int]
    law: str
    number: int
    calm: bool = False  # no guard restarts, no node dies


MODELS = (
    Model("protocol", (), (2, 2), ((3, 2), (2, 3)), deep=((3, 3),), quick=False),
    Model("disks", ("DISKS",), (1, 2), ((3, 2),)),
    Model("gates", ("GATES", "DISKS"), (1, 2), ((2, 2),), ((3, 2),)),
    Model("yield", ("GATES", "YIELD"), (1, 1), ((1, 2), (2, 1))),
    Model("late", ("GATES", "YIELD", "LATE"), (1, 1), ((2, 1),), quick=False),
    Model("announced", ("GATES", "ANNOUNCED"), (1, 1), ((1, 2), (2, 1))),
    Model("person", ("GATES", "PERSON"), (1, 1), ((1, 2), (2, 1))),
    Model("hold", ("HOLD",), (1, 2), ((2, 2),), ((3, 1),), deep_calm=((3, 2),)),
    Model("loss", ("LOSS",), (1, 2), ((2, 2),)),
    Model(
        "together",
        ("GATES", "DISKS", "YIELD", "ANNOUNCED", "PERSON", "HOLD", "LOSS"),
        (1, 1),
        ((1, 1),),
        deep=((2, 1),),
    ),
)

NUMBERS = {
    name.lower(): int(number)
    for name, number in re.findall(r"#define MUT_(\w+) (\d+)", (HERE / "mutants.pml").read_text(encoding="utf-8"))
}


def _wrong(model: str, bounds: tuple[int, int], laws: dict[str, str], *, calm: bool = False) -> tuple[Wrong, ...]:
    return tuple(Wrong(name, model, bounds, law, NUMBERS[name], calm) for name, law in laws.items())


WRONG = (
    *_wrong(
        "protocol",
        (2, 2),
        {
            "nodrain": "S4", "keepright": "S4", "noreply": "S4", "nononce": "S4", "expire": "S4", "keepclaim": "S4",
            "norenounce": "S4", "askearly": "S4", "rewin": "S2", "reconfver": "S4", "hbused": "S4", "hbright": "S2",
            "usedvolatile": "S2", "nointent": "S4", "drainexit": "S4", "wonfirst": "S4", "closenonce": "S4",
            "noversion": "S4",
        },
    ),
    *_wrong("disks", (2, 1), {"nocont": "S2", "newer": "S2"}),
    *_wrong("gates", (2, 1), {"nogate": "S2", "claimconn": "S3"}),
    *_wrong("gates", (2, 1), {"diskless": "S3"}),
    *_wrong("gates", (3, 2), {"regate": "S2"}, calm=True),
    *_wrong(
        "yield",
        (2, 1),
        {"resumetimer": "S2", "resumereconnect": "S2", "yieldvolatile": "S2", "nosuspend": "S2"},
    ),
    *_wrong("yield", (1, 2), {"resumecut": "S2"}),
    *_wrong("yield", (2, 2), {"oldgather": "S2"}),
    *_wrong("late", (2, 1), {"voidnostore": "S2"}, calm=True),
    *_wrong("announced", (1, 1), {"anngate": "S3"}),
    *_wrong("person", (2, 1), {"nocert": "S2", "certversion": "S4", "certword": "S2", "nodrainperson": "S4"}),
    *_wrong(
        "hold",
        (2, 1),
        {"heldone": "S5", "reltimer": "S5", "relearly": "S5", "rellive": "S5", "sitany": "S5", "sitperson": "S5"},
    ),
    *_wrong("hold", (2, 2), {"brakerec": "S5"}),
    *_wrong("hold", (3, 1), {"oldword": "S5", "oldrole": "S5", "rellate": "S5"}, calm=True),
    *_wrong("loss", (2, 2), {"amnesia": "S2"}),
    *_wrong("loss", (2, 1), {"initdrain": "S4"}),
)  # fmt: skip


EVENTS = (
    "gates", "attest", "say-claim", "claim", "answer", "offer", "say-commit", "commit", "register", "window", "void",
    "close", "handback", "restart", "together",
)  # fmt: skip
"""What a walk of the model says of the arbiter; `tests/model/replay.py` says what each is in the code."""


@dataclass(frozen=True)
class Found:
    """The end of one search. `law`: what was broken, with the depth; None: nothing was, and all states were seen."""

    law: str | None
    depth: int
    states: int
    text: str


def missing() -> list[str]:
    return [name for name in NEEDED if shutil.which(name) is None]


def trace(there: Path, seed: int, *flags: str, steps: int = 20_000) -> list[list[str]]:
    """The protocol's events in one random walk of the model, as words."""
    features = ("-DTRACE", "-DNO_SIGNS", "-DWITH_GATES", "-DWITH_YIELD", "-DWITH_DISKS", "-DWITH_HOLD")
    flat(there, *features, *flags)
    done = subprocess.run(
        ["spin", "-T", f"-n{seed}", f"-u{steps}", "flat.pml"], cwd=there, capture_output=True, text=True, check=False
    )  # fmt: skip
    if "rror" in done.stdout + done.stderr and "assertion violated" not in done.stdout:
        raise CannotRun(f"no walk of the model with seed {seed}:\n{(done.stdout + done.stderr)[-800:]}")
    return [words for line in done.stdout.splitlines() if (words := line.split()) and words[0] in EVENTS]


def defines(model: Model) -> list[str]:
    flags = ["-DLATE" if f == "LATE" else f"-DWITH_{f}" for f in model.features]
    return [*flags, *(["-DQUICK"] if model.quick else [])]


def flat(there: Path, *flags: str) -> Path:
    """The model as one file: spin's own line numbers are wrong where `#include` stands in the middle of a loop."""
    there.mkdir(parents=True, exist_ok=True)
    _run(["cpp", "-P", *flags, str(SOURCE), "-o", "flat.pml"], there)
    return there / "flat.pml"


def build(model: Model, there: Path, *, compact: bool = False) -> Path:
    """The search program of `model`; `compact`: states are known by a hash of 64 bits or more. Raises `CannotRun`."""
    if missing():
        raise CannotRun(f"the model needs {', '.join(missing())}: run `sh packaging/install-needs.sh` as root")
    flat(there, "-DCHOOSE", "-DBOUNDED", *defines(model))
    _run(["spin", "-a", "flat.pml"], there)
    options = ["-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB}", *(["-DHC4"] if compact else [])]
    _run(["gcc", "-O1", "-w", *options, "-o", "pan", "pan.c"], there)
    return there / "pan"


def search(
    pan: Path, bounds: tuple[int, int], wrong: Wrong | None = None, *, calm: bool = False, seconds: float = 1800
) -> Found:
    """Look at every state within the bounds, or up to the first broken law. `seconds` of processor time."""
    name = wrong.name if wrong is not None else f"right-{bounds[0]}-{bounds[1]}{'-calm' if calm else ''}"
    calm = calm or (wrong is not None and wrong.calm)
    number = wrong.number if wrong is not None else 0
    there = pan.parent / name
    there.mkdir(exist_ok=True)
    env = {**os.environ, "MUTANT": str(number), "FAULTS": str(bounds[0]), "CLAIMS": str(bounds[1])}
    env["CALM"] = str(int(calm))
    cap = int(seconds)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cap, cap))

    command = [str(pan.resolve()), "-E", "-w24" if "-compact" in pan.parent.name else "-w22", f"-m{DEPTH_MAX}"]
    done = subprocess.run(
        command, cwd=there, env=env, capture_output=True, text=True, check=False, preexec_fn=limit
    )  # fmt: skip
    text = done.stdout
    states = re.search(r"(\d+) states, stored", text)
    broken = re.search(r"assertion violated\s+!\(?(S\d_\w+)\)?\s*\)? \(at depth (\d+)\)", text)
    cut_short = ("max search depth too small", "out of memory", "MEMLIM", "Search not completed")
    if states is None or (broken is None and any(words in text for words in cut_short)):
        raise CannotRun(
            f"{name} of {pan.parent.name} at {bounds} was not searched to its end ({done.returncode}):\n{text[-800:]}"
        )
    if broken is None and not re.search(r"errors: 0\b", text):
        raise CannotRun(f"{name} of {pan.parent.name} at {bounds} ended in no known way:\n{text[-800:]}")
    law, depth = (broken[1], int(broken[2])) if broken else (None, 0)
    return Found(law, depth, int(states[1]), text)


def _run(command: list[str], there: Path) -> None:
    done = subprocess.run(command, cwd=there, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRun(f"{' '.join(command[:3])} failed in {there}:\n{(done.stdout + done.stderr)[-800:]}")
