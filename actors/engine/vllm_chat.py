"""A vLLM in this process as a ChatEngine: text in, text out as it comes, and weights that follow a training run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from actors.engine.chat import BadRequest, ChatRequest, Chunk, EngineError, EngineGone, TokenLogprob, Usage
from actors.engine.speculative import acceptance
from actors.engine.vllm import EngineClosed, VllmEngine, VllmSettings

SPECULATION = "vllm:spec_decode_"


async def within(items: AsyncIterator[Any], seconds: float, name: str) -> AsyncIterator[Any]:
    """The items, closed at the end. Raises TimeoutError where they are not all there after `seconds`.

    The time-out is around one step at a time: around the whole iteration, it would strike in the consumer's code.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise TimeoutError(f"{name} did not end its reply within {seconds:g} s") from None
            yield item


class VllmChat:
    """A ChatEngine (see actors.engine.chat). Build it in a thread: the constructor loads the model.

    `version` is what its chunks are stamped with until `load_folder` replaces the weights.
    """

    def __init__(self, name: str, settings: VllmSettings, version: int = 0):
        self.name, self.settings = name, settings
        self.engine = VllmEngine(settings)
        self.engine.version = version

    async def warm_up(self) -> None:
        """Answer one request: the first pays for lazy initialisation."""
        async for _ in self.stream(ChatRequest(({"role": "user", "content": "1+1?"},), max_tokens=4)):
            pass

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        prompt_ids = self._encode(request)
        parameters = self._parameters(request, self.settings.max_model_len - len(prompt_ids))
        generated, version = 0, self.engine.version
        try:
            async for output in within(self.engine.outputs(prompt_ids, parameters), request.timeout_s, self.name):
                choice = output.outputs[0]
                text = choice.text if parameters.detokenize else self._decode(choice.token_ids)
                generated += len(choice.token_ids)
                usage = Usage(len(prompt_ids), generated) if output.finished else None
                reason = ("length" if choice.finish_reason == "length" else "stop") if output.finished else None
                if text or choice.token_ids or reason:
                    logprobs = self._logprobs(choice, request.top_logprobs)
                    yield Chunk(text, len(choice.token_ids), logprobs, reason, usage, version)
        except EngineClosed as error:
            raise EngineGone(str(error)) from error
        except ValueError as error:
            raise BadRequest(str(error)) from error

    async def health(self) -> None:
        if self.engine.failure is not None:
            raise EngineGone(f"vLLM stopped: {self.engine.failure!r}")

    async def close(self) -> None:
        await asyncio.to_thread(self.engine.close)

    async def load_folder(self, folder: Path, version: int) -> float:
        """Replace the weights by those of a checkpoint (safetensors) between two steps; requests go on. Seconds."""
        from safetensors.torch import load_file

        weights: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            weights |= await asyncio.to_thread(load_file, path)
        if not weights:
            raise EngineError(f"{folder.name} holds no safetensors")
        return await self.engine.load(weights, version)

    async def stats(self) -> dict[str, float]:
        """Counters for /metrics: requests running, tokens generated, policy version, acceptance of drafts."""
        counters = await self.engine.control(self._speculation) if self.settings.log_stats else {}
        drafts = acceptance(counters) if self.settings.speculative else {}
        stats = self.engine.stats()
        running, waiting = stats.pop("sequences")
        return {**stats, "sequences_running": running, "sequences_waiting": waiting, **drafts}

    def _speculation(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for metric in self.engine.engine.get_metrics():
            if metric.name.startswith(SPECULATION) and isinstance(getattr(metric, "value", None), (int, float)):
                found[metric.name.removeprefix(SPECULATION)] = metric.value
        return found

    def _encode(self, request: ChatRequest) -> list[int]:
        tokenizer = self.engine.tokenizer
        if request.prompt is not None:
            text = request.prompt
        else:
            try:
                messages = [dict(m) for m in request.messages]
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # a template raises whatever it likes at a conversation that it does not take
                raise BadRequest(f"the chat template refuses these messages: {error}") from error
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise BadRequest("the prompt is empty")
        if len(ids) >= self.settings.max_model_len:
            raise BadRequest(
                f"the prompt has {len(ids)} tokens, which leaves no room in a context of "
                f"{self.settings.max_model_len}: shorten it, or start with a larger engine.max_model_len"
            )
        return ids

    def _parameters(self, request: ChatRequest, room: int):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        structured = None
        match (request.response_format or {}).get("type", "text"):
            case "json_object":
                structured = StructuredOutputsParams(json_object=True)
            case "json_schema":
                structured = StructuredOutputsParams(json=dict(request.response_format["json_schema"]["schema"]))
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=min(request.max_tokens, room),
            stop=list(request.stop),
            seed=request.seed,
            logprobs=request.top_logprobs,
            structured_outputs=structured,
            # once at its end, unless it stops at a text or shows its tokens
            detokenize=not request.whole or bool(request.stop) or request.top_logprobs is not None,
            # each piece costs the engine's process as much as a token of a small model
            output_kind=RequestOutputKind.FINAL_ONLY if request.whole else RequestOutputKind.DELTA,
        )

    def _decode(self, token_ids: Sequence[int]) -> str:
        """The text of a whole reply, as vLLM's own detokenizer writes it."""
        return self.engine.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @staticmethod
    def _logprobs(choice: Any, top: int | None) -> tuple[TokenLogprob, ...]:
        """Of the sampled tokens; vLLM adds the sampled one to the `top` likeliest where it is not among them."""
        if not choice.logprobs or top is None:
            return ()
        found = []
        for token_id, options in zip(choice.token_ids, choice.logprobs):
            best = tuple((p.decoded_token or "", p.logprob) for p in options.values() if p.rank <= top)
            found.append(TokenLogprob(options[token_id].decoded_token or "", options[token_id].logprob, best))
        return tuple(found)
