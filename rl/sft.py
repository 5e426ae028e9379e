"""mode=sft: supervised fine-tuning with the same learner as RL and another loss, nothing else.

With model.path="" the policy is made from scratch: a tokenizer trained on the corpus and seeded weights. Examples
come from the starter's corpus; loss on the assistant's tokens only. Validation measures the loss on held-out worked
answers and pass@1 on held-out problems with a real engine.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from actors.engine import Sampling
from conf.checks import check_model_dir, check_run_dir
from conf.errors import UserError
from conf.schema import Config
from rl.checkpoint import RunFolder, open_run, read_json, write_json
from rl.cluster import Cluster, create_learners, create_rollouts, create_verifiers, start_actors, start_ray
from rl.evaluation import evaluate
from rl.metrics import MetricsLog
from rl.objective import sft_loss
from rl.packing import token_batch
from rl.problems.starter.corpus import Example, sft_examples
from rl.progress import Progress
from rl.publication import publish, within
from rl.session import write_samples
from rl.source import heldout

TOKENIZER_EXAMPLES = 6000
SEED, TOKENIZER_SEED, VALIDATION_SEED = 3, 11, 12
VALIDATION_EXAMPLES = 300


def encode(tokenizer: Any, example: Example) -> dict[str, np.ndarray]:
    """tokens [n] and mask [n] of one example: the prompt as the rollout engine will see it, then what is learnt."""
    prompt = tokenizer.apply_chat_template(
        list(example.messages[:-1]), tokenize=False, add_generation_prompt=True
    )
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = tokenizer(example.messages[-1]["content"], add_special_tokens=False)["input_ids"]
    after.append(tokenizer.eos_token_id)
    mask = np.concatenate([np.zeros(len(before), np.float32), np.ones(len(after), np.float32)])
    return {"tokens": np.asarray(before + after, np.int32), "mask": mask}


def batches(tokenizer: Any, seed: int, batch_tokens: int) -> Iterator[list[dict[str, np.ndarray]]]:
    """Endless batches of whole examples, each of at least `batch_tokens` tokens; the same for the same arguments."""
    examples = sft_examples(seed)
    while True:
        batch, tokens = [], 0
        while tokens < batch_tokens:
            batch.append(encode(tokenizer, next(examples)))
            tokens += len(batch[-1]["tokens"])
        yield batch


class Tuning:
    """One run of mode=sft."""

    def __init__(self, cfg: Config, folder: RunFolder, cluster: Cluster, model: str, progress: Progress):
        from transformers import AutoTokenizer

        self.cfg, self.folder, self.cluster, self.progress = cfg, folder, cluster, progress
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.metrics = MetricsLog(folder.path)
        self.problems = heldout(cfg, cfg.sft.val_problems, cfg.eval.seed)
        self.completed, self.published = 0, 0
        self.curve: list[dict[str, Any]] = []

    async def run(self) -> None:
        cfg = self.cfg
        self.progress.phase("starting the learner and vLLM (about half a minute)")
        await start_actors(cfg, self.cluster, self.progress.note)
        await self._restore()
        stream = itertools.islice(batches(self.tokenizer, SEED, cfg.sft.batch_tokens), self.completed, None)
        self.progress.phase(None)
        while self.completed < cfg.sft.steps:
            started = time.perf_counter()
            sums, tokens = await self._update(next(stream))
            self.completed += 1
            seconds = time.perf_counter() - started
            metrics = {
                "loss/sft": sums["loss"],
                "lr": sums["lr"],
                "policy/grad_norm": sums["grad_norm"],
                "tokens/per_s": tokens / seconds,
                "time/step": seconds,
                "time/learn": sums["seconds"],
            }
            last = self.completed == cfg.sft.steps
            if last or (cfg.sft.val_every and self.completed % cfg.sft.val_every == 0):
                metrics |= await self._validate()
            self.metrics.log(self.completed, metrics)
            self.progress.step({"step": self.completed, **metrics})
            if last or (cfg.run.save_every and self.completed % cfg.run.save_every == 0):
                await self._save()

    async def _update(self, rows: list[dict[str, np.ndarray]]) -> tuple[dict[str, float], int]:
        import ray

        cfg = self.cfg.learner
        batch = token_batch(rows, cfg.micro_tokens, cfg.world_size // cfg.ulysses)
        reference, counts = ray.put(batch), {"tokens": batch.mask_tokens}
        calls = [learner.update.remote(reference, sft_loss, counts) for learner in self.cluster.learners]
        return (await self._within(calls, "take an optimizer step"))[0], int(batch.lengths.sum())

    async def _validate(self) -> dict[str, float]:
        """Loss on held-out traces without slips, and pass@1 by domain on held-out problems."""
        import ray

        cfg, e = self.cfg, self.cfg.eval
        self.progress.phase(f"validating after step {self.completed}")
        rows = [encode(self.tokenizer, x) for x in itertools.islice(sft_examples(VALIDATION_SEED), VALIDATION_EXAMPLES)]
        batch = token_batch(rows, cfg.learner.micro_tokens, cfg.learner.world_size // cfg.learner.ulysses)
        reference, counts = ray.put(batch), {"tokens": batch.mask_tokens}
        calls = [learner.evaluate.remote(reference, sft_loss, counts) for learner in self.cluster.learners]
        loss = (await self._within(calls, "compute the validation loss"))[0]["loss"]
        self.published += 1
        await publish(self.cluster.learners, self.cluster.rollouts, self.published, cfg.engine.timeout_s)
        sampling = Sampling(e.temperature, e.top_p, -1, cfg.sampling.max_tokens)
        result = await evaluate(
            self.cluster.rollouts, self.cluster.verifiers, self.problems, 1, sampling, e.seed,
            cfg.engine.timeout_s, self.progress.advance,
        )
        write_samples(self.folder.path, f"step_{self.completed:05d}", result.rows)
        self.curve.append({"step": self.completed, "loss": loss, **result.summary})
        self.progress.phase(None)
        metrics = {"loss/val": loss, "eval/pass@1": result.summary["overall"]["pass@1"]}
        return metrics | {f"eval/pass@1/{d}": s["pass@1"] for d, s in result.summary["domains"].items()}

    async def _save(self) -> None:
        aside = self.folder.new_checkpoint(self.completed)
        await self._within([x.save.remote(str(aside)) for x in self.cluster.learners], "save a checkpoint")
        state = {"published": self.published, "curve": self.curve}
        self.folder.commit(aside, self.completed, state, self.cfg.run.keep)

    async def _restore(self) -> None:
        checkpoints = self.folder.checkpoints()
        self.metrics.truncate_after(checkpoints[-1][0] if checkpoints else 0)
        if not checkpoints:
            return
        self.completed, path = checkpoints[-1]
        await self._within([x.restore.remote(str(path)) for x in self.cluster.learners], "restore its checkpoint")
        state = read_json(path / "trainer.json")
        self.published, self.curve = state["published"], state["curve"]

    async def _within(self, calls: list[Any], what: str) -> list[Any]:
        names = [f"learner-{i}" for i in range(len(calls))]
        return await within(calls, names, self.cfg.engine.timeout_s, what)


def _starting_model(cfg: Config, folder: RunFolder) -> str:
    """model.path, or a seeded model and tokenizer made in the run's folder."""
    if cfg.model.path:
        check_model_dir(cfg.model.path)
        return cfg.model.path
    path = folder.path / "init"
    if not (path / "config.json").is_file():
        from rl.scratch import make_policy

        def texts() -> Iterator[str]:
            for example in itertools.islice(sft_examples(TOKENIZER_SEED), TOKENIZER_EXAMPLES):
                yield from (f"{m['role']}\n{m['content']}" for m in example.messages)

        make_policy(path, cfg.model.init, texts(), cfg.seed, max(512, cfg.engine.max_model_len))
    return str(path)


