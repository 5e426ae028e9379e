"""Fewer, larger chunks: what an engine gives within a few milliseconds travels together.

Every message between two replicas costs about as much as a token of a small model does; a reader sees no difference
between fifty and two hundred pieces a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress

from actors.engine.chat import Chunk


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """One chunk that says what `chunks` say; the last one's end, usage, version and timing are its own."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return Chunk(
        text="".join(c.text for c in chunks),
        tokens=sum(c.tokens for c in chunks),
        logprobs=tuple(p for c in chunks for p in c.logprobs),
        finish_reason=last.finish_reason,
        usage=last.usage,
        version=last.version,
        timing=last.timing,
    )


async def coalesced(chunks: AsyncIterator[Chunk], window_s: float, at_once: bool = True) -> AsyncIterator[Chunk]:
    """The chunks, joined: the first `at_once`, then what has come by the end of each window; the end waits for none.

    Raises what `chunks` raises, after what came before it. Closing this closes `chunks`.
    """
    waiting: list[Chunk] = []
    news, ended = asyncio.Event(), asyncio.Event()

    async def pump() -> None:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    waiting.append(chunk)
                    news.set()
        finally:
            ended.set()
            news.set()

    async def window() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(window_s):
                await ended.wait()

    task = asyncio.create_task(pump())
    try:
        if not at_once:
            await window()
        while True:
            await news.wait()
            news.clear()
            if waiting:
                batch, waiting[:] = list(waiting), []
                yield joined(batch)
            if ended.is_set() and not waiting:
                await task  # raises what it raised
                return
            await window()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
