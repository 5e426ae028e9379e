"""Checkers: pure functions that judge the text of a completion against a problem's ground truth.

`check(problem, text, tools)` never raises and never guesses: what it cannot parse is incorrect (with the reason), and
what fails in the checker itself is an `error`, which nobody may count as a wrong answer.
"""

from __future__ import annotations

import time
from dataclasses import replace

from actors.checkers.extract import NoAnswer
from actors.checkers.routes import UnknownSource, route
from actors.checkers.tools import NotSupported, Tools
from actors.messages import Problem, Verdict

__all__ = ["Tools", "UnknownSource", "check", "route"]


def check(problem: Problem, text: str, tools: Tools | None = None) -> Verdict:
    """Judge `text` as an answer to `problem`; `seconds` is the wall-clock time it took."""
    started, tools = time.perf_counter(), tools or Tools()
    try:
        verdict = route(problem.data_source, tools.profile)(problem, text, tools)
    except NoAnswer as missing:
        verdict = Verdict("incorrect", 0.0, reason=str(missing))
    except (UnknownSource, NotSupported) as unknown:
        verdict = Verdict("error", 0.0, reason=str(unknown))
    except Exception as failure:  # whatever a checker trips over is the checker's failure, not the answer's
        verdict = Verdict("error", 0.0, reason=f"checker failed: {type(failure).__name__}: {failure}"[:500])
    return replace(verdict, seconds=time.perf_counter() - started)
