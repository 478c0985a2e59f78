"""Study, MLflow and files that differ: each fault is found by name, and mended."""

import contextlib
import json
import shutil
import sqlite3
import time

import pytest
import torch
from mlflow.tracking import MlflowClient

from rsas.errors import StorageError
from rsas.records import trial_id
from rsas.sweep.audit import repair
from rsas.sweep.audit.check import Fault, check
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.trial_dir import TrialDir, write_model
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.mirror import tracker_of
from tests import made
from tests.faults.harness import Place

# (val_accuracy, sparsity): the first three are the front.
POINTS = [(0.9, 0.5), (0.8, 0.7), (0.6, 0.9), (0.7, 0.6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One SQLite file for all tests, since making one takes seconds.

    The name of its folder has characters that mean something in an URI.
    """
    folder = tmp_path_factory.mktemp("store") / "a b 100%25 c#d?e=f"
    folder.mkdir()
    return folder


@pytest.fixture
def sweep(tmp_path, store, request):
    """A finished sweep of four trials, of which one was stopped early and one failed."""
    place = Place(tmp_path)
    experiment, source = load_experiment(place.source)
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:90]
    folder, study = made.make(store / "runs", name, experiment, source)
    for accuracy, sparsity in POINTS:
        number = study.begin()
        rows = made.rows(3, accuracy, sparsity)
        made.train(folder, number, rows)
        write_model(folder.models, trial_id(number), {"weights": torch.zeros(3)})
        study.complete(number, rows[-1])
    pruned, failed = study.begin(), study.begin()
    study.prune(pruned, 0)
    study.fail(failed, "out of memory")
    retention = Retention(folder.storage, study, folder.objectives, print)
    retention.close(study.trials(folder.objectives))
    tracker = tracker_of(folder, study, say=print)
    assert tracker.close("finished")
    return folder


def client_of(folder):
    return MlflowClient(folder.tracking_uri())


def run_of(sweep, trial):
    client = client_of(sweep)
    experiment = client.get_experiment_by_name("disturbed").experiment_id
    found = client.search_runs(
        [experiment],
        f"tags.`rsas.sweep` = '{sweep.name}' and tags.`rsas.trial_id` = '{trial}'",
    )
    return client, found[0].info.run_id


def parent_of(sweep):
    client = client_of(sweep)
    experiment = client.get_experiment_by_name("disturbed").experiment_id
    condition = f"tags.`rsas.sweep_id` = '{sweep.record['id']}' and tags.`rsas.kind` = 'sweep'"
    return client, client.search_runs([experiment], condition)[0].info.run_id


def told(faults):
    return {(fault.kind, fault.where, fault.trial_id) for fault in faults}


@pytest.mark.slow
def test_a_sweep_that_is_whole_has_no_fault(sweep):
    assert check(sweep) == []
    assert {path.name for path in sweep.workspace.iterdir()} >= {"mlflow.db", "artifacts"}


def deleted_run(sweep):
    client, run = run_of(sweep, "t0001")
    client.delete_run(run)
    return ("gap", "mlflow", "t0001")


def twin(sweep):
    client, run = run_of(sweep, "t0001")
    tags = client.get_run(run).data.tags
    client.create_run(client.get_run(run).info.experiment_id, tags=tags)
    return ("twin", "mlflow", "t0001")


def ghost_run(sweep):
    client, run = run_of(sweep, "t0001")
    tags = client.get_run(run).data.tags | {"rsas.trial_id": "t0099"}
    client.create_run(client.get_run(run).info.experiment_id, tags=tags)
    return ("ghost", "mlflow", "t0099")


def other_status(sweep):
    client, run = run_of(sweep, "t0002")
    client.update_run(run, status="RUNNING")
    return ("mismatch", "mlflow", "t0002")


def other_state(sweep):
    client, run = run_of(sweep, "t0004")
    client.set_tag(run, "rsas.state", "complete")
    return ("mismatch", "mlflow", "t0004")


def other_front_tag(sweep):
    client, run = run_of(sweep, "t0003")
    client.set_tag(run, "rsas.pareto", "true")
    return ("mismatch", "mlflow", "t0003")


def front_tag_of_a_failure(sweep):
    client, run = run_of(sweep, "t0005")
    client.set_tag(run, "rsas.pareto", "true")
    return ("mismatch", "mlflow", "t0005")


def other_value(sweep):
    client, run = run_of(sweep, "t0000")
    client.log_metric(run, "val_accuracy", 0.99, step=3)
    return ("mismatch", "mlflow", "t0000")


def epochs_too_many(sweep):
    client, run = run_of(sweep, "t0000")
    client.log_metric(run, "epoch", 3, step=3)
    return ("gap", "mlflow", "t0000")


def second_parent(sweep):
    client, run = parent_of(sweep)
    found = client.get_run(run)
    client.create_run(found.info.experiment_id, tags=found.data.tags)
    return ("twin", "mlflow", "")


def run_under_a_second_parent(sweep):
    """As where the answer to the first parent's making was lost."""
    second_parent(sweep)
    client, run = run_of(sweep, "t0001")
    parents = client.search_runs(
        [client.get_run(run).info.experiment_id],
        f"tags.`rsas.sweep_id` = '{sweep.record['id']}' and tags.`rsas.kind` = 'sweep'",
    )
    under = client.get_run(run).data.tags["mlflow.parentRunId"]
    (other,) = {each.info.run_id for each in parents} - {under}
    client.set_tag(run, "mlflow.parentRunId", other)
    return ("mismatch", "mlflow", "t0001")


def points_too_many(sweep):
    client, run = parent_of(sweep)
    client.log_metric(run, "hypervolume", 0.1, step=2)
    return ("gap", "mlflow", "")


def points_between_missing(sweep):
    with contextlib.closing(sqlite3.connect(sweep.workspace / "mlflow.db")) as database, database:
        _, run = parent_of(sweep)
        database.execute("DELETE FROM metrics WHERE run_uuid = ? AND step = 2", [run])
    return ("gap", "mlflow", "")


def no_artifacts(sweep):
    _, run = parent_of(sweep)
    shutil.rmtree(sweep.workspace / "artifacts" / run)
    return ("gap", "mlflow", "")


def no_report(sweep):
    _, run = parent_of(sweep)
    (sweep.workspace / "artifacts" / run / "artifacts" / "report.html").unlink()
    return ("gap", "mlflow", "")


def no_picture(sweep):
    _, run = parent_of(sweep)
    (sweep.workspace / "artifacts" / run / "artifacts" / "pareto" / "front.html").unlink()
    return ("gap", "mlflow", "")


def other_parent_status(sweep):
    client, run = parent_of(sweep)
    client.update_run(run, status="RUNNING")
    return ("mismatch", "mlflow", "")


def other_front(sweep):
    client, run = parent_of(sweep)
    client.set_tag(run, "rsas.front", "1-000")
    return ("mismatch", "mlflow", "")


def no_parent(sweep):
    client, run = parent_of(sweep)
    client.delete_run(run)
    return ("gap", "mlflow", "")


def ghost_folder(sweep):
    TrialDir(sweep.trials / "t0077").set_error("x")
    return ("ghost", "storage", "t0077")


def second_ghost_folder(sweep):
    """One of the same name was put aside before."""
    for name in ("t0077", "t0077.ghost", "t0077.ghost1"):
        TrialDir(sweep.trials / name).set_error(name)
    return ("ghost", "storage", "t0077")


def stray_model(sweep):
    (sweep.path / "models" / "README").write_text("x")
    return ("ghost", "storage", "README")


def ghost_model(sweep):
    write_model(sweep.models, "t0003", {})
    return ("ghost", "storage", "t0003")


def no_record(sweep):
    (sweep.path / "trials" / "t0002" / "trial.json").unlink()
    return ("gap", "storage", "t0002")


def older_record(sweep):
    record = sweep.kept_records()[2] | {"state": "RUNNING"}
    TrialDir(sweep.trials / "t0002").set_record(record)
    return ("mismatch", "storage", "t0002")


def lost_history(sweep):
    (sweep.path / "trials" / "t0001" / "history-0001.jsonl").unlink()
    return ("gap", "storage", "t0001")


def torn_history(sweep):
    path = sweep.path / "trials" / "t0001" / "history-0001.jsonl"
    path.write_text(path.read_text()[:-20])
    return ("gap", "storage", "t0001")


def cut_journal(sweep):
    path = sweep.journal
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))
    return ("damaged", "study", "")


