"""The folder of one sweep: its record, its lease, its status. Needs no Ray.

WORKSPACE/NAME/sweep.json          the resolved experiment and its provenance
WORKSPACE/NAME/sweep.json.copy     the same, used when that file is damaged or missing
WORKSPACE/NAME/study.journal       the study (rsas.sweep.study.study), unless it is in a database

In the same folder, or in STORAGE/NAME-ID if a storage is given that all nodes reach:

trials/t0007/                      checkpoints and history of a trial (rsas.sweep.files.trial_dir)
models/t0007/model.pt              final model of a member of the front
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rsas.errors import Halted, InputError, reason_of
from rsas.records import TrialRecord, trial_id
from rsas.sweep.experiment import Budget, Experiment
from rsas.sweep.files.file_store import FileStore, aside
from rsas.sweep.files.sweep_record import (
    VARIABLES,
    OtherStudy,
    OtherVersion,
    experiment_in,
    known_uri,
    to_json,
)
from rsas.sweep.files.trial_dir import History, TrialDir
from rsas.sweep.status import Status, status_of
from rsas.sweep.study.lease import Lease, LeaseStore, acquire, is_alive
from rsas.uris import sqlite_uri

if TYPE_CHECKING:  # optuna takes a second to import
    from rsas.sweep.study.launch import Launch
    from rsas.sweep.study.study import Study

__all__ = ["FILES", "SweepDir"]

FILES = ("sweep.json", "sweep.json.copy", "study.journal")
"""A folder with at least one of these files is that of a sweep."""
_COPY = FILES[1]
_SILENCE = 600.0  # seconds after which a silent driver on another machine counts as dead


class SweepDir:
    """The folder of an existing sweep.

    Args:
        path: of the folder.
        uris: URIs of the record with their passwords; the environment has those not given.

    Attributes:
        workspace: folder of the sweep's workspace.
        record: content of ``sweep.json``: the resolved experiment and where its parts are.
        journal: path of the study's file, unless the study is in a database.
        storage: where trials keep their files.
        lease: of this process, while the sweep is ``locked``.

    Raises:
        InputError: the record cannot be read.
    """

    def __init__(self, path: Path, uris: Mapping[str, str] = MappingProxyType({})) -> None:
        self._uris = uris
        self.path, self.workspace = path, path.parent
        self.name = path.name
        self.journal = path / "study.journal"
        self.lease: Lease | None = None
        self.record: dict[str, Any] = {}
        self._take(self._read())

    def set_budget(self, budget: Budget) -> None:
        """Change the budget of the sweep.

        Raises:
            InputError: the record cannot be written.
        """
        self.record["experiment"]["budget"] = dataclasses.asdict(budget)
        self._write()
        self._take(experiment_in(self.record))

    def note_changes(self, lines: Sequence[str]) -> None:
        """Record how the experiment's file has changed since the launch, each change once.

        Raises:
            InputError: the record cannot be written.
        """
        changes = self.record.get("changes", [])
        known = {change["what"] for change in changes}
        now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        new = [{"time": now, "what": line} for line in lines if line not in known]
        if new:
            self.record["changes"] = changes + new
            self._write()

    def tracking_uri(self) -> str:
        """Return the URI of the tracking server, with its password, or of the workspace's own file.

        Raises:
            InputError: the environment lacks the password.
        """
        return self._uri("tracking_uri") or sqlite_uri(self.workspace / "mlflow.db")

    def history(self, trial: TrialRecord) -> History:
        """Return the training history of a trial, or of the one that it repeats."""
        return TrialDir(self.trials / (trial.same_as or trial.trial_id)).history()

    def kept_records(self) -> dict[int, dict[str, Any]]:
        """Return the copies of the study's records in the trials' own folders, by number.

        Records that are damaged or edited are left out. So are those of another sweep, or of
        another trial than that of their folder: a user may have copied a folder.
        """
        names = self.trials.names()
        contents = self.trials.read_all([f"{name}/trial.json" for name in names])
        return {
            record["number"]: record
            for name, record in zip(names, map(TrialDir.record_in, contents), strict=True)
            if record is not None
            and record.get("sweep") == self.record["id"]
            and trial_id(record["number"]) == name
        }

    def study(self, experiment: Experiment | None = None) -> Study:
        """Open the study of the sweep; with an experiment, for writing.

        Raises:
            OtherStudy: the study is another sweep's, or its objectives are not those of the record.
            InputError: the study cannot be read, or the environment lacks its database's password.
        """
        from rsas.sweep.study.study import Study

        url = self._uri("study_storage")
        lease = None if experiment is None else self.lease
        if url is None:
            study = Study(self.journal, experiment, lease=lease)
        else:
            study = Study(url, experiment, name=self.record["id"], lease=lease)
        record = study.record()
        if record is not None and record["id"] != self.record["id"]:
            raise OtherStudy(
                f"sweep {self.name!r}: its study is that of another sweep, {record['id']!r} where "
                f"sweep.json has {self.record['id']!r}; bring the right file back"
            )
        if len(study.optuna_study.directions) != len(self.objectives):
            raise OtherStudy(
                f"sweep {self.name!r}: sweep.json has {len(self.objectives)} objectives, and "
                f"its study {len(study.optuna_study.directions)}; correct the file, or delete it, "
                "and a copy is used"
            )
        return study

    def study_begun(self) -> Study | None:
        """Open the study for reading; return None if the process was killed before it made one.

        Raises:
            InputError: for the reasons of ``study``.
        """
        from rsas.sweep.study.study import NotBegun

        try:
            return self.study()
        except NotBegun:
            return None

    def status(self, *, mine: bool = False) -> Status:
        """Return the status of the sweep: the content of its study, and whether the sweep runs.

        Args:
            mine: do not count this process, which has the lease, as one that runs the sweep.
        """
        study = self.study_begun()
        trials = study.trials(self.objectives) if study else []
        launches = study.launches() if study else []
        return status_of(
            self.name,
            self.objectives,
            self.budget,
            trials,
            launches,
            device_seconds=self._device_seconds(trials),
            is_running=not mine and self._is_running(launches),
        )

    def _device_seconds(self, trials: Sequence[TrialRecord]) -> float:
        """Return the device seconds of all trials; 0 if no limit needs them.

        Those of running trials come from their histories, which take time to read.
        """
        if self.budget.device_hours is None:
            return 0.0
        return sum(
            trial.device_seconds
            if trial.state != "running"
            else self.history(trial).seconds * self.devices
            for trial in trials
        )

    def _take(self, experiment: Experiment) -> None:
        self.objectives = experiment.objectives
        self.budget = experiment.budget
        self.devices = experiment.resources.devices
        self.storage = FileStore(self.record.get("storage") or self.path)
        self.trials, self.models = self.storage / "trials", self.storage / "models"

    def _read(self) -> Experiment:
        """Read the record; set aside one that cannot be used, and restore it from a copy.

        Raises:
            InputError: neither the record nor a copy can be used.
        """
        file = self.path / "sweep.json"
        try:
            self.record = json.loads(file.read_text("utf-8"))
            return experiment_in(self.record)
        except OtherVersion as error:
            raise InputError(f"sweep {self.name!r}: {error}") from None
        except (FileNotFoundError, ValueError, RecursionError) as error:  # also an InputError
            reason = reason_of(error)
        except OSError as error:  # the content may be right
            raise InputError(
                f"sweep {self.name!r}: {file} cannot be read ({reason_of(error)})"
            ) from None
        copy = self._copy()
        if copy is None:
            raise InputError(
                f"sweep {self.name!r}: {file} cannot be used ({reason}), nor can a copy of it"
            )
        self.record = copy
        try:
            done = "a copy replaces it"
            if file.exists():
                damaged = file.replace(aside(file))
                done += f", and the damaged file is now {damaged.name}"
            FileStore(self.path).write("sweep.json", to_json(copy))
        except OSError as error:
            done = f"a copy is used, as the file cannot be replaced ({error.strerror or error})"
        logging.getLogger("rsas").warning("%s cannot be used (%s); %s", file, reason, done)
        return experiment_in(copy)

    def _copy(self) -> dict[str, Any] | None:
        """Return the copy of the record in the journal, or else the one beside sweep.json."""
        from rsas.sweep.study.study import Study

        copies: tuple[Callable[[], Any], ...] = (
            lambda: Study(self.journal).record(),
            lambda: json.loads((self.path / _COPY).read_text("utf-8")),
        )
        for read in copies:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                record: dict[str, Any] = read()
                experiment_in(record)
                return record
        return None

    def note_copies(self, study: Study) -> None:
        """Write copies of the record, from which a damaged one can be restored."""
        if study.record() != self.record:
            study.note_record(self.record)
        with contextlib.suppress(OSError):
            FileStore(self.path).write(_COPY, to_json(self.record))

    def _write(self) -> None:
        try:
            FileStore(self.path).write("sweep.json", to_json(self.record))
        except OSError as error:
            raise InputError(f"sweep {self.name!r}: {error}") from None

    @contextlib.contextmanager
    def locked(self, *, take_over: bool = False) -> Iterator[None]:
        """Hold the lease of the sweep for the duration of the context (``rsas.sweep.study.lease``).

        Args:
            take_over: take the lease even from a process that may be alive.

        Raises:
            InputError: another process runs the sweep, or the study cannot be written.
        """
        try:
            self.lease = acquire(self._leases(), self.name, take_over=take_over)
        except OSError as error:
            raise InputError(
                f"sweep {self.name!r}: its study cannot be written ({error.strerror or error})"
            ) from None
        try:
            yield
        finally:
            mine, self.lease = self.lease, None
            released = dataclasses.replace(mine, is_released=True)
            # If this fails: the process ends soon, and the next one can see that.
            with contextlib.suppress(Halted, OSError):
                self._leases().put(released, over=mine)

    def is_lost(self) -> bool:
        """Return whether another process has taken the lease that ``locked`` gave this one."""
        held = self._leases().lease()
        return held is not None and self.lease is not None and held.epoch > self.lease.epoch

    def _is_running(self, launches: Sequence[Launch]) -> bool:
        held = self._leases().lease()
        if held is None or held.is_released:
            return False
        alive = is_alive(held.owner)
        if alive is None:
            return bool(launches) and time.time() - launches[-1].last < _SILENCE
        return alive

    def _uri(self, key: str) -> str | None:
        recorded = self.record.get(key)
        if recorded is None or key in self._uris:
            return self._uris.get(key)
        return known_uri(recorded, VARIABLES[key])

    def _leases(self) -> LeaseStore:
        from rsas.sweep.study.database import DatabaseLeases
        from rsas.sweep.study.journal import Journal

        url = self._uri("study_storage")
        return Journal(self.journal) if url is None else DatabaseLeases(url, self.record["id"])
