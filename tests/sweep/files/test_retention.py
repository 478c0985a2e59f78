"""What is kept of a sweep, beside its study."""

import json
import threading

import pytest

from rsas import TrainConfig
from rsas.errors import StorageError
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.trial_dir import TrialDir, write_model
from rsas.sweep.study.study import Study
from tests.made import OBJECTIVES


def space(trial):
    return {"sparsity": trial.suggest_float("sparsity", 0.0, 1.0)}


class Sweep:
    """A study with four trials that run, each with checkpoints and a model, and their retention."""

    def __init__(self, path):
        self.path, self.said = path, []
        self.storage = FileStore(path)
        experiment = Experiment(
            name="test", base=TrainConfig(), space=space, objectives=OBJECTIVES, sampler="random"
        )
        self.study = Study(path / "study.journal", experiment)
        for number in range(4):
            self.study.begin()
            folder = TrialDir(self.storage / "trials" / f"t{number:04d}")
            for epoch in (1, 2):
                folder.save(epoch, {"epoch": epoch})
            write_model(self.storage / "models", f"t{number:04d}", {"epoch": 2})
        self.retention = self.new_keeper()

    def new_keeper(self):
        return Retention(self.storage, self.study, OBJECTIVES, self.said.append)

    def complete(self, number, accuracy, sparsity, tell=True):
        self.study.complete(number, {"val_accuracy": accuracy, "sparsity": sparsity, "epoch": 2})
        if tell:
            self.retention.end(self.trials()[number], self.trials())

    def trials(self):
        return self.study.trials(OBJECTIVES)

    def close(self):
        self.retention.close(self.trials())

    def models(self):
        return sorted(file.parent.name for file in (self.path / "models").glob("*/model.pt"))

    def with_checkpoints(self):
        found = (self.path / "trials").glob("*/checkpoint-*.pt")
        return sorted({file.parent.name for file in found})

    def record(self, trial):
        return json.loads((self.path / "trials" / trial / "trial.json").read_text())


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def test_records_follow_the_study(sweep):
    sweep.retention.change(0)
    sweep.retention.change(1)
    sweep.complete(1, 0.5, 0.25)
    sweep.close()
    running, complete = sweep.record("t0000"), sweep.record("t0001")
    params = [trial.params for trial in sweep.trials()]
    assert (running["state"], running["params"]) == ("RUNNING", params[0])
    assert (complete["state"], complete["params"]) == ("COMPLETE", params[1])
    assert complete["values"] == [0.5, 0.25]
    assert sweep.said == []


def test_checkpoints_of_what_has_ended_go_at_once(sweep):
    sweep.complete(0, 0.5, 0.5)
    sweep.study.fail(1, "no luck")
    sweep.retention.end(sweep.trials()[1], sweep.trials())
    sweep.study.prune(2, 1.0)
    sweep.retention.end(sweep.trials()[2], sweep.trials())
    sweep.retention._thread.shutdown()  # before close(), which makes up for what was not done
    assert sweep.with_checkpoints() == ["t0003"]


def test_models_of_the_front_and_of_what_runs_are_kept(sweep):
    sweep.complete(0, 0.5, 0.5)
    sweep.complete(1, 0.4, 0.4)  # dominated by the one before
    sweep.complete(2, 0.5, 0.5)  # equal to it
    sweep.retention._thread.shutdown()
    assert sweep.models() == ["t0000", "t0002", "t0003"]


def test_models_that_are_dominated_later_go_later(sweep):
    sweep.complete(0, 0.5, 0.5)
    sweep.complete(1, 0.6, 0.4)
    after = threading.Event()
    sweep.retention._thread.submit(after.set)
    assert after.wait(20)
    assert sweep.models() == ["t0000", "t0001", "t0002", "t0003"]
    sweep.complete(2, 0.6, 0.6)
    sweep.retention._thread.shutdown()
    assert sweep.models() == ["t0002", "t0003"]


def test_the_model_that_another_trial_repeats_stays(sweep):
    sweep.complete(0, 0.5, 0.5)
    sweep.study.repeat(1, same_as=0)
    sweep.retention.end(sweep.trials()[1], sweep.trials())
    sweep.complete(2, 0.4, 0.4)
    sweep.close()
    assert sweep.models() == ["t0000", "t0001", "t0003"]
    assert sweep.record("t0001")["values"] == [0.5, 0.5]


def test_what_an_earlier_process_did_not_come_to_do_is_done(sweep):
    sweep.complete(0, 0.5, 0.5, tell=False)
    sweep.complete(1, 0.4, 0.4, tell=False)
    for file in (sweep.path / "trials" / "t0002").iterdir():
        file.unlink()
    (sweep.path / "trials" / "t0002").rmdir()
    sweep.close()
    assert sweep.with_checkpoints() == ["t0003"]
    assert sweep.models() == ["t0000", "t0002", "t0003"]
    assert sweep.record("t0002")["state"] == "RUNNING"


def test_closing_waits_until_all_is_done(sweep, monkeypatch):
    opened, set_record = threading.Event(), TrialDir.set_record

    def slow(self, record):
        assert opened.wait(20)
        set_record(self, record)

    monkeypatch.setattr(TrialDir, "set_record", slow)
    for number in range(4):
        sweep.retention.change(number)  # returns though nothing can be written yet
    threading.Timer(0.1, opened.set).start()
    sweep.close()
    assert [sweep.record(f"t000{number}")["state"] for number in range(4)] == ["RUNNING"] * 4


def test_a_storage_that_fails_is_told_once_and_stops_nothing(sweep, monkeypatch):
    write = FileStore.write

    def fails(self, name, content):
        if self.location.endswith("t0002"):
            return write(self, name, content)
        raise StorageError(f"cannot write {self.location}/{name} (No space left on device)")

    monkeypatch.setattr(FileStore, "write", fails)
    for number in (0, 1, 2):
        sweep.retention.change(number)
    sweep.complete(0, 0.5, 0.5)
    sweep.close()
    assert sweep.said == [
        f"cannot write {sweep.path}/trials/t0000/trial.json (No space left on device)"
    ]
    assert sweep.record("t0002")["state"] == "RUNNING"


def test_a_storage_that_does_not_answer_is_told_once(sweep, monkeypatch):
    def away(self):
        raise OSError("network is down")

    monkeypatch.setattr(FileStore, "names", away)
    sweep.complete(0, 0.5, 0.5)
    sweep.complete(1, 0.5, 0.5)
    sweep.close()
    assert sweep.said == ["network is down"]


# What rsas.sweep.files.retention lacks.


@pytest.mark.parametrize("kept", ["nothing", "an older one"])
def test_records_that_an_earlier_process_did_not_come_to_write_are_written(kept, sweep):
    if kept == "an older one":
        sweep.retention.change(0)
    sweep.retention._thread.shutdown()  # killed
    sweep.complete(0, 0.5, 0.5, tell=False)
    sweep.retention = sweep.new_keeper()
    sweep.close()
    assert sweep.record("t0000")["state"] == "COMPLETE"
