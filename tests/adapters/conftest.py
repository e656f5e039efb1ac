"""The one real corosync + Pacemaker pair of a test session: brought up by the first test that asks, then shared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters import real_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_pair.RealPair]:
    """Both nodes online and whole; whoever changes something puts it back."""
    why = real_pair.unusable()
    if why is not None:
        pytest.skip(why)
    lab = real_pair.RealPair(tmp_path_factory.mktemp("pair"))
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
