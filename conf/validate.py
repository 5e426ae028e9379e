"""Checks that need more than one key, or a bound that a type cannot say. Pure: nothing outside the configuration is
looked at (paths and ports: `conf.checks`). Every message names its keys and the way out."""

from __future__ import annotations

from conf.errors import UserError, did_you_mean
from conf.schema import DOMAINS, HEAD_SIZE, Config, lookup

# key -> smallest value allowed
AT_LEAST: dict[str, float] = {
    "prepare.ngram": 2, "prepare.min_pass": 0, "prepare.max_pass": 0, "prepare.limit": 0, "prepare.heldout": 0,
    "run.save_every": 0, "run.keep": 1, "ray.num_cpus": 0,
    "model.init.hidden_size": HEAD_SIZE, "model.init.layers": 1, "model.init.vocab_size": 1,
    "ray.gpus": 0, "model.lora_rank": 0, "model.lora_alpha": 1, "learner.ulysses": 1,
    "curriculum.strong_above": -1, "curriculum.weak_below": 0, "curriculum.easy": -1, "curriculum.hard": -1,
    "curriculum.min_budget": 0,
    "engine.count": 1, "engine.threads": 1, "engine.tensor_parallel": 1, "engine.max_model_len": 2,
    "engine.max_num_seqs": 1, "engine.max_batched_tokens": 1, "engine.timeout_s": 1,
    "sampling.temperature": 0, "sampling.max_tokens": 1,
    "verifier.count": 1, "verifier.workers": 1, "verifier.retries": 0, "verifier.max_error_rate": 0,
    "learner.world_size": 1, "learner.threads": 1, "learner.warmup_steps": 0, "learner.min_lr_ratio": 0,
    "learner.weight_decay": 0, "learner.clip_grad": 0, "learner.micro_tokens": 1,
    "rl.steps": 0, "rl.groups": 1, "rl.group_size": 1, "rl.staleness": 0, "rl.clip_low": 0, "rl.clip_high": 0,
    "rl.tis_cap": 0, "rl.overlong_buffer": 0, "rl.refill_rounds": 0, "rl.updates_per_step": 1, "rl.kl_coef": 0,
    "rl.plans": 2,
    "eval.problems": 1, "eval.samples": 1, "eval.every": 0, "eval.temperature": 0,
    "eval.max_tokens": 0, "eval.wave": 1, "eval.concurrency": 1,
    "sft.steps": 0, "sft.batch_tokens": 1, "sft.val_every": 0, "sft.val_problems": 1,
    "sft.epochs": 0, "sft.context": 0, "sft.warmup_ratio": 0, "verify.workers": 0,
    "serve.max_tokens": 0, "serve.requests_per_minute": 0, "serve.concurrent": 1, "serve.capacity": 1,
}
AT_MOST: dict[str, float] = {
    "curriculum.strong_above": 1, "curriculum.weak_below": 1,
    "engine.gpu_memory": 1, "sampling.top_p": 1, "eval.top_p": 1, "verifier.max_error_rate": 1,
    "prepare.min_pass": 1, "prepare.max_pass": 1,
    "learner.min_lr_ratio": 1, "rl.clip_low": 1, "rl.planned_share": 1,
    "ray.dashboard_port": 65535, "serve.port": 65535,
}
ABOVE_ZERO = ("engine.kv_cache_gib", "engine.gpu_memory", "sampling.top_p", "eval.top_p", "verifier.timeout_s",
              "learner.lr", "ray.dashboard_port", "serve.deadline_s", "serve.port", "rl.planned_share")


def validate(cfg: Config) -> None:
    """Raises:
        UserError: for the first value out of bounds, or the first two that contradict each other.
    """
    check_bounds(cfg)
    check_run(cfg)
    check_data(cfg)
    check_model(cfg)
    check_scale(cfg)
    check_curriculum(cfg)
    check_engine(cfg)
    check_optimizer(cfg)
    check_sft(cfg)
    check_rl(cfg)
    check_sampling(cfg)
    check_judge(cfg)
    check_eval(cfg)
    check_verify(cfg)
    check_prepare(cfg)


