"""What became of one pair, the same record from both sides; where the two differ, and what neither may ever show.

1. A rule that must always hold (`never`) is looked at on each side alone. Broken, it is red whatever the other says.
2. Two outcomes differ in a field or they do not. `MAY_DIFFER` is the one list of differences that are a race of clocks
   of real programs, each with its reason; whatever is not in it is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from tests.lab.seeds.timeline import DEATHS, Timeline

HELD = ("property-set", "released")  # what a guard says of the cluster's property, set by it or by its peer
STOPPED_S = (0.0, 15.0, 45.0, 90.0)  # the edges of the buckets: no stop, a takeover, one that waited, one for a person
BUCKETS = ("no", "<15 s", "<45 s", "<90 s", ">90 s")
REAL, MODELLED = "lab", "world"
WIDTH = 80


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pair at the end of a timeline. `primary`: who served when it began.

    `shot`: nodes whose power a fence command took. `offs`: power-off commands that any device took.
    `serves`: who serves once all is at rest, before a person switches on what is off ("": nobody).
    `stopped_s`: how long the service ran nowhere until then. `promoted`: the other node became primary.
    `both`: both served at once. `lost`: acknowledged writes that are gone. `held`: the cluster was put into maintenance
    mode. `pages`: what people were called for. `whole`: whole again after they switched on what was off.
    `era`: a new era began. `broken`: rules that this side saw broken by itself. `slow`: a switch's agent did not answer
    though nothing was in the way (not compared: the world's agents have no load).
    """

    pair: str
    primary: str
    shot: tuple[str, ...] = ()
    offs: int = 0
    serves: str = ""
    stopped_s: float = 0.0
    promoted: bool = False
    both: bool = False
    lost: int = 0
    split: bool = False
    held: bool = False
    pages: tuple[str, ...] = ()
    whole: bool = True
    era: bool = False
    broken: tuple[str, ...] = ()
    slow: bool = False

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @staticmethod
    def made(content: Mapping[str, object]) -> Outcome:
        """From `as_dict` through JSON. TypeError: it is of another version."""
        return Outcome(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long programs of a real node took: machines have a load of their own, and who is first decides what follows.

    `handler_s`, `agent_s`: from the loss of replication until DRBD's handler and the cluster's fence agent asked.
    `guard_s`: from the start of a killed guard until it works. `join_s`: from the thaw to one membership.
    None: not seen, the world's own time counts.
    """

    handler_s: float | None = None
    agent_s: float | None = None
    guard_s: float | None = None
    join_s: float | None = None


def bucket(seconds: float) -> int:
    """Which of `BUCKETS` a stop is in."""
    return 0 if seconds < 0.05 else next((n for n, edge in enumerate(STOPPED_S) if seconds < edge), len(STOPPED_S))


def never(line: Timeline, found: Outcome) -> list[str]:
    """What must not be, on either side and whatever happened."""
    said = list(found.broken)
    if found.both:
        said.append("both nodes served at once")
    if found.lost:
        said.append(f"{found.lost} acknowledged writes were lost")
    if found.split:
        said.append("split brain")
    if len(found.shot) > 1:
        said.append("both nodes were shot")
    if found.shot and not line.of(found.pair, *DEATHS):
        said.append(f"{', '.join(found.shot)} was shot though nothing befell it")
    return said


# ------------------------------------------------------------------ the comparison


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one pair in which the sides differ. `reason`: the name in `MAY_DIFFER`, "" if there is none."""

    pair: str
    field: str
    real: object
    modelled: object
    reason: str = ""

    def words(self) -> str:
        why = f" (may: {self.reason})" if self.reason else ""
        return f"{self.pair} {self.field}: {REAL} {_word(self.real)}, {MODELLED} {_word(self.modelled)}{why}"


@dataclass(frozen=True, slots=True)
class Reason:
    """A race that real clocks decide. `fields`: what it may change; `fits`: where it can have been run."""

    name: str
    text: str
    fields: frozenset[str]
    fits: Callable[[Timeline, Outcome, Outcome], bool]


def differences(line: Timeline, real: Iterable[Outcome], modelled: Iterable[Outcome]) -> list[Difference]:
    """Every field in which two sides of a timeline differ, pair for pair."""
    others = {each.pair: each for each in modelled}
    found = []
    for one in real:
        other = others.pop(one.pair, None)
        if other is None:
            found.append(Difference(one.pair, "pair", "there", "missing"))
            continue
        for name in COMPARED:
            mine, theirs = shown(one, name), shown(other, name)
            if mine != theirs:
                found.append(Difference(one.pair, name, mine, theirs, _reason(line, one, other, name)))
    return found + [Difference(pair, "pair", "missing", "there") for pair in others]


COMPARED = tuple(f.name for f in fields(Outcome) if f.name not in ("pair", "broken", "slow"))


def shown(outcome: Outcome, name: str) -> object:
    """A field as it is compared: seconds by their bucket."""
    return BUCKETS[bucket(outcome.stopped_s)] if name == "stopped_s" else getattr(outcome, name)


def _reason(line: Timeline, real: Outcome, modelled: Outcome, name: str) -> str:
    fitting = (each for each in MAY_DIFFER if name in each.fields and each.fits(line, real, modelled))
    return next((each.name for each in fitting), "")


def _next_to_it(line: Timeline, real: Outcome, modelled: Outcome) -> bool:
    """Both stopped, and the buckets touch: "no" touches nothing."""
    mine, theirs = bucket(real.stopped_s), bucket(modelled.stopped_s)
    return bool(mine and theirs) and abs(mine - theirs) == 1


def _page_came_in_time(line: Timeline, real: Outcome, modelled: Outcome) -> bool:
    """They differ only in pages of a wait."""
    return {*real.pages} ^ {*modelled.pages} <= WAITING_PAGES


def _slow_agent(line: Timeline, real: Outcome, modelled: Outcome) -> bool:
    return real.slow and real.held and not modelled.held


def _guard_came_back_at_a_cut(line: Timeline, real: Outcome, modelled: Outcome) -> bool:
    return line.wide is not None and bool(line.of(real.pair, "guard"))


def _won_before_it_died(line: Timeline, real: Outcome, modelled: Outcome) -> bool:
    """A primary dies in the first seconds of a freeze: on the side where it had won already a person must decide."""
    wide, deaths = line.wide, line.of(real.pair, *DEATHS)
    if wide is None or not deaths or not wide.at_s < deaths[0].at_s < wide.at_s + WON_S_MAX:
        return False
    waits, serves = sorted((real, modelled), key=lambda side: side.serves)
    return not waits.serves and "winner-gone" in waits.pages and serves.promoted


WON_S_MAX = 8.0  # the slowest handler and claim of a sitting primary that the lab has shown
WAITING_PAGES = frozenset({"arbiter-silent", "peer-alive", "winner-gone"})
MAY_DIFFER: tuple[Reason, ...] = (
    Reason(
        "next-bucket",
        "both services stopped for a while; how long a real start takes decides on which side of an edge it falls",
        frozenset({"stopped_s"}),
        _next_to_it,
    ),
    Reason(
        "page-after-10-s",
        "these pages come once something waited for 10 s; faster or slower programs end that wait before or after it",
        frozenset({"pages"}),
        _page_came_in_time,
    ),
    Reason(
        "won-before-it-died",
        "a cut primary that dies within seconds either won already (its peer is barred, a person decides) or did not",
        frozenset({"serves", "stopped_s", "promoted", "held", "era"}),
        _won_before_it_died,
    ),
    Reason(
        "slow-agent",
        "the lab's busy machine kept a switch's agent from answering two polls: to a guard the network changes",
        frozenset({"held"}),
        _slow_agent,
    ),
    Reason(
        "handler-pause",
        "a handler asks a guard that came back after a pause of 1 to 15 s, by chance before or after the link is back: "
        "after it, an era is won and closed again",
        frozenset({"era"}),
        _guard_came_back_at_a_cut,
    ),
)


# ------------------------------------------------------------------ for people


@dataclass(frozen=True, slots=True)
class Compared:
    """One seed played on both sides. `failed`: why the lab could not play it (then nothing is compared)."""

    line: Timeline
    real: tuple[Outcome, ...]
    modelled: tuple[Outcome, ...]
    failed: str = ""

    @property
    def differences(self) -> list[Difference]:
        return [] if self.failed else differences(self.line, self.real, self.modelled)

    @property
    def broken(self) -> list[str]:
        """Rules broken, each with its side."""
        sides = ((REAL, self.real), (MODELLED, self.modelled))
        return [f"{s}: {o.pair}: {text}" for s, side in sides for o in side for text in never(self.line, o)]

    @property
    def red(self) -> bool:
        return bool(self.failed or self.broken or any(not each.reason for each in self.differences))

    def word(self) -> str:
        if self.failed:
            return "FAILED"
        if self.broken:
            return "BROKEN"
        return "DIFFERS" if self.red else "may differ" if self.differences else "agrees"


def table(seeds: Sequence[Compared]) -> str:
    """A few lines a seed in 80 columns: what was played, what became of it, and where the sides differ."""
    lines = [f"{'seed':>4}  {'pair':5}{'side':7}{'shot':13}{'serves':8}{'stopped':9}{'held':6}{'pages':>5}  result"]
    for one in seeds:
        lines.append("-" * WIDTH)
        lines += _wrapped(f"{one.line.seed:>4}  {one.line.words()}", 6)
        for pair in sorted({o.pair for o in (*one.real, *one.modelled)}):
            lines += _rows(one, pair)
        lines += [line for each in one.broken for line in _wrapped(f"      BROKEN {each}", 13)]
        lines += _wrapped(f"      FAILED {one.failed}", 13) if one.failed else []
        for each in one.differences:
            lines += _wrapped(f"      {'may    ' if each.reason else 'DIFFERS'} {each.words()}", 14)
    lines.append("-" * WIDTH)
    lines.append(summary(seeds))
    return "\n".join(lines)


def _rows(one: Compared, pair: str) -> list[str]:
    """One line for a pair on which both sides agree, else one a side."""
    real = next((o for o in one.real if o.pair == pair), None)
    modelled = next((o for o in one.modelled if o.pair == pair), None)
    differs = [each for each in one.differences if each.pair == pair]
    word = "agrees" if not differs else "DIFFERS" if any(not each.reason for each in differs) else "may"
    if real is not None and modelled is not None and not differs:
        return [_row(pair, "both", real, word)]
    sides = ((REAL, real), (MODELLED, modelled))
    return [_row(pair, side, o, word if not one.failed else "") for side, o in sides if o is not None]


def _row(pair: str, side: str, o: Outcome, word: str) -> str:
    shot = ",".join(o.shot) or "nobody"
    stopped = BUCKETS[bucket(o.stopped_s)]
    held = "yes" if o.held else "no"
    word += "" if o.whole else ", not whole"
    return f"{'':6}{pair:5}{side:7}{shot:13}{o.serves or 'NOBODY':8}{stopped:9}{held:6}{len(o.pages):>5}  {word}"


def summary(seeds: Sequence[Compared]) -> str:
    """The last two lines."""
    words = [one.word() for one in seeds]
    pairs = sum(len(one.real) for one in seeds if not one.failed)
    agree = pairs - len({(one.line.seed, each.pair) for one in seeds for each in one.differences})
    counted = ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
    return f"{len(seeds)} seeds: {counted or 'none'}\n{agree} of {pairs} pairs agree in every field"


def _wrapped(text: str, indent: int) -> list[str]:
    """Lines of at most `WIDTH` characters; what goes on is indented."""
    lines = []
    while len(text) > WIDTH:
        cut = text.rfind(" ", indent + 1, WIDTH + 1)
        cut = cut if cut > 0 else WIDTH
        lines.append(text[:cut].rstrip())
        text = " " * indent + text[cut:].lstrip()
    return [*lines, text]


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) or "nobody"
