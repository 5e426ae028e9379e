"""From a request's body to the work that it stands for: what to ask the backend, and how to tell what comes back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from actors.engine.chat import ChatRequest
from actors.planner import Effort
from actors.prompts import as_data
from deployments.backend import AnswerRequest, Backend, ModelCard
from deployments.effort import ScaffoldSettings
from deployments.schemas import ChatCompletionRequest, CompletionRequest, InvalidRequest
from deployments.streaming import ChatChunks, Envelope, Json, SampleChunks

T = TypeVar("T")

EFFORTS: Mapping[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
ROLES = {"developer": "system"}  # OpenAI's newer name; chat templates know the older one


@dataclass(frozen=True)
class ReplySettings:
    """Bounds of one reply. Tokens are those of one candidate or choice; `timeout_s` is for the whole reply."""

    default_max_tokens: int = 1024
    max_tokens: int = 32768
    max_choices: int = 16
    max_candidates: int = 16
    max_messages: int = 256
    default_effort: Effort = "medium"
    timeout_s: float = 300.0
    prune: bool = True


class Encoder(Protocol):
    """ChatChunks or SampleChunks, as far as a job needs to know."""

    usage: Any

    def start(self) -> Iterator[Json]: ...
    def end(self, include_usage: bool) -> Iterator[Json]: ...


@dataclass(frozen=True)
class Job:
    """A reply to make. `weight`: how many texts are generated for it. `pieces` starts the work, and tells of it."""

    weight: int
    stream: bool
    include_usage: bool
    encoder: Encoder
    pieces: Callable[[], AsyncIterator[Iterator[Json]]]

    async def batches(self) -> AsyncIterator[list[Json]]:
        """The reply's chunks, those together that come together; the first come with the backend's first sign."""
        batch = list(self.encoder.start())
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                batch += piece
                if batch:
                    yield batch
                    batch = []
        yield batch + list(self.encoder.end(self.include_usage))


def chat_job(body: ChatCompletionRequest, card: ModelCard, backend: Backend, limits: ReplySettings) -> Job:
    """The job of POST /v1/chat/completions. Raises InvalidRequest for what this server does not allow."""
    _check(body, limits)
    if len(body.messages) > limits.max_messages:
        raise InvalidRequest(f"at most {limits.max_messages} messages are allowed", "messages", "too_many_messages")
    messages = tuple({"role": ROLES.get(m.role, m.role), "content": as_data(m.content)} for m in body.messages)
    envelope = Envelope(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), card.id)
    if body.sampled:
        requests = [_request(body, limits, number, messages=messages) for number in range(body.n or 1)]
        return _sample_job(body, envelope, requests, card, backend)
    settings = scaffold_settings(body, limits)
    options = body.raythink
    plan = settings.level.plan if settings.plan is None else settings.plan
    told = {"effort": settings.effort, "n": settings.candidates, "plan": plan}
    explain = told if options is not None and options.explain else None
    encoder = ChatChunks(
        envelope,
        streamed=bool(body.stream),
        live=settings.candidates == 1,
        thinking=card.thinking,
        explain=explain,
        logprobs=bool(body.logprobs),
    )
    request = AnswerRequest(card.id, messages, settings)

    async def pieces() -> AsyncIterator[Iterator[Json]]:
        async with aclosing(backend.answer(request)) as events:
            async for event in events:
                yield encoder.feed(event)

    return Job(settings.candidates, bool(body.stream), body.include_usage or not body.stream, encoder, pieces)


def scaffold_settings(body: ChatCompletionRequest, limits: ReplySettings) -> ScaffoldSettings:
    """How to answer, by the request's reasoning_effort and its raythink options. Raises InvalidRequest."""
    options = body.raythink
    if options and (options.n or 1) > limits.max_candidates:
        raise InvalidRequest(f"at most {limits.max_candidates} candidates are allowed", "raythink.n", "invalid_value")
    return ScaffoldSettings(
        effort=EFFORTS[body.reasoning_effort or limits.default_effort],
        n=options.n if options else None,
        plan=options.plan if options else None,
        deadline_s=limits.timeout_s,
        max_tokens=_max_tokens(body.limit, limits),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=tuple(body.stop),
        top_logprobs=body.top_logprobs or 0 if body.logprobs else None,
        response_format=_format(body),
        live=bool(body.stream),
        prune=limits.prune if options is None or options.prune is None else options.prune,
    )


