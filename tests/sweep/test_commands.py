"""Real sweeps by the command line: killed, interrupted, with failures; counted after."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from mlflow.tracking import MlflowClient

from rsas.records import trial_id
from rsas.sweep.files.workspace import Workspace
from tests.resources import RSAS

pytestmark = pytest.mark.resource

# More than half of the machine: one trial at a time, with fewer threads than cores, since other
# tests run beside it.
CPUS = os.cpu_count() / 2 + 0.5

EXPERIMENT = f"""
import dataclasses
from rsas.config import TrainConfig
from rsas.sweep.experiment import Budget, Experiment, Objective, Resources

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
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, trouble=None, good=90):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.trouble, self.good = trouble, good
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))  # kept in checkpoints

    def forward(self, x):
        self.calls += int(self.training)
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
        if len(x) > 2:  # not when rsas looks at the model
            raise RuntimeError("no luck")
        return x
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


def read_metrics(url):
    """Values by name and labels."""
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in found.items()}


def test_failures_are_retried_told_and_take_no_place(place):
    sweep = start(place, "sweep", "tiny.py:failing", "--name", "f", "--metrics-port", "0")
    line = sweep.stdout.readline()
    assert line.startswith("metrics for Prometheus: http://127.0.0.1:"), line + sweep.stdout.read()
    complete, seen = 'rsas_trials{state="complete",sweep="f"}', [{}]
    # What Prometheus reads at the last trial's end; the endpoint is there until Ray is down.
    while sweep.poll() is None and seen[-1].get(complete, 0) < 3:
        seen.append(read_metrics(line.split()[-1]))
        time.sleep(0.02)
    output = sweep.stdout.read()
    assert sweep.wait() == 0, output
    told = ask(place, "status", "f", "--json")
    assert told["counts"] == {"asked": 3, "complete": 3, "running": 0, "pruned": 0, "failed": 2}
    folder = Workspace(place / "runs").open("f")
    assert max(now.get('rsas_slots_busy{sweep="f"}', 0) for now in seen) >= 1
    last = {name.replace('sweep="f"', ""): value for name, value in seen[-1].items()}
    for state in ("complete", "running", "pruned", "failed"):
        assert last[f'rsas_trials{{state="{state}",}}'] == told["counts"][state]
    for name in ("front_size", "hypervolume"):
        assert last[f"rsas_{name}{{}}"] == told[name]
    (launched,) = folder.status().launches
    assert last["rsas_training_seconds_total{}"] == pytest.approx(launched.trained)
    assert 18 <= last["rsas_epochs_total{}"] <= 21  # those of the process that died may lack
    trials = folder.status().trials
    assert [t.state for t in trials] == ["complete", "failed", "complete", "failed", "complete"]
    assert re.match(r"the training loss became nan in epoch 4, step \d+ of 27", trials[1].reason)
    assert trials[3].reason == "RuntimeError: no luck"
    assert "t0001 failed: the training loss became nan" in output
    assert "Traceback" not in output

    def epochs(number):
        files = sorted((folder.path / "trials" / trial_id(number)).glob("history-*.jsonl"))
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [row["epoch"] for row in rows], len({row["pid"] for row in rows})

    assert epochs(2) == (list(range(1, 7)), 2)  # died once, went on from its checkpoint
    assert epochs(1) == ([1, 2, 3], 1)  # tried again from its checkpoint, in the same process
    assert "note: t0001: the training loss became nan in epoch 4" in output
    _, runs = children(place, "f")
    status = {run.data.tags["rsas.trial_id"]: run.info.status for run in runs}
    expected = ["FINISHED", "FAILED", "FINISHED", "FAILED", "FINISHED"]
    assert [status[trial_id(number)] for number in range(5)] == expected
    reasons = {run.data.tags.get("rsas.reason") for run in runs}
    assert "RuntimeError: no luck" in reasons


HANDLER = """
import signal, sys
from rsas.cli.app import app
before = signal.getsignal(signal.SIGINT)
app(sys.argv[1:], standalone_mode=False)
assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C is taken by Tune"
"""


def test_ctrl_c_acts_after_the_last_trial(place):
    """While MLflow is brought up to date, which can take long."""
    command = ["sweep", "tiny.py", "--name", "c", "--trials", "1"]
    done = subprocess.run(
        [sys.executable, "-c", HANDLER, *command], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_resources_that_the_machine_lacks(place, tmp_path):
    arguments = ["sweep", "tiny.py", "--cpus", "1000", "--workspace", str(tmp_path / "runs")]
    done = subprocess.run([*RSAS, *arguments], cwd=place, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("rsas: error: resources: a trial needs 1000 CPUs and 0 GPUs")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
