"""TRL's GRPOTrainer on CPU, timed: the peer of our GRPO loop. Run by the interpreter of TRL's own environment:

    .venv-trl/bin/python benchmarks/peers/trl_grpo.py SPEC.json OUT.json

Invariants: one optimizer update a generation batch, with the batch, objective, AdamW settings and token limit of the
specification; prompts are taken in the given order; a step's wall time runs from the end of the step before to its
own end, so generation, reward and update are all inside. This file imports nothing of this repository, because it
runs where our packages are not installed, and it imports torch only in `main`, after the threads are set.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

Score = Callable[[list[str], list[Any]], Sequence[float]]


class SpecError(ValueError):
    """The specification is wrong; the message says what to change."""


@dataclass(frozen=True)
class Spec:
    """What to train on and how; the fields are the keys of SPEC.json.

    `prompts`: [{"prompt": templated text, "answer": anything}, ...]. `per_device_batch`: sequences a forward-backward
    pass (None: the whole batch at once); the rest is gradient accumulation. `fixed_length`: every response has exactly
    so many tokens. `reward`: {"kind": "exact", "extract": "answer_tag"} | "length" | "module:function", imported with
    `reward_sys_path` on sys.path and called as function(texts, answers) -> scores. `turns`: before each step a line is
    awaited on stdin, and after it one is printed, so that two trainers can take turns on one machine.
    `generation_kwargs` goes to transformers' generate, `config` to GRPOConfig: there TRL's own faster paths are
    switched on.
    """

    model: str
    prompts: list[dict[str, Any]]
    steps: int
    prompts_per_step: int = 24
    group_size: int = 8
    max_tokens: int = 128
    temperature: float = 1.0
    lr: float = 1e-4
    seed: int = 0
    fixed_length: int | None = None
    threads: int = 2
    warmup_steps_excluded: int = 2
    per_device_batch: int | None = None
    mask_truncated: bool = False
    attn_implementation: str = "sdpa"
    reward: Any = field(default_factory=lambda: {"kind": "exact", "extract": "answer_tag"})
    reward_sys_path: str | None = None
    turns: bool = False
    generation_kwargs: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Sequences a step: prompts times group size."""
        return self.prompts_per_step * self.group_size

    @property
    def micro_batch(self) -> int:
        """Sequences a forward-backward pass."""
        return self.per_device_batch or self.batch

    @property
    def token_limit(self) -> int:
        """The most tokens a response may have."""
        return self.fixed_length or self.max_tokens


def read_spec(path: Path) -> Spec:
    """The checked specification. Raises SpecError on an unknown or missing key and on numbers that do not fit."""
    data = json.loads(path.read_text())
    unknown = sorted(set(data) - {f.name for f in fields(Spec)})
    if unknown:
        raise SpecError(f"unknown keys {unknown} in {path.name}: take them out")
    missing = [key for key in ("model", "prompts", "steps") if key not in data]
    if missing:
        raise SpecError(f"{path.name} lacks {missing}: add them")
    spec = Spec(**data)
    if not Path(spec.model).is_dir():
        raise SpecError(f"model={spec.model!r} is no folder: give one that transformers can load")
    if len(spec.prompts) < spec.prompts_per_step:
        raise SpecError(f"{len(spec.prompts)} prompts do not fill a step: give at least {spec.prompts_per_step}")
    if spec.batch % spec.micro_batch:
        raise SpecError(f"per_device_batch={spec.micro_batch} must divide prompts_per_step*group_size={spec.batch}")
    if spec.steps <= spec.warmup_steps_excluded:
        raise SpecError(f"steps={spec.steps} must exceed warmup_steps_excluded={spec.warmup_steps_excluded}")
    if spec.fixed_length and spec.mask_truncated:
        raise SpecError("fixed_length cuts every response off, so mask_truncated would mask all: set it to false")
    return spec


def extract_answer(text: str) -> str:
    """The stripped text of the last closed <answer>...</answer>, or "" where there is none."""
    for piece in reversed(text.split("<answer>")[1:]):
        inside, closing, _ = piece.partition("</answer>")
        if closing:
            return inside.strip()
    return ""


def exact_scores(texts: list[str], answers: list[Any]) -> list[float]:
    """1.0 where the extracted answer equals the expected one as a string, 0.0 elsewhere."""
    return [float(extract_answer(text) == str(answer).strip()) for text, answer in zip(texts, answers, strict=True)]


def text_reward(spec: Spec) -> Score | None:
    """The function that scores texts, or None for "length". Raises SpecError if the reward cannot be understood."""
    if spec.reward == "length":
        return None
    if spec.reward == {"kind": "exact", "extract": "answer_tag"}:
        return exact_scores
    if not isinstance(spec.reward, str) or ":" not in spec.reward:
        raise SpecError(
            f'reward={spec.reward!r} is unknown: use {{"kind": "exact", "extract": "answer_tag"}}, "length" or '
            f'"module:function"'
        )
    if spec.reward_sys_path:
        sys.path.insert(0, spec.reward_sys_path)
    module, _, function = spec.reward.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"reward={spec.reward!r} cannot be imported ({error}): check reward_sys_path") from error


