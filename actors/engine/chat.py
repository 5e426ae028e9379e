"""What an engine that serves conversations offers: text in, a stream of text out, whoever computes it.

`Engine` (this package's `__init__`) is for rollouts: token ids, exact logprobs, weights replaced in place. A
`ChatEngine` is what planner, solver and judge talk to: our own vLLM, Cerebras, or any OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class EngineError(Exception):
    """The engine failed, not the request: the caller may try again, on this engine or another."""


class EngineBusy(EngineError):
    """The engine takes no more at the moment. `retry_after_s` is what it asked for, None if it did not say."""

    def __init__(self, message: str, retry_after_s: float | None = None):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineGone(EngineError):
    """The process that computes has ended, or will: another one, or the same started anew, may answer."""


class BadRequest(ValueError):
    """The request itself cannot be served (a prompt that does not fit, a parameter that is not supported)."""


@dataclass(frozen=True)
class ChatRequest:
    """One reply wanted. `messages` are chat messages ({"role", "content"}); `timeout_s` bounds the whole reply.

    `response_format` is OpenAI's ({"type": "json_object"} or {"type": "json_schema", "json_schema": {...}}).
    `top_logprobs` None: no logprobs; 0: of the sampled tokens only. `prompt`, if set, is sent as it is in place of
    `messages`, without a chat template (`/v1/completions`). `live` False: nobody reads along, pieces may be larger;
    `whole`: one piece, at the end, is enough.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int | None = None
    response_format: Mapping[str, Any] | None = None
    timeout_s: float = 600.0
    live: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Usage:
    """Tokens of one or several requests. Adds up with `+`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """A sampled token as text, its natural-log probability, and the likeliest alternatives (text, logprob)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of a reply. `tokens` counts the tokens in `text` (an engine that does not say counts one a chunk).

    The last chunk has a `finish_reason` and the `usage`; `version` is the policy version that answers (-1: unknown).
    `timing` holds what the provider tells of itself, in seconds (Cerebras: queue_time, prompt_time, completion_time,
    total_time).
    """

    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    version: int = -1
    timing: Mapping[str, float] = field(default_factory=dict)


class ChatEngine(Protocol):
    """`name` is the model's name as clients see it."""

    name: str

    def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """The reply, piece by piece. Closing the iterator (or cancelling its task) stops the work upstream.

        A reply that ends without a chunk that has a `finish_reason` did not end well: implementations raise
        EngineError instead. Raises BadRequest, EngineBusy, EngineError; TimeoutError after `timeout_s`.
        """

    async def health(self) -> None:
        """Return if the engine can answer; raises EngineError, with the reason, if not."""

    async def close(self) -> None:
        """Stop what the engine started (connections, threads)."""


@dataclass(frozen=True)
class Reply:
    """A whole reply: the chunks of a stream, joined."""

    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    version: int = -1
    timing: Mapping[str, float] = field(default_factory=dict)


async def complete(engine: ChatEngine, request: ChatRequest) -> Reply:
    """The whole reply of `engine`. Raises as `ChatEngine.stream` does."""
    text, logprobs, last = [], [], None
    async for chunk in engine.stream(request):
        text.append(chunk.text)
        logprobs.extend(chunk.logprobs)
        last = chunk
    if last is None or last.finish_reason is None:
        raise EngineError(f"{engine.name} ended its reply without a finish reason")
    return Reply("".join(text), last.finish_reason, last.usage or Usage(), tuple(logprobs), last.version, last.timing)
