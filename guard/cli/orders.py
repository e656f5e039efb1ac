"""Orders to this node's guard: `verdict` (a dry run), `hold` and `release`. The guard decides, this only asks.

What is reported as done was read back: `hold` ends with 0 only when the status shows *held*, `release` only when it
shows no hold.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from guard.cli.options import (
    DENY,
    DURATION,
    GO,
    HOLDING,
    PARTIAL,
    UNVERIFIED,
    WAIT,
    Conflict,
    WrongScope,
    answer,
    command,
)
from guard.errors import PairguardError, Refused, Unavailable

if TYPE_CHECKING:
    from guard.cli.wiring import Loaded
    from guard.settings import GuardSettings

POLL_S = 0.5  # how often the status is read while waiting; the guard's own tick is 0.1 s
RETRY_AFTER_S = 5.0  # what `retry_after_s` says where the guard names no time
NOBODY = frozenset({"arbiter-silent", "no-answer"})  # reasons of the guard: nobody answers
LATER = frozenset(  # reasons that end by themselves or by an order
    {"inhibited", "peer-alive", "holding", "storm", "settling", "closing", "yielding", "offer-passed", "busy"}
    | {"cold-wait", "needs-yield", "stale-offer", "claimed"}
)


def own_guard(loaded: Loaded, what: str, again: str, pairs: Sequence[str] = ()) -> GuardSettings:
    """The settings of this node's guard, if this is a node and the pairs named are its own.

    `again`: the command to give on the right node, which stands in the refusal.
    """
    if loaded.guard is None:
        raise WrongScope(f"cannot {what} here", "this machine has no guard", f"on a node of the pair: {again}")
    strangers = [name for name in pairs if name != loaded.guard.pair.name]
    if strangers:
        own, named = loaded.guard.pair, ", ".join(strangers)
        why = f"this node ({own.node}) belongs to the pair {own.name} and orders for no other"
        raise WrongScope(f"cannot {what} {named}", why, f"on a node of {strangers[0]}: {again} {strangers[0]}")
    return loaded.guard


async def _row(guard: GuardSettings) -> Mapping[str, Any] | PairguardError:
    """This pair's row of the status, or why there is none."""
    from guard.cli import wiring

    found = await wiring.bounded(wiring.show(guard.paths.run, "status"), wiring.READ_S_MAX + 1.0, "the guard")
    if isinstance(found, PairguardError):
        return found
    rows: list[Mapping[str, Any]] = [each for each in found.get("pairs", ()) if each.get("pair") == guard.pair.name]
    return rows[0] if rows else Unavailable("cannot read the guard's status", f"it has no row for {guard.pair.name}")


async def _until(
    guard: GuardSettings, wanted: Callable[[Mapping[str, Any]], bool], wait_s: float
) -> tuple[bool, Mapping[str, Any] | PairguardError]:
    """Read the status until `wanted` holds or `wait_s` seconds have passed; at least once."""
    from guard.cli import wiring
    from guard.core.instant import elapsed_s

    clock = wiring.clock()
    begun = clock.now()
    while True:
        row = await _row(guard)
        if not isinstance(row, PairguardError) and wanted(row):
            return True, row
        if elapsed_s(begun, clock.now()) >= wait_s:
            return False, row
        await clock.sleep(POLL_S)


# ------------------------------------------------------------------ verdict


@command(name="verdict")
@click.option("--target", required=True, metavar="NODE", help="The node that would be fenced or gone without.")
@click.option(
    "--purpose", type=click.Choice(["fence", "alone"]), default="fence", help="What the claim would be for (fence)."
)
def verdict(target: str, purpose: str, as_json: bool, config: str | None) -> None:
    """A dry run: would a claim against NODE be granted now, and why or why not?

    Asks the arbiter and the peer, writes nothing. Exit codes: 0 yes, 80 wait,
    81 no, 84 NODE is not the peer of this node, 85 nobody answers.
    """
    from guard.cli import wiring

    guard = own_guard(wiring.load(config), "judge", f"pairguard verdict --target {target}")
    _only_the_peer(guard, target)
    data, code = wiring.do(_judged(guard, target, purpose))
    answer(data, _verdict_text(data), code, as_json=as_json)


