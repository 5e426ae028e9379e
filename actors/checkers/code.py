"""Programs: run in the sandbox against the ground truth's tests; all of them must pass.

The ground truth is a JSON object: {"inputs", "outputs"} (a program's stdin and stdout), the same with "fn_name" (a
function's JSON arguments and JSON result), or {"functional": assertions}. Expected outputs never enter the sandbox:
what the code printed or returned is compared here, exit codes and markers prove nothing. Assertions that compare with
a literal are rewritten accordingly (assertions.py). The samples of one problem often hold the same program several
times: its definite outcome is remembered, a time-out or a kill (which the machine's load may cause) never.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from actors.checkers.assertions import rewrite
from actors.checkers.extract import code_block
from actors.checkers.plain import encode, same, same_output
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict
from actors.sandbox.result import RunResult

SameText = Callable[[str, str], bool]

REMEMBERED = 256
# of this process, which runs one check at a time
_outcomes: OrderedDict[tuple[bytes, Tools, SameText], str | None] = OrderedDict()


class BadTruth(Exception):
    """The ground truth is not of a form that this checker knows: an error, never a wrong answer."""


def check(problem: Problem, text: str, tools: Tools) -> Verdict:
    """Score 1 if the last code block passes all tests, else 0 with the first failing test as the reason."""
    code = code_block(text)
    prefix = (problem.extra_info or {}).get("prefix")
    return judge(problem, code, f"{prefix}\n{code}" if prefix else code, tools)


def judge(problem: Problem, code: str, program: str, tools: Tools, same_text: SameText = same_output) -> Verdict:
    """Whether `program`, which is the model's `code` and what goes with it, passes all tests.

    `same_text(expected, printed)` compares what was printed.
    """
    truth = _truth(problem)
    failure = _static_failure(code)
    if failure is None:
        failure = _remembered(program, truth, tools, same_text)
    status = "correct" if failure is None else "incorrect"
    return Verdict(status, float(failure is None), extracted=code[:2000], reason=failure or "all tests passed")


def _remembered(program: str, truth: Mapping[str, Any], tools: Tools, same_text: SameText) -> str | None:
    """`_run`, or what it said of the same program, tests and limits before."""
    key = sha256(json.dumps([program, truth], sort_keys=True).encode()).digest(), replace(tools, judge=None), same_text
    if key in _outcomes:
        _outcomes.move_to_end(key)
        return _outcomes[key]
    watched = Watched(tools)
    started = time.monotonic()
    failure = _run(program, truth, watched.tools, same_text)
    if watched.definite and time.monotonic() - started < tools.code_budget_s:
        _outcomes[key] = failure
        if len(_outcomes) > REMEMBERED:
            _outcomes.popitem(last=False)
    return failure


class Watched:
    """Tools that notice whether every run ended by itself or by a cap that does not depend on the machine's load."""

    def __init__(self, tools: Tools) -> None:
        self.definite = True
        self._run = tools.run
        self.tools = replace(tools, run=self.run)

    def run(self, *args: Any, **options: Any) -> RunResult:
        result = self._run(*args, **options)
        killed = result.exit_code < 0 and result.status != "output_limit"
        self.definite = self.definite and result.status != "timeout" and not killed
        return result


def _run(program: str, truth: Mapping[str, Any], tools: Tools, same_text: SameText) -> str | None:
    """The first failing test, or None."""
    if truth.get("functional"):
        return _run_assertions(program, str(truth["functional"]), tools)
    if truth.get("fn_name"):
        return _run_function(program, truth, tools)
    if "inputs" in truth and "outputs" in truth:
        return _run_program(program, truth["inputs"], truth["outputs"], tools, same_text)
    raise BadTruth(f"code ground truth with keys {sorted(truth)}: expected inputs and outputs, or functional")


def is_functional(problem: Problem) -> bool:
    """Whether the tests are assertions about a function."""
    return bool(_truth(problem).get("functional"))


def _truth(problem: Problem) -> Mapping[str, Any]:
    truth = problem.truth
    if isinstance(truth, str):
        truth = json.loads(truth)
    if not isinstance(truth, dict):
        raise BadTruth(f"code ground truth is a {type(truth).__name__}, not an object")
    return truth