@dataclass
class Probe:
    """What is measured, one entry a step. `generate_s` ends where the rewards begin; the rest is `step_s` minus it."""

    batch: int
    warmup: int
    step_s: list[float] = field(default_factory=list)
    generate_s: list[float] = field(default_factory=list)
    mean_reward: list[float] = field(default_factory=list)
    mean_length: list[float] = field(default_factory=list)
    _mark: float = 0.0

    def start(self) -> None:
        self._mark = time.perf_counter()

    def generated(self) -> None:
        self.generate_s.append(time.perf_counter() - self._mark)

    def scored(self, scores: Sequence[float], lengths: Sequence[int]) -> None:
        self.mean_reward.append(statistics.fmean(scores))
        self.mean_length.append(statistics.fmean(lengths))

    def step_ended(self) -> None:
        now = time.perf_counter()
        self.step_s.append(now - self._mark)
        self._mark = now

    def summary(self) -> dict[str, Any]:
        """The lists and the medians over the steps after the warm-up. Raises RuntimeError if the counts disagree."""
        counts = {len(self.step_s), len(self.generate_s), len(self.mean_reward)}
        if len(counts) != 1:
            raise RuntimeError(f"steps, generations and rewards differ in number: {sorted(counts)}")
        counted = list(zip(self.step_s, self.mean_length, strict=True))[self.warmup :]
        return {
            "samples_per_s": statistics.median(self.batch / wall for wall, _ in counted),
            "tokens_per_s": statistics.median(self.batch * length / wall for wall, length in counted),
            "step_s": self.step_s,
            "generate_s": self.generate_s,
            "mean_reward": self.mean_reward,
            "mean_length": self.mean_length,
        }


def reward_function(spec: Spec, tokenizer: Any, probe: Probe) -> Callable[..., list[float]]:
    """TRL's reward callback: it scores a generation batch once and tells the probe.

    TRL's own text lacks special tokens, and <answer> may be one of them, so the ids are decoded again with them.
    """
    score = text_reward(spec)
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def reward(completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        probe.generated()
        lengths = [len(ids) for ids in completion_ids]
        if spec.fixed_length and set(lengths) != {spec.fixed_length}:
            raise RuntimeError(f"responses of {sorted(set(lengths))} tokens where all should have {spec.fixed_length}")
        if score is None:
            scores: Sequence[float] = [length / spec.token_limit for length in lengths]
        else:
            bare = [ids[:-1] if ids and ids[-1] in ends else ids for ids in completion_ids]
            texts = tokenizer.batch_decode(bare, skip_special_tokens=False)
            scores = score(texts, [spec.prompts[i].get("answer") for i in index])
        if not all(math.isfinite(s) for s in scores):
            raise RuntimeError("the reward function gave a score that is no number")
        probe.scored(scores, lengths)
        return [float(s) for s in scores]

    return reward


def trainer_config(spec: Spec, folder: str) -> dict[str, Any]:
    """The keyword arguments of GRPOConfig; `spec.config` has the last word."""
    generation = dict(spec.generation_kwargs)
    if spec.fixed_length:
        # TRL cuts at the first stop token, so leaving stop ids out is not enough: they must not be sampled.
        generation["min_new_tokens"] = spec.fixed_length
    return {
        "output_dir": folder,
        # the work: one update a generation batch, prompts in the given order
        "max_steps": spec.steps,
        "per_device_train_batch_size": spec.micro_batch,
        "gradient_accumulation_steps": spec.batch // spec.micro_batch,
        "num_generations": spec.group_size,
        "num_iterations": 1,
        "shuffle_dataset": False,
        "max_completion_length": spec.token_limit,
        "temperature": spec.temperature,
        "generation_kwargs": generation or None,
        "seed": spec.seed,
        # the objective: mean-centred advantages, token-level loss by global count, clip-higher, no KL
        "loss_type": "dapo",
        "scale_rewards": "none",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "mask_truncated_completions": spec.mask_truncated,
        # the optimizer
        "optim": "adamw_torch_fused",
        "learning_rate": spec.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        # float32 on CPU, and nothing that costs time without training
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": spec.attn_implementation},
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        **spec.config,
    }


def step_clock(probe: Probe, turns: bool, steps: int) -> Any:
    """A TrainerCallback that reports the start of training and the end of each step to the probe."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            probe.step_ended()
            if turns:
                print("step", flush=True)
            if len(probe.step_s) < steps:
                self.begin()

        def begin(self) -> None:
            if turns:
                sys.stdin.readline()
            probe.start()

    return StepClock()


def train(spec: Spec) -> dict[str, Any]:
    """Run `spec.steps` steps and return the probe's summary. Raises what TRL raises."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(spec.model, padding_side="left")
    rows = [{"prompt": row["prompt"], "index": i} for i, row in enumerate(spec.prompts)]
    probe = Probe(batch=spec.batch, warmup=spec.warmup_steps_excluded)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=spec.model,
            reward_funcs=reward_function(spec, tokenizer, probe),
            args=GRPOConfig(**trainer_config(spec, folder)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[step_clock(probe, spec.turns, spec.steps)],
        )
        trainer.train()
    return probe.summary()


def set_threads(threads: int) -> None:
    """Bound torch's threads; the environment first, because OpenMP reads it once, when torch is imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    """The versions of what was measured."""
    from importlib.metadata import version

    names = ("trl", "torch", "transformers", "accelerate", "datasets", "numpy")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def main(arguments: Sequence[str]) -> int:
    """Read SPEC.json, train, write OUT.json. Exit code 2, with one line, on a wrong specification."""
    if len(arguments) != 2:
        print("usage: trl_grpo.py SPEC.json OUT.json", file=sys.stderr)
        return 2
    # A benchmark measures one machine: nothing is fetched or reported.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    try:
        spec = read_spec(Path(arguments[0]))
        text_reward(spec)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    set_threads(spec.threads)
    result = train(spec)
    settings = {k: v for k, v in trainer_config(spec, "").items() if k != "output_dir"}
    output = {**result, "versions": versions(), "settings": settings}
    Path(arguments[1]).write_text(json.dumps(output, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
