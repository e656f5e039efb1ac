"""A run as a picture (SVG, and PNG through cairosvg): a lane a node, services as bars, shots as marks."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from tests.lab.plan import nodes_of
from tests.lab.record import Event, Interval, Record, spans

WIDTH, LEFT, RIGHT, LANE, TOP = 1180, 96, 24, 26, 86
BEFORE_S = 4.0
COLOURS = {
    "on": "#e3e8ee",
    "service": "#2f7d4f",
    "freeze": "#cfe3f7",
    "shot": "#c0392b",
    "command": "#e08e0b",
    "guard": "#6a4fb3",
    "text": "#1d2733",
    "grid": "#c9d1da",
}
# The guard's own events (guard/events.py) that change what may happen, and the word below their tick.
GUARD_MARKS = {
    "braked": "brake",
    "hold-opened": "hold opened",
    "property-set": "hold",
    "held-peer-alive": "alone, held",
    "released": "release",
    "won": "won",
    "confirmed-off": "peer off",
    "person": "asks a person",
    "era-closed": "era closed",
}
WORD, WORD_SHIFT_MAX = 12, 44  # pixels: height of a line of words below a lane; how far a word may stand from its tick


class _Scale:
    """Seconds since the freeze to pixels."""

    def __init__(self, record: Record) -> None:
        self.zero = record.marks.get("freeze", record.events[0].at_s if record.events else 0.0)
        self.begin = self.zero - BEFORE_S
        self.end = max(record.marks.get("watched", self.zero + 1.0), self.zero + 1.0)

    def x(self, at_s: float) -> float:
        inside = min(max(at_s, self.begin), self.end)
        return LEFT + (inside - self.begin) / (self.end - self.begin) * (WIDTH - LEFT - RIGHT)

    def seen(self, at_s: float) -> bool:
        return self.begin <= at_s <= self.end


def draw(record: Record, out: Path) -> list[Path]:
    """Write timeline.svg and, where cairosvg can be imported, timeline.png. Returns what was written."""
    return kept(svg(record), out / "timeline.svg")


def kept(text: str, place: Path) -> list[Path]:
    """Write an SVG and, where cairosvg can be imported, the PNG beside it. Returns what was written."""
    written = [place]
    written[0].write_text(text)
    try:
        import cairosvg
    except (ImportError, OSError):  # OSError: the library is there, libcairo is not
        return written
    png = place.with_suffix(".png")
    cairosvg.svg2png(bytestring=text.encode(), write_to=str(png), scale=1.5)
    written.append(png)
    return written


def svg(record: Record) -> str:
    """The whole picture."""
    scale = _Scale(record)
    lanes = [name for row in record.rows for name in nodes_of(str(row["pair"]))]
    lane = LANE + (WORD if any(_marks(record, scale, name) for name in lanes) else 0)
    height = TOP + lane * len(lanes) + 10 * len(record.rows) + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="DejaVu Sans, Helvetica, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 24, record.title, size=16, weight="bold"),
        _text(LEFT, 44, summary(record), size=12),
    ]
    bottom = height - 44
    parts += _freeze_band(record, scale, bottom) + _axis(scale, bottom)
    y = TOP
    for row in record.rows:
        for name in nodes_of(str(row["pair"])):
            parts += _lane(record, scale, name, y, primary=row["primary"] == name)
            y += lane
        y += 10
    parts += _legend(height - 14)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def summary(record: Record) -> str:
    """What the rows add up to, in one line."""
    shots = [len(row["shot"]) for row in record.rows if isinstance(row["shot"], list | tuple)]
    down = sum(1 for row in record.rows if not row["service_up"])
    return (
        f"pairs with both nodes shot: {shots.count(2)}, one: {shots.count(1)}, none: {shots.count(0)}; "
        f"service down at the end: {down} of {len(record.rows)}"
    )


def _freeze_band(record: Record, scale: _Scale, bottom: float) -> list[str]:
    if "freeze" not in record.marks:
        return []
    left, right = scale.x(record.marks["freeze"]), scale.x(record.marks.get("thaw", scale.end))
    return [
        _rect(left, TOP - 16, right - left, bottom - TOP + 16, COLOURS["freeze"]),
        _text(
            left + 4,
            TOP - 4,
            f"network frozen {record.marks.get('thaw', scale.end) - record.marks['freeze']:.1f} s",
            size=11,
        ),
    ]


def _axis(scale: _Scale, bottom: float) -> list[str]:
    parts = []
    length = scale.end - scale.begin
    step = next(s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 3600) if length / s <= 16 or s == 3600)
    second = -int(BEFORE_S // step) * step
    while scale.zero + second <= scale.end:
        x = scale.x(scale.zero + second)
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 2}" x2="{x:.1f}" y2="{bottom}" stroke="{COLOURS["grid"]}" '
            'stroke-width="0.6"/>'
        )
        parts.append(_text(x, bottom + 14, f"{second:+d} s" if second else "0", size=10, anchor="middle"))
        second += step
    return parts


def _lane(record: Record, scale: _Scale, name: str, y: float, *, primary: bool) -> list[str]:
    parts = [
        _text(LEFT - 8, y + 15, name + (" *" if primary else ""), anchor="end", weight="bold" if primary else "normal")
    ]
    offs = [e.at_s for e in record.of("power-off", name)]
    powered = spans([e.at_s for e in record.of("power-on", name)], offs, scale.end)
    parts += [_bar(scale, one, y + 3, LANE - 8, COLOURS["on"]) for one in powered]
    services = record.of("service", name)
    ends = [e.at_s for e in services if e.detail == "stop"] + offs
    running = spans([e.at_s for e in services if e.detail == "start"], ends, scale.end)
    parts += [_bar(scale, one, y + 6, LANE - 14, COLOURS["service"]) for one in running]
    parts += [_thin(scale, one, y + LANE - 7, name) for one in pending(record, name, scale.end)]
    marks = _marks(record, scale, name)
    parts += [_tick(scale.x(event.at_s), y, COLOURS["guard"], f"{name}: {event.detail}") for event, _ in marks]
    parts += _words([(scale.x(event.at_s), word) for event, word in marks], y + LANE + WORD - 6)
    for event in record.of("off-accepted", name):
        if scale.seen(event.at_s):
            parts.append(_tick(scale.x(event.at_s), y, COLOURS["command"], f"off accepted from {event.detail}"))
    parts += [_cross(scale.x(moment), y + LANE / 2 - 1, name) for moment in offs if scale.seen(moment)]
    return parts


def _marks(record: Record, scale: _Scale, name: str) -> list[tuple[Event, str]]:
    """The guard's steps of a node that the picture shows, each with its word."""
    found = [(event, event.detail.split(":")[0]) for event in record.of("guard", name) if scale.seen(event.at_s)]
    return [(event, GUARD_MARKS[kind]) for event, kind in found if kind in GUARD_MARKS]


