"""Hand out the trials that the study lacks, and stop those that cannot win. Needs no Ray."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rsas.errors import Halted, reason_of
from rsas.follower import Follower
from rsas.pruning import effective_key
from rsas.records import TrialRecord, trial_id
from rsas.sweep.execute.worker import NOTES, OUTCOME, REASON, ROWS, Outcome
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.trial_dir import History
from rsas.sweep.study.study import Rung, Study
from rsas.sweep.suggest.halving import Halving

__all__ = ["FINISHED", "Dispatcher"]

FINISHED = "FINISHED"
"""The value that ``suggest`` returns when no further trial is needed."""


@dataclass
class _Running:
    number: int
    seconds: float  # trained so far, including earlier launches
    since: float | None = None  # of its start or last report, by the dispatcher's clock
    stopped: bool = False  # by the scheduler
    last_result: tuple[Any, ...] = ()  # identifies the result that was passed on last


class Dispatcher:
    """The source of trials: first the unfinished ones of earlier launches, then new ones.

    Args:
        study: gives suggestions and stores results.
        experiment: its budget sets how many trials the study is to hold; failures before this
            launch do not count.
        halving: decides at rungs; None stops no trial.
        slots: returns the number of trials that may run at once.
        hours: running time of the sweep before this launch.
        follower: receives the events of the sweep.
        history: returns the training history of a trial, given its number.
        clock: returns seconds; tests pass their own.
    """

    def __init__(
        self,
        study: Study,
        experiment: Experiment,
        *,
        halving: Halving | None,
        slots: Callable[[], int],
        hours: float,
        follower: Follower,
        history: Callable[[int], History],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._budget, self._slots = study, experiment.budget, slots
        self._objectives = experiment.objectives
        self._devices = experiment.resources.devices
        self._halving = halving
        self._follower, self._history, self._clock = follower, history, clock
        trials = study.trials(self._objectives)
        self._trials = {trial.number: trial for trial in trials}
        self._orphans = deque(trial.number for trial in trials if trial.state == "running")
        ended = [trial for trial in trials if trial.state != "running"]
        self._ended = Counter(trial.state for trial in ended)
        self._failed_before = self._ended["failed"]
        # Those of trials that ended, and those of epochs that were cut off.
        self._device_seconds = sum(trial.device_seconds for trial in ended)
        self._device_seconds += sum(launch.cut_off for launch in study.launches())
        self._running: dict[str, _Running] = {}  # by the key that the caller gave
        self._began = clock() - 3600 * hours
        self._limit_since: float | None = None  # the time at which a limit was reached
        self._slowest = 0.0  # longest epoch of this launch, in seconds
        self._is_cut_off = False
        self._judged: dict[tuple[int, int], bool] = {}  # (number, rung) -> the trial is stopped
        for rung in study.rungs():
            self._judged[rung.number, rung.rung] = rung.stops
            if halving is not None and rung.rung in halving.rungs:
                halving.record(rung.rung, rung.number, rung.values)
        self.halted = ""
        """The reason for which the sweep cannot go on; empty while it can."""

    def suggest(self, key: str) -> dict[str, Any] | str | None:
        """Return a trial to run, None while none can start, or FINISHED.

        Args:
            key: identifies the trial in all later calls.
        """
        while True:
            if self._lacking() <= len(self._running):
                return None if self._running else FINISHED
            if len(self._running) >= self._slots():
                return None
            try:
                started = self._next()
            except (Halted, OSError) as error:  # by the study, or by the storage
                self.halted = self.halted or str(error)
                continue
            if started is not None:
                self._running[key], config = started
                return config

    def judge(self, key: str, result: dict[str, Any]) -> bool:
        """Return whether to stop a trial; called for each of its results but the last."""
        run = self._running[key]
        if self.halted or self._limit(besides=run):
            return True
        try:
            run.stopped = self._is_beaten(run.number, result.get(ROWS, []))
        except (Halted, OSError) as error:
            self.halted = self.halted or str(error)
        return run.stopped or bool(self.halted)

    def start(self, key: str) -> None:
        """Count the time of a trial from now on, as the trial has a process."""
        self._running[key].since = self._clock()

    def watch(self) -> bool:
        """Handle trials that do not answer; called several times per second.

        Returns:
            Whether to end all running trials: a limit was reached, or the sweep halted, and the
            budget's overtime has passed since then.
        """
        try:
            self._follower.tick()
        except Halted as error:
            self.halted = self.halted or str(error)
        now, limit = self._clock(), self._limit()
        if not self._running or not (self.halted or limit):
            self._limit_since = None
            return False
        if self._limit_since is None:
            self._limit_since = now
        waited = now - self._limit_since
        if waited < max(self._budget.overtime, 2 * self._slowest):
            return False
        if not self._is_cut_off:
            self._is_cut_off = True
            after = "the sweep had to stop" if self.halted else f"the limit of {limit}"
            command = "resume" if self.halted else "extend"
            line = (
                f"did not answer for {waited:.0f} s after {after}; its process is ended, and "
                f"'rsas {command}' resumes from its last checkpoint"
            )
            for run in self._running.values():
                seconds = self._seconds_since_report(run)
                self._follower.cut_off(seconds * self._devices)
                self._note(run.number, line)
        return True

    def report(self, key: str, result: dict[str, Any]) -> None:
        """Process a result that is not a trial's last."""
        self._pass_on(self._running[key], result)

    def end(self, key: str, result: dict[str, Any] | None = None, *, died: bool = False) -> None:
        """Process the last result of a trial; ``died`` says that its process is gone."""
        run = self._running.pop(key)
        try:
            self._end(run, result or {}, died)
        except Halted as failure:
            self.halted = self.halted or str(failure)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its objects into files that nobody reads."""
        return {}

    def _end(self, run: _Running, result: dict[str, Any], died: bool) -> None:
        self._pass_on(run, result)
        spent = run.seconds * self._devices
        outcome = result.get(OUTCOME, Outcome.RUNNING)
        if died:
            self._study.fail(run.number, "the process that ran it died", spent)
        elif outcome == Outcome.HALTED:
            self.halted = self.halted or result[REASON]
            return
        elif outcome == Outcome.FAILED:
            self._study.fail(run.number, result[REASON], spent)
        elif run.stopped:
            self._study.prune(run.number, result[ROWS][-1]["epoch"], spent)
        elif outcome == Outcome.COMPLETE:
            self._study.complete(run.number, result[ROWS][-1], spent)
        else:
            self._device_seconds += spent  # in the study, the trial stays running, for a resume
            return
        self._count(run.number)

    def _lacking(self) -> int:
        """Return how many trials the budget still needs, including the running ones."""
        failed = self._ended["failed"] - self._failed_before
        if self.halted or self._limit() or failed >= self._budget.failures:
            return 0
        return self._budget.trials - self._ended["complete"] - self._ended["pruned"]

    def _limit(self, besides: _Running | None = None) -> str:
        """Return the limit of time that is reached, or an empty text.

        Args:
            besides: a trial that reports now; its seconds since the last report do not count.
        """
        running = sum(
            run.seconds + (0.0 if run is besides else self._seconds_since_report(run))
            for run in self._running.values()
        )
        hours = (self._clock() - self._began) / 3600
        return self._budget.exhausted(hours, self._device_seconds + running * self._devices)

    def _seconds_since_report(self, run: _Running) -> float:
        return 0.0 if run.since is None else self._clock() - run.since

    def _next(self) -> tuple[_Running, dict[str, Any]] | None:
        """Return a trial and the configuration for its worker; None if the trial ended at once."""
        is_orphan = bool(self._orphans)
        number = self._orphans.popleft() if is_orphan else self._study.begin()
        try:
            config = self._study.config(number)
        except Halted:
            raise
        except Exception as error:  # by the search space, which is the user's code
            self._announce(number)
            self._study.fail(number, f"the search space: {reason_of(error)}")
            self._count(number)
            return None
        same = self._study.note_key(number, effective_key(config))
        self._announce(number)
        if same is not None:
            self._study.repeat(number, same)
            self._count(number)
            return None
        trained = self._history(number) if is_orphan else History([], 0, 0.0)
        if self._is_beaten(number, trained.rows):  # at a rung that no process judged before
            last = max(e for (n, e), stops in self._judged.items() if n == number and stops)
            self._study.prune(number, last, trained.seconds * self._devices)
            self._count(number)
            return None
        run = _Running(number, trained.seconds)
        return run, {"trial": trial_id(number), "train": config.to_dict()}

    def _is_beaten(self, number: int, rows: list[dict[str, float]]) -> bool:
        """Judge a trial at each rung it has reached, once; the study stores the decision."""
        if self._halving is None or not rows:
            return False
        reached = rows[-1]["epoch"]
        by_epoch = {round(row["epoch"]): row for row in rows}
        for rung in self._halving.rungs:
            if rung > reached:
                break
            if (number, rung) not in self._judged:
                if rung not in by_epoch:  # the process that trained it died before its report
                    by_epoch |= {round(row["epoch"]): row for row in self._history(number).rows}
                if rung not in by_epoch:
                    continue
                values = [by_epoch[rung][name] for name in self._halving.names]
                stops = not self._halving.keeps(rung, number, values)
                self._study.note_rung(Rung(number, rung, values, stops))
                self._judged[number, rung] = stops
                self._follower.change(number)
            if self._judged[number, rung]:
                return True
        return False

    def _pass_on(self, run: _Running, result: dict[str, Any]) -> None:
        """Pass on the news of a result, once; Tune repeats the last result at the end."""
        identity = (result.get("pid"), result.get("training_iteration"))
        if run.last_result == identity:
            return
        run.last_result = identity
        for line in result.get(NOTES, []):
            self._note(run.number, line)
        rows = result.get(ROWS, [])
        run.seconds += sum(row["seconds"] for row in rows)
        run.since = self._clock()
        self._slowest = max([self._slowest, *(row["seconds"] for row in rows)])
        if rows:
            self._follower.rows(run.number, rows)

    def _count(self, number: int) -> None:
        """Count a trial that has ended in the study, and pass its end on."""
        trial = self._update(number)
        self._ended[trial.state] += 1
        self._device_seconds += trial.device_seconds
        self._follower.end(trial, list(self._trials.values()))

    def _announce(self, number: int) -> None:
        self._follower.begin(self._update(number))

    def _note(self, number: int, line: str) -> None:
        self._follower.note(f"{trial_id(number)}: {line}")

    def _update(self, number: int) -> TrialRecord:
        """Read one trial of the study; the records of the others are kept."""
        trial = self._trials[number] = self._study.trial(number, self._objectives)
        return trial
