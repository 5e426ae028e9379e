"""The engines behind HTTP, through their real SDKs, against a real server on this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from loopback import KEY, MODEL, Answer, Loopback, deltas

from actors.engine.cerebras import CerebrasEngine
from actors.engine.chat import BadRequest, ChatRequest, Chunk, EngineBusy, EngineError, Reply, Usage, complete
from actors.engine.openai import OpenAIEngine
from actors.engine.remote import RemoteEngine
from actors.engine.retry import Backoff
from conf.errors import UserError

ASKED = ChatRequest(messages=({"role": "user", "content": "Hi"},), max_tokens=7, timeout_s=20.0)
Make = Callable[..., RemoteEngine]


def over_openai(server: Loopback, **options: Any) -> OpenAIEngine:
    return OpenAIEngine(MODEL, server.url, **{"api_key": KEY} | options)


def over_cerebras(server: Loopback, **options: Any) -> CerebrasEngine:
    return CerebrasEngine(MODEL, base_url=server.root, **{"api_key": KEY} | options)


both = pytest.mark.parametrize("make", [over_openai, over_cerebras])


@dataclass
class Waits:
    """A sleep that takes no time and remembers what it was asked for."""

    asked: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


def run(engine: RemoteEngine, use: Callable[[RemoteEngine], Awaitable[Any]]) -> Any:
    async def scenario() -> Any:
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(scenario())


def reply_of(engine: RemoteEngine, request: ChatRequest = ASKED) -> Reply:
    return run(engine, lambda it: complete(it, request))


async def chunks_of(engine: RemoteEngine, request: ChatRequest = ASKED) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(request)]


# --- what comes back ----------------------------------------------------------------------------------------------


@both
def test_a_reply_streams_in_pieces_and_ends_with_its_usage(server: Loopback, make: Make) -> None:
    chunks = run(make(server), chunks_of)
    assert [chunk.text for chunk in chunks] == ["Hello", ", ", "world", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1].usage == Usage(11, 6) and [chunk.tokens for chunk in chunks] == [1, 1, 1, 0]


@both
def test_usage_is_counted_where_the_server_gives_none(server: Loopback, make: Make) -> None:
    server.script(Answer(usage=False, finish_reason="length"))
    reply = reply_of(make(server))
    assert (reply.usage, reply.finish_reason) == (Usage(0, 3), "length")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@both
def test_thinking_that_the_server_split_off_is_put_back(server: Loopback, make: Make, name: str) -> None:
    split = {"reasoning": ("so", " it is"), "reasoning_field": name}
    server.script(Answer(pieces=("7",), **split), Answer(pieces=(), **split))
    server.script(Answer(pieces=(), finish_reason="length", **split))
    texts = run(make(server), lambda it: _three(it))
    assert texts == ["<think>so it is</think>7", "<think>so it is</think>", "<think>so it is"]


async def _three(engine: RemoteEngine) -> list[str]:
    return [(await complete(engine, ASKED)).text for _ in range(3)]


def test_cerebras_tells_its_times(server: Loopback) -> None:
    times = {"queue_time": 0.25, "prompt_time": 0.01, "completion_time": 0.5, "total_time": 0.76, "created": 1.7e9}
    server.script(Answer(time_info=times), Answer(time_info=times | {"queue_time": 0.75}))
    engine = over_cerebras(server)
    first, _ = run(engine, lambda it: _two(it))
    assert first.timing == {name: times[name] for name in times if name != "created"}
    stats = engine.stats()
    assert (stats["queue_time_p50_s"], stats["queue_time_max_s"]) == (0.5, 0.75)
    assert (stats["finished"], stats["completion_tokens"], stats["running"]) == (2, 12, 0)


async def _two(engine: RemoteEngine) -> tuple[Reply, Reply]:
    return await complete(engine, ASKED), await complete(engine, ASKED)


@both
@pytest.mark.parametrize("prompt", [None, "Once"])
def test_logprobs(server: Loopback, make: Make, prompt: str | None) -> None:
    server.script(Answer(pieces=("a", "b"), logprob=-0.5))
    messages = ASKED.messages if prompt is None else ()
    reply = reply_of(make(server), ChatRequest(messages, prompt, top_logprobs=1))
    assert [(token.token, token.logprob, token.top) for token in reply.logprobs] == [
        ("a", -0.5, (("other", -1.5),)),
        ("b", -0.5, (("other", -1.5),)),
    ]


# --- what is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "length"), [(over_openai, "max_tokens"), (over_cerebras, "max_completion_tokens")])
def test_a_chat_is_sent_as_it_was_asked_for(server: Loopback, make: Make, length: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    request = ChatRequest(ASKED.messages, None, 7, 0.5, 0.9, ("\n", "END"), 3, 0, wanted)
    reply_of(make(server), request)
    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": MODEL, "messages": [{"role": "user", "content": "Hi"}], length: 7, "temperature": 0.5, "top_p": 0.9,
        "stop": ["\n", "END"], "seed": 3, "logprobs": True, "top_logprobs": 0, "response_format": wanted,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


@both
def test_a_prompt_goes_to_completions_as_it_is(server: Loopback, make: Make) -> None:
    assert reply_of(make(server), ChatRequest(prompt="<|im_start|>x", max_tokens=5)).text == "Hello, world"
    (seen,) = server.requests
    assert seen.path == "/v1/completions"
    assert (seen.body["prompt"], seen.body["max_tokens"], "messages" in seen.body) == ("<|im_start|>x", 5, False)


def test_extra_parameters_go_along(server: Loopback) -> None:
    reply_of(over_openai(server, extra={"chat_template_kwargs": {"enable_thinking": False}}))
    assert server.requests[0].body["chat_template_kwargs"] == {"enable_thinking": False}


@both
@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ChatRequest(), "either messages or a prompt"),
        (ChatRequest(ASKED.messages, "both"), "either messages or a prompt"),
        (ChatRequest(prompt="x", response_format={"type": "json_object"}), "response_format"),
        (ChatRequest(({"role": "user", "content": "\ud800"},)), "not valid Unicode"),
    ],
)
def test_what_cannot_be_sent_is_the_requests_fault(
    server: Loopback, make: Make, request_: ChatRequest, said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        reply_of(make(server), request_)
    assert server.requests == []


# --- failures -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "failing",
    [
        Answer(status=500),
        Answer(status=429),
        Answer(drop_after=0),
        Answer(pieces=(), finish_reason=None),
        Answer(raw=b'data: {"error": {"message": "overloaded", "code": 503}}\n\n', pieces=()),
    ],
    ids=["500", "429", "dropped", "unfinished", "error-event"],
)
def test_a_failure_before_the_first_token_is_tried_again(server: Loopback, make: Make, failing: Answer) -> None:
    server.script(failing, failing, Answer())
    waits = Waits()
    engine = make(server, sleep=waits, jitter=lambda: 0.5)
    assert reply_of(engine).text == "Hello, world"
    assert waits.asked == [0.25, 0.5]
    assert (len(server.requests), engine.stats()["retries"]) == (3, 2)


@both
def test_retry_after_is_obeyed(server: Loopback, make: Make) -> None:
    server.script(Answer(status=429, headers={"Retry-After": "3"}))
    waits = Waits()
    assert reply_of(make(server, sleep=waits, jitter=lambda: 0.0)).text == "Hello, world"
    assert waits.asked == [3.0]


@both
def test_a_server_that_stays_busy(server: Loopback, make: Make) -> None:
    server.script(*[Answer(status=429, headers={"Retry-After": "2"})] * 3)
    waits = Waits()
    with pytest.raises(EngineBusy, match="429: as the test wants it") as busy:
        reply_of(make(server, sleep=waits, backoff=Backoff(attempts=3)))
    assert busy.value.retry_after_s == 2.0
    assert (len(server.requests), len(waits.asked)) == (3, 2)


@both
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Answer(drop_after=2), "connection"),
        (Answer(raw=b"data: {not json\n\n"), "no reply in this protocol"),
        (Answer(raw=b"data: \xff\xfe\n\n"), "no reply in this protocol"),
        (Answer(raw=b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'), "no reply in this protocol"),
        (Answer(raw=b'data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
        (Answer(finish_reason="content_filter"), "content_filter"),
    ],
)
def test_a_reply_that_breaks_off_is_not_begun_anew(server: Loopback, make: Make, broken: Answer, said: str) -> None:
    server.script(broken)
    engine = make(server, sleep=Waits())
    with pytest.raises(EngineError, match=f"in the middle of its reply.*{said}"):
        reply_of(engine)
    assert (len(server.requests), engine.stats()["failed"]) == (1, 1)


@both
@pytest.mark.parametrize("raw", [b"data: 7\n\n", b'data: {"choices": 7}\n\n', b"data: {\n\n"])
def test_an_answer_in_no_protocol_is_not_asked_for_again(server: Loopback, make: Make, raw: bytes) -> None:
    server.script(Answer(pieces=(), raw=raw))
    with pytest.raises(EngineError, match="sent what is no reply in this protocol"):
        reply_of(make(server, sleep=Waits()))
    assert len(server.requests) == 1


@both
@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refused_request_is_a_bad_request(server: Loopback, make: Make, status: int) -> None:
    server.script(Answer(status=status, message="the prompt does not fit"))
    with pytest.raises(BadRequest, match=f"{status}: the prompt does not fit"):
        reply_of(make(server, sleep=Waits()))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("make", "key"), [(over_openai, "OPENAI_API_KEY"), (over_cerebras, "CEREBRAS_API_KEY")])
def test_a_wrong_key_names_the_variable_to_set(server: Loopback, make: Make, key: str) -> None:
    with pytest.raises(EngineError, match=f"401: Incorrect API key provided. Set {key} to a key") as refused:
        reply_of(make(server, api_key="wrong", sleep=Waits()))
    assert not isinstance(refused.value, EngineBusy) and len(server.requests) == 1


def test_an_account_without_credit_is_not_busy(server: Loopback) -> None:
    server.script(Answer(status=429, code="insufficient_quota"))
    with pytest.raises(EngineError, match="Set OTHER_KEY to a key") as refused:
        reply_of(over_openai(server, key_variable="OTHER_KEY", sleep=Waits()))
    assert not isinstance(refused.value, EngineBusy) and len(server.requests) == 1


def test_keys_come_from_the_environment(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", KEY)
    assert reply_of(over_openai(server, api_key=None, key_variable="OTHER_KEY")).text == "Hello, world"
    monkeypatch.setenv("CEREBRAS_API_KEY", KEY)
    assert reply_of(over_cerebras(server, api_key=None)).text == "Hello, world"
    monkeypatch.delenv("CEREBRAS_API_KEY")
    with pytest.raises(UserError, match="export CEREBRAS_API_KEY="):
        over_cerebras(server, api_key=None)


def test_cerebras_asks_nothing_before_it_is_asked(server: Loopback) -> None:
    """Its SDK opens a connection in the constructor unless told not to."""
    reply_of(over_cerebras(server))
    assert server.paths == ["/v1/chat/completions"]


# --- deadlines and cancellation -----------------------------------------------------------------------------------


def left(server: Loopback) -> bool:
    return server.disconnected.wait(5)


class Clock:
    """The running loop's clock, which can be set forward: its timers then strike at once."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._ahead, real = 0.0, loop.time
        loop.time = lambda: real() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


