"""The packages of this source tree, built once for all tests, and roots to install them in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.roots import Root, possible

TOP = Path(__file__).resolve().parents[2]
CLEAN = TOP / "build" / "roots" / "debian12"
CLEAN_HAS = "python3,systemd,fence-agents,man-db"


@dataclass(frozen=True, slots=True)
class Built:
    """The two packages of one build."""

    deb: Path
    rpm: Path


def build(top: Path, out: Path, release: int = 1) -> Built:
    """What `make package` makes of the source tree `top`."""
    words = [str(top / "packaging" / "build"), "--release", str(release), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=540)
    assert done.returncode == 0, done.stderr
    (deb,), (rpm,) = out.glob("*.deb"), out.glob("*.rpm")
    return Built(deb, rpm)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Release 1."""
    return build(TOP, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def tree(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the .deb, unpacked."""
    place = tmp_path_factory.mktemp("tree")
    subprocess.run(["dpkg-deb", "--extract", str(built.deb), str(place)], check=True)
    return place


@pytest.fixture
def here(built: Built, tmp_path: Path) -> Iterator[Root]:
    """This machine as it is, with /mnt/pairguard*.deb, and every change on a layer that is thrown away."""
    if not possible():
        pytest.skip("needs root, namespaces and overlayfs")
    with Root(Path("/"), tmp_path / "layer", built.deb.parent) as root:
        yield root


@pytest.fixture(scope="session")
def debian() -> Path:
    """A minimal Debian 12 with Python, systemd's tools, man and stock fence agents; made once, kept in build/roots."""
    if not possible():
        pytest.skip("needs root, namespaces and overlayfs")
    if not (CLEAN / ".whole").exists():
        CLEAN.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["rm", "-rf", str(CLEAN)], check=True)
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={CLEAN_HAS}", "bookworm", str(CLEAN)]
        subprocess.run(words, check=True, timeout=1800)
        (CLEAN / ".whole").touch()
    return CLEAN


@pytest.fixture(scope="session")
def upgraded(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with releases 1, 2 and 3 of the .deb."""
    place = tmp_path_factory.mktemp("releases")
    (place / built.deb.name).write_bytes(built.deb.read_bytes())
    for release in (2, 3):
        deb = build(TOP, tmp_path_factory.mktemp(f"release{release}"), release).deb
        (place / deb.name).write_bytes(deb.read_bytes())
    return place


@pytest.fixture
def clean(debian: Path, upgraded: Path, tmp_path: Path) -> Iterator[Root]:
    """A clean Debian 12, with three releases in /mnt."""
    with Root(debian, tmp_path / "layer", upgraded) as root:
        yield root
