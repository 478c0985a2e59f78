"""Folders of sweeps: names, records, locks."""

import json
import subprocess
import sys

import pytest

from rsas import InputError, TrainConfig
from rsas.records import Objective
from rsas.search.book import Book
from rsas.search.experiment import Budget, Experiment
from rsas.search.workspace import Workspace
from search_spaces.paper import paper


def experiment():
    return Experiment(
        name="test",
        base=TrainConfig(),
        space=paper,
        objectives=(Objective("val_accuracy", "max", 0.1), Objective("sparsity", "max", 0.0)),
        budget=Budget(trials=2, failures=2),
    )


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")


@pytest.fixture
def folder(workspace):
    record = {"experiment": experiment().to_dict(), "tracking_uri": "sqlite:///x", "source": "f.py"}
    return workspace.create("first", record)


def test_a_sweep_is_found_by_its_name(workspace, folder):
    assert workspace.names() == ["first"]
    assert workspace.open("first").record == folder.record
    assert workspace.open("first").objectives == experiment().objectives
    with pytest.raises(InputError, match="no sweep 'second' in workspace .*; there is: first"):
        workspace.open("second")


def test_a_taken_name_is_refused_and_the_sweep_left_alone(workspace, folder):
    before = (folder.path / "sweep.json").read_text()
    with pytest.raises(InputError, match="sweep name 'first' is taken .* 'rsas resume first'"):
        workspace.create("first", {})
    assert (folder.path / "sweep.json").read_text() == before
    assert [path.name for path in workspace.path.iterdir()] == ["first"]


def test_a_folder_that_is_no_sweep_is_not_touched(workspace):
    (workspace.path / "data").mkdir(parents=True)
    with pytest.raises(InputError, match="'data' is taken .*it is not a sweep"):
        workspace.create("data", {})


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "x" * 101, "ü"])
def test_names_that_are_no_folders(workspace, name):
    with pytest.raises(InputError, match="expected up to 100 letters"):
        workspace.check_free(name)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"schema": 1}', json.dumps({"schema": 99})])
def test_a_record_that_cannot_be_read(workspace, folder, text):
    (folder.path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match="sweep 'first': "):
        workspace.open("first")


def test_a_workspace_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write in"):
        Workspace(tmp_path / "file").check_writable()
    with pytest.raises(InputError, match="is not a folder"):
        Workspace(tmp_path / "file").names()


def test_names_kept_for_mlflow(workspace):
    for name in ("mlflow.db", "artifacts"):
        with pytest.raises(InputError, match="kept for MLflow"):
            workspace.check_free(name)


def test_a_workspace_of_somebody_else(workspace, folder, monkeypatch):
    """As root every folder is open, so the refusal of the system is imitated."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.exists", refuse)
    monkeypatch.setattr("pathlib.Path.open", refuse)
    for action in (
        workspace.check_writable,
        workspace.names,
        lambda: workspace.open("first"),
        lambda: folder.locked().__enter__(),
    ):
        with pytest.raises(InputError, match="Permission denied"):
            action()


def test_a_sweep_killed_before_its_book_was_begun(workspace, folder):
    assert folder.status().trials == []
    folder.journal.touch()
    assert folder.status().state == "interrupted"


def test_a_moved_workspace_takes_its_mlflow_along(workspace, folder, monkeypatch):
    from rsas.search import sweep

    record = json.loads((folder.path / "sweep.json").read_text())
    record |= {"tracking_uri": None, "id": "x"}
    (folder.path / "sweep.json").write_text(json.dumps(record))
    moved = workspace.path.rename(workspace.path.with_name("moved"))
    seen = {}
    monkeypatch.setattr(
        "rsas.tracking.Tracker", lambda uri, trials, **options: seen.update(options, uri=uri)
    )
    sweep._tracker(Workspace(moved).open("first"), Workspace(moved), [])
    assert seen["uri"] == f"sqlite:///{moved}/mlflow.db"
    assert seen["artifacts"] == (moved / "artifacts").as_uri()


def test_checking_leaves_nothing(workspace):
    workspace.check_writable()
    workspace.check_free("first")
    assert not workspace.path.exists()


HOLD = """
import sys, time
from pathlib import Path
from rsas.search.workspace import Workspace
with Workspace(Path(sys.argv[1])).open("first").locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_state_follows_the_lock_and_the_book(workspace, folder):
    assert folder.status().state == "interrupted"  # begun, and nobody runs it
    command = [sys.executable, "-c", HOLD, str(workspace.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert folder.status().state == "running"
        message = f"sweep 'first' is being run by process {holder.pid}"
        with pytest.raises(InputError, match=message), folder.locked():
            pass
        holder.kill()
    assert folder.status().state == "interrupted"  # the lock is gone with the process

    book = Book(folder.journal, experiment())
    book.complete(book.begin(), {"val_accuracy": 0.5, "sparsity": 0.5})
    book.fail(book.begin(), "out of memory")
    status = folder.status()
    assert status.counts == {"asked": 2, "complete": 1, "running": 0, "pruned": 0, "failed": 1}
    assert status.state == "interrupted"
    assert [t.trial_id for t in status.front] == ["t0000"]
    assert status.hypervolume == pytest.approx(0.4 * 0.5)
    book.fail(book.begin(), "out of memory")
    assert folder.status().state == "failed"
    book.begin()
    assert folder.status().state == "interrupted"  # resumed since, and interrupted
    book.complete(3, {"val_accuracy": 0.5, "sparsity": 0.6})
    assert folder.status().state == "finished"
