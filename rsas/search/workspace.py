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
from rsas.search.experiment import Budget, check_name

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
            self.objectives = tuple(
                Objective(**objective) for objective in self.record["experiment"]["objectives"]
            )
            self.budget = Budget(**self.record["experiment"]["budget"])
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"sweep {self.name!r}: {path / 'sweep.json'} cannot be read "
                f"({type(error).__name__}: {error})"
            ) from None

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

        # Without a line in it, the process was killed before it had begun the book.
        begun = self.journal.exists() and self.journal.stat().st_size > 0
        trials = Book(self.journal).trials(self.objectives) if begun else []
        states = [trial.state for trial in trials]
        state: SweepState = "interrupted"
        if not mine and self._is_locked():
            state = "running"
        elif states.count("complete") >= self.budget.trials:
            state = "finished"
        elif states.count("failed") >= self.budget.failures and "running" not in states:
            state = "failed"
        return Status(
            name=self.name,
            state=state,
            asked=self.budget.trials,
            objectives=self.objectives,
            trials=trials,
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that runs the sweep.

        The operating system drops the lock when the process ends, however it ends.

        Raises:
            InputError: another process runs it.
        """
        try:
            file = (self.path / "lock").open("a+")
        except OSError as error:
            raise InputError(f"sweep {self.name!r}: cannot write there ({error})") from None
        with file:
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
        except BlockingIOError:
            return True
        except OSError:  # never locked, or not ours to look at
            return False
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
        try:
            while not place.exists() and place != place.parent:
                place = place.parent
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
        if name in ("mlflow.db", "artifacts"):
            raise InputError(f"sweep name {name!r} is kept for MLflow's files; --name another")
        if (self.path / name).exists():
            sweep = (self.path / name / "sweep.json").exists()
            hint = f"'rsas resume {name}' goes on with it" if sweep else "it is not a sweep"
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
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise InputError(f"sweep {name!r}: cannot make its folder ({error})") from None
        return SweepFolder(self.path / name)

    def open(self, name: str) -> SweepFolder:
        """The folder of a sweep that exists.

        Raises:
            InputError: there is no sweep of this name, or it cannot be read.
        """
        names = self.names()
        if name not in names:
            raise InputError(
                f"no sweep {name!r} in workspace {str(self.path)!r}; there is: "
                f"{', '.join(names) or 'none'}"
            )
        return SweepFolder(self.path / name)

    def names(self) -> list[str]:
        """Names of the sweeps, oldest first.

        Raises:
            InputError: the workspace is not a folder that can be read.
        """
        try:
            if not self.path.exists():
                return []
            records = [
                folder / "sweep.json"
                for folder in self.path.iterdir()
                if not folder.name.startswith(".") and (folder / "sweep.json").is_file()
            ]
            records.sort(key=lambda path: path.stat().st_mtime)
        except NotADirectoryError:
            raise InputError(f"workspace {str(self.path)!r} is not a folder") from None
        except OSError as error:
            raise InputError(f"workspace {str(self.path)!r} cannot be read ({error})") from None
        return [path.parent.name for path in records]


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
