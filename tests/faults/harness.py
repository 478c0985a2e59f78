"""Sweeps that are disturbed, and what is to be true of them afterwards.

Each trial is a small network on the digits data. Its model waits a little each epoch, so that
there is time to disturb it without work for the processor, and writes down that the epoch was
begun: what was really trained is counted there, not in rsas's own files.
"""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import torch

from rsas.sweep.audit.check import check
from rsas.sweep.execute.task import task_of
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.study.study import Study
from tests.resources import RSAS

EPOCHS, INTERVAL = 12, 3

EXPERIMENT = f"""
from rsas.config import TrainConfig
from rsas.sweep.experiment import Budget, Experiment, Objective, Resources

def space(trial):
    return {{
        "sparsity": trial.suggest_float("sparsity", 0.3, 0.95),
        "measure_lr": trial.suggest_float("measure_lr", 0.01, 1.0, log=True),
    }}

def experiment():
    return Experiment(
        name="disturbed",
        base=TrainConfig(
            model="counted:net", epochs={EPOCHS}, batch_size=50, lr=0.05, momentum=0.9,
            update_interval=10,
        ),
        space=space,
        objectives=(
            Objective("val_accuracy", "max", worst=0.1), Objective("sparsity", "max", worst=0.0)
        ),
        budget=Budget(trials=4),
        resources=Resources(max_concurrent=1),
        checkpoint_every={INTERVAL},
    )

def with_little_overtime():
    import dataclasses
    return dataclasses.replace(experiment(), budget=Budget(trials=2, overtime=1.0))

def by_halving():
    import dataclasses
    return dataclasses.replace(experiment(), scheduler="pareto_asha", reduction_factor=2)

def train(run):
    import torch
    from sklearn.datasets import load_digits
    from torch.utils.data import DataLoader, TensorDataset
    from counted import net
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    x = x.float().view(-1, 8, 8) / 16
    loader = DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=50, shuffle=True)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.total_epochs)
    sparsifier = run.sparsify(model, optimizer, steps_per_epoch=len(loader))
    run.track(model=model, optimizer=optimizer, schedule=schedule, loader=loader)
    for _ in run.epochs():
        model.train()
        for inputs, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            sparsifier.observe(loss)
            optimizer.step()
            sparsifier.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            right = model(x[1200:]).argmax(1) == y[1200:]
        run.report(val_accuracy=right.double().mean())

def own_loop():
    from rsas import Pruning
    return Experiment(
        name="disturbed",
        train=train,
        epochs={EPOCHS},
        pruning=Pruning(update_interval=10),
        space=space,
        objectives=experiment().objectives,
        budget=Budget(trials=4),
        resources=Resources(max_concurrent=1),
        checkpoint_every={INTERVAL},
    )
"""

MODEL = """
import os, time
from torch import nn

def hangs():
    return os.path.exists(os.path.join(os.path.dirname(os.environ["CHAOS_COUNT"]), "hang"))

class Counted(nn.Sequential):
    def train(self, mode=True):
        self.fresh = mode
        return super().train(mode)

    def forward(self, x):
        # An epoch begins; two images are rsas's own, which sees whether the model can be trained.
        if self.fresh and len(x) > 2 and "CHAOS_COUNT" in os.environ:
            with open(os.environ["CHAOS_COUNT"], "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(float(os.environ.get("CHAOS_SECONDS", 0)))
            while hangs():
                time.sleep(0.1)
            self.fresh = False
        return super().forward(x)

def net():
    return Counted(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
"""