@both
def test_the_deadline_ends_a_slow_reply_upstream_too(server: Loopback, make: Make) -> None:
    async def outlast(engine: RemoteEngine) -> bool:
        clock, task = Clock(), asyncio.create_task(complete(engine, ASKED))
        while not server.requests:
            await asyncio.sleep(0.005)
        clock.forward(ASKED.timeout_s)
        await asyncio.wait({task}, timeout=5)
        with pytest.raises(TimeoutError, match="did not end its reply within 20 s"):
            task.result()
        return await asyncio.to_thread(left, server)

    server.script(Answer(delay_s=30))
    assert run(make(server), outlast) and len(server.requests) == 1


@both
def test_a_deadline_never_strikes_in_the_consumers_code(server: Loopback, make: Make) -> None:
    async def dawdle(engine: RemoteEngine) -> str:
        clock, stream = Clock(), engine.stream(ASKED)
        first = await anext(stream)
        clock.forward(ASKED.timeout_s)
        await asyncio.sleep(0.01)  # a timer that was still armed would cancel this
        with pytest.raises(TimeoutError):
            await anext(stream)  # though the next piece is there
        return first.text

    server.script(Answer(pieces=(), raw=deltas("a", "b")))
    assert run(make(server), dawdle) == "a"


@both
def test_a_wait_that_would_miss_the_deadline_is_not_begun(server: Loopback, make: Make) -> None:
    server.script(Answer(status=429, headers={"Retry-After": "30"}))
    waits = Waits()
    with pytest.raises(EngineBusy):
        reply_of(make(server, sleep=waits), ASKED)
    assert waits.asked == []


