"""Run model-written Python in a fresh interpreter with limits: the `process` backend of the sandbox.

What it gives: an empty environment, an empty private folder as working directory, limits on memory, CPU time, files
and output, a wall-clock deadline after which the whole process group is killed, and results that never contain and
are never compared with expected values in the child. What it does NOT give: it isolates neither the network nor the
file system nor other processes of the same user, as root the NPROC limit has no effect, and a grandchild that starts a
session of its own can outlive the run. The jail replaces it where that matters; the call stays the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from actors.sandbox.channels import Channels
from actors.sandbox.deadline import MOST, Deadline
from actors.sandbox.result import Request, RunResult, RunStatus

# The program writes STARTED before anything of the run happens. The alarm is a backstop for when the host dies; the
# host's deadline is what counts.
STARTED = b'["started"]\n'
_PROGRAM = (
    Path(__file__).with_name("child.py").read_text()
    + f"""
signal.alarm(int(sys.argv[3]))
request = read_request(int(sys.argv[1]))
apply_limits(request["limits"])
os.write(int(sys.argv[2]), {STARTED!r})
main(request, int(sys.argv[2]))
"""
)


@cache
def interpreter() -> str:
    """The real base interpreter: a virtual environment's link or a version manager's shim costs several times more."""
    base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    return base if os.access(base, os.X_OK) else sys.executable


def run(
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
    """Execute `code` as a program with `stdin`; or call `function` for each argument list of `args`; or run `tests`.

    `timeout_s` is the wall-clock limit of the whole run, `memory_mb` that of the address space, `output_limit` the
    bytes taken of stdout, of stderr and of the reports. `tests` may call `__record__(index, value)` and
    `__same__(left, right)`.
    Raises OSError if no process can be started (a failure of the verifier, not of the answer).
    """
    request = Request(code, stdin, timeout_s, memory_mb, output_limit, function, args, tests)
    folder = tempfile.mkdtemp(prefix="raythink-run-")
    try:
        return execute(request, [], cwd=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(request: Request, wrapper: Sequence[str], **options: Any) -> RunResult:
    """Run a request in a fresh interpreter, started through the program `wrapper` where one is given.

    `options` are those of Popen. Raises OSError if the interpreter does not start.
    """
    channels = Channels(request.packed(), request.input, request.output_limit)
    deadline = Deadline(request.timeout_s)
    try:
        process = _start(channels, wrapper, int(MOST * request.timeout_s) + 2, **options)
        status = _serve(process, channels, deadline)
    finally:
        channels.close()
    if status == "ok" and process.returncode != 0 and not channels.output["reports"].startswith(STARTED):
        reason = channels.output["stderr"].decode(errors="replace").strip()[-500:]
        raise OSError(f"the sandboxed interpreter did not start: {reason or process.returncode}")
    return request.result(status, process.returncode, channels.output, deadline.seconds)


def _start(channels: Channels, wrapper: Sequence[str], alarm_s: int, **options: Any) -> subprocess.Popen[bytes]:
    ends = channels.child
    descriptors = (ends["request"], ends["reports"])
    process = subprocess.Popen(
        [*wrapper, interpreter(), "-I", "-S", "-c", _PROGRAM, *map(str, descriptors), str(alarm_s)],
        stdin=ends["stdin"],
        stdout=ends["stdout"],
        stderr=ends["stderr"],
        env={},
        pass_fds=(*descriptors, *options.pop("pass_fds", ())),
        start_new_session=True,
        **options,
    )
    channels.handed_over()
    return process


def _serve(process: subprocess.Popen[bytes], channels: Channels, deadline: Deadline) -> RunStatus:
    """Serve the pipes until the process ends; then kill whatever is left of its group."""
    exit_fd = os.pidfd_open(process.pid)
    try:
        return channels.serve(exit_fd, deadline)
    finally:
        os.close(exit_fd)
        try:  # before the leader is reaped: until then its id cannot belong to anyone else
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        process.wait()
