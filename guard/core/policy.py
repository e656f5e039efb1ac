"""Every limit of the protocol in one place, in seconds, with the relations between them checked.

Sources: DESIGN.md sections 4 and 6 unless a line says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits that guard and arbiter share. Built once; `__post_init__` refuses impossible relations."""

    corr_s: float = 0.3  # T_corr: claims of the same instant are seen together
    heard_s: float = 2.0  # a target heard this recently is waited for
    answer_s: float = 0.8  # how long it is waited for
    yield_s: float = 8.0  # a target that is asked to yield suspends its writes first: 3.6 s on a busy machine (lab)
    ask_s_min: float = 0.15  # even with a gathering behind it, the claim's own question gets this long
    accept_s: float = 2.0  # T_accept: the window of an offer
    fire_s: float = 3.0  # T_fire: from sending a Commit to the last moment its Won gives a right
    shot_s: float = 20.0  # T_shot
    readback_gap_s: float = 0.2  # between two power readings, after a verified exit 0
    readback_gap_alone_s: float = 1.0  # between two readings without an exit 0
    cold_s: float = 120.0  # T_cold
    alone_under_hold_s: float | None = 30.0  # None = never
    settle_s: float = 60.0  # quiet for this long before a release
    beat_s: float = 0.4  # every guard is heard at least every 0.5 s
    attest_s: float = 5.0
    unheard_s: float = 30.0  # a target unheard this long ends `peer-alive`; also the arbiter's own start-up wait
    sampling_s: float = 0.5  # period of the write ledger
    storm_window_s: float = 30.0
    storm_retry_s: float = 60.0  # half-open: one claim a minute
    handler_retry_s_min: float = 1.0
    handler_retry_s_max: float = 15.0
    handler_promote_s: float = 15.0  # a secondary being promoted gives up after this
    whole_answer_s: float = 1.0  # the agent answers this soon after the pair became whole
    wait_margin_s: float = 10.0  # ... or this long before its own wait_s
    cluster_gone_s: float = 10.0  # own cluster gone this long: a yield may be offered
    replication_settle_s: float = 5.0  # flapping replication: the handler first waits this long for the reconnect

    def __post_init__(self) -> None:
        wrong = [
            text
            for ok, text in (
                (self.corr_s < self.answer_s, "corr_s must be below answer_s"),
                (self.answer_s < self.yield_s, "yield_s must exceed answer_s: writes are suspended before the answer"),
                (self.accept_s <= self.fire_s, "accept_s must not exceed fire_s"),
                (self.beat_s <= 0.5, "beat_s must be at most 0.5 (the arbiter must hear every guard that often)"),
                (self.beat_s * 2 < self.heard_s, "heard_s must cover at least two beats"),
                (self.fire_s < self.shot_s, "fire_s must be below shot_s"),
                (self.sampling_s > 0, "sampling_s must be positive"),
                (self.handler_retry_s_min <= self.handler_retry_s_max, "handler_retry_s_min exceeds its maximum"),
            )
            if not ok
        ]
        if wrong:
            raise ValueError("cannot use these limits: " + "; ".join(wrong))
