"""Malformed bodies get a clean 4xx in OpenAI's format: never a 5xx, never an echo of the body, nothing upstream.

What is malformed follows from the app's own OpenAPI description: for every field, every kind of value that its schema
does not allow.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_backend import HELLO, FakeBackend, client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gateway import GatewaySettings, create_app
from deployments.limits import LimitSettings
from deployments.schemas import ChatCompletionRequest, CompletionRequest, openapi_body

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
VALID = {CHAT: HELLO, COMPLETIONS: {"prompt": "a"}}
SCHEMAS = {
    path: openapi_body(model)["content"]["application/json"]["schema"]
    for path, model in ((CHAT, ChatCompletionRequest), (COMPLETIONS, CompletionRequest))
}
UNLIMITED = GatewaySettings(limits=LimitSettings(requests_per_minute=0, request_burst=1))
MARK = "SECRET-MARK"
VALUES = {
    "string": [MARK],
    "integer": [3, -(10**30)],
    "number": [0.5, 1e300],
    "boolean": [True],
    "null": [None],
    "array": [[], [MARK], [[[{}]]]],
    "object": [{}, {MARK: 1}],
}

# fmt: off
RAW = {
    "empty": b"", "space": b" \n", "no object": b"[]", "a string": b'"x"', "null": b"null", "a number": b"1",
    "cut off": json.dumps(HELLO).encode()[:-3], "trailing": json.dumps(HELLO).encode() + b"x", "two": b"{}{}",
    "single quotes": b"{'messages': []}", "comment": b'{"messages": [] /* x */}',
    "trailing comma": b'{"messages": [],}',
    "broken UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "cut UTF-8": b'{"messages": [{"role": "user", "content": "\xe2\x82"}]}',
    "overlong UTF-8": b'{"messages": [{"role": "user", "content": "\xc0\xaf"}]}',
    "UTF-8 surrogate": b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    "UTF-16": json.dumps(HELLO).encode("utf-16"), "BOM": b"\xef\xbb\xbf{}",
    "latin-1": '{"model": "é"}'.encode("latin-1"),
    "lone surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "lone low surrogate": b'{"messages": [{"role": "user", "content": "a\\udc00b"}]}',
    "null byte": b'{"messages": [{"role": "user", "content": "a\x00b"}]}',
    "escaped null": b'{"messages": [{"role": "user", "content": "a\\u0000b"}]}',
    "null byte in model": b'{"model": "\\u0000", "messages": [{"role": "user", "content": "x"}]}',
    "bare null byte": b"\x00", "control character": b'{"messages": "\x01"}', "bad escape": b'{"messages": "\\x41"}',
    "NaN": b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
    "NaN in an unknown field": b'{"x": NaN, "messages": [{"role": "user", "content": "x"}]}',
    "Infinity": b'{"top_p": Infinity, "messages": [{"role": "user", "content": "x"}]}',
    "-Infinity": b'{"seed": -Infinity, "messages": [{"role": "user", "content": "x"}]}',
    "1e999": b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
    "huge integer": b'{"seed": ' + b"9" * 5000 + b', "messages": [{"role": "user", "content": "x"}]}',
    "large integer": b'{"max_tokens": ' + b"9" * 300 + b', "messages": [{"role": "user", "content": "x"}]}',
    "deep arrays": b'{"x": ' + b"[" * 50000 + b"]" * 50000 + b"}",
    "deep objects": b'{"x": ' + b'{"a":' * 20000 + b"1" + b"}" * 20000 + b"}",
    "deep and open": b"[" * 100000, "deep content": b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
    "leading zero": b'{"max_tokens": 01, "messages": [{"role": "user", "content": "x"}]}',
    "hex": b'{"max_tokens": 0x10, "messages": [{"role": "user", "content": "x"}]}',
    "a form": b"messages=x&model=y", "XML": b"<messages/>", "binary": bytes(range(256)), "long garbage": b"{" * 200000,
}
CHAT_BODIES = [
    {"messages": []}, {"messages": [{}]}, {"messages": [{"role": "user"}]}, {"messages": [{"content": "x"}]},
    {"messages": [{"role": "robot", "content": "x"}]}, {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user", "content": None}]}, {"messages": [{"role": "user", "content": {"text": MARK}}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": MARK}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
    {"messages": [{"role": "user", "content": [MARK]}]}, {"messages": [{"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "system", "content": "x"}]}, {"messages": [HELLO["messages"]]}, {},
    *(HELLO | wrong for wrong in (
        {"n": 0}, {"n": -1}, {"n": 129}, {"n": 2, "raythink": {}}, {"temperature": -0.1}, {"temperature": 2.1},
        {"top_p": 0}, {"top_p": 1.1}, {"max_tokens": 0}, {"max_completion_tokens": 0}, {"max_tokens": 10**9},
        {"seed": 2**63},
        {"stop": ["a"] * 5}, {"stop": [""]}, {"stop": ""}, {"stop": "x" * 300}, {"stop": ["\x00"]}, {"logprobs": 5},
        {"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}, {"stream_options": {"include_usage": True}},
        {"response_format": {}}, {"response_format": {"type": "xml"}}, {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"response_format": {"type": "text", "json_schema": {"name": "x", "schema": {}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "", "schema": {}}}},
        {"reasoning_effort": "extreme"}, {"raythink": {"n": 0}}, {"raythink": {"n": 10**6}},
        {"raythink": {"plan": "no"}},
        {"raythink": {"explain": 1}}, {"tools": [{"type": "function"}]}, {"functions": [{"name": "f"}]},
        {"audio": {"voice": "x"}}, {"logit_bias": {"50": 1}}, {"frequency_penalty": 1}, {"presence_penalty": -3},
        {"model": "x" * 300}, {"n": 100}, {"n": True}, {"n": 1.0}, {"n": "1"},
    )),
]
COMPLETION_BODIES = [
    {}, {"prompt": ""}, {"prompt": []}, {"prompt": [[1, 2]]}, {"prompt": [1, 2]}, {"prompt": ["a", ""]},
    {"prompt": "\x00"},
    {"prompt": "a", "echo": True}, {"prompt": "a", "suffix": "b"}, {"prompt": "a", "best_of": 3},
    {"prompt": "a", "logprobs": -1}, {"prompt": "a", "logprobs": 21},
    {"prompt": ["a"] * 1000}, {"prompt": "a", "n": 1000},
]
# fmt: on


def kinds(schema):
    """The JSON types that a schema allows."""
    if "anyOf" in schema:
        return set().union(*map(kinds, schema["anyOf"]))
    if "type" not in schema:
        return set(VALUES) if "enum" not in schema else {"string"}
    return {"integer", "number"} if schema["type"] == "number" else {schema["type"]}


def wrong_types(path):
    """A body for each field and each kind of value that its schema does not allow."""
    for name, schema in SCHEMAS[path]["properties"].items():
        for kind, values in VALUES.items():
            if kind not in kinds(schema):
                yield from (VALID[path] | {name: value} for value in values)


BACKEND = FakeBackend()
APP = create_app(BACKEND, UNLIMITED)


def ask_all(cases):
    """The responses to (path, body) pairs, and the requests that came through to the backend."""

    async def scene():
        async with client(APP) as http:
            kind = {"content-type": "application/json"}
            return [await http.post(path, content=body, headers=kind) for path, body in cases]

    BACKEND.requests.clear()
    return BACKEND.requests, asyncio.run(scene())


def check_clean(response):
    assert 400 <= response.status_code < 500, response.text
    told = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"} and told["type"] == "invalid_request_error"
    assert isinstance(told["message"], str) and 0 < len(told["message"]) < 300
    assert MARK not in response.text


def test_two_hundred_malformed_bodies():
    objects = [(path, body) for path in VALID for body in wrong_types(path)]
    objects += [(CHAT, body) for body in CHAT_BODIES] + [(COMPLETIONS, body) for body in COMPLETION_BODIES]
    cases = [(path, body) for body in RAW.values() for path in VALID]
    cases += [(path, json.dumps(body).encode()) for path, body in objects]
    assert len(cases) >= 200
    requests, responses = ask_all(cases)
    for (path, body), response in zip(cases, responses):
        assert response.status_code in (400, 413), (path, body[:200], response.text)
        check_clean(response)
    assert requests == []


def test_a_field_that_is_wrong_is_named():
    cases = [
        ({"temperature": "hot"}, "temperature"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"tools": [{}]}, "tools"),
        ({"raythink": {"n": 0}}, "raythink.n"),
    ]
    _, responses = ask_all([(CHAT, json.dumps(HELLO | body).encode()) for body, _ in cases])
    for (_, param), response in zip(cases, responses):
        assert response.json()["error"]["param"] == param
        assert param.split(".")[0].split("[")[0] in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"unknown": 1},
        {"metadata": {"a": "b"}, "user": "me", "store": False, "service_tier": "auto"},
        {"tools": []},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"parallel_tool_calls": True},
        {"temperature": None, "n": None, "stop": None, "stream": None, "tools": None, "raythink": None, "seed": None},
        {"temperature": 1, "top_p": 1},
        {"messages": [{"role": "user", "content": "\U0001f600\u2028é"}]},
    ],
)
def test_what_changes_nothing_is_accepted(body):
    requests, (response,) = ask_all([(CHAT, json.dumps(HELLO | body).encode())])
    assert response.status_code == 200, response.text
    assert len(requests) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def bodies(draw):
    """A valid body with some of its fields replaced by anything; or anything at all."""
    path = draw(st.sampled_from([CHAT, COMPLETIONS]))
    names = st.sampled_from(sorted(SCHEMAS[path]["properties"]))
    body = VALID[path] | draw(st.dictionaries(names, JSON, max_size=4))
    anything = JSON.map(lambda value: json.dumps(value).encode())
    return path, draw(st.just(json.dumps(body).encode()) | anything | st.binary())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies())
def test_no_body_at_all_breaks_the_server(case):
    _, (response,) = ask_all([case])
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        check_clean(response)
