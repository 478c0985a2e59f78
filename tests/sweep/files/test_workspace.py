"""Folders of sweeps: names, records, leases, and what became of a sweep."""

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from rsas import InputError, TrainConfig
from rsas.errors import Halted
from rsas.records import Objective, TrialRecord
from rsas.redact import without_passwords
from rsas.sweep import commands, session
from rsas.sweep.audit import repair
from rsas.sweep.audit.check import check
from rsas.sweep.execute.cluster import Connection
from rsas.sweep.experiment import Budget, Experiment, Resources, load_experiment
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.sweep_record import known_uri
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.mirror import tracker_of
from rsas.sweep.status import Status, hours_of
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.study import Study
from search_spaces.paper import paper
from tests import made


def experiment(**budget):
    return Experiment(
        name="test",
        base=TrainConfig(),
        space=paper,
        objectives=(Objective("val_accuracy", "max", 0.1), Objective("sparsity", "max", 0.0)),
        budget=Budget(**{"trials": 2, "failures": 2} | budget),
        resources=Resources(cpus=4.0, gpus=2.0),
    )


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")


@pytest.fixture
def folder(workspace):
    return make(workspace, experiment())


def make(workspace, experiment, **record):
    record = {"tracking_uri": "sqlite:///x", "source": "f.py"} | record
    record["experiment"] = experiment.to_dict() | {"data": made.DATA}
    return workspace.create("first", OTHERS | record)


OTHERS = {
    **{"id": "x", "data_dir": "data", "python_path": [], "enqueued": []},
    "provenance": {"source": "f.py", "commit": "", "dirty": False},
    "defined": {"axes": {}},
}


def test_a_sweep_is_found_by_its_name(workspace, folder):
    assert workspace.names() == ["first"]
    assert workspace.open("first").record == folder.record
    assert workspace.open("first").objectives == experiment().objectives
    with pytest.raises(
        InputError, match="no sweep 'second' in workspace .*; existing sweeps: first"
    ):
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


BROKEN = ["{", "{}", "[]", '{"schema": 1}', json.dumps({"schema": 99}), "\xff"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_record_that_cannot_be_read(workspace, folder, text):
    file = folder.path / "sweep.json"
    file.write_text(text, "latin-1")
    with pytest.raises(InputError, match="sweep 'first': "):
        workspace.open("first")
    assert file.read_text("latin-1") == text


@pytest.mark.parametrize("damage", ["{", "", "\xff{}", None])
def test_a_damaged_record_is_made_again_from_the_study(workspace, folder, damage):
    Study(folder.journal, experiment()).note_record(folder.record)
    file = folder.path / "sweep.json"
    if damage is None:
        file.unlink()
    else:
        file.write_text(damage, "latin-1")
    assert workspace.names() == ["first"]
    again = workspace.open("first")
    assert (again.record, again.budget) == (folder.record, folder.budget)
    assert json.loads(file.read_text()) == folder.record
    kept = folder.path / "sweep.json.damaged"
    assert (kept.read_text("latin-1") if kept.exists() else None) == damage


@pytest.mark.parametrize("damage", ["{}", "[]", '{"schema": 1}'])
def test_a_record_that_is_something_else_is_made_again_from_the_study(workspace, folder, damage):
    Study(folder.journal, experiment()).note_record(folder.record)
    (folder.path / "sweep.json").write_text(damage)
    assert workspace.open("first").record == folder.record


def test_a_budget_is_changed_for_good(workspace, folder):
    more = Budget(trials=5, hours=2.0, device_hours=None, failures=3)
    folder.set_budget(more)
    for each in (folder, workspace.open("first")):
        assert each.budget == more
        assert each.status().asked == 5
        assert Experiment.from_dict(each.record["experiment"], paper).budget == more
    first = {name: value for name, value in folder.record.items() if name != "experiment"}
    assert first == {"schema": 1, "tracking_uri": "sqlite:///x", "source": "f.py"} | OTHERS


def test_trials_keep_their_files_in_the_storage(workspace, tmp_path):
    folder = make(workspace, experiment(), storage=str(tmp_path / "shared" / "first-1234"))
    assert folder.trials.location == str(tmp_path / "shared" / "first-1234" / "trials")
    assert folder.models.location == str(tmp_path / "shared" / "first-1234" / "models")
    with pytest.raises(InputError, match="keys do not belong here"):
        make(Workspace(tmp_path / "other"), experiment(), storage="s3://me:secret@bucket/first")


def test_trials_keep_their_files_in_the_workspace(workspace, folder):
    moved = Workspace(workspace.path.rename(workspace.path.with_name("moved"))).open("first")
    assert moved.trials.location == str(moved.path / "trials")
    rows = [{"epoch": 1.0, "seconds": 2.0}]
    trial = TrialDir(moved.trials / "t0003")
    trial.begin()
    trial.append(rows)
    for record in (a_trial(3), a_trial(4, same_as="t0003")):
        assert moved.history(record).rows == rows
    assert moved.history(a_trial(5)).rows == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t0001", b""),
        ("t0001", b'{"number": 1, "sta'),
        ("t0001", b"\xff{}"),
        ("t0001", None),
        ("models", b'{"number": 1}'),
        ("tmp", None),
        ("t0001", b"[]"),
        ("t0001", b'{"number": 1, "stat": ""}'),
        pytest.param(
            "t0001",
            b'{"number": 1, "state": "RUNNING", "params": {}, "user_bttrs": {}}',
        ),
    ],
)
def test_damaged_records_of_trials_are_left_out(folder, name, content):
    study = Study(folder.journal, experiment())
    study.note_record(folder.record)
    kept = json.loads(json.dumps(study.to_dict(study.begin())))
    TrialDir(folder.trials / "t0000").set_record(kept)
    (folder.path / "trials" / name).mkdir()
    if content is not None:
        (folder.path / "trials" / name / "trial.json").write_bytes(content)
    assert folder.kept_records() == {0: kept}


