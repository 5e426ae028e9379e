"""python -m benchmarks.sft [--steps N] [--context N]: supervised fine-tuning beside TRL's SFTTrainer.

One run, one machine: the starter's model and corpus, the same samples, tokenized beforehand, float32, packing on in
both, step by step in turn. Ours is mode=sft's own step on its own actors; TRL has an environment of its own and, of
the settings in PEER_OPTIONS, the one that is fastest here. Tokens are those of the samples, without padding. Figures
are medians of steps after two that are not counted, the ratio one of pairs of neighbouring steps; the last line is
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.peers.environment import ensure_trl_env
from conf.load import load
from conf.schema import Config
from rl.checkpoint import RunFolder
from rl.cluster import create_learners, start_actors, start_ray
from rl.dialogues import Sample
from rl.progress import Progress
from rl.sft import Tuning
from rl.sft_data import StarterSource, context

ROOT = Path(__file__).resolve().parent.parent
WARM_UP, TRIAL_STEPS = 2, 3
PEER_OPTIONS: dict[str, dict[str, int]] = {
    "one process, 1 row at once": {"processes": 1, "rows_at_once": 1},
    "one process, 2 rows at once": {"processes": 1, "rows_at_once": 2},
    "two processes, 1 row at once": {"processes": 2, "rows_at_once": 1},
}  # more rows at once are slower: TRL lays them into one, whose mask grows with the square


def configuration(steps: int, row_tokens: int) -> Config:
    """mode=sft of the starter's policy on two cores, with rows filled; 4096 tokens a step."""
    words = [f"sft.steps={steps}", "sft.packing=true", f"sft.context={row_tokens}", "sft.batch_tokens=4096",
             "learner.world_size=2", "learner.threads=1", "learner.micro_tokens=4608", "learner.warmup_steps=0",
             "learner.schedule=constant", "learner.lr=1e-4", "learner.weight_decay=0", "model.path=assets/starter",
             "ray.dashboard=false"]
    return load(["mode=sft", *words])


