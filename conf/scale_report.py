"""What `--dry-run` prints for a cluster (ray.gpus), and the refusal of a layout that cannot fit, with what would."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial

from conf.errors import UserError
from conf.models import ModelStats
from conf.plan import GIB, model_stats
from conf.scale import DECODE_EFFICIENCY, H100, MEAN_LENGTH, MFU, PARTS, SIZES, Estimate, Gpu, estimate
from conf.schema import Config

LARGER = (16, 32, 64, 128, 256, 512, 1024)
Change = tuple[str, Callable[[Config], None]]


def cluster_plan(cfg: Config, gpu: Gpu = H100) -> str:
    """The estimate for ray.gpus and, beside it, for 8, 64 and 256 GPUs, as a table.

    Raises:
        UserError: the layout on ray.gpus cannot fit (names what would), or the model's size is not known.
    """
    stats = model_stats(cfg)
    if stats is None:
        raise UserError(f"model.path={cfg.model.path} is not here and its name tells no size: give a folder with a "
                        "config.json, or a name with Qwen2.5-7B or the like in it")
    own = estimate(cfg, stats, cfg.ray.gpus, gpu)
    if own.misfit:
        raise UserError(f"{stats.params / 1e9:.1f} B parameters do not fit on ray.gpus={cfg.ray.gpus} {gpu.name}: "
                        f"{own.misfit}; {advice(cfg, stats, cfg.ray.gpus, gpu)}")
    columns = [_column(cfg, stats, n, gpu) for n in sorted({*SIZES, cfg.ray.gpus})]
    shown = [c for c in columns if isinstance(c, Estimate)]
    lines = [*_header(cfg, stats, gpu), "", *_table(cfg, shown)]
    for column in columns:
        if isinstance(column, str):
            lines.append(column)
        elif column.misfit:
            lines.append(f"{column.gpus} GPUs do not fit: {column.misfit}; {advice(cfg, stats, column.gpus, gpu)}")
    return "\n".join([*lines, f"ray.gpus={cfg.ray.gpus} fits"])


def advice(cfg: Config, stats: ModelStats, gpus: int, gpu: Gpu = H100) -> str:
    """What would fit: the single changes that do, else the first two or three together, and more GPUs."""
    changes = list(_changes(cfg, stats))
    for count in (1, 2, 3):
        fitting = [c for c in itertools.combinations(changes, count) if _fits(cfg, stats, gpus, gpu, c)]
        if fitting:
            break
    words = [" and ".join(name for name, _ in combination) for combination in fitting[:3]]
    more = next((n for n in LARGER if n > gpus and _fits(cfg, stats, n, gpu, ())), None)
    words += [f"ray.gpus={more}"] if more else []
    return f"would fit: {', or '.join(words)}" if words else "no setting of this model would fit: use a smaller one"


def _fits(cfg: Config, stats: ModelStats, gpus: int, gpu: Gpu, changes: tuple[Change, ...]) -> bool:
    changed = copy.deepcopy(cfg)
    for _, apply in changes:
        apply(changed)
    column = _column(changed, stats, gpus, gpu)
    return isinstance(column, Estimate) and not column.misfit


def _changes(cfg: Config, stats: ModelStats) -> Iterator[Change]:
    """Settings that need less of a GPU, the cheapest first."""

    def setter(section: str, key: str, value: object) -> Change:
        return f"{section}.{key}={str(value).lower()}", partial(_set, section=section, key=key, value=value)

    if not cfg.learner.gradient_checkpointing:
        yield setter("learner", "gradient_checkpointing", True)
    tokens = cfg.learner.micro_tokens // 2
    while tokens >= cfg.engine.max_model_len:
        yield setter("learner", "micro_tokens", tokens)
        tokens //= 2
    for share in (0.75, 0.6, 0.5, 0.4, 0.3, 0.2):  # a smaller one for the learner's sake, a larger one for the cache's
        if share != cfg.engine.gpu_memory:
            yield setter("engine", "gpu_memory", share)
    for parallel in (2, 4, 8):
        if parallel > cfg.engine.tensor_parallel and (stats.kv_width // 64) % parallel == 0:
            yield setter("engine", "tensor_parallel", parallel)
    if not cfg.learner.offload:
        yield setter("learner", "offload", True)
    if not cfg.model.lora_rank:
        yield setter("model", "lora_rank", 32)


def _set(cfg: Config, section: str, key: str, value: object) -> None:
    setattr(getattr(cfg, section), key, value)


def _column(cfg: Config, stats: ModelStats, gpus: int, gpu: Gpu) -> Estimate | str:
    try:
        return estimate(cfg, stats, gpus, gpu)
    except UserError as error:  # the configured one was let through: this is another number of GPUs
        return f"{gpus} GPUs do not fit: {error}"


def _header(cfg: Config, stats: ModelStats, gpu: Gpu) -> list[str]:
    rl, s = cfg.rl, cfg.sampling
    return [
        f"{cfg.model.path}: {stats.params / 1e9:.2f} B parameters on {gpu.name}",
        f"peaks (NVIDIA's H100 and DGX H100 data sheets): {gpu.flops / 1e12:.0f} TFLOP/s bf16 dense, "
        f"{gpu.bandwidth / 1e12:.2f} TB/s memory, {gpu.memory / GIB:.1f} GiB, NVLink {gpu.nvlink / 1e9:.0f} GB/s, "
        f"network {gpu.network / 1e9:.0f} GB/s a GPU",
        f"assumed: {MFU:.0%} MFU in learning, {DECODE_EFFICIENCY:.0%} of the peaks in decoding, a mean answer of "
        f"{MEAN_LENGTH:.0%} of sampling.max_tokens",
        f"a step: {rl.groups} problems x {rl.group_size} answers of at most {s.max_tokens} tokens, "
        f"{rl.updates_per_step} updates",
    ]


def _table(cfg: Config, columns: list[Estimate]) -> list[str]:
    def row(name: str, cells: list[str]) -> str:
        return f"{name:<26}" + "".join(f"{cell:>14}" for cell in cells)

    def layout(e: Estimate) -> str:
        return f"{e.engines} x TP {cfg.engine.tensor_parallel}"

    lines = [row("GPUs", [str(e.gpus) for e in columns]),
             row("placement", ["colocated" if e.colocated else "split" for e in columns]),
             row("learners", [str(e.learners) for e in columns]), row("engines", [layout(e) for e in columns]),
             "GiB of a GPU"]
    lines += [row(f"  {part}", [f"{e.memory[part] / GIB:.1f}" for e in columns]) for part in PARTS]
    lines += [row("  fullest GPU", [f"{e.used / GIB:.1f}" for e in columns]),
              row("  on the host, a learner", [f"{e.host_bytes / GIB:.1f}" for e in columns]),
              row("answers in flight, engine", [str(e.concurrency) for e in columns]), "seconds of a step"]
    parts = ("generation", "learning", "publication")
    lines += [row(f"  {part}", [f"{e.seconds[part]:.1f}" if e.seconds else "-" for e in columns]) for part in parts]
    return [*lines, row("  step", [f"{step_seconds(cfg, e):.1f}" if e.seconds else "-" for e in columns]),
            row("bottleneck", [e.bottleneck or "does not fit" for e in columns])]


def step_seconds(cfg: Config, e: Estimate) -> float:
    """On-policy one part after the other; with rl.staleness and GPUs of their own, engines and learners overlap."""
    generation, learning, publication = (e.seconds[p] for p in ("generation", "learning", "publication"))
    if cfg.rl.staleness and not e.colocated:
        return max(generation, learning) + publication
    return generation + learning + publication
