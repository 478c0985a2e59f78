"""The book of a sweep: one durable Optuna study, which alone decides what is done.

Tune executes and MLflow mirrors; after an interruption the book says what is still to be run.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from rsas.config import TrainConfig
from rsas.errors import Halted, InputError
from rsas.records import Objective, State, TrialRecord, trial_id
from rsas.search.experiment import Experiment

__all__ = ["Book", "Launch", "Rung", "is_behind", "rebuild"]

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
# Attributes of trials.
_REASON = "rsas:reason"
_KEY = "rsas:key"
_SAME_AS = "rsas:same_as"
_RUNG = "rsas:rung:"
_EPOCHS = "rsas:epochs"
_DEVICE_SECONDS = "rsas:device_seconds"
_BY_SEED = "rsas:by_seed"
_KNOWN = "rsas:known"
# Attributes of the study.
_RECORD = "rsas:record"
_LAUNCH = "rsas:launch:"
_QUEUE = "rsas:queue"

_DATABASE_SCHEMA = "rsas_study"  # not "rsas": a schema of the role's name would hide MLflow's
_PATIENCE = 60.0  # seconds for which a database that is away is asked again

_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Rung:
    """What a trial had come to at a rung, and what was decided there."""

    number: int
    rung: int  # epochs
    values: list[float]  # of the objectives
    stops: bool


@dataclass(frozen=True)
class Launch:
    """One process that ran the sweep, as it last noted."""

    began: float  # seconds since 1970
    first: float | None = None  # when the first epoch began
    last: float = 0.0  # when it last told of an epoch
    slot_seconds: float = 0.0  # from first to last, times the trials that could run at once
    trained: float = 0.0  # seconds of training, of all slots together


class Book:
    """The trials of a sweep and what became of them.

    Args:
        place: the journal file, or the URL of a database (``postgresql+psycopg://...``).
        experiment: what is searched; with None the book can only be read. Whoever writes is
            alone (``SweepFolder.locked``).
        study: name of the study, where a database has several.

    Raises:
        InputError: the book is damaged or cannot be reached, or is to be read and not there.
    """

    def __init__(
        self, place: Path | str, experiment: Experiment | None = None, *, study: str = "sweep"
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._experiment = experiment
        if experiment is not None and isinstance(place, Path):
            _cut_torn_line(place)
        try:
            storage = _open(place)
            if experiment is None:
                self._study = optuna.load_study(study_name=study, storage=storage)
            else:
                self._study = optuna.create_study(
                    study_name=study,
                    storage=storage,
                    directions=[_direction(objective) for objective in experiment.objectives],
                    load_if_exists=True,
                )
                self._name_objectives(experiment.objectives)
            self._frozen()
        except InputError:
            raise
        except Exception as error:  # Optuna, SQLAlchemy and drivers have kinds of their own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"{place}: the book of the sweep cannot be read ({reason}); "
                "'rsas check NAME --repair' makes a damaged one anew"
            ) from error

    @property
    def study(self) -> optuna.Study:
        """Optuna's own object, for its tools that read."""
        return self._study

    # What the book holds.

    def trials(self, objectives: Sequence[Objective]) -> list[TrialRecord]:
        """All trials in the order they were begun."""
        return [_record(trial, objectives) for trial in self._begun()]

    def trial(self, number: int, objectives: Sequence[Objective]) -> TrialRecord:
        """One trial."""
        return _record(self._frozen()[number], objectives)

    def unfinished(self) -> list[int]:
        """Numbers of the trials that are begun and not ended."""
        return [t.number for t in self._begun() if not t.state.is_finished()]

    def ended(self) -> dict[State, int]:
        """How many trials ended in each state."""
        counts: dict[State, int] = {"complete": 0, "pruned": 0, "failed": 0}
        for trial in self._begun():
            if trial.state.is_finished():
                counts[_STATES[trial.state]] += 1
        return counts

    def rungs(self) -> list[Rung]:
        """All that was noted at rungs, in the order of the trials."""
        return [
            Rung(trial.number, int(name.removeprefix(_RUNG)), note["values"], note["stops"])
            for trial in self._begun()
            for name, note in trial.user_attrs.items()
            if name.startswith(_RUNG)
        ]

    def device_seconds(self) -> float:
        """Of all trials that ended."""
        ended = [trial for trial in self._begun() if trial.state.is_finished()]
        return float(sum(trial.user_attrs.get(_DEVICE_SECONDS, 0.0) for trial in ended))

    def launches(self) -> list[Launch]:
        """The processes that ran the sweep, oldest first."""
        found = self._study.user_attrs.items()
        return [Launch(**value) for name, value in sorted(found) if name.startswith(_LAUNCH)]

    def record(self) -> dict[str, Any] | None:
        """The sweep's own record, which ``note_record`` kept."""
        found: dict[str, Any] | None = self._study.user_attrs.get(_RECORD)
        return found

    # What becomes of trials.

    def begin(self) -> int:
        """Ask the sampler for a new trial; returns its number.

        The sampler is made anew, with a seed of the sweep's seed and the trial's number, so a
        suggestion depends on the book alone: a resumed sweep neither repeats the start-up
        points of the sampler nor, with one trial at a time, differs from an undisturbed one.
        """
        experiment = self._writable()

        def ask() -> int:
            frozen = self._frozen()
            queue = self._study.user_attrs.get(_QUEUE, [])
            waiting = any(trial.state is TrialState.WAITING for trial in frozen)  # by a kill
            begun = len(self._begun())
            if begun < len(queue) and not waiting:
                self._study.enqueue_trial(queue[begun])
            self._study.sampler = _sampler(experiment, len(self._frozen()))
            return self._study.ask().number

        number = _patiently(ask)
        with contextlib.suppress(Exception):  # config() meets it again, and tells
            experiment.space(Trial(self._study, self._frozen()[number]._trial_id))
        return number

    def config(self, number: int) -> TrainConfig:
        """The configuration of a trial.

        The space is asked again: it gets the values it got before, and new ones only where the
        process ended before it had all.

        Raises:
            Exception: whatever the space raises; InputError if its fields are not valid.
        """
        experiment = self._writable()
        self._study.sampler = _sampler(experiment, number)
        trial = _patiently(lambda: Trial(self._study, self._frozen()[number]._trial_id))
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return experiment.base.replace(**experiment.space(trial))
            except optuna.exceptions.StorageInternalError:  # the database is away
                if time.monotonic() > deadline:
                    raise Halted("the study's database does not answer") from None
                time.sleep(1.0)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # not the space's
                    raise Halted(f"the book cannot be written ({error.strerror})") from None
                raise

    def note_key(self, number: int, key: str) -> int | None:
        """Note what identifies a trial's configuration.

        Returns:
            The number of a complete trial that has the same, if there is one.
        """
        self._set(number, _KEY, key)
        for trial in self._begun():
            if trial.state is TrialState.COMPLETE and trial.user_attrs.get(_KEY) == key:
                return trial.number
        return None

    def note_rung(self, rung: Rung) -> None:
        """Keep what was decided at a rung, before it is acted upon."""
        note = {"values": list(rung.values), "stops": rung.stops}
        self._set(rung.number, f"{_RUNG}{rung.rung}", note)

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
        self._set(number, _EPOCHS, metrics.get("epoch", 0.0))
        self._set(number, _DEVICE_SECONDS, device_seconds)
        by_seed = {k: v for k, v in metrics.items() if k.partition("/")[2] in names}
        if by_seed:
            self._set(number, _BY_SEED, by_seed)
        self._tell(number, TrialState.COMPLETE, values)

    def repeat(self, number: int, same_as: int) -> None:
        """A trial has the configuration of a complete one: it counts with the same result."""
        other = self._frozen()[same_as]
        self._set(number, _SAME_AS, trial_id(same_as))
        self._set(number, _EPOCHS, other.user_attrs.get(_EPOCHS, 0.0))
        if _BY_SEED in other.user_attrs:
            self._set(number, _BY_SEED, other.user_attrs[_BY_SEED])
        self._tell(number, TrialState.COMPLETE, other.values)

    def prune(self, number: int, epochs: float, device_seconds: float = 0.0) -> None:
        """A trial was stopped early."""
        self._set(number, _EPOCHS, epochs)
        self._set(number, _DEVICE_SECONDS, device_seconds)
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, device_seconds: float = 0.0) -> None:
        """A trial failed for good."""
        self._set(number, _REASON, reason)
        self._set(number, _DEVICE_SECONDS, device_seconds)
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

    def add_known(self, other: Book, sweep: str) -> int:
        """Tell the sampler the complete trials of another sweep; they are no trials of this one.

        Returns:
            How many there were.
        """
        known = [trial for trial in other._begun() if trial.state is TrialState.COMPLETE]
        there = {trial.user_attrs.get(_KNOWN) for trial in self._frozen()}  # before a kill
        for trial in known:
            if f"{sweep}/{trial_id(trial.number)}" in there:
                continue
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=trial.values,
                    user_attrs={_KNOWN: f"{sweep}/{trial_id(trial.number)}"},
                )
            )
        return len(known)

    def delete(self) -> None:
        """Remove the study from its database."""
        optuna.delete_study(study_name=self._study.study_name, storage=self._study._storage)

    def to_dict(self, number: int) -> dict[str, Any]:
        """All the book has of a trial, as JSON types; ``rebuild`` takes it back."""
        frozen = self._frozen()
        known = [trial.number for trial in frozen if _KNOWN in trial.user_attrs]
        return {**_trial_to_dict(frozen[number]), "known": known}

    def _name_objectives(self, objectives: Sequence[Objective]) -> None:
        """For Optuna's own tools; rsas does not read the names."""
        if self._study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names([objective.name for objective in objectives])

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        def tell() -> None:
            if not self._frozen()[number].state.is_finished():  # it was, before a connection broke
                self._study.tell(number, values, state=state)

        _patiently(tell)

    def _set(self, number: int, name: str, value: Any) -> None:
        def put() -> None:
            trial = self._frozen()[number]
            if not trial.state.is_finished():
                self._study._storage.set_trial_user_attr(trial._trial_id, name, value)

        _patiently(put)

    def _note(self, name: str, value: Any) -> None:
        _patiently(lambda: self._study.set_user_attr(name, value))

    def _frozen(self) -> list[FrozenTrial]:
        return _patiently(lambda: self._study.get_trials(deepcopy=False))

    def _begun(self) -> list[FrozenTrial]:
        own = self._own(self._frozen())
        return [trial for trial in own if trial.state is not TrialState.WAITING]

    @staticmethod
    def _own(trials: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
        """Those that are not another sweep's."""
        return (trial for trial in trials if _KNOWN not in trial.user_attrs)

    def _writable(self) -> Experiment:
        assert self._experiment is not None, "this book was opened for reading"
        return self._experiment


def rebuild(
    journal: Path, records: Mapping[int, Mapping[str, Any]], experiment: Experiment
) -> list[str]:
    """Make a damaged journal anew, of its whole part and of the trials' own records.

    The damaged file is kept aside as ``.damaged``.

    Args:
        journal: the file.
        records: ``Book.to_dict`` of the trials, by number, as kept in their folders.
        experiment: what is searched.

    Returns:
        Lines that say what was done and what is lost.
    """
    whole, launches, queue, record = _whole_part(journal)
    aside = _aside(journal)
    each = [*whole.values(), *records.values()]
    known = {number for trial in each for number in trial.get("known", [])}
    partial = journal.with_name(f".{journal.name}.partial")
    partial.unlink(missing_ok=True)
    made = Book(partial, experiment)
    lines, lost = [f"{journal} is damaged, kept aside as {aside.name}"], []
    for number in range(max([*whole, *records], default=-1) + 1):
        kept, found = whole.get(number), records.get(number)
        # A record is written after the book: where both are there, it may be the older one.
        under_way = ("WAITING", "RUNNING")
        if found is None or (kept is not None and kept["state"] not in under_way):
            found = kept
        elif kept is not None:
            parts = ("params", "distributions", "user_attrs", "system_attrs")
            found = {**found, **{part: {**kept[part], **found[part]} for part in parts}}
        if found is None and number in known:
            found = {"state": "FAIL", "user_attrs": {_KNOWN: "lost"}}
        elif found is None:
            lost.append(trial_id(number))
            found = {"state": "FAIL", "user_attrs": {_REASON: "lost with the damaged book"}}
        made._study.add_trial(_trial_from_dict(found, len(experiment.objectives)))
    for index, launch in enumerate(launches):
        made.note_launch(index, launch)
    made.enqueue(queue)
    if record is not None:
        made.note_record(record)
    count = len(made._frozen())
    if journal.exists():  # and stays until there is a whole one
        shutil.copy2(journal, aside)
    partial.replace(journal)
    lines.append(f"the book is made anew of {count} trials' records")
    if lost:
        lines.append(f"nothing is known any more of {', '.join(lost)}: told as failed")
    return lines


def is_behind(book: Book, records: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether trials' own records know more than the book, which so must have been cut."""
    frozen = book._frozen()

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


def _whole_part(
    journal: Path,
) -> tuple[dict[int, dict[str, Any]], list[Launch], list[dict[str, Any]], dict[str, Any] | None]:
    """What the lines before the first damaged one tell."""
    content = journal.read_bytes() if journal.exists() else b""
    good = []
    for line in content.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        good.append(line)
    partial = journal.with_name(f".{journal.name}.whole")
    try:
        partial.write_bytes(b"".join(good))
        book = Book(partial)
        trials = {trial.number: book.to_dict(trial.number) for trial in book._frozen()}
        return trials, book.launches(), book._study.user_attrs.get(_QUEUE, []), book.record()
    except InputError:  # not even its beginning is there
        return {}, [], [], None
    finally:
        partial.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """A name for a damaged file that is not taken."""
    number = 0
    while (aside := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    return aside


def _trial_to_dict(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name,
        "params": trial.params,
        "distributions": {k: distribution_to_json(v) for k, v in trial.distributions.items()},
        "values": trial.values,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "started": _timestamp(trial.datetime_start),
        "finished": _timestamp(trial.datetime_complete),
    }


def _trial_from_dict(values: Mapping[str, Any], objectives: int) -> FrozenTrial:
    state = TrialState[values["state"]]
    distributions = values.get("distributions", {})
    trial = optuna.trial.create_trial(
        state=state,
        params=values.get("params", {}),
        distributions={k: json_to_distribution(v) for k, v in distributions.items()},
        values=values.get("values") if state is TrialState.COMPLETE else None,
        user_attrs=values.get("user_attrs", {}),
        system_attrs=values.get("system_attrs", {}),
    )
    now = datetime.datetime.now()
    started, finished = values.get("started"), values.get("finished")
    trial.datetime_start = datetime.datetime.fromtimestamp(started) if started else now
    if state.is_finished():
        trial.datetime_complete = datetime.datetime.fromtimestamp(finished) if finished else now
    return trial


def _timestamp(moment: datetime.datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _open(place: Path | str) -> BaseStorage:
    if isinstance(place, Path):
        return JournalStorage(JournalFileBackend(str(place)))
    # A connection that a restarted server has dropped is noticed and made anew.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if place.startswith("postgresql"):
        # Optuna and MLflow both have a table alembic_version: in one database they need a
        # schema each (mlflow #3374).
        engine = sqlalchemy.create_engine(place)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {_DATABASE_SCHEMA}"))
        engine.dispose()
        options["connect_args"] = {"options": f"-csearch_path={_DATABASE_SCHEMA}"}
    return optuna.storages.RDBStorage(place, engine_kwargs=options)


def _patiently(action: Callable[[], T]) -> T:
    """Do it; again, for a while, where a database is away."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except optuna.exceptions.StorageInternalError as error:
            if time.monotonic() > deadline:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise Halted(f"the study's database does not answer ({reason})") from None
            time.sleep(1.0)
        except OSError as error:
            raise Halted(f"the book cannot be written ({error.strerror or error})") from None


def _cut_torn_line(path: Path) -> None:
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


def _sampler(experiment: Experiment, number: int) -> optuna.samplers.BaseSampler:
    state = np.random.SeedSequence([experiment.seed, number]).generate_state(1)
    return _SAMPLERS[experiment.sampler](int(state[0]))


def _direction(objective: Objective) -> StudyDirection:
    return StudyDirection.MAXIMIZE if objective.direction == "max" else StudyDirection.MINIMIZE


def _record(trial: FrozenTrial, objectives: Sequence[Objective]) -> TrialRecord:
    names = [objective.name for objective in objectives]
    attributes = trial.user_attrs
    return TrialRecord(
        trial_id=trial_id(trial.number),
        state=_STATES[trial.state],
        params=dict(trial.params),
        objectives=(
            dict(zip(names, trial.values, strict=True))
            if trial.state is TrialState.COMPLETE
            else {}
        ),
        started=_timestamp(trial.datetime_start) or 0.0,
        finished=_timestamp(trial.datetime_complete),
        reason=attributes.get(_REASON, "") if trial.state is TrialState.FAIL else "",
        same_as=attributes.get(_SAME_AS, ""),
        epochs=attributes.get(_EPOCHS, 0.0),
        device_seconds=attributes.get(_DEVICE_SECONDS, 0.0),
        by_seed=attributes.get(_BY_SEED, {}),
    )
