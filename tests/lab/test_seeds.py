"""One seed of tests/lab/seeds on the real lab; all that needs none is in tests/rehearsal/test_lab_seeds.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.demo import missing
from tests.lab.seeds import run


@pytest.mark.lab
@pytest.mark.root
@pytest.mark.lab_long
def test_a_seed_comes_out_on_the_lab_as_in_the_world(tmp_path: Path) -> None:
    """Seed 23 kills the witness and starts it again: both sides agree, and a second call plays nothing anew."""
    why = missing()
    if why is not None:
        pytest.skip(f"the lab cannot run here: {why}")
    words = ["--seeds", "23", "--out", str(tmp_path)]
    assert run.main(words) == 0
    kept = tmp_path / "seed-23" / "outcome.json"
    written = kept.stat().st_mtime_ns
    assert (tmp_path / "seed-23" / "timeline.svg").exists()
    assert run.main(words) == 0
    assert kept.stat().st_mtime_ns == written
