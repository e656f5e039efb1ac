"""`check` loads what the program would load at its start: what would stop it, or is another party's, is found first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from guard.cli.named import closed_to
from guard.wire import load_private
from tests.adapters.authority import Authority
from tests.cli.desk import fits, one_object, pairguard, with_files, write_settings

Break = Callable[[dict[str, Path]], object]
RAW = ("_ssl.c", "[SSL", "Errno", "deserialize", "asn1", "ASN.1", "PEM_read", "MalformedFraming", "Traceback", "codec")


def faults(file: Path) -> list[dict[str, Any]]:
    """What `check --settings` says is wrong with what the settings name; each in our words, with what to do."""
    data = one_object(pairguard("check", "--settings", "--json", config=file), "pairguard.settings/1")
    found: list[dict[str, Any]] = data["programs"][0]["faults"]
    for each in found:
        assert each["show"], each
        assert each["mend"], each
        assert not [word for word in RAW if word in each["text"]], each
    return found


def with_switch(folder: Path, more: str = "") -> tuple[Path, dict[str, Path]]:
    """Settings that the guard starts with, and the files that they name."""
    file, files = with_files(folder)
    for name in ("auth", "priv"):
        files[name].write_text("a pass phrase that is long enough\n")
    file.write_text(file.read_text() + more)
    return file, files


def another_key(files: dict[str, Path]) -> None:
    _, key = Authority(files["key"].parent).issue("stranger")
    shutil.copyfile(key, files["key"])


def locked_key(files: dict[str, Path]) -> None:
    key = serialization.load_pem_private_key(files["key"].read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"x")
    form = serialization.PrivateFormat.PKCS8
    files["key"].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))


BROKEN: dict[str, tuple[Break, str, str]] = {  # what is done, the key it hangs on, and a word of the reason
    "another party's TLS key": (another_key, "bus.tls", "is not its key"),
    "a damaged TLS key": (lambda f: f["key"].write_text("nothing\n"), "bus.tls", "no PEM"),
    "a damaged certificate": (lambda f: f["certificate"].write_text("nothing\n"), "bus.tls", "no PEM"),
    "a damaged CA": (lambda f: f["ca"].write_text("nothing\n"), "bus.tls", "no certificate in PEM"),
    "a key with a pass phrase": (locked_key, "bus.tls", "pass phrase"),
    "an empty CA": (lambda f: f["ca"].write_text(""), "bus.tls.ca", "is empty"),
    "an empty SNMP secret": (lambda f: f["auth"].write_text(""), "switch (number 1).auth_file", "is empty"),
    "a blank SNMP secret": (lambda f: f["auth"].write_text(" \n"), "switch (number 1)", "it is empty"),
    "a short SNMP secret": (lambda f: f["priv"].write_text("short\n"), "switch (number 1)", "shorter than 8"),
    "an SNMP secret that is no text": (lambda f: f["priv"].write_bytes(b"\xff" * 9), "switch (number 1)", "no text"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_would_stop_the_start_is_found(folder: Path, what: str) -> None:
    """89, the key that it hangs on and the reason: nobody learns it from a daemon that ends."""
    file, files = with_switch(folder)
    assert faults(file) == []
    spoil, key, reason = BROKEN[what]
    spoil(files)
    [found] = faults(file)
    assert (found["key"], found["starts"]) == (key, False)
    assert reason in found["text"]
    done = pairguard("check", "--settings", config=file)
    assert done.exit_code == 89
    fits(done.stdout)
    assert "DOES NOT START" in done.stdout
    full = one_object(pairguard("check", "--json", config=file), "pairguard.check/1")
    assert key in {each["subject"] for each in full["findings"]}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ('[control]\ngroup = "no-such-group"\n', "control.group"),
        ('[[switch]]\nname = "agg3"\nhost = "10.20.31.3"\nprofile = "no-such"\nuser = "pg"\n', "switch (number 2)"),
        ('[[switch]]\nname = "agg3"\nhost = "10.20.31.3"\npeer_link = "Po9"\nuser = "pg"\n', "switch (number 2)"),
    ],
)
def test_settings_that_only_the_start_would_refuse_are_found(folder: Path, more: str, key: str) -> None:
    """A group that nobody knows, a profile that is nowhere, a peer link that is no port."""
    secrets = f'auth_file = "{folder / "auth"}"\npriv_file = "{folder / "priv"}"\n' if "user" in more else ""
    file, _ = with_switch(folder, more + secrets)
    assert [(each["key"], each["starts"]) for each in faults(file)] == [(key, False)]


def test_a_journal_that_the_guard_would_refuse_is_found_and_not_touched(folder: Path, config: Path) -> None:
    """As are folders whose place is taken; looking makes nothing."""
    assert faults(config) == []
    assert not (folder / "state").exists()
    (folder / "state").mkdir()
    journal = folder / "state" / "fs1a.journal"
    journal.write_bytes(b"something else")
    [found] = faults(config)
    assert (found["key"], found["starts"]) == ("paths.state", False)
    assert "no pairguard journal" in found["text"]
    assert journal.read_bytes() == b"something else"
    assert [each.name for each in (folder / "state").iterdir()] == ["fs1a.journal"]
    shutil.rmtree(folder / "state")
    (folder / "state").write_text("")
    assert "no folder" in " ".join(each["text"] for each in faults(config))


def test_a_password_script_that_prints_nothing_is_told(folder: Path) -> None:
    """The guard starts, and its first shot would fail."""
    file, files = with_switch(folder)
    files["script"].write_text("")
    assert [(f["code"], f["starts"]) for f in faults(file)] == [("file-empty", True)]


def test_all_that_would_stop_the_start_is_told_at_once(folder: Path) -> None:
    """A key that is open to others hides no TLS file, and nothing is told twice."""
    file, files = with_switch(folder)
    files["key"].write_text("nothing\n")
    files["priv"].write_text("short\n")
    private = folder / "keys" / "private.pem"
    private.chmod(0o604)
    assert [each["key"] for each in faults(file)] == [str(private), "bus.tls", "switch (number 1)"]
    full = one_object(pairguard("check", "--json", config=file), "pairguard.check/1")
    for each in full["findings"]:
        assert not each["text"].startswith(each["subject"] + ":"), each
        assert not each["mend"].startswith("run: "), each


# ------------------------------------------------------------------ asked by a user who may not look


@contextmanager
def nobody() -> Iterator[None]:
    """A user to whom files of mode 0600 of root are closed; as no root, they were closed by their mode alone."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def imports_all(file: Path) -> None:
    """That user may not see the interpreter's own library, where it is root's."""
    for more in ((), ("--settings",), ("--json",)):
        pairguard("check", *more, config=file)


