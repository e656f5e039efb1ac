"""`make fuzz SECONDS=600`: the coverage-guided fuzzer (atheris) over every border, then the property tests, longer.

    python -m tests.fuzz.run --seconds 600 [--only NAME] [--out build/fuzz]

Each border runs in a process of its own, in turn, each for its share of the time. The corpus stays in OUT/NAME/corpus
and the next run goes on with it. A finding ends that border's turn: the input is in OUT/NAME/, and belongs into
tests/captures/fuzz/NAME/ once it is mended. Exit 1 if there was one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INPUT_S_MAX = 10  # one input; a border that takes longer hangs
MEMORY_MIB_MAX = 2048
BYTES_MAX = 70_000  # a little over wire.BYTES_MAX
PROPERTY_SHARE = 0.3  # of the seconds, for the property tests


def main() -> int:
    options = _options()
    out = Path(options.out).resolve()
    if options.target:
        return fuzz_here(options.target, out, options.seconds)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed here (it is built for Linux on x86-64 only): property tests alone")
        return properties(options.seconds)
    from tests.fuzz.targets import TARGETS

    names = [name for name in sorted(TARGETS) if options.only in (None, name)]
    share = 0.0 if options.only else PROPERTY_SHARE
    each_s = max(2, round(options.seconds * (1 - share) / max(1, len(names))))
    bad = [name for name in names if not turn(name, out, each_s)]
    failed = properties(options.seconds * share) if share else 0
    print(f"{len(names)} borders, {each_s} s each: " + (f"findings in {', '.join(bad)}" if bad else "no finding"))
    return 1 if bad or failed else 0


def turn(name: str, out: Path, seconds: int) -> bool:
    """One border in a process of its own; True: no finding."""
    argv = [sys.executable, "-m", "tests.fuzz.run", "--target", name, "--out", str(out), "--seconds", str(seconds)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    said = ran.stdout + ran.stderr
    done = re.findall(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+) corp: (\S+)", said, re.MULTILINE)
    runs, _, coverage, _, corpus = done[-1] if done else ("0", "", "0", "0", "0")
    print(f"{name:22} {int(runs):>9} inputs  coverage {coverage:>5}  corpus {corpus}", flush=True)
    if ran.returncode == 0 and done:
        return True
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / "finding.log").write_text(said)
    print("\n".join(said.splitlines()[-25:]), flush=True)
    return False


def fuzz_here(name: str, out: Path, seconds: float) -> int:
    """In the child: instrument what is ours and the standard parsers behind it, then fuzz until the time is over."""
    import atheris

    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["guard", "fencing"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS, found
    target = TARGETS[name]
    corpus = out / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate((*target.seeds(), *found(name))):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    words, known = out / name / "words.dict", _words(target.seeds())
    words.write_text("".join(f'"{word}"\n' for word in known or ["zq7x"]))  # libFuzzer takes no empty one
    argv = [sys.argv[0], f"-max_total_time={int(seconds)}", f"-timeout={INPUT_S_MAX}", f"-max_len={BYTES_MAX}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-artifact_prefix={out / name}/", f"-dict={words}",
            "-print_final_stats=1", "-seed=1", str(corpus)]  # fmt: skip
    atheris.Setup(argv, target.check)
    atheris.Fuzz()
    return 0


def _words(seeds: tuple[bytes, ...]) -> list[str]:
    """Words of the seeds, as libFuzzer's dictionary wants them."""
    found = {word for seed in seeds for word in re.findall(rb"[A-Za-z0-9_.-]{2,24}", seed)}
    return sorted(word.decode("ascii") for word in found)[:500]


def properties(seconds: float) -> int:
    """The property tests with new and more tries, as many as fit; a failure prints its example."""
    tries = max(60, int(seconds * 2))
    environment = os.environ | {"PAIRGUARD_FUZZ_TRIES": str(tries)}
    argv = [sys.executable, "-m", "pytest", "-q", "--tb=short", "tests/fuzz"]
    print(f"property tests, {tries} tries each", flush=True)
    return subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", help="one border")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--out", default=str(ROOT / "build" / "fuzz"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