def check_bounds(cfg: Config) -> None:
    for name, least in AT_LEAST.items():
        if (value := lookup(cfg, name)) < least:
            raise UserError(f"{name}={value} is too small: use {name}={least} or more")
    for name, most in AT_MOST.items():
        if (value := lookup(cfg, name)) > most:
            raise UserError(f"{name}={value} is too large: use {name}={most} or less")
    for name in ABOVE_ZERO:
        if (value := lookup(cfg, name)) <= 0:
            raise UserError(f"{name}={value} must be above 0: raise {name}")


def check_run(cfg: Config) -> None:
    resume, name = cfg.run.resume, cfg.run.name
    _require(resume in ("never", "auto") or "/" in resume,
             f"run.resume={resume} is neither never, auto nor a path"
             f"{did_you_mean(resume, ('never', 'auto'), 'run.resume=')} (a run folder: run.resume=runs/NAME)")
    _require("/" not in name and name not in (".", ".."),
             f"run.name={name} is not one folder's name: put the parent folder into run.dir")


def check_data(cfg: Config) -> None:
    data = cfg.data
    for domain in data.domains:
        _require(domain in DOMAINS, f"data.domains names {domain}, which is not a domain"
                                    f"{did_you_mean(domain, DOMAINS)} (domains: {', '.join(DOMAINS)})")
    if data.source == "files" and cfg.mode in ("train", "sft"):
        _require(data.train, f"data.source=files and mode={cfg.mode} need training files: set data.train=[FILE,...]")
    if data.source == "files" and cfg.mode == "eval" and not (cfg.eval.suites or cfg.eval.compare or cfg.eval.safety):
        _require(data.heldout, "data.source=files and mode=eval need held-out files: set data.heldout=[FILE,...]")
    if data.source == "reasoning_gym" and cfg.mode in ("train", "eval"):
        _require(data.tasks, "data.source=reasoning_gym needs data.tasks: set data.tasks=[chain_sum,leg_counting]")
    for name, source in (("train", "files"), ("heldout", "files"), ("tasks", "reasoning_gym")):
        _require(not getattr(data, name) or data.source == source or cfg.mode == "prepare",
                 f"data.{name} is read only with data.source={source}, not data.source={data.source}: "
                 f"set data.source={source} or remove data.{name}")


def check_model(cfg: Config) -> None:
    init, path = cfg.model.init, cfg.model.path
    _require(path or cfg.mode not in ("train", "eval"),
             f"model.path is empty, which mode={cfg.mode} cannot use: give model.path=FOLDER "
             "(only mode=sft makes a model from scratch)")
    if path or cfg.mode != "sft":
        return
    below = init.hidden_size // HEAD_SIZE * HEAD_SIZE
    _require(init.hidden_size == below,
             f"model.init.hidden_size={init.hidden_size} does not divide into attention heads of {HEAD_SIZE}: "
             f"use model.init.hidden_size={below} or {below + HEAD_SIZE}")


def check_scale(cfg: Config) -> None:
    ulysses, world, ray = cfg.learner.ulysses, cfg.learner.world_size, cfg.ray
    _require(ulysses == 1 or (cfg.learner.remove_padding and cfg.model.attn == "flash_attention_2"),
             f"learner.ulysses={ulysses} splits packed sequences for flash attention only: use "
             "learner.remove_padding=true and model.attn=flash_attention_2, or learner.ulysses=1")
    _require(ray.gpus or world % ulysses == 0,
             f"learner.world_size={world} does not divide into learner.ulysses={ulysses} GPUs a sequence: "
             f"use learner.world_size={max(1, world // ulysses) * ulysses}")
    _require(ray.gpus == 0 or cfg.model.device != "cpu",
             f"ray.gpus={ray.gpus} plans a cluster of GPUs, but model.device=cpu: use model.device=cuda or ray.gpus=0")


def check_curriculum(cfg: Config) -> None:
    c = cfg.curriculum
    chosen = [n for n, off in (("strong_above", -1), ("weak_below", 0), ("easy", -1), ("hard", -1), ("min_budget", 0))
              if getattr(c, n) != off]
    _require(not chosen or cfg.data.source == "files" or cfg.mode != "train",
             f"curriculum.{(chosen or [''])[0]} needs problems that come again, which data.source={cfg.data.source} "
             "does not have: use data.source=files or remove it")
    _require(c.min_budget <= cfg.sampling.max_tokens,
             f"curriculum.min_budget={c.min_budget} is more than sampling.max_tokens={cfg.sampling.max_tokens}, which "
             "no answer may exceed: lower the first")
    _require(c.order == "shuffled" or c.min_budget,
             f"curriculum.order={c.order} orders by length budgets, which are off: set curriculum.min_budget=TOKENS "
             "or use curriculum.order=shuffled")


