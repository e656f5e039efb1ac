"""The arbiter's desk in a test: one pair, a clock by hand, and everything that was said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from guard.core import arbiter
from guard.core.attest import Session, Testimony
from guard.core.instant import Instant, after
from guard.core.messages import (
    Answer,
    Attest,
    Beat,
    Claim,
    Commit,
    Evidence,
    HoldStatement,
    InhibitView,
    Init,
    LiftInhibit,
    Message,
    Offer,
    Refused,
    ReplicaStatement,
    SetInhibit,
    Won,
)
from guard.core.pair import Gathering, Pair, Site, keep
from guard.core.policy import Policy

A, B = "fs1a", "fs1b"
S1 = "session-1"
QUIET = HoldStatement((), False, True, True, None, None, 0, 1000.0, True)
GENERATION = 0xA1B2_C3D4_E5F6_0718


def replica(**changed: Any) -> ReplicaStatement:
    """A good disk of a secondary, written 10 s ago, gate on."""
    good = ReplicaStatement("r0", "U", "U", "secondary", GENERATION, 0, (), True, 10.0, None, True)
    return replace(good, **changed)


def evidence(node: str, *, session: str | None = S1, connected: bool = True, era: int = 1, **more: Any) -> Evidence:
    """`replica` fields by name; `cluster` and `cold` are the evidence's own."""
    own = {key: more.pop(key) for key in ("cluster", "cold", "boot_id", "peer_member") if key in more}
    stated = Evidence(node, f"boot-{node}", era, session, connected, (replica(**more),), "up", connected)
    return replace(stated, **own)


def statement(node: str, seq: int, *, member: bool | None = True, **changed: Any) -> Beat:
    beat = Beat(seq, S1, bool(member), member, member is False, bool(member), QUIET)
    return replace(beat, **changed)


