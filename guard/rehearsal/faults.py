"""Every kind of fault of the rehearsed world, by name. What each does stands in its docstring, `Fault.text`.

What the world cannot do is named here: a person who names the winner (the core has no such event yet), and etcd's own
protocol (only what its transactions do to the witness: `faults_store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from guard.rehearsal import faults_machines, faults_members, faults_paths, faults_people, faults_stack, faults_store
from guard.rehearsal.faulty import Fault

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        name: each
        for module in (faults_machines, faults_members, faults_paths, faults_stack, faults_people, faults_store)
        for name, each in module.fault.faults.items()
    }
)
PLANTED = frozenset({"device-beyond-horizon", "term-outlived", "etcd-unsure-ignored"})
"""Breaks what the protocol is promised: only to show that checkers fire."""

__all__ = ["FAULTS", "PLANTED", "Fault"]
