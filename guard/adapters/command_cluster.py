"""A cluster behind one command of the operator's own: `guard.ports.Cluster` for stacks that are not Pacemaker.

The command is started once for each question as `COMMAND VERB`, gets one JSON object on standard input, prints one on
standard output and exits with 0. VERB: view, set-hold, clear-hold, forecast, pending, purge, bar. Both objects carry
`"schema": "pairguard.cluster-command/1"`. An example that answers the whole contract: configs/examples/cluster-command.

| verb | asked beside schema, node, peer | answers beside schema |
|---|---|---|
| view | | controller, peer_controller ("up", "down", "?"), maintenance, ours, persons_maintenance, managed, failed_stop, unclean, pending, active_here |
| set-hold, clear-hold | hold_id | done, why |
| forecast | lost, without_hold | fences, stops, error |
| pending | | pending: list of {target, action, client, origin, state} |
| purge | shot: one of those | done, why |
| bar | target, on | done, why |

1. What an answer leaves out, or says null, is UNKNOWN or None. A key or a word that is not in the contract voids it.
2. Another exit code, no answer in time, or no JSON: nothing is known and nothing was done.
3. A forecast is only as good as the command: unlike Pacemaker's, it has no test of its own here.
"""  # noqa: E501 - a row of the table is a line

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from guard.adapters.process import Runner
from guard.core.evidence import SHOTS_UNREAD, ClusterView, Forecast, PendingShot, Up
from guard.core.instant import Instant
from guard.errors import PairguardError, Unavailable, Unreadable
from guard.ports import Clock

SCHEMA = "pairguard.cluster-command/1"
VIEW_KEYS = frozenset(
    {"controller", "peer_controller", "maintenance", "ours", "persons_maintenance", "managed", "failed_stop"}
    | {"unclean", "pending", "active_here"}
)
DONE_KEYS = frozenset({"done", "why"})
FORECAST_KEYS = frozenset({"fences", "stops", "error"})
SHOT_KEYS = frozenset({"target", "action", "client", "origin", "state"})
SHOT_STATES = frozenset({"pending", "success", "failed"})
OUTPUT_BYTES_MAX = 256 << 10  # a pair's view is a few hundred bytes

T = TypeVar("T", str, int, bool)


class CommandCluster:
    """`guard.ports.Cluster`. `command` is an executable file; it is never run through a shell.

    `trouble` says why the last answer was no good, for people; None = nothing was wrong.
    """

    def __init__(
        self, command: Path, node: str, peer: str, *, clock: Clock, run: Runner, deadline_s: float = 5.0
    ) -> None:
        self._command = command
        self._who = {"schema": SCHEMA, "node": node, "peer": peer}
        self._clock, self._run = clock, run
        self._deadline_s = deadline_s
        self.trouble: str | None = None

    async def view(self) -> ClusterView:
        """One sighting; never raises for the world."""
        at, self.trouble = self._clock.now(), None
        try:
            return view(await self._ask("view"), at)
        except PairguardError as error:
            self.trouble = str(error)
            return view(json.dumps({"schema": SCHEMA}), at)

    async def set_hold(self, hold_id: str) -> bool:
        return await self._do("set-hold", hold_id=hold_id)

    async def clear_hold(self, hold_id: str) -> bool:
        return await self._do("clear-hold", hold_id=hold_id)

    async def forecast(self, *, lost: str | None, without_hold: bool) -> Forecast:
        try:
            return forecast(await self._ask("forecast", lost=lost, without_hold=without_hold))
        except PairguardError as error:
            self.trouble = str(error)
            return Forecast(error=str(error))

    async def pending(self) -> Sequence[PendingShot]:
        """Raises `Unavailable` or `Unreadable`: then nobody knows."""
        answer = _answer(await self._ask("pending"), frozenset({"pending"}))
        shots = _shots(answer.get("pending"))
        if shots is None:
            raise Unreadable("cannot read the cluster command's answer", "pending is not told")
        return shots

    async def purge(self, shot: PendingShot) -> bool:
        """True only if the command says so and a question after it no longer lists the shot."""
        if shot == SHOTS_UNREAD:
            return False
        words = {key: getattr(shot, key) for key in sorted(SHOT_KEYS)}
        if not await self._do("purge", shot=words):
            return False
        try:
            return shot not in await self.pending()
        except PairguardError as error:
            self.trouble = str(error)
            return False

    def removed_default(self) -> bool:
        """True if the last `set_hold` took an explicit maintenance-mode=false out of the cluster's defaults."""
        return False

    async def restore_devices(self) -> bool:
        """A commanded stack undoes its own purge: the contract's `purge` leaves nothing behind."""
        return True

    async def bar(self, node: str, *, on: bool) -> bool:
        return await self._do("bar", target=node, on=on)

    async def _do(self, verb: str, **words: object) -> bool:
        try:
            answer = _answer(await self._ask(verb, **words), DONE_KEYS)
            done, why = _one(answer, "done", bool), _one(answer, "why", str)
        except PairguardError as error:
            self.trouble = str(error)
            return False
        self.trouble = None if done else why or f"the cluster command did not carry out {verb}"
        return done is True

    async def _ask(self, verb: str, **words: object) -> str:
        ran = await self._run(
            [str(self._command), verb],
            deadline_s=self._deadline_s,
            stdin=json.dumps(self._who | words).encode(),
            output_max=OUTPUT_BYTES_MAX,
        )
        if ran.code != 0:
            said = ran.err.strip().splitlines()
            raise Unavailable(f"the cluster command failed at {verb}", said[-1] if said else f"exit code {ran.code}")
        return ran.out


