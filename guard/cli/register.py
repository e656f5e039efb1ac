"""`pairguard init`: a party's keys, and the pair's register at the arbiter, once, while the pair is whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guard.cli.options import GO, WrongScope, answer, command
from guard.cli.orders import own_guard
from guard.errors import SettingsError

if TYPE_CHECKING:
    from guard.cli.wiring import Loaded
    from guard.settings import GuardSettings


@command(name="init", key=True)
@click.option("--keys", "make_keys", is_flag=True, help="First make this party's key pair, if it has none.")
@click.option("--preferred", metavar="NODE", help="Who wins where the evidence is a tie (this node).")
def init(make_keys: bool, preferred: str | None, key: str | None, as_json: bool, config: str | None) -> None:
    """Make the pair's register at the arbiter, once, while the pair is whole.

    With --keys a party that has no key gets one; then copy the public keys and
    run it again. Exit codes: 0, 81 refused (not whole), 84 no guard here, or
    NODE is not of its pair; 85 nobody answers, 89 the keys cannot be made.
    """
    from guard.cli import wiring

    loaded = wiring.load(config)
    if preferred is not None:
        _of_the_pair(own_guard(loaded, f"prefer {preferred}", f"pairguard init --preferred {preferred}"), preferred)
    made = _made_keys(loaded) if make_keys else None
    if made is not None and (made["created"] or loaded.guard is None):
        data = {"schema": "pairguard.init/1", "outcome": "keys", "keys": made, "pair": None, "era": None, "key": key}
        answer(data, _init_text(data), GO, as_json=as_json)
    guard = own_guard(loaded, "make a register", "pairguard init")
    args = ({"preferred": preferred} if preferred else {}) | ({"key": key} if key else {})
    said = wiring.do(wiring.order(guard.paths.run, "init", args))
    data = {"schema": "pairguard.init/1", "outcome": said.get("outcome"), "keys": made}
    data |= {"pair": said.get("pair"), "era": said.get("era"), "key": key}
    answer(data, _init_text(data), GO, as_json=as_json)


def _of_the_pair(guard: GuardSettings, preferred: str) -> None:
    """Before anything is made: a register that prefers a stranger would decide no tie, and keys made first hide it."""
    pair = guard.pair
    if preferred not in (pair.node, pair.peer):
        why = f"it is no node of the pair {pair.name}, which has {pair.node} and {pair.peer}"
        raise WrongScope(f"cannot prefer {preferred}", why, f"pairguard init --preferred {pair.node}, or {pair.peer}")


def _made_keys(loaded: Loaded) -> dict[str, Any]:
    """Make what is missing of this party's key pair; which public keys of the others are missing."""
    from guard.core.messages import ARBITER

    settings = loaded.guard or loaded.witness
    if settings is None:
        raise SettingsError("cannot make keys", "no settings were read", "write /etc/pairguard/pairguard.toml")
    party = loaded.guard.pair.node if loaded.guard is not None else ARBITER
    needed = [ARBITER, loaded.guard.pair.peer] if loaded.guard is not None else []
    private, folder = settings.keys.private, settings.keys.public_dir
    public, created = folder / f"{party}.pub", False
    replaced: Path | None = None
    if not private.exists():
        try:
            private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise SettingsError(f"cannot make the folder for {private}", error.strerror or str(error)) from error
        replaced = _generated(private, public)
        created = True
    elif not public.exists():
        _publish(private, public)
    missing = [name for name in needed if not (folder / f"{name}.pub").is_file()]
    made = {"party": party, "created": created, "private": str(private), "public": str(public), "missing": missing}
    return {**made, "replaced": None if replaced is None else str(replaced)}


def _generated(private: Path, public: Path) -> Path | None:
    """A new key pair, made beside and then put in place. A public key of a private one that is gone is kept: where.

    Whatever fails, no key is lost that was there, and the same order again makes the pair.
    """
    from guard import wire

    if private.is_symlink():
        why = f"it is a link to {private.readlink()}, which is not there"
        raise SettingsError(f"cannot make the key {private}", why, f"mount what it is on; or: rm {private}")
    new = {path: path.with_name(f"{path.name}.new") for path in (public, private)}
    try:
        for each in new.values():
            each.unlink(missing_ok=True)  # of an order that was broken off: nobody has it
        wire.generate(new[private], new[public])
        kept = _kept(public) if public.exists() else None
        for path, made in new.items():
            made.replace(path)
    except OSError as error:
        why = error.strerror or "it cannot be written"
        raise SettingsError(
            f"cannot make the key {private}", why, f"ls -ld {private.parent} {public.parent}"
        ) from error
    finally:
        for each in new.values():
            with suppress(OSError):
                each.unlink(missing_ok=True)
    return kept


def _kept(public: Path) -> Path:
    """A copy under the first name that is free: `.old`, `.old.2` and so on."""
    names = (public.with_name(f"{public.name}.old{end}") for end in ("", *(f".{n}" for n in range(2, 10_000))))
    old = next(each for each in names if not each.exists())
    with old.open("xb") as copy:
        copy.write(public.read_bytes())
    return old


def _publish(private: Path, public: Path) -> None:
    """The public key anew, from a private key that is there."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from guard import wire
    from guard.cli.named import witness_user

    key = wire.load_private(private, witness_user()).public_key()
    try:
        public.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        why = error.strerror or "it cannot be written"
        raise SettingsError(f"cannot write the key file {public}", why, f"ls -ld {public.parent}") from error


def _init_text(data: Mapping[str, Any]) -> str:
    from guard.cli.render import wrapped

    keys, lines = data["keys"], []
    if keys is not None:
        lines.append(f"{keys['party']}: the key pair was {'made' if keys['created'] else 'there already'}")
        lines.append(f"  private, stays here: {keys['private']}")
        lines.append(f"  public, copy it into the keys folder of the other parties: {keys['public']}")
        if keys["replaced"] is not None:
            lines.append(
                f"  the old public key is void, kept as {keys['replaced']}: copy the new one over it everywhere,"
            )
            lines.append("  then restart the daemons: systemctl restart pairguardd, on the arbiter pairguard-witness")
        lines += [f"  missing here: {name}.pub, copy it from {name}" for name in keys["missing"]]
    match data["outcome"]:
        case "made":
            lines.append(f"{data['pair']}: the register was made, era {data['era']}")
            lines.append("next: pairguard check")
        case "exists":
            lines.append(f"{data['pair']}: has a register already, era {data['era']}; nothing was changed")
        case _:
            lines.append("next: copy the public keys, start the daemons, then: pairguard init")
    return "\n".join(wrapped(line, hang=4) for line in lines)
