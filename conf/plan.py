"""The resource plan: which actors a command starts, and what each takes. Pure but for reading the model's folder.

Memory is an estimate, before anything has run:
- learner: weights, gradients and Adam's two moments in float32, 16 bytes a parameter, shared among the learners,
  plus activations of one micro-batch and its logits (`ModelStats.activation_bytes`).
- engine: weights in `model.dtype` plus the KV cache (on a GPU: `engine.gpu_memory` of the card).
- a constant a process for the interpreter and the libraries.

A cluster that is not at hand (ray.gpus) is planned by `conf.scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.models import ModelStats, dense_stats, folder_stats, known_stats
from conf.schema import Config

GIB = 1 << 30
ENGINE_PROCESS = int(1.5 * GIB)  # Python with torch and vLLM imported
LEARNER_PROCESS = int(0.7 * GIB)  # Python with torch and transformers imported
WORKER_PROCESS = int(0.15 * GIB)  # Python with math-verify and sympy imported
PREPARE_PROCESS = int(1.5 * GIB)  # batches, a row group, and the hashes of a few million rows
TRAIN_BYTES = 16
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Row:
    """One actor. Bytes are None where the model's size is not known yet."""

    actor: str
    phase: str
    cpus: float
    gpus: float
    memory_bytes: int | None
    gpu_bytes: int | None = 0
    note: str = ""


def resource_plan(cfg: Config, cpus: int, gpus: int, memory_bytes: int, gpu_bytes: int = 0) -> list[Row]:
    """The actors that `cfg.mode` starts on a machine of `cpus`, `gpus` (each of `gpu_bytes`) and `memory_bytes`.

    `phase` is "generate", "verify" or "learn": generating and learning take turns while rl.staleness=0, and
    verifying fits between them (checks take milliseconds).
    """
    if cfg.mode == "verify":
        workers = cfg.verify.workers or cpus
        return [Row("checker processes", "generate", workers, 0, workers * WORKER_PROCESS)]
    if cfg.mode == "prepare":
        return [Row("this process", "generate", 1, 0, PREPARE_PROCESS)]
    stats, cuda = model_stats(cfg), uses_gpu(cfg, gpus)
    share = gpu_share(cfg, gpus) if cuda else 0.0
    rows: list[Row] = []
    if cfg.mode in ("train", "eval", "sft"):
        ours = cfg.mode != "eval" or cfg.engine.kind == "vllm"  # a server's engine costs nothing here
        rows += [_rollout_row(cfg, i, stats, share, gpu_bytes) for i in range(cfg.engine.count if ours else 0)]
        rows += [Row(f"verifier-{i}", "verify", cfg.verifier.workers, 0, cfg.verifier.workers * WORKER_PROCESS)
                 for i in range(cfg.verifier.count)]
    if cfg.mode in ("train", "sft"):
        rows += [_learner_row(cfg, i, stats, share) for i in range(cfg.learner.world_size)]
    return rows


def shortfalls(cfg: Config, rows: Sequence[Row], cpus: int, gpus: int, memory_bytes: int, gpu_bytes: int = 0
               ) -> list[str]:
    """One sentence, with the key to change, for each resource that `rows` asks more of than there is."""
    found: list[str] = []
    allowed = min(cpus, cfg.ray.num_cpus or cpus)
    if (busy := cpus_at_once(cfg, rows)) > allowed:
        found.append(f"CPUs: {busy:g} wanted at a time, {allowed} there, which will be slow: "
                     "lower engine.threads, learner.threads or verifier.workers")
    if uses_gpu(cfg, gpus) and (wanted := sum(r.gpus for r in rows)) > gpus:
        found.append(f"GPUs: {wanted:g} wanted, {gpus} there: lower engine.count, engine.tensor_parallel or "
                     "learner.world_size, or use model.device=cpu")
    if (memory := sum(r.memory_bytes or 0 for r in rows)) > memory_bytes:
        found.append(f"memory: {_gib(memory)} wanted, {_gib(memory_bytes)} there: "
                     "lower engine.kv_cache_gib, engine.count or learner.micro_tokens")
    on_card = max((r.gpu_bytes or 0 for r in rows if r.phase == "generate"), default=0)
    learner = max((r.gpu_bytes or 0 for r in rows if r.phase == "learn"), default=0)
    wanted = on_card + learner if gpu_share(cfg, gpus) < 1 else max(on_card, learner)
    if gpu_bytes and wanted > gpu_bytes:
        found.append(f"GPU memory: {_gib(wanted)} wanted on one card, {_gib(gpu_bytes)} there: lower "
                     "engine.gpu_memory or learner.micro_tokens, or set learner.gradient_checkpointing=true")
    return found


