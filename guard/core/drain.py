"""What a shot may still do after its agent has ended, and what waits for that (DESIGN.md section 4, Shot).

1. A shot is drained now if nothing was sent, or if its agent saw the effect, ended by itself with nothing left, and
   speaks TCP, each command answered before the next. Else H(device) after its end. A clean end alone shows only that
   its sender is gone: a datagram is repeated until one copy is answered, and the first may lie in the frozen network;
   a command whose effect the agent did not see may yet be carried out.
2. A device without a bound was accepted by name, with what that means: a shot that its agent saw succeed counts as
   drained after `ACCEPTED_S`, any other one never by waiting; then a person is paged.
3. A peer that was shot to be rebooted is switched on once nothing can switch it off again, if it has read off all the
   while and no person holds the pair.
"""

from __future__ import annotations

from dataclasses import replace

from guard.core.evidence import Power
from guard.core.instant import Instant, after
from guard.core.step import Intent, PowerOn, ReadPower, ShotEnded
from guard.core.turn import Turn, inhibits, undrained

ACCEPTED_S = 180.0  # as for SNMPv3 (fencing/stock.py); nothing bounds it but the word of who set accept_unbounded
SWITCH_ON_S = 30.0  # between two readings of a peer that is to be switched on
ON_TRIES = 3  # it is switched on until it reads on: one order may be lost, and a journal that fails lets none leave
UNREAD_MAX = 20  # readings in a row that failed, 10 minutes: then a person switches the node on


def ended(turn: Turn, intent: Intent, event: ShotEnded) -> None:
    """The agent of this shot has ended, or was never started."""
    saw_effect = event.clean and event.exit_code == 0
    drained: Instant | None
    if not event.started or (saw_effect and turn.guard.stream):
        drained = turn.now
    elif intent.horizon_s is not None:
        drained = after(turn.now, intent.horizon_s)
    else:
        drained = after(turn.now, ACCEPTED_S) if saw_effect else None
    intents = turn.guard.memory.intents
    turn.remember(intents=tuple(replace(i, drained=drained) if i.id == intent.id else i for i in intents))
    turn.put(stuck=turn.guard.stuck - {intent.id})
    if not turn.guard.stuck:
        turn.unpage("shot-stuck")


def tell(turn: Turn) -> None:
    """Page for as long as a shot stands that no waiting drains."""
    guard = turn.guard
    never = [i for i in guard.memory.intents if i.spawned and i.drained is None and i.horizon_s is None]
    ended_so = [i for i in never if i.id not in guard.stuck and all(job.intent != i.id for job in guard.agents)]
    if not ended_so:
        turn.unpage("shot-undrained")
        return
    text = (
        f"a shot at {guard.peer} did not end well, and what its fence device was sent may act at any time later "
        "(accept_unbounded): this era stays open, no hold reads held, and no reboot is completed. Cut the power of "
        "that device, so that nothing waits in it, bring the pair up whole, and with pairguardd stopped move its "
        "journal aside"
    )
    turn.page_once("shot-undrained", text, shots=sorted(i.id for i in ended_so))


# ------------------------------------------------------------------ the second half of a reboot


def switch_on(turn: Turn) -> None:
    """Read the power of a peer that waits: on, it is somebody else's by now; off and drained, it is time."""
    guard = turn.guard
    if not guard.memory.owes_on or guard.agents:
        return
    if any(i.kind in ("person", "change") and not i.ended for i in inhibits(guard)):
        _given_up(turn, "a person holds the pair and may be at work on it")
    elif guard.unread_power >= UNREAD_MAX:
        _given_up(turn, "its fence device cannot be read", page=True)
    elif turn.every("switch-on", SWITCH_ON_S):
        token = turn.nonce()
        turn.put(switching=token)
        turn.do(ReadPower(token, guard.peer, 0.0))


def read(turn: Turn, power: Power) -> None:
    """What the peer's device says of a peer that waits to be switched on."""
    turn.put(switching=None, unread_power=turn.guard.unread_power + 1 if power is Power.UNKNOWN else 0)
    guard = turn.guard
    if not guard.memory.owes_on or guard.agents or power is Power.UNKNOWN:
        return
    if power is Power.ON and guard.switched_on:
        turn.remember(owes_on=False)
        turn.put(switched_on=0)
        turn.note("switched-on", f"{guard.peer} was shot to be rebooted and is on again")
    elif power is Power.ON:
        _given_up(turn, "somebody switched it on")
    elif guard.switched_on >= ON_TRIES:
        _given_up(turn, "it stays off", page=True)
    elif not undrained(guard, turn.now):
        turn.put(switched_on=guard.switched_on + 1)
        turn.do(PowerOn(guard.peer))


def _given_up(turn: Turn, why: str, *, page: bool = False) -> None:
    turn.remember(owes_on=False)
    turn.put(switching=None, unread_power=0, switched_on=0)
    text = f"{turn.guard.peer} is not switched on again after its reboot: {why}"
    if page:
        turn.page_once("not-switched-on", f"{text}. Switch it on by hand")
    else:
        turn.note("not-switched-on", text)


# ------------------------------------------------------------------ start


def forgotten_shots(turn: Turn, horizon_s: float | None) -> None:
    """A guard that lost its memory, or the last of it, may have shot before: undrained for H from now."""
    boot, drained = turn.guard.boot_id, after(turn.now, ACCEPTED_S if horizon_s is None else horizon_s)
    shot = Intent("before-memory", 0, 0, turn.guard.peer, boot, turn.now, horizon_s, spawned=True, drained=drained)
    turn.remember(intents=(*(i for i in turn.guard.memory.intents if i.id != shot.id), shot))


def drain_at_start(turn: Turn, horizon_s: float | None, stuck: frozenset[str]) -> None:
    """Guard start: whatever was left behind has been killed by now; every intent without a drain gets now + H.

    But those of `stuck` live: their drain begins when they have ended.
    """
    intents = _stuck(turn, horizon_s, stuck)
    for intent in turn.guard.memory.intents:
        if intent.id in stuck:
            continue
        horizon = intent.horizon_s if intent.horizon_s is not None else horizon_s
        if not intent.spawned:
            continue  # never spawned: the fork came after `spawned` was durable
        same_boot = intent.boot_id == turn.guard.boot_id
        if intent.drained is not None and same_boot:
            intents.append(intent)
            continue
        drained = None if horizon is None else after(turn.now, horizon)
        intents.append(replace(intent, boot_id=turn.guard.boot_id, drained=drained))
    if tuple(intents) != turn.guard.memory.intents:
        turn.remember(intents=tuple(intents))


def _stuck(turn: Turn, horizon_s: float | None, stuck: frozenset[str]) -> list[Intent]:
    """What lives of earlier shots, undrained, also where this memory does not know the shot."""
    guard = turn.guard
    if not stuck:
        return []
    turn.put(stuck=stuck)
    text = (
        f"a process of an earlier shot at {guard.peer} cannot be killed (state D?): this era stays open until it ends; "
        "look at dmesg, a reboot of this node ends it"
    )
    turn.page_once("shot-stuck", text, shots=sorted(stuck))
    memory, intents = guard.memory, []
    known = {i.id: i for i in memory.intents}
    for shot in sorted(stuck):
        new = Intent(shot, memory.era, memory.version, guard.peer, guard.boot_id, turn.now, horizon_s)
        intents.append(replace(known.get(shot) or new, boot_id=guard.boot_id, spawned=True, drained=None))
    return intents
