"""One stock pair in one freeze: corosync's membership, Pacemaker's fencer and its fence agent, without a guard.

A seeded model, no event loop and no clock: `play(seed, setting, freeze)` works out when each node's first power-off is
accepted, as if it lived, and then which of the two came in time. Seconds count from the start of the freeze.
The constants below are one for every setting and measured; `stock_rows` compares the model with what the lab measured.
`python -m guard.rehearsal.stock --rows` prints that comparison.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from guard.rehearsal.stock_setting import (
    PRESETS,
    WATCHED_S,
    Edit,
    Freeze,
    Kind,
    Shot,
    Side,
    StockOutcome,
    StockSetting,
)

# [labs] facts/labs.md, A; [own] read from the logs of this repository's lab (46 nodes of stock and guarded pairs)
TOKEN_LEFT = (0.85, 1.0)  # share of `token` still to run when the network freezes [labs: lost at 0.94 of 1, 2.74 of 3]
CONSENSUS = 1.2  # corosync's default: consensus = 1.2 x token
SCHEDULED_S = (0.05, 0.8)  # new membership to fence request [labs: medians 0.77, 0.56; p10 0.27, 0.05; with the pause]
CIB_PAUSE_S = 1.0  # the controller sleeps so long before it asks again for a CIB with updates pending
CIB_PAUSE_CHANCE = {True: 13 / 23, False: 4 / 23}  # of a node that was, was not the DC [own]
AGENT_START_S = (0.20, 0.32)  # request to the agent's first packet [labs: 3.15 - 2.91]
RETRY_PAUSE_S = 1.0  # the fencer's sleep before attempt 2; with AGENT_START_S "about 1.2 s" [labs]
ATTEMPTS = 2  # pcmk_off_retries
RETRY_SHARE = 0.7  # no attempt 2 once this share of the timeout is used
AGAIN_S = (0.01, 0.1)  # failed request to the next one [own: 0.012-0.096, ten failures]
ANSWERED_S = (0.005, 0.03)  # first packet that gets through to the command's acceptance
QUEUE_S = (0.0, 0.04)  # thaw to the acceptance of a packet that was held [own: within 0.02 s]
SYN_AGAIN_S = (0.0, 1.0, 3.0, 7.0, 15.0)  # TCP repeats its first packet within one try
KILL_S = (0.02, 0.05)  # what the power-off takes beyond the controller's latency [own]
POLL_S = 0.2  # the agent reads `status` so often
LINK_UP = (0.8, 1.2)  # thaw to knet's link up, in units of `token` [labs: median 1.0 s]
JOINED_S = (0.2, 0.4)  # link up to one membership [own]
EDIT_S = (0.06, 0.2)  # a CIB edit until it is seen [labs: median 0.12, max 0.194]
MOVE_S = (0.05, 0.3)  # fencing confirmed, or quorum back, to the service running [own: 0.03-0.1]
QDEVICE_S = 1.4  # what the quorum device adds to a decision [labs: 4.3 - 2.9]
RECHECK_S = 900.0  # cluster-recheck-interval
OVERRUN_S: Mapping[Kind, tuple[float, float]] = MappingProxyType(
    {"stp": (0.1, 0.8), "blackhole": (0.0, 0.05), "late": (0.0, 0.05), "death": (0.0, 0.0)}
)  # how much longer than asked the freeze is [labs: 12.1-12.8 of 12]
SKEW_MEDIAN_S, SKEW_MAX_S = 0.02, 0.35  # between the thaws of the two sides [labs]


_SIDES: tuple[Side, Side] = ("A", "B")


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One run of the agent: it reads back until `until_s`, a try may run on until `over_s`."""

    start_s: float
    until_s: float
    over_s: float


