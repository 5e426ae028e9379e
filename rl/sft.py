"""mode=sft: supervised fine-tuning with the same learner as RL and another loss, nothing else.

With model.path="" the policy is made from scratch: a tokenizer trained on the corpus and seeded weights. Examples
come from the starter's corpus or from files (rl.sft_data); loss on the assistant's tokens only. Validation measures
the loss on held-out dialogues and pass@1 on held-out problems with a real engine; the checkpoint with the lowest
validation loss is kept as best/.

A step's samples follow from its number alone, and how they are laid out (sft.packing) changes neither loss nor
gradient, so a run that was killed and resumed ends with the weights of an unbroken one.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.engine import Sampling
from actors.messages import Problem, TokenBatch
from conf.checks import check_run_dir
from conf.errors import UserError
from conf.schema import Config
from rl.checkpoint import RunFolder, open_run, read_json, write_json
from rl.cluster import (
    Cluster,
    check_storage,
    create_learners,
    create_rollouts,
    create_verifiers,
    start_actors,
    start_ray,
)
from rl.dispatcher import ServiceFailure
from rl.evaluation import evaluate
from rl.metrics import MetricsLog
from rl.objective import sft_loss
from rl.packing import padded_tokens, token_batch
from rl.progress import Progress
from rl.publication import publish, within
from rl.saving import Saver
from rl.session import write_samples
from rl.sft_data import FileSource, Sample, StarterSource, context, open_source, validation_problems
from rl.starting_model import starting_model


class Tuning:
    """One run of mode=sft."""

    def __init__(
        self,
        cfg: Config,
        folder: RunFolder,
        cluster: Cluster,
        source: StarterSource | FileSource,
        problems: list[Problem],
        progress: Progress,
    ):
        self.cfg, self.folder, self.cluster, self.progress = cfg, folder, cluster, progress
        self.source, self.problems = source, problems
        self.saver = Saver(folder, cluster.learners, cfg.engine.timeout_s, cfg.run.keep, self._sealed)
        self.metrics = MetricsLog(folder.path)
        self.completed, self.published = 0, 0
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self._heldout: list[Sample] = []
        self._learning = self._stop = False

    async def run(self) -> None:
        """The whole run. Raises KeyboardInterrupt after ctrl-C, with the last step saved where one was being learnt."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt, asyncio.current_task())
        try:
            try:
                await self._run()
            finally:
                await self.saver.close(self.progress.note)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _interrupt(self, task: asyncio.Task) -> None:
        """First ctrl-C while learning: finish the step and save. Before that, and the second time: stop at once."""
        if not self._learning or self._stop:
            task.cancel()
            return
        self._stop = True
        self.progress.note("stopping after this step and saving (ctrl-C again: stop at once)")

    async def _run(self) -> None:
        cfg, steps = self.cfg, self.source.steps
        self.progress.phase("starting the learner and vLLM (about half a minute)")
        await start_actors(cfg, self.cluster, self.progress.note)
        await check_storage(self.cluster.learners, self.folder.path)
        await self._restore()
        self._heldout = self.source.validation()
        stream = self.source.batches(self.completed)
        rows = asyncio.create_task(asyncio.to_thread(next, stream, None))
        self.progress.phase(None)
        self._learning = True
        while self.completed < steps:
            now = await rows
            rows = asyncio.create_task(asyncio.to_thread(next, stream, None))  # the next, while this one is learnt
            metrics = await self.step(now)
            last = self.completed == steps
            better = False
            if last or (cfg.sft.val_every and self.completed % cfg.sft.val_every == 0):
                measured, better = await self._validate()
                metrics |= measured
            await self._record(metrics, last, better)
            if self._stop and not last:
                raise KeyboardInterrupt
        await rows

    async def _record(self, metrics: dict[str, float], last: bool, better: bool) -> None:
        """Log a step, and begin its checkpoint where one is due; after the last step, and at a stop, complete it."""
        every = self.cfg.run.save_every
        if due := last or better or self._stop or (every and self.completed % every == 0):
            metrics["time/save"] = await self.saver.take(self.completed, self._books)
        metrics |= self.saver.told()
        self.metrics.log(self.completed, metrics)  # before its checkpoint is there
        self.progress.step({"step": self.completed, **metrics})
        if due:
            self.saver.write()
        if last or self._stop:
            await self.saver.finish()

    async def step(self, rows: list[Sample]) -> dict[str, float]:
        """One optimizer step on samples; returns its metrics."""
        started = time.perf_counter()
        batch = self._batch(rows)
        metrics = await self._update(batch)
        self.completed += 1
        seconds = time.perf_counter() - started
        return metrics | {"tokens/per_s": float(batch.lengths.sum()) / seconds, "time/step": seconds}

    def _batch(self, rows: list[Sample]) -> TokenBatch:
        c, pack = self.cfg.learner, self.cfg.sft.packing
        return token_batch(rows, c.micro_tokens, c.world_size // c.ulysses, context(self.cfg) if pack else 0, pack)

    async def _update(self, batch: TokenBatch) -> dict[str, float]:
        import ray

        reference, counts = ray.put(batch), {"tokens": batch.mask_tokens}
        calls = [learner.update.remote(reference, sft_loss, counts) for learner in self.cluster.learners]
        sums = (await self._within(calls, "take an optimizer step"))[0]
        return {
            "loss/sft": sums["loss"],
            "lr": sums["lr"],
            "policy/grad_norm": sums["grad_norm"],
            "tokens/learnt": counts["tokens"],
            "rows/filled": float(batch.lengths.sum()) / padded_tokens(batch),
            "time/learn": sums["seconds"],
        }

    async def _validate(self) -> tuple[dict[str, float], bool]:
        """Loss on held-out dialogues and pass@1 by domain on held-out problems, and whether the loss is the lowest."""
        self.progress.phase(f"validating after step {self.completed}")
        point: dict[str, Any] = {"step": self.completed}
        metrics: dict[str, float] = {}
        if self._heldout:
            metrics["loss/val"] = point["loss"] = await self._validation_loss()
        if self.problems:
            summary = await self._pass_at_1()
            point |= summary
            metrics["eval/pass@1"] = summary["overall"]["pass@1"]
            metrics |= {f"eval/pass@1/{d}": s["pass@1"] for d, s in summary["domains"].items()}
        if metrics:
            self.curve.append(point)
        self.progress.phase(None)
        better = "loss" in point and point["loss"] < self.best.get("loss", math.inf)
        if better:
            self.best = {"step": self.completed, "loss": point["loss"]}
        return metrics, better

    async def _validation_loss(self) -> float:
        import ray

        batch = self._batch(self._heldout)
        reference, counts = ray.put(batch), {"tokens": batch.mask_tokens}
        calls = [learner.evaluate.remote(reference, sft_loss, counts) for learner in self.cluster.learners]
        return (await self._within(calls, "compute the validation loss"))[0]["loss"]

    async def _pass_at_1(self) -> dict[str, Any]:
        cfg, e = self.cfg, self.cfg.eval
        self.published += 1
        await publish(self.cluster.learners, self.cluster.rollouts, self.published, cfg.engine.timeout_s)
        sampling = Sampling(e.temperature, e.top_p, -1, cfg.sampling.max_tokens)
        result = await evaluate(
            self.cluster.rollouts, self.cluster.verifiers, self.problems, 1, sampling, e.seed,
            cfg.engine.timeout_s, self.progress.advance,
        )
        write_samples(self.folder.path, f"step_{self.completed:05d}", result.rows)
        return result.summary

    def _books(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        state = {
            "published": self.published, "curve": self.curve, "best": self.best, "data": self.source.facts,
        }
        return state, {}

    def _sealed(self, checkpoint: Path, state: Mapping[str, Any]) -> None:
        if state["best"].get("step") == int(checkpoint.name.removeprefix("step_")):
            keep_best(self.folder.path, checkpoint)

    async def _restore(self) -> None:
        checkpoints = self.folder.checkpoints()
        self.metrics.truncate_after(checkpoints[-1][0] if checkpoints else 0)
        if not checkpoints:
            return
        self.completed, path = checkpoints[-1]
        state = read_json(path / "trainer.json")
        if state["data"] != self.source.facts:
            raise UserError(f"the files of data.train or data.heldout have changed since {self.folder.path.name} "
                            "began: put them back, or start a new run with run.resume=never")
        await self._within([x.restore.remote(str(path)) for x in self.cluster.learners], "restore its checkpoint")
        self.published, self.curve, self.best = state["published"], state["curve"], state["best"]
        if self.best.get("step") == self.completed:
            keep_best(self.folder.path, path)  # the run may have died between its checkpoint and this

    async def _within(self, calls: list[Any], what: str) -> list[Any]:
        names = [f"learner-{i}" for i in range(len(calls))]
        return await within(calls, names, self.cfg.engine.timeout_s, what)


def keep_best(run: Path, checkpoint: Path) -> None:
    """best/hf: the policy of a checkpoint, by hard links, so that it outlives the checkpoint and costs no space."""
    aside, old, final = run / ".best.tmp", run / ".best.old", run / "best"
    for path in (aside, old):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(checkpoint / "hf", aside / "hf", copy_function=os.link)
    write_json(aside / "step.json", {"step": int(checkpoint.name.removeprefix("step_"))})
    if final.exists():
        final.replace(old)
    aside.replace(final)
    shutil.rmtree(old, ignore_errors=True)


def with_warmup(cfg: Config, steps: int) -> Config:
    """The configuration with sft.warmup_ratio as learner.warmup_steps, rounded up."""
    if not cfg.sft.warmup_ratio:
        return cfg
    return replace(cfg, learner=replace(cfg.learner, warmup_steps=math.ceil(cfg.sft.warmup_ratio * steps)))


def run(cfg: Config) -> int:
    """mode=sft. The result is checkpoints/step_N/hf and best/hf. Exit code 0; 130 after ctrl-C, 3 where an actor
    failed (both keep the last checkpoint: run.resume=auto goes on)."""
    from transformers import AutoTokenizer

    check_run_dir(cfg.run.dir)
    problems = validation_problems(cfg)
    folder, started = open_run(cfg), time.time()
    try:
        model = starting_model(cfg, folder.path)
        _check_positions(cfg, model)
        tokenizer = AutoTokenizer.from_pretrained(model)
        source = open_source(cfg, tokenizer, lambda text: print(text, flush=True))
        cluster = start_ray(cfg)
    except BaseException:  # nothing was begun that could be resumed
        if not folder.resumed:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    try:
        folder.point_latest()
        _create_actors(with_warmup(cfg, source.steps), cluster, model, source.steps, bool(problems))
        done = folder.checkpoints()[-1][0] if folder.checkpoints() else 0
        title = f"sft {folder.path.name} · dashboard {cluster.dashboard or 'off'}"
        with Progress(source.steps, title, start_step=done) as progress:
            tuning, code = Tuning(cfg, folder, cluster, source, problems, progress), 0
            try:
                asyncio.run(tuning.run())
            except KeyboardInterrupt:
                code = 130
            except ServiceFailure as error:
                code = 3
                progress.note(f"stopped: {error}")
            _finish(cfg, tuning, time.time() - started, code)
        return code
    finally:
        cluster.stop()


def _check_positions(cfg: Config, model: str) -> None:
    """UserError where samples may be longer than what the model has positions for."""
    from transformers import AutoConfig

    positions = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    if cfg.data.source == "files" and positions and context(cfg) > positions:
        raise UserError(f"a context of {context(cfg)} tokens (sft.context, or engine.max_model_len) is longer than the "
                        f"{positions} positions of {model}: use sft.context={positions}")


def _create_actors(cfg: Config, cluster: Cluster, model: str, steps: int, sampled: bool) -> None:
    create_learners(cfg, cluster, model, steps)
    if sampled:
        create_rollouts(cfg, cluster, model)
        create_verifiers(cfg, cluster)


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
        "best": tuning.best,
        "data": tuning.source.facts,
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
        best = f"; the lowest validation loss: {path / 'best' / 'hf'}" if tuning.best else ""
        tuning.progress.note(f"the policy: {checkpoints[-1][1] / 'hf'}{best}")