# ---------------------------------------------------------------- parsing


def view(text: str, at: Instant) -> ClusterView:
    """Parse an answer to `view`."""
    answer = _answer(text, VIEW_KEYS)
    persons, failed = _one(answer, "persons_maintenance", bool), _one(answer, "failed_stop", bool)
    managed = _one(answer, "managed", int)
    if managed is not None and managed < 0:
        raise Unreadable("cannot read the cluster command's answer", f"managed is {managed}")
    shots = _shots(answer.get("pending"))
    return ClusterView(
        at=at,
        controller=_up(answer, "controller"),
        peer_controller=_up(answer, "peer_controller"),
        maintenance=_one(answer, "maintenance", bool),
        ours=_one(answer, "ours", str),
        persons_maintenance=persons is not False,  # not told: not ours to touch
        managed=managed,
        failed_stop=failed is True,  # not told: no ground to offer a yield
        unclean=frozenset(_words(answer, "unclean")),
        pending=(SHOTS_UNREAD,) if shots is None else shots,
        active_here=_one(answer, "active_here", bool),
    )


def forecast(text: str) -> Forecast:
    """Parse an answer to `forecast`. Without both lists nothing was proven."""
    answer = _answer(text, FORECAST_KEYS)
    error = _one(answer, "error", str)
    if error is None and (answer.get("fences") is None or answer.get("stops") is None):
        error = "the cluster command did not say what it would fence and stop"
    if error is not None:
        return Forecast(error=error)
    return Forecast(frozenset(_words(answer, "fences")), tuple(_words(answer, "stops")))


def _answer(text: str, keys: frozenset[str]) -> Mapping[str, object]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("cannot read the cluster command's answer", str(error)) from error
    return _object(answer, keys | {"schema"}, SCHEMA)


def _object(value: object, keys: frozenset[str], schema: str | None = None) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Unreadable("cannot read the cluster command's answer", "not an object")
    if schema is not None and value.get("schema") != schema:
        raise Unreadable("cannot read the cluster command's answer", f"schema is not {schema}")
    unknown = sorted(str(key) for key in value.keys() - keys)
    if unknown:
        raise Unreadable("cannot read the cluster command's answer", f"unknown words: {', '.join(unknown)}")
    return value


def _one(answer: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    """A value of exactly this kind (true is no number here); None if it is left out."""
    value = answer.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or type(value) is not kind:
        raise Unreadable("cannot read the cluster command's answer", f"{key} is {value!r}")
    return value


def _up(answer: Mapping[str, object], key: str) -> Up:
    word = _one(answer, key, str)
    if word is None:
        return Up.UNKNOWN
    if word not in [up.value for up in Up]:
        raise Unreadable("cannot read the cluster command's answer", f"{key} is {word!r}")
    return Up(word)


def _words(answer: Mapping[str, object], key: str) -> Sequence[str]:
    value = answer.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise Unreadable("cannot read the cluster command's answer", f"{key} is {value!r}")
    return value


def _shots(value: object) -> tuple[PendingShot, ...] | None:
    """The shots that are not over; None if they are not told."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise Unreadable("cannot read the cluster command's answer", "pending is no list")
    found = []
    for item in value:
        words = {key: _one(_object(item, SHOT_KEYS), key, str) or "?" for key in SHOT_KEYS}
        if words["state"] not in SHOT_STATES:
            raise Unreadable("cannot read the cluster command's answer", f"state is {words['state']!r}")
        if words["state"] == "pending":
            found.append(PendingShot(**words))
    return tuple(found)
