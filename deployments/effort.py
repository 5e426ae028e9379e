"""What a request's `reasoning_effort` stands for, and the settings of one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.planner import Effort

MAX_N = 64


@dataclass(frozen=True)
class Level:
    """What an effort means: whether to plan, how many candidates, and when to stop (see selection.py)."""

    plan: bool
    n: int
    stop_at: float


EFFORTS: Mapping[str, Level] = {
    "low": Level(False, 1, 1.0),
    "medium": Level(True, 3, 1.0),
    "high": Level(True, 8, 0.95),
}


@dataclass(frozen=True)
class ScaffoldSettings:
    """One question's settings. `n` and `plan` None: as `effort` says (a plan where it pays, one greedy candidate).

    `deadline_s` bounds the whole run, `max_tokens` each candidate; candidate i samples with `seed` + i. The rest goes
    to the solver as it is. `live` False: nobody reads along, `CandidateDelta`s may be few. `prune`: see pruning.py.
    Raises ValueError for what cannot be.
    """

    effort: Effort = "medium"
    n: int | None = None
    plan: bool | None = None
    deadline_s: float = 300.0
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    response_format: Mapping[str, Any] | None = None
    live: bool = True
    prune: bool = True

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise ValueError(f"effort is one of {', '.join(EFFORTS)}, not {self.effort!r}")
        if self.n is not None and not 1 <= self.n <= MAX_N:
            raise ValueError(f"n lies between 1 and {MAX_N}, not {self.n}")
        if not self.deadline_s > 0 or self.max_tokens < 1:
            raise ValueError(f"deadline_s > 0 and max_tokens >= 1: {self.deadline_s}, {self.max_tokens}")

    @property
    def level(self) -> Level:
        return EFFORTS[self.effort]

    @property
    def candidates(self) -> int:
        """How many are asked for: samples at temperature 0 are all the same one."""
        return self.n or (1 if self.temperature == 0 else self.level.n)
