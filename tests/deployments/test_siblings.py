"""Several replies in one stream: who is stopped where it is written, who fails alone, and what a lost replica costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import virtual_time

from actors.engine.chat import ChatRequest, Chunk, EngineError, EngineGone
from actors.engine.scripted import Script, ScriptedEngine
from deployments import handles
from deployments.handles import HandleEngine
from deployments.services import EngineService, EngineSpec
from deployments.siblings import Beside, Piece, Pruning, gathered

PRUNING = Pruning(window=4, keep=1)


def engine(*replies: Script | Exception) -> ScriptedEngine:
    return ScriptedEngine(lambda request: replies[request.seed])


def script(words: int, logprob: float = -0.1, **options: Any) -> Script:
    return Script(pieces=("w ",) * words, delay_s=1.0, logprob=logprob, **options)


def requests(count: int, **options: Any) -> dict[int, ChatRequest]:
    return {i: ChatRequest(seed=i, top_logprobs=0, **options) for i in range(count)}


async def read(pieces: AsyncIterator[Piece]) -> list[Piece]:
    async with aclosing(pieces):
        return [piece async for piece in pieces]


def ends(pieces: list[Piece]) -> dict[int, str]:
    return {p.index: "stopped" if p.stopped else type(p.failure).__name__ if p.failure else p.chunk.finish_reason
            for p in pieces if p.ends}


def words(pieces: list[Piece], index: int) -> int:
    return sum(p.chunk.tokens for p in pieces if p.index == index and p.chunk)


def test_one_that_is_far_less_sure_is_stopped_where_it_is_written_and_says_nothing_more():
    solver = engine(script(20), script(20, -3.0), script(20))
    pieces = virtual_time.run(read(Beside(solver).stream_all(requests(3), PRUNING)))
    assert ends(pieces) == {0: "stop", 1: "stopped", 2: "stop"} and solver.cancelled == 1
    assert words(pieces, 1) == 1 and words(pieces, 0) == words(pieces, 2) == 20
    assert [p.stopped for p in pieces if p.index == 1] == [False, True]


def test_without_pruning_all_come_to_their_ends():
    pieces = virtual_time.run(read(Beside(engine(script(3), script(5, -3.0))).stream_all(requests(2))))
    assert ends(pieces) == {0: "stop", 1: "stop"}


def test_siblings_that_ended_before_count():
    finished = Pruning(4, 1, finished={7: 0.0})
    for pruning, end in ((finished, "stopped"), (PRUNING, "stop")):
        unsure = Beside(engine(script(9, -3.0)))
        assert ends(virtual_time.run(read(unsure.stream_all(requests(1), pruning)))) == {0: end}


def test_one_that_fails_ends_alone_and_is_no_measure_for_the_others():
    sure = script(20, 0.0, failure=EngineError("down"), fail_after=1)
    pieces = virtual_time.run(read(Beside(engine(sure, script(4, -0.1))).stream_all(requests(2), PRUNING)))
    assert ends(pieces) == {0: "EngineError", 1: "stop"}


def test_a_reply_without_an_end_is_a_failure():
    class Cut(ScriptedEngine):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
            yield Chunk("half", 1)

    (_, end) = virtual_time.run(read(Beside(Cut(lambda request: "")).stream_all(requests(1))))
    assert "without a finish reason" in str(end.failure)


def test_closing_it_stops_all_that_is_being_written():
    solver = engine(script(50), script(50))

    async def leave() -> None:
        async with aclosing(Beside(solver).stream_all(requests(2))) as pieces:
            await anext(pieces)

    virtual_time.run(leave())
    assert solver.cancelled == 2 and solver.running == 0


def test_pieces_that_travel_together_keep_their_order_and_the_ends_come_last():
    last = Chunk("!", 1, finish_reason="stop")
    together = [Piece(0, Chunk("a", 1)), Piece(1, Chunk("x", 1)), Piece(0, last), Piece(1, Chunk("y", 1)),
                Piece(2, stopped=True)]
    found = gathered(together)
    assert [(p.index, p.chunk.text if p.chunk else None) for p in found] == [(1, "xy"), (0, "a!"), (2, None)]


# --- through a replica ----------------------------------------------------------------------------------------------


class Lost(Exception):
    """Stands for Ray's error of a replica that is gone."""


class Handle:
    """A Serve handle on replicas in this process, of which the first `lost` go away after `after` messages."""

    def __init__(self, solver: ScriptedEngine, lost: int = 0, after: int = 0):
        self.service = EngineService(EngineSpec("scripted", "solver"))
        self.service.engine = solver
        self.lost, self.after, self.calls, self.cancelled = lost, after, [], 0

    def options(self, **options: Any) -> Handle:
        return self

    @property
    def stream_all(self) -> Handle:
        return self

    @property
    def complete(self) -> Unary:
        return Unary(self)

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return Response(self, self.service.stream_all(*arguments))


