"""Two charts as inline SVG: lines over faint raw points, and stacked bars. No colour is fixed: CSS variables are.

Lengths are in units of the viewBox; a chart is meant to be shown at about its own width, so 12 units read as 12 px.
Every text that reaches a drawing is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from rl.report.series import Series

RIGHT, TOP, BOTTOM = 10.0, 8.0, 22.0
DIGIT = 7.0  # about the width of a character of 12 units
HOVER_COLUMNS = 50
MAX_MARKS = 60


@dataclass(frozen=True)
class Frame:
    """The plot area and its two scales. With `log` the y scale is logarithmic, and y0 > 0.

    `labels` are (value, text) of the y axis; the longest of them decides where the plot begins.
    """

    width: float
    height: float
    x0: float
    x1: float
    y0: float
    y1: float
    log: bool
    labels: tuple[tuple[float, str], ...]

    @property
    def left(self) -> float:
        return max(28.0, 10 + DIGIT * max((len(text) for _, text in self.labels), default=0))

    def x(self, step: float) -> float:
        return self.left + (self.width - self.left - RIGHT) * (step - self.x0) / (self.x1 - self.x0)

    def y(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.y0, self.y1, value))
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * (at - low) / (high - low)

    def shows(self, value: float) -> bool:
        return self.y0 <= value <= self.y1


@dataclass(frozen=True)
class Line:
    """A series in a colour (a CSS custom property such as "--c0")."""

    label: str
    series: Series
    colour: str


def line_chart(
    lines: Sequence[Line],
    *,
    width: float = 360,
    height: float = 190,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    from_zero: bool = False,
    log: bool = False,
    behind: Series | None = None,
) -> str:
    """Lines over a common step axis (`x_range`: its ends, else those of the lines).

    `behind` is drawn in grey for comparison, without raw points. `log` is given up where half of the values or more
    are not positive.
    """
    values = np.concatenate([column for line in lines for column in (line.series.values, line.series.smooth)])
    log = log and bool((values > 0).mean() > 0.5)
    y0, y1 = y_range or _range(values[values > 0] if log else values, from_zero, log)
    steps = np.concatenate([line.series.steps for line in lines])
    frame = _frame(width, height, x_range or (steps.min(), steps.max()), y0, y1, log)
    parts = [_axes(frame)]
    if behind is not None:
        parts.append(f'<path class="behind" d="{_path(frame, behind.steps, behind.smooth)}"/>')
    for line in lines:
        parts.append(_line(frame, line))
    parts.append(_hover(frame, [(line.label, line.series.steps, line.series.values) for line in lines]))
    return _svg(frame, parts)


def stacked_chart(
    steps: np.ndarray,
    columns: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    *,
    width: float = 360,
    height: float = 190,
    x_range: tuple[float, float] | None = None,
) -> str:
    """Values [N] of each column on top of each other, one bar a step; `colours` maps a column to a CSS property."""
    top = sum(columns.values(), np.zeros(len(steps)))
    first, last = x_range or (steps.min(), steps.max())
    frame = _frame(width, height, (first - 0.5, last + 0.5), 0.0, float(top.max()) or 1.0, log=False)
    # A bar reaches half-way to its neighbours: steps may be means of several, and may have gaps.
    middle = (steps[1:] + steps[:-1]) / 2
    half = (middle[0] - steps[0], steps[-1] - middle[-1]) if len(middle) else (0.5, 0.5)
    ends = np.clip([steps[0] - half[0], steps[-1] + half[1]], frame.x0, frame.x1)
    edges = np.concatenate([ends[:1], middle, ends[1:]])
    parts, base = [_axes(frame)], np.zeros(len(steps))
    for name, values in columns.items():
        parts.append(f'<path d="{_bars(frame, edges, base, base + values)}" style="fill:var({colours[name]})"/>')
        base = base + values
    parts.append(_hover(frame, [(name, steps, values) for name, values in columns.items()]))
    return _svg(frame, parts)


def number(value: float) -> str:
    """A value for reading: 0.61, 84.3, 13.2k, 6.3·10⁻⁵."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e4:
        return f"{value / 1e6:.3g}M" if size >= 1e6 else f"{value / 1e3:.3g}k"
    if size >= 1e-3:
        return f"{value:.3g}" if size < 1000 else f"{value:.0f}"
    exponent = math.floor(math.log10(size))
    mantissa = f"{value / 10**exponent:.2g}"
    power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values (1, 2, 2.5 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    spacing = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / spacing - 1e-9)
    return [k * spacing for k in range(first, math.floor(high / spacing + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; with 2 and 5 times them where there would be fewer than three."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = [10.0**e for e in exponents if low <= 10.0**e <= high]
    if len(decades) > 6:
        return decades[:: math.ceil(len(decades) / 6)]
    finer = [f * 10.0**e for e in exponents for f in (1, 2, 5) if low <= f * 10.0**e <= high]
    return decades if len(decades) >= 3 else finer


def _range(values: np.ndarray, from_zero: bool, log: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if log:
        return low / 1.3, high * 1.3
    if from_zero and low >= 0:
        return 0.0, 1.06 * high or 1.0
    flat = high - low <= 1e-9 * max(abs(high), abs(low))  # rounding apart, one value
    pad = (0.1 * abs(high) or 1.0) if flat else 0.06 * (high - low)
    return low - pad, high + pad


def _frame(width: float, height: float, x_range: tuple[float, float], y0: float, y1: float, log: bool) -> Frame:
    x0, x1 = (float(x) for x in x_range)
    if x0 == x1:
        x0, x1 = x0 - 0.5, x1 + 0.5
    values = log_ticks(y0, y1) if log else ticks(y0, y1)
    return Frame(width, height, x0, x1, y0, y1, log, tuple((value, number(value)) for value in values))


def _axes(frame: Frame) -> str:
    parts = []
    for value, label in frame.labels:
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{frame.width - RIGHT:.1f}"/>')
        parts.append(f'<text x="{frame.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return "".join(parts) + _step_labels(frame)


def _step_labels(frame: Frame) -> str:
    """The first label is also the axis title; the others keep clear of it and of the right edge."""
    baseline = f"{frame.height - 6:.1f}"
    first = math.ceil(frame.x0)
    title = f"step {first}"
    parts = [f'<text x="{frame.left:.1f}" y="{baseline}">{title}</text>']
    for step in ticks(frame.x0, frame.x1, 5):
        x, label = frame.x(step), number(step)
        half = DIGIT * len(label) / 2
        at_edge = x + half > frame.width
        left_end = x - (2 * half if at_edge else half)
        if first < step == int(step) and left_end > frame.left + DIGIT * len(title) + 4:
            anchor = "end" if at_edge else "middle"
            parts.append(f'<text x="{x:.1f}" y="{baseline}" text-anchor="{anchor}">{label}</text>')
    return "".join(parts)


def _line(frame: Frame, line: Line) -> str:
    curve = line.series
    style = f'style="stroke:var({line.colour})"'
    # A segment of no length with round ends is a dot: one path holds them all.
    shown = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if frame.shows(v)]
    dots = "".join(f"M{frame.x(s):.1f} {frame.y(v):.1f}h0" for s, v in shown)
    kind = "marks" if curve.sparse and len(curve.steps) <= MAX_MARKS else "dots"
    path = _path(frame, curve.steps, curve.smooth)
    return f'<path class="{kind}" {style} d="{dots}"/><path class="line" {style} d="{path}"/>'


def _path(frame: Frame, steps: np.ndarray, values: np.ndarray) -> str:
    points = [f"{frame.x(s):.1f} {frame.y(v):.1f}" for s, v in zip(steps, values, strict=True) if frame.shows(v)]
    return "M" + "L".join(points) if points else ""


def _bars(frame: Frame, edges: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The outline of touching bars: along their tops from left to right, and back along their feet."""
    xs = [f"{frame.x(edge):.1f}" for edge in edges]
    tops = "".join(f"V{frame.y(value):.1f}H{x}" for value, x in zip(high, xs[1:], strict=True))
    feet = "".join(f"V{frame.y(value):.1f}H{x}" for value, x in zip(low[::-1], xs[-2::-1], strict=True))
    return f"M{xs[0]} {frame.y(low[0]):.1f}{tops}{feet}Z"


def _hover(frame: Frame, columns: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> str:
    """Invisible columns whose tooltip gives the values: reading a chart needs no script."""
    every = np.unique(np.concatenate([steps for _, steps, _ in columns]))
    count = min(HOVER_COLUMNS, len(every))
    edges = np.linspace(frame.x0, frame.x1, count + 1)
    parts = []
    for left, right in pairwise(edges):
        inside = every[(every >= left) & (every <= right)]
        if not len(inside):
            continue
        first, last = math.ceil(inside[0]), math.floor(inside[-1])
        text = [f"step {first}" if first >= last else f"steps {first}–{last}"]
        for label, steps, values in columns:
            there = values[(steps >= left) & (steps <= right)]
            if len(there):
                text.append(f"{label} {number(float(there.mean()))}")
        x, wide = frame.x(left), frame.x(right) - frame.x(left)
        parts.append(
            f'<rect x="{x:.1f}" y="{TOP}" width="{wide:.1f}" height="{frame.height - TOP - BOTTOM:.0f}">'
            f"<title>{escape(chr(10).join(text))}</title></rect>"
        )
    return f'<g class="hover">{"".join(parts)}</g>'


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {frame.width:.0f} {frame.height:.0f}" role="img">{"".join(parts)}</svg>'
