"""The packages as others judge them: built twice, by lintian, by shellcheck, by rpm and by the shells."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guard import __version__
from tests.packaging.conftest import TOP, Built, build
from tests.packaging.roots import Root
from tests.packaging.test_contents import SCRIPTS, files
from tests.packaging.test_installed import WITNESS

pytestmark = pytest.mark.package_long


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def cloned(place: Path, umask: int) -> Path:
    """This repository's last commit in a folder of its own, with the tools of the one here and no wheel of it."""
    words = ["git", "clone", "--quiet", "--no-hardlinks", str(TOP), str(place)]
    subprocess.run(words, check=True, umask=umask)
    (place / "build").mkdir()
    (place / "build" / "venv").symlink_to(TOP / "build" / "venv")
    return place


def test_two_builds_of_two_clones_are_the_same_bit_by_bit(tmp_path: Path) -> None:
    """Another folder, another umask, another hour and zone: the same .deb and the same .rpm."""
    one = build(cloned(tmp_path / "a", 0o022), tmp_path / "out")
    os.environ.update(TZ="Asia/Tokyo", LANG="C.UTF-8")
    try:
        two = build(cloned(tmp_path / "another" / "and-longer", 0o077), tmp_path / "elsewhere" / "out")
    finally:
        del os.environ["TZ"]
    for left, right in ((one.deb, two.deb), (one.rpm, two.rpm)):
        assert left.name == right.name
        assert hashlib.sha256(left.read_bytes()).hexdigest() == hashlib.sha256(right.read_bytes()).hexdigest(), (
            left.name
        )


@needs("lintian")
def test_lintian_has_no_remark_that_is_not_explained(built: Built) -> None:
    """Errors and warnings are mended, or stand with their reason in packaging/deb/lintian-overrides."""
    words = ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", str(built.deb)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:")]) == (0, []), (
        done.stderr
    )


@needs("shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    """Of the maintainer scripts, the trees' script and the build."""
    scripts = [str(path) for path in SCRIPTS if path.suffix == ""]
    done = subprocess.run(["shellcheck", "--shell=sh", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@needs("rpm")
def test_the_rpm_has_the_same_tree(built: Built, tree: Path) -> None:
    """The same files with the same content and modes, but for what only one of the two distributions reads."""
    words = ["rpm", "--query", "--package", "--queryformat", "[%{FILENAMES} %{FILEMODES:perms} %{FILEDIGESTS}\n]"]
    said = subprocess.run([*words, str(built.rpm)], capture_output=True, text=True, check=True).stdout
    there = {}
    for line in said.splitlines():
        name, mode, *digest = line.split(" ")
        if not mode.startswith("d"):
            there[name.removeprefix("/")] = digest[0] if digest else ""
    ours = files(tree)
    debian = {name for name in ours if re.search(r"changelog\.Debian|lintian|zsh/vendor-completions", name)}
    assert set(there) - set(ours) == {"usr/share/zsh/site-functions/_pairguard"}
    assert set(ours) - set(there) == debian
    for name in set(ours) & set(there):
        if not ours[name].is_symlink():
            assert there[name] == hashlib.sha256(ours[name].read_bytes()).hexdigest(), name
    facts = subprocess.run(
        ["rpm", "-qp", "--qf", "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE} %{BUILDHOST}\n", str(built.rpm)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert facts == f"pairguard {__version__} 1 {platform.machine()} Apache-2.0 pairguard\n"
    requires = subprocess.run(["rpm", "-qp", "--requires", str(built.rpm)], capture_output=True, text=True, check=True)
    assert {f"python3.{sys.version_info.minor}", "systemd"} <= set(requires.stdout.split())
    configs = subprocess.run(["rpm", "-qpc", str(built.rpm)], capture_output=True, text=True, check=True).stdout
    assert set(configs.split()) == {f"/{name}" for name in ours if name.startswith("etc/")}
    scripts = subprocess.run(["rpm", "-qp", "--scripts", str(built.rpm)], capture_output=True, text=True, check=True)
    for script in SCRIPTS:
        if script.parent.name == "rpm":
            assert script.read_text().strip() in scripts.stdout


@needs("rpm")
@pytest.mark.root
def test_the_rpm_installs_by_its_own_scripts(here: Root) -> None:
    """Into a database of its own over this machine: user, folders and tree are made; removal refuses as dpkg's does."""
    rpm = "rpm --dbpath /srv/rpmdb --nodeps"
    said = here.run(f"{rpm} --install /mnt/*.rpm 2>&1")
    assert "no program was started or enabled" in said
    assert here.exit_code("pairguard check")[0] == 89
    assert here.run("stat -c '%a %G' /etc/pairguard/keys").split() == ["750", "pairguard"]
    here.run(WITNESS)
    assert "cannot be removed while it runs" in here.run(f"{rpm} --erase pairguard 2>&1", ok=False)
    pid = here.run("/usr/lib/pairguard/tree running").split()[0]
    here.run(f"kill {pid}; while [ -e /proc/{pid}/root ]; do sleep 0.1; done")
    here.run(f"{rpm} --erase pairguard")
    assert here.run("ls -d /usr/lib/pairguard /usr/sbin/*pairguard* 2>/dev/null; true") == ""
    assert here.run("ls /var/lib/pairguard-witness /etc/pairguard/witness.toml") != ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_read_their_completion(shell: str, tree: Path) -> None:
    """Without an error of theirs."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (file,) = [path for name, path in files(tree).items() if re.search(rf"share/{shell}/.*pairguard", name)]
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
