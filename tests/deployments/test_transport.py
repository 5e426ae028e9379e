"""Iterators behind replies: driven by one task, closed whoever leaves, kept alive while they are silent."""

from __future__ import annotations

import asyncio

import pytest

from deployments.transport import ClientGone, Driven, EventStream, unless_gone


class Source:
    """Yields `items` (an exception is raised, None waits for ever) and remembers whether it was closed."""

    def __init__(self, *items):
        self.items, self.tasks, self.closed = items, set(), False

    async def __aiter__(self):
        try:
            async with asyncio.timeout(60):  # breaks if another task than the first one runs on
                for item in self.items:
                    self.tasks.add(asyncio.current_task())
                    if item is None:
                        await asyncio.Event().wait()
                    if isinstance(item, Exception):
                        raise item
                    yield item
        finally:
            self.closed = True


async def stays():
    await asyncio.Event().wait()


def played(source, *, receive=stays, send=None, heartbeat_s=60.0, send_timeout_s=60.0):
    """(the bodies that were sent, what on_end was told) of a stream of `source`."""
    bodies, ends = [], []

    async def collect(message):
        bodies.append(message.get("body", message["type"]))

    async def scene():
        stream = EventStream(
            Driven(aiter(source)), b"first;", lambda item: item, lambda e: f"{e!r};".encode(), ends.append, heartbeat_s,
            send_timeout_s,
        )  # fmt: skip
        await stream({}, receive, send or collect)
        assert source.closed

    asyncio.run(scene())
    return bodies, ends


def test_a_stream_from_its_first_to_its_last_event():
    assert played(Source(b"a;", b"b;")) == (
        ["http.response.start", b"first;", b"a;", b"b;", b"data: [DONE]\n\n", b""],
        [False],
    )


def test_an_error_is_the_last_event():
    bodies, ends = played(Source(b"a;", ValueError("x")))
    assert bodies[2:] == [b"a;", b"ValueError('x');", b"data: [DONE]\n\n", b""] and ends == [False]


def test_a_time_out_of_the_source_is_an_error_and_not_a_reader_that_left():
    bodies, ends = played(Source(TimeoutError("late")))
    assert bodies[2] == b"TimeoutError('late');" and ends == [False]


def test_silence_is_filled_with_comments():
    async def leaves_later():
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    bodies, ends = played(Source(b"a;", None), receive=leaves_later, heartbeat_s=0.01)
    assert bodies[3:] and set(bodies[3:]) == {b": keep-alive\n\n"} and ends == [True]


def test_a_reader_who_leaves_closes_the_source():
    async def left():
        return {"type": "http.disconnect"}

    assert played(Source(b"a;", None), receive=left)[1] == [True]


def test_a_reader_who_takes_nothing_counts_as_gone():
    async def stuck(message):
        if message.get("body"):
            await asyncio.Event().wait()

    assert played(Source(b"a;"), send=stuck, send_timeout_s=0.01)[1] == [True]


def test_a_connection_that_breaks_counts_as_gone():
    async def broken(message):
        raise OSError("broken pipe")

    assert played(Source(b"a;"), send=broken)[1] == [True]


def test_a_driven_iterator_runs_in_one_task_whoever_reads():
    async def scene():
        source = Source(1, 2, KeyError("x"))
        driven = Driven(aiter(source))
        read = [await asyncio.create_task(driven.next(1)) for _ in range(2)]
        with pytest.raises(KeyError):
            await driven.next(1)
        await driven.close()
        return read, len(source.tasks), source.closed

    assert asyncio.run(scene()) == ([1, 2], 1, True)


def test_a_driven_iterator_runs_only_so_far_ahead():
    async def scene():
        started = []

        async def numbers():
            for number in range(100):
                started.append(number)
                yield number

        driven = Driven(numbers(), ahead=3)
        assert await driven.next(1) == 0
        for _ in range(20):
            await asyncio.sleep(0)
        await driven.close()
        return len(started)

    assert asyncio.run(scene()) <= 6


def test_silence_is_none_and_loses_nothing():
    async def scene():
        gate = asyncio.Event()

        async def late():
            await gate.wait()
            yield "item"

        driven = Driven(late())
        assert await driven.next(0.01) is None
        gate.set()
        assert await driven.next(1) == "item"
        with pytest.raises(StopAsyncIteration):
            await driven.next(1)
        await driven.close()

    asyncio.run(scene())


def test_work_ends_before_the_one_who_left_is_told():
    async def scene():
        ended = []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        async def leaves():
            return {"type": "http.disconnect"}

        with pytest.raises(ClientGone):
            await unless_gone(leaves, work())
        assert ended == [True]
        assert await unless_gone(stays, asyncio.sleep(0, "result")) == "result"
        task = asyncio.create_task(unless_gone(stays, work()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert ended == [True, True]

    asyncio.run(scene())
