"""Which weights to serve: a folder, or the newest checkpoint of a run, however often that changes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from actors.engine.chat import EngineError

MAX_HEADER = 100 << 20  # bytes of a safetensors header that is still believed


@dataclass(frozen=True)
class Checkpoint:
    """A policy on disk: `version` is the training step (0: not from a run), `folder` loads in vLLM as it is."""

    version: int
    folder: Path


def newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run's folder (a link to one is followed anew each time), None without one."""
    found = []
    for path in run.glob("checkpoints/step_*/hf"):
        step = path.parent.name.removeprefix("step_")
        if step.isdigit() and (path / "config.json").is_file():
            found.append(Checkpoint(int(step), path.resolve()))
    return max(found, key=lambda c: c.version, default=None)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a folder's weights, from the headers of its safetensors files alone.

    Raises EngineError where a file is torn or there is none.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                if size > MAX_HEADER:
                    raise ValueError(f"a header of {size} bytes")
                header = json.loads(file.read(size))
        except (OSError, ValueError, struct.error) as error:
            raise EngineError(f"{path.name} cannot be read: {error}") from error
        found |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    if not found:
        raise EngineError(f"{folder} holds no safetensors")
    return found


def check_same_shapes(served: dict[str, tuple[int, ...]], new: dict[str, tuple[int, ...]]) -> None:
    """Raises EngineError where `new` are not weights for the model that is served: half of them must not be loaded."""
    if served != new:
        differing = sorted(name for name in served.keys() | new.keys() if served.get(name) != new.get(name))
        raise EngineError(f"the checkpoint is of another model: {differing[0]} differs ({len(differing)} do)")