def format_plan(cfg: Config, rows: Sequence[Row], cpus: int, gpus: int, memory_bytes: int, gpu_bytes: int = 0) -> str:
    """The plan as a table in plain text, its totals, and what does not fit."""
    lines = [f"{'actor':<18}{'phase':<10}{'CPUs':>6}{'GPUs':>7}{'memory':>11}{'GPU memory':>12}"]
    for r in rows:
        lines.append(f"{r.actor:<18}{r.phase:<10}{r.cpus:>6g}{r.gpus:>7g}{_gib(r.memory_bytes):>11}"
                     f"{_gib(r.gpu_bytes):>12}  {r.note}".rstrip())
    known = all(r.memory_bytes is not None and r.gpu_bytes is not None for r in rows)
    memory = _gib(sum(r.memory_bytes or 0 for r in rows)) + ("" if known else " and the model")
    lines.append(f"at a time: {cpus_at_once(cfg, rows):g} of {cpus} CPUs, {sum(r.gpus for r in rows):g} of {gpus} "
                 f"GPUs, about {memory} of {_gib(memory_bytes)} memory")
    missing = [f"does not fit: {m}" for m in shortfalls(cfg, rows, cpus, gpus, memory_bytes, gpu_bytes)]
    return "\n".join(lines + (missing or ["fits" if known else "fits (as far as known)"]))


def cpus_at_once(cfg: Config, rows: Sequence[Row]) -> float:
    """On-policy, learners wait while rollouts run and the other way round, so the busier phase counts."""
    by_phase = [sum(r.cpus for r in rows if r.phase == phase) for phase in ("generate", "learn")]
    return max(by_phase) if cfg.rl.staleness == 0 else sum(by_phase)


def uses_gpu(cfg: Config, gpus: int) -> bool:
    return cfg.model.device == "cuda" or (cfg.model.device == "auto" and gpus > 0)


def gpu_share(cfg: Config, gpus: int) -> float:
    """1.0 where every actor can have its GPUs to itself, 0.5 where engines and learners share them (ray.placement)."""
    if cfg.ray.placement != "auto" and cfg.mode == "train":
        return 0.5 if cfg.ray.placement == "colocated" else 1.0
    engines, learners = cfg.engine.count * cfg.engine.tensor_parallel, cfg.learner.world_size
    apart = engines + learners <= gpus or cfg.mode != "train"
    return 1.0 if apart or max(engines, learners) > gpus else 0.5


def model_stats(cfg: Config) -> ModelStats | None:
    """Sizes from the model's folder (weights' headers, else config.json), else by its name, else None."""
    if not cfg.model.path:
        init = cfg.model.init
        return dense_stats({
            "hidden_size": init.hidden_size, "num_hidden_layers": init.layers, "num_attention_heads": init.heads,
            "num_key_value_heads": init.kv_heads, "intermediate_size": init.intermediate_size,
            "vocab_size": init.vocab_size, "tie_word_embeddings": True})
    return folder_stats(Path(cfg.model.path).expanduser()) or known_stats(cfg.model.path)


def _rollout_row(cfg: Config, index: int, stats: ModelStats | None, share: float, gpu_bytes: int) -> Row:
    name, note = f"rollout-{index}", _shared_note(share)
    if share:
        taken = int(cfg.engine.gpu_memory * gpu_bytes) if gpu_bytes else None
        return Row(name, "generate", 1, share * cfg.engine.tensor_parallel, ENGINE_PROCESS, taken, note)
    if stats is None:
        return Row(name, "generate", cfg.engine.threads, 0, None, 0, _unknown_note(cfg))
    memory = stats.params * DTYPE_BYTES[cfg.model.dtype] + int(cfg.engine.kv_cache_gib * GIB) + ENGINE_PROCESS
    return Row(name, "generate", cfg.engine.threads, 0, memory)


def _learner_row(cfg: Config, index: int, stats: ModelStats | None, share: float) -> Row:
    name, threads = f"learner-{index}", cfg.learner.threads
    if stats is None:
        host, card = (LEARNER_PROCESS, None) if share else (None, 0)
        return Row(name, "learn", threads, share, host, card, _unknown_note(cfg))
    trained = stats.lora_params(cfg.model.lora_rank) if cfg.model.lora_rank else stats.params
    held = 4 * stats.params + (TRAIN_BYTES - 4) * trained
    held //= cfg.learner.world_size if share else 1  # on CPUs every learner is a replica
    activations = _activation_bytes(cfg, stats)
    if not share:
        return Row(name, "learn", threads, 0, LEARNER_PROCESS + held + activations)
    on_host = held if cfg.learner.offload else 0
    card = held - on_host + activations
    return Row(name, "learn", threads, share, LEARNER_PROCESS + on_host, card, _shared_note(share))


def _activation_bytes(cfg: Config, stats: ModelStats) -> int:
    tokens = -(-cfg.learner.micro_tokens // cfg.learner.ulysses)
    return stats.activation_bytes(tokens, cfg.learner.gradient_checkpointing, DTYPE_BYTES[cfg.model.dtype])


def _shared_note(share: float) -> str:
    return "shares its GPU" if share == 0.5 else ""


def _unknown_note(cfg: Config) -> str:
    return f"size known once {cfg.model.path} is there"


def _gib(size: int | None) -> str:
    return "?" if size is None else "-" if size == 0 else f"{size / GIB:.1f} GiB"
