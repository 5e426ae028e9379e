"""Other servers in front of the same model: vLLM's own, and optillm's proxy before that."""

from __future__ import annotations

import sys
from pathlib import Path

from actors.engine.vllm import VllmSettings, environment
from benchmarks.servers import Server
from conf.checks import free_port

MODEL = "starter"  # the name that vLLM serves it under


def vllm_serve(settings: VllmSettings, max_model_len: int) -> Server:
    """`vllm serve` with the settings of our own engine; its engine has a process of its own, as is its default."""
    from actors.engine.cpu_kernels import BLOCK  # here: the bare engine's process must not load torch before its time

    port = free_port()
    variables = environment(settings)
    del variables["VLLM_ENABLE_V1_MULTIPROCESSING"]
    variables["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    command = [
        # what `vllm serve` runs: the command itself asks for a package named vllm, and the CPU build has another name
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", settings.model_path,
        "--served-model-name", MODEL,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", settings.dtype, "--seed", str(settings.seed),
        "--max-model-len", str(max_model_len), "--max-num-seqs", str(settings.max_num_seqs),
        "--max-num-batched-tokens", str(settings.max_batched_tokens), "--block-size", str(BLOCK),
        "--uvicorn-log-level", "warning", *(["--enforce-eager"] if settings.enforce_eager else []),
    ]  # fmt: skip
    return Server("vllm serve", command, port, variables)


def optillm_bon(python: Path, upstream: str, n: int) -> Server:
    """optillm's best of n: n samples in one request, then a rating of each by the model, one after the other."""
    port = free_port()
    command = [
        str(python.parent / "optillm"), "--approach", "bon", "--best-of-n", str(n), "--base-url", f"{upstream}/v1",
        "--model", MODEL, "--host", "127.0.0.1", "--port", str(port), "--log", "error",
    ]  # fmt: skip
    # with one of the first two variables it would talk to another provider
    variables = {"CEREBRAS_API_KEY": "", "OPTILLM_API_KEY": "", "OPENAI_API_KEY": "none"}
    return Server("optillm", command, port, variables)
