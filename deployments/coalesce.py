"""Fewer, larger chunks: what an engine gives within a few milliseconds travels together.

Every message between two replicas costs about as much as a token of a small model does; a reader sees no difference
between fifty and two hundred pieces a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from actors.engine.chat import Chunk

T = TypeVar("T")


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


async def coalesced(
    items: AsyncIterator[T], window_s: float, at_once: bool = True, urgent: Callable[[T], bool] = lambda item: False
) -> AsyncIterator[list[T]]:
    """What comes together: the first item `at_once`, then all that has come by the end of each window.

    The end of the items waits for no window, nor does an `urgent` one. Raises what `items` raises, after what came
    before it. Closing this closes `items`.
    """
    waiting: list[T] = []
    news, hurry, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pump() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    waiting.append(item)
                    news.set()
                    if urgent(item):
                        hurry.set()
        finally:
            ended.set()
            hurry.set()
            news.set()

    async def window() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(window_s):
                await hurry.wait()

    task = asyncio.create_task(pump())
    try:
        if not at_once:
            await window()
        while True:
            await news.wait()
            news.clear()
            if waiting:
                batch, waiting[:] = list(waiting), []
                if not ended.is_set():
                    hurry.clear()
                yield batch
            if ended.is_set() and not waiting:
                await task  # raises what it raised
                return
            await window()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