def spoilt_journal(sweep):
    path = sweep.journal
    lines = path.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"\xff\xff\n"
    path.write_bytes(b"".join(lines))
    return ("damaged", "study", "")


def no_journal(sweep):
    sweep.journal.unlink()
    return ("damaged", "study", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        deleted_run,
        twin,
        ghost_run,
        other_status,
        other_state,
        other_front_tag,
        front_tag_of_a_failure,
        other_value,
        epochs_too_many,
        second_parent,
        run_under_a_second_parent,
        points_too_many,
        points_between_missing,
        no_artifacts,
        no_report,
        no_picture,
        other_parent_status,
        other_front,
        no_parent,
        ghost_folder,
        second_ghost_folder,
        ghost_model,
        stray_model,
        no_record,
        older_record,
        lost_history,
        torn_history,
        cut_journal,
        spoilt_journal,
        no_journal,
    ],
)
def test_each_fault_is_found_and_mended(sweep, harm):
    before = sweep.status()
    expected = harm(sweep)
    assert expected in told(check(sweep))
    with sweep.locked():
        repair.repair(sweep)
    assert check(sweep) == []
    after = sweep.status()
    assert (after.trials, after.state) == (before.trials, before.state)


def test_runs_outlive_their_parent(sweep):
    """Somebody deleted the parent run alone; the trials' runs go under the new one."""
    _, before = run_of(sweep, "t0001")
    no_parent(sweep)
    with sweep.locked():
        repair.repair(sweep)
    client, after = run_of(sweep, "t0001")
    assert after == before
    assert client.get_run(after).data.tags["mlflow.parentRunId"] == parent_of(sweep)[1]