def closed(folder: Path) -> Path:
    """Settings that anybody may read, and files that only root may."""
    file, files = with_switch(folder)
    private = folder / "keys" / "private.pem"
    state = folder / "state"
    state.mkdir()
    (state / "fs1a.journal").write_bytes(b"")
    folder.chmod(0o755)
    file.chmod(0o644)
    for path in (private, files["key"], files["auth"], state):
        path.chmod((0o700 if path == state else 0o600) if os.geteuid() == 0 else 0)
    return file


def test_what_is_closed_to_this_user_says_nothing_of_the_start(folder: Path) -> None:
    """85 and "run it as root"; not 89, and no mend that would void a key that is in order."""
    file = closed(folder)
    imports_all(file)
    with nobody():
        found = {each["key"]: each for each in faults(file) if each["code"] != "cleartext-password"}
        done = pairguard("check", "--settings", config=file)
        full = one_object(pairguard("check", "--json", config=file), "pairguard.check/1")
    private = str(folder / "keys" / "private.pem")
    assert set(found) == {private, "paths.state", "switch (number 1)", "bus.tls"}
    for each in found.values():
        assert each["starts"] is None
        assert each["mend"] == "run it as root"
    assert done.exit_code == 85
    assert "not known whether it starts" in done.stdout
    assert "init --keys" not in done.stdout
    fits(done.stdout)
    [settings] = [row for row in full["looks"] if row["area"] == "settings"]
    assert private in settings["why"]
    assert private not in {each["subject"] for each in full["findings"]}
    (folder / "keys" / "public" / "fs1b.pub").write_text("nothing\n")
    with nobody():
        assert pairguard("check", "--settings", config=file).exit_code == 89, "what can be seen is told all the same"


@pytest.mark.parametrize("what", ["pairguard.toml", "keys", "keys/public"])
def test_settings_and_folders_that_are_closed_are_not_looked_at_either(folder: Path, config: Path, what: str) -> None:
    """A fragment of mode 0600 with a password in it is as it should be."""
    folder.chmod(0o755)
    for path in (config, folder / "keys" / "private.pem"):
        path.chmod(0o644 if path == config else 0o600)
    imports_all(config)
    (folder / what).chmod(0o600 if os.geteuid() == 0 else 0)
    with nobody():
        done = pairguard("check", "--settings", config=config)
    (folder / what).chmod(0o700)
    assert done.exit_code == 85
    assert "run it as root" in done.output
    assert "Traceback" not in done.output


# ------------------------------------------------------------------ files of the wrong party


