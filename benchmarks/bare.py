"""The bare engine: VllmChat in a process of its own, without HTTP, Serve or scaffold, asked over a pipe.

Times are taken inside that process, from the request to the last token, so that the pipe costs nothing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from actors.engine.chat import ChatRequest, Usage
from actors.engine.vllm import VllmSettings, environment

JOIN_S = 30.0
PLAN_S = 75.0  # the planner's share of the service's deadline


@dataclass(frozen=True)
class Timed:
    """A reply: its text, its tokens, the mean logprob of them (None: not asked for), seconds from its request."""

    text: str
    usage: Usage
    confidence: float | None
    seconds: float


@dataclass(frozen=True)
class Planned:
    """A plan and what it took, then candidates that ran side by side, each with its own seconds."""

    plan: str
    plan_s: float
    candidates: tuple[Timed, ...]


# --- in the engine's process ----------------------------------------------------------------------------------------


async def reply(chat: Any, request: ChatRequest) -> Timed:
    """One reply."""
    from actors.engine.partial import PartialReply

    partial_reply, started = PartialReply(), time.perf_counter()
    await partial_reply.read(chat, request)
    seconds = time.perf_counter() - started
    return Timed(partial_reply.text, partial_reply.usage, partial_reply.confidence, seconds)


async def plan_and_solve(chat: Any, question: str, n: int, seed: int, max_tokens: int) -> Planned:
    """What the service asks its engine for at effort medium: the same requests, seeds included, and nothing else."""
    from actors.planner import Planner
    from actors.prompts import as_data, with_plan

    started = time.perf_counter()
    planned = await Planner().plan(question, chat, seed=seed, timeout_s=PLAN_S)
    plan, plan_s = planned.plan.text, time.perf_counter() - started
    content = with_plan(question, plan) if plan else as_data(question)
    message = ({"role": "user", "content": content},)
    requests = [ChatRequest(message, max_tokens=max_tokens, seed=seed + i, top_logprobs=0) for i in range(n)]
    return Planned(plan, plan_s, tuple(await asyncio.gather(*(reply(chat, request) for request in requests))))


def _serve(settings: VllmSettings, connection: Connection) -> None:
    """Answer what comes in, until None does. Whatever goes wrong goes back as text."""
    os.environ.update(environment(settings))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        from actors.engine.vllm_chat import VllmChat

        asyncio.run(_answer(VllmChat("bare", settings), connection))
    except BaseException:
        connection.send(RuntimeError(f"the bare engine failed:\n{traceback.format_exc()}"))


async def _answer(chat: Any, connection: Connection) -> None:
    await chat.warm_up()
    connection.send(None)
    while (work := connection.recv()) is not None:
        connection.send(await work(chat))
    await chat.close()


# --- on the benchmark's side ----------------------------------------------------------------------------------------


class BareEngine:
    """The engine's process from `with` to its end. Raises RuntimeError, with its traceback, for what fails in it."""

    def __init__(self, settings: VllmSettings):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(settings, theirs), daemon=True)
        self._theirs = theirs

    def __enter__(self) -> BareEngine:
        self._process.start()
        self._theirs.close()
        try:
            self._received()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.is_alive() and error is None:
            self._connection.send(None)
            self._process.join(JOIN_S)
        self._process.kill()
        self._process.join()
        self._connection.close()

    async def reply(self, request: ChatRequest) -> Timed:
        """See `reply` above; so the others."""
        return await self.ask(reply, request=request)

    async def plan_and_solve(self, question: str, n: int, seed: int, max_tokens: int) -> Planned:
        return await self.ask(plan_and_solve, question=question, n=n, seed=seed, max_tokens=max_tokens)

    async def ask(self, work: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        """What `work(chat, **arguments)` returns there: a coroutine function of some module."""
        self._connection.send(partial(work, **arguments))
        return await asyncio.to_thread(self._received)

    def _received(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError("the bare engine's process is gone") from None
        if isinstance(answer, RuntimeError):
            raise answer
        return answer
