"""TRL's SFTTrainer on CPU, timed: the peer of mode=sft. Run by the interpreter of TRL's own environment:

    .venv-trl/bin/python benchmarks/peers/trl_sft.py SPEC.json OUT.json
    .venv-trl/bin/torchrun --nproc-per-node 2 benchmarks/peers/trl_sft.py SPEC.json OUT.json

Invariants: the samples are given as tokens and labels, so that both sides learn the same ones; TRL packs them itself
(best fit decreasing, its own way of keeping samples apart); an optimizer step has `rows` packed rows over all
processes; a step's wall time runs from its start to its end. As trl_grpo.py, this imports nothing of our packages.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trl_grpo import SpecError, set_threads, versions


@dataclass(frozen=True)
class Spec:
    """What to train on and how; the fields are the keys of SPEC.json.

    `samples`: [{"input_ids": [...], "labels": [...]}, ...], -100 where nothing is learnt. `rows`: packed rows of
    `context` tokens a step, `rows_at_once` of them in one forward-backward pass of one process. `turns`: before each
    step a line is awaited on stdin, and after it one is printed. `config` goes to SFTConfig.
    """

    model: str
    samples: list[dict[str, list[int]]]
    steps: int
    context: int
    rows: int
    rows_at_once: int = 1
    lr: float = 1e-4
    seed: int = 0
    threads: int = 2
    warmup_steps_excluded: int = 2
    turns: bool = False
    config: dict[str, Any] = field(default_factory=dict)


def read_spec(path: Path) -> Spec:
    """The checked specification. Raises SpecError on an unknown or missing key and on numbers that do not fit."""
    data = json.loads(path.read_text())
    if unknown := sorted(set(data) - {f.name for f in fields(Spec)}):
        raise SpecError(f"unknown keys {unknown} in {path.name}: take them out")
    if missing := [key for key in ("model", "samples", "steps", "context", "rows") if key not in data]:
        raise SpecError(f"{path.name} lacks {missing}: add them")
    spec = Spec(**data)
    if spec.rows % (spec.rows_at_once * processes()):
        raise SpecError(f"rows={spec.rows} must be a multiple of rows_at_once={spec.rows_at_once} times the processes")
    if spec.steps <= spec.warmup_steps_excluded:
        raise SpecError(f"steps={spec.steps} must exceed warmup_steps_excluded={spec.warmup_steps_excluded}")
    return spec


def processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def trainer_config(spec: Spec, folder: str) -> dict[str, Any]:
    """The keyword arguments of SFTConfig; `spec.config` has the last word."""
    return {
        "output_dir": folder,
        "max_steps": spec.steps,
        "per_device_train_batch_size": spec.rows_at_once,
        "gradient_accumulation_steps": spec.rows // (spec.rows_at_once * processes()),
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": spec.context,
        "seed": spec.seed,
        # the optimizer, as ours
        "optim": "adamw_torch_fused",
        "learning_rate": spec.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        # float32 on CPU, and nothing that costs time without training
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        **({"ddp_backend": "gloo", "ddp_find_unused_parameters": False} if processes() > 1 else {}),
        **spec.config,
    }


@dataclass
class Probe:
    """What is measured: one entry a step. `seen`: tokens learnt from so far, padding excluded, all processes."""

    steps: int
    turns: bool
    step_s: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seen: float = 0.0
    _mark: float = 0.0

    def begin(self) -> None:
        if self.turns and is_first():
            sys.stdin.readline()
        self._mark = time.perf_counter()

    def end(self, seen: float) -> None:
        self.step_s.append(time.perf_counter() - self._mark)
        self.tokens.append(seen - self.seen)
        self.seen = seen
        if self.turns and is_first():
            print("step", flush=True)


def step_clock(probe: Probe, trainer: Any) -> Any:
    """A TrainerCallback that reports each step's begin and end to the probe."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            probe.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            probe.end(float(trainer._total_train_tokens))  # TRL's own count: it has no padding to count

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                probe.losses.append(float(logs["loss"]))
                if len(probe.step_s) < probe.steps:
                    probe.begin()

    return StepClock()


def train(spec: Spec) -> dict[str, Any]:
    """Run `spec.steps` steps and return what was measured. Raises what TRL raises."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(spec.model)
    probe = Probe(spec.steps, spec.turns)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=spec.model,
            args=SFTConfig(**trainer_config(spec, folder)),
            train_dataset=Dataset.from_list(spec.samples),
            processing_class=tokenizer,
        )
        trainer.add_callback(step_clock(probe, trainer))
        trainer.train()
    counted = [t / s for t, s in zip(probe.tokens, probe.step_s, strict=True)][spec.warmup_steps_excluded :]
    return {
        "tokens_per_s": statistics.median(counted),
        "step_s": probe.step_s,
        "tokens": probe.tokens,
        "losses": probe.losses,
    }


def main(arguments: Sequence[str]) -> int:
    """Read SPEC.json, train, write OUT.json. Exit code 2, with one line, on a wrong specification."""
    if len(arguments) != 2:
        print("usage: trl_sft.py SPEC.json OUT.json", file=sys.stderr)
        return 2
    # A benchmark measures one machine: nothing is fetched or reported.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    try:
        spec = read_spec(Path(arguments[0]))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    set_threads(spec.threads)
    result = train(spec)
    if is_first():
        settings = {k: v for k, v in trainer_config(spec, "").items() if k != "output_dir"}
        output = {**result, "versions": versions(), "settings": settings}
        Path(arguments[1]).write_text(json.dumps(output, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
