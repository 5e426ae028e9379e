"""A cluster on paper: memory of each GPU, the time of a step and its bottleneck, before a single GPU is rented.

`--dry-run` prints this where `ray.gpus` says how large the cluster is, and refuses a layout that cannot fit. Pure
functions of the configuration; every constant says where it is from or that it is an assumption. What is modelled:

- learners: FSDP2 over all of them, float32 weights, gradients and Adam's moments (16 bytes a parameter, shared), the
  gathered units that a layer's computation needs, activations of one micro-batch. `learner.offload` moves the shares
  to the host. With adapters (model.lora_rank) only these have gradients and moments.
- checkpoints: while one is written the host holds a copy of each share of weights and moments, and rank 0's the whole
  policy in 16 bits besides.
- engines: 16-bit weights over `engine.tensor_parallel` GPUs, and a KV cache in what `engine.gpu_memory` leaves.
  Colocated, both stay on the card: nothing is put to sleep.
- generation: an iteration reads the weights and the cache of the sequences in flight, or computes, whichever takes
  longer; a step's last answer is decoded to its end, alone.
- learning: FLOPs at MFU, or FSDP's traffic, whichever takes longer (they overlap).
- publication: 16-bit weights gathered from the learners and sent to every engine, each GPU at its link's rate.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from conf.errors import UserError
from conf.models import ModelStats
from conf.plan import GIB
from conf.schema import Config


@dataclass(frozen=True)
class Gpu:
    """Peaks of one card: 16-bit dense FLOP/s, bytes of memory, bytes/s of memory and of the links, one direction."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    nvlink: float
    network: float
    host_memory: float


# NVIDIA H100 Tensor Core GPU data sheet (SXM): 989.4 TFLOP/s BF16 dense, 3.35 TB/s, NVLink 900 GB/s both ways; memory
# as nvidia-smi reports it. DGX H100 data sheet: a 400 Gb/s adapter a GPU, 2 TB of host memory for eight.
H100 = Gpu("H100 80 GB (SXM)", 989.4e12, 81_559 << 20, 3.35e12, 450e9, 50e9, 2e12 / 8)
NODE = 8
CONTEXT = 2 * GIB  # assumption: CUDA context, NCCL's buffers and the allocator's loss, a GPU
ENGINE_WORK = 3 * GIB  # assumption: an engine's activations and captured graphs, a GPU
MFU = 0.40  # assumption: learning, of the peak with recomputation counted
DECODE_EFFICIENCY = 0.6  # assumption: decoding, of the memory's or the tensor cores' peak
MEAN_LENGTH = 0.4  # assumption: the mean answer, of sampling.max_tokens
MEAN_PROMPT = 512  # assumption
SIZES = (8, 64, 256)
PARTS = ("learner: weights", "learner: gradients", "learner: optimizer", "learner: gathered layers",
         "learner: activations", "engine: weights", "engine: KV cache", "engine: work", "context")


@dataclass(frozen=True)
class Estimate:
    """One layout: GiB of one GPU by part (the fuller one where engines and learners are apart), seconds of a step by
    part, host bytes of one GPU's share, sequences that an engine holds, and why it cannot be ("" if it can)."""

    gpus: int
    learners: int
    engines: int
    colocated: bool
    memory: dict[str, float]
    seconds: dict[str, float]
    host_bytes: float
    concurrency: int
    misfit: str

    @property
    def used(self) -> float:
        """Bytes of the fullest GPU."""
        if self.colocated:
            return sum(self.memory.values())
        context = self.memory["context"]
        return context + max(sum(v for n, v in self.memory.items() if n.startswith(kind))
                             for kind in ("learner", "engine"))

    @property
    def bottleneck(self) -> str:
        return max(self.seconds, key=lambda part: self.seconds[part]) if self.seconds else ""


def colocated(cfg: Config) -> bool:
    """On-policy, engines and learners take turns and may as well share their GPUs; else they work side by side."""
    return cfg.ray.placement == "colocated" or (cfg.ray.placement == "auto" and cfg.rl.staleness == 0)


