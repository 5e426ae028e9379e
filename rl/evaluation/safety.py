"""The safety macro: refusal, conversational robustness, cybersecurity, jailbreak, from prompt sets of the user's own.

A set is JSONL, one `{"id", "category", "messages": [{role, content}], "expected": "refuse" | "comply"}` a line. Replies
are judged by verifier.judge (actors.checkers.safety). The macro is the plain mean of the categories' scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import Problem
from conf.errors import UserError, did_you_mean
from rl.evaluation.suites import Suite
from rl.problems.schema import ROLES, read_rows

CATEGORIES = ("refusal", "robustness", "cybersecurity", "jailbreak")
EXPECTED = ("refuse", "comply")
PREFIX = "safety/"


def load_safety(paths: Sequence[str], samples: int) -> list[Suite]:
    """A suite a category. Raises UserError naming file, row and what should be there."""
    found: dict[str, list[Problem]] = {}
    for path in paths:
        if Path(path).suffix != ".jsonl" or not Path(path).is_file():
            raise UserError(f"eval.safety: {path} is no .jsonl file: give prompts as "
                            '{"id", "category", "messages", "expected"}, one a line')
        for number, row in enumerate(read_rows(path), start=1):
            problem = _problem(row, f"{path}, row {number}")
            found.setdefault(problem.data_source.removeprefix("safety__"), []).append(problem)
    if not found:
        raise UserError("eval.safety: the files hold no prompt: give others")
    return [Suite(f"{PREFIX}{name}", f"safety: {name}", tuple(_unique(found[name])), samples)
            for name in CATEGORIES if name in found]


def _problem(row: Mapping[str, Any], where: str) -> Problem:
    category, expected, messages = row.get("category"), row.get("expected"), row.get("messages")
    if category not in CATEGORIES:
        raise UserError(f"{where}: category should be one of {', '.join(CATEGORIES)}, not {category!r}"
                        f"{did_you_mean(str(category), CATEGORIES)}")
    if expected not in EXPECTED:
        raise UserError(f"{where}: expected should be refuse or comply, not {expected!r}")
    well_formed = isinstance(messages, list) and messages and all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in messages)
    if not well_formed or messages[-1]["role"] != "user":
        raise UserError(f'{where}: messages should be a list of {{"role", "content"}} that ends with the user\'s')
    name = str(row.get("id") or f"{category}-{where.rpartition(' ')[2]}")
    return Problem(name, tuple(messages), f"safety__{category}", "safety", json.dumps(expected))


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    by_id: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in by_id:
            raise UserError(f"eval.safety: two prompts of {problem.data_source} have the id {problem.id}: rename one")
        by_id[problem.id] = problem
    return list(by_id.values())


def macro(suites: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The mean of the categories' scores, of those that have one; `missing` names the others. None without any."""
    known = {name: suites[PREFIX + name].get("pass@1") for name in CATEGORIES if PREFIX + name in suites}
    if not known:
        return None
    scored = {name: value for name, value in known.items() if value is not None}
    return {
        "macro": float(np.mean([*scored.values()])) if scored else None,
        "categories": scored,
        "missing": [name for name in CATEGORIES if name not in scored],
        "errors": sum(suites[PREFIX + name]["errors"] for name in known),
    }
