"""An upgrade beside what runs, in a clean Debian 12: that goes on from its own files, held, until a person acts."""

from __future__ import annotations

import json

import pytest

from guard import __version__
from tests.packaging.roots import Root
from tests.packaging.test_installed import WITNESS

pytestmark = [pytest.mark.package_long, pytest.mark.root]
SITE = "/srv/site"
STATUS = f"pairguard status --json --config {SITE}/fs1a/pairguard.toml"


def trees(root: Root) -> list[str]:
    """The trees that are there, oldest release first."""
    return sorted(root.run("ls /usr/lib/pairguard/trees").split())


def daemons(root: Root) -> dict[str, str]:
    """Process -> tree of every guard and arbiter that runs, also those of the sandbox."""
    script = "grep -laE 'sandbox_node|witness' /proc/[0-9]*/cmdline | cut -d/ -f3 | while read p; do"
    said = root.run(f"{script} echo $p $(tr '\\0' ' ' </proc/$p/cmdline | cut -d/ -f6); done; true")
    return dict(line.split() for line in said.splitlines() if f" {__version__}-" in line)


def held(root: Root) -> tuple[str, list[str]]:
    """The state of the hold, and its inhibits."""
    (pair,) = json.loads(root.run(f"{STATUS} || true"))["pairs"]
    return pair["hold"]["state"], sorted(f"{each['id']}@{each['since']}" for each in pair["hold"]["inhibits"])


def test_an_upgrade_touches_nothing_that_runs_and_keeps_the_hold(clean: Root) -> None:
    """A site of the old version is held, upgraded under, restarted by a person, and never finds files of another."""
    clean.run("dpkg -i /mnt/pairguard_*-1_*.deb")
    clean.run(WITNESS)
    clean.run(f"pairguard sandbox up --dir {SITE} --pairs 1 --bus hub")
    clean.run(f"pairguard hold --for 2h --reason upgrade --config {SITE}/fs1a/pairguard.toml")
    state, inhibits = held(clean)
    assert state == "held"
    (old,) = trees(clean)
    running = daemons(clean)
    assert len(running) == 4  # an arbiter of its own, the site's, and the guards of both nodes
    assert set(running.values()) == {old}
    clean.run(
        "echo '# changed here' >>/etc/pairguard/conf.d/README.md; echo '[limits]' >/etc/pairguard/conf.d/10-limits.toml"
    )
    clean.run("chmod 640 /etc/pairguard/conf.d/10-limits.toml; cp -a /usr/lib/pairguard/trees /srv/before")
    said = clean.run("dpkg -i /mnt/pairguard_*-2_*.deb")

    assert daemons(clean) == running, "the same processes, from the same tree"
    assert held(clean) == (state, inhibits)
    clean.run(f"diff -r /srv/before/{old} /usr/lib/pairguard/trees/{old}")
    assert f"still runs {old}. Nothing was restarted" in said
    assert "systemctl restart pairguard-witness" in said
    new = clean.run("basename $(readlink /usr/lib/pairguard/venv)").strip()
    assert (trees(clean), new.startswith(f"{__version__}-2.")) == ([old, new], True)
    assert f"/{new}/" in clean.run("head -1 /usr/sbin/fence_pairguard")
    assert "changed here" in clean.run("cat /etc/pairguard/conf.d/README.md")
    assert clean.run("stat -c %a /etc/pairguard/conf.d/10-limits.toml").strip() == "640"
    clean.run("rm /etc/pairguard/conf.d/10-limits.toml")

    store = clean.run("grep -o 'store_id\":\"[0-9a-f]*' /run/witness.log")
    (pid,) = [line.split()[0] for line in clean.run("/usr/lib/pairguard/tree running").splitlines()]
    clean.run(f"kill {pid}; while [ -e /proc/{pid}/root ]; do sleep 0.1; done; rm /run/witness.log")
    clean.run(WITNESS)
    assert clean.run("grep -o 'store_id\":\"[0-9a-f]*' /run/witness.log") == store, "the registers are the same"
    assert new in daemons(clean).values(), "what a person restarts is of the new version"

    clean.run("dpkg -i /mnt/pairguard_*-3_*.deb")
    assert len(trees(clean)) == 3, "guards still run from the first one"
    clean.run(f"pairguard release --config {SITE}/fs1a/pairguard.toml")
    clean.run(f"pairguard sandbox down --dir {SITE}")
    clean.run("dpkg -i /mnt/pairguard_*-3_*.deb")
    assert [name[: len(new) - 13] for name in trees(clean)] == [f"{__version__}-2", f"{__version__}-3"], (
        "the witness runs from the second"
    )


def test_a_tree_that_was_damaged_is_whole_after_a_second_installation(clean: Root) -> None:
    """What an administrator expects of installing again; and the running version keeps its name."""
    clean.run("dpkg -i /mnt/pairguard_*-1_*.deb")
    (only,) = trees(clean)
    script = f"cd /usr/lib/pairguard/trees/{only}/lib/python3*/site-packages/guard && rm -r core && echo 1/0 >errors.py"
    clean.run(script)
    clean.run("pairguard check", ok=False)
    clean.run("dpkg -i /mnt/pairguard_*-1_*.deb")
    assert trees(clean) == [only]
    assert clean.exit_code("pairguard check")[0] == 89
    clean.run(f"diff -r /usr/lib/pairguard/package /usr/lib/pairguard/trees/{only}")


def test_a_clean_debian_needs_nothing_else(clean: Root) -> None:
    """dpkg alone, without a registry: every dependency is Debian's own, and the stock agents run beside it."""
    clean.run("dpkg -i /mnt/pairguard_*-1_*.deb")
    assert "is not installed" not in clean.run("dpkg --audit")
    code, said = clean.exit_code("pairguard check")
    assert code == 89
    assert "write /etc/pairguard/pairguard.toml on a node" in " ".join(said.split())
    before = clean.run("fence_ipmilan --version; fence_ipmilan --action=metadata 2>/dev/null | sha256sum")
    clean.run("dpkg -P pairguard")
    assert clean.run("fence_ipmilan --version; fence_ipmilan --action=metadata 2>/dev/null | sha256sum") == before
    assert clean.run("find / -xdev -path /proc -prune -o -path /mnt -prune -o -name '*pairguard*' -print").split() == []
