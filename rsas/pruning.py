"""A configuration -> its pruning method, its target, and the fields that do nothing in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from typing import Any

from rsas.config import TrainConfig
from rsas.sparse import (
    GradualPruning,
    NoisePruning,
    PruningMethod,
    PublishedNoise,
    PublishedPruning,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    StaticPruning,
    Target,
)

__all__ = ["acting", "acting_key", "idle", "method_of", "target_of"]

_METHODS: types.MappingProxyType[str, type[PruningMethod]] = types.MappingProxyType(
    {
        "static": StaticPruning,
        "set": SetPruning,
        "rigl": RigLPruning,
        "gmp": GradualPruning,
        "reinforced": ReinforcedPruning,
        "noise": NoisePruning,
    }
)
_PUBLISHED: types.MappingProxyType[str, type[PruningMethod]] = types.MappingProxyType(
    {"reinforced": PublishedPruning, "noise": PublishedNoise}
)
"""The same with the options of the published algorithm."""


def method_of(config: TrainConfig) -> PruningMethod | None:
    """The method a configuration names, with its options; None for dense training."""
    kind = _METHODS.get(config.method)
    if config.update_clock != "training" or config.budget != "exact" or config.count_first_loss:
        kind = _PUBLISHED.get(config.method, kind)
    return None if kind is None else kind(**{name: getattr(config, name) for name in _names(kind)})


def target_of(config: TrainConfig) -> Target:
    """The sparsity a configuration asks for, and of which layers."""
    options = {name: getattr(config, name) for name in _names(Target)}
    return Target(**options | {"layer_densities": dict(config.layer_densities)})


def acting(config: TrainConfig) -> dict[str, Any]:
    """The fields that make the run what it is: two runs that share them are the same."""
    without = idle(config)
    return {name: value for name, value in config.to_dict().items() if name not in without}


def acting_key(config: TrainConfig) -> str:
    """Hexadecimal digits that two configurations share when their runs are the same."""
    text = json.dumps(acting(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def idle(config: TrainConfig) -> dict[str, str]:
    """The fields that do nothing in this run, given the others -> why."""
    rules = _rules(config)
    if config.method in ("reinforced", "noise"):
        rules += _rules_of_reinforced(config)
    found: dict[str, str] = {}
    for holds, names, reason in rules:
        if holds:
            found |= {name: reason for name in names if name not in found}
    return found


_Rule = tuple[bool, set[str], str]
"""Whether it holds, the fields that then do nothing, and why."""


def _rules(config: TrainConfig) -> list[_Rule]:
    method, used = config.method, _used_by(config.method)
    every = _names(Target).union(*map(_used_by, _METHODS))
    return [
        (config.optimizer == "adam", {"momentum"}, "optimizer='adam' has its own"),
        (config.model != "mlp", {"hidden"}, f"model={config.model!r} is no mlp"),
        (True, every - used, f"method={method!r} has no use for it"),
        (config.sparsity == 0, used - {"sparsity"}, "sparsity=0 switches nothing off"),
        (
            config.distribution != "map",
            {"layer_densities"},
            f"distribution={config.distribution!r} is no map",
        ),
        (
            method in ("set", "rigl") and config.drop_fraction == 0,
            {"update_interval", "update_stop", "grow_steps"},
            "drop_fraction=0 replaces nothing",
        ),
    ]


def _rules_of_reinforced(config: TrainConfig) -> list[_Rule]:
    start, end = config.exploration_start, config.exploration_end
    constant = config.exploration == "constant"
    nothing = start == 0 and (constant or end == 0)
    return [
        (
            config.measure_update == "accumulate",
            {"measure_lr"},
            "measure_update='accumulate' makes all values proportional to it, and ranks decide",
        ),
        (
            config.credit == "global",
            {"attribution", "credit_steps"},
            "credit='global' gives one reward to all weights",
        ),
        (
            config.credit == "per_weight",
            {"paired", "count_first_loss"},
            "credit='per_weight' has rewards from gradients",
        ),
        (config.paired, {"count_first_loss"}, "paired=true takes both losses at one step"),
        (config.budget == "overshoot", {"exploration_draw"}, "budget='overshoot' draws uniformly"),
        (constant, {"exploration_end"}, "exploration='constant' stays at its start"),
        (not constant and start == end, {"exploration"}, "exploration ends where it starts"),
        (nothing, {"exploration_draw"}, "nothing is explored"),
        (
            config.regrow != "gradient"
            and (config.exploration_draw == "uniform" or config.budget == "overshoot" or nothing),
            {"exploration_steps"},
            "nothing is explored or regrown by gradients",
        ),
        (config.regrow != "gradient", {"regrow_scale"}, f"regrow={config.regrow!r} has no scale"),
    ]


def _used_by(method: str) -> set[str]:
    """Options a method reads. Dense training has none; a narrow dense network has a size."""
    if method == "small_dense":
        return {"sparsity", "include", "exclude"}
    kind = _PUBLISHED.get(method, _METHODS.get(method))
    return set() if kind is None else _names(Target) | _names(kind)


def _names(kind: type[PruningMethod | Target]) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)}