def run(cfg: Config) -> int:
    """mode=sft. The result is checkpoints/step_N/hf; ctrl-C keeps the last checkpoint (run.resume=auto goes on)."""
    if cfg.data.source != "starter":
        raise UserError(f"mode=sft has worked answers for data.source=starter only, not {cfg.data.source}")
    check_run_dir(cfg.run.dir)
    cluster, started = start_ray(cfg), time.time()
    try:
        folder = open_run(cfg)
        folder.point_latest()
        model = _starting_model(cfg, folder)
        create_learners(cfg, cluster, model, cfg.sft.steps)
        create_rollouts(cfg, cluster, model)
        create_verifiers(cfg, cluster)
        done = folder.checkpoints()[-1][0] if folder.checkpoints() else 0
        title = f"sft {folder.path.name} · dashboard {cluster.dashboard or 'off'}"
        with Progress(cfg.sft.steps, title, start_step=done) as progress:
            tuning, code = Tuning(cfg, folder, cluster, model, progress), 0
            try:
                asyncio.run(tuning.run())
            except KeyboardInterrupt:
                code = 130
            _finish(cfg, tuning, time.time() - started, code)
        return code
    finally:
        cluster.stop()


def _finish(cfg: Config, tuning: Tuning, seconds: float, code: int) -> None:
    from rl.report import write_report

    path = tuning.folder.path
    earlier = (read_json(path / "summary.json") or {}).get("wall_s", 0.0)
    checkpoints = tuning.folder.checkpoints()
    summary = {
        "run": path.name,
        "recipe": cfg.recipe,
        "model": cfg.model.path or "from scratch",
        "steps": tuning.completed,
        "wall_s": earlier + seconds,
        "interrupted": code != 0,
        "curve": tuning.curve,
        "checkpoint": str(checkpoints[-1][1].relative_to(path)) if checkpoints else "",
    }
    write_json(path / "summary.json", summary)
    tuning.progress.note(f"report: {write_report(path)}")
    if code:
        tuning.progress.note(
            f"interrupted after step {tuning.completed}; go on with: "
            f"python main.py recipe={path}/config.yaml run.resume={path}"
        )
    elif checkpoints:
        tuning.progress.note(f"the policy: {checkpoints[-1][1] / 'hf'}")

