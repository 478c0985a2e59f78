"""Retention: which files of the trials a sweep keeps on its storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rsas.errors import StorageError, first_line
from rsas.follower import Follower
from rsas.pareto import front
from rsas.records import Objective, TrialRecord, trial_id
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import TrialDir
from rsas.sweep.study.study import Study

__all__ = ["Retention"]


class Retention(Follower):
    """The thread that keeps a sweep's storage in line with its study.

    The storage holds the records of all trials and the models of the front. Trials that ended have
    no checkpoints.

    Args:
        storage: of the sweep.
        study: of the sweep, read on the thread.
        objectives: of the sweep.
        say: shows the user a message, once, when the storage cannot be written.
    """

    def __init__(
        self,
        storage: FileStore,
        study: Study,
        objectives: Sequence[Objective],
        say: Callable[[str], None],
    ) -> None:
        self._trials, self._models = storage / "trials", storage / "models"
        self._study, self._objectives, self._say = study, objectives, say
        self._has_warned = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retention")

    def begin(self, trial: TrialRecord) -> None:
        self.change(trial.number)

    def change(self, number: int) -> None:
        """Copy the data of a trial from the study to the trial's folder."""
        self._thread.submit(self._attempt, lambda: self._record(number))

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        self._thread.submit(self._attempt, lambda: self._end(trial, trials))

    def close(self, trials: Sequence[TrialRecord]) -> None:
        """Finish all remaining work, including that of an earlier process; end the thread."""
        self._thread.submit(self._attempt, lambda: self._tidy(trials))
        self._thread.shutdown()

    def _record(self, number: int) -> None:
        self._trial_dir(trial_id(number)).set_record(self._study.to_dict(number))

    def _end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        self._record(trial.number)
        self._trial_dir(trial.trial_id).clear()
        self._keep_models(trials)

    def _tidy(self, trials: Sequence[TrialRecord]) -> None:
        contents = self._trials.read_all([f"{trial.trial_id}/trial.json" for trial in trials])
        for trial, content in zip(trials, contents, strict=True):
            record = self._study.to_dict(trial.number)
            if content != self._trial_dir(trial.trial_id).record_bytes(record):
                self._record(trial.number)
            if trial.state != "running":
                self._trial_dir(trial.trial_id).clear()
        self._keep_models(trials)

    def _keep_models(self, trials: Sequence[TrialRecord]) -> None:
        members = {trial.trial_id for trial in front(trials, self._objectives)}
        ended = {trial.trial_id for trial in trials if trial.state != "running"}
        for name in self._models.names():
            if name in ended - members:
                self._models.delete(name)

    def _trial_dir(self, trial: str) -> TrialDir:
        return TrialDir(self._trials / trial)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (StorageError, OSError) as error:
            if not self._has_warned:
                self._has_warned = True
                self._say(first_line(error))