@both
def test_closing_the_stream_closes_the_connection(server: Loopback, make: Make) -> None:
    async def leave(engine: RemoteEngine) -> bool:
        stream = engine.stream(ASKED)
        assert (await anext(stream)).text == "word"
        await stream.aclose()
        return await asyncio.to_thread(left, server)

    server.script(Answer(pieces=("word",) * 1000, delay_s=0.02))
    engine = make(server)
    assert run(engine, leave)
    stats = engine.stats()
    assert (stats["cancelled"], stats["running"]) == (1, 0)


@both
def test_cancelling_the_task_closes_the_connection(server: Loopback, make: Make) -> None:
    async def cancel(engine: RemoteEngine) -> bool:
        task = asyncio.create_task(complete(engine, ASKED))
        while not server.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.to_thread(left, server)

    server.script(Answer(delay_s=30))
    engine = make(server)
    assert run(engine, cancel) and engine.stats()["cancelled"] == 1


# --- health -------------------------------------------------------------------------------------------------------


@both
def test_health(server: Loopback, make: Make) -> None:
    assert run(make(server), lambda it: it.health()) is None
    with pytest.raises(EngineError, match="Set .*_API_KEY"):
        run(make(server, api_key="wrong"), lambda it: it.health())


def test_health_names_the_models_that_there_are(server: Loopback) -> None:
    with pytest.raises(EngineError, match="has no model 'huge': it has tiny"):
        run(OpenAIEngine("huge", server.url, api_key=KEY), lambda it: it.health())


@pytest.mark.parametrize("use", [lambda it: it.health(), lambda it: complete(it, ASKED)], ids=["health", "stream"])
def test_a_server_that_is_not_there(use: Callable[[RemoteEngine], Awaitable[Any]]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = OpenAIEngine(MODEL, f"http://user:secret@127.0.0.1:{port}/v1", sleep=Waits())
    with pytest.raises(EngineError, match=f"the connection to http://127.0.0.1:{port}/v1/ failed") as failure:
        run(engine, use)
    assert "secret" not in str(failure.value)