def test_a_password_is_taken_from_the_environment(monkeypatch):
    recorded, whole = "postgresql://me:***@db/rsas", "postgresql://me:pass-word@db/rsas"
    assert known_uri("sqlite:///x", "RSAS_STUDY_STORAGE") == "sqlite:///x"
    for given in (None, "postgresql://me:pass-word@elsewhere/rsas", "postgresql://me@db/rsas"):
        if given is not None:
            monkeypatch.setenv("RSAS_STUDY_STORAGE", given)
        with pytest.raises(InputError) as caught:
            known_uri(recorded, "RSAS_STUDY_STORAGE")
        assert str(caught.value) == (
            f"{recorded}: passwords are not kept; set RSAS_STUDY_STORAGE to this URI with its "
            "password"
        )
    monkeypatch.setenv("RSAS_STUDY_STORAGE", whole)
    assert known_uri(recorded, "RSAS_STUDY_STORAGE") == whole


@pytest.mark.parametrize(
    "given",
    [
        "postgresql+psycopg://me:pass-word@db/rsas",
        "postgresql+psycopg://me:my pass@db/rsas",
        "postgresql+psycopg://db/rsas?user=me&password=pass-word&sslmode=require",
        "postgresql+psycopg:///?host=db password='a b' user=me",
        "mssql+pyodbc:///?odbc_connect=Server=db;UID=me;PWD={a;b};Encrypt=yes",
        "https://token@mlflow.host/path",
        "https://token:@mlflow.host/path",
        "https://me:p@ss@mlflow.host/path",
    ],
)
def test_an_address_comes_back_with_its_password(given, monkeypatch):
    recorded = without_passwords(given)
    assert "***" in recorded
    assert not any(
        secret in recorded for secret in ("pass-", "my pass", "token", "a b", "a;b", "p@ss")
    )
    with pytest.raises(InputError, match="passwords are not kept"):
        known_uri(recorded, "RSAS_STUDY_STORAGE")
    monkeypatch.setenv("RSAS_STUDY_STORAGE", given)
    assert known_uri(recorded, "RSAS_STUDY_STORAGE") == given


