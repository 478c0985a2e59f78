"""MLflow as a mirror of the study, with a real SQLite store."""

import contextlib
import dataclasses
import json
import sqlite3
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from torch import nn

from rsas import InputError, TrainConfig
from rsas.analysis import front, hypervolume
from rsas.records import TrialRecord, front_mark
from rsas.tracking import (
    Source,
    Tracker,
    connect,
    delete_run,
    read_history,
    read_mirror,
    read_models,
    read_runs,
    register,
)
from rsas.tracking.artifacts import redacted, run_name
from tests.leaks import LEAKS
from tests.made import DATA, OBJECTIVES

POINTS = [(0.9, 0.5), (0.8, 0.4), (0.7, 0.9), (0.95, 0.6)]  # the last one beats the first


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with a database whose schema is made once for all tests."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(f"sqlite:///{folder}/mlflow.db")
    return folder


RECORD = {
    "name": "tests",
    "sampler": "tpe",
    "space": "tests:space",
    "base": TrainConfig().to_dict(),
    "data": DATA,
}
PROVENANCE = {"source": "/x/study.py:experiment", "commit": "c0ffee", "dirty": True, "python": "3"}


@dataclasses.dataclass(frozen=True)
class Trained(TrialRecord):
    """A trial with its history."""

    rows: list = dataclasses.field(default_factory=list)


class Sweep:
    """What a tracker is told of: the trials of the study, the histories, and who hears it."""

    def __init__(self, open_):
        self.trials, self.said, self.progress = [], [], []
        self._open = open_

    def track(self, **options):
        self.tracker = self._open(self, **options)
        return self.tracker

    def run(self, number, **options):
        """A trial as the sweep sees it: handed out, some epochs at a time, ended."""
        running, ended = trial(number), trial(number, "complete", **options)
        self.put(running)
        self.tracker.begin(running)
        self.tracker.rows(running.number, ended.rows[:1])
        self.tracker.rows(running.number, ended.rows[1:])
        self.end(ended)

    def end(self, ended):
        self.put(ended)
        self.tracker.end(ended, list(self.trials))

    def put(self, record):
        """The study has this of a trial now."""
        number = int(record.trial_id[1:])
        self.trials = [*self.trials[:number], record, *self.trials[number + 1 :]]

    def close(self, state="finished"):
        return self.tracker.close(state)


@pytest.fixture
def sweep(store, request):
    def open_(sweep, **options):
        source = Source(
            **{
                "uri": f"sqlite:///{store}/mlflow.db",
                "trials": lambda: list(sweep.trials),
                "rows": lambda trial: trial.rows,
                "sweep": request.node.name,
                "sweep_id": request.node.name[::-1],
                "experiment": "tests",
                "artifacts": (store / "artifacts").as_uri(),
                "objectives": OBJECTIVES,
                "record": RECORD,
                "provenance": PROVENANCE,
                "progress": lambda *counts: sweep.progress.append(counts),
                **options,
            }
        )
        return Tracker(source, sweep.said.append)

    return Sweep(open_)


@pytest.fixture
def outage(monkeypatch):
    """A switch: with ``down`` nothing is answered any more."""
    switch = types.SimpleNamespace(down=False)
    monkeypatch.setattr("rsas.tracking.tracker._RETRY_SECONDS", 0.05)
    for name in ("log_batch", "set_tag", "create_run", "search_experiments", "update_run"):
        real = getattr(MlflowClient, name)

        def answer(*args, _real=real, **options):
            if switch.down:
                raise ConnectionError("no server\nat all")
            return _real(*args, **options)

        monkeypatch.setattr(MlflowClient, name, answer)
    return switch


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def points(store, name):
    """How many complete trials MLflow knows of."""
    return len(read_mirror(f"sqlite:///{store}/mlflow.db", name[::-1]).points)


LOST = (
    "the tracking server stopped answering (no server); the sweep continues, and logs the missing "
    "results when the server answers or when the sweep is resumed"
)
BACK = "the tracking server answers again; the missing results are logged"


