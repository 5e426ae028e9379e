"""A run's request and its end: what every backend of the sandbox takes and gives."""

from __future__ import annotations

import json
import marshal
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

RunStatus = Literal["ok", "error", "timeout", "output_limit"]

STACK_BYTES = 64 << 20
MAX_PROCESSES = 64
MAX_OPEN_FILES = 64
MAX_DEPTH = 150  # of a report: 40 levels of a value, each of three if it is a dict


@dataclass(frozen=True)
class RunResult:
    """The end of a run. `status` is about the run only: "ok" (exit code 0) says nothing about the answer's truth.

    `returned` maps the index of a call (or of a recorded assertion) to its value in exact built-in types (dicts and
    sets as {"dict": pairs}, {"set": items}, tuples as lists); `errors` maps it to an exception's text. Both are what
    the child claims: compare the values, believe nothing else. `nonce_ok`: the tests ran to their end, as far as a
    secret within reach of the code under test can say so. `exit_code` is negative for the signal that ended it.
    """

    status: RunStatus
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    returned: Mapping[int, Any] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    nonce_ok: bool = False

    @property
    def last_error(self) -> str:
        """The last line of stderr: for a Python program that failed, the exception."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else f"exit code {self.exit_code}"


@dataclass(frozen=True)
class Request:
    """What to run and under which limits; `packed()` is what the sandboxed interpreter reads."""

    code: str | bytes
    stdin: str | bytes
    timeout_s: float
    memory_mb: int
    output_limit: int
    function: str | None = None
    args: Sequence[Sequence[Any]] | None = None
    tests: str | None = None
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    def packed(self) -> bytes:
        return marshal.dumps(
            {
                "code": self.code,
                "function": self.function,
                "calls": [list(call) for call in self.args or ()],
                "tests": self.tests,
                "nonce": self.nonce,
                "limits": self._limits(),
            }
        )

    @property
    def input(self) -> bytes:
        if isinstance(self.stdin, bytes):
            return self.stdin
        try:
            return self.stdin.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # other lone surrogates stand for no bytes
            return self.stdin.encode("utf-8", "surrogatepass")

    def _limits(self) -> dict[str, int]:
        """Names of the resource module. Of the stack only the soft limit is set: programs may ask for more of it."""
        return {
            "RLIMIT_AS": self.memory_mb << 20,
            "RLIMIT_CPU": int(self.timeout_s) + 1,
            "RLIMIT_STACK": STACK_BYTES,
            "RLIMIT_NPROC": MAX_PROCESSES,
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": max(self.output_limit, 1 << 20),
            "RLIMIT_NOFILE": MAX_OPEN_FILES,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }

    def result(self, status: RunStatus, exit_code: int, output: Mapping[str, bytes], seconds: float) -> RunResult:
        """The result of a run of this request that wrote `output` (stdout, stderr, reports)."""
        returned, errors, nonce_ok = parse_reports(output["reports"], self.nonce)
        if status == "ok" and exit_code != 0:
            status = "error"
        stdout, stderr = output["stdout"][: self.output_limit], output["stderr"][: self.output_limit]
        return RunResult(status, exit_code, stdout, stderr, seconds, returned, errors, nonce_ok)


def parse_reports(data: bytes, nonce: str) -> tuple[dict[int, Any], dict[int, str], bool]:
    """The child's lines; the first one for an index counts, and what is not a report is left out."""
    returned: dict[int, Any] = {}
    errors: dict[int, str] = {}
    nonce_ok = False
    for line in data.split(b"\n"):
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _deeper_than(report, MAX_DEPTH):  # not written by child.py: comparing it could overflow the stack
            continue
        match report:
            case ["n", str(said)]:
                nonce_ok = nonce_ok or secrets.compare_digest(said.encode(), nonce.encode())
            case ["r", int(index), value] if index not in errors:
                if index in returned and returned[index] != value:  # an assertion in a loop, another value each round
                    errors[index] = "reported different values"
                returned.setdefault(index, value)
            case ["x", int(index), str(error)] if index not in returned and index not in errors:
                errors[index] = error
    return returned, errors, nonce_ok


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            item
            for outer in level
            if isinstance(outer, (list, dict))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
