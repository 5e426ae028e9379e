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

T = TypeVar("T")

RETRY_S = 0.25
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
    from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
    from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

    lost = (RayActorError, WorkerCrashedError, DeploymentUnavailableError, ReplicaUnavailableError)
    return isinstance(error, lost) and not (isinstance(error, RayTaskError) and not isinstance(error.cause, lost))


class HandleEngine:
    """A ChatEngine whose replicas are reached through a Serve handle."""

    def __init__(self, name: str, handle: Any):
        self.name, self._handle = name, handle

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """As ChatEngine.stream; raises EngineGone where a replica went in the middle of its reply."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout_s
        while True:
            answered = False
            try:
                bounded = replace(request, timeout_s=max(deadline - loop.time(), 1e-3))
                async with aclosing(self._once(bounded, deadline)) as chunks:
                    async for chunk in chunks:
                        answered = True
                        yield chunk
                return
            except EngineGone:
                if answered or loop.time() + RETRY_S >= deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _once(self, request: ChatRequest, deadline: float) -> AsyncIterator[Chunk]:
        response = self._handle.options(stream=True).stream.remote(request)
        finished = False
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(response)
                except StopAsyncIteration:
                    finished = True
                    return
                except TimeoutError as error:
                    raise TimeoutError(f"{self.name} did not end its reply in time") from error
                except Exception as error:
                    finished = True
                    raise _raised(error) from error
                yield chunk
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
        self._handle, self._timeout_s = handle, timeout_s

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        return await persistently(lambda: self._handle.compare.remote(question, texts), self._timeout_s)

    async def verify(self, problem: Problem, text: str) -> Verdict:
        return await persistently(lambda: self._handle.verify.remote(problem, text), self._timeout_s)

    async def stats(self) -> Mapping[str, float]:
        return await self._handle.stats.remote()


class HandlePlanner:
    """The Planner behind a handle; the engine that it asks is the deployment's own."""

    def __init__(self, handle: Any, timeout_s: float):
        self._handle, self._timeout_s = handle, timeout_s

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
