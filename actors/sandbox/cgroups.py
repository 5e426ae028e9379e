"""Control groups of a jail: memory, number of processes and CPU share of all that a run starts, together.

One group (in version 1: one a controller) holds a zygote, hence its runs, for as long as the zygote lives. Versions 1
and 2 differ in file names only. Where the machine does not grant a controller (no root, a container's read-only tree),
the other limits still hold; `Cgroup.missing` says so. A killed host cannot remove its groups: `sweep` does, later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "raythink-"
CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_US = 100_000  # one CPU: a quota of one period in each period
# Beside what a run may allocate: its /tmp, and the pages of the zygote that it makes its own.
EXTRA_BYTES = (32 + 64) << 20
EXTRA_PROCESSES = 4
_REMOVE_TIMEOUT_S = 2.0


class Cgroup:
    """Groups for one zygote; `missing` maps "cgroup memory" and the like to the reason why it is not there."""

    def __init__(self, processes: int, root: Path = ROOT) -> None:
        self.missing: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        self._memory_bytes = 0
        sweep(root)
        name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns():x}"
        self.unified = (root / "cgroup.controllers").exists()
        for controller in CONTROLLERS:
            folder = root / name if self.unified else root / controller / name
            try:
                self._create(controller, folder, root)
                self._limit(controller, folder, processes)
            except OSError as failure:
                self.missing[f"cgroup {controller}"] = failure.strerror or str(failure)
            else:
                self.folders[controller] = folder

    def _create(self, controller: str, folder: Path, root: Path) -> None:
        if not self.unified:
            if not (root / controller).is_dir():
                raise OSError("no such controller")
        elif controller not in (root / "cgroup.subtree_control").read_text().split():
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir(exist_ok=True)

    def _limit(self, controller: str, folder: Path, processes: int) -> None:
        match controller:
            case "pids":
                (folder / "pids.max").write_text(str(processes + EXTRA_PROCESSES))
            case "cpu":
                self._limit_cpu(folder, limited=True)
            case "memory":
                swap = folder / ("memory.swap.max" if self.unified else "memory.swappiness")
                if swap.exists():
                    swap.write_text("0")

    def _limit_cpu(self, folder: Path, limited: bool) -> None:
        if self.unified:
            (folder / "cpu.max").write_text(f"{CPU_PERIOD_US if limited else 'max'} {CPU_PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(CPU_PERIOD_US if limited else -1))

    @contextmanager
    def unthrottled(self) -> Iterator[None]:
        """For the killing of a run: out of their quota, its processes would wait for their turn to end."""
        if "cpu" not in self.folders:
            yield
            return
        self._limit_cpu(self.folders["cpu"], limited=False)
        try:
            yield
        finally:
            self._limit_cpu(self.folders["cpu"], limited=True)

    def join(self, pid: int) -> None:
        """Move a process in: its children are born inside."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def allow_memory(self, memory_mb: int) -> None:
        """Set the limit for the next run, `memory_mb` being what one process of it may allocate."""
        limit = (memory_mb << 20) + EXTRA_BYTES
        if "memory" in self.folders and limit != self._memory_bytes:
            name = "memory.max" if self.unified else "memory.limit_in_bytes"
            (self.folders["memory"] / name).write_text(str(limit))
            self._memory_bytes = limit

    def remove(self) -> None:
        """Remove the groups of an ended zygote (the kernel needs a moment to see that they are empty)."""
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        for folder in set(self.folders.values()):
            while not _removed(folder) and time.monotonic() < deadline:
                time.sleep(0.005)
        self.folders = {}


def sweep(root: Path = ROOT) -> None:
    """Remove the groups of hosts that ended without doing so."""
    patterns = (f"{PREFIX}*",) if (root / "cgroup.controllers").exists() else (f"{c}/{PREFIX}*" for c in CONTROLLERS)
    for pattern in patterns:
        for folder in root.glob(pattern):
            host = folder.name.removeprefix(PREFIX).split("-")[0]
            if host.isdigit() and not Path(f"/proc/{host}").exists():
                _removed(folder)


def _removed(folder: Path) -> bool:
    with suppress(FileNotFoundError):
        try:
            folder.rmdir()
        except OSError:  # still in use
            return False
    return True