class Place:
    """A folder with an experiment and a workspace, and the commands given there."""

    def __init__(self, folder, function="experiment", options=(), seconds=0.15, environment=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "disturbed.py").write_text(EXPERIMENT)
        (self.folder / "counted.py").write_text(MODEL)
        self.source = f"{self.folder / 'disturbed.py'}:{function}"
        self.options = list(options)
        self.count = self.folder / "epochs.txt"
        self.runs = self.folder / "runs"
        kept = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        self.environment = kept | {
            "PYTHONUNBUFFERED": "1",
            "CHAOS_COUNT": str(self.count),
            "CHAOS_SECONDS": str(seconds),
            **(environment or {}),
        }

    def start(self, *arguments):
        """A command; its output is gathered in a file, which ``output`` reads."""
        self.log = self.folder / f"{time.monotonic_ns()}.log"
        with self.log.open("w") as file:
            return subprocess.Popen(
                [*RSAS, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def sweep(self, name, trials):
        options = ["--name", name, "--trials", str(trials), *self.options]
        return self.start("sweep", self.source, *options)

    def run(self, *arguments, expected=0, seconds=300):
        """A command to its end; returns its output."""
        process = self.start(*arguments)
        code = process.wait(seconds)
        output = self.output()
        assert code == expected, f"{arguments} ended with {code}:\n{output}"
        return output

    def output(self):
        return self.log.read_text()

    def begun(self):
        """How many epochs were begun, by all processes."""
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0

    def wait_for_epochs(self, process, count, seconds=240):
        """Until so many epochs were begun, or the process has ended."""
        deadline = time.monotonic() + seconds
        while self.begun() < count and process.poll() is None:
            assert time.monotonic() < deadline, f"no epochs:\n{self.output()}"
            time.sleep(0.02)

    def wait_for_nodes(self, address, count):
        """Until a cluster has so many nodes."""
        code = (
            "import ray, sys, time\n"
            f"ray.init({address!r}, log_to_driver=False)\n"
            f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)\n"
        )
        subprocess.run([sys.executable, "-c", code], env=self.environment, check=True, timeout=120)

    @contextlib.contextmanager
    def hanging(self):
        """Epochs that begin meanwhile do not end."""
        file = self.folder / "hang"
        file.touch()
        try:
            yield
        finally:
            file.unlink()

    def open(self, name):
        return Workspace(self.runs).open(name)

    def faults(self, name):
        """What ``rsas check`` finds."""
        with self.given_environment():
            return check(self.open(name))

    @contextlib.contextmanager
    def given_environment(self):
        before = dict(os.environ)
        os.environ.update(
            {k: v for k, v in self.environment.items() if k.startswith(("RSAS", "MLFLOW"))}
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def results(trials):
    return [(t.trial_id, t.state, t.params, t.objectives) for t in trials]


def undisturbed(place, count, scratch):
    """What the sweep finds when nothing happens: the same loop without Ray, kills or MLflow."""
    sys.path.insert(0, str(place.folder))
    experiment, source = load_experiment(place.source)
    study = Study(scratch, experiment)
    task = task_of(experiment, source, None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(count):
        number = study.begin()
        trainer = task.trainer_of(study.config(number))
        for _ in range(EPOCHS):
            row = trainer.run_epoch()
        trainer.close()
        study.complete(number, row)
    torch.set_num_threads(threads)
    sys.path.remove(str(place.folder))
    return study.trials(experiment.objectives)


def repeated(folder):
    """For each trial how many epochs were trained more than once."""
    again = {}
    for trial in folder.status().trials:
        history = folder.history(trial)
        again[trial.trial_id] = history.epochs_trained - len(history.rows)
    return again


def name_of(place):
    """The one sweep of a place."""
    (folder,) = place.runs.glob("*/trials")
    return folder.parent.name


def kill_driver(place, process, rng):
    process.kill()
    process.wait()


def terminate_driver(place, process, rng):
    process.terminate()
    assert process.wait(60) in (0, 130, -signal.SIGTERM), place.output()


def interrupt_driver(place, process, rng):
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 130, -signal.SIGINT), place.output()


def interrupt_twice(place, process, rng):
    process.send_signal(signal.SIGINT)
    time.sleep(rng.uniform(0.05, 0.5))
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    process.wait(60)


def kill_worker(place, process, rng):
    """The sweep itself is to go on with the trial."""
    lines = place.count.read_text().split()
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(lines[-1]), signal.SIGKILL)


def kill_raylet(place, process, rng):
    """Ray's own process; the driver cannot go on without, and may not notice by itself."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.name() == "raylet":
                child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(45)
    if process.poll() is None:
        kill_driver(place, process, rng)


def cut(path, rng):
    """Truncate a file at a random byte."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def cut_journal(place, process, rng):
    kill_driver(place, process, rng)
    cut(next(place.runs.glob("*/study.journal")), rng)


def spoil_journal(place, process, rng):
    """Overwrite some bytes in the middle."""
    kill_driver(place, process, rng)
    path = next(place.runs.glob("*/study.journal"))
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content) - 40)
    content[at : at + 40] = bytes(rng.randrange(128, 256) for _ in range(40))
    path.write_bytes(content)


