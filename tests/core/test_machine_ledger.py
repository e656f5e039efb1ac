"""The write ledger outlives its guard; one promise a test."""

from __future__ import annotations

import json
from dataclasses import replace

from scene import guard_of, run, whole_pair

from guard.core import machine
from guard.core.instant import after
from guard.core.step import SawWrites
from guard.core.writes import age
from guard.daemon.memory import record, remembered


def restarted(guard, memory, now, boot_id):
    return machine.start(
        guard.me,
        guard.peer,
        policy=guard.policy,
        sight=guard.sight,
        horizon_s=guard.horizon_s,
        memory=memory,
        boot_id=boot_id,
        seed="a" * 32,
        now=now,
    )[0]


def test_the_write_ledger_outlives_a_restart_of_the_guard() -> None:
    """What was seen before the restart is still known after it, read back from the journal's own form."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard, _ = run(replace(guard, due={}), SawWrites(()), now)
    assert guard.memory.ledgers
    memory = remembered([json.loads(json.dumps(record(guard.memory)))])
    again = restarted(guard, memory, after(now, 1.0), guard.boot_id)
    [name] = again.ledgers
    assert again.ledgers[name] == guard.ledgers[name]
    assert age(again.ledgers[name], after(now, 1.0)) is not None


def test_a_ledger_of_another_boot_is_no_ledger() -> None:
    """Its instants are of another clock: no age is better than a wrong one."""
    world = whole_pair()
    guard, now = guard_of(world, "A"), world.nodes["A"].local()
    guard, _ = run(replace(guard, due={}), SawWrites(()), now)
    assert restarted(guard, guard.memory, now, "another-boot").ledgers == {}
