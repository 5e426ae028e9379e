"""verl's platform plug-in for CPUs: gloo and one "device".

verl 0.9.1 ships CUDA and NPU platforms only. It loads the modules named in VERL_USE_EXTERNAL_MODULES and then asks
for the platform named in VERL_PLATFORM, so both must be set before verl is first imported (see
actors.verl_engine.prepare_environment). On a GPU this module is not loaded at all.
"""

from __future__ import annotations

import types
from contextlib import contextmanager

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _device_module() -> types.ModuleType:
    """What verl expects of `torch.cuda`, for the CPU: memory is not tracked, streams do not exist."""
    module = types.ModuleType("torch_cpu_as_device")
    for name in ("is_available", "device_count", "synchronize", "current_stream", "Stream", "stream"):
        if hasattr(torch.cpu, name):
            setattr(module, name, getattr(torch.cpu, name))
    for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved"):
        setattr(module, name, lambda *_: 0)
    module.empty_cache = module.reset_peak_memory_stats = lambda *_: None
    module.set_device = lambda *_: None
    module.current_device = lambda: torch.device("cpu")
    module.get_device_name = lambda *_: "CPU"
    module.mem_get_info = lambda *_: (0, 0)
    module.get_rng_state, module.set_rng_state = torch.get_rng_state, torch.set_rng_state
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self):
        return False  # the question is "is there an accelerator?"

    def is_platform_available(self, use_smi_check=False):
        return True

    def current_device(self):
        return torch.device("cpu")

    def device_count(self):
        return 1

    def set_device(self, device_index):
        """There is one CPU device: nothing to set."""

    def synchronize(self, device_index=None):
        """CPU kernels are synchronous."""

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def manual_seed_all(self, seed):
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings):
        """The CPU allocator has none."""

    def empty_cache(self):
        """The CPU allocator keeps no cache."""

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        yield

    def profiler_start(self):
        """No NVTX profiler on CPU; py-spy and torch.profiler work from outside."""

    def profiler_stop(self):
        """See profiler_start."""

    def ray_resource_name(self):
        return "CPU"

    def ray_resource_options(self, num_gpus):
        return {"num_cpus": num_gpus}

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None

