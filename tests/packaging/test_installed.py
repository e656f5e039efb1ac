"""The .deb installed for real, over this very machine on a layer that is thrown away: what it does and does not do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guard import __version__
from tests.packaging.conftest import Built
from tests.packaging.roots import Root, possible

WRITTEN = re.compile(
    r"usr/(lib/(pairguard|systemd/system|sysusers\.d|tmpfiles\.d)|sbin|share/(doc/pairguard|man/man[58]|lintian|zsh|fish"
    r"|bash-completion))(/|$)|etc/(pairguard|needrestart)(/|$)|etc/(passwd|group|shadow|gshadow)-?$"
    r"|var/(lib/dpkg|cache/man|log/(dpkg|apt|alternatives))|etc/\.pwd\.lock$|mnt$"
)
"""What an installation may write: the package, the user, and what dpkg and man keep of it."""

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")


@pytest.fixture
def installed(here: Root) -> Root:
    """A machine right after `dpkg -i`."""
    here.said = here.run("dpkg -i /mnt/*.deb")
    return here


@pytest.fixture(scope="module")
def used(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """The same, for tests that only use what was installed."""
    if not possible():
        pytest.skip("needs root, namespaces and overlayfs")
    with Root(Path("/"), tmp_path_factory.mktemp("used") / "layer", built.deb.parent) as root:
        root.said = root.run("dpkg -i /mnt/*.deb")
        yield root


@needs_dpkg
@pytest.mark.root
def test_after_dpkg_the_first_command_says_what_to_do(used: Root) -> None:
    """`pairguard check` at once: no settings, which to write, and where they are explained; nothing runs."""
    assert "no program was started or enabled" in used.said
    assert used.run("pairguard --version").strip() == f"pairguard, version {__version__}"
    code, said = used.exit_code("pairguard check")
    assert code == 89
    words = " ".join(said.split())
    assert "cannot find any settings: no file in /etc/pairguard" in words
    assert "write /etc/pairguard/pairguard.toml on a node, /etc/pairguard/witness.toml on the arbiter" in words
    assert "/usr/share/doc/pairguard/examples" in words
    assert "fs1a" in used.run("cat /usr/share/doc/pairguard/examples/pairguard.toml")
    assert used.run("/usr/lib/pairguard/tree running") == ""
    assert used.run("find /etc/systemd/system -name 'pairguard*'") == ""


@needs_dpkg
@pytest.mark.root
def test_nothing_is_written_outside_and_nothing_by_use(installed: Root) -> None:
    """The layer shows every file that the installation wrote; running the programs adds none below /usr."""
    before = installed.written()
    assert [name for name in before if not WRITTEN.match(name) and not installed.is_folder(name)] == []
    installed.run("for each in pairguard pairguardd pairguard-witness fence_pairguard; do $each --version; done")
    installed.exit_code("pairguard check; pairguard check --settings; pairguard status; pairguard rehearse --list")
    installed.run("fence_pairguard --action metadata; PYTHONDONTWRITEBYTECODE= pairguard --help")
    assert [name for name in installed.written() - before if name.startswith("usr/")] == []
    assert installed.run("dpkg --verify pairguard") == ""


@needs_dpkg
@pytest.mark.root
def test_keys_are_for_root_and_the_witness_alone(installed: Root) -> None:
    """Folders as made, and a key as `init --keys` makes it there."""
    assert installed.run("stat -c '%a %U:%G' /etc/pairguard /etc/pairguard/keys").split("\n")[:2] == [
        "755 root:root",
        "750 root:pairguard",
    ]
    installed.run("cp /usr/share/doc/pairguard/examples/pairguard.toml /etc/pairguard/ && pairguard init --keys")
    assert installed.run("stat -c '%a %U' /etc/pairguard/keys/private.pem").strip() == "600 root"
    installed.run("runuser -u nobody -- cat /etc/pairguard/keys/private.pem", ok=False)
    assert installed.run("find /etc/pairguard -type f -perm /004 -exec grep -l 'PRIVATE KEY' {} +; true") == ""


@needs_dpkg
@pytest.mark.root
@pytest.mark.skipif(shutil.which("fence_ipmilan") is None, reason="needs the stock fence agents")
def test_stock_agents_run_beside_it_and_ours_as_the_clusters_user(used: Root) -> None:
    """`fencing` is also the name of the stock agents' library: it is not found in ours, whatever PYTHONPATH says."""
    for agent in ("fence_ipmilan", "fence_apc_snmp", "fence_virsh"):
        assert f'name="{agent}"' in used.run(f"{agent} --action=metadata 2>&1")
    user = "hacluster" if "hacluster" in used.run("cat /etc/passwd") else "nobody"
    assert 'name="fence_pairguard"' in used.run(f"runuser -u {user} -- fence_pairguard --action metadata")
    evil = "mkdir -p /srv/evil/guard /srv/evil/fencing && echo 'raise SystemExit(7)' | tee /srv/evil/guard/__init__.py"
    used.run(f"{evil} >/srv/evil/fencing/__init__.py; cd /srv/evil && PYTHONPATH=/srv/evil fence_pairguard --version")
    used.run("cd /srv/evil && PYTHONPATH=/srv/evil PYTHONHOME=/srv/evil pairguard --version")


