"""What is in the .deb: each file at its place, everything that the lock names, and nothing of where it was built."""

from __future__ import annotations

import importlib.util
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.conftest import TOP, Built

ALLOWED = (
    "etc/pairguard/", "etc/needrestart/conf.d/pairguard.conf", "usr/lib/pairguard/package/", "usr/lib/pairguard/tree",
    "usr/lib/systemd/system/pairguard", "usr/lib/sysusers.d/pairguard.conf", "usr/lib/tmpfiles.d/pairguard.conf",
    "usr/share/doc/pairguard/", "usr/share/man/man5/pairguard", "usr/share/man/man8/",
    "usr/share/bash-completion/completions/pairguard", "usr/share/zsh/vendor-completions/_pairguard",
    "usr/share/fish/vendor_completions.d/pairguard.fish", "usr/share/lintian/overrides/pairguard",
)  # fmt: skip
PROGRAMS = {"pairguard", "pairguardd", "pairguard-witness", "fence_pairguard", "pairguard-fence-peer"}
UNCHECKED = 0b01  # PEP 552: hash-based, not compared with the source when it is loaded


def files(tree: Path) -> dict[str, Path]:
    """Every file and link by its path below the root."""
    return {str(path.relative_to(tree)): path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_every_file_is_at_an_allowed_place(tree: Path) -> None:
    """Nothing in /usr/bin, /opt, /lib or /var; in /usr/sbin links alone, one for each program."""
    links = {name for name in files(tree) if name.startswith("usr/sbin/")}
    assert {name.removeprefix("usr/sbin/") for name in links} == PROGRAMS
    assert all((tree / name).is_symlink() for name in links)
    assert [name for name in files(tree) if name not in links and not name.startswith(ALLOWED)] == []


def test_nobody_but_root_may_change_anything(tree: Path) -> None:
    """No file that others may write, none with the rights of another; only programs are executable."""
    runs = set()
    for name, path in files(tree).items():
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        assert not mode & 0o7022, name
        if mode & 0o111:
            runs.add(name)
    bin_ = {f"usr/lib/pairguard/package/bin/{program}" for program in PROGRAMS}
    example = "usr/share/doc/pairguard/examples/cluster-command/cluster-from-file"
    assert runs == {*bin_, "usr/lib/pairguard/tree", example}


def test_what_is_in_etc_is_a_conffile(built: Built, tree: Path) -> None:
    """What an administrator changed there is never overwritten by an upgrade."""
    said = subprocess.run(
        ["dpkg-deb", "--info", str(built.deb), "conffiles"], capture_output=True, text=True, check=True
    )
    assert set(said.stdout.split()) == {f"/{name}" for name in files(tree) if name.startswith("etc/")}


def test_no_settings_and_no_keys_come_along(tree: Path) -> None:
    """A daemon must not start with an example; a key must be nobody else's."""
    for name, path in files(tree).items():
        assert not re.search(r"^etc/.*\.(toml|pem|key|pub|crt)$", name), name
        if not path.is_symlink() and "/site-packages/" not in name:
            assert b"PRIVATE KEY-----" not in path.read_bytes(), name


def test_nothing_remembers_where_it_was_built(built: Built, tree: Path) -> None:
    """No path of the build in any file or compiled code: two builds are the same, and tracebacks tell the truth."""
    places = (str(TOP).encode(), str(built.deb.parent).encode())
    for name, path in files(tree).items():
        if not path.is_symlink():
            content = path.read_bytes()
            assert not any(place in content for place in places), name
            assert not name.endswith(("direct_url.json", "/RECORD", "/INSTALLER"))


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file, of what is for this machine."""
    found = {}
    for line in re.findall(r"(?m)^([a-z][^\\\n]*?) ?\\$", (TOP / name).read_text()):
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            found[wanted.name.lower()] = str(wanted.specifier).removeprefix("==")
    return found


def test_exactly_what_the_lock_names_is_carried(tree: Path) -> None:
    """In the versions that the tests run with; and no tool of the developers."""
    carried = {}
    for folder in tree.glob("usr/lib/pairguard/package/lib/*/site-packages/*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        carried[name.replace("_", "-").lower()] = version
    ours = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert carried.pop("pairguard") == ours["version"]
    assert carried == locked("requirements-run.lock")
    assert carried.items() <= locked("requirements.lock").items()
    assert {Requirement(each).name for each in ours["dependencies"]} <= set(carried)


def test_every_module_is_compiled_and_never_compiled_again(tree: Path) -> None:
    """Whatever the times of the files are; and each is the code that lies beside it."""
    modules = [path for path in tree.rglob("*.py") if "/site-packages/" in str(path)]
    assert len(modules) > 500
    for path in modules:
        (compiled,) = (path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc")
        head = compiled.read_bytes()[:16]
        assert int.from_bytes(head[4:8], "little") == UNCHECKED, path
        assert head[8:16] == importlib.util.source_hash(path.read_bytes()), path


def test_programs_run_the_private_python_and_look_nowhere_else(tree: Path) -> None:
    """-I: no PYTHONPATH, no folder of the user's. The environment takes nothing of the system's own packages."""
    package = tree / "usr/lib/pairguard/package"
    name = (package / "name").read_text().strip()
    for program in PROGRAMS:
        first = (package / "bin" / program).read_text().splitlines()[0]
        assert first == f"#!/usr/lib/pairguard/trees/{name}/bin/python3 -I"
    assert "include-system-site-packages = false" in (package / "pyvenv.cfg").read_text()
    assert re.fullmatch(r"/usr/bin/python3\.\d+", str((package / "bin" / "python3").readlink()))


def test_the_readme_names_the_packages_as_they_are_built(built: Built) -> None:
    """Its commands are typed as they stand."""
    text = (TOP / "README.md").read_text()
    assert f"apt install ./{built.deb.name}\n" in text
    assert f"dnf install ./{built.rpm.name}`" in text


def test_every_licence_is_told(tree: Path) -> None:
    """Each library that is carried is named in the copyright file, with its licence."""
    said = (tree / "usr/share/doc/pairguard/copyright").read_text()
    for name, version in locked("requirements-run.lock").items():
        written = "[-_.]".join(map(re.escape, name.split("-")))
        found = re.search(rf"(?im)^{written} {re.escape(version)}\n=+\nCopyright: .+\nLicense: .+", said)
        assert found, name
    assert "/usr/share/common-licenses/Apache-2.0" in said


SCRIPTS = sorted(
    path
    for path in (TOP / "packaging").rglob("*")
    if path.parent.name in ("deb", "rpm", "packaging") and path.suffix in ("", ".sh") and path.is_file()
    if path.name != "lintian-overrides"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_script_is_one(script: Path) -> None:
    """`sh -n` reads it to its end."""
    subprocess.run(["sh", "-n", str(script)], check=True)


def test_no_script_of_the_package_touches_a_service() -> None:
    """None starts, stops, restarts, reloads or enables anything: what runs goes on, also a cluster's."""
    scripts = [path for path in SCRIPTS if path.parent.name in ("deb", "rpm")]
    assert {path.name for path in scripts} >= {"preinst", "postinst", "prerm", "postrm"}
    allowed = re.compile(
        r"systemctl --system daemon-reload|systemd-(sysusers|tmpfiles)|run/systemd/system|etc/systemd/system"
    )
    for path in [*scripts, TOP / "packaging" / "tree"]:
        for line in path.read_text().splitlines():
            told = re.match(r"\s*(echo|#)", line)
            rest = allowed.sub("", line)
            if told is None:
                assert not re.search(
                    r"systemctl|service |invoke-rc|deb-systemd|kill|pcs |crm|cibadmin|drbdadm", rest
                ), line
