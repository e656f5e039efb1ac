"""Are keys and certificate this party's own? What is missing, damaged, or copied from the wrong party looks alike.

Keys are compared with each other and with the names of their files; nothing is signed and nobody is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from guard import wire
from guard.cli.named import Fault, unless_closed
from guard.errors import SettingsError
from guard.settings import Keys, Tls


def keys(own: Keys, party: str, others: Iterable[str], owners: frozenset[int] = frozenset()) -> tuple[Fault, ...]:
    """What is wrong with the keys of `party` and of those whose public keys it needs. `owners`: as `wire.load_private`.

    A damaged `.pub` stops the start, whoever's it is; a missing one only if it is the party's own.
    """
    found: list[Fault] = []
    mine = None
    try:
        mine = wire.load_private(own.private, owners).public_key().public_bytes_raw()
    except SettingsError as error:
        found.append(_broken(str(own.private), own.private, error, starts=False))
    needed = [party, *others]
    try:
        there = [path.stem for path in own.public_dir.iterdir() if path.suffix == ".pub"]
    except OSError:
        there = []  # told below, of those that are needed
    strangers = sorted({*there} - {*needed})
    public: dict[str, bytes] = {}
    for name in (*needed, *strangers):
        path = own.public_dir / f"{name}.pub"
        try:
            public[name] = _raw(wire.load_public(path))
        except SettingsError as error:
            missing = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
            found.append(_broken(path.name, path, error, starts=name != party and missing))
            if name == party and found[-1].starts is False:
                found[-1] = replace(found[-1], mend=f"rm -f {path} && pairguard init --keys, which makes it anew")
    return (*found, *_mixed(own, party, mine, public))


def certificate(tls: Tls, party: str, wall: float) -> tuple[Fault, ...]:
    """The broker takes a certificate's CN for the name of the party (configs/mosquitto). Unreadable ones are no matter
    of this: the bus itself says so."""
    try:
        leaf = x509.load_pem_x509_certificates(tls.certificate.read_bytes())[0]
    except (OSError, ValueError):
        return ()
    file, key = tls.certificate, "bus.tls.certificate"
    found = []
    names = [str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if party not in names:
        text = (
            f"{file} is the certificate of {', '.join(names) or 'nobody'}: the broker lets nobody in as {party} with it"
        )
        mend = f"copy the certificate and key with CN={party} here: configs/mosquitto/README.md"
        show = f"openssl x509 -in {file} -noout -subject"
        found.append(Fault("certificate-name", key, text, show, mend, starts=True))
    now = datetime.fromtimestamp(wall, UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        text = f"{file} is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}: the broker refuses it"
        show, mend = f"openssl x509 -in {file} -noout -dates", f"issue a new one with CN={party}, or mend the clock"
        found.append(Fault("certificate-expired", key, text, show, mend, starts=True))
    return tuple(found)


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes_raw()


def _broken(subject: str, path: Path, error: SettingsError, *, starts: bool) -> Fault:
    text = str(SettingsError(error.what.removesuffix(f" {path}"), error.why))
    fault = Fault("keys", subject, text, f"ls -l {path}", error.next_step.removeprefix("run: "), starts)
    return unless_closed(fault, error)


def _mixed(own: Keys, party: str, mine: bytes | None, public: Mapping[str, bytes]) -> Iterator[Fault]:
    """Files of the wrong party: each loads, and nobody would believe what is signed with it."""
    path = own.public_dir / f"{party}.pub"
    theirs = [name for name, key in public.items() if name != party and key == mine]
    published = public.get(party)
    if theirs and published != mine:
        text = f"it is the private key of {theirs[0]}: what {party} signs with it nobody believes"
        mend = f"put the own key of {party} back; if there is none: mv {own.private} {own.private}.old && "
        mend += "pairguard init --keys, and copy the new .pub to the other parties"
        yield Fault("keys-mixed", str(own.private), text, _compare(own.private, path), mend, starts=True)
    elif mine is not None and published is not None and published != mine:
        text = f"it is not the public part of {own.private}: who has it here believes nothing that {party} signs"
        mend = f"rm {path} && pairguard init --keys, which makes it anew; copy it to the other parties"
        yield Fault("keys-mixed", path.name, text, _compare(own.private, path), mend, starts=True)
    seen: dict[bytes, str] = {}
    for name, key in public.items():
        first = seen.setdefault(key, name)
        if first != name and not (first == party and mine is not None and published != mine):
            text = f"it is the same key as {first}.pub: one of the two could speak for the other"
            mend = f"copy {name}.pub from {name} itself to {own.public_dir / f'{name}.pub'}"
            show = f"cmp {own.public_dir / f'{first}.pub'} {own.public_dir / f'{name}.pub'}"
            yield Fault("keys-mixed", f"{name}.pub", text, show, mend, starts=True)


def _compare(private: Path, public: Path) -> str:
    return f"openssl pkey -in {private} -pubout | diff - {public}"
