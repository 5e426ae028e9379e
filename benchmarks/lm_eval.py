"""python -m benchmarks.lm_eval [--questions N] [--runs N]: the lm-eval-harness through our API, beside mode=eval.

Both ask the embedded policy the same held-out questions, at temperature 1. mode=eval gives pass@1 with its bootstrap
interval. The harness (its own virtual environment, made where absent) asks `main.py mode=serve` by its
`local-chat-completions` model, once a question and run, without a seed (one for all its questions would give them all
the same luck); what it logged is judged by our verifier.
Its own `exact_match` is told besides, of questions whose truth is a plain text. The last line is JSON: `agrees` says
whether the harness's mean of all runs lies within mode=eval's interval.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.messages import Problem
from benchmarks.peers.environment import LM_EVAL
from benchmarks.questions import Judge, accuracy
from benchmarks.servers import ROOT, Server, service
from conf.load import load
from conf.schema import Config
from rl.source import heldout

MODEL = "assets/starter"
CONCURRENT = 8
TASK = """
task: heldout
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{truth}}}}"
generation_kwargs: {{until: [], max_gen_toks: {tokens}, temperature: 1.0, seed: null, reasoning_effort: low}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def plain(problem: Problem) -> str | None:
    """The truth as text, None in the domains whose answers have no one spelling."""
    return str(problem.truth) if problem.domain in ("math", "science", "tabular") else None


def ours(folder: Path, questions: int) -> dict[str, Any]:
    """mode=eval's scores. Raises RuntimeError with its last words."""
    command = [sys.executable, "main.py", "mode=eval", "recipe=starter", f"model.path={MODEL}", "ray.dashboard=false",
               f"eval.problems={questions}", f"run.dir={folder}", "run.name=ours"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"mode=eval failed: {(done.stdout + done.stderr)[-2000:]}")
    return json.loads((folder / "ours" / "summary.json").read_text())["suites"]["heldout"]


def harness(folder: Path, server: Server, tokens: int, run: int, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """What the harness logged of one run, a sample a question, in the order of the questions."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": p.id, "question": p.question, "truth": plain(p) or "-"}) + "\n"
                            for p in problems))
    (folder / "task.yaml").write_text(TASK.format(rows=rows, tokens=tokens))
    output = folder / f"run{run}"
    command = [
        str(LM_EVAL.ensure(ROOT)), "-m", "lm_eval", "run", "--model", "local-chat-completions", "--model_args",
        f"model=raythink,base_url={server.url}/v1/chat/completions,num_concurrent={CONCURRENT},max_retries=3",
        "--tasks", "heldout", "--include_path", str(folder), "--apply_chat_template", "--log_samples",
        "--output_path", str(output),
    ]  # fmt: skip
    variables = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"),
                 "OPENAI_API_KEY": server.keys[0]}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"lm_eval failed: {(done.stdout + done.stderr)[-2000:]}")
    (found,) = output.rglob("samples_heldout_*.jsonl")
    samples = {sample["doc"]["id"]: sample for sample in map(json.loads, found.read_text().splitlines())}
    return [samples[problem.id] for problem in problems]


async def measure(cfg: Config, folder: Path, questions: int, runs: int) -> dict[str, Any]:
    problems = heldout(cfg, questions, cfg.eval.seed)
    known = ours(folder, questions)
    judge = Judge(cfg)
    rates, exact, judged = [], [], []
    try:
        with service(["mode=serve", f"model.path={MODEL}", "model.device=cpu", f"run.dir={folder / 'runs'}",
                      "serve.requests_per_minute=0"]) as server:
            for run in range(1, runs + 1):
                samples = harness(folder, server, cfg.sampling.max_tokens, run, problems)
                texts = [f"<answer>{sample['filtered_resps'][0]}</answer>" for sample in samples]
                scores = await judge.scores(problems, texts)
                rates.append(accuracy(scores))
                of_text = [i for i, problem in enumerate(problems) if plain(problem) is not None]
                exact.append(statistics.fmean(samples[i]["exact_match"] for i in of_text))
                judged.append(accuracy([scores[i] for i in of_text]))
                print(f"lm-eval, run {run}: {100 * rates[-1]:.1f} % right; of {len(of_text)} with a plain answer "
                      f"{100 * exact[-1]:.1f} % by its exact_match, {100 * judged[-1]:.1f} by our verifier", flush=True)
    finally:
        await judge.verifier.close()
    low, high = known["interval"]
    mean = statistics.fmean(rates)
    print(f"mode=eval: {100 * known['pass@1']:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
    return {"ours": known["pass@1"], "interval": [low, high], "lm_eval": mean,
            "lm_eval_exact_match": statistics.fmean(exact), "ours_of_the_same_replies": statistics.fmean(judged),
            "agrees": low <= mean <= high}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lm_eval", description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=240, help="held-out questions")
    parser.add_argument("--runs", type=int, default=3, help="runs of the harness")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory(prefix="raythink-bench-") as folder:
        cfg = load(["mode=serve", "model.device=cpu", f"run.dir={folder}"])
        found = asyncio.run(measure(cfg, Path(folder), options.questions, options.runs))
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}))


if __name__ == "__main__":
    main()
