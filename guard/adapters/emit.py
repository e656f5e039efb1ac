"""`guard.events.Emit` on structlog: one record an event, and the last ones kept for `status` and `explain`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import structlog

from guard.events import CATALOGUE, plain
from guard.ports import Clock

KEPT_MAX = 512  # records kept in memory for people
RESERVED = frozenset({"event", "message", "level", "ts", "page", "text", "at_wall"})  # a datum so named gets a "_"


class Emitter:
    """Logs through structlog's configured sink; keeps the newest `KEPT_MAX` records and every standing page."""

    def __init__(self, clock: Clock, **bound: str) -> None:
        self._clock = clock
        self._log = structlog.get_logger().bind(**bound)
        self.counts: Counter[str] = Counter()  # since the start, by name
        self.kept: deque[dict[str, Any]] = deque(maxlen=KEPT_MAX)

    def __call__(self, event: str, text: str, data: Mapping[str, object], *, page: bool = False) -> None:
        """An event outside the catalogue is a bug of ours: it is logged as `uncatalogued`, never lost."""
        name = event if event in CATALOGUE else "uncatalogued"
        fields = {f"{key}_" if key in RESERVED else key: plain(value) for key, value in data.items()}
        if name != event:
            fields["kind"] = event
        level = self._log.error if page else self._log.info
        level(name, message=text, page=page, **fields)
        self.counts[name] += 1
        self.kept.append({"event": name, "text": text, "at_wall": self._clock.wall(), "page": page, **fields})
