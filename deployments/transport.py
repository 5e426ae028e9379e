"""Between HTTP and async iterators: a body read within bounds, a reply streamed until its reader goes away.

Whoever leaves, the client or the server, the iterator behind a reply is closed before the request is over: nothing
upstream works for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection; nobody reads what would be answered."""


class BodyTooLarge(ValueError):
    """The body is longer than allowed."""


class BodyTooSlow(TimeoutError):
    """The body did not arrive in time."""


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """The request's body. Raises BodyTooLarge (at once, if the length is announced), BodyTooSlow, ClientGone."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise BodyTooLarge(f"the body is {announced[:20]} bytes long; {max_bytes} are allowed")
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise BodyTooLarge(f"the body is longer than the {max_bytes} bytes allowed")
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, and has ended, when ClientGone is raised because the client left."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Driven(Generic[T]):
    """Runs an async iterator in one task from its start to its end, a few items ahead of the reader.

    One task, because a time-out or task group inside a generator must be left by the task that entered it, while the
    requests' handlers and responses that read from it run in several.
    """

    def __init__(self, source: AsyncIterator[T], ahead: int = 16):
        self._items: asyncio.Queue[tuple[T | None, Exception | None]] = asyncio.Queue(ahead)
        self._task = asyncio.create_task(self._drive(source))

    async def _drive(self, source: AsyncIterator[T]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await self._items.put((item, None))
        except Exception as error:
            await self._items.put((None, error))
        else:
            await self._items.put((None, StopAsyncIteration()))

    async def next(self, timeout_s: float) -> T | None:
        """The next item; None if there is none within `timeout_s`.

        Raises what the iterator raised, and StopAsyncIteration after its end.
        """
        try:
            async with asyncio.timeout(timeout_s):
                item, error = await self._items.get()
        except TimeoutError:
            return None
        if error is not None:
            raise error
        return item

    async def close(self) -> None:
        """Cancel the iterator, if it still runs, and wait until it has ended."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class EventStream(Response):
    """Server-sent events of a Driven iterator: `encode` makes one of an item, `encode_error` the last one of an error.

    A comment goes out after every `heartbeat_s` of silence, so that proxies keep the connection. A client that reads
    nothing for `send_timeout_s` counts as gone. `on_end(gone)` is called once, when the iterator has been closed.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        items: Driven[T],
        first: T | None,
        encode: Callable[[T], bytes],
        encode_error: Callable[[Exception], bytes],
        on_end: Callable[[bool], None],
        heartbeat_s: float,
        send_timeout_s: float,
    ):
        self.status_code, self.background = 200, None
        self._items, self._first, self._encode, self._encode_error = items, first, encode, encode_error
        self._on_end, self._heartbeat_s, self._send_timeout_s = on_end, heartbeat_s, send_timeout_s
        # X-Accel-Buffering: nginx would otherwise collect the events of a reply and send them at its end.
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = True
        try:
            await unless_gone(receive, self._stream(send))
            gone = False
        except (ClientGone, TimeoutError, OSError):
            gone = True  # nobody is left to be told
        finally:
            await self._items.close()
            self._on_end(gone)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if self._first is not None:
            await self._write(send, self._encode(self._first))
        while True:
            try:
                item = await self._items.next(self._heartbeat_s)
            except StopAsyncIteration:
                break
            except Exception as error:
                await self._write(send, self._encode_error(error))
                break
            await self._write(send, b": keep-alive\n\n" if item is None else self._encode(item))
        await self._write(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(self._send_timeout_s):
            await send({"type": "http.response.body", "body": data, "more_body": True})
