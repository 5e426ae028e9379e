"""What a checker may use beside the problem and the text: the sandbox, the time it may take, the profile of scoring.

Given as an argument so that a checker stays a pure function of its inputs and tests can hand in another sandbox.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.sandbox.backends import run
from actors.sandbox.result import RunResult
from conf.errors import UserError, did_you_mean

PROFILES = ("strict", "guru")


class NotSupported(Exception):
    """A kind of task that this version has no checker for: an error, never a wrong answer."""


@dataclass(frozen=True)
class Tools:
    """`run` executes model-written code; a program gets `code_timeout_s` for a test, all its tests `code_budget_s`.

    Both are wall-clock seconds, and the budget must end before the deadline that the verifier puts on a check: a slow
    program is a wrong answer, a check cut off by the verifier is an error. `profile`: "strict", or "guru" to score as
    the public Guru verifiers do (see guru.py). `judge` takes a prompt and gives a language model's reply to it; it may
    raise judge.JudgeFailed. None: there is no judge.
    """

    run: Callable[..., RunResult] = run
    code_timeout_s: float = 4.0
    code_budget_s: float = 8.0
    memory_mb: int = 512
    output_limit: int = 1 << 20
    profile: str = "strict"
    judge: Callable[[str], str] | None = None

    @classmethod
    def within(
        cls,
        timeout_s: float,
        run: Callable[..., RunResult] = run,
        profile: str = "strict",
        judge: Callable[[float], Callable[[str], str]] | None = None,
    ) -> Tools:
        """Tools whose time limits fit into a check's deadline of `timeout_s` seconds.

        `judge(seconds)` gives a judge that has that long for all it is asked.
        """
        budget = 0.8 * timeout_s
        seconds = {"code_timeout_s": min(4.0, 0.7 * timeout_s), "code_budget_s": budget}
        return cls(run, **seconds, profile=profile, judge=judge(budget) if judge else None)


def check_profile(name: str) -> str:
    """`name` if it is a profile's. Raises UserError."""
    if name not in PROFILES:
        raise UserError(f"unknown verifier profile {name!r}{did_you_mean(name, PROFILES)}; it is one of {PROFILES}")
    return name
