"""The folder of a workspace and of each sweep in it: names, record, lock, status. No ray.

WORKSPACE/mlflow.db, artifacts/    MLflow, unless a tracking server is used
WORKSPACE/NAME/sweep.json          the resolved experiment and where it came from
WORKSPACE/NAME/study.journal       the book (rsas.search.book)
WORKSPACE/NAME/trials/t0007/       checkpoints and history of a trial
WORKSPACE/NAME/ray/                Tune's own files, one folder a launch
WORKSPACE/NAME/lock                held by the process that runs the sweep
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from rsas.analysis.pareto import front, hypervolume
from rsas.errors import InputError
from rsas.records import Objective, TrialRecord
from rsas.search.checkpoints import TrialFolder
from rsas.search.experiment import check_name

__all__ = ["Status", "SweepFolder", "Workspace"]

_SCHEMA = 1

SweepState = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Status:
    """What a sweep has come to."""

    name: str
    state: SweepState  # failed: as many trials failed as its budget allows
    asked: int  # trials that are to be complete
    objectives: tuple[Objective, ...]
    trials: list[TrialRecord]
    tracking_uri: str

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


class SweepFolder:
    """The folder of one sweep that exists.

    Raises:
        InputError: its record cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.journal = path / "study.journal"
        self.trials = path / "trials"
        self.ray = path / "ray"
        try:
            self.record: dict[str, Any] = json.loads((path / "sweep.json").read_text("utf-8"))
            if self.record["schema"] != _SCHEMA:
                raise InputError(f"sweep {self.name!r}: made by another version of rsas")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"sweep {self.name!r}: {path / 'sweep.json'} cannot be read ({error})"
            ) from None

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Of the experiment."""
        return tuple(Objective(**o) for o in self.record["experiment"]["objectives"])

    def read_histories(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials, each with the rows of its history."""
        return [
            dataclasses.replace(trial, rows=TrialFolder(self.trials / trial.trial_id).rows())
            for trial in trials
        ]

    def status(self, *, mine: bool = False) -> Status:
        """What the book says, and whether somebody runs the sweep.

        Args:
            mine: this process holds the lock, and asks what the sweep would be without it.
        """
        from rsas.search.book import Book

        budget = self.record["experiment"]["budget"]
        trials = Book(self.journal).trials(self.objectives) if self.journal.exists() else []
        states = [trial.state for trial in trials]
        state: SweepState = "interrupted"
        if not mine and self._is_locked():
            state = "running"
        elif states.count("complete") >= budget["trials"]:
            state = "finished"
        elif states.count("failed") >= budget["failures"]:
            state = "failed"
        return Status(
            name=self.name,
            state=state,
            asked=budget["trials"],
            objectives=self.objectives,
            trials=trials,
            tracking_uri=self.record["tracking_uri"],
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that runs the sweep.

        The operating system drops the lock when the process ends, however it ends.

        Raises:
            InputError: another process runs it.
        """
        with (self.path / "lock").open("a+") as file:
            if not _lock(file):
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
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


class Workspace:
    """A folder of sweeps; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()

    def check_writable(self) -> None:
        """Try to write where the workspace is or would be, and leave nothing there.

        Raises:
            InputError: it is not possible.
        """
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise InputError(
                f"workspace {str(self.path)!r}: cannot write in {str(place)!r} "
                f"({error.strerror or error}); --workspace or RSAS_WORKSPACE names another folder"
            ) from None

    def check_free(self, name: str) -> None:
        """Refuse a name that is taken or is no name.

        Raises:
            InputError: so it is.
        """
        check_name(name)
        if (self.path / name).exists():
            hint = (
                f"'rsas resume {name}' goes on with it"
                if (self.path / name / "sweep.json").exists()
                else "it is not a sweep"
            )
            raise InputError(
                f"sweep name {name!r} is taken in workspace {str(self.path)!r}: {hint}; --name "
                "gives another"
            )

    def create(self, name: str, record: dict[str, Any]) -> SweepFolder:
        """Make the folder of a sweep, whole or not at all.

        Raises:
            InputError: the name is taken.
        """
        self.check_free(name)
        self.path.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.path))
        try:
            partial.chmod(0o755)
            text = json.dumps({"schema": _SCHEMA, **record}, indent=2)
            (partial / "sweep.json").write_text(text + "\n", "utf-8")
            partial.rename(self.path / name)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise InputError(f"sweep {name!r}: cannot make its folder ({error})") from None
        return SweepFolder(self.path / name)

    def open(self, name: str) -> SweepFolder:
        """The folder of a sweep that exists.

        Raises:
            InputError: there is no sweep of this name.
        """
        if not (self.path / name / "sweep.json").is_file():
            names = ", ".join(self.names()) or "none"
            raise InputError(
                f"no sweep {name!r} in workspace {str(self.path)!r}; there is: {names}"
            )
        return SweepFolder(self.path / name)

    def names(self) -> list[str]:
        """Names of the sweeps, oldest first.

        Raises:
            InputError: the workspace is not a folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"workspace {str(self.path)!r} is not a folder")
        records = [
            path for path in self.path.glob("*/sweep.json") if not path.parent.name.startswith(".")
        ]
        return [path.parent.name for path in sorted(records, key=lambda p: p.stat().st_mtime)]


def _lock(file: IO[str]) -> bool:
    """Lock a file for this process alone; 'rsas status' may hold it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False
