"""plan.toml: what a person is going to do to the site, step by step, each with its way back and the time both take.

1. A step without a rollback, or without a duration of either, does not validate: people estimate the first thing only.
2. Durations are upper bounds of experience. What is believed of a network's freeze is the longer of plan and kind.
3. What is not known is refused with file, key, found and allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from guard import documents
from guard.errors import SettingsError
from guard.settings import Duration, Section

CHANGE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
ELEMENT = r"^[a-z0-9][a-z0-9._-]{0,62}(:\S{1,64})?$"
_ALLOWED = {
    CHANGE: "write the change's number: letters, digits, dots, dashes and underscores, at most 63",
    ELEMENT: "write a switch, a node or `arbiter` as the survey names them, or one port as switch:port",
}

Kind = Literal["process-restart", "diagnostic", "link-shut", "configuration", "reboot", "reinstall", "switch-upgrade"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FREEZE_S: Mapping[Kind, float] = MappingProxyType(
    {
        "process-restart": 120.0,  # Tianji: a process restart takes at most 120 s (facts/incidents.md, R2.6)
        "diagnostic": 90.0,  # GitHub 2012: the state dump that ended in 90 s without forwarding
        "link-shut": 90.0,  # LACP's long timeout, three periods of 30 s (IEEE 802.1AX, 6.4.4)
        "configuration": 50.0,  # spanning tree: max age 20 s and twice forward delay 15 s (IEEE 802.1D-2004, 17.14)
        "reboot": 1200.0,  # Tianji: a machine's reboot takes at most 20 min (R2.6)
        "reinstall": 10_800.0,  # Tianji: an installation with formatting takes at most 3 h (R2.6)
        "switch-upgrade": 1200.0,  # a reboot of each switch of the MLAG pair, one after the other
    }
)
"""How long each kind of work may freeze or stop what it touches: the upper bound, whatever the plan hopes for."""


class Rollback(Section):
    """The way back of one step. `kind`: if going back is other work than going forward."""

    action: Annotated[str, Field(min_length=4)]
    duration: Duration
    kind: Kind | None = None


class Step(Section):
    """One thing that is done. `elements`: what it touches. `freeze`: how long the network may stand still, if the
    planner expects longer than `FREEZE_S`."""

    action: Annotated[str, Field(min_length=4)]
    kind: Kind
    elements: tuple[Annotated[str, Field(pattern=ELEMENT)], ...]
    duration: Duration
    freeze: Duration | None = None
    rollback: Rollback

    def frozen_s(self) -> float:
        """The upper bound that is believed: a plan's "brief" never shortens it (facts/incidents.md, R4.11)."""
        return max(self.freeze or 0.0, FREEZE_S[self.kind])

    def back_s(self) -> float:
        """As `frozen_s`, of the rollback."""
        return max(self.freeze or 0.0, FREEZE_S[self.rollback.kind or self.kind])


class Plan(Section):
    """`[[step]]` in the order in which they are done."""

    change: Annotated[str, Field(pattern=CHANGE)]
    text: str = ""
    step: tuple[Step, ...]

    @model_validator(mode="after")
    def _does_something(self) -> Plan:
        if not self.step:
            raise ValueError("there is no [[step]]")
        for number, step in enumerate(self.step, 1):
            if not step.elements:
                raise ValueError(f"step (number {number}).elements is empty: name what the step touches")
            for name, took in (("duration", step.duration), ("rollback.duration", step.rollback.duration)):
                if took <= 0:
                    raise ValueError(f"step (number {number}).{name} is 0s: give the upper bound of experience")
        return self


@dataclass(frozen=True, slots=True)
class Written:
    """A plan with the file it stood in. `digest`: sha256 of the file's very bytes."""

    plan: Plan
    file: Path
    digest: str


def load(path: Path) -> Written:
    """`SettingsError` names every fault: file, key, what was found and what is allowed."""
    content = documents.toml(path)
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        lines = documents.faults(Plan, content, error, lambda _: path, allowed=_ALLOWED)
        raise SettingsError("cannot use this plan", "\n  " + "\n  ".join(lines), "mend them and try again") from error
    return Written(plan, path, hashlib.sha256(path.read_bytes()).hexdigest())
