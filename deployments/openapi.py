"""What /openapi.json says of the replies: every status that an endpoint may answer with, and in which form. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

Json = dict[str, Any]

_TEXT = {"type": "string"}
_MAYBE = {"anyOf": [_TEXT, {"type": "null"}]}
ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _MAYBE, "code": _MAYBE},
        }
    },
}
USAGE: Json = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
}
REPLY: Json = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": _TEXT,
        "object": _TEXT,
        "created": {"type": "integer"},
        "model": _TEXT,
        "system_fingerprint": _TEXT,
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": USAGE,
        "raythink": {"type": "object"},
    },
}
MODEL: Json = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {"id": _TEXT, "object": _TEXT, "created": {"type": "integer"}, "owned_by": _TEXT},
}
MODELS: Json = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": _TEXT, "data": {"type": "array", "items": MODEL}},
}
HEALTH: Json = {"type": "object", "required": ["status"], "properties": {"status": _TEXT, "reason": _TEXT}}

WHY = {
    400: "the request is wrong; `param` names the field",
    401: "an API key is needed, or is not known",
    403: "without API keys the server answers its own machine only",
    404: "no such model",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests; Retry-After says when to come back",
    500: "a bug of the server's",
    502: "the model failed",
    503: "the model is not there; try again",
    504: "the reply took too long",
}
AUTH = (401, 403)
POST = (400, *AUTH, 404, 408, 413, 415, 429, 500, 502, 503, 504)


def _said(why: str, schema: Json, kind: str = "application/json") -> Json:
    return {"description": why, "content": {kind: {"schema": schema}}}


def errors(*statuses: int) -> Json:
    """The entries of these statuses in OpenAI's error format."""
    return {status: _said(WHY[status], ERROR) for status in statuses}


def _retry_after(entries: Json) -> Json:
    entries[429]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
    return entries


def responses() -> Mapping[str, Json]:
    """By path: what FastAPI takes as `responses`."""
    reply = _said("the reply; with stream: true, its chunks as server-sent events", REPLY)
    reply["content"]["text/event-stream"] = {"schema": _TEXT}
    posted = {200: reply, **_retry_after(errors(*POST))}
    return {
        "/v1/chat/completions": posted,
        "/v1/completions": posted,
        "/v1/models": {200: _said("the models on offer", MODELS), **errors(*AUTH, 500, 504)},
        "/v1/models/{name:path}": {200: _said("the model", MODEL), **errors(*AUTH, 404, 500, 504)},
        "/health": {200: _said("questions can be answered", HEALTH), 503: _said("they cannot, and why", HEALTH)},
        "/metrics": {200: _said("counters in Prometheus's format", _TEXT, "text/plain"), **errors(*AUTH)},
    }


def describe(app: FastAPI) -> None:
    """Leave out of the app's description what FastAPI adds on its own: its 422s, which never occur here."""
    made = app.openapi

    def openapi() -> Json:
        schema = made()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(unused, None)
        return schema

    app.openapi = openapi
