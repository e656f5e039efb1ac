"""The stage of the cluster contract on the real pair, for every test that needs real Pacemaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guard.adapters import cib
from guard.adapters.clock import BootClock
from guard.adapters.pacemaker import Pacemaker
from guard.adapters.process import OUTPUT_BYTES_MAX, Ran, Runner, run
from guard.core.evidence import Up
from tests.adapters.cluster_contract import eventually
from tests.adapters.real_pair import FORM_S_MAX, NODES, RealPair

NODE, PEER = NODES


def inside(pair: RealPair, node: str) -> Runner:
    """`process.run` on that node of the pair."""

    async def run_there(
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
    ) -> Ran:
        line = [*pair.prefix(node), *argv]
        return await run(line, deadline_s=deadline_s, stdin=stdin, env=env, output_max=output_max)

    return run_there


class PacemakerStage:
    """The stage of the contract on the real pair."""

    node, peer = NODE, PEER

    def __init__(self, pair: RealPair) -> None:
        self.pair = pair
        self.here, self.there = self.cluster(NODE, PEER), self.cluster(PEER, NODE)

    def cluster(self, node: str, peer: str, runner: Runner | None = None) -> Pacemaker:
        runner = runner or inside(self.pair, node)
        return Pacemaker(node, peer, clock=BootClock(), run=runner, promotable=["disk-clone"], deadline_s=30.0)

    async def person(self, *, on: bool) -> None:
        argv = ["crm_attribute", "--type", "crm_config", "--name", "maintenance-mode"]
        self.pair.on(NODE, [*argv, "--update", "true"] if on else [*argv, "--delete"])

        async def there() -> bool:
            return (await self.here.view()).maintenance is on

        await eventually(there, f"a person's maintenance to be {on}")

    async def queue_shot(self) -> None:
        self.pair.request_shot(NODE, PEER)

    def shots_fired(self) -> int:
        return sum(len(self.pair.shots(node)) for node in NODES)

    async def restore(self) -> None:
        """Whole, no hold, no mark, no bar, no shot, whatever a test left behind."""
        self.pair.heal()
        self.pair.wait(lambda: member_everywhere(self.pair), FORM_S_MAX, "both nodes to be members again")
        for cluster in (self.here, self.there):
            if await cluster.pending():
                await eventually(lambda c=cluster: c.set_hold("restore"), "a hold")  # type: ignore[misc]
                for shot in await cluster.pending():
                    assert await cluster.purge(shot), cluster.trouble
        assert await self.here.restore_devices()
        assert await self.here.clear_hold(cib.ANY_HOLD)
        for node in NODES:
            assert await self.here.bar(node, on=False)
        self.pair.withdraw_requests()
        self.pair.wait(self.pair.whole, FORM_S_MAX, "the pair to be whole again")

        async def calm() -> bool:
            views = [await cluster.view() for cluster in (self.here, self.there)]
            return all(
                v.maintenance is False and v.ours is None and v.controller is Up.UP and v.peer_controller is Up.UP
                for v in views
            )

        await eventually(calm, "both views to be calm")


def member_everywhere(pair: RealPair) -> bool:
    return all(pair.tries(n, ["crm_mon", "--output-as=xml", "-1"])[1].count('online="true"') == 2 for n in NODES)