def completion_job(body: CompletionRequest, card: ModelCard, backend: Backend, limits: ReplySettings) -> Job:
    """The job of POST /v1/completions. Raises InvalidRequest for what this server does not allow."""
    _check(body, limits, len(body.prompt))
    envelope = Envelope(f"cmpl-{uuid.uuid4().hex}", int(time.time()), card.id, "text_completion")
    requests = [
        _request(body, limits, number, prompt=prompt) for prompt in body.prompt for number in range(body.n or 1)
    ]
    return _sample_job(body, envelope, requests, card, backend)


def _sample_job(
    body: ChatCompletionRequest | CompletionRequest,
    envelope: Envelope,
    requests: Sequence[ChatRequest],
    card: ModelCard,
    backend: Backend,
) -> Job:
    encoder = SampleChunks(envelope, len(requests), card.thinking)

    async def pieces() -> AsyncIterator[Iterator[Json]]:
        streams = [backend.complete(card.id, request) for request in requests]
        async with aclosing(side_by_side(streams)) as chunks:
            async for index, chunk in chunks:
                yield encoder.feed(index, chunk)

    return Job(len(requests), bool(body.stream), body.include_usage or not body.stream, encoder, pieces)


async def side_by_side(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[tuple[int, T]]:
    """The items of several iterators as they come, each with its iterator's place. One that fails ends them all."""
    items: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()

    async def read(place: int, stream: AsyncIterator[T]) -> None:
        async with aclosing(stream):
            async for item in stream:
                items.put_nowait((place, item))

    async def read_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for place, stream in enumerate(streams):
                    group.create_task(read(place, stream))
        finally:
            items.put_nowait(None)

    reading = asyncio.create_task(read_all())
    try:
        while (item := await items.get()) is not None:
            yield item
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _check(body: ChatCompletionRequest | CompletionRequest, limits: ReplySettings, prompts: int = 1) -> None:
    if (body.n or 1) * prompts > limits.max_choices:
        name = "n" if prompts == 1 else "prompt"
        raise InvalidRequest(f"at most {limits.max_choices} choices in all are allowed", name, "invalid_value")


def _max_tokens(wanted: int | None, limits: ReplySettings) -> int:
    if wanted is not None and wanted > limits.max_tokens:
        message = f"at most {limits.max_tokens} tokens can be asked for, not {wanted if wanted < 10**12 else 'as many'}"
        raise InvalidRequest(message, "max_tokens", "invalid_value")
    return wanted or min(limits.default_max_tokens, limits.max_tokens)


def _format(body: ChatCompletionRequest) -> Mapping[str, Any] | None:
    given = body.response_format
    return None if given is None or given.type == "text" else given.model_dump(by_alias=True, exclude_none=True)


def _request(
    body: ChatCompletionRequest | CompletionRequest,
    limits: ReplySettings,
    number: int,
    *,
    messages: tuple[Mapping[str, Any], ...] = (),
    prompt: str | None = None,
) -> ChatRequest:
    """The request for choice `number`, which samples with `seed` + number."""
    if isinstance(body, ChatCompletionRequest):
        wanted, logprobs, response_format = body.limit, body.top_logprobs or 0 if body.logprobs else None, _format(body)
    else:
        wanted, logprobs, response_format = body.max_tokens, body.logprobs, None
    return ChatRequest(
        messages=messages,
        prompt=prompt,
        max_tokens=_max_tokens(wanted, limits),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(body.stop),
        seed=None if body.seed is None else body.seed + number,
        top_logprobs=logprobs,
        response_format=response_format,
        timeout_s=limits.timeout_s,
        live=bool(body.stream),
    )
