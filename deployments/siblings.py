"""Several replies to one question from one engine, in one stream.

Their pieces travel together, since between two processes a message costs as much as a token of a small model; and one
that is far less sure than its siblings (see pruning.py) is stopped where it is written, before another token is spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from actors.engine.chat import ChatEngine, ChatRequest, Chunk, EngineError
from deployments.coalesce import joined
from deployments.pruning import Sureness, hopeless


@dataclass(frozen=True)
class Pruning:
    """How replies are stopped: `window` tokens, at least `keep` left; `finished` are siblings' that ended before."""

    window: int
    keep: int
    finished: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """What came of the reply of that index: a chunk, its end by `failure`, or its end because it was `stopped`."""

    index: int
    chunk: Chunk | None = None
    failure: Exception | None = None
    stopped: bool = False

    @property
    def ends(self) -> bool:
        """Whether it is the last piece of its reply."""
        return self.chunk is None or self.chunk.finish_reason is not None


class Siblings(Protocol):
    """An engine that can be asked for several replies at once."""

    name: str

    def stream_all(
        self, requests: Mapping[int, ChatRequest], pruning: Pruning | None = None
    ) -> AsyncIterator[Piece]:
        """The pieces of all replies as they come. Raises nothing that an engine does: a reply that fails ends alone.

        Closing the iterator stops all that is still being written.
        """


class Beside:
    """Siblings of an engine in this process: one stream a request."""

    def __init__(self, engine: ChatEngine):
        self.name, self._engine = engine.name, engine

    async def stream_all(
        self, requests: Mapping[int, ChatRequest], pruning: Pruning | None = None
    ) -> AsyncIterator[Piece]:
        group = _Group(self._engine, requests, pruning)
        try:
            while group.open:
                piece = await group.pieces.get()
                group.open -= piece.ends
                yield piece
        finally:
            await group.close()


class _Group:
    """The replies of one call, on their way. `open` counts those whose end nobody was told yet."""

    def __init__(self, engine: ChatEngine, requests: Mapping[int, ChatRequest], pruning: Pruning | None):
        self._engine, self._pruning, self.open = engine, pruning, len(requests)
        self.pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._sureness = {index: Sureness(pruning.window) for index in requests} if pruning else {}
        self._tasks = {index: asyncio.create_task(self._write(index, r)) for index, r in requests.items()}
        self._running = set(requests)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _write(self, index: int, request: ChatRequest) -> None:
        try:
            async with aclosing(self._engine.stream(request)) as chunks:
                async for chunk in chunks:
                    self._tell(Piece(index, chunk))
                    if self._pruning:
                        self._sureness[index].add(token.logprob for token in chunk.logprobs)
                        self._prune()
            if index in self._running:
                raise EngineError(f"{self._engine.name} ended its reply without a finish reason")
        except Exception as failure:  # of the engine or its transport, and of this reply alone
            if index in self._running:
                self._tell(Piece(index, failure=failure))
                self._sureness.pop(index, None)

    def _tell(self, piece: Piece) -> None:
        self.pieces.put_nowait(piece)
        if piece.ends:
            self._running.discard(piece.index)

    def _prune(self) -> None:
        lowest = {**self._pruning.finished, **{index: sure.lowest for index, sure in self._sureness.items()}}
        for index in hopeless(lowest, self._running, self._pruning.keep):
            del self._sureness[index]
            self._tell(Piece(index, stopped=True))
            self._tasks[index].cancel()


def gathered(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The same pieces, the chunks of each reply joined: those that end a reply come last."""
    chunks: dict[int, list[Chunk]] = {}
    for piece in pieces:
        if piece.chunk is not None:
            chunks.setdefault(piece.index, []).append(piece.chunk)
    whole = [Piece(index, joined(found)) for index, found in chunks.items()]
    return (*sorted(whole, key=lambda piece: piece.ends), *(piece for piece in pieces if piece.chunk is None))


def bounded(requests: Mapping[int, ChatRequest], timeout_s: float) -> dict[int, ChatRequest]:
    """The requests with that much time."""
    return {index: replace(request, timeout_s=timeout_s) for index, request in requests.items()}
