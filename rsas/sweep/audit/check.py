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
    """One thing in which study, MLflow and files differ, or that cannot be read."""

    kind: Kind
    where: Literal["study", "mlflow", "storage"]
    trial_id: str  # empty where it concerns the sweep
    what: str
    run_id: str = ""  # of the MLflow run
    content: bool = False  # of what is logged, not of a state: the run has to be made again


def check(folder: SweepDir) -> list[Fault]:
    """Return every ghost, twin, gap, mismatch and damage of a sweep.

    Raises:
        InputError: the tracking server does not answer.
    """
    faults = list(_check_study(folder))
    if faults:  # all else is compared with the study
        return faults
    status = folder.status()
    faults += check_storage(folder, status)
    if (file := own_mirror(folder)) and (reason := tracking.damage(file)):
        return [*faults, Fault("damaged", "mlflow", "", f"{file} is damaged ({reason})")]
    uri = folder.tracking_uri()
    faults += check_mirror(tracking.read_mirror(uri, folder.record["id"]), folder, status)
    return faults


def is_behind(study: Study, records: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether trials' own records know more than the study, which so must have been cut."""
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


def own_mirror(folder: SweepDir) -> Path | None:
    """The workspace's own file of MLflow, where the sweep is mirrored there."""
    return folder.workspace / "mlflow.db" if folder.record["tracking_uri"] is None else None


def aside(name: str, taken: Collection[str]) -> str:
    """A name that is not taken for a folder that the study does not know."""
    number = 0
    while (found := f"{name}.ghost{number or ''}") in taken:
        number += 1
    return found


def check_storage(folder: SweepDir, status: Status) -> Iterator[Fault]:
    """What the trials' files lack, or have beyond what the study knows."""
    known = {trial.trial_id: trial for trial in status.trials}
    members = {trial.trial_id for trial in status.front}
    there = set(folder.trials.names())
    for name in sorted(there - known.keys()):
        if not _GHOST.fullmatch(name):
            yield Fault("ghost", "storage", name, "the study does not know this trial's folder")
    records = folder.kept_records()
    for name, trial in known.items():
        record = records.get(trial.number)
        if record is None:
            yield Fault("gap", "storage", name, "trial.json is missing or damaged")
        elif record["state"] != _STUDY_STATES[trial.state]:
            told = f"trial.json says {record['state']}, the study {trial.state}"
            yield Fault("mismatch", "storage", name, told)
        if trial.state in ("complete", "pruned"):
            yield from _check_history(folder, status.objectives, trial)
        elif trial.state == "running":
            for checkpoint in TrialDir(folder.trials / name).damaged():
                yield Fault("damaged", "storage", name, f"{checkpoint} cannot be read")
        if name in members and not trial.same_as:
            yield from _check_model(folder, name)
    yield from _check_models(folder, known, members)


def check_mirror(mirror: Mirror, folder: SweepDir, status: Status) -> Iterator[Fault]:
    """What MLflow lacks, or has beyond or other than the study."""
    if not mirror.parent:
        yield Fault("gap", "mlflow", "", "there is no parent run of this sweep")
        return
    for run_id, name in mirror.surplus.items():
        told = f"{'its' if name else 'parent'} run {run_id} is a second one"
        yield Fault("twin", "mlflow", name, told, run_id)
    if mirror.status != SWEEP_STATUS[status.state]:
        told = f"the parent run is {mirror.status}, and the sweep {status.state}"
        yield Fault("mismatch", "mlflow", "", told)
    members = {trial.trial_id for trial in status.front}
    if members and mirror.front != front_mark(members):
        yield Fault("mismatch", "mlflow", "", "pareto/front.json is not the front of the study")
    for name in sorted(mirror.missing):
        yield Fault("gap", "mlflow", "", f"the artifact {name} is missing")
    complete = status.counts["complete"]
    if mirror.points != list(range(1, complete + 1)):
        told = f"the hypervolume has {len(mirror.points)} points for {complete} complete trials"
        surplus = len(mirror.points) > len(set(mirror.points) & set(range(1, complete + 1)))
        yield Fault("gap", "mlflow", "", told, mirror.parent, content=surplus)
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
            yield Fault("gap", "mlflow", name, "it has no run")
            continue
        if by_trial[name].run_id in mirror.strays:
            yield Fault("mismatch", "mlflow", name, "its run is not under the sweep's parent run")
        yield from _check_run(by_trial[name], trial, folder, status, name in members)


def _check_study(folder: SweepDir) -> list[Fault]:
    try:
        study, records = folder.study_begun(), folder.kept_records()
        if study is None and not records:
            return []
        if study is None or is_behind(study, records):
            told = "the study lacks what the trials' own records have"
            return [Fault("damaged", "study", "", told)]
    except InputError as error:
        return [Fault("damaged", "study", "", str(error))]
    return []


def _check_run(
    run: MirroredRun, trial: TrialRecord, folder: SweepDir, status: Status, member: bool
) -> Iterator[Fault]:
    def fault(kind: Kind, what: str, *, content: bool = False) -> Fault:
        return Fault(kind, "mlflow", trial.trial_id, what, run.run_id, content)

    expected = status_of(trial.state, running=status.state == "running")
    if run.status != expected:
        told = f"its run is {run.status}; the study has it as {trial.state}"
        yield fault("mismatch", told)
    if trial.state not in ("running", run.state):
        yield fault("mismatch", f"rsas.state is {run.state!r}, the study has {trial.state}")
    tag = str(member).lower() if trial.state == "complete" else ""
    if run.pareto != tag:
        yield fault("mismatch", f"rsas.pareto is {run.pareto!r} where {tag!r} is right")
    if run.params != {k: redact(str(v)) for k, v in trial.params.items()}:
        yield fault("mismatch", "its params are not those of the study", content=True)
    for name, value in trial.objectives.items():
        if run.metrics.get(name) != value:
            told = f"{name} is {run.metrics.get(name)}, in the study {value}"
            yield fault("mismatch", told, content=True)
    if trial.state in ("complete", "pruned"):
        steps = [round(row["epoch"]) for row in folder.history(trial).rows]
        if run.epochs != steps:
            told = f"it has {len(run.epochs)} epochs logged of {len(steps)}"
            surplus = len(run.epochs) > max(len(steps), round(trial.epochs))
            yield fault("gap", told, content=surplus)


def _check_history(
    folder: SweepDir, objectives: Sequence[Objective], trial: TrialRecord
) -> Iterator[Fault]:
    rows = folder.history(trial).rows
    epochs = round(trial.epochs)
    # One that was stopped for an earlier rung may have more.
    there = rows if trial.state == "complete" else rows[:epochs]
    if [row["epoch"] for row in there] != list(range(1, epochs + 1)):
        told = f"its history has {len(rows)} of {trial.epochs:.0f} epochs"
        yield Fault("gap", "storage", trial.trial_id, told)
    elif trial.state == "complete" and any(
        rows[-1].get(o.name) != trial.objectives[o.name] for o in objectives
    ):
        told = "the last row of its history is not the result in the study"
        yield Fault("mismatch", "storage", trial.trial_id, told)


def _check_models(
    folder: SweepDir, known: Mapping[str, TrialRecord], members: Collection[str]
) -> Iterator[Fault]:
    """Yield the models that are kept and are not of the front's members."""
    for name in sorted(set(folder.models.names()).difference(members)):
        if name not in known:
            if not _GHOST.fullmatch(name):
                yield Fault("ghost", "storage", name, "the study does not know this trial's model")
        elif known[name].state != "running":
            yield Fault("ghost", "storage", name, "a model is kept that is not on the front")


def _check_model(folder: SweepDir, trial: str) -> Iterator[Fault]:
    try:
        found = read_model(folder.models, trial)
    except Exception:  # torch raises many kinds for damaged files
        yield Fault("damaged", "storage", trial, "the final model of a front member is damaged")
    else:
        if found is None:
            yield Fault("gap", "storage", trial, "the final model of a front member is missing")


_STUDY_STATES = {
    "running": "RUNNING",
    "complete": "COMPLETE",
    "pruned": "PRUNED",
    "failed": "FAIL",
}
_GHOST = re.compile(r".*\.ghost\d*")  # as ``aside`` names them