@dataclass(slots=True)
class _Node:
    """One side's view and its fencer's work."""

    name: Side
    primary: bool
    dc: bool
    thaw_s: float  # its way to the peer's controller is open from then
    lost_s: float = math.inf  # its peer left the membership
    quorate: bool = True
    maintenance: list[tuple[float, bool]] = field(default_factory=list)
    devices_until_s: float = math.inf
    killed_s: tuple[float, float] = (math.inf, math.inf)
    requests: list[float] = field(default_factory=list)
    accepted_s: float | None = None

    def free_from(self, at_s: float) -> float | None:
        """The first moment from `at_s` on without maintenance-mode; None: it is never cleared."""
        if not self.maintained(at_s):
            return at_s
        return next((since for since, on in self.maintenance if since > at_s and not on), None)

    def maintained(self, at_s: float) -> bool:
        now = False
        for since, on in self.maintenance:
            if since > at_s:
                break
            now = on
        return now


class StockPair:
    """A pair that nobody guards, in one freeze."""

    def __init__(self, seed: int, setting: StockSetting, freeze: Freeze, primary: Side | None = None) -> None:
        """`primary`: by the seed if None. What a seed draws first does not depend on the setting."""
        self.rng = rng = random.Random(seed)  # noqa: S311  # a seeded story, no secret
        self.setting, self.freeze = setting, freeze
        drawn: Side = "A" if rng.random() < 0.5 else "B"
        self.primary: Side = primary or drawn
        dc: Side = "A" if rng.random() < 0.5 else "B"
        self.thaw_s = freeze.seconds + rng.uniform(*OVERRUN_S[freeze.kind])
        skew = min(SKEW_MAX_S, rng.expovariate(math.log(2) / SKEW_MEDIAN_S))
        behind: Side = "A" if rng.random() < 0.5 else "B"
        self.nodes: dict[Side, _Node] = {}
        for name in _SIDES:
            self.nodes[name] = _Node(
                name, name == self.primary, name == dc, self.thaw_s + (skew if name == behind else 0.0)
            )
        link_s = self.thaw_s + setting.token_s * rng.uniform(*LINK_UP)
        self.joined_s = link_s + rng.uniform(*JOINED_S)
        self.victim: Side | None = None
        if freeze.kind == "death":
            self.victim = self.primary if freeze.victim == "primary" else _other(self.primary)
            self.joined_s = math.inf
        for node in self.nodes.values():
            self._membership(node, link_s)
        for node in self.nodes.values():
            self._edits(node)

    # ---- what each side sees

    def _membership(self, node: _Node, link_s: float) -> None:
        token_s = self.setting.token_s
        lost_s = token_s * self.rng.uniform(*TOKEN_LEFT)
        apart_s = lost_s + CONSENSUS * token_s
        if self.victim is None and (self.setting.rings > 1 or self.thaw_s < lost_s or link_s < apart_s):
            return  # it never took its peer for lost
        node.lost_s = apart_s
        if self.setting.quorum != "two-node":
            in_band = self.setting.quorum == "qdevice-in-band" and self.victim is None
            # ffsplit keeps node 1's part, whatever its role; the survivor of a death keeps its vote.
            node.quorate = self.victim is not None or (not in_band and node.name == "A")

    def _edits(self, node: _Node) -> None:
        for edit in self.setting.edits:
            at_s = edit.at_s + (self.thaw_s if edit.after_thaw else 0.0)
            seen_s = at_s + self.rng.uniform(*EDIT_S)
            alone = 0 <= at_s < self.joined_s and node.lost_s < math.inf
            if alone and edit.on != "both" and (edit.on == "primary") != node.primary:
                continue  # each part has its own CIB; what waits for the new membership is there before it is scheduled
            if edit.what == "stop-devices":
                node.devices_until_s = min(node.devices_until_s, seen_s)
            elif edit.what == "kill-agents":
                node.killed_s = (at_s, at_s + edit.for_s)
            else:
                node.maintenance.append((seen_s, edit.what == "maintain"))
        node.maintenance.sort()

    # ---- the scheduler and the fencer

    def _scheduled(self, node: _Node) -> float:
        """Something for the scheduler to see, to its request."""
        pause_s = CIB_PAUSE_S if self.rng.random() < CIB_PAUSE_CHANCE[node.dc] else 0.0
        return pause_s + self.rng.uniform(*SCHEDULED_S)

    def _request(self, node: _Node, at_s: float) -> float | None:
        """When the scheduler really asks for the shot it would ask for at `at_s`; None: never."""
        free_s = node.free_from(at_s)
        while free_s is not None and free_s > at_s:  # clearing it makes the scheduler look again
            at_s = free_s + self._scheduled(node)
            free_s = node.free_from(at_s)
        if free_s is None:
            return None
        peer_is_back = at_s >= self.joined_s and node.accepted_s is None
        return None if peer_is_back or at_s >= node.devices_until_s else at_s

    def _attempts(self, node: _Node) -> Iterator[_Attempt]:
        """Each run of the agent, until no request is made any more."""
        if node.lost_s == math.inf or not node.quorate:
            return
        first_s = node.lost_s + self._scheduled(node)
        if self.setting.quorum != "two-node":
            first_s += QDEVICE_S
        at_s = self._request(node, first_s)
        while at_s is not None:
            node.requests.append(at_s)
            start_s = at_s + self._delay(node)
            over_s = at_s
            if start_s < node.devices_until_s:  # a device that is removed takes the waiting request with it
                for attempt in self._action(node, start_s + self.rng.uniform(*AGENT_START_S)):
                    over_s = attempt.over_s
                    yield attempt
            again_s = over_s + self.rng.uniform(*AGAIN_S)
            if len(node.requests) >= self.setting.max_requests:
                again_s = at_s + RECHECK_S  # "giving up": one request at each recheck
            at_s = self._request(node, again_s)

    def _delay(self, node: _Node) -> float:
        """Spent at the start of each request. The device's own is drawn as the fencer does: the longest never comes."""
        setting = self.setting
        delay_s: float = setting.delay_base_s
        if setting.delay_max_s > setting.delay_base_s:
            delay_s += self.rng.randrange(setting.delay_max_s - setting.delay_base_s)
        return delay_s + (0.0 if node.primary else setting.priority_delay_s)  # its target is the primary

    def _action(self, node: _Node, start_s: float) -> Iterator[_Attempt]:
        """One request's runs of the agent, each failing if nobody ends it with success."""
        setting, begun_s, left_s = self.setting, start_s, self.setting.stonith_timeout_s
        tries_s = math.ceil(setting.power_timeout_s / setting.retry_s) * setting.retry_s
        for _ in range(ATTEMPTS):
            over_s, timed_out = start_s + tries_s, False
            if tries_s > left_s:
                over_s, timed_out = start_s + left_s, True
            if start_s < node.killed_s[1] and over_s > node.killed_s[0]:
                over_s, timed_out = max(start_s, node.killed_s[0]), False
            yield _Attempt(start_s, min(over_s, start_s + setting.power_timeout_s), over_s)
            used_s = math.floor(over_s - begun_s)
            if timed_out or used_s >= RETRY_SHARE * setting.stonith_timeout_s:
                return
            left_s = setting.stonith_timeout_s - used_s
            start_s = over_s + RETRY_PAUSE_S + self.rng.uniform(*AGENT_START_S)

    # ---- the agent and the controller

    def _accepted(self, node: _Node, attempt: _Attempt) -> float | None:
        """When the controller takes this run's `off`; None: nothing gets through while it runs."""
        open_s = 0.0 if self.setting.own_fence_path or self.victim is not None else node.thaw_s
        if attempt.start_s >= open_s:
            packet_s = attempt.start_s
        elif self.freeze.kind == "late":  # the try under way has its packet in the network
            at_s = open_s + self.rng.uniform(*QUEUE_S)
            return at_s if at_s < attempt.over_s else None
        else:
            packet_s = self._packet(attempt.start_s, open_s)
        return packet_s + self.rng.uniform(*ANSWERED_S) if packet_s < attempt.over_s else None

    def _packet(self, start_s: float, open_s: float) -> float:
        """The first packet after `open_s`: the agent begins a try each `retry_s`, TCP repeats within it."""
        retry_s = self.setting.retry_s
        try_s = start_s + math.floor((open_s - start_s) / retry_s) * retry_s
        for again_s in SYN_AGAIN_S:
            if again_s < retry_s and try_s + again_s >= open_s:
                return try_s + again_s
        return try_s + retry_s

    def _confirmed(self, attempts: Iterator[_Attempt], first: _Attempt, off_s: float) -> float | None:
        """When the shooter reads its target as off, in the run that sent the shot or in a later one."""
        attempt: _Attempt | None = first
        while attempt is not None:
            read_s = max(off_s, attempt.start_s) + self.rng.uniform(0.0, POLL_S)
            if read_s < attempt.until_s:
                return read_s
            attempt = next(attempts, None)
        return None

    # ---- the whole

    def play(self) -> StockOutcome:
        """What becomes of the pair."""
        aimed: list[tuple[float, Side, Iterator[_Attempt], _Attempt]] = []
        for node in self.nodes.values():
            if node.name == self.victim:
                continue
            attempts = self._attempts(node)
            for attempt in attempts:
                node.accepted_s = self._accepted(node, attempt)
                if node.accepted_s is not None:
                    aimed.append((node.accepted_s, node.name, attempts, attempt))
                    break
        aimed.sort(key=lambda one: one[:2])
        shots: list[Shot] = []
        off: dict[Side, float] = {} if self.victim is None else {self.victim: 0.0}
        confirmed_s: float | None = None
        for accepted_s, by, attempts, attempt in aimed:
            if accepted_s >= off.get(by, math.inf):
                continue  # dead before its command got through
            target = _other(by)
            if target not in off:
                off[target] = accepted_s + self.setting.latency_s + self.rng.uniform(*KILL_S)
                shots.append(Shot(by, target, accepted_s, off[target]))
            if by not in off:
                confirmed_s = self._confirmed(attempts, attempt, max(accepted_s, off[target]))
        if len(shots) > 1:
            confirmed_s = None
        watched_s = max([self.thaw_s, *(shot.off_s for shot in shots)]) + WATCHED_S
        served_s = self._takes_over(confirmed_s) if self.primary in off else None
        up = served_s is not None and served_s <= watched_s
        if self.primary not in off:
            up = self._still_served(watched_s)
        requests = tuple((name, at_s) for name, node in self.nodes.items() for at_s in node.requests)
        back = frozenset(s.target for s in shots if self.setting.action == "reboot" and confirmed_s is not None)
        return StockOutcome(self.primary, tuple(shots), up, self.thaw_s, requests, served_s, back)

    def _takes_over(self, confirmed_s: float | None) -> float | None:
        """When the primary's peer serves, its primary being off; None: never."""
        if confirmed_s is None:
            return None
        free_s = self.nodes[_other(self.primary)].free_from(confirmed_s)
        return None if free_s is None else free_s + self.rng.uniform(*MOVE_S)

    def _still_served(self, watched_s: float) -> bool:
        """Does the primary, which nobody shot, serve at `watched_s`? It stopped if it lost its quorum."""
        node = self.nodes[self.primary]
        if node.quorate or node.lost_s == math.inf or node.maintained(node.lost_s):
            return True
        free_s = [each.free_from(self.joined_s) for each in self.nodes.values()]  # which CIB wins is not foretold
        return all(at_s is not None and at_s + self.rng.uniform(*MOVE_S) <= watched_s for at_s in free_s)


def _other(side: Side) -> Side:
    return "B" if side == "A" else "A"


def play(seed: int, setting: StockSetting, freeze: Freeze, primary: Side | None = None) -> StockOutcome:
    """One pair, one freeze. The same arguments give the same outcome."""
    return StockPair(seed, setting, freeze, primary).play()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m guard.rehearsal.stock", description="The modelled stock pair.")
    parser.add_argument("--rows", action="store_true", required=True, help="compare the model with the lab's rows")
    parser.add_argument("--seeds", type=int, default=20_000, metavar="N", help="plays a row (default 20000)")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}: must be at least 1")
    from guard.rehearsal.stock_rows import report  # the rows import this module

    print(report(given.seeds))
    return 0


__all__ = ["PRESETS", "Edit", "Freeze", "Kind", "Shot", "Side", "StockOutcome", "StockPair", "StockSetting", "play"]

if __name__ == "__main__":
    sys.exit(main())
