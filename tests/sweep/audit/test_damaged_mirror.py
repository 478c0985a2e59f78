"""The workspace's own file of MLflow is damaged: found, kept aside, made again."""

import contextlib
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

from rsas.cli.run import _conclude
from rsas.errors import InputError
from rsas.records import trial_id
from rsas.sweep.audit import repair
from rsas.sweep.audit.check import check
from rsas.sweep.commands import resume
from rsas.sweep.execute.cluster import Connection
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.trial_dir import write_model
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.mirror import tracker_of
from rsas.tracking import connect, damage
from rsas.tracking.database import analyze
from tests import made
from tests.faults.harness import Place

POINTS = [(0.9, 0.5), (0.6, 0.9)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workspace with two finished sweeps."""
    place = Place(tmp_path_factory.mktemp("whole"))
    experiment, source = load_experiment(place.source)
    for name in ("one", "two"):
        folder, study = made.make(place.runs, name, experiment, source)
        for accuracy, sparsity in POINTS * 2:
            number = study.begin()
            rows = made.rows(3, accuracy, sparsity)
            made.train(folder, number, rows)
            write_model(folder.models, trial_id(number), {"weights": torch.zeros(3)})
            study.complete(number, rows[-1])
        Retention(folder.storage, study, folder.objectives, print).close(folder.status().trials)
        assert tracker_of(folder, study, say=print).close("finished")
    return place.runs


@pytest.fixture
def workspace(whole, tmp_path):
    return Workspace(shutil.copytree(whole, tmp_path / "runs"))


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path):
    content = bytearray(path.read_bytes())
    content[4096 * 3 :: 512] = b"\xff" * len(content[4096 * 3 :: 512])
    path.write_bytes(content)


def last_pages(path):
    path.write_bytes(path.read_bytes()[: -4096 * 8] + b"\xff" * 4096 * 8)


def empty(path):
    path.write_bytes(b"")


def no_database(path):
    path.write_text("no database " * 1000)


def another_database(path):
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE others (name TEXT)")


@pytest.mark.parametrize(
    "harm", [truncated, garbage, last_pages, empty, no_database, another_database]
)
def test_damage_is_told_and_nothing_is_changed(workspace, harm):
    file = workspace.path / "mlflow.db"
    assert damage(file) == ""
    harm(file)
    before = file.read_bytes()
    assert damage(file)
    (fault,) = check(workspace.open("one"))
    assert (fault.kind, fault.where, fault.trial_id) == ("damaged", "mlflow", "")
    assert file.read_bytes() == before


def test_a_file_that_is_locked_or_away_is_not_damaged(workspace):
    file = workspace.path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert damage(file) == ""
    file.unlink()
    assert damage(file) == ""
    assert not file.exists()


def test_a_repair_makes_it_again_and_names_the_other_sweeps(workspace):
    file = workspace.path / "mlflow.db"
    truncated(file)
    damaged = file.read_bytes()
    one, two = workspace.open("one"), workspace.open("two")
    with one.locked():
        lines = repair.repair(one)
    told = [line for line in lines if "mlflow.db was damaged" in line]
    assert len(told) == 1
    assert told[0].endswith(
        "kept aside as mlflow.db.damaged; the runs of one are logged again; "
        "'rsas check NAME --repair' logs those of two"
    )
    assert (workspace.path / "mlflow.db.damaged").read_bytes() == damaged
    assert check(one) == []
    assert [fault.what for fault in check(two)] == ["the sweep has no parent run"]


def test_a_journal_of_sqlite_goes_aside_with_the_file(workspace):
    """SQLite would roll another process's journal back into the new file."""
    file = workspace.path / "mlflow.db"
    last_pages(file)
    (workspace.path / "mlflow.db.damaged").write_bytes(b"of an earlier time")
    one = workspace.open("one")
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE experiments SET last_update_time = 1")
        assert (workspace.path / "mlflow.db-journal").exists()
        said = repair.repair_mirror(one)
        tracker = tracker_of(one, one.study(repair.experiment_of(one)), say=said.append)
        assert tracker.close("finished"), said
        assert (workspace.path / "mlflow.db.damaged1-journal").exists()
    assert "kept aside as mlflow.db.damaged1" in said[0]
    assert (workspace.path / "mlflow.db.damaged").read_bytes() == b"of an earlier time"
    assert check(one) == []


@pytest.mark.slow
def test_a_sweep_that_runs_beside_a_repair_is_in_the_new_file(workspace):
    """Its process must not go on in the file that was kept aside."""
    file = workspace.path / "mlflow.db"
    two = workspace.open("two")
    tracker = tracker_of(two, two.study(repair.experiment_of(two)), say=print)
    deadline = time.monotonic() + 60
    while tracker._writer is None:  # it has caught up, and waits for what comes
        assert time.monotonic() < deadline
        time.sleep(0.02)
    other = (
        "import sys; from pathlib import Path; from rsas.tracking import connect, set_aside\n"
        "print(set_aside(Path(sys.argv[1])).name); connect(f'sqlite:///{sys.argv[1]}')"
    )
    empty(file)
    done = subprocess.run(
        [sys.executable, "-c", other, file], capture_output=True, text=True, check=True
    )
    assert done.stdout == "mlflow.db.damaged\n"
    assert tracker.close("finished")
    assert check(two) == []


def test_a_file_of_the_users_is_left_as_it_is(workspace, tmp_path):
    theirs = tmp_path / "theirs.db"
    no_database(theirs)
    before = theirs.read_bytes()
    one = workspace.open("one")
    one.record["tracking_uri"] = f"sqlite:///{theirs}"
    with pytest.raises(InputError, match="theirs.db' does not answer") as caught:
        check(one)
    assert "file is not a database" in str(caught.value)
    said = repair.repair_mirror(one)
    tracker = tracker_of(one, one.study(repair.experiment_of(one)), say=said.append)
    assert not tracker.close("finished")
    assert len(said) == 1 and "file is not a database" in said[0]
    assert theirs.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "theirs.db"}


