"""Real sweeps by the command line: killed, interrupted, with failures; the books counted after."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from mlflow.tracking import MlflowClient

from rsas import data
from rsas.records import trial_id
from rsas.search.book import Book
from rsas.search.experiment import load_experiment
from rsas.search.workspace import Workspace
from rsas.trainer import Trainer

RSAS = [sys.executable, "-c", "from rsas.cli import main; main()"]
# More than half of the machine: one trial at a time, with fewer threads than cores, since other
# tests run beside it.
CPUS = os.cpu_count() / 2 + 0.5

EXPERIMENT = f"""
import dataclasses
from rsas.config import TrainConfig
from rsas.search.experiment import Budget, Experiment, Objective, Resources

def paper(trial):
    return {{
        "sparsity": trial.suggest_float("sparsity", 0.3, 0.95),
        "measure_lr": trial.suggest_float("measure_lr", 0.01, 1.0, log=True),
    }}

def experiment():
    return Experiment(
        name="tiny",
        base=TrainConfig(
            hidden=(40,), epochs=20, batch_size=50, lr=0.05, momentum=0.9, update_interval=10
        ),
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=0.1), Objective("sparsity", "max", worst=0.0)
        ),
        budget=Budget(trials=9),
        resources=Resources(cpus={CPUS}),  # one trial at a time
        checkpoint_every=3,
    )

KINDS = ("steady", "diverging", "dying", "raising")

def troubled(trial):
    return {{
        "sparsity": trial.suggest_float("sparsity", 0.3, 0.6),
        "model": "troubled:" + KINDS[trial.number % 4],
    }}

def failing():
    return dataclasses.replace(
        experiment(),
        name="failing",
        base=TrainConfig(model="troubled:steady", epochs=6, batch_size=50, lr=0.05),
        space=troubled,
        budget=Budget(trials=3),
        resources=Resources(cpus=1),
        checkpoint_every=1,
        retries=1,
    )
"""

# A module beside the experiment: models that get into trouble, two of them in their fourth epoch.
TROUBLED = """
import os
from torch import nn

class Net(nn.Sequential):
    def __init__(self, trouble=None, good=90):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.trouble, self.good, self.calls = trouble, good, 0

    def forward(self, x):
        self.calls += self.training
        x = super().forward(x)
        return self.trouble(x) if self.trouble and self.calls > self.good else x

def steady():
    return Net()

def diverging():
    return Net(lambda x: x * float("nan"))

def dying():
    def die(x):
        if os.path.exists("died"):
            return x
        open("died", "w").close()
        os._exit(1)
    return Net(die)

def raising():
    def fail(x):
        raise RuntimeError("no luck")
    return Net(fail, good=0)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder the commands are given in; its workspace is ``runs``."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.py").write_text(EXPERIMENT)
    (folder / "troubled.py").write_text(TROUBLED)
    return folder


