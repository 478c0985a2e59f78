"""The record of a sweep, ``sweep.json``: what is searched, and where everything is."""

from __future__ import annotations

import json
from typing import Any

from rsas.errors import InputError
from rsas.search.experiment import Experiment

__all__ = ["SCHEMA", "OtherObjectives", "OtherVersion", "experiment_in", "to_json"]

SCHEMA = 1

_TEXT, _TEXT_OR_NULL = "a text", "a text or null"
_FIELDS = {
    "id": _TEXT,
    "source": _TEXT,
    "data_dir": _TEXT,
    "tracking_uri": _TEXT_OR_NULL,
    "storage": _TEXT_OR_NULL,
    "study_storage": _TEXT_OR_NULL,
    "address": _TEXT_OR_NULL,
    "known": _TEXT_OR_NULL,
    "python_path": "a list of texts",
    "enqueued": "a list of objects",
    "experiment": "an object",
}


class OtherVersion(InputError):
    """The record is of another version of rsas."""


class OtherObjectives(InputError):
    """The record has other objectives than the study of its sweep; neither is damaged."""


def experiment_in(record: Any) -> Experiment:
    """Return the experiment of a record that is as ``rsas sweep`` writes it.

    Its space cannot be asked: that is code, which the record names only.

    Raises:
        InputError: a field is missing or of another kind, or is not a valid experiment.
    """
    if not isinstance(record, dict):
        raise InputError("expected an object, as 'rsas sweep' writes it")
    if isinstance(record.get("schema"), int) and record["schema"] != SCHEMA:
        raise OtherVersion("made by another version of rsas")
    for name, kind in _FIELDS.items():
        if not _is(record.get(name), kind):
            raise InputError(f"{name}={record.get(name)!r}: expected {kind}")
    try:
        return Experiment.from_dict(record["experiment"], _unknown)
    except KeyError as error:
        raise InputError(f"experiment: {error} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:  # an InputError is a ValueError
        raise InputError(f"experiment: {error}") from None


def to_json(record: dict[str, Any]) -> bytes:
    """Return the content of ``sweep.json``."""
    return (json.dumps(record, indent=2) + "\n").encode()


def _is(value: Any, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _TEXT_OR_NULL:
        return value is None or isinstance(value, str)
    if kind == "an object":
        return isinstance(value, dict)
    part = str if kind == "a list of texts" else dict
    return isinstance(value, list) and all(isinstance(each, part) for each in value)


def _unknown(trial: Any) -> dict[str, Any]:
    raise InputError("the space of this sweep is not loaded")
