"""What a stock pair's site has set, how its network freezes, and what became of it: data only (`stock` plays it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Side = Literal["A", "B"]
"""A is corosync's node 1."""
Quorum = Literal["two-node", "qdevice-in-band", "qdevice-oob"]
Kind = Literal["stp", "blackhole", "late", "death"]
WATCHED_S = 12.0
"""How long after the thaw, or after the last power-off if that is later, it is asked whether the service is up."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What people do: set or clear maintenance-mode, stop the fence devices, kill the running agents for `for_s`.

    `at_s` counts from the start of the freeze (negative: before it), or from the thaw if `after_thaw`.
    """

    at_s: float
    what: Literal["maintain", "manage", "stop-devices", "kill-agents"]
    on: Literal["both", "primary", "secondary"] = "both"
    for_s: float = 0.0
    after_thaw: bool = False


@dataclass(frozen=True, slots=True)
class StockSetting:
    """What the site has set. Defaults: corosync 3 and Pacemaker 2.1 as shipped, a controller that takes 1 s.

    `retry_s`: how long the agent's one try to connect lasts. `latency_s`: power-off after its acceptance; a late fence
    path is a long one. `delay_max_s`, `delay_base_s`: pcmk_delay_*, whole seconds. `own_fence_path`: no freeze there.
    """

    token_s: float = 3.0
    latency_s: float = 1.0
    retry_s: float = 1.0
    power_timeout_s: float = 20.0
    stonith_timeout_s: float = 60.0
    delay_base_s: int = 0
    delay_max_s: int = 0
    priority_delay_s: float = 0.0
    max_requests: int = 10
    quorum: Quorum = "two-node"
    rings: int = 1
    own_fence_path: bool = False
    action: Literal["off", "reboot"] = "off"
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        for name in ("token_s", "retry_s", "power_timeout_s", "stonith_timeout_s", "max_requests"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: must be more than 0")
        for name in ("latency_s", "delay_base_s", "delay_max_s", "priority_delay_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: must not be negative")
        if self.delay_base_s > self.delay_max_s:
            raise ValueError(f"delay_base_s {self.delay_base_s} is longer than delay_max_s {self.delay_max_s}")


@dataclass(frozen=True, slots=True)
class Freeze:
    """The network between the nodes, and to the controllers, is frozen for `seconds`.

    `stp`: ports wait; `blackhole`: frames vanish; `late`: frames are held and all delivered at the thaw.
    `death`: the network is whole and `victim` loses its power instead; `seconds` then only says when `watched` begins.
    """

    kind: Kind = "stp"
    seconds: float = 90.0
    victim: Literal["primary", "secondary"] = "primary"

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError(f"a freeze of {self.seconds} s: must not be negative")


@dataclass(frozen=True, slots=True)
class Shot:
    """One power-off: who ordered it, when the controller took it, when the power went."""

    by: Side
    target: Side
    accepted_s: float
    off_s: float


@dataclass(frozen=True, slots=True)
class StockOutcome:
    """What became of the pair. `service_up_after`: after WATCHED_S. `served_s`: when a new primary served.

    `back`: nodes whose shooter lived to switch them on again (`reboot`).
    """

    primary: Side
    shots: tuple[Shot, ...]
    service_up_after: bool
    thaw_s: float
    requests: tuple[tuple[Side, float], ...]
    served_s: float | None

    back: frozenset[str] = frozenset()

    @property
    def shot(self) -> frozenset[str]:
        return frozenset(shot.target for shot in self.shots)

    @property
    def primary_shot(self) -> bool:
        return self.primary in self.shot

    @property
    def wrong_node(self) -> bool:
        """The primary was shot and its peer was not."""
        return self.shot == {self.primary}


STOCK = StockSetting()
PRESETS: Mapping[str, StockSetting] = MappingProxyType(
    {
        "stock": STOCK,
        "pcmk-delay-max-2": replace(STOCK, delay_max_s=2),
        "pcmk-delay-max-15": replace(STOCK, delay_max_s=15),
        "pcmk-delay-max-30": replace(STOCK, delay_max_s=30),
        "priority-fencing-delay-15": replace(STOCK, priority_delay_s=15.0),
        "priority-fencing-delay-20": replace(STOCK, priority_delay_s=20.0),
        "qdevice-in-band": replace(STOCK, quorum="qdevice-in-band"),
        "qdevice-oob": replace(STOCK, quorum="qdevice-oob"),
        "second-ring": replace(STOCK, rings=2),
        "own-fence-path": replace(STOCK, own_fence_path=True),
        "maintenance-before": replace(STOCK, edits=(Edit(-60.0, "maintain"),)),
        "reboot": replace(STOCK, action="reboot"),
    }
)
"""What sites commonly do about the fence race, by name."""
