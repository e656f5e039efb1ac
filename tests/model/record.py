"""The other way round: what the shipped arbiter did in rehearsed stories, as a run that the model must be able to take.

Every change of the register is asked of the model with what the arbiter had gathered, told in the model's few words.
What merely was refused is not asked: the model may allow more.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.core import arbiter
from guard.core.attest import generations
from guard.core.evidence import Role
from guard.core.messages import Answer, Attest, Claim, Closed, CloseEra, Commit, Evidence, Message, Offer, Won
from guard.core.pair import PEER_ALIVE, Pair, Sends
from guard.core.writes import Relation, relation
from guard.rehearsal.scenarios import play
from guard.rehearsal.world import World
from tests.model.models import HERE, CannotRun

GOOD = ("U",)
NOT_CURRENT = ("O", "I")
BASES = {None: 0, "verdict": 0, "cold": 0, "tie": 0, "yield": 1, "announced": 2, "person": 3}


class Recorder:
    """Statements of arbiter.pml for all that changed a pair's register, or was gathered for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.gathered: set[int] = set()
        self.names: dict[int, int] = {}  # candidate -> the name of its nonce, 1 or 2 in turn
        self.counts: dict[str, int] = {"claims": 0, "wins": 0, "reconfirmed": 0, "closes": 0, "hand-backs": 0}

    def begin(self) -> None:
        self.gathered.clear()
        self.lines.append("  anew();")

    def heard(self, before: Pair, after: Pair, sender: str, message: Message, sends: Sends) -> None:
        i = before.kept.nodes.index(sender)
        self._forgotten(before)
        match message:
            case Attest():
                self._session(before, after)
            case Claim() if self._opened(after, sender, message):
                self._claim(before, i, message)
            case Answer():
                self._answer(before, 1 - i, sender, message)
            case Commit():
                if any(isinstance(said, Won) for _, said in sends):
                    self._won(before, after, i, message)
            case CloseEra():
                if any(isinstance(said, Closed) for _, said in sends):
                    self._closed(i, message, after)
            case _:
                pass
        self._offers(after, sends)

    def ticked(self, before: Pair, after: Pair, sends: Sends) -> None:
        self._forgotten(before)
        self._offers(after, sends)

    # ---- the model's words

    def _opened(self, after: Pair, sender: str, message: Claim) -> bool:
        found = after.gatherings.get(sender)
        return found is not None and found.claim.nonce == message.nonce and not message.gather

    def _forgotten(self, pair: Pair) -> None:
        for i in sorted(self.gathered):
            if pair.kept.nodes[i] not in pair.gatherings:
                self.lines.append(f"  a_drop({i});")
                self.gathered.discard(i)

    def _session(self, before: Pair, after: Pair) -> None:
        old, new = before.kept.session, after.kept.session
        for i, node in enumerate(after.kept.nodes):
            said = after.kept.testimony.get(node)
            if said is not None:
                self.lines.append(f"  gate[{i}] = {int(_gated(after, node))};")
        if new is None or new == old:
            return
        primary = after.kept.nodes.index(new.primaries[0]) if len(new.primaries) == 1 else 2
        self.lines.append(f"  attv = 1; atp = {primary};")
        if old is None or old.name != new.name:
            self.lines.append("  gse[0] = 0; gse[1] = 0;")

    def _claim(self, before: Pair, i: int, claim: Claim) -> None:
        own, session = claim.evidence, before.kept.session
        good = (*GOOD, "C") if claim.cold or own.cold else GOOD
        c = all(r.continuous and r.disk in good for r in own.replicas)
        s = session is not None and own.session == session.name
        n = self.names[i] = 3 - self.names.get(i, 2)
        purpose = {"fence": 1, "alone": 2}[claim.purpose]
        words = (i, n, purpose, int(claim.want_yield), int(c), int(s), int(_primary(own)), 0)
        self.lines.append(f"  a_claim({', '.join(map(str, words))});")
        self.gathered.add(i)
        self.counts["claims"] += 1

    def _answer(self, before: Pair, i: int, sender: str, answer: Answer) -> None:
        gathering = before.gatherings.get(before.kept.nodes[i])
        if i not in self.gathered or gathering is None or gathering.claim.nonce != answer.nonce or gathering.offered:
            return
        mine = {r.resource: r for r in gathering.claim.evidence.replicas}
        newer = any(
            relation(generations(mine[r.resource]), generations(r)) in (Relation.T_NEWER, Relation.DIVERGED)
            for r in answer.evidence.replicas
            if r.resource in mine
        )
        bad = any(r.disk in NOT_CURRENT for r in answer.evidence.replicas)
        said = 2 if answer.yielded else 1
        words = (i, said, int(_primary(answer.evidence)), int(newer), int(bad))
        self.lines.append(f"  a_answer({', '.join(map(str, words))});")

    def _offers(self, after: Pair, sends: Sends) -> None:
        for to, said in sends:
            i = after.kept.nodes.index(to)
            if isinstance(said, Offer) and i in self.gathered:
                self.lines.append(f"  goff[{i}] = 1;")

    def _won(self, before: Pair, after: Pair, i: int, commit: Commit) -> None:
        kinds = {v.kind: v for v in before.kept.inhibits.values()}
        persons = [v for k, v in kinds.items() if k in ("person", "change")]
        network = [v for k, v in kinds.items() if k in ("disturbance", "storm", "redundancy")]
        inh = 0
        if network:
            inh = 3 if all(v.ended for v in network) else 1
        if persons:
            inh = 4 if all(v.ended for v in persons) and inh in (0, 3) else 2
        beat = before.beats.get(before.kept.nodes[i])
        quiet = beat is not None and beat.hold.quiet_for_s > 0
        purpose = {"fence": 1, "alone": 2}[commit.purpose]
        n, register = self.names[i], after.kept.register
        self.counts["reconfirmed" if before.kept.register.winner else "wins"] += 1
        fresh = int(commit.version == before.kept.register.version)
        basis = BASES[register.basis]
        self.lines += [
            f"  palive = {int(PEER_ALIVE in before.kept.inhibits)}; inh = {inh}; quiet = {int(quiet)};",
            f"  assert(COMMITTABLE({i}, {1 - i}, {n}, {purpose}, {fresh})); a_commit({i}, {purpose});",
            f"  assert(rw == {i} && rbas == {basis} && ruA == {int('alone' in register.used)});",
        ]
        self.gathered.discard(i)

    def _closed(self, i: int, close: CloseEra, after: Pair) -> None:
        hand_back = close.how == "hand-back"
        self.counts["hand-backs" if hand_back else "closes"] += 1
        fresh = int(close.version == after.kept.register.version - 1)
        may = f"RETURNABLE({i}, {fresh})" if hand_back else f"ENDABLE({i}, {fresh})"
        self.lines += [f"  assert({may}); a_end({int(hand_back)});", "  assert(rw == 2);"]


