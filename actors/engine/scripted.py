"""A ChatEngine that says what it is told to: for tests and simulations, with time and failures under control."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from actors.engine.chat import ChatRequest, Chunk, EngineError, TokenLogprob, Usage

_TOKEN = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True)
class Script:
    """How to answer one request.

    `text` comes in pieces of one word, each of which counts as a token, or as `pieces` says; `delay_s` seconds pass
    before each. With `failure` that is raised after `fail_after` pieces, and there is no further one. `logprob` is
    that of every token, given only if the request asks for logprobs.
    """

    text: str = ""
    pieces: tuple[str, ...] | None = None
    delay_s: float = 0.0
    failure: Exception | None = None
    fail_after: int = 0
    logprob: float = 0.0
    version: int = -1
    timing: Mapping[str, float] = field(default_factory=dict)


class ScriptedEngine:
    """`reply(request)` gives the text of each reply, its Script, or an exception to fail with at once.

    A reply longer than `max_tokens` pieces is cut there and finishes with "length"; a request's other parameters are
    for `reply` to heed. `started`, `finished`, `failed` and `cancelled` count requests, `requests` holds them, and
    `running` are those that have started and not ended. `unhealthy`, if set, is what `health` raises.
    """

    def __init__(
        self,
        reply: Callable[[ChatRequest], str | Script | Exception],
        *,
        name: str = "scripted",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self._reply, self._sleep = reply, sleep
        self.requests: list[ChatRequest] = []
        self.started = self.finished = self.failed = self.cancelled = 0
        self.closed = False
        self.unhealthy: EngineError | None = None

    @property
    def running(self) -> int:
        return self.started - self.finished - self.failed - self.cancelled

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """As ChatEngine.stream says. `timeout_s` is not watched: time passes only where `sleep` lets it."""
        self.started += 1
        self.requests.append(request)
        ended = "cancelled"
        try:
            said = self._reply(request)
            if isinstance(said, Exception):
                raise said
            async with aclosing(self._play(Script(said) if isinstance(said, str) else said, request)) as chunks:
                async for chunk in chunks:
                    ended = "finished" if chunk.finish_reason else ended
                    yield chunk
        except Exception:
            ended = "failed"
            raise
        finally:
            setattr(self, ended, getattr(self, ended) + 1)

    async def _play(self, script: Script, request: ChatRequest) -> AsyncIterator[Chunk]:
        pieces = script.pieces if script.pieces is not None else tuple(_TOKEN.findall(script.text))
        spoken = pieces[: request.max_tokens]
        for number, piece in enumerate(spoken):
            if script.failure is not None and number >= script.fail_after:
                break
            await self._sleep(script.delay_s)
            logprobs = () if request.top_logprobs is None else (TokenLogprob(piece, script.logprob),)
            yield Chunk(piece, 1, logprobs, version=script.version)
        if script.failure is not None:
            raise script.failure
        asked = request.prompt or " ".join(str(message.get("content", "")) for message in request.messages)
        yield Chunk(
            finish_reason="stop" if len(spoken) == len(pieces) else "length",
            usage=Usage(len(asked.split()), len(spoken)),
            version=script.version,
            timing=script.timing,
        )

    async def health(self) -> None:
        """Raise `unhealthy`, or that the engine is closed."""
        if self.closed:
            raise EngineError(f"{self.name} is closed")
        if self.unhealthy is not None:
            raise self.unhealthy

    async def close(self) -> None:
        """Remember it; requests that run go on."""
        self.closed = True
