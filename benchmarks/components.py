"""The bare components of a training step, each alone in a process: what a loop around them costs is measured by.

    python -m benchmarks.components vllm SPEC.json       vLLM's own `LLM.generate` on the step's prompts
    python -m benchmarks.components learner SPEC.pickle RANK  one rank of verl's engine on the step's batch

Prints one JSON line: {"seconds": [...], "tokens": [...]} of the timed repetitions, after one that is not counted.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from functools import partial


def bare_vllm(spec: dict) -> dict[str, list[float]]:
    from actors.engine.vllm import VllmSettings, environment

    settings = VllmSettings(**spec["settings"])
    os.environ.update(environment(settings))
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=settings.model_path,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        seed=0,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_batched_tokens,
        enforce_eager=settings.enforce_eager,
        block_size=32,
        logprobs_mode="processed_logprobs",
    )
    parameters = SamplingParams(
        n=spec["n"],
        temperature=1.0,
        max_tokens=spec["max_tokens"],
        ignore_eos=spec["ignore_eos"],
        logprobs=0,
        detokenize=False,
    )
    seconds, tokens = [], []
    for prompts in spec["waves"]:
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False)
        seconds.append(time.perf_counter() - started)
        tokens.append(sum(len(c.token_ids) for o in outputs for c in o.outputs))
    return {"seconds": seconds[1:], "tokens": tokens[1:]}


def bare_learner(spec: dict, rank: int) -> dict[str, list[float]]:
    import torch
    import torch.distributed as dist

    from actors.verl_engine import EngineSettings, VerlEngine, prepare_environment
    from rl.objective import ObjectiveSettings, policy_loss

    torch.set_num_threads(spec["threads"])
    prepare_environment("cpu")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": spec["port"], "RANK": rank, "WORLD_SIZE": spec["world_size"]}
    os.environ.update({name: str(value) for name, value in place.items()})
    dist.init_process_group("gloo")
    engine = VerlEngine(EngineSettings(**spec["settings"]))
    seconds, tokens = [], []
    for batch, counts in spec["batches"]:
        started = time.perf_counter()
        engine.train(batch, partial(policy_loss, ObjectiveSettings()), counts)
        seconds.append(time.perf_counter() - started)
        tokens.append(counts["tokens"])
    dist.destroy_process_group()
    return {"seconds": seconds[1:], "tokens": tokens[1:]}


if __name__ == "__main__":
    kind, path, rank = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["0"])[0])
    with open(path, "rb") as f:
        result = bare_vllm(json.load(f)) if kind == "vllm" else bare_learner(pickle.load(f), rank)
    print(json.dumps(result))
