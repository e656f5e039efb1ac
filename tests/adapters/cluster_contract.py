"""What every `guard.ports.Cluster` promises, real or simulated: subclass `ClusterContract` and give it a `stage`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from guard.core.evidence import SHOTS_UNREAD, PendingShot, Up
from guard.ports import Cluster

SETTLE_S_MAX = 60.0  # a real cluster spreads a write in 0.1 s; the machine may be busy


class Stage(Protocol):
    """A whole pair: `here` runs the pair's promoted service on `node`, `there` is the view of `peer`."""

    here: Cluster
    there: Cluster
    node: str
    peer: str

    async def person(self, *, on: bool) -> None:
        """Somebody else sets or ends maintenance."""
        ...

    async def queue_shot(self) -> None:
        """A shot at `peer` that waits in the fencer for much longer than a test takes."""
        ...

    def shots_fired(self) -> int:
        """How often a fence device was really asked to act."""
        ...


async def eventually(check: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll until true; fails with what was waited for."""
    end = time.monotonic() + SETTLE_S_MAX
    while not await check():
        if time.monotonic() > end:
            pytest.fail(f"waited {SETTLE_S_MAX:.0f} s for: {what}")
        await asyncio.sleep(0.1)


async def held(cluster: Cluster, hold_id: str | None, *, maintenance: bool) -> bool:
    view = await cluster.view()
    return view.ours == hold_id and view.maintenance is maintenance


@pytest.mark.asyncio
class ClusterContract:
    """The promises. Every test leaves the stage as it found it, or the fixture restores it."""

    async def test_a_whole_pair_is_seen_whole(self, stage: Stage) -> None:
        """Both controllers are up, nobody is unclean, nothing is pending, and the service is seen where it runs."""
        for cluster, active in ((stage.here, True), (stage.there, False)):
            view = await cluster.view()
            assert (view.controller, view.peer_controller) == (Up.UP, Up.UP)
            assert (view.unclean, view.pending, view.failed_stop) == (frozenset(), (), False)
            assert (view.maintenance, view.ours, view.persons_maintenance) == (False, None, False)
            assert view.managed
            assert view.active_here is active

    async def test_a_hold_is_in_force_on_both_nodes_with_its_id_and_goes_without_a_trace(self, stage: Stage) -> None:
        """After `set_hold` both nodes read maintenance and the id and manage nothing; after `clear_hold` neither."""
        assert await stage.here.set_hold("hold-1")
        for cluster in (stage.here, stage.there):
            await eventually(lambda c=cluster: held(c, "hold-1", maintenance=True), "the hold")  # type: ignore[misc]
            assert (await cluster.view()).managed == 0
        assert await stage.there.clear_hold("hold-1")
        for cluster in (stage.here, stage.there):
            await eventually(lambda c=cluster: held(c, None, maintenance=False), "no hold")  # type: ignore[misc]

    async def test_a_hold_is_cleared_only_by_its_own_id(self, stage: Stage) -> None:
        """`clear_hold` with another id is refused and changes nothing."""
        assert await stage.here.set_hold("hold-2")
        assert not await stage.here.clear_hold("hold-3")
        await eventually(lambda: held(stage.here, "hold-2", maintenance=True), "the hold")

    async def test_set_and_clear_may_be_repeated(self, stage: Stage) -> None:
        """Setting the hold that stands and clearing one that is gone both say True."""
        assert await stage.here.set_hold("hold-4")
        assert await stage.here.set_hold("hold-4")
        assert await stage.here.clear_hold("hold-4")
        assert await stage.here.clear_hold("hold-4")

    async def test_a_persons_maintenance_outlives_ours(self, stage: Stage) -> None:
        """Where a person set maintenance, our hold comes and goes and the person's stays."""
        await stage.person(on=True)
        try:
            assert (await stage.here.view()).persons_maintenance
            assert await stage.here.set_hold("hold-5")
            assert await stage.here.clear_hold("hold-5")
            view = await stage.here.view()
            assert (view.maintenance, view.ours, view.persons_maintenance) == (True, None, True)
        finally:
            await stage.person(on=False)

    async def test_the_scheduler_fences_a_lost_peer_unless_held(self, stage: Stage) -> None:
        """Forecast with the peer lost: fenced without a hold, nobody with it, fenced again with the hold taken away."""
        bare = await stage.here.forecast(lost=stage.peer, without_hold=False)
        assert (bare.error, bare.fences) == (None, {stage.peer})
        assert bare.stops
        assert await stage.here.set_hold("hold-6")
        await eventually(lambda: held(stage.here, "hold-6", maintenance=True), "the hold")
        assert (await stage.here.forecast(lost=stage.peer, without_hold=False)).harmless()
        assert (await stage.here.forecast(lost=stage.peer, without_hold=True)).fences == {stage.peer}
        assert (await stage.here.view()).ours == "hold-6", "a forecast must not touch the real hold"

    async def test_a_whole_pair_may_be_released(self, stage: Stage) -> None:
        """Forecast with nobody lost and the hold taken away: harmless."""
        assert await stage.here.set_hold("hold-7")
        assert (await stage.here.forecast(lost=None, without_hold=True)).harmless()

    async def test_a_forecast_about_an_unknown_node_proves_nothing(self, stage: Stage) -> None:
        """A node that the cluster does not know gives an error, not a harmless forecast."""
        forecast = await stage.here.forecast(lost="nobody", without_hold=False)
        assert forecast.error is not None
        assert not forecast.harmless()

    async def test_a_queued_shot_is_seen_and_purged_only_under_a_hold(self, stage: Stage) -> None:
        """A delayed shot is listed; without our hold it is left alone; under it, it is gone and never fired."""
        await stage.queue_shot()

        async def queued() -> bool:
            return any(shot.target == stage.peer for shot in await stage.here.pending())

        await eventually(queued, "the shot in the fencer's list")
        assert any(shot.target == stage.peer for shot in (await stage.here.view()).pending)
        shot = (await stage.here.pending())[0]
        assert not await stage.here.purge(shot)
        assert await queued()
        assert await stage.here.set_hold("hold-8")
        await eventually(lambda: held(stage.here, "hold-8", maintenance=True), "the hold")
        assert await stage.here.purge(shot)
        assert not await stage.here.pending()
        assert (await stage.here.view()).pending == ()
        assert stage.shots_fired() == 0

    async def test_a_shot_that_is_not_listed_counts_as_purged_but_an_unread_list_does_not(self, stage: Stage) -> None:
        """Purging what the fencer does not list is done at once; `SHOTS_UNREAD` can never be purged."""
        assert await stage.here.set_hold("hold-9")
        assert await stage.here.purge(PendingShot(stage.peer, "off", "nobody", stage.node, "pending"))
        assert not await stage.here.purge(SHOTS_UNREAD)

    async def test_a_bar_comes_and_goes(self, stage: Stage) -> None:
        """Barring the peer and lifting it both succeed, also when repeated."""
        for on in (True, True, False, False):
            assert await stage.here.bar(stage.peer, on=on)
