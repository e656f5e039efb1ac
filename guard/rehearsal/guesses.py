"""A pair of a survey as the rehearsed world needs it, with the worst of everything that the survey does not know.

1. An UNKNOWN number becomes the value that is worst for the pair (`WORST`); an unproven gate stays unproven.
2. Where it is not clear what is worse (which node is preferred, whether a path crosses the changed element), every way
   is rehearsed, and the worst of what came counts.
3. Whatever was guessed is told, fact by fact: a record without it would look like knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from types import MappingProxyType
from typing import Literal

from guard.core.policy import Policy
from guard.errors import SettingsError
from guard.rehearsal.surroundings import Gate, Surroundings
from guard.survey import NEVER, UNBOUNDED, Survey, Value, names

EVERYTHING: Literal["everything"] = "everything"
Way = tuple[str, ...] | Literal["everything"]
"""The switches that a path crosses; `everything`: nobody knows, so it crosses whatever is changed."""
UNSURE: tuple[Way, ...] = ((), EVERYTHING)

WORST: Mapping[str, tuple[float | str, str]] = MappingProxyType(
    {
        "token_s": (1.0, "corosync's shortest default (corosync.conf.5): a death is believed earliest"),
        "consensus_s": (0.0, "no time at all: a death is believed earliest"),
        "ping_s": (10.5, "DRBD's own ping-int and ping-timeout (drbd.conf.5): a cut is seen last"),
        "wait_s": (20.0, "Pacemaker's default for an action (Pacemaker Explained): the agent ends in its claim"),
        "off_timeout_s": (20.0, "the same: the cluster kills the agent in its claim, and asks again"),
        "delay_s": (30.0, "a shot that waits in the fencer's queue is carried out whatever was set meanwhile"),
        "horizon_s": (UNBOUNDED, "a packet of a dead agent may act at any time later"),
    }
)


@dataclass(frozen=True, slots=True)
class Guess:
    """What the rehearsal did about one UNKNOWN fact. No `tried`: the modelled world does not use it."""

    fact: str
    why: str
    tried: tuple[str, ...]
    because: str

    def json(self) -> dict[str, object]:
        return {"fact": self.fact, "why": self.why, "tried": list(self.tried), "because": self.because}


@dataclass(frozen=True, slots=True)
class Subject:
    """One pair, in one way in which everything may be. `a` is taken for the preferred node."""

    pair: str
    a: str
    b: str
    around: Surroundings
    arbiter: Way
    fences: Mapping[str, Way]  # node that is shot -> the path to its device
    ports: Mapping[str, Mapping[str, str]]  # switch -> port -> owner
    peers: Mapping[str, tuple[str, ...] | None]  # switch -> MLAG peers; None: nobody knows

    def domain(self, switch: str) -> frozenset[str]:
        """A switch and its MLAG peers: in 2012 a diagnostic on one of them froze both. Unknown peers may be any."""
        own = self.peers.get(switch)
        back = (other for other, peers in self.peers.items() if peers is None or switch in peers)
        return frozenset((switch, *(self.peers if own is None else own), *back))

    def paired(self, switch: str) -> bool:
        """It is known to have an MLAG peer, which may take over."""
        return bool(self.peers.get(switch))

    def touched(self, switch: str) -> bool:
        """Do the pair's own links cross it? A pair without any known port crosses everything."""
        owners = {name: set(ports.values()) & {self.a, self.b} for name, ports in self.ports.items()}
        return not any(owners.values()) or any(owners.get(each) for each in self.domain(switch))

    def crosses(self, way: Way, switch: str) -> bool:
        return way == EVERYTHING or bool(self.domain(switch) & set(way))

    def letter(self, node: str) -> Literal["A", "B"]:
        return "A" if node == self.a else "B"


def pairs(survey: Survey) -> tuple[str, ...]:
    return names(survey, r"pair\.(.+)\.nodes")


