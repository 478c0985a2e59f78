"""The runs of a sweep in MLflow: found by tag, each once.

A server may create a run although its answer is lost, and the request is then sent again. So
there may be several runs of one trial; surplus ones are recognised by their tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsas.tracking.client import search_runs

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = [
    "FRONT_FILES",
    "PARENT",
    "SWEEP_ID",
    "TRIAL_ID",
    "SweepRuns",
    "find",
    "missing_artifacts",
    "tidy",
]

PARENT = "mlflow.parentRunId"
SWEEP_ID = "rsas.sweep_id"  # of the parent run and of the trials' runs
TRIAL_ID = "rsas.trial_id"
FRONT_FILES = {f"pareto/{name}" for name in ("front.json", "front.csv", "front.html", "trials.csv")}


@dataclass(frozen=True)
class SweepRuns:
    """The runs of a sweep."""

    parent: Run | None
    runs: dict[str, Run]  # by trial
    surplus: list[Run]  # further parents, and further runs of a trial

    @property
    def strays(self) -> list[Run]:
        """Runs of trials that are not under the parent."""
        parent = self.parent and self.parent.info.run_id
        return [run for run in self.runs.values() if run.data.tags.get(PARENT) != parent]


def find(client: MlflowClient, sweep_id: str) -> SweepRuns:
    """Find the runs with the tag of a sweep; among several of one trial, choose the fullest.

    The same choice is made among several parent runs.
    """
    groups: dict[str, list[Run]] = {}
    for run in search_runs(client, f"tags.`{SWEEP_ID}` = '{sweep_id}'"):
        groups.setdefault(run.data.tags.get(TRIAL_ID, ""), []).append(run)
    fullest = {trial: max(runs, key=_content) for trial, runs in groups.items()}
    surplus = [run for trial, runs in groups.items() for run in runs if run is not fullest[trial]]
    return SweepRuns(parent=fullest.pop("", None), runs=fullest, surplus=surplus)


def tidy(client: MlflowClient, sweep_id: str) -> SweepRuns:
    """Find the runs of a sweep, mark surplus ones as deleted, and put strays under the parent."""
    runs = find(client, sweep_id)
    for run in runs.surplus:
        client.delete_run(run.info.run_id)
    if runs.parent is not None:
        for run in runs.strays:
            client.set_tag(run.info.run_id, PARENT, runs.parent.info.run_id)
    return runs


def missing_artifacts(client: MlflowClient, parent: Run) -> set[str]:
    """Return the artifacts that a parent run should have by its tags, and that are missing."""
    tags, run = parent.data.tags, parent.info.run_id
    expected = {"experiment.json"} if parent.data.params else set()
    expected |= FRONT_FILES if "rsas.front" in tags else set()
    expected |= {"report.html"} if "rsas.report" in tags else set()
    files = [*client.list_artifacts(run), *client.list_artifacts(run, "pareto")]
    return expected - {file.path for file in files}


def _content(run: Run) -> tuple[float, int]:
    """Return how much a run holds: its epochs, then its number of parameters, metrics and tags."""
    data = run.data
    return data.metrics.get("epoch", 0), len(data.params) + len(data.metrics) + len(data.tags)
