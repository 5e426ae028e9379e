"""Every key there is, with its type, its default (the starter's value) and one line of help.

Fewer than 150 keys, on purpose: a value that nobody changes belongs in the code that uses it. The classes are plain
dataclasses, so that code reads `cfg.rl.steps` with a type; `conf.load` fills them and refuses whatever is not here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_origin, get_type_hints

MODES = ("train", "sft", "eval", "verify", "prepare", "serve", "pipeline")
GROUPS = ("model", "data", "engine")
HEAD_SIZE = 32  # of models made from scratch: the smallest that vLLM's CPU kernels take
# The same names as actors.messages.DOMAINS, which would drag numpy into every --help (a test compares the two).
DOMAINS = ("math", "code", "science", "logic", "simulation", "tabular")

T = TypeVar("T")


def key(default: T, help: str, choices: tuple[str, ...] = ()) -> T:
    """A dataclass field with one line of help and, for text, the only values allowed (all of them if empty).

    Returns `dataclasses.Field`; declared as `T` for type checkers, as `dataclasses.field` itself is.
    """
    metadata = {"help": help, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)  # type: ignore[return-value]
    return field(default=default, metadata=metadata)  # type: ignore[return-value]


@dataclass
class RunConfig:
    dir: str = key("runs", "folder that holds all run folders")
    name: str = key("", "name of the run's folder (empty: the time it started)")
    resume: str = key("never", "never, auto (the newest unfinished run), or the path of a run folder")
    save_every: int = key(20, "steps between checkpoints (0: only at the end)")
    keep: int = key(2, "checkpoints kept, the newest ones")


@dataclass
class RayConfig:
    address: str = key("", "cluster to join: auto or host:port (empty: start one on this machine)")
    dashboard: bool = key(True, "start Ray's dashboard")
    dashboard_host: str = key("127.0.0.1", "address the dashboard listens on")
    dashboard_port: int = key(8265, "port the dashboard listens on")
    num_cpus: int = key(0, "CPUs that Ray may use (0: all)")
    gpus: int = key(0, "GPUs of the cluster, all to be filled (0: engine.count and learner.world_size say how many)")
    placement: str = key("auto", "engines and learners on the same GPUs or apart (auto: apart if there are enough)",
                         ("auto", "colocated", "split"))


@dataclass
class InitConfig:
    hidden_size: int = key(128, "width of a model made from scratch, a multiple of 32 (one attention head each)")
    layers: int = key(4, "transformer layers of a model made from scratch")
    vocab_size: int = key(640, "tokens in the vocabulary of a model made from scratch")

    @property
    def heads(self) -> int:
        """Attention heads of HEAD_SIZE each."""
        return max(1, self.hidden_size // HEAD_SIZE)

    @property
    def kv_heads(self) -> int:
        """Key/value heads: half of the attention heads where that is whole."""
        return self.heads // 2 if self.heads % 2 == 0 else self.heads

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""
        return 3 * self.hidden_size


@dataclass
class ModelConfig:
    path: str = key("assets/starter", "model folder or hub name (empty, mode=sft only: from scratch, by model.init)")
    dtype: str = key("float32", "number format of the engine's and the learner's weights in use",
                     ("float32", "bfloat16", "float16"))
    attn: str = key("sdpa", "attention implementation of the learner", ("sdpa", "eager", "flash_attention_2"))
    device: str = key("auto", "where engine and learner compute (auto: cuda if there is one)", ("auto", "cpu", "cuda"))
    init: InitConfig = field(default_factory=InitConfig)
    lora_rank: int = key(0, "train adapters of this rank on every linear layer (0: train all weights)")
    lora_alpha: int = key(32, "adapters count lora_alpha / lora_rank times")


@dataclass
class DataConfig:
    source: str = key("starter", "where problems come from: built in, reasoning_gym's generators, or files",
                      ("starter", "reasoning_gym", "files"))
    train: list[str] = key([], "training files, .jsonl or .parquet (source=files)")
    heldout: list[str] = key([], "evaluation files, .jsonl or .parquet (source=files)")
    domains: list[str] = key([], f"domains to use (empty: all): {', '.join(DOMAINS)}")
    tasks: list[str] = key([], "tasks of reasoning_gym, as [chain_sum,leg_counting]")
    seed: int = key(1, "seed of generated problems and of the order of files")
    on_bad_row: str = key("refuse", "a malformed row: refuse (stop) or skip (leave it out and count it)",
                          ("refuse", "skip"))


@dataclass
class EngineConfig:
    kind: str = key("vllm", "inference engine (cerebras and openai: mode=serve and mode=eval only)",
                    ("vllm", "cerebras", "openai"))
    url: str = key("", "base URL of an OpenAI-compatible server (engine.kind=openai), or Cerebras's if not its own")
    speculative: str = key("", "guess tokens ahead when serving: ngram, suffix, mtp, draft:MODEL or eagle:MODEL")
    count: int = key(1, "rollout actors, one engine each")
    threads: int = key(1, "CPU threads of one engine")
    tensor_parallel: int = key(1, "GPUs of one engine")
    max_model_len: int = key(256, "longest prompt plus answer, in tokens")
    max_num_seqs: int = key(256, "sequences one engine decodes at a time")
    max_batched_tokens: int = key(4096, "tokens one engine computes in one iteration")
    kv_cache_gib: float = key(1.0, "KV cache of one engine on CPU, in GiB")
    gpu_memory: float = key(0.85, "share of a GPU's memory that one engine may take")
    enforce_eager: bool = key(True, "no graph capture nor compilation (starts sooner)")
    timeout_s: int = key(300, "seconds an engine may take to start or to answer")
    update: str = key("drain", "new weights with rl.staleness>0: once nothing runs, or between two tokens",
                      ("drain", "inflight"))


@dataclass
class SamplingConfig:
    temperature: float = key(1.0, "temperature of training rollouts")
    top_p: float = key(1.0, "nucleus of training rollouts (1: everything)")
    max_tokens: int = key(96, "longest answer, in tokens")


@dataclass
class VerifierConfig:
    count: int = key(1, "verifier actors")
    workers: int = key(1, "checker processes of one verifier actor")
    timeout_s: float = key(10.0, "seconds one check may take")
    retries: int = key(2, "further attempts, on another worker, after a check failed")
    profile: str = key("strict", "how answers are scored (guru: as the public Guru verifiers do, quirks included)",
                       ("strict", "guru"))
    judge: str = key("", "model that judges free-form answers, as URL#MODEL (empty: they end as errors)")
    max_error_rate: float = key(0.1, "share of failed checks in one step at which the run stops")
    limits: list[str] = key([], "checks at a time of one verifier by domain, as [code:2,science:8] (others: no limit)")

    @property
    def domain_limits(self) -> dict[str, int]:
        """`limits` by domain."""
        return {domain: int(most) for domain, _, most in (entry.partition(":") for entry in self.limits)}

    @property
    def options(self) -> dict[str, str]:
        """What a Verifier takes beside its size: profile, judge_url, judge_model."""
        url, _, model = self.judge.rpartition("#")
        return {"profile": self.profile, "judge_url": url, "judge_model": model}


@dataclass
class SandboxConfig:
    allow_weaker: bool = key(False, "run model-written code even where a layer of the jail is missing (told at start)")


@dataclass
class LearnerConfig:
    world_size: int = key(1, "learner actors, data parallel")
    threads: int = key(2, "CPU threads of one learner")
    lr: float = key(1e-4, "AdamW's learning rate")
    warmup_steps: int = key(0, "steps over which the learning rate rises from 0")
    schedule: str = key("constant", "learning rate after the warm-up", ("constant", "cosine"))
    min_lr_ratio: float = key(0.1, "last learning rate of the cosine, as a share of learner.lr")
    weight_decay: float = key(0.0, "AdamW's weight decay")
    betas: list[float] = key([0.9, 0.95], "AdamW's two betas")
    clip_grad: float = key(1.0, "largest norm of the gradient (0: not clipped)")
    micro_tokens: int = key(16384, "padded tokens in one micro-batch")
    remove_padding: bool = key(False, "pack sequences instead of padding them")
    gradient_checkpointing: bool = key(False, "recompute activations in the backward pass, to save memory")
    offload: bool = key(False, "keep weights, gradients and the optimizer's state in host memory (GPUs only)")
    ulysses: int = key(1, "GPUs that share each sequence (needs remove_padding and flash_attention_2)")


@dataclass
class RLConfig:
    steps: int = key(100, "optimisation steps")
    groups: int = key(24, "problems a step")
    group_size: int = key(8, "completions of one problem")
    staleness: int = key(0, "policy versions a completion may lag behind (0: on-policy)")
    advantage: str = key("grpo_centered", "how a group's scores become advantages",
                         ("grpo_centered", "grpo_std", "dr_grpo", "rloo"))
    loss: str = key("vanilla", "policy loss (vanilla: PPO's clipped ratio)", ("vanilla", "gspo", "cispo"))
    aggregation: str = key("token-mean", "how token losses become one number",
                           ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean"))
    clip_low: float = key(0.2, "clip of the probability ratio below 1")
    clip_high: float = key(0.28, "clip of the probability ratio above 1")
    tis_cap: float = key(2.0, "cap of the engine/learner importance weight (0: off)")
    mask_truncated: bool = key(True, "leave completions cut off at sampling.max_tokens out of the loss")
    overlong_buffer: int = key(0, "last tokens of sampling.max_tokens in which the reward sinks, as DAPO's (0: off)")
    filter_groups: bool = key(True, "leave groups out of the update whose scores do not differ (no gradient)")
    refill_rounds: int = key(1, "rounds in which groups left out are replaced by new ones")
    updates_per_step: int = key(1, "optimizer updates a step")
    kl_coef: float = key(0.0, "weight of the KL to the first policy (0: off)")
    entropy: bool = key(True, "measure the policy's entropy")
    stragglers: str = key("wait", "groups about to grow too old: wait for them, or cancel them (favours short answers)",
                          ("wait", "cancel"))
    train_planner: bool = key(False, "train the policy to plan too: rl.plans a problem, rl.group_size solutions each")
    plans: int = key(4, "plans of one problem (rl.train_planner)")
    planned_share: float = key(1.0, "share of the problems that are planned, the others are asked plainly")


@dataclass
class CurriculumConfig:
    strong_above: float = key(-1.0, "keep problems that a strong model solves more often than this (-1: all)")
    weak_below: float = key(0.0, "keep problems that a weak model solves less often than this (0: all)")
    easy: float = key(-1.0, "problems always solved in an epoch that the next keeps, a share of the others (-1: all)")
    hard: float = key(-1.0, "problems never solved in an epoch that the next keeps, a share of the others (-1: all)")
    min_budget: int = key(0, "least length budget of a problem, which follows its solved answers (0: no budgets)")
    order: str = key("shuffled", "order of problems within an epoch (short_first: by length budget)",
                     ("shuffled", "short_first"))


@dataclass
class EvalConfig:
    problems: int = key(96, "held-out problems")
    samples: int = key(16, "completions of each problem")
    every: int = key(0, "training steps between evaluations (0: before and after only)")
    seed: int = key(7, "seed of the choice of problems and of sampling")
    temperature: float = key(1.0, "temperature of evaluation")
    top_p: float = key(1.0, "nucleus of evaluation (1: everything)")
    suites: list[str] = key([], "suites: names (aime24, ...), NAME:SPLIT, or files of yours (empty: held-out problems)")
    local: list[str] = key([], "folders with copies of the suites, looked into before the hub")
    max_tokens: int = key(0, "longest answer in mode=eval, in tokens (0: sampling.max_tokens)")
    stop: list[str] = key([], "texts that end an answer in mode=eval, as [</answer>]")
    wave: int = key(32, "problems that enter our own engines together: what a kill costs at most")
    concurrency: int = key(64, "requests at a time to a remote engine")
    ablation: bool = key(False, "measure plain, + plan, + best of 3 and both, in place of the suites' own scores")
    safety: list[str] = key([], "safety prompts, .jsonl of {id, category, messages, expected} (needs verifier.judge)")
    compare: list[str] = key([], "two finished evaluations to be compared, as [runs/A,runs/B]: nothing is sampled")


@dataclass
class SFTConfig:
    steps: int = key(3000, "optimisation steps")
    batch_tokens: int = key(16384, "tokens a step")
    val_every: int = key(250, "steps between validations (0: only at the end)")
    val_problems: int = key(120, "held-out problems a validation")
    epochs: int = key(0, "times that the files are gone through, instead of sft.steps (0: sft.steps; source=files)")
    context: int = key(0, "longest sample and packed row, in tokens; longer samples are left out "
                          "(0: engine.max_model_len)")
    packing: bool = key(False, "fill rows with several samples, each attending to itself only (the loss is the same)")
    warmup_ratio: float = key(0.0, "share of the steps over which the learning rate rises (0: learner.warmup_steps)")
    template: str = key("", "chat template given to the model: am_thinking or a .jinja file (empty: its own)")


@dataclass
class VerifyConfig:
    input: str = key("", "answers to check: .jsonl or .parquet")
    output: str = key("", "verdicts: .jsonl, continued if it exists")
    workers: int = key(0, "checker processes (0: one a CPU)")


@dataclass
class PrepareConfig:
    source: str = key("starter", "what mode=prepare makes ready (files: your own .parquet or .jsonl)",
                      ("starter", "reasoning_gym", "guru", "am_thinking", "files"))
    input: list[str] = key([], "files, folders or OWNER/NAME@REVISION of the hub (empty: the source as published)")
    output: str = key("", "folder that the prepared data appears in")
    against: list[str] = key([], "evaluation files, folders or patterns whose questions must not be trained on")
    ngram: int = key(13, "words in a row that a question may not share with an evaluation question")
    min_pass: float = key(0.0, "leave problems out that no rated model solves this often")
    max_pass: float = key(1.0, "leave problems out that every rated model solves more often than this")
    limit: int = key(0, "training rows kept, chosen by data.seed (0: all; generated sources: 10000)")
    heldout: int = key(0, "rows held out, chosen by data.seed, where the source has no held-out files")


@dataclass
class ServeConfig:
    host: str = key("127.0.0.1", "address that mode=serve listens on")
    port: int = key(8000, "port that mode=serve listens on")
    follow: str = key("", "run folder whose newest checkpoint is always served, as runs/latest (empty: model.path)")
    planner: str = key("", "who plans: URL#MODEL or cerebras#MODEL (empty: the solver's own engine)")
    judge: str = key("", "who compares candidates that tie: URL#MODEL or cerebras#MODEL (empty: nobody)")
    max_tokens: int = key(0, "longest candidate where a request does not say, in tokens (0: half the context, or 8192)")
    deadline_s: float = key(300.0, "seconds a reply may take: then the best candidate so far is the answer")
    requests_per_minute: float = key(120.0, "requests of one API key in a minute (0: no limit)")
    concurrent: int = key(16, "requests of one API key at a time")
    capacity: int = key(64, "candidates of all requests at a time; others wait, and more are refused with 429")
    prune: bool = key(True, "stop candidates that are far less sure than a sibling (engines with logprobs)")


@dataclass
class PipelineConfig:
    stages: list[str] = key([], "commands in their order, as NAME mode=... key=value; {NAME.hf}: a stage's checkpoint")


@dataclass
class Config:
    mode: str = key("train", "what to do", MODES)
    recipe: str = key("starter", "a name in conf/recipes, or the path of a .yaml file (as of a run's config.yaml)")
    seed: int = key(0, "seed of weights, sampling and order")
    run: RunConfig = field(default_factory=RunConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, `int | float | bool | str | list[...]`, default, help, and allowed values."""

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...]

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is list

    @property
    def type_name(self) -> str:
        return str(self.type) if self.is_list else self.type.__name__


@functools.cache
def keys() -> dict[str, Key]:
    """Every key by its dotted name, in the order of the schema."""
    return {k.name: k for k in _walk(Config(), "")}


@functools.cache
def sections() -> frozenset[str]:
    """The dotted names that hold keys: `rl`, `model`, `model.init`, ..."""
    return frozenset(name.rsplit(".", depth)[0] for name in keys() for depth in range(1, name.count(".") + 1))


def lookup(cfg: Config, name: str) -> Any:
    """The value of the key with the dotted `name`."""
    return functools.reduce(getattr, name.split("."), cfg)


def _walk(node: Any, prefix: str) -> list[Key]:
    hints = get_type_hints(type(node))
    found: list[Key] = []
    for f in fields(node):
        value, name = getattr(node, f.name), prefix + f.name
        if is_dataclass(value):
            found += _walk(value, name + ".")
        else:
            found.append(Key(name, hints[f.name], value, f.metadata.get("help", ""), f.metadata.get("choices", ())))
    return found