def trial(number, state="running", epochs=3, **others):
    accuracy, sparsity = POINTS[number]
    rows = [
        {"epoch": float(e), "val_accuracy": accuracy * e / 3, "sparsity": sparsity}
        for e in range(1, epochs + 1)
    ]
    fields = {
        "trial_id": f"t{number:04d}",
        "state": state,
        "params": {"sparsity": sparsity, "measure_lr": 0.1},
        "objectives": {"val_accuracy": accuracy, "sparsity": sparsity}
        if state == "complete"
        else {},
        "started": 1000.0 + number,
        "finished": None if state == "running" else 2000.0 + number,
        "reason": "out of memory" if state == "failed" else "",
        "epochs": 0.0 if state == "running" else float(epochs),
        "rows": rows,
    }
    return Trained(**fields | others)


def mirrored(store, sweep):
    """(parent, children by trial, metric history of a run)."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("tests").experiment_id
    runs = client.search_runs([experiment], f"tags.`rsas.sweep` = '{sweep}'")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {}
    for run in runs:
        if run not in parents:
            assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
            assert run.data.tags["rsas.trial_id"] not in children, "two runs of a trial"
            children[run.data.tags["rsas.trial_id"]] = run
    assert len(parents) == 1

    def history(run, key):
        return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]

    return parents[0], children, history


def check_whole(store, sweep, count):
    """Everything of ``count`` complete trials is there, each once."""
    parent, children, history = mirrored(store, sweep)
    done = [trial(n, "complete") for n in range(count)]
    assert set(children) == {t.trial_id for t in done}
    members = {t.trial_id for t in front(done, OBJECTIVES)}
    for t in done:
        run = children[t.trial_id]
        assert run.info.status == "FINISHED"
        assert run.info.end_time == round(t.finished * 1000)
        assert run.data.params == {k: str(v) for k, v in t.params.items()}
        assert run.data.tags["rsas.pareto"] == str(t.trial_id in members).lower()
        for key in ("val_accuracy", "sparsity"):
            assert history(run, key) == [(r["epoch"], pytest.approx(r[key])) for r in t.rows]
    assert history(parent, "hypervolume") == [
        (n, pytest.approx(hypervolume(done[:n], OBJECTIVES))) for n in range(1, count + 1)
    ]
    assert history(parent, "front_size") == [
        (n, len(front(done[:n], OBJECTIVES))) for n in range(1, count + 1)
    ]
    folder = store / "artifacts" / parent.info.run_id / "artifacts" / "pareto"
    entries = json.loads((folder / "front.json").read_text())["front"]
    assert {e["trial_id"]: e["run_id"] for e in entries} == {
        t: children[t].info.run_id for t in members
    }
    assert (folder / "front.csv").read_text().count("\n") == len(members) + 1
    page = (folder / "front.html").read_text()
    assert "<script src=" not in page  # nothing from the network
    assert "Pareto front" in page
    return parent


def test_a_sweep_is_mirrored_as_it_runs(store, sweep, request):
    sweep.track()
    for number in range(4):
        sweep.run(number)
    assert sweep.close()
    parent = check_whole(store, request.node.name, 4)
    note = parent.data.tags["mlflow.note.content"]
    assert "front of 4 trials" in note
    assert "| **t0003** (knee) | 0.9500 | 0.6000 | s0.6 a0.1 #3 |" in note
    assert "| t0002 | 0.7000 | 0.9000 | s0.9 a0.1 #2 |" in note
    assert parent.info.status == "FINISHED"
    assert parent.data.params["base.sparsity"] == "0.9"
    assert parent.data.params["sampler"] == "tpe"
    assert sweep.said == []


def test_the_last_picture_has_all_trials(store, sweep, request):
    """The second trial is dominated: it changes no member, but belongs into the picture."""
    sweep.track()
    for number in range(2):
        sweep.run(number)
    assert sweep.close()
    parent = check_whole(store, request.node.name, 2)
    assert "front of 2 trials" in parent.data.tags["mlflow.note.content"]


def test_a_resumed_sweep_goes_on_in_the_same_runs(store, sweep, request):
    sweep.track()
    sweep.run(0)
    sweep.put(trial(1, epochs=1))
    sweep.tracker.begin(trial(1))
    sweep.tracker.rows(1, trial(1).rows[:1])
    assert sweep.close("interrupted")
    parent, children, _ = mirrored(store, request.node.name)
    assert (parent.info.status, children["t0001"].info.status) == ("KILLED", "KILLED")
    assert "rsas.state" not in children["t0001"].data.tags

    sweep.track()
    wait_for(lambda: mirrored(store, request.node.name)[1]["t0001"].info.status == "RUNNING")
    sweep.tracker.begin(trial(1))
    sweep.tracker.rows(1, trial(1).rows)  # the first epoch is trained again
    sweep.end(trial(1, "complete"))
    assert sweep.close()
    check_whole(store, request.node.name, 2)


def test_rows_of_a_process_that_died_before_it_told_are_logged(store, sweep, request):
    """They are in the history; the checkpoint has them, too, so they are not trained again."""
    sweep.track()
    sweep.run(0)
    wait_for(lambda: points(store, request.node.name) == 1)
    ended = trial(1, "complete")
    sweep.put(trial(1))
    sweep.tracker.begin(trial(1))
    sweep.tracker.rows(1, ended.rows[:1])
    sweep.tracker.rows(1, ended.rows[2:])
    sweep.end(ended)
    assert sweep.close()
    check_whole(store, request.node.name, 2)


def test_an_outage_to_the_end_is_made_up_for_by_the_next_launch(store, sweep, request, outage):
    sweep.track()
    sweep.run(0)
    assert sweep.close("interrupted")
    sweep.track()
    sweep.run(1)
    wait_for(lambda: points(store, request.node.name) == 2)
    outage.down = True
    sweep.run(2)
    assert sweep.close() is False
    assert sweep.said == [LOST]
    outage.down = False
    sweep.track()
    assert sweep.close()
    check_whole(store, request.node.name, 3)


@pytest.mark.slow
def test_an_outage_in_the_middle_of_a_row_loses_nothing_of_it(store, sweep, request, monkeypatch):
    """Rows are logged in batches, whole."""
    name = request.node.name
    sweep.track()
    sweep.run(0)
    wait_for(lambda: points(store, name) == 1)
    monkeypatch.setattr(
        "rsas.tracking.writer._METRICS_A_BATCH", len(trial(1, "complete").rows[0]) + 1
    )
    real, calls = MlflowClient.log_batch, []

    def log_batch(client, run, **batch):
        if any(metric.key == "val_accuracy" for metric in batch.get("metrics", ())):
            calls.append(run)
            if len(calls) == 3:
                raise MlflowException("away")
        return real(client, run, **batch)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    sweep.run(1)
    wait_for(lambda: len(sweep.said) == 2)
    assert sweep.close()
    check_whole(store, name, 2)


@pytest.mark.slow
def test_an_outage_in_the_middle_is_made_up_for_while_the_sweep_goes_on(
    store, sweep, request, outage
):
    sweep.track()
    sweep.run(0)
    wait_for(lambda: points(store, request.node.name) == 1)
    outage.down = True
    sweep.run(1)
    sweep.put(trial(2, epochs=2))
    sweep.tracker.begin(trial(2))
    wait_for(lambda: sweep.said)
    sweep.tracker.rows(2, trial(2).rows[:2])
    assert sweep.said == [LOST]
    outage.down = False
    wait_for(lambda: len(sweep.said) == 2)
    assert sweep.said == [LOST, BACK]
    _, children, history = mirrored(store, request.node.name)
    assert children["t0001"].info.status == "FINISHED"
    assert children["t0002"].info.status == "RUNNING"
    assert [epoch for epoch, _ in history(children["t0002"], "val_accuracy")] == [1, 2]
    sweep.tracker.rows(2, trial(2).rows[2:])
    sweep.end(trial(2, "complete"))
    outage.down = True
    sweep.run(3)
    wait_for(lambda: len(sweep.said) == 3)
    outage.down = False
    wait_for(lambda: len(sweep.said) == 4)
    assert sweep.said == [LOST, BACK] * 2
    assert sweep.close()
    check_whole(store, request.node.name, 4)


def test_a_run_that_was_deleted_during_an_outage_is_made_again(store, sweep, request, outage):
    sweep.track()
    sweep.run(0)
    sweep.run(1)
    wait_for(lambda: points(store, request.node.name) == 2)
    _, children, _ = mirrored(store, request.node.name)
    outage.down = True
    sweep.run(2)
    wait_for(lambda: sweep.said)
    MlflowClient(f"sqlite:///{store}/mlflow.db").delete_run(children["t0001"].info.run_id)
    outage.down = False
    wait_for(lambda: len(sweep.said) == 2)
    assert sweep.close()
    check_whole(store, request.node.name, 3)


def test_an_error_of_the_database_is_told_in_a_line(store, sweep, outage, request, capfd):
    """MLflow itself would log it with tracebacks."""
    sweep.track()
    sweep.run(0)
    wait_for(lambda: points(store, request.node.name) == 1)
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as database:
        database.execute("ALTER TABLE metrics RENAME TO hidden")
        try:
            sweep.run(1)
            wait_for(lambda: sweep.said)
        finally:
            database.execute("ALTER TABLE hidden RENAME TO metrics")
    assert "no such table: metrics" in sweep.said[0]
    assert "\n" not in sweep.said[0]
    assert sweep.close()
    check_whole(store, request.node.name, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_what_was_told_before_a_catch_up_does_not_undo_it(store, sweep, request, monkeypatch):
    told, attempts = threading.Event(), []
    monkeypatch.setattr("rsas.tracking.tracker._RETRY_SECONDS", 0.0)

    def fail_once(uri):
        attempts.append(uri)
        if len(attempts) == 1:
            assert told.wait(60)
            raise ConnectionError("no server")
        return connect(uri)

    monkeypatch.setattr("rsas.tracking.writer.connect", fail_once)
    sweep.trials = [trial(0, "complete"), trial(1, "complete")]
    sweep.track()
    sweep.tracker.rows(0, trial(0).rows)
    sweep.tracker.begin(trial(0))
    told.set()
    wait_for(lambda: points(store, request.node.name) == 2)
    assert sweep.close()
    check_whole(store, request.node.name, 2)


def test_what_was_cut_off_is_completed(store, sweep, request):
    """A parameter, and a picture, that a process did not come to log any more."""
    sweep.trials = [trial(0, epochs=0, params={"sparsity": POINTS[0][1]})]
    sweep.track()
    assert sweep.close("interrupted")
    sweep.trials = [trial(0, "complete")]
    sweep.track()
    assert sweep.close("interrupted")
    sweep.trials = [trial(0, "complete"), trial(1, "complete")]
    sweep.track()
    assert sweep.close()
    parent = check_whole(store, request.node.name, 2)
    assert "front of 2 trials" in parent.data.tags["mlflow.note.content"]


def test_runs_that_were_deleted_are_made_again(store, sweep, request):
    sweep.trials = [trial(n, "complete") for n in range(3)]
    sweep.track()
    assert sweep.close()
    _, children, _ = mirrored(store, request.node.name)
    MlflowClient(f"sqlite:///{store}/mlflow.db").delete_run(children["t0001"].info.run_id)
    sweep.track()
    assert sweep.close()
    check_whole(store, request.node.name, 3)


@pytest.mark.parametrize("resumed", [False, True])
def test_ends_that_are_no_results_are_told_as_such(store, sweep, request, resumed):
    """Guards: a sweep none of whose trials is complete has no front, and is mirrored."""
    ends = [
        trial(0, "failed", device_seconds=2.5),
        trial(1, "pruned", epochs=2, device_seconds=4.0),
    ]
    if resumed:
        sweep.trials = ends
        sweep.track()
    else:
        sweep.track()
        for ended in ends:
            sweep.put(trial(int(ended.trial_id[1:])))
            sweep.tracker.begin(trial(int(ended.trial_id[1:])))
            sweep.tracker.rows(ended.number, ended.rows)
            sweep.end(ended)
    assert sweep.close()
    assert sweep.said == []
    for _ in range(2):
        parent, children, history = mirrored(store, request.node.name)
        failed, pruned = children["t0000"], children["t0001"]
        assert (failed.info.status, failed.data.tags["rsas.state"]) == ("FAILED", "failed")
        assert failed.data.tags["rsas.reason"] == "out of memory"
        assert (pruned.info.status, pruned.data.tags["rsas.state"]) == ("KILLED", "pruned")
        assert pruned.info.end_time == 2001000
        assert history(pruned, "device_seconds") == [(2, 4.0)]
        assert [epoch for epoch, _ in history(pruned, "val_accuracy")] == [1, 2]
        for run in (failed, pruned):
            assert "rsas.pareto" not in run.data.tags
        assert history(parent, "hypervolume") == []
        sweep.track()  # what ended stays ended when the sweep goes on
        assert sweep.close()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_repeated_trial_has_the_rows_of_the_other(store, sweep, request, resumed):
    original = trial(0, "complete", device_seconds=3.0)
    repeated = trial(
        1, "complete", same_as="t0000", objectives=original.objectives, rows=original.rows
    )
    if resumed:
        sweep.trials = [original, repeated]
        sweep.track()
    else:
        sweep.track()
        sweep.run(0, device_seconds=3.0)
        sweep.put(trial(1))
        sweep.tracker.begin(trial(1))
        sweep.end(repeated)
    assert sweep.close()
    _, children, history = mirrored(store, request.node.name)
    run = children["t0001"]
    assert run.data.tags["rsas.same_as"] == "t0000"
    assert run.info.status == "FINISHED"
    assert history(run, "val_accuracy") == history(children["t0000"], "val_accuracy") != []
    assert "device_seconds" not in run.data.metrics
    assert children["t0000"].data.metrics["device_seconds"] == 3.0
    assert "rsas.same_as" not in children["t0000"].data.tags


def test_a_finished_sweep_may_have_trials_that_a_limit_cut_off(store, sweep, request):
    sweep.trials = [trial(0, "complete"), trial(1, epochs=1)]
    sweep.track()
    assert sweep.close("finished")
    parent, children, _ = mirrored(store, request.node.name)
    assert parent.info.status == "FINISHED"
    assert (children["t0000"].info.status, children["t0001"].info.status) == ("FINISHED", "KILLED")
    sweep.track()
    assert sweep.close("failed")
    assert mirrored(store, request.node.name)[0].info.status == "FAILED"


def test_secrets_are_nowhere_in_mlflow(store, sweep, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "key-4711-0815")
    hidden = ["key-4711-0815", "pass-word-4711"]
    told = " ".join(["s3://me:pass-word-4711@bucket", hidden[0]])
    record = RECORD | {"place": told, "base": TrainConfig(exclude=(told,)).to_dict()}
    sweep.track(record=record)
    sweep.run(0, params={"source": told})
    failed = trial(1, "failed", reason=f"cannot read {told}", params={"source": told})
    sweep.put(failed)
    sweep.tracker.begin(failed)
    sweep.end(failed)
    assert sweep.close()
    written = [path for path in store.rglob("*") if path.is_file()]
    assert {"front.json", "front.csv", "front.html", "experiment.json"} <= {p.name for p in written}
    for secret in hidden:
        found = {path.name for path in written if secret.encode() in path.read_bytes()}
        assert found == set()


def test_no_secret_of_any_kind_is_in_mlflow(store, sweep, request, monkeypatch):
    for leak in LEAKS:
        for name, value in leak.environment.items():
            monkeypatch.setenv(name, value)
    texts = {leak.name: leak.text for leak in LEAKS}
    provenance = {"source": " and ".join(texts.values()), "commit": "", "dirty": False}
    sweep.track(
        record=RECORD
        | texts
        | {"inner": [texts], "base": TrainConfig(exclude=(*texts.values(),)).to_dict()},
        provenance=provenance,
    )
    sweep.run(0, params=texts)
    for number, leak in enumerate(LEAKS):
        failed = trial(1, "failed", reason=leak.text, params={"source": leak.text})
        failed = dataclasses.replace(failed, trial_id=f"t{number + 1:04d}")
        sweep.put(failed)
        sweep.tracker.begin(failed)
        sweep.end(failed)
    assert sweep.close(), sweep.said
    parent, children, _ = mirrored(store, request.node.name)
    for number, leak in enumerate(LEAKS):
        run = children[f"t{number + 1:04d}"].data
        seen = [run.tags["rsas.reason"], run.params["source"], parent.data.params[leak.name]]
        assert all("***" in text for text in seen), leak.name
    names = {path.name for path in store.rglob("*")}
    assert {"experiment.json", "environment.json", "report.html", "front.csv"} <= names
    written = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    for leak in LEAKS:
        for secret in leak.hidden:
            if len(secret) > 3:  # shorter ones occur in plotly
                found = [path.name for path in written if secret.encode() in written[path]]
                assert found == [], leak.name


def test_secrets_in_a_record_are_its_strings(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "100000")
    monkeypatch.setenv("OTHER_PASSWORD", 'so "to" say')
    record = {
        "budget": {"trials": 100000, "hours": None},
        "place": 'at so "to" say',
        "base": {"exclude": ("100000", 0.5), "100000": True},
    }
    assert redacted(record) == {
        "budget": {"trials": 100000, "hours": None},
        "place": "at ***",
        "base": {"exclude": ["***", 0.5], "100000": True},
    }


def test_a_trial_without_new_rows_logs_nothing(sweep, monkeypatch):
    sweep.trials = [trial(n, "complete") for n in range(3)]
    sweep.track()
    assert sweep.close()
    calls = []
    for name in ("log_batch", "set_tag", "log_text", "create_run"):
        monkeypatch.setattr(MlflowClient, name, lambda *a, _n=name, **k: calls.append(_n))
    sweep.track()
    assert sweep.close()
    assert calls == []


def test_a_long_catch_up_tells_how_far_it_has_come(store, sweep, request):
    sweep.trials = [trial(n, "complete") for n in range(3)]
    sweep.track()
    wait_for(lambda: points(store, request.node.name) == 3)
    assert sweep.progress[:4] == [(n, 3) for n in range(4)]
    assert sweep.close()
    assert sweep.said == []
    check_whole(store, request.node.name, 3)


def test_a_long_end_tells_how_to_leave_it(sweep, monkeypatch):
    monkeypatch.setattr("rsas.tracking.tracker._PATIENCE_SECONDS", 0.0)
    sweep.trials = [trial(0, "complete")]
    sweep.track()
    assert sweep.close()
    assert len(sweep.said) == 1
    assert "after Ctrl-C 'rsas resume' logs those that MLflow lacks" in sweep.said[0]


def test_what_mlflow_has_of_a_sweep_is_read(store, sweep, request):
    sweep.track()
    for number in range(3):
        sweep.run(number)
    assert sweep.close("interrupted")
    uri = f"sqlite:///{store}/mlflow.db"
    assert read_mirror(uri, "no such sweep").parent == ""
    found = read_mirror(uri, request.node.name[::-1])
    parent, children, _ = mirrored(store, request.node.name)
    assert (found.parent, found.status) == (parent.info.run_id, "KILLED")
    assert found.points == [1, 2, 3]
    assert found.front == front_mark(t.trial_id for t in front(sweep.trials, OBJECTIVES))
    assert [run.trial_id for run in found.runs] == ["t0000", "t0001", "t0002"]
    run = found.runs[1]
    assert (run.run_id, run.status) == (children["t0001"].info.run_id, "FINISHED")
    assert (run.state, run.pareto, run.epochs) == ("complete", "false", [1, 2, 3])
    assert run.params == {"sparsity": "0.4", "measure_lr": "0.1"}
    assert run.metrics["sparsity"] == 0.4
    assert read_history(uri, run.run_id) == [
        {name: pytest.approx(value) for name, value in row.items()} for row in trial(1).rows
    ]
    delete_run(uri, run.run_id)
    left = read_mirror(uri, request.node.name[::-1]).runs
    assert [run.trial_id for run in left] == ["t0000", "t0002"]


def test_steps_are_in_order_where_the_clock_was_set_back(store, sweep, request):
    sweep.track()
    sweep.run(0)
    assert sweep.close()
    uri = f"sqlite:///{store}/mlflow.db"
    parent, children, _ = mirrored(store, request.node.name)
    for run, metric in ((children["t0000"], "epoch"), (parent, "hypervolume")):
        for step in (8, 9):
            client = MlflowClient(uri)
            client.log_metric(run.info.run_id, metric, step, timestamp=step, step=step)
    found = read_mirror(uri, request.node.name[::-1])
    assert found.runs[0].epochs == [1, 2, 3, 8, 9]
    assert found.points == [1, 8, 9]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_clear_line():
    with pytest.raises(InputError, match="tracking server 'http://127.0.0.1:9' does not") as caught:
        connect("http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    assert "Connection refused" in str(caught.value)


def test_a_server_that_asks_for_a_long_pause_is_not_waited_for(monkeypatch):
    for name in ("BACKOFF_FACTOR", "BACKOFF_JITTER"):  # retries come at once
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(429)
            self.send_header("Retry-After", "20")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(InputError, match="too many 429 error responses"):
            connect(f"http://127.0.0.1:{server.server_port}")
        assert time.monotonic() < begin + 15
        server.shutdown()
        thread.join()


def test_names_tell_what_people_compare():
    def named(**params):
        return run_name(dataclasses.replace(trial(3), params=params))

    assert named(sparsity=0.9312, measure_lr=0.01234) == "s0.931 a0.0123 #3"
    assert named(method="rigl", lr=0.1, update_interval=20) == "rigl lr0.1 ui20 #3"
    assert named(nesterov=True, a=1, b=2, c=3, d=4) == "True a1 b2 c3 #3"
    assert named() == "#3"


def test_a_stranger_finds_origin_data_and_report(store, sweep, request):
    sweep.track()
    sweep.run(0)
    assert sweep.close()
    parent, children, _ = mirrored(store, request.node.name)
    tags = parent.data.tags
    assert tags["mlflow.source.git.commit"] == "c0ffee" and tags["rsas.dirty"] == "true"
    assert tags["mlflow.source.name"] == "/x/study.py:experiment"
    assert tags["rsas.knee"] == "t0000"
    assert children["t0000"].info.run_name == "s0.5 a0.1 #0"
    for run in (parent, children["t0000"]):
        (found,) = run.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("digits", "0123456789abcdef")
        assert json.loads(found.dataset.profile) == {"train": 1500, "test": 297}
    folder = store / "artifacts" / parent.info.run_id / "artifacts"
    assert json.loads((folder / "environment.json").read_text()) == PROVENANCE
    assert json.loads((folder / "experiment.json").read_text()) == RECORD
    assert "The knee, t0000" in (folder / "report.html").read_text()
    assert sweep.said == []


def test_networks_of_the_front_can_be_loaded_and_registered(store, sweep, request):
    torch.manual_seed(0)
    nets = {f"t000{n}": nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval() for n in range(3)}
    asked = []

    def models(record):
        asked.append(record.trial_id)
        return nets[record.trial_id], np.zeros((2, 1, 2, 3), dtype=np.float32)

    sweep.track(models=models)
    for number in range(3):
        sweep.run(number)
    assert sweep.close()
    assert sorted(asked) == ["t0000", "t0002"]  # the second trial is dominated
    uri = f"sqlite:///{store}/mlflow.db"
    runs = read_runs(uri, request.node.name[::-1])
    logged = read_models(uri, runs)
    assert set(logged) == {"t0000", "t0002"}
    client = MlflowClient(uri)
    for name, place in logged.items():
        model = client.get_logged_model(place.removeprefix("models:/"))
        run = client.get_run(runs[name])
        assert (model.source_run_id, model.experiment_id) == (runs[name], run.info.experiment_id)
        assert model.artifact_location.startswith((store / "artifacts").as_uri())
        assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        x = torch.randn(5, 1, 2, 3)  # not as many as the example had
        for name, place in logged.items():
            again = mlflow.pytorch.load_model(place)
            assert torch.equal(again(x), nets[name](x))
        wanted = {"knee": logged["t0000"], "sparsest": logged["t0002"], "best": logged["t0000"]}
        assert register(uri, "net", wanted) == {"knee": "1", "sparsest": "2", "best": "1"}
        assert register(uri, "net", wanted) == {"knee": "1", "sparsest": "2", "best": "1"}
        found = mlflow.pytorch.load_model("models:/net@sparsest")
        assert torch.equal(found(x), nets["t0002"](x))
    finally:
        mlflow.set_tracking_uri(before)
    assert register(uri, "net", {"knee": logged["t0002"]}) == {"knee": "2"}  # it moved
    with pytest.raises(InputError, match="registered model 'a/b'"):
        register(uri, "a/b", wanted)
    asked.clear()
    sweep.track(models=models)  # as by a resume
    assert sweep.close() and asked == []
    assert sweep.said == []


def test_a_network_that_cannot_be_exported_costs_the_sweep_nothing(sweep):
    class Odd(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    sweep.track(models=lambda record: (Odd(), np.zeros((2, 3), dtype=np.float32)))
    sweep.run(0)
    assert sweep.close()
    assert len(sweep.said) == 1 and sweep.said[0].startswith("t0000: its network is not in MLflow")