def _only_the_peer(guard: GuardSettings, target: str) -> None:
    """`WrongScope` for any other target: a guard fences its peer and nobody else."""
    pair = guard.pair
    if target == pair.peer:
        return
    if target == pair.node:
        why = f"it is this very node: only its peer {pair.peer} can claim against it"
        raise WrongScope(f"cannot judge {target}", why, f"on {pair.peer}: pairguard verdict --target {target}")
    why = f"it is no node of the pair {pair.name}: from {pair.node} only {pair.peer} can be the target"
    raise WrongScope(f"cannot judge {target}", why, f"pairguard verdict --target {pair.peer}")


async def _judged(guard: GuardSettings, target: str, purpose: str) -> tuple[dict[str, Any], int]:
    from guard.cli import wiring

    said = await wiring.order(guard.paths.run, "verdict", {"target": target, "purpose": purpose})
    row = await _row(guard)
    register = None if isinstance(row, PairguardError) else row.get("register")
    winner = (register or {}).get("winner")
    judged: Mapping[str, Any] = said.get("data") or {}
    reason, text = str(said.get("outcome")), str(said.get("text"))
    may = may_now(reason, judged)
    if reason == "living-target":
        text = (
            f"{target} answers: a living target is never fenced without its yield (the row, for going on alone: {text})"
        )
    if winner is not None:
        text += f"; the register has a winner already: {winner}, era {register['era'] if register else '?'}"
    data: dict[str, Any] = {
        "schema": "pairguard.verdict/1",
        "pair": said.get("pair", guard.pair.name),
        "candidate": said.get("candidate", guard.pair.node),
        "target": said.get("target", target),
        "verdict": judged.get("verdict"),
        "row": judged.get("row"),
        "may": may or "no",
        "reason": reason,
        "text": text,
        "evidence": {"purpose": purpose, "register": register, **_without(judged, "verdict", "row", "reason", "text")},
    }
    data["next"] = at_the_arbiter(guard) if reason in NOBODY else NEXT[data["may"]]
    if may == "wait":
        data["retry_after_s"] = RETRY_AFTER_S
    return data, {"yes": GO, "wait": WAIT, "no": DENY, None: UNVERIFIED}[may]


def may_now(reason: str, judged: Mapping[str, Any]) -> str | None:
    """`yes`, `wait` or `no` from the guard's reason and, where one was reached, its verdict. None: nobody answers.

    Only a verdict that the guard itself would commit (`next`) or a win that stands is `yes`.
    """
    if reason in NOBODY:
        return None
    if reason == "winner-us":
        return "yes"
    if judged.get("next") == "commit" and judged.get("reason") == reason:
        return "yes"
    if reason in LATER or (judged.get("next") == "want-yield" and judged.get("reason") == reason):
        return "wait"
    return "no"


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _verdict_text(data: Mapping[str, Any]) -> str:
    from guard.cli.render import wrapped

    row = f"{data['verdict']} ({data['row']})" if data["verdict"] else "no verdict was reached"
    purpose = data["evidence"]["purpose"]
    lines = [
        f"{data['pair']}: may {data['candidate']} {_deed(purpose, data['target'])}? {data['may'].upper()}",
        f"  verdict: {row}",
        f"  why:     {data['reason']}: {data['text']}",
        f"  next:    {data['next']}",
    ]
    return "\n".join(wrapped(line, hang=11) for line in lines)


def _deed(purpose: str, target: str) -> str:
    return f"fence {target}" if purpose == "fence" else f"go on without {target}"


READ_BACK_S = 60.0  # a lease is counted down while `hold` is under way and waits, in steps of 10 s


