"""Who may ask, how often, and how much at once: API keys, token buckets, bounded admission.

Nothing here knows HTTP. Clocks are given, so the tests need no sleep; only a waiting admission awaits anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from conf.errors import UserError

KEYS_VARIABLE = "RAYTHINK_API_KEYS"
KEYS_FILE_VARIABLE = "RAYTHINK_API_KEYS_FILE"
OPEN = "open"  # the name under which all requests count where no keys are configured
MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0

_ENTRY = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,64}):)?(?P<digest>[0-9a-fA-F]{64})")
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::\d{1,5})?")


class Refused(Exception):
    """A request turned away because of what runs already. `retry_after_s`: when it may be worth another try."""

    def __init__(self, reason: str, message: str, retry_after_s: float):
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = min(max(retry_after_s, MIN_RETRY_S), MAX_RETRY_S)


class Keys:
    """API keys, of which only SHA-256 digests are held. Empty (falsy): the API is open, to this machine alone."""

    def __init__(self, names: Mapping[str, str]):
        """`names`: the name of a key's owner by the lower-case hex digest of the key."""
        self._names = dict(names)

    def __len__(self) -> int:
        return len(self._names)

    def owner(self, key: str) -> str | None:
        """The name of the owner of `key`, None if it is not one of ours. Takes as long whichever key it is."""
        digest, found = digest_of(key), None
        for known, name in self._names.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def digest_of(key: str) -> str:
    """The lower-case hex SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def parse_keys(text: str, where: str) -> dict[str, str]:
    """Digest to owner's name, from entries `name:digest` or `digest`, apart by commas, spaces or lines; # comments.

    An owner may have several keys. One without a name is called by the first 8 digits of its digest.
    Raises UserError, which never repeats the entry: it may be a key in clear.
    """
    words = re.sub(r"#.*", "", text).replace(",", " ").split()
    matches = [_ENTRY.fullmatch(word) for word in words]
    for number, match in enumerate(matches, 1):
        if match is None:
            raise UserError(
                f"{where}: entry {number} is not a SHA-256 digest; give name:digest (keys are never stored in clear), "
                'with the digest that `printf %s "$KEY" | sha256sum` prints'
            )
    return {m["digest"].lower(): m["name"] or m["digest"][:8].lower() for m in matches if m}


def load_keys(environment: Mapping[str, str]) -> Keys:
    """The keys in the variable RAYTHINK_API_KEYS and in the file that RAYTHINK_API_KEYS_FILE names; none: open.

    Raises UserError for a malformed entry, and for a file that cannot be read or holds no key (a slip with the file
    must not open the API).
    """
    names = parse_keys(environment.get(KEYS_VARIABLE, ""), KEYS_VARIABLE)
    if path := environment.get(KEYS_FILE_VARIABLE):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{KEYS_FILE_VARIABLE}: cannot read {path} ({error}); give a readable text file") from None
        of_file = parse_keys(text, path)
        if not of_file:
            raise UserError(f"{path} holds no API key; add a line name:digest, or unset {KEYS_FILE_VARIABLE}")
        names |= of_file
    return Keys(names)


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or a name, with or without a port, is this machine's loopback."""
    match = _HOST_PORT.fullmatch(host)
    name = (match["host"].strip("[]") if match else host).lower()
    try:
        address = ipaddress.ip_address(name)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return name == "localhost"