def copied(folder: Path, source: str, to: str) -> None:
    shutil.copy(folder / "keys" / source, folder / "keys" / to)


MIXED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "the peer's .pub as one's own": (lambda f: copied(f, "public/fs1b.pub", "public/fs1a.pub"), "fs1a.pub", "not the"),
    "one's own .pub as the peer's": (lambda f: copied(f, "public/fs1a.pub", "public/fs1b.pub"), "fs1b.pub", "same key"),
    "one's own .pub as the arbiter's": (
        lambda f: copied(f, "public/fs1a.pub", "public/arbiter.pub"),
        "arbiter.pub",
        "same key as fs1a.pub",
    ),
    "the arbiter's .pub as the peer's": (
        lambda f: copied(f, "public/arbiter.pub", "public/fs1b.pub"),
        "fs1b.pub",
        "same key as arbiter.pub",
    ),
    "the peer's private key": (lambda f: copied(f, "../fs1b.pem", "private.pem"), "private.pem", "private key of fs1b"),
}


@pytest.mark.parametrize("what", MIXED)
def test_a_key_of_the_wrong_party_is_told(folder: Path, config: Path, what: str) -> None:
    """Every file loads, so the daemon starts: and then nobody believes it. It is a trap of `check`."""
    spoil, subject, reason = MIXED[what]
    spoil(folder)
    found = faults(config)
    assert [(Path(each["key"]).name, each["code"]) for each in found][:1] == [(subject, "keys-mixed")]
    assert reason in found[0]["text"]
    assert all(each["starts"] for each in found)
    done = pairguard("check", "--settings", config=config)
    assert "it starts, but" in done.stdout
    full = one_object(pairguard("check", "--json", config=config), "pairguard.check/1")
    assert "keys-mixed" in {each["code"] for each in full["findings"]}


@pytest.mark.parametrize("name", ["fs1b", "stranger"])
def test_a_damaged_public_key_of_anybody_stops_the_start_and_is_told_so(folder: Path, config: Path, name: str) -> None:
    """The guard loads every .pub of the folder; a missing one of another party it does not miss."""
    (folder / "keys" / "public" / f"{name}.pub").write_text("-----BEGIN PUBLIC KEY-----\nMCowBQ\n")
    [found] = faults(config)
    assert (found["key"], found["starts"]) == (f"{name}.pub", False)
    assert "damaged, or not copied whole" in found["text"]


def test_a_damaged_private_key_is_told_in_our_words(folder: Path, config: Path) -> None:
    """And the way to a new one: the commands do what they say, and the old public key is kept aside."""
    private = folder / "keys" / "private.pem"
    private.write_text(private.read_text()[:60])
    [found] = faults(config)
    assert found["starts"] is False
    assert "damaged, or not copied whole" in found["text"]
    assert f"mv {private} {private}.old && pairguard init --keys" in found["mend"]
    private.rename(f"{private}.old")
    made = pairguard("init", "--keys", config=config)
    assert made.exit_code == 0
    fits(made.stdout)
    assert "fs1a.pub.old" in made.stdout.replace("\n", "").replace("    ", "")
    assert (folder / "keys" / "public" / "fs1a.pub.old").is_file()
    assert faults(config) == []


def test_each_public_key_that_is_replaced_is_kept(folder: Path, config: Path) -> None:
    """The second time as well: what partners still hold must be recognisable."""
    public, before = folder / "keys" / "public" / "fs1a.pub", []
    for _ in range(3):
        before.append(public.read_bytes())
        (folder / "keys" / "private.pem").unlink()
        assert pairguard("init", "--keys", config=config).exit_code == 0
        assert faults(config) == []
    names = ("fs1a.pub.old", "fs1a.pub.old.2", "fs1a.pub.old.3")
    assert [(public.parent / name).read_bytes() for name in names] == before
    assert not list(folder.rglob("*.new"))


@pytest.mark.parametrize("what", ["a link to what is not mounted", "the public folder is full", "the private one is"])
def test_a_key_that_cannot_be_made_costs_none_that_is_there(folder: Path, config: Path, what: str) -> None:
    """89, and everything is as it was; once the reason is gone the same order makes the pair."""
    private, public = folder / "keys" / "private.pem", folder / "keys" / "public" / "fs1a.pub"
    before = public.read_bytes()
    private.unlink()
    in_the_way = public if "public" in what else private
    in_the_way = in_the_way.with_name(f"{in_the_way.name}.new")
    if "link" in what:
        private.symlink_to(folder / "not-mounted" / "private.pem")
    else:
        (in_the_way / "full").mkdir(parents=True)
    failed = pairguard("init", "--keys", config=config)
    assert failed.exit_code == 89
    fits(failed.stderr)
    assert public.read_bytes() == before
    assert not private.exists()
    assert [path.name for path in public.parent.glob("fs1a.*") if path.is_file()] == ["fs1a.pub"]
    private.unlink(missing_ok=True)
    shutil.rmtree(in_the_way, ignore_errors=True)
    assert pairguard("init", "--keys", config=config).exit_code == 0
    assert faults(config) == []


