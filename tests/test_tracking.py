"""MLflow as a mirror of the book, with a real SQLite store."""

import json

import pytest
from mlflow.tracking import MlflowClient

from rsas import InputError, TrainConfig
from rsas.analysis import front, hypervolume
from rsas.records import Objective, TrialRecord
from rsas.tracking import Tracker, connect

OBJECTIVES = (Objective("val_accuracy", "max", worst=0.1), Objective("sparsity", "max", worst=0.0))
POINTS = [(0.9, 0.5), (0.8, 0.4), (0.7, 0.9), (0.95, 0.6)]  # the last one beats the first


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder with a database whose schema is made once for all tests."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def open_tracker(store, request):
    def open_(trials):
        return Tracker(
            f"sqlite:///{store}/mlflow.db",
            trials,
            sweep=request.node.name,
            sweep_id=request.node.name[::-1],
            experiment="tests",
            artifacts=(store / "artifacts").as_uri(),
            objectives=OBJECTIVES,
            record={"name": "tests", "sampler": "tpe", "base": TrainConfig().to_dict()},
        )

    return open_


def trial(number, state="running", epochs=3):
    accuracy, sparsity = POINTS[number]
    rows = [
        {"epoch": float(e), "val_accuracy": accuracy * e / 3, "sparsity": sparsity}
        for e in range(1, epochs + 1)
    ]
    done = state == "complete"
    return TrialRecord(
        trial_id=f"t{number:04d}",
        state=state,
        params={"sparsity": sparsity, "measure_lr": 0.1},
        objectives={"val_accuracy": accuracy, "sparsity": sparsity} if done else {},
        started=1000.0 + number,
        finished=None if state == "running" else 2000.0 + number,
        reason="out of memory" if state == "failed" else "",
        rows=rows,
    )


def end(tracked, complete):
    """A trial as the sweep sees it run: handed out, an epoch at a time, ended."""
    running = trial(complete, epochs=0)
    tracked.begin(running)
    for row in trial(complete).rows:
        tracked.row(running.trial_id, row)
    done = [trial(n, "complete") for n in range(complete + 1)]
    tracked.end(done[-1], done)
    return done


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


def test_a_sweep_is_mirrored_as_it_runs(store, open_tracker, request):
    tracked = open_tracker([])
    for number in range(4):
        done = end(tracked, number)
    assert tracked.close(done, finished=True)
    parent = check_whole(store, request.node.name, 4)
    note = parent.data.tags["mlflow.note.content"]
    assert "front of 4 trials" in note
    assert "| t0003 | 0.9500 | 0.6000 |" in note
    assert parent.info.status == "FINISHED"
    assert parent.data.params["base.sparsity"] == "0.9"
    assert parent.data.params["sampler"] == "tpe"


def test_the_last_picture_has_all_trials(store, open_tracker, request):
    """The second trial is dominated: it changes no member, but belongs into the picture."""
    tracked = open_tracker([])
    for number in range(2):
        done = end(tracked, number)
    assert tracked.close(done, finished=True)
    parent = check_whole(store, request.node.name, 2)
    assert "front of 2 trials" in parent.data.tags["mlflow.note.content"]


def test_a_resumed_sweep_goes_on_in_the_same_runs(store, open_tracker, request):
    first = open_tracker([])
    done = end(first, 0)
    first.begin(trial(1, epochs=0))
    first.row("t0001", trial(1).rows[0])
    assert first.close([*done, trial(1, epochs=1)], finished=False)
    parent, children, _ = mirrored(store, request.node.name)
    assert (parent.info.status, children["t0001"].info.status) == ("KILLED", "KILLED")

    second = open_tracker([*done, trial(1, epochs=1)])
    second.begin(trial(1, epochs=0))
    for row in trial(1).rows:  # the first epoch is trained again
        second.row("t0001", row)
    done = [*done, trial(1, "complete")]
    second.end(done[1], done)
    assert second.close(done, finished=True)
    check_whole(store, request.node.name, 2)


def test_what_an_outage_swallowed_is_made_up_for(store, open_tracker, request, monkeypatch, caplog):
    first = open_tracker([])
    done = end(first, 0)
    assert first.close(done, finished=False)
    tracked = open_tracker(done)
    real = MlflowClient.log_batch
    state = {"down": True}

    def log_batch(self, *args, **kwargs):
        if state["down"]:
            raise ConnectionError("no server")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    done = end(tracked, 1)
    done = end(tracked, 2)
    # Down to the end: the sweep is told, and nothing raises.
    assert tracked.close(done, finished=True) is False
    assert sum("stopped answering" in message for message in caplog.messages) == 1
    state["down"] = False
    assert open_tracker(done).close(done, finished=True)
    check_whole(store, request.node.name, 3)


def test_what_was_cut_off_is_completed(store, open_tracker, request):
    """A parameter, and a picture, that a process did not come to log any more."""
    partial = trial(0, epochs=0)
    partial.params.pop("measure_lr")
    first = open_tracker([partial])
    assert first.close([partial], finished=False)
    done = [trial(0, "complete"), trial(1, "complete")]
    assert open_tracker(done[:1]).close(done[:1], finished=False)
    assert open_tracker(done).close(done, finished=True)
    parent = check_whole(store, request.node.name, 2)
    assert "front of 2 trials" in parent.data.tags["mlflow.note.content"]


def test_runs_that_were_deleted_are_made_again(store, open_tracker, request):
    done = [trial(n, "complete") for n in range(3)]
    assert open_tracker(done).close(done, finished=True)
    _, children, _ = mirrored(store, request.node.name)
    MlflowClient(f"sqlite:///{store}/mlflow.db").delete_run(children["t0001"].info.run_id)
    assert open_tracker(done).close(done, finished=True)
    check_whole(store, request.node.name, 3)


def test_failures_are_told_with_their_reason(store, open_tracker, request):
    tracked = open_tracker([])
    tracked.begin(trial(0, epochs=0))
    tracked.end(trial(0, "failed"), [trial(0, "failed")])
    assert tracked.close([trial(0, "failed")], finished=True)
    _, children, _ = mirrored(store, request.node.name)
    assert children["t0000"].info.status == "FAILED"
    assert children["t0000"].data.tags["rsas.reason"] == "out of memory"
    assert "rsas.pareto" not in children["t0000"].data.tags


def test_a_trial_without_new_rows_logs_nothing(store, open_tracker, request, monkeypatch):
    done = [trial(n, "complete") for n in range(3)]
    assert open_tracker(done).close(done, finished=True)
    calls = []
    for name in ("log_batch", "set_tag", "log_text", "create_run"):
        monkeypatch.setattr(MlflowClient, name, lambda *a, _n=name, **k: calls.append(_n))
    assert open_tracker(done).close(done, finished=True)
    assert calls == []


def test_a_server_that_does_not_answer_is_one_clear_line():
    with pytest.raises(InputError, match="tracking server 'http://127.0.0.1:9' does not") as caught:
        connect("http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
