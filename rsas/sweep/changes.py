"""Compare the experiment that a file defines now with the one that a sweep began with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import json_to_distribution

from rsas.errors import InputError
from rsas.sweep.experiment import Experiment
from rsas.sweep.suggest.space import axes

__all__ = ["check_axes", "definition", "differences"]

_NEW = "new trials follow the space as it is now"
_KEPT = "the sweep keeps what it began with"


def definition(experiment: Experiment) -> dict[str, Any]:
    """Return the parts of an experiment that a later process can compare, as JSON types.

    The axes that the space asks for stand for the code of the space.
    """
    return experiment.to_dict() | {"axes": axes(experiment)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a message for each difference: the present value, the former value, the consequence.

    Args:
        then: ``definition`` of the experiment when the sweep began.
        now: ``definition`` of the experiment that the same file defines now.
    """
    lines = []
    for name, was, is_now in _pairs(then["axes"], now["axes"]):
        if was is None:
            change = f"asks for {name} as {_text(is_now)}, a new parameter"
        elif is_now is None:
            change = f"does not ask for {name}, which was {_text(was)}"
        else:
            change = f"asks for {name} as {_text(is_now)}, which was {_text(was)}"
        lines.append(f"the space {change}; {_NEW}")
    for name, was, is_now in _pairs(_flat(then), _flat(now)):
        rule = _NEW if name == "space" else _KEPT
        lines.append(f"{name}: the file has {is_now!r}, and had {was!r}; {rule}")
    return lines


def check_axes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that one study can hold trials of both definitions.

    Raises:
        InputError: the kind, the choices or the scale (linear, logarithmic) of an axis differ.
            Optuna refuses such a parameter in every trial.
    """
    for name, was, is_now in _pairs(then["axes"], now["axes"]):
        if was is not None and is_now is not None and _fixed(was) != _fixed(is_now):
            raise InputError(
                f"the space asks for {name} as {_text(is_now)}, which was {_text(was)}: one study "
                "cannot hold both; undo this change, or begin another sweep"
            )


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the names whose values differ, with both values; None if one side lacks the name."""
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            yield name, then.get(name), now.get(name)


def _flat(defined: Mapping[str, Any]) -> dict[str, Any]:
    """Return all but the axes; each field of a part gets a name such as ``base.epochs``."""
    values: dict[str, Any] = {}
    for name, value in defined.items():
        if name in ("base", "budget", "resources"):
            values |= {f"{name}.{field}": field_value for field, field_value in value.items()}
        elif name != "axes":
            values[name] = value
    return values


def _fixed(axis: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the attributes that Optuna does not let differ between trials."""
    attributes = axis["attributes"]
    return axis["name"], attributes.get("log"), attributes.get("choices")


def _text(axis: Mapping[str, Any]) -> str:
    return str(json_to_distribution(json.dumps(axis)))
