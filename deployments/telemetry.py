"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Telemetry:
    """The gateway's metrics, in a registry of their own, so that two apps in one process do not meet."""

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float]):
        """`running` and `waiting` tell the weight that runs and the requests that wait at the time of asking."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "raythink_gateway_requests", "Requests answered", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "raythink_gateway_request_seconds",
            "Seconds from request to the end of its reply",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        self._first = Histogram(
            "raythink_gateway_first_chunk_seconds",
            "Seconds from request to the first piece of its reply",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        self._tokens = Counter("raythink_gateway_tokens", "Tokens used", ("kind", "key"), registry=registry)
        self._refused = Counter("raythink_gateway_refused", "Requests refused", ("reason",), registry=registry)
        self._gone = Counter("raythink_gateway_disconnects", "Clients that left early", registry=registry)
        Gauge("raythink_gateway_running", "Replies being generated", registry=registry).set_function(running)
        Gauge("raythink_gateway_waiting", "Requests that wait for a place", registry=registry).set_function(waiting)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is over."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_chunk(self, route: str, seconds: float) -> None:
        """The first piece of a stream is there."""
        self._first.labels(route).observe(seconds)

    def used(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Tokens that a request of `key`'s owner used."""
        self._tokens.labels("prompt", key).inc(prompt_tokens)
        self._tokens.labels("completion", key).inc(completion_tokens)

    def refused(self, reason: str) -> None:
        """A request was turned away by a limit."""
        self._refused.labels(reason).inc()

    def disconnected(self) -> None:
        """A client left before its reply was over."""
        self._gone.inc()

    def text(self) -> str:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry).decode()
