"""Which backend runs model-written code: the jail's warm zygote, bubblewrap, or a SandboxFusion server.

A fresh process without isolation takes their place only where that is allowed and nothing else can start.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

from actors.sandbox import process
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.fusion import Fusion
from actors.sandbox.jail import Jail, WeakerSandbox, described
from actors.sandbox.result import RunResult
from conf.errors import UserError, did_you_mean

log = logging.getLogger(__name__)
Run = Callable[..., RunResult]
BACKENDS = ("jail", "bubblewrap", "fusion")


class Backend(Protocol):
    """What runs code; `missing` maps the layers of isolation that it lacks here to the reasons."""

    missing: Mapping[str, str]
    run: Run

    def close(self) -> None: ...


class Sandbox:
    """A process's sandbox: one of the backends, with what it lacks said once, at the start."""

    def __init__(self, allow_weaker: bool = False, backend: str = "jail", url: str = "") -> None:
        """Start `backend`: jail, bubblewrap, or fusion (a SandboxFusion server at `url`).

        Raises WeakerSandbox if layers are missing, or the backend cannot start, without leave; UserError for an unknown
        backend, or a server that does not answer.
        """
        self._backend: Backend | None = None
        self.run: Run = process.run
        try:
            self._backend = _start(backend, allow_weaker, url)
            self.run = self._backend.run
            self.missing = self._backend.missing
        except OSError as failure:
            if backend == "fusion":
                raise UserError(f"{failure}; start the server, or correct its url") from failure
            self.missing = {"zygote and namespaces" if backend == "jail" else backend: str(failure)}
            if not allow_weaker:
                raise WeakerSandbox(self.missing) from failure
        if self.missing:
            log.warning("sandbox: this machine does not provide %s", described(self.missing))

    def close(self) -> None:
        """End what was started."""
        if self._backend is not None:
            self._backend.close()


def _start(backend: str, allow_weaker: bool, url: str) -> Backend:
    match backend:
        case "jail":
            return Jail(allow_weaker)
        case "bubblewrap":
            return Bubblewrap(allow_weaker)
        case "fusion":
            return Fusion(url)
    raise UserError(f"unknown sandbox backend {backend!r}{did_you_mean(backend, BACKENDS)}; it is one of {BACKENDS}")


def shared(allow_weaker: bool = False) -> Sandbox:
    """This process's jail, started at the first call and ended with the process. Raises as `Sandbox` does."""
    return _shared(allow_weaker)


@cache
def _shared(allow_weaker: bool) -> Sandbox:
    sandbox = Sandbox(allow_weaker)
    atexit.register(sandbox.close)
    return sandbox


def run(code: str | bytes, stdin: str | bytes = "", *, allow_weaker: bool = False, **options: Any) -> RunResult:
    """Run `code` in this process's jail; the options are those of `process.run`."""
    return shared(allow_weaker).run(code, stdin, **options)