def switches(survey: Survey) -> tuple[str, ...]:
    """By their own facts, or because a person named them in a path or a port."""
    known = (*names(survey, r"switch\.(.+)\.peers"), *names(survey, r"switch\.(.+?)\.port\..+"))
    return tuple(dict.fromkeys(known))


def nodes(survey: Survey, pair: str) -> tuple[str, str]:
    found = survey.value(f"pair.{pair}.nodes")
    if not isinstance(found, tuple) or len(found) != 2:
        raise SettingsError(f"cannot rehearse the pair {pair}", "the survey does not know its two nodes", "survey anew")
    return found[0], found[1]


# ------------------------------------------------------------------ every way in which a pair may be


def subjects(survey: Survey, pair: str) -> tuple[Subject, ...]:
    """One if everything that decides is known; else all ways of what is not."""
    first, second = nodes(survey, pair)
    preferred = survey.value(f"pair.{pair}.preferred")
    order = ((first, second), (second, first))
    orders = [each for each in order if preferred in (None, each[0])]
    arbiters = _ways(survey.value("arbiter.path"))
    known = {node: survey.value(f"fence.{node}.path") for node in (first, second)}
    fences = [
        {node: way if value is None else _path(value) for node, value in known.items()}
        for way in (_ways(None) if None in known.values() else _ways(()))
    ]
    ports: dict[str, Mapping[str, str]] = {}
    peers: dict[str, tuple[str, ...] | None] = {}
    for switch in switches(survey):
        above = f"switch.{switch}.port."
        ports[switch] = {
            key.removeprefix(above): str(f.value) for key, f in survey.facts.items() if key.startswith(above)
        }
        told = survey.value(f"switch.{switch}.peers")
        peers[switch] = told if isinstance(told, tuple) else None
    return tuple(
        Subject(pair, a, b, surroundings(survey, pair, a, b), arbiter, fence, ports, peers)
        for (a, b), arbiter, fence in product(orders, arbiters, fences)
    )


def _ways(value: Value | None) -> tuple[Way, ...]:
    return UNSURE if value is None else (_path(value),)