def check_engine(cfg: Config) -> None:
    engine = cfg.engine
    _require(engine.max_batched_tokens >= engine.max_num_seqs,
             f"engine.max_batched_tokens={engine.max_batched_tokens} gives engine.max_num_seqs={engine.max_num_seqs} "
             "sequences less than one token each: raise the first or lower the second")
    _require(cfg.model.device != "cpu" or engine.tensor_parallel == 1,
             f"engine.tensor_parallel={engine.tensor_parallel} splits an engine over GPUs, but model.device=cpu: "
             "use engine.tensor_parallel=1")
    _require(cfg.model.attn != "flash_attention_2" or cfg.model.dtype != "float32",
             "model.attn=flash_attention_2 cannot compute in model.dtype=float32: use model.dtype=bfloat16 "
             "or model.attn=sdpa")


def check_optimizer(cfg: Config) -> None:
    learner = cfg.learner
    _require(len(learner.betas) == 2 and all(0 <= b < 1 for b in learner.betas),
             f"learner.betas={learner.betas} must be two numbers from 0 up to below 1: use learner.betas=[0.9,0.95]")
    steps = {"train": cfg.rl.steps, "sft": 0 if cfg.sft.epochs else cfg.sft.steps}.get(cfg.mode)
    if steps:
        key = "rl.steps" if cfg.mode == "train" else "sft.steps"
        _require(learner.warmup_steps < steps,
                 f"learner.warmup_steps={learner.warmup_steps} never ends within {key}={steps}: lower the first")
    if cfg.mode == "train":
        _require(learner.micro_tokens >= cfg.engine.max_model_len,
                 f"learner.micro_tokens={learner.micro_tokens} cannot hold one sequence of "
                 f"engine.max_model_len={cfg.engine.max_model_len} tokens: raise the first or lower the second")


def check_sft(cfg: Config) -> None:
    if cfg.mode != "sft":
        return
    sft, learner = cfg.sft, cfg.learner
    _require(not sft.epochs or cfg.data.source == "files",
             f"sft.epochs={sft.epochs} counts passes through files, but data.source={cfg.data.source}: "
             "use sft.steps, or data.source=files")
    row = sft.context or cfg.engine.max_model_len
    _require(cfg.data.source != "files" or sft.batch_tokens >= row,
             f"sft.batch_tokens={sft.batch_tokens} holds no row of {row} tokens (sft.context or engine.max_model_len): "
             f"use sft.batch_tokens={row} or more")
    _require(sft.warmup_ratio < 1, f"sft.warmup_ratio={sft.warmup_ratio} would never end: use one below 1")
    _require(not sft.warmup_ratio or not learner.warmup_steps,
             f"sft.warmup_ratio={sft.warmup_ratio} and learner.warmup_steps={learner.warmup_steps} both say how long "
             "the warm-up is: set one of them to 0")
    _require(not sft.packing or cfg.model.attn != "flash_attention_2" or learner.remove_padding,
             "sft.packing=true with model.attn=flash_attention_2 needs learner.remove_padding=true, since that "
             "attention takes no mask: set it, or use model.attn=sdpa")


def check_rl(cfg: Config) -> None:
    rl = cfg.rl
    if cfg.mode != "train":
        return
    _require(rl.group_size >= 2,
             f"rl.group_size=1 leaves rl.advantage={rl.advantage} nothing to compare, every advantage would be 0: "
             "use rl.group_size=2 or more")
    _require(rl.updates_per_step <= rl.groups,
             f"rl.updates_per_step={rl.updates_per_step} is more than rl.groups={rl.groups}: lower the first")
    _require(rl.tis_cap == 0 or rl.tis_cap >= 1,
             f"rl.tis_cap={rl.tis_cap} would shrink tokens on which engine and learner agree: "
             "use rl.tis_cap=1 or more, or 0 for off")
    _require(rl.overlong_buffer < cfg.sampling.max_tokens,
             f"rl.overlong_buffer={rl.overlong_buffer} would punish every length up to "
             f"sampling.max_tokens={cfg.sampling.max_tokens}: lower the first")
    _require(cfg.sampling.temperature > 0,
             f"sampling.temperature=0 makes all rl.group_size={rl.group_size} completions the same: "
             "use sampling.temperature=1.0")