def test_a_new_sweep_knows_its_passwords_and_stores_none(tmp_path, monkeypatch):
    study, server = "postgresql+psycopg://me:pass-word@db/rsas", "https://me:other-word@mlflow/x"
    workspace = Workspace(tmp_path)
    new = make(workspace, experiment(), study_storage=study, tracking_uri=server)
    assert new.tracking_uri() == server
    opened = []
    monkeypatch.setattr(
        "rsas.sweep.study.database.DatabaseLeases", lambda url, _: opened.append(url) or Mock()
    )
    new.is_lost()
    assert opened == [study]
    stored = b"".join(file.read_bytes() for file in new.path.iterdir())
    assert b"-word" not in stored and stored.count(b":***@") == 2
    with pytest.raises(InputError, match="set MLFLOW_TRACKING_URI to this URI"):
        workspace.open(new.name).tracking_uri()


def test_a_study_in_a_database_is_named_by_the_sweep_and_needs_its_password(workspace, monkeypatch):
    url = "postgresql+psycopg://me:***@127.0.0.1:9/rsas"
    make(workspace, experiment(), study_storage=url, id="1234")
    folder = workspace.open("first")
    with pytest.raises(InputError, match="set RSAS_STUDY_STORAGE to this URI"):
        folder.study()
    opened, study = [], Mock(optuna_study=Mock(directions=[1, 2]), **{"record.return_value": None})
    monkeypatch.setattr(
        "rsas.sweep.study.study.Study",
        lambda *place, name, lease: opened.append((place, name)) or study,
    )
    monkeypatch.setenv("RSAS_STUDY_STORAGE", url.replace("***", "pass-word"))
    folder.study()
    assert opened == [((url.replace("***", "pass-word"), None), "1234")]


def test_a_workspace_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write in"):
        Workspace(tmp_path / "file").check_writable()
    with pytest.raises(InputError, match="is not a folder"):
        Workspace(tmp_path / "file").names()


def test_names_kept_for_mlflow(workspace):
    for name in ("mlflow.db", "artifacts"):
        with pytest.raises(InputError, match="reserved for MLflow"):
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


def test_a_sweep_killed_before_its_study_was_begun(workspace, folder):
    assert folder.status().trials == []
    folder.journal.touch()
    assert folder.status().state == "interrupted"


def test_a_moved_workspace_takes_its_mlflow_along(workspace, folder, monkeypatch):

    record = json.loads((folder.path / "sweep.json").read_text())
    record |= {"tracking_uri": None, "id": "x"}
    (folder.path / "sweep.json").write_text(json.dumps(record))
    moved = workspace.path.rename(workspace.path.with_name("moved"))
    monkeypatch.setattr("rsas.tracking.Tracker", lambda source, say: source)
    source = tracker_of(Workspace(moved).open("first"), Mock(), say=print)
    assert source.uri == f"sqlite:///{moved}/mlflow.db"
    assert source.artifacts == (moved / "artifacts").as_uri()


def test_checking_leaves_nothing(workspace):
    workspace.check_writable()
    workspace.check_free("first")
    assert not workspace.path.exists()


def a_trial(number, state="complete", **others):
    return TrialRecord(
        trial_id=f"t{number:04d}",
        state=state,
        params={},
        objectives={},
        started=0.0,
        finished=None,
        **others,
    )


def test_what_a_status_adds_up():
    launches = [
        Launch(began=0.0, first=10.0, last=3600.0, slot_seconds=1000.0, trained=900.0),
        Launch(began=9000.0, first=9100.0, last=10800.0, slot_seconds=500.0, trained=300.0),
        Launch(began=20000.0, last=20000.0),  # ended before an epoch had
        Launch(began=30000.0),  # killed before it noted anything more
    ]
    status = Status(
        name="first",
        state="finished",
        asked=3,
        objectives=experiment().objectives,
        trials=[
            a_trial(0, device_seconds=2.0),
            a_trial(1, "pruned", device_seconds=3.0),
            a_trial(2, "failed", device_seconds=5.0),
            a_trial(3, "running"),
        ],
        launches=launches,
    )
    assert status.device_seconds == 10.0
    assert status.slot_share == 1200 / 1500
    assert status.counts == {"asked": 3, "complete": 1, "running": 1, "pruned": 1, "failed": 1}
    assert hours_of(launches) == 1.5
    assert dataclasses.replace(status, launches=launches[2:]).slot_share is None
    full = [Launch(began=0.0, slot_seconds=10.0, trained=11.0)]  # epochs begun before the first
    assert dataclasses.replace(status, launches=full).slot_share == 1.0