def _path(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def surroundings(survey: Survey, pair: str, a: str, b: str) -> Surroundings:
    """The pair's own timers and gates; where one is UNKNOWN, the worst."""
    pings = [_seconds(survey, key) for key in _drbd(survey, pair, "ping_s")]
    return Surroundings(
        limits=limits(survey),
        token_s=float(_seconds(survey, f"pair.{pair}.token_s")),
        consensus_s=float(_seconds(survey, f"pair.{pair}.consensus_s")),
        ping_s=max((float(each) for each in pings), default=float(WORST["ping_s"][0])),
        wait_s=(_patience(survey, a), _patience(survey, b)),
        delay_s=(_finite(survey, f"fence.{a}.delay_s"), _finite(survey, f"fence.{b}.delay_s")),
        horizon_s=(_horizon(survey, a), _horizon(survey, b)),
        gates=(_gate(survey, pair, a), _gate(survey, pair, b)),
    )


def limits(survey: Survey) -> dict[str, float | Literal["never"]]:
    """The guard's own limits as its policy names them. They are never UNKNOWN: settings that lack one do not load."""
    found: dict[str, float | Literal["never"]] = {}
    for each in fields(Policy):
        value = survey.value(f"limits.{each.name.removesuffix('_s')}")
        if value == NEVER:
            found[each.name] = "never"
        elif isinstance(value, int | float):
            found[each.name] = float(value)
    if "settle_s" not in found:
        raise SettingsError("cannot rehearse with this survey", "it has no limits.settle", "survey the node anew")
    return found


def _seconds(survey: Survey, key: str) -> float | str:
    value = survey.value(key)
    if isinstance(value, int | float) or value == UNBOUNDED:
        return value
    return WORST[key.rpartition(".")[2]][0]


def _finite(survey: Survey, key: str) -> float:
    found = _seconds(survey, key)
    return found if isinstance(found, int | float) else LONG_S


LONG_S = 3600.0  # "unbounded" patience: longer than any round of a rehearsal


def _patience(survey: Survey, node: str) -> float:
    """How long an agent that shoots `node` may ask: until it ends by itself, or until the cluster kills it."""
    return min(_finite(survey, f"fence.{node}.{word}") for word in ("wait_s", "off_timeout_s"))


def _horizon(survey: Survey, node: str) -> float | Literal["unbounded"]:
    found = _seconds(survey, f"fence.{node}.horizon_s")
    return float(found) if isinstance(found, int | float) else "unbounded"


def _gate(survey: Survey, pair: str, node: str) -> Gate:
    """The worst of its resources: the first that is not proven closed."""
    gates = []
    for resource in _path(survey.value(f"pair.{pair}.resources") or ()):
        said = {
            word: survey.value(f"node.{node}.gate.{resource}.{word}")
            for word in ("protocol", "fencing", "handler_ours", "on_congestion")
        }
        gates.append(Gate.model_validate(said))
    return next((each for each in gates if each.facts().closed() is not True), gates[0] if gates else Gate())


def _drbd(survey: Survey, pair: str, word: str) -> list[str]:
    return [f"pair.{pair}.drbd.{name}.{word}" for name in _path(survey.value(f"pair.{pair}.resources") or ())]


# ------------------------------------------------------------------ what was guessed


def guesses(survey: Survey, pair: str) -> tuple[Guess, ...]:
    """Every UNKNOWN fact of this pair and what was done about it, in the order of the keys."""
    return tuple(_guess(survey, pair, key) for key in sorted(_needed(survey, pair)) if survey.value(key) is None)


def _needed(survey: Survey, pair: str) -> Iterator[str]:
    first, second = nodes(survey, pair)
    yield from (f"pair.{pair}.{word}" for word in ("preferred", "token_s", "consensus_s", "stonith_timeout_s"))
    for word in ("ping_s", "timeout_s", "connect_s"):
        yield from _drbd(survey, pair, word)
    for node in (first, second):
        for word in ("delegate", "timeout_s", "horizon_s", "wait_s", "off_timeout_s", "delay_s", "path"):
            yield f"fence.{node}.{word}"
        for resource in _path(survey.value(f"pair.{pair}.resources") or ()):
            for word in ("protocol", "fencing", "handler_ours", "on_congestion"):
                yield f"node.{node}.gate.{resource}.{word}"
    yield "arbiter.path"
    yield from (f"switch.{name}.peers" for name in switches(survey))
    ports = names(survey, r"switch\.(.+?)\.port\..+")
    owners = {str(survey.value(key)) for key in survey.facts if ".port." in key}
    if not ports or not owners & {first, second}:
        yield f"pair.{pair}.ports"


def _guess(survey: Survey, pair: str, key: str) -> Guess:
    fact = survey.facts.get(key)
    why = fact.why if fact is not None and fact.why else "nobody looked"
    last = key.rpartition(".")[2]
    if last == "path":
        return Guess(
            key, why, ("past whatever is changed", "across it"), "shots and claims pass, or wait and come late"
        )
    if last == "preferred":
        return Guess(key, why, nodes(survey, pair), "each node once")
    if last == "peers":
        return Guess(key, why, ("any other switch", "none that takes over"), "a freeze spreads, and nothing eases it")
    if last == "ports":
        return Guess(key, "no switch of the survey has a port of it", ("across every switch",), "it may cross any")
    if ".gate." in key:
        return Guess(key, why, ("unproven",), "a gate that is not proven permits nothing")
    if last in WORST:
        value, because = WORST[last]
        return Guess(key, why, (f"{value:g} s" if isinstance(value, float) else value,), because)
    if last == "stonith_timeout_s":
        return Guess(key, why, (), "the patience of each agent is surveyed and played: fence.*.wait_s, off_timeout_s")
    return Guess(key, why, (), "recorded only: the modelled world has no place for it")