def _gated(pair: Pair, node: str) -> bool:
    """What the node says of its gate; where its resource is down and shows none, what it attested in this session."""
    kept = pair.kept
    said, words = kept.testimony[node].evidence, kept.words.get(node)
    now = (kept.register.era, words.evidence.session if words is not None else None)
    tied = kept.session is not None and (kept.session.era, kept.session.name) == now
    attested = {r.resource: r.gate for r in words.evidence.replicas} if words is not None and tied else {}
    gates = [
        attested.get(r.resource) if r.gate is None and r.role == Role.SECONDARY.value else r.gate for r in said.replicas
    ]
    return bool(gates) and all(gate is True for gate in gates)


def _primary(evidence: Evidence) -> bool:
    return any(r.role == "primary" for r in evidence.replicas)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """While it lasts, the shipped arbiter is listened to. It decides by itself."""
    hear, tick = arbiter.hear, arbiter.tick

    def heard(pair: Pair, sender: str, message: Message, *rest: object) -> tuple[Pair, Sends]:
        after, sends = hear(pair, sender, message, *rest)  # type: ignore[arg-type]
        recorder.heard(pair, after, sender, message, sends)
        return after, sends

    def ticked(pair: Pair, *rest: object) -> tuple[Pair, Sends]:
        after, sends = tick(pair, *rest)  # type: ignore[arg-type]
        recorder.ticked(pair, after, sends)
        return after, sends

    arbiter.hear, arbiter.tick = heard, ticked  # type: ignore[assignment]
    try:
        yield
    finally:
        arbiter.hear, arbiter.tick = hear, tick


def record(story: Callable[[World], None], seeds: range, recorder: Recorder) -> None:
    """Play the story with every seed. A story that fails for other reasons is not this test's business."""
    for seed in seeds:
        recorder.begin()
        with recording(recorder):
            play(story, seed)


def taken(recorder: Recorder, there: Path) -> str | None:
    """None: the model can take the whole run; else what spin says of the first step that it cannot."""
    there.mkdir(parents=True, exist_ok=True)
    # one statement a procedure is what spin reads fast; the run is cut into pieces
    body = "\n".join(recorder.lines)
    (there / "run.pml").write_text(
        f'#include "{HERE / "arbiter.pml"}"\n'
        "inline anew() { a_restart(); a_end(0); gate[0] = 0; gate[1] = 0; palive = 0; inh = 0; quiet = 1 }\n"
        f"init {{ d_step {{\n{body}\n}} }}\n",
        encoding="utf-8",
    )
    flat = subprocess.run(
        ["cpp", "-P", "-DTRACE", "run.pml", "-o", "flat.pml"],
        cwd=there, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if flat.returncode != 0:
        raise CannotRun(flat.stderr[-800:])
    done = subprocess.run(["spin", "-T", "flat.pml"], cwd=there, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    wrong = [line[:300] for line in said.splitlines() if "rror" in line or "failed assertion" in line]
    return None if done.returncode == 0 and not wrong else "\n".join(wrong)[-800:] or said[-800:]