def cut_record(place, process, rng):
    kill_driver(place, process, rng)
    cut(next(place.runs.glob("*/sweep.json")), rng)


def cut_mlflow(place, process, rng):
    kill_driver(place, process, rng)
    if (path := place.runs / "mlflow.db").exists():  # else it was not made yet
        cut(path, rng)


def spoil_mlflow(place, process, rng):
    """Overwrite some pages in the middle."""
    kill_driver(place, process, rng)
    path = place.runs / "mlflow.db"
    if path.exists():
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content) // 2)
        content[at : at + 8192] = rng.randbytes(8192)
        path.write_bytes(content)


def delete_study(place, process, rng):
    """While the sweep runs: it has to stop, and to say why."""
    folder = place.runs / name_of(place)
    for name in ("study.journal", "sweep.json"):
        (folder / name).unlink()
    assert process.wait(120) in (0, 1)  # 0 where it had ended all but its last lines
    assert "Traceback" not in place.output()
    if process.returncode:
        assert "was deleted or replaced while it was in use" in place.output(), place.output()


def delete_locks(place, process, rng):
    """While the sweep runs, and others try to run it, too."""
    folder = place.runs / name_of(place)
    first = place.log
    for _ in range(3):
        for lock in folder.glob("*lock*"):
            lock.unlink(missing_ok=True)
        refused(place, process)
    place.log = first


def copy_workspace(place, process, rng):
    """While the sweep runs: nobody may run the copy beside it."""
    copy, first = place.folder / f"copy-{time.monotonic_ns()}", place.log
    process.send_signal(signal.SIGSTOP)  # or it might end before the second one looks
    shutil.copytree(place.runs, copy, ignore=shutil.ignore_patterns("*.partial"))
    refused(place, process, "--workspace", str(copy))
    process.send_signal(signal.SIGCONT)
    place.log = first


def stop_driver(place, process, rng):
    """Another process takes the sweep over; the first one goes on afterwards."""
    first = place.log
    process.send_signal(signal.SIGSTOP)
    refused(place, process)
    if process.poll() is None:
        place.run("resume", name_of(place), "--take-over")
    process.send_signal(signal.SIGCONT)
    assert process.wait(120) in (0, 1)  # 0 where it had ended but for its last lines
    if process.returncode:
        assert "has taken the sweep over" in first.read_text(), first.read_text()
    place.log = first


def refused(place, process, *options):
    """A second driver is refused while the first one lives."""
    second = place.start("resume", name_of(place), *options)
    code = second.wait(120)
    if process.poll() is None:
        assert code == 2 and f"process {process.pid}" in place.output(), place.output()


def lose_answers(place, process, rng):
    """The tracking server does what it is asked, and a third of its answers get lost."""
    place.proxy.calm = False
    process.wait(300)
    place.proxy.calm = True


def hang_model(place, process, rng):
    """Until a limit has passed: the trial's process is ended, and its checkpoint kept."""
    with place.hanging():
        assert process.wait(150) == 0, place.output()
    if "did not answer" in place.output():  # else it was at its end
        assert place.output().count("; its process is ended") == 1


def cut_checkpoint(place, process, rng):
    """The newest checkpoint; the trial goes on from the one before."""
    kill_driver(place, process, rng)
    for trial in place.runs.glob("*/trials/t*"):
        if found := sorted(trial.glob("checkpoint-*.pt")):
            cut(found[-1], rng)