def start(place, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment["PYTHONUNBUFFERED"] = "1"
    return subprocess.Popen(
        [*RSAS, *arguments],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process, text):
    """Read the output up to a line with ``text``."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} did not come:\n{''.join(seen)}")


def ask(place, *arguments):
    done = subprocess.run([*RSAS, *arguments], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def children(place, sweep):
    client = MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`rsas.sweep` = '{sweep}'")
    kinds = [run.data.tags["rsas.kind"] for run in runs]
    assert kinds.count("sweep") == 1
    return client, [run for run in runs if run.data.tags["rsas.kind"] == "trial"]


def undisturbed(experiment, count, tmp_path):
    """What the sweep finds if nothing happens: the same loop without Ray, kills or MLflow."""
    arrays = data.load(experiment.base.dataset)
    book = Book(tmp_path / "undisturbed", experiment)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(CPUS))
    for _ in range(count):
        number = book.begin()
        trainer = Trainer(book.config(number), arrays)
        for _ in range(trainer.config.epochs):
            row = trainer.run_epoch()
        book.complete(number, row)
    torch.set_num_threads(threads)
    return book.trials(experiment.objectives)


def test_killed_and_interrupted_and_resumed(place, tmp_path):
    sweep = start(place, "sweep", "tiny.py", "--name", "t")
    wait_for(sweep, "(4 of 9 trials done")
    sweep.kill()  # -9
    sweep.wait()
    told = ask(place, "status", "t", "--json")
    assert told["state"] == "interrupted"
    assert 4 <= told["counts"]["complete"] < 9

    resumed = start(place, "resume", "t")
    wait_for(resumed, "(7 of 9 trials done")
    resumed.send_signal(signal.SIGINT)
    output = resumed.stdout.read()
    assert resumed.wait() == 130
    assert "interrupted; to go on: rsas resume t" in output

    last = start(place, "resume", "t")
    output = last.stdout.read()
    assert last.wait() == 0, output
    told = ask(place, "pareto", "t", "--json")
    assert told["state"] == "finished"
    assert told["counts"] == {"asked": 9, "complete": 9, "running": 0, "pruned": 0, "failed": 0}

    # The book: nine complete trials, equal to those of an undisturbed sweep to the last bit.
    experiment, _ = load_experiment(f"{place / 'tiny.py'}:experiment")
    folder = Workspace(place / "runs").open("t")
    trials = folder.status().trials
    expected = undisturbed(experiment, 9, tmp_path)
    assert [(t.trial_id, t.params, t.objectives) for t in trials] == [
        (t.trial_id, t.params, t.objectives) for t in expected
    ]

    # The trainings: no epoch more than twice, and no more again than kills times an interval.
    trained = {}
    for number in range(9):
        history = folder.trials / trial_id(number) / "history.jsonl"
        epochs = [json.loads(line)["epoch"] for line in history.read_text().splitlines()]
        assert set(epochs) == set(range(1, 21))
        trained[number] = len(epochs) - 20
    assert sum(trained.values()) <= 2 * experiment.checkpoint_every
    assert sum(extra > 0 for extra in trained.values()) <= 2

    # MLflow: nine runs with every epoch once, and the front of the book.
    client, runs = children(place, "t")
    assert sorted(run.data.tags["rsas.trial_id"] for run in runs) == [
        trial_id(number) for number in range(9)
    ]
    for run in runs:
        assert run.info.status == "FINISHED"
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "val_accuracy")]
        assert steps == list(range(1, 21))
    tagged = {
        run.data.tags["rsas.trial_id"] for run in runs if run.data.tags["rsas.pareto"] == "true"
    }
    assert tagged == {member["trial_id"] for member in told["front"]}
    by_name = {run.data.tags["rsas.trial_id"]: run for run in runs}
    for member in told["front"]:
        metrics = by_name[member["trial_id"]].data.metrics
        assert {k: metrics[k] for k in member["objectives"]} == member["objectives"]

    # Once more: nothing left to do.
    again = start(place, "resume", "t")
    assert "front of 9 trials" in again.stdout.read()
    assert again.wait() == 0
    assert len(list(folder.ray.iterdir())) == 3  # Tune was not started again


def test_failures_are_retried_told_and_take_no_place(place):
    sweep = start(place, "sweep", "tiny.py:failing", "--name", "f")
    output = sweep.stdout.read()
    assert sweep.wait() == 0, output
    told = ask(place, "status", "f", "--json")
    assert told["counts"] == {"asked": 3, "complete": 3, "running": 0, "pruned": 0, "failed": 2}
    folder = Workspace(place / "runs").open("f")
    trials = folder.status().trials
    assert [t.state for t in trials] == ["complete", "failed", "complete", "failed", "complete"]
    assert re.match(r"the training loss became nan in epoch 4, step \d+ of 27", trials[1].reason)
    assert trials[3].reason == "RuntimeError: no luck"
    assert "t0001 failed: the training loss became nan" in output
    assert "Traceback" not in output

    def epochs(number):
        history = folder.trials / trial_id(number) / "history.jsonl"
        rows = [json.loads(line) for line in history.read_text().splitlines()]
        return [row["epoch"] for row in rows], len({row["pid"] for row in rows})

    assert epochs(2) == (list(range(1, 7)), 2)  # died once, went on from its checkpoint
    assert epochs(1) == ([1, 2, 3], 1)  # would fail again, so it was not tried again
    _, runs = children(place, "f")
    status = {run.data.tags["rsas.trial_id"]: run.info.status for run in runs}
    expected = ["FINISHED", "FAILED", "FINISHED", "FAILED", "FINISHED"]
    assert [status[trial_id(number)] for number in range(5)] == expected
    reasons = {run.data.tags.get("rsas.reason") for run in runs}
    assert "RuntimeError: no luck" in reasons


def test_resources_that_the_machine_lacks(place, tmp_path):
    arguments = ["sweep", "tiny.py", "--cpus", "1000", "--workspace", str(tmp_path / "runs")]
    done = subprocess.run([*RSAS, *arguments], cwd=place, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("rsas: error: resources: a trial needs 1000 CPUs and 0 GPUs")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
