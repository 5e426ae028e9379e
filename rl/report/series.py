"""Curves out of metrics.jsonl: a step axis, values with gaps, a smooth line, and no more points than can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_POINTS = 240


@dataclass(frozen=True)
class Series:
    """`steps` float64 [N] increasing, `values` float64 [N] (finite), `smooth` float64 [N]: a Gaussian mean of them.

    More than `MAX_POINTS` measurements are averaged in bins, so N <= MAX_POINTS; `first` and `last` are smoothed
    values. A series measured only now and then (evaluations) is not smoothed.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    smooth: np.ndarray
    sparse: bool

    @property
    def first(self) -> float:
        return float(self.smooth[0])

    @property
    def last(self) -> float:
        return float(self.smooth[-1])


def series(metrics: Sequence[Mapping[str, Any]], name: str, *, exact: bool = False) -> Series | None:
    """The values of one metric, None where it was never measured. Rows without it, or with null, are gaps.

    `exact`: the line goes through the values themselves (a schedule has no noise to average away).
    """
    pairs = [(row["step"], row[name]) for row in metrics if isinstance(row.get(name), (int, float))]
    steps, values = np.array(pairs, float).reshape(len(pairs), 2).T
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not len(steps):
        return None
    sparse = len(steps) <= max(2, 0.3 * len(metrics))
    smooth = values if sparse or exact else gaussian_mean(values, width=max(len(values) / 30, 1.0))
    return Series(name, binned(steps), binned(values), binned(smooth), sparse)


def gaussian_mean(values: np.ndarray, width: float) -> np.ndarray:
    """Mean of the neighbours of each value [N], weighted by a Gaussian of `width` samples; edges are renormalised."""
    radius = min(int(np.ceil(3 * width)), len(values) - 1)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)

    def blurred(signal: np.ndarray) -> np.ndarray:
        return np.convolve(signal, kernel, mode="full")[radius : radius + len(signal)]

    return blurred(values) / blurred(np.ones_like(values))


def binned(values: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Means of at most `limit` runs of neighbours, of nearly equal length [min(N, limit)]."""
    if len(values) <= limit:
        return values
    edges = np.linspace(0, len(values), limit + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def stack(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps [N] and, for each metric measured at all, its values [N], 0 where a step lacks it; binned alike."""
    rows = [row for row in metrics if any(isinstance(row.get(name), (int, float)) for name in names)]
    table = np.array([[_or_zero(row.get(name)) for name in names] for row in rows]).reshape(len(rows), len(names))
    columns = {name: binned(table[:, i]) for i, name in enumerate(names) if table[:, i].any()}
    return binned(np.array([row["step"] for row in rows], float)), columns


def _or_zero(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) and value > 0 else 0.0
