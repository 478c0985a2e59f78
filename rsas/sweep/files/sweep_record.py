"""The record of a sweep, ``sweep.json``: the experiment, and where all parts of the sweep are."""

from __future__ import annotations

import json
import os
from typing import Any

from rsas.errors import InputError
from rsas.redact import is_redacted, without_passwords
from rsas.sweep.experiment import Experiment

__all__ = [
    "SCHEMA",
    "VARIABLES",
    "OtherStudy",
    "OtherVersion",
    "experiment_in",
    "known_uri",
    "to_json",
]

SCHEMA = 1
VARIABLES = {"tracking_uri": "MLFLOW_TRACKING_URI", "study_storage": "RSAS_STUDY_STORAGE"}
"""URIs of a record -> environment variables that have them with their passwords."""

_TEXT, _TEXT_OR_NULL = "a text", "a text or null"
_PROVENANCE = "an object with source, commit and dirty"
_DATA = "an object with name, digest, train, test, input_shape and num_classes"
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
    "defined": "an object with axes",
    "provenance": _PROVENANCE,
}
_CHANGES = "a list of objects with time and what"


class OtherVersion(InputError):
    """Another version of rsas wrote the record."""


class OtherStudy(InputError):
    """The study can be read, but does not belong to the record."""


def experiment_in(record: Any) -> Experiment:
    """Return the experiment of a record that ``rsas sweep`` has written.

    Its search space cannot be sampled: the space is code, and the record has only its name.

    Raises:
        OtherVersion: another version of rsas wrote the record.
        InputError: a field is missing or of a wrong type, or the experiment is not valid.
    """
    if not isinstance(record, dict):
        raise InputError("expected an object, as 'rsas sweep' writes it")
    if isinstance(record.get("schema"), int) and record["schema"] != SCHEMA:
        raise OtherVersion("made by another version of rsas")
    for name, kind in _FIELDS.items():
        if not _is(record.get(name), kind):
            raise InputError(f"{name}={record.get(name)!r}: expected {kind}")
    if not _is(changes := record.get("changes", []), _CHANGES):
        raise InputError(f"changes={changes!r}: expected {_CHANGES}")
    data = record["experiment"].get("data")
    if record["experiment"].get("train") is None and not _is(data, _DATA):
        raise InputError(f"experiment: data={data!r}: expected {_DATA}")
    try:
        has_loop = record["experiment"].get("train") is not None
        return Experiment.from_dict(record["experiment"], _unknown, _unknown if has_loop else None)
    except KeyError as error:
        raise InputError(f"experiment: {error} is missing") from None
    except (TypeError, AttributeError, ValueError) as error:  # an InputError is a ValueError
        raise InputError(f"experiment: {error}") from None


def known_uri(recorded: str, variable: str) -> str:
    """Return the URI of a record with its password, which only the environment has.

    Raises:
        InputError: the environment lacks the URI with its password.
    """
    if not is_redacted(recorded):
        return recorded
    given = os.environ.get(variable, "")
    if without_passwords(given) != recorded:
        raise InputError(
            f"{recorded}: passwords are not kept; set {variable} to this URI with its password"
        )
    return given


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
    if kind in (_PROVENANCE, _DATA):
        keys = kind.removeprefix("an object with ").replace(" and ", ", ").split(", ")
        return isinstance(value, dict) and value.keys() >= set(keys)
    if kind == "an object with axes":
        axes = value.get("axes") if isinstance(value, dict) else None
        return isinstance(axes, dict) and all(isinstance(axis, dict) for axis in axes.values())
    if kind == _CHANGES:
        return isinstance(value, list) and all(
            isinstance(change, dict) and change.keys() == {"time", "what"} for change in value
        )
    item_type = str if kind == "a list of texts" else dict
    return isinstance(value, list) and all(isinstance(item, item_type) for item in value)


def _unknown(_: Any) -> Any:
    raise InputError("the code of this sweep is not loaded")
