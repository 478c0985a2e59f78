"""Files of a sweep that somebody copied, edited or deleted: nothing good is lost for them."""

import contextlib
import errno
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rsas import InputError
from rsas.errors import LeaseLost
from rsas.records import trial_id
from rsas.sweep.audit import repair
from rsas.sweep.audit.check import check_storage
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.files.workspace import Workspace
from tests import made
from tests.faults.harness import Place, results

POINTS = [(0.9, 0.5), (0.8, 0.7), (0.6, 0.9), (0.7, 0.6)]


@pytest.fixture
def sweep(tmp_path):
    """A sweep of four complete trials and one that runs, with all that a driver keeps of them."""
    experiment, source = load_experiment(Place(tmp_path).source)
    folder, study = made.make(tmp_path / "runs", "first", experiment, source)
    for accuracy, sparsity in POINTS:
        number = study.begin()
        rows = made.rows(3, accuracy, sparsity)
        made.train(folder, number, rows)
        study.complete(number, rows[-1])
    made.train(folder, study.begin(), made.rows(2, 0.5, 0.5))
    folder.note_copies(study)
    trials = study.trials(folder.objectives)
    retention = Retention(folder.storage, study, folder.objectives, print)
    for trial in trials:
        retention.begin(trial)
    retention.close(trials)
    return folder


def mend(sweep):
    """As ``rsas resume`` and ``rsas check --repair`` begin."""
    with sweep.locked():
        return repair.repair_study(sweep, repair.experiment_of(sweep))


def trials_of(sweep):
    return results(Workspace(sweep.workspace).open("first").status().trials)


# Folders and records of trials.


@pytest.mark.parametrize("name", ["t0007", "t0300000", "t1", "t00001"])
def test_a_copied_folder_of_a_trial_rewrites_no_study(sweep, name):
    before, trials = sweep.journal.read_bytes(), trials_of(sweep)
    shutil.copytree(sweep.path / "trials" / "t0001", sweep.path / "trials" / name)
    assert mend(sweep) == []
    assert sweep.journal.read_bytes().startswith(before)
    assert trials_of(sweep) == trials
    found = [(fault.kind, fault.trial_id) for fault in check_storage(sweep, sweep.status())]
    assert ("ghost", name) in found


def test_a_trial_of_another_sweep_rewrites_no_study(sweep):
    number = len(POINTS) + 1
    record = sweep.kept_records()[1] | {"number": number}
    del record["sweep"]
    folder, before = TrialDir(sweep.trials / trial_id(number)), sweep.journal.read_bytes()
    for other in (record, record | {"sweep": "another"}):
        folder.set_record(other)
        assert mend(sweep) == []
        assert sweep.journal.read_bytes().startswith(before)
    folder.set_record(record | {"sweep": "id-first"})
    assert any("rebuilt from 6 trials" in line for line in mend(sweep))  # of this one it does


WRONG = [None, 5, -1, 2.5, "x", "", [], [[1]], {}, {"a": 1}, True, "9" * 400, 10**400]


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    [
        *("number", "sweep", "state", "params", "distributions", "values"),
        *("user_attrs", "system_attrs", "started", "finished", "known", "crc"),
    ],
)
@pytest.mark.parametrize("trial", [1, 4], ids=["complete", "running"])
def test_a_record_of_a_trial_that_was_edited_counts_as_damaged(sweep, field, trial):
    file = sweep.path / "trials" / trial_id(trial) / "trial.json"
    before, record = sweep.journal.read_bytes(), json.loads(file.read_text())
    deep = "[" * 100_000 + "]" * 100_000
    wrong = [record | {field: value} for value in WRONG if value != record[field]]
    for text in (*map(json.dumps, wrong), deep):
        file.write_text(text)
        found = [(fault.what, fault.trial_id) for fault in check_storage(sweep, sweep.status())]
        assert ("trial.json is missing or damaged", trial_id(trial)) in found
        assert mend(sweep) == []
        assert sweep.journal.read_bytes().startswith(before)


