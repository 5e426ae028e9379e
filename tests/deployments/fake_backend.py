"""A backend that says what it is told to, and a real server on a free port for it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import contextmanager

import httpx
import uvicorn

from actors.engine.chat import Chunk, EngineError, TokenLogprob, Usage
from deployments.backend import ModelCard
from deployments.events import (
    CandidateDelta,
    CandidateDone,
    CandidateFailed,
    CandidateSummary,
    Clustered,
    PlanReady,
    Selected,
)
from deployments.gateway import create_app

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "What is 6 times 7?"}]}
# A text with everything that the page draws in a way of its own.
RICH = """So $x^2 = 4$.

$$\\sum_{i=1}^n i$$

```python
def f(x):
    return x  # two
```

| a | b |
|---|---|
| 1 | 2 |"""
PLAN = PlanReady("Multiply.\nCheck.", ("Multiply.", "Check."), Usage(10, 5))
WAIT = object()  # in a script: stay silent until the test says go


def summary(index, state="finished", answer="42", cluster=0, passed=None, tokens=4):
    return CandidateSummary(index, state, answer, cluster, passed, -0.5, tokens, "")


def selected(index=0, answer="42", reasoning="6*7", candidates=(), usage=None, version=3, **more):
    text = f"<think>{reasoning}</think>{answer}"
    usage = usage or Usage(30, 25)
    return Selected(index, text, reasoning, answer, "2 of 3 agree", "stop", usage, candidates, version, **more)


# fmt: off
# A plan, two candidates that agree, one that failed.
THREE = (
    PLAN,
    CandidateDelta(0, "<think>6*7</think>", 5), CandidateDelta(1, "<think>six sevens</think>", 6),
    CandidateDelta(0, "42", 1), CandidateDone(0, "42", "stop", 6, 0.5, -0.1),
    CandidateFailed(2, "failed", "EngineError: out of memory", 1),
    CandidateDelta(1, "42.0", 2), CandidateDone(1, "42.0", "stop", 8, 0.7, -0.4),
    Clustered((0, 1), ("42", "42.0"), (0, 0), (None, None), ("", "")),
    selected(candidates=(summary(0), summary(1, answer="42.0"), summary(2, "failed", None, -1))),
)
ONE = (
    CandidateDelta(0, "<thi", 1), CandidateDelta(0, "nk>Six sev", 2), CandidateDelta(0, "ens.</think>\n\nIt is ", 4),
    CandidateDelta(0, "42", 1), CandidateDone(0, "It is 42", "stop", 8, 0.3, None),
    selected(answer="It is 42", reasoning="Six sevens.", candidates=(summary(0),), usage=Usage(12, 8)),
)
CHUNKS = (
    Chunk("It is", 2, (TokenLogprob("It", -0.5, (("It", -0.5), ("So", float("-inf")))), TokenLogprob(" is", -0.25))),
    Chunk(" 42", 1, (TokenLogprob(" 42", -0.125),)),
    Chunk("", 0, (), "stop", Usage(7, 3), 5),
)
# fmt: on


class FakeBackend:
    """`script` is what `answer` yields (by default THREE or, for one candidate, ONE), `chunks` what `complete` does.

    In either, an exception is raised and WAIT waits for `go()`. `requests` are those that came; `open` counts
    iterators at work, `closed` those that were closed before their end.
    """

    def __init__(self, script: Iterable | None = None, chunks: Iterable = CHUNKS, thinking: bool = False):
        self.script, self.chunks = script, tuple(chunks)
        self.cards = [ModelCard("raythink", 1700000000, context=4096, thinking=thinking)]
        self.requests: list = []
        self.open = self.closed = 0
        self.failure: Exception | None = None
        self._gate = threading.Event()

    def go(self) -> None:
        self._gate.set()

    async def models(self):
        return self.cards

    def answer(self, request):
        self.requests.append(request)
        default = ONE if request.settings.candidates == 1 else THREE
        return self._play(default if self.script is None else self.script)

    def complete(self, model, request):
        self.requests.append(request)
        return self._play(self.chunks)

    async def _play(self, items) -> AsyncIterator:
        self.open += 1
        ended = False
        try:
            for item in items:
                await self._pause(item)
                if isinstance(item, Exception):
                    raise item
                if item is not WAIT and not isinstance(item, float):
                    yield item
            ended = True
        except Exception:
            ended = True
            raise
        finally:
            self.open -= 1
            self.closed += not ended

    async def _pause(self, item) -> None:
        """The gate belongs to the test's thread, so it is looked at rather than awaited."""
        while item is WAIT and not self._gate.is_set():
            await asyncio.sleep(0.002)
        if isinstance(item, float):
            await asyncio.sleep(item)

    async def health(self):
        if self.failure is not None:
            raise self.failure

    async def metrics(self):
        if self.failure is not None:
            raise EngineError("down")
        return "raythink_fake 1\n"


def client(app, **more) -> httpx.AsyncClient:
    """A client of the app itself, as if on this machine."""
    transport = httpx.ASGITransport(app=app, client=(more.pop("address", "127.0.0.1"), 50000))
    return httpx.AsyncClient(transport=transport, base_url=more.pop("base_url", "http://127.0.0.1"), **more)


def send(method, path, backend=None, settings=None, **request):
    """One request to a fresh app."""
    how = {name: request.pop(name) for name in ("address", "base_url") if name in request}

    async def scene():
        async with client(create_app(backend or FakeBackend(), settings), **how) as http:
            return await http.request(method, path, **request)

    return asyncio.run(scene())


def chat(backend=None, settings=None, **body):
    """One question; `body` are further fields."""
    return send("POST", CHAT, backend, settings, json=HELLO | body)


def error(response, status, param=None, code=None):
    """The error's message, once its form was checked."""
    told = response.json()["error"]
    assert response.status_code == status, told
    assert set(told) == {"message", "type", "param", "code"}
    assert (told["param"], told["code"]) == (param, code), told
    return told["message"]


def chunks_of(body: bytes) -> list[dict]:
    """The JSON of each event of a stream, which must end with [DONE]."""
    data = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(line) for line in data]


@contextmanager
def serving(backend, settings=None):
    """The URL of a real server, in a thread of its own."""
    config = uvicorn.Config(create_app(backend, settings), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def wait_until(condition, timeout_s: float = 10.0) -> None:
    """Return once `condition()` holds; for what happens in another thread or process."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
