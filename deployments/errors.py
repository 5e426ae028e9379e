"""What went wrong, as OpenAI tells it: a status and {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.engine.chat import BadRequest, EngineBusy, EngineError, EngineGone
from deployments.limits import MIN_RETRY_S, Refused
from deployments.scaffold import NoCandidate
from deployments.schemas import InvalidRequest
from deployments.transport import BodyTooLarge, BodyTooSlow, ClientGone

# nginx's: the client closed the connection. Nobody reads it, but logs and metrics do.
CLIENT_CLOSED = 499


@dataclass(eq=False)  # not frozen: raising sets an exception's __traceback__
class ApiError(Exception):
    """An error as a client sees it."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The error's JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def unauthorized(message: str) -> ApiError:
    """No key, or a wrong one."""
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, message, "authentication_error", None, "invalid_api_key", headers)


def unknown_model(name: str) -> ApiError:
    """A model that is not served here."""
    return ApiError(
        404,
        f"the model {name[:100]!r} does not exist here; GET /v1/models lists those that do",
        param="model",
        code="model_not_found",
    )


def api_error(error: BaseException) -> ApiError:
    """The error for a client. What is not foreseen becomes a 500 that says nothing of the inside."""
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return ApiError(400, str(error), param=error.param, code=error.code)
        case BadRequest():
            return ApiError(400, str(error), code="invalid_value")
        case BodyTooLarge():
            return ApiError(413, str(error), code="request_too_large")
        case BodyTooSlow():
            return ApiError(408, str(error), code="request_timeout")
        case ClientGone():
            return ApiError(CLIENT_CLOSED, "the client closed the connection", code="client_closed")
        case Refused():
            return _busy(str(error), error.retry_after_s)
        case EngineBusy():
            return _busy("the model is busy; try again", error.retry_after_s)
        case TimeoutError():
            return ApiError(504, "the reply took too long", "timeout_error", code="timeout")
        case EngineGone():
            again = {"retry-after": f"{MIN_RETRY_S:g}"}
            message = "the model's engine went away and another takes its place; try again"
            return ApiError(503, message, "server_error", None, "engine_gone", again)
        case EngineError():
            return ApiError(502, f"the model failed: {error}", "server_error", code="engine_error")
        case NoCandidate():
            return _of_causes(error)
        case ExceptionGroup():
            return api_error(error.exceptions[0])
    return ApiError(500, "an internal error; the server's log says more", "server_error", code="internal_error")


def _of_causes(error: NoCandidate) -> ApiError:
    """If all candidates failed alike (a prompt that is too long, a busy engine, ...), that; else that they failed."""
    causes = [api_error(cause) for cause in error.causes]
    if causes and len({cause.status for cause in causes}) == 1:
        return causes[0]
    return ApiError(502, str(error), "server_error", code="no_candidate")


def _busy(message: str, retry_after_s: float | None) -> ApiError:
    seconds = math.ceil(max(retry_after_s or 0.0, MIN_RETRY_S))
    headers = {"retry-after": str(seconds)}
    return ApiError(429, message, "rate_limit_error", None, "rate_limit_exceeded", headers)