def test_a_journal_that_was_appended_to_itself_is_as_it_was(sweep):
    before, content = trials_of(sweep), sweep.journal.read_bytes()
    sweep.journal.write_bytes(content + content)
    assert mend(sweep) == []
    assert trials_of(sweep) == before
    assert sweep.status().counts["running"] == 1


def test_the_study_of_another_sweep_is_refused(sweep, tmp_path):
    experiment, source = load_experiment(Place(tmp_path).source)
    other, _ = made.make(sweep.workspace, "other", experiment, source)
    shutil.copy(other.journal, sweep.journal)
    again = Workspace(sweep.workspace).open("first")
    for use in (again.status, lambda: mend(again)):  # no repair takes over the other's trials
        with pytest.raises(InputError, match="study is that of another sweep, 'id-other' where"):
            use()


# Files that are not rsas's.


STRAYS = [b".DS_Store", b"notes.txt", b"t0009", b"t\xff\xfe"]


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("place", ["trials", "models"])
@pytest.mark.parametrize("name", STRAYS, ids=str)
def test_a_stray_file_stops_no_resume(sweep, place, name, is_folder):
    before, trials = sweep.journal.read_bytes(), trials_of(sweep)
    stray = Path(os.fsdecode(name))
    path = sweep.path / place / stray
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if is_folder else path.write_text("x")
    assert mend(sweep) == []
    assert sweep.journal.read_bytes().startswith(before)
    assert trials_of(sweep) == trials
    found = [fault for fault in check_storage(sweep, sweep.status()) if fault.kind == "ghost"]
    # Names that are no text cannot be written in a report.
    assert [fault.trial_id for fault in found] == ([] if b"\xff" in name else [str(stray)])


# The record of the sweep.


GONE = object()
EDITS = [  # (in the experiment, field, value, message)
    *((False, name, GONE, f"{name}=None: expected") for name in ("id", "source", "data_dir")),
    *((False, name, GONE, f"{name}=None: expected a list") for name in ("python_path", "enqueued")),
    (False, "experiment", GONE, "experiment=None: expected an object"),
    *(
        (False, name, 5, f"{name}=5: expected a text or null")
        for name in ("tracking_uri", "storage", "study_storage", "address", "known")
    ),
    *(
        (False, "defined", wrong, "expected an object with axes")
        for wrong in (GONE, 5, {}, {"axes": 5})
    ),
    (False, "changes", [{}], "changes=[{}]: expected a list of objects with time and what"),
    *((False, "provenance", wrong, "expected an object with source,") for wrong in (GONE, {})),
    (False, "python_path", [5], "python_path=[5]: expected a list of texts"),
    *(
        (True, name, GONE, f"experiment: '{name}' is missing")
        for name in ("name", "base", "objectives", "budget", "resources")
    ),
    *((True, "data", wrong, "expected an object with name,") for wrong in (GONE, 5, {})),
    (True, "objectives", [], "experiment: objectives=[]: expected at least one"),
    (True, "objectives", [{"name": "x"}], "experiment: "),
    (True, "base", {"epochs": "many"}, "experiment: "),
    (True, "budget", {"trials": 0}, "experiment: trials=0"),
    (True, "resources", {"cpus": None}, "experiment: cpus=None"),
    (True, "sampler", "annealing", "experiment: sampler='annealing'"),
    (True, "seeds", 5, "experiment: "),
    (True, "name", "../x", "experiment: name '../x'"),
]


