"""When a run's time is over: its limit, and back what the machine kept from it where that was much.

A wall clock also counts what a hypervisor steals and what a run waits for a CPU; on a machine that is busy for a while
right programs would run out of time, and a fault of the machine would be a wrong answer. A run that sleeps or computes
gets exactly its limit, and so does one of several processes or threads: a fork bomb waits for the CPUs that it crowds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

NOTABLE = 0.25  # of the limit; less than this kept from a run is the noise that limits allow for
MOST = 4.0  # limits that a run may take in all, however busy the machine is
_TICKS = os.sysconf("SC_CLK_TCK")


def stolen_s(stat: str = "/proc/stat") -> float:
    """Seconds since boot that the hypervisor kept from the CPU that it kept most from."""
    with open(stat, "rb") as file:
        cpus = [line.split() for line in file.read(4096).splitlines() if line.startswith(b"cpu") and line[3:4] != b" "]
    return max((int(fields[8]) / _TICKS for fields in cpus if len(fields) > 8), default=0.0)


def waited_s(exit_fd: int, proc: Path = Path("/proc")) -> float:
    """Seconds that the process of a pidfd and its child were ready to run without a CPU; 0 if there are more of them.

    From schedstat's run delay. The jail's first process sets the run up and then only waits for its child.
    """
    try:
        info = (proc / "self/fdinfo" / str(exit_fd)).read_text()
        pid = next(line.split()[1] for line in info.splitlines() if line.startswith("Pid:"))
        children = _children(proc / pid, pid)
        if any(_children(proc / child, child) or _threads(proc / child) > 1 for child in children) or len(children) > 1:
            return 0.0
        return _delay_s(proc / pid) + sum(_delay_s(proc / child) for child in children)
    except (OSError, ValueError, IndexError):  # it ended meanwhile, or the kernel does not tell
        return 0.0


def _children(process: Path, pid: str) -> list[str]:
    return (process / "task" / pid / "children").read_text().split()


def _threads(process: Path) -> int:
    return len(list((process / "task").iterdir()))


def _delay_s(process: Path) -> float:
    return int((process / "schedstat").read_text().split()[1]) / 1e9


class Deadline:
    """The end of a run that starts now and may take `limit_s` seconds."""

    def __init__(
        self,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
        stolen: Callable[[], float] = stolen_s,
        waited: Callable[[int], float] = waited_s,
    ) -> None:
        self._limit_s, self._clock, self._stolen, self._waited = limit_s, clock, stolen, waited
        self._started, self._stolen_before = clock(), stolen()
        self._end = self._started + limit_s

    @property
    def seconds(self) -> float:
        """Since the start, by the wall clock."""
        return self._clock() - self._started

    def remaining(self, exit_fd: int) -> float:
        """Seconds left of the run whose pidfd this is; 0 when it is over. Looks at the machine only then."""
        now = self._clock()
        if now >= self._end:
            # not their sum: a wait for a CPU that is stolen would count twice
            kept = max(self._stolen() - self._stolen_before, self._waited(exit_fd))
            if kept >= NOTABLE * self._limit_s:
                self._end = self._started + min(self._limit_s + kept, MOST * self._limit_s)
        return max(0.0, self._end - now)
