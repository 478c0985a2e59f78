"""The study of a sweep: one durable Optuna study, which alone decides what is done.

Tune executes and MLflow mirrors; after an interruption the study says what is still to be run.
"""

from __future__ import annotations

import errno
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rsas import columns
from rsas.config import TrainConfig
from rsas.errors import Halted, InputError, reason_of
from rsas.records import Objective, State, TrialRecord, trial_id
from rsas.redact import redact
from rsas.sweep.experiment import Experiment
from rsas.sweep.study.backend import PATIENCE, open_storage, patiently
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
from rsas.sweep.suggest.space import fields_of

__all__ = ["NotBegun", "Rung", "Study"]

# Attributes of the study.
_RECORD = "rsas:record"
_LAUNCH = "rsas:launch:"
_QUEUE = "rsas:queue"


@dataclass(frozen=True)
class Rung:
    """What a trial had come to at a rung, and what was decided there."""

    number: int
    rung: int  # epochs
    values: list[float]  # of the objectives
    stops: bool


class NotBegun(InputError):
    """There is no study: the sweep was killed before it made one."""


class Study:
    """The trials of a sweep and what became of them.

    Args:
        place: the journal file, or the URL of a database (``postgresql+psycopg://...``).
        experiment: what is searched; with None the study can only be read.
        name: of the study, where a database has several.
        lease: of this process (``SweepDir.locked``): reads and writes fail with ``LeaseLost``
            where another process has it. With None, none is compared.

    Raises:
        NotBegun: it is to be read, and not there.
        InputError: the study is damaged or cannot be reached.
    """

    def __init__(
        self,
        place: Path | str,
        experiment: Experiment | None = None,
        *,
        name: str = "sweep",
        lease: Lease | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._experiment = experiment
        try:
            storage = open_storage(place, name, lease)
            try:
                self._optuna = optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                if experiment is None:
                    raise NotBegun(f"{place}: there is no study {name!r}") from None
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
        except Exception as error:  # Optuna, SQLAlchemy and drivers have kinds of their own
            hint = "; 'rsas check NAME --repair' mends it" if isinstance(place, Path) else ""
            raise InputError(
                f"{place}: the study of the sweep cannot be read ({reason_of(error)}){hint}"
            ) from error

    @property
    def optuna_study(self) -> optuna.Study:
        """Optuna's own object, for its tools that read."""
        return self._optuna

    # What the study holds.

    def trials(self, objectives: Sequence[Objective]) -> list[TrialRecord]:
        """All trials in the order they were begun."""
        return [to_record(trial, objectives) for trial in self._begun()]

    def trial(self, number: int, objectives: Sequence[Objective]) -> TrialRecord:
        """One trial."""
        return to_record(self._frozen()[number], objectives)

    def fields(self, number: int) -> dict[str, Any] | None:
        """Return what the space set for a trial, as JSON types; None where nothing is noted."""
        found: dict[str, Any] | None = self._frozen()[number].user_attrs.get(FIELDS)
        return found

    def unfinished(self) -> list[int]:
        """Numbers of the trials that are begun and not ended."""
        return [t.number for t in self._begun() if not t.state.is_finished()]

    def ended(self) -> dict[State, int]:
        """How many trials ended in each state."""
        counts: dict[State, int] = {"complete": 0, "pruned": 0, "failed": 0}
        for trial in self._begun():
            if trial.state.is_finished():
                counts[STATES[trial.state]] += 1
        return counts

    def rungs(self) -> list[Rung]:
        """All that was noted at rungs, in the order of the trials."""
        return [
            Rung(trial.number, int(name.removeprefix(RUNG)), note["values"], note["stops"])
            for trial in self._begun()
            for name, note in trial.user_attrs.items()
            if name.startswith(RUNG)
        ]

    def device_seconds(self) -> float:
        """Of all trials that ended."""
        ended = [trial for trial in self._begun() if trial.state.is_finished()]
        return float(sum(trial.user_attrs.get(DEVICE_SECONDS, 0.0) for trial in ended))

    def launches(self) -> list[Launch]:
        """The processes that ran the sweep, oldest first."""
        found = self._optuna.user_attrs.items()
        return [Launch(**value) for name, value in sorted(found) if name.startswith(_LAUNCH)]

    def queue(self) -> list[dict[str, Any]]:
        """Values of parameters with which the first trials are run; see ``enqueue``."""
        found: list[dict[str, Any]] = self._optuna.user_attrs.get(_QUEUE, [])
        return found

    def check_lease(self) -> None:
        """See that this process may still write, by a read of what is small.

        Raises:
            LeaseLost: another process has taken the sweep over.
            Halted: the study cannot be read.
        """
        patiently(lambda: self._optuna.user_attrs)

    def record(self) -> dict[str, Any] | None:
        """The sweep's own record, which ``note_record`` kept."""
        found: dict[str, Any] | None = self._optuna.user_attrs.get(_RECORD)
        return found

    # What becomes of trials.

    def begin(self) -> int:
        """Ask the sampler for a new trial; returns its number.

        The sampler is made anew, with a seed of the sweep's seed and the trial's number, so a
        suggestion depends on the study alone: a resumed sweep neither repeats the start-up
        points of the sampler nor, with one trial at a time, differs from an undisturbed one.
        """
        experiment = self._writable()

        def ask() -> int:
            frozen = self._frozen()
            queue = self.queue()
            waiting = [t.number for t in frozen if t.state is TrialState.WAITING]  # by a kill
            begun = len(self._begun())
            if begun < len(queue) and not waiting:
                self._optuna.enqueue_trial(queue[begun])
            self._optuna.sampler = sampler(experiment, waiting[0] if waiting else len(frozen))
            return self._optuna.ask().number

        number = patiently(ask)
        try:
            self.config(number)
        except Halted:
            raise
        except Exception:  # the space's; the next call of config raises it again
            return number
        return number

    def config(self, number: int) -> TrainConfig:
        """Return the configuration with which a trial began, whatever the space returns now.

        Where the process ended before its fields were noted, the space is asked again: it gets the
        values it got before, and new ones for the rest.

        Raises:
            Exception: whatever the space raises; InputError if its fields are not valid.
        """
        base = self._writable().base
        fields = self.fields(number)
        if fields is not None:
            return base.replace(**fields)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._ask(number)
            except optuna.exceptions.StorageInternalError:  # the database is away
                if time.monotonic() > deadline:
                    raise Halted("the study's database does not answer") from None
                time.sleep(1.0)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # not the space's
                    raise Halted(f"the study cannot be written ({error.strerror})") from None
                raise

    def _ask(self, number: int) -> TrainConfig:
        """Ask the space for the configuration of a trial, and note its fields."""
        experiment = self._writable()
        self._optuna.sampler = sampler(experiment, number)
        trial = patiently(lambda: Trial(self._optuna, self._frozen()[number]._trial_id))
        fields = fields_of(experiment, trial)
        self._set(number, FIELDS, fields)
        return experiment.base.replace(**fields)

    def note_key(self, number: int, key: str) -> int | None:
        """Note what identifies a trial's configuration.

        Returns:
            The number of a complete trial that has the same, if there is one.
        """
        self._set(number, KEY, key)
        for trial in self._begun():
            if trial.state is TrialState.COMPLETE and trial.user_attrs.get(KEY) == key:
                return trial.number
        return None

    def note_rung(self, rung: Rung) -> None:
        """Keep what was decided at a rung, before it is acted upon."""
        note = {"values": list(rung.values), "stops": rung.stops}
        self._set(rung.number, f"{RUNG}{rung.rung}", note)

    def complete(
        self, number: int, metrics: Mapping[str, float], device_seconds: float = 0.0
    ) -> None:
        """A trial came to its end; without finite objectives it failed."""
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
        """A trial has the configuration of a complete one: it counts with the same result."""
        other = self._frozen()[same_as]
        self._set(number, SAME_AS, trial_id(same_as))
        self._set(number, EPOCHS, other.user_attrs.get(EPOCHS, 0.0))
        if BY_SEED in other.user_attrs:
            self._set(number, BY_SEED, other.user_attrs[BY_SEED])
        self._tell(number, TrialState.COMPLETE, other.values)

    def prune(self, number: int, epochs: float, device_seconds: float = 0.0) -> None:
        """A trial was stopped early."""
        self._set(number, EPOCHS, epochs)
        self._set(number, DEVICE_SECONDS, device_seconds)
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, device_seconds: float = 0.0) -> None:
        """A trial failed for good, for a reason whose secrets are hidden."""
        self._set(number, REASON, redact(reason))
        self._set(number, DEVICE_SECONDS, device_seconds)
        self._tell(number, TrialState.FAIL)

    # What is known of the sweep itself.

    def note_record(self, record: dict[str, Any]) -> None:
        """Keep the sweep's record here, too; its file may be damaged."""
        self._note(_RECORD, record)

    def note_launch(self, index: int, launch: Launch) -> None:
        """Note how far a launch has come."""
        self._note(f"{_LAUNCH}{index:04d}", vars(launch))

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Values of parameters with which the first trials are run."""
        self._note(_QUEUE, [dict(point) for point in points])

    def add_known(self, other: Study, sweep: str) -> int:
        """Tell the sampler the complete trials of another sweep; they are no trials of this one.

        Returns:
            How many there were.
        """
        known = [trial for trial in other._begun() if trial.state is TrialState.COMPLETE]
        there = {trial.user_attrs.get(KNOWN) for trial in self._frozen()}  # before a kill
        for trial in known:
            if f"{sweep}/{trial_id(trial.number)}" in there:
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
        """Return all the study has of a trial, as JSON types; ``rebuild`` takes it back."""
        frozen = self._frozen()
        known = [trial.number for trial in frozen if KNOWN in trial.user_attrs]
        sweep = (self.record() or {}).get("id", "")
        return {**to_dict(frozen[number]), "known": known, "sweep": sweep}

    def _name_objectives(self, objectives: Sequence[Objective]) -> None:
        """For Optuna's own tools; rsas does not read the names."""
        if self._optuna.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._optuna.set_metric_names([objective.name for objective in objectives])

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        def tell() -> None:
            if not self._frozen()[number].state.is_finished():  # it was, before a connection broke
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
