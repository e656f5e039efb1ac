"""The table as a picture: for each row the share of its pairs by nodes shot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tests.lab.picture import kept

WIDTH, LEFT, RIGHT, TOP, BAR = 1080, 460, 90, 64, 22
SHARES = (("#2f7d4f", "nobody shot"), ("#e08e0b", "one node shot"), ("#c0392b", "both nodes shot"))


def draw(rows: Sequence[tuple[str, Sequence[int]]], out: Path) -> list[Path]:
    """table.svg and, where cairosvg can be imported, table.png. `rows`: (title, pairs by nodes shot)."""
    return kept(svg(rows), out / "table.svg")


def svg(rows: Sequence[tuple[str, Sequence[int]]]) -> str:
    height = TOP + BAR * len(rows) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="DejaVu Sans, Helvetica, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="16" font-weight="bold" fill="#1d2733">Nodes shot in a network freeze</text>',
    ]
    for place, (colour, words) in enumerate(SHARES):
        x = LEFT + place * 160
        parts.append(f'<rect x="{x}" y="36" width="14" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="48" fill="#1d2733">{words}</text>')
    for number, (title, shot) in enumerate(rows):
        y, of, x = TOP + BAR * number, sum(shot), float(LEFT)
        parts.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end" fill="#1d2733">{escape(title)}</text>')
        for (colour, words), count in zip(SHARES, shot, strict=True):
            width = (WIDTH - LEFT - RIGHT) * count / of if of else 0.0
            if width:
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR - 6}" fill="{colour}">'
                    f"<title>{words}: {count} of {of}</title></rect>"
                )
            x += width
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 14}" fill="#1d2733">{of} pairs</text>')
    return "\n".join((*parts, "</svg>\n"))
