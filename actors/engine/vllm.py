"""vLLM in the actor's own process: continuous batching in one thread, control calls run between two engine steps.

Running in-process (`enable_multiprocessing=False`) starts in seconds, needs no second copy of the weights and lets a
learner's tensors be loaded straight from shared memory. vLLM 0.31 on CPU and on CUDA alike.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.engine import Request, Sampling
from actors.engine.versions import Mark, spans, whose
from actors.messages import Completion


@dataclass(frozen=True)
class VllmSettings:
    """vLLM's engine arguments that matter here, in our configuration's words."""

    model_path: str
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    tensor_parallel: int = 1
    max_model_len: int = 256
    max_num_seqs: int = 256
    max_batched_tokens: int = 4096
    kv_cache_gib: float = 1.0
    gpu_memory: float = 0.85
    enforce_eager: bool = True
    prefix_caching: bool = True
    seed: int = 0
    # serving only: a method of actors.engine.speculative, and prompts in one piece (see VllmEngine)
    speculative: str = ""
    chunked_prefill: bool = True
    log_stats: bool = False


def environment(settings: VllmSettings) -> dict[str, str]:
    """Variables that must be set before vLLM is imported (an actor's runtime_env)."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(settings.threads),
    }
    if settings.device == "cpu":
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib))),
            # binding puts every engine on the same cores; unbound, the kernel spreads them
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if settings.enforce_eager:
        variables["TORCH_COMPILE_DISABLE"] = "1"
    if os.path.isdir(settings.model_path):
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


class EngineClosed(RuntimeError):
    """The engine was closed, or died, before a request finished."""


@dataclass
class _Pending:
    """A request in the engine. `every`: vLLM's outputs are put as they come, else the completions at the end."""

    start_version: int
    put: Callable[[Any], None]  # called by the engine's thread; what it is given arrives at the end of the step
    every: bool = False
    marks: dict[int, list[Mark]] = field(default_factory=dict)  # by completion: see actors.engine.versions


def _put_all(items: Sequence[tuple[asyncio.Queue, Any]]) -> None:
    for queue_, item in items:
        queue_.put_nowait(item)


def _repack_tied_head(worker: Any) -> None:
    """Pack the output layer again after a reload, where it is tied to the embedding (vLLM 0.31 on CPU).

    The head has no weight of its own to be "loaded", so the reload leaves its packed copy at the old weights; the
    only symptom is a slowly growing difference between engine and learner logprobs. A no-op elsewhere.
    """
    model = worker.model_runner.get_model()
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    embedding = next(module for name, module in model.named_modules() if name.endswith("embed_tokens"))
    for module in model.modules():
        if type(module).__name__ == "ParallelLMHead" and hasattr(module, "cpu_linear"):
            module.weight = embedding.weight
            module.quant_method.process_weights_after_loading(module)


