"""What exact resume needs of a learner, written by torch's distributed checkpoint: any number of ranks can read it.

`state/` holds the parameters and the optimizer's moments by name (each rank writes its shards, and reads the parts of
the tensors that its own shards are), and a file a rank with its random state, the schedule and the learning rate.
verl's own checkpoints are one file a rank, which no other number of ranks can read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL, OPTIMIZER = "model.", "optimizer."


def reshard(module: Any) -> None:
    """Drop what FSDP holds gathered (the head after a forward pass without a backward one): until then the module's
    parameters are whole copies, and neither the optimizer's nor up to date once the shards are written to."""
    for part in module.modules():
        if hasattr(part, "reshard"):
            part.reshard()


def save(engine: Any, folder: Path, rank: int) -> None:
    """Write verl's `engine` (module, optimizer, lr_scheduler) to `folder`. A collective."""
    import torch
    import torch.distributed.checkpoint as dcp

    reshard(engine.module)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "rng": engine.checkpoint_manager.get_rng_state(),
            "scheduler": engine.lr_scheduler.state_dict(),
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in engine.optimizer.param_groups],
        },
        folder / f"rank_{rank}.pt",
    )
    dcp.save({**_parameters(engine.module), **_moments(engine)}, checkpoint_id=str(folder))


def load(engine: Any, folder: Path, rank: int) -> None:
    """Restore what `save` wrote, with as many ranks or with another number of them. A collective.

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
