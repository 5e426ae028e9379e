"""`python -m actors.sandbox IN.jsonl OUT.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.__main__ import main


def rows_of(tmp_path: Path, rows: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    given, told = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert main([str(given), str(told), "--allow-weaker", *options]) == 0
    return [json.loads(line) for line in told.read_text().splitlines()]


def test_rows_in_rows_out(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "code": "print(input()[::-1])", "stdin": "abc"},
        {"id": 2, "code": None, "gen": "'print(%d)' % (6 * 7)"},
        {"id": "bytes", "gen": r"b'x = \"\xff\"'", "stdin": ""},
        {"id": "big", "code": "import sys\nprint(len(sys.stdin.read()))", "stdin": "@8MB"},
        {"id": "raw", "code": "import sys\nprint('\u2028', flush=True)\nsys.stdout.buffer.write(b'\\xff')"},
        {"id": "empty", "code": ""},
        {"id": "loud", "code": "while True: print('x' * 1000)"},
    ]
    told = rows_of(tmp_path, rows, "--timeout-s", "9", "--output-limit", "100000")
    assert [row["id"] for row in told] == ["a", 2, "bytes", "big", "raw", "empty", "loud"]
    assert [row["status"] for row in told] == ["ok", "ok", "error", "ok", "ok", "ok", "output_limit"]
    assert [row["stdout"] for row in told[:2]] == ["cba\n", "42\n"] and told[3]["stdout"] == f"{8 << 20}\n"
    assert told[4]["stdout"] == "\u2028\n\ufffd"
    assert "SyntaxError" in told[2]["stderr"] and len(told[6]["stdout"]) == 100_000
    assert all(set(row) == {"id", "status", "exit_code", "stdout", "stderr", "seconds"} for row in told)


def test_a_time_limit_ends_a_row(tmp_path: Path) -> None:
    (slow,) = rows_of(tmp_path, [{"id": 1, "code": "while True: pass"}], "--timeout-s", "0.5")
    assert (slow["status"], slow["exit_code"]) == ("timeout", -9) and 0.5 <= slow["seconds"] < 2.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "line 1 is not JSON"), ("[]", "needs id"), ('{"id": 1}', "code or gen"),
     ('{"id": 1, "gen": "1 / 0"}', "ZeroDivisionError")],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str) -> None:
    (tmp_path / "in").write_text(text)
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), "--allow-weaker"]) == 2
    assert complaint in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
