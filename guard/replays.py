"""What was seen of each sender on the bus, so that nothing is taken twice and nothing of an earlier boot says more.

A window of numbers for the present boot, as IPsec has it, and the boots before; counts decide, never clocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 64  # messages of one sender that may overtake each other; RFC 4303 section 3.4.3 uses 64 too
BOOTS_KEPT = 8  # boots of one sender that are told from new ones
LIVE_AGAIN = 16  # fresh messages in a row after which an "old" boot is evidently the living one


@dataclass(slots=True)
class _Boot:
    boot_id: str
    highest: int
    mask: int = 1  # bit n: highest - n was seen
    row: int = 0  # fresh messages in a row since another boot was heard

    def take(self, seq: int) -> bool:
        """True if this number was not seen before and is not behind the window; it is seen from then on."""
        ahead = seq - self.highest
        if ahead > 0:
            self.mask = (1 if ahead >= WINDOW else (self.mask << ahead) | 1) & ((1 << WINDOW) - 1)
            self.highest = seq
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        if not bit or self.mask & bit:
            return False
        self.mask |= bit
        return True


@dataclass(slots=True)
class Replays:
    """What was seen of one sender: a window of 64 for its present boot, and the boots before.

    A boot never heard of is a new boot. A message of an earlier one is late and is dropped. After our own restart the
    order in which two boots are first heard may be the wrong one; so an "old" boot that says 16 fresh things while the
    "new" one says nothing is the living one. Counts decide this, not clocks.
    """

    boots: deque[_Boot] = field(default_factory=lambda: deque(maxlen=BOOTS_KEPT))  # present boot first

    def fresh(self, boot_id: str, seq: int) -> bool:
        known = next((boot for boot in self.boots if boot.boot_id == boot_id), None)
        if known is None:
            self.boots.appendleft(_Boot(boot_id, seq))
            return True
        if not known.take(seq):
            return False
        if known is self.boots[0]:
            for boot in self.boots:
                boot.row = 0
            return True
        known.row += 1
        if known.row < LIVE_AGAIN:
            return False
        self.boots.remove(known)
        self.boots.appendleft(known)
        known.row = 0
        return True
