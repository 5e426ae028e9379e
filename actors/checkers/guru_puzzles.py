"""Puzzles, grids and predicted values in the `guru` profile: the last `<answer>` or the first fence, read as Guru did.

The quirks that decide a score there are kept: thinking is not stripped, so what stands last (or first, for a fence)
counts wherever it stands; `<answer>` must open and close on one line except for grids; cells of a zebra table are equal
only with their types, and rows too many do not count; an unreadable prediction is `null`. Answers are read as literals:
where the original would have called `eval` the answer is incorrect.
"""

from __future__ import annotations

import json
import re
from typing import Any

from actors.checkers import logic, simulation
from actors.checkers.extract import ANSWER_CLOSE, ANSWER_OPEN, NoAnswer
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

_WORDS = re.compile(r"[\w\s]+")


def grid(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the list from `[[` to the first `]]` in the last `<answer>` is the grid. Sources: ARC, BARC."""
    answer = last_answer(text, across_lines=True).replace("\n", "").replace("...", "-1")
    start = answer.find("[[")
    end = answer.find("]]", start) + 2
    if start < 0 or end < 2:
        raise NoAnswer("no answer: no grid [[...]]")
    rows = logic.literal(answer[start:end])
    try:
        said = [[int(cell) for cell in row] for row in rows]
    except (TypeError, ValueError, OverflowError):
        raise NoAnswer("no answer: no grid of numbers") from None
    right = all(isinstance(row, list) for row in rows) and said == logic.container(problem.truth)
    return verdict(right, answer[start:end], "another grid")


def zebra(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score: the share of the table's cells that stand at their row and column, 0 where one of them is missing."""
    answer = last_answer(text)
    said, truth = logic.literal(answer), logic.container(problem.truth)
    cells = [(i, j, cell) for i, row in enumerate(truth["rows"]) for j, cell in enumerate(row)]
    try:
        right = sum(said["rows"][i][j] == cell for i, j, cell in cells)
    except (TypeError, KeyError, IndexError):
        raise NoAnswer("no answer: not an object with all the rows") from None
    score = right / len(cells)
    reason = f"{right}/{len(cells)} cells"
    return Verdict("correct" if score == 1 else "incorrect", score, extracted=answer[:500], reason=reason)


def ordering(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the words in the first brackets of the last `<answer>` are the names in their order."""
    answer = last_answer(text)
    start = answer.find("[")
    end = answer.find("]", start)
    if start < 0 or end < 0:
        raise NoAnswer("no answer: no [list]")
    names = [name.lower().strip() for name in _WORDS.findall(answer[start:end]) if name.strip()]
    return verdict(names == logic.container(problem.truth), ", ".join(names), "the order of the names")


def graph(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the last `<answer>` is the word, in whatever case."""
    answer = last_answer(text)
    right = re.fullmatch("[A-Za-z]+", answer) is not None and answer.lower() == str(problem.truth).lower()
    return verdict(right, answer, "another word")


def last_answer(text: str, *, across_lines: bool = False) -> str:
    """The last match of `<answer>(.*?)</answer>`, stripped, in linear time. Raises NoAnswer without one."""
    found, position = None, 0
    while (start := text.find(ANSWER_OPEN, position)) >= 0:
        close = text.find(ANSWER_CLOSE, start)
        if close < 0:
            break
        content = text[start + len(ANSWER_OPEN) : close]
        newline = -1 if across_lines else content.find("\n")
        if newline >= 0:
            position = start + len(ANSWER_OPEN) + newline
        else:
            found, position = content, close + len(ANSWER_CLOSE)
    if found is None:
        raise NoAnswer("no answer: no <answer>" + ("" if across_lines else " that opens and closes on one line"))
    return found.strip()


def codeio(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the "output" (else "input", else all) of the JSON object is the value, `"true"` being `true`."""
    _, wanted = simulation.stated(problem.truth)
    fence = _first_fence(text)
    try:
        right = _normal(_predicted(fence)) == _normal(wanted)
    except RecursionError:
        raise NoAnswer("no answer: nested too deeply") from None
    return verdict(right, fence, "another value")


def _first_fence(text: str) -> str:
    """The content of the first fence, in the thinking or after it; all of the text where there is none."""
    rest = text.partition("```")[2]
    body, close, _ = rest.partition("```")
    return (body.removeprefix("json") if close else text).strip()


def _predicted(answer: str) -> Any:
    """The value of the JSON object, or of the last complete one in the answer; None where there is none."""
    try:
        said = json.loads(answer)
    except ValueError:
        said = _last_object(answer)
    return said.get("output", said.get("input", said)) if isinstance(said, dict) else None


def _last_object(answer: str) -> Any:
    depth = start = 0
    last = ""
    for brace in re.finditer("[{}]", answer):
        if brace.group() == "{":
            start = brace.start() if depth == 0 else start
            depth += 1
        elif depth:
            depth -= 1
            last = last if depth else answer[start : brace.end()]
    try:
        return json.loads(last.replace("\n", ""))
    except ValueError:
        return None


def _normal(value: Any) -> Any:
    """Words for true and false become booleans, and strings that hold a JSON object or list become that."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] + text[-1:] in ("{}", "[]"):
            try:
                return _normal(json.loads(text))
            except ValueError:
                return value
        return {"true": True, "false": False}.get(text.lower(), value)
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    return value


def verdict(right: bool, extracted: str, otherwise: str) -> Verdict:
    """All or nothing: `otherwise` is the reason where it is nothing."""
    status = "correct" if right else "incorrect"
    return Verdict(status, float(right), extracted=extracted[:500], reason="" if right else otherwise)
