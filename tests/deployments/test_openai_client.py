"""The real clients against a real server on loopback: OpenAI's SDK, sync and async, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import openai
import pytest
from fake_backend import CHUNKS, HELLO, THREE, WAIT, FakeBackend, chunks_of, serving, wait_until

from actors.engine.chat import EngineBusy, EngineError
from deployments.gateway import GatewaySettings
from deployments.limits import Keys, digest_of

MESSAGES = HELLO["messages"]
SETTINGS = GatewaySettings(keys=Keys({digest_of("sesame"): "alice"}), first_event_s=0.2)


@pytest.fixture(scope="module")
def server():
    """(backend, URL): one server; tests set the backend's script."""
    backend = FakeBackend()
    with serving(backend, SETTINGS) as url:
        yield backend, url


@pytest.fixture
def backend(server):
    fresh = FakeBackend()
    server[0].__dict__.update(fresh.__dict__)
    return server[0]


@pytest.fixture
def sdk(server):
    with openai.OpenAI(base_url=f"{server[1]}/v1", api_key="sesame", max_retries=0, timeout=20) as client:
        yield client


def test_chat(sdk, backend):
    reply = sdk.chat.completions.create(model="raythink", messages=MESSAGES, reasoning_effort="high", seed=3)
    assert reply.choices[0].message.content == "42" and reply.usage.total_tokens == 55
    assert reply.choices[0].message.reasoning_content == "6*7" and reply.choices[0].finish_reason == "stop"
    assert backend.requests[0].settings.effort == "high"


def test_explained(sdk, backend):
    extra = {"raythink": {"explain": True, "n": 3}}
    reply = sdk.chat.completions.create(model="raythink", messages=MESSAGES, extra_body=extra)
    assert reply.raythink["plan"]["steps"] == ["Multiply.", "Check."] and reply.raythink["winner"] == 0


