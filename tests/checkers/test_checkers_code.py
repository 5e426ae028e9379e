"""Programs in the sandbox: right ones pass, forged ones do not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from checker_problems import problem

from actors import checkers
from actors.checkers.assertions import rewrite
from actors.checkers.plain import encode, same, same_output
from actors.checkers.tools import Tools
from actors.messages import Verdict
from actors.sandbox.process import run

pytestmark = pytest.mark.process

TOOLS = Tools(code_timeout_s=3, code_budget_s=6)
STDIN = {"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]}
FUNCTION = {"inputs": ["[3]", "[4]"], "outputs": ["12", "14"], "fn_name": "f"}
ASSERTS = {
    "functional": "def check(candidate):\n    assert candidate(2) == [1, 2], 'no'\n"
    "    assert candidate(n=0) == []\n\ncheck(f)"
}


def judge(truth: dict, code: str, **extra: object) -> Verdict:
    asked = problem("codegen__starter", json.dumps(truth), **extra)
    return checkers.check(asked, f"<think>t</think>\n```python\n{code}\n```", TOOLS)


@pytest.mark.parametrize(
    ("truth", "code"),
    [
        (STDIN, "print(sum(map(int, input().split())))"),
        (STDIN, "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))\nsys.exit()"),
        (STDIN, "a, b = map(int, open(0).read().split())\nif __name__ == '__main__':\n    print(a + b)\n    exit()"),
        (FUNCTION, "def f(x):\n    print('noise')\n    return (x + 3) * 2"),
        (FUNCTION, "class Solution:\n    def f(self, x):\n        return 2 * x + 6"),
        (ASSERTS, "def f(n):\n    return list(range(1, n + 1))"),
        (ASSERTS, "def f(n):\n    return tuple(range(1, n + 1))"),
    ],
)
def test_right_programs_pass(truth: dict, code: str) -> None:
    verdict = judge(truth, code)
    assert (verdict.status, verdict.score) == ("correct", 1.0), verdict.reason


@pytest.mark.parametrize(
    ("truth", "code", "reason"),
    [
        (STDIN, "print(3)", "test 2: wrong output"),
        (STDIN, "raise ValueError('x')", "ValueError: x"),
        (STDIN, "print((", "SyntaxError"),
        (FUNCTION, "def g(x):\n    return 1", "defines no f"),
        (FUNCTION, "def f(x):\n    return str((x + 3) * 2)", "test 1: wrong result"),
        (FUNCTION, "def f(x):\n    return 12.0", "test 1: wrong result"),
        (FUNCTION, "def f(x):\n    return 12 if x == 3 else 1 // 0", "test 2: ZeroDivisionError"),
        (ASSERTS, "def f(n):\n    return [1]", "assertion 1: wrong value"),
        (STDIN, "a\0b", "NUL"),
    ],
)
def test_wrong_programs_name_the_first_failing_test(truth: dict, code: str, reason: str) -> None:
    verdict = judge(truth, code)
    assert verdict.status == "incorrect" and reason in verdict.reason


FORGED = [
    "import sys\nsys.exit(0)",
    "import os\nos._exit(0)",
    "raise SystemExit",
    "def f(*a, **k):\n    import os\n    os._exit(0)",
    "def f(*a, **k):\n    raise SystemExit(0)",
    "print('[\"n\", \"ok\"]')\nprint('all tests passed')\ndef f(*a, **k):\n    pass",
    "class A:\n    def __eq__(self, o):\n        return True\n    def __bool__(self):\n        return True\n"
    "def f(*a, **k):\n    return A()",
    "class L(list):\n    def __eq__(self, o):\n        return True\ndef f(*a, **k):\n    return L()",
    "class I(int):\n    def __eq__(self, o):\n        return True\ndef f(*a, **k):\n    return I()",
    # walks the frames to the driver's locals, takes the nonce, claims the end of the tests, and leaves
    "import json, os, sys\n"
    "def f(*a, **k):\n"
    "    frame = sys._getframe()\n"
    "    while frame and 'request' not in frame.f_locals:\n"
    "        frame = frame.f_back\n"
    "    if frame:\n"
    "        line = json.dumps(['n', frame.f_locals['request']['nonce']]) + '\\n'\n"
    "        os.write(frame.f_locals['report_fd'], line.encode())\n"
    "    os._exit(0)\n",
    # looks for the expected values in everything that the interpreter holds
    "import gc\n"
    "def f(*a, **k):\n"
    "    for o in gc.get_objects():\n"
    "        if type(o) is dict and 'outputs' in o:\n"
    "            return o['outputs']\n"
    "    return None",
    'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b\'["r", 0, 1]\\n["n", "x"]\\n\')\n'
    "    except OSError:\n        pass\nos._exit(0)",
    "import builtins\nbuiltins.__record__ = lambda *a: None\nbuiltins.isinstance = lambda *a: True\n"
    "def f(*a, **k):\n    return None",
]


@pytest.mark.parametrize("code", FORGED, ids=range(len(FORGED)))
@pytest.mark.parametrize("truth", [STDIN, FUNCTION, ASSERTS], ids=["stdin", "function", "asserts"])
def test_forged_answers_fail(truth: dict, code: str) -> None:
    assert judge(truth, code).status == "incorrect"


def test_a_weak_assertion_still_has_to_run_to_its_end() -> None:
    truth = {"functional": "for i in range(3):\n    assert abs(f(i) - i) < 1e-6"}
    assert judge(truth, "def f(x):\n    return x + 1e-9").status == "correct"
    pairs = {"functional": "for i, o in [(1, 2), (2, 4)]:\n    assert f(i) == o"}
    assert judge(pairs, "def f(x):\n    return 2 * x").status == "correct"
    always = "class A:\n    def __eq__(self, o):\n        return True\ndef f(x):\n    return A()"
    assert judge(pairs, always).status == "incorrect"
    for forged in ("import os\nos._exit(0)", "import sys\nsys.exit(0)", "def f(x):\n    raise SystemExit"):
        assert judge(truth, forged).status == "incorrect"


def test_prefix_comes_first() -> None:
    truth = {"inputs": [""], "outputs": ["6"]}
    assert judge(truth, "print(base * 2)", prefix="base = 3").status == "correct"


def test_a_row_without_extra_info_is_judged() -> None:
    bare = replace(problem("codegen__taco", json.dumps(STDIN)), extra_info=None)
    assert checkers.check(bare, "```python\nprint(sum(map(int, input().split())))\n```", TOOLS).status == "correct"


def test_limits_end_a_run_as_a_wrong_answer() -> None:
    quick = Tools(code_timeout_s=0.3, code_budget_s=0.5, output_limit=10_000, memory_mb=128)
    asked = problem("codegen__starter", json.dumps({"inputs": [""], "outputs": ["1"]}))
    for code, reason in [
        ("while True: pass", "time limit"),
        ("import time\ntime.sleep(9)", "time limit"),
        ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(9)", "time limit"),
        ("while True: print('x' * 1000)", "output limit"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("print(chr(0xd800))", "UnicodeEncodeError"),
    ]:
        verdict = checkers.check(asked, f"```python\n{code}\n```", quick)
        assert verdict.status == "incorrect" and reason in verdict.reason, (code, verdict)
        assert verdict.seconds < 9  # a run that sleeps for 9 seconds did not last to its end


def test_the_run_has_no_environment_and_no_folder_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TRAINER", "1")
    result = run("import os\nprint(sorted(os.environ), os.getcwd())\nopen('f', 'w').write('x')", timeout_s=3)
    assert result.status == "ok" and b"SECRET" not in result.stdout
    folder = result.stdout.split()[-1].decode()
    from pathlib import Path

    assert not Path(folder).exists()


def test_a_forked_child_does_not_hold_the_run_open() -> None:
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(20)\nprint(1)"
    result = run(code, timeout_s=5)
    assert result.stdout == b"1\n" and result.seconds < 3


def test_large_input_and_output_do_not_block() -> None:
    result = run("import sys\nsys.stdout.write(sys.stdin.read())", "y" * 3_000_000, timeout_s=5, output_limit=4_000_000)
    assert result.status == "ok" and len(result.stdout) == 3_000_000


def test_rewrite_takes_the_literals_out() -> None:
    made = rewrite("assert f(1) == 'secret'\nassert {2: [3]} == g(2), 'msg'\nassert not h(3)\nassert i(4) < 5")
    assert "secret" not in made.source and "3]" not in made.source
    assert [made.expected[i].value for i in range(3)] == ["secret", {"dict": [[2, [3]]]}, False]
    assert "assert i(4) < 5" in made.source and not made.sealed
    assert rewrite("assert f(1) == 2").sealed


@pytest.mark.parametrize(
    ("expected", "reported", "equal"),
    [
        (1, 1, True), (1, True, False), (True, 1, False), (1, 1.0, False), (1.0, 1, True), (0.1, 0.1 + 1e-9, True),
        (1.0, 1.1, False), ("1", 1, False), ([1, 2], (1, 2), True), ([1], [1, 1], False), (None, None, True),
        (None, 0, False),
        ({"a": 1}, {"a": 1}, True), ({"1": 2}, {1: 2}, True), ({"a": 1}, {"a": 2}, False), ([1], {1}, False),
        ({1, 2}, {2, 1}, True),
        (float("nan"), float("nan"), True), (float("inf"), 1e308, False), ([], {}, False),
    ],
)  # fmt: skip
def test_plain_values(expected: object, reported: object, equal: bool) -> None:
    assert same(encode(expected), encode(reported)) is equal


@pytest.mark.parametrize(
    ("expected", "printed", "equal"),
    [
        ("3", "3\n", True), ("3", "3.0000001", True), ("YES", "yes", True), ("a b", "a  b ", True),
        ("1\n2", "1 2", False),
        ("3", "4", False), ("", "", True), ("nan", "0", False), ("10000000000000001", "10000000000000002", False),
        ("a", "A", False),
    ],
)  # fmt: skip
def test_output(expected: str, printed: str, equal: bool) -> None:
    assert same_output(expected, printed) is equal


def test_an_integer_beyond_the_floats_is_a_wrong_answer_and_no_error() -> None:
    from actors.checkers.plain import same

    assert not same(1.0, 10**400)
    assert same(1.0, 1)