def test_pruned_trials_take_places(workspace):
    folder = make(workspace, experiment())
    study = Study(folder.journal, experiment())
    study.prune(study.begin(), 1.0)
    assert folder.status().state == "interrupted"
    study.complete(study.begin(), {"val_accuracy": 0.5, "sparsity": 0.5})
    status = folder.status()
    assert (status.state, status.spent) == ("finished", "")
    assert [trial.trial_id for trial in status.front] == ["t0001"]


def test_a_sweep_whose_hours_are_used_up_is_finished(workspace):
    limited = experiment(hours=1.0)
    folder = make(workspace, limited)
    study = Study(folder.journal, limited)
    study.begin()
    study.note_launch(0, Launch(began=0.0, last=3000.0))
    assert folder.status().state == "interrupted"
    study.note_launch(1, Launch(began=9000.0, last=9600.0))
    status = folder.status()
    assert (status.state, status.spent, len(status.launches)) == ("finished", "1 hours", 2)
    folder.set_budget(Budget(trials=2, hours=2.0))
    assert folder.status().state == "interrupted"


def test_a_sweep_whose_device_hours_are_used_up_is_finished(workspace):
    """Those of running trials are in their histories alone."""
    limited = experiment(device_hours=0.01)  # 36 seconds
    folder = make(workspace, limited)
    study = Study(folder.journal, limited)
    study.fail(study.begin(), "out of memory", device_seconds=20.0)
    running = TrialDir(folder.trials / f"t{study.begin():04d}")
    running.begin()
    for epoch, state in ((1, "interrupted"), (2, "finished")):
        running.append([{"epoch": float(epoch), "seconds": 4.0}])  # on two GPUs
        assert folder.status().state == state
    assert folder.status().spent == "0.01 device-hours"


def test_device_hours_of_epochs_that_were_cut_off_are_used_up(workspace):
    limited = experiment(device_hours=0.01)  # 36 seconds
    folder = make(workspace, limited)
    study = Study(folder.journal, limited)
    study.fail(study.begin(), "out of memory", device_seconds=20.0)
    study.begin()
    for index, cut_off, state in ((0, 10.0, "interrupted"), (1, 6.0, "finished")):
        study.note_launch(index, Launch(began=0.0, cut_off=cut_off))
        assert folder.status().state == state
    assert folder.status().spent == "0.01 device-hours"


HOLD = """
import sys, time
from pathlib import Path
from rsas.sweep.files.workspace import Workspace
with Workspace(Path(sys.argv[1])).open("first").locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_state_follows_the_lease_and_the_study(workspace, folder):
    assert folder.status().state == "interrupted"  # begun, and nobody runs it
    command = [sys.executable, "-c", HOLD, str(workspace.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert folder.status().state == "running"
        message = f"sweep 'first' is being run by process {holder.pid}"
        with pytest.raises(InputError, match=message), folder.locked():
            pass
        holder.kill()
    assert folder.status().state == "interrupted"  # the owner of the lease is dead

    study = Study(folder.journal, experiment())
    study.complete(study.begin(), {"val_accuracy": 0.5, "sparsity": 0.5})
    study.fail(study.begin(), "out of memory")
    status = folder.status()
    assert status.counts == {"asked": 2, "complete": 1, "running": 0, "pruned": 0, "failed": 1}
    assert status.state == "interrupted"
    assert [t.trial_id for t in status.front] == ["t0000"]
    assert status.hypervolume == pytest.approx(0.4 * 0.5)
    study.fail(study.begin(), "out of memory")
    assert folder.status().state == "failed"
    study.note_launch(0, Launch(began=0.0, failures=2))
    assert folder.status().state == "interrupted"  # gone on with: these failures do not count
    for _ in range(2):
        study.fail(study.begin(), "out of memory")
    assert folder.status().state == "failed"
    study.begin()
    assert folder.status().state == "interrupted"  # resumed since, and interrupted
    study.complete(5, {"val_accuracy": 0.5, "sparsity": 0.6})
    assert folder.status().state == "finished"


def test_a_folder_that_is_somebody_elses_is_no_sweep(tmp_path, monkeypatch):
    """As ``lost+found`` on a volume that is mounted as a workspace."""
    (tmp_path / "lost+found").mkdir()
    real = Path.is_file

    def is_file(path):
        if path.parent.name == "lost+found":
            raise PermissionError
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert Workspace(tmp_path).names() == []


def test_a_database_without_the_study_is_a_sweep_that_has_not_begun(tmp_path):
    """The process was killed between the sweep's folder and its study."""
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    folder, study = made.make(tmp_path / "runs", "first", experiment, source, study_storage=url)
    study.delete()
    status = Workspace(tmp_path / "runs").open("first").status()
    assert (status.state, status.trials) == ("interrupted", [])
    assert check(folder)[0].what == "the sweep has no parent run"


