"""Who is answered, and how much: keys, loopback, content types, bounds, rates, admission."""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_backend import CHAT, COMPLETIONS, HELLO, THREE, WAIT, FakeBackend, chat, client, error, send

from deployments.gateway import GatewaySettings, create_app
from deployments.jobs import ReplySettings
from deployments.limits import Keys, LimitSettings, digest_of

KEYS = GatewaySettings(keys=Keys({digest_of("sesame"): "alice", digest_of("open"): "bob"}))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic sesame", "sesame"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/models", "/v1/models/raythink", "/metrics"])
def test_without_a_known_key_nothing_is_told(path, header):
    headers = {} if header is None else {"authorization": header}
    backend = FakeBackend()
    method = "POST" if path in (CHAT, COMPLETIONS) else "GET"
    response = send(method, path, backend, KEYS, headers=headers, content=b"{")
    assert "API key" in error(response, 401, code="invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer" and backend.requests == []


def test_a_known_key_opens_from_anywhere():
    headers = {"authorization": "Bearer sesame"}
    response = send("POST", CHAT, None, KEYS, json=HELLO, headers=headers, address="203.0.113.5")
    assert response.status_code == 200
    assert send("GET", "/health", None, KEYS, address="203.0.113.5").status_code == 200


@pytest.mark.parametrize(
    ("address", "base_url"),
    [
        ("203.0.113.5", "http://127.0.0.1"),
        ("127.0.0.1", "http://rebound.example"),
        ("203.0.113.5", "http://a.example"),
    ],
)
def test_without_keys_only_this_machine_is_answered(address, base_url):
    response = send("POST", CHAT, json=HELLO, address=address, base_url=base_url)
    assert "this machine only" in error(response, 403)


def test_foreign_pages_cannot_send_what_counts_as_json():
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data; boundary=x"):
        response = send("POST", CHAT, content=json.dumps(HELLO), headers={"content-type": kind})
        error(response, 415, code="invalid_content_type")
        assert "access-control-allow-origin" not in response.headers
    ok = {"content-type": "Application/JSON; charset=utf-8"}
    assert send("POST", CHAT, content=json.dumps(HELLO), headers=ok).status_code == 200


def test_a_body_is_bounded_whether_its_length_is_told_or_not():
    settings = GatewaySettings(max_body_bytes=1000)
    long = json.dumps(HELLO | {"user": "x" * 1000}).encode()

    async def dribble():
        for at in range(0, len(long), 100):
            yield long[at : at + 100]

    headers = {"content-type": "application/json"}
    error(send("POST", CHAT, None, settings, content=long, headers=headers), 413, code="request_too_large")
    error(send("POST", CHAT, None, settings, content=dribble(), headers=headers), 413, code="request_too_large")


def test_a_body_must_come_in_time():
    async def stuck():
        yield b'{"messages"'
        await asyncio.sleep(60)

    settings = GatewaySettings(body_timeout_s=0.02)
    response = send("POST", CHAT, None, settings, content=stuck(), headers={"content-type": "application/json"})
    error(response, 408, code="request_timeout")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 10**400}, "max_tokens"),
        ({"n": 5}, "n"),
        ({"raythink": {"n": 9}}, "raythink.n"),
        ({"raythink": {"n": 128}}, "raythink.n"),
    ],
)
def test_a_server_has_bounds_of_its_own(body, param):
    settings = GatewaySettings(replies=ReplySettings(max_tokens=100, max_choices=4, max_candidates=8))
    assert "at most" in error(chat(None, settings, **body), 400, param, "invalid_value")


def test_the_number_of_messages_and_prompts_is_bounded():
    settings = GatewaySettings(replies=ReplySettings(max_messages=2, max_choices=4))
    error(chat(None, settings, messages=HELLO["messages"] * 3), 400, "messages", "too_many_messages")
    body = {"prompt": ["a"] * 3, "n": 2}
    error(send("POST", COMPLETIONS, None, settings, json=body), 400, "prompt", "invalid_value")


def test_each_key_has_its_rate():
    settings = GatewaySettings(keys=KEYS.keys, limits=LimitSettings(requests_per_minute=30, request_burst=2))

    async def scene():
        async with client(create_app(FakeBackend(), settings, clock=lambda: 50.0)) as http:

            def ask(key):
                return http.post(CHAT, json=HELLO, headers={"authorization": f"Bearer {key}"})

            return (
                [await ask("sesame") for _ in range(3)],
                await ask("open"),
                (await http.get("/metrics", headers={"authorization": "Bearer open"})).text,
            )

    (first, _, refused), other, metrics = asyncio.run(scene())
    assert first.headers["x-ratelimit-limit-requests"] == "30"
    assert first.headers["x-ratelimit-remaining-requests"] == "1" and other.status_code == 200
    assert "30 requests a minute" in error(refused, 429, code="rate_limit_exceeded")
    assert refused.headers["retry-after"] == "2"
    assert 'raythink_gateway_refused_total{reason="requests"} 1.0' in metrics


def test_a_full_server_refuses_before_a_queue_grows():
    limits = LimitSettings(capacity=3, max_waiting=1, concurrent_per_key=3)

    async def scene():
        backend = FakeBackend([WAIT, *THREE])
        async with client(create_app(backend, GatewaySettings(limits=limits))) as http:
            waiting = [asyncio.create_task(http.post(CHAT, json=HELLO)) for _ in range(2)]
            while len(backend.requests) < 1 or "waiting 1.0" not in (await http.get("/metrics")).text:
                await asyncio.sleep(0)
            refused = [await http.post(CHAT, json=HELLO | {"stream": stream}) for stream in (False, True)]
            refused.append(await http.post(CHAT, content=b"not read"))  # what is refused anyway is not read
            assert len(backend.requests) == 1  # the second one waits, the others never came through
            backend.go()
            return refused, [await task for task in waiting]

    refused, answered = asyncio.run(scene())
    for response in refused:
        assert "queue is full" in error(response, 429, code="rate_limit_exceeded")
        assert int(response.headers["retry-after"]) >= 1
    assert [response.status_code for response in answered] == [200, 200]


def test_without_a_limit_no_limit_is_told():
    unlimited = GatewaySettings(limits=LimitSettings(requests_per_minute=0))
    assert not [name for name in chat(settings=unlimited).headers if name.startswith("x-ratelimit")]
