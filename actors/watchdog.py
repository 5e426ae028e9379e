"""What a driver leaves behind when it is killed (kill -9, out of memory) goes with it.

Ray ends its raylet with the driver, but its agents look for their parent only now and then and live on for a minute or
more, holding ports and memory. So the driver starts this file as a process of its own before Ray: it waits for the end
of a pipe that only the driver holds open, then kills what the driver had started (as it saw a moment before, or by a
mark in the environment) and removes the folder of its temporary files. Standard library only, as it runs with `-I -S`
to start within milliseconds.
"""

from __future__ import annotations

import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

MARK = "RAYTHINK_SCRATCH"
ROUNDS, ROUND_S = 100, 0.05
LOOK_S = 0.5
_watchdogs: list[subprocess.Popen] = []  # a Popen that is collected closes its pipe


@functools.cache
def start() -> str:
    """Mark this process's future children, start the watchdog (once a process), and return the scratch folder."""
    os.environ[MARK] = tempfile.mkdtemp(prefix="raythink-")
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), os.environ[MARK], str(os.getpid())]
    # The pipe's other end stays open, in this process only, until this process ends in whatever way.
    _watchdogs.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
    return os.environ[MARK]


Process = tuple[int, str]
"""Its number and the time it started, as the number may be another's later."""


def marked(mark: str, proc: Path = Path("/proc")) -> set[Process]:
    """The processes, except this one, that were started with the mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in _pids(proc):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in (proc / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add((pid, _stat(pid, proc)[1]))
    return found


def descendants(ancestor: int, proc: Path = Path("/proc")) -> set[Process]:
    """The processes below `ancestor`, except this one. Ray's overwrite their environment with their new name, so the
    mark is not enough."""
    children: dict[int, list[Process]] = {}
    for pid in _pids(proc):
        with suppress(OSError):
            parent, started = _stat(pid, proc)
            children.setdefault(parent, []).append((pid, started))
    found: set[Process] = set()
    waiting = [ancestor]
    while waiting:
        below = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(below)
        waiting.extend(pid for pid, _ in below)
    return found


def _pids(proc: Path) -> list[int]:
    return [int(f.name) for f in proc.iterdir() if f.name.isdigit() and int(f.name) != os.getpid()]


def _stat(pid: int, proc: Path) -> tuple[int, str]:
    """Parent and time of start. The name before them may hold spaces and parentheses."""
    fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), fields[19]


def watch(driver: int) -> set[Process]:
    """Wait for the driver's end; returns what it had started, as seen in the last two looks: a look during which it
    dies no longer finds what hung on it."""
    before: set[Process] = set()
    known: set[Process] = set()
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        before, known = known, descendants(driver)
    return before | known


def clean_up(mark: str, known: set[Process]) -> None:
    """Kill what is marked or known, again while that has started more, and remove the folder."""
    for _ in range(ROUNDS):
        alive = marked(mark) | {process for process in known if _is_alive(process)}
        for pid, _ in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not alive:
            break
        time.sleep(ROUND_S)
    shutil.rmtree(mark, ignore_errors=True)


def _is_alive(process: Process, proc: Path = Path("/proc")) -> bool:
    pid, started = process
    with suppress(OSError):
        return _stat(pid, proc)[1] == started and (proc / str(pid) / "cmdline").read_bytes() != b""  # not a zombie
    return False


if __name__ == "__main__":
    clean_up(sys.argv[1], watch(int(sys.argv[2])))
