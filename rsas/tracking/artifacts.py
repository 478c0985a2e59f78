"""Make the pages of a sweep in MLflow: provenance, data set, front and report."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rsas.analysis.plots import front_figure
from rsas.analysis.style import to_html
from rsas.analysis.trials import Sweep, trials_frame
from rsas.fields import is_number
from rsas.pareto import front, hypervolume, knee
from rsas.records import Objective, TrialRecord
from rsas.redact import redact

if TYPE_CHECKING:  # seconds to import
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient

__all__ = [
    "author",
    "dataset_input",
    "log_front",
    "log_provenance",
    "redacted",
    "report_page",
    "run_name",
]

_SHORT = {"sparsity": "s", "measure_lr": "a", "lr": "lr"}
_PARTS = 4  # parameters in a name: a table shows such a name in full


def run_name(trial: TrialRecord) -> str:
    """Return a name such as ``s0.93 a0.012 #7``, from the first parameters and the trial's number.

    ``s`` is the sparsity and ``a`` the measure learning rate. Other numbers follow the initials of
    their parameter's name. Choices appear without a name.
    """
    parts = []
    for name, value in list(trial.params.items())[:_PARTS]:
        if is_number(value):
            initials = "".join(word[0] for word in name.split("_") if word)
            parts.append(f"{_SHORT.get(name, initials)}{value:.3g}")
        else:
            parts.append(redact(str(value)))
    return " ".join([*parts, f"#{trial.number}"])


def author() -> dict[str, str]:
    """Return the tags that MLflow's pages show as creator and source of a run."""
    tags = {"mlflow.source.name": "rsas"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def log_provenance(client: MlflowClient, run: str, provenance: Mapping[str, Any]) -> None:
    """Log the commit as MLflow shows it, and the environment as a file.

    Args:
        client: of the tracking server.
        run: of the sweep.
        provenance: as ``rsas.sweep.provenance`` returned it.
    """
    client.log_dict(run, redacted(provenance), "environment.json")
    tags = {"mlflow.source.name": redact(provenance["source"]), "mlflow.source.type": "LOCAL"}
    if provenance["commit"]:
        tags["mlflow.source.git.commit"] = provenance["commit"]
        tags["rsas.dirty"] = str(provenance["dirty"]).lower()
    for name, value in tags.items():
        client.set_tag(run, name, value)


def dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """Return an input of a run from ``rsas.data.describe``."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=redact(data["name"]),
        digest=data["digest"],
        source_type="local",
        source=json.dumps({"name": redact(data["name"])}),
        profile=json.dumps({"train": data["train"], "test": data["test"]}),
        schema=json.dumps({"input_shape": data["input_shape"], "classes": data["num_classes"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def log_front(
    client: MlflowClient,
    run: str,
    sweep: str,
    trials: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    runs: Mapping[str, str],
) -> None:
    """Log the front as files, as a picture, and in the description at the top of the run's page.

    Args:
        client: of the tracking server.
        run: of the sweep.
        sweep: name of the sweep.
        trials: the complete ones, at least one.
        objectives: of the sweep.
        runs: MLflow's identifier of each trial's run, by ``trial_id``.
    """
    trials = _without_secrets(trials)
    members = front(trials, objectives)
    entries = [
        {
            "trial_id": trial.trial_id,
            "run_id": runs[trial.trial_id],
            "params": trial.params,
            "objectives": trial.objectives,
        }
        for trial in members
    ]
    client.log_dict(run, {"front": entries}, "pareto/front.json")
    client.log_text(run, trials_frame(members).to_csv(index=False), "pareto/front.csv")
    client.log_text(run, trials_frame(trials).to_csv(index=False), "pareto/trials.csv")
    title = f"{sweep}: front of {len(trials)} trials"
    client.log_text(run, to_html(front_figure(trials, objectives, title)), "pareto/front.html")
    middle = knee(trials, objectives)
    assert middle is not None
    rows = [
        {
            "trial": f"**{trial.trial_id}** (knee)" if trial is middle else trial.trial_id,
            **trial.objectives,
            "run": run_name(trial),
        }
        for trial in members
    ]
    note = (
        f"{title}, hypervolume {hypervolume(trials, objectives):.4f}. The picture is the artifact "
        "`pareto/front.html`; a finished sweep also has `report.html`. The trials are the runs "
        "below this one; `tags.\"rsas.pareto\" = 'true'` finds the members of the front.\n\n"
    )
    client.set_tag(run, "mlflow.note.content", note + _markdown(rows))
    client.set_tag(run, "rsas.knee", middle.trial_id)


def report_page(sweeps: Sequence[Sweep]) -> str:
    """Return the page of ``rsas report``, without secrets."""
    from rsas.analysis.report import report

    return report(
        [
            dataclasses.replace(
                sweep, experiment=redacted(sweep.experiment), trials=_without_secrets(sweep.trials)
            )
            for sweep in sweeps
        ]
    )


def redacted(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with the secrets in their texts hidden; keys and numbers stay."""
    return {name: _hidden(item) for name, item in value.items()}


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, (list, tuple)):
        return [_hidden(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _without_secrets(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Hide secrets before figures and tables format the values."""
    return [
        dataclasses.replace(trial, params=redacted(trial.params), reason=redact(trial.reason))
        for trial in trials
    ]


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of rows with the same keys."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"

    table = line(rows[0]) + line("---" for _ in rows[0])
    for row in rows:
        table += line(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values())
    return table
