"""The machine a run is on, in one line: for summary.json's "machine", which the report then shows."""

from __future__ import annotations

import platform
from pathlib import Path

from conf.machine import this_machine

CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> str:
    """For example "2 CPU cores (AMD EPYC 7763) · 8 GiB · 1 GPU of 140 GiB"."""
    machine = this_machine()
    parts = [f"{machine.cpus} CPU cores ({_cpu_model()})", f"{machine.memory_bytes / 2**30:.0f} GiB"]
    if machine.gpu_bytes:
        many = "GPUs" if len(machine.gpu_bytes) > 1 else "GPU"
        parts.append(f"{len(machine.gpu_bytes)} {many} of {machine.gpu_bytes[0] / 2**30:.0f} GiB")
    return " · ".join(parts)


def _cpu_model() -> str:
    lines = CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
