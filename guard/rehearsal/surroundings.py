"""A real site's own timers, gates and fence devices around a rehearsed pair, as scenario and transcript carry them.

Node A is the preferred node. Two values in a row are A's and B's: of the node that looks or shoots for timers and
gates, of the node that is shot for devices.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from guard.core.evidence import GateFacts
from guard.core.policy import Policy
from guard.rehearsal.values import Part

if TYPE_CHECKING:
    from guard.rehearsal.world import World

OPTIONAL = frozenset({"alone_under_hold_s"})  # limits that may be "never"


class Gate(Part):
    """What a node proves of its gate; None: not known, which permits nothing."""

    protocol: str | None = None
    fencing: str | None = None
    handler_ours: bool | None = None
    on_congestion: str | None = None

    def facts(self) -> GateFacts:
        return GateFacts(self.protocol, self.fencing, self.handler_ours, self.on_congestion)


class Surroundings(Part):
    """`limits`: fields of `guard.core.policy.Policy` by name, in seconds. A peer is lost from the membership
    `token_s` and `consensus_s` after its last word: 0.94 s and 1.2 s, 2.74 s and 3.6 s were measured (facts/labs.md).
    `wait_s`: how long the cluster lets its agent ask; `delay_s`: how long a shot at this node waits in the fencer's
    queue."""

    limits: dict[str, float | Literal["never"]] = Field(default_factory=dict)
    token_s: float = Field(default=3.0, gt=0)
    consensus_s: float = Field(default=0.0, ge=0)
    ping_s: float = Field(default=2.5, gt=0)
    wait_s: tuple[float, float] = (60.0, 60.0)
    delay_s: tuple[float, float] = (0.0, 0.0)
    horizon_s: tuple[float | Literal["unbounded"], float | Literal["unbounded"]] = (10.0, 10.0)
    gates: tuple[Gate, Gate] = (Gate(), Gate())

    def policy(self) -> Policy:
        """ValueError: no guard could run with these limits."""
        known = {each.name for each in fields(Policy)}
        strange = sorted(set(self.limits) - known)
        never = sorted(name for name, value in self.limits.items() if value == "never" and name not in OPTIONAL)
        if strange or never:
            raise ValueError(f"these are no limits of the protocol, or cannot be never: {', '.join(strange + never)}")
        given = {name: None if value == "never" else float(value) for name, value in self.limits.items()}
        return Policy(**given)  # type: ignore[arg-type]

    def put(self, world: World) -> None:
        """Into a world in which nothing has started yet."""
        for n, name in enumerate("AB"):
            node, peer = world.nodes[name], "BA"[n]
            node.cluster.token_s, node.cluster.consensus_s = self.token_s, self.consensus_s
            node.cluster.wait_s = self.wait_s["AB".index(peer)]
            node.cluster.delay_s = self.delay_s["AB".index(peer)]
            horizon = self.horizon_s[n]
            world.devices[name].horizon_s = None if horizon == "unbounded" else float(horizon)
            gate = self.gates[n].facts()
            for volume in world.volumes:
                volume.ping_s = self.ping_s
                if gate != volume.gate:
                    volume.gate_of[name] = gate
