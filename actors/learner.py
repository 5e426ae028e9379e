"""Learner: one rank of the policy being trained, a thin shell around verl's FSDP2 engine.

World size 1 and more are the same code: rank 0 offers the rendezvous, every rank joins it, and each method that
touches weights is a collective, to be called on all ranks. GRPO and SFT differ in the loss that the caller passes.

Methods run one after the other in one thread, but for `write`, which has one of its own where the actor is made with
CONCURRENCY: checkpoints are written while the policy goes on learning.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.fleet_pool import NotStarted
from actors.learner_state import Snapshot
from actors.messages import TokenBatch
from actors.verl_engine import EngineSettings, Loss, VerlEngine

WRITING = "writing"
CONCURRENCY = {WRITING: 1}  # Ray's concurrency groups


def address_here() -> str:
    """The address that this node has in Ray's cluster."""
    import ray

    return ray.util.get_node_ip_address()


def _interface(address: str) -> str:
    """The network interface with that address, "" where none has. Gloo would take the one that the host's name leads
    to, which on some nodes the others cannot reach."""
    import psutil

    found = (name for name, has in psutil.net_if_addrs().items() if any(a.address == address for a in has))
    return next(found, "")


class Learner:
    def __init__(self, name: str, rank: int, world_size: int, settings: EngineSettings, threads: int = 1):
        self.name, self.rank, self.world_size, self.settings = name, rank, world_size, settings
        self._threads = threads
        self._engine: VerlEngine | None = None
        self._snapshot: Snapshot | None = None
        self._writers: Any = None  # the ranks' own group for writing: its messages never mix with training's
        self._updates, self._state = 0, "starting"
        self._last: dict[str, float] = {}
        self._started = time.monotonic()

    def __repr__(self) -> str:
        return f"Learner({self.name})"

    def rendezvous(self) -> tuple[str, int]:
        """An address and a free port of this node, for rank 0 to gather the others at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return "127.0.0.1" if self.world_size == 1 else address_here(), port

    def start(self, address: str, port: int) -> dict[str, Any]:
        """Join the process group and build the engine. Returns `status()`."""
        import torch
        import torch.distributed as dist

        started = time.perf_counter()
        torch.set_num_threads(self._threads)
        os.environ.update(
            MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(self.rank), WORLD_SIZE=str(self.world_size)
        )
        os.environ.setdefault("LOCAL_RANK", "0")
        if self.world_size > 1 and (interface := _interface(address_here())):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        dist.init_process_group("gloo" if self.settings.device == "cpu" else "cpu:gloo,cuda:nccl")
        self._writers = dist.new_group(backend="gloo")
        self._engine = VerlEngine(self.settings)
        self._state = "ready"
        return {**self.status(), "seconds": time.perf_counter() - started}

    def update(self, batch: TokenBatch, loss: Loss, counts: dict[str, float]) -> dict[str, float]:
        """One optimizer step (see VerlEngine.train). Returns sums over ranks, grad_norm, lr and seconds."""
        started = time.perf_counter()
        engine, self._state = self._ready(), "learning"
        try:
            self._last = engine.train(batch, loss, counts)
        finally:
            self._state = "ready"
        self._updates += 1
        return {**self._last, "seconds": time.perf_counter() - started}

    def gradient(self, batch: TokenBatch, loss: Loss, counts: dict[str, float]) -> dict[str, float]:
        """Loss and gradient norm without an update: what a batch would do."""
        return self._ready().gradient(batch, loss, counts)

    def evaluate(self, batch: TokenBatch, loss: Loss, counts: dict[str, float]) -> dict[str, float]:
        return self._ready().evaluate(batch, loss, counts)

    def logprobs(self, batch: TokenBatch, reference: bool = False) -> dict[int, np.ndarray]:
        """Logprobs of this rank's share of the batch: {sequence index: float32 [length]}. `reference`: under the
        weights that training began with."""
        return self._ready().logprobs(batch, reference)

    def weights(self) -> dict[str, np.ndarray] | None:
        """All parameters in Hugging Face names, on rank 0; None on the others. numpy has no bfloat16: float32 then."""
        result = {}
        for name, tensor in self._ready().weights():
            if self.rank == 0:
                result[name] = tensor.float().cpu().numpy()
        return result if self.rank == 0 else None

    def snapshot(self, state: bool = True) -> None:
        """Copy to host memory what `write` is to write: the policy and, if asked, what exact resume needs.

        Raises RuntimeError where the former snapshot is not written yet: only one is held at a time.
        """
        if self._snapshot is not None:
            raise RuntimeError(f"{self.name} has a snapshot that is not written yet")
        self._snapshot = self._ready().snapshot(state)

    def write(self, folder: str) -> None:
        """Write the snapshot as `hf/` (loads in transformers and vLLM) and `state/`, on disk when this returns, and
        drop it. Raises OSError where that cannot be done."""
        try:
            if self._snapshot is None:
                raise NotStarted(f"{self.name} has no snapshot to write: it was started anew since")
            self._snapshot.write(Path(folder), self._writers)
        finally:
            self._snapshot = None

    def save(self, folder: str, state: bool = True) -> None:
        """`snapshot` and `write` at once."""
        self.snapshot(state)
        self.write(folder)

    def sees(self, folder: str) -> bool:
        """Whether this node has that folder: checkpoints are written and read by every rank."""
        return Path(folder).is_dir()

    def restore(self, folder: str) -> None:
        self._ready().load_state(Path(folder) / "state")

    def status(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "learner",
            "state": self._state,
            "rank": self.rank,
            "world_size": self.world_size,
            "updates": self._updates,
            "last": self._last,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "pid": os.getpid(),
        }

    def _ready(self) -> VerlEngine:
        if self._engine is None:
            raise NotStarted(f"{self.name} was not started: call start(address, port) first")
        return self._engine
