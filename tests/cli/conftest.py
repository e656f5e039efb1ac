"""A desk that answers as a daemon would, in a folder with a short name (a socket's path has 107 bytes at most)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import Desk, Serving, write_settings


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pg-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def config(folder: Path) -> Path:
    return write_settings(folder)


@pytest.fixture
def desk(folder: Path) -> Iterator[Desk]:
    made = Desk(folder)
    serving = Serving(made)
    yield made
    serving.close()