def test_the_ui_of_a_damaged_file_is_one_line(workspace, command_line):
    truncated(workspace.path / "mlflow.db")
    code, _, err = command_line("ui", "--workspace", workspace.path)
    assert code == 2
    assert "is damaged" in err and "check NAME --repair" in err and err.count("\n") == 1


def test_a_resume_that_cannot_log_does_not_say_that_it_has(workspace, tmp_path):
    record = workspace.path / "one" / "sweep.json"
    theirs = tmp_path / "theirs.db"
    for uri, is_there in ((f"sqlite:///{theirs}", False), (None, True)):
        no_database(theirs)
        record.write_text(json.dumps(json.loads(record.read_text()) | {"tracking_uri": uri}))
        console = Console(file=io.StringIO(), width=200)
        status = resume(
            "one",
            workspace=workspace,
            console=console,
            connection=Connection(None, "study.py:experiment"),
        )
        _conclude(status, workspace, console)
        told = console.file.getvalue()
        assert ("all trials and the front in MLflow" in told) is is_there
        assert ("MLflow lacks some results; 'rsas resume one' logs them" in told) is not is_there


# Many runs.


def test_the_points_of_a_run_are_read_without_those_of_others(tmp_path):
    """SQLite took the index by name, and the time of a check grew with the square of the runs."""
    path = tmp_path / "mlflow.db"
    connect(f"sqlite:///{path}")
    columns = "key, value, timestamp, step, is_nan, run_uuid"
    points = [("epoch", i, i, i, 0, f"run{i % 100}") for i in range(2000)]
    query = f"EXPLAIN QUERY PLAN SELECT {columns} FROM metrics WHERE run_uuid = ? AND key = ? "
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executemany(f"INSERT INTO metrics ({columns}) VALUES (?, ?, ?, ?, ?, ?)", points)
    plans = []
    for step in (lambda: None, lambda: analyze(path)):
        step()
        with contextlib.closing(sqlite3.connect(path)) as database:
            found = database.execute(query + "ORDER BY timestamp, step, value", ("run5", "epoch"))
            plans.append(found.fetchone()[3])
    assert "metrics_run_uuid" not in plans[0]
    assert "metrics_run_uuid" in plans[1]


def test_a_mirror_is_analyzed_at_the_end_of_a_sweep(workspace):
    with contextlib.closing(sqlite3.connect(workspace.path / "mlflow.db")) as database:
        found = database.execute("SELECT idx FROM sqlite_stat1 WHERE tbl = 'metrics'").fetchall()
    assert ("index_metrics_run_uuid_key_step",) in found
