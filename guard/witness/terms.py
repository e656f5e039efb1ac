"""The arbiter's memory in etcd, for several witnesses of one site: one of them has the term, and it alone speaks.

1. The term is a key with a lease. Whoever creates it is the arbiter. Every transaction compares at which revision it
   was created, so nothing of an ended term can be written, however late it arrives.
2. A batch that writes nothing is a transaction too, begun after it was decided. No clock can say so much: the clock of
   a machine that its hypervisor stopped stood still, and a leader that was stuck may renew leases after its successor
   let them end (etcd-io/etcd#15247).
3. A write whose outcome is not known ends the term: another one begins by what is stored, and what is still on its way
   meets the comparison of law 1.
4. Whoever could not renew the lease for its whole length, on CLOCK_BOOTTIME from the sending, leaves the bus, where two
   arbiters would push each other out.

Rows are those of the SQLite store: `PREFIX/pair/NAME`; `PREFIX/store` has the schema, the id, and the cluster it was
made in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from guard.core.instant import Instant, elapsed_s
from guard.core.pair import Kept
from guard.errors import TermOver, Unavailable, Unreadable, Unsure
from guard.events import Emit
from guard.ports import Clock, Compare, Done, Etcd, Put, Range, Row
from guard.witness.store import SCHEMA, parse_kept, plain_kept

ROWS_MAX = 100  # of one transaction; etcd takes 128 operations (--max-txn-ops)
BYTES_MAX = 1 << 20  # of their values; etcd takes 1.5 MiB (--max-request-bytes)
PAGE = 200  # rows read at once
SAVE_S = 8.0  # etcd gives up after 7 (5 s and twice its election timeout, etcdserver/config.go); systemd waits for 10
LOOK_S = 2.0  # a look at the term; a guard calls the arbiter silent after as long
TRY_S = 1.0  # a standby looks so often whether the term is free
RENEWALS = 5  # in one length of the lease


class EtcdStore:
    """One term. `guard.ports.Registers`, and `hold` beside it, which ends by `TermOver` alone."""

    def __init__(
        self,
        etcd: Etcd,
        clock: Clock,
        emit: Emit,
        prefix: str,
        ttl_s: int,
        *,
        lease: int,
        since: Instant,
        revision: int,
    ) -> None:
        """Of a term that was just taken: `revision` is where its key was created, `since` when its lease was asked
        for."""
        self._etcd, self._clock, self._emit = etcd, clock, emit
        self._prefix, self._ttl_s, self._lease, self._renewed = prefix, ttl_s, lease, since
        self._ours = Compare(term_key(prefix), "created", revision)
        self._rows: dict[str, Row] = {}
        self._over: TermOver | None = None
        self.store_id = ""

    async def read(self, new_id: str) -> None:
        """What is stored; `new_id` names the store if there is none. `Unreadable`: it is another's, or damaged."""
        meta, pairs = f"{self._prefix}/store", f"{self._prefix}/pair/"
        done = await self._within(Range(meta), Range(pairs, _after(pairs), PAGE))
        [found, rows] = done.read
        while rows:
            self._rows |= {row.key.removeprefix(pairs): row for row in rows}
            [rows] = (await self._within(Range(rows[-1].key + "\0", _after(pairs), PAGE))).read
        if found:
            self.store_id = _store_id(found[0], done.cluster)
        elif self._rows:
            raise Unreadable(f"cannot use the store {self._prefix}", "it has pairs, and no name", _ANEW)
        else:
            text = json.dumps({"schema": SCHEMA, "id": new_id, "cluster": done.cluster})
            await self._within(compare=Compare(meta, "created", 0), puts=[Put(meta, text)])
            self.store_id = new_id

    async def _within(self, *ranges: Range, compare: Compare | None = None, puts: Sequence[Put] = ()) -> Done:
        """At the start nothing was said yet: whatever fails may be tried again, in another term."""
        compares = [self._ours] if compare is None else [self._ours, compare]
        done = await self._etcd.transact(compares, puts, ranges, deadline_s=SAVE_S)
        if not done.succeeded:
            raise self._ended("another witness has it")
        return done

    def load(self) -> Mapping[str, Kept]:
        return {name: parse_kept(name, row.value, f"{self._prefix}/pair") for name, row in self._rows.items()}

    async def save(self, pairs: Iterable[Kept]) -> None:
        """Also where nothing is written: what follows is said by whoever has the term now."""
        if self._over is not None:
            raise self._over
        written = False
        for rows in _parcels([(kept.pair, plain_kept(kept)) for kept in pairs]):
            try:
                await self._save(rows)
            except Unsure as error:
                if not rows:  # it was only looked: say nothing, look again
                    raise
                raise self._ended(f"it is not known whether a write was done ({error.why})") from error
            except Unavailable as error:
                if written:
                    raise self._ended(f"a batch was written in part ({error.why})") from error
                raise
            except Unreadable as error:
                raise self._ended(f"etcd answers what cannot be read ({error.why})") from error
            written = True

    async def _save(self, rows: Sequence[tuple[str, str]]) -> None:
        keys = {name: f"{self._prefix}/pair/{name}" for name, _ in rows}
        known = [Compare(keys[name], "modified", self._modified(name)) for name, _ in rows]
        puts = [Put(keys[name], text) for name, text in rows]
        deadline_s = SAVE_S if rows else LOOK_S
        done = await self._etcd.transact([self._ours, *known], puts, deadline_s=deadline_s)
        if not done.succeeded:
            raise self._ended("another witness has it, or wrote here")
        for name, text in rows:
            self._rows[name] = Row(keys[name], text, 0, done.revision)

    def _modified(self, name: str) -> int:
        row = self._rows.get(name)
        return 0 if row is None else row.modified

    async def hold(self) -> None:
        """Renew the lease; `TermOver` once it is gone, or was not renewed for its whole length."""
        while True:
            await self._clock.sleep(self._ttl_s / RENEWALS)
            sent = self._clock.now()
            left_s = self._ttl_s - elapsed_s(self._renewed, sent)
            if left_s <= 0:
                raise self._ended("its lease could not be renewed")
            with contextlib.suppress(Unavailable, Unreadable):
                if not await self._etcd.keep(self._lease, deadline_s=min(left_s, self._ttl_s / 4)):
                    raise self._ended("its lease has run out")
                self._renewed = sent

    def _ended(self, why: str) -> TermOver:
        if self._over is None:
            self._over = TermOver("cannot go on as the arbiter: the term is over", why, "it starts again as a standby")
            self._emit("term-over", f"this witness is the arbiter no more: {why}", {"why": why})
        return self._over

    def close(self) -> None:
        """Nothing is written after this."""
        self._over = self._over or TermOver("cannot write: the store is closed")

    async def leave(self) -> None:
        """The lease is given back, so that the next term need not wait for its end. Certain it is only by that end."""
        self.close()
        with contextlib.suppress(Unavailable, Unreadable):
            await self._etcd.revoke(self._lease, deadline_s=1.0)


