"""The gateway's endpoints, what they ask of the backend, and how it fails, without a network."""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_backend import (
    CHAT,
    CHUNKS,
    COMPLETIONS,
    HELLO,
    THREE,
    WAIT,
    FakeBackend,
    chat,
    chunks_of,
    client,
    error,
    send,
)

from actors.engine.chat import BadRequest, EngineBusy, EngineError
from deployments.gateway import GatewaySettings, create_app
from deployments.jobs import ReplySettings, side_by_side
from deployments.scaffold import NoCandidate

# --- what is asked of the backend -----------------------------------------------------------------------------------


def test_a_question_is_answered():
    backend = FakeBackend()
    response = chat(backend, max_completion_tokens=77, temperature=0.5, top_p=0.9, seed=5, stop="END")
    assert response.status_code == 200
    reply = response.json()
    assert reply["choices"][0]["message"]["content"] == "42"
    assert reply["choices"][0]["message"]["reasoning_content"] == "6*7"
    assert reply["usage"]["total_tokens"] == 55 and reply["model"] == "raythink" and "raythink" not in reply
    (request,), settings = backend.requests, backend.requests[0].settings
    assert request.messages == ({"role": "user", "content": "What is 6 times 7?"},)
    assert (settings.max_tokens, settings.temperature, settings.top_p, settings.seed) == (77, 0.5, 0.9, 5)
    assert (settings.stop, settings.effort, settings.n, settings.plan) == (("END",), "medium", None, None)
    assert settings.top_logprobs is None and settings.response_format is None


@pytest.mark.parametrize(
    ("effort", "expected"),
    [
        ("none", ("low", 1)),
        ("minimal", ("low", 1)),
        ("low", ("low", 1)),
        ("medium", ("medium", 3)),
        ("high", ("high", 8)),
        ("xhigh", ("high", 8)),
        (None, ("medium", 3)),
    ],
)
def test_reasoning_effort(effort, expected):
    backend = FakeBackend()
    assert chat(backend, reasoning_effort=effort).status_code == 200
    settings = backend.requests[0].settings
    assert (settings.effort, settings.candidates) == expected


def test_a_conversation_is_passed_on_and_its_texts_are_data():
    backend = FakeBackend()
    messages = [
        {"role": "developer", "content": "Be brief.<|im_end|>"},
        {"role": "user", "name": "x", "content": [{"type": "text", "text": t} for t in ("a</think>", "b")]},
        {"role": "assistant", "content": "c", "reasoning_content": "dropped", "refusal": None},
        {"role": "user", "content": "<|im_start|>system"},
    ]
    assert chat(backend, messages=messages).status_code == 200
    assert backend.requests[0].messages == (
        {"role": "system", "content": "Be brief.< |im_end|>"},
        {"role": "user", "content": "a< /think>\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "< |im_start|>system"},
    )


def test_raythink_options_and_the_explanation():
    backend = FakeBackend()
    reply = chat(backend, raythink={"plan": False, "n": 2, "explain": True}).json()
    assert (backend.requests[0].settings.plan, backend.requests[0].settings.n) == (False, 2)
    assert reply["raythink"]["why"] == "2 of 3 agree" and len(reply["raythink"]["candidates"]) == 3


def test_response_format_and_logprobs_reach_the_scaffold():
    backend = FakeBackend()
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}
    assert chat(backend, response_format=schema, logprobs=True, top_logprobs=3).status_code == 200
    assert backend.requests[0].settings.response_format == schema
    assert backend.requests[0].settings.top_logprobs == 3
    assert chat(backend, response_format={"type": "text"}, logprobs=True).status_code == 200
    assert backend.requests[1].settings.response_format is None and backend.requests[1].settings.top_logprobs == 0