def check_address(host: str, keys: Keys) -> None:
    """Raises UserError if an API without keys would listen on anything but loopback."""
    if not keys and not is_loopback(host):
        raise UserError(
            f"refusing to listen on {host} without API keys; set {KEYS_VARIABLE}=name:sha256-digest, or use 127.0.0.1"
        )


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate` a second; a rate of 0 means no limit."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self.burst, self._clock = rate, burst, clock
        self._level, self._at = burst, clock()

    @property
    def level(self) -> float:
        """Tokens in the bucket now; below zero where more was spent than there was."""
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def wait(self, cost: float = 1.0) -> float:
        """Seconds until `cost` (at most a full bucket) is there; 0.0 if it is."""
        missing = min(cost, self.burst) - self.level
        return missing / self.rate if self.rate > 0 and missing > 1e-9 else 0.0

    def spend(self, cost: float = 1.0) -> None:
        """Take `cost` out, on credit if need be: what a reply costs is known only afterwards."""
        self._level = self.level - cost


@dataclass(frozen=True)
class LimitSettings:
    """Per key: requests and tokens a minute (0: no limit), requests at once. Over all keys: `capacity` replies are
    generated at once, `max_waiting` requests wait for that, each `max_wait_s` seconds at most."""

    requests_per_minute: float = 120.0
    request_burst: int = 30
    tokens_per_minute: float = 0.0
    concurrent_per_key: int = 16
    capacity: int = 64
    max_waiting: int = 32
    max_wait_s: float = 20.0


class RateLimits:
    """The limits of each key: requests a minute, tokens a minute, requests at once."""

    def __init__(self, settings: LimitSettings, clock: Callable[[], float] = time.monotonic):
        self._settings, self._clock = settings, clock
        self._requests: dict[str, TokenBucket] = {}
        self._tokens: dict[str, TokenBucket] = {}
        self._running: Counter[str] = Counter()

    def charge_request(self, name: str) -> None:
        """Count a request of `name`. Raises Refused, and counts nothing, if it comes too early."""
        requests, tokens = self._buckets(name)
        if wait := requests.wait():
            limit = f"{self._settings.requests_per_minute:g} requests a minute"
            raise Refused("requests", f"this key may send {limit}; try again in {math.ceil(wait)} s", wait)
        if wait := tokens.wait():
            limit = f"{self._settings.tokens_per_minute:g} tokens a minute"
            raise Refused("tokens", f"this key may use {limit}; try again in {math.ceil(wait)} s", wait)
        requests.spend()

    def charge_tokens(self, name: str, count: int) -> None:
        """Count the tokens of a request that was answered."""
        self._buckets(name)[1].spend(count)

    def remaining(self, name: str) -> int:
        """Requests that `name` may send at once."""
        return max(0, math.floor(self._buckets(name)[0].level))

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """While a request of `name` runs. Raises Refused if too many do already."""
        limit = self._settings.concurrent_per_key
        if self._running[name] >= limit:
            raise Refused("concurrency", f"this key has {limit} requests running, as many as it may", MIN_RETRY_S)
        self._running[name] += 1
        try:
            yield
        finally:
            self._running[name] -= 1

    def _buckets(self, name: str) -> tuple[TokenBucket, TokenBucket]:
        if name not in self._requests:
            limits, tokens = self._settings, self._settings.tokens_per_minute
            self._requests[name] = TokenBucket(limits.requests_per_minute / 60, limits.request_burst, self._clock)
            self._tokens[name] = TokenBucket(tokens / 60, max(tokens, 1.0), self._clock)
        return self._requests[name], self._tokens[name]


class Admission:
    """Lets in requests up to a total weight, first come first served; a bounded number waits, the rest is refused.

    A request weighs as many as the replies it has generated, so that eight candidates count as eight.
    """

    def __init__(self, capacity: int, max_waiting: int, clock: Callable[[], float] = time.monotonic):
        self.capacity, self.max_waiting = capacity, max_waiting
        self.weight = 0
        self._clock = clock
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()
        self._mean_s = MIN_RETRY_S

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def expected_wait_s(self, weight: int) -> float:
        """When a request of this weight could start, judged by how long the latest ones took."""
        ahead = self.weight + sum(w for _, w in self._queue) + weight
        return self._mean_s * ahead / self.capacity

    def refuse_if_full(self, weight: int = 1) -> None:
        """Raises Refused where a request would find the queue full: before its body is read, which costs more."""
        if len(self._queue) >= self.max_waiting and (self._queue or self.weight + weight > self.capacity):
            raise Refused("queue_full", "the server is busy and its queue is full", self.expected_wait_s(weight))

    @asynccontextmanager
    async def slot(self, weight: int, max_wait_s: float) -> AsyncIterator[None]:
        """While a request of `weight` runs (one heavier than the capacity runs alone).

        Raises Refused if the queue is full or the wait too long.
        """
        weight = min(weight, self.capacity)
        await self._enter(weight, max_wait_s)
        start = self._clock()
        try:
            yield
        finally:
            self._mean_s += 0.2 * (self._clock() - start - self._mean_s)
            self._leave(weight)

    async def _enter(self, weight: int, max_wait_s: float) -> None:
        if not self._queue and self.weight + weight <= self.capacity:
            self.weight += weight
            return
        self.refuse_if_full(weight)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, weight))
        try:
            async with asyncio.timeout(max_wait_s):
                await turn
        except BaseException as error:
            # The turn may have come in the same tick as the time-out or the client's going.
            if turn.done() and not turn.cancelled():
                self._leave(weight)
            else:
                with suppress(ValueError):  # not there any more if _admit came by first
                    self._queue.remove((turn, weight))
                self._admit()
            if isinstance(error, TimeoutError):
                raise Refused("queue_wait", f"no place within {max_wait_s:g} s", self.expected_wait_s(weight)) from None
            raise

    def _leave(self, weight: int) -> None:
        self.weight -= weight
        self._admit()

    def _admit(self) -> None:
        while self._queue and self.weight + self._queue[0][1] <= self.capacity:
            turn, weight = self._queue.popleft()
            if not turn.cancelled():
                self.weight += weight
                turn.set_result(None)
