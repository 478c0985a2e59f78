"""The folder of one sweep: its record, its lock, its status. No ray.

WORKSPACE/NAME/sweep.json          the resolved experiment and where it came from
WORKSPACE/NAME/study.journal       the book (rsas.search.book), unless it is in a database
WORKSPACE/NAME/lock                held by the process that runs the sweep

Here, or in STORAGE/NAME-ID where a storage is given that all nodes reach:

trials/t0007/                      checkpoints and history of a trial (rsas.search.checkpoints)
models/t0007/model.pt              final model of a member of the front
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from rsas.analysis.pareto import front, hypervolume
from rsas.errors import InputError
from rsas.records import Objective, TrialRecord
from rsas.redact import is_redacted, without_passwords
from rsas.search.checkpoints import History, TrialFolder, read_model
from rsas.search.experiment import Budget, Experiment, Resources
from rsas.search.storage import Storage

if TYPE_CHECKING:  # optuna takes a second to import
    from rsas.search.book import Book, Launch

__all__ = ["Status", "SweepFolder", "hours_of", "known_uri"]

SCHEMA = 1
_RECORD_KEYS = {
    *("number", "state", "params", "distributions", "values"),
    *("user_attrs", "system_attrs", "started", "finished"),
}

SweepState = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Status:
    """What a sweep has come to."""

    name: str
    state: SweepState  # failed: as many trials failed as its budget allows
    asked: int  # trials that are to be complete or stopped early
    objectives: tuple[Objective, ...]
    trials: list[TrialRecord]
    launches: list[Launch] = field(default_factory=list)
    spent: str = ""  # the limit that ended it before all trials were run
    mirrored: bool = True  # MLflow has all of it, as far as this process logged

    @property
    def counts(self) -> dict[str, int]:
        """Trials asked for, and trials by state."""
        counts = {"asked": self.asked, "complete": 0, "running": 0, "pruned": 0, "failed": 0}
        for trial in self.trials:
            counts[trial.state] += 1
        return counts

    @property
    def front(self) -> list[TrialRecord]:
        """The complete trials that no other dominates."""
        return front(self.trials, self.objectives)

    @property
    def hypervolume(self) -> float:
        """See ``rsas.analysis.hypervolume``."""
        return hypervolume(self.trials, self.objectives)

    @property
    def device_seconds(self) -> float:
        """Seconds of training times devices, of all trials that ended."""
        return sum(trial.device_seconds for trial in self.trials)

    @property
    def slot_share(self) -> float | None:
        """Share of the time of all slots that was spent in training, after start-up, in [0, 1].

        From the first epoch of each launch to its last note; None before there is one.
        """
        time = sum(each.slot_seconds for each in self.launches)
        trained = sum(each.trained for each in self.launches)
        return min(trained / time, 1.0) if time > 0 else None


class SweepFolder:
    """The folder of one sweep that exists.

    Attributes:
        workspace: folder of the workspace it is in.
        record: what ``sweep.json`` holds: the resolved experiment and where things are.
        journal: the book's file, where it is no database.
        storage: where trials keep their files.

    Raises:
        InputError: its record cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.workspace = path, path.parent
        self.name = path.name
        self.journal = path / "study.journal"
        try:
            self.record = self._read()
            if self.record["schema"] != SCHEMA:
                raise InputError(f"sweep {self.name!r}: made by another version of rsas")
            self._take(self.record)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"sweep {self.name!r}: {path / 'sweep.json'} cannot be read "
                f"({type(error).__name__}: {error}), nor can the copy in its book"
            ) from None

    def set_budget(self, budget: Budget) -> None:
        """Ask for more, or less, from now on.

        Raises:
            InputError: the record cannot be written.
        """
        self.record["experiment"]["budget"] = dataclasses.asdict(budget)
        self._write()
        self._take(self.record)

    def tracking_uri(self) -> str:
        """Of the tracking server, with its password; or of the workspace's own file.

        Raises:
            InputError: the password is not known.
        """
        server = self.record["tracking_uri"]
        if server is None:
            return f"sqlite:///{self.workspace / 'mlflow.db'}"
        return known_uri(server, "MLFLOW_TRACKING_URI")

    def history(self, trial: TrialRecord) -> History:
        """What was trained of a trial, or of the one that it repeats."""
        return TrialFolder(self.trials / (trial.same_as or trial.trial_id)).history()

    def final_model(self, trial: TrialRecord) -> dict[str, Any]:
        """The network of a trial, or of the one that it repeats: ``Trainer.final_state``.

        Raises:
            InputError: none is kept, as the trial is not on the front, or it cannot be read.
        """
        try:
            for name in filter(None, (trial.trial_id, trial.same_as)):
                state = read_model(self.models, name)
                if state is not None:
                    return state
            kept = ", ".join(self.models.names()) or "none"
        except Exception as error:  # torch raises many kinds for damaged files
            reason = f"{error if isinstance(error, OSError) else 'it is damaged'}".splitlines()[0]
            raise InputError(
                f"the final model of {trial.trial_id!r} cannot be read ({reason}); "
                f"'rsas check {self.name}' tells more"
            ) from None
        raise InputError(
            f"trial {trial.trial_id!r} has no final model: those of the front are kept; there is: "
            f"{kept}"
        )

    def kept_records(self) -> dict[int, dict[str, Any]]:
        """What trials' own folders have of the book, by number; damaged ones left out."""
        names = [name for name in self.trials.names() if re.fullmatch(r"t\d+", name)]
        contents = self.trials.read_all([f"{name}/trial.json" for name in names])
        found = {}
        for name, content in zip(names, contents, strict=True):
            with contextlib.suppress(ValueError):
                record = json.loads(content or b"")
                if isinstance(record, dict) and record.keys() >= _RECORD_KEYS:
                    found[int(name[1:])] = record
        return found

    def book(self, experiment: Experiment | None = None) -> Book:
        """The sweep's book; with an experiment, to be written.

        Raises:
            InputError: it cannot be read, or the password of its database is not known.
        """
        from rsas.search.book import Book

        url = self.record.get("study_storage")
        if url is None:
            return Book(self.journal, experiment)
        return Book(known_uri(url, "RSAS_STUDY_STORAGE"), experiment, study=self.record["id"])

    def book_begun(self) -> Book | None:
        """The book, to be read; None where the process was killed before it had begun one.

        Raises:
            InputError: as ``book`` does.
        """
        from rsas.search.book import NotBegun

        if self.record.get("study_storage") is None and (
            not self.journal.exists() or self.journal.stat().st_size == 0
        ):
            return None
        try:
            return self.book()
        except NotBegun:
            return None

    def status(self, *, mine: bool = False) -> Status:
        """What the book says, and whether somebody runs the sweep.

        Args:
            mine: this process holds the lock, and asks what the sweep would be without it.
        """
        book = self.book_begun()
        trials = book.trials(self.objectives) if book else []
        launches = book.launches() if book else []
        states = [trial.state for trial in trials]
        spent = self._spent(trials, launches)
        state: SweepState = "interrupted"
        if not mine and self._is_locked():
            state = "running"
        elif states.count("complete") + states.count("pruned") >= self.budget.trials or spent:
            state = "finished"
        elif self._gave_up(trials, launches) and "running" not in states:
            state = "failed"
        return Status(
            name=self.name,
            state=state,
            asked=self.budget.trials,
            objectives=self.objectives,
            trials=trials,
            launches=launches,
            spent=spent,
        )

    def _gave_up(self, trials: Sequence[TrialRecord], launches: Sequence[Launch]) -> bool:
        """Whether too many trials failed since it was last gone on with."""
        since = launches[-1].began if launches else 0.0
        failed = [t for t in trials if t.state == "failed" and (t.finished or 0.0) >= since]
        return len(failed) >= self.budget.failures

    def _spent(self, trials: Sequence[TrialRecord], launches: Sequence[Launch]) -> str:
        """The limit of time that is reached, if one is."""
        if self.budget.hours is not None and hours_of(launches) >= self.budget.hours:
            return f"{self.budget.hours:g} hours"
        used = (
            sum(
                trial.device_seconds
                if trial.state != "running"
                else self.history(trial).seconds * self.devices
                for trial in trials
            )
            if self.budget.device_hours is not None
            else 0.0
        )
        if self.budget.device_hours is not None and used >= 3600 * self.budget.device_hours:
            return f"{self.budget.device_hours:g} device-hours"
        return ""

    def _take(self, record: dict[str, Any]) -> None:
        experiment = record["experiment"]
        self.objectives = tuple(Objective(**values) for values in experiment["objectives"])
        self.budget = Budget(**experiment["budget"])
        self.devices = Resources(**experiment["resources"]).devices
        place = record.get("storage")
        self.storage = Storage(place or self.path)
        self.trials, self.models = self.storage / "trials", self.storage / "models"

    def _read(self) -> dict[str, Any]:
        """The record; a damaged one is made again from the copy in the book."""
        file = self.path / "sweep.json"
        try:
            found: dict[str, Any] = json.loads(file.read_text("utf-8"))
            if found["schema"] == SCHEMA:
                self._take(found)
            return found
        except (OSError, ValueError, KeyError, TypeError):
            if not self.journal.exists():
                raise
        from rsas.search.book import Book

        copy = Book(self.journal).record()
        if copy is None:
            raise ValueError("damaged")
        if file.exists():
            file.replace(file.with_name("sweep.json.damaged"))
        self.record = copy
        self._write()
        logging.getLogger("rsas").warning(
            "%s was damaged, kept aside as .damaged, and is made again from the book", file
        )
        return copy

    def _write(self) -> None:
        try:
            Storage(self.path).write("sweep.json", to_json(self.record))
        except OSError as error:
            raise InputError(f"sweep {self.name!r}: {error}") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that runs the sweep.

        The operating system drops the lock when the process ends, however it ends.

        Raises:
            InputError: another process runs it, or its file system has no locks.
        """
        try:
            file = (self.path / "lock").open("a+")
        except OSError as error:
            raise InputError(f"sweep {self.name!r}: cannot write there ({error})") from None
        with file:
            try:
                is_mine = _lock(file)
            except OSError as error:
                raise InputError(
                    f"sweep {self.name!r}: {self.path} cannot be locked "
                    f"({error.strerror or error}); a workspace needs a file system with locks"
                ) from None
            if not is_mine:
                file.seek(0)
                raise InputError(
                    f"sweep {self.name!r} is being run by process {file.read() or '?'}; "
                    f"'rsas status {self.name}' follows it"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _is_locked(self) -> bool:
        try:
            with (self.path / "lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # never locked, or not ours to look at
            return False
        return False


def hours_of(launches: Sequence[Launch]) -> float:
    """For which the sweep has run, its interruptions not counted."""
    return sum(max(each.last - each.began, 0.0) for each in launches) / 3600


def known_uri(recorded: str, variable: str) -> str:
    """The URI of a record, with its password, which the record does not hold.

    Raises:
        InputError: the environment does not have it.
    """
    if not is_redacted(recorded):
        return recorded
    given = os.environ.get(variable, "")
    if without_passwords(given) != recorded:
        raise InputError(
            f"{recorded}: passwords are not kept; set {variable} to this URI with its password"
        )
    return given


def to_json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _lock(file: IO[str]) -> bool:
    """Lock a file for this process alone; 'rsas status' may hold it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False