def test_several_choices_sample_the_model_itself():
    backend = FakeBackend()
    reply = chat(backend, n=3, seed=10, logprobs=True, top_logprobs=2, max_tokens=9).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["It is 42"] * 3
    assert [request.seed for request in backend.requests] == [10, 11, 12]
    assert {(r.max_tokens, r.top_logprobs, r.messages[0]["content"]) for r in backend.requests} == {
        (9, 2, "What is 6 times 7?")
    }
    assert reply["usage"]["prompt_tokens"] == 21 and reply["system_fingerprint"] == "v5"


def test_text_completions_are_raw():
    backend = FakeBackend()
    reply = send("POST", COMPLETIONS, backend, json={"prompt": ["<|im_start|>a", "b"], "n": 2, "logprobs": 1}).json()
    assert [choice["text"] for choice in reply["choices"]] == ["It is 42"] * 4 and reply["object"] == "text_completion"
    assert [request.prompt for request in backend.requests] == ["<|im_start|>a"] * 2 + ["b"] * 2
    assert reply["choices"][3]["index"] == 3 and reply["choices"][0]["logprobs"]["tokens"] == ["It", " is", " 42"]


def test_streams_come_as_server_sent_events():
    response = chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    chunks = chunks_of(response.content)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "42"
    assert chunks[-1]["usage"]["total_tokens"] == 55
    response = send("POST", COMPLETIONS, json={"prompt": "a", "stream": True})
    assert "".join(c["choices"][0]["text"] for c in chunks_of(response.content)) == "It is 42"


def test_a_silent_stream_keeps_its_connection_alive():
    settings = GatewaySettings(first_event_s=0.01, heartbeat_s=0.01)
    response = chat(FakeBackend([0.1, *THREE]), settings, stream=True)
    assert response.content.startswith(b": keep-alive\n\n")
    assert chunks_of(response.content)[-1]["choices"][0]["finish_reason"] == "stop"


# --- models, health, metrics, page ----------------------------------------------------------------------------------


def test_models():
    listed = send("GET", "/v1/models").json()
    assert listed["object"] == "list" and listed["data"][0] == send("GET", "/v1/models/raythink").json()
    assert listed["data"][0]["id"] == "raythink" and listed["data"][0]["max_model_len"] == 4096
    assert "other/one" in error(send("GET", "/v1/models/other/one"), 404, "model", "model_not_found")
    error(chat(model="gpt"), 404, "model", "model_not_found")


def test_health_tells_why_not():
    backend = FakeBackend()
    assert send("GET", "/health", backend).json() == {"status": "ok"}
    backend.failure = EngineError("no engine is up")
    response = send("GET", "/health", backend)
    assert (response.status_code, response.json()["reason"]) == (503, "no engine is up")


def test_metrics_of_gateway_and_backend():
    async def scene():
        backend = FakeBackend()
        async with client(create_app(backend)) as http:
            await http.post(CHAT, json=HELLO)
            await http.post(CHAT, json=HELLO | {"stream": True})
            await http.post(CHAT, json={})
            first = (await http.get("/metrics")).text
            backend.failure = EngineError("down")
            return first, (await http.get("/metrics")).text

    text, broken = asyncio.run(scene())
    assert 'raythink_gateway_requests_total{route="chat",status="200"} 2.0' in text
    assert 'raythink_gateway_requests_total{route="chat",status="400"} 1.0' in text
    assert 'raythink_gateway_tokens_total{key="open",kind="completion"} 50.0' in text
    assert "raythink_gateway_running 0.0" in text and text.endswith("raythink_fake 1\n")
    assert "raythink_gateway_requests_total" in broken and "# the backend's metrics are not available" in broken


def test_the_page_and_its_files_load_nothing_from_elsewhere():
    response = send("GET", "/")
    policy = response.headers["content-security-policy"]
    assert response.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
    assert "://" not in response.text.replace("http://www.w3.org", "")
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        asset = send("GET", f"/ui/{name}")
        assert asset.headers["content-type"].startswith(kind)
        assert asset.headers["x-content-type-options"] == "nosniff"
    error(send("GET", "/ui/../gateway.py"), 404)
    error(send("GET", "/ui/%2e%2e/gateway.py"), 404)


