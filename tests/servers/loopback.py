"""A real HTTP server on 127.0.0.1 that speaks OpenAI's and Cerebras's chat protocol, and misbehaves when told to.

It runs in a thread with its own event loop, so that synchronous and asynchronous clients can both be tested.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KEY = "loopback-key"
MODEL = "tiny"


@dataclass(frozen=True)
class Answer:
    """How to answer one request.

    Other than 200, `status` is answered at once with OpenAI's error object around `message` and `code`. A stream has
    `reasoning` and then `pieces` as deltas, each after `delay_s`; after `drop_after` deltas the connection is closed,
    and `raw` (bytes) is sent in place of the end. `whole` (bytes) is the body where no stream was asked for. `headers`
    come with any status.
    """

    pieces: tuple[str, ...] = ("Hello", ", ", "world")
    reasoning: tuple[str, ...] = ()
    reasoning_field: str = "reasoning_content"
    finish_reason: str | None = "stop"
    status: int = 200
    message: str = "as the test wants it"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop_after: int | None = None
    raw: bytes | None = None
    usage: bool = True
    time_info: Mapping[str, float] | None = None
    logprob: float | None = None
    whole: bytes | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class Loopback:
    """A context manager. `script` the answers to come; what is not scripted gets `Answer()`.

    `requests` are the completions that were asked for (with a right key or a wrong one), `paths` the paths of all
    requests, `disconnects` counts the clients that left before the end, `disconnected` is set at the first of them.
    """

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.paths: list[str] = []
        self.disconnects = 0
        self.disconnected = threading.Event()
        self._answers: deque[Answer] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loopback", daemon=True)

    def __enter__(self) -> Loopback:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, in this order."""
        self._answers.extend(answers)

    @property
    def root(self) -> str:
        """Where a client connects that adds `/v1` by itself."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    @web.middleware
    async def _note(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        self.paths.append(request.path)
        return await handler(request)

    async def _models(self, request: web.Request) -> web.Response:
        if refused := self._refusal(request):
            return refused
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0}]})

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Bearer {KEY}":
            return None
        return _failed(Answer(status=401, message="Incorrect API key provided", code="invalid_api_key"))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(Seen(request.path, dict(request.headers), body))
        if refused := self._refusal(request):
            return refused
        answer = self._answers.popleft() if self._answers else Answer()
        try:
            if answer.status != 200:
                return _failed(answer)
            if not body.get("stream"):
                await asyncio.sleep(answer.delay_s)
                body = answer.whole or json.dumps(_whole(answer)).encode()
                return web.Response(body=body, content_type="application/json", headers=answer.headers)
            return await self._stream(request, body, answer)
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnects += 1
            self.disconnected.set()
            raise

    async def _stream(self, request: web.Request, body: Mapping[str, Any], answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **answer.headers})
        await response.prepare(request)
        chat = "messages" in body
        texts = [(answer.reasoning_field, text) for text in answer.reasoning]
        texts += [("content" if chat else "text", text) for text in answer.pieces]
        events = [_event(chat, *delta, answer.logprob) for delta in texts[: answer.drop_after]]
        if answer.drop_after is None and answer.raw is None:
            events += _ending(chat, answer, len(texts), body)
        for event in events:
            await asyncio.sleep(answer.delay_s)
            await response.write(_sent(event))
        if answer.raw is not None:
            await response.write(answer.raw)
        elif answer.drop_after is None:
            await response.write(b"data: [DONE]\n\n")
        else:
            request.transport.close()  # what was written still arrives; the end of the body does not
        return response


def deltas(*pieces: str) -> bytes:
    """Chat deltas that travel together, for `Answer.raw`."""
    return b"".join(_sent(_event(True, "content", piece, None)) for piece in pieces)


def _sent(event: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def _failed(answer: Answer) -> web.Response:
    error = {"message": answer.message, "type": "error", "param": None, "code": answer.code}
    return web.json_response({"error": error}, status=answer.status, headers=answer.headers)


def _frame(chat: bool, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {
        "id": "x",
        "object": kind,
        "created": 1,
        "model": MODEL,
        "system_fingerprint": "f",
        "choices": choices,
    } | more


def _event(chat: bool, field_name: str, text: str, logprob: float | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None}
    choice |= {"delta": {field_name: text}} if chat else {"text": text}
    if logprob is not None:
        other = {"token": "other", "logprob": logprob - 1}
        of_chat = {"content": [{"token": text, "logprob": logprob, "top_logprobs": [other]}]}
        plain = {"tokens": [text], "token_logprobs": [logprob], "top_logprobs": [{"other": logprob - 1}]}
        choice["logprobs"] = of_chat if chat else plain
    return _frame(chat, [choice])


def _ending(chat: bool, answer: Answer, tokens: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The event with the finish reason, and the one with the usage where it is asked for and given."""
    last = {"index": 0, "finish_reason": answer.finish_reason} | ({"delta": {}} if chat else {"text": ""})
    timing = {"time_info": dict(answer.time_info)} if answer.time_info else {}
    events = [_frame(chat, [last])]
    if answer.usage and (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": 11, "completion_tokens": 2 * tokens, "total_tokens": 11 + 2 * tokens}
        events.append(_frame(chat, [], usage=usage, **timing))
    elif timing:
        events[-1] |= timing
    return events


def _whole(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(answer.pieces)}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
