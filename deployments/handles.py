"""Serve's handles as the interfaces that the scaffold knows: ChatEngine, Planner, Comparer.

A replica that is gone is no failed request: what had not begun to answer is sent again, to the replica that takes its
place, for as long as the request may take. What a replica's code raised arrives as it was raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from actors.engine.chat import ChatRequest, Chunk, EngineError, EngineGone
from actors.messages import Comparison, Plan, Problem, Verdict
from actors.planner import Planned
from deployments.siblings import Piece, Pruning, bounded

T = TypeVar("T")

RETRY_S = 0.25
DIRECT = {"_by_reference": False}  # over gRPC between replicas: messages of a few hundred bytes need no object store
HEALTH_S = 5.0


def _raised(error: Exception) -> Exception:
    """What a replica's code raised, or EngineGone where the replica itself is gone."""
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if _is_loss(error):
        return EngineGone(f"a replica is gone: {str(error).strip().splitlines()[0] if str(error) else error!r}")
    return error


def _is_loss(error: Exception) -> bool:
    from grpc.aio import AioRpcError
    from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
    from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

    lost = (RayActorError, WorkerCrashedError, DeploymentUnavailableError, ReplicaUnavailableError)
    if isinstance(error, AioRpcError):  # what is not UNAVAILABLE arrives as it is
        return True
    return isinstance(error, lost) and not (isinstance(error, RayTaskError) and not isinstance(error.cause, lost))


class HandleEngine:
    """A ChatEngine whose replicas are reached through a Serve handle."""

    def __init__(self, name: str, handle: Any):
        self.name, self._handle = name, handle.options(**DIRECT)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """As ChatEngine.stream; raises EngineGone where a replica went in the middle of its reply."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout_s
        while True:
            answered = False
            try:
                asked = replace(request, timeout_s=max(deadline - loop.time(), 1e-3))
                if not request.live:  # one message in place of a stream
                    yield await self._whole(asked, deadline)
                    return
                async with aclosing(self._items("stream", deadline, asked)) as chunks:
                    async for chunk in chunks:
                        answered = True
                        yield chunk
                return
            except EngineGone:
                if answered or loop.time() + RETRY_S >= deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def stream_all(
        self, requests: Mapping[int, ChatRequest], pruning: Pruning | None = None
    ) -> AsyncIterator[Piece]:
        """As Siblings.stream_all, of one replica; one that goes in the middle fails all replies that it was writing."""
        if len(requests) == 1 and not any(request.live for request in requests.values()):
            ((index, request),) = requests.items()
            try:
                async for chunk in self.stream(request):
                    yield Piece(index, chunk)
            except Exception as failure:
                yield Piece(index, failure=failure)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(request.timeout_s for request in requests.values())
        waiting, answered = set(requests), False
        while waiting:
            asked = bounded(requests, max(deadline - loop.time(), 1e-3))
            try:
                async with aclosing(self._items("stream_all", deadline, asked, pruning)) as items:
                    async for pieces in items:
                        answered = True
                        for piece in pieces:
                            waiting -= {piece.index} if piece.ends else set()
                            yield piece
                failure: Exception = EngineError(f"{self.name} ended in the middle of its replies")
            except Exception as error:
                failure = error
            if isinstance(failure, EngineGone) and not answered and loop.time() + RETRY_S < deadline:
                await asyncio.sleep(RETRY_S)
                continue
            for index in sorted(waiting):
                yield Piece(index, failure=failure)
            return

    async def _whole(self, request: ChatRequest, deadline: float) -> Chunk:
        """A whole reply as one chunk. Raises as `_items`."""
        response = self._handle.complete.remote(request)
        try:
            async with asyncio.timeout_at(deadline):
                return await response
        except (TimeoutError, asyncio.CancelledError) as error:
            response.cancel()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"{self.name} did not end its reply in time") from error
            raise
        except Exception as error:
            raise _raised(error) from error

    async def _items(self, method: str, deadline: float, *arguments: Any) -> AsyncIterator[Any]:
        """What a replica's generator yields. Raises what it raises, EngineGone, or TimeoutError at the deadline."""
        response = getattr(self._handle.options(stream=True), method).remote(*arguments)
        finished = False
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await anext(response)
                except StopAsyncIteration:
                    finished = True
                    return
                except TimeoutError as error:
                    raise TimeoutError(f"{self.name} did not end its reply in time") from error
                except Exception as error:
                    finished = True
                    raise _raised(error) from error
                yield item
        finally:
            if not finished:
                response.cancel()

    async def health(self) -> None:
        try:
            async with asyncio.timeout(HEALTH_S):
                await self._handle.health.remote()
        except TimeoutError as error:
            raise EngineError(f"{self.name} did not answer within {HEALTH_S:g} s") from error
        except Exception as error:
            raise _raised(error) from error

    async def stats(self) -> Mapping[str, float]:
        return await self._handle.stats.remote()

    async def close(self) -> None:
        """The replicas belong to Serve."""


async def persistently(call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    """The result of a call to a replica, made again where the replica is gone. Raises what its code raised."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await call()
        except TimeoutError:
            raise
        except Exception as error:
            failure = _raised(error)
            if not isinstance(failure, EngineGone) or loop.time() + RETRY_S >= deadline:
                raise failure from error
        await asyncio.sleep(RETRY_S)


class HandleComparer:
    """The Verifier behind a handle."""

    def __init__(self, handle: Any, timeout_s: float):
        self._handle, self._timeout_s = handle.options(**DIRECT), timeout_s

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        return await persistently(lambda: self._handle.compare.remote(question, texts), self._timeout_s)

    async def verify(self, problem: Problem, text: str) -> Verdict:
        return await persistently(lambda: self._handle.verify.remote(problem, text), self._timeout_s)

    async def stats(self) -> Mapping[str, float]:
        return await self._handle.stats.remote()


class HandlePlanner:
    """The Planner behind a handle; the engine that it asks is the deployment's own."""

    def __init__(self, handle: Any, timeout_s: float):
        self._handle, self._timeout_s = handle.options(**DIRECT), timeout_s

    async def plan(self, question: str, engine: Any, **options: Any) -> Planned:
        """As Planner.plan: a planner that cannot be reached is no plan, and says why."""
        limit = options.get("timeout_s") or self._timeout_s
        try:
            return await persistently(lambda: self._handle.plan.remote(question, options), limit)
        except TimeoutError:
            return Planned(Plan(""), reason=f"no plan within {limit:g} s")
        except Exception as error:
            return Planned(Plan(""), reason=f"the planner failed: {type(error).__name__}: {error}"[:300])

    async def stats(self) -> Mapping[str, float]:
        return await self._handle.stats.remote()
