"""Hand out the trials that the study lacks, and stop those that cannot win. No Ray."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rsas.columns import metrics_of
from rsas.errors import Halted, reason_of
from rsas.pruning import acting_key
from rsas.records import trial_id as name_of
from rsas.sweep.execute.worker import NOTES, OUTCOME, REASON, ROWS, Outcome
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.trial_dir import History
from rsas.sweep.study.study import Rung, Study
from rsas.sweep.suggest.halving import Halving

__all__ = ["FINISHED", "Dispatcher", "Listener"]

FINISHED = "FINISHED"
"""There is no further trial."""


class Listener(Protocol):
    """Hears what becomes of trials."""

    def begin(self, number: int) -> None:
        """A trial is handed out, or goes on."""

    def rows(self, number: int, rows: list[dict[str, float]]) -> None:
        """A trial has trained these epochs."""

    def change(self, number: int) -> None:
        """The study holds something new of a trial that runs."""

    def end(self, number: int) -> None:
        """The study has been told the end of a trial."""

    def note(self, number: int, line: str) -> None:
        """Something happened to a trial that the user should know."""

    def cut_off(self, number: int, device_seconds: float, line: str) -> None:
        """A trial does not answer; its process is ended, and with it an epoch of these seconds."""

    def tick(self) -> None:
        """Time passes: called some times a second.

        Raises:
            Halted: the sweep cannot go on.
        """


@dataclass
class _Running:
    number: int
    seconds: float  # trained so far, in earlier launches, too
    since: float | None = None  # when it began or last reported, by the dispatcher's clock
    stopped: bool = False  # by the scheduler
    told: tuple[Any, ...] = ()  # the result that was told last


class Dispatcher:
    """First the trials the study has as running with nobody running them, then new ones.

    Args:
        study: asked for suggestions and told the results.
        experiment: its budget says what the study is to hold in the end; failures before this
            launch do not count.
        halving: decides at rungs; None stops no trial.
        slots: trials that may run at once.
        hours: for which the sweep ran before this launch.
        listener: hears what becomes of trials.
        history: what was trained of a trial so far, by its number.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        study: Study,
        experiment: Experiment,
        *,
        halving: Halving | None,
        slots: Callable[[], int],
        hours: float,
        listener: Listener,
        history: Callable[[int], History],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._budget, self._slots = study, experiment.budget, slots
        self._objectives = experiment.objectives
        self._devices = experiment.resources.devices
        self._halving = halving
        self._listener, self._history, self._clock = listener, history, clock
        self._ended = study.ended()
        self._failed_before = self._ended["failed"]
        # Of trials that ended, and of epochs that were cut off.
        self._device_seconds = study.device_seconds() + sum(
            launch.cut_off for launch in study.launches()
        )
        self._orphans = deque(study.unfinished())
        self._running: dict[str, _Running] = {}  # by the key that the caller gave
        self._began = clock() - 3600 * hours
        self._limit_since: float | None = None  # when a limit was reached
        self._slowest = 0.0  # seconds of an epoch, in this launch
        self._is_cut_off = False
        self._judged: dict[tuple[int, int], bool] = {}  # (number, rung) -> whether it is stopped
        for rung in study.rungs():
            self._judged[rung.number, rung.rung] = rung.stops
            if halving is not None and rung.rung in halving.rungs:
                halving.record(rung.rung, rung.number, rung.values)
        self.halted = ""
        """Why the sweep cannot go on; empty while it can."""

    def suggest(self, key: str) -> dict[str, Any] | str | None:
        """Return a trial to run, None while there is none to begin, or FINISHED.

        Args:
            key: by which the caller names the trial from now on.
        """
        while True:
            if self._lacking() <= len(self._running):
                return None if self._running else FINISHED
            if len(self._running) >= self._slots():
                return None
            try:
                found = self._next()
            except (Halted, OSError) as error:  # of the study, or of the storage
                self.halted = self.halted or str(error)
                continue
            if found is not None:
                self._running[key], config = found
                return config

    def judge(self, key: str, result: dict[str, Any]) -> bool:
        """Tell whether a trial is to be stopped; asked at each of its results but the last."""
        run = self._running[key]
        if self.halted or self._limit(besides=run):
            return True
        try:
            run.stopped = self._is_beaten(run.number, result.get(ROWS, []))
        except (Halted, OSError) as error:
            self.halted = self.halted or str(error)
        return run.stopped or bool(self.halted)

    def start(self, key: str) -> None:
        """Count the time of a trial from now on: it has a process."""
        self._running[key].since = self._clock()

    def watch(self) -> bool:
        """Look after trials that do not answer; called some times a second.

        Returns:
            Whether all that runs is to be ended: a limit is reached, or the sweep halted, and the
            budget's overtime has passed since.
        """
        try:
            self._listener.tick()
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
                f"'rsas {command}' goes on from its last checkpoint"
            )
            for run in self._running.values():
                seconds = self._seconds_since_report(run)
                self._listener.cut_off(run.number, seconds * self._devices, line)
        return True

    def report(self, key: str, result: dict[str, Any]) -> None:
        """Take a result that is not a trial's last."""
        self._tell(self._running[key], result)

    def end(self, key: str, result: dict[str, Any] | None = None, *, died: bool = False) -> None:
        """Take the last result of a trial; ``died`` where its process is gone."""
        run = self._running.pop(key)
        try:
            self._end(run, result or {}, died)
        except Halted as failure:
            self.halted = self.halted or str(failure)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything: Tune pickles what it is given into files that nobody reads."""
        return {}

    def _end(self, run: _Running, result: dict[str, Any], died: bool) -> None:
        self._tell(run, result)
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
            self._study.complete(run.number, metrics_of(result[ROWS][-1]), spent)
        else:
            self._device_seconds += spent  # the study still has it as running, for a resume
            return
        self._count(run.number)

    def _lacking(self) -> int:
        """How many trials are to be run yet, those that run included."""
        failed = self._ended["failed"] - self._failed_before
        if self.halted or self._limit() or failed >= self._budget.failures:
            return 0
        return self._budget.trials - self._ended["complete"] - self._ended["pruned"]

    def _limit(self, besides: _Running | None = None) -> str:
        """Return the limit of time that is reached, or nothing.

        Args:
            besides: a trial that is reporting now; its seconds since the last report do not count.
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
        """A trial and what its worker is given; None if it ended before it was run."""
        is_orphan = bool(self._orphans)
        number = self._orphans.popleft() if is_orphan else self._study.begin()
        try:
            config = self._study.config(number)
        except Halted:
            raise
        except Exception as error:  # of the space, which is the user's
            self._listener.begin(number)
            self._study.fail(number, f"the search space: {reason_of(error)}")
            self._count(number)
            return None
        same = self._study.note_key(number, acting_key(config))
        self._listener.begin(number)
        if same is not None:
            self._study.repeat(number, same)
            self._count(number)
            return None
        trained = self._history(number) if is_orphan else History([], 0, 0.0)
        if self._is_beaten(number, trained.rows):  # at a rung that was never judged
            last = max(e for (n, e), stops in self._judged.items() if n == number and stops)
            self._study.prune(number, last, trained.seconds * self._devices)
            self._count(number)
            return None
        run = _Running(number, trained.seconds)
        return run, {"trial": name_of(number), "train": config.to_dict()}

    def _is_beaten(self, number: int, rows: list[dict[str, float]]) -> bool:
        """Judge a trial at the rungs it has come to, each once; the study keeps the verdict."""
        if self._halving is None or not rows:
            return False
        reached = rows[-1]["epoch"]
        by_epoch = {round(row["epoch"]): row for row in rows}
        for rung in self._halving.rungs:
            if rung > reached:
                break
            if (number, rung) not in self._judged:
                if rung not in by_epoch:  # trained by a process that died before it told
                    by_epoch |= {round(row["epoch"]): row for row in self._history(number).rows}
                if rung not in by_epoch:
                    continue
                values = [by_epoch[rung][name] for name in self._halving.names]
                stops = not self._halving.keeps(rung, number, values)
                self._study.note_rung(Rung(number, rung, values, stops))
                self._judged[number, rung] = stops
                self._listener.change(number)
            if self._judged[number, rung]:
                return True
        return False

    def _tell(self, run: _Running, result: dict[str, Any]) -> None:
        """Pass on what is new in a result; Tune gives the last one again at the end."""
        mark = (result.get("pid"), result.get("training_iteration"))
        if run.told == mark:
            return
        run.told = mark
        for line in result.get(NOTES, []):
            self._listener.note(run.number, line)
        rows = [metrics_of(row) for row in result.get(ROWS, [])]
        run.seconds += sum(row["seconds"] for row in rows)
        run.since = self._clock()
        self._slowest = max([self._slowest, *(row["seconds"] for row in rows)])
        if rows:
            self._listener.rows(run.number, rows)

    def _count(self, number: int) -> None:
        """A trial has ended, as the study tells."""
        trial = self._study.trial(number, self._objectives)
        self._ended[trial.state] += 1
        self._device_seconds += trial.device_seconds
        self._listener.end(number)
