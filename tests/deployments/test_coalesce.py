"""Chunks that come close together travel together; nothing is lost, and the end waits for no window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.engine.chat import Chunk, EngineError, TokenLogprob, Usage
from deployments.coalesce import coalesced, joined

PIECES = [Chunk(letter, 1, (TokenLogprob(letter, -0.5),)) for letter in "plan"]
LAST = Chunk("!", 1, (), "stop", Usage(3, 5), 7, {"queue_time": 0.1})


async def burst(fail: Exception | None = None) -> AsyncIterator[Chunk]:
    """One chunk, then all others at once."""
    yield PIECES[0]
    await asyncio.sleep(0)
    for piece in PIECES[1:]:
        yield piece
    if fail:
        raise fail
    yield LAST


def collect(chunks: AsyncIterator[Chunk], window_s: float, at_once: bool = True) -> list[Chunk]:
    async def run() -> list[Chunk]:
        return [joined(together) async for together in coalesced(chunks, window_s, at_once)]

    return asyncio.run(run())


def test_joined_chunks_say_what_they_said_alone():
    whole = joined([*PIECES, LAST])
    assert (whole.text, whole.tokens, [p.token for p in whole.logprobs]) == ("plan!", 5, list("plan"))
    assert (whole.finish_reason, whole.usage, whole.version, whole.timing) == ("stop", Usage(3, 5), 7, LAST.timing)
    assert joined([LAST]) is LAST


def test_nothing_is_lost_and_the_end_does_not_wait_for_the_window():
    got = collect(burst(), window_s=3600.0)  # a window that is waited for would hang this test
    assert "".join(c.text for c in got) == "plan!" and sum(c.tokens for c in got) == 5
    assert got[-1].finish_reason == "stop" and len(got) < 5


def test_a_failure_comes_after_what_came_before_it():
    seen = []

    async def run() -> None:
        async for together in coalesced(burst(EngineError("gone")), 3600.0):
            seen.append(joined(together).text)

    with pytest.raises(EngineError, match="gone"):
        asyncio.run(run())
    assert "".join(seen) == "plan"


def test_closing_it_closes_the_engines_stream():
    closed = []

    async def endless() -> AsyncIterator[Chunk]:
        try:
            while True:
                yield PIECES[0]
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def run() -> None:
        stream = coalesced(endless(), 0.0)
        await anext(stream)
        await stream.aclose()

    asyncio.run(run())
    assert closed == [True]


def test_what_nobody_reads_along_comes_in_one_piece_where_the_window_is_long_enough():
    assert [chunk.text for chunk in collect(burst(), 60.0, at_once=False)] == ["plan!"]
    with pytest.raises(EngineError, match="gone"):
        collect(burst(EngineError("gone")), 60.0, at_once=False)


def test_an_urgent_item_does_not_wait_for_the_window():
    async def items() -> AsyncIterator[int]:
        for number in (1, 2, 9, 3, 4, 9):
            yield number
            await asyncio.sleep(0)
        await asyncio.Event().wait()  # the end never comes

    async def run() -> list[list[int]]:
        together = coalesced(items(), 3600.0, at_once=False, urgent=lambda number: number == 9)
        found = [await anext(together), await anext(together)]
        await together.aclose()
        return found

    assert asyncio.run(run()) == [[1, 2, 9], [3, 4, 9]]
