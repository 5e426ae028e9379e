"""The HTTP API: OpenAI's endpoints in front of a Backend, and the page that uses them.

A request passes, in this order: its key, its key's rate, its body (bounded in size, time and shape), its key's
concurrency, the admission queue. Whatever is refused costs nothing upstream, says why in OpenAI's format, and says when
to come back if that helps. From then on client and backend live together: if one goes, so does the other.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from deployments.backend import Backend, ModelCard
from deployments.errors import ApiError, api_error, unauthorized, unknown_model
from deployments.folding import fold
from deployments.jobs import Job, ReplySettings, chat_job, completion_job
from deployments.limits import OPEN, Admission, Keys, LimitSettings, RateLimits, Refused, is_loopback
from deployments.openapi import describe, responses
from deployments.schemas import ChatCompletionRequest, CompletionRequest, openapi_body, parse
from deployments.streaming import Json, encode_event, encode_json
from deployments.telemetry import Telemetry
from deployments.transport import Driven, EventStream, read_body, unless_gone

log = logging.getLogger(__name__)

UI = Path(__file__).parent / "ui"
GRACE_S = 10.0  # the backend has its deadline; the gateway's own comes later, for a backend that misses it
API_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
PAGE_HEADERS = API_HEADERS | {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class GatewaySettings:
    """Keys, limits, and how long the gateway waits for what, in seconds."""

    keys: Keys = field(default_factory=lambda: Keys({}))
    limits: LimitSettings = LimitSettings()
    replies: ReplySettings = ReplySettings()
    max_body_bytes: int = 1 << 20
    body_timeout_s: float = 20.0
    first_event_s: float = 1.0  # how long a stream's status waits for the backend's first sign
    heartbeat_s: float = 10.0
    send_timeout_s: float = 30.0
    health_timeout_s: float = 5.0


def create_app(
    backend: Backend, settings: GatewaySettings | None = None, clock: Callable[[], float] = time.monotonic
) -> FastAPI:
    """The app that serves `backend`; it starts nothing and owns nothing that would need closing."""
    gateway = Gateway(backend, settings or GatewaySettings(), clock)
    app = FastAPI(title="raythink", docs_url=None, redoc_url=None)  # their pages load scripts from the network
    told = responses()
    posts = [
        ("/v1/chat/completions", gateway.chat_completions, ChatCompletionRequest),
        ("/v1/completions", gateway.completions, CompletionRequest),
    ]
    for path, endpoint, body in posts:
        extra = {"requestBody": openapi_body(body)}
        app.add_api_route(path, endpoint, methods=["POST"], openapi_extra=extra, responses=told[path])
    gets = [
        ("/v1/models", gateway.models),
        ("/v1/models/{name:path}", gateway.model),
        ("/health", gateway.health),
        ("/metrics", gateway.metrics),
    ]
    for path, endpoint in gets:
        how = {"response_class": PlainTextResponse} if path == "/metrics" else {}
        app.add_api_route(path, endpoint, methods=["GET"], responses=told[path], **how)
    app.add_api_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/ui", Assets(directory=UI))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _any_error)
    describe(app)
    return app


class Assets(StaticFiles):
    """The page's own files, with the page's headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


async def page() -> Response:
    """The page."""
    return FileResponse(UI / "index.html", media_type="text/html", headers=PAGE_HEADERS)


