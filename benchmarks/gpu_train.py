"""python -m benchmarks.gpu_train [--steps N] [--size 0.5] [--tiny]: GRPO on a GPU, in tokens a second.

The real loop (vLLM, verifiers, verl's learner, publication) on a randomly initialised Qwen2.5 of the wanted size, so
that no hub is needed; every answer runs to its limit and every sequence is computed, so that the work does not depend
on what the policy says. Medians of steps after the first two. Anchors from other systems, on other hardware: 11.9k
tokens/s of learning on Qwen3-0.6B, 0.6 s a publication. MFU counts 6 FLOPs a parameter and token and the attention,
without recomputation, of the card's dense bf16 peak. The last line is JSON.

Without a GPU it says so and exits with 2; `--tiny` runs the same on the CPU at the starter's size, to check the script.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.errors import UserError
from conf.load import load
from conf.models import FIELDS, QWEN25, ModelStats, folder_stats
from conf.schema import Config
from rl.trainer import Trainer

STARTER = Path(__file__).resolve().parent.parent / "assets" / "starter"
WARM_UP = 2
# dense bf16 FLOP/s by a word of the card's name: NVIDIA's data sheets of H100, H200 (SXM), A100, L40S and L4
PEAKS = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
TINY = (128, 4, 4, 2, 384, 640, True)


def configuration(model: Path, steps: int, tiny: bool) -> Config:
    """The gpu_grpo recipe (or the starter's) on the starter's problems, without anything that skips work."""
    words = [f"model.path={model}", f"rl.steps={steps}", "rl.filter_groups=false", "rl.mask_truncated=false",
             "rl.refill_rounds=0", "ray.dashboard=false", "verifier.max_error_rate=1", "sandbox.allow_weaker=true"]
    if tiny:
        return load([*words, "engine.count=1", "learner.world_size=1", "rl.groups=4", "rl.group_size=4"])
    return load(["recipe=gpu_grpo", "data=starter", *words])


def make_model(folder: Path, sizes: Sequence[Any], positions: int) -> ModelStats:
    """Write a randomly initialised Qwen2 of the wanted sizes (see conf.models.FIELDS) with the starter's tokenizer."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}  # the starter's
    config = Qwen2Config(**dict(zip(FIELDS, sizes)), max_position_embeddings=positions, **special)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16 if torch.cuda.is_available() else torch.float32).save_pretrained(folder)
    GenerationConfig(**special).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(STARTER / name, folder / name)
    stats = folder_stats(folder)
    assert stats is not None, f"{folder} was written and cannot be read"
    return stats


class MeasuringTrainer(Trainer):
    """Computes every sequence, though without a reward none has a gradient, and counts their tokens."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.batches: list[list[int]] = []

    def computes(self, rows):
        return rows

    def _batch(self, rows):
        self.batches.append([len(row["tokens"]) for row in rows])
        return super()._batch(rows)


def flops(stats: ModelStats, lengths: Sequence[int]) -> float:
    """FLOPs of learning from sequences: forward, and backward twice as much; attention sees half of its square."""
    dense = 6 * stats.params * sum(lengths)
    return dense + 6 * stats.layers * stats.q_width * sum(length * length for length in lengths)


def figures(metrics: Sequence[dict[str, float]], batches: Sequence[Sequence[int]], stats: ModelStats,
            peak: float | None, learners: int) -> dict[str, float | None]:
    """Medians of the steps after WARM_UP. `batches`: the lengths of each step's sequences; `peak`: FLOP/s of a card."""
    steps = list(zip(metrics, batches, strict=True))[WARM_UP:]
    learning = [(sum(lengths) / m["time/learn"], flops(stats, lengths) / m["time/learn"]) for m, lengths in steps]
    return {
        "generated_tokens_per_s": statistics.median(m["tokens/generated"] / m["time/generate"] for m, _ in steps),
        "learnt_tokens_per_s": statistics.median(tokens for tokens, _ in learning),
        "mfu": statistics.median(f for _, f in learning) / (peak * learners) if peak else None,
        "publication_s": statistics.median(m["time/sync"] for m, _ in steps),
        "step_s": statistics.median(m["time/step"] for m, _ in steps),
        "parameters": stats.params,
        "steps": len(steps),
    }


def run(cfg: Config, stats: ModelStats, peak: float | None) -> dict[str, float | None]:
    """The loop itself: actors up, `rl.steps` steps, figures."""
    from rl.cluster import create_learners, create_rollouts, create_verifiers, start_actors, start_ray
    from rl.source import Source

    cluster = start_ray(cfg)
    try:
        create_rollouts(cfg, cluster, cfg.model.path)
        create_verifiers(cfg, cluster)
        create_learners(cfg, cluster, cfg.model.path, cfg.rl.steps)
        trainer = MeasuringTrainer(cfg, cluster, Source(cfg))

        async def steps() -> list[dict[str, Any]]:
            await start_actors(cfg, cluster)
            return [await _step(trainer) for _ in range(cfg.rl.steps)]

        metrics = asyncio.run(steps())
        return figures(metrics, trainer.batches, stats, peak, cfg.learner.world_size)
    finally:
        cluster.stop()


async def _step(trainer: Trainer) -> dict[str, Any]:
    metrics = await trainer.step()
    rates = {name: metrics[f"time/{name}"] for name in ("generate", "learn", "sync", "step")}
    print(f"step {metrics['step']}: " + ", ".join(f"{name} {s:.2f} s" for name, s in rates.items()), flush=True)
    return metrics


def card() -> str:
    """The first GPU's name. UserError where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("benchmarks.gpu_train needs a CUDA GPU and sees none: run `python -m benchmarks.gpu_train` "
                        "on a machine with one, or give --tiny to run the same at the starter's size on this CPU")
    return torch.cuda.get_device_name()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help=f"steps, the first {WARM_UP} not counted")
    parser.add_argument("--size", default="0.5", choices=QWEN25, help="Qwen2.5 size in billions")
    parser.add_argument("--tiny", action="store_true", help="the starter's size, on the CPU")
    given = parser.parse_args(argv)
    try:
        if given.steps <= WARM_UP:
            raise UserError(f"--steps={given.steps} leaves none after the {WARM_UP} that are not counted: "
                            f"use --steps={WARM_UP + 1} or more")
        name = "CPU" if given.tiny else card()
    except UserError as error:
        print(f"raythink: error: {error}", file=sys.stderr)
        return 2
    peak = next((flops for word, flops in PEAKS.items() if word in name), None)
    with tempfile.TemporaryDirectory() as folder:
        cfg = configuration(Path(folder), given.steps, given.tiny)
        stats = make_model(Path(folder), TINY if given.tiny else QWEN25[given.size], cfg.engine.max_model_len)
        result = run(cfg, stats, peak)
    print(json.dumps({"card": name, **{k: v if v is None else round(v, 4) for k, v in result.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