def at_the_arbiter(guard: GuardSettings) -> str:
    """What to look at where the arbiter is silent. The broker runs beside it (configs/mosquitto)."""
    where = "" if guard.bus.host in ("127.0.0.1", "::1") else f" ({guard.bus.host})"
    return f"on the arbiter's machine{where}: systemctl status pairguard-witness"


NEXT = {
    "yes": "nothing: this was a dry run, the cluster asks by itself when it needs to",
    "wait": "pairguard status",
    "no": "pairguard explain --evidence",
}


# ------------------------------------------------------------------ hold


@command(name="hold", key=True)
@click.argument("pairs", nargs=-1, metavar="[PAIR]...")
@click.option("--for", "lease", type=DURATION, required=True, metavar="DURATION", help="The lease, such as 30m.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in status and journal.")
@click.option("--wait", "wait_s", type=DURATION, default=30.0, metavar="DURATION", help="How long to wait (30s).")
def hold(
    pairs: tuple[str, ...],
    lease: float,
    reason: str,
    wait_s: float,
    key: str | None,
    as_json: bool,
    config: str | None,
) -> None:
    """Hold the pair by hand: nothing claims, nothing shoots, the cluster is in maintenance.

    A lease that runs out never re-arms the pair by itself: it stays held until
    a release is proven safe. The same order again is the same hold: it extends
    nothing. Exit codes: 0 held and read back on both nodes, 82 this key holds
    for another reason; 83 not (yet) held: what is braked stays braked; 84 no
    such pair; 85 no guard answers.
    """
    from guard.cli import wiring
    from guard.cli.values import duration

    again = f"pairguard hold --for {duration(lease)} --reason {shlex.quote(reason)}"
    guard = own_guard(wiring.load(config), "hold", again, pairs)
    if not reason.strip():
        raise click.BadParameter("say why", param_hint="--reason")
    if lease <= 0:
        raise click.BadParameter("a lease is longer than nothing", param_hint="--for")
    data, code = wiring.do(_held(guard, lease, reason, key, wait_s))
    answer(data, _hold_text(data), code, as_json=as_json)


async def _held(
    guard: GuardSettings, lease_s: float, reason: str, key: str | None, wait_s: float
) -> tuple[dict[str, Any], int]:
    from guard.cli import wiring

    args: dict[str, Any] = {"lease_s": lease_s, "reason": reason} | ({"key": key} if key else {})
    said = await wiring.order(guard.paths.run, "hold", args)
    if said.get("outcome") == "conflict":
        raise Conflict(
            f"cannot hold with the key {said.get('key')}",
            str(said.get("text")),
            "take another --key; or end that hold: pairguard release",
        )
    in_force = said.get("data") or {}  # of a hold that stood already: its own lease and reason
    done, row = await _until(guard, held_on_both, wait_s)
    if not in_force and not isinstance(row, PairguardError):
        in_force = another(row, f"person:{said.get('key')}", lease_s - wait_s) or {}
    missing = [] if done else lacking(row)
    state = None if isinstance(row, PairguardError) else (row.get("hold") or {}).get("state")
    verified = {} if isinstance(row, PairguardError) else (row.get("hold") or {}).get("verified") or {}
    data = {
        "schema": "pairguard.hold/1",
        "pairs": [
            {
                "pair": guard.pair.name,
                "outcome": "held" if done else "not-held",
                "state": state,
                "verified": verified,
                "missing": missing,
                "key": said.get("key"),
                "lease_s": in_force.get("lease_s", lease_s),
                "reason": in_force.get("reason", reason),
                "stood_already": bool(in_force),
            }
        ],
    }
    return data, GO if done else PARTIAL


def another(row: Mapping[str, Any], name: str, lease_s: float) -> Mapping[str, Any] | None:
    """The hold that stands under this key, if it ends before `lease_s` is over: then it was opened at the other node a
    moment before ours, and both are one, with its lease."""
    own = next((each for each in _inhibits(row) if each.get("id") == name and not each.get("ended")), None)
    left_s = None if own is None else own.get("lease_s")
    return own if left_s is not None and left_s < lease_s - READ_BACK_S else None


