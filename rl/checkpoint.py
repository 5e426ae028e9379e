"""Run folders and checkpoints: written aside and renamed, so that a torn one is never loaded.

`runs/<name>/checkpoints/step_N/` holds hf/ (loads in transformers and vLLM), state/ (model, optimizer, schedule and
RNG, which any number of learners can read) and trainer.json, which is written last: where it is, the rest is.
When they are taken and written is rl.saving's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conf.checks import check_run_dir
from conf.errors import UserError
from conf.load import to_yaml
from conf.schema import Config, keys, lookup

TRAINER_FILE = "trainer.json"
# What a resumed run may change: nothing that the trained weights depend on but by rounding and by which seeds the
# engines draw from. LAYOUT is who computes: a run goes on with other actors than it began with.
FREE_ON_RESUME = ("rl.steps", "sft.steps", "recipe")
LAYOUT = (
    "engine.count", "engine.threads", "engine.tensor_parallel", "engine.max_num_seqs", "engine.max_batched_tokens",
    "engine.kv_cache_gib", "engine.gpu_memory", "engine.enforce_eager", "engine.timeout_s",
    "verifier.count", "verifier.workers",
    "learner.world_size", "learner.threads", "learner.micro_tokens", "learner.remove_padding",
    "learner.gradient_checkpointing", "learner.offload", "learner.ulysses",
)
FREE_SECTIONS = ("run", "ray", "eval", "verify", "sandbox")


def write_json(path: Path, value: Any) -> None:
    """Write aside, flush to disk, rename: a crash leaves the old file or the new one."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w") as f:
        json.dump(value, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    aside.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, on disk when this returns."""
    with path.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())


def read_json(path: Path) -> Any | None:
    """The value, or None where the file does not exist. UserError where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, or start anew with run.resume=never") from error


class RunFolder:
    """One run's folder. `resumed` tells whether it was there before and is continued."""

    def __init__(self, path: Path, resumed: bool):
        self.path, self.resumed = path, resumed

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of the complete checkpoints, oldest first."""
        found = []
        for folder in (self.path / "checkpoints").glob("step_*"):
            match = re.fullmatch(r"step_(\d+)", folder.name)
            if match and (folder / TRAINER_FILE).is_file():
                found.append((int(match[1]), folder))
        return sorted(found)

    def new_checkpoint(self, step: int) -> Path:
        """An empty folder aside, to be filled and then given to `commit`. There is never more than one."""
        self.drop_aside()
        aside = self.path / "checkpoints" / f".step_{step}.tmp"
        aside.mkdir(parents=True)
        return aside

    def drop_aside(self) -> None:
        """Remove what a save that was killed, or failed, has left."""
        for aside in (self.path / "checkpoints").glob(".step_*.tmp"):
            shutil.rmtree(aside, ignore_errors=True)

    def commit(self, aside: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
        """Seal a filled folder as checkpoint `step`; drop all but the newest `keep` (at least one)."""
        write_json(aside / TRAINER_FILE, {"step": step, **state})
        final = self.path / "checkpoints" / f"step_{step}"
        shutil.rmtree(final, ignore_errors=True)
        aside.replace(final)
        for _, old in self.checkpoints()[: -max(keep, 1)]:
            shutil.rmtree(old)
        return final

    def point_latest(self) -> None:
        """Make runs/latest point here, atomically."""
        link = self.path.parent / "latest"
        aside = self.path.parent / f".latest.{os.getpid()}"
        if link.exists() and not link.is_symlink():
            raise UserError(f"{link} is in the way of the link to the newest run: rename or remove it")
        aside.unlink(missing_ok=True)
        aside.symlink_to(self.path.name)
        aside.replace(link)


def open_run(cfg: Config) -> RunFolder:
    """The run's folder: a new one, or the one to be resumed (run.resume). Writes config.yaml into a new one.

    Raises UserError for an unwritable or missing folder, a name that is taken, or settings that differ from those of
    the run being resumed.
    """
    check_run_dir(cfg.run.dir)
    root = Path(cfg.run.dir).expanduser().resolve()
    path = _to_resume(cfg, root)
    if path is not None:
        _check_same(cfg, path)
        return RunFolder(path, resumed=True)
    name = cfg.run.name or time.strftime("%Y%m%d-%H%M%S")
    path = root / name
    try:
        path.mkdir()
    except FileExistsError:
        if cfg.run.name or not path.is_dir():
            raise UserError(
                f"run.name={name} is taken in {cfg.run.dir}: choose another, "
                f"or continue it with run.resume={cfg.run.dir}/{name}"
            ) from None
        path = root / f"{name}-{os.getpid()}"
        path.mkdir()
    (path / "config.yaml").write_text(to_yaml(cfg))
    return RunFolder(path, resumed=False)


def _to_resume(cfg: Config, root: Path) -> Path | None:
    if cfg.run.resume == "never":
        return None
    if cfg.run.resume != "auto":
        path = Path(cfg.run.resume).expanduser().resolve()
        if not (path / "config.yaml").is_file():
            raise UserError(f"run.resume={cfg.run.resume} is not a run's folder (no config.yaml): give runs/NAME")
        return path
    runs = [root / cfg.run.name] if cfg.run.name else [p for p in root.iterdir() if not p.is_symlink()]
    runs = [p for p in runs if (p / "config.yaml").is_file() and _mode(p) == cfg.mode]
    for path in sorted(runs, key=lambda p: p.stat().st_mtime, reverse=True):
        if is_unfinished(path) or cfg.run.name:
            return path
    return None


def is_unfinished(path: Path) -> bool:
    """Whether a run was interrupted, or died, before its last step."""
    summary = read_json(path / "summary.json")
    return summary is None or bool(summary.get("interrupted"))


def _mode(path: Path) -> str:
    from omegaconf import OmegaConf

    return str(OmegaConf.load(path / "config.yaml").get("mode", ""))


def _check_same(cfg: Config, path: Path) -> None:
    """Refuse to continue a run under other settings: its result would be neither run's."""
    from omegaconf import OmegaConf

    saved = OmegaConf.load(path / "config.yaml")
    steps = FREE_ON_RESUME if cfg.learner.schedule == "constant" else ("recipe",)  # a cosine ends at the last step
    free = (*steps, *LAYOUT)
    different = [
        name
        for name in keys()
        if name not in free
        and name.partition(".")[0] not in FREE_SECTIONS
        and OmegaConf.select(saved, name) != lookup(cfg, name)
    ]
    if different:
        shown = ", ".join(f"{n}={OmegaConf.select(saved, n)}" for n in different[:3])
        raise UserError(
            f"{path.name} was begun with other settings ({shown}{', ...' if len(different) > 3 else ''}): give the "
            "same ones, or start a new run with run.resume=never"
        )
