"""How the experiment that a file defines differs from the one that a sweep began with."""

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
    """Return all of an experiment that a later process can compare, as JSON types.

    The code of the space is represented by the axes that the space asks for.
    """
    return experiment.to_dict() | {"axes": axes(experiment)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference: what it is, what it was, and what that means.

    Args:
        then: ``definition`` of the experiment when the sweep began.
        now: ``definition`` of the experiment of the same file now.
    """
    lines = []
    for name, was, is_now in _pairs(then["axes"], now["axes"]):
        if was is None:
            change = f"asks for {name} as {_told(is_now)}, for which it did not ask"
        elif is_now is None:
            change = f"does not ask for {name}, which was {_told(was)}"
        else:
            change = f"asks for {name} as {_told(is_now)}, which was {_told(was)}"
        lines.append(f"the space {change}; {_NEW}")
    for name, was, is_now in _pairs(_flat(then), _flat(now)):
        rule = _NEW if name == "space" else _KEPT
        lines.append(f"{name}: the file has {is_now!r}, and had {was!r}; {rule}")
    return lines


def check_axes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """See that one study can hold trials of both definitions.

    Raises:
        InputError: an axis is of another kind, has other choices, or is logarithmic where it was
            not; Optuna refuses such a parameter in every trial.
    """
    for name, was, is_now in _pairs(then["axes"], now["axes"]):
        if was is not None and is_now is not None and _fixed(was) != _fixed(is_now):
            raise InputError(
                f"the space asks for {name} as {_told(is_now)}, which was {_told(was)}: one study "
                "cannot hold both; undo this change, or begin another sweep"
            )


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names with what differs; None where one side lacks the name."""
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            yield name, then.get(name), now.get(name)


def _flat(defined: Mapping[str, Any]) -> dict[str, Any]:
    """All but the axes, with a name for each field of the parts."""
    found: dict[str, Any] = {}
    for name, value in defined.items():
        if name in ("base", "budget", "resources"):
            found |= {f"{name}.{field}": each for field, each in value.items()}
        elif name != "axes":
            found[name] = value
    return found


def _fixed(axis: Mapping[str, Any]) -> tuple[Any, ...]:
    """What Optuna does not let differ between trials."""
    attributes = axis["attributes"]
    return axis["name"], attributes.get("log"), attributes.get("choices")


def _told(axis: Mapping[str, Any]) -> str:
    return str(json_to_distribution(json.dumps(axis)))