def held_on_both(row: Mapping[str, Any]) -> bool:
    """*held*: the guard says so, and both nodes' own sides are verified (DESIGN.md section 6)."""
    hold_now = row.get("hold") or {}
    verified = hold_now.get("verified") or {}
    return hold_now.get("state") == "held" and len(verified) == 2 and all(v is True for v in verified.values())


def lacking(row: Mapping[str, Any] | PairguardError) -> list[str]:
    """What keeps the pair from being *held*, a sentence each; never empty."""
    if isinstance(row, PairguardError):
        return [f"the guard stopped answering: {row}"]
    hold_now, said = row.get("hold") or {}, []
    state = hold_now.get("state")
    if row.get("arbiter") == "silent":
        said.append("the arbiter does not answer, so it has not stored the inhibit")
    if state == "none":
        said.append("this node shows no hold at all")
    if state == "braked":
        said.append("the cluster-wide maintenance-mode does not read true on this node")
    if state in ("settling", "releasing"):
        said.append(f"the hold is ending already ({state})")
    unproven = [node for node, ok in (hold_now.get("verified") or {}).items() if ok is not True]
    for node in unproven:
        said.append(f"{node} has not proven: maintenance read back, no right to fence, no shot, a harmless forecast")
    if row.get("arbiter") != "silent":  # else nobody here can tell who answers
        silent = [node for node, facts in (row.get("nodes") or {}).items() if facts.get("guard") not in ("up", None)]
        said += [f"the guard of {node} does not answer" for node in silent]
    return said or [f"the state is {state}, not held"]


def _hold_text(data: Mapping[str, Any]) -> str:
    from guard.cli.render import span, table, wrapped

    rows = [(p["pair"], p["outcome"], p["state"], span(p["lease_s"]), p["key"]) for p in data["pairs"]]
    lines = [table(("PAIR", "OUTCOME", "STATE", "LEASE", "KEY"), rows)]
    for pair in data["pairs"]:
        if pair["stood_already"]:
            text = f"this hold stood already: asking again does not extend its lease, {span(pair['lease_s'])} are left"
            lines.append(wrapped(text, indent="  ", hang=2))
            lines.append(wrapped("for more time hold anew beside it, with a --key of its own", indent="  ", hang=2))
        lines += [wrapped(f"missing: {each}", indent="  ", hang=2) for each in pair["missing"]]
        if pair["missing"]:
            lines.append(
                wrapped("next: pairguard status; what is braked stays so until: pairguard release", indent="  ")
            )
    return "\n".join(lines)


# ------------------------------------------------------------------ release


@command(name="release", key=True)
@click.argument("pairs", nargs=-1, metavar="[PAIR]...")
@click.option("--wait", "wait_s", type=DURATION, default=30.0, metavar="DURATION", help="How long to wait (30s).")
def release(pairs: tuple[str, ...], wait_s: float, key: str | None, as_json: bool, config: str | None) -> None:
    """End holds by hand, if resuming is proven to fence nobody and stop nothing.

    Exit codes: 0 released (or nothing was held), 84 no such pair, 85 no guard
    answers, 86 refused: still held.
    """
    from guard.cli import wiring

    guard = own_guard(wiring.load(config), "release", "pairguard release", pairs)
    data, code = wiring.do(_released(guard, key, wait_s))
    answer(data, _release_text(data), code, as_json=as_json)


