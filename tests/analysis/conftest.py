"""A sweep with trials of all kinds, in a workspace and in MLflow, made without training."""

import dataclasses

import pytest

from rsas import TrainConfig, Trainer, data
from rsas.records import trial_id
from rsas.sweep.experiment import Budget, Experiment, Objective
from rsas.sweep.files.trial_dir import TrialDir, write_model
from rsas.sweep.mirror import tracker_of
from tests.made import make, train


def space(trial):
    fields = {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "method": trial.suggest_categorical("method", ["reinforced", "static"]),
        "batch_size": trial.suggest_int("batch_size", 10, 100),
    }
    if fields["method"] == "reinforced":
        fields["measure_lr"] = trial.suggest_float("measure_lr", 1e-3, 1.0, log=True)
    return fields


EXPERIMENT = Experiment(
    name="made",
    base=TrainConfig(dataset="digits", hidden=(8,), epochs=4),
    space=space,
    objectives=(
        Objective("val_accuracy", "max", worst=0.1),
        Objective("sparsity", "max", worst=0.0),
    ),
    budget=Budget(trials=12),
    sampler="random",
    seeds=(0, 1),
)


def experiment():
    return EXPERIMENT


def rows_of(config, epochs):
    """Accuracies that differ between trials and seeds, sparser ones less accurate."""
    for epoch in range(1, epochs + 1):
        accuracy = (1 - config.sparsity**4 / 2) * epoch / 4
        yield {
            "epoch": epoch,
            "train_loss": 1.0 / epoch,
            "val_loss": 1.1 / epoch,
            "val_accuracy": accuracy,
            "sparsity": config.sparsity,
            "sparsity/fc1": config.sparsity,
            "sparsity/fc2": config.sparsity / 2,
            "churn": 0.5 / epoch,
            "seconds": 0.25,
            "seed0/val_accuracy": accuracy - 0.01,
            "seed1/val_accuracy": accuracy + 0.01,
            "seed0/sparsity": config.sparsity,
            "seed1/sparsity": config.sparsity,
        }


def fill(folder, name="made", experiment=EXPERIMENT, trials=12):
    """Make a sweep of so many trials, the second to fourth of which came to no end."""
    sweep, study = make(folder, name, experiment, f"{__file__}:experiment")
    for _ in range(trials):
        number = study.begin()
        config = study.config(number)
        rows = list(rows_of(config, 2 if number in (1, 2, 3) else 4))
        train(sweep, number, rows)
        spent = 0.5 * len(rows)
        if number == 1:
            study.prune(number, 2.0, spent)
        elif number == 2:
            study.fail(number, "out of memory", spent)
        elif number == 4:
            study.repeat(number, 0)
        elif number != 3:
            study.complete(number, rows[-1], spent)
        TrialDir(sweep.trials / trial_id(number)).set_record(study.to_dict(number))
    for member in sweep.status().front:
        config = study.config(int(member.trial_id[1:]))
        network = Trainer(config, data.load("digits")).final_state()  # not trained
        write_model(sweep.models, member.trial_id, network)
    tracker_of(sweep, study, say=print).close("finished")
    return sweep


@pytest.fixture(scope="package")
def made(tmp_path_factory):
    """The workspace of two sweeps, ``made`` and ``other``."""
    folder = tmp_path_factory.mktemp("workspace")
    fill(folder)
    fill(folder, "other", dataclasses.replace(EXPERIMENT, seed=1), trials=10)
    return folder
