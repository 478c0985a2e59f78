"""Compare the study of a sweep, its MLflow runs, and its files on the storage."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rsas import tracking
from rsas.errors import InputError
from rsas.records import (
    SWEEP_STATUS,
    Mirror,
    MirroredRun,
    Objective,
    TrialRecord,
    front_mark,
    status_of,
)
from rsas.redact import redact
from rsas.sweep.files.sweep_dir import SweepDir
from rsas.sweep.files.trial_dir import TrialDir, read_model
from rsas.sweep.status import Status
from rsas.sweep.study.study import Study

__all__ = [
    "Fault",
    "aside",
    "check",
    "check_mirror",
    "check_storage",
    "is_behind",
    "own_mirror",
]

Kind = Literal["ghost", "twin", "gap", "mismatch", "damaged"]


@dataclass(frozen=True)
class Fault:
    """One difference between the study, MLflow and the files, or one thing that is unreadable."""

    kind: Kind
    where: Literal["study", "mlflow", "storage"]
    trial_id: str  # empty if the fault concerns the whole sweep
    what: str  # the message
    run_id: str = ""  # of the MLflow run
    content: bool = False  # the logged data are wrong, not only a state: the run is logged again


def check(sweep_dir: SweepDir) -> list[Fault]:
    """Return every ghost, twin, gap, mismatch and damage of a sweep.

    Raises:
        InputError: the tracking server does not answer.
    """
    faults = list(_check_study(sweep_dir))
    if faults:  # everything else is compared with the study, so without it the check ends
        return faults
    status = sweep_dir.status()
    faults += check_storage(sweep_dir, status)
    if (file := own_mirror(sweep_dir)) and (reason := tracking.damage(file)):
        return [*faults, Fault("damaged", "mlflow", "", f"{file} is damaged ({reason})")]
    uri = sweep_dir.tracking_uri()
    faults += check_mirror(tracking.read_mirror(uri, sweep_dir.record["id"]), sweep_dir, status)
    return faults


def is_behind(study: Study, records: Mapping[int, Mapping[str, Any]]) -> bool:
    """Return whether the trials' own records hold more than the study, which then was cut."""
    frozen = study.optuna_study.get_trials(deepcopy=False)

    def lacks(number: int, record: Mapping[str, Any]) -> bool:
        if number >= len(frozen):
            return True
        if frozen[number].state.is_finished():
            return False
        parts = ("params", "user_attrs", "system_attrs")
        return record["state"] != "RUNNING" or any(
            record[part].keys() - getattr(frozen[number], part).keys() for part in parts
        )

    return any(lacks(number, record) for number, record in records.items())


def own_mirror(sweep_dir: SweepDir) -> Path | None:
    """Return the workspace's own MLflow file, or None if the sweep is mirrored elsewhere."""
    return sweep_dir.workspace / "mlflow.db" if sweep_dir.record["tracking_uri"] is None else None


def aside(name: str, taken: Collection[str]) -> str:
    """Return an unused name for a folder that the study does not know."""
    number = 0
    while (unused := f"{name}.ghost{number or ''}") in taken:
        number += 1
    return unused


def check_storage(sweep_dir: SweepDir, status: Status) -> Iterator[Fault]:
    """Yield the faults of the trials' files: data that are missing, or unknown to the study."""
    known = {trial.trial_id: trial for trial in status.trials}
    members = {trial.trial_id for trial in status.front}
    names = set(sweep_dir.trials.names())
    for name in sorted(names - known.keys()):
        if not _GHOST.fullmatch(name):
            yield Fault("ghost", "storage", name, "the study does not know this trial's folder")
    records = sweep_dir.kept_records()
    for name, trial in known.items():
        record = records.get(trial.number)
        if record is None:
            yield Fault("gap", "storage", name, "trial.json is missing or damaged")
        elif record["state"] != _STUDY_STATES[trial.state]:
            message = f"trial.json has the state {record['state']}, the study has {trial.state}"
            yield Fault("mismatch", "storage", name, message)
        if trial.state in ("complete", "pruned"):
            yield from _check_history(sweep_dir, status.objectives, trial)
        elif trial.state == "running":
            for checkpoint in TrialDir(sweep_dir.trials / name).damaged():
                yield Fault("damaged", "storage", name, f"{checkpoint} cannot be read")
        if name in members and not trial.same_as:
            yield from _check_model(sweep_dir, name)
    yield from _check_models(sweep_dir, known, members)


