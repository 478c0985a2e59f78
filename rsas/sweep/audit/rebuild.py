"""Make a damaged journal anew, of its whole part and of the trials' own records."""

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
from rsas.sweep.suggest.space import fields_of

__all__ = ["rebuild"]


def rebuild(
    journal: Path,
    records: Mapping[int, Mapping[str, Any]],
    experiment: Experiment,
    *,
    record: dict[str, Any] | None = None,
    lease: Lease | None = None,
) -> list[str]:
    """Make a damaged journal anew, of its whole part and of the trials' own records.

    The damaged file is kept aside as ``.damaged``.

    Args:
        journal: the file.
        records: ``Study.to_dict`` of the trials, by number, as kept in their folders.
        experiment: what is searched.
        record: of the sweep, where the journal has lost it.
        lease: of this process, which the new file is to have from the beginning.

    Returns:
        Lines that say what was done and what is lost.
    """
    whole, launches, queue, noted = _whole_part(journal)
    record = noted or record
    damaged = aside(journal)
    each = [*whole.values(), *records.values()]
    known = {number for trial in each for number in trial.get("known", [])}
    partial = journal.with_name(f".{journal.name}.partial")
    partial.unlink(missing_ok=True)
    if lease is not None:
        Journal(partial).put(lease, over=None)
    made = Study(partial, experiment)
    lines, lost = [f"{journal} is damaged, kept aside as {damaged.name}"], []
    for number in range(max([*whole, *records], default=-1) + 1):
        kept, found = whole.get(number), records.get(number)
        # A record is written after the study: where both are there, it may be the older one.
        under_way = ("WAITING", "RUNNING")
        if found is None or (kept is not None and kept["state"] not in under_way):
            found = kept
        elif kept is not None:
            parts = ("params", "distributions", "user_attrs", "system_attrs")
            found = {**found, **{part: {**kept[part], **found[part]} for part in parts}}
        if found is not None and found is not kept:
            found = _confirmed(found, kept, experiment)
        if found is None and number in known:
            found = {"state": "FAIL", "user_attrs": {KNOWN: "lost"}}
        elif found is None:
            lost.append(trial_id(number))
            found = {"state": "FAIL", "user_attrs": {REASON: "lost with the damaged study"}}
        made.optuna_study.add_trial(from_dict(found, len(experiment.objectives)))
    for index, launch in enumerate(launches):
        made.note_launch(index, launch)
    if record is not None:
        made.note_record(record)
        queue = queue or record.get("enqueued", [])
    made.enqueue(queue)
    count = len(made.optuna_study.trials)
    if journal.exists():  # and stays until there is a whole one
        shutil.copy2(journal, damaged)
    partial.replace(journal)
    lines.append(f"the study is made anew of {count} trials' records")
    if lost:
        lines.append(f"nothing is known any more of {', '.join(lost)}: told as failed")
    return lines


def _confirmed(
    record: Mapping[str, Any], kept: Mapping[str, Any] | None, experiment: Experiment
) -> dict[str, Any]:
    """Return a trial's record with such fields only as the study or the space confirms.

    Records may lie on a storage that others can write, and fields may name code to be run. The
    space is asked again for the fields of a trial that is left without.
    """
    attributes = dict(record["user_attrs"])
    told, noted = attributes.pop(FIELDS, None), kept and kept["user_attrs"].get(FIELDS)
    if noted is None and told is not None:
        # The space may have changed: it raises then, or Optuna warns.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = FixedTrial(record["params"], number=record["number"])
            noted = told if fields_of(experiment, trial) == told else None
    return {**record, "user_attrs": attributes if noted is None else {**attributes, FIELDS: noted}}


def _whole_part(
    journal: Path,
) -> tuple[dict[int, dict[str, Any]], list[Launch], list[dict[str, Any]], dict[str, Any] | None]:
    """What the lines before the first damaged one tell."""
    partial = journal.with_name(f".{journal.name}.whole")
    try:
        partial.write_bytes(b"".join(whole_lines(journal)))
        study = Study(partial)
        trials = {trial.number: study.to_dict(trial.number) for trial in study.optuna_study.trials}
        return trials, study.launches(), study.queue(), study.record()
    except InputError:  # not even its beginning is there
        return {}, [], [], None
    finally:
        partial.unlink(missing_ok=True)