@pytest.mark.parametrize(("inside", "field", "value", "message"), EDITS)
def test_a_record_that_cannot_be_used_gives_way_to_its_copy(
    sweep, inside, field, value, message, caplog
):
    file, before = sweep.path / "sweep.json", trials_of(sweep)
    record = json.loads(file.read_text())
    good = json.dumps(record)
    part = record["experiment"] if inside else record
    part.pop(field, None)
    if value is not GONE:
        part[field] = value
    file.write_text(json.dumps(record))
    again = Workspace(sweep.workspace).open("first")
    assert json.dumps(again.record) == good
    assert json.loads(file.read_text()) == json.loads(good)
    assert json.loads((sweep.path / "sweep.json.damaged").read_text()) == record
    assert results(again.status().trials) == before
    (line,) = caplog.messages
    assert message in line and "\n" not in line and "sweep.json.damaged" in line

    for copy in ("study.journal", "sweep.json.copy"):
        (sweep.path / copy).unlink()
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="cannot be used .*nor can a copy of it$"):
        Workspace(sweep.workspace).open("first")


@pytest.mark.parametrize("damage", ["{", None])
def test_a_record_that_cannot_be_mended_is_read_from_its_copy(sweep, damage, monkeypatch, caplog):
    """As in a file system that is mounted read-only, or by a user who may not write there."""
    file, before = sweep.path / "sweep.json", trials_of(sweep)
    file.unlink() if damage is None else file.write_text(damage)
    closed = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with monkeypatch.context() as patch:
        for name in ("replace", "open"):
            patch.setattr(f"os.{name}", raising(closed))
        assert trials_of(sweep) == before
    assert file.exists() is (damage is not None)
    (line,) = caplog.messages
    assert "a copy is used, as the file cannot be replaced (" in line
    assert "Read-only file system" in line and "\n" not in line


def raising(error):
    def action(*_, **__):
        raise error

    return action


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_record_that_cannot_be_read_now_is_left_as_it_is(sweep, code, monkeypatch):
    before = {path.name for path in sweep.path.iterdir()}
    content = (sweep.path / "sweep.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", raising(OSError(code, os.strerror(code))))
        message = f"sweep 'first': .*sweep.json cannot be read .*{os.strerror(code)}"
        with pytest.raises(InputError, match=message):
            Workspace(sweep.workspace).open("first")
    assert {path.name for path in sweep.path.iterdir()} == before
    assert (sweep.path / "sweep.json").read_bytes() == content


def test_each_damaged_record_is_kept(sweep):
    for text in ("{one", "{two"):
        (sweep.path / "sweep.json").write_text(text)
        Workspace(sweep.workspace).open("first")
    kept = [(sweep.path / f"sweep.json.damaged{number}").read_text() for number in ("", 1)]
    assert kept == ["{one", "{two"]


def test_a_record_that_is_deeper_than_json_can_be_gives_way_to_its_copy(sweep):
    before = trials_of(sweep)
    (sweep.path / "sweep.json").write_text("[" * 100_000 + "]" * 100_000)
    assert trials_of(sweep) == before


def test_a_record_with_another_number_of_objectives_is_refused(sweep):
    file = sweep.path / "sweep.json"
    record = json.loads(file.read_text())
    del record["experiment"]["objectives"][1]
    file.write_text(json.dumps(record))
    again = Workspace(sweep.workspace).open("first")
    for use in (again.status, lambda: mend(again)):
        message = "sweep.json has 1 objectives, and its study 2; correct"
        with pytest.raises(InputError, match=message):
            use()
    file.unlink()
    assert len(trials_of(sweep)) == 5


def test_a_damaged_study_is_not_made_again_for_another_number_of_objectives(sweep):
    before = trials_of(sweep)
    file = sweep.path / "sweep.json"
    record = json.loads(file.read_text())
    del record["experiment"]["objectives"][1]
    file.write_text(json.dumps(record))
    content = b"garbage\n" + sweep.journal.read_bytes()
    sweep.journal.write_bytes(content)
    again = Workspace(sweep.workspace).open("first")
    with pytest.raises(InputError, match="sweep.json has 1 objectives, its trials have 2; correct"):
        mend(again)
    assert sweep.journal.read_bytes() == content
    file.unlink()
    assert any("rebuilt from 5 trials" in line for line in mend(sweep))
    assert trials_of(sweep) == before


