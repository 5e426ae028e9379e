"""mode=eval: pass@1 of one policy on held-out problems, with a bootstrap interval. Nothing is trained."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from actors.engine import Sampling
from conf.checks import check_model_dir, check_run_dir
from conf.schema import Config
from rl.checkpoint import open_run, write_json
from rl.cluster import create_rollouts, create_verifiers, start_actors, start_ray
from rl.evaluation import Evaluation, evaluate
from rl.progress import Progress
from rl.session import write_samples
from rl.source import heldout

BOOTSTRAP = 2000


def interval(rows: list[dict[str, Any]], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of pass@1, problems resampled (samples of one problem are not independent)."""
    by_problem: dict[str, list[bool]] = {}
    for row in rows:
        if row["status"] != "error":
            by_problem.setdefault(row["problem_id"], []).append(row["status"] == "correct")
    means = np.array([np.mean(v) for v in by_problem.values()])
    if not len(means):
        return 0.0, 0.0
    draws = np.random.default_rng(seed).integers(0, len(means), (BOOTSTRAP, len(means)))
    low, high = np.percentile(means[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def run_command(cfg: Config) -> int:
    check_model_dir(cfg.model.path)
    problems = heldout(cfg, cfg.eval.problems, cfg.eval.seed)
    check_run_dir(cfg.run.dir)
    cluster, started = start_ray(cfg), time.time()
    try:
        folder = open_run(cfg)
        create_rollouts(cfg, cluster, cfg.model.path)
        create_verifiers(cfg, cluster)
        with Progress(1, f"eval {folder.path.name} · {cfg.model.path}") as progress:
            result = asyncio.run(_evaluate(cfg, cluster, problems, progress))
        write_samples(folder.path, "eval", result.rows)
        low, high = interval(result.rows)
        summary = {
            "run": folder.path.name,
            "model": cfg.model.path,
            "wall_s": time.time() - started,
            "interrupted": False,
            "eval": result.summary,
            "interval": [low, high],
        }
        write_json(folder.path / "summary.json", summary)
        _show(result, low, high)
        return 0
    finally:
        cluster.stop()


async def _evaluate(cfg: Config, cluster: Any, problems: list, progress: Progress) -> Evaluation:
    progress.phase("starting vLLM and the verifiers")
    await start_actors(cfg, cluster, progress.note)
    progress.phase(f"evaluating {len(problems)} held-out problems, {cfg.eval.samples} samples each")
    sampling = Sampling(cfg.eval.temperature, cfg.eval.top_p, -1, cfg.sampling.max_tokens)
    return await evaluate(
        cluster.rollouts, cluster.verifiers, problems, cfg.eval.samples, sampling, cfg.eval.seed,
        cfg.engine.timeout_s, progress.advance,
    )


def _show(result: Evaluation, low: float, high: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("domain", "problems", "pass@1", "pass@8", "tokens", "errors", title="held-out problems")
    for name, scores in {**result.summary["domains"], "overall": result.summary["overall"]}.items():
        eight = f"{scores['pass@8']:.1%}" if "pass@8" in scores else "-"
        one = f"{scores['pass@1']:.1%}" if "pass@1" in scores else "-"
        table.add_row(name, str(scores["problems"]), one, eight, f"{scores['tokens']:.0f}", str(scores["errors"]))
    console = Console()
    console.print(table)
    console.print(f"pass@1 95 % interval over problems: {low:.1%} to {high:.1%}")
