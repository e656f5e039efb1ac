"""What every implementation of `guard.ports.Replication` promises: run on the real adapter and on the simulated one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from guard.core.evidence import Disk, Link, Role, Suspended
from guard.core.instant import Instant, after
from guard.ports import Replication

PATIENCE_S = 20.0  # generous: the machine may be loaded


class SteppedClock:
    """A clock that only moves when somebody sleeps on it, or when it is told to."""

    def __init__(self) -> None:
        self.moment = Instant(1_000_000_000)

    def now(self) -> Instant:
        return self.moment

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "00000000-0000-0000-0000-000000000000"

    async def sleep(self, seconds: float) -> None:
        self.moment = after(self.moment, seconds)
        await asyncio.sleep(0)

    def nonce(self) -> str:
        return "0" * 32

    def jitter(self, low: float, high: float) -> float:
        return low


async def names_all_in_order(replication: Replication, names: Sequence[str]) -> None:
    """Both looks name every configured resource once, in order, whatever state it is in."""
    assert [one.resource for one in (await replication.read()).replicas] == list(names)
    assert [one.resource for one in (await replication.stored()).replicas] == list(names)


async def whole_comes_first(replication: Replication, names: Sequence[str]) -> None:
    """`changes` starts with the whole state, equal to what `read` says."""
    async with asyncio.timeout(PATIENCE_S), aclosing(replication.changes()) as stream:  # type: ignore[type-var]
        first = await anext(stream)
    assert first.replicas == (await replication.read()).replicas
    assert [one.resource for one in first.replicas] == list(names)


async def metadata_proves_no_session(replication: Replication) -> None:
    """What was stored never says that the link stands or that the disk is up to date: only a peer can confirm that."""
    for one in (await replication.stored()).replicas:
        assert one.link not in {Link.CONNECTED, Link.RESYNC}
        assert one.disk is not Disk.UP_TO_DATE
        assert one.peer_role is Role.UNKNOWN
        assert one.peer_disk is Disk.UNKNOWN


async def suspended_means_read_back(replication: Replication) -> None:
    """`suspend` is True exactly if every resource then reads as suspended by us or as down, and `resume` if none does.

    What fencing froze is never resumed by hand.
    """
    said = await replication.suspend()
    seen = (await replication.read()).replicas
    stopped = [one.suspended is not None and Suspended.USER in one.suspended for one in seen]
    assert said == all(still or one.link is Link.DOWN for still, one in zip(stopped, seen, strict=True))
    frozen = any(Suspended.FENCING in one.suspended for one in seen if one.suspended)
    if said and frozen:
        assert not await replication.resume(), "resume-io would thaw what fencing froze"
    elif said:
        assert await replication.resume()
        after_it = [one.suspended for one in (await replication.read()).replicas]
        assert all(reasons is not None and Suspended.USER not in reasons for reasons in after_it)


async def all_unknown(replication: Replication) -> None:
    """Where nothing can be asked, nothing is claimed: no field has a value that could permit anything."""
    for one in (*(await replication.read()).replicas, *(await replication.stored()).replicas):
        assert (one.role, one.peer_role) == (Role.UNKNOWN, Role.UNKNOWN)
        assert (one.disk, one.peer_disk, one.link) == (Disk.UNKNOWN, Disk.UNKNOWN, Link.UNKNOWN)
        assert (one.generations, one.suspended, one.open_count, one.out_of_sync_kib) == (None, None, None, None)
        assert one.was_up_to_date is None
        assert one.gate.closed() is None
    assert not await replication.suspend()
    assert not await replication.resume()
    assert not await replication.outdate()