DISTURBANCES = {
    "driver -9": kill_driver,
    "driver TERM": terminate_driver,
    "driver INT": interrupt_driver,
    "driver INT twice": interrupt_twice,
    "worker -9": kill_worker,
    "raylet -9": kill_raylet,
    "journal cut": cut_journal,
    "journal spoilt": spoil_journal,
    "sweep.json cut": cut_record,
    "checkpoint cut": cut_checkpoint,
    "mlflow.db cut": cut_mlflow,
    "mlflow.db spoilt": spoil_mlflow,
    "study deleted": delete_study,
    "locks deleted": delete_locks,
    "workspace copied": copy_workspace,
    "driver STOP": stop_driver,
    "database, copied": copy_workspace,
    "database, STOP": stop_driver,
    "database, driver -9": kill_driver,
    "answers lost": lose_answers,
    "model hung": hang_model,
}


def kind_of_place(kind):
    """What a disturbance needs: a study in a database, a tracking server, a limit, or files."""
    if kind.startswith("database"):
        return "database"
    return {"answers lost": "server", "model hung": "limit"}.get(kind, "files")


def make_place(folder, kind, proxy=None, function="experiment"):
    """A place for sweeps of one kind of disturbance; ``function`` makes the experiment."""
    if kind == "database":
        url = f"sqlite:///{folder}/study.db"
        return Place(folder, function, environment={"RSAS_STUDY_STORAGE": url})
    if kind == "server":
        place = Place(folder, function, environment={"MLFLOW_TRACKING_URI": proxy.uri})
        place.proxy = proxy
        return place
    if kind == "limit":
        return Place(folder, "with_little_overtime", options=["--hours", "0.005"])
    return Place(folder, function)


@dataclasses.dataclass
class Outcome:
    kind: str
    at: int  # epochs begun when it was disturbed
    complete: int
    faults: list
    again: int  # epochs trained more than once, as the models counted
    allowed: int
    same: bool  # results equal to those of the undisturbed sweep
    seconds: float

    @property
    def is_good(self):
        return not self.faults and self.same and self.again <= self.allowed


def disturb(place, name, trials, kind, rng, expected):
    """Begin a sweep, or extend the one that is there, disturb it once, resume it, and look."""
    begin = time.monotonic()
    is_new = not (place.runs / name).exists()
    had = 0 if is_new else len(place.open(name).status().trials)
    before = place.begun()
    if is_new:
        process = place.sweep(name, trials)
    else:
        process = place.start("extend", name, "--trials", str(trials))
    at = rng.randrange(1, (trials - had) * EPOCHS)
    place.wait_for_epochs(process, before + at)
    time.sleep(rng.uniform(0, 0.15))
    if process.poll() is None:
        DISTURBANCES[kind](place, process, rng)
    process.wait(300)
    if kind == "model hung":
        place.run("extend", name, "--hours", "1")
    else:
        place.run("resume", name)
    found = place.open(name).status()
    again = place.begun() - before - (trials - had) * EPOCHS
    return Outcome(
        kind=kind,
        at=at,
        complete=found.counts["complete"],
        faults=place.faults(name),
        again=again,
        # The checkpoint before the newest is an interval older; a driver that was replaced may have
        # a trial go on to its next checkpoint.
        allowed=INTERVAL * (2 if kind == "checkpoint cut" or "STOP" in kind else 1),
        same=results(found.trials) == results(expected[:trials]),
        seconds=time.monotonic() - begin,
    )


def seeded(seed):
    """A generator, its seed told so that a failure can be had again."""
    print(f"seed {seed}", file=sys.stderr)
    return random.Random(seed)


def children_by_trial(place):
    """How many MLflow runs each trial has."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place.runs}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`rsas.kind` = 'trial'")
    return client, runs, Counter(run.data.tags["rsas.trial_id"] for run in runs)


def pareto_of(place, name):
    return json.loads(place.run("pareto", name, "--json"))
