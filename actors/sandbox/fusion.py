"""A SandboxFusion server as the sandbox's third backend: runs go to its `POST /run_code`.

Isolation is what that server provides; here only its answers are read, and believed no more than any child's. Results
of calls come back as a file that the run writes, apart from stdout and stderr. Whatever is the server's own failure
(unreachable, overloaded, SandboxError) is an OSError: it must never be taken for a wrong answer.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.sandbox.result import Request, RunResult, RunStatus

_REPORTS = "reports.jsonl"
_GRACE_S = 15.0  # for the server's own work and queue
# The server's processes are its own to count and to limit: memory is the only limit that a run sets for itself.
_CHILD = Path(__file__).with_name("child.py").read_text()
_START = """
import base64
request = marshal.loads(base64.b64decode({packed!r}))
apply_limits({{"RLIMIT_AS": request["limits"]["RLIMIT_AS"]}})
main(request, os.open({reports!r}, os.O_CREAT | os.O_WRONLY))
"""


class Fusion:
    """`run` as in the process backend, on the server at `url`."""

    def __init__(self, url: str) -> None:
        """Probe the server with a run. Raises OSError if it does not answer as it should."""
        self._url = url.rstrip("/") + "/run_code"
        self.missing = {"isolation that could be checked here": f"it is that of the server at {url}"}
        probe = self.run("print(1)", timeout_s=10)
        if probe.stdout != b"1\n":
            raise OSError(f"a first run at {url} ended with {probe.status}: {probe.last_error}")

    def run(
        self,
        code: str | bytes,
        stdin: str | bytes = "",
        *,
        timeout_s: float,
        memory_mb: int = 256,
        output_limit: int = 1 << 20,
        function: str | None = None,
        args: Sequence[Sequence[Any]] | None = None,
        tests: str | None = None,
    ) -> RunResult:
        """Execute `code`; the arguments are those of `process.run`. Raises OSError if the server fails."""
        request = Request(code, stdin, timeout_s, memory_mb, output_limit, function, args, tests)
        packed = base64.b64encode(request.packed()).decode()
        answer = self._post(
            {
                "code": _CHILD + _START.format(packed=packed, reports=_REPORTS),
                "language": "python",
                "stdin": request.input.decode(errors="replace"),
                "run_timeout": timeout_s,
                "memory_limit_MB": memory_mb,
                "fetch_files": [_REPORTS],
            },
            timeout_s + _GRACE_S,
        )
        return _result(request, answer)

    def _post(self, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(call, timeout=timeout_s) as answer:
                return json.load(answer)
        except (OSError, ValueError) as failure:  # URLError and HTTPError are OSErrors
            raise OSError(f"the SandboxFusion server at {self._url} failed: {failure}") from failure

    def close(self) -> None:
        """Nothing is held between runs."""


def _result(request: Request, answer: dict[str, Any]) -> RunResult:
    run = answer.get("run_result")
    if answer.get("status") not in ("Success", "Failed") or not isinstance(run, dict):
        raise OSError(f"the SandboxFusion server failed: {str(answer.get('message') or answer)[:300]}")
    output = {name: (run.get(name) or "").encode("utf-8", "surrogatepass") for name in ("stdout", "stderr")}
    output["reports"] = base64.b64decode((answer.get("files") or {}).get(_REPORTS) or "")
    exit_code = run.get("return_code")
    status: RunStatus = "ok"
    if run.get("status") == "TimeLimitExceeded":
        status = "timeout"
    elif any(len(data) > request.output_limit for data in output.values()):
        status = "output_limit"
    elif exit_code is None:
        raise OSError(f"the SandboxFusion server gave no return code: {str(answer)[:300]}")
    return request.result(status, -9 if exit_code is None else exit_code, output, float(run.get("execution_time") or 0))