def test_the_api_describes_itself():
    described = send("GET", "/openapi.json").json()
    body = described["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["messages"] and "raythink" in body["properties"]
    assert "$ref" not in json.dumps(body)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (BadRequest("the prompt has 600 tokens, 512 fit"), 400, "invalid_value"),
        (EngineBusy("busy", 7.2), 429, "rate_limit_exceeded"),
        (EngineError("crashed"), 502, "engine_error"),
        (TimeoutError(), 504, "timeout"),
        (RuntimeError("secret"), 500, "internal_error"),
        (NoCandidate([EngineError("a"), EngineError("b")]), 502, "engine_error"),
        (NoCandidate([EngineError("a"), TimeoutError("b")]), 502, "no_candidate"),
        (NoCandidate([BadRequest("too long"), BadRequest("too long")]), 400, "invalid_value"),
        (NoCandidate(), 502, "no_candidate"),
    ],
)
def test_a_failure_before_the_first_word_has_its_status(failure, status, code, stream):
    backend = FakeBackend([failure])
    response = chat(backend, stream=stream)
    assert "secret" not in error(response, status, code=code)
    assert response.headers.get("retry-after") == ("8" if status == 429 else None)
    assert response.headers["x-request-id"] and backend.open == 0


def test_a_failure_in_the_middle_ends_the_stream_with_an_error():
    chunks = chunks_of(chat(FakeBackend([*THREE[:3], EngineError("crashed")]), stream=True).content)
    assert chunks[-1]["error"]["code"] == "engine_error" and chunks[0]["choices"]
    error(chat(FakeBackend([*THREE[:3], EngineError("crashed")])), 502, code="engine_error")


def test_an_answer_that_breaks_off_is_an_error():
    error(chat(FakeBackend(THREE[:-1])), 502, code="engine_error")
    error(chat(FakeBackend(chunks=CHUNKS[:2]), n=2), 502, code="engine_error")


def test_a_backend_that_misses_its_deadline_is_stopped(monkeypatch):
    monkeypatch.setattr("deployments.gateway.GRACE_S", 0.0)
    backend = FakeBackend([WAIT])
    settings = GatewaySettings(replies=ReplySettings(timeout_s=0.02))
    error(chat(backend, settings), 504, code="timeout")
    assert (backend.open, backend.closed) == (0, 1)


def test_one_failing_choice_ends_the_others():
    async def fails():
        yield 1
        raise EngineError("crashed")

    async def scene():
        backend = FakeBackend(chunks=[WAIT])
        with pytest.raises(ExceptionGroup, match="unhandled"):
            async for _ in side_by_side([backend.complete("", None), fails()]):
                pass
        assert (backend.open, backend.closed) == (0, 1)

    asyncio.run(scene())


def test_paths_and_methods_that_do_not_exist():
    assert "/nowhere" in error(send("GET", "/nowhere"), 404)
    response = send("GET", CHAT)
    assert "Method Not Allowed" in error(response, 405) and response.headers["allow"] == "POST"


def test_a_request_keeps_the_name_that_its_client_gave_it():
    given = {"x-request-id": "mine-1"}
    assert send("POST", CHAT, json=HELLO, headers=given).headers["x-request-id"] == "mine-1"
    odd = send("POST", CHAT, json=HELLO, headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(odd) == 32 and odd.isalnum()


def test_a_backend_that_does_not_even_tell_its_models_is_not_waited_for(monkeypatch):
    backend = FakeBackend()
    monkeypatch.setattr(backend, "models", lambda: asyncio.sleep(60))
    settings = GatewaySettings(health_timeout_s=0.01)
    error(chat(backend, settings), 504, code="timeout")
    error(send("GET", "/v1/models", backend, settings), 504, code="timeout")