def _words(marks: list[tuple[float, str]], y: float) -> list[str]:
    """Words below their ticks, in their order; one that finds no room near its tick is left to the tick's own title."""
    parts: list[str] = []
    free, last = float(LEFT), ""
    for x, word in marks:
        length = 5.4 * len(word)
        left = max(min(x - 1.5, WIDTH - RIGHT - length), free)
        if word != last and left - x <= WORD_SHIFT_MAX and left + length <= WIDTH:
            parts.append(_text(left, y, word, size=10))
            free = left + length + 6
        last = word
    return parts


def pending(record: Record, name: str, until_s: float) -> list[Interval]:
    """When a fence agent that this node started was at work (or its command waited in the frozen network)."""
    agents = record.of("agent", name)
    starts = [e.at_s for e in agents if e.detail.split()[0] == "agent-off"]
    ends = [e.at_s for e in agents if e.detail.split()[0] in ("agent-off-done", "agent-off-failed")]
    return spans(starts, ends + [e.at_s for e in record.of("power-off", name)], until_s)


def _legend(y: float) -> list[str]:
    entries = [
        ("on", "power on"),
        ("service", "service runs"),
        ("freeze", "network frozen"),
        ("command", "fence agent at work; | its power-off accepted"),
        ("shot", "power off"),
        ("guard", "the guard's step"),
    ]
    parts, x = [], float(LEFT)
    for colour, words in entries:
        parts.append(_rect(x, y - 9, 12, 10, COLOURS[colour]))
        parts.append(_text(x + 16, y, words, size=11))
        x += 36 + 6.2 * len(words)
    parts.append(_text(x, y, "* primary before the freeze", size=11))
    return parts


def _rect(x: float, y: float, width: float, height: float, colour: str, words: str = "") -> str:
    title = f"<title>{escape(words)}</title>" if words else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}">{title}</rect>'


def _bar(scale: _Scale, one: Interval, y: float, height: float, colour: str) -> str:
    left, right = scale.x(one.start_s), scale.x(one.end_s)
    return _rect(left, y, right - left, height, colour)


def _thin(scale: _Scale, one: Interval, y: float, name: str) -> str:
    left, right = scale.x(one.start_s), scale.x(one.end_s)
    return _rect(left, y, right - left, 3, COLOURS["command"], f"{name}: fence agent at work")


def _tick(x: float, y: float, colour: str, words: str) -> str:
    return _rect(x - 1.5, y + 1, 3, LANE - 4, colour, words)


def _cross(x: float, y: float, name: str) -> str:
    return (
        f'<path d="M{x - 6:.1f} {y - 6:.1f} l12 12 m0 -12 l-12 12" stroke="{COLOURS["shot"]}" stroke-width="3">'
        f"<title>{escape(name)}: power off</title></path>"
    )


def _text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{COLOURS["text"]}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