def test_a_model_that_is_lost_is_told_and_not_made_up(sweep):
    path = sweep.path / "models" / "t0000" / "model.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert told(check(sweep)) == {("damaged", "storage", "t0000")}
    path.unlink()
    assert told(check(sweep)) == {("gap", "storage", "t0000")}
    with sweep.locked():
        lines = repair.repair(sweep)
    assert any("t0000" in line and "training its configuration" in line for line in lines)
    assert told(check(sweep)) == {("gap", "storage", "t0000")}


def test_a_stopped_trial_gets_its_history_back(sweep):
    """MLflow has the last copy of it, which must not be given up."""
    experiment = repair.experiment_of(sweep)
    study = sweep.study(experiment)
    number = study.begin()
    made.train(sweep, number, made.rows(3, 0.5, 0.5))
    study.prune(number, 3.0)
    retention = Retention(sweep.storage, study, sweep.objectives, print)
    retention.change(number)
    retention.close(study.trials(sweep.objectives))
    assert tracker_of(sweep, study, say=print).close("finished")
    assert check(sweep) == []
    trial = TrialDir(sweep.trials / trial_id(number))
    before = trial.history().rows
    (sweep.path / "trials" / trial_id(number) / "history-0001.jsonl").write_bytes(b"damaged")
    assert ("gap", "storage", trial_id(number)) in told(check(sweep))
    with sweep.locked():
        repair.repair(sweep)
    assert check(sweep) == []
    assert trial.history().rows == before


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_of_a_trial_that_is_to_go_on(sweep, damaged):
    experiment = repair.experiment_of(sweep)
    number = sweep.study(experiment).begin()
    trial = TrialDir(sweep.trials / trial_id(number))
    trial.begin()
    trial.save(1, {"epoch": 1})
    trial.save(2, {"epoch": 2})
    path = sweep.path / "trials" / trial_id(number) / f"checkpoint-00000{damaged}.pt"
    path.write_bytes(path.read_bytes()[:50])
    assert ("damaged", "storage", trial_id(number)) in told(check(sweep))
    with sweep.locked():
        repair.repair(sweep)
    assert check(sweep) == []
    assert trial.checkpoints() == [f"checkpoint-00000{3 - damaged}.pt"]
    assert path.with_suffix(".damaged").exists()


def test_what_a_running_sweep_is_about_to_write_is_no_fault(sweep, command_line, monkeypatch):
    late, lasting = (Fault("gap", "mlflow", f"t000{n}", "the trial has no run") for n in (1, 2))
    looks = [[late, lasting], [lasting], [late]]
    monkeypatch.setattr("rsas.cli.look._A_WHILE", 0.01)
    monkeypatch.setattr("rsas.sweep.audit.check.check", lambda _: looks.pop(0))
    asked = ("check", sweep.name, "--workspace", sweep.workspace, "--json")
    for runner, told in ((sweep.locked(), ["t0002"]), (contextlib.nullcontext(), ["t0001"])):
        with runner:
            code, out, _ = command_line(*asked)
        assert (code, [fault["trial_id"] for fault in json.loads(out)["faults"]]) == (1, told)
    assert looks == []


def test_a_damaged_study_is_a_fault_that_is_told(sweep, command_line):
    sweep.journal.write_text("garbage\n")
    code, out, err = command_line("check", sweep.name, "--workspace", sweep.workspace, "--json")
    (fault,) = json.loads(out)["faults"]
    assert (code, err) == (1, "")
    assert (fault["kind"], fault["where"]) == ("damaged", "study")


def test_a_storage_that_fails_keeps_nothing_else_from_being_mended(sweep, monkeypatch):
    ghost_folder(sweep)
    lost_history(sweep)
    twin(sweep)

    def fail(self, name, to):
        raise StorageError(f"cannot move {name}")

    with monkeypatch.context() as patch, sweep.locked():
        patch.setattr(FileStore, "move", fail)
        lines = repair.repair(sweep)
    assert "cannot move t0077" in lines
    assert told(check(sweep)) == {("ghost", "storage", "t0077")}


@pytest.mark.slow
def test_a_driver_that_was_replaced_logs_nothing_more(sweep):
    """As one that was stopped with results in its queue, and goes on."""
    other = Workspace(sweep.workspace).open(sweep.name)
    experiment = repair.experiment_of(sweep)
    with sweep.locked():
        tracker = tracker_of(sweep, sweep.study(experiment), say=print)
        tracker.rows("t0000", [])  # connects first
        while not tracker._queue.empty():
            time.sleep(0.05)
        with other.locked(take_over=True):
            tracker.rows("t0000", made.rows(4, 0.9, 0.5)[3:])
            tracker._thread.join(30)
            assert not tracker._thread.is_alive()
            theirs = tracker_of(other, other.study(experiment), say=print)
            assert theirs.close("finished")
    assert check(sweep) == []
