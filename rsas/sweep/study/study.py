"""The study of a sweep: one durable Optuna study, the only source for which trials are done.

Tune executes the trials and MLflow mirrors them. A resume reads from the study which trials are
left to run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rsas import columns
from rsas.config import LoopConfig, TrainConfig
from rsas.errors import Halted, InputError, reason_of
from rsas.records import Objective, State, TrialRecord, trial_id
from rsas.redact import redact
from rsas.sweep.experiment import Experiment
from rsas.sweep.study.backend import open_storage, patiently
from rsas.sweep.study.frozen import (
    BY_SEED,
    DEVICE_SECONDS,
    EPOCHS,
    FIELDS,
    KEY,
    KNOWN,
    REASON,
    RUNG,
    SAME_AS,
    STATES,
    to_dict,
    to_record,
)
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.lease import Lease
from rsas.sweep.suggest.sampler import direction, sampler
from rsas.sweep.suggest.space import run_space

__all__ = ["NotBegun", "Rung", "Study"]

# Names of the user attributes of the study.
_RECORD = "rsas:record"
_LAUNCH = "rsas:launch:"
_QUEUE = "rsas:queue"


@dataclass(frozen=True)
class Rung:
    """The objectives of a trial at a rung, and the decision made there."""

    number: int
    rung: int  # epochs
    values: list[float]  # of the objectives
    stops: bool  # the trial was stopped there


class NotBegun(InputError):
    """The study does not exist: the sweep was killed before it created one."""


class Study:
    """The trials of a sweep and their results.

    Args:
        location: the journal file, or the URL of a database (``postgresql+psycopg://...``).
        experiment: the experiment of the sweep; with None the study can only be read.
        name: of the study; a database may hold several.
        lease: of this process (``SweepDir.locked``); reads and writes fail with ``LeaseLost`` if
            another process has taken the lease over. With None, no lease is compared.

    Raises:
        NotBegun: the study does not exist, and without ``experiment`` none is created.
        InputError: the study is damaged or cannot be reached.
    """

    def __init__(
        self,
        location: Path | str,
        experiment: Experiment | None = None,
        *,
        name: str = "sweep",
        lease: Lease | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._experiment = experiment
        try:
            storage = open_storage(location, name, lease)
            try:
                self._optuna = optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                if experiment is None:
                    raise NotBegun(f"{location}: there is no study {name!r}") from None
                self._optuna = optuna.create_study(
                    study_name=name,
                    storage=storage,
                    directions=[direction(objective) for objective in experiment.objectives],
                )
            if experiment is not None:
                self._name_objectives(experiment.objectives)
            self._frozen()
        except (InputError, Halted):
            raise
        except Exception as error:  # Optuna, SQLAlchemy and drivers each raise their own classes
            hint = "; 'rsas check NAME --repair' repairs it" if isinstance(location, Path) else ""
            raise InputError(
                f"{location}: the study of the sweep cannot be read ({reason_of(error)}){hint}"
            ) from error

    @property
    def optuna_study(self) -> optuna.Study:
        """Optuna's own object, for those of Optuna's tools that only read."""
        return self._optuna

    # Read the study.

    def trials(self, objectives: Sequence[Objective]) -> list[TrialRecord]:
        """Return all trials in the order they were begun."""
        return [to_record(trial, objectives) for trial in self._begun()]

    def trial(self, number: int, objectives: Sequence[Objective]) -> TrialRecord:
        """Return the trial of a number."""
        return to_record(self._frozen()[number], objectives)

    def fields(self, number: int) -> dict[str, Any] | None:
        """Return the fields that the space set for a trial, as JSON types; None if not noted."""
        fields: dict[str, Any] | None = self._frozen()[number].user_attrs.get(FIELDS)
        return fields

    def ended(self) -> dict[State, int]:
        """Return the number of trials that ended in each state."""
        counts: dict[State, int] = {"complete": 0, "pruned": 0, "failed": 0}
        for trial in self._begun():
            if trial.state.is_finished():
                counts[STATES[trial.state]] += 1
        return counts

    def rungs(self) -> list[Rung]:
        """Return all notes of rungs, in the order of the trials."""
        return [
            Rung(trial.number, int(name.removeprefix(RUNG)), note["values"], note["stops"])
            for trial in self._begun()
            for name, note in trial.user_attrs.items()
            if name.startswith(RUNG)
        ]

    def launches(self) -> list[Launch]:
        """Return the processes that ran the sweep, oldest first."""
        attributes = self._optuna.user_attrs.items()
        return [Launch(**value) for name, value in sorted(attributes) if name.startswith(_LAUNCH)]

    def queue(self) -> list[dict[str, Any]]:
        """Return the parameter values for the first trials; see ``enqueue``."""
        queue: list[dict[str, Any]] = self._optuna.user_attrs.get(_QUEUE, [])
        return queue

    def check_lease(self) -> None:
        """Check that this process may still write.

        A read compares the lease; the study's own attributes are quick to read.

        Raises:
            LeaseLost: another process has taken the sweep over.
            Halted: the study cannot be read.
        """
        patiently(lambda: self._optuna.user_attrs)

    def record(self) -> dict[str, Any] | None:
        """Return the sweep's record as stored by ``note_record``, or None if there is none."""
        record: dict[str, Any] | None = self._optuna.user_attrs.get(_RECORD)
        return record

    # Begin and end trials.

    def begin(self) -> int:
        """Ask the sampler for a new trial, and return its number; ``config`` runs the space.

        Each trial gets a new sampler, seeded with the sweep's seed and the trial's number. So a
        suggestion depends only on the study. A resumed sweep does not repeat the start-up points of
        the sampler. With one trial at a time, its suggestions equal those of an undisturbed sweep.
        """
        experiment = self._writable()

        def ask() -> int:
            frozen = self._frozen()
            queue = self.queue()
            # A kill between enqueue_trial and ask leaves a trial waiting.
            waiting = [t.number for t in frozen if t.state is TrialState.WAITING]
            begun = len(self._begun())
            if begun < len(queue) and not waiting:
                self._optuna.enqueue_trial(queue[begun])
            self._optuna.sampler = sampler(experiment, waiting[0] if waiting else len(frozen))
            return self._optuna.ask().number

        return patiently(ask)

    def config(self, number: int) -> TrainConfig | LoopConfig:
        """Return the configuration with which a trial began, even if the space has changed since.

        If the process ended before the fields were noted, the space runs again. The space then gets
        the parameter values of the first run, and new values for parameters not yet drawn.

        Raises:
            Exception: any error of the space; InputError if its fields are not valid.
        """
        base = self._writable().config
        fields = self.fields(number)
        if fields is not None:
            return base.replace(**fields)
        return patiently(lambda: self._ask(number), runs_space=True)

    def _ask(self, number: int) -> TrainConfig | LoopConfig:
        """Ask the space for the configuration of a trial, and note its fields."""
        experiment = self._writable()
        self._optuna.sampler = sampler(experiment, number)
        trial = patiently(lambda: Trial(self._optuna, self._frozen()[number]._trial_id))
        config, fields = run_space(experiment, trial)
        self._set(number, FIELDS, fields)
        return config

    def note_key(self, number: int, key: str) -> int | None:
        """Note the key that identifies a trial's configuration.

        Returns:
            The number of a complete trial with the same key, or None.
        """
        self._set(number, KEY, key)
        for trial in self._begun():
            if trial.state is TrialState.COMPLETE and trial.user_attrs.get(KEY) == key:
                return trial.number
        return None

    def note_rung(self, rung: Rung) -> None:
        """Note the decision at a rung, before the dispatcher acts on that decision."""
        note = {"values": list(rung.values), "stops": rung.stops}
        self._set(rung.number, f"{RUNG}{rung.rung}", note)

    def complete(
        self, number: int, metrics: Mapping[str, float], device_seconds: float = 0.0
    ) -> None:
        """Mark a trial as complete, or as failed if an objective is not finite."""
        names = [objective.name for objective in self._writable().objectives]
        values = [metrics.get(name, math.nan) for name in names]
        if not all(math.isfinite(value) for value in values):
            bad = ", ".join(f"{n}={v}" for n, v in zip(names, values, strict=True))
            self.fail(number, f"objectives are not finite: {bad}", device_seconds)
            return
        self._set(number, EPOCHS, metrics.get("epoch", 0.0))
        self._set(number, DEVICE_SECONDS, device_seconds)
        by_seed = columns.by_seed(metrics, names)
        if by_seed:
            self._set(number, BY_SEED, by_seed)
        self._tell(number, TrialState.COMPLETE, values)

    def repeat(self, number: int, same_as: int) -> None:
        """Mark a trial as complete with the result of another one of the same configuration."""
        other = self._frozen()[same_as]
        self._set(number, SAME_AS, trial_id(same_as))
        self._set(number, EPOCHS, other.user_attrs.get(EPOCHS, 0.0))
        if BY_SEED in other.user_attrs:
            self._set(number, BY_SEED, other.user_attrs[BY_SEED])
        self._tell(number, TrialState.COMPLETE, other.values)

    def prune(self, number: int, epochs: float, device_seconds: float = 0.0) -> None:
        """Mark a trial as stopped early."""
        self._set(number, EPOCHS, epochs)
        self._set(number, DEVICE_SECONDS, device_seconds)
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, device_seconds: float = 0.0) -> None:
        """Mark a trial as failed, and note the reason without its secrets."""
        self._set(number, REASON, redact(reason))
        self._set(number, DEVICE_SECONDS, device_seconds)
        self._tell(number, TrialState.FAIL)

    # Note facts on the sweep itself.

    def note_record(self, record: dict[str, Any]) -> None:
        """Store a copy of the sweep's record, in case the record's file is damaged."""
        self._note(_RECORD, record)

    def note_launch(self, index: int, launch: Launch) -> None:
        """Note the progress of a launch."""
        self._note(f"{_LAUNCH}{index:04d}", vars(launch))

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Store parameter values for the first trials."""
        self._note(_QUEUE, [dict(point) for point in points])

    def add_known(self, other: Study, sweep: str) -> int:
        """Give the sampler the complete trials of another sweep, not counted in this one.

        Returns:
            The number of these trials.
        """
        known = [trial for trial in other._begun() if trial.state is TrialState.COMPLETE]
        # A process that was killed may have added some of them before.
        present = {trial.user_attrs.get(KNOWN) for trial in self._frozen()}
        for trial in known:
            if f"{sweep}/{trial_id(trial.number)}" in present:
                continue
            self._optuna.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=trial.values,
                    user_attrs={KNOWN: f"{sweep}/{trial_id(trial.number)}"},
                )
            )
        return len(known)

    def delete(self) -> None:
        """Remove the study from its database."""
        optuna.delete_study(study_name=self._optuna.study_name, storage=self._optuna._storage)

    def to_dict(self, number: int) -> dict[str, Any]:
        """Return all data of a trial, as JSON types, from which ``rebuild`` can restore it."""
        frozen = self._frozen()
        known = [trial.number for trial in frozen if KNOWN in trial.user_attrs]
        sweep = (self.record() or {}).get("id", "")
        return {**to_dict(frozen[number]), "known": known, "sweep": sweep}

    def _name_objectives(self, objectives: Sequence[Objective]) -> None:
        """Name the objectives for Optuna's own tools; rsas does not read the names."""
        if self._optuna.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._optuna.set_metric_names([objective.name for objective in objectives])

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        def tell() -> None:
            # If the connection broke after the write, the retry finds the trial finished.
            if not self._frozen()[number].state.is_finished():
                self._optuna.tell(number, values, state=state)

        patiently(tell)

    def _set(self, number: int, name: str, value: Any) -> None:
        def put() -> None:
            trial = self._frozen()[number]
            if not trial.state.is_finished():
                self._optuna._storage.set_trial_user_attr(trial._trial_id, name, value)

        patiently(put)

    def _note(self, name: str, value: Any) -> None:
        patiently(lambda: self._optuna.set_user_attr(name, value))

    def _frozen(self) -> list[FrozenTrial]:
        return patiently(lambda: self._optuna.get_trials(deepcopy=False))

    def _begun(self) -> list[FrozenTrial]:
        return [
            trial
            for trial in self._frozen()
            if KNOWN not in trial.user_attrs and trial.state is not TrialState.WAITING
        ]

    def _writable(self) -> Experiment:
        assert self._experiment is not None, "this study was opened for reading"
        return self._experiment
