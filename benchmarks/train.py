"""python -m benchmarks.train [--steps N] [--skip-peer]: the training loop beside its peer and its components.

One run, one machine, one model, the same prompts: (a) TRL's GRPOTrainer in an environment of its own, on the
starter's own response lengths (both learn; rewards by our checkers) and with all responses of one length (TRL's best
case), step by step in turn; (b) vLLM alone and verl's engine alone on the work of the same steps. Neither side filters
groups here, so both learn from every sample. Figures are medians of steps after two that are not counted, the ratio
to TRL one of pairs of neighbouring steps; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from actors.engine import Sampling
from benchmarks.peers.environment import ensure_trl_env
from benchmarks.peers.rewards import answer_of
from conf.load import load
from conf.schema import Config
from rl.cluster import create_learners, create_rollouts, create_verifiers, start_actors, start_ray
from rl.source import Source
from rl.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
WARM_UP, FIXED_LENGTH = 2, 48
PEER_OPTIONS: dict[str, dict[str, Any]] = {  # the two fastest of those tried (the README names the others)
    "whole batch, static cache": {"config": {"cache_implementation": "static"}},
    "micro-batches of 96, dynamic cache": {"per_device_batch": 96},
}


def configuration(steps: int) -> Config:
    words = [f"rl.steps={steps}", "rl.refill_rounds=0", "rl.filter_groups=false", "ray.dashboard=false"]
    return load(words)


def ours(cfg: Config, sampling: Sampling, peer: Peer | None) -> dict[str, Any]:
    """Run our loop, the peer's steps between ours: these machines change their speed within minutes.

    Returns the steps' metrics, and the batches for the bare components.
    """
    cluster = start_ray(cfg)
    try:
        create_rollouts(cfg, cluster, cfg.model.path)
        create_verifiers(cfg, cluster)
        create_learners(cfg, cluster, cfg.model.path, cfg.rl.steps)
        trainer = RecordingTrainer(cfg, cluster, Source(cfg), sampling, everything=sampling.ignore_eos)
        metrics = asyncio.run(_steps(cfg, cluster, trainer, peer))
        return {"metrics": metrics, "batches": trainer.batches}
    finally:
        cluster.stop()


class RecordingTrainer(Trainer):
    """Keeps what it gives to the learner, for the bare components to repeat. `everything`: also what has no gradient
    is computed, as TRL does; where all responses have one length this is about the cost of a full batch."""

    def __init__(self, *arguments: Any, everything: bool = False) -> None:
        super().__init__(*arguments)
        self.batches: list[Any] = []
        self.everything = everything

    def computes(self, rows):
        return rows if self.everything else super().computes(rows)

    def _batch(self, rows):
        batch = super()._batch(rows)
        self.batches.append((batch, {"tokens": batch.mask_tokens, "sequences": float(len(rows))}))
        return batch


async def _steps(cfg: Config, cluster: Any, trainer: Trainer, peer: Peer | None) -> list[dict[str, Any]]:
    await start_actors(cfg, cluster)
    metrics = []
    for _ in range(cfg.rl.steps):
        metrics.append(await trainer.step())
        if peer is not None:
            peer.step()
    return metrics


class Peer:
    """TRL on the same prompts in the same order, in an environment of its own, step by step in turn with us."""

    def __init__(self, cfg: Config, fixed_length: int | None, python: Path):
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._errors = (Path(self._folder.name) / name for name in ("out.json", "errors.txt"))
        options = self._fastest(cfg, fixed_length, python)
        self._process = self._start(spec(cfg, fixed_length, cfg.rl.steps, turns=True, **options), python)

    def step(self) -> None:
        """One step, begun and waited for."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        while (line := self._process.stdout.readline()) != "step\n":
            if not line:
                self._fail()

    def result(self) -> dict[str, Any]:
        """What trl_grpo.py writes at its end."""
        self._process.communicate()
        if self._process.returncode:
            self._fail()
        return json.loads(self._out.read_text())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _fastest(self, cfg: Config, fixed_length: int | None, python: Path) -> dict[str, Any]:
        """Of PEER_OPTIONS, by a short trial of each."""
        rates: dict[str, float] = {}
        for name, options in PEER_OPTIONS.items():
            self._process = self._start(spec(cfg, fixed_length, 5, **options), python)
            rates[name] = self.result()["samples_per_s"]
        best = max(rates, key=rates.get)
        print(f"  TRL's fastest here: {best}", {n: round(r, 1) for n, r in rates.items()}, flush=True)
        return PEER_OPTIONS[best]

    def _start(self, given: dict[str, Any], python: Path) -> subprocess.Popen:
        path = Path(self._folder.name) / "spec.json"
        path.write_text(json.dumps(given))
        command = [str(python), str(ROOT / "benchmarks/peers/trl_grpo.py"), str(path), str(self._out)]
        with self._errors.open("w") as errors:
            pipe = subprocess.PIPE
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)

    def _fail(self) -> NoReturn:
        raise SystemExit(f"TRL's side failed:\n{self._errors.read_text()[-2000:]}")


