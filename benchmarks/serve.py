"""python -m benchmarks.serve [--questions N] [--seeds N] [--skip-peers] [key=value ...]: the service beside its peers.

`main.py mode=serve` with the embedded policy on two cores, asked over HTTP; questions are held-out ones, answers are
judged by our verifier. (a) One question at a time: plan and best of three beside the bare engine's planner call and
slowest candidate that the vote needs; one sample over HTTP beside the bare engine's; the K2-Think flow as a client of
the same service. (b) Right answers and tokens of one sample, best of three with and without its early stop, and the
K2-Think flow. (c) Tokens a second under load beside `vllm serve` with the same settings, one server at a time. (d)
optillm's best of n in front of `vllm serve`: its ratings are plain requests, which our service would plan and vote on;
with a context of 640, because they do not fit into ours. Ratios are of medians; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from actors.engine.vllm import VllmSettings
from actors.messages import Problem
from benchmarks import latency, quality
from benchmarks.bare import BareEngine
from benchmarks.client import Client, Reply, load
from benchmarks.peers.endpoints import MODEL, optillm_bon, vllm_serve
from benchmarks.peers.environment import OPTILLM
from benchmarks.peers.k2think import K2Think
from benchmarks.questions import Judge, N, Service, accuracy, template
from benchmarks.servers import ROOT, Server, service
from conf.errors import UserError
from conf.load import load as configuration
from conf.schema import Config
from deployments.graph import make_plan
from rl.source import heldout

CLIENTS, SLICES, SLICE_S = 32, 6, 5.0
RATING_CONTEXT = 640  # of vllm serve where optillm rates with it: somewhat more than the policy was made for
ROUNDED = 3

Result = dict[str, float | None]


class Bench:
    """What all measurements share."""

    def __init__(self, cfg: Config, problems: Sequence[Problem], seeds: int):
        self.cfg, self.problems, self.seeds = cfg, problems, seeds
        self.settings: VllmSettings = make_plan(cfg, cuda=False).engines["solver"].vllm
        self.max_tokens = cfg.sampling.max_tokens
        self.prompt_of = template(self.settings.model_path)

    def question(self, number: int) -> str:
        return self.problems[number % len(self.problems)].question


async def alone(bench: Bench, server: Server, judge: Judge) -> tuple[Result, float]:
    """(a) and (b); also the median seconds of best of three."""
    async with Client(server.url, server.keys) as client:
        asked = Service(client, bench.prompt_of, bench.max_tokens)
        flow = K2Think(client, bench.prompt_of, bench.max_tokens)
        with BareEngine(bench.settings) as bare:
            found = await latency.measure(bench.problems, asked, bare, flow, judge.verifier)
        made = await quality.measure(bench.problems, bench.seeds, asked, flow, judge)
    m = found.medians()
    print("seconds a question: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in m.items()))
    print(f"the same tokens over HTTP as from the bare engine: {len(found.overhead)} of {len(found.single)} questions")
    tallies = {name: getattr(made, name) for name in ("single", "best_of", "whole", "k2think")}
    print("right: " + ", ".join(f"{name} {100 * tally.accuracy:.1f} %" for name, tally in tallies.items()))
    points = {name: quality.gain(made.best_of, tallies[name]) for name in ("single", "whole", "k2think")}
    for name, (gained, error) in points.items():
        print(f"best of three over {name}: {gained:+.1f} points, standard error {error:.1f}")
    return {
        "best_of_3_over_bound": m["ours"] / m["bound"],
        "http_overhead_ms": 1e3 * m["overhead"] if "overhead" in m else None,
        "k2think_flow_latency_ratio": m["k2think"] / m["ours"],
        "k2think_flow_token_ratio": made.k2think.tokens / made.best_of.tokens,
        "k2think_flow_points": points["k2think"][0],
        "best_of_3_points": points["single"][0],
        "early_stop_token_share": made.solver_tokens / made.full_tokens,
        "early_stop_points": points["whole"][0],
    }, m["ours"]


async def under_load(bench: Bench, server: Server, **options: Any) -> float:
    """Median tokens a second while CLIENTS clients ask for one sample after the other."""
    model = None if server.keys else MODEL
    async with Client(server.url, server.keys, model) as client:

        async def ask(number: int) -> Reply:
            return await client.chat(bench.question(number), max_tokens=bench.max_tokens, temperature=1.0, **options)

        rates = await load(ask, CLIENTS, SLICES, SLICE_S)
    print(f"{server.name}, {CLIENTS} clients: " + ", ".join(f"{rate:.0f}" for rate in rates) + " tokens/s", flush=True)
    return statistics.median(rates)


async def optillm(bench: Bench, server: Server, judge: Judge) -> float:
    """Median seconds of a question, after one that is not counted."""
    texts, seconds = [], []
    async with Client(server.url, model=MODEL) as client:
        await client.chat(bench.question(0), max_tokens=bench.max_tokens)
        for problem in bench.problems:
            reply = await client.chat(problem.question, max_tokens=bench.max_tokens)
            texts.append(reply.texts[0])
            seconds.append(reply.seconds)
    right = accuracy(await judge.scores(bench.problems, texts))
    print(f"optillm's best of {N}: {statistics.median(seconds):.3f} s, {100 * right:.1f} % right")
    return statistics.median(seconds)


async def peers(bench: Bench, ours_s: float, ours_rate: float, judge: Judge) -> Result:
    """(c) and (d), the peers' side. A peer that cannot be had gives None, and says why."""
    with vllm_serve(bench.settings, bench.settings.max_model_len) as server:
        rate = await under_load(bench, server)
    found: Result = {"vllm_serve_throughput_ratio": ours_rate / rate, "optillm_latency_ratio": None}
    try:
        python = OPTILLM.ensure(ROOT)
        with vllm_serve(bench.settings, RATING_CONTEXT) as below, optillm_bon(python, below.url, N) as proxy:
            found["optillm_latency_ratio"] = await optillm(bench, proxy, judge) / ours_s
    except (UserError, RuntimeError) as error:
        print(f"optillm is left out: {error}")
    return found


async def measure(cfg: Config, problems: Sequence[Problem], seeds: int, skip_peers: bool, words: list[str]) -> Result:
    bench, judge = Bench(cfg, problems, seeds), Judge(cfg)
    try:
        with service(words) as server:
            result, ours_s = await alone(bench, server, judge)
            ours_rate = await under_load(bench, server, reasoning_effort="low")
        missing: Result = {"vllm_serve_throughput_ratio": None, "optillm_latency_ratio": None}
        return result | (missing if skip_peers else await peers(bench, ours_s, ours_rate, judge))
    finally:
        await judge.verifier.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=96, help="held-out questions")
    parser.add_argument("--seeds", type=int, default=3, help="samples of each question where right answers are counted")
    parser.add_argument("--skip-peers", action="store_true", help="no vllm serve, no optillm")
    parser.add_argument("keys", nargs="*", help="of the service's configuration, as serve.prune=false")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory(prefix="raythink-bench-") as empty:
        words = ["mode=serve", "model.device=cpu", f"run.dir={empty}", *options.keys]
        cfg = configuration(words)
        problems = heldout(cfg, options.questions, cfg.eval.seed)
        result = asyncio.run(measure(cfg, problems, options.seeds, options.skip_peers, words))
    print(json.dumps({name: None if value is None else round(value, ROUNDED) for name, value in result.items()}))


if __name__ == "__main__":
    main()
