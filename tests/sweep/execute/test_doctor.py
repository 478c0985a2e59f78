"""What is found out about a cluster, here of no nodes."""

import os

import pytest

from rsas.errors import StorageError
from rsas.sweep.execute import doctor
from rsas.sweep.execute.task import task_of
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.file_store import FileStore


@pytest.fixture
def examined(monkeypatch):
    """Examine a storage; returns what the driver found."""
    monkeypatch.setattr(doctor.ray, "nodes", lambda: [])
    monkeypatch.setattr(doctor.ray, "put", lambda _: None)
    experiment, _ = load_experiment("experiments/digits_quickstart.py")

    def examine(place):
        task = task_of(experiment, "", None)
        config = experiment.config.to_dict()
        (found,) = doctor.examine(experiment, task, config, storage=str(place), tracking_uri=None)
        return found

    return examine


def test_a_storage_is_left_as_it_was(examined, tmp_path):
    other = f"{doctor._folder('of another process')}/driver"
    FileStore(tmp_path).write(other, b"")
    found = examined(tmp_path)
    assert (found.results["storage"], found.faults.keys()) == ("written", {"slots"})
    assert os.listdir(tmp_path) == [other.partition("/")[0]]
    assert FileStore(tmp_path).exists(other)


def test_a_storage_that_cannot_be_written_costs_no_other_finding(examined, tmp_path):
    (tmp_path / "file").write_text("")
    found = examined(tmp_path / "file" / "storage")
    assert found.faults.keys() == {"storage", "slots"}
    assert "give a folder or bucket you may write" in found.faults["storage"]


def test_a_storage_that_goes_away_costs_no_finding(examined, tmp_path, monkeypatch):
    def away(self, name):
        raise StorageError("the network is down")

    monkeypatch.setattr(FileStore, "delete", away)
    assert examined(tmp_path).faults.keys() == {"slots"}
