"""The server's metrics for Prometheus.

Values that are in the database are read from it at scrape time, in one snapshot, so that a gauge cannot drift from the
truth, however many servers share the database. Values that only this process knows (requests, syncs, sampler times) are
counted here. Each app has its own registry.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage import attempts, studies, workers
from storage.database import Database
from tuner.study.states import StudyState, TrialState

SHOWN_AFTER_END_S = 3600.0
"""How long per-study series outlive their study: years of studies must not add up to a million series."""
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ASK_BUCKETS_S = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """The registry of one app and the counters of this process."""

    def __init__(self, database: Database, *, lease_s: float, event_streams: Callable[[], int]) -> None:
        """`event_streams` returns the number of open event streams."""
        self.registry = CollectorRegistry()
        own = self.registry
        self.syncs = Counter("tuner_syncs", "Syncs of workers handled by this server.", registry=own)
        self.reports = Counter("tuner_reports", "Curve rows received by this server.", registry=own)
        self.ask = Histogram(
            "tuner_sampler_ask_seconds",
            "Time the sampler took to answer a request for configurations.",
            ["method"],
            buckets=ASK_BUCKETS_S,
            registry=own,
        )
        self.requests = Counter(
            "tuner_http_requests", "HTTP requests answered.", ["method", "route", "status"], registry=own
        )
        self.latency = Histogram(
            "tuner_http_request_seconds",
            "Time until the response began.",
            ["method", "route"],
            buckets=REQUEST_BUCKETS_S,
            registry=own,
        )
        streams = Gauge("tuner_event_streams", "Browsers and clients following a study on this server.", registry=own)
        streams.set_function(lambda: float(event_streams()))
        own.register(DatabaseCollector(database, lease_s))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class DatabaseCollector(Collector):
    """Gauges that are read from the database at each scrape."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Declare no metrics in advance: registering must not read the database."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read everything in one snapshot."""
        with self._database.read() as session:
            now = self._database.now(session)
            by_state = studies.count_by_state(session)
            shown = studies.live_or_ended_since(session, since=now - timedelta(seconds=SHOWN_AFTER_END_S))
            progress = studies.progress(session, study_ids=shown)
            alive = workers.count_seen_since(session, since=now - timedelta(seconds=self._lease_s))
            leases = sum(attempts.held_counts(session).values())
            queued = studies.count_queued(session)
        family = GaugeMetricFamily("tuner_studies", "Studies by state.", labels=["state"])
        for state in StudyState:
            family.add_metric([state], by_state.get(state, 0))
        yield family
        trials = GaugeMetricFamily(
            "tuner_trials", "Trials by study and state, of live and recently ended studies.", labels=["study", "state"]
        )
        slots = GaugeMetricFamily(
            "tuner_slot_utilisation_ratio",
            "Share of the slots computed for a study that held a trial.",
            labels=["study"],
        )
        for study_id, name in shown.items():
            found = progress.get(study_id, studies.Progress({}, 0))
            for trial_state in TrialState:
                trials.add_metric([name, trial_state], found.counts.get(trial_state, 0))
            if found.slot_utilisation is not None:
                slots.add_metric([name], found.slot_utilisation)
        yield trials
        yield slots
        yield GaugeMetricFamily("tuner_workers_alive", "Worker sessions that synced within one lease.", value=alive)
        yield GaugeMetricFamily("tuner_leases", "Attempts that workers hold a lease on.", value=leases)
        yield GaugeMetricFamily("tuner_queue_trials", "Trials waiting for a worker, over all studies.", value=queued)


class Watcher:
    """Counts requests and times them until the response begins, so that the length of a stream does not count.

    It is the outermost middleware: requests that the gate rejects are counted under the route `none`, as is every path
    without a route; a label never contains text from a caller.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, prefix: str) -> None:
        """`prefix` is where the API's routers are mounted: a route knows only its own part of the path."""
        self._app = app
        self._metrics = metrics
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        method = scope["method"] if scope["method"] in METHODS else "other"
        answered = False

        async def heard(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not answered:
                answered = True
                self._note(method, scope, str(message["status"]), begun)
            await send(message)

        status = "gone"  # the caller disconnected before the response
        try:
            await self._app(scope, receive, heard)
        except Exception:
            status = "500"
            raise
        finally:
            if not answered:
                self._note(method, scope, status, begun)

    def _note(self, method: str, scope: Scope, status: str, begun: float) -> None:
        route = self._route(scope)
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.latency.labels(method, route).observe(time.perf_counter() - begun)

    def _route(self, scope: Scope) -> str:
        path: str = scope["path"]
        if path.startswith("/static/"):
            return "/static"
        template: str | None = getattr(scope.get("route"), "path", None)
        if template is None:
            return "none"
        mounted = path.startswith(f"{self._prefix}/") and not template.startswith(self._prefix)
        return f"{self._prefix}{template}" if mounted else template


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
