"""Plausible mistakes for worked traces, so that the starter's data has the mixed quality of real distilled data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

OFFSETS = (-1, 1, -2, 2, -10, 10)


class Slip:
    """Makes mistakes at the steps of a trace: a solver passes each step's result through `number` or `pick`.

    Every call slips on its own with probability `rate`, so a longer trace is wrong more often. The solver goes on
    with the value it gets back: the rest of the trace is consistent with the mistake. `calls` and `made` count.
    """

    def __init__(self, rng: random.Random, rate: float) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"a slip rate lies in [0, 1], not {rate}")
        self._rng = rng
        self.rate = rate
        self.calls = 0
        self.made = 0

    @classmethod
    def none(cls) -> Slip:
        """A slip that never happens: clean traces."""
        return cls(random.Random(0), 0.0)

    def number(self, value: int, low: int | None = None, high: int | None = None) -> int:
        """`value`, or (with probability `rate`) a wrong number near it, within [low, high]; low defaults to 0
        for a value that is not negative. The value comes back where the range leaves no other."""
        if not self._slips():
            return value
        floor = low if low is not None else (0 if value >= 0 else None)
        wrong = [v for v in self._near(value) if (floor is None or v >= floor) and (high is None or v <= high)]
        return self._other(value, wrong)

    def pick(self, value: T, options: Sequence[T]) -> T:
        """`value`, or (with probability `rate`) another of the `options`, where there is another."""
        if not self._slips():
            return value
        return self._other(value, [option for option in options if option != value])

    def _slips(self) -> bool:
        self.calls += 1
        return self.rate > 0.0 and self._rng.random() < self.rate

    def _other(self, value: T, wrong: Sequence[T]) -> T:
        if not wrong:
            return value
        self.made += 1
        return self._rng.choice(wrong)

    @staticmethod
    def _near(value: int) -> list[int]:
        near = {value + offset for offset in OFFSETS}
        digits = str(abs(value))
        if len(digits) > 1:
            swapped = int(digits[:-2] + digits[-1] + digits[-2])
            near.add(-swapped if value < 0 else swapped)
        return sorted(near - {value})
