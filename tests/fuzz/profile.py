"""How hard hypothesis searches: the same tries on every machine and every day, or, for `make fuzz`, new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TRIES = int(os.environ.get("PAIRGUARD_FUZZ_TRIES", "0"))  # 0 = the few and fixed ones of `make test`

PROFILE = settings(
    derandomize=not TRIES,
    database=None,
    deadline=None,
    max_examples=TRIES or 60,
    suppress_health_check=list(HealthCheck),
)
"""Put on a test as a decorator. Deadlines would measure this machine, not the code."""

DAMAGES_MAX = TRIES or 300
"""Damages of one kind tried on one parser, spread evenly over all that there are."""
