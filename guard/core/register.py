"""The linearizable register of one pair, and the only ways in which it may change.

1. Within an era the winner is chosen at most once and never changes (S1, S3).
2. Every change raises the version; a change is refused at any other version than the one it was read at.
3. Only a close, a hand-back or a person ends an era.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from guard.core.messages import Basis, Purpose, RegisterView


@dataclass(frozen=True, slots=True)
class Register:
    """`used` names the purposes for which the winner was given a right in this era, sorted: what is stored must read
    back as it was written, and a set is written in another order by each process."""

    era: int
    winner: str | None
    used: tuple[Purpose, ...]
    basis: Basis | None
    version: int
    preferred: str

    @classmethod
    def made(cls, preferred: str) -> Register:
        """The register as `pairguard init` makes it."""
        return cls(era=1, winner=None, used=(), basis=None, version=1, preferred=preferred)

    def view(self, store_id: str) -> RegisterView:
        return RegisterView(store_id, self.era, self.winner, self.used, self.basis, self.version, self.preferred)


def commit(register: Register, *, version: int, winner: str, purpose: Purpose, basis: Basis) -> Register | None:
    """The register after `winner` won, or won again for one more purpose; None = refused."""
    if version != register.version:
        return None
    if register.winner is None:
        return replace(register, winner=winner, used=(purpose,), basis=basis, version=version + 1)
    if register.winner != winner:
        return None
    # Also a re-confirmation raises the version: a hand-back or a close that was sent before it then comes too late.
    used = tuple(sorted({*register.used, purpose}))
    return replace(register, used=used, version=version + 1)


def end_era(register: Register, *, version: int, by: str, hand_back: bool) -> Register | None:
    """{era+1, none}, written by the winner only; a person's win is never handed back. None = refused."""
    if version != register.version or register.winner != by:
        return None
    if hand_back and register.basis == "person":
        return None
    return replace(register, era=register.era + 1, winner=None, used=(), basis=None, version=version + 1)
