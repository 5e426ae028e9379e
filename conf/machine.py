"""What this machine has, within the limits set for this process: CPUs, memory, GPUs. Without torch or Ray, so that
`--dry-run` answers at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """`memory_bytes`: host memory; `gpu_bytes`: memory of each visible GPU (empty: no GPU)."""

    cpus: int
    memory_bytes: int
    gpu_bytes: tuple[int, ...] = ()


def this_machine() -> Machine:
    return Machine(_cpus(), _memory(), _gpus())


def _cpus() -> int:
    """CPUs this process may run on, and no more than a container's quota (rounded up) pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, min(allowed, -(-int(quota) // int(period))))
    return allowed


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_read(CGROUP / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def _gpus() -> tuple[int, ...]:
    """Memory of each NVIDIA GPU that CUDA_VISIBLE_DEVICES leaves visible, as `nvidia-smi` tells."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None or visible in ("", "-1"):
        return ()
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver that does not answer has no GPU to offer
    sizes = [int(line) << 20 for line in done.stdout.split() if line.isdigit()]
    return tuple(sizes[: len(visible.split(","))] if visible else sizes)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # no such limit in this version of cgroups