def test_a_record_of_another_version_is_left_as_it_is(sweep):
    file = sweep.path / "sweep.json"
    record = json.loads(file.read_text()) | {"schema": 2}
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="sweep 'first': made by another version of rsas"):
        Workspace(sweep.workspace).open("first")
    assert json.loads(file.read_text()) == record


@pytest.mark.parametrize("field", ["id", "objectives"])
def test_a_whole_study_that_does_not_fit_the_record_is_left_as_it_is(sweep, field):
    file = sweep.path / "sweep.json"
    record = json.loads(file.read_text())
    if field == "id":
        record["id"] = "another"
    else:
        del record["experiment"]["objectives"][1]
    file.write_text(json.dumps(record))
    before = {path.name for path in sweep.path.iterdir()}
    content = sweep.journal.read_bytes()
    with pytest.raises(InputError, match=r"sweep 'first': (its study is that of|sweep.json has 1)"):
        mend(Workspace(sweep.workspace).open("first"))
    assert {path.name for path in sweep.path.iterdir()} == before
    assert sweep.journal.read_bytes().startswith(content)


# A study that cannot be made again.


@pytest.mark.parametrize("broken", ["write_bytes", "replace"])
def test_a_full_disk_costs_no_damaged_study(sweep, broken, monkeypatch):
    before, content = trials_of(sweep), b"garbage\n" + sweep.journal.read_bytes()
    sweep.journal.write_bytes(content)
    with monkeypatch.context() as patch, sweep.locked():
        patch.setattr(Path, broken, raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        message = "sweep 'first': its study cannot be rebuilt .No space left on device."
        with pytest.raises(InputError, match=message):
            repair.repair_study(sweep, repair.experiment_of(sweep))
    assert sweep.journal.read_bytes() == content
    assert any("rebuilt from 5 trials" in line for line in mend(sweep))
    assert trials_of(sweep) == before


def test_two_processes_make_a_damaged_study_again_once(sweep):
    content = b"garbage\n" + sweep.journal.read_bytes()
    with sweep.locked():
        mine = sweep.lease
    sweep.journal.write_bytes(content)
    both = [Workspace(sweep.workspace).open("first") for _ in range(2)]
    for pid, folder in enumerate(both, 1_000_000):
        folder.lease = replace(mine, epoch=9, owner=replace(mine.owner, pid=pid))
    experiment, start = repair.experiment_of(sweep), threading.Barrier(2)

    def mend_one(folder):
        start.wait()
        return repair.repair_study(folder, experiment)

    with ThreadPoolExecutor(2) as pool:
        lines = list(pool.map(mend_one, both))
    assert sorted(map(len, lines)) == [0, 2]
    assert [file.read_bytes() for file in sweep.path.glob("*.damaged*")] == [content]
    for folder, done in zip(both, lines, strict=True):
        study = folder.study(experiment)
        with contextlib.nullcontext() if done else pytest.raises(LeaseLost):
            study.begin()


# Files that are gone.


def test_study_and_record_that_were_deleted_are_made_again(sweep):
    before = trials_of(sweep)
    for name in ("study.journal", "sweep.json"):
        (sweep.path / name).unlink()
    workspace = Workspace(sweep.workspace)
    assert workspace.names() == ["first"]
    again = workspace.open("first")
    assert json.loads((sweep.path / "sweep.json").read_text()) == sweep.record
    assert any("rebuilt from 5 trials' records" in line for line in mend(again))
    assert trials_of(sweep) == before
    assert mend(again) == []


def test_a_sweep_of_which_only_trials_remain_is_named_with_what_can_read_it(sweep):
    for name in ("study.journal", "sweep.json", "sweep.json.copy"):
        (sweep.path / name).unlink()
    message = r"its folder has files of trials, .*'rsas report first --tracking-uri URI' shows"
    with pytest.raises(InputError, match=message):
        Workspace(sweep.workspace).open("first")
