"""etcd as `guard.ports.Etcd` promises it, in memory and on a clock of the test's; it can lose what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from guard.core.instant import Instant, after
from guard.errors import Unavailable, Unsure
from guard.ports import Clock, Compare, Done, Put, Range, Row

LOST = Unsure("cannot tell what etcd did", "no answer")


class Keyspace:
    """What all members agree on."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.revision = clock, 1
        self.rows: dict[str, Row] = {}
        self.of_lease: dict[str, int] = {}
        self.leases: dict[int, tuple[int, Instant]] = {}

    def expire(self) -> None:
        for lease in [n for n, (_, end) in self.leases.items() if end <= self.clock.now()]:
            self.drop(lease)

    def drop(self, lease: int) -> None:
        self.leases.pop(lease, None)
        gone = [key for key, by in self.of_lease.items() if by == lease]
        self.revision += bool(gone)
        for key in gone:
            del self.rows[key], self.of_lease[key]

    def apply(self, compares: Sequence[Compare], puts: Sequence[Put], ranges: Sequence[Range]) -> Done:
        self.expire()
        none = Row("", "", 0, 0)
        if any(getattr(self.rows.get(c.key, none), c.what) != c.revision for c in compares):
            return Done(False, self.revision, "1")
        if any(put.lease and put.lease not in self.leases for put in puts):
            raise Unavailable("cannot use etcd", "etcdserver: requested lease not found")
        self.revision += bool(puts)
        for put in puts:
            before = self.rows.get(put.key)
            created = before.created if before is not None else self.revision
            self.rows[put.key] = Row(put.key, put.value, created, self.revision)
            self.of_lease.pop(put.key, None)
            if put.lease:
                self.of_lease[put.key] = put.lease
        return Done(True, self.revision, "1", (*(() for _ in puts), *(self._read(each) for each in ranges)))

    def _read(self, asked: Range) -> tuple[Row, ...]:
        found = [
            self.rows[key]
            for key in sorted(self.rows)
            if (asked.key <= key < asked.end if asked.end else key == asked.key)
        ]
        return tuple(found[: asked.limit or None])


class SimulatedEtcd:
    """One client of it. `troubles`, one for each coming transaction that writes: "" none; "refused"; "before" and
    "after": its answer is lost, and it was not, or was, carried out; "late": carried out only by `arrive`."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.troubles: list[str] = []
        self.cut = False
        self.under_way: list[tuple[Sequence[Compare], Sequence[Put]]] = []
        self.asked = 0

    async def transact(
        self, compares: Sequence[Compare], puts: Sequence[Put] = (), ranges: Sequence[Range] = (), *, deadline_s: float
    ) -> Done:
        self._reach()
        self.asked += 1
        trouble = self.troubles.pop(0) if puts and self.troubles else ""
        if trouble == "refused":
            raise Unavailable("cannot use etcd", "etcdserver: mvcc: database space exceeded")
        if trouble == "late":
            self.under_way.append((compares, puts))
        if trouble in ("before", "late"):
            raise LOST
        done = self.keyspace.apply(compares, puts, ranges)
        if trouble == "after":
            raise LOST
        return done

    def arrive(self) -> list[bool]:
        """What was under way is carried out now; did its comparisons hold?"""
        under_way, self.under_way = self.under_way, []
        return [self.keyspace.apply(compares, puts, ()).succeeded for compares, puts in under_way]

    async def grant(self, ttl_s: int, *, deadline_s: float) -> int:
        self._reach()
        number = max(self.keyspace.leases, default=0) + self.keyspace.revision + 1
        self.keyspace.leases[number] = (ttl_s, after(self.keyspace.clock.now(), ttl_s))
        return number

    async def keep(self, lease: int, *, deadline_s: float) -> bool:
        self._reach()
        self.keyspace.expire()
        if lease not in self.keyspace.leases:
            return False
        ttl_s, _ = self.keyspace.leases[lease]
        self.keyspace.leases[lease] = (ttl_s, after(self.keyspace.clock.now(), ttl_s))
        return True

    async def revoke(self, lease: int, *, deadline_s: float) -> None:
        self._reach()
        self.keyspace.drop(lease)

    async def close(self) -> None:
        self.cut = True

    def _reach(self) -> None:
        if self.cut:
            raise Unavailable("cannot reach etcd", "it is cut off")
