"""Stock agents still start beside our package of the same name; their table is in test_stock_table.py."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fencing.stock import CONTROLLER, clash

ROOT = Path(__file__).parents[2]
STOCK = Path("/usr/sbin/fence_ipmilan")
needs_stock = pytest.mark.skipif(not STOCK.exists(), reason="needs fence-agents")
HACLUSTER = CONTROLLER in {user.pw_name for user in pwd.getpwall()} and Path("/usr/bin/python3").exists()


@needs_stock
def test_no_clash_here() -> None:
    """The stock agent starts in the environment that delegates get."""
    assert clash() is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not HACLUSTER, reason="needs root, Pacemaker's user and the system's Python")
def test_pacemakers_controller_can_ask_the_agent(open_folder: Path) -> None:
    """It is no root: an agent below /root starts for us and not for it, and then it stands still for a minute."""
    shutil.copytree(ROOT / "fencing", open_folder / "fencing", ignore=shutil.ignore_patterns("__pycache__"))
    agent = open_folder / "fence_pairguard"
    code = f"import sys; sys.path.insert(0, {str(open_folder)!r}); from fencing.agent import main; sys.exit(main())"
    agent.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -I -c {shlex.quote(code)} "$@"\n')
    agent.chmod(0o755)
    assert clash(str(agent)) is None
    assert clash(str(agent), user=CONTROLLER) is None
    (open_folder / "fencing").chmod(0o700)
    assert clash(str(agent)) is None
    said = clash(str(agent), user=CONTROLLER)
    assert said is not None
    assert "does not start" in said


@needs_stock
def test_the_clash_is_real(tmp_path: Path) -> None:
    """The counter-test: with our package importable, the stock agent dies; so the tests here can fail."""
    agent = tmp_path / "fence_wrapped"
    agent.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {STOCK} "$@"\n')
    agent.chmod(0o755)
    said = clash(str(agent))
    assert said is not None
    assert "does not start" in said


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product, built and installed into a private environment as packaging does; without its dependencies."""
    folder = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run([*pip, *build], capture_output=True, text=True, check=False, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    private = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", private], check=True)
    install = [*pip, "--python", str(private / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    installed = subprocess.run(install, capture_output=True, text=True, check=False, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return private


@needs_stock
def test_stock_agents_live_beside_the_product(prefix: Path) -> None:
    """Installed in a private environment, the product starts and is seen by no stock agent, also not by its child."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"fence_pairguard", "pairguard-fence-peer"} <= set(scripts)
    clean = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    ours = subprocess.run(
        [prefix / "bin" / "fence_pairguard", "-o", "metadata"], env=clean, cwd="/", capture_output=True
    )
    assert b'name="fence_pairguard"' in ours.stdout, ours.stderr
    stock = subprocess.run([STOCK, "-o", "metadata"], env=clean, cwd="/", capture_output=True)
    assert b"<resource-agent" in stock.stdout, stock.stderr
    program = f"import subprocess; subprocess.run(['{STOCK}', '-o', 'metadata'], env={clean!r}, cwd='/', check=True)"
    child = subprocess.run([prefix / "bin" / "python", "-c", program], env=clean, cwd="/", capture_output=True)
    assert child.returncode == 0, child.stderr
    assert b"<resource-agent" in child.stdout


@needs_stock
def test_system_python_does_not_see_ours() -> None:
    """No `fencing` is importable by the interpreter of stock agents before they append their own folder."""
    python = shutil.which("python3", path="/usr/bin")
    assert python is not None
    program = "import importlib.util, sys; sys.exit(importlib.util.find_spec('fencing') is not None)"
    assert subprocess.run([python, "-c", program], env={"PATH": "/usr/bin"}, cwd="/", check=False).returncode == 0
