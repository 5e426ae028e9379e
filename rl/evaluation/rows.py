"""From the published columns of each benchmark to rows in Guru's schema: one pure function a layout.

A reader gives the row, or a sentence (`Skipped`) about why one is left out. Column layouts as of the data cards on the
hub; the prompt suffixes are Guru's, since the checkers read the formats that they ask for.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import random
import zlib
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
BOXED = " Please output the final answer within \\boxed{}."
LETTER = "\n\nPlease reason step by step, and put your final answer option within \\boxed{}. Only put the letter in it."
STDIN = ("\n\nRead the inputs from stdin, solve the problem and write the answer to stdout. "
         "Enclose your code within ```python delimiters.")
STARTER = "\n\nComplete this starter code, and enclose your code within ```python delimiters.\n```python\n{code}\n```"
HARD = 9.0  # difficulty from which a problem of Omni-MATH counts as hard here


class Skipped(Exception):
    """A row that the suite leaves out, with the reason."""


class MissingColumn(Exception):
    """A column that the layout needs is not there."""


def row_of(source: str, prompt: str, truth: Any, **extra: Any) -> Row:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": source.partition("__")[0],
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": extra,
    }


def column(row: Mapping[str, Any], *names: str) -> Any:
    """The first of these columns that is there and holds something."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise MissingColumn(f"column {' or '.join(names)} is missing (columns found: {', '.join(row) or 'none'})")


def competition(row: Mapping[str, Any], suite: str, number: int) -> Row:
    """AIME and HMMT: problem, answer (a number or LaTeX)."""
    answer = str(column(row, "answer", "Answer")).strip()
    problem = str(column(row, "problem", "Problem", "question")).strip()
    return row_of(f"math__{suite}", problem + BOXED, answer, index=row.get("problem_idx") or row.get("id") or number)


def omni_math(row: Mapping[str, Any], suite: str, number: int) -> Row:
    """Omni-MATH: domain, difficulty, problem, solution, answer, source; only the hard ones."""
    difficulty = float(column(row, "difficulty"))
    if difficulty < HARD:
        raise Skipped(f"difficulty below {HARD:g}")
    problem = str(column(row, "problem"))
    return row_of(f"math__{suite}", problem + BOXED, str(column(row, "answer")), index=number, difficulty=difficulty)


def gpqa(row: Mapping[str, Any], suite: str, number: int) -> Row:
    """GPQA: Question, Correct Answer, Incorrect Answer 1 to 3; the order of the options follows from the question."""
    question = str(column(row, "Question")).strip()
    right = str(column(row, "Correct Answer")).strip()
    options = [right, *(str(column(row, f"Incorrect Answer {i}")).strip() for i in (1, 2, 3))]
    random.Random(question).shuffle(options)
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
    truth = "ABCD"[options.index(right)]
    return row_of(f"stem__{suite}", f"{question}\n\n{listed}{LETTER}", truth, id=row.get("Record ID") or number)


def hle(row: Mapping[str, Any], suite: str, number: int) -> Row:
    """Humanity's Last Exam: question, image, answer; text only, judged by a model where no rule decides."""
    if row.get("image"):
        raise Skipped("asks about an image")
    question = str(column(row, "question"))
    source = f"stem_web__{suite}"
    return row_of(source, question + BOXED, str(column(row, "answer")), id=row.get("id") or number, question=question)


def livecodebench(row: Mapping[str, Any], suite: str, number: int) -> Row:
    """LiveCodeBench: question_content, starter_code, public_test_cases, private_test_cases, metadata."""
    tests = [*json.loads(column(row, "public_test_cases")), *private_tests(column(row, "private_test_cases"))]
    question, starter = str(column(row, "question_content")), str(row.get("starter_code") or "")
    truth: dict[str, Any] = {"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]}
    if starter.strip():
        truth["fn_name"] = json.loads(row.get("metadata") or "{}")["func_name"]
        # one JSON value a line; as lists, so that a single list is not taken for the list of arguments
        truth["inputs"] = [[json.loads(line) for line in text.splitlines()] for text in truth["inputs"]]
    prompt = question + (STARTER.format(code=starter) if starter.strip() else STDIN)
    identity = row.get("question_id") or number
    return row_of("codegen__livecodebench", prompt, json.dumps(truth), id=identity, date=row.get("contest_date"))


class _Text(pickle.Unpickler):
    """Hub data must not run anything: a pickle that names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only text may be in it")


def private_tests(encoded: str) -> list[dict[str, Any]]:
    """Tests as JSON, or as published: base64 of zlib of a pickled JSON text."""
    try:
        return json.loads(encoded)
    except ValueError:
        packed = zlib.decompress(base64.b64decode(encoded))
        return json.loads(_Text(io.BytesIO(packed)).load())


def scicode(row: Mapping[str, Any], suite: str, number: int) -> list[Row]:
    """SciCode: a main problem with sub_steps, one row a step, each given the reference code of the steps before.

    The published test split has no reference code, and its expected values come as a separate HDF5 file: steps need
    `ground_truth_code`, and `targets` (JSON values, in the order of the test cases) where their tests name `target`.
    """
    before, rows = str(row.get("required_dependencies") or ""), []
    for step in column(row, "sub_steps"):
        tests, targets = list(column(step, "test_cases")), step.get("targets")
        if any("target" in test for test in tests) and targets is None:
            raise Skipped("no targets (the published ones are in an HDF5 file that is not read)")
        checks = [f"target = {targets[i]!r}\n{test}" if targets else test for i, test in enumerate(tests)]
        prompt = (f"{column(step, 'step_description_prompt')}\n\nThis code is given:\n```python\n{before}\n```\n\n"
                  f"Write this function, and enclose your code within ```python delimiters.\n```python\n"
                  f"{column(step, 'function_header')}\n{step.get('return_line') or ''}\n```")
        name = str(column(step, "step_number"))
        rows.append(row_of("codegen__scicode", prompt, json.dumps({"functional": "\n\n".join(checks)}),
                           id=name, prefix=before, main=str(row.get("problem_id") or number)))
        if step.get("ground_truth_code") is None and step is not row["sub_steps"][-1]:
            raise Skipped("no reference code of the steps before (the published test split has none)")
        before = f"{before}\n\n{step.get('ground_truth_code') or ''}"
    return rows