def fill(cfg: Config, gpus: int) -> None:
    """Set engine.count and learner.world_size so that they take all `gpus`: the same ones, or apart in the proportion
    that the two keys have.

    Raises:
        UserError: no such division exists.
    """
    parallel, share = cfg.engine.tensor_parallel, cfg.learner.ulysses
    if colocated(cfg):
        if gpus % parallel or gpus % share:
            raise UserError(f"ray.gpus={gpus} does not divide by engine.tensor_parallel={parallel} and "
                            f"learner.ulysses={share}: use ray.gpus={math.lcm(parallel, share)} or a multiple")
        cfg.engine.count, cfg.learner.world_size = gpus // parallel, gpus
        return
    wanted = cfg.engine.count * parallel / (cfg.engine.count * parallel + cfg.learner.world_size)
    possible = [n for n in range(1, gpus // parallel + 1)
                if gpus - n * parallel > 0 and (gpus - n * parallel) % share == 0]
    if not possible:
        raise UserError(f"ray.gpus={gpus} has no room for an engine of engine.tensor_parallel={parallel} beside "
                        f"learner.ulysses={share} learners: use ray.gpus={parallel + share} or more")
    cfg.engine.count = min(possible, key=lambda n: (abs(n * parallel / gpus - wanted), n))
    cfg.learner.world_size = gpus - cfg.engine.count * parallel


def estimate(cfg: Config, model: ModelStats, gpus: int, gpu: Gpu = H100) -> Estimate:
    """The layout that `cfg` has on `gpus` cards (`cfg` itself is left alone)."""
    cfg = copy.deepcopy(cfg)
    cfg.ray.gpus = gpus
    fill(cfg, gpus)
    memory, host = memory_by_part(cfg, model, gpu)
    sequences = concurrency(cfg, model, memory["engine: KV cache"])
    layout = Estimate(gpus, cfg.learner.world_size, cfg.engine.count, colocated(cfg), memory, {}, host, sequences, "")
    if problem := _misfit(layout, cfg, model, gpu):
        return Estimate(**{**vars(layout), "misfit": problem})
    seconds = {"generation": generation_seconds(cfg, model, sequences, gpu),
               "learning": learning_seconds(cfg, model, gpu), "publication": publication_seconds(cfg, model, gpu)}
    return Estimate(**{**vars(layout), "seconds": seconds})


def memory_by_part(cfg: Config, model: ModelStats, gpu: Gpu) -> tuple[dict[str, float], float]:
    """(bytes of a GPU by PARTS, bytes of the host for one GPU's learner)."""
    world, parallel = cfg.learner.world_size, cfg.engine.tensor_parallel
    trained = model.lora_params(cfg.model.lora_rank) if cfg.model.lora_rank else model.params
    shares = [4 * (model.params + (trained if cfg.model.lora_rank else 0)) / world, 4 * trained / world,
              8 * trained / world]
    snapshot = shares[0] + shares[2] + 2 * model.params / min(world, NODE)  # the policy: shared by rank 0's node
    host = snapshot + (sum(shares) if cfg.learner.offload else 0.0)
    if cfg.learner.offload:
        shares = [0.0, 0.0, 0.0]
    unit = max(model.layer_params, model.vocab_size * model.hidden_size)
    # the head stays gathered, one unit computes and one is on its way; its gradient in 16 bits, then summed in 32
    gathered = 2 * (model.vocab_size * model.hidden_size + 2 * unit) + (6 * unit if not cfg.model.lora_rank else 0)
    tokens = -(-cfg.learner.micro_tokens // cfg.learner.ulysses)
    activations = model.activation_bytes(tokens, cfg.learner.gradient_checkpointing)
    weights = 2 * model.params / parallel
    cache = max(0.0, cfg.engine.gpu_memory * gpu.memory - weights - ENGINE_WORK)
    return dict(zip(PARTS, [*shares, gathered, activations, weights, cache, ENGINE_WORK, CONTEXT])), host


def concurrency(cfg: Config, model: ModelStats, cache_bytes: float) -> int:
    """Sequences that one engine decodes at a time: its limit, its share of the step, or what the cache holds."""
    mean = _prompt(cfg) + MEAN_LENGTH * cfg.sampling.max_tokens
    held = int(cache_bytes * cfg.engine.tensor_parallel / (model.kv_bytes_per_token * mean))
    return max(0, min(cfg.engine.max_num_seqs, -(-cfg.rl.groups * cfg.rl.group_size // cfg.engine.count), held))


def iteration_seconds(cfg: Config, model: ModelStats, sequences: int, context: float, gpu: Gpu) -> float:
    """One token for each of `sequences`, of `context` tokens so far: memory or compute, and two all-reduces a layer."""
    parallel = cfg.engine.tensor_parallel
    read = (2 * model.params + sequences * context * model.kv_bytes_per_token) / parallel / gpu.bandwidth
    compute = 2 * model.params * sequences / parallel / gpu.flops
    reduce = 0.0
    if parallel > 1:  # a ring moves 2 (n-1)/n of the 16-bit activations
        moved = 2 * (parallel - 1) / parallel * 2 * sequences * model.hidden_size
        reduce = 2 * model.layers * moved / (gpu.nvlink if parallel <= NODE else gpu.network)
    return max(read, compute) / DECODE_EFFICIENCY + reduce


def generation_seconds(cfg: Config, model: ModelStats, sequences: int, gpu: Gpu) -> float:
    """A step's answers at full concurrency, and not less than its longest answer alone takes."""
    each = cfg.rl.groups * cfg.rl.group_size / cfg.engine.count
    length = MEAN_LENGTH * cfg.sampling.max_tokens
    busy = each * length / sequences * iteration_seconds(cfg, model, sequences, _prompt(cfg) + length / 2, gpu)
    longest = cfg.sampling.max_tokens
    return max(busy, longest * iteration_seconds(cfg, model, 1, _prompt(cfg) + longest / 2, gpu))


def learning_seconds(cfg: Config, model: ModelStats, gpu: Gpu) -> float:
    """All updates of a step. FLOPs a token: 2 a parameter for each pass, and attention over half the sequence."""
    length = _prompt(cfg) + MEAN_LENGTH * cfg.sampling.max_tokens
    tokens = cfg.rl.groups * cfg.rl.group_size * length
    forward = 2 * model.params + 2 * model.layers * model.q_width * length
    passes = 4.0 if cfg.learner.gradient_checkpointing else 3.0
    if cfg.model.lora_rank:
        passes -= 1.0  # no gradients of the frozen weights
    passes += (1.0 if cfg.rl.updates_per_step > 1 else 0.0) + (1.0 if cfg.rl.kl_coef else 0.0)
    compute = tokens * forward * passes / (cfg.learner.world_size * gpu.flops * MFU)
    return max(compute, _fsdp_seconds(cfg, model, tokens, gpu))


def _fsdp_seconds(cfg: Config, model: ModelStats, tokens: float, gpu: Gpu) -> float:
    """FSDP's traffic: each micro-batch gathers the weights twice (16 bits) and scatters the gradients (32 bits)."""
    world, link = cfg.learner.world_size, gpu.nvlink if cfg.learner.world_size <= NODE else gpu.network
    if world == 1:
        return 0.0
    micro = max(cfg.rl.updates_per_step, math.ceil(tokens * cfg.learner.ulysses / world / cfg.learner.micro_tokens))
    gradients = 4 * model.params if not cfg.model.lora_rank else 0
    extra = (1 if cfg.rl.updates_per_step > 1 else 0) + (1 if cfg.rl.kl_coef else 0)
    return micro * ((2 + extra) * 2 * model.params + gradients) * (world - 1) / world / link


def publication_seconds(cfg: Config, model: ModelStats, gpu: Gpu) -> float:
    """Gather to each learner, then send to each engine's GPU its part."""
    size, link = 2 * model.params, gpu.nvlink if cfg.ray.gpus <= NODE else gpu.network
    return size / link + size / cfg.engine.tensor_parallel / link


def _prompt(cfg: Config) -> float:
    return min(MEAN_PROMPT, cfg.engine.max_model_len - cfg.sampling.max_tokens)


def _misfit(layout: Estimate, cfg: Config, model: ModelStats, gpu: Gpu) -> str:
    """Why a layout cannot be, in a few words; "" where it can."""
    if layout.used > gpu.memory:
        return f"{layout.used / GIB:.1f} GiB wanted on a GPU, {gpu.memory / GIB:.1f} there"
    sequence = cfg.engine.max_model_len * model.kv_bytes_per_token / cfg.engine.tensor_parallel
    if layout.memory["engine: KV cache"] < sequence or layout.concurrency < 1:
        return (f"no room for one sequence of engine.max_model_len={cfg.engine.max_model_len} in a KV cache of "
                f"{layout.memory['engine: KV cache'] / GIB:.1f} GiB a GPU")
    if layout.host_bytes > gpu.host_memory:
        return f"{layout.host_bytes / GIB:.0f} GiB wanted of the host for a GPU, {gpu.host_memory / GIB:.0f} there"
    return ""

