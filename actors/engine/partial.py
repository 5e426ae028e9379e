"""A reply as it arrives: what there is of it when it breaks off, and what it cost up to there."""

from __future__ import annotations

from typing import Literal

from actors.engine.chat import ChatEngine, ChatRequest, Chunk, EngineError, TokenLogprob, Usage


class PartialReply:
    """The chunks of a stream so far. `tokens` counts what was generated, `version` is the last one that was told."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._usage: Usage | None = None
        self.logprobs: list[TokenLogprob] = []
        self.tokens = 0
        self.finish_reason: Literal["stop", "length"] | None = None
        self.version = -1

    def add(self, chunk: Chunk) -> None:
        """Append the next chunk."""
        self._pieces.append(chunk.text)
        self.logprobs.extend(chunk.logprobs)
        self.tokens += chunk.tokens
        self._usage = chunk.usage or self._usage
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.version = chunk.version if chunk.version >= 0 else self.version

    async def read(self, engine: ChatEngine, request: ChatRequest) -> None:
        """Add all chunks of the engine's reply. Raises as `ChatEngine.stream` does."""
        async for chunk in engine.stream(request):
            self.add(chunk)
        self.check_ended(engine)

    def check_ended(self, engine: ChatEngine) -> None:
        """Raises EngineError if the stream ended without a finish reason."""
        if self.finish_reason is None:
            raise EngineError(f"{engine.name} ended its reply without a finish reason")

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def usage(self) -> Usage:
        """What the engine reported, else the tokens so far (those of the prompt are not known then: 0)."""
        return self._usage or Usage(0, self.tokens)

    @property
    def confidence(self) -> float | None:
        """The mean log-probability of the tokens; None where the engine gave none."""
        return sum(token.logprob for token in self.logprobs) / len(self.logprobs) if self.logprobs else None
