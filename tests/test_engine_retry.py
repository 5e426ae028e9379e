"""When a remote engine's call is tried again, and the scripted engine that stands in for one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.chat import ChatRequest, Chunk, EngineBusy, EngineError, Usage, complete
from actors.engine.protocol import Incomplete, Malformed, ReplyReader
from actors.engine.retry import Backoff, Failure, kind_of, retry_after_s
from actors.engine.scripted import Script, ScriptedEngine

BUSY = Failure("busy", "later")
NOON = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


# --- the policy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "", "busy"), (429, "rate_limit_exceeded", "busy"), (429, "insufficient_quota", "key"),
        (401, "", "key"), (402, "", "key"), (403, "", "key"), (400, "", "request"), (404, "", "request"),
        (422, "", "request"), (408, "", "transient"), (409, "", "transient"), (500, "", "transient"),
        (503, "", "transient"), (529, "", "transient"), (None, "", "transient"), (302, "", "broken"),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int | None, code: str, kind: str) -> None:
    assert kind_of(status, code) == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "0.5"}, 0.5), ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25), ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None), ({"retry-after": "inf"}, None), ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 09 Sep 2001 01:46:50 GMT"}, 10.0),
        ({"retry-after": "Sun, 09 Sep 2001 01:46:50"}, 10.0),
        ({"retry-after": "Sun, 09 Sep 2001 01:46:30 GMT"}, 0.0),
    ],
)  # fmt: skip
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOON) == seconds


def test_waits_grow_up_to_the_cap_and_the_attempts_end() -> None:
    backoff = Backoff(attempts=6, base_s=1.0, cap_s=6.0)
    assert [backoff.wait_s(BUSY, i, 1e9, 1.0) for i in range(1, 7)] == [1.0, 2.0, 4.0, 6.0, 6.0, None]
    assert [backoff.wait_s(BUSY, i, 1e9, 0.0) for i in range(1, 7)] == [0.0] * 5 + [None]
    assert Backoff(attempts=10**6).ceiling_s(10**5) == Backoff().cap_s


@pytest.mark.parametrize("kind", ["key", "request", "broken"])
def test_what_waiting_does_not_cure_is_not_waited_for(kind: Any) -> None:
    assert Backoff().wait_s(Failure(kind, "no", 1.0), 1, 1e9, 0.5) is None


def test_a_servers_wish_counts_but_not_without_end() -> None:
    backoff = Backoff(base_s=0.5, longest_s=60.0)
    assert backoff.wait_s(Failure("busy", "", 30.0), 1, 1e9, 0.5) == 30.25
    assert backoff.wait_s(Failure("busy", "", 61.0), 1, 1e9, 0.0) is None
    assert backoff.wait_s(Failure("busy", "", 30.0), 1, 29.0, 0.0) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True), st.floats(0, 100), st.none() | st.floats(0, 100))
def test_a_wait_fits_the_deadline_and_the_servers_wish(
    attempt: int, jitter: float, left_s: float, asked: float | None
) -> None:
    backoff = Backoff()
    wait = backoff.wait_s(Failure("busy", "", asked), attempt, left_s, jitter)
    if wait is None:
        longest = backoff.ceiling_s(attempt) if asked is None else asked + backoff.base_s
        assert attempt >= backoff.attempts or longest >= left_s or (asked or 0) > backoff.longest_s
    else:
        assert (asked or 0.0) <= wait < left_s and attempt < backoff.attempts


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base_s": -1.0}])
def test_a_back_off_must_make_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(**wrong)


# --- the reader ---------------------------------------------------------------------------------------------------


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": finish_reason}]}


def read(*events: Any) -> list[Chunk]:
    reader = ReplyReader()
    return [chunk for event in events if (chunk := reader.read(event))] + [reader.last()]


def test_one_event_may_end_the_thinking_and_begin_the_answer() -> None:
    chunks = read(delta(reasoning="so"), delta(reasoning=" be it", content="7"), delta(content="!"), delta("stop"))
    assert [chunk.text for chunk in chunks] == ["<think>so", " be it</think>7", "!", ""]


def test_tokens_are_counted_by_their_ids_where_those_come_along() -> None:
    chunks = read(delta(content="a b c", tokens=[1, 2, 3]), delta(content="d"), delta("length"))
    assert [chunk.tokens for chunk in chunks] == [3, 1, 0] and chunks[-1].usage == Usage(0, 4)


def test_the_last_usage_wins_and_a_null_one_is_none() -> None:
    growing = [delta(content="a") | {"usage": {"prompt_tokens": 5, "completion_tokens": n}} for n in (1, 2)]
    chunks = read(*growing, delta("stop") | {"usage": None})
    assert chunks[-1].usage == Usage(5, 2)


@pytest.mark.parametrize("reason", [None, "content_filter", "tool_calls", "abort"])
def test_a_reply_without_a_good_end_is_incomplete(reason: str | None) -> None:
    with pytest.raises(Incomplete, match=reason or "without a finish reason"):
        read(delta(content="a"), delta(reason))


@pytest.mark.parametrize(
    "event",
    [
        7, None, [], "x", {"choices": 7}, {"choices": {"a": 1}}, {"choices": ["x"]}, {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"content": 7}}]}, {"choices": [{"delta": {"content": ["a"]}}]},
        {"choices": [{"delta": {"reasoning": {"a": "b"}}}]}, {"usage": 7}, {"usage": {"prompt_tokens": "many"}},
        {"time_info": {"queue_time": "long"}}, {"time_info": [1]}, {"choices": [{"text": "a", "tokens": 7}]},
        {"choices": [{"text": "a", "logprobs": {"content": [{}]}}]}, {"choices": [{"text": "a", "logprobs": "x"}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]},
    ],
)  # fmt: skip
def test_an_event_of_another_shape_is_malformed(event: Any) -> None:
    with pytest.raises(Malformed):
        ReplyReader().read(event)


# --- the scripted engine ------------------------------------------------------------------------------------------

ASKED = ChatRequest(({"role": "user", "content": "two words"},))


def test_a_script_is_said_word_by_word() -> None:
    engine = ScriptedEngine(lambda request: f"you said: {request.messages[-1]['content']} ")
    reply = asyncio.run(complete(engine, ASKED))
    assert reply.text == "you said: two words " and reply.usage == Usage(2, 5) and reply.finish_reason == "stop"
    assert (engine.started, engine.finished, engine.running, engine.requests) == (1, 1, 0, [ASKED])


def test_a_script_is_cut_at_the_limit_and_has_logprobs_if_asked() -> None:
    engine = ScriptedEngine(lambda _: Script("a b c", logprob=-0.5, version=4, timing={"queue_time": 1.0}))
    reply = asyncio.run(complete(engine, ChatRequest(prompt="p", max_tokens=2, top_logprobs=0)))
    assert (reply.text, reply.finish_reason, reply.version) == ("a b", "length", 4)
    assert [token.logprob for token in reply.logprobs] == [-0.5, -0.5] and reply.timing == {"queue_time": 1.0}


def test_scripted_delays_go_through_the_given_sleep() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    engine = ScriptedEngine(lambda _: Script(pieces=("a", "b"), delay_s=30.0), sleep=sleep)
    assert asyncio.run(complete(engine, ASKED)).text == "ab" and slept == [30.0, 30.0]


@pytest.mark.parametrize("script", [EngineBusy("full"), Script("a b c", failure=EngineError("lost"), fail_after=2)])
def test_scripted_failures(script: Any) -> None:
    engine, texts = ScriptedEngine(lambda _: script), []

    async def consume() -> None:
        async for chunk in engine.stream(ASKED):
            texts.append(chunk.text)

    with pytest.raises(EngineError, match="full|lost"):
        asyncio.run(consume())
    assert texts == ([] if isinstance(script, Exception) else ["a", " b"])
    assert (engine.failed, engine.cancelled, engine.running) == (1, 0, 0)


def test_a_scripted_reply_that_is_left_counts_as_cancelled() -> None:
    async def scenario() -> tuple[int, int]:
        engine = ScriptedEngine(lambda _: Script("a b", delay_s=3600.0))
        task = asyncio.create_task(complete(engine, ASKED))
        await asyncio.sleep(0)
        running = engine.running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return running, engine.cancelled

    assert asyncio.run(scenario()) == (1, 1)


def test_scripted_health() -> None:
    engine = ScriptedEngine(str)
    asyncio.run(engine.health())
    engine.unhealthy = EngineError("no")
    with pytest.raises(EngineError, match="no"):
        asyncio.run(engine.health())
    asyncio.run(engine.close())
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(engine.health())
