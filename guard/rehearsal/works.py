"""What each kind of work may do to a pair: the faults of the catalogue that fit, for a switch, a node or the arbiter.

1. `gentle` is how the work goes when it goes well, for a drawn time; else it does the worst that its kind has done to
   somebody, for its whole upper bound.
2. Frames of a network that stands still are dropped or delivered at its thaw; shots that cross it come late as well.
3. A switch is changed together with its MLAG peers: what freezes one has frozen both (22 December 2012).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from guard.plan import Kind
from guard.rehearsal.guesses import Subject
from guard.rehearsal.mlag import AGENT_S
from guard.rehearsal.values import Wrong

ARBITER = "arbiter"
STP_S = 30.0  # listening and learning, 2 x forward_delay of 15 s (IEEE 802.1D-2004, table 17-1)
FORM_S = 6.0  # what an MLAG pair needs beside the freeze itself: 5 s of waiting, and a second to begin

Lasts = float | str
"""Seconds, or `$name` of a parameter."""
PhaseTable = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """What one element is to one pair. `paths`, `devices`: words of `guard.rehearsal.network.NAMED`, "" for none."""

    sort: Literal["switch", "node", "arbiter"]
    node: str = ""  # A or B, where the element is a node or one node's port
    paths: str = ""
    devices: str = ""
    mlag: bool = False

    @property
    def misses(self) -> bool:
        """Nothing of the pair crosses it."""
        return self.sort == "switch" and not self.paths and not self.devices


@dataclass(frozen=True, slots=True)
class Go:
    """When a work begins, seconds of the round, how long what it does lasts, and whether it goes well."""

    at: float
    lasts: Lasts
    gentle: bool

    def plus(self, seconds: float) -> Lasts:
        """`lasts` and some seconds more."""
        return self.lasts + seconds if isinstance(self.lasts, float) else f"{self.lasts} + {seconds:g}"


def hit(subject: Subject, element: str) -> Hit:
    """What `element` (a switch, switch:port, a node, or `arbiter`) is to this pair."""
    name, _, port = element.partition(":")
    if name == ARBITER:
        return Hit("arbiter")
    if name in (subject.a, subject.b):
        return Hit("node", node=subject.letter(name))
    if name not in subject.ports:
        return Hit("switch")  # a node of another pair
    paths = ["pair"] if subject.touched(name) else []
    paths += ["bus"] if subject.crosses(subject.arbiter, name) else []
    devices = [f"device-{subject.letter(n).lower()}" for n, way in subject.fences.items() if subject.crosses(way, name)]
    owner = subject.ports[name].get(port, "")
    node = subject.letter(owner) if owner in (subject.a, subject.b) else ""
    return Hit("switch", node, "+".join(paths), "+".join(sorted(devices)), subject.paired(name))


def phases(kind: Kind, what: Hit, go: Go) -> Iterator[PhaseTable]:
    """The phases of one work on one element. `Wrong`: this kind of work cannot be done to it."""
    if what.misses:
        return iter(())
    by = {"switch": _switch, "node": _node, "arbiter": _arbiter}[what.sort]
    return by(kind, what, go)


# ------------------------------------------------------------------ switches


def _switch(kind: Kind, what: Hit, go: Go) -> Iterator[PhaseTable]:
    match kind:
        case "process-restart" | "diagnostic":
            yield from _agent(what, go)
        case "link-shut":
            yield _phase("a port is shut", "port-down", go, go.lasts, switch="sw1", port=_port(what))
            if not (go.gentle and what.mlag):
                yield from _freeze(what, go, 0.0)
        case "configuration":
            yield _phase("tables are flushed", "topology-change", go, None, switch="all", times=3)
            if go.gentle:
                yield from _flap(what, go)
            else:
                yield from _freeze(what, go, 0.0)
        case "reboot" | "reinstall":
            yield from _reboot(what, go)
        case "switch-upgrade":
            if what.mlag:
                yield _phase("a switch restarts with its new image", "switch-reboots", go, None, silent_s=go.lasts)
                yield from _agent(what, go)
            else:
                yield from _reboot(what, go)


def _agent(what: Hit, go: Go) -> Iterator[PhaseTable]:
    """The agent of an MLAG switch stops: a clean takeover, or the day of 2012. One switch alone just freezes."""
    if not what.mlag or not what.paths:
        yield from _freeze(what, go, 0.0)
        return
    if go.gentle:
        text = "its MLAG agent stops, the other switch takes over"
        yield _phase(text, "mlag-clean-takeover", go, go.plus(FORM_S), paths=what.paths)
        return
    text = "its MLAG agent dies, the other switch goes stand-alone, spanning tree elects"
    more = {"paths": what.paths, "stp_s": go.lasts, "how": "$frames", "again_stp_s": STP_S}
    yield _phase(text, "mlag-agent-dies", go, go.plus(FORM_S), **more)
    yield from _late(what, go, AGENT_S)


def _reboot(what: Hit, go: Go) -> Iterator[PhaseTable]:
    """Silent and then new; what it carried is lost, and once more while spanning tree takes it back."""
    clean = go.gentle and what.mlag
    lost = {"paths": what.paths} if what.paths and not clean else {}
    yield _phase("the switch restarts", "switch-reboots", go, None, silent_s=go.lasts, **lost)
    if clean:
        return
    if what.paths:
        again = _phase("spanning tree takes it back", "cut", go, STP_S, paths=what.paths)
        yield again | {"at": _sum(go.at, go.lasts)}
    yield from _late(what, go, 0.0)


def _freeze(what: Hit, go: Go, after_s: float) -> Iterator[PhaseTable]:
    """Nothing passes: frames are dropped, or wait for the thaw."""
    if what.paths:
        for frames, fault in (("cut", "cut"), ("held", "hold")):
            phase = _phase(f"nothing is forwarded: frames are {frames}", fault, go, go.lasts, paths=what.paths)
            yield phase | {"at": go.at + after_s, "when": {"frames": frames}}
    yield from _late(what, go, after_s)


def _flap(what: Hit, go: Go) -> Iterator[PhaseTable]:
    if what.paths:
        yield _phase("the path comes and goes", "flap", go, go.lasts, paths=what.paths, times=3, most_s=2.0)
    yield from _late(what, go, 0.0)


def _late(what: Hit, go: Go, after_s: float) -> Iterator[PhaseTable]:
    """Shots go through the same network: they wait in it and land long after it thawed."""
    if what.devices:
        lasts = f"{go.lasts:g} + $late_s" if isinstance(go.lasts, float) else f"{go.lasts} + $late_s"
        yield _phase("shots wait in the network", "hold", go, lasts, paths=what.devices) | {"at": go.at + after_s}


def _port(what: Hit) -> str:
    return f"port{what.node}" if what.node else "uplink"


# ------------------------------------------------------------------ nodes and the arbiter


def _node(kind: Kind, what: Hit, go: Go) -> Iterator[PhaseTable]:
    node = what.node
    match kind:
        case "process-restart":
            yield _phase("a process of the cluster or the guard restarts", "$process", go, go.lasts, node=node)
        case "diagnostic":
            yield _phase("a diagnostic makes it stand still", "$stall", go, go.lasts, node=node)
        case "link-shut":
            yield _phase("its bond loses the carrier", "bond-flap", go, go.lasts, node=node)
            if not go.gentle:
                yield _phase("it is cut off", "cut", go, go.lasts, paths=f"pair+bus-{node.lower()}")
        case "configuration":
            yield _phase("its gate is not proven for a while", "gate-off", go, go.lasts, node=node, kind="unknown")
            if not go.gentle:
                yield _phase("replication breaks and comes back", "replication-flaps", go, go.lasts)
        case "reboot":
            yield _phase("the node restarts", "reboot", go, None, node=node, off_s=go.lasts)
        case "reinstall":
            yield _phase("its journal is gone", "journal-lost", go, None, node=node)
            yield _phase("the node restarts", "reboot", go, None, node=node, off_s=go.lasts) | {"at": go.at + 1.0}
        case "switch-upgrade":
            raise Wrong("cannot upgrade a node as a switch", f"{kind} names a node", 'write kind = "reboot"')


def _arbiter(kind: Kind, what: Hit, go: Go) -> Iterator[PhaseTable]:
    match kind:
        case "process-restart":
            yield _phase("the witness restarts", "witness-restarts", go, None, down_s=go.lasts)
        case "reboot":
            yield _phase("the arbiter's machine restarts", "witness-restarts", go, None, down_s=go.lasts, reboot=True)
        case "diagnostic":
            yield _phase("the arbiter stands still", "witness-pauses", go, go.lasts)
        case "reinstall":
            yield _phase("the witness's store is lost", "store-lost", go, go.lasts)
        case "link-shut":
            yield _phase("the arbiter is cut off", "cut", go, go.lasts, paths="bus-arbiter")
        case "configuration":
            yield _phase("the broker restarts", "broker-restart", go, None)
        case "switch-upgrade":
            raise Wrong("cannot upgrade the arbiter as a switch", f"{kind} names the arbiter", 'write kind = "reboot"')


def _phase(text: str, fault: str, go: Go, lasts: Lasts | None, **args: object) -> PhaseTable:
    found: PhaseTable = {"text": text, "fault": fault, "at": go.at, "args": args, "when": {}}
    return found if lasts is None else found | {"lasts": lasts}


def _sum(at: float, lasts: Lasts) -> Lasts:
    return at + lasts if isinstance(lasts, float) else f"{at:g} + {lasts}"