class Gateway:
    """The endpoints, and what they share: limits, admission, counters."""

    def __init__(self, backend: Backend, settings: GatewaySettings, clock: Callable[[], float]):
        self._backend, self._settings, self._clock = backend, settings, clock
        self._rates = RateLimits(settings.limits, clock)
        self._admission = Admission(settings.limits.capacity, settings.limits.max_waiting, clock)
        self._telemetry = Telemetry(lambda: self._admission.weight, lambda: self._admission.waiting)

    # --- endpoints ------------------------------------------------------------------------------------------------

    async def chat_completions(self, request: Request) -> Response:
        """A conversation's next message, in OpenAI's format; `raythink` in the body shows how it came about."""
        return await self._reply(request, "chat", ChatCompletionRequest, chat_job)

    async def completions(self, request: Request) -> Response:
        """A text's continuation, in OpenAI's older format."""
        return await self._reply(request, "completions", CompletionRequest, completion_job)

    async def models(self, request: Request) -> Response:
        """The models on offer."""
        try:
            self._owner(request)
            cards = await self._cards()
        except Exception as error:
            return self._failed(error, _request_id(request))
        return _json({"object": "list", "data": [_card_json(card) for card in cards]})

    async def model(self, request: Request, name: str) -> Response:
        """One of the models on offer."""
        try:
            self._owner(request)
            return _json(_card_json(await self._card(name)))
        except Exception as error:
            return self._failed(error, _request_id(request))

    async def health(self) -> Response:
        """200 if questions can be answered, else 503 and why not."""
        try:
            async with asyncio.timeout(self._settings.health_timeout_s):
                await self._backend.health()
        except Exception as error:
            reason = str(error) or f"no sign of life within {self._settings.health_timeout_s:g} s"
            return _json({"status": "unavailable", "reason": reason}, 503)
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """The gateway's and the backend's counters, in Prometheus's text format."""
        try:
            self._owner(request)
        except ApiError as error:
            return self._failed(error, _request_id(request))
        try:
            async with asyncio.timeout(self._settings.health_timeout_s):
                inside = await self._backend.metrics()
        except Exception as error:
            log.warning("the backend's metrics are not available: %r", error)
            inside = "# the backend's metrics are not available\n"
        text = self._telemetry.text() + inside
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4", headers=API_HEADERS)

    # --- one reply ------------------------------------------------------------------------------------------------

    async def _reply(self, request: Request, route: str, schema: type, make_job: Callable[..., Job]) -> Response:
        """Answer a POST. `route` names it in the metrics."""
        turn = _Turn(route, self._clock(), _request_id(request))
        try:
            turn.owner = self._owner(request)
            self._rates.charge_request(turn.owner)
            self._admission.refuse_if_full()
            job = await self._job(request, schema, make_job)
            response = await (self._streamed(request, job, turn) if job.stream else self._whole(request, job, turn))
        except Exception as error:
            response = self._failed(error, turn.id)
            self._over(turn, response.status_code)
            return response
        response.headers["x-request-id"] = turn.id
        if per_minute := self._settings.limits.requests_per_minute:
            response.headers["x-ratelimit-limit-requests"] = f"{per_minute:g}"
            response.headers["x-ratelimit-remaining-requests"] = str(self._rates.remaining(turn.owner))
        return response

    async def _job(self, request: Request, schema: type, make_job: Callable[..., Job]) -> Job:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a foreign page may send without asking first is never JSON
            raise ApiError(415, "send JSON with the header content-type: application/json", code="invalid_content_type")
        settings = self._settings
        data = await read_body(request, settings.max_body_bytes, settings.body_timeout_s)
        body = parse(schema, data)
        return make_job(body, await self._card(body.model), self._backend, settings.replies)

    async def _whole(self, request: Request, job: Job, turn: _Turn) -> Response:
        async def collect() -> list[Json]:
            async with aclosing(self._admitted(job, turn)) as batches:
                return [chunk async for batch in batches for chunk in batch]

        reply = fold(await unless_gone(request.receive, collect()))
        self._over(turn, 200)
        return _json(reply)

    async def _streamed(self, request: Request, job: Job, turn: _Turn) -> Response:
        """A stream, once the backend gave a first sign or some time has passed: an early failure has its own status."""
        settings, batches = self._settings, Driven(self._admitted(job, turn))
        try:
            first = await unless_gone(request.receive, batches.next(settings.first_event_s))
        except BaseException:
            await batches.close()
            raise

        def failed(error: Exception) -> bytes:
            told = self._error_of(error, turn.id)
            turn.status = told.status
            return encode_event(told.body())

        return EventStream(
            batches,
            first,
            lambda batch: b"".join(map(encode_event, batch)),
            failed,
            lambda gone: self._over(turn, 499 if gone else turn.status),
            settings.heartbeat_s,
            settings.send_timeout_s,
        )

    async def _admitted(self, job: Job, turn: _Turn) -> AsyncIterator[list[Json]]:
        """The job's chunks, while it has a place. Its tokens are counted however it ends."""
        limits = self._settings.limits
        with self._rates.running(turn.owner):
            async with (
                self._admission.slot(job.weight, limits.max_wait_s),
                asyncio.timeout(self._settings.replies.timeout_s + GRACE_S),
            ):
                try:
                    async with aclosing(job.batches()) as batches:
                        async for batch in batches:
                            if turn.waiting:
                                turn.waiting = False
                                self._telemetry.first_chunk(turn.route, self._clock() - turn.started)
                            yield batch
                finally:
                    usage = job.encoder.usage
                    self._rates.charge_tokens(turn.owner, usage.total_tokens)
                    self._telemetry.used(turn.owner, usage.prompt_tokens, usage.completion_tokens)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _owner(self, request: Request) -> str:
        """The name under which the request counts. Raises ApiError if it may not be asked."""
        keys = self._settings.keys
        if not keys:
            host = request.client.host if request.client else ""
            # The Host header tells a page whose name was made to point here (DNS rebinding) from one of this machine.
            if is_loopback(host) and is_loopback(request.headers.get("host", "")):
                return OPEN
            raise ApiError(403, "without API keys this server answers this machine only", "permission_error")
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthorized("an API key is needed: send the header Authorization: Bearer KEY")
        owner = keys.owner(key.strip())
        if owner is None:
            raise unauthorized("this API key is not known")
        return owner

    async def _cards(self) -> Sequence[ModelCard]:
        async with asyncio.timeout(self._settings.health_timeout_s):
            return await self._backend.models()

    async def _card(self, name: str | None) -> ModelCard:
        """The model of this name, or the default one. Raises ApiError."""
        for card in await self._cards():
            if name in (None, card.id):
                return card
        raise unknown_model(name or "")

    def _error_of(self, error: Exception, request_id: str) -> ApiError:
        told = api_error(error)
        if told.status >= 500:
            log.error("request %s failed: %s", request_id, told.message, exc_info=error)
        return told

    def _failed(self, error: Exception, request_id: str) -> Response:
        if isinstance(error, Refused):
            self._telemetry.refused(error.reason)
        told = self._error_of(error, request_id)
        return _json(told.body(), told.status, {**told.headers, "x-request-id": request_id})

    def _over(self, turn: _Turn, status: int) -> None:
        if status == 499:
            self._telemetry.disconnected()
        self._telemetry.answered(turn.route, status, self._clock() - turn.started)


@dataclass
class _Turn:
    """One POST on its way: what is counted of it."""

    route: str
    started: float
    id: str
    owner: str = OPEN
    status: int = 200
    waiting: bool = True


def _request_id(request: Request) -> str:
    """The client's own name for the request, if it is a plain one, or a new one."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex


def _json(payload: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_json(payload), status, {**API_HEADERS, **(headers or {})}, "application/json")


def _card_json(card: ModelCard) -> Json:
    told = {"id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by}
    return told | ({"max_model_len": card.context} if card.context is not None else {})


async def _http_error(request: Request, error: HTTPException) -> Response:
    """What the router has to say: no such path, no such method."""
    told = ApiError(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")
    return _json(told.body(), error.status_code, dict(error.headers or {}))


async def _any_error(_: Request, error: Exception) -> Response:
    told = api_error(error)
    return _json(told.body(), told.status)
