"""Rebuild a damaged journal from its undamaged lines and the trials' own records."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from rsas.errors import InputError
from rsas.records import trial_id
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.file_store import aside
from rsas.sweep.study.frozen import FIELDS, KNOWN, REASON, from_dict
from rsas.sweep.study.journal import Journal, whole_lines
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.lease import Lease
from rsas.sweep.study.study import Study
from rsas.sweep.suggest.space import run_space

__all__ = ["rebuild"]


def rebuild(
    journal: Path,
    records: Mapping[int, Mapping[str, Any]],
    experiment: Experiment,
    *,
    record: dict[str, Any] | None = None,
    lease: Lease | None = None,
) -> list[str]:
    """Rebuild a damaged journal from its undamaged lines and the trials' own records.

    The damaged file is kept aside as ``.damaged``.

    Args:
        journal: the file.
        records: ``Study.to_dict`` of each trial, by number, as kept in the trials' folders.
        experiment: the experiment of the sweep.
        record: the sweep's record, used if the journal has lost its own copy.
        lease: of this process; the new file has this lease from its first line on.

    Returns:
        Messages that name the repairs and the losses.
    """
    whole, launches, queue, noted = _whole_part(journal)
    record = noted or record
    damaged = aside(journal)
    all_records = [*whole.values(), *records.values()]
    known = {number for trial in all_records for number in trial.get("known", [])}
    partial = journal.with_name(f".{journal.name}.partial")
    partial.unlink(missing_ok=True)
    if lease is not None:
        Journal(partial).put(lease, over=None)
    study = Study(partial, experiment)
    lines, lost = [f"{journal} is damaged, kept aside as {damaged.name}"], []
    for number in range(max([*whole, *records], default=-1) + 1):
        journaled, trial = whole.get(number), records.get(number)
        # The study is written before the trial's record, so the record may be the older one.
        under_way = ("WAITING", "RUNNING")
        if trial is None or (journaled is not None and journaled["state"] not in under_way):
            trial = journaled
        elif journaled is not None:
            parts = ("params", "distributions", "user_attrs", "system_attrs")
            trial = {**trial, **{part: {**journaled[part], **trial[part]} for part in parts}}
        if trial is not None and trial is not journaled:
            trial = _confirmed(trial, journaled, experiment)
        if trial is None and number in known:
            trial = {"state": "FAIL", "user_attrs": {KNOWN: "lost"}}
        elif trial is None:
            lost.append(trial_id(number))
            trial = {"state": "FAIL", "user_attrs": {REASON: "lost with the damaged study"}}
        study.optuna_study.add_trial(from_dict(trial, len(experiment.objectives)))
    for index, launch in enumerate(launches):
        study.note_launch(index, launch)
    if record is not None:
        study.note_record(record)
        queue = queue or record.get("enqueued", [])
    study.enqueue(queue)
    count = len(study.optuna_study.trials)
    if journal.exists():  # copied, not moved: the sweep must have a journal at all times
        shutil.copy2(journal, damaged)
    partial.replace(journal)
    lines.append(f"the study is rebuilt from {count} trials' records")
    if lost:
        lines.append(f"all data of {', '.join(lost)} are lost: counted as failed")
    return lines


def _confirmed(
    record: Mapping[str, Any], journaled: Mapping[str, Any] | None, experiment: Experiment
) -> dict[str, Any]:
    """Return a trial's record with its fields only if the study or the space confirms them.

    Other users may be able to write the storage of the records, and fields may name code that is
    run. Unconfirmed fields are dropped; the resume asks the space for them again.
    """
    attributes = dict(record["user_attrs"])
    claimed = attributes.pop(FIELDS, None)
    fields = journaled and journaled["user_attrs"].get(FIELDS)
    if fields is None and claimed is not None:
        # If the space has changed since, it raises an error, or Optuna warns.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = FixedTrial(record["params"], number=record["number"])
            fields = claimed if run_space(experiment, trial)[1] == claimed else None
    if fields is not None:
        attributes[FIELDS] = fields
    return {**record, "user_attrs": attributes}


def _whole_part(
    journal: Path,
) -> tuple[dict[int, dict[str, Any]], list[Launch], list[dict[str, Any]], dict[str, Any] | None]:
    """Return trials, launches, queue and record from the lines before the first damaged one."""
    partial = journal.with_name(f".{journal.name}.whole")
    try:
        partial.write_bytes(b"".join(whole_lines(journal)))
        study = Study(partial)
        trials = {trial.number: study.to_dict(trial.number) for trial in study.optuna_study.trials}
        return trials, study.launches(), study.queue(), study.record()
    except InputError:  # the lines do not even create the study
        return {}, [], [], None
    finally:
        partial.unlink(missing_ok=True)
