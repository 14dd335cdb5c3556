"""What Prometheus reads at /metrics: requests as they were counted, everything else from the catalog at the scrape.

Labels are few: a request is counted under its route's template, never its path; jobs are those that are not over and
the newest that are, at most `MAX_JOBS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError

from superbatch_server.schemas.errors import ApiError
from superbatch_server.service.catalog.engine import read
from superbatch_server.service.catalog.gauges import CatalogGauges, catalog_gauges
from superbatch_server.service.context import Deployment

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_OF_JOB = {
    "next_seq": "Batches published.",
    "num_batches": "Batches asked for.",
    "trained_seq": "Batches that the learner has trained.",
    "generation": "Learner refreshes so far.",
    "filter_ratio": "Share of the candidates that was thrown away.",
    "age_seconds": "Seconds since the job was submitted.",
    "quiet_seconds": "Seconds since the job changed last.",
    "attempts": "Attempts begun.",
    "revoked": "Published batches that are revoked.",
}


class RequestMetrics:
    """Counts requests; made once per app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        labels = ("method", "route", "status")
        self._requests = Counter("superbatch_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "superbatch_request_seconds",
            "Time to the end of an answer, long polls and streams included.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._received = Counter(
            "superbatch_received_bytes", "Bytes of request bodies.", ("route",), registry=self.registry
        )
        self._sent = Counter("superbatch_sent_bytes", "Bytes of answers.", ("route",), registry=self.registry)
        self._under_way = Gauge("superbatch_requests_under_way", "Requests under way.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def note(
        self, *, method: str, route: str, status: int, seconds: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """Count one request under the template of its route."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        self._received.labels(route).inc(received_bytes)
        self._sent.labels(route).inc(sent_bytes)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request while it is answered."""
        with self._under_way.track_inprogress():
            yield


class DeploymentCollector:
    """Reads the catalog when it is scraped; a catalog that does not answer is a figure too."""

    def __init__(self, deployment_now: Callable[[], Deployment]) -> None:
        self._deployment_now = deployment_now

    def collect(self) -> Iterable[Metric]:
        """Yield every gauge of the deployment."""
        deployment = self._deployment_now()
        yield _gauge("superbatch_waiting_requests", "Long polls that wait.", deployment.limits.waiting)
        yield _gauge("superbatch_open_streams", "Open streams of server-sent events.", deployment.limits.streams)
        try:
            with read(deployment.engine) as connection:
                gauges = catalog_gauges(connection)
        except (SQLAlchemyError, OSError):
            yield _gauge("superbatch_catalog_up", "1 while the catalog answers.", 0)
            return
        yield _gauge("superbatch_catalog_up", "1 while the catalog answers.", 1)
        yield from _of_catalog(gauges)
        yield from _of_uploads(deployment)


def _of_catalog(gauges: CatalogGauges) -> Iterable[Metric]:
    states = GaugeMetricFamily("superbatch_jobs", "Jobs by state.", labels=("state",))
    for state, number in gauges.jobs_by_state.items():
        states.add_metric((state,), number)
    yield states
    yield _gauge("superbatch_queue_age_seconds", "Age of the oldest job that may be started.", gauges.queue_age_s)
    yield _gauge("superbatch_supervisors_live", "Supervisors whose heartbeat is fresh.", gauges.live_supervisors)
    yield _gauge("superbatch_drivers_running", "Drivers that these supervisors run.", gauges.running_drivers)
    for name, meaning in _OF_JOB.items():
        family = GaugeMetricFamily(f"superbatch_job_{name}", meaning, labels=("job",))
        for job_id, values in gauges.jobs.items():
            value = values[name]
            if value is not None:
                family.add_metric((job_id,), value)
        yield family


def _of_uploads(deployment: Deployment) -> Iterable[Metric]:
    try:
        total = sum(upload.received_bytes for upload in deployment.uploads.all())
    except (OSError, ApiError):
        return
    yield _gauge("superbatch_uploads_bytes", "Bytes of uploaded checkpoints.", total)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)
