"""What a checkpoint holds of a learner: taken to host memory in one moment, written to disk in another.

`state/` holds the parameters and the optimizer's moments by name (torch's distributed checkpoint: each rank writes its
shards, and reads the parts of the tensors that its own shards are), and a file a rank with its random state, the
schedule and the learning rate. verl's own checkpoints are one file a rank, which no other number of ranks can read.
`hf/` is the policy as transformers and vLLM load it, written by rank 0.

A snapshot shares no memory with what trains, so that training goes on while it is written. It costs host memory until
then: 12 bytes a trained parameter (and 4 a frozen one) over all ranks, and on rank 0 the whole policy in its own dtype.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL, OPTIMIZER = "model.", "optimizer."


@dataclass
class Snapshot:
    """One rank's part of a checkpoint, in host memory. `state` and `extra` are None where only the policy is wanted;
    `policy` holds its tensors by Hugging Face name on rank 0 and nothing on the others."""

    rank: int
    policy: dict[str, Any]
    model_config: Any
    state: dict[str, Any] | None = None
    extra: bytes | None = None

    def write(self, folder: Path, group: Any) -> None:
        """Write `hf/` and `state/` below `folder`, and flush them to disk. A collective of `group` (gloo), whose
        ranks may train meanwhile. Raises OSError where any rank's files cannot be written."""
        if self.state is not None:
            _write_shards(self.state, folder / "state", group)
            with (folder / "state" / f"rank_{self.rank}.pt").open("wb") as file:
                file.write(self.extra or b"")
                flush(file)
        if self.rank == 0:
            write_policy(self.policy, self.model_config, folder / "hf")


def _write_shards(state: dict[str, Any], folder: Path, group: Any) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:  # the ranks tell each other of their failures, so none waits for one that has given up
        dcp.save(state, checkpoint_id=str(folder), process_group=group)
    except CheckpointException as error:  # a BaseException: it would end the actor
        _, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f"{type(cause).__name__}: {cause}") from error


def write_policy(tensors: dict[str, Any], model_config: Any, folder: Path) -> None:
    """A folder that transformers and vLLM load as it is, on disk when this returns. Raises OSError."""
    from huggingface_hub import save_torch_state_dict
    from safetensors import SafetensorError

    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_torch_state_dict(tensors, folder, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{folder}: {error}") from error
    model_config.hf_config.save_pretrained(folder)
    model_config.tokenizer.save_pretrained(folder)
    if model_config.generation_config is not None:
        model_config.generation_config.save_pretrained(folder)
    for path in folder.iterdir():
        with path.open("rb+") as file:
            flush(file)


def flush(file: Any) -> None:
    """To disk, so that a crash of the machine cannot tear what is renamed into place after it."""
    file.flush()
    os.fsync(file.fileno())


def reshard(module: Any) -> None:
    """Drop what FSDP holds gathered (the head after a forward pass without a backward one): until then the module's
    parameters are whole copies, and neither the optimizer's nor up to date once the shards are written to."""
    for part in module.modules():
        if hasattr(part, "reshard"):
            part.reshard()


def take(engine: Any, rank: int) -> tuple[dict[str, Any], bytes]:
    """(parameters and moments of this rank, its schedule and random state) of verl's `engine` (module, optimizer,
    lr_scheduler), copied to host memory."""
    import torch
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    reshard(engine.module)
    extra = io.BytesIO()
    torch.save(
        {
            "rng": engine.checkpoint_manager.get_rng_state(),
            "scheduler": engine.lr_scheduler.state_dict(),
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in engine.optimizer.param_groups],
        },
        extra,
    )
    stager = DefaultStager(StagingOptions(  # all at once, into memory that is free again after the write
        use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False))
    try:
        return stager.stage({**_parameters(engine.module), **_moments(engine)}), extra.getvalue()
    finally:
        stager.close()


def load(engine: Any, folder: Path, rank: int) -> None:
    """Restore what a snapshot wrote, with as many ranks or with another number of them. A collective.

    A rank that was not there then takes over the schedule, and keeps its own random state.
    Raises FileNotFoundError where `folder` holds no such state, ValueError where it is another model's.
    """
    import torch
    import torch.distributed.checkpoint as dcp

    if not (folder / ".metadata").is_file():
        raise FileNotFoundError(f"{folder} holds no learner state: a checkpoint without state/ cannot be resumed from")
    reshard(engine.module)
    stored = dcp.FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    parameters, moments = _parameters(engine.module), _empty_moments(engine, stored)
    if missing := sorted(set(parameters) - set(stored)):
        raise ValueError(f"{folder} is the state of another model: it has no {missing[0]}")
    with torch.no_grad():
        dcp.load({**parameters, **moments}, checkpoint_id=str(folder))
    _set_moments(engine, moments)
    own = folder / f"rank_{rank}.pt"
    extra = torch.load(own if own.is_file() else folder / "rank_0.pt", weights_only=False)
    engine.lr_scheduler.load_state_dict(extra["scheduler"])
    for group, saved in zip(engine.optimizer.param_groups, extra["groups"], strict=True):
        group.update(saved)
    if own.is_file():
        engine.checkpoint_manager.load_rng_state(extra["rng"])


def _parameters(module: Any) -> dict[str, Any]:
    """Every parameter once (tied ones under their first name), as the tensors in use: loading writes into them."""
    return {MODEL + name: parameter.data for name, parameter in module.named_parameters()}


def _named(engine: Any) -> list[tuple[str, Any]]:
    trained = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
    return [(name, p) for name, p in engine.module.named_parameters() if id(p) in trained]


def _moments(engine: Any) -> dict[str, Any]:
    """The optimizer's state by parameter and kind. Empty before the first update, and for frozen parameters."""
    state = engine.optimizer.state
    return {f"{OPTIMIZER}{name}|{kind}": value
            for name, p in _named(engine) for kind, value in state.get(p, {}).items()}


def _empty_moments(engine: Any, stored: dict[str, Any]) -> dict[str, Any]:
    """Tensors for what `stored` has of the optimizer, distributed as their parameters are."""
    import torch

    parameters, result = dict(_named(engine)), {}
    for key, entry in stored.items():
        if not key.startswith(OPTIMIZER):
            continue
        name, _, _ = key[len(OPTIMIZER) :].partition("|")
        if name not in parameters:
            raise ValueError(f"the checkpoint has moments of {name}, which this model does not train")
        like = parameters[name]
        result[key] = torch.empty_like(like) if entry.size == like.shape else torch.empty(
            entry.size, dtype=entry.properties.dtype)
    return result


def _set_moments(engine: Any, moments: dict[str, Any]) -> None:
    parameters = dict(_named(engine))
    engine.optimizer.state.clear()
    for key, value in moments.items():
        name, _, kind = key[len(OPTIMIZER) :].partition("|")
        engine.optimizer.state.setdefault(parameters[name], {})[kind] = value.detach()