def spec(cfg: Config, fixed_length: int | None, steps: int, **options: Any) -> dict[str, Any]:
    """What trl_grpo.py reads (see its Spec)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cfg.model.path)
    problems = Source(cfg).take(steps * cfg.rl.groups)
    text = [
        tokenizer.apply_chat_template(list(p.messages), tokenize=False, add_generation_prompt=True) for p in problems
    ]
    return {
        "model": str(ROOT / cfg.model.path),
        "prompts": [{"prompt": t, "answer": answer_of(p)} for t, p in zip(text, problems, strict=True)],
        "prompts_per_step": cfg.rl.groups,
        "group_size": cfg.rl.group_size,
        "steps": steps,
        "max_tokens": cfg.sampling.max_tokens,
        "lr": cfg.learner.lr,
        "fixed_length": fixed_length,
        "threads": 2,
        "warmup_steps_excluded": WARM_UP,
        "reward": "length" if fixed_length else "benchmarks.peers.rewards:score",
        "reward_sys_path": str(ROOT),
        **options,
    }


def components(cfg: Config, run: dict[str, Any], ignore_eos: bool, max_tokens: int) -> dict[str, float]:
    """Seconds a step that the bare components take for the tokens of our steps."""
    from actors.engine.vllm import VllmSettings
    from actors.verl_engine import EngineSettings

    e, batches = cfg.engine, run["batches"]
    model = str(ROOT / cfg.model.path)
    vllm = VllmSettings(model, threads=2, max_model_len=e.max_model_len, max_num_seqs=e.max_num_seqs)
    waves = [[p.tolist() for p in _prompts(batch)] for batch, _ in batches[: 2 + len(batches) // 2]]
    spec = {"settings": asdict(vllm), "n": cfg.rl.group_size, "max_tokens": max_tokens, "ignore_eos": ignore_eos}
    generated = _component("vllm", json.dumps({**spec, "waves": waves}).encode())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    learner = {"settings": asdict(EngineSettings(model, lr=cfg.learner.lr)), "threads": cfg.learner.threads}
    ranks = {"world_size": cfg.learner.world_size, "port": port}
    learnt = _component("learner", pickle.dumps({**learner, **ranks, "batches": batches}), cfg.learner.world_size)
    ours_tokens = statistics.median(m["tokens/generated"] for m in run["metrics"][WARM_UP:])
    rate = statistics.median(t / s for t, s in zip(generated["tokens"], generated["seconds"], strict=True))
    return {"generate": ours_tokens / rate, "learn": statistics.median(learnt["seconds"][WARM_UP - 1 :])}


def _prompts(batch: Any) -> list:
    """The prompt of each group in a batch, once."""
    import numpy as np

    starts = np.concatenate([[0], np.cumsum(batch.lengths)])
    found = [batch.tokens[starts[i] : starts[i] + p] for i, p in enumerate(batch.prefixes)]
    return list({p.tobytes(): p for p in found}.values())


def _component(kind: str, spec: bytes, ranks: int = 1) -> dict[str, list[float]]:
    """The first rank's figures; the others are there because it waits for them."""
    with tempfile.NamedTemporaryFile() as f:
        f.write(spec)
        f.flush()
        command = [sys.executable, "-m", "benchmarks.components", kind, f.name]
        started = [
            subprocess.Popen([*command, str(r)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for r in range(ranks)
        ]
        printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"the bare {kind} failed: run {' '.join(command[1:3])} by itself to see why")
    return json.loads(printed[0].strip().splitlines()[-1])


def compare(steps: int, fixed_length: int | None, python: Path | None) -> dict[str, Any]:
    """One setting: our loop, the peer, the components."""
    cfg = configuration(steps)
    sampling = Sampling(max_tokens=fixed_length or cfg.sampling.max_tokens, ignore_eos=bool(fixed_length))
    if fixed_length:
        cfg.rl.mask_truncated = False
    peer = Peer(cfg, fixed_length, python) if python else None
    try:
        run = ours(cfg, sampling, peer)
        other = peer.result() if peer else None
    finally:
        if peer:
            peer.close()
    mine = [m["time/step"] for m in run["metrics"]][WARM_UP:]
    step_s = statistics.median(mine)
    result: dict[str, Any] = {"ours": cfg.rl.groups * cfg.rl.group_size / step_s, "step_s": step_s}
    result["rewards"] = [m["reward/mean"] for m in run["metrics"]]
    bare = components(cfg, run, bool(fixed_length), sampling.max_tokens)
    result |= {"bare": bare, "over_components": step_s / sum(bare.values())}
    if other:
        pairs = zip(other["step_s"][WARM_UP:], mine, strict=True)
        result |= {"peer": other["samples_per_s"], "ratio": statistics.median(t / m for t, m in pairs)}
        result["peer_rewards"] = other["mean_reward"]
    _tell("equal lengths" if fixed_length else "own lengths", result, steps)
    return result


def _tell(name: str, result: dict[str, Any], steps: int) -> None:
    bare = ", ".join(f"{k} {v:.2f} s" for k, v in result["bare"].items())
    print(
        f"{name}: {result['ours']:.1f} samples/s, a step {result['step_s']:.2f} s (bare: {bare}; "
        f"x{result['over_components']:.2f})",
        flush=True,
    )
    if "peer" in result:
        print(f"  TRL {result['peer']:.1f} samples/s: x{result['ratio']:.2f}", flush=True)
        if name == "own lengths":
            tail = max(1, steps // 4)
            mine, theirs = (statistics.mean(result[k][-tail:]) for k in ("rewards", "peer_rewards"))
            print(f"  mean reward of the last {tail} steps, same number of samples: {mine:.3f}, TRL {theirs:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="steps on own lengths (equal lengths: a third)")
    parser.add_argument("--skip-peer", action="store_true", help="only our loop and its components")
    arguments = parser.parse_args()
    python = None if arguments.skip_peer else ensure_trl_env(ROOT)
    own = compare(arguments.steps, None, python)
    equal = compare(max(arguments.steps // 3, 6), FIXED_LENGTH, python)
    last = {
        "trl_ratio_own_lengths": own.get("ratio"),
        "trl_ratio_equal_lengths": equal.get("ratio"),
        "step_over_components": own["over_components"],
    }
    print(json.dumps({k: None if v is None else round(v, 3) for k, v in last.items()}))


if __name__ == "__main__":
    main()
