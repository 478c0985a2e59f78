"""Prometheus metrics of a running sweep, at an HTTP endpoint of the driver's process."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rsas.errors import InputError
from rsas.follower import Follower
from rsas.pareto import front, hypervolume
from rsas.records import Objective, State, TrialRecord
from rsas.sweep.follow.web import listen

__all__ = ["SweepGauges", "serving"]

_HOST = "127.0.0.1"
_STATES: tuple[State, ...] = ("running", "complete", "pruned", "failed")


class SweepGauges(Collector, Follower):
    """A collector of a sweep's metrics, which follows the sweep.

    The front and its hypervolume take time. The thread of the endpoint computes them, for each
    request.

    Args:
        sweep: name of the sweep, the label of all metrics.
        asked: number of trials to complete or to stop early.
        objectives: of the sweep.
        trials: those in the study at the start.
        slots: returns the number of trials that may run at once.
    """

    def __init__(
        self,
        sweep: str,
        *,
        asked: int,
        objectives: Sequence[Objective],
        trials: Sequence[TrialRecord],
        slots: Callable[[], int],
    ) -> None:
        self._sweep, self._asked, self._objectives = sweep, asked, objectives
        self._slots = slots
        self._lock = threading.Lock()
        self._trials = trials
        self._states: dict[int, State] = {trial.number: trial.state for trial in trials}
        self._busy: set[int] = set()
        self._slot_count = slots()
        self._epochs, self._seconds = 0, 0.0

    def begin(self, trial: TrialRecord) -> None:
        with self._lock:
            self._states[trial.number] = "running"
            self._busy.add(trial.number)
            self._slot_count = self._slots()

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        with self._lock:
            self._epochs += len(rows)
            self._seconds += sum(row["seconds"] for row in rows)
            self._slot_count = self._slots()

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        with self._lock:
            self._trials = trials
            self._states[trial.number] = trial.state
            self._busy.discard(trial.number)

    def collect(self) -> Iterator[Metric]:
        """Yield the present values of all metrics."""
        with self._lock:
            trials, states = self._trials, Counter(self._states.values())
            slots, busy = self._slot_count, len(self._busy)
            epochs, seconds = self._epochs, self._seconds
        by_state = GaugeMetricFamily(
            "rsas_trials", "Trials by state; pruned: stopped early.", labels=["sweep", "state"]
        )
        for state in _STATES:
            by_state.add_metric([self._sweep, state], states[state])
        yield by_state
        gauges = {
            "rsas_trials_asked": (self._asked, "Trials to be complete or stopped early."),
            "rsas_front_size": (
                len(front(trials, self._objectives)),
                "Complete trials that no other dominates.",
            ),
            "rsas_hypervolume": (
                hypervolume(trials, self._objectives),
                "Hypervolume between the front and the worst values of the objectives.",
            ),
            "rsas_slots": (slots, "Trials that can run at once."),
            "rsas_slots_busy": (busy, "Trials that were handed out and have not ended."),
        }
        for name, (value, description) in gauges.items():
            gauge = GaugeMetricFamily(name, description, labels=["sweep"])
            gauge.add_metric([self._sweep], value)
            yield gauge
        counters = {
            "rsas_epochs": (epochs, "Epochs that this launch has trained."),
            "rsas_training_seconds": (seconds, "Seconds that slots of this launch trained."),
        }
        for name, (value, description) in counters.items():  # the library adds "_total" to names
            counter = CounterMetricFamily(name, description, labels=["sweep"])
            counter.add_metric([self._sweep], value)
            yield counter


@contextlib.contextmanager
def serving(port: int | None, say: Callable[[str], None]) -> Iterator[CollectorRegistry]:
    """Serve a registry at ``http://127.0.0.1:PORT/metrics`` for the duration of the context.

    Args:
        port: in [0, 65535], 0 for a free one; None serves nothing.
        say: shows the user a line with the address.

    Raises:
        InputError: the port is out of range, or in use.
    """
    registry = CollectorRegistry()
    if port is None:
        yield registry
        return
    if not 0 <= port <= 65535:
        raise InputError(f"--metrics-port {port}: expected a port in [0, 65535], 0 for a free one")
    try:
        server = listen(make_wsgi_app(registry), _HOST, port)
    except OSError as error:
        raise InputError(
            f"--metrics-port {port}: cannot listen on {_HOST}:{port} ({error.strerror or error}); "
            "0 takes a free one"
        ) from None
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            say(f"metrics for Prometheus: http://{_HOST}:{server.server_port}/metrics")
            yield registry
        finally:
            server.shutdown()
