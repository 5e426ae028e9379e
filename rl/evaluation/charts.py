"""The two drawings of an evaluation's page, as inline SVG coloured by the report's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

LABEL, RIGHT, ROW = 170.0, 28.0, 26.0
COLOURS = ("--c0", "--c1", "--c2", "--c3", "--c4", "--c5")


@dataclass(frozen=True)
class Dot:
    """A score in [0, 1] with its interval; `runs` are faint dots, `mark` a published figure (a diamond)."""

    label: str
    value: float
    low: float
    high: float
    runs: Sequence[float] = ()
    mark: float | None = None


def whiskers(dots: Sequence[Dot], width: float = 900, label: float = LABEL) -> Markup:
    """One row a score: interval as a line, score as a dot, runs and the published figure behind it."""
    height = ROW * len(dots) + 24

    def x(value: float) -> float:
        return label + (width - label - RIGHT) * min(max(value, 0.0), 1.0)

    parts = []
    for tick in range(0, 101, 20):
        at = x(tick / 100)
        parts.append(f'<path class="grid" d="M{at:.1f} 4V{height - 20:.1f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 5:.1f}" text-anchor="middle">{tick} %</text>')
    for number, dot in enumerate(dots):
        parts += _row(dot, 4 + ROW * (number + 0.5), x, label)
    return Markup(f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>')


def _row(dot: Dot, y: float, x, label: float) -> list[str]:
    runs = "".join(f"M{x(run):.1f} {y:.1f}h0" for run in dot.runs)
    parts = [f'<text x="{label - 12:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(dot.label)}</text>',
             f'<path class="runs" d="{runs}"/>' if runs else "",
             f'<path class="span" d="M{x(dot.low):.1f} {y:.1f}H{x(dot.high):.1f}"/>']
    if dot.mark is not None:
        at = x(dot.mark)
        parts.append(f'<path class="mark" d="M{at:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>')
    told = f"{dot.label}: {dot.value:.1%}, interval {dot.low:.1%} to {dot.high:.1%}"
    told += f"; published {dot.mark:.1%}" if dot.mark is not None else ""
    parts.append(f'<circle class="score" cx="{x(dot.value):.1f}" cy="{y:.1f}" r="5"/>')
    parts.append(f'<g class="hover"><rect x="0" y="{y - ROW / 2:.1f}" width="{x(1) + RIGHT:.1f}" height="{ROW:.0f}">'
                 f"<title>{escape(told)}</title></rect></g>")
    return parts


def curves(lines: Mapping[str, Mapping[int, float]], width: float = 430, height: float = 230) -> Markup:
    """Shares in [0, 1] over k on a logarithmic axis (k = 1, 2, 4, ...), one line a label."""
    left, bottom, top = 44.0, height - 24, 10.0
    ks = sorted({k for line in lines.values() for k in line})
    reach = max(math.log2(ks[-1]), 1)

    def x(k: int) -> float:
        return left + 8 + (width - left - 24) * math.log2(k) / reach

    def y(value: float) -> float:
        return bottom - (bottom - top) * value

    parts = []
    for tick in range(0, 101, 25):
        parts.append(f'<path class="grid" d="M{left} {y(tick / 100):.1f}H{width - 8:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick / 100) + 4:.1f}" text-anchor="end">{tick} %</text>')
    for k in ks:
        name = f"k = {k}" if k == ks[0] else str(k)
        parts.append(f'<text x="{x(k):.1f}" y="{height - 6:.1f}" text-anchor="middle">{name}</text>')
    for number, (label, line) in enumerate(lines.items()):
        points = [f"{x(k):.1f} {y(value):.1f}" for k, value in sorted(line.items())]
        style = f'style="stroke:var({COLOURS[number % len(COLOURS)]})"'
        told = escape(f"{label}: " + ", ".join(f"@{k} {v:.1%}" for k, v in sorted(line.items())))
        dots = "".join(f"M{point}h0" for point in points)
        parts.append(f'<path class="line" {style} d="M{"L".join(points)}"/>'
                     f'<path class="marks" {style} d="{dots}"><title>{told}</title></path>')
    return Markup(f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>')
