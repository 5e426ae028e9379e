"""The pipes of one run, seen from the host: request and stdin go in, stdout, stderr and reports come out, each apart.

Every output is capped, nothing blocks on a program that does not read or does not write, and there is one deadline.
"""

from __future__ import annotations

import os
import selectors
from typing import Final

from actors.sandbox.deadline import Deadline
from actors.sandbox.result import RunStatus

CHUNK: Final = 1 << 16
INPUTS: Final = ("request", "stdin")
OUTPUTS: Final = ("stdout", "stderr", "reports")


class Channels:
    """`child` holds the ends to hand to the child by name; close them with `handed_over` once it has them."""

    def __init__(self, request: bytes, stdin: bytes, output_limit: int) -> None:
        self.limit = output_limit
        self.buffers = {name: bytearray() for name in OUTPUTS}
        self.pending = {"request": memoryview(request), "stdin": memoryview(stdin)}
        self.child: dict[str, int] = {}
        self.host: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()
        for name in (*INPUTS, *OUTPUTS):
            read, write = os.pipe()
            mine, self.child[name] = (write, read) if name in INPUTS else (read, write)
            self.host[name] = mine
            os.set_blocking(mine, False)
            self.selector.register(mine, selectors.EVENT_WRITE if name in INPUTS else selectors.EVENT_READ, name)

    @property
    def output(self) -> dict[str, bytes]:
        """What has arrived so far."""
        return {name: bytes(buffer) for name, buffer in self.buffers.items()}

    def handed_over(self) -> None:
        """Close the child's ends here: only then does the end of a stream show."""
        while self.child:
            os.close(self.child.popitem()[1])

    def close(self) -> None:
        """Close all that is still open."""
        self.handed_over()
        while self.host:
            os.close(self.host.popitem()[1])
        self.selector.close()

    def serve(self, exit_fd: int, deadline: Deadline) -> RunStatus:
        """Feed and read until `exit_fd` (a pidfd) is ready, a limit is reached, or the deadline passes.

        What happened until then counts, also where this process was the one that had to wait.
        """
        self.selector.register(exit_fd, selectors.EVENT_READ, "exit")
        while True:
            remaining = deadline.remaining(exit_fd)
            ready = self.selector.select(remaining)
            ended = False
            for key, _ in ready:
                if key.data == "exit":
                    ended = True
                elif key.data in self.pending:
                    self._feed(key.data)
                else:
                    self._read(key.data)
            if self._full():
                return "output_limit"
            if ended:
                return self._drain()
            if not remaining:
                return "timeout"

    def _full(self) -> bool:
        return any(len(buffer) > self.limit for buffer in self.buffers.values())

    def _drain(self) -> RunStatus:
        """What an ended process left in its pipes: a grandchild may hold them open, so there is no waiting for EOF."""
        for name, buffer in self.buffers.items():
            while name in self.host and len(buffer) <= self.limit and self._read(name):
                pass
        return "output_limit" if self._full() else "ok"

    def _feed(self, name: str) -> None:
        try:
            written = os.write(self.host[name], self.pending[name][:CHUNK]) if self.pending[name] else 0
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program reads no more input: no fault of its own
            self._close(name)
            return
        self.pending[name] = self.pending[name][written:]
        if not self.pending[name]:
            self._close(name)

    def _read(self, name: str) -> bool:
        try:
            data = os.read(self.host[name], CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close(name)
            return False
        self.buffers[name] += data
        return True

    def _close(self, name: str) -> None:
        fd = self.host.pop(name)
        self.selector.unregister(fd)
        os.close(fd)