@needs_dpkg
@pytest.mark.root
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_installed_units_and_pages_are_understood(used: Root) -> None:
    """systemd finds every program of the units; man finds each page by its name; bash completes a command."""
    said = used.run("systemd-analyze verify --man=yes pairguardd.service pairguard-witness.service pairguard.slice")
    assert "pairguard" not in said
    if used.exit_code("command -v man")[0] == 0:
        for name in ("pairguard", "pairguardd", "pairguard-witness", "fence_pairguard", "pairguard-fence-peer"):
            assert re.search(rf"{name} ", used.run(f"MANPAGER=cat man 8 {name}"))
        assert "limits.settle" in used.run("MANPAGER=cat man 5 pairguard.toml")
    words = "COMP_WORDS=(pairguard che) COMP_CWORD=1; _pairguard_completion pairguard; echo ${COMPREPLY[@]}"
    source = ". /usr/share/bash-completion/completions/pairguard"
    assert used.run(f"bash -c '{source}; {words}'").split() == ["check"]


WITNESS = """
cat >/etc/pairguard/witness.toml <<'TOML'
site = "north"
[keys]
private = "/etc/pairguard/keys/private.pem"
public_dir = "/etc/pairguard/keys/public"
TOML
chmod 640 /etc/pairguard/witness.toml
pairguard init --keys >/dev/null
mkdir -p /run/pairguard-witness /var/lib/pairguard-witness
pairguard-witness >/run/witness.log 2>&1 &
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    grep -q witness-started /run/witness.log && exit 0
    sleep 1
done
cat /run/witness.log
exit 1
"""
"""An arbiter that really runs, with a store of its own."""


@needs_dpkg
@pytest.mark.root
def test_a_running_arbiter_is_not_removed_and_a_purge_leaves_its_registers(installed: Root) -> None:
    """Refused while it runs, with the way on; a purge takes the program and says where registers and keys lie."""
    installed.run(WITNESS)
    installed.run("systemctl enable pairguard-witness pairguardd")
    said = installed.run("dpkg -r pairguard", ok=False)
    assert "cannot be removed while it runs" in said
    assert "systemctl disable --now pairguardd pairguard-witness" in said
    pid = installed.run("/usr/lib/pairguard/tree running").split()[0]
    assert installed.run("pairguard --version")
    installed.run(f"kill {pid}; while [ -e /proc/{pid}/root ]; do sleep 0.1; done")
    store = installed.run("cd /var/lib/pairguard-witness && sha256sum *")
    said = installed.run("dpkg -P pairguard")
    for left in ("/etc/pairguard", "/var/lib/pairguard-witness"):
        assert f"left as it is: {left}\n" in said
    assert installed.run("cd /var/lib/pairguard-witness && sha256sum *") == store
    assert installed.run("stat -c %a /etc/pairguard/witness.toml /etc/pairguard/keys/private.pem").split() == [
        "640",
        "600",
    ]
    assert installed.run("find /etc/systemd/system -name '*pairguard*'") == "", "no link to a unit that is gone"
    assert installed.run("ls -d /usr/lib/pairguard /usr/sbin/*pairguard* /etc/pairguard/conf.d 2>/dev/null; true") == ""


@needs_dpkg
@pytest.mark.root
def test_an_image_is_filled_from_outside(here: Root) -> None:
    """`dpkg --root` for images: the scripts work on that root, and on nothing of the machine that makes it."""
    dpkg = "dpkg --root=/srv/image --force-script-chrootless --force-depends"
    here.run("mkdir -p /srv/image/etc /srv/image/var/lib/dpkg/info /srv/image/var/lib/dpkg/updates")
    here.run(f"touch /srv/image/var/lib/dpkg/status && {dpkg} --install /mnt/*.deb")
    assert here.run("readlink /srv/image/usr/lib/pairguard/venv").startswith(f"trees/{__version__}-1.")
    assert "pairguard:" in here.run("cat /srv/image/etc/passwd")
    assert here.run("stat -c %a /srv/image/etc/pairguard/keys").strip() == "750"
    assert here.run("ls -d /usr/lib/pairguard /etc/pairguard 2>/dev/null; grep pairguard /etc/passwd; true") == ""
    here.run(f"{dpkg} --purge pairguard")
    assert here.run("find /srv/image/usr/lib/pairguard /srv/image/etc/pairguard 2>/dev/null; true") == ""


@needs_dpkg
@pytest.mark.root
def test_a_hand_made_installation_is_left_alone(here: Root) -> None:
    """README's other way of installing uses the same place: the package says so before it unpacks anything."""
    here.run("mkdir -p /usr/lib/pairguard/venv/bin && touch /usr/lib/pairguard/venv/bin/pairguardd")
    said = here.run("dpkg -i /mnt/*.deb", ok=False)
    assert "cannot install beside /usr/lib/pairguard/venv" in said
    assert here.run("find /usr/lib/pairguard -type f").split() == ["/usr/lib/pairguard/venv/bin/pairguardd"]
