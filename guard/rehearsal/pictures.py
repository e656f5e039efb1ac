"""The result as one picture: units by nodes shot, guarded beside without guard, and below one pair's timeline.

SVG is written by hand; PNG is made from it by cairosvg (the extra `pictures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from guard.errors import PairguardError, Unavailable
from guard.rehearsal.network import BUS_ARBITER, DEVICE_OF_A, DEVICE_OF_B, PAIR
from guard.rehearsal.report import SHOTS, Result, verdict
from guard.rehearsal.runner import Side
from guard.rehearsal.site import Plan, Site, play
from guard.rehearsal.world import World

WIDTH, LEFT, RIGHT = 1000, 170, 30
BAR, LANE = 34, 22
INK, GRID, PAPER = "#1d2733", "#c9d1da", "#ffffff"
SHARE = {0: "#2f7d4f", 1: "#e08e0b", 2: "#c0392b"}
WORDS = {0: "nobody shot", 1: "one node shot", 2: "both nodes shot"}
KINDS = {
    "frozen": ("#8fb8de", "path frozen"),
    "cut": ("#b9cfe4", "path cut"),
    "power": ("#e3e8ee", "power on"),
    "hung": ("#b59ad6", "kernel or guard stopped"),
    "serves": ("#2f7d4f", "serves"),
    "held": ("#6a4fb3", "pair held"),
    "shot": ("#c0392b", "shot"),
}
INSETS = {"serves": 6.0, "held": 9.0}  # drawn thinner, so that what is below stays in sight
TICKS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
TICKS_MAX = 14


@dataclass(slots=True)
class Track:
    """What one pair went through. Times are simulated seconds; `spans` of the same lane and kind do not overlap."""

    title: str
    lanes: tuple[str, ...]
    start_s: float = 0.0
    end_s: float = 0.0
    spans: list[tuple[str, str, float, float]] = field(default_factory=list)  # lane, kind, from, to
    marks: list[tuple[str, str, float, str]] = field(default_factory=list)  # lane, kind, at, words


class Watcher:
    """Notes every change of one pair in one round."""

    def __init__(self, place: int, turn: int, lanes: tuple[str, ...]) -> None:
        self._place, self._turn = place, turn
        self._open: dict[tuple[str, str], float] = {}
        self._began: float | None = None
        self._shots = 0
        self.track = Track("", lanes)

    def __call__(self, site: Site) -> None:
        if site.turn != self._turn or not site.in_round:
            return
        world, now = site.worlds[self._place], site.now_s
        if self._began is None:
            self._began = self.track.start_s = now
            self._shots = len(world.fenced)
        self.track.end_s = now
        seen = set(_states(world))
        for key in [key for key in self._open if key not in seen]:
            self.track.spans.append((*key, self._open.pop(key), now))
        for key in seen:
            self._open.setdefault(key, now)
        for by, target, _ in world.fenced[self._shots :]:
            self.track.marks.append((f"node {target}", "shot", now, f"shot by {by}"))
        self._shots = len(world.fenced)

    def close(self) -> Track:
        self.track.spans += [(*key, since, self.track.end_s) for key, since in self._open.items()]
        self.track.spans.sort()
        return self.track


PATHS = {
    "A - B": PAIR,
    "A - fence device of B": DEVICE_OF_B,
    "B - fence device of A": DEVICE_OF_A,
    "witness": BUS_ARBITER,
}
LANES = ("node A", "node B", *PATHS)


def _states(world: World) -> Iterator[tuple[str, str]]:
    for name, path in PATHS.items():
        if world.network.state[path] != "open":
            yield name, "frozen" if world.network.state[path] == "held" else "cut"
    for name, node in world.nodes.items():
        lane = f"node {name}"
        if node.powered:
            yield lane, "power"
        if node.hung or node.shell.paused:
            yield lane, "hung"
        if world.disks.of[name].writable() and node.cluster.mounted:
            yield lane, "serves"
        if node.cluster.maintenance:
            yield lane, "held"


def track(plan: Plan, seed: int) -> Track:
    """The first pair in the first round; of a run that failed, the pair and the round that it failed in."""
    failure = play(plan, seed).failure
    place, turn = 0, 0
    if failure is not None:
        turn = failure.turn
        place = next((n for n in range(plan.pairs) if failure.pair == f"pair-{n + 1}"), 0)
    watcher = Watcher(place, turn, LANES)
    play(plan, seed, watch=watcher)
    found = watcher.close()
    found.title = f"pair-{place + 1} of seed {seed}, round {turn + 1}, in simulated seconds"
    return found


def write(result: Result, track: Track | None, svg_to: Path | None, png_to: Path | None) -> list[Path]:
    """The files written. `Unavailable` without cairosvg, `PairguardError` where a file cannot be written."""
    text = svg(result, track)
    written = []
    for path, content in ((svg_to, text.encode()), (png_to, png(text) if png_to is not None else b"")):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise PairguardError(f"cannot write {path}", str(error), "name another file") from error
        written.append(path)
    return written


def png(text: str) -> bytes:
    """Raises `Unavailable` where cairosvg, or the cairo it needs, is missing."""
    try:
        import cairosvg
    except (ImportError, OSError) as error:  # OSError: the library is there, libcairo is not
        raise Unavailable("cannot make a PNG", str(error), "pip install 'pairguard[pictures]', or use --svg") from error
    made: bytes = cairosvg.svg2png(bytestring=text.encode(), scale=1.5)
    return made


def svg(result: Result, track: Track | None) -> str:
    """The whole picture."""
    scenario, totals = result.work.plan.scenario, result.totals
    parts = [
        _text(20, 30, f"{scenario.name}: {scenario.text}", size=15, weight="bold"),
        _text(
            20,
            50,
            f"{totals.guarded.units:,} {scenario.unit}s, seeds {result.work.first} to "
            f"{result.work.first + max(totals.runs, 1) - 1}, commit {result.commit}",
        ),
    ]
    y = 74.0
    sides = [("with the guard", totals.guarded)]
    if totals.stock is not None:
        sides.append(("without the guard", totals.stock))
    for name, one in sides:
        parts += _shares(name, one, y)
        y += BAR + 12
    parts += _legend([(SHARE[n], WORDS[n]) for n in SHOTS], y + 8)
    y += 34
    for line in verdict(result)[:-1]:
        parts.append(_text(LEFT, y, line, size=11))
        y += 16
    if track is not None:
        below, y = _timeline(track, y + 16)
        parts += below
    height = round(y + 16)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="DejaVu Sans, Helvetica, sans-serif">'
    )
    return "\n".join((head, f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>', *parts, "</svg>")) + "\n"


def _shares(name: str, one: Side, y: float) -> list[str]:
    """One bar, as long as all units; shares too thin for words are said by the words beside the others."""
    parts = [_text(LEFT - 10, y + BAR / 2 + 4, name, anchor="end")]
    room, x = WIDTH - LEFT - RIGHT, float(LEFT)
    for n in SHOTS:
        if not one.shot[n]:
            continue
        part = one.shot[n] / one.units
        words = f"{100 * part:.3g} %  ({one.shot[n]:,})"
        parts.append(_rect(x, y, part * room, BAR, SHARE[n], f"{WORDS[n]}: {words}"))
        if part * room > 7 * len(words):
            parts.append(_text(x + part * room / 2, y + BAR / 2 + 4, words, anchor="middle", colour=PAPER))
        x += part * room
    return parts


def _timeline(track: Track, top: float) -> tuple[list[str], float]:
    """The lanes, and where they end."""
    length = max(track.end_s - track.start_s, 1e-3)

    def x(at_s: float) -> float:
        return LEFT + (min(max(at_s, track.start_s), track.end_s) - track.start_s) / length * (WIDTH - LEFT - RIGHT)

    parts = [_text(20, top, track.title, size=13, weight="bold")]
    top += 14
    bottom = top + LANE * len(track.lanes)
    step = next((s for s in TICKS_S if length / s <= TICKS_MAX), 3600 * (1 + int(length / 3600 / TICKS_MAX)))
    for n in range(int(length / step) + 1):
        at = x(track.start_s + n * step)
        parts.append(f'<path d="M{at:.1f} {top:.1f} V{bottom + 4:.1f}" stroke="{GRID}" stroke-width="0.6"/>')
        parts.append(_text(at, bottom + 16, f"{n * step} s", size=10, anchor="middle"))
    for lane, name in enumerate(track.lanes):
        y = top + lane * LANE
        parts.append(_text(LEFT - 10, y + LANE / 2 + 4, name, size=11, anchor="end"))
        for at_lane, kind, start, end in sorted(track.spans, key=lambda span: tuple(KINDS).index(span[1])):
            if at_lane != name:
                continue
            inset = INSETS.get(kind, 3.0)
            parts.append(
                _rect(x(start), y + inset, x(end) - x(start), LANE - 2 * inset, KINDS[kind][0], KINDS[kind][1])
            )
        for at_lane, kind, at_s, words in track.marks:
            if at_lane == name:
                parts.append(_cross(x(at_s), y + LANE / 2, KINDS[kind][0], words))
    seen = {kind for _, kind, _, _ in track.spans} | {kind for _, kind, _, _ in track.marks}
    parts += _legend([KINDS[kind] for kind in KINDS if kind in seen], bottom + 36)
    return parts, bottom + 40


def _legend(entries: Sequence[tuple[str, str]], y: float) -> list[str]:
    parts, x = [], float(LEFT)
    for colour, words in entries:
        parts += [_rect(x, y - 9, 12, 10, colour), _text(x + 17, y, words, size=11)]
        x += 42 + 6.4 * len(words)
    return parts


def _rect(x: float, y: float, width: float, height: float, colour: str, words: str = "") -> str:
    title = f"<title>{escape(words)}</title>" if words else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}">{title}</rect>'


def _cross(x: float, y: float, colour: str, words: str) -> str:
    shape = f"M{x - 6:.1f} {y - 6:.1f} l12 12 m0 -12 l-12 12"
    return f'<path d="{shape}" stroke="{colour}" stroke-width="3"><title>{escape(words)}</title></path>'


def _text(
    x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", weight: str = "normal", colour: str = INK
) -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