class Desk:
    """Says things to the arbiter and keeps its answers in `said`, newest last."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.now = Instant(1_000_000_000_000)
        self.site = Site("store-1")
        self.boot = "boot-arbiter"
        self.seq = 0
        self.said: list[tuple[str, Message]] = []
        self.pair: Pair = arbiter.made(Init("i", (A, B), A, "cell", "a person"), "fs1", self.now, self.boot)

    # ---- time and words

    def hear(self, sender: str, message: Message) -> list[tuple[str, Message]]:
        self.pair, sends = arbiter.hear(self.pair, sender, message, self.now, 0.0, self.site, self.policy)
        self.said.extend(sends)
        return list(sends)

    def wait(self, seconds: float, *beating: str, member: bool | None = False, step_s: float = 0.05) -> list[Message]:
        """Let time pass in ticks; who is `beating` is heard every 0.4 s. What was said meanwhile."""
        since, until, next_beat = len(self.said), after(self.now, seconds), self.now
        while self.now < until:
            self.now = min(after(self.now, step_s), until)
            if self.now >= next_beat:
                next_beat = after(self.now, 0.4)
                for node in beating:
                    self.beat(node, member=member)
            self.pair, sends = arbiter.tick(self.pair, self.now, 0.0, self.site, self.policy)
            self.said.extend(sends)
        return [message for _, message in self.said[since:]]

    def restart(self, *, reboot: bool = False) -> None:
        """The witness dies: only what is kept survives."""
        self.boot = "boot-arbiter-2" if reboot else self.boot
        self.pair = Pair(self.pair.kept, self.now, self.boot)

    # ---- the usual words

    def beat(self, node: str, *, member: bool | None = True, **changed: Any) -> None:
        self.hear(node, statement(node, int(self.now), member=member, **changed))

    def attest(self, node: str, **more: Any) -> None:
        self.seq += 1
        self.hear(node, Attest(self.seq, evidence(node, **more)))

    def whole(self, **of_a: Any) -> Desk:
        """Both ends attest session 1; A is Primary unless `of_a` says otherwise."""
        self.attest(A, **{"role": "primary", **of_a})
        self.attest(B)
        self.beat(A)
        self.beat(B)
        return self

    def cut(self) -> Desk:
        """Both rings break: each guard lives and says that the other is no member."""
        self.wait(0.1)
        self.beat(A, member=False)
        self.beat(B, member=False)
        return self

    def claim(self, node: str, nonce: str, purpose: str = "fence", **more: Any) -> list[tuple[str, Message]]:
        own = {k: more.pop(k) for k in _CLAIM_FIELDS if k in more}
        stated = evidence(node, **{"connected": False, "era": self.register.era, **more})
        return self.hear(node, replace(Claim(nonce, purpose, stated, "?"), **own))  # type: ignore[arg-type]

    def answer(self, node: str, nonce: str, *, yielded: bool = False, **more: Any) -> list[tuple[str, Message]]:
        return self.hear(node, Answer(nonce, evidence(node, **{"connected": False, **more}), yielded, 1000.0))

    def commit(self, node: str, nonce: str, purpose: str = "fence", version: int | None = None) -> Message:
        """The arbiter's answer to a commit at `version`, None = the register's own."""
        at = self.register.version if version is None else version
        [(to, said)] = self.hear(node, Commit(nonce, at, purpose, node, 75.0))  # type: ignore[arg-type]
        assert to == node
        return said

    def win(self, node: str, nonce: str, purpose: str = "fence", **more: Any) -> Won:
        """Claim over a silent target, up to the win."""
        self.claim(node, nonce, purpose, **more)
        offers = [m for m in self.wait(1.0) if isinstance(m, Offer)]
        assert [o.nonce for o in offers] == [nonce], self.said[-3:]
        won = self.commit(node, nonce, purpose)
        assert isinstance(won, Won), won
        return won

    def inhibit(self, node: str, name: str, kind: str = "disturbance", **more: Any) -> list[tuple[str, Message]]:
        view = InhibitView(name, kind, more.pop("owner", node), "a reason", 0.0)  # type: ignore[arg-type]
        return self.hear(node, SetInhibit(f"set-{name}", replace(view, **more)))

    def lift(self, node: str, name: str) -> list[tuple[str, Message]]:
        return self.hear(node, LiftInhibit(f"lift-{name}", name))

    # ---- looking

    @property
    def register(self) -> Any:
        return self.pair.kept.register

    @property
    def inhibits(self) -> set[str]:
        return set(self.pair.kept.inhibits)

    def last(self, kind: type[Any]) -> Any:
        found = [m for _, m in self.said if isinstance(m, kind)]
        assert found, f"no {kind.__name__} was said"
        return found[-1]


def reason(said: Message) -> str:
    """Why something was refused; a win or an offer has no reason and fails the test."""
    assert isinstance(said, Refused), said
    return said.reason


_CLAIM_FIELDS = ("gather", "want_yield", "cold", "lost_for_s", "off_twice", "ports")
# `cold` of a claim goes into its evidence only if a test says so itself.


# ------------------------------------------------------------------ one pair at one moment, B the candidate

NOW = Instant(10**15)


def known(**changed: Any) -> Pair:
    """A, Primary in the session that was lost, is silent; B is the candidate; the arbiter has been up for long."""
    said = {A: evidence(A, role="primary", connected=True), B: evidence(B, connected=True)}
    testimony = {node: Testimony(e, 1, after(NOW, -10.0), "boot-arbiter") for node, e in said.items()}
    pair = keep(Desk().pair, testimony=testimony, session=Session(S1, 1, (A,)), words=testimony)
    return replace(pair, started=after(NOW, -1000.0), heard={A: after(NOW, -40.0), B: NOW}, **changed)


def claim(**changed: Any) -> Claim:
    said = changed.pop("evidence", None) or evidence(B, connected=False, peer_member=False)
    return replace(Claim("n", "fence", said, "?"), **changed)


def open_claim(asked_s: float = 1.0, **changed: Any) -> Gathering:
    """B's claim, which came `asked_s` ago; the claim's own fields by name."""
    own = {k: changed.pop(k) for k in tuple(changed) if k in Gathering.__dataclass_fields__ and k != "claim"}
    at = after(NOW, -asked_s)
    return replace(Gathering(claim(**changed), B, at, at, at, waits_for_target=False), **own)


def with_claim(pair: Pair, **changed: Any) -> Pair:
    return replace(pair, gatherings={B: open_claim(**changed)})


def answer(*, yielded: bool = False, **changed: Any) -> Answer:
    return Answer("n", evidence(A, **{"connected": False, "role": "primary", **changed}), yielded, 1000.0)