class Peer:
    """TRL on the same samples, in an environment of its own, step by step in turn with us."""

    def __init__(self, cfg: Config, batches: list[list[Sample]], python: Path):
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._errors = (Path(self._folder.name) / name for name in ("out.json", "errors.txt"))
        self._cfg, self._batches, self._python = cfg, batches, python
        self.name, options = self._fastest()
        self._process = self._start(cfg.sft.steps, turns=True, **options)

    def step(self) -> None:
        """One step, begun and waited for."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        while (line := self._process.stdout.readline()) != "step\n":
            if not line:
                self._fail()

    def result(self) -> dict[str, Any]:
        """What trl_sft.py writes at its end."""
        self._process.communicate()
        if self._process.returncode:
            self._fail()
        return json.loads(self._out.read_text())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _fastest(self) -> tuple[str, dict[str, int]]:
        """Of PEER_OPTIONS, by a short trial of each."""
        rates: dict[str, float] = {}
        for name, options in PEER_OPTIONS.items():
            self._process = self._start(TRIAL_STEPS + WARM_UP, **options)
            trial = self.result()
            rates[name] = max(t / s for t, s in zip(trial["tokens"], trial["step_s"], strict=True))
        best = max(rates, key=rates.get)
        print(f"TRL's fastest here: {best}", {n: round(r) for n, r in rates.items()}, flush=True)
        return best, PEER_OPTIONS[best]

    def _start(self, steps: int, processes: int, turns: bool = False, **options: Any) -> subprocess.Popen:
        cfg, row_tokens = self._cfg, context(self._cfg)
        given = {
            "model": str(ROOT / cfg.model.path),
            "samples": [labelled(sample) for rows in self._batches[: steps + 2] for sample in rows],
            "steps": steps,
            "context": row_tokens,
            "rows": cfg.sft.batch_tokens // row_tokens,
            "lr": cfg.learner.lr,
            "threads": 2 // processes,
            "warmup_steps_excluded": WARM_UP,
            "turns": turns,
            **options,
        }
        path = Path(self._folder.name) / "spec.json"
        path.write_text(json.dumps(given))
        launch = [str(self._python)]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*launch, str(ROOT / "benchmarks/peers/trl_sft.py"), str(path), str(self._out)]
        with self._errors.open("w") as errors:
            pipe = subprocess.PIPE
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)

    def _fail(self) -> NoReturn:
        raise SystemExit(f"TRL's side failed:\n{self._errors.read_text()[-2000:]}")


def labelled(sample: Sample) -> dict[str, list[int]]:
    """A sample as TRL takes it: -100 where nothing is learnt."""
    tokens, mask = sample["tokens"].tolist(), sample["mask"].tolist()
    return {"input_ids": tokens, "labels": [t if m else -100 for t, m in zip(tokens, mask, strict=True)]}


def ours(cfg: Config, batches: list[list[Sample]], peer: Peer | None) -> list[dict[str, float]]:
    """Our steps' metrics; the peer's steps lie between: these machines change their speed within minutes."""
    cluster = start_ray(cfg)
    try:
        create_learners(cfg, cluster, cfg.model.path, cfg.sft.steps)
        with tempfile.TemporaryDirectory() as folder:
            source = StarterSource(cfg, None)
            progress = Progress(cfg.sft.steps, "benchmark")
            tuning = Tuning(cfg, RunFolder(Path(folder), False), cluster, source, [], progress)
            return asyncio.run(_steps(tuning, batches, peer))
    finally:
        cluster.stop()


async def _steps(tuning: Tuning, batches: list[list[Sample]], peer: Peer | None) -> list[dict[str, float]]:
    await start_actors(tuning.cfg, tuning.cluster)
    metrics = []
    for rows in batches:
        metrics.append(await tuning.step(rows))
        if peer is not None:
            peer.step()
    return metrics


def compare(cfg: Config, python: Path | None) -> dict[str, Any]:
    from transformers import AutoTokenizer

    source = StarterSource(cfg, AutoTokenizer.from_pretrained(ROOT / cfg.model.path))
    batches = list(itertools.islice(source.batches(0), cfg.sft.steps))
    peer = Peer(cfg, batches, python) if python else None
    try:
        metrics = ours(cfg, batches, peer)
        other = peer.result() if peer else None
    finally:
        if peer:
            peer.close()
    mine = [m["tokens/per_s"] for m in metrics][WARM_UP:]
    result = {"ours": statistics.median(mine), "filled": statistics.mean(m["rows/filled"] for m in metrics)}
    result["loss"] = statistics.mean(m["loss/sft"] for m in metrics)
    if other:
        theirs = [t / s for t, s in zip(other["tokens"], other["step_s"], strict=True)][WARM_UP:]
        result |= {"trl": statistics.median(theirs), "trl_loss": statistics.mean(other["losses"])}
        result["ratio"] = statistics.median(m / t for m, t in zip(mine, theirs, strict=True))
        result["spread"] = statistics.quantiles([m / t for m, t in zip(mine, theirs, strict=True)], n=10)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--context", type=int, default=256, help="tokens of a packed row")
    parser.add_argument("--skip-peer", action="store_true", help="only our loop")
    arguments = parser.parse_args()
    python = None if arguments.skip_peer else ensure_trl_env(ROOT)
    result = compare(configuration(arguments.steps, arguments.context), python)
    print(f"ours: {result['ours']:.0f} tokens/s, rows filled to {result['filled']:.0%}, mean loss {result['loss']:.4f}")
    if "trl" in result:
        low, high = result["spread"][0], result["spread"][-1]
        print(f"TRL:  {result['trl']:.0f} tokens/s, mean loss {result['trl_loss']:.4f}")
        print(f"ratio of neighbouring steps: {result['ratio']:.2f} (nine in ten above {low:.2f}, below {high:.2f})")
    print(json.dumps({"trl_ratio": round(result["ratio"], 3) if "ratio" in result else None}))


if __name__ == "__main__":
    main()
