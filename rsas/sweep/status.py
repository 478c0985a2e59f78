"""The status of a sweep: its trials, its front, and whether the sweep is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rsas.pareto import front, hypervolume
from rsas.records import Objective, TrialRecord
from rsas.sweep.experiment import Budget
from rsas.sweep.study.launch import Launch

__all__ = ["Status", "SweepState", "hours_of", "status_of"]

SweepState = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Status:
    """The state, trials and launches of a sweep."""

    name: str
    state: SweepState  # failed: the number of failed trials has reached the budget's limit
    asked: int  # number of trials that end as complete or stopped early
    objectives: tuple[Objective, ...]
    trials: list[TrialRecord]
    launches: list[Launch] = field(default_factory=list)
    spent: str = ""  # the limit that ended the sweep before all trials were run
    mirrored: bool = True  # false if MLflow lacks results that this process had to log

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials asked for, and of trials in each state."""
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
        """Hypervolume of the front; see ``rsas.pareto.hypervolume``."""
        return hypervolume(self.trials, self.objectives)

    @property
    def device_seconds(self) -> float:
        """Seconds of training times devices, of all trials that ended."""
        return sum(trial.device_seconds for trial in self.trials)

    @property
    def slot_share(self) -> float | None:
        """Share of the time of all slots that was spent in training, in [0, 1].

        Counts the time from the first epoch of each launch to its last one; None before the first
        epoch.
        """
        time = sum(launch.slot_seconds for launch in self.launches)
        trained = sum(launch.trained for launch in self.launches)
        return min(trained / time, 1.0) if time > 0 else None


def status_of(
    name: str,
    objectives: tuple[Objective, ...],
    budget: Budget,
    trials: list[TrialRecord],
    launches: list[Launch],
    *,
    device_seconds: float,
    is_running: bool,
) -> Status:
    """Return the status of a sweep.

    Args:
        name: of the sweep.
        objectives: of the sweep.
        budget: of the sweep.
        trials: all trials of the study.
        launches: all launches of the study.
        device_seconds: used by the trials; matters only if the budget limits device-hours.
        is_running: a process runs the sweep.
    """
    states = [trial.state for trial in trials]
    used = device_seconds + sum(launch.cut_off for launch in launches)
    spent = budget.exhausted(hours_of(launches), used)
    failed_before = launches[-1].failures if launches else 0
    state: SweepState = "interrupted"
    if is_running:
        state = "running"
    elif states.count("complete") + states.count("pruned") >= budget.trials or spent:
        state = "finished"
    elif states.count("failed") - failed_before >= budget.failures and "running" not in states:
        state = "failed"
    return Status(
        name=name,
        state=state,
        asked=budget.trials,
        objectives=objectives,
        trials=trials,
        launches=launches,
        spent=spent,
    )


def hours_of(launches: Sequence[Launch]) -> float:
    """Return the hours for which the sweep has run, without its interruptions."""
    return sum(max(launch.last - launch.began, 0.0) for launch in launches) / 3600