def check_sampling(cfg: Config) -> None:
    sampling, evaluation = cfg.sampling, cfg.eval
    _require(sampling.max_tokens < cfg.engine.max_model_len,
             f"sampling.max_tokens={sampling.max_tokens} leaves no room for a prompt within "
             f"engine.max_model_len={cfg.engine.max_model_len}: lower the first or raise the second")
    _require(evaluation.temperature > 0 or evaluation.samples == 1,
             f"eval.temperature=0 makes all eval.samples={evaluation.samples} completions the same: "
             "use eval.samples=1 or a temperature above 0")


def check_eval(cfg: Config) -> None:
    if cfg.mode != "eval":
        return
    evaluation, engine = cfg.eval, cfg.engine
    _require(len(evaluation.compare) in (0, 2),
             f"eval.compare={evaluation.compare} does not name two evaluations: write eval.compare=[runs/A,runs/B]")
    _require(engine.kind != "openai" or engine.url,
             "engine.kind=openai needs the server's address: set engine.url=http://HOST:PORT/v1")
    _require(engine.kind != "vllm" or evaluation.max_tokens < engine.max_model_len,
             f"eval.max_tokens={evaluation.max_tokens} leaves no room for a prompt within "
             f"engine.max_model_len={engine.max_model_len}: lower the first or raise the second")
    _require(not evaluation.safety or cfg.verifier.judge,
             "eval.safety needs a model as judge: set verifier.judge=http://HOST:PORT/v1#MODEL")


def check_judge(cfg: Config) -> None:
    for entry in cfg.verifier.limits:
        domain, _, most = entry.partition(":")
        _require(domain in DOMAINS, f"verifier.limits names {domain}, which is not a domain"
                                    f"{did_you_mean(domain, DOMAINS)} (domains: {', '.join(DOMAINS)})")
        _require(most.isdigit() and int(most) > 0,
                 f"verifier.limits: {entry} says no number: write verifier.limits=[{domain}:2]")
    url, _, model = cfg.verifier.judge.rpartition("#")
    _require(not cfg.verifier.judge or (url.startswith(("http://", "https://")) and bool(model)),
             f"verifier.judge={cfg.verifier.judge} names no judge: write verifier.judge=http://HOST:PORT/v1#MODEL")


def check_verify(cfg: Config) -> None:
    if cfg.mode != "verify":
        return
    _require(cfg.verify.input, "mode=verify needs verify.input: set verify.input=FILE (.jsonl or .parquet)")
    _require(cfg.verify.output, "mode=verify needs verify.output: set verify.output=FILE (.jsonl)")
    _require(cfg.verify.input != cfg.verify.output,
             f"verify.input and verify.output are the same file ({cfg.verify.input}): name another output")


def check_prepare(cfg: Config) -> None:
    prepare = cfg.prepare
    if cfg.mode != "prepare":
        return
    _require(prepare.output, "mode=prepare needs prepare.output: set prepare.output=FOLDER")
    _require(prepare.input or prepare.source != "files",
             "prepare.source=files needs prepare.input: set prepare.input=[FILE or FOLDER,...]")
    _require(not prepare.input or prepare.source not in ("starter", "reasoning_gym"),
             f"prepare.input is read only with prepare.source=guru, am_thinking or files, not {prepare.source}: "
             "set prepare.source or remove prepare.input")
    _require(cfg.data.tasks or prepare.source != "reasoning_gym",
             "prepare.source=reasoning_gym needs data.tasks: set data.tasks=[chain_sum,leg_counting]")
    _require(prepare.min_pass <= prepare.max_pass,
             f"prepare.min_pass={prepare.min_pass} is above prepare.max_pass={prepare.max_pass}: lower the first")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UserError(message)
