"""bubblewrap as the sandbox's second backend: its namespaces and private root around a fresh interpreter for each run.

Slower than the jail's zygote by an interpreter's start. Its limits are rlimits only (no cgroup). Started by root it
gives up root's id only where other users can reach the interpreter; that, too, is a layer which it names if missing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.sandbox import process, syscalls
from actors.sandbox.jail import WeakerSandbox
from actors.sandbox.result import Request, RunResult

_UID = 200_000
_TMP_BYTES = 32 << 20
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SIGNALLED = 128  # bwrap's exit code for a program that a signal ended is this plus the signal


class Bubblewrap:
    """`run` as in the process backend; `missing` names the layers that it lacks here."""

    def __init__(self, allow_weaker: bool = False, program: str = "bwrap") -> None:
        """Probe it with a run. Raises WeakerSandbox if layers are missing without leave, OSError if it cannot start."""
        found = shutil.which(program)
        if found is None:
            raise OSError(f"there is no program {program}; install bubblewrap")
        self.missing = {f"cgroup {name}": "bubblewrap has none" for name in ("memory", "pids", "cpu")}
        self._options: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0 and _reachable(Path(process.interpreter())):
            self._options |= {"user": _UID, "group": _UID, "extra_groups": []}
        elif os.geteuid() == 0:
            self.missing["uid"] = "only root can reach the interpreter"
        self._command = [found, *_isolation(), *_root()]
        try:
            self._filter: bytes | None = syscalls.allow_list(programs=True)
        except OSError as failure:
            self._filter = None
            self.missing["seccomp"] = str(failure)
        lacking = {layer: why for layer, why in self.missing.items() if not layer.startswith("cgroup")}
        if lacking and not allow_weaker:
            raise WeakerSandbox(lacking)
        probe = self.run("print(1)", timeout_s=20)
        if probe.stdout != b"1\n":
            raise OSError(f"a first run in bubblewrap ended with {probe.status}: {probe.last_error}")

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
        """Execute `code`; the arguments are those of `process.run`. Raises OSError if bubblewrap itself fails."""
        request = Request(code, stdin, timeout_s, memory_mb, output_limit, function, args, tests)
        with tempfile.TemporaryFile() as file:
            wrapper, fds = self._command, ()
            if self._filter is not None:
                file.write(self._filter)
                file.seek(0)
                wrapper, fds = [*wrapper, "--seccomp", str(file.fileno())], (file.fileno(),)
            result = process.execute(request, [*wrapper, "--"], pass_fds=fds, **self._options)
        if result.exit_code > _SIGNALLED:
            return replace(result, exit_code=_SIGNALLED - result.exit_code)
        return result

    def close(self) -> None:
        """Nothing outlives a run."""


def _isolation() -> list[str]:
    return [
        "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv",
        "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL",
    ]  # fmt: skip


def _root() -> list[str]:
    """The interpreter and its libraries, a few devices, an empty /tmp; no /proc, no /etc."""
    options = []
    prefix = str(Path(process.interpreter()).parents[1])
    folders = [*_SYSTEM, *(prefix + name for name in ("/bin", "/lib") if prefix != "/usr")]
    if prefix == "/usr":
        folders.append(process.interpreter())
    for folder in folders:
        if os.path.islink(folder):
            options += ["--symlink", os.readlink(folder), folder]
        elif os.path.exists(folder):
            options += ["--ro-bind", folder, folder]
    packages = f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for folder in (packages, "/usr/lib/python3/dist-packages"):
        if os.path.isdir(folder):
            options += ["--tmpfs", folder, "--remount-ro", folder]
    for name in _DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    return [*options, "--size", str(_TMP_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]


def _reachable(program: Path) -> bool:
    """Whether any user can execute it: all folders above it are open to others."""
    return all(folder.stat().st_mode & 0o001 for folder in (program, *program.parents))
