"""The host's side of the jail: one warm zygote process, asked for one run at a time.

Each run has user, pid, mount, network, ipc and uts namespaces of its own, a private read-only root with an empty /tmp,
no capabilities, a seccomp allow-list and limits; the zygote and its runs share a cgroup where the machine grants one.
A layer that the machine does not have is named, and the jail refuses to be without it unless it is told otherwise.
A zygote that dies is replaced, and the run that it took along is tried once more; a second death is an OSError, which
a checker reports as its own failure and never as a wrong answer.
"""

from __future__ import annotations

import marshal
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from actors.sandbox import syscalls
from actors.sandbox.cgroups import Cgroup
from actors.sandbox.channels import INPUTS, OUTPUTS, Channels
from actors.sandbox.deadline import Deadline
from actors.sandbox.process import interpreter
from actors.sandbox.result import MAX_PROCESSES, Request, RunResult, RunStatus
from conf.errors import UserError

_PROGRAM = str(Path(__file__).with_name("zygote.py"))
_START_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 30.0  # for orders that take milliseconds on a machine that is not overloaded
# Ids that no account has, a zygote's own, as limits and signals go by user; the second where ids have 16 bits.
_UID_RANGES = ((200_000, 100_000), (40_000, 20_000))
_TMP = "/tmp"  # a run's own, on a tmpfs
_OPTIONAL = "cgroup"  # first word of the layers that a jail may lack: rlimits bound each process instead


class WeakerSandbox(UserError):
    """The machine lacks layers of the jail, and nobody has allowed that."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        super().__init__(
            f"the sandbox refuses to run model-written code: this machine does not provide {described(missing)}; "
            "run where it does (root or user namespaces, libseccomp), or set sandbox.allow_weaker=true"
        )


def described(missing: Mapping[str, str]) -> str:
    """The missing layers, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for layer, reason in missing.items():
        by_reason.setdefault(reason, []).append(layer)
    return ", ".join(f"{', '.join(layers)} ({reason})" for reason, layers in by_reason.items())


class ZygoteDied(OSError):
    """The zygote ended, or did not answer: an infrastructure failure."""


class Zygote:
    """One zygote process and the socket to it. `missing` names the layers that it could not put up, with reasons."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # Pipes, because the runs inherit the stream objects made for them: those of a file or a terminal differ.
            self.process = subprocess.Popen(
                [interpreter(), "-I", "-S", _PROGRAM, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        self.control.settimeout(_START_TIMEOUT_S)
        self._send(marshal.dumps(setup))
        account = marshal.loads(self._answer()[0])
        self.control.settimeout(_ANSWER_TIMEOUT_S)
        self.missing: dict[str, str] = account["missing"]
        self.private_root: bool = account["private_root"]

    def _answer(self, fds: int = 0) -> tuple[bytes, list[int]]:
        try:
            data, received, _, _ = socket.recv_fds(self.control, 4096, fds)
        except (TimeoutError, ConnectionError) as failure:
            raise self._died() from failure
        if not data:
            raise self._died()
        return data, list(received)

    def _died(self) -> ZygoteDied:
        """The end of a zygote that fails, with the last line that it wrote."""
        self._kill()
        errors = self.process.stderr.read(4096).decode(errors="replace").strip().splitlines()
        self.close()
        return ZygoteDied(f"the sandbox's zygote died: {errors[-1] if errors else self.process.returncode}")

    def _send(self, order: bytes, fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self.control, [order], fds)
        except (TimeoutError, ConnectionError) as failure:
            raise self._died() from failure

    def start(self, folder: str, channels: Channels) -> int:
        """Start a run; returns a pidfd that is ready when it ends."""
        self._send(folder.encode(), [channels.child[name] for name in (*INPUTS, *OUTPUTS)])
        channels.handed_over()
        return self._answer(fds=1)[1][0]

    def end(self) -> int:
        """Kill what is left of the run; returns the exit code of its main process (negative: its signal)."""
        self._send(b"end")
        outcome = self._answer()[0].decode()
        if not outcome.isdigit():
            raise OSError(f"the sandbox could not start the run: {outcome}")
        return os.waitstatus_to_exitcode(int(outcome))

    def _kill(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the process; its run dies with it."""
        self._kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


class Jail:
    """`run` as in the process backend, in a child of a warm zygote. Threads that call it take turns."""

    def __init__(self, allow_weaker: bool = False) -> None:
        """Start the zygote. Raises WeakerSandbox if layers are missing without leave, OSError if it cannot start."""
        self.missing: dict[str, str] = {}
        self._allow_weaker = allow_weaker
        self._lock = threading.Lock()
        self._cgroup: Cgroup | None = None
        self._zygote: Zygote | None = None
        self._owner = os.getpid()
        self._start()

    def _start(self) -> Zygote:
        """A new zygote in a cgroup of its own, with no fewer layers than what is allowed."""
        missing: dict[str, str] = {}
        instructions = b""
        try:
            instructions = syscalls.allow_list()
        except OSError as failure:
            missing["seccomp"] = str(failure)
        self._owner = os.getpid()
        uids = [first + os.getpid() % count for first, count in _UID_RANGES]
        self._zygote = Zygote({"uids": uids, "filter": instructions})
        try:
            self._cgroup = Cgroup(MAX_PROCESSES)
            self._cgroup.join(self._zygote.process.pid)
            self.missing = missing | self._zygote.missing | self._cgroup.missing
            lacking = {layer: why for layer, why in self.missing.items() if not layer.startswith(_OPTIONAL)}
            if lacking and not self._allow_weaker:
                raise WeakerSandbox(lacking)
        except BaseException:
            self._stop()
            raise
        return self._zygote

    def _stop(self) -> None:
        if self._owner != os.getpid():  # a forked copy of this object: the zygote is the parent's
            self._zygote = self._cgroup = None
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None

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
        """Execute `code`; the arguments are those of `process.run`. Raises OSError if the jail itself fails."""
        request = Request(code, stdin, timeout_s, memory_mb, output_limit, function, args, tests)
        with self._lock:
            try:
                return self._once(request)
            except ZygoteDied:
                self._stop()
                return self._once(request)

    def _once(self, request: Request) -> RunResult:
        zygote = self._zygote
        if zygote is None or self._owner != os.getpid():
            self._stop()
            zygote = self._start()
        self._cgroup.allow_memory(request.memory_mb)
        channels = Channels(request.packed(), request.input, request.output_limit)
        folder = _TMP if zygote.private_root else tempfile.mkdtemp(prefix="raythink-run-")
        deadline = Deadline(request.timeout_s)
        try:
            status = _serve(zygote, folder, channels, deadline)
            with nullcontext() if status == "ok" else self._cgroup.unthrottled():
                exit_code = zygote.end()
        except BaseException:  # the run is in an unknown state, and the zygote with it
            self._stop()
            raise
        finally:
            channels.close()
            if not zygote.private_root:
                shutil.rmtree(folder, ignore_errors=True)
        return request.result(status, exit_code, channels.output, deadline.seconds)

    def close(self) -> None:
        """End the zygote and remove its cgroup."""
        with self._lock:
            self._stop()

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(zygote: Zygote, folder: str, channels: Channels, deadline: Deadline) -> RunStatus:
    exit_fd = zygote.start(folder, channels)
    try:
        return channels.serve(exit_fd, deadline)
    finally:
        os.close(exit_fd)
