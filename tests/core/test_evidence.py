"""What a reading is worth: whether a gate is closed, and which of two looks at a resource counts."""

from __future__ import annotations

from itertools import product

from guard.core.evidence import Disk, GateFacts, Replica, Volumes
from guard.core.instant import Instant

FACTS = {
    "protocol": (("C",), ("A", "B")),
    "fencing": (("resource-and-stonith",), ("resource-only", "dont-care")),
    "handler_ours": ((True,), (False,)),
    "on_congestion": (("block",), ("pull-ahead",)),
}


def test_a_gate_is_closed_only_if_every_fact_of_it_says_so() -> None:
    """E4: one that is wrong opens it, whatever is not known; one that is missing permits nothing."""
    for told in product(*((*good, *bad, None) for good, bad in FACTS.values())):
        facts = dict(zip(FACTS, told, strict=True))
        wrong = any(facts[name] in bad for name, (_, bad) in FACTS.items())
        right = all(facts[name] in good for name, (good, _) in FACTS.items())
        assert GateFacts(**facts).closed() is (True if right else False if wrong else None)


def test_what_a_reading_carries_is_no_news_beside_a_later_look() -> None:
    """r1 was not read at 9; it rests on its look of 5, on none, or on the one before."""
    for here, there, newer in (
        (5, 4, True),
        (5, 5, True),
        (5, 6, False),
        (5, None, False),
        (7, None, False),
        (9, None, True),
    ):
        known = Volumes(Instant(8), (Replica("r1", disk=Disk.UP_TO_DATE),), carried={"r1": _at(there)})
        told = Volumes(Instant(9), (Replica("r1", disk=Disk.OUTDATED),), carried={"r1": _at(here)})
        seen = told.over(known)
        assert (seen.replicas[0].disk is Disk.OUTDATED) is newer
        assert seen.looked("r1") == _at(here if newer else there)
    event = Volumes(Instant(9), (Replica("r1", disk=Disk.OUTDATED),), carried={"r1": None})
    assert event.over(known).replicas == event.replicas, "an event made it worse since"


def _at(moment: int | None) -> Instant | None:
    return None if moment is None else Instant(moment)
