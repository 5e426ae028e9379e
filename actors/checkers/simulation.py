"""Prediction of what a program returns or was given: the `codeio` form of ground truth, `"output": <json>`.

Equality is type-aware: `"true"` is not `true`, 1 is not true; floats agree to a relative 1e-6, 2 may stand for 2.0.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from actors.checkers.extract import NoAnswer, answer_tag, boxes, fences, final_part
from actors.checkers.plain import encode, same
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

_MISSING = object()


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Judge the value given under "output" or "input" (or bare) against the ground truth's."""
    key, expected = stated(problem.truth)
    answer, said = _said(text, key)
    right = said is not _MISSING and same(encode(expected), encode(said))
    reason = "" if right else ("no JSON value to be read" if said is _MISSING else "another value")
    return Verdict("correct" if right else "incorrect", float(right), extracted=answer[:500], reason=reason)


def stated(truth: Any) -> tuple[str, Any]:
    """("output" or "input", value) of a ground truth: the text `"output": 7`, or the object itself."""
    if isinstance(truth, str):
        stripped = truth.strip()
        truth = json.loads(stripped if stripped.startswith("{") else "{" + stripped + "}")
    for key in ("output", "input"):
        if isinstance(truth, dict) and key in truth:
            return key, truth[key]
    raise ValueError(f'ground truth without "output" or "input": {str(truth)[:80]}')


def _said(text: str, key: str) -> tuple[str, Any]:
    """(text, value) of the answer: of the candidates below the first that can be read, else of the first."""
    part = final_part(text)
    tagged = answer_tag(part)
    candidates = _candidates(part if tagged is None else tagged) or ([tagged] if tagged else [])
    if not candidates:
        raise NoAnswer("no answer: neither <answer> nor a json block nor \\boxed{}")
    values = ((candidate, _value(candidate, key)) for candidate in candidates)
    return next((said for said in values if said[1] is not _MISSING), (candidates[0], _MISSING))


def _candidates(scope: str) -> list[str]:
    """The last json fence, the last box (of which the prompts ask for both), the last fence of another language."""
    blocks, found = fences(scope), boxes(scope)
    json_blocks = [block.content for block in blocks if block.language == "json"]
    last_box = [found[-1].content.replace(r"\{", "{").replace(r"\}", "}").replace(r"\_", "_")] if found else []
    return json_blocks[-1:] + last_box + [block.content for block in blocks if block.language != "json"][-1:]


def _value(answer: str, key: str) -> Any:
    """The value that an answer states: an object with `key`, `"key": value` without its braces, or the bare value."""
    answer = answer.strip()
    if len(answer) > 100_000:
        raise NoAnswer("answer longer than 100000 characters")
    for candidate in (answer, "{" + answer + "}"):
        value = _load(candidate)
        if isinstance(value, dict) and key in value:
            return value[key]
        if value is not _MISSING and candidate is answer:
            return value
    return _MISSING


def _load(text: str) -> Any:
    """JSON, else a Python literal (a model that traces Python writes True and 'a'), else _MISSING."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # Python's spelling is tried next
    try:
        value = ast.literal_eval(text)
        encode(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _MISSING
    return _MISSING if isinstance(value, set) else value