class Response:
    def __init__(self, handle: Handle, items: AsyncIterator[Any]):
        self.handle, self.items, self.read = handle, items, 0

    async def __anext__(self) -> Any:
        if self.handle.lost and self.read == self.handle.after:
            self.handle.lost -= 1
            await self.items.aclose()
            raise Lost
        self.read += 1
        return await anext(self.items)

    def cancel(self) -> None:
        self.handle.cancelled += 1
        asyncio.get_running_loop().create_task(self.items.aclose())


class Unary:
    """One whole reply."""

    def __init__(self, handle: Handle):
        self.handle = handle

    def remote(self, request: ChatRequest) -> Unary:
        self.handle.calls.append(request)
        self.task = asyncio.get_running_loop().create_task(self.handle.service.complete(request))
        return self

    def __await__(self) -> Any:
        if self.handle.lost:
            self.handle.lost -= 1
            self.task.cancel()
            raise Lost
        return self.task.__await__()

    def cancel(self) -> None:
        self.handle.cancelled += 1
        self.task.cancel()


@pytest.fixture
def replica(monkeypatch):
    monkeypatch.setattr(handles, "_raised", lambda error: EngineGone("lost") if isinstance(error, Lost) else error)
    return Handle


def asked(handle: Handle, **options: Any) -> list[Piece]:
    async def ask() -> list[Piece]:
        pieces = await read(HandleEngine("solver", handle).stream_all(requests(2, **options)))
        await asyncio.sleep(1)  # what was cancelled ends by itself
        return pieces

    return virtual_time.run(ask())


def test_replies_that_nobody_reads_along_cost_a_message_for_each_end(replica):
    quick = engine(*(Script(pieces=("w ",) * 20, delay_s=0.004) for _ in range(2)))
    pieces = asked(replica(quick), live=False)
    assert ends(pieces) == {0: "stop", 1: "stop"} and words(pieces, 0) == 20 and len(pieces) <= 4


def test_a_replica_that_is_lost_before_it_said_anything_is_asked_again_unnoticed(replica):
    handle = replica(engine(script(2), script(3)), lost=2)
    assert ends(asked(handle)) == {0: "stop", 1: "stop"} and len(handle.calls) == 3


def test_one_that_is_lost_in_the_middle_fails_all_that_it_was_writing(replica):
    handle = replica(engine(script(2), script(30)), lost=1, after=5)
    assert ends(asked(handle)) == {0: "stop", 1: "EngineGone"} and len(handle.calls) == 1


def test_at_the_deadline_what_is_being_written_is_late(replica):
    handle = replica(engine(script(2), script(300)))
    assert ends(asked(handle, timeout_s=20.0)) == {0: "stop", 1: "TimeoutError"} and handle.cancelled == 1


def test_a_replica_that_is_never_there_is_given_up_at_the_deadline(replica):
    handle = replica(engine(script(2), script(3)), lost=10**6)
    assert ends(asked(handle, timeout_s=5.0)) == {0: "EngineGone", 1: "EngineGone"}


def whole(handle: Handle, **options: Any) -> list[Chunk]:
    async def ask() -> list[Chunk]:
        request = ChatRequest(seed=0, live=False, **options)
        return [chunk async for chunk in HandleEngine("solver", handle).stream(request)]

    return virtual_time.run(ask())


def test_a_reply_that_nobody_reads_along_is_one_message_and_is_asked_for_again_where_the_replica_went(replica):
    handle = replica(engine(script(7)), lost=1)
    (chunk,) = whole(handle)
    assert (chunk.tokens, chunk.finish_reason, len(handle.calls)) == (7, "stop", 2)


def test_an_engine_that_says_nothing_has_failed(replica):
    class Silent(ScriptedEngine):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
            for chunk in ():
                yield chunk

    with pytest.raises(EngineError, match="without a finish reason"):
        whole(replica(Silent(lambda request: "")))


def test_one_that_is_late_is_cancelled(replica):
    solver = engine(script(70))
    handle = replica(solver)
    with pytest.raises(TimeoutError, match="in time"):
        whole(handle, timeout_s=5.0)
    assert handle.cancelled == 1 and solver.cancelled == 1


def test_one_candidate_alone_that_nobody_reads_along_is_one_message_too(replica):
    def ask(handle: Handle) -> list[Piece]:
        return virtual_time.run(read(HandleEngine("solver", handle).stream_all(requests(1, live=False))))

    handle = replica(engine(script(7)))
    (piece,) = ask(handle)
    assert (piece.chunk.tokens, piece.ends) == (7, True) and isinstance(handle.calls[0], ChatRequest)
    (failed,) = ask(replica(engine(EngineError("down"))))
    assert str(failed.failure) == "down" and failed.ends
