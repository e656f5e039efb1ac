"""The benches run and print what they promise; how fast anything is, no test says."""

from __future__ import annotations

import re

from tests.bench.run import BENCHES, main


def test_every_bench_prints_its_figures_beside_a_floor(capsys) -> None:
    """Each names itself and has a ratio to a floor of the same run."""
    assert main(["--runs", "1"]) == 0
    said = capsys.readouterr().out
    for name in BENCHES:
        assert f"{name}: " in said
    assert re.search(r"events a second .* 1 to +[\d.]+ of a queue of empty events", said)
    assert re.search(r"guard steps a second .* 1 to +[\d.]+ of a turn", said)
    assert re.search(r"pair-freezes an hour and core +[\d,]+", said)
