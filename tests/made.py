"""Sweeps made by hand: the study and the files that a driver would leave, without Ray."""

from rsas.records import Objective, trial_id
from rsas.sweep.changes import definition
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.files.workspace import Workspace

OBJECTIVES = (Objective("val_accuracy", "max", worst=0.1), Objective("sparsity", "max", worst=0.0))
DATA = {
    "name": "digits",
    "digest": "0123456789abcdef",
    "train": 1500,
    "test": 297,
    "input_shape": [1, 8, 8],
    "num_classes": 10,
}


def make(workspace, name, experiment, source, **record):
    """A sweep without trials; returns its folder and its study."""
    folder = Workspace(workspace).create(
        name,
        {
            "id": f"id-{name}",
            "source": source,
            "experiment": definition(experiment) | {"data": DATA},
            "provenance": {"source": source, "commit": "", "dirty": False},
            "defined": definition(experiment),
            "data_dir": str(workspace),
            "tracking_uri": None,
            "python_path": [],
            "enqueued": [],
            **dict.fromkeys(("storage", "study_storage", "address", "known")),
            **record,
        },
    )
    study = folder.study(experiment)
    study.note_record(folder.record)
    return folder, study


def train(folder, number, rows):
    """Keep what a trial trained."""
    trial = TrialDir(folder.trials / trial_id(number))
    trial.begin()
    trial.append(rows)


def rows(epochs, accuracy, sparsity):
    """Of a trial whose accuracy grows in proportion to its epochs."""
    return [
        {"epoch": e, "val_accuracy": accuracy * e / epochs, "sparsity": sparsity, "seconds": 0.1}
        for e in range(1, epochs + 1)
    ]
