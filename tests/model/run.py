"""`make model`: each model at its large bounds, then its wrong ones, as a table. Not 0 if one is not as it must be."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tests.model.interleave import LARGE, SMALL, Bounds, start
from tests.model.interleave import search as search_orders
from tests.model.models import MODELS, WRONG, CannotRun, Wrong, build, search


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/model"))
    parser.add_argument("--only", help="one model by name")
    parser.add_argument("--small", action="store_true", help="the bounds of make test")
    parser.add_argument("--seconds", type=float, default=1800, help="of processor time for one search")
    given = parser.parse_args()
    bad = 0
    print(f"{'model':10} {'rule dropped':16} {'faults':>6} {'claims':>6} {'states':>10} {'s':>6}  result")
    if given.only in (None, "interleave"):
        bad += interleaved(SMALL if given.small else LARGE)
    for model in MODELS:
        if given.only not in (None, model.name):
            continue
        pan = build(model, given.out / model.name)
        for bounds in (model.small,) if given.small else model.large:
            bad += _line(pan, model.name, bounds, None, given.seconds)
        for bounds in () if given.small else model.calm:
            bad += _line(pan, model.name, bounds, None, given.seconds, calm=True)
        if not given.small and (model.deep or model.deep_calm):
            compact = build(model, given.out / f"{model.name}-compact", compact=True)
            for bounds in model.deep:
                bad += _line(compact, f"{model.name}*", bounds, None, given.seconds)
            for bounds in model.deep_calm:
                bad += _line(compact, f"{model.name}*", bounds, None, given.seconds, calm=True)
        for wrong in WRONG:
            if wrong.model == model.name:
                bad += _line(pan, model.name, wrong.bounds, wrong, given.seconds)
    print("*: states known by a hash: one in very many may have been taken for another and not been followed")
    print("as it must be" if not bad else f"{bad} not as they must be")
    return 1 if bad else 0


def interleaved(all_bounds: Sequence[Bounds]) -> int:
    """The shipped machines themselves, through every order of what may happen; how many searches broke a law."""
    bad = 0
    for bounds, gate in product(all_bounds, (True, False)):
        begun = time.monotonic()
        found = search_orders(start(gate=gate), bounds)
        jobs = "+".join(bounds.jobs) + ("" if gate else ", A gateless")
        took_s = time.monotonic() - begun
        said = found.broken or "no error"
        print(f"interleave, {jobs}: {bounds.faults} faults, time passes {bounds.passes} times: ", end="")
        print(f"{found.states} states, {took_s:.0f} s, {dict(found.kinds)}: {said}", flush=True)
        bad += found.broken is not None
    return bad


def _line(
    pan: Path, model: str, bounds: tuple[int, int], wrong: Wrong | None, seconds: float, *, calm: bool = False
) -> int:
    """Search and print; 1 if the end is not as it must be."""
    start = time.monotonic()
    rule = wrong.name if wrong is not None else "- (calm)" if calm else "-"
    head = f"{model:10} {rule:16} {bounds[0]:6} {bounds[1]:6}"
    try:
        found = search(pan, bounds, wrong, calm=calm, seconds=seconds)
    except CannotRun as error:
        print(f"{head} {'':>10} {time.monotonic() - start:6.1f}  {error}", flush=True)
        return 1
    right = found.law is None if wrong is None else found.law is not None and found.law.startswith(wrong.law)
    said = "no error" if found.law is None else f"{found.law} at depth {found.depth}"
    print(
        f"{head} {found.states:10} {time.monotonic() - start:6.1f}  {said}{'' if right else '  <-- WRONG'}",
        flush=True,
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
