"""Figures of requests as such. Labels come from small fixed sets: routes, methods, statuses."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Bounds of the buckets of every time that a client waits."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """The figures of one server's requests, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["route", "method", "status"]
        self._requests = Counter("nestling_requests", "Answers", labels, registry=registry)
        self._durations = Histogram(
            "nestling_request_duration_seconds",
            "From the request's head to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._running = Gauge(
            "nestling_requests_in_progress", "Requests not yet answered", registry=registry
        )

    def request_began(self) -> None:
        """Count a request that is running."""
        self._running.inc()

    def request_ended(self, route: str, method: str, status: int | None, duration_s: float) -> None:
        """Count an answer; `route` is the template that matched, status None if nobody waited."""
        self._running.dec()
        self._answered(route, method, status, duration_s)

    def refused(self, method: str, status: int, duration_s: float) -> None:
        """Count an answer to what never became a request: no HTTP, too long, too slow."""
        self._answered("none", method, status, duration_s)

    def _answered(self, route: str, method: str, status: int | None, duration_s: float) -> None:
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, "aborted" if status is None else str(status)).inc()
        self._durations.labels(route).observe(duration_s)
