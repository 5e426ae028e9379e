"""A training run from start to report: actors up, evaluation before, the loop, evaluation after; what is saved when.

Nothing already computed is lost: metrics are flushed every step, checkpoints are written beside the steps (rl.saving)
and renamed into place, ctrl-C ends after the step in progress (twice: at once) and says how to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.engine import Sampling
from actors.fleet import Event, State
from conf.checks import check_model_dir, check_run_dir
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
from rl.dispatcher import ActorsLost, ServiceFailure
from rl.evaluation import Evaluation, evaluate
from rl.metrics import MetricsLog
from rl.progress import Progress, before_after_table
from rl.publication import within
from rl.report.machine import describe_machine
from rl.saving import Saver
from rl.source import Source, heldout
from rl.trainer import Trainer

IN_FLIGHT, FLEET_FILE = "in_flight.pkl", "fleet.jsonl"
EVAL_ATTEMPTS = 3


class Interrupted(Exception):
    """The user asked to stop."""


class Session:
    """One call of mode=train."""

    def __init__(self, cfg: Config, folder: RunFolder, cluster: Cluster, source: Source, progress: Progress):
        self.cfg, self.folder, self.cluster, self.progress = cfg, folder, cluster, progress
        self.trainer = Trainer(cfg, cluster, source)
        self.trainer.crew.listen = self._heard
        self.saver = Saver(folder, cluster.learners, cfg.engine.timeout_s, cfg.run.keep)
        self.metrics = MetricsLog(folder.path)
        self.problems = heldout(cfg, cfg.eval.problems, cfg.eval.seed)
        self.started = time.time()
        self.summary: dict[str, Any] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """The whole run; raises Interrupted after the state was saved, ServiceFailure where an actor failed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt, asyncio.current_task())
        try:
            try:
                await self._run()
            finally:
                await self.saver.close(self.progress.note)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            raise Interrupted from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            await self.trainer.close()
            self.metrics.close()

    async def _run(self) -> None:
        self.progress.phase("starting vLLM, verl's learner and the verifiers (about half a minute)")
        await start_actors(self.cfg, self.cluster, self.progress.note)
        await check_storage(self.cluster.learners, self.folder.path)
        self.trainer.crew.open()
        await self._begin()
        self.summary["eval_before"] = await self._evaluate("before")
        await self._train()
        self.summary["eval_after"] = await self._evaluate("after")

    def write_summary(self, interrupted: bool) -> Path:
        """summary.json, with the wall time of all the run's sessions together."""
        path, trainer = self.folder.path / "summary.json", self.trainer
        earlier = (read_json(path) or {}).get("wall_s", 0.0) if self.folder.resumed else 0.0
        checkpoints = self.folder.checkpoints()
        write_json(
            path,
            {
                "run": self.folder.path.name,
                "recipe": self.cfg.recipe,
                "model": self.cfg.model.path,
                "steps": trainer.completed,
                "wall_s": earlier + time.time() - self.started,
                "interrupted": interrupted,
                "machine": describe_machine(),
                "policy_version": trainer.version,
                "checkpoint": str(checkpoints[-1][1].relative_to(self.folder.path)) if checkpoints else "",
                **self.summary,
            },
        )
        return path

    def _books(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """What a checkpoint keeps besides the learners' part, of one moment: groups go on arriving."""
        state, in_flight = self.trainer.state_dict(), self.trainer.in_flight()
        return state, {} if in_flight is None else {IN_FLIGHT: pickle.dumps(in_flight)}

    async def _begin(self) -> None:
        """At the newest checkpoint of a resumed run, if there is one."""
        if self.folder.checkpoints():
            await self._restore()
            after = f"after step {self.trainer.completed}, policy version {self.trainer.version}"
            self.progress.note(f"resumed {self.folder.path.name} {after}")
        else:
            self.metrics.truncate_after(0)

    async def _restore(self) -> None:
        """Learners, engines and books as the newest checkpoint has them; as at the start where there is none."""
        if reason := await self.saver.abandon():
            self.progress.note(f"the checkpoint in the making is lost: {reason}")
        step, state, in_flight = 0, None, None
        if checkpoints := self.folder.checkpoints():
            step, path = checkpoints[-1]
            self.progress.phase(f"restoring step {step}")
            calls = [learner.restore.remote(str(path)) for learner in self.cluster.learners]
            names = [f"learner-{i}" for i in range(len(calls))]
            await within(calls, names, self.cfg.engine.timeout_s, "restore its checkpoint")
            state = read_json(path / "trainer.json")
            if (path / IN_FLIGHT).exists():
                in_flight = pickle.loads((path / IN_FLIGHT).read_bytes())
        await self.trainer.go_back(step, state, in_flight)
        self.metrics.truncate_after(step)

    async def _train(self) -> None:
        self.progress.phase(None)
        while self.trainer.completed < self.cfg.rl.steps:
            try:
                await self._one_step()
            except ActorsLost as lost:
                await self._recover(lost)

    async def _one_step(self) -> None:
        """A step, what it is told as, and what is saved of it. Raises Interrupted once a stop was asked for."""
        cfg = self.cfg
        metrics = await self.trainer.step()
        step = metrics["step"]
        if cfg.eval.every and step % cfg.eval.every == 0 and step < cfg.rl.steps:
            result = await self._sample(f"evaluating after step {step}")
            metrics["eval/pass@1"] = result.summary["overall"]["pass@1"]
            write_samples(self.folder.path, f"step_{step:05d}", result.rows)
            self.progress.phase(None)
        due = cfg.run.save_every and step % cfg.run.save_every == 0
        if due := due or step == cfg.rl.steps or self._stop.is_set():
            metrics["time/save"] = await self.saver.take(step, self._books)
        metrics |= self.saver.told()
        self.metrics.log(step, metrics)  # before its checkpoint is there: a resumed run has the rows up to it
        self.progress.step(metrics)
        if due:
            self.saver.write()
        if step == cfg.rl.steps or self._stop.is_set():
            await self.saver.finish()
        if self._stop.is_set():
            raise Interrupted

    async def _recover(self, lost: ActorsLost) -> None:
        """Put lost learners back together and go back to the last checkpoint; the steps since then are repeated."""
        while True:
            if not any(name.startswith("learner") for name in lost.names):
                raise lost
            self.progress.note(f"{lost}: restarting the learners")
            try:
                await self.trainer.crew.restart_learners(lost)
                await self._restore()
                break
            except ActorsLost as again:
                lost = again
        self.trainer.crew.learners_are_back()
        self.progress.note(f"went back to step {self.trainer.completed} and repeat from there")
        self.progress.phase(None)

    def _heard(self, event: Event) -> None:
        """Write down what happens to actors; tell of deaths and recoveries."""
        if {event.before, event.after} == {State.HEALTHY, State.STALE} and event.recovery_s is None:
            return  # new weights, as in every step
        row = {"time": time.time(), **asdict(event)}
        row.pop("at")
        with (self.folder.path / FLEET_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        if event.after in (State.DEAD, State.RETIRED):
            given_up = "given up: " if event.after == State.RETIRED else ""
            self.progress.note(f"{event.name} died: {given_up}{event.reason}")
        elif event.recovery_s is not None:
            self.progress.note(f"{event.name} is back after {event.recovery_s:.1f} s")

    async def _evaluate(self, when: str) -> dict[str, Any]:
        """Evaluate once a run: a resumed one keeps what was measured."""
        path = self.folder.path / f"eval_{when}.json"
        known = read_json(path)
        if known is not None and (when == "before" or known["steps"] == self.trainer.completed):
            return known["summary"]
        if when == "before" and self.trainer.completed:
            return {}  # the first policy is gone; a checkpoint without an evaluation is an interrupted evaluation
        result = await self._sample(f"evaluating {when} training: {len(self.problems)} held-out problems")
        write_samples(self.folder.path, when, result.rows)
        write_json(path, {"steps": self.trainer.completed, "summary": result.summary})
        return result.summary

    async def _sample(self, phase: str) -> Evaluation:
        e = self.cfg.eval
        self.progress.phase(phase)
        sampling = Sampling(e.temperature, e.top_p, -1, self.cfg.sampling.max_tokens)
        for attempt in range(EVAL_ATTEMPTS):
            await self.trainer.crew.settle()
            try:
                return await evaluate(
                    self.cluster.rollouts,
                    self.cluster.verifiers,
                    self.problems,
                    e.samples,
                    sampling,
                    e.seed,
                    self.cfg.engine.timeout_s,
                    self.progress.advance,
                )
            except ServiceFailure as failure:  # it is repeated whole: same seed, same samples
                if attempt + 1 == EVAL_ATTEMPTS:
                    raise
                self.progress.note(f"{failure}: evaluating again")
                await self.trainer.crew.look()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _interrupt(self, task: asyncio.Task) -> None:
        """First ctrl-C: finish the step in progress (an evaluation or the start ends at once). Second: now."""
        training = self.trainer.completed > 0 or self.summary.get("eval_before")
        if self._stop.is_set() or not training or self.trainer.completed >= self.cfg.rl.steps:
            self._stop.set()
            task.cancel()
            return
        self._stop.set()
        self.progress.note("stopping after this step and saving (ctrl-C again: stop at once)")


def write_samples(run_dir: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """samples/NAME.parquet, as `datasets` and pandas read it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = run_dir / "samples"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def run_training(cfg: Config, session: type[Session] = Session) -> int:
    """mode=train. Exit code 0; 130 after ctrl-C; 3 where an actor failed (the run can be resumed)."""
    from rich.console import Console

    check_model_dir(cfg.model.path)
    source = Source(cfg)  # a broken row is told before anything is started
    check_run_dir(cfg.run.dir)
    cluster = start_ray(cfg)
    try:
        folder = open_run(cfg)
        folder.point_latest()
        model = cfg.model.path
        create_rollouts(cfg, cluster, model)
        create_verifiers(cfg, cluster)
        create_learners(cfg, cluster, model, cfg.rl.steps * cfg.rl.updates_per_step)
        title = f"run {folder.path.name} · {model} · dashboard {cluster.dashboard or 'off'}"
        done = folder.checkpoints()[-1][0] if folder.checkpoints() else 0
        with Progress(cfg.rl.steps, title, start_step=done) as progress:
            return _conclude(cfg, session(cfg, folder, cluster, source, progress), Console())
    finally:
        cluster.stop()


def _conclude(cfg: Config, session: Session, console: Any) -> int:
    """Run the session and tell how it ended, with the command that goes on from there."""
    code, shown = 0, session.folder.path
    with contextlib.suppress(ValueError):
        shown = shown.relative_to(Path.cwd())
    resume = f"python main.py recipe={shown}/config.yaml run.resume={shown}"
    try:
        asyncio.run(session.run())
    except Interrupted:
        code = 130
        session.progress.note(f"interrupted after step {session.trainer.completed}; go on with: {resume}")
    except ServiceFailure as error:
        code = 3
        session.progress.note(f"stopped after step {session.trainer.completed}: {error}\ngo on with: {resume}")
    session.write_summary(interrupted=code != 0)
    _report(session, console, shown, code)
    return code


def _report(session: Session, console: Any, shown: Path, code: int) -> None:
    from rl.report import write_report

    session.progress.phase("writing the report")
    report = write_report(session.folder.path)
    session.progress.phase(None)
    session.progress.__exit__(None, None, None)
    if code == 0:
        console.print(before_after_table(read_json(session.folder.path / "summary.json")))
        best = session.folder.checkpoints()[-1][1].relative_to(session.folder.path)
        # not wrapped: a path in two pieces cannot be copied
        console.print(f"report:      {shown / report.name}", soft_wrap=True)
        console.print(f"checkpoint:  {shown / best / 'hf'}  (loads in transformers and vLLM)", soft_wrap=True)
        console.print("serve it:    make serve  (OpenAI-compatible, http://127.0.0.1:8000/v1)")