async def _released(guard: GuardSettings, key: str | None, wait_s: float) -> tuple[dict[str, Any], int]:
    from guard.cli import wiring

    before = await _row(guard)
    if isinstance(before, PairguardError):
        raise before
    release = partial(_release_data, guard, key)
    if armed(before):
        return release("not-held", "none", "nothing-held", "no inhibit stands"), GO
    try:
        said = await wiring.order(guard.paths.run, "release", {"key": key} if key else {})
    except Refused as error:
        state, text = (before.get("hold") or {}).get("state"), f"{error.what}: {error.why}"
        return release("holding", state, "refused", text, following=error.next_step), HOLDING
    if said.get("outcome") not in ("releasing", "released"):
        reason, text = str(said.get("outcome")), str(said.get("text"))
        row = await _row(guard)  # a refused release may have ended persons' holds all the same
        over = () if isinstance(row, PairguardError) else ended(before, row)
        return release("holding", (before.get("hold") or {}).get("state"), reason, text, over), HOLDING
    done, row = await _until(guard, armed, wait_s)
    if isinstance(row, PairguardError):
        return release("holding", None, "unverified", f"cannot read it back: {row}"), HOLDING
    over = ended(before, row)
    if done:
        return release("released", "none", "released", "read back: no hold", over), GO
    now = row.get("hold") or {}
    why = now.get("release_refused") or {"reason": "releasing", "text": "the release is under way and not yet done"}
    return release("holding", now.get("state"), why["reason"], why["text"], over), HOLDING


def ended(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inhibits that stood before and stand no more: gone, or marked as ended. Owner, reason and since of each."""
    standing = {each.get("id") for each in _inhibits(after) if not each.get("ended")}
    return [
        {name: each.get(name) for name in ("owner", "reason", "since")}
        for each in _inhibits(before)
        if not each.get("ended") and each.get("id") not in standing
    ]


def _inhibits(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (row.get("hold") or {}).get("inhibits") or ()


def armed(row: Mapping[str, Any]) -> bool:
    """Nothing is held: no state and no inhibit."""
    now = row.get("hold") or {}
    return now.get("state") == "none" and not now.get("inhibits")


def _release_data(
    guard: GuardSettings,
    key: str | None,
    outcome: str,
    state: object,
    reason: str,
    text: str,
    over: Sequence[Mapping[str, Any]] = (),
    *,
    following: str = "",
) -> dict[str, Any]:
    row = {"pair": guard.pair.name, "outcome": outcome, "state": state, "reason": reason, "text": text, "key": key}
    following = following or _release_next(guard).get(reason, "pairguard status")
    return {"schema": "pairguard.release/1", "pairs": [{**row, "next": following, "ended": list(over)}]}


def _release_next(guard: GuardSettings) -> Mapping[str, str]:
    return {
        "released": "pairguard status",
        "nothing-held": "pairguard status",
        "not-whole": "mend the pair, then again: pairguard release",
        "inhibited": "wait for what holds it to end, or end that; pairguard status names it",
        "not-quiet": "wait until the network has been quiet long enough, then: pairguard release",
        "peer-not-quiet": f"wait until the network of {guard.pair.peer} has been quiet too, then: pairguard release",
        "shot-pending": "stonith_admin --history '*' --verbose",
        "forecast": "crm_simulate -L -S shows what the cluster would do",
        "peer-forecast": f"on {guard.pair.peer}: crm_simulate -L -S",
        "arbiter-silent": at_the_arbiter(guard),
    }


def _release_text(data: Mapping[str, Any]) -> str:
    from guard.cli.render import table, when, wrapped

    rows = [(p["pair"], p["outcome"], p["state"], p["reason"]) for p in data["pairs"]]
    lines = [table(("PAIR", "OUTCOME", "STATE", "REASON"), rows)]
    for pair in data["pairs"]:
        for each in pair["ended"]:
            told = f"ended: the hold of {each['owner']} since {when(each['since'])}: {each['reason']}"
            lines.append(wrapped(told, indent="  ", hang=2))
        if pair["outcome"] == "holding":
            lines.append(wrapped(f"still held: {pair['text']}", indent="  ", hang=2))
            lines.append(wrapped(f"next: {pair['next']}", indent="  ", hang=2))
    return "\n".join(lines)
