"""Faults of who takes part: members that do not exist, or that say they are somebody else."""

from __future__ import annotations

from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guard.core.instant import NS_PER_S, Instant
from guard.core.messages import ARBITER, Ask
from guard.rehearsal.checkers import Violation
from guard.rehearsal.faulty import Registry, Undo
from guard.rehearsal.world import World
from guard.wire import Envelope, Keyring, Opener, Signer

fault = Registry()

SITE = "rehearsed"
WAVES = 50
PARTIES = ("node-a", "node-b", ARBITER)  # as parties are written on the bus
ASK = Ask("0" * 32, "node-a", "fence", True)


@fault("members")
def phantom_members(
    world: World, rng: Random, *, count: int = 41_000, forged: float = 0.01, over_s: float = 120.0
) -> Undo:
    """Target, 2018: members that do not exist speak, in waves; the share `forged` of them under a real member's name.

    Every envelope goes through the shipped `guard.wire.Opener` of the party it is for; one that is believed ends the
    run.
    """
    keyring = Keyring({party: _key(rng).public_key() for party in PARTIES})
    openers = {party: Opener(party, SITE, keyring, pair=world.name) for party in PARTIES}
    sealed = {
        (one, to): _sealed(Pen(world, rng), world.name, _key(rng), one, to)
        for one in (*PARTIES, PHANTOM)
        for to in PARTIES
    }
    over: list[bool] = []
    each, rest = divmod(int(count), WAVES)

    def wave(left: int) -> None:
        if over:
            return
        for _ in range(each + (left <= rest)):
            to = rng.choice(PARTIES)
            if rng.random() < forged:
                letter = sealed[rng.choice(PARTIES), to]
            else:
                letter = sealed[PHANTOM, to].replace(PHANTOM.encode(), b"m%010x" % rng.getrandbits(40))
            if isinstance(openers[to].open(letter), Envelope):
                raise Violation("S4", f"{to} believes a member that does not exist")
            world.counts["phantoms refused"] += 1
        if left > 1:
            world.at(over_s / WAVES, lambda: wave(left - 1))

    wave(WAVES)
    return lambda: over.append(True)


PHANTOM = "nobody"


class Pen:
    """`guard.ports.Clock` of whoever signs here: the world's own time and the fault's own randomness."""

    def __init__(self, world: World, rng: Random) -> None:
        self._world, self._rng = world, rng

    def now(self) -> Instant:
        return Instant(self._world.now)

    def wall(self) -> float:
        return self._world.now / NS_PER_S

    def boot_id(self) -> str:
        return "boot-of-nobody"

    async def sleep(self, seconds: float) -> None:
        """Signing waits for nothing, and in this world no time passes by itself."""

    def nonce(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"

    def jitter(self, low: float, high: float) -> float:
        return self._rng.uniform(low, high)


def _key(rng: Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))


def _sealed(pen: Pen, pair: str, key: Ed25519PrivateKey, sender: str, to: str) -> bytes:
    """What the shipped signer makes of a question, with a key that nobody knows."""
    return Signer(sender, SITE, key, pen, pair=pair).seal(to, ASK)
