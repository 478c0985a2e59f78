"""What a sweep has come to, and whether it is done."""

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

        From the first epoch of each launch to its last one; None before there is one.
        """
        time = sum(each.slot_seconds for each in self.launches)
        trained = sum(each.trained for each in self.launches)
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
        trials: all that the study has.
        launches: all that the study has.
        device_seconds: that the trials have used; read only where the budget limits them.
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
    """For which the sweep has run, its interruptions not counted."""
    return sum(max(each.last - each.began, 0.0) for each in launches) / 3600
