"""python -m benchmarks.speculative [--prompts N] [--warm N] [--rounds N]: speculative decoding, one request at a time.

Greedy replies of the embedded policy to held-out questions: without speculation, with `engine.speculative=ngram`, with
`suffix` (drafts from the replies before, of other questions; needs `make suffix`), and with `draft:MODEL` where the
policy drafts for itself (every draft is right: what the mechanism costs, and its bound). Each way has an engine of its
own in a process of its own, one at a time, and they take turns round by round. Every engine first answers `--warm`
questions of the training split, as one that serves has answered some; held-out ones are asked once. A ratio is of
median tokens a second; the acceptance length is tokens a pass of the model. `identical` says whether all token ids of
all replies are the same. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.engine.vllm import VllmSettings
from benchmarks.bare import BareEngine
from benchmarks.questions import template
from conf.load import load
from deployments.graph import make_plan
from rl.source import Source, heldout

PLAIN = "none"


@dataclass
class Measured:
    """Of one way: tokens a second and tokens a pass, round by round, and the replies' token ids."""

    rates: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    replies: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def length(self) -> float:
        return statistics.median(self.lengths)


async def greedy(chat: Any, prompts: Sequence[str], warm: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """In the engine's process: token ids of the likeliest reply to each prompt, seconds for all, passes' lengths.

    The `warm` prompts are answered before, uncounted."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # in pieces, as the service asks for them
    parameters = SamplingParams(temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.DELTA)
    encoded = [chat.engine.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]

    async def reply(prompt: list[int]) -> tuple[int, ...]:
        ids: list[int] = []
        async for output in chat.engine.outputs(prompt, parameters):
            ids += output.outputs[0].token_ids
        return tuple(ids)

    for prompt in warm:  # at least one: the first drafts compile
        await reply(chat.engine.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    before, started = chat.engine.stats()["steps"], time.perf_counter()
    replies = [await reply(prompt) for prompt in encoded]
    seconds = time.perf_counter() - started
    passes = chat.engine.stats()["steps"] - before
    return {"replies": replies, "seconds": seconds, "length": sum(map(len, replies)) / passes}


def one_round(settings: VllmSettings, found: Measured, **asked: Any) -> None:
    with BareEngine(settings) as engine:
        made = asyncio.run(engine.ask(greedy, **asked))
    found.rates.append(sum(map(len, made["replies"])) / made["seconds"])
    found.lengths.append(made["length"])
    found.replies += made["replies"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculative", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--warm", type=int, default=1000, help="questions that each engine has answered before")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:  # no run of this machine, whose policy would be served instead
        cfg = load(["mode=serve", "model.device=cpu", f"run.dir={empty}"])
        base = make_plan(cfg, cuda=False).engines["solver"].vllm
    prompt_of = template(base.model_path)
    prompts = [prompt_of(problem.question) for problem in heldout(cfg, options.prompts, cfg.eval.seed)]
    warm = [prompt_of(problem.question) for problem in Source(cfg).take(max(options.warm, 1))]
    asked = {"prompts": prompts, "warm": warm, "max_tokens": cfg.sampling.max_tokens}
    ways = {PLAIN: "", "ngram": "ngram", "suffix": "suffix", "draft": f"draft:{base.model_path}"}
    if importlib.util.find_spec("arctic_inference") is None:
        print("suffix is left out: its package is not installed (make suffix)")
        del ways["suffix"]
    found = {name: Measured() for name in ways}
    for _ in range(options.rounds):
        for name, speculative in ways.items():
            settings = replace(base, speculative=speculative, log_stats=bool(speculative))
            one_round(settings, found[name], **asked)
            print(f"{name:6} {found[name].rates[-1]:7.1f} tokens/s, {found[name].lengths[-1]:.2f} a pass", flush=True)
    plain = found[PLAIN]
    told: dict[str, float | bool] = {}
    for name, measured in found.items():
        if name != PLAIN:
            told[f"{name}_ratio"] = round(measured.rate / plain.rate, 3)
            told[f"{name}_acceptance_length"] = round(measured.length / plain.length, 3)
    print(json.dumps({**told, "identical": all(measured.replies == plain.replies for measured in found.values())}))


if __name__ == "__main__":
    main()
