"""One walk of the model, played to the shipped arbiter: every answer and every register must be the model's.

The arbiter's clock stands still except for the gathering whose time comes, as the model's time is any time.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from desk import GENERATION, evidence, statement  # tests/core: how a good node speaks

from guard.core import arbiter
from guard.core.instant import Instant, after
from guard.core.messages import (
    Answer,
    Ask,
    AskNonce,
    Attest,
    Claim,
    Closed,
    CloseEra,
    Commit,
    Init,
    Message,
    NonceIs,
    Offer,
    Refused,
    Won,
)
from guard.core.pair import Pair, Site, drop
from guard.core.policy import Policy

NODES = ("fs1a", "fs1b")
PURPOSES = {1: "fence", 2: "alone"}
BASES = {0: "verdict", 1: "yield"}
SITE = Site("store-1")
NEWER = 0x1111_2222_3333_4444
INSTANT_S = 0.001
POLICY = Policy(corr_s=INSTANT_S, answer_s=2 * INSTANT_S, ask_s_min=INSTANT_S, yield_s=2.5 * INSTANT_S)
COME_S = 4 * INSTANT_S  # after this a gathering has waited for everything


class Differs(AssertionError):
    """Model and code do not agree."""


class Arbiter:
    """The shipped arbiter of one pair under the events of a walk. `counts`: how often what was compared."""

    def __init__(self) -> None:
        self.now = Instant(1_000_000_000_000)
        made = Init("i", (NODES[0], NODES[1]), NODES[0], "cell", "a person")
        self.pair: Pair = arbiter.made(made, "fs1", self.now, "boot-1")
        self.gate = [True, True]
        self.nonces: dict[tuple[int, int], str] = {}
        self.named: dict[str, str | None] = {}  # nonce -> the session its claim names
        self.offers: dict[int, int] = {}  # candidate -> version of its last offer
        self.commits: dict[int, tuple[str, int]] = {}
        self.counts: dict[str, int] = {}
        self.drawn = 0
        self.probed = 0
        self.beats()

    # ---- saying things

    def nonce(self) -> str:
        self.drawn += 1
        return f"n{self.drawn}"

    def hear(self, i: int, message: Message) -> list[Message]:
        self.pair, sends = arbiter.hear(self.pair, NODES[i], message, self.now, 0.0, SITE, POLICY)
        return [said for _, said in sends]

    def beats(self, *, member: bool = False, session: str | None = None) -> None:
        """Both guards are heard. `session`: whole, and naming it; `member`: one membership."""
        for i in (0, 1):
            self.now = Instant(self.now + 1)
            whole = session is not None
            said = statement(NODES[i], int(self.now), member=member, session=session, connected=whole, whole=whole)
            self.hear(i, said)

    def session(self) -> str | None:
        return self.pair.kept.session.name if self.pair.kept.session is not None else None

    def said(self, i: int, **more: Any) -> Any:
        era = self.pair.kept.register.era
        return evidence(NODES[i], session=self.session(), era=era, gate=self.gate[i], **more)

    # ---- the events of a walk

    def play(self, walk: list[list[str]]) -> None:
        """Raises `Differs`."""
        for n, (kind, *words) in enumerate(walk):
            before = self.pair.kept.register
            try:
                getattr(self, "on_" + kind.replace("-", "_"))(*(int(word) for word in words))
                if before != self.pair.kept.register and kind not in ("commit", "close", "handback"):
                    raise Differs(f"the register changed by {kind}: {before} -> {self.pair.kept.register}")
                self.probe()
            except Differs as error:
                story = "\n".join(" ".join(event) for event in walk[max(0, n - 12) : n + 1])
                raise Differs(f"{error}\nafter\n{story}\n{self.pair.kept.register}") from None
            self.counts[kind] = self.counts.get(kind, 0) + 1

    def on_gates(self, a: int, b: int) -> None:
        self.gate = [bool(a), bool(b)]

    def on_attest(self, primary: int) -> None:
        name = f"s{self.nonce()}"
        for i in (0, 1):
            role = "primary" if primary == i else "secondary"
            stated = evidence(
                NODES[i], session=name, era=self.pair.kept.register.era, gate=self.gate[i], role=role, age_hi_s=None
            )
            self.drawn += 1
            self.hear(i, Attest(self.drawn, stated))
        if self.session() != name:
            raise Differs("both ends testified to a session, and it is not attested")

    def on_say_claim(self, i: int, n: int) -> None:
        self.nonces[i, n] = self.nonce()
        self.named[self.nonces[i, n]] = self.session()

    def on_claim(self, i: int, n: int, p: int, y: int, c: int, r: int, taken: int) -> None:
        role = "primary" if r else "secondary"
        own = self.said(i, connected=False, role=role, continuous=bool(c), age_lo_s=1.0, age_hi_s=2.0)
        own = replace(own, session=self.named[self.nonces[i, n]])
        message = Claim(self.nonces[i, n], PURPOSES[p], own, "?", want_yield=bool(y), lost_for_s=1000.0)  # type: ignore[arg-type]
        answers = self.hear(i, message)
        if taken != any(isinstance(said, Ask) for said in answers):
            raise Differs(f"a claim is {'taken' if taken else 'refused'} by the model, the code says {answers}")

    def on_answer(self, i: int, what: int, primary: int, newer: int, bad: int) -> None:
        gathering = self.pair.gatherings.get(NODES[i])
        if gathering is None:
            raise Differs("the model still gathers, the code does not")
        j = 1 - i
        old = not primary and gathering.claim.evidence.replicas[0].role == "secondary"
        more: dict[str, Any] = {"age_lo_s": 100.0, "age_hi_s": 101.0} if old else {"age_lo_s": 1.0, "age_hi_s": 2.0}
        if newer:
            more.update(current=NEWER, bitmap=GENERATION)
        role, disk = "primary" if primary else "secondary", "I" if bad else "U"
        own = self.said(j, connected=False, role=role, disk=disk, **more)
        self.hear(j, Answer(gathering.claim.nonce, own, what == 2, 1000.0))

    def on_offer(self, i: int, given: int) -> None:
        answers = self.come(i)
        offers = [said for said in answers if isinstance(said, Offer)]
        if bool(given) != bool(offers):
            raise Differs(f"the model {'offers' if given else 'offers nothing'}, the code says {answers}")
        if offers:
            self.offers[i] = offers[0].register.version

    def come(self, i: int) -> list[Message]:
        """The time of i's gathering comes; the other's stands still."""
        aside = {k: g for k, g in self.pair.gatherings.items() if k != NODES[i]}
        self.pair = replace(self.pair, gatherings={k: g for k, g in self.pair.gatherings.items() if k == NODES[i]})
        self.now = after(self.now, COME_S)
        self.pair, sends = arbiter.tick(self.pair, self.now, 0.0, SITE, POLICY)

        def later(moment: Instant | None) -> Any:
            return None if moment is None else after(moment, COME_S)

        moved = {
            k: replace(
                g, started=later(g.started), asked=later(g.asked), answered=later(g.answered), offered=later(g.offered)
            )
            for k, g in aside.items()
        }
        self.pair = replace(
            self.pair,
            gatherings={**self.pair.gatherings, **moved},
            heard=dict.fromkeys(self.pair.heard, self.now)
            if not moved
            else {k: later(v) for k, v in self.pair.heard.items()},
        )
        return [said for _, said in sends]

    def on_say_commit(self, i: int) -> None:
        gathering = self.pair.gatherings.get(NODES[i])
        nonce = gathering.claim.nonce if gathering is not None else "gone"
        self.commits[i] = (nonce, self.offers[i])

    def on_commit(self, i: int, p: int, wins: int) -> None:
        nonce, version = self.commits[i]
        [said] = self.hear(i, Commit(nonce, version, PURPOSES[p], NODES[1 - i], 75.0))  # type: ignore[arg-type]
        if bool(wins) != isinstance(said, Won):
            raise Differs(f"the model {'lets it win' if wins else 'refuses'}, the code says {said}")
        if wins:
            self.counts["won"] = self.counts.get("won", 0) + 1

    def on_register(self, winner: int, basis: int, alone: int, fence: int) -> None:
        register = self.pair.kept.register
        used = {name for name, on in (("alone", alone), ("fence", fence)) if on}
        if (register.winner, register.basis, set(register.used)) != (NODES[winner], BASES[basis], used):
            raise Differs(f"the model's register: {NODES[winner]} by {BASES[basis]} used {used}")

    def on_window(self, i: int) -> None:
        self.pair = drop(self.pair, NODES[i])

    def on_void(self, i: int, n: int, current: int) -> None:
        era = self.pair.kept.register.era - (0 if current else 1)
        [said] = self.hear(1 - i, AskNonce(self.nonce(), self.nonces[i, n], era))
        if not isinstance(said, NonceIs) or said.state in ("open", "winner-peer"):
            raise Differs(f"a promise is void in the model, the code says {said}")

    def end(self, i: int, how: str, session: str | None) -> None:
        era, version = self.pair.kept.register.era, self.pair.kept.register.version
        [said] = self.hear(i, CloseEra(self.nonce(), version, how, session))  # type: ignore[arg-type]
        now = self.pair.kept.register
        if not isinstance(said, Closed) or (now.era, now.winner, now.used) != (era + 1, None, ()):
            raise Differs(f"the model ends the era by {how}, the code says {said}")

    def on_close(self, i: int) -> None:
        self.beats(session=self.session())
        self.end(i, "close", self.session())
        self.beats()

    def on_handback(self, i: int) -> None:
        self.end(i, "hand-back", None)

    def on_restart(self) -> None:
        self.pair = Pair(self.pair.kept, self.now, "boot-1")
        self.beats()

    def on_together(self) -> None:
        self.beats(member=True)
        self.beats()

    # ---- what must be refused in any state

    def probe(self) -> None:
        """Late copies: of another version, by the loser, or of a nonce that nobody gathers for. Nothing may change."""
        register = self.pair.kept.register
        for i in (0, 1):
            for message in (
                CloseEra("p", register.version - 1, "hand-back", None),
                CloseEra("p", register.version - 1, "close", self.session()),
                Commit("nobody-gathers", register.version, "fence", NODES[1 - i], 75.0),
            ):
                self._refused(i, message)
            if register.winner == NODES[1 - i]:
                self._refused(i, CloseEra("p", register.version, "hand-back", None))
            gathering = self.pair.gatherings.get(NODES[i])
            if gathering is not None and gathering.offered is not None:
                stale = Commit(gathering.claim.nonce, register.version - 1, gathering.claim.purpose, NODES[1 - i], 75.0)
                self._refused(i, stale)

    def _refused(self, i: int, message: Message) -> None:
        pair, sends = arbiter.hear(self.pair, NODES[i], message, self.now, 0.0, SITE, POLICY)
        if pair.kept.register != self.pair.kept.register or not all(isinstance(said, Refused) for _, said in sends):
            raise Differs(f"{message} must be refused, the code says {sends}")
        self.probed += 1