def test_chat_streamed(sdk, backend):
    stream = sdk.chat.completions.create(
        model="raythink", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    content, reasoning, usage = "", "", None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    assert content == "42" and reasoning.startswith("Plan:\nMultiply.") and usage.completion_tokens == 25


def test_the_streaming_helper_of_the_sdk(sdk, backend):
    with sdk.chat.completions.stream(model="raythink", messages=MESSAGES) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "42" and final.choices[0].finish_reason == "stop"


def test_choices_with_logprobs(sdk, backend):
    reply = sdk.chat.completions.create(model="raythink", messages=MESSAGES, n=2, logprobs=True, top_logprobs=2)
    assert [choice.message.content for choice in reply.choices] == ["It is 42"] * 2
    token = reply.choices[1].logprobs.content[0]
    assert (token.token, token.logprob, token.top_logprobs[0].token) == ("It", -0.5, "It")


def test_parsed_json(sdk, backend):
    import pydantic

    class Found(pydantic.BaseModel):
        value: int

    backend.script = [*THREE[:-1], THREE[-1].__class__(**{**vars(THREE[-1]), "answer": '{"value": 42}'})]
    reply = sdk.chat.completions.parse(model="raythink", messages=MESSAGES, response_format=Found)
    assert reply.choices[0].message.parsed == Found(value=42)
    assert backend.requests[0].settings.response_format["json_schema"]["name"] == "Found"


def test_completions(sdk, backend):
    reply = sdk.completions.create(model="raythink", prompt=["a", "b"], max_tokens=5, logprobs=2)
    assert [choice.text for choice in reply.choices] == ["It is 42", "It is 42"]
    assert reply.choices[0].logprobs.tokens == ["It", " is", " 42"]
    stream = sdk.completions.create(model="raythink", prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "It is 42"


def test_models(sdk, backend):
    assert [model.id for model in sdk.models.list()] == ["raythink"]
    assert sdk.models.retrieve("raythink").owned_by == "raythink"


def test_errors_are_the_sdks_own(sdk, backend):
    with pytest.raises(openai.NotFoundError, match="does not exist here") as caught:
        sdk.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature: Input should be less than or equal to 2"):
        sdk.chat.completions.create(model="raythink", messages=MESSAGES, temperature=9)
    with pytest.raises(openai.AuthenticationError, match="not known"):
        sdk.with_options(api_key="wrong").models.list()
    backend.script = [EngineBusy("busy")]
    with pytest.raises(openai.RateLimitError):
        sdk.chat.completions.create(model="raythink", messages=MESSAGES)
    backend.script = [TimeoutError()]
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(model="raythink", messages=MESSAGES, stream=True)
    assert caught.value.status_code == 504


def test_an_error_in_a_stream_is_raised_by_the_sdk(sdk, backend):
    backend.script = [*THREE[:3], EngineError("crashed")]
    stream = sdk.chat.completions.create(model="raythink", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="crashed"):
        list(stream)


def test_the_sdk_tries_again_when_it_is_told_to(sdk, backend, monkeypatch):
    replies = [[EngineBusy("busy", 1)], [EngineError("down")], THREE]
    monkeypatch.setattr(backend, "answer", lambda request: backend._play(replies.pop(0)))
    waits = []
    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    reply = sdk.with_options(max_retries=2).chat.completions.create(model="raythink", messages=MESSAGES)
    assert reply.choices[0].message.content == "42" and replies == []
    assert waits[0] == 1.0 and len(waits) == 2  # the first as Retry-After says


def test_async(server, backend):
    async def scene():
        async with openai.AsyncOpenAI(base_url=f"{server[1]}/v1", api_key="sesame", max_retries=0) as client:
            ask = client.chat.completions.create
            replies = await asyncio.gather(*(ask(model="raythink", messages=MESSAGES) for _ in range(5)))
            stream = await ask(model="raythink", messages=MESSAGES, stream=True)
            content = [c.choices[0].delta.content or "" async for c in stream]
        return [reply.choices[0].message.content for reply in replies], "".join(content)

    assert asyncio.run(scene()) == (["42"] * 5, "42")


# --- who leaves takes the work along --------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [[WAIT], [*THREE[:3], WAIT]], ids=["before the first word", "in the middle"])
def test_a_closed_stream_cancels_the_backend(sdk, backend, script):
    backend.script = script
    stream = sdk.chat.completions.create(model="raythink", messages=MESSAGES, stream=True)
    wait_until(lambda: backend.open == 1)
    stream.close()
    wait_until(lambda: backend.closed == 1)
    assert backend.open == 0


@pytest.mark.parametrize("body", [{}, {"n": 2}], ids=["scaffold", "samples"])
def test_a_client_that_gives_up_cancels_the_backend(sdk, backend, body):
    backend.script, backend.chunks = [*THREE[:3], WAIT], (CHUNKS[0], WAIT)
    with pytest.raises(openai.APITimeoutError):
        sdk.with_options(timeout=0.2).chat.completions.create(model="raythink", messages=MESSAGES, **body)
    wait_until(lambda: backend.closed == body.get("n", 1))
    assert backend.open == 0


def test_an_async_client_that_is_cancelled_cancels_the_backend(server, backend):
    backend.script = [*THREE[:3], WAIT]

    async def scene():
        async with openai.AsyncOpenAI(base_url=f"{server[1]}/v1", api_key="sesame", max_retries=0) as client:
            async with asyncio.timeout(5):
                stream = await client.chat.completions.create(model="raythink", messages=MESSAGES, stream=True)
                await anext(aiter(stream))
            await stream.close()

    asyncio.run(scene())
    wait_until(lambda: backend.closed == 1)
    assert backend.open == 0


# --- curl -----------------------------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(url, *arguments):
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--include", "--no-buffer", *arguments, url]
    done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


JSON = ("--header", "content-type: application/json", "--header", "authorization: Bearer sesame")


@needs_curl
def test_curl(server, backend):
    url = f"{server[1]}/v1/chat/completions"
    status, _, body = curl(url, *JSON, "--data", json.dumps(HELLO))
    assert status == 200 and json.loads(body)["choices"][0]["message"]["content"] == "42"
    status, head, body = curl(url, *JSON, "--data", json.dumps(HELLO | {"stream": True}))
    assert status == 200 and "text/event-stream" in head and chunks_of(body)[0]["object"] == "chat.completion.chunk"
    status, head, _ = curl(url, "--data", "{}")
    assert status == 401 and "www-authenticate: bearer" in head
    status, _, body = curl(url, "--data", "{}", "--header", "authorization: Bearer sesame")
    assert status == 415 and "application/json" in json.loads(body)["error"]["message"]


@needs_curl
def test_a_body_that_is_too_large_is_refused_at_once(server, backend, tmp_path):
    path = tmp_path / "large.json"
    path.write_bytes(b" " * (3 << 20))
    status, _, body = curl(f"{server[1]}/v1/chat/completions", *JSON, "--data-binary", f"@{path}")
    assert status == 413 and json.loads(body)["error"]["code"] == "request_too_large"
