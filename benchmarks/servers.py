"""Servers under measurement, ours and others: each on a free port, in a process that is always stopped by its id."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import psutil

from conf.checks import free_port
from deployments.limits import KEYS_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
START_S, STOP_S, POLL_S = 600.0, 60.0, 0.2
LEFT_S = 10.0  # for what the server started, after its own end
KEYS = 256  # one key may send two requests a second: load comes from as many clients as it takes


class Server:
    """A server from `with` to its end: ready when GET /health says 200, stopped with all that it has started.

    Raises RuntimeError, with the last of its log, if it ends early or is not ready within START_S.
    """

    def __init__(self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str] | None = None):
        self.name, self.url, self.keys = name, f"http://127.0.0.1:{port}", ()
        self._command, self._environment = list(command), {**os.environ, **(environment or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="raythink-bench-")
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        started = time.monotonic()
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            while not self.healthy():
                if self._process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended early:\n{self._last_words()}")
                if time.monotonic() > started + START_S:
                    raise RuntimeError(f"{self.name} was not ready in {START_S:g} s:\n{self._last_words()}")
                time.sleep(POLL_S)
        except BaseException:
            self._stop()
            raise
        print(f"{self.name} is ready after {time.monotonic() - started:.0f} s", flush=True)
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def healthy(self) -> bool:
        """Whether it says so itself."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def _stop(self) -> None:
        """Ask it to end; what is left of it after STOP_S is killed, process by process."""
        family = []
        if self._process.poll() is None:
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _, alive = psutil.wait_procs(family, timeout=LEFT_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=LEFT_S)
        self._folder.cleanup()


def service(words: Sequence[str]) -> Server:
    """`main.py mode=serve` with these words of its configuration. It knows KEYS keys: `keys`."""
    port, keys = free_port(), tuple(secrets.token_hex(16) for _ in range(KEYS))
    digests = ",".join(f"bench{number}:{sha256(key.encode()).hexdigest()}" for number, key in enumerate(keys))
    command = [sys.executable, "main.py", *words, f"serve.port={port}"]
    server = Server("the service", command, port, {KEYS_VARIABLE: digests})
    server.keys = keys
    return server