class VllmEngine:
    """An `Engine` (see actors.engine). Build it in a thread: the constructor loads the model and warms it up."""

    def __init__(self, settings: VllmSettings):
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from actors.engine.speculative import speculative_config

        on_cpu = settings.device == "cpu"
        special = {"gpu_memory_utilization": settings.gpu_memory}
        if on_cpu:
            from actors.engine import cpu_kernels

            cpu_kernels.install()
            special = {"block_size": cpu_kernels.BLOCK, "ir_op_priority": cpu_kernels.PRIORITIES}
        arguments = EngineArgs(
            model=settings.model_path,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=max(settings.max_batched_tokens, settings.max_model_len),
            tensor_parallel_size=settings.tensor_parallel,
            enforce_eager=settings.enforce_eager,
            enable_prefix_caching=settings.prefix_caching,
            logprobs_mode="processed_logprobs",  # of the distribution that was sampled from
            disable_log_stats=not settings.log_stats,
            enable_chunked_prefill=settings.chunked_prefill,
            speculative_config=speculative_config(settings.speculative),
            seed=settings.seed,
            **special,
        )
        self.settings = settings
        self.engine = LLMEngine.from_engine_args(arguments, enable_multiprocessing=False)
        self.tokenizer = AutoTokenizer.from_pretrained(settings.model_path)
        self._eos = self.tokenizer.eos_token or ""
        self.version = 0
        self.generated_tokens = self._steps = 0
        self._commands: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._pending: dict[str, _Pending] = {}
        self._failure: BaseException | None = None
        self._call_number = 0
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue, Any]]] = {}
        self._thread = threading.Thread(target=self._loop, name="vllm-engine", daemon=True)
        self._thread.start()

    async def generate(
        self, requests: Sequence[Request], sampling: Sampling, seed: int | None = None
    ) -> AsyncIterator[tuple[str, tuple[Completion, ...]]]:
        loop, results = asyncio.get_running_loop(), asyncio.Queue()
        self._call_number += 1
        prefix = f"{self._call_number}/"

        def put(item: Any) -> None:
            self._outbox.setdefault(loop, []).append((results, item))

        def add() -> None:
            if seed is not None:
                # vLLM's seeds per request cost a Python loop a step, and fail on CPU when a prefill is chunked
                self._seed(seed)
                if not self._pending:  # what an earlier call left in it would change the last bits of this one
                    self.engine.reset_prefix_cache()
            for request in requests:
                self._pending[prefix + request.id] = _Pending(self.version, put)
                parameters = self._parameters(request, sampling)
                prompt = {"prompt_token_ids": request.prompt_ids.tolist()}
                try:
                    self.engine.add_request(prefix + request.id, prompt, parameters)
                except ValueError as error:  # a prompt that does not fit: this request's fault, not the engine's
                    del self._pending[prefix + request.id]
                    put(error)

        self._submit(add)
        waiting = {prefix + r.id for r in requests}
        try:
            while waiting:
                item = await results.get()
                if isinstance(item, BaseException):
                    raise item
                request_id, completions = item
                waiting.discard(request_id)
                yield request_id.removeprefix(prefix), completions
        finally:
            if waiting and self._failure is None:
                self._submit(lambda: self._abort(waiting))

    async def outputs(self, prompt_ids: Sequence[int], parameters: Any) -> AsyncIterator[Any]:
        """vLLM's RequestOutputs of one prompt as they come, by vLLM's own SamplingParams.

        Closing the iterator aborts the request. Raises ValueError for what vLLM refuses, EngineClosed.
        """
        loop, results = asyncio.get_running_loop(), asyncio.Queue()
        self._call_number += 1
        request_id, finished = f"{self._call_number}/", False

        def put(item: Any) -> None:
            self._outbox.setdefault(loop, []).append((results, item))

        def add() -> None:
            self._pending[request_id] = _Pending(self.version, put, every=True)
            try:
                self.engine.add_request(request_id, {"prompt_token_ids": list(prompt_ids)}, parameters)
            except ValueError as error:
                del self._pending[request_id]
                put(error)

        self._submit(add)
        try:
            while not finished:
                item = await results.get()
                if isinstance(item, BaseException):
                    finished = True
                    raise item
                finished = item.finished
                yield item
        finally:
            if not finished and self._failure is None:
                self._submit(lambda: self._abort({request_id}))

    async def load(self, weights: Mapping[str, Any], version: int) -> float:
        """What runs meanwhile keeps its tokens and goes on with the new weights, its KV computed again."""
        return await self.control(lambda: self._load(weights, version))

    async def control(self, function: Callable[[], Any]) -> Any:
        """Run `function` in the engine's thread between two steps and return its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(method: Callable[[Any], None], value: Any) -> None:
            loop.call_soon_threadsafe(lambda: None if future.done() else method(value))

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                settle(future.set_exception, error)
            else:
                settle(future.set_result, result)

        self._submit(run)
        return await future

    @property
    def failure(self) -> BaseException | None:
        """Why the engine's thread ended, None while it lives."""
        return self._failure

    def stats(self) -> dict[str, Any]:
        """`running` counts requests, `sequences` completions that (run, wait); `steps` those of the engine so far."""
        scheduler = self.engine.engine_core.engine_core.scheduler
        return {
            "running": len(self._pending),
            "sequences": scheduler.get_request_counts(),
            "steps": self._steps,
            "generated_tokens": self.generated_tokens,
            "version": self.version,
        }

    def close(self) -> None:
        if self._thread.is_alive():
            self._commands.put(None)
            self._thread.join(timeout=30)

    def _submit(self, command: Callable[[], None]) -> None:
        if self._failure is not None:
            raise EngineClosed(f"the vLLM engine is not running: {self._failure!r}")
        self._commands.put(command)

    def _loop(self) -> None:
        """Commands first, then one engine step; block only when there is nothing to generate."""
        try:
            while True:
                while not self._commands.empty() or not self.engine.has_unfinished_requests():
                    command = self._commands.get()
                    if command is None:
                        raise EngineClosed("the engine was closed")
                    command()
                    self._send()
                for output in self.engine.step():
                    self._deliver(output)
                self._send()
                self._steps += 1
        except BaseException as error:  # the thread is the engine: whoever waits must learn why it ended
            self._failure = error
            closed = EngineClosed(f"the vLLM engine stopped: {error!r}")
            for pending in self._pending.values():
                pending.put(closed)
            self._pending.clear()
            self._send()
            while not self._commands.empty():  # commands that came meanwhile would wait for ever
                command = self._commands.get_nowait()
                if command is not None:
                    command()
            self._send()

    def _send(self) -> None:
        """All that a step brought to whom it is for: waking a loop costs as much as a tenth of a small model's step."""
        outbox, self._outbox = self._outbox, {}
        for loop, items in outbox.items():
            loop.call_soon_threadsafe(_put_all, items)

    def _deliver(self, output: Any) -> None:
        pending = self._pending.get(output.request_id)
        if output.finished:
            self._pending.pop(output.request_id, None)
        if pending is None:  # aborted meanwhile
            return
        if pending.every:
            self.generated_tokens += sum(len(c.token_ids) for c in output.outputs)
            pending.put(output)
        elif output.finished:
            self._finish(output, pending)

    def _finish(self, output: Any, pending: _Pending) -> None:
        texts = self.tokenizer.batch_decode([list(c.token_ids) for c in output.outputs], skip_special_tokens=False)
        completions = []
        for choice, text in zip(output.outputs, texts, strict=True):
            logprobs = np.asarray(choice.logprobs.logprobs, np.float32)  # flat: of the sampled tokens and no others
            self.generated_tokens += len(choice.token_ids)
            parts = spans(pending.start_version, pending.marks.get(choice.index, ()), len(choice.token_ids))
            completions.append(
                Completion(
                    text=text.removesuffix(self._eos),
                    token_ids=np.asarray(choice.token_ids, np.int32),
                    logprobs=logprobs,
                    finish_reason="length" if choice.finish_reason == "length" else "stop",
                    start_version=pending.start_version,
                    end_version=parts[-1][0] if parts else pending.start_version,
                    versions=parts if len(parts) > 1 else (),
                )
            )
        pending.put((output.request_id, tuple(completions)))

    def _parameters(self, request: Request, sampling: Sampling):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=request.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=min(sampling.max_tokens, request.max_tokens or sampling.max_tokens),
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
            logprobs=0,
            flat_logprobs=True,
            stop=list(sampling.stop),
            include_stop_str_in_output=bool(sampling.stop),
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _seed(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)

    def _abort(self, request_ids: set[str]) -> None:
        alive = [r for r in request_ids if self._pending.pop(r, None) is not None]
        if alive:
            self.engine.abort_request(alive)

    def _load(self, weights: Mapping[str, Any], version: int) -> float:
        import torch

        started = time.perf_counter()
        # a read-only view of the object store would make torch warn; the weights are copied by the loader anyway
        tensors = (
            (name, torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value)
            for name, value in weights.items()
        )
        with torch.no_grad():
            self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
            self.engine.collective_rpc(_repack_tied_head)
        self.engine.reset_prefix_cache(reset_running_requests=True)
        self.version = version
        self._mark()
        return time.perf_counter() - started

    def _mark(self) -> None:
        """Note how far every completion has come, now that another version goes on with it."""
        for name, request in self.engine.engine_core.engine_core.scheduler.requests.items():
            request_id, number = whose(name) or ("", 0)
            if request_id in self._pending:
                tokens = request.num_output_tokens + request.num_output_placeholders  # those of a step on its way
                self._pending[request_id].marks.setdefault(number, []).append((tokens, self.version))