def test_a_database_that_has_lost_the_study_is_no_sweep_that_has_not_begun(tmp_path):
    """Else a resume at another database, or a new one, would run all trials again."""
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    folder, study = made.make(tmp_path / "runs", "first", experiment, source, study_storage=url)
    study.note_record(folder.record)
    TrialDir(folder.trials / "t0000").set_record(study.to_dict(study.begin()))
    assert repair.repair_study(folder, experiment) == []
    study.delete()
    for begin_anew in (lambda: None, lambda: folder.study(experiment)):
        begin_anew()
        message = "the database .*study.db has no study of this sweep, yet 1 of its trials are kept"
        with pytest.raises(InputError, match=message):
            repair.repair_study(folder, experiment)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sqlite:///study.db", "sqlite:///{here}/study.db"),
        ("sqlite+pysqlite:///a/b.db?timeout=5", "sqlite+pysqlite:///{here}/a/b.db?timeout=5"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        (None, None),
    ],
)
def test_databases_are_found_again_from_elsewhere(given, kept, tmp_path, monkeypatch):
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    connected = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.tracking, "connect", connected.append)
    monkeypatch.setattr(commands, "Study", lambda url, *_, **__: connected.append(url) or Mock())
    monkeypatch.setattr(commands, "_connect", lambda *_: None)
    monkeypatch.setattr(commands, "run", lambda folder, *_: folder)
    monkeypatch.setattr(SweepDir, "locked", lambda _: contextlib.nullcontext())
    folder = commands.launch(
        experiment,
        source,
        name="first",
        defined=experiment,
        workspace=Workspace(tmp_path / "runs"),
        console=Console(file=io.StringIO()),
        connection=Connection(None, source),
        tracking_uri=given,
        study_storage=given,
    )
    expected = kept and kept.format(here=tmp_path)
    assert folder.record["tracking_uri"] == folder.record["study_storage"] == expected
    assert connected == ([expected] * 2 if kept else [])


def test_a_journal_without_its_beginning_is_damaged_and_no_new_one(tmp_path):
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    folder, study = made.make(tmp_path / "runs", "first", experiment, source)
    study.begin()
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(lines[1:]))
    with pytest.raises(InputError, match="the study of the sweep cannot be read"):
        folder.status()


def test_a_study_that_goes_away_at_the_end_is_no_bad_input(tmp_path, monkeypatch):
    """Nor may what was asked for be taken back then: trials have been run for it."""
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    folder, _ = made.make(tmp_path / "runs", "first", experiment, source)

    def away(*_, **__):
        raise InputError("the study cannot be read")

    def run_trials(*_, **__):
        monkeypatch.setattr(SweepDir, "status", away)

    monkeypatch.setattr(session, "run_trials", run_trials)
    console = Console(file=io.StringIO())
    with pytest.raises(Halted, match="its study or storage can no longer be read"):
        session.run(folder, experiment, None, lambda: 1, console, CollectorRegistry())
