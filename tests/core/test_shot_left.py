"""What is left of a shot, of a claim and of a right when their client goes or their guard starts anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scene import armed, done, intent, of_a_whole_pair, remembering

from guard.core import drain, shot
from guard.core.instant import after
from guard.core.step import ClientGone, Intent
from guard.core.turn import Attempt, DryJob, HandlerJob, Right


@pytest.mark.parametrize("stage", ["wait", "armed", "firing", "reading"])
def test_a_client_that_left_takes_along_what_was_not_sent(stage: str) -> None:
    """A fired shot goes on to its end and its drain; its intent stays. Other clients are not touched."""
    guard, now = armed()
    job = replace(guard.agents[0], stage=stage)
    others = {
        "agents": (replace(job, id="b", intent="i2"),),
        "handlers": (HandlerJob("h", "r0", now, 1),),
        "dry": (DryJob("d", "alone", now),),
    }
    mine = {"agents": (job,), "handlers": (HandlerJob("a", "r0", now, 1),), "dry": (DryJob("a", "alone", now),)}
    guard = replace(guard, **{k: (*mine[k], *others[k]) for k in others})
    guard = remembering(guard, intents=(*guard.memory.intents, intent(now, id="i2")))
    for whose, left in (("a", False), ("b", True)):
        claim, right = Attempt("n", "fence", whose, now), Right("fence", 1, 2, now, 1, job=whose)
        after_it, _ = done(replace(guard, attempt=claim, right=right), now, shot.client_gone, ClientGone("a"))
        assert (after_it.attempt is not None, after_it.right is not None) == (left, left)
        kept = stage in ("firing", "reading")
        assert [j.id for j in after_it.agents] == (["a", "b"] if kept else ["b"])
        assert (after_it.handlers, after_it.dry) == (others["handlers"], others["dry"])
        assert [i.id for i in after_it.memory.intents] == (["i2"] if stage == "armed" else ["i1", "i2"])


def test_a_guard_that_lost_its_memory_takes_it_that_it_has_shot() -> None:
    """S4: undrained for H from now, once; with an unbounded device for as long as after a good shot."""
    guard, now = of_a_whole_pair("B")
    guard = remembering(guard, intents=(intent(now, id="before-memory"), intent(now)))
    after_it, _ = done(guard, now, drain.forgotten_shots, 10.0)
    lost = Intent("before-memory", 0, 0, "A", guard.boot_id, now, 10.0, spawned=True, drained=after(now, 10.0))
    assert after_it.memory.intents == (intent(now), lost)
    after_it, _ = done(guard, now, drain.forgotten_shots, None)
    assert after_it.memory.intents[-1] == replace(lost, horizon_s=None, drained=after(now, drain.ACCEPTED_S))


def test_what_an_earlier_guard_left_drains_from_the_start_of_this_one() -> None:
    """S4: a drain of this boot stands; of another, or none, begins anew with its H, else the device's of today."""
    guard, now = of_a_whole_pair("B")
    boot, at = guard.boot_id, after(now, 3.0)
    intents = {
        "lives": intent(now, id="lives", spawned=True, boot_id="old", drained=at),
        "not sent": intent(now, id="not sent", boot_id=boot),
        "drained": intent(now, id="drained", spawned=True, boot_id=boot, drained=at),
        "no end": intent(now, id="no end", spawned=True, boot_id=boot),
        "another boot": intent(now, id="another boot", spawned=True, boot_id="old", drained=at),
        "unbounded": intent(now, id="unbounded", spawned=True, boot_id=boot, horizon_s=None),
    }
    guard = remembering(guard, intents=tuple(intents.values()))
    for horizon_s in (75.0, None):
        after_it, _ = done(guard, now, drain.drain_at_start, horizon_s, frozenset({"lives", "unknown"}))
        left = {i.id: i for i in after_it.memory.intents}
        assert left == {
            "lives": replace(intents["lives"], boot_id=boot, drained=None),
            "unknown": Intent(
                "unknown", guard.memory.era, guard.memory.version, "A", boot, now, horizon_s, spawned=True
            ),
            "drained": intents["drained"],
            "no end": replace(intents["no end"], drained=after(now, 10.0)),
            "another boot": replace(intents["another boot"], boot_id=boot, drained=after(now, 10.0)),
            "unbounded": replace(intents["unbounded"], drained=None if horizon_s is None else after(now, horizon_s)),
        }
        assert after_it.stuck == {"lives", "unknown"}
        assert after_it.paged == {"shot-stuck"}
    quiet = remembering(guard, intents=(intents["drained"],))
    assert done(quiet, now, drain.drain_at_start, 75.0, frozenset()) == (quiet, ())
