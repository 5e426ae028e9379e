"""Run programs in the sandbox: `python -m actors.sandbox IN.jsonl OUT.jsonl`.

A row of IN is {"id", "code" or "gen", "stdin"}: the program, or a Python expression that gives its bytes (evaluated in
the sandbox, as it is no more trusted than a program); a stdin of "@8MB" stands for eight mebibytes of "x". A row of OUT
is {"id", "status": ok | error | timeout | output_limit, "exit_code", "stdout", "stderr", "seconds"}, in IN's order;
bytes that are not UTF-8 show as U+FFFD. Exit code 2: a mistake in the call or in IN; 1: the sandbox failed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.sandbox.backends import BACKENDS, Run, Sandbox
from actors.sandbox.result import RunResult
from conf.errors import UserError

_GENERATE = """
import sys
made = eval(sys.stdin.read())
sys.stdout.buffer.write(made if isinstance(made, bytes) else str(made or "").encode("utf-8", "surrogatepass"))
"""
_GENERATED_LIMIT = 16 << 20
_REPEATED = re.compile(r"@(\d{1,3})MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the rows; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        rows = list(_rows(options.input))
        sandbox = Sandbox(options.allow_weaker, options.backend, options.url)
        limits = {name: getattr(options, name) for name in ("timeout_s", "memory_mb", "output_limit")}
        try:
            with options.output.open("w", encoding="utf-8") as output:
                for row in rows:
                    result = sandbox.run(_program(row, sandbox.run), _stdin(row), **limits)
                    output.write(json.dumps(_account(row, result)) + "\n")
        finally:
            sandbox.close()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except OSError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m actors.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, metavar="IN.jsonl")
    parser.add_argument("output", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--timeout-s", type=float, default=3.0, help="wall-clock seconds of a run (%(default)s)")
    parser.add_argument("--memory-mb", type=int, default=512, help="address space of a process (%(default)s)")
    parser.add_argument("--output-limit", type=int, default=1 << 20, help="bytes of stdout and of stderr (%(default)s)")
    parser.add_argument("--backend", choices=BACKENDS, default="jail", help="what isolates the runs (%(default)s)")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the SandboxFusion server (%(default)s)")
    parser.add_argument("--allow-weaker", action="store_true", help="run even where layers of the jail are missing")
    return parser


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as failure:
        raise UserError(f"cannot read {path}: {failure}; give a file of JSON rows") from failure
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as failure:
            raise UserError(f"{path}, line {number} is not JSON ({failure}); give one object a line") from failure
        if not isinstance(row, dict) or "id" not in row or not ("code" in row or "gen" in row):
            raise UserError(f"{path}, line {number}: a row needs id, and code or gen")
        yield row


def _program(row: dict[str, Any], run: Run) -> str | bytes:
    if row.get("code") is not None:
        return str(row["code"])
    made = run(_GENERATE, str(row["gen"]), timeout_s=10, memory_mb=512, output_limit=_GENERATED_LIMIT)
    if made.status != "ok":
        raise UserError(f"row {row['id']}: gen gives no bytes ({made.last_error}); put a Python expression there")
    return made.stdout


def _stdin(row: dict[str, Any]) -> str | bytes:
    text = row.get("stdin") or ""
    repeated = _REPEATED.fullmatch(text)
    return b"x" * (int(repeated[1]) << 20) if repeated else text


def _account(row: dict[str, Any], result: RunResult) -> dict[str, Any]:
    return {
        "id": row["id"],
        "status": result.status,
        "exit_code": result.exit_code,
        "stdout": result.stdout.decode(errors="replace"),
        "stderr": result.stderr.decode(errors="replace"),
        "seconds": round(result.seconds, 6),
    }


if __name__ == "__main__":
    sys.exit(main())
