"""When a call to a remote engine is worth another try, and how long to wait before it. Pure: no clock, no sleep.

Waits grow exponentially and are drawn from the whole interval below the ceiling ("full jitter", AWS Architecture Blog,
"Exponential Backoff And Jitter", 2015), so that clients that failed together do not come back together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

Kind = Literal["busy", "transient", "key", "request", "broken"]
RETRYABLE: tuple[Kind, ...] = ("busy", "transient")
TRANSIENT_STATUSES = (408, 409, 425)  # a timeout, a lock, a request that came too early
KEY_STATUSES = (401, 402, 403)  # unknown, out of credit, not allowed
OUT_OF_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")  # a 429 that no waiting cures


@dataclass(frozen=True)
class Failure:
    """Why a call failed.

    `kind`: busy (the server takes no more now), transient (server or connection failed), key (the account's fault:
    unknown, without credit, not allowed), request (the request's own), broken (an answer in no protocol that we know).
    `retry_after_s` is the server's own wish, None if it had none.
    """

    kind: Kind
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Backoff:
    """At most `attempts` calls; the wait after attempt i (from 1) is below min(cap_s, base_s * 2^(i-1)) seconds.

    A server's Retry-After is obeyed up to `longest_s`; a longer one is left to the caller.
    """

    attempts: int = 6
    base_s: float = 0.5
    cap_s: float = 20.0
    longest_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base_s, self.cap_s, self.longest_s) < 0:
            raise ValueError(f"a back-off needs attempts >= 1 and no negative times: {self}")

    def ceiling_s(self, attempt: int) -> float:
        """The longest wait after attempt number `attempt` (from 1), in seconds."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 64))

    def wait_s(self, failure: Failure, attempt: int, left_s: float, jitter: float) -> float | None:
        """Seconds to wait before attempt number `attempt` + 1, or None to give up.

        `left_s` is what remains of the caller's deadline: a wait that would use it up is not begun. `jitter` is a
        random number in [0, 1).
        """
        if failure.kind not in RETRYABLE or attempt >= self.attempts:
            return None
        asked = failure.retry_after_s
        if asked is None:
            wait = jitter * self.ceiling_s(attempt)
        elif asked > self.longest_s:
            return None
        else:
            wait = asked + jitter * self.base_s  # not before it asked, and not all at once
        return wait if wait < left_s else None


def kind_of(status: int | None, code: str = "") -> Kind:
    """What an HTTP status means for the caller; None: the server reported an error without one. `code` is OpenAI's."""
    if status in KEY_STATUSES or (status == 429 and code in OUT_OF_CREDIT):
        return "key"
    if status == 429:
        return "busy"
    if status is None or status >= 500 or status in TRANSIENT_STATUSES:
        return "transient"
    return "request" if status >= 400 else "broken"


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `retry-after-ms` or `Retry-After` (seconds or a date, RFC 9110 10.2.3) asks for; None if neither.

    `now` is the Unix time; `headers` must not care about case, as HTTP libraries' do not.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return None if seconds is None else max(0.0, seconds)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
