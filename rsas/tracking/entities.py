"""Values of a study as MLflow's entities: metrics, parameters and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsas.records import TrialRecord
from rsas.redact import redact

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import Metric, Param, RunTag

__all__ = ["end_metrics", "end_tags", "params_of", "tags_of"]


def end_tags(trial: TrialRecord, member: bool | None) -> dict[str, str]:
    """Return the tags of a trial that ended; with ``rsas.state`` the whole trial is logged.

    Args:
        trial: the trial; a running one has no such tags.
        member: whether the trial is on the front; None if that is not known.
    """
    if trial.state == "running":
        return {}
    tags = {
        "rsas.reason": redact(trial.reason)[:5000],
        "rsas.same_as": trial.same_as,
        "rsas.pareto": "" if member is None else str(member).lower(),
        "rsas.state": trial.state,
    }
    return {name: text for name, text in tags.items() if text}


def end_metrics(trial: TrialRecord) -> list[Metric]:
    """Return the metrics of a trial that ended; their time is the trial's end."""
    from mlflow.entities import Metric

    if not trial.device_seconds:
        return []
    moment = round(1000 * (trial.finished or 0.0))
    return [Metric("device_seconds", trial.device_seconds, moment, round(trial.epochs))]


def params_of(params: Mapping[str, Any]) -> list[Param]:
    """Return parameters as MLflow's entities, without secrets."""
    from mlflow.entities import Param

    return [Param(name, redact(str(value))) for name, value in params.items()]


def tags_of(tags: Mapping[str, str]) -> list[RunTag]:
    """Return tags as MLflow's entities."""
    from mlflow.entities import RunTag

    return [RunTag(name, text) for name, text in tags.items()]
