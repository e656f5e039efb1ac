"""The arbiter's memory: one SQLite file with full sync; what is not committed here was never said.

Every row of a store is of its one `schema`. An older store is brought up to ours step by step, in one transaction, as
it is opened; a newer one is refused. A field that is gone in a row of the present schema is damage.

`store_id` names this very file for ever. Guards notice another id, or a version that went back, and believe nothing.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from guard.core.pair import Kept
from guard.errors import Unavailable, Unreadable

SCHEMA = 2
_KEPT: TypeAdapter[Kept] = TypeAdapter(Kept)


class Store:
    """One open store; one writer. Every method that writes returns after the data is on the disk."""

    def __init__(self, path: Path, new_id: str) -> None:
        """Open or make the store. `new_id` becomes its id only if it is made now.

        `Unavailable`: cannot open or write it, or another witness has it. `Unreadable`: of another version, or damaged.
        """
        self.path = path
        self.store_id: str
        self._writer = ThreadPoolExecutor(1, "store")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("CREATE TABLE IF NOT EXISTS store (schema INTEGER NOT NULL, id TEXT NOT NULL)")
            self._db.execute("CREATE TABLE IF NOT EXISTS pair (name TEXT PRIMARY KEY, kept TEXT NOT NULL) STRICT")
            if self._db.execute("SELECT count(*) FROM store").fetchone()[0] == 0:
                self._db.execute("INSERT INTO store VALUES (?, ?)", (SCHEMA, new_id))
            schema, self.store_id = self._db.execute("SELECT schema, id FROM store").fetchone()
            if schema in _STEPS:
                self._migrate(schema)
                schema = SCHEMA
            self._db.execute("COMMIT")
        except (sqlite3.OperationalError, OSError) as error:  # full, locked, not reachable: that passes
            raise _unavailable(path, "open", error) from error
        except sqlite3.DatabaseError as error:
            raise Unreadable(f"cannot open the store {path}", _why(error), "keep the file, look at the disk") from error
        except Unreadable:
            self.close()
            raise
        if schema != SCHEMA:
            self.close()
            raise Unreadable(
                f"cannot use the store {path}",
                f"it was written in version {schema} of its rows, this witness knows version {SCHEMA}",
                "run the witness that wrote it, or a newer one",
            )

    def _migrate(self, schema: int) -> None:
        """Every row of an older store as we would write it; all of them or, if one is damaged, none."""
        rows = self._db.execute("SELECT name, kept FROM pair ORDER BY name").fetchall()
        anew = [(plain_kept(parse_kept(name, brought_up(text, schema), self.path)), name) for name, text in rows]
        self._db.executemany("UPDATE pair SET kept = ? WHERE name = ?", anew)
        self._db.execute("UPDATE store SET schema = ?", (SCHEMA,))

    def load(self) -> Mapping[str, Kept]:
        """Every pair. `Unreadable` names the first record that does not validate: nothing is guessed."""
        pairs = {}
        try:
            rows = self._db.execute("SELECT name, kept FROM pair ORDER BY name").fetchall()
        except sqlite3.DatabaseError as error:
            raise Unreadable(
                f"cannot read the store {self.path}",
                _why(error),
                "look at the disk; restore nothing: make new registers (`pairguard init`) while the pairs are whole",
            ) from error
        for name, text in rows:
            pairs[name] = parse_kept(name, text, self.path)
        return pairs

    async def save(self, pairs: Iterable[Kept]) -> None:
        """Write these pairs in one transaction, durably. `Unavailable`: nothing of it was written, say nothing."""
        rows = [(kept.pair, plain_kept(kept)) for kept in pairs]
        if rows:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._save, rows)

    def _save(self, rows: list[tuple[str, str]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO pair VALUES (?, ?)", rows)
                self._db.execute("COMMIT")
            except sqlite3.DatabaseError:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _unavailable(self.path, "write", error) from error

    def close(self) -> None:
        """A write that its caller gave up goes on in its thread: it ends first, then the file is closed."""
        self._writer.shutdown()
        self._db.close()


def brought_up(text: str, schema: int) -> str:
    """A row of an earlier `schema` in the shape of ours. What is no row stays as it is: `parse_kept` refuses it."""
    try:
        row = json.loads(text)
    except ValueError:
        return text
    if not isinstance(row, dict):
        return text
    for earlier in range(schema, SCHEMA):
        _STEPS[earlier](row)
    return json.dumps(row)


def _from_1(row: dict[str, Any]) -> None:
    """Builds before schema 2 had all but `_ADDED` from the first, and added those in that order. A row that lacks one
    and has a later one was never written: it stays as it is, and is refused. `used` was in the order of a set."""
    lacks = [name for name in _ADDED if name not in row]
    if lacks != list(_ADDED)[len(_ADDED) - len(lacks) :]:
        return
    row.update({name: _ADDED[name] for name in lacks})
    if "words" in lacks:  # the boots of a session and whether a node was unfit came with it
        if isinstance(session := row.get("session"), dict):
            session.setdefault("boots", {})
        said = row.get("testimony")
        for testimony in said.values() if isinstance(said, dict) else ():
            if isinstance(testimony, dict) and isinstance(evidence := testimony.get("evidence"), dict):
                evidence.setdefault("unfit", False)
    register = row.get("register")
    if isinstance(register, dict) and isinstance(used := register.get("used"), list):
        register["used"] = sorted(used, key=str)


_ADDED: Mapping[str, object] = {"last_fence": None, "lifted": [], "words": {}}
_STEPS: Mapping[int, Callable[[dict[str, Any]], None]] = {1: _from_1}


def plain_kept(kept: Kept) -> str:
    """One pair as it is stored: JSON with every field."""
    return _KEPT.dump_json(kept).decode()


def parse_kept(name: str, text: str, path: Path | str) -> Kept:
    """The pair `name`. `Unreadable` unless it is exactly what `plain_kept` writes.

    A field that is gone would read as its default: an inhibit that is lost would be none. A new field needs a new
    `SCHEMA` and a step that brings old rows up to it.
    """
    try:
        kept = _KEPT.validate_json(text, strict=True)
        fault = "it is not what was written" if json.loads(plain_kept(kept)) != json.loads(text) else None
        if kept.pair != name:
            fault = f"it is the row of {kept.pair!r}"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        fault = f"{'.'.join(map(str, first['loc'])) or 'it'} is missing there, or damaged"
    if fault is not None:
        raise Unreadable(
            f"cannot read pair {name} in {path}",
            fault,
            "restore the store as a whole, or make new registers (`pairguard init`) while the pairs are whole",
        )
    return kept


def _unavailable(path: Path, verb: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"cannot {verb} the store {path}", _why(error), f"look at the disk and at who holds it: fuser -v {path}"
    )


def _why(error: Exception) -> str:
    """What SQLite or the kernel found, in a person's words (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return error.strerror or "it cannot be opened" if isinstance(error, OSError) else "it is damaged"
    return _FOUND.get(code & 0xFF, f"SQLite fails with code {code}")


_FOUND: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: "another process has it",
    sqlite3.SQLITE_LOCKED: "another process has it",
    sqlite3.SQLITE_READONLY: "it may not be written",
    sqlite3.SQLITE_PERM: "it may not be opened",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no store: damaged, or another file",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: its folder is missing, or may not be written",
}
