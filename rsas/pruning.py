"""The pruning method and target of a configuration, and its fields that have no effect."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rsas.config import Pruning, TrainConfig
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

__all__ = ["effective_fields", "effective_key", "method_of", "target_of", "unused_fields"]

_METHODS: Mapping[str, type[PruningMethod]] = {
    "static": StaticPruning,
    "set": SetPruning,
    "rigl": RigLPruning,
    "gmp": GradualPruning,
    "reinforced": ReinforcedPruning,
    "noise": NoisePruning,
}
_PUBLISHED: Mapping[str, type[PruningMethod]] = {
    "reinforced": PublishedPruning,
    "noise": PublishedNoise,
}
"""The same methods with the options of the published algorithm."""


def method_of(config: Pruning) -> PruningMethod | None:
    """Return the method that a configuration names, with its options; None for dense training."""
    kind = _METHODS.get(config.method)
    if config.update_clock != "training" or config.budget != "exact" or config.count_first_loss:
        kind = _PUBLISHED.get(config.method, kind)
    return None if kind is None else kind(**{name: getattr(config, name) for name in _names(kind)})


def target_of(config: Pruning) -> Target:
    """Return the sparsity that a configuration asks for, and of which layers."""
    options = {name: getattr(config, name) for name in _names(Target)}
    return Target(**options | {"layer_densities": dict(config.layer_densities)})


def effective_fields(config: Pruning) -> dict[str, Any]:
    """Return the fields that have an effect: two runs that share them are the same."""
    without = unused_fields(config)
    return {name: value for name, value in config.to_dict().items() if name not in without}


def effective_key(config: Pruning) -> str:
    """Return hexadecimal digits that two configurations share when their runs are the same."""
    text = json.dumps(effective_fields(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unused_fields(config: Pruning) -> dict[str, str]:
    """Return the fields that have no effect on this run, each with the first reason for that."""
    reasons: dict[str, str] = {}
    for holds, names, reason in _rules(config):
        if holds:
            reasons = dict.fromkeys(names, reason) | reasons
    return reasons


def _rules(config: Pruning) -> Iterator[tuple[bool, Iterable[str], str]]:
    """Yield conditions, the fields that then have no effect, and the reason."""
    method, used = config.method, _used_by(config.method)
    unused = _names(Target).union(*map(_used_by, _METHODS)) - used
    if isinstance(config, TrainConfig):
        yield from _training_rules(config)
    yield True, unused, f"method={method!r} has no use for it"
    yield config.sparsity == 0, used - {"sparsity"}, "sparsity=0 switches nothing off"
    by_map = config.distribution == "map"
    yield not by_map, ["layer_densities"], f"distribution={config.distribution!r} has no use for it"
    yield method == "gmp", ["first_mask"], "method='gmp' begins dense"
    if method in ("set", "rigl"):
        options = ["update_interval", "update_stop", "grow_steps"]
        yield config.drop_fraction == 0, options, "drop_fraction=0 replaces nothing"
    # Of reinforced and noise; for other methods these options are among the unused ones.
    accumulates, per_weight = config.measure_update == "accumulate", config.credit == "per_weight"
    proportional = "measure_update='accumulate' makes all values proportional to it"
    yield accumulates, ["measure_lr"], proportional
    yield not per_weight, ["attribution", "credit_steps"], "credit='global' has the same for all"
    yield per_weight, ["paired", "count_first_loss"], "credit='per_weight' uses gradients"
    yield config.paired, ["count_first_loss"], "paired=true takes both losses at one step"
    overshoots = config.budget == "overshoot"
    yield overshoots, ["exploration_draw"], "budget='overshoot' draws uniformly"
    start, end = config.exploration_start, config.exploration_end
    constant = config.exploration == "constant"
    yield constant, ["exploration_end"], "exploration='constant' stays at its start"
    yield not constant and start == end, ["exploration"], "exploration ends where it starts"
    nothing = start == 0 and (constant or end == 0)
    yield nothing, ["exploration_draw"], "nothing is explored"
    regrows = config.regrow == "gradient"
    gathers = regrows or not (config.exploration_draw == "uniform" or overshoots or nothing)
    yield not gathers, ["exploration_steps"], "nothing is explored or regrown by gradients"
    yield not regrows, ["regrow_scale"], f"regrow={config.regrow!r} has no scale"


def _training_rules(config: TrainConfig) -> Iterator[tuple[bool, Iterable[str], str]]:
    """Yield the rules, as ``_rules`` does, for the fields that are not of pruning."""
    optimizer, schedule = f"optimizer={config.optimizer!r}", f"lr_schedule={config.lr_schedule!r}"
    yield config.optimizer != "sgd", ["momentum", "nesterov"], f"{optimizer} has its own"
    yield config.momentum == 0, ["nesterov"], "momentum=0 has no Nesterov variant"
    yield config.weight_decay == 0, ["decay"], "weight_decay=0 decays nothing"
    steps = config.lr_schedule == "multi_step"
    yield not steps, ["milestones", "gamma"], f"{schedule} has no use for it"
    average = f"average={config.average!r} has no use for it"
    yield config.average != "ema", ["average_decay"], average
    yield config.average != "last", ["average_part"], average
    yield config.model != "mlp", ["hidden"], f"model={config.model!r} has no use for it"


def _used_by(method: str) -> set[str]:
    """Return the options that a method reads."""
    if method == "small_dense":
        return {"sparsity", "include", "exclude"}  # they give the number of its weights
    kind = _PUBLISHED.get(method, _METHODS.get(method))
    return set() if kind is None else _names(Target) | _names(kind)


def _names(kind: type[PruningMethod | Target]) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)}
