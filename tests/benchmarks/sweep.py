"""What a sweep costs beside its training: ``python -m tests.benchmarks.sweep``.

- start-up: seconds from the command to the first epoch, and the share of slot time in training,
  of a 32-trial sweep of the quickstart on two slots, as it is and with longer trials;
- driver: milliseconds that each result keeps the driver's thread;
- resume: seconds that the study takes (read, compared with the records of the trials, made ready),
  and from the command to the first epoch, with 10, 100 and 1,000 trials in the study.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rsas.follower import Followers
from rsas.records import number_of, trial_id
from rsas.sweep.audit.repair import repair_study
from rsas.sweep.execute.dispatcher import Dispatcher
from rsas.sweep.execute.worker import OUTCOME, ROWS, Outcome
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.retention import Retention
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.follow.progress import SweepProgress
from rsas.sweep.follow.prometheus import SweepGauges
from rsas.sweep.launches import LaunchLog
from rsas.sweep.mirror import tracker_of
from rsas.sweep.study.launch import Launch
from tests import made
from tests.resources import RSAS

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "experiments" / "digits_quickstart.py")


def command(folder, *arguments):
    """Run it; returns when it was begun."""
    began = time.time()
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    subprocess.run(
        [*RSAS, *arguments, "--workspace", str(folder)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return began


def start_up(folder, trials, epochs):
    """(seconds to the first epoch, share of slot time, seconds of a trial) of a sweep."""
    options = ["--name", "one", "--trials", str(trials), "--cpus", "1", "--concurrency", "2"]
    began = command(folder, "sweep", QUICKSTART, *options, "--set", f"epochs={epochs}")
    status = Workspace(folder).open("one").status()
    launch = status.launches[0]
    return launch.first - began, status.slot_share, launch.trained / trials


def filled(folder, name, trials):
    """A sweep whose study, files and MLflow runs hold so many trials of made-up results."""
    experiment, source = load_experiment(QUICKSTART)
    budget = dataclasses.replace(experiment.budget, trials=trials + 1)
    experiment = dataclasses.replace(experiment, budget=budget, sampler="random")
    sweep, study = made.make(folder, name, experiment, source)
    for _ in range(trials):
        number = study.begin()
        rows = made.rows(3, 0.9, study.config(number).sparsity)
        made.train(sweep, number, rows)
        study.complete(number, rows[-1], 0.3)
        TrialDir(sweep.trials / trial_id(number)).set_record(study.to_dict(number))
    tracker_of(sweep, study, say=print).close("interrupted")
    return experiment, sweep, study


def driver_cost(folder, trials=100, results=1000):
    """Milliseconds of the driver's thread a result, its 95th percentile, and a trial's end."""
    experiment, sweep, study = filled(folder, "driver", trials)
    display = SweepProgress(
        Console(file=io.StringIO()),
        name="driver",
        asked=trials + 1,
        epochs=results,
        objectives=experiment.objectives,
        trials=study.trials(experiment.objectives),
    )
    tracker = tracker_of(sweep, study, say=print)
    retention = Retention(sweep.storage, study, experiment.objectives, print)
    metrics = SweepGauges(
        "driver",
        asked=trials + 1,
        objectives=experiment.objectives,
        trials=study.trials(experiment.objectives),
        slots=lambda: 2,
    )
    run = Followers(LaunchLog(study, lambda: 2), display, metrics, tracker, retention)
    dispatcher = Dispatcher(
        study,
        experiment,
        halving=None,
        slots=lambda: 2,
        hours=0.0,
        follower=run,
        history=lambda number: sweep.history(study.trial(number, experiment.objectives)),
    )
    config = dispatcher.suggest("a")
    number = number_of(config["trial"])
    costs = []
    for epoch in range(1, results + 1):
        row = {"epoch": epoch, "val_accuracy": 0.5, "sparsity": 0.5, "seconds": 0.1}
        before = time.perf_counter()
        run.rows(number, [row])
        costs.append(1000 * (time.perf_counter() - before))
        time.sleep(0.005)
    result = {ROWS: [row], OUTCOME: Outcome.COMPLETE}
    before = time.perf_counter()
    dispatcher.end("a", result)
    end = 1000 * (time.perf_counter() - before)
    retention.close(study.trials(experiment.objectives))
    tracker.close("finished")
    return statistics.median(costs), sorted(costs)[int(0.95 * results)], end


def resume(folder, trials):
    """Seconds from the command to the first epoch, to Tune's start, and for the study."""
    experiment, sweep, _ = filled(folder, f"r{trials}", trials)
    before = time.perf_counter()
    assert repair_study(sweep, experiment) == []
    sweep.status(mine=True)
    study = sweep.study(experiment)
    Dispatcher(
        study, experiment, halving=None, slots=lambda: 2, hours=0.0, follower=None, history=None
    )
    own = time.perf_counter() - before
    began = command(folder, "resume", f"r{trials}")
    launch: Launch = Workspace(folder).open(f"r{trials}").status().launches[-1]
    return launch.first - began, launch.began - began, own


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sweep", description=__doc__)
    parser.add_argument("--trials", type=int, default=32, help="of the sweep that is timed")
    parser.add_argument("--studies", type=int, nargs="*", default=[10, 100, 1000])
    options = parser.parse_args()
    table = Table(title=f"a sweep on {os.cpu_count()} cores", title_justify="left")
    for name in ("what", "measured", "limit"):
        table.add_column(name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for epochs in (40, 200):
            first, share, each = start_up(folder / f"a{epochs}", options.trials, epochs)
            table.add_row("start-up: command to first epoch", f"{first:.1f} s", "25 s")
            told = f"share of slot time in training, {options.trials} trials of {each:.2f} s"
            table.add_row(told, f"{share:.1%}", "90%")
        with contextlib.redirect_stdout(io.StringIO()):
            median, high, end = driver_cost(folder / "b")
        table.add_row("driver, a result: median", f"{median:.3f} ms", "2 ms")
        table.add_row("driver, a result: 95th percentile", f"{high:.3f} ms", "2 ms")
        table.add_row("driver, a trial's end at 100 trials", f"{end:.1f} ms", "")
        for count in options.studies:
            seconds, begun, own = resume(folder / f"c{count}", count)
            table.add_row(f"resume with {count} trials: the study", f"{own:.2f} s", "10 s")
            table.add_row("    command to Tune", f"{begun:.1f} s", "")
            table.add_row("    command to first epoch", f"{seconds:.1f} s", "")
    Console().print(table)


if __name__ == "__main__":
    main()