def test_a_private_key_that_others_could_read_is_to_be_renewed(folder: Path, config: Path) -> None:
    """The command with owner and mode, and that it is no secret any more; where nobody could read it, only the mode."""
    private = folder / "keys" / "private.pem"
    private.chmod(0o644)
    [found] = faults(config)
    assert "mode 0644" in found["text"]
    owner = "root" if os.geteuid() == 0 else ""
    assert f"chown {owner}" in found["mend"]
    assert f"{private} && chmod 0600 {private}" in found["mend"]
    assert "make a new one" in found["mend"]
    private.chmod(0o700)
    [found] = faults(config)
    assert "make a new one" not in found["mend"]


def test_init_makes_a_missing_public_key_from_the_private_one(folder: Path, config: Path) -> None:
    """What `check` says mends it does."""
    public = folder / "keys" / "public" / "fs1a.pub"
    public.unlink()
    [found] = faults(config)
    assert "pairguard init --keys" in found["mend"]
    before = load_private(folder / "keys" / "private.pem").public_key().public_bytes_raw()
    pairguard("init", "--keys", config=config)
    assert faults(config) == []
    assert load_private(folder / "keys" / "private.pem").public_key().public_bytes_raw() == before


@pytest.mark.parametrize(
    ("name", "days", "code"), [("fs1b", 1, "certificate-name"), ("fs1a", -1, "certificate-expired")]
)
def test_a_certificate_of_another_party_or_time_is_told(folder: Path, name: str, days: float, code: str) -> None:
    """The broker takes the CN for the party's name: with the peer's own pair the guard would be the peer."""
    file, files = with_switch(folder)
    certificate, key = Authority(folder).issue(name, days=days)
    shutil.copyfile(certificate, files["certificate"])
    shutil.copyfile(key, files["key"])
    assert [(each["code"], each["starts"]) for each in faults(file)] == [(code, True)]


# ------------------------------------------------------------------ the arbiter


def witness(folder: Path) -> Path:
    write_settings(folder)
    file = folder / "witness.toml"
    keys = f'[keys]\nprivate = "{folder}/arbiter.pem"\npublic_dir = "{folder}/keys/public"\n'
    file.write_text(f'site = "lab"\n{keys}[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')
    return file


def test_the_witness_is_tried_too(folder: Path) -> None:
    """Its TLS files, its keys, and whose they are."""
    file = witness(folder)
    authority = Authority(folder)
    certificate, key = authority.issue("arbiter")
    key.chmod(0o600)
    tls = (
        f'[bus]\nhost = "10.20.40.1"\ntls = {{ ca = "{authority.ca}", certificate = "{certificate}", key = "{key}" }}\n'
    )
    file.write_text(file.read_text() + tls)
    closed = {"file-closed"}  # where the user pairguard exists, these files of root are not for it
    assert {each["code"] for each in faults(file)} <= closed
    authority.issue("fs1a")[1].rename(key)
    key.chmod(0o600)
    assert {(each["code"], each["key"]) for each in faults(file) if each["code"] not in closed} == {
        ("does-not-start", "bus.tls")
    }
    shutil.copy(folder / "fs1b.pem", folder / "arbiter.pem")
    assert "keys-mixed" in {each["code"] for each in faults(file)}


def test_a_file_that_the_witness_cannot_reach_is_seen_by_owner_and_mode(folder: Path) -> None:
    """Root sees everything, and the witness is not root: every folder above counts."""
    secret = folder / "keys" / "k"
    secret.parent.mkdir()
    secret.write_text("x")
    uid, gid = 54321, 54322
    folder.chmod(0o755)
    secret.parent.chmod(0o750)
    secret.chmod(0o644)
    own = os.geteuid()
    assert closed_to(secret, uid, frozenset({gid})) == secret.parent
    assert closed_to(secret, uid, frozenset({os.stat(secret.parent).st_gid})) is None
    secret.parent.chmod(0o755)
    assert closed_to(secret, uid, frozenset({gid})) is None
    secret.chmod(0o600)
    assert closed_to(secret, uid, frozenset({gid})) == secret
    assert closed_to(secret, own, frozenset()) is None
    assert closed_to(folder / "none", uid, frozenset()) is None
