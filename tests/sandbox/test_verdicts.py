"""The code checker's verdict does not depend on the backend, and the same program is run once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from actors import checkers
from actors.checkers.tools import Tools
from actors.messages import Problem, Verdict
from actors.sandbox import process
from actors.sandbox.jail import Jail
from actors.sandbox.result import RunResult

STDIN = {"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]}
FUNCTION = {"inputs": ["[3]", "[4]"], "outputs": ["12", "14"], "fn_name": "f"}
ASSERTS = {"functional": "assert f(3) == 12\nassert f(4) == 14\nassert f(5) > 1"}
ANSWERS = [
    "print(sum(map(int, input().split())))",
    "def f(x):\n    return 2 * x + 6",
    "def f(x):\n    print('noise')\n    return 12 if x == 3 else x // 0",
    "def f(x):\n    return 12.0",
    "import os\ndef f(x):\n    os._exit(0)\nos.write(1, b'3\\n')",
    "def f(x):\n    raise SystemExit(0)\nprint(3); print(11)",
    "class A(int):\n    def __eq__(self, o):\n        return True\ndef f(x):\n    return A()",
    'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b\'["r", 0, 12]\\n["r", 1, 14]\\n\')\n'
    "    except OSError:\n        pass\nos._exit(0)",
    "import time\ntime.sleep(5)",
    "while True: print('x' * 1000)",
    "x = [0] * (1 << 30)",
    "print((",
]


def judge(truth: dict[str, Any], code: str, tools: Tools) -> Verdict:
    question = ({"role": "user", "content": ""},)
    problem = Problem("p", question, "codegen__starter", "", json.dumps(json.dumps(truth)), {})
    return checkers.check(problem, f"```python\n{code}\n```", tools)


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail() as jail:
        yield jail


@pytest.mark.parametrize("truth", [STDIN, FUNCTION, ASSERTS], ids=["stdin", "function", "asserts"])
@pytest.mark.parametrize("code", ANSWERS, ids=range(len(ANSWERS)))
def test_the_verdict_is_the_same_on_both_backends(jail: Jail, truth: dict[str, Any], code: str) -> None:
    seconds = 0.8 if "sleep" in code else 8.0
    limits = {"code_timeout_s": seconds, "code_budget_s": seconds, "output_limit": 100_000}
    fresh, warm = (judge(truth, code, Tools(run=run, **limits)) for run in (process.run, jail.run))
    assert (warm.status, warm.score, warm.reason) == (fresh.status, fresh.score, fresh.reason)
    assert warm.status in ("correct", "incorrect")


class Counted:
    def __init__(self, *statuses: str) -> None:
        self.statuses, self.runs = list(statuses), 0

    def __call__(self, code: str, stdin: str = "", **_: Any) -> RunResult:
        self.runs += 1
        status = self.statuses.pop(0) if self.statuses else "ok"
        if status == "infrastructure":
            raise OSError("the sandbox's zygote died")
        return RunResult(status, -9 if status == "timeout" else 0, b"6\n", b"", 0.0)


def test_the_same_program_and_tests_run_once() -> None:
    run = Counted()
    truth = {"inputs": ["a"], "outputs": ["6"]}
    verdicts = [judge(truth, "print(6)", Tools(run=run)) for _ in range(3)]
    assert run.runs == 1 and {verdict.status for verdict in verdicts} == {"correct"}
    judge(truth, "print(6) ", Tools(run=run))
    judge({"inputs": ["a"], "outputs": ["7"]}, "print(6)", Tools(run=run))
    judge(truth, "print(6)", Tools(run=run, memory_mb=100))
    assert run.runs == 4


@pytest.mark.parametrize(("status", "verdict"), [("timeout", "incorrect"), ("infrastructure", "error")])
def test_what_the_machine_may_have_caused_is_not_remembered(status: str, verdict: str) -> None:
    run = Counted(status)
    truth = {"inputs": ["a"], "outputs": ["6"]}
    assert judge(truth, "print(6)", Tools(run=run)).status == verdict
    assert judge(truth, "print(6)", Tools(run=run)).status == "correct" and run.runs == 2
