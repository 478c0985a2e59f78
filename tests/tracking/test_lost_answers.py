"""A tracking server that does what it is asked, and whose answers get lost on the way."""

import contextlib
import sqlite3
import time

import pytest

from rsas.sweep.audit.check import check
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.mirror import tracker_of
from tests import made
from tests.faults.harness import Place
from tests.servers import losing_answers, mlflow_server

pytestmark = pytest.mark.resource

POINTS = [(0.9, 0.5), (0.8, 0.7), (0.6, 0.9)]
EPOCHS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as server:
        yield server, folder / "mlflow.db"


@pytest.fixture
def proxy(server, monkeypatch):
    monkeypatch.setattr("rsas.tracking.tracker._RETRY_SECONDS", 0.05)
    for name in ("BACKOFF_FACTOR", "BACKOFF_JITTER"):  # retries come at once
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")
    with losing_answers(server[0].port) as proxy:
        yield proxy


def doubled(database, sweep):
    """What MLflow has twice of a sweep, and how many active runs there are, by its own tables."""
    runs = (
        "SELECT runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE lifecycle_stage = 'active' AND tags.key = 'rsas.sweep' AND tags.value = ?"
    )
    metrics = (
        f"SELECT key, step, COUNT(*) FROM metrics WHERE run_uuid IN ({runs}) "
        "GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    )
    with contextlib.closing(sqlite3.connect(database)) as connection:
        count = len(connection.execute(runs, [sweep]).fetchall())
        return connection.execute(metrics, [sweep]).fetchall(), count


def test_answers_that_get_lost_double_nothing(server, proxy, tmp_path):
    experiment, source = load_experiment(Place(tmp_path).source)
    folder, study = made.make(
        tmp_path / "runs", "lost-answers", experiment, source, tracking_uri=proxy.uri
    )
    said = []
    tracker = tracker_of(folder, study, say=said.append)
    for accuracy, sparsity in POINTS:
        number = study.begin()
        tracker.begin(study.trial(number, folder.objectives))
        rows = made.rows(EPOCHS, accuracy, sparsity)
        made.train(folder, number, rows)
        for row in rows:
            tracker.rows(number, [row])
        study.complete(number, rows[-1], device_seconds=0.3)
        tracker.end(study.trial(number, folder.objectives), study.trials(folder.objectives))
    deadline = time.monotonic() + 60
    while not tracker.close("interrupted"):  # as by a sweep that is resumed until all is there
        assert time.monotonic() < deadline
        tracker = tracker_of(folder, study, say=said.append)
    assert proxy.lost["/api/2.0/mlflow/runs/create"] >= 3
    assert proxy.lost["/api/2.0/mlflow/runs/log-batch"] >= 3
    Retention(folder.storage, study, folder.objectives, print).close(
        study.trials(folder.objectives)
    )
    assert doubled(server[1], folder.name) == ([], 1 + len(POINTS))
    proxy.calm = True
    faults = check(folder)
    assert {fault.what for fault in faults} == {"the final model of a front member is missing"}