def _static_failure(code: str) -> str | None:
    """A cheap answer for what no interpreter can run."""
    if len(code) > 200_000:
        return "program longer than 200000 characters"
    if "\0" in code:
        return "program with a NUL character"
    try:
        code.encode("utf-8")
    except UnicodeEncodeError:
        return "program with a lone surrogate"
    return None


def _run_program(
    program: str, inputs: Sequence[str], outputs: Sequence[str], tools: Tools, same_text: SameText
) -> str | None:
    """The first failing test of a stdin/stdout program, or None. Each test is a fresh process."""
    if len(inputs) != len(outputs) or not inputs:
        raise BadTruth(f"{len(inputs)} inputs and {len(outputs)} outputs")
    left = tools.code_budget_s
    for number, (given, wanted) in enumerate(zip(inputs, outputs, strict=True), 1):
        if left <= 0:
            return f"test {number}: time limit of all tests exceeded"
        limit = min(tools.code_timeout_s, left)
        result = tools.run(
            program, _as_text(given), timeout_s=limit, memory_mb=tools.memory_mb, output_limit=tools.output_limit
        )
        left -= min(result.seconds, limit)  # beyond its limit a run had only what the machine had kept from it
        if result.status != "ok":
            return f"test {number}: {describe(result)}"
        if not same_text(_as_text(wanted), result.stdout.decode(errors="replace")):
            return f"test {number}: wrong output"
    return None


def _as_text(value: Any) -> str:
    """Guru has some inputs as lists of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _run_function(program: str, truth: Mapping[str, Any], tools: Tools) -> str | None:
    """The first call of `fn_name` that fails, or None. All calls share one process."""
    calls = [_arguments(given) for given in truth["inputs"]]
    wanted = [_json(output) for output in truth["outputs"]]
    if len(calls) != len(wanted) or not calls:
        raise BadTruth(f"{len(calls)} inputs and {len(wanted)} outputs")
    result = tools.run(
        program,
        timeout_s=tools.code_budget_s,
        memory_mb=tools.memory_mb,
        output_limit=tools.output_limit,
        function=str(truth["fn_name"]),
        args=calls,
    )
    for index, expected in enumerate(wanted):
        if index in result.errors:
            return f"test {index + 1}: {result.errors[index]}"
        if index not in result.returned:
            return f"test {index + 1}: {describe(result)}"
        if not same(encode(expected), result.returned[index]):
            return f"test {index + 1}: wrong result"
    return None


def _arguments(given: Any) -> list[Any]:
    """The argument list of a call: a list, its JSON, or (as LiveCodeBench has it) one JSON value a line."""
    if isinstance(given, list):
        return given
    try:
        value = json.loads(given)
    except ValueError:
        return [json.loads(line) for line in str(given).splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


def _json(output: Any) -> Any:
    if not isinstance(output, str):
        return output
    try:
        return json.loads(output)
    except ValueError:
        return output


def _run_assertions(program: str, tests: str, tools: Tools) -> str | None:
    """The first assertion that fails, or None: every recorded value must be there and hold, and the tests must end."""
    assertions = rewrite(tests)
    result = tools.run(
        program,
        timeout_s=tools.code_budget_s,
        memory_mb=tools.memory_mb,
        output_limit=tools.output_limit,
        tests=assertions.source,
    )
    for index, expected in assertions.expected.items():
        if index in result.errors:
            return f"assertion {index + 1}: {result.errors[index]}"
        if index not in result.returned:
            return f"assertion {index + 1}: {describe(result)}"
        if not expected.holds(result.returned[index]):
            return f"assertion {index + 1}: wrong value"
    if result.status != "ok" or not result.nonce_ok:
        return f"the tests did not end: {describe(result)}"
    return None


def describe(result: RunResult) -> str:
    match result.status:
        case "timeout":
            return "time limit exceeded"
        case "output_limit":
            return "output limit exceeded"
        case "error":
            return result.last_error
        case _:
            return "the program ended without a result"
