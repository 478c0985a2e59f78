"""The book of a sweep: one durable Optuna study, which alone decides what is done.

Tune executes and MLflow mirrors; after an interruption the book says what is still to be run.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from rsas.config import TrainConfig
from rsas.errors import InputError
from rsas.records import Objective, State, TrialRecord, trial_id
from rsas.search.experiment import Experiment, Space

__all__ = ["Book"]

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_REASON = "rsas:reason"

_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


class Book:
    """The trials of a sweep and what became of them.

    Args:
        path: the journal file.
        experiment: what is searched; with None the book can only be read. Whoever writes is
            alone (``SweepFolder.locked``).

    Raises:
        InputError: the file is damaged, or to be read and without a study.
    """

    def __init__(self, path: Path, experiment: Experiment | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._experiment = experiment
        if experiment is not None:
            _mend(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            if experiment is None:
                self._study = optuna.load_study(study_name="sweep", storage=storage)
            else:
                self._study = optuna.create_study(
                    study_name="sweep",
                    storage=storage,
                    directions=[_direction(objective) for objective in experiment.objectives],
                    load_if_exists=True,
                )
        except (ValueError, KeyError, OSError) as error:
            raise InputError(
                f"{path}: the book of the sweep cannot be read ({type(error).__name__}: {error})"
            ) from error

    def trials(self, objectives: tuple[Objective, ...]) -> list[TrialRecord]:
        """All trials in the order they were begun."""
        return [_record(trial, objectives) for trial in self._frozen()]

    def unfinished(self) -> list[int]:
        """Numbers of the trials that are begun and not ended."""
        return [t.number for t in self._frozen() if not t.state.is_finished()]

    def ended(self) -> dict[State, int]:
        """How many trials ended in each state."""
        counts: dict[State, int] = {"complete": 0, "pruned": 0, "failed": 0}
        for trial in self._frozen():
            if trial.state.is_finished():
                counts[_STATES[trial.state]] += 1
        return counts

    def begin(self) -> int:
        """Ask the sampler for a new trial; returns its number.

        The sampler is made anew, with a seed of the sweep's seed and the trial's number, so a
        suggestion depends on the book alone: a resumed sweep neither repeats the start-up
        points of the sampler nor, with one trial at a time, differs from an undisturbed one.
        """
        experiment = self._writable()
        number = len(self._frozen())
        self._study.sampler = _sampler(experiment, number)
        trial = self._study.ask()
        with contextlib.suppress(Exception):  # config() meets it again, and tells
            experiment.space(trial)
        return trial.number

    def config(self, number: int) -> TrainConfig:
        """The configuration of a trial.

        The space is asked again: it gets the values it got before, and new ones only where the
        process ended before it had all.

        Raises:
            Exception: whatever the space raises; InputError if its fields are not valid.
        """
        experiment = self._writable()
        self._study.sampler = _sampler(experiment, number)
        trial = Trial(self._study, self._frozen()[number]._trial_id)
        return _apply(experiment.space, trial, experiment.base)

    def complete(self, number: int, metrics: dict[str, float]) -> None:
        """A trial came to its end; without finite objectives it failed."""
        names = [objective.name for objective in self._writable().objectives]
        values = [metrics.get(name, math.nan) for name in names]
        if not all(math.isfinite(value) for value in values):
            bad = ", ".join(f"{n}={v}" for n, v in zip(names, values, strict=True))
            self.fail(number, f"objectives are not finite: {bad}")
            return
        self._study.tell(number, values)

    def fail(self, number: int, reason: str) -> None:
        """A trial failed for good."""
        Trial(self._study, self._frozen()[number]._trial_id).set_user_attr(_REASON, reason)
        self._study.tell(number, state=TrialState.FAIL)

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _writable(self) -> Experiment:
        assert self._experiment is not None, "this book was opened for reading"
        return self._experiment


def _mend(path: Path) -> None:
    """Remove what a process that was killed while it wrote may have left.

    A line that was cut off would be glued to the next one and make the whole file unreadable;
    what it was to say did not happen. A lock would hold Optuna up for 30 seconds.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _apply(space: Space, trial: Trial, base: TrainConfig) -> TrainConfig:
    return base.replace(**space(trial))


def _sampler(experiment: Experiment, number: int) -> optuna.samplers.BaseSampler:
    state = np.random.SeedSequence([experiment.seed, number]).generate_state(1)
    return _SAMPLERS[experiment.sampler](int(state[0]))


def _direction(objective: Objective) -> StudyDirection:
    return StudyDirection.MAXIMIZE if objective.direction == "max" else StudyDirection.MINIMIZE


def _record(trial: FrozenTrial, objectives: tuple[Objective, ...]) -> TrialRecord:
    names = [objective.name for objective in objectives]
    begun, ended = trial.datetime_start, trial.datetime_complete
    assert begun is not None
    return TrialRecord(
        trial_id=trial_id(trial.number),
        state=_STATES[trial.state],
        params=dict(trial.params),
        objectives=(
            dict(zip(names, trial.values, strict=True))
            if trial.state is TrialState.COMPLETE
            else {}
        ),
        started=begun.timestamp(),
        finished=None if ended is None else ended.timestamp(),
        reason=trial.user_attrs.get(_REASON, ""),
    )
