"""Random histories of one pair at the arbiter: duplicates, delays, replays and restarts never make two winners."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from guard.core.instant import after
from guard.core.messages import Claim, CloseEra, Commit, Message, Offer, Won
from tests.core.desk import A, B, Desk, statement

NODES = (A, B)
DEED = st.tuples(st.integers(0, 15), st.sampled_from(NODES), st.integers(0, 2**16))


@dataclass
class History:
    """Plays deeds, keeps every message ever said to the arbiter, and looks at the register after each one."""

    desk: Desk = field(default_factory=Desk)
    heard: list[tuple[str, Message]] = field(default_factory=list)
    winners: dict[int, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def say(self, node: str, message: Message) -> None:
        self.heard.append((node, message))
        self.look(lambda: self.desk.hear(node, message))

    def look(self, deed: object) -> None:
        """The laws of the register, S1 and S3, around one deed."""
        before, told = self.desk.register, len(self.desk.said)
        deed()  # type: ignore[operator]
        now = self.desk.register
        if now != before:
            assert now.version == before.version + 1, "the version rises by one with every change"
            assert now.era in (before.era, before.era + 1)
            if now.era == before.era:
                assert before.winner in (None, now.winner), "a winner never changes within its era"
                assert set(now.used) >= set(before.used)
            else:
                assert before.winner is not None
                assert (now.winner, now.used) == (None, ())
        if now.winner is not None:
            assert self.winners.setdefault(now.era, now.winner) == now.winner, "one winner an era"
        for to, message in self.desk.said[told:]:
            self.seen[type(message).__name__] += 1
            if isinstance(message, Won):
                assert (to, message.era, message.version) == (now.winner, now.era, now.version)
                assert message.purpose in now.used

    def play(self, deed: tuple[int, str, int]) -> None:
        which, node, number = deed
        desk, era = self.desk, self.desk.register.era
        match which:
            case 0 | 1:
                for each in NODES:
                    role = "primary" if each == NODES[number % 2] else "secondary"
                    desk.attest(each, era=era, role=role, session=f"session-{number % 3}")
                    self.say(each, statement(each, int(desk.now), session=f"session-{number % 3}"))
            case 2 | 3:
                self.claim(node, number)
            case 4 | 5:
                self.look(lambda: desk.wait((0.1, 0.4, 0.9, 3.0, 40.0)[number % 5], step_s=0.2))
            case 6 | 7:
                self.commit(node, number)
            case 8:
                gathered = desk.pair.gatherings.get(desk.pair.kept.other(node))
                if gathered is not None:
                    desk.answer(node, gathered.claim.nonce, yielded=number % 3 == 0, era=era)
            case 9 | 10:
                if self.heard:  # a copy, or something that was on its way for a long time
                    self.say(*self.heard[number % len(self.heard)])
            case 11:
                how, version = ("close", "hand-back")[number % 2], desk.register.version - (number % 5 == 0)
                self.say(node, CloseEra(f"k{number}", version, how, f"session-{number % 3}"))  # type: ignore[arg-type]
            case 12:
                desk.inhibit(node, "x", ended=number % 2 == 0)
                desk.lift(node, "x")
            case 13 | 14:
                self.claim(node, number)
                self.look(lambda: desk.wait(0.9, step_s=0.3))
                self.commit(node, 1)
            case _:
                if number % 4 == 0:
                    desk.restart(reboot=number % 8 == 0)
                else:
                    desk.now = after(desk.now, 1.0)
                    self.say(node, statement(node, int(desk.now), member=(True, False, None)[number % 3]))

    def claim(self, node: str, number: int) -> None:
        nonce = f"{node}-{len(self.heard)}"
        sent = len(self.desk.said)
        era, session = self.desk.register.era, self.desk.pair.kept.session
        options = {"want_yield": number % 5 == 0, "off_twice": number % 3 == 0, "gather": number % 11 == 0}
        purpose = ("fence", "alone")[number % 2]
        named = session.name if session is not None else None
        scratch = Desk()
        scratch.claim(node, nonce, purpose, era=era, session=named, role="primary" if number % 3 else "secondary")
        claim = next(g.claim for g in scratch.pair.gatherings.values())
        self.say(node, replace(claim, **options))
        assert len(self.desk.said) >= sent

    def commit(self, node: str, number: int) -> None:
        """Mostly of the newest offer, at times of any claim ever made, at a version that may have passed."""
        offers = [m for to, m in self.desk.said if isinstance(m, Offer) and to == node]
        claims = [m for sender, m in self.heard if isinstance(m, Claim) and sender == node]
        if number % 4 and offers:
            offer = offers[-1]
            purpose = next(c.purpose for c in claims if c.nonce == offer.nonce)
            self.say(node, Commit(offer.nonce, offer.register.version, purpose, node, 75.0))
        elif claims:
            old = claims[number % len(claims)]
            self.say(node, Commit(old.nonce, max(1, self.desk.register.version - number % 3), old.purpose))


@settings(max_examples=150, deadline=None)
@given(st.lists(DEED, max_size=60))
def test_no_history_makes_two_winners_of_one_era(deeds: list[tuple[int, str, int]]) -> None:
    """Whatever both nodes say, late, twice or never: one winner an era, versions rise, a Won names it."""
    history = History()
    history.play((0, A, 0))
    for deed in deeds:
        history.play(deed)


def test_the_histories_reach_wins_and_new_eras() -> None:
    """The property is not kept by doing nothing: such histories win, are refused, and close eras."""
    draw, total, eras = random.Random(7), Counter[str](), 0  # noqa: S311
    for _ in range(60):
        history = History()
        history.play((0, A, 0))
        for _ in range(80):
            history.play((draw.randrange(16), draw.choice(NODES), draw.randrange(2**16)))
        total += history.seen
        eras += history.desk.register.era - 1
    assert total["Won"] > 20
    assert total["Offer"] > total["Won"]
    assert total["Refused"] > 100
    assert eras > 5