def check_mirror(mirror: Mirror, sweep_dir: SweepDir, status: Status) -> Iterator[Fault]:
    """Yield the faults of the mirror: what MLflow lacks, or what differs from the study there."""
    if not mirror.parent:
        yield Fault("gap", "mlflow", "", "the sweep has no parent run")
        return
    for run_id, name in mirror.surplus.items():
        message = f"{'run' if name else 'parent run'} {run_id} is a duplicate"
        yield Fault("twin", "mlflow", name, message, run_id)
    if mirror.status != SWEEP_STATUS[status.state]:
        message = f"the parent run is {mirror.status}, the sweep is {status.state}"
        yield Fault("mismatch", "mlflow", "", message)
    members = {trial.trial_id for trial in status.front}
    if members and mirror.front != front_mark(members):
        yield Fault("mismatch", "mlflow", "", "pareto/front.json is not the front of the study")
    for name in sorted(mirror.missing):
        yield Fault("gap", "mlflow", "", f"the artifact {name} is missing")
    complete = status.counts["complete"]
    if mirror.points != list(range(1, complete + 1)):
        message = f"the hypervolume has {len(mirror.points)} points for {complete} complete trials"
        surplus = len(mirror.points) > len(set(mirror.points) & set(range(1, complete + 1)))
        yield Fault("gap", "mlflow", "", message, mirror.parent, content=surplus)
    known = {trial.trial_id for trial in status.trials}
    for run in mirror.runs:
        if run.trial_id not in known:
            yield Fault(
                "ghost", "mlflow", run.trial_id, "the study has no such trial", run.run_id, True
            )
    by_trial = {run.trial_id: run for run in mirror.runs}
    for trial in status.trials:
        name = trial.trial_id
        if name not in by_trial:
            yield Fault("gap", "mlflow", name, "the trial has no run")
            continue
        if by_trial[name].run_id in mirror.strays:
            yield Fault("mismatch", "mlflow", name, "the run is not under the sweep's parent run")
        yield from _check_run(by_trial[name], trial, sweep_dir, status, name in members)


def _check_study(sweep_dir: SweepDir) -> list[Fault]:
    try:
        study, records = sweep_dir.study_begun(), sweep_dir.kept_records()
        if study is None and not records:
            return []
        if study is None or is_behind(study, records):
            message = "the study lacks data that the trials' own records have"
            return [Fault("damaged", "study", "", message)]
    except InputError as error:
        return [Fault("damaged", "study", "", str(error))]
    return []


def _check_run(
    run: MirroredRun, trial: TrialRecord, sweep_dir: SweepDir, status: Status, member: bool
) -> Iterator[Fault]:
    def fault(kind: Kind, message: str, *, content: bool = False) -> Fault:
        return Fault(kind, "mlflow", trial.trial_id, message, run.run_id, content)

    expected = status_of(trial.state, running=status.state == "running")
    if run.status != expected:
        message = f"the run is {run.status}; in the study the trial is {trial.state}"
        yield fault("mismatch", message)
    if trial.state not in ("running", run.state):
        yield fault("mismatch", f"rsas.state is {run.state!r}, the study has {trial.state}")
    tag = str(member).lower() if trial.state == "complete" else ""
    if run.pareto != tag:
        yield fault("mismatch", f"rsas.pareto is {run.pareto!r}; {tag!r} is correct")
    if run.params != {k: redact(str(v)) for k, v in trial.params.items()}:
        yield fault("mismatch", "the params of the run are not those of the study", content=True)
    for name, value in trial.objectives.items():
        if run.metrics.get(name) != value:
            message = f"{name} is {run.metrics.get(name)}, in the study {value}"
            yield fault("mismatch", message, content=True)
    if trial.state in ("complete", "pruned"):
        steps = [round(row["epoch"]) for row in sweep_dir.history(trial).rows]
        if run.epochs != steps:
            message = f"the run has {len(run.epochs)} of {len(steps)} epochs"
            surplus = len(run.epochs) > max(len(steps), round(trial.epochs))
            yield fault("gap", message, content=surplus)


def _check_history(
    sweep_dir: SweepDir, objectives: Sequence[Objective], trial: TrialRecord
) -> Iterator[Fault]:
    rows = sweep_dir.history(trial).rows
    epochs = round(trial.epochs)
    # A trial that was stopped at an earlier rung may have more rows than its epochs.
    counted = rows if trial.state == "complete" else rows[:epochs]
    if [row["epoch"] for row in counted] != list(range(1, epochs + 1)):
        message = f"the history has {len(rows)} of {trial.epochs:.0f} epochs"
        yield Fault("gap", "storage", trial.trial_id, message)
    elif trial.state == "complete" and any(
        rows[-1].get(o.name) != trial.objectives[o.name] for o in objectives
    ):
        message = "the last row of the history is not the result in the study"
        yield Fault("mismatch", "storage", trial.trial_id, message)


def _check_models(
    sweep_dir: SweepDir, known: Mapping[str, TrialRecord], members: Collection[str]
) -> Iterator[Fault]:
    """Yield the final models that are kept although their trials are not on the front."""
    for name in sorted(set(sweep_dir.models.names()).difference(members)):
        if name not in known:
            if not _GHOST.fullmatch(name):
                yield Fault("ghost", "storage", name, "the study does not know this trial's model")
        elif known[name].state != "running":
            yield Fault("ghost", "storage", name, "a model is kept of a trial not on the front")


def _check_model(sweep_dir: SweepDir, trial: str) -> Iterator[Fault]:
    try:
        model = read_model(sweep_dir.models, trial)
    except Exception:  # torch raises many kinds of errors for damaged files
        yield Fault("damaged", "storage", trial, "the final model of a front member is damaged")
    else:
        if model is None:
            yield Fault("gap", "storage", trial, "the final model of a front member is missing")


_STUDY_STATES = {
    "running": "RUNNING",
    "complete": "COMPLETE",
    "pruned": "PRUNED",
    "failed": "FAIL",
}
_GHOST = re.compile(r".*\.ghost\d*")  # the names that ``aside`` returns
