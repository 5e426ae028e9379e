"""mode=eval: the protocol on the suites asked for, by our own engines or a server's; nothing is trained.

What is sampled is stored as it comes (store.py), so that a run that was killed, or stopped by ctrl-C, goes on with
run.resume and ends as an unbroken one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors.engine import Sampling
from conf.checks import check_model_dir, check_port, check_run_dir
from conf.errors import UserError
from conf.schema import Config
from rl.checkpoint import RunFolder, open_run, write_json
from rl.dispatcher import ServiceFailure
from rl.evaluation import ablation, results, safety
from rl.evaluation.sampling import Batch, Replies, Sampler, Waves, collect
from rl.evaluation.store import Key, SampleStore, export
from rl.evaluation.suites import Suite, load_suites
from rl.progress import Progress


class Interrupted(Exception):
    """The user asked to stop."""


def run_command(cfg: Config) -> int:
    """Exit code 0; 130 after ctrl-C; 3 where an engine or a verifier failed (both can be resumed)."""
    if cfg.eval.compare:
        return run_comparison(cfg)
    if cfg.engine.kind == "vllm":
        check_model_dir(cfg.model.path)
    suites = wanted_suites(cfg)
    check_run_dir(cfg.run.dir)
    if cfg.engine.kind == "vllm" and cfg.ray.dashboard and not cfg.ray.address:
        check_port(cfg.ray.dashboard_host, cfg.ray.dashboard_port)  # before there is a folder for nothing
    folder = open_run(cfg)
    with SampleStore(folder.path, plan_of(cfg, suites)) as store:
        total = sum(suite.samples * len(suite.problems) for suite in suites)
        with Progress(1, f"eval {folder.path.name} · {cfg.model.path} · {total} samples") as progress:
            session = _Session(cfg, folder, suites, store, progress)
            return _conclude(session)


def wanted_suites(cfg: Config) -> list[Suite]:
    """The suites and the safety categories that are asked for. Raises UserError."""
    suites = [] if cfg.eval.safety and not cfg.eval.suites else load_suites(cfg)
    if cfg.eval.safety:
        if cfg.eval.ablation:
            raise UserError("eval.ablation measures problems with an answer, not eval.safety: run them one by one")
        suites += safety.load_safety(cfg.eval.safety, cfg.eval.samples)
    return suites


def sampling_of(cfg: Config) -> Sampling:
    e = cfg.eval
    return Sampling(e.temperature, e.top_p, -1, e.max_tokens or cfg.sampling.max_tokens, stop=tuple(e.stop))


def plan_of(cfg: Config, suites: Sequence[Suite]) -> dict[str, Any]:
    """All that the samples follow from: a run that is resumed must have the same."""
    e, engine = cfg.eval, cfg.engine
    plan: dict[str, Any] = {
        "model.path": cfg.model.path, "engine.kind": engine.kind, "engine.url": engine.url,
        "eval.seed": e.seed, "eval.temperature": e.temperature, "eval.top_p": e.top_p, "eval.stop": list(e.stop),
        "eval.max_tokens": sampling_of(cfg).max_tokens, "eval.ablation": e.ablation,
        "verifier.profile": cfg.verifier.profile, "verifier.judge": cfg.verifier.judge,
        "suites": {suite.name: [len(suite.problems), suite.samples, fingerprint(suite)] for suite in suites},
    }  # fmt: skip
    if engine.kind == "vllm":  # waves are cut by these
        plan |= {"engine.count": engine.count, "eval.wave": e.wave}
    return plan


def fingerprint(suite: Suite) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for problem in suite.problems:
        digest.update(repr((problem.id, problem.messages, problem.ground_truth)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class _Session:
    """One start of an evaluation."""

    def __init__(self, cfg: Config, folder: RunFolder, suites: Sequence[Suite], store: SampleStore, progress: Progress):
        self.cfg, self.folder, self.suites, self.store, self.progress = cfg, folder, suites, store, progress
        self.started, self.tables = time.time(), {}

    async def run(self) -> None:
        """Raises Interrupted, ServiceFailure, UserError; what was stored up to then is safe."""
        batches = [Batch(suite.name, suite.problems, suite.samples) for suite in self.suites]
        if not self.cfg.eval.ablation and all(key in self.store.done for batch in batches for key in batch.keys):
            return  # a finished run called again: only the tables are to be written
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        interrupted = asyncio.Event()

        def stop() -> None:
            interrupted.set()
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, stop)
        try:
            async with open_sampler(self.cfg, self.progress) as sampler:
                for suite, batch in zip(self.suites, batches, strict=True):
                    await (self._ablate(suite, sampler) if self.cfg.eval.ablation else self._collect(sampler, batch))
        except asyncio.CancelledError:
            if not interrupted.is_set():
                raise
            raise Interrupted from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _collect(self, sampler: Sampler, batch: Batch) -> None:
        self.progress.phase(f"{batch.name}: {len(batch.problems)} problems, {batch.samples} samples each")
        await collect(sampler, batch, self.store, self.progress.advance)

    async def _ablate(self, suite: Suite, sampler: Sampler) -> None:
        alone, plans = ablation.first_batches(suite)
        await self._collect(sampler, alone)
        await self._collect(sampler, plans)
        texts = {(r["problem_id"], r["sample"]): r["completion"] for r in self.store.rows(plans.name)}
        planned = ablation.planned_batch(suite, texts)
        await self._collect(sampler, planned)
        self.progress.phase(f"{suite.name}: the vote among {ablation.N}")
        kept: dict[Key, str] = {(r["suite"], r["problem_id"], r["sample"]): r["completion"]
                                for name in (alone.name, planned.name) for r in self.store.rows(name)}
        self.tables[suite.name] = ablation.table(await ablation.arms(suite, self.store.done, kept, sampler))

    def write(self) -> dict[str, Any]:
        """summary.json, the samples as parquet, and report.html."""
        from rl.evaluation.page import write_page

        cfg, done = self.cfg, self.store.done
        summary = {
            "run": self.folder.path.name,
            "model": cfg.model.path,
            "recipe": cfg.recipe,
            "wall_s": time.time() - self.started,
            "interrupted": False,
            "settings": plan_of(cfg, self.suites),
        }
        if cfg.eval.ablation:
            summary["ablation"] = self.tables
        else:
            summary |= results.summary_of(self.suites, done)
            if scored := safety.macro(summary["suites"]):
                summary["safety"] = scored
        for name, prompts in self._prompts().items():
            export(self.store, name, prompts, self.folder.path / "samples" / f"{name.replace('/', '_')}.parquet")
        write_json(self.folder.path / "summary.json", summary)
        write_page(self.folder.path)
        return summary

    def _prompts(self) -> dict[str, dict[str, str]]:
        """The question of each problem by suite (of plans and planned problems: without the plan's words)."""
        plain = {suite.name: {p.id: p.question for p in suite.problems} for suite in self.suites}
        if not self.cfg.eval.ablation:
            return plain
        found: dict[str, dict[str, str]] = {}
        for suite in self.suites:
            known = plain[suite.name]
            runs = range(ablation.runs_of(suite))
            found |= {f"{suite.name}/alone": known, f"{suite.name}/plans": known,
                      f"{suite.name}/planned": {f"{i}@{run}": q for i, q in known.items() for run in runs}}
        return found


@asynccontextmanager
async def open_sampler(cfg: Config, progress: Progress) -> AsyncIterator[Sampler]:
    """What answers and verifies, started; ended with the block."""
    opened = _local(cfg, progress) if cfg.engine.kind == "vllm" else _remote(cfg, progress)
    async with opened as sampler:
        yield sampler


@asynccontextmanager
async def _local(cfg: Config, progress: Progress) -> AsyncIterator[Sampler]:
    from actors.verifier_fleet import over_actors
    from rl.cluster import create_rollouts, create_verifiers, start_actors, start_ray

    cluster = start_ray(cfg)
    try:
        create_rollouts(cfg, cluster, cfg.model.path)
        create_verifiers(cfg, cluster)
        progress.phase("starting vLLM and the verifiers")
        await start_actors(cfg, cluster, progress.note)
        fleet = over_actors(cluster.verifiers)
        yield Waves(cluster.rollouts, [fleet.handle], sampling_of(cfg), seed=cfg.eval.seed, problems=cfg.eval.wave,
                    timeout_s=cfg.engine.timeout_s)
    finally:
        cluster.stop()


@asynccontextmanager
async def _remote(cfg: Config, progress: Progress) -> AsyncIterator[Sampler]:
    from actors.engine.chat import EngineError
    from actors.verifier import VerifierPool, spawner

    engine, v = remote_engine(cfg), cfg.verifier
    pool = VerifierPool(v.count * v.workers, v.timeout_s, v.retries,
                        spawn=spawner(cfg.sandbox.allow_weaker, **v.options), limits=v.domain_limits)
    try:
        progress.phase(f"asking {engine.url} whether it has {engine.name}")
        await engine.health()
        yield Replies(engine, pool, sampling_of(cfg), seed=cfg.eval.seed, concurrency=cfg.eval.concurrency,
                      timeout_s=cfg.engine.timeout_s)
    except EngineError as error:
        raise UserError(f"the engine cannot be asked: {error}: check engine.url={cfg.engine.url} and "
                        f"model.path={cfg.model.path}") from error
    finally:
        await engine.close()
        await pool.close()


def remote_engine(cfg: Config) -> Any:
    """The ChatEngine of engine.kind=openai or cerebras: model.path is the model's name there."""
    if cfg.engine.kind == "openai":
        from actors.engine.openai import OpenAIEngine

        return OpenAIEngine(cfg.model.path, cfg.engine.url)
    from actors.engine.cerebras import CerebrasEngine

    return CerebrasEngine(cfg.model.path, base_url=cfg.engine.url or None)


def _conclude(session: _Session) -> int:
    """Run, write and tell how it ended, with the command that goes on from there."""
    from rl.evaluation.tables import show

    shown = _relative(session.folder.path)
    resume = f"python main.py recipe={shown}/config.yaml run.resume={shown}"
    try:
        asyncio.run(session.run())
    except Interrupted:
        session.progress.note(f"interrupted with {len(session.store.done)} samples stored; go on with: {resume}")
        return 130
    except ServiceFailure as error:
        session.progress.note(f"stopped: {error}\ngo on with: {resume}")
        return 3
    session.progress.phase("writing the report")
    summary = session.write()
    session.progress.__exit__(None, None, None)
    show(summary, shown)
    return 0


def _relative(path: Path) -> Path:
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def run_comparison(cfg: Config) -> int:
    """eval.compare: a run's folder with the comparison as summary.json and report.html."""
    from rl.evaluation.compare import compared, read_outcomes
    from rl.evaluation.page import write_page
    from rl.evaluation.tables import show

    folders = [Path(name).expanduser() for name in cfg.eval.compare]
    found = compared(*(read_outcomes(folder) for folder in folders), seed=cfg.eval.seed)
    folder = open_run(cfg)
    summary = {"run": folder.path.name, "interrupted": False, "compare": list(cfg.eval.compare), "compared": found}
    write_json(folder.path / "summary.json", summary)
    write_page(folder.path)
    show(summary, _relative(folder.path))
    return 0