async def taken(
    etcd: Etcd,
    clock: Clock,
    emit: Emit,
    prefix: str,
    ttl_s: int,
    *,
    name: str,
    wait: Callable[[str], Awaitable[None]],
) -> EtcdStore:
    """Wait for the term and take it. `name`: of this witness, for people. `wait` gets why it is a standby, each time,
    and returns when it is time to look again."""
    while True:
        try:
            store, why = await _try(etcd, clock, emit, prefix, ttl_s, name)
        except (Unavailable, Unreadable) as error:
            store, why = None, str(error)
        if store is not None:
            emit("term-taken", f"{name} is the arbiter now", {"name": name, "revision": store._ours.revision})
            return store
        await wait(why)


async def _try(
    etcd: Etcd, clock: Clock, emit: Emit, prefix: str, ttl_s: int, name: str
) -> tuple[EtcdStore | None, str]:
    """The term, or why not. If the outcome is not known the key may be ours: then nobody renews it, and it ends."""
    key = term_key(prefix)
    [found] = (await etcd.transact([], (), [Range(key)], deadline_s=LOOK_S)).read
    if found:
        return None, f"{found[0].value} has the term"
    since = clock.now()
    lease = await etcd.grant(ttl_s, deadline_s=LOOK_S)
    done = await etcd.transact([Compare(key, "created", 0)], [Put(key, name, lease)], deadline_s=LOOK_S)
    if not done.succeeded:
        await etcd.revoke(lease, deadline_s=LOOK_S)
        return None, "another witness took the term"
    return EtcdStore(etcd, clock, emit, prefix, ttl_s, lease=lease, since=since, revision=done.revision), ""


def term_key(prefix: str) -> str:
    return f"{prefix}/term"


def _after(prefix: str) -> str:
    """The first key behind all that begin with `prefix`, which ends with an ASCII character."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _parcels(rows: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """As many rows as one transaction takes; one empty parcel where there is no row."""
    parcel: list[tuple[str, str]] = []
    size = 0
    for row in rows:
        length = len(row[1].encode())
        if parcel and (len(parcel) == ROWS_MAX or size + length > BYTES_MAX):
            yield parcel
            parcel, size = [], 0
        parcel.append(row)
        size += length
    if parcel or not rows:
        yield parcel


_ANEW = "keep what is there, and make new registers under another prefix (`pairguard init`) while the pairs are whole"


def _store_id(row: Row, cluster: str) -> str:
    """`Unreadable` unless it is what `read` writes, of our schema and of this cluster."""
    what = f"cannot use the store {row.key}"
    try:
        said = json.loads(row.value)
    except (ValueError, RecursionError) as error:
        raise Unreadable(what, "its name is damaged", _ANEW) from error
    shape = {"schema": int, "id": str, "cluster": str}
    if not isinstance(said, dict) or {key: type(value) for key, value in said.items()} != shape or not said["id"]:
        raise Unreadable(what, "its name is damaged", _ANEW)
    if said["schema"] != SCHEMA:
        why = f"it was written in version {said['schema']} of its rows, this witness knows version {SCHEMA}"
        raise Unreadable(what, why, "run the witness that wrote it, or a newer one")
    if said["cluster"] != cluster:
        why = f"it was made in cluster {said['cluster']}, this is {cluster}: etcd was restored from a backup, or moved"
        raise Unreadable(what, why, _ANEW)
    return str(said["id"])
