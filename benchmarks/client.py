"""A client of OpenAI's API that costs little itself, and a crowd of them for load."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Reply:
    """A reply of a server: its choices' texts, its tokens, the seconds from request to its last byte, its JSON."""

    texts: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    body: Mapping[str, Any]


class Client:
    """Asks the server at `url` (without /v1). `keys` are used in turn; `model` None: the server's default one."""

    def __init__(self, url: str, keys: Sequence[str] = (), model: str | None = None):
        self._url, self._model = url, {"model": model} if model else {}
        self._keys = itertools.cycle(keys or ("none",))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600))
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._session.close()

    async def chat(self, content: str, **options: Any) -> Reply:
        """POST /v1/chat/completions with one message of a user."""
        return await self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **options})

    async def complete(self, prompt: str, **options: Any) -> Reply:
        """POST /v1/completions."""
        return await self.post("/v1/completions", {"prompt": prompt, **options})

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """The reply to `body`. Raises RuntimeError for any status but 200."""
        started = time.perf_counter()
        async with self._session.post(self._url + path, json={**self._model, **body}, headers=self._headers()) as got:
            if got.status != 200:
                raise RuntimeError(f"{path}: {got.status}: {(await got.text())[:500]}")
            reply = await got.json()
        seconds = time.perf_counter() - started
        usage = reply.get("usage") or {}
        texts = tuple(c["text"] if "text" in c else c["message"]["content"] or "" for c in reply["choices"])
        return Reply(texts, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), seconds, reply)

    async def counter(self, name: str) -> float:
        """A value of GET /metrics. Raises KeyError where it is not told."""
        async with self._session.get(f"{self._url}/metrics", headers=self._headers()) as got:
            lines = (await got.text()).splitlines()
        return dict((line.split()[0], float(line.split()[1])) for line in lines if line and line[0] != "#")[name]

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {next(self._keys)}"}


async def gather_bounded(calls: Sequence[Callable[[], Awaitable[Any]]], at_once: int) -> list[Any]:
    """The results of all calls, in order, never more than `at_once` at the same time. The first failure ends all."""
    slots = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        async with slots:
            return await call()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]


async def load(
    ask: Callable[[int], Awaitable[Reply]],
    clients: int,
    slices: int,
    slice_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Tokens a second in each of `slices` stretches of time while `clients` ask one request after the other.

    `ask(number)` sends the request of that number. A reply counts where it ends; the first stretch, in which all begin
    together, is left out.
    """
    numbers, started = itertools.count(), clock()
    counted = [0] * (slices + 1)

    async def client() -> None:
        while True:
            reply = await ask(next(numbers))
            place = int((clock() - started) / slice_s)
            if place > slices:
                return
            counted[place] += reply.completion_tokens

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return [tokens / slice_s for tokens in counted[1:]]
