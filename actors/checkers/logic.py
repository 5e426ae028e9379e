"""Logic puzzles: orderings, words, zebra tables (scored by the cell), and grids; told apart by the ground truth's type.

Answers are read as literals (`ast.literal_eval`, JSON), never evaluated.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from actors.checkers.extract import NoAnswer, final_answer
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict

MAX_LITERAL = 20_000  # characters
_AROUND = "'\"*` \t\r\f\v\u00a0"  # of a name in a list


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Judge an ordering (list[str]), a grid (list[list[int]]), a zebra table ({"header", "rows"}), or a word (str)."""
    truth = container(problem.truth)
    answer = final_answer(text)
    if isinstance(truth, dict):
        return _zebra(truth, answer)
    if isinstance(truth, list) and truth and isinstance(truth[0], list):
        return _grid(truth, answer)
    if isinstance(truth, list):
        return _ordering([str(name) for name in truth], answer)
    return _word(str(truth), answer)


def container(truth: Any) -> Any:
    """A ground truth that a file holds as text: the list or object that it spells, else the word itself."""
    if not isinstance(truth, str) or not truth.strip().startswith(("[", "{")):
        return truth
    try:
        return literal(truth)
    except NoAnswer:
        return truth


def literal(text: str) -> Any:
    """The JSON or Python literal that a text spells. Raises NoAnswer."""
    if len(text) > MAX_LITERAL:
        raise NoAnswer(f"answer longer than {MAX_LITERAL} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # Python's spelling of the same value is tried next
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise NoAnswer("answer is no literal") from None


def _verdict(right: bool, extracted: str, reason: str) -> Verdict:
    return Verdict("correct" if right else "incorrect", float(right), extracted=extracted[:500], reason=reason)


def _ordering(truth: list[str], answer: str) -> Verdict:
    """`['a', 'b']` or `a, b`; names without regard to case, the order counts."""
    inner = answer.strip().removeprefix("[").removesuffix("]")
    names = [name.strip().lstrip(_AROUND).rstrip(_AROUND + ".").lower() for name in re.split(r"[,\n>]", inner)]
    names = [name for name in names if name]
    right = names == [name.strip().lower() for name in truth]
    return _verdict(right, ", ".join(names), "the order of the names" if not right else "")


def _word(truth: str, answer: str) -> Verdict:
    word = answer.strip().strip("'\"`*.").lower()
    right = word == truth.strip().lower()
    return _verdict(right, word, "" if right else "another word")


def _grid(truth: list[list[int]], answer: str) -> Verdict:
    """The grid between the first `[[` and its `]]`, equal in every cell."""
    answer = answer[:MAX_LITERAL]
    opened = re.search(r"\[\s*\[", answer)
    closed = re.compile(r"\]\s*(?:,\s*)?\]").search(answer, opened.end()) if opened else None
    if opened is None or closed is None:
        raise NoAnswer("no answer: no grid [[...]]")
    said = answer[opened.start() : closed.end()]
    grid = literal(said)
    integers = all(isinstance(row, list) and all(type(cell) is int for cell in row) for row in grid)
    right = integers and grid == truth
    return _verdict(right, said, "" if right else "another grid")


def _zebra(truth: dict[str, Any], answer: str) -> Verdict:
    """The share of cells that are right; cells are compared as text, columns are found by their header."""
    said = literal(_object(answer))
    if not isinstance(said, dict) or not isinstance(said.get("rows"), list) or not isinstance(said.get("header"), list):
        raise NoAnswer("no answer: no object with header and rows")
    header = [_cell(name) for name in said["header"]]
    wanted = [_cell(name) for name in truth["header"]]
    columns = [header.index(name) if name in header else None for name in wanted]
    total = len(truth["rows"]) * len(wanted)
    right = 0
    for row, spoken in zip(truth["rows"], said["rows"], strict=False):
        if not isinstance(spoken, list):
            continue
        for cell, column in zip(row, columns, strict=False):
            right += column is not None and column < len(spoken) and _cell(spoken[column]) == _cell(cell)
    complete = right == total and len(said["rows"]) == len(truth["rows"])
    score = right / total if complete or right < total else (total - 1) / total
    return Verdict(
        "correct" if complete else "incorrect", score, extracted=answer[:500], reason=f"{right}/{total} cells"
    )


def _object(answer: str) -> str:
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise NoAnswer("no answer: no object with header and rows")
    return answer[start : end + 1]


def _cell(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value)).strip().lower()
