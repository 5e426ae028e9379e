"""A run ends the same way in a fresh interpreter and in a child of the zygote."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from actors.sandbox import process
from actors.sandbox.jail import Jail
from actors.sandbox.result import RunResult, parse_reports

Run = Callable[..., RunResult]


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail() as jail:
        yield jail


@pytest.fixture(params=["process", "zygote"])
def run(request: pytest.FixtureRequest, jail: Jail) -> Run:
    return process.run if request.param == "process" else jail.run


PROGRAMS = [
    ("print(sum(map(int, input().split())))", "1 2 3", "ok", 0, b"6\n", ""),
    ("import sys; sys.exit(3)", "", "error", 3, b"", "exit code 3"),
    ("import sys; sys.exit('bye')", "", "error", 1, b"", "bye"),
    ("import sys; sys.exit(0)", "", "ok", 0, b"", "exit code 0"),
    ("1 / 0", "", "error", 1, b"", "ZeroDivisionError: division by zero"),
    ("print((", "", "error", 1, b"", "SyntaxError: '(' was never closed"),
    ("raise KeyboardInterrupt", "", "error", -2, b"", "KeyboardInterrupt"),
    ("import os; os.kill(os.getpid(), 15)", "", "error", -15, b"", "exit code -15"),
    ("import os; os._exit(7)", "", "error", 7, b"", "exit code 7"),
    ("f = open(1, 'w'); f.write('left open')", "", "ok", 0, b"left open", "exit code 0"),
    ("class A:\n    def __del__(self): print('gone')\na = A()", "", "ok", 0, b"gone\n", "exit code 0"),
    ("import atexit; atexit.register(print, 'late')", "", "ok", 0, b"late\n", "exit code 0"),
    (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.05), print('t'))).start()",
        "", "ok", 0, b"t\n", "exit code 0",
    ),
    ("import sys; sys.excepthook = lambda *a: print('hook'); 1 / 0", "", "error", 1, b"hook\n", "exit code 1"),
    ("import os; os.close(1); print('x')", "", "error", 120, b"", "exit code 120"),
    ("def f(n): return n and 1 + f(n - 1)\nprint(f(990))", "", "ok", 0, b"990\n", "exit code 0"),
    ("def f(n): return n and 1 + f(n - 1)\nprint(f(1000))", "", "error", 1, b"", "RecursionError"),
    ("x = bytearray(1 << 30)", "", "error", 1, b"", "MemoryError"),
    ("print(chr(0xd800))", "", "error", 1, b"", "UnicodeEncodeError"),
    ("import sys; print(ascii(sys.stdin.read()))", "a\r\n\udcff", "ok", 0, b"'a\\r\\n\\udcff'\n", "exit code 0"),
    ("import sys; print(sys.argv, __name__, sys.stdin.seekable())", "", "ok", 0,
     b"['solution.py'] __main__ False\n", "exit code 0"),
    (b"\xef\xbb\xbfif True:\r\n    print(7)\r\n", "", "ok", 0, b"7\n", "exit code 0"),
    (b'x = "\xff\xfe"', "", "error", 1, b"", "SyntaxError"),
    ('print("\ud800")', "", "error", 1, b"", "UnicodeEncodeError"),
    ("", "", "ok", 0, b"", "exit code 0"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "stdin", "status", "exit_code", "stdout", "error"), PROGRAMS)
def test_programs_end_as_in_the_interpreter(
    run: Run, code: str, stdin: str, status: str, exit_code: int, stdout: bytes, error: str
) -> None:
    result = run(code, stdin, timeout_s=5)
    assert (result.status, result.exit_code, result.stdout) == (status, exit_code, stdout), result
    assert error in result.last_error


def test_calls_report_plain_values(run: Run) -> None:
    code = "def f(x):\n    print(x)\n    return {x: (1, {2})} if x else object()"
    result = run(code, timeout_s=5, function="f", args=[[1], [0], [[]]])
    assert result.returned == {0: {"dict": [[1, [1, {"set": [2]}]]]}}
    assert result.errors == {1: "TypeError: result of type object is no plain value",
                             2: "TypeError: result of type object is no plain value"}  # fmt: skip
    assert result.stdout == b"1\n0\n[]\n" and not result.nonce_ok


def test_tests_that_end_say_so(run: Run) -> None:
    assert run("x = 1", timeout_s=5, tests="__record__(0, x)\nassert __same__(x, 1)").nonce_ok
    failed = run("x = 1", timeout_s=5, tests="__record__(0, x)\nassert __same__(x, True + 1)")
    assert failed.returned == {0: 1} and not failed.nonce_ok and failed.status == "error"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", "timeout"),
        ("import time\ntime.sleep(9)", "timeout"),
        ("import signal, time\nfor s in range(1, 32):\n    if s not in (9, 19): signal.signal(s, signal.SIG_IGN)\n"
         "time.sleep(9)", "timeout"),
        ("import os\nfor fd in range(3): os.close(fd)\nwhile True: pass", "timeout"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output_limit"),
    ],
)  # fmt: skip
def test_limits_end_a_run(run: Run, code: str, status: str) -> None:
    timeout_s = 0.5 if status == "timeout" else 8
    result = run(code, timeout_s=timeout_s, output_limit=100_000)
    assert result.status == status and result.exit_code == -signal.SIGKILL
    assert result.seconds < timeout_s + 2 and len(result.stdout) <= 100_000 and len(result.stderr) <= 100_000


def test_large_input_and_output_do_not_block(run: Run) -> None:
    result = run("import sys\nsys.stdout.write(sys.stdin.read())", "y" * 3_000_000, timeout_s=9, output_limit=4_000_000)
    assert result.status == "ok" and len(result.stdout) == 3_000_000
    assert run("print('hi')", "x" * (8 << 20), timeout_s=9).stdout == b"hi\n"


def test_a_run_sees_no_descriptor_and_no_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TRAINER", "1")
    code = (
        "import os\nprint('SECRET_OF_THE_TRAINER' in os.environ)\n"
        "for fd in range(3, 1024):\n    try:\n        os.fstat(fd)\n        print('open', fd)\n    except OSError: pass"
    )
    assert run(code, timeout_s=5).stdout == b"False\n"


def test_the_zygote_has_no_environment_in_its_memory(jail: Jail) -> None:
    pid = jail._zygote.process.pid
    with open(f"/proc/{pid}/environ", "rb") as environment:
        assert environment.read() == b""


def test_a_run_leaves_no_process_and_no_folder(jail: Jail) -> None:
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(30)\n"
        "    os._exit(0)\nopen('f', 'w').write('x')\nprint(os.getcwd(), flush=True)"
    )
    result = jail.run(daemon, timeout_s=5)
    assert result.status == "ok" and result.seconds < 3
    assert not os.path.exists(result.stdout.strip().decode() + "/f")
    assert _children(jail._zygote.process.pid) == []


def test_runs_do_not_see_each_other(jail: Jail) -> None:
    jail.run("import builtins, math\nbuiltins.len = math.sqrt = None\nopen('f', 'w').write('x')", timeout_s=5)
    code = "import math, os\nprint(len([1]), math.sqrt(4), os.path.exists('f'))"
    assert jail.run(code, timeout_s=5).stdout == b"1 2.0 False\n"


def test_random_numbers_differ_between_runs(jail: Jail) -> None:
    assert len({jail.run("import random\nprint(random.random())", timeout_s=5).stdout for _ in range(3)}) == 3


def test_a_dead_zygote_is_replaced() -> None:
    with Jail() as jail:
        first = jail._zygote.process
        first.kill()
        assert jail.run("print(1)", timeout_s=5).stdout == b"1\n"
        assert jail._zygote.process.pid != first.pid and first.poll() == -signal.SIGKILL


def test_a_zygote_that_cannot_live_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Jail() as jail:
        jail._zygote.process.kill()
        monkeypatch.setattr("actors.sandbox.jail._PROGRAM", "/nowhere/zygote.py")
        with pytest.raises(OSError, match="zygote died: .*No such file"):
            jail.run("print(1)", timeout_s=5)


def test_a_closed_jail_ends_its_zygote() -> None:
    jail = Jail()
    process = jail._zygote.process
    jail.close()
    assert process.poll() is not None


def test_what_is_not_a_report_is_left_out() -> None:
    data = b'["r", 0, 1]\n{}\n[\n["r", 0, 1]\n["r", 1, 2]\n["r", 1, 3]\n["x", 2, "E"]\n["r", 2, 1]\n["n", "no"]'
    assert parse_reports(data, "yes") == ({0: 1, 1: 2}, {1: "reported different values", 2: "E"}, False)
    assert parse_reports(b'["n", "yes"]', "yes")[2]


def _children(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return children.read().split()


def test_reports_deeper_than_a_value_can_be_are_left_out(run: Run) -> None:
    forged = (
        "import os\nline = b'[\"r\", 0, ' + b'[' * 400 + b']' * 400 + b']\\n'\n"
        "for fd in range(3, 64):\n    try: os.write(fd, line)\n"
    )
    result = run(forged + "    except OSError: pass\ndef f(): return 1", timeout_s=5, function="f", args=[[]])
    assert result.returned == {0: 1}
    code = "def f():\n    x = {}\n    for _ in range(38): x = {0: x}\n    return x"
    assert 0 in run(code, timeout_s=5, function="f", args=[[]]).returned
